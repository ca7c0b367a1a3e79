"""Section on circuits that were learned with a model: each before and after, and the perplexity."""

from __future__ import annotations

from itertools import zip_longest

from markupsafe import Markup

from gaincell.reports.codesign import CONFIDENCE, LEVELS, SATURATIONS, training_ratio
from gaincell.reports.html.markup import grid
from gaincell.reports.html.tables import table
from gaincell.reports.tables import SIMULATED, Rows, readable
from gaincell.results.run import CodesignResult


def codesign(run: CodesignResult) -> Markup:
    """What was learned."""
    return grid(table(_change(run)), table(_levels(run)))


def _change(run: CodesignResult) -> Rows:
    rows = []
    for title, saturation in SATURATIONS.items():
        before, after = saturation(run.circuits.start), saturation(run.circuits.learned)
        rows.append((f"{title}, charge units", f"{before:.4g}", f"{after:.4g}", f"× {after / before:.3f}"))
    ratio, low, high = training_ratio(run)
    several = len(run.blocks.predictions) > 1
    change = f"× {ratio:.4f}" + (f" ({low:.4f} to {high:.4f})" if several else ", one block: no interval")
    adapted, learned = (readable(run.perplexities[when]) for when in ("adapted", "trained"))
    rows.append(("perplexity", adapted, learned, change))
    trained = "gains, offsets and weights" if run.training.weights else "gains and offsets"
    caption = (
        f"Learned: {' and '.join(run.learn) or 'nothing of the chip'}, in "
        f"{run.training.steps} steps. Perplexity at the start: adapted to that chip; "
        f"{run.provenance.protocol}. In brackets: {CONFIDENCE:.0%} interval of the paired ratio over blocks. "
        f"The ratio holds what {trained} learned too: what the circuits alone bring shows beside the same "
        "training on the fixed chip."
    )
    return Rows("Before and after", ("", "start", "learned", "change"), rows, caption, kinds=SIMULATED)


def _levels(run: CodesignResult) -> Rows:
    """A row a code, lowest first; levels that a chip does not have stand as a dash."""
    found, headings = [], ["level"]
    for (title, unit), levels in LEVELS.items():
        for when, circuits in (("start", run.circuits.start), ("learned", run.circuits.learned)):
            found.append(levels(circuits) or ())
            headings.append(f"{title}, {when}{',' + unit if unit else ''}")
    rows = [
        [str(n), *("–" if level is None else f"{level:.4g}" for level in row)]
        for n, row in enumerate(zip_longest(*found))
    ]
    return Rows("Levels of query drivers and write DACs", headings, rows, kinds=SIMULATED)
