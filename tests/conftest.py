"""Shapes in annotations are checked, random numbers repeat, torch uses one thread."""

import gc
import os
import pickle
import tomllib
from collections.abc import Iterator
from functools import cache
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from hypothesis import settings
from tests import type_checks

# Commands print as into a file, in no colours and in 80 columns, wherever the tests run.
for name in ("COLUMNS", "FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS", "TERMINAL_WIDTH", "TTY_COMPATIBLE"):
    os.environ.pop(name, None)

# Before anything of these packages is imported: every annotated shape and type is checked at every call.
type_checks.install(["gaincell.ops", "gaincell.circuits", "gaincell.devices"])

torch.set_num_threads(1)
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported, by whomever

_parse = tomllib.loads
_parsed = cache(lambda text: pickle.dumps(_parse(text)))


def _parse_once(text: str) -> dict[str, Any]:
    """tomllib takes milliseconds for a design, and most tests read the same few."""
    try:
        found: dict[str, Any] = pickle.loads(_parsed(text))
    except RecursionError:  # of pickle, which goes less deep
        return _parse(text)
    return found


tomllib.loads = _parse_once

# The same examples in every run, and no failure because the machine is busy.
settings.register_profile("gaincell", derandomize=True, deadline=None)
settings.load_profile("gaincell")


def pytest_collection_finish() -> None:
    """What is imported by now stays: looking at it again and again took a seventh of the time of tests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_unconfigure() -> None:
    """Nothing frozen is left to those who report leaks at the end of the process."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Commands set the threads of torch, here for all tests that follow, which wait for each other then."""
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """What is written survives a kill, which tests try, also before it is on the disk."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(autouse=True)
def _seeds() -> None:
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture
def blank_figures() -> Iterator[None]:
    """Figures are made as ever, and saved blank."""
    from tests import drawing

    with drawing.blank_figures():
        yield
