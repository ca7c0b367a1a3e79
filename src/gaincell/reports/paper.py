"""What the paper reports of adaptation, training and its claims, cited."""

from __future__ import annotations

import tomllib
from importlib import resources
from typing import Any

RESULTS, TABLE = "leroux2025-results.toml", "leroux2025-table1.toml"


def cited(file: str = RESULTS) -> dict[str, Any]:
    """Tables of a file; of `RESULTS` name -> entry with value, unit, source and note."""
    text = (resources.files("gaincell") / "reports" / "cited" / file).read_text(encoding="utf-8")
    return tomllib.loads(text)
