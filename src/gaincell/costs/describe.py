"""Costs as the parts of a result.

Numbers of the paper and of makers are "cited"; everything bottom-up is "simulated": computed by a model of
the hardware. What was assumed is said in words beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace

from gaincell.chips.design import Design
from gaincell.chips.design_file import load_design
from gaincell.costs import digital, motivation, phases, retention, sweep
from gaincell.costs.activity import Activity
from gaincell.costs.area import variants
from gaincell.costs.cited import DIGITAL, FIRST, SECOND, WRITE, paper
from gaincell.costs.cost import Cost
from gaincell.costs.gpus import Measured, printed, ratio
from gaincell.costs.head import Head
from gaincell.costs.left_out import of_chip
from gaincell.costs.roll_up import HeadCost, Line, ModelCost
from gaincell.costs.simulated import SimulatedArrays, SimulatedDigital, SimulatedWrites
from gaincell.costs.size import ModelSize
from gaincell.costs.technology import Technology
from gaincell.costs.whole_model import Arrangement
from gaincell.results import cost as results
from gaincell.results import system_cost
from gaincell.results.common import Value, Values
from gaincell.units import Joule

OXIDES = ("leroux2025-oxide", "oxide-2t", "ito", "igzo")
"""Shipped designs with oxide write transistors."""


def model(found: ModelSize) -> results.CostedModel:
    """A model's sizes."""
    keys = [f.name for f in fields(results.CostedModel)]
    return results.CostedModel(found.title, *(getattr(found, key) for key in keys[1:]))


def technology(found: Technology) -> results.Process:
    """A process with all its numbers, and which of them are assumed."""
    numbers = {
        key: Value(
            number.value,  # type: ignore[arg-type]
            number.unit,
            "cited" if number.source in ("L", "M", "R", "S") else "simulated",
            number.note or number.source,
        )
        for key, number in found.provenance.items()
    }
    return results.Process(found.name, found.description, numbers)


def head(
    found: HeadCost,
    spice: SimulatedArrays | None = None,
    rtl: SimulatedDigital | None = None,
    write: SimulatedWrites | None = None,
) -> results.CostedHead:
    """One query head, one token. spice, rtl, write: other sources, beside the formulas."""
    stated, own = found.cited, found.bottom_up
    return results.CostedHead(
        group=found.head.group,
        context=found.head.columns,
        window=found.head.design.window,
        tiles=found.head.design.tiles,
        head_dim=found.head.head_dim,
        cells=found.head.cells,
        lines=tuple(_line(found, line) for line in found.lines),
        cited=results.CitedCost(stated.energy, stated.latency, stated.area),
        bottom_up=results.BottomUp(own.energy, own.latency, own.area, own.power),
        area={name: part.area for name, part in found.area.parts.items()},
        phases=tuple(phases.phases(found)),
        spice=None if spice is None else _spice(found, spice),
        rtl=None if rtl is None else _rtl(found, rtl),
        write=None if write is None else _write(found, write),
    )


def _as(found: HeadCost, block: str, energy: Joule) -> Line:
    """A block with its energy from another source, against the same cited one and band."""
    line = next(line for line in found.lines if line.name == block)
    return replace(line, bottom_up=Cost(energy=energy))


def _other(line: Line) -> results.OtherEnergy:
    return results.OtherEnergy(line.bottom_up.energy, line.factor, line.band, line.inside)


def _write(found: HeadCost, write: SimulatedWrites) -> results.SpiceWrites:
    """Simulated energies of a write, by DAC."""
    dacs = write.of_head(found.head)
    shown = {kind: _other(_as(found, WRITE, joule)) for kind, joule in dacs.items()}
    return results.SpiceWrites(write.result.technology, shown)


def _rtl(found: HeadCost, rtl: SimulatedDigital) -> results.SynthesisedDigital:
    """Energy of the synthesised digital part, with the formula's routing, beside the cited one."""
    routing = next(line for line in found.lines if line.name == DIGITAL).bottom_up.parts["routing"]
    line = _as(found, DIGITAL, rtl.of_head(found.head) + routing.energy)
    of, columns = rtl.result, rtl.energy.columns
    return results.SynthesisedDigital(
        **vars(_other(line)), inputs=of.inputs, technology=of.technology, columns=columns
    )


def _spice(found: HeadCost, spice: SimulatedArrays) -> results.SpiceArrays:
    """Simulated energies of both dot products beside the cited ones."""
    first, second = spice_lines(found, spice)
    return results.SpiceArrays(
        spice.run.inputs, spice.result.readout, spice.result.technology,
        first.bottom_up.energy, spice.run.first.activity, second.bottom_up.energy, spice.run.second.activity,
        first.factor, first.band, first.inside, second.factor, second.band, second.inside,
    )  # fmt: skip


def spice_lines(found: HeadCost, spice: SimulatedArrays) -> list[Line]:
    """Both dot products with simulated energies, against the same cited ones and bands."""
    energies = spice.of_head(found.head)
    return [_as(found, name, energy) for name, energy in zip((FIRST, SECOND), energies, strict=True)]


def areas(found: HeadCost, layers: int) -> results.Areas:
    """Areas that the paper states, beside the bottom-up ones."""
    p = paper()
    return results.Areas(
        layers=layers,
        cells_cited=p.cell_area * found.head.cells,
        cells=found.area.parts["cells"].area,
        crossbar_cited=p.crossbar_area,
        stack_cited=p.stack_area / layers,
        head_cited=found.cited.area,
        head=found.area.area,
        head_factor=found.area.area / found.cited.area,
        variants=tuple(variants(found.head)),
    )


def attention(found: ModelCost) -> results.CostOfAttention:
    """All attention of a model, one token."""
    latency, area = found.latency, found.area
    heads = ((one.head.activity, one.bottom_up.energy) for one in found.heads)
    return results.CostOfAttention(
        batch=found.batch,
        cited=results.CitedCost(found.energy_cited, latency[0], area[0]),
        bottom_up=results.BottomUp(found.energy_bottom_up, latency[1], area[1]),
        throughput=found.throughput,
        heads=tuple(results.HeadEnergy(one.layer, one.head, energy) for one, energy in heads),
    )


def comparison(found: HeadCost, heads: int, measured: Sequence[Measured]) -> tuple[system_cost.Machine, ...]:
    """Machines against `heads` query heads in gain cells; no ratio where a size differs."""
    sizes = (heads, heads // found.head.group, found.head.head_dim, round(found.head.columns))
    rows = []
    for machine in measured:
        row = system_cost.Machine(**vars(machine))
        if machine.sizes == sizes:
            cited, bottom_up = (ratio(machine, c.latency, c.energy) for c in (found.cited, found.bottom_up))
            row = replace(
                row, latency_over_cited=cited.latency, latency_over_bottom_up=bottom_up.latency,
                energy_over_cited=cited.energy, energy_over_bottom_up=bottom_up.energy,
            )  # fmt: skip
        rows.append(row)
    return tuple(rows)


def retention_times() -> dict[str, Value]:
    """Of the shipped designs with oxide write transistors."""
    found = {name: load_design(name).retention_time for name in OXIDES}
    return {name: Value(tau, "s", "cited", f"gaincell design show {name}") for name, tau in found.items()}  # type: ignore[arg-type]


def printed_ratios() -> dict[str, float]:
    """As in the paper."""
    p = printed()
    return {key: getattr(p, key) for key in p.provenance}


def whole_model(found: Sequence[Arrangement]) -> tuple[system_cost.WholeModel, ...]:
    """Attention (cited and bottom-up), linear layers, transfers; gain over the first."""
    first = found[0].total

    def part(cost: Cost) -> system_cost.EnergyTime:
        return system_cost.EnergyTime(cost.energy, cost.latency)

    return tuple(
        system_cost.WholeModel(
            title=one.title,
            attention=part(one.attention),
            linear=part(one.linear),
            transfers=part(one.transfers),
            total=part(one.total),
            total_cited=part(one.total_cited),
            attention_share_of_energy=one.share("energy"),
            energy_gain=first.energy / one.total.energy,
            energy_gain_cited=first.energy / one.total_cited.energy,
            attention_share_of_latency=one.share("latency"),
            latency_gain=first.latency / one.total.latency,
            latency_gain_cited=first.latency / one.total_cited.latency,
            note=one.note,
            attention_cited=None
            if one.cited is None
            else system_cost.CitedTime(one.cited.energy, one.cited.latency),
            held=one.held,
        )
        for one in found
    )


def why(
    found: HeadCost, cache: system_cost.Cache, stated: Sequence[system_cost.StatedCache]
) -> system_cost.Motivation:
    """The motivation: cache, memories, converters."""
    stores = [motivation.in_memory(memory, found.head) for memory in motivation.memories().values()]
    memories = (*stores, motivation.in_gain_cells(found.head))
    return system_cost.Motivation(cache, tuple(stated), memories, tuple(motivation.conversions(found)))


def sweeps(chip: Head) -> dict[str, results.CostSweep]:
    """Every sweep as columns of numbers."""
    found = {}
    for name, (title, unit, run) in sweep.SWEEPS.items():
        points = run(chip)
        costs = [point.cost for point in points]
        found[name] = results.CostSweep(
            title=title,
            at=Values(tuple(point.at for point in points), unit, "simulated"),
            energy=tuple(cost.bottom_up.energy for cost in costs),
            energy_cited=tuple(cost.cited.energy for cost in costs),
            latency=tuple(cost.bottom_up.latency for cost in costs),
            area=tuple(cost.bottom_up.area for cost in costs),
            refresh=tuple(point.refresh for point in points),
            throughput=tuple(point.throughput for point in points),
        )
    return found


def notes(found: HeadCost, chip: Design, activity: Activity, spice: SimulatedArrays | None) -> list[str]:
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
    if spice is not None:
        arrays = zip(spice_lines(found, spice), (spice.run.first, spice.run.second), strict=True)
        said += [
            f"{line.name}, SPICE, is outside its band: simulated with inputs of its own, mean pulse "
            f"{array.activity:.3f}"
            for line, array in arrays
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


def _line(found: HeadCost, line: Line) -> results.Block:
    operations = None
    if line.name == DIGITAL:
        counted = digital.operations(found.head, math.sqrt(found.area.area))
        operations = {
            name: results.Operation(Value(one.count, one.unit, "simulated"), one.each)
            for name, one in counted.items()
        }
    parts = {name: part.energy for name, part in line.bottom_up.parts.items()}
    block = results.Block(line.name, line.bottom_up.energy, parts, operations)
    if line.cited is None:
        return block
    cited, why = Value(line.cited, "J", "cited", paper().source(line.name)), found.explain(line)
    return replace(
        block, cited=cited, factor=line.factor, band=line.band, inside=line.inside, explanation=why
    )
