"""An attached model in the files of peft: gains and offsets are trained and saved beside the adapters.

peft trains and saves whole modules, `modules_to_save`: a copy for every adapter. Here every adapter of an
attached model gets `gain_cell` among them, so that `adapter_model.safetensors` holds gains and offsets.
`adapter_config.json` holds two things more,

    auto_mapping   {"gaincell": {"version": 1, "design": {...}, ..., "base": ...}}
    peft_type      `OURS` behind the name of the type

By the first (hardware_record.py, and `sampled_fingerprint` of the model without the adapter), an adapter
attaches the pretrained model that it is loaded on. The second stops every program
that reads peft's files without gaincell: none knows a type of that name, and peft says it and stops. With
plain `LORA` it would leave out gains and offsets and compute softmax attention without a word.

`gaincell/__init__.py` imports this file as soon as peft is. Like pretrained.py it must not import anything
that imports `attach`, which may be what is being imported: functions import what they need.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from peft.config import PeftConfig, PeftConfigMixin
from peft.peft_model import PeftModel
from peft.tuners.lora import LoraModel
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import ModulesToSaveWrapper
from transformers.integrations.peft import PeftAdapterMixin

from gaincell.errors import ModelError
from gaincell.integrations.hf.pretrained import METHOD
from gaincell.integrations.hf.replacing import replaces

if TYPE_CHECKING:
    from torch import nn

    from gaincell.nn.attention import GainCellAttention

MODULE = "gain_cell"
OURS = " on gain-cell arrays (pip install gaincell, then import gaincell)"
"""End of `peft_type`: peft prints it when it does not know it."""
_Method = Callable[..., Any]


@replaces(PeftModel, "__init__")
def _wrap(wrap: _Method, self: Any, model: Any, peft_config: Any, *arguments: Any, **keywords: Any) -> None:
    wrap(self, model, _prepared(model, peft_config), *arguments, **keywords)


@replaces(PeftModel, "add_adapter")
def _add(
    add: _Method, self: Any, adapter_name: str, peft_config: Any, *arguments: Any, **keywords: Any
) -> Any:
    beside = next(iter(self.peft_config.values()), None)
    return add(self, adapter_name, _prepared(self, peft_config, beside), *arguments, **keywords)


@replaces(BaseTuner, "inject_adapter")
def _inject(
    inject: _Method, self: Any, model: Any, adapter_name: str, *arguments: Any, **keywords: Any
) -> Any:
    _bring_together(model, self.peft_config[adapter_name], alone=len(self.peft_config) == 1)
    return inject(self, model, adapter_name, *arguments, **keywords)


@replaces(BaseTuner, "_replace_module")
def _replace(replace: _Method, self: Any, parent: Any, name: str, new: Any, child: Any) -> None:
    from gaincell.nn.attention import GainCellAttention

    if isinstance(new, GainCellAttention):  # the rest is for modules with a weight
        setattr(parent, name, new)
    else:
        replace(self, parent, name, new, child)


@replaces(PeftModel, "load_adapter")
def _load(
    load: _Method, self: Any, model_id: Any, adapter_name: str, *arguments: Any, **keywords: Any
) -> Any:
    if adapter_name in self.peft_config:  # peft then reads the weights alone
        try:
            config = PeftConfig.from_pretrained(model_id, **self._split_kwargs(keywords)[0])
        except ValueError:  # there is none: it was given, as config=
            config = self.peft_config[adapter_name]
        _bring_together(self, config, alone=False)
    with _fitting(self):
        found = load(self, model_id, adapter_name, *arguments, **keywords)
    left_over = sorted(name for name in found.unexpected_keys if MODULE in name)
    if left_over:
        raise _unfit(f"{left_over[0]} is not in the model")
    return found


@replaces(PeftAdapterMixin, "load_adapter")
def _load_into(load: _Method, self: Any, *arguments: Any, **keywords: Any) -> Any:
    from gaincell.integrations.hf.attach import attached_layers

    with _fitting(self):
        try:
            found = load(self, *arguments, **keywords)
        except RuntimeError as error:
            if "ignore_mismatched_sizes" in str(error) and attached_layers(self):  # the report names no file
                raise _unfit("a size differs") from error
            raise
        for name in sorted(getattr(found, "missing_keys", None) or ()):
            if MODULE in name:
                raise _unfit(f"{name} is missing (transformers before 5.18 reads it by peft.PeftModel only)")
        return found


@replaces(BaseTuner, "disable_adapter_layers")
@replaces(PeftAdapterMixin, "disable_adapters")
def _disable(disable: _Method, self: Any) -> None:
    _require_own_gains(self)
    disable(self)


@replaces(BaseTuner, "unload")
def _unload(unload: _Method, self: Any) -> Any:
    _require_own_gains(self)
    for module in list(self.modules()):
        if isinstance(wrapper := getattr(module, MODULE, None), ModulesToSaveWrapper):
            setattr(module, MODULE, wrapper.original_module)  # peft leaves the active adapter's copy
    return unload(self)


@replaces(BaseTuner, "merge_adapter")
@replaces(BaseTuner, "merge_and_unload")
def _merge(merge: _Method, self: Any, *arguments: Any, **keywords: Any) -> Any:
    given = inspect.signature(merge).bind(self, *arguments, **keywords).arguments
    _refuse_others(self, given.get("adapter_names"))
    return merge(self, *arguments, **keywords)


@replaces(PeftModel, "_enable_peft_forward_hooks")
def _by_row(enable: _Method, self: Any, *arguments: Any, **keywords: Any) -> Any:
    _refuse_others(self, keywords.get("adapter_names"))
    return enable(self, *arguments, **keywords)


def _refuse_others(model: Any, names: Sequence[str] | None) -> None:
    """Refuse to compute with the weights of adapters whose gains and offsets are not those in use.

    Raises:
        ModelError: there are such among `names`.
    """
    from gaincell.integrations.hf.interface import bare_arrays

    active = list(model.active_adapters)
    if not {*(names or active)} <= {*active} and bare_arrays(model):
        raise ModelError(
            f"adapter_names is {names}, but the arrays have the gains and offsets of one adapter ({active}): "
            "choose one with set_adapter (none: disable_adapter) and leave adapter_names out"
        )


@replaces(LoraModel, "add_weighted_adapter")
def _weigh(weigh: _Method, self: Any, *arguments: Any, **keywords: Any) -> None:
    from gaincell.integrations.hf.interface import bare_arrays

    if bare_arrays(self):
        raise ModelError(
            "add_weighted_adapter would leave out the gains and offsets of the adapters: merge one with "
            "merge_and_unload, or train a new one"
        )
    weigh(self, *arguments, **keywords)


def _require_own_gains(model: nn.Module) -> None:
    """Refuse to go without adapters if the model computes in its arrays, with only initial gains of its own.

    Raises:
        ModelError: that is so.
    """
    from gaincell.integrations.hf.attach import computes_softmax
    from gaincell.integrations.hf.interface import bare_arrays, refuse_bare

    if not computes_softmax(model):
        refuse_bare(bare_arrays(model))


@contextmanager
def _fitting(model: nn.Module) -> Iterator[None]:
    """Refuse an adapter that is read within the context if it does not fit the arrays, or if gains or offsets
    are NaN or infinite.

    Raises:
        ModelError: it does not fit, or there are such.
        RunError: gains or offsets are no floating-point numbers, or a direction has length 0.
    """
    from gaincell.integrations.hf.checkpoint import checked
    from gaincell.integrations.hf.sources import in_one_line

    try:
        yield
    except (KeyError, RuntimeError) as error:
        if MODULE in str(error):
            raise _unfit(in_one_line(error)) from error
        raise
    for name, parameter in model.named_parameters():
        if f".{MODULE}." in name:
            checked(name, parameter.detach(), "the adapter", "save it again", positive=False)


def _unfit(why: str) -> ModelError:
    return ModelError(f"the adapter does not fit the model: {why}; save it again")


@replaces(PeftModel, "save_pretrained")
def _save(save: _Method, self: Any, save_directory: Any, *arguments: Any, **keywords: Any) -> Any:
    from gaincell.integrations.hf.attach import attached_layers, computed_attention
    from gaincell.integrations.hf.hardware_record import hardware_record
    from gaincell.integrations.hf.run import HARDWARE, refuse_second_model

    if cells := attached_layers(self):
        refuse_second_model(save_directory, HARDWARE)
    for config in self.peft_config.values():
        mapping = {name: entry for name, entry in (config.auto_mapping or {}).items() if name != METHOD}
        if cells:
            base = (_record(config) or {}).get("base")
            mapping[METHOD] = hardware_record(cells, computed_attention(self)) | {"base": base}
        elif hasattr(config, "modules_to_save"):  # after `detach`
            config.modules_to_save = [n for n in config.modules_to_save or [] if n != MODULE] or None
        config.auto_mapping = mapping or None
    return save(self, save_directory, *arguments, **keywords)


@replaces(PeftConfigMixin, "save_pretrained")
def _save_config(save: _Method, self: Any, *arguments: Any, **keywords: Any) -> Any:
    record = _record(self)
    if record is None:
        return save(self, *arguments, **keywords)
    if keywords.get("auto_mapping_dict") is not None:
        keywords["auto_mapping_dict"] = keywords["auto_mapping_dict"] | {METHOD: record}
    kind = self.peft_type
    self.peft_type = f"{getattr(kind, 'value', kind)}{OURS}"
    try:
        return save(self, *arguments, **keywords)
    finally:
        self.peft_type = kind


@replaces(PeftConfigMixin, "from_json_file")
def _read_config(read: _Method, cls: Any, *arguments: Any, **keywords: Any) -> dict[str, Any]:
    entries: dict[str, Any] = read(cls, *arguments, **keywords)
    entries["peft_type"] = str(entries.get("peft_type")).removesuffix(OURS)
    return entries


def _record(config: Any) -> dict[str, Any] | None:
    found: dict[str, Any] | None = (config.auto_mapping or {}).get(METHOD)
    return found


def _prepared(model: Any, config: Any, beside: Any = None) -> Any:
    """A copy of an adapter's configuration for a wrapper of peft: on an attached model it trains and saves
    gains and offsets. `beside` is the configuration of another adapter that the model has.

    Raises:
        ModelError: the model has mixing, or this kind of adapter keeps no modules; or see `_bring_together`.
    """
    from gaincell.integrations.hf.attach import attached_layers
    from gaincell.integrations.hf.base_model import sampled_fingerprint
    from gaincell.integrations.hf.hardware_record import hardware_record
    from gaincell.integrations.hf.reparametrisation import is_mixed

    config = copy.copy(config)
    _bring_together(model, config, alone=beside is None)
    cells = attached_layers(model)
    if not cells:
        return config
    if is_mixed(model):
        raise ModelError(
            "the model has mixing, which peft's files cannot hold: save it with gaincell.save and load it "
            "first, which puts mixing into the weights"
        )
    if not hasattr(config, "modules_to_save"):
        raise ModelError(
            f"{type(config).__name__} has no modules_to_save, where an adapter keeps gains and offsets: use "
            "a kind that has, such as LoraConfig (for tokens with trainable_token_indices), or "
            "gaincell.detach(model) first"
        )
    config.modules_to_save = [*(n for n in config.modules_to_save or [] if n != MODULE), MODULE]
    if _record(config) is None:
        base = sampled_fingerprint(model) if beside is None else (_record(beside) or {}).get("base")
        record = hardware_record(cells, "gain-cell") | {"base": base}
        config.auto_mapping = (config.auto_mapping or {}) | {METHOD: record}
    return config


def _bring_together(model: Any, config: Any, alone: bool) -> None:
    """See that the model, `alone` without other adapters, is attached as an adapter for arrays needs it.

    Raises:
        GaincellError: adapter and model do not belong together.
    """
    from gaincell.integrations.hf.attach import attached_layers
    from gaincell.integrations.hf.base_model import sampled_fingerprint
    from gaincell.integrations.hf.hardware_record import check_version

    record, has_gains = _record(config), MODULE in (getattr(config, "modules_to_save", None) or [])
    if record is not None:
        check_version(record, "adapter_config.json: its record of gaincell")
        found, base = sampled_fingerprint(model) if alone else None, record.get("base")
        if None not in (found, base) and found != base:  # as far as both are known
            raise ModelError(
                "the adapter was trained on a model with other weights: load its base model "
                f"({config.base_model_name_or_path}) as it was then"
            )
    cells = attached_layers(model)
    if cells and record is not None:
        _check_arrays(cells, record)
    elif not cells and record is not None and has_gains and alone:
        _attach(model, record)
    elif not cells and (record is not None or has_gains):
        raise ModelError(
            "the adapter was made for a model in gain-cell arrays: call gaincell.attach(model, design) "
            "before peft reads it"
        )


def _check_arrays(cells: Sequence[GainCellAttention], record: Mapping[str, Any]) -> None:
    """Refuse an adapter for other layers or heads, other extras, or another chip.

    Raises:
        ModelError: it is for others.
    """
    from gaincell.integrations.hf.hardware_record import attached_as, check_arrays

    own, where = attached_as(cells, "gain-cell"), "adapter_config.json: the adapter"
    advice = "load it on its pretrained model, which it attaches, and exchange the design then (set_design)"
    check_arrays(cells, {key: own[key] for key in ("sizes", "extras")}, record, where, advice)


def _attach(model: nn.Module, record: Mapping[str, Any]) -> None:
    """Attach a pretrained model as a record says; values come from the adapter's file afterwards."""
    from gaincell.integrations.hf.attach import attached_layers, attached_model, detach
    from gaincell.integrations.hf.hardware_record import attach_as_recorded
    from gaincell.integrations.hf.reparametrisation import add_stored_parts
    from gaincell.nn.attention import GainCellAttention

    attach_as_recorded(model, record, "adapter_config.json")
    try:
        owner = attached_model(model)
        cells = [name for name, module in owner.named_modules() if isinstance(module, GainCellAttention)]
        add_stored_parts(
            owner, {f"{cell}.{extra}": None for cell in cells for extra in record.get("extras", [])}
        )
        _check_arrays(attached_layers(model), record)
    except BaseException:
        detach(model)
        raise
