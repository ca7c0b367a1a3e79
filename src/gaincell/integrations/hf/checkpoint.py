"""Adapted models on disk: only what the hardware adds to, and changes in, a pretrained model.

A RUN directory holds ``design.toml`` (the chip) and ``hardware.safetensors``: gains and offsets of every
layer, with what else it has (reparametrisation.py), and each weight that differs from the base model, with
the base model's name and fingerprint. Reading it back loads the base model anew, makes sure that it is still
the same, and puts the changes on top. Factors of low-rank adapters and matrices of mixing are kept in 16
bits; what is read back has both in its weights.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from gaincell.chips.design import Design
from gaincell.errors import GaincellError, ModelError, RunError
from gaincell.files import write_directory, write_tensors, write_text
from gaincell.integrations.hf import reparametrisation as parts
from gaincell.integrations.hf.attach import attach, attached_layers, attached_model, computes_softmax
from gaincell.integrations.hf.base_model import BaseModel, base_weights, check_finite, check_finite_tensor
from gaincell.integrations.hf.hardware_record import saved_record
from gaincell.integrations.hf.interface import arrays_of
from gaincell.integrations.hf.lora import (
    FACTORS,
    add_product,
    factors,
    lora_name,
    refuse_prompts,
    without_adapters,
)
from gaincell.integrations.hf.pretrained import check_whole
from gaincell.integrations.hf.run import (
    DESIGN,
    FORMAT,
    HARDWARE,
    Hardware,
    Run,
    do_again,
    find_base,
    read_metadata,
    refuse_second_model,
)
from gaincell.integrations.hf.sources import ADAPTER, pretrained_id
from gaincell.nn.checks import check_precision, common_design
from gaincell.ops.gain_cell_attention import BackendName, Gradient
from gaincell.resources import begun
from gaincell.results.run import FILE

ADAPTER_DTYPE = torch.float16
"""Of the factors of adapters and of mixing: their values lie far inside its range."""
_NO_PART = re.compile(
    r"_.*|architectures|auto_map|(torch_)?dtype|transformers_version|quantization_config|use_cache|"
    r"output_.*|(use_)?return_dict|.*_token_id|.*(drop|label).*|problem_type|attn_implementation"
)
"""Entries of a configuration that say nothing about what a model in eval mode computes."""


def save(
    model: nn.Module, run: str | os.PathLike[str], *, base: BaseModel | str | os.PathLike[str] | None = None
) -> Path:
    """Write the attached ``model`` into the directory ``run`` and return this; see ``gaincell.load``.

    Only what differs from the pretrained model is written; factors of low-rank adapters and matrices of
    mixing in 16 bits, which changes logits a little. ``save_pretrained`` keeps every bit: that of the wrapper
    of peft writes the adapter, that of the model a directory that stands alone.

    Example:

        >>> import gaincell, tempfile
        >>> model, _ = gaincell.load("tiny")
        >>> run = gaincell.save(model, tempfile.mkdtemp())
        >>> sorted(file.name for file in run.iterdir())
        ['design.toml', 'hardware.safetensors']

    Args:
        model: an attached model that was loaded from somewhere (``model.name_or_path``), with or without the
            adapters of ``lora.add_lora`` or of a wrapper of peft.
        run: The directory, made if it is missing; each file in it is replaced as a whole. It must not hold
            results (run.json), which would then be those of another model, a RUN that is not finished, or a
            model in arrays that save_pretrained wrote.
        base: The model's pretrained original, or what ``load_model`` takes to load it; None: what
            ``model.name_or_path`` says, at the commit that it was loaded from.

    Raises:
        ModelError: the model is not attached, or set to softmax attention, has weights that are NaN or
            infinite, or has learned prompts.
        RunError: the base model cannot be found again, does not fit or has another configuration, the
            directory holds one of these, or the disk is full.

    Not modelled: adapters of other kinds; merge them first.
    """
    if computes_softmax(model):
        raise ModelError(
            "a RUN holds a model in arrays, and this one is set to softmax attention: call "
            "gaincell.set_attention(model, 'gain-cell') first, or save_pretrained, which keeps the attention"
        )
    if (Path(run) / FILE).exists():
        raise RunError(
            f"{run} holds the results of another model ({FILE}); choose another directory, or remove it"
        )
    if begun(Path(run)):
        raise RunError(f"{run} holds a RUN that is not finished; choose another directory")
    whole = [Path(run) / name for name in ("config.json", ADAPTER)]
    refuse_second_model(run, *(path.name for path in whole if path.is_file() and saved_record(path)))
    return save_beside_results(model, run, base)


def save_beside_results(
    model: nn.Module, run: str | os.PathLike[str], base: BaseModel | str | os.PathLike[str] | None = None
) -> Path:
    """`save` for who also writes the model's results there."""
    owner = attached_model(model)
    if isinstance(model, PreTrainedModel):
        check_whole(model)
    refuse_prompts(model)
    if not isinstance(base, BaseModel):
        base = find_base(base or pretrained_id(owner), next(iter(base_weights(owner).values())).dtype)
    _check_configuration(owner.config, base.model.config)
    return save_differences(owner, run, base_weights(base.model), base.source.id, base.sha256)


def _check_configuration(own: PretrainedConfig, base: PretrainedConfig) -> None:
    """Refuse a configuration that makes another model of the same weights."""
    here, there = (
        dict(_entries(json.loads(config.to_json_string(use_diff=False)))) for config in (own, base)
    )
    changed = [
        f"{name} = {here.get(name)!r} (base model: {there.get(name)!r})"
        for name in {**here, **there}
        if here.get(name) != there.get(name)
    ]
    if changed:
        raise RunError(
            f"a RUN holds no configuration, and the model's is not that of its base model: "
            f"{', '.join(changed)}; use the model's save_pretrained, which keeps it"
        )


def _entries(config: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    """The entries of a configuration that matter, those of tables by dotted names."""
    for name, value in config.items():
        if _NO_PART.fullmatch(name):
            continue
        if isinstance(value, dict):
            yield from _entries(value, f"{where}{name}.")
        else:
            yield f"{where}{name}", value


def save_differences(
    model: PreTrainedModel,
    run: str | os.PathLike[str],
    original: Mapping[str, Tensor],
    base: str,
    base_sha256: str,
) -> Path:
    """`save` for who holds the `original` weights, by their names in the base model.

    `base` and `base_sha256` are what `Hardware` says about it.
    """
    cells = attached_layers(model)
    design = common_design(cells)
    check_precision(cells, "cannot save")
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ModelError("cannot save: weights lie on the disk (device_map); load the model whole")
    check_finite(model, where="cannot save")
    tensors = _changed(without_adapters(base_weights(model)), original)
    tensors |= {name: factor.to(ADAPTER_DTYPE) for name, factor in factors(model).items()}
    tensors |= {n: t.to(ADAPTER_DTYPE) if parts.is_trained(n) else t for n, t in _of_arrays(model).items()}
    contents = {
        name: checked(name, value.detach().to("cpu").contiguous(), "cannot save", "clamp it while training")
        for name, value in tensors.items()
    }
    metadata = {"format": FORMAT} | Hardware(base, base_sha256, design.hash)._asdict()
    chip = design.to_toml()

    def write(place: Path) -> None:
        write_text(place / DESIGN, chip)
        write_tensors(place / HARDWARE, contents, metadata)

    return write_directory(Path(run), write, last=HARDWARE, replaces=())


def load_run(
    run: str | os.PathLike[str],
    *,
    stage: str | None = None,
    base: str | os.PathLike[str] | None = None,
    design: Design | str | os.PathLike[str] | None = None,
    dtype: torch.dtype = torch.float32,
    backend: BackendName = "auto",
    gradient: Gradient = "exact",
) -> BaseModel:
    """Read an adapted model back, attached and in eval mode, together with the source of its base model.

    Args:
        run: A RUN directory.
        stage: A finished stage of `gaincell train` instead of what is saved, by its name in the recipe; one
            with softmax attention is not attached.
        base: Where the base model is now, if not where it was.
        design: Another design than the one saved (another chip, another cell), its name or file.
        dtype: Of the model's weights; gains and offsets are float64.
        backend: See ``attach``.
        gradient: See ``attach``.

    Raises:
        RunError: the directory or a file in it is not what it should be, it has no such stage, or the base
            model is not found or has changed.
        ModelError: a stored tensor is NaN or infinite.
    """
    held = Run(run)
    chip = design if stage is None and design is not None else held.design_of(stage)
    found = held.base(base, dtype)
    if chip is not None:
        attach(found.model, design or chip, backend=backend, gradient=gradient)
    path = held.file(stage)
    if stage is not None:
        read_state(found.model, path)
    else:
        put(found.model, read(path), str(path))
        check_finite(found.model, where=str(path))
    return found


def load_for_training(model: PreTrainedModel, run: str | os.PathLike[str], stage: str | None = None) -> None:
    """Put the adapters of a RUN, or of a stage, into a model that has adapters of the same rank, in place, to
    train them further; of an attached model gains, offsets, mixing, paired and balanced rows as well.

    Raises:
        RunError: it was made from another base model, has other adapters, or is damaged.
        ModelError: see `read`.
    """
    held = Run(run)
    path, scale = held.file(stage), float(held.metadata(stage).get("lora_scale", 1.0))
    wanted = {n: p.shape for n, p in model.named_parameters() if ".gain_cell." in n or ".lora_" in n}
    wanted |= {n: t.shape for n, t in parts.indices(model).items() if parts.part_of(n).restore is None}
    stored = read(path)
    found = {lora_name(n): t.shape for n, t in stored.items() if parts.part_of(n).restore is None}
    unfit = wanted.keys() ^ found.keys() or {name for name in wanted if wanted[name] != found[name]}
    if unfit or scale != 1.0:
        raise RunError(
            f"{path} cannot be trained further here: {min(unfit, default='its scale')} ({len(unfit)} "
            "tensors) is in one only or has another shape; give the rank, layers, mixing, biases and "
            "exponents that it was made with, and array_normaliser, balanced and rotated_values where it has "
            "them"
        )
    put(model, stored, str(path))


def _changed(weights: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights that differ from the base model's, compared in their own type."""
    if odd := weights.keys() ^ base.keys():
        raise RunError(
            f"the model and its base model have different weights ({min(odd)} is in one only): merge "
            "adapters (peft: merge_and_unload) and undo other changes of structure before saving"
        )
    changed: dict[str, Tensor] = {}
    for name, weight in weights.items():
        original = base[name].to(weight.device, weight.dtype)
        if weight.shape != original.shape:
            raise RunError(
                f"weight {name} has shape {tuple(weight.shape)}, in the base model {tuple(original.shape)}: "
                "undo the change of structure before saving"
            )
        if not torch.equal(weight, original):
            changed[name] = weight
    return changed


def _of_arrays(model: nn.Module) -> dict[str, Tensor]:
    """What belongs to the arrays in use, by name: gains, offsets and the like, and kept components."""
    return {
        f"{name}.gain_cell{own}": tensor
        for name, module in model.named_modules()
        if (cell := arrays_of(module)) is not None
        for own, tensor in cell.state_dict(prefix=".").items()
        if not parts.is_copy(own)
    }


def read(
    path: Path, part: str = "", *, positive: bool = True, advice: str = "save the model again"
) -> dict[str, Tensor]:
    """The tensors of a file whose names contain `part`, each `checked`.

    Raises:
        RunError: it cannot be read, or one cannot be what its name says.
        ModelError: one is NaN or infinite.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {
                name: checked(name, file.get_tensor(name), str(path), advice, positive=positive)
                for name in file.keys()  # noqa: SIM118 (not a mapping)
                if part in name and not parts.is_copy(name)
            }
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path} cannot be read ({error}); {advice}") from error


def checked(name: str, tensor: Tensor, where: str, advice: str, *, positive: bool = True) -> Tensor:
    """A stored tensor that can be what its name says: floating-point (gains and offsets of 32 bits or more)
    and finite, no direction of length 0, and where they must be `positive`, as in a RUN, gains above 0.
    A refusal states the file, `where` it is from, and as `advice` what to do.

    Raises:
        RunError: it is not.
        ModelError: it is NaN or infinite.
    """
    if parts.is_index(name):
        return tensor
    least = 4 if ".gain_cell." in name and name.endswith((".gain", ".offset")) else 1
    if not tensor.is_floating_point() or tensor.itemsize < least:
        raise RunError(f"{where}: {name} is {tensor.dtype}, no floats of {8 * least} bits or more; {advice}")
    check_finite_tensor(name, tensor, where)
    if name.endswith(parts.part_of(name).directions) and bool((tensor == 0).all(-1).any()):
        raise RunError(f"{where}: {name} has a direction of length 0; {advice}")
    if positive and least > 1 and name.endswith(".gain") and bool((tensor <= 0).any()):
        raise RunError(f"{where}: {name} is not above 0, as every gain is; {advice}")
    return tensor


@torch.no_grad()
def put(
    model: PreTrainedModel,
    tensors: Mapping[str, Tensor],
    where: str,
    *,
    part: bool = False,
    scale: float = 1.0,
    advice: str = "save the model again",
) -> None:
    """Put stored tensors into the parameters of the same names, in place; the model gets the biases,
    exponents, normalisers, paired and balanced rows that are stored. Adapters and mixing, where it has none,
    go into its weights.

    Args:
        model: attached, where there are gains and offsets.
        tensors: By the names of parameters; factors of adapters also by those in a RUN.
        where: They were read from, for errors.
        advice: What to do, for errors.
        part: Whether gains and offsets of the model may be missing.
        scale: s / r of adapters, where they go into weights.

    Raises:
        RunError: they are not those of this model.
        ModelError: they have paired or balanced rows, and the model's chip has queries with a sign; or
            balanced rows, and it gives no full pulses.
    """
    for cell in attached_layers(model)[:1]:
        for held in parts.parts_among(tensors):
            held.check_chip(cell.design)
    try:
        parts.add_stored_parts(model, tensors)
        parameters = dict(model.named_parameters())
        tensors = {lora_name(name): tensor for name, tensor in tensors.items() if not parts.is_index(name)}
        plain = {n: t for n, t in tensors.items() if n in parameters}
        others = {n: t for n, t in tensors.items() if n not in parameters}
        layers = sorted({n.removesuffix(end) for end in FACTORS for n in others if n.endswith(end)})
        unfit = {n for n in others if not parts.is_trained(n) and not n.endswith(FACTORS)}
        unfit |= {n for n, t in plain.items() if parameters[n].shape != t.shape}
        if not part:
            unfit |= {name for name in parameters if ".gain_cell." in name} - plain.keys()
        if unfit:
            raise RunError(f"{min(unfit)} ({len(unfit)} tensors)")
        for name, tensor in plain.items():
            parameters[name].copy_(tensor)
        for held in parts.parts_among(others):
            if held.fold is not None:
                held.fold(model, others)
        for layer in layers:
            a, b = (others[layer + end] for end in FACTORS)
            add_product(model.get_submodule(layer), a, b * scale)
    except (AttributeError, KeyError, RuntimeError, GaincellError) as error:
        raise RunError(f"{where} does not fit the base model: {error}; {advice}") from error


def trained_parameters(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that require a gradient, by name."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def write_state(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Store the state of a stage, tensors by name, completely or not at all."""
    contents = {name: tensor.to("cpu").contiguous() for name, tensor in tensors.items()}
    write_tensors(path, contents, metadata)


def read_state(model: PreTrainedModel, path: Path) -> None:
    """Put the state of a stage into a model, in place. Raises what `read` and `put` do."""
    advice = do_again(path)
    scale = float(read_metadata(path, advice).get("lora_scale", 1.0))
    put(model, read(path, advice=advice), str(path), part=True, scale=scale, advice=advice)
