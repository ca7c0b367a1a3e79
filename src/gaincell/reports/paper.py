"""What the paper reports of adaptation, training and its claims, cited."""

from __future__ import annotations

import tomllib
from importlib import resources
from typing import Any

FILE = "leroux2025-results.toml"


def cited() -> dict[str, Any]:
    """Tables of `FILE`: name -> entry with value, unit, source and note."""
    text = (resources.files("gaincell") / "reports" / "cited" / FILE).read_text(encoding="utf-8")
    return tomllib.loads(text)
