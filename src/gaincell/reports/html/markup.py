"""Elements of HTML. Text and attributes are escaped; only `Markup` made here passes as it is."""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup, escape

EMPTY = Markup("")


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """<tag attributes>children</tag>. In names of attributes a trailing _ is dropped, another becomes -.

    An attribute that is None or False is left out, one that is True stands alone.
    """
    shown = [EMPTY]
    for name, found in attributes.items():
        if found is None or found is False:
            continue
        key = name.rstrip("_").replace("_", "-")
        shown.append(Markup(" {}").format(key) if found is True else Markup(' {}="{}"').format(key, found))
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(tag), EMPTY.join(shown), join(children))


def join(children: Iterable[object]) -> Markup:
    """Pieces one after the other, escaped where they are not markup."""
    return EMPTY.join(escape(child) for child in children)


def grid(*children: object) -> Markup:
    """Figures beside one another, as many as there is room for."""
    return element("div", *children, class_="grid")


def paragraph(text: str, class_: str = "note") -> Markup:
    """A paragraph, or nothing."""
    return element("p", text, class_=class_) if text else EMPTY


def folded(title: str, *content: Markup) -> Markup:
    """What only some readers want, below its title; nothing where there is none."""
    return element("details", element("summary", title), *content, class_="more") if any(content) else EMPTY
