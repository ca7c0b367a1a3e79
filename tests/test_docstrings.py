"""Docstrings are in Google style (CONTRIBUTING.md): in a section an entry for every name."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import gaincell

PACKAGE = Path(gaincell.__file__).parent
ONE = r"\*{0,2}[a-z_]\w*"
NAMED = re.compile(rf"(?P<names>{ONE}(?:, {ONE})*): ")
WITHIN = re.compile(rf"(?:\n *|[.;]  ?)(?P<names>{ONE}(?:, {ONE})*): ")
SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields):\n")
RAISES = re.compile(r"\bRaises [A-Z]\w+")


def documented(text: str) -> Iterator[tuple[str, str, set[str]]]:
    """Name, docstring and arguments or fields of everything in a module; that of the module has no name."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module):
            yield "", ast.get_docstring(node) or "", set()
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = node.body if isinstance(node, ast.ClassDef) else [node]
            fields = (n.target for n in inner if isinstance(n, ast.AnnAssign))
            names = {field.id for field in fields if isinstance(field, ast.Name)}
            for function in inner:
                if isinstance(function, ast.FunctionDef) and function.name in (node.name, "__init__"):
                    names |= {n.arg for n in ast.walk(function.args) if isinstance(n, ast.arg)}
            yield node.name, ast.get_docstring(node) or "", names


def faults(name: str, text: str, names: set[str]) -> list[str]:
    """What is not in Google style."""
    found, section = [], ""
    for paragraph in text.split("\n\n"):
        if not paragraph.startswith(" "):
            section = match[1] if (match := SECTION.match(paragraph)) else ""
        if name and not section and (match := NAMED.match(paragraph)):
            found.append(f"{match['names']} outside a section")
        if not section and len({line.startswith("    ") for line in paragraph.splitlines()}) > 1:
            found.append("an indented line without an empty one between it and the others")
        for match in WITHIN.finditer(paragraph if section or not paragraph.startswith("    ") else ""):
            several = match["names"].split(", ")
            entry = section and match[0].startswith("\n    ") and not match[0].startswith("\n     ")
            if names.issuperset(name.lstrip("*") for name in several) and not (entry and len(several) == 1):
                found.append(f"{match['names']} without an entry of its own")
        found += [match[0] for match in RAISES.finditer(paragraph)]
    return found


def test_docstrings_have_an_entry_for_every_name() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)} {name}: {fault}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for name, text, names in documented(path.read_text(encoding="utf-8"))
        for fault in faults(name, text, names)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "text",
    [
        "What it is.\n\nsize: In bits.\n    Or more.",
        "What it is.\n\nIt is long. size: In bits.",
        "What it is.  size: in bits.",
        "What it is.\n\nsize, rate: Of it.",
        "What it is.\n\nother: Of it.",
        "What it is.\n\nArgs:\n    size, rate: Of it.",
        "What it is.\n\nArgs:\n    size: In bits.  rate: Of it.",
        "What it is.\n\nArgs:\n    size: In bits.\n        rate: Of it.",
        "What it is. Raises ValueError: it is none.",
        "What it is:\n    x + 1",
    ],
)
def test_another_style_is_found(text: str) -> None:
    assert faults("function", text, {"size", "rate"})


@pytest.mark.parametrize(
    "text",
    [
        "What it is: a size.\n\nSource: a book.\n\n    size: 3\n\nNot modelled: its rate.",
        "What it is.\n\nArgs:\n    size: In bits; of 8: a byte.\n    *rate: Of it.",
        "What it is.\n\nRaises:\n    ValueError: it is none.",
    ],
)
def test_google_style_is_accepted(text: str) -> None:
    assert not faults("function", text, {"size", "rate"})
