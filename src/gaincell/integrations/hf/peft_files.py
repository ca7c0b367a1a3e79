"""An attached model in the files of peft: gains and offsets are trained and saved beside the adapters.

peft trains and saves whole modules, `modules_to_save`: a copy for every adapter. Here every adapter of an
attached model gets `gain_cell` among them, so that `adapter_model.safetensors` holds gains and offsets.
`adapter_config.json` holds two things more,

    auto_mapping   {"gaincell": {"version": 1, "design": {...}, ...}}
    peft_type      `OURS` behind the name of the type

By the first, an adapter attaches the pretrained model that it is loaded on. The second stops every program
that reads peft's files without gaincell: none knows a type of that name, and peft says it and stops. With
plain `LORA` it would leave out gains and offsets and compute softmax attention without a word.

`gaincell/__init__.py` imports this file as soon as peft is; see pretrained.py.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any

from peft.config import PeftConfigMixin
from peft.peft_model import PeftModel
from peft.tuners.tuners_utils import BaseTuner
from transformers.integrations.peft import PeftAdapterMixin

from gaincell.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

    from gaincell.nn.attention import GainCellAttention

MODULE = "gain_cell"
KEY = "gaincell"
"""In `auto_mapping`."""
OURS = " on gain-cell arrays (pip install gaincell, then import gaincell)"
"""End of `peft_type`: peft prints it when it does not know it."""
SAMPLES = 64
"""Values of a weight that `sampled_fingerprint` takes, or up to twice as many."""

_PLAIN = {f"{stage}.{number}" for stage in ("q", "k", "v", "out") for number in ("gain", "offset")}
"""What every layer's arrays have."""

_wrap = PeftModel.__init__
_add = PeftModel.add_adapter
_load = PeftModel.load_adapter
_load_into = PeftAdapterMixin.load_adapter
_save = PeftModel.save_pretrained
_inject = BaseTuner.inject_adapter
_replace = BaseTuner._replace_module
_save_config = PeftConfigMixin.save_pretrained
_read_config: Any = vars(PeftConfigMixin)["from_json_file"].__func__


def adapter_record(cells: Sequence[GainCellAttention], attention: str, base: str | None) -> dict[str, Any]:
    """What `auto_mapping` says about the hardware that an adapter was trained on.

    attention: "gain-cell" or "softmax".  base: `sampled_fingerprint` of the model without the adapter.

    Raises:
        ModelError: the layers have different designs.
    """
    from gaincell.integrations.hf.pretrained import hardware_record

    parts = {"base": base, "sizes": _sizes(cells), "extras": _extras(cells[0])}
    return hardware_record(cells, attention) | parts


@wraps(_wrap)
def _wrap_with_arrays(self: Any, model: Any, peft_config: Any, *arguments: Any, **keywords: Any) -> None:
    _wrap(self, model, _prepared(model, peft_config), *arguments, **keywords)


@wraps(_add)
def _add_with_arrays(self: Any, adapter_name: str, peft_config: Any, *arguments: Any, **keywords: Any) -> Any:
    beside = next(iter(self.peft_config.values()), None)
    return _add(self, adapter_name, _prepared(self, peft_config, beside), *arguments, **keywords)


@wraps(_inject)
def _inject_with_arrays(self: Any, model: Any, adapter_name: str, *arguments: Any, **keywords: Any) -> Any:
    _bring_together(model, self.peft_config[adapter_name], alone=len(self.peft_config) == 1)
    return _inject(self, model, adapter_name, *arguments, **keywords)


@wraps(_replace)
def _replace_with_arrays(self: Any, parent: Any, name: str, new: Any, child: Any) -> None:
    from gaincell.nn.attention import GainCellAttention

    if isinstance(new, GainCellAttention):  # the rest is for modules with a weight
        setattr(parent, name, new)
    else:
        _replace(self, parent, name, new, child)


@wraps(_load)
def _load_with_arrays(self: Any, *arguments: Any, **keywords: Any) -> Any:
    try:
        found = _load(self, *arguments, **keywords)
    except (KeyError, RuntimeError) as error:
        raise _unfit(error) from error
    _check_values(self)
    return found


@wraps(_load_into)
def _load_into_with_arrays(self: Any, *arguments: Any, **keywords: Any) -> Any:
    from gaincell.integrations.hf.attach import attached_layers

    try:
        found = _load_into(self, *arguments, **keywords)
    except (KeyError, RuntimeError) as error:
        if "ignore_mismatched_sizes" in str(error) and attached_layers(self):  # the report names no file
            raise ModelError("the adapter does not fit the model: a size differs; save it again") from error
        raise _unfit(error) from error
    for name in sorted(getattr(found, "missing_keys", None) or ()):
        if MODULE in name:
            raise ModelError(f"the adapter does not fit the model: {name} is missing; save it again")
    _check_values(self)
    return found


@wraps(_save)
def _save_with_arrays(self: Any, *arguments: Any, **keywords: Any) -> Any:
    from gaincell.integrations.hf.attach import attached_layers, computes_softmax

    cells = attached_layers(self)
    for config in self.peft_config.values():
        mapping = {name: entry for name, entry in (config.auto_mapping or {}).items() if name != KEY}
        if cells:
            attention = "softmax" if computes_softmax(self) else "gain-cell"
            mapping[KEY] = adapter_record(cells, attention, (_record(config) or {}).get("base"))
        config.auto_mapping = mapping or None
    return _save(self, *arguments, **keywords)


@wraps(_save_config)
def _save_config_with_arrays(self: Any, *arguments: Any, **keywords: Any) -> Any:
    record = _record(self)
    if record is None:
        return _save_config(self, *arguments, **keywords)
    if keywords.get("auto_mapping_dict") is not None:
        keywords["auto_mapping_dict"] = keywords["auto_mapping_dict"] | {KEY: record}
    kind = self.peft_type
    self.peft_type = f"{getattr(kind, 'value', kind)}{OURS}"
    try:
        return _save_config(self, *arguments, **keywords)
    finally:
        self.peft_type = kind


@wraps(_read_config)
def _read_config_of_arrays(cls: Any, *arguments: Any, **keywords: Any) -> dict[str, Any]:
    entries: dict[str, Any] = _read_config(cls, *arguments, **keywords)
    entries["peft_type"] = str(entries.get("peft_type")).removesuffix(OURS)
    return entries


def _record(config: Any) -> dict[str, Any] | None:
    found: dict[str, Any] | None = (config.auto_mapping or {}).get(KEY)
    return found


def _prepared(model: Any, config: Any, beside: Any = None) -> Any:
    """A copy of an adapter's configuration for a wrapper of peft: on an attached model it trains and saves
    gains and offsets. See `_bring_together`.

    beside: the configuration of another adapter that the model has.

    Raises:
        ModelError: the model has mixing.
        GaincellError: adapter and model do not belong together.
    """
    from gaincell.integrations.hf.attach import attached_layers
    from gaincell.integrations.hf.reparametrisation import check_folded

    config = copy.copy(config)
    _bring_together(model, config, alone=beside is None)
    cells = attached_layers(model)
    if not cells:
        return config
    check_folded(
        model,
        "peft's files cannot hold: save it with gaincell.save and load it first, which puts mixing into the "
        "weights",
    )
    if hasattr(config, "modules_to_save"):
        config.modules_to_save = [*(n for n in config.modules_to_save or [] if n != MODULE), MODULE]
    if _record(config) is None:
        base = sampled_fingerprint(model) if beside is None else (_record(beside) or {}).get("base")
        config.auto_mapping = (config.auto_mapping or {}) | {KEY: adapter_record(cells, "gain-cell", base)}
    return config


def _bring_together(model: Any, config: Any, alone: bool) -> None:
    """See that the model is attached as an adapter for arrays needs it.

    alone: whether the model has no other adapters.

    Raises:
        GaincellError: adapter and model do not belong together.
    """
    from gaincell.integrations.hf.attach import attached_layers
    from gaincell.integrations.hf.pretrained import check_design, check_version

    record, has_gains = _record(config), MODULE in (getattr(config, "modules_to_save", None) or [])
    if record is not None:
        check_version(record, "adapter_config.json: its record of gaincell")
        if alone:
            _check_base(model, record, config)
    cells = attached_layers(model)
    if cells and record is not None:
        check_design(
            cells,
            record,
            "adapter_config.json: the adapter",
            "load the adapter on the pretrained model, which it attaches, and exchange the design then "
            "(gaincell.set_design)",
        )
        _check_arrays(cells, record)
    elif not cells and record is not None and has_gains and alone:
        _attach(model, record)
    elif not cells and (record is not None or has_gains):
        raise ModelError(
            "the adapter was made for a model in gain-cell arrays: call gaincell.attach(model, design) "
            "before peft reads it"
        )


def _check_base(model: nn.Module, record: Mapping[str, Any], config: Any) -> None:
    """Refuse an adapter on other weights than its own, as far as both are known. Raises ModelError."""
    found = sampled_fingerprint(model)
    if None not in (found, record.get("base")) and found != record["base"]:
        raise ModelError(
            "the adapter was trained on a model with other weights: load its base model "
            f"({config.base_model_name_or_path}) as it was then"
        )


def sampled_fingerprint(model: Any, half: bool = False) -> str | None:
    """SHA-256 over names, shapes and a few values of each weight, rounded to bfloat16: cheap to take, and the
    same whether the weights are held in float32 or bfloat16. None where some are held in another type, or
    are elsewhere.

    Embeddings do not count, since adding tokens changes them.

    model: without adapters, in a wrapper of peft or not.  half: whether weights in float16 count, because
    they are stored so.
    """
    import torch

    from gaincell.integrations.hf.attach import attached_layers, attached_model
    from gaincell.integrations.hf.base_model import base_weights

    model = attached_model(model) if attached_layers(model) else model
    embeddings = [getattr(model, f"get_{end}_embeddings", lambda: None)() for end in ("input", "output")]
    left_out = {id(weight) for layer in embeddings if layer is not None for weight in layer.parameters()}
    exact = {torch.float32, torch.bfloat16, torch.float64} | ({torch.float16} if half else set())
    digest = hashlib.sha256()
    for name, weight in sorted(base_weights(model).items()):
        if weight.dtype not in exact or weight.is_meta:
            return None
        if id(weight) in left_out:
            continue
        flat = weight.detach().reshape(-1)
        some = flat[:: max(1, flat.numel() // SAMPLES)].to("cpu", torch.bfloat16)
        digest.update(f"{name} {tuple(weight.shape)}\n".encode())
        digest.update(some.float().numpy().data)
    return digest.hexdigest()


def _check_arrays(cells: Sequence[GainCellAttention], record: Mapping[str, Any]) -> None:
    """Refuse an adapter for other layers or heads, or for other extras. Raises ModelError."""
    sizes, found = record.get("sizes"), _sizes(cells)
    if sizes != found:
        raise ModelError(
            f"the adapter is for another model: its arrays have {sizes}, the model's {found}; load the base "
            "model that adapter_config.json names"
        )
    extras, others = record.get("extras", []), _extras(cells[0])
    if extras != others:
        raise ModelError(
            f"the adapter was trained with {', '.join(extras) or 'gains and offsets alone'}, the model is "
            f"attached with {', '.join(others) or 'gains and offsets alone'}: load the adapter on the "
            "pretrained model, which it attaches"
        )


def _attach(model: nn.Module, record: Mapping[str, Any]) -> None:
    """Attach a pretrained model as a record says; values come from the adapter's file afterwards."""
    from gaincell.integrations.hf.attach import attached_layers, attached_model, detach
    from gaincell.integrations.hf.digital_scaling import hold_digital_scaling
    from gaincell.integrations.hf.pretrained import attach_as_recorded
    from gaincell.integrations.hf.reparametrisation import hold_any_indices, is_index
    from gaincell.nn.attention import GainCellAttention

    attach_as_recorded(model, record, "adapter_config.json")
    try:
        owner = attached_model(model)
        cells = {name: m for name, m in owner.named_modules() if isinstance(m, GainCellAttention)}
        names = [f"{cell}.{extra}" for cell in cells for extra in record.get("extras", [])]
        hold_digital_scaling(owner, names)
        if any(is_index(name) for name in names):
            hold_any_indices(owner, cells)
        _check_arrays(attached_layers(model), record)
    except BaseException:
        detach(model)
        raise


def _check_values(model: nn.Module) -> None:
    """Refuse gains and offsets that are NaN or infinite. Raises ModelError, RunError."""
    from gaincell.integrations.hf.checkpoint import checked

    for name, parameter in model.named_parameters():
        if f".{MODULE}." in name:
            checked(name, parameter.detach(), "the adapter", "save it again", positive=False)


def _unfit(error: Exception) -> Exception:
    """What peft raises where a file does not fit the arrays, in one line; anything else as it is."""
    from gaincell.integrations.hf.sources import in_one_line

    if MODULE not in str(error):
        return error
    return ModelError(f"the adapter does not fit the model: {in_one_line(error)}; save it again")


def _extras(cell: GainCellAttention) -> list[str]:
    """Names of what a layer's arrays have beside gains and offsets."""
    return sorted(cell.state_dict().keys() - _PLAIN)


def _sizes(cells: Sequence[GainCellAttention]) -> dict[str, int]:
    cell = cells[0]
    return {"layers": len(cells), "heads": cell.heads, "kv_heads": cell.kv_heads, "head_dim": cell.head_dim}


PeftModel.__init__ = _wrap_with_arrays  # type: ignore[method-assign]
PeftModel.add_adapter = _add_with_arrays  # type: ignore[method-assign]
PeftModel.load_adapter = _load_with_arrays  # type: ignore[method-assign]
PeftAdapterMixin.load_adapter = _load_into_with_arrays  # type: ignore[method-assign]
PeftModel.save_pretrained = _save_with_arrays  # type: ignore[method-assign]
BaseTuner.inject_adapter = _inject_with_arrays  # type: ignore[method-assign]
BaseTuner._replace_module = _replace_with_arrays  # type: ignore[method-assign, assignment]
PeftConfigMixin.save_pretrained = _save_config_with_arrays  # type: ignore[method-assign]
PeftConfigMixin.from_json_file = classmethod(_read_config_of_arrays)  # type: ignore[method-assign, assignment]
