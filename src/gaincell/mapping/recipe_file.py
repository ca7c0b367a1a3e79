"""Reading recipes: from their files, with changes from the command line, and checked before any work.

    extends = "low-tokens.toml"               # what this file does not say is as there, in the same folder
    stages = ["more", "software-continued"]   # of both files, those that there are; without: all
    [[stage]]
    name = "software-continued"               # a stage of the other one, with other steps
    steps = 640
    bf16 = "default"                          # takes back what the other one says
    rate_factor = 0.5                         # of every learning rate of [training] that it does not state

What is extended may extend another. Tables ([training], [lora], [model], [design], a stage) are joined key by
key; everything else is replaced, `files` and [model.config] too.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from gaincell.chips.design import Design
from gaincell.chips.design_file import load_design, name_after
from gaincell.chips.device import with_cell
from gaincell.chips.fields import TABLE_NUMBERS
from gaincell.errors import GaincellError, InputError
from gaincell.files import parse_toml, read_toml
from gaincell.mapping import recipe_checks as checks
from gaincell.mapping.recipe import MADE_HERE, LoraRecipe, ModelRecipe, Recipe, StageRecipe
from gaincell.quantity import check_keys, did_you_mean, one_of
from gaincell.resources import resolve
from gaincell.schema import Json, Name, OneOf, Rate, Whole, called, check_value, either, parse, table
from gaincell.training.checkpoint import ABSENT, difference, same
from gaincell.training.settings import TrainSettings

TRAINING = table(TrainSettings)
STAGE = table(StageRecipe, TrainSettings, needed=("name", "start"), without=("training",), rate_factor=Rate)
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
        list[Annotated[str, called("the name of a text", "books")]],
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
FORM = "give KEY=VALUE, such as seed=1, training.batch=4 or stage.linear.steps=500"
DEFAULT = "default"
"""Takes back what the recipe that is extended sets; with --set, what the recipe sets."""
JOINED = ("model", "design", "lora", "training")
"""Tables that one recipe shares with the one it extends."""


def load_recipe(path: Path, design: str | None = None, changes: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe, for another chip than its own if `design` names one, with other values under some keys
    (see `parse_overrides`).

    Raises:
        InputError: the file is missing or no TOML, a key is unknown, missing or of a wrong type, a value is
            not allowed or has no effect, a stage names one that does not come before it, or a model or RUN is
            not there (one of the hub is believed to be).
    """
    changes = changes or {}
    if design is not None and (key := next((k for k in ("design", "design.name") if k in changes), None)):
        raise InputError(f"the design is given as {design} and as {changes[key]}; give it once")
    try:
        raw = _read(resolve(path), ())
        changed = _override(raw if design is None else {**raw, "design": design}, changes)
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
    return {key: entry for key, entry in (before | after).items() if entry != DEFAULT}


def _recipe(raw: Mapping[str, Any], name: str) -> Recipe:
    head = parse(FILE, raw, name)
    common, design = head.pop("training", {}), _design(head.pop("design"))
    stages: list[StageRecipe] = []
    for number, entry in enumerate(head.pop("stage", ()), start=1):
        where = f"{name}, stage {number}"
        checks.check_entry(entry, [stage.name for stage in stages], where)
        own, training = _with_training(entry, common, where)
        stages.append(StageRecipe(**{"title": own["name"], **own}, training=training))
    if "adapter" in head:
        checks.check_adapter(head["adapter"], head.get("adapter_stage"))
    head["files"] = _files(head.get("files", {}), head.get("skip_documents", {}))
    head["model"] = _model(head["model"], common, name)
    if "lora" in head:
        head["lora"] = LoraRecipe(**head["lora"])
    recipe = Recipe(name=name, design=design, stages=tuple(stages), **head)
    if isinstance(recipe.model, ModelRecipe) and recipe.model.run is not None:
        recipe = replace(recipe, model=replace(recipe.model, seed=_pretraining_seed(recipe, recipe.model)))
    checks.check_recipe(recipe)
    return recipe


def _with_training(entry: Json, common: Json, where: str) -> tuple[Json, TrainSettings]:
    """What a stage or a model says beside its training; and that, over [training], checked. Rates that it
    does not state are those of [training] times its `rate_factor`.
    """
    own = {key: value for key, value in entry.items() if key in TRAINING.model_fields}
    other = {key: value for key, value in entry.items() if key not in own}
    if (factor := other.pop("rate_factor", None)) is not None:
        common = {"learning_rate": TrainSettings.learning_rate, **common}
        rates = {key: value for key, value in common.items() if key.endswith("learning_rate")}
        common |= {key: float(f"{factor * value:.12g}") for key, value in rates.items()}
    with checks.refusing(where):
        return other, TrainSettings(**{"gradient_checkpointing": None, **common, **own})


def _model(raw: Any, common: Json, name: str) -> str | ModelRecipe:
    if isinstance(raw, str):
        checks.check_model(raw, f"model = {raw!r}")
        return raw
    where = f"{name} [model]"
    own, training = _with_training(raw, common, where)
    if training.sharded:
        raise InputError(f"{where}: a model that is made is not sharded; say sharded = false there")
    return ModelRecipe(**own, training=training)


def _pretraining_seed(recipe: Recipe, model: ModelRecipe) -> int:
    """Of the RUN whose model is taken.

    Raises:
        InputError: it made another model, or of other text.
    """
    where = f"model.run = {model.run!r}"
    made = checks.run_settings(str(model.run), where)
    wanted: dict[str, Any] = {
        "base_sha256": MADE_HERE,
        "model": model.made_by(),
        **{key: getattr(recipe, key) for key in ("files", "skip_documents", "block", "order")},
    }
    known = json.loads(json.dumps(wanted))
    odd = next((key for key in known if not same(made.get(key, ABSENT), known[key])), None)
    if odd == "base_sha256":
        raise InputError(f"{where}: this RUN did not make its model; name the one that did")
    if odd is not None:
        raise InputError(
            f"{where}: it made its model with another {odd}{difference(made.get(odd), known[odd])}; give "
            "that, or another RUN ([training] is of the model, too: set what is for stages alone in each)"
        )
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
        design = with_cell(design, check_value(changes.pop("cell"), str, "[design] cell"))
    for part in TABLE_NUMBERS.keys() & changes:  # such as [design.noise], some of its numbers
        where, kinds = f"[design] {part}", TABLE_NUMBERS[part]
        check_keys(check_value(changes[part], Json, where), kinds, where)
        numbers = {key: kinds[key].convert(number, f"{where}.{key}") for key, number in changes[part].items()}
        changes[part] = replace(getattr(design, part), **numbers)
    made = design.replace(**changes)
    changed = [key for key in changes if getattr(made, key) != getattr(design, key)]
    return made.replace(name=name_after(design, changed))


def _files(raw: Any, skipped: Mapping[str, int]) -> dict[str, float | None]:
    """Names of texts and their shares, None without.

    Raises:
        InputError: a name or a share cannot be, or a skipped text is not named.
    """
    if isinstance(raw, list) and len(set(raw)) < len(raw):
        raise InputError(f"files = {raw}; a text stands there twice")
    if skipped and not raw:
        raise InputError(f"skip_documents = {skipped!r} needs files: it is for names of files")
    for name in skipped:
        check_value(name, Annotated[str, OneOf(raw)], "skip_documents: the text")
    return dict.fromkeys(raw) if isinstance(raw, list) else raw


# -- changes from the command line: --set seed=1 --set stage.linear.steps=500 ---------------------------


def parse_overrides(given: Sequence[str]) -> dict[str, Any]:
    """Dotted keys and their values. A value is TOML; what is no TOML is text, so that it needs no quotes.

    Raises:
        InputError: one is not of the form KEY=VALUE, or a key stands there twice.
    """
    found: dict[str, Any] = {}
    for entry in given:
        key, equals, text = (part.strip() for part in entry.partition("="))
        if not (equals and text and all(key.split("."))):
            raise InputError(f"--set {entry}: {FORM}")
        if key in found:
            raise InputError(f"--set {key} is given twice; give one value")
        if part := next((known for known in found if _holds(known, key) or _holds(key, known)), None):
            raise InputError(f"--set {key} and --set {part}: one is a part of the other; give one of the two")
        found[key] = text
        with suppress(ValueError):
            parsed = parse_toml(f"value = {text}")
            found[key] = parsed["value"] if len(parsed) == 1 else text
    return found


def _holds(table: str, key: str) -> bool:
    return key.startswith(f"{table}.") and not (table == "design" and key != "design.name")


def _override(raw: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as read from its file, with other values under dotted keys: `stage.NAME.KEY` for a stage.
    `design.KEY` also changes a chip that is given by its name. It is checked afterwards as if its file said
    so: there is no second list of keys.

    Raises:
        InputError: a part of a key names no table, or no stage, or a key or value cannot be set.
    """
    changed = copy.deepcopy(dict(raw))
    for dotted, value in changes.items():
        *tables, key = dotted.split(".")
        if (first := dotted.partition(".")[0]) in ("extends", "stages"):
            hint = " (did you mean stage?)" if first != dotted else "; write a file with it, or use --only"
            raise InputError(f"--set {dotted}: {first} cannot be set{hint}")
        if value == "none" and tables[:1] != ["design"]:
            raise InputError(f"--set {dotted}=none: give {DEFAULT}, which takes back what the recipe sets")
        if tables == ["stage"]:
            raise InputError(f"--set {dotted}: give a key of the stage, such as {dotted}.steps=500")
        there = changed
        for depth, name in enumerate(tables):
            where = ".".join(tables[: depth + 1])
            if where == "design" and isinstance(there.get(name), str):
                there[name] = {"name": there[name]}
            if where == "stage" and isinstance(there.get(name), list):
                there = {str(s["name"]): s for s in there[name] if isinstance(s, dict) and "name" in s}
            elif depth == 1 and tables[0] == "stage" and name not in there:
                raise InputError(
                    f"--set {dotted}: there is no stage {name!r}{did_you_mean(name, there)}; "
                    f"it has {one_of(there)}"
                )
            else:
                there = there.setdefault(name, {})
            if not isinstance(there, dict):
                raise InputError(f"--set {dotted}: {where} = {there!r} is no table and has no {key!r}")
        if value == DEFAULT and key not in there:
            if tables[:1] == ["stage"] and key in changed.get("training", {}):
                raise InputError(
                    f"--set {dotted}={DEFAULT}: [training] sets it for all stages; give training.{key}="
                    f"{DEFAULT}, and stage.NAME.{key} where it shall be set"
                )
            raise InputError(f"--set {dotted}={DEFAULT}: the recipe does not set it; leave this out")
        there[key] = value
        if value == DEFAULT:
            del there[key]
    return changed
