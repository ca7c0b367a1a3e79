"""Energy of a step by phase of its schedule: what is drawn when.

Energy of registers, control, clock, routing, leakage and of a division belongs to no phase; it is spread over
the step as "throughout".
"""

from __future__ import annotations

from gaincell.costs.cited import DIGITAL, FIRST, SECOND, WRITE
from gaincell.costs.roll_up import HeadCost
from gaincell.results.cost import PhaseCost

THROUGHOUT = "throughout"
DIGITAL_PHASES = {
    "scaling of q": "scale inputs",
    "scaling of k, v": "scale inputs",
    "query pulses": "key read",
    "counters": "count",
    "adder tree": "add",
    "adder registers": "add",
    "scaling of the output": "scale output",
}
"""Digital parts that belong to a phase."""


def phases(cost: HeadCost) -> list[PhaseCost]:
    """The phases of a step with one query head, bottom-up; their energies add up to that of the head."""
    head, blocks = cost.head, {line.name: line.bottom_up for line in cost.lines}
    step = head.found_schedule(1).step
    energies = {event.phase.name: 0.0 for event in step}
    energies["key write"] = energies["value write"] = blocks[WRITE].energy / 2
    energies["key read"] += blocks[FIRST].energy
    energies["value read"] += blocks[SECOND].energy
    for part, phase in DIGITAL_PHASES.items():
        energies[phase] += blocks[DIGITAL].parts[part].energy
    end = max(event.end for event in step)
    found = [PhaseCost(e.phase.name, e.start, e.phase.duration, energies[e.phase.name]) for e in step]
    left = cost.bottom_up.energy - sum(energies.values())
    return [*found, PhaseCost(THROUGHOUT, 0.0, end, left)]
