"""Designs: every shipped file, the exact round trip, changes, and every error a user can meet."""

import copy
import dataclasses
import pickle
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.ops.test_own_effects import Flickering
from torch import Tensor

from gaincell.chips.design import Design
from gaincell.chips.design_file import SHIPPED, list_designs, load_design
from gaincell.devices.cell import CELL_KINDS, LinearCell, PolynomialCell, SigmoidCell
from gaincell.devices.leakage import Leakage
from gaincell.devices.variability import Mismatch
from gaincell.errors import DesignError
from gaincell.quantity import SOURCES

CHANGES = {
    "nothing": {},
    "sizes": {"tile": 32, "window": 96},
    "no quantisers": {"query_levels": None, "storage_levels": None, "readout": "none"},
    "no decay": {"retention_time": None},
    "token period": {"token_period": 1e-6},
    "mismatch": {
        "mismatch": Mismatch(gain_std=0.05, offset_voltage_std=0.01, current_offset_std=0.02, seed=3, chip=1)
    },
    "whole numbers": {"cell": PolynomialCell((0, 12), 19), "mismatch": Mismatch(gain_std=1)},
    "own cell": {"cell": PolynomialCell((0.1, 12.0, 0.0, 40.0), 20.0)},
    "own sigmoid": {"cell": SigmoidCell(sigmoid_steepness=8.0, span=18.0, half_span=0.45, linear_slope=19.0)},
    **{kind: {"cell": kind} for kind in CELL_KINDS if kind != "tabulated"},
}


@pytest.fixture
def paper() -> Design:
    return load_design("leroux2025")


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", list_designs())
def test_every_shipped_design_loads(name: str) -> None:
    design = load_design(name)
    assert design.name == name
    assert design.description
    assert all(quantity.source in SOURCES for quantity in design.provenance.values())
    assert "U" not in {quantity.source for quantity in design.provenance.values()}
    assert load_design(SHIPPED / f"{name}.toml") == design
    assert load_design(design) is design


def test_the_numbers_of_the_paper(paper: Design) -> None:
    assert paper.cell.coefficients == pytest.approx((0.5213636, 13.6122606, -2.6204456, 46.0548378), abs=5e-8)
    assert paper.cell.linear_slope == 19.3
    assert (paper.tile, paper.window, paper.tiles) == (64, 1024, 16)
    assert (paper.query_levels, paper.storage_levels, paper.counter_levels) == (16, 8, 16)
    assert (paper.score_saturation(64), paper.output_saturation) == (80.0, 40.0)
    assert paper.token_period == pytest.approx(780e-9)
    assert paper.decay_per_token == pytest.approx(1 - 1.56e-4, abs=1e-7)


def test_the_oxide_design_differs_in_its_retention_only(paper: Design) -> None:
    oxide = load_design("leroux2025-oxide")
    assert oxide.retention_time == 1000 * paper.retention_time
    same = {"name": paper.name, "description": paper.description, "retention_time": paper.retention_time}
    assert oxide.replace(**same) == paper


def test_the_ideal_design_has_no_imperfection() -> None:
    ideal = load_design("ideal")
    assert isinstance(ideal.cell, LinearCell)
    assert (ideal.query_levels, ideal.storage_levels, ideal.readout) == (None, None, "none")
    assert (ideal.score_ceiling, ideal.output_ceiling, ideal.decay_per_token) == (False, False, 1.0)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        *((name, "nothing") for name in list_designs()),
        *(("leroux2025", c) for c in CHANGES if c != "nothing"),
    ],
)
def test_a_saved_design_reads_back_exactly(name: str, changes: str, tmp_path: Path) -> None:
    design = load_design(name).replace(**CHANGES[changes])
    again = load_design(design.save(tmp_path / "saved.toml"))
    assert again == design
    assert again.provenance == design.provenance
    assert again.hash == design.hash
    assert hash(again) == hash(design)
    assert again.to_toml() == design.to_toml()


WRITABLE = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
"""Words that `load_design` accepts."""


@given(tau=st.floats(1e-9, 1e6), offset=st.floats(0.01, 0.89), name=WRITABLE)
def test_any_float_and_any_name_survive_the_file(tau: float, offset: float, name: str) -> None:
    design = load_design("leroux2025").replace(retention_time=tau, v_offset=offset, description=name)
    raw = tomllib.loads(design.to_toml())
    assert raw["retention_time"]["value"] == tau
    assert raw["v_offset"]["value"] == offset
    assert raw["description"] == name


def test_designs_are_values(paper: Design) -> None:
    assert copy.deepcopy(paper) == paper == pickle.loads(pickle.dumps(paper))
    with pytest.raises(dataclasses.FrozenInstanceError):
        paper.tile = 32  # type: ignore[misc]


def test_the_hash_sees_behaviour_only(paper: Design) -> None:
    assert paper.replace(name="x", description="y").hash == paper.hash
    hashes = {paper.replace(**changes).hash for changes in CHANGES.values()}
    assert len(hashes) == len(CHANGES) - 1  # "polynomial" is what the paper has, like "nothing"


def test_a_changed_design_does_not_pass_for_the_one_it_extends(paper: Design, tmp_path: Path) -> None:
    tile = 'tile = { value = 32, unit = "1", source = "U", range = [1, 4096] }\n'
    changed = f'extends = "leroux2025"\n{tile}'
    mine = load_design(write(tmp_path / "mine.toml", changed))
    assert (mine.name, mine.hash) == ("mine", paper.replace(tile=32).hash)
    assert mine.description == f"{paper.description}, changed by mine.toml: tile"
    assert load_design(write(tmp_path / "leroux2025.toml", changed)).name == "leroux2025.toml"
    inner = tmp_path / "inner"
    inner.mkdir()
    assert load_design(write(inner / "mine.toml", f'extends = "../mine.toml"\n{tile}')).name == "mine.toml"
    assert load_design(write(tmp_path / "same.toml", 'extends = "leroux2025"\n')) == paper
    named = load_design(write(tmp_path / "named.toml", f'extends = "mine.toml"\nname = "ours"\n{tile}'))
    assert (named.name, named.description) == ("ours", f"{mine.description}, changed by named.toml: tile")
    for parent, name in (("leroux2025", "leroux2025"), ("mine.toml", "mine")):
        same = write(tmp_path / "called.toml", f'extends = "{parent}"\nname = "{name}"\n{tile}')
        with pytest.raises(DesignError, match=rf"called\.toml: name = '{name}' is that of .*\(tile\)"):
            load_design(same)
    same = write(tmp_path / "called.toml", 'extends = "leroux2025"\nname = "leroux2025"\n')
    assert load_design(same) == paper


def test_an_exchanged_cell_takes_the_numbers_of_the_design(paper: Design, tmp_path: Path) -> None:
    steeper = 'extends = "leroux2025"\nname = "steep"\n[cell]\nlinear_slope = { value = 25.0, ' + (
        'unit = "charge units/V", source = "U", range = [0, 100] }\n'
    )
    design = load_design(write(tmp_path / "steep.toml", steeper))
    assert design.replace(cell="linear").cell == LinearCell(25.0)
    assert design.replace(cell="linear").replace(cell="polynomial") == design
    assert paper.replace(cell=paper.cell).provenance == paper.provenance


def test_the_token_period_follows_the_layers_unless_it_is_stated(paper: Design) -> None:
    assert paper.replace(layers=24).token_period == pytest.approx(24 * 65e-9)
    stated = paper.replace(token_period=1e-3)
    assert stated.replace(layers=24).token_period == 1e-3
    assert stated.replace(token_period=None) == paper


def test_a_changed_number_is_marked_as_the_users(paper: Design) -> None:
    assert paper.replace(window=256).provenance["window"].source == "U"
    assert paper.replace(window=1024).provenance["window"].source == "M"


WRONG_CHANGES = [
    ({"windw": 512}, "unknown key 'windw' (did you mean 'window'?)"),
    (
        {"tile": 100},
        "tile = 100 does not divide window = 1024; allowed: a window that is a multiple of the tile",
    ),
    ({"tile": 64.0}, "tile = 64.0 has the wrong type; allowed: a whole number"),
    ({"tile": True}, "tile = True has the wrong type"),
    ({"window": None}, "window = None has the wrong type"),
    ({"query_levels": 1}, "query_levels = 1 is out of range; allowed: 2 to 65536"),
    ({"retention_time": 0.0}, "retention_time = 0.0 s is out of range; allowed: 1e-09 to 1000000.0 s"),
    ({"retention_time": "5 ms"}, "retention_time = '5 ms' has the wrong type; allowed: a number or \"none\""),
    ({"retention_time": float("nan")}, "retention_time = nan has the wrong type"),
    ({"token_period": -1.0}, "token_period = -1.0 is out of range; allowed: a finite number above 0"),
    ({"v_max": 1.2}, "v_max = 1.2 V is out of range; allowed: 0.0 to 0.9 V"),
    ({"leakage": Leakage(decay_voltage=1e300)}, "leakage.decay_voltage = 1e+300 V is out of range"),
    ({"v_offset": 0.0}, "out of order; allowed: v_min < v_offset < v_max"),
    ({"readout": "conter"}, "readout = 'conter' is unknown (did you mean 'counter'?)"),
    ({"score_ceiling": 1}, "score_ceiling = 1 has the wrong type; allowed: true or false"),
    ({"name": 3}, "name = 3 has the wrong type; allowed: text"),
    ({"cell": "polynomal"}, "cell 'polynomal' is unknown (did you mean 'polynomial'?)"),
    ({"cell": 19.3}, "cell = 19.3 has the wrong type"),
    ({"mismatch": 0.05}, "mismatch = 0.05 has the wrong type; allowed: a Mismatch"),
    ({"mismatch": Mismatch(gain_std=2.0)}, "mismatch.gain_std = 2.0 is out of range"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG_CHANGES, ids=[str(c) for c, _ in WRONG_CHANGES])
def test_a_wrong_change_is_one_clear_line(paper: Design, changes: dict[str, object], message: str) -> None:
    with pytest.raises(DesignError) as error:
        paper.replace(**changes)
    assert message in str(error.value)
    assert "design " in str(error.value)
    assert "\n" not in str(error.value)


def test_a_design_built_past_replace_is_refused(paper: Design) -> None:
    with pytest.raises(DesignError, match="tile = 32 has no source"):
        dataclasses.replace(paper, tile=32)


def test_a_cell_of_ones_own_works_but_cannot_be_written(paper: Design) -> None:
    @dataclasses.dataclass(frozen=True)
    class OwnCell(LinearCell):
        @property
        def name(self) -> str:
            return "own"

    design = paper.replace(cell=OwnCell(20.0))
    assert design.hash != paper.replace(cell="linear").hash
    with pytest.raises(DesignError, match="cell 'own' cannot be written"):
        design.to_toml()


def test_a_cell_that_computes_otherwise_than_it_says_is_refused(paper: Design) -> None:
    """Most implementations compute by name and coefficients, not by `current`."""

    class Saturating(LinearCell):
        def current(self, u: Tensor) -> Tensor:
            return super().current(u).clamp(-4, 4)

    class Named(Saturating):
        name = "saturating"

    class Known(Named):
        coefficients = None  # type: ignore[assignment]

    kinds = [dataclasses.dataclass(frozen=True)(kind) for kind in (Saturating, Named, Known)]
    with pytest.raises(
        DesignError, match="Saturating has the name of another cell, 'linear'; give it its own"
    ):
        paper.replace(cell=kinds[0](19.3))
    with pytest.raises(
        DesignError, match=r"'saturating' is not the polynomial of its coefficients \(0.0, 19.3\)"
    ):
        paper.replace(cell=kinds[1](19.3))
    assert paper.replace(cell=kinds[2](19.3)).cell.coefficients is None


def test_what_is_no_cell_is_told_what_it_must_be(paper: Design) -> None:
    @dataclasses.dataclass
    class Mutable:
        name = "mutable"
        coefficients = None
        linear_slope = 20.0
        numbers: Any = dataclasses.field(default_factory=dict)
        current = slope = torch.tanh

    with pytest.raises(
        DesignError, match="or a frozen dataclass with name, coefficients, linear_slope, numbers"
    ):
        paper.replace(cell=Mutable())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise": Flickering(flicker_std=0.1)}, "which would not hold noise.flicker_std"),
        ({"description": "\0"}, "holds a null character"),
    ],
)
def test_what_a_file_would_not_give_back_is_not_written(
    changes: dict[str, object], message: str, paper: Design, tmp_path: Path
) -> None:
    with pytest.raises(DesignError, match=re.escape(message)) as error:
        paper.replace(**changes).save(tmp_path / "saved" / "design.toml")
    assert "design 'leroux2025' cannot be written to a file" in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


IDEAL = 'extends = "ideal"\n'
WORDS = 'name = "a"\ndescription = ""\nreadout = "none"\nscore_ceiling = true\noutput_ceiling = true\n'
NUMBER = 'tile = { value = 64, unit = "1", source = "M", range = [1, 4096] }'
WRONG_FILES = {
    "not toml": ("name = ", "cannot be read as TOML"),
    "unknown key": (IDEAL + "tyle = 3", "unknown key 'tyle' (did you mean 'tile'?)"),
    "unknown cell key": (IDEAL + "[cell]\nvin = 3", "unknown key 'vin' (did you mean 'v_in'?)"),
    "missing key": (NUMBER, "key 'name' is missing"),
    "missing number": (WORDS, "key 'tile' is missing"),
    "bare number": (IDEAL + "tile = 64", 'tile = 64 is a bare value; write { value = ..., unit = "1"'),
    "wrong type": (IDEAL + NUMBER.replace("64", '"64"'), "tile = '64' has the wrong type"),
    "no source": (IDEAL + NUMBER.replace('source = "M", ', ""), "tile lacks 'source'"),
    "unknown source": (IDEAL + NUMBER.replace('"M"', '"Q"'), "unknown source 'Q'; allowed: M, R, S, D, U"),
    "list as source": (
        IDEAL + NUMBER.replace('"M"', '["M"]'),
        "unknown source ['M']; allowed: M, R, S, D, U",
    ),
    "table as source": (IDEAL + NUMBER.replace('"M"', "{}"), "unknown source {}; allowed: M, R, S, D, U"),
    "other unit": (IDEAL + NUMBER.replace('"1"', '"mm"'), "unit 'mm' is not accepted; allowed: '1'"),
    "unknown entry": (IDEAL + NUMBER.replace("unit", "units"), "unknown key 'units' (did you mean 'unit'?)"),
    "odd range": (IDEAL + NUMBER.replace("[1, 4096]", "3"), "range = 3 is not acceptable"),
    "odd note": (IDEAL + NUMBER.replace("}", ", note = 3 }"), "note = 3 is not acceptable"),
    "out of range": (IDEAL + NUMBER.replace("64", "8192"), "tile = 8192 is out of range; allowed: 1 to 4096"),
    "tile and window": (IDEAL + NUMBER.replace("64", "60"), "tile = 60 does not divide window = 1024"),
    "no table": (IDEAL + 'cell = "linear"', "cell = 'linear' is not a table; allowed: [cell] with kind"),
    "unknown cell": (IDEAL + '[cell]\nkind = "linaer"', "cell 'linaer' is unknown (did you mean 'linear'?)"),
    "odd cell": (IDEAL + '[cell]\nkind = ["linear"]', "cell ['linear'] is unknown"),
    "fit beside coefficients": (
        'extends = "oxide-2t-saturated"\n[cell]\n'
        'c30 = { value = 1.0, unit = "charge units/V^3", source = "U", range = [0, 9] }',
        "cell.c30 has no effect beside the cell.coefficients of 'oxide-2t-saturated'",
    ),
    "odd word": (IDEAL + 'score_ceiling = "yes"', "score_ceiling = 'yes' has the wrong type"),
    "unknown parent": ('extends = "ideall"', "no design 'ideall' (did you mean 'ideal'?)"),
    "odd parent": ("extends = 3", "extends = 3 is not acceptable"),
    "circle": ('extends = "wrong.toml"', "design files extend each other in a circle"),
    "crooked circle": ('extends = "../WRONG"', "design files extend each other in a circle"),
    "infinite": (
        IDEAL + 'v_max = { value = inf, unit = "V", source = "U", range = [0, inf] }',
        "v_max = inf is out of range; allowed: a finite number",
    ),
}


@pytest.mark.parametrize(("text", "message"), WRONG_FILES.values(), ids=WRONG_FILES)
def test_a_wrong_file_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "wrong.toml", text.replace("WRONG", f"{tmp_path.name}/wrong.toml"))
    with pytest.raises(DesignError) as error:
        load_design(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_an_unknown_name_gets_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(DesignError, match=r"no design 'leroux2052' \(did you mean 'leroux2025'\?\)"):
        load_design("leroux2052")
    with pytest.raises(DesignError, match="no design '3'"):
        load_design(3)  # type: ignore[arg-type]
    with pytest.raises(DesignError, match=r"or the path of a \.toml file"):
        load_design(tmp_path / "missing.toml")
