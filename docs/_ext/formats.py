"""Tables of file formats, from the dataclasses that read them.

    ```{keys} gaincell.training.settings:TrainSettings gaincell.mapping.recipe_file:TRAINING
    ```

lists the fields of a dataclass that stand in a table of a file, with default, what they take and meaning.
The JSON schemas of whole files (SCHEMAS) are written beside the pages.

    ```{design-keys} numbers
    ```

lists the numbers at the top of a design file (or those of a table, such as `cell` or `noise`) with unit, the
value on the chip of the paper, its source and range, and the meaning.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from importlib import import_module
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.ext.napoleon import Config, GoogleDocstring
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

from gaincell.chips.design_file import load_design
from gaincell.chips.fields import CELL_NUMBERS, NUMBERS, TABLE_NUMBERS, TABLES, DesignFields
from gaincell.schema import allowed

CHIP = "leroux2025"
SCHEMAS = {"recipe": "gaincell.mapping.recipe_file:FILE", "sweep": "gaincell.sweeps.file:FILE"}


class Keys(SphinxDirective):
    """Fields of a dataclass."""

    required_arguments = 2

    def run(self) -> list[nodes.Node]:
        owner, kind = map(named, self.arguments)
        takes = allowed(kind)
        fields = [field for field in dataclasses.fields(owner) if field.name in takes]
        found = meanings(owner, *(field.name for field in fields))
        rows = [
            [f"`{field.name}`", default_of(field), takes[field.name], found[field.name]] for field in fields
        ]
        return table(self, ["key", "default", "allowed", "meaning"], rows)


class DesignKeys(SphinxDirective):
    """Numbers of a design file."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        chip, name = load_design(CHIP), self.arguments[0]
        owner = DesignFields if name == "numbers" else TABLES.get(name)
        kinds = NUMBERS if name == "numbers" else CELL_NUMBERS if name == "cell" else TABLE_NUMBERS[name]
        found = {} if owner is None else meanings(owner)
        rows = []
        for key, kind in kinds.items():
            stated = chip.provenance.get(key if name == "numbers" else f"{name}.{key}")
            value = "–" if stated is None or stated.value is None else f"{stated.value}"
            source = "" if stated is None else stated.source
            span = "" if stated is None else f"{stated.range[0]:.12g} to {stated.range[1]:.12g}"
            field = "explicit_token_period" if key == "token_period" else key
            rows.append(
                [f"`{key}`", kind.unit, value, source, span, found.get(field, stated.note if stated else "")]
            )
        if name != "numbers" and all(row[2] == "–" for row in rows):
            return table(self, ["key", "unit", "meaning"], [[row[0], row[1], row[5]] for row in rows])
        return table(self, ["key", "unit", CHIP, "source", "range", "meaning"], rows)


def named(path: str) -> Any:
    """The object that MODULE:NAME names."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def write_schemas(app: Sphinx, error: Exception | None) -> None:
    """The JSON schemas of files, for editors; what is required may stand in a file that they extend."""
    for name, path in SCHEMAS.items():
        place = app.outdir / "schemas" / f"{name}.json"
        place.parent.mkdir(exist_ok=True)
        schema = named(path).model_json_schema()
        if "extends" in schema["properties"]:
            del schema["required"]
        place.write_text(json.dumps(schema, indent=1))


def meanings(owner: type, *needed: str) -> dict[str, str]:
    """What every field means: its entry under `Attributes:` of the class, or the string below it.

    Raises:
        ExtensionError: one that is needed has neither.
    """
    documented = str(GoogleDocstring(inspect.getdoc(owner) or "", Config(napoleon_use_ivar=True)))
    found = dict(re.findall(r"(?m)^:ivar (\w+): *(.*(?:\n +.*)*)", documented))
    below = ModuleAnalyzer.for_module(owner.__module__).find_attr_docs()
    found |= {name: "\n".join(lines) for (place, name), lines in below.items() if place == owner.__name__}
    if missing := set(needed).difference(found):
        raise ExtensionError(f"{owner.__qualname__}: Attributes lack {', '.join(sorted(missing))}")
    return {name: " ".join(text.split()) for name, text in found.items()}


def default_of(field: dataclasses.Field[Any]) -> str:
    """As a file would state it."""
    if field.default is dataclasses.MISSING:
        return {dataclasses.MISSING: "", dict: "–"}.get(field.default_factory, "see there")
    if field.default is None:
        return "–"
    stated = list(field.default) if isinstance(field.default, tuple) else field.default
    return f"`{json.dumps(stated)}`"


def table(directive: SphinxDirective, head: list[str], rows: list[list[str]]) -> list[nodes.Node]:
    """A table; its cells are Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    around = nodes.Element()
    directive.state.nested_parse(StringList(lines, "formats"), 0, around)
    return list(around.children)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    app.add_directive("keys", Keys)
    app.add_directive("design-keys", DesignKeys)
    app.connect("build-finished", write_schemas)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
