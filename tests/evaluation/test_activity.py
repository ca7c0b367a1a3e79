"""The activity of a model's circuits: against the arrays token by token, and the equations literally."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from tests.micro import micro_design, micro_llama
from tests.tiers import slow

from gaincell.arrays import HeadArray
from gaincell.chips.design import Design
from gaincell.circuits import charge_to_pulse, query_driver, write_dac
from gaincell.circuits.charge_to_pulse import ChargeToPulse
from gaincell.circuits.converter import sum_rounding
from gaincell.circuits.normaliser import Normaliser
from gaincell.circuits.pwm import Drivers
from gaincell.circuits.sinks import Sinks
from gaincell.cli import main
from gaincell.costs.activity import Activity
from gaincell.devices.variability import Mismatch
from gaincell.errors import InputError
from gaincell.evaluation.activity import measure_activity
from gaincell.integrations.hf.attach import attach, attached_layers
from gaincell.nn.attention import GainCellAttention
from gaincell.reports import heads
from gaincell.reports.heads import activity_figure
from gaincell.results.activity import ActivityResult
from gaincell.results.codec import from_json, to_json

TOKENS = 70
EXTENDED = {
    "drivers": Drivers(phases=2),
    "normaliser": Normaliser(0.333),
    "charge_to_pulse": ChargeToPulse(3),
}


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(97, (2, TOKENS), generator=torch.Generator().manual_seed(2))


def attached(design: Design) -> torch.nn.Module:
    """The micro model in arrays, with gains that make the scores cross zero and the ceiling."""
    model = attach(micro_llama(positions=128), design)
    for n, layer in enumerate(attached_layers(model)):
        layer.q.gain.data.fill_(0.6 + 0.2 * n)
        layer.q.offset.data.fill_(0.1)
        layer.k.gain.data.fill_(0.3)
        layer.v.gain.data.fill_(0.25)
    return model


def calls_of(model: torch.nn.Module, ids: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
    """Scaled q, k and v of every layer."""
    calls: list[tuple[torch.Tensor, ...]] = []

    def keep(module: GainCellAttention, arguments: tuple[torch.Tensor, ...]) -> None:
        q, k, v = arguments[:3]
        calls.append((module.q(q), module.k(k), module.v(v)))

    hooks = [layer.register_forward_pre_hook(keep) for layer in attached_layers(model)]
    with torch.no_grad():
        model.base_model(input_ids=ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    return calls


def by_steps(layer: GainCellAttention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> dict[str, list]:
    """The same means from the arrays with state, token by token."""
    design = layer.design
    array = HeadArray(design, layer.head_dim, heads=layer.heads, kv_heads=layer.kv_heads, layer=layer.layer,
                      batch=q.shape[0], dtype=q.dtype)  # fmt: skip
    d, margin = layer.head_dim, sum_rounding(q.dtype) * design.score_saturation(layer.head_dim)
    sums = {
        name: torch.zeros(layer.heads) for name in ("q", "q>0", "phi", "phi>0", "S<0", "seen", "o", "o seen")
    }
    for t in range(q.shape[2]):
        array.step(q[:, :, t], k[:, :, t], v[:, :, t])
        trace = array.trace
        assert trace is not None
        tiles = trace.valid.unflatten(1, (-1, design.tile)).any(-1)
        query, charge = trace.query[..., :d], trace.tile_charge[..., :d]
        o = (charge / design.output_saturation).clamp(-1, 1).abs() * tiles[:, None, :, None]
        sunk = (trace.scores / design.score_saturation(d)).clamp(max=0).abs()
        for name, of_step in (
            ("q", query.abs().sum((0, 2))),
            ("q>0", (query != 0).sum((0, 2))),
            ("phi", trace.pulses.sum((0, 2))),
            ("phi>0", ((trace.scores > margin) & trace.valid[:, None]).sum((0, 2))),
            ("S<0", (sunk * trace.valid[:, None]).sum((0, 2))),
            ("seen", trace.valid.sum()),
            ("o", o.sum((0, 2, 3))),
            ("o seen", tiles.sum() * d),
        ):
            sums[name] = sums[name] + of_step
    queries = q.shape[0] * q.shape[2]
    return {
        "query_pulse": (sums["q"] / (queries * d)).tolist(),
        "query_active": (sums["q>0"] / (queries * d)).tolist(),
        "score_pulse": (sums["phi"] / sums["seen"]).tolist(),
        "score_active": (sums["phi>0"] / sums["seen"]).tolist(),
        "score_negative": (sums["S<0"] / sums["seen"]).tolist(),
        "output_pulse": (sums["o"] / sums["o seen"]).tolist(),
        "valid_columns": (sums["seen"] / queries).tolist(),
    }


@pytest.mark.parametrize(
    "changes",
    [
        {},
        slow({"cell": "linear", "retention_time": 1e-5}),
        slow({"cell": "sigmoid"}),
        EXTENDED,
        slow({"mismatch": Mismatch(gain_std=0.1)}),
    ],
    ids=["paper", "linear, fast decay", "sigmoid", "extended", "mismatch"],
)
def test_as_the_arrays_token_by_token(changes: dict[str, object], ids: torch.Tensor) -> None:
    """More tokens than columns, two query heads on one array, two sequences."""
    model = attached(micro_design(**changes))
    found = measure_activity(model, [ids], "random")
    assert (found.source, found.tokens) == ("random", 2 * TOKENS)
    assert [(head.layer, head.head) for head in found.heads] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    expected = by_steps(attached_layers(model)[1], *calls_of(model, ids)[1])
    heads = [asdict(head) for head in found.heads[2:]]
    for name, values in expected.items():
        assert [head[name] for head in heads] == pytest.approx(values, rel=1e-4, abs=1e-7), name
    assert all(0 < head["score_active"] < 1 for head in heads)


def test_stored_levels(ids: torch.Tensor) -> None:
    model = attached(micro_design())
    found = measure_activity(model, [ids], "random")
    design = attached_layers(model)[0].design
    _, k, v = calls_of(model, ids)[0]
    for name, volts in (("key", k), ("value", v)):
        u = write_dac(volts, design.storage_levels, design.v_min, design.v_max, design.v_offset)
        for head in found.heads[:2]:
            assert getattr(head, f"{name}_level") == pytest.approx(float(u.abs().mean()), rel=1e-6)
            assert getattr(head, f"{name}_square") == pytest.approx(float(u.square().mean()), rel=1e-6)


def test_the_models_own_window_literally(ids: torch.Tensor) -> None:
    """phi(S) of equations (5) to (9), pair by pair, of a layer that looks back seven tokens."""
    model = attached(micro_design())
    layer, window = attached_layers(model)[0], 7
    layer.register_forward_pre_hook(lambda module, given: (*given[:5], window))
    found = measure_activity(model, [ids[:1, :40]], "random").heads[0]
    design = layer.design
    q, k, _ = calls_of(model, ids[:1, :40])[0]
    x = query_driver(q[0, 0].double(), design.query_levels)
    u = write_dac(k[0, 0].double(), design.storage_levels, design.v_min, design.v_max, design.v_offset)
    pulses, sunk = [], []
    for i in range(40):
        for j in range(max(0, i - window + 1), i + 1):
            score = (x[i] * design.cell.current(u[j] * design.decay_per_token ** (i - j))).sum()
            pulses.append(float(charge_to_pulse(score, design.score_saturation(16))))
            sunk.append(max(-float(score) / design.score_saturation(16), 0.0))
    assert found.valid_columns == pytest.approx(len(pulses) / 40)
    assert found.score_pulse == pytest.approx(sum(pulses) / len(pulses), rel=1e-5)
    assert found.score_negative == pytest.approx(sum(sunk) / len(sunk), rel=1e-5)
    assert found.score_negative > 0
    assert found.score_active == pytest.approx(sum(p > 0 for p in pulses) / len(pulses), rel=1e-9)


def test_padding_is_not_counted(ids: torch.Tensor) -> None:
    model = attached(micro_design())
    mask = torch.ones_like(ids)
    mask[0, :30] = 0
    mask[1, 60:] = 0
    padded = measure_activity(model, [ids], "padded", mask)
    alone = [measure_activity(model, [part], "alone") for part in (ids[:1, 30:], ids[1:, :60])]
    assert padded.tokens == 40 + 60
    for n, head in enumerate(padded.heads):
        first, second = (found.heads[n] for found in alone)
        for name, weights in (
            ("query_pulse", (40, 60)),
            ("valid_columns", (40, 60)),
            ("key_level", (40, 60)),
            ("score_pulse", (40 * first.valid_columns, 60 * second.valid_columns)),
        ):
            mean = sum(w * getattr(h, name) for w, h in zip(weights, (first, second), strict=True)) / sum(
                weights
            )
            assert getattr(head, name) == pytest.approx(mean, rel=1e-4), name


def test_batches_add_up_and_json_returns(ids: torch.Tensor) -> None:
    model = attached(micro_design())
    whole = measure_activity(model, [ids], "text")
    steps: list[tuple[int, int]] = []
    parts = measure_activity(
        model, [ids[:1], ids[1:]], "text", progress=lambda done, total, _: steps.append((done, total))
    )
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    for one, other in zip(whole.heads, parts.heads, strict=True):
        assert asdict(one) == pytest.approx(asdict(other), rel=1e-5)
    assert from_json(Activity, to_json(whole)) == whole


@pytest.mark.usefixtures("blank_figures")
def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded model on the embedded text: its second array is driven far less than the first."""
    shown: list[str] = []

    def spy(result: ActivityResult, maps: Mapping[str, str]) -> Figure:
        shown.extend(maps)
        return activity_figure(result, maps)

    monkeypatch.setattr(heads, "activity_figure", spy)
    file, figure = tmp_path / "a.json", tmp_path / "a.png"
    with pytest.raises(SystemExit) as left:
        main(["activity", "tiny", "--tokens", "96", "--sequences", "2", "--threads", "1", "--json", str(file),
              "--figure", str(figure)])  # fmt: skip
    assert left.value.code == 0
    assert "of the valid columns give a pulse" in " ".join(capsys.readouterr().out.split())
    result = json.loads(file.read_text())
    assert to_json(from_json(ActivityResult, result)) == result
    assert str(tmp_path) not in file.read_text()
    assert result["gains"] == "the shipped linear hardware version, trained on 6,553,600 tokens"
    assert result["activity"]["tokens"]["value"] == 192
    mean = Activity.read(file).mean()
    assert mean.valid_columns == pytest.approx(97 / 2)
    assert mean.score_pulse < mean.query_pulse / 2
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert {"query_pulse", "score_pulse", "key_level", "value_level", "output_pulse"} < set(shown)
    for arguments, message in (
        (["tiny", "--text", str(tmp_path / "none.txt")], "none.txt"),
        (["tiny", "--figure", str(tmp_path / "a.gif")], "ends with .png, .svg, .pdf"),
        (["tiny", "--tokens", "999999999"], "tiny has a context of 1024 positions; give 1024 or fewer"),
    ):
        with pytest.raises(SystemExit) as refused:
            main(["activity", *arguments])
        assert refused.value.code == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["tiny", "tiny-linear", "smollm2-135m", "smollm2-135m-extended"])
def test_committed_results_show_that_the_pulses_between_the_arrays_are_sparse(name: str) -> None:
    """Fewer columns than rows give a pulse, and the pulses are shorter, on average by ten times and more."""
    folder = Path(__file__).parents[2] / "docs" / "results" / "costs"
    mean = Activity.read(folder / f"activity-{name}.json").mean()
    assert mean.score_active < 0.5 * mean.query_active
    assert mean.score_pulse < 0.1 * mean.query_pulse


def test_what_has_no_activity(ids: torch.Tensor) -> None:
    with pytest.raises(InputError, match="a model in software has no pulses"):
        measure_activity(micro_llama(), [ids], "text")
    with pytest.raises(InputError, match="give at least one token"):
        measure_activity(attached(micro_design()), [], "text")
    with pytest.raises(InputError, match="columns of first tokens"):
        measure_activity(attached(micro_design(sinks=Sinks(tokens=4))), [ids], "text")
