"""Data sets of the hub, where there may be none to reach."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gaincell.errors import InputError

TIMEOUT = 10.0
"""Seconds to wait for the hub's first answer."""


@contextmanager
def local_if_unreachable() -> Iterator[None]:
    """Within the context data sets are read from the local cache alone if the hub does not answer.

    It is asked once, with a short time limit. The library `datasets` would ask for every file again and
    again, for minutes, before it looks there.

    Raises:
        ImportError: `datasets` is not installed.
    """
    import datasets
    from huggingface_hub import constants

    places: tuple[Any, ...] = (datasets.config, constants)
    before = [place.HF_HUB_OFFLINE for place in places]
    if not _answers(constants.ENDPOINT):
        for place in places:
            place.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


def _answers(address: str) -> bool:
    from huggingface_hub import get_session

    try:
        get_session().head(address, timeout=TIMEOUT)
    except Exception:  # of whichever library is under the session; offline by choice as well
        return False
    return True


def data_set_splits(name: str) -> list[str]:
    """The splits of a data set, OWNER/NAME or OWNER/NAME:CONFIG.

    Raises:
        InputError: there is none.
    """
    identifier, _, config = name.partition(":")
    try:
        import datasets

        with local_if_unreachable():
            found: list[str] = datasets.get_dataset_split_names(identifier, config or None)
    except ImportError as error:
        raise InputError(
            f"there is no file or directory {name!r}; data sets need the extra: pip install 'gaincell[train]'"
        ) from error
    except Exception as error:  # the hub answers with exceptions of many libraries
        raise InputError(
            f"there is no file, directory or data set {name!r} ({_reason(error)}); give a file or a "
            "directory of text"
        ) from error
    return found


def data_set_rows(name: str, split: str) -> Iterator[str]:
    """The texts of a split's rows that hold any, as they come.

    Raises:
        InputError: it cannot be read.
    """
    import datasets

    identifier, _, config = name.partition(":")
    try:
        with local_if_unreachable():
            rows = datasets.load_dataset(identifier, config or None, split=split, streaming=True)
        for row in rows:
            if "text" not in row:
                raise InputError(f"the data set {name!r} has no column 'text', only {', '.join(row)}")
            if (row["text"] or "").strip():
                yield row["text"]
    except InputError:
        raise
    except Exception as error:  # of many libraries
        said = f"the data set {name!r} cannot be read ({_reason(error)}); try again later"
        raise InputError(said) from error


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
