"""A result on its way into the page, and the sections that show results of its kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, get_args, get_type_hints

from markupsafe import Markup

from gaincell.errors import RunError
from gaincell.reports.html.markup import EMPTY, element, join
from gaincell.reports.html.tables import badges
from gaincell.results.codec import Json
from gaincell.results.common import Result as Found


@dataclass(frozen=True)
class Result:
    """name: on the page.  found: what its file holds.  log: lines of its log.jsonl, if it has one."""

    name: str
    found: Found
    log: Sequence[Json] = ()


@dataclass(frozen=True)
class Section:
    """id: its anchor.  wanted: whether it shows something of a result.  build: its content."""

    id: str
    title: str
    lead: str
    wanted: Callable[[Result], bool]
    build: Callable[[Sequence[Result]], Markup]


def section(
    title: str,
    lead: str,
    each: Callable[[Any], object] | None = None,
    *,
    together: Callable[[Mapping[str, Any]], Markup] | None = None,
    numbers: str = "",
    has: str = "",
    id: str = "",
) -> Section:
    """What the page says of results of the kinds that its functions take, by their annotations.

    Args:
        title: of the section.
        lead: what it shows, in words.
        each: content that every result has under its name.
        together: content of all results, by name, above that.
        numbers: the part of a result whose kinds stand beside its name; by default all of it.
        has: a part without which there is nothing to show of a result.
        id: its anchor; by default the title.
    """

    first, *_ = get_type_hints(each or together).values()
    kinds = first if each else get_args(first)[1]

    def wanted(result: Result) -> bool:
        return isinstance(result.found, kinds) and not (has and getattr(result.found, has) is None)

    def build(results: Sequence[Result]) -> Markup:
        above = together({one.name: one.found for one in results}) if together else EMPTY
        part: Callable[[Found], object] = attrgetter(numbers) if numbers else lambda found: found
        shown = ((heading(one, part(one.found)), each(one.found)) for one in results if each)
        return above + join(piece for pair in shown for piece in pair)

    return Section(id or title.lower(), title, lead, wanted, build)


def heading(result: Result, numbers: object) -> Markup:
    """The name of a result, what it is about, and the kinds of the numbers in a part of it."""
    about = subject(result.found)
    shown = element("span", about, class_="of") if about else ""
    return element("h3", element("span", result.name), shown, badges(numbers))


@contextmanager
def whole(given: Sequence[Result], part: str) -> Iterator[None]:
    """Inside, a part that lacks something is an error of the files it came from."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, StopIteration) as error:
        made = ", ".join(dict.fromkeys(f"`gaincell {result.found.command}`" for result in given))
        raise RunError(
            f"{', '.join(result.name for result in given)}: {part!r} of this result of {made} is not whole "
            f"({error!r}); make it again with this version of gaincell"
        ) from error


def subject(found: Any) -> str:
    """What a result is about: model, chip and cell, technology."""
    model, design = (getattr(found, part, None) for part in ("model", "design"))
    parts = [] if model is None else [model.name]
    if design is not None:
        parts.append(f"{'on ' if parts else ''}{design.name} ({design.cell} cell)")
    elif parts:
        parts.append("in software")
    technology = getattr(found, "technology", None)
    if isinstance(technology, str) and design is None:
        readout, inputs = (
            f", {getattr(found, part)} {part}" if hasattr(found, part) else ""
            for part in ("readout", "inputs")
        )
        parts.append(f"{technology}{readout}{inputs}")
    return " ".join(parts)
