"""Arrays at work: figures of `gaincell simulate`, and their sections of the page."""

from __future__ import annotations

from matplotlib.figure import Figure

from gaincell.reports import style
from gaincell.reports.html import parts
from gaincell.reports.html.markup import short
from gaincell.reports.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, panel, styled
from gaincell.reports.tables import Rows
from gaincell.results.simulation import HeadResult, TileResult
from gaincell.units import with_scale

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
    figure, axes = panel(8.4, 0.9 + 0.36 * len(circuits))
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
    style.name_rows(axes, circuits)
    seen = {
        "pale: the following tokens": any(event.token for event in events),
        "hatched: duration assumed": any(event.basis == "assumed" for event in events),
    }
    notes = "; ".join(note for note, drawn in seen.items() if drawn)
    axes.set_xlabel(f"time (ns; {notes})" if notes else "time (ns)")
    style.legend_below(figure, columns=6)
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
    for axes, wave, colour in ((score, w.key_charge, BLUE), (charge, w.value_charge, GREEN)):
        axes.plot(t, [c * 1e15 for c in wave], color=colour)
    charge.axhline(0, color=BLACK, linewidth=0.6)
    full = w.output_saturation
    for axes, limit in ((score, w.score_saturation), (charge, full), (charge, -full)):
        axes.axhline(limit * 1e15, color=GREY, linewidth=0.8, linestyle="--")
    score.set(title="Charge of its integrator (dashed: saturation)", ylabel="charge (fC)")
    for n, line in enumerate(w.pulses):
        if max(line) > 0:
            pulses.fill_between(t, n, [n + 0.9 * on for on in line], step="mid", color=GREEN, linewidth=0)
    pulses.set(title="Pulses into the value columns of its sub-tile", ylabel="column")
    pulses.set_ylim(0, len(w.pulses))
    charge.set(title="Charge of one value bit line's integrator (dashed: saturation)", ylabel="charge (fC)")
    count.step(t, w.count, color=ORANGE, where="post")
    last = w.count[-1] or 1.0
    count.fill_between(t, 0, [last * on for on in w.output], color=ORANGE, alpha=0.25, linewidth=0)
    count.set(title="Count of its output pulse (shaded: the pulse)", ylabel="counts",
              xlabel="time in the step (ns)", xlim=(0, t[-1]))  # fmt: skip
    style.whole_ticks(lines.yaxis, pulses.yaxis, count.yaxis)
    return figure


@styled()
def trace(result: HeadResult) -> Figure:
    """A head over many tokens: what it holds and how its circuits are used."""
    steps = result.trace
    tokens = [step.token for step in steps]
    figure = Figure(figsize=(8.4, 7.2))
    held, left, pulses, output = figure.subplots(4, 1, sharex=True)
    held.plot(tokens, [step.columns_held for step in steps], color=BLUE)
    held.set(title="Columns that hold a token", ylabel="columns")
    left.plot(tokens, [step.oldest_left for step in steps], color=PURPLE)
    left.set(title="What is left of the oldest column's voltage", ylabel="fraction", ylim=(0, 1.05))
    pulses.plot(tokens, [100 * step.pulses_above_zero for step in steps], color=GREEN, label="above zero")
    pulses.plot(tokens, [100 * step.pulses_full for step in steps], color=RED, label="full")
    style.legend_beside(pulses)
    pulses.set(title="Pulses into the value array", ylabel="% of the columns held")
    output.plot(tokens, [step.output_rms for step in steps], color=ORANGE)
    output.set(title="Output, root mean square", ylabel="full scales of a sub-tile", xlabel="token")
    return figure


def event_rows(run: HeadResult) -> Rows:
    """Which circuit is busy when."""
    headings = ("circuit", "phase", "token", "from, ns", "for, ns", "duration")
    rows = []
    for event in run.timeline.events:
        numbers = map(short, (event.token, event.start * 1e9, event.duration * 1e9))
        shown = [event.phase, *numbers, event.basis]
        rows += [[circuit, *shown] for circuit in event.circuits]
    return Rows("One step", headings, rows)


TIMELINE = parts.section(
    "Timeline", "Which circuit is busy when.", HeadResult,
    parts.figure("One step", timeline, numbers=event_rows), numbers=lambda run: run.timeline,
    headline=lambda run: f"a step takes {with_scale(run.schedule.latency, 's')}",
)  # fmt: skip
WAVEFORMS = parts.section(
    "Waveforms", "Charges and counts in one step.", TileResult,
    parts.figure("Waveforms of one step", waveforms), numbers=lambda run: run.waveforms,
    headline=lambda _: "waveforms of a step",
)  # fmt: skip
TRACE = parts.section(
    "Trace", "A head over many tokens.", HeadResult,
    parts.figure("A head over its tokens", trace), numbers=lambda run: run.schedule,
)  # fmt: skip
