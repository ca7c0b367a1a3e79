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

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from gaincell.config import load_design
from gaincell.design import TABLE_NUMBERS, Design
from gaincell.devices.cell import CELL_KINDS
from gaincell.errors import DesignError, GaincellError, InputError
from gaincell.files import read_toml
from gaincell.mapping import recipe_values as values
from gaincell.mapping.initial import candidates_for
from gaincell.mapping.overrides import override
from gaincell.mapping.recipe_values import check_model, check_table
from gaincell.quantity import check_keys, one_of
from gaincell.shipped import located
from gaincell.training.settings import TRAINING, TrainSettings, check_value

ROOTS = ("software", "random", "adapter")
MADE_HERE = "made here"
"""In place of the hash of a model that a run makes itself."""


@dataclass(frozen=True)
class StageRecipe:
    """One stage.

    name: in files and tables.  title: in tables.
    start: "software" (the pretrained model), "random" (its shape with random weights), "adapter" (the
        recipe's) or an earlier stage.
    task: "train"; "adapt" (gains and offsets, to the statistics the start has with the linear cell); or
        "nothing" (only the attention or the cell changes, or all gains and offsets with `neutral`).
    attention: "arrays" or "softmax".  cell: of the arrays; None = the design's.
    gradient: of the cells in training: "exact", "surrogate", or cheaper ones, "bf16", "surrogate-bf16".
    initial: first gains and offsets, where the start has none: from "statistics" of the text, every head
        choosing among several, or among a "wide" range; with the "first" of the several; or those "released"
        by the authors.
    initial_gains: range in which first gains of the output are kept; None: none but what the smallest
        correlation gives (mapping/initial.py).
    loss: what is minimised.  teacher: whose distribution or attention is learnt: "software", a stage before,
        or another model with the same tokenizer, named as `gaincell` commands take it (distillation only).
    weight: of the distillation; the rest is cross-entropy.  states, outputs: weights of the hidden states
        and of the outputs of the attention modules beside it.  attention_weights: of where arrays look,
        beside the transfer of attention.  own_inputs: layers of a block, where layers shall learn from the
        model's own hidden states instead of the teacher's; 0 = from the teacher's.
    steps: optimiser steps.  training: how.
    method: of the adaptation.  neutral: every gain is set to 1 and every offset to 0 first.
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
    initial_gains: tuple[float, float] | None = None
    loss: str = "cross-entropy"
    teacher: str = "software"
    weight: float = 1.0
    states: float = 0.0
    outputs: float = 0.0
    attention_weights: float = 0.0
    own_inputs: int = 0
    steps: int = 0
    training: TrainSettings = field(default_factory=TrainSettings)
    method: str = "closed-form"
    neutral: bool = False
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

    architecture: "llama" (rotary positions) or "gpt2" (learned positions, biases), transformers' names.
    config: arguments of its configuration.  vocabulary, characters_per_document: of its tokenizer, trained on
    the beginnings of all documents.  steps, training: of its pretraining with softmax attention.
    run: a RUN of the same model, which is taken from there instead of being made again; the stages then train
    on the blocks of text that its pretraining has not seen.  seed: of the pretraining's order of the text,
    where there is a `run`; None: the recipe's.
    """

    config: Mapping[str, Any]
    vocabulary: int
    characters_per_document: int
    steps: int
    training: TrainSettings
    architecture: str = "llama"
    run: str | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Recipe:
    """A recipe file, checked.

    name: of the file.  seed: of random weights, adapters and the order of the text.
    model: as `gaincell` commands take it, or one to be made.
    adapter: a RUN with adapters, to go on from.  adapter_stage: a stage of it with softmax attention, which
        no RUN saves as its model; None: the saved model.
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
    biases: whether every head gets bias vectors for its values and its output
        (integrations/hf/digital_scaling.py).
    exponents: whether the gains of q and of the output follow the number of columns read (the same).
    array_normaliser: whether the outputs of every head are divided by what the last row of its value arrays
        counts (the same); needs biases.
    evaluation_tokens, calibration_tokens: the most that are used.
    watched_tokens: of the evaluation text, the most that are used while a stage trains (evaluate_every).
    lora: low-rank adapters; None: all weights are trained.
    stages: in the order in which they run.
    changes: what was set otherwise than in the file, by dotted keys; the fields above have it already.
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
    biases: bool
    exponents: bool
    array_normaliser: bool
    evaluation_tokens: int
    calibration_tokens: int
    watched_tokens: int
    lora: LoraRecipe | None
    stages: tuple[StageRecipe, ...]
    adapter_stage: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)

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


def load_recipe(path: Path, design: str | None = None, changes: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe, for another chip than its own if `design` names one, with other values under some keys
    (see `overrides.override`).

    Raises:
        InputError: the file is missing or no TOML, a key is unknown, missing or of a wrong type, a value is
            not allowed or has no effect, a stage names one that does not come before it, or a model or RUN is
            not there (one of the hub is believed to be).
    """
    changes = changes or {}
    if design is not None and "design" in changes:
        raise InputError(f"the design is given as {design} and as {changes['design']}; give it once")
    try:
        raw = read_toml(located(path))
    except (OSError, ValueError) as error:
        raise InputError(f"the recipe {path.name} cannot be read: {error}") from error
    try:
        changed = override(raw if design is None else {**raw, "design": design}, changes)
        return replace(_recipe(changed, path.name), changes=changes)
    except GaincellError as error:
        raise InputError(str(error) if path.name in str(error) else f"{path.name}: {error}") from error


def _recipe(raw: Mapping[str, Any], name: str) -> Recipe:
    head = check_table(raw, values.HEAD, name, ("model", "design", "block"))
    common = check_table(head.get("training", {}), TRAINING, f"{name} [training]")
    design = _design(head["design"])
    stages: list[StageRecipe] = []
    for number, entry in enumerate(head.get("stage", ()), start=1):
        stages.append(_stage(entry, common, stages, design, f"{name}, stage {number}"))
    for number, stage in enumerate(stages):
        if stage.task == "train" and stage.loss != "cross-entropy":
            _check_teacher(stage, stages[:number], stages[number:], f"{name}, stage {number + 1}")
    order = head.get("order", "shuffled")
    if head.get("repeated") and order == "random":
        raise InputError(f'repeated = {head["repeated"]}; it needs order = "shuffled"')
    if "adapter" in head and "adapter_stage" in head:
        values.check_adapter_stage(head["adapter"], head["adapter_stage"])
    elif "adapter" in head:
        values.check_adapter(head["adapter"], "adapter")
    recipe = Recipe(
        name=name,
        seed=head.get("seed", 0),
        model=_model(head["model"], common, name),
        adapter=head.get("adapter"),
        design=design,
        files=values.files(head.get("files", {})),
        skip_documents=values.skips(head.get("skip_documents", {}), head.get("files", {})),
        repeated=float(head.get("repeated", 0.0)),
        block=head["block"],
        order=order,
        weights=head.get("weights", "float32"),
        stored=head.get("stored", "float32"),
        embeddings=head.get("embeddings", False),
        mixing=head.get("mixing", False),
        paired=head.get("paired", False),
        biases=head.get("biases", False),
        exponents=head.get("exponents", False),
        array_normaliser=head.get("array_normaliser", False),
        evaluation_tokens=head.get("evaluation_tokens", 65_536),
        calibration_tokens=head.get("calibration_tokens", 16_384),
        watched_tokens=head.get("watched_tokens", 16_384),
        lora=_lora(head.get("lora"), name),
        stages=tuple(stages),
        adapter_stage=head.get("adapter_stage"),
    )
    if isinstance(recipe.model, ModelRecipe) and recipe.model.run is not None:
        recipe = replace(recipe, model=replace(recipe.model, seed=_pretraining_seed(recipe, recipe.model)))
    made = recipe.model.config if isinstance(recipe.model, ModelRecipe) else {}
    context = made.get("max_position_embeddings", made.get("n_positions", recipe.block))
    for most, what in ((design.window, "the design's window"), (context, "the model's context")):
        if recipe.block > most:
            raise InputError(f"block = {recipe.block}; give 2 to {most}, {what}")
    for key in ("evaluation_tokens", "watched_tokens"):
        if (given := getattr(recipe, key)) <= recipe.block:
            raise InputError(f"{key} = {given}; give more than a block, {recipe.block}")
    for stage in stages:
        candidates_for(design, recipe.paired, stage.initial == "wide")
    if recipe.paired and design.drivers.signed:
        raise InputError(f"the queries of {design.name} have a sign; leave out paired")
    if recipe.array_normaliser and not recipe.biases:
        raise InputError(
            "array_normaliser = true needs biases = true: a bias returns the mean of what it drops"
        )
    if recipe.array_normaliser and design.normaliser.present:
        raise InputError(f"{design.name} has a normalising column; leave out array_normaliser")
    if not stages and not isinstance(recipe.model, ModelRecipe):
        raise InputError("the recipe has no stage")
    from_adapter = [stage for stage in stages if stage.start == "adapter"]
    if recipe.adapter is not None and not from_adapter:
        raise InputError(f'adapter = {recipe.adapter!r}: no stage starts from it; give start = "adapter"')
    if from_adapter and (recipe.adapter is None or recipe.lora is None):
        raise InputError(f"{from_adapter[0].name} starts from an adapter: it needs adapter = RUN, and [lora]")
    if from_adapter and recipe.lora is not None and recipe.lora.scale != 1.0:
        raise InputError(f"[lora] scale = {recipe.lora.scale}; a saved adapter has scale 1")
    attention = "arrays" if recipe.adapter_stage is None else "softmax"
    if any(stage.attention != attention for stage in from_adapter):
        raise InputError(
            "a stage with softmax attention starts from an adapter_stage, one in arrays from an adapter alone"
        )
    if recipe.weights == "bfloat16" and recipe.lora is None:
        raise InputError('weights = "bfloat16" is for weights that are not trained: it needs [lora]')
    return recipe


def _stage(
    raw: Any, common: Mapping[str, Any], before: Sequence[StageRecipe], design: Design, where: str
) -> StageRecipe:
    entry = check_table(raw, {**values.STAGE, **TRAINING}, where, ("name", "start"))
    names = [stage.name for stage in before]
    check_value(entry["start"], (*ROOTS, *names), f"{where}: start")
    values.check_use(entry, where)
    for key in ("initial", "initial_gains"):
        if entry["start"] in (*names, "adapter") and key in entry:
            raise InputError(f"{where}: {key} has no effect with start = {entry['start']!r}; leave it out")
    own = {key: value for key, value in entry.items() if key in values.STAGE}
    if "initial_gains" in own:
        own["initial_gains"] = values.gain_range(own["initial_gains"], own.get("initial"), where)
    stage = StageRecipe(**{"title": own["name"], **own}, training=_training(entry, common, where))
    if stage.name in (*names, *ROOTS, "settings") or not stage.name.replace("-", "").isalnum():
        raise InputError(f"{where}: the name {stage.name!r} is taken or not of letters, digits and -")
    if stage.cell is not None:
        check_value(stage.cell, tuple(CELL_KINDS), f"{where}: cell")
        try:
            design.replace(cell=stage.cell)
        except DesignError as error:
            raise InputError(f"{where}: {error}") from error
    if stage.compare is not None and stage.compare not in names:
        allowed = one_of(names) if names else "none, no stage stands before it"
        raise InputError(
            f"{where}: compare = {stage.compare!r}; allowed: {allowed} (with software every stage is)"
        )
    if (stage.task == "train") != (stage.steps > 0):
        raise InputError(f"{where}: steps = {stage.steps} with task {stage.task!r}; only training has steps")
    if stage.attention == "softmax" and (stage.loss == "transfer" or stage.task == "adapt"):
        raise InputError(f"{where}: softmax attention has no adaptation and no attention transfer")
    if stage.training.sharded and (stage.states or stage.outputs or stage.loss == "transfer"):
        raise InputError(
            f"{where}: attention transfer, states and outputs need whole layers; leave out sharded"
        )
    if stage.task == "adapt" and stage.start in ROOTS:
        raise InputError(f"{where}: adapt needs a stage in arrays to start from")
    start = next((other for other in before if other.name == stage.start), None)
    if start is not None and start.attention != stage.attention:
        raise InputError(
            f"{where}: {stage.name} computes with {stage.attention}, {start.name} with {start.attention}; "
            "start it from software, random or a stage with the same attention"
        )
    return stage


def _training(entry: Mapping[str, Any], common: Mapping[str, Any], where: str) -> TrainSettings:
    """The settings of [training] with those of a stage or a model, which are checked, over them."""
    own = {key: value for key, value in entry.items() if key in TRAINING}
    given = {"gradient_checkpointing": None, **common, **own}
    if "betas" in given:
        given["betas"] = tuple(given["betas"])
    try:
        return TrainSettings(**given)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _check_teacher(
    stage: StageRecipe, before: Sequence[StageRecipe], after: Sequence[StageRecipe], where: str
) -> None:
    """Raise InputError where a stage cannot learn from its teacher."""
    where = f"{where}: teacher = {stage.teacher!r}"
    if stage.teacher == "software":
        return
    if stage.teacher in [other.name for other in after]:
        raise InputError(f"{where}: this stage does not come before {stage.name}")
    own = next((other for other in before if other.name == stage.teacher), None)
    if stage.loss == "transfer" and (own is None or own.attention != "softmax"):
        raise InputError(f"{where}: attention is transferred from software or a stage with softmax attention")
    if own is None:
        check_model(stage.teacher, f"{where} is no stage", bare=False)


def _model(raw: Any, common: Mapping[str, Any], name: str) -> str | ModelRecipe:
    if isinstance(raw, str):
        check_model(raw, f"model = {raw!r}")
        return raw
    needed = values.MODEL.keys() - {"architecture", "run"}
    entry = check_table(raw, {**values.MODEL, **TRAINING}, f"{name} [model]", needed)
    own = {key: entry[key] for key in values.MODEL.keys() & entry}
    return ModelRecipe(**own, training=_training(entry, common, f"{name} [model]"))


def _pretraining_seed(recipe: Recipe, model: ModelRecipe) -> int:
    """Of the RUN whose model is taken. Raises InputError: it made another model, or of other text."""
    where = f"model.run = {model.run!r}"
    made = values.run_settings(str(model.run), where)
    wanted: dict[str, Any] = {
        "base_sha256": MADE_HERE,
        "model": plain_model(model),
        **{key: getattr(recipe, key) for key in ("files", "skip_documents", "block", "order")},
    }
    odd = next((key for key, value in wanted.items() if made.get(key) != json.loads(json.dumps(value))), None)
    if odd == "base_sha256":
        raise InputError(f"{where}: this RUN did not make its model; name the one that did")
    if odd is not None:
        raise InputError(f"{where}: it made its model with another {odd}; give that, or another RUN")
    seed: int = made["seed"]
    return seed


def plain_model(model: ModelRecipe) -> dict[str, Any]:
    """What the model is made by, wherever it is taken from."""
    return {key: value for key, value in asdict(model).items() if key not in ("run", "seed")}


def _design(raw: Any) -> Design:
    if isinstance(raw, str):
        return load_design(raw)
    changes = dict(raw)
    if "name" not in changes:
        raise InputError("[design] lacks 'name'")
    design = load_design(check_value(changes.pop("name"), str, "[design] name"))
    if "cell" in changes:
        check_value(changes["cell"], tuple(CELL_KINDS), "[design] cell")
    for table in TABLE_NUMBERS.keys() & changes:
        changes[table] = _design_table(design, table, changes[table])
    return design.replace(**changes)


def _design_table(design: Design, table: str, raw: Any) -> Any:
    """One of the tables of a design, such as [design.noise], with some of its numbers changed."""
    where, kinds = f"[design] {table}", TABLE_NUMBERS[table]
    check_keys(check_value(raw, dict, where), kinds, where)
    numbers = {key: kinds[key].convert(number, f"{where}.{key}") for key, number in raw.items()}
    return replace(getattr(design, table), **numbers)


def _lora(raw: Any, name: str) -> LoraRecipe | None:
    return None if raw is None else LoraRecipe(**check_table(raw, values.LORA, f"{name} [lora]", ("rank",)))
