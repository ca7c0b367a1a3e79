"""Floorplans: nothing overlaps, nothing is lost, taps reach their rows; drawing, GDSII, what is refused."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from gaincell.chips.design_file import load_design
from gaincell.cli import main
from gaincell.costs.activity import Activity
from gaincell.costs.area import head_area
from gaincell.costs.floorplan import (
    CELLS,
    LONGEST,
    SHARED,
    Blocks,
    best_columns,
    blocks_of,
    floorplan_result,
    head_plan,
    tile_plan,
)
from gaincell.costs.gds import write_gds
from gaincell.costs.head import Head
from gaincell.costs.technology import load_technology
from gaincell.errors import DesignError, InputError
from gaincell.reports.floorplan import area_rows, floorplan_figure
from gaincell.results import read
from gaincell.results.codec import to_json
from gaincell.results.floorplan import FloorplanResult, Rectangle
from gaincell.text import sha256


def area_of(*rectangles: Rectangle) -> float:
    return sum(r.w * r.h for r in rectangles)


def overlap(one: Rectangle, other: Rectangle) -> bool:
    """Whether both share an area, beyond rounding."""
    slack = 1e-9 * max(one.w, one.h, other.w, other.h)
    pairs = ((one.x, one.w, other.x, other.w), (one.y, one.h, other.y, other.h))
    return not any(a + w <= b + slack or b + v <= a + slack for a, w, b, v in pairs)


def flat_head(blocks: Blocks) -> list[Rectangle]:
    """All rectangles of a head, with those of its sub-tiles in their places."""
    whole = head_plan(blocks).rectangles
    inside = tile_plan(blocks).rectangles
    parts = [
        replace(part, x=r.x + part.x, y=r.y + part.y) for r in whole if r.kind == CELLS for part in inside
    ]
    return [*(r for r in whole if r.kind != CELLS), *parts]


def head(head_dim: int = 64, **changes: object) -> Head:
    design = load_design("leroux2025").replace(**changes)
    return Head(design, load_technology("28nm"), Activity.assumed(design).mean(), head_dim=head_dim)


def areas() -> st.SearchStrategy[float]:
    return st.floats(1e-13, 1e-7)


OF_TILE = (
    *("query drivers", "word-line drivers", "decoder", "write DACs"),
    *("charge-to-pulse", "signed readout", "counters"),
)


@given(
    st.builds(
        Blocks,
        areas=st.fixed_dictionaries({name: areas() for name in (*OF_TILE, *SHARED)}),
        cell=st.floats(1e-14, 1e-11),
        tile=st.integers(1, 32),
        rows=st.integers(1, 96),
        tiles=st.integers(1, 24),
    )
)
def test_blocks_keep_their_areas_and_do_not_overlap(blocks: Blocks) -> None:
    for plan in (tile_plan(blocks), head_plan(blocks)):
        for one, other in combinations(plan.rectangles, 2):
            assert not overlap(one, other), (one, other)
        for r in plan.rectangles:
            assert min(r.x, r.y) >= 0
            assert r.x + r.w <= plan.w * (1 + 1e-9)
            assert r.y + r.h <= plan.h * (1 + 1e-9)
    tile = {r.name: area_of(r) for r in tile_plan(blocks).rectangles}
    assert tile["key array"] == pytest.approx(blocks.tile * blocks.rows * blocks.cell, rel=1e-6, abs=0)
    assert tile["value array"] == pytest.approx(tile["key array"])
    for name in OF_TILE:
        for placed in ("row decoder", "column decoder") if name == "decoder" else (name,):
            assert tile[placed] == pytest.approx(blocks.areas[name], rel=1e-6, abs=0)
    whole = head_plan(blocks)
    for name in SHARED:
        assert area_of(*(r for r in whole.rectangles if r.name == name)) == pytest.approx(
            blocks.areas[name], rel=1e-6, abs=0
        )
    assert sum(r.kind == CELLS for r in whole.rectangles) == blocks.tiles
    assert whole.w * whole.h == pytest.approx(area_of(*whole.rectangles), rel=1e-6, abs=0)
    assert len({(r.w, r.h) for r in whole.rectangles if r.kind == CELLS}) == 1


@pytest.mark.parametrize(("head_dim", "changes"), [(64, {}), (80, {"window": 320}), (16, {"tile": 32})])
def test_as_much_area_as_the_costs_say(head_dim: int, changes: dict[str, object]) -> None:
    """Through another split: the rectangles of all sub-tiles add up to the area of the cost model."""
    made = head(head_dim, **changes)
    found = flat_head(blocks_of(made))
    assert area_of(*found) == pytest.approx(head_area(made).area)
    cells = area_of(*(r for r in found if r.kind == CELLS))
    assert cells == pytest.approx(head_area(made).parts["cells"].area)
    assert len(found) == 10 * made.design.tiles + 4


def test_the_papers_head() -> None:
    """131 072 cells of 1 um^2; 64 x 64 of them an array; 16 sub-tiles. The paper states 0.5 mm^2 a head."""
    blocks = blocks_of(head())
    assert (blocks.tile, blocks.rows, blocks.tiles) == (64, 64, 16)
    tile = {r.name: r for r in tile_plan(blocks).rectangles}
    assert tile["key array"].w == pytest.approx(64e-6)
    assert tile["value array"].h == pytest.approx(64e-6)
    assert area_of(*(r for r in flat_head(blocks) if r.kind == CELLS)) == pytest.approx(131_072e-12)
    plan = head_plan(blocks)
    assert 0.5e-6 / 3 < plan.w * plan.h < 0.5e-6 * 3
    assert 0.5 < plan.w / plan.h < 2


def test_taps_lie_on_the_diagonal_and_lead_to_their_rows() -> None:
    """Token j: its key bit line is column j, its word line is row j of the value array."""
    blocks = blocks_of(head(head_dim=128))
    plan = tile_plan(blocks)
    r = {r.name: r for r in plan.rectangles}
    assert len(plan.wires) == 64
    for token, wire in enumerate(plan.wires):
        column = (wire.x - r["key array"].x) / blocks.pitch
        row = (wire.y - r["value array"].y) / blocks.pitch
        assert column == pytest.approx(token + 0.5)
        assert row == pytest.approx(token + 0.5)
        assert wire.to == pytest.approx(r["charge-to-pulse"].x)
    assert r["charge-to-pulse"].x < r["value array"].x


def test_long_converters_are_folded() -> None:
    dense = blocks_of(replace(head(), layers=8))
    pulses = next(r for r in tile_plan(dense).rectangles if r.name == "charge-to-pulse")
    assert pulses.w <= LONGEST * pulses.h * (1 + 1e-9)
    assert dense.cell == pytest.approx(1e-12 / 8)


def test_grid() -> None:
    assert best_columns(16, 1.0, 1.0) == 4
    assert best_columns(16, 4.0, 1.0) == 2
    assert best_columns(7, 1.0, 1.0) in (1, 7)


@pytest.mark.parametrize(
    ("window", "tile", "message"),
    [
        (1000, 64, "does not divide window = 1000; allowed: a window that is a"),
        (63, 64, "does not divide window = 63; allowed: a window that is a"),
        (64, 0, "tile = 0 is out of range; allowed: 1 to"),
    ],
)
def test_windows_that_cannot_be_tiled(window: int, tile: int, message: str) -> None:
    with pytest.raises(DesignError, match=message):
        head(window=window, tile=tile)
    assert blocks_of(head(window=1024)).tiles == 16


DENSE = ["leroux2025-oxide", "--cell-area", "0.12e-12", "--stack", "4"]


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, file = tmp_path / "plan.svg", tmp_path / "plan.json"
    with pytest.raises(SystemExit) as left:
        main(["floorplan", "--figure", str(out), "--json", str(file)])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert "charge-to-pulse" in shown
    assert "0.5 mm²" in shown
    result = json.loads(file.read_text())
    assert to_json(read(file, FloorplanResult)) == result
    assert str(tmp_path) not in file.read_text()
    drawn = out.read_text()
    assert drawn.count("<!-- sub-tile") == 16
    for name in (
        "key array",
        "value array",
        "charge-to-pulse",
        "row decoder",
        "adder tree",
        "output scaling",
        "digital control",
        "input scaling",
    ):
        assert f"<!-- {name} -->" in drawn
    for arguments, message in (
        (["--window", "1000"], "tile = 64 does not divide window = 1000"),
        (["--figure", str(tmp_path / "plan.gif")], "ends with .png, .svg, .pdf"),
        (["--gds", str(tmp_path / "plan.txt")], "ends with .gds"),
        (["--cell-area", "-1"], "cell_area = -1.0 m^2 is out of range"),
    ):
        with pytest.raises(SystemExit) as refused:
            main(["floorplan", *arguments])
        assert refused.value.code == 2
        assert message in capsys.readouterr().err


def test_the_table_says_which_cells_it_counts(capsys: pytest.CaptureFixture[str]) -> None:
    for options, cells in (
        ([], "1 µm²"),
        (["--cell-area", "0.12e-12", "--stack", "4"], "0.12 µm² in 4 layers"),
    ):
        with pytest.raises(SystemExit):
            main(["floorplan", *options])
        title = " ".join(capsys.readouterr().out.split()).partition(" block ")[0]
        assert title.endswith(f"cells of {cells}")


def test_areas_of_converters_that_do_not_quantise_are_named() -> None:
    note = "priced in place of converters that do not quantise: query drivers of 256 levels"
    found = floorplan_result(head(query_levels=None), [])
    assert found.note == note
    assert area_rows(found).caption.endswith(f"states another; {note}.")
    paper = floorplan_result(head(), [])
    assert paper.note == ""
    assert area_rows(paper).caption.endswith("states another.")


def test_files_of_ones_own_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    technology, file = tmp_path / "mine.toml", tmp_path / "plan.json"
    changed = 'gate_area = { value = 1e-12, unit = "m^2", source = "U", range = [0, 1] }'
    technology.write_text(f'extends = "28nm"\n{changed}\n')
    load_design("leroux2025").save(chip := tmp_path / "chip.toml")
    with pytest.raises(SystemExit):
        main(["floorplan", str(chip), "--technology", str(technology), "--json", str(file)])
    assert "changed by mine.toml: gate_area" in " ".join(capsys.readouterr().out.split())
    assert json.loads(file.read_text())["provenance"]["inputs"] == {
        "design chip.toml": sha256(chip),
        "technology mine.toml": sha256(technology),
    }


def test_a_single_sub_tile_has_no_adders(tmp_path: Path) -> None:
    file, out = tmp_path / "plan.json", tmp_path / "plan.svg"
    with pytest.raises(SystemExit) as left:
        main(["floorplan", "--window", "64", "--json", str(file), "--figure", str(out)])
    assert left.value.code == 0
    result = json.loads(file.read_text())
    assert result["areas"]["adder tree"]["value"] == 0
    assert result["stack"][0]["cited_cells"]["value"] == pytest.approx(36.7e-9 / 16)  # of 1/16 of the cells
    names = {r["name"] for r in result["floorplan"]["head"]["rectangles"]}
    assert names == {"sub-tile 0", "output scaling", "input scaling", "digital control"}
    assert "<!-- adder tree -->" not in out.read_text()


def test_no_label_lies_on_the_scale_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *arguments: Any, **named: Any) -> None:
        drawn.append(figure)
        save(figure, *arguments, **named)

    monkeypatch.setattr(Figure, "savefig", keep)
    with pytest.raises(SystemExit):
        main(["floorplan", *DENSE, "--figure", str(tmp_path / "plan.png")])
    for axes in drawn[0].axes:
        bar = next(line for line in axes.lines if line.get_linewidth() == 2.5)
        length = next(text for text in axes.texts if text.get_text().endswith("µm"))
        others = [text for text in axes.texts if text is not length]
        for part in (bar, length):
            around = part.get_window_extent()
            assert not [text.get_text() for text in others if text.get_window_extent().overlaps(around)]


@pytest.mark.parametrize("window", [128, 1024, 8192])
def test_both_plans_have_a_scale(window: int) -> None:
    """A bar as long, in the plan's micrometres, as its label says, between a twentieth and a sixth of it."""
    result = floorplan_result(head(window=window), [])
    figure = floorplan_figure(result)
    plans = result.floorplan
    for axes, plan in zip(figure.axes, (plans.tile, plans.head), strict=True):
        label = next(text.get_text() for text in axes.texts if text.get_text().endswith("µm"))
        bar = next(line for line in axes.lines if line.get_linewidth() == 2.5)
        (left, right), width = bar.get_xdata(), plan.w * 1e6
        assert right - left == pytest.approx(float(label.split()[0]))
        assert width / 20 < right - left <= width / 6


def test_without_gdstk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gdstk", None)
    with pytest.raises(InputError, match=r"pip install 'gaincell\[layout\]'"):
        write_gds(blocks_of(head()), tmp_path / "plan.gds")
    assert not list(tmp_path.iterdir())


def test_gds_holds_the_rectangles(tmp_path: Path) -> None:
    gdstk = pytest.importorskip("gdstk")
    blocks = blocks_of(head())
    library = gdstk.read_gds(str(write_gds(blocks, tmp_path / "plan.gds")))
    tile, whole = (next(c for c in library.cells if c.name == name) for name in ("SUBTILE", "HEAD"))
    assert len(whole.references) == 16
    low, high = whole.bounding_box()
    plan = head_plan(blocks)
    assert (high[0] - low[0], high[1] - low[1]) == pytest.approx((plan.w * 1e6, plan.h * 1e6), abs=0.01)
    arrays = [polygon for polygon in tile.polygons if polygon.layer == 1]
    assert [polygon.area() for polygon in arrays] == pytest.approx([4096, 4096], rel=1e-3)
    assert sum(polygon.layer == 10 for polygon in tile.polygons) == 64
    assert {label.text for label in tile.labels} >= {"key array", "value array", "charge-to-pulse"}
