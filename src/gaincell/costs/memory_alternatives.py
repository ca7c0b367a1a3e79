"""Why at all: what the key/value cache costs a GPU, and what other memories would make of it.

    cache       2 L Hk D bytes a number, a token
    floor       a token of a sequence reads its whole cache: bytes / bandwidth, whatever the arithmetic
    movement    bits x energy per bit from HBM, where the GPU has such memory, against two
                multiply-accumulates a number and query head

Memories: the cache of one head at the width of the chip's levels (a gain cell holds all bits of a level).
Every column is written once in M tokens, so a memory of `endurance` writes lasts endurance x M x dt.
Densities are of cells, in squares of the feature size of the technology; write energies are of cells.

Converters: the charge-to-pulse circuit and the counter of an output line against one conversion of an ADC.
Not modelled: periphery of the other memories, sharing an ADC between lines (which costs time instead).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

from gaincell.costs import storage
from gaincell.costs.area import head_area
from gaincell.costs.cited import DIGITAL, SECOND
from gaincell.costs.data import Sourced, all_packaged
from gaincell.costs.gpus import Stated
from gaincell.costs.head import Head
from gaincell.costs.roll_up import HeadCost
from gaincell.costs.size import ModelSize, shipped_size
from gaincell.costs.system_costs import adc, movement
from gaincell.errors import InputError
from gaincell.results.system_cost import Cache, Conversion, MemoryAlternatives, MemoryCost, StatedCache
from gaincell.units import JoulePerBit, Second

PAPERS_CACHE = 8.0 * 2**30
"""The "8 Gb" that the paper states for the cache of Mistral 7B: read as bits, and as bytes."""
UNLIMITED = 1e15
"""Writes from which on endurance is no limit."""
FOR_EVER = 1e9
"""Retention, s, from which on it is none."""


@dataclass(frozen=True)
class Memory(Sourced):
    """A memory technology.

    Attributes:
        cell: In squares of the feature size.
    """

    title: str
    cell: float
    bits: float
    write: JoulePerBit
    retention: Second
    endurance: float


@lru_cache(maxsize=1)
def memories() -> Mapping[str, Memory]:
    """Memories of memories.toml.

    Raises:
        DesignError: the file is wrong.
    """
    return all_packaged(Memory, "memories.toml")


def cache_cost(size: ModelSize, gpu: Stated, context: int) -> Cache:
    """Of a model at a context of so many tokens.

    Raises:
        InputError: there is no token.
    """
    if context < 1:
        raise InputError(f"context = {context!r}; give 1 token or more")
    seen, per_token = size.seen(context), size.cache_bytes()
    cache, moved = per_token * seen, movement()
    arithmetic = 2 * size.layers * size.heads * size.head_dim * seen * (moved.multiply + moved.add)
    read = 8 * cache * moved.hbm if gpu.memory.startswith("HBM") else None
    return Cache(size.title, context, seen, per_token, cache, cache / gpu.bandwidth, arithmetic, read)


def stated_cache(size: ModelSize) -> tuple[StatedCache, ...]:
    """How many tokens make `PAPERS_CACHE`, read as bits and as bytes, with and without grouped queries."""
    return tuple(
        StatedCache(
            unit,
            width,
            grouped,
            PAPERS_CACHE / divisor / (size.cache_bytes(width) * (1 if grouped else size.group)),
        )
        for (unit, divisor), grouped, width in product((("bits", 8), ("bytes", 1)), (True, False), (2.0, 4.0))
    )


def memory_alternatives(found: HeadCost, cache: Cache) -> MemoryAlternatives:
    """Cache, memories, converters."""
    stores = (in_memory(memory, found.head) for memory in memories().values())
    stated = stated_cache(shipped_size("mistral-7b"))
    return MemoryAlternatives(cache, stated, (*stores, in_gain_cells(found.head)), conversions(found))


def in_memory(memory: Memory, head: Head) -> MemoryCost:
    """Keys and values of a head of the chip's window in another memory."""
    d, t = head.design, head.technology
    numbers = 2 * head.head_dim
    bits = numbers * head.storage_bits
    cells = -(-head.storage_bits // memory.bits) * numbers * d.window
    write = bits * memory.write
    lasting = memory.endurance * d.window * d.token_period if memory.endurance < UNLIMITED else None
    refresh = d.window * write / memory.retention if memory.retention < storage.held(head) else 0.0
    area = cells * memory.cell * t.node**2
    keeps = memory.retention if memory.retention < FOR_EVER else None
    return MemoryCost(memory.title, area, write, refresh, lasting, keeps)


def in_gain_cells(head: Head) -> MemoryCost:
    """The same in the chip's own cells; their endurance is not limited by the write."""
    interval, write = storage.refresh_interval(head), storage.write(head).energy
    power = head.design.window * write / interval if interval and storage.needs_refresh(head) else 0.0
    area = head_area(head).parts["cells"].area
    return MemoryCost("gain cells (this chip)", area, write, power, None, head.design.tau)


def conversions(cost: HeadCost) -> tuple[Conversion, ...]:
    """An output line by charge-to-pulse and counter, and by an ADC."""
    head, converter = cost.head, adc()
    parts, area = cost.bottom_up.parts, head_area(head).parts
    readout = parts[SECOND].parts["signed readout"].energy + parts[DIGITAL].parts["counters"].energy
    each = (area["signed readout"].area + area["counters"].area) / (head.design.tiles * head.rows)
    return (
        Conversion("charge-to-pulse and counter (bottom-up)", readout / head.output_lines, each),
        Conversion("ADC, 7 bits (cited)", converter.power / converter.rate, converter.area),
    )
