"""The models of a recipe: that of a stage as it starts or ended, and its teacher."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from gaincell.errors import InputError
from gaincell.integrations.hf.attach import attach, attached_layers
from gaincell.integrations.hf.base_model import LoadedModel
from gaincell.integrations.hf.checkpoint import load_for_training, read_state
from gaincell.integrations.hf.lora import add_lora, lora_parameters
from gaincell.integrations.hf.mixing import add_mixing
from gaincell.integrations.hf.models import load_model
from gaincell.integrations.hf.paired import is_paired, pair_rows
from gaincell.integrations.hf.reparametrisation import add_array_normaliser, add_biases, add_exponents
from gaincell.mapping.folder import RunFolder
from gaincell.mapping.initial import FIRST, candidates_for, initial_scaling
from gaincell.mapping.job import freeze_embeddings
from gaincell.mapping.recipe import ROOTS, Recipe, StageRecipe
from gaincell.mapping.recipe_text import RecipeText
from gaincell.mapping.transfer import AttentionTransfer
from gaincell.progress import StageProgress
from gaincell.training.distillation import Distillation
from gaincell.training.loop import Loss

INITIAL_TOKENS = 4096
"""Tokens that first gains and offsets are taken from."""
WIDE_TOKENS = 2048
"""The same where they are chosen from a wide range."""


class RecipeModels:
    """Makes the models of a recipe's stages from its pretrained one.

    Args:
        recipe, text: of the run.  base: the pretrained model.  folder: where results of stages are.
        progress: opens the progress of every step.  device: where to compute.
        teacher_outputs: where what teachers give is kept (training/teacher_outputs.py); None: nowhere.
    """

    def __init__(
        self,
        recipe: Recipe,
        base: LoadedModel,
        text: RecipeText,
        folder: RunFolder,
        progress: StageProgress,
        device: str,
        teacher_outputs: Path | None = None,
    ) -> None:
        self.recipe, self.base, self.text = recipe, base, text
        self.folder, self.progress, self.device = folder, progress, device
        self.teacher_outputs = teacher_outputs

    def model(self, stage: StageRecipe, state: Path | None, *, cell: str | None = None) -> PreTrainedModel:
        """The model of a stage: with the weights of `state`, or as it starts."""
        recipe = self.recipe
        if self.root(stage) == "random":
            torch.manual_seed(recipe.seed)
            model: PreTrainedModel = (
                AutoModelForCausalLM.from_config(copy.deepcopy(self.base.model.config)).to(self.device).eval()
            )
        else:
            model = copy.deepcopy(self.base.model)
        if stage.attention == "arrays":
            design = recipe.design
            if (kind := cell or stage.cell) is not None:
                design = design.replace(cell=kind)
            attach(model, design, gradient=stage.gradient)  # type: ignore[arg-type]
            first = recipe.first_block(stage)
            ids = self.text.some(first, max(1, INITIAL_TOKENS // recipe.block))
            fresh = state is None and stage.start != "adapter"
            if recipe.paired and fresh:
                pair_rows(model, ids[:1])
            if recipe.mixing:
                turned = fresh and not recipe.paired  # products with a sign do not care
                add_mixing(model, ids[:1] if turned else None)
            if recipe.biases:
                add_biases(model)
            if recipe.exponents:
                add_exponents(model)
            if recipe.array_normaliser:
                add_array_normaliser(model, ids if fresh else None)
            if fresh and stage.initial != "released":
                fitting = self.progress(f"{stage.name}: first gains and offsets")
                wide = stage.initial == "wide"
                several = candidates_for(design, recipe.paired, wide)
                candidates = (FIRST,) if stage.initial == "first" else several
                if wide:  # so many that fewer tokens have to do
                    ids = ids[: max(1, WIDE_TOKENS // recipe.block)]
                initial_scaling(model, ids, candidates, fitting, stage.initial_gains)
        lora = recipe.lora
        if lora is not None and self.root(stage) != "random":
            add_lora(model, lora.rank, lora.where, lora.scale, seed=recipe.seed)
            if recipe.weights == "bfloat16":
                _in_bfloat16(model)
        whole = recipe.embeddings or self.root(stage) == "random"
        if whole and not lora_parameters(model):
            model.requires_grad_(True)
        else:
            freeze_embeddings(model)
        if state is not None:
            read_state(model, state)
        elif self.root(stage) == "adapter":
            load_for_training(model, str(recipe.adapter), recipe.adapter_stage)
        if stage.attention == "arrays" and is_paired(model) != recipe.paired:
            there = str(is_paired(model)).lower()
            raise InputError(f"what {stage.name} starts from has paired = {there}; say so in the recipe")
        return model

    def root(self, stage: StageRecipe) -> str:
        """What the first of the stages before this one starts from."""
        return stage.start if stage.start in ROOTS else self.root(self.recipe.stage(stage.start))

    def loss(self, stage: StageRecipe) -> Loss | None:
        """What a stage minimises; None: cross-entropy."""
        if stage.loss == "cross-entropy":
            return None
        stages = {other.name: other for other in self.recipe.stages}
        if stage.teacher == "software":
            teacher = copy.deepcopy(self.base.model)
        elif stage.teacher in stages:
            teacher = self.model(stages[stage.teacher], self.folder.state(stage.teacher))
        else:
            teacher = self._other_model(stage)
        if self.recipe.weights == "bfloat16":
            teacher = _in_bfloat16(teacher)
        if stage.loss == "distillation":
            return Distillation(teacher, stage.weight, stage.states, stage.outputs, self.teacher_outputs)
        if attached_layers(teacher):
            raise InputError(f"stage {stage.name}: attention transfer needs a teacher with softmax attention")
        attach(teacher, self.recipe.design, attention="softmax")
        return AttentionTransfer(teacher, stage.attention_weights, stage.own_inputs)

    def _other_model(self, stage: StageRecipe) -> PreTrainedModel:
        """A teacher that is no stage; raises InputError where its tokens are not the model's."""
        if stage.loss == "transfer":
            raise InputError(f"stage {stage.name}: attention is transferred from software or a stage")
        loaded = load_model(stage.teacher)
        own, other = self.base.tokenizer.get_vocab(), loaded.tokenizer.get_vocab()
        if own != other:
            raise InputError(
                f"stage {stage.name}: the teacher {stage.teacher} has another tokenizer than the model "
                f"({len(other)} and {len(own)} tokens, {len(own.items() & other.items())} in common)"
            )
        loaded.model.to(self.device)  # type: ignore[arg-type]
        return loaded.model


def _in_bfloat16(model: PreTrainedModel) -> PreTrainedModel:
    """Hold weights that are not trained in bfloat16, in place; gains and offsets stay as they are."""
    for name, parameter in model.named_parameters():
        if ".lora_" not in name and ".gain_cell." not in name:
            parameter.data = parameter.data.bfloat16()
    return model
