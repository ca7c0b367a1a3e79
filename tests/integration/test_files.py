"""Files appear complete or not at all: full disk, interrupt, failing writer."""

import multiprocessing
import os
import re
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gaincell.errors import RunError
from gaincell.files import remove_leftovers, write_atomic, write_text


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def test_a_file_and_its_directory_are_made(tmp_path: Path) -> None:
    path = write_text(tmp_path / "new" / "run.json", "größe")
    assert path.read_text(encoding="utf-8") == "größe"
    assert names(path.parent) == ["run.json"]


def test_the_temporary_file_keeps_the_name_and_stands_beside(tmp_path: Path) -> None:
    seen: list[Path] = []
    write_atomic(tmp_path / "figure.png", lambda place: (seen.append(place), place.write_bytes(b"x")))
    assert seen[0].name == "figure.png"
    assert seen[0].parent.parent == tmp_path
    assert names(tmp_path) == ["figure.png"]


@pytest.mark.parametrize("name", ["a.bin", "a[1].bin"])
def test_what_a_killed_writer_left_is_removed(tmp_path: Path, name: str) -> None:
    def killed(place: Path) -> None:
        (place.parent / ".tmp0aB").write_text("a writer's own temporary file")
        place.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)

    process = multiprocessing.get_context("fork").Process(target=write_atomic, args=(tmp_path / name, killed))
    process.start()
    process.join()
    assert len(names(tmp_path)) == 1
    remove_leftovers(tmp_path / "b.bin")
    assert len(names(tmp_path)) == 1
    remove_leftovers(tmp_path / name)
    assert names(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_writer_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    write_text(tmp_path / "a.txt", "old")

    def writer(place: Path) -> None:
        place.write_text("half of the n")
        raise error

    with pytest.raises(error):
        write_atomic(tmp_path / "a.txt", writer)
    assert names(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    def writer(place: Path) -> None:
        place.write_text("some")
        with open("/dev/full", "wb", buffering=0) as full:
            full.write(b"x")

    with pytest.raises(RunError, match="the disk is full") as caught:
        write_atomic(tmp_path / "a.bin", writer)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == []


@pytest.mark.parametrize("save", [save_file, torch.save], ids=["safetensors", "torch"])
def test_a_full_disk_inside_a_foreign_writer(tmp_path: Path, save, monkeypatch) -> None:
    """safetensors and torch report it in exceptions of their own (here: a file-size limit of 64 KiB)."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, hard))
    try:
        with pytest.raises(RunError, match="the disk is full"):
            write_atomic(tmp_path / "a.bin", lambda place: save({"w": torch.zeros(1 << 16)}, place))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert names(tmp_path) == []


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match=re.escape(f"cannot write {tmp_path / 'file' / 'run.json'}")):
        write_text(tmp_path / "file" / "run.json", "{}")


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        path = write_text(tmp_path / "a.txt", "x")
    finally:
        os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o640
