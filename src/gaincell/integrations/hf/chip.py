"""Another chip for a model that is attached, named as commands take it."""

from __future__ import annotations

from transformers import PreTrainedModel

from gaincell.arrays import Schedule
from gaincell.chips.design import Design
from gaincell.chips.design_file import load_design
from gaincell.chips.device import with_cell
from gaincell.errors import InputError
from gaincell.integrations.hf.attach import attached_layers, set_design
from gaincell.units import Second

AS_SAVED = "the RUN as it was saved"
"""What gains and offsets of a RUN are, for the line that says which version of a model is meant."""


def change_chip(
    model: PreTrainedModel,
    design: str | None = None,
    cell: str | None = None,
    window: int | None = None,
    other_latency: Second | None = None,
) -> str:
    """Give an attached model another design, cell, ring or token period, each if it is not None.

    Args:
        model: attached, where one is given.
        design: A shipped chip or a .toml file.
        cell: As `gaincell.chips.device.with_cell` takes it.
        window: Token columns of a head.
        other_latency: Time of a token outside the arrays, for the token period.

    Returns:
        `chip_exchanged`.

    Raises:
        InputError: one is given and the model is not attached.
    """
    if all(change is None for change in (design, cell, window, other_latency)):
        return ""
    layers = attached_layers(model)
    if not layers:
        raise InputError(
            "a model in software has no chip: give a RUN with another design, cell, window or other latency"
        )
    before = chip = layers[0].design
    if design is not None:
        chip = load_design(design).replace(layers=len(layers))
    if cell is not None:
        chip = with_cell(chip, cell)
    if window is not None:
        chip = chip.replace(window=window)
    if other_latency is not None:
        schedule = Schedule(chip, layers[0].heads // layers[0].kv_heads)
        chip = chip.replace(token_period=schedule.token_period(len(layers), other_latency))
    set_design(model, chip)
    return chip_exchanged(before, layers[0].design)


def chip_exchanged(before: Design, after: Design) -> str:
    """What to say behind the origin of gains and offsets that were made for another chip: its other cells,
    design, ring and token period; "" for the same chip.
    """
    said = []
    if before.cell != after.cell:
        other = "other " if before.cell.name == after.cell.name else ""
        kinds = f"{before.cell.name} cells exchanged for {other}{after.cell.name} ones"
        said.append(f"its {kinds} without adaptation")
    if before.name != after.name:
        said.append(f"on design {after.name}")
    if before.window != after.window:
        said.append(f"with a ring of {after.window:,} columns")
    if before.explicit_token_period != after.explicit_token_period:
        said.append(f"with a token period of {after.token_period:.4g} s")
    if not said and before.hash != after.replace(layers=before.layers).hash:
        said.append(f"on another chip called {after.name}")
    return "".join(f", {words}" for words in said)
