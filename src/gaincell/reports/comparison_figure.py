"""The table of the paper as a figure and on the page: differences to the reference, with standard errors."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from gaincell.errors import RunError
from gaincell.reports.comparison import cell, heading
from gaincell.reports.html import parts
from gaincell.reports.style import BLACK, legend_below, look, plain_ticks, styled
from gaincell.reports.tables import Rows
from gaincell.reports.task_chips import chips_of_tasks
from gaincell.results.comparison import PERPLEXITIES, Comparison, compare, task_and_metric
from gaincell.results.evaluation import TasksResult

SHORT = 40
"""Letters of names of which two fit into a line of the legend."""
WIDE = 10.0
"""Range of ratios beyond which only powers of ten are labelled."""


@styled()
def differences(comparison: Comparison) -> Figure:
    """Two panels: accuracies in points from the reference, perplexities as ratios to it (logarithmic).

    Raises:
        RunError: there are neither.
    """
    metrics = {column: task_and_metric(column)[1] for column in comparison.columns}
    ratios = [column for column, metric in metrics.items() if metric in PERPLEXITIES]
    points = [column for column, metric in metrics.items() if metric.startswith("acc")]
    if not ratios and not points:
        raise RunError("the results have no accuracies and no perplexities to draw; leave --figure out")
    figure = Figure(figsize=(1.1 + 1.15 * max(3, len(ratios) + len(points)), 4.0))
    titled = {"accuracy": (points, "points from"), "perplexity": (ratios, "×")}
    panels = {title: found for title, found in titled.items() if found[0]}
    widths = [len(columns) for columns, _ in panels.values()]
    axes = figure.subplots(1, len(panels), width_ratios=widths, squeeze=False)[0]
    others = [row for row in comparison.rows if not row.cited and row.name != comparison.reference]
    for panel, (title, (columns, unit)) in zip(axes, panels.items(), strict=True):
        panel.axhline(1.0 if columns is ratios else 0.0, color=BLACK, linewidth=1)
        for n, row in enumerate(others):
            shift = 0.6 * ((n + 0.5) / len(others) - 0.5)
            entries = [(k + shift, row.entries[c].numbers) for k, c in enumerate(columns) if c in row.entries]
            shown = [(x, y, error or 0.0) for x, (*_, y, error) in entries if y is not None]
            panel.errorbar([x for x, _, _ in shown], [y for _, y, _ in shown], linestyle="none",
                           yerr=[error for _, _, error in shown], label=row.name, **look(n))  # fmt: skip
        if columns is ratios:
            panel.set_yscale("log")
            plain_ticks(panel.yaxis)
            low, high = panel.get_ylim()
            if high > WIDE * low:
                panel.yaxis.set_minor_formatter(NullFormatter())
        panel.set_xticks(range(len(columns)), [heading(c).replace(" ", "\n") for c in columns])
        panel.set_xlim(-0.6, len(columns) - 0.4)
        panel.set(title=title, ylabel=f"{unit} {comparison.reference}")
    legend_below(figure, columns=2 if all(len(row.name) <= SHORT for row in others) else 1)
    return figure


def task_rows(runs: Mapping[str, TasksResult]) -> Rows:
    """The table of several evaluations, compared with the first of them on the same items."""
    found = compare(runs)
    rows: list[list[str]] = []
    kinds: list[str] = []
    for name, run in runs.items():
        entries = found.scores(name)
        shown = [
            cell(entries[c], "\n").partition("\n") if c in entries else ("–", "", "") for c in found.columns
        ]
        rows.append([name, *(value for value, _, _ in shown)])
        if any(change for _, _, change in shown):
            rows.append([f"  to {found.reference}, paired", *(change or "–" for _, _, change in shown)])
        kinds += [run.numbers] * (len(rows) - len(kinds))
    headings = ["", *map(heading, found.columns)]
    notes = " ".join(found.notes)
    return Rows("Tasks, accuracies in %", headings, rows, notes, kinds=lambda r, _: kinds[r])


TASKS = parts.section(
    "Tasks", "Differences are paired: on the same items.", TasksResult,
    together=parts.tables(task_rows, chips_of_tasks),
    headline=lambda run: f"scores of {len(run.tasks)} tasks", kind=lambda run: run.numbers,
)  # fmt: skip
