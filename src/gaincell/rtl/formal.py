"""Properties of the controller and the sequencer, proved by yosys-smtbmc: for every input, at every time.

    one column is selected, and the pointer is within the ring
    the pointer moves on by one column when a token is written, from the last to the first, and not otherwise
    a column that is being discharged or written stays selected, whatever comes in
    valid bits: the column at the pointer becomes valid when the pointer moves on, the others stay
    everything acts exactly in the periods of the schedule (hence a step takes as many as the schedule says)
    no array is read while a column of it is written; a column is not written while it is discharged

Proved by induction over one period, and from reset on for the first BASE periods.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gaincell.errors import SimulationError
from gaincell.rtl import programs
from gaincell.rtl.parameters import Parameters
from gaincell.rtl.sequencer import windows
from gaincell.units import Second

PROGRAMS = ("yosys", "yosys-smtbmc", "z3")
BASE = 4
TOP = "properties"


def prove(modules: Mapping[str, str], parameters: Parameters, *, timeout: Second = 300.0) -> bool:
    """Whether all properties hold of the Verilog of a head.

    Raises:
        InputError: a program is not installed.
        SimulationError: one fails, or takes longer than `timeout`.
    """
    programs.require(*PROGRAMS)
    sources = {f"{module}.v": modules[module] for module in ("sequencer", "write_address_controller")}
    with programs.workplace({**sources, f"{TOP}.sv": properties(parameters)}) as folder:
        script = f"read_verilog {' '.join(sources)}; read_verilog -formal -sv {TOP}.sv; "
        script += f"prep -flatten -top {TOP}; "
        programs.run(["yosys", "-q", "-p", script + "async2sync; write_smt2 -wires model.smt2"], folder)
        prover = f"yosys-smtbmc -s z3 --noprogress -t {BASE}".split()
        said = [_checked([*prover, *how, "model.smt2"], folder, timeout) for how in ((), ("-i",))]
    return all("Status: PASSED" in text for text in said)


def _checked(command: list[str], folder: Path, timeout: Second) -> str:
    """What a solver says; that it found a counterexample is no failure of its own."""
    try:
        return programs.run(command, folder, timeout=timeout)
    except SimulationError as error:
        if "Status: FAILED" in str(error):
            return str(error)
        raise


def properties(p: Parameters) -> str:
    """The properties as a module of SystemVerilog."""
    acting = {name: spans for name, spans in windows(p).items() if spans}
    exact = "\n".join(
        f"    assert ({name} == ({' || '.join(f'(period >= {a} && period < {b})' for a, b in spans)}));"
        for name, spans in acting.items()
    )
    ports = ", ".join(f".{name}({name})" for name in ("period", "advance", *acting))
    pointer = max(1, (p.columns - 1).bit_length())
    return f"""module {TOP}(input clk, input start, input clear);
  wire [{p.step_cycles.bit_length() - 1}:0] period;
  wire [{pointer - 1}:0] pointer;
  wire [{p.columns - 1}:0] select, valid;
  wire {", ".join(("advance", *acting))};
  sequencer s (.clk(clk), .rst(1'b0), .start(start), {ports});
  wire busy = period != 0;
  write_address_controller c (.clk(clk), .rst(1'b0), .clear(clear), .busy(busy), .advance(advance),
    .pointer(pointer), .select(select), .valid(valid));
  reg past = 0;
  reg [{pointer - 1}:0] pointer_before;
  reg [{p.columns - 1}:0] select_before, valid_before;
  reg cleared, advanced, writing_before;
  wire writing = discharge_key || write_key || discharge_value || write_value;
  always @(posedge clk) begin
    past <= 1;
    pointer_before <= pointer;
    select_before <= select;
    valid_before <= valid;
    cleared <= clear && !busy;
    writing_before <= writing;
    advanced <= advance;
  end
  always @* begin
    assert (pointer < {p.columns});
    assert (select == {p.columns}'d1 << pointer);
    assert (period < {p.step_cycles});
    if (past) begin
      if (cleared) assert (pointer == 0 && valid == 0);
      else if (advanced) begin
        assert (pointer == (pointer_before == {p.columns - 1} ? 0 : pointer_before + 1));
        assert (valid == (valid_before | select_before));
      end else assert (pointer == pointer_before && valid == valid_before);
      if (writing && writing_before) assert (select == select_before);
    end
{exact}
    assert (!(key_read && (discharge_key || write_key)));
    assert (!(value_read && (discharge_value || write_value)));
    assert (!(discharge_key && write_key) && !(discharge_value && write_value));
    assert (!(advance && (value_read || !write_value)));
  end
endmodule
"""
