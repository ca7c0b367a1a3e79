"""Files as instruments, spreadsheets and people write them: they give their cell, or say what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from gaincell.chips.design_file import load_design
from gaincell.chips.device import fit_device, with_cell
from gaincell.cli import app
from gaincell.devices.columns import Columns
from gaincell.devices.measurement import read_curve, read_decay
from gaincell.errors import InputError

VOLTS = np.linspace(0, 0.9, 19)
TRUE = (0.52, 13.6, -2.6, 46.0)
"""Charge units of leroux2025: microamperes for a full pulse."""


def current(volts: float, gain: float = 0.0) -> float:
    return float(np.polynomial.polynomial.polyval(volts - 0.45, TRUE)) * (1 + gain)


def comma(number: float) -> str:
    return f"{number:.7g}".replace(".", ",")


def rows(form: str, end: str = "\n", volts: np.ndarray = VOLTS) -> str:
    """One line a voltage: {v} and {i} with points, {V} and {I} with commas, V and uA."""
    return "".join(
        form.format(v=f"{v:.6g}", i=f"{current(v):.8g}", V=comma(v), I=comma(current(v))) + end for v in volts
    )


ONE_CELL = {
    "a German spreadsheet": ("\ufeffsep=;\r\nSpannung (V);Strom (µA)\r\n" + rows("{V};{I}", "\r\n"), "utf-8"),
    "UTF-16 with tabs": ("V (V)\tI (µA)\r\n" + rows("{v}\t{i}", "\r\n"), "utf-16"),
    "Windows' code": ("V (V),I (µA)\n" + rows("{v},{i}"), "cp1252"),
    "quotes and decimal commas": ('"V [V]","I [uA]"\n' + rows('"{V}","{I}"'), "utf-8"),
    "the header in a comment, blanks between": ("# V[V] I[uA]\n" + rows("{v} {i}"), "utf-8"),
    "an instrument's preamble": ("Exported 2.1\nOperator;JD\n\nVg/V;Id/uA;\n" + rows("{v};{i};"), "utf-8"),
    "blanks between, quoted names": (
        '"gate voltage [V]" "I drain (1)" "Strom [uA]"\n' + rows("{v} 7 {i}"),
        "utf-8",
    ),
    "comments of several kinds": ("% lab\n! wafer\n//\nVg/V,Id_uA\n" + rows("{v},{i} # ok"), "utf-8"),
    "a sweep from above": ("voltage [V],current [uA]\n" + rows("{v},{i}", volts=VOLTS[::-1]), "utf-8"),
}


@pytest.mark.parametrize("name", ONE_CELL)
def test_a_cell_is_read_from(name: str, tmp_path: Path) -> None:
    text, code = ONE_CELL[name]
    path = tmp_path / "curve.csv"
    path.write_bytes(text.encode(code))
    device, fit, _ = fit_device(path, load_design("leroux2025"))
    assert device.cell.coefficients == pytest.approx(TRUE, rel=1e-4)
    assert fit.points == len(VOLTS)


def test_columns_are_chosen_by_name_unit_and_number(tmp_path: Path) -> None:
    path = tmp_path / "curve.csv"
    path.write_text("n,Vsweep,Id(0.5),Id(0.9)\n" + rows("1,{v},7,{i}"))
    chosen = Columns(voltage="Vsweep [V]", current=("Id(0.9) [uA]",))
    assert fit_device(path, load_design("leroux2025"), columns=chosen)[0].cell.coefficients == pytest.approx(
        TRUE, rel=1e-4
    )
    path.write_text(rows("{v}\t{i}"))
    table = read_curve(path, Columns(voltage="1 [V]", current=("2 [uA]",)))
    assert len(table) == len(VOLTS)
    np.testing.assert_allclose(table.columns["voltage"], VOLTS, atol=1e-6)


PREAMBLE = "Exported 2.1\nOperator;JD;7\n\n"


@pytest.mark.parametrize(
    "text",
    [
        PREAMBLE + "n;Vsweep [V];Iout [uA]\n" + rows("1;{V};{I}"),
        PREAMBLE + "n;Vg [V];Id [uA]\n" + rows("1;{V};{I}"),
        PREAMBLE + "# n;Vsweep [V];Iout [uA]\n" + rows("1;{v};{i}"),
        "n;Vsweep [V];Iout [uA]\n" + rows("1;{v};{i}"),
    ],
)
def test_columns_are_chosen_by_number_below_a_preamble(text: str, tmp_path: Path) -> None:
    path = tmp_path / "curve.csv"
    path.write_text(text)
    device, fit, _ = fit_device(path, load_design("leroux2025"), columns=Columns(voltage="2", current=("3",)))
    assert device.cell.coefficients == pytest.approx(TRUE, rel=1e-4)
    assert fit.points == len(VOLTS)


def test_the_voltage_of_decays_has_a_column_of_its_own(tmp_path: Path) -> None:
    """Named, or by number where the curve's number is another column."""
    times = np.geomspace(1e-4, 5e-2, 40)
    curve, decay = tmp_path / "curve.csv", tmp_path / "decay.csv"
    curve.write_text("n,Vsweep [V],Iout [uA]\n" + rows("1,{v},{i}"))
    lines = [f"{t:.6g},{0.2 + 0.5 * np.exp(-t / 5e-3):.8g},{0.7:.6g}" for t in times]
    decay.write_text("t [s],held [V],Vg [V]\n" + "\n".join(lines) + "\n")
    for name in ("held", "2", "held [V]"):
        device, _, held = fit_device(
            curve,
            load_design("leroux2025"),
            decay=decay,
            columns=Columns(voltage="Vsweep", current=("Iout",), decay_voltage=name),
        )
        assert held is not None
        assert (held.tau, held.target) == pytest.approx((5e-3, 0.2), rel=1e-3)
        assert device.cell.coefficients == pytest.approx(TRUE, rel=1e-4)
    with pytest.raises(InputError, match="there is no column 'gone'"):
        read_decay(decay, Columns(decay_voltage="gone"))
    decay.write_text(decay.read_text().replace("Vg", "other"))
    with pytest.raises(InputError, match="--decay-voltage COLUMN"):
        read_decay(decay)
    run = ["device", "fit", str(curve), "--voltage", "2", "--current", "3", "--decay", str(decay)]
    made = CliRunner().invoke(app, [*run, "--decay-voltage", "held", "--out", str(tmp_path / "cell.toml")])
    assert made.exit_code == 0, made.output


def test_a_wide_file_without_units_is_read_by_a_star_with_one(tmp_path: Path) -> None:
    path = tmp_path / "curve.csv"
    path.write_text("Vg [V],dot A,dot B\n" + rows("{v},{i},{i}"))
    table = read_curve(path, Columns(current=("* [uA]",)))
    assert sorted(name for name, _ in table.cells()) == ["dot A", "dot B"]
    assert table.columns["current"].max() == pytest.approx(1e-6 * current(0.9))


def test_a_curve_that_a_cell_cannot_be_made_of_is_sent_to_device_fit(tmp_path: Path) -> None:
    path = tmp_path / "curve.csv"
    path.write_text("Vsweep [V],Iout [uA]\n" + rows("{v},{i}"))
    with pytest.raises(InputError, match=f"--voltage COLUMN.*gaincell device fit {path} "):
        with_cell(load_design("leroux2025"), path)


def test_cells_have_any_name(tmp_path: Path) -> None:
    path = tmp_path / "curve.csv"
    names = ["W3-A7", "die #2", "10", "2"]
    lines = [f"{v:.6g},{current(v, 0.01 * n):.8g},{name}" for n, name in enumerate(names) for v in VOLTS]
    path.write_text("Vg [V],Id [uA],device\n" + "\n".join(lines) + "\n")
    assert [name for name, _ in read_curve(path).cells()] == names
    table = read_curve(path, Columns(cell="device"))
    assert len(table) == len(names) * len(VOLTS)


def test_a_wide_file_is_a_cell_a_column_or_one_that_is_chosen(tmp_path: Path) -> None:
    path = tmp_path / "wide.csv"
    lines = [f"{v:.6g};{current(v):.8g};{current(v, 0.1):.8g};" for v in VOLTS]
    path.write_text("V_SN (V);A 1 (uA);B#2 (uA);\n" + "\n".join(lines) + "\n0,95;;\n".replace(",", "."))
    with pytest.raises(InputError, match=r"could be the current; choose by --current 'A 1 \(uA\)'"):
        read_curve(path)
    table = read_curve(path, Columns(current=("*",)))
    found = dict(table.cells())
    assert list(found) == ["A 1", "B#2"]
    for gain, cell in zip((0, 0.1), found.values(), strict=True):
        np.testing.assert_allclose(cell["current"], [1e-6 * current(v, gain) for v in VOLTS], rtol=1e-6)
    assert list(dict(read_curve(path, Columns(current=("A 1", "B#2"))).cells())) == ["A 1", "B#2"]
    path.write_text("V [V];cell A;cell_A\n0;1;2\n")  # names, no amperes
    with pytest.raises(InputError, match="has no unit"):
        read_curve(path, Columns(current=("*",)))
    assert dict(read_curve(path, Columns(current=("cell A [uA]", "cell_A [nA]"))).cells()).keys() == {
        "cell A",
        "cell_A",
    }
    path.write_text("V [V];A 1 [uA];A 2 [uA]\n0;x;1\n")
    with pytest.raises(InputError, match="A 1 is 'x'"):
        read_curve(path, Columns(current=("*",)))


def test_bad_rows_are_left_out_on_request_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "curve.csv"
    path.write_text("V [V],I [uA]\n" + rows("{v},{i}") + "0.1,NaN\n0.2\n,overload\n")
    with pytest.raises(InputError, match=r"line 21: current is 'NaN'.*--skip-bad-rows"):
        read_curve(path)
    assert len(read_curve(path, skip_bad_rows=True).left_out) == 3
    out = tmp_path / "cell.toml"
    done = CliRunner().invoke(app, ["device", "fit", str(path), "--skip-bad-rows", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "Left out: 3 rows that do not hold a number in every column." in done.output
    assert "rows_left_out = 3" in out.read_text()
    path.write_text("V [V],I [uA]\na,b\n")
    with pytest.raises(InputError, match="no row holds numbers"):
        read_curve(path, skip_bad_rows=True)


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("V (V);I (uA)\n0.5;1,5\n", Columns(), "with commas and with points"),
        ("V [V],I [uA]\n0,1,2,3\n", Columns(), "decimal commas need ; or tabs"),
        ("Vg,Id\n0,1\n", Columns(), r"write 'Vg \[V\]' in the first line, or give --voltage 'Vg \[V\]'"),
        ("V [V],I [uA]\n0,1\n", Columns(voltage="U"), "no column 'U'"),
        ("V [V],I [uA]\n0,1\n", Columns(voltage="V [mV]"), "is not in mV"),
        ("V [V],I [uA]\n0,1\n", Columns(voltage="V", current=("1 [uA]",)), "is not in uA|two things"),
        ("V [V],Vg [V],I [uA]\n0,0,1\n", Columns(), "could be the voltage; choose by --voltage"),
        ("V [V],I [uA]\n0,1_0\n", Columns(), "current is '1_0'"),
    ],
)
def test_what_could_be_misread_is_refused(text: str, columns: Columns, message: str, tmp_path: Path) -> None:
    path = tmp_path / "curve.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_curve(path, columns)


def test_a_device_is_shown_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    path, out = tmp_path / "curve.csv", tmp_path / "cell.toml"
    path.write_text(
        "cell,V [V],I [uA]\n"
        + "".join(f"{n},{v:.6g},{current(v, 0.02 * n):.8g}\n" for n in range(4) for v in VOLTS)
    )
    decay = tmp_path / "decay.csv"
    decay.write_text(
        "time [ms],voltage [V]\n" + "".join(f"{t},{0.45 + 0.45 * np.exp(-t / 5):.6f}\n" for t in range(25))
    )
    fitted = CliRunner().invoke(app, ["device", "fit", str(path), "--decay", str(decay), "--out", str(out)])
    assert fitted.exit_code == 0, fitted.output
    shown = CliRunner().invoke(app, ["device", "show", str(out)]).output
    for text in (fitted.output, shown):
        assert "…" not in text
        lines = [line.split() for line in text.splitlines()]
        assert [len(line) for line in lines if line[:1] in (["C0"], ["C1"], ["C2"], ["C3"])][-4:] == [5] * 4
    assert "inf" not in shown.replace("information", "")
    for key in ("linear_slope", "offset_voltage_std", "variance_explained_by_mismatch", "curve_sha256"):
        assert key in shown


@pytest.mark.parametrize("source", ["leroux2025", "leroux2025-extended", "oxide-2t", "ideal"])
def test_a_new_design_is_the_one_it_begins_as_with_comments(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["design", "new", "mine", "--from", source])
    assert done.exit_code == 0, done.output
    made, begun = load_design("mine.toml"), load_design(source)
    assert made.name == "mine"
    assert made.hash == begun.hash
    assert made.provenance == begun.provenance
    text = Path("mine.toml").read_text()
    assert sum(line.startswith("#") for line in text.splitlines()) > 20
    again = CliRunner().invoke(app, ["design", "new", "mine"])
    assert again.exit_code == 2
    assert Path("mine.toml").read_text() == text


def test_an_entry_without_an_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "curve.csv"
    path.write_text("V [V],I [uA]\n" + "1" * 200_000)
    with pytest.raises(InputError, match="no table of numbers: field larger than field limit"):
        read_curve(path)
