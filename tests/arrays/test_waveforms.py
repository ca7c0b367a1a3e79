"""Waveforms end where the trace says; the commands that draw them."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from gaincell.arrays import HeadArray
from gaincell.arrays.simulation import random_signals, step_through
from gaincell.arrays.waveforms import waveforms
from gaincell.chips.design_file import Design, load_design
from gaincell.circuits.converter_errors import Converters
from gaincell.circuits.noise import Noise
from gaincell.circuits.readout import READOUTS
from gaincell.circuits.sinks import Sinks
from gaincell.cli import app
from gaincell.devices.leakage import Leakage
from gaincell.errors import InputError
from gaincell.progress import silent_stages
from gaincell.results import read
from gaincell.results.codec import to_json
from gaincell.results.simulation import HeadResult, TileResult
from gaincell.text import sha256


def stepped(tokens: int = 20, **changes: object) -> HeadArray:
    chip: dict[str, Any] = {"tile": 16, "window": 64, **changes}
    head = HeadArray(load_design("leroux2025").replace(**chip), 16, heads=2, kv_heads=1)
    random = torch.Generator().manual_seed(2)
    for _ in range(tokens):
        q = torch.rand(1, 2, 16, generator=random, dtype=torch.float64)
        k, v = torch.rand(2, 1, 1, 16, generator=random, dtype=torch.float64)
        head.step(q, k, v)
    return head


@pytest.mark.parametrize("column", [None, 3])
def test_integrators_end_at_the_charges_of_the_trace(column: int | None) -> None:
    trace = stepped().trace
    assert trace is not None
    found = waveforms(trace, head=1, column=column, row=5)
    shown = int(trace.column[0]) if column is None else column
    charge = float(trace.scores[0, 1, shown]) * trace.design.charge_unit
    assert found.key_charge[-1] == pytest.approx(charge, rel=1e-9, abs=0)
    charge = float(trace.tile_charge[0, 1, shown // 16, 5]) * trace.design.charge_unit
    assert found.value_charge[-1] == pytest.approx(charge, rel=1e-9, abs=0)
    assert found.count[-1] == int(trace.tile_codes[0, 1, shown // 16, 5])
    step = found.time[1]
    integrated = sum(found.key_current) * step
    assert integrated == pytest.approx(found.key_charge[-1], rel=0.02, abs=0), (
        "current integrates to the charge"
    )
    pulse = float(trace.query[0, 1, 0]) * trace.design.t_pulse_max
    assert sum(found.word_lines[0]) * step == pytest.approx(pulse, abs=2 * step)


@pytest.mark.parametrize("readout", [name for name in READOUTS if name != "none"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"counter_clock": 2e9},
        {"window": 16, "output_saturation_per_column": 0.5},
        {"output_saturation_per_column": 0.05, "output_ceiling": False},
    ],
)
def test_the_counter_ends_at_the_code_of_the_design(readout: str, changes: dict[str, float]) -> None:
    head = stepped(readout=readout, **changes)
    trace = head.trace
    assert trace is not None
    codes = trace.tile_codes[0, 1, int(trace.column[0]) // 16]
    for row, code in enumerate(codes.tolist()):
        found = waveforms(trace, head=1, row=row)
        after = len(found.output) - found.output[::-1].index(1.0)
        assert set(found.count[after:]) == {code}
        assert all(abs(now) <= abs(later) for now, later in pairwise(found.count))


def test_without_ceilings_the_waveforms_go_on_until_the_last_pulse_has_ended() -> None:
    chip = {"output_saturation_per_column": 0.01, "score_saturation_per_row": 0.01}
    trace = stepped(score_ceiling=False, output_ceiling=False, **chip).trace
    assert trace is not None
    assert trace.pulses.max() > 3
    found = waveforms(trace, row=5)
    assert found.time[-1] > waveforms(stepped().trace).time[-1]  # type: ignore[arg-type]
    tile = int(trace.column[0]) // 16
    charge = float(trace.tile_charge[0, 0, tile, 5]) * trace.design.charge_unit
    assert found.value_charge[-1] == pytest.approx(charge, rel=1e-9, abs=0)
    assert found.count[-1] == int(trace.tile_codes[0, 0, tile, 5])
    assert abs(found.count[-1]) >= trace.design.counter_levels


def test_columns_that_hold_nothing_are_refused() -> None:
    trace = stepped().trace
    assert trace is not None
    with pytest.raises(InputError, match="holds no token yet"):
        waveforms(trace, column=40)
    with pytest.raises(InputError, match="no row 16"):
        waveforms(trace, row=16)


def test_what_a_waveform_would_leave_out_is_refused() -> None:
    chip = load_design("leroux2025").replace(tile=16, window=64)
    step = [torch.full((1, 1, 16), signal, dtype=torch.float64) for signal in (0.5, 0.9, 0.3)]
    converters = Converters(ramp_gain_std=0.1)
    for other in (chip.replace(noise=Noise(score_std=0.05)), chip.replace(converters=converters)):
        head = HeadArray(other, 16)
        head.step(*step)
        assert head.trace is not None
        with pytest.raises(InputError, match="neither noise of reads nor errors of converters"):
            waveforms(head.trace)
    trace = stepped(1, readout="none").trace
    assert trace is not None
    with pytest.raises(InputError, match="waveforms show a counter; give a design"):
        waveforms(trace)
    beside = HeadArray(chip.replace(sinks=Sinks(tokens=4)), 16)
    beside.step(*step)
    assert beside.trace is not None
    with pytest.raises(InputError, match="no token was written to the ring yet"):
        waveforms(beside.trace)


def test_tokens_beside_the_ring_fill_no_column_of_it() -> None:
    design = load_design("leroux2025").replace(tile=16, window=64, sinks=Sinks(tokens=4))
    _, steps = step_through(design, random_signals(design, 6, 1, 16, 0), None, silent_stages)
    assert [step.columns_held for step in steps] == [0, 0, 0, 0, 1, 2]


def test_stored_voltages_decay_to_where_the_design_says() -> None:
    chip = load_design("leroux2025").replace(tile=16, window=64, retention_time=1e-6)
    chip = chip.replace(leakage=Leakage(decay_voltage=0.1))
    head = HeadArray(chip, 16)
    head.step(*(torch.full((1, 1, 16), signal, dtype=torch.float64) for signal in (0.5, 0.9, 0.3)))
    assert head.trace is not None
    stored = waveforms(head.trace).stored[0]
    assert stored[0] == pytest.approx(0.9, abs=1e-6)
    assert stored[-1] == pytest.approx(0.1, abs=1e-6)  # 50 retention times later


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
def test_simulate_draws_and_stores(tmp_path: Path) -> None:
    figures, out = tmp_path / "figures", tmp_path / "head.json"
    options = ["--figures", str(figures), "--json", str(out)]
    result = CliRunner().invoke(app, ["simulate", "head", "--tokens", "70", "--group", "2", *options])
    assert result.exit_code == 0, result.output
    found = read(out, HeadResult)
    assert found.schedule.latency == pytest.approx(95e-9)
    assert len(found.trace) == 70
    assert to_json(found) == json.loads(out.read_text())
    result = CliRunner().invoke(app, ["simulate", "tile", "--tokens", "10", *options])
    assert result.exit_code == 0, result.output
    assert to_json(read(out, TileResult)) == json.loads(out.read_text())
    assert {path.name for path in figures.iterdir()} == {"timeline.png", "trace.png", "waveforms.png"}
    result = CliRunner().invoke(app, ["simulate", "tile", "--inputs", str(out), *options])
    assert result.exit_code == 2


@pytest.mark.usefixtures("blank_figures")
def test_figures_of_every_design_have_a_place_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    load_design("leroux2025").replace(name="../my chip").save("chip.toml")
    for design in ("leroux2025", "chip.toml"):
        for command in (["head", "--tokens", "2"], ["tile", "--tokens", "1"]):
            result = CliRunner().invoke(app, ["simulate", *command, "--design", design])
            assert result.exit_code == 0, result.output
    found = {str(path.parent) for path in Path().rglob("*.png")}
    assert found == {"runs/simulate/leroux2025", "runs/simulate/-my-chip"}
    result = CliRunner().invoke(app, ["simulate", "tile", "--json", "runs/simulate/leroux2025"])
    assert result.exit_code == 2
    assert len([*Path().rglob("*.png")]) == 6


@pytest.mark.usefixtures("blank_figures")
def test_the_layers_and_the_token_period_of_a_design_are_its_own(tmp_path: Path) -> None:
    out, chip = tmp_path / "head.json", tmp_path / "chip.toml"

    def period(design: Design, *options: str) -> float:
        design.save(chip)
        command = ["simulate", "head", "--tokens", "3", "--design", str(chip), "--figures", str(tmp_path)]
        result = CliRunner().invoke(app, [*command, "--json", str(out), *options])
        assert result.exit_code == 0, result.output
        found = read(out, HeadResult)
        assert found.provenance.inputs == {"design chip.toml": sha256(chip)}
        assert found.trace[2].time - found.trace[1].time == pytest.approx(found.schedule.token_period)
        assert bool(found.sensitivity) == ("If the assumed latency" in result.output)
        return found.schedule.token_period

    design = load_design("leroux2025")
    assert period(design.replace(layers=30)) == pytest.approx(30 * 65e-9)
    slow = design.replace(token_period=1e-4)
    assert period(slow) == pytest.approx(1e-4)
    assert period(slow, "--layers", "2") == pytest.approx(2 * 65e-9)
    assert period(slow, "--other-latency", "1e-6") == pytest.approx(12 * 1.065e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
def test_both_simulations_of_a_dump_have_the_period_of_its_layers(tmp_path: Path) -> None:
    """Six layers on a named chip of twelve: a token every 6 x 65 ns; of 9 tokens none is made up."""
    design, dump, out = load_design("leroux2025"), tmp_path / "layer.safetensors", tmp_path / "out.json"
    codes = {f"{name}_code": torch.randint(8, (1, 1, 9, 64)) for name in "qkv"}
    save_file(codes, dump, {"design": design.to_toml(), "layers": "6"})
    options = ["--inputs", str(dump), "--design", "leroux2025", "--figures", str(tmp_path)]
    periods = []

    def stepped(chip: Design, *rest: object) -> object:
        periods.append(chip.token_period)
        return step_through(chip, *rest)

    for command in ("head", "tile"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("gaincell.arrays.simulation.step_through", stepped)
            result = CliRunner().invoke(app, ["simulate", command, *options, "--json", str(out)])
        assert result.exit_code == 0, result.output
        result = CliRunner().invoke(app, ["simulate", command, *options, "--tokens", "10"])
        assert result.exit_code == 2
        assert "holds 9 tokens" in result.output
    assert periods == pytest.approx([6 * 65e-9] * 2)
