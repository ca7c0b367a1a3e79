"""`gaincell evaluate`: perplexity by a named protocol, and what one layer computes."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gaincell.cli._json import JsonFile, write_json
from gaincell.cli._options import (
    MODEL_HELP,
    CellName,
    Device,
    Impl,
    ImplName,
    OtherLatency,
    RefreshKind,
    RefreshKindName,
    RefreshSeconds,
    RefreshTokens,
    TextName,
    Threads,
    change_chip,
    set_impl,
    use,
)
from gaincell.cli._words import by_words, describe, window_of

if TYPE_CHECKING:
    from gaincell.arrays import Refresh
    from gaincell.evaluation.perplexity import Perplexity
    from gaincell.integrations.hf.sources import LoadedModel
    from gaincell.progress import StageProgress
    from gaincell.reports import results

app = typer.Typer()


class Part(StrEnum):
    """Parts of a text."""

    evaluation = "evaluation"
    training = "training"
    all = "all"


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL|RUN", help=MODEL_HELP + ", or a RUN.")],
    text: TextName = "sample",
    part: Annotated[
        Part, typer.Option("--part", help="Of a text; its evaluation part was never trained on.")
    ] = Part.evaluation,
    protocol: Annotated[
        str | None,
        typer.Option(
            "--protocol",
            metavar="blocks-T|words-T",
            help="By default blocks-T; T is window or context, at most 1024.",
        ),
    ] = None,
    limit: Annotated[
        int,
        typer.Option("--limit", metavar="TOKENS", min=0, help="Most tokens (words-T: articles), 0 = all."),
    ] = 65_536,
    at: Annotated[
        list[float] | None,
        typer.Option("--at", metavar="SECONDS", help="Idle time in the middle of a block; repeatable."),
    ] = None,
    design: Annotated[
        str | None, typer.Option("--design", metavar="DESIGN", help="Another chip for a RUN than its own.")
    ] = None,
    cell: CellName = None,
    window: Annotated[
        int | None, typer.Option("--window", metavar="COLUMNS", min=1, help="Another ring than the chip's.")
    ] = None,
    context: Annotated[
        bool, typer.Option("--by-context", help="Perplexity against the length of context.")
    ] = False,
    other_latency: OtherLatency = None,
    refresh: RefreshKindName = RefreshKind.none,
    refresh_tokens: RefreshTokens = None,
    refresh_seconds: RefreshSeconds = None,
    dump: Annotated[
        Path | None,
        typer.Option("--dump", metavar="FILE", help="Store codes and outputs of a layer as .safetensors."),
    ] = None,
    layer: Annotated[
        int | None, typer.Option("--layer", min=0, help="The layer to dump; by default the first.")
    ] = None,
    scores: Annotated[bool, typer.Option("--scores", help="Dump the scores S_ij as well.")] = False,
    threads: Threads = None,
    impl: ImplName = Impl.auto,
    device: Device = "cpu",
    json: JsonFile = None,
) -> None:
    """Perplexity of a model in software, or of a RUN on its hardware.

    Protocol blocks-T: the text as one stream of tokens, cut into blocks of T that do not overlap; every
    token but the first of a block is predicted from those before it in the block.

    Protocol words-T: word perplexity of a WikiText file, article by article in windows of T tokens, as the
    evaluation harness does (--text wikitext2.txt.gz --protocol words-1024 --limit 0).

    --at lets the chip of a RUN idle after the first half of every block and predicts the second half
    (protocol pause-T): what is left of the text before. Several times give a table. --refresh makes the
    columns fresh from time to time, in the pause too; without --at the pause is 0 s.

    --other-latency is what the rest of a layer takes (linear layers on the same chip, on a GPU, ...): with it
    the token period comes from the schedule of the arrays, layer by layer.

    --by-context predicts the last tokens of every block from more and more tokens before (protocol
    context-T): how far back the model uses what it has read, for a ring of --window columns, say.

    --dump stores, for the first block, the codes of q, k and v and the output of every head of one layer.

    Example: gaincell evaluate runs/tiny --text corpus/ --protocol blocks-1024

    Example: gaincell evaluate runs/tiny --at 0 --at 1e-3 --at 10e-3 --design leroux2025-oxide

    Example: gaincell evaluate runs/tiny --at 60 --refresh reread --refresh-seconds 0.5e-3

    Example: gaincell evaluate runs/tiny --window 64 --by-context

    Example: gaincell evaluate runs/tiny --dump layer3.safetensors --layer 3
    """
    use(threads, device)
    from gaincell.arrays import Refresh
    from gaincell.cli._progress import progress_bars
    from gaincell.errors import InputError
    from gaincell.evaluation.dump import dump_layer
    from gaincell.evaluation.perplexity import block_length, cut_blocks
    from gaincell.integrations.hf.attach import attached_layers
    from gaincell.integrations.hf.models import load_model
    from gaincell.text import open_text, token_stream

    words = window_of(protocol)
    if protocol is not None and words is None:
        block_length(protocol)
    if words is not None and (context or at or dump or refresh is not RefreshKind.none):
        raise InputError("--protocol words-T goes without --by-context, --at, --refresh and --dump")
    policy = Refresh(refresh.value, refresh_tokens, refresh_seconds)
    if context and (at or policy.kind != "none"):
        raise InputError("--by-context knows no pauses and no refresh; leave out --at and --refresh")
    if dump is None and (layer is not None or scores):
        raise InputError("--layer and --scores belong to --dump FILE")
    times = at or ([0.0] if policy.kind != "none" else [])
    found_text = open_text(text) if words is None else None
    loaded = load_model(model)
    loaded.model.to(device)  # type: ignore[arg-type]
    protocol = protocol or f"blocks-{_block(loaded)}"
    change_chip(loaded.model, design, cell, window, other_latency)
    set_impl(loaded.model, impl.value)
    if times and not attached_layers(loaded.model):
        raise InputError(f"{model} is in software and has no chip that could idle; give a RUN")
    if words is not None or found_text is None:
        with progress_bars() as progress:
            table, found, chosen = by_words(loaded, text, words or 2, limit, progress)
        entry = _result(loaded, describe(words or 2, len(chosen)), chosen) | found
        entry["text"] = {"name": Path(text).name}
        _show(table, f"{model}, text {Path(text).name}", entry, json)
        return
    with progress_bars() as progress:
        reading = progress("read and tokenise the text")
        tokens = token_stream(found_text.part(part.value), loaded.tokenizer, limit or None, reading)
        length = block_length(protocol)
        if times:
            table, entry = _after_pauses(loaded, tokens, times, length, policy, progress)
        elif context:
            table, entry = _by_context(loaded, tokens, length, progress)
        else:
            table, entry = _blocks(loaded, tokens, protocol, progress)
        if dump is not None:
            first = cut_blocks(tokens, length)[:1]
            dump_layer(loaded.model, first, layer or 0, dump, scores=scores)
    entry["text"] = {"name": found_text.name}
    _show(table, f"{model}, text {found_text.name} ({part.value} part)", entry, json)


def _show(table: Any, title: str, entry: dict[str, Any], json: Path | None) -> None:
    from rich.console import Console

    from gaincell.reports import results

    results.check(entry)
    table.title, table.title_justify = title, "left"
    Console().print(table)
    write_json(json, entry)


def _blocks(
    loaded: LoadedModel, tokens: Any, protocol: str, progress: StageProgress
) -> tuple[Any, dict[str, Any]]:
    """Table and result of the protocol blocks-T."""
    from gaincell.evaluation.perplexity import perplexity
    from gaincell.reports import results

    found = perplexity(
        loaded.model, tokens, protocol, tokenizer=loaded.tokenizer, progress=progress("evaluate")
    )
    entry = _result(loaded, found.protocol, tokens)
    kind: results.Kind = "simulated" if entry["design"] else "measured"
    entry["perplexity"] = results.value(found.perplexity, "1", kind)
    entry["nll"] = results.value(found.nll, "nat", kind)
    entry["predictions"] = results.value(found.tokens, "tokens", "measured")
    if found.bits_per_byte is not None:
        entry["bits_per_byte"] = results.value(found.bits_per_byte, "bit/byte", kind)
    if found.perplexity_error is not None:
        entry["perplexity_error"] = results.value(found.perplexity_error, "1", kind)
    return _table(found), entry


def _by_context(
    loaded: LoadedModel, tokens: Any, length: int, progress: StageProgress
) -> tuple[Any, dict[str, Any]]:
    """Table and result of the protocol context-T."""
    from gaincell.evaluation.context import describe_context, perplexity_by_context
    from gaincell.reports import results

    points = perplexity_by_context(loaded.model, tokens, length, progress=progress("evaluate"))
    entry = _result(loaded, describe_context(length, len(tokens) // length), tokens)
    kind: results.Kind = "simulated" if entry["design"] else "measured"
    entry["context"] = [
        {
            "context": results.value(point.context, "tokens", "measured"),
            "perplexity": results.value(point.perplexity, "1", kind),
            "excess": results.value(point.excess, "nat", kind),
            "excess_error": results.value(point.excess_error, "nat", kind),
        }
        for point in points
    ]
    return _context_table(entry["context"], entry["provenance"]["protocol"]), entry


def _after_pauses(
    loaded: LoadedModel,
    tokens: Any,
    times: list[float],
    length: int,
    refresh: Refresh,
    progress: StageProgress,
) -> tuple[Any, dict[str, Any]]:
    """Table and result of the protocol pause-T."""
    from gaincell.evaluation.pause import perplexity_after_pause
    from gaincell.reports import results

    found = [
        perplexity_after_pause(
            loaded.model,
            tokens,
            seconds,
            length,
            refresh=refresh,
            progress=progress(f"evaluate after {seconds:g} s"),
        )
        for seconds in sorted(times)
    ]
    entry = _result(loaded, found[0].found.protocol, tokens)
    entry["refresh"] = {"kind": refresh.kind}
    if refresh.every_tokens is not None:
        entry["refresh"]["every"] = results.value(refresh.every_tokens, "tokens", "simulated")
    if refresh.every_seconds is not None:
        entry["refresh"]["every"] = results.value(refresh.every_seconds, "s", "simulated")
    entry["pauses"] = [
        {
            "idle": results.value(pause.seconds, "s", "simulated"),
            "perplexity": results.value(pause.found.perplexity, "1", "simulated"),
            "perplexity_error": results.value(pause.found.perplexity_error, "1", "simulated"),
            "predictions": results.value(pause.found.tokens, "tokens", "measured"),
            "chip_time": results.value(pause.chip_time, "s", "simulated"),
            "refreshes": results.value(pause.refreshes, "1", "simulated"),
            "refreshing": results.value(pause.refreshing, "s", "simulated"),
            "writes": results.value(pause.writes, "columns", "simulated"),
        }
        for pause in found
    ]
    return _pause_table(entry["pauses"], found[0].found.protocol), entry


def _pause_table(rows: list[dict[str, Any]], protocol: str) -> Any:
    from rich.table import Table

    from gaincell.reports.tables import readable

    caption = (
        f"{protocol}; ± is the standard error; time on the chip, refreshes, the time they take, and columns "
        "written in every key/value head: of one block"
    )
    table = Table(caption=caption, caption_justify="left")
    headings = ("idle, s", "perplexity", "±", "chip, s", "refreshes", "taking, s", "writes")
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in rows:
        value = {name: entry["value"] for name, entry in row.items()}
        error = value["perplexity_error"]
        table.add_row(
            f"{value['idle']:g}",
            readable(value["perplexity"]),
            "–" if error is None else readable(error),
            f"{value['chip_time']:.4g}",
            f"{value['refreshes']:,}",
            f"{value['refreshing']:.3g}",
            f"{value['writes']:,}",
        )
    return table


def _context_table(rows: list[dict[str, Any]], protocol: str) -> Any:
    from rich.table import Table

    from gaincell.reports.tables import readable

    table = Table(caption=protocol, caption_justify="left")
    for heading in ("context", "perplexity", "nats above the longest", "±"):
        table.add_column(heading, justify="right")
    for row in rows:
        context, value, excess, error = (entry["value"] for entry in row.values())
        shown = "–" if error is None else f"{error:.4f}"
        table.add_row(f"{context:,}", readable(value), f"{excess:.4f}", shown)
    return table


def _block(loaded: LoadedModel) -> int:
    from gaincell.integrations.hf.attach import attached_layers
    from gaincell.mapping.job import LONGEST_BLOCK, default_block

    layers = attached_layers(loaded.model)
    if layers:
        return default_block(layers[0].design, loaded.model)
    return min(getattr(loaded.model.config, "max_position_embeddings", LONGEST_BLOCK), LONGEST_BLOCK)


def _table(found: Perplexity) -> Any:
    from rich.table import Table

    from gaincell.reports.tables import readable

    table = Table(caption=found.protocol, caption_justify="left")
    for heading in ("perplexity", "standard error", "bits per byte", "predictions"):
        table.add_column(heading, justify="right")
    error, bits = found.perplexity_error, found.bits_per_byte
    table.add_row(
        readable(found.perplexity),
        "–" if error is None else readable(error),
        "–" if bits is None else f"{bits:.4f}",
        f"{found.tokens:,}",
    )
    return table


def _result(loaded: LoadedModel, protocol: str, tokens: Any) -> dict[str, Any]:
    """What all protocols say: the model, the chip, where it comes from."""
    from gaincell.integrations.hf.attach import attached_layers
    from gaincell.mapping.summary import base_name
    from gaincell.mapping.summary import design as describe_design
    from gaincell.reports import results

    layers = attached_layers(loaded.model)
    return {
        "schema": results.SCHEMA,
        "command": "evaluate",
        "model": {"name": base_name(loaded.id), "sha256": loaded.sha256},
        "design": describe_design(layers[0].design) if layers else None,
        "provenance": results.provenance(
            command=["gaincell", *sys.argv[1:]],
            seed=0,
            protocol=protocol,
            design_hash=layers[0].design.hash if layers else None,
            inputs={
                f"model {base_name(loaded.id)}": loaded.sha256,
                "evaluation text": results.hash_of(tokens),
            },
        ),
    }
