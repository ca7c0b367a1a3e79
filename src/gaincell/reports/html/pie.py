"""Shares of a whole as a ring, with a list of what they are."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from gaincell.reports.html.markup import drawing, element, figure, text

SIZE, OUTER, INNER = 200.0, 94.0, 58.0


def pie(title: str, parts: Sequence[tuple[str, float, str, int]], whole: str, kind: str) -> Markup:
    """A figure.

    Args:
        parts: name, number above zero, number as written, colour.
        whole: the sum, as written, in the middle.
        kind: measured, simulated or cited.
    """
    total = sum(number for _, number, _, _ in parts)
    drawn, items, at = [], [], 0.0
    for name, number, shown, colour in parts:
        share = number / total
        hint = f"{name}: {shown}, {100 * share:.1f} % ({kind})"
        drawn.append(
            element(
                "path",
                d=_slice(at, at + share),
                class_=f"slice s{colour}",
                fill_rule="evenodd",
                data_tip=hint,
            )
        )
        cells = (
            element("i", class_=f"mark bar s{colour}", aria_hidden="true"),
            element("span", name),
            element("b", shown),
            element("span", f"{100 * share:.1f} %", class_="quiet"),
        )
        items.append(element("li", *cells))
        at += share
    drawn += [text(SIZE / 2, SIZE / 2 + 2, whole, "middle", "whole")]
    drawn += [text(SIZE / 2, SIZE / 2 + 20, kind, "middle", "label")]
    label = f"{title}, {kind}, {whole}: " + "; ".join(f"{name} {shown}" for name, _, shown, _ in parts)
    ring = drawing(SIZE, SIZE, label, *drawn, hints=True)
    return figure(title, element("div", ring, element("ul", *items, class_="shares"), class_="pie"))


def _slice(start: float, end: float) -> str:
    """A part of the ring between two shares of the circle, clockwise from the top."""
    if end - start > 0.9999:
        whole = [f"M{SIZE / 2},{SIZE / 2 - r}a{r},{r} 0 1 1 -0.01,0Z" for r in (OUTER, INNER)]
        return "".join(whole)
    large = 1 if end - start > 0.5 else 0

    def at(share: float, radius: float) -> str:
        angle = 2 * math.pi * share
        return f"{SIZE / 2 + radius * math.sin(angle):.2f},{SIZE / 2 - radius * math.cos(angle):.2f}"

    return (
        f"M{at(start, OUTER)}A{OUTER},{OUTER} 0 {large} 1 {at(end, OUTER)}"
        f"L{at(end, INNER)}A{INNER},{INNER} 0 {large} 0 {at(start, INNER)}Z"
    )
