"""`gaincell table`: the paper's table for any set of results, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gaincell.cli._json import FigureFile, JsonFile, command_line, output, show_result

app = typer.Typer()


@app.command()
def table(
    results: Annotated[
        list[str],
        typer.Argument(
            metavar="RESULT...", help="Files of `gaincell evaluate --tasks --json`, or NAME=FILE."
        ),
    ],
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            metavar="NAME",
            help="Result that the others are compared with; by default the first.",
        ),
    ] = None,
    paper: Annotated[bool, typer.Option("--paper", help="Also show the paper's table (cited).")] = False,
    csv: Annotated[Path | None, output("--csv", "Also write it as CSV.")] = None,
    latex: Annotated[Path | None, output("--latex", "Also write it for LaTeX (booktabs).")] = None,
    markdown: Annotated[Path | None, output("--markdown", "Also write it as Markdown.")] = None,
    figure: FigureFile = None,
    json: JsonFile = None,
) -> None:
    """The table of the paper for any set of models, with standard errors and paired differences.

    Every RESULT comes from `gaincell evaluate MODEL|RUN --tasks paper --json RESULT`. Differences
    (perplexities: ratios) are to the reference, on the same items. The files of the examples come with
    gaincell.

    Example: gaincell table software=docs/results/evaluation/tasks/tiny-software.json
    chip=docs/results/evaluation/tasks/tiny-adapted.json --paper

    Example: gaincell table docs/results/evaluation/tasks/smollm2-software.json
    docs/results/evaluation/tasks/smollm2-leroux2025-extended.json --latex table.tex --figure table.png
    """
    from gaincell.files import write_text
    from gaincell.reports.comparison import (
        as_csv,
        as_latex,
        as_markdown,
        compare,
        comparison_result,
        terminal_table,
    )
    from gaincell.reports.comparison_figure import differences
    from gaincell.reports.html.page import names
    from gaincell.results import read
    from gaincell.results.evaluation import TasksResult

    runs = {name: read(path, TasksResult) for name, path in names(results).items()}
    found = compare(runs, reference, paper)
    result = comparison_result(found, runs, command_line())
    show_result(result, json, terminal_table(found), figure=figure, draw=lambda _: differences(found))
    for file, text in ((csv, as_csv), (latex, as_latex), (markdown, as_markdown)):
        if file is not None:
            write_text(file, text(found))
