"""The cost figures of the paper: what it states, through counts and conversions, and how far a bottom-up
estimate is from each of its blocks.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gaincell.arrays.refresh import Refresh
from gaincell.arrays.schedule import Schedule
from gaincell.chips.design_file import load_design
from gaincell.circuits.charge_to_pulse import ChargeToPulse
from gaincell.circuits.normaliser import Normaliser
from gaincell.circuits.pwm import Drivers
from gaincell.circuits.sinks import Sinks
from gaincell.costs.activity import Activity
from gaincell.costs.area import variants
from gaincell.costs.cited import DIGITAL, FIRST, SECOND, WRITE, paper
from gaincell.costs.gpus import printed, published
from gaincell.costs.head import Head, assumed_head
from gaincell.costs.memory_alternatives import stated_cache
from gaincell.costs.notes import left_out
from gaincell.costs.result import comparison
from gaincell.costs.roll_up import HeadCost, mean_head, of_head, of_model
from gaincell.costs.size import ModelSize, shipped_size
from gaincell.costs.technology import load_technology
from gaincell.integrations.hf.size import model_size
from gaincell.nn.balanced_rows import DIRECTIONS
from gaincell.results import read
from gaincell.results.cost import CostResult
from gaincell.results.sweep import SweepResult
from gaincell.sweeps.file import load_sweep
from gaincell.sweeps.space import applied

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "costs"
OUTSIDE = {WRITE, DIGITAL}
"""Blocks whose bottom-up estimate lies outside its band, both below it: docs/costs.md says why."""


@pytest.fixture(scope="module")
def cost() -> HeadCost:
    """A head of the paper: D = 64, 1024 columns, all of them valid, one query head a key/value head."""
    design = load_design("leroux2025")
    activity = Activity.assumed(design).mean()
    return of_head(Head(design, load_technology("28nm"), activity, head_dim=64, group=1))


def test_energy_of_a_token_and_head(cost: HeadCost) -> None:
    """1120 pJ + 700 pJ + 4 nJ + 330 pJ = 6.15 nJ."""
    assert cost.cited.energy == pytest.approx(6.15e-9, rel=1e-9, abs=0)
    assert {name: part.energy for name, part in cost.cited.parts.items()} == pytest.approx(
        {FIRST: 1120e-12, SECOND: 700e-12, WRITE: 330e-12, DIGITAL: 4e-9}
    )


def test_energy_follows_the_output_lines_and_cells(cost: HeadCost) -> None:
    """Sub-tiles of 32 columns have twice the counters, D a sub-tile, for as many cells."""
    finer = of_head(replace(cost.head, design=cost.head.design.replace(tile=32))).cited.parts
    assert finer[DIGITAL].energy == pytest.approx(2 * 4e-9)
    assert finer[FIRST].energy == pytest.approx(1120e-12)
    half = of_head(replace(cost.head, context=512)).cited.parts
    assert (half[DIGITAL].energy, half[SECOND].energy) == pytest.approx((2e-9, 350e-12))


def test_energy_of_all_heads_of_a_layer() -> None:
    """GPT-2 has 12 heads a layer and 12 layers; every head of it costs what one does."""
    design = load_design("leroux2025")
    model = of_model(shipped_size("gpt2"), design, load_technology("28nm"), Activity.assumed(design))
    assert model.energy_cited == pytest.approx(12 * 12 * 6.15e-9, rel=1e-9)
    assert model.latency[0] == pytest.approx(12 * 65e-9, rel=1e-9)
    assert model.area[0] == pytest.approx(12 * 12 * 0.5e-6, rel=1e-9)


def test_digital_energy_is_its_power_for_35_ns() -> None:
    p = paper()
    assert p.digital_power * p.digital_active == pytest.approx(p.digital, rel=0.01, abs=0)
    assert p.digital_active < load_design("leroux2025").layer_latency


def test_latency(cost: HeadCost) -> None:
    """65 ns stated; the schedule's phases with the assumed write give the same, without it 49 ns. Bottom-up
    has a clock period each for scaling inputs and output.
    """
    assert cost.cited.latency == pytest.approx(65e-9, rel=1e-9)
    design = cost.head.design
    phases = {phase.name: phase.duration for phase in Schedule(design).phases}
    computed = phases["key read"] + phases["value read"] + phases["count"] + phases["add"]
    assert computed == pytest.approx(15e-9 + 15e-9 + 15 / 1e9 + math.log2(16) / 1e9)
    assert Schedule(cost.head.design, cost.head.group).latency == pytest.approx(cost.cited.latency)
    technology = cost.head.technology
    assert cost.bottom_up.latency == pytest.approx(
        computed + technology.discharge_time + technology.write_time + 2 / design.counter_clock
    )


def test_cells_and_their_areas(cost: HeadCost) -> None:
    """131 072 cells of 1 um2 are 0.131 mm2; areas follow from the counts of the design, not of the file."""
    d = cost.head.design
    assert cost.head.cells == 131_072 == 2 * d.tiles * d.tile * 64
    assert cost.area.parts["cells"].area == pytest.approx(0.131072e-6)
    found = {variant.title: variant for variant in variants(cost.head)}
    for title, cell, cells in (
        ("oxide write transistors, worst case", 1e-12, 0.131e-6),
        ("dense oxide crossbar", 0.12e-12, 15.7e-9),
        ("3D, 1 layer", 0.28e-12, 36.7e-9),
        ("3D, 4 layers", 0.28e-12, 36.7e-9 / 4),
    ):
        assert found[title].cell == pytest.approx(cell, rel=0.005, abs=0)
        assert found[title].cells == pytest.approx(cells, rel=0.002)
    wide = of_head(replace(cost.head, head_dim=128))
    assert wide.head.cells == 2 * 131_072
    assert wide.cited.area == pytest.approx(1e-6)


def test_ratios_against_the_released_measurements(cost: HeadCost) -> None:
    """344x and 97 266x (RTX 4090), 7521x and 43 981x (Jetson Nano), against twelve heads."""
    machines = comparison(cost, 12, list(published().values()))
    found = [(round(m.latency_over_cited or 0), round(m.energy_over_cited or 0)) for m in machines]
    assert dict(zip(published(), found, strict=True)) == {
        "rtx-4090": (344, 97_266),
        "jetson-nano": (7521, 43_981),
    }


def test_released_measurements_are_of_a_token() -> None:
    """22.37 us and 7.178 mJ; 488.9 us and 3.246 mJ."""
    four, jetson = published()["rtx-4090"], published()["jetson-nano"]
    assert (four.latency, four.energy) == pytest.approx((22.37e-6, 7.178e-3), rel=1e-3)
    assert (jetson.latency, jetson.energy) == pytest.approx((488.9e-6, 3.246e-3), rel=1e-3)


def test_printed_ratios_are_rounded_down(cost: HeadCost) -> None:
    """The paper prints less than its measurements give, at most a seventh less."""
    p = printed()
    pairs = {
        "rtx-4090": (p["latency_rtx_4090"], p["energy_rtx_4090"]),
        "jetson-nano": (p["latency_jetson_nano"], p["energy_jetson_nano"]),
    }
    for name, (latency, energy) in pairs.items():
        (machine,) = comparison(cost, 12, [published()[name]])
        assert machine.latency_over_cited is not None
        assert machine.energy_over_cited is not None
        assert 0.85 <= latency / machine.latency_over_cited <= 1
        assert 0.85 <= energy / machine.energy_over_cited <= 1


def test_every_block_is_in_its_band_or_listed_as_outside(cost: HeadCost) -> None:
    bands = {FIRST: 3.0, SECOND: 3.0, WRITE: 5.0, DIGITAL: 10.0}
    compared = {line.name: line for line in cost.lines if line.cited is not None}
    assert {name: line.band for name, line in compared.items()} == bands
    assert {line.name for line in cost.outside} == OUTSIDE
    for name, line in compared.items():
        assert line.factor is not None
        assert (1 / bands[name] <= line.factor <= bands[name]) == (name not in OUTSIDE)
        assert bool(cost.explain(line)) == (name in OUTSIDE)


def test_an_array_of_smaller_charges_is_outside_its_band_for_them(cost: HeadCost) -> None:
    head = cost.head
    small = of_head(replace(head, design=head.design.replace(charge_unit=1.5e-17)))
    assert [line.name for line in small.outside][:2] == [FIRST, SECOND]
    assert small.explain(small.outside[0]) == (
        "cited of a cell with a charge unit of 1.5e-14 C, and this chip's is 1.5e-17 C"
    )


@pytest.mark.parametrize(("bits", "words"), [(4, "inside it"), (0, "inside it"), (9, None)])
def test_the_verdict_on_the_digital_part_follows_from_its_words(
    cost: HeadCost, bits: int, words: str | None
) -> None:
    """Values of 8 and 7 bits leave it just outside; wider ones, or 16-bit floats, bring it inside."""
    technology = cost.head.technology.replace(guard_bits=bits)
    found = of_head(replace(cost.head, technology=technology))
    line = next(line for line in found.lines if line.name == DIGITAL)
    assert line.inside == (words is None)
    assert found.explain(line).endswith(words or "")
    assert f"{line.factor:.3g} with scaling stages of {4 + bits}" in found.explain(line) or line.inside


STEPS = {
    "words of q, k, v come in": ("digital / code registers",),
    "gain and offset of q, of k and v, of the output (3)": (
        "digital / scaling of q",
        "digital / scaling of k, v",
        "digital / scaling of the output",
    ),
    "gains and offsets are held": ("leakage",),
    "the write pointer moves, a column becomes valid": ("digital / write pointer",),
    "a column is discharged": ("write / discharge",),
    "key and value are converted and written": ("write / write DACs and bit lines",),
    "codes and pulses travel": ("digital / routing",),
    "query codes become pulses": ("digital / query pulses",),
    "pulses drive word lines": ("first dot product / word lines", "second dot product / word lines"),
    "cells draw current": ("first dot product / cells", "second dot product / cells"),
    "scores become pulses (5)": ("first dot product / charge-to-pulse",),
    "outputs become signed pulses": ("second dot product / signed readout",),
    "pulses are counted, counters cleared": ("digital / counters",),
    "codes of the sub-tiles are added": ("digital / adder tree", "digital / adder registers"),
    "phases follow each other": ("digital / control", "digital / clock"),
    "sums are divided by that of the normalising column": ("digital / division",),
    "columns are refreshed": ("refresh",),
}
"""What happens for a token (spec, sections 3 to 5), and the entries that pay for it."""


@pytest.mark.parametrize("name", ["leroux2025", "leroux2025-extended"])
def test_every_step_of_a_token_has_an_entry(name: str) -> None:
    """And every entry belongs to a step; what has none is left out by name (below)."""
    design = load_design(name)
    activity = Activity.assumed(design).mean()
    refresh = Refresh("reread", every_seconds=1e-3)
    blocks = of_head(Head(design, load_technology("28nm"), activity, refresh=refresh)).bottom_up.parts
    energies = {name: block.energy for name, block in blocks.items() if not block.parts}
    for name, block in blocks.items():
        energies |= {f"{name} / {part}": found.energy for part, found in block.parts.items()}
    assert all(energy > 0 for energy in energies.values())
    steps = {entry for entries in STEPS.values() for entry in entries}
    assert energies.keys() == steps - (set() if design.normaliser.present else {"digital / division"})


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({}, "references of the converters"),
        ({}, "buffers of the clock tree"),
        ({}, "ladder and decoder of the DACs"),
        ({}, "rotary embedding"),
        ({"drivers": Drivers(phases=2)}, "sense of the key integrators"),
        ({"normaliser": Normaliser(1.0)}, "the normalising column"),
        ({"sinks": Sinks(tokens=4)}, "columns of first tokens"),
        ({"charge_to_pulse": ChargeToPulse(exponent=2)}, "ramp"),
    ],
)
def test_what_has_no_entry_is_left_out_by_name(change: dict[str, Any], what: str) -> None:
    chip = load_design("leroux2025")
    head = assumed_head(chip, load_technology("28nm"))
    found = [one.what for one in left_out(replace(head, design=chip.replace(**change)))]
    assert any(what in words for words in found)
    own = [one.what for one in left_out(head)]
    assert any(what in words for words in own) == (not change)
    assert not any("reading columns back" in words for words in found)
    refreshed = replace(head, refresh=Refresh("copy", every_seconds=1.0))
    assert any("reading columns back" in one.what for one in left_out(refreshed))


@pytest.mark.parametrize(("name", "group"), [("tiny", 2), ("smollm2-135m", 3)])
def test_second_dot_product_is_cheaper_because_it_is_sparser(name: str, group: int) -> None:
    """Measured on text: all of the second product takes less than the first, its cells less than a fifth,
    because pulses are shorter; with pulses as long as the queries' they would take as much.
    """
    head = replace(measured_head(name, group), context=1024)
    blocks = of_head(head).bottom_up.parts
    assert blocks[SECOND].energy < 0.6 * blocks[FIRST].energy
    assert blocks[SECOND].parts["cells"].energy < 0.2 * blocks[FIRST].parts["cells"].energy
    dense = replace(head.activity, score_pulse=head.activity.query_pulse)
    found = of_head(replace(head, activity=dense)).bottom_up.parts
    assert found[SECOND].parts["cells"].energy > 0.5 * blocks[FIRST].parts["cells"].energy


@pytest.mark.parametrize(
    ("name", "group", "outside"),
    [
        ("tiny", 2, set()),
        ("tiny-linear", 2, set()),
        ("smollm2-135m", 3, set()),
        ("smollm2-135m-extended", 3, {SECOND}),
    ],
)
def test_bands_with_measured_activity(name: str, group: int, outside: set[str]) -> None:
    """What lies outside its band with the activity of real text: docs/costs.md lists the same."""
    head = replace(measured_head(name, group), context=1024)
    assert {line.name for line in of_head(head).outside} == OUTSIDE | outside


@pytest.mark.parametrize("path", sorted(RESULTS.glob("cost-*.json")), ids=lambda path: path.stem)
def test_committed_costs_are_those_of_the_estimate(path: Path) -> None:
    """From the activity that a result holds follow its energies, latency, area and what is left out."""
    result = read(path, CostResult)
    sizes = {key: of for key, of in vars(result.model).items() if key not in ("name", "source")}
    digital = next(line.parts for line in result.head.lines if line.name == "digital")
    design = load_design(result.design.name.partition(" (changed")[0])
    design = design.replace(window=result.head.window, layers=result.model.layers)
    scaling = {"column_gains": "column gains" in digital}
    scaling["array_normaliser"] = "division" in digital and not design.normaliser.present
    scaling["balanced_rows"] = DIRECTIONS if "turning of q" in digital else 0
    found = mean_head(
        ModelSize(result.model.name, result.model.source, **sizes, **scaling),
        design,
        load_technology(result.technology.name),
        Activity(**vars(result.activity)),
        round(result.head.context),
    )
    for line, stored in zip(found.lines, result.head.lines, strict=True):
        assert dict(line.parts) == pytest.approx(dict(stored.parts), rel=1e-6, abs=0)
        assert line.bottom_up == pytest.approx(stored.bottom_up, rel=1e-6, abs=0)
        assert (line.inside, found.explain(line)) == (stored.inside, stored.explanation or "")
    assert found.bottom_up.latency == pytest.approx(result.head.bottom_up.latency, rel=1e-6, abs=0)
    assert found.area.area == pytest.approx(result.areas.head, rel=1e-6, abs=0)
    assert tuple(left_out(found.head)) == result.left_out


@pytest.mark.parametrize("name", ["constraints", "arrays", "relaxed"])
def test_committed_sweeps_have_the_latency_and_area_of_the_estimate(name: str) -> None:
    """What depends on the design alone; energies were priced anew with them, and the page says how."""
    result = read(RESULTS.parent / "sweeps" / f"{name}.json", SweepResult)
    sweep = load_sweep(RESULTS.parents[2] / "recipes" / "sweeps" / f"{name}.toml")
    size, technology = model_size(sweep.model), load_technology(sweep.technology)
    for point in result.points:
        values = {key: _parameter(key, point.setting(key)) for key in point.parameters}
        design = applied(sweep.design, values).replace(layers=size.layers)
        cost = of_model(size, design, technology, Activity.assumed(design))
        for key, found in (("latency", cost.latency[1]), ("area", cost.area[1])):
            assert found == pytest.approx(point.values[key].value)
    page = (RESULTS.parents[1] / "sweeps.md").read_text()
    repriced = result.provenance.repriced
    assert repriced is None or repriced.how in page


def _parameter(name: str, entry: Any) -> Any:
    """A parameter of a point, as its sweep has it."""
    return {"true": True, "false": False, "none": "none" if name == "readout" else None}.get(entry, entry)


def measured_head(name: str, group: int) -> Head:
    """The mean head of a committed activity."""
    activity = Activity.read(RESULTS / f"activity-{name}.json")
    design = load_design("leroux2025-extended" if "extended" in name else "leroux2025")
    return Head(design, load_technology("28nm"), activity.mean(), head_dim=64, group=group)


def test_8_gb_for_mistral_7b() -> None:
    """Right in bits: 8 Gibit are 8192 tokens, the model's context, in 16 bits with grouped queries. In bytes
    it takes 65 536 tokens, or 8192 in float32 without grouped queries.
    """
    size = shipped_size("mistral-7b")
    assert size.cache_bytes(2.0) == 131_072
    tokens = {(c.read_as, c.bytes_per_number, c.grouped): c.tokens for c in stated_cache(size)}
    assert tokens["bits", 2.0, True] == 8192 == size.tokens
    assert tokens["bytes", 2.0, True] == 65_536
    assert tokens["bytes", 4.0, False] == 8192
