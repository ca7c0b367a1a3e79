"""What a sweep is made from decides whether it goes on: content counts, not names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.sweep_files import HEAD

from gaincell.errors import InputError
from gaincell.sweeps.file import load_sweep
from gaincell.sweeps.study import open_storage

pytest.importorskip("optuna")


def test_texts_of_one_name_are_told_apart(write: Callable[..., Path], tmp_path: Path) -> None:
    file = write("tile = [8, 16]")
    studies = []
    for place, word in (("x", "one"), ("y", "two"), ("z", "one")):
        folder = tmp_path / place / "corpus"
        folder.mkdir(parents=True)
        (folder / "a.txt").write_text("\n".join(f"{word} line {n}" for n in range(100)))
        lines = [x for x in file.read_text().splitlines() if not x.startswith("text")]
        file.write_text("\n".join([f'text = "{folder}"', *lines]))
        studies.append(load_sweep(file).study)
    assert studies[0] != studies[1]
    assert studies[0] == studies[2]


def test_a_changed_run_or_curve_is_another_sweep(
    write: Callable[..., Path], micro: tuple[Path, Path], tmp_path: Path
) -> None:
    curve = tmp_path / "curve.csv"
    curve.write_text("one")
    sweep = load_sweep(write('cell.kind = ["linear", "polynomial"]'))
    assert sweep.identity["content"]["devices"] == []
    (kinds,) = sweep.parameters
    studies = []
    for content in ("one", "two", "one"):
        curve.write_text(content)
        changed = replace(sweep, parameters=(replace(kinds, values=("linear", str(curve))),))
        studies.append(changed.study)
    assert studies[0] != studies[1]
    assert studies[0] == studies[2]
    weights = micro[0] / "hardware.safetensors"
    content = weights.read_bytes()
    try:
        weights.write_bytes(content + b"\0")
        assert replace(sweep).study != sweep.study
    finally:
        weights.write_bytes(content)


def test_a_shipped_device_is_found_from_anywhere(write: Callable[..., Path]) -> None:
    """Tests of sweeps run in a folder of their own, without docs/data."""
    sweep = load_sweep(write('cell.kind = ["polynomial", "docs/data/compressive.toml"]', HEAD))
    assert len(sweep.identity["content"]["devices"]) == 1


@pytest.mark.parametrize("content", ["my text without a newline", '{"a": 1}\n{"b"', "SQLite format 3\0"])
def test_a_file_that_is_no_journal_is_left_as_it_is(content: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.db"
    file.write_text(content)
    with pytest.raises(InputError, match="no journal"):
        open_storage(str(file))
    assert file.read_text() == content
    assert list(tmp_path.iterdir()) == [file]


def test_a_database_in_memory_cannot_be_shared() -> None:
    for place in ("sqlite://", "sqlite:///:memory:"):
        with pytest.raises(InputError, match="in memory"):
            open_storage(place)


def test_points_to_begin_with(write: Callable[..., Path]) -> None:
    head = (
        HEAD
        + 'sampler = "nsga2"\npoints = 5\nstart = [{ tile = 8 }, { tile = 32, storage_levels = "none" }]\n'
    )
    sweep = load_sweep(write('tile = [8, 16, 32]\nstorage_levels = [4, 8, "none"]', head))
    assert sweep.plan() == [
        {"tile": 16, "storage_levels": 8},
        {"tile": 8, "storage_levels": 8},
        {"tile": 32, "storage_levels": None},
        {},
        {},
    ]
    for bad, said in (('[{ tile = 64 }]', "none of the points"), ('[{ window = 64 }]', "values of tile"),
                      ("3", "a list of tables")):  # fmt: skip
        with pytest.raises(InputError, match=said):
            load_sweep(write("tile = [8, 16]", HEAD + f'sampler = "tpe"\npoints = 5\nstart = {bad}\n'))
