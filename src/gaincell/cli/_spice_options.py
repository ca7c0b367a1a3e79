"""What the commands of `gaincell spice` share: options for models and corner, and how they run."""

from __future__ import annotations

import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from gaincell.cli._options import check_needed, chip_of, flag, option
from gaincell.errors import InputError
from gaincell.progress import StageProgress

if TYPE_CHECKING:
    from gaincell.chips.design import Design
    from gaincell.results.common import Result
    from gaincell.spice.inputs import Inputs
    from gaincell.spice.technology import Corner, Technology

R = TypeVar("R", bound="Result")
OF_LIBRARY = ("--section", "--nmos", "--pmos", "--subcircuits", "--nodes")
"""Options that --lib must accompany."""


@dataclass(frozen=True)
class ModelOptions:
    """Transistor models."""

    technology: Annotated[str, option("freepdk45, generic28 or oxide.", "NAME")] = "freepdk45"
    lib: Annotated[Path | None, option("Your own models instead; with --nmos and --pmos.", "FILE")] = None
    section: Annotated[
        str | None, option("Section of --lib, if it has sections; also its corner.", "SECTION")
    ] = None
    nmos: Annotated[str, option("Name of the n transistor in --lib.", "NAME")] = "nmos"
    pmos: Annotated[str, option("Name of the p transistor in --lib.", "NAME")] = "pmos"
    subcircuits: Annotated[
        bool, flag("--subcircuits", "Transistors of --lib are subcircuits with w and l.")
    ] = False
    nodes: Annotated[str, option("Order of the transistors' nodes: letters d g s b.", "LETTERS")] = "dgsb"
    vdd: Annotated[float, option("Nominal supply of --lib.", "VOLTS")] = 0.9

    def load(self, context: typer.Context) -> Technology:
        """The technology.

        Raises:
            InputError: the options do not fit, or name no models.
        """
        from gaincell.spice.technology import technology, user_technology

        check_needed(context, OF_LIBRARY, "--lib FILE", self.lib)
        check_needed(context, ("--vdd",), "--lib FILE; use --supply FACTOR without it", self.lib)
        if self.lib is not None:
            return user_technology(
                self.lib, self.nmos, self.pmos, section=self.section, subcircuits=self.subcircuits,
                nodes=self.nodes, vdd=self.vdd, like=self.technology,
            )  # fmt: skip
        return technology(self.technology)


DesignName = Annotated[str, option("Chip to simulate for.", "DESIGN")]
Workers = Annotated[int | None, option("Simulations at a time; by default one per core.", "N", min=1)]
Seed = Annotated[int, option("Seed of every random choice.", "N", min=0)]


@dataclass(frozen=True)
class Circuits:
    """What is simulated, and where it operates."""

    models: ModelOptions = field(default_factory=ModelOptions)
    process: Annotated[str, option("Corner: nominal, fast or slow; with --lib use --section.", "CORNER")] = (
        "nominal"
    )
    celsius: Annotated[float, option("Temperature of the circuit.", "DEGREES")] = 27.0
    supply: Annotated[float, option("Factor on VDD, for instance 0.9.", "X")] = 1.0
    design: DesignName = "leroux2025"

    def load(self, context: typer.Context) -> tuple[Design, Technology, Corner]:
        """The chip, the transistors and the corner.

        Raises:
            GaincellError: the options do not fit, or name no models.
        """
        from gaincell.spice.technology import Corner

        chip, where = chip_of(self.design), Corner(self.process, self.celsius, self.supply)
        return chip, self.models.load(context), where


@dataclass(frozen=True)
class DumpOptions:
    """What is taken of a file of gaincell evaluate --dump."""

    head: Annotated[int, option("Head of FILE (--inputs).", "N", min=0)] = 0
    token: Annotated[
        int | None, option("Token of FILE (--inputs) whose query is used; by default the last.", "N", min=0)
    ] = None

    def read(self, file: str | Path, chip: Design) -> Inputs:
        """Its codes.

        Raises:
            InputError: it is no such file, or has no such head or token.
        """
        from gaincell.spice.inputs import real_inputs

        return real_inputs(file, chip, head=self.head, token=self.token)

    def read_all(self, files: Sequence[Path], chip: Design) -> list[Inputs]:
        """The codes of every file; of several, named by their files.

        Raises:
            InputError: a file is given twice, or is no such file.
        """
        if len(set(files)) < len(files):
            raise InputError(f"--inputs {' '.join(map(str, files))}: a file is given twice; give each once")
        found = [self.read(file, chip) for file in files]
        if len(files) < 2:
            return found
        return [
            replace(one, name=f"{one.name}: {file}", origin={str(file): sha for sha in one.origin.values()})
            for file, one in zip(files, found, strict=True)
        ]


def with_design_file(result: R, design: str) -> R:
    """The result, with the hash of a design's file in its provenance."""
    from gaincell.chips.design_file import inputs_of_design

    made = result.provenance
    return replace(result, provenance=replace(made, inputs={**made.inputs, **inputs_of_design(design)}))


@contextmanager
def simulating() -> Iterator[StageProgress]:
    """Progress bars; simulations end with the command, by SIGTERM too; every warning of ngspice once."""
    from gaincell.cli._progress import progress_bars
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
