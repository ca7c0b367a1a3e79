"""What a fit to measured cells found: as a result, a figure of it, and a section of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
from matplotlib.figure import Figure

from gaincell.reports.html import parts
from gaincell.reports.html.markup import only_kind
from gaincell.reports.style import BLACK, BLUE, GREY, RED, legend_below, styled
from gaincell.reports.tables import Rows
from gaincell.results import provenance
from gaincell.results.codec import Kind
from gaincell.results.description import Stated
from gaincell.results.device import CellCurves, Decay, DeviceResult, Fitted, FittedValue

if TYPE_CHECKING:
    from gaincell.chips.device import Device
    from gaincell.devices.decay import DecayFit
    from gaincell.devices.fit import CurveFit, Estimate

SHOWN_CELLS = 100


def describe(
    device: Device, fitted: CurveFit, held: DecayFit | None, command: Sequence[str], design_hash: str
) -> DeviceResult:
    """The result of a fit to currents, and to decays if there are any."""
    name, origin = device.name, device.origin
    unit = Stated.of(device.numbers["scale.charge_unit"])
    waves = (fitted.u, fitted.nominal, *fitted.measured)
    u, nominal, at, charges = (tuple(wave.tolist()) for wave in waves)
    shown = np.round(fitted.curves[:SHOWN_CELLS], 6)
    kind: Kind = "simulated" if "curve_simulated" in origin else "measured"
    of_decay: Kind = "simulated" if "decay_simulated" in origin else "measured"
    cells = f"{fitted.cells} {kind} cell{'s' * (fitted.cells > 1)}"
    return DeviceResult(
        device=name,
        title=f"{name}: {fitted.cell.name} fitted to {cells}",
        fit={"charge unit": Fitted(cast("float", unit.value), unit.unit, unit.kind)}
        | _of_curve(fitted, held, origin, kind)
        | (_of_decay(held, of_decay) if held else {}),
        curves=CellCurves(kind, u, nominal, at, charges, tuple(map(tuple, shown.tolist()))),
        decays=tuple(
            Decay(of_decay, *(tuple(wave.tolist()) for wave in curve))
            for curve in (held.curves if held else ())
        ),
        provenance=provenance.made(
            command=command,
            seed=0,
            protocol="least squares per cell, mean over cells",
            design_hash=design_hash,
            inputs={
                f"{k} {origin[k]}": str(origin[f"{k}_sha256"]) for k in ("curve", "decay") if k in origin
            },
        ),
    )


def _of_curve(
    fitted: CurveFit, held: DecayFit | None, origin: Mapping[str, int | str], kind: Kind
) -> dict[str, Fitted]:
    """What the fit of the currents found, and of how many cells there are decays."""
    of_full_scale, current = "of full scale", "charge units"
    powers = fitted.coefficients if fitted.cell.coefficients is not None else ()
    units = (current, f"{current}/V", *(f"{current}/V^{power}" for power in range(2, len(powers))))
    found: dict[str, tuple[Estimate | FittedValue | None, str]] = {
        "cells": (fitted.cells, "1"),
        "cells of the decays": (held.cells if held else None, "1"),
        "points": (fitted.points, "1"),
        "rows left out": (origin.get("rows_left_out"), "1"),
        "points beyond the storage range": (origin.get("points_beyond_the_storage_range"), "1"),
        **{f"C{n}": (estimate, unit) for n, (estimate, unit) in enumerate(zip(powers, units, strict=False))},
        "full scale": (fitted.full_scale, current),
        "zero current at": (fitted.offset_voltage, "V from V_offset"),
        "mismatch: gain": (fitted.gain_std, "1"),
        "mismatch: offset voltage": (fitted.offset_voltage_std, "V"),
        "mismatch: offset current": (fitted.current_offset_std, of_full_scale),
        "variance that mismatch explains": (fitted.explained, "1"),
        "covariance of the coefficients": (fitted.covariance or None, f"{current}^2/V^(p+q)"),
        **{f"cells left out: {state.replace('_', ' ')}": (n, "1") for state, n in fitted.broken.items()},
        "noise of a read, from repeated reads": (fitted.noise_std, of_full_scale),
        "points about each cell's own curve": (fitted.residual_std, of_full_scale),
        "R squared, nominal curve": (fitted.nominal_r_squared, "1"),
        "rms about the nominal curve": (fitted.nominal_rms, current),
        "R squared, each cell's own curve": (fitted.r_squared, "1"),
        "rms about each cell's own curve": (fitted.rms, current),
    }
    return {name: _fitted(number, unit, kind) for name, (number, unit) in found.items() if number is not None}


def _fitted(number: Estimate | FittedValue, unit: str, kind: Kind) -> Fitted:
    if isinstance(number, (int, float, str, tuple)):
        return Fitted(number, unit, kind)
    return Fitted(number.value, unit, kind, number.interval)


def _of_decay(held: DecayFit, kind: Kind) -> dict[str, Fitted]:
    found = {
        "tau": (held.tau, "s", "retention_time"),
        "beta": (held.beta, "1", "beta"),
        "slow tau": (held.tau_slow, "s", "tau_slow"),
        "share of the fast one": (held.share, "1", "share"),
        "target": (held.target, "V", "target_voltage"),
        "spread of ln tau": (held.tau_spread, "1", "spread"),
        "cells left out": (held.left_out, "1", ""),
        "time to 1/e": (held.time_to_1_over_e, "s", ""),
        "rms": (held.rms, "V", ""),
    }
    return {"retention: law": Fitted(held.law, "word", kind)} | {
        f"retention: {name}": Fitted(number, unit, kind, held.intervals.get(key))
        for name, (number, unit, key) in found.items()
        if number is not None
    }


@styled()
def device_figure(result: DeviceResult) -> Figure:
    """The cells' curves with measured points, what each differs from the nominal one by, and the decays."""
    curves, decays = result.curves, result.decays
    u, nominal, cells = map(np.array, (curves.u, curves.nominal, curves.cells))
    figure = Figure(figsize=(12.6 if decays else 8.4, 3.7))
    left, right, *rest = figure.subplots(1, 3 if decays else 2)
    for axes in rest:
        for n, decay in enumerate(decays):
            t = 1e3 * np.array(decay.time)
            axes.plot(t, decay.measured, ".", color=RED, ms=2, label="" if n else decay.numbers)
            axes.plot(t, decay.fitted, color=GREY, lw=0.8, label="" if n else "fitted")
        axes.set(xlabel="time since the write (ms)", ylabel="stored voltage (V)", title="Retention")
    left.plot(u, cells.T, color=GREY, lw=0.5, alpha=0.5)
    left.plot(u, nominal, color=BLUE, lw=2, label="nominal")
    left.axhline(0, color=BLACK, lw=0.6)
    left.set(ylabel="charge of a full pulse (charge units)", title=result.device)
    points, charges = np.array(curves.measured_u), np.array(curves.measured)
    left.plot(points, charges, ".", color=RED, ms=4 if len(cells) == 1 else 1, label=curves.numbers)
    if len(cells) == 1:
        right.plot(points, charges - np.interp(points, u, nominal), ".", color=RED, ms=4)
        right.axhline(0, color=BLACK, lw=0.6)
    else:
        right.plot(u, (cells - nominal).T, color=GREY, lw=0.5, alpha=0.5)
        spread = cells.std(0, ddof=1)
        right.plot(u, spread, color=RED, label="± standard deviation over cells")
        right.plot(u, -spread, color=RED)
    right.set(ylabel="difference from nominal (charge units)",
              title=f"{len(cells)} cells" if len(cells) > 1 else "What the fit leaves over")  # fmt: skip
    legend_below(figure, columns=4)
    for axes in (left, right):
        axes.set_xlabel("stored voltage relative to V_offset (V)")
    return figure


def fit_rows(run: DeviceResult) -> Rows:
    """The parameters of a fit to measured cells."""
    rows, kinds = [], []
    for name, one in run.fit.items():
        if not isinstance(one.value, tuple):
            value = f"{one.value:.6g}" if isinstance(one.value, (int, float)) else str(one.value)
            interval = " to ".join(f"{end:.4g}" for end in one.interval or ()) or "–"
            rows.append([name, value, interval, one.unit])
            kinds.append(one.kind)
    headings = ("parameter", "value", "95 %", "unit")
    return Rows("Parameters", headings, rows, text=(0, 3), kinds=lambda r, c: kinds[r] if c < 3 else None)


DEVICE = parts.section(
    "Device", "A fit to measured cells, or to simulated ones.", DeviceResult,
    parts.figure(lambda run: run.title, device_figure, lambda run: only_kind(run.curves)),
    parts.tables(fit_rows), numbers=lambda run: run.fit,
    headline=lambda run: run.title, kind=lambda run: run.curves.numbers,
)  # fmt: skip
