"""Rows of the harness's tasks from local files, checked one by one; the .yaml files beside this one use it.

A folder holds a file for every task, `TASK.jsonl` or `wikitext2.txt`, as it is or with `.gz`: one JSON object
a line, in which the choices and continuations begin with the one space that joins them to the context.

    arc_easy, arc_challenge, hellaswag, piqa    {"context": str, "choices": [str, ...], "gold": int}
    winogrande                                  {"contexts": [str, ...], "continuation": str, "gold": int}
    lambada_openai                              {"text": str}
    wikitext2                                   plain text in its published layout

With them the harness itself is enough:

    lm-eval run --model hf --model_args pretrained=gpt2 --tasks arc_easy \\
        --include_path .../gaincell/evaluation/tasks --metadata '{"data": "DIRECTORY"}'
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lm_eval.tasks.wikitext.preprocess_wikitext import process_results, wikitext_detokenizer

from gaincell.errors import InputError
from gaincell.evaluation.rolling import articles
from gaincell.files import parse_json
from gaincell.text import LARGEST_SPLIT_FILE, read_lines

__all__ = ["choices", "continuation", "process_results", "rows", "wikitext_detokenizer"]

Row = dict[str, Any]
SPLIT = "local"
"""The name under which the harness finds the rows."""


def rows(data: str | None = None, task: str = "", layout: str = "", **_: Any) -> dict[str, Any]:
    """All rows of a task, as a data set of one split; the harness calls this with a task's metadata.

    Raises:
        InputError: no folder, no file for the task in it, or a row that does not fit (with file and line).
    """
    from datasets import Dataset

    path = file_of(data, task, layout)
    if layout == "pages":
        found: list[Row] = [{"page": page} for page in articles(read_lines(path, LARGEST_SPLIT_FILE))]
    else:
        lines = enumerate(read_lines(path, LARGEST_SPLIT_FILE), 1)
        check = LAYOUTS[layout]
        found = [_row(f"{path.name}, line {n}", line, check) for n, line in lines if line.strip()]
    if not found:
        raise InputError(f"{path.name} holds no row")
    return {SPLIT: Dataset.from_list(found)}


def choices(row: Row) -> list[str]:
    """For `doc_to_choice`: without the space that joins each to its context; the harness puts it there."""
    return [choice[1:] for choice in row["choices"]]


def continuation(row: Row) -> str:
    """For `doc_to_target` where the contexts are the choice; without the space likewise."""
    return str(row["continuation"][1:])


def file_of(data: str | None, task: str, layout: str) -> Path:
    """Where the rows of a task are; the compressed file where both are there.

    Raises:
        InputError: no folder, or no such file in it.
    """
    ending = "txt" if layout == "pages" else "jsonl"
    if not data:
        raise InputError(f"task {task} reads local files: say where, with --data DIR")
    folder = Path(data).expanduser()
    if not folder.is_dir():
        raise InputError(f"there is no folder {data!r}; --data takes one that holds {task}.{ending}[.gz]")
    for name in (f"{task}.{ending}.gz", f"{task}.{ending}"):
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"{data} holds no {task}.{ending} or {task}.{ending}.gz")


def _row(where: str, line: str, check: Callable[[Row], str | None]) -> Row:
    try:
        row = parse_json(line)
    except ValueError as error:
        raise InputError(f"{where}: not JSON ({error})") from error
    if reason := check(row) if isinstance(row, dict) else "not an object":
        raise InputError(f"{where}: {reason}")
    return dict(row)


def _choices_row(row: Row) -> str | None:
    return _text(row, "context") or _texts(row, "choices") or _gold(row, "choices")


def _contexts_row(row: Row) -> str | None:
    if reason := _text(row, "continuation") or _texts(row, "contexts", joined=False):
        return reason
    if not row["continuation"].startswith(" "):
        return "the continuation must begin with a space"
    return _gold(row, "contexts")


def _text_row(row: Row) -> str | None:
    reason = _text(row, "text")
    if reason is None and not row["text"].split(" ")[-1]:
        reason = "the text must end with a word, not with a space"
    return reason or (None if " " in row["text"].strip(" ") else "the text has no word before the last one")


def _text(row: Row, key: str) -> str | None:
    return None if isinstance(row.get(key), str) and row[key].strip() else f"{key!r} must be a text"


def _texts(row: Row, key: str, joined: bool = True) -> str | None:
    texts = row.get(key)
    if not isinstance(texts, list) or len(texts) < 2 or not all(isinstance(t, str) and t for t in texts):
        return f"{key!r} must be a list of two texts or more"
    if joined and not all(t.startswith(" ") and len(t) > 1 for t in texts):
        return f"every one of {key!r} must begin with a space and go on after it"
    return None


def _gold(row: Row, key: str) -> str | None:
    gold = row.get("gold")
    if isinstance(gold, bool) or not isinstance(gold, int) or not 0 <= gold < len(row[key]):
        return f"'gold' must be one of 0 to {len(row[key]) - 1}, and is {gold!r}"
    return None


LAYOUTS = {"choices": _choices_row, "contexts": _contexts_row, "text": _text_row}
