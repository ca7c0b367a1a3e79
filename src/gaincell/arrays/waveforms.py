"""What an oscilloscope would show of one step: pulses, currents, integrators, counter.

Behavioural, from the trace of a step and its schedule. With I_d = F(u_d) Q / T_max the current of a cell (Q
the charge unit), a bit line carries and an integrator collects

    i(t) = sum_d I_d [t - t0 < x_d T_max],      q(t) = sum_d I_d min(max(t - t0, 0), x_d T_max)

so that an integrator ends at exactly the charge of the trace. An output pulse lasts up to L - 1 clocks of its
counter of L levels, which shows the readout's code of what has passed of it, and ends at the trace's code.
Without a ceiling a pulse may outlast its phase; the waveforms then go on until it ends.
Not modelled: edges, settling, RC of the lines, the ramp by which a charge becomes a pulse; of the stored
voltages a spread of retention times and read disturb; phases that wait for pulses which outlast others.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gaincell.arrays.schedule import Schedule
from gaincell.arrays.trace import StepTrace
from gaincell.circuits.charge_to_pulse import signed_charge_to_pulse
from gaincell.circuits.readout import READOUTS
from gaincell.errors import InputError
from gaincell.results.simulation import Waveforms
from gaincell.units import Second

SAMPLES = 651


def waveforms(trace: StepTrace, *, head: int = 0, column: int | None = None, row: int = 0) -> Waveforms:
    """The waveforms of a step: one query head of one sequence, one of its key columns, one value bit line.

    Word lines, pulses and the output pulse are 0 or 1; `stored` are the voltages of the newest column's cells
    over one window.

    Args:
        trace: The step (`HeadArray.step`).
        head: Query head.
        column: Key column; None: the one just written. Its sub-tile is shown.
        row: Value bit line, 0 to D - 1.

    Raises:
        InputError: no such head, column or row, a column that holds nothing, queries with a sign, noise of
            reads, errors of converters, no counter.

    Not modelled: the two phases of queries with a sign, noise, errors of converters, outputs without a
    counter.
    """
    design = trace.design
    _check(trace)
    column = int(trace.column[0]) if column is None else column
    heads, dim = trace.query.shape[1:]
    for name, index, count in (("head", head, heads), ("column", column, design.window), ("row", row, dim)):
        if not 0 <= index < count:
            raise InputError(f"there is no {name} {index}; allowed: 0 to {count - 1}")
    if not bool(trace.valid[0, column]):
        written = trace.valid[0].nonzero().flatten()
        raise InputError(
            f"column {column} holds no token yet; allowed: {int(written.min())} to {int(written.max())}"
        )
    kv_head = head // (heads // trace.key.shape[1])
    tile = slice(column // design.tile * design.tile, (column // design.tile + 1) * design.tile)
    schedule = Schedule(design)
    at = {event.phase.name: event.start for event in schedule.step}
    charge = trace.tile_charge[0, head, column // design.tile, row]
    signed = signed_charge_to_pulse(charge, design.output_saturation, design.output_ceiling)
    x, phi = trace.query[0, head].double(), trace.pulses[0, head, tile].double()
    counting = (design.counter_levels - 1) / design.counter_clock
    overrun = max((float(phi.max()) - 1) * design.t_pulse_max, (float(signed.abs()) - 1) * counting, 0.0)
    time = torch.linspace(0.0, schedule.latency + overrun, SAMPLES, dtype=torch.float64)
    ampere = design.charge_unit / design.t_pulse_max
    key_currents = trace.key_current[0, kv_head, column].double() * ampere
    value_currents = trace.value_current[0, kv_head, tile, row].double() * ampere
    word_lines, key_charge = _pulses(time, at["key read"], x, key_currents, design.t_pulse_max)
    pulses, value_charge = _pulses(time, at["value read"], phi, value_currents, design.t_pulse_max)
    since = time - at["count"]
    clocks = since * design.counter_clock + 1e-9  # the last of them has passed, however it is rounded
    so_far = (clocks / (design.counter_levels - 1)).clamp(min=0.0).to(signed.dtype)
    counted = torch.minimum(so_far, signed.abs()).copysign(signed) * design.readout_steps
    age = torch.linspace(0.0, design.window * design.token_period, 101, dtype=torch.float64)
    left = torch.exp(-age / design.tau) if design.tau else torch.ones_like(age)
    target = design.decay_target
    newest = trace.key[0, kv_head, int(trace.column[0])].double()
    waves = {
        "time": time,
        "word_lines": word_lines,
        "key_current": (word_lines * key_currents[:, None]).sum(0),
        "key_charge": key_charge,
        "pulses": pulses,
        "value_current": (pulses * value_currents[:, None]).sum(0),
        "value_charge": value_charge,
        "output": ((since >= 0) & (so_far < signed.abs())).double(),
        "count": READOUTS[design.readout].code(counted).to(torch.int64),
        "stored_time": age,
        "stored": design.v_offset + target + (newest[:, None] - target) * left,
    }
    return Waveforms(
        **{name: _plain(wave.tolist()) for name, wave in waves.items()},
        score_saturation=design.score_saturation(dim - design.normaliser.present) * design.charge_unit,
        output_saturation=design.output_saturation * design.charge_unit,
    )


def _check(trace: StepTrace) -> None:
    """Refuse what waveforms would leave out."""
    design = trace.design
    if design.drivers.signed:
        raise InputError("waveforms show pulses above 0 only; give a design whose drivers have one phase")
    if design.readout == "none":
        raise InputError("waveforms show a counter; give a design whose readout is not none")
    noise = design.noise
    if design.converters.present or any(
        (noise.cell_std, noise.score_std, noise.output_std, noise.integrator_capacitance)
    ):
        raise InputError(
            "waveforms show neither noise of reads nor errors of converters, and so would not end where the "
            "attention does; give a design without [noise] (but pulse_jitter) and [converters]"
        )
    if not len(trace.column):
        raise InputError("no token was written to the ring yet (the first go beside it); give more tokens")


def _plain(numbers: Any) -> Any:
    return tuple(map(_plain, numbers)) if isinstance(numbers, list) else numbers


def _pulses(
    time: Float[Tensor, " n"],
    start: Second,
    widths: Float[Tensor, " lines"],
    currents: Float[Tensor, " lines"],
    t_max: Second,
) -> tuple[Float[Tensor, "lines n"], Float[Tensor, " n"]]:
    """Pulses of all lines over time, and the charge they have driven."""
    since = (time - start)[None]
    on = ((since >= 0) & (since < widths[:, None] * t_max)).double()
    driven = torch.minimum(since.clamp(min=0.0), widths[:, None] * t_max)
    return on, (driven * currents[:, None]).sum(0)
