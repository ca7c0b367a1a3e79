"""The two models of a page: one in its arrays, one in software. Loaded once, shared by all pages."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gaincell.chips.design import Design
from gaincell.costs import roll_up
from gaincell.costs.activity import Activity
from gaincell.costs.technology import load_technology
from gaincell.errors import GaincellError
from gaincell.evaluation.activity import measure_activity
from gaincell.integrations.hf.attach import attached_layers
from gaincell.integrations.hf.context import default_length, tabulated_positions
from gaincell.integrations.hf.models import load_software
from gaincell.integrations.hf.ring_cache import RingCache
from gaincell.integrations.hf.size import size_of, with_parts
from gaincell.integrations.hf.support import attention_modules, own_window
from gaincell.mapping.load_hardware import LoadedHardware
from gaincell.nn.attention import GainCellAttention
from gaincell.nn.scaler import STAGES
from gaincell.progress import Progress, silent
from gaincell.text import open_text, token_stream
from gaincell.units import Joule

TECHNOLOGY = "28nm"
ACTIVITY_TOKENS = 256
"""Of the sample text that the activity behind the energies is measured on."""

Observed = dict[str, Tensor]
"""Of one layer, for one token: q [H, D] requested pulse widths, k and v [Hk, D] requested volts, out [H, D]
the digital sum before gain and offset."""


class Pair:
    """A model in its arrays, the same model in software, and what their pages need to know.

    Not safe to use from several threads at a time: designs are exchanged and layers observed in place.

    Args:
        name: As the user gave it.
        progress: Of the measurement of the arrays' activity on the sample text.

    Raises:
        GaincellError: the base model cannot be read, or the chip has effects that a ring does not model.
    """

    def __init__(self, name: str, hardware: LoadedHardware, progress: Progress = silent) -> None:
        self.name, self.origin = name, hardware.origin
        self.hardware: PreTrainedModel = hardware.loaded.model
        self.tokenizer: PreTrainedTokenizerBase = hardware.loaded.tokenizer
        self.layers: list[GainCellAttention] = attached_layers(self.hardware)
        self.design: Design = self.layers[0].design
        RingCache(self.hardware)  # refuses chips that it does not know, before anyone waits for a text
        self.software: PreTrainedModel = load_software(hardware.loaded.id)
        self.own_windows = [own_window(module) for module in attention_modules(self.software).values()]
        self.positions = tabulated_positions(self.hardware)
        self.size = with_parts(size_of(self.software, name), self.hardware.state_dict())
        self.activity = self._activity(progress)
        self.energy = lru_cache(maxsize=None)(self._energy)
        self.observed: list[Observed] = [{} for _ in self.layers]
        """Of the last forward pass of a single token."""
        for layer, attention in enumerate(self.layers):
            for stage in STAGES:
                getattr(attention, stage).register_forward_hook(self._observer(layer, stage))

    def use(self, design: Design) -> None:
        """Exchange the chip of the hardware model."""
        for attention in self.layers:
            attention.design = design

    def tokens_of(self, text: str) -> list[int]:
        """Token ids, without special ones."""
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _observer(self, layer: int, stage: str) -> Any:
        """A hook that keeps what a scaling stage gives, or, of the output, what it is given."""

        def keep(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen = inputs[0] if stage == "out" else output
            if stage == "v":
                seen = self.layers[layer].with_constant(seen)
            if seen.shape[2] == 1:
                self.observed[layer][stage] = seen[0, :, 0]

        return keep

    def _activity(self, progress: Progress) -> Activity | None:
        """Measured on the sample text; None for a chip whose pulses are not observed."""
        context = default_length(self.hardware, ACTIVITY_TOKENS)
        stream = token_stream(open_text("sample").part("evaluation"), self.tokenizer, context)
        try:
            return measure_activity(self.hardware, [stream.long()[None]], "sample", progress=progress)
        except GaincellError:
            return None

    def _energy(self, columns: int) -> Joule | None:
        """Of one token in all heads, bottom-up, with so many columns held: see `gaincell cost`."""
        if self.size.unequal or self.activity is None or columns < 1:
            return None
        process = load_technology(TECHNOLOGY)
        head = roll_up.mean_head(self.size, self.design, process, self.activity, columns)
        return head.bottom_up.energy * self.size.layers * self.size.heads
