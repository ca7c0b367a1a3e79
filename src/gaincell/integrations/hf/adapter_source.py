"""An adapter of peft on gain-cell arrays (peft_files.py) as a model: read on its base model and merged.

`adapter_config.json` names the base model and holds the chip. Every kind of adapter that peft can merge will
do.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gaincell.errors import GaincellError, InputError, ModelError
from gaincell.files import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


def is_adapter(directory: Path) -> bool:
    """Whether a directory holds an adapter of peft. Raises ModelError where it holds a model too."""
    if not (directory / CONFIG).is_file():
        return False
    if (directory / "config.json").is_file():
        raise ModelError(
            f"{directory} holds a model and an adapter ({CONFIG}): move the adapter into its own directory"
        )
    return True


def adapter_record(directory: Path) -> dict[str, Any]:
    """What `adapter_config.json` says about the hardware of its adapter; see `peft_files.adapter_record`.

    Raises:
        ModelError: it cannot be read, or the adapter is for softmax attention.
        RunError: a newer gaincell wrote it.
    """
    from gaincell.integrations.hf.pretrained import METHOD, check_version

    file = directory / CONFIG
    record = (_entries(directory).get("auto_mapping") or {}).get(METHOD)
    if not isinstance(record, dict):
        raise ModelError(
            f"{file} is of an adapter for softmax attention, without a chip: merge it into its base model "
            "(peft: merge_and_unload), save that model, and give it to gaincell map"
        )
    check_version(record, str(file))
    return record


def adapted_model(directory: Path) -> str:
    """The base model that an adapter names, as MODEL, with its commit where that is known.

    Raises:
        ModelError: it names none, or cannot be read; or see `adapter_record`.
        RunError: a newer gaincell wrote it.
    """
    adapter_record(directory)
    entries = _entries(directory)
    base, revision = entries.get("base_model_name_or_path"), entries.get("revision")
    if not isinstance(base, str) or not base:
        raise ModelError(
            f"{directory / CONFIG} names no base model: write its name or directory into "
            "base_model_name_or_path, or give base="
        )
    return f"{base}@{revision}" if revision and not Path(base).exists() else base


def check_adapted(model: PreTrainedModel, directory: Path) -> None:
    """Refuse a base model that is not the one an adapter was trained on. Raises ModelError.

    model: in the type that its weights are stored in.
    """
    from gaincell.integrations.hf.peft_files import sampled_fingerprint

    trained_on = adapter_record(directory).get("base")
    if trained_on is not None and sampled_fingerprint(model, half=True) != trained_on:
        raise ModelError(
            f"{directory}: its base model {model.name_or_path!r} has changed since the adapter was trained, "
            "or is another; restore it, or say where the old one is: gaincell.load(ADAPTER, base=DIRECTORY)"
        )


def put_adapter(model: PreTrainedModel, directory: Path) -> None:
    """Attach a base model as an adapter says, read the adapter and merge it into the weights, in place.

    Raises:
        InputError: peft is missing.
        ModelError: the adapter does not fit the model, is damaged, or cannot be merged.
        RunError: a newer gaincell wrote it.
    """
    try:
        from peft import PeftConfig, PeftModel
    except ImportError as error:
        raise InputError(f"{directory}: adapters need the extra: pip install 'gaincell[train]'") from error
    from gaincell.integrations.hf.sources import in_one_line

    try:
        config: Any = PeftConfig.from_pretrained(str(directory))
        if config.is_prompt_learning:
            raise ModelError(
                "learned prompts cannot be merged into weights: use peft's PeftModel.from_pretrained"
            )
        config.inference_mode = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of transformers, about what peft calls
            wrapped: Any = PeftModel(model, config)
            found = wrapped.load_adapter(str(directory), "default")
        if unfit := sorted([*found.missing_keys, *found.unexpected_keys]):
            raise ModelError(
                f"the adapter does not fit the model: {unfit[0]} ({len(unfit)} tensors); save it again"
            )
        wrapped.merge_and_unload()
    except GaincellError as error:
        raise type(error)(f"{directory}: {error}") from error
    except Exception as error:  # of whichever kind of adapter it is
        raise ModelError(f"{directory}: the adapter cannot be read: {in_one_line(error)}") from error
    vars(model).pop("peft_config", None)
    model.requires_grad_(True)


def _entries(directory: Path) -> dict[str, Any]:
    file = directory / CONFIG
    try:
        found = read_json(file)
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise ModelError(f"{file} holds no settings of an adapter; save it again")
    return found
