"""`gaincell design ...` as a user types it, and how the command line ends."""

import errno
import json
from pathlib import Path

import pytest

from gaincell.chips.design_file import list_designs, load_design
from gaincell.cli import CommandFolder, app, main
from gaincell.cli._json import show
from gaincell.errors import GaincellError
from gaincell.reports.tables import Rows
from gaincell.results import content, parse
from gaincell.results.codec import from_json, to_json
from gaincell.results.description import DesignResult, DifferencesResult


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out, captured.err


def test_a_name_with_brackets_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """rich would take it for markup, also in titles and captions."""
    show(Rows("runs/exp[lr=1e-3]", ("wide " * 8,), [["x[/b]"]], caption="as of :smile: [/c]"), "plain [red]")
    out = capsys.readouterr().out
    assert all(word in out for word in ("runs/exp[lr=1e-3]", "x[/b]", "as of :smile: [/c]", "plain [red]"))


def test_list_names_every_design(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run(capsys, "design", "list", "--json", str(tmp_path / "list.json"))
    assert code == 0
    assert all(name in out for name in list_designs())
    listed = json.loads((tmp_path / "list.json").read_text())
    assert [entry["hash"] for entry in listed] == [load_design(name).hash for name in list_designs()]
    assert set(listed[0]) == {"name", "cell", "hash", "description", "schema"}


@pytest.mark.parametrize("name", list_designs())
def test_show_tells_where_every_number_comes_from(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, _ = run(capsys, "design", "show", name, "--json", str(tmp_path / "show.json"))
    assert code == 0
    design = load_design(name)
    assert design.hash in out
    shown = json.loads((tmp_path / "show.json").read_text())
    assert set(shown["numbers"]) == set(design.provenance)
    assert all(entry["source"] and entry["kind"] for entry in shown["numbers"].values())
    assert shown["derived"]["decay_per_token"]["value"] == design.decay_per_token
    found = parse(content(tmp_path / "show.json"), "show.json")
    assert isinstance(found, DesignResult)
    assert to_json(found) == shown


def test_show_of_a_design_with_unbounded_numbers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = load_design("ideal").replace(token_period=1e-6).save(tmp_path / "mine.toml")
    code, out, _ = run(capsys, "design", "show", str(path), "--json", str(tmp_path / "show.json"))
    assert code == 0
    assert "1 us" in out
    assert json.loads((tmp_path / "show.json").read_text())["numbers"]["token_period"]["range"] == [
        None,
        None,
    ]


def test_show_says_where_tokens_come_faster_than_the_schedule_lets_them(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    chip = load_design("leroux2025").replace(t_pulse_max=150e-9)
    out = " ".join(run(capsys, "design", "show", str(chip.save(tmp_path / "slow.toml")))[1].split())
    assert (
        "a step of this chip takes 335 ns, the 12 layers of a token take 4.02 us, more than its token_period"
        in out
    )
    right = chip.replace(layer_latency=335e-9).save(tmp_path / "right.toml")
    for name in (str(right), *list_designs()):
        assert "by its schedule" not in run(capsys, "design", "show", name)[1]


def test_validate_names_the_file_that_is_wrong(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    good = load_design("ideal").save(tmp_path / "good.toml")
    bad = tmp_path / "bad.toml"
    bad.write_text('extends = "ideal"\nwindw = 3\n')
    assert run(capsys, "design", "validate", str(good))[0] == 0
    assert "NOTE" not in run(capsys, "design", "validate", *list_designs())[1]
    odd = load_design("leroux2025").replace(v_offset=0.4).save(tmp_path / "odd.toml")
    said = " ".join(run(capsys, "design", "validate", str(odd))[1].split())
    assert "NOTE: evenly spaced storage levels lie symmetrically about V_offset, here from -0.05" in said
    assert "NOTE: leroux2025 is the name of a shipped design with other values." in said
    text = load_design("leroux2025").to_toml().replace("value = 46.05483778", "value = -46.05483778")
    falling = tmp_path / "falling.toml"
    falling.write_text(text)
    said = " ".join(run(capsys, "design", "validate", str(falling))[1].split())
    assert (
        "NOTE: the current of its polynomial cell falls with the stored voltage in places from 0 to 0.9"
        in said
    )
    code, _, err = run(capsys, "design", "validate", str(good), str(bad), "--json", str(tmp_path / "v.json"))
    assert code == 2
    fine, refused = json.loads((tmp_path / "v.json").read_text())
    assert fine == {"design": str(good), "ok": True, "hash": load_design("ideal").hash, "schema": 1}
    assert refused == {"design": str(bad), "ok": False, "error": refused["error"], "schema": 1}
    assert (
        err == f"gaincell: error: {bad}: unknown key 'windw' (did you mean 'window'?){err.split('?)', 1)[1]}"
    )
    assert err.count("\n") == 1


def test_diff_shows_what_differs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, _ = run(
        capsys, "design", "diff", "leroux2025", "leroux2025-oxide", "--json", str(tmp_path / "diff.json")
    )
    assert code == 0
    difference = json.loads((tmp_path / "diff.json").read_text())
    assert set(difference) - {"command", "provenance", "schema"} == {"retention_time", "decay_per_token"}
    assert to_json(from_json(DifferencesResult, difference)) == difference
    assert difference["retention_time"] == {"first": "5 ms", "second": "5 s"}
    assert "No difference" in run(capsys, "design", "diff", "ideal", "ideal")[1]
    inputs = difference["provenance"]["inputs"]
    assert list(inputs) == ["first design leroux2025", "second design leroux2025-oxide"]
    near = load_design("leroux2025")
    near.replace(charge_unit=near.charge_unit * (1 + 1e-12)).save(tmp_path / "near.toml")
    assert "charge_unit" in run(capsys, "design", "diff", "leroux2025", str(tmp_path / "near.toml"))[1]


@pytest.mark.parametrize(
    "arguments",
    [["design", "show", "leroux"], ["design", "shw"], ["dsign"], ["design", "show", "ideal", "--jsn", "x"]],
)
def test_wrong_usage_is_exit_code_2_without_a_traceback(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert "Traceback" not in err


def test_debug_shows_the_traceback_wherever_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--debug", "design", "show", "leroux"], ["design", "show", "leroux", "--debug"]):
        code, _, err = run(capsys, *arguments)
        assert code == 2
        assert "Traceback" in err


def test_debug_is_an_option_and_no_value(capsys: pytest.CaptureFixture[str]) -> None:
    """A value of another option, and what stands behind --, is taken as it is."""
    for arguments in (
        ["ablate", "adapters/smollm2-135m", "--text", "--debug"],
        ["design", "show", "--", "--debug"],
    ):
        code, _, err = run(capsys, *arguments)
        assert code == 2
        assert "'--debug'" in err
        assert "Traceback" not in err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (GaincellError("two\nlines"), 2, "gaincell: error: two lines"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "No space left on device"),
        (KeyboardInterrupt(), 130, "interrupted; no file was left half-written"),
        (KeyboardInterrupt("resume with: gaincell map x"), 130, "interrupted; resume with: gaincell map x"),
    ],
)
def test_how_a_command_ends(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    line: str,
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("gaincell.chips.design_file.list_designs", fail)
    ended, _, err = run(capsys, "design", "list")
    assert ended == code
    assert line in err
    assert "Traceback" not in err


def test_a_full_disk_leaves_no_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    command = ("design", "list", "--json", str(tmp_path / "list.json"))
    code, _, err = run(capsys, *command)  # found before any work
    assert code == 2
    assert "No space left on device" in err
    monkeypatch.setattr("gaincell.cli._json.check_output", lambda *_, **__: None)
    code, _, err = run(capsys, *command)  # the disk fills up meanwhile
    assert code == 2
    assert "disk is full" in err
    assert list(tmp_path.iterdir()) == []


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version")[:2] == (0, "gaincell 0.1.0\n")


def test_every_command_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    """Each command is found, has help with an example, and offers no shell installation of its own."""
    folder = app.info.cls
    assert folder is CommandFolder
    names = CommandFolder(name="gaincell").list_commands(None)
    assert "design" in names
    for name in names:
        code, out, _ = run(capsys, name, "--help")
        assert code == 0
        assert "--install-completion" not in out
        if "COMMAND" not in out:
            assert "Example" in out
    for name in ("list", "show", "validate", "diff"):
        assert "Example" in run(capsys, "design", name, "--help")[1]
