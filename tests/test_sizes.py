"""Files that can be read top to bottom."""

import ast
from pathlib import Path

import gaincell

PACKAGE = Path(gaincell.__file__).parent


def test_files_and_functions_stay_short() -> None:
    """A file has at most 400 lines, a function 80."""
    texts = {path.relative_to(PACKAGE).as_posix(): path.read_text() for path in PACKAGE.rglob("*.py")}
    long = {name: lines for name, text in texts.items() if (lines := text.count("\n")) > 400}
    for name, text in texts.items():
        functions = (n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef))
        lengths = {f"{name}:{n.lineno}": n.body[-1].end_lineno - n.lineno + 1 for n in functions}
        long |= {where: lines for where, lines in lengths.items() if lines > 80}
    assert len(texts) > 300
    assert not long
