"""Recipes: whole trainings as data, one TOML file each, checked before any work.

    design = "leroux2025"                     # or [design] name = ..., and fields to change
    block = 1024                              # tokens of a block
    [[stage]]
    name = "linear"
    start = "software"                        # what it starts from: "software", "random" or an earlier stage
    cell = "linear"                           # without a cell: the design's own
    loss = "distillation"                     # cross-entropy | distillation | transfer
    steps = 3000                              # and any field of TrainSettings
    [[stage]]
    name = "adapted"
    start = "linear"
    task = "adapt"

Every stage takes the text where the one it starts from ended, so that stages that start from the same one see
the same tokens in the same order.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from math import inf
from pathlib import Path
from typing import Any

from gaincell.config import load_design
from gaincell.design import Design
from gaincell.errors import GaincellError, InputError
from gaincell.integrations.hf.lora import WHERE
from gaincell.quantity import check_keys, one_of
from gaincell.shipped import located
from gaincell.training.settings import TrainSettings

TASKS = ("train", "adapt", "nothing")
LOSSES = ("cross-entropy", "distillation", "transfer")
ATTENTIONS = ("arrays", "softmax")
STARTS = ("statistics", "first", "released")
ORDERS = ("shuffled", "random")
TYPES = ("float32", "bfloat16")
ROOTS = ("software", "random", "adapter")

TRAINING = tuple(f.name for f in fields(TrainSettings))


@dataclass(frozen=True)
class StageRecipe:
    """One stage.

    name: in files and tables.  title: in tables.
    start: "software" (the pretrained model), "random" (its shape with random weights), "adapter" (the
        recipe's) or an earlier stage.
    task: "train"; "adapt" (gains and offsets, in closed form, to the statistics the start has with the linear
        cell); or "nothing" (only the attention or the cell changes).
    attention: "arrays" or "softmax".  cell: of the arrays; None = the design's.
    gradient: of the cells in training, "exact" or "surrogate".
    initial: first gains and offsets, where the start has none: from "statistics" of the text, every head
        choosing among several; from statistics with the "first" of these; or those "released" by the authors.
    loss: what is minimised.  teacher: whose distribution or attention is learnt: "software", a stage before,
        or another model with the same tokenizer, named as `gaincell` commands take it (distillation only).
    weight: of the distillation; the rest is cross-entropy.  states: weight of the hidden states beside it.
    steps: optimiser steps.  training: how.
    compare: the stage to whose perplexity this one's is compared.
    """

    name: str
    title: str
    start: str
    task: str = "train"
    attention: str = "arrays"
    cell: str | None = None
    gradient: str = "exact"
    initial: str = "statistics"
    loss: str = "cross-entropy"
    teacher: str = "software"
    weight: float = 1.0
    states: float = 0.0
    steps: int = 0
    training: TrainSettings = field(default_factory=TrainSettings)
    compare: str | None = None

    @property
    def blocks(self) -> int:
        """Blocks of text it trains on."""
        return self.steps * self.training.batch if self.task == "train" else 0


@dataclass(frozen=True)
class LoraRecipe:
    """Low-rank adapters instead of full fine-tuning: see `gaincell.integrations.hf.lora`.

    rank: of the factors.  where: the linear layers that get them.  scale: of their product.
    """

    rank: int
    where: str = "all"
    scale: float = 1.0


@dataclass(frozen=True)
class ModelRecipe:
    """A model that is made first.

    config: arguments of LlamaConfig.  vocabulary, characters_per_document: of its tokenizer, trained on the
    beginnings of all documents.  steps, training: of its pretraining with softmax attention.
    """

    config: Mapping[str, Any]
    vocabulary: int
    characters_per_document: int
    steps: int
    training: TrainSettings


@dataclass(frozen=True)
class Recipe:
    """A recipe file, checked.

    name: of the file.  seed: of random weights, adapters and the order of the text.
    model: as `gaincell` commands take it, or one to be made.
    adapter: a RUN with adapters, to go on from.
    design: the chip.
    files: names NAME of NAME.train and NAME.valid texts, where not all of a directory are wanted, and the
        share of the tokens that each gives; None: all by their sizes.
    skip_documents: how many documents at the beginning of each training text are left out, where an earlier
        run has seen them.
    repeated: share of the training blocks in which a passage stands twice (training/data.py).
    block: tokens of a block.
    order: "shuffled", every block of the packed text once, or "random", blocks from anywhere in it, with
        repetition (the paper's protocol).
    weights: type of weights that are not trained.  stored: type of the results' weights.
    embeddings: whether those of the pretrained model are trained.
    mixing: whether the components of every head get a trainable matrix (integrations/hf/mixing.py).
    paired: whether half of the components of queries and keys are kept, each in two rows
        (integrations/hf/paired.py).
    evaluation_tokens, calibration_tokens: the most that are used.
    watched_tokens: of the evaluation text, the most that are used while a stage trains (evaluate_every).
    lora: low-rank adapters; None: all weights are trained.
    stages: in the order in which they run.
    """

    name: str
    seed: int
    model: str | ModelRecipe
    adapter: str | None
    design: Design
    files: Mapping[str, float | None]
    skip_documents: Mapping[str, int]
    repeated: float
    block: int
    order: str
    weights: str
    stored: str
    embeddings: bool
    mixing: bool
    paired: bool
    evaluation_tokens: int
    calibration_tokens: int
    watched_tokens: int
    lora: LoraRecipe | None
    stages: tuple[StageRecipe, ...]

    def stage(self, name: str) -> StageRecipe:
        """A stage by name."""
        found = next((stage for stage in self.stages if stage.name == name), None)
        if found is None:
            names = one_of([stage.name for stage in self.stages])
            raise InputError(f"{self.name} has no stage {name!r}; it has {names}")
        return found

    def first_block(self, stage: StageRecipe) -> int:
        """Where in the text a stage begins."""
        if stage.start in ROOTS:
            return self.model.steps * self.model.training.batch if isinstance(self.model, ModelRecipe) else 0
        before = self.stage(stage.start)
        return self.first_block(before) + before.blocks

    def tokens_of(self, stage: StageRecipe) -> int:
        """Tokens that a stage and those it starts from are trained on, without the pretraining."""
        before = 0 if stage.start in ROOTS else self.tokens_of(self.stage(stage.start))
        return before + stage.blocks * self.block

    @property
    def blocks(self) -> int:
        """Blocks of text that the recipe needs."""
        ends = [self.first_block(stage) + stage.blocks for stage in self.stages]
        made = self.model.steps * self.model.training.batch if isinstance(self.model, ModelRecipe) else 0
        return max([made, *ends])

    def needed_by(self, name: str) -> list[StageRecipe]:
        """A stage and all stages it needs, or is compared to, in order."""
        wanted: set[str | None] = {name}
        for stage in reversed(self.stages):
            if stage.name in wanted:
                wanted |= {stage.start, stage.compare}
                wanted |= {stage.teacher} if stage.loss != "cross-entropy" else set()
        self.stage(name)
        return [stage for stage in self.stages if stage.name in wanted]

    def miniature(self, steps: int = 2, block: int = 32) -> Recipe:
        """The same stages in a few steps of a few short sequences, to try that all of them run."""

        def small(training: TrainSettings) -> TrainSettings:
            return replace(training, batch=2, micro_batch=1, warmup_steps=1, decay_steps=None, bf16=False)

        stages = tuple(
            replace(stage, steps=min(stage.steps, steps), training=small(stage.training))
            for stage in self.stages
        )
        return replace(
            self,
            block=block,
            stages=stages,
            weights="float32",
            evaluation_tokens=4 * block,
            calibration_tokens=4 * block,
            watched_tokens=2 * block,
            lora=None if self.lora is None else replace(self.lora, rank=2),
        )


HEAD = (
    "seed", "model", "adapter", "design", "files", "skip_documents", "repeated", "block", "order", "weights",
    "stored", "embeddings", "mixing", "paired", "evaluation_tokens", "calibration_tokens", "watched_tokens",
    "lora", "training", "stage",
)  # fmt: skip
MODEL = ("config", "vocabulary", "characters_per_document", "steps")
STAGE = tuple(f.name for f in fields(StageRecipe) if f.name != "training")


def load_recipe(path: Path, design: str | None = None) -> Recipe:
    """Read a recipe, for another chip than its own if `design` names one.

    Raises:
        InputError: the file is missing or no TOML, a key is unknown, missing or of a wrong type, a value is
            not allowed, or a stage names one that does not come before it.
    """
    try:
        raw = tomllib.loads(located(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"the recipe {path.name} cannot be read: {error}") from error
    try:
        return _recipe(raw if design is None else {**raw, "design": design}, path.name)
    except GaincellError as error:
        raise InputError(str(error) if path.name in str(error) else f"{path.name}: {error}") from error
    except KeyError as error:
        raise InputError(f"the recipe {path.name} lacks {error}") from error
    except TypeError as error:
        raise InputError(f"the recipe {path.name}: {error}") from error


def _recipe(raw: Mapping[str, Any], name: str) -> Recipe:
    check_keys(raw, HEAD, name)
    common = dict(raw.get("training", {}))
    check_keys(common, TRAINING, f"{name} [training]")
    stages: list[StageRecipe] = []
    for number, entry in enumerate(raw.get("stage", ())):
        where = f"{name}, stage {number + 1}"
        stages.append(_stage(entry, common, [s.name for s in stages], where))
        _check_start(stages[-1], stages[:-1], where)
    for number, stage in enumerate(stages):
        if stage.teacher in [later.name for later in stages[number:]]:
            raise InputError(f"{name}: the teacher of {stage.name}, {stage.teacher}, does not come before it")
    recipe = Recipe(
        name=name,
        seed=raw.get("seed", 0),
        model=_model(raw["model"], common, name),
        adapter=raw.get("adapter"),
        design=_design(raw["design"]),
        files=_files(raw.get("files", {})),
        skip_documents=_skips(raw.get("skip_documents", {}), raw.get("files", {})),
        repeated=_share(raw.get("repeated", 0.0), raw.get("order", "shuffled")),
        block=raw["block"],
        order=_one(raw.get("order", "shuffled"), ORDERS, "order"),
        weights=_one(raw.get("weights", "float32"), TYPES, "weights"),
        stored=_one(raw.get("stored", "float32"), TYPES, "stored"),
        embeddings=_switch(raw, "embeddings"),
        mixing=_switch(raw, "mixing"),
        paired=_switch(raw, "paired"),
        evaluation_tokens=raw.get("evaluation_tokens", 65_536),
        calibration_tokens=raw.get("calibration_tokens", 16_384),
        watched_tokens=raw.get("watched_tokens", 16_384),
        lora=_lora(raw.get("lora"), name),
        stages=tuple(stages),
    )
    if recipe.block < 2 or recipe.block > recipe.design.window:
        raise InputError(f"block = {recipe.block}; give 2 to {recipe.design.window}, the design's window")
    if recipe.paired and recipe.design.drivers.signed:
        raise InputError(f"the queries of {recipe.design.name} have a sign; leave out paired")
    if not stages and not isinstance(recipe.model, ModelRecipe):
        raise InputError("the recipe has no stage")
    from_adapter = [stage for stage in stages if stage.start == "adapter"]
    if from_adapter and (recipe.adapter is None or recipe.lora is None):
        raise InputError(f"{from_adapter[0].name} starts from an adapter: it needs adapter = RUN, and [lora]")
    if from_adapter and recipe.lora is not None and recipe.lora.scale != 1.0:
        raise InputError(f"[lora] scale = {recipe.lora.scale}; a saved adapter has scale 1")
    if any(stage.attention == "softmax" for stage in from_adapter):
        raise InputError("a stage with softmax attention does not start from an adapter of arrays")
    if recipe.weights == "bfloat16" and recipe.lora is None:
        raise InputError('weights = "bfloat16" is for weights that are not trained: it needs [lora]')
    return recipe


def _stage(entry: Mapping[str, Any], common: Mapping[str, Any], before: list[str], where: str) -> StageRecipe:
    check_keys(entry, (*STAGE, *TRAINING), where)
    own = {key: value for key, value in entry.items() if key in STAGE}
    training = {**common, **{key: value for key, value in entry.items() if key in TRAINING}}
    if "betas" in training:
        training["betas"] = tuple(training["betas"])
    stage = StageRecipe(**{"title": own["name"], **own}, training=TrainSettings(**training))
    for key, allowed in (
        ("task", TASKS), ("attention", ATTENTIONS), ("loss", LOSSES), ("initial", STARTS),
        ("gradient", ("exact", "surrogate")), ("start", (*ROOTS, *before)),
    ):  # fmt: skip
        _one(getattr(stage, key), allowed, f"{where}: {key}")
    if stage.name in (*before, *ROOTS) or not stage.name.replace("-", "").isalnum():
        raise InputError(f"{where}: the name {stage.name!r} is taken or not of letters, digits and -")
    if stage.compare is not None and stage.compare != "software":
        _one(stage.compare, before, f"{where}: compare")
    if (stage.task == "train") != (stage.steps > 0):
        raise InputError(f"{where}: steps = {stage.steps} with task {stage.task!r}; only training has steps")
    if stage.attention == "softmax" and (stage.loss == "transfer" or stage.task == "adapt" or stage.cell):
        raise InputError(f"{where}: softmax attention has no cell, no adaptation and no attention transfer")
    learnt = stage.loss == "distillation" and not stage.training.sharded
    if type(stage.states) not in (int, float) or not 0 <= stage.states < inf or (stage.states and not learnt):
        raise InputError(
            f'{where}: states = {stage.states!r}; give 0 or more, with loss = "distillation", not sharded'
        )
    if stage.loss == "transfer" and stage.training.sharded:
        raise InputError(f"{where}: attention transfer needs whole layers; leave out sharded")
    if stage.task == "adapt" and stage.start in ROOTS:
        raise InputError(f"{where}: adapt needs a stage in arrays to start from")
    return stage


def _check_start(stage: StageRecipe, before: list[StageRecipe], where: str) -> None:
    start = next((other for other in before if other.name == stage.start), None)
    if start is not None and start.attention != stage.attention:
        raise InputError(
            f"{where}: {stage.name} computes with {stage.attention}, {start.name} with {start.attention}; "
            "start it from software, random or a stage with the same attention"
        )


def _model(raw: Any, common: Mapping[str, Any], name: str) -> str | ModelRecipe:
    if isinstance(raw, str):
        return raw
    check_keys(raw, (*MODEL, *TRAINING), f"{name} [model]")
    training = {**common, **{key: value for key, value in raw.items() if key in TRAINING}}
    return ModelRecipe(**{key: raw[key] for key in MODEL}, training=TrainSettings(**training))


def _design(raw: Any) -> Design:
    if isinstance(raw, str):
        return load_design(raw)
    changes = dict(raw)
    return load_design(changes.pop("name")).replace(**changes)


def _files(raw: Any) -> dict[str, float | None]:
    if isinstance(raw, list):
        return dict.fromkeys(raw)
    wrong = next((name for name, share in raw.items() if not share > 0), None)
    if wrong is not None:
        raise InputError(f"files: the share of {wrong} is {raw[wrong]}; give a number above 0")
    return dict(raw)


def _skips(raw: Any, files: Any) -> dict[str, int]:
    if not isinstance(raw, Mapping) or (raw and not files):
        raise InputError(f"skip_documents = {raw!r}; give {{ NAME = documents }} for names of files")
    for name, documents in raw.items():
        _one(name, tuple(files), "skip_documents: the text")
        if type(documents) is not int or documents < 0:
            raise InputError(f"skip_documents: {name} = {documents!r}; give a number of documents, 0 or more")
    return dict(raw)


def _share(raw: Any, order: str) -> float:
    if type(raw) not in (int, float) or not 0 <= raw <= 1 or (raw and order == "random"):
        raise InputError(f'repeated = {raw!r}; give 0 to 1, with order = "shuffled"')
    return float(raw)


def _switch(raw: Mapping[str, Any], key: str) -> bool:
    if type(raw.get(key, False)) is not bool:
        raise InputError(f"{key} = {raw[key]!r}; allowed: true or false")
    return bool(raw.get(key, False))


def _lora(raw: Mapping[str, Any] | None, name: str) -> LoraRecipe | None:
    if raw is None:
        return None
    check_keys(raw, ("rank", "where", "scale"), f"{name} [lora]")
    lora = LoraRecipe(**raw)
    if lora.rank < 1:
        raise InputError(f"{name} [lora]: rank = {lora.rank}; give 1 or more")
    _one(lora.where, WHERE, f"{name} [lora]: where")
    return lora


def _one(value: Any, allowed: Any, where: str) -> Any:
    if value not in allowed:
        raise InputError(f"{where} = {value!r}; allowed: {one_of(allowed)}")
    return value
