"""Co-design as lines and tables: what was learned, and what the training changed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest

from gaincell.reports.html import parts
from gaincell.reports.tables import SIMULATED, Rows, readable
from gaincell.results.run import Circuits, CodesignResult
from gaincell.standard_error import CONFIDENCE, half_width

SATURATIONS: Mapping[str, Callable[[Circuits], float]] = {
    "S_sat / D": lambda circuits: circuits.score_saturation_per_row,
    "O_sat / N": lambda circuits: circuits.output_saturation_per_column,
}
LEVELS: Mapping[tuple[str, str], Callable[[Circuits], tuple[float, ...] | None]] = {
    ("pulse widths", ""): lambda circuits: circuits.query_levels,
    ("voltages about V_offset", " V"): lambda circuits: circuits.storage_levels,
}
"""Title and unit -> where they stand."""


def paired_interval(
    ours: Sequence[float], theirs: Sequence[float], weights: Sequence[float]
) -> tuple[float, float, float]:
    """Ratio of perplexities from the losses of the same blocks, and its interval of 95 % (Student).

    R = exp(sum (ours - theirs) / sum(weights)); the error of the exponent is that of a ratio over blocks.
    """
    change = [a - b for a, b in zip(ours, theirs, strict=True)]
    middle, half = math.fsum(change) / math.fsum(weights), half_width(change, weights) or 0.0
    return math.exp(middle), math.exp(middle - half), math.exp(middle + half)


def learned_lines(run: CodesignResult) -> list[str]:
    """What was learned, for a terminal."""
    found = run.perplexities
    start, learned = run.circuits.start, run.circuits.learned
    lines = [f"perplexity {readable(found['adapted'])} adapted, {readable(found['trained'])} trained"]
    for title, saturation in SATURATIONS.items():
        lines.append(f"{title}: {saturation(start):.4g} -> {saturation(learned):.4g} charge units")
    for (title, unit), levels in LEVELS.items():
        if (levels_found := levels(learned)) is not None:
            lines.append(f"{title}: {', '.join(f'{level:.4g}' for level in levels_found)}{unit}")
    return lines


def circuit_rows(run: CodesignResult) -> Rows:
    """What was learned, before and after, and the perplexity."""
    rows = []
    for title, saturation in SATURATIONS.items():
        before, after = saturation(run.circuits.start), saturation(run.circuits.learned)
        rows.append((f"{title}, charge units", f"{before:.4g}", f"{after:.4g}", f"× {after / before:.3f}"))
    blocks = run.blocks
    ratio, low, high = paired_interval(blocks.trained, blocks.adapted, blocks.predictions)
    several = len(blocks.predictions) > 1
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


def level_rows(run: CodesignResult) -> Rows:
    """A row a code, lowest first; levels that a chip does not have stand as a dash."""
    found, headings = [], ["level"]
    for (title, unit), levels in LEVELS.items():
        for when, chip in (("start", run.circuits.start), ("learned", run.circuits.learned)):
            found.append(levels(chip) or ())
            headings.append(f"{title}, {when}{',' + unit if unit else ''}")
    rows = [
        [str(n), *("–" if level is None else f"{level:.4g}" for level in row)]
        for n, row in enumerate(zip_longest(*found))
    ]
    return Rows("Levels of query drivers and write DACs", headings, rows, kinds=SIMULATED)


CODESIGN = parts.section(
    "Learned circuits", "Circuits of the chip, learned together with the model.", CodesignResult,
    parts.grid(parts.tables(circuit_rows), parts.tables(level_rows)),
    numbers=lambda run: run.circuits, id="codesign",
)  # fmt: skip
