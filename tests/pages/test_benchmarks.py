"""Benchmarks write what docs/benchmarks.md is made of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import readme
from benchmarks import conversion
from benchmarks.report import write_report

from gaincell.results.codec import from_json
from gaincell.results.common import Provenance
from gaincell.results.provenance import made

ROOT = Path(__file__).parents[2]


def test_a_benchmark_is_written_and_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    @contextmanager
    def checkouts(commit: str) -> Iterator[dict[str, Path]]:
        yield {conversion.EARLIER: tmp_path, conversion.NOW: tmp_path}

    def in_process(sources: Path, bf16: bool, gradient: str | None, *also: Any) -> dict[str, float]:
        return {"distillation": 300.0 if gradient == "bf16" else 100.0, "transfer": 50.0}

    out = tmp_path / "conversion.json"
    monkeypatch.setattr(conversion, "checkouts", checkouts)
    monkeypatch.setattr(conversion, "in_process", in_process)
    monkeypatch.setattr("sys.argv", ["conversion", "--out", str(out)])
    conversion.main()
    shown = readme.conversion_section(json.loads(out.read_text()))
    assert "| now, bfloat16, gradient bf16 | 300 | 3.00 | 50 | 1.00 |" in shown


def test_a_provenance_is_written_alone(tmp_path: Path) -> None:
    found = made(command=["python", "-m", "benchmarks.x"], seed=3, protocol="medians of 2")
    write_report(tmp_path / "x.json", {"provenance": found})
    assert from_json(Provenance, json.loads((tmp_path / "x.json").read_text())["provenance"]) == found
