"""ngspice as a program: missing, failing, killed, too slow; circuits whose answer is known."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from gaincell.cli import app
from gaincell.errors import SimulationError
from gaincell.spice import runner
from gaincell.spice.netlists.netlist import Netlist
from gaincell.spice.runner import SimulationWarning, available, run, run_many, version

needs_ngspice = [pytest.mark.spice, pytest.mark.skipif(not available(), reason="ngspice is not installed")]


def circuit(
    *body: str, analysis: str = ".tran 1n 1u", saved: str = "v(a)", stop: float | None = None, card: str = ""
) -> Netlist:
    lines = ["* test", ".include card.spi", *body, f".save {saved}", analysis, ".end"]
    return Netlist("test", "\n".join(lines) + "\n", {"card.spi": card}, stop)


def test_without_ngspice_the_package_to_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SimulationError, match="package 'ngspice' of"):
        run(circuit("R1 a 0 1"))
    result = CliRunner().invoke(app, ["spice", "verify"])
    assert result.exit_code == 2


def test_a_warning_is_kept_with_what_explains_it() -> None:
    said = "Note: x\n\nWarning: Model issue on line 7 :\n  .model n nmos ...\n why\n\nDoing analysis\n"
    said += "Warning: singular\nnext\n"
    assert runner._warnings(said) == (
        "Warning: Model issue on line 7 : .model n nmos ... why",
        "Warning: singular",
    )


def test_a_title_is_no_error(tmp_path: Path) -> None:
    said = "Circuit: * error_free: one cell\n\nDoing analysis\n"
    with pytest.raises(SimulationError, match="ngspice said nothing about why"):
        runner._result(circuit("R1 a 0 1"), 0, said, tmp_path / "missing.raw")


class TestNgspice:
    pytestmark = needs_ngspice

    def test_an_rc_discharges_exponentially(self) -> None:
        plot = run(circuit("R1 a 0 1k", "C1 a 0 100p", ".ic v(a)=1", stop=1e-6)).plot
        np.testing.assert_allclose(plot["v(a)"], np.exp(-plot["time"] / 1e-7), atol=2e-3)

    def test_results_come_in_the_order_of_the_netlists(self) -> None:
        circuits = [circuit(f"V1 a 0 {n}", analysis=".op") for n in range(4)]
        seen: list[int] = []
        done = run_many(circuits, jobs=2, progress=lambda n, total, numbers: seen.append(n))
        assert [float(s.plot["v(a)"][0]) for s in done] == [0, 1, 2, 3]
        assert seen[-1] == 4
        assert version().startswith("ngspice-")

    def test_a_malformed_card_is_an_error(self) -> None:
        with pytest.raises(SimulationError, match="failed"):
            run(circuit("M1 a a 0 0 nothing w=1u l=1u", "V1 a 0 1", analysis=".op"))
        with pytest.raises(SimulationError):
            run(circuit("M1 a a 0 0 n w=1u l=1u", "V1 a 0 1", analysis=".op", card=".model n nmos level=(\n"))

    def test_a_parameter_that_would_be_ignored_is_an_error(self) -> None:
        card = ".model n nmos level=54 tox_e=1.1n\n"
        with pytest.raises(SimulationError, match="would ignore: tox_e"):
            run(circuit("M1 a a 0 0 n w=1u l=1u", "V1 a 0 1", analysis=".op", card=card))

    def test_warnings_are_given_once_and_kept(self) -> None:
        quiet = circuit("V1 a 0 1", ".ic v(nowhere)=1", analysis=".op")
        with pytest.warns(SimulationWarning, match="non-existent node") as given:
            found = run_many([quiet, quiet])
        assert len(given) == 1
        assert "nowhere" in found[0].warnings[0]

    def test_a_terminated_command_leaves_nothing_behind(self, tmp_path: Path) -> None:
        script = (
            "from gaincell.cli._spice_options import terminable\n"
            "from gaincell.spice.netlists.netlist import Netlist\n"
            "from gaincell.spice.runner import run_many\n"
            "slow = Netlist('t', '* t\\nV1 a 0 sin(0 1 1g)\\n.save v(a)\\n.tran 1p 100u 0 1p\\n.end\\n')\n"
            "with terminable(): run_many([slow, slow], jobs=1)\n"
        )
        environment = os.environ | {"TMPDIR": str(tmp_path)}
        process = subprocess.Popen([sys.executable, "-c", script], env=environment)
        try:
            until = time.monotonic() + 300
            while not list(tmp_path.glob("*/log.txt")):
                assert time.monotonic() < until
                assert process.poll() is None
                time.sleep(0.05)
            process.terminate()
            assert process.wait(timeout=300) == 128 + signal.SIGTERM
        finally:
            process.kill()
            process.wait()
        assert list(tmp_path.iterdir()) == []

    def test_no_convergence_is_an_error(self) -> None:
        with pytest.raises(SimulationError):
            run(circuit("B1 0 a I=exp(200*v(a))", "C1 a 0 1p", ".ic v(a)=0.1", stop=1e-6))

    def test_a_slow_simulation_is_stopped(self) -> None:
        slow = circuit("V1 a 0 sin(0 1 1g)", analysis=".tran 1p 100u 0 1p", stop=1e-4)
        with pytest.raises(SimulationError, match=r"stopped after 0\.3 s; simulate fewer columns"):
            run(slow, timeout=0.3)

    def test_the_first_failure_stops_the_others(self) -> None:
        slow = circuit("V1 a 0 sin(0 1 1g)", analysis=".tran 1p 100u 0 1p", stop=1e-4)
        bad = circuit("M1 a a 0 0 nothing w=1u l=1u", "V1 a 0 1", analysis=".op")
        began = time.monotonic()
        with pytest.raises(SimulationError):
            run_many([slow, bad], jobs=2)
        assert time.monotonic() - began < 120  # of minutes

    def test_a_killed_simulation_is_an_error(self, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
        program = tmp_path / "ngspice"
        program.write_text("#!/bin/sh\nkill -9 $$\n")
        program.chmod(0o755)
        monkeypatch.setattr(runner, "PROGRAM", str(program))
        with pytest.raises(SimulationError, match="was killed"):
            run(circuit("R1 a 0 1"))
