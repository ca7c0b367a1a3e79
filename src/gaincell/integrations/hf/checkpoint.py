"""Adapted models on disk: only what the hardware adds to, and changes in, a pretrained model.

A RUN directory holds ``design.toml`` (the chip) and ``hardware.safetensors``: gains and offsets of every
layer and each weight that differs from the base model, with the base model's name and fingerprint. Reading
it back loads the base model anew, makes sure that it is still the same, and puts the changes on top. Of
low-rank adapters the two factors are kept, in 16 bits, and of mixing the matrices; what is read back has both
in its weights. Of paired rows the numbers of the components are kept. Biases, exponents and normalisers
stand beside gains and offsets.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from gaincell.config import load_design
from gaincell.design import Design
from gaincell.errors import GaincellError, ModelError, RunError
from gaincell.files import write_tensors
from gaincell.integrations.hf.attach import attach, attached_layers, attached_model
from gaincell.integrations.hf.digital_scaling import hold_digital_scaling
from gaincell.integrations.hf.interface import arrays_of
from gaincell.integrations.hf.lora import add_product, factors, lora_name, refuse_prompts, without_adapters
from gaincell.integrations.hf.reparametrisation import hold_indices, is_copy, is_index, is_trained
from gaincell.integrations.hf.reparametrisation import put as put_reparametrisation
from gaincell.integrations.hf.sources import (
    BaseModel,
    base_weights,
    check_finite,
    check_finite_tensor,
    hub_directory,
    load_base,
    pretrained_id,
)
from gaincell.nn.array_normaliser import NORMALISER
from gaincell.nn.attention import common_design
from gaincell.ops.gain_cell_attention import Gradient, Impl
from gaincell.shipped import located

HARDWARE = "hardware.safetensors"
DESIGN = "design.toml"
RUN_FILES = (HARDWARE, DESIGN, "run.json")
"""Of a RUN on the hub, what is downloaded."""
ADAPTER_DTYPE = torch.float16
"""Of the factors of adapters and of mixing: their values lie far inside its range."""
_FORMAT = "gaincell-hardware-1"


class Hardware(NamedTuple):
    """What ``hardware.safetensors`` says about itself."""

    base: str
    """the base model, as ``load_model`` takes it; of a hub model with the commit, where it was known"""
    base_sha256: str
    """fingerprint the base model had"""
    design_hash: str
    """hash of the design it was saved with"""


def run_directory(run: str | os.PathLike[str]) -> Path:
    """Where a RUN is read from: its directory, what is shipped under its name, or its copy of one on the hub.

    Returns `run` where there is none, so that errors name what was given.
    """
    place = located(run)
    return place if place.exists() else hub_directory(os.fspath(run), HARDWARE, RUN_FILES) or place


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` is a RUN directory with a saved model, or the name of one shipped or on the hub."""
    return (run_directory(path) / HARDWARE).is_file()


def save(
    model: nn.Module,
    run: str | os.PathLike[str],
    *,
    base: BaseModel | str | os.PathLike[str] | None = None,
) -> Path:
    """Write the attached ``model`` into the directory ``run``; see ``gaincell.load``.

    Only what differs from the pretrained model is written (see the head of this file); factors of low-rank
    adapters in 16 bits, which changes logits a little. ``save_pretrained`` keeps every bit: that of the
    wrapper of peft writes the adapter, that of the model a directory that stands alone.

    Example:

        >>> import gaincell, tempfile
        >>> model, _ = gaincell.load("tiny")
        >>> run = gaincell.save(model, tempfile.mkdtemp())
        >>> sorted(file.name for file in run.iterdir())
        ['design.toml', 'hardware.safetensors']

    Args:
        model: an attached model that was loaded from somewhere (``model.name_or_path``), with or without the
            adapters of ``lora.add_lora`` or of a wrapper of peft.
        run: the directory, made if it is missing; each file in it is replaced as a whole.
        base: the model's pretrained original, or what ``load_model`` takes to load it; None: what
            ``model.name_or_path`` says, at the commit that it was loaded from.

    Returns:
        The directory.

    Raises:
        ModelError: the model is not attached, has weights that are NaN or infinite, or has learned prompts.
        RunError: the base model cannot be found again or does not fit, or the disk is full.

    Not modelled: adapters of other kinds; merge them first.
    """
    owner = attached_model(model)
    refuse_prompts(model)
    if not isinstance(base, BaseModel):
        base = _find_base(base or pretrained_id(owner), next(iter(base_weights(owner).values())).dtype)
    return save_differences(owner, run, base_weights(base.model), base.source.id, base.sha256)


def save_differences(
    model: PreTrainedModel,
    run: str | os.PathLike[str],
    original: Mapping[str, Tensor],
    base: str,
    base_sha256: str,
) -> Path:
    """`save` for who holds the pretrained weights.

    Args:
        model, run: see `save`.
        original: the weights of the base model, by the names that they have there.
        base, base_sha256: what `Hardware` says about it.

    Raises:
        ModelError: the model is not attached, or has weights that are NaN or infinite.
        RunError: the base model does not fit, or the disk is full.
    """
    design = common_design(attached_layers(model))
    check_finite(model, where="cannot save")
    tensors = _changed(without_adapters(base_weights(model)), original)
    tensors |= {name: factor.to(ADAPTER_DTYPE) for name, factor in factors(model).items()}
    tensors |= {n: t.to(ADAPTER_DTYPE) if is_trained(n) else t for n, t in _of_arrays(model).items()}
    metadata = {
        "format": _FORMAT,
        "base": base,
        "base_sha256": base_sha256,
        "design_hash": design.hash,
    }
    contents = {
        name: checked(name, value.detach().to("cpu").contiguous(), "cannot save", "clamp it while training")
        for name, value in tensors.items()
    }
    directory = Path(run)
    design.save(directory / DESIGN)
    write_tensors(directory / HARDWARE, contents, metadata)
    return directory


def load_run(
    run: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    design: Design | str | os.PathLike[str] | None = None,
    dtype: torch.dtype = torch.float32,
    impl: Impl = "auto",
    gradient: Gradient = "exact",
) -> BaseModel:
    """Read an adapted model back, attached and in eval mode, together with the source of its base model.

    Args:
        run: a RUN directory.
        base: where the base model is now, if not where it was.
        design: another design than the one saved (another chip, another cell), its name or file.
        dtype: of the model's weights; gains and offsets are float64.
        impl: see ``attach``.
        gradient: see ``attach``.

    Raises:
        RunError: the directory or a file in it is not what it should be, or the base model has changed.
        ModelError: a stored tensor is NaN or infinite.
    """
    directory = run_directory(run)
    hardware = describe(directory)
    found = unchanged_base(directory, hardware, base, dtype)
    attach(found.model, design or saved_design(directory, hardware), impl=impl, gradient=gradient)
    where = str(directory / HARDWARE)
    put(found.model, read(directory / HARDWARE), where)
    check_finite(found.model, where=where)
    return found


def unchanged_base(
    directory: Path,
    hardware: Hardware,
    base: str | os.PathLike[str] | None = None,
    dtype: torch.dtype | None = torch.float32,
) -> BaseModel:
    """The base model of a RUN, as it was when the RUN was saved.

    base: see `load_run`.  dtype: see `load_base`.

    Raises:
        RunError: it is not found, or has changed.
    """
    found = _find_base(base or hardware.base, dtype, where=f"{directory}: ")
    if found.sha256 != hardware.base_sha256:
        raise RunError(
            f"{directory}: its base model {found.source.id!r} has changed since it was saved (sha256 "
            f"{hardware.base_sha256[:12]} then, {found.sha256[:12]} now); restore it, or say where the old "
            "one is (base=)"
        )
    return found


@torch.no_grad()
def load_for_training(model: PreTrainedModel, run: str | os.PathLike[str]) -> None:
    """Put the adapters, gains, offsets, mixing and paired rows of a RUN into an attached model that has
    adapters of the same rank, in place, to train them further.

    Raises:
        RunError: the RUN was made from another base model, has other adapters, or is damaged.
        ModelError: a stored tensor is NaN or infinite.
    """
    path = run_directory(run) / HARDWARE
    describe(run)
    parameters = dict(model.named_parameters())
    wanted = {name for name in parameters if ".gain_cell." in name or ".lora_" in name}
    stored = read(path)
    found = {lora_name(name): tensor for name, tensor in stored.items() if not is_index(name)}
    unfit = wanted ^ found.keys() or {n for n in wanted if parameters[n].shape != found[n].shape}
    if unfit:
        raise RunError(
            f"{path} cannot be trained further here: {min(unfit)} ({len(unfit)} tensors) is in one only or "
            "has another shape; give the rank, layers, mixing, biases and exponents that it was made with, "
            "and array_normaliser where it has one"
        )
    hold_indices(model, stored)
    for name in wanted:
        parameters[name].copy_(found[name])


def describe(run: str | os.PathLike[str]) -> Hardware:
    """What a RUN says about its base model and design, without loading either.

    Raises:
        RunError: it is not a RUN directory, or its file is damaged or of another version.
    """
    path = run_directory(run) / HARDWARE
    if not path.is_file():
        raise RunError(f"{run} is not a RUN directory with a saved model: {HARDWARE} is missing")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path} cannot be read ({error}); save the model again") from error
    if metadata.get("format") != _FORMAT:
        raise RunError(
            f"{path} has format {metadata.get('format')!r}, this gaincell reads {_FORMAT!r}; upgrade "
            "gaincell (pip install -U gaincell), or save the model again"
        )
    missing = [key for key in ("base", "base_sha256", "design_hash") if key not in metadata]
    if missing:
        raise RunError(f"{path} does not say its {missing[0]}: it is damaged; save the model again")
    return Hardware(metadata["base"], metadata["base_sha256"], metadata["design_hash"])


def _find_base(
    model: str | os.PathLike[str] | None, dtype: torch.dtype | None = torch.float32, where: str = ""
) -> BaseModel:
    if not model:
        raise RunError(
            "the model does not say which pretrained model it was made from: load it with gaincell's "
            "load_model or with from_pretrained, or pass base="
        )
    try:
        return load_base(model, dtype, f"{where}the base model is needed: ")
    except ModelError as error:
        raise RunError(f"{where}the base model is needed: {error}") from error


def _changed(weights: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights that differ from the base model's, compared in their own type."""
    if weights.keys() != base.keys():
        name = min(weights.keys() ^ base.keys())
        raise RunError(
            f"the model and its base model have different weights ({name} is in one only): merge adapters "
            "(peft: merge_and_unload) and undo other changes of structure before saving"
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


def saved_design(directory: Path, hardware: Hardware) -> Design:
    """The design that a RUN was saved with. Raises RunError where it is not there any more."""
    if not (directory / DESIGN).is_file():
        raise RunError(f"{directory} lacks {DESIGN}, the design its model was saved with; restore it")
    try:
        design = load_design(directory / DESIGN)
    except GaincellError as error:
        raise RunError(
            f"{error}; if a newer gaincell wrote it, upgrade this one (pip install -U gaincell)"
        ) from error
    if design.hash != hardware.design_hash:
        raise RunError(
            f"{directory / DESIGN} is not the design the model was saved with (hash {design.hash}, saved "
            f"with {hardware.design_hash}); restore it"
        )
    return design


def _of_arrays(model: nn.Module) -> dict[str, Tensor]:
    """What belongs to the arrays in use, by name: gains, offsets and the like, and kept components."""
    return {
        f"{name}.gain_cell{own}": tensor
        for name, module in model.named_modules()
        if (cell := arrays_of(module)) is not None
        for own, tensor in cell.state_dict(prefix=".").items()
        if not is_copy(own)
    }


def read(path: Path, part: str = "", *, positive: bool = True) -> dict[str, Tensor]:
    """The tensors of a file whose names contain `part`.

    positive: whether gains must be, as those of a RUN.

    Raises:
        RunError: one of them cannot be what its name says, or is damaged.
        ModelError: one is NaN or infinite.
    """
    with safe_open(path, framework="pt") as file:
        return {
            name: checked(name, file.get_tensor(name), str(path), "save the model again", positive=positive)
            for name in file.keys()  # noqa: SIM118 (not a mapping)
            if part in name and not is_copy(name)
        }


def checked(name: str, tensor: Tensor, where: str, advice: str, *, positive: bool = True) -> Tensor:
    """A stored tensor that can be what its name says: floating-point and finite, a gain above 0, no
    direction of length 0.

    Args:
        name: of the tensor in its file.
        tensor: as it was read.
        where: the file, and advice: what to do, for the refusal.
        positive: whether a gain must be above 0.

    Raises:
        RunError: it holds no floating-point numbers, a gain that is not above 0, or such a direction.
        ModelError: it is NaN or infinite.
    """
    if is_index(name):
        return tensor
    if not tensor.is_floating_point():
        raise RunError(f"{where}: {name} is {tensor.dtype}, no floating-point numbers; {advice}")
    check_finite_tensor(name, tensor, where)
    if name.endswith(NORMALISER[0]) and bool((tensor == 0).all(-1).any()):
        raise RunError(f"{where}: {name} has a direction of length 0; {advice}")
    if positive and ".gain_cell." in name and name.endswith(".gain") and bool((tensor <= 0).any()):
        raise RunError(f"{where}: {name} is not above 0, as every gain is; {advice}")
    return tensor


def put(model: PreTrainedModel, tensors: dict[str, Tensor], where: str) -> None:
    """Put saved gains, offsets and weights into an attached model, then mixing and adapters into weights.

    where: they were read from, for errors.

    Raises:
        RunError: they are not those of this model.
    """
    try:
        hold_digital_scaling(model, tensors)
    except RunError as error:
        raise RunError(f"{where} does not fit the base model: {error}; save it again") from error
    parameters = dict(model.named_parameters())
    ends = (".weight.lora_A", ".weight.lora_B")
    plain = {n: t for n, t in tensors.items() if not (is_trained(n) or is_index(n) or n.endswith(ends))}
    expected = {name for name in parameters if ".gain_cell." in name}
    unfit = sorted((expected - plain.keys()) | (plain.keys() - parameters.keys()))
    unfit += sorted(n for n in plain.keys() & parameters.keys() if plain[n].shape != parameters[n].shape)
    if unfit:
        raise RunError(
            f"{where} does not fit the base model: {unfit[0]} ({len(unfit)} tensors); save the model again"
        )
    with torch.no_grad():
        for name, tensor in plain.items():
            parameters[name].copy_(tensor)
    put_reparametrisation(model, tensors, where)
    for layer in sorted({n.removesuffix(e) for e in ends for n in tensors if n.endswith(e)}):
        try:
            add_product(model.get_submodule(layer), *(tensors[layer + end] for end in ends))
        except (AttributeError, KeyError, RuntimeError, GaincellError) as error:
            raise RunError(
                f"{where} does not fit the base model: {layer} ({error}); save it again"
            ) from error
