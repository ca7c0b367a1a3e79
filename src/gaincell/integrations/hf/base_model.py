"""Reading a pretrained model and its tokenizer, and knowing its weights again.

Whatever goes wrong on the way ends in one ``ModelError`` that says what was tried and what is allowed.
"""

import hashlib
import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from logging import ERROR
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from gaincell.errors import GaincellError, InputError, ModelError
from gaincell.files import read_json
from gaincell.integrations.hf.adapter_source import check_adapted, put_adapter
from gaincell.integrations.hf.completeness import check_complete
from gaincell.integrations.hf.interface import register
from gaincell.integrations.hf.sources import (
    FORMS,
    WEIGHTS,
    Source,
    find_source,
    in_one_line,
    revision_of,
    without_revision,
)

_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
"""Files of which a tokenizer has one."""
_STORED = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Types of weights that are kept while a model is read, by their names in safetensors files."""
_PIECE = 2**22
"""Numbers of a tensor that are converted or checked at once."""
SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
"""Of a configuration, under the names that every family of transformers understands."""


@dataclass(frozen=True)
class LoadedModel:
    """A model with everything needed to use it and to know it again."""

    model: PreTrainedModel
    """in eval mode"""
    tokenizer: PreTrainedTokenizerBase
    id: str
    """what to give to ``load_model`` to get the same (base) model again; of a hub model ID@COMMIT"""
    sha256: str
    """fingerprint of the base model's weights, see ``fingerprint``"""


@dataclass(frozen=True)
class BaseModel:
    """A pretrained model without its tokenizer."""

    model: PreTrainedModel
    """in eval mode"""
    source: Source
    """where it was read from; ``source.id`` names it"""
    sha256: str
    """fingerprint of its weights"""

    def with_tokenizer(self) -> LoadedModel:
        """The same with its tokenizer. Raises ModelError where there is none."""
        return LoadedModel(self.model, load_tokenizer(self.source), self.source.id, self.sha256)


def load_base(
    model: str | os.PathLike[str],
    dtype: torch.dtype | None = torch.float32,
    where: str = "",
    base: str | os.PathLike[str] | None = None,
) -> BaseModel:
    """Read a pretrained model (not a RUN) and take its fingerprint. An adapter of peft on gain-cell arrays is
    merged into its base model; id and fingerprint are those of the base model.

    Args:
        model: ``tiny``, ``smollm2-135m``, a hub id, a model directory, a ``.gguf`` file, or an adapter.
        dtype: of the weights. They are read as they are stored, mapped into memory, and converted one by
            one afterwards, so that the fingerprint is that of the model and not of the choice of ``dtype``.
            None: bfloat16 where they are stored so, else float32.
        where: who needs it, for the line that announces a download.
        base: where the base model of an adapter is now, if not where its configuration says.

    Raises:
        ModelError: the model cannot be found or read; a weight is missing, has no place in the model, or is
            not a finite floating-point number (named); or the base model of an adapter has changed.
        RunError: a newer gaincell wrote the adapter.
        InputError: an adapter needs peft, which is missing; or `base` is given, and it is no adapter.
    """
    source = find_source(str(model), where, base)
    if base is not None and source.adapter is None:
        raise InputError(f"base= is for a RUN or an adapter, and {str(model)!r} is neither; leave it out")
    try:
        with _quiet():
            check_config(source)
            found: Any = AutoModelForCausalLM.from_pretrained(
                dtype=_stored_dtype(source) or torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **source.arguments,
            )
            loaded, info = found
            check_complete(loaded, info, source.directory, source.gguf)
            if source.gguf is not None:
                loaded = _without_quantiser(loaded)
    except GaincellError:
        raise
    except Exception as error:
        raise ModelError(f"cannot read model {str(model)!r}: {in_one_line(error)}. {FORMS}") from error
    sha256 = fingerprint(loaded)
    loaded.config._name_or_path = loaded.name_or_path = without_revision(source.id)
    loaded.config._commit_hash = revision_of(source.id)
    check_finite(loaded, where=f"model {source.id!r}")
    if source.adapter is not None:
        check_adapted(loaded, source.adapter)
    if dtype is None:
        dtype = torch.bfloat16 if loaded.dtype == torch.bfloat16 else torch.float32
    _convert_weights(loaded, dtype)
    loaded.config.dtype = dtype
    if source.adapter is not None:
        put_adapter(loaded, source.adapter)
        check_finite(loaded, where=str(source.adapter))
    return BaseModel(loaded.eval(), source, sha256)


def _stored_dtype(source: Source) -> torch.dtype | None:
    """The one type in which safetensors files hold all of a model's weights; None for several, for another,
    and for files of another format.
    """
    found: set[str] = set()
    for path in source.directory.glob(WEIGHTS[0]) if source.gguf is None else ():
        with safe_open(path, framework="pt") as file:
            found |= {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 (not a mapping)
    return _STORED.get(found.pop()) if len(found) == 1 else None


def check_config(source: Source) -> None:
    """Raise ModelError where the config.json of a model cannot be read, or no model can be built from it."""
    if source.gguf is not None:
        return
    register()
    file = source.directory / "config.json"
    where = f"model {source.id!r}, {file}"
    try:
        _check_sizes(read_json(file), where)  # as written: some configurations divide by them
        config = AutoConfig.from_pretrained(**source.arguments)
    except ModelError:
        raise
    except Exception as error:  # of whichever class of configuration it is
        raise ModelError(f"cannot read {where}: {in_one_line(error)}. {FORMS}") from error
    text = config.get_text_config()
    _check_sizes({name: getattr(text, name, None) for name in SIZES}, where)
    try:
        with torch.device("meta"):
            AutoModelForCausalLM.from_config(config)
    except Exception as error:  # of whichever class of model it is
        raise ModelError(f"cannot build {where}: {in_one_line(error)}; correct it. {FORMS}") from error


def _check_sizes(found: Mapping[str, Any], where: str) -> None:
    for name in SIZES:
        number = found.get(name)
        if number is not None and (type(number) is not int or number < 1):
            raise ModelError(f"cannot build {where}: {name} = {number!r}; allowed: a whole number, 1 or more")


def has_tokenizer(source: Source) -> bool:
    """Whether there is a tokenizer beside a model or its adapter."""
    return source.gguf is not None or _tokenizer_beside(_of_tokenizer(source).directory)


def _tokenizer_beside(directory: Path) -> bool:
    return any((directory / name).is_file() for name in _TOKENIZERS)


def _of_tokenizer(source: Source) -> Source:
    """Where a model's tokenizer is read from: beside its adapter, where there is one."""
    if source.adapter is None or not _tokenizer_beside(source.adapter):
        return source
    return Source(str(source.adapter), source.adapter)


def load_tokenizer(source: Source) -> PreTrainedTokenizerBase:
    """The tokenizer beside a model.

    A directory with a bare ``tokenizer.json`` is taken at its word: transformers' rules for the model's
    family do not touch it.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    source = _of_tokenizer(source)
    bare = source.directory / "tokenizer.json"
    try:
        with _quiet():
            if bare.is_file() and not (source.directory / "tokenizer_config.json").is_file():
                fast: Any = PreTrainedTokenizerFast
                tokenizer: PreTrainedTokenizerBase = fast(tokenizer_file=str(bare))
            else:
                tokenizer = AutoTokenizer.from_pretrained(**source.arguments)
            tokenizer("text")  # some settings are only looked at now
    except Exception as error:
        raise ModelError(
            f"no usable tokenizer beside model {source.id!r} ({in_one_line(error)}): save one there with "
            "tokenizer.save_pretrained"
        ) from error
    return tokenizer


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over names, shapes and float32 values of all weights, in the order of their names.

    Gains and offsets of attached arrays do not count, nor does the type the weights are held in as long
    as it holds them exactly.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(base_weights(model).items()):
        digest.update(f"{name} {tuple(weight.shape)}\n".encode())
        for piece in _pieces(weight):
            digest.update(piece.to("cpu", torch.float32).numpy().data)
    return digest.hexdigest()


def _pieces(tensor: Tensor) -> Iterator[Tensor]:
    """The numbers of a tensor in order, few at a time, so that copies of them take next to no memory."""
    yield from tensor.detach().reshape(-1).split(_PIECE)


def base_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The model's own weights by name, without the gains and offsets of attached arrays; tied ones once."""
    return {name: weight for name, weight in model.named_parameters() if ".gain_cell." not in name}


def check_finite(model: nn.Module, where: str = "model") -> None:
    """Refuse weights, gains or offsets that are NaN or infinite.

    Raises:
        ModelError: names the first such tensor.
    """
    for name, weight in model.named_parameters():
        check_finite_tensor(name, weight, where)


def check_finite_tensor(name: str, tensor: Tensor, where: str) -> None:
    """Refuse a tensor with values that are NaN or infinite. Raises ModelError."""
    bad = sum(int((~torch.isfinite(piece)).sum()) for piece in _pieces(tensor))
    if tensor.is_floating_point() and bad:
        raise ModelError(
            f"{where}: tensor {name} has {bad} of {tensor.numel()} values that are NaN or infinite; "
            "repair or reload the weights"
        )


def _convert_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Hold the weights in ``dtype``, as transformers does: buffers (rotary frequencies) stay as they are,
    and gains and offsets too.
    """
    for weight in base_weights(model).values():
        if weight.is_floating_point():
            weight.data = weight.data.to(dtype)


def _without_quantiser(loaded: PreTrainedModel) -> PreTrainedModel:
    """The same weights in a plain model: transformers refuses to save or convert one read from GGUF."""
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.random.fork_rng(devices=[]):
        plain: PreTrainedModel = type(loaded)(config)
    plain.load_state_dict(loaded.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = loaded.generation_config
    return plain


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no advice from transformers while a model is read; errors still raise."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(ERROR)
    try:
        with redirect_stderr(io.StringIO()):  # bars: that of the GGUF conversion cannot be switched off
            yield
    finally:
        logging.set_verbosity(verbosity)
