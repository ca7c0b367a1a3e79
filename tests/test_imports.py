"""Imports point in one direction, and the cheap entry points stay cheap."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

import gaincell

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def test_imports_point_in_one_direction() -> None:
    """The contracts of pyproject.toml, [tool.importlinter], explained in CONTRIBUTING.md."""
    assert lint_imports(config_filename=str(PYPROJECT), no_cache=True) == 0


def test_the_contributing_guide_lists_the_same_layers() -> None:
    layers = tomllib.loads(PYPROJECT.read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    page = PYPROJECT.with_name("CONTRIBUTING.md").read_text(encoding="utf-8")
    [listed] = re.findall(r"^    __main__ .*?^    errors$", page, re.DOTALL | re.MULTILINE)
    assert [line.split("  ")[2] for line in listed.splitlines()] == layers


@pytest.mark.parametrize("statement", ["import gaincell", "from gaincell.cli import main; main(['--help'])"])
def test_import_and_help_load_nothing_heavy(statement: str) -> None:
    code = f"import sys\ntry:\n    {statement}\nexcept SystemExit:\n    pass\n" + (
        "heavy = {'torch', 'transformers', 'matplotlib', 'rich.progress', 'gaincell.results'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.slow
def test_other_libraries_load_only_what_extends_them() -> None:
    """`attach` may be what is being imported when they are, so nothing that they load may import it."""
    code = (
        "import sys, gaincell, peft, transformers.trainer\n"
        "found = {n.rpartition('.')[2] for n in sys.modules if n.startswith('gaincell.integrations.hf.')}\n"
        "assert found == {'pretrained', 'peft_files', 'trainer_files', 'replacing'}, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", gaincell.__all__)
def test_every_public_name_exists(name: str) -> None:
    assert getattr(gaincell, name) is not None


def test_messages_advise_what_there_is() -> None:
    """What errors and docstrings call as `gaincell.NAME(` is public."""
    sources = Path(gaincell.__file__).parent.rglob("*.py")
    named = {n for path in sources for n in re.findall(r"\bgaincell\.(\w+)\(", path.read_text("utf-8"))}
    assert "set_attention" in named
    assert named <= set(gaincell.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'head_array'"):
        gaincell.head_array  # noqa: B018
