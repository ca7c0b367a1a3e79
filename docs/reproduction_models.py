"""Parts of docs/reproduction.md that are of models: Fig. 4c, Fig. 4d, the short fine-tuning."""
# ruff: noqa: E501 (sentences of the page)

from __future__ import annotations

from pathlib import Path

import cells_page
import tokens_page
from conversions import counted
from reproduction_circuits import RESULTS, markdown, uncommitted

from gaincell.adaptation.result import TOLERANCE
from gaincell.mapping.recipe_file import load_recipe
from gaincell.reports.codesign import paired_interval
from gaincell.reports.comparison import cited_rows
from gaincell.reports.paper import cited
from gaincell.reports.tables import readable
from gaincell.results import read
from gaincell.results.run import (
    Adaptation,
    AdaptedResult,
    StagedResult,
    StageResult,
)

ROOT = Path(__file__).parents[1]
OF_THE_PAPER = "cubic"
"""The paper's cell, whose results need no title of their own."""
SMALL_GPT2 = "small-gpt2"
"""Recipe of the model of GPT-2's architecture, and what stands for it in tables."""
STARTS = {
    "tiny": "cells/starts",
    SMALL_GPT2: f"adaptation/{SMALL_GPT2}",
    "SmolLM2-135M": "adaptation/smollm2-135m",
}
"""Model -> folder of its published adaptations, START/CELL.json below it."""


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
        linear = {"linear": read(folders["neutral"] / "linear.json", AdaptedResult)}
        for path in sorted(folders["trained"].glob("*.json"), key=cells_page.order):
            pair = {start: read(folder / path.name, AdaptedResult) for start, folder in folders.items()}
            title = f"{model}, {pair['neutral'].title or OF_THE_PAPER}"
            found[title] = pair | linear
    return found


def adaptation() -> str:
    """Fig. 4c: what the cell costs, what discarded gains cost, and what the adaptation brings back."""
    paper = cited().adaptation
    before, after = paper.before.value, paper.after.value
    released = tokens_page.adaptation_curve()
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
        [
            "GPT-2, cubic (c)",
            "–",
            "–",
            "–",
            f"{before} (start by the released code)",
            "–",
            str(after),
        ],
        [
            "GPT-2, cubic, first submission (c)",
            *["–"] * 3,
            f"{released[0]:,.0f} (start by the released code)",
            "–",
            f"{released[-1]:.3g}, {len(released) - 1} iterations",
        ],
    ]
    for title, of in starts().items():
        at = {start: perplexities(run) for start, run in of.items()}
        linear = at["neutral"]["linear"]
        model = title.partition(", ")[0]
        if model not in {row[0].partition(", ")[0] for row in rows}:  # once for all its cells
            adapted = (
                f"{times(at['linear']['adapted'], linear)}, {ended(of['linear'].adaptation['published'])}"
            )
            discarded = times(at["linear"]["linear-neutral"], linear)
            rows.append([f"{model}, linear (s)", readable(linear), "–", discarded, "–", "–", adapted])
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
    return "\n\n".join([markdown(rows), texts(), separated(), in_the_paper(), stopped()])


def in_the_paper() -> str:
    """What is known of the paper's own fall, and what is not."""
    paper, table = cited().adaptation, tokens_page.table_1()
    fall = paper.before.value / paper.after.value
    released = tokens_page.adaptation_curve()

    def falls(start: str, unadapted: str) -> str:
        return ", ".join(
            f"× {rounded(at[unadapted] / at['adapted'])} ({model})"
            for model in STARTS
            for at in [perplexities(starts()[f"{model}, cubic"][start])]
        )

    lambada = {name: row[LAMBADA].score.value for name, row in cited_rows().items()}
    return (
        f"The paper's fall, {paper.before.value} to {paper.after.value} (c), is × {fall:.0f}. By the released code it begins at the neutral start; the {paper.before.value} itself is in no released file. The released plotting code holds the iteration as first submitted (c): {released[0]:,.0f} to {released[-1]:.3g}, × {released[0] / released[-1]:.0f}, with {readable(max(released))} after {released.index(max(released))} iteration. How far a model falls from there differs between models: {falls('neutral', 'unadapted-neutral')}; on what it depends was not tested. "
        f"The size of a fall does not tell the start: from the trained one it is {falls('trained', 'unadapted')}. What the cell costs in the paper after adaptation, over its linear model (Table 1, c): "
        f"× {table[ADAPTED] / table['linear hardware']:.2f} on WikiText-2, × {lambada[f'GPT-2, {ADAPTED}'] / lambada['GPT-2, linear hardware']:.2f} on LAMBADA. "
        f"{released_adapted()}"
    )


def released_adapted() -> str:
    """The released run of the nonlinear model before its first iteration, over the released linear run."""
    first, linear = tokens_page.curve(TUNED_CURVE)[0], tokens_page.curve(tokens_page.LINEAR)
    assert first[0] == 0
    last, lowest = (first[-1] / other for other in (linear[-1][-1], min(at for *_, at in linear)))
    after, public = cited().adaptation.after.value, cited().training.public.value
    return (
        f"On OpenWebText, the released run of the nonlinear model begins at {first[-1]:.4g} (c), × {last:.2f} of the last and × {lowest:.2f} of the lowest perplexity of the released linear run; the released training script adapts before its first evaluation (c), so this is the adapted model. "
        f'Fig. 4c ends at {after} (c), below the {public:g} of public GPT-2 there, and the script that draws it (c) loads an iteration named "no quant no decay", from a linear model of 13,000 iterations: by its name without quantisation and decay, which all rows of this project here have. The calibration script evaluates every iteration on another random batch.'
    )


def stopped() -> str:
    """By which rule the iterations stop, and which did not, and how far from it; the linear cell's, too."""
    found = [
        f"{title.partition(', ')[0] + ', linear' if start == 'linear' else title}, {run.start} start: {ended(run)}"
        for title, of in starts().items()
        for start, run in ((start, one.adaptation["published"]) for start, one in of.items())
        if not run.converged
    ]
    rule, looser = TOLERANCE["released"], cited().adaptation.tolerance_training.value
    return (
        f"An iteration stops by the rule of the released calibration code, {rule:g} of means and of standard deviations, each absolute (c); the authors' training script asks for {looser:g} of both (c); the paper's text speaks of a tolerance ratio (c). "
        + (f"Not so: {'; '.join(found)}." if found else "All iterations here did.")
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
    own = stages(f"training/{SMALL_GPT2}")["linear"].perplexity
    return (
        f"The table is on {evaluated.pop()} ({protocols.pop()}), the figure on the {fitted.pop()} of training text "
        f"that the adaptation reads.{uncommitted(*runs)} To {SMALL_GPT2} this text is foreign: on text like that of its training, its linear model is at {own:.4g} ([training.md](training.md#gpt-2s-architecture-and-llamas), seed 0)."
    )


TUNED_CURVE = "nonlinear, from the linear model"
"""The released run that starts from the linear model."""
ADAPTED = "nonlinear, adapted"
LAMBADA = "lambada_openai/perplexity"
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
    unchanged = {model: perplexities(of["linear"]) for model, of in cubic.items()}
    falls = {model: at["linear-neutral"] / at["adapted"] for model, at in unchanged.items()}
    large = cited().adaptation.before.value / cited().adaptation.after.value
    listed = " and ".join(model for model, fall in falls.items() if fall < large)
    peaks = [
        f"{model} from {readable(history.perplexity[0])} to {readable(max(history.perplexity))}"
        for model, of in cubic.items()
        if (history := of["neutral"].adaptation["published"].history)
        and max(history.perplexity) > history.perplexity[0]
    ]
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
            f"{rounded(factor['linear-neutral'])} with the linear cell and by {rounded(at['unadapted-neutral'] / at['unadapted'])} with this cell{discarded}."
        )
    back = ", ".join(f"× {at['adapted'] / at['linear']:.3f} ({model})" for model, at in unchanged.items())
    said.append(
        f"With the linear cell, where nothing was exchanged, the iteration from the neutral start ends at {back} of the linear model: the iteration finds the discarded gains again, from "
        f"{', '.join(f'× {rounded(fall)} ({model})' for model, fall in falls.items())}. A fall as large as the paper's, × {large:.0f}, is made by discarded gains alone{f', but not in {listed}' if listed else ''}. Only the trained start shows what the cell itself costs."
    )
    if peaks:
        said.append(
            f"From the neutral start the perplexity may rise before it falls, with the cubic cell on the text that the iteration reads: {'; '.join(peaks)}."
        )
    return "\n\n".join(said)


def times(perplexity: float, linear: float) -> str:
    """A perplexity and its ratio to that of the linear model."""
    return f"{readable(perplexity)} (× {rounded(perplexity / linear)})"


def rounded(ratio: float) -> str:
    """To two digits from ten on, where its standard error is a tenth or so."""
    return f"{float(f'{ratio:.2g}'):,.0f}" if ratio >= 10 else f"{ratio:.3f}"


def ended(found: Adaptation) -> str:
    """How a published iteration ended."""
    silent = f", {len(found.skipped)} stages without variance" if found.skipped else ""
    count = f"{found.iterations} iterations"
    if found.converged:
        return count + silent
    rule = found.rule or "relative"  # the only one when files did not state it
    return f"**not converged** in {count}, residual {found.residual.value:.2g} by the {rule} rule{silent}"


def training() -> str:
    """Fig. 4d: ratios to the pretrained model, of the paper's released early runs, its Table 1 and ours."""
    paper = cited().training
    table, paired = stages("training/tiny-table"), stages("training/tiny-table-paired")
    scratch, rows = "software-scratch", [
        ["× pretrained model", "released early run, last (lowest) (c)", "iterations of that run", "Table 1, WikiText-2 (c)", "tiny, run with the paper's arrays (s)", "tiny, run with paired rows (s)", "our tokens"],
    ]  # fmt: skip
    for title, run, row, stage in (
        ("linear hardware", tokens_page.LINEAR, "linear hardware", "linear"),
        (
            "nonlinear, from the linear one",
            TUNED_CURVE,
            tokens_page.TUNED,
            "fine-tuned",
        ),
        ("nonlinear, straight from software", "nonlinear, straight from GPT-2", None, "nonlinear-straight"),
        ("nonlinear, from scratch", "nonlinear, from scratch", None, "nonlinear-scratch"),
        ("softmax model without arrays, from scratch", None, "software from scratch", scratch),
    ):
        known = tokens_page.curve(run) if run else []
        last, lowest = (
            (known[-1][-1] / paper.public.value, min(at for *_, at in known) / paper.public.value)
            if known
            else (0.0, 0.0)
        )
        early = f"{last:.2f} ({lowest:.2f})" if known else "–"
        final = f"{tokens_page.table_1()[row]:.2f}" if row else "–"
        found = [f"{at[stage].ratio_to_software:.2f}" for at in (table, paired)]
        tokens = f"{table[stage].training_tokens:,}"
        rows.append([title, early, f"{known[-1][0]:,}" if known else "–", final, *found, tokens])
    each, most = paper.batch.value * paper.block.value, paper.iterations.value
    from_scratch = tokens_page.curve("nonlinear, from scratch")
    end, least = max(from_scratch)[0], min(from_scratch, key=lambda point: point[-1])
    top = max((point for point in from_scratch if point[0] > least[0]), key=lambda point: point[-1])
    own = sorted({stage.training_tokens for stage in table.values() if stage.training_tokens})
    texts = ", ".join(load_recipe(ROOT / "recipes" / "tiny-table.toml").files)
    ours, softmax = (
        [at[name].perplexity for at in (table, paired)] for name in ("nonlinear-scratch", scratch)
    )
    over = [our / other for our, other in zip(ours, softmax, strict=True)]
    note = (
        f"The released early runs are on OpenWebText, where public GPT-2 has {paper.public.value:g}. They stopped after {end:,} iterations at most, so the column shows how far they had come, not where such a training ends; the run from scratch had its lowest, {least[-1]:.0f}, after {least[0]:,}, rose to {top[-1]:.0f} at {top[0]:,} and was back at {from_scratch[-1][-1]:.0f} when it stopped. "
        f"The paper says that the linear model equals public GPT-2 in less than {paper.equal.value:,} iterations (in the released early run it comes close, as the first row says), and a model from scratch only after more than {most:,}. The models of Table 1 except public GPT-2 had {most:,} iterations, {each * most / 1e9:.1f} G tokens; ours had {own[0] / 1e6:.1f} to {own[-1] / 1e6:.1f} M tokens and are scored on {table['linear'].predictions:,} tokens of held-out text like the training text, {texts}. "
        f"The softmax model from scratch is the same training run twice, with the same seed; the two results differ by {100 * (max(softmax) / min(softmax) - 1):.0f} %. "
        f"From scratch, our model ends at {over[0]:.3f} times the softmax model of the same run, and with paired rows at {over[1]:.3f} times that of its run, or {ours[1] / softmax[0]:.3f} times that of the other. Each is one training, so neither is shown to end lower. "
        f"{beside_software()}"
    )
    return markdown(rows) + f"\n\n{note}"


def beside_software() -> str:
    """`tiny` and the softmax model trained on the same tokens, both over the pretrained model."""
    words = []
    for title, name in (
        ("on the paper's arrays", "training/tiny-table"),
        ("with paired rows", "training/tiny-table-paired"),
        ("from the included linear model, on text of `sample`", "tiny"),
    ):
        found = stages(name)
        tuned, other = found["fine-tuned"], found["software-continued-more"]
        last = tuned.training_tokens - found["adapted"].training_tokens
        share = f" (the last {last:,} of them by `gaincell map`)"
        words.append(
            f"{title}: × {tuned.ratio_to_software:.2f} after {counted(tuned.training_tokens)} tokens{share if name == 'tiny' else ''}, "
            f"the softmax model × {other.ratio_to_software:.2f}{' (both relative to the model before these tokens)' if name == 'tiny' else ''}"
        )
    return f"Fine-tuned `tiny` (s), which has a teacher, beside the softmax model (m) trained on the same tokens by cross-entropy alone, which is no control by the same loss: {'; '.join(words)}."


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
        "the arrays' teacher in this stage is this control, and an effect of the chip beyond that is not shown"
        if apart[1] <= 1 <= apart[2]
        else "the arrays do not just follow their teacher in this stage, which is this control"
    )
    return (
        f"A short fine-tuning after the adaptation {'makes `tiny` better' if high < 1 else 'makes `tiny` worse' if low > 1 else 'makes `tiny` neither better nor worse'}: "
        f"{readable(at['adapted'].perplexity)} before, {readable(at['fine-tuned'].perplexity)} after {tokens:,} tokens, {shown} (s). The same tokens change the softmax control by "
        f"{of_control} (m). The ratio of the two is {between}: {cause}. (95 %, the same blocks.)"
    )
