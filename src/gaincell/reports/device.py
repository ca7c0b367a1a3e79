"""What a fit to measured cells found, as a result, and as a figure of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gaincell.reports.style import BLACK, BLUE, GREY, RED, legend_below, save, styled
from gaincell.results import provenance
from gaincell.results.device import CellCurves, Decay, DeviceResult, Fitted

SHOWN_CELLS = 100


def describe(
    name: str, fitted: Any, held: Any, command: Sequence[str], design_hash: str, origin: Mapping[str, Any]
) -> DeviceResult:
    """The result of a fit.

    Args:
        name: of the device.
        fitted: `gaincell.devices.fit.CurveFit`.
        held: `gaincell.devices.decay.DecayFit`, or None.
        command: the command line.
        design_hash: of the chip it was fitted for.
        origin: files and their hashes.
    """
    fit: dict[str, Fitted] = {}

    def put(key: str, number: Any, unit: str, interval: tuple[float, ...] | None = None) -> None:
        if hasattr(number, "interval"):
            number, interval = number.value, tuple(number.interval)
        if number is not None:
            fit[key] = Fitted(number, unit, interval=interval)

    put("cells", fitted.cells, "1")
    put("points", fitted.points, "1")
    put("rows left out", origin.get("rows_left_out"), "1")
    if fitted.cell.coefficients is not None:
        for power, estimate in enumerate(fitted.coefficients):
            unit = "charge units" + ("" if power == 0 else "/V" if power == 1 else f"/V^{power}")
            put(f"C{power}", estimate, unit)
    put("full scale", fitted.full_scale, "charge units")
    put("zero current at", fitted.offset_voltage, "V from V_offset")
    put("mismatch: gain", fitted.gain_std, "1")
    put("mismatch: offset voltage", fitted.offset_voltage_std, "V")
    put("mismatch: offset current", fitted.current_offset_std, "of full scale")
    put("variance that mismatch explains", fitted.explained, "1")
    if fitted.covariance:
        put("covariance of the coefficients", fitted.covariance, "charge units^2/V^(p+q)")
    for state, count in fitted.broken.items():
        put(f"cells left out: {state.replace('_', ' ')}", count, "1")
    put("noise of a read, from repeated reads", fitted.noise_std, "of full scale")
    put("points about each cell's own curve", fitted.residual_std, "of full scale")
    put("R squared, nominal curve", fitted.nominal_r_squared, "1")
    put("rms about the nominal curve", fitted.nominal_rms, "charge units")
    put("R squared, each cell's own curve", fitted.r_squared, "1")
    put("rms about each cell's own curve", fitted.rms, "charge units")
    if held is not None:
        put("retention: law", held.law, "word")
        for label, key, found, unit in (
            ("tau", "retention_time", held.tau, "s"),
            ("beta", "beta", held.beta, "1"),
            ("slow tau", "tau_slow", held.tau_slow, "s"),
            ("share of the fast one", "share", held.share, "1"),
            ("target", "target_voltage", held.target, "V"),
            ("spread of ln tau", "spread", held.tau_spread, "1"),
        ):
            put(f"retention: {label}", found, unit, None if found is None else tuple(held.intervals[key]))
        put("retention: cells left out", held.left_out, "1")
        put("retention: time to 1/e", held.time_to_1_over_e, "s")
        put("retention: rms", held.rms, "V")
    cells = f"{fitted.cells} measured cell{'s' * (fitted.cells > 1)}"
    return DeviceResult(
        command="device fit",
        device=name,
        title=f"{name}: {fitted.cell.name} fitted to {cells}",
        fit=fit,
        curves=CellCurves(
            u=tuple(fitted.u.tolist()),
            nominal=tuple(fitted.nominal.tolist()),
            measured_u=tuple(fitted.measured[0].tolist()),
            measured=tuple(fitted.measured[1].tolist()),
            cells=tuple(map(tuple, np.round(fitted.curves[:SHOWN_CELLS], 6).tolist())),
        ),
        decays=()
        if held is None
        else tuple(Decay(*(tuple(wave.tolist()) for wave in curve)) for curve in held.curves),
        provenance=provenance.made(
            command=command,
            seed=0,
            protocol="least squares per cell, mean over cells",
            design_hash=design_hash,
            inputs={
                str(origin[key]): str(origin[f"{key}_sha256"]) for key in ("curve", "decay") if key in origin
            },
        ),
    )


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
            axes.plot(t, decay.measured, ".", color=RED, ms=2, label="" if n else "measured")
            axes.plot(t, decay.fitted, color=GREY, lw=0.8, label="" if n else "fitted")
        axes.set_xlabel("time since the write (ms)")
        axes.set_ylabel("stored voltage (V)")
        axes.set_title("Retention")
    left.plot(u, cells.T, color=GREY, lw=0.5, alpha=0.5)
    left.plot(u, nominal, color=BLUE, lw=2, label="nominal")
    left.axhline(0, color=BLACK, lw=0.6)
    left.set_ylabel("charge of a full pulse (charge units)")
    left.set_title(result.device)
    points, charges = np.array(curves.measured_u), np.array(curves.measured)
    left.plot(points, charges, ".", color=RED, ms=4 if len(cells) == 1 else 1, label="measured")
    if len(cells) == 1:
        right.plot(points, charges - np.interp(points, u, nominal), ".", color=RED, ms=4)
        right.axhline(0, color=BLACK, lw=0.6)
    else:
        right.plot(u, (cells - nominal).T, color=GREY, lw=0.5, alpha=0.5)
        spread = cells.std(0, ddof=1)
        right.plot(u, spread, color=RED, label="± standard deviation over cells")
        right.plot(u, -spread, color=RED)
    right.set_ylabel("difference from nominal (charge units)")
    right.set_title(f"{len(cells)} cells" if len(cells) > 1 else "What the fit leaves over")
    legend_below(figure, columns=4)
    for axes in (left, right):
        axes.set_xlabel("stored voltage relative to V_offset (V)")
    return figure


def draw(result: DeviceResult, path: Path) -> Path:
    """`device_figure` in a file."""
    return save(device_figure(result), path)
