"""`gaincell generate`: text from the hardware model, on its ring of columns."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gaincell.cli import _options as options
from gaincell.cli._json import JsonFile, show_result
from gaincell.cli._options import LARGEST_SEED, check_needed, command, option
from gaincell.errors import InputError, ModelError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from gaincell.integrations.hf.ring_cache import RingCache
    from gaincell.mapping.load_hardware import LoadedHardware


LEAST_TEMPERATURE = 1e-3
"""Below it logits overflow before anything else than the likeliest token is drawn."""


@dataclass(frozen=True)
class GenerateOptions:
    """What is written, and on which chip."""

    prompt: Annotated[str, option("Beginning of the text.", "TEXT")]
    tokens: Annotated[int, option("Tokens to write.", "TOKENS", min=1)] = 256
    design: options.ChipOfModel = None
    cell: options.CellName = None
    temperature: Annotated[float, option("Sampling temperature; 0: the likeliest token.", "X", min=0.0)] = 0.8
    other_latency: options.OtherLatency = None
    refresh: options.RefreshOptions = field(default_factory=options.RefreshOptions)
    at: Annotated[float, option("Idle time between prompt and text.", "SECONDS", min=0.0)] = 0.0
    stop: Annotated[bool, option("Stop at the end-of-text token.")] = False
    seed: Annotated[int, option("Seed for sampling.", "N", min=0, max=LARGEST_SEED)] = 0

    def check(self, context: typer.Context) -> None:
        """Raise InputError for numbers that do not go together."""
        if 0 < self.temperature < LEAST_TEMPERATURE:
            raise InputError(
                f"--temperature {self.temperature:g}: give {LEAST_TEMPERATURE:g} or more, or 0 for the "
                "likeliest token"
            )
        check_needed(context, ("--seed",), "sampling, at a --temperature above 0", self.temperature > 0)

    def load(
        self, model: str, computing: options.ComputingAnywhere
    ) -> tuple[LoadedHardware, RingCache, Tensor]:
        """The model in its arrays, its ring, empty, and the prompt's tokens.

        Raises:
            GaincellError: there is no such model or chip, or the prompt does not fit.
        """
        from gaincell.cli._progress import progress_bars
        from gaincell.integrations.hf.chip import change_chip
        from gaincell.integrations.hf.context import check_ids, tabulated_positions
        from gaincell.integrations.hf.models import load_model
        from gaincell.integrations.hf.placement import place_model
        from gaincell.integrations.hf.ring_cache import RingCache
        from gaincell.mapping.load_hardware import hardware_model

        chip, policy = options.choose_chip(model, self.design, self.cell), self.refresh.policy
        default, backend = options.chip_of("leroux2025"), computing.backend
        loaded = load_model(model, computing.weights, backend=backend)
        made = loaded.tokenizer(self.prompt, return_tensors="pt", add_special_tokens=False, verbose=False)
        ids = made["input_ids"]
        if ids.numel() == 0:
            raise InputError("the prompt is empty; give --prompt TEXT")
        check_ids(loaded.model, ids)
        if self.stop and not _ends(loaded.model, loaded.tokenizer):
            raise InputError(f"--stop: neither {model} nor its tokenizer names a token that ends a text")
        length, positions = ids.shape[1] + self.tokens, tabulated_positions(loaded.model)
        if positions is not None and length > positions:
            raise InputError(
                f"{type(loaded.model).__name__} has positions for {positions} tokens; prompt and "
                f"text would have {length}: give fewer --tokens, or a model without a table of positions"
            )
        with progress_bars() as progress:
            hardware = hardware_model(model, default, chip, loaded=loaded, backend=backend, progress=progress)
        exchanged = change_chip(loaded.model, other_latency=self.other_latency)
        hardware = hardware._replace(origin=hardware.origin + exchanged)
        print(f"{model}: {hardware.origin}", file=sys.stderr)
        place = place_model(loaded.model, computing.device)
        return hardware, RingCache(loaded.model, policy), ids.to(place)

    def write(self, hardware: LoadedHardware, cache: RingCache, ids: Tensor) -> tuple[str, int, float]:
        """Write the text to stdout as it comes. The text with the prompt; tokens without it; tokens a second
        after the first, which the prompt gives; 0 where there is no other.
        """
        import torch

        from gaincell.integrations.hf.context import new_text
        from gaincell.integrations.hf.ring_cache import feed

        torch.manual_seed(self.seed)
        model, tokenizer = hardware.loaded.model, hardware.loaded.tokenizer
        ends, shown = _ends(model, tokenizer), self.prompt
        known, produced = ids[0].tolist(), list[int]()
        with torch.inference_mode():
            logits = feed(model, cache, ids, last=True)[:, -1]
            sys.stdout.write(shown)  # not before: what this pass raises gets a line of its own
            cache.idle(self.at)
            started = time.perf_counter()
            for n in range(self.tokens):
                if not bool(torch.isfinite(logits).all()):
                    raise ModelError("the model's logits are not finite; look for NaN or infinite weights")
                if self.temperature == 0.0:
                    token = logits.argmax(-1)
                else:
                    shares = torch.softmax(logits.float() / self.temperature, -1)
                    token = torch.multinomial(shares, 1)[:, 0]
                if self.stop and int(token) in ends:
                    break
                produced.append(int(token))
                new = new_text(tokenizer, [*known, *produced])
                sys.stdout.write(new)
                sys.stdout.flush()
                shown += new
                if n + 1 < self.tokens:
                    logits = model(input_ids=token.view(1, 1), **cache.argument).logits[:, -1]
        seconds = time.perf_counter() - started
        sys.stdout.write("\n")
        passes = cache.get_seq_length() - ids.shape[1]
        return shown, len(produced), passes / seconds if passes else 0.0


def _ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end a text, of the tokenizer, else of the model."""
    named: Any = tokenizer.eos_token_id
    if named is None:
        named = model.config.eos_token_id
    return named if isinstance(named, list) else [] if named is None else [named]


@command
def generate(
    context: typer.Context,
    *,
    model: options.ModelOrRun,
    asked: GenerateOptions,
    computing: options.ComputingAnywhere,
    json: JsonFile = None,
) -> None:
    """Generate text with the attention in gain-cell arrays, token by token.

    The cache is that of the hardware: a ring of columns with one-byte codes and the time of each write, so
    memory does not grow, however long the text. During a pause (--at) the stored values leak; --refresh
    renews them at intervals. Time on the chip advances by the token period: the design's own (of leroux2025
    the published 65 ns per layer) or, with --other-latency, the schedule of the arrays (gaincell simulate
    head) and the rest of a layer.

    An embedded model runs as its shipped linear hardware version, a RUN as it is; any other model gets gains
    from statistics alone, which is not enough for meaningful text. In the examples runs/tiny is what
    `gaincell map tiny` writes.

    Example: gaincell generate tiny --prompt "It was a dark night" --tokens 2000

    Example: gaincell generate runs/tiny --prompt "The President" --at 0.01

    Example: gaincell generate runs/tiny --prompt "Rain" --other-latency 50e-6 --refresh copy
    --refresh-tokens 8
    """
    asked.check(context)
    computing.start()
    from gaincell.chips.design_file import inputs_of_design
    from gaincell.chips.device_file import inputs_of_cell
    from gaincell.cli._models import head, in_arrays
    from gaincell.results.simulation import GenerationResult

    hardware, cache, ids = asked.load(model, computing)
    text, tokens, per_second = asked.write(hardware, cache, ids)
    speed = f", {per_second:.1f} a second after the prompt" if per_second else ""
    print(
        f"[{tokens} tokens{speed}; ring of {cache.tokens.columns} columns, "
        f"{cache.memory / 2**20:.1f} MiB; {cache.now:.3g} s on the chip, {cache.clock.refreshes} refreshes]",
        file=sys.stderr,
    )
    entry = GenerationResult(
        **in_arrays(
            head(
                hardware.loaded,
                "generation on the ring",
                seed=asked.seed,
                others=inputs_of_design(asked.design) | inputs_of_cell(asked.cell),
            )
        ),
        gains=hardware.origin,
        text=text,
        tokens=tokens,
        tokens_per_second=per_second,
        ring_memory=cache.memory,
        chip_time=cache.now,
        refreshes=cache.clock.refreshes,
        refreshing=cache.clock.refreshing,
        writes=cache.writes,
    )
    show_result(entry, json)
