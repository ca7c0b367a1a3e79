"""Transistors of one technology: cards, sizes of the cell, corners; a user's own kit.

    freepdk45       FreePDK45 (Apache-2.0, see models/NOTICE), flavour VTG
    generic28       a generic 28 nm-class card of our own, no foundry's process
    oxide           freepdk45 with an oxide-semiconductor write transistor (behavioural)

Sizes are ours: the paper states none. The cards keep their gate tunnelling; netlists get copies without it
unless they ask, since a 1.1 nm oxide discharges a store of 10 fF in microseconds, and a gain cell
would use a thicker one for its write path.
Not modelled: layout (wells, proximity, stress), correlated mismatch.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from gaincell.errors import InputError, SimulationError
from gaincell.files import read_text
from gaincell.quantity import one_of
from gaincell.units import Farad, Metre, Volt

PROCESSES = ("nominal", "fast", "slow")
TEMPERATURES = (-40.0, 27.0, 85.0)
SUPPLIES = (0.9, 1.0, 1.1)
OXIDE_HIGH, OXIDE_LOW = 2.0, -1.0
"""Gate of an oxide write transistor, V: on and off."""
CARD = "card.spi"
_FREEPDK = {"nominal": "freepdk45_nom.spi", "fast": "freepdk45_ff.spi", "slow": "freepdk45_ss.spi"}
_GENERIC = {"nominal": (0.0, 1.0), "fast": (-0.03, 1.08), "slow": (0.03, 0.92)}
"""Corners of the generic card: threshold shift in V and factor on mobility, assumed."""


@dataclass(frozen=True)
class Corner:
    """Where the circuit operates.

    Attributes:
        process: One of PROCESSES.
        temperature: Degrees Celsius.
        supply: Factor on VDD.
    """

    process: str = "nominal"
    temperature: float = 27.0
    supply: float = 1.0

    def __post_init__(self) -> None:
        if self.process not in PROCESSES:
            raise InputError(f"corner {self.process!r} is unknown; allowed: {one_of(PROCESSES)}")
        if not -60 <= self.temperature <= 150:
            raise InputError(f"temperature = {self.temperature!r} C is out of range; allowed: -60 to 150")
        if not 0.5 <= self.supply <= 1.5:
            raise InputError(f"supply = {self.supply!r} is out of range; allowed: 0.5 to 1.5 times VDD")


@dataclass(frozen=True)
class Size:
    """A transistor's width and length, m."""

    w: Metre
    l: Metre  # noqa: E741, as in every netlist


@dataclass(frozen=True)
class Technology:
    """What netlists need of a technology.

    Attributes:
        name: As on the command line.
        title: Words for tables and figures.
        vdd: Nominal supply, V.
        nmos: Name of the model or subcircuit.
        pmos: Name of the model or subcircuit.
        read_n: NMOS transistor of the read path.
        read_p: PMOS transistor of the read path.
        switch_n: Switch behind `read_n`.
        switch_p: Switch behind `read_p`.
        write_n: NMOS transistor of the write gate.
        write_p: PMOS transistor of the write gate.
        storage: Of the cell beside the gates, F.
        underdrive: How far beyond the rails the write gates are held off, V.
        a_vt: Pelgrom coefficient of the threshold, V m; assumed.
        oxide_write: Whether an oxide-semiconductor transistor writes.
        subcircuits: Whether transistors are subcircuits (X) with the nodes in `nodes`, instead of primitives
            (M).
        kit: File of a user's own models.
        section: Of that file.
    """

    name: str
    title: str
    vdd: Volt
    nmos: str
    pmos: str
    read_n: Size = Size(90e-9, 300e-9)
    read_p: Size = Size(180e-9, 300e-9)
    switch_n: Size = Size(90e-9, 50e-9)
    switch_p: Size = Size(90e-9, 50e-9)
    write_n: Size = Size(90e-9, 50e-9)
    write_p: Size = Size(180e-9, 50e-9)
    storage: Farad = 10e-15
    underdrive: Volt = 0.2
    a_vt: float = 2e-9
    oxide_write: bool = False
    subcircuits: bool = False
    nodes: str = "dgsb"
    kit: str | None = None
    section: str | None = None

    def files(self, corner: Corner, *, tunnelling: bool = False) -> dict[str, str]:
        """Name -> text of what a netlist has to include.

        Args:
            corner: Where the circuit operates.
            tunnelling: Leave gate tunnelling as the card has it.

        Raises:
            InputError: a process corner of a kit.
        """
        if self.kit is not None:
            if corner.process != "nominal":
                raise InputError(
                    f"process = {corner.process!r}: a corner of your own models is a section of their file; "
                    "choose it with --section and leave --process nominal"
                )
            card = f'.lib "{self.kit}" {self.section}' if self.section else f'.include "{self.kit}"'
            card += "\n"
        elif self.name == "generic28":
            shift, factor = _GENERIC[corner.process]
            card = _vendored("generic28.spi").replace(
                ".param g28_dvt=0 g28_dmu=1", f".param g28_dvt={shift:g} g28_dmu={factor:g}"
            )
        else:
            card = _vendored(_FREEPDK[corner.process])
        if self.kit is None and not tunnelling:
            card = re.sub(r"(ig[cb]mod\s*=\s*)1", r"\g<1>0", card)
        return {CARD: card} | ({"oxide.spi": _vendored("oxide.spi")} if self.oxide_write else {})

    def transistor(
        self, name: str, d: str, g: str, s: str, b: str, kind: str, size: Size, delvto: Volt = 0.0
    ) -> str:
        """Lines of a netlist.

        A subcircuit hides the parameter, so its shift is a source in series with the gate: V_gs - delvto.
        This leaves the mobility alone: in FreePDK45 the current changes by 10 (in the middle) to 40 % (at the
        ends) less than by delvto.

        Args:
            name: Of the transistor.
            d: Node of the drain.
            g: Node of the gate.
            s: Node of the source.
            b: Node of the bulk.
            kind: "n" or "p".
            size: Width and length.
            delvto: Threshold shift of this one, V.
        """
        model = self.nmos if kind == "n" else self.pmos
        series = ""
        if self.subcircuits and delvto:
            series, g = f"V{name} {g} {name}_g {delvto:.6g}\n", f"{name}_g"
        named = {"d": d, "g": g, "s": s, "b": b}
        nodes = " ".join(named[n] for n in self.nodes)
        if self.subcircuits:
            return f"{series}X{name} {nodes} {model} w={size.w:.6g} l={size.l:.6g}"
        shift = f" delvto={delvto:.6g}" if delvto else ""
        return f"M{name} {nodes} {model} w={size.w:.6g} l={size.l:.6g}{shift}"

    def sigma_vt(self, size: Size) -> Volt:
        """Standard deviation of one transistor's threshold, a_vt / sqrt(w l) (Pelgrom et al. 1989)."""
        return self.a_vt / math.sqrt(size.w * size.l)


@dataclass(frozen=True)
class Site:
    """What every circuit is built for: a technology in a corner."""

    technology: Technology
    corner: Corner = Corner()

    @property
    def vdd(self) -> Volt:
        """Of this corner."""
        return self.technology.vdd * self.corner.supply

    @property
    def write_levels(self) -> tuple[Volt, Volt, Volt]:
        """Gates of the write path: wwl off, wwl on, wwlb off (wwlb is at 0 V when on).

        Off is beyond the rails by the technology's underdrive: at the rails the subthreshold current of a
        short transistor moves a 10 fF store by 0.2 V within microseconds.
        """
        if self.technology.oxide_write:
            return OXIDE_LOW, OXIDE_HIGH, self.vdd
        return -self.technology.underdrive, self.vdd, self.vdd + self.technology.underdrive


_FREE = Technology("freepdk45", "FreePDK45 VTG", 0.9, "NMOS_VTG", "PMOS_VTG")
_SHORT, _WIDE = Size(90e-9, 35e-9), Size(180e-9, 35e-9)
_KNOWN: Mapping[str, Technology] = {
    "freepdk45": _FREE,
    "generic28": Technology(
        "generic28", "generic 28 nm-class", 0.9, "nmos_g28", "pmos_g28", read_p=Size(200e-9, 300e-9),
        switch_n=_SHORT, switch_p=_SHORT, write_n=_SHORT, write_p=_WIDE,
    ),
    "oxide": dataclasses.replace(
        _FREE, name="oxide", title="FreePDK45 with oxide write transistor", oxide_write=True
    ),
}  # fmt: skip


def technology(name: str) -> Technology:
    """A technology by name.

    Raises:
        InputError: there is none of that name.
    """
    if name not in _KNOWN:
        raise InputError(
            f"technology {name!r} is unknown; allowed: {one_of(_KNOWN)}, or --lib FILE with your own"
        )
    return _KNOWN[name]


def user_technology(
    kit: str | Path,
    nmos: str,
    pmos: str,
    *,
    section: str | None = None,
    subcircuits: bool = False,
    nodes: str = "dgsb",
    vdd: Volt = 0.9,
    like: str = "freepdk45",
) -> Technology:
    """A user's own models; sizes of the cell are those of `like`.

    Args:
        kit: File with the models.
        nmos: Name of the NMOS model in it.
        pmos: Name of the PMOS model in it.
        section: Of a .lib file.
        subcircuits: Whether transistors are subcircuits with w and l.
        nodes: Their order, letters d g s b.
        vdd: Nominal supply, V.
        like: Technology whose sizes the cell has.

    Raises:
        InputError: there is no such file, it does not define the names, nodes are no order of dgsb.
    """
    path = Path(kit)
    try:
        text = read_text(path, encoding="latin-1")
    except OSError as error:
        raise InputError(f"{path}: cannot be read as transistor models: {error}") from None
    if not 0.3 <= vdd <= 5:
        raise InputError(f"vdd = {vdd!r} V is out of range; allowed: 0.3 to 5")
    if sorted(nodes) != sorted("dgsb"):
        raise InputError(f"nodes = {nodes!r}; allowed: an order of the letters d, g, s, b, for instance dgsb")
    if nodes != "dgsb" and not subcircuits:
        raise InputError(f"nodes = {nodes!r} are of subcircuits; give --subcircuits too, or leave it out")
    included = re.search(r"(?im)^\s*\.(inc\w*|lib[ \t]+\S+)[ \t]+\S", text)  # of files that are not read here
    for name in (nmos, pmos) if section is None and not included else ():
        if not re.search(rf"(?im)^\s*\.(model|subckt)\s+{re.escape(name)}\b", text):
            raise InputError(f"{path.name} defines no model or subcircuit {name!r}; or give --section")
    return dataclasses.replace(
        technology(like),
        name=path.stem,
        title=f"{path.stem} (a user's own models{'' if section is None else f', section {section}'})",
        vdd=vdd,
        nmos=nmos,
        pmos=pmos,
        subcircuits=subcircuits,
        nodes=nodes,
        kit=str(path.resolve()),
        section=section,
    )


def _vendored(name: str) -> str:
    try:
        return (files("gaincell.spice") / "models" / name).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SimulationError(f"the model card {name} is missing from this installation") from None
