"""What surrounds the arrays: the whole model and the time it takes, GPUs, other memories, converters."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gaincell.arrays.refresh import Refresh
from gaincell.chips.design_file import load_design
from gaincell.costs import (
    gpus,
    memory_alternatives,
    roll_up,
    storage,
    whole_model,
)
from gaincell.costs.activity import Activity
from gaincell.costs.area import head_area
from gaincell.costs.gpus import published, stated
from gaincell.costs.head import assumed_head
from gaincell.costs.roll_up import of_head, of_model
from gaincell.costs.size import ModelSize, shipped_sizes
from gaincell.costs.technology import load_technology
from gaincell.errors import InputError
from gaincell.reports import costs_figures, system_costs
from gaincell.results import read
from gaincell.results.cost import CostResult

DESIGN, TECHNOLOGY = load_design("leroux2025"), load_technology("28nm")
HEAD = assumed_head(DESIGN, TECHNOLOGY)
RESULTS = Path(__file__).parents[2] / "docs" / "results" / "costs"


def test_amdahl() -> None:
    """Without attention the whole can gain no more than its share; analog linear layers lift that."""
    size = shipped_sizes()["gpt2"]
    model = of_model(size, DESIGN, TECHNOLOGY, Activity.assumed(DESIGN))
    gpu, beside, analog = whole_model.arrangements(model, stated()["h100"], 1024)
    for number in ("energy", "latency"):
        limit = 1 / (1 - getattr(gpu, f"attention_share_of_{number}"))
        assert getattr(gpu.total, number) / getattr(beside.total, number) < limit
    assert beside.linear == gpu.linear
    assert analog.total.energy < beside.total.energy / 100
    assert beside.transfers.energy > 0 == gpu.transfers.energy


def test_the_whole_of_gpt2_by_hand() -> None:
    """Weights: 12 layers and the output head in bfloat16 at 3.35 TB/s and 700 W; cache: 1024 x 36 864 bytes.
    Gain: 85.1 us over the weights, two transfers of 100 ns a layer with their bits, and 12 steps of 53 ns.
    """
    size = shipped_sizes()["gpt2"]
    model = of_model(size, DESIGN, TECHNOLOGY, Activity.assumed(DESIGN))
    gpu, beside, analog = whole_model.arrangements(model, stated()["h100"], 1024)
    weights = 2 * (84_934_656 + 768 * 50_257) / 3.35e12
    cache = 1024 * 36_864 / 3.35e12
    assert gpu.total.latency == pytest.approx(weights + cache)
    assert gpu.total.energy == pytest.approx(700 * (weights + cache))
    bits = 12 * 768 * (8 + 2 * 7 + 9)
    moved = 24 * 100e-9 + bits / 8 / 450e9
    assert beside.total.latency == pytest.approx(weights + moved + 12 * 53e-9)
    assert analog.total.latency == pytest.approx(49e-6 + moved + 12 * 53e-9)
    assert gpu.total.latency / beside.total.latency == pytest.approx(1.1061, rel=1e-3)
    assert beside.attention_cited is not None
    assert beside.total_cited.latency == pytest.approx(weights + moved + 12 * 65e-9)


def test_cells_leak_for_as_long_as_the_whole_takes() -> None:
    """A token is held for window x the latency of its row: leakage grows with it, what is left shrinks."""
    size = shipped_sizes()["gpt2"]
    model = of_model(size, DESIGN, TECHNOLOGY, Activity.assumed(DESIGN))
    _, slow, fast = whole_model.arrangements(model, stated()["h100"], 1024)
    for row in (slow, fast):
        assert row.held == pytest.approx(1024 * row.total.latency)
        assert row.note is not None
        assert "longer than the retention time" in row.note
    one, other = (roll_up.paced(model, others) for others in (1e-5, 2e-5))
    leaked = [found.head.bottom_up.parts["leakage"].energy for found in (one, other)]
    assert leaked[0] == pytest.approx(model.head.bottom_up.power * (1e-5 + 12 * 53e-9))
    assert leaked[1] - leaked[0] == pytest.approx(model.head.bottom_up.power * 1e-5, rel=1e-6, abs=0)
    assert other.head.head.remaining < one.head.head.remaining < model.head.head.remaining


def test_refreshes_take_their_share_of_the_token_period() -> None:
    """A policy in time: the columns are rewritten dt / interval times a token, which lengthens dt itself."""
    size, every = shipped_sizes()["gpt2"], 1e-4
    policy = Refresh("copy", every_seconds=every)
    model = of_model(size, DESIGN, TECHNOLOGY, Activity.assumed(DESIGN), refresh=policy)
    slow = roll_up.paced(model, 1e-5)
    period = slow.head.head.design.token_period
    assert period == pytest.approx(1e-5 + slow.latency[1])
    assert slow.latency[1] == pytest.approx(12 * 53e-9 + 1024 * 2e-9 * period / every)


@pytest.mark.parametrize("policy", [{"every_seconds": 2.5e-6}, {"every_tokens": 1}])
def test_attention_alone_waits_for_its_refreshes(policy: dict[str, Any]) -> None:
    """Rewriting takes 1024 x 2 ns: a share of 0.82 of 2.5 us, or 2.05 us after every token."""
    size, steps = shipped_sizes()["gpt2"], 12 * 65e-9
    refresh = Refresh("copy", **policy)
    model = of_model(size, DESIGN, TECHNOLOGY, Activity.assumed(DESIGN), refresh=refresh)
    period = model.head.head.design.token_period
    assert period == pytest.approx(
        steps / (1 - 2.048 / 2.5) if "every_seconds" in policy else steps + 2.048e-6
    )
    assert storage.without_pauses(model.head.head) == pytest.approx(steps)
    refreshed = model.head.bottom_up.parts["refresh"].energy
    every = model.head.head.refresh_every
    assert refreshed == pytest.approx(1024 * storage.write(model.head.head).energy * period / every)
    refresh = Refresh("copy", every_seconds=2e-6)
    with pytest.raises(InputError, match=r"takes 2\.05e-06 s"):
        of_model(size, DESIGN, TECHNOLOGY, Activity.assumed(DESIGN), refresh=refresh)


@pytest.mark.parametrize("group", [1, 2, 4])
def test_the_token_period_is_that_of_the_group(group: int) -> None:
    size = ModelSize("grouped", "made up", 3, 4, 4 // group, 64, 256, 1000, 100, 1024)
    model = of_model(size, DESIGN, TECHNOLOGY, Activity.assumed(DESIGN))
    assert model.head.head.design.token_period == pytest.approx(model.latency[0])
    stated_period = of_model(size, DESIGN.replace(token_period=1e-5), TECHNOLOGY, Activity.assumed(DESIGN))
    assert stated_period.head.head.design.token_period == 1e-5


def test_a_batch_goes_through_analog_layers_one_after_the_other() -> None:
    size = shipped_sizes()["gpt2"]
    one, many = whole_model.analog_linear(size, 1), whole_model.analog_linear(size, 64)
    assert one.latency == pytest.approx((4 * 12 + 1) * 1e-6)
    assert many.latency - one.latency == pytest.approx(63e-6)
    assert many.energy == one.energy


def test_no_measured_gpu_beats_the_floor_of_its_bandwidth() -> None:
    """12 heads, D = 64, 1024 tokens in bfloat16: 3 MiB, 3.1 us at 1 TB/s; the published 22 us are slower."""
    found = gpus.floor(stated()["rtx-4090"], 12, 12, 64, 1024)
    assert found.latency == pytest.approx(3 * 2**20 / 1.008e12)
    assert found.energy == pytest.approx(found.latency * 450)
    assert found.latency < published()["rtx-4090"].latency


def test_a_batch_shares_the_weights_but_not_the_cache() -> None:
    size, gpu = shipped_sizes()["llama-3-8b"], stated()["h100"]
    one, many = (whole_model.gpu_linear(size, gpu, batch) for batch in (1, 64))
    assert many.latency == one.latency
    assert many.energy == pytest.approx(one.energy / 64)
    assert whole_model.gpu_attention(size, gpu, 8192, 64).energy == pytest.approx(
        whole_model.gpu_attention(size, gpu, 8192, 1).energy
    )


def test_memories_wear_out_or_do_not() -> None:
    found = {
        name: memory_alternatives.in_memory(memory, HEAD)
        for name, memory in memory_alternatives.memories().items()
    }
    assert found["pcm"].lifetime == pytest.approx(1e9 * 1024 * DESIGN.token_period)
    assert found["sram"].lifetime is None
    assert found["pcm"].write > 100 * memory_alternatives.in_gain_cells(HEAD).write
    assert found["sram"].area == pytest.approx(2 * 64 * 1024 * 3 * 140 * 28e-9**2)
    for head in (HEAD, replace(HEAD, layers=4), replace(HEAD, head_dim=48)):  # stacked, or with idle rows
        assert memory_alternatives.in_gain_cells(head).area == head_area(head).parts["cells"].area


def test_an_adc_takes_more_energy_and_area() -> None:
    pulse, adc = memory_alternatives.conversions(of_head(HEAD))
    assert adc.energy == pytest.approx(3.56e-3 / 1.25e9)
    assert pulse.energy < adc.energy
    assert pulse.area < adc.area


def test_only_a_gpu_with_hbm_moves_bits_at_its_energy() -> None:
    found = read(RESULTS / "cost-gpt2.json", CostResult)
    for gpu, held in (("h100", True), ("rtx-4090", False)):
        cache = memory_alternatives.cache_cost(shipped_sizes()["gpt2"], stated()[gpu], 1024)
        result = replace(found, why=replace(found.why, cache=cache))
        assert ("from HBM" in system_costs.cache(result).markdown()) == held
        assert len(costs_figures.why(result).axes) == 2 + held


def test_a_cache_of_no_tokens_is_refused() -> None:
    with pytest.raises(InputError, match=r"context = 0; give 1 token or more"):
        memory_alternatives.cache_cost(shipped_sizes()["mistral-7b"], stated()["h100"], 0)


def test_only_what_a_model_keeps_is_read_and_moved() -> None:
    """mistral-7b: 8 key/value heads of 32 query heads, a window of 4096 tokens."""
    size, gpu = shipped_sizes()["mistral-7b"], stated()["h100"]
    beyond, within = (whole_model.gpu_attention(size, gpu, context, 1) for context in (8192, 4096))
    assert beyond == within
    assert within.latency == pytest.approx(4096 * 2 * 32 * 8 * 128 * 2 / gpu.bandwidth)
    model = of_model(size, DESIGN.replace(window=4096), TECHNOLOGY, Activity.assumed(DESIGN))
    head = model.head.head
    queries = 32 * 128 * (head.query_word + head.sum_bits(head.active_tiles))
    stored = 2 * 8 * 128 * head.storage_word
    bits = 32 * (queries + stored)
    assert whole_model.transfers(model).energy == pytest.approx(bits * whole_model.movement().link)


def test_a_large_batch_takes_the_arithmetic_of_a_gpu() -> None:
    size, gpu = shipped_sizes()["llama-3-8b"], stated()["h100"]
    found = whole_model.gpu_linear(size, gpu, 4096)
    assert found.latency == pytest.approx(2 * size.weights * 4096 / gpu.arithmetic)
    assert found.latency > size.weights * 2 / gpu.bandwidth
