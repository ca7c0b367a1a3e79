"""Fixtures that several files share."""

from __future__ import annotations

from pathlib import Path

import pytest

from .families import build
from .hardware_models import FAMILIES, hardware


@pytest.fixture(scope="session")
def softmax(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Directories of models as they are on the hub."""
    made = {family: tmp_path_factory.mktemp(family) for family in FAMILIES}
    for family, directory in made.items():
        build(family).save_pretrained(directory)
    return made


@pytest.fixture
def saved(softmax: dict[str, Path], tmp_path: Path) -> Path:
    hardware(softmax["llama"]).save_pretrained(tmp_path)
    return tmp_path
