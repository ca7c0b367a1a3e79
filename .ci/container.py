"""Build the image of the Dockerfile and try it; without Docker run its steps in an environment of their own.

    .venv/bin/python .ci/container.py

Without Docker: FROM is compared with the Python versions that are supported; packages of apt must be
installed here; COPY copies the tracked files; other commands run as they are, with the paths of the image
below build/container. What the Python that runs this script has installed is not downloaded again.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "container"
IMAGE = "gaincell-ci"
TRIED = (
    ("--version",),
    ("doctor",),
    ("spice", "characterise", "--cells", "2", "--out", "cell.toml"),
    (
        "adapt",
        "tiny",
        "--limit",
        "1024",
        "--calibration-tokens",
        "1024",
        "--protocol",
        "blocks-128",
        "--out",
        "run",
    ),
)
"""Commands that the image must carry out."""


def main() -> None:
    if shutil.which("docker") and not subprocess.run(["docker", "info"], capture_output=True).returncode:
        run(["docker", "build", "--tag", IMAGE, str(ROOT)])
        for words in TRIED:
            run(["docker", "run", "--rm", IMAGE, *words])
        print("the image was built and tried")
        return
    print("there is no Docker here: the steps are run in an environment of their own", flush=True)
    steps = list(instructions((ROOT / "Dockerfile").read_text(encoding="utf-8")))
    shutil.rmtree(WORK, ignore_errors=True)
    for name, text in steps:
        carry_out(name, text)
    (entry,) = (json.loads(text) for name, text in steps if name == "ENTRYPOINT")
    with_tools = environment()
    for words in TRIED:
        run([*entry, *words], home(), with_tools)
    print("the steps of the Dockerfile were run and tried")


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Name and text of every instruction of a Dockerfile."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        name, _, rest = line.strip().partition(" ")
        yield name, rest.strip()


def carry_out(name: str, text: str) -> None:
    """One instruction. Leaves with an error for one that this script does not know."""
    if name == "FROM":
        check_python(text)
        venv.create(WORK / "venv", with_pip=True)
        lend_packages()
    elif name == "COPY":
        source, target = text.split()
        copy_tracked(source, inside(target))
    elif name == "RUN" and "apt-get install" in text:
        check_packages(text)
    elif name == "RUN" and not text.startswith("useradd"):
        run(["sh", "-ec", re.sub(r"/opt/", f"{WORK}/opt/", text)], home(), environment())
    elif name not in ("RUN", "USER", "WORKDIR", "ENTRYPOINT", "CMD"):
        sys.exit(f"Dockerfile: {name} is not known to .ci/container.py; add it")


def check_python(image: str) -> None:
    """The image's Python is among the supported ones."""
    version = re.search(r"python:(\d+\.\d+)", image)
    stated = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    if version is None or f"Programming Language :: Python :: {version[1]}" not in stated:
        sys.exit(f"Dockerfile: FROM {image} is no Python that pyproject.toml supports")


def lend_packages() -> None:
    """Let the environment see what this Python has, so that pip finds it installed."""
    (own,) = (WORK / "venv").glob("lib/python3*/site-packages")
    (own / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")


def check_packages(text: str) -> None:
    """The packages that apt would install are here."""
    words = shlex.split(text.partition("apt-get install")[2].partition("&&")[0])
    for program in (word for word in words if not word.startswith("-")):  # named as their packages
        if shutil.which(program) is None:
            sys.exit(f"{program} is missing; the Dockerfile installs it with apt-get")


def copy_tracked(source: str, target: Path) -> None:
    """What Docker would copy, of the files that git knows."""
    listed = subprocess.run(["git", "ls-files", source], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target / name)


def inside(path: str) -> Path:
    """A path of the image, below `WORK`."""
    return WORK / path.lstrip("/")


def home() -> Path:
    """The empty folder in which the commands run."""
    (WORK / "home").mkdir(parents=True, exist_ok=True)
    return WORK / "home"


def environment() -> dict[str, str]:
    """With the programs of the environment first."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return kept | {"PATH": f"{WORK / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"}


def run(command: list[str], folder: Path = ROOT, environment: dict[str, str] | None = None) -> None:
    print("$", shlex.join(command), flush=True)
    if subprocess.run(command, cwd=folder, env=environment).returncode:
        sys.exit(f"failed: {shlex.join(command)}")


if __name__ == "__main__":
    main()
