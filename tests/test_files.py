"""Files appear complete or not at all: full disk, interrupt, failing writer."""

import json
import math
import multiprocessing
import os
import re
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from gaincell.errors import RunError
from gaincell.files import (
    check_file,
    open_file,
    parse_json,
    read_json,
    read_text,
    read_toml,
    remove_leftovers,
    restored,
    write_atomic,
    write_json,
    write_tensors,
    write_text,
)


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


def test_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text("a = 1\n", encoding="utf-8-sig")
    assert read_toml(tmp_path / "x.toml") == {"a": 1}


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    """At once: a pipe would wait for a writer, and a device never end."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero"), Path("/dev/null")):
        for read in (open_file, check_file, read_text, read_json, read_toml):
            with pytest.raises(OSError, match=r"no regular file|directory"):
                read(path)


@pytest.mark.parametrize("name", ["", "/", ".", "folder", "pipe"])
def test_what_is_no_file_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    os.mkfifo("pipe")
    before = names(tmp_path)
    with pytest.raises(RunError, match="cannot write"):
        write_text(name, "text")
    assert names(tmp_path) == before


def test_a_file_larger_than_fits_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.json"
    path.touch()
    os.truncate(path, 2**40)
    with pytest.raises(OSError, match="more than 256 MiB"):
        read_json(path)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a":' * 100_000, "NaN", "[Infinity]", "7" * 10_000, "1" + "0" * 400, '"\\u0000"',
     '"\\ud800"', str(2**63)],
)  # fmt: skip
def test_json_that_nothing_of_ours_can_hold(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


@pytest.mark.parametrize(
    "text",
    ["a = " + "[" * 9000 + "]" * 9000, "a = " + "{a=" * 9000 + "1" + "}" * 9000, "a" + ".a" * 90_000 + " = 1",
     "a" + " . a" * 101, "a-b" + ".'c'" * 101, "a" + '."b c"' * 101,
     "a = " + "7" * 10_000, "a = 1" + "0" * 400, 'a = "\\u0000"', "a = "],
)  # fmt: skip
def test_toml_that_nobody_would_write(tmp_path: Path, text: str) -> None:
    path = write_text(tmp_path / "a.toml", text)
    with pytest.raises(ValueError, match=r"."):
        read_toml(path)


def test_a_long_word_is_no_deep_name(tmp_path: Path) -> None:
    """And is read in a time in proportion to its length: minutes otherwise."""
    for word in ("a" * 1_000_000, "a.a " * 250_000, "a'" * 1_000_000, " " * 1_000_000):
        assert read_toml(write_text(tmp_path / "a.toml", f'a = "{word}"')) == {"a": word}
    parts = ".a" * 99
    assert "a" in read_toml(write_text(tmp_path / "a.toml", f"a{parts} = 1"))


def test_json_holds_words_for_numbers_that_it_does_not_know(tmp_path: Path) -> None:
    content = {"a": [1.5, math.inf, (-math.inf,)], "b": {"c": "text"}}
    path = write_json(tmp_path / "a.json", content)
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {
        "a": [1.5, "infinity", ["-infinity"]],
        "b": {"c": "text"},
    }
    assert restored(read_json(path)) == {"a": [1.5, math.inf, [-math.inf]], "b": {"c": "text"}}
    assert math.isnan(restored(read_json(write_json(path, [math.nan])))[0])


def test_equal_tensors_give_equal_files(tmp_path: Path) -> None:
    """Whatever the order of metadata, in which safetensors' own files differ from each other."""
    tensors = {"b": torch.arange(6.0).view(2, 3), "a": torch.zeros(3, dtype=torch.int32)}
    metadata = {f"key {n}": f"größe \n {n}" for n in range(20)}
    backwards = dict(reversed(metadata.items()))
    files = [write_tensors(tmp_path / f"{n}", tensors, m) for n, m in enumerate((metadata, backwards) * 4)]
    assert len({file.read_bytes() for file in files}) == 1
    with safe_open(files[0], "pt") as file:
        assert file.metadata() == metadata
        assert all(torch.equal(file.get_tensor(name), tensors[name]) for name in tensors)
