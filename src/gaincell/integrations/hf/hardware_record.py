"""What files of transformers (pretrained.py) and peft (peft_files.py) say about the hardware of a model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from gaincell.chips.design import Design
from gaincell.chips.design_file import design_from
from gaincell.errors import ModelError, RunError
from gaincell.files import finite, parse_toml, read_json, restored
from gaincell.integrations.hf.attach import Attention, attach, attached_layers, computed_attention
from gaincell.integrations.hf.interface import SAVED
from gaincell.integrations.hf.lora import lora_parameters
from gaincell.integrations.hf.pretrained import METHOD, HardwareRecord
from gaincell.nn.attention import GainCellAttention
from gaincell.nn.checks import check_precision, common_design
from gaincell.nn.scaler import STAGES

VERSION = 1
_PLAIN = {f"{stage}.{number}" for stage in STAGES for number in ("gain", "offset")}
"""What every layer's arrays have."""


def hardware_record(cells: Sequence[GainCellAttention], attention: Attention) -> dict[str, Any]:
    """What a file needs to say to attach a model again as it is. Warns of gains of 0 or below and of NaN.

    Raises:
        ModelError: the layers have different designs, or gains in 16 bits; or their design's token period is
            that of another number of layers, with which it would not come back.
        DesignError: no file can hold the design.
    """
    check_precision(cells, "cannot save")
    held = {
        f"layer {cell.layer}, {name}": parameter
        for cell in cells
        for name, parameter in cell.named_parameters()
        if not parameter.is_meta
    }
    if lost := [name for name, parameter in held.items() if not bool(parameter.isfinite().all())]:
        warnings.warn(
            f"gains or offsets are NaN or infinite ({min(lost)}; {len(lost)} in all), and what is saved will "
            "not be read: go back to an earlier checkpoint, with a lower learning rate or clipped gradients",
            stacklevel=2,
        )
    if wrong := [n for n, parameter in held.items() if n.endswith(".gain") and bool((parameter <= 0).any())]:
        warnings.warn(
            f"gains are not above 0 ({min(wrong)}; {len(wrong)} in all), and gaincell.save refuses them: "
            "clamp gains after every step of the optimizer, as Trainer does on its own",
            stacklevel=2,
        )
    design = common_design(cells)
    if design.token_period != design.replace(layers=len(cells)).token_period:
        raise ModelError(
            f"the model has {len(cells)} layers, the token period of its chip is that of {design.layers}: "
            "call set_design(model, design) first, with the token period stated if it shall stay"
        )
    return {
        "version": VERSION,
        "design": finite(parse_toml(design.to_toml())),
        **attached_as(cells, attention),
    }


def attached_as(cells: Sequence[GainCellAttention], attention: Attention) -> dict[str, Any]:
    """What a record says of a model beside its design; extras: what arrays have beside gains and offsets."""
    heads = {name: getattr(cells[0], name) for name in ("heads", "kv_heads", "head_dim")}
    return {
        "attention": attention,
        "gradient": cells[0].gradient,
        "sizes": {"layers": len(cells), **heads},
        "extras": sorted(cells[0].state_dict().keys() - _PLAIN),
    }


def recorded_design(record: Mapping[str, Any], where: str) -> Design:
    """The design in a record of the file `where`.

    Raises:
        DesignError: there is none that can be read.
    """
    return design_from(_with_infinity(record.get("design")), f"{where}: its design")


def _with_infinity(entry: Any, key: str = "") -> Any:
    """A recorded design with its infinite numbers."""
    if isinstance(entry, list):
        return [_with_infinity(part, key) for part in entry]
    if isinstance(entry, dict):
        return {name: _with_infinity(part, name) for name, part in entry.items()}
    return restored(entry) if key in ("value", "range") else entry


def saved_record(file: Path) -> dict[str, Any] | None:
    """What a config.json, or an adapter_config.json of peft, says about hardware; None: nothing.

    Raises:
        RunError: a newer gaincell wrote it.
    """
    entries = read_json(file, infinite=True)
    if file.name == "config.json":
        record = entries.get("quantization_config") or {}
        record = record if record.get("quant_method") == METHOD else None
    else:
        record = (entries.get("auto_mapping") or {}).get(METHOD)
    if record is not None:
        check_version(record, str(file))
    return record


def check_version(record: Mapping[str, Any], where: str) -> None:
    """Refuse a record that a newer gaincell wrote.

    Raises:
        RunError: it has another version than this gaincell's.
    """
    version = record.get("version")
    if version != VERSION:
        raise RunError(
            f"{where} has version {version!r}, this gaincell reads {VERSION}; upgrade gaincell "
            "(pip install -U gaincell), or save the model again"
        )


def check_arrays(
    cells: Sequence[GainCellAttention],
    own: Mapping[str, Any],
    record: Mapping[str, Any],
    where: str,
    advice: str,
) -> None:
    """Refuse what was trained in other arrays than the model's, or on another chip.

    Args:
        cells: The layers of the model.
        own: What is compared of `attached_as`.
        record: Of what was trained.
        where: What was trained, for the refusal.
        advice: What to do, for the refusal.

    Raises:
        ModelError: the arrays or the chip are others.
        DesignError: the record has no design that can be read.
    """
    for what, here in own.items():
        if record.get(what, here) != here:
            raise ModelError(
                f"{where} was trained with {what} = {record[what]}, the model is attached with "
                f"{what} = {here}: {advice}"
            )
    made_for, design = recorded_design(record, where), common_design(cells)
    if design.hash != made_for.hash:
        raise ModelError(
            f"{where} was trained on the design {made_for.name} ({made_for.hash}), the model is attached to "
            f"{design.name} ({design.hash}): {advice}"
        )


def attach_as_recorded(model: Any, record: Mapping[str, Any], where: str) -> None:
    """Attach a model as a record of the file `where` says, in place.

    Raises:
        DesignError: the record has no design that can be read.
        ModelError: the model cannot be attached.
    """
    attach(
        model,
        recorded_design(record, where),
        gradient=record.get("gradient", "exact"),
        attention=record.get("attention", "gain-cell"),
    )


@contextmanager
def recorded(model: PreTrainedModel) -> Iterator[None]:
    """Within the context the configuration of an attached model says what its hardware is.

    Raises:
        ModelError: the model has adapters inside, or is quantised; or see `hardware_record`.
    """
    if lora_parameters(model):
        raise ModelError(
            "the model has low-rank adapters in it: save the wrapper of peft.get_peft_model(model, config), "
            "use gaincell.save, or merge them into the weights first (peft: merge_and_unload)"
        )
    config = model.config
    own = config.to_dict().get("quantization_config")
    if own and (method := own.get("quant_method")) != METHOD:
        raise ModelError(
            f"the model is quantised ({getattr(method, 'value', method)}), which its config.json cannot say "
            "beside the chip: save an adapter of peft, or dequantise it first"
        )
    record = hardware_record(attached_layers(model), computed_attention(model))
    config.quantization_config = HardwareRecord(quant_method=METHOD, **record)
    vars(config)["attn_implementation"] = SAVED  # what transformers reads as its own argument
    try:
        yield
    finally:
        del config.quantization_config, vars(config)["attn_implementation"]
