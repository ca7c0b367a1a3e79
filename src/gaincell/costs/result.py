"""Everything about the costs of a model as one result file: what `gaincell cost --json` writes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import product

from gaincell.arrays.refresh import Refresh
from gaincell.chips.design import Design
from gaincell.costs import describe, motivation, roll_up
from gaincell.costs.activity import Activity
from gaincell.costs.gpus import compared, printed, stated
from gaincell.costs.left_out import left_out
from gaincell.costs.sensitivity import sensitivity
from gaincell.costs.size import ModelSize
from gaincell.costs.technology import Technology
from gaincell.costs.whole_model import arrangements
from gaincell.errors import InputError
from gaincell.results import provenance
from gaincell.results.codec import to_json
from gaincell.results.cost import CostedChip, CostedModel, CostResult
from gaincell.results.rtl import RtlResult
from gaincell.results.spice import EnergyResult
from gaincell.results.spice_circuits import WriteResult
from gaincell.results.system_cost import Measured


@dataclass(frozen=True)
class Question:
    """What is asked.

    size, design, technology: model and chip.  activity: None: assumed.  context: tokens so far; None: a full
    ring.  batch: sequences.  refresh: policy.  layers: of cells, stacked in 3D.
    spice, rtl, write: other sources for the arrays, the digital part and the write.
    measured: machines to compare with, besides the published ones.
    gpu: of gpus.toml, for the whole model and the cache.
    """

    size: ModelSize
    design: Design
    technology: Technology
    activity: Activity | None = None
    context: int | None = None
    batch: int = 1
    refresh: Refresh | None = None
    layers: int = 1
    spice: EnergyResult | None = None
    rtl: RtlResult | None = None
    write: WriteResult | None = None
    measured: Sequence[Measured] = ()
    gpu: str = "h100"


def answer(asked: Question, command: Sequence[str]) -> CostResult:
    """The result.  command: the command line, for the provenance.

    Raises InputError: the activity is that of a model of other layers or heads.
    """
    size, chip = asked.size, asked.design.replace(layers=asked.size.layers)
    if asked.activity is not None:
        _check_heads(asked.activity, size)
    used, context = asked.activity or Activity.assumed(chip), asked.context or chip.window
    found = roll_up.of_model(
        size, chip, asked.technology, used,
        context=context, batch=asked.batch, refresh=asked.refresh, layers=asked.layers,
    )  # fmt: skip
    mean = roll_up.mean_head(size, chip, asked.technology, used, context, asked.refresh, asked.layers)
    head = describe.head(mean, asked.spice, asked.rtl, asked.write)
    gpu = stated()[asked.gpu]
    cache = motivation.cache_cost(size, gpu, asked.context or size.tokens)
    beside = asked.context or min(size.tokens, chip.window)
    seen = round(mean.head.columns)
    machines = [*compared(size.heads, size.kv_heads, size.head_dim, seen), *asked.measured]
    return CostResult(
        command="cost",
        model=CostedModel(size.title, *(getattr(size, f.name) for f in fields(CostedModel)[1:])),
        design=CostedChip(chip.name, chip.hash, chip.cell.name, chip.v_max),
        technology=describe.technology(asked.technology),
        gpu=gpu.title,
        gpu_context=beside,
        activity=used,
        head=head,
        areas=describe.areas(mean, asked.layers),
        model_cost=describe.attention(found),
        machines=describe.comparison(mean, size.heads, machines),
        printed={key: getattr(printed(), key) for key in printed().provenance},
        whole_model=arrangements(found, gpu, beside),
        retention_times=describe.retention_times(),
        why=motivation.motivation(mean, cache),
        sensitivity=tuple(sensitivity(mean.head)),
        sweeps=describe.sweeps(mean.head),
        left_out=tuple(left_out(mean.head.design, mean.refresh, mean.head.divisions > 0)),
        notes=tuple(describe.notes(mean, chip, used, head.spice)),
        provenance=provenance.made(
            command=command,
            seed=0,
            protocol=f"cited and bottom-up costs of one token; activity: {used.source}",
            design_hash=chip.hash,
            inputs={} if used.is_assumed else {"activity": provenance.hash_of([json.dumps(to_json(used))])},
        ),
    )


def _check_heads(activity: Activity, size: ModelSize) -> None:
    """Raise InputError for an activity that is not one of every query head of the model."""
    found = sorted((head.layer, head.head) for head in activity.heads)
    if not activity.is_assumed and found != list(product(range(size.layers), range(size.heads))):
        raise InputError(
            f"the activity measured on {activity.source} has {len(found)} heads, and not the {size.heads} of "
            f"each of the {size.layers} layers of {size.title}; give one of this model"
        )
