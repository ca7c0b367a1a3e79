"""docs/reproduction.md: every figure and table of the paper beside ours.

    python docs/reproduction.py         (its tables and the figures that no other page has; all: make reproduction)

Rewrites what stands between `<!-- NAME:table -->` and `<!-- end -->` from docs/results and from what the
package cites of the paper, and draws docs/figures/reproduction-*.png. Letters say where a number comes from:
c cited, s simulated, m measured here.
"""
# ruff: noqa: E501 (sentences of the page)

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import reproduction_figures
from reproduction_circuits import RESULTS, accuracy, area, cell, energy, machines, markdown, result, timing

from gaincell.config import load_design
from gaincell.files import write_atomic, write_text
from gaincell.reports import cells, comparison, costs, results
from gaincell.reports.baseline import per_token, was_shared
from gaincell.reports.codesign import paired_interval
from gaincell.reports.costs import with_scale
from gaincell.reports.results import number, numbers
from gaincell.reports.style import styled
from gaincell.reports.tables import readable

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reproduction.md"
CITED = "leroux2025-results.toml"
STARTS = {"tiny": "cells/starts", "SmolLM2-135M": "adaptation/smollm2-135m"}
"""Model -> folder of its published adaptations, START/CELL.json below it."""
Json = Mapping[str, Any]
OURS = {"cited": "the paper's number (c)", "bottom_up": "ours (s over c)"}
"""Columns of a comparison with machines, and how they are called."""


def main() -> None:
    """Figures and page anew."""
    reproduction_figures.draw_all(result("spice/cell-freepdk45"), ROOT / "docs" / "figures")
    with styled():
        write_atomic(ROOT / "docs" / "figures" / "adaptation-starts.png", cells.starts(starts()).savefig)
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


def cited() -> Json:
    """What the package cites of the paper's results."""
    file = resources.files("gaincell") / "reports" / "cited" / CITED
    return tomllib.loads(file.read_text(encoding="utf-8"))


def perplexities(run: Json) -> dict[str, float]:
    """Perplexity of every stage of a mapping, an adaptation or a recipe."""
    return {stage["name"]: number(stage["perplexity"]) for stage in run["stages"]}


def starts() -> dict[str, dict[str, Json]]:
    """Title of a model and cell -> its adaptations from both starts, and "linear": the neutral start of the linear cell."""
    found: dict[str, dict[str, Json]] = {}
    for model, place in STARTS.items():
        results_of = {
            path.stem: {start: result(f"{place}/{start}/{path.stem}") for start in ("trained", "neutral")}
            for path in sorted((RESULTS / place / "neutral").glob("*.json"), key=cells.order)
        }
        linear = results_of.pop("linear", None)
        for pair in results_of.values():
            title = f"{model}, {pair['neutral']['cell']['title']}"
            found[title] = pair if linear is None else {**pair, "linear": linear["neutral"]}
    return found


def adaptation() -> str:
    """Fig. 4c: what the cell costs, what discarded gains cost, and what the adaptation brings back."""
    paper = cited()["adaptation"]
    before, after = (paper[key]["value"] for key in ("before", "after"))
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
        ["---", *["---:"] * 6],
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
                *(f"{times(at[s]['adapted'], linear)}, {ended(of[s])}" for s in ("trained", "neutral")),
            ]
        )
    return markdown(rows) + f"\n\n{separated()}"


def separated() -> str:
    """The sentence that follows from the table."""
    first, of = next(iter(starts().items()))
    at = perplexities(of["neutral"])
    factor = {name: at[name] / at["linear"] for name in at}
    return (
        f"{first.capitalize()}: exchanging the cell multiplies the perplexity by {factor['unadapted']:.3f}; discarding the gains multiplies that of the "
        f"linear cell by {factor['linear-neutral']:,.0f} and that of the cubic one by {factor['unadapted-neutral']:,.0f}. The fall from the neutral start "
        "is the recovery of gains that were thrown away; what the cell itself costs is the trained start's."
    )


def times(perplexity: float, linear: float) -> str:
    """A perplexity and its ratio to that of the linear model."""
    ratio = perplexity / linear
    return (
        f"{readable(perplexity)} (× {ratio:,.0f})"
        if ratio >= 100
        else f"{readable(perplexity)} (× {ratio:.3f})"
    )


def ended(run: Json) -> str:
    """How the published iteration ended."""
    found = run["adaptation"]["published"]
    count = f"{number(found['iterations']):.0f} iterations"
    if found["converged"]:
        return count
    silent = f", {len(found['skipped'])} stages silent" if found["skipped"] else ""
    return f"**not converged** in {count}, residual {number(found['residual']):.2g}{silent}"


def training() -> str:
    """Fig. 4d: ratios to the public model, the paper's and ours."""
    paper, ours = cited()["training"], result("training/tiny-table")
    paired = {stage["name"]: stage for stage in result("training/tiny-table-paired")["stages"]}
    public = paper["public"]["value"]
    ratio = {stage["name"]: number(stage["ratio_to_software"]) for stage in ours["stages"]}
    tokens = {stage["name"]: number(stage["training_tokens"]) for stage in ours["stages"]}
    scratch = f"{ratio['software-scratch']:.2f}"
    pairs = (
        ("linear hardware", "linear", "linear"),
        ("nonlinear, from the linear one", "nonlinear", "fine-tuned"),
        ("nonlinear, straight from software", "straight", "nonlinear-straight"),
        ("nonlinear, from scratch", "scratch", "nonlinear-scratch"),
    )
    rows = [
        [
            "× pretrained model",
            "paper, GPT-2 (c)",
            "ours, tiny (s)",
            "the same, paired rows (s)",
            "our tokens",
        ],
        ["---", *["---:"] * 4],
    ]
    for title, key, stage in pairs:
        with_rows = number(paired[stage]["ratio_to_software"])
        found = (paper[key]["value"] / public, ratio[stage], with_rows)
        rows.append([title, *(f"{value:.2f}" for value in found), f"{tokens[stage]:,.0f}"])
    again = f"{number(paired['software-scratch']['ratio_to_software']):.2f}"
    rows.append(["softmax model, from scratch", "–", scratch, again, f"{tokens['software-scratch']:,.0f}"])
    per = paper["batch"]["value"] * paper["block"]["value"] * paper["iterations"]["value"]
    note = f"The paper's models of Table 1 saw {per / 1e9:.1f} G tokens, ours {max(tokens.values()) / 1e6:.1f} M."
    note += f" From scratch ours ends at {ratio['nonlinear-scratch'] / ratio['software-scratch']:.3f} times the softmax model from scratch: one training each, and rounding alone moves such a training by more ([training.md](training.md)). The tokens decide there, not the arrays."
    return markdown(rows) + f"\n\n{note}"


def tasks() -> str:
    """Table 1."""
    found = {
        path.stem.partition("-")[2]: results.read(path)
        for path in sorted(RESULTS.glob("evaluation/tasks/smollm2-*.json"))
    }
    order = {
        f"SmolLM2-135M, {name}": found[name]
        for name in sorted(found, key=lambda name: (name != "software", name))
    }
    return comparison.as_markdown(comparison.compare(order, "SmolLM2-135M, software", paper=True)).strip()


def baseline() -> str:
    """The faulty protocol beside a fair one, on our processor."""
    measured = result("costs/baseline-cpu")
    found = [m for m in measured["measurements"] if (number(m["context"]), number(m["batch"])) == (1024, 64)]
    whose = "processor time" if was_shared(measured) else "time"
    rows = [
        ["12 heads, D = 64, 1024 keys, batch 64", "protocol", f"{whose} per token (m)"],
        ["---", "---", "---:"],
    ]
    for entry in found:
        name = f"{entry['implementation'].replace('published', 'as published')}, {entry['dtype']}"
        rows.append([name, entry["protocol"], f"{1e6 * per_token(entry):.0f} µs"])
    return markdown(rows)


def headline() -> str:
    """The claims of the abstract."""
    said, machines_of = cited()["claims"], result("costs/cost-gpt2")["machines"]
    gain = {what: against(machines_of, what) for what in ("latency", "energy")}
    mistral = result("costs/cost-mistral-7b")["why"]["stated_cache"][0]
    wiki = {chip: wikitext(f"smollm2-{chip}") for chip in ("software", "leroux2025", "leroux2025-extended")}
    orders = f"{said['energy_article']['value']} orders of magnitude (preprint: {said['energy_preprint']['value']})"
    rows = [
        ["claim", "paper (c)", "ours", "verdict"],
        ["---"] * 4,
        ["energy of attention against GPUs", f"up to {orders} less", gain["energy"],
         f"{holds(machines_of, 'energy', said['energy_article']['value'])}; attention alone, the linear layers stay as they are; reservations: Fig. 5"],
        ["latency against GPUs", f"up to {said['latency']['value']} orders of magnitude less", gain["latency"],
         holds(machines_of, "latency", said["latency"]["value"])],
        ["quality of a converted model", "like GPT-2, from GPT-2", *quality(wiki)],
        ["cache of Mistral 7B", f"{said['cache']['value']} {said['cache']['unit']} at batch 1",
         f"{number(mistral['tokens']):,.0f} tokens in 16 bits (s)", "if gigabits are meant"],
    ]  # fmt: skip
    return markdown(rows)


def quality(wiki: Mapping[str, float]) -> list[str]:
    """Ours, against the pretrained model and the one continued on the same tokens, and which reach the paper's."""
    paper = cited()["training"]
    goal = paper["nonlinear"]["value"] / paper["public"]["value"]
    ours, reached, words = [], [], []
    for title, name in (
        ("`tiny`, own text (table of Fig. 4d)", "training/tiny-table"),
        ("`tiny`, own text, paired rows", "training/tiny-table-paired"),
        ("`tiny`, `gaincell map` on the text sample", "tiny"),
    ):
        found = {stage["name"]: stage for stage in result(name)["stages"]}
        tuned = found["fine-tuned"]
        ratio, continued = (
            number(tuned["ratio_to_software"]),
            number(found["software-continued-more"]["ratio_to_software"]),
        )
        words.append(
            f"{title}, {number(tuned['training_tokens']) / 1e6:.1f} M tokens: × {ratio:.2f} of the pretrained model, "
            f"× {number(tuned['ratio_to_continued']):.2f} of the softmax model continued on the same tokens, itself at × {continued:.2f}"
        )
        ours.append((title, max(ratio, number(tuned["ratio_to_continued"]))))
    for title, chip in (
        ("SmolLM2-135M", "leroux2025"),
        ("SmolLM2-135M on an extended chip", "leroux2025-extended"),
    ):
        ratio = wiki[chip] / wiki["software"]
        words.append(f"{title}: × {ratio:.2f} of the pretrained model")
        ours.append((title, ratio))
    reached = [title for title, ratio in ours if ratio <= goal]
    short = [title for title, ratio in ours if ratio > goal]
    verdict = f"the paper's model is at × {goal:.2f} of the public one (table of Fig. 4d), against the worse of the two ratios of ours; "
    verdict += "; ".join(
        f"{word}: {', '.join(titles)}"
        for word, titles in (("reached", reached), ("**not reached**", short))
        if titles
    )
    return ["; ".join(words) + " (s)", verdict]


def holds(machines: list[Json], what: str, orders: float) -> str:
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
    table = costs.bands({path.stem.partition("-")[2]: results.read(path) for path in paths})
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


def wikitext(name: str) -> float:
    """Word perplexity of an evaluation."""
    task = next(
        task for task in result(f"evaluation/tasks/{name}")["tasks"] if task["task"].startswith("wikitext")
    )
    return number(task["metrics"]["word_perplexity"]["score"])


def negative() -> str:
    """What did not work, stated plainly."""
    small, table = result("smollm2"), perplexities(result("training/tiny-table"))
    ppl = perplexities(small)
    short = {stage["name"]: stage for stage in result("tiny")["stages"]}
    stiff = [
        result(f"cells/adaptation/leroux2025/{kind}")["stages"]
        for kind in ("exponential", "oxide-2t-saturated")
    ]
    left = [number(at["closed-form"]["perplexity"]) / number(at["linear"]["perplexity"]) for at in stiff]
    whole = {name: result(f"costs/cost-{name}")["whole_model"][1] for name in ("gpt2", "mistral-7b")}
    tau, paper = 1e3 * load_design("leroux2025").retention_time, cited()["training"]
    before, after = (number(short[name]["perplexity"]) for name in ("adapted", "fine-tuned"))
    straight = table["nonlinear-straight"] / table["fine-tuned"]
    losses = [numbers(short[name]["blocks"]["nll"]) for name in ("fine-tuned", "adapted")]
    tuned, low, high = paired_interval(*losses, numbers(short["adapted"]["blocks"]["predictions"]))
    chip, extended, software = (
        wikitext(f"smollm2-{name}") for name in ("leroux2025", "leroux2025-extended", "software")
    )
    lines = [
        f"The paper's chip multiplies the word perplexity of SmolLM2-135M on WikiText-2 by {chip / software:.1f}, after all the training that "
        f"was affordable here; the extended chip, which the paper does not have, by {extended / software:.2f} (s).",
        f"The published adaptation of `gaincell map smollm2-135m`: {ended(small)}. The closed form meets the statistics there too, but cannot wake silent heads: "
        f"perplexity goes from {readable(ppl['unadapted'])} to {readable(ppl['adapted'])}, not to the {readable(ppl['linear'])} of the linear model (s).",
        f"A short fine-tuning after the adaptation {'makes `tiny` better' if high < 1 else 'makes `tiny` worse' if low > 1 else 'makes `tiny` neither better nor worse'}: "
        f"{readable(before)} before, {readable(after)} after {number(result('tiny')['text']['training_tokens']):,.0f} tokens, × {tuned:.4f} ({low:.4f} to {high:.4f}, 95 %, the same blocks) (s).",
        f"From scratch, the nonlinear model ends at {readable(table['nonlinear-scratch'])}, the softmax model at {readable(table['software-scratch'])}, both without "
        f"enough tokens; training straight from software gives {straight:.2f} times the perplexity of the way over the linear model, one training each, so which way is better is not shown. In the paper these ways end at "
        f"× {paper['scratch']['value'] / paper['public']['value']:.1f} and × {paper['straight']['value'] / paper['public']['value']:.1f} of the public model (s, c).",
        f"Energies outside the band that was stated beforehand, over the paper's: {outside()} (s over c).",
        f"Adaptation does not undo an exponential or a saturated cell: perplexity stays {left[0]:.1f} and {left[1]:.1f} times that of the linear model (s).",
        "With the linear layers on an H100, a whole model at batch 1 needs "
        + " and ".join(f"{number(row['energy_gain']):.2f} times ({name})" for name, row in whole.items())
        + " less energy when attention is in gain cells: weights dominate. And a token is then held for "
        + " and ".join(with_scale(number(row["held"]), "s") for row in whole.values())
        + f", where the retention time is {tau:g} ms: without refreshes or other cells that does not work ([costs.md](costs.md)) (s over c).",
    ]
    return "\n".join(f"* {line}" for line in lines)


PARTS = {
    "headline": headline, "cell": cell, "timing": timing, "area": area, "adaptation": adaptation, "training": training,
    "tasks": tasks, "accuracy": accuracy, "energy": energy, "machines": machines, "baseline": baseline, "negative": negative,
}  # fmt: skip


def ratios(machines: list[Json], key: str) -> tuple[list[float], list[float]]:
    """To GPUs that the paper's authors measured, and to those computed from what makers state."""
    measured = [number(machine[key]) for machine in machines if "reading" not in machine["title"]]
    return measured, [number(machine[key]) for machine in machines if "reading" in machine["title"]]


def against(machines: list[Json], what: str) -> str:
    """Ratios to GPUs in words, with the paper's number and with ours."""
    found = {title: ratios(machines, f"{what}_over_{column}") for column, title in OURS.items()}
    groups = ("the published GPU measurements", "GPUs that only read their cache, computed")
    return "; ".join(
        f"less than {group} by × "
        + " or ".join(f"{min(at[n]):,.0f} to {max(at[n]):,.0f} with {title}" for title, at in found.items())
        for n, group in enumerate(groups)
    )


if __name__ == "__main__":
    main()
