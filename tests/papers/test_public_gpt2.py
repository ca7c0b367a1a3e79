"""The paper's first row: public GPT-2 in software, scored by our path with the harness's own data."""

from __future__ import annotations

import pytest

from gaincell.integrations.hf.models import load_model
from gaincell.reports.comparison import cited_rows
from gaincell.results.comparison import NAMES, task_and_metric

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def test_the_row_of_public_gpt2() -> None:
    from gaincell.evaluation.harness import PAPER_TASKS, evaluate_tasks

    loaded = load_model("openai-community/gpt2")
    found = {
        NAMES.get(task.task, task.task): task
        for task in evaluate_tasks(loaded.model, loaded.tokenizer, PAPER_TASKS).run.tasks
    }
    cited = cited_rows()["GPT-2, public software"]
    for column, entry in cited.items():
        task, metric = task_and_metric(column)
        score = found[task].metrics[metric].score.value
        if metric == "acc" or metric == "acc_norm":
            assert 100 * score == pytest.approx(entry.score.value, abs=0.3), task
        else:
            assert score == pytest.approx(entry.score.value, rel=0.01), task
