"""Perplexity by its protocols, for `gaincell evaluate`: tables and results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from gaincell.cli._json import command_line
from gaincell.cli._options import check_run, choose_chip

if TYPE_CHECKING:
    from gaincell.arrays import Refresh
    from gaincell.backend_names import BackendName
    from gaincell.integrations.hf.base_model import LoadedModel
    from gaincell.progress import StageProgress
    from gaincell.reports.tables import Rows
    from gaincell.results.codec import Kind
    from gaincell.results.evaluation import (
        ContextResult,
        EvaluationResult,
        PausesResult,
        PerplexityResult,
        RepetitionResult,
        RollingResult,
    )


def load_run(
    run: str, purpose: str, design: str | None, backend: BackendName, stage: str | None
) -> tuple[LoadedModel, str]:
    """A RUN or a stage of it, on another chip if one is named, and in words what it is, which is printed.

    Raises GaincellError, before it is loaded, where it is none, or the chip is not acceptable; after, where
    the stage is in software.
    """
    from gaincell.errors import InputError
    from gaincell.integrations.hf.attach import attached_layers
    from gaincell.integrations.hf.chip import as_saved, change_chip, set_backend
    from gaincell.integrations.hf.models import load_model

    check_run(run, purpose)
    choose_chip(run, design)
    loaded = load_model(run, stage=stage)
    if not attached_layers(loaded.model):
        raise InputError(f"stage {stage} of {run} is in software; name one in arrays")
    gains = as_saved(stage) + change_chip(loaded.model, design)
    set_backend(loaded.model, backend)
    typer.echo(f"{run}: {gains}")
    return loaded, gains


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
) -> tuple[Rows, PerplexityResult]:
    """Table and result of the protocols blocks-T and strided-T-S."""
    from gaincell.evaluation.perplexity import perplexity
    from gaincell.reports.tables import Rows, readable
    from gaincell.results.evaluation import PerplexityResult

    found = perplexity(
        loaded.model,
        tokens,
        protocol,
        tokenizer=loaded.tokenizer,
        redraw=redraw,
        progress=progress("evaluate"),
    )
    head = result(loaded, found.protocol, tokens)
    entry = PerplexityResult(
        **vars(head),
        numbers=_kind(head),
        perplexity=found.perplexity,
        nll=found.nll,
        predictions=found.tokens,
        bits_per_byte=found.bits_per_byte,
        perplexity_error=found.perplexity_error,
    )
    error, bits = found.perplexity_error, found.bits_per_byte
    row = (
        readable(found.perplexity),
        "–" if error is None else readable(error),
        "–" if bits is None else f"{bits:.4f}",
        f"{found.tokens:,}",
    )
    headings = ("perplexity", "standard error", "bits per byte", "predictions")
    return Rows("", headings, [row], found.protocol, text=()), entry


def rolling(
    loaded: LoadedModel, text: str, window: int, limit: int, progress: StageProgress
) -> tuple[Rows, RollingResult]:
    """Table and result of the protocol rolling-T."""
    from gaincell.errors import InputError
    from gaincell.evaluation.noise import noise_remark
    from gaincell.evaluation.rolling import describe_rolling, documents_of, rolling_perplexity
    from gaincell.reports.tables import Rows, readable
    from gaincell.results.evaluation import RollingResult

    path = Path(text).expanduser()
    if not path.is_file():
        raise InputError(f"--protocol rolling-T takes a text file, and {text!r} is none")
    chosen = documents_of(path)[: limit or None]
    found = rolling_perplexity(loaded.model, loaded.tokenizer, chosen, window, progress("evaluate"))
    protocol = describe_rolling(window, len(chosen)) + noise_remark(loaded.model)
    head = result(loaded, protocol, chosen, text=path.name)
    entry = RollingResult(**vars(head), numbers=_kind(head), **vars(found))
    error = found.word_perplexity_error
    row = (
        readable(found.word_perplexity),
        "–" if error is None else readable(error),
        readable(found.token_perplexity),
        f"{found.byte_perplexity:.4f}",
        f"{found.bits_per_byte:.4f}",
        f"{found.words:,}",
    )
    headings = ("perplexity by words", "±", "by tokens", "by bytes", "bits per byte", "words")
    return Rows("", headings, [row], protocol, text=()), entry


def by_context(
    loaded: LoadedModel, tokens: Any, length: int, progress: StageProgress
) -> tuple[Rows, ContextResult]:
    """Table and result of the protocol context-T."""
    from gaincell.evaluation.context import describe_context, perplexity_by_context
    from gaincell.evaluation.noise import noise_remark
    from gaincell.reports.tables import Rows, readable
    from gaincell.results.evaluation import ContextResult

    points = perplexity_by_context(loaded.model, tokens, length, progress=progress("evaluate"))
    protocol = describe_context(length, len(tokens) // length) + noise_remark(loaded.model)
    head = result(loaded, protocol, tokens)
    rounded = (replace(p, per_block=tuple(round(x, 6) for x in p.per_block)) for p in points)
    entry = ContextResult(**vars(head), numbers=_kind(head), context=tuple(rounded))
    rows = [
        (
            f"{point.context:,}",
            readable(point.perplexity),
            f"{point.excess:.4f}",
            "–" if point.excess_error is None else f"{point.excess_error:.4f}",
        )
        for point in points
    ]
    return Rows("", ("context", "perplexity", "nats above the longest", "±"), rows, protocol, text=()), entry


def by_repetition(
    loaded: LoadedModel, tokens: Any, length: int, progress: StageProgress
) -> tuple[Rows, RepetitionResult]:
    """Table and result of the protocol repetition-T."""
    from gaincell.evaluation.noise import noise_remark
    from gaincell.evaluation.repetition import describe_repetition, loss_by_repetition
    from gaincell.reports.tables import Rows, readable
    from gaincell.results.evaluation import RepetitionResult

    points = loss_by_repetition(loaded.model, tokens, length, progress=progress("evaluate"))
    protocol = describe_repetition(length, len(tokens) // length) + noise_remark(loaded.model)
    head = result(loaded, protocol, tokens)
    rounded = (replace(p, sums=tuple(round(x, 4) for x in p.sums)) for p in points)
    entry = RepetitionResult(**vars(head), numbers=_kind(head), repetition=tuple(rounded))
    rows = [(p.kind, readable(p.perplexity), f"{p.nll:.3f}", f"{p.tokens:,}") for p in points]
    headings = ("tokens", "perplexity", "nats a token", "predictions")
    return Rows("", headings, rows, protocol), entry


def after_pauses(
    loaded: LoadedModel,
    tokens: Any,
    times: list[float],
    length: int,
    refresh: Refresh,
    progress: StageProgress,
) -> tuple[Rows, PausesResult]:
    """Table and result of the protocol pause-T."""
    from gaincell.evaluation.pause import perplexity_after_pause
    from gaincell.reports.tables import Rows, readable
    from gaincell.results.common import Value
    from gaincell.results.evaluation import PausesResult, RefreshPolicy

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
    pauses, protocol = tuple(row for row, _ in found), found[0][1]
    every = None
    if refresh.every_tokens is not None:
        every = Value(refresh.every_tokens, "tokens", "simulated")
    if refresh.every_seconds is not None:
        every = Value(refresh.every_seconds, "s", "simulated")
    policy = RefreshPolicy(refresh.kind, every)
    entry = PausesResult(**vars(result(loaded, protocol, tokens)), refresh=policy, pauses=pauses)
    caption = (
        f"{protocol}; ± is the standard error; time on the chip, refreshes, the time they take, and columns "
        "written in every key/value head: of one block"
    )
    rows = [
        (
            f"{row.idle:g}",
            readable(row.perplexity),
            "–" if row.perplexity_error is None else readable(row.perplexity_error),
            f"{row.chip_time:.4g}",
            f"{row.refreshes:,}",
            f"{row.refreshing:.3g}",
            f"{row.writes:,}",
        )
        for row in pauses
    ]
    headings = ("idle, s", "perplexity", "±", "chip, s", "refreshes", "taking, s", "writes")
    return Rows("", headings, rows, caption, text=()), entry


def _kind(head: EvaluationResult) -> Kind:
    """Of the numbers: a chip is simulated, software is measured."""
    return "simulated" if head.design else "measured"


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
            command=command_line(),
            seed=0,
            protocol=protocol,
            design_hash=layers[0].design.hash if layers else None,
            inputs={f"model {name}": loaded.sha256, "evaluation text": hash_of(tokens)},
        ),
    )
