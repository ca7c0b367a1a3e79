"""Reading SWEEP.toml: everything is checked before any work."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import WithJsonSchema

from gaincell.chips.design import Design
from gaincell.chips.design_file import load_design, name_after
from gaincell.chips.fields import where_drawn
from gaincell.costs.technology import load_technology
from gaincell.errors import GaincellError, InputError
from gaincell.evaluation.perplexity import window_and_stride
from gaincell.files import read_toml
from gaincell.integrations.hf.context import LONGEST_BLOCK
from gaincell.integrations.hf.size import model_size, saved_design
from gaincell.mapping.load_hardware import find_shipped
from gaincell.quantity import did_you_mean, one_of
from gaincell.resources import resolve
from gaincell.schema import Json, either, parse, table
from gaincell.sweeps import space
from gaincell.sweeps.settings import ACTIVITY_BLOCKS, LEARNING, OBJECTIVES, Sweep
from gaincell.text import open_text

FILE = table(
    Sweep,
    needed=("model", "objectives", "parameters"),
    without=("name",),
    design=either(str, Json),
    objectives=list[str],
    parameters=Json,
    adapt=Annotated[Any, WithJsonSchema({"enum": [True, False, "chip"]})],  # checked as a parameter
    start=list[Json],
)
"""What a sweep's file holds; what parameters take, see space.py."""
TRAINING = ("loss", "learning_rate", "scale_learning_rate")
"""What only a fine-tuning uses."""


def load_sweep(path: Path) -> Sweep:
    """Read a sweep file.

    Raises:
        InputError: it is missing or no TOML; a key, parameter or objective is unknown, missing or of a wrong
            type; a range is empty; objectives or settings exclude each other; model or text are not there.
    """
    try:
        raw = read_toml(resolve(path))
    except (OSError, ValueError) as error:
        raise InputError(f"the sweep {path.name} cannot be read: {error}") from error
    try:
        return _sweep(raw, path)
    except GaincellError as error:
        raise InputError(str(error) if path.name in str(error) else f"{path.name}: {error}") from error


def _sweep(raw: Mapping[str, Any], path: Path) -> Sweep:
    settings = parse(FILE, raw, path.name)
    model = settings["model"]
    if find_shipped(model) is None and saved_design(model) is None:
        raise InputError(
            f"{model} is neither a RUN nor a model with a linear version shipped (tiny); make a RUN: "
            f"gaincell map {model}"
        )
    context = model_size(model).tokens
    settings.setdefault("protocol", f"blocks-{min(context, LONGEST_BLOCK)}")
    design = settings["design"] = _design(settings.get("design"), model)
    settings["objectives"] = _objectives(settings["objectives"])
    sampler = settings.get("sampler", Sweep.sampler)
    parameters = space.parse_parameters(settings["parameters"], design, f"{path.name} [parameters]")
    settings["parameters"] = parameters
    space.check_value("adapt", settings.get("adapt", True), design, "adapt")
    settings["points"] = _points(settings.get("points"), sampler, parameters)
    settings["start"] = _start(settings.get("start", []), sampler, parameters, design)
    found = Sweep(path.stem, **settings)
    if sampler == "each":
        found = replace(found, points=len(found.plan()))
    given = {*raw, *raw["parameters"]}
    _check_used(found, given)
    _check(found, context)
    if "calibration" in given:
        _check_calibration(found)
    return found


def _check_used(sweep: Sweep, given: set[str]) -> None:
    """Raise InputError for settings that are given in the file and change nothing."""
    objectives = set(sweep.objectives)
    used = {
        **dict.fromkeys(("text", "limit", "protocol", *space.ADAPTATION, "loss"), sweep.measures),
        "chips": bool({"perplexity", "yield"} & objectives)
        or (sweep.measures and "chip" in sweep.values_of("adapt")),
        "within": "yield" in objectives,
        "context": bool({"energy", "latency"} & objectives),
        "technology": bool({"energy", "latency", "area"} & objectives),
    }
    for key in used:
        if key in given and not used[key]:
            raise InputError(f"{key} does not change {one_of(sweep.objectives)}; leave it out")
    if "population" in given and sweep.sampler != "nsga2":
        raise InputError("population is of the sampler nsga2; leave it out")
    most = ACTIVITY_BLOCKS * window_and_stride(sweep.protocol)[0]
    if "limit" in given and not {"perplexity", "yield"} & objectives and sweep.limit > most:
        raise InputError(
            f"limit = {sweep.limit}, and the energy needs no more than {ACTIVITY_BLOCKS} blocks of "
            f"{sweep.protocol}; give {most} or less, or leave it out"
        )
    if sweep.largest("fine_tune"):
        return  # which uses the text behind that of the calibration
    if "seed" in given and sweep.sampler in ("grid", "each"):
        raise InputError(
            f"seed is of the samplers random, {one_of(LEARNING)}, and of a fine-tuning; leave it out (chips "
            "and noise are drawn by mismatch.seed and noise.seed)"
        )
    if unused := [key for key in TRAINING if key in given]:
        raise InputError(f"{unused[0]} is of a fine-tuning; give fine_tune = 24 too, or leave it out")
    if "calibration" in given and not any(sweep.values_of("adapt")):
        raise InputError("calibration is of an adaptation; give adapt = true too, or leave it out")


def _check_calibration(sweep: Sweep) -> None:
    """Raise InputError for tokens of the adaptation that are no whole blocks."""
    length, _ = window_and_stride(sweep.protocol)
    varied = next((p for p in sweep.parameters if p.name == "calibration"), None)
    tokens = (sweep.calibration,) if varied is None else varied.values or (varied.low, varied.step or 1)
    if any(number % length for number in tokens):
        raise InputError(
            f"calibration = {sweep.calibration if varied is None else varied.describe()}, and the adaptation "
            f"reads whole blocks of {sweep.protocol}; give multiples of {length}"
        )


def _check(sweep: Sweep, context: int) -> None:
    """What excludes each other, and what is not there, by the model's context."""
    load_technology(sweep.technology)
    length, _ = window_and_stride(sweep.protocol)
    if sweep.measures and length > context:
        raise InputError(
            f"protocol {sweep.protocol}: {Path(sweep.model).name} has a context of {context} positions; give "
            f"{context} tokens or fewer"
        )
    if sweep.measures and sweep.limit < length:
        raise InputError(
            f"limit = {sweep.limit} is less than one block of {sweep.protocol}; give {length} or more"
        )
    if sweep.measures:
        open_text(sweep.text)
    alike = f"all chips of {sweep.design.name!r} are alike; give a parameter mismatch.current_offset_std"
    if "yield" in sweep.objectives and not sweep.chips:
        raise InputError("the objective yield needs chips; give chips = 8, for instance")
    if "yield" in sweep.objectives and not sweep.spread:
        raise InputError(f"yield, but {alike}, or a design with a spread in {where_drawn('chip')}")
    if sweep.chips and not sweep.spread and not sweep.noisy:
        raise InputError(
            f"chips = {sweep.chips}, but {alike} or noise.output_std, or a design with a spread in "
            f"{where_drawn('chip', 'operation')}"
        )
    if "chip" in sweep.values_of("adapt") and not sweep.chips:
        raise InputError('adapt = "chip" adapts every chip; give chips = 4, for instance')
    if sweep.start and sweep.points < 1 + len(sweep.start):
        raise InputError(f"points = {sweep.points} for {len(sweep.start)} of start; give more")
    first = sweep.plan()[: 1 + len(sweep.start)] if sweep.start else []
    for n, values in enumerate(first):
        if values in first[:n]:
            raise InputError(
                f"start: entry {n} is the unchanged design, which comes first, or another entry again; leave "
                "it out"
            )
    if sweep.sampler not in LEARNING and all(reasons := sweep.possible()):
        raise InputError(f"no point is possible: {reasons[0]}")


def _start(
    raw: list[Json], sampler: str, parameters: tuple[space.Parameter, ...], design: Design
) -> tuple[dict[str, Any], ...]:
    """Points to begin with: lists of values that parameters have."""
    if raw and sampler not in LEARNING:
        raise InputError(f"start is of the samplers {one_of(LEARNING)}; leave it out")
    ours = {p.name: p for p in parameters}
    found = tuple(_fixed(one, design, "start") for one in raw)
    for key, value in (item for one in found for item in one.items()):
        if key not in ours or not ours[key].holds(value):
            raise InputError(
                f"start: {key} = {space.shown(value)} is none of the points; allowed: "
                + (ours[key].describe() if key in ours else f"values of {one_of(ours)}")
            )
    return found


def _fixed(raw: Mapping[str, Any], design: Design, where: str) -> dict[str, Any]:
    """Single values of parameters, checked as choices of one."""
    listed = {k: {i: [v] for i, v in e.items()} if isinstance(e, dict) else [e] for k, e in raw.items()}
    return {p.name: p.values[0] for p in space.parse_parameters(listed, design, where)}


def _design(raw: Any, model: str) -> Design:
    if raw is None:
        design = saved_design(model)
        if design is None:
            raise InputError("the file lacks 'design'; only a RUN brings its own")
        return design
    if isinstance(raw, str):
        return load_design(raw)
    if not isinstance(raw.get("name"), str):
        raise InputError(f"design = {raw!r}; allowed: a design, or a table with its name and values")
    design, others = load_design(raw["name"]), {key: entry for key, entry in raw.items() if key != "name"}
    values = _fixed(others, design, "design") if others else {}
    if misplaced := [name for name in values if name in space.ADAPTATION]:
        raise InputError(f"design: {misplaced[0]} is not of a design; write it beside design")
    changed = [name for name, value in values.items() if value != space.value_in(design, name)]
    return space.applied(design.replace(name=name_after(design, changed)), values)


def _objectives(raw: list[str]) -> tuple[str, ...]:
    """Names, each once; a direction before a name must be its own."""
    if not raw:
        raise InputError(f"objectives = {raw!r}; allowed: a list of {one_of(OBJECTIVES)}")
    found: list[str] = []
    for item in raw:
        direction, _, objective = item.rpartition(" ")
        if objective not in OBJECTIVES:
            hint = did_you_mean(objective, OBJECTIVES)
            raise InputError(f"unknown objective {item!r}{hint}; allowed: {one_of(OBJECTIVES)}")
        own = OBJECTIVES[objective][0]
        if direction not in ("", own, own.replace("s", "z")):
            raise InputError(f"conflicting objective {item!r}: {objective} is {own}d; leave it out")
        if objective in found:
            raise InputError(f"conflicting objectives: {objective} stands there twice")
        found.append(objective)
    return tuple(found)


def _points(points: int | None, sampler: str, parameters: tuple[space.Parameter, ...]) -> int:
    """How many; of "each" the most, since the design's own values count once."""
    if sampler in ("random", *LEARNING):
        if points is None:
            raise InputError(f"the sampler {sampler} needs points; give points = 64, for instance")
        size = points
    elif sampler == "each":
        if points is not None:
            raise InputError(f"points = {points}; the sampler each has its own number, leave it out")
        size = sum(len(parameter.grid()) for parameter in parameters) + 1
    else:
        size = math.prod(len(parameter.grid()) for parameter in parameters)
    if size > space.LARGEST_GRID:
        raise InputError(
            f"the sweep has {size:,} points; allowed: up to {space.LARGEST_GRID:,}; take fewer values, or "
            "the sampler random"
        )
    if points not in (None, size):
        raise InputError(f"points = {points}, but the grid has {size}; leave points out")
    return size
