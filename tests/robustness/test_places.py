"""Outputs never take the place of what is read, nor of one another; refusals leave nothing."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.robustness.test_bad_input import refused

from gaincell.chips.design_file import load_design
from gaincell.chips.text import commented
from gaincell.cli import main
from gaincell.errors import InputError
from gaincell.mapping.recipe_file import load_recipe
from gaincell.mapping.run_folder import run_lock
from gaincell.reports.baseline import per_token
from gaincell.results import read
from gaincell.results.system_cost import BaselineResult
from gaincell.spice.inputs import check_codes, real_inputs

ROOT = Path(__file__).parents[2]
SCORES = ROOT / "docs" / "results" / "evaluation" / "tasks" / "tiny-adapted.json"
CURVE = "voltage (V),current (uA)\n" + "".join(f"{n / 20},{n - 10}\n" for n in range(19))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a file of each kind, a RUN among them that nothing can be read from."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    Path("c.csv").write_text(CURVE)
    Path("d.toml").write_text(commented(load_design("leroux2025"), "d"))
    Path("m.json").write_bytes(SCORES.read_bytes())
    Path("t.txt").write_text("a text\n" * 20)
    for name in ("run/run.json", "run/hardware.safetensors", "model/config.json", "o/sweep.json"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("{}")
    Path("link.json").symlink_to("m.json")
    return tmp_path


def content(folder: Path) -> dict[str, bytes]:
    """Every file and directory below a folder."""
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def test_an_output_is_no_input(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = content(here)
    for line in (
        "device fit c.csv --json c.csv",
        "device fit c.csv --decay t.txt --json ./t.txt",
        "device fit c.csv --out c.toml --cell d.toml --design d.toml --json d.toml",
        "design show d.toml --json d.toml",
        "design show leroux2025 --cell c.csv --json c.csv",
        "design validate leroux2025 d.toml --json d.toml",
        "design diff leroux2025 d.toml --json d.toml",
        "floorplan d.toml --json d.toml",
        "report m.json --out m.json",
        "report NAME=m.json --out model/../m.json",
        "table m.json --csv link.json",
        "table link.json --json m.json",
        "cost gpt2 --activity m.json --json m.json",
        "simulate tile --inputs m.json --json m.json",
        "evaluate run --text t.txt --json t.txt",
        "evaluate run --dump run/hardware.safetensors",
        "evaluate run --json run/run.json",
        "adapt run --out run",
        "codesign run --out model/../run",
        "map model --out model",
        "map tiny --design d.toml --out new --json d.toml",
        "train d.toml --json d.toml",
        "sweep d.toml --json d.toml",
    ):
        assert "would replace what the command reads" in refused(capsys, *line.split()), line
    assert content(here) == before


def test_outputs_have_places_of_their_own(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = content(here)
    for line in (
        "table m.json --csv a.x --latex a.x",
        "table m.json --json link.json --figure new/../link.json.png --markdown link.json.png",
        "device fit c.csv --json c.toml",
        "device fit c.csv --json c.png",
        "map tiny --out new --json new/run.json",
        "map tiny --json runs/tiny",
        "train d.toml --json runs/d/design.toml",
        "sweep d.toml --out o --json o/sweep.json",
        "cost gpt2 --figures new --json new",
        "spice characterise --json cell.png",
    ):
        assert "would be written to the same place; change one" in refused(capsys, *line.split()), line
    assert content(here) == before


def test_what_is_no_place_may_have_the_name_of_one(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A shipped design, a title, a name; and a new file in a directory that is read."""
    Path("ideal").write_text("old")
    succeed("design", "show", "ideal", "--json", "ideal")
    for _ in range(2):
        succeed("report", "m.json", "--title", "page.html", "--out", "page.html")
    Path("released").mkdir()
    for given in ("evaluate run --json run/new.json", "adapt run --rule released --out released"):
        assert "would replace" not in refused(capsys, *given.split())


def succeed(*arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert not ended.value.code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("design", "new", "a\nb"), "without line breaks"),
        (("design", "new", "a\x7fb"), "without line breaks"),
        (("design", "new", ".."), "give NAME as one word"),
        (("design", "new", "my chip"), "give NAME as one word"),
        (("design", "new", "mine.toml"), "give NAME without .toml: mine"),
        (("design", "new", "ideal"), "the name of a shipped design"),
        (("device", "fit", "c.csv", "--name", "\n"), "visible characters"),
        (("device", "fit", "c.csv", "--name", "x" * 500), "1 to 100"),
        (("device", "fit", "."), "is a directory"),
        (("device", "fit", "/"), "is a directory"),
        (("device", "fit", "c.csv", "--decay", "/dev/zero"), "no regular file"),
        (("device", "fit", "c.csv", "--voltage", "voltage [parsec]"), "allowed: V or mV"),
        (("report", "m.json", "--title", " "), "visible characters"),
        (("report", "m.json", "--out", "x.png"), "ends with .html"),
        (("report", "=m.json"), "the NAME before = is empty"),
        (("table", "=m.json"), "the NAME before = is empty"),
        (("design", "show", "ideal", "--json", "x/"), "names a directory"),
        (("design", "show", "ideal", "--json=x/."), "names a directory"),
        (("floorplan", "--json", "x/.."), "give the name of a file"),
        (("floorplan", "--json", "loop"), "a link to nothing"),
        (("floorplan", "--head-dim", "abc"), "'abc'"),
        (("cost", "gpt2", "--no-measure", "--gpu", "h100"), "it needs --whole-model or --why"),
        (("baseline", "--batch", "9" * 10_000), "give whole numbers above 0"),
        (("baseline", "--context", "²"), "give whole numbers above 0"),
        (("device", "fit", "c.csv", "--voltage", "9" * 10_000), "there is no column"),
        (("evaluate", "run", "--protocol", "blocks-" + "9" * 10_000), "unknown protocol"),
        (("evaluate", "run", "--protocol", "rolling-" + "9" * 10_000), "give rolling-T"),
        (("evaluate", "run", "--text", "~nobodyhere/x"), "cannot find the home directory that ~ refers to"),
        (("generate", "~nobodyhere/x", "--prompt", "x"), "cannot find the home directory that ~ refers to"),
        (("evaluate", "x" * 200), "the maximum length is 96"),
        (("adapt", "o"), "holds neither a model"),
        (("map", "..", "--text", "t.txt"), "holds neither a model"),
        (("sweep", "recipes/sweeps/levels.toml", "--dry-run", "--storage", "/dev/null"), "no regular file"),
        (("sweep", "recipes/sweeps/levels.toml", "--workers", "4000000000"), "4000000000"),
        (("train", "recipes/tiny-table.toml", "--dry-run", "--text", "t.txt"), "the text lacks"),
        (("lm-eval", "run", "--config", "gone.yaml"), "give a file that exists"),
    ],
    ids=lambda value: (
        " ".join(value)[:60].encode("ascii", "replace").decode() if isinstance(value, tuple) else ""
    ),
)
def test_refusals_leave_nothing(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    Path("loop").symlink_to("loop")
    Path("recipes").symlink_to(ROOT / "recipes")
    before = sorted(here.rglob("*"))
    assert message in refused(capsys, *arguments)
    assert sorted(here.rglob("*")) == before


def test_a_dry_run_counts_the_text(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A recipe needs at least a byte a token."""
    recipe = ROOT / "recipes" / "low-tokens.toml"
    Path("texts").mkdir()
    for name in load_recipe(recipe).files:
        Path("texts", f"{name}.txt").write_text("a text\n" * 10_000)
    dry = ["train", recipe, "--dry-run", "--text", "texts"]
    assert "the recipe trains on" in refused(capsys, *dry, "--set", "stage.transfer.steps=99999999999")
    succeed(*map(str, dry), "--set", "stage.transfer.steps=10", "--set", "stage.fine-tuned.steps=5",
            "--set", "stage.software-continued.steps=15")  # fmt: skip


def test_a_result_with_a_gap_is_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = json.loads(SCORES.read_text())
    next(iter(result["tasks"][0]["per_item"].values()))["value"][3] = None
    Path("gap.json").write_text(json.dumps(result))
    for line in (("table", "gap.json"), ("table", "m.json", "gap.json")):
        assert "gap.json.tasks[0].per_item.acc[3] = None; allowed: a value of type float" in refused(
            capsys, *line
        )


def test_codes_are_whole_numbers() -> None:
    codes = torch.zeros(1, 1, 64, 4)
    check_codes(codes, codes, codes, load_design("leroux2025"))
    with pytest.raises(ValueError, match="v_code has codes that are no whole numbers"):
        check_codes(codes, codes, codes + 1e-45, load_design("leroux2025"))


def test_a_dump_that_is_too_short_says_so(tmp_path: Path) -> None:
    codes = torch.zeros(1, 1, 32, 4)
    save_file({f"{name}_code": codes.clone() for name in "qkv"}, tmp_path / "dump.safetensors")
    with pytest.raises(InputError, match="the dump has 32 tokens, a sub-tile 64 columns"):
        real_inputs(tmp_path / "dump.safetensors", load_design("leroux2025"))


def test_codes_of_a_chip_with_other_levels_are_refused(tmp_path: Path) -> None:
    """Code 7 of 8 levels is the highest voltage, of 16 one below the middle."""
    chip = load_design("leroux2025")
    codes = {f"{name}_code": torch.full((1, 1, 64, 4), 7) for name in "qkv"}
    file = tmp_path / "dump.safetensors"
    save_file(codes, file, {"design": chip.to_toml(), "layers": "1"})
    assert real_inputs(file, chip.replace(tile=32)).keys.shape == (4, 32)
    for other in (chip.replace(storage_levels=16), chip.replace(query_levels=32)):
        with pytest.raises(InputError, match="a chip with 16 query and 8 storage levels, design"):
            real_inputs(file, other)


def test_a_broken_journal_is_found_before_anything_is_written(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.remove("o/sweep.json")
    Path("o/points.journal").write_text("no journal")
    refused(capsys, "sweep", ROOT / "recipes" / "sweeps" / "levels.toml", "--out", "o")
    assert os.listdir("o") == ["points.journal"]


def test_a_directory_that_stays_empty_goes_with_those_above_it(here: Path) -> None:
    with run_lock(here / "runs" / "deep" / "new"):
        assert (here / "runs" / "deep" / "new").is_dir()
    assert not (here / "runs").exists()


def test_a_measurement_too_short_for_the_processors_clock_has_its_latency() -> None:
    timing = read(ROOT / "docs" / "results" / "costs" / "baseline-cpu.json", BaselineResult).measurements[0]
    assert per_token(replace(timing, busy=0.0, processor_per_token=None)) == timing.latency_per_token
