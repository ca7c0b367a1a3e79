"""Whether a file of weights and a model are made for each other.

transformers fills weights that a file lacks with random numbers, leaves out those that the model lacks, casts
integers and drops imaginary parts: each with a warning, and then goes on. Here each is refused by name.

Absent by right are tied weights (an output layer that is the embedding). In a file by right, and not read,
are buffers of older versions: masks and rotary frequencies, as transformers lists them for every family.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import PreTrainedModel

from gaincell.errors import ModelError

_BUFFERS = (r"\.masked_bias$", r"rope_freqs\.weight$", r"rope_factors_(long|short)\.weight$")
"""Buffers that some version of transformers, or llama.cpp, stores beside the weights."""
_FLOATING = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}
"""As a safetensors file names them."""


def check_complete(
    model: PreTrainedModel, info: Mapping[str, Any], directory: Path, gguf: str | None
) -> None:
    """Refuse a model that was not read from its file whole.

    `model` and `info` are what `from_pretrained` gave; `gguf` is the file in `directory` that was read, if it
    is one.

    Raises:
        ModelError: weights are missing, unexpected, of another shape, or no floating-point numbers; names one
            of each kind.
    """
    ignored = re.compile("|".join([*(model._keys_to_ignore_on_load_unexpected or ()), *_BUFFERS]))
    unexpected = set(info["unexpected_keys"])
    if gguf is not None:
        integers, unread = _of_gguf(model, directory / gguf)
        unexpected |= unread
    else:
        integers = {name for name in _not_floating(directory) if _is_weight(name, model, ignored)}
    problems = {
        "missing from the file": set(info["missing_keys"]),
        "in the file but not in the model": {name for name in unexpected if not ignored.search(name)},
        "of another shape than the model's": {name for name, *_ in info["mismatched_keys"]},
        "not a floating-point tensor": integers,
    }
    found = [f"{_some(names)} {what}" for what, names in problems.items() if names]
    if found:
        raise ModelError(
            f"the weights in {directory / gguf if gguf else directory} do not fit their config: "
            f"{'; '.join(found)}. Bring together the config and weights that belong together"
        )


def _some(names: Iterable[str]) -> str:
    """The first name, and how many more."""
    first, *others = sorted(names)
    return f"{first} (and {len(others)} more) are" if others else f"{first} is"


def _is_weight(name: str, model: PreTrainedModel, ignored: re.Pattern[str]) -> bool:
    """Whether a tensor in a file is read as a parameter; names may lack a prefix, or have one too many."""
    places = [own for own, _ in model.named_parameters()]
    if any(f".{own}".endswith(f".{name}") or f".{name}".endswith(f".{own}") for own in places):
        return True
    buffers = {own.rpartition(".")[2] for own, _ in model.named_buffers()}
    return not ignored.search(name) and name.rpartition(".")[2] not in buffers


def stored_types(paths: Iterable[Path]) -> dict[str, str]:
    """The types of the tensors in safetensors files, as these name them, by the tensors' names."""
    found: dict[str, str] = {}
    for path in paths:
        with safe_open(path, framework="pt") as file:
            found |= {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    return found


def _not_floating(directory: Path) -> Iterator[str]:
    """Names of the tensors in a model's files that are integers, truth values or complex numbers."""
    files = sorted(directory.glob("model*.safetensors"))
    yield from (name for name, kind in stored_types(files).items() if kind not in _FLOATING)
    for path in sorted(directory.glob("pytorch_model*.bin")) if not files else ():
        for name, tensor in torch.load(path, map_location="meta", weights_only=True).items():
            if not tensor.is_floating_point():
                yield name


def _of_gguf(model: PreTrainedModel, path: Path) -> tuple[set[str], set[str]]:
    """Names of the tensors of a GGUF file that are integers, and of those that transformers does not read."""
    from gguf import GGUFReader
    from transformers.modeling_gguf_pytorch_utils import (
        TENSOR_PROCESSORS,
        TensorProcessor,
        get_gguf_hf_weights_map,
    )

    reader: Any = GGUFReader(str(path))
    architecture = str(reader.fields["general.architecture"].contents())
    processors: Any = TENSOR_PROCESSORS
    processor = processors.get(architecture, TensorProcessor)(config=model.config.to_dict())
    known = get_gguf_hf_weights_map(model, processor)
    integers, unread = set(), set()
    for tensor in reader.tensors:
        if tensor.tensor_type.name in ("I8", "I16", "I32", "I64"):
            integers.add(tensor.name)
        if tensor.name not in known and "_exps" not in tensor.name:  # experts are stacked, and cut apart
            unread.add(tensor.name)
    return integers, unread
