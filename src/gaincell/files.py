"""Reading files that end, and writing them so that nobody ever meets half of one.

Read are regular files only, and of text files no more than fits: a device or a pipe may never end, and a
compressed or sparse file is larger than it looks.

A file appears under its name only when it is complete: it is written in a temporary directory beside its
place, flushed to the disk and then renamed, which the operating system does in one step. A full disk, an
interrupt (Ctrl-C) or an error of the writer leaves the old file, or none, and nothing temporary. (Some
writers, safetensors among them, make files with names of their own; in a directory they can be found.)
"""

import errno
import glob
import json
import math
import os
import re
import secrets
import shutil
import stat
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn, TypeGuard

from gaincell.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor

_HEX = "[0-9a-f]" * 8
"""Pattern of what tells temporary names apart."""

_PART = r"""(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')"""
_NAME = re.compile(rf"{_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{0,99}}+([ \t]*+\.[ \t]*+{_PART})?+")
"""The first 101 parts of a TOML name, the last of them as a group; a match is never tried again further on,
so that a search takes a time in proportion to the text."""

LARGEST_TEXT = 256 * 2**20
"""Bytes of a text file that is read as a whole: results, designs, recipes, model cards."""


def open_file(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a regular file to read its bytes.

    Raises:
        OSError: there is none, it cannot be read, or it is a directory, a device or a pipe.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # a pipe would wait for a writer
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise OSError(f"{os.fspath(path)!r} is no regular file, but a directory, a device or a pipe")


def check_text(path: str | os.PathLike[str]) -> None:
    """Raise what `open_file` raises, and OSError for more than `LARGEST_TEXT` bytes: of texts that a library
    reads.
    """
    with open_file(path) as file:
        _check_size(path, os.fstat(file.fileno()).st_size)


def _check_size(path: str | os.PathLike[str], size: int) -> None:
    if size > LARGEST_TEXT:
        raise OSError(f"{os.fspath(path)!r} has more than {LARGEST_TEXT >> 20} MiB")


def check_file(path: str | os.PathLike[str]) -> None:
    """Raise what `open_file` raises, for files that a library opens."""
    open_file(path).close()


def read_text(path: str | os.PathLike[str], encoding: str = "utf-8-sig") -> str:
    """A text file as a whole.

    Raises:
        OSError: as `open_file`, or it has more than `LARGEST_TEXT` bytes.
        ValueError: it is not in this encoding.
    """
    with open_file(path) as file:
        content = file.read(LARGEST_TEXT + 1)
    _check_size(path, len(content))
    return content.decode(encoding)


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A TOML file; errors are those of `read_text` and `parse_toml`."""
    return parse_toml(read_text(path))


def parse_toml(text: str) -> dict[str, Any]:
    """TOML; ValueError where it is none that anyone would write."""
    if any(name[1] for name in _NAME.finditer(text)):  # quadratic in tomllib
        raise ValueError("a name has more than 100 parts")
    try:
        found = tomllib.loads(text)
    except RecursionError:
        raise ValueError("tables or lists are nested too deeply") from None
    _check_plain(found)
    return found


def read_json(path: str | os.PathLike[str], infinite: bool = False) -> Any:
    """A JSON file; errors are those of `read_text` and `parse_json`."""
    return parse_json(read_text(path), infinite)


def read_object(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A JSON file that holds an object; errors as of `read_json`, ValueError for anything else."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise ValueError("it holds no object")
    return found


def parse_json(text: str | bytes, infinite: bool = False) -> Any:
    """JSON as its standard has it; if `infinite`, with NaN and Infinity, as Python's own libraries write it.

    Raises:
        ValueError: it is not, nests too deeply, or holds numbers that no number of ours can hold.
    """
    try:
        found = json.loads(text, parse_constant=float if infinite else _no_number)
    except RecursionError:
        raise ValueError("lists or objects are nested too deeply") from None
    _check_plain(found)
    return found


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


def _check_plain(content: Any) -> None:
    """Raise ValueError for whole numbers beyond 64 bits and for text with a null character or half a one."""
    found = [content]
    while found:
        entry = found.pop()
        if isinstance(entry, dict):
            found += [*entry, *entry.values()]
        elif isinstance(entry, list):
            found += entry
        elif isinstance(entry, int) and not -(2**63) <= entry < 2**63:
            raise ValueError(f"a whole number of {len(str(abs(entry)))} digits does not fit 64 bits")
        elif isinstance(entry, str) and ("\0" in entry or any("\ud800" <= c <= "\udfff" for c in entry)):
            raise ValueError(f"the text {entry!r} holds a null character or half of a character")


def to_json(content: Any, indent: int | None = None) -> str:
    """Plain data as JSON, with numbers that JSON does not know as words: "nan", "infinity", "-infinity"
    (which Python's `float` takes back).
    """
    return json.dumps(finite(content), indent=indent, ensure_ascii=False, allow_nan=False)


def finite(content: Any) -> Any:
    """Plain data with words for numbers that are not finite, see `to_json`."""
    if isinstance(content, Mapping):
        return {key: finite(entry) for key, entry in content.items()}
    if isinstance(content, (list, tuple)):
        return [finite(entry) for entry in content]
    if isinstance(content, float) and not math.isfinite(content):
        return "nan" if math.isnan(content) else "infinity" if content > 0 else "-infinity"
    return content


def restored(content: Any) -> Any:
    """What `finite` was given."""
    if isinstance(content, dict):
        return {key: restored(entry) for key, entry in content.items()}
    if isinstance(content, list):
        return [restored(entry) for entry in content]
    return float(content) if content in ("nan", "infinity", "-infinity") else content


def is_number(value: Any) -> TypeGuard[float]:
    """Whether an entry of plain data is a number; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_count(value: Any) -> bool:
    """Whether an entry of plain data is a whole number, 0 or above."""
    return isinstance(value, int) and is_number(value) and value >= 0


def write_json(path: str | os.PathLike[str], content: Any, indent: int | None = None) -> Path:
    """Write plain data as JSON (see `to_json`), completely or not at all."""
    return write_text(path, to_json(content, indent) + "\n")


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str] | None = None
) -> Path:
    """Write a .safetensors file, completely or not at all; equal contents give equal bytes.

    (safetensors itself puts the metadata in another order each time.)
    """
    from safetensors.torch import save_file

    def write(place: Path) -> None:
        save_file(dict(tensors), place, metadata=None if metadata is None else dict(metadata))
        with place.open("r+b") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
            if "__metadata__" in header:
                header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
            text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
            assert len(text) <= size  # the same entries in another order
            file.seek(8)
            file.write(text.ljust(size))

    return write_atomic(path, write)


def check_place(path: str | os.PathLike[str]) -> None:
    """Raise RunError where `path` cannot become a file: it has no name, or is something else already, such
    as a link that leads nowhere.
    """
    path = Path(path)
    if path.name in ("", "..") or (path.exists() and not path.is_file()):
        raise RunError(
            f"cannot write {str(path)!r}: it is no file, but a directory or a device; give the name of a file"
        )
    if path.is_symlink() and not path.exists():
        raise RunError(
            f"cannot write {str(path)!r}: it is a link to nothing; remove it, or give another name"
        )


def write_atomic(path: str | os.PathLike[str], writer: Callable[[Path], object]) -> Path:
    """Write one file completely or not at all.

    Args:
        path: Where the file shall appear; its directory is created if it is missing.
        writer: Called once with the temporary path, which has the name of ``path`` in a directory beside it;
            it writes and closes the file.

    Raises:
        RunError: the disk is full, or the place cannot be written to or is no file. Whatever else ``writer``
            raises (KeyboardInterrupt included) passes through; what is temporary is removed in every case.
    """
    path = Path(path)
    check_place(path)
    holder = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
    temporary = holder / path.name
    with _temporary(holder, path):
        writer(temporary)
        _allow(temporary)
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    return path


def write_directory(
    path: str | os.PathLike[str], writer: Callable[[Path], object], *, last: str, replaces: Sequence[str]
) -> Path:
    """Write the files of a directory, each completely; none is put in place before all are written.

    Args:
        path: The directory; it is created if it is missing, and its other files stay.
        writer: Called once with a temporary directory in ``path``, in which it writes the files.
        last: Name of the file that is put in place last.
        replaces: Patterns of names; earlier files of such names that are not written again are removed.

    Raises:
        RunError: as `write_atomic`.
    """
    path = Path(path)
    remove_leftovers(path / "export")
    holder = path / f".export-{secrets.token_hex(4)}"
    with _temporary(holder, path):
        try:
            writer(holder)
        except RunError as error:  # of a file of it
            raise RunError(str(error).replace(str(holder), str(path))) from error
        made = [file.relative_to(holder) for file in holder.rglob("*") if file.is_file()]
        for name in made:
            check_place(path / name)
            _allow(holder / name)
            _flush(holder / name)
        for name in sorted(made, key=lambda name: name == Path(last)):
            (path / name).parent.mkdir(exist_ok=True)
            os.replace(holder / name, path / name)
        earlier = {f.relative_to(path) for pattern in replaces for f in path.glob(pattern) if f.is_file()}
        for name in earlier.difference(made):
            (path / name).unlink()
        _flush(path)
    return path


@contextmanager
def _temporary(holder: Path, path: Path) -> Iterator[None]:
    """A directory that is removed in the end; what hinders writing ``path`` becomes a RunError."""
    try:
        holder.parent.mkdir(parents=True, exist_ok=True)
        holder.mkdir()
        yield
    except BaseException as error:
        reason = _reason(error, holder.parent)
        if reason is None:
            raise
        raise RunError(f"cannot write {path}: {reason}; nothing half-written was left") from error
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def remove_leftovers(path: str | os.PathLike[str]) -> None:
    """Remove what writers of ``path`` left that were killed (kill -9, loss of power).

    Only for a place that no other process is writing to.
    """
    path = Path(path)
    _remove(path.parent.glob(f".{glob.escape(path.stem)}-{_HEX}{glob.escape(path.suffix)}"))


def remove_leftovers_in(folder: Path) -> None:
    """The same for every file of a directory that nobody else writes to."""
    _remove(folder.glob(f".*-{_HEX}*"))


def _remove(leftovers: Iterable[Path]) -> None:
    for leftover in leftovers:
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write ``text`` as UTF-8, completely or not at all; see ``write_atomic``."""
    return write_atomic(path, lambda temporary: temporary.write_bytes(text.encode()))


def append_text(path: str | os.PathLike[str], text: str) -> None:
    """Append ``text`` as UTF-8; a full disk may leave part of it.

    Raises:
        RunError: the disk is full, or the place cannot be written to.
    """
    path = Path(path)
    try:
        with path.open("ab") as file:
            file.write(text.encode())
    except OSError as error:
        raise RunError(f"cannot write {path}: {_reason(error, path.parent)}") from error


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FULL_TEXT = "the disk is full, or a limit on its use reached (free some space or choose another directory)"
_NEARLY_NOTHING = 1 << 20
"""Free bytes below which a writer's unexplained failure is put down to a full disk."""


def _reason(error: BaseException, directory: Path) -> str | None:
    """What a user can do something about; None for anything that is not about the file system.

    Writers in other languages report a full disk in exceptions of their own: safetensors (Rust) by its
    text alone, torch (C++) not even by that.
    """
    if isinstance(error, OSError):
        if error.errno in _FULL:
            return _FULL_TEXT
        return f"{error.strerror or error} (choose another directory)"
    if isinstance(error, Exception):
        by_text = any(f"os error {code}" in str(error) for code in _FULL)
        if by_text or (directory.is_dir() and shutil.disk_usage(directory).free < _NEARLY_NOTHING):
            return _FULL_TEXT
    return None


def _allow(path: Path) -> None:
    """The permissions that any new file gets; some writers make theirs private."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def flush(file: IO[bytes]) -> None:
    """Put what was written to an open file on the disk."""
    file.flush()
    os.fsync(file.fileno())


def _flush(path: Path) -> None:
    """Ask the operating system to put a file or directory on the disk; not all can for a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EIO}:
            raise
    finally:
        os.close(descriptor)
