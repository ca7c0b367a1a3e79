"""Signals of `gaincell simulate`: random, or of a real layer, with the chip that goes with them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from gaincell.arrays.simulation import Signals, random_signals
from gaincell.chips.design import Design
from gaincell.chips.design_file import load_design
from gaincell.chips.device import with_cell
from gaincell.spice.inputs import read_dump

DEFAULT_CHIP, DEFAULT_LAYERS = "leroux2025", 12


class Source(NamedTuple):
    """Signals, and the chip and layers that go with them."""

    chip: Design
    layers: int
    signals: Signals


def read_source(
    file: Path | None, design: str | None, cell: str | None, tokens: int, group: int, head_dim: int, seed: int
) -> Source:
    """Of a file of gaincell evaluate --dump, with its chip unless another is named; or random ones."""
    if file is None:
        chip = load_design(design or DEFAULT_CHIP)
        found = Source(chip, DEFAULT_LAYERS, random_signals(tokens, group, head_dim, seed))
    else:
        found = _dumped(file, tokens)
        found = found._replace(chip=load_design(design)) if design else found
    return found if cell is None else found._replace(chip=with_cell(found.chip, cell))


def _dumped(file: Path, tokens: int) -> Source:
    """Codes of one layer of a real model, as pulse widths and volts."""
    found = read_dump(file)
    q, k, v = (codes[:1, :, :tokens].long() for codes in (found.q, found.k, found.v))
    design = found.design
    steps, levels = (design.query_levels or 16) - 1, (design.storage_levels or 16) - 1
    span = (design.v_max - design.v_min) / levels
    u = torch.tensor(design.levels.storage or [(code - levels / 2) * span for code in range(levels + 1)])
    widths = torch.tensor(design.levels.query or [code / steps for code in range(steps + 1)])
    volts = (design.v_offset + u[code] for code in (k, v))
    return Source(design, found.layers, Signals(widths[q.abs()] * q.sign(), *volts))
