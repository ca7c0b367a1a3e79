"""Build the source distribution and both wheels, check what is in them, install and try each as a new user.

    python .ci/wheels.py [--out DIRECTORY] [--python VERSION ...] [--build-only]        (make wheels)

1. The tracked files are copied aside; from the copy the sdist is built, and from the unpacked sdist the
   wheels: a pure one (py3-none-any, without the compiled kernel) and one of this platform with it.
2. Their contents are compared with the tracked files: nothing missing, nothing else; licences inside.
3. For every supported Python on this machine a fresh environment: the pure wheel with all that it depends
   on, then the platform wheel, and for the first of them the sdist with CC and CXX pointing nowhere. After
   each the commands run in an empty folder, and the time to the first result is printed.

Needs git, a C++ compiler, the network for pip. Pythons that are not here are named and skipped.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "wheels"
NOT_IN_SDIST = {".gitignore", ".pre-commit-config.yaml"}
REPOSITORY_ONLY = "adapters/smollm2-135m-extended/"
OF_SDIST = re.compile(r"PKG-INFO|setup\.cfg|src/gaincell\.egg-info/.*")
SOURCE_ONLY = re.compile(r"src/gaincell/(native/.*\.(cpp|h)|devices/README\.md)")
SHIPPED = ("adapters/", "recipes/", "docs/data/", "docs/results/")
LICENCES = {"LICENSE", "THIRD_PARTY.md", "src/gaincell/spice/models/NOTICE"}
LARGEST_MB = 100
"""What a package index takes without asking."""
SLOWEST = 180
"""Seconds to the first result, of the clock or of the processor where other programs share it."""
FIRST = ("map", "tiny", "--budget", "4096", "--out", "run")
"""The first result, of the main job: the embedded model in software and on the hardware, trained a little."""
WITH_RUN = (
    ("generate", "run", "--prompt", "It was", "--tokens", "16"),
    ("report", "run", "adapters/smollm2-135m", "--out", "report.html"),
)
"""What is done with the RUN, tried with the kernel."""
COMMANDS = (
    ("--version",),
    ("--help",),
    ("design", "list"),
    ("generate", "tiny", "--prompt", "It was", "--tokens", "16"),
    ("simulate", "head", "--tokens", "64"),
    ("report", "adapters/smollm2-135m", "--out", "report.html"),
    ("train", "recipes/tiny.toml", "--dry-run"),
    ("cost", "gpt2"),
)
PROBE = """
import json, gaincell
from importlib.metadata import entry_points, version
from gaincell.integrations.hf.run import Run
from gaincell.ops.gain_cell_attention.native_library import levels
from gaincell.resources import available
assert version("gaincell") == gaincell.__version__
assert "gaincell" in entry_points(group="lm_eval.models").names
assert available() and all(Run(name).saved for name in available()), available()
print(json.dumps(list(levels())))
"""


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument(
        "--out",
        type=Path,
        default=ROOT / "dist",
        help="where the archives go, instead of earlier ones (dist)",
    )
    asked.add_argument("--python", action="append", help="try this version only, such as 3.12; repeatable")
    asked.add_argument("--build-only", action="store_true", help="build and check, install nothing")
    given = asked.parse_args()
    shutil.rmtree(WORK, ignore_errors=True)
    tools = environment(WORK / "tools", sys.executable)
    run([tools, "-m", "pip", "install", "--quiet", "build", "twine"])
    sdist, pure, native = build(tools, given.out.resolve())
    check(sdist, pure, native)
    run([tools, "-m", "twine", "check", "--strict", *map(str, (sdist, pure, native))])
    if given.build_only:
        return
    found = pythons()
    wanted = given.python or list(found)
    for missing in sorted(set(wanted) | set(supported()) - set(found), key=number):
        if missing not in found:
            print(f"skipped: Python {missing} is not on this machine", flush=True)
    tried = [version for version in wanted if version in found]
    if not tried:
        sys.exit("no supported Python was found; nothing was installed")
    for position, version in enumerate(tried):
        try_out(version, found[version], pure, native, sdist if position == 0 else None)
    print(f"{len(tried)} passed, 0 failed: Python {', '.join(tried)}")


def build(tools: Path, out: Path) -> tuple[Path, Path, Path]:
    """The sdist, the pure wheel and the wheel of this platform."""
    copy = WORK / "tracked"
    for name in tracked():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    out.mkdir(parents=True, exist_ok=True)
    for earlier in (*out.glob("gaincell-*.tar.gz"), *out.glob("gaincell-*.whl")):
        earlier.unlink()
    run([tools, "-m", "build", "--sdist", "--outdir", str(out), str(copy)], quiet=True)
    (sdist,) = out.glob("gaincell-*.tar.gz")
    wheels = []
    for name, flag in (("pure", "1"), ("native", "0")):
        place = WORK / name
        with tarfile.open(sdist) as archive:
            archive.extractall(place, filter="data")
        (unpacked,) = place.iterdir()
        before = set(out.glob("*.whl"))
        run(
            [tools, "-m", "build", "--wheel", "--outdir", str(out), str(unpacked)],
            {"GAINCELL_PURE": flag},
            quiet=True,
        )
        wheels += set(out.glob("*.whl")) - before
    return sdist, wheels[0], wheels[1]


def check(sdist: Path, pure: Path, native: Path) -> None:
    """Compare the contents of the archives with the tracked files; leave with a list of what is wrong."""
    names = {name for name in tracked() if not name.startswith(REPOSITORY_ONLY)}
    with tarfile.open(sdist) as archive:
        held = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    expected = names - NOT_IN_SDIST
    wrong = differences(sdist.name, expected, {name for name in held if not OF_SDIST.fullmatch(name)})
    package = {
        name.removeprefix("src/")
        for name in names
        if name.startswith("src/") and not SOURCE_ONLY.fullmatch(name)
    }
    package |= {f"gaincell/assets/{name}" for name in names if name.startswith(SHIPPED)}
    for wheel in (pure, native):
        with zipfile.ZipFile(wheel) as archive:
            held = {entry.filename for entry in archive.infolist() if not entry.is_dir()}
        info = {name for name in held if ".dist-info/" in name}
        kernel = {name for name in held if re.fullmatch(r"gaincell/native/_native\.[\w.-]*(so|pyd)", name)}
        wrong += differences(wheel.name, package, held - info - kernel)
        inside = {name.partition("/licenses/")[2] for name in info if "/licenses/" in name}
        wrong += [f"{wheel.name} lacks the licence file {name}" for name in sorted(LICENCES - inside)]
        if bool(kernel) != (wheel == native):
            wrong.append(f"{wheel.name} holds {sorted(kernel) or 'no compiled kernel'}")
    wrong += [] if pure.name.endswith("-py3-none-any.whl") else [f"{pure.name} is not called py3-none-any"]
    for path in (sdist, pure, native):
        size = path.stat().st_size / 1e6
        print(f"{path.name}: {size:.1f} MB", flush=True)
        wrong += [f"{path.name} has {size:.0f} MB, over {LARGEST_MB}"] if size > LARGEST_MB else []
    if wrong:
        sys.exit("\n".join(wrong))


def differences(archive: str, expected: set[str], held: set[str]) -> list[str]:
    """What is missing in an archive and what it should not hold."""
    missing = [f"{archive} lacks {name}" for name in sorted(expected - held)]
    return missing + [f"{archive} holds {name}, which is no tracked file" for name in sorted(held - expected)]


def try_out(version: str, python: str, pure: Path, native: Path, sdist: Path | None) -> None:
    """Install into one fresh environment, one archive after the other, and run the commands after each."""
    print(f"== Python {version}", flush=True)
    place = environment(WORK / "environments" / version, python)
    seconds, _ = timed([place, "-m", "pip", "install", "--quiet", str(pure)])
    print(f"installed {pure.name} and what it depends on: {seconds:.0f} s", flush=True)
    first = smoke(place, WORK / "tries" / version / "pure", COMMANDS)
    print(f"{first}, without the kernel", flush=True)
    again = [place, "-m", "pip", "install", "--quiet", "--force-reinstall", "--no-deps"]
    run([*again, str(native)])
    if not probe(place):
        sys.exit(f"{native.name} is installed, but its kernel cannot be loaded")
    faster = smoke(place, WORK / "tries" / version / "native", WITH_RUN)
    print(f"{faster}, kernel: {', '.join(probe(place))}", flush=True)
    if sdist is not None:
        nowhere = {"CC": "/nowhere/cc", "CXX": "/nowhere/c++"}
        run([*again, str(sdist)], nowhere)
        if probe(place):
            sys.exit("the sdist was to be installed without a compiler, but there is a kernel")
        smoke(place, WORK / "tries" / version / "sdist", ())
        print("installed from the sdist without a compiler", flush=True)


def smoke(python: Path, folder: Path, commands: Iterable[Sequence[str]]) -> str:
    """Run commands in an empty folder; returns the seconds to the first result, in words."""
    folder.mkdir(parents=True)
    gaincell = str(python.with_name("gaincell"))
    probe(python)
    seconds, worked = timed([gaincell, *FIRST], folder)
    told = f"first result after {seconds:.0f} s ({worked:.0f} s of the processor)"
    if min(seconds, worked) > SLOWEST:
        sys.exit(f"{told}, over {SLOWEST}")
    for command in commands:
        run([gaincell, *command], folder=folder, quiet=True)
        print(f"tried: gaincell {' '.join(command)}", flush=True)
    return told


def probe(python: Path) -> list[str]:
    """The levels of the kernel, after looking at version and shipped adapters."""
    found = subprocess.run(
        [str(python), "-c", PROBE], cwd=WORK, env=clean({}), check=True, stdout=subprocess.PIPE, text=True
    )
    return re.findall(r"\w+", found.stdout)


def supported() -> list[str]:
    """The versions that the classifiers name."""
    return re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())


def pythons() -> dict[str, str]:
    """Version -> interpreter, of those supported that are on this machine and can make environments."""
    found = {}
    for version in supported():
        for name in (shutil.which(f"python{version}"), *installed(version)):
            if name and subprocess.run([name, "-c", "import ensurepip"], capture_output=True).returncode == 0:
                found[version] = name
                break
    return found


def installed(version: str) -> list[str]:
    """Interpreters that pyenv keeps."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    return [str(path) for path in sorted(root.glob(f"versions/{version}.*/bin/python"))]


def number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def environment(place: Path, python: str) -> Path:
    """A fresh virtual environment; its interpreter."""
    run([python, "-m", "venv", str(place)])
    return place / "bin" / "python"


@lru_cache
def tracked() -> list[str]:
    """Files of the repository."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def clean(more: Mapping[str, str]) -> dict[str, str]:
    """The environment without what would let a checkout or the kernel of another build shine through."""
    hidden = ("PYTHONPATH", "GAINCELL_NATIVE", "GAINCELL_PURE", "VIRTUAL_ENV")
    return {name: text for name, text in os.environ.items() if name not in hidden} | dict(more)


def run(
    command: Iterable[object], more: Mapping[str, str] | None = None, folder: Path = ROOT, quiet: bool = False
) -> None:
    """Run a command; where it fails, show what it printed and leave."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words,
        cwd=folder,
        env=clean(more or {}),
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{done.stdout or ''}\n{' '.join(words)} ended with {done.returncode}")


def timed(command: Iterable[object], folder: Path = ROOT) -> tuple[float, float]:
    """Run a command; seconds of the clock, and of the processor in it and what it started."""
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    run(command, folder=folder)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    worked = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - start, worked


if __name__ == "__main__":
    main()
