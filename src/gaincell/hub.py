"""Data sets of the hub, where there may be none to reach."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
