"""Types of files and settings: what they refuse, in one line, and what they allow, in words."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any

import pytest
from pydantic import Field

from gaincell.errors import InputError
from gaincell.schema import (
    Count,
    OneOf,
    Rate,
    allowed,
    called,
    check_value,
    checked,
    either,
    or_inf,
    parse,
    table,
)


@checked
@dataclass(frozen=True)
class Setting:
    batch: Count = 8
    rate: Rate | None = None
    range: Annotated[tuple[Rate, Rate], Field(strict=False)] = (0.5, 1.0)
    word: Annotated[str, OneOf(("train", "adapt"))] = "train"
    limit: Annotated[float, or_inf(above=1)] = 3.0


STAGE = table(Setting, name=str, needed=("name",))
SHARES = dict[str, Annotated[Rate, called("the share of")]]
FILE = table(model=either(str, STAGE), stage=list[STAGE], files=either(list[str], SHARES))  # type: ignore[valid-type]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"modl": 3, "stage": 3},
            "unknown key 'modl' (did you mean 'model'?); allowed: model, stage or files",
        ),
        ({"stage": 3}, "a.toml: stage = 3; allowed: a list of tables"),
        ({"stage": [{"name": "x"}, 3]}, "a.toml, stage 2 = 3; allowed: a table"),
        ({"stage": [{}]}, "a.toml, stage 1 lacks 'name'; allowed: text"),
        (
            {"stage": [{"name": "x", "batch": 0}]},
            "a.toml, stage 1: batch = 0; allowed: a whole number of 1 or",
        ),
        ({"stage": [{"name": "x", "batch": True}]}, "stage 1: batch = True; allowed: a whole number"),
        ({"stage": [{"name": "x", "range": [1]}]}, "range = [1]; allowed: a list of 2 numbers above 0 up to"),
        ({"stage": [{"name": "x", "word": "adopt"}]}, "allowed: train or adapt (did you mean 'adapt'?)"),
        ({"stage": [{"name": "x", "limit": float("nan")}]}, "limit = nan; allowed: a number above 1, or inf"),
        ({"model": {"nme": 3}}, "a.toml [model]: unknown key 'nme' (did you mean 'name'?)"),
        ({"model": 3}, "a.toml: model = 3; allowed: text or a table"),
        ({"files": {"a": 0}}, "a.toml: files: the share of a = 0; allowed: a number above 0"),
        ({"files": [3]}, "a.toml: files: entry 1 = 3; allowed: text"),
        (3, "a.toml = 3; allowed: a table"),
    ],
)
def test_what_a_file_may_not_hold(given: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(FILE, given, "a.toml")
    assert message in str(caught.value)


def test_a_table_holds_what_was_given() -> None:
    given = {"stage": [{"name": "x", "rate": 1, "range": [1, 2]}], "model": "tiny"}
    expected = {"model": "tiny", "stage": [{"rate": 1.0, "range": (1.0, 2.0), "name": "x"}]}
    assert parse(FILE, given, "a.toml") == expected


def test_a_setting_is_checked_when_it_is_made() -> None:
    assert Setting(4, rate=1) == Setting(4, 1.0)
    for make, message in (
        (lambda: Setting(0), "batch = 0; allowed: a whole number of 1 or more"),
        (lambda: Setting(bach=3), "Setting: unknown key 'bach' .did you mean 'batch'"),  # type: ignore[call-arg]
        (lambda: replace(Setting(), rate=0), "rate = 0; allowed: a number above 0"),
        (lambda: check_value("x", Rate, "rate"), "rate = 'x'; allowed: a number above 0"),
    ):
        with pytest.raises(InputError, match=message):
            make()
    with pytest.raises(TypeError, match="too many positional arguments"):
        Setting(4, None, (0.5, 1.0), "train", 3.0, 6)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="multiple values for argument 'batch'"):
        Setting(4, batch=5)  # type: ignore[misc]


def test_what_is_allowed_in_words() -> None:
    assert allowed(FILE) == {
        "model": "text or a table",
        "stage": "a list of tables",
        "files": "a list of texts or a table",
    }
    assert allowed(STAGE)["limit"] == "a number above 1, or inf"
