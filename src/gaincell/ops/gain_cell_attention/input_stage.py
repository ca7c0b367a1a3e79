"""The input stage: queries become pulses of the drivers, keys and values voltages that the writes left.

    requested  -- convert_writes, add_write_errors -->  written  -- drive_queries -->  driven

Where a chip's drivers and writes do exactly what they are asked for, a kernel may take what is requested and
do both itself; on any other chip (`Design.input_stage_differs`) every backend is given what this file makes.
Arrays with a normalising column (circuits/normaliser.py) are served as arrays of D + 1 rows and columns
without one: the column is written with the highest voltage, the additional key row driven by no pulse.

Dimensions: B sequences, H query heads, Hk key/value heads, Tq queries, Tk keys, D head dimension, M window.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from gaincell.chips.design_file import Design
from gaincell.circuits import query_driver, write_dac
from gaincell.circuits.converter_errors import Line, converter_errors, driven
from gaincell.circuits.levels import Levels
from gaincell.circuits.noise import Draws, jitter
from gaincell.circuits.normaliser import Normaliser
from gaincell.devices.random import Effect
from gaincell.devices.variability import cell_errors
from gaincell.devices.writing import write_errors
from gaincell.ops.gain_cell_attention.call import Call


def scaled(x: Float[Tensor, "B H T D"], gain: Float[Tensor, " H"], offset: Float[Tensor, " H"]) -> Tensor:
    return x * gain[:, None, None] + offset[:, None, None]


@lru_cache(maxsize=64)
def _without_normaliser(design: Design, head_dim: int) -> Design:
    """The chip whose arrays of `head_dim` + 1 rows behave as those of `head_dim` rows."""
    per_row = design.score_saturation_per_row * head_dim / (head_dim + 1)
    return design.replace(normaliser=Normaliser(), score_saturation_per_row=per_row)


def with_normaliser_column(call: Call) -> Call:
    """The call with one dimension more where the chip has a normalising column; else as it is."""
    d = call.design
    if not d.normaliser.present:
        return call
    middle, top = (d.v_offset, d.v_max) if call.stage == "requested" else (0.0, d.highest_write)
    k, v = pad(call.k, (0, 1), value=middle), pad(call.v, (0, 1), value=top)
    return call._replace(q=pad(call.q, (0, 1)), k=k, v=v, design=_without_normaliser(d, call.q.shape[3]))


def array_inputs(call: Call) -> Call:
    """The call with pulses and voltages, through what of the input stage is still before it."""
    if call.stage == "requested":
        call = add_write_errors(convert_writes(call, call.design.dac_levels))
    return drive_queries(call) if call.stage == "written" else call


def drive_queries(call: Call) -> Call:
    """The pulses that the drivers give for the requested widths."""
    d = call.design
    return add_driver_errors(call._replace(q=query_driver(call.q, d.driver_levels, signed=d.drivers.signed)))


def convert_writes(call: Call, levels: Levels) -> Call:
    """The write DACs' voltages, about V_offset."""
    d = call.design
    k, v = (write_dac(volts, levels, d.v_min, d.v_max, d.v_offset) for volts in (call.k, call.v))
    return call._replace(k=k, v=v, stage="written")


def add_write_errors(call: Call) -> Call:
    """What the writes of writing.py make of the write DACs' voltages, each a lap after the one before.

    Tokens are consecutive. What was in a column before the first of them is taken for discharged.
    """
    return call._replace(k=_written(call, call.k, 0), v=_written(call, call.v, 1))


def _written(call: Call, u: Tensor, array: int) -> Tensor:
    design, index = call.design, call.keys
    u = write_errors(u, design, call.layer, array, index)
    residual, lap, tokens = design.writing.discharge_residual, design.window, u.shape[2]
    if residual == 0 or tokens <= lap:
        return u
    left = decay_factor(call, array, u[:, :, lap:], index[:, :-lap] % lap, lap)
    held = (index[:, :-lap] >= 0)[:, None, :, None]
    target = design.decay_target
    laps = [u[:, :, :lap]]
    for start in range(lap, tokens, lap):
        now = slice(start, min(start + lap, tokens))
        before = slice(now.start - lap, now.stop - lap)
        old = target + (laps[-1][:, :, : now.stop - now.start] - target) * left[:, :, before]
        laps.append(u[:, :, now] + residual * torch.where(held[:, :, before], old, 0.0))
    return torch.cat(laps, 2)


def add_driver_errors(call: Call) -> Call:
    """Pulses as the drivers give them (converter_errors.py, and the jitter of noise.py), in one precision.

    Of the call, q are pulse widths of perfect drivers, k and v voltages. The gradients of all three are those
    of the arrays alone: no clamp of a converter is passed.
    """
    design, x = call.design, call.q
    dtype = torch.promote_types(x.dtype, torch.promote_types(call.k.dtype, call.v.dtype))
    x = x.to(dtype)
    if design.input_stage_differs:
        line = converter_errors(design, call.layer, call.kv_heads, x.shape[3], dtype, x.device).driver
        if line is not None:
            x = driven(x, Line(*(e.repeat_interleave(call.reads, 0)[:, None] for e in line)))
        step = call.queries.clamp(min=0)
        if bool((step == step[:1]).all()):
            step = step[:1]
        head = torch.arange(x.shape[1], device=x.device)[:, None, None]
        row = torch.arange(x.shape[3], device=x.device)
        draws = Draws(design, call.layer, dtype, head=head, step=step[:, None, :, None], column=0, row=row)
        x = jitter(design, x, Effect.QUERY_JITTER, draws)
    return call._replace(q=x, k=call.k.to(dtype), v=call.v.to(dtype), stage="driven")


def decay_factor(
    call: Call,
    array: int,
    like: Float[Tensor, "B Hk T D"],
    column: Int[Tensor, "B T"],
    tokens: Float[Tensor, "B T"] | int,
    extra: Tensor | float = 0.0,
) -> Tensor:
    """Share of u - u_inf that is left in `column` after so many token periods and `extra` seconds.

    Broadcasts to `like`.
    """
    design = call.design
    age = torch.as_tensor(tokens, dtype=torch.float64, device=like.device).expand(column.shape)
    leaked = torch.zeros_like(age)
    if design.tau is not None:
        leaked = (age * design.token_period + extra).clamp(min=0.0) / design.tau
    errors = cell_errors(design, call.layer, like.shape[1], like.shape[3], array, torch.float64, like.device)
    leaked = leaked[:, None, :, None]
    if errors is not None and errors.leakage is not None:
        leaked = leaked * errors.leakage[:, column].transpose(0, 1)
    disturbed = (age * call.reads * design.disturb_per_read)[:, None, :, None]
    return torch.exp(-leaked - disturbed).to(like.dtype)
