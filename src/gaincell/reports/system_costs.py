"""What surrounds the arrays as tables: other machines, the whole model,
the cache on a GPU, other memories.
"""

from __future__ import annotations

from dataclasses import replace

from gaincell.reports.costs import KINDS
from gaincell.reports.paper import cited
from gaincell.reports.tables import SIMULATED, Columns, Rows
from gaincell.results.cost import CostResult
from gaincell.results.system_cost import NO_WHOLE_MODEL, Cache, Machine, MemoryCost
from gaincell.units import with_scale


def machines(result: CostResult) -> Rows:
    """GPUs and this machine against as many heads in gain cells."""

    columns: Columns[Machine] = {
        "attention of one layer, per token": lambda row: f"{row.title} ({KINDS[row.kind]})",
        "latency": lambda row: with_scale(row.latency, "s"),
        "energy": lambda row: with_scale(row.energy, "J"),
        "× latency, cited": lambda row: times(row.latency_over_cited),
        "× energy, cited": lambda row: times(row.energy_over_cited),
        "× latency, bottom-up": lambda row: times(row.latency_over_bottom_up),
        "× energy, bottom-up": lambda row: times(row.energy_over_bottom_up),
    }
    size, head = result.model, result.head
    own = f"{size.heads:.0f} query heads on {size.kv_heads:.0f} key/value heads, "
    own += f"D = {size.head_dim:.0f}, {head.context:,.0f} tokens"
    lines = [f"×: over the same layer in gain cells, {own}, one sequence."]
    sizes = size.heads, size.kv_heads, size.head_dim, round(head.context)
    if any(row.sizes != sizes for row in result.machines):
        lines.append("Rows without ×: other sizes.")
    lines.append(
        "Cited: twelve heads, D = 64, 1024 tokens, batch 64, float32, all keys but the first masked, clock "
        "read without waiting for the GPU, time of a batch divided by the batch. Computed: keys and values "
        "of this layer read once at the stated bandwidth, the least time where they do not fit the GPU's "
        "cache; times the largest board power, more than such a step draws."
    )
    kinds = [row.kind for row in result.machines]
    if "measured" in kinds:
        lines.append(
            "Measured: the fastest softmax attention on the machine that is named; time by the clock, or, "
            "where that is less, of its one thread on the processor, which other programs may share. With a "
            "batch above 1 it is the time of a step over the batch, no latency: without × latency."
        )
    left = untimed(result)
    lines.append(f"Not in our latency: {'; '.join(left)}." if left else "")
    lines += [energy_verdict(result), by_movement(result)]
    return Rows.of(
        "Against other machines", result.machines, columns,
        caption=" ".join(filter(None, lines)),
        kinds=lambda r, c: kinds[r] if c < 3 else SIMULATED,
    )  # fmt: skip


def times(over: float | None) -> str:
    """A ratio: whole from 10 on, with two digits below; a dash for none."""
    return "–" if over is None else f"{over:,.0f}" if over >= 9.95 else f"{over:.2g}"


def energy_verdict(result: CostResult) -> str:
    """Against which machines the paper's claim on energy falls short, by its own energy or bottom-up."""
    claim = cited().claims.energy_article.value
    said = []
    ours = {row.title: row.energy_over_bottom_up for row in result.machines}
    ways = [
        ({row.title: row.energy_over_cited for row in result.machines}, _cited(result)),
        (ours, "ours"),
    ]
    if (digital := with_cited_digital(result)) is not None:
        mixed = {title: None if x is None else digital * x for title, x in ours.items()}
        ways.append((mixed, "ours but the paper's digital part"))
    for ratios, whose in ways:
        if all(x is None for x in ratios.values()):
            return ""
        below = [f"{title} (× {times(x)})" for title, x in ratios.items() if x is not None and x < 10**claim]
        said.append(f"with {whose}, {'; '.join(below) or 'none'}")
    return (
        f"The paper claims up to {claim} orders of magnitude less energy. Rows below that: {'; '.join(said)}."
    )


def _cited(result: CostResult) -> str:
    """Whose energy the cited one is: the paper gives none for query heads that share keys and values."""
    grouped = result.model.heads != result.model.kv_heads
    return "the paper's blocks in our schedule" if grouped else "the paper's own energy"


def moved(result: CostResult) -> tuple[float, float | None, float | None] | None:
    """The energy of the GPU's reading without the rest of its board: from its memory, with the arithmetic;
    how many times the paper's it is, and how many times ours. None: not known.
    """
    cache, layers = result.why.cache, result.model.layers
    row = next((x for x in result.machines if x.title.startswith(f"{result.gpu}, reading")), None)
    if row is None or not row.energy or cache.movement is None:
        return None
    energy = (cache.movement + cache.arithmetic) * row.context / cache.seen / layers
    by_own, by_ours = (
        None if x is None else x * energy / row.energy
        for x in (row.energy_over_cited, row.energy_over_bottom_up)
    )
    return energy, by_own, by_ours


def by_movement(result: CostResult) -> str:
    """`moved` in words."""
    if (found := moved(result)) is None:
        return ""
    energy, by_own, by_ours = found[0], *map(times, found[1:])
    return (
        f"Computed rows take the power of the whole board; reading {result.gpu}'s memory and the arithmetic "
        f"take {with_scale(energy, 'J')}: × {by_own} with {_cited(result)}, × {by_ours} with ours."
    )


def with_cited_digital(result: CostResult) -> float | None:
    """Our energy over what it is with the paper's digital part in it; None where the paper has none."""
    own = result.head.bottom_up.energy
    digital = next((line for line in result.head.lines if line.name == "digital"), None)
    if digital is None or digital.cited is None:
        return None
    return own / (own - digital.bottom_up + digital.cited.value)


def untimed(result: CostResult) -> list[str]:
    """Which steps of a chip our latency leaves out."""
    return [one.what for one in result.left_out if one.what.startswith("the time")]


def whole_model(result: CostResult) -> Rows:
    """Who computes what, per token."""
    rows = []
    for row in result.whole_model:
        parts = (row.attention_cited, row.attention, row.linear, row.transfers, row.total_cited, row.total)
        energies = row.attention_share_of_energy, row.energy_gain_cited, row.energy_gain
        latencies = row.attention_share_of_latency, row.latency_gain_cited, row.latency_gain
        for key, unit, numbers, (share, *gains) in (
            ("energy", "J", [None if part is None else part.energy for part in parts], energies),
            ("latency", "s", [None if part is None else part.latency for part in parts], latencies),
        ):
            shown = [with_scale(number, unit) for number in numbers]
            shown += [f"{100 * share:.2g} %", *(f"{gain:.3g}" for gain in gains)]
            rows.append([f"{row.title}, {key}", *shown])
    headings = ["per token", "attention, cited", "bottom-up", "linear", "transfers"]
    headings += ("total, cited", "bottom-up", "attention's share", "gain, cited", "bottom-up")
    return Rows("A whole model", headings, rows, _whole_caption(result), kinds=SIMULATED)


def _whole_caption(result: CostResult) -> str:
    if not result.whole_model:
        return f"{NO_WHOLE_MODEL[0].upper()}{NO_WHOLE_MODEL[1:]}."
    model = result.model_cost
    batch, arrays = model.batch, with_scale(model.bottom_up.area, "m^2")
    gpu, window = result.gpu_context, result.head.window
    overlaps = "Nothing overlaps."
    if batch > 1:
        overlaps = (
            "Sequences have arrays and circuits of their own, and follow each other through analog linear "
            "layers; nothing else overlaps."
        )
    lines = [
        f"Batch {batch:.0f}; arrays of all its sequences, bottom-up: {arrays}. "
        "GPU: stated bandwidth; energy at the largest board power, more than it draws; analog linear layers: "
        f"stated operations per joule and an assumed time of a product. {overlaps} Gain: of the whole, over "
        "the first row."
    ]
    if gpu > window:
        lines.append(
            f"The GPU attends to {gpu:,.0f} tokens, the gain cells to the last {window:,.0f}: not the same."
        )
    lines += [f"{row.title[0].upper()}{row.title[1:]}: {row.note}." for row in result.whole_model if row.note]
    if any(row.note for row in result.whole_model):
        held = max(row.held for row in result.whole_model if row.held is not None)
        parts: dict[str, list[str]] = {"longer": [], "shorter": []}
        for name, tau in result.retention_times.items():
            parts["longer" if tau.value > held else "shorter"].append(
                f"{name} ({with_scale(tau.value, 's')})"
            )
        lines.append("Leakage and decay are those of that time.")
        if found := "; ".join(f"{which}: {', '.join(names)}" for which, names in parts.items() if names):
            lines.append(
                f"Retention times of oxide write transistors against {with_scale(held, 's')}: {found}."
            )
    return " ".join(lines)


def cache(result: CostResult) -> Rows:
    """The cache on a GPU, and the paper's example."""
    found = result.why.cache
    rows = [
        ["cache of one token", with_scale(found.bytes_per_token, "B")],
        [f"cache of {kept(found)} of one sequence", with_scale(found.bytes, "B")],
        [f"time to read it once on {result.gpu}", with_scale(found.floor, "s")],
    ]
    arithmetic = ["energy of the arithmetic on it", with_scale(found.arithmetic, "J")]
    if found.movement is None:
        rows.append(arithmetic)
    else:
        rows += [
            ["energy to read it once from HBM", with_scale(found.movement, "J")],
            arithmetic,
            ["movement over arithmetic", f"{found.movement / found.arithmetic:.3g}"],
        ]
    return Rows(f"Why: the cache of {found.model} on a GPU", ("", ""), rows, kinds=SIMULATED)


def kept(cache: Cache) -> str:
    """How many tokens a cache holds, in words."""
    context, seen = cache.context, cache.seen
    if seen < context:
        return f"{seen:,.0f} of {context:,.0f} tokens (sliding window)"
    return f"{context:,.0f} tokens"


def memories(result: CostResult) -> Rows:
    """Keys and values of one head in other memories."""
    columns: Columns[MemoryCost] = {
        "keys and values of a head": lambda row: row.title,
        "area of cells": lambda row: with_scale(row.area, "m^2"),
        "energy of a token": lambda row: with_scale(row.write, "J"),
        "worn out after": lambda row: "no limit" if row.lifetime is None else with_scale(row.lifetime, "s"),
        "retention": lambda row: (
            "as long as powered" if row.retention is None else with_scale(row.retention, "s")
        ),
        "refresh": lambda row: with_scale(row.refresh, "W") if row.refresh else "–",
    }
    caption = (
        "Write energies and densities are of cells alone, orders of magnitude (see memories.toml); "
        "gain cells with their write lines and DACs, which the others leave out. Refresh: of a full ring. "
        "Readout: of one line, area and energy of one conversion."
    )
    found = Rows.of("Why: other memories", result.why.memories, columns, caption=caption, kinds=SIMULATED)
    readouts = [
        [f"readout: {row.title}", with_scale(row.area, "m^2"), with_scale(row.energy, "J"), "", "", ""]
        for row in result.why.conversions
    ]
    return replace(found, rows=[*found.rows, *readouts])
