"""Trainings with transformers' Trainer: gains stay above 0, and a training goes on with its own hardware.

After every step each gain is 1e-20 or more, as in the authors' code [R]. However a training ends, callbacks
that redraw the chip (`RedrawingCallback`) put the model back on its own. Trainer puts the weights of a
checkpoint into whatever model it was given, and only notes what is missing or left over.
`gaincell/__init__.py` imports this file as soon as Trainer is. Like pretrained.py it must not import anything
that imports `attach`, which may be what is being imported: functions import what they need.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers.trainer import Trainer
from transformers.trainer_callback import TrainerCallback

from gaincell.errors import ModelError
from gaincell.integrations.hf.replacing import replaces


class _PositiveGains(TrainerCallback):
    """Raises gains that a step took to 0 or below."""

    def on_step_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        """Before the model is evaluated and saved."""
        from gaincell.nn.scaler import keep_gains_positive

        keep_gains_positive(keywords["model"])


class RedrawingCallback(TrainerCallback):
    """Lets the model compute with other draws of its chip during a step."""

    def restore(self) -> None:
        """Put the model back on the chip of its design, and forget it. Called when a training has ended."""
        raise NotImplementedError


@replaces(Trainer, "train")
def _train(train: Callable[..., Any], self: Any, *arguments: Any, **keywords: Any) -> Any:
    self.remove_callback(_PositiveGains)
    self.add_callback(_PositiveGains)
    try:
        return train(self, *arguments, **keywords)
    finally:  # an interrupted step has no end
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, RedrawingCallback):
                callback.restore()


@replaces(Trainer, "_load_from_checkpoint")
def _resume(
    resume: Callable[..., Any], self: Any, resume_from_checkpoint: str, *arguments: Any, **keywords: Any
) -> Any:
    _check_hardware(self.model, Path(resume_from_checkpoint))
    return resume(self, resume_from_checkpoint, *arguments, **keywords)


def _check_hardware(model: Any, checkpoint: Path) -> None:
    """Refuse a checkpoint of a model that was attached otherwise than this one, or not at all.

    Raises:
        GaincellError: it was attached otherwise, or its record cannot be read.
    """
    from gaincell.integrations.hf.attach import attached_layers, computed_attention
    from gaincell.integrations.hf.hardware_record import attached_as, check_arrays, saved_record

    files = [checkpoint / name for name in ("adapter_config.json", "config.json")]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return
    record, cells = saved_record(file), attached_layers(model)
    if record is None and cells:
        raise ModelError(
            f"{checkpoint} is of a softmax model, the model is attached: load the checkpoint with "
            "from_pretrained, attach and calibrate it, and begin a new training"
        )
    if record is None:
        return
    if not cells:
        raise ModelError(
            f"{checkpoint} was saved in gain-cell arrays, the model is not attached: call "
            "gaincell.attach(model, design) before Trainer, or give Trainer the model of gaincell.load"
        )
    advice = "attach it as it was then, or begin a new training"
    check_arrays(cells, attached_as(cells, computed_attention(model)), record, str(checkpoint), advice)
