"""TEXT, as a user names it, to documents and token ids.

TEXT is a file (`.txt`, `.txt.gz`), a directory of such files, `sample` (shipped with the package), or the id
of a Hugging Face data set. A line holding only `<|endoftext|>` separates documents.

Every text has a training part and an evaluation part that never overlap:

* a directory (or data set) with both `*.train.*` and `*.valid.*` files (splits), or `train.*` and `valid.*`:
  as named, other files are ignored;
* any other file: cut at the document boundary nearest to 80 % of its characters (at a line, where no
  document ends near there); the beginning is for training, the rest for evaluation. Of a larger one the first
  256 Mi characters are used, which is said.

A budget of tokens is filled from all sources in proportion to their size, from the beginning of each, so that
a big directory costs no more than the budget asks for.

Files are read in bounded pieces, whatever they hold when they are unpacked: a line has 4 Mi bytes at most, a
document of more than 4 Mi characters is read as several, cut at the end of a line.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import re
import sys
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gaincell.errors import InputError
from gaincell.files import open_file
from gaincell.hub import data_set_rows, data_set_splits
from gaincell.progress import Progress, silent
from gaincell.quantity import did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

END_OF_TEXT = "<|endoftext|>"
TRAINING_SHARE = 0.8
"""Share of an unsplit file that is training text."""
LARGEST_SPLIT_FILE = 256 * 2**20
"""Characters of an unsplit file that are looked at; what lies beyond is not used."""
LARGEST_LINE = LARGEST_DOCUMENT = 4 * 2**20
"""Bytes of a line; characters of a document, which is cut behind the line that reaches them."""
TOO_SHORT = "is empty, or too short for two parts, or one line; give more text, in lines"

Part = Literal["training", "evaluation", "all"]


@dataclass(frozen=True)
class Source:
    """One file or split: its size (bytes on disk; a weight only), how to read its documents, and how to make
    a digest of the file (of a data set: nothing).

    Attributes:
        asked: Whether a share of the tokens was asked of it.
    """

    name: str
    size: int
    documents: Callable[[], Iterator[str]]
    digest: Callable[[], str] = str
    asked: bool = False


@dataclass(frozen=True)
class Text:
    """A text with its two disjoint parts.

    Attributes:
        name: The base name, without the directory, for reports.
        training: Sources in a fixed order.
        evaluation: Likewise.
    """

    name: str
    training: tuple[Source, ...]
    evaluation: tuple[Source, ...]

    def part(self, part: Part) -> tuple[Source, ...]:
        """The sources of one part; "all" is both."""
        parts = {"training": self.training, "evaluation": self.evaluation}
        return self.training + self.evaluation if part == "all" else parts[part]


def open_text(text: str | Path) -> Text:
    """Find a text by what the user typed (see the head of this file).

    Raises:
        InputError: there is no such text.
    """
    if not str(text):
        raise InputError("TEXT is empty; give a .txt or .txt.gz file, a directory of them, or 'sample'")
    if str(text) == "sample":
        return _directory(Path(str(resources.files("gaincell"))) / "assets" / "sample", "sample")
    path = Path(text).expanduser()
    if path.is_dir():
        return _directory(path, path.resolve().name)
    if path.is_file():
        return _one_file(path)
    if path.exists():
        raise InputError(f"the text {str(text)!r} is a device or a pipe; give a file or a directory")
    meant = did_you_mean(str(text), ["sample"])
    if _is_id(str(text)) and not meant:
        return _data_set(str(text))
    raise InputError(
        f"there is no text {str(text)!r}{meant}; give a .txt or .txt.gz file, a directory of them, "
        "a data set id, or 'sample'"
    )


def check_text(text: str) -> Text | None:
    """A text that is here, after reading the beginning of both parts; None of a data set, which is taken to
    be there.

    Raises:
        InputError: there is no such text, a file of it cannot be read, or a part is empty.
    """
    if text != "sample" and _is_id(text) and not Path(text).exists():
        return None
    found = open_text(text)
    for part in (found.training, found.evaluation):
        if not [source for source in part if next(source.documents(), None) is not None]:
            raise InputError(f"the text {found.name} {TOO_SHORT}")
    return found


def _is_id(text: str) -> bool:
    """Whether a name can be that of a data set."""
    return bool(re.fullmatch(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?", text)) and not text.endswith((".txt", ".gz"))


def token_stream(
    sources: Iterable[Source], tokenizer: Any, tokens: int | None = None, progress: Progress = silent
) -> Tensor:
    """The documents of `sources` as one stream of token ids, each document followed by the end-of-text id.

    Args:
        sources: A part of a text.
        tokenizer: A tokenizer of transformers; without an `eos_token_id` documents are joined as they are.
        tokens: Stop after this many, taking from each source in proportion to its size; None = all.
        progress: Called after every document with (tokens so far, tokens wanted or 0).

    Returns:
        int32 [tokens or fewer].

    Raises:
        InputError: there is no token in them, or one cannot be read.
    """
    import torch

    sources, place, ids = list(sources), dict(BEGINNING), array("i")
    for some in token_ids(sources, tokenizer, tokens, place):
        ids.extend(some)
        progress(len(ids), tokens or 0, {})
    if tokens == 0:
        return torch.empty(0, dtype=torch.int32)
    if not ids:
        names = ", ".join(dict.fromkeys(source.name for source in sources))
        raise InputError(f"the text {names} {TOO_SHORT}")
    return torch.frombuffer(ids, dtype=torch.int32)


BEGINNING = {"source": 0, "documents": 0, "length": 0, "begun_at": 0}
"""Where a stream stands: its source, documents read of that, tokens so far, tokens before that source."""


def token_ids(
    sources: Sequence[Source], tokenizer: Any, tokens: int | None, place: dict[str, int], ahead: int = 1
) -> Iterator[list[int]]:
    """The ids of a stream, document by document, from `place` on, which is kept up to date.

    Args:
        sources: A part of a text.
        tokenizer: A tokenizer of transformers.
        tokens: See `token_stream`.
        place: Where the stream is; kept up to date.
        ahead: Characters that are read before they are tokenised, on all cores.
    """
    end = getattr(tokenizer, "eos_token_id", None)
    for number in range(place["source"], len(sources)):
        if number != place["source"]:
            place |= {"source": number, "documents": 0, "begun_at": place["length"]}
        sizes = [source.size for source in sources[number:]]
        weight = sizes[0] / max(1, sum(sizes)) if len(sizes) > 1 else 1
        share = None if tokens is None else round((tokens - place["begun_at"]) * weight)
        last = None if share is None else place["begun_at"] + share
        if last is not None and place["length"] >= last:
            continue
        documents = islice(sources[number].documents(), place["documents"], None)
        for found in _tokenised(documents, tokenizer, ahead):
            ids = [*found, *([] if end is None else [end])]
            ids = ids if last is None else ids[: last - place["length"]]
            place["length"] += len(ids)
            place["documents"] += 1
            yield ids
            if place["length"] == last:
                break
        if sources[number].asked and last is not None and place["length"] < last:
            held, name = place["length"] - place["begun_at"], sources[number].name
            rest = "the next ones give the rest" if number + 1 < len(sources) else "the rest is missing"
            logging.getLogger("gaincell").warning(
                "%s has %d tokens, %d were asked of it; %s", name, held, share, rest
            )


def _tokenised(documents: Iterable[str], tokenizer: Any, ahead: int) -> Iterator[list[int]]:
    waiting: list[str] = []
    characters = 0
    for document in chain(documents, [None]):
        if document is not None:
            waiting.append(document)
            characters += len(document)
        if waiting and (document is None or characters >= ahead):
            yield from tokenizer(waiting, add_special_tokens=False, verbose=False)["input_ids"]
            waiting, characters = [], 0


def _directory(folder: Path, name: str) -> Text:
    files = sorted(path for path in folder.glob("*") if path.name.endswith((".txt", ".txt.gz")))
    if not files:
        raise InputError(f"the directory {name!r} holds no .txt or .txt.gz file")
    training = [path for path in files if ".train." in f".{path.name}"]
    evaluation = [path for path in files if ".valid." in f".{path.name}"]
    if training and evaluation:
        return Text(name, _whole(training), _whole(evaluation))
    parts = [_one_file(path) for path in files]
    return Text(
        name,
        tuple(source for part in parts for source in part.training),
        tuple(source for part in parts for source in part.evaluation),
    )


def _whole(paths: Iterable[Path]) -> tuple[Source, ...]:
    return tuple(_source(path, _size(path), partial(read_lines, path)) for path in paths)


def _source(path: Path, size: int, lines: Callable[[], Iterator[str]]) -> Source:
    return Source(path.name, size, lambda: _documents(lines()), partial(sha256, path))


def _one_file(path: Path) -> Text:
    size = _size(path)
    kept = int(size * TRAINING_SHARE)
    training = _source(path, kept, lambda: islice(_looked_at(path), _cut(path)))
    evaluation = _source(path, size - kept, lambda: islice(_looked_at(path), _cut(path), None))
    return Text(path.name, (training,), (evaluation,))


def _size(path: Path) -> int:
    """Bytes of a file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return path.stat().st_size
    except OSError as error:
        raise InputError(
            f"the text {path.name} cannot be read: {error.strerror}; remove it, or name another file"
        ) from error


def _looked_at(path: Path) -> Iterator[str]:
    length = 0
    for line in read_lines(path):
        yield line
        length += len(line) + 1
        if length > LARGEST_SPLIT_FILE:
            _say_what_is_left_out(path)
            return


@cache
def _say_what_is_left_out(path: Path) -> None:
    most = f"{path.name}: its first {LARGEST_SPLIT_FILE >> 20} Mi characters are used; for all of it, "
    print(f"{most}give a directory with files *.train.txt and *.valid.txt", file=sys.stderr)


def _cut(path: Path) -> int:
    """How many lines of a file are for training: up to the document (else the line) that ends nearest to 80 %
    of its characters.
    """
    documents: list[tuple[int, int]] = []  # lines and characters up to the end of each
    length = 0
    for number, line in enumerate(_looked_at(path), 1):
        length += len(line) + 1
        if line == END_OF_TEXT:
            documents.append((number, length))
    target = TRAINING_SHARE * length
    near = [(number, end) for number, end in documents if 0.6 * length < end < 0.95 * length]
    lines = enumerate(accumulate(len(line) + 1 for line in _looked_at(path)), 1)
    ends = near or (end for end in lines if end[1] < length)  # something is left to evaluate on
    return min(ends, key=lambda end: abs(end[1] - target), default=(0, 0))[0]


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with open_file(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path.name} cannot be read: {error}") from error


def read_lines(path: Path, most: int | None = None) -> Iterator[str]:
    """The lines of a text file (.gz too), without their ends.

    Args:
        path: The file.
        most: Bytes of them in all, for those who keep them; None: any number.

    Raises:
        InputError: the file cannot be read or has more bytes, or a line is too long, is not UTF-8 or holds
            null characters.
    """
    number = size = 0
    try:
        with open_file(path) as plain:
            file = gzip.GzipFile(fileobj=plain) if path.name.endswith(".gz") else plain
            while line := file.readline(LARGEST_LINE + 1):
                number += 1
                size += len(line)
                if len(line) > LARGEST_LINE:
                    raise InputError(
                        f"line {number} of {path.name} has more than {LARGEST_LINE >> 20} MiB; break it "
                        "into lines, with `fold` for instance"
                    )
                if most is not None and size > most:
                    raise InputError(f"{path.name} has more than {most >> 20} MiB of text; give a part of it")
                if b"\0" in line:
                    raise InputError(
                        f"line {number} of {path.name} holds null characters: it is no text in UTF-8"
                    )
                kind = "utf-8-sig" if number == 1 else "utf-8"  # without the mark of some editors
                yield line.decode(kind).removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise InputError(f"the text {path.name}, line {number}, is not UTF-8; convert it first") from error
    except (OSError, EOFError, zlib.error) as error:
        after = f" after line {number}" if number else ""
        raise InputError(f"the text {path.name} cannot be read{after}: {error}") from error


def _documents(lines: Iterable[str]) -> Iterator[str]:
    """Join lines to documents; empty documents are dropped, and very long ones cut."""
    document: list[str] = []
    length = 0
    for line in chain(lines, [END_OF_TEXT]):
        if line != END_OF_TEXT:
            document.append(line)
            length += len(line) + 1
        if line == END_OF_TEXT or length >= LARGEST_DOCUMENT:
            if text := "\n".join(document).strip("\n"):
                yield text
            document, length = [], 0


def _data_set(name: str) -> Text:
    """A data set with a column `text`; `NAME:CONFIG` chooses a configuration. Every row is a document."""
    splits, rows = data_set_splits(name), partial(data_set_rows, name)
    held_out = next((split for split in ("validation", "valid", "dev", "test") if split in splits), None)
    if "train" in splits and held_out is not None:
        return Text(
            name, (Source("train", 1, lambda: rows("train")),), (Source(held_out, 1, lambda: rows(held_out)),)
        )
    # its size is not known beforehand: every fifth row is for evaluation
    only = "train" if "train" in splits else splits[0]
    return Text(
        name,
        (Source(only, 1, lambda: (row for n, row in enumerate(rows(only)) if n % 5)),),
        (Source(only, 1, lambda: islice(rows(only), 0, None, 5)),),
    )
