"""The main job on a micro model, its results, and what is made from them."""

import json
import os
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.drawing import blank_figures
from tests.micro import micro_design, micro_settings, write_micro
from transformers import AutoModelForCausalLM, PreTrainedModel
from typer.testing import CliRunner

from gaincell.adaptation.statistics import attached
from gaincell.chips.design_file import load_design
from gaincell.cli import app
from gaincell.errors import InputError, ModelError, RunError
from gaincell.evaluation.perplexity import perplexity
from gaincell.integrations.hf import models
from gaincell.integrations.hf.base_model import BaseModel, load_base
from gaincell.integrations.hf.models import load_model
from gaincell.mapping.codesign import CodesignSettings, codesign_model
from gaincell.mapping.load_hardware import find_start
from gaincell.mapping.pipeline import STAGES, Job, linear_is_shipped, map_model, prepare
from gaincell.mapping.readapt import AdaptSettings, adapt_model, chip_titles
from gaincell.mapping.settings import MapSettings
from gaincell.progress import silent_stages
from gaincell.reports.figures import FIGURES
from gaincell.reports.style import save_all
from gaincell.reports.tables import adaptation_lines, perplexity_rows, perplexity_table
from gaincell.results import content, read, write
from gaincell.results.codec import to_json
from gaincell.results.provenance import without_paths
from gaincell.results.run import AdaptedResult, MappedResult

Mapped = tuple[Path, Path, Path, MappedResult]


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> Mapped:
    """(model, text, RUN, run.json) of one mapping."""
    folder = tmp_path_factory.mktemp("map")
    model, text = write_micro(folder)
    run = folder / "run"
    command = ["gaincell", "map", str(model), "--text", str(text), f"--out={run}"]
    with blank_figures():
        return model, text, run, map_model(micro_settings(model, text), run, command=command)


def test_every_stage_is_there(mapped: Mapped) -> None:
    _, _, folder, run = mapped
    assert [stage.name for stage in run.stages] == [stage.name for stage in STAGES]
    tokens = {stage.name: stage.training_tokens for stage in run.stages}
    assert tokens["software"] == 0
    assert tokens["linear"] == tokens["adapted"] == tokens["unadapted"] == tokens["software-continued"] > 0
    assert tokens["fine-tuned"] == tokens["software-continued-more"] == 16 * 64
    assert run.adaptation["closed-form"].converged
    assert run.adaptation["closed-form"].forward_passes <= 2.5
    by_name = {stage.name: stage for stage in run.stages}
    ratio = by_name["fine-tuned"].perplexity / by_name["software-continued-more"].perplexity
    assert by_name["fine-tuned"].ratio_to_continued == pytest.approx(ratio)
    assert {path.name for path in folder.iterdir()} == {
        "run.json", "design.toml", "hardware.safetensors", "figures", "log.jsonl", "stages"
    }  # fmt: skip
    assert not list(folder.glob("stages/*.checkpoint"))
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert {line["stage"] for line in lines} == {
        "software-continued", "linear", "software-continued-more", "fine-tuned"
    }  # fmt: skip


def test_the_saved_run_evaluates_to_the_perplexity_of_its_table(mapped: Mapped) -> None:
    model, text, folder, run = mapped
    job = prepare(micro_settings(model, text), folder, silent_stages)
    loaded = load_model(folder)
    assert attached(loaded.model)[0].design.cell.name == "polynomial"
    found = perplexity(loaded.model, job.evaluation, "blocks-64")
    assert found.perplexity == pytest.approx(run.stages[-1].perplexity, rel=1e-6)


def test_the_software_model_is_the_pretrained_one(mapped: Mapped) -> None:
    model, text, folder, run = mapped
    job = prepare(micro_settings(model, text), folder, silent_stages)
    found = perplexity(load_model(model).model, job.evaluation, "blocks-64")
    assert found.perplexity == pytest.approx(run.stages[0].perplexity, rel=1e-6)


def test_training_and_evaluation_text_do_not_overlap(mapped: Mapped) -> None:
    model, text, folder, _ = mapped
    job = prepare(micro_settings(model, text), folder, silent_stages)
    evaluation = {tuple(block) for block in job.evaluation[:256].view(-1, 16).tolist()}
    training = job.training.flatten().tolist()
    windows = {tuple(training[n : n + 16]) for n in range(len(training) - 15)}
    assert not evaluation & windows


def test_run_json_states_unit_and_kind_of_every_number(mapped: Mapped, tmp_path: Path) -> None:
    _, _, folder, run = mapped
    assert content(folder) == json.loads(json.dumps(to_json(run)))
    assert read(folder, MappedResult) == run
    for bad in ({"x": 1.0}, {"x": {"value": 1, "unit": "V"}}, {"x": [{"y": 2}]}):
        with pytest.raises(ValueError, match=r"nonideality\.x"):
            write(replace(run, design=replace(run.design, nonideality=bad)), tmp_path / "run.json")
    assert not (tmp_path / "run.json").exists()


def test_run_json_holds_no_local_path(mapped: Mapped) -> None:
    model, _, folder, run = mapped
    text = (folder / "run.json").read_text()
    for path in (str(folder.parent), os.path.expanduser("~") + "/", os.getcwd()):
        assert path not in text
    provenance = run.provenance
    assert provenance.command == "gaincell map micro --text words.txt --out=run"
    assert provenance.inputs["model micro"] == load_model(model).sha256
    assert provenance.design_hash == attached(load_model(folder).model)[0].design.hash
    assert set(provenance.versions) == {"python", "torch", "transformers", "gaincell"}
    assert (provenance.hardware.cores or 0) >= 1


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (["gaincell", "map", "openai-community/gpt2"], "gaincell map openai-community/gpt2"),
        (["gaincell", "map", "/home/me/models/big/"], "gaincell map big"),
        (["gaincell", "map", "tiny", "--out", "runs/a"], "gaincell map tiny --out a"),
        (["gaincell", "map", "tiny", "--json=../x/y.json"], "gaincell map tiny --json=y.json"),
        (["gaincell", "map", "~/m", "--text", "a/b/c"], "gaincell map m --text c"),
        (["gaincell", "table", "chip=docs/results/a.json"], "gaincell table chip=a.json"),
    ],
)  # fmt: skip
def test_commands_are_recorded_without_paths(given: list[str], shown: str) -> None:
    assert " ".join(without_paths(given)) == shown


@pytest.mark.usefixtures("blank_figures")
def test_figures_and_tables_come_from_run_json_alone(mapped: Mapped, tmp_path: Path) -> None:
    _, _, folder, _ = mapped
    copy = tmp_path / "run.json"
    copy.write_bytes((folder / "run.json").read_bytes())
    run = read(copy, MappedResult)
    drawn = save_all(FIGURES, run, tmp_path / "figures")
    assert {path.stem for path in drawn} == {"perplexity", "adaptation", "mismatch", "codes", "cell"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)
    rows = perplexity_rows(run)
    assert [row[0] for row in rows] == [stage.title for stage in STAGES]
    markdown = perplexity_table(run).markdown()
    assert "blocks-64" in markdown
    assert all(stage.title in markdown for stage in STAGES)
    assert len(adaptation_lines(run)) == 2


def test_ratios_to_continued_software_are_paired_block_by_block(mapped: Mapped) -> None:
    """Their error is that of differences on the same blocks, and stands beside them."""
    by_name = {stage.name: stage for stage in mapped[3].stages}
    tuned, software = by_name["fine-tuned"], by_name["software-continued-more"]
    ours, theirs = (torch.tensor(stage.blocks.nll) for stage in (tuned, software))
    counts = tuned.blocks.predictions
    assert sum(tuned.blocks.nll) == pytest.approx(tuned.nll, rel=1e-6)
    nats = (ours - theirs) / counts[0]
    ratio, error = tuned.ratio_to_continued, tuned.ratio_to_continued_error
    assert ratio == pytest.approx(float(nats.mean().exp()), rel=1e-5)
    assert error == pytest.approx(ratio * float(nats.std()) / len(counts) ** 0.5, rel=1e-3)
    row = next(row for row in perplexity_rows(mapped[3]) if row[0] == tuned.title)
    assert " ± " in row[-1]
    assert "paired block by block" in perplexity_table(mapped[3]).markdown()
    stages = tuple(replace(stage, ratio_to_continued_error=None) for stage in mapped[3].stages)
    old = replace(mapped[3], stages=stages)
    assert "without ±, which needs stored losses of two blocks or more" in perplexity_table(old).markdown()
    assert "±" not in perplexity_rows(old)[-1][-1]


@pytest.mark.slow
def test_infinite_perplexities_survive(mapped: Mapped, tmp_path: Path) -> None:
    stages = [*mapped[3].stages]
    stages[3] = replace(stages[3], perplexity=float("inf"), nll=float("inf"))
    write(replace(mapped[3], stages=tuple(stages)), tmp_path / "run.json")
    run = read(tmp_path, MappedResult)
    assert run.stages[3].perplexity == float("inf")
    save_all(FIGURES, run, tmp_path / "figures")
    assert "inf" in perplexity_table(run).markdown()


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
def test_a_run_can_be_adapted_to_another_cell(mapped: Mapped, tmp_path: Path) -> None:
    _, text, folder, made = mapped
    settings = AdaptSettings(
        str(folder), None, "x3", text=str(text), evaluation_tokens=256, calibration_tokens=256
    )
    run = adapt_model(settings, micro_design(), tmp_path / "x3")
    assert [stage.name for stage in run.stages] == ["linear", "unadapted", "adapted"]
    trained = next(stage.training_tokens for stage in made.stages if stage.name == "linear")
    assert trained > 0
    assert [stage.training_tokens for stage in run.stages] == [trained] * 3
    assert run.design.cell == "x3"
    assert [stage.title for stage in run.stages] == ["linear cell", "x3 cell, unadapted", "x3 cell, adapted"]
    assert run.adaptation["closed-form"].converged
    assert attached(load_model(tmp_path / "x3").model)[0].design.cell.name == "x3"


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
def test_an_adaptation_is_replaced_by_the_same_one_alone(
    mapped: Mapped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gives what is there; an unfinished one goes on, with all its figures."""
    out, chip = tmp_path / "first", micro_design()
    settings = AdaptSettings(
        str(mapped[2]), None, "x3", "published", max_iterations=2, text=str(mapped[1]),
        evaluation_tokens=256, calibration_tokens=256,
    )  # fmt: skip
    adapt_model(settings, chip, out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert out / "figures" / "adaptation.png" in before
    for changes, words in (
        ({"cell": "x5"}, "(cell = 'x3' there, 'x5' here)"),
        ({"evaluation_tokens": 128}, "(evaluation_tokens = '256' there, '128' here)"),
        ({"max_iterations": 3}, "(max_iterations = '2' there, '3' here)"),
    ):
        message = re.escape(f"first holds a run with other settings {words}; choose another --out, or remove")
        with pytest.raises(RunError, match=message):
            adapt_model(replace(settings, **changes), chip, out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    adapt_model(settings, chip, out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    signed = load_design("leroux2025-signed").replace(window=64, tile=16)
    other, out = replace(settings, design=signed, cell="linear", method="closed-form"), tmp_path / "second"
    with monkeypatch.context() as patch:
        patch.setattr("gaincell.mapping.readapt.save_beside_results", killed)
        with pytest.raises(KeyboardInterrupt):
            adapt_model(other, chip, out)
    assert not (out / "run.json").exists()
    with pytest.raises(RunError, match="second holds a run with other settings"):
        adapt_model(settings, chip, out)
    run = adapt_model(other, chip, out)
    assert read(out, AdaptedResult) == run
    assert not (out / "figures" / "adaptation.png").exists()
    assert [stage.title for stage in run.stages] == [
        "linear cell on leroux2025",
        "linear cell on leroux2025-signed, unadapted",
        "linear cell on leroux2025-signed, adapted",
    ]


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (MapSettings, {"budget": -1}, "budget = -1; allowed: a whole number of 0 or more"),
        (
            AdaptSettings,
            {"method": "publised"},
            "allowed: closed-form or published (did you mean 'published'?)",
        ),
        (AdaptSettings, {"evaluation_tokens": -5}, "evaluation_tokens = -5; allowed: a whole number of 0 or"),
        (AdaptSettings, {"dtype": "float99"}, "dtype = 'float99'; allowed: float32 or bfloat16"),
        (AdaptSettings, {"design": "leroux2025"}, "design = 'leroux2025'; allowed: a Design"),
        (CodesignSettings, {"steps": 0}, "steps = 0; allowed: a whole number of 1 or more"),
        (CodesignSettings, {"rate": float("nan")}, "rate = nan; allowed: a number from 0 to 3e+38"),
        (CodesignSettings, {"learn": ("level",)}, "(did you mean 'levels'?)"),
        (CodesignSettings, {"learn": "levels"}, "learn = 'levels'; allowed: a list"),
    ],
)
def test_settings_name_what_they_cannot_use(kind: Any, given: dict[str, Any], message: str) -> None:
    design = load_design("leroux2025")
    with pytest.raises(InputError, match=re.escape(message)):
        kind(
            **(
                {"model": "tiny", "design": design}
                | ({"cell": None} if kind is AdaptSettings else {})
                | given
            )
        )


def test_titles_tell_chips_of_one_name_apart() -> None:
    chip, short = micro_design(), micro_design().replace(window=32, cell="x3")
    expected = [f"polynomial cell on leroux2025 ({chip.hash})", f"x3 cell on leroux2025 ({short.hash})"]
    assert chip_titles(chip, short) == expected


def test_what_is_in_arrays_is_not_mapped_again(mapped: Mapped, tmp_path: Path) -> None:
    _, text, folder, _ = mapped
    with pytest.raises(ModelError, match="run is in arrays already; give the pretrained model"):
        map_model(micro_settings(folder, text), tmp_path / "out")


def test_a_missing_model_is_said_to_be_missing_where_the_run_would_have_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="'missing' is not a file or directory here"):
        map_model(micro_settings(Path("missing"), Path("text")), Path("missing"))
    with pytest.raises(ModelError, match="there is no file or directory 'runs/missing' here"):
        find_start("runs/missing")
    assert not any(tmp_path.iterdir())


def test_a_run_of_another_kind_is_not_replaced(mapped: Mapped) -> None:
    model, text, folder, _ = mapped
    settings = AdaptSettings(str(model), None, "x3", text=str(text))
    with pytest.raises(RunError, match="run holds a run of another kind; choose another --out"):
        adapt_model(settings, micro_design(), folder)
    with pytest.raises(RunError, match="run holds a run of another kind"):
        codesign_model(CodesignSettings(str(model), text=str(text)), micro_design(), folder)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "run.json",
            b"{",
            r"run\.json cannot be read .*; give another --out, or remove run and give the command",
        ),
        (
            "hardware.safetensors",
            None,
            r"run has a run\.json, but lost its model .* is missing\); give another",
        ),
        ("hardware.safetensors", b"\0", r"run has a run\.json, but lost its model .* cannot be read"),
        ("design.toml", b"", r"run has a run\.json, but lost its model "),
    ],
)
def test_a_finished_run_that_lost_something_says_so_and_loses_no_more(
    mapped: Mapped, tmp_path: Path, file: str, content: bytes | None, message: str
) -> None:
    model, text, folder, _ = mapped
    run = shutil.copytree(folder, tmp_path / "run")
    (run / file).unlink() if content is None else (run / file).write_bytes(content)
    before = {path: path.stat().st_mtime for path in run.rglob("*.safetensors")}
    with pytest.raises(RunError, match=message):
        map_model(micro_settings(model, text), run)
    assert {path: path.stat().st_mtime for path in run.rglob("*.safetensors")} == before


def test_a_design_of_ones_own_is_not_replaced(mapped: Mapped, tmp_path: Path) -> None:
    model, text, *_ = mapped
    own = micro_design().save(tmp_path / "design.toml")
    before = own.read_bytes()
    with pytest.raises(
        RunError, match=r"holds a design\.toml of no run that began there; choose another --out"
    ):
        map_model(micro_settings(model, text), tmp_path)
    assert own.read_bytes() == before


def test_the_rate_of_a_linear_model_that_is_shipped_is_refused(tmp_path: Path) -> None:
    options = ["--learning-rate", "1e-3", "--out", str(tmp_path / "run")]
    found = CliRunner().invoke(app, ["map", "tiny", *options])
    assert found.exit_code == 2
    assert "--learning-rate has no effect here: it needs a linear model to train" in found.output
    settings = MapSettings("tiny", load_design("igzo"))
    assert not linear_is_shipped(settings, 6)
    assert not linear_is_shipped(replace(settings, design=load_design("leroux2025"), lora=4), 6)


def test_peft_is_asked_for_before_a_model_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InputError, match=r"adapters need the extra: pip install 'gaincell\[train\]'"):
        prepare(micro_settings(tmp_path / "none", tmp_path / "none", lora=2), tmp_path / "run", silent_stages)


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
def test_a_map_with_adapters(tmp_path: Path) -> None:
    model, text = write_micro(tmp_path)
    out = tmp_path / "run"
    run = map_model(micro_settings(model, text, lora=2, published=False), out)
    assert run.adaptation["closed-form"].converged
    saved = load_file(out / "hardware.safetensors")
    assert any(name.endswith(".weight.lora_A") for name in saved)
    assert all(".lora_" in name or ".gain_cell." in name for name in saved)
    base, adapted = load_model(model).model, load_model(out).model
    assert {n for n, _ in adapted.named_parameters() if ".gain_cell." not in n} == {
        n for n, _ in base.named_parameters()
    }
    other = AdaptSettings(str(out), None, "x3", text=str(text), evaluation_tokens=256, calibration_tokens=256)
    again = adapt_model(other, micro_design(), tmp_path / "x3")
    linear = next(stage for stage in run.stages if stage.name == "linear")
    assert again.stages[0].perplexity == pytest.approx(linear.perplexity, rel=1e-4)
    assert load_model(tmp_path / "x3").model is not None


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
def test_a_map_with_adapters_keeps_bfloat16_and_reads_the_model_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No weight that is not trained has a copy, in whichever type."""
    model, text = write_micro(tmp_path)
    AutoModelForCausalLM.from_pretrained(model).to(torch.bfloat16).save_pretrained(model)
    reads = []

    def read(*arguments: Any, **keywords: Any) -> BaseModel:
        reads.append(load_base(*arguments, **keywords))
        return reads[-1]

    monkeypatch.setattr(models, "load_base", read)
    monkeypatch.setattr("gaincell.integrations.hf.run.load_base", read)
    teachers = []
    make = Job.teacher

    def teacher_of(job: Job, state: Path | None) -> PreTrainedModel:
        teachers.append(make(job, state))
        return teachers[-1]

    monkeypatch.setattr(Job, "teacher", teacher_of)
    run = map_model(micro_settings(model, text, lora=2, published=False), tmp_path / "run")
    assert len(reads) == 1
    weights = {n: p for n, p in reads[0].model.named_parameters() if ".lora_" not in n and ".gain_" not in n}
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    assert len(teachers) == 2
    for teacher in teachers:
        own = dict(teacher.named_parameters())
        assert all(own[name].data_ptr() == weight.data_ptr() for name, weight in weights.items())
    assert "weights in bfloat16" in run.provenance.protocol
    loaded = load_model(tmp_path / "run", torch.bfloat16).model
    job = prepare(micro_settings(model, text, lora=2, published=False), tmp_path / "run", silent_stages)
    found = perplexity(loaded, job.evaluation, "blocks-64")
    assert found.perplexity == pytest.approx(run.stages[-1].perplexity, rel=0.02)
