"""The models of a recipe: the one that it makes first, that of a stage as it starts or ended, its teacher."""

from __future__ import annotations

import copy
import shutil
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import AutoModelForCausalLM, PreTrainedModel

from gaincell.errors import InputError, ModelError, RunError
from gaincell.files import write_atomic, write_directory
from gaincell.integrations.hf.attach import attach
from gaincell.integrations.hf.base_model import LoadedModel
from gaincell.integrations.hf.checkpoint import load_for_training, read_state
from gaincell.integrations.hf.lora import add_lora, lora_parameters
from gaincell.integrations.hf.models import load_model
from gaincell.integrations.hf.reparametrisation import PARTS, add_part
from gaincell.mapping.engine import Engine, freeze_embeddings
from gaincell.mapping.initial_gains import FIRST, candidates_for, initial_scaling
from gaincell.mapping.recipe import ROOTS, Recipe, StageRecipe
from gaincell.mapping.recipe_checks import config_of
from gaincell.mapping.recipe_text import RecipeText
from gaincell.mapping.run_folder import RunFolder, run_log
from gaincell.progress import StageProgress
from gaincell.text import sha256
from gaincell.training import checkpoint as disk
from gaincell.training.compiled import compile_layers
from gaincell.training.distillation import Distillation
from gaincell.training.log import Tracker
from gaincell.training.loop import train
from gaincell.training.loss import Loss, next_token_loss
from gaincell.training.transfer import AttentionTransfer

INITIAL_TOKENS = 4096
"""Tokens that first gains and offsets are taken from."""
WIDE_TOKENS = 2048
"""The same where they are chosen from a wide range."""
WEIGHTS = "model.safetensors"


def take_model(run: Path, out: Path) -> None:
    """Copy the model of a RUN into `out`, unless it is there.

    Raises:
        RunError: `out` holds another model.
    """
    made, own = run / "model", out / "model"
    for path in sorted(made.iterdir(), key=lambda path: path.name == WEIGHTS):  # these last
        if path.is_file() and not (own / path.name).exists():
            write_atomic(own / path.name, partial(shutil.copyfile, path))
    if sha256(own / WEIGHTS) != sha256(made / WEIGHTS):
        raise RunError(f"{out.name}/model is another model than that of {run.name}; choose another --out")


def pretrained_model(
    recipe: Recipe,
    text: RecipeText,
    out: Path,
    device: str,
    progress: StageProgress,
    tracker: Tracker | None,
    compiled: bool,
) -> LoadedModel:
    """The model that a recipe starts from, with the tokenizer of the text. One that is made first is trained
    with softmax attention, unless `out` holds it; its weights are kept in bf16. Options: see `run_recipe`.
    """
    if isinstance(recipe.model, str):
        assert text.loaded is not None
        return text.loaded
    place, shown, processes = out / "model", progress("pretrain"), PartialState()
    checkpoint = place / "pretrain.checkpoint"
    if not (place / WEIGHTS).exists():
        torch.manual_seed(recipe.seed)
        model: Any = AutoModelForCausalLM.from_config(config_of(recipe.model))  # its type there lacks `to`
        train(
            compile_layers(model.to(device)) if compiled else model.to(device),
            text.blocks[: recipe.model.blocks],
            recipe.model.training,
            progress=shown,
            checkpoint=checkpoint,
            log=run_log(out, {"stage": "pretrain"}, tracker),
            evaluate=text.watched,
        )
        if processes.is_main_process:
            write_directory(place, model.to("cpu", torch.bfloat16).save_pretrained, last=WEIGHTS, replaces=())
    if processes.is_main_process:  # what a killed process may not have come to
        disk.remove(checkpoint)
    processes.wait_for_everyone()
    return replace(load_model(str(place)), tokenizer=text.tokenizer)


@dataclass(kw_only=True)
class RecipeModels(Engine):
    """Makes the models of a recipe's stages from its pretrained one, `loaded`; options: see `run_recipe`."""

    recipe: Recipe
    text: RecipeText
    folder: RunFolder
    device: str
    teacher_outputs: Path | None = None
    compiled: bool = False

    def model(self, stage: StageRecipe, state: Path | None, *, cell: str | None = None) -> PreTrainedModel:
        """The model of a stage: with the weights of `state`, or as it starts."""
        recipe, root = self.recipe, self.root(stage)
        model: PreTrainedModel
        if root == "random":
            torch.manual_seed(recipe.seed)
            config = copy.deepcopy(self.loaded.model.config)
            model = AutoModelForCausalLM.from_config(config).to(self.device).eval()
        else:
            model = copy.deepcopy(self.loaded.model)
        if stage.attention == "arrays":
            self._put_in_arrays(model, stage, cell or stage.cell, state is None and stage.start != "adapter")
        if recipe.lora is not None and root != "random":
            add_lora(model, recipe.lora.rank, recipe.lora.where, recipe.lora.scale, seed=recipe.seed)
            if recipe.weights == "bfloat16":
                in_bfloat16(model)
        if (recipe.embeddings or root == "random") and not lora_parameters(model):
            model.requires_grad_(True)
        else:
            freeze_embeddings(model)
        if state is not None:
            read_state(model, state)
        elif root == "adapter":
            load_for_training(model, str(recipe.adapter), recipe.adapter_stage)
        for part in PARTS.values() if stage.attention == "arrays" else ():
            found = part.is_in(model)
            if found != getattr(recipe, part.key):
                there = f"{part.key} = {str(found).lower()}"
                raise InputError(f"what {stage.name} starts from has {there}; say so in the recipe")
        return model

    def _put_in_arrays(self, model: PreTrainedModel, stage: StageRecipe, cell: str | None, new: bool) -> None:
        """Attach a model, with what the recipe adds; `new`: with first gains and offsets."""
        recipe = self.recipe
        design = recipe.design if cell is None else recipe.design.replace(cell=cell)
        attach(model, design, gradient=stage.gradient)  # type: ignore[arg-type]
        ids = self.text.some(recipe.first_block(stage), max(1, INITIAL_TOKENS // recipe.block))
        for part in PARTS.values():
            if getattr(recipe, part.key) and (new or part.restore is None):
                add_part(model, part.name, ids if new else None)
        if new and stage.initial != "released":
            fitting = self.progress(f"{stage.name}: first gains and offsets")
            wide = stage.initial == "wide"
            candidates = candidates_for(design, recipe.paired, wide, recipe.balanced)
            if wide:  # so many that fewer tokens have to do
                ids = ids[: max(1, WIDE_TOKENS // recipe.block)]
            chosen = (FIRST,) if stage.initial == "first" else candidates
            initial_scaling(model, ids, chosen, fitting, stage.initial_gains)

    def root(self, stage: StageRecipe) -> str:
        """What the first of the stages before this one starts from."""
        return stage.start if stage.start in ROOTS else self.root(self.recipe.stage(stage.start))

    def loss(self, stage: StageRecipe) -> Loss:
        if stage.loss == "cross-entropy":
            return next_token_loss
        if stage.teacher == "software":
            teacher = copy.deepcopy(self.loaded.model)
        elif stage.teacher in [other.name for other in self.recipe.stages]:
            teacher = self.model(self.recipe.stage(stage.teacher), self.folder.state(stage.teacher))
        else:
            found = load_model(stage.teacher)
            own, other = self.loaded.tokenizer.get_vocab(), found.tokenizer.get_vocab()
            if own != other:
                raise InputError(
                    f"stage {stage.name}: the teacher {stage.teacher} has another tokenizer than the model "
                    f"({len(other)} and {len(own)} tokens, {len(own.items() & other.items())} in common)"
                )
            teacher = found.model.to(self.device)  # type: ignore[arg-type]
        if self.recipe.weights == "bfloat16":
            teacher = in_bfloat16(teacher)
        if self.compiled:
            with suppress(ModelError):  # a teacher need not fit gain cells
                compile_layers(teacher)
        if stage.loss == "distillation":
            return Distillation(teacher, stage.weight, stage.states, stage.outputs, self.teacher_outputs)
        attach(teacher, self.recipe.design, attention="softmax")
        return AttentionTransfer(teacher, stage.attention_weights, stage.own_inputs)


def in_bfloat16(model: PreTrainedModel) -> PreTrainedModel:
    """Hold weights that are not trained in bfloat16, in place; gains and offsets stay as they are."""
    for name, parameter in model.named_parameters():
        if ".lora_" not in name and ".gain_cell." not in name:
            parameter.data = parameter.data.bfloat16()
    return model
