"""Adaptation: exact in two forward passes for every cell; the published iteration ends at the same place."""

import inspect
import math

import pytest
import torch
from tests.cells import NAMED
from tests.micro import micro_design, micro_llama
from torch import Tensor
from transformers import LlamaForCausalLM

from gaincell.adaptation import AdaptationResult, Place, Statistics, adapt, collect_statistics, published
from gaincell.adaptation.statistics import _beyond_limits, as_batch, scalers
from gaincell.circuits.pwm import Drivers
from gaincell.errors import InputError, ModelError
from gaincell.integrations.hf.attach import attach, attached_layers, set_design
from gaincell.integrations.hf.reparametrisation import add_part


def tokens(sequences: int = 4, length: int = 64) -> Tensor:
    return torch.randint(0, 97, (sequences, length), generator=torch.Generator().manual_seed(1))


def linear_and_target(dtype: torch.dtype, batches: list) -> tuple[LlamaForCausalLM, Statistics]:
    model = attach(micro_llama(dtype), micro_design(cell="linear"))
    return model, collect_statistics(model, batches)


def scales(model: LlamaForCausalLM) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if ".gain_cell." in n}


def adapted(cell: str, dtype: torch.dtype, method: str) -> tuple[AdaptationResult, dict[str, Tensor]]:
    model, target = linear_and_target(dtype, [tokens()])
    set_design(model, micro_design(cell=cell))
    return adapt(model, [tokens()], target, method), scales(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cell", NAMED)
def test_the_closed_form_is_exact_in_two_forward_passes(cell: str, dtype: torch.dtype) -> None:
    result, _ = adapted(cell, dtype, "closed-form")
    assert result.converged
    assert result.residual <= 1e-6
    assert result.forward_passes <= 2.5
    assert result.tokens == 4 * 64
    for stage in ("q", "k", "v", "out"):
        assert float(result.residuals.of(stage).max()) <= 1e-6


@pytest.mark.parametrize("cell", NAMED)
def test_the_published_iteration_reaches_the_same_fixed_point(cell: str) -> None:
    closed, closed_scales = adapted(cell, torch.float64, "closed-form")
    published, published_scales = adapted(cell, torch.float64, "published")
    assert published.converged
    assert published.iterations <= 100
    for name, value in closed_scales.items():
        torch.testing.assert_close(published_scales[name], value, rtol=1e-4, atol=1e-4)
    residuals = [step["residual"] for step in published.history]
    assert len(residuals) == published.iterations + 1
    assert residuals[-1] <= 1e-6
    assert all(step["perplexity"] > 1 for step in published.history)
    assert closed.history == ()


@pytest.mark.parametrize(
    ("cell", "part", "trained"),
    [*((cell, "biases", 0.0) for cell in NAMED), ("x3", "biases", 0.02), ("x3", "exponents", -0.2)],
)
def test_the_closed_form_forgets_where_it_started(cell: str, part: str, trained: float) -> None:
    """Biases and exponents stay as they are trained: from both starts the stages see the same."""
    found = {}
    for start in ("trained", "neutral"):
        model, target = linear_and_target(torch.float64, [tokens()])
        add_part(model, part)
        with torch.no_grad():  # as if trained: no gain is 1, no offset 0
            for _, _, scaler in scalers(attached_layers(model)):
                scaler.gain.mul_(1.3)
                scaler.offset.add_(0.05)
            for layer in attached_layers(model):
                for number in layer.extras():
                    number.fill_(trained)
        target = collect_statistics(model, [tokens()])
        set_design(model, micro_design(cell=cell))
        result = adapt(model, [tokens()], target, start=start)
        assert result.converged
        assert (result.start, result.residuals.rule) == (start, "relative")
        found[start] = scales(model)
    for name, value in found["trained"].items():
        torch.testing.assert_close(found["neutral"][name], value, rtol=1e-9, atol=1e-12)


def test_the_neutral_start_is_gain_one_and_offset_zero_everywhere() -> None:
    model, target = linear_and_target(torch.float64, [tokens()])
    result = adapt(model, [tokens()], target, "published", start="neutral", max_iterations=0)
    assert all(bool((p == (1.0 if n.endswith("gain") else 0.0)).all()) for n, p in scales(model).items())
    assert not result.converged  # the keys and values of the linear model had a centre
    assert result.residuals.rule == "released"  # as in the paper
    assert "neutral start" in result.summary()
    neutral = result.history[0]["perplexity"]
    recovered = adapt(model, [tokens()], target, "published", start="neutral")
    assert recovered.converged
    assert recovered.history[0]["perplexity"] == neutral


def test_the_released_rule_tests_deviation_and_mean_apart() -> None:
    model, target = linear_and_target(torch.float64, [tokens()])
    set_design(model, micro_design(cell="x5"))
    result = adapt(model, [tokens()], target, "published", start="neutral", rule="released")
    assert result.converged
    assert result.tolerance == 1e-4
    measured = collect_statistics(model, [tokens()])
    for stage in ("q", "k", "v", "out"):
        assert float((measured.std[stage] - target.std[stage]).abs().max()) <= 1e-4
        assert float((measured.mean[stage] - target.mean[stage]).abs().max()) <= 1e-4
    wanted = (measured.std["q"] - target.std["q"]).abs()
    torch.testing.assert_close(result.residuals.std["q"], wanted, rtol=0, atol=1e-12)
    with pytest.raises(InputError, match="released rule"):
        adapt(model, [tokens()], target, rule="released")


@pytest.mark.slow
def test_the_released_rule_moves_the_offset_of_a_stage_without_variance() -> None:
    model = attach(micro_llama(torch.float64), micro_design(cell="linear"))
    target = collect_statistics(model, [tokens()])
    silence_a_head(model)
    name = "model.layers.0.self_attn.gain_cell.q"
    released = adapt(model, [tokens()], target, "published", start="neutral", rule="released")
    assert not released.converged  # the head's standard deviation stays 0
    assert Place(0, 1, "q") in released.skipped
    assert float(scales(model)[f"{name}.gain"][1]) == 1.0
    assert abs(scales(model)[f"{name}.offset"][1] - target.mean["q"][0, 1]) < 1e-4
    ours = adapt(model, [tokens()], target, "published", start="neutral", rule="relative")
    assert Place(0, 1, "q") in ours.skipped
    assert float(scales(model)[f"{name}.offset"][1]) == 0.0


def test_a_target_without_variance_takes_a_gain_down_but_not_to_zero() -> None:
    """By equation (4) it would be 0 after one iteration, and a model with such a gain cannot be saved."""
    model, target = linear_and_target(torch.float64, [tokens()])
    target.std["out"][1, 0] = 0.0
    set_design(model, micro_design(cell="x3"))
    result = adapt(model, [tokens()], target, "published", start="neutral", rule="released")
    gain = attached_layers(model)[1].out.gain[0].item()
    assert gain == published.SMALLEST
    assert result.statistics.std["out"][1, 0] <= 1e-4
    assert result.converged


def test_the_residuals_are_those_of_the_definition() -> None:
    """Recomputed by hand for one head: |sigma_N / sigma_L - 1| and |mu_N - mu_L| / sigma_L."""
    model, target = linear_and_target(torch.float64, [tokens()])
    set_design(model, micro_design(cell="x3"))
    seen: list[Tensor] = []
    hook = attached_layers(model)[0].out.register_forward_hook(lambda m, i, o: seen.append(o))
    measured = collect_statistics(model, [tokens()])
    hook.remove()
    head = seen[0][:, 1]
    torch.testing.assert_close(measured.mean["out"][0, 1], head.mean().detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        measured.std["out"][0, 1], head.std(correction=0).detach(), rtol=1e-12, atol=1e-12
    )
    result = adapt(model, [tokens()], target, "published", max_iterations=0)
    expected = abs(measured.std["out"][0, 1] / target.std["out"][0, 1] - 1)
    torch.testing.assert_close(result.residuals.std["out"][0, 1], expected, rtol=1e-9, atol=1e-12)


def test_statistics_of_several_batches_are_those_of_all_tokens_together() -> None:
    model = attach(micro_llama(torch.float64), micro_design(cell="linear"))
    together = collect_statistics(model, [tokens()])
    apart = collect_statistics(model, list(tokens().split(1)))
    assert together.tokens == apart.tokens == 4 * 64
    for stage in ("q", "k", "v", "out"):
        torch.testing.assert_close(apart.mean[stage], together.mean[stage], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(apart.std[stage], together.std[stage], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_count(side: str) -> None:
    model = attach(micro_llama(torch.float64), micro_design(cell="linear"))
    ids = tokens(2, 48)
    empty = torch.zeros(2, 16, dtype=torch.long)
    parts = (empty, ids) if side == "left" else (ids, empty)
    mask = torch.cat([torch.ones_like(p) if p is ids else torch.zeros_like(p) for p in parts], 1)
    padded = collect_statistics(model, [{"input_ids": torch.cat(parts, 1), "attention_mask": mask}])
    plain = collect_statistics(model, [ids])
    assert padded.tokens == plain.tokens == 96
    torch.testing.assert_close(padded.mean["v"][0], plain.mean["v"][0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(padded.std["out"][0], plain.std["out"][0], rtol=1e-9, atol=1e-12)
    set_design(model, micro_design())
    result = adapt(model, [{"input_ids": torch.cat(parts, 1), "attention_mask": mask}], padded)
    assert result.converged


def test_a_sequence_of_padding_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read in pieces of one sequence, as with a large vocabulary."""
    monkeypatch.setattr(published, "LOGIT_BYTES", 1)
    ids, mask = tokens(3, 32), torch.ones(3, 32, dtype=torch.long)
    mask[1] = 0
    found = []
    for batch in ({"input_ids": ids, "attention_mask": mask}, ids[[0, 2]]):
        model, target = linear_and_target(torch.float64, [ids[[0, 2]]])
        set_design(model, micro_design())
        found.append(adapt(model, [batch], target, "published", max_iterations=2).history)
    for one, another in zip(*found, strict=True):
        assert one == pytest.approx(another, rel=1e-9)


def silence_a_head(model: LlamaForCausalLM) -> None:
    """No queries in layer 0, head 1: no pulses, and no output."""
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.weight[16:].zero_()


def test_stages_without_variance_are_left_alone_and_named() -> None:
    model = attach(micro_llama(torch.float64), micro_design(cell="linear"))
    silence_a_head(model)
    target = collect_statistics(model, [tokens()])
    assert float(target.std["q"][0, 1]) == 0.0
    assert float(target.std["out"][0, 1]) == 0.0
    set_design(model, micro_design())
    before = scales(model)
    for method in ("closed-form", "published"):
        result = adapt(model, [tokens()], target, method)
        assert result.converged
        assert set(result.skipped) == {Place(0, 1, "q"), Place(0, 1, "out")}
        assert "without variance" in result.summary()
        name = "model.layers.0.self_attn.gain_cell.q.gain"
        assert torch.equal(scales(model)[name][1], before[name][1])


def test_fully_saturated_stages_are_named() -> None:
    model = attach(micro_llama(torch.float64), micro_design(cell="linear"))
    with torch.no_grad():
        attached_layers(model)[1].q.offset[0] = 100.0
    target = collect_statistics(model, [tokens()])
    set_design(model, micro_design())
    result = adapt(model, [tokens()], target)
    assert result.converged
    assert Place(1, 0, "q") in result.saturated
    assert "fully saturated" in result.summary()


def test_quotients_of_a_normalising_column_are_not_compared_with_full_scales() -> None:
    attention = attached_layers(attach(micro_llama(), "leroux2025-extended"))[0]
    assert attention.design.normaliser.present
    x = torch.full((1, 2, 4, 8), 1e3)
    assert not _beyond_limits(attention, "out", x, x, None).any()


def test_negative_queries_of_signed_drivers_are_not_saturated() -> None:
    design = micro_design().replace(drivers=Drivers(phases=2))
    attention = attached_layers(attach(micro_llama(torch.float64), design))[0]
    y = torch.linspace(-0.95, -0.05, 32, dtype=torch.float64).view(1, 4, 2, 4)
    assert not _beyond_limits(attention, "q", y, y, None).any()
    assert _beyond_limits(attention, "q", y, 2 * y, None)[0, 0].any()


def test_gains_keep_their_sign() -> None:
    model = attach(micro_llama(torch.float64), micro_design(cell="linear"))
    with torch.no_grad():
        attached_layers(model)[0].k.gain.neg_()
    target = collect_statistics(model, [tokens()])
    set_design(model, micro_design())
    assert adapt(model, [tokens()], target).converged
    assert attached_layers(model)[0].k.gain.item() < 0


def test_a_stage_far_from_zero_is_exact_in_float32_too() -> None:
    """A value head whose offset cancels thousands of standard deviations, more than float32 can state."""
    model = micro_llama(torch.float32)
    projection = model.model.layers[0].self_attn.v_proj
    projection.bias = torch.nn.Parameter(torch.full((16,), 1000.0))
    attach(model, micro_design(cell="linear"))
    wide = collect_statistics(model, [tokens()])
    wide.mean["v"][0], wide.std["v"][0] = 0.451234567, 0.2
    for method in ("closed-form", "published"):
        result = adapt(model, [tokens()], wide, method)
        assert result.converged
        assert result.residual <= 1e-6
    gain, offset = attached_layers(model)[0].v.gain[0], attached_layers(model)[0].v.offset[0]
    assert offset != offset.float()
    assert abs(gain * 1000 + offset) < 1


def test_progress_is_reported() -> None:
    model, target = linear_and_target(torch.float32, [tokens()])
    calls: list[tuple[int, int]] = []
    adapt(model, [tokens()], target, progress=lambda done, total, numbers: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([[1, 2, 3]], "is list; give a tensor of token ids"),
        ({"ids": tokens()}, "is dict; give a tensor of token ids"),
        (tokens()[0], r"are torch.int64 \(64,\); give whole numbers \[sequences, tokens\]"),
        (tokens().float(), r"are torch.float32 \(4, 64\); give whole numbers"),
        (
            {"input_ids": tokens(), "attention_mask": torch.ones(1, 64)},
            r"attention_mask has shape \(1, 64\); give that of input_ids, \(4, 64\)",
        ),
    ],
)
def test_what_is_no_calibration_text_is_refused(batch: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        inspect.unwrap(as_batch)(batch, micro_llama())  # as users reach it, without annotation checks


@pytest.mark.parametrize(
    "limit",
    [
        {"tolerance": 0.0},
        {"tolerance": math.nan},
        {"tolerance": "1e-4"},
        {"max_iterations": -1},
        {"max_iterations": 2.5},
    ],
)
def test_limits_that_cannot_be_are_refused(limit: dict[str, object]) -> None:
    """Before the neutral start replaces anything."""
    model, target = linear_and_target(torch.float32, [tokens(1, 16)])
    before = [scaler.gain.clone() for _, _, scaler in scalers(attached_layers(model))]
    unchecked = inspect.unwrap(adapt)  # as users reach it, without annotation checks
    with pytest.raises(InputError, match="give a number > 0 and a whole number >= 0"):
        unchecked(model, [tokens(1, 16)], target, "published", start="neutral", **limit)
    with pytest.raises(InputError, match="unknown rule ''"):
        unchecked(model, [tokens(1, 16)], target, "published", rule="")
    assert all(map(torch.equal, before, [scaler.gain for _, _, scaler in scalers(attached_layers(model))]))


def test_wrong_input_is_refused() -> None:
    model, target = linear_and_target(torch.float32, [tokens()])
    with pytest.raises(ModelError, match="attach"):
        collect_statistics(micro_llama(), [tokens()])
    with pytest.raises(InputError, match="calibration"):
        adapt(model, [], target)
    with pytest.raises(InputError, match="closed-form"):
        adapt(model, [tokens()], target, "guess")  # type: ignore[arg-type]
    other = attach(micro_llama(layers=3), micro_design())
    with pytest.raises(InputError, match="target"):
        adapt(other, [tokens()], target)


def test_the_published_step_anneals() -> None:
    """a *= 1 + factor (ratio - 1), with factors from 1 down by 0.9 / 50 a step; of the second
    layer, whose input moves."""
    _, target = linear_and_target(torch.float64, [tokens()])
    gains, stds = [], []
    for steps in (0, 1, 2):
        model = attach(micro_llama(torch.float64), micro_design())
        adapt(model, [tokens()], target, "published", tolerance=1e-12, max_iterations=steps)
        gains.append(scales(model)["model.layers.1.self_attn.gain_cell.q.gain"])
        stds.append(collect_statistics(model, [tokens()]).std["q"][1])
    for n, factor in ((0, 1.0), (1, 1 - 0.9 / 50)):
        expected = gains[n] * (1 + factor * (target.std["q"][1] / stds[n] - 1))
        torch.testing.assert_close(gains[n + 1], expected, rtol=1e-9, atol=0)


def test_the_ends_of_storage_and_of_all_sub_tiles_are_limits() -> None:
    attention = attached_layers(attach(micro_llama(torch.float64), micro_design()))[0]
    design, shape = attention.design, (1, 2, 1, 3)
    ends = torch.tensor([design.v_min, design.v_max, design.v_offset], dtype=torch.float64).view(1, 1, 1, 3)
    for stage in ("k", "v"):
        found = _beyond_limits(attention, stage, ends, ends.expand(shape), None)
        assert found[0, 0, 0].tolist() == [True, True, False]
    x = torch.ones(1, 1, design.tile + 1, 1, dtype=torch.float64)
    full = _beyond_limits(attention, "out", x, x, None)[0, 0, :, 0]
    assert full.tolist() == [True] * design.tile + [False]  # of two sub-tiles one is at full scale
