"""The answers of docs/sweeps.md: tables and figures from docs/results/sweeps (of recipes/sweeps)."""

from __future__ import annotations

import math
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import codesign_page

from gaincell.files import read_toml
from gaincell.reports import sweep, sweep_aware, sweep_figures
from gaincell.reports.codesign import paired_interval
from gaincell.reports.style import save_all
from gaincell.reports.tables import Rows
from gaincell.results import read
from gaincell.results.sweep import Point, SweepResult


@dataclass(frozen=True)
class Section:
    """One sweep: its title, the text before and after its numbers, and the figures it shows.

    answers: whether it says what costs most and what is free.
    aware: whether it says what noise-aware training buys back.
    together: a grid of which only the front is shown, and what all changes cost together.
    """

    title: str
    before: str
    figures: tuple[str, ...]
    after: str = ""
    answers: bool = False
    aware: bool = False
    together: bool = False


ROOT = Path(__file__).parents[1]
AIM = 0.5
"""Share of the loss that noise-aware training was to buy back."""
SECTIONS = {
    "constraints": Section(
        "What the constraints of the paper's chip cost",
        "One constraint is changed at a time, loosened or tightened, and each chip adapted again. "
        "Perplexities are ratios to the unchanged chip with 95 % intervals, one in twenty of which misses by "
        "chance. A change that leaves every loss as it was is not exercised by the protocol, and nothing is "
        "said about it.",
        ("tornado",),
        "Read with care: `tiny` is small and forgiving, its text is short, and nothing is trained for the "
        "changed chip. A shorter ring costs little here because `tiny` makes little use of distant tokens.",
        answers=True,
    ),
    "relaxed": Section(
        "Relaxed together",
        "Changes that each save something at almost no cost, in all 32 combinations, each adapted again: the "
        "points of the front, and the unchanged chip.",
        ("pareto",),
        together=True,
    ),
    "levels": Section("Levels", "Levels of the queries, the storage and the output counter.", ("curves",)),
    "arrays": Section(
        "Sub-tiles and ring",
        "O_sat grows with the columns of a sub-tile (O_sat / N is fixed), so larger sub-tiles have coarser "
        "output codes.",
        ("curves",),
    ),
    "retention": Section(
        "Retention",
        "The time constant tau of the decay, at the token period of this model's 6 layers, 390 ns: it stands "
        "for twice that tau with 12 layers.",
        ("curves",),
    ),
    "mismatch": Section(
        "Mismatch",
        "Current offsets of single cells, as a fraction of full scale; adapted once for all chips (true) or "
        "separately for each chip (chip).",
        ("curves",),
    ),
    "noise": Section(
        "Noise of reads",
        "Noise of single cells and of the two conversions, as fractions of full scale, redrawn at every "
        "read; means over four draws.",
        ("curves",),
    ),
    "aware-mismatch": Section(
        "What noise-aware fine-tuning buys back: mismatch of 10 %",
        "A short training with other chips at every pass and the model itself on the nominal chip as "
        "teacher; measured on eight chips that no training used. Perplexities are relative to the nominal "
        "chip's, with 95 % intervals over blocks and chips. The better of two pairs of learning rates, "
        "chosen on these blocks and chips. The aim was to buy back "
        f"{100 * AIM:.0f} % of what this mismatch costs; the next two sections are held against it, too.",
        ("curves",),
        aware=True,
    ),
    "aware-mismatch-strong": Section(
        "What noise-aware fine-tuning buys back: mismatch of 30 %",
        "The same for a stronger mismatch, at other learning rates, here too the better of two pairs that "
        "were tried on blocks of this text.",
        ("curves",),
        "The shares of the small and the large loss cannot be told apart: their intervals overlap, and "
        "the two trainings differ in learning rates. Other rates and targets that were tried are in "
        "[experiments.md](experiments.md).",
        aware=True,
    ),
    "aware-noise": Section(
        "What noise-aware fine-tuning buys back: noise of reads",
        "The same for noise in the conversion of outputs, which is where noise costs most, at learning rates "
        "of its own. Gains and offsets are adapted with the noise before the training. Means over four draws "
        "that neither adaptation nor training used.",
        ("curves",),
        aware=True,
    ),
    "front": Section(
        "Perplexity against energy",
        "Levels, sub-tiles, ring and saturations together, by NSGA-II: the points of the front, and the "
        "unchanged chip. In the parallel coordinates the coloured lines are the front, the dashed one is the "
        "unchanged chip.",
        ("pareto", "parallel"),
    ),
}
"""By the name of a file of recipes/sweeps, in the order of the page."""


def parts(docs: Path) -> dict[str, str]:
    """What stands between the marks of docs/sweeps.md, by name; its figures drawn."""
    answers = []
    for name, section in SECTIONS.items():
        path = docs / "results" / "sweeps" / f"{name}.json"
        if path.is_file():
            found = read(path, SweepResult)
            answers.append(part(name, section, found))
            draw(name, section, found, docs / "figures")
    answers += codesign_page.sections(docs)
    return {"answers": "\n\n".join(answers) + "\n"}


def part(name: str, section: Section, found: SweepResult) -> str:
    """A section of the page."""
    lines = [f"## {section.title}", f"{section.before} (`recipes/sweeps/{name}.toml`)"]
    if section.answers:
        lines.append("\n".join(f"* {line}" for line in sweep.answers(found)))
    if section.aware:
        table_of_both = sweep_aware.aware_rows(found)
        if table_of_both is None:
            raise ValueError(
                f"{name}: the control, without training, was not measured; all else is compared with it"
            )
        lines += [table_of_both.markdown().rstrip(), f"{rates(name)} {reached(found)}"]
    if section.together:
        lines.append(together(found))
    lines.append((changes_markdown(found) if section.answers else table(found, section)).rstrip())
    for figure in section.figures:
        lines.append(f"![{section.title}: {figure}](figures/sweep-{name}-{figure}.png)")
    return "\n\n".join([*lines, *([section.after] if section.after else [])])


def changes_markdown(result: SweepResult) -> str:
    """Changes of one thing at a time, the best first: ratios of perplexity and costs to the unchanged design,
    and the yield.
    """
    yields = [o for o in result.objectives if o.name == "yield"]
    head = ["change", "perplexity ×", *(f"{name} ×" for name in result.costs)]
    head += [*(o.name for o in yields), "perplexity is"]
    lines = []
    for point in sweep.by_ratio(result.complete):
        ratios = [f"{ratio:.3g}" for ratio in sweep.cost_ratios(result, point).values()]
        ratios += [sweep.objective_word(point, o.name, o.unit) for o in yields]
        lines.append([sweep.changed(result, point), sweep.ratio_word(point), *ratios, sweep.verdict(point)])
    return Rows("", head, lines, sweep.caption(result, marked=False), text=(0, len(head) - 1)).markdown()


def draw(name: str, section: Section, found: SweepResult, folder: Path) -> None:
    """The figures of a section."""
    with tempfile.TemporaryDirectory() as place:
        for drawn in save_all(sweep_figures.FIGURES, found, Path(place), f"sweep-{name}-"):
            if drawn.stem.rpartition("-")[2] in section.figures:
                shutil.copy(drawn, folder / drawn.name)


def together(found: SweepResult) -> str:
    """What all changes cost together, and what they would cost if each cost what it costs on its own."""

    def changes(point: Point) -> int:
        return len(sweep.changes(found, point))

    def losses(point: Point) -> tuple[float, ...]:
        assert point.blocks is not None
        return point.blocks.nll

    count = len(found.parameters)
    (plain,) = (p for p in found.complete if changes(p) == 0)
    (every,) = (p for p in found.complete if changes(p) == count)
    alone = [losses(p) for p in found.complete if changes(p) == 1]
    product = [
        nll + math.fsum(one - nll for one in ones) for nll, *ones in zip(losses(plain), *alone, strict=True)
    ]
    assert plain.blocks is not None
    weights = plain.blocks.predictions
    single, below, above = paired_interval(product, losses(plain), weights)
    _, least, most = paired_interval(losses(every), product, weights)
    apart = "less than" if most < 1 else "more than" if least > 1 else "indistinguishable from"
    assert every.ratio is not None
    assert every.ratio_interval is not None
    low, high = every.ratio_interval
    ratios = {name: every.values[name].value / plain.values[name].value for name in found.costs}
    costs = ", ".join(f"{name} × {ratio:.3g}" for name, ratio in ratios.items())
    return (
        f"All {count} together: perplexity × {every.ratio:.4f} "
        f"({low:.4f} to {high:.4f}), {costs}. That is {apart} the product of what each costs on its own, "
        f"× {single:.4f} ({below:.4f} to {above:.4f})."
    )


def rates(name: str) -> str:
    """Both learning rates of a sweep's file."""
    file = read_toml(ROOT / "recipes" / "sweeps" / f"{name}.toml")
    weights, scales = file["learning_rate"], file["scale_learning_rate"]
    return f"Learning rates: {weights:g} for the weights, {scales:g} for gains and offsets."


def reached(found: SweepResult) -> str:
    """Whether the aim was reached, for every strength."""
    name, verdicts = sweep_aware.strength_of(found), []
    for row in sweep_aware.bought_back(found):
        if row.strength:
            verdict = "undecided (no loss is significant)"
            if row.share is not None:
                _, low, high = row.share
                spans = "undecided (the interval spans it)"
                verdict = "reached" if low >= AIM else "missed" if high < AIM else spans
            verdicts.append(f"{verdict} at {name} = {sweep.word(row.strength, found.units[name])}")
    return f"The aim of {100 * AIM:.0f} % is {' and '.join(verdicts)}."


def table(found: SweepResult, section: Section) -> str:
    """All points and why some failed, or of many the front and the unchanged design."""
    if found.sampler in ("grid", "each") and not section.together:
        reasons = "".join(f"\n* {line}" for line in sweep.failures(found))
        return sweep.rows(found).markdown() + reasons
    shown = sorted(found.front, key=lambda p: p.values["energy"].value)
    if found.own is not None and found.own not in shown:
        shown.append(found.own)
    return sweep.rows(found, shown).markdown()
