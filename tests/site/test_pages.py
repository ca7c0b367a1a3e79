"""The built site (`make docs`): links, commands, formulas, and that nothing comes from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import typer

from gaincell.cli import app

from .pages import SITE, pages

pytestmark = pytest.mark.site

OWN = ("report-example.html",)
"""Pages that are not of the site's making."""


def local(link: str) -> bool:
    """Whether a link stays in the site."""
    return not urlsplit(link).scheme and not link.startswith("//")


def test_it_is_built() -> None:
    assert (SITE / "index.html").is_file(), "build it first: make docs"


def test_every_internal_link_and_anchor_exists() -> None:
    broken = []
    for name, page in pages().items():
        if name.startswith("_modules"):  # listings link back to names that the reference shows elsewhere
            continue
        for link in filter(local, page.links):
            path, anchor = unquote(urlsplit(link).path), unquote(urlsplit(link).fragment)
            target = (page.path.parent / path).resolve() if path else page.path
            if not target.is_file():
                broken.append(f"{name}: {link}")
            elif anchor and target.suffix == ".html":
                known = pages()[str(target.relative_to(SITE))]
                if anchor not in known.ids and name not in OWN:
                    broken.append(f"{name}: {link}")
    assert not broken


def test_nothing_is_loaded_from_elsewhere() -> None:
    for name, page in pages().items():
        for loaded in page.loaded:
            assert local(loaded) or loaded.startswith("data:"), f"{name} loads {loaded}"
            if local(loaded):
                assert (page.path.parent / unquote(urlsplit(loaded).path)).is_file(), f"{name}: {loaded}"
    for style in SITE.rglob("*.css"):
        found = re.findall(r"url\(\s*['\"]?(https?:|//)", style.read_text(encoding="utf-8"))
        assert not found, style


def test_every_command_has_its_help() -> None:
    page = pages()["reference/commands.html"]
    root = typer.main.get_command(app)
    for name in root.list_commands(None):  # type: ignore[arg-type, attr-defined]
        command = root.get_command(None, name)  # type: ignore[arg-type, attr-defined]
        inner = getattr(command, "commands", {})
        for found, anchor in [(command, f"gaincell-{name}")] + [
            (one, f"gaincell-{name}-{one.name}") for one in inner.values()
        ]:
            assert anchor in page.ids
            for parameter in found.params:
                if parameter.param_type_name == "option":
                    assert parameter.opts[0] in page.text, f"{anchor}: {parameter.opts[0]}"


def test_formulas_are_mathml() -> None:
    for name in ("concepts/attention.html", "concepts/circuits.html", "glossary.html"):
        page = pages()[name]
        assert page.tags["math"] > 10
        assert "merror" not in page.tags
        assert "$" not in page.text


def test_notebooks_are_shown_with_their_figures() -> None:
    shown = [page for name, page in pages().items() if name.startswith("notebooks/")]
    assert len(shown) >= 3
    for page in shown:
        assert sum("_images/" in loaded for loaded in page.loaded) >= 2
        assert "Traceback" not in page.text
        assert "| --" not in page.text  # a table as its Markdown


def test_commands_are_shown_with_what_they_printed() -> None:
    for name in ("quickstart", "tutorials/train_an_adapter", "tutorials/verify_in_spice", "tutorials/sweep"):
        text = (SITE / f"{name}.html").read_text(encoding="utf-8")
        assert text.count("run-output") >= 2


def test_shapes_and_units_stand_in_the_reference() -> None:
    assert "Float[Tensor, 'B H Tq D']" in pages()["api/attention.html"].text
    designs = pages()["api/designs.html"].text
    assert "v_min: Volt" in designs
    assert not re.search("(?<!alias of )Annotated", designs)  # but where a unit itself is explained


def test_it_is_not_heavy() -> None:
    size = sum(path.stat().st_size for path in Path(SITE).rglob("*") if path.is_file())
    assert size < 40e6
