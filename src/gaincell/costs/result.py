"""Everything about the costs of a model as one result file: what `gaincell cost --json` writes.

Numbers of the paper and of makers are "cited"; everything bottom-up is "simulated": computed by a model of
the hardware, whose own numbers may be "assumed".
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from itertools import product

from gaincell.arrays.refresh import Refresh
from gaincell.chips.design import Design
from gaincell.chips.design_file import load_design
from gaincell.costs import digital, memory_alternatives, simulated, sweep
from gaincell.costs.activity import Activity
from gaincell.costs.area import variants
from gaincell.costs.cited import DIGITAL, FIRST, SECOND, WRITE, paper
from gaincell.costs.gpus import compared, printed, stated
from gaincell.costs.head import Head
from gaincell.costs.notes import beyond_positions, left_out, of_head, of_other_chip, of_write
from gaincell.costs.roll_up import LEAKAGE, HeadCost, ModelCost, mean_head, of_model
from gaincell.costs.sensitivity import sensitivity
from gaincell.costs.size import ModelSize
from gaincell.costs.technology import Technology
from gaincell.costs.whole_model import arrangements
from gaincell.errors import InputError
from gaincell.results import cost as results
from gaincell.results import provenance, system_cost
from gaincell.results.codec import to_json
from gaincell.results.common import Value, Values
from gaincell.results.description import kind_of_number
from gaincell.results.rtl import RtlResult
from gaincell.results.spice import EnergyResult, WriteResult
from gaincell.results.system_cost import NO_WHOLE_MODEL

OXIDES = ("leroux2025-oxide", "oxide-2t", "ito", "igzo")
"""Shipped designs with oxide write transistors."""
DIGITAL_PHASES = {
    "scaling of q": "scale inputs",
    "scaling of k, v": "scale inputs",
    "query pulses": "key read",
    "counters": "count",
    "adder tree": "add",
    "adder registers": "add",
    "scaling of the output": "scale output",
}
"""Digital parts that belong to a phase of the schedule."""


def answer(
    size: ModelSize,
    design: Design,
    technology: Technology,
    command: Sequence[str],
    *,
    activity: Activity | None = None,
    context: int | None = None,
    batch: int = 1,
    refresh: Refresh | None = None,
    layers: int = 1,
    spice: EnergyResult | None = None,
    rtl: RtlResult | None = None,
    write: WriteResult | None = None,
    measured: Sequence[system_cost.Measured] = (),
    gpu: str = "h100",
    inputs: Mapping[str, str] | None = None,
) -> results.CostResult:
    """The result of `gaincell cost`.

    `activity` None is assumed; `context` are tokens so far, None for a full ring, and a model's own sliding
    window gates what is older; `batch` sequences take turns; `layers` of cells are stacked in 3D.
    `spice`, `rtl` and `write` are other sources for the arrays, the digital part and the write; `measured`
    are machines to compare with, besides the published ones; `gpu`, of gpus.toml, is for the whole model and
    the cache; `inputs` has the hashes of files that were given, by name.

    Raises:
        InputError: the activity is that of a model of other layers or heads.
    """
    chip, used = design.replace(layers=size.layers), activity or Activity.assumed(design)
    _check_heads(used, size)
    ring, beside = context or chip.window, size.seen(context or min(size.tokens, chip.window))
    model = of_model(size, chip, technology, used, context=ring, batch=batch, refresh=refresh, layers=layers)
    mean = mean_head(size, chip, technology, used, ring, refresh, layers)
    head, others = mean.head, stated()[gpu]
    arrays = None if spice is None else simulated.arrays(mean, spice)
    measured_on = {} if used.is_assumed else {"activity": provenance.hash_of([json.dumps(to_json(used))])}
    machines = [*compared(size.heads, size.kv_heads, size.head_dim, round(head.columns)), *measured]
    return results.CostResult(
        model=_sizes(size),
        design=results.CostedChip(chip.name, chip.hash, chip.cell.name, chip.v_max),
        technology=_technology(technology),
        gpu=others.title,
        gpu_context=beside,
        activity=used,
        head=replace(
            _head(mean),
            spice=arrays,
            rtl=None if rtl is None else simulated.digital(mean, rtl),
            write=None if write is None else simulated.writes(mean, write),
        ),
        areas=_areas(mean),
        model_cost=_attention(model),
        machines=comparison(mean, size.heads, machines),
        printed=printed(),
        whole_model=arrangements(model, others, beside),
        retention_times=_retention_times(),
        why=memory_alternatives.memory_alternatives(
            mean, memory_alternatives.cache_cost(size, others, context or size.tokens)
        ),
        sensitivity=tuple(sensitivity(head)),
        sweeps=_sweeps(head),
        left_out=tuple(left_out(head)),
        notes=(
            *(() if size.linear_weights else (NO_WHOLE_MODEL,)),
            *beyond_positions(size, max(ring, chip.window)),
            *of_head(mean, size, chip, used, arrays, rtl),
            *of_other_chip(design, spice, write, rtl),
            *of_write(head, write),
        ),
        provenance=provenance.made(
            command=command,
            seed=0,
            protocol=f"cited and bottom-up costs of one token; activity: {used.source}",
            design_hash=chip.hash,
            inputs={**measured_on, **(inputs or {})},
        ),
    )


def _sizes(size: ModelSize) -> results.CostedModel:
    same = (getattr(size, field.name) for field in fields(results.CostedModel)[1:])
    return replace(results.CostedModel(size.title, *same), linear_weights=size.linear_weights or None)


def _check_heads(activity: Activity, size: ModelSize) -> None:
    """Raise InputError for an activity that is not one of every query head of the model."""
    found = sorted((head.layer, head.head) for head in activity.heads)
    if not activity.is_assumed and found != list(product(range(size.layers), range(size.heads))):
        raise InputError(
            f"the activity measured on {activity.source} has {len(found)} heads, and not the {size.heads} of "
            f"each of the {size.layers} layers of {size.title}; give one of this model"
        )


def _technology(found: Technology) -> results.Process:
    """A process with all its numbers, and which of them are assumed."""
    numbers = {}
    for key, number in found.provenance.items():
        value = getattr(found, key)
        numbers[key] = Value(value, number.unit, kind_of_number(number), number.note or number.source)
    return results.Process(found.name, found.description, numbers)


def _head(found: HeadCost) -> results.CostedHead:
    stated, own, h = found.cited, found.bottom_up, found.head
    return results.CostedHead(
        group=h.group,
        context=h.columns,
        window=h.design.window,
        tiles=h.design.tiles,
        head_dim=h.head_dim,
        cells=h.cells,
        lines=tuple(_line(found, line) for line in found.lines),
        cited=results.CitedCost(stated.energy, stated.latency, stated.area),
        bottom_up=results.BottomUp(own.energy, own.latency, own.area, own.power),
        area={name: part.area for name, part in found.area.parts.items()},
        phases=tuple(phases(found)),
    )


def phases(found: HeadCost) -> list[results.PhaseCost]:
    """The phases of a step with one query head, bottom-up; their energies add up to that of the head without
    the leakage in the rest of its token period.

    What no phase draws (registers, control, clock, routing, leakage, a division) is spread over the step.
    """
    step, parts = found.head.found_schedule(1).step, found.bottom_up.parts
    energies = {event.phase.name: 0.0 for event in step}
    energies["key write"] = energies["value write"] = parts[WRITE].energy / 2
    energies["key read"] += parts[FIRST].energy
    energies["value read"] += parts[SECOND].energy
    for part, phase in DIGITAL_PHASES.items():
        energies[phase] += parts[DIGITAL].parts[part].energy
    rows = [results.PhaseCost(e.phase.name, e.start, e.phase.duration, energies[e.phase.name]) for e in step]
    end, idle = max(event.end for event in step), parts[LEAKAGE].energy
    left = found.bottom_up.energy - sum(energies.values()) - idle * (1 - end / found.head.design.token_period)
    return [*rows, results.PhaseCost("throughout", 0.0, end, left)]


def _areas(found: HeadCost) -> results.Areas:
    p = paper()
    return results.Areas(
        layers=found.head.layers,
        cells_cited=p.cell_area * found.head.cells,
        cells=found.area.parts["cells"].area,
        crossbar_cited=p.crossbar_area,
        stack_cited=p.stack_area / found.head.layers,
        head_cited=found.cited.area,
        head=found.area.area,
        head_factor=found.area.area / found.cited.area,
        variants=tuple(variants(found.head)),
    )


def _attention(found: ModelCost) -> results.CostOfAttention:
    latency, area = found.latency, found.area
    heads = ((one.head.activity, one.bottom_up.energy) for one in found.heads)
    return results.CostOfAttention(
        batch=found.batch,
        cited=results.CitedCost(found.energy_cited, latency[0], area[0]),
        bottom_up=results.BottomUp(found.energy_bottom_up, latency[1], area[1]),
        throughput=found.throughput,
        heads=tuple(results.HeadEnergy(one.layer, one.head, energy) for one, energy in heads),
    )


def comparison(
    found: HeadCost, heads: int, measured: Sequence[system_cost.Measured]
) -> tuple[system_cost.Machine, ...]:
    """Machines against `heads` query heads in gain cells, which work side by side; no ratio where a size
    differs, none of latency where the time of a batch was measured.
    """
    sizes = (heads, heads // found.head.group, found.head.head_dim, round(found.head.columns))
    rows = []
    for machine in measured:
        energy = machine.energy if machine.sizes == sizes else None
        timed = machine.sizes == sizes and (machine.kind != "measured" or machine.batch == 1)
        latency = machine.latency if timed else None  # both are above 0 where they are stated
        rows.append(
            system_cost.Machine(
                **vars(machine),
                latency_over_cited=latency and latency / found.cited.latency,
                latency_over_bottom_up=latency and latency / found.bottom_up.latency,
                energy_over_cited=energy and energy / (heads * found.cited.energy),
                energy_over_bottom_up=energy and energy / (heads * found.bottom_up.energy),
            )
        )
    return tuple(rows)


def _retention_times() -> dict[str, Value]:
    """Of the shipped designs with oxide write transistors."""
    found = {name: load_design(name).retention_time for name in OXIDES}
    return {name: Value(tau, "s", "cited", f"gaincell design show {name}") for name, tau in found.items()}  # type: ignore[arg-type]


def _sweeps(head: Head) -> dict[str, results.CostSweep]:
    """Every sweep as columns of numbers."""
    found = {}
    for name, (title, unit, run) in sweep.SWEEPS.items():
        points = run(head)
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


def _line(found: HeadCost, line: results.Block) -> results.Block:
    """A block with what it does, and what could be behind its factor."""
    counted = digital.operations(found.head, math.sqrt(found.area.area)) if line.name == DIGITAL else {}
    operations = {
        name: results.Operation(Value(one.count, one.unit, "simulated"), one.each)
        for name, one in counted.items()
    }
    explanation = None if line.cited is None else found.explain(line)
    return replace(line, operations=operations or None, explanation=explanation)
