"""Sizes of a model for cost estimates, without reading its weights."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig

from gaincell.chips.design import Design
from gaincell.chips.design_file import load_design
from gaincell.costs.activity import Activity
from gaincell.costs.roll_up import ModelCost, of_model
from gaincell.costs.size import ModelSize, shipped_sizes
from gaincell.costs.technology import load_technology
from gaincell.errors import InputError, ModelError
from gaincell.integrations.hf.base_model import build_empty, without_weights
from gaincell.integrations.hf.completeness import stored_types
from gaincell.integrations.hf.context import LONGEST_BLOCK, context_of
from gaincell.integrations.hf.hardware_record import recorded_design, saved_record
from gaincell.integrations.hf.reparametrisation import parts_among
from gaincell.integrations.hf.run import DESIGN, Run
from gaincell.integrations.hf.sources import (
    ADAPTER,
    WEIGHTS,
    adapter_record,
    find_source,
    is_adapter_on_hub,
    without_revision,
)
from gaincell.integrations.hf.support import attention_modules, geometry, own_window
from gaincell.text import sha256


def cost(
    design: Design | str | os.PathLike[str],
    model: PretrainedConfig,
    activity: Activity | None = None,
    *,
    technology: str | os.PathLike[str] = "28nm",
) -> ModelCost:
    """What the attention of a model costs on a chip, per token: energy, latency, area; cited and bottom-up.

    Example:

        >>> import gaincell
        >>> from transformers import GPT2Config
        >>> found = gaincell.cost("leroux2025", GPT2Config())
        >>> round(found.energy_cited / 144 * 1e9, 2)  # nJ, of each of the 144 heads
        6.15

    Args:
        design: The chip, the name of a shipped one, or a ``.toml`` file.
        model: The configuration of a model of transformers, of which only sizes are used.
        activity: Measured (`gaincell.evaluation.activity`); None: every code is equally likely.
        technology: A process by its name or file.

    Raises:
        ModelError: the model is not supported.
        DesignError: there is no such design.
        InputError: there is no such technology, or ``model`` is no configuration.
    """
    if not isinstance(model, PretrainedConfig):
        raise InputError(f"model is {type(model).__name__}; give the configuration of one: model.config")
    chip = load_design(design)
    size = size_of(build_empty(model, f"a model of {model.model_type}"), model.model_type)
    return of_model(size, chip, load_technology(technology), activity or Activity.assumed(chip))


def model_size(model: str | os.PathLike[str]) -> ModelSize:
    """Sizes of a model, a RUN, or one of costs/models.toml by its name there.

    Raises:
        ModelError: it cannot be found, is not supported, or its layers differ in size.
        RunError: the RUN is damaged.
    """
    name = os.fspath(model)
    shipped = shipped_sizes()
    if name in shipped:
        return shipped[name]
    run = Run(name)
    source = find_source(run.hardware.base, f"{name}: ") if run.saved else find_source(name)
    size = size_of(without_weights(source), Path(without_revision(source.id)).name)
    return with_parts(size, stored_types(hardware_files(name)))


def with_parts(size: ModelSize, names: Collection[str]) -> ModelSize:
    """The same with what the arrays of a model have beside gains and offsets, by the names of its tensors."""
    added = {key: value for part in parts_among(names) for key, value in part.costs.items()}
    return replace(size, **added)


def hardware_files(model: str | os.PathLike[str]) -> list[Path]:
    """The files that hold the weights, gains and offsets of a MODEL or a RUN, without its base model's."""
    if (run := Run(model)).saved:
        return [run.file()]
    source = find_source(run.name)
    if source.adapter is not None:
        return sorted(source.adapter.glob("adapter_model*.safetensors"))
    return sorted(source.directory.glob("model*.safetensors"))


def content_sha256(model: str | os.PathLike[str], stage: str | None = None) -> str:
    """SHA-256 of the file that a MODEL, a RUN or a stage of one is read from; of several, of their names and
    hashes. A RUN and an adapter know the weights of their base model, whose files do not count.

    Raises:
        GaincellError: there is no such model, or a file cannot be read.
    """
    if (run := Run(model)).saved or stage is not None:
        return sha256(run.file(stage))
    source = find_source(run.name)
    if source.gguf is not None:
        return sha256(source.directory / source.gguf)
    place, kinds = source.adapter or source.directory, (ADAPTER, "config.json", "*model*.bin", *WEIGHTS)
    hashes = {file.name: sha256(file) for kind in kinds for file in place.glob(kind)}
    return hashlib.sha256(repr(sorted(hashes.items())).encode()).hexdigest()


def run_design(model: str | os.PathLike[str]) -> Path | Design | None:
    """The design of a RUN, or of what `save_pretrained` wrote of an attached model or of an adapter on one;
    None for other models.

    Raises:
        RunError: a newer gaincell wrote it, or it is damaged.
        DesignError: the design in it cannot be read.
        ModelError: the model cannot be found.
    """
    if (run := Run(model)).saved:
        return run.folder / DESIGN
    if os.fspath(model) in shipped_sizes():
        return None
    source = find_source(os.fspath(model))
    if source.adapter is not None:
        return recorded_design(adapter_record(source.adapter), str(source.adapter))
    file = source.directory / "config.json"
    if source.gguf is not None or not file.is_file():
        return None
    record = saved_record(file)
    return None if record is None else recorded_design(record, str(file))


def saved_design(model: str | os.PathLike[str]) -> Design | None:
    """`run_design`, without downloading a model of the hub that is no RUN and no adapter: None for these."""
    here = Run(model).saved or Path(model).exists() or is_adapter_on_hub(os.fspath(model))
    found = run_design(model) if here else None
    return None if found is None else load_design(found)


def size_of(model: Any, title: str) -> ModelSize:
    """Sizes of a model of transformers that is not attached.

    Raises:
        ModelError: it is not supported, or its layers differ in size.
    """
    modules = list(attention_modules(model).values())
    sizes = {geometry(module) for module in modules}
    if len(sizes) > 1:
        raise ModelError(f"{title}: its layers have heads of different sizes; costs are of equal layers only")
    windows, unequal = {own_window(module) for module in modules}, ""
    if len(windows) > 1:
        unequal = "its layers have different sliding windows; costs are of equal layers only"
    experts = any(name.endswith("experts") for name, _ in model.named_modules())
    config, output = model.config.get_text_config(), model.get_output_embeddings()
    weights = sum(
        module.weight.numel()
        for module in model.modules()
        if isinstance(getattr(module, "weight", None), torch.Tensor)
        and module.weight.dim() == 2
        and not isinstance(module, nn.Embedding)
        and module is not output
    )
    return ModelSize(
        title=title,
        source="its configuration",
        layers=len(modules),
        **sizes.pop()._asdict(),
        hidden=config.hidden_size,
        linear_weights=0 if experts else weights,
        vocabulary=config.vocab_size,
        tokens=context_of(model) or LONGEST_BLOCK,
        sliding_window=own_window(modules[0]) or 0,
        unequal=unequal,
    )
