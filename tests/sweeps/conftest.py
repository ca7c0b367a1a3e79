"""A sweep file of the micro model, and a working directory of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.micro import micro_design, write_micro
from tests.sweep_files import HEAD

from gaincell.integrations.hf.attach import attach
from gaincell.integrations.hf.base_model import load_base
from gaincell.integrations.hf.checkpoint import save


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands without --out write below the working directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def micro(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A RUN and a text."""
    folder = tmp_path_factory.mktemp("micro")
    model, text = write_micro(folder)
    base = load_base(model)
    save(attach(base.model, micro_design()), folder / "run", base=load_base(model))
    return folder / "run", text


@pytest.fixture
def write(micro: tuple[Path, Path], tmp_path: Path) -> Callable[..., Path]:
    """Writes SWEEP.toml: its parameters, and lines to go before them."""

    def written(parameters: str, head: str = HEAD, name: str = "micro") -> Path:
        path = tmp_path / f"{name}.toml"
        common = f'model = "{micro[0]}"\n'
        if any(name in head for name in ("perplexity", "energy", "yield")):  # the others need no text
            common += f'text = "{micro[1]}"\n'
        path.write_text(f"{common}{head}\n[parameters]\n{parameters}\n")
        return path

    return written
