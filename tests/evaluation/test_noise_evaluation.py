"""Spreads over blocks and the noise of reads: what they hold, and what an evaluation says about it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from context import context_sentences
from tests.micro import micro_design, micro_llama, write_micro

from gaincell.circuits.noise import Noise
from gaincell.cli import main
from gaincell.errors import InputError
from gaincell.evaluation.ablation import ablate
from gaincell.evaluation.pause import perplexity_after_pause
from gaincell.evaluation.perplexity import perplexity
from gaincell.integrations.hf.attach import attach, attached_layers
from gaincell.integrations.hf.base_model import load_base
from gaincell.integrations.hf.checkpoint import save
from gaincell.results import read
from gaincell.results.evaluation import ContextCurve, ContextPoint, DepthResult
from gaincell.standard_error import paired_ratio, ratio_error

DEPTH = Path(__file__).parents[2] / "docs" / "results" / "context" / "context.json"
ONE_DRAW = "one draw of noise, whose variance is in no ±"
SAME = torch.randint(0, 97, (64,), generator=torch.Generator().manual_seed(2)).repeat(8)
"""A text of eight equal blocks: whatever differs between them is noise."""


def noisy(strength: float = 0.1) -> Any:
    return attach(micro_llama(), micro_design(noise=Noise(output_std=strength, seed=5)))


def test_equal_blocks_meet_equal_noise_unless_it_is_drawn_anew() -> None:
    model = noisy()
    own = attached_layers(model)[0].design
    one = perplexity(model, SAME, "blocks-64")
    assert one.standard_error == pytest.approx(0, abs=1e-9)
    assert ONE_DRAW in one.protocol
    anew = perplexity(model, SAME, "blocks-64", redraw=True)
    assert attached_layers(model)[0].design == own
    assert "redrawn for every block" in anew.protocol
    assert anew.per_block[0] == pytest.approx(one.per_block[0], rel=1e-6)  # draw 0 is the design's own
    assert len({nll for nll, _ in anew.per_block}) == 8
    for n, (nll, _) in enumerate(anew.per_block):
        attached_layers(model)[0].design, attached_layers(model)[1].design = [own.redrawn(n)] * 2
        assert perplexity(model, SAME[:64], "blocks-64").nll == pytest.approx(nll, rel=1e-6)
    losses, counts = zip(*anew.per_block, strict=True)
    assert anew.standard_error == ratio_error(losses, counts)
    assert anew.standard_error > 1e-4


def test_only_noisy_chips_have_the_remark() -> None:
    quiet = attach(micro_llama(), micro_design())
    assert "noise" not in perplexity(quiet, SAME, "blocks-64").protocol
    assert "noise" not in perplexity(micro_llama(), SAME, "blocks-64").protocol
    for model in (quiet, micro_llama()):
        with pytest.raises(InputError, match="no noise to redraw"):
            perplexity(model, SAME, "blocks-64", redraw=True)
    assert ONE_DRAW in ablate(noisy(), SAME[:128], "blocks-64").protocol
    assert ONE_DRAW in perplexity_after_pause(noisy(), SAME[:128], 0.0, 64).protocol


@pytest.mark.slow
def test_every_command_that_prints_a_spread_says_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, text = write_micro(tmp_path)
    save(
        attach(load_base(model).model, micro_design(noise=Noise(output_std=0.03))),
        tmp_path / "run",
        base=load_base(model),
    )

    def protocol(*arguments: str) -> str:
        out = tmp_path / "out.json"
        asked = [arguments[0], str(tmp_path / "run"), "--text", str(text), "--limit", "256", *arguments[1:]]
        with pytest.raises(SystemExit) as ended:
            main([*asked, "--json", str(out)])
        assert ended.value.code == 0
        said = " ".join(capsys.readouterr().out.split())
        found = str(json.loads(out.read_text())["provenance"]["protocol"])
        assert found[-40:] in said
        return found

    for arguments in (
        ["evaluate"],
        ["evaluate", "--at", "0"],
        ["evaluate", "--by-context"],
        ["ablate"],
        ["adapt", "--cell", "x3", "--calibration-tokens", "256"],
    ):
        assert ONE_DRAW in protocol(*arguments), arguments
    assert "redrawn for every block" in protocol("evaluate", "--redraw-noise")
    for pause in ([], ["--at", "0"]):
        said = protocol("evaluate", "--chips", "2", "--mismatch", "5%", *pause)
        assert "each chip meets a draw of noise of its own, which the spread over chips holds" in said
        assert ONE_DRAW not in said
    refreshed = [*pause, "--refresh", "copy", "--refresh-seconds", "1e-3"]
    said = protocol("evaluate", "--chips", "2", "--mismatch", "5%", *refreshed)
    assert "0 s, refresh copy every 0.001 s" in said
    protocol("ablate", "--mismatch", "2.5%")
    chip, *_ = json.loads((tmp_path / "out.json").read_text())["ablation"]
    assert (chip["name"], chip["meaning"]) == ("chip", "with cells that spread by 2.5 %")


def test_what_the_curves_of_context_tell_apart() -> None:
    def curve(window: int, losses: list[float] | None, perplexity: float) -> ContextCurve:
        *points, last = (
            ContextPoint(context, perplexity, excess, error)
            for context, excess, error in [(4, 0.05, 0.01), (8, 0.01, 0.01), (16, 0.0, 0.0)]
        )
        return ContextCurve(2, window, (*points, replace(last, per_block=tuple(losses or ()))))

    def said(short: list[float] | None, long: list[float] | None) -> str:
        curves = (curve(64, short, 85.87), curve(1024, long, 85.58))
        return context_sentences(replace(read(DEPTH, DepthResult), curves=curves))

    assert "on 64 columns 8 tokens of context are not told apart from all 16" in said(None, None)
    assert "85.9, the long one of 85.6; losses of single blocks were not stored" in said(None, None)
    assert "neither ring is shown to be better" in said(None, None)
    assert said([4.1, 4.5, 4.2], [4.2, 4.4, 4.2]).endswith("of the long one's perplexity: not told apart.")
    assert said([4.21, 4.42, 4.22], [4.2, 4.4, 4.2]).endswith("of the long one's perplexity.")


def test_a_paired_ratio_is_that_of_the_perplexities() -> None:
    ours, theirs, weights = [70.0, 80.0, 75.0], [69.0, 78.5, 74.5], [31.0, 31.0, 31.0]
    ratio, error = paired_ratio(ours, theirs, weights)
    nats = torch.tensor([1.0, 1.5, 0.5], dtype=torch.float64) / 31
    assert ratio == pytest.approx(float(nats.mean().exp()))
    assert error == pytest.approx(ratio * float(nats.std()) / 3**0.5)
    assert paired_ratio([1.0], [2.0], [1.0])[1] is None
