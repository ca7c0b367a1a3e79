"""Run by cocotb inside a Verilog simulator: the head between its words and the model of the arrays."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import cocotb
from cocotb.triggers import Timer

from gaincell.rtl.simulation import PULSES, Stimulus


@cocotb.test()
async def head(dut: Any) -> None:
    """In closed loop: what the arrays answer follows from what the Verilog drives."""
    given = Path(str(cocotb.plusargs["run"]))
    run = Stimulus(*pickle.loads(given.read_bytes()))
    outputs: list[str] | None = None

    async def tick() -> None:
        for level in (1, 0):
            await Timer(500, unit="ps")
            dut.clk.value = level

    dut.clk.value, dut.rst.value = 0, 1
    await tick()
    dut.rst.value = 0
    for inputs in run.periods():
        for name, word in inputs.items():
            dut[name].value = word & (1 << len(dut[name])) - 1
        await Timer(1, unit="ps")
        outputs = outputs or [
            port._name for port in dut if port._name in cocotb.plusargs["outputs"].split(",")
        ]
        found = run.answer(inputs, {name: int(dut[name].value) for name in outputs})
        for name in PULSES:
            dut[name].value = found[name]
        await tick()
    given.write_bytes(pickle.dumps(run.record))
