"""What the paper reports of adaptation, training and its claims, and its Table 1, cited."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import TypeVar

from gaincell.results.codec import from_json
from gaincell.results.common import Part


class Stated(Part):
    """A number.

    Attributes:
        source: One of quantity.SOURCES.
    """

    value: float | int
    unit: str
    source: str
    note: str


class StatedAdaptation(Part):
    """Fig. 4c."""

    before: Stated
    after: Stated
    start: Stated
    tolerance_training: Stated


class StatedTraining(Part):
    """Fig. 4d."""

    public: Stated
    public_early: Stated
    equal: Stated
    batch: Stated
    block: Stated
    iterations: Stated


class Claims(Part):
    """Of the abstracts."""

    energy_article: Stated
    energy_preprint: Stated
    latency: Stated
    cache: Stated


class Reported(Part):
    """What the paper reports beyond its Table 1."""

    source: str
    adaptation: StatedAdaptation
    training: StatedTraining
    claims: Claims


class Table1(Part):
    """Its Table 1.

    Attributes:
        columns: Task and metric.
        rows: Scores by model.
    """

    source: str
    columns: tuple[tuple[str, str], ...]
    rows: Mapping[str, tuple[float, ...]]


T = TypeVar("T")


def cited() -> Reported:
    """What the paper reports beyond its Table 1."""
    return _read(Reported, "leroux2025-results.toml")


def cited_table() -> Table1:
    """Its Table 1."""
    return _read(Table1, "leroux2025-table1.toml")


def _read(kind: type[T], file: str) -> T:
    text = (resources.files("gaincell") / "reports" / "cited" / file).read_text(encoding="utf-8")
    return from_json(kind, tomllib.loads(text), file)
