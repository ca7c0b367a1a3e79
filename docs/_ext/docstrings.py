"""Docstrings in Google style, which napoleon reads, as reStructuredText.

Indented paragraphs outside a section are equations: literal blocks. Nothing is marked up in prose but
`backticks`, which link where they name an object.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Yields):\n")
MARKUP = re.compile(r"(?ms)``.+?``|`([^`]+)`|([|*](?=\S)|(?<=\w)_(?!\w)|(?:(?<=: )|\A)\w\.$)")


def as_rst(text: str) -> str:
    """A docstring as reStructuredText with sections, which are napoleon's."""
    paragraphs, inside = [], False
    for paragraph in text.rstrip().split("\n\n"):
        if not paragraph.startswith(" "):
            inside = SECTION.match(paragraph) is not None
        indent = min(len(line) - len(line.lstrip(" ")) for line in paragraph.split("\n"))
        equation = indent >= 4 and not inside
        marked = " " * (indent - 4) + f"::\n\n{paragraph}" if equation else MARKUP.sub(_marked, paragraph)
        paragraphs.append(marked)
    return "\n\n".join(paragraphs)


def _marked(found: re.Match[str]) -> str:
    """A name as it is, other code in two backticks, what else would mark something up escaped."""
    code, other = found.groups()
    if other:
        return f"\\{other}"
    return found[0] if code is None or re.fullmatch(r"[\w.]+", code) else f"``{code.strip()}``"


def process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Rewrite the lines of one docstring in place.

    The empty comment keeps napoleon from taking the N of "N: columns", said of an attribute, for its type.
    """
    lines[:] = ["..", "", *as_rst("\n".join(lines)).split("\n")]


def skip(app: Sphinx, what: str, name: str, obj: Any, skipped: bool, options: Any) -> bool | None:
    """Fields of named tuples, which have no docstring of their own: that of the class names them."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def dashes(app: Sphinx, tree: nodes.document) -> None:
    """Between a parameter and what it is: a colon."""
    for text in [text for text in tree.findall(nodes.Text) if text == " -- "]:
        text.parent.replace(text, nodes.Text(": "))


def setup(app: Sphinx) -> dict[str, Any]:
    """Before napoleon, which connects with the usual priority of 500."""
    app.connect("autodoc-process-docstring", process, priority=400)
    app.connect("doctree-read", dashes)
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
