"""Recipes of committed results: some have another name today, or are another one with other values.

A result says what its recipe was called and what was set; `recipe_of` reads the same from today's files.
"""

from __future__ import annotations

from pathlib import Path

from gaincell.mapping.recipe import Recipe
from gaincell.mapping.recipe_file import load_recipe, parse_overrides
from gaincell.results.run import TrainedResult

RECIPES = Path(__file__).parents[1] / "recipes"
NARROW = ("rotated_values=false", "lora.rank=14")
RATES = ("", "scale_", "offset_", "bias_", "exponent_", "mixing_", "turn_")
RECORDED = {
    "low-tokens-rotated.toml": ("low-tokens.toml",),
    "low-tokens-balanced.toml": ("low-tokens.toml", *NARROW),
    "low-tokens-fitted.toml": (
        "low-tokens.toml",
        "paired=true",
        "balanced=false",
        *NARROW,
        "training.turn_learning_rate=default",
        *(f"stage.fine-tuned.{kind}learning_rate=default" for kind in RATES),
    ),
    "low-tokens-balanced-more.toml": ("low-tokens-more.toml", *NARROW),
    "low-tokens-extended-fitted.toml": ("low-tokens-extended.toml",),
}
"""Name in results: today's name, and what is set in it."""


def today(recorded: str) -> tuple[str, tuple[str, ...]]:
    """The name of a recipe today, and what has to be set in it."""
    name, *changes = RECORDED.get(recorded, (recorded,))
    return name, tuple(changes)


def recipe_of(run: TrainedResult) -> Recipe:
    """With what was set otherwise, but for the adapter that a run went on from."""
    name, changes = today(run.recipe)
    own = [f"{key}={value}" for key, value in (run.set or {}).items() if key != "adapter"]
    return load_recipe(RECIPES / name, changes=parse_overrides(list(changes)) | parse_overrides(own))
