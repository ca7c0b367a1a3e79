"""The runner: cases of a seed, one after the other, in this process or as a user starts them."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from tests.robustness.bad_input.cases import Case, cases
from tests.robustness.bad_input.commands import Place
from tests.robustness.bad_input.judge import listing, verdict

import gaincell.cli

SECONDS = 240
"""A case may take."""


class TooLong(BaseException):
    """A case took too long."""


def run_here(place: Place, found: Case) -> str | None:
    """Run a case in this process; what is wrong with how it ended."""

    def late(*_: object) -> None:
        raise TooLong

    before = listing(place.folder)
    out, err = io.StringIO(), io.StringIO()
    threads = torch.get_num_threads()
    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    code: Any = None
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.chdir(place.fresh):
            try:
                gaincell.cli.main(found.arguments)
            except SystemExit as ended:
                code = ended.code
    except TooLong:
        return f"not ended after {SECONDS} s"
    except BaseException as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        return f"traceback: {type(error).__name__}: {str(error)[:200]} ({Path(at.filename).name}:{at.lineno})"
    finally:
        signal.alarm(0)
        torch.set_num_threads(threads)
    return verdict(found, code, err.getvalue(), before, listing(place.folder))


def run_as_user(place: Place, found: Case) -> str | None:
    """Run a case as a user does; what is wrong with how it ended."""
    before = listing(place.folder)
    done = subprocess.run(
        [sys.executable, "-m", "gaincell", *(os.fsencode(word) for word in found.arguments)],
        cwd=place.fresh, capture_output=True, timeout=5 * SECONDS, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return verdict(
        found, done.returncode, done.stderr.decode(errors="replace"), before, listing(place.folder)
    )


def failures(
    place: Place, seed: int, count: int, run: Callable[[Place, Case], str | None] = run_here
) -> Iterator[str]:
    """What went wrong in so many cases of a seed, case by case."""
    for number, found in enumerate(cases(place, seed, count), 1):
        wrong = run(place, found)
        if wrong is not None:
            shown = " ".join(
                word if len(word) < 80 else f"{word[:40]}...({len(word)})" for word in found.arguments
            )
            yield f"{number}: {shown!a}: {found.bad}: {wrong}"
