"""The designs of the literature: every number they state is cited, and in the range that is reported."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from cells_page import read_literature

from gaincell.chips.design_file import SHIPPED, load_design
from gaincell.chips.device import with_cell
from gaincell.errors import DesignError, InputError

DOCS = Path(__file__).parents[2] / "docs"
DESIGNS = ("igzo", "ito", "oxide-2t", "oxide-2t-saturated", "oxide-2t-unipolar")
YEAR = re.compile(r"\b(19|20)\d\d\b")


def stated(name: str) -> dict[str, Any]:
    """The numbers that a design file does not inherit, by key."""
    raw = tomllib.loads((SHIPPED / f"{name}.toml").read_text())
    return {
        key: entry
        for table in (raw, raw.get("cell", {}))
        for key, entry in table.items()
        if isinstance(entry, dict) and "value" in entry
    }


@pytest.mark.parametrize("name", DESIGNS)
def test_every_number_of_its_own_is_cited_with_its_year(name: str) -> None:
    numbers = stated(name)
    assert numbers
    for entry in numbers.values():
        assert entry["source"] in ("L", "D")
        assert YEAR.search(entry["note"])
        assert ("cited" if entry["source"] == "L" else "derived") in entry["note"]


@pytest.mark.parametrize("name", DESIGNS)
def test_the_retention_lies_in_the_reported_range_and_is_one_of_the_reported_values(name: str) -> None:
    design = load_design(name)
    quantity = design.provenance["retention_time"]
    low, high = quantity.range
    assert low <= design.retention_time <= high
    (cell,) = (c for c in read_literature(DOCS / "data/cells.toml")["cells"] if c["design"] == name)
    reported = [entry["value"] for entry in cell["retention"]]
    assert design.retention_time in reported
    assert low <= min(reported)
    assert max(reported) <= high
    with pytest.raises(DesignError, match="out of range"):
        design.replace(retention_time=10 * high)


@pytest.mark.parametrize("name", ["igzo", "ito"])
def test_oxide_write_transistors_change_the_retention_only(name: str) -> None:
    design, paper = load_design(name), load_design("leroux2025")
    same = {"name": paper.name, "description": paper.description}
    assert dataclass_differences(design.replace(**same), paper) == {"retention_time"}


def dataclass_differences(one: Any, other: Any) -> set[str]:
    return {key for key in vars(one) if key != "provenance" and getattr(one, key) != getattr(other, key)}


DRAIN = {"oxide-2t": 0.35, "oxide-2t-unipolar": 0.35, "oxide-2t-saturated": 0.9}


@pytest.mark.parametrize(("name", "drain"), DRAIN.items())
def test_the_all_oxide_curve_is_the_transistor_law(name: str, drain: float) -> None:
    """Square law up to the drain voltage, linear above; scaled to the linear cell's slope; less F(0)."""
    design = load_design(name)

    def law(u: torch.Tensor) -> torch.Tensor:
        overdrive = u + design.v_offset
        return torch.where(overdrive > drain, overdrive * drain - drain**2 / 2, overdrive**2 / 2)

    def slope(curve: torch.Tensor) -> float:
        return float((u * curve).sum() / (u * u).sum())

    u = torch.linspace(-0.45, 0.45, 3601, dtype=torch.float64)
    expected = law(u) * (design.cell.linear_slope / slope(law(u)))
    if name != "oxide-2t-unipolar":
        expected = expected - expected[1800]
    current = design.cell.current(u)
    torch.testing.assert_close(current, expected, rtol=0, atol=0.02)  # between the points of the table
    assert design.cell.linear_slope == 19.3
    assert slope(current) == pytest.approx(19.3, rel=2e-3)
    assert float(current.diff().min()) >= 0


def test_a_pair_of_saturated_cells_is_linear() -> None:
    cell = load_design("oxide-2t-saturated").cell
    u = torch.linspace(-0.45, 0.45, 91, dtype=torch.float64)
    torch.testing.assert_close(cell.current(u) - cell.current(-u), 2 * 19.3 * u, rtol=0, atol=1e-9)


def test_the_compressive_table_is_that_of_its_derivation() -> None:
    paper = load_design("leroux2025")
    table = with_cell(paper, DOCS / "data/compressive.toml").cell
    assert table.name == "tabulated"
    u = torch.tensor(table.volts, dtype=torch.float64)
    cubic = paper.cell.current(u)
    torch.testing.assert_close(table.current(u), cubic / (1 + cubic.abs() / cubic[-1]), rtol=0, atol=6e-5)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('unit = "um^2"', 'unit = "mm^2"', "unit must be one of"),
        ('reference = "lee2025"', 'reference = "lee2026"', "not in [references]"),
        ("multilevel operation (2025)", "multilevel operation", "reference lee2025 states no year"),
    ],
)
def test_a_number_without_unit_or_source_is_refused(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "cells.toml"
    path.write_text((DOCS / "data/cells.toml").read_text().replace(old, new))
    with pytest.raises(InputError) as error:
        read_literature(path)
    assert message in str(error.value)
