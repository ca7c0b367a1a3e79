"""What all stages of a mapping share: model, texts, directory; and switching between its models."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from gaincell.chips.design import Design
from gaincell.errors import InputError, ModelError
from gaincell.integrations.hf.attach import attach, attached_layers, detach, set_design
from gaincell.integrations.hf.base_model import base_weights
from gaincell.integrations.hf.checkpoint import read_state, save_differences, trained_parameters
from gaincell.integrations.hf.context import check_length, default_length, read_tokens
from gaincell.integrations.hf.lora import add_lora, without_adapters
from gaincell.integrations.hf.models import load_model
from gaincell.integrations.hf.support import attention_modules
from gaincell.mapping.engine import Engine, freeze_embeddings, read_evaluation
from gaincell.mapping.load_hardware import Shipped, find_shipped
from gaincell.mapping.run_folder import RunFolder
from gaincell.mapping.settings import MapSettings, Phase
from gaincell.progress import StageProgress
from gaincell.results.provenance import hash_of
from gaincell.text import open_text
from gaincell.training.data import pack_blocks
from gaincell.training.log import Tracker
from gaincell.training.loop import train
from gaincell.training.loss import Loss


@dataclass(kw_only=True)
class Job(Engine):
    """A mapping in progress. `model` is one model that the stages turn into what they need."""

    settings: MapSettings
    folder: RunFolder
    block: int
    training: Int[Tensor, "blocks T_plus_1"]
    linear_blocks: int
    calibration: Int[Tensor, "sequences T"]
    text_name: str
    shipped: Shipped | None
    original: dict[str, Tensor]

    @property
    def model(self) -> PreTrainedModel:
        return self.loaded.model

    def design(self, *, linear: bool) -> Design:
        """The chip with its own cell, or with the linear one."""
        return self.settings.design.replace(cell="linear") if linear else self.settings.design

    def software(self, state: Path | None) -> PreTrainedModel:
        """Turn the model into the softmax model, with the pretrained weights or those of `state`."""
        if attached_layers(self.model):
            detach(self.model)
        return self._restored(state)

    def hardware(self, state: Path | None, *, linear: bool) -> PreTrainedModel:
        """Turn the model into the hardware model, with the pretrained weights or those of `state`."""
        design = self.design(linear=linear)
        if attached_layers(self.model):
            set_design(self.model, design)
        else:
            attach(self.model, design, backend=self.settings.backend, gradient=self.settings.gradient)
        freeze_embeddings(self.model)
        return self._restored(state)

    def _restored(self, state: Path | None) -> PreTrainedModel:
        self.model.load_state_dict(self.original, strict=False)
        if state is not None:
            read_state(self.model, state)
        return self.model

    def teacher(self, state: Path | None) -> PreTrainedModel:
        """A copy of the softmax model, to learn from: it shares the weights that are not trained."""
        software = self.software(state)
        return copy.deepcopy(software, {id(p): p for p in software.parameters() if not p.requires_grad})

    def save(self, out: Path) -> None:
        """Save the model as it is. The weights it came with are here: its base model is not read again."""
        weights = without_adapters(base_weights(self.model))
        original = {name: self.original.get(name, weight) for name, weight in weights.items()}
        save_differences(self.model, out, original, self.loaded.id, self.loaded.sha256)

    def train_phase(self, stage: str, part: str, phase: Phase, blocks: Tensor, loss: Loss | None) -> int:
        """Train the model as it is on some blocks; on how many tokens that was."""
        vocabulary = self.model.config.vocab_size
        settings = self.settings.training(phase, len(blocks), self.block, vocabulary)
        return self.train(self.model, blocks, settings, stage, part, by=partial(train, loss_of=loss)).tokens


def linear_is_shipped(settings: MapSettings, layers: int) -> bool:
    """Whether the linear model comes with the model, of so many layers, for this chip: it is not trained."""
    shipped = None if settings.lora else find_shipped(settings.model)
    linear = settings.design.replace(cell="linear", layers=layers)
    return shipped is not None and shipped.design_hash == linear.hash


def prepare(settings: MapSettings, out: Path, progress: StageProgress, tracker: Tracker | None = None) -> Job:
    """Load the model, share out the text, open the directory.

    Raises:
        GaincellError: model, text or directory are not acceptable.
    """
    loaded = load_model(settings.model, None if settings.lora else torch.float32)
    loaded.model.to(settings.device)  # type: ignore[arg-type]
    if attached_layers(loaded.model):
        raise ModelError(f"{settings.model} is in arrays already; give the pretrained model it was made from")
    layers = len(attention_modules(loaded.model))  # refuses what cannot be mapped, before any work
    block = settings.block or default_length(loaded.model)
    protocol = f"blocks-{block}"
    check_length(loaded.model, block)
    shipped = None if settings.lora else find_shipped(settings.model)
    text = open_text(settings.text)
    wanted = max(settings.budget, settings.calibration_tokens) + block
    reading = progress("read the training text")
    stream = read_tokens(loaded, text, "training", wanted, reading, block=block + 1)
    evaluation = read_evaluation(loaded, text, settings.evaluation_tokens, protocol, progress)
    blocks = pack_blocks(stream, block, settings.seed)
    training = blocks[: settings.budget // block]
    linear_blocks = round(settings.linear_share * len(training))
    if linear_is_shipped(settings, layers):
        linear_blocks = 0
    if shipped is None and linear_blocks < 2:
        raise InputError(
            f"{len(training)} blocks of {block} tokens are too few to convert {settings.model}; "
            "give more text or a larger --budget"
        )
    identity = settings.identity() | {
        "base_sha256": loaded.sha256,
        "block": block,
        "training_text": hash_of(training),
        "evaluation_text": hash_of(evaluation),
    }
    if loaded.model.dtype != torch.float32:
        identity["weights"] = str(loaded.model.dtype)
    if settings.lora:
        add_lora(loaded.model, settings.lora, seed=settings.seed)
    freeze_embeddings(loaded.model)
    return Job(
        settings=settings,
        folder=RunFolder(out, identity, keeps=("linear",)),
        tracker=tracker,
        loaded=loaded,
        protocol=protocol,
        block=block,
        training=training,
        linear_blocks=linear_blocks,
        evaluation=evaluation,
        calibration=blocks[: max(1, settings.calibration_tokens // block), :-1].long(),
        text_name=text.name,
        shipped=shipped,
        progress=progress,
        original={name: tensor.clone() for name, tensor in trained_parameters(loaded.model).items()},
    )
