"""A result on its way into the page, and what every section does with several of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from markupsafe import Markup

from gaincell.errors import RunError
from gaincell.reports.html.markup import element, join
from gaincell.reports.html.tables import badges
from gaincell.reports.results import Json
from gaincell.results.common import Result as Found

Entry = Mapping[str, Any]
T = TypeVar("T", bound=Found)


@dataclass(frozen=True)
class Result:
    """name: as the page calls it.  run: what its file holds.  log: lines of its log.jsonl, if it has one.
    found: the result, of a kind that has a dataclass.
    """

    name: str
    run: Json
    log: Sequence[Json] = ()
    found: Found | None = None


def each(given: Sequence[Result], part: str, content: Callable[[Result], object]) -> Markup:
    """One result after the other, each under its name, with the kinds of the numbers in that part of it."""
    pieces: list[object] = []
    for result in given:
        with whole(result, part):
            pieces += [_heading(result, result.run.get(part, result.log)), content(result)]
    return join(pieces)


def typed(given: Sequence[Result], kind: type[T]) -> Iterator[tuple[str, T]]:
    """Names and results of one kind, or of a class of kinds."""
    return ((one.name, one.found) for one in given if isinstance(one.found, kind))


def each_of(
    given: Sequence[Result],
    kind: type[T],
    content: Callable[[T], object],
    numbers: Callable[[T], object] = lambda found: found,
) -> Markup:
    """As `each`, of the results of one kind. numbers: the part whose kinds stand beside the name."""
    pieces: list[object] = []
    for result in given:
        if isinstance(result.found, kind):
            pieces += [_heading(result, numbers(result.found)), content(result.found)]
    return join(pieces)


def _heading(result: Result, numbers: Any) -> Markup:
    about = subject(result.run)
    shown = element("span", about, class_="of") if about else ""
    return element("h3", element("span", result.name), shown, badges(numbers))


@contextmanager
def whole(given: Result | Sequence[Result], part: str) -> Iterator[None]:
    """Inside, a part that lacks something is an error of the file, or files, it came from."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, StopIteration) as error:
        named = [given] if isinstance(given, Result) else given
        made = ", ".join(dict.fromkeys(f"`gaincell {result.run.get('command', '?')}`" for result in named))
        raise RunError(
            f"{', '.join(result.name for result in named)}: {part!r} of this result of {made} is not whole "
            f"({error!r}); make it again with this version of gaincell"
        ) from error


def subject(run: Entry) -> str:
    """What a result is about: model, chip and cell, technology."""
    model, design = run.get("model") or {}, run.get("design") or {}
    parts = [str(model["name"])] if "name" in model else []
    if "name" in design:
        cell = f" ({design['cell']} cell)" if "cell" in design else ""
        parts.append(f"{'on ' if parts else ''}{design['name']}{cell}")
    elif parts:
        parts.append("in software")
    technology = run.get("technology")
    if isinstance(technology, str) and not design:
        inputs = f", {run['inputs']} inputs" if isinstance(run.get("inputs"), str) else ""
        readout = f", {run['readout']} readout" if isinstance(run.get("readout"), str) else ""
        parts.append(f"{technology}{readout}{inputs}")
    return " ".join(parts)


def protocol(run: Entry) -> str:
    """How its numbers were obtained."""
    return str(run["provenance"]["protocol"])
