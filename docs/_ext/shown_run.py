"""Commands that are run while the site is built, and shown with what they print.

    ```{run}
    gaincell device fit curve.csv --out cell.toml
    ```

All blocks of a page are run in order in one temporary folder, by bash.
A command that fails fails the build.

    :figure: file.png     a picture it leaves, shown below
    :lines: 3-9           of the output; by default all of it
    :file: name.toml      the block is no command but a file, written under this name
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

COLUMNS = 96
SECONDS = 600
ROOT = Path(__file__).parents[2]
COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Run(SphinxDirective):
    """One block."""

    has_content = True
    option_spec = {  # noqa: RUF012 - docutils reads it from the class
        "figure": directives.unchanged_required,
        "alt": directives.unchanged_required,
        "lines": directives.unchanged_required,
        "file": directives.unchanged_required,
    }

    def run(self) -> list[nodes.Node]:
        folder = folder_of(self.env)
        text = "\n".join(self.content)
        if "file" in self.options:
            (folder / self.options["file"]).write_text(text + "\n")
            return [self.block(text, Path(self.options["file"]).suffix[1:], self.options["file"])]
        printed = execute(text, folder, self.get_location())
        shown: list[nodes.Node] = [self.block(text, "shell", "")]
        if "lines" in self.options:
            first, _, last = self.options["lines"].partition("-")
            printed = "\n".join(printed.splitlines()[int(first) - 1 : int(last) if last else None])
        if printed.strip():
            shown.append(self.block(printed, "text", "", "run-output"))
        if "figure" in self.options:
            shown.append(self.figure(folder / self.options["figure"]))
        return shown

    def block(self, text: str, language: str, title: str, *classes: str) -> nodes.Node:
        """A literal block, with the name of the file above it where there is one."""
        literal = nodes.literal_block(text, text, language=language, classes=["run", *classes])
        if not title:
            return literal
        around = nodes.container("", literal_block=True, classes=["literal-block-wrapper"])
        around += [nodes.caption("", title), literal]
        return around

    def figure(self, path: Path) -> nodes.Node:
        """A picture that was drawn, kept among the sources of the build."""
        place = Path(self.env.app.doctreedir) / "drawn"
        place.mkdir(exist_ok=True, parents=True)
        name = hashlib.sha256(f"{self.env.docname}/{path.name}".encode()).hexdigest()[:12] + path.suffix
        shutil.copy(path, place / name)
        uri = os.path.relpath(place / name, self.env.srcdir)
        return nodes.image("", uri="/" + uri, alt=self.options.get("alt", path.stem))


def folder_of(env: Any) -> Path:
    """The folder of the page that is read now."""
    if "run_folder" not in env.temp_data:
        env.temp_data["run_folder"] = tempfile.TemporaryDirectory(prefix="gaincell-docs-")
    return Path(env.temp_data["run_folder"].name)


def execute(text: str, folder: Path, where: str) -> str:
    """What commands print, in a folder that also has the repository's recipes and docs/data.

    Raises:
        ExtensionError: a command fails, or is too slow.
    """
    for name in ("recipes", "docs"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "COLUMNS": str(COLUMNS), "NO_COLOR": "1", "TERM": "dumb"}
    try:
        done = subprocess.run(
            ["bash", "-eu", "-c", text], cwd=folder, env=environment, text=True, timeout=SECONDS,
            capture_output=True,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ExtensionError(f"{where}: takes more than {SECONDS} s:\n{text}") from None
    if done.returncode != 0:
        raise ExtensionError(f"{where}: exit code {done.returncode}:\n{text}\n{done.stdout}{done.stderr}")
    return "\n".join(line.rstrip() for line in COLOURS.sub("", done.stdout).strip("\n").splitlines())


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("run", Run)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
