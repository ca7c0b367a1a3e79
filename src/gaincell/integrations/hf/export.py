"""A RUN in the files of other libraries: see `gaincell export`."""

from __future__ import annotations

import filecmp
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers.pytorch_utils import Conv1D

from gaincell.chips.design import Design
from gaincell.errors import InputError, ModelError, RunError
from gaincell.files import write_directory, write_text
from gaincell.integrations.hf.attach import attach, attached_layers
from gaincell.integrations.hf.base_model import has_tokenizer, load_tokenizer, sampled_fingerprint
from gaincell.integrations.hf.checkpoint import read
from gaincell.integrations.hf.hardware_record import hardware_record, saved_record
from gaincell.integrations.hf.lora import check_peft
from gaincell.integrations.hf.models import load_without_tokenizer
from gaincell.integrations.hf.pretrained import ARRAYS, METHOD
from gaincell.integrations.hf.reparametrisation import add_stored_parts, is_copy, is_trained
from gaincell.integrations.hf.run import DESIGN, HARDWARE, Run, refuse_second_model
from gaincell.integrations.hf.sources import (
    ADAPTER,
    ADAPTER_WEIGHTS,
    names_hub_model,
    revision_of,
    without_revision,
)

SAVED = ("model.safetensors", "model-?????-of-?????.safetensors", "model.safetensors.index.json")
"""Weights as transformers writes them, in one file or several."""
TEXTS = ("tokenizer*", "*.jinja", "special_tokens_map.json", "vocab.json", "merges.txt", "added_tokens.json")
"""Files of a tokenizer."""
_A, _B = ".weight.lora_A", ".weight.lora_B"
_LOAD = {
    "transformers": """import gaincell
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("{name}")""",
    "peft": """import gaincell
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{base}"), "{name}")""",
}
_LOAD_OWN = """import gaincell

model, tokenizer = gaincell.load("{name}")"""
"""An adapter on a model whose name only gaincell knows."""
_LOAD_HERE = """import gaincell

model, tokenizer = gaincell.load("{name}", base="{base}")  # base: the path of {base}"""
"""An adapter on a model in local files."""


def export_transformers(
    run: str | os.PathLike[str], out: str | os.PathLike[str], dtype: torch.dtype = torch.float32
) -> Path:
    """Write a RUN as a directory of transformers that stands alone: merged weights, configuration with the
    chip, tokenizer where there is one, and a model card.

    Args:
        run: A RUN, an adapter of peft, or an attached model in a directory, here or on the hub.
        out: The directory, made if it is missing.
        dtype: Of the weights; gains and offsets stay in float64.

    Raises:
        RunError: the RUN is damaged, its base model has changed, the disk is full (an earlier export then
            stays as it was), or ``out`` holds another model, a RUN or an adapter, or files of one's own that
            would be lost.
        ModelError: the base model cannot be found, or what is given holds no hardware.
    """
    directory = Path(out)
    refuse_second_model(directory, HARDWARE, ADAPTER)
    if (config := directory / "config.json").exists() and not _is_of_arrays(config):
        raise RunError(f"{out} holds a model that is not in arrays (config.json): choose another directory")
    found = load_without_tokenizer(run, dtype)
    cells = attached_layers(found.model)
    if not cells:
        raise ModelError(f"{run} is a softmax model, not one in arrays: nothing to export; see gaincell map")
    card = model_card(run, found.source.id, directory.name, cells[0].design, "transformers")

    def write(place: Path) -> None:
        found.model.save_pretrained(place)
        if has_tokenizer(found.source):
            load_tokenizer(found.source).save_pretrained(place)
        write_text(place / "README.md", card)
        _refuse_own(place, directory, config)

    earlier = (*SAVED, *TEXTS) if config.exists() else ()
    return write_directory(directory, write, last="config.json", replaces=earlier)


def _refuse_own(place: Path, directory: Path, last: Path) -> None:
    """Refuse to replace files of a directory that holds no export yet, which would have `last`.

    Raises:
        RunError: there are some, other than those to be written.
    """
    for new in () if last.exists() else place.iterdir():
        old = directory / new.name
        if old.is_file() and not filecmp.cmp(new, old, shallow=False):
            raise RunError(
                f"{directory} holds a {new.name} of its own, which would be lost: choose another directory, "
                "or move it away"
            )


def _is_of_arrays(config: Path) -> bool:
    """Whether a config.json is that of an attached model."""
    try:
        return saved_record(config) is not None
    except (OSError, ValueError, AttributeError):  # no object of JSON
        return False


def export_peft(run: str | os.PathLike[str], out: str | os.PathLike[str]) -> Path:
    """Write the adapters, gains and offsets of a RUN as an adapter of peft, with the chip and a model card.

    Args:
        run: A RUN with low-rank adapters, here or on the hub.
        out: The directory, made if it is missing.

    Raises:
        InputError: peft is missing, or its files cannot hold something in the RUN.
        RunError: as `export_transformers`; the other model is a RUN or one of transformers.
        ModelError: the base model cannot be found.
    """
    check_peft()
    from peft import LoraConfig

    source, directory = Run(run), Path(out)
    refuse_second_model(directory, HARDWARE, "config.json")
    source.metadata()  # refuses what is no RUN
    held = read(source.file())
    factors = {name for name in held if name.endswith((_A, _B))}
    if any(is_trained(name) for name in held):
        raise _refusal("mixing, which goes into the weights before its adapters")
    if not factors:
        raise _refusal("no low-rank adapters")
    if others := {name for name in held if ARRAYS not in name} - factors:
        raise _refusal(f"other weights of its own ({min(others)})")
    ranks = {n.removesuffix(_A): len(held[n]) for n in factors if n.endswith(_A)}
    model: Any = source.base(dtype=None).model
    base = sampled_fingerprint(model)
    design = source.design
    attach(model, design)
    add_stored_parts(model, held)
    rank = max(ranks.values())
    other_ranks = {name: own for name, own in ranks.items() if own != rank}
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=sorted(ranks),
        rank_pattern=dict(other_ranks),
        alpha_pattern=dict(other_ranks),
        fan_in_fan_out=all(isinstance(model.get_submodule(name), Conv1D) for name in ranks),
        modules_to_save=["gain_cell"],
        base_model_name_or_path=public_name(source.hardware.base),
        revision=revision_of(source.hardware.base),
        task_type="CAUSAL_LM",
        inference_mode=True,
        auto_mapping={METHOD: hardware_record(attached_layers(model), "gain-cell") | {"base": base}},
    )
    held |= {name: index for name, index in model.named_buffers() if is_copy(name)}
    names = {name: name.replace(".weight.lora_", ".lora_") + ".weight" for name in factors}
    tensors = {f"base_model.model.{names.get(name, name)}": tensor for name, tensor in held.items()}
    card = model_card(run, source.hardware.base, directory.name, design, "peft")

    def write(place: Path) -> None:
        design.save(place / DESIGN)
        save_file(tensors, place / ADAPTER_WEIGHTS, {"format": "pt"})
        write_text(place / "README.md", card)
        config.save_pretrained(str(place))
        _refuse_own(place, directory, directory / ADAPTER)

    return write_directory(directory, write, last=ADAPTER, replaces=())


def _refusal(what: str) -> InputError:
    return InputError(
        f"an adapter of peft holds low-rank adapters and arrays, and the RUN has {what}: use gaincell export "
        "--format transformers"
    )


def public_name(base: str) -> str:
    """A base model by a name that others can use: without its commit and without places here."""
    name = without_revision(base)
    return Path(name).name if Path(name).is_absolute() else name


def model_card(run: str | os.PathLike[str], base: str, name: str, design: Design, form: str) -> str:
    """README.md of an exported RUN: what it is, how to load it (`form`: with which library), its results."""
    code, is_here, base = _LOAD[form], Path(base).is_absolute(), public_name(base)
    if form == "peft" and (is_here or not names_hub_model(base)):
        code = _LOAD_HERE if is_here else _LOAD_OWN
    lines = [
        "---",
        f"library_name: {form}",
        *([f"base_model: {base}"] if "/" in base else []),
        *("pipeline_tag: text-generation", "tags:", "- gaincell", "- analog", "---"),
        f"# {name}: {base} on {design.name}",
        "",
        f"The attention of {base} in simulated analog gain-cell arrays (design `{design.name}`, cells "
        f"`{design.cell.name}`). It needs the package gaincell (`pip install gaincell`).",
        "",
        "```python",
        code.format(name=name, base=base),
        "```",
    ]
    if (made := Run(run).result) is not None:
        stage, how = made.saved_stage, made.provenance
        lines += [
            "",
            f"Perplexity {stage.perplexity:.2f}, {stage.numbers}: {how.protocol}. Made by `{how.command}`.",
        ]
    return "\n".join([*lines, "", "Hardware is simulated: nothing was measured on a chip.", ""])
