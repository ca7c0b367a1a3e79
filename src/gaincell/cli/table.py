"""`gaincell table`: the paper's table for any set of results, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from gaincell.cli._json import FigureFile, JsonFile, command_line, output, show_result
from gaincell.cli._options import argument, command, flag, option
from gaincell.files import write_text


@command
def table(
    results: Annotated[
        list[str], argument("Files of `gaincell evaluate --tasks --json`, or NAME=FILE.", "RESULT...")
    ],
    reference: Annotated[
        str | None, option("Result with which the others are compared; by default the first.", "NAME")
    ] = None,
    paper: Annotated[bool, flag("--paper", "Also show the paper's table (cited).")] = False,
    csv: Annotated[Path | None, output("Also write the table as CSV.")] = None,
    latex: Annotated[Path | None, output("Also write the table for LaTeX (booktabs).")] = None,
    markdown: Annotated[Path | None, output("Also write the table as Markdown.")] = None,
    figure: FigureFile = None,
    json: JsonFile = None,
) -> None:
    """The table of the paper for any set of models, with standard errors and paired differences.

    Every RESULT comes from `gaincell evaluate MODEL|RUN --tasks paper --json RESULT`. Differences (for
    perplexities, ratios) are relative to the reference, on the same items. The files in the examples come
    with gaincell.

    Example: gaincell table software=docs/results/evaluation/tasks/tiny-software.json
    chip=docs/results/evaluation/tasks/tiny-adapted.json --paper

    Example: gaincell table docs/results/evaluation/tasks/smollm2-software.json
    docs/results/evaluation/tasks/smollm2-leroux2025-extended.json --latex table.tex --figure table.png
    """
    from gaincell.reports import comparison
    from gaincell.reports.comparison_figure import differences
    from gaincell.reports.html.page import names
    from gaincell.results import read
    from gaincell.results.comparison import compare, comparison_result
    from gaincell.results.evaluation import TasksResult

    allowed = "files of `gaincell evaluate --tasks --json`"
    runs = {name: read(path, TasksResult, allowed) for name, path in names(results).items()}
    found = compare(runs, reference, comparison.cited_rows() if paper else {})
    result = comparison_result(found, runs, command_line())
    written = ((csv, comparison.as_csv), (latex, comparison.as_latex), (markdown, comparison.as_markdown))
    for file, text in written:
        if file is not None:
            write_text(file, text(found))
    shown = comparison.terminal_table(found)
    show_result(result, json, shown, figure=figure, draw=lambda _: differences(found))
