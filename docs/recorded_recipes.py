"""Recipes of committed results: some have another name today, or are another one with other values.

A result says what its recipe was called and what was set; `recipe_of` reads the same from today's files.
"""

from __future__ import annotations

from functools import cache
from operator import attrgetter
from pathlib import Path

from gaincell.mapping.initial_gains import candidates_for
from gaincell.mapping.recipe import Recipe, StageRecipe
from gaincell.mapping.recipe_file import load_recipe, parse_overrides
from gaincell.results.run import TrainedResult

RECIPES = Path(__file__).parents[1] / "recipes"
NARROW = ("rotated_values=false", "lora.rank=14")
PAIRED = ("paired=true", "balanced=false", *NARROW, "training.turn_learning_rate=default")

RECORDED = {
    "low-tokens-rotated.toml": ("low-tokens.toml",),
    "low-tokens-balanced.toml": ("low-tokens.toml", *NARROW),
    "low-tokens-fitted.toml": ("low-tokens.toml", *PAIRED, "stage.fine-tuned.rate_factor=default"),
    "low-tokens-more.toml": (
        "low-tokens-further.toml",
        *PAIRED,
        "stage.more.rate_factor=0.6",
        "stage.further.rate_factor=0.4",
        "adapter=default",
    ),
    "low-tokens-balanced-more.toml": ("low-tokens-further.toml", *NARROW),
    "low-tokens-extended-fitted.toml": ("low-tokens-extended.toml",),
}
"""Name in results: today's name, and what is set in it."""

ELSEWHERE = ("adapter", "model.run")
"""Set in results: what another run had made."""


def today(recorded: str) -> tuple[str, tuple[str, ...]]:
    """The name of a recipe today, and what has to be set in it."""
    name, *changes = RECORDED.get(recorded, (recorded,))
    return name, tuple(changes)


def shown(run: TrainedResult) -> str:
    """What a table calls the recipe of a result: today's, with what is set in it for the saved stage."""
    name, _ = today(run.recipe)
    plain, ran = _load(name, (), ()), recipe_of(run)
    keys = [key for key in ran.changes if _value(plain, run.saved, key) != _value(ran, run.saved, key)]
    values = [f"`{key} = {ran.changes[key]}`".lower() for key in keys if "rate" not in key]
    return ", ".join([f"`{name}`", *values, *(["other rates"] if len(values) < len(keys) else [])])


def _value(recipe: Recipe, saved: str, key: str) -> object:
    """Of a key of `--set`, as the saved stage has it; None where it says nothing of this stage."""
    place, _, rest = key.partition(".")
    stage = recipe.stage(saved)
    if place == "stage":
        place, _, rest = rest.partition(".")
        if place != saved:
            return None
    elif place != "training":
        return None if key in ("seed", "adapter") else attrgetter(key)(recipe)
    return getattr(stage, rest, getattr(stage.training, rest, stage.training))  # rate_factor is in every rate


def recipe_of(run: TrainedResult) -> Recipe:
    """With what was set otherwise, but for the adapter or the model that a run went on from."""
    name, changes = today(run.recipe)
    own = (f"{key}={value}" for key, value in (run.set or {}).items() if key not in ELSEWHERE)
    return _load(name, changes, tuple(own))


@cache
def _load(name: str, changes: tuple[str, ...], own: tuple[str, ...]) -> Recipe:
    return load_recipe(RECIPES / name, changes=parse_overrides(changes) | parse_overrides(own))


def count_candidates(recipe: Recipe, stage: StageRecipe) -> int:
    """How many first gains and offsets a stage chooses from, for every head."""
    if stage.initial not in ("statistics", "wide"):
        return 1
    return len(candidates_for(recipe.design, recipe.paired, stage.initial == "wide", recipe.balanced))
