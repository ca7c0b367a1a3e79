"""One text, written by both models, a turn at a time.

A turn is a piece of the prompt or one token. Both models draw with the same random numbers (Gumbel's trick:
the token is argmax(logits / T + g), with the same g for both), so that their texts differ only where the
models do. After every token the distributions of both on the hardware's text are compared:

    D(software || hardware) = sum_w p_s(w) log2(p_s(w) / p_h(w))   bits

The chip can change between two tokens:

    mismatch, noise   hold for every read from then on; mismatch belongs to the cells, so that it shows at
                      once in all that is stored
    retention time    the stored voltages stay what they are and decay with the new time constant from then
                      on; what has leaked does not come back
    idle              is waited after every token from then on
"""

from __future__ import annotations

import math
import time
from collections import deque
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gaincell.chips.design import Design
from gaincell.demonstrator.pair import Observed, Pair
from gaincell.demonstrator.settings import NO_DECAY, Chip, Request
from gaincell.demonstrator.software import OWN, READING, SoftwareText
from gaincell.errors import InputError, ModelError
from gaincell.integrations.hf.context import new_text
from gaincell.integrations.hf.ring_cache import RingCache
from gaincell.units import Second

PIECE = 128
"""Tokens of the prompt that are read in one turn."""
RECENT = 16
"""Tokens that the rates are of."""
ENERGY_STEP = 16
"""Columns by which the energy of a token is found anew."""

Event = dict[str, Any]


class Snapshot(NamedTuple):
    """What the arrays did at the last token.

    Attributes:
        layers: Of every layer, what it was asked to write and read, and its output.
        design: The chip then.
        tokens: Written before.
        time: Of the reads, s since the ring was made.
    """

    layers: list[Observed]
    design: Design
    tokens: int
    time: Second


class Generation:
    """State of one text: a ring for the hardware, a cache for the software.

    Args:
        chip: As it is at the beginning.

    Raises:
        InputError: the prompt has no tokens.
    """

    def __init__(self, pair: Pair, request: Request, chip: Chip) -> None:
        self.pair, self.request = pair, request
        self.prompt = pair.tokens_of(request.prompt)
        if not self.prompt:
            raise InputError("the prompt has no tokens: type some words")
        self.tokens, self.cut = self._fitted()
        self.design = pair.design
        pair.use(self.design)
        self.ring = RingCache(pair.hardware)
        self.written_at = self._known = torch.zeros(1, self.design.window, dtype=torch.float64)
        self.software = SoftwareText(pair.software, self.design.window, pair.own_windows)
        self.texts: tuple[list[int], list[int]] = (list(self.prompt), list(self.prompt))
        self.snapshot: Snapshot | None = None
        self.read = 0
        self.written = 0
        self._seconds: deque[tuple[float, float]] = deque(maxlen=RECENT)
        self._bits = 0.0
        self._random = torch.Generator().manual_seed(request.seed)
        self._chip = chip
        self._change(chip)

    @property
    def done(self) -> bool:
        """Whether all tokens are written."""
        return self.written >= self.tokens

    @torch.inference_mode()
    def turn(self, chip: Chip, rests: int = 0) -> list[Event]:
        """One piece of the prompt, or one token; what there is to tell.

        Args:
            chip: The sliders now.
            rests: Pauses of one retention time before anything else.

        Raises:
            ModelError: the hardware model's logits are no numbers.
        """
        self.pair.use(self.design)
        changed = chip != self._chip or rests > 0
        self._change(chip)
        self.ring.idle(rests * (self.design.tau or 0.0))
        before = [self._prompt_event()] if self.read == 0 else []
        if self.read < len(self.prompt) - 1:
            piece = torch.tensor([self.prompt[self.read : min(self.read + PIECE, len(self.prompt) - 1)]])
            self.pair.hardware(input_ids=piece, **self.ring.argument, logits_to_keep=1)
            self.software.read(piece)
            self.note_writes()
            self.read += piece.shape[1]
            return [*before, {"kind": "reading", "done": self.read, "of": len(self.prompt)}]
        self.read = len(self.prompt)
        event = self._token() | {"changed": changed}
        self.ring.idle(chip.idle)
        return [*before, event]

    def _token(self) -> Event:
        last = tuple(text[-1] for text in self.texts)
        seen, now = self.ring.get_seq_length(), self.ring.now
        started = time.perf_counter()
        hardware = self.pair.hardware(input_ids=torch.tensor([[last[0]]]), **self.ring.argument).logits[0, -1]
        between = time.perf_counter()
        self.note_writes()
        software = self.software.write(own=last[1], reading=last[0])
        self._seconds.append((between - started, time.perf_counter() - between))
        layers = [dict(one) for one in self.pair.observed]
        self.snapshot = Snapshot(layers, self.design, seen, now)
        if not bool(torch.isfinite(hardware).all()):
            raise ModelError("the hardware model's output is not a number: the chip is too far from its own")
        ours, theirs = (one.double().log_softmax(-1) for one in (hardware, software[READING]))
        bits = float((theirs.exp() * (theirs - ours)).sum().clamp(min=0)) / math.log(2)
        self._bits += bits
        new = self._sampled(hardware, software[OWN])
        for text, token in zip(self.texts, new, strict=True):
            text.append(token)
        self.written += 1
        columns = min(self.ring.get_seq_length(), self.design.window)
        return {
            "kind": "token",
            "hardware": new_text(self.pair.tokenizer, self.texts[0]),
            "software": new_text(self.pair.tokenizer, self.texts[1]),
            "same": new[0] == new[1],
            "bits": bits,
            "mean_bits": self._bits / self.written,
            "p_hardware": float(ours[new[0]].exp()),
            "p_software": float(theirs[new[0]].exp()),
            "likeliest": new_text(self.pair.tokenizer, [*self.texts[0][:-1], int(theirs.argmax())]),
            "rates": [len(spent) / sum(spent) for spent in zip(*self._seconds, strict=True)],
            "chip_time": self.ring.now,
            "energy": self.pair.energy(-(-columns // ENERGY_STEP) * ENERGY_STEP),
            "columns": columns,
        }

    def _sampled(self, *logits: Tensor) -> tuple[int, int]:
        """A token of each distribution, with the same random numbers."""
        temperature = self.request.temperature
        shape = logits[0].shape
        noise = -torch.log(-torch.log(torch.rand(shape, generator=self._random, dtype=torch.float64)))
        scores = [one.double() if temperature == 0 else one.double() / temperature + noise for one in logits]
        first, second = (int(one.argmax()) for one in scores)
        return first, second

    def _change(self, chip: Chip) -> None:
        """Give the arrays the chip of the sliders; what is stored stays as it is now."""
        before, design = self.design.tau, chip.on(self.pair.design)
        if design.tau is None and before is not None:
            design = design.replace(retention_time=NO_DECAY)
        tokens, now = self.ring.tokens, self.ring.now
        if design.tau is not None and design.tau != before and len(tokens.write_times):
            stretched = design.tau / (before or NO_DECAY)
            tokens.write_times = now - (now - tokens.write_times) * stretched
            self._known = tokens.write_times.clone()
        self.design, self._chip = design, chip
        self.pair.use(design)

    def note_writes(self) -> None:
        """Keep `written_at`, when each column was written, s [1, M].

        What the ring holds moves with the retention time: when it would have been written to have decayed so.
        """
        held = self.ring.tokens.write_times
        self.written_at = torch.where(held != self._known, held, self.written_at)
        self._known = held.clone()

    def _fitted(self) -> tuple[int, str | None]:
        """Tokens to write, and what was cut off for a model with a table of positions; cuts the prompt."""
        tokens, positions = self.request.tokens, self.pair.positions
        if positions is None or len(self.prompt) + tokens <= positions:
            return tokens, None
        tokens = min(tokens, max(positions // 2, positions - len(self.prompt)))
        kept = min(len(self.prompt), positions - tokens)
        said = (
            f"the model has positions for {positions} tokens: of {len(self.prompt)} tokens of the "
            f"prompt the last {kept} are read, and {tokens} are written"
        )
        self.prompt = self.prompt[-kept:]
        return tokens, said

    def _prompt_event(self) -> Event:
        window, count = self.design.window, len(self.prompt)
        recent = self.prompt[-window:]
        pieces = [new_text(self.pair.tokenizer, recent[: n + 1]) for n in range(len(recent))]
        return {
            "kind": "prompt",
            "text": self.request.prompt,
            "of": count,
            "tokens": self.tokens,
            "pieces": pieces,
            "cut": self.cut,
            "overwritten": max(0, count - window),
        }
