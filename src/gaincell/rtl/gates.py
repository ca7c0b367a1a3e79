"""The synthesised head, gate by gate: another check against the RTL, and what switches with real inputs.

All instances of a kind of module are evaluated at once, gate after gate in topological order; modules follow
each other until no wire between them changes. Between two edges a gate's output changes once or not at all:

    energy of a period = sum of changes x C V^2 / 2 + clocked flip-flops x C_clock V^2

with the capacitances of the technology file: of a gate's output, of a flip-flop's data and of its clock. A
clock gated by the enables reaches a flip-flop only when it may change, a synchronous reset included; one that
is not reaches all of them.
Not modelled: glitches, wires beyond the local ones in these capacitances, the clock tree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gaincell.errors import SimulationError
from gaincell.rtl.simulation import Comparison, Record
from gaincell.rtl.synthesis import FLIP_FLOPS, OPERATIONS, Bits, Synthesis

PASSES = 8
"""Most rounds of modules until the wires between them settle."""


@dataclass
class Switching:
    """Of all instances of one kind, over a record.

    Attributes:
        gates: Changes of gate outputs.
        data: Changes of flip-flop outputs.
        clocked: Clocks that flip-flops get where enables gate them.
        all_clocked: Clocks that they get where nothing does.
    """

    gates: int = 0
    data: int = 0
    clocked: int = 0
    all_clocked: int = 0


class Replay(NamedTuple):
    """What the gates did.

    Attributes:
        comparison: Of the outputs in every period.
        switching: By kind of module.
    """

    comparison: Comparison
    switching: dict[str, Switching]


class _Kind:
    """One kind of module and its instances: wires as rows, instances as columns."""

    def __init__(self, module: Mapping[str, Any], instances: Sequence[Mapping[str, Sequence[Any]]]) -> None:
        cells = list(module["cells"].values())
        self.flip_flops = [cell for cell in cells if cell["type"] in FLIP_FLOPS]
        gates = [cell for cell in cells if cell["type"] in OPERATIONS]
        self._row: dict[Any, int] = {"0": 0, "1": 1}
        self.inputs = self._ends(module["ports"], instances, "input")
        self.outputs = self._ends(module["ports"], instances, "output")
        self.q, self.d = self._pins("Q"), self._pins("D")
        self.enable, self.reset = self._pins("E", "1"), self._pins("R", "0")
        self._program = [
            (
                OPERATIONS[cell["type"]],
                self._of(cell["connections"]["A"][0]),
                self._of(cell["connections"].get("B", cell["connections"]["A"])[0]),
                self._of(cell["connections"]["Y"][0]),
            )
            for cell in _sorted(gates)
        ]
        self.gate_rows = np.array([step[3] for step in self._program], dtype=np.int64)
        self.wires: Bits = np.zeros((len(self._row), len(instances)), dtype=bool)
        self.wires[1] = True
        self.before = self.wires.copy()
        self._stale = True

    def _of(self, bit: Any) -> int:
        return self._row.setdefault(bit, len(self._row)) if isinstance(bit, int) else int(bit == "1")

    def _ends(
        self, ports: Mapping[str, Any], instances: Sequence[Mapping[str, Sequence[Any]]], direction: str
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of the ports of one direction, and the nets outside that each instance connects them to."""
        ends = [
            (self._of(bit), _nets([instance[name][n] for instance in instances]))
            for name, port in ports.items()
            if port["direction"] == direction
            for n, bit in enumerate(port["bits"])
        ]
        return np.array([row for row, _ in ends], dtype=np.int64), np.array([nets for _, nets in ends])

    def _pins(self, pin: str, without: str = "0") -> NDArray[np.int64]:
        """Rows of one pin of all flip-flops; of a constant where one has no such pin."""
        found = [self._of(cell["connections"].get(pin, [without])[0]) for cell in self.flip_flops]
        return np.array(found, dtype=np.int64)

    def settle(self, nets: Bits) -> bool:
        """Take what stands at the inputs, evaluate, give the outputs; whether any of them changed."""
        rows, where = self.inputs
        arriving = nets[where]
        if not self._stale and bool((arriving == self.wires[rows]).all()):
            return False
        self.wires[rows] = arriving
        for operation, a, b, y in self._program:
            self.wires[y] = operation(self.wires[a], self.wires[b])
        self._stale = False
        rows, where = self.outputs
        changed = bool((nets[where] != self.wires[rows]).any())
        nets[where] = self.wires[rows]
        return changed

    def edge(self) -> None:
        """A clock edge."""
        if len(self.q):
            after = np.where(self.wires[self.enable], self.wires[self.d], self.wires[self.q])
            after &= ~self.wires[self.reset]
            self._stale = self._stale or bool((after != self.wires[self.q]).any())
            self.wires[self.q] = after

    def count(self, into: Switching) -> None:
        """What changed since the last period, and the clocks of the coming edge."""
        changed = self.wires != self.before
        into.gates += int(np.count_nonzero(changed[self.gate_rows]))
        into.data += int(np.count_nonzero(changed[self.q]))
        into.clocked += int(np.count_nonzero(self.wires[self.enable] | self.wires[self.reset]))
        into.all_clocked += len(self.q) * self.wires.shape[1]
        self.before = self.wires.copy()


def replay(synthesis: Synthesis, top: str, record: Record) -> Replay:
    """The gates through what a record sent in; counted from the first token's start on.

    Raises:
        SimulationError: the wires between modules do not settle.
    """
    whole = synthesis.netlist[top]
    kinds = _kinds(synthesis, top)
    ports = {name: _nets(port["bits"]) for name, port in whole["ports"].items()}
    connected = [bits for cell in whole["cells"].values() for bits in cell["connections"].values()]
    highest = max(max(_nets(bits)) for bits in [*connected, *ports.values()])
    nets: Bits = np.zeros(highest + 1, dtype=bool)
    nets[1] = True
    switching, different = {name: Switching() for name in kinds}, 0
    inputs = [name for name, port in whole["ports"].items() if port["direction"] == "input"]
    nets[ports["rst"]] = True
    _settle(kinds, nets)
    for kind in kinds.values():
        kind.edge()
    nets[ports["rst"]] = False
    first = record.starts[0]
    for period, (given, expected) in enumerate(zip(record.inputs, record.outputs, strict=True)):
        for name in inputs:
            if name not in ("clk", "rst"):
                nets[ports[name]] = _bits(given[name], len(ports[name]))
        _settle(kinds, nets)
        different += not all(
            bool((nets[ports[name]] == _bits(word, len(ports[name]))).all())
            for name, word in expected.items()
        )
        for name, kind in kinds.items():
            if period >= first:
                kind.count(switching[name])
            else:
                kind.before = kind.wires.copy()
            kind.edge()
    return Replay(Comparison("gates", len(record.inputs), different), switching)


def _settle(kinds: Mapping[str, _Kind], nets: Bits) -> None:
    for _ in range(PASSES):
        changed = [kind.settle(nets) for kind in kinds.values()]
        if not any(changed):
            return
    raise SimulationError("the gates of the head do not settle; is there a loop without a register in it?")


def _kinds(synthesis: Synthesis, top: str) -> dict[str, _Kind]:
    """Modules with their instances, and the gates of the top module as one more."""
    whole = synthesis.netlist[top]
    cells: dict[str, list[Mapping[str, Any]]] = {}
    for cell in whole["cells"].values():
        cells.setdefault(cell["type"], []).append(cell["connections"])
    found = {
        module.name: _Kind(synthesis.netlist[module.name], cells[module.name])
        for module in synthesis.modules
        if module.name != top
    }
    glue = {name: cell for name, cell in whole["cells"].items() if cell["type"] not in found}
    driven = [cell["connections"]["Y"][0] for cell in glue.values()]
    read = {
        bit
        for cell in glue.values()
        for pin, bits in cell["connections"].items()
        for bit in bits
        if pin != "Y" and isinstance(bit, int)
    }
    ends = {"input": sorted(read - set(driven)), "output": driven}
    ports = {end: {"direction": end, "bits": bits} for end, bits in ends.items()}
    module = {"cells": glue, "ports": ports}
    found[top] = _Kind(module, [ends])
    return found


def _sorted(gates: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Gates, each after those whose outputs it reads."""
    driver = {gate["connections"]["Y"][0]: gate for gate in gates}
    read = {
        output: [bit for pin, bits in gate["connections"].items() if pin != "Y" for bit in bits]
        for output, gate in driver.items()
    }
    try:
        return [driver[bit] for bit in TopologicalSorter(read).static_order() if bit in driver]
    except CycleError:
        raise SimulationError("gates form a loop without a register in it") from None


def _nets(bits: Sequence[Any]) -> list[int]:
    """Numbers of nets: yosys counts from 2 on; constants are 0, where they do not matter too, and 1."""
    return [bit if isinstance(bit, int) else int(bit == "1") for bit in bits]


def _bits(word: int, count: int) -> Bits:
    """The bits of a word, the lowest first."""
    digits = f"{word & (1 << count) - 1:0{count}b}"
    found: Bits = np.frombuffer(digits[::-1].encode(), dtype=np.uint8) == ord("1")
    return found
