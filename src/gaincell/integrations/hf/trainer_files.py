"""Trainings with transformers' Trainer: gains stay above 0, and a training goes on with its own hardware.

After every step each gain is 1e-20 or more, as in the authors' code [R]. Trainer puts the weights of a
checkpoint into whatever model it was given, and only notes what is missing or left over.
`gaincell/__init__.py` imports this file as soon as Trainer is; see pretrained.py.
"""

from __future__ import annotations

from functools import wraps
from pathlib import Path
from typing import Any

from transformers.trainer import Trainer
from transformers.trainer_callback import TrainerCallback

from gaincell.errors import ModelError
from gaincell.integrations.hf.pretrained import METHOD, check_design, check_version

_train = Trainer.train
_resume = Trainer._load_from_checkpoint


class _PositiveGains(TrainerCallback):
    """Raises gains that a step took to 0 or below."""

    def on_step_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        """Before the model is evaluated and saved."""
        from gaincell.nn.scaler import keep_gains_positive

        keep_gains_positive(keywords["model"])


@wraps(_train)
def _train_with_positive_gains(self: Any, *arguments: Any, **keywords: Any) -> Any:
    self.remove_callback(_PositiveGains)
    self.add_callback(_PositiveGains)
    return _train(self, *arguments, **keywords)


@wraps(_resume)
def _resume_on_its_arrays(self: Any, resume_from_checkpoint: str, *arguments: Any, **keywords: Any) -> Any:
    _check_hardware(self.model, Path(resume_from_checkpoint))
    return _resume(self, resume_from_checkpoint, *arguments, **keywords)


def _check_hardware(model: Any, checkpoint: Path) -> None:
    """Refuse a checkpoint of another chip than the model's, or of none. Raises GaincellError."""
    from gaincell.files import read_json
    from gaincell.integrations.hf.attach import attached_layers

    adapter, whole = checkpoint / "adapter_config.json", checkpoint / "config.json"
    if adapter.is_file():
        record = (read_json(adapter).get("auto_mapping") or {}).get(METHOD)
    elif whole.is_file():
        found = read_json(whole).get("quantization_config") or {}
        record = found if found.get("quant_method") == METHOD else None
    else:
        return
    cells = attached_layers(model)
    if record is None and cells:
        raise ModelError(
            f"{checkpoint} is of a softmax model, the model is attached: load the checkpoint with "
            "from_pretrained, attach and calibrate it, and begin a new training"
        )
    if record is None:
        return
    check_version(record, str(checkpoint))
    if not cells:
        raise ModelError(
            f"{checkpoint} was saved in gain-cell arrays, the model is not attached: call "
            "gaincell.attach(model, design) before Trainer, or give Trainer the model of gaincell.load"
        )
    check_design(cells, record, str(checkpoint), "attach that one, or begin a new training")


Trainer.train = _train_with_positive_gains  # type: ignore[method-assign]
Trainer._load_from_checkpoint = _resume_on_its_arrays  # type: ignore[method-assign]
