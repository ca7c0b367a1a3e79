"""Energy of what switches in the synthesised head, and what could explain the 4 nJ that the paper states.

    gates      changes of gate outputs x gate_switching V^2 / 2
    registers  changes of flip-flop outputs x flip_flop_data V^2 / 2
    clock      clocked flip-flops x flip_flop_clock V^2, clocks gated by the enables

Capacitances and supply are the technology file's, with the sources that it states. Each hypothesis is counted
beyond these:

    clock not gated      every flip-flop gets the clock in every period
    clock tree           a wire that reaches n flip-flops spread evenly over the head's area A, of length
                         0.75 sqrt(n A) (assumed: about that of a short rectilinear tree through random
                         points), with the overhead of its drivers, switched in every period
    unshared control     a sequencer and registers of gains and offsets of its own for every sub-tile, clocked
                         in every period
    routing              codes and pulses over half the head, as costs/digital.py counts them
    wider scaling        multiply-adds of 16-bit floats instead of words of a few bits, as there

Not modelled: glitches, leakage, test logic. Which of these the paper's number contains is not stated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from gaincell.costs.area import head_area
from gaincell.costs.digital import digital, float_surplus
from gaincell.costs.head import Head
from gaincell.costs.technology import Technology
from gaincell.results.rtl import Hypothesis
from gaincell.rtl.gates import Switching
from gaincell.rtl.parameters import Parameters
from gaincell.rtl.synthesis import Synthesis
from gaincell.units import Joule, SquareMetre

TREE = 0.75
"""Length of a short tree through n points spread evenly over an area A, over sqrt(n A)."""


@dataclass(frozen=True)
class Energy:
    """Of one token.

    Attributes:
        gates: Of gates that switch.
        registers: Of registers that switch.
        clock: Of the clock, where enables gate it.
        ungated: Of a clock that nothing gates.
    """

    gates: Joule
    registers: Joule
    clock: Joule
    ungated: Joule

    @property
    def total(self) -> Joule:
        """With gated clocks."""
        return self.gates + self.registers + self.clock


def energies(switching: Mapping[str, Switching], tokens: int, technology: Technology) -> dict[str, Energy]:
    """By kind of module, of a mean token."""
    t = technology
    return {
        name: Energy(
            gates=found.gates * t.switched(t.gate_switching) / 2 / tokens,
            registers=found.data * t.switched(t.flip_flop_data) / 2 / tokens,
            clock=found.clocked * t.switched(t.flip_flop_clock) / tokens,
            ungated=found.all_clocked * t.switched(t.flip_flop_clock) / tokens,
        )
        for name, found in switching.items()
    }


def areas(synthesis: Synthesis, technology: Technology) -> dict[str, SquareMetre]:
    """Of all modules of a kind: gates and flip-flops over the share of the area that they fill."""
    t = technology
    return {
        m.name: m.placed * (m.gates * t.gate_area + m.flip_flops * t.flip_flop_area) / t.utilisation
        for m in synthesis.modules
    }


def hypotheses(
    parameters: Parameters, synthesis: Synthesis, found: Mapping[str, Energy], head: Head
) -> list[Hypothesis]:
    """What a token would take beyond what was counted; `head`: with as many valid columns."""
    p, t = parameters, head.technology
    area = head_area(head).area
    wire = TREE * math.sqrt(synthesis.flip_flops * area) * t.wire_capacitance * (1 + t.driver_overhead)
    own = [found[name] for name in ("sequencer", "scale_registers")]
    return [
        Hypothesis("clock not gated", sum(one.ungated - one.clock for one in found.values())),
        Hypothesis("clock tree", p.step_cycles * t.switched(wire)),
        Hypothesis("unshared control", (p.tiles - 1) * sum(e.gates + e.registers + e.ungated for e in own)),
        Hypothesis("routing", p.group * digital(head, area).parts["routing"].energy),
        Hypothesis("wider scaling", p.group * float_surplus(head)),
    ]
