"""Reading a pretrained model and its tokenizer, and knowing its weights again.

Whatever goes wrong on the way ends in one ``ModelError`` that says what was tried and what is allowed.
"""

import hashlib
import io
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass, field
from functools import cache
from logging import ERROR
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from gaincell.errors import GaincellError, InputError, ModelError
from gaincell.files import read_json
from gaincell.integrations.hf.attach import attached_layers, attached_model
from gaincell.integrations.hf.completeness import check_complete, stored_types
from gaincell.integrations.hf.interface import register
from gaincell.integrations.hf.lora import check_peft
from gaincell.integrations.hf.sources import (
    FORMS,
    WEIGHTS,
    Source,
    adapter_record,
    find_source,
    in_one_line,
    revision_of,
    without_revision,
)
from gaincell.text import sha256

_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
"""Files of which a tokenizer has one."""
_STORED = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Types of weights that are kept while a model is read, by their names in safetensors files."""
_PIECE = 2**22
"""Numbers of a tensor that are converted or checked at once."""
_SAMPLES = 64
"""Values of a weight that `sampled_fingerprint` takes, or up to twice as many."""
SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
"""Of a configuration, under the names that every family of transformers understands."""


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode with everything needed to use it and to know it again.

    Attributes:
        id: What to give to ``load_model`` to get the same (base) model again; of a hub model ID@COMMIT.
        sha256: `fingerprint` of the base model's weights.
        own: Name -> SHA-256 of the files that gains, offsets, weights unlike the base model's and another
            cell were read from.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    id: str
    sha256: str
    own: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class BaseModel:
    """A pretrained model in eval mode without its tokenizer, where it was read from, its `fingerprint`."""

    model: PreTrainedModel
    source: Source
    sha256: str

    def with_tokenizer(self, *own: Path) -> LoadedModel:
        """The same with its tokenizer; `own`: see `LoadedModel`.

        Raises:
            ModelError: there is none.
        """
        hashes = {path.name: sha256(path) for path in own}
        return LoadedModel(self.model, load_tokenizer(self.source), self.source.id, self.sha256, hashes)


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
        dtype: Of the weights, which are read as they are stored and converted one by one afterwards, so that
            the fingerprint does not depend on it. None: bfloat16 where they are stored so, else float32.
        where: Who needs it, for the line that announces a download.
        base: Where the base model of an adapter is now, if not where its configuration says.

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
        with _reading(source):
            if source.gguf is None:
                without_weights(source)  # as a check
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
    weights = fingerprint(loaded)
    loaded.config._name_or_path = loaded.name_or_path = without_revision(source.id)
    loaded.config._commit_hash = revision_of(source.id)
    check_finite(loaded, where=f"model {source.id!r}")
    if source.adapter is not None:
        _check_adapted(loaded, source.adapter)
    if dtype is None:
        dtype = torch.bfloat16 if loaded.dtype == torch.bfloat16 else torch.float32
    for weight in base_weights(loaded).values():  # buffers stay as they are, as with transformers
        if weight.is_floating_point():
            weight.data = weight.data.to(dtype)
    loaded.config.dtype = dtype
    if source.adapter is not None:
        _put_adapter(loaded, source.adapter)
        check_finite(loaded, where=str(source.adapter))
    return BaseModel(loaded.eval(), source, weights)


def _check_adapted(model: PreTrainedModel, adapter: Path) -> None:
    """Refuse a base model, as it is stored, that an adapter was not trained on.

    Raises:
        ModelError: it is another one.
    """
    trained_on = adapter_record(adapter).get("base")
    if trained_on is not None and sampled_fingerprint(model, half=True) != trained_on:
        raise ModelError(
            f"{adapter}: its base model {model.name_or_path!r} has changed since the adapter was trained, "
            "or is another; restore it, or say where the old one is: gaincell.load(ADAPTER, base=DIRECTORY)"
        )


def _put_adapter(model: PreTrainedModel, directory: Path) -> None:
    """Attach a base model as an adapter says, read the adapter and merge it into the weights, in place."""
    check_peft(f"{directory}: ")
    from peft import PeftConfig, PeftModel

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


def _stored_dtype(source: Source) -> torch.dtype | None:
    """The one type of _STORED in which safetensors files hold all of a model's weights; None: no such."""
    files = source.directory.glob(WEIGHTS[0]) if source.gguf is None else ()
    found = set(stored_types(files).values())
    return _STORED.get(found.pop()) if len(found) == 1 else None


def without_weights(source: Source) -> Any:
    """The model of a source, without reading its weights.

    Raises:
        ModelError: its configuration cannot be read, or no model can be built from it.
    """
    register()
    file = source.directory / (source.gguf or "config.json")
    where = f"model {source.id!r}, {file}"
    try:
        if source.gguf is None:
            # as written: some configurations divide by them
            _check_sizes(read_json(file, infinite=True), where)
        config = AutoConfig.from_pretrained(**source.arguments)
    except ModelError:
        raise
    except Exception as error:  # of whichever class of configuration it is
        raise ModelError(f"cannot read {where}: {in_one_line(error)}. {FORMS}") from error
    text = config.get_text_config()
    _check_sizes({name: getattr(text, name, None) for name in SIZES}, where)
    return build_empty(config, where, f"; correct it. {FORMS}")


def build_empty(config: PretrainedConfig, what: str, advice: str = "") -> Any:
    """The model of a configuration, without weights.

    Raises:
        ModelError: `what` cannot be built.
    """
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except Exception as error:  # of whichever class of model it is
        raise ModelError(f"cannot build {what}: {in_one_line(error)}{advice}") from error


def _check_sizes(found: Mapping[str, Any], where: str) -> None:
    for name in SIZES:
        number = found.get(name)
        if number is not None and (type(number) is not int or number < 1):
            raise ModelError(f"cannot build {where}: {name} = {number!r}; allowed: a whole number, 1 or more")


def has_tokenizer(source: Source) -> bool:
    """Whether there is a tokenizer beside a model or its adapter."""
    return source.gguf is not None or any(map(_tokenizer_in, (source.adapter, source.directory)))


def _tokenizer_in(directory: Path | None) -> bool:
    return directory is not None and any((directory / name).is_file() for name in _TOKENIZERS)


def load_tokenizer(source: Source) -> PreTrainedTokenizerBase:
    """The tokenizer beside a model's adapter, else beside the model. A bare ``tokenizer.json`` is read
    without transformers' rules for the model's family.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    if source.adapter is not None and _tokenizer_in(source.adapter):
        source = Source(str(source.adapter), source.adapter)
    bare = source.directory / "tokenizer.json"
    try:
        with _reading(source):
            if bare.is_file() and not (source.directory / "tokenizer_config.json").is_file():
                fast: Any = PreTrainedTokenizerFast
                tokenizer: PreTrainedTokenizerBase = fast(tokenizer_file=str(bare))
            else:
                tokenizer = AutoTokenizer.from_pretrained(**source.arguments)
            tokenizer("text")  # some settings are only looked at now
            if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):  # made of nothing
                raise ValueError("there are no files of one")
    except Exception as error:
        raise ModelError(
            f"no usable tokenizer beside model {source.id!r} ({in_one_line(error)}): save one there with "
            "tokenizer.save_pretrained"
        ) from error
    return tokenizer


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over names, shapes and float32 values of all weights, in the order of their names. Gains and
    offsets do not count, nor does the type the weights are held in as long as it holds them exactly.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(base_weights(model).items()):
        digest.update(f"{name} {tuple(weight.shape)}\n".encode())
        for piece in _pieces(weight):
            digest.update(piece.to("cpu", torch.float32).numpy().data)
    return digest.hexdigest()


def sampled_fingerprint(model: Any, half: bool = False) -> str | None:
    """SHA-256 over names, shapes and a few values of each weight but embeddings (adding tokens changes them),
    rounded to bfloat16: cheap to take, and the same whether the weights are held in float32 or bfloat16. None
    where some are held in another type, or are elsewhere.

    Args:
        model: Without adapters, in a wrapper of peft or not.
        half: Whether weights in float16 count, because they are stored so.
    """
    model = attached_model(model) if attached_layers(model) else model
    embeddings = [getattr(model, f"get_{end}_embeddings", lambda: None)() for end in ("input", "output")]
    left_out = {id(weight) for layer in embeddings if layer is not None for weight in layer.parameters()}
    exact = {torch.float32, torch.bfloat16, torch.float64} | ({torch.float16} if half else set())
    digest = hashlib.sha256()
    for name, weight in sorted(base_weights(model).items()):
        if weight.dtype not in exact or weight.is_meta:
            return None
        if id(weight) not in left_out:
            flat = weight.detach().reshape(-1)
            some = flat[:: max(1, flat.numel() // _SAMPLES)].to("cpu", torch.bfloat16)
            digest.update(f"{name} {tuple(weight.shape)}\n".encode())
            digest.update(some.float().numpy().data)
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
        ModelError: there are such; names the first.
    """
    for name, weight in model.named_parameters():
        check_finite_tensor(name, weight, where)


def check_finite_tensor(name: str, tensor: Tensor, where: str) -> None:
    """Refuse a tensor with values that are NaN or infinite.

    Raises:
        ModelError: there is one.
    """
    bad = sum(int((~torch.isfinite(piece)).sum()) for piece in _pieces(tensor))
    if tensor.is_floating_point() and bad:
        raise ModelError(
            f"{where}: tensor {name} has {bad} of {tensor.numel()} values that are NaN or infinite; "
            "repair or reload the weights"
        )


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
def _reading(source: Source) -> Iterator[None]:
    """No progress bars and no advice from transformers while a model is read; errors still raise."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(ERROR)
    try:
        # bars: that of the GGUF conversion cannot be switched off
        with redirect_stderr(io.StringIO()), nullcontext() if source.gguf is None else _parsed_once():
            yield
    finally:
        logging.set_verbosity(verbosity)


@contextmanager
def _parsed_once() -> Iterator[None]:
    """transformers parses a GGUF file for whatever it asks of it, and lists all tensor names for each module:
    more than half of the time in which a small model is read.
    """
    import gguf

    before = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    vars(gguf).update({name: cache(function) for name, function in before.items()})
    try:
        yield
    finally:
        vars(gguf).update(before)
