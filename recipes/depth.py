"""How far does information travel through a window? Perplexity against context, for models of several depths.

    python recipes/depth.py --text DIRECTORY --out RUN

A layer sees the M tokens of its ring; stacked layers hand on what they saw, so that L layers can use
L (M - 1) tokens before the last one. Whether they do is measured here. The embedded model's linear hardware
version is cut to its first L layers, given a ring of M columns, and trained briefly (all but the embeddings)
on blocks of 1024 tokens, many times M; then the same tokens of validation text are predicted from more and
more tokens before them. One more model keeps all layers and a ring of 1024 columns, trained alike.

RUN/context.json holds the curves (docs/results/context/context.json, drawn by docs/readme.py). The same
command goes on after an interruption.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import nn

from gaincell.chips.design_file import load_design
from gaincell.cli._progress import progress_bars
from gaincell.errors import InputError
from gaincell.evaluation.context import describe_context, perplexity_by_context
from gaincell.integrations.hf.attach import attached_layers, set_design
from gaincell.integrations.hf.checkpoint import read_state, trained_parameters, write_state
from gaincell.integrations.hf.run import read_metadata
from gaincell.mapping.engine import freeze_embeddings
from gaincell.mapping.load_hardware import hardware_model
from gaincell.progress import Progress
from gaincell.results import provenance, write
from gaincell.results.common import Named
from gaincell.results.evaluation import ContextCurve, ContextPoint, DepthResult
from gaincell.text import open_text, token_stream
from gaincell.training.checkpoint import remove
from gaincell.training.data import pack_blocks
from gaincell.training.loop import TrainSettings, train

WINDOW, CONTEXT = 64, 1024
MODELS = ((1, WINDOW), (2, WINDOW), (4, WINDOW), (6, WINDOW), (6, CONTEXT))  # layers, columns
STEPS, EVALUATED = 100, 128  # optimiser steps; blocks
SETTINGS = TrainSettings(
    learning_rate=1e-3, scale_learning_rate=5e-3, warmup_steps=10, batch=4, micro_batch=2, checkpoint_every=20
)
SEED = 0


def main(
    text: Annotated[str, typer.Option(metavar="TEXT", help="A directory of .train and .valid texts.")],
    out: Annotated[Path, typer.Option(metavar="RUN", help="Where results are kept.")] = Path("runs/depth"),
) -> None:
    """Perplexity against context length, for rings of 64 columns and several depths."""
    out.mkdir(parents=True, exist_ok=True)
    design = load_design("leroux2025").replace(cell="linear")
    found_text = open_text(text)
    with progress_bars() as progress:
        tokenizer = hardware_model("tiny", design).loaded.tokenizer
        needed = STEPS * SETTINGS.batch * (CONTEXT + 1) * 2
        training = token_stream(found_text.training, tokenizer, needed, progress("tokenise"))
        blocks = pack_blocks(training, CONTEXT, SEED)[: STEPS * SETTINGS.batch]
        tokens = token_stream(found_text.evaluation, tokenizer, EVALUATED * CONTEXT)
        if len(blocks) < STEPS * SETTINGS.batch:
            raise InputError(f"{text}: {len(blocks)} blocks; give a text with {STEPS * SETTINGS.batch}")
        curves = []
        for layers, window in MODELS:
            name = f"{layers} layers, {window} columns"
            ready = hardware_model("tiny", design)
            model = cut(ready.loaded.model, layers, window)
            trained(model, blocks, out / f"{layers}-{window}", progress(f"train {name}"))
            found = perplexity_by_context(model, tokens, CONTEXT, progress=progress(f"evaluate {name}"))
            curves.append(curve(found, layers, window))
    result = DepthResult(
        training_tokens=STEPS * SETTINGS.batch * CONTEXT,
        text=Named(found_text.name),
        curves=tuple(curves),
        provenance=provenance.made(
            command=["python", *sys.argv],
            seed=SEED,
            protocol=describe_context(CONTEXT, len(tokens) // CONTEXT),
            design_hash=design.hash,
            inputs={"model tiny": ready.loaded.sha256, "evaluation text": provenance.hash_of(tokens)},
        ),
    )
    write(result, out / "context.json")


def cut(model: Any, layers: int, window: int) -> Any:
    """The first layers of an attached Llama, on rings of `window` columns."""
    model.model.layers = nn.ModuleList(model.model.layers[:layers])
    model.config.num_hidden_layers = layers
    return set_design(model, attached_layers(model)[0].design.replace(window=window))


def trained(model: Any, blocks: Any, name: Path, progress: Progress) -> None:
    """Train `model`, or read what an earlier run has trained."""
    done, checkpoint = name.with_suffix(".safetensors"), name.with_suffix(".checkpoint")
    made_of = {"text": provenance.hash_of(blocks), "settings": repr(SETTINGS)}
    freeze_embeddings(model)
    if done.exists():
        if made_of.items() - read_metadata(done, "remove it").items():
            raise InputError(f"{done} was trained on another text or otherwise; give another --out")
        read_state(model, done)
        return
    train(model, blocks, SETTINGS, progress=progress, checkpoint=checkpoint)
    write_state(trained_parameters(model), done, made_of)
    remove(checkpoint)


def curve(points: list[ContextPoint], layers: int, window: int) -> ContextCurve:
    """What the figure needs of one model."""
    rounded = (replace(p, per_block=tuple(round(x, 6) for x in p.per_block)) for p in points)
    return ContextCurve(layers, window, tuple(rounded))


if __name__ == "__main__":
    typer.run(main)
