"""Texts: every form is read, parts never overlap, a budget is shared between sources."""

import gzip
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gaincell.errors import InputError
from gaincell.text import END_OF_TEXT, Source, open_text, token_stream


class Bytes:
    """A tokenizer whose ids are bytes + 1; 0 ends a document."""

    eos_token_id = 0

    def __call__(self, texts: list[str], **_: object) -> dict[str, list[list[int]]]:
        return {"input_ids": [[byte + 1 for byte in text.encode()] for text in texts]}


def documents(sources: tuple[Source, ...]) -> list[str]:
    return [document for source in sources for document in source.documents()]


def write(path: Path, texts: list[str]) -> Path:
    content = f"\n{END_OF_TEXT}\n".join(texts) + "\n"
    if path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(content.encode()))
    else:
        path.write_text(content, encoding="utf-8")
    return path


TEXTS = [f"document {n}\n\nwith a second paragraph: é" + " word" * n for n in range(20)]


@pytest.mark.parametrize("name", ["all.txt", "all.txt.gz"])
def test_a_file_is_split_by_document(tmp_path: Path, name: str) -> None:
    text = open_text(write(tmp_path / name, TEXTS))
    training, evaluation = documents(text.training), documents(text.evaluation)
    assert training + evaluation == TEXTS
    assert documents(text.part("all")) == TEXTS
    held_out = sum(map(len, evaluation)) / sum(map(len, TEXTS))
    assert 0.1 < held_out < 0.3
    assert text.name == name
    assert documents(open_text(tmp_path / name).evaluation) == evaluation


def test_a_single_document_is_split_at_a_line(tmp_path: Path) -> None:
    lines = [f"line {n}" for n in range(100)]
    text = open_text(write(tmp_path / "one.txt", ["\n".join(lines)]))
    training, evaluation = documents(text.training), documents(text.evaluation)
    assert (training[0] + "\n" + evaluation[0]).split("\n") == lines
    assert 15 < len(evaluation[0].split("\n")) < 25


def test_something_is_left_to_evaluate_on(tmp_path: Path) -> None:
    """The end of a text of two lines is nearest to 80 % of it."""
    lines = ["a " * 500, "b " * 500]
    text = open_text(write(tmp_path / "two.txt", ["\n".join(lines)]))
    assert [documents(part) for part in (text.training, text.evaluation)] == [[lines[0]], [lines[1]]]


def test_a_directory_with_named_parts(tmp_path: Path) -> None:
    write(tmp_path / "b.train.txt.gz", TEXTS[:5])
    write(tmp_path / "a.train.txt", TEXTS[5:8])
    write(tmp_path / "a.valid.txt", TEXTS[8:9])
    write(tmp_path / "LICENCE.txt", ["no text"])
    text = open_text(tmp_path)
    assert documents(text.training) == TEXTS[5:8] + TEXTS[:5]
    assert documents(text.evaluation) == TEXTS[8:9]


def test_a_directory_with_parts_and_no_other_names(tmp_path: Path) -> None:
    write(tmp_path / "train.txt", TEXTS[:5])
    write(tmp_path / "valid.txt", TEXTS[5:8])
    text = open_text(tmp_path)
    assert (documents(text.training), documents(text.evaluation)) == (TEXTS[:5], TEXTS[5:8])


def test_a_directory_without_named_parts_is_split_file_by_file(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", TEXTS[:10])
    write(tmp_path / "b.txt", TEXTS[10:])
    text = open_text(tmp_path)
    training, evaluation = documents(text.training), documents(text.evaluation)
    assert sorted(training + evaluation) == sorted(TEXTS)
    assert any(d in TEXTS[:10] for d in evaluation)
    assert any(d in TEXTS[10:] for d in evaluation)


def test_documents_end_with_the_end_of_text(tmp_path: Path) -> None:
    text = open_text(write(tmp_path / "all.txt", ["ab", "c", "de", "f", "g"]))
    ids = token_stream(text.part("all"), Bytes())
    assert bytes(max(i - 1, 0) for i in ids.tolist()) == b"ab\0c\0de\0f\0g\0"


def test_a_budget_is_shared_in_proportion_to_size(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "gaincell")  # whatever other libraries have set for all loggers
    monkeypatch.setattr(logging.getLogger("gaincell"), "disabled", False)

    def source(name: str, size: int) -> Source:
        return Source(name, size, lambda: iter([name * 1000]))

    sources = [source("a", 300), source("b", 100)]
    ids = token_stream(sources, Bytes(), 400)
    assert [int((ids == ord(c) + 1).sum()) for c in "ab"] == [300, 100]
    short = [Source("a", 300, lambda: iter(["a" * 9])), source("b", 100)]
    assert len(token_stream(short, Bytes(), 400)) == 400
    assert not caplog.messages
    token_stream([replace(short[0], asked=True), short[1]], Bytes(), 400)
    assert caplog.messages == ["a has 10 tokens, 300 were asked of it; the next ones give the rest"]


def test_only_as_much_is_read_as_the_budget_needs() -> None:
    read: list[int] = []

    def endless():
        for n in range(10**9):
            read.append(n)
            yield "0123456789"

    calls: list[int] = []
    ids = token_stream(
        [Source("endless", 1, endless)], Bytes(), 55, lambda done, total, numbers: calls.append(done)
    )
    assert len(ids) == 55
    assert len(read) == 5
    assert calls == [11, 22, 33, 44, 55]


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no text"):
        open_text(tmp_path / "missing.txt")
    with pytest.raises(InputError, match="did you mean 'sample'"):
        open_text("sampel")
    with pytest.raises(InputError, match="holds no"):
        open_text(tmp_path)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n" * 10)
    with pytest.raises(InputError, match="UTF-8"):
        documents(open_text(tmp_path / "latin.txt").training)
    (tmp_path / "torn.txt.gz").write_bytes(gzip.compress(b"text\n" * 1000)[:40])
    with pytest.raises(InputError, match="cannot be read"):
        documents(open_text(tmp_path / "torn.txt.gz").training)


def long_line(path: Path) -> None:
    """300 MB in one line, 300 kB on the disk."""
    with gzip.open(path, "wb", 1) as file:
        for _ in range(300):
            file.write(b"a" * 10**6)


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**30)


def long_document(path: Path) -> None:
    """90 MB of lines without an end of a document."""
    with gzip.open(path, "wb", 1) as file:
        for _ in range(90):
            file.write(b"some words and more\n" * 50_000)


READING = """
import resource
import sys
from gaincell.errors import InputError
from gaincell.text import open_text, token_stream
from tests.test_text import Bytes
import torch
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for where in sys.argv[1:]:
    try:
        print(len(token_stream(open_text(where).training, Bytes(), 1000)))
    except InputError as error:
        print(error)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.nightly
def test_memory_is_bounded(tmp_path: Path) -> None:
    """A process of its own reads 1000 tokens of one text after the other. Its memory never grows by more than
    60 MiB, and by 400 MiB where a document is long.
    """
    texts: list[tuple[Callable[[Path], None], Path]] = []
    for make, name in ((long_line, "x.txt.gz"), (sparse, "x.txt"), (long_document, "x.txt.gz")):
        folder = tmp_path / make.__name__
        folder.mkdir()
        make(folder / name)
        texts.append((make, folder / name))
        if make is long_document:  # seconds to read
            continue
        (tmp_path / f"split-{make.__name__}").mkdir()
        split = tmp_path / f"split-{make.__name__}" / name.replace("x.", "x.train.")
        split.hardlink_to(folder / name)
        (split.parent / "x.valid.txt").write_text("words\n")
        texts.append((make, split.parent))
    command = [sys.executable, "-c", READING, *(str(where) for _, where in texts)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    for (make, where), said, grown in zip(texts, lines[::2], lines[1::2], strict=True):
        assert said == "1000" if make is long_document else "more than 4 MiB" in said, where
        assert float(grown) < (400 if make is long_document else 60), where


def test_a_long_document_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it is lost but the line ends between the pieces."""
    lines = [f"line {n}" for n in range(1000)]
    path = write(tmp_path / "a.train.txt", ["\n".join(lines), "another"])
    write(tmp_path / "a.valid.txt", ["x"])
    monkeypatch.setattr("gaincell.text.LARGEST_DOCUMENT", 1000)
    found = documents(open_text(tmp_path).training)
    assert "\n".join(found[:-1]).split("\n") == lines
    assert found[-1] == "another"
    assert max(map(len, found)) < 1010
    assert path.is_file()


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="Linux")
def test_a_file_without_a_size_is_read() -> None:
    with pytest.raises(InputError, match="the text mem cannot be read"):
        token_stream(open_text("/proc/self/mem").evaluation, Bytes(), 100)


def test_an_empty_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "nothing.txt").write_text("")
    with pytest.raises(InputError, match=r"the text nothing\.txt is empty"):
        token_stream(open_text(tmp_path / "nothing.txt").evaluation, Bytes(), 100)


@pytest.mark.parametrize("content", ["words".encode("utf-16"), b"a\0b\n", b"\0" * 100])
def test_what_holds_null_characters_is_no_text(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(InputError, match=r"null characters|not UTF-8"):
        token_stream(open_text(tmp_path / "a.txt").training, Bytes())


def test_what_is_no_file_is_no_text(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    for name in ("", "/dev/zero", str(tmp_path / "pipe.txt")):
        with pytest.raises(InputError, match=r"is empty|is a device or a pipe"):
            open_text(name)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "folder" / "a.txt")
    with pytest.raises(InputError, match="no regular file"):
        token_stream(open_text(tmp_path / "folder").training, Bytes())
