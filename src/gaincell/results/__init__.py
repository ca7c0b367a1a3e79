"""One frozen dataclass for every kind. Computations make them; tables, figures and reports take them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from gaincell import files
from gaincell.errors import RunError
from gaincell.results import evaluation
from gaincell.results.activity import ActivityResult
from gaincell.results.baseline import BaselineResult
from gaincell.results.cells import CellAdaptationResult, CellDesignResult, ScoresResult
from gaincell.results.codec import Json, from_json, to_json
from gaincell.results.codesign import CodesignComparison, CodesignResult
from gaincell.results.common import SCHEMA, Result
from gaincell.results.cost import CostResult
from gaincell.results.device import DeviceResult
from gaincell.results.floorplan import FloorplanResult
from gaincell.results.rtl import RtlResult, WordLengthsResult
from gaincell.results.run import FILE, AdaptedResult, MappedResult, StagedResult, TrainedResult
from gaincell.results.simulation import GenerationResult, HeadResult, TileResult
from gaincell.results.spice import CharacterisationResult, EnergyResult, VerifyResult, WiresResult
from gaincell.results.spice_circuits import MixedResult, WriteResult
from gaincell.results.sweep import PointResult, SweepResult
from gaincell.shipped import begun, located

T = TypeVar("T", bound=Result)
KINDS: Mapping[tuple[str, ...], type[Result]] = {
    ("objectives",): SweepResult,
    ("sweep", "point"): PointResult,
    ("circuits", "stages"): CodesignResult,
    ("recipe", "stages"): TrainedResult,
    ("silent", "stages"): MappedResult,
    ("error_of_scores",): ScoresResult,
    ("retention_time", "stages"): CellDesignResult,
    ("chip", "stages"): CellAdaptationResult,
    ("stages",): AdaptedResult,
    ("tasks",): evaluation.TasksResult,
    ("ablation",): evaluation.AblationResult,
    ("fidelity",): evaluation.FidelityResult,
    ("pauses",): evaluation.PausesResult,
    ("chips",): evaluation.ChipsResult,
    ("repetition",): evaluation.RepetitionResult,
    ("curves", "training_tokens"): evaluation.DepthResult,
    ("perplexity",): evaluation.PerplexityResult,
    ("word_perplexity",): evaluation.RollingResult,
    ("model_cost",): CostResult,
    ("measurements", "machines"): BaselineResult,
    ("activity", "gains"): ActivityResult,
    ("context", "model"): evaluation.ContextResult,
    ("points", "text"): CodesignComparison,
    ("curve", "mismatch"): CharacterisationResult,
    ("first", "second"): VerifyResult,
    ("runs", "readout"): EnergyResult,
    ("bit_line", "word_line"): WiresResult,
    ("dacs", "pulses"): WriteResult,
    ("waves", "clock"): MixedResult,
    ("timeline", "sizes"): RtlResult,
    ("words", "exact"): WordLengthsResult,
    ("floorplan", "areas"): FloorplanResult,
    ("schedule", "trace"): HeadResult,
    ("waveforms",): TileResult,
    ("fit", "decays"): DeviceResult,
    ("ring_memory",): GenerationResult,
    ("reference", "rows"): evaluation.ComparisonResult,
}
"""Parts of a file -> the kind of result that it is; the first whose parts it has."""


def read(path: str | os.PathLike[str], kind: type[T]) -> T:
    """Read a result file, or the run.json of a RUN directory.

    kind: of the result, or a class that several kinds inherit.

    Raises RunError: it cannot be read, is of another version, or is no such result.
    """
    path = _file(path)
    run = content(path)
    found = kind_of(run)
    return from_json(found if found is not None and issubclass(found, kind) else kind, run, path.name)


def content(path: str | os.PathLike[str]) -> Json:
    """The same of any kind, as plain data."""
    path = _file(path)
    try:
        run = files.read_json(path)
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path.name} cannot be read ({error}); give a RUN directory or its run.json, or a file of --json"
        ) from error
    if not isinstance(run, dict) or run.get("schema") != SCHEMA:
        raise RunError(f"{path.name} is not a result of this version of gaincell (schema {SCHEMA})")
    return run


def _file(path: str | os.PathLike[str]) -> Path:
    path = located(path)
    if path.is_dir() and not (path / FILE).exists() and (unfinished := begun(path)):
        raise RunError(f"directory {str(path)!r} {unfinished}")
    return path / FILE if path.is_dir() else path


def read_stages(folder: Path) -> StagedResult | None:
    """The run.json of a RUN directory; None where there is none, or none with stages. Raises RunError."""
    run = read(folder, Result) if (folder / FILE).is_file() else None
    return run if isinstance(run, StagedResult) and run.stages else None


def write(result: Result, path: str | os.PathLike[str]) -> Path:
    """Write a result, completely or not at all."""
    return files.write_json(path, to_json(result), indent=1)


def kind_of(run: Json) -> type[Result] | None:
    """Which kind of result the content of a file is; None where it is none."""
    return next((kind for parts, kind in KINDS.items() if all(part in run for part in parts)), None)


def parse(run: Json, where: str) -> Result | None:
    """A result from the content of its file; None where it is none. Raises RunError."""
    kind = kind_of(run)
    return None if kind is None else from_json(kind, run, where)
