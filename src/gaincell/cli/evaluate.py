"""`gaincell evaluate`: perplexity by a named protocol, tasks of the evaluation harness, many chips."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import typer

from gaincell.cli import _options as options
from gaincell.cli._json import JsonFile, output, show_result
from gaincell.cli._options import LARGEST_SEED, check_needed, command, flag, fraction, option
from gaincell.errors import InputError
from gaincell.quantity import whole_number

DEFAULT_LIMIT = 32_768
"""Tokens of a text, as many as `ablate`, `codesign` and `map` evaluate on."""
TOGETHER = (
    {"--chips", "--tasks"},
    {"--chips", "--at or --refresh"},
    {"--at or --refresh", "--dump"},
    {"--by-context", "--dump"},
    {"--by-repetition", "--dump"},
)
"""Ways to evaluate that go together; else there is one at a time."""
ON_A_CHIP = (
    "--chips", "--at", "--refresh", "--design", "--cell", "--window", "--other-latency", "--dump", "--backend"
)  # fmt: skip


@dataclass(frozen=True)
class TaskOptions:
    """Which tasks, and how they are run."""

    tasks: Annotated[str | None, option("Run lm-evaluation-harness tasks instead.", "NAME,...|paper")] = None
    data: Annotated[
        str | None, option("Folder with the tasks' files; otherwise they are downloaded.", "DIR")
    ] = None
    max_length: Annotated[
        int | None, option("Longest context of a task; by default 1024.", "TOKENS", min=2)
    ] = None
    batch: Annotated[int | None, option("Task requests per forward pass; by default 8.", "N", min=1)] = None
    cache: Annotated[
        bool, flag("--cache/--no-cache", "Keep every answer, so that an interrupted run can resume.")
    ] = True


@dataclass(frozen=True)
class ChipOptions:
    """Virtual chips."""

    chips: Annotated[
        int | None,
        option("Perplexity or --tasks scores of N virtual chips, with their spread.", "N", min=1),
    ] = None
    mismatch: Annotated[
        str | None, option("Spread of the cells' currents for --chips, as a share of full scale.", "P%")
    ] = None
    within: Annotated[
        str | None,
        option(
            "A chip is good up to X % above the nominal perplexity; by default 5 %.", "X%", "--yield-within"
        ),
    ] = None
    seed: Annotated[int | None, option("Seed of chips.", "N", "--chip-seed", min=0, max=LARGEST_SEED)] = None

    @property
    def spread(self) -> float | None:
        """Of the cells, a fraction of full scale; None for the design's.

        Raises:
            InputError: the option is no share.
        """
        return None if self.mismatch is None else fraction(self.mismatch, "--mismatch")

    @property
    def good(self) -> float:
        """Up to which increase over the nominal chip.

        Raises:
            InputError: the option is no share.
        """
        return fraction(self.within or "5%", "--yield-within")


@dataclass(frozen=True)
class Evaluation:
    """What is evaluated, and how."""

    text: Annotated[str | None, option(f"{options.TEXT_HELP} By default sample.", "TEXT")] = None
    part: Annotated[
        Literal["evaluation", "training", "all"] | None,
        option("Part of the text; by default evaluation, which was never trained on."),
    ] = None
    protocol: Annotated[
        str | None,
        option(
            "blocks-T (the default; T is the model's context, at most 1024), strided-T-S or rolling-T.",
            "PROTOCOL",
        ),
    ] = None
    limit: Annotated[
        int | None,
        option(
            "Maximum tokens evaluated, by default 32,768; of rolling-T documents, of tasks items of each, by "
            "default all; 0: all.",
            "N",
            min=0,
        ),
    ] = None
    stage: options.StageName = None
    harness: TaskOptions = field(default_factory=TaskOptions)
    drawn: ChipOptions = field(default_factory=ChipOptions)
    redraw_noise: Annotated[
        bool,
        flag(
            "--redraw-noise",
            "Redraw the noise of reads and writes for every block, so that ± includes its variance.",
        ),
    ] = False
    at: Annotated[
        list[float] | None, option("Idle time in the middle of a block; may be repeated.", "SECONDS")
    ] = None
    design: options.OtherDesign = None
    cell: options.CellName = None
    window: options.Window = None
    by_context: Annotated[bool, flag("--by-context", "Perplexity against context length.")] = False
    by_repetition: Annotated[
        bool,
        flag("--by-repetition", "Loss on tokens that the context holds after the same token, and on others."),
    ] = False
    other_latency: options.OtherLatency = None
    refresh: options.RefreshOptions = field(default_factory=options.RefreshOptions)
    dump: Annotated[Path | None, output("Store codes and outputs of a layer as .safetensors.")] = None
    layer: Annotated[int | None, option("The layer to dump; by default the first.", "N", min=0)] = None
    scores: Annotated[bool, flag("--scores", "Dump the scores S_ij as well.")] = False

    @property
    def pauses(self) -> bool:
        """Whether the chip idles, or its columns are refreshed."""
        return bool(self.at) or self.refresh.refresh != "none"

    def check(self, context: typer.Context, model: str) -> None:
        """Raise GaincellError, before a model is loaded, for options that do not go together."""
        from gaincell.evaluation.perplexity import window_and_stride
        from gaincell.integrations.hf.run import Run
        from gaincell.integrations.hf.size import run_design

        rolling = window_of_rolling(self.protocol) is not None
        length, stride = (1, 1) if self.protocol is None or rolling else window_and_stride(self.protocol)
        tasks, chips = self.harness.tasks is not None, self.drawn.chips is not None
        dump, shortest = self.dump is not None, min(self.at or [0.0])
        ways = {
            "--tasks": tasks, "--chips": chips, "--by-context": self.by_context,
            "--by-repetition": self.by_repetition, "--at or --refresh": self.pauses,
            "--protocol rolling-T": rolling, "--dump": dump, "--redraw-noise": self.redraw_noise,
        }  # fmt: skip
        chosen = [name for name, there in ways.items() if there]
        if len(chosen) > 1 and not any(set(chosen) <= pair for pair in TOGETHER):
            raise InputError(f"{' and '.join(chosen)} do not go together; give one of them")
        # a RUN without a stage in arrays saves no model, but has its stages in software
        chip = run_design(model) if self.stage is None else Run(model).design_of(self.stage)
        arrays = "a RUN whose attention is in arrays, such as one of gaincell map"
        if self.stage is not None:
            arrays = f"a stage in arrays, which {self.stage} of {model} is not"
        _ = self.drawn.spread, self.drawn.good, self.refresh.policy  # raise, before the model is loaded
        for names, needs, there in (
            (("--data", "--max-length", "--batch", "--cache"), "--tasks", tasks),
            (("--mismatch", "--yield-within", "--chip-seed"), "--chips", chips),
            (("--layer", "--scores"), "--dump FILE", dump),
            (ON_A_CHIP, arrays, chip is not None),
            (("--protocol", "--text", "--part"), "an evaluation without --tasks", not tasks),
            (("--part",), "a protocol other than rolling-T, which reads the whole text", not rolling),
        ):
            check_needed(context, names, needs, there)
        in_blocks = self.pauses or self.by_context or self.by_repetition or dump
        strided = f"{self.protocol} excludes --at, --refresh, --by-context, --by-repetition and --dump"
        refused = {
            strided: stride < length and in_blocks,
            "--chips takes only one --at": chips and len(self.at or ()) > 1,
            f"--at {shortest:g}: give 0 seconds or more": shortest < 0,
        }
        for message, given in refused.items():
            if given:
                raise InputError(message)
        options.choose_chip(model, self.design, self.cell)


def window_of_rolling(protocol: str | None) -> int | None:
    """T of the protocol `rolling-T`, None for another protocol."""
    kind, _, window = (protocol or "").partition("-")
    if kind != "rolling":
        return None
    if (length := whole_number(window)) is None or length < 2:
        raise InputError(f"protocol {protocol!r}: give rolling-T with T >= 2, such as rolling-1024")
    return length


@command
def evaluate(
    context: typer.Context,
    *,
    model: options.ModelOrRun,
    asked: Evaluation,
    computing: options.ComputingAnywhere,
    json: JsonFile = None,
) -> None:
    """Perplexity or task scores of a model in software, or of a RUN on its hardware.

    Protocol blocks-T cuts the text, as one stream of tokens, into blocks of T that do not overlap; every
    token but the first of a block is predicted from those before it in the block. Protocol strided-T-S moves
    a window of T on by S and predicts every token once. Protocol rolling-T reads document by document in
    windows of T, as the evaluation harness does; its perplexities are by words, bytes and tokens (WikiText:
    --limit 0, and --text with a file of it).

    --tasks runs lm-evaluation-harness on the model, with the harness's prompts and scores. `paper` stands for
    the tasks of the paper's table; `gaincell table` compares results. With --data the rows come from local
    files, otherwise the harness downloads them.

    --chips draws N chips whose cells differ (by --mismatch, or as the RUN's design says). It shows mean,
    spread, worst chip and yield on the same text, after --at SECONDS if given. With --tasks it
    shows mean, spread and worst chip of the scores, and of perplexities the yield.

    --at lets the chip of a RUN idle after the first half of every block, and predicts the second half from
    what is left (protocol pause-T). Several --at give a table. --refresh refreshes the columns at intervals,
    those of --refresh-seconds also during the pause, in which there are no tokens; without --at the pause is
    0 s.

    --other-latency is the time that the rest of a layer takes (linear layers on the same chip, on a GPU,
    ...). The token period then comes from the schedule of the arrays, layer by layer.

    --by-context predicts the last tokens of every block from more and more of the preceding tokens (protocol
    context-T). It shows how far back the model uses its context, for instance on a ring of --window columns.

    --by-repetition separates tokens that have followed the preceding token earlier in the block from the
    others, and repeats half a block (protocol repetition-T). It shows what the model finds in its context.

    --stage evaluates another stage of a RUN of `gaincell train`, such as the software model trained on the
    same tokens. The default is the saved stage, the best in arrays (docs/training.md).

    The noise of reads and writes follows from its seed and the token's position, head and row. All blocks get
    the same draw, so ± does not include its variance. --redraw-noise gives every block its own draw.

    --dump stores, for the first block, the codes of q, k and v and the output of every head of one layer.

    In the examples runs/tiny is what `gaincell map tiny` writes, MY_TEXTS is a folder with your own texts,
    and MY_ITEMS a folder with the tasks' files (without --data they are downloaded).

    Example: gaincell evaluate runs/tiny --text MY_TEXTS/ --protocol blocks-1024

    Example: gaincell evaluate runs/tiny --tasks arc_easy,piqa --data MY_ITEMS/ --limit 500 --json chip.json

    Example: gaincell evaluate runs/tiny --chips 20 --mismatch 5% --json chips.json

    Example: gaincell evaluate runs/tiny --at 0 --at 1e-3 --at 10e-3 --design leroux2025-oxide

    Example: gaincell evaluate runs/tiny --at 60 --refresh reread --refresh-seconds 0.5e-3

    Example: gaincell evaluate runs/tiny --window 64 --by-context

    Example: gaincell evaluate runs/tiny --dump layer3.safetensors --layer 3
    """
    computing.start()
    asked.check(context, model)
    from gaincell.cli._perplexity import evaluate as evaluated

    table, result = evaluated(asked, model, computing)
    show_result(result, json, table)
