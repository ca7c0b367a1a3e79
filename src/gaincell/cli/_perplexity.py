"""Perplexity by its protocols, for `gaincell evaluate`: tables and results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import Tensor

from gaincell.arrays import Refresh
from gaincell.cli._models import head, in_arrays, load_evaluated, mismatch_of, numbers_of, one_row
from gaincell.cli._options import ComputingAnywhere
from gaincell.cli._progress import progress_bars
from gaincell.cli._tasks import by_tasks
from gaincell.cli.evaluate import DEFAULT_LIMIT, ChipOptions, Evaluation, window_of_rolling
from gaincell.errors import InputError
from gaincell.evaluation.chips import evaluate_chips
from gaincell.evaluation.context import describe_context, perplexity_by_context
from gaincell.evaluation.dump import dump_layer
from gaincell.evaluation.noise import noise_remark
from gaincell.evaluation.pause import perplexity_after_pause
from gaincell.evaluation.perplexity import cut_blocks, default_protocol, perplexity, window_and_stride
from gaincell.evaluation.repetition import describe_repetition, loss_by_repetition
from gaincell.evaluation.rolling import describe_rolling, documents_of, rolling_perplexity
from gaincell.integrations.hf.base_model import LoadedModel
from gaincell.integrations.hf.context import check_length, read_tokens
from gaincell.progress import StageProgress
from gaincell.reports.evaluation import OF_PAUSES, pause_rows, repetition_rows
from gaincell.reports.tables import Rows, digits, other_weights, readable
from gaincell.reports.task_chips import how_many, interval
from gaincell.results import evaluation as of
from gaincell.results.common import Named, Value
from gaincell.text import Text, open_text


def evaluate(asked: Evaluation, model: str, computing: ComputingAnywhere) -> tuple[Rows, of.EvaluationResult]:
    """Table and result of `gaincell evaluate`.

    Raises:
        GaincellError: what was asked for is not acceptable.
    """
    window, tasks = window_of_rolling(asked.protocol), asked.harness.tasks is not None
    text = None if tasks or window is not None else open_text(asked.text or "sample")
    loaded, gains = load_evaluated(
        model,
        computing,
        design=asked.design,
        cell=asked.cell,
        window=asked.window,
        other_latency=asked.other_latency,
        stage=asked.stage,
    )
    found: tuple[Rows, of.EvaluationResult]
    with progress_bars() as progress:
        if text is not None:
            found = _of_text(asked, loaded, text, progress)
            title = f", text {text.name} ({asked.part or 'evaluation'} part)"
        elif tasks:
            found, title = by_tasks(loaded, asked.harness, asked.limit or 0, asked.drawn, progress), ""
        else:
            path = asked.text or "sample"
            found = rolling(loaded, path, window or 0, asked.limit or 0, progress)
            title = f", text {Path(path).name}"
    table, entry = found
    title += "" if asked.stage is None else f", stage {asked.stage}"
    entry = replace(entry, stage=asked.stage, gains=gains if entry.design else None)
    caption = table.caption + other_weights(entry.dtype)
    return replace(table, title=f"{model}{title}", caption=caption), entry


def _of_text(
    asked: Evaluation, loaded: LoadedModel, text: Text, progress: StageProgress
) -> tuple[Rows, of.EvaluationResult]:
    """Table and result of an evaluation that reads a text as one stream of tokens."""
    protocol = asked.protocol or default_protocol(loaded.model)
    length, _ = window_and_stride(protocol)
    check_length(loaded.model, length)
    budget = DEFAULT_LIMIT if asked.limit is None else asked.limit or None
    reading, part = progress("read and tokenise the text"), asked.part or "evaluation"
    tokens = read_tokens(loaded, text, part, budget, reading, block=length)
    times, policy = asked.at or [0.0], asked.refresh.policy
    if asked.dump is not None:  # before what takes long: the layer may not be there
        block = cut_blocks(tokens, length)[:1]
        dump_layer(loaded.model, block, asked.layer or 0, asked.dump, scores=asked.scores)
    found: tuple[Rows, of.EvaluationResult]
    if asked.drawn.chips is not None:
        pause = (times[0], policy) if asked.pauses else None
        found = by_chips(loaded, tokens, protocol, pause, asked.drawn, progress)
    elif asked.pauses:
        found = after_pauses(loaded, tokens, times, length, policy, progress)
    elif asked.by_context:
        found = by_context(loaded, tokens, length, progress)
    elif asked.by_repetition:
        found = by_repetition(loaded, tokens, length, progress)
    else:
        found = blocks(loaded, tokens, protocol, progress, redraw=asked.redraw_noise)
    table, entry = found
    return table, replace(entry, text=Named(text.name))


def blocks(
    loaded: LoadedModel, tokens: Tensor, protocol: str, progress: StageProgress, *, redraw: bool = False
) -> tuple[Rows, of.PerplexityResult]:
    """Table and result of the protocols blocks-T and strided-T-S."""
    shown, tokenizer = progress("evaluate"), loaded.tokenizer
    found = perplexity(loaded.model, tokens, protocol, tokenizer=tokenizer, redraw=redraw, progress=shown)
    entry = of.PerplexityResult(
        **head(loaded, found.protocol, tokens),
        numbers=numbers_of(loaded),
        perplexity=found.perplexity,
        nll=found.nll,
        predictions=found.tokens,
        bits_per_byte=found.bits_per_byte,
        perplexity_error=found.perplexity_error,
    )
    row = {
        "perplexity": readable(found.perplexity),
        "standard error": readable(found.perplexity_error),
        "bits per byte": digits(found.bits_per_byte, 1, 4),
        "predictions": f"{found.tokens:,}",
    }
    return one_row(row, found.protocol), entry


def rolling(
    loaded: LoadedModel, text: str, window: int, limit: int, progress: StageProgress
) -> tuple[Rows, of.RollingResult]:
    """Table and result of the protocol rolling-T."""
    path = Path(text).expanduser()
    if not path.is_file():
        raise InputError(f"--protocol rolling-T takes a text file, but {text!r} is not one; give --text FILE")
    chosen = documents_of(path)[: limit or None]
    found = rolling_perplexity(loaded.model, loaded.tokenizer, chosen, window, progress("evaluate"))
    protocol = describe_rolling(window, len(chosen)) + noise_remark(loaded.model)
    entry = of.RollingResult(
        **head(loaded, protocol, chosen),
        text=Named(path.name),
        numbers=numbers_of(loaded),
        **vars(found),
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
    points = perplexity_by_context(loaded.model, tokens, length, progress=progress("evaluate"))
    protocol = describe_context(length, len(tokens) // length) + noise_remark(loaded.model)
    rounded = (replace(p, per_block=tuple(round(x, 6) for x in p.per_block)) for p in points)
    entry = of.ContextResult(
        **head(loaded, protocol, tokens),
        numbers=numbers_of(loaded),
        context=tuple(rounded),
    )
    rows = [
        (f"{p.context:,}", readable(p.perplexity), f"{p.excess:.4f}", digits(p.excess_error, 1, 4))
        for p in points
    ]
    return Rows("", ("context", "perplexity", "nats above the longest", "±"), rows, protocol, text=()), entry


def by_repetition(
    loaded: LoadedModel, tokens: Tensor, length: int, progress: StageProgress
) -> tuple[Rows, of.RepetitionResult]:
    """Table and result of the protocol repetition-T."""
    points = loss_by_repetition(loaded.model, tokens, length, progress=progress("evaluate"))
    protocol = describe_repetition(length, len(tokens) // length) + noise_remark(loaded.model)
    rounded = (replace(p, sums=tuple(round(x, 4) for x in p.sums)) for p in points)
    entry = of.RepetitionResult(
        **head(loaded, protocol, tokens),
        numbers=numbers_of(loaded),
        repetition=tuple(rounded),
    )
    return replace(repetition_rows({"": entry}), caption=protocol), entry


def after_pauses(
    loaded: LoadedModel,
    tokens: Tensor,
    times: list[float],
    length: int,
    refresh: Refresh,
    progress: StageProgress,
) -> tuple[Rows, of.PausesResult]:
    """Table and result of the protocol pause-T."""
    pauses = []
    for time in sorted(times):
        shown = progress(f"evaluate after {time:g} s")
        found = perplexity_after_pause(loaded.model, tokens, time, length, refresh=refresh, progress=shown)
        pauses.append(found.row)
    every = None
    if refresh.every_tokens is not None:
        every = Value(refresh.every_tokens, "tokens", "simulated")
    if refresh.every_seconds is not None:
        every = Value(refresh.every_seconds, "s", "simulated")
    entry = of.PausesResult(
        **in_arrays(head(loaded, found.protocol, tokens)),
        refresh=of.RefreshPolicy(refresh.kind, every),
        pauses=tuple(pauses),
    )
    return replace(pause_rows({"": entry}), caption=f"{found.protocol}; {OF_PAUSES}"), entry


def by_chips(
    loaded: LoadedModel,
    tokens: Tensor,
    protocol: str,
    pause: tuple[float, Refresh] | None,
    options: ChipOptions,
    progress: StageProgress,
) -> tuple[Rows, of.ChipsResult]:
    """Table and result of a perplexity on many chips, where one is given after a pause."""
    length, _ = window_and_stride(protocol)
    words: list[str] = []

    def measure() -> float:
        if pause is not None:
            after = perplexity_after_pause(loaded.model, tokens, pause[0], length, refresh=pause[1])
            words.append(f"{after.protocol}, {pause[0]:g} s, refresh {pause[1]}")
            return after.row.perplexity
        found = perplexity(loaded.model, tokens, protocol)
        words.append(found.protocol)
        return found.perplexity

    assert options.chips is not None
    own, every = (noise_remark(loaded.model, chips=chips) for chips in (False, True))
    mismatch, bar = mismatch_of(options, loaded), progress("chips")
    found = evaluate_chips(loaded.model, measure, options.chips, mismatch, options.good, bar)
    low, high = found.yield_interval
    described = words[0].replace(own, every)
    caption = (
        f"{described}; {how_many(found.number)} and the nominal one on the same text; intervals of 95 %, of "
        f"the ratio over chips (Student), of the yield (Wilson): {100 * low:.0f} to {100 * high:.0f} %"
    )
    row = {
        "nominal": readable(found.nominal),
        "mean": readable(found.mean),
        "std": readable(found.std),
        "× nominal": f"{found.ratio:.4f}",
        "95 %": interval(found.ratio_interval),
        "worst chip": f"{readable(max(found.perplexity))} (no. {found.worst})",
        f"yield (≤ +{100 * found.yield_within:g} %)": f"{100 * found.yield_:.0f} %",
    }
    entry = of.ChipsResult(**head(loaded, described, tokens, seed=mismatch.seed), chips=found)
    return one_row(row, caption), entry
