"""A model on its hardware, ready to run, from whatever a user names."""

from __future__ import annotations

import os
from typing import NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gaincell.adaptation import adapt, collect_statistics
from gaincell.config import load_design
from gaincell.design import Design
from gaincell.errors import InputError, ModelError
from gaincell.evaluation.perplexity import cut_blocks
from gaincell.integrations.hf.attach import attach, attached_layers, set_design
from gaincell.integrations.hf.checkpoint import is_run, load_run, run_directory
from gaincell.integrations.hf.chip import AS_SAVED, cells_exchanged
from gaincell.integrations.hf.context import default_length, read_tokens
from gaincell.integrations.hf.models import load_model
from gaincell.integrations.hf.sources import LoadedModel, has_tokenizer, load_base, load_tokenizer
from gaincell.mapping.folder import read_state
from gaincell.mapping.initial import calibrate
from gaincell.mapping.job import find_shipped
from gaincell.ops.gain_cell_attention import Gradient, Impl
from gaincell.progress import StageProgress, silent_stages
from gaincell.reports import results
from gaincell.text import open_text

CALIBRATION_TOKENS = 1024
ADAPTATION_TOKENS = 16_384


class Ready(NamedTuple):
    """A model with its arrays.  how: where gains and offsets come from, in words."""

    loaded: LoadedModel
    how: str


def load(
    model: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    design: Design | str | os.PathLike[str] | None = None,
    dtype: torch.dtype = torch.float32,
    impl: Impl = "auto",
    gradient: Gradient = "exact",
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """Load a model that is on its hardware, attached and in eval mode, and its tokenizer.

    Example:

        >>> import gaincell
        >>> model, tokenizer = gaincell.load("tiny")
        >>> gaincell.perplexity(model, "It was a dark night. " * 40, "blocks-64", tokenizer=tokenizer).blocks
        3

    Args:
        model: a RUN directory, a directory or hub id that `save_pretrained` (of the model, or of a wrapper of
            peft) or `gaincell export` wrote, a RUN on the hub, or `tiny`, which comes as its shipped linear
            hardware version. An adapter of peft is merged into its base model.
        base: where the base model of a RUN or an adapter is now, if not where it was.
        design: another design than the one saved (another chip, another cell), its name or file.
        dtype: of the model's weights; gains and offsets are float64.
        impl: see `attach`.
        gradient: see `attach`.

    Returns:
        The model, and its tokenizer; None where there is none beside it.

    Raises:
        RunError: a file is not what it should be, or the base model has changed.
        ModelError: there is no such model, it holds no hardware, or a stored tensor is NaN or infinite.
        DesignError: there is no such design.
    """
    name = os.fspath(model)
    shipped = find_shipped(name)
    if is_run(name):
        found = load_run(name, base=base, design=design, dtype=dtype, impl=impl, gradient=gradient)
    else:
        found = load_base(name, dtype, base=base)
        if shipped is not None:
            attach(found.model, load_design("leroux2025").replace(cell="linear"))
            read_state(found.model, shipped.linear)
        cells = attached_layers(found.model)
        if not cells:
            raise ModelError(
                f"{name!r} is a softmax model: load it with transformers' from_pretrained and attach it "
                "(gaincell.attach); gaincell.load reads what was saved attached"
            )
        if design is not None:
            set_design(found.model, design)
        for cell in cells:
            cell.impl, cell.gradient = impl, gradient
    return found.model, load_tokenizer(found.source) if has_tokenizer(found.source) else None


def hardware_model(
    name: str,
    default_design: Design,
    design: Design | None = None,
    *,
    impl: str = "auto",
    dtype: torch.dtype = torch.float32,
    progress: StageProgress = silent_stages,
) -> Ready:
    """Load a model and see to it that it runs in arrays.

    A RUN is what it is. An embedded model takes its shipped linear hardware version, so its cell is the
    linear one. Any other model gets first gains and offsets from statistics of the text `sample`, also for
    the linear cell: without training it writes noise, but it runs.

    Args:
        name: a model or a RUN.
        default_design: for models that bring no design.
        design: instead of the model's own or the default one; its cell is used as it is, and `how` says so.
        dtype: of the weights.

    Raises:
        GaincellError: the model cannot be found or mapped.
    """
    loaded = load_model(name, dtype)
    shipped = find_shipped(name)
    if attached_layers(loaded.model):
        how = f"{AS_SAVED}{_trained(name)}"
        if design is not None:
            how += cells_exchanged(attached_layers(loaded.model)[0].design, design)
            set_design(loaded.model, design)
        return Ready(loaded, how)
    chip = design or default_design.replace(cell="linear")
    attach(loaded.model, chip, impl=impl)  # type: ignore[arg-type]
    if shipped is not None:
        read_state(loaded.model, shipped.linear)
        return Ready(loaded, shipped.words + cells_exchanged(chip.replace(cell="linear"), chip))
    ids = read_tokens(loaded, open_text("sample"), "training", CALIBRATION_TOKENS).long()[None]
    context = default_length(loaded.model, CALIBRATION_TOKENS)
    fitting = progress("first gains and offsets")
    calibrate(loaded.model, [ids[:, :context]], progress=fitting)
    return Ready(
        loaded, "first gains and offsets from statistics, untrained: expect noise (see gaincell map)"
    )


def adapted_model(
    name: str, chip: Design, *, impl: str = "auto", progress: StageProgress = silent_stages
) -> Ready:
    """An embedded model on the cells of a chip: its shipped linear version, with gains and offsets adapted to
    them in closed form on the training part of the text `sample`.

    Raises:
        GaincellError: there is no shipped version of the model, or the text cannot be read.
    """
    if find_shipped(name) is None:
        raise InputError(f"{name} has no linear hardware version to adapt; give a RUN (see gaincell map)")
    ready = hardware_model(name, chip.replace(cell="linear"), impl=impl, progress=progress)
    if chip.cell.name == "linear":
        return ready
    model = ready.loaded.model
    ids = read_tokens(ready.loaded, open_text("sample"), "training", ADAPTATION_TOKENS)
    batches = [cut_blocks(ids, default_length(model)).long()]
    target = collect_statistics(model, batches, progress("statistics of the linear version"))
    set_design(model, chip)
    adapt(model, batches, target, progress=progress("adapt to the chip's cells"))
    how = f"{ready.how}, then adapted in closed form to {chip.cell.name} cells, without training on them"
    return Ready(ready.loaded, how)


def _trained(run: str) -> str:
    """How long a RUN was trained, in words; empty where it does not say."""
    path = run_directory(run) / results.FILE
    made = results.read(path) if path.is_file() else {}
    tokens = results.number(results.saved_stage(made)["training_tokens"]) if made.get("stages") else 0
    return f", trained on {tokens:,.0f} tokens" if tokens else ""
