"""What gaincell's own training loop does around every step, for transformers' Trainer."""

from __future__ import annotations

from typing import Any

from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from gaincell.adaptation.statistics import evaluation_mode
from gaincell.chips.design import Design
from gaincell.errors import InputError, ModelError
from gaincell.evaluation.fidelity import check_comparable, fidelity
from gaincell.integrations.hf.attach import attached_model, computing_layers
from gaincell.integrations.hf.trainer_files import RedrawingCallback
from gaincell.nn.attention import GainCellAttention
from gaincell.quantity import one_of
from gaincell.training.loop import check_redraw, redraw
from gaincell.training.settings import REDRAWS


class GainCellCallback(RedrawingCallback):
    """Redraws noise and chips, and logs fidelity, in a training with Trainer.

    Every micro-batch meets another draw of noise, or another chip of its kind; after every step, and after an
    interruption, the model is on the chip of its design again. Trainer keeps gains above 0 without it (see
    trainer_files.py).

    Example:

        >>> import gaincell
        >>> callback = gaincell.GainCellCallback("chip")  # Trainer(model, arguments, callbacks=[callback])

    Args:
        redraw: "nothing", "noise", or "chip" for noise and chip.
        base: The pretrained model, not attached, and
        text: Token ids [B, T] without padding, T at most the ring's columns: with both, every line of the log
            has `fidelity_error`, the mean over heads of sum (O - Y)^2 / sum Y^2, O of the arrays and Y of
            softmax attention: "error" of `gaincell.evaluation.fidelity`.

    Raises:
        InputError: `redraw` is none of the three, or one of `base` and `text` is missing. When a training
            begins: `text` is no token ids [B, T], is longer than the ring or the model's context, or has
            tokens that the model lacks; or `redraw` is "chip", and the design's chips are all alike.
        ModelError: when a training begins, the model is not attached, or `base` is.

    Not modelled: trackers that Trainer itself reports to (`report_to`) log before any callback and do not see
    `fidelity_error`; `trainer.state.log_history` has it.
    """

    def __init__(
        self,
        redraw: str = "noise",
        base: PreTrainedModel | None = None,
        text: Int[Tensor, "B T"] | None = None,
    ) -> None:
        if redraw not in REDRAWS:
            raise InputError(f"redraw = {redraw!r}; allowed: {one_of(REDRAWS)}")
        if (base is None) != (text is None):
            raise InputError("fidelity needs both base= and text=; give both, or neither")
        self._redraw, self._base, self._text = redraw, base, text
        self._arrays: dict[GainCellAttention, Design] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        """Refuse a model without arrays, and what fidelity cannot compare."""
        model = keywords["model"]
        if not computing_layers(model):
            raise ModelError(
                f"{type(model).__name__} is not attached: call gaincell.attach(model, design) before training"
            )
        if self._base is not None and self._text is not None:
            check_comparable(attached_model(model), self._base, self._text)
        self._arrays = {m: m.design for m in model.modules() if isinstance(m, GainCellAttention)}
        check_redraw(self._redraw, self._arrays.values())
        self._processes, self._process = args.world_size, args.process_index

    def on_step_begin(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        """The first draw of a step, whatever came before: the last step of an epoch can have fewer."""
        self._draw = state.global_step * args.gradient_accumulation_steps
        self.on_substep_end()

    def on_substep_end(self, *_: Any, **__: Any) -> None:
        """The next draw, for a micro-batch."""
        self._draw += 1
        redraw(self._arrays, self._redraw, (self._draw - 1) * self._processes + self._process + 1)

    def on_step_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        """Back to the chip of the design: what is evaluated and saved."""
        redraw(self._arrays, "nothing", 0)

    def restore(self) -> None:
        """Back to the chip of the design, however the training ended."""
        redraw(self._arrays, "nothing", 0)
        self._arrays = {}

    def on_log(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        """Add the fidelity."""
        if self._base is None or self._text is None:
            return
        model = keywords["model"]
        with evaluation_mode(model):
            rows = fidelity(attached_model(model), self._base, self._text).tables["error"]
        heads = [error for row in rows for error in row]
        entry = {"fidelity_error": sum(heads) / len(heads)}
        keywords["logs"].update(entry)
        state.log_history[-1] |= entry
