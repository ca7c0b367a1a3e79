"""`.ci/wheels.py`, without building anything."""

from __future__ import annotations

import importlib.util
import tarfile
from pathlib import Path
from typing import Any

import pytest

PATH = Path(__file__).parents[1] / ".ci" / "wheels.py"


def test_only_earlier_archives_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("wheels", PATH)
    assert spec is not None
    assert spec.loader is not None
    wheels = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(wheels)
    out = tmp_path / "out"
    out.mkdir()
    for name in ("thesis.tex", "other-1.0.tar.gz", "gaincell-0.0.tar.gz", "gaincell-0.0-py3-none-any.whl"):
        (out / name).write_text(name)

    def run(command: list[Any], more: Any = None, quiet: bool = False) -> None:
        if "--sdist" in command:
            with tarfile.open(out / "gaincell-1.0.tar.gz", "w:gz") as archive:
                archive.add(PATH, "gaincell-1.0/wheels.py")
        else:
            (out / f"gaincell-1.0-{more['GAINCELL_PURE']}.whl").touch()

    monkeypatch.setattr(wheels, "run", run)
    monkeypatch.setattr(wheels, "tracked", list)
    monkeypatch.setattr(wheels, "WORK", tmp_path / "work")
    made = [path.name for path in wheels.build(Path("python"), out)]
    assert made == ["gaincell-1.0.tar.gz", "gaincell-1.0-1.whl", "gaincell-1.0-0.whl"]
    assert {path.name for path in out.iterdir()} == {"thesis.tex", "other-1.0.tar.gz", *made}
