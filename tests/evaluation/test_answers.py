"""Answers that are kept for a broken run: nothing in a file of them is ever run."""

from __future__ import annotations

import os
import pickle
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gaincell.errors import InputError

pytest.importorskip("lm_eval")
from tests.micro import write_micro

from gaincell.evaluation.answers import Answers
from gaincell.evaluation.harness import evaluate_tasks
from gaincell.integrations.hf.models import load_model


class Command:
    """What runs a command when it is read back."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.made),)


@pytest.mark.slow
def test_a_prepared_file_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither as the harness's own cache, nor in ours."""
    loaded = load_model(str(write_micro(tmp_path)[0]))
    rows = tmp_path / "rows"
    rows.mkdir()
    (rows / "lambada_openai.jsonl").write_text('{"text": "cell holds charge"}\n')
    asked: list[Any] = []
    from lm_eval.api.model import hash_args

    from gaincell.evaluation.harness_model import GainCellLM

    own = GainCellLM.loglikelihood
    monkeypatch.setattr(
        GainCellLM, "loglikelihood", lambda self, r, **more: asked.extend(r) or own(self, r, **more)
    )
    answer = {"data": str(rows), "batch": 1}
    whole = evaluate_tasks(loaded.model, loaded.tokenizer, ["lambada_openai"], **answer).run
    keys = [hash_args("loglikelihood", request.args) for request in asked]
    assert keys
    evil = pickle.dumps(Command(tmp_path / "made"))
    cache = tmp_path / "cache"
    for file, table in ((tmp_path / "cache_rank0.db", "unnamed (key text primary key, value blob)"),):
        with closing(sqlite3.connect(file)) as database, database:
            database.execute(f"create table {table}")
            database.executemany("insert into unnamed values (?, ?)", [(key, evil) for key in keys])
    again = evaluate_tasks(loaded.model, loaded.tokenizer, ["lambada_openai"], cache=cache, **answer).run
    assert again.requests_cached == 0
    assert again.tasks == whole.tasks
    assert not (tmp_path / "made").exists()
    with closing(sqlite3.connect(cache)) as database, database:
        database.execute("update answers set answer = ?", (evil,))
    with pytest.raises(InputError, match="remove that file"):
        evaluate_tasks(loaded.model, loaded.tokenizer, ["lambada_openai"], cache=cache, **answer)
    assert not (tmp_path / "made").exists()


def test_as_many_answers_are_kept_as_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gaincell.evaluation.answers.STEPS", 2_000)
    with closing(Answers(tmp_path / "kept")) as answers:
        for number in range(500):
            answers.add_partial("loglikelihood", ("a", str(number)), (-1.5, True))
        assert answers.get("loglikelihood", ("a", "499")) == (-1.5, True)


def test_a_full_disk_loses_no_answer(tmp_path: Path) -> None:
    long = "x" * 100_000
    with closing(Answers(tmp_path / "kept")) as answers:
        answers.add_partial("loglikelihood_rolling", ("a",), -1.5)
        answers._database.execute("pragma max_page_count = 1")  # as few as there are already
        with pytest.raises(InputError, match=r"disk is full: .*kept keeps the answers so far; make room"):
            answers.add_partial("generate_until", ("b",), long)
        assert answers.get("loglikelihood_rolling", ("a",)) == -1.5


@pytest.mark.parametrize(
    "answer",
    ["[-1.0]", '"text"', "NaN", "null", "[-1.0, 2]", "{}", "[" * 100_000, '["nan", true]', "[1e999, true]",
     '["infinity", true]', '["-infinity", true]', "[1e300, true]", "[5.0, true]"],
)  # fmt: skip
def test_what_is_no_answer_is_refused(tmp_path: Path, answer: str) -> None:
    file = tmp_path / "kept"
    with closing(Answers(file)) as answers:
        answers.add_partial("loglikelihood", ("a", "b"), (-1.5, True))
        assert answers.get("loglikelihood", ("a", "b")) == (-1.5, True)
        assert answers.get("loglikelihood", ("a", "c")) is None
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("update answers set answer = ?", (answer,))
    with closing(Answers(file)) as answers, pytest.raises(InputError, match="remove that file"):
        answers.get("loglikelihood", ("a", "b"))


@pytest.mark.parametrize(
    "schema",
    [
        "create view answers as with recursive n(request, answer) as (select 1, 2 union all "
        "select request + 1, answer from n) select * from n",
        "create table answers (request text primary key, answer text as (hex(request)))",
        "CREATE TABLE answers (request text primary key, answer text); create trigger more after insert on "
        "answers begin delete from answers; end",
    ],
)
def test_a_file_with_sql_of_its_own_is_refused(tmp_path: Path, schema: str) -> None:
    file = tmp_path / "kept"
    with closing(sqlite3.connect(file)) as database:
        database.executescript(schema)
    with pytest.raises(InputError, match="other tables, views or triggers"):
        Answers(file)


def test_a_statement_that_does_not_end_is_broken_off(tmp_path: Path) -> None:
    with closing(Answers(tmp_path / "kept")) as answers, pytest.raises(sqlite3.OperationalError):
        answers._database.execute(
            "with recursive n(x) as (select 1 union all select x + 1 from n) select max(x) from n"
        ).fetchall()
