"""recipes/codesign.py: which points are made, and when the result is written."""

from __future__ import annotations

import importlib.util
from dataclasses import fields
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import typer

from gaincell.results import read
from gaincell.results.run import CodesignComparison, LearnedChip

ROOT = Path(__file__).parents[2]


@pytest.fixture
def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("codesign_recipe", ROOT / "recipes" / "codesign.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_result_is_written_once_and_whole(
    recipe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = read(ROOT / "docs/results/sweeps/codesign.json", CodesignComparison)
    learned = {f.name: getattr(shipped.points[0], f.name) for f in fields(LearnedChip)}
    finished, made = set[str](), list[str]()

    def point(folder: Path, *_: object, work: bool = True) -> SimpleNamespace | None:
        if work:
            finished.add(folder.name)
            made.append(folder.name)
        if folder.name not in finished:
            return None
        about = {"model": shipped.model, "text": shipped.text, "provenance": shipped.provenance}
        return SimpleNamespace(**{**learned, **about, "command": "codesign"})

    monkeypatch.setattr(recipe, "point", point)
    out = tmp_path / "codesign.json"
    recipe.main(out, tmp_path, "paper-levels")
    assert made == ["paper-levels"]
    recipe.main(out, tmp_path, "coarse")
    assert not out.exists()
    assert "6 of 14 points are missing; codesign.json is written with the last" in capsys.readouterr().out
    with pytest.raises(typer.BadParameter, match="'pap'; allowed: coarse, paper, coarse-fixed"):
        recipe.main(out, tmp_path, "pap")
    recipe.main(out, tmp_path)
    names = [(point.chip, point.name) for point in read(out, CodesignComparison).points]
    assert names == [(label, name) for label in recipe.CHIPS for name in recipe.VARIANTS]
