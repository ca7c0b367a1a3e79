"""Groups of options: a frozen dataclass, an option a field, which several commands take as one parameter."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, cast, get_type_hints


def with_groups(run: Callable[..., None]) -> Callable[..., None]:
    """A command some of whose parameters are groups of options: dataclasses of options and groups."""
    hints = get_type_hints(run, include_extras=True)
    signature = inspect.signature(run).parameters.values()
    parameters = [p for each in signature for p in _options_of(each.replace(annotation=hints[each.name]))]

    @functools.wraps(run)
    def command(**given: Any) -> None:
        run(**{p.name: _gather(p.name, hints[p.name], given) for p in signature})

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _options_of(parameter: inspect.Parameter) -> Iterator[inspect.Parameter]:
    """The options that a parameter stands for."""
    kind = parameter.annotation
    if not is_dataclass(kind):
        yield parameter
        return
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        yield from _options_of(
            parameter.replace(name=field.name, default=field.default, annotation=hints[field.name])
        )


def _gather(name: str, kind: Any, given: Mapping[str, Any]) -> Any:
    """The value of a parameter, of a group the group."""
    if not is_dataclass(kind):
        return given[name]
    hints = get_type_hints(kind)
    make = cast(Callable[..., Any], kind)
    return make(**{field.name: _gather(field.name, hints[field.name], given) for field in fields(kind)})
