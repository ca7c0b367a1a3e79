"""Word perplexity of a WikiText file, for `gaincell evaluate --protocol words-T`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gaincell.evaluation.rolling import WordPerplexity
    from gaincell.integrations.hf.sources import LoadedModel
    from gaincell.progress import StageProgress
    from gaincell.reports.results import Kind


def window_of(protocol: str | None) -> int | None:
    """T of the protocol `words-T`, None for another protocol."""
    from gaincell.errors import InputError

    kind, _, window = (protocol or "").partition("-")
    if kind != "words":
        return None
    if not window.isdigit() or int(window) < 2:
        raise InputError(f"protocol {protocol!r}: give words-T with T >= 2, such as words-1024")
    return int(window)


def by_words(
    loaded: LoadedModel, text: str, window: int, limit: int, progress: StageProgress
) -> tuple[Any, dict[str, Any], list[str]]:
    """Table and result; the articles that were evaluated."""
    from gaincell.errors import InputError
    from gaincell.evaluation.rolling import articles, word_perplexity
    from gaincell.reports import results
    from gaincell.text import read_lines

    path = Path(text).expanduser()
    if not path.is_file():
        raise InputError(f"--protocol words-T takes a WikiText file, and {text!r} is none")
    chosen = list(articles(read_lines(path)))[: limit or None]
    found = word_perplexity(loaded.model, loaded.tokenizer, chosen, window, progress("evaluate"))
    kind: Kind = "simulated" if _in_arrays(loaded) else "measured"
    entry = {
        "word_perplexity": results.value(found.word_perplexity, "1", kind),
        "word_perplexity_error": results.value(_error(found), "1", kind),
        "token_perplexity": results.value(found.token_perplexity, "1", kind),
        "bits_per_byte": results.value(found.bits_per_byte, "bit/byte", kind),
        "nll": results.value(found.nll, "nat", kind),
        "words": results.value(found.words, "words", "measured"),
        "predictions": results.value(found.tokens, "tokens", "measured"),
        "documents": results.value(found.documents, "documents", "measured"),
    }
    return _table(found), entry, chosen


def describe(window: int, documents: int) -> str:
    """The protocol in words."""
    return (
        f"words-{window}: {documents} documents, all tokens predicted in windows of {window} (rolling, as "
        "lm-evaluation-harness does); ± is the standard error over documents"
    )


def _error(found: WordPerplexity) -> float:
    """Standard error of the word perplexity, first order: of a ratio of sums over documents."""
    mean = found.nll / found.words
    squares = sum((nll - mean * words) ** 2 for nll, words in found.per_document)
    n = found.documents
    spread = math.sqrt(squares * n / max(1, n - 1)) / found.words
    return found.word_perplexity * spread


def _in_arrays(loaded: LoadedModel) -> bool:
    from gaincell.integrations.hf.attach import attached_layers

    return bool(attached_layers(loaded.model))


def _table(found: WordPerplexity) -> Any:
    from rich.table import Table

    from gaincell.reports.tables import readable

    table = Table(caption=describe(found.window, found.documents), caption_justify="left")
    for heading in ("word perplexity", "±", "token perplexity", "bits per byte", "words"):
        table.add_column(heading, justify="right")
    table.add_row(
        readable(found.word_perplexity),
        readable(_error(found)),
        readable(found.token_perplexity),
        f"{found.bits_per_byte:.4f}",
        f"{found.words:,}",
    )
    return table
