"""Balanced rows: signed products on unsigned arrays, whatever the cell; what is saved comes back."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from tests.micro import micro_design, micro_llama, write_micro
from tests.nn.test_digital_scaling import some_ids
from tests.tiers import slow
from torch import Tensor
from transformers import PreTrainedModel

from gaincell.adaptation import adapt, collect_statistics
from gaincell.adaptation.adapt import Method
from gaincell.arrays import HeadArray
from gaincell.chips.design import Design
from gaincell.chips.design_file import load_design
from gaincell.circuits import query_driver, write_dac
from gaincell.circuits.levels import LevelTable
from gaincell.devices.cell import named_cell
from gaincell.errors import ModelError, RunError
from gaincell.evaluation.ablation import ablate
from gaincell.evaluation.codes import code_use
from gaincell.evaluation.fidelity import fidelity
from gaincell.evaluation.perplexity import perplexity
from gaincell.integrations.hf.attach import attach, attached_layers, detach, set_attention, set_design
from gaincell.integrations.hf.checkpoint import load_for_training, load_run, save
from gaincell.integrations.hf.lora import add_lora
from gaincell.integrations.hf.models import load_model
from gaincell.integrations.hf.paired import pair_rows
from gaincell.integrations.hf.reparametrisation import add_part, has_part
from gaincell.integrations.hf.ring_cache import RingCache, feed
from gaincell.mapping.initial_gains import BALANCED, initial_scaling
from gaincell.nn.attention import GainCellAttention
from gaincell.nn.balanced_rows import Balance, fit, rows_of
from gaincell.nn.last_rows import rows_at

SHORT = micro_design(query_levels=3, levels=LevelTable(query=(0.0, 0.5, 0.9)))
"""Without full pulses."""


def test_what_is_refused_changes_nothing() -> None:
    cell = GainCellAttention(micro_design(), heads=2, kv_heads=1, head_dim=20)
    before = {name: tensor.clone() for name, tensor in cell.state_dict().items()}
    with pytest.raises(ModelError, match="need a power of two components a head, not 20"):
        cell.balance_rows()
    assert cell.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in cell.state_dict().items())


def some_cell(design: Design, backend: str = "auto") -> GainCellAttention:
    cell = GainCellAttention(design, heads=4, kv_heads=2, head_dim=16, backend=backend)
    cell.balance_rows()
    assert cell.k.balance is not None
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for stage in (cell.q, cell.k):
            for factor in (stage.turn_in, stage.turn_out):
                factor.copy_(0.2 * torch.randn(factor.shape, generator=draw))
        cell.q.gain.copy_(torch.tensor([0.1, 0.12, 0.14, 0.16]))
        cell.q.offset.fill_(0.5)
        cell.k.gain.copy_(torch.tensor([0.1, 0.14]))
        cell.v.gain.fill_(0.2)
    return cell


def some_inputs(tokens: int = 50) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(4)
    q, k, v = (torch.randn(2, h, tokens, 16, dtype=torch.float64, generator=draw) for h in (4, 2, 2))
    return q, k, v


def read(cell: GainCellAttention, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Pulses [B, H, T, D] and charges under full pulses [B, Hk, T, D]."""
    d = cell.design
    u = write_dac(cell.k(k), d.dac_levels, d.v_min, d.v_max, d.v_offset)
    return query_driver(cell.q(q), d.driver_levels), d.cell.current(u)


@torch.no_grad()
def test_scores_of_ideal_arrays_are_products_with_a_sign_and_a_threshold() -> None:
    """Written out by hand, H from its definition: signs are the parity of common bits."""
    bits = [[(-1.0) ** bin(i & j).count("1") for j in range(16)] for i in range(16)]
    h = torch.tensor(bits, dtype=torch.float64) / 4
    torch.testing.assert_close(h @ h.T, torch.eye(16, dtype=torch.float64))
    cell, (q, k, _) = some_cell(load_design("ideal").replace(window=64, tile=16)), some_inputs()
    q, k = q / 2, k / 2  # within the range of drivers and DACs
    assert cell.k.balance is not None
    cell.k.balance.offset.copy_(torch.tensor([-0.05, 0.02]))
    c = torch.tensor([-0.01, -0.02], dtype=torch.float64)
    cell.k.offset.add_(c)
    x, charges = read(cell, q, k)
    assert 0 < float(x.min()) < 0.5 < float(x[..., :-1].max()) < 1
    found = torch.einsum("bkgid,bkjd->bkgij", x.unflatten(1, (2, 2)), charges).flatten(1, 2)
    q, k = (t + t @ stage.turn_in @ stage.turn_out for t, stage in ((q, cell.q), (k, cell.k)))
    q[..., 0] = k[..., 0] = 0
    last = [(t @ h)[..., -1] for t in (q, k)]
    shared = [t.repeat_interleave(2, 1) for t in (k, last[1])]
    products = q @ shared[0].mT - last[0][..., None] * shared[1][..., None, :]
    gains = cell.q.gain * cell.k.gain.repeat_interleave(2)
    slope = cell.design.cell.linear_slope
    threshold = (cell.k.balance.offset + 15 / 2 * c).repeat_interleave(2)[:, None]
    threshold = threshold - (c.repeat_interleave(2) * cell.q.gain)[:, None] * last[0]  # of the 15 other rows
    wanted = slope * (gains[:, None, None] * products + threshold[..., None])
    error = (found - wanted).abs()
    assert float(error.max()) < slope * 0.9 / 1024  # the last row's voltage is one of 1025
    assert float(found.abs().max()) > 1


@torch.no_grad()
def test_what_is_stretched_changes_no_score_and_makes_scores_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    """With all directions E|q|^2 E|k|^2 is the least there is, by the singular values."""
    draw = torch.Generator().manual_seed(5)
    q, k = (torch.randn(*shape, 8, dtype=torch.float64, generator=draw) for shape in ((2, 400), (400,)))
    q, k = q * torch.linspace(0.3, 2, 8), k @ torch.randn(8, 8, dtype=torch.float64, generator=draw) + 3

    def sizes() -> float:
        turns = fit(q, k)
        stretched = [x + x @ turn.into @ turn.out for x, turn in zip((q, k), turns, strict=True)]
        torch.testing.assert_close(stretched[0] @ stretched[1].mT, q @ k.mT, rtol=1e-9, atol=1e-9)
        return float(stretched[0].square().sum(-1).mean() * stretched[1].square().sum(-1).mean())

    some = sizes()
    monkeypatch.setattr("gaincell.nn.balanced_rows.DIRECTIONS", 8)
    every = sizes()
    both = torch.linalg.qr(q.flatten(0, 1)).R @ torch.linalg.qr(k).R.mT
    least = float(torch.linalg.svdvals(both).sum().square()) / (800 * 400)
    assert every == pytest.approx(least, rel=1e-6)
    assert least < some < 0.7 * float(q.square().sum(-1).mean() * k.square().sum(-1).mean())


@torch.no_grad()
@pytest.mark.parametrize("cell_name", ["sram-like", "silicon"])
def test_every_column_adds_up_to_the_same_to_half_a_level(cell_name: str) -> None:
    """Whatever the cell's curve, odd or not, and the DAC's rounding."""
    curve = {
        "sram-like": named_cell(
            "polynomial", {"coefficients": (2.0, 12.0, -8.0, 30.0), "linear_slope": 19.3}
        ),
        "silicon": micro_design().cell,
    }[cell_name]
    cell = some_cell(micro_design(cell=curve, retention_time=None))
    _, k, _ = some_inputs(200)
    assert cell.k.balance is not None
    cell.k.offset.sub_(0.02)
    cell.k.balance.centre(cell.k(k), cell.k.offset)
    _, charges = read(cell, torch.zeros(1, 4, 1, 16, dtype=torch.float64), k)
    total = charges[..., :-1].sum(-1) / 2 + charges[..., -1]
    levels = torch.unique(charges)
    half = float((levels[1:] - levels[:-1]).max()) / 2
    wanted = 19.3 * cell.k.balance.offset[:, None] + 15 / 2 * curve.current(torch.tensor(-0.02))
    inside = (charges[..., -1] > levels[0]) & (charges[..., -1] < levels[-1])
    assert float(inside.double().mean()) > 0.8
    assert float((total - wanted)[inside].abs().max()) <= half + 1e-9
    unbalanced = charges[..., :-1].sum(-1) / 2
    assert float((total - wanted).std()) < 0.5 * float(unbalanced.std())


def test_no_gradient_is_left_of_what_is_balanced() -> None:
    """The sum that every column shares changes with no key, in the backward pass either."""
    cell = some_cell(micro_design(retention_time=None))
    _, k, _ = some_inputs(40)
    balance = cell.k.balance
    assert balance is not None
    with torch.no_grad():
        balance.centre(cell.k(k), cell.k.offset)
    draw = torch.Generator().manual_seed(8)
    volts = 0.45 + 0.1 * torch.randn(1, 2, 400, 15, dtype=torch.float64, generator=draw)
    volts = volts.clamp(0.01, 0.89)  # where the DAC passes gradients
    rows = balance(volts.requires_grad_(), cell.k.offset)
    d = cell.design
    u = write_dac(rows, d.dac_levels, d.v_min, d.v_max, d.v_offset)
    charges = d.cell.current(u)
    asked = 19.3 * balance.offset[:, None] - 0.5 * (
        charges[..., :-1] - d.cell.current(torch.tensor(0.0))
    ).sum(-1)
    lowest, highest = (float(d.cell.current(torch.tensor(v))) for v in (-0.45, 0.45))
    inside = (asked > lowest + 1e-3) & (asked < highest - 1e-3)  # the end levels are among them
    assert float(inside.double().mean()) > 0.5
    assert bool((charges[..., -1][inside] > highest - 0.01).any())
    (charges[..., :-1].sum(-1) / 2 + charges[..., -1])[inside].sum().backward()
    assert volts.grad is not None
    assert float(volts.grad.abs().max()) < 1e-5  # of slopes of 7 to 20


def test_the_last_row_learns_within_the_range_of_the_dac() -> None:
    cell = some_cell(micro_design())
    volts = torch.full((1, 2, 3, 15), 0.45, dtype=torch.float64)
    assert cell.k.balance is not None
    with torch.no_grad():
        cell.k.balance.offset.copy_(cell.k.balance.gain * 15 * 0.8 / 19.3 + torch.tensor([0.0, 1.0]))
    cell.k.balance(volts, cell.k.offset)[0, :, :, -1].sum().backward()
    assert cell.k.balance.offset.grad is not None
    u = cell.k.balance(volts, cell.k.offset)[0, 0, 0, -1].detach() - 0.45
    found = cell.k.balance.offset.grad
    assert found is not None
    assert found[0] == pytest.approx(3 * 19.3 / float(cell.design.cell.slope(u)))
    assert found[1] == 0


@torch.no_grad()
def test_the_ring_and_the_token_serial_arrays_compute_what_the_whole_sequence_does() -> None:
    model, ids = attach(micro_llama(torch.float64), micro_design(token_period=30e-6)), some_ids(2, 50)
    add_part(model, "balanced rows")
    initial_scaling(model, ids, BALANCED[:3])
    wanted = model(input_ids=ids, use_cache=False).logits
    cache = RingCache(model)
    found = [feed(model, cache, ids[:, :20])] + [feed(model, cache, ids[:, n : n + 1]) for n in range(20, 50)]
    torch.testing.assert_close(torch.cat(found, 1), wanted, rtol=1e-6, atol=1e-6)
    inputs = some_inputs()
    for backend in ("naive", "blocked", "auto"):
        cell = some_cell(load_design("leroux2025").replace(window=32, tile=8), backend)
        head = HeadArray(cell.design, 16, heads=4, kv_heads=2, batch=2, dtype=torch.float64)
        pulses, volts = cell.q(inputs[0]), cell.volts(*inputs[1:])
        assert bool((pulses[..., -1] == 1).all())
        sums = torch.stack([head.step(*(t[:, :, j] for t in (pulses, *volts))) for j in range(50)], 2)
        torch.testing.assert_close(cell.output(sums, None), cell(*inputs), rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_softmax_and_what_is_detached_know_nothing_of_it() -> None:
    model, ids = attach(micro_llama(torch.float64), micro_design()), some_ids()
    wanted = micro_llama(torch.float64)(input_ids=ids).logits
    add_part(model, "balanced rows")
    set_attention(model, "softmax")
    torch.testing.assert_close(model(input_ids=ids).logits, wanted)
    assert torch.equal(detach(model)(input_ids=ids).logits, wanted)


def test_stages_show_what_the_circuits_get_and_are_adapted_exactly() -> None:
    model, ids = attach(micro_llama(torch.float64), micro_design(cell="linear")), some_ids()
    add_part(model, "balanced rows")
    initial_scaling(model, ids, BALANCED[:3])
    assert code_use(model, [ids])["q"].share[-1] >= 1 / 16  # the last of 16 rows always has a full pulse
    target = collect_statistics(model, [ids])
    set_design(model, micro_design())
    assert adapt(model, [ids], target).converged


@pytest.mark.parametrize("method", ["closed-form", slow("published")])
def test_adaptation_keeps_the_last_row_where_it_was_in_its_range(method: Method) -> None:
    """The even part of a curve adds up over the rows; of cells without one b has nothing to make up for."""
    model, ids = attach(micro_llama(torch.float64), micro_design(cell="exponential")), some_ids()
    add_part(model, "balanced rows", ids)
    initial_scaling(model, ids, BALANCED[:3])
    target = collect_statistics(model, [ids])
    assert target.balance is not None
    assert target.balance[0].tolist() == pytest.approx([0.5])  # later layers were set in the softmax model
    own = last_rows(model)
    adapt(model, [ids], target)
    torch.testing.assert_close(last_rows(model), own)  # on its own chip nothing moves
    set_design(model, micro_design(cell="linear"))
    unadapted = collect_statistics(model, [ids]).balance
    assert unadapted is not None
    assert bool(((unadapted - target.balance).abs() > 0.2).all())
    result = adapt(model, [ids], target, method)
    assert result.converged
    assert result.statistics.balance is not None
    torch.testing.assert_close(result.statistics.balance, target.balance, rtol=0, atol=1e-5)


def last_rows(model: PreTrainedModel) -> Tensor:
    return torch.stack([layer.k.balance.offset.detach().clone() for layer in attached_layers(model)])


def test_padding_does_not_move_the_last_row() -> None:
    model, ids = attach(micro_llama(torch.float64), micro_design()), some_ids(1, 20)
    add_part(model, "balanced rows", ids)
    initial_scaling(model, ids, BALANCED[:2])
    wanted = collect_statistics(model, [ids]).balance
    padded = torch.cat([ids, torch.zeros(1, 6, dtype=ids.dtype)], 1)
    mask = torch.tensor([[1] * 20 + [0] * 6])
    found = collect_statistics(model, [{"input_ids": padded, "attention_mask": mask}]).balance
    torch.testing.assert_close(found, wanted)


def test_a_comparison_with_linear_cells_centres_the_last_row_and_puts_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """b made for a curve with an even part asks the row of linear cells for more than it has."""
    base = load_model(str(write_micro(tmp_path)[0])).model
    model, ids = attach(copy.deepcopy(base), micro_design()), some_ids(1)
    add_part(model, "balanced rows", ids)
    initial_scaling(model, ids, BALANCED[:3])
    own, tokens = last_rows(model), torch.cat([ids, ids], 1)[0]
    error = torch.tensor(fidelity(model, base, ids).tables["linear error"])
    assert torch.equal(last_rows(model), own)
    rows = {row.name: row for row in ablate(model, tokens, "blocks-32").rows if row.kind == "off"}
    assert torch.equal(last_rows(model), own)
    shares = collect_statistics(model, [ids]).balance
    monkeypatch.setattr(Balance, "centre", lambda *_: None)
    assert bool((error < torch.tensor(fidelity(model, base, ids).tables["linear error"])).all())
    monkeypatch.undo()
    set_design(model, micro_design(cell="linear"))
    with rows_at(attached_layers(model), shares):
        assert perplexity(model, tokens, "blocks-32").perplexity == pytest.approx(
            rows["nonlinearity"].perplexity
        )


def test_the_neutral_start_is_refused() -> None:
    model, ids = attach(micro_llama(), micro_design()), some_ids()
    add_part(model, "balanced rows")
    target, before = collect_statistics(model, [ids]), model.state_dict()
    before = {name: tensor.clone() for name, tensor in before.items()}
    with pytest.raises(ModelError, match="take the trained start"):
        adapt(model, [ids], target, start="neutral")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_part_of_a_model_is_in_arrays_with_it_and_paired_rows_are_chosen() -> None:
    model = attach(micro_llama(), micro_design())
    with pytest.raises(ModelError, match="call pair_rows"):
        add_part(model, "paired rows")
    add_part(model.model, "balanced rows")
    assert has_part(model, "balanced rows")


def test_a_run_comes_back(tmp_path: Path) -> None:
    folder, _ = write_micro(tmp_path)
    ids = some_ids()
    model = attach(load_model(str(folder)).model, micro_design())
    add_part(model, "balanced rows")
    initial_scaling(model, ids, BALANCED[:3])
    add_lora(model, 2)
    run = save(model, tmp_path / "run")
    again = load_run(run).model
    assert has_part(again, "balanced rows")
    wanted = model(input_ids=ids).logits
    torch.testing.assert_close(again(input_ids=ids).logits, wanted, rtol=1e-3, atol=1e-3)
    plain = attach(load_model(str(folder)).model, micro_design())
    add_lora(plain, 2)
    with pytest.raises(RunError, match=r"balance\.\w+"):
        load_for_training(plain, run)


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["igzo", "ito", "oxide-2t", "oxide-2t-saturated", "oxide-2t-unipolar", "leroux2025-oxide"]
)
def test_every_cell_gives_finite_outputs_and_uses_the_range_of_its_charges(name: str) -> None:
    """Flat and one-sided curves, too."""
    cell, (q, k, v) = some_cell(load_design(name).replace(window=64, tile=16)), some_inputs()
    assert cell.k.balance is not None
    cell.k.balance.centre(cell.k(k), cell.k.offset)
    with torch.enable_grad():
        found = cell(q, k, v)
        found.square().sum().backward()
    assert bool(found.isfinite().all())
    assert all(bool(p.grad.isfinite().all()) for p in cell.parameters() if p.grad is not None)
    last = write_dac(cell.k(k)[..., -1], cell.design.dac_levels, 0.0, 0.9, cell.design.v_offset)
    charges = cell.design.cell.current(last)
    ends = cell.design.cell.current(torch.tensor([-0.45, 0.45], dtype=torch.float64)).sort().values
    middle = float(((charges - ends[0]) / (ends[1] - ends[0])).mean())
    assert 0.3 < middle < 0.7


def test_a_falling_curve_is_balanced_as_a_rising_one_is() -> None:
    falling = named_cell("polynomial", {"coefficients": (1.0, -15.0), "linear_slope": 19.3})
    rising = named_cell("polynomial", {"coefficients": (1.0, 15.0), "linear_slope": 19.3})
    _, k, _ = some_inputs()
    found = []
    for curve, sign in ((falling, -1), (rising, 1)):
        cell = some_cell(micro_design(cell=curve, retention_time=None))
        with torch.no_grad():
            cell.k.gain.mul_(sign)
            cell.k.balance.centre(cell.k(k), cell.k.offset)
            found.append(cell.k(k)[..., -1] - 0.45)
    torch.testing.assert_close(found[0], -found[1], atol=0.13, rtol=0)  # ties fall the other way
    assert float((found[0] + found[1]).abs().median()) < 1e-6


@torch.no_grad()
def test_what_is_stretched_is_fitted_head_by_head_and_silent_ones_are_left() -> None:
    model, ids = micro_llama(torch.float64), some_ids(2, 64)
    model.model.layers[1].self_attn.k_proj.weight.zero_()
    attach(model, micro_design())
    add_part(model, "balanced rows", ids)
    initial_scaling(model, ids, BALANCED[:2])
    first, second = (layer.self_attn.gain_cell for layer in model.model.layers)
    group = first.heads // first.kv_heads
    for stage, repeat in ((first.q, group), (first.k, 1)):
        products = stage.turn_in @ stage.turn_out
        assert len(products.flatten(1).unique(dim=0)) == first.kv_heads
        assert torch.equal(products[0], products[repeat - 1])
    assert bool(first.k.turn_out.any())
    assert not second.k.turn_out.any()
    assert bool(model(input_ids=ids).logits.isfinite().all())


def test_factors_that_were_not_fitted_learn() -> None:
    cell, inputs = GainCellAttention(micro_design(), 4, 2, 16), some_inputs(20)
    cell.balance_rows()
    with torch.no_grad():
        cell.q.gain.fill_(0.1)
        cell.k.gain.fill_(0.1)
        cell.v.gain.fill_(0.2)
    cell(*inputs).square().sum().backward()
    for stage in (cell.q, cell.k):
        assert stage.turn_out is not None
        assert stage.turn_out.grad is not None
        assert bool(stage.turn_out.grad.any())


def test_another_chip_reaches_the_row_that_balances() -> None:
    model, ids = attach(micro_llama(torch.float64), micro_design()), some_ids()
    add_part(model, "balanced rows", ids)
    initial_scaling(model, ids, BALANCED[:2])
    before = model(input_ids=ids).logits
    set_design(model, micro_design(cell="linear"))
    cells = [layer.self_attn.gain_cell for layer in model.model.layers]
    assert all(cell.k.balance.design is cell.design for cell in cells)
    assert not torch.equal(model(input_ids=ids).logits, before)
    signed = micro_design(drivers=load_design("leroux2025-signed").drivers)
    with pytest.raises(ModelError, match="have a sign"):
        set_design(model, signed)
    with pytest.raises(ModelError, match=r"longest pulse of leroux2025 .* is 0\.9 of a full one"):
        set_design(model, SHORT)


@torch.no_grad()
def test_padding_does_not_reach_the_other_tokens() -> None:
    model, ids = attach(micro_llama(torch.float64), micro_design()), some_ids(1, 20)
    add_part(model, "balanced rows", ids)
    initial_scaling(model, ids, BALANCED[:2])
    wanted = model(input_ids=ids, use_cache=False).logits
    padded = torch.cat([torch.zeros(1, 6, dtype=ids.dtype), ids], 1)
    mask = torch.tensor([[0] * 6 + [1] * 20])
    places = torch.cat([torch.zeros(6), torch.arange(20)]).long()[None]
    found = model(input_ids=padded, attention_mask=mask, position_ids=places, use_cache=False).logits
    torch.testing.assert_close(found[:, 6:], wanted, rtol=1e-9, atol=1e-9)


def test_rows_are_balanced_once_and_where_it_makes_sense() -> None:
    model, ids = attach(micro_llama(), micro_design()), some_ids()
    add_part(model, "balanced rows")
    with pytest.raises(ModelError, match="balanced rows already"):
        add_part(model, "balanced rows")
    with pytest.raises(ModelError, match="has balanced rows; they cannot be paired"):
        pair_rows(model, ids)
    other = attach(micro_llama(), micro_design())
    pair_rows(other, ids)
    with pytest.raises(ModelError, match="has paired rows; they cannot be balanced"):
        add_part(other, "balanced rows")
    signed = micro_design(drivers=load_design("leroux2025-signed").drivers)
    with pytest.raises(ModelError, match="have a sign"):
        add_part(attach(micro_llama(), signed), "balanced rows")
    with pytest.raises(ModelError, match="give levels that end at 1"):
        add_part(attach(micro_llama(), SHORT), "balanced rows")
    pair_rows(attach(micro_llama(), SHORT), ids)
    with pytest.raises(ModelError, match="a power of two components a head, not 80"):
        rows_of(80)
