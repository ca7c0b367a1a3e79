"""One frozen dataclass for every kind. Computations make them; tables, figures and reports take them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TypeVar

from gaincell import files
from gaincell.errors import RunError
from gaincell.results.activity import ActivityResult
from gaincell.results.baseline import BaselineResult
from gaincell.results.codec import Json, from_json
from gaincell.results.common import SCHEMA, Result
from gaincell.results.cost import CostResult
from gaincell.results.device import DeviceResult
from gaincell.results.evaluation import (
    AblationResult,
    ChipsResult,
    ContextResult,
    DepthResult,
    FidelityResult,
    PausesResult,
    PerplexityResult,
    RepetitionResult,
    RollingResult,
    TasksResult,
)
from gaincell.results.floorplan import FloorplanResult
from gaincell.results.rtl import RtlResult, WordLengthsResult
from gaincell.results.simulation import HeadResult, TileResult
from gaincell.results.spice import CellResult, EnergyResult, VerifyResult, WiresResult
from gaincell.results.spice_circuits import MixedResult, WriteResult
from gaincell.shipped import located

T = TypeVar("T", bound=Result)
KINDS: Mapping[tuple[str, ...], type[Result] | None] = {
    ("objectives",): None,
    ("stages",): None,
    ("tasks",): TasksResult,
    ("ablation",): AblationResult,
    ("fidelity",): FidelityResult,
    ("pauses",): PausesResult,
    ("chips",): ChipsResult,
    ("repetition",): RepetitionResult,
    ("curves", "training_tokens"): DepthResult,
    ("perplexity",): PerplexityResult,
    ("word_perplexity",): RollingResult,
    ("model_cost",): CostResult,
    ("measurements", "machines"): BaselineResult,
    ("activity", "gains"): ActivityResult,
    ("context", "model"): ContextResult,
    ("curve", "mismatch"): CellResult,
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
}
"""Parts of a file -> the kind of result that it is; the first whose parts it has. None: plain data yet."""


def read(path: str | os.PathLike[str], kind: type[T]) -> T:
    """Read a result of one kind.

    Raises:
        RunError: the file cannot be read, is of another version, or is no such result.
    """
    path = located(path)
    try:
        run = files.read_json(path)
    except (OSError, ValueError) as error:
        raise RunError(f"{path.name} cannot be read ({error}); give a file of --json") from error
    if not isinstance(run, dict) or run.get("schema") != SCHEMA:
        raise RunError(f"{path.name} is not a result of this version of gaincell (schema {SCHEMA})")
    return from_json(kind, run, path.name)


def kind_of(run: Json) -> type[Result] | None:
    """Which kind of result the content of a file is; None of one that has no dataclass yet."""
    return next((kind for parts, kind in KINDS.items() if all(part in run for part in parts)), None)


def parse(run: Json, where: str) -> Result | None:
    """A result from the content of its file; None of a kind that has no dataclass yet. Raises RunError."""
    kind = kind_of(run)
    return None if kind is None else from_json(kind, run, where)
