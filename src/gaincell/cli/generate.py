"""`gaincell generate`: text from the hardware model, on its ring of columns."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gaincell.cli._groups import with_groups
from gaincell.cli._json import JsonFile, command_line, write_json
from gaincell.cli._options import (
    LARGEST_SEED,
    CellName,
    ChipOfModel,
    ComputingAnywhere,
    ModelOrRun,
    OtherLatency,
    RefreshOptions,
    check_needed,
    choose_chip,
)
from gaincell.errors import InputError

if TYPE_CHECKING:
    from gaincell.integrations.hf.cache import RingCache
    from gaincell.mapping.ready import Ready
    from gaincell.results.simulation import GenerationResult

app = typer.Typer()

LEAST_TEMPERATURE = 1e-3
"""Below it logits overflow before anything else than the likeliest token is drawn."""


@app.command()
@with_groups
def generate(
    context: typer.Context,
    *,
    model: ModelOrRun,
    prompt: Annotated[str, typer.Option("--prompt", metavar="TEXT", help="Beginning of the text.")],
    tokens: Annotated[int, typer.Option("--tokens", metavar="TOKENS", min=1, help="Tokens to write.")] = 256,
    design: ChipOfModel = None,
    cell: CellName = None,
    temperature: Annotated[
        float,
        typer.Option(
            "--temperature", metavar="X", min=0.0, help="Temperature of sampling; 0: the likeliest token."
        ),
    ] = 0.8,
    other_latency: OtherLatency = None,
    refresh: RefreshOptions,
    idle: Annotated[
        float, typer.Option("--at", metavar="SECONDS", min=0.0, help="Idle time between prompt and text.")
    ] = 0.0,
    stop: Annotated[bool, typer.Option(help="Stop at the end-of-text token.")] = False,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", min=0, max=LARGEST_SEED, help="Seed of sampling.")
    ] = 0,
    computing: ComputingAnywhere,
    json: JsonFile = None,
) -> None:
    """Generate text with the attention in gain-cell arrays, token by token.

    The cache is the hardware's: a ring of columns with one-byte codes and the time of each write, so memory
    does not grow however long the text. A pause (--at) lets what is stored leak; --refresh makes it fresh
    from time to time. The clock on the chip goes by the token period: the published 65 ns a layer, or, with
    --other-latency, the schedule of the arrays (gaincell simulate head) and what the rest of a layer takes.

    An embedded model runs as its shipped linear hardware version, a RUN as what it is; any other model gets
    gains from statistics alone, which is not enough to write sense. In the examples runs/tiny is what
    `gaincell map tiny` writes.

    Example: gaincell generate tiny --prompt "It was a dark night" --tokens 2000

    Example: gaincell generate runs/tiny --prompt "The President" --at 0.01

    Example: gaincell generate runs/tiny --prompt "Rain" --other-latency 50e-6 --refresh copy
    --refresh-tokens 8
    """
    if 0 < temperature < LEAST_TEMPERATURE:
        raise InputError(
            f"--temperature {temperature:g}: give {LEAST_TEMPERATURE:g} or more, or 0 for the likeliest token"
        )
    check_needed(context, ("--seed",), "sampling, at a --temperature above 0", temperature > 0)
    computing.start()
    import torch

    from gaincell.chips.design_file import load_design
    from gaincell.cli._progress import progress_bars
    from gaincell.integrations.hf.cache import RingCache
    from gaincell.integrations.hf.chip import change_chip
    from gaincell.integrations.hf.context import check_ids
    from gaincell.integrations.hf.placement import place_model
    from gaincell.mapping.ready import hardware_model

    chip = choose_chip(model, design, cell)
    policy = refresh.policy
    with progress_bars() as progress:
        ready = hardware_model(
            model,
            load_design("leroux2025"),
            chip,
            backend=computing.backend,
            dtype=computing.weights,
            progress=progress,
        )
    print(f"{model}: {ready.how}", file=sys.stderr)
    loaded = ready.loaded
    place = place_model(loaded.model, computing.device)
    made = loaded.tokenizer(prompt, return_tensors="pt", add_special_tokens=False, verbose=False)
    ids = made["input_ids"].to(place)
    if ids.numel() == 0:
        raise InputError("the prompt is empty; give --prompt TEXT")
    check_ids(loaded.model, ids)
    check_positions(loaded.model, ids.shape[1] + tokens)
    change_chip(loaded.model, other_latency=other_latency)
    cache = RingCache(loaded.model, policy)
    torch.manual_seed(seed)
    started = time.perf_counter()
    text = _write(ready, cache, ids, prompt, tokens, temperature, idle, stop)
    seconds = time.perf_counter() - started
    written = cache.get_seq_length() + 1 - ids.shape[1]
    design_used = cache.rings[0].attention.design
    print(
        f"[{written} tokens, {written / seconds:.1f} a second; ring of {design_used.window} columns, "
        f"{cache.memory / 2**20:.1f} MiB; {cache.now:.3g} s on the chip, {cache.clock.refreshes} refreshes]",
        file=sys.stderr,
    )
    write_json(json, _result(ready, cache, text, written, seconds, seed))


def check_positions(model: Any, length: int) -> None:
    """Refuse texts longer than a table of learned positions. Raises InputError."""
    from gaincell.errors import InputError
    from gaincell.integrations.hf.context import learned_positions

    positions = learned_positions(model)
    if positions is not None and length > positions:
        raise InputError(
            f"{type(model).__name__} has learned positions for {positions} tokens; "
            f"prompt and text would have {length}: give fewer --tokens, or a model with rotary positions"
        )


def _write(
    ready: Ready,
    cache: RingCache,
    ids: Any,
    prompt: str,
    tokens: int,
    temperature: float,
    idle: float,
    stop: bool,
) -> str:
    """The text, written to stdout as it comes."""
    import torch

    from gaincell.integrations.hf.cache import feed

    model, tokenizer = ready.loaded.model, ready.loaded.tokenizer
    shown = prompt
    sys.stdout.write(prompt)
    produced: list[int] = []
    with torch.inference_mode():
        logits = feed(model, cache, ids, last=True)[:, -1]
        cache.idle(idle)
        for n in range(tokens):
            token = _sample(logits, temperature)
            if stop and int(token) == tokenizer.eos_token_id:
                break
            produced.append(int(token))
            shown += _show(tokenizer, produced)
            if n + 1 < tokens:
                logits = model(input_ids=token.view(1, 1), **cache.argument).logits[:, -1]
    sys.stdout.write("\n")
    return shown


def _sample(logits: Any, temperature: float) -> Any:
    import torch

    if temperature == 0.0:
        return logits.argmax(-1)
    return torch.multinomial(torch.softmax(logits.float() / temperature, -1), 1)[:, 0]


def _show(tokenizer: Any, produced: list[int]) -> str:
    """Write what the last token adds."""
    from gaincell.integrations.hf.context import new_text

    new = new_text(tokenizer, produced)
    sys.stdout.write(new)
    sys.stdout.flush()
    return new


def _result(
    ready: Ready, cache: RingCache, text: str, written: int, seconds: float, seed: int
) -> GenerationResult:
    from gaincell.mapping.summary import base_name, chip_of
    from gaincell.results.common import NamedModel
    from gaincell.results.provenance import made
    from gaincell.results.simulation import GenerationResult

    design = cache.rings[0].attention.design
    model = NamedModel(base_name(ready.loaded.id), ready.loaded.sha256)
    return GenerationResult(
        command="generate",
        model=model,
        gains=ready.how,
        design=chip_of(design),
        text=text,
        tokens=written,
        tokens_per_second=written / seconds,
        ring_memory=cache.memory,
        chip_time=cache.now,
        refreshes=cache.clock.refreshes,
        refreshing=cache.clock.refreshing,
        writes=cache.writes,
        provenance=made(
            command=command_line(),
            seed=seed,
            protocol="generation on the ring",
            design_hash=design.hash,
            inputs={f"model {model.name}": model.sha256},
        ),
    )
