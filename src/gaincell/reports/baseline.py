"""Softmax attention timed on a machine: tables, figure and section of the page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import cast

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gaincell.reports.html import parts
from gaincell.reports.style import BLACK, BLUE, GREEN, GREY, MARKERS, ORANGE, PURPLE, RED, SKY, styled
from gaincell.reports.tables import CITED, MEASURED, Rows
from gaincell.results.system_cost import BaselineResult, Measured, Timing

SHARED = 0.9
"""Share of its processor below which a process shared it with others."""
COLOURS = {
    "published": GREY, "matmul": BLUE, "sdpa": SKY, "flash": GREEN, "efficient": PURPLE, "cudnn": BLACK,
    "flex": RED, "int8": ORANGE,
}  # fmt: skip
DASHES = {"float32": "-", "bfloat16": "--", "float16": ":"}


def _is_shared(entry: Timing) -> bool:
    return entry.busy is not None and entry.busy < SHARED


def was_shared(result: BaselineResult) -> bool:
    """Whether other programs took a part of the processor from any of the measurements."""
    return any(map(_is_shared, result.measurements))


def per_token(entry: Timing) -> float:
    """Seconds of a token: those its threads ran for, where the machine was shared and the clock saw them."""
    return (entry.processor_per_token if _is_shared(entry) else None) or entry.latency_per_token


def baseline_rows(result: BaselineResult) -> list[Rows]:
    """A table a context, with a caption below the last."""
    contexts = sorted({m.context for m in result.measurements})
    return [_rows(result, of, _caption(result) if of == contexts[-1] else "") for of in contexts]


def _rows(result: BaselineResult, context: int, caption: str) -> Rows:
    """A row a configuration, a column a batch, and the published GPUs below."""
    lines = {key[:2]: found for key, found in _lines(result).items() if key[2] == context}
    cited = [c for c in _cited(result) if c.context == context]
    batches = sorted({*(m.batch for found in lines.values() for m in found), *(c.batch for c in cited)})
    with_energy = bool(cited) or any(entry.energy is not None for entry in result.measurements)
    rows, kinds = [], [MEASURED] * len(lines) + [CITED] * len(cited)
    for (name, dtype), found in lines.items():
        best = min(found, key=per_token)
        joule = f"{best.energy * 1e6:.4g}" if best.energy is not None else "–"
        error = "faulty" if name == "published" else f"{max(m.error for m in found):.0e}"
        cells = _cells(batches, {m.batch: per_token(m) for m in found})
        rows.append([f"{name} {dtype}", *cells, *[joule] * with_energy, error])
    for gpu in cited:
        cells = _cells(batches, {gpu.batch: gpu.latency})
        rows.append([f"{gpu.title} (cited)", *cells, f"{(gpu.energy or math.nan) * 1e6:.4g}", "faulty"])
    head = ("implementation", *map(str, batches), *["µJ/token"] * with_energy, "error")
    name = f"{context:,} keys: µs per token, by batch"
    return Rows(name, head, rows, caption, kinds=lambda r, _: kinds[r])


def _cited(result: BaselineResult) -> list[Measured]:
    return [machine for machine in result.machines if machine.kind == "cited"]


def _cells(batches: list[int], seconds: Mapping[int, float]) -> list[str]:
    return [f"{seconds[batch] * 1e6:.4g}" if batch in seconds else "–" for batch in batches]


def _caption(result: BaselineResult) -> str:
    caption = f"{result.provenance.protocol} A step over its batch, median of the runs"
    if was_shared(result):
        caption += "; other programs shared the processor: the time that it worked on this one"
    missing = sorted({m.no_energy for m in result.measurements if m.no_energy})
    caption += f". No energy: {'; '.join(missing)}." if missing else ". Energy: of the fastest batch."
    if _cited(result) or any(m.implementation == "published" for m in result.measurements):
        caption += (
            " Faulty: is_causal=True masks all but the first key, the GPU is not waited for, power is read "
            "once after each run."
        )
    return caption


def skipped_lines(result: BaselineResult) -> list[str]:
    """What was not measured, a line a reason."""
    reasons: dict[str, list[str]] = {}
    for entry in result.skipped:
        what = f"{entry.implementation} {entry.dtype}, context {entry.context:.0f}"
        reasons.setdefault(entry.reason, []).append(f"{what}, batch {entry.batch:.0f}")
    return [f"not measured: {'; '.join(what)}: {reason}" for reason, what in reasons.items()]


@styled()
def baseline_figure(result: BaselineResult) -> Figure:
    """Time per token against batch, a panel a context; the published GPUs as points."""
    contexts = sorted({m.context for m in result.measurements})
    figure = Figure(figsize=(4.6 * len(contexts) + 2.0, 4.2))
    panels = figure.subplots(1, len(contexts), sharey=True, squeeze=False)[0]
    labels: dict[str, Artist] = {}
    for axes, context in zip(panels, contexts, strict=True):
        for (name, dtype, of_context), found in _lines(result).items():
            if of_context == context:
                label = f"{name}, {dtype}" + (" (faulty)" if name == "published" else "")
                labels.setdefault(label, _line(axes, name, dtype, found))
        for cited, marker in zip(_cited(result), ("*", "P", "X"), strict=False):
            if cited.context == context:
                at = (cited.batch, cited.latency * 1e6)
                point = axes.plot(*at, marker, color=RED, ms=9, ls="none")[0]
                labels.setdefault(f"{cited.title} (cited, faulty)", point)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.set(xlabel="batch", title=f"{context:,} keys")
    whose = "processor time" if was_shared(result) else "time"
    panels[0].set_ylabel(f"{whose} per token and layer, µs")
    figure.legend(labels.values(), labels.keys(), loc="outside right upper")
    figure.suptitle(title(result), x=0.02, ha="left")
    return figure


def _line(axes: Axes, name: str, dtype: str, found: list[Timing]) -> Artist:
    """Medians, and a bar from the fastest to the slowest run."""
    x, y = [m.batch for m in found], [per_token(m) * 1e6 for m in found]
    lows, highs = [], []
    for m, middle in zip(found, y, strict=True):
        runs = [r / m.batch * 1e6 for r in (m.processor if _is_shared(m) else m.runs)]
        lows.append(max(0.0, middle - min(runs)))
        highs.append(max(0.0, max(runs) - middle))
    colour = COLOURS.get(name, BLACK)
    marker = MARKERS[[*COLOURS, name].index(name) % len(MARKERS)]
    bars = axes.errorbar(x, y, yerr=(lows, highs), marker=marker, lw=1.4, color=colour,
                         ls=DASHES.get(dtype, "-."))  # fmt: skip
    return cast(Artist, bars)  # a container: legends take one, their types do not


def _lines(result: BaselineResult) -> dict[tuple[str, str, int], list[Timing]]:
    """Measurements that differ in batch only."""
    found: dict[tuple[str, str, int], list[Timing]] = {}
    for m in result.measurements:
        found.setdefault((m.implementation, m.dtype, m.context), []).append(m)
    return found


def title(result: BaselineResult) -> str:
    sizes = result.sizes
    heads = f"{sizes.heads} heads"
    if sizes.kv_heads != sizes.heads:
        heads += f" on {sizes.kv_heads} key/value heads"
    hardware = result.provenance.hardware
    threads = f"{hardware.threads} thread{'s' if hardware.threads > 1 else ''}"
    machine = result.machine or f"{hardware.cpu}, {threads}"
    return f"Softmax attention of one query, {heads}, D = {sizes.head_dim}: {machine}"


def page_rows(run: BaselineResult) -> Iterator[Rows]:
    """Softmax attention timed on a machine, a table a context."""
    for rows in baseline_rows(run):
        yield replace(rows, headings=[f"batch {h}" if h.isdigit() else h for h in rows.headings])


BASELINE = parts.section(
    "Baseline", "Softmax attention on a machine of today.", BaselineResult,
    parts.words(title, "lead"),
    parts.tables(page_rows),
    parts.figure("Time per token and layer", baseline_figure, MEASURED, numbers=parts.no_numbers),
    parts.listed(skipped_lines),
    numbers=lambda run: run.measurements,
    headline=lambda run: f"{len(run.measurements)} timings of softmax attention", kind=MEASURED,
)  # fmt: skip
