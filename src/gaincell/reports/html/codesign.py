"""Section on circuits that were learned with a model: each before and after, and the perplexity."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from markupsafe import Markup

from gaincell.reports.codesign import CONFIDENCE, LEVELS, SATURATIONS, perplexities, training_ratio
from gaincell.reports.html.markup import grid
from gaincell.reports.html.result import Entry, Result, each, protocol
from gaincell.reports.html.tables import table
from gaincell.reports.results import number, numbers
from gaincell.reports.rows import Rows
from gaincell.reports.tables import readable

SIMULATED = "simulated"


def learned(results: Sequence[Result]) -> Markup:
    """Every result of `gaincell codesign`."""
    return each(results, "circuits", lambda result: grid(_change(result), _levels(result.run)))


def _change(result: Result) -> Markup:
    run = result.run
    start, end = run["circuits"]["start"], run["circuits"]["learned"]
    rows = []
    for key, title in SATURATIONS.items():
        before, after = number(start[key]), number(end[key])
        rows.append((f"{title}, charge units", f"{before:.4g}", f"{after:.4g}", f"× {after / before:.3f}"))
    ratio, low, high = training_ratio(run)
    shown = {name: readable(found) for name, found in perplexities(run).items()}
    several = len(numbers(run["blocks"]["predictions"])) > 1
    change = f"× {ratio:.4f}" + (f" ({low:.4f} to {high:.4f})" if several else ", one block: no interval")
    rows.append(("perplexity", shown["adapted"], shown["trained"], change))
    trained = "gains, offsets and weights" if run["training"]["weights"] else "gains and offsets"
    caption = (
        f"Learned: {' and '.join(run['learn']) or 'nothing of the chip'}, in "
        f"{number(run['training']['steps']):.0f} steps. Perplexity at the start: adapted to that chip; "
        f"{protocol(run)}. In brackets: {CONFIDENCE:.0%} interval of the paired ratio over blocks. The ratio "
        f"holds what {trained} learned too: what the circuits alone bring shows beside the same training on "
        "the fixed chip."
    )
    return table(Rows("Before and after", ("", "start", "learned", "change"), rows, caption), SIMULATED)


def _levels(run: Entry) -> Markup:
    """A row a code, lowest first; levels that a chip does not have stand as a dash."""
    found, headings = [], ["level"]
    for key, (title, unit) in LEVELS.items():
        for when in ("start", "learned"):
            circuits = run["circuits"][when]
            found.append(numbers(circuits[key]) if key in circuits else [])
            headings.append(f"{title}, {when}{',' + unit if unit else ''}")
    rows = [
        [str(n), *("–" if level is None else f"{level:.4g}" for level in levels)]
        for n, levels in enumerate(zip_longest(*found))
    ]
    return table(Rows("Levels of query drivers and write DACs", headings, rows), SIMULATED)
