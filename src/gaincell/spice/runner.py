"""ngspice as a program.

Every netlist is run in a temporary directory of its own, in batch mode, with its files beside it. What it
prints is told apart: warnings are kept, and given as Python's own (SimulationWarning); errors, a missing
result and parameters of a model that ngspice would ignore are failures. Nothing is left behind.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from gaincell.errors import SimulationError
from gaincell.progress import Progress, silent
from gaincell.spice.netlists.netlist import Netlist
from gaincell.spice.rawfile import Plot, read_raw
from gaincell.units import Second

PROGRAM = "ngspice"
MISSING = (
    "ngspice is not installed (there is no program 'ngspice' on the PATH); install it: package 'ngspice' of "
    "Debian, Ubuntu and Fedora, formula 'ngspice' of Homebrew. Everything else of gaincell works without it"
)
ERRORS = re.compile(
    r"^.*(error|fatal|singular matrix|timestep too small|no convergence|aborted|unknown model|could not find"
    r"|can't find|incomplete or empty netlist|unable to find definition|no such file).*$",
    re.IGNORECASE | re.MULTILINE,
)
DETAILS = re.compile(
    r"^.*(undefined|expression err|cannot|unknown|illegal|unrecognized).*$", re.IGNORECASE | re.MULTILINE
)
"""Lines that explain a failure, and are none by themselves."""
IGNORED = re.compile(r"unrecognized parameter \(([^)]*)\)", re.IGNORECASE)
ROUNDING = "toxe != toxp + dtox"
"""A warning about 1.17e-9 and 1e-9 + 0.17e-9: BSIM4 compares the sum to the last bit. It changes nothing."""
HARMLESS = re.compile(r"reference value|^\s*(Note|Warning)\b", re.IGNORECASE)
SHOWN = 3


class SimulationWarning(UserWarning):
    """What ngspice warned of."""


@dataclass(frozen=True)
class Simulation:
    """What one netlist gave.

    Attributes:
        plot: Its last analysis, usually the only one.
        warnings: What ngspice warned of, one line each.
    """

    plot: Plot
    warnings: tuple[str, ...]


def available() -> bool:
    """Whether there is an ngspice."""
    return shutil.which(PROGRAM) is not None


@functools.lru_cache(maxsize=1)
def version() -> str:
    """The version of ngspice, such as "ngspice-44.2".

    Raises:
        SimulationError: there is no ngspice.
    """
    if not available():
        raise SimulationError(MISSING)
    out = subprocess.run(
        [PROGRAM, "--version"], capture_output=True, text=True, timeout=60, check=False
    ).stdout
    found = re.search(r"ngspice-[\w.]+", out)
    return found[0] if found else "ngspice of unknown version"


def run(netlist: Netlist, *, timeout: Second = 600.0) -> Simulation:
    """Simulate one netlist.

    Args:
        netlist: Circuit and analysis.
        timeout: Seconds of wall clock after which ngspice is stopped.

    Raises:
        SimulationError: no ngspice, a model card it cannot read, no convergence, a killed or stopped run, a
            result cut short; with what ngspice said.
    """
    found = _run(netlist, timeout, [], threading.Event())
    _warn([found])
    return found


def _warn(found: Sequence[Simulation]) -> None:
    """Every warning once, from the thread that asked."""
    for text in dict.fromkeys(text for simulation in found for text in simulation.warnings):
        warnings.warn(text, SimulationWarning, stacklevel=3)


def _run(
    netlist: Netlist, timeout: Second, started: list[subprocess.Popen[bytes]], ended: threading.Event
) -> Simulation:
    """As `run`; the process is appended to `started`, so that another thread can stop it, having set `ended`
    first; a process that starts after that stops itself.
    """
    if not available():
        raise SimulationError(MISSING)
    with tempfile.TemporaryDirectory(prefix="gaincell-spice-") as name:
        folder = Path(name)
        for file, text in netlist.files.items():
            (folder / file).write_text(text, encoding="utf-8")
        for file, path in netlist.libraries.items():
            shutil.copy(path, folder / file)
        (folder / "circuit.cir").write_text(netlist.text, encoding="utf-8")
        kit = any(text.startswith((".include", ".lib")) for text in netlist.files.values())
        # A user's ~/.spiceinit may change what the cards mean; a kit may need it.
        alone = [] if kit else ["-n"]
        command = [PROGRAM, *alone, "-b", "-r", "out.raw", "-o", "log.txt", "circuit.cir"]
        try:
            with process_group(command, folder, OMP_NUM_THREADS="1", SPICE_ASCIIRAWFILE="0") as process:
                started.append(process)
                if ended.is_set():
                    _stop(process)
                printed = process.communicate(timeout=timeout)[0].decode("utf-8", "replace")
        except subprocess.TimeoutExpired:
            raise SimulationError(
                f"{netlist.title}: stopped after {timeout:g} s; simulate fewer columns or shorter "
                "lines; with models of your own, see whether --nodes is the order of their nodes"
            ) from None
        log = folder / "log.txt"
        said = printed + (log.read_text(encoding="utf-8", errors="replace") if log.exists() else "")
        return _result(netlist, process.returncode, said, folder / "out.raw")


@contextlib.contextmanager
def process_group(
    command: Sequence[str], folder: Path, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A program in a directory; it and all that it started are killed if the block ends in an exception."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    except BaseException:
        _stop(process)
        raise


def _stop(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _result(netlist: Netlist, code: int, said: str, raw: Path) -> Simulation:
    said = re.sub(r"(?m)^\s*Circuit:.*$", "", said)  # the title, which may hold any word
    errors = [m.group(0).strip() for m in ERRORS.finditer(said) if not HARMLESS.search(m.group(0))]
    details = [m.group(0).strip() for m in DETAILS.finditer(said)]
    reason = "; ".join(list(dict.fromkeys(errors + details))[:SHOWN]) or "ngspice said nothing about why"
    if code < 0:
        raise SimulationError(f"{netlist.title}: ngspice was killed (signal {-code}); is there memory left?")
    if code != 0 or not raw.exists() or errors:
        raise SimulationError(f"{netlist.title}: the simulation failed: {reason}")
    if ignored := list(dict.fromkeys(IGNORED.findall(said))):
        raise SimulationError(
            f"{netlist.title}: the models have parameters that ngspice does not know and would ignore: "
            f"{', '.join(ignored[: 2 * SHOWN])}; correct their names, or remove them from the models"
        )
    plot = read_raw(raw.read_bytes(), netlist.title)[-1]
    if netlist.stop_time is not None:
        reached = float(plot["time"][-1])
        if reached < netlist.stop_time * (1 - 1e-6):
            raise SimulationError(
                f"{netlist.title}: the transient ended at {reached:.4g} s, not {netlist.stop_time:.4g} s: "
                f"no convergence; {reason}"
            )
    return Simulation(plot, _warnings(said))


def _warnings(said: str) -> tuple[str, ...]:
    """Lines that begin with "Warning", each with the lines that explain it: to the next empty one."""
    found: list[str] = []
    explains = False
    for line in (line.strip() for line in said.splitlines()):
        if line.startswith("Warning"):
            found.append(line)
            explains = line.endswith(":")
        elif explains and line:
            found[-1] += f" {line}"
        else:
            explains = False
    return tuple(dict.fromkeys(text for text in found if ROUNDING not in text))


def run_many(
    netlists: Sequence[Netlist],
    *,
    jobs: int | None = None,
    timeout: Second = 600.0,
    progress: Progress = silent,
) -> list[Simulation]:
    """Simulate several netlists at once; results in their order. The first failure stops the rest.

    Args:
        netlists: Circuits and analyses.
        jobs: How many at a time; None: as many as this process may use cores.
        timeout: Of each, s.
        progress: Called after every one.
    """
    jobs = jobs or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    found: dict[int, Simulation] = {}
    progress(0, len(netlists), {})
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        started: list[subprocess.Popen[bytes]] = []
        ended = threading.Event()
        futures = {
            pool.submit(_run, netlist, timeout, started, ended): n for n, netlist in enumerate(netlists)
        }
        try:
            for future in as_completed(futures):
                found[futures[future]] = future.result()
                progress(len(found), len(netlists), {})
        except BaseException:
            ended.set()
            pool.shutdown(wait=False, cancel_futures=True)
            for process in started:
                if process.poll() is None:
                    _stop(process)
            raise
    done = [found[n] for n in range(len(netlists))]
    _warn(done)
    return done
