"""Options that several commands share are given to them as one object."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from gaincell.cli._options import RefreshOptions, with_groups
from gaincell.errors import InputError


@dataclass(frozen=True)
class Size:
    """Of something."""

    rows: Annotated[int, typer.Option("--rows", min=1, help="Rows.")] = 4
    columns: Annotated[int | None, typer.Option("--columns", help="Columns.")] = None


app = typer.Typer()


@app.command()
@with_groups
def show(name: str, *, size: Size, loud: bool = False) -> None:
    """Show a size."""
    print(name, size, loud)


def test_a_group_arrives_whole() -> None:
    found = CliRunner().invoke(app, ["it", "--columns", "3", "--loud"])
    assert found.exit_code == 0, found.output
    assert found.output == f"it {Size(4, 3)} True\n"
    assert CliRunner().invoke(app, ["it"]).output == f"it {Size()} False\n"


@dataclass(frozen=True)
class Box:
    """A group with another in it."""

    lid: Annotated[bool, typer.Option("--lid", help="Closed.")] = False
    size: Size = field(default_factory=Size)
    weight: Annotated[float, typer.Option("--weight", help="Of it.")] = 1.0


def test_a_group_in_a_group_arrives_whole(capsys: pytest.CaptureFixture[str]) -> None:
    boxes = typer.Typer()

    @boxes.command()
    @with_groups
    def pack(*, box: Box) -> None:
        print(box)

    for given, expected in ((["--rows", "2", "--lid"], Box(True, Size(2))), ([], Box())):
        assert CliRunner().invoke(boxes, given).output == f"{expected}\n"
    shown = CliRunner().invoke(boxes, ["--help"], env={"COLUMNS": "100"}).output
    places = [shown.index(option) for option in ("--lid", "--rows", "--columns", "--weight")]
    assert places == sorted(places)


def test_its_options_are_checked_and_listed_where_the_group_stands() -> None:
    assert CliRunner().invoke(app, ["it", "--rows", "0"]).exit_code == 2
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "100"}).output
    places = [shown.index(option) for option in ("--rows", "--columns", "--loud")]
    assert places == sorted(places)


def test_a_refresh_without_a_time_is_refused() -> None:
    assert RefreshOptions().policy.kind == "none"
    with pytest.raises(InputError):
        _ = RefreshOptions("copy").policy
