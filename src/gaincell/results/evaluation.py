"""What `gaincell evaluate`, `ablate` and `fidelity` find out about a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, TypeAlias

from gaincell.results.common import Chip, Named, NamedModel, Number, Result

Heads: TypeAlias = tuple[tuple[float, ...], ...]
"""[layers][heads], or [layers][key/value heads]."""


@dataclass(frozen=True, kw_only=True)
class EvaluationResult(Result):
    """Of a model on a text. design: None in software.  gains: whose, in words.  stage: of a RUN, if named."""

    model: NamedModel
    design: Chip | None
    text: Named | None = None
    gains: str | None = None
    stage: str | None = None


@dataclass(frozen=True)
class AblationRow:
    """One constraint.

    kind: "off" (switched off, the others on), "ring" (a shorter ring) or "on" (on alone).
    ratio: of perplexities to the first row of its kind.  ratio_error: its standard error over blocks; None
    for a single block.  not_exercised: the protocol, where all losses are equal to the last digit.
    """

    kind: str
    name: str
    meaning: str
    perplexity: Number
    ratio: Number
    ratio_error: Number | None = None
    not_exercised: str | None = None

    @property
    def exercised(self) -> bool:
        """Whether any loss differs from those of the first row; else nothing follows for the constraint."""
        return self.not_exercised is None


@dataclass(frozen=True, kw_only=True)
class AblationResult(EvaluationResult):
    """What every constraint of the hardware costs."""

    text: Named
    ablation: tuple[AblationRow, ...]


@dataclass(frozen=True, kw_only=True)
class FidelityResult(EvaluationResult):
    """Every head beside that of the pretrained model, by name of the number: see evaluation/fidelity.py."""

    fidelity: Mapping[str, Annotated[Heads, "1"]]
