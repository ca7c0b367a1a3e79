"""Figures of the hardware at work: of `gaincell simulate`, idle times, contexts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gaincell.reports.costs import with_scale
from gaincell.reports.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    MARKERS,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    legend_below,
    legend_beside,
    name_rows,
    save,
    styled,
    whole_ticks,
)
from gaincell.results.evaluation import ContextCurve, ContextResult, DepthResult, PausesResult
from gaincell.results.simulation import HeadResult, TileResult

PHASE_COLOURS = {
    "key write": PURPLE, "value write": SKY, "key read": BLUE, "value read": GREEN, "count": ORANGE,
    "add": RED,
}  # fmt: skip
CELLS, ROWS = 8, 12
"""Stored voltages and word lines that are drawn of one column."""


@styled()
def timeline(result: HeadResult) -> Figure:
    """Which circuit is busy when, a row each; hatched where a duration is assumed."""
    events = result.timeline.events
    circuits = list(dict.fromkeys(c for event in events for c in event.circuits))
    figure = Figure(figsize=(8.4, 0.9 + 0.36 * len(circuits)))
    axes = figure.add_subplot()
    named: set[str] = set()
    for event in events:
        for circuit in event.circuits:
            first = event.phase not in named and not event.token
            named.add(event.phase)
            axes.barh(
                circuits.index(circuit), event.duration * 1e9, left=event.start * 1e9, height=0.7,
                color=PHASE_COLOURS[event.phase], alpha=0.45 if event.token else 1.0, edgecolor="white",
                hatch="///" if event.basis == "assumed" else None, linewidth=0.8,
                label=event.phase if first else None,
            )  # fmt: skip
    for end in result.timeline.token_ends:
        axes.axvline(end * 1e9, color=GREY, linewidth=0.8, linestyle="--")
    name_rows(axes, circuits)
    seen = {
        "pale: the following tokens": any(event.token for event in events),
        "hatched: duration assumed": any(event.basis == "assumed" for event in events),
    }
    notes = "; ".join(note for note, drawn in seen.items() if drawn)
    axes.set_xlabel(f"time (ns; {notes})" if notes else "time (ns)")
    legend_below(figure, columns=6)
    axes.set_title(f"One step: {result.schedule.latency * 1e9:.3g} ns")
    return figure


@styled()
def waveforms(result: TileResult) -> Figure:
    """Pulses, currents, integrators and counter of one step; above, how the voltages that it wrote decay."""
    w = result.waveforms
    t = [second * 1e9 for second in w.time]
    figure = Figure(figsize=(8.4, 10.5))
    (above,), (below,) = figure.subfigures(2, 1, squeeze=False, height_ratios=(1, 6))
    stored = above.subplots()
    cells, rows = w.stored[:CELLS], w.word_lines[:ROWS]
    for cell in cells:
        stored.plot([second * 1e3 for second in w.stored_time], cell, color=BLUE, linewidth=1)
    stored.set(title=f"Stored voltages of the first {len(cells)} cells of the column just written",
               xlabel="time since the write (ms)", ylabel="voltage (V)")  # fmt: skip
    lines, current, score, pulses, charge, count = below.subplots(6, 1, sharex=True)
    for n, line in enumerate(rows):
        lines.fill_between(t, n, [n + 0.8 * on for on in line], step="mid", color=SKY, linewidth=0)
    lines.set(title=f"Query pulses on the word lines of the first {len(rows)} key rows", ylabel="row")
    current.plot(t, [a * 1e6 for a in w.key_current], color=BLUE)
    current.set(title="Current of one key column's bit line", ylabel="current (µA)")
    score.plot(t, [c * 1e15 for c in w.key_charge], color=BLUE)
    score.axhline(w.score_saturation * 1e15, color=GREY, linewidth=0.8, linestyle="--")
    score.set(title="Charge of its integrator (dashed: saturation)", ylabel="charge (fC)")
    for n, line in enumerate(w.pulses):
        if max(line) > 0:
            pulses.fill_between(t, n, [n + 0.9 * on for on in line], step="mid", color=GREEN, linewidth=0)
    pulses.set(title="Pulses into the value columns of its sub-tile", ylabel="column")
    pulses.set_ylim(0, len(w.pulses))
    charge.plot(t, [c * 1e15 for c in w.value_charge], color=GREEN)
    charge.axhline(0, color=BLACK, linewidth=0.6)
    for full in (w.output_saturation * 1e15, -w.output_saturation * 1e15):
        charge.axhline(full, color=GREY, linewidth=0.8, linestyle="--")
    charge.set(title="Charge of one value bit line's integrator (dashed: saturation)", ylabel="charge (fC)")
    count.step(t, w.count, color=ORANGE, where="post")
    last = w.count[-1] or 1.0
    count.fill_between(t, 0, [last * on for on in w.output], color=ORANGE, alpha=0.25, linewidth=0)
    count.set(title="Count of its output pulse (shaded: the pulse)", ylabel="counts",
              xlabel="time in the step (ns)", xlim=(0, t[-1]))  # fmt: skip
    whole_ticks(lines.yaxis, pulses.yaxis, count.yaxis)
    return figure


@styled()
def trace(result: HeadResult) -> Figure:
    """A head over many tokens: what it holds and how its circuits are used."""
    steps = result.trace
    tokens = [step.token for step in steps]
    figure = Figure(figsize=(8.4, 7.2))
    axes = figure.subplots(4, 1, sharex=True)
    axes[0].plot(tokens, [step.columns_held for step in steps], color=BLUE)
    axes[0].set(title="Columns that hold a token", ylabel="columns")
    axes[1].plot(tokens, [step.oldest_left for step in steps], color=PURPLE)
    axes[1].set_ylim(0, 1.05)
    axes[1].set(title="What is left of the oldest column's voltage", ylabel="fraction")
    axes[2].plot(tokens, [100 * step.pulses_above_zero for step in steps], color=GREEN, label="above zero")
    axes[2].plot(tokens, [100 * step.pulses_full for step in steps], color=RED, label="full")
    legend_beside(axes[2])
    axes[2].set(title="Pulses into the value array", ylabel="% of the columns held")
    axes[3].plot(tokens, [step.output_rms for step in steps], color=ORANGE)
    axes[3].set(title="Output, root mean square", ylabel="full scales of a sub-tile")
    axes[3].set_xlabel("token")
    return figure


@styled()
def pauses(results: Sequence[PausesResult], names: Sequence[str] = ()) -> Figure:
    """Perplexity against idle time, a curve a chip; on the left what is reached without a pause.

    names: of the curves, by default those of the chips.
    """
    figure = Figure(figsize=(8.8, 3.8))
    axes = figure.add_subplot()
    times = [row.idle for result in results for row in result.pauses]
    first = min((time for time in times if time > 0), default=1.0) / 10
    for result, name, look in zip(results, names or map(_chip, results), _looks(), strict=False):
        rows = [(max(row.idle, first), row.perplexity, row.perplexity_error) for row in result.pauses]
        _curve(axes, rows, label=name, **look)
    axes.set(xscale="log", xlabel="idle time between the halves of a block, s (leftmost: none)",
             ylabel="perplexity of the second half",
             title="What a pause costs (bars: standard error over blocks)")  # fmt: skip
    legend_beside(axes)
    return figure


def _curve(axes: Axes, rows: Iterable[tuple[float, float, float | None]], **look: Any) -> None:
    """Places, heights and their errors, where they have one."""
    x, y, errors = zip(*rows, strict=True)
    axes.errorbar(x, y, [math.nan if error is None else error for error in errors], **look)


def _looks() -> Iterator[dict[str, Any]]:
    """Colours and markers of any number of lines."""
    colours = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK)
    return cycle({"color": c, "marker": m} for c, m in zip(colours, MARKERS, strict=True))


def _chip(result: PausesResult) -> str:
    """The design, and how often it is refreshed."""
    every, kind = result.refresh.every, result.refresh.kind
    return result.design.name + (f", {kind} every {with_scale(every.value, every.unit)}" if every else "")


@styled()
def context(result: DepthResult | ContextResult) -> Figure:
    """Perplexity against the length of the context, a curve a model; dotted: the most its layers can reach.

    result: of recipes/depth.py, or of one model, of `gaincell evaluate --by-context`.
    """
    figure = Figure(figsize=(8.8, 4.2))
    axes = figure.add_subplot()
    longest = 0.0
    curves: Sequence[ContextCurve | ContextResult]
    curves = result.curves if isinstance(result, DepthResult) else [result]
    for curve, look in zip(curves, _looks(), strict=False):
        rows = [(point.context, point.excess, point.excess_error) for point in curve.context]
        _curve(axes, rows, label=f"{_depth(curve)}: {curve.context[-1].perplexity:.3g}", **look)
        longest = max(longest, last := rows[-1][0])
        if isinstance(curve, ContextCurve) and (reach := curve.layers * (curve.window - 1)) < last:
            axes.axvline(reach, color=look["color"], linewidth=1, linestyle=":")
    axes.axhline(0, color=BLACK, linewidth=0.6)
    axes.set_xscale("log", base=2)
    dotted = " (dotted: layers × (window − 1))" if isinstance(result, DepthResult) else ""
    axes.set(xlabel="tokens of context", title=f"How far back a model looks{dotted}",
             ylabel=f"cross-entropy above that with {longest:,.0f} (nats per token)")  # fmt: skip
    legend_beside(axes, title=f"perplexity with {longest:,.0f} tokens")
    return figure


def _depth(curve: ContextCurve | ContextResult) -> str:
    """Of a curve: its layers and columns, or its model."""
    if isinstance(curve, ContextResult):
        return curve.model.name
    return f"{curve.layers} layer{'s' if curve.layers > 1 else ''}, window {curve.window}"


def draw_head(result: HeadResult, folder: Path) -> list[Path]:
    """Timeline and trace into `folder`, as PNG files."""
    return [save(draw(result), folder / f"{draw.__name__}.png") for draw in (timeline, trace)]


def draw_tile(result: TileResult, folder: Path) -> list[Path]:
    """The waveforms into `folder`, as a PNG file."""
    return [save(waveforms(result), folder / "waveforms.png")]
