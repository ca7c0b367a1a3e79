"""docs/reproduction.md: every figure and table of the paper beside ours.

    python docs/reproduction.py         (its tables and the figures that no other page has; all: make reproduction)

Rewrites what stands between `<!-- NAME:table -->` and `<!-- end -->` from docs/results and from what the
package cites of the paper, and draws docs/figures/reproduction-*.png. Letters say where a number comes from:
c cited, s simulated, m measured here.
"""
# ruff: noqa: E501 (sentences of the page)

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import cells_page
import costs_page
import reproduction_figures
import tokens_page
from conversions import counted
from reproduction_circuits import (
    RESULTS,
    accuracy,
    area,
    cell,
    costs,
    energy,
    joule,
    machines,
    markdown,
    simulated_cell,
    timing,
)

from gaincell.adaptation.result import TOLERANCE
from gaincell.chips.design_file import load_design
from gaincell.files import write_text
from gaincell.mapping.recipe_file import load_recipe
from gaincell.reports import comparison
from gaincell.reports.baseline import per_token, was_shared
from gaincell.reports.codesign import paired_interval
from gaincell.reports.costs import with_scale
from gaincell.reports.paper import cited
from gaincell.reports.style import save
from gaincell.reports.tables import readable
from gaincell.results import read
from gaincell.results.comparison import HEADINGS, compare
from gaincell.results.cost import CostResult
from gaincell.results.run import (
    Adaptation,
    AdaptedResult,
    CellAdaptationResult,
    MappedResult,
    StagedResult,
    StageResult,
    TrainedResult,
)
from gaincell.results.system_cost import BaselineResult, Machine

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reproduction.md"
STARTS = {"tiny": "cells/starts", "SmolLM2-135M": "adaptation/smollm2-135m"}
"""Model -> folder of its published adaptations, START/CELL.json below it."""
OURS = {"cited": "the paper's number (c)", "bottom_up": "ours (s)"}
"""Columns of a comparison with machines, and how they are called."""


def main() -> None:
    """Figures and page anew."""
    reproduction_figures.draw_all(simulated_cell(), ROOT / "docs" / "figures")
    save(cells_page.starts(starts()), ROOT / "docs" / "figures" / "adaptation-starts.png")
    text = PAGE.read_text()
    for name, make in PARTS.items():
        text, count = re.subn(
            rf"(<!-- {name}:table -->\n).*?(<!-- end -->)",
            lambda found, make=make: f"{found[1]}{make()}\n{found[2]}",
            text,
            flags=re.DOTALL,
        )
        if count != 1:
            raise SystemExit(f"{PAGE.name} has {count} places for {name}; it needs one")
    write_text(PAGE, text)


def perplexities(run: StagedResult) -> dict[str, float]:
    """Perplexity of every stage of a mapping, an adaptation or a recipe."""
    return {stage.name: stage.perplexity for stage in run.stages}


def stages(name: str) -> dict[str, StageResult]:
    """Of a mapping or a recipe."""
    return {stage.name: stage for stage in read(RESULTS / f"{name}.json", StagedResult).stages}


def starts() -> dict[str, dict[str, AdaptedResult]]:
    """Title of a model and cell -> its adaptations from both starts, and "linear": the neutral start of the linear cell."""
    found: dict[str, dict[str, AdaptedResult]] = {}
    for model, place in STARTS.items():
        folders = {start: RESULTS / place / start for start in ("trained", "neutral")}
        alone = folders["neutral"] / "linear.json"
        linear = {"linear": read(alone, AdaptedResult)} if alone.is_file() else {}
        for path in sorted(folders["trained"].glob("*.json"), key=cells_page.order):
            pair = {start: read(folder / path.name, AdaptedResult) for start, folder in folders.items()}
            title = f"{model}, {pair['neutral'].title or pair['neutral'].design.cell}"
            found[title] = pair | linear
    return found


def adaptation() -> str:
    """Fig. 4c: what the cell costs, what discarded gains cost, and what the adaptation brings back."""
    paper = cited().adaptation
    before, after = paper.before.value, paper.after.value
    rows = [
        [
            "model, cell",
            "linear model",
            "cell exchanged (trained start)",
            "gains discarded (neutral start), linear cell",
            "both, unadapted",
            "adapted from the trained start",
            "adapted from the neutral start",
        ],
        ["GPT-2, cubic (c)", "–", "–", "–", f"{before}", "–", f"{after}"],
    ]
    for title, of in starts().items():
        at = {start: perplexities(run) for start, run in of.items()}
        linear = at["neutral"]["linear"]
        rows.append(
            [
                f"{title} (s)",
                readable(linear),
                times(at["neutral"]["unadapted"], linear),
                times(at["neutral"]["linear-neutral"], linear),
                times(at["neutral"]["unadapted-neutral"], linear),
                *(
                    f"{times(at[s]['adapted'], linear)}, {ended(of[s].adaptation['published'])}"
                    for s in ("trained", "neutral")
                ),
            ]
        )
    return markdown(rows) + f"\n\n{texts()}\n\n{earlier_model()}\n\n{separated()}\n\n{not_converged()}"


def earlier_model() -> str:
    """Which linear model the row of SmolLM2-135M is of."""
    made = starts()["SmolLM2-135M, cubic"]["trained"].provenance
    return (
        f"The row of SmolLM2-135M ({made.date[:10]}, commit {str(made.commit)[:8]}) is of a linear model from before commit 4fdfd441, when the linear stages of "
        '`recipes/smollm2-paper.toml` had exact gradients of the cells. They have `gradient = "bf16"` now: the commands above, Table 1, '
        "[tokens against quality](#tokens-against-quality) and [training.md](training.md#the-papers-pipeline-on-smollm2-135m) are of another linear model."
    )


def not_converged() -> str:
    """What is short of the tolerance of the released rule, and how far; the linear cell's neutral start, too."""
    found = [
        f"{title.partition(', ')[0] + ', linear' if start == 'linear' else title}, {run.start} start: {ended(run)}"
        for title, of in starts().items()
        for start, run in ((start, one.adaptation["published"]) for start, one in of.items())
        if not run.converged
    ]
    looser = cited().adaptation.tolerance_training.value
    return (
        f"{'; '.join(found)}. The rule asks for {TOLERANCE['released']:g} of means and standard deviations, as the released calibration code does. "
        f"The authors' training code asks for {looser:g} of standard deviations and {TOLERANCE['released']:g} of means (c); the results do not say of which of both these residuals are."
    )


def texts() -> str:
    """What table and figure are measured on, where that is the same for all rows.

    Raises:
        ValueError: rows of the table were evaluated on different blocks.
    """
    runs = [run for of in starts().values() for run in of.values()]
    evaluated, fitted, protocols = (
        {f"{run.text.evaluation_tokens:,} tokens of held-out text of `{run.text.name}`" for run in runs},
        {f"{run.text.calibration_tokens:,} tokens" for run in runs},
        {run.provenance.protocol for run in runs},
    )
    if max(map(len, (evaluated, fitted, protocols))) > 1:
        raise ValueError(f"adaptations on different texts: {evaluated}, {fitted}, {protocols}")
    return (
        f"The table is on {evaluated.pop()} ({protocols.pop()}), the figure on the {fitted.pop()} of training text "
        "that the adaptation reads."
    )


SMALL = 1.1
"""A factor of perplexity below which a cell hardly costs anything before the adaptation."""


def separated() -> str:
    """The sentences that follow from the table, of the paper's cell in every model."""
    said = []
    cubic = {
        model: of
        for model in STARTS
        for title, of in starts().items()
        if title.endswith(", cubic") and title.startswith(model)
    }
    for model, of in cubic.items():
        at = perplexities(of["neutral"])
        factor = {name: at[name] / at["linear"] for name in at}
        cell, left = factor["unadapted"], perplexities(of["trained"])["adapted"] / at["linear"]
        exchanged, discarded = (
            ("", ", so its neutral start shows how discarded gains are recovered")
            if cell < SMALL
            else (
                f"; this model degrades even with its gains kept. The adaptation from the trained start leaves × {left:.3f}",
                "",
            )
        )
        said.append(
            f"{model}, cubic cell: exchanging the cell multiplies the perplexity by {cell:.3g}{exchanged}. Discarding the gains multiplies it by "
            f"{factor['linear-neutral']:,.0f} with the linear cell and by {factor['unadapted-neutral']:,.0f} with this cell{discarded}."
        )
    return "\n\n".join([*said, "Only the trained start shows what the cell itself costs."])


def times(perplexity: float, linear: float) -> str:
    """A perplexity and its ratio to that of the linear model."""
    ratio = perplexity / linear
    return (
        f"{readable(perplexity)} (× {ratio:,.0f})"
        if ratio >= 100
        else f"{readable(perplexity)} (× {ratio:.3f})"
    )


def ended(found: Adaptation) -> str:
    """How a published iteration ended."""
    count = f"{found.iterations} iterations"
    if found.converged:
        return count
    silent = f", {len(found.skipped)} stages silent" if found.skipped else ""
    return (
        f"**not converged** in {count}, residual {found.residual.value:.2g} by the {found.rule} rule{silent}"
    )


def training() -> str:
    """Fig. 4d: ratios to the pretrained model, of the paper's released early runs, its Table 1 and ours."""
    paper = cited().training
    table, paired = stages("training/tiny-table"), stages("training/tiny-table-paired")
    scratch, rows = "software-scratch", [
        ["× pretrained model", "released early run, lowest (c)", "iterations of that run", "Table 1, WikiText-2 (c)", "tiny, run with the paper's arrays (s)", "tiny, run with paired rows (s)", "our tokens"],
    ]  # fmt: skip
    for title, run, row, stage in (
        ("linear hardware", tokens_page.LINEAR, "linear hardware", "linear"),
        (
            "nonlinear, from the linear one",
            "nonlinear, from the linear model",
            tokens_page.TUNED,
            "fine-tuned",
        ),
        ("nonlinear, straight from software", "nonlinear, straight from GPT-2", None, "nonlinear-straight"),
        ("nonlinear, from scratch", "nonlinear, from scratch", None, "nonlinear-scratch"),
        ("softmax model without arrays, from scratch", None, "software from scratch", scratch),
    ):
        known = tokens_page.curve(run) if run else []
        early = f"{min(at for *_, at in known) / paper.public.value:.2f}" if known else "–"
        final = f"{tokens_page.table_1()[row]:.2f}" if row else "–"
        found = [f"{at[stage].ratio_to_software:.2f}" for at in (table, paired)]
        tokens = f"{table[stage].training_tokens:,}"
        rows.append([title, early, f"{known[-1][0]:,}" if known else "–", final, *found, tokens])
    each, most = paper.batch.value * paper.block.value, paper.iterations.value
    end = max(tokens_page.curve("nonlinear, from scratch"))[0]
    own = max(stage.training_tokens for stage in table.values())
    texts = ", ".join(load_recipe(ROOT / "recipes" / "tiny-table.toml").files)
    ours, softmax = (
        [at[name].perplexity for at in (table, paired)] for name in ("nonlinear-scratch", scratch)
    )
    over = [our / other for our, other in zip(ours, softmax, strict=True)]
    note = (
        f"The released early runs are on OpenWebText, where public GPT-2 has {paper.public.value:g}. They stopped after about {round(end, -3):,} iterations at most, so the column shows how far they had come, not where such a training ends. "
        f"The paper says that the linear model equals public GPT-2 in less than {paper.equal.value:,} iterations, and a model from scratch only after more than {most:,}. The models of Table 1 except public GPT-2 had {most:,} iterations, {each * most / 1e9:.1f} G tokens; ours had {own / 1e6:.1f} M tokens and are scored on {table['linear'].predictions:,} tokens of held-out text like the training text, {texts}. "
        f"The softmax model from scratch is the same training run twice, with the same seed; the two results differ by {100 * (max(softmax) / min(softmax) - 1):.0f} %. "
        f"From scratch, our model ends at {over[0]:.3f} times the softmax model of the same run, and with paired rows at {over[1]:.3f} times that of its run, or {ours[1] / softmax[0]:.3f} times that of the other. Each is one training, so neither is shown to end lower."
    )
    return markdown(rows) + f"\n\n{note}"


def tasks() -> str:
    """Table 1."""
    runs = tokens_page.by_mapping(sorted(RESULTS.glob("evaluation/tasks/smollm2-*.json")))
    found = {f"SmolLM2-135M {'in' if name == 'software' else 'on'} {name}": run for name, run in runs.items()}
    table = comparison.as_markdown(
        compare(found, "SmolLM2-135M in software", cited=comparison.cited_rows())
    ).strip()
    bare = tokens_page.trainings(tokens_page.TOKENS / "leroux2025-paper")[-1].run
    included = [read(ROOT / "adapters" / f"smollm2-135m{end}", TrainedResult) for end in ("", "-extended")]
    mappings = [tokens_page.mapping(run) for run in (bare, *included)]
    plain, more, _ = (run.saved_stage.training_tokens for run in (bare, *included))
    against = compare({name: runs[name] for name in mappings[1:]}, mappings[1])
    entries = against.scores(mappings[2])
    changes = {column: entries[column].numbers[2:] for column in HEADINGS if column in entries}
    apart = [
        HEADINGS[column]
        for column, (difference, error) in changes.items()
        if abs(difference - (entries[column].score.unit == "1")) > 2 * error
    ]
    return (
        f"{table}\n\nThe row of the paper's arrays with nothing added is after {plain:,} tokens, {plain / more:.2f} times those of the included adapter of the same chip, "
        f"{more:,}: the two rows differ in tokens, too. The included adapter of the extended chip and that of the paper's arrays differ by more than two standard errors, on the same items, in: "
        f"{', '.join(apart) or 'no column'}."
    )


def energies() -> str:
    """Fig. 5e, and whose activity the last column has."""
    result, assumed = costs("smollm2-135m"), costs("gpt2")
    on = tokens_page.mapping(read(ROOT / "adapters" / "smollm2-135m", TrainedResult))
    write, alone = (next(x for x in one.head.lines if x.name == "write") for one in (result, assumed))
    return (
        f"{energy()}\n\nThe last column uses the activity of `adapters/smollm2-135m`, {on}, measured on {result.activity.source}. "
        f"There, {result.head.group} query heads share one write, so the paper's counterpart of its {joule(write.bottom_up)} is {joule(write.cited)}, not {joule(alone.cited)}."
    )


def baseline() -> str:
    """The faulty protocol beside a fair one, on our processor."""
    measured = read(RESULTS / "costs" / "baseline-cpu.json", BaselineResult)
    found = [m for m in measured.measurements if (m.context, m.batch) == (1024, 64)]
    whose = "processor time" if was_shared(measured) else "time"
    rows = [["12 heads, D = 64, 1024 keys, batch 64", "protocol", f"{whose} per token (m)"]]
    for entry in found:
        name = f"{entry.implementation.replace('published', 'as published')}, {entry.dtype}"
        rows.append([name, entry.protocol, f"{1e6 * per_token(entry):.0f} µs"])
    return markdown(rows, text=(0, 1))


def headline() -> str:
    """The claims of the abstract."""
    said, machines_of = cited().claims, costs("gpt2").machines
    gain = {what: against(machines_of, what) for what in ("latency", "energy")}
    readings = costs("mistral-7b").why.stated_cache
    context = costs("mistral-7b").why.cache.context
    right = [row for row in readings if row.tokens == context and row.grouped]
    lowest, highest = (pick(row.tokens for row in readings) for pick in (min, max))
    orders = f"{said.energy_article.value} orders of magnitude (preprint: {said.energy_preprint.value})"
    rows = [
        ["claim", "paper (c)", "ours", "verdict"],
        ["energy of attention against GPUs", f"up to {orders} less", gain["energy"],
         f"{holds(machines_of, 'energy', said.energy_article.value)}; {preprint(machines_of, said.energy_preprint.value)}; "
         "this counts attention alone, without the linear layers (reservations: Fig. 5)"],
        ["latency against GPUs", f"up to {said.latency.value} orders of magnitude less", gain["latency"],
         holds(machines_of, "latency", said.latency.value)],
        ["quality of a converted model", "like GPT-2, from GPT-2", *quality()],
        ["cache of Mistral 7B", f"{said.cache.value} {said.cache.unit} at batch 1",
         f"{lowest:,.0f} to {highest:,.0f} tokens in {len(readings)} readings (s)",
         f"computed from the stated size, so no reproduction; with the model's grouped heads, {context:,.0f} tokens, its context, "
         f"follow for {' and '.join(f'giga{row.read_as} and {8 * row.bytes_per_number:.0f}-bit numbers' for row in right)}"],
    ]  # fmt: skip
    return markdown(rows, text=range(4))


def quality() -> list[str]:
    """Ours over the pretrained model, and which reach the paper's on the same text."""
    words = []
    for title, name in (
        ("`tiny` on the paper's arrays", "training/tiny-table"),
        ("`tiny` on the paper's arrays with paired rows", "training/tiny-table-paired"),
        ("`tiny` on the paper's arrays, from the included linear model", "tiny"),
    ):
        found = stages(name)
        tuned, other = found["fine-tuned"], found["software-continued-more"]
        last = tuned.training_tokens - found["adapted"].training_tokens
        share = f" (the last {last:,} of them by `gaincell map`)"
        words.append(
            f"{title}: × {tuned.ratio_to_software:.2f} after {counted(tuned.training_tokens)} tokens{share if name == 'tiny' else ''}, "
            f"the softmax model × {other.ratio_to_software:.2f}"
        )
    goal, ends = tokens_page.table_1()[tokens_page.TUNED], tokens_page.ends()
    reached = [title for title, end in ends.items() if end.ratio <= goal]
    who = (
        f"reached on that text by {'; '.join(reached)}"
        if reached
        else "**not reached** on that text by any of ours"
    )
    verdict = f"the paper's fine-tuned GPT-2 is at × {goal:.2f} on WikiText-2, test split (Table 1; ours: validation split); {who}"
    own = "; ".join(
        f"{title}: × {end.ratio:.2f} after {counted(end.tokens)} tokens" for title, end in ends.items()
    )
    return [
        f"relative to the pretrained software model. On WikiText-2: {own}. On held-out text like the training text, arrays trained with a teacher, beside the softmax model trained on the same tokens by cross-entropy alone, which is no control by the same loss: {'; '.join(words)} (s)",
        f"{verdict}; no verdict on `tiny`, which is measured on another text",
    ]


def preprint(machines: Sequence[Machine], orders: float) -> str:
    """Whether the larger claim of the preprint is reached against one of the measured GPUs."""
    most = {title: max(ratios(machines, f"energy_over_{column}")[0]) for column, title in OURS.items()}
    said = (
        f"{'reached' if found >= 10**orders else '**not reached**'} with {title} (at most {found:,.0f})"
        for title, found in most.items()
    )
    return f"the preprint's {orders:g} orders: {', '.join(said)}{with_cited_digital(most[OURS['bottom_up']], orders)}"


def with_cited_digital(most: float, orders: float) -> str:
    """What becomes of our ratio with the paper's energy of the digital part, where ours is outside its band."""
    head = costs("gpt2").head
    digital = next(line for line in head.lines if line.name == "digital")
    if digital.inside:
        return ""
    own = head.bottom_up.energy
    found = most * own / (own - digital.bottom_up + digital.cited.value)
    reached = "still reached" if found >= 10**orders else "not reached"
    return f", which rests on a digital part far below the paper's: with the paper's in its place {reached} (at most {found:,.0f})"


def holds(machines: Sequence[Machine], what: str, orders: float) -> str:
    """Whether so many orders of magnitude are reached, with the paper's number and with ours: against one of
    the measured GPUs (up to, as claimed), and against every computed one, which are estimates.
    """
    columns = [ratios(machines, f"{what}_over_{column}") for column in OURS]
    reached = all(max(measured) >= 10**orders for measured, _ in columns)
    shown = all(min(computed) >= 10**orders for _, computed in columns)
    return (
        f"{'reached' if reached else '**not reached**'} against the published measurements, "
        f"{'shown' if shown else '**not shown**'} against GPUs that only read their cache"
    )


def outside() -> str:
    """Blocks outside their bands, of every result that docs/costs.md has: as its table of bands, without Mistral."""
    paths = sorted(path for path in (RESULTS / "costs").glob("cost-*.json") if "mistral" not in path.stem)
    table = costs_page.bands({path.stem.partition("-")[2]: read(path, CostResult) for path in paths})
    blocks = [heading.rpartition(", ")[0] for heading in table.headings[1:]]
    found = {
        block: [
            f"{factor.removesuffix(' NO')} ({row[0]})"
            for row in table.rows
            if (factor := row[n + 1]).endswith(" NO")
        ]
        for n, block in enumerate(blocks)
    }
    return "; ".join(f"{block} × {', '.join(factors)}" for block, factors in found.items() if factors)


def short_fine_tuning() -> str:
    """What the last stage of the mapping of `tiny` changes, and what the same tokens change in its softmax control."""
    at = stages("tiny")
    blocks = {name: stage.blocks for name, stage in at.items() if stage.blocks is not None}
    ours, theirs = (
        [a - b for a, b in zip(blocks[after].nll, blocks[before].nll, strict=True)]
        for after, before in (("fine-tuned", "adapted"), ("software-continued-more", "software-continued"))
    )
    weights = blocks["adapted"].predictions
    nothing = [0.0] * len(weights)
    change, control, apart = (
        paired_interval(*pair, weights) for pair in ((ours, nothing), (theirs, nothing), (ours, theirs))
    )
    _, low, high = change
    tokens = at["fine-tuned"].training_tokens - at["adapted"].training_tokens
    shown, of_control, between = (
        f"× {ratio:.4f} ({least:.4f} to {most:.4f})" for ratio, least, most in (change, control, apart)
    )
    cause = (
        "the arrays follow their teacher in this stage, which is this control, so the chip adds nothing to it"
        if apart[1] <= 1 <= apart[2]
        else "the arrays do not just follow their teacher in this stage, which is this control"
    )
    return (
        f"A short fine-tuning after the adaptation {'makes `tiny` better' if high < 1 else 'makes `tiny` worse' if low > 1 else 'makes `tiny` neither better nor worse'}: "
        f"{readable(at['adapted'].perplexity)} before, {readable(at['fine-tuned'].perplexity)} after {tokens:,} tokens, {shown} (s). The same tokens change the softmax control by "
        f"{of_control} (m). The ratio of the two is {between}: {cause}. (95 %, the same blocks.)"
    )


def negative() -> str:
    """What did not work, stated plainly."""
    small = read(RESULTS / "smollm2.json", MappedResult)
    table = {name: stage.perplexity for name, stage in stages("training/tiny-table").items()}
    ppl = perplexities(small)
    folder = RESULTS / "cells" / "adaptation" / "leroux2025"
    stiff = [
        read(folder / f"{kind}.json", CellAdaptationResult).stages
        for kind in ("exponential", "oxide-2t-saturated")
    ]
    left = [at["closed-form"].perplexity / at["linear"].perplexity for at in stiff]
    whole = {name: costs(name).whole_model[1] for name in ("gpt2", "mistral-7b")}
    tau = 1e3 * load_design("leroux2025").retention_time
    mild = starts()["SmolLM2-135M, cubic"]["trained"]
    mild_at = perplexities(mild)
    straight = table["nonlinear-straight"] / table["fine-tuned"]
    ends = "; ".join(f"{title}: × {end.ratio:.2f}" for title, end in tokens_page.ends().items())
    lines = [
        f"Word perplexity on WikiText-2, relative to the pretrained software model, where each series of [tokens against quality](#tokens-against-quality) ends: {ends} (s). The paper's fine-tuned GPT-2: × {tokens_page.table_1()[tokens_page.TUNED]:.2f} (c).",
        f"The published adaptation of `gaincell map smollm2-135m` (paper's arrays): {ended(small.adaptation['published'])}. The closed form meets the statistics of all stages but {len(small.adaptation['closed-form'].skipped)} silent ones, which it leaves alone, "
        f"yet perplexity goes from {readable(ppl['unadapted'])} to {readable(ppl['adapted'])}, not to the {readable(ppl['linear'])} of the linear model (s). How much of this the silent stages cost was not tested: in the run of Fig. 4c "
        f"{len(mild.adaptation['published'].skipped) or 'no'} stage is silent, and × {mild_at['adapted'] / mild_at['linear']:.3f} remains all the same (s).",
        short_fine_tuning(),
        f"From scratch, the nonlinear model ends at {readable(table['nonlinear-scratch'])}, the softmax model at {readable(table['software-scratch'])}, both without "
        f"enough tokens; training straight from software gives {straight:.2f} times the perplexity of training via the linear model, one training each, so which way is better is not shown (s).",
        f"Energies outside the band stated beforehand, ours over the paper's: {outside()} (s over c).",
        f"Adaptation does not undo an exponential or a saturated cell: perplexity stays {left[0]:.1f} and {left[1]:.1f} times that of the linear model (s).",
        "With the linear layers on an H100, attention in gain cells lowers the energy of a whole model at batch 1 only by a factor of "
        + " or ".join(
            f"{' and '.join(f'{getattr(row, key):.2f} ({name})' for name, row in whole.items())} with {OURS[column]}"
            for column, key in (("cited", "energy_gain_cited"), ("bottom_up", "energy_gain"))
        )
        + ", because reading the weights dominates. A token must then be held for "
        + " and ".join(with_scale(row.held, "s") for row in whole.values() if row.held is not None)
        + f", but the retention time is {tau:g} ms: this needs refreshes or other cells ([costs.md](costs.md)) (s).",
    ]
    return "\n".join(f"* {line}" for line in lines)


PARTS = {
    "headline": headline, "tokens": tokens_page.table, "cell": cell, "timing": timing, "area": area, "adaptation": adaptation, "training": training,
    "tasks": tasks, "accuracy": accuracy, "energy": energies, "machines": machines, "baseline": baseline, "negative": negative,
}  # fmt: skip


def ratios(machines: Sequence[Machine], key: str) -> tuple[list[float], list[float]]:
    """To GPUs that the paper's authors measured, and to those computed from what makers state."""
    measured = [getattr(machine, key) for machine in machines if "reading" not in machine.title]
    return measured, [getattr(machine, key) for machine in machines if "reading" in machine.title]


def against(machines: Sequence[Machine], what: str) -> str:
    """Ratios to GPUs in words, with the paper's number and with ours."""
    found = {title: ratios(machines, f"{what}_over_{column}") for column, title in OURS.items()}
    groups = ("the published GPU measurements (c)", "GPUs that only read their cache (computed, s)")
    return "; ".join(
        f"against {group}, lower by a factor of "
        + " or ".join(f"{min(at[n]):,.0f} to {max(at[n]):,.0f} with {title}" for title, at in found.items())
        for n, group in enumerate(groups)
    )


if __name__ == "__main__":
    main()
