"""What a training run is watched for: that it does not diverge, and still gets better."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from gaincell.errors import RunError
from gaincell.files import check_file, write_tensors
from gaincell.training.checkpoint import best_of
from gaincell.training.loss_name import LossName
from gaincell.training.settings import TrainSettings

AVERAGED = 10
"""Steps whose mean loss tells whether a run diverges."""


class Watch:
    """Stops a run that diverges, and one that no longer gets better.

    With patience the best parameters are kept: in memory, on the CPU, and in a file beside the checkpoint.

    Args:
        settings: of the run.
        loss: what it minimises.
        before: `state()` of the run when it was interrupted.
        checkpoint: of the run.
        done: steps of the checkpoint on disk; 0 = there is none.
        write: whether this process writes.
    """

    def __init__(
        self,
        settings: TrainSettings,
        loss: LossName,
        before: Mapping[str, Any] | None,
        checkpoint: Path | None,
        *,
        done: int,
        write: bool,
    ) -> None:
        self._settings, self._loss = settings, loss
        self._checkpoint = checkpoint
        self.stored = done
        """Steps of the newest checkpoint."""
        best = best_of(checkpoint) if checkpoint is not None else None
        self._file = best if write else None
        known = before or {}
        self._recent: deque[float] = deque(known.get("recent", ()), maxlen=AVERAGED)
        self._lowest: float = known.get("lowest", math.inf)
        self.best: float | None = known.get("best")
        self._worse: int = known.get("worse", 0)
        self._kept: dict[str, Tensor] = {}
        if self.best is not None and settings.patience and best is not None and best.exists():
            try:
                check_file(best)
                self._kept = load_file(best)
            except Exception as error:  # safetensors raises its own type for a torn file
                raise RunError(
                    f"{best.name} cannot be read ({error}); remove it and the checkpoint to start again"
                ) from error

    def state(self) -> dict[str, Any]:
        """Plain data to go on from."""
        lowest = self._lowest if math.isfinite(self._lowest) else None
        known: dict[str, Any] = {"recent": list(self._recent), "best": self.best, "worse": self._worse}
        return known | ({} if lowest is None else {"lowest": lowest})

    def require(self, good: bool, otherwise: str, step: int) -> None:
        """Raise RunError, what happened `otherwise` and what to do, unless all is good."""
        if good:
            return
        hint = "lower the learning rate or warm up for longer"
        if self._checkpoint is not None:
            hint += ", in another directory (this one cannot be continued with changed settings)"
        if self._checkpoint is not None and self.stored:
            hint += f"; {self._checkpoint.name} holds the state after {self.stored} steps"
        raise RunError(f"{otherwise} at step {step}; {hint}")

    def see(self, loss: float, step: int) -> None:
        """Raise RunError where the loss is not a number, or has risen far above what it was."""
        self.require(math.isfinite(loss), f"the loss, {self._loss.name}, became {loss}", step)
        self._recent.append(loss)
        mean = sum(self._recent) / len(self._recent)
        if len(self._recent) < AVERAGED or step < self._settings.warmup_steps:
            return
        self._lowest = min(self._lowest, mean)
        risen = mean > self._settings.divergence * self._lowest > 0
        what = (
            f"the loss, {self._loss}, diverges: {mean:.4g} over {AVERAGED} steps, {self._lowest:.4g} at its "
            "lowest,"
        )
        self.require(not risen, what, step)

    def judge(self, evaluation: float, step: int, parameters: Mapping[str, nn.Parameter]) -> None:
        """Compare an evaluation with the best; raises RunError where it is not a number."""
        self.require(not math.isnan(evaluation), f"the evaluation became {evaluation}", step)
        if self.best is None or evaluation < self.best:
            self.best, self._worse = evaluation, 0
            if self._settings.patience:
                self._kept = {n: p.detach().to("cpu", copy=True) for n, p in parameters.items()}
                if self._file is not None:
                    write_tensors(self._file, self._kept)
        else:
            self._worse += 1

    @property
    def finished(self) -> bool:
        """Whether enough evaluations in a row were no better."""
        return 0 < self._settings.patience <= self._worse

    @torch.no_grad()
    def return_to_best(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Put the parameters of the best evaluation back, where there is one with patience."""
        for name, value in self._kept.items():
            parameters[name].copy_(value)
