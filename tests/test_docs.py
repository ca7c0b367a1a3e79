"""Sources of the documentation: notebooks without outputs, links between files that lead somewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import gaincell

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def links(text: str) -> list[str]:
    """Targets of Markdown links and pictures outside code."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", text)


def test_every_page_of_the_site_is_in_a_table_of_contents() -> None:
    """The site's build refuses one that is not."""
    docs = ROOT / "docs"
    listed = {"index"}
    for page in docs.rglob("*.md"):
        for block in re.findall(r"```{toctree}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            names = [line.strip() for line in block.splitlines() if line.strip() and not line.startswith(":")]
            listed |= {(page.parent / name).resolve().relative_to(docs).as_posix() for name in names}
    pages = {path.relative_to(docs).with_suffix("").as_posix() for path in docs.rglob("*.md")}
    assert not pages - listed


def test_pages_link_to_no_page_or_folder_outside_the_site() -> None:
    """Files are copied into the site; other pages and folders cannot be."""
    for path in (ROOT / "docs").rglob("*.md"):
        targets = [(path.parent / link.partition("#")[0]) for link in links(path.read_text(encoding="utf-8"))]
        outside = [target for target in targets if not target.resolve().is_relative_to(ROOT / "docs")]
        assert not [target for target in outside if target.suffix == ".md" or target.is_dir()], path.name


def test_the_readme_names_every_command_and_the_paper() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = readme.partition("\n## Commands\n")[2].partition("\n## ")[0]
    for path in (ROOT / "src" / "gaincell" / "cli").glob("[a-z]*.py"):
        assert f"gaincell {path.stem.replace('_', '-')} " in listed, path.stem
    assert "https://arxiv.org/abs/2409.19315" in readme
    for word in (".venv/bin/activate", ".venv/bin/gaincell", "'.[eval,train]'"):
        assert word in readme


def test_the_demo_ends_by_saying_what_comes_next() -> None:
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\ndemo:")[2].partition("\n\n")[0]
    after = recipe.partition("gaincell map tiny")[2]
    assert ".venv/bin/activate" in after.replace("$(BIN)", ".venv/bin")
    assert "gaincell generate runs/demo" in after


def test_every_public_name_stands_on_the_page_of_the_python_interface() -> None:
    page = (ROOT / "docs" / "api" / "index.md").read_text(encoding="utf-8")
    home = {name: getattr(gaincell, name).__module__ for name in gaincell.__all__ if name != "__version__"}
    missing = [name for name, module in home.items() if f"`{name} <{module}.{name}>`" not in page]
    assert not missing
    assert "`__version__`" in page


def test_there_are_three_notebooks() -> None:
    assert len(NOTEBOOKS) >= 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_hold_no_outputs(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=lambda path: str(path.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(path: Path) -> None:
    """As the repository is read, on a disk or on a web page of it."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        text = "\n".join("".join(cell["source"]) for cell in cells)
    here = path.parent
    local = [link.partition("#")[0] for link in links(text) if not link.startswith(("http", "#", "mailto"))]
    assert not [link for link in local if not (here / link).exists()]
