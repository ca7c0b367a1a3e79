"""Which model, chip and noise a point is measured with."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from tests.micro import micro_design
from tests.sweep_files import COSTS, HEAD, measured

from gaincell.chips.design import Design
from gaincell.errors import InputError
from gaincell.evaluation.perplexity import perplexity
from gaincell.integrations.hf.attach import attached_layers
from gaincell.integrations.hf.checkpoint import save
from gaincell.integrations.hf.models import load_model
from gaincell.mapping.load_hardware import find_shipped
from gaincell.reports import sweep as reports
from gaincell.sweeps import point as points
from gaincell.sweeps import prepare
from gaincell.sweeps.file import load_sweep
from gaincell.sweeps.point import Bench
from gaincell.sweeps.prepare import Preparation
from gaincell.sweeps.result import _evaluated
from gaincell.text import open_text

pytest.importorskip("optuna")
COMPRESSIVE = Path(__file__).parents[2] / "docs" / "data" / "compressive.toml"


@pytest.mark.parametrize("design", ['"leroux2025"', '{ name = "leroux2025", storage_levels = 2 }'])
def test_the_target_is_of_the_design_the_model_was_made_for(design: str, tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text(
        f'model = "tiny"\ndesign = {design}\nobjectives = ["perplexity"]\n'
        "[parameters]\nstorage_levels = [2]\n"
    )
    sweep, shipped = load_sweep(file), find_shipped("tiny")
    assert shipped is not None
    assert Preparation(sweep, open_text("sample"))._made_for.hash == shipped.design_hash


def test_a_run_is_adapted_from_what_is_saved_in_it(
    write: Callable[..., Path], micro: tuple[Path, Path]
) -> None:
    """Not from a linear stage that its mapping left beside it."""
    stage = micro[0] / "stages" / "linear.safetensors"
    stage.parent.mkdir(exist_ok=True)
    stage.write_bytes(b"of no use")
    try:
        bench = Bench(load_sweep(write("adapt = [true, false]")))
    finally:
        stage.unlink()
        stage.parent.rmdir()
    saved = dict(load_model(micro[0]).model.named_parameters())
    assert all(torch.equal(value, saved[name]) for name, value in bench._ready.state().items())


@pytest.mark.slow
def test_chips_draw_noise_that_no_calibration_met(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = load_sweep(write("noise.output_std = [0.0, 0.2]", HEAD + "chips = 3\n"))
    seen: dict[str, list[int]] = {"adapt": [], "evaluate": []}

    def seed(model: object) -> int:
        return attached_layers(model)[0].design.noise.seed  # type: ignore[arg-type]

    bench = Bench(sweep)
    before_of, closed_form = points.perplexity, prepare.adapt

    def adapting(model: object, *rest: object) -> object:
        seen["adapt"].append(seed(model))
        return closed_form(model, *rest)  # type: ignore[arg-type]

    def evaluating(model: object, *rest: object) -> object:
        seen["evaluate"].append(seed(model))
        return before_of(model, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(prepare, "adapt", adapting)
    monkeypatch.setattr(points, "perplexity", evaluating)
    found, _, _ = bench.measure(0, {"noise.output_std": 0.2})
    assert seen["evaluate"] == [0, 1, 2]
    assert not set(seen["adapt"]) & {0, 1, 2}
    assert found.chips is not None
    assert len(set(found.chips.perplexity)) == 3
    still, _, _ = bench.measure(0, {"noise.output_std": 0.0})
    assert still.chips is not None
    assert len(set(still.chips.perplexity)) == 1
    result = measured(sweep, tmp_path)
    assert "mean over 3 chips that differ by their noise" in reports.caption(result)


def test_a_measured_cell_brings_what_is_drawn_or_nothing(tmp_path: Path) -> None:
    """Chips that would all be alike are refused; what one chip or one draw leaves out of ± is said."""
    number = '{ value = 0.01, unit = "1", source = "F", range = [0.01, 0.01] }'
    brought = {
        "plain": ("", False, False, ""),
        "noisy": (f"[noise]\nread_std = {number}\n", False, True, ", one draw of noise, whose spread is in"),
        "unlike": (f"[mismatch]\ngain_std = {number}\n", True, False, ", one chip, whose spread is in no ±"),
    }
    file = tmp_path / "s.toml"
    for name, (table, spread, noisy, said) in brought.items():
        (tmp_path / f"{name}.toml").write_text(COMPRESSIVE.read_text() + table)
        head = 'model = "tiny"\ndesign = "leroux2025"\nobjectives = ["perplexity"]\n'
        kind = f'[parameters]\ncell.kind = ["linear", "{tmp_path / name}.toml"]\n'
        file.write_text(head + kind)
        sweep = load_sweep(file)
        assert (sweep.spread, sweep.noisy) == (spread, noisy)
        assert said in _evaluated(sweep)
        assert said or "±" not in _evaluated(sweep)
        file.write_text(f"{head}chips = 4\n{kind}")
        with (
            nullcontext() if spread or noisy else pytest.raises(InputError, match="chips = 4, but all chips")
        ):
            assert ", mean over 4 chips" in _evaluated(load_sweep(file))
            assert "±" not in _evaluated(load_sweep(file))


def test_yield_needs_cells_that_differ(write: Callable[..., Path]) -> None:
    head = HEAD.replace('["perplexity"]', '["yield"]') + "chips = 3\n"
    for alike in ("noise.output_std = [0.0, 0.2]", "wires.key_drop = [0.0, 0.2]"):
        with pytest.raises(InputError, match=r"all chips of .* in \[mismatch\].*\[leakage\] spread"):
            load_sweep(write(alike, head))


def test_a_spread_of_retention_makes_chips_and_is_not_in_the_nominal_one(write: Callable[..., Path]) -> None:
    head = HEAD.replace('["perplexity"]', '["perplexity", "yield"]').replace("calibration = 64\n", "")
    head += "chips = 2\nadapt = false\n"
    bench = Bench(load_sweep(write("leakage.spread = [0.0, 1.0]", head)))
    alike, spread = (bench.measure(0, {"leakage.spread": s})[0].chips for s in (0.0, 1.0))
    assert alike is not None
    assert spread is not None
    assert spread.nominal == alike.nominal
    assert len({alike.nominal, *spread.perplexity}) == 3


def test_what_is_saved_is_the_first_chip_as_it_was_measured(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = HEAD.replace('["perplexity"]', '["perplexity", "energy"]') + 'chips = 2\nadapt = "chip"\n'
    bench = Bench(load_sweep(write("mismatch.current_offset_std = [0.2]", head)))
    measure, active = points.measure_activity, []

    def spy(model: object, *rest: object) -> object:
        active.append(attached_layers(model)[0].design)  # type: ignore[arg-type]
        return measure(model, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(points, "measure_activity", spy)
    found, _, _ = bench.measure(0, {"mismatch.current_offset_std": 0.2})
    assert found.chips is not None
    save(bench.model, tmp_path / "run")
    again = perplexity(load_model(tmp_path / "run").model, bench.evaluation, "blocks-64").perplexity
    assert again == pytest.approx(found.chips.perplexity[0], rel=1e-9)
    (design,) = active
    assert isinstance(design, Design)
    assert design.mismatch.current_offset_std == 0.2
    assert design.mismatch.chip == micro_design().mismatch.chip


def test_costs_alone_say_that_nothing_was_evaluated(write: Callable[..., Path], tmp_path: Path) -> None:
    result = measured(load_sweep(write("window = [64, 128]", COSTS)), tmp_path)
    said = reports.caption(result)
    assert "nothing evaluated" in said
    assert "±" not in said
    assert ", text " not in said
    assert "nothing evaluated" in result.provenance.protocol
    for given in ("adapt = [true, false]", "calibration = [64, 128]"):
        with pytest.raises(InputError, match="does not change area or latency"):
            load_sweep(write(given, COSTS))


def test_a_training_longer_than_its_text_is_refused(write: Callable[..., Path]) -> None:
    sweep = load_sweep(write("fine_tune = [0, 100000]"))
    with pytest.raises(InputError, match="fine_tune = 100000 needs"):
        Bench(sweep)
