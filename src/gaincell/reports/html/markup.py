"""Elements of HTML, and tables. Text and attributes are escaped; only `Markup` made here passes as it is.

Beside every number of a table stands how it came about: measured, simulated, cited or assumed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from markupsafe import Markup, escape

from gaincell.reports.tables import Rows
from gaincell.results.codec import KINDS, kinds_of

EMPTY = Markup("")
HIDDEN = "hidden"
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
WHAT, SHORT = "what", 14
"""Heading, for screen readers, of a column that has none in print; characters of one that is not broken."""


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


def table(rows: Rows) -> Markup:
    """A table in a box of its own that scrolls where it is too wide.

    The first column is a heading of its row; one kind for all numbers is not that of numbers in words.
    """
    heads = [_head(name, n, rows) for n, name in enumerate(rows.headings)]
    body = []
    for r, row in enumerate(rows.rows):
        cells = [_cell(cell, r, c, rows) for c, cell in enumerate(row)]
        body.append(element("tr", *cells, class_="total" if row and row[0] == "all" else None))
    shown = element(
        "table",
        element("caption", rows.title),
        element("thead", element("tr", *heads)),
        element("tbody", *body),
    )
    box = element("div", shown, class_="scroll", role="group", tabindex="0", aria_label=rows.title)
    return element("div", box, paragraph(rows.caption), class_="table")


def head_rows(title: str, found: Sequence[Sequence[float]], heads: str = "head") -> Rows:
    """A number of every head: a row a layer, a column a head."""
    headings = ("layer", *(f"{heads} {n}" for n in range(max(map(len, found)))))
    return Rows(title, headings, [[str(n), *(short(float(x)) for x in row)] for n, row in enumerate(found)])


def short(x: float) -> str:
    """A number as tables of drawings write it: four digits at most, powers of ten as such."""
    if math.isnan(x):
        return "not a number"
    if math.isinf(x):
        return "∞" if x > 0 else "−∞"
    if x == 0:
        return "0"
    if 1e-3 <= abs(x) < 1e6:
        shown = f"{x:,.0f}" if abs(x) >= 1e3 else f"{x:.4g}"
        return shown.replace("-", "−")
    exponent = math.floor(math.log10(abs(x)) + 1e-9)
    mantissa = x / 10.0**exponent
    power = f"10{str(exponent).translate(SUPERSCRIPT)}"
    if math.isclose(mantissa, 1.0, rel_tol=1e-6):
        return power
    return f"{mantissa:.3g}×{power}".replace("-", "−")


def badges(*entries: object) -> Markup:
    """The kinds of the numbers in some results."""
    found = kinds_of(*entries)
    shown = [element("span", kind, class_=f"badge {kind}") for kind in KINDS if kind in found]
    return element("span", *shown, class_="badges")


def only_kind(entry: object) -> str:
    """The kinds in a part of a result, in words; mostly there is one."""
    found = kinds_of(entry)
    return " and ".join(kind for kind in KINDS if kind in found)


def _head(name: str, n: int, rows: Rows) -> Markup:
    shown: object = name if name.strip() else element("span", WHAT if n == 0 else "note", class_=HIDDEN)
    classes = ["words"] * (n == 0 or n in rows.text) + ["short"] * (len(name) <= SHORT)
    return element("th", shown, scope="col", class_=" ".join(classes) or None)


def _cell(cell: str, r: int, c: int, rows: Rows) -> Markup:
    if c == 0:
        return element("th", cell.strip(), scope="row", class_="part" if cell.startswith("  ") else None)
    is_text = c in rows.text
    kind = rows.kinds(r, c) if callable(rows.kinds) else None if is_text else rows.kinds
    if kind and kind not in KINDS:
        raise ValueError(f"a number in a table has one kind, not {kind!r}")
    marked = kind and re.search(r"\d", cell)
    shown = element("abbr", kind[0], title=kind) if marked and kind else EMPTY
    return element("td", cell, shown, class_="words" if is_text else None)
