"""A netlist as data: text that is the same for the same circuit, to the byte, and the files it includes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gaincell.spice.technology import Site
from gaincell.units import Second, Volt

OPTIONS = "reltol=1e-3 abstol=1e-12 chgtol=1e-16 vntol=1e-5 gmin=1e-16 method=trap klu bypass=1"
"""Accurate to a fraction of a millivolt in an array. gmin: the default of 1e-12 S would discharge a 10 fF
store within milliseconds, an artefact that looks like retention."""

ARRAY_OPTIONS = OPTIONS.replace("chgtol=1e-16", "chgtol=1e-15 trtol=20")
"""For arrays: half the time steps, for a difference below 0.02 ns of 15 in a pulse width (measured)."""


EDGE: Second = 50e-12
"""Rise and fall of every driven edge."""


@dataclass(frozen=True)
class Netlist:
    """One circuit with one analysis.

    Attributes:
        title: First line, shown in complaints.
        text: The whole netlist.
        files: Text of what it includes, by name.
        stop_time: Of a transient, s; a shorter result is a failure.
        libraries: Where a compiled digital block is, by name; it lies beside the netlist under that name.
    """

    title: str
    text: str
    files: Mapping[str, str] = field(default_factory=dict)
    stop_time: Second | None = None
    libraries: Mapping[str, Path] = field(default_factory=dict)


def bench(
    site: Site,
    title: str,
    body: Iterable[str],
    saved: Sequence[str],
    *,
    dc: str = "",
    stop: Second | None = None,
    steps: tuple[str, str] = ("20p", "50p"),
    options: str = OPTIONS,
    tunnelling: bool = False,
) -> Netlist:
    """A netlist at a site: a sweep, or a transient to `stop`.

    Args:
        site: Technology in a corner.
        title: First line.
        body: Lines of the circuit.
        saved: "v(out)", "i(vdd)", ...
        dc: The sweep; empty: none.
        stop: End of the transient, s.
        steps: Suggested and longest ones.
        options: Of ngspice.
        tunnelling: Leave gate tunnelling as the card has it.
    """
    title = f"{site.technology.name}: {title}"
    files = site.technology.files(site.corner, tunnelling=tunnelling)
    lines = [f"* {title}", f".options {options}", f".temp {site.corner.temperature:g}"]
    lines += [f".include {file}" for file in files]
    lines += body
    lines += [f".save {' '.join(saved[n : n + 8])}" for n in range(0, len(saved), 8)]
    lines += [dc if stop is None else f".tran {steps[0]} {number(stop)} 0 {steps[1]}", ".end"]
    return Netlist(title, "\n".join(lines) + "\n", files, stop)


def number(value: float) -> str:
    """A number for a netlist: 9 digits, no suffix letters to be confused by."""
    return f"{value:.9g}"


def sources(volts: Mapping[str, Volt]) -> list[str]:
    """Constant voltages: "name node" -> V."""
    return [f"V{name} 0 {number(value)}" for name, value in volts.items()]


def pwl(points: Iterable[tuple[float, float]]) -> str:
    """The arguments of PWL from (time in s, volts)."""
    return "PWL(" + " ".join(f"{number(t)} {number(v)}" for t, v in points) + ")"


def pulse(start: Second, stop: Second, rest: Volt, active: Volt) -> str:
    """PWL from rest to active at `start`, and back at `stop`, with edges of EDGE."""
    edges = (start, rest), (start + EDGE, active), (stop, active), (stop + EDGE, rest)
    return pwl([(0, rest), *edges])
