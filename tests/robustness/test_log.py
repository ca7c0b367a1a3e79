"""The log of a mapping after an interruption."""

from __future__ import annotations

import json
from pathlib import Path

from gaincell.mapping.folder import RunFolder


def test_steps_that_are_done_again_replace_the_old_ones(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", {"seed": 0})
    for stage, part, steps in (("linear", "1 of 2", 3), ("linear", "2 of 2", 5)):
        for step in range(1, steps + 1):
            folder.log({"stage": stage, "part": part, "step": step, "loss": 1.0})
    log = tmp_path / "run" / "log.jsonl"
    with log.open("a") as file:
        file.write('{"stage": "linear", "pa')  # killed while writing
    folder.rewind_log("linear", "2 of 2", 4)
    kept = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["part"], line["step"]) for line in kept] == [
        *(("1 of 2", step) for step in (1, 2, 3)),
        *(("2 of 2", step) for step in (1, 2, 3)),
    ]
