"""Programs that parts of this package call, and what to install where one is missing."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gaincell.errors import InputError, SimulationError
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


@dataclass(frozen=True)
class Missing:
    """What cannot be done here.  part: what.  program: that is not on the PATH."""

    part: str
    program: str

    def __str__(self) -> str:
        package = PACKAGES.get(self.program, self.program)
        return (
            f"{self.part} needs {self.program}, which is not installed (there is no program '{self.program}' "
            f"on the PATH): install the package {package} of Debian, Ubuntu or Homebrew"
        )


def missing(*programs: str) -> Missing | None:
    """The first of some programs that is not there."""
    for program in programs:
        if shutil.which(program) is None:
            return Missing(WHAT_FOR[program], program)
    return None


def require(*programs: str) -> None:
    """Raise MissingProgram where one of some programs is not there."""
    if found := missing(*programs):
        raise MissingProgram(str(found))


def run(command: Sequence[str], folder: Path, *, timeout: Second = 600.0) -> str:
    """What a program prints, in a directory; it ends with this one.

    Raises SimulationError: it failed, or took longer than `timeout`; with the end of what it said.
    """
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        said = process.communicate(timeout=timeout)[0].decode("utf-8", "replace")
    except subprocess.TimeoutExpired:
        _stop(process)
        raise SimulationError(f"{command[0]} was stopped after {timeout:g} s; give a smaller head") from None
    except BaseException:
        _stop(process)
        raise
    if process.returncode:
        lines = [line for line in said.splitlines() if line.strip()]
        raise SimulationError(f"{command[0]} failed ({process.returncode}): {' | '.join(lines[-3:])}")
    return said


def _stop(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
