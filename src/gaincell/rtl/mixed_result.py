"""What a mixed-signal run found, as a result for files, table and figure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gaincell.chips.design import Design
from gaincell.results.spice import MixedCodes, MixedResult, MixedWaves, Nodes, VoltageErrors
from gaincell.rtl.mixed_signal import MixedSignal
from gaincell.spice.rawfile import Wave
from gaincell.spice.result import checks_of, corner_of, head, plain

POINTS = 800
"""Of a waveform in the result."""
LINES = 3
"""Rows and columns whose waveforms are kept."""
LOGIC = ("discharge_key", "gate_key_0", "word", "phi", "late_count", "pulse", "negative")


def mixed_result(found: MixedSignal, design: Design, command: Sequence[str], seed: int) -> MixedResult:
    """Of `gaincell spice mixed`. design: the chip, whose cell the run exchanged."""
    p = found.parameters
    return MixedResult(
        **head("mixed", found.technology, command, design, seed),
        corner=corner_of(found.corner, found.technology),
        chip=p.design.name,
        columns=p.columns,
        rows=p.rows,
        tokens=len(found.codes),
        step_periods=p.step_cycles,
        clock=p.design.counter_clock,
        codes=MixedCodes(
            spice=plain(found.codes),
            head_array=plain(found.expected),
            ideal_writes=plain(found.ideal),
            differ=int((found.codes != found.expected).sum()),
            unlike_ideal_writes=int((found.codes != found.ideal).sum()),
        ),
        write_error=_errors(found.stored - found.targets),
        drift=_errors(found.held - found.stored),
        checks=checks_of(found.checks),
        waves=_waves(found),
        warnings=found.warnings,
    )


def _errors(volts: Wave) -> VoltageErrors:
    return VoltageErrors(float(np.sqrt((volts**2).mean())), float(np.abs(volts).max()))


def _waves(found: MixedSignal) -> MixedWaves:
    """Of the step that overwrites the first column, and the stores of that column over all steps."""
    p, plot = found.parameters, found.plot
    period = 1 / p.design.counter_clock
    start = (found.record.starts[p.columns] + 1) * period
    lines = range(min(LINES, p.rows))
    step = np.linspace(start, start + (p.step_cycles + 1) * period, POINTS)
    run = np.linspace(0, float(plot["time"][-1]), POINTS)

    def sampled(nodes: Sequence[str], times: Wave) -> Nodes:
        waves = {node: np.interp(times, plot["time"], plot[f"v({node})"]).round(4) for node in nodes}
        return Nodes(plain(times - times[0]), {node: plain(wave) for node, wave in waves.items()})

    logic = [
        node
        for name in LOGIC
        for node in ([name] if f"v({name})" in plot.waves else [f"{name}_{line}" for line in lines])
    ]
    analog = [f"o_{array}_{line}" for array in ("key", "value") for line in lines]
    stores = [f"st_key_{line}_0" for line in lines]
    return MixedWaves(p.columns, sampled(logic, step), sampled(analog, step), sampled(stores, run))
