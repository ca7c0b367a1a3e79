"""SWEEP.toml: what to change, what to measure, and how to choose the points; read by file.py.

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
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from gaincell.chips.design import Design
from gaincell.chips.device import with_cell
from gaincell.chips.fields import DRAWN
from gaincell.costs.technology import REFERENCE, load_technology
from gaincell.devices.random import Drawn
from gaincell.errors import GaincellError, InputError
from gaincell.evaluation.perplexity import window_and_stride
from gaincell.integrations.hf.run import Run
from gaincell.integrations.hf.size import content_sha256, saved_design
from gaincell.mapping.load_hardware import find_shipped
from gaincell.resources import resolve
from gaincell.schema import Count, Name, OneOf, Rate, Several, Whole
from gaincell.sweeps.space import ADAPTATION, KIND, Parameter, applied, same, shown, value_in
from gaincell.text import Source, open_text, sha256

OBJECTIVES: Mapping[str, tuple[str, str]] = {
    "perplexity": ("minimise", "1"),
    "energy": ("minimise", "J"),
    "latency": ("minimise", "s"),
    "area": ("minimise", "m^2"),
    "yield": ("maximise", "1"),
}
"""Name -> direction and unit. Energy and latency are of one token, all attention of the model."""
SAMPLERS = ("grid", "each", "random", "tpe", "nsga2")
LOSSES = ("cross-entropy", "distillation")
"""Of the fine-tuning; distillation: from the model itself on the nominal chip without noise."""
LEARNING = ("tpe", "nsga2")
"""Samplers that learn from finished points."""
ACTIVITY_BLOCKS = 2
"""Blocks of the evaluated text on which the activity is measured, at most."""
BATCH = 4
"""Blocks of a step of fine-tuning."""
CHARACTERS = 16
"""Of a text, hashed for every token that is used of it: more than a token has on average."""
FILES = (".toml", ".csv", ".tsv", ".txt")
"""Ends of names of device files and curves."""


def import_optuna() -> Any:
    """The package, saying nothing of its own accord.

    Raises:
        InputError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise InputError(
            f"sweeps need Optuna ({error}): pip install 'gaincell[sweep]', from a clone "
            "pip install -e '.[sweep]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    return optuna


@dataclass(frozen=True)
class Sweep:
    """A sweep file, checked.

    Attributes:
        name: Of the file.
        model: As in the file.
        design: What points change.
        objectives: Names of OBJECTIVES.
        sampler: One of SAMPLERS.
        seed: Of all random choices.
        points: How many.
        population: Of nsga2.
        text: What is evaluated.
        limit: Most tokens of it.
        protocol: How; by default blocks of the model's context, at most 1024.
        calibration: Tokens of the adaptation.
        adapt: Gains and offsets of every point, in closed form, to the statistics that the model has as it
            was made; True: on its nominal chip; "chip": on every single chip.
        fine_tune: Steps of training after it, on other chips and noise at every pass, at `learning_rate`.
        learning_rate: Of that training.
        scale_learning_rate: Of gains and offsets; None: the same.
        loss: One of LOSSES.
        chips: Of which the perplexity is averaged; 0: the design as it is.
        within: Of the yield.
        context: Tokens so far, of the costs; None: as measured.
        technology: Of the costs.
        parameters: What points differ in.
        start: Of samplers that learn, points to begin with: what differs from the unchanged design.
    """

    name: str
    model: Name
    design: Design
    objectives: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    points: Count
    protocol: Name
    sampler: Annotated[str, OneOf(SAMPLERS)] = "grid"
    seed: Whole = 0
    population: Several = 20
    text: Name = "sample"
    limit: Several = 16_384
    adapt: bool | str = True
    calibration: Several = 4096
    fine_tune: Whole = 0
    learning_rate: Rate = 1e-4
    scale_learning_rate: Rate | None = None
    loss: Annotated[str, OneOf(LOSSES)] = "cross-entropy"
    chips: Whole = 0
    within: Rate = 0.05
    context: Count | None = None
    technology: Name = "28nm"
    start: tuple[dict[str, Any], ...] = ()

    @property
    def measures(self) -> bool:
        """Whether points need the model, not its sizes alone."""
        return bool({"perplexity", "yield", "energy"} & set(self.objectives))

    def plan(self) -> list[dict[str, Any]]:
        """Values of every point, in order; of a sampler that learns nothing is known before, but the first
        points: the unchanged design where that lies in the space, and those of `start`.
        """
        if self.sampler in LEARNING:
            inside = {p.name: self.own[p.name] for p in self.parameters if p.holds(self.own[p.name])}
            first = inside if len(inside) == len(self.parameters) else {}
            known = [first, *(inside | one for one in self.start)]
            return [*known, *({} for _ in range(self.points - len(known)))]
        names = [parameter.name for parameter in self.parameters]
        if self.sampler == "random":  # the first of them are the same however many there are
            optuna = import_optuna()
            study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=self.seed))
            trials = (study.ask() for _ in range(self.points))
            return [{p.name: p.suggest(trial) for p in self.parameters} for trial in trials]
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

    @property
    def training_tokens(self) -> int:
        """Of the training text that a point uses at the most: for adaptation, and training behind it."""
        length, _ = window_and_stride(self.protocol)
        calibration = max(1, self.largest("calibration") // length) * length
        return calibration + self.largest("fine_tune") * BATCH * (length + 1)

    def values_of(self, name: str) -> tuple[Any, ...]:
        """What a setting of the adaptation is at any point; of a range its ends."""
        found = next((p for p in self.parameters if p.name == name), None)
        return (getattr(self, name),) if found is None else found.values or (found.low, found.high)

    def largest(self, name: str) -> int:
        """The largest value that a number of the adaptation has at any point."""
        return int(max(self.values_of(name)))

    @cached_property
    def noisy(self) -> bool:
        """Whether reads or writes of any point have noise, which chips draw anew."""
        return self._draws("operation")

    @cached_property
    def spread(self) -> bool:
        """Whether cells or converters of any point differ from chip to chip."""
        return self._draws("chip")

    def _draws(self, per: Drawn) -> bool:
        """Whether the design, a parameter, or what a cell brings, is drawn for every chip or operation."""
        if self.design.drawn(per) or any(DRAWN.get(p.name) == per for p in self.parameters):
            return True
        kinds = (kind for p in self.parameters if p.name == KIND for kind in p.values)
        return any(with_cell(self.design, kind).drawn(per) for kind in kinds)

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

    def possible(self) -> list[str]:
        """Of every point that is known before: why it cannot be, or nothing."""
        found = []
        for values in self.plan():
            try:
                applied(self.design, values)
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
                        "learning_rate", "scale_learning_rate", "loss", "chips", "within", "context")
        }  # fmt: skip
        own["population"] = self.population if self.sampler == "nsga2" else None
        own["text"] = Path(self.text).name
        own["content"] = _content_of(self)
        own["model"] = own["content"]["model"]
        own["start"] = [[f"{name} = {shown(value)}" for name, value in one.items()] for one in self.start]
        own["design"] = self.design.hash
        own["objectives"] = list(self.objectives)
        own["parameters"] = [[p.name, p.describe()] for p in self.parameters]
        return own

    @property
    def study(self) -> str:
        """Name of its study in a storage."""
        content = json.dumps(self.identity, sort_keys=True)
        return f"{self.name}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def _content_of(sweep: Sweep) -> dict[str, Any]:
    """Hashes of text, technology and device files, and the name of the model with the hash of its weights:
    changed content does not go on in the same study.
    """
    found: dict[str, Any] = {"model": _of_model(sweep.model), "technology": _of_technology(sweep.technology)}
    if sweep.measures:
        text = open_text(sweep.text)
        found["evaluated"] = _of_sources(text.evaluation, sweep.limit)
        found["trained on"] = _of_sources(text.training, sweep.training_tokens)
    kinds = (value for p in sweep.parameters if p.name == KIND for value in p.values)
    found["devices"] = [_of_file(resolve(value)) for value in kinds if value.lower().endswith(FILES)]
    return found


def _of_model(model: str) -> str:
    """A name that is the same on every machine. hardware.safetensors holds the hashes of base and design."""
    if (run := Run(model)).saved:
        return f"RUN {_of_file(run.file())}"
    shipped = find_shipped(model)
    if shipped is None and saved_design(model) is not None:
        return f"model {content_sha256(model)[:12]}"
    return model if shipped is None else f"{model} {_of_file(shipped.linear)}"


def _of_file(path: Path) -> str:
    return sha256(path.expanduser())[:12]


def _of_technology(name: str) -> str:
    technology = load_technology(name)
    numbers = {key: number.value for key, number in technology.provenance.items()}
    if technology.guard_bits == load_technology(REFERENCE).guard_bits:
        del numbers["guard_bits"]  # so that a study outlives the invention of a number
    return hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()[:12]


def _of_sources(sources: tuple[Source, ...], tokens: int) -> str:
    """Of the beginning of every source, as far as so many tokens may reach."""
    content = hashlib.sha256()
    for source in sources:
        left = CHARACTERS * tokens
        content.update(f"{source.name} {source.size}\0".encode())
        for document in source.documents():
            content.update(document[:left].encode() + b"\0")
            left -= len(document)
            if left <= 0:
                break
    return content.hexdigest()[:12]
