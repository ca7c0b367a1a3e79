"""How a result came about. Paths of the machine are left out: files appear by base name and content hash."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from gaincell import __version__
from gaincell.results.common import Hardware, Provenance

if TYPE_CHECKING:
    from torch import Tensor


def made(
    *,
    command: Sequence[str],
    seed: int,
    protocol: str,
    design_hash: str | None = None,
    inputs: Mapping[str, str] | None = None,
) -> Provenance:
    """How results came about: design, versions, commit, seed, hardware, protocol, command, date.

    Args:
        command: The command line; paths in it are reduced to base names.
        seed: Of every random choice.
        protocol: Of the evaluation, in words.
        design_hash: Of the design.
        inputs: Name (no path) -> content hash of base model, text, ...
    """
    packages = {package: metadata.version(package) for package in ("torch", "transformers")}
    return Provenance(
        command=" ".join(without_paths(command)),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        design_hash=design_hash,
        inputs=dict(inputs or {}),
        seed=seed,
        protocol=protocol,
        versions={"python": platform.python_version(), "gaincell": __version__, **packages},
        commit=_commit(),
        hardware=hardware(),
    )


def without_paths(command: Sequence[str]) -> list[str]:
    """The command line with every path reduced to its base name; hub ids (owner/name) stay."""
    shown: list[str] = []
    option = ""
    for argument in command:
        named = argument.startswith("--") or option == "--set" or re.match(r"[^-/\\=]+=", argument)
        name, equals, rest = argument.partition("=") if named else ("", "", argument)
        kept = _without_path(rest, option in ("--out", "--json", "--dump")) if rest else ""
        shown.append(f"{name}{equals}{kept}")
        option = argument if argument.startswith("--") else ""
    return shown


def _without_path(argument: str, is_path: bool) -> str:
    looks_like = argument.startswith(("/", "./", "../", "~")) or "\\" in argument or argument.count("/") > 1
    if is_path or looks_like or (os.sep in argument and Path(argument).exists()):
        return re.split(r"[/\\]", argument.rstrip("/\\"))[-1] or argument[:1]
    return argument


def hash_of(ids: Tensor | list[str]) -> str:
    """12 hexadecimal digits of the SHA-256 of some token ids (a tensor), as int32, or of texts."""
    if isinstance(ids, list):
        return hashlib.sha256("\0".join(ids).encode()).hexdigest()[:12]
    return hashlib.sha256(ids.cpu().int().numpy().tobytes()).hexdigest()[:12]


def code() -> str:
    """Which gaincell this is: the commit of its source tree, else the version installed."""
    return _commit() or metadata.version("gaincell")


def _commit() -> str | None:
    """The git commit of gaincell's own source tree, with "+" when it has changes; None when installed."""
    here = Path(__file__).resolve()
    if here.parents[2].name != "src" or not (here.parents[3] / ".git").exists():
        return None
    git = partial(subprocess.run, cwd=here.parents[3], capture_output=True, text=True, timeout=10)
    try:
        head = git(["git", "rev-parse", "HEAD"])
        changed = git(["git", "status", "--porcelain", "--", "src"])
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "") if head.returncode == 0 else None


def hardware() -> Hardware:
    """CPU model, cores this process may use, memory, and the accelerator if torch has one."""
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Hardware(
        cpu=cpu_info("model name") or platform.processor() or platform.machine(),
        cores=cores,
        threads=torch.get_num_threads(),
        memory_bytes=memory,
        accelerator=torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        processes=launched("WORLD_SIZE"),
    )


def launched(count: str) -> int | None:
    """How many processes torchrun started, also for `accelerate launch`: WORLD_SIZE, or LOCAL_WORLD_SIZE of
    this node. None where it did not: others set these variables, too.
    """
    return int(os.environ[count]) if "TORCHELASTIC_RUN_ID" in os.environ else None


def cpu_info(key: str) -> str:
    """What Linux says of the first processor, such as its "model name" or "flags"; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")
