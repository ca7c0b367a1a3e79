"""`gaincell evaluate`: perplexity by a named protocol, tasks of the evaluation harness, many chips."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gaincell.cli._json import JsonFile, output_file, show_result
from gaincell.cli._options import (
    TEXT_HELP,
    CellName,
    DeviceOrAuto,
    Dtype,
    DtypeName,
    Impl,
    ImplName,
    ModelOrRun,
    OtherDesign,
    OtherLatency,
    RefreshOptions,
    Threads,
    Window,
    check_needed,
    check_run,
    choose_chip,
    fraction,
    use,
    with_groups,
)

if TYPE_CHECKING:
    from gaincell.integrations.hf.base_model import LoadedModel
    from gaincell.results.evaluation import EvaluationResult

app = typer.Typer()


class Part(StrEnum):
    """Parts of a text."""

    evaluation = "evaluation"
    training = "training"
    all = "all"


@app.command()
@with_groups
def evaluate(
    context_: typer.Context,
    *,
    model: ModelOrRun,
    text: Annotated[
        str | None, typer.Option("--text", metavar="TEXT", help=TEXT_HELP + " By default sample.")
    ] = None,
    part: Annotated[
        Part | None,
        typer.Option("--part", help="Of a text; by default evaluation, which was never trained on."),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            "--protocol",
            metavar="PROTOCOL",
            help="blocks-T (the default; T is the model's context, at most 1024), strided-T-S or rolling-T.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            metavar="N",
            min=0,
            help="Most tokens evaluated (rolling-T: documents; tasks: items of each); 0: all.",
        ),
    ] = None,
    stage: Annotated[
        str | None,
        typer.Option(
            "--stage",
            metavar="NAME",
            help="A stage of a RUN of `gaincell train`; by default its last in arrays.",
        ),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option("--tasks", metavar="NAME,...|paper", help="Tasks of lm-evaluation-harness instead."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="DIR", help="Folder with the tasks' files; else they are downloaded."),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            "--max-length", metavar="TOKENS", min=2, help="Longest context of a task; by default 1024."
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option("--batch", metavar="N", min=1, help="Requests of a task in one forward pass; 8."),
    ] = None,
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Keep every answer, so that a broken run goes on.")
    ] = True,
    chips: Annotated[
        int | None,
        typer.Option("--chips", metavar="N", help="Perplexity of N virtual chips, with its spread."),
    ] = None,
    mismatch: Annotated[
        str | None,
        typer.Option(
            "--mismatch", metavar="P%", help="Spread of the cells' currents, of full scale, for --chips."
        ),
    ] = None,
    within: Annotated[
        str | None,
        typer.Option("--yield-within", metavar="X%", help="Good: up to X % above nominal; by default 5 %."),
    ] = None,
    chip_seed: Annotated[
        int | None, typer.Option("--chip-seed", metavar="N", min=0, max=2**32 - 1, help="Of the chips.")
    ] = None,
    redraw_noise: Annotated[
        bool,
        typer.Option(
            "--redraw-noise",
            help="Redraw the noise of reads and writes for every block, so that ± includes its variance.",
        ),
    ] = False,
    at: Annotated[
        list[float] | None,
        typer.Option("--at", metavar="SECONDS", help="Idle time in the middle of a block; repeatable."),
    ] = None,
    design: OtherDesign = None,
    cell: CellName = None,
    window: Window = None,
    context: Annotated[
        bool, typer.Option("--by-context", help="Perplexity against the length of context.")
    ] = False,
    repetition: Annotated[
        bool, typer.Option("--by-repetition", help="Loss on tokens that stood in the context before.")
    ] = False,
    other_latency: OtherLatency = None,
    refresh: RefreshOptions,
    dump: Annotated[
        Path | None,
        typer.Option(
            "--dump",
            callback=output_file,
            metavar="FILE",
            help="Store codes and outputs of a layer as .safetensors.",
        ),
    ] = None,
    layer: Annotated[
        int | None,
        typer.Option("--layer", metavar="N", min=0, help="The layer to dump; by default the first."),
    ] = None,
    scores: Annotated[bool, typer.Option("--scores", help="Dump the scores S_ij as well.")] = False,
    threads: Threads = None,
    impl: ImplName = Impl.auto,
    device: DeviceOrAuto = "cpu",
    dtype: DtypeName = Dtype.float32,
    json: JsonFile = None,
) -> None:
    """Perplexity or task scores of a model in software, or of a RUN on its hardware.

    Protocol blocks-T: the text as one stream of tokens, cut into blocks of T that do not overlap; every
    token but the first of a block is predicted from those before it in the block. Protocol strided-T-S:
    windows of T that move on by S, every token predicted once. Protocol rolling-T: document by document in
    windows of T as the evaluation harness does, by words, bytes and tokens (WikiText: --limit 0 --text
    with a file of it).

    --tasks runs lm-evaluation-harness on the model, with its own prompts and scores. `paper` stands for the
    tasks of the paper's table; `gaincell table` compares results. With --data the rows come from local files,
    otherwise the harness downloads them.

    --chips draws N chips whose cells differ (by --mismatch, or as the RUN's design says). It shows mean,
    spread, worst chip and yield on the same text, after --at SECONDS if given; with --tasks, their scores.

    --at lets the chip of a RUN idle after the first half of every block, and predicts the second half from
    what is left (protocol pause-T). Several times give a table. --refresh refreshes the columns from time to
    time, in the pause too; without --at the pause is 0 s.

    --other-latency is the time of the rest of a layer (linear layers on the same chip, on a GPU, ...).
    The token period then comes from the schedule of the arrays, layer by layer.

    --by-context predicts the last tokens of every block from more and more of the tokens before (protocol
    context-T). It shows how far back the model uses its context, for instance on a ring of --window columns.

    --by-repetition separates tokens whose pair with the token before already stood in the block from the
    others, and repeats half a block (protocol repetition-T). It shows what the model finds again.

    --stage evaluates another stage of a RUN of `gaincell train`, such as the software model trained on the
    same tokens. The default is the last stage in arrays.

    Noise of reads and writes follows from its seed and the token's position, head and row. All blocks get the
    same draw, so ± does not include its variance. --redraw-noise gives every block its own draw.

    --dump stores, for the first block, the codes of q, k and v and the output of every head of one layer.

    In the examples runs/tiny is what `gaincell map tiny` writes, MY_TEXTS a folder of texts of yours, and
    MY_ITEMS one with the tasks' files (without --data they come from the network).

    Example: gaincell evaluate runs/tiny --text MY_TEXTS/ --protocol blocks-1024

    Example: gaincell evaluate runs/tiny --tasks arc_easy,piqa --data MY_ITEMS/ --limit 500 --json chip.json

    Example: gaincell evaluate runs/tiny --chips 20 --mismatch 5% --json chips.json

    Example: gaincell evaluate runs/tiny --at 0 --at 1e-3 --at 10e-3 --design leroux2025-oxide

    Example: gaincell evaluate runs/tiny --at 60 --refresh reread --refresh-seconds 0.5e-3

    Example: gaincell evaluate runs/tiny --window 64 --by-context

    Example: gaincell evaluate runs/tiny --dump layer3.safetensors --layer 3
    """
    use(threads, device, auto=True)
    from dataclasses import replace

    import torch

    from gaincell.cli import _perplexity as protocols
    from gaincell.cli._chips import ChipOptions, by_chips
    from gaincell.cli._progress import progress_bars
    from gaincell.errors import InputError
    from gaincell.evaluation.dump import dump_layer
    from gaincell.evaluation.perplexity import cut_blocks, default_protocol, window_and_stride
    from gaincell.integrations.hf.chip import AS_SAVED, change_chip, set_impl
    from gaincell.integrations.hf.context import check_length, read_tokens
    from gaincell.integrations.hf.models import load_model
    from gaincell.integrations.hf.placement import place_model
    from gaincell.integrations.hf.size import run_design
    from gaincell.results.common import Named
    from gaincell.text import open_text

    policy = refresh.policy
    pauses = bool(at) or policy.kind != "none"
    window_of_documents = protocols.window_of_rolling(protocol)
    length, stride = (1, 1) if protocol is None or window_of_documents else window_and_stride(protocol)
    _check_together(
        {
            "--tasks": tasks is not None,
            "--chips": chips is not None,
            "--by-context": context,
            "--by-repetition": repetition,
            "--at or --refresh": pauses,
            "--protocol rolling-T": window_of_documents is not None,
            "--dump": dump is not None,
            "--redraw-noise": redraw_noise,
        }
    )
    for options_of, needs, there in (
        (("--data", "--max-length", "--batch", "--cache"), "--tasks", tasks),
        (("--mismatch", "--yield-within", "--chip-seed"), "--chips", chips is not None),
        (("--layer", "--scores"), "--dump FILE", dump),
        (("--impl",), "a RUN, whose attention is in arrays", run_design(model) is not None),
    ):
        check_needed(context_, options_of, needs, there)
    for given, message in (
        (protocol is not None and tasks is not None, "--tasks go without --protocol"),
        ((text, part) != (None, None) and tasks is not None, "--tasks go without --text and --part"),
        (part is not None and window_of_documents, "rolling-T takes a text whole, without --part"),
        (
            stride < length and (pauses or context or repetition or dump),
            f"{protocol} goes without --at, --refresh, --by-context, --by-repetition and --dump",
        ),
        (chips is not None and len(at or ()) > 1, "--chips takes one --at"),
        (chips is not None and chips < 1, f"{chips} chips: give 1 or more"),
    ):
        if given:
            raise InputError(message)
    options = None
    if chips is not None:
        spread = None if mismatch is None else fraction(mismatch, "--mismatch")
        options = ChipOptions(chips, spread, fraction(within or "5%", "--yield-within"), chip_seed)
    text, part = text or "sample", part or Part.evaluation
    found_text = None if tasks or window_of_documents else open_text(text)
    weights = getattr(torch, dtype.value)
    for_arrays = {
        "--chips": chips, "--at or --refresh": pauses or None, "--design": design, "--cell": cell,
        "--window": window, "--other-latency": other_latency, "--dump": dump,
    }  # fmt: skip
    wanted = [name for name, there in for_arrays.items() if there is not None]
    if wanted:
        check_run(model, wanted[0])
    choose_chip(model, design, cell)
    loaded = load_model(model, weights, stage)
    exchanged = change_chip(loaded.model, design, cell, window, other_latency)
    set_impl(loaded.model, impl.value)
    place_model(loaded.model, device)
    if pauses and not _in_arrays(loaded):
        raise InputError(f"{model} is in software and has no chip that could idle; give a RUN")
    version = AS_SAVED if _in_arrays(loaded) else "the pretrained model, in software"
    gains = (version if stage is None else f"stage {stage} of the RUN") + exchanged
    typer.echo(f"{model}: {gains}")
    head: EvaluationResult
    with progress_bars() as progress:
        if tasks is not None:
            from gaincell.cli._tasks import by_tasks

            table, head = by_tasks(
                loaded, tasks, data, limit or 0, max_length, batch or 8, cache, options, progress
            )
            title = model
        elif window_of_documents is not None:
            table, head = protocols.rolling(loaded, text, window_of_documents, limit or 0, progress)
            title = f"{model}, text {Path(text).name}"
        else:
            assert found_text is not None
            reading = progress("read and tokenise the text")
            budget = DEFAULT_LIMIT if limit is None else limit or None
            title = f"{model}, text {found_text.name} ({part.value} part)"
            protocol = protocol or default_protocol(loaded.model)
            length, _ = window_and_stride(protocol)
            check_length(loaded.model, length)
            tokens = read_tokens(loaded, found_text, part.value, budget, reading, block=length)
            if options is not None:
                pause = (at or [0.0], policy) if pauses else None
                table, head = by_chips(loaded, tokens, protocol, pause, options, progress)
            elif pauses:
                table, head = protocols.after_pauses(loaded, tokens, at or [0.0], length, policy, progress)
            elif context:
                table, head = protocols.by_context(loaded, tokens, length, progress)
            elif repetition:
                table, head = protocols.by_repetition(loaded, tokens, length, progress)
            else:
                table, head = protocols.blocks(loaded, tokens, protocol, progress, redraw=redraw_noise)
            if dump is not None:
                first = cut_blocks(tokens, length)[:1]
                dump_layer(loaded.model, first, layer or 0, dump, scores=scores)
            head = replace(head, text=Named(found_text.name))
    head = replace(head, stage=stage, gains=gains if _in_arrays(loaded) else None)
    if stage is not None:
        title = f"{title}, stage {stage}"
    table.title, table.title_justify = title, "left"
    show_result(head, json, table)


DEFAULT_LIMIT = 32_768
"""Tokens of a text, as many as `ablate`, `adapt` and `map` evaluate on."""


def _check_together(given: dict[str, bool]) -> None:
    """One way to evaluate at a time; chips may idle."""
    from gaincell.errors import InputError

    chosen = [name for name, there in given.items() if there]
    allowed = (
        {"--chips", "--tasks"},
        {"--chips", "--at or --refresh"},
        {"--at or --refresh", "--dump"},
        {"--by-context", "--dump"},
        {"--by-repetition", "--dump"},
    )
    if len(chosen) > 1 and not any(set(chosen) <= pair for pair in allowed):
        raise InputError(f"{' and '.join(chosen)} do not go together; give one of them")


def _in_arrays(loaded: LoadedModel) -> bool:
    from gaincell.integrations.hf.attach import attached_layers

    return bool(attached_layers(loaded.model))
