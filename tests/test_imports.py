"""Imports point in one direction, and the cheap entry points stay cheap."""

import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

import gaincell

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def test_imports_point_in_one_direction() -> None:
    """The contracts of pyproject.toml, [tool.importlinter], explained in CONTRIBUTING.md."""
    assert lint_imports(config_filename=str(PYPROJECT), no_cache=True) == 0


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


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'head_array'"):
        gaincell.head_array  # noqa: B018
