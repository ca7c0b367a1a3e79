"""What the simulations found, as results for files, tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from gaincell.chips.design import Design
from gaincell.results import provenance
from gaincell.results import spice as results
from gaincell.results.common import Provenance, Value, Values
from gaincell.spice.characterise import Characterisation
from gaincell.spice.energy import of_verification
from gaincell.spice.rawfile import Wave
from gaincell.spice.runner import version
from gaincell.spice.technology import Corner, Technology
from gaincell.spice.verify import Calibration, Stage, Verification
from gaincell.units import Second

PROTOCOL = "transistor-level simulation with open models; see docs/spice.md"


class Head(TypedDict):
    """Parts that every result has."""

    command: str
    technology: str
    ngspice: str
    provenance: Provenance


def head(
    name: str,
    technology: Technology,
    command: Sequence[str],
    design: Design,
    seed: int = 0,
    inputs: Mapping[str, str] | None = None,
) -> Head:
    """name: of the command.  command: the command line.  inputs: files and their hashes."""
    return {
        "command": f"spice {name}",
        "technology": technology.title,
        "ngspice": version(),
        "provenance": provenance.made(
            command=command, seed=seed, protocol=PROTOCOL, design_hash=design.hash, inputs=inputs
        ),
    }


def plain(wave: Any) -> Any:
    """The numbers of an array as nested tuples."""
    return tuple(map(plain, wave)) if np.ndim(wave) else np.asarray(wave).item()


def corner_of(corner: Corner, technology: Technology) -> results.OperatingPoint:
    """Where circuits operated."""
    process = corner.process if technology.kit is None else technology.section or "as the models are"
    return results.OperatingPoint(process, corner.temperature, technology.vdd * corner.supply)


def checks_of(checks: Mapping[str, tuple[float, float, str]]) -> tuple[results.Check, ...]:
    """checks: name -> (found, allowed, unit)."""
    return tuple(
        results.Check(
            name, Value(found, unit, "simulated"), Value(allowed, unit, "simulated"), bool(found <= allowed)
        )
        for name, (found, allowed, unit) in checks.items()
    )


def cell_result(
    found: Characterisation, design: Design, expected: Wave, command: Sequence[str], seed: int
) -> results.CharacterisationResult:
    """Of `gaincell spice characterise`. expected: charge of the design's own cell at found.levels, C."""
    t = found.technology
    spread = found.cells_charge.std(0, ddof=1) / float(np.abs(found.charge).max())
    return results.CharacterisationResult(
        **head("characterise", t, command, design, seed),
        curve=results.CellCurve(
            _rounded(found.volts),
            _rounded(found.current),
            _rounded(found.levels),
            _rounded(found.charge),
            Values(plain(expected), "C", "cited", f"cell of the design {design.name}"),
            _rounded(_r_squared(found.charge, expected)),
        ),
        mismatch=results.CellMismatch(
            len(found.cells_charge), _rounded(found.cells_charge), _rounded(spread), _rounded(t.a_vt)
        ),
        corners=results.CellCorners(
            _rounded(found.corner_volts),
            tuple(
                results.CornerCurve(process, _rounded(temperature), _rounded(supply), _rounded(current))
                for (process, temperature, supply), current in found.corners.items()
            ),
        ),
        write=results.CellWrite(
            *map(_rounded, (found.write_levels, found.write_times, found.written, *found.writes))
        ),
        retention=results.CellRetention(
            found.tau_set is not None,
            "no gate tunnelling" if t.kit is None else "models as they are",
            *map(
                _rounded,
                (found.hold_times, found.held, found.held_by_default_gmin, *found.held_with_tunnelling),
            ),
        ),
        disturb=results.CellDisturb(*map(_rounded, (found.disturbed, found.read_disturb, found.half_select))),
    )


def _rounded(entry: Any) -> Any:
    """Numbers with 6 digits: simulations are not good for more."""
    return tuple(map(_rounded, entry)) if np.ndim(entry) else float(f"{entry:.6g}")


def _r_squared(found: Wave, expected: Wave) -> float:
    """Share of the variance of `found` that `expected` explains, unfitted."""
    return float(1 - ((found - expected) ** 2).sum() / ((found - found.mean()) ** 2).sum())


def verify_result(
    found: Verification, design: Design, command: Sequence[str], seed: int
) -> results.VerifyResult:
    """Of `gaincell spice verify`."""
    own = np.abs(found.codes - found.model_codes["own"])
    return results.VerifyResult(
        **head("verify", found.technology, command, design, seed, found.inputs.origin),
        corner=corner_of(found.corner, found.technology),
        readout=found.readout,
        inputs=found.inputs.name,
        input_statistics=found.inputs.statistics,
        columns=found.columns,
        full_scale=found.longest,
        first=_array(found.first, found.longest),
        second=_array(found.second, found.longest),
        codes=results.VerifiedCodes(
            spice=plain(found.codes),
            **{curve: plain(codes) for curve, codes in found.model_codes.items()},
            differ=int((own > 0).sum()),
            differ_by_more_than_one=int((own > 1).sum()),
            unlike_ideal_levels=int((found.codes != found.ideal_codes).sum()),
        ),
        levels=plain(found.levels),
        checks=checks_of(found.checks),
        warnings=found.warnings,
    )


def _array(stage: Stage, longest: Second) -> results.VerifiedArray:
    return results.VerifiedArray(
        plain(stage.spice),
        {curve: plain(wave) for curve, wave in stage.model.items()},
        plain(stage.same_pulses),
        {curve: stage.rms(curve) for curve in stage.model},
        {curve: stage.rms(curve) / longest for curve in stage.model},
        _fit(stage.calibration(longest)),
        stage.clipped,
        {
            name: results.ReadEnergy(read, convert, stage.lines)
            for name, (read, convert) in stage.energy.items()
        },
    )


def _fit(found: Calibration) -> results.AffineFit:
    numbers = (found.gain, found.offset, found.negative_offset, found.rms)
    return results.AffineFit(*(None if np.isnan(one) else one for one in numbers))


def energy_result(
    runs: Sequence[Verification], design: Design, command: Sequence[str], seed: int
) -> results.EnergyResult:
    """Of `gaincell spice energy`."""
    one = runs[0]
    origin = {name: sha for found in runs for name, sha in found.inputs.origin.items()}
    return results.EnergyResult(
        **head("energy", one.technology, command, design, seed, origin),
        corner=corner_of(one.corner, one.technology),
        readout=one.readout,
        runs=tuple(
            results.EnergyRun(
                found.inputs.name, found.inputs.statistics, found.columns, *of_verification(found, design)
            )
            for found in runs
        ),
        not_included="writes, DACs, counters, adders, control; supply of a behavioural readout",
    )
