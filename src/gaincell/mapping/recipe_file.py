"""Reading recipes: from their files, with changes from the command line, and checked before any work.

    extends = "low-tokens.toml"               # what this file does not say is as there, in the same folder
    stages = ["more", "software-continued"]   # of both files, those that there are; without: all
    [[stage]]
    name = "software-continued"               # a stage of the other one, with other steps
    steps = 640
    bf16 = "default"                          # takes back what the other one says

What is extended may extend another. Tables ([training], [lora], [model], [design], a stage) are joined key by
key; everything else is replaced, `files` and [model.config] too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from gaincell.chips.design import Design
from gaincell.chips.design_file import load_design
from gaincell.chips.fields import TABLE_NUMBERS
from gaincell.devices.cell import CELL_KINDS
from gaincell.errors import DesignError, GaincellError, InputError
from gaincell.files import read_toml
from gaincell.mapping import recipe_checks as checks
from gaincell.mapping.initial import candidates_for
from gaincell.mapping.overrides import override
from gaincell.mapping.recipe import (
    MADE_HERE,
    ROOTS,
    LoraRecipe,
    ModelRecipe,
    Recipe,
    StageRecipe,
    plain_model,
)
from gaincell.mapping.recipe_checks import check_model
from gaincell.quantity import check_keys, one_of
from gaincell.schema import Count, Json, Name, OneOf, Rate, Whole, called, check_value, either, parse, table
from gaincell.shipped import located
from gaincell.training.settings import TrainSettings

TRAINING = table(TrainSettings)
STAGE = table(StageRecipe, TrainSettings, needed=("name", "start"), without=("training",))
MODEL = table(
    ModelRecipe,
    TrainSettings,
    needed=("config", "vocabulary", "characters_per_document", "steps"),
    without=("training", "seed"),
)
LORA = table(LoraRecipe, needed=("rank",))
FILE = table(
    Recipe,
    needed=("model", "design", "block"),
    without=("name", "stages", "changes"),
    model=either(str, MODEL),
    adapter=str,
    design=either(str, Json),
    files=either(
        list[Annotated[str, called("the name of a text")]],
        dict[str, Annotated[Rate, called("the share of")]],
    ),
    skip_documents=dict[str, Whole],
    lora=LORA,
    extends=Name,
    stages=list[Name],
    training=TRAINING,
    stage=list[STAGE],  # type: ignore[valid-type]
)
"""What a recipe's file holds."""
JOINED = ("model", "design", "lora", "training")
"""Tables that one recipe shares with the one it extends."""


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
        raw = _read(located(path), ())
        changed = override(raw if design is None else {**raw, "design": design}, changes)
        return replace(_recipe(changed, path.name), changes=changes)
    except GaincellError as error:
        raise InputError(str(error) if path.name in str(error) else f"{path.name}: {error}") from error


def _read(path: Path, children: tuple[Path, ...]) -> Json:
    """A recipe's table, with those that it extends."""
    name, place = path.name, path.resolve()
    if place in children:
        raise InputError(f"{name}: recipes extend each other in a circle; remove one 'extends'")
    try:
        own = read_toml(path)
    except (OSError, ValueError) as error:
        raise InputError(f"the recipe {name} cannot be read: {error}") from error
    if not own.keys() & {"extends", "stages"}:
        return own
    parent: Json = {}
    if (extended := own.pop("extends", None)) is not None:
        check_value(extended, Name, f"{name}: extends")
        parent = _read(path.parent / extended, (*children, place))
    found = _joined(parent, own)
    for key in JOINED:
        if isinstance(parent.get(key), dict) and isinstance(own.get(key), dict):
            found[key] = _joined(parent[key], own[key])
    stages: dict[str, Json] = {}
    for recipe, entries in ((extended, parent), (name, own)):
        for stage in check_value(entries.get("stage", []), list[Json], f"{recipe}: stage"):
            title = check_value(stage.get("name"), str, f"{recipe}: the name of a stage")
            stages[title] = _joined(stages.get(title, {}), stage)
    wanted = found.pop("stages", [*stages])
    check_value(wanted, list[Annotated[str, OneOf(stages)]], f"{name}: stages")
    return found | {"stage": [stages[stage] for stage in wanted]}


def _joined(before: Json, after: Json) -> Json:
    return {key: entry for key, entry in (before | after).items() if entry != "default"}


def _recipe(raw: Mapping[str, Any], name: str) -> Recipe:
    head = parse(FILE, raw, name)
    if odd := head.keys() & {"extends", "stages"}:  # a file's are gone by now
        raise InputError(f"{min(odd)} cannot be set; write a file with it, or choose a stage with --only")
    common, design = head.pop("training", {}), _design(head.pop("design"))
    stages: list[StageRecipe] = []
    for number, entry in enumerate(head.pop("stage", ()), start=1):
        stages.append(_stage(entry, common, stages, design, f"{name}, stage {number}"))
    for number, stage in enumerate(stages):
        if stage.task == "train" and stage.loss != "cross-entropy":
            _check_teacher(stage, stages[:number], stages[number:], f"{name}, stage {number + 1}")
    if "adapter" in head:
        checks.check_adapter(head["adapter"], head.get("adapter_stage"))
    head["files"] = _files(head.get("files", {}), head.get("skip_documents", {}))
    head["model"] = _model(head["model"], common, name)
    if "lora" in head:
        head["lora"] = LoraRecipe(**head["lora"])
    recipe = Recipe(name=name, design=design, stages=tuple(stages), **head)
    if recipe.repeated and recipe.order == "random":
        raise InputError(f'repeated = {recipe.repeated}; it needs order = "shuffled"')
    if isinstance(recipe.model, ModelRecipe) and recipe.model.run is not None:
        recipe = replace(recipe, model=replace(recipe.model, seed=_pretraining_seed(recipe, recipe.model)))
    made = recipe.model.config if isinstance(recipe.model, ModelRecipe) else {}
    stated = made.get("max_position_embeddings", made.get("n_positions", recipe.block))
    context: int = check_value(stated, Count, "[model] context")
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
    entry: Json, common: Mapping[str, Any], before: Sequence[StageRecipe], design: Design, where: str
) -> StageRecipe:
    names = [stage.name for stage in before]
    check_value(entry["start"], Annotated[str, OneOf((*ROOTS, *names))], f"{where}: start")
    checks.check_use(entry, where)
    for key in ("initial", "initial_gains"):
        if entry["start"] in (*names, "adapter") and key in entry:
            raise InputError(f"{where}: {key} has no effect with start = {entry['start']!r}; leave it out")
    own = {key: value for key, value in entry.items() if key not in TRAINING.model_fields}
    if "initial_gains" in own and own.get("initial") == "released":
        raise InputError(f"{where}: initial_gains has no effect with initial = 'released'; leave it out")
    low, high = own.get("initial_gains", (0.0, 1.0))
    if low >= high:
        raise InputError(f"{where}: initial_gains = [{low:g}, {high:g}]; give the smaller one first")
    stage = StageRecipe(**{"title": own["name"], **own}, training=_training(entry, common, where))
    if stage.name in (*names, *ROOTS, "settings") or not stage.name.replace("-", "").isalnum():
        raise InputError(f"{where}: the name {stage.name!r} is taken or not of letters, digits and -")
    if stage.cell is not None:
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
    own = {key: value for key, value in entry.items() if key in TRAINING.model_fields}
    try:
        return TrainSettings(**{"gradient_checkpointing": None, **common, **own})
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
    own = {key: entry for key, entry in raw.items() if key not in TRAINING.model_fields}
    return ModelRecipe(**own, training=_training(raw, common, f"{name} [model]"))


def _pretraining_seed(recipe: Recipe, model: ModelRecipe) -> int:
    """Of the RUN whose model is taken. Raises InputError: it made another model, or of other text."""
    where = f"model.run = {model.run!r}"
    made = checks.run_settings(str(model.run), where)
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


def _design(raw: Any) -> Design:
    if isinstance(raw, str):
        return load_design(raw)
    changes = dict(raw)
    if "name" not in changes:
        raise InputError("[design] lacks 'name'")
    design = load_design(check_value(changes.pop("name"), str, "[design] name"))
    if "cell" in changes:
        check_value(changes["cell"], Annotated[str, OneOf(CELL_KINDS)], "[design] cell")
    for name in TABLE_NUMBERS.keys() & changes:
        changes[name] = _design_table(design, name, changes[name])
    return design.replace(**changes)


def _design_table(design: Design, table: str, raw: Any) -> Any:
    """One of the tables of a design, such as [design.noise], with some of its numbers changed."""
    where, kinds = f"[design] {table}", TABLE_NUMBERS[table]
    check_keys(check_value(raw, Json, where), kinds, where)
    numbers = {key: kinds[key].convert(number, f"{where}.{key}") for key, number in raw.items()}
    return replace(getattr(design, table), **numbers)


def _files(raw: Any, skipped: Mapping[str, int]) -> dict[str, float | None]:
    """Names of texts and their shares, None without. Raises InputError, also for a text of which
    documents are skipped and that is none of them.
    """
    if isinstance(raw, list) and len(set(raw)) < len(raw):
        raise InputError(f"files = {raw}; a text stands there twice")
    if skipped and not raw:
        raise InputError(f"skip_documents = {skipped!r} needs files: it is for names of files")
    for name in skipped:
        check_value(name, Annotated[str, OneOf(raw)], "skip_documents: the text")
    return dict.fromkeys(raw) if isinstance(raw, list) else raw
