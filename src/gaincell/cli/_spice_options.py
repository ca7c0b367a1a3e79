"""What the commands of `gaincell spice` share: options for models and corner, and how they run."""

from __future__ import annotations

import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer

from gaincell.cli._options import check_needed
from gaincell.cli._progress import progress_bars
from gaincell.progress import StageProgress

if TYPE_CHECKING:
    from gaincell.chips.design import Design
    from gaincell.spice.inputs import Inputs
    from gaincell.spice.technology import Corner, Technology

OF_LIBRARY = ("--section", "--nmos", "--pmos", "--subcircuits", "--nodes")
"""Options that --lib must accompany."""


@dataclass(frozen=True)
class ModelOptions:
    """Transistor models."""

    technology: Annotated[
        str, typer.Option("--technology", metavar="NAME", help="freepdk45, generic28 or oxide.")
    ] = "freepdk45"
    lib: Annotated[
        Path | None,
        typer.Option("--lib", metavar="FILE", help="Your own models instead; with --nmos and --pmos."),
    ] = None
    section: Annotated[
        str | None,
        typer.Option(
            "--section", metavar="SECTION", help="Of --lib, where it has sections; also its corner."
        ),
    ] = None
    nmos: Annotated[
        str, typer.Option("--nmos", metavar="NAME", help="Name of the n transistor in --lib.")
    ] = "nmos"
    pmos: Annotated[
        str, typer.Option("--pmos", metavar="NAME", help="Name of the p transistor in --lib.")
    ] = "pmos"
    subcircuits: Annotated[
        bool, typer.Option("--subcircuits", help="Transistors of --lib are subcircuits with w and l.")
    ] = False
    nodes: Annotated[
        str, typer.Option("--nodes", metavar="LETTERS", help="Order of their nodes, letters d g s b.")
    ] = "dgsb"
    vdd: Annotated[
        float | None, typer.Option("--vdd", metavar="VOLTS", help="Nominal supply of --lib; by default 0.9.")
    ] = None

    def load(self, context: typer.Context) -> Technology:
        """The technology. Raises InputError."""
        from gaincell.errors import InputError
        from gaincell.spice.technology import technology, user_technology

        check_needed(context, OF_LIBRARY, "--lib FILE", self.lib)
        if self.lib is not None:
            return user_technology(
                self.lib,
                self.nmos,
                self.pmos,
                section=self.section,
                subcircuits=self.subcircuits,
                nodes=self.nodes,
                vdd=self.vdd or 0.9,
                like=self.technology,
            )
        if self.vdd is not None:
            raise InputError(
                f"--vdd {self.vdd:g} is for your own models (--lib); use --supply FACTOR with "
                f"{self.technology}"
            )
        return technology(self.technology)


@dataclass(frozen=True)
class CornerOptions:
    """Where circuits operate."""

    process: Annotated[
        str,
        typer.Option(
            "--process", metavar="CORNER", help="Corner: nominal, fast or slow; with --lib use --section."
        ),
    ] = "nominal"
    temperature: Annotated[
        float, typer.Option("--celsius", metavar="DEGREES", help="Temperature of the circuit.")
    ] = 27.0
    supply: Annotated[
        float, typer.Option("--supply", metavar="X", help="Factor on VDD, for instance 0.9.")
    ] = 1.0

    def load(self) -> Corner:
        """The corner. Raises InputError."""
        from gaincell.spice.technology import Corner

        return Corner(self.process, self.temperature, self.supply)


@dataclass(frozen=True)
class DumpOptions:
    """What is taken of a file of gaincell evaluate --dump."""

    head: Annotated[
        int, typer.Option("--head", metavar="N", min=0, help="Which head of FILE (--inputs).")
    ] = 0
    token: Annotated[
        int | None,
        typer.Option(
            "--token", metavar="N", min=0, help="Whose query of FILE (--inputs); by default the last."
        ),
    ] = None

    def read(self, file: str | Path, chip: Design) -> Inputs:
        """Its codes. Raises InputError."""
        from gaincell.spice.inputs import real_inputs

        return real_inputs(file, chip, head=self.head, token=self.token)


DesignName: TypeAlias = Annotated[str, typer.Option("--design", metavar="DESIGN", help="Chip it is for.")]
Workers: TypeAlias = Annotated[
    int | None,
    typer.Option("--workers", metavar="N", min=1, help="Simulations at a time; by default one a core."),
]


WriteDac: TypeAlias = Annotated[
    Literal["string", "charge"] | None,
    typer.Option("--write-dac", help="Store what this simulated DAC writes; by default ideal levels."),
]
Seed: TypeAlias = Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Of every random choice.")]


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
