"""What a user has to know about the numbers of `gaincell cost`, in words, and what they leave out.

Every step of a token has an entry in the bottom-up estimate or is named here as left out. Nobody stated, and
nothing here computes, what that takes; all of it makes the estimate too low.
"""

from __future__ import annotations

import math

from gaincell.chips.design import Design
from gaincell.chips.design_file import load_design
from gaincell.costs import simulated, storage
from gaincell.costs.activity import Activity
from gaincell.costs.cited import DIGITAL
from gaincell.costs.head import UNQUANTISED, Head
from gaincell.costs.roll_up import HeadCost
from gaincell.costs.size import ModelSize
from gaincell.results.cost import LeftOut, SpiceArrays
from gaincell.results.rtl import RtlResult
from gaincell.results.spice import EnergyResult, WriteResult
from gaincell.units import with_scale

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
"""Left out of every chip."""
SUBTRACTED = "reference column subtracted"
"""What the notes on the numbers of a cell say that is read beside a column of constant current."""


def beyond_positions(size: ModelSize, tokens: int) -> list[str]:
    """That the model was not made for so many tokens."""
    if tokens <= size.tokens:
        return []
    return [
        f"{size.title} was made for {size.tokens:,} tokens: with {tokens:,}, the costs are of a model of its "
        "sizes that takes more"
    ]


def of_head(
    found: HeadCost,
    size: ModelSize,
    chip: Design,
    activity: Activity,
    spice: SpiceArrays | None,
    rtl: RtlResult | None,
) -> list[str]:
    """Of the head that is priced; `chip` is as it was asked for, `spice` and `rtl` give other energies."""
    measured = found.head.activity.valid_columns
    said = [
        _origin(activity, chip),
        storage.note(found.head, size.layers * size.heads),
        _above_supply(found.head),
        unquantised(chip),
    ]
    if chip.provenance["layer_latency"].source != "M":
        own = with_scale(chip.layer_latency, "s")
        said.append(f"latency, cited: from this design's own layer_latency, {own}, not from the paper's")
    if chip.decay_target and chip.tau is not None:
        said.append(
            f"voltages of this chip decay to {chip.leakage.decay_voltage:g} V; the energies of its cells are "
            f"those of voltages that decay to V_offset, {chip.v_offset:g} V"
        )
    if activity.tokens and not math.isclose(found.head.columns, measured, rel_tol=0.01):
        said.append(
            f"the activity was measured with {measured:.0f} valid columns on average; it is taken to hold "
            f"for {found.head.columns:.0f}"
        )
    if found.head.refresh is not None and found.head.refresh.kind == "reread":
        said.append(
            "refresh reread is charged as copy, a lower bound: reading the columns back is not modelled"
        )
    said += [f"{line.name} is outside its band: {found.explain(line)}" for line in found.outside]
    said += [
        f"{name}, SPICE, is outside its band: simulated with inputs of its own, mean pulse {one.pulse:.3f}"
        for name, one in ({} if spice is None else spice.products).items()
        if one.inside is False
    ]
    if rtl is not None and rtl.technology != found.head.technology.description:
        said.append(
            f"digital, synthesised: with gates of another technology, {rtl.technology}, than the one that is "
            f"priced, {found.head.technology.description}"
        )
    bits = found.head.technology.guard_bits
    if rtl is not None and (found_bits := rtl.sizes.word_bits - rtl.sizes.code_bits) != bits:
        said.append(f"digital, synthesised: {found_bits} guard bits, where the formula has {bits}")
    if rtl is not None and rtl.energy is not None and not simulated.same_tiles(found.head, rtl):
        said.append(
            f"digital, synthesised: of {rtl.energy.columns:,} valid columns on average, which fill another "
            f"number of sub-tiles than the {found.head.columns:,.0f} that are priced: not compared with the "
            f"paper's number; give --context {rtl.energy.columns}, or --tokens to gaincell rtl --verify"
        )
    counted = found.bottom_up.parts[DIGITAL].parts
    if rtl is not None and (lacking := [name for name in simulated.NOT_GENERATED if name in counted]):
        energy = with_scale(sum(counted[name].energy for name in lacking), "J")
        said.append(f"digital, synthesised: lacks {', '.join(lacking)}; of the formula's energy {energy}")
    missing = of_chip(found.head)
    if missing:
        said.append(f"not counted, though this chip has them: {', '.join(one.what for one in missing)}")
    return [note for note in said if note]


def _origin(activity: Activity, chip: Design) -> str:
    """That nobody measured the activity, or not on this chip."""
    if activity.is_assumed:
        return (
            "WARNING: the activity is assumed, every code equally likely; real text gives shorter and fewer "
            "pulses: give a RUN, or --activity with the file of gaincell activity --json"
        )
    if activity.design in (None, chip.hash):
        return ""
    return (
        f"the activity was measured on another chip, of hash {activity.design}, than the one that is priced, "
        f"{chip.name} of hash {chip.hash}"
    )


def of_other_chip(
    design: Design, spice: EnergyResult | None, write: WriteResult | None, rtl: RtlResult | None
) -> list[str]:
    """That another chip than the one that is asked for was simulated, or one for a model of other layers than
    this and the paper's, which no circuit depends on.
    """
    layers = (design.layers, load_design("leroux2025").layers)
    own = (None, *(design.replace(layers=n).hash for n in layers))
    given = {"SPICE of dot products": spice, "SPICE of the write": write, "gaincell rtl": rtl}
    return [
        f"the energies of {name} are of another chip, of hash {one.provenance.design_hash}, than the one "
        f"that is priced, {design.name} of hash {design.hash}"
        for name, one in given.items()
        if one is not None and one.provenance.design_hash not in own
    ]


def of_write(head: Head, write: WriteResult | None) -> list[str]:
    """That simulated writes last for another time than those that are priced, or settle after these end."""
    if write is None:
        return []
    technology, time, found = head.technology, head.technology.write_time, write.dacs
    own, simulated = (technology.discharge_time, time), (write.discharge, write.write)
    said = []
    if not all(math.isclose(a, b, rel_tol=0.01) for a, b in zip(own, simulated, strict=True)):
        (discharge, pulse), (empty, fill) = ([with_scale(t, "s") for t in both] for both in (own, simulated))
        said.append(
            f"write, SPICE: simulated with a discharge of {empty} and a write of {fill}, where technology "
            f"{technology.name} has {discharge} and {pulse}; what a DAC draws depends on it"
        )
    return said + [
        f"WARNING: the simulated writes of {name} settle within {with_scale(max(dac.settling), 's')}, after "
        f"the write of {with_scale(time, 's')} of technology {technology.name} has ended"
        for name, dac in found.items()
        if max(dac.settling) > time
    ]


def unquantised(*chips: Design) -> str:
    """That converters of some chips, which quantise nothing, are priced as if they did."""
    priced: dict[str, None] = {}
    for chip in chips:
        levels = {"query drivers": chip.query_levels, "write DACs": chip.storage_levels}
        priced |= {f"{name} of {UNQUANTISED} levels": None for name, n in levels.items() if n is None}
        if chip.readout == "none":
            priced[f"counters of {chip.counter_levels} levels"] = None
    return f"priced in place of converters that do not quantise: {', '.join(priced)}" if priced else ""


def _above_supply(head: Head) -> str:
    """That the cells hold more than the process supplies."""
    top, supply = head.design.v_max, head.technology.supply
    if top <= supply * (1 + 1e-9):
        return ""
    return (
        f"WARNING: the chip stores up to {top:g} V, above the supply of {supply:g} V of technology "
        f"{head.technology.name}: no write reaches it; choose a design with a narrower storage range, or a "
        "technology with a higher supply"
    )


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
