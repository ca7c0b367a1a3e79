"""Floorplans: rectangles to scale, with their names where they fit."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from gaincell.reports.floorplan import Box
from gaincell.reports.html.markup import CHARACTER, drawing, element, figure, legend, text
from gaincell.reports.html.scales import short

WIDTH, HEIGHT = 640.0, 460.0
FONT = 12.0


def plan(
    title: str,
    size: tuple[float, float],
    boxes: Sequence[Box],
    kinds: Sequence[tuple[str, str]],
    *,
    inner: Sequence[Box] = (),
    wires: Sequence[tuple[tuple[float, float], tuple[float, float]]] = (),
    kind: str,
    note: str = "",
) -> Markup:
    """A figure; micrometres, y upwards.

    Args:
        boxes: what is drawn, named, and has a hint.
        kinds: kind of box and what it is called.
        inner: what is inside every box of kind "cells", from its corner.
        wires: ends of lines.
    """
    w, h = size
    scale = min((WIDTH - 2) / w, HEIGHT / h)

    def rectangle(box: Box, classes: str, tip: str | None) -> Markup:
        return element(
            "rect",
            x=1 + box.x * scale,
            y=1 + (h - box.y - box.h) * scale,
            width=box.w * scale,
            height=box.h * scale,
            class_=classes,
            data_tip=tip,
        )

    parts = []
    for box in boxes:
        tip = f"{box.name}: {short(box.w)} × {short(box.h)} µm, {short(box.w * box.h)} µm² ({kind})"
        if box.kind == "cells" and inner:
            parts += [
                rectangle(part._replace(x=part.x + box.x, y=part.y + box.y), f"plan-{part.kind} thin", None)
                for part in inner
            ]
            parts.append(rectangle(box, "outline", tip))
        else:
            parts.append(rectangle(box, f"plan-{box.kind}", tip))
    for (xa, ya), (xb, yb) in wires:
        ends = {
            "x1": 1 + xa * scale,
            "y1": 1 + (h - ya) * scale,
            "x2": 1 + xb * scale,
            "y2": 1 + (h - yb) * scale,
        }
        parts.append(element("line", class_="wire", **ends))
    for box in boxes:
        parts += _name(box, scale, h)
    named = [(name, f"plan plan-{key}") for key, name in kinds]
    named += [("bit lines of keys tapped to word lines of values", "wire")] if wires else []
    spoken = ", ".join(dict.fromkeys(box.name for box in boxes))
    label = f"{title}, {short(w)} by {short(h)} µm, {kind}: {spoken}"
    shown = drawing(WIDTH, h * scale + 2, label, *parts, hints=True)
    return figure(
        f"{title}, {short(round(w))} × {short(round(h))} µm",
        shown,
        legend(named),
        note=note,
        class_="full plan",
    )


def _name(box: Box, scale: float, h: float) -> list[Markup]:
    """In one line or two, on a ground of its own over cells; nothing where neither fits."""
    w, height = box.w * scale, box.h * scale
    for lines in ([box.name], box.name.split(" ", 1)):
        long = max(map(len, lines)) * CHARACTER
        if long + 6 > w or len(lines) * FONT * 1.2 > height:
            continue
        right, down = (0.3, 0.16) if box.name == "key array" else (0.5, 0.5)
        x, y = 1 + (box.x + right * box.w) * scale, 1 + (h - box.y - box.h * (1 - down)) * scale
        top = y - len(lines) * FONT * 1.2 / 2
        ground = element(
            "rect",
            x=x - long / 2 - 4,
            y=top - 1,
            width=long + 8,
            height=len(lines) * FONT * 1.2 + 2,
            class_="ground",
        )
        shown = [
            text(x, top + FONT * (0.98 + 1.2 * n), line, "middle", "on-plan") for n, line in enumerate(lines)
        ]
        return [ground, *shown] if box.kind == "cells" else shown
    return []
