"""Heat maps, layers downwards and heads to the right, each with its numbers as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from gaincell.reports.html.markup import drawing, element, figure, text
from gaincell.reports.html.scales import short
from gaincell.reports.html.theme import STEPS

WIDTH, LEFT, TOP, BOTTOM = 260.0, 28.0, 6.0, 34.0
LOWEST, HIGHEST, AREA = 6.0, 22.0, 190.0
"""Heights of a cell, and of all of them where that leaves room."""

Table = Sequence[Sequence[float]]


def heat_map(
    title: str,
    table: Table,
    *,
    kind: str,
    unit: str = "",
    rows: str = "layer",
    columns: str = "head",
    low: float | None = None,
    high: float | None = None,
    note: str = "",
) -> Markup:
    """A figure. low, high: ends of the ramp, by default those of the numbers."""
    table = [[float(x) for x in row] for row in table]  # numbers that JSON does not know are words
    found = [x for row in table for x in row if math.isfinite(x)] or [0.0]
    least, most = min(found) if low is None else low, max(found) if high is None else high
    width = (WIDTH - LEFT - 4) / max(map(len, table))
    height = min(HIGHEST, max(LOWEST, AREA / len(table)))
    parts: list[Markup] = []
    for r, row in enumerate(table):
        for c, x in enumerate(row):
            parts.append(
                element(
                    "rect",
                    x=LEFT + c * width,
                    y=TOP + r * height,
                    width=width - 0.6,
                    height=height - 0.6,
                    class_=_step(x, least, most),
                    data_cell=f"{r},{c}",
                )
            )
    bottom = TOP + height * len(table)
    for r in _few(len(table), int(13 / height) + 1):
        parts.append(text(LEFT - 5, TOP + (r + 0.5) * height + 4, r, "end", "tick"))
    for c in _few(max(map(len, table)), int(16 / width) + 1):
        parts.append(text(LEFT + (c + 0.5) * width, bottom + 13, c, "middle", "tick"))
    parts.append(text(WIDTH - 4, bottom + 28, f"{columns} →  {rows} ↓", "end", "label"))
    mean = sum(found) / len(found)
    label = (
        f"{title}, {kind}, of {len(table)} {rows}s: {short(min(found))} to {short(max(found))}, "
        f"mean {short(mean)} {unit}"
    )
    ends = (element("span", short(least)), element("i", class_="ramp"), element("span", short(most)))
    scale = element("div", *ends, element("span", unit, class_="quiet"), class_="scale", aria_hidden="true")
    shown = drawing(WIDTH, bottom + BOTTOM, label, *parts, hints=True)
    numbers = _numbers(title, table, rows, columns, unit, kind)
    return figure(title, shown, scale, numbers, note=note, class_="heat")


def _numbers(title: str, table: Table, rows: str, columns: str, unit: str, kind: str) -> Markup:
    heads = [element("th", f"{columns} {c}", scope="col") for c in range(max(map(len, table)))]
    first = element("tr", element("th", rows, scope="col"), *heads)
    body = [
        element("tr", element("th", r, scope="row"), *(element("td", short(x)) for x in row))
        for r, row in enumerate(table)
    ]
    caption = element("caption", f"{title}{f', {unit}' if unit else ''} ({kind})")
    shown = element("table", caption, element("thead", first), element("tbody", *body))
    box = element("div", shown, class_="scroll", role="group", tabindex="0", aria_label=f"{title}: numbers")
    return element("details", element("summary", "Numbers"), box)


def _step(x: float, least: float, most: float) -> str:
    if not math.isfinite(x):
        return "hx"
    share = (x - least) / (most - least) if most > least else 0.0
    return f"h{min(STEPS - 1, max(0, round(share * (STEPS - 1))))}"


def _few(count: int, apart: int) -> range:
    every = next(n for n in (1, 2, 5, 10, 20, 50, 100, 1000, 10**9) if n >= apart)
    return range(0, count, every)
