"""Costs as the parts of a result file: every number with unit and kind.

Numbers of the paper and of makers are "cited"; everything bottom-up is "simulated": computed by a model of
the hardware. What was assumed is said in words beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gaincell.config import load_design
from gaincell.costs import digital, motivation, phases, retention, sweep
from gaincell.costs.activity import Activity
from gaincell.costs.area import Variant, variants
from gaincell.costs.cited import DIGITAL, FIRST, SECOND, WRITE, paper
from gaincell.costs.cost import Cost
from gaincell.costs.gpus import CITED, Measured, printed, ratio
from gaincell.costs.head import Head
from gaincell.costs.left_out import left_out, of_chip
from gaincell.costs.roll_up import HeadCost, Line, ModelCost
from gaincell.costs.rtl_file import RtlEnergy
from gaincell.costs.sensitivity import Change
from gaincell.costs.size import ModelSize
from gaincell.costs.spice_file import SpiceEnergy
from gaincell.costs.technology import Technology
from gaincell.costs.whole_model import Arrangement
from gaincell.costs.write_file import WriteEnergy
from gaincell.design import Design
from gaincell.reports.results import Json, value
from gaincell.units import Joule

SPICE_KEYS = {FIRST: "first", SECOND: "second"}
"""Blocks of which SPICE energies exist, and their keys."""
OXIDES = ("leroux2025-oxide", "oxide-2t", "ito", "igzo")
"""Shipped designs with oxide write transistors."""
UNITS = {"energy": "J", "latency": "s", "area": "m^2", "power": "W"}


def size(found: ModelSize) -> Json:
    """A model."""
    keys = ("layers", "heads", "kv_heads", "head_dim", "hidden", "linear_weights", "vocabulary", "tokens")
    entry: Json = {"name": found.title, "source": found.source}
    return entry | {key: value(getattr(found, key), "1", "measured") for key in keys}


def technology(found: Technology) -> Json:
    """A process with all its numbers, and which of them are assumed."""
    numbers = {}
    for key, quantity in found.provenance.items():
        cited = quantity.source in ("L", "M", "R", "S")
        unit = quantity.unit
        numbers[key] = value(
            quantity.value, unit, "cited" if cited else "simulated", quantity.note or quantity.source
        )
    return {"name": found.name, "description": found.description, "numbers": numbers}


def head(
    found: HeadCost,
    spice: SpiceEnergy | None = None,
    rtl: RtlEnergy | None = None,
    write: WriteEnergy | None = None,
) -> Json:
    """One query head, one token. spice, rtl, write: other sources, beside the formulas."""
    entry: Json = {
        "group": value(found.head.group, "1", "simulated"),
        "context": value(found.head.columns, "columns", "simulated"),
        "window": value(found.head.design.window, "columns", "simulated"),
        "tiles": value(found.head.design.tiles, "1", "simulated"),
        "head_dim": value(found.head.head_dim, "1", "simulated"),
        "cells": value(found.head.cells, "1", "simulated"),
        "lines": [_line(found, line) for line in found.lines],
        "cited": _cited(found.cited),
        "bottom_up": _simulated(found.bottom_up, ("energy", "latency", "area", "power")),
        "area": {name: value(part.area, "m^2", "simulated") for name, part in found.area.parts.items()},
        "phases": [
            {
                "name": phase.name,
                "start": value(phase.start, "s", "simulated"),
                "duration": value(phase.duration, "s", "simulated"),
                "energy": value(phase.energy, "J", "simulated"),
            }
            for phase in phases.phases(found)
        ],
    }
    if spice is not None:
        entry["spice"] = _spice(found, spice)
    if rtl is not None:
        entry["rtl"] = _rtl(found, rtl)
    if write is not None:
        entry["write"] = {
            "technology": write.technology,
            "dacs": {kind: _beside(found, WRITE, joule) for kind, joule in write.of_head(found.head).items()},
        }
    return entry


def _beside(found: HeadCost, block: str, energy: Joule) -> Json:
    """Energy of a block from another source, against the same cited one and band."""
    line = next(line for line in found.lines if line.name == block)
    line = replace(line, bottom_up=Cost(energy=energy))
    entry: Json = {"energy": value(energy, "J", "simulated")}
    if line.factor is not None and line.band is not None:
        entry["factor"] = value(line.factor, "1", "simulated")
        entry["band"] = value(line.band, "1", "simulated")
        entry["inside"] = bool(line.inside)
    return entry


def _rtl(found: HeadCost, rtl: RtlEnergy) -> Json:
    """Energy of the synthesised digital part, with the formula's routing, beside the cited one."""
    line = next(line for line in found.lines if line.name == DIGITAL)
    energy = rtl.of_head(found.head) + line.bottom_up.parts["routing"].energy
    return {
        "inputs": rtl.inputs,
        "technology": rtl.technology,
        "columns": value(rtl.columns, "columns", "simulated"),
    } | _beside(found, DIGITAL, energy)


def _spice(found: HeadCost, spice: SpiceEnergy) -> Json:
    """Simulated energies of both dot products beside the cited ones."""
    entry: Json = {"inputs": spice.inputs, "readout": spice.readout, "technology": spice.technology}
    for line, pulse in zip(spice_lines(found, spice), (spice.first_pulse, spice.second_pulse), strict=True):
        key = SPICE_KEYS[line.name]
        entry[key] = value(line.bottom_up.energy, "J", "simulated")
        entry[f"{key}_pulse"] = value(pulse, "1", "simulated")
        if line.factor is not None and line.band is not None:
            entry[f"{key}_factor"] = value(line.factor, "1", "simulated")
            entry[f"{key}_band"] = value(line.band, "1", "simulated")
            entry[f"{key}_inside"] = bool(line.inside)
    return entry


def spice_lines(found: HeadCost, spice: SpiceEnergy) -> tuple[Line, Line]:
    """Both dot products with simulated energies, against the same cited ones and bands."""
    lines = {line.name: line for line in found.lines}
    first, second = (
        replace(lines[name], bottom_up=Cost(energy=energy))
        for name, energy in zip(SPICE_KEYS, spice.of_head(found.head), strict=True)
    )
    return first, second


def areas(found: HeadCost, layers: int) -> Json:
    """Areas that the paper states, beside the bottom-up ones."""
    p, source = paper(), "Leroux et al. 2025, second-hand summary [S]"
    return {
        "layers": value(layers, "1", "simulated"),
        "cells_cited": value(p.cell_area * found.head.cells, "m^2", "cited", source),
        "cells": value(found.area.parts["cells"].area, "m^2", "simulated"),
        "crossbar_cited": value(p.crossbar_area, "m^2", "cited", source),
        "stack_cited": value(p.stack_area / layers, "m^2", "cited", source),
        "head_cited": value(found.cited.area, "m^2", "cited", source),
        "head": value(found.area.area, "m^2", "simulated"),
        "head_factor": value(found.area.area / found.cited.area, "1", "simulated"),
        "variants": [_variant(one, source) for one in variants(found.head)],
    }


def model(found: ModelCost) -> Json:
    """All attention of a model, one token."""
    latency, area = found.latency, found.area
    return {
        "batch": value(found.batch, "1", "simulated"),
        "cited": _cited(Cost(found.energy_cited, latency[0], area[0])),
        "bottom_up": _simulated(
            Cost(found.energy_bottom_up, latency[1], area[1]), ("energy", "latency", "area")
        ),
        "throughput": value(found.throughput, "tokens/s", "simulated"),
        "heads": {
            "layer": value([h.head.activity.layer for h in found.heads], "1", "simulated"),
            "head": value([h.head.activity.head for h in found.heads], "1", "simulated"),
            "energy": value([h.bottom_up.energy for h in found.heads], "J", "simulated"),
        },
    }


def comparison(found: HeadCost, heads: int, measured: Sequence[Measured]) -> list[Json]:
    """Machines against `heads` query heads in gain cells; no ratio where a size differs."""
    sizes = (heads, heads // found.head.group, found.head.head_dim, round(found.head.columns))
    rows = []
    for machine in measured:
        source = machine.source if machine.kind == "cited" else None
        kind: Any = machine.kind
        row: Json = {
            "title": machine.title,
            "source": machine.source,
            "heads": value(machine.heads, "1", kind, source),
            "kv_heads": value(machine.kv_heads, "1", kind, source),
            "head_dim": value(machine.head_dim, "1", kind, source),
            "context": value(machine.context, "tokens", kind, source),
            "latency": value(machine.latency, "s", kind, source),
        }
        if machine.energy is not None:
            row["energy"] = value(machine.energy, "J", kind, source)
        same = machine.sizes == sizes
        for column, cost in (("cited", found.cited), ("bottom_up", found.bottom_up)) if same else ():
            over = ratio(machine, cost.latency, cost.energy)
            row[f"latency_over_{column}"] = value(over.latency, "1", "simulated")
            if over.energy is not None:
                row[f"energy_over_{column}"] = value(over.energy, "1", "simulated")
        rows.append(row)
    return rows


def retention_times() -> Json:
    """Of the shipped designs with oxide write transistors."""
    found = {name: load_design(name).retention_time for name in OXIDES}
    return {name: value(tau, "s", "cited", f"gaincell design show {name}") for name, tau in found.items()}


def printed_ratios() -> Json:
    """As in the paper."""
    p = printed()
    source = "Leroux et al. 2025, second-hand summary [S]"
    return {key: value(getattr(p, key), "1", "cited", source) for key in p.provenance}


def whole_model(found: Sequence[Arrangement]) -> list[Json]:
    """Attention (cited and bottom-up), linear layers, transfers; gain over the first."""
    first = found[0].total
    rows = []
    for one in found:
        parts = {"attention": one.attention, "linear": one.linear, "transfers": one.transfers}
        row: Json = {"title": one.title, "total": _simulated(one.total, ("energy", "latency"))}
        row |= {name: _simulated(cost, ("energy", "latency")) for name, cost in parts.items()}
        row["total_cited"] = _simulated(one.total_cited, ("energy", "latency"))
        if one.cited is not None:
            row["attention_cited"] = {key: entry for key, entry in _cited(one.cited).items() if key != "area"}
        if one.held is not None:
            row["held"] = value(one.held, "s", "simulated")
        row["note"] = one.note
        for number, unit in (("energy", "1"), ("latency", "1")):
            row[f"attention_share_of_{number}"] = value(one.share(number), unit, "simulated")
            gain = getattr(first, number) / getattr(one.total, number)
            row[f"{number}_gain"] = value(gain, unit, "simulated")
            gain = getattr(first, number) / getattr(one.total_cited, number)
            row[f"{number}_gain_cited"] = value(gain, unit, "simulated")
        rows.append(row)
    return rows


def why(found: HeadCost, cache: motivation.CacheCost, stated: Sequence[motivation.StatedCache]) -> Json:
    """The motivation: cache, memories, converters."""
    chip = found.head
    stores = [motivation.in_memory(memory, chip) for memory in motivation.memories().values()]
    return {
        "cache": {
            "model": cache.size.title,
            "context": value(cache.context, "tokens", "simulated"),
            "seen": value(cache.seen, "tokens", "simulated"),
            "bytes_per_token": value(cache.per_token, "B", "simulated"),
            "bytes": value(cache.cache, "B", "simulated"),
            "floor": value(cache.floor, "s", "simulated"),
            "movement": value(cache.movement, "J", "simulated"),
            "arithmetic": value(cache.arithmetic, "J", "simulated"),
        },
        "stated_cache": [
            {
                "read_as": one.read_as,
                "bytes_per_number": value(one.bytes_per_number, "B", "simulated"),
                "grouped": one.grouped,
                "tokens": value(one.tokens, "tokens", "simulated"),
            }
            for one in stated
        ],
        "memories": [_memory(one) for one in (*stores, motivation.in_gain_cells(chip))],
        "conversions": [
            {
                "title": one.title,
                "energy": value(one.energy, "J", "simulated"),
                "area": value(one.area, "m^2", "simulated"),
            }
            for one in motivation.conversions(found)
        ],
    }


def sensitivity(changes: Sequence[Change]) -> list[Json]:
    """One row a parameter and direction."""
    return [
        {
            "parameter": change.parameter,
            "where": change.where,
            **{
                key: value(getattr(change, key), "1", "simulated")
                for key in ("factor", "energy", "latency", "area")
            },
        }
        for change in changes
    ]


def sweeps(chip: Head) -> Json:
    """Every sweep as columns of numbers."""
    found: Json = {}
    for name, (title, unit, run) in sweep.SWEEPS.items():
        points = run(chip)
        costs = [point.cost for point in points]
        found[name] = {
            "title": title,
            "at": value([point.at for point in points], unit, "simulated"),
            "energy": value([cost.bottom_up.energy for cost in costs], "J", "simulated"),
            "energy_cited": value([cost.cited.energy for cost in costs], "J", "cited", CITED),
            "latency": value([cost.bottom_up.latency for cost in costs], "s", "simulated"),
            "area": value([cost.bottom_up.area for cost in costs], "m^2", "simulated"),
            "refresh": value([point.refresh for point in points], "1", "simulated"),
            "throughput": value([point.throughput for point in points], "tokens/s", "simulated"),
        }
    return found


def missing(found: HeadCost) -> list[Json]:
    """What the bottom-up estimate leaves out."""
    return [vars(one) for one in left_out(found.head.design, found.refresh, found.head.divisions > 0)]


def notes(found: HeadCost, chip: Design, activity: Activity, spice: SpiceEnergy | None) -> list[str]:
    """What a user has to know about these numbers, in words.

    chip: as it was asked for.  activity: of all heads.  spice: another source for the arrays.
    """
    measured = found.head.activity.valid_columns
    said = [_origin(activity, chip), retention.note(found.head), _above_supply(found.head)]
    if activity.tokens and found.head.columns > 1.01 * measured:
        said.append(
            f"the activity was measured with {measured:.0f} valid columns on average; it is taken to hold "
            f"for {found.head.columns:.0f}"
        )
    if found.refresh is not None and found.refresh.kind == "reread":
        said.append(
            "refresh reread is charged as copy, a lower bound: reading the columns back is not modelled"
        )
    said += [f"{line.name} is outside its band: {found.explain(line)}" for line in found.outside]
    said += [
        f"{line.name}, SPICE, is outside its band: simulated with inputs of its own, mean pulse {pulse:.3f}"
        for line, pulse in (
            zip(spice_lines(found, spice), (spice.first_pulse, spice.second_pulse), strict=True)
            if spice is not None
            else ()
        )
        if line.inside is False
    ]
    missing = of_chip(found.head.design)
    if missing:
        said.append(f"not counted, though this chip has them: {', '.join(one.what for one in missing)}")
    return [note for note in said if note]


def _origin(activity: Activity, chip: Design) -> str:
    """That nobody measured the activity, or not on this chip."""
    if activity.is_assumed:
        return (
            "WARNING: the activity is assumed, every code equally likely; real text gives shorter and fewer "
            "pulses: give a RUN, or --activity with the file of gaincell activity --json"
        )
    if activity.design in (None, chip.hash):
        return ""
    return (
        f"the activity was measured on another chip, of hash {activity.design}, than the one that is priced, "
        f"{chip.name} of hash {chip.hash}"
    )


def _above_supply(head: Head) -> str:
    """That the cells hold more than the process supplies."""
    top, supply = head.design.v_max, head.technology.supply
    if top <= supply * (1 + 1e-9):
        return ""
    return (
        f"WARNING: the chip stores up to {top:g} V, above the supply of {supply:g} V of technology "
        f"{head.technology.name}: no write reaches it; choose a design with a narrower storage range, or a "
        "technology with a higher supply"
    )


def _line(found: HeadCost, line: Line) -> Json:
    entry: Json = {
        "name": line.name,
        "bottom_up": value(line.bottom_up.energy, "J", "simulated"),
        "parts": {n: value(p.energy, "J", "simulated") for n, p in line.bottom_up.parts.items()},
    }
    if line.name == DIGITAL:
        counted = digital.operations(found.head, math.sqrt(found.area.area))
        entry["operations"] = {
            name: {
                "count": value(one.count, one.unit, "simulated"),
                "each": value(one.each, "J", "simulated"),
            }
            for name, one in counted.items()
        }
    if line.cited is not None and line.factor is not None and line.band is not None:
        entry["cited"] = value(line.cited, "J", "cited", paper().source(line.name))
        entry["factor"] = value(line.factor, "1", "simulated")
        entry["band"] = value(line.band, "1", "simulated")
        entry["inside"] = bool(line.inside)
        entry["explanation"] = found.explain(line)
    return entry


def _variant(one: Variant, source: str) -> Json:
    entry: Json = {
        "title": one.title,
        "cell": value(one.cell, "m^2", "simulated"),
        "layers": value(one.layers, "1", "simulated"),
        "cells": value(one.cells, "m^2", "simulated"),
        "head": value(one.head, "m^2", "simulated"),
    }
    if one.cited is not None:
        entry["cited"] = value(one.cited, "m^2", "cited", source)
    return entry


def _memory(one: motivation.MemoryCost) -> Json:
    entry: Json = {
        "title": one.title,
        "area": value(one.area, "m^2", "simulated"),
        "write": value(one.write, "J", "simulated"),
        "refresh": value(one.refresh, "W", "simulated"),
    }
    if one.lifetime is not None:
        entry["lifetime"] = value(one.lifetime, "s", "simulated")
    if one.retention is not None:
        entry["retention"] = value(one.retention, "s", "simulated")
    return entry


def _cited(cost: Cost) -> Json:
    return {
        name: value(getattr(cost, name), UNITS[name], "cited", "Leroux et al. 2025, scaled by counts")
        for name in ("energy", "latency", "area")
    }


def _simulated(cost: Cost, names: Sequence[str]) -> Mapping[str, Any]:
    return {name: value(getattr(cost, name), UNITS[name], "simulated") for name in names}
