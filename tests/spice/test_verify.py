"""SPICE against the behavioural model, quickly: 4 columns of 64 cells."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tests.spice.counter import counter_bench
from typer.testing import CliRunner

from gaincell.chips.design_file import load_design
from gaincell.cli import app
from gaincell.cli._spice_options import DumpOptions
from gaincell.errors import InputError, SimulationError
from gaincell.results import parse, read
from gaincell.results.codec import to_json
from gaincell.results.spice import VerifyResult
from gaincell.spice import wires
from gaincell.spice.inputs import random_inputs, real_inputs
from gaincell.spice.netlists.array import WireElement
from gaincell.spice.netlists.readout import RELU, Phases, Readout
from gaincell.spice.pulses import decided_width, pulse_width
from gaincell.spice.rawfile import Plot
from gaincell.spice.runner import available, run
from gaincell.spice.technology import Site, technology
from gaincell.spice.verify import CUBIC, Verified, count, energy_result, verify

needs_ngspice = [pytest.mark.spice, pytest.mark.skipif(not available(), reason="ngspice is not installed")]
DESIGN = load_design("leroux2025")


def test_a_crossing_is_found_exactly() -> None:
    phases, readout = Phases(), Readout(RELU, 1.2e-12)
    t = np.array([0.0, phases.convert, phases.convert + 10e-9, phases.end])
    ramp = np.interp(t, [phases.convert, phases.convert + 15e-9], [0.0, readout.full_swing])
    for share in (-0.5, 0.0, 0.25, 1.4):
        out = np.full(4, 0.45 + share * readout.full_swing)
        plot = Plot({"time": t, "v(o0)": out, "v(ref)": np.full(4, 0.45), "v(ramp)": ramp})
        expected = min(max(share, 0), 1) * 15e-9
        assert decided_width(plot, 0, readout, phases) == pytest.approx(expected, abs=1e-15)


def test_width_of_a_pulse_is_taken_at_half_height() -> None:
    t = np.array([0.0, 1.0, 2.0, 5.0, 6.0])
    assert pulse_width(t, np.array([0, 0, 1, 1, 0.0]), 1.0) == pytest.approx(4.0)


def test_codes_are_those_of_the_readout() -> None:
    import torch

    from gaincell.circuits import quantize_output

    widths = np.linspace(-15e-9, 15e-9, 101)
    theirs = quantize_output(torch.tensor(widths / 15e-9), "counter", 16).numpy() * 15
    np.testing.assert_allclose(count(widths, DESIGN), theirs, atol=1e-9)


def test_inputs_repeat_and_missing_dumps_are_refused() -> None:
    first, second = random_inputs(DESIGN, 3), random_inputs(DESIGN, 3)
    np.testing.assert_array_equal(first.keys, second.keys)
    assert first.keys.shape == (64, 64)
    with pytest.raises(InputError, match="--dump FILE"):
        real_inputs("nothing.safetensors", DESIGN)


def test_the_time_limit_and_the_wire_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def stopped(slices: list[Any], **options: Any) -> None:
        given.update(options, circuit=slices[0].text)
        raise SimulationError("stopped")

    curves = {"own": lambda volts: 0 * volts}
    monkeypatch.setattr("gaincell.spice.verify.own_curve", lambda *_: curves)
    monkeypatch.setattr("gaincell.spice.verify.run_many", stopped)
    inputs = random_inputs(DESIGN, 0)
    with pytest.raises(SimulationError, match="stopped"):
        verify(technology("freepdk45"), DESIGN, inputs, columns=1, wire=WireElement(7.5), timeout=1234.0)
    assert given["timeout"] == 1234.0
    assert "Rb0_0 bl0 b0_0 7.5\n" in given["circuit"]


def test_a_result_passed_where_every_check_did() -> None:
    path = Path(__file__).parents[2] / "docs" / "results" / "spice" / "verify-freepdk45-random.json"
    result = read(path, VerifyResult)
    assert result.passed == all(check.passed for check in result.checks)
    assert "passed" not in to_json(result)


@pytest.fixture(scope="module")
def found() -> Verified:
    return verify(technology("freepdk45"), DESIGN, random_inputs(DESIGN, 0), columns=4)


class TestSimulated:
    pytestmark = needs_ngspice

    @pytest.mark.slow
    def test_the_counter_counts_to_the_nearest_period(self) -> None:
        widths = [0.0, 0.7e-9, 7.8e-9, 14.2e-9]
        bench = counter_bench(Site(technology("freepdk45")), widths, DESIGN.counter_clock, DESIGN.t_pulse_max)
        plot = run(bench).plot
        bits = [[plot[f"v(b{n}_{bit})"][-1] > 0.45 for bit in range(4)] for n in range(len(widths))]
        counts = [sum(int(b) << k for k, b in enumerate(word)) for word in bits]
        assert counts == count(np.array(widths), DESIGN).astype(int).tolist()

    @pytest.mark.slow
    def test_circuit_and_model_agree(self, found: Verified) -> None:
        result = found.result
        assert result.passed, result.checks
        assert result.first.rms["own"] < 0.06e-9
        assert result.second.rms["own"] < 0.06e-9
        assert result.warnings == ()
        assert result.first.integrators_at_a_rail == 0

    @pytest.mark.slow
    def test_energy_is_of_the_order_of_the_paper(self, found: Verified) -> None:
        first, second = found.energy.first, found.energy.second
        assert 3e-15 < first.cell_read < 40e-15
        assert 100e-12 < first.head < 3000e-12
        assert second.array > 0
        assert sum(block.total for block in first.blocks.values()) == pytest.approx(first.array)
        assert first.blocks["cells"].read > 10 * first.blocks["cells"].conversion > 0

    @pytest.mark.slow
    def test_results_carry_unit_and_kind(self, found: Verified) -> None:
        for result in (found.result, energy_result([found], DESIGN, [], 0)):
            assert parse(to_json(result), "result") == result

    @pytest.mark.slow
    def test_the_first_order_model_holds_for_small_drops(self, monkeypatch: pytest.MonkeyPatch) -> None:
        free, wire = technology("freepdk45"), (30.0, 0.2e-15)
        operating = wires.in_operation(Site(free), DESIGN, first=[wire], second=[], columns=2)
        (point,) = operating
        assert point.columns == 2
        assert 0.15e-9 < point.rms < 0.6e-9
        assert point.rms < point.largest < 1e-9
        assert point.noise < 0.1 * point.rms
        assert 0.02 < point.drop < 0.06
        assert point.rms_after_first_order_model < 0.5 * point.rms
        monkeypatch.setattr(wires, "in_operation", lambda *given, **options: operating)
        small = wires.study(free, DESIGN, most=32)
        assert all(np.isnan(p.drop) or 0 <= p.drop < 1 for p in small.bit_line)
        assert small.overload == pytest.approx(7.7, abs=0.1)
        for point in small.bit_line:
            if abs(point.error) < 2e-3:
                assert point.error == pytest.approx(point.first_order_error, rel=0.15)
        assert small.conductance > 0
        assert to_json(parse(to_json(small), "wires")) == to_json(small)

    @pytest.mark.slow
    @pytest.mark.parametrize("head_dim", [2, 8])
    def test_all_lines_of_heads_that_are_no_squares(self, head_dim: int) -> None:
        """D other than N: every line of both arrays, and the check that needs all of the first."""
        design, free = DESIGN.replace(tile=4, window=4), technology("freepdk45")
        inputs = random_inputs(design, 0, head_dim)
        whole = verify(free, design, inputs, columns=max(4, head_dim))
        assert (len(whole.result.first.spice), len(whole.result.second.spice)) == (4, head_dim)
        assert CUBIC in {check.name for check in whole.result.checks}
        assert whole.result.second.energy["cells"].lines == head_dim
        array, found = whole.energy.second.blocks["cells"], whole.result.second.energy["cells"]
        assert array.total == pytest.approx(found.total)
        part = verify(free, design, inputs, columns=2).result
        assert (len(part.first.spice), len(part.second.spice)) == (2, 2)
        assert CUBIC not in {check.name for check in part.checks}

    def test_columns_out_of_range_are_refused(self) -> None:
        with pytest.raises(InputError, match="allowed: 1 to 64"):
            verify(technology("freepdk45"), DESIGN, random_inputs(DESIGN, 0), columns=65)

    def test_the_command_refuses_an_unknown_technology(self) -> None:
        result = CliRunner().invoke(app, ["spice", "verify", "--technology", "sky130"])
        assert result.exit_code == 2


def test_several_files_are_told_apart(tmp_path: Path) -> None:
    """Files of one name have runs of their own and a hash each; one file alone is called real."""
    files = [tmp_path / run / "layer3" for run in ("a", "b")]
    for seed, file in enumerate(files):
        file.parent.mkdir()
        q, k, v = np.random.default_rng(seed).integers(0, 8, (3, 1, 1, 64, 64))
        save_file({"q_code": q, "k_code": k, "v_code": v}, file)
    one, two = DumpOptions().read_all(files, DESIGN)
    assert [one.name, two.name] == [f"real: {file}" for file in files]
    assert one.origin.keys() == {str(files[0])}
    assert set(one.origin.values()) != set(two.origin.values())
    (alone,) = DumpOptions().read_all(files[:1], DESIGN)
    assert alone.name == "real"
    assert alone.origin.keys() == {"layer3"}
    with pytest.raises(InputError, match="a file is given twice"):
        DumpOptions().read_all([files[0], files[0]], DESIGN)
