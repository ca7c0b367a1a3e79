"""Writing files so that nobody ever meets half of one.

A file appears under its name only when it is complete: it is written in a temporary directory beside its
place, flushed to the disk and then renamed, which the operating system does in one step. A full disk, an
interrupt (Ctrl-C) or an error of the writer leaves the old file, or none, and nothing temporary. (Some
writers, safetensors among them, make files with names of their own; in a directory they can be found.)
"""

import errno
import glob
import os
import secrets
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from gaincell.errors import RunError

_HEX = "[0-9a-f]" * 8
"""Pattern of what tells temporary names apart."""


def write_atomic(path: str | os.PathLike[str], writer: Callable[[Path], object]) -> Path:
    """Write one file completely or not at all.

    Args:
        path: where the file shall appear; its directory is created if it is missing.
        writer: called once with the temporary path, which has the name of ``path`` in a directory beside it;
            it writes and closes the file.

    Returns:
        ``path`` as a ``Path``.

    Raises:
        RunError: the disk is full, or the place cannot be written to. Whatever else ``writer`` raises
            (KeyboardInterrupt included) passes through; what is temporary is removed in every case.
    """
    path = Path(path)
    holder = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
    temporary = holder / path.name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        holder.mkdir()
        writer(temporary)
        _allow(temporary)
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    except BaseException as error:
        reason = _reason(error, path.parent)
        if reason is None:
            raise
        raise RunError(f"cannot write {path}: {reason}; nothing half-written was left") from error
    finally:
        shutil.rmtree(holder, ignore_errors=True)
    return path


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
