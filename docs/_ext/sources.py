"""Sources that lie outside docs/.

notebooks/ is copied into docs/ for the build (docs/notebooks is not committed). Some pages are those of the
repository, with their links turned into links of the site. docs/report.html is a page of its own.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
FROM_REPOSITORY = {
    "contributing": "CONTRIBUTING.md",
    "changelog": "CHANGELOG.md",
    "adding_a_cell": "src/gaincell/devices/README.md",
}
LINKS = {"(src/gaincell/devices/README.md)": "(adding_a_cell.md)"}
BADGE = re.compile(r"\[!\[(Open in Colab)\]\([^)]*\)\]")
"""A picture that browsers would fetch from elsewhere; the site shows its words."""
WHOLE = {"report.html": "report-example.html"}
"""Pages that are copied as they are, under another name; links open them instead of downloading them."""


def copy_notebooks(app: Sphinx) -> None:
    """docs/notebooks as notebooks/ is now; what is the same stays untouched, so it is not run again."""
    place = Path(app.srcdir) / "notebooks"
    place.mkdir(exist_ok=True)
    found = {path.name: path.read_bytes() for path in (ROOT / "notebooks").glob("*.ipynb")}
    for old in place.iterdir():
        if old.name not in found:
            old.unlink()
    for name, content in found.items():
        copy = place / name
        if not copy.exists() or copy.read_bytes() != content:
            copy.write_bytes(content)


def read(app: Sphinx, name: str, source: list[str]) -> None:
    """The text of a page before it is parsed."""
    if name in FROM_REPOSITORY:
        path = ROOT / FROM_REPOSITORY[name]
        app.env.note_dependency(str(path))
        source[0] = path.read_text(encoding="utf-8")
        for found, replacement in LINKS.items():
            source[0] = source[0].replace(found, replacement)
    if name.startswith("notebooks/"):
        source[0] = BADGE.sub(r"[\1]", source[0].replace("](../docs/", "](../"))
    else:  # pages link to notebooks where they are in the repository
        up = "../" * name.count("/")
        source[0] = source[0].replace(f"](../{up}notebooks/", f"]({up}notebooks/")


def open_whole(app: Sphinx, tree: nodes.document) -> None:
    """Links to pages that are copied as they are."""
    for node in list(tree.findall(addnodes.download_reference)):
        page = WHOLE.get(node["reftarget"].removeprefix("/"))
        if page is not None:
            node.replace_self(nodes.reference("", "", *node.children, refuri=page))


def copy_whole(app: Sphinx, error: Exception | None) -> None:
    """The pages themselves, when all others are written."""
    if error is None:
        for source, page in WHOLE.items():
            shutil.copy(Path(app.srcdir) / source, Path(app.outdir) / page)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to the stages of the build."""
    app.connect("builder-inited", copy_notebooks)
    app.connect("source-read", read)
    app.connect("doctree-read", open_whole, priority=400)  # before files to download are collected
    app.connect("build-finished", copy_whole)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
