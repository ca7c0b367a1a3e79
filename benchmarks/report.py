"""The file of a benchmark: its numbers, and how they came about."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from gaincell.files import write_text
from gaincell.results.codec import to_json


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Write plain data and provenances as JSON."""
    write_text(path, json.dumps(report, indent=1, default=partial(to_json, where=None)) + "\n")
