"""A RUN directory, as it is read. Whatever reads one asks `Run`.

RUN/design.toml, hardware.safetensors   the model that is saved in it (checkpoint.py), on its chip
RUN/run.json                            its results
RUN/stages/settings.json, design.toml   what `gaincell train` carries out in stages, and its chip
RUN/stages/STAGE.safetensors            the parameters of a finished stage
RUN/model/                              a pretrained model that the recipe made first
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from gaincell.chips.design import Design
from gaincell.chips.design_file import load_design
from gaincell.errors import GaincellError, ModelError, RunError
from gaincell.files import read_json, restored
from gaincell.integrations.hf.attach import attached_layers, detach
from gaincell.integrations.hf.base_model import BaseModel, load_base
from gaincell.integrations.hf.sources import hub_directory
from gaincell.resources import resolve
from gaincell.results import read_stages
from gaincell.results.run import FILE, StagedResult, StageResult

HARDWARE = "hardware.safetensors"
DESIGN = "design.toml"
RUN_FILES = (HARDWARE, DESIGN, FILE)
"""Of a RUN on the hub, what is downloaded."""
FORMAT = "gaincell-hardware-1"


def refuse_second_model(directory: str | os.PathLike[str], *files: str) -> None:
    """Refuse to write a model beside one of `files`, which hold another: readers would take one or the other.

    Raises:
        RunError: there is one of them.
    """
    for name in files:
        if (Path(directory) / name).exists():
            raise RunError(f"{directory} holds another model already ({name}): choose another directory")


class Hardware(NamedTuple):
    """What ``hardware.safetensors`` says about itself.

    Attributes:
        base: The base model, as ``load_model`` takes it; of a hub model with the commit, where it was known.
        base_sha256: Fingerprint that it had.
        design_hash: Of the design it was saved with.
    """

    base: str
    base_sha256: str
    design_hash: str


class Run:
    """A RUN: a directory, the name of one that is shipped, or one on the hub. Each part is read, and refused
    with a `RunError`, when it is first asked for.

    Attributes:
        name: As it was given.
        folder: Where it is read from; what was given where there is none, so that errors name that.
    """

    def __init__(self, run: str | os.PathLike[str]) -> None:
        self.name, place = os.fspath(run), resolve(Path(run).expanduser())
        self.folder = place if place.exists() else hub_directory(self.name, HARDWARE, RUN_FILES) or place

    @property
    def saved(self) -> bool:
        """Whether it holds a saved model, and so is a RUN."""
        return self.file().is_file()

    @cached_property
    def hardware(self) -> Hardware:
        """What it says about its base model and design, without loading either."""
        metadata = self.metadata()
        try:
            return Hardware(*(metadata[key] for key in Hardware._fields))
        except KeyError as error:
            raise RunError(
                f"{self.file()} does not say its {error.args[0]}: it is damaged; save the model again"
            ) from error

    @cached_property
    def design(self) -> Design:
        """The design that its model was saved with."""
        path = self.folder / DESIGN
        if not path.is_file():
            raise RunError(f"{self.folder} lacks {DESIGN}, the design its model was saved with; restore it")
        try:
            design = load_design(path)
        except GaincellError as error:
            raise RunError(
                f"{error}; if a newer gaincell wrote it, upgrade this one (pip install -U gaincell)"
            ) from error
        if design.hash != self.hardware.design_hash:
            raise RunError(
                f"{path} is not the design the model was saved with (hash {design.hash}, saved with "
                f"{self.hardware.design_hash}); restore it"
            )
        return design

    @cached_property
    def result(self) -> StagedResult | None:
        """Its run.json; None where there is none, or none with stages."""
        return read_stages(self.folder)

    def result_of(self, stage: str | None = None) -> StageResult | None:
        """What its run.json says of the saved model, or of a stage; None where there is nothing."""
        if self.result is None:
            return None
        return self.result.saved_stage if stage is None else self.result.stage(stage)

    def training_tokens(self, stage: str | None = None) -> int:
        """Tokens that the saved model, or a stage, was trained on; 0 where no run.json says it."""
        found = self.result_of(stage)
        return 0 if found is None else found.training_tokens

    def file(self, stage: str | None = None) -> Path:
        """Where the tensors of the saved model, or of a stage, are."""
        return self.folder / (HARDWARE if stage is None else f"stages/{stage}.safetensors")

    def metadata(self, stage: str | None = None) -> dict[str, str]:
        """What that file says about itself."""
        path = self.file(stage)
        if stage is not None:
            return read_metadata(path, do_again(path))
        if not path.is_file():
            raise RunError(f"{self.name} is not a RUN directory with a saved model: {HARDWARE} is missing")
        metadata = read_metadata(path, "save the model again")
        if metadata.get("format") != FORMAT:
            raise RunError(
                f"{path} has format {metadata.get('format')!r}, this gaincell reads {FORMAT!r}; upgrade "
                "gaincell (pip install -U gaincell), or save the model again"
            )
        return metadata

    @property
    def stages(self) -> list[str]:
        """The finished stages whose parameters it holds."""
        return sorted(path.stem for path in self.file("*").parent.glob("*.safetensors"))

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """What `gaincell train` began it with."""
        path = self.folder / "stages" / "settings.json"
        try:
            found = restored(read_json(path))
        except (OSError, ValueError) as error:
            raise RunError(
                f"{self.name} is no directory of `gaincell train`: {path.name} cannot be read ({error})"
            ) from error
        if not (isinstance(found, dict) and isinstance(found.get("stages"), dict) and "model" in found):
            raise RunError(f"{self.name} has no stages to choose from: `gaincell train` did not make it")
        return found

    def plan(self, stage: str) -> Mapping[str, Any]:
        """What the recipe says of a finished stage."""
        if stage not in self.settings["stages"] or stage not in self.stages:
            raise RunError(
                f"{self.name} has no finished stage {stage!r}; it has: {', '.join(self.stages) or 'none'}"
            )
        found: Mapping[str, Any] = self.settings["stages"][stage]
        return found

    def design_of(self, stage: str | None) -> Design | None:
        """The design of the saved model, or of a stage with the stage's cell; None of one in software."""
        if stage is None:
            return self.design
        plan, path = self.plan(stage), self.folder / "stages" / DESIGN
        if plan["attention"] != "arrays":
            return None
        if not path.is_file():
            raise RunError(
                f"{self.name} has no stages/{DESIGN}: run the command that made it again, which writes it"
            )
        design = load_design(path)
        return design.replace(cell=plan["cell"]) if plan["cell"] else design

    def base(
        self, base: str | os.PathLike[str] | None = None, dtype: torch.dtype | None = torch.float32
    ) -> BaseModel:
        """Load the base model, as it was when the RUN was made.

        Args:
            base: Where it is now, if not where it was.
            dtype: See `load_base`.

        Raises:
            RunError: it is not found, or changed.
        """
        where, sha256 = f"{self.folder}: ", None
        if self.saved:
            base, sha256 = base or self.hardware.base, self.hardware.base_sha256
        elif isinstance(self.settings["model"], str):  # the last part of a path
            base, sha256 = base or self.settings["model"], self.settings["base_sha256"]
            where += "an unfinished run does not know where its model is; "
        else:
            base = base or self.folder / "model"
        found = find_base(base, dtype, where)
        if sha256 not in (None, found.sha256):
            raise RunError(
                f"{self.folder}: its base model {found.source.id!r} has changed since it was saved (sha256 "
                f"{sha256[:12]} then, {found.sha256[:12]} now); restore it, or say where the old one is: "
                "gaincell.load(RUN, base=DIRECTORY)"
            )
        return found


def find_base(
    model: str | os.PathLike[str] | None, dtype: torch.dtype | None = torch.float32, where: str = ""
) -> BaseModel:
    """Load a base model for `where`, in software, also where it was saved attached.

    Raises:
        RunError: it cannot be loaded.
    """
    if not model:
        raise RunError(
            "the model does not say which pretrained model it was made from: load it with gaincell's "
            "load_model or with from_pretrained, or pass base="
        )
    try:
        found = load_base(model, dtype, f"{where}the base model is needed: ")
    except ModelError as error:
        raise RunError(f"{where}the base model is needed: {error}") from error
    if attached_layers(found.model):
        detach(found.model)
    return found


def do_again(state: Path) -> str:
    """What to do where the state of a finished stage cannot be used."""
    return f"remove {state.stem}.json beside it, and the command that made it does the stage again"


def read_metadata(path: Path, advice: str) -> dict[str, str]:
    """What a file of tensors says about itself.

    Raises:
        RunError: it cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path} cannot be read ({error}); {advice}") from error
