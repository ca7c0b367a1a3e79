"""An attached model in transformers' own files: written by `save_pretrained`, read by `from_pretrained`.

The weights hold gains and offsets under their own names. `config.json` holds two things more,

    quantization_config     {"quant_method": "gaincell", "version": 1, "design": {...}, ...}
    attn_implementation     `interface.SAVED`

The first is transformers' place for what changes a model while it is read: `HardwareLoader` attaches it. The
second is what transformers cannot pass over without gaincell: no version knows an attention function of that
name, and each says so and stops. (Of a quantisation that it does not know it only warns. Other programs stop
there.) `from_pretrained` itself refuses files with gains that it was led past, by `config=` for one.

`gaincell/__init__.py` imports this file as soon as transformers' models can be read. It must not import
anything that imports `attach`, which may be what is being imported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.modeling_utils import PreTrainedModel
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from gaincell.errors import ModelError
from gaincell.integrations.hf.replacing import replaces

if TYPE_CHECKING:
    from torch import Tensor

METHOD = "gaincell"
ARRAYS = ".gain_cell."
"""In the names of tensors that belong to arrays."""


@register_quantization_config(METHOD)
class HardwareRecord(QuantizationConfigMixin):
    """What `config.json` says about the hardware of a model: see hardware_record.py."""

    def __init__(self, **entries: Any) -> None:
        vars(self).update(entries)


@register_quantizer(METHOD)
class HardwareLoader(HfQuantizer):
    """Attaches a model that transformers reads, as its `HardwareRecord` says."""

    requires_calibration = True  # only what was saved attached can be read so
    is_trainable = True

    def is_serializable(self, *_: Any, **__: Any) -> bool:
        """Always."""
        return True

    def validate_environment(self, *_: Any, **__: Any) -> None:
        """Refuse what a newer version wrote, before anything is read.

        Raises:
            RunError: it has another version than this gaincell's.
        """
        from gaincell.integrations.hf import hardware_record, interface

        where = f"config.json: its quantization_config of {METHOD}"
        hardware_record.check_version(vars(self.quantization_config), where)
        interface.register()

    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, checkpoint_files: Sequence[str] | None = None, **_: Any
    ) -> None:
        from gaincell.integrations.hf import interface

        asked = model.config._attn_implementation
        if asked not in (interface.GAIN_CELL, interface.SAVED):
            raise ModelError(
                f"attn_implementation={asked!r}: {model.name_or_path} was saved in gain-cell arrays; leave "
                'it out. For softmax attention of these weights: gaincell.set_attention(model, "softmax")'
            )
        self._files = checkpoint_files
        self._ignored = model._keys_to_ignore_on_load_unexpected
        kind = set if isinstance(self._ignored, set) else list  # by the version of transformers
        model._keys_to_ignore_on_load_unexpected = kind([*(self._ignored or ()), re.escape(ARRAYS)])

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> None:
        from gaincell.integrations.hf.checkpoint import put, read
        from gaincell.integrations.hf.hardware_record import attach_as_recorded

        HfQuantizer.remove_quantization_config(self, model)
        model._keys_to_ignore_on_load_unexpected = self._ignored
        tensors: dict[str, Tensor] = {}
        for file in self._files or ():
            tensors |= read(Path(file), ARRAYS, positive=False)
        attach_as_recorded(model, vars(self.quantization_config), f"{model.name_or_path}: config.json")
        put(model, _named_for(model, tensors), model.name_or_path)


def check_whole(model: PreTrainedModel) -> None:
    """Refuse to save a model of which only the backbone is attached.

    Raises:
        ModelError: only its backbone is attached.
    """
    from gaincell.integrations.hf.attach import attached_model

    if (inner := attached_model(model)) is not model:
        raise ModelError(
            f"cannot save {type(model).__name__}: only the {type(inner).__name__} in it is attached, and it "
            "could not be read again. Attach the whole model; to keep what was trained: "
            "state = model.state_dict(), gaincell.detach(model), gaincell.attach(model, design), "
            "model.load_state_dict(state)"
        )


def _check_given(state: Mapping[str, Tensor]) -> None:
    """Refuse gains and offsets in 16 bits, as wrappers for mixed precision hand them over.

    Raises:
        ModelError: some are.
    """
    for name, tensor in state.items():
        if ARRAYS in name and name.endswith((".gain", ".offset")) and tensor.dtype.itemsize < 4:
            raise ModelError(
                f"state_dict= has {name} in {tensor.dtype}, too coarse for the write DAC; give gains and "
                "offsets in float32 or float64, as model.state_dict() has them"
            )


@replaces(PreTrainedModel, "save_pretrained")
def _save_readable(
    save: Callable[..., Any], self: Any, save_directory: Any, *arguments: Any, **keywords: Any
) -> Any:
    from gaincell.integrations.hf.attach import attached_layers
    from gaincell.integrations.hf.run import HARDWARE, refuse_second_model
    from gaincell.integrations.hf.sources import ADAPTER

    if attached_layers(self):
        check_whole(self)
        _check_given(keywords.get("state_dict") or {})
        refuse_second_model(save_directory, HARDWARE, ADAPTER)
    return save(self, save_directory, *arguments, **keywords)


@replaces(PreTrainedModel, "from_pretrained")
def _read_with_arrays(
    read: Callable[..., Any], cls: Any, *arguments: Any, output_loading_info: bool = False, **keywords: Any
) -> Any:
    if any(ARRAYS in name for name in keywords.get("state_dict") or ()):
        raise ModelError(
            "state_dict= has gains and offsets, which are read from files only: call "
            "from_pretrained(DIRECTORY), or attach a model and call its load_state_dict"
        )
    model, info = read(cls, *arguments, output_loading_info=True, **keywords)
    lost = sorted(name for name in info["unexpected_keys"] if ARRAYS in name)
    if lost:
        raise ModelError(
            f"{model.name_or_path} was saved in gain-cell arrays, but the configuration in use does not say "
            f"so: {lost[0]} ({len(lost)} tensors) would be lost. Leave config= out, and restore config.json "
            "where it was replaced"
        )
    return (model, info) if output_loading_info else model


def _named_for(model: PreTrainedModel, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a file by their names in a model, which may have another head than was saved, or none."""
    prefix = f"{model.base_model_prefix}."
    plain = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return plain if model.base_model is model else {prefix + name: plain[name] for name in plain}
