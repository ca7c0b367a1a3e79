"""Perplexity by its protocols, for `gaincell evaluate`: tables and results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gaincell.cli._models import result
from gaincell.errors import InputError
from gaincell.quantity import whole_number
from gaincell.reports.tables import Rows, readable
from gaincell.results import evaluation as of
from gaincell.results.codec import Kind
from gaincell.results.common import Value

if TYPE_CHECKING:
    from torch import Tensor

    from gaincell.arrays import Refresh
    from gaincell.integrations.hf.base_model import LoadedModel
    from gaincell.progress import StageProgress


def window_of_rolling(protocol: str | None) -> int | None:
    """T of the protocol `rolling-T`, None for another protocol."""
    kind, _, window = (protocol or "").partition("-")
    if kind != "rolling":
        return None
    if (length := whole_number(window)) is None or length < 2:
        raise InputError(f"protocol {protocol!r}: give rolling-T with T >= 2, such as rolling-1024")
    return length


def blocks(
    loaded: LoadedModel, tokens: Tensor, protocol: str, progress: StageProgress, *, redraw: bool = False
) -> tuple[Rows, of.PerplexityResult]:
    """Table and result of the protocols blocks-T and strided-T-S."""
    from gaincell.evaluation.perplexity import perplexity

    shown, tokenizer = progress("evaluate"), loaded.tokenizer
    found = perplexity(loaded.model, tokens, protocol, tokenizer=tokenizer, redraw=redraw, progress=shown)
    entry = of.PerplexityResult(
        **_head(loaded, found.protocol, tokens),
        perplexity=found.perplexity,
        nll=found.nll,
        predictions=found.tokens,
        bits_per_byte=found.bits_per_byte,
        perplexity_error=found.perplexity_error,
    )
    row = {
        "perplexity": readable(found.perplexity),
        "standard error": readable(found.perplexity_error),
        "bits per byte": with_four_digits(found.bits_per_byte),
        "predictions": f"{found.tokens:,}",
    }
    return one_row(row, found.protocol), entry


def rolling(
    loaded: LoadedModel, text: str, window: int, limit: int, progress: StageProgress
) -> tuple[Rows, of.RollingResult]:
    """Table and result of the protocol rolling-T."""
    from gaincell.evaluation.noise import noise_remark
    from gaincell.evaluation.rolling import describe_rolling, documents_of, rolling_perplexity

    path = Path(text).expanduser()
    if not path.is_file():
        raise InputError(f"--protocol rolling-T takes a text file, and {text!r} is none")
    chosen = documents_of(path)[: limit or None]
    found = rolling_perplexity(loaded.model, loaded.tokenizer, chosen, window, progress("evaluate"))
    protocol = describe_rolling(window, len(chosen)) + noise_remark(loaded.model)
    entry = of.RollingResult(
        **_head(loaded, protocol, chosen, path.name),
        word_perplexity=found.word_perplexity,
        token_perplexity=found.token_perplexity,
        byte_perplexity=found.byte_perplexity,
        bits_per_byte=found.bits_per_byte,
        nll=found.nll,
        words=found.words,
        bytes=found.bytes,
        predictions=found.tokens,
        documents=found.documents,
        word_perplexity_error=found.word_perplexity_error,
    )
    row = {
        "perplexity by words": readable(found.word_perplexity),
        "±": readable(found.word_perplexity_error),
        "by tokens": readable(found.token_perplexity),
        "by bytes": f"{found.byte_perplexity:.4f}",
        "bits per byte": f"{found.bits_per_byte:.4f}",
        "words": f"{found.words:,}",
    }
    return one_row(row, protocol), entry


def by_context(
    loaded: LoadedModel, tokens: Tensor, length: int, progress: StageProgress
) -> tuple[Rows, of.ContextResult]:
    """Table and result of the protocol context-T."""
    from gaincell.evaluation.context import describe_context, perplexity_by_context
    from gaincell.evaluation.noise import noise_remark

    points = perplexity_by_context(loaded.model, tokens, length, progress=progress("evaluate"))
    protocol = describe_context(length, len(tokens) // length) + noise_remark(loaded.model)
    rounded = (replace(p, per_block=tuple(round(x, 6) for x in p.per_block)) for p in points)
    entry = of.ContextResult(**_head(loaded, protocol, tokens), context=tuple(rounded))
    rows = [
        (f"{p.context:,}", readable(p.perplexity), f"{p.excess:.4f}", with_four_digits(p.excess_error))
        for p in points
    ]
    return Rows("", ("context", "perplexity", "nats above the longest", "±"), rows, protocol, text=()), entry


def by_repetition(
    loaded: LoadedModel, tokens: Tensor, length: int, progress: StageProgress
) -> tuple[Rows, of.RepetitionResult]:
    """Table and result of the protocol repetition-T."""
    from gaincell.evaluation.noise import noise_remark
    from gaincell.evaluation.repetition import describe_repetition, loss_by_repetition

    points = loss_by_repetition(loaded.model, tokens, length, progress=progress("evaluate"))
    protocol = describe_repetition(length, len(tokens) // length) + noise_remark(loaded.model)
    rounded = (replace(p, sums=tuple(round(x, 4) for x in p.sums)) for p in points)
    entry = of.RepetitionResult(**_head(loaded, protocol, tokens), repetition=tuple(rounded))
    rows = [(p.kind, readable(p.perplexity), f"{p.nll:.3f}", f"{p.tokens:,}") for p in points]
    return Rows("", ("tokens", "perplexity", "nats a token", "predictions"), rows, protocol), entry


def after_pauses(
    loaded: LoadedModel,
    tokens: Tensor,
    times: list[float],
    length: int,
    refresh: Refresh,
    progress: StageProgress,
) -> tuple[Rows, of.PausesResult]:
    """Table and result of the protocol pause-T."""
    from gaincell.evaluation.pause import perplexity_after_pause

    pauses = []
    for time in sorted(times):
        shown = progress(f"evaluate after {time:g} s")
        pause = perplexity_after_pause(loaded.model, tokens, time, length, refresh=refresh, progress=shown)
        found = pause.found
        stored = (pause.chip_time, pause.refreshes, pause.refreshing, pause.writes)
        pauses.append(of.PauseRow(time, found.perplexity, found.perplexity_error, found.tokens, *stored))
    every = None
    if refresh.every_tokens is not None:
        every = Value(refresh.every_tokens, "tokens", "simulated")
    if refresh.every_seconds is not None:
        every = Value(refresh.every_seconds, "s", "simulated")
    head = result(loaded, found.protocol, tokens)
    policy = of.RefreshPolicy(refresh.kind, every)
    caption = (
        f"{found.protocol}; ± is the standard error; time on the chip, refreshes, the time they take, and "
        "columns written in every key/value head: of one block"
    )
    rows = Rows.of(
        "",
        pauses,
        {
            "idle, s": lambda row: f"{row.idle:g}",
            "perplexity": lambda row: readable(row.perplexity),
            "±": lambda row: readable(row.perplexity_error),
            "chip, s": lambda row: f"{row.chip_time:.4g}",
            "refreshes": lambda row: f"{row.refreshes:,}",
            "taking, s": lambda row: f"{row.refreshing:.3g}",
            "writes": lambda row: f"{row.writes:,}",
        },
        caption=caption,
        text=(),
    )
    return rows, of.PausesResult(**vars(head), refresh=policy, pauses=tuple(pauses))


def one_row(row: dict[str, str], caption: str) -> Rows:
    """A table of numbers by their headings."""
    return Rows("", (*row,), [(*row.values(),)], caption, text=())


def with_four_digits(number: float | None) -> str:
    """A number; a dash where there is none."""
    return "–" if number is None else f"{number:.4f}"


def _head(loaded: LoadedModel, protocol: str, tokens: Any, text: str | None = None) -> dict[str, Any]:
    """What all results say. The numbers of a chip are simulated, those of software are measured."""
    head = result(loaded, protocol, tokens, text=text)
    kind: Kind = "simulated" if head.design else "measured"
    return vars(head) | {"numbers": kind}
