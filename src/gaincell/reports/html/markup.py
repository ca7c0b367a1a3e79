"""Elements of HTML and SVG. Text and attributes are escaped; only `Markup` made here passes as it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from markupsafe import Markup, escape

from gaincell.reports.html.scales import Scale, short

EMPTY = Markup("")
TICK = 4.0
CHARACTER = 6.2
"""Width of a character of a label, in units of a drawing."""


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """<tag attributes>children</tag>. In names of attributes a trailing _ is dropped, another becomes -.

    An attribute that is None or False is left out, one that is True stands alone. Places have two digits.
    """
    shown = [EMPTY]
    for name, found in attributes.items():
        if found is None or found is False:
            continue
        key = name.rstrip("_").replace("_", "-")
        shown.append(
            Markup(" {}").format(key) if found is True else Markup(' {}="{}"').format(key, _plain(found))
        )
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(tag), EMPTY.join(shown), join(children))


def join(children: Iterable[object]) -> Markup:
    """Pieces one after the other, escaped where they are not markup."""
    return EMPTY.join(escape(child) for child in children)


def text(x: float, y: float, content: object, anchor: str = "start", class_: str | None = None) -> Markup:
    """Text of a drawing; anchor: start, middle or end."""
    return element(
        "text", content, x=x, y=y, text_anchor=None if anchor == "start" else anchor, class_=class_
    )


def path(points: Sequence[tuple[float, float]], class_: str) -> Markup:
    """A line through points."""
    shown = "L".join(f"{_plain(x)},{_plain(y)}" for x, y in points)
    return element("path", d=f"M{shown}", class_=class_) if points else EMPTY


def drawing(width: float, height: float, label: str, *children: object, hints: bool = False) -> Markup:
    """An image for screen readers, named by its label; with hints the keyboard can step through them."""
    return element(
        "svg",
        *children,
        viewBox=f"0 0 {_plain(width)} {_plain(height)}",
        role="img",
        aria_label=label + (". Arrow keys step through its values." if hints else ""),
        tabindex="0" if hints else None,
    )


def figure(title: str, *body: object, note: str = "", class_: str | None = None) -> Markup:
    """A drawing under its title, with a note below."""
    caption = element("figcaption", title)
    return element(
        "figure", caption, *body, element("p", note, class_="note") if note else EMPTY, class_=class_
    )


def legend(names: Sequence[tuple[str, str]]) -> Markup:
    """names: what, and the classes of its mark. Nothing for a single one without a name."""
    items = [
        element("li", element("i", class_=f"mark {classes}", aria_hidden="true"), name)
        for name, classes in names
        if name
    ]
    return element("ul", *items, class_="legend") if items else EMPTY


def grid(*children: object, small: bool = False) -> Markup:
    """Figures beside one another, as many as there is room for."""
    return element("div", *children, class_="grid small" if small else "grid")


def pair(*children: object) -> Markup:
    """A table and a figure, beside one another where both have room."""
    return element("div", *children, class_="pair")


def axes(x: Scale, y: Scale, x_label: str, y_label: str) -> Markup:
    """Grid lines, ticks and labels; the label of y stands above it, lying."""
    left, right, top, bottom = x.start, x.end, y.end, y.start
    parts: list[Markup] = []
    for tick in y.ticks():
        at = y(tick)
        parts += [
            element("line", x1=left, x2=right, y1=at, y2=at, class_="grid-line"),
            text(left - 6, at + 4, short(tick), "end", "tick"),
        ]
    ticks = x.ticks()
    widest = max((len(short(tick)) for tick in ticks), default=1) * CHARACTER + 10
    ticks = ticks[:: max(1, -(-int(widest * len(ticks)) // max(1, int(right - left))))]
    for tick in ticks:
        at = x(tick)
        parts += [
            element("line", x1=at, x2=at, y1=bottom, y2=bottom + TICK, class_="axis"),
            text(at, bottom + 17, short(tick), "middle", "tick"),
        ]
    parts += [
        element("line", x1=left, x2=right, y1=bottom, y2=bottom, class_="axis"),
        text(right, bottom + 34, x_label, "end", "label"),
        text(0, top - 14, y_label, "start", "label"),
    ]
    return join(parts)


def _plain(found: object) -> object:
    if isinstance(found, float):
        return f"{found:.2f}".rstrip("0").rstrip(".") if found % 1 else f"{found:.0f}"
    return found
