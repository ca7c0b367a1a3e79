"""yosys: the Verilog of a head as two-input gates and flip-flops, or as cells of a Liberty file.

Every kind of module is synthesised once and counted as often as it is placed; nothing is optimised across
their borders. Gates have two inputs, the inverter one; a flip-flop may have an enable, and a synchronous
reset to 0, which is counted as a gate more. Depth: gates on the longest path between registers or ports.
Not modelled: buffers, placement, timing.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gaincell.errors import InputError, SimulationError
from gaincell.rtl import programs
from gaincell.rtl.verilog import Verilog
from gaincell.units import Second

Bits = NDArray[np.bool_]
OPERATIONS: Mapping[str, Callable[[Bits, Bits], Bits]] = {
    "$_AND_": lambda a, b: a & b,
    "$_NAND_": lambda a, b: ~(a & b),
    "$_OR_": lambda a, b: a | b,
    "$_NOR_": lambda a, b: ~(a | b),
    "$_XOR_": lambda a, b: a ^ b,
    "$_XNOR_": lambda a, b: ~(a ^ b),
    "$_ANDNOT_": lambda a, b: a & ~b,
    "$_ORNOT_": lambda a, b: a | ~b,
    "$_NOT_": lambda a, _: ~a,
}
"""Gates, by the name that yosys gives them."""
GATES = ",".join(name.strip("$_") for name in OPERATIONS if name != "$_NOT_")
FLIP_FLOPS = ("$_DFF_P_", "$_DFFE_PP_", "$_SDFF_PP0_", "$_SDFFE_PP0P_")
"""Without and with an enable, and the same with a synchronous reset."""
DEPTH = re.compile(r"Longest topological path in (\S+) \(length=(\d+)\)")


@dataclass(frozen=True)
class Module:
    """One kind.

    Attributes:
        placed: How often.
        gates: Of one.
        flip_flops: Of one.
        depth: Gates on its longest path.
    """

    name: str
    placed: int
    gates: int
    flip_flops: int
    depth: int


@dataclass(frozen=True)
class Synthesis:
    """A head in gates.

    Attributes:
        modules: By kind, the top module's own gates last.
        netlist: As yosys writes it.
    """

    modules: tuple[Module, ...]
    netlist: Mapping[str, Any]

    @property
    def gates(self) -> int:
        """Of the head."""
        return sum(module.placed * module.gates for module in self.modules)

    @property
    def flip_flops(self) -> int:
        """Of the head."""
        return sum(module.placed * module.flip_flops for module in self.modules)


@dataclass(frozen=True)
class Mapped:
    """Cells of a user's library.

    Attributes:
        cells: Of each kind in the head.
        area: In the library's unit.
    """

    cells: Mapping[str, int]
    area: float


def synthesise(design: Verilog, *, timeout: Second = 600.0) -> Synthesis:
    """Generic gates.

    Raises:
        InputError: there is no yosys.
        SimulationError: it fails.
    """
    script = f"""
        dfflegalize {" ".join(f"-cell {kind} x" for kind in FLIP_FLOPS)}
        opt_expr; opt_merge; opt_clean
        abc -g {GATES}
        opt_clean
        tee -q -o depth.txt ltp -noff
        write_json netlist.json
    """
    written, depth = _run(design, script, ("netlist.json", "depth.txt"), timeout)
    netlist, depths = json.loads(written)["modules"], dict(DEPTH.findall(depth))
    placed = Counter(cell["type"] for cell in netlist[design.top]["cells"].values())
    found = []
    for module in design.modules:
        kinds = [cell["type"] for cell in netlist[module]["cells"].values()]
        flip_flops = sum(kind in FLIP_FLOPS for kind in kinds)
        resets = sum(kind.startswith("$_SDFF") for kind in kinds)
        gates = sum(kind.startswith("$_") for kind in kinds) - flip_flops + resets
        if unknown := set(kinds) - {*OPERATIONS, *FLIP_FLOPS, *design.modules}:
            raise SimulationError(f"yosys left {', '.join(sorted(unknown))} in {module}, which are no gates")
        found.append(Module(module, placed[module] or 1, gates, flip_flops, int(depths[module])))
    return Synthesis(tuple(found), netlist)


def check_liberty(liberty: Path) -> None:
    """Raise InputError where there is no such file."""
    if not liberty.is_file():
        raise InputError(f"--liberty {liberty}: there is no such file; give a Liberty file (.lib)")


def map_to_library(design: Verilog, liberty: Path, *, timeout: Second = 600.0) -> Mapped:
    """Cells of a Liberty file.

    Raises:
        InputError: there is no yosys, no such file, or none that yosys can map to.
    """
    check_liberty(liberty)
    script = """
        dfflibmap -liberty cells.lib
        opt_clean
        abc -liberty cells.lib
        opt_clean
        tee -q -o stat.json stat -json -liberty cells.lib
    """
    try:
        (statistics,) = _run(design, script, ("stat.json",), timeout, liberty)
    except SimulationError as error:
        raise InputError(f"--liberty {liberty.name} cannot be mapped to: {error}") from None
    found = json.loads(statistics)["design"]
    cells: dict[str, int] = found["num_cells_by_type"]
    left = [kind for kind in cells if kind.startswith("$")]
    if left or "area" not in found:
        raise InputError(
            f"--liberty {liberty.name} lacks the area of cells, or cells for {', '.join(left)}; "
            "a library needs gates and flip-flops"
        )
    return Mapped(cells, float(found["area"]))


def _run(
    design: Verilog, script: str, wanted: Sequence[str], timeout: Second, liberty: Path | None = None
) -> list[str]:
    """The texts of the files that a script writes, having read the Verilog."""
    programs.require("yosys")
    whole = f"""
        read_verilog {" ".join(design.files)}
        hierarchy -check -top {design.top}
        proc
        setattr -unset init w:*
        synth -top {design.top} -noabc
        {script}
    """
    with programs.workplace({**design.files, "synthesise.ys": whole}) as folder:
        if liberty is not None:
            (folder / "cells.lib").write_bytes(liberty.read_bytes())
        programs.run(["yosys", "-q", "-s", "synthesise.ys"], folder, timeout=timeout)
        return [(folder / file).read_text(encoding="utf-8") for file in wanted]
