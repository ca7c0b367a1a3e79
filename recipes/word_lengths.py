"""Bits that the scaling stages of the digital half need: codes and perplexity of `tiny` by word length.

    python recipes/word_lengths.py [--limit TOKENS] [--out FILE]

Equation (3) of every head is computed as the generated hardware does (gaincell/rtl/fixed_point.py): words
and gains as wide as a code and some guard bits, exact products, the output rounded to the bits of the sum.
Counted are the codes that differ from those of the exact stage on the same inputs.

Writes docs/results/rtl/word-lengths.json, or FILE; docs/rtl.md shows it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from gaincell.chips.design_file import load_design
from gaincell.circuits import dac_code, query_code
from gaincell.cli._progress import progress_bars
from gaincell.errors import InputError
from gaincell.evaluation.perplexity import perplexity
from gaincell.integrations.hf.attach import computing_layers
from gaincell.mapping.load_hardware import hardware_model
from gaincell.results import write
from gaincell.results.provenance import made
from gaincell.results.rtl import WordLength, WordLengthsResult
from gaincell.rtl import fixed_point
from gaincell.rtl.parameters import Parameters
from gaincell.text import open_text, token_stream

OUT = Path(__file__).parents[1] / "docs" / "results" / "rtl" / "word-lengths.json"
GUARD_BITS = (0, 2, 3, 4, 6, 8)


class Stages:
    """The stages of a model's heads in fixed point; counts the codes that come out different."""

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self.different = dict.fromkeys("qkv", 0)
        self.codes = dict.fromkeys("qkv", 0)

    def hook(self, name: str) -> Any:
        """For a Scaler: what it gives instead."""

        def replaced(module: nn.Module, inputs: tuple[Tensor, ...], exact: Tensor) -> Tensor:
            gain, offset = (getattr(module, key).double().tolist() for key in ("gain", "offset"))
            rows = module.rows(*inputs)
            heads = [
                self._head(name, rows[:, h], a, b) for h, (a, b) in enumerate(zip(gain, offset, strict=True))
            ]
            found = torch.stack(heads, 1)
            if name in self.codes:
                same = self._codes(name, found) == self._codes(name, exact)
                self.different[name] += int((~same).sum())
                self.codes[name] += same.numel()
            return found.to(exact.dtype)

        return replaced

    def _head(self, name: str, x: Tensor, gain: float, offset: float) -> Tensor:
        p = self.parameters
        if name == "out":
            stage = fixed_point.output_stage(p, gain, offset)
            sums = torch.round(x.double() * (p.design.counter_levels - 1)).long()
            return fixed_point.results(sums, stage, p).double() * 2.0**stage.exponent
        if name == "q":
            stage = fixed_point.query_stage(p, gain, offset)
            return fixed_point.query_widths(fixed_point.words(x, stage, p.word_bits), stage, p)
        stage = fixed_point.storage_stage(p, name, gain, offset)
        return fixed_point.storage_volts(fixed_point.words(x, stage, p.word_bits), stage, p)

    def _codes(self, name: str, scaled: Tensor) -> Tensor:
        p, d = self.parameters, self.parameters.design
        if name == "q":
            return query_code(scaled, p.query_levels)
        return dac_code(scaled, p.storage_levels, d.v_min, d.v_max, d.v_offset)


def main(
    limit: Annotated[int, typer.Option(metavar="TOKENS", help="Of the sample that are evaluated.")] = 2048,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the result is written.")] = OUT,
) -> None:
    """Perplexity of tiny with scaling stages of several word lengths."""
    design = load_design("leroux2025").replace(cell="linear")
    with progress_bars() as progress:
        ready = hardware_model("tiny", design)
        model, tokenizer = ready.loaded.model, ready.loaded.tokenizer
        tokens = token_stream(open_text("sample").evaluation, tokenizer, limit, progress("tokenise"))
        layers = computing_layers(model)
        rows = layers[0].head_dim
        exact = perplexity(model, tokens, "blocks-1024", progress=progress("exact"))
        found = []
        for guard_bits in GUARD_BITS:
            stages = Stages(Parameters(layers[0].design, rows, guard_bits=guard_bits))
            hooks = [
                getattr(layer, name).register_forward_hook(stages.hook(name))
                for layer in layers
                for name in (*"qkv", "out")
            ]
            try:
                reached = perplexity(
                    model, tokens, "blocks-1024", progress=progress(f"{guard_bits} guard bits")
                )
                found.append((guard_bits, stages, reached.perplexity))
            except InputError as error:
                print(f"{guard_bits} guard bits: {error}", file=sys.stderr)
            finally:
                for hook in hooks:
                    hook.remove()
    words = (
        WordLength(
            guard_bits,
            stages.parameters.word_bits,
            reached,
            *(stages.different[name] / stages.codes[name] for name in "qkv"),
        )
        for guard_bits, stages, reached in found
    )
    result = WordLengthsResult(
        model="tiny, linear hardware model",
        exact=exact.perplexity,
        predictions=exact.tokens,
        words=tuple(words),
        provenance=made(
            command=["python", *sys.argv], seed=0, protocol=exact.protocol, design_hash=design.hash, inputs={}
        ),
    )
    write(result, out)


if __name__ == "__main__":
    typer.run(main)
