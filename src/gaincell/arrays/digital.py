"""The two digital blocks of a head, at the register level: what an RTL twin implements.

Both are given clock by clock: what stands in the registers after an edge, from what stood there before.
"""

from __future__ import annotations

import math

from gaincell.errors import InputError


class WriteAddressController:
    """Says which column is written next and which columns hold a token.

    Registers, all 0 after reset: `pointer`, ceil(log2 columns) bits; `valid`, one bit a column.
    Not modelled: the word-line drivers behind the decoder.
    """

    def __init__(self, columns: int) -> None:
        if columns < 1:
            raise InputError(f"a controller of {columns} columns; give 1 or more")
        self.columns = columns
        self.clock(reset=True)

    @property
    def bits(self) -> int:
        """Width of the pointer."""
        return max(1, (self.columns - 1).bit_length())

    @property
    def select(self) -> list[bool]:
        """The decoder's one-hot output: the column that a write goes to."""
        return [column == self.pointer for column in range(self.columns)]

    def clock(self, *, write: bool = False, reset: bool = False) -> None:
        """One edge.

        Args:
            write: Set the valid bit and advance modulo columns.
            reset: Clear everything (wins).
        """
        if reset:
            self.pointer, self.valid = 0, [False] * self.columns
        elif write:
            self.valid[self.pointer] = True
            self.pointer = (self.pointer + 1) % self.columns


class AdderTree:
    """Adds the signed codes of a head's sub-tiles: a pipeline of two-input adders, a register after each.

    The result of what enters at one edge stands in `output` after `depth` edges; a level's sums are one bit
    wider than its operands, so nothing overflows.

    Args:
        inputs: Sub-tiles (an odd one out passes through a register).
        width: Bits of a code, two's complement.
    """

    def __init__(self, inputs: int, width: int) -> None:
        if inputs < 1 or width < 2:
            raise InputError(f"a tree of {inputs} inputs of {width} bits; give 1 and 2 or more")
        self.inputs, self.width = inputs, width
        self.levels: list[list[int]] = []
        while inputs > 1:
            inputs = math.ceil(inputs / 2)
            self.levels.append([0] * inputs)

    @property
    def depth(self) -> int:
        """Edges from input to output: ceil(log2 inputs)."""
        return len(self.levels)

    @property
    def adders(self) -> int:
        """Two-input adders: one less than inputs."""
        return self.inputs - 1

    def widths(self) -> list[int]:
        """Bits of the registers of every level."""
        return [self.width + level + 1 for level in range(self.depth)]

    @property
    def output(self) -> int:
        """What stands in the last register."""
        return self.levels[-1][0] if self.levels else 0

    def clock(self, codes: list[int]) -> int:
        """One edge with new codes at the inputs; what stands in the last register then.

        Raises:
            InputError: another number of codes, or one that the width does not hold.
        """
        limit = 1 << (self.width - 1)
        if len(codes) != self.inputs or any(not -limit <= code < limit for code in codes):
            raise InputError(
                f"the tree takes {self.inputs} codes from {-limit} to {limit - 1}; it was given {codes}"
            )
        before = [codes, *self.levels]
        self.levels = [[sum(level[n : n + 2]) for n in range(0, len(level), 2)] for level in before[:-1]]
        return self.output if self.levels else codes[0]
