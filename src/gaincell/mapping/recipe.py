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

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, TypeAlias

from pydantic import Field

from gaincell.adaptation.adapt import METHODS, RULES
from gaincell.chips.design import Design
from gaincell.devices.cell import CELL_KINDS
from gaincell.errors import InputError
from gaincell.integrations.hf.lora import WHERE
from gaincell.ops.gain_cell_attention import GRADIENTS
from gaincell.quantity import one_of
from gaincell.schema import Count, Factor, Json, OneOf, Rate, Several, Share, Whole
from gaincell.training.settings import TrainSettings

ROOTS = ("software", "random", "adapter")
MADE_HERE = "made here"
"""In place of the hash of a model that a run makes itself."""
Precision: TypeAlias = Annotated[str, OneOf(("float32", "bfloat16"))]


@dataclass(frozen=True)
class StageRecipe:
    """One stage.

    Attributes:
        name: In files and tables.
        title: In tables.
        start: "software" (the pretrained model), "random" (its shape with random weights), "adapter" (the
            recipe's) or an earlier stage.
        task: "train"; "adapt" (gains and offsets, to the statistics the start has with the linear cell); or
            "nothing" (only the attention or the cell changes, or all gains and offsets with `neutral`).
        attention: "arrays" or "softmax".
        cell: Of the arrays; None = the design's.
        gradient: Of the cells in training: "exact", "surrogate", or cheaper ones, "bf16", "surrogate-bf16".
        initial: First gains and offsets, where the start has none: from "statistics" of the text, every head
            choosing among several; "wide": on half the text, with paired rows among more of them; with the
            "first" of the several; or those "released" by the authors.
        initial_gains: Range in which first gains of the output are kept; None: none but what the smallest
            correlation gives (mapping/initial_gains.py).
        loss: What is minimised.
        teacher: Whose distribution or attention is learnt: "software", a stage before, or another model with
            the same tokenizer, named as `gaincell` commands take it (distillation only).
        weight: Of the distillation; the rest is cross-entropy.
        states: Weight of the hidden states beside it.
        outputs: Weight of the outputs of the attention modules beside it.
        attention_weights: Of where arrays look, beside the transfer of attention.
        own_inputs: Layers of a block, where layers shall learn from the model's own hidden states instead of
            the teacher's; 0 = from the teacher's.
        steps: Optimiser steps.
        training: how.
        method: Of the adaptation.
        neutral: Every gain is set to 1 and every offset to 0 first; biases and exponents stay.
        rule: By which the published method stops, "relative" or that "released" by the authors; None:
            released with `neutral`, else relative.
        compare: The stage to whose perplexity this one's is compared.
    """

    name: str
    title: str
    start: str
    task: Annotated[str, OneOf(("train", "adapt", "nothing"))] = "train"
    attention: Annotated[str, OneOf(("arrays", "softmax"))] = "arrays"
    cell: Annotated[str, OneOf(CELL_KINDS)] | None = None
    gradient: Annotated[str, OneOf(GRADIENTS)] = "exact"
    initial: Annotated[str, OneOf(("statistics", "wide", "first", "released"))] = "statistics"
    initial_gains: Annotated[tuple[Rate, Rate], Field(strict=False)] | None = None
    loss: Annotated[str, OneOf(("cross-entropy", "distillation", "transfer"))] = "cross-entropy"
    teacher: str = "software"
    weight: Share = 1.0
    states: Factor = 0.0
    outputs: Factor = 0.0
    attention_weights: Factor = 0.0
    own_inputs: Whole = 0
    steps: Whole = 0
    training: TrainSettings = field(default_factory=TrainSettings)
    method: Annotated[str, OneOf(METHODS)] = "closed-form"
    neutral: bool = False
    rule: Annotated[str, OneOf(RULES)] | None = None
    compare: str | None = None

    @property
    def blocks(self) -> int:
        """Blocks of text it trains on."""
        return self.steps * self.training.batch if self.task == "train" else 0


@dataclass(frozen=True)
class LoraRecipe:
    """Low-rank adapters instead of full fine-tuning: see `gaincell.integrations.hf.lora`.

    Attributes:
        rank: Of the factors.
        where: The linear layers that get them.
        scale: Of their product.
    """

    rank: Count
    where: Annotated[str, OneOf(WHERE)] = "all"
    scale: Rate = 1.0


@dataclass(frozen=True)
class ModelRecipe:
    """A model that is made first.

    Attributes:
        config: Arguments of its configuration.
        vocabulary: Tokens of its tokenizer.
        characters_per_document: Of the beginnings of all documents, which its tokenizer is trained on.
        steps: Of its pretraining with softmax attention.
        training: How that goes.
        architecture: "llama" (rotary positions) or "gpt2" (learned positions, biases), transformers' names.
        run: A RUN of the same model, which is taken from there instead of being made again; the stages then
            train on the blocks of text that its pretraining has not seen.
        seed: Of the pretraining's order of the text, where there is a `run`; None: the recipe's.
    """

    config: Json
    vocabulary: Annotated[int, Field(ge=257)]
    characters_per_document: Count
    steps: Count
    training: TrainSettings
    architecture: Annotated[str, OneOf(("llama", "gpt2"))] = "llama"
    run: str | None = None
    seed: int | None = None

    @property
    def blocks(self) -> int:
        """Blocks of text that its pretraining takes."""
        return self.steps * self.training.batch

    def made_by(self) -> Json:
        """What the model is made by, wherever it is taken from."""
        return {key: value for key, value in asdict(self).items() if key not in ("run", "seed")}


@dataclass(frozen=True)
class Recipe:
    """A recipe file, checked.

    Attributes:
        name: Of the file.
        model: As `gaincell` commands take it, or one to be made.
        design: The chip.
        block: Tokens of a block.
        seed: Of random weights, adapters and the order of the text.
        adapter: A RUN with adapters, to go on from.
        files: Names NAME of NAME.train and NAME.valid texts, where not all of a directory are wanted, and the
            share of the tokens that each gives; None: all by their sizes.
        skip_documents: How many documents at the beginning of each training text are left out, where an
            earlier run has seen them.
        repeated: Share of the training blocks in which a passage stands twice (training/data.py).
        order: "shuffled", every block of the packed text once, or "random", blocks from anywhere in it, with
            repetition (the paper's protocol).
        weights: Type of weights that are not trained.
        stored: Type of the results' weights.
        embeddings: Whether those of the pretrained model are trained.
        mixing: Whether the components of every head get a trainable matrix (integrations/hf/mixing.py).
        paired: Whether half of the components of queries and keys are kept, each in two rows
            (integrations/hf/paired.py).
        balanced: Whether queries are driven about half a pulse and the rows of every key add up to a constant
            (nn/balanced_rows.py); not with paired.
        biases: Whether every head gets bias vectors for its values and its output
            (integrations/hf/reparametrisation.py).
        exponents: Whether the gains of q and of the output follow the number of columns read (the same).
        rotated_values: Whether values, and outputs back, are rotated so that all components are about equally
            large (nn/value_rotation.py); needs biases.
        array_normaliser: Whether the outputs of every head are divided by what the last row of its value
            arrays counts (nn/array_normaliser.py); needs biases.
        evaluation_tokens: The most that are used of the evaluation text.
        calibration_tokens: The most that are used of the text of adaptations.
        watched_tokens: Of the evaluation text, the most that are used while a stage trains (evaluate_every).
        lora: Low-rank adapters; None: all weights are trained, as they always are, in float32, where a stage
            starts from random ones.
        stages: In the order in which they run.
        adapter_stage: A stage of the adapter's RUN with softmax attention, which no RUN saves as its model;
            None: the saved model.
        changes: What was set otherwise than in the file, by dotted keys; the fields above have it already.
    """

    name: str
    model: str | ModelRecipe
    design: Design
    block: Several
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    adapter: str | None = None
    files: Mapping[str, float | None] = field(default_factory=dict)
    skip_documents: Mapping[str, int] = field(default_factory=dict)
    repeated: Share = 0.0
    order: Annotated[str, OneOf(("shuffled", "random"))] = "shuffled"
    weights: Precision = "float32"
    stored: Precision = "float32"
    embeddings: bool = False
    mixing: bool = False
    paired: bool = False
    balanced: bool = False
    biases: bool = False
    exponents: bool = False
    rotated_values: bool = False
    array_normaliser: bool = False
    evaluation_tokens: Several = 65_536
    calibration_tokens: Count = 16_384
    watched_tokens: Several = 16_384
    lora: LoraRecipe | None = None
    stages: tuple[StageRecipe, ...] = ()
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
            return self.pretraining_blocks
        before = self.stage(stage.start)
        return self.first_block(before) + before.blocks

    def tokens_of(self, stage: StageRecipe) -> int:
        """Tokens that a stage and those it starts from are trained on, without the pretraining."""
        before = 0 if stage.start in ROOTS else self.tokens_of(self.stage(stage.start))
        return before + stage.blocks * self.block

    @property
    def blocks(self) -> int:
        """Blocks of text that the recipe trains on."""
        ends = [self.first_block(stage) + stage.blocks for stage in self.stages]
        return max([self.pretraining_blocks, *ends])

    @property
    def pretraining_blocks(self) -> int:
        """Blocks of text before all stages, which a model made by the recipe is pretrained on; 0: none is."""
        return self.model.blocks if isinstance(self.model, ModelRecipe) else 0

    @property
    def calibration_blocks(self) -> int:
        """Blocks of text that stages are adapted on; 0: none is adapted."""
        adapted = any(stage.task == "adapt" for stage in self.stages)
        return max(1, self.calibration_tokens // self.block) if adapted else 0

    def needed_by(self, name: str | None) -> list[StageRecipe]:
        """A stage and all stages it needs, or is compared to, in order; None: all stages.

        Raises:
            InputError: there is no such stage, or one starts from an adapter that was not given.
        """
        wanted: set[str | None] = {name} if name is not None else {stage.name for stage in self.stages}
        for stage in reversed(self.stages):
            if stage.name in wanted:
                wanted |= {stage.start, stage.compare}
                wanted |= {stage.teacher} if stage.loss != "cross-entropy" else set()
        if "adapter" in wanted and self.adapter is None:
            raise InputError("the recipe goes on from an adapter; give its RUN: --set adapter=RUN")
        if name is not None:
            self.stage(name)
        return [stage for stage in self.stages if stage.name in wanted]
