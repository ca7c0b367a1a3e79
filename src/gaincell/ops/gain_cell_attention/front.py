"""What reaches the arrays of a real chip: pulses of its drivers, and voltages that its writes left.

Before the implementations, which take both as they are; nothing of this is at work on a nominal chip.

Dimensions: B sequences, H query heads, Hk key/value heads, Tq queries, Tk keys, D head dimension, M window.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gaincell.circuits import write_dac
from gaincell.circuits.converter_errors import Line, converter_errors, driven
from gaincell.circuits.noise import Draws, jitter
from gaincell.config import Design
from gaincell.devices.random import Effect
from gaincell.devices.variability import cell_errors
from gaincell.devices.writing import write_errors


def scaled(x: Float[Tensor, "B H T D"], gain: Float[Tensor, " H"], offset: Float[Tensor, " H"]) -> Tensor:
    """a x + b of every head."""
    return x * gain[:, None, None] + offset[:, None, None]


def pulses(
    x: Float[Tensor, "B H Tq D"], design: Design, layer: int, kv_heads: int, query_index: Int[Tensor, "B Tq"]
) -> Float[Tensor, "B H Tq D"]:
    """Query pulses as the drivers give them: converter_errors.py, and the jitter of noise.py."""
    heads = x.shape[1]
    line = converter_errors(design, layer, kv_heads, x.shape[3], x.dtype, x.device).driver
    if line is not None:
        x = driven(x, Line(*(e.repeat_interleave(heads // kv_heads, 0)[:, None] for e in line)))
    step = query_index.clamp(min=0)
    if bool((step == step[:1]).all()):
        step = step[:1]
    row = torch.arange(x.shape[3], device=x.device)
    head = torch.arange(heads, device=x.device)[:, None, None]
    draws = Draws(design, layer, x.dtype, head=head, step=step[:, None, :, None], column=0, row=row)
    return jitter(design, x, Effect.QUERY_JITTER, draws)


def stored(
    k: Float[Tensor, "B Hk Tk D"],
    v: Float[Tensor, "B Hk Tk D"],
    design: Design,
    layer: int,
    reads: int,
    key_index: Int[Tensor, "B Tk"] | None,
) -> tuple[Float[Tensor, "B Hk Tk D"], Float[Tensor, "B Hk Tk D"]]:
    """What is in the cells of both arrays, about V_offset, once keys and values (volts) are written.

    key_index: as in `written`; not needed where writes have no errors.
    """
    ku, vu = (
        write_dac(volts, design.dac_levels, design.v_min, design.v_max, design.v_offset) for volts in (k, v)
    )
    if design.writing.present:
        assert key_index is not None
        ku, vu = (written(u, design, layer, array, reads, key_index) for array, u in enumerate((ku, vu)))
    return ku, vu


def written(
    u: Float[Tensor, "B Hk Tk D"],
    design: Design,
    layer: int,
    array: int,
    reads: int,
    key_index: Int[Tensor, "B Tk"],
) -> Float[Tensor, "B Hk Tk D"]:
    """Voltages that are in the cells after the writes of writing.py, each a lap after the one before.

    u: the write DACs' voltages.  reads: per token, of one column.  key_index: consecutive, -1 for padding.
    What was in a column before the first of these tokens is taken for discharged.
    """
    u = write_errors(u, design, layer, array, key_index)
    residual, lap, tokens = design.writing.discharge_residual, design.window, u.shape[2]
    if residual == 0 or tokens <= lap:
        return u
    left = left_after(design, layer, array, reads, u[:, :, lap:], key_index[:, :-lap] % lap, lap)
    held = (key_index[:, :-lap] >= 0)[:, None, :, None]
    target = design.decay_target
    laps = [u[:, :, :lap]]
    for start in range(lap, tokens, lap):
        now = slice(start, min(start + lap, tokens))
        before = slice(now.start - lap, now.stop - lap)
        old = target + (laps[-1][:, :, : now.stop - now.start] - target) * left[:, :, before]
        laps.append(u[:, :, now] + residual * torch.where(held[:, :, before], old, 0.0))
    return torch.cat(laps, 2)


def left_after(
    design: Design,
    layer: int,
    array: int,
    reads: int,
    like: Float[Tensor, "B Hk T D"],
    column: Int[Tensor, "B T"],
    tokens: Float[Tensor, "B T"] | int,
    extra: Tensor | float = 0.0,
) -> Tensor:
    """Share of u - u_inf that is left in `column` after so many token periods and `extra` seconds.

    Broadcasts to `like`.
    """
    age = torch.as_tensor(tokens, dtype=torch.float64, device=like.device).expand(column.shape)
    leaked = torch.zeros_like(age)
    if design.tau is not None:
        leaked = (age * design.token_period + extra).clamp(min=0.0) / design.tau
    errors = cell_errors(design, layer, like.shape[1], like.shape[3], array, torch.float64, like.device)
    leaked = leaked[:, None, :, None]
    if errors is not None and errors.leakage is not None:
        leaked = leaked * errors.leakage[:, column].transpose(0, 1)
    disturbed = (age * reads * design.disturb_per_read)[:, None, :, None]
    return torch.exp(-leaked - disturbed).to(like.dtype)
