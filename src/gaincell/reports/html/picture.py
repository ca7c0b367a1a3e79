"""Figures of matplotlib inside the page: SVG in the page's colours, named and described for screen readers.

Styles become attributes, because the page's content security policy forbids styles in elements.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from typing import NamedTuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator

from gaincell.reports.html.markup import element, folded, paragraph, short, table
from gaincell.reports.style import BLACK, GREY, PALETTE, PLAN_COLOURS, TAP, WIRE, styled
from gaincell.reports.tables import Rows

DRAWN = {
    colour.lower(): token
    for colour, token in {
        **{colour: f"s{n}" for n, colour in enumerate((*PALETTE[:6], GREY), 1)},
        **{colour: f"plan-{kind}" for kind, colour in PLAN_COLOURS.items()},
        **dict.fromkeys((TAP, WIRE), "wire"),
        **{BLACK: "ink", "#ffffff": "paper", "#E4E4E4": "grid", "#DCDCDC": "rule", "#D8D8D8": "rule"},
    }.items()
}
"""Colour of a figure -> token of the page's theme; a test finds colours that have none."""
ID = "\ue000"
"""Before every id of a drawing; the page puts a number of its own for each in its place."""
PIXELS = 4 / 3
"""Of a point, the unit of matplotlib's drawings."""
MOST, FEW = 40, 8
"""Points of a line in its table, of longer ones evenly chosen; lines without names that have a table."""
INHERITED = ("fill", "stroke")
"""Beginnings of attributes that markers have from the group around them."""
PLACES = {"d", "x", "y"}
"""Attributes in points, of which tenths are enough."""
LEFT_OUT = {"style", "id", "font-family"}
"""Attributes that become others, or that the page's style sheet sets."""
Point = tuple[float, float, float]


class Curve(NamedTuple):
    """A line as its table has it: every n-th point and the last: place, height, half a bar or NaN."""

    name: str
    points: list[Point]
    every: int


def picture(
    title: str, figure: Figure, *, kind: str = "", note: str = "", numbers: Sequence[Rows] | None = None
) -> Markup:
    """A figure of matplotlib, in the style sheet's colours, under its title, with a note below.

    `kind` is one of KINDS, or several of them in words; "" where a result does not say. `numbers` are those
    of the drawing, as tables, folded; by default those of its lines; none where a table stands beside it.
    """
    shown = line_rows(figure) if numbers is None else numbers
    suffix = f" ({kind})" if kind else ""
    tables = [table(replace(rows, title=f"{rows.title}{suffix}")) for rows in shown]
    drawn = element("div", _svg(title, figure), class_="scroll", role="group", tabindex="0", aria_label=title)
    return element(
        "figure",
        element("figcaption", title, element("span", suffix, class_="of")),
        drawn,
        paragraph(note),
        folded("Numbers", *tables),
    )


def plain(name: str) -> str:
    """A name in which matplotlib finds no formula."""
    return name.replace("$", r"\$")


def line_rows(figure: Figure) -> list[Rows]:
    """A table for every panel with lines: a row a place, a column a line."""
    found = []
    for axes in figure.axes:
        lines = _lines(axes)
        named = [line.name for line in lines]
        errors = any(error == error for line in lines for *_, error in line.points)
        places = sorted({x for line in lines for x, _, _ in line.points})
        columns = [{x: (y, error) for x, y, error in line.points} for line in lines]
        x_label = axes.get_xlabel() or figure.axes[-1].get_xlabel()
        rows = [
            [short(x), *(_shown(*column[x]) if x in column else "–" for column in columns)] for x in places
        ]
        steps = " or ".join(_nth(every) for every in sorted({line.every for line in lines} - {1}))
        thinned = f"Of lines of more than {MOST} points every {steps} point and the last. " if steps else ""
        caption = "±: the bars. " * errors + thinned + axes.get_ylabel() * (len(named) > 1)
        if rows:
            found.append(Rows(_title(axes), (x_label, *named), rows, caption))
    return found


def _shown(y: float, error: float) -> str:
    return short(y) + (f" ± {short(error)}" if error == error else "")


def _nth(n: int) -> str:
    return f"{n}{'th' if 4 <= n % 100 <= 20 else {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, 'th')}"


def _lines(axes: Axes) -> list[Curve]:
    """Those that the legend has; the others, where it has none and they are few."""
    bars = [c for c in axes.containers if isinstance(c, ErrorbarContainer) and c.lines[0] is not None]
    found = [_curve(str(c.get_label()), c.lines[0], c) for c in bars]
    plain = [line for line in axes.lines if line.get_transform() == axes.transData and not bars]
    some = [_curve(str(line.get_label()), line) for line in plain]
    named = [line for line in [*found, *some] if line.name and not line.name.startswith("_")]
    if not named and len(some) <= FEW:
        label = axes.get_ylabel()
        named = [line._replace(name=f"{label} {n}" if some[1:] else label) for n, line in enumerate(some, 1)]
    return [line for line in named if line.points]


def _curve(name: str, line: Line2D, bars: ErrorbarContainer | None = None) -> Curve:
    x, y = (np.asarray(data, dtype=float).tolist() for data in line.get_data(orig=False))
    errors = [math.nan] * len(x)
    if bars is not None and bars.has_yerr:
        segments = bars.lines[2][-1].get_segments()
        if len(segments) == len(x):
            errors = [float(abs(s[-1][1] - s[0][1])) / 2 if len(s) > 1 else math.nan for s in segments]
    every = max(1, -(-len(x) // MOST))
    points = list(zip(x, y, errors, strict=True))
    last = [p for p in points if math.isfinite(p[1])][-1:]
    chosen = [p for p in points[::every] if math.isfinite(p[1])]
    return Curve(name, chosen if chosen[-1:] == last else chosen + last, every)


def _title(axes: Axes) -> str:
    return " ".join((axes.get_title(loc="left") or axes.get_title() or axes.get_ylabel()).split())


def _described(figure: Figure) -> str:
    """Panel by panel: what is over what, and from where to where its lines go."""
    said = []
    for axes in figure.axes:
        words = [_title(axes) or "a panel"]
        labels = (axes.get_ylabel(), axes.get_xlabel())
        words += [f": {' over '.join(label for label in labels if label)}"] if any(labels) else []
        lines = [f"{name} from {short(points[0][1])} to {short(points[-1][1])}"
                 for name, points, _ in _lines(axes) if points[1:]]  # fmt: skip
        if isinstance(axes.yaxis.get_major_locator(), FixedLocator):
            lines = [", ".join(text.get_text() for text in axes.get_yticklabels())]
        lines += [
            f"from {short(ends[0])} to {short(ends[1])}" for ends in (i.get_clim() for i in axes.images)
        ]
        words += [f"; {'; '.join(lines)}"] if lines else []
        said.append("".join(words))
    return " ".join(". ".join(said).split())


def _svg(title: str, figure: Figure) -> Markup:
    drawn = BytesIO()
    with styled(text=True):
        draw: Callable[[BytesIO], object] = FigureCanvasSVG(figure).print_svg  # savefig draws twice
        draw(drawn)
    text = drawn.getvalue().decode()
    root = ElementTree.fromstring(text)
    linked = {name: f"{ID}{n}" for n, name in enumerate(dict.fromkeys(re.findall(r"#(\w+)", text)))}
    width = float(root.attrib["viewBox"].split()[2]) * PIXELS
    svg = Element("svg", {"viewBox": root.attrib["viewBox"], "width": f"{width:.0f}", "role": "img"})
    for tag, words, role in (("title", title, "labelledby"), ("desc", _described(figure), "describedby")):
        svg.set(f"aria-{role}", f"{ID}{tag}")
        named = Element(tag, {"id": f"{ID}{tag}"})
        named.text = words
        svg.append(named)
    for child in root:
        svg.extend(_inlined(child, linked))
    return Markup(ElementTree.tostring(svg, encoding="unicode"))


def _inlined(old: Element, linked: Mapping[str, str]) -> list[Element]:
    """An element as the page has it; of one that says nothing its content."""
    tag = old.tag.rpartition("}")[2]
    if tag in ("metadata", "style"):
        return []
    new = Element(tag, dict(_attributes(old.attrib, linked)))
    new.text = old.text if old.text and old.text.strip() else None
    for child in old:
        new.extend(_inlined(child, linked))
    if tag == "g" and {child.tag for child in new} == {"use"}:  # markers of a line look alike
        for name in sorted({name for child in new for name in child.attrib if name.startswith(INHERITED)}):
            values = {child.get(name) for child in new}
            if None not in values and len(values) == 1:
                new.set(name, new[0].attrib[name])
                for child in new:
                    del child.attrib[name]
    if tag in ("g", "defs") and not (new.attrib and len(new)):
        return list(new) if tag == "g" or not len(new) else [new]
    return [new]


def _attributes(given: Mapping[str, str], linked: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    declared = dict(re.findall(r"([\w-]+):\s*([^;]+)", given.get("style", "")))
    if found := re.match(r"(italic |oblique )?(\d00 |bold )?.*?([\d.]+px)", declared.pop("font", "")):
        parts = zip(("font-style", "font-weight", "font-size"), found.groups(), strict=True)
        declared |= {name: part.strip() for name, part in parts if part}  # of matplotlib 3.8, in one
    if given.get("id") in linked:
        yield "id", linked[given["id"]]
    for name, said in [*given.items(), *declared.items()]:
        key = name.rpartition("}")[2]
        if key in LEFT_OUT or said.startswith("rotate(-0 "):
            continue
        if said in DRAWN:
            yield key, f"var(--{DRAWN[said]})"
        elif "#" in said and not re.fullmatch(r"#[\da-f]{6}", said):
            yield key, re.sub(r"#(\w+)", lambda link: f"#{linked[link[1]]}", said)
        else:
            yield key, said if key == "href" else _rounded(" ".join(said.split()), 1 if key in PLACES else 2)


def _rounded(text: str, digits: int) -> str:
    return re.sub(r"\d+\.\d+", lambda m: f"{float(m[0]):.{digits}f}".rstrip("0").rstrip("."), text)
