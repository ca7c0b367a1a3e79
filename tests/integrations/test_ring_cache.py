"""Generation on the ring: equal to the full forward pass, to the arrays token by token, and never larger."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.integrations.families import FAMILIES
from tests.micro import micro_llama
from tests.ops.test_nonideal import EFFECTS
from tests.tiers import slow, slow_after
from torch import Tensor, nn
from transformers import DynamicCache

from gaincell.arrays import HeadArray, Refresh
from gaincell.chips.design_file import Design, load_design
from gaincell.devices.cell import PolynomialCell
from gaincell.devices.leakage import Leakage
from gaincell.devices.variability import Mismatch
from gaincell.devices.writing import Writing
from gaincell.errors import InputError, ModelError
from gaincell.integrations.hf.attach import attach, attached_layers, detach, set_design
from gaincell.integrations.hf.paired import pair_rows
from gaincell.integrations.hf.ring_cache import RingCache, feed
from gaincell.nn.scaler import Scaler
from gaincell.ops.gain_cell_attention import attention_from_voltages
from gaincell.ops.gain_cell_attention.native_library import compiled_library

MISMATCH = Mismatch(gain_std=0.05, offset_voltage_std=0.01, seed=3)


def micro_design(**changes: object) -> Design:
    """The paper's chip with a ring of 32 columns in tiles of 8."""
    return load_design("leroux2025").replace(window=32, tile=8, **changes)


def hardware(
    design: Design | None = None, dtype: torch.dtype = torch.float64, **options: object
) -> nn.Module:
    """The micro model on a ring of 32 columns, with gains that use the codes."""
    model = attach(micro_llama(dtype), design or micro_design(token_period=30e-6), **options)
    for cell in attached_layers(model):
        with torch.no_grad():
            cell.q.gain.fill_(0.3)
            cell.q.offset.fill_(0.2)
            cell.k.gain.fill_(0.3)
            cell.v.gain.fill_(0.3)
    return exact_norms(model)


def exact_norms(model: nn.Module) -> nn.Module:
    """RMS norms in float64: transformers' own go through float32, whose rounding depends on the shape."""
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = partial(_norm, module)
    return model


def _norm(module: nn.Module, x: Tensor) -> Tensor:
    return module.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + module.variance_epsilon)


def ids(tokens: int, batch: int = 1, seed: int = 0) -> Tensor:
    return torch.randint(1, 97, (batch, tokens), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def decoded(model: nn.Module, tokens: Tensor, pieces: list[int], mask: Tensor | None = None) -> Tensor:
    """Logits at every position, given to a ring piece by piece."""
    cache = RingCache(model)
    logits, at = [], 0
    for piece in pieces:
        seen = None if mask is None else mask[:, : at + piece]
        positions = None if mask is None else (seen.cumsum(1) - 1).clamp(min=0)[:, at : at + piece]
        logits.append(
            model(
                input_ids=tokens[:, at : at + piece],
                **cache.argument,
                attention_mask=seen,
                position_ids=positions,
            ).logits
        )
        at += piece
    return torch.cat(logits, 1)


@pytest.mark.parametrize("pieces", [slow([1] * 75), slow([20, *[1] * 55]), [45, 1, 1, 28], [75]])
def test_pieces_on_the_ring_equal_the_full_forward(pieces: list[int]) -> None:
    model = hardware(micro_design(token_period=30e-6, mismatch=MISMATCH))
    tokens = ids(75, 2)
    with torch.no_grad():
        expected = model(input_ids=tokens, use_cache=False).logits
    torch.testing.assert_close(decoded(model, tokens, pieces), expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    "effect",
    slow_after(
        1,
        [
            *("write error", "everything", "stuck cells", "cell read noise", "pulse jitter", "ramp errors"),
            *("charge injection", "read disturb", "spread of retention", "decay to another voltage"),
            *("normalising column", "signed queries", "uneven levels"),
        ],
    ),
)
def test_every_effect_of_a_chip_on_the_ring(effect: str) -> None:
    changes = dict(EFFECTS[effect])
    if effect == "everything":
        changes["writing"] = Writing(0.005, 0.005, -0.02, 0.0, 1e-15, 6)
    model = hardware(micro_design(token_period=30e-6, **changes))
    tokens = ids(70)
    with torch.no_grad():
        expected = model(input_ids=tokens, use_cache=False).logits
    found = decoded(model, tokens, [40, *[1] * 30])
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


@pytest.mark.slow
def test_paired_rows_on_the_ring() -> None:
    model, tokens = hardware(), ids(70)
    with torch.no_grad():
        unpaired = model(input_ids=tokens, use_cache=False).logits
        pair_rows(model, tokens[:, :32])
        expected = model(input_ids=tokens, use_cache=False).logits
    assert not torch.allclose(unpaired, expected)
    torch.testing.assert_close(decoded(model, tokens, [40, *[1] * 30]), expected, atol=1e-9, rtol=0)


def test_effects_that_a_ring_does_not_model() -> None:
    residual = hardware(micro_design(writing=Writing(discharge_residual=0.1)))
    with pytest.raises(ModelError, match=r"does not implement writing\.discharge_residual of design"):
        RingCache(residual)
    noisy = hardware(micro_design(leakage=Leakage(spread=0.2)))
    with pytest.raises(ModelError, match="refreshes perfect writes"):
        RingCache(noisy, Refresh("copy", every_tokens=10))
    codes = noisy.generate(ids(5), max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert codes.shape == (1, 9)


@pytest.mark.slow
def test_left_padding_on_the_ring() -> None:
    model = hardware()
    tokens = ids(60, 2)
    mask = torch.ones_like(tokens)
    mask[0, :9] = 0
    with torch.no_grad():
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        expected = model(tokens, attention_mask=mask, position_ids=positions, use_cache=False).logits
    got = decoded(model, tokens, [20, *[1] * 40], mask)
    torch.testing.assert_close(got[mask.bool()], expected[mask.bool()], atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    "family", [name if name in ("mistral", "gpt_neox", "opt") else slow(name) for name in FAMILIES]
)
def test_every_family_decodes_on_the_ring(family: str) -> None:
    torch.manual_seed(0)
    model = exact_norms(attach(FAMILIES[family]().double().eval(), micro_design()))
    tokens = ids(44)
    with torch.no_grad():
        expected = model(input_ids=tokens, use_cache=False).logits
    torch.testing.assert_close(decoded(model, tokens, [12, *[1] * 32]), expected, atol=1e-9, rtol=0)


POLICIES = [
    Refresh(),
    Refresh("copy", every_tokens=7),
    Refresh("reread", every_tokens=7),
    Refresh("copy", every_seconds=0.41e-3),
    Refresh("reread", every_seconds=0.41e-3),
]


@pytest.mark.parametrize("refresh", slow_after(1, [POLICIES[n] for n in (2, 4, 3, 1, 0)]), ids=str)
def test_the_ring_equals_the_arrays_token_by_token(refresh: Refresh) -> None:
    """A layer's attention on the ring gives what HeadArray gives for the same q, k, v; a pause after 40."""
    uneven = EFFECTS["uneven levels"] if refresh.kind == "reread" else {}
    model = hardware(micro_design(token_period=30e-6, mismatch=MISMATCH, **uneven))
    layer = attached_layers(model)[1]
    slot = layer.design.unstated_latency
    head = HeadArray(layer.design, 16, heads=2, kv_heads=1, layer=1, refresh=refresh, write_slot=slot)
    seen: dict[str, Tensor] = {}

    def keep(stage: str) -> Callable[..., None]:
        return lambda module, inputs, output: seen.update({stage: output, stage + "_in": inputs[0]})

    for stage in ("q", "k", "v", "out"):
        getattr(layer, stage).register_forward_hook(keep(stage))
    cache, tokens = RingCache(model, refresh), ids(75)
    for t in range(75):
        if t == 40:
            cache.idle(4e-3)
            head.idle(4e-3)
        with torch.no_grad():
            model(input_ids=tokens[:, t : t + 1], **cache.argument)
        expected = head.step(*(seen[stage][:, :, -1] for stage in ("q", "k", "v")))
        torch.testing.assert_close(seen["out_in"][:, :, 0], expected, atol=1e-12, rtol=0)
        assert cache.now == pytest.approx(head.now, rel=1e-12)
        assert (cache.writes, cache.clock.refreshes) == (head.writes, head.clock.refreshes)


@pytest.mark.slow
@pytest.mark.parametrize("period", [3e-3, slow(30e-6)])
@pytest.mark.parametrize("refresh", slow_after(1, [POLICIES[n] for n in (4, 1, 2, 3)]), ids=str)
def test_pieces_between_refreshes_equal_single_tokens(refresh: Refresh, period: float) -> None:
    """Also where the ring lives much longer than its cells: voltages last from refresh to refresh."""
    if refresh.every_seconds:
        refresh = Refresh(refresh.kind, every_seconds=refresh.every_seconds * period / 30e-6)
    for cell in ("polynomial", "sigmoid"):
        model = hardware(micro_design(token_period=period, mismatch=MISMATCH, cell=cell))
        tokens, pieces, singly = ids(52, 2), RingCache(model, refresh), RingCache(model, refresh)
        with torch.no_grad():
            got = feed(model, pieces, tokens)
            expected = torch.cat([feed(model, singly, tokens[:, t : t + 1]) for t in range(52)], 1)
        torch.testing.assert_close(got, expected, atol=1e-9, rtol=0)
        assert pieces.clock.refreshes == singly.clock.refreshes > 2


@pytest.mark.skipif(compiled_library() is None, reason="the kernel was not built: no C++ compiler")
@pytest.mark.parametrize(
    ("cell", "length"), [("polynomial", 50), slow("polynomial", 75), slow("sigmoid", 75)]
)
def test_the_compiled_step_equals_plain_torch(cell: str, length: int) -> None:
    """In float32, with left padding, a pause and refreshes; the same codes stand in the ring afterwards."""
    rings, logits = {}, {}
    tokens, mask = ids(length, 2), torch.ones(2, length, dtype=torch.int64)
    mask[0, :9] = 0
    for backend in ("auto", "blocked"):
        model = hardware(micro_design(token_period=30e-6, cell=cell), torch.float32, backend=backend)
        rings[backend] = cache = RingCache(model, Refresh("reread", every_tokens=20))
        found = []
        for t in range(length):
            if t == 40:
                cache.idle(0.4e-3)
            with torch.no_grad():
                positions = (mask[:, : t + 1].sum(1, keepdim=True) - 1).clamp(min=0)
                inputs = {"attention_mask": mask[:, : t + 1], "position_ids": positions}
                found.append(model(input_ids=tokens[:, t : t + 1], **inputs, **cache.argument).logits)
        logits[backend] = torch.cat(found, 1)[mask.bool()]
    assert rings["auto"].rings[0].codes_are_read
    assert not rings["blocked"].rings[0].codes_are_read
    torch.testing.assert_close(logits["auto"], logits["blocked"], atol=1e-4, rtol=0)
    for compiled, plain in zip(rings["auto"].rings, rings["blocked"].rings, strict=True):
        assert len(compiled.codes) == len(plain.codes) == 2
        for codes, wanted in zip(compiled.codes, plain.codes, strict=True):
            assert torch.equal(codes, wanted)


@pytest.mark.parametrize("backend", ["auto", "blocked"])
def test_every_stage_is_seen_once_a_step(backend: str) -> None:
    """By whoever watches it, also where the ring is read as voltages."""
    model, pieces, seen = hardware(micro_design(), torch.float32, backend=backend), [10, 1, 5, 1], []
    for cell in attached_layers(model):
        for name in ("q", "k", "v", "out"):
            getattr(cell, name).register_forward_hook(lambda *_, name=name: seen.append(name))
    decoded(model, ids(sum(pieces)), pieces)
    assert seen == ["q", "k", "v", "out"] * len(attached_layers(model)) * len(pieces)


@pytest.mark.skipif(compiled_library() is None, reason="the kernel was not built: no C++ compiler")
def test_gains_and_offsets_are_applied_in_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt and single tokens are not scaled in torch, and have the very bits of those that are."""
    tokens, pieces = ids(50), [40, *[1] * 10]
    model = hardware(micro_design(), torch.float32)
    with monkeypatch.context() as patched:
        patched.delattr(Scaler, "forward")
        within = decoded(model, tokens, pieces)
    seen = []
    for cell in attached_layers(model):
        for stage in (cell.q, cell.k, cell.v, cell.out):
            stage.register_forward_hook(lambda module, *_: seen.append(module))
    watched = decoded(model, tokens, pieces)
    assert torch.equal(within, watched)
    assert len(seen) == 4 * len(attached_layers(model)) * len(pieces)


@pytest.mark.slow
@pytest.mark.skipif(compiled_library() is None, reason="the kernel was not built: no C++ compiler")
def test_a_model_in_half_precision_decodes_compiled_and_one_of_many_powers_plainly() -> None:
    many = PolynomialCell((0.1, 12.0, *(0.1,) * 9), 19.0)
    high = PolynomialCell((*(0.0,) * 9, 19.0), 19.0)  # one power, of an order that rings have no room for
    for dtype, cell in ((torch.bfloat16, "polynomial"), (torch.float32, many), (torch.float32, high)):
        model = hardware(micro_design(cell=cell), dtype)
        cache = RingCache(model)
        for t in range(40):
            with torch.no_grad():
                logits = model(input_ids=ids(1, seed=t), **cache.argument).logits
            assert torch.isfinite(logits).all()
        assert all(ring.codes_are_read == (dtype == torch.bfloat16) for ring in cache.rings)


@pytest.mark.parametrize("backend", ["auto", slow("blocked")])
def test_what_is_not_finite_is_seen_as_long_as_the_ring_lives(backend: str) -> None:
    """Codes have no number for it: every later output is NaN, also when its column was overwritten."""
    model = hardware(dtype=torch.float32, backend=backend)
    cache = RingCache(model)
    embed = model.get_input_embeddings()
    for t in range(40):
        with torch.no_grad():
            x = embed(ids(1, seed=t))
            if t == 3:
                x = x * torch.nan
            logits = model(inputs_embeds=x, **cache.argument).logits
        assert bool(torch.isfinite(logits).all()) == (t < 3)


@pytest.mark.slow
def test_a_copy_refreshed_after_every_token_never_ages() -> None:
    """Every column is then one period old at most, but for the picoseconds of the refresh."""
    design = micro_design(token_period=1e-3, unstated_latency=1e-12)
    model = hardware(design)
    tokens = ids(60)
    with torch.no_grad():
        got = feed(model, RingCache(model, Refresh("copy", every_tokens=1)), tokens)
    fresh = hardware(design.replace(retention_time=None))
    with torch.no_grad():
        expected = fresh(input_ids=tokens, use_cache=False).logits
    torch.testing.assert_close(got, expected, atol=1e-9, rtol=0)


def test_more_tokens_than_until_the_next_refresh_are_refused() -> None:
    model = hardware()
    cache = RingCache(model, Refresh("copy", every_tokens=5))
    with pytest.raises(InputError, match="6 tokens at once, but the chip refreshes after 5"), torch.no_grad():
        model(input_ids=ids(6), **cache.argument)


@pytest.mark.slow
def test_generate_with_sampling_and_beams() -> None:
    model = hardware()
    prompt = ids(10, 2)
    options = {"max_new_tokens": 30, "min_new_tokens": 30, "pad_token_id": 0}
    greedy = model.generate(prompt, do_sample=False, **options)
    assert torch.equal(
        model.generate(prompt, do_sample=False, **RingCache(model).argument, **options), greedy
    )
    beams = model.generate(prompt, num_beams=3, **options)
    ring = model.generate(prompt, num_beams=3, **RingCache(model).argument, **options)
    assert torch.equal(ring, beams)


def test_memory_does_not_grow() -> None:
    model = hardware(dtype=torch.float32)
    cache, tokens = RingCache(model), ids(80)
    sizes = set()
    for t in range(80):
        with torch.no_grad():
            model(input_ids=tokens[:, t : t + 1], **cache.argument)
        sizes.add(cache.memory)
    assert sizes == {2 * 2 * 32 * 16 + 32 * 8}  # layers x key and value bytes; write times
    times = cache.tokens.write_times
    period = cache.rings[0].attention.design.token_period
    assert times.max() == pytest.approx(79 * period)
    assert times.min() == pytest.approx(48 * period)


def test_without_quantisation_of_storage() -> None:
    model = hardware(micro_design(storage_levels=None, token_period=30e-6))
    tokens = ids(50)
    with torch.no_grad():
        expected = model(input_ids=tokens, use_cache=False).logits
    torch.testing.assert_close(decoded(model, tokens, [10, *[1] * 40]), expected, atol=1e-9, rtol=0)


def test_a_long_pause_leaves_nothing() -> None:
    """After many time constants only C0 is left: what was before no longer matters."""
    model = hardware()
    logits = []
    for seed in (1, 2):
        cache = RingCache(model)
        with torch.no_grad():
            model(input_ids=ids(20, seed=seed), **cache.argument)
            cache.idle(1.0)
            logits.append(model(input_ids=ids(1, seed=9), **cache.argument).logits)
    torch.testing.assert_close(logits[0], logits[1], atol=1e-9, rtol=0)


def test_cropping_works_until_the_ring_has_gone_round() -> None:
    model = hardware(micro_design(retention_time=None))
    tokens = ids(64)
    cache = RingCache(model)
    with torch.no_grad():
        model(input_ids=ids(15, seed=5), **cache.argument)
        model(input_ids=tokens[:, :10], **cache.argument)
        cache.crop(15)
        got = model(input_ids=tokens[:, :5], **cache.argument).logits
        fresh = RingCache(model)
        model(input_ids=ids(15, seed=5), **fresh.argument)
        expected = model(input_ids=tokens[:, :5], **fresh.argument).logits
        torch.testing.assert_close(got, expected, atol=1e-9, rtol=0)
        model(input_ids=tokens, **cache.argument)
    with pytest.raises(InputError, match=r"older ones were overwritten.*the default cache"):
        cache.crop(50)


def test_a_cache_belongs_to_its_model() -> None:
    model, other = hardware(), hardware()
    with pytest.raises(ModelError, match="RingCache of another model"), torch.no_grad():
        other(input_ids=ids(3), **RingCache(model).argument)
    cache = RingCache(model)
    detach(model)
    with pytest.raises(ModelError, match="does not read voltages"), torch.no_grad():
        model(input_ids=ids(3), **cache.argument)
    with pytest.raises(ModelError, match="not attached"):
        RingCache(micro_llama())
    softmax = attach(micro_llama(), micro_design(), attention="softmax")
    with pytest.raises(ModelError, match="softmax attention cannot read"), torch.no_grad():
        softmax(input_ids=ids(3), **RingCache(softmax).argument)


@pytest.mark.parametrize("dtype", [slow(torch.float64), torch.float32])
def test_a_copy_goes_on_from_a_prompt_that_was_read_once(dtype: torch.dtype) -> None:
    model, tokens = hardware(dtype=dtype), ids(30)
    expected = decoded(model, tokens, [19, *[1] * 11])[:, 20:]
    prompt = RingCache(model)
    with torch.no_grad():
        for piece in (tokens[:, :19], tokens[:, 19:20]):
            model(input_ids=piece, **prompt.argument)
        before = prompt.now
        for _ in range(2):
            other = copy.deepcopy(prompt)
            got = [model(input_ids=tokens[:, t : t + 1], **other.argument).logits for t in range(20, 30)]
            assert torch.equal(torch.cat(got, 1), expected)
            assert (prompt.now, len(other.rings[0].codes)) == (before, 2)
    for one, another in (copy.deepcopy((prompt, model)), copy.deepcopy((model, prompt))[::-1]):
        assert all(cell not in attached_layers(model) for cell in attached_layers(another))
        assert one.clock is not prompt.clock


def test_other_mistakes_are_named() -> None:
    model = hardware()
    cache = RingCache(model)
    with torch.no_grad():
        model(input_ids=ids(3), **cache.argument)
    with pytest.raises(InputError, match="the ring holds 1 sequences, the input has 2"), torch.no_grad():
        model(input_ids=ids(1, 2), **cache.argument)
    with pytest.raises(InputError, match="idle for -1 s"):
        cache.idle(-1)


def test_layers_of_several_chips_have_no_ring() -> None:
    """It keeps the age of columns once for all layers."""
    model = hardware()
    cache, last = RingCache(model), attached_layers(model)[-1]
    last.design = last.design.replace(retention_time=1.0)
    with pytest.raises(ModelError, match="the layers have different designs"):
        RingCache(model)
    with pytest.raises(ModelError, match="the layers have different designs"), torch.no_grad():
        model(input_ids=ids(3), **cache.argument)


def test_another_ring_needs_another_cache() -> None:
    model = hardware()
    cache = RingCache(model)
    with torch.no_grad():
        model(input_ids=ids(3), **cache.argument)
    set_design(model, attached_layers(model)[0].design.replace(window=64))
    with pytest.raises(InputError, match="make a new RingCache after set_design"), torch.no_grad():
        model(input_ids=ids(1), **cache.argument)


def test_a_design_put_in_later_is_checked_as_the_first_was() -> None:
    """Refreshes know one rate of decay, and were planned with the latency of one chip."""
    model = hardware()
    cache = RingCache(model, Refresh("reread", every_tokens=7))
    with torch.no_grad():
        model(input_ids=ids(3), **cache.argument)
        chip = attached_layers(model)[0].design
        set_design(model, chip.replace(retention_time=chip.retention_time / 2))  # type: ignore[operator]
        model(input_ids=ids(1), **cache.argument)
        set_design(model, chip.replace(leakage=replace(chip.leakage, spread=0.3)))
        with pytest.raises(ModelError, match="cells that decay alike"):
            model(input_ids=ids(1), **cache.argument)
        set_design(model, chip.replace(unstated_latency=2 * chip.unstated_latency))
        with pytest.raises(InputError, match=r"latency of another design .* make a new RingCache"):
            model(input_ids=ids(1), **cache.argument)


@pytest.mark.parametrize("levels", [16, None])
def test_other_levels_need_another_cache(levels: int | None) -> None:
    """What the ring holds are codes, of the voltages of the design that wrote them."""
    model = hardware()
    cache = RingCache(model)
    with torch.no_grad():
        model(input_ids=ids(3), **cache.argument)
    set_design(model, attached_layers(model)[0].design.replace(storage_levels=levels))
    with pytest.raises(InputError, match=r"codes of other voltages .* make a new RingCache"), torch.no_grad():
        model(input_ids=ids(1), **cache.argument)


def test_what_a_step_places_is_on_the_device_of_every_layer() -> None:
    """Layers may lie on several GPUs; `meta` stands for one."""
    tokens = RingCache(hardware()).tokens
    step = tokens.begin(torch.arange(3)[None])
    for name in ("cpu", "meta"):
        device = torch.device(name)
        assert {place.device for place in step.places(device)} == {device}
        old = tokens.old(step, device)
        assert {old.index.device, old.columns.device, old.extra_age.device} == {device}


def test_the_default_cache_still_works_on_an_attached_model() -> None:
    model = hardware()
    tokens = ids(30)
    (argument,) = RingCache(model).argument
    cache = {argument: DynamicCache()}
    with torch.no_grad():
        expected = model(input_ids=tokens, use_cache=False).logits
        got = [model(input_ids=tokens[:, t : t + 1], **cache).logits for t in range(30)]
    torch.testing.assert_close(torch.cat(got, 1), expected, atol=1e-9, rtol=0)


@st.composite
def padded_batches(draw: st.DrawFn) -> tuple[Tensor, list[int]]:
    """A mask of two rows with padding anywhere, each with a token at least, and pieces to give it in."""
    slots = draw(st.integers(2, 80))
    rows = st.lists(st.booleans(), min_size=slots, max_size=slots).filter(any)
    mask = torch.tensor([draw(rows), draw(rows)]).long()
    cuts = sorted(draw(st.sets(st.integers(1, slots - 1), max_size=6)))
    return mask, [end - start for start, end in zip([0, *cuts], [*cuts, slots], strict=True)]


@pytest.fixture(scope="module")
def padded_models() -> dict[str, nn.Module]:
    """A model whose ring is read as voltages, and one whose layers have windows of their own."""
    torch.manual_seed(0)
    windows = exact_norms(attach(FAMILIES["mistral"]().double().eval(), micro_design()))
    return {"llama": hardware(micro_design(token_period=30e-6, mismatch=MISMATCH)), "mistral": windows}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", slow("mistral")])
@given(batch=padded_batches())
@settings(max_examples=25, deadline=None)
def test_padding_anywhere_is_never_written(
    padded_models: dict[str, nn.Module], family: str, batch: tuple[Tensor, list[int]]
) -> None:
    """Right, left, in the middle: tokens and codes are those of the full forward pass."""
    model, (mask, pieces) = padded_models[family], batch
    tokens = ids(mask.shape[1], 2)
    with torch.no_grad():
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        expected = model(tokens, attention_mask=mask, position_ids=positions, use_cache=False).logits
    got = decoded(model, tokens, pieces, mask)
    torch.testing.assert_close(got[mask.bool()], expected[mask.bool()], atol=1e-9, rtol=0)


@pytest.mark.parametrize("backend", ["auto", slow("blocked")])
def test_a_prompt_padded_on_the_right_gives_the_codes_of_one_that_is_not(backend: str) -> None:
    """Also in compiled code, where the columns of the sequences differ."""
    tokens, mask = ids(60, 2), torch.ones(2, 60, dtype=torch.int64)
    mask[0, 12:20] = 0
    caches = {}
    for padded in (True, False):
        model = hardware(dtype=torch.float32, backend=backend)
        caches[padded] = cache = RingCache(model)
        real = mask if padded else mask[:1, mask[0].bool()]
        text = tokens if padded else tokens[:1, mask[0].bool()]
        for start, end in [(0, 20), *((t, t + 1) for t in range(20, real.shape[1]))]:
            seen = real[:, :end]
            positions = (seen.cumsum(1) - 1)[:, start:end].clamp(min=0)
            inputs = {"attention_mask": seen, "position_ids": positions}
            with torch.no_grad():
                model(input_ids=text[:, start:end], **inputs, **cache.argument)
    assert caches[True].rings[0].codes_are_read == (backend == "auto" and compiled_library() is not None)
    for ring, alone in zip(caches[True].rings, caches[False].rings, strict=True):
        assert len(ring.codes) == len(alone.codes) == 2
        for codes, wanted in zip(ring.codes, alone.codes, strict=True):
            assert torch.equal(codes[:1], wanted)


def test_padding_takes_a_sequence_no_time() -> None:
    """Ages are those of the sequence alone, also across idle time and refreshes."""
    model = hardware(micro_design(token_period=30e-6))
    tokens, mask = ids(40, 2), torch.ones(2, 40, dtype=torch.int64)
    mask[0, 10:18] = 0
    ages = []
    for rows, real in ((slice(0, 1), mask[:1, mask[0].bool()]), (slice(None), mask)):
        cache = RingCache(model)
        text = tokens[rows] if len(real) == 2 else tokens[:1, mask[0].bool()]
        for piece in (text.shape[1] - 20, 20):
            at = cache.get_seq_length()
            with torch.no_grad():
                model(text[:, at : at + piece], attention_mask=real[:, : at + piece], **cache.argument)
            cache.idle(1e-3)
        ages.append(cache.tokens.write_times[0].max() - cache.tokens.write_times[0, :32])
    torch.testing.assert_close(ages[0], ages[1], atol=1e-12, rtol=0)


def test_a_mask_that_contradicts_the_ring_is_refused() -> None:
    model = hardware()
    cache, mask = RingCache(model), torch.ones(1, 20, dtype=torch.int64)
    mask[0, 12:] = 0
    with torch.no_grad():
        model(ids(20), attention_mask=mask, **cache.argument)
        with pytest.raises(ModelError, match=r"counts 20 tokens of sequence 0 .* the ring holds 12"):
            model(ids(1), **cache.argument)
        longer = torch.cat([mask, torch.ones(1, 1, dtype=torch.int64)], 1)
        model(ids(1), attention_mask=longer, **cache.argument)
    assert cache.tokens.count.tolist() == [13]


def test_cropping_counts_tokens_not_slots() -> None:
    model = hardware(micro_design(retention_time=None))
    mask, tokens = torch.ones(1, 30, dtype=torch.int64), ids(30)
    mask[0, 10:20] = 0
    cache = RingCache(model)
    with torch.no_grad():
        model(tokens, attention_mask=mask, **cache.argument)
        cache.crop(-15)
        assert cache.tokens.count.tolist() == [10]
        got = model(
            tokens[:, 15:], attention_mask=mask, position_ids=torch.arange(15, 30)[None], **cache.argument
        )
        expected = model(tokens, attention_mask=mask, use_cache=False).logits[:, 15:]
    torch.testing.assert_close(got.logits[:, 5:], expected[:, 5:], atol=1e-9, rtol=0)


@pytest.mark.parametrize("drafts", [1, 6])
def test_what_is_held_ages_by_drafts_that_are_taken_back(
    drafts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next token meets keys and values that are older by the drafts' time, by the decay of their ages."""
    period, tau = 30e-6, 1e-3
    model = hardware(micro_design(token_period=period, retention_time=tau), backend="naive")
    tokens, cache, cell = ids(11), RingCache(model), attached_layers(model)[0]
    seen: list[tuple[Any, ...]] = []
    with torch.no_grad():
        model(input_ids=tokens[:, :10], **cache.argument)
        model(input_ids=ids(drafts, seed=5), **cache.argument)
        cache.crop(10)
        read = cell.read

        def watched(*given: Any) -> Tensor:
            seen.append((*given[:3], read(*given)))
            return seen[-1][3]

        monkeypatch.setattr(cell, "read", watched)
        model(input_ids=tokens[:, 10:], **cache.argument)
        asked, ku, vu, found = seen[0]
        age = torch.arange(10, -1, -1).double() * period
        left = torch.exp(-torch.where(age > 0, age + drafts * period, age) / tau)[:, None]
        fresh = cell.design.replace(retention_time=None)
        expected = cell.out(attention_from_voltages(asked.q, ku * left, vu * left, fresh, "naive"))
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


@pytest.mark.slow
def test_assisted_decoding_on_the_ring() -> None:
    """Drafts are taken back; on a chip that does not leak the text is that of the full forward pass."""
    model, draft = hardware(micro_design(retention_time=None).replace(window=64)), micro_llama(torch.float64)
    with torch.no_grad():
        for weight in draft.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    options = {"max_new_tokens": 30, "min_new_tokens": 30, "do_sample": False, "pad_token_id": 96}
    alone = model.generate(ids(10), **options)
    assisted = model.generate(ids(10), assistant_model=draft, **RingCache(model).argument, **options)
    assert torch.equal(assisted, alone)


@pytest.mark.parametrize(
    ("levels", "backend"), [(8, "auto"), slow(8, "blocked"), slow(None, "auto"), slow(None, "blocked")]
)
def test_a_value_that_is_not_finite_reaches_what_reads_it_alone(backend: str, levels: int | None) -> None:
    """Not the other sequence, and nothing once its column was overwritten, or after reset()."""
    model = attach(micro_llama(layers=1), micro_design(storage_levels=levels), backend=backend)
    tokens = ids(80, 2)
    embedded = model.get_input_embeddings()(tokens).detach()
    embedded[1, 3] = torch.nan
    cache = RingCache(model)
    with torch.no_grad():
        expected = model(inputs_embeds=embedded, use_cache=False).logits
        got = [model(inputs_embeds=embedded[:, t : t + 1], **cache.argument).logits for t in range(80)]
        read = torch.zeros(2, 80, dtype=torch.bool)
        read[1, 3 : 3 + 32] = True
        assert torch.equal(torch.cat(got, 1).isnan().all(-1), read)
        assert torch.equal(expected.isnan().all(-1), read)
        assert torch.equal(expected.isnan().any(-1), read)
        for _ in range(2):
            assert bool(model(inputs_embeds=embedded[:, :5], **cache.argument).logits.isnan().any())
            cache.reset()
            assert torch.equal(
                model(tokens, **cache.argument).logits, model(tokens, **RingCache(model).argument).logits
            )
            cache.reset()
