"""One rule of how many tokens a model reads at once: its context, in every command; beyond it a refusal."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.micro import micro_design, micro_llama, micro_text
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from gaincell.adaptation import collect_statistics
from gaincell.circuits.sinks import Sinks
from gaincell.cli import main
from gaincell.errors import InputError
from gaincell.evaluation.ablation import ablate
from gaincell.evaluation.activity import measure_activity
from gaincell.evaluation.context import perplexity_by_context
from gaincell.evaluation.dump import dump_layer
from gaincell.evaluation.fidelity import fidelity
from gaincell.evaluation.pause import perplexity_after_pause
from gaincell.evaluation.perplexity import perplexity
from gaincell.evaluation.rolling import rolling_perplexity
from gaincell.integrations.hf.attach import attach
from gaincell.integrations.hf.base_model import load_base
from gaincell.integrations.hf.checkpoint import save
from gaincell.mapping.codesign import CodesignSettings, codesign_model
from gaincell.mapping.pipeline import map_model
from gaincell.mapping.settings import MapSettings
from gaincell.reports.html.page import page
from gaincell.reports.html.parts import Result
from gaincell.results.codec import from_json
from gaincell.results.evaluation import AblationResult
from gaincell.training.data import train_tokenizer

POSITIONS = 128
Place = tuple[Path, Path, Path]
TOKENS = torch.randint(0, 97, (1200,), generator=torch.Generator().manual_seed(2))
REFUSED = "gpt2 has a context of 128 positions; give 128 or fewer"


def gpt2() -> GPT2LMHeadModel:
    """Random weights and a table of 128 learned positions."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=300, n_positions=POSITIONS, n_embd=32, n_layer=2, n_head=2, bos_token_id=0,
        eos_token_id=0, initializer_range=0.2,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A RUN on a ring of 256 columns, its model, and a text."""
    folder = tmp_path_factory.mktemp("learned")
    text = folder / "words.txt"
    text.write_text(micro_text(30), encoding="utf-8")
    tokenizer = train_tokenizer(micro_text().split("\n<|endoftext|>\n"), 300)
    gpt2().save_pretrained(folder / "gpt2")
    fast: Any = PreTrainedTokenizerFast
    fast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(folder / "gpt2")
    design = micro_design().replace(window=256)
    save(attach(load_base(folder / "gpt2").model, design), folder / "run", base=load_base(folder / "gpt2"))
    return folder / "run", folder / "gpt2", text


def ran(tmp_path: Path, *arguments: object) -> dict[str, Any]:
    """The --json of a command that ends well."""
    out = tmp_path / "out.json"
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments), "--json", str(out)])
    assert ended.value.code == 0
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
    assert ended.value.code == 2
    return capsys.readouterr().err


BEYOND = {
    "evaluate": ["--protocol", "blocks-1024"],
    "evaluate, strided": ["--protocol", "strided-256-128"],
    "evaluate, rolling": ["--protocol", "rolling-129"],
    "evaluate, pauses": ["--protocol", "blocks-256", "--at", "0"],
    "evaluate, by context": ["--protocol", "blocks-256", "--by-context"],
    "ablate": ["--protocol", "blocks-129"],
    "adapt": ["--cell", "x3", "--protocol", "blocks-256"],
    "fidelity": ["--tokens", "129"],
    "activity": ["--tokens", "1024"],
    "cost": ["--tokens", "512", "--no-measure"],
}


@pytest.mark.parametrize("what", BEYOND)
def test_beyond_the_context_every_command_refuses_by_name(
    what: str, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    command = what.partition(",")[0]
    said = refused(capsys, command, place[0], "--text", place[2], *BEYOND[what])
    assert REFUSED in " ".join(said.split())
    assert "Traceback" not in said


def test_a_text_beyond_the_learned_positions_is_refused_before_the_calibration(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def calibrate(*_: object, **__: object) -> None:
        pytest.fail("calibrated")

    monkeypatch.setattr("gaincell.mapping.load_hardware.calibrate", calibrate)
    said = refused(capsys, "generate", place[1], "--prompt", "cell", "--tokens", POSITIONS)
    assert "has positions for 128 tokens" in " ".join(said.split())


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
def test_by_default_every_command_takes_the_context(place: Place, tmp_path: Path) -> None:
    run, _, text = place
    evaluated = ran(tmp_path, "evaluate", run, "--text", text)
    ablated = ran(tmp_path, "ablate", run, "--text", text)
    adapted = ran(tmp_path, "adapt", run, "--text", text, "--cell", "x3")
    for found in (evaluated, ablated, adapted):
        assert found["provenance"]["protocol"].startswith("blocks-128:")
    assert [found["command"] for found in (evaluated, ablated, adapted)] == ["evaluate", "ablate", "adapt"]
    assert "<td>ablate</td>" in re.sub(
        ' class="[^"]*"', "", page([Result("ablated", from_json(AblationResult, ablated))], None)
    )
    row = ablated["ablation"][0]
    assert (row["kind"], row["name"]) == ("off", "chip")
    assert row["perplexity"]["value"] == evaluated["perplexity"]["value"]
    assert adapted["stages"][0]["perplexity"]["value"] == evaluated["perplexity"]["value"]
    for command in ("fidelity", "activity"):
        protocol = ran(tmp_path, command, run, "--text", text)["provenance"]["protocol"]
        assert protocol.startswith("1 x 128 tokens")
    chip = micro_design(sinks=Sinks(tokens=4)).save(tmp_path / "sinks.toml")
    said = ran(tmp_path, "fidelity", run, "--text", text, "--design", chip)["provenance"]["protocol"]
    assert said.endswith("numbers of the circuits: first tokens taken as columns of the ring")
    assert ran(tmp_path, "cost", run, "--text", text, "--no-measure")["activity"]["tokens"]["value"] == 128
    for option in (["--at", "0"], ["--by-context"]):
        protocol = ran(tmp_path, "evaluate", run, "--text", text, *option)["provenance"]["protocol"]
        assert protocol.partition(":")[0] in ("pause-128", "context-128")


def test_a_smaller_ring_does_not_change_the_protocol(place: Place, tmp_path: Path) -> None:
    """What a ring of 32 columns forgets shows in the same blocks, not in blocks of 32."""
    run, _, text = place
    small = tmp_path / "small.toml"
    small.write_text(
        'extends = "leroux2025"\nname = "small"\n'
        'window = { value = 32, unit = "1", source = "U", range = [1, 4096] }\n'
        'tile = { value = 16, unit = "1", source = "U", range = [1, 4096] }\n'
    )
    found = ran(tmp_path, "adapt", run, "--text", text, "--design", small)
    assert found["provenance"]["protocol"].startswith("blocks-128:")
    evaluated = ran(tmp_path, "evaluate", run, "--text", text, "--window", 32)
    assert evaluated["provenance"]["protocol"].startswith("blocks-128:")
    chosen = ran(tmp_path, "adapt", run, "--text", text, "--design", small, "--protocol", "blocks-32")
    assert chosen["provenance"]["protocol"].startswith("blocks-32:")


def test_beyond_the_context_every_call_refuses_by_name(place: Place, tmp_path: Path) -> None:
    base = gpt2()
    model = attach(gpt2(), micro_design().replace(window=256))
    ids = TOKENS[None, :129]
    calls: dict[str, Callable[[], object]] = {
        "perplexity": lambda: perplexity(model, TOKENS, "blocks-129"),
        "in software": lambda: perplexity(base, TOKENS, "blocks-129"),
        "ablate": lambda: ablate(model, TOKENS, "blocks-1024"),
        "by context": lambda: perplexity_by_context(model, TOKENS, 256),
        "after a pause": lambda: perplexity_after_pause(model, TOKENS, 0.0, 256),
        "fidelity": lambda: fidelity(model, base, ids),
        "activity": lambda: measure_activity(model, [ids], "words"),
        "dump": lambda: dump_layer(model, ids, 0, tmp_path / "layer.safetensors"),
        "statistics": lambda: collect_statistics(model, [ids]),
    }
    for name, call in calls.items():
        with pytest.raises(InputError, match="tokens at once") as caught:
            call()
        assert "GPT2LMHeadModel has a context of 128 positions; give 128 or fewer" in str(caught.value), name
    assert not list(tmp_path.iterdir())
    assert perplexity(model, TOKENS).protocol.startswith("blocks-128:")
    assert perplexity(micro_llama(), TOKENS).protocol.startswith("blocks-64:")

    class Tokenizer:
        eos_token_id = 0

        def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
            return {"input_ids": [1] * len(text)}

    with pytest.raises(InputError, match="context of 128"):
        rolling_perplexity(base, Tokenizer(), ["a" * 300], 256)


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
def test_map_and_codesign_take_the_context(place: Place, tmp_path: Path) -> None:
    run, model, text = place
    design = micro_design().replace(window=32)
    settings = {"model": str(model), "design": design, "text": str(text), "evaluation_tokens": 256}
    with pytest.raises(InputError, match=REFUSED):
        map_model(MapSettings(**settings, block=256), tmp_path / "long")  # type: ignore[arg-type]
    asked = MapSettings(**settings, budget=4 * 128, calibration_tokens=256, published=False)  # type: ignore[arg-type]
    mapped = map_model(asked, tmp_path / "mapped")
    assert mapped.provenance.protocol.startswith("blocks-128:")
    learned = codesign_model(
        CodesignSettings(
            str(run), design, steps=1, batch=1, text=str(text), evaluation_tokens=256, calibration_tokens=128
        ),
        design,
    )
    assert learned.provenance.protocol.startswith("blocks-128:")
