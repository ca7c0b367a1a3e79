"""A row for every value: bars from zero, or dots on a logarithmic axis; errors, bands, many dots a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from gaincell.reports.html.markup import drawing, element, figure, text
from gaincell.reports.html.scales import Scale, linear, logarithmic, short

WIDTH, PITCH, FOOT = 440.0, 36.0, 42.0
SIDE = 10.0
"""Room for dots at the ends; bars begin at the very left."""


@dataclass(frozen=True)
class Row:
    """One value, or many of one name. shown: as written.  band: a range drawn below.  also: other dots."""

    name: str
    number: float
    shown: str
    colour: int = 1
    kind: str = ""
    error: float | None = None
    band: tuple[float, float] | None = None
    also: Sequence[float] = ()


def row_chart(
    title: str,
    rows: Sequence[Row],
    label: str,
    *,
    log: bool = False,
    dots: bool = False,
    reference: float | None = None,
    note: str = "",
) -> Markup:
    """A figure: name and value above, the mark below. Dots where an axis does not begin at zero."""
    found = [x for row in rows for x in (row.number, *(row.band or ()), *row.also)]
    found += [row.number + sign * row.error for row in rows if row.error is not None for sign in (-1, 1)]
    found += [reference] if reference is not None else []
    dots = dots or log
    if log:
        scale = logarithmic([x for x in found if x > 0], SIDE, WIDTH - SIDE)
    else:
        scale = linear(found, SIDE if dots else 1.0, WIDTH - SIDE, zero=not dots)
    bottom = PITCH * len(rows) + 6
    parts: list[Markup] = []
    for tick in scale.ticks():
        at = scale(tick)
        parts += [
            element("line", x1=at, x2=at, y1=4.0, y2=bottom, class_="grid-line"),
            text(at, bottom + 14, short(tick), "middle", "tick"),
        ]
    parts.append(text(WIDTH - SIDE, bottom + 31, label, "end", "label"))
    if reference is not None:
        at = scale(reference)
        parts.append(element("line", x1=at, x2=at, y1=4.0, y2=bottom, class_="axis"))
    for n, row in enumerate(rows):
        parts += _row(row, PITCH * n, scale, dots)
    spoken = "; ".join(f"{row.name} {row.shown}" for row in rows)
    shown = drawing(WIDTH, bottom + FOOT, f"{title}, {label}: {spoken}", *parts, hints=True)
    return figure(title, shown, note=note)


def _row(row: Row, top: float, place: Scale, dots: bool) -> list[Markup]:
    y = top + 27.0
    parts = [
        text(0, top + 16, row.name, "start", "name"),
        text(WIDTH, top + 16, row.shown, "end", "value"),
    ]
    kind = f" ({row.kind})" if row.kind else ""
    hint = f"{row.name}: {row.shown}{kind}"
    if row.band is not None:
        a, b = (place(x) for x in row.band)
        parts.append(element("rect", x=a, y=y - 5, width=b - a, height=10.0, class_="band"))
    if not dots:
        a, b = sorted((place(0.0), place(row.number)))
        parts.append(
            element(
                "rect",
                x=a,
                y=y - 4,
                width=max(b - a, 0.8),
                height=8.0,
                rx=1.5,
                class_=f"bar s{row.colour}",
                data_tip=hint,
            )
        )
    if row.error is not None:
        a, b = place(row.number - row.error), place(row.number + row.error)
        classes = "error ink" if not dots else f"error s{row.colour}"
        parts.append(element("line", x1=a, x2=b, y1=y, y2=y, class_=classes))
    parts += [
        element(
            "circle",
            cx=place(x),
            cy=y,
            r=3.0,
            class_=f"point open s{row.colour}",
            data_tip=f"{row.name}: {short(x)}{kind}",
        )
        for x in row.also
    ]
    if dots:
        size = 4.0
        parts.append(
            element(
                "circle", cx=place(row.number), cy=y, r=size, class_=f"point s{row.colour}", data_tip=hint
            )
        )
    return parts
