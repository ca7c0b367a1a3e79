"""`gaincell doctor`: what this installation has, what it lacks, and what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sysconfig
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from gaincell.cli._json import JsonFile, command_line, show_result
from gaincell.cli._options import command
from gaincell.errors import InputError

if TYPE_CHECKING:
    from gaincell.results.description import Finding

FLAGS = {"avx2": "avx2", "avx512": "avx512_vnni", "amx": "amx_bf16"}
"""Level of the compiled kernel -> the flag of /proc/cpuinfo that stands for it."""


@command
def doctor(json: JsonFile = None) -> None:
    """Show versions, the compiler, the kernel level in use and why, ngspice, yosys, Verilator and the GPU.

    Exit code 1 if something that every command needs is missing or too old. Include the output when you
    report a problem.

    Example: gaincell doctor

    Example: gaincell doctor --json doctor.json
    """
    from gaincell.reports.tables import Rows
    from gaincell.results.description import InstallationResult
    from gaincell.results.provenance import made

    python = _finding("Python", platform.python_version(), note=platform.platform())
    found = [python, *_packages(), _compiler(), *_kernel(), *_programs(), _gpu(), _machine()]
    state = {True: "ok", False: "problem", None: "–"}
    rows = [(each.part, each.found, state[each.ok], each.note) for each in found]
    table = Rows("", ("part", "found", "", "note"), rows, text=range(4))
    failed = any(each.ok is False for each in found)
    result = InstallationResult(
        provenance=made(command=command_line(), seed=0, protocol="the parts of this installation"),
        ok=not failed,
        findings=tuple(found),
    )
    show_result(result, json, table, passed=not failed)


def _finding(part: str, found: str, note: str = "", ok: bool | None = True) -> Finding:
    from gaincell.results.description import Finding

    return Finding(part, found, note, ok)


def _packages() -> list[Finding]:
    """gaincell, and what its metadata says it needs: always, or for an extra."""
    from packaging.requirements import Requirement

    try:
        needed = [Requirement(line) for line in metadata.requires("gaincell") or ()]
    except metadata.PackageNotFoundError:
        return [_finding("gaincell", "", "not installed; pip install . in the repository", False)]
    found = {
        "gaincell": _finding("gaincell", metadata.version("gaincell"), note=str(Path(__file__).parents[1]))
    }
    extras: list[str] = metadata.metadata("gaincell").get_all("Provides-Extra") or []
    for extra in ("", *(name for name in extras if name not in ("dev", "docs"))):
        for requirement in needed:
            wanted = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
            if wanted and requirement.name not in found:
                found[requirement.name] = _package(requirement.name, requirement.specifier, extra)
    return list(found.values())


def _package(name: str, allowed: object, extra: str) -> Finding:
    """Whether a package is there in an allowed version."""
    advice = f"pip install 'gaincell[{extra}]'" if extra else "pip install --upgrade gaincell"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return _finding(name, "not installed", advice, None if extra else False)
    if version not in allowed:  # type: ignore[operator]  # a SpecifierSet of packaging
        return _finding(name, version, f"{name}{allowed} is needed: {advice}", False)
    return _finding(name, version, note=f"extra {extra}" if extra else "")


def _said(*command: str) -> str:
    """The first line that a program prints of its version."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"cannot be run: {error}"
    return next((line.strip() for line in done.stdout.splitlines() if line.strip(" *")), "says nothing")


def _compiler() -> Finding:
    """The C++ compiler that an installation from source would call."""
    words = (os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "c++").split()
    for name in (words[0] if words else "c++", "c++"):
        if shutil.which(name):
            return _finding("C++ compiler", _said(name, "--version"), note="builds the kernel from source")
    return _finding("C++ compiler", "none", "to build the kernel from source: apt install g++", None)


def _kernel() -> list[Finding]:
    """The compiled attention: the level in use, why that one, and why no higher one."""
    from gaincell.ops.gain_cell_attention.native_library import LEVELS, level_in_use, levels
    from gaincell.results.provenance import cpu_info

    try:
        there = levels()
        level = level_in_use() if there else ""
    except InputError as error:  # of GAINCELL_NATIVE or GAINCELL_INSTRUCTIONS
        return [_finding("compiled kernel", "refused", str(error), False)]
    if not there:
        note = "attention on a CPU runs in plain torch, several times slower; install with a C++ compiler"
        return [_finding("compiled kernel", "none", note, None)]
    named = os.environ.get("GAINCELL_INSTRUCTIONS")
    why = f"GAINCELL_INSTRUCTIONS={named}" if named else "the fastest that build and processor have"
    flags = cpu_info("flags").split()
    absent = [
        f"{name}: {'the build lacks it' if FLAGS[name] in flags else 'the processor lacks it'}"
        for name in LEVELS[len(there) :]
    ]
    return [_finding("compiled kernel", level, note="; ".join([why, *absent]))]


def _programs() -> list[Finding]:
    from gaincell.spice import runner

    missing = {
        "ngspice": "for gaincell spice: apt install ngspice",
        "yosys": "for gaincell rtl and gaincell spice mixed: apt install yosys",
        "verilator": "for gaincell spice mixed, and rtl without Icarus Verilog: apt install verilator",
    }
    versions = {"ngspice": runner.version() if runner.available() else ""}
    for name, option in {"yosys": "-V", "verilator": "--version"}.items():
        versions[name] = _said(name, option) if shutil.which(name) else ""
    return [
        _finding(name, found) if found else _finding(name, "not installed", missing[name], None)
        for name, found in versions.items()
    ]


def _gpu() -> Finding:
    import torch

    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        return _finding("GPU", f"{count} × {torch.cuda.get_device_name(0)}", f"CUDA {torch.version.cuda}")
    if torch.version.cuda is None and torch.version.hip is None:
        return _finding("GPU", "none", f"torch {torch.__version__} was built without CUDA", None)
    return _finding("GPU", "none", "torch finds no GPU; does nvidia-smi?", None)


def _machine() -> Finding:
    from gaincell.results.provenance import hardware

    here = hardware()
    memory = f", {here.memory_bytes / 2**30:.1f} GiB" if here.memory_bytes else ""
    return _finding("machine", f"{here.cores} cores{memory}", note=f"{here.cpu}; torch uses {here.threads}")
