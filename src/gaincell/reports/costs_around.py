"""What surrounds the arrays as tables, from the JSON of `gaincell cost` alone: other machines, the whole
model, the cache on a GPU, other memories.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gaincell.reports.costs import KINDS, Result, Rows, ratio, readable, with_scale
from gaincell.reports.paper import cited
from gaincell.reports.results import number


def machines(result: Result) -> Rows:
    """GPUs and this machine against as many heads in gain cells."""
    rows = []
    for row in result["machines"]:
        over = [
            f"{number(row[key]):,.0f}" if key in row else "–"
            for key in (
                "latency_over_cited",
                "energy_over_cited",
                "latency_over_bottom_up",
                "energy_over_bottom_up",
            )
        ]
        title = f"{row['title']} ({KINDS[row['latency']['kind']]})"
        rows.append([title, readable(row["latency"]), readable(row.get("energy")), *over])
    headings = (
        "attention of one layer, per token",
        "latency",
        "energy",
        "× latency, cited",
        "× energy, cited",
    )
    headings_found = ("× latency, bottom-up", "× energy, bottom-up")
    return Rows("Against other machines", (*headings, *headings_found), rows, _machines_caption(result))


def _machines_caption(result: Result) -> str:
    """What the rows are, by their kinds, and why some have no ratio."""
    size, head = result["model"], result["head"]
    own = f"{number(size['heads']):.0f} query heads on {number(size['kv_heads']):.0f} key/value heads, "
    own += f"D = {number(size['head_dim']):.0f}, {number(head['context']):,.0f} tokens"
    lines = [f"×: over the same layer in gain cells, {own}."]
    if any("latency_over_cited" not in row for row in result["machines"]):
        lines.append("Rows without ×: other sizes.")
    lines.append(
        "Cited: twelve heads, D = 64, 1024 tokens, batch 64, time of a batch divided by the batch "
        "(docs/costs.md says what is wrong with it). Computed: keys and values of this layer read once at "
        "the stated bandwidth, the least time where they do not fit the GPU's cache; times the largest board "
        "power, an upper estimate of the energy."
    )
    if any(row["latency"]["kind"] == "measured" for row in result["machines"]):
        lines.append("Measured: the fastest softmax attention on the machine that is named.")
    return " ".join([*lines, energy_verdict(result)])


def energy_verdict(result: Result) -> str:
    """Against which machines the paper's claim on energy falls short, by its own energy or bottom-up."""
    claim = cited()["claims"]["energy_article"]["value"]
    compared = [row for row in result["machines"] if "energy_over_cited" in row]
    short = []
    for row in compared:
        over = [number(row[f"energy_over_{column}"]) for column in ("cited", "bottom_up")]
        if min(over) < 10**claim:
            short.append(f"{row['title']} (× {over[0]:,.0f} and {over[1]:,.0f})")
    if not compared:
        return ""
    said = f"The paper claims up to {claim} orders of magnitude less energy"
    short = short or ["none"]
    return f"{said}. Rows below that, cited and bottom-up: {'; '.join(short)}."


def whole_model(result: Result) -> Rows:
    """Who computes what, per token."""
    rows = []
    for row in result["whole_model"]:
        for key in ("energy", "latency"):
            cited = row.get("attention_cited", {}).get(key)
            parts = [readable(row[name][key]) for name in ("attention", "linear", "transfers")]
            share = f"{100 * number(row[f'attention_share_of_{key}']):.2g} %"
            gains = [f"{number(row[f'{key}_gain{column}']):.3g}" for column in ("_cited", "")]
            totals = [readable(row[f"total{column}"][key]) for column in ("_cited", "")]
            rows.append([f"{row['title']}, {key}", readable(cited), *parts, *totals, share, *gains])
    headings = (
        "per token",
        "attention, cited",
        "bottom-up",
        "linear",
        "transfers",
        "total, cited",
        "bottom-up",
        "attention's share",
        "gain, cited",
        "bottom-up",
    )
    return Rows("A whole model", headings, rows, _whole_caption(result))


def _whole_caption(result: Result) -> str:
    model = result["model_cost"]
    batch, arrays = number(model["batch"]), readable(model["bottom_up"]["area"])
    gpu, window = number(result["gpu_context"]), number(result["head"]["window"])
    lines = [
        f"Batch {batch:.0f}; arrays of all its sequences, bottom-up: {arrays}. "
        "GPU: stated bandwidth; energy at the largest board power, an upper estimate; analog linear layers: "
        "stated operations per joule and an assumed time of a product. Nothing overlaps. Gain: of the whole, "
        "over the first row."
    ]
    if gpu > window:
        lines.append(
            f"The GPU attends to {gpu:,.0f} tokens, the gain cells to the last {window:,.0f}: not the same."
        )
    lines += [
        f"{row['title'][0].upper()}{row['title'][1:]}: {row['note']}."
        for row in result["whole_model"]
        if row["note"]
    ]
    if any(row["note"] for row in result["whole_model"]):
        lines.append(_holders(result))
    return " ".join(lines)


def _holders(result: Result) -> str:
    """Retention times of oxide write transistors against the longest time that a token is held."""
    held = max(number(row["held"]) for row in result["whole_model"] if "held" in row)
    parts: dict[str, list[str]] = {"longer": [], "shorter": []}
    for name, tau in result.get("retention_times", {}).items():
        parts["longer" if number(tau) > held else "shorter"].append(f"{name} ({readable(tau)})")
    found = "; ".join(f"{which}: {', '.join(names)}" for which, names in parts.items() if names)
    said = (
        f" Retention times of oxide write transistors against {with_scale(held, 's')}: {found}."
        if found
        else ""
    )
    return f"Leakage and decay are those of that time.{said}"


def cache(result: Result) -> Rows:
    """The cache on a GPU, and the paper's example."""
    found = result["why"]["cache"]
    moved, computed = found["movement"], found["arithmetic"]
    rows = [
        ["cache of one token", readable(found["bytes_per_token"])],
        [f"cache of {kept(found)} of one sequence", readable(found["bytes"])],
        [f"time to read it once on {result['gpu']}", readable(found["floor"])],
        ["energy to read it once from HBM", readable(moved)],
        ["energy of the arithmetic on it", readable(computed)],
        ["movement over arithmetic", ratio(moved, computed)],
    ]
    return Rows(f"Why: the cache of {found['model']} on a GPU", ("", ""), rows)


def kept(cache: Mapping[str, Any]) -> str:
    """How many tokens a cache holds, in words."""
    context, seen = number(cache["context"]), number(cache["seen"])
    if seen < context:
        return f"{seen:,.0f} of {context:,.0f} tokens (sliding window)"
    return f"{context:,.0f} tokens"


def stated_cache(result: Result) -> Rows:
    """At which length the cache of a model has the stated size."""
    rows = [
        [
            f"{'8 Gibit' if row['read_as'] == 'bits' else '8 GiB'}, {number(row['bytes_per_number']):.0f} "
            f"bytes a number, {'grouped' if row['grouped'] else 'a key/value head for every query head'}",
            f"{number(row['tokens']):,.0f}",
        ]
        for row in result["why"]["stated_cache"]
    ]
    return Rows("The stated 8 Gb for Mistral 7B", ("read as", "tokens, batch 1"), rows)


def memories(result: Result) -> Rows:
    """Keys and values of one head in other memories."""
    rows = [
        [
            row["title"],
            readable(row["area"]),
            readable(row["write"]),
            readable(row.get("lifetime")) if "lifetime" in row else "no limit",
            _retention(row),
            readable(row["refresh"]) if number(row["refresh"]) else "–",
        ]
        for row in result["why"]["memories"]
    ]
    rows += [
        [f"readout: {row['title']}", readable(row["area"]), readable(row["energy"]), "", "", ""]
        for row in result["why"]["conversions"]
    ]
    headings = (
        "keys and values of a head",
        "area of cells",
        "energy of a token",
        "worn out after",
        "retention",
    )
    caption = (
        "Write energies and densities are of cells alone, orders of magnitude (see memories.toml); "
        "gain cells with their write lines and DACs, which the others leave out. Readout: of one line, "
        "area and energy of one conversion."
    )
    return Rows("Why: other memories", (*headings, "refresh"), rows, caption)


def _retention(row: Mapping[str, Any]) -> str:
    return "as long as powered" if "retention" not in row else readable(row["retention"])
