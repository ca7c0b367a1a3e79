"""The judge: how a bad command must end. Exit code 2, one short line on stderr, nothing left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.robustness.bad_input.cases import Case

LONGEST_LINE = 1200


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """All there is below a folder."""
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_size if not path.is_dir() else 0,
            path.lstat().st_mode,
        )
        for path in folder.rglob("*")
    }


def verdict(found: Case, code: Any, said: str, before: dict[str, Any], after: dict[str, Any]) -> str | None:
    """What is wrong with how a case ended, by its exit code, stderr and all files before and after."""
    lines = [line for line in said.splitlines() if line.startswith("gaincell: error:")]
    if "Traceback" in said:
        return f"traceback on stderr: {said[-300:]}"
    if code in (0, None):
        return "accepted in silence" if found.sure else None
    if code != 2:
        return f"exit code {code}: {said[-200:]}"
    if not lines or len(lines) > 2:
        return f"{len(lines)} lines say what is wrong: {said[-300:]}"
    if max(map(len, lines)) > LONGEST_LINE:
        return f"a line of {max(map(len, lines))} characters"
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    if changed:
        return f"left behind or changed: {sorted(changed)[:3]}"
    return None
