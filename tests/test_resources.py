"""What is shipped beside the package is found by its name, and its papers are in order."""

from __future__ import annotations

import importlib
import re
import tomllib
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from huggingface_hub import ModelCard

import gaincell
from gaincell import resources
from gaincell.errors import ModelError
from gaincell.integrations.hf.run import Run
from gaincell.integrations.hf.sources import find_source
from gaincell.mapping.recipe_file import load_recipe
from gaincell.results import read
from gaincell.results.run import TrainedResult

ROOT = Path(__file__).parents[1]
CARDS = sorted([ROOT / "src" / "gaincell" / "assets" / "tiny", *(ROOT / "adapters").glob("*")])


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script of docs, which imports others beside it."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module("cards")


@pytest.mark.parametrize("name", ["adapters/smollm2-135m", "adapters/smollm2-135m-extended"])
def test_adapters_are_found_from_anywhere(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert name in resources.available()
    assert Run(name).saved
    assert Run(name).hardware.base == "smollm2-135m"
    assert read(name, TrainedResult).command == "train"
    assert load_recipe(Path("recipes/tiny.toml")).name == "tiny.toml"


def test_what_is_in_the_working_directory_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "adapters" / "smollm2-135m"
    own.mkdir(parents=True)
    assert resources.resolve("adapters/smollm2-135m").resolve() == own
    assert not Run("adapters/smollm2-135m").saved


@pytest.mark.parametrize(
    "path", ["adapters", "adapters/../pyproject.toml", "docs/readme.py", "/adapters", "", "adapter"]
)
def test_other_paths_stay_what_they_are(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if path != "adapters":
        assert resources.resolve(path) == Path(path)
    assert not Run(path).saved


def test_an_unknown_adapter_is_refused_with_those_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"no adapter 'adapters/smollm3'.*shipped: adapters/smollm2-135m, "):
        find_source("adapters/smollm3")


def test_the_version_has_one_home() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["version"] == metadata.version("gaincell") == gaincell.__version__
    cited = re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited == [gaincell.__version__]


def test_licence_files_are_there_and_name_what_is_shipped() -> None:
    project: Any = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert all((ROOT / name).is_file() for name in project["license-files"])
    told = (ROOT / "THIRD_PARTY.md").read_text()
    for file in (ROOT / "src" / "gaincell" / "assets" / "sample").iterdir():
        assert file.name in told
    for file in (ROOT / "src" / "gaincell" / "spice" / "models").glob("*.spi"):
        assert file.name in told or "freepdk45_" in file.name


@pytest.mark.parametrize("folder", CARDS, ids=lambda path: path.name)
def test_model_cards_are_written_from_the_results_beside_them(folder: Path, cards: ModuleType) -> None:
    written = (folder / "README.md").read_text()
    assert written == (cards.tiny_card() if folder.name == "tiny" else cards.adapter_card(folder)), (
        "python docs/cards.py"
    )
    card = ModelCard(written)
    assert card.data.license == "apache-2.0"
    assert card.data.base_model == (None if folder.name == "tiny" else "HuggingFaceTB/SmolLM2-135M-Instruct")
    assert len(card.data.eval_results) == len(cards.NAMES) + 1  # LAMBADA has two
    for heading in ("Results", "Training", "Intended use", "Limits", "Licence"):
        assert f"\n## {heading}\n" in written
