"""Workers and storage: finished points are measured once, whatever is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gaincell.errors import RunError
from gaincell.integrations.hf.attach import attached_layers
from gaincell.integrations.hf.models import load_model
from gaincell.reports.sweep import failures
from gaincell.results import read
from gaincell.results.codec import to_json
from gaincell.results.sweep import Point, PointResult, SweepResult
from gaincell.sweeps import work as work_module
from gaincell.sweeps.file import load_sweep
from gaincell.sweeps.result import assemble
from gaincell.sweeps.settings import Sweep
from gaincell.sweeps.study import open_storage, open_study, survey
from gaincell.sweeps.work import oversee, work

pytest.importorskip("optuna")
FORK = multiprocessing.get_context("fork") if "fork" in multiprocessing.get_all_start_methods() else None
needs_fork = pytest.mark.skipif(FORK is None, reason="processes cannot fork")


class Forked:
    """A worker that has everything imported already."""

    def __init__(self, job: Callable[[], object]) -> None:
        assert FORK is not None
        self.process = FORK.Process(target=job)
        self.process.start()

    def poll(self) -> int | None:
        return self.process.exitcode

    def terminate(self) -> None:
        self.process.terminate()

    def wait(self) -> int:
        self.process.join()
        return self.process.exitcode or 0


def held(
    log: Path, may_end: Callable[[int], bool]
) -> Callable[[int, Any], tuple[tuple[float, ...], dict[str, Any]]]:
    """A measurement that leaves a line when it begins, and one when it ends, which it does when it may."""

    def measure(number: int, values: Any) -> tuple[tuple[float, ...], dict[str, Any]]:
        for word in ("begin", "end"):
            with log.open("a") as file:
                file.write(f"{word} {number} {os.getpid()}\n")
            if word == "begin":
                until(lambda: may_end(number))
        return (float(number),), {"point": number}

    return measure


def lines(log: Path, word: str) -> list[tuple[int, int]]:
    """Number and process of every point that began or ended."""
    rows = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    return [(int(row[1]), int(row[2])) for row in rows if len(row) == 3 and row[0] == word]


def command(sweep: Sweep, journal: Path, log: Path, workers: int, may_end: Callable[[int], bool]) -> None:
    """What `gaincell sweep` does, with forked workers and a measurement that is held."""
    parent = os.getpid()

    def launch(number: int) -> Forked:
        return Forked(lambda: work(sweep, open_storage(str(journal)), held(log, may_end), number, parent))

    oversee(sweep, open_storage(str(journal)), launch, workers, lambda n: log)


def until(condition: Callable[[], bool], seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@needs_fork
def test_what_is_killed_goes_on_and_repeats_no_finished_point(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    assert FORK is not None
    sweep = load_sweep(write("tile = [8, 16, 32]\nstorage_levels = [4, 8, 16, 32]"))
    journal, log = tmp_path / "points.journal", tmp_path / "log"
    most = FORK.RawValue("i", 1)

    def may_end(number: int) -> bool:
        """Whether a point of this process is among the first that began."""
        return (number, os.getpid()) in lines(log, "begin")[: most.value]

    first = FORK.Process(target=command, args=(sweep, journal, log, 2, may_end))
    first.start()
    until(lambda: len(lines(log, "begin")) >= 3)
    os.kill(lines(log, "begin")[-1][1], signal.SIGKILL)  # a worker
    until(lambda: len({pid for _, pid in lines(log, "begin")}) >= 3)  # another one takes its place
    most.value = 6
    until(lambda: len(lines(log, "end")) >= 5)
    first.kill()  # the one that started them; they end what they are at
    first.join()
    most.value = 1000
    until(lambda: not survey(open_study(sweep, open_storage(str(journal))), 12).here)
    done = dict(lines(log, "end"))
    assert 5 <= len(done) < 12
    command(sweep, journal, log, 2, may_end)
    study = open_study(sweep, open_storage(str(journal)))
    found = survey(study, 12)
    assert sorted(found.complete) == list(range(12))
    assert not [*found.failed, *found.lost, *found.waiting, *found.here]
    ended = Counter(number for number, _ in lines(log, "end"))
    assert set(ended.values()) == {1}
    again = [number for number, count in Counter(n for n, _ in lines(log, "begin")).items() if count > 1]
    assert len(again) <= 2
    assert all(count == 1 for count in Counter(t.user_attrs["point"] for t in study.trials
                                               if t.state.name == "COMPLETE").values())  # fmt: skip
    before = len(lines(log, "begin"))
    command(sweep, journal, log, 2, may_end)  # nothing is left to do
    assert len(lines(log, "begin")) == before


@needs_fork
def test_two_commands_share_a_journal(write: Callable[..., Path], tmp_path: Path) -> None:
    assert FORK is not None
    sweep = load_sweep(write("tile = [8, 16]\nstorage_levels = [4, 8, 16, 32, 64]"))
    journal, log = tmp_path / "shared.journal", tmp_path / "log"
    open_study(sweep, open_storage(str(journal)))

    def may_end(number: int) -> bool:
        """Once both are at work."""
        return len({pid for _, pid in lines(log, "begin")}) >= 2

    both = [FORK.Process(target=command, args=(sweep, journal, log, 1, may_end)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    ended = lines(log, "end")
    assert sorted(number for number, _ in ended) == list(range(10))
    assert len({pid for _, pid in ended}) >= 2
    assert len(survey(open_study(sweep, open_storage(str(journal))), 10).complete) == 10


@pytest.mark.slow
@needs_fork
def test_points_that_kill_their_processes_fail_in_the_end(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_module, "POLL_SECONDS", 0.02)
    sweep = load_sweep(write("tile = [8, 16, 32]"))
    journal, parent = str(tmp_path / "j"), os.getpid()

    def deadly(number: int, values: Any) -> tuple[tuple[float, ...], dict[str, Any]]:
        if number:
            os.kill(os.getpid(), signal.SIGKILL)
        return (1.0,), to_json(Point(point=number, state="complete", parameters={}))

    def launch(number: int) -> Forked:
        return Forked(lambda: work(sweep, open_storage(journal), deadly, number, parent))

    for times in (3, 6):  # the next command tries them as often
        found = oversee(sweep, open_storage(journal), launch, 1, lambda n: tmp_path / "log")
        assert list(found.complete) == [0]
        for number, line in zip((1, 2), failures(assemble(sweep, found, ["gaincell"])), strict=True):
            assert line.startswith(f"failed: tile = {(8, 16, 32)[number]}: its process died {times} times")


def test_workers_that_cannot_begin_are_an_error(write: Callable[..., Path], tmp_path: Path) -> None:
    sweep = load_sweep(write("tile = [8, 16]"))
    log = tmp_path / "log"
    log.write_text("gaincell: error: no such model\n")

    def launch(number: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["false"])

    with pytest.raises(RunError, match="without taking a point: gaincell: error: no such model"):
        oversee(sweep, open_storage(str(tmp_path / "j")), launch, 2, lambda n: log)


def test_half_a_line_of_a_journal_is_cut_off(tmp_path: Path) -> None:
    journal = tmp_path / "j"
    open_storage(str(journal))
    journal.write_bytes(b'{"op_code":0,"worker_id":"a","study_name":"s","directions":[1]}\n{"op_co')
    storage = open_storage(str(journal))
    assert journal.read_bytes().endswith(b"}\n")
    assert [study.study_name for study in storage.get_all_studies()] == ["s"]


def gaincell(*arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "gaincell", "sweep", *map(str, arguments)],
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip


@pytest.mark.nightly
def test_64_points_on_2_workers_survive_kills(write: Callable[..., Path], tmp_path: Path) -> None:
    """The command as users type it: a worker killed, then the main process, then the same command."""
    file = write("tile = [8, 16, 32, 64]\nstorage_levels = [4, 8, 16, 32]\nquery_levels = [4, 8, 16, 32]")
    out, sweep = tmp_path / "out", load_sweep(file)
    first = gaincell(file, "--out", out, "--workers", 2)
    points = out / "points"
    until(lambda: len(list(points.glob("*/run.json"))) >= 8, 600)
    study = open_study(sweep, open_storage(str(out / "points.journal")))
    pids: list[int] = []

    def running() -> bool:  # there are moments between two points
        trials = (t for t in study.trials if t.state.name == "RUNNING")
        pids.extend(t.user_attrs["process"]["pid"] for t in trials if "process" in t.user_attrs)
        return bool(pids)

    until(running)
    os.kill(pids[0], signal.SIGKILL)
    until(lambda: len(list(points.glob("*/run.json"))) >= 20, 600)
    first.kill()
    first.communicate()
    times = {path: path.stat().st_mtime_ns for path in points.glob("*/run.json")}
    done = {t.user_attrs["point"] for t in study.trials if t.state.name == "COMPLETE"}
    second = gaincell(file, "--out", out, "--workers", 2, "--json", tmp_path / "r.json")
    assert second.communicate()[0]
    assert second.returncode == 0
    result = read(tmp_path / "r.json", SweepResult)
    assert [p.point for p in result.points] == list(range(64))
    assert {p.state for p in result.points} == {"complete"}
    again = [path for path, when in times.items() if path.stat().st_mtime_ns != when]
    assert all(int(path.parent.name) not in done for path in again)
    complete = Counter(t.user_attrs["point"] for t in study.trials if t.state.name == "COMPLETE")
    assert set(complete.values()) == {1}


@pytest.mark.nightly
def test_two_commands_with_one_journal_and_weights(write: Callable[..., Path], tmp_path: Path) -> None:
    file = write("tile = [8, 16]\nstorage_levels = [4, 8]")
    journal, places = tmp_path / "shared.journal", [tmp_path / "here", tmp_path / "there"]
    both = [gaincell(file, "--out", place, "--storage", journal, "--keep-models") for place in places]
    assert [(process.communicate()[0] != b"", process.returncode) for process in both] == [(True, 0)] * 2
    shares = [{path.parent.name for path in place.glob("points/*/run.json")} for place in places]
    assert len(shares[0] | shares[1]) == 4
    assert not shares[0] & shares[1]
    made = next(path.parent for place in places for path in place.glob("points/*/run.json"))
    run = read(made, PointResult)
    assert run.design is not None
    assert attached_layers(load_model(made).model)[0].design.hash == run.design.hash
