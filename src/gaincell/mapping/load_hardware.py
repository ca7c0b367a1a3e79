"""A model on its hardware, from what a user names: a RUN, or a model with a linear version shipped."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gaincell.adaptation import adapt, collect_statistics
from gaincell.chips.design import Design
from gaincell.chips.design_file import load_design
from gaincell.errors import InputError, ModelError
from gaincell.evaluation.perplexity import cut_blocks
from gaincell.integrations.hf.attach import attach, attached_layers, set_design
from gaincell.integrations.hf.base_model import LoadedModel, has_tokenizer, load_base, load_tokenizer
from gaincell.integrations.hf.checkpoint import read_state
from gaincell.integrations.hf.chip import AS_SAVED, chip_exchanged
from gaincell.integrations.hf.context import default_length, read_tokens
from gaincell.integrations.hf.models import load_model, load_without_tokenizer
from gaincell.integrations.hf.run import Run
from gaincell.integrations.hf.size import saved_design
from gaincell.mapping.initial_gains import calibrate
from gaincell.nn.checks import check_names
from gaincell.ops.gain_cell_attention import BackendName, Gradient
from gaincell.progress import StageProgress, silent_stages
from gaincell.renamed import renamed
from gaincell.results.run import TrainedResult
from gaincell.text import open_text, sha256

ASSETS = Path(__file__).parents[1] / "assets"
CALIBRATION_TOKENS = 1024
ADAPTATION_TOKENS = 16_384
DTYPES = ("float32", "bfloat16", "float16", "float64")
"""Names of types of weights."""
LINEAR = "linear"
"""The stage of a RUN of `gaincell map` that an adaptation starts from."""
MADE_FOR = "leroux2025"
"""The design of the linear versions that are shipped, with linear cells."""


class Shipped(NamedTuple):
    """Shipped with a model: its linear version, and the softmax model continued on the same tokens."""

    linear: Path
    software: Path
    tokens: int
    design_hash: str

    @property
    def words(self) -> str:
        return f"the shipped linear hardware version, trained on {self.tokens:,} tokens"


class LoadedHardware(NamedTuple):
    """A model with its arrays.

    Attributes:
        loaded: The model.
        origin: Where gains and offsets come from, in words.
    """

    loaded: LoadedModel
    origin: str


def find_shipped(model: str) -> Shipped | None:
    """The linear version that is shipped with an embedded model."""
    linear, software = (ASSETS / model / f"{name}.safetensors" for name in ("linear", "software-continued"))
    if "/" in model or not (linear.is_file() and software.is_file()):
        return None
    with safe_open(linear, framework="pt") as file:
        metadata = file.metadata() or {}
    return Shipped(linear, software, int(metadata.get("tokens", 0)), metadata.get("design_hash", ""))


class HardwareVersion(NamedTuple):
    """A model in arrays, before it is loaded.

    Attributes:
        model: As it was named.
        run: The RUN that it is in; None: it is shipped, or saved in files of other libraries.
        state: Of a linear version; None: what is saved.
        words: Which version it is.
        tokens: Those that it was trained on.
    """

    model: str
    run: Run | None
    state: Path | None
    words: str
    tokens: int

    @property
    def design(self) -> Design | None:
        """The chip that it was saved on; None of what is shipped."""
        if self.run is not None:
            return self.run.design
        return saved_design(self.model) if self.state is None else None

    @property
    def made_for(self) -> Design:
        """The design that gains and offsets were made for."""
        own = self.design
        if own is None:
            return linear_chip()
        return own if self.state is None else own.replace(cell="linear")

    def load(self, *, backend: BackendName = "auto", dtype: torch.dtype = torch.float32) -> LoadedModel:
        """The model, attached, on the design that it was made for."""
        if self.state is None:
            return load_model(self.model, dtype, backend=backend)
        found = load_base(self.model, dtype) if self.run is None else self.run.base(dtype=dtype)
        loaded = found.with_tokenizer(self.state)
        attach(loaded.model, self.made_for, backend=backend)
        read_state(loaded.model, self.state)
        return loaded


def _is_linear(run: Run) -> bool:
    """Whether the stage `linear` of a RUN has linear cells, whatever its recipe means by the name."""
    if not isinstance(run.result, TrainedResult):
        return True
    chip = run.design_of(LINEAR)
    return chip is not None and chip.cell.name == "linear"


def find_start(model: str, *, linear: bool = True) -> HardwareVersion:
    """The hardware version of a model that an adaptation starts from.

    Args:
        model: As the user names it.
        linear: Of a RUN the linear model of its stage `linear`; else, as where it has none, the model saved
            in it.
            Its statistics are the target of the adaptation.

    Raises:
        ModelError: there is no hardware version of it to start from.
    """
    run, shipped = Run(model), find_shipped(model)
    if run.saved and linear and run.file(LINEAR).is_file() and _is_linear(run):
        words = "the linear hardware model of the RUN"
        return HardwareVersion(model, run, run.file(LINEAR), words, run.training_tokens(LINEAR))
    if run.saved:
        return HardwareVersion(model, run, None, AS_SAVED, run.training_tokens())
    if shipped is not None:
        return HardwareVersion(model, None, shipped.linear, shipped.words, shipped.tokens)
    if saved_design(model) is not None:
        return HardwareVersion(model, None, None, AS_SAVED, 0)
    if Path(model).exists():
        raise ModelError(
            f"{model} has no linear hardware version to start from; "
            f"make one: gaincell map {model}, then adapt the RUN it writes"
        )
    raise ModelError(
        f"there is no file or directory {model!r} here, and no hardware version of that name is shipped; "
        "a pretrained model of the hub is mapped first: gaincell map MODEL, then adapt the RUN it writes"
    )


@renamed("impl", "backend")
def load(
    model: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    design: Design | str | os.PathLike[str] | None = None,
    dtype: torch.dtype | str = torch.float32,
    backend: BackendName = "auto",
    gradient: Gradient | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """Load a model that is on its hardware, attached and in eval mode, and its tokenizer.

    Example:

        >>> import gaincell
        >>> model, tokenizer = gaincell.load("tiny")
        >>> gaincell.perplexity(model, "It was a dark night. " * 40, "blocks-64", tokenizer=tokenizer).blocks
        3

    Args:
        model: A RUN directory, a directory or hub id that `save_pretrained` (of the model, or of a wrapper of
            peft) or `gaincell export` wrote, a RUN on the hub, or `tiny`, which comes as its shipped linear
            hardware version. An adapter of peft is merged into its base model.
        base: Where the base model of a RUN or an adapter is now, if not where it was.
        design: Another design than the one saved (another chip, another cell), its name or file.
        dtype: Of the model's weights, or its name, such as "bfloat16"; gains and offsets are float64.
        backend: See `attach`.
        gradient: See `attach`; None: as it was saved, or "exact" where that is not said, as in a RUN.

    Returns:
        The model, and its tokenizer; None where there is none beside it.

    Raises:
        RunError: a file is not what it should be, or the base model has changed.
        ModelError: there is no such model, it holds no hardware, or a stored tensor is NaN or infinite.
        DesignError: there is no such design.
        InputError: there is no such `dtype`, `backend` or `gradient`.
    """
    check_names(backend, gradient or "exact")
    kinds = {known: getattr(torch, known) for known in DTYPES}
    if (kind := kinds.get(dtype, dtype) if isinstance(dtype, str) else dtype) not in kinds.values():
        raise InputError(f"dtype is {dtype!r}; choose one of {', '.join(DTYPES)}")
    name = os.fspath(model)
    found = load_without_tokenizer(name, kind, base=base, design=design, backend=backend, gradient=gradient)
    if not attached_layers(found.model) and (shipped := find_shipped(name)) is not None:
        attach(found.model, design or linear_chip(), backend=backend, gradient=gradient or "exact")
        read_state(found.model, shipped.linear)
    if not attached_layers(found.model):
        raise ModelError(
            f"{name!r} is a softmax model: load it with transformers' from_pretrained and attach it "
            "(gaincell.attach); gaincell.load reads what was saved attached"
        )
    return found.model, load_tokenizer(found.source) if has_tokenizer(found.source) else None


def hardware_model(
    name: str,
    default_design: Design,
    design: Design | None = None,
    *,
    backend: BackendName = "auto",
    progress: StageProgress = silent_stages,
    loaded: LoadedModel | None = None,
) -> LoadedHardware:
    """Load a model, a RUN or another, and see to it that it runs in arrays.

    A RUN is what it is. An embedded model takes its shipped linear hardware version, so its cell is the
    linear one. Any other model gets first gains and offsets from statistics of the text `sample`, also for
    the linear cell: without training it writes noise, but it runs.

    Args:
        name: Of the model.
        default_design: For models that bring no design.
        design: Instead of the model's own or the default one; its cell is used as it is, and `origin` says
            so.
        backend: See `attach`.
        progress: Opens the progress of first gains and offsets.
        loaded: The model, where it is read already, with this backend.

    Raises:
        GaincellError: the model cannot be found or mapped.
    """
    loaded = loaded or load_model(name, backend=backend)
    if attached_layers(loaded.model):
        tokens = Run(name).training_tokens()
        origin = AS_SAVED + (f", trained on {tokens:,} tokens" if tokens else "")
        if design is not None:
            origin += chip_exchanged(attached_layers(loaded.model)[0].design, design)
            set_design(loaded.model, design)
        return LoadedHardware(loaded, origin)
    chip = design or default_design.replace(cell="linear")
    attach(loaded.model, chip, backend=backend)
    if (shipped := find_shipped(name)) is not None:
        read_state(loaded.model, shipped.linear)
        loaded = replace(loaded, own={shipped.linear.name: sha256(shipped.linear)})
        return LoadedHardware(loaded, shipped.words + chip_exchanged(linear_chip(), chip))
    ids = read_tokens(loaded, open_text("sample"), "training", CALIBRATION_TOKENS).long()[None]
    ids = ids[:, : default_length(loaded.model, CALIBRATION_TOKENS)]
    calibrate(loaded.model, [ids], progress=progress("first gains and offsets"))
    origin = "first gains and offsets from statistics, untrained: expect noise (see gaincell map)"
    return LoadedHardware(loaded, origin)


def adapted_model(
    name: str, chip: Design, *, backend: BackendName = "auto", progress: StageProgress = silent_stages
) -> LoadedHardware:
    """An embedded model on a chip: its shipped linear version, with gains and offsets adapted in closed form
    to other cells on the training part of the text `sample`.

    Raises:
        GaincellError: there is no shipped version of the model, or the text cannot be read.
    """
    if find_shipped(name) is None:
        raise InputError(f"{name} has no linear hardware version to adapt; give a RUN (see gaincell map)")
    start = find_start(name)
    loaded = start.load(backend=backend)
    model = loaded.model
    if chip.cell == start.made_for.cell:
        set_design(model, chip)
        return LoadedHardware(loaded, start.words)
    ids = read_tokens(loaded, open_text("sample"), "training", ADAPTATION_TOKENS)
    batches = [cut_blocks(ids, default_length(model)).long()]
    target = collect_statistics(model, batches, progress("statistics of the linear version"))
    set_design(model, chip)
    adapt(model, batches, target, progress=progress("adapt to the chip's cells"))
    origin = f"{start.words}, then adapted in closed form to {chip.cell.name} cells, without training on them"
    return LoadedHardware(loaded, origin)


def linear_chip() -> Design:
    """What was shipped was made for this: linear cells of another slope make another model."""
    return load_design(MADE_FOR).replace(cell="linear")
