"""The head as Verilog: a module of every kind once, and the top module that places them; its testbench.

The testbench needs no model of the arrays: it plays recorded inputs, what the arrays answered among them, and
compares every output in every period with what the record has. Icarus Verilog runs it, or Verilator.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from amaranth.back import verilog
from amaranth.hdl import Elaboratable

from gaincell.errors import SimulationError
from gaincell.rtl import programs
from gaincell.rtl.analog import packed
from gaincell.rtl.blocks import Block
from gaincell.rtl.head import Head
from gaincell.rtl.parameters import Parameters
from gaincell.rtl.simulation import Comparison, Record

TOP = "testbench"
VECTORS = "vectors.hex"
SHOWN = 3
VERDICT = re.compile(r"(PASS|FAIL): (\d+) of (\d+) periods differ")


@dataclass(frozen=True)
class Verilog:
    """The generated files of a head.

    Attributes:
        modules: Verilog by module, the top module last.
        testbench: In Verilog.
        inputs: Bits of the input ports of the top module.
        outputs: Bits of its output ports.
    """

    modules: Mapping[str, str]
    testbench: str
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]

    @property
    def files(self) -> dict[str, str]:
        """Text of the modules by name of the file, the top module's last."""
        return {f"{module}.v": text for module, text in self.modules.items()}

    @property
    def top(self) -> str:
        """Name of the top module."""
        return list(self.modules)[-1]

    def vectors(self, record: Record) -> str:
        """Inputs and outputs of the periods of a record, a line each, as the testbench reads them."""
        ports = {**self.inputs, **self.outputs}
        widths = list(ports.values())
        digits = -(-sum(widths) // 4)
        lines = []
        for inputs, outputs in zip(record.inputs, record.outputs, strict=True):
            wires = inputs | outputs
            lines.append(f"{packed([wires[name] for name in ports], widths):0{digits}x}")
        return "\n".join(lines) + "\n"


def generate(parameters: Parameters) -> Verilog:
    """Verilog of a head.

    Raises:
        MissingProgram: there is no yosys, which writes it.
    """
    programs.require("yosys")
    head = Head(parameters, instances=True)
    found = {}
    for module, placed in head.blocks.items():
        alone = placed[0].alone()
        found[module] = _convert(alone, module, alone.block)
    found[head.module] = _convert(head, head.module, head)
    inputs = {name: len(signal) for name, signal in head.inputs.items()}
    outputs = {name: len(signal) for name, signal in head.outputs.items()}
    return Verilog(found, _testbench(head.module, inputs, outputs, parameters), inputs, outputs)


def simulator() -> str:
    """The program that plays testbenches here.

    Raises:
        MissingProgram: neither of both is there.
    """
    for program in ("iverilog", "verilator"):
        if not programs.missing(program):
            return program
    raise programs.MissingProgram(f"{programs.missing('iverilog')}, or verilator")


def play(design: Verilog, record: Record, program: str | None = None) -> Comparison:
    """The testbench in a simulator of Verilog, with every period of a record.

    Raises:
        MissingProgram: the simulator is not installed.
        SimulationError: it fails, or says nothing that is understood.
    """
    program = program or simulator()
    programs.require(program)
    sources = {**design.files, f"{TOP}.v": design.testbench}
    periods = len(record.outputs)
    compile_by, run_by = {
        "iverilog": (f"iverilog -g2005 -s {TOP} -P{TOP}.PERIODS={periods} -o compiled", "vvp -n compiled"),
        "verilator": (
            "verilator --binary --timing -Wno-fatal -Wno-lint -CFLAGS -O0 --Mdir . "
            f"--top-module {TOP} -GPERIODS={periods} -o compiled",
            "./compiled",
        ),
    }[program]
    with programs.workplace({**sources, VECTORS: design.vectors(record)}) as folder:
        programs.run([*compile_by.split(), *sources], folder)
        said = programs.run(run_by.split(), folder)
    verdict = VERDICT.search(said)
    if verdict is None:
        raise SimulationError(f"the testbench ended without a verdict in {program}: {said[-200:]!r}")
    first = [line for line in said.splitlines() if line.startswith("period ")][:SHOWN]
    return Comparison("Verilog", int(verdict[3]), int(verdict[2]), tuple(first))


def _convert(design: Elaboratable, name: str, ports: Block | Head) -> str:
    signals = [*ports.inputs.values(), *ports.outputs.values()]
    text: str = verilog.convert(design, name=name, ports=signals, emit_src=False, strip_internal_attrs=True)
    return text


def _testbench(top: str, inputs: Mapping[str, int], outputs: Mapping[str, int], p: Parameters) -> str:
    """Reset, then the vectors. The first difference of a period is said by port."""
    half = f"{0.5e9 / p.design.counter_clock:g}"
    connected = [*_slices("now", inputs, 0), *(f".{name}({name})" for name in outputs)]
    compared = _slices("now", outputs, sum(inputs.values()))
    checks = "\n".join(
        f'      check({name}, {line.partition("(")[2][:-1]}, "{name}");'
        for name, line in zip(outputs, compared, strict=True)
    )
    wires = "\n".join(f"  wire [{width - 1}:0] {name};" for name, width in outputs.items())
    widest = max(outputs.values())
    return f"""// Plays {VECTORS}: a line a clock period, hexadecimal; inputs lowest, then outputs.
// +dump writes {TOP}.vcd.
`timescale 1ns/1ps
module {TOP};
  parameter PERIODS = 1;
  localparam BITS = {sum(inputs.values()) + sum(outputs.values())};
  reg [BITS-1:0] vectors [0:PERIODS-1];
  reg [BITS-1:0] now = 0;
  reg clk = 0, rst = 0, wrong;
  integer period, different = 0;
{wires}
  {top} head (.clk(clk), .rst(rst),
    {", ".join(connected)});
  task check(input [{widest - 1}:0] seen, input [{widest - 1}:0] expected, input [127:0] name);
    if (seen !== expected) begin
      if (different < {SHOWN} && !wrong)
        $display("period %0d: %0s is %h instead of %h", period, name, seen, expected);
      wrong = 1;
    end
  endtask
  initial if ($test$plusargs("dump")) begin
    $dumpfile("{TOP}.vcd");
    $dumpvars(0, {TOP});
  end
  initial begin
    $readmemh("{VECTORS}", vectors);
    #{half} rst = 1;
    #{half} clk = 1;
    #{half} clk = 0; rst = 0;
    for (period = 0; period < PERIODS; period = period + 1) begin
      now = vectors[period];
      wrong = 0;
      #{half};
{checks}
      different = different + wrong;
      clk = 1;
      #{half} clk = 0;
    end
    if (different == 0) $write("PASS"); else $write("FAIL");
    $display(": %0d of %0d periods differ", different, PERIODS);
    $finish;
  end
endmodule
"""


def _slices(word: str, ports: Mapping[str, int], at: int) -> list[str]:
    """Connections of ports to their places in a word."""
    found = []
    for name, width in ports.items():
        found.append(f".{name}({word}[{at} +: {width}])")
        at += width
    return found
