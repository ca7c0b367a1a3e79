"""`gaincell doctor` says what is there, what is not and what to do; the shell completes commands."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from gaincell.cli import main
from gaincell.ops.gain_cell_attention.native_library import levels
from gaincell.results import read
from gaincell.results.codec import to_json
from gaincell.results.description import InstallationResult


def doctor(folder: Path) -> tuple[int, dict[str, Any]]:
    """The exit code, and the findings by their part."""
    with pytest.raises(SystemExit) as left:
        main(["doctor", "--json", str(folder / "doctor.json")])
    written = json.loads((folder / "doctor.json").read_text())
    assert written["ok"] == (left.value.code == 0)
    assert to_json(read(folder / "doctor.json", InstallationResult)) == written
    assert all(set(each) == {"part", "found", "ok", "note"} for each in written["findings"])
    return int(left.value.code or 0), {each["part"]: each for each in written["findings"]}


def test_it_names_versions_and_the_kernel_in_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GAINCELL_INSTRUCTIONS", raising=False)
    code, found = doctor(tmp_path)
    assert code == 0
    assert found["torch"]["found"] == metadata.version("torch")
    assert found["compiled kernel"]["found"] == (levels()[-1] if levels() else "none")
    shown = " ".join(capsys.readouterr().out.split())
    assert all(part in shown for part in found)
    assert "…" not in shown


@pytest.mark.skipif(not levels(), reason="the compiled kernel was not built")
def test_it_says_why_a_level_is_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAINCELL_INSTRUCTIONS", "portable")
    _, found = doctor(tmp_path)
    assert found["compiled kernel"]["found"] == "portable"
    assert "GAINCELL_INSTRUCTIONS=portable" in found["compiled kernel"]["note"]
    monkeypatch.setenv("GAINCELL_INSTRUCTIONS", "sse2")
    code, found = doctor(tmp_path)
    assert code == 1
    assert "'sse2' is not available" in found["compiled kernel"]["note"]


@pytest.mark.parametrize(
    ("requirement", "code", "state", "note"),
    [
        ("not-there>=1", 1, "not installed", "pip install --upgrade gaincell"),
        ("torch>=99", 1, metadata.version("torch"), "torch>=99 is needed"),
        ("not-there>=1; extra == 'eval'", 0, "not installed", "pip install 'gaincell[eval]'"),
    ],
)
def test_a_package_that_is_missing_or_too_old(
    requirement: str,
    code: int,
    state: str,
    note: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(metadata, "requires", lambda _: [requirement])
    ended, found = doctor(tmp_path)
    (name,) = set(found) & {"not-there", "torch"}
    assert (ended, found[name]["found"]) == (code, state)
    assert note in found[name]["note"]
    assert note.split()[-1] in capsys.readouterr().out


def test_programs_that_are_missing_are_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    code, found = doctor(tmp_path)
    assert code == 0
    for part in ("ngspice", "yosys", "verilator", "C++ compiler"):
        assert found[part]["ok"] is None
        assert "apt install" in found[part]["note"]


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("gaincell doc", "doctor"),
        ("gaincell design sho", "show"),
        ("gaincell evaluate tiny --mism", "--mismatch"),
    ],
)
def test_the_shell_completes_commands_and_options(
    typed: str, completed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_GAINCELL_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split()) - 1))
    with pytest.raises(SystemExit) as left:
        main([])
    assert left.value.code == 0
    assert capsys.readouterr().out.split() == [completed]
