"""Answers to the harness's requests, kept in a file, so that a run that was broken off goes on.

The harness's own cache stores pickles, and whoever reads a pickle runs what is in it. Here an answer is JSON
in an SQLite database: `request`, the SHA-256 of what was asked, and `answer`.
"""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from gaincell.errors import InputError
from gaincell.files import parse_json, to_json
from gaincell.units import Second


def _is_log(found: Any) -> bool:
    """Whether something can be the logarithm of a likelihood."""
    return type(found) in (float, int) and math.isfinite(found) and found <= 0


FORMS: dict[str, Callable[[Any], bool]] = {
    "loglikelihood": lambda found: (
        isinstance(found, list) and len(found) == 2 and _is_log(found[0]) and type(found[1]) is bool
    ),
    "loglikelihood_rolling": _is_log,
}
"""Kind of request -> whether something is an answer: a log-likelihood, with or without "is the likeliest"."""
TABLE = "CREATE TABLE answers (request text primary key, answer text)"
"""As SQLite keeps it; a file with anything else is not ours, and none of its own SQL is run."""
STEPS = 10_000_000
"""Of SQLite's machine in one statement; ours take some hundred. It counts on where a statement is cached."""
WAIT: Second = 10.0
"""For another process that writes an answer."""


class Answers:
    """The answers of one model on one chip.

    Args:
        file: Of the database; made if it is not there.

    Raises:
        InputError: it cannot be made or read.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(file, timeout=WAIT, isolation_level=None, cached_statements=0)
            self._database.set_progress_handler(lambda: 1, STEPS)  # breaks the statement off
            self._database.execute("pragma trusted_schema = off")
            self._database.execute("pragma journal_mode = wal")
            self._database.execute("pragma synchronous = normal")
            self._database.execute(TABLE.replace("TABLE", "TABLE IF NOT EXISTS"))
            found = self._database.execute("select sql from sqlite_master where sql is not null").fetchall()
            if found != [(TABLE,)]:
                raise sqlite3.DatabaseError("it holds other tables, views or triggers than ours")
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error

    def get(self, kind: str, arguments: Iterable[Any]) -> Any | None:
        """What was answered before; None: nothing.

        Raises:
            InputError: a damaged file.
        """
        query = "select answer from answers where request = ?"
        try:
            row = self._database.execute(query, (_key(kind, arguments),)).fetchone()
            if row is None:
                return None
            found = parse_json(row[0])
            if not FORMS[kind](found):
                raise ValueError(f"{row[0]!r} is no answer")
        except (sqlite3.Error, ValueError, TypeError) as error:
            raise self._unusable(error) from error
        return tuple(found) if isinstance(found, list) else found

    def add_partial(self, kind: str, arguments: Iterable[Any], answer: Any) -> None:
        """Keep an answer; the harness calls it so, for every request as soon as it is answered."""
        query = "insert or replace into answers values (?, ?)"
        try:
            self._database.execute(query, (_key(kind, arguments), to_json(answer)))
        except sqlite3.Error as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise InputError(
                    f"the disk is full: {self._file} keeps the answers so far; make room and give the "
                    "command once more, and it goes on"
                ) from error
            raise self._unusable(error) from error

    def complete(
        self, kind: str, requests: Sequence[Any], ask: Callable[[list[Any]], Sequence[Any]]
    ) -> list[Any]:
        """The answers to requests of the harness; those that are not kept are asked for, and kept."""
        found = [self.get(kind, request.args) for request in requests]
        missing = [request for request, answer in zip(requests, found, strict=True) if answer is None]
        new = iter(ask(missing) if missing else ())
        for place, answer in enumerate(found):
            if answer is None:
                found[place] = next(new)
                self.add_partial(kind, requests[place].args, found[place])
        return found

    def close(self) -> None:
        self._database.close()

    def _unusable(self, error: Exception) -> InputError:
        return InputError(
            f"answers cannot be kept in {self._file} ({error}): remove that file, or give --no-cache"
        )


def _key(kind: str, arguments: Iterable[Any]) -> str:
    return hashlib.sha256(json.dumps([kind, *arguments]).encode()).hexdigest()
