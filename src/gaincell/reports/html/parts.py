"""A result on its way into the page, and sections: figures, tables and words that results of a kind have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import UnionType
from typing import TYPE_CHECKING, TypeAlias, TypeGuard, TypeVar

from markupsafe import Markup
from matplotlib.figure import Figure

from gaincell.errors import RunError
from gaincell.reports.html import markup
from gaincell.reports.html.markup import EMPTY, badges, element, join, table
from gaincell.reports.html.picture import picture
from gaincell.reports.tables import SIMULATED, Rows, other_weights
from gaincell.results.common import Result as Found

if TYPE_CHECKING:
    from gaincell.reports.training import Step

R = TypeVar("R")
F = TypeVar("F", bound=Found)
Block: TypeAlias = Callable[[R], Markup]
"""A piece of a section: of one result, or of several by name."""
Tables: TypeAlias = Callable[[R], Rows | Iterable[Rows]]
Words: TypeAlias = str | Callable[[R], str]
"""Of all results alike, or how they follow from one."""


@dataclass(frozen=True)
class Result:
    """A result on the page, by its name there, with the lines of its log.jsonl if it has one."""

    name: str
    found: Found
    log: Sequence[Step] = ()


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        id: Its anchor.
        wanted: Whether it shows something of a result.
        build: Its content.
        headline: The number of a result that one looks for first, in words, and its kind.
    """

    id: str
    title: str
    lead: str
    wanted: Callable[[Result], bool]
    build: Callable[[Sequence[Result]], Markup]
    headline: Callable[[Found], tuple[str, str]] | None = None


def section(
    title: str,
    lead: str,
    kinds: type[F] | UnionType,
    *each: Block[F],
    together: Block[Mapping[str, F]] | None = None,
    headline: Callable[[F], str] | None = None,
    kind: Words[F] = SIMULATED,
    numbers: Callable[[F], object] = lambda found: found,
    has: Callable[[F], object] = lambda found: found,
    id: str = "",
) -> Section:
    """What the page says of results of some kinds.

    Args:
        title: Its heading.
        lead: A sentence below it.
        kinds: Types of results that it shows.
        *each: Content that every result has under its name.
        together: Of all results, by name, above that.
        headline: The number of a result that one looks for first, in words.
        kind: Of that number.
        numbers: The part of a result whose kinds stand beside its name; by default all of it.
        has: A part without which there is nothing to show of a result.
        id: Its anchor; by default the title.
    """

    def is_ours(found: Found) -> TypeGuard[F]:
        return isinstance(found, kinds) and has(found) is not None

    def build(results: Sequence[Result]) -> Markup:
        ours = [(one, one.found) for one in results if is_ours(one.found)]
        above = together({one.name: found for one, found in ours}) if together else EMPTY
        below = [heading(one, numbers(found)) + column(*each)(found) for one, found in ours if each]
        return above + join(below)

    def first(found: Found) -> tuple[str, str]:
        assert headline is not None
        assert is_ours(found)
        return headline(found), _known(kind, found)

    shown = first if headline else None
    return Section(id or title.lower(), title, lead, lambda result: is_ours(result.found), build, shown)


def figure(
    title: Words[R],
    draw: Callable[[R], Figure | None],
    kind: Words[R] = SIMULATED,
    *,
    numbers: Tables[R] | None = None,
    note: Words[R] = "",
) -> Block[R]:
    """A figure where there is something to draw; what it takes is that of `picture`, or how it follows."""

    def shown(found: R) -> Markup:
        if (drawn := draw(found)) is None:
            return EMPTY
        rows = None if numbers is None else _listed(numbers(found))
        return picture(
            _known(title, found), drawn, kind=_known(kind, found), note=_known(note, found), numbers=rows
        )

    return shown


def _known(words: Words[R], found: R) -> str:
    return words if isinstance(words, str) else words(found)


def no_numbers(_: object) -> Iterable[Rows]:
    """Of a figure beside which a table stands."""
    return ()


def tables(*made: Tables[R], title: str = "") -> Block[R]:
    """Tables below each other, under a title of their own on the page where one is given."""
    return lambda found: join(
        table(replace(rows, title=title or rows.title)) for one in made for rows in _listed(one(found))
    )


def _listed(found: Rows | Iterable[Rows]) -> Sequence[Rows]:
    return [found] if isinstance(found, Rows) else [*found]


def column(*blocks: Block[R]) -> Block[R]:
    """One below the other."""
    return lambda found: join(block(found) for block in blocks)


def words(line: Callable[[R], str], class_: str = "note") -> Block[R]:
    return lambda found: markup.paragraph(line(found), class_)


def listed(lines: Callable[[R], Iterable[object]]) -> Block[R]:
    """A list, or nothing."""

    def shown(found: R) -> Markup:
        items = [element("li", line) for line in lines(found)]
        return element("ul", *items, class_="plain") if items else EMPTY

    return shown


def folded(title: str, *blocks: Block[R]) -> Block[R]:
    """What only some readers want, below its title."""
    return lambda found: markup.folded(title, column(*blocks)(found))


def grid(*blocks: Block[R]) -> Block[R]:
    """Figures beside one another, as many as there is room for."""
    return lambda found: markup.grid(column(*blocks)(found))


def pair(*blocks: Block[R]) -> Block[R]:
    """A table and a figure, beside one another where both have room."""
    return lambda found: element("div", column(*blocks)(found), class_="pair")


def heading(result: Result, numbers: object) -> Markup:
    """The name of a result, what it is about, and the kinds of the numbers in a part of it."""
    about = subject(result.found)
    shown = element("span", about, class_="of") if about else ""
    return element("h3", element("span", result.name), shown, badges(numbers))


@contextmanager
def whole(given: Sequence[Result], part: str) -> Iterator[None]:
    """Inside, an empty list, a missing name or a division by zero is an error of the files: their types are
    checked when they are read, but not which numbers belong together.
    """
    try:
        yield
    except (LookupError, ValueError, ArithmeticError, StopIteration) as error:
        made = ", ".join(dict.fromkeys(f"`gaincell {result.found.command}`" for result in given))
        raise RunError(
            f"{', '.join(result.name for result in given)}: {part!r} of this result of {made} is not whole "
            f"({error!r}); make it again with this version of gaincell"
        ) from error


def subject(found: Found) -> str:
    """What a result is about: model and its stage, chip and cell, text, type of weights; or technology."""
    model, stage, design, text = (getattr(found, part, None) for part in ("model", "stage", "design", "text"))
    named = isinstance(stage, str)  # results of several stages have a method of that name
    parts = [] if model is None else [f"{model.name}, {stage}" if named else model.name]
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
    of_text = f", text {text.name}" if text and not isinstance(text, str) else ""
    return " ".join(parts) + of_text + other_weights(getattr(found, "dtype", None))
