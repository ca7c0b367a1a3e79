"""What the commands of `gaincell spice` share: options for models and corner, and how they run."""

from __future__ import annotations

import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, TypeAlias

import typer

from gaincell.cli._progress import progress_bars
from gaincell.progress import StageProgress

TechnologyName: TypeAlias = Annotated[
    str, typer.Option("--technology", metavar="NAME", help="freepdk45, generic28 or oxide.")
]
Library: TypeAlias = Annotated[
    Path | None,
    typer.Option("--lib", metavar="FILE", help="Your own models instead; with --nmos and --pmos."),
]
Section: TypeAlias = Annotated[
    str | None,
    typer.Option("--section", metavar="SECTION", help="Of --lib, where it has sections; also its corner."),
]
Nmos: TypeAlias = Annotated[
    str, typer.Option("--nmos", metavar="NAME", help="Name of the n transistor in --lib.")
]
Pmos: TypeAlias = Annotated[
    str, typer.Option("--pmos", metavar="NAME", help="Name of the p transistor in --lib.")
]
Subcircuits: TypeAlias = Annotated[
    bool, typer.Option("--subcircuits", help="Transistors of --lib are subcircuits with w and l.")
]
Nodes: TypeAlias = Annotated[
    str, typer.Option("--nodes", metavar="LETTERS", help="Order of their nodes, letters d g s b.")
]
Vdd: TypeAlias = Annotated[
    float | None, typer.Option("--vdd", metavar="VOLTS", help="Nominal supply of --lib; by default 0.9.")
]
DesignName: TypeAlias = Annotated[str, typer.Option("--design", metavar="DESIGN", help="Chip it is for.")]
Process: TypeAlias = Annotated[
    str,
    typer.Option(
        "--process", metavar="CORNER", help="Corner: nominal, fast or slow; with --lib use --section."
    ),
]
Temperature: TypeAlias = Annotated[
    float, typer.Option("--celsius", metavar="DEGREES", help="Temperature of the circuit.")
]
Supply: TypeAlias = Annotated[
    float, typer.Option("--supply", metavar="X", help="Factor on VDD, for instance 0.9.")
]
Workers: TypeAlias = Annotated[
    int | None,
    typer.Option("--workers", metavar="N", min=1, help="Simulations at a time; by default one a core."),
]


class DacKind(StrEnum):
    """Of netlists/write_path.py."""

    string = "string"
    charge = "charge"


WriteDac: TypeAlias = Annotated[
    DacKind | None,
    typer.Option("--write-dac", help="Store what this simulated DAC writes; by default ideal levels."),
]
Seed: TypeAlias = Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Of every random choice.")]

OF_LIBRARY = ("--section", "--nmos", "--pmos", "--subcircuits", "--nodes")
"""Options that --lib must accompany."""


def models(
    name: str,
    lib: Path | None,
    section: str | None,
    nmos: str,
    pmos: str,
    subcircuits: bool,
    nodes: str,
    vdd: float | None,
) -> Any:
    """The technology that the options name. Raises InputError."""
    from gaincell.errors import InputError
    from gaincell.spice.technology import technology, user_technology

    if lib is not None:
        return user_technology(
            lib, nmos, pmos, section=section, subcircuits=subcircuits, nodes=nodes, vdd=vdd or 0.9, like=name
        )
    if vdd is not None:
        raise InputError(f"--vdd {vdd:g} is for your own models (--lib); use --supply FACTOR with {name}")
    return technology(name)


@contextmanager
def simulating() -> Iterator[StageProgress]:
    """Progress bars; simulations end with the command, by SIGTERM too; every warning of ngspice once."""
    from gaincell.spice.runner import SimulationWarning

    shown: set[str] = set()
    show = warnings.showwarning

    def once(message: Any, category: Any, *rest: Any, **more: Any) -> None:
        if not issubclass(category, SimulationWarning):
            show(message, category, *rest, **more)
        elif str(message) not in shown:
            shown.add(str(message))

    with warnings.catch_warnings(), terminable():
        warnings.simplefilter("always", SimulationWarning)
        warnings.showwarning = once
        try:
            with progress_bars() as stages:
                yield stages
        finally:
            for text in sorted(shown):
                print(f"gaincell: ngspice warned: {text}", file=sys.stderr)


@contextmanager
def terminable() -> Iterator[None]:
    """Within the context SIGTERM unwinds the program as Ctrl-C does: children stop, files are removed."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
