"""An attached model in transformers' own files: written by `save_pretrained`, read by `from_pretrained`.

The weights hold gains and offsets under their own names. `config.json` holds two things more,

    quantization_config     {"quant_method": "gaincell", "version": 1, "design": {...}, ...}
    _attn_implementation    `interface.SAVED`

The first is transformers' place for what changes a model while it is read: `HardwareLoader` attaches it. The
second is what transformers cannot pass over without gaincell: no version knows an attention function of that
name, and each says so and stops. (Of a quantisation that it does not know it only warns. Other programs stop
there.) `from_pretrained` itself refuses files with gains that it was led past, by `config=` for one.

`gaincell/__init__.py` imports this file as soon as transformers' models can be read. It must not import
anything that imports `attach`, which may be what is being imported.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.modeling_utils import PreTrainedModel
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from gaincell.errors import ModelError, RunError

if TYPE_CHECKING:
    from torch import Tensor

    from gaincell.nn.attention import GainCellAttention

METHOD = "gaincell"
VERSION = 1
ARRAYS = ".gain_cell."
"""In the names of tensors that belong to arrays."""

_read: Any = vars(PreTrainedModel)["from_pretrained"].__func__


@register_quantization_config(METHOD)
class HardwareRecord(QuantizationConfigMixin):
    """What `config.json` says about the hardware of a model: see `record`."""

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
        """Refuse what a newer version wrote, before anything is read. Raises RunError."""
        from gaincell.integrations.hf import interface

        check_version(vars(self.quantization_config), f"config.json: its quantization_config of {METHOD}")
        interface.register()

    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, checkpoint_files: Sequence[str] | None = None, **_: Any
    ) -> None:
        self._files = checkpoint_files
        self._ignored = model._keys_to_ignore_on_load_unexpected
        kind = set if isinstance(self._ignored, set) else list  # of transformers 5, and of 4
        model._keys_to_ignore_on_load_unexpected = kind([*(self._ignored or ()), re.escape(ARRAYS)])

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> None:
        from gaincell.integrations.hf.checkpoint import put, read

        HfQuantizer.remove_quantization_config(self, model)
        model._keys_to_ignore_on_load_unexpected = self._ignored
        files = self._files or _files(model)
        tensors: dict[str, Tensor] = {}
        for file in files:
            tensors |= read(Path(file), ARRAYS, positive=False)
        attach_as_recorded(model, vars(self.quantization_config), f"{model.name_or_path}: config.json")
        put(model, _named_for(model, tensors), model.name_or_path)


def hardware_record(cells: Sequence[GainCellAttention], attention: str) -> dict[str, Any]:
    """What a file needs to say for a model to be attached again as it is. Warns of gains of 0 or below.

    attention: "gain-cell" or "softmax".

    Raises:
        ModelError: the layers have different designs, or gains in 16 bits.
        DesignError: no file can hold the design.
    """
    from gaincell.files import parse_toml
    from gaincell.nn.attention import check_precision, common_design

    check_precision(cells, "cannot save")
    wrong = {
        f"layer {cell.layer}, {name}"
        for cell in cells
        for name, parameter in cell.named_parameters()
        if name.endswith(".gain") and not parameter.is_meta and bool((parameter <= 0).any())
    }
    if wrong:
        warnings.warn(
            f"gains are not above 0 ({min(wrong)}; {len(wrong)} in all), and gaincell.save refuses them: "
            "clamp gains after every step of the optimizer, as Trainer does on its own",
            stacklevel=2,
        )
    return {
        "version": VERSION,
        "design": parse_toml(common_design(cells).to_toml()),
        "attention": attention,
        "gradient": cells[0].gradient,
    }


def check_version(record: Mapping[str, Any], where: str) -> None:
    """Refuse a record that a newer gaincell wrote. Raises RunError."""
    version = record.get("version")
    if version != VERSION:
        raise RunError(
            f"{where} has version {version!r}, this gaincell reads {VERSION}; upgrade gaincell "
            "(pip install -U gaincell), or save the model again"
        )


def check_design(
    cells: Sequence[GainCellAttention], record: Mapping[str, Any], where: str, advice: str
) -> None:
    """Refuse what was trained on another chip than the model's. Raises ModelError, DesignError.

    where: what was trained, and advice: what to do, for the refusal.
    """
    from gaincell.chips.design_file import design_from
    from gaincell.nn.attention import common_design

    made_for = design_from(record.get("design"), f"{where}: its design")
    design = common_design(cells)
    if design.hash != made_for.hash:
        raise ModelError(
            f"{where} was trained on the design {made_for.name} ({made_for.hash}), the model is attached to "
            f"{design.name} ({design.hash}): {advice}"
        )


def attach_as_recorded(model: Any, record: Mapping[str, Any], where: str) -> None:
    """Attach a model as its `hardware_record` says, in place.

    where: the file, for errors.

    Raises:
        DesignError: the record has no design that can be read.
        ModelError: the model is not supported.
    """
    from gaincell.chips.design_file import design_from
    from gaincell.integrations.hf.attach import attach

    attach(
        model,
        design_from(record.get("design"), f"{where}: its design"),
        gradient=record.get("gradient", "exact"),
        attention=record.get("attention", "gain-cell"),
    )


@contextmanager
def recorded(model: PreTrainedModel, cells: Sequence[GainCellAttention], attention: str) -> Iterator[None]:
    """Within the context the configuration of an attached model says what its hardware is.

    attention: "gain-cell" or "softmax".

    Raises:
        ModelError: the layers have different designs, or the model has adapters inside.
        DesignError: no file can hold the design.
    """
    from gaincell.integrations.hf.interface import SAVED
    from gaincell.integrations.hf.lora import lora_parameters

    if lora_parameters(model):
        raise ModelError(
            "the model has low-rank adapters in it: save the wrapper of peft.get_peft_model(model, config), "
            "use gaincell.save, or merge them into the weights first (peft: merge_and_unload)"
        )
    config = model.config
    config.quantization_config = HardwareRecord(quant_method=METHOD, **hardware_record(cells, attention))
    vars(config)["_attn_implementation"] = SAVED  # into the file: as an attribute it is a property
    try:
        yield
    finally:
        del config.quantization_config, vars(config)["_attn_implementation"]


@wraps(_read)
def _read_with_arrays(cls: Any, *arguments: Any, output_loading_info: bool = False, **keywords: Any) -> Any:
    if any(ARRAYS in name for name in keywords.get("state_dict") or ()):
        raise ModelError(
            "state_dict= has gains and offsets, which are read from files only: call "
            "from_pretrained(DIRECTORY), or attach a model and call its load_state_dict"
        )
    model, info = _read(cls, *arguments, output_loading_info=True, **keywords)
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


def _files(model: Any) -> list[Path]:
    """Files of weights that a model was read from, where transformers (version 4) does not say which."""
    from transformers.utils.hub import cached_file

    config: Any = cached_file(model.name_or_path, "config.json", _commit_hash=model.config._commit_hash)
    return sorted(Path(config).parent.glob("model*.safetensors"))


PreTrainedModel.from_pretrained = classmethod(_read_with_arrays)  # type: ignore[assignment, arg-type]
