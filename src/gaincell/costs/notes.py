"""What a user has to know about the numbers of `gaincell cost`, in words."""

from __future__ import annotations

import math

from gaincell.chips.design import Design
from gaincell.chips.design_file import load_design
from gaincell.costs import retention, simulated
from gaincell.costs.activity import Activity
from gaincell.costs.cited import DIGITAL
from gaincell.costs.head import UNQUANTISED, Head
from gaincell.costs.left_out import of_chip
from gaincell.costs.roll_up import HeadCost
from gaincell.costs.size import ModelSize
from gaincell.reports.costs import with_scale
from gaincell.results import cost as results
from gaincell.results.rtl import RtlResult
from gaincell.results.spice import EnergyResult, WriteResult


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
    spice: results.SpiceArrays | None,
    rtl: RtlResult | None,
) -> list[str]:
    """Of the head that is priced.

    Args:
        found: Its cost.
        size: Sizes of the model.
        chip: As it was asked for.
        activity: Of all heads.
        spice: Simulated arrays as another source of energies.
        rtl: A generated digital part as another source of energies.
    """
    measured = found.head.activity.valid_columns
    said = [
        _origin(activity, chip),
        retention.note(found.head, size.layers * size.heads),
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
