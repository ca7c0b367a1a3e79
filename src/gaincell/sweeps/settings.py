"""SWEEP.toml: what to change, what to measure, and how to choose the points; checked before any work.

    model = "tiny"                            # with a linear version shipped, or a RUN
    design = "leroux2025"                     # or { name = ..., and values of parameters }; of a RUN: its own
    objectives = ["perplexity", "energy"]     # of perplexity, energy, latency, area, yield
    sampler = "grid"                          # grid | each | random | tpe | nsga2
    points = 64                               # of random, tpe and nsga2
    text = "sample"
    limit = 16384                             # tokens evaluated
    adapt = true                              # every point: gains and offsets, in closed form
    [parameters]                              # see space.py
    tile = [32, 64, 128]

grid: all combinations.  each: the design as it is, and every value of every parameter with the others as they
are.  random: drawn beforehand.  tpe, nsga2: Optuna's samplers, which learn from finished points.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from gaincell.circuits.converter_errors import Converters
from gaincell.config import load_design
from gaincell.costs.technology import load_technology
from gaincell.design import Design
from gaincell.errors import GaincellError, InputError
from gaincell.evaluation.perplexity import window_and_stride
from gaincell.integrations.hf.checkpoint import DESIGN, HARDWARE, is_run
from gaincell.mapping.job import find_shipped
from gaincell.quantity import check_keys, did_you_mean, one_of
from gaincell.shipped import located
from gaincell.sweeps.optional import import_optuna
from gaincell.sweeps.space import (
    ADAPTATION,
    LARGEST_GRID,
    Parameter,
    Values,
    applied,
    check_value,
    parse_parameters,
    same,
    value_in,
)
from gaincell.text import open_text

OBJECTIVES: Mapping[str, tuple[str, str]] = {
    "perplexity": ("minimise", "1"),
    "energy": ("minimise", "J"),
    "latency": ("minimise", "s"),
    "area": ("minimise", "m^2"),
    "yield": ("maximise", "1"),
}
"""Name -> direction and unit. Energy and latency are of one token, all attention of the model."""
DIRECTIONS = {"minimise": "minimise", "minimize": "minimise", "maximise": "maximise", "maximize": "maximise"}
SAMPLERS = ("grid", "each", "random", "tpe", "nsga2")
LOSSES = ("cross-entropy", "distillation")
"""Of the fine-tuning; distillation: from the model itself on the nominal chip without noise."""
LEARNING = ("tpe", "nsga2")
"""Samplers that learn from finished points."""


@dataclass(frozen=True)
class Sweep:
    """A sweep file, checked.

    name: of the file.  model: as in the file.  design: what points change.
    objectives: names of OBJECTIVES.  sampler: one of SAMPLERS.  seed: of all random choices.
    points: how many.  population: of nsga2.
    text, limit, protocol: what is evaluated, and how.  calibration: tokens of the adaptation.
    adapt: gains and offsets of every point, in closed form, to the statistics that the model has as it was
        made; True: on its nominal chip; "chip": on every single chip.
    fine_tune: steps of training after it, on other chips and noise at every pass, at `learning_rate`.
    scale_learning_rate: of gains and offsets; None: the same.  loss: one of LOSSES.
    chips: of which the perplexity is averaged; 0: the design as it is.  within: of the yield.
    context: tokens so far, of the costs; None: as measured.  technology: of the costs.
    parameters: what points differ in.
    """

    name: str
    model: str
    design: Design
    objectives: tuple[str, ...]
    sampler: str
    seed: int
    points: int
    population: int
    text: str
    limit: int
    protocol: str
    adapt: bool | str
    calibration: int
    fine_tune: int
    learning_rate: float
    scale_learning_rate: float | None
    loss: str
    chips: int
    within: float
    context: int | None
    technology: str
    parameters: tuple[Parameter, ...]

    @property
    def measures(self) -> bool:
        """Whether points need the model, not its sizes alone."""
        return bool({"perplexity", "yield", "energy"} & set(self.objectives))

    def plan(self) -> list[dict[str, Any]]:
        """Values of every point, in order; of a sampler that learns nothing is known before, but the first
        point, which is the unchanged design where that lies in the space.
        """
        if self.sampler in LEARNING:
            first = self.own if all(p.holds(self.own[p.name]) for p in self.parameters) else {}
            return [first, *({} for _ in range(self.points - 1))]
        names = [parameter.name for parameter in self.parameters]
        if self.sampler == "random":
            return self._drawn()
        lists = [parameter.grid() for parameter in self.parameters]
        if self.sampler == "grid":
            return [dict(zip(names, point, strict=True)) for point in itertools.product(*lists)]
        own = self.own
        alone = [own | {n: v} for n, vs in zip(names, lists, strict=True) for v in vs if not same(v, own[n])]
        return [own, *alone]

    @property
    def own(self) -> dict[str, Any]:
        """What the unchanged design, and the adaptation of the file, have for every parameter."""
        return {
            p.name: getattr(self, p.name) if p.name in ADAPTATION else value_in(self.design, p.name)
            for p in self.parameters
        }

    def with_own(self) -> tuple[Parameter, ...]:
        """The parameters; of "each", with the unchanged design's values among their choices."""
        if self.sampler != "each":
            return self.parameters
        found = []
        for parameter, own in zip(self.parameters, self.own.values(), strict=True):
            values = parameter.grid()
            if not any(same(own, value) for value in values):
                values = (own, *values)
            found.append(Parameter(parameter.name, parameter.unit, parameter.whole, values))
        return tuple(found)

    def chip(self, values: Values) -> Design:
        """The design of a point. Raises DesignError: its values do not fit together."""
        return applied(self.design, values)

    def possible(self) -> list[str]:
        """Of every point that is known before: why it cannot be, or nothing."""
        found = []
        for values in self.plan():
            try:
                self.chip(values)
                found.append("")
            except GaincellError as error:
                found.append(str(error))
        return found

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Plain data that says which points these are: another file with the same may go on with them."""
        own = {
            key: getattr(self, key)
            for key in ("sampler", "seed", "text", "limit", "protocol", "adapt", "calibration", "fine_tune",
                        "learning_rate", "scale_learning_rate", "loss", "chips", "within", "context",
                        "technology")
        }  # fmt: skip
        own["population"] = self.population if self.sampler == "nsga2" else None
        own["text"] = Path(self.text).name
        own["model"] = _fingerprint(self.model)
        own["design"] = self.design.hash
        own["objectives"] = list(self.objectives)
        own["parameters"] = [[p.name, p.describe()] for p in self.parameters]
        return own

    @property
    def study(self) -> str:
        """Name of its study in a storage."""
        content = json.dumps(self.identity, sort_keys=True)
        return f"{self.name}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"

    def _drawn(self) -> list[dict[str, Any]]:
        """Points of "random": the first of them are the same however many there are."""
        optuna = import_optuna()
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=self.seed))
        points = []
        for _ in range(self.points):
            trial = study.ask()
            points.append({parameter.name: parameter.suggest(trial) for parameter in self.parameters})
        return points


def _fingerprint(model: str) -> str:
    """A name that is the same on every machine; of a RUN with its content."""
    if not is_run(model):
        return model
    with (located(model) / HARDWARE).open("rb") as file:
        return f"RUN {hashlib.file_digest(file, 'sha256').hexdigest()[:12]}"


DEFAULTS: Mapping[str, Any] = {
    "sampler": "grid", "seed": 0, "points": None, "population": 20, "text": "sample", "limit": 16_384,
    "protocol": "blocks-1024", "adapt": True, "calibration": 4096, "fine_tune": 0, "learning_rate": 1e-4,
    "scale_learning_rate": None, "loss": "cross-entropy", "chips": 0, "within": 0.05, "context": None,
    "technology": "28nm",
}  # fmt: skip
HEAD = ("model", "design", "objectives", *DEFAULTS, "parameters")
WHOLE = {"seed": 0, "points": 1, "population": 2, "limit": 2, "calibration": 2, "fine_tune": 0, "chips": 0,
         "context": 1}  # fmt: skip
"""Whole numbers of the file, and the least each may be."""


def load_sweep(path: Path) -> Sweep:
    """Read a sweep file.

    Raises:
        InputError: it is missing or no TOML; a key, parameter or objective is unknown, missing or of a wrong
            type; a range is empty; objectives or settings exclude each other; model or text are not there.
    """
    try:
        raw = tomllib.loads(located(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"the sweep {path.name} cannot be read: {error}") from error
    try:
        return _sweep(raw, path)
    except GaincellError as error:
        raise InputError(str(error) if path.name in str(error) else f"{path.name}: {error}") from error


def _sweep(raw: Mapping[str, Any], path: Path) -> Sweep:
    name = path.name
    check_keys(raw, HEAD, name)
    missing = [key for key in ("model", "objectives", "parameters") if key not in raw]
    if missing:
        raise InputError(f"{name} lacks {missing[0]!r}")
    settings = {**DEFAULTS, **{key: raw[key] for key in DEFAULTS if key in raw}}
    for key, least in WHOLE.items():
        number = settings[key]
        if number is not None and (type(number) is not int or number < least):
            raise InputError(f"{name}: {key} = {number!r}; allowed: a whole number, {least} or more")
    model = _text(raw["model"], "model", name)
    if not is_run(model) and find_shipped(model) is None:
        raise InputError(
            f"{name}: {model} is neither a RUN nor a model with a linear version shipped (tiny); make a RUN: "
            f"gaincell map {model}"
        )
    design = _design(raw.get("design"), model, name)
    objectives = _objectives(raw["objectives"], name)
    sampler = _text(settings["sampler"], "sampler", name)
    if sampler not in SAMPLERS:
        hint = did_you_mean(sampler, SAMPLERS)
        raise InputError(f"{name}: unknown sampler {sampler!r}{hint}; allowed: {one_of(SAMPLERS)}")
    parameters = parse_parameters(raw["parameters"], design, f"{name} [parameters]")
    check_value("adapt", settings["adapt"], design, f"{name}: adapt")
    loss = _text(settings["loss"], "loss", name)
    if loss not in LOSSES:
        hint = did_you_mean(loss, LOSSES)
        raise InputError(f"{name}: unknown loss {loss!r}{hint}; allowed: {one_of(LOSSES)}")
    for key in ("learning_rate", "scale_learning_rate", "within"):
        number = settings[key]
        if number is None and key == "scale_learning_rate":
            continue
        if type(number) not in (int, float) or not 0 < number < math.inf:
            raise InputError(f"{name}: {key} = {number!r}; allowed: a number above 0")
    settings["points"] = _points(settings["points"], sampler, parameters, name)
    found = Sweep(
        name=path.stem, model=model, design=design, objectives=objectives, parameters=parameters, **settings
    )
    if sampler == "each":
        found = replace(found, points=len(found.plan()))
    _check(found, name)
    return found


def _check(sweep: Sweep, name: str) -> None:
    """What excludes each other, and what is not there."""
    load_technology(sweep.technology)
    window_and_stride(sweep.protocol)
    varied = any(p.name.startswith(("mismatch.", "converters.")) for p in sweep.parameters)
    alike = not varied and not sweep.design.cells_differ and sweep.design.converters == Converters()
    if "yield" in sweep.objectives and not sweep.chips:
        raise InputError(f"{name}: the objective yield needs chips; give chips = 8, for instance")
    if sweep.chips and alike:
        raise InputError(
            f"{name}: chips = {sweep.chips}, but all chips of {sweep.design.name!r} are alike; give a "
            "parameter mismatch.current_offset_std, or a design with a [mismatch]"
        )
    per_chip = any(p.name == "adapt" and "chip" in p.values for p in sweep.parameters)
    if (sweep.adapt == "chip" or per_chip) and not sweep.chips:
        raise InputError(f'{name}: adapt = "chip" adapts every chip; give chips = 4, for instance')
    open_text(sweep.text)
    if sweep.sampler not in LEARNING:
        reasons = sweep.possible()
        if all(reasons):
            raise InputError(f"{name}: no point is possible: {reasons[0]}")


def _text(value: Any, key: str, name: str) -> str:
    if not isinstance(value, str) or not value:
        raise InputError(f"{name}: {key} = {value!r}; allowed: text")
    return value


def _design(raw: Any, model: str, name: str) -> Design:
    if raw is None:
        if not is_run(model):
            raise InputError(f"{name} lacks 'design'; only a RUN brings its own")
        return load_design(located(model) / DESIGN)
    if isinstance(raw, str):
        return load_design(raw)
    if not isinstance(raw, dict) or not isinstance(raw.get("name"), str):
        raise InputError(f"{name}: design = {raw!r}; allowed: a design, or a table with its name and values")
    design = load_design(raw["name"])
    fixed = {key: entry for key, entry in raw.items() if key != "name"}
    if not fixed:
        return design
    listed = {k: {i: [v] for i, v in e.items()} if isinstance(e, dict) else [e] for k, e in fixed.items()}
    found = parse_parameters(listed, design, f"{name}: design")
    misplaced = next((p.name for p in found if p.name in ADAPTATION), None)
    if misplaced:
        raise InputError(f"{name}: design: {misplaced} is not of a design; write it beside design")
    return applied(design, {p.name: p.values[0] for p in found})


def _objectives(raw: Any, name: str) -> tuple[str, ...]:
    """Names, each once; a direction before a name must be its own."""
    if not isinstance(raw, list) or not raw or not all(isinstance(item, str) for item in raw):
        raise InputError(f"{name}: objectives = {raw!r}; allowed: a list of {one_of(OBJECTIVES)}")
    found: list[str] = []
    for item in raw:
        direction, _, objective = item.rpartition(" ")
        if objective not in OBJECTIVES:
            hint = did_you_mean(objective, OBJECTIVES)
            raise InputError(f"{name}: unknown objective {item!r}{hint}; allowed: {one_of(OBJECTIVES)}")
        own = OBJECTIVES[objective][0]
        if direction and DIRECTIONS.get(direction) != own:
            raise InputError(f"{name}: conflicting objective {item!r}: {objective} is {own}d; leave it out")
        if objective in found:
            raise InputError(f"{name}: conflicting objectives: {objective} stands there twice")
        found.append(objective)
    return tuple(found)


def _points(points: int | None, sampler: str, parameters: tuple[Parameter, ...], name: str) -> int:
    if sampler in ("random", *LEARNING):
        if points is None:
            raise InputError(f"{name}: the sampler {sampler} needs points; give points = 64, for instance")
        return points
    sizes = [len(parameter.grid()) for parameter in parameters]
    if sampler == "each":
        if points is not None:
            raise InputError(f"{name}: points = {points}; the sampler each has its own number, leave it out")
        return sum(sizes) + 1  # at the most: the design's own values count once
    size = math.prod(sizes)
    if size > LARGEST_GRID:
        raise InputError(f"{name}: the grid has {size:,} points; take fewer values, or the sampler random")
    if points not in (None, size):
        raise InputError(f"{name}: points = {points}, but the grid has {size}; leave points out")
    return size
