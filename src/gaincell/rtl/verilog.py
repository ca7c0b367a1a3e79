"""The head as Verilog: a module of every kind once, and the top module that places them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from amaranth.back import verilog
from amaranth.hdl import Elaboratable, Signal

from gaincell.rtl.head import Head
from gaincell.rtl.parameters import Parameters
from gaincell.rtl.programs import require


def modules(parameters: Parameters) -> dict[str, str]:
    """Verilog by module, the top module last. Raises InputError: there is no yosys, which writes it."""
    require("yosys")
    head = Head(parameters, instances=True)
    found = {}
    for module, placed in head.blocks.items():
        alone = placed[0].alone()
        ports = [*alone.block.inputs.values(), *alone.block.outputs.values()]
        found[module] = _convert(alone, module, ports)
    found[head.module] = _convert(head, head.module, [*head.inputs.values(), *head.outputs.values()])
    return found


def _convert(design: Elaboratable, name: str, ports: Iterable[Signal | Any]) -> str:
    text: str = verilog.convert(
        design, name=name, ports=list(ports), emit_src=False, strip_internal_attrs=True
    )
    return text
