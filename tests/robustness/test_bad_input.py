"""Bad input, a full disk, Ctrl-C: one line that says what to do and exit code 2, or a run that goes on."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.drawing import blank_figures
from tests.micro import Steps, micro_design, micro_settings, write_micro

from gaincell import files
from gaincell.cli import main
from gaincell.errors import RunError
from gaincell.integrations.hf.attach import attach
from gaincell.integrations.hf.checkpoint import save
from gaincell.integrations.hf.models import load_model
from gaincell.mapping.pipeline import map_model

Micro = tuple[Path, Path]
BLANK = pytest.mark.usefixtures("blank_figures")
Undisturbed = tuple[Path, Path, dict, list[str]]
DESIGN = """extends = "leroux2025"
name = "micro"
window = {{ value = {window}, unit = "1", source = "U", range = [1, 4096] }}
tile = {{ value = {tile}, unit = "1", source = "U", range = [1, 4096] }}
"""


@pytest.fixture
def micro(tmp_path: Path) -> Micro:
    return write_micro(tmp_path)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must end with exit code 2 and one line; returns the line."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("gaincell: error:")]
    assert ended.value.code == 2
    assert len(errors) == 1
    assert "Traceback" not in captured.err
    return errors[0]


def design(tmp_path: Path, window: int = 64, tile: int = 16, more: str = "") -> Path:
    path = tmp_path / "micro.toml"
    path.write_text(DESIGN.format(window=window, tile=tile) + more)
    return path


def test_unknown_model(capsys: pytest.CaptureFixture[str], tmp_path: Path, micro: Micro) -> None:
    line = refused(capsys, "map", tmp_path / "nothing", "--text", micro[1], "--out", tmp_path / "run")
    assert "MODEL is" in line
    assert not (tmp_path / "run").exists()


def test_an_unfinished_run_says_how_it_goes_on(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    files.write_json(tmp_path / "stages" / "settings.json", {})
    for command in (["report"], ["evaluate"], ["generate", "--prompt", "x"]):
        line = refused(capsys, command[0], tmp_path, *command[1:])
        assert "give the command that began it once more" in line


def test_names_too_long_are_refused_before_any_work(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Also where directories above them are missing; the check leaves nothing."""
    for place in (tmp_path / ("x" * 300 + ".png"), tmp_path / "new" / ("x" * 300 + ".png")):
        line = refused(capsys, "baseline", "--batch", "none", "--figure", place)
        assert "nothing can be written" in line
    assert "--batch 'none'" in refused(
        capsys, "baseline", "--batch", "none", "--figure", tmp_path / "a" / ".." / ".." / "b.png"
    )
    assert list(tmp_path.iterdir()) == []
    assert not (tmp_path.parent / "b.png").exists()


def test_unknown_design_key(capsys: pytest.CaptureFixture[str], tmp_path: Path, micro: Micro) -> None:
    chip = design(tmp_path, more='readuot = "counter"\n')
    line = refused(capsys, "map", micro[0], "--design", chip, "--text", micro[1])
    assert "readuot" in line
    assert "did you mean 'readout'" in line


def test_a_tile_that_does_not_divide_the_window(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, micro: Micro
) -> None:
    line = refused(capsys, "map", micro[0], "--design", design(tmp_path, tile=24), "--text", micro[1])
    assert "does not divide" in line


def test_a_text_shorter_than_one_window(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, micro: Micro
) -> None:
    short = tmp_path / "short.txt"
    short.write_text("a few words\n")
    for command in (["map"], ["evaluate"]):
        line = refused(capsys, *command, micro[0], "--text", short)
        assert "give more text" in line
    assert "there is no text" in refused(capsys, "evaluate", micro[0], "--text", tmp_path / "gone.txt")


def test_nan_weight(capsys: pytest.CaptureFixture[str], tmp_path: Path, micro: Micro) -> None:
    weights = load_file(micro[0] / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = torch.nan
    save_file(weights, micro[0] / "model.safetensors", metadata={"format": "pt"})
    line = refused(capsys, "map", micro[0], "--design", design(tmp_path), "--text", micro[1])
    assert "up_proj" in line
    assert "NaN" in line


def test_unmappable_model(capsys: pytest.CaptureFixture[str], tmp_path: Path, micro: Micro) -> None:
    config = json.loads((micro[0] / "config.json").read_text())
    from transformers import BloomConfig, BloomForCausalLM

    alibi = BloomForCausalLM(
        BloomConfig(vocab_size=config["vocab_size"], hidden_size=32, n_layer=1, n_head=2)
    )
    alibi.save_pretrained(micro[0])
    line = refused(capsys, "map", micro[0], "--design", design(tmp_path), "--text", micro[1])
    assert "Bloom" in line
    assert "not modelled" in line


def test_unknown_device_and_protocol(capsys: pytest.CaptureFixture[str], micro: Micro) -> None:
    assert "device" in refused(capsys, "evaluate", micro[0], "--text", micro[1], "--device", "abacus")
    assert "blocks-T" in refused(capsys, "evaluate", micro[0], "--text", micro[1], "--protocol", "sliding")


def test_a_model_without_a_linear_version_cannot_be_adapted(
    capsys: pytest.CaptureFixture[str], micro: Micro
) -> None:
    assert "gaincell map" in refused(capsys, "adapt", micro[0], "--text", micro[1])


def test_a_dump_of_a_software_model(capsys: pytest.CaptureFixture[str], tmp_path: Path, micro: Micro) -> None:
    dump = tmp_path / "dump.safetensors"
    line = refused(capsys, "evaluate", micro[0], "--text", micro[1], "--dump", dump)
    assert "--dump has no effect here: it needs a RUN whose attention is in arrays" in line
    assert not dump.exists()


@pytest.mark.slow
@BLANK
def test_a_run_of_other_settings_or_whose_base_model_changed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, micro: Micro
) -> None:
    """The RUN can neither be evaluated nor gone on with, under these settings or others."""
    settings = micro_settings(*micro, published=False)
    map_model(settings, tmp_path / "run")
    with pytest.raises(RunError, match="seed = 0 there, 1 here"):
        map_model(micro_settings(*micro, published=False, seed=1), tmp_path / "run")
    with pytest.raises(RunError, match="redraw = 'noise' there, 'chip' here"):
        map_model(micro_settings(*micro, published=False, redraw="chip"), tmp_path / "run")
    map_model(settings, tmp_path / "run")
    weights = load_file(micro[0] / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, micro[0] / "model.safetensors", metadata={"format": "pt"})
    assert "has changed" in refused(capsys, "evaluate", tmp_path / "run", "--text", micro[1])
    with pytest.raises(RunError, match="base_sha256"):
        map_model(settings, tmp_path / "run")


def comparable(folder: Path) -> dict:
    """run.json without what differs between two runs of the same thing."""
    run = json.loads((folder / "run.json").read_text())
    del run["provenance"]["date"], run["provenance"]["commit"]
    for stage in run["stages"]:
        del stage["seconds"]
    return run


def complete(folder: Path) -> None:
    """Nothing in a directory is half-written: every file parses, and none is temporary."""
    for path in folder.rglob("*"):
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".safetensors":
            load_file(path)
        assert not path.name.startswith(".")
        assert not path.name.endswith(".tmp")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """(model, text, result, steps) of a mapping that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    model, text = write_micro(folder)
    steps = Steps()
    with blank_figures():
        map_model(micro_settings(model, text), folder / "run", progress=steps)
    return model, text, comparable(folder / "run"), list(dict.fromkeys(steps.names))


@pytest.mark.slow
@BLANK
def test_ctrl_c_in_every_stage(undisturbed: Undisturbed, tmp_path: Path) -> None:
    """One run, interrupted once in every step, ends with the result of one that never was."""
    model, text, expected, steps = undisturbed
    assert len(steps) >= 15
    for step in steps:
        with pytest.raises(KeyboardInterrupt):
            map_model(micro_settings(model, text), tmp_path / "run", progress=Steps(interrupted=step))
        complete(tmp_path / "run")
    map_model(micro_settings(model, text), tmp_path / "run")
    assert comparable(tmp_path / "run") == expected


@pytest.mark.parametrize(
    ("command", "job"), [("map", "pipeline.map_model"), ("codesign", "codesign.codesign_model")]
)
def test_ctrl_c_on_the_command_line(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    job: str,
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"gaincell.mapping.{job}", interrupted)
    with pytest.raises(SystemExit) as ended:
        main([command, "tiny", "--out", str(tmp_path / "run")])
    assert ended.value.code == 130
    assert "the same command goes on" in capsys.readouterr().err


def fail_at(count: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """The disk is full at the n-th file that is put in place; returns whether that happened."""
    calls = {"n": 0}
    replace = os.replace

    def full(source: object, target: object) -> None:
        calls["n"] += 1
        if calls["n"] == count:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "replace", full)
    return lambda: calls["n"] >= count


@pytest.mark.slow
@BLANK
@pytest.mark.parametrize("at", [1, 6, 13, 19])
def test_a_full_disk(
    undisturbed: Undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Whatever file it hits: an error that says so, nothing torn, and the run goes on afterwards."""
    model, text, expected, _ = undisturbed
    with monkeypatch.context() as patch:
        happened = fail_at(at, patch)
        with pytest.raises(RunError, match=r"full|No space left"):
            map_model(micro_settings(model, text), tmp_path / "run")
        assert happened()
    complete(tmp_path / "run")
    map_model(micro_settings(model, text), tmp_path / "run")
    assert comparable(tmp_path / "run") == expected


def test_a_full_device_is_a_full_disk(tmp_path: Path) -> None:
    """The same, from a real device that is full."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")

    def writer(temporary: Path) -> None:
        with open("/dev/full", "w") as full:
            full.write("x" * 100_000)

    with pytest.raises(RunError, match="disk is full"):
        files.write_atomic(tmp_path / "x.json", writer)
    assert not list(tmp_path.iterdir())


def test_evaluations_that_cannot_be(capsys: pytest.CaptureFixture[str], tmp_path: Path, micro: Micro) -> None:
    model, text = micro
    short = tmp_path / "short.txt"
    short.write_text("Few words.")
    for arguments, expected in (
        (("--text", short, "--part", "all", "--protocol", "blocks-64"), "text short.txt (all part) has "),
        (("--text", short, "--part", "all", "--protocol", "blocks-64"), "tokens, fewer than one block of 64"),
        (("--limit", 8, "--protocol", "blocks-64"), "8 tokens at most are read, fewer"),
        (("--chips", 2, "--mismatch", "5%"), "--chips has no effect here: it needs a RUN whose attention"),
        (("--chips", 2, "--mismatch", "lots"), "give a share such as 5% or 0.05"),
        (("--chips", 2, "--by-context"), "do not go together"),
        (("--mismatch", "5%"), "--mismatch has no effect here: it needs --chips"),
        (("--chip-seed", 1), "--chip-seed has no effect here: it needs --chips"),
        (("--chips", 0, "--mismatch", "5%"), "Invalid value for '--chips': "),
        (("--data", tmp_path), "--data has no effect here: it needs --tasks"),
        (("--json", "/proc/none/x.json"), "nothing can be written in /proc"),
        (("--protocol", "strided-64-64"), "give strided-T-S with S from 1 to T - 1"),
        (("--protocol", "rolling-1"), "give rolling-T with T >= 2"),
        (("--protocol", "words-64"), "unknown protocol 'words-64'"),
    ):
        assert expected in refused(capsys, "evaluate", model, "--text", text, *arguments)
    assert "in software" in refused(capsys, "fidelity", model, "--text", text)
    assert "in software" in refused(capsys, "ablate", model, "--text", text, "--protocol", "blocks-64")
    assert "cannot be read" in refused(capsys, "table", tmp_path / "nothing.json")
    assert "ends with .png, .svg, .pdf" in refused(capsys, "ablate", model, "--figure", "a.foo")


@pytest.mark.slow
def test_evaluations_of_a_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, undisturbed: Undisturbed
) -> None:
    model, text, *_ = undisturbed
    run = model.parent / "run"
    there = ("--text", text, "--protocol", "blocks-64", "--limit", 256)
    linear = attach(load_model(str(model)).model, micro_design().replace(cell="linear"))
    ideal = save(linear, tmp_path / "linear")
    for command, *arguments in (
        ("evaluate", *there, "--chips", 2, "--mismatch", "5%", "--json", tmp_path / "chips.json"),
        ("evaluate", *there, "--chips", 2, "--mismatch", "5%", "--at", 1e-3),
        ("evaluate", *there, "--chips", 1, "--mismatch", "5%", "--refresh", "copy", "--refresh-tokens", 8),
        ("evaluate", "--text", text, "--protocol", "rolling-64", "--limit", 2, "--json", tmp_path / "r.json"),
        ("ablate", *there, "--figure", tmp_path / "a.png", "--json", tmp_path / "a.json"),
        (
            "fidelity",
            "--text",
            text,
            "--tokens",
            48,
            "--linear",
            ideal,
            "--figure",
            tmp_path / "f.png",
            "--json",
            tmp_path / "f.json",
        ),
    ):
        with pytest.raises(SystemExit) as ended:
            main([command, str(run), *map(str, arguments)])
        assert ended.value.code == 0, capsys.readouterr().err
    chips = json.loads((tmp_path / "chips.json").read_text())
    assert len(chips["chips"]["perplexity"]["value"]) == 2
    assert chips["text"]["name"] == text.name
    assert json.loads((tmp_path / "r.json").read_text())["documents"]["value"] == 2
    assert json.loads((tmp_path / "a.json").read_text())["ablation"][0]["name"] == "chip"
    assert (tmp_path / "f.png").stat().st_size > 10_000
    inputs = json.loads((tmp_path / "f.json").read_text())["provenance"]["inputs"]
    assert inputs["linear hardware.safetensors"] != inputs["hardware.safetensors"]
    other = shutil.copytree(model, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    save_file(
        weights | {"model.norm.weight": 2 * weights["model.norm.weight"]},
        other / "model.safetensors",
        {"format": "pt"},
    )
    loaded = load_model(str(other)).model
    attach(loaded, micro_design())
    unlike = save(loaded, tmp_path / "unlike")
    line = refused(capsys, "fidelity", run, "--text", text, "--tokens", 48, "--linear", unlike)
    assert "was made from another model than" in line
    line = refused(capsys, "fidelity", run, "--text", text, "--tokens", 48, "--linear", run)
    assert "has polynomial cells; give a RUN with linear ones" in line


def test_words_that_are_no_values(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, micro: Micro, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Empty as from an unset variable, not UTF-8, beyond what a number holds, no place for a file."""
    model, text = micro
    monkeypatch.chdir(model)  # what Path("") would be
    for command, expected in (
        (("evaluate", ""), "argument 2 is empty"),
        (("evaluate", model, "--text", ""), "--text is empty"),
        (("map", model, "--text", text, "--out="), "--out is empty"),
        (("generate", model, "--prompt", "\udcff"), "not UTF-8"),
        (("generate", model, "--prompt", "a", "--temperature", "1e-320"), "give 0.001 or more, or 0"),
        (("evaluate", model, "--threads", 2**31), "--threads"),
        (("evaluate", model, "--limit", 2**63), "at most 4294967295"),
        (("evaluate", model, "--at", "nan"), "give a finite number"),
        (("evaluate", model, "--dump", "/"), "give the name of a file"),
        (("report", "/dev/zero"), "no regular file"),
        (("evaluate", model, "--nosuch"), "No such option"),
        (("nosuch",), "No such command"),
    ):
        assert expected in refused(capsys, *command)


@pytest.mark.parametrize(
    "given", ["x" * 100_000, "a b" * 50_000, "[1, 2, " * 20_000, "'" * 9_999, "\x07 \n" * 999]
)
def test_messages_repeat_a_line_at_most(capsys: pytest.CaptureFixture[str], micro: Micro, given: str) -> None:
    for command in (("evaluate", micro[0], "--text", given), ("design", "show", given), ("evaluate", micro[0],
                    "--protocol", given), ("evaluate", micro[0], "--seed", given)):  # fmt: skip
        line = refused(capsys, *command)
        assert len(line) < 1100
        assert line.isprintable()
