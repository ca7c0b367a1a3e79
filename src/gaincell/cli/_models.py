"""Models as commands load them, what they read, and what the results of evaluations say alike.

This module and those of `gaincell evaluate` beside it import torch: commands import them when they run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Generic, TypedDict, TypeVar

import torch
import typer
from torch import Tensor

from gaincell.chips.design import Design
from gaincell.chips.design_file import inputs_of_design, load_design
from gaincell.chips.device_file import inputs_of_cell
from gaincell.cli._json import command_line
from gaincell.cli._options import Computing, ComputingAnywhere, check_run, choose_chip
from gaincell.cli._progress import progress_bars
from gaincell.costs.activity import Activity
from gaincell.devices.variability import Mismatch
from gaincell.errors import InputError
from gaincell.evaluation.activity import measure_activity
from gaincell.evaluation.perplexity import cut_blocks
from gaincell.integrations.hf.attach import attached_layers, computing_layers, layers_in_use
from gaincell.integrations.hf.base_model import LoadedModel
from gaincell.integrations.hf.chip import AS_SAVED, change_chip
from gaincell.integrations.hf.context import check_length, default_length, read_tokens
from gaincell.integrations.hf.models import load_model
from gaincell.integrations.hf.placement import place_model
from gaincell.mapping.load_hardware import LoadedHardware, hardware_model
from gaincell.mapping.summary import base_name, chip_of, inputs
from gaincell.progress import StageProgress
from gaincell.reports.tables import Rows
from gaincell.results.common import Chip, Kind, NamedModel, Provenance
from gaincell.results.provenance import hash_of, made
from gaincell.text import Text, open_text

if TYPE_CHECKING:
    from gaincell.cli.evaluate import ChipOptions

D = TypeVar("D")


def load_in_arrays(
    run: str, purpose: str, design: str | None, stage: str | None, computing: Computing
) -> tuple[LoadedModel, str]:
    """A RUN or a stage of it, on another chip if one is named, and in words what it is, which is printed.

    Raises:
        GaincellError: before it is loaded, where it is none, or the chip is not acceptable; after, where the
            stage is in software.
    """
    check_run(run, purpose)
    choose_chip(run, design)
    refusal = f"stage {stage} of {run} is in software; name a stage in arrays"
    return load_evaluated(run, computing, design, stage=stage, refusal=refusal)


def load_evaluated(
    model: str,
    computing: Computing,
    design: str | None = None,
    cell: str | None = None,
    window: int | None = None,
    other_latency: float | None = None,
    *,
    stage: str | None = None,
    refusal: str = "",
) -> tuple[LoadedModel, str]:
    """A model in arrays or in software, with another chip, cell, window or other latency where one is given,
    and in words what it is, which is printed. `refusal` is said of a model in software; empty: it is allowed.

    Raises:
        GaincellError: there is no such model, stage, chip or cell, or they do not fit.
    """
    dtype = computing.weights if isinstance(computing, ComputingAnywhere) else torch.float32
    loaded = load_model(model, dtype, stage, computing.backend)
    software = not layers_in_use(loaded.model)
    changed = any(one is not None for one in (design, cell, window, other_latency))
    if software and (refusal or changed):
        computing_layers(loaded.model)  # raises for a model set to softmax attention, with what to do
    if software and refusal:
        raise InputError(refusal)
    words = AS_SAVED if attached_layers(loaded.model) else "the pretrained model"
    words += ", in software" if software else ""
    if stage is not None:
        words = f"stage {stage} of the RUN"
    words += change_chip(loaded.model, design, cell, window, other_latency)
    loaded = replace(loaded, own={**loaded.own, **inputs_of_design(design), **inputs_of_cell(cell)})
    place_model(loaded.model, computing.device)
    typer.echo(f"{model}: {words}")
    return loaded, words


def read_blocks(
    loaded: LoadedModel, text: Text, tokens: int, sequences: int, progress: StageProgress
) -> Tensor:
    """The first sequences of the evaluation part of a text, [sequences, tokens].

    Raises:
        InputError: the text or the model's context is too short.
    """
    check_length(loaded.model, tokens)
    reading = progress("read and tokenise the text")
    stream = read_tokens(loaded, text, "evaluation", tokens * sequences, reading, block=tokens)
    return cut_blocks(stream, tokens)[:sequences]


def observe_model(
    model: str,
    chip: Design | None,
    text: str,
    tokens: int | None,
    sequences: int = 1,
    *,
    most: int = 1024,
    batch: int = 1,
    device: str = "cpu",
) -> tuple[Activity, LoadedHardware, Tensor]:
    """Load a model in arrays and measure its activity, with progress bars. Behind that the model, and what it
    read: a row a sequence, each from empty arrays and by default of the model's context, at most `most`.

    Raises:
        GaincellError: there is no such model, RUN or text, the text is too short, or the model's context.
    """
    found_text = open_text(text)
    with progress_bars() as progress:
        hardware = hardware_model(model, load_design("leroux2025"), chip, progress=progress)
        loaded = hardware.loaded
        place_model(loaded.model, device)
        tokens = tokens or default_length(loaded.model, most)
        ids = read_blocks(loaded, found_text, tokens, sequences, progress)
        batches, watching = list(ids.split(batch)), progress("observe the arrays")
        found = measure_activity(loaded.model, batches, found_text.name, progress=watching)
    return found, hardware, ids


class Head(TypedDict, Generic[D]):
    """What all results of a model say, see EvaluationResult."""

    provenance: Provenance
    model: NamedModel
    design: D
    dtype: str


def head(
    loaded: LoadedModel,
    protocol: str,
    content: Tensor | list[str] | None = None,
    *,
    seed: int = 0,
    others: Mapping[str, str] | None = None,
) -> Head[Chip | None]:
    """Of a result: the model, its chip and where it comes from; others are hashes of further inputs."""
    layers = layers_in_use(loaded.model)
    chip = chip_of(layers[0].design) if layers else None
    read = {} if content is None else {"evaluation text": hash_of(content)}
    provenance = made(
        command=command_line(),
        seed=seed,
        protocol=protocol,
        design_hash=chip.hash if chip else None,
        inputs=inputs(loaded) | dict(others or {}) | read,
    )
    return {
        "provenance": provenance,
        "model": NamedModel(base_name(loaded.id), loaded.sha256),
        "design": chip,
        "dtype": str(next(loaded.model.parameters()).dtype).removeprefix("torch."),
    }


def in_arrays(found: Head[Chip | None]) -> Head[Chip]:
    """The head of a result of a model that is in arrays."""
    chip = found["design"]
    assert chip is not None
    return {**found, "design": chip}


def numbers_of(loaded: LoadedModel) -> Kind:
    """The numbers of a chip are simulated, those of software are measured."""
    return "simulated" if layers_in_use(loaded.model) else "measured"


def mismatch_of(options: ChipOptions, loaded: LoadedModel) -> Mismatch:
    """The spread of the cells of a model's chips: the design's, or the one that was asked for."""
    layers = layers_in_use(loaded.model)
    own = layers[0].design.mismatch if layers else Mismatch()
    if options.spread is not None:
        own = own.with_spread(options.spread)
    return own if options.seed is None else replace(own, seed=options.seed)


def one_row(row: dict[str, str], caption: str) -> Rows:
    """A table of numbers by their headings."""
    return Rows("", (*row,), [(*row.values(),)], caption, text=())
