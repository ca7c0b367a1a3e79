"""The section of docs/sweeps.md on co-design: a table and a figure from docs/results/sweeps/codesign.json."""

from __future__ import annotations

from pathlib import Path

from gaincell.files import write_atomic
from gaincell.reports import codesign
from gaincell.reports.style import styled
from gaincell.reports.sweep import repriced
from gaincell.results import read
from gaincell.results.codesign import CodesignComparison

TITLE = "Circuits learned with the model"
BEFORE = """S_sat, O_sat and the levels of query drivers and write DACs, learned by gradients together with
the model (`gaincell codesign`, `src/gaincell/training/codesign.py`), against the fixed chip: the same
model, adapted to its chip and then trained on the same blocks with the same schedule, {steps} steps
of {tokens} tokens. One pair of saturations and one set of levels for the whole chip; a learned
write DAC keeps a code that stores no signal. Of an odd number of evenly spaced levels one is
V_offset already; of an even number, as the paper's 8, none is: "zero code, not learned" has it by
spacing the levels of either side evenly, with one more above V_offset than below unless the table
says otherwise. (`recipes/codesign.py`)"""
AFTER = """What it says: where codes are few the saturations are worth learning. Both come out smaller than
the chip's, O_sat most: with few codes of the counter resolution is worth more than head room.
Levels are not: with a zero code kept, learned or not and on either side, the coarse chip is no
better than with even levels and rather a little worse after the same training, even where it
starts better; learning moved them little, and its gradient does not see signals change sides. At
the paper's numbers of levels no difference leaves its interval. A training this short finds a
direction, not the optimum; another order of its text would shift every number a little, which the
intervals do not hold; and of this many intervals one in twenty misses by chance.

Ratios are of the trained perplexities, on the same blocks of text, with intervals of 95 % (Student,
over blocks); they hold this text and this training fixed and say nothing about other texts or
longer trainings. S_sat and O_sat: learned, over the fixed chip's; energy: bottom-up, of all
attention and one token, with each chip's own activity; references and clock of uneven levels are
not in it. What the gradients are, and what they do not see:
`src/gaincell/ops/gain_cell_attention/learned.py`, `src/gaincell/circuits/levels.py`. Simulated;
nominal chips, without noise and mismatch."""
FIGURE = "sweep-codesign-levels.png"


def sections(docs: Path) -> list[str]:
    """The section, its figure drawn; none where there is no result."""
    path = docs / "results" / "sweeps" / "codesign.json"
    if not path.is_file():
        return []
    found = read(path, CodesignComparison)
    training = found.points[0].training
    with styled():
        write_atomic(docs / "figures" / FIGURE, codesign.levels_figure(found).savefig)
    parts = [
        f"## {TITLE}",
        BEFORE.format(steps=training.steps, tokens=f"{training.tokens / training.steps:.0f}"),
        "\n".join(f"* {line}" for line in codesign.answers(found)),
        codesign.codesign_markdown(found).rstrip(),
        f"{found.model.name} on leroux2025, text {found.text.name}; "
        f"{found.provenance.protocol}.{repriced(found)}",
        "![Levels, even and learned, and how often signals of a value occur]" + f"(figures/{FIGURE})",
        AFTER,
    ]
    return ["\n\n".join(parts)]
