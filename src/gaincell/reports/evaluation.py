"""Tables and figures of `gaincell evaluate` and `ablate`, and their sections of the page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gaincell.reports import style, tables
from gaincell.reports.html import parts
from gaincell.reports.html.markup import only_kind
from gaincell.reports.html.picture import plain
from gaincell.reports.style import BLACK, BLUE, GREEN, ORANGE, PALETTE, PURPLE, RED, SKY, look, panel, styled
from gaincell.results import evaluation as of
from gaincell.units import with_scale

SWITCHED = {"off": "switched off, the others on; a shorter ring", "on": "on alone"}
"""Panels of the ablation."""
FAR = 2.0
"""Times the next ratio: a point that far out leaves the others no room."""
LINES = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK)
"""Colours over idle times and contexts."""
OF_PAUSES = (
    "± is the standard error; time on the chip, refreshes, the time they take, and columns written in every "
    "key/value head: of one block"
)
Chips = Mapping[str, of.ChipsResult]


def ablation_rows(result: of.AblationResult, title: str = "") -> tables.Rows:
    """A row a constraint; its kind where it changes."""
    rows: list[tuple[str, ...]] = []
    before = ""
    for row in result.ablation:
        error = tables.digits(row.ratio_error, 1, 4)
        ratio = (f"{row.ratio:.4f}", error) if row.exercised else ("not exercised", "–")
        kind = row.kind * (row.kind != before)
        rows.append((kind, row.name, row.meaning, tables.readable(row.perplexity), *ratio))
        before = row.kind
    caption = (
        f"{result.provenance.protocol}; {result.text.name}; nothing trained; ratio of the rows off and ring "
        "to chip, of the rows on to free, on the same blocks; ± its standard error over blocks"
    )
    if not all(row.exercised for row in result.ablation):
        caption += (
            "; not exercised: all losses are equal to the last digit, so nothing follows for the constraint"
        )
    headings = ("", "constraint", "", "perplexity", "ratio", "±")
    return tables.Rows(title, headings, rows, f"{caption}.", (0, 1, 2), tables.SIMULATED)


@styled()
def ablation_figure(result: of.AblationResult) -> Figure:
    """Ratios of perplexities, a panel for constraints off and the ring, and one for constraints on. The
    largest, if `FAR` times the next one, stands at the edge as a number.
    """
    kinds = {
        kind: [row for row in result.ablation if row.kind == kind or (row.kind, kind) == ("ring", "off")]
        for kind in SWITCHED
    }
    figure = Figure(figsize=(10.5, 1.4 + 0.34 * max(map(len, kinds.values()))))
    for axes, (kind, (first, *rest)) in zip(figure.subplots(1, 2), kinds.items(), strict=True):
        errors = [row.ratio_error or 0.0 for row in rest]
        axes.axvline(1.0, color=BLACK, linewidth=1)
        axes.errorbar([row.ratio for row in rest], range(len(rest)), xerr=errors, fmt="o", capsize=3,
                      color=BLUE if kind == "off" else ORANGE)  # fmt: skip
        marked = (row.name + " (not exercised)" * (not row.exercised) for row in rest)
        style.name_rows(axes, marked, grid=True)
        axes.set_xscale("log")
        low, *_, high, highest = sorted(row.ratio for row in rest)
        if highest > FAR * high:
            place = next(n for n, row in enumerate(rest) if row.ratio == highest)
            axes.set_xlim(0.97 * low, 1.2 * high)
            axes.text(1.19 * high, place, f"{highest:.2f} →", ha="right", va="center")
        style.plain_ticks(axes.xaxis)
        axes.tick_params(axis="x", which="both", labelrotation=45)
        axes.set(
            title=SWITCHED[kind], xlabel=f"perplexity / {tables.readable(first.perplexity)} ({first.name})"
        )
    return figure


@styled()
def draw_chips(results: Chips, rows: str = "mismatch") -> Figure:
    """Every chip a point, a row a result; a line for the nominal chip, a bar for mean and deviation; `rows`
    says what their names are.
    """
    figure, axes = panel(7.6, 1.5 + 0.7 * len(results))
    for row, result in enumerate(results.values()):
        chips, found, colour = result.chips, result.chips.perplexity, PALETTE[row % len(PALETTE)]
        spread = [row + 0.22 * (n / max(1, len(found) - 1) - 0.5) for n in range(len(found))]
        axes.plot(found, spread, "o", color=colour, alpha=0.7)
        deviation = None if chips.std is None else [chips.std]
        axes.errorbar([chips.mean], [row + 0.28], xerr=deviation, fmt="s", markersize=6, color=colour)
        axes.plot([chips.nominal] * 2, [row - 0.35, row + 0.35], color=BLACK, linewidth=1.2)
    axes.set_yticks(range(len(results)), list(results))
    axes.set_ylim(-0.6, len(results) - 0.3)
    axes.set_ylabel(rows)
    axes.set_xlabel("perplexity (line: nominal chip; square: mean and standard deviation of the chips)")
    return figure


def chips_rows(results: Chips, rows: str = "mismatch", title: str = "") -> tables.Rows:
    """One row a result, by name; `rows` says what the names are."""
    headings = (rows, "chips", "nominal", "mean", "std", "× nominal (95 %)", "worst", "yield (95 %)")
    shown = []
    for name, result in results.items():
        found, ends = result.chips, result.chips.ratio_interval
        perplexities = map(tables.readable, (found.nominal, found.mean, found.std))
        ratio = f"{found.ratio:.4f}" + (f" ({ends[0]:.4f} to {ends[1]:.4f})" if ends else "")
        least, most = (100 * end for end in found.yield_interval)
        limit, worst = 100 * found.yield_within, tables.readable(max(found.perplexity))
        within = f"{100 * found.yield_:.0f} % within +{limit:g} % ({least:.0f} to {most:.0f})"
        shown.append([name, str(len(found.perplexity)), *perplexities, ratio, worst, within])
    caption = f"{_about(results)}; all chips of a row on the same text."
    return tables.Rows(title, headings, shown, caption, kinds=tables.SIMULATED)


@styled()
def pauses(results: Sequence[of.PausesResult], names: Sequence[str] = ()) -> Figure:
    """Perplexity against idle time, a curve a chip; on the left what is reached without a pause.

    The names of the curves are by default those of the chips.
    """
    figure, axes = panel(8.8, 3.8)
    times = [row.idle for result in results for row in result.pauses]
    first = min((time for time in times if time > 0), default=1.0) / 10
    for n, (result, name) in enumerate(zip(results, names or map(_chip, results), strict=False)):
        rows = [(max(row.idle, first), row.perplexity, row.perplexity_error) for row in result.pauses]
        _curve(axes, rows, name, n)
    axes.set(xscale="log", xlabel="idle time between the halves of a block, s (leftmost: none)",
             ylabel="perplexity of the second half",
             title="What a pause costs (bars: standard error over blocks)")  # fmt: skip
    style.legend_beside(axes)
    return figure


def _curve(axes: Axes, rows: Iterable[tuple[float, float, float | None]], label: str, n: int) -> None:
    """The n-th line: places, heights and their errors, where they have one."""
    x, y, errors = zip(*rows, strict=True)
    axes.errorbar(x, y, [math.nan if error is None else error for error in errors], label=label,
                  **look(n, LINES))  # fmt: skip


def _chip(result: of.PausesResult) -> str:
    """The design, and how often it is refreshed."""
    every, kind = result.refresh.every, result.refresh.kind
    return result.design.name + (f", {kind} every {with_scale(every.value, every.unit)}" if every else "")


@styled()
def context(result: of.DepthResult | of.ContextResult) -> Figure:
    """Perplexity against the length of the context, a curve a model; dotted: the most its layers can reach.

    Of recipes/depth.py, or of one model, of `gaincell evaluate --by-context`.
    """
    figure, axes = panel(8.8, 4.2)
    longest = 0.0
    curves: Sequence[of.ContextCurve | of.ContextResult]
    curves = result.curves if isinstance(result, of.DepthResult) else [result]
    for n, curve in enumerate(curves):
        rows = [(point.context, point.excess, point.excess_error) for point in curve.context]
        if isinstance(curve, of.ContextResult):
            name = curve.model.name
        else:
            name = f"{curve.layers} layer{'s' if curve.layers > 1 else ''}, window {curve.window}"
        _curve(axes, rows, f"{name}: {curve.context[-1].perplexity:.3g}", n)
        longest = max(longest, last := rows[-1][0])
        if isinstance(curve, of.ContextCurve) and (reach := curve.layers * (curve.window - 1)) < last:
            axes.axvline(reach, color=LINES[n % len(LINES)], linewidth=1, linestyle=":")
    axes.axhline(0, color=BLACK, linewidth=0.6)
    axes.set_xscale("log", base=2)
    dotted = " (dotted: layers × (window − 1))" if isinstance(result, of.DepthResult) else ""
    axes.set(xlabel="tokens of context", title=f"How far back a model looks{dotted}",
             ylabel=f"cross-entropy above that with {longest:,.0f} (nats per token)")  # fmt: skip
    style.legend_beside(axes, title=f"perplexity with {longest:,.0f} tokens")
    return figure


def perplexity_rows(results: Mapping[str, of.PerplexityResult | of.RollingResult]) -> tables.Rows:
    """Perplexities of one model each, by tokens (blocks-T, strided-T-S) or by words (rolling-T)."""
    rows = []
    for name, one in results.items():
        if isinstance(one, of.RollingResult):
            number, spread, by = one.word_perplexity, one.word_perplexity_error, "words"
        else:
            number, spread, by = one.perplexity, one.perplexity_error, "tokens"
        last = (f"{one.predictions:,.0f}", parts.subject(one), one.provenance.protocol)
        rows.append([name, *_with_error(number, spread), tables.digits(one.bits_per_byte, 1, 4), by, *last])
    headings = ("result", "perplexity", "±", "bits per byte", "by", "predictions", "of", "protocol")
    numbers = [one.numbers for one in results.values()]
    return tables.Rows(
        "Perplexity of a text", headings, rows, text=(0, 4, 6, 7),
        kinds=lambda r, c: numbers[r] if c in (1, 2, 3) else None,
    )  # fmt: skip


def _with_error(perplexity: float, error: float | None) -> tuple[str, str]:
    return (tables.readable(perplexity), "–") if error is None else tables.number_and_error(perplexity, error)


def _about(results: Mapping[str, of.EvaluationResult]) -> str:
    """Model, stage, chip and text, and the protocol, of all results or of each."""
    return f"{tables.of_all(results, parts.subject)}; {tables.protocol_of(results)}"


def every_chip(results: Mapping[str, of.ChipsResult]) -> tables.Rows:
    found = [dict(zip(one.chips.number, one.chips.perplexity, strict=True)) for one in results.values()]
    rows = [["nominal", *(tables.readable(one.chips.nominal) for one in results.values())]]
    for number in sorted({number for chips in found for number in chips}):
        rows.append([str(number), *(tables.readable(chips.get(number)) for chips in found)])
    return tables.Rows("Perplexity of every chip", ("chip", *results), rows)


def pause_rows(results: Mapping[str, of.PausesResult]) -> tables.Rows:
    """Perplexity against idle time; of one result its name may be empty."""
    headings = ("idle time", "perplexity", "±", "chip, s", "refreshes", "taking, s", "columns written")
    rows = []
    for name, result in results.items():
        for row in result.pauses:
            refreshes = (f"{row.refreshes:,.0f}", f"{row.refreshing:.3g}")
            perplexity = _with_error(row.perplexity, row.perplexity_error)
            on_chip = (f"{row.chip_time:.4g}", *refreshes, f"{row.writes:,.0f}")
            rows.append([_below(name, f"{row.idle:g} s"), *perplexity, *on_chip])
    caption = f"{_about(results)}; {OF_PAUSES}."
    return tables.Rows("Pauses", headings, rows, caption, kinds=tables.SIMULATED)


def _below(name: str, part: str) -> str:
    """A part of a result, with the result's name where it has one."""
    return f"{name}, {part}" if name else part


def repetition_rows(results: Mapping[str, of.RepetitionResult]) -> tables.Rows:
    """Loss on tokens that stood in the context before, and on others; of one result its name may be empty."""
    headings = ("tokens", "perplexity", "nats a token", "predictions")
    rows, kinds = [], []
    for name, one in results.items():
        for point in one.repetition:
            numbers = (tables.readable(point.perplexity), f"{point.nll:.3f}", f"{point.tokens:,.0f}")
            rows.append([_below(name, point.kind), *numbers])
            kinds.append((None, one.numbers, one.numbers, tables.MEASURED))
    caption = f"{_about(results)}."
    return tables.Rows("What is found again", headings, rows, caption, kinds=lambda r, c: kinds[r][c])


def largest_cost(run: of.AblationResult) -> str:
    """The constraint without which the model does best."""
    _, *rows = (row for row in run.ablation if row.kind == "off")
    exercised = [row for row in rows if row.exercised]
    if not exercised:
        return "–"
    best = min(exercised, key=lambda row: row.ratio)
    return f"× {best.ratio:.4f} without {best.name}, the lowest of {len(exercised)}"


def page_rows(result: of.AblationResult) -> tables.Rows:
    """As the page has them: the constraint first, a heading over every column."""
    found = ablation_rows(result, "Constraints of the hardware")
    rows = [(name, kind, *rest) for kind, name, *rest in found.rows]
    headings = ("constraint", "switched", "meaning", "perplexity", "ratio", "±")
    return replace(found, headings=headings, rows=rows)


PERPLEXITY = parts.section(
    "Evaluation", "How well a model predicts a text.", of.PerplexityResult | of.RollingResult,
    together=parts.tables(perplexity_rows),
    headline=lambda run: (
        f"perplexity {tables.readable(run.word_perplexity)} by words"
        if isinstance(run, of.RollingResult)
        else f"perplexity {tables.readable(run.perplexity)}"
    ),
    kind=lambda run: run.numbers,
)  # fmt: skip
CHIPS = parts.section(
    "Chips", "The same network on chips whose cells differ.", of.ChipsResult,
    together=parts.pair(
        parts.tables(lambda results: chips_rows(results, "result", "Virtual chips")),
        parts.figure(
            "Perplexity of every chip",
            lambda results: draw_chips({plain(name): one for name, one in results.items()}, "result"),
            numbers=every_chip,
        ),
    ),
    headline=lambda run: (
        f"× {run.chips.ratio:.4f} the nominal perplexity, mean of {len(run.chips.perplexity)} chips"
    ),
)  # fmt: skip
ABLATION = parts.section(
    "Ablation", "Which constraint of the hardware costs how much.", of.AblationResult,
    parts.figure("Ratios of perplexities", ablation_figure, numbers=parts.no_numbers),
    parts.tables(page_rows), headline=largest_cost,
)  # fmt: skip
PAUSES = parts.section(
    "Pauses", "What a pause in the middle of a text costs.", of.PausesResult,
    together=parts.column(
        parts.figure(
            "What a pause costs",
            lambda results: pauses([*results.values()], [plain(name) for name in results]),
            lambda results: only_kind([run.pauses for run in results.values()]),
            numbers=parts.no_numbers,
        ),
        parts.folded("Pauses", parts.tables(pause_rows)),
    ),
    headline=lambda run: (
        f"perplexity {tables.readable(run.pauses[-1].perplexity)} after {run.pauses[-1].idle:g} s"
    ),
)  # fmt: skip
CONTEXT = parts.section(
    "Context", "How far back a model looks.", of.DepthResult | of.ContextResult,
    parts.figure(
        "How far back a model looks", context,
        lambda run: run.numbers if isinstance(run, of.ContextResult) else tables.SIMULATED,
        note=lambda run: run.provenance.protocol,
    ),
    headline=lambda run: (
        f"{len(run.curves)} models over the length of context" if isinstance(run, of.DepthResult) else "–"
    ),
)  # fmt: skip
REPETITION = parts.section(
    "Repetition", "Tokens that stood in the context before, and others.", of.RepetitionResult,
    together=parts.tables(repetition_rows),
)  # fmt: skip
