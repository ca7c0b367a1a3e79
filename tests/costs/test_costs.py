"""Costs as physics: what adds up, what grows with what, and what the units are."""

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gaincell.arrays.refresh import Refresh
from gaincell.chips.design_file import list_designs, load_design
from gaincell.costs import arrays, digital, storage, sweep
from gaincell.costs.activity import Activity
from gaincell.costs.area import head_area, variants
from gaincell.costs.cited import FIRST, WRITE
from gaincell.costs.cost import Cost, total
from gaincell.costs.head import assumed_head
from gaincell.costs.notes import left_out, of_other_chip
from gaincell.costs.result import phases
from gaincell.costs.roll_up import of_head, of_model
from gaincell.costs.sensitivity import _moved, sensitivity
from gaincell.costs.simulated import arrays as simulated_arrays
from gaincell.costs.simulated import read_simulated
from gaincell.costs.size import ModelSize, shipped_size
from gaincell.costs.technology import load_technology
from gaincell.devices.leakage import Leakage
from gaincell.errors import InputError
from gaincell.results.spice import EnergyResult

DESIGN, TECHNOLOGY = load_design("leroux2025"), load_technology("28nm")
HEAD = assumed_head(DESIGN, TECHNOLOGY)
SPICE = Path(__file__).parents[2] / "docs" / "results" / "spice" / "energy-freepdk45.json"
numbers = st.floats(0, 1e6, allow_subnormal=False)


# What adds up.


@given(numbers, numbers, numbers, st.integers(1, 100))
def test_costs_add_up(energy: float, latency: float, area: float, count: int) -> None:
    one = Cost(energy=energy, latency=latency, area=area)
    assert one + Cost() == one
    whole = total({str(n): one for n in range(count)})
    assert whole.energy == pytest.approx(count * energy, rel=1e-6, abs=0)
    assert whole.area == pytest.approx(count * area, rel=1e-6, abs=0)
    assert whole.latency == pytest.approx(count * latency, rel=1e-6, abs=0)
    assert total(dict(whole.parts), latency).latency == latency


def test_parts_add_up_at_every_level() -> None:
    cost = of_head(replace(HEAD, refresh=Refresh("copy", every_seconds=1e-3)))
    assert cost.bottom_up.energy == pytest.approx(sum(line.bottom_up for line in cost.lines))
    for line in cost.lines:
        if line.parts:
            assert sum(line.parts.values()) == pytest.approx(line.bottom_up)
    assert sum(part.area for part in cost.area.parts.values()) == pytest.approx(cost.area.area)
    found, idle = phases(cost), cost.bottom_up.parts["leakage"]
    after = cost.head.design.token_period - max(phase.start + phase.duration for phase in found)
    in_step = cost.bottom_up.energy - idle.power * after
    assert sum(phase.energy for phase in found) == pytest.approx(in_step, rel=1e-9, abs=0)
    assert cost.bottom_up.parts["digital"].parts["counters"].energy > 0


def test_counters_in_place_of_a_readout_that_does_not_quantise_cost_what_counters_cost() -> None:
    counted, ideal = (
        of_head(replace(HEAD, design=HEAD.design.replace(readout=readout))).bottom_up
        for readout in ("counter", "none")
    )
    assert ideal.parts["digital"] == counted.parts["digital"]
    assert ideal.latency == counted.latency
    size = ModelSize("two", "made up", 1, 2, 2, 64, 128, 1000, 100, 1024)
    for chip in (DESIGN, DESIGN.replace(readout="none")):
        model = of_model(size, chip, TECHNOLOGY, Activity.assumed(chip))
        assert model.head.head.design.token_period == pytest.approx(65e-9)


def test_a_model_is_the_sum_of_its_heads() -> None:
    one = Activity.assumed(DESIGN).mean()
    idle = replace(one, head=1, score_pulse=0.0, score_active=0.0, output_pulse=0.0)
    size = ModelSize("two", "made up", 1, 2, 2, 64, 128, 1000, 100, 1024)
    model = of_model(size, DESIGN, TECHNOLOGY, Activity("test", 10, (one, idle)))
    assert model.energy_bottom_up == pytest.approx(sum(head.bottom_up.energy for head in model.heads))
    assert model.heads[1].bottom_up.energy < model.heads[0].bottom_up.energy


# What grows with what.


@pytest.mark.parametrize("name", ["window", "head_dim"])
def test_energy_and_area_grow_with_sizes(name: str) -> None:
    points = sweep.SWEEPS[name][2](HEAD)
    for smaller, larger in pairwise(points):
        assert larger.cost.bottom_up.energy > smaller.cost.bottom_up.energy
        assert larger.cost.area.area > smaller.cost.area.area
        assert larger.cost.bottom_up.latency >= smaller.cost.bottom_up.latency


def test_a_short_context_is_cheaper_and_a_long_one_costs_the_window() -> None:
    energies = [of_head(replace(HEAD, context=n)).bottom_up.energy for n in (1, 64, 65, 512, 1024, 10**6)]
    assert energies == sorted(energies)
    assert energies[-1] == energies[-2]


@pytest.mark.parametrize("group", [1, 2, 3, 8])
def test_a_group_writes_once(group: int) -> None:
    """Each query head pays 1/g of a write; reads cost the same; the step takes longer, less than g times."""
    one, many = of_head(HEAD), of_head(replace(HEAD, group=group))
    energy = {name: {line.name: line for line in cost.lines} for name, cost in (("1", one), ("g", many))}
    assert energy["g"][WRITE].bottom_up == pytest.approx(energy["1"][WRITE].bottom_up / group)
    assert many.cited.parts[WRITE].energy == pytest.approx(one.cited.parts[WRITE].energy / group)
    first = "first dot product"
    assert energy["g"][first].bottom_up == energy["1"][first].bottom_up
    assert one.bottom_up.latency <= many.bottom_up.latency <= group * one.bottom_up.latency
    coefficients = 2 * (group - 1) * (HEAD.query_word + HEAD.sum_bits(16))
    more = coefficients * TECHNOLOGY.flip_flop_area / TECHNOLOGY.utilisation
    assert many.area.area - one.area.area == pytest.approx(more, abs=1e-18)


def test_energy_of_cells_is_charge_times_supply() -> None:
    """All cells at one voltage and full pulses: cells x F(u) x charge unit x VDD, of those that source."""
    u = 0.45
    activity = replace(HEAD.activity, query_pulse=1.0, key_level=u, key_square=u * u)
    ideal = DESIGN.replace(cell="linear", retention_time=None)
    found = arrays.first_product(replace(HEAD, design=ideal, activity=activity)).parts["cells"].energy
    sourcing = 64 * 1024 / 2
    assert found == pytest.approx(sourcing * 19.3 * u * 15e-15 * 0.9)


def test_charge_that_cells_sink_comes_from_the_converter() -> None:
    """As many charge units a column as scores are negative, each from VDD once."""
    energy = {}
    for negative in (0.0, 0.5, 2.0):
        activity = replace(HEAD.activity, score_negative=negative)
        energy[negative] = arrays.first_product(replace(HEAD, activity=activity)).energy
    assert energy[0.5] - energy[0.0] == pytest.approx(0.5 * 80 * 15e-15 * 0.9 * 1024, rel=1e-6, abs=0)
    assert energy[2.0] - energy[0.0] == pytest.approx(4 * (energy[0.5] - energy[0.0]), rel=1e-6, abs=0)


def test_positive_current_matches_the_levels_of_the_dac() -> None:
    """Two points stand for the eight levels: within 3 % of the mean over them."""
    u = torch.tensor([(code - 3.5) * 0.9 / 7 for code in range(8)], dtype=torch.float64)
    exact = float(DESIGN.cell.current(u).clamp(min=0).mean())
    a = HEAD.activity
    assert arrays.positive_current(DESIGN.cell, a.key_level, a.key_square) == pytest.approx(exact, rel=0.03)
    assert arrays.positive_current(DESIGN.cell, 0.0, 0.0) == pytest.approx(0.5213636, rel=1e-5)
    assert arrays.positive_current(DESIGN.cell, 0.1, 0.09) > 0


@pytest.mark.parametrize(
    ("dim", "tile", "cells"), [(64, 64, 64), (128, 64, 128), (64, 16, 64), (64, 128, 128)]
)
def test_amplifiers_hold_lines_as_long_as_their_arrays(dim: int, tile: int, cells: int) -> None:
    """A bit line joins the rows of a column in key arrays, the N columns of a sub-tile in value arrays."""
    head = replace(HEAD, design=DESIGN.replace(tile=tile), head_dim=dim)
    efficient = replace(head, technology=replace(TECHNOLOGY, transconductance_efficiency=math.inf))
    t = TECHNOLOGY
    of_a_cell = t.pitch * t.wire_capacitance + t.cell_switches * t.diffusion_capacitance
    power = of_a_cell * 2 * DESIGN.counter_clock * math.log(2 * DESIGN.counter_levels) * t.supply
    power /= t.transconductance_efficiency
    for product, name, lines, length in (
        (arrays.first_product, "charge-to-pulse", head.columns, cells),
        (arrays.second_product, "signed readout", head.output_lines, tile),
    ):
        amplifiers = product(head).parts[name].energy - product(efficient).parts[name].energy
        assert amplifiers == pytest.approx(lines * length * power * DESIGN.t_pulse_max, rel=1e-6, abs=0)


def test_no_pulse_draws_nothing_from_the_cells() -> None:
    silent = replace(HEAD.activity, query_pulse=0.0, query_active=0.0, score_pulse=0.0, score_active=0.0)
    head = replace(HEAD, activity=silent)
    for product in (arrays.first_product(head), arrays.second_product(head)):
        assert product.parts["cells"].energy == product.parts["word lines"].energy == 0


def test_decay_saves_current_and_refresh_brings_it_back() -> None:
    short = replace(HEAD, design=DESIGN.replace(retention_time=1e-3))
    assert 0 < short.remaining < HEAD.remaining < 1
    assert replace(HEAD, design=DESIGN.replace(retention_time=None)).remaining == 1
    assert replace(short, refresh=Refresh("copy", every_seconds=1e-5)).remaining > 0.99
    ages = torch.arange(1024, dtype=torch.float64)
    assert HEAD.remaining == pytest.approx(float((DESIGN.decay_per_token**ages).mean()))


def test_energy_scales_with_the_square_of_the_supply_where_capacitances_do() -> None:
    higher = replace(HEAD, technology=TECHNOLOGY.replace(supply=1.8))
    area = head_area(HEAD).area
    assert digital.digital(higher, area).energy == pytest.approx(4 * digital.digital(HEAD, area).energy)
    lines = [arrays.first_product(head).parts["word lines"].energy for head in (HEAD, higher)]
    assert lines[1] == pytest.approx(4 * lines[0])


def test_adder_tree_of_the_paper() -> None:
    """16 inputs of 5 bits: 8 adders of 5 bits, 4 of 6, 2 of 7, 1 of 8; 64 of them."""
    assert digital.adder_bits(HEAD, 16) == 64 * (8 * 5 + 4 * 6 + 2 * 7 + 8)
    assert digital.adder_bits(HEAD, 1) == 0


@pytest.mark.parametrize("window", [1, 20, 64, 65, 512, 961, 1000])
def test_the_last_columns_of_a_ring_lie_anywhere_in_its_sub_tiles(window: int) -> None:
    """Those that a model's own window leaves; where the ring holds no more tokens they begin in column 0."""
    head = replace(HEAD, sliding_window=window)
    read = [len({(last - age) % 1024 // 64 for age in range(window)}) for last in range(1024)]
    assert (head.columns, head.active_tiles) == (window, fmean(read))
    assert head.sum_bits(head.active_tiles) == head.sum_bits(max(read))
    operations = digital.operations(head, 1e-3)
    for part, bits in (("adder tree", digital.adder_bits), ("adder registers", digital.register_bits)):
        assert operations[part].count == pytest.approx(fmean(bits(head, tiles) for tiles in read))
    assert replace(head, context=window).active_tiles == math.ceil(window / 64)
    size = replace(shipped_size("gpt2"), sliding_window=window)
    of_size = of_model(size, DESIGN, TECHNOLOGY, Activity.assumed(DESIGN), context=5000).head.head
    assert of_size.active_tiles == head.active_tiles
    longer, _ = _moved(head, "design", "retention_time", 1.1)
    assert (longer.columns, longer.active_tiles) == (head.columns, head.active_tiles)


def test_registers_of_the_adder_tree() -> None:
    """Every level of the schedule ends in registers: 8 words of 6 bits, 4 of 7, 2 of 8, 1 of 9; of 3 inputs
    one waits a level.
    """
    assert digital.register_bits(HEAD, 16) == 64 * (8 * 6 + 4 * 7 + 2 * 8 + 9)
    assert digital.register_bits(HEAD, 3) == 64 * (2 * 6 + 7)
    assert digital.register_bits(HEAD, 1) == 0
    assert HEAD.sum_bits(16) == 9
    bit = 0.81 * (2e-15 + 4e-15 / 4)
    found = digital.digital(HEAD, 1e-6).parts["adder registers"].energy
    assert found == pytest.approx(64 * 101 * bit)


# Scaling: equation (3).


@pytest.mark.parametrize("name", ["gpt2", "llama-3-8b"])
def test_every_gain_and_offset_is_applied_once(name: str) -> None:
    """(H + 2 Hk + H) D multiply-adds a token and layer: keys and values once a group."""
    size = shipped_size(name)
    head = replace(HEAD, head_dim=size.head_dim, group=size.group)
    found = digital.operations(head, 1e-3)
    counts = [of.count for of in found.values() if of.unit == digital.MULTIPLY_ADD]
    assert len(counts) == 3
    assert size.heads * sum(counts) == pytest.approx(
        (size.heads + 2 * size.kv_heads + size.heads) * size.head_dim
    )


def test_scaling_by_hand() -> None:
    """q in 8 bits, k and v in 7, the sum in 9; m n + m + n bits of adders of 3.125 fJ x 28 / 45 each, and
    C VDD^2 / 4 of a gate a bit of a code.
    """
    assert (HEAD.query_word, HEAD.storage_word, HEAD.sum_bits(16)) == (8, 7, 9)
    adder, gate = 3.125e-15 * 28 / 45, 2e-15 * 0.81 / 4
    parts = digital.digital(HEAD, 1e-6).parts
    assert parts["scaling of q"].energy == pytest.approx(64 * (80 * adder + 4 * gate))
    assert parts["scaling of k, v"].energy == pytest.approx(128 * (63 * adder + 3 * gate))
    assert parts["scaling of the output"].energy == pytest.approx(64 * 99 * adder)
    signed = replace(HEAD, design=load_design("leroux2025-signed"))
    assert (signed.query_bits, signed.query_word) == (5, 8)


def test_multipliers_are_those_of_the_literature() -> None:
    """45 nm: 0.2 pJ of 8 bits and 3.1 pJ of 32 bits, as the bits of their adders."""
    for bits, stated in ((8, 0.2e-12), (32, 3.1e-12)):
        assert bits * bits * TECHNOLOGY.adder_energy == pytest.approx(stated, rel=0.04, abs=0)


@pytest.mark.parametrize(
    ("levels", "bits"),
    [(DESIGN.query_levels, HEAD.query_word), (DESIGN.storage_levels, HEAD.storage_word)],
)
def test_scaled_values_are_wide_enough_for_their_codes(levels: int, bits: int) -> None:
    """In fixed point of that width a code is at most one off, and the rounding of value and gain adds at most
    a tenth to the variance of the converter's own.
    """
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(200, 1000, dtype=torch.float64, generator=generator)
    gain = torch.rand(200, 1, dtype=torch.float64, generator=generator) * 0.9 + 0.1
    offset = torch.rand(200, 1, dtype=torch.float64, generator=generator)
    full = 2.0 ** torch.ceil(torch.log2(1 / gain))
    step = full / 2 ** (bits - 1)
    rounded = (value / step).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * step
    unit = 2.0 ** torch.floor(torch.log2(gain)) / 2 ** (bits - 1)
    exact, found = gain * value + offset, (gain / unit).round() * unit * rounded + offset
    codes = [((levels - 1) * y.clamp(0, 1)).round() for y in (exact, found)]
    assert float((codes[0] - codes[1]).abs().max()) <= 1
    kept = (exact > 0) & (exact < 1)
    error = ((levels - 1) * (found - exact))[kept]
    assert float(error.square().mean()) < 0.1 / 12


def test_a_normalising_column_adds_a_tree_and_divisions() -> None:
    chip = replace(HEAD, design=load_design("leroux2025-signed"))
    assert chip.design.normaliser.present
    assert digital.adder_bits(chip, 16) == 65 * (8 * 5 + 4 * 6 + 2 * 7 + 8)
    found = digital.digital(chip, 1e-6).parts["division"].energy
    assert found == pytest.approx(64 * 81 * TECHNOLOGY.adder_bit)
    assert "division" not in digital.digital(HEAD, 1e-6).parts


def test_a_normaliser_inside_the_arrays_adds_divisions_alone() -> None:
    found = replace(HEAD, array_normaliser=True)
    parts, before = (digital.digital(head, 1e-6).parts for head in (found, HEAD))
    assert parts["division"].energy == pytest.approx(63 * 81 * TECHNOLOGY.adder_bit, rel=1e-6, abs=0)
    assert {name: part for name, part in parts.items() if name != "division"} == before
    blocks = [digital.circuits(head) for head in (found, HEAD)]
    assert blocks[0][digital.OUTPUTS].gates - blocks[1][digital.OUTPUTS].gates == 5 * 81
    assert blocks[0]["counters"] == blocks[1]["counters"]
    size = shipped_size("gpt2")
    plain, more = (
        of_model(one, DESIGN, TECHNOLOGY, Activity.assumed(DESIGN))
        for one in (size, replace(size, array_normaliser=True))
    )
    assert plain.energy_bottom_up < more.energy_bottom_up
    shown = [one.what for one in left_out(replace(HEAD, array_normaliser=True))]
    assert "the time of the divisions" in shown


def test_balanced_rows_add_and_look_up() -> None:
    """By hand, of D = 64: 512 multiply-adds, six levels of additions, 63 charges a key, 7 comparisons."""
    found = replace(HEAD, balanced_rows=4, group=4)
    parts, before = (digital.digital(head, 1e-6).parts for head in (found, replace(HEAD, group=4)))
    bit, gate = TECHNOLOGY.adder_bit, TECHNOLOGY.data(TECHNOLOGY.gate_switching)
    query, key = found.query_word, found.storage_word
    assert parts["turning of q"].energy == pytest.approx(
        (512 * (query**2 + 2 * query) + 64 * 6 * (query + 2.5)) * bit
    )
    assert parts["turning of k"].energy == pytest.approx(
        (512 * (key**2 + 2 * key) + 64 * 6 * (key + 2.5)) * bit / 4
    )
    charge = key * 3 * gate + (key + 6) * bit
    assert parts["sum of a key's charges"].energy == pytest.approx(63 * charge / 4)
    assert parts["row that balances"].energy == pytest.approx((key**2 + 2 * key + 7 * key) * bit / 4)
    added = {"turning of q", "turning of k", "sum of a key's charges", "row that balances"}
    assert {name: part for name, part in parts.items() if name not in added} == before
    blocks = [digital.circuits(head) for head in (found, HEAD)]
    assert blocks[0][digital.INPUTS].gates > blocks[1][digital.INPUTS].gates
    assert "registers of turning q and k" in str(left_out(replace(HEAD, balanced_rows=1)))


def test_gains_that_follow_the_columns_cost_two_powers_a_query() -> None:
    """By hand: two products of 9 bits, and in each two words of 9 bits read through 6 multiplexers."""
    found = replace(HEAD, column_gains=True)
    power = 99 * TECHNOLOGY.adder_bit
    word = 9 * (6 * 2e-15 * 0.81 / 4 + 2e-15 * 0.81 + 4e-15 * 0.81 / 4)
    parts = digital.digital(found, 1e-6).parts
    assert parts["column gains"].energy == pytest.approx(2 * (power + 2 * word))
    assert {name: part for name, part in parts.items() if name != "column gains"} == digital.digital(
        HEAD, 1e-6
    ).parts
    before, after = (digital.circuits(head)[digital.OUTPUTS] for head in (HEAD, found))
    assert (after.gates - before.gates, after.flip_flops - before.flip_flops) == (
        5 * 99 + 2 * 9 * 63 * 3,
        2 * 9 + 2 * 9,
    )
    size = shipped_size("gpt2")
    plain, more = (
        of_model(one, DESIGN, TECHNOLOGY, Activity.assumed(DESIGN))
        for one in (size, replace(size, column_gains=True))
    )
    assert plain.energy_bottom_up < more.energy_bottom_up < 1.01 * plain.energy_bottom_up


def test_refresh_costs_columns_times_writes() -> None:
    interval, dt = 1e-3, DESIGN.token_period
    found = storage.refresh(HEAD, interval)
    assert found.energy == pytest.approx(1024 * storage.write(HEAD).energy * dt / interval)
    assert found.latency == pytest.approx(1024 * 2e-9 * dt / interval)
    assert storage.refresh_interval(HEAD) == pytest.approx(-5e-3 * torch.log(torch.tensor(6 / 7)).item())
    assert storage.refresh_interval(replace(HEAD, design=DESIGN.replace(retention_time=None))) is None


def test_what_decays_to_a_rail_has_half_the_time() -> None:
    """The level farthest from 0 V lies twice as far from it as from V_offset; means of |u| do not know it."""
    to_rail = DESIGN.replace(leakage=Leakage(decay_voltage=0.0, spread=0.1, read_disturb=1e-4))
    found = storage.refresh_interval(replace(HEAD, design=to_rail))
    assert found == pytest.approx(-5e-3 * math.log(1 - 0.9 / 7 / 2 / 0.9))
    held = to_rail.replace(retention_time=None)
    assert not any("retention" in one.what for one in left_out(replace(HEAD, design=held)))
    named = {one.what for one in left_out(replace(HEAD, design=to_rail))} - {
        one.what for one in left_out(HEAD)
    }
    assert named == {
        "cells that hold for less than the retention time",
        "what reads take from the stored voltages",
    }


@pytest.mark.parametrize(("tile", "lines"), [(32, 2.0), (64, 1.0), (128, 0.5)])
def test_the_cited_digital_energy_follows_the_output_lines(tile: int, lines: float) -> None:
    found = of_head(replace(HEAD, design=DESIGN.replace(tile=tile))).cited.parts
    assert found["digital"].energy == pytest.approx(lines * 4e-9)
    assert found["first dot product"].energy == pytest.approx(1120e-12)


def test_stacking_saves_the_area_of_cells_only() -> None:
    flat, stacked = head_area(HEAD), head_area(replace(HEAD, layers=4))
    saved = flat.area - stacked.area
    assert saved == pytest.approx(0.75 * HEAD.cells * TECHNOLOGY.cell_area)
    with pytest.raises(InputError, match="layers = 0"):
        replace(HEAD, layers=0)


def test_other_cells_have_the_stated_areas() -> None:
    found = {variant.title: variant for variant in variants(HEAD)}
    for variant in found.values():
        assert variant.cited is None or variant.cells == pytest.approx(variant.cited, rel=0.002)
        assert variant.head > variant.cells
    assert found["3D, 8 layers"].cells == pytest.approx(36.7e-9 / 8)
    assert found["all silicon (bottom-up)"].cells > found["oxide write transistors, worst case"].cells


def test_signed_queries_take_a_second_phase() -> None:
    signed = replace(HEAD, design=load_design("leroux2025-signed"))
    assert signed.latency == pytest.approx(HEAD.latency + 15e-9)
    assert digital.digital(signed, 1e-6).parts["query pulses"].energy > (
        2 * digital.digital(HEAD, 1e-6).parts["query pulses"].energy
    )


def test_sequences_that_share_circuits_raise_the_throughput() -> None:
    points = sweep.batches(HEAD)
    assert points[1].throughput > 1.5 * points[0].throughput
    assert points[0].throughput == pytest.approx(1 / HEAD.latency)
    assert points[0].cost.bottom_up.energy == pytest.approx(of_head(HEAD).bottom_up.energy, rel=1e-6, abs=0)
    for smaller, larger in pairwise(points):
        assert larger.cost.bottom_up.latency >= smaller.cost.bottom_up.latency * (1 - 1e-9)
        leaked = [point.cost.bottom_up.parts["leakage"].power for point in (smaller, larger)]
        cells = HEAD.cells * 0.9 * TECHNOLOGY.off_current * (0.18e-6 + 0.27e-6)
        assert leaked[1] - leaked[0] == pytest.approx((larger.at - smaller.at) * cells)


def test_refreshes_of_all_sequences_hold_up_every_one() -> None:
    """S sequences on one periphery: in dt all their columns are rewritten, one after the other."""
    policy = Refresh("copy", every_seconds=300e-6)
    head = replace(HEAD, design=DESIGN.replace(retention_time=1e-3))
    paced = storage.paced(replace(head, refresh=policy), head.design.token_period)
    plain, points = sweep.batches(head), sweep.batches(paced)
    for before, point in zip(plain, points, strict=False):
        streams = int(point.at)
        period = head.design.token_period * before.cost.bottom_up.latency / head.latency
        share = streams * head.columns * head.slot / policy.every_seconds
        stall = period / (1 - share) * share / head.design.layers
        waited = before.cost.bottom_up.latency + stall
        assert point.cost.bottom_up.latency == pytest.approx(waited)
        assert point.throughput == pytest.approx(streams / waited)


def test_what_is_left_of_squares_is_their_mean() -> None:
    """E[exp(-2 age / tau)] over the columns, which is more than the square of E[exp(-age / tau)]."""
    head = replace(HEAD, design=DESIGN.replace(retention_time=1e-4))
    ages = [n * head.design.token_period / 1e-4 for n in range(int(head.columns))]
    assert head.remaining == pytest.approx(fmean(math.exp(-age) for age in ages))
    assert head.remaining_square == pytest.approx(fmean(math.exp(-2 * age) for age in ages))
    assert head.remaining_square > 1.5 * head.remaining**2


# What depends on what.


def test_sensitivity_names_what_matters_and_its_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {(c.parameter, c.factor > 1): c for c in sensitivity(HEAD)}
    up, down = found["supply", True].energy, found["supply", False].energy
    assert (round(up, 3), round(down, 3)) == (0.228, -0.216)
    assert found["cell_area", True].area > 0
    assert found["t_pulse_max", True].latency > 0
    assert ("cell_write", True) in found
    bits = HEAD.technology.guard_bits
    assert bits * found["guard_bits", True].factor == round(1.2 * bits)
    monkeypatch.setattr("gaincell.costs.sensitivity.SHARE", 0.1)
    small = {(c.parameter, c.factor > 1): c for c in sensitivity(HEAD)}
    assert small["supply", True].energy == pytest.approx(up / 2, rel=0.1)


@pytest.mark.parametrize("name", list_designs())
def test_every_chip_can_be_supposed_beyond_the_ranges_of_its_file(name: str) -> None:
    design = load_design(name)
    head = assumed_head(design, TECHNOLOGY)
    for title, _, points in sweep.SWEEPS.values():
        assert points(head), title
    narrow = {
        key: replace(design.provenance[key], range=(number, number))
        for key in ("unstated_latency", "layer_latency")
        if (number := getattr(design, key)) is not None
    }
    stated = replace(design, provenance={**design.provenance, **narrow})
    assert of_head(replace(head, design=stated)).bottom_up == of_head(head).bottom_up


def test_changes_are_those_of_the_chip_that_is_shown() -> None:
    """Refreshed, and with stacked cells."""
    policy = Refresh("copy", every_seconds=15e-6)
    head = replace(HEAD, design=DESIGN.replace(retention_time=1e-4), refresh=policy, layers=4)
    head = storage.paced(head, HEAD.design.token_period)
    start = of_head(head).bottom_up
    for name, own in {"window": 1024, "head_dim": 64, "retention_time": 1e-4, "batch": 1}.items():
        points = sweep.SWEEPS[name][2](head)
        (found,) = (point.cost.bottom_up for point in points if point.at == own)
        assert found.area == pytest.approx(start.area), name
        if name != "retention_time":  # which has a policy of its own
            assert found.energy == pytest.approx(start.energy, rel=1e-6, abs=0), name
            assert found.latency == pytest.approx(start.latency), name
    often = replace(HEAD, refresh=Refresh("copy", every_tokens=20))
    assert [point.at for point in sweep.windows(often)] == list(sweep.WINDOWS)
    assert [point.at for point in sweep.batches(head)] == [1, 2, 4]
    changes = {(c.parameter, c.factor > 1): c for c in sensitivity(head)}
    (wider,) = (point for point in sweep.windows(head, (1216,)))
    assert changes["window", True].factor == 1216 / 1024
    assert wider.cost.bottom_up.latency / start.latency - 1 == pytest.approx(changes["window", True].latency)
    supply = TECHNOLOGY.supply * 1.2
    moved = of_head(replace(head, technology=TECHNOLOGY.replace(supply=supply))).bottom_up
    assert changes["supply", True].energy == pytest.approx(moved.energy / start.energy - 1)
    assert changes["cell_area", True].area == pytest.approx(
        of_head(replace(head, technology=TECHNOLOGY.replace(cell_area=TECHNOLOGY.cell_area * 1.2)))
        .bottom_up.area / start.area - 1
    )  # fmt: skip


def test_two_levels_never_drift_by_half_of_one() -> None:
    assert storage.refresh_interval(replace(HEAD, design=DESIGN.replace(storage_levels=2))) is None
    three = storage.refresh_interval(replace(HEAD, design=DESIGN.replace(storage_levels=3)))
    assert three == pytest.approx(DESIGN.retention_time * math.log(2))


def test_spice_energies_of_another_chip_are_refused_or_said() -> None:
    found = read_simulated(SPICE, EnergyResult, "spice energy")
    for name in ("leroux2025-signed", "leroux2025-extended"):
        other = of_head(assumed_head(load_design(name), TECHNOLOGY))
        with pytest.raises(InputError, match="circuits are simulated for unsigned queries"):
            simulated_arrays(other, found)
    assert found.provenance.design_hash == DESIGN.hash
    assert of_other_chip(DESIGN, found, None, None) == of_other_chip(DESIGN, None, None, None) == []
    assert of_other_chip(DESIGN.replace(layers=30), found, None, None) == []  # in a model of other layers
    (said,) = of_other_chip(DESIGN.replace(retention_time=4e-3), found, None, None)
    assert f"of hash {DESIGN.hash}, than the one that is priced" in said


def test_a_full_ring_stays_full_when_the_window_moves() -> None:
    """Whether its columns come from the activity or are given: a sixth more of them costs as much more."""
    for head in (HEAD, replace(HEAD, context=1024)):
        found = {c.factor > 1: c for c in sensitivity(head) if c.parameter == "window"}
        assert found[True].energy == pytest.approx(0.180, abs=0.001)
        assert found[False].energy == pytest.approx(-0.174, abs=0.001)
    longer, _ = _moved(replace(HEAD, context=300), "design", "window", 1.2)  # which was not full
    assert (longer.design.window, longer.columns) == (1216, 300)
    shorter, _ = _moved(replace(HEAD, context=1000), "design", "window", 0.8)
    assert shorter.columns == shorter.design.window == 832


def test_spice_energies_are_counted_a_sub_tile() -> None:
    found = read_simulated(SPICE, EnergyResult, "spice energy")
    raw = json.loads(SPICE.read_text())
    run = next(run for run in raw["runs"] if run["inputs"] == "real")
    beside = simulated_arrays(of_head(HEAD), found)
    assert beside.inputs == "real"
    assert beside.products[FIRST].energy == pytest.approx(16 * run["first"]["array"]["value"])
    small = DESIGN.replace(tile=32)
    for other in (replace(HEAD, head_dim=128), replace(HEAD, head_dim=32, design=small)):
        with pytest.raises(InputError, match="arrays of 64 rows and 64 columns, the head has arrays of"):
            simulated_arrays(of_head(other), found)
    last = found.runs[-1]
    nothing = replace(found, runs=(replace(last, first=replace(last.first, cell_read=0.0)),))
    with pytest.raises(InputError, match="are 0"):
        simulated_arrays(of_head(HEAD), nothing)
    others = replace(found, runs=tuple(run for run in found.runs if run.inputs != "real"))
    assert simulated_arrays(of_head(HEAD), others).inputs == others.runs[-1].inputs != "real"
    several = replace(found, runs=tuple(replace(last, inputs=f"real: {name}") for name in "ab"))
    with pytest.raises(InputError, match=r"2 real inputs \(real: a, real: b\)"):
        simulated_arrays(of_head(HEAD), several)
    assert simulated_arrays(of_head(HEAD), replace(found, runs=several.runs[:1])).inputs == "real: a"


@pytest.mark.parametrize("inputs", ["centred", "random"])
@pytest.mark.parametrize("key", ["first", "second"])
def test_cells_draw_what_spice_says_they_do(inputs: str, key: str) -> None:
    """With the statistics of a simulation (codes about the offset, nearly Gaussian) and the linear cell, to
    which the simulated cells are close: cells within 20 %, word lines of longer pulses within 1.5 times.
    """
    run = next(run for run in json.loads(SPICE.read_text())["runs"] if run["inputs"] == inputs)
    found = {name: entry["value"] for name, entry in run["input_statistics"].items()}
    spread = found["key_code_std" if key == "first" else "value_code_std"] * 0.9 / 7
    level, pulse = spread * (2 / torch.pi) ** 0.5, run[key]["activity"]["value"]
    activity = replace(
        HEAD.activity, query_pulse=pulse, score_pulse=pulse, query_active=found["driven_rows"],
        score_active=min(1.0, 2 * pulse), key_level=level, value_level=level, key_square=spread**2,
        value_square=spread**2, valid_columns=64.0,
    )  # fmt: skip
    design = DESIGN.replace(cell="linear", retention_time=None, window=64)
    head = replace(HEAD, design=design, activity=activity)
    cost = (arrays.first_product if key == "first" else arrays.second_product)(head)
    blocks = {
        name: sum(entry["value"] for entry in by_phase.values())
        for name, by_phase in run[key]["blocks"].items()
    }
    assert 1 / 1.2 < cost.parts["cells"].energy / blocks["cells"] < 1.2
    if pulse > 0.4:
        assert 1 / 1.5 < cost.parts["word lines"].energy / blocks["drivers"] < 1.5


def test_query_heads_share_the_refreshes_of_their_group() -> None:
    alone, shared = (storage.refresh(replace(HEAD, group=group), 1e-3) for group in (1, 4))
    assert shared.energy == pytest.approx(alone.energy / 4, rel=1e-9, abs=0)
    assert shared.latency == alone.latency


def test_sequences_share_what_gates_leak_but_not_their_cells() -> None:
    one, four = (storage.leakage(replace(HEAD, streams=streams)) for streams in (1, 4))
    cells = HEAD.cells * 0.9 * TECHNOLOGY.off_current * (0.18e-6 + 0.27e-6) * HEAD.design.token_period
    assert four.energy - cells == pytest.approx((one.energy - cells) / 4, rel=1e-9, abs=0)
