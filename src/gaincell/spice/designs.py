"""Which chips the circuits of this package are: those whose storage range and read are like theirs."""

from __future__ import annotations

import numpy as np

from gaincell.chips.design import Design
from gaincell.errors import InputError
from gaincell.spice.technology import Technology


def check_storage(technology: Technology, design: Design) -> None:
    """Raise InputError for a chip that stores another range than the supply's, about another middle: levels
    of the circuits go from 0 to VDD, their bit lines are held at VDD/2.
    """
    vdd = technology.vdd
    if not (np.isclose(vdd, design.v_max) and design.v_min == 0 and np.isclose(vdd / 2, design.v_offset)):
        raise InputError(
            f"{technology.name} has VDD = {vdd:g} V, and the design {design.name} stores {design.v_min:g} to "
            f"{design.v_max:g} V about {design.v_offset:g} V; give --vdd {design.v_max:g} (with --lib), or a "
            f"--design that stores 0 to {vdd:g} V about {vdd / 2:g} V"
        )


def check_design(design: Design, technology: Technology | None = None) -> None:
    """Raise InputError for a design whose read is not that of the circuits, or its storage range not that of
    the technology.
    """
    exponent = design.charge_to_pulse.exponent
    said = {
        "queries with signs ([drivers] phases = 2)": design.drivers.signed,
        "a normalising column ([normaliser])": design.normaliser.present,
        f"a converter law with exponent {exponent:g}": exponent != 1,
        f"readout = {design.readout!r}": design.readout != "counter",
        "levels that are not evenly spaced ([levels])": design.levels.present,
        "queries or voltages that are not quantised": None in (design.query_levels, design.storage_levels),
        "converters without a ceiling": not (design.score_ceiling and design.output_ceiling),
    }
    found = [words for words, present in said.items() if present]
    if found:
        raise InputError(
            f"design {design.name}: it has {', '.join(found)}; circuits are simulated for unsigned queries, "
            "no normalising column, exponent 1, readout = 'counter', even levels and ceilings; give a design "
            "with these, leroux2025 for instance"
        )
    if technology is not None:
        check_storage(technology, design)
