"""What the bottom-up estimate leaves out: every step of a token has an entry or stands here.

Nobody stated, and nothing here computes, what these take; all of it makes the estimate too low.
"""

from __future__ import annotations

from gaincell.costs.head import Head
from gaincell.results.cost import LeftOut

ALWAYS = (
    LeftOut("dot products", "references of the converters and their distribution, calibration of offsets"),
    LeftOut("dot products", "short circuits in drivers, outputs beyond their ceiling"),
    LeftOut("dot products", "bias of amplifiers and comparators between reads"),
    LeftOut("write", "reference ladder and decoder of the DACs, settling beyond one pole, coupling"),
    LeftOut("digital", "buffers of the clock tree and clock gates, test logic, margins for jitter and skew"),
    LeftOut("digital", "glitches in adders and multipliers, loading gains and offsets"),
    LeftOut("digital", "time of the registers where words come in and codes are stored"),
    LeftOut("leakage", "analog circuits; power gating, which would save"),
    LeftOut("whole model", "rotary embedding, norms, activations, sampling, power conversion"),
    LeftOut("batch", "switching between the cells of sequences that share circuits"),
)
"""Of every chip."""


SUBTRACTED = "reference column subtracted"
"""What the notes on the numbers of a cell say that is read beside a column of constant current."""


def of_chip(head: Head) -> list[LeftOut]:
    """Circuits that a chip or a model has beyond the paper's (docs/extensions.md says what they are)."""
    design = head.design
    normalised = design.normaliser.present
    uneven, turned, leaks = design.levels.present, design.drivers.signed, design.leakage
    spread, balanced = leaks.spread > 0 and design.tau is not None, head.balanced_rows > 0
    numbers = [f"cell.{number}" for number in design.cell.numbers]
    notes = [design.provenance[key].note for key in numbers if key in design.provenance]
    reference = any(SUBTRACTED in note for note in notes)
    there = (
        (normalised, "dot products", "the normalising column: its cells, writes, readout and counters"),
        (head.divisions > 0, "digital", "the time of the divisions"),
        (
            reference,
            "dot products",
            "what the reference column takes away, and that column: energies are of net currents",
        ),
        (balanced, "digital", "the time, reads and registers of turning q and k and of balancing rows"),
        (design.charge_to_pulse.exponent != 1, "dot products", "the ramp of the charge-to-pulse exponent"),
        (design.sinks.tokens > 0, "dot products", "the columns of first tokens"),
        (spread, "refresh", "cells that hold for less than the retention time"),
        (leaks.read_disturb > 0, "refresh", "what reads take from the stored voltages"),
        (uneven, "write", "the references and the finer clock of levels that are not evenly spaced"),
        (turned, "digital", "the switches that turn the sense of the key integrators for negative queries"),
    )
    return [LeftOut(where, what) for present, where, what in there if present]


def left_out(head: Head) -> list[LeftOut]:
    """All that an estimate of a head lacks."""
    refreshed = head.refresh is not None and head.refresh.kind != "none"
    copies = [LeftOut("refresh", "reading columns back, or the digital copy; the order of refreshes")]
    return [*ALWAYS, *of_chip(head), *(copies if refreshed else [])]
