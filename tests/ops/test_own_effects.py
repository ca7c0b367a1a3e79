"""A cell, a readout and a non-ideality of a user's own: the pages' examples run, and nothing ignores them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tests.micro import micro_design, micro_llama
from torch import Tensor

from gaincell.arrays import HeadArray
from gaincell.chips.design import Design
from gaincell.circuits import readout
from gaincell.circuits.noise import Noise
from gaincell.circuits.nonideality import STAGES
from gaincell.circuits.readout import READOUTS
from gaincell.devices.random import PER_OPERATION, Drawn
from gaincell.errors import DesignError, InputError, ModelError
from gaincell.evaluation.activity import measure_activity
from gaincell.integrations.hf.attach import attach
from gaincell.integrations.hf.ring_cache import RingCache
from gaincell.mapping.summary import chip_of
from gaincell.ops.gain_cell_attention import gain_cell_attention, native_library
from gaincell.ops.gain_cell_attention.backends import naive, unsupported
from gaincell.ops.gain_cell_attention.call import Call

ROOT = Path(__file__).parents[2]
FASTER = ["blocked", *(["native"] if native_library.levels() else [])]


def run_example(page: str) -> dict[str, Any]:
    """What the Python of a page leaves behind."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 1
    names: dict[str, Any] = {"__name__": __name__}
    exec(blocks[0], names)
    return names


@dataclass(frozen=True)
class Own:
    """signal -> gain * signal + strength z at one stage."""

    at: str
    gain: float = 1.0
    strength: float = 0.0
    drawn: Drawn | tuple[Drawn, ...] | None = None
    name = "own"

    @property
    def numbers(self) -> Mapping[str, Any]:
        return {"at": self.at, "gain": self.gain, "strength": self.strength}

    def __call__(self, stage: str, signal: Tensor, draw: Any) -> Tensor:
        if stage != self.at:
            return signal
        if self.drawn is None:
            return signal * self.gain
        return signal * self.gain + self.strength * draw(self.drawn)


@dataclass(frozen=True)
class Flickering(Noise):
    """A table with a number more, as somebody who works on `naive` would add it."""

    flicker_std: float = field(default=0.0, metadata=PER_OPERATION)


def signals(batch: int = 1, tokens: int = 70) -> list[Tensor]:
    g = torch.Generator().manual_seed(1)
    return [torch.rand(batch, h, tokens, 16, generator=g) for h in (4, 2, 2)]


@pytest.mark.slow
def test_the_example_of_a_nonideality_runs_and_means_what_the_page_says() -> None:
    found = run_example("docs/adding_a_nonideality.md")
    assert found["after"] != found["before"]
    assert found["chips"].nominal == found["before"]
    assert found["chips"].perplexity[0] == found["after"]
    assert len(set(found["chips"].perplexity)) == 2


@pytest.fixture
def counter_ceil() -> Iterator[Mapping[str, Any]]:
    """What the example of a readout leaves behind, which the table of readouts forgets again."""
    yield run_example("docs/adding_a_readout.md")
    del READOUTS["counter-ceil"]


def test_the_example_of_a_readout_is_computed_everywhere_or_refused(counter_ceil: Mapping[str, Any]) -> None:
    assert 1 < counter_ceil["found"] < 1e6
    design = micro_design(readout="counter-ceil")
    assert design.hash != micro_design().hash
    tensors = [x.double() for x in signals()]
    expected = gain_cell_attention(*tensors, design, backend="naive")
    codes = expected * design.readout_steps
    torch.testing.assert_close(codes.round(), codes, rtol=0, atol=1e-9)
    assert not torch.allclose(expected, gain_cell_attention(*tensors, micro_design(), backend="naive"))
    for backend in ("auto", "blocked"):
        found = gain_cell_attention(*tensors, design, backend=backend)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    array = HeadArray(design, 16, heads=4, kv_heads=2)
    steps = [array.step(*(x[:, :, t] for x in tensors)) for t in range(5)]
    torch.testing.assert_close(torch.stack(steps, 2), expected[:, :, :5], rtol=0, atol=1e-9)
    single = gain_cell_attention(*signals(), design)
    torch.testing.assert_close(single, gain_cell_attention(*signals(), design, backend="blocked"))
    if native_library.levels():
        with pytest.raises(
            InputError, match="'native' does not serve this: it has no readout 'counter-ceil'"
        ):
            gain_cell_attention(*signals(), design, backend="native")


def test_a_readout_is_one_function_and_one_line() -> None:
    page = (ROOT / "docs" / "adding_a_readout.md").read_text(encoding="utf-8")
    [function] = re.findall(r"^def begun.*?\n\n", page, re.DOTALL | re.MULTILINE)
    [line] = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    source = Path(readout.__file__).read_text(encoding="utf-8")
    head, table, rest = source.partition("READOUTS: dict[str, Readout] = {\n")
    names: dict[str, Any] = {"__name__": "gaincell.circuits.added"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, names["__name__"], ModuleType(names["__name__"]))
        exec(
            compile(f"{head}{function}\n{table}{line}{rest}", "readout.py", "exec", dont_inherit=True), names
        )
    o = torch.tensor([-1.0, -0.04, 0.04, 1.0])
    assert names["quantize_output"](o, "counter-ceil", 16).mul(15.0).round().tolist() == [
        -15.0,
        -1.0,
        1.0,
        15.0,
    ]


def test_the_example_of_a_cell_runs() -> None:
    found = run_example("src/gaincell/devices/README.md")
    assert 1 < found["found"] < 1e6
    design = found["design"]
    own = design.replace(cell=found["TanhCell"]())
    assert len({own.hash, design.hash, design.replace(cell=found["TanhCell"](a=13.0)).hash}) == 3
    u = torch.linspace(-0.45, 0.45, 19, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(own.cell.current(u).sum(), u)
    torch.testing.assert_close(own.cell.slope(u), slope)
    a, b = (
        gain_cell_attention(*signals(), own.replace(readout="none"), backend=i) for i in ("naive", "auto")
    )
    torch.testing.assert_close(a, b, rtol=0, atol=1e-4)
    with pytest.raises(DesignError, match="cell 'tanh' cannot be written"):
        own.to_toml()


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_is_shown_in_its_place(stage: str) -> None:
    """A gain of 0.9 is another number of the design where there is one, and never nothing."""
    design = micro_design(readout="none")
    same = {
        "query": None,
        "key": None,
        "score": design.replace(score_saturation_per_row=design.score_saturation_per_row / 0.9),
        "pulse": None,
        "value": None,
        "output": design.replace(output_saturation_per_column=design.output_saturation_per_column / 0.9),
    }[stage]
    plain = gain_cell_attention(*signals(), design)
    shown = gain_cell_attention(*signals(), design.replace(nonideality=Own(stage, 0.9)))
    assert not torch.allclose(plain, shown, atol=1e-3)
    if same is not None:
        torch.testing.assert_close(shown, gain_cell_attention(*signals(), same, backend="naive"))
    assert torch.equal(plain, gain_cell_attention(*signals(), design)), "the function is the design's alone"


@pytest.mark.parametrize("drawn", ["chip", "operation"])
@pytest.mark.parametrize("stage", STAGES)
def test_draws_belong_to_the_chip_or_to_the_read(stage: str, drawn: Drawn) -> None:
    design = micro_design(readout="none", nonideality=Own(stage, 1.0, 0.02, drawn))
    q, k, v = signals(batch=2)
    whole = gain_cell_attention(q, k, v, design, layer=1)
    parts = [gain_cell_attention(q[b : b + 1], k[b : b + 1], v[b : b + 1], design, layer=1) for b in range(2)]
    torch.testing.assert_close(whole, torch.cat(parts), rtol=0, atol=1e-5)
    short = gain_cell_attention(q[:, :, -9:], k, v, design, layer=1)
    torch.testing.assert_close(whole[:, :, -9:], short, rtol=0, atol=1e-5)

    def differs(other: Design) -> bool:
        return not torch.equal(whole, gain_cell_attention(q, k, v, other, layer=1))

    assert differs(design.replace(mismatch=replace(design.mismatch, chip=1)))
    assert differs(design.redrawn(3)) == (drawn == "operation")
    assert design.drawn(drawn) == {"nonideality"}
    assert design.without(drawn).nonideality is None


@dataclass(frozen=True)
class Both(Own):
    """A signal that draws what every chip has and what every read has."""

    drawn: Drawn | tuple[Drawn, ...] | None = ("chip", "operation")

    def __call__(self, stage: str, signal: Tensor, draw: Any) -> Tensor:
        return signal + self.strength * (draw("chip") + draw("operation")) if stage == self.at else signal


@pytest.mark.parametrize(
    ("drawn", "refused"),
    [("chip", "operation"), ("operation", "chip"), (None, "chip"), (("chip",), "operation")],
)
def test_a_draw_that_is_not_stated_is_refused(drawn: Any, refused: str) -> None:
    design = micro_design(nonideality=Both("score", strength=0.02, drawn=drawn))
    with pytest.raises(InputError, match=f"nonideality 'own' draws '{refused}', but states drawn = "):
        gain_cell_attention(*signals(), design)


def test_an_effect_drawn_both_ways_is_of_both_kinds() -> None:
    design = micro_design(readout="none", nonideality=Both("score", strength=0.02))
    assert design.drawn("chip") == design.drawn("operation") == {"nonideality"}
    assert design.without("chip").nonideality is design.without("operation").nonideality is None
    outputs = [
        gain_cell_attention(*signals(), chip)
        for chip in (design, design.redrawn(3), design.replace(mismatch=replace(design.mismatch, chip=1)))
    ]
    assert not any(torch.equal(outputs[a], outputs[b]) for a, b in ((0, 1), (0, 2), (1, 2)))


@dataclass(frozen=True)
class Seen(Both):
    """What both kinds of draws are at one stage."""

    def __call__(self, stage: str, signal: Tensor, draw: Any) -> Tensor:
        if stage == self.at:
            DRAWN[:] = [draw("chip", 3).expand_as(signal), draw("operation", 3).expand_as(signal)]
        return signal


DRAWN: list[Tensor] = []


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_read_has_is_not_what_the_chip_has(stage: str) -> None:
    """At the first token neither, whose step is 0."""
    gain_cell_attention(*signals(), micro_design(readout="none", nonideality=Seen(stage, strength=1.0)))
    chip, operation = DRAWN
    assert not bool((chip == operation).any())


def test_every_other_path_refuses_it_by_name() -> None:
    design = micro_design(nonideality=Own("pulse", 0.9))
    q, k, v = signals()
    for backend in FASTER:
        with pytest.raises(InputError, match="does not implement nonideality"):
            gain_cell_attention(q, k, v, design, backend=backend)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="does not implement nonideality"):
        gain_cell_attention(q[:, :, -1:], k, v, design, backend="decode")
    with pytest.raises(InputError, match="HeadArray does not implement nonideality"):
        HeadArray(design)
    with pytest.raises(DesignError, match=r"columns of first tokens are modelled without .* nonideality"):
        design.replace(sinks=replace(design.sinks, tokens=4))
    model = attach(micro_llama(), design)
    with pytest.raises(InputError, match="does not implement nonideality"):
        measure_activity(model, [torch.arange(8)[None]], "text")
    with pytest.raises(DesignError, match="nonideality 'own' cannot be written to a file"):
        design.to_toml()
    assert chip_of(design).nonideality == {
        "name": "own",
        "at": "pulse",
        "gain": 0.9,
        "strength": 0.0,
    }
    assert design.hash != micro_design().hash != micro_design(nonideality=Own("pulse", 0.8)).hash


def test_a_ring_reads_through_it() -> None:
    model = attach(micro_llama(), micro_design(nonideality=Own("key", 0.9)))
    ids = torch.randint(97, (1, 20), generator=torch.Generator().manual_seed(1))
    cache = RingCache(model)
    with torch.no_grad():
        expected = model(input_ids=ids, use_cache=False).logits
        found = [model(input_ids=ids[:, t : t + 1], **cache.argument).logits for t in range(20)]
    torch.testing.assert_close(torch.cat(found, 1), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "wrong",
    [lambda s, x, d: x, Own("key", drawn="token"), Own(["key"]), Both("key", drawn=("chip", "token"))],  # type: ignore[arg-type]
)
def test_what_is_no_nonideality_is_refused(wrong: Any) -> None:
    with pytest.raises(DesignError, match="is not acceptable; allowed: a frozen dataclass"):
        micro_design(nonideality=wrong)


def test_another_shape_is_refused() -> None:
    @dataclass(frozen=True)
    class Short(Own):
        def __call__(self, stage: str, signal: Tensor, draw: Any) -> Tensor:
            return signal[..., :1]

    with pytest.raises(InputError, match=r"nonideality 'own' returned torch\.float32 .* at stage 'query'"):
        gain_cell_attention(*signals(), micro_design(nonideality=Short("query")))


def test_a_number_that_naive_alone_knows_is_refused_by_name_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    design = micro_design(noise=Flickering(flicker_std=0.1))
    q, k, v = signals()
    for backend in ("auto", "naive", *FASTER):
        with pytest.raises(InputError, match=r"noise\.flicker_std"):
            gain_cell_attention(q, k, v, design, backend=backend)  # type: ignore[arg-type]
    monkeypatch.setattr(naive, "IMPLEMENTS", naive.IMPLEMENTS | {"noise.flicker_std"})
    known = gain_cell_attention(q, k, v, design, backend="naive")
    assert torch.equal(gain_cell_attention(q, k, v, design), known), "auto takes what implements it"
    for backend in FASTER:
        with pytest.raises(InputError, match=r"does not implement noise\.flicker_std"):
            gain_cell_attention(q, k, v, design, backend=backend)  # type: ignore[arg-type]
    with pytest.raises(
        InputError, match=r"'decode' does not serve this: it does not implement noise\.flicker_std"
    ):
        gain_cell_attention(q[:, :, -1:], k, v, design, backend="decode")
    with pytest.raises(InputError, match=r"HeadArray does not implement noise\.flicker_std"):
        HeadArray(design)
    with pytest.raises(ModelError, match=r"RingCache does not implement noise\.flicker_std"):
        RingCache(attach(micro_llama(), design))
    pytest.importorskip("triton")
    assert unsupported("triton", Call(q, k, v, design)) == "it does not implement noise.flicker_std"
