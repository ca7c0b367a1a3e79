"""The compiled attention is built where there is a compiler, survives forks, and is gaincell's own."""

import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from ctypes import CDLL
from pathlib import Path

import pytest
import torch

from gaincell.chips.design_file import load_design
from gaincell.circuits.sinks import Sinks
from gaincell.errors import InputError
from gaincell.ops.gain_cell_attention import gain_cell_attention, native_library

ROOT = Path(__file__).parents[1]
NATIVE = ROOT / "src" / "gaincell" / "native"
COMPILER = shutil.which(os.environ.get("CXX", "c++"))
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")
needs_kernel = pytest.mark.skipif(not native_library.levels(), reason="the kernel was not built")

OBJDUMP = shutil.which("objdump")

FORKS = """
import os, sys, threading, time
import torch
from gaincell.chips.design_file import load_design
from gaincell.ops.gain_cell_attention import gain_cell_attention, native_library

torch.set_num_threads(1)
native_library.threads_for = lambda cells: THREADS
design = load_design("leroux2025")
q, k, v = torch.rand(3, 1, 2, 300, 64)

def compute():
    with torch.no_grad():
        gain_cell_attention(q, k, v, design, backend="native")

def go_on():
    while True:
        compute()

compute()
threading.Thread(target=go_on, daemon=True).start()
for n in range(40):
    time.sleep(0.002 * (n % 5))
    child = os.fork()
    if child == 0:
        compute()
        os._exit(0)
    until = time.monotonic() + 120
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        if time.monotonic() > until:
            os.kill(child, 9)
            print("child", n, "hangs", flush=True)
            os._exit(1)
        time.sleep(0.001)
os._exit(0)
"""


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


@needs_compiler
def test_the_kernel_is_built_where_there_is_a_compiler() -> None:
    assert native_library.compiled_library() is not None
    assert "portable" in native_library.levels()


@pytest.mark.slow
@needs_compiler
def test_no_size_overflows_in_its_own_check(tmp_path: Path) -> None:
    assert COMPILER is not None
    program = tmp_path / "sizes"
    flags = [
        "-std=c++17",
        "-O1",
        "-fsanitize=undefined",
        "-fno-sanitize-recover=all",
        "-pthread",
        f"-I{NATIVE}",
    ]
    sources = [str(ROOT / "tests" / "sizes.cpp"), str(NATIVE / "dispatch.cpp")]
    built = subprocess.run([COMPILER, *flags, *sources, "-o", str(program)], capture_output=True, check=False)
    if built.returncode and b"ubsan" in built.stderr:
        pytest.skip("the compiler has no sanitizer of undefined behaviour")
    assert built.returncode == 0, built.stderr.decode()
    found = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


def innermost_loops(library: Path, symbol: str) -> Iterator[list[tuple[str, str]]]:
    """(operation, operands) of the instructions of every loop without a branch, in functions that match."""
    assert OBJDUMP is not None
    command = [OBJDUMP, "--disassemble", "--no-show-raw-insn", str(library)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for function in re.split(r"\n\n", listing):
        if not re.search(symbol, function.split("\n", 1)[0]):
            continue
        straight: list[tuple[int, str, str]] = []  # since the last branch
        for place, operation, operands in re.findall(r"(?m)^ *([0-9a-f]+):\t(\S+) *(.*)$", function):
            straight.append((int(place, 16), operation, operands))
            if not operation.startswith("j"):
                continue
            target = re.match(r"[0-9a-f]+", operands)
            begin = int(target[0], 16) if target else -1
            if straight[0][0] <= begin <= straight[-1][0]:
                yield [(o, rest) for at, o, rest in straight if at >= begin]
            straight = []


@needs_kernel
@pytest.mark.skipif(OBJDUMP is None, reason="there is no objdump")
@pytest.mark.parametrize(
    ("level", "function"),
    [
        *(("avx2", "backward"), ("avx512", "backward"), ("amx", "backward")),
        *(("avx512", "multiply_pairs_bf16"), ("amx", "multiply_pairs_bf16"), ("avx512", "forward_block")),
    ],
)
def test_products_keep_their_sums_in_registers(level: str, function: str) -> None:
    library = next(NATIVE.glob("_native*"))
    if not re.search(rb"gc%d%b\w*%b" % (len(level), level.encode(), function.encode()), library.read_bytes()):
        pytest.skip("this level has no such function, or symbols were stripped")
    products = 0
    for loop in innermost_loops(library, rf"gc{len(level)}{level}\w*{function}"):
        sums = sum(operation.startswith(("vfmadd", "vdpbf16", "vpdpbusd")) for operation, _ in loop)
        if sums not in (8, 16):  # of a register block
            continue
        products += 1
        stores = [x for x in loop if x[0].startswith("vmov") and re.match(r"%[yz]mm\d+,.*\(", x[1])]
        assert not stores, f"{len(stores)} of {len(loop)} instructions store sums"
    assert products >= (4 if function == "backward" else 1)


@pytest.mark.slow
@needs_kernel
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes do not fork here")
@pytest.mark.parametrize("threads", [1, 3])
def test_a_fork_while_another_thread_computes_leaves_a_child_that_computes(threads: int) -> None:
    """Also one whose kernel has threads of its own, which a child does not have."""
    found = run(f"THREADS = {threads}\n{FORKS}", OMP_NUM_THREADS="1")
    assert found.returncode == 0, found.stdout + found.stderr


@needs_kernel
@pytest.mark.parametrize("sinks", [0, 4])
def test_a_call_leaves_no_autocast_that_was_not_on(sinks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaving it takes a lock of torch, which a child forked by another thread would find taken for ever."""

    def taken() -> None:
        raise AssertionError("it takes the lock of autocast's casts")

    monkeypatch.setattr(torch, "clear_autocast_cache", taken)
    q, k, v = torch.rand(3, 1, 2, 20, 64)
    design = load_design("leroux2025").replace(sinks=Sinks(tokens=sinks))
    assert gain_cell_attention(q, k, v, design).isfinite().all()


def loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> CDLL | None:
    """The kernel that GAINCELL_NATIVE=folder gives, whatever this process has loaded before."""
    monkeypatch.setenv("GAINCELL_NATIVE", str(folder))
    return native_library.compiled_library.__wrapped__()


@needs_kernel
def test_another_kernel_is_named_when_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    library = shutil.copy(next(NATIVE.glob("_native*")), tmp_path)
    caplog.set_level(logging.WARNING, "gaincell")  # whatever other libraries have set for all loggers
    monkeypatch.setattr(logging.getLogger("gaincell"), "disabled", False)
    assert loaded(tmp_path, monkeypatch) is not None
    assert caplog.messages == [f"GAINCELL_NATIVE: the compiled kernel is {library}"]
    monkeypatch.delenv("GAINCELL_NATIVE")
    assert native_library.compiled_library.__wrapped__() is not None
    assert len(caplog.messages) == 1


@needs_compiler
def test_what_is_not_ours_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert COMPILER is not None
    with pytest.raises(InputError, match=f"GAINCELL_NATIVE={tmp_path} has no compiled kernel of gaincell"):
        loaded(tmp_path, monkeypatch)
    source, proof = tmp_path / "other.cpp", tmp_path / "proof"
    source.write_text(
        "#include <cstdio>\n"
        f'static FILE *opened = std::fopen("{proof}", "w");\n'
        'extern "C" int gc_forward() { return opened != 0; }\n'
    )
    library = tmp_path / "_native.so"
    subprocess.run([COMPILER, "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    with pytest.raises(InputError, match=f"{library} is not gaincell's compiled kernel of this version"):
        loaded(tmp_path, monkeypatch)
    assert not proof.exists()
    library.write_text("no library\n")
    with pytest.raises(InputError, match="is not gaincell's compiled kernel"):
        loaded(tmp_path, monkeypatch)


@needs_compiler
def test_a_library_with_the_names_alone_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert COMPILER is not None
    names = [*native_library.CALLS, *(f"gc_sizeof_{name}" for name in native_library.STRUCTURES)]
    source, library = tmp_path / "names.cpp", tmp_path / "_native.so"
    strings = ", ".join(f'"{name}"' for name in names)
    source.write_text(f'extern "C" const char *const names[] = {{{strings}}};\n')
    subprocess.run([COMPILER, "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    assert all(name.encode() in library.read_bytes() for name in names)
    with pytest.raises(InputError) as refused:
        loaded(tmp_path, monkeypatch)
    assert f"{library} is not gaincell's compiled kernel of this version" in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_a_pipe_and_a_device_are_no_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "_native.fifo")
    (tmp_path / "_native.so").symlink_to("/dev/zero")
    with pytest.raises(InputError, match=r"_native\.fifo is not gaincell's compiled kernel"):
        loaded(tmp_path, monkeypatch)
