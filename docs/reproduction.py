"""docs/reproduction.md: every figure and table of the paper beside ours.

    python docs/reproduction.py         (also: make reproduction, and python docs/readme.py)

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

from gaincell.files import write_text
from gaincell.reports import comparison, results
from gaincell.reports.baseline import per_token, was_shared
from gaincell.reports.results import number
from gaincell.reports.tables import readable

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reproduction.md"
CITED = "leroux2025-results.toml"
Json = Mapping[str, Any]


def main() -> None:
    """Figures and page anew."""
    reproduction_figures.draw_all(result("spice/cell-freepdk45"), ROOT / "docs" / "figures")
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


def stages(name: str) -> dict[str, float]:
    """Perplexity of every stage of a mapping or recipe."""
    return {stage["name"]: number(stage["perplexity"]) for stage in result(name)["stages"]}


def adaptation() -> str:
    """Fig. 4c: perplexity before and after the adaptation."""
    paper = cited()["adaptation"]
    before, after = paper["before"]["value"], paper["after"]["value"]
    rows = [
        ["model, cell", "unadapted", "adapted", "factor", "linear model", "published iteration"],
        ["---", *["---:"] * 4, "---"],
    ]
    rows.append(["GPT-2, cubic (c)", f"{before}", f"{after}", f"{before / after:.0f}", "–", "converges"])
    for title, name in (("tiny, cubic (s)", "tiny"), ("SmolLM2-135M, cubic (s)", "smollm2")):
        found, run = stages(name), result(name)
        done = run["adaptation"]["published"]
        rows.append(
            [
                title,
                *before_after(found["unadapted"], found["adapted"]),
                readable(found["linear"]),
                ended(done),
            ]
        )
    for kind in ("x3", "x5", "sigmoid", "exponential", "oxide-2t", "oxide-2t-saturated"):
        found = result(f"cells/adaptation/leroux2025/{kind}")
        at = {stage: number(entry["perplexity"]) for stage, entry in found["stages"].items()}
        title = f"tiny, {found['cell']['title']} (s)"
        rows.append(
            [
                title,
                *before_after(at["unadapted"], at["closed-form"]),
                readable(at["linear"]),
                ended(found["adaptation"]["published"]),
            ]
        )
    return markdown(rows)


def before_after(before: float, after: float) -> list[str]:
    return [readable(before), readable(after), f"{before / after:.2f}"]


def ended(found: Json) -> str:
    """How the published iteration ended."""
    count = f"{number(found['iterations']):.0f} iterations"
    if found["converged"]:
        return f"converges, {count}"
    return f"**does not converge** in {count}, residual {number(found['residual']):.2g}, {len(found['skipped'])} stages silent"


def training() -> str:
    """Fig. 4d: ratios to the public model, the paper's and ours."""
    paper, ours = cited()["training"], result("training/tiny-table")
    public = paper["public"]["value"]
    ratio = {stage["name"]: number(stage["ratio_to_software"]) for stage in ours["stages"]}
    tokens = {stage["name"]: number(stage["training_tokens"]) for stage in ours["stages"]}
    pairs = (
        ("linear hardware", "linear", "linear"),
        ("nonlinear, from the linear one", "nonlinear", "fine-tuned"),
        ("nonlinear, straight from software", "straight", "nonlinear-straight"),
        ("nonlinear, from scratch", "scratch", "nonlinear-scratch"),
    )
    rows = [
        ["× pretrained model", "paper, GPT-2 (c)", "ours, tiny (s)", "our tokens"],
        ["---", *["---:"] * 3],
    ]
    for title, key, stage in pairs:
        rows.append(
            [title, f"{paper[key]['value'] / public:.2f}", f"{ratio[stage]:.2f}", f"{tokens[stage]:,.0f}"]
        )
    per = paper["batch"]["value"] * paper["block"]["value"] * paper["iterations"]["value"]
    note = f"The paper's models of Table 1 saw {per / 1e9:.1f} G tokens, ours {max(tokens.values()) / 1e6:.1f} M."
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
    said, costs = cited()["claims"], result("costs/cost-gpt2")
    gain = {what: against(costs["machines"], f"{what}_over_bottom_up") for what in ("latency", "energy")}
    table, mistral = result("training/tiny-table"), result("costs/cost-mistral-7b")["why"]["stated_cache"][0]
    tuned = next(stage for stage in table["stages"] if stage["name"] == "fine-tuned")
    wiki = {chip: wikitext(f"smollm2-{chip}") for chip in ("software", "leroux2025", "leroux2025-extended")}
    orders = f"{said['energy_article']['value']} orders of magnitude (preprint: {said['energy_preprint']['value']})"
    rows = [
        ["claim", "paper (c)", "ours", "verdict"],
        ["---"] * 4,
        ["energy of attention against GPUs", f"up to {orders} less", gain["energy"],
         "holds, with the reservations of Fig. 5; attention alone, the linear layers stay as they are"],
        ["latency against GPUs", f"up to {said['latency']['value']} orders of magnitude less", gain["latency"],
         "holds against the published measurements, less against what a GPU could do"],
        ["quality of a converted model", "like GPT-2, from GPT-2",
         f"tiny: × {number(tuned['ratio_to_continued']):.2f} of the softmax model on the same tokens; SmolLM2-135M: "
         f"× {wiki['leroux2025'] / wiki['software']:.1f}, on an extended chip × {wiki['leroux2025-extended'] / wiki['software']:.2f} (s)",
         "holds for `tiny`; **not reached** for a real model with the tokens that were affordable"],
        ["cache of Mistral 7B", f"{said['cache']['value']} {said['cache']['unit']} at batch 1",
         f"{number(mistral['tokens']):,.0f} tokens in 16 bits (s)", "exact, read as gigabits"],
    ]  # fmt: skip
    return markdown(rows)


def wikitext(name: str) -> float:
    """Word perplexity of an evaluation."""
    task = next(
        task for task in result(f"evaluation/tasks/{name}")["tasks"] if task["task"].startswith("wikitext")
    )
    return number(task["metrics"]["word_perplexity"]["score"])


def negative() -> str:
    """What did not work, stated plainly."""
    small, table, costs = result("smollm2"), stages("training/tiny-table"), result("costs/cost-gpt2")["head"]
    ppl, published = stages("smollm2"), small["adaptation"]["published"]
    short = {stage["name"]: stage for stage in result("tiny")["stages"]}
    stiff = [
        result(f"cells/adaptation/leroux2025/{kind}")["stages"]
        for kind in ("exponential", "oxide-2t-saturated")
    ]
    left = [number(at["closed-form"]["perplexity"]) / number(at["linear"]["perplexity"]) for at in stiff]
    whole = {name: result(f"costs/cost-{name}")["whole_model"][1] for name in ("gpt2", "mistral-7b")}
    chip, extended, software = (
        wikitext(f"smollm2-{name}") for name in ("leroux2025", "leroux2025-extended", "software")
    )
    outside = [
        f"{line['name']} × {number(line['factor']):.2g}"
        for line in costs["lines"]
        if line.get("cited") and not line["inside"]
    ]
    lines = [
        f"The paper's chip multiplies the word perplexity of SmolLM2-135M on WikiText-2 by {chip / software:.1f}, after all the training that "
        f"was affordable here; the extended chip, which the paper does not have, by {extended / software:.2f} (s).",
        f"On SmolLM2-135M the published adaptation {ended(published)}. The closed form meets the statistics there too, but cannot wake silent heads: "
        f"perplexity goes from {readable(ppl['unadapted'])} to {readable(ppl['adapted'])}, not to the {readable(ppl['linear'])} of the linear model (s).",
        f"A short fine-tuning after the adaptation does nothing for `tiny`: {readable(number(short['adapted']['perplexity']))} before, "
        f"{readable(number(short['fine-tuned']['perplexity']))} after {number(result('tiny')['text']['training_tokens']):,.0f} tokens; standard error "
        f"{number(short['adapted']['perplexity_error']):.1f} (s).",
        f"From scratch, the nonlinear model ({readable(table['nonlinear-scratch'])}) ends where the softmax model from scratch does "
        f"({readable(table['software-scratch'])}) on so few tokens; training straight from software ({readable(table['nonlinear-straight'])}) is no worse than "
        f"by way of the linear model ({readable(table['fine-tuned'])}). In the paper both ways are far worse (table of Fig. 4d) (s).",
        f"Energies outside the band that was stated beforehand: {' and '.join(outside)} of the paper's (s over c).",
        f"Adaptation does not undo an exponential or a saturated cell: perplexity stays {left[0]:.1f} and {left[1]:.1f} times that of the linear model (s).",
        "With the linear layers on an H100, a whole model at batch 1 needs "
        + " and ".join(f"{number(row['energy_gain']):.2f} times ({name})" for name, row in whole.items())
        + " less energy when attention is in gain cells: weights dominate (s over c).",
    ]
    return "\n".join(f"* {line}" for line in lines)


PARTS = {
    "headline": headline, "cell": cell, "timing": timing, "area": area, "adaptation": adaptation, "training": training,
    "tasks": tasks, "accuracy": accuracy, "energy": energy, "machines": machines, "baseline": baseline, "negative": negative,
}  # fmt: skip


def against(machines: list[Json], key: str) -> str:
    """Ratios to GPUs in words: those measured by the paper's authors, and the bounds."""
    measured = [number(machine[key]) for machine in machines if "reading" not in machine["title"]]
    bounds = [number(machine[key]) for machine in machines if "reading" in machine["title"]]
    words = f"{min(measured):,.0f} to {max(measured):,.0f} × less than the published GPU measurements, "
    return (
        words
        + f"{min(bounds):,.0f} to {max(bounds):,.0f} × less than GPUs that only read their cache (s over c)"
    )


if __name__ == "__main__":
    main()
