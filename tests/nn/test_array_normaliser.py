"""A normaliser inside the paper's arrays: what it computes, that it is a symmetry before, kept in files, and
gone when detached.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.micro import micro_design, micro_llama, write_micro
from tests.nn.test_digital_scaling import biased, fill, heads, some_ids
from torch import Tensor
from transformers import LlamaForCausalLM

from gaincell.adaptation import adapt, collect_statistics
from gaincell.arrays import HeadArray
from gaincell.chips.design import Design
from gaincell.chips.design_file import load_design
from gaincell.circuits import charge_to_pulse, query_driver, write_dac
from gaincell.circuits.normaliser import Normaliser
from gaincell.errors import InputError, ModelError, RunError, UncalibratedWarning
from gaincell.evaluation.dump import dump_layer
from gaincell.integrations.hf.attach import attach, attached_layers, detach, set_attention, set_design
from gaincell.integrations.hf.checkpoint import (
    HARDWARE,
    load_for_training,
    load_run,
    read_state,
    save,
    trained_parameters,
    write_state,
)
from gaincell.integrations.hf.lora import add_lora
from gaincell.integrations.hf.models import load_model
from gaincell.integrations.hf.reparametrisation import add_part
from gaincell.integrations.hf.ring_cache import RingCache, feed
from gaincell.mapping.initial_gains import FIRST, FLOORS, initial_scaling
from gaincell.nn.attention import GainCellAttention
from gaincell.training.optimizer import make_optimizer
from gaincell.training.settings import TrainSettings

EXACT = {"readout": "none", "output_ceiling": False, "query_levels": None, "storage_levels": None}


def normalised(dtype: torch.dtype = torch.float64, **changes: object) -> LlamaForCausalLM:
    """A model in arrays whose normalisers are all different."""
    model = biased(dtype, **changes)
    add_part(model, "array normalisers", some_ids())
    draw = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for cell in attached_layers(model):
            cell.out.offset.fill_(0.1)
            cell.normaliser.log_floor.copy_(torch.randn(cell.heads, generator=draw))
    return model


@pytest.mark.filterwarnings("error::gaincell.errors.UncalibratedWarning")
def test_looking_at_the_arrays_asks_for_no_calibration_but_using_them_does() -> None:
    model = attach(micro_llama(), micro_design())
    add_part(model, "biases")
    add_part(model, "array normalisers", some_ids())
    with pytest.raises(UncalibratedWarning):
        model(some_ids())


def some_cell(design: Design, backend: str = "auto") -> GainCellAttention:
    """With a normaliser that reflects along a random direction; floors of 1e-9."""
    cell = GainCellAttention(design, heads=4, kv_heads=2, head_dim=16, backend=backend)
    cell.add_biases(torch.float64)
    cell.add_normaliser()
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        cell.normaliser.direction.copy_(torch.randn(2, 16, generator=draw))
        cell.normaliser.set_floor(1e-9)
        cell.k.gain.fill_(0.2)
        cell.v.gain.fill_(0.2)
    return cell


def some_inputs(tokens: int = 50) -> tuple[Tensor, Tensor, Tensor]:
    """q of pulses, k and v with a sign; every query sees the first key, which is positive."""
    draw = torch.Generator().manual_seed(4)
    q = torch.rand(2, 4, tokens, 16, dtype=torch.float64, generator=draw)
    k, v = (torch.randn(2, 2, tokens, 16, dtype=torch.float64, generator=draw) for _ in "kv")
    k[:, :, 0].abs_()
    return q, k, v


def pulses_of(cell: GainCellAttention, q: Tensor, k: Tensor) -> Tensor:
    """phi [B, H, T, T] by equations (5) to (7), without decay."""
    d = cell.design
    x = query_driver(cell.q(q), d.driver_levels).unflatten(1, (2, 2))
    ku = write_dac(cell.k(k), d.dac_levels, d.v_min, d.v_max, d.v_offset)
    scores = torch.einsum("bkgid,bkjd->bkgij", x, d.cell.current(ku)).flatten(1, 2)
    return charge_to_pulse(scores, d.score_saturation(16), d.score_ceiling).tril()


@torch.no_grad()
@pytest.mark.parametrize("backend", ["naive", "blocked", "auto"])
def test_ideal_arrays_give_the_weighted_mean_of_the_values(backend: str) -> None:
    design = micro_design(cell="linear", retention_time=None, **EXACT)
    cell, (q, k, v) = some_cell(design, backend), some_inputs()
    phi = pulses_of(cell, q, k)
    assert float(phi.sum(-1).min()) > 0
    unit = torch.nn.functional.normalize(cell.normaliser.direction, dim=-1)
    mirror = torch.eye(16, dtype=torch.float64) - 2 * unit[:, :, None] * unit[:, None]
    turned = torch.einsum("kde,bkje->bkjd", mirror, v)
    u = (0.2 * turned).clamp(-0.45, 0.45) / 0.45
    u[..., -1] = 0.0
    means = (phi.unflatten(1, (2, 2)) @ u[:, :, None]) / phi.sum(-1).unflatten(1, (2, 2))[..., None]
    wanted = torch.einsum("kde,bkgte->bkgtd", mirror, means).flatten(1, 2)
    torch.testing.assert_close(cell(q, k, v), wanted, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_the_last_row_counts_the_pulses_of_every_sub_tile() -> None:
    """To half a count a sub-tile, with the paper's cells and counters; the ceiling is not reached."""
    design = micro_design(retention_time=None)
    cell, (q, k, v) = some_cell(design), some_inputs()
    cell.k.gain.fill_(0.1)
    cell.k.offset.sub_(0.08)
    charge = float(design.cell.current(torch.tensor(0.45, dtype=torch.float64)))
    tiles = pulses_of(cell, q, k).split(design.tile, -1)
    exact = torch.stack([tile.sum(-1) for tile in tiles], -1) * charge / design.output_saturation
    assert float(exact.max()) < 1
    counted = cell.sums(q, k, v)[..., -1]
    assert float(counted.max()) * 15 > 8
    used = (exact > 0).sum(-1)
    assert bool(((counted - exact.sum(-1)).abs() * 15 <= 0.5 * used + 1e-4).all())


@torch.no_grad()
def test_the_reflection_is_folded_into_v_proj_and_o_proj() -> None:
    """Weights that hold it give the same softmax model, and the same arrays without a reflection: there the
    last component alone changes its sign, and is given up.
    """
    model, ids = normalised(), some_ids()
    plain = micro_llama(torch.float64)(input_ids=ids).logits
    other = micro_llama(torch.float64)
    for own, folded in zip(model.model.layers, other.model.layers, strict=True):
        cell, attention = own.self_attn.gain_cell, folded.self_attn
        unit = torch.nn.functional.normalize(cell.normaliser.direction, dim=-1)
        mirror = torch.eye(16, dtype=torch.float64) - 2 * unit[:, :, None] * unit[:, None]
        rows = attention.v_proj.weight.unflatten(0, (cell.kv_heads, 16))
        attention.v_proj.weight.copy_(torch.einsum("kde,kei->kdi", mirror, rows).flatten(0, 1))
        columns = attention.o_proj.weight.unflatten(1, (cell.heads, 16))
        by_head = mirror.repeat_interleave(cell.heads // cell.kv_heads, 0)
        attention.o_proj.weight.copy_(torch.einsum("ohd,hde->ohe", columns, by_head).flatten(1))
    torch.testing.assert_close(other(input_ids=ids).logits, plain, rtol=1e-9, atol=1e-9)
    attach(other, micro_design())
    add_part(other, "biases")
    add_part(other, "array normalisers")
    for cell, folded in zip(attached_layers(model), attached_layers(other), strict=True):
        state = cell.state_dict() | {"normaliser.direction": folded.normaliser.direction}
        for name, bias in (("value_bias", cell.value_bias), ("output_bias", cell.output_bias)):
            state[name] = cell.normaliser.reflected(bias[None, :, None])[0, :, 0]
        folded.load_state_dict(state)
    wanted = model(input_ids=ids).logits
    assert float((wanted - plain).abs().max()) > 0.1
    torch.testing.assert_close(other(input_ids=ids).logits, wanted, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_what_varies_least_is_given_up_and_its_mean_returned() -> None:
    ids = some_ids(2, 64)
    model = attach(micro_llama(torch.float64), micro_design())
    add_part(model, "biases")
    add_part(model, "array normalisers", ids)
    for cell, (_, softmax) in zip(attached_layers(model), heads(model, ids), strict=True):
        last = torch.eye(16, dtype=torch.float64)[-1].expand(1, cell.kv_heads, 1, 16)
        lost = cell.normaliser.reflected(last)[0, 0, 0]
        torch.testing.assert_close(lost.norm(), torch.tensor(1.0, dtype=torch.float64))
        outputs = softmax.transpose(0, 1).flatten(1, 2)  # [H, tokens, D]
        apart = outputs - outputs.mean(1, keepdim=True)
        spread = torch.linalg.eigvalsh(sum(head.T @ head for head in apart))
        torch.testing.assert_close((apart @ lost).square().sum(), spread[0], rtol=1e-6, atol=1e-12)
        torch.testing.assert_close(cell.output_bias @ lost, (outputs @ lost).mean(1), rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_directions_and_floors_get_the_gradients_of_what_is_computed() -> None:
    cell, inputs = some_cell(micro_design(**EXACT)), tuple(t[:1] for t in some_inputs(12))
    with torch.no_grad():
        cell.normaliser.set_floor(torch.tensor([0.05, 0.2, 0.5, 1.0]))

    def output(direction: Tensor, log_floor: Tensor) -> Tensor:
        given = {"normaliser.direction": direction, "normaliser.log_floor": log_floor}
        found: Tensor = torch.func.functional_call(cell, given, inputs)
        return found[:, :, ::5]

    own = [p.detach().clone().requires_grad_() for p in cell.normaliser.parameters()]
    assert torch.autograd.gradcheck(output, own, eps=1e-5, atol=1e-4, rtol=1e-3)


@pytest.mark.slow
@torch.no_grad()
def test_the_ring_and_the_token_serial_arrays_compute_what_the_whole_sequence_does() -> None:
    model, ids = normalised(token_period=30e-6), some_ids(2, 50)
    wanted = model(input_ids=ids, use_cache=False).logits
    cache = RingCache(model)
    found = [feed(model, cache, ids[:, :20])] + [feed(model, cache, ids[:, n : n + 1]) for n in range(20, 50)]
    torch.testing.assert_close(torch.cat(found, 1), wanted, rtol=1e-6, atol=1e-6)
    cell, inputs = some_cell(load_design("leroux2025").replace(window=32, tile=8)), some_inputs()
    head = HeadArray(cell.design, 16, heads=4, kv_heads=2, batch=2, dtype=torch.float64)
    pulses, volts = cell.q(inputs[0]), cell.volts(*inputs[1:])
    assert bool((volts[1][..., -1] == 0.9).all())
    sums = torch.stack([head.step(*(t[:, :, j] for t in (pulses, *volts))) for j in range(50)], 2)
    torch.testing.assert_close(cell.output(sums, None), cell(*inputs), rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_compiled_code_generates_the_same_from_codes() -> None:
    model, ids = normalised(torch.float32), some_ids(2, 30)
    wanted = model(input_ids=ids, use_cache=False).logits
    cache = RingCache(model)
    found = [feed(model, cache, ids[:, n : n + 1]) for n in range(30)]
    assert all(ring.codes_are_read for ring in cache.rings)
    torch.testing.assert_close(torch.cat(found, 1), wanted, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_softmax_and_what_is_detached_know_nothing_of_it() -> None:
    model, ids = normalised(), some_ids()
    wanted = micro_llama(torch.float64)(input_ids=ids).logits
    set_attention(model, "softmax")
    torch.testing.assert_close(model(input_ids=ids).logits, wanted)
    assert torch.equal(detach(model)(input_ids=ids).logits, wanted)


def test_the_closed_form_is_exact_behind_a_division() -> None:
    model = normalised(cell="linear")
    target = collect_statistics(model, [some_ids()])
    set_design(model, micro_design())
    result = adapt(model, [some_ids()], target)
    assert result.converged
    assert not result.saturated


def test_a_run_comes_back_or_says_what_is_missing(tmp_path: Path) -> None:
    folder, _ = write_micro(tmp_path)
    model = attach(load_model(str(folder)).model, micro_design())
    ids = some_ids()
    add_part(model, "biases")
    add_part(model, "array normalisers", ids)
    add_lora(model, 2)
    fill(model)
    run = save(model, tmp_path / "run")
    found = load_run(run).model(input_ids=ids).logits
    torch.testing.assert_close(found, model(input_ids=ids).logits, rtol=1e-3, atol=1e-3)  # factors of 16 bits
    base = load_model(str(folder)).model(input_ids=ids).logits
    assert torch.equal(detach(load_run(run).model)(input_ids=ids).logits, base)
    state = tmp_path / "state.safetensors"
    write_state(trained_parameters(model), state)
    other = attach(load_model(str(folder)).model, micro_design())
    read_state(other, state)
    torch.testing.assert_close(other(input_ids=ids).logits, model(input_ids=ids).logits)
    load_for_training(model, run)
    plain = attach(load_model(str(folder)).model, micro_design())
    add_part(plain, "biases")
    add_lora(plain, 2)
    with pytest.raises(
        RunError, match=r"normaliser\.\w+ .* array_normaliser, balanced and rotated_values where it has"
    ):
        load_for_training(plain, run)
    with safe_open(run / HARDWARE, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(run / HARDWARE)
    name = "model.layers.1.self_attn.gain_cell.normaliser.direction"
    for changed, message in (
        (
            {n: t for n, t in tensors.items() if n != name},
            "normalisers are not .*layers.1.*direction is in one",
        ),
        (tensors | {name: torch.zeros_like(tensors[name])}, "direction of length 0"),
    ):
        save_file(changed, run / HARDWARE, metadata=metadata)
        with pytest.raises(RunError, match=message):
            load_run(run)


@torch.no_grad()
def test_a_rescaled_layer_computes_the_same() -> None:
    """As after the charges of full scale were learnt: outputs of the arrays are divided by a factor."""
    factor, sums = torch.tensor(1.7), torch.rand(1, 4, 5, 16, dtype=torch.float64)
    plain = GainCellAttention(micro_design(), heads=4, kv_heads=2, head_dim=16)
    for cell in (plain, some_cell(micro_design())):
        cell.out.gain.fill_(0.8)
        wanted = cell.output(factor * sums, None)
        cell.rescale(factor)
        torch.testing.assert_close(cell.output(sums, None), wanted, rtol=1e-6, atol=1e-9)


def test_directions_and_floors_have_rates_and_do_not_decay() -> None:
    settings = TrainSettings(learning_rate=1e-3, scale_learning_rate=2e-2, mixing_learning_rate=4e-3)
    parameters = {
        name: parameter
        for name, parameter in normalised().named_parameters()
        if ".normaliser." in name and ".0." in name
    }
    rates = {
        (group["peak"], group["weight_decay"], group["params"][0].ndim)
        for group in make_optimizer(parameters, settings, {}).param_groups
    }
    assert rates == {(2e-2, 0.0, 1), (4e-3, 0.0, 2)}


def test_codes_of_quotients_are_not_dumped(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="normaliser inside its arrays"):
        dump_layer(normalised(), some_ids(), 0, tmp_path / "dump.safetensors")


def test_there_is_one_normaliser_and_a_bias_beside_it() -> None:
    model = attach(micro_llama(), micro_design())
    with pytest.raises(ModelError, match="needs biases"):
        add_part(model, "array normalisers")
    add_part(model, "biases")
    column = micro_design(normaliser=Normaliser(0.1))
    message = re.escape("leroux2025 has a normalising column ([normaliser])")
    set_design(model, column)
    with pytest.raises(ModelError, match=message):
        add_part(model, "array normalisers")
    set_design(model, micro_design())
    add_part(model, "array normalisers")
    with pytest.raises(ModelError, match="array normalisers already"):
        add_part(model, "array normalisers")
    set_design(model, column)
    with pytest.raises(ModelError, match=message):
        model(input_ids=some_ids())


@pytest.mark.slow
@torch.no_grad()
def test_first_floors_and_gains_fit_what_is_divided() -> None:
    """The floor of several that leaves least, and with it the gain that solves for each head."""
    ids, left = some_ids(2, 64), []
    model = attach(micro_llama(torch.float64), micro_design())
    add_part(model, "biases")
    add_part(model, "array normalisers", ids)
    initial_scaling(model, ids, [FIRST], gains=(1e-6, 1e6))
    chosen = [cell.normaliser.log_floor.exp() for cell in attached_layers(model)]
    best = [(got - want).square().mean((0, 2, 3)) for got, want in heads(model, ids)]
    for floor in FLOORS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("gaincell.mapping.initial_gains.FLOORS", (floor,))
            initial_scaling(model, ids, [FIRST], gains=(1e-6, 1e6))
        left.append([(got - want).square().mean((0, 2, 3)) for got, want in heads(model, ids)])
        for cell, (got, want) in zip(attached_layers(model), heads(model, ids), strict=True):
            apart = (got - got.mean((0, 2), keepdim=True)), (want - want.mean((0, 2), keepdim=True))
            slope = (apart[0] * apart[1]).sum((0, 2, 3)) / apart[0].square().sum((0, 2, 3))
            torch.testing.assert_close(slope, torch.ones_like(slope), rtol=1e-6, atol=1e-9)
            torch.testing.assert_close(got.mean((0, 2)), want.mean((0, 2)), rtol=1e-6, atol=1e-9)
            torch.testing.assert_close(
                cell.normaliser.log_floor.exp(), torch.full((cell.heads,), floor, dtype=torch.float64)
            )
    for layer, (floors, error) in enumerate(zip(chosen, best, strict=True)):
        table = torch.stack([tried[layer] for tried in left])
        torch.testing.assert_close(error, table.min(0).values, rtol=1e-9, atol=0)
        torch.testing.assert_close(floors, torch.tensor(FLOORS, dtype=floors.dtype)[table.argmin(0)])
