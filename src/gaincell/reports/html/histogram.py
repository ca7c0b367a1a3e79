"""How often codes are used, as outlines over one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from gaincell.reports.html.markup import axes, drawing, element, figure, join, legend, path
from gaincell.reports.html.scales import Scale, linear, logarithmic, short

WIDTH, HEIGHT = 320.0, 220.0
LEFT, RIGHT, TOP, BOTTOM = 50.0, 8.0, 30.0, 42.0
MANY = 40
"""Codes from which on a bar each has no hint: it would be narrower than a finger or a pointer."""


def histogram(
    title: str,
    shares: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    colours: Mapping[str, tuple[int, bool]],
    *,
    x_label: str,
    log: bool,
    kind: str,
) -> Markup:
    """A figure.

    Args:
        shares: name -> codes and their shares, in %.
        colours: name -> colour and whether its outline is dashed.
    """
    codes = [code for found, _ in shares.values() for code in found]
    heights = [share for _, found in shares.values() for share in found]
    places = Scale(min(codes) - 0.5, max(codes) + 0.5, LEFT, WIDTH - RIGHT)
    shown = [h for h in heights if h > 0 or not log]
    bottom = HEIGHT - BOTTOM
    y = logarithmic(shown, bottom, TOP) if log else linear(shown, bottom, TOP, zero=True)
    parts = [axes(places, y, x_label, "share, %")]
    for name, (found, height) in shares.items():
        colour, dashed = colours[name]
        outline = [
            (places(code + side), y(h) if h > 0 else y.start)
            for code, h in zip(found, height, strict=True)
            for side in (-0.5, 0.5)
        ]
        parts.append(path(outline, f"line s{colour} {'dashed' if dashed else 'solid'}"))
    few = len(set(codes)) <= MANY
    if few:
        parts.append(_targets(shares, places, kind))
    named = [(name, f"s{colours[name][0]} {'dashed' if colours[name][1] else 'solid'}") for name in shares]
    label = f"{title}, {kind}: codes {short(min(codes))} to {short(max(codes))}, {', '.join(shares)}"
    return figure(title, drawing(WIDTH, HEIGHT, label, *parts, hints=few), legend(named))


def _targets(shares: Mapping[str, tuple[Sequence[float], Sequence[float]]], x: Scale, kind: str) -> Markup:
    """A column a code that says what all outlines are there."""
    at: dict[float, list[str]] = {}
    for name, (codes, found) in shares.items():
        for code, share in zip(codes, found, strict=True):
            at.setdefault(code, []).append(f"{name} {short(share)} %")
    return join(
        element(
            "rect",
            x=x(code - 0.5),
            y=TOP,
            width=x(code + 0.5) - x(code - 0.5),
            height=HEIGHT - TOP - BOTTOM,
            class_="target",
            data_tip=f"code {short(code)}: {', '.join(said)} ({kind})",
        )
        for code, said in sorted(at.items())
    )
