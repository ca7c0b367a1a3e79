"""The figure of docs/benchmarks.md: time and memory against tokens, of benchmarks/attention.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from gaincell.reports.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    MARKERS,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    legend_beside,
    styled,
)

Result = Mapping[str, Any]
OUTPUTS = 12 * 64 * 4 / 2**20
"""Of a token, MiB: 12 heads of 64 float32 numbers."""


def is_measured(tokens: str, mib: float | None) -> bool:
    """Whether extra memory is not less than the outputs alone, which then lay in what was held before."""
    return mib is not None and mib >= int(tokens) * OUTPUTS


@styled()
def speed(result: Result) -> Figure:
    """Time and extra memory of the forward pass against the number of tokens.

    result: of benchmarks/attention.py.
    """
    figure = Figure(figsize=(10.5, 4.0))
    times, memory = figure.subplots(1, 2)
    curves: dict[str, list[tuple[int, float]]] = {}
    for label, rows in result["results"].items():
        part, tokens, threads = label.split(", ")
        length = tokens.removeprefix("T = ")
        if part == "forward" and threads == "1 thread" and length.isdecimal():  # one sequence
            for name, row in rows.items():
                curves.setdefault(name, []).append((int(length), 1e3 * row["seconds"]))
    colours = (BLACK, GREY, RED, PURPLE, SKY, GREEN, ORANGE, BLUE)
    shown = [name for name, points in curves.items() if len(points) > 1 and name.count(",") < 2]
    plain = [name for name in shown if "," not in name or name.startswith("softmax")]
    for name, colour, marker in zip(plain, colours, MARKERS, strict=False):
        times.plot(*zip(*curves[name], strict=True), f"{marker}-", color=colour, label=name)
    times.set_xscale("log", base=2)
    times.set_yscale("log")
    times.set_xlabel("tokens")
    times.set_ylabel("time (ms)")
    times.set_title("Time, one thread")
    looks = ((BLACK, "o"), (PURPLE, "^"), (BLUE, "X"))
    for (name, row), (colour, marker) in zip(
        result["extra_memory_MiB"]["forward"].items(), looks, strict=False
    ):
        points = [(int(tokens), mib) for tokens, mib in row.items() if is_measured(tokens, mib)]
        if points:
            memory.plot(*zip(*points, strict=True), f"{marker}-", color=colour, label=name)
    memory.set_xscale("log", base=2)
    memory.set_yscale("log", base=2)
    memory.set_xlabel("tokens")
    memory.set_ylabel("memory (MiB)")
    memory.set_title("Extra peak memory, output included")
    for axes in (times, memory):
        legend_beside(axes)
    return figure
