"""Workers and the process that starts them.

A worker takes one waiting trial after the other until there is none, or its parent is gone. The parent
enqueues what is to be measured, starts workers, replaces those that die and enqueues again what they were at.
Neither knows the other by more than the storage: workers of any number of commands, on any number of
machines, take from the same queue.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from gaincell.errors import RunError
from gaincell.progress import Progress, silent
from gaincell.results.codec import from_json, to_json
from gaincell.results.sweep import Point
from gaincell.sweeps import study as trials
from gaincell.sweeps.point import Measure
from gaincell.sweeps.settings import Sweep, import_optuna

POLL_SECONDS = 0.3
FRUITLESS = 3
"""Ends of workers in a row, without a point taken between them though some wait, that are at least needed to
say that something is wrong.
"""


class Worker(Protocol):
    """A process that works: subprocess.Popen, for instance."""

    def poll(self) -> int | None: ...
    def terminate(self) -> None: ...
    def wait(self) -> int: ...


class _Surplus(Exception):
    """A trial that nobody needs."""


def work(sweep: Sweep, storage: Any, measure: Measure, worker: int = 0, parent: int = 0) -> int:
    """Measure waiting points until there is none; returns how many were measured.

    Every exception of a point is recorded as the reason of its failure, and the next point is taken. The
    worker ends with the process `parent`, unless that is 0.
    """
    optuna = import_optuna()
    study = trials.open_study(sweep, storage)
    parameters, done = sweep.with_own(), 0
    waiting = (optuna.trial.TrialState.WAITING,)

    def objective(trial: Any) -> tuple[float, ...]:
        nonlocal done
        if trials.POINT not in trial.user_attrs or trials.is_taken(study, trial):
            trial.set_user_attr(trials.SURPLUS, True)
            raise _Surplus
        trial.set_user_attr(trials.PROCESS, trials.this_process())
        try:
            values = {parameter.name: parameter.suggest(trial) for parameter in parameters}
            found, entry = _known(study, trial) or measure(trial.user_attrs[trials.POINT], values)
        except Exception as error:
            trial.set_user_attr(trials.REASON, f"{type(error).__name__}: {' '.join(str(error).split())}")
            raise
        trial.set_user_attr(trials.ENTRY, entry)
        done += 1
        return found

    while parent in (0, os.getppid()) and study.get_trials(deepcopy=False, states=waiting):
        taken = sum(trial.state.name != "WAITING" for trial in study.get_trials(deepcopy=False))
        study.sampler = trials.sampler_of(sweep, taken, worker)
        study.optimize(objective, n_trials=1, catch=(Exception,))
    return done


def _known(study: Any, trial: Any) -> tuple[tuple[float, ...], dict[str, Any]] | None:
    """Objectives and entry of an earlier point with the same values, which samplers may choose again."""
    optuna = import_optuna()
    for other in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,)):
        if other.params == trial.params and trials.ENTRY in other.user_attrs:
            earlier = from_json(Point, other.user_attrs[trials.ENTRY])
            first = other.user_attrs[trials.POINT] if earlier.same_as is None else earlier.same_as
            again = replace(earlier, point=trial.user_attrs[trials.POINT], same_as=first)
            return tuple(other.values), to_json(again)
    return None


def oversee(
    sweep: Sweep,
    storage: Any,
    launch: Callable[[int], Worker],
    workers: int,
    log_of: Callable[[int], Path],
    *,
    retry_elsewhere: bool = False,
    progress: Progress = silent,
) -> trials.Survey:
    """Have all points measured that are not complete; returns where they stand then.

    `launch` starts a worker by its number, and `log_of` says where its messages are. With `retry_elsewhere`
    points that other machines were at are taken for lost. `progress` is called with the points finished since
    the call, and those that were not before it.

    Raises:
        RunError: workers die without taking a point.
    """
    study, plan = trials.open_study(sweep, storage), sweep.plan()
    trials.give_up_lost(study, elsewhere_lives=not retry_elsewhere)
    found = trials.survey(study, len(plan))
    trials.enqueue(study, plan, {*found.failed, *found.lost})
    before = len(found.complete)
    died_before = found.deaths
    progress(0, len(plan) - before, {})
    living: list[tuple[int, Worker]] = []
    started, fruitless, seen = 0, 0, _taken(found)
    try:
        while True:
            found = trials.survey(study, len(plan))
            if found.lost:
                trials.give_up_lost(study)
                again = {n for n in found.lost if found.deaths[n] - died_before[n] < trials.LIVES}
                _record_deaths(study, found, found.lost - again)
                trials.enqueue(study, plan, again)
                continue
            progress(len(found.complete) + len(found.failed) - before, len(plan) - before, {})
            if _taken(found) != seen:
                seen, fruitless = _taken(found), 0
            dead = [(n, p) for n, p in living if p.poll() is not None]
            living = [(n, p) for n, p in living if p.poll() is None]
            fruitless += len(dead) if found.waiting else 0
            if fruitless >= max(FRUITLESS, workers + 1):
                raise RunError(f"workers end without taking a point: {_last_line(log_of(dead[-1][0]))}")
            if not found.waiting and not found.here and not living:
                return found
            while len(living) < min(workers, len(found.waiting)):
                living.append((started, launch(started)))
                started += 1
            time.sleep(POLL_SECONDS)
    finally:
        for _, process in living:
            process.terminate()
        for _, process in living:
            process.wait()


def _taken(found: trials.Survey) -> tuple[int, int, int, frozenset[int]]:
    """What changes whenever a worker does something."""
    return len(found.complete), len(found.failed), found.deaths.total(), frozenset(found.here)


def _record_deaths(study: Any, found: trials.Survey, numbers: Iterable[int]) -> None:
    """Points that took every process with them fail, with that as their reason."""
    optuna = import_optuna()
    for number in numbers:
        trial = optuna.trial.create_trial(
            state=optuna.trial.TrialState.FAIL,
            user_attrs={
                trials.POINT: number,
                trials.REASON: f"its process died {found.deaths[number]} times; look for too little memory",
            },
        )
        study.add_trial(trial)


def _last_line(log: Path) -> str:
    try:
        lines = [
            line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()
        ]
    except OSError:
        lines = []
    return lines[-1] if lines else "they left no message"
