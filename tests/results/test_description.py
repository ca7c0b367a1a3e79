"""How a number of a file came about: one answer for designs, devices and processes."""

from __future__ import annotations

import pytest

from gaincell.quantity import Quantity
from gaincell.results.description import kind_of_number


@pytest.mark.parametrize(
    ("source", "note", "kind"),
    [
        ("L", "simulated there", "cited"),
        ("F", "", "measured"),
        ("F", "a.csv; simulated", "simulated"),
        ("D", "simulated: 0.66 to 0.79 ns", "simulated"),
        ("D", "half of what is simulated", "assumed"),
        ("U", "simulated", "assumed"),
    ],
)
def test_kind_follows_from_source_and_note(source: str, note: str, kind: str) -> None:
    assert kind_of_number(Quantity(1.0, "1", source, (0.0, 2.0), note)) == kind
