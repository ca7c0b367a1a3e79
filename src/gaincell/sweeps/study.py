"""The study of a sweep: points as Optuna's trials in a storage that processes and machines share.

Every point of a sweep is a number, 0 and up. What is known beforehand of it (all values, or nothing where a
sampler learns) is enqueued as a waiting trial; workers take waiting trials, of any point. Of a point there
can be several trials, since what was lost or failed is enqueued anew:

    complete   measured; never measured again
    running    in progress in a process that lives, here or elsewhere
    waiting    enqueued
    failed     with its reason; tried again when the command is given again
    lost       its process died; enqueued again, at most `LIVES` times under one command

A process that takes a trial leaves host, pid and start time in the trial; a trial of this host whose process
is no more is lost. Of other hosts Optuna's heartbeat tells, where the storage has it (databases).
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gaincell.errors import InputError
from gaincell.files import open_file
from gaincell.sweeps.settings import OBJECTIVES, Sweep, import_optuna

POINT, PROCESS, REASON, ENTRY, SURPLUS = "point", "process", "reason", "entry", "surplus"
"""Attributes of a trial."""
OPERATION = b'{"op_code"'
"""With what every line of a journal begins."""
LIVES = 3
CLAIM_SECONDS = 60.0
"""A running trial that no process has claimed after so long is lost."""
HEARTBEAT = 30
"""Seconds between two heartbeats in a database; after four without one a trial is lost."""


def open_storage(place: str) -> Any:
    """Optuna's storage: a database by its URL, or a journal by the path of its file.

    Raises:
        InputError: it cannot be reached, or is damaged.
    """
    optuna = import_optuna()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that heartbeats are experimental
            if "://" in place:
                _check_shared(place)
                return optuna.storages.RDBStorage(
                    place, heartbeat_interval=HEARTBEAT, grace_period=4 * HEARTBEAT
                )
            path = Path(place).expanduser().resolve()
            if not path.parent.is_dir():
                raise InputError(f"the folder of {path.name} is missing")
            _check_journal(path)
            backend = optuna.storages.journal.JournalFileBackend(str(path))
            _mend(path, optuna)
            return optuna.storages.JournalStorage(backend)
    except Exception as error:  # of databases, drivers and files
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if "://" in place and isinstance(error, ImportError):
            reason += " (of postgresql:// pip install psycopg2-binary)"
        raise InputError(
            f"the storage {_without_password(place)} cannot be reached: {reason}; give a journal file in a "
            "folder that exists, or the URL of a database such as sqlite:///sweep.db"
        ) from error


def existing_storage(place: str) -> Any | None:
    """The storage if there is one, None where `open_storage` would make it: a dry run writes nothing.

    Raises:
        InputError: it cannot be reached.
    """
    if "://" in place:
        _check_shared(place)
    name = place.removeprefix("sqlite:///")
    path = Path(name).expanduser()
    if name and "://" not in name and not path.exists() and path.parent.is_dir():
        return None
    return open_storage(place)


def _check_shared(place: str) -> None:
    """Raise InputError for an SQLite database in memory, however its URL says so."""
    import_optuna()
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(place)
    except (ArgumentError, ValueError) as error:
        raise InputError(f"{place!r} is no URL of a database ({error}); such as sqlite:///sweep.db") from None
    file = url.database or ":memory:"
    in_memory = ":memory:" in file or "memory" in (url.query.get("mode"), file.partition("mode=")[2][:6])
    if url.get_backend_name() == "sqlite" and in_memory:
        raise InputError("a database in memory is of one process and cannot be shared")


def _without_password(place: str) -> str:
    scheme, mark, rest = place.partition("://")
    return f"{scheme}://...@{rest.rpartition('@')[2]}" if mark and "@" in rest else place


def _check_journal(path: Path) -> None:
    """Raise InputError for a file that is there and is no journal, or has a line that cannot be read, but a
    last one that is half written; OSError for what is no file.
    """
    if not path.exists():
        return
    with open_file(path) as file:
        for number, line in enumerate(file, 1):
            if number == 1 and not (line.startswith(OPERATION) or OPERATION.startswith(line)):
                raise InputError("it is no journal, and was left as it is; of a database give its URL")
            try:
                whole = not line.endswith(b"\n") or isinstance(json.loads(line), dict)
            except ValueError:
                whole = False
            if not whole:
                raise InputError(
                    f"it is damaged: line {number} cannot be read; restore it, or remove it to start again"
                )


def _mend(path: Path, optuna: Any) -> None:
    """Cut off half a line that a writer left that was killed: Optuna would stumble over it."""
    lock = optuna.storages.journal.JournalFileSymlinkLock(str(path))
    lock.acquire()
    try:
        with path.open("rb+") as file:
            content = file.read()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                file.truncate(whole)
    finally:
        lock.release()


def open_study(sweep: Sweep, storage: Any) -> Any:
    """The study of a sweep in a storage, made if it is not there."""
    optuna = import_optuna()
    return optuna.create_study(
        storage=storage,
        study_name=sweep.study,
        directions=[OBJECTIVES[name][0].replace("s", "z") for name in sweep.objectives],  # "minimize"
        load_if_exists=True,
    )


def sampler_of(sweep: Sweep, taken: int, worker: int) -> Any:
    """Optuna's sampler, with a seed that no other worker has, and none had when fewer trials were taken."""
    import numpy as np

    optuna = import_optuna()
    seed = int(np.random.SeedSequence([sweep.seed, taken, worker]).generate_state(1)[0])
    if sweep.sampler == "nsga2":
        return optuna.samplers.NSGAIISampler(population_size=sweep.population, seed=seed)
    if sweep.sampler == "tpe":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that these are experimental
            return optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=max(4, sweep.points // 4), multivariate=True, constant_liar=True
            )
    return optuna.samplers.RandomSampler(seed=seed)


def this_process() -> dict[str, Any]:
    """What tells a process from all others."""
    return {"host": platform.node(), "pid": os.getpid(), "started": started(os.getpid())}


def started(pid: int) -> str | None:
    """When a process of this host began, in ticks since the host did; None: there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
    try:
        os.kill(pid, 0)  # no /proc here
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "unknown"


@dataclass
class Survey:
    """Where every point stands, by number; of complete and failed ones the trial.

    Attributes:
        lost: Points that are neither complete, failed nor under way.
        deaths: How many processes died at a point, of those that are not complete.
    """

    complete: dict[int, Any] = field(default_factory=dict)
    failed: dict[int, Any] = field(default_factory=dict)
    waiting: set[int] = field(default_factory=set)
    here: dict[int, Any] = field(default_factory=dict)
    elsewhere: dict[int, Any] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)
    deaths: Counter[int] = field(default_factory=Counter)


def survey(study: Any, points: int) -> Survey:
    """Where every point of a study stands; trials that run on other hosts are taken to be in progress."""
    by_point: dict[int, list[Any]] = {number: [] for number in range(points)}
    for trial in study.get_trials(deepcopy=False):
        number = trial.user_attrs.get(POINT)
        if number in by_point and SURPLUS not in trial.user_attrs:
            by_point[number].append(trial)
    found = Survey()
    for number, trials in by_point.items():
        complete, running, waiting, ended = (
            [trial for trial in trials if trial.state.name == state]
            for state in ("COMPLETE", "RUNNING", "WAITING", "FAIL")
        )
        if complete:
            found.complete[number] = complete[0]
            continue
        places = [whereabouts(trial) for trial in running]
        failures = [trial for trial in ended if REASON in trial.user_attrs]
        found.deaths[number] = len(ended) - len(failures) + places.count("nowhere")
        living = [(trial, where) for trial, where in zip(running, places, strict=True) if where != "nowhere"]
        last = max((*ended, *running), key=lambda trial: trial.number, default=None)
        if living:
            trial, where = living[0]
            (found.here if where == "here" else found.elsewhere)[number] = trial
        elif waiting:
            found.waiting.add(number)
        elif failures and failures[-1] is last:
            found.failed[number] = last
        else:
            found.lost.add(number)
    return found


def whereabouts(trial: Any) -> str:
    """Where a running trial is in progress: "here", "elsewhere" or "nowhere"."""
    process = trial.user_attrs.get(PROCESS)
    if process is None:
        begun = trial.datetime_start
        young = begun is not None and (datetime.datetime.now() - begun).total_seconds() < CLAIM_SECONDS
        return "here" if young else "nowhere"  # between taking it and saying so
    if process["host"] != platform.node():
        return "elsewhere"
    return "here" if started(process["pid"]) == process["started"] else "nowhere"


def give_up_lost(study: Any, *, elsewhere_lives: bool = True) -> None:
    """Close the trials whose processes are no more."""
    optuna = import_optuna()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is experimental
        optuna.storages.fail_stale_trials(study)  # of databases: by their heartbeat
    states = (optuna.trial.TrialState.RUNNING,)
    for trial in study.get_trials(deepcopy=False, states=states):
        where = whereabouts(trial)
        if where == "nowhere" or (where == "elsewhere" and not elsewhere_lives):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL, skip_if_finished=True)


def enqueue(study: Any, plan: list[dict[str, Any]], numbers: Iterable[int]) -> None:
    """Have workers measure these points."""
    for number in sorted(numbers):
        study.enqueue_trial(plan[number], user_attrs={POINT: number})


def is_taken(study: Any, trial: Any) -> bool:
    """Whether another trial of the same point is complete or under way: two commands may enqueue a point at
    the same time. Of two that look at each other at once the earlier one goes on.
    """
    for other in study.get_trials(deepcopy=False):
        same = other.user_attrs.get(POINT) == trial.user_attrs[POINT] and SURPLUS not in other.user_attrs
        if not same or other.number == trial.number:
            continue
        if other.state.name == "COMPLETE":
            return True
        earlier = PROCESS in other.user_attrs or other.number < trial.number
        if other.state.name == "RUNNING" and earlier and whereabouts(other) != "nowhere":
            return True
    return False
