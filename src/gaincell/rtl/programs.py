"""Programs that parts of this package call, and what to install where one is missing."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from gaincell.errors import InputError, SimulationError
from gaincell.spice.runner import process_group
from gaincell.units import Second

WHAT_FOR = {
    "yosys": "Verilog",
    "yosys-smtbmc": "a proof",
    "z3": "a proof",
    "verilator": "simulating Verilog",
    "iverilog": "simulating Verilog",
    "g++": "compiling Verilog for ngspice",
    "make": "compiling Verilog for ngspice",
}
"""What each is needed for."""
PACKAGES = {"yosys-smtbmc": "yosys"}
"""Packages of Debian and Ubuntu that are named otherwise than their program."""


class MissingProgram(InputError):
    """A program is not installed."""


def missing(*programs: str) -> str:
    """What to install for the first of some programs that is not there; empty if all are."""
    for program in programs:
        if shutil.which(program) is None:
            return (
                f"{WHAT_FOR[program]} needs {program}, which is not installed (there is no program "
                f"'{program}' on the PATH): install the package {PACKAGES.get(program, program)} of Debian, "
                "Ubuntu or Homebrew"
            )
    return ""


def require(*programs: str) -> None:
    """Raise MissingProgram where one of some programs is not there."""
    if found := missing(*programs):
        raise MissingProgram(found)


@contextmanager
def workplace(files: Mapping[str, str]) -> Iterator[Path]:
    """A temporary directory with these texts in it, by name of the file."""
    with tempfile.TemporaryDirectory(prefix="gaincell-rtl-") as name:
        folder = Path(name)
        for file, text in files.items():
            (folder / file).write_text(text, encoding="utf-8")
        yield folder


def run(command: Sequence[str], folder: Path, *, timeout: Second = 600.0) -> str:
    """What a program prints, in a directory; it ends with this one.

    Raises:
        SimulationError: it failed, or took longer than `timeout`; with the end of what it said.
    """
    try:
        with process_group(command, folder) as process:
            said = process.communicate(timeout=timeout)[0].decode("utf-8", "replace")
    except subprocess.TimeoutExpired:
        raise SimulationError(f"{command[0]} was stopped after {timeout:g} s; give a smaller head") from None
    if process.returncode:
        lines = [line for line in said.splitlines() if line.strip()]
        said = " | ".join(lines[-3:]) or "it said nothing; was it killed, or out of memory?"
        raise SimulationError(f"{command[0]} failed ({process.returncode}): {said}")
    return said
