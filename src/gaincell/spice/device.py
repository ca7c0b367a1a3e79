"""A device file from simulated measurements."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from gaincell.chips.design import Design
from gaincell.chips.device_file import Device
from gaincell.chips.device_fit import fit_device
from gaincell.errors import InputError
from gaincell.spice.characterise import Characterisation


def device_of(
    found: Characterisation, curve: Path, decay: Path, design: Design, name: str, ngspice: str
) -> tuple[Device, str]:
    """The device, and why it states no retention ("" if it does).

    curve, decay: files of `write_measurements`.  ngspice: its version.

    Raises InputError where the curve cannot be fitted.
    """
    without = ""
    law = "exponential" if found.tau_set is not None else None
    try:
        device, _, _ = fit_device(curve, design, decay=decay, law=law, name=name)
    except InputError as error:
        device, _, _ = fit_device(curve, design, name=name)
        without = str(error).removeprefix(f"{decay}: ")
    retention = (
        f"retention set to {found.tau_set:g} s by a leak" if found.tau_set else "retention as simulated"
    )
    if without:
        retention = "no retention stated"
    origin = {**device.origin, "simulator": ngspice, "models": found.technology.title, "retention": retention}
    title = f"{device.cell.name} cell fitted to {len(found.cells_charge)} simulated cells"
    title += f", {found.technology.title}"
    return dataclasses.replace(device, description=title, origin=origin), without
