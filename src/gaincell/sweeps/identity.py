"""Hashes of what points are made from: changed content does not go on in the same study."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gaincell.costs.technology import REFERENCE, load_technology
from gaincell.integrations.hf.run import Run
from gaincell.integrations.hf.size import hardware_files, saved_design
from gaincell.mapping.ready import find_shipped
from gaincell.sweeps.names import KIND
from gaincell.text import Source, open_text

if TYPE_CHECKING:
    from gaincell.sweeps.settings import Sweep

CHARACTERS = 16
"""Of a text, hashed for every token that is used of it: more than a token has on average."""
FILES = (".toml", ".csv", ".tsv", ".txt")
"""Ends of names of device files and curves."""


def content_of(sweep: Sweep) -> dict[str, Any]:
    """Hashes of text, technology and device files, and the name of the model with the hash of its weights."""
    found: dict[str, Any] = {"model": _of_model(sweep.model), "technology": _of_technology(sweep.technology)}
    if sweep.measures:
        text = open_text(sweep.text)
        found["evaluated"] = _of_sources(text.evaluation, sweep.limit)
        found["trained on"] = _of_sources(text.training, sweep.training_tokens)
    kinds = (value for p in sweep.parameters if p.name == KIND for value in p.values)
    found["devices"] = [_of_file(Path(value)) for value in kinds if is_device(value)]
    return found


def is_device(kind: str) -> bool:
    """Whether a cell is a DEVICE.toml or CURVE.csv, which may bring mismatch and noise."""
    return kind.lower().endswith(FILES)


def _of_model(model: str) -> str:
    """A name that is the same on every machine. hardware.safetensors holds the hashes of base and design."""
    if (run := Run(model)).saved:
        return f"RUN {_of_file(run.file())}"
    shipped = find_shipped(model)
    if shipped is None and saved_design(model) is not None:
        return f"model {' '.join(_of_file(file) for file in hardware_files(model))}"
    return model if shipped is None else f"{model} {_of_file(shipped.linear)}"


def _of_file(path: Path) -> str:
    with path.expanduser().open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def _of_technology(name: str) -> str:
    technology = load_technology(name)
    numbers = {
        field.name: getattr(technology, field.name)
        for field in dataclasses.fields(technology)
        if field.name not in ("provenance", "name", "description")
    }
    if technology.guard_bits == load_technology(REFERENCE).guard_bits:
        del numbers["guard_bits"]  # so that a study outlives the invention of a number
    return hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()[:12]


def _of_sources(sources: tuple[Source, ...], tokens: int) -> str:
    """Of the beginning of every source, as far as so many tokens may reach."""
    content = hashlib.sha256()
    for source in sources:
        left = CHARACTERS * tokens
        content.update(f"{source.name} {source.size}\0".encode())
        for document in source.documents():
            content.update(document[:left].encode() + b"\0")
            left -= len(document)
            if left <= 0:
                break
    return content.hexdigest()[:12]
