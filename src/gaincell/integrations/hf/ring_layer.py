"""The ring of one layer: the codes of its columns, written and read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from gaincell.circuits import dac_code, write_dac
from gaincell.errors import InputError
from gaincell.integrations.hf.interface import RING
from gaincell.integrations.hf.ring_tokens import Old, RingTokens, Step
from gaincell.nn.attention import Asked, GainCellAttention
from gaincell.ops.gain_cell_attention import native_decode
from gaincell.ops.gain_cell_attention.native_decode import RingDecoder

NOT_A_NUMBER = 255
"""The code that stands for NaN; no write DAC whose codes are kept gives it."""


class RingLayer(CacheLayerMixin):
    """The ring of one layer.

    Args:
        attention: The layer's gain-cell attention, whose gains, offsets and write DAC make the codes.
        tokens: Of all layers.

    Attributes:
        codes: Of keys and values, [B, Hk, M, D], uint8; the voltages themselves, u = V - V_offset, where the
            design does not quantise them; none before the first token.
    """

    is_sliding = False
    is_compileable = False
    is_croppable = True

    def __init__(self, attention: GainCellAttention, tokens: RingTokens) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.attention = attention
        self.tokens = tokens
        self.codes: tuple[Tensor, ...] = ()
        self.codes_are_read = False
        """Whether the last step was read from the codes themselves, in compiled code."""
        self.finite = True
        """Whether no column holds a NaN; only then are codes read in compiled code."""
        self.after_attend: Callable[[], None] | None = None
        """Called when the step is over in this layer: after the last one, time passes."""
        self.pending = False
        """Whether what `update` gave out was not seen by the layer's attention yet."""
        self._decode: RingDecoder | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor | None = None) -> None:
        """Make the empty ring, for keys of this batch size, type and device."""
        batch, heads, _, dim = key_states.shape
        design = self.attention.design
        kind = torch.uint8 if self._levels else torch.promote_types(key_states.dtype, torch.float32)
        shape = batch, heads, design.window, dim
        self.codes = tuple(torch.zeros(shape, dtype=kind, device=key_states.device) for _ in range(2))
        self.dtype, self.device, self._made_for = key_states.dtype, key_states.device, self._range
        self.is_initialized = True

    @property
    def _range(self) -> object:
        """What the voltages of codes depend on."""
        d = self.attention.design
        return d.dac_levels, d.v_min, d.v_max, d.v_offset

    @property
    def _levels(self) -> int | None:
        levels = self.attention.design.storage_levels
        return levels if levels is not None and levels <= NOT_A_NUMBER else None

    def update(
        self,
        key_states: Float[Tensor, "B Hk T D"],
        value_states: Float[Tensor, "B Hk T D"],
        *_: Any,
        **__: Any,
    ) -> tuple[Float[Tensor, "B Hk T D"], Float[Tensor, "B Hk T D"]]:
        """The new keys and values themselves, marked: the layer's attention gives them to `attend`."""
        if not self.is_initialized:
            self.lazy_initialization(key_states)
        if len(key_states) != len(self.codes[0]):
            raise InputError(
                f"the ring holds {len(self.codes[0])} sequences, the input has {len(key_states)}; make a new "
                "RingCache for another batch"
            )
        window = self.attention.design.window
        if self.tokens.columns != window:
            raise InputError(
                f"the ring was made for {self.tokens.columns} columns, the model's design now has "
                f"{window}; make a new RingCache after set_design"
            )
        if self._range != self._made_for:
            raise InputError(
                "the ring holds codes of other voltages than the model's design now writes; make a new "
                "RingCache after set_design"
            )
        self.pending = True
        keys = key_states.view_as(key_states)
        setattr(keys, RING, self)
        return keys, value_states

    def attend(
        self,
        query: Float[Tensor, "B H T D"],
        key: Float[Tensor, "B Hk T D"],
        value: Float[Tensor, "B Hk T D"],
        index: Int[Tensor, "B T"],
        sliding_window: int | None,
    ) -> Float[Tensor, "B H T D"]:
        """Write the new tokens; the scaled output of every head for them. `index` holds the number of the
        real token in each slot, -1 for padding, which is not written.
        """
        step = self.tokens.step or self.tokens.begin(index)
        attention = self.attention
        at = (index, index, sliding_window)
        asked = attention.asked(query, key, value, at)
        one, alone = key.shape[2] == 1, not step.held and not attention.design.input_stage_differs
        written = (one or alone) and self._written_in_compiled_code(asked, step)
        total = self._decoded(asked, step, sliding_window) if written and one else None
        self.codes_are_read = total is not None
        if total is not None:
            attended = attention.layer_output(total, asked)
        elif alone:
            if not written:
                self._keep(asked.volts, step)
                self._settle()
            attended = attention.answer(asked, at)
        else:
            old = self.tokens.old(step, index.device)
            keys, values = self._write(asked.volts, step, old)
            at = (torch.cat([old.index, index], 1), index, sliding_window)
            attended = attention.read(asked, keys, values, at, old.extra_age)
        if self.after_attend is not None:
            self.after_attend()
        return attended

    def _written_in_compiled_code(self, asked: Asked, step: Step) -> bool:
        """Whether the codes of the new tokens were written in compiled code; it does not serve all."""
        design, backend, scaling = self.attention.design, self.attention.backend, asked.scaling
        if self._levels is None or not self.finite or not backend.startswith(("auto", "decode", "native")):
            return False
        if native_decode.unsupported((*asked[:3], *(scaling or ())), design) is not None:
            return False
        scales = (None, None) if scaling is None else (scaling[2:4], scaling[4:6])
        for codes, requested, scale in zip(self.codes, asked[1:3], scales, strict=True):
            if step.column is not None:
                finite = native_decode.write_ring(requested, codes, step.column, design, scale)
            else:
                written = torch.empty(requested.shape, dtype=torch.uint8, device=requested.device)
                finite = native_decode.write_ring(requested, written, 0, design, scale)
                rows, slots, columns = step.places(codes.device)
                codes[rows, :, columns] = written[rows, :, slots]
            if not finite:
                return False
        return True

    def _decoded(self, asked: Asked, step: Step, sliding_window: int | None) -> Tensor | None:
        """The sum for the query of one token, in compiled code; None where the query is no number."""
        attention, scaling = self.attention, asked.scaling
        if self._decode is None or self._decode.design is not attention.design:
            level = attention.backend.partition("native-")[2] or None
            sizes = attention.heads, attention.kv_heads, asked.q.shape[3]
            self._decode = RingDecoder(attention.design, *sizes, attention.layer, level)
        scales = () if scaling is None else (scaling[:2], scaling[6:])
        keys, values = self.codes
        return self._decode(asked.q, keys, values, self.tokens.decoded(step, sliding_window), *scales)

    def _write(self, volts: tuple[Tensor, Tensor], step: Step, old: Old) -> list[Float[Tensor, "B Hk S D"]]:
        """Write requested voltages; the stored ones that the queries of the step see, oldest first."""
        if len(old.columns) == 1:
            held = [codes[:, :, old.columns[0]] for codes in self.codes]
        else:
            where = old.columns[:, None, :, None]
            held = [c.gather(2, where.expand(-1, c.shape[1], -1, c.shape[3])) for c in self.codes]
        fresh = [self._voltages(written) for written in self._keep(volts, step)]
        seen = [torch.cat([self._voltages(h).to(f.dtype), f], 2) for h, f in zip(held, fresh, strict=True)]
        self._settle()
        return seen

    def _keep(self, volts: tuple[Tensor, Tensor], step: Step) -> list[Tensor]:
        """Write requested voltages; what was written, in the order of the tokens."""
        self.finite &= not any(bool(requested.isnan().any()) for requested in volts)
        found = [self._written(requested) for requested in volts]
        rows, slots, columns = step.places(self.codes[0].device)
        for codes, written in zip(self.codes, found, strict=True):
            codes[rows, :, columns] = written.detach()[rows, :, slots]
        return found

    def _settle(self) -> None:
        """See whether what was no number was overwritten."""
        if not self.finite and self._levels is not None:
            self.finite = not any(bool((codes == NOT_A_NUMBER).any()) for codes in self.codes)

    def _written(self, volts: Tensor) -> Tensor:
        """What is kept of requested voltages: codes, or voltages where no byte holds one."""
        d = self.attention.design
        if self._levels is None:
            return write_dac(volts, d.dac_levels, d.v_min, d.v_max, d.v_offset)
        levels = d.levels.storage or self._levels
        codes = dac_code(volts, levels, d.v_min, d.v_max, d.v_offset).to(torch.uint8)
        return codes if self.finite else codes.masked_fill(volts.isnan(), NOT_A_NUMBER)

    def _voltages(self, written: Tensor) -> Tensor:
        """u = V - V_offset of codes, the very numbers of `write_dac`."""
        if self._levels is None:
            return written
        d = self.attention.design
        dtype = torch.promote_types(self.dtype, torch.float32)
        if d.levels.storage:
            volts = torch.tensor(d.levels.storage, dtype=dtype, device=written.device)
            u = volts[written.long().clamp(max=len(volts) - 1)]
        else:
            step = (d.v_max - d.v_min) / (self._levels - 1)
            u = written.to(dtype).sub_((self._levels - 1) / 2).mul_(step)
        return u if self.finite else u.masked_fill(written == NOT_A_NUMBER, torch.nan)

    def held(self) -> tuple[Float[Tensor, "B Hk M D"], Float[Tensor, "B Hk M D"]]:
        """Voltages of keys and values as they were written, relative to V_offset, by column."""
        keys, values = map(self._voltages, self.codes)
        return keys, values

    def reread(self, left: Float[Tensor, "B M"]) -> bool:
        """Write back what is left of the voltages, as the write DAC gives it; whether any code changed."""
        changed = False
        for codes in self.codes:
            u = self._voltages(codes)
            read = self._written(u * left[:, None, :, None].to(u) + self.attention.design.v_offset)
            changed |= bool((read != codes).any())
            codes.copy_(read)
        return changed

    def get_seq_length(self, cache_position: Any = None) -> int:
        """Slots written so far."""
        return self.tokens.slots

    def get_mask_sizes(self, query_length: Any) -> tuple[int, int]:
        """(slots of the next tokens alone, number of the first). transformers 5.3 gives their positions."""
        new = query_length if isinstance(query_length, int) else len(query_length)
        return new, self.tokens.slots

    def get_max_length(self) -> int:
        """No maximum: the ring goes round."""
        return -1

    get_max_cache_shape = get_max_length

    def reset(self) -> None:
        """Forget all tokens."""
        self.pending, self.is_initialized, self.finite, self.codes = False, False, True, ()

    def select(self, rows: Tensor) -> None:
        """Let sequence n continue what sequence rows[n] has written."""
        self.codes = tuple(codes[rows.to(codes.device)] for codes in self.codes)

    def offload(self) -> None:
        """Refused: a ring is small and stays where it is."""
        raise InputError("a RingCache is not offloaded; it does not grow")

    prefetch = offload
