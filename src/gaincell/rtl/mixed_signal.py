"""A sub-tile in ngspice with its digital block in the same simulation, from words to output codes.

The generated Verilog of a head of one sub-tile, with the words of a run built in, becomes a library (vlnggen
of ngspice, by Verilator) that ngspice calls at every edge of the clock and of a pulse (code model d_cosim).
Everything analog is a circuit (spice/netlists/sub_tile.py). What is counted must be what HeadArray counts:

    its cell      charge of a full pulse of one simulated cell, over the stored voltage
    its writes    with the injection (devices/writing.py) that spice/write_path.py finds by itself
    allowed       as in spice/verify.py: at most a tenth of the codes differ, none by more than one

Not modelled: as in netlists/sub_tile.py. HeadArray's cells hold for ever, those of the circuit for the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from gaincell.chips.design import Design
from gaincell.devices.tabulated import TabulatedCell
from gaincell.devices.writing import Writing
from gaincell.errors import InputError, SimulationError
from gaincell.progress import StageProgress, silent_stages
from gaincell.results.spice import MixedCodes, MixedResult, MixedWaves, Nodes, VoltageErrors
from gaincell.rtl import programs
from gaincell.rtl.equivalence import golden_steps
from gaincell.rtl.fixed_point import Scales
from gaincell.rtl.parameters import Parameters
from gaincell.rtl.simulation import (
    PULSES,
    Record,
    Stimulus,
    Wires,
    Words,
    random_scales,
    simulate,
    words_of_codes,
)
from gaincell.rtl.verilog import Verilog, generate
from gaincell.spice.characterise import LEVELS, read_charge
from gaincell.spice.designs import check_design
from gaincell.spice.netlists.netlist import Netlist
from gaincell.spice.netlists.readout import RELU, SIGNED, Readout
from gaincell.spice.netlists.sub_tile import ARRAYS, LIBRARY, inputs, outputs, sub_tile
from gaincell.spice.rawfile import Plot, Wave
from gaincell.spice.result import corner_of, head, plain
from gaincell.spice.runner import MISSING, available, run
from gaincell.spice.technology import Corner, Site, Technology
from gaincell.spice.verify import TOLERANCES, checked
from gaincell.spice.write_path import stored_levels
from gaincell.units import Second, Volt

PROGRAMS = ("yosys", "verilator", "g++", "make")
TOP = "sub_tile"
DAC = "string"
"""That of the sub-tile."""
TIMEOUT: Second = 7200.0
"""Of ngspice."""
CODE_CHECKS = ("codes that differ", "largest difference of a code")
SETTLED = 0.75
"""When a period's wires are read: this share of it."""
POINTS = 800
"""Of a waveform in the result."""
LINES = 3
"""Rows and columns whose waveforms are kept."""
LOGIC = ("discharge_key", "gate_key_0", "word", "phi", "late_count", "pulse", "negative")


class Simulated(NamedTuple):
    """What was found, and of what circuit and Verilog."""

    result: MixedResult
    circuit: Netlist
    verilog: str


def simulate_sub_tile(
    technology: Technology,
    design: Design,
    command: Sequence[str] = (),
    *,
    size: int = 8,
    tokens: int = 12,
    corner: Corner | None = None,
    seed: int = 0,
    stages: StageProgress = silent_stages,
) -> Simulated:
    """Random codes through a sub-tile of size x size, which is the whole ring.

    Args:
        technology: The process.
        design: The chip.
        command: The command line, for the provenance.
        size: N.
        tokens: Their number.
        corner: Where the circuit operates.
        seed: Of the random numbers.
        stages: Called as the work goes on.

    Raises:
        InputError: a design without these circuits; no more tokens than columns.
        MissingProgram: a program is not installed.
        SimulationError: ngspice is not installed, or fails.
    """
    check_design(design, technology)
    if tokens <= size:
        raise InputError(
            f"tokens = {tokens} do not go around a ring of {size} columns; give {size + 1} or more"
        )
    if not available():
        raise SimulationError(MISSING)
    programs.require(*PROGRAMS)
    site = Site(technology, corner or Corner())
    p = Parameters(_chip(site, design, size), size)
    scales = random_scales(p, seed)
    words, written = _random_words(p, scales, tokens, seed)
    digital = Stimulus(p, scales, words)
    record = simulate(digital, stages("Amaranth"))
    circuit = _circuit(site, p, len(record.outputs))
    verilog = source(generate(p), p, record)
    stages("ngspice")(0, 1, {})
    with programs.workplace({f"{TOP}.v": verilog}) as folder:
        library = compile_library(folder)
        done = run(replace(circuit, libraries={LIBRARY: library}), timeout=TIMEOUT)
    d, vdd = p.design, site.vdd
    injected = _with_injection(d, stored_levels(site, d, DAC), vdd)
    ideal, expected = (_head_codes(digital, chip) for chip in (d, injected))
    codes = _codes(p, record, done.plot, vdd)
    stored = _stored(p, record, done.plot)
    off = np.abs(codes - expected)
    measured = dict(zip(CODE_CHECKS, (float((off > 0).mean()), float(off.max())), strict=True))
    result = MixedResult(
        **head(technology, command, design, seed),
        corner=corner_of(site),
        chip=d.name,
        columns=p.columns,
        rows=p.rows,
        tokens=len(codes),
        step_periods=p.step_cycles,
        clock=d.counter_clock,
        codes=MixedCodes(
            spice=plain(codes),
            head_array=plain(expected),
            ideal_writes=plain(ideal),
            differ=int((off > 0).sum()),
            unlike_ideal_writes=int((codes != ideal).sum()),
        ),
        write_error=_errors(stored - written / (p.storage_levels - 1) * vdd),
        drift=_errors(_stored(p, record, done.plot, reads=p.columns) - stored),
        checks=checked({name: TOLERANCES[name] for name in CODE_CHECKS}, measured),
        waves=_waves(p, record, done.plot),
        warnings=done.warnings,
    )
    return Simulated(result, circuit, verilog)


def _circuit(site: Site, p: Parameters, periods: int) -> Netlist:
    d = p.design
    return sub_tile(
        site,
        {
            "key": Readout(RELU, d.score_saturation(p.rows) * d.charge_unit),
            "value": Readout(SIGNED, d.output_saturation * d.charge_unit),
        },
        size=p.rows,
        levels=p.storage_levels,
        sum_bits=p.sum_bits,
        clock=d.counter_clock,
        longest=d.t_pulse_max,
        stop=(periods + 1) / d.counter_clock,
    )


def _errors(volts: Wave) -> VoltageErrors:
    return VoltageErrors(float(np.sqrt((volts**2).mean())), float(np.abs(volts).max()))


def _waves(p: Parameters, record: Record, plot: Plot) -> MixedWaves:
    """Of the step that overwrites the first column, and the stores of that column over all steps."""
    period = 1 / p.design.counter_clock
    start = (record.starts[p.columns] + 1) * period
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


def _chip(site: Site, design: Design, size: int) -> Design:
    """The design with one sub-tile of the simulated cell, which holds for ever."""
    vdd = site.vdd
    levels = np.linspace(0, vdd, LEVELS)
    charge = read_charge(site, levels, design.t_pulse_max) / design.charge_unit
    u = levels / vdd * (design.v_max - design.v_min) + design.v_min - design.v_offset
    slope = float(np.polyfit(u, charge, 1)[0])
    cell = TabulatedCell(tuple(u.tolist()), tuple(charge.tolist()), slope)
    return design.replace(tile=size, window=size, retention_time=None, cell=cell)


def _with_injection(chip: Design, stored: Wave, vdd: Volt) -> Design:
    """The chip with what the write path adds to its levels: a constant and a part linear in the voltage."""
    levels = np.linspace(0, vdd, len(stored))
    gain, constant = np.polyfit(levels - vdd / 2, stored - levels, 1)
    scale = (chip.v_max - chip.v_min) / vdd
    return chip.replace(
        writing=Writing(injection_voltage=float(constant) * scale, injection_gain=float(gain))
    )


def _head_codes(run: Stimulus, chip: Design) -> Wave:
    """Of HeadArray [T, row]."""
    return np.array([trace.tile_codes[0, 0].sum(0).tolist() for *_, trace in golden_steps(run, chip)])


def _random_words(p: Parameters, scales: Scales, tokens: int, seed: int) -> tuple[Words, Wave]:
    """Words of random codes: queries uniform, keys and values about the middle; and the codes written
    [array, T, row].
    """
    random = torch.Generator().manual_seed(seed)
    levels = p.storage_levels
    query = torch.randint(p.query_levels, (tokens, 1, p.rows), generator=random)
    drawn = levels / 2 + levels / 6 * torch.randn(2, tokens, p.rows, generator=random)
    codes = drawn.floor().clamp(0, levels - 1).long()
    return words_of_codes(query, codes[0], codes[1], scales, p), codes.numpy().astype(np.float64)


def source(verilog: Verilog, p: Parameters, record: Record) -> str:
    """Verilog of the digital block: the head and its recorded inputs, pulses excepted; a port for every bit.

    What the head leaves to the arrays is here too: write gates of the selected column, taps of the DACs, and
    the conversion that begins half a clock after `count`. Ports of one bit, since the order and the width of
    others are Verilator's affair.
    """
    size, levels = p.rows, p.storage_levels
    script = {name: width for name, width in verilog.inputs.items() if name not in PULSES}
    lines = [
        f"      {period + 1}: begin {_assigned(script, wires)} end"
        for period, wires in enumerate(record.inputs)
        if any(wires[name] for name in script)
    ]
    ports = [f"input {name}" for name in inputs(size)]
    ports += [f"output {name}" for name in outputs(size, levels, p.sum_bits)]
    declared = "\n".join(f"  reg [{width - 1}:0] {name};" for name, width in script.items())
    wires_out = "\n".join(f"  wire [{width - 1}:0] h_{name};" for name, width in verilog.outputs.items())
    connected = [f".{name}({name})" for name in script]
    for name in PULSES:
        connected.append(f".{name}({{{', '.join(f'{name}_{n}' for n in reversed(range(size)))}}})")
    connected += [f".{name}(h_{name})" for name in verilog.outputs]
    return f"""// The digital block of a sub-tile of {size} x {size}, with {len(record.starts)} tokens.
module {TOP}({", ".join(ports)});
  reg [31:0] tick = 0;
  reg late = 0;
{declared}
{wires_out}
  always @(posedge clk) tick <= tick + 1;
  always @(negedge clk) late <= h_count;
  always @* begin
    {" ".join(f"{name} = 0;" for name in script)}
    case (tick)
{chr(10).join(lines)}
      default: ;
    endcase
  end
  {verilog.top} head (.clk(clk), .rst(tick == 0),
    {", ".join(connected)});
{chr(10).join(_driven(size, levels, p))}
endmodule

{chr(10).join(verilog.modules.values())}"""


def _assigned(script: Mapping[str, int], wires: Wires) -> str:
    return " ".join(
        f"{name} = {width}'h{wires[name] & (1 << width) - 1:x};" for name, width in script.items()
    )


def _driven(size: int, levels: int, p: Parameters) -> list[str]:
    """Assignments of the output ports."""
    found = {
        "hold_key": "h_key_read | h_value_read",
        "value_read": "h_value_read",
        "hold_value": "h_value_read | h_count | late",
        "late_count": "late",
        "result_valid": "h_result_valid",
    }
    for array in ARRAYS:
        found[f"discharge_{array}"] = f"h_discharge_{array}"
        for n in range(size):
            found[f"gate_{array}_{n}"] = f"h_select[{n}] & (h_discharge_{array} | h_write_{array})"
            code = f"h_{array}_code[{n * p.storage_bits} +: {p.storage_bits}]"
            for tap in range(levels):
                found[f"tap_{array}_{n}_{tap}"] = f"h_write_{array} & ({code} == {tap})"
    for n in range(size):
        found[f"valid_{n}"] = f"h_valid[{n}]"
        found[f"word_{n}"] = f"h_query_pulse[{n}]"
        for bit in range(p.sum_bits):
            found[f"total_{n}_{bit}"] = f"h_total[{n * p.sum_bits + bit}]"
    return [f"  assign {name} = {value};" for name, value in found.items()]


def compile_library(folder: Path) -> Path:
    """What ngspice loads, of the Verilog there.

    Raises:
        SimulationError: it was not made; with the end of what was said.
    """
    said = programs.run(["ngspice", "vlnggen", "--", "-Wno-fatal", f"{TOP}.v"], folder)
    library = folder / f"{TOP}.so"
    if not library.exists():
        lines = [line for line in said.splitlines() if line.strip()]
        raise SimulationError(f"vlnggen of ngspice made no library: {' | '.join(lines[-3:])}")
    return library


def read_time(p: Parameters, period: int) -> Second:
    """When the wires of a recorded period are read: the first edge of the clock is that of the reset."""
    return (period + 1 + SETTLED) / p.design.counter_clock


def _codes(p: Parameters, record: Record, plot: Plot, vdd: Volt) -> Wave:
    """Sums in the periods that have results in the record [T, row].

    Raises:
        SimulationError: other periods have them.
    """
    valid = [period for period, wires in enumerate(record.outputs) if wires["result_valid"]]
    times = np.array([read_time(p, period) for period in valid])

    def levels(node: str) -> Any:
        return np.interp(times, plot["time"], plot[f"v({node})"]) > vdd / 2

    rises = int((np.diff((plot["v(result_valid)"] > vdd / 2).astype(int)) > 0).sum())
    if rises != len(valid) or not levels("result_valid").all():
        raise SimulationError(
            f"the simulated digital block gave {rises} results, not {len(valid)}, or in other periods"
        )
    weights = [*(1 << bit for bit in range(p.sum_bits - 1)), -1 << (p.sum_bits - 1)]
    rows = [
        sum(weight * levels(f"total_{row}_{bit}") for bit, weight in enumerate(weights))
        for row in range(p.rows)
    ]
    return np.stack(rows, 1).astype(np.float64)


def _stored(p: Parameters, record: Record, plot: Plot, reads: int = 1) -> Wave:
    """Voltages of the column of every token when its values begin to be read, or `reads` - 1 tokens later, at
    most at the last one [array, T, row].
    """
    begins = p.of_phase("value read")[0].start
    times = [read_time(p, start + begins) for start in record.starts]

    def voltage(array: str, token: int, row: int) -> Volt:
        wave = plot[f"v(st_{array}_{row}_{token % p.columns})"]
        return float(np.interp(times[min(token + reads, len(times)) - 1], plot["time"], wave))

    return np.array(
        [
            [[voltage(array, token, row) for row in range(p.rows)] for token in range(len(times))]
            for array in ARRAYS
        ]
    )
