"""A non-ideality of one's own, tried without changing the package: docs/adding_a_nonideality.md.

A design carries it (`design.replace(nonideality=...)`); the implementation "naive", and no other, shows it
every signal on its way through the arrays and goes on with what it returns:

    query     pulse widths x that reach the key array                   [B, Hk, g, Q, D]
    key       voltages left in the key cells at a read, about V_offset  [B, Hk, Q, Tk, D]
    score     charge S of the key columns, before its conversion        [B, Hk, g, Q, Tk]
    pulse     pulse widths A between the arrays                         [B, Hk, g, Q, Tk]
    value     voltages left in the value cells at a read                [B, Hk, Q, Tk, D]
    output    charge O of one sub-tile, before its conversion           [B, Hk, g, Q, D]

Widths are fractions of the longest pulse, charges in charge units, voltages in volts; with a normalising
column D counts it. Errors and noise of the design itself come behind it at "score" and "output", before it at
the others. Columns that a query does not see are masked later: what is returned for them changes nothing.

Dimensions: B sequences, Hk key/value heads, g query heads of each, Q queries of one chunk, Tk tokens, D.
Not modelled: state from one read to the next; the function must be pure, since gradients call it twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

from gaincell.circuits.noise import NoisyChip
from gaincell.devices.random import Drawn, Effect, normal
from gaincell.errors import InputError

Stage = Literal["query", "key", "value", "score", "pulse", "output"]
DRAWS = 16
"""Of one stage, per chip and per operation each."""


class Normals:
    """Standard normal numbers for one signal, the same whatever the batch, the pieces and the threads.

    draw("chip")         one for every cell, column or output of this chip; query heads of a group share them
    draw("operation")    one for every query and query head, too

    Either is refused where `own.drawn` does not state it: the nominal chip and redraws go by what it states.
    """

    def __init__(
        self, own: Nonideality, design: NoisyChip, stage: Stage, layer: int, like: Tensor, **index: Any
    ) -> None:
        self._own, self._like = own, like
        index |= {"chip": design.mismatch.chip, "layer": layer, "array": STAGES.index(stage)}
        of_chip = {"head": index.pop("kv_head"), "step": 0, "seed": design.mismatch.seed}
        self._keys = {"operation": index | {"seed": design.noise.seed}, "chip": index | of_chip}

    def __call__(self, per: Drawn, number: int = 0) -> Tensor:
        """Numbers that broadcast to the signal.

        Args:
            per: "chip" or "operation".
            number: 0 to 15, to tell the draws of one stage apart.
        """
        if per not in kinds_drawn(self._own):
            raise InputError(
                f"nonideality {self._own.name!r} draws {per!r}, but states drawn = {self._own.drawn!r}; "
                'allowed: "chip" and "operation" where drawn states it'
            )
        if not 0 <= number < DRAWS:
            raise InputError(f"draw number {number}; give 0 to {DRAWS - 1}")
        effect = Effect.OWN + number + (DRAWS if per == "operation" else 0)  # step 0 may be the first token's
        return normal(effect=effect, **self._keys[per]).to(self._like)


STAGES: tuple[Stage, ...] = ("query", "key", "value", "score", "pulse", "output")


@runtime_checkable
class Nonideality(Protocol):
    """What `Design.nonideality` must be: a frozen dataclass, for instance.

    Attributes:
        name: Part of the design's hash.
        numbers: Likewise; a number that changes a result belongs here.
        drawn: "chip" if every chip has its own (`draw("chip")`), "operation" if every read has
            (`draw("operation")`), a tuple of both, None for an effect that is always the same. The nominal
            chip is without an effect that states "chip", whatever else it states.
    """

    @property
    def name(self) -> str: ...
    @property
    def numbers(self) -> Mapping[str, Any]: ...
    @property
    def drawn(self) -> Drawn | tuple[Drawn, ...] | None: ...
    def __call__(self, stage: Stage, signal: Tensor, draw: Normals) -> Tensor:
        """The signal as it goes on; `signal` itself at stages that are not concerned."""


def kinds_drawn(own: Nonideality | None) -> frozenset[str]:
    """What an effect states in `drawn`, acceptable or not."""
    stated = None if own is None else own.drawn
    if stated is None:
        return frozenset()
    return frozenset(stated) if isinstance(stated, tuple) else frozenset({stated})


def apply_nonideality(
    own: Nonideality | None, design: NoisyChip, layer: int, stage: Stage, signal: Tensor, **index: Any
) -> Tensor:
    """A signal behind a design's own non-ideality.

    Args:
        own: The non-ideality; None: the signal as it is.
        design: The chip.
        layer: Layer of the chip.
        stage: Where the signal is.
        signal: The signal.
        **index: Tensors head, kv_head, step, column, row; they broadcast.

    Raises:
        InputError: it returns another shape or type.
    """
    if own is None:
        return signal
    found = own(stage, signal, Normals(own, design, stage, layer, signal, **index))
    if not isinstance(found, Tensor) or (found.shape, found.dtype) != (signal.shape, signal.dtype):
        what = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise InputError(
            f"nonideality {own.name!r} returned {what} at stage {stage!r}; "
            f"return {signal.dtype} {tuple(signal.shape)}"
        )
    return found
