"""Docstrings are prose with `backticks`, indented equations and lists `name: meaning`: as reStructuredText.

Equations become literal blocks, lists of names bullets, characters that mark something up in
reStructuredText themselves. `name` links where there is such an object. "Args:" and the like are napoleon's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

from gaincell import units

SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Yields):$")
NAMED = re.compile(r"[a-z]\w*(, [a-z]\w*)*: ")
NAMED_FURTHER = re.compile(r"(?<=\.)  ?(?=[a-z]\w*(?:, [a-z]\w*)*: )")
TABLE_RULE = re.compile(r"=+( +=+)+$")


def as_rst(lines: list[str]) -> list[str]:
    """A docstring, its lines as autodoc gives them, as reStructuredText."""
    out: list[str] = []
    for block in _blocks(lines):
        first = block[0]
        if SECTION.match(first):
            out += [first, *escaped("\n".join(block[1:])).split("\n")]
        elif TABLE_RULE.match(first):
            out += block
        elif first.startswith("    ") and out and not SECTION.match(first):
            out += ["::", "", *("    " + line for line in block)]
        elif NAMED.match(first):
            out += list(_bullets(block))
        else:
            out += escaped("\n".join(block)).split("\n")
        out.append("")
    return out


def _blocks(lines: list[str]) -> Iterator[list[str]]:
    """What empty lines separate; a section with all that is indented below it is one block, and so are
    equations."""
    block: list[str] = []
    for line, after in zip(lines, [*lines[1:], ""], strict=False):
        inside = bool(block) and (SECTION.match(block[0]) or block[0].startswith("    "))
        if line.strip():
            if (
                block and not inside and line.startswith("    ") and not block[-1].startswith((" ", "*"))
            ) or (block and block[0].startswith("    ") and not line.startswith("    ")):
                yield block
                block = []
            block.append(line)
        elif block and inside and after.startswith("    "):
            block.append("")
        elif block:
            yield block
            block = []
    if block:
        yield block


def _bullets(block: list[str]) -> Iterator[str]:
    for line in block:
        for part in NAMED_FURTHER.split(line):
            named = NAMED.match(part)
            if named and not line.startswith(" "):
                yield f"* ``{named[0][:-2]}``: {escaped(part[named.end() :])}"
            else:
                yield "  " + escaped(part.strip())


def escaped(text: str) -> str:
    """Prose in which only `backticks`, and a star that begins an entry, mean something."""
    spans = re.split(r"(``[^`]*``|`[^`]*`)", text)
    spans[1::2] = [
        span if re.fullmatch(r"``.*``|`[\w.]+`", span) else f"``{span.strip('`').strip()}``"
        for span in spans[1::2]
    ]
    spans[::2] = [re.sub(r"(?m)^( *\* )|([\\*|_`])", marked, span) for span in spans[::2]]
    return "".join(spans)


def marked(found: re.Match[str]) -> str:
    """The star of an entry as it is, any other character escaped."""
    return found[1] or "\\" + found[2]


def process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Rewrite the lines of one docstring in place."""
    lines[:] = as_rst(lines)


def skip(app: Sphinx, what: str, name: str, obj: Any, skipped: bool, options: Any) -> bool | None:
    """Fields of named tuples, which have no docstring of their own: that of the class names them."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def unit_names() -> list[str]:
    """The types of gaincell.units, which signatures name instead of what they stand for."""
    return [name for name, kind in vars(units).items() if hasattr(kind, "__metadata__")]


def dashes(app: Sphinx, tree: nodes.document) -> None:
    """Between a parameter and what it is."""
    for text in [text for text in tree.findall(nodes.Text) if text == " -- "]:
        text.parent.replace(text, nodes.Text(": "))


def missing(app: Sphinx, env: Any, node: nodes.Element, content: nodes.Element) -> nodes.Element | None:
    """What is in backticks, or in a signature, and has no page of its own stays as it is."""
    return content if node.get("refdomain") == "py" else None


def setup(app: Sphinx) -> dict[str, Any]:
    """Before napoleon, which connects with the usual priority of 500."""
    app.connect("autodoc-process-docstring", process, priority=400)
    app.connect("doctree-read", dashes)
    app.connect("autodoc-skip-member", skip)
    app.connect("missing-reference", missing)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
