"""The model of a sweep, made ready for one point after the other.

    gains, offsets and weights as made -> the point's chip without spread -> adapted -> fine-tuned

As made: of a RUN what is saved in it, made for the design saved with it; of a shipped model its linear
version. Statistics on that very design are the adaptation's target.
The adaptation meets one draw of the noise, which neither training nor evaluation meets again.
Fine-tuning is noise-aware: every forward pass meets other noise of reads and writes and, where cells differ,
another chip, none of which is evaluated later. With distillation the model's teacher is itself, adapted to
the nominal chip without noise.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor
from transformers import PreTrainedModel

from gaincell.adaptation import Statistics, adapt, collect_statistics
from gaincell.backend_names import BackendName
from gaincell.chips.design import Design
from gaincell.errors import InputError
from gaincell.evaluation.perplexity import cut_blocks, window_and_stride
from gaincell.integrations.hf.attach import attached_layers, set_design
from gaincell.integrations.hf.context import read_tokens
from gaincell.mapping.engine import freeze_embeddings
from gaincell.mapping.load_hardware import find_start
from gaincell.sweeps.settings import BATCH, Sweep
from gaincell.sweeps.space import Values
from gaincell.text import Text
from gaincell.training.distillation import Distillation
from gaincell.training.loop import train
from gaincell.training.settings import TrainSettings

CALIBRATED_ON = 2**30
"""How far the noise that the adaptation meets lies from that which is evaluated."""
State: TypeAlias = dict[str, Tensor]
"""Parameters by name, copied."""


class Preparation:
    """The model, and what its points start from; it is adapted and trained on the training part of the text.

    Raises:
        GaincellError: model or design cannot be used, or the text is too short to adapt or train with.
    """

    def __init__(self, sweep: Sweep, text: Text, backend: BackendName = "auto", device: str = "cpu") -> None:
        self.sweep = sweep
        self.loaded = find_start(sweep.model, linear=False).load(backend=backend)
        self._made_for = attached_layers(self.loaded.model)[0].design
        self.model = self.loaded.model.to(device)  # type: ignore[arg-type]
        self.length, _ = window_and_stride(sweep.protocol)
        self._text = text
        self._target: dict[int, Statistics] = {}
        self._calibration: dict[int, Tensor] = {}
        trained, kept = sweep.largest("fine_tune"), self.model.named_parameters()
        self._kept = {n: p.detach().clone() for n, p in kept if trained or ".gain_cell." in n}
        if any(sweep.values_of("adapt")):
            self.blocks({"calibration": sweep.largest("calibration")})
        wanted = sweep.training_tokens
        if trained and (found := len(read_tokens(self.loaded, text, "training", wanted))) < wanted:
            raise InputError(
                f"fine_tune = {trained} needs {wanted} tokens of training text, with those of the "
                f"calibration, and {Path(sweep.text).name} has {found}; give more text, fewer steps or "
                "shorter blocks"
            )

    def prepare(self, design: Design, values: Values) -> None:
        """Adapt and fine-tune the model for a point; it ends on the point's nominal chip."""
        sweep = self.sweep
        self.put(self._kept)
        set_design(self.model, design.without("chip"))
        if values.get("adapt", sweep.adapt) is not False:
            self.adapt(values)
        if steps := values.get("fine_tune", sweep.fine_tune):
            self._fine_tune(design, steps, values)

    def adapt(self, values: Values) -> None:
        """Gains and offsets for the chip the model is on, to the statistics it has as it was made."""
        calibration = self.blocks(values)
        here = attached_layers(self.model)[0].design
        if len(calibration) not in self._target:
            state = self.state()
            self.put(self._kept)
            set_design(self.model, self._made_for.without("chip"))
            self._target[len(calibration)] = collect_statistics(self.model, [calibration])
            self.put(state)
        set_design(self.model, here.redrawn(CALIBRATED_ON))
        adapt(self.model, [calibration], self._target[len(calibration)])
        set_design(self.model, here)

    def blocks(self, values: Values) -> Tensor:
        """The text of the adaptation."""
        count = max(1, values.get("calibration", self.sweep.calibration) // self.length)
        if count not in self._calibration:
            stream = read_tokens(self.loaded, self._text, "training", count * self.length)
            if len(stream) < count * self.length:
                raise InputError(
                    f"calibration = {count * self.length} tokens, and the training part of "
                    f"{Path(self.sweep.text).name} has {len(stream)}; give more text or a smaller calibration"
                )
            self._calibration[count] = cut_blocks(stream, self.length).long()
        return self._calibration[count]

    def state(self) -> State:
        """Gains and offsets (and weights, where any point is trained) as they are."""
        return {n: p.detach().clone() for n, p in self.model.named_parameters() if n in self._kept}

    @torch.no_grad()
    def put(self, state: State) -> None:
        for name, parameter in self.model.named_parameters():
            if name in state:
                parameter.copy_(state[name])

    def _fine_tune(self, design: Design, steps: int, values: Values) -> None:
        """Train all weights but the embeddings, gains and offsets, on the text behind the adaptation's."""
        sweep = self.sweep
        settings = TrainSettings(
            learning_rate=values.get("learning_rate", sweep.learning_rate),
            scale_learning_rate=values.get("scale_learning_rate", sweep.scale_learning_rate),
            batch=BATCH,
            micro_batch=2,
            bf16=False,
            redraw="chip" if design.drawn("chip") else "noise",
        )
        before, length = self.blocks(values).numel(), self.length + 1
        wanted = before + steps * settings.batch * length
        stream = read_tokens(self.loaded, self._text, "training", wanted)
        loss = Distillation(self._teacher(design, values), 1.0) if sweep.loss == "distillation" else None
        set_design(self.model, design)
        freeze_embeddings(self.model)
        blocks = cut_blocks(stream[before:], length)
        if sweep.seed:  # another order of the text; 0: its own
            blocks = blocks[torch.randperm(len(blocks), generator=torch.Generator().manual_seed(sweep.seed))]
        train(self.model, blocks, settings, loss_of=loss)
        set_design(self.model, design.without("chip"))

    @torch.no_grad()
    def _teacher(self, design: Design, values: Values) -> PreTrainedModel:
        """A copy, adapted to the nominal chip without noise; the model stays as it is."""
        state = self.state()
        self.put(self._kept)
        set_design(self.model, design.without("chip", "operation"))
        if values.get("adapt", self.sweep.adapt) is not False:
            self.adapt(values)
        teacher: PreTrainedModel = copy.deepcopy(self.model)
        self.put(state)
        return teacher
