"""What a recipe's keys must be together, and whether what it names is there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from gaincell.chips.design import Design
from gaincell.errors import GaincellError, InputError, ModelError
from gaincell.integrations.hf.base_model import build_empty, without_weights
from gaincell.integrations.hf.context import check_length
from gaincell.integrations.hf.reparametrisation import PARTS
from gaincell.integrations.hf.run import Run
from gaincell.integrations.hf.size import run_design
from gaincell.integrations.hf.sources import SMOLLM2, TINY, find_source
from gaincell.integrations.hf.support import attention_modules
from gaincell.mapping.initial_gains import candidates_for
from gaincell.mapping.recipe import ROOTS, ModelRecipe, Recipe, StageRecipe
from gaincell.quantity import did_you_mean, one_of
from gaincell.schema import Count, OneOf, check_value
from gaincell.training.loop import check_redraw
from gaincell.training.settings import TrainSettings

TRAINING = tuple(field.name for field in fields(TrainSettings))
IDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
"""Of the tokenizer of a model that is made."""
ROTARY = ("rope_theta", "rope_scaling", "rope_parameters")
"""Settings that only some versions of transformers list."""
OF_LOSSES = ("teacher", "weight", "states", "outputs", "attention_weights", "own_inputs")


def check_entry(entry: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    """Raise InputError for a stage that starts from nothing before it, or a key that would change nothing."""
    start = check_value(entry["start"], Annotated[str, OneOf((*ROOTS, *names))], f"{where}: start")
    task, loss = entry.get("task", "train"), entry.get("loss", "cross-entropy")
    initial = ("initial", "initial_gains")
    in_arrays = ("cell", "gradient", *initial, "neutral")
    for idle, keys, why in (
        (task != "train", ("loss", *OF_LOSSES, "gradient", "rate_factor", *TRAINING), f"task = {task!r}"),
        (task == "train", ("method", "neutral", "rule"), f"task = {task!r}"),
        (task == "nothing", ("method", "rule"), f"task = {task!r}"),
        (loss == "cross-entropy", OF_LOSSES, f"loss = {loss!r}"),
        (loss == "distillation", ("attention_weights", "own_inputs"), f"loss = {loss!r}"),
        (loss == "transfer", ("weight", "states", "outputs"), f"loss = {loss!r}"),
        (entry.get("attention") == "softmax", in_arrays, "attention = 'softmax'"),
        (start in (*names, "adapter"), initial, f"start = {start!r}"),
        (entry.get("initial") == "released", ("initial_gains",), "initial = 'released'"),
    ):
        useless = next((key for key in keys if idle and key in entry), None)
        if useless is not None:
            raise InputError(f"{where}: {useless} has no effect with {why}; leave it out")
    low, high = entry.get("initial_gains", (0.0, 1.0))
    if low >= high:
        raise InputError(f"{where}: initial_gains = [{low:g}, {high:g}]; give the smaller one first")


def _check_stage(stage: StageRecipe, before: Mapping[str, StageRecipe], design: Design, where: str) -> None:
    """Raise InputError for a stage that cannot be carried out behind those before it."""
    if stage.name in (*before, *ROOTS, "settings", "pretrain") or not stage.name.replace("-", "").isalnum():
        raise InputError(f"{where}: the name {stage.name!r} is taken or not of letters, digits and -")
    if stage.cell is not None:
        with refusing(where):
            design.replace(cell=stage.cell)
    if stage.compare not in (None, *before):
        allowed = one_of(before) if before else "none, no stage stands before it"
        raise InputError(
            f"{where}: compare = {stage.compare!r}; allowed: {allowed} (with software every stage is)"
        )
    if stage.task == "train" and not stage.steps:
        raise InputError(f"{where}: steps = 0; a stage that trains needs 1 or more")
    if stage.task != "train" and stage.steps:
        raise InputError(f"{where}: steps = {stage.steps} with task {stage.task!r}; only training has steps")
    if stage.attention == "softmax" and (stage.loss == "transfer" or stage.task == "adapt"):
        raise InputError(f"{where}: softmax attention has no adaptation and no attention transfer")
    if stage.training.sharded and (stage.states or stage.outputs or stage.loss == "transfer"):
        raise InputError(
            f"{where}: attention transfer, states and outputs need whole layers; leave out sharded"
        )
    if stage.task == "train" and stage.attention == "arrays":
        with refusing(where):
            check_redraw(stage.training.redraw, [design])
    if stage.task == "adapt" and stage.start in ROOTS:
        raise InputError(f"{where}: adapt needs a stage in arrays to start from")
    if stage.rule == "released" and stage.method != "published":
        raise InputError(
            f"{where}: rule = 'released' needs method = \"published\"; give both, or leave rule out"
        )
    start = before.get(stage.start, stage)
    if start.attention != stage.attention:
        raise InputError(
            f"{where}: {stage.name} computes with {stage.attention}, {start.name} with {start.attention}; "
            "start it from software, random or a stage with the same attention"
        )


def _check_teacher(
    stage: StageRecipe, before: Mapping[str, StageRecipe], stages: Sequence[StageRecipe], where: str
) -> None:
    """Raise InputError where a stage cannot learn from its teacher; `stages` are all of the recipe."""
    if stage.task != "train" or stage.loss == "cross-entropy" or stage.teacher == "software":
        return
    own, where = before.get(stage.teacher), f"{where}: teacher = {stage.teacher!r}"
    if own is None and stage.teacher in [other.name for other in stages]:
        raise InputError(f"{where}: this stage does not come before {stage.name}")
    if stage.loss == "transfer" and (own is None or own.attention != "softmax"):
        raise InputError(f"{where}: attention is transferred from software or a stage with softmax attention")
    if own is None:
        check_model(stage.teacher, f"{where} is no stage", bare=False)


def check_recipe(recipe: Recipe) -> None:
    """Raise InputError for a recipe whose parts do not fit together, or with a stage that cannot be carried
    out behind those before it, or cannot learn from its teacher.
    """
    design, block = recipe.design, recipe.block
    before: dict[str, StageRecipe] = {}
    for number, stage in enumerate(recipe.stages, start=1):
        where = f"{recipe.name}, stage {number}"
        _check_stage(stage, before, design, where)
        _check_teacher(stage, before, recipe.stages, where)
        before[stage.name] = stage
    if recipe.repeated and recipe.order == "random":
        raise InputError(f'repeated = {recipe.repeated}; it needs order = "shuffled"')
    context, made = block, isinstance(recipe.model, ModelRecipe)
    if isinstance(recipe.model, ModelRecipe):
        context = config_of(recipe.model).max_position_embeddings
        if recipe.order == "random" and recipe.model.run is not None and recipe.model.seed != recipe.seed:
            raise InputError(
                f'model.run = {recipe.model.run!r} with order = "random" and another seed: stages would see '
                'what its pretraining has seen; give order = "shuffled"'
            )
    shares = [name for name, share in recipe.files.items() if share is not None]
    if shares and (made or recipe.order == "random"):
        raise InputError(
            f'files: shares, such as that of {shares[0]}, need order = "shuffled" and a model that is not '
            f"made here, whole texts are taken otherwise; name them alone: files = {list(recipe.files)}"
        )
    for most, what in ((design.window, "the design's window"), (context, "the model's context")):
        if block > most:
            raise InputError(f"block = {block}; give 2 to {most}, {what}")
    for key in ("evaluation_tokens", "watched_tokens"):
        if (given := getattr(recipe, key)) <= block:
            raise InputError(f"{key} = {given}; give more than a block, {block}")
    for stage in recipe.stages:
        candidates_for(design, recipe.paired, stage.initial == "wide", recipe.balanced)
    odd = next((one for one in recipe.stages if one.initial in ("first", "released")), None)
    if recipe.balanced and odd is not None:
        raise InputError(
            f"{odd.name}: initial = {odd.initial!r} does not drive queries about half a pulse, as "
            'balanced = true needs; give "statistics" or "wide"'
        )
    if recipe.balanced and (odd := next((one for one in recipe.stages if one.neutral), None)):
        raise InputError(
            f"{odd.name}: neutral = true sets the offsets of queries to 0, and balanced = true drives them "
            "about half a pulse; leave out one of the two"
        )
    if recipe.paired and recipe.balanced:
        raise InputError("paired = true and balanced = true: give one of the two")
    if (recipe.paired or recipe.balanced) and design.drivers.signed:
        raise InputError(f"the queries of {design.name} have a sign; leave out paired and balanced")
    if recipe.embeddings and recipe.lora is not None:
        raise InputError("embeddings = true trains all weights; with [lora] leave it out")
    for part in PARTS.values():
        if part.needs_biases and getattr(recipe, part.key) and not recipe.biases:
            raise InputError(f"{part.key} = true needs biases = true: a bias {part.needs_biases}")
    if recipe.array_normaliser and design.normaliser.present:
        raise InputError(f"{design.name} has a normalising column; leave out array_normaliser")
    if not recipe.stages and not isinstance(recipe.model, ModelRecipe):
        raise InputError("the recipe has no stage")
    from_adapter = [stage for stage in recipe.stages if stage.start == "adapter"]
    if recipe.adapter is not None and not from_adapter:
        raise InputError(f'adapter = {recipe.adapter!r}: no stage starts from it; give start = "adapter"')
    if from_adapter and recipe.lora is None:
        raise InputError(f"{from_adapter[0].name} starts from an adapter: it needs [lora]")
    if from_adapter and recipe.lora is not None and recipe.lora.scale != 1.0:
        raise InputError(f"[lora] scale = {recipe.lora.scale}; a saved adapter has scale 1")
    attention = "arrays" if recipe.adapter_stage is None else "softmax"
    if any(stage.attention != attention for stage in from_adapter):
        raise InputError(
            "a stage with softmax attention starts from an adapter_stage, one in arrays from an adapter alone"
        )
    if recipe.weights == "bfloat16" and recipe.lora is None:
        raise InputError('weights = "bfloat16" is for weights that are not trained: it needs [lora]')


def config_of(model: ModelRecipe) -> PretrainedConfig:
    """The configuration of a model that is made.

    Raises:
        InputError: its architecture has no such setting, or not with this value.
    """
    known = AutoConfig.for_model(model.architecture)
    allowed = {*known.to_dict(), *known.attribute_map, *ROTARY} - {"vocab_size", *IDS}
    for key in model.config:
        if key not in allowed:
            raise InputError(
                f"[model.config]: {model.architecture} has no setting {key!r} here"
                f"{did_you_mean(key, allowed)}"
            )
    try:
        made = AutoConfig.for_model(model.architecture, **model.config, vocab_size=model.vocabulary, **IDS)
        with torch.device("meta"):
            AutoModelForCausalLM.from_config(made)
        check_value(made.num_hidden_layers, Count, "the number of layers")
        check_value(made.max_position_embeddings, Count, "the context")
    except Exception as error:  # of many kinds, by the version of transformers
        raise InputError(f"[model.config]: {' '.join(str(error).split())}") from error
    return made


def check_mapping(recipe: Recipe, model: PreTrainedModel) -> None:
    """Refuse a model that cannot be mapped, whose context is too short, or that cannot have what the recipe
    adds to arrays. It may lack weights.

    Raises:
        ModelError, InputError: what is wrong with it.
    """
    attention_modules(model)
    check_length(model, recipe.block)
    in_arrays = any(stage.attention == "arrays" for stage in recipe.stages)
    for part in PARTS.values():
        if in_arrays and getattr(recipe, part.key):
            part.check_model(model)


def check_mapping_here(recipe: Recipe) -> None:
    """`check_mapping` by the configuration of a model that is a directory here, or that the recipe makes;
    others have to be loaded.
    """
    if isinstance(recipe.model, ModelRecipe):
        check_mapping(recipe, build_empty(config_of(recipe.model), "[model]"))
    elif (Path(recipe.model).expanduser() / "config.json").is_file():
        check_pretrained(recipe.model, in_arrays=run_design(recipe.model) is not None)
        check_mapping(recipe, without_weights(find_source(recipe.model)))


def check_pretrained(model: str, *, in_arrays: bool) -> None:
    """Raise ModelError for what is no pretrained model but one in arrays."""
    if in_arrays:
        raise ModelError(f"{model} is a RUN; a recipe starts from the model it was made from")


def check_model(model: str, where: str, *, bare: bool = True) -> None:
    """Raise InputError for a model that cannot be found. Nothing is downloaded: a model named OWNER/NAME, or
    NAME alone with `bare`, is taken to be on the hub.
    """
    here = Path(model).expanduser().exists() or model.endswith(".gguf") or model.startswith("adapters/")
    owner, _, name = model.rpartition("/")
    named = all(re.fullmatch(r"[\w-][\w.-]*", part) for part in ([owner, name] if owner else [name]))
    if model in (TINY, SMOLLM2) or Run(model).saved or (named and not here and (owner or bare)):
        return
    if named and not here:
        raise InputError(f"{where}: there is no {model!r} here; a model of the hub is named OWNER/NAME")
    with refusing(where):
        find_source(model)


def check_adapter(run: str, stage: str | None = None) -> None:
    """Raise InputError for a RUN that is not here, or that lacks a finished stage with softmax attention."""
    with refusing(f"adapter = {run!r}" + (f", adapter_stage = {stage!r}" if stage else "")):
        if stage is None:
            Run(run).hardware  # noqa: B018 (read, or refused)
        elif Run(run).plan(stage)["attention"] != "softmax":
            raise InputError("this stage is in arrays; leave out adapter_stage and name a saved RUN")


def run_settings(run: str, where: str) -> Mapping[str, Any]:
    """What a RUN of `gaincell train` that has pretrained its model was begun with.

    Raises:
        InputError: it is no such RUN.
    """
    held = Run(run)
    with refusing(where):
        for part in ("stages/settings.json", "model/model.safetensors"):
            if not (held.folder / part).is_file():
                raise InputError(
                    f"it lacks {part}; give a RUN of `gaincell train` whose pretraining is finished"
                )
        return held.settings


@contextmanager
def refusing(where: str) -> Iterator[None]:
    """Within the context a refusal names what was given."""
    try:
        yield
    except GaincellError as error:
        raise InputError(f"{where}: {error}") from error
