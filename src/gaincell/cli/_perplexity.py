"""Perplexity by its protocols, for `gaincell evaluate`: tables and results."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gaincell.arrays import Refresh
    from gaincell.evaluation.perplexity import Perplexity
    from gaincell.evaluation.rolling import RollingPerplexity
    from gaincell.integrations.hf.sources import LoadedModel
    from gaincell.progress import StageProgress
    from gaincell.results.evaluation import EvaluationResult


def window_of_rolling(protocol: str | None) -> int | None:
    """T of the protocol `rolling-T`, None for another protocol."""
    from gaincell.errors import InputError
    from gaincell.quantity import whole_number

    kind, _, window = (protocol or "").partition("-")
    if kind != "rolling":
        return None
    if (length := whole_number(window)) is None or length < 2:
        raise InputError(f"protocol {protocol!r}: give rolling-T with T >= 2, such as rolling-1024")
    return length


def blocks(
    loaded: LoadedModel, tokens: Any, protocol: str, progress: StageProgress, *, redraw: bool = False
) -> tuple[Any, dict[str, Any]]:
    """Table and result of the protocols blocks-T and strided-T-S."""
    from gaincell.evaluation.perplexity import perplexity
    from gaincell.reports import results

    found = perplexity(
        loaded.model,
        tokens,
        protocol,
        tokenizer=loaded.tokenizer,
        redraw=redraw,
        progress=progress("evaluate"),
    )
    entry = plain(loaded, found.protocol, tokens)
    kind: results.Kind = "simulated" if entry["design"] else "measured"
    entry["perplexity"] = results.value(found.perplexity, "1", kind)
    entry["nll"] = results.value(found.nll, "nat", kind)
    entry["predictions"] = results.value(found.tokens, "tokens", "measured")
    if found.bits_per_byte is not None:
        entry["bits_per_byte"] = results.value(found.bits_per_byte, "bit/byte", kind)
    if found.perplexity_error is not None:
        entry["perplexity_error"] = results.value(found.perplexity_error, "1", kind)
    return _table(found), entry


def rolling(
    loaded: LoadedModel, text: str, window: int, limit: int, progress: StageProgress
) -> tuple[Any, dict[str, Any]]:
    """Table and result of the protocol rolling-T."""
    from gaincell.errors import InputError
    from gaincell.evaluation.noise import noise_remark
    from gaincell.evaluation.rolling import describe_rolling, documents_of, rolling_perplexity
    from gaincell.reports import results

    path = Path(text).expanduser()
    if not path.is_file():
        raise InputError(f"--protocol rolling-T takes a text file, and {text!r} is none")
    chosen = documents_of(path)[: limit or None]
    found = rolling_perplexity(loaded.model, loaded.tokenizer, chosen, window, progress("evaluate"))
    protocol = describe_rolling(window, len(chosen)) + noise_remark(loaded.model)
    entry = plain(loaded, protocol, chosen)
    kind: results.Kind = "simulated" if entry["design"] else "measured"
    for name in ("word_perplexity", "token_perplexity", "byte_perplexity"):
        entry[name] = results.value(getattr(found, name), "1", kind)
    if found.word_perplexity_error is not None:
        entry["word_perplexity_error"] = results.value(found.word_perplexity_error, "1", kind)
    entry |= {
        "bits_per_byte": results.value(found.bits_per_byte, "bit/byte", kind),
        "nll": results.value(found.nll, "nat", kind),
        "words": results.value(found.words, "words", "measured"),
        "bytes": results.value(found.bytes, "bytes", "measured"),
        "predictions": results.value(found.tokens, "tokens", "measured"),
        "documents": results.value(found.documents, "documents", "measured"),
        "text": {"name": path.name},
    }
    return _rolling_table(found, protocol), entry


def _rolling_table(found: RollingPerplexity, protocol: str) -> Any:
    from rich.table import Table

    from gaincell.reports.tables import readable

    table = Table(caption=protocol, caption_justify="left")
    for name in ("perplexity by words", "±", "by tokens", "by bytes", "bits per byte", "words"):
        table.add_column(name, justify="right")
    error = found.word_perplexity_error
    table.add_row(
        readable(found.word_perplexity),
        "–" if error is None else readable(error),
        readable(found.token_perplexity),
        f"{found.byte_perplexity:.4f}",
        f"{found.bits_per_byte:.4f}",
        f"{found.words:,}",
    )
    return table


def by_context(
    loaded: LoadedModel, tokens: Any, length: int, progress: StageProgress
) -> tuple[Any, dict[str, Any]]:
    """Table and result of the protocol context-T."""
    from gaincell.evaluation.context import describe_context, perplexity_by_context
    from gaincell.evaluation.noise import noise_remark
    from gaincell.reports import results

    points = perplexity_by_context(loaded.model, tokens, length, progress=progress("evaluate"))
    protocol = describe_context(length, len(tokens) // length) + noise_remark(loaded.model)
    entry = plain(loaded, protocol, tokens)
    kind: results.Kind = "simulated" if entry["design"] else "measured"
    entry["context"] = [
        {
            "context": results.value(point.context, "tokens", "measured"),
            "perplexity": results.value(point.perplexity, "1", kind),
            "excess": results.value(point.excess, "nat", kind),
            "excess_error": results.value(point.excess_error, "nat", kind),
            "per_block": results.value([round(x, 6) for x in point.per_block], "nat", kind),
        }
        for point in points
    ]
    return _context_table(entry["context"], entry["provenance"]["protocol"]), entry


def by_repetition(
    loaded: LoadedModel, tokens: Any, length: int, progress: StageProgress
) -> tuple[Any, dict[str, Any]]:
    """Table and result of the protocol repetition-T."""
    from rich.table import Table

    from gaincell.evaluation.noise import noise_remark
    from gaincell.evaluation.repetition import describe_repetition, loss_by_repetition
    from gaincell.reports import results
    from gaincell.reports.tables import readable
    from gaincell.spread import exp_or_infinity

    points = loss_by_repetition(loaded.model, tokens, length, progress=progress("evaluate"))
    protocol = describe_repetition(length, len(tokens) // length) + noise_remark(loaded.model)
    entry = plain(loaded, protocol, tokens)
    kind: results.Kind = "simulated" if entry["design"] else "measured"
    entry["repetition"] = [
        {
            "kind": point.kind,
            "tokens": results.value(point.tokens, "tokens", "measured"),
            "nll": results.value(point.nll, "nat", kind),
            "perplexity": results.value(exp_or_infinity(point.nll), "1", kind),
            "sums": results.value([round(x, 4) for x in point.sums], "nat", kind),
            "counts": results.value(list(point.counts), "tokens", "measured"),
        }
        for point in points
    ]
    table = Table(caption=protocol, caption_justify="left")
    table.add_column("tokens")
    for heading in ("perplexity", "nats a token", "predictions"):
        table.add_column(heading, justify="right")
    for point in points:
        table.add_row(
            point.kind, readable(exp_or_infinity(point.nll)), f"{point.nll:.3f}", f"{point.tokens:,}"
        )
    return table, entry


def after_pauses(
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
    entry = plain(loaded, found[0].found.protocol, tokens)
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
        context, value, excess, error = (
            row[key]["value"] for key in ("context", "perplexity", "excess", "excess_error")
        )
        shown = "–" if error is None else f"{error:.4f}"
        table.add_row(f"{context:,}", readable(value), f"{excess:.4f}", shown)
    return table


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


def plain(loaded: LoadedModel, protocol: str, tokens: Any) -> dict[str, Any]:
    """As `result`, as plain data."""
    from gaincell.results.codec import to_json

    return to_json(result(loaded, protocol, tokens))


def result(
    loaded: LoadedModel,
    protocol: str,
    tokens: Any,
    *,
    command: str = "evaluate",
    text: str | None = None,
    gains: str | None = None,
) -> EvaluationResult:
    """What all protocols say: the command, the model, the chip, where it comes from."""
    from gaincell.integrations.hf.attach import attached_layers
    from gaincell.mapping.summary import base_name, chip_of
    from gaincell.results.common import Named, NamedModel
    from gaincell.results.evaluation import EvaluationResult
    from gaincell.results.provenance import hash_of, made

    layers = attached_layers(loaded.model)
    name = base_name(loaded.id)
    return EvaluationResult(
        command=command,
        model=NamedModel(name, loaded.sha256),
        design=chip_of(layers[0].design) if layers else None,
        text=None if text is None else Named(text),
        gains=gains,
        provenance=made(
            command=["gaincell", *sys.argv[1:]],
            seed=0,
            protocol=protocol,
            design_hash=layers[0].design.hash if layers else None,
            inputs={f"model {name}": loaded.sha256, "evaluation text": hash_of(tokens)},
        ),
    )
