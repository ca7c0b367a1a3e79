"""The texts: the arrays that are shown are those that wrote, and the comparison is what it says it is."""

from __future__ import annotations

import copy
import json
import math
import struct
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.micro import micro_design, write_micro
from torch import Tensor
from transformers import CTRLConfig, CTRLLMHeadModel, GPTJConfig, GPTJForCausalLM

from gaincell.chips.design_file import load_design
from gaincell.circuits.converter_errors import Converters
from gaincell.costs.activity import Activity
from gaincell.demonstrator.arrays import check_head, picture, replayed
from gaincell.demonstrator.generation import Generation
from gaincell.demonstrator.pair import Pair
from gaincell.demonstrator.settings import NO_DECAY, Chip, Request, ranges
from gaincell.demonstrator.software import OWN, READING, SoftwareText
from gaincell.devices.leakage import Leakage
from gaincell.devices.variability import Mismatch
from gaincell.devices.writing import Writing
from gaincell.errors import InputError
from gaincell.integrations.hf.attach import attach, attached_layers
from gaincell.integrations.hf.checkpoint import save
from gaincell.integrations.hf.context import tabulated_positions
from gaincell.integrations.hf.models import load_model
from gaincell.integrations.hf.reparametrisation import add_part
from gaincell.mapping.load_hardware import adapted_model, hardware_model
from gaincell.quantity import Quantity

from .conftest import small

ADAPTED = "gaincell.mapping.load_hardware.ADAPTATION_TOKENS"
PROMPT = "It was a dark night, and the old man looked down to the lake, where his brother had gone. "


def written(pair: Pair, chip: Chip | None = None, prompt: str = PROMPT, **changes: Any) -> Generation:
    """A text that is finished."""
    request = replace(Request(prompt, 6, 0.8, 0), **changes)
    chip = chip or Chip.of(pair.design)
    generation = Generation(pair, request, chip)
    while not generation.done:
        generation.turn(chip)
    return generation


def disturbed(pair: Pair, **changes: float) -> Chip:
    return replace(Chip.of(pair.design), **({"mismatch": 0.03, "noise": 0.01, "idle": 2e-6} | changes))


def check_replay(generation: Generation) -> None:
    """The arrays shown give the digital sums that the layers' own attention gave."""
    snapshot, pair = generation.snapshot, generation.pair
    assert snapshot is not None
    for layer in range(len(pair.layers)):
        trace = replayed(generation, layer)
        steps = trace.design.readout_steps
        apart = (trace.output[0] - snapshot.layers[layer]["out"]).abs() * steps
        assert apart.max() < 1 + 1e-3  # one count where a charge lies on a threshold
        assert (apart > 1e-3).double().mean() < 0.01


@pytest.mark.parametrize("chip", ["designed", "disturbed", "leaky"])
def test_arrays_shown_are_those_that_wrote(chip: str) -> None:
    pair = small()
    chips = {
        "designed": Chip.of(pair.design),
        "disturbed": disturbed(pair),
        "leaky": disturbed(pair, retention_time=4e-5),
    }
    generation = written(pair, chips[chip], PROMPT * 3)  # the ring goes round
    assert generation.ring.get_seq_length() > pair.design.window
    check_replay(generation)


@pytest.mark.slow
def test_arrays_of_a_chip_with_everything() -> None:
    pair = small(
        cell="polynomial",
        writing=Writing(error_std=0.02),
        leakage=Leakage(spread=0.3, read_disturb=1e-4, decay_voltage=0.3),
        converters=Converters(ramp_gain_std=0.02, comparator_offset_std=0.01),
    )
    check_replay(written(pair, disturbed(pair, retention_time=1e-4)))


def test_arrays_with_signed_queries_and_a_normalising_column() -> None:
    chip = load_design("leroux2025-extended").replace(window=64, tile=16, cell="linear")
    changes = {name: getattr(chip, name) for name in ("drivers", "normaliser", "charge_to_pulse")}
    pair = small(**changes)
    generation = written(pair, prompt=PROMPT * 3)
    snapshot = generation.snapshot
    assert snapshot is not None
    trace = replayed(generation, 1)
    assert torch.allclose(trace.output[0], snapshot.layers[1]["out"], atol=1e-3)
    assert trace.key.shape[-1] == trace.query.shape[-1] == 65


def test_the_row_of_a_normaliser_is_shown(tmp_path: Path) -> None:
    folder, _ = write_micro(tmp_path)
    model = attach(load_model(str(folder)).model, micro_design())
    add_part(model, "biases")
    add_part(model, "array normalisers")
    run = str(save(model, tmp_path / "run"))
    pair = Pair(run, hardware_model(run, load_design("leroux2025")))
    assert pair.size.array_normaliser
    generation = written(pair, prompt="cell holds charge")
    found = picture(generation, 1, 0)
    assert found is not None
    header, parts = unpacked(found)
    assert bool((parts["values"][: header["held"], -1] == 127).all())


def test_an_embedded_model_on_the_cells_of_the_chip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adapted when it is loaded, and said to be."""
    monkeypatch.setattr(ADAPTED, 1024)
    ready = adapted_model("tiny", load_design("leroux2025"))
    layers = attached_layers(ready.loaded.model)
    assert layers[0].design.cell.name == "polynomial"
    assert "linear hardware version, trained on " in ready.origin
    assert "adapted in closed form to polynomial cells" in ready.origin
    assert not torch.equal(layers[0].out.gain, small().layers[0].out.gain)
    with pytest.raises(InputError, match="has no linear hardware version"):
        adapted_model("gpt2", load_design("leroux2025"))


def test_energy_is_of_the_activity_of_this_model_on_this_chip(pair: Pair) -> None:
    measured, energy = pair.activity, pair.energy(1024)
    assert measured is not None
    assert energy is not None
    assert measured.source == "sample"
    assert measured.tokens == 256
    other = copy.copy(pair)
    other.activity = Activity.assumed(pair.design)
    assert other._energy(1024) != pytest.approx(energy, rel=0.05)


def unpacked(found: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and numbers, as the page reads them."""
    size = struct.unpack("<I", found[:4])[0]
    header = json.loads(found[4 : 4 + size])
    parts = {}
    for name, part in header["parts"].items():
        count = math.prod(part["shape"])
        at = 4 + size + part["at"]
        assert at % 4 == 0
        parts[name] = np.frombuffer(found, part["type"], count, at).reshape(part["shape"])
    return header, parts


def test_a_picture_holds_what_the_ring_holds() -> None:
    pair = small()
    generation = written(pair, prompt=PROMPT * 3)
    found = picture(generation, 2, 3)
    assert found is not None
    header, parts = unpacked(found)
    ring, tokens = generation.ring.rings[2], generation.ring.get_seq_length()
    assert header["tokens"] == tokens
    assert header["column"] == (tokens - 1) % 64
    assert header["held"] == 64
    keys, values = (u[0, 1] for u in ring.held())  # of key/value head 1: query heads 2 and 3
    left = torch.exp(-torch.from_numpy(parts["ages"].astype(np.float64)) / pair.design.tau)[:, None]
    for name, u in (("keys", keys), ("values", values)):
        assert np.abs(parts[name] / 127 * header["reach"] - (u * left).numpy()).max() < 0.45 / 127
    ages = np.sort(parts["ages"])
    assert np.allclose(np.diff(ages), pair.design.token_period, rtol=1e-3)
    assert parts["ages"][header["column"]] == 0
    assert ((parts["pulses"] > 0) == (parts["scores"] > 0)).all()
    assert np.allclose(parts["tiles"].sum(0), parts["output"], atol=1e-6)


def test_no_picture_without_a_token_or_a_head(pair: Pair) -> None:
    generation = Generation(pair, Request(PROMPT, 5, 0.0, 0), Chip.of(pair.design))
    assert picture(generation, 0, 0) is None
    with pytest.raises(InputError, match="there is no layer 6; allowed: 0 to 5"):
        check_head(pair.layers, 6, 0)
    with pytest.raises(InputError, match="there is no head 4"):
        check_head(pair.layers, 0, 4)


def reference(pair: Pair, ids: list[int]) -> Tensor:
    with torch.no_grad():
        return pair.software(input_ids=torch.tensor([ids])).logits[0]


def test_software_text_is_the_software_model(pair: Pair) -> None:
    """Two rows in one batch equal the model alone, on either text."""
    ids = pair.tokens_of(PROMPT)
    text = SoftwareText(pair.software, 1024, pair.own_windows)
    with torch.no_grad():
        text.read(torch.tensor([ids[:-1]]))
        text.write(ids[-1], ids[-1])
        found = text.write(5, 9)
    assert torch.allclose(found[OWN], reference(pair, [*ids, 5])[-1], atol=1e-3)
    assert torch.allclose(found[READING], reference(pair, [*ids, 9])[-1], atol=1e-3)


def test_software_sees_a_window(pair: Pair) -> None:
    """One layer alone: with more layers, tokens reach further through those between."""
    model = copy.deepcopy(pair.software)
    model.model.layers = model.model.layers[:1]
    ids = pair.tokens_of(PROMPT * 3)
    window = 16
    text = SoftwareText(model, window, [None])
    with torch.no_grad():
        for at in range(0, len(ids) - 1, 7):
            text.read(torch.tensor([ids[at : min(at + 7, len(ids) - 1)]]))
        found = text.write(ids[-1], ids[-1])[OWN]
        positions = torch.arange(len(ids) - window, len(ids))[None]
        expected = model(input_ids=torch.tensor([ids[-window:]]), position_ids=positions).logits[0, -1]
    assert torch.allclose(found, expected, atol=1e-3)


def test_texts_part_only_where_models_do(pair: Pair) -> None:
    """The software model against itself: no distance, and the same text in spite of the temperature."""
    chip = Chip.of(pair.design)
    generation = Generation(pair, Request(PROMPT, 12, 1.0, 3), chip)
    generation.pair = copy_with_software_as_hardware(pair)
    tokens: list[dict[str, Any]] = []
    while not generation.done:
        tokens += [event for event in generation.turn(chip) if event["kind"] == "token"]
    assert all(event["same"] for event in tokens)
    assert max(event["bits"] for event in tokens) < 1e-4
    assert generation.texts[0] == generation.texts[1]


def test_distance_is_the_divergence_of_the_distributions(pair: Pair) -> None:
    generation = Generation(pair, Request(PROMPT, 1, 0.0, 0), Chip.of(pair.design))
    events = generation.turn(Chip.of(pair.design)) + generation.turn(Chip.of(pair.design))
    event = events[-1]
    ids = generation.prompt
    with torch.no_grad():
        hardware = pair.hardware(input_ids=torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)
    software = reference(pair, ids)[-1].double().log_softmax(-1)
    bits = torch.nn.functional.kl_div(hardware, software, log_target=True, reduction="sum") / math.log(2)
    assert event["bits"] == pytest.approx(float(bits), rel=1e-2)
    assert event["p_hardware"] == pytest.approx(float(hardware.max().exp()), rel=1e-2)
    assert event["p_software"] == pytest.approx(float(software[hardware.argmax()].exp()), rel=1e-2)


def test_the_same_request_gives_the_same_text() -> None:
    pair = small()
    one, two = (written(pair, prompt="Rain fell") for _ in range(2))
    other = written(pair, prompt="Rain fell", seed=1)
    assert one.texts == two.texts
    assert one.texts != other.texts


def test_a_chip_changed_between_tokens() -> None:
    """What is stored stays as it is at that moment, and leaks with the new time constant from then on."""
    pair = small()
    designed = Chip.of(pair.design)
    generation = written(pair, replace(designed, retention_time=5e-5))

    def left(tau: float) -> Tensor:
        return torch.exp(-(generation.ring.now - generation.ring.tokens.write_times[0, :20]) / tau)

    before = left(5e-5)
    generation._change(replace(designed, retention_time=1e-3))
    assert torch.allclose(left(1e-3), before, atol=1e-12)
    generation._change(replace(designed, retention_time=NO_DECAY))
    assert torch.allclose(left(NO_DECAY), before, atol=1e-9)
    assert generation.design.retention_time == NO_DECAY
    generation._change(designed)
    assert torch.allclose(left(5e-3), before, atol=1e-9)


def test_ages_are_of_the_clock_whatever_the_slider_did() -> None:
    pair = small()
    designed = Chip.of(pair.design)
    generation = written(pair, designed)
    for tau in (1e-3, 5e-2):
        chip = replace(designed, retention_time=tau)
        generation.tokens += 1
        generation.turn(chip)
    found = picture(generation, 0, 0)
    assert found is not None
    header, parts = unpacked(found)
    held, period = header["held"], pair.design.token_period
    assert np.allclose(np.sort(parts["ages"])[-held:], period * np.arange(held), rtol=1e-3)
    ring = generation.ring.rings[0].held()[0][0, 0][0]
    left = np.exp(-parts["decayed"][0] / header["retention_time"])
    assert np.abs(parts["keys"][0] / 127 * header["reach"] - ring.numpy() * left).max() < 0.45 / 127


def test_an_ideal_chip_can_be_made_to_leak() -> None:
    pair = small(retention_time=None)
    designed = Chip.of(pair.design)
    assert designed.retention_time == NO_DECAY
    generation = written(pair)
    assert generation.design.tau is None
    generation._change(replace(designed, retention_time=1e-6))
    ages = generation.ring.now - generation.ring.tokens.write_times[0, :20]
    assert float(ages.max()) < 1e-6 * 1e-6  # stored voltages are as they were
    generation._change(designed)
    assert generation.design.retention_time == NO_DECAY


def test_idle_time_and_rests_pass_on_the_chip() -> None:
    pair = small()
    quick, slow = written(pair), written(pair, replace(Chip.of(pair.design), idle=1e-3))
    assert slow.ring.now - quick.ring.now == pytest.approx(6e-3)
    generation = Generation(pair, Request("Rain", 5, 0.0, 0), Chip.of(pair.design))
    generation.turn(Chip.of(pair.design), rests=2)
    assert generation.ring.now == pytest.approx(10e-3 + pair.design.token_period * generation.read)


def test_leaked_keys_are_felt() -> None:
    pair = small()
    designed, leaky = (
        written(pair, chip, PROMPT)
        for chip in (Chip.of(pair.design), replace(Chip.of(pair.design), retention_time=1e-6))
    )
    assert leaky._bits > 1.5 * designed._bits


def test_a_prompt_longer_than_tabulated_positions() -> None:
    from tests.integrations.families import FAMILIES

    model = FAMILIES["gpt2"]()
    positions = tabulated_positions(model)
    assert positions is not None
    assert tabulated_positions(FAMILIES["llama"]()) is None
    assert tabulated_positions(FAMILIES["opt"]()) == 256  # its table has two rows more
    sizes = {"vocab_size": 97, "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 48}
    computed = (
        GPTJForCausalLM(GPTJConfig(**sizes, rotary_dim=8)),
        CTRLLMHeadModel(CTRLConfig(**sizes, dff=48)),
    )
    assert [tabulated_positions(model) for model in computed] == [48, 48]
    stub = object.__new__(Generation)
    stub.request = Request("x", 500, 0.0, 0)
    stub.prompt = list(range(3 * positions))
    stub.pair = type("Stub", (), {"positions": positions})()
    tokens, said = stub._fitted()
    assert len(stub.prompt) + tokens == positions
    assert stub.prompt[-1] == 3 * positions - 1
    assert said is not None
    assert f"the last {len(stub.prompt)} are read" in said
    stub.request, stub.prompt = Request("x", positions, 0.0, 0), list(range(10))
    assert stub._fitted()[0] == positions - 10
    assert len(stub.prompt) == 10


def test_the_retention_time_of_a_fit_moves_beyond_its_confidence_interval() -> None:
    design = load_design("leroux2025")
    fitted = Quantity(design.retention_time, "s", "F", (4.9e-3, 5.1e-3))
    measured = replace(design, provenance={**design.provenance, "retention_time": fitted})
    assert ranges(measured)["retention_time"] == (1e-9, NO_DECAY)
    moved = Chip.read(asdict(replace(Chip.of(measured), retention_time=1e-3)), measured).on(measured)
    assert moved.retention_time == 1e-3
    assert ranges(moved)["retention_time"] == (1e-9, NO_DECAY)
    assert ranges(design)["retention_time"] == design.provenance["retention_time"].range


def test_a_mismatch_takes_the_place_of_a_measured_one() -> None:
    """Of the measured cells, those stay that are stuck."""
    covariance = tuple(float(n) for n in torch.eye(4).flatten())
    measured = load_design("leroux2025").replace(
        mismatch=Mismatch(gain_std=0.1, coefficient_covariance=covariance, dead=0.01, chip=3)
    )
    chip = Chip.of(measured)
    assert chip.on(measured) is measured
    moved = replace(chip, mismatch=0.05).on(measured).mismatch
    assert moved == Mismatch(current_offset_std=0.05, dead=0.01, chip=3)


def test_settings_are_checked(pair: Pair) -> None:
    good = {"retention_time": 5e-3, "mismatch": 0.0, "noise": 0.0, "idle": 0.0}
    assert Chip.read(good, pair.design) == Chip.of(pair.design)
    assert Chip.of(pair.design).on(pair.design) is pair.design
    varied = pair.design.replace(mismatch=replace(pair.design.mismatch, current_offset_std=0.4))
    assert Chip.read(good | {"mismatch": 0.4, "noise": 0.1}, varied).mismatch == 0.4
    for wrong in (
        None,
        [],
        {},
        good | {"noise": True},
        good | {"idle": float("nan")},
        good | {"idle": 10**400},
    ):
        with pytest.raises(InputError, match="allowed: a number"):
            Chip.read(wrong, pair.design)
    with pytest.raises(InputError, match=r"mismatch = 2; allowed: a number from 0 to 0\.3"):
        Chip.read(good | {"mismatch": 2}, pair.design)
    with pytest.raises(InputError, match="the chip: unknown key 'chip'"):
        Chip.read(good | {"chip": 1}, pair.design)
    text = {"prompt": "Rain", "tokens": 3, "temperature": 0.5, "seed": 7}
    assert Request.read(text) == Request("Rain", 3, 0.5, 7)
    for wrong, said in (
        ({"prompt": " \n"}, "the prompt is empty"),
        ({"prompt": 3}, "needs a prompt"),
        ({"prompt": "x" * 50_001}, "50,001 characters; allowed: up to 50,000"),
        ({"prompt": "\ud800"}, "half of a character"),
        ({"tokens": 2.5}, "a whole number from 1 to 4000"),
        ({"tokens": 0}, "allowed"),
        ({"temperature": -1}, "allowed"),
        ({"seed": None}, "allowed"),
    ):
        with pytest.raises(InputError, match=said):
            Request.read(text | wrong)
    assert micro_design().provenance["retention_time"].range == (1e-9, 1e6)


def copy_with_software_as_hardware(pair: Pair) -> Any:
    """A pair whose hardware is its software model."""
    text = SoftwareText(pair.software, pair.design.window, pair.own_windows)

    def hardware(input_ids: Tensor, **_: Any) -> Any:
        return SimpleNamespace(logits=text.read(input_ids)[:, None])

    found = copy.copy(pair)
    found.hardware = hardware  # type: ignore[assignment]
    return found
