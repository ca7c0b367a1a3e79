"""Lines and points over two axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from gaincell.reports.html.markup import EMPTY, axes, drawing, element, figure, join, legend, path
from gaincell.reports.html.scales import Scale, linear, logarithmic, short

WIDTH, HEIGHT = 440.0, 262.0
LEFT, RIGHT, TOP, BOTTOM = 54.0, 12.0, 30.0, 42.0
MOST = 400
"""Points that a line is drawn through at most: no screen shows more."""


@dataclass(frozen=True)
class Series:
    """One line. errors: of y, as bars; NaN: none.  colour: 1 to 7.  kind: measured, simulated or cited."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 1
    kind: str = ""
    errors: Sequence[float] = ()
    dashed: bool = False
    faint: bool = False
    line: bool = True
    marks: bool = True
    hints: Sequence[str] = ()

    @property
    def classes(self) -> str:
        """Of its line and of its mark in the legend."""
        kind = "dot" if not self.line else "dashed" if self.dashed else "solid"
        return f"s{self.colour} {kind}{' faint' if self.faint else ''}"


@dataclass(frozen=True)
class Level:
    """A horizontal line of reference."""

    name: str
    y: float
    colour: int = 7


def line_chart(
    title: str,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
    zero: bool = False,
    ticks: Sequence[float] = (),
    levels: Sequence[Level] = (),
    diagonal: bool = False,
    note: str = "",
) -> Markup:
    """A figure. zero: y begins at 0.  ticks: of x.  diagonal: also draw y = x."""
    series = [_drawable(s, log_x, log_y) for s in series]
    spread = [
        y + sign * e
        for s in series
        for y, e in zip(s.y, s.errors or [0.0] * len(s.y), strict=True)
        for sign in (-1, 1)
        if math.isfinite(e)
    ] + [y for s in series for y in s.y]
    heights = [*(y for y in spread if not log_y or y > 0), *(level.y for level in levels)]
    places = [x for s in series for x in s.x]
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    y = logarithmic(heights, bottom, TOP) if log_y else linear(heights, bottom, TOP, zero=zero)
    x = (logarithmic if log_x else linear)(places, LEFT, right, at=ticks)
    parts = [axes(x, y, x_label, y_label)]
    for level in levels:
        at = y(level.y)
        parts.append(element("line", x1=x.start, x2=x.end, y1=at, y2=at, class_=f"s{level.colour} dashed"))
    if diagonal:
        ends = (max(x.low, y.low), min(x.high, y.high))
        parts.append(path([(x(end), y(end)) for end in ends], "s7 dashed"))
    parts += [_drawn(s, x, y, x_label, y_label) for s in series]
    named = [(s.name, s.classes) for s in series]
    named += [(level.name, f"s{level.colour} dashed") for level in levels]
    shown = legend(list(dict.fromkeys(named))) if len(named) > 1 else EMPTY
    hints = any(s.marks for s in series)
    label = f"{title}: {y_label} over {x_label}. {'; '.join(_spoken(s) for s in series if s.name)}"
    return figure(title, drawing(WIDTH, HEIGHT, label, *parts, hints=hints), shown, note=note)


def _drawn(s: Series, x: Scale, y: Scale, x_label: str, y_label: str) -> Markup:
    parts = []
    if s.line:
        every = max(1, len(s.x) // MOST)
        points = [(x(a), y(b)) for a, b in zip(s.x, s.y, strict=True)]
        parts.append(path([*points[:-1:every], *points[-1:]], f"line {s.classes}"))
    for n, error in enumerate(s.errors):
        if math.isnan(error):
            continue
        low, high = s.y[n] - error, s.y[n] + error
        at = x(s.x[n])
        parts.append(element("line", x1=at, x2=at, y1=y(low), y2=y(high), class_=f"error s{s.colour}"))
    if s.marks:
        for n, (a, b) in enumerate(zip(s.x, s.y, strict=True)):
            spread = f" ± {short(s.errors[n])}" if s.errors and math.isfinite(s.errors[n]) else ""
            hint = s.hints[n] if s.hints else f"{x_label} {short(a)}: {y_label} {short(b)}{spread}"
            name = f"{s.name} · " if s.name else ""
            kind = f" ({s.kind})" if s.kind else ""
            parts.append(
                element(
                    "circle",
                    cx=x(a),
                    cy=y(b),
                    r=2.6 if s.line else 3.0,
                    class_=f"point s{s.colour}",
                    data_tip=f"{name}{hint}{kind}",
                )
            )
    return join(parts)


def _drawable(s: Series, log_x: bool, log_y: bool) -> Series:
    """Without points that have no place on the axes."""
    kept = [
        n
        for n, (a, b) in enumerate(zip(s.x, s.y, strict=True))
        if math.isfinite(a) and math.isfinite(b) and (a > 0 or not log_x) and (b > 0 or not log_y)
    ]
    return Series(
        s.name,
        [s.x[n] for n in kept],
        [s.y[n] for n in kept],
        s.colour,
        s.kind,
        [s.errors[n] for n in kept] if s.errors else (),
        s.dashed,
        s.faint,
        s.line,
        s.marks,
        [s.hints[n] for n in kept] if s.hints else (),
    )


def _spoken(s: Series) -> str:
    if not s.y:
        return f"{s.name} has no points"
    return f"{s.name} from {short(s.y[0])} to {short(s.y[-1])}"
