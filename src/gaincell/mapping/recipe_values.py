"""What the keys of a recipe take, and which of them a stage uses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gaincell.adaptation.adapt import METHODS
from gaincell.errors import GaincellError, InputError
from gaincell.files import read_json, restored
from gaincell.integrations.hf.checkpoint import describe, is_run
from gaincell.integrations.hf.lora import WHERE
from gaincell.integrations.hf.sources import SMOLLM2, TINY, find_source
from gaincell.ops.gain_cell_attention.gradients import GRADIENTS
from gaincell.quantity import check_keys
from gaincell.training.settings import FACTOR, LARGEST, RATE, TRAINING, Allowed, Number, check_value

HEAD: Mapping[str, Allowed] = {
    "seed": Number(0, 2**63 - 1, whole=True),
    "model": str | dict,
    "adapter": str,
    "adapter_stage": str,
    "design": str | dict,
    "files": list | dict,
    "skip_documents": dict,
    "repeated": Number(0, 1),
    "block": Number(2, whole=True),
    "order": ("shuffled", "random"),
    "weights": ("float32", "bfloat16"),
    "stored": ("float32", "bfloat16"),
    "embeddings": bool,
    "mixing": bool,
    "paired": bool,
    "biases": bool,
    "exponents": bool,
    "array_normaliser": bool,
    "evaluation_tokens": Number(2, whole=True),
    "calibration_tokens": Number(1, whole=True),
    "watched_tokens": Number(2, whole=True),
    "lora": dict,
    "training": dict,
    "stage": list,
}
MODEL: Mapping[str, Allowed] = {
    "architecture": ("llama", "gpt2"),
    "config": dict,
    "vocabulary": Number(257, whole=True),
    "characters_per_document": Number(1, whole=True),
    "steps": Number(1, whole=True),
    "run": str,
}
LORA: Mapping[str, Allowed] = {"rank": Number(1, whole=True), "where": WHERE, "scale": RATE}
STAGE: Mapping[str, Allowed] = {
    "name": str,
    "title": str,
    "start": str,
    "task": ("train", "adapt", "nothing"),
    "attention": ("arrays", "softmax"),
    "cell": str,
    "gradient": GRADIENTS,
    "initial": ("statistics", "wide", "first", "released"),
    "initial_gains": Number(most=LARGEST, above=True, many=2),
    "loss": ("cross-entropy", "distillation", "transfer"),
    "teacher": str,
    "weight": Number(0, 1),
    "states": FACTOR,
    "outputs": FACTOR,
    "attention_weights": FACTOR,
    "own_inputs": Number(whole=True),
    "steps": Number(whole=True),
    "method": METHODS,
    "neutral": bool,
    "compare": str,
}
SHARE = RATE
"""Of the tokens that a text gives."""
DOCUMENTS = Number(whole=True)
"""That are left out."""


def check_table(
    raw: Any, allowed: Mapping[str, Allowed], where: str, needed: Iterable[str] = ()
) -> dict[str, Any]:
    """The entries of a table. Raises GaincellError for one that is unknown, missing or not allowed."""
    entries: dict[str, Any] = check_value(raw, dict, where)
    check_keys(entries, allowed, where)
    missing = next((key for key in needed if key not in entries), None)
    if missing is not None:
        raise InputError(f"{where} lacks {missing!r}")
    for key, value in entries.items():
        check_value(value, allowed[key], f"{where}: {key}")
    return dict(entries)


def check_use(entry: Mapping[str, Any], where: str) -> None:
    """Raise InputError for a key of a stage that would change nothing beside its others."""
    task, loss = entry.get("task", "train"), entry.get("loss", "cross-entropy")
    of_losses = ("teacher", "weight", "states", "outputs", "attention_weights", "own_inputs")
    for idle, keys, why in (
        (task != "train", ("loss", *of_losses, "gradient", *TRAINING), f"task = {task!r}"),
        (task == "train", ("method", "neutral"), f"task = {task!r}"),
        (task == "nothing", ("method",), f"task = {task!r}"),
        (loss == "cross-entropy", of_losses, f"loss = {loss!r}"),
        (loss == "distillation", ("attention_weights", "own_inputs"), f"loss = {loss!r}"),
        (loss == "transfer", ("weight", "states", "outputs"), f"loss = {loss!r}"),
        (
            entry.get("attention") == "softmax",
            ("cell", "gradient", "initial", "initial_gains", "neutral"),
            "attention = 'softmax'",
        ),
    ):
        useless = next((key for key in keys if idle and key in entry), None)
        if useless is not None:
            raise InputError(f"{where}: {useless} has no effect with {why}; leave it out")


def gain_range(raw: Iterable[float], initial: str | None, where: str) -> tuple[float, float]:
    """A range of first gains; raises InputError."""
    low, high = raw
    if initial == "released":
        raise InputError(f"{where}: initial_gains has no effect with initial = 'released'; leave it out")
    if low >= high:
        raise InputError(f"{where}: initial_gains = {[low, high]}; give the smaller one first")
    return float(low), float(high)


def check_model(model: str, where: str, *, bare: bool = True) -> None:
    """Raise InputError for a model that is not here. Nothing is downloaded: OWNER/NAME is believed to be on
    the hub, and with `bare` NAME alone, too.
    """
    here = Path(model).expanduser().exists() or model.endswith(".gguf") or model.startswith("adapters/")
    owner, _, name = model.rpartition("/")
    named = all(re.fullmatch(r"[\w-][\w.-]*", part) for part in ([owner, name] if owner else [name]))
    if model in (TINY, SMOLLM2) or is_run(model) or (named and not here and (owner or bare)):
        return
    if named and not here:
        raise InputError(f"{where}: there is no {model!r} here; a model of the hub is named OWNER/NAME")
    try:
        find_source(model)
    except GaincellError as error:
        raise InputError(f"{where}: {error}") from error


def check_adapter(run: str, where: str) -> None:
    """Raise InputError for a RUN that is not here."""
    try:
        describe(run)
    except GaincellError as error:
        raise InputError(f"{where}: {error}") from error


def check_adapter_stage(run: str, stage: str) -> None:
    """Raise InputError unless a RUN of `gaincell train` has a finished stage with softmax attention."""
    where = f"adapter = {run!r}, adapter_stage = {stage!r}"
    folder = Path(run).expanduser() / "stages"
    found = sorted(path.stem for path in folder.glob("*.safetensors"))
    if stage not in found:
        raise InputError(f"{where}: it has no such finished stage; it has {', '.join(found) or 'none'}")
    if _settings(folder, where)["stages"][stage]["attention"] != "softmax":
        raise InputError(f"{where}: this stage is in arrays; leave out adapter_stage and name a saved RUN")


def run_settings(run: str, where: str) -> dict[str, Any]:
    """What a RUN of `gaincell train` that has pretrained its model was begun with. Raises InputError."""
    folder = Path(run).expanduser()
    needed = (folder / "stages" / "settings.json", folder / "model" / "model.safetensors")
    missing = [path for path in needed if not path.is_file()]
    if missing:
        raise InputError(
            f"{where}: it lacks {missing[0].relative_to(folder)}; give a RUN of `gaincell train` whose "
            "pretraining is finished"
        )
    return _settings(folder / "stages", where)


def _settings(stages: Path, where: str) -> dict[str, Any]:
    try:
        found = restored(read_json(stages / "settings.json"))
    except (OSError, ValueError) as error:
        raise InputError(f"{where}: settings.json cannot be read: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("stages"), dict):
        raise InputError(f"{where}: settings.json holds no settings of a recipe")
    return found


def files(raw: Any) -> dict[str, float | None]:
    """Names of texts and their shares, None without; raises InputError."""
    for name in raw:
        check_value(name, str, "files: the name of a text")
    if isinstance(raw, list):
        if len(set(raw)) < len(raw):
            raise InputError(f"files = {raw}; a text stands there twice")
        return dict.fromkeys(raw)
    for name, share in raw.items():
        check_value(share, SHARE, f"files: the share of {name}")
    return dict(raw)


def skips(raw: Mapping[str, Any], files: Iterable[str]) -> dict[str, int]:
    """Names of texts and how many documents of each are left out; raises InputError."""
    if raw and not files:
        raise InputError(f"skip_documents = {raw!r} needs files: it is for names of files")
    for name, documents in raw.items():
        check_value(name, tuple(files), "skip_documents: the text")
        check_value(documents, DOCUMENTS, f"skip_documents: {name}")
    return dict(raw)
