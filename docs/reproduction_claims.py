"""What the paper claims, on docs/reproduction.md: each claim beside what follows here, and what became of it."""
# ruff: noqa: E501 (sentences of the page)

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import seeds
import tokens_page
import training_page
from conversions import counted
from reproduction_circuits import RESULTS, costs, markdown, uncommitted

from gaincell.reports.paper import cited
from gaincell.reports.system_costs import by_movement, moved, untimed, with_cited_digital
from gaincell.results.cost import CostResult
from gaincell.results.system_cost import Machine

OURS = {"cited": "the paper's number (c)", "bottom_up": "ours (s)"}
"""Columns of a comparison with machines, and how they are called."""
GROUPED = OURS | {"cited": "the paper's blocks in our schedule (c, s)"}
"""The same where query heads share arrays, for which the paper has no number."""
MIXED = "ours but the paper's digital part (c, s)"
READING = "GPUs that only read its cache (computed, s)"


def claims() -> str:
    """The claims of the abstract: a table, and what is to be said of its rows."""
    said, grouped = cited().claims, costs("smollm2-135m")
    readings, context = costs("mistral-7b").why.stated_cache, costs("mistral-7b").why.cache.context
    right = [row for row in readings if row.tokens == context and row.grouped]
    tokens = [row.tokens for row in readings]
    reading_as = " and ".join(f"giga{row.read_as} and {8 * row.bytes_per_number:.0f}-bit numbers" for row in right)  # fmt: skip
    rows = [
        ["claim", "against, or on", "paper (c)", "with the paper's number (c; over computed: c, s)", "with ours (s)", "verdict"],
        *against_gpus("energy", said.energy_article.value),
        *against_gpus("latency", said.latency.value),
        *quality(),
        ["cache of Mistral 7B", f"its size in tokens, by {len(readings)} readings of units, types and heads", f"{said.cache.value} {said.cache.unit} at batch 1", "–", f"{min(tokens):,.0f} to {max(tokens):,.0f} tokens",
         f"computed from the stated size, so no reproduction; with the model's grouped heads, {context:,.0f} tokens, its context, follow for {reading_as}"],
    ]  # fmt: skip
    notes = [
        "Factors are those of the GPU over the arrays. The paper's number over a published one is its own claim, nothing reproduced. Verdicts against published measurements are of the largest factor, as claimed; those against computed GPUs, which are estimates, of every one.",
        f"Energy and latency are those of attention alone, without the linear layers (reservations: [Fig. 5](#fig-5c-d-against-gpus)). Of energy, {preprint(costs('gpt2').machines, said.energy_preprint.value)}. {by_movement(costs('gpt2'))}",
        f"SmolLM2-135M: {grouped.head.group} query heads share arrays. The paper has no number for that: its blocks in our schedule of shared arrays (c, s) stand in the column of its number. The activity is simulated on real text; that of GPT-2 is assumed. Not in our latency: {'; '.join(untimed(grouped))}.",
        f"Quality is perplexity over that of the pretrained software model. {tokens_page.of_text_alone()}",
    ]
    return "\n\n".join([markdown(rows, text=range(6)), "\n".join(f"* {note}" for note in notes)])


def against_gpus(what: str, orders: float) -> Iterator[list[str]]:
    """Rows of the energy or the latency of attention: against what was measured, up to, as claimed."""
    measured, _ = by_origin(costs("gpt2").machines)
    claim = f"up to {orders:g} orders of magnitude less"
    if what == "energy":
        claim += f" (preprint: {cited().claims.energy_preprint.value})"
    reached = "; ".join(
        f"{'reached' if max(ratios(measured, what, column)) >= 10**orders else '**not reached**'} with {title}"
        for column, title in OURS.items()
    )
    published = "published GPU measurements (c)"
    yield [f"{what} of attention, GPT-2", published, claim, *ranges(measured, what), reached]
    for model, name, titles in (("GPT-2", "gpt2", OURS), ("SmolLM2-135M", "smollm2-135m", GROUPED)):
        _, computed = by_origin(costs(name).machines)
        verdict = against_readings(costs(name), what, orders, titles)
        if what == "energy":
            verdict += by_moving(costs(name), orders, titles)
        yield [f"{what} of attention, {model}", READING, "–", *ranges(computed, what), verdict]


def by_moving(of: CostResult, orders: float, titles: Mapping[str, str]) -> str:
    """The same by what moving data and arithmetic alone take of a GPU, where the board's power is too high."""
    _, *factors = moved(of) or (0.0, None, None)
    told = [
        f"{'reached' if factor >= 10**orders else '**not reached**'} with {title} (× {readable_ratio(factor)})"
        for title, factor in zip(titles.values(), factors, strict=True)
        if factor is not None
    ]
    return f". By memory and arithmetic of the {of.gpu} alone: {'; '.join(told)}" if told else ""


def ranges(machines: Sequence[Machine], what: str) -> list[str]:
    """The least and the largest factor, in the columns of `OURS`."""
    factors = (ratios(machines, what, column) for column in OURS)
    return [f"× {readable_ratio(min(one))} to {readable_ratio(max(one))}" for one in factors]


def by_origin(machines: Sequence[Machine]) -> tuple[list[Machine], list[Machine]]:
    """GPUs that the paper's authors measured, and those computed from what makers state."""
    computed = [machine for machine in machines if "reading" in machine.title]
    return [machine for machine in machines if machine not in computed], computed


def ratios(machines: Sequence[Machine], what: str, column: str) -> list[float]:
    """Of GPUs over the arrays, those that are known."""
    known = (getattr(machine, f"{what}_over_{column}") for machine in machines)
    return [ratio for ratio in known if ratio is not None]


def against_readings(of: CostResult, what: str, orders: float, titles: Mapping[str, str]) -> str:
    """Whether so many orders of magnitude are reached against every GPU that only reads its cache; of
    energies, with the paper's digital part in ours, too.
    """
    ways = [(column, title, 1.0) for column, title in titles.items()]
    if what == "energy" and (factor := with_cited_digital(of)) is not None:
        ways.append(("bottom_up", MIXED, factor))
    told = []
    for column, title, factor in ways:
        known = {
            m.title.partition(",")[0]: getattr(m, f"{what}_over_{column}") for m in by_origin(of.machines)[1]
        }
        short = [
            f"{name} (× {readable_ratio(factor * ratio)})"
            for name, ratio in known.items()
            if ratio is not None and factor * ratio < 10**orders
        ]
        told.append(
            f"{'**not reached** against ' + ' and '.join(short) if short else 'reached'} with {title}"
        )
    return "; ".join(told)


def preprint(machines: Sequence[Machine], orders: float) -> str:
    """Whether the larger claim of the preprint is reached against one of the measured GPUs."""
    most = {title: max(ratios(by_origin(machines)[0], "energy", column)) for column, title in OURS.items()}
    said = (
        f"{'reached' if found >= 10**orders else '**not reached**'} with {title} (at most × {found:,.0f})"
        for title, found in most.items()
    )
    factor = with_cited_digital(costs("gpt2"))
    assert factor is not None
    found = factor * most[OURS["bottom_up"]]
    reached = "still reached" if found >= 10**orders else "not reached"
    return (
        f"the preprint's {orders:g} orders: {', '.join(said)}, which rests on our digital part: "
        f"with the paper's in its place {reached} (at most × {found:,.0f})"
    )


def readable_ratio(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.1f}"


def quality() -> list[list[str]]:
    """Rows of converted models: on the paper's text, and our small models through the paper's stages."""
    cited, ends = tokens_page.table_1(), tokens_page.ends()
    goal = cited[tokens_page.TUNED]
    adapted = cited["nonlinear, adapted"] / cited["linear hardware"]
    reached = [title for title, end in ends.items() if end.ratio <= goal]
    verdict = f"reached by {'; '.join(reached)}" if reached else "**not reached** by any of ours"
    tuned = ", ".join(
        f"× {seeds.spread(seeds.quotients(runs, 'fine-tuned', None))} ({title})"
        for title, runs in small_runs().items()
    )
    return [
        ["quality of a converted model", "WikiText-2 (ours: validation split)", f"like GPT-2, from GPT-2; test split, fine-tuned × {goal:.2f} (Table 1)", "–", best_and_bare(), verdict],
        ["the paper's stages, small models", "held-out text like their training text", f"GPT-2, WikiText-2: adapted × {adapted:.2f} of linear hardware, fine-tuned × {goal:.2f} (Table 1)", "–", f"fine-tuned {tuned}", small_models_verdict()],
    ]  # fmt: skip


def best_and_bare() -> str:
    """Of every chip, the series that ends lowest and the one with nothing added to the paper's mapping."""
    ends = tokens_page.ends()
    shown: dict[str, None] = {}
    for arrays in tokens_page.ARRAYS.values():
        own = {title: end for title, end in ends.items() if f" on {arrays}" in title}
        bare = (title for title in own if " with " not in title)
        shown |= dict.fromkeys([min(own, key=lambda title: own[title].ratio), *bare])
    told = (
        f"{title}: × {ends[title].ratio:.2f} after {counted(ends[title].tokens)} tokens" for title in shown
    )
    return f"{'; '.join(told)} ([all](#tokens-against-quality))"


CONTINUED = "software-continued-more"
"""The softmax model trained on as many tokens as the fine-tuned one."""


def small_runs() -> dict[str, list[training_page.TrainedResult]]:
    """Runs of the paper's stages on our small models, by architecture."""
    return training_page.small_models(seeds.read_seeds(RESULTS / "training"))


def small_models() -> str:
    """The paper's stages without a teacher, on our models of GPT-2's and Llama's architectures: what comes after their name."""
    by_title = small_runs()
    tuned = next(iter(by_title.values()))[0].stage("fine-tuned")
    assert tuned is not None
    words = {CONTINUED: "the softmax model trained on as many tokens"}
    told = [
        f"{title} ({f'{len(runs)} seeds' if len(runs) > 1 else 'one run'}): "
        + ", ".join(
            f"{words.get(stage, stage)} × {seeds.spread(seeds.quotients(runs, stage, None))}"
            for stage in ("linear", "adapted", "fine-tuned", CONTINUED)
        )
        for title, runs in by_title.items()
    ]
    return (
        f"{training_page.weights_trained(by_title)}, the next token alone, held-out text of their mixture, {tuned.training_tokens:,} tokens up to the fine-tuned model; what differs from the paper: [training.md](training.md#gpt-2s-architecture-and-llamas). "
        f"{'; '.join(told)} (arrays s, softmax models m; seeds share one pretrained model, whose training ended by schedule{training_page.plateau(by_title)}; ±: standard deviation over seeds).{training_page.straight_ahead(by_title)}{uncommitted(*(run for runs in by_title.values() for run in runs))}"
    )


def small_models_verdict() -> str:
    """What became of the targets that were stated before they were run."""
    return "; ".join(training_page.targets_reached(small_runs()))
