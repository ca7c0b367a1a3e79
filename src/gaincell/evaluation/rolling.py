"""Perplexity of whole documents by words, bytes and tokens, in the way of the field's evaluation harness.

Protocol `rolling-T`: every document is one sequence of tokens t_1 ... t_n after an end-of-text token. All n
are predicted, in windows of T tokens that do not overlap; the last is filled up with tokens before it, which
are context only.
With the natural logarithm, over all documents,

    word perplexity = exp(- sum log p(t_i | window so far) / words),     by bytes and tokens likewise,

where words are separated by white space in the text as it is published. WikiText is published with its tokens
set apart (" , ", " @-@ "); what a model reads is the text put back together (`detokenised`).

Source: lm-evaluation-harness, task wikitext and its `loglikelihood_rolling` with context length 1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from gaincell.errors import InputError, ModelError
from gaincell.evaluation.perplexity import LARGEST_BATCH, LOGIT_BYTES, next_token_nll
from gaincell.integrations.hf.context import check_ids, check_length
from gaincell.progress import Progress, silent
from gaincell.standard_error import exp_or_infinity, ratio_error
from gaincell.text import END_OF_TEXT, LARGEST_SPLIT_FILE, read_lines

TITLE = re.compile(r"^ = [^=].* = $")


@dataclass(frozen=True)
class RollingPerplexity:
    """nll: of all documents, nats.  tokens: predicted.  words, bytes: of the published text.
    documents: how many.  window: T.  per_document: nll, tokens, words and bytes of each.
    """

    nll: float
    tokens: int
    words: int
    bytes: int
    documents: int
    window: int
    per_document: tuple[tuple[float, int, int, int], ...]

    @property
    def word_perplexity(self) -> float:
        """exp(nll / words)."""
        return exp_or_infinity(self.nll / self.words)

    @property
    def word_perplexity_error(self) -> float | None:
        """Its standard error over documents (first order)."""
        error = ratio_error([nll for nll, *_ in self.per_document], [d[2] for d in self.per_document])
        return None if error is None else self.word_perplexity * error

    @property
    def token_perplexity(self) -> float:
        """exp(nll / tokens)."""
        return exp_or_infinity(self.nll / self.tokens)

    @property
    def byte_perplexity(self) -> float:
        """exp(nll / bytes)."""
        return exp_or_infinity(self.nll / self.bytes)

    @property
    def bits_per_byte(self) -> float:
        """nll / (ln 2 bytes)."""
        return self.nll / (math.log(2) * self.bytes)


def describe_rolling(window: int, documents: int) -> str:
    """The protocol in words."""
    return (
        f"rolling-{window}: {documents} documents, all tokens predicted in windows of {window}, as "
        "lm-evaluation-harness does; ± is the standard error over documents"
    )


def documents_of(path: Path) -> list[str]:
    """Documents of a text file: articles of one in WikiText's layout, else what lies between `<|endoftext|>`
    lines.

    Raises:
        InputError: the file cannot be read.
    """
    lines = list(read_lines(path, LARGEST_SPLIT_FILE))
    if any(TITLE.match(line) for line in lines):
        return list(articles(lines))
    found: list[list[str]] = [[]]
    for line in lines:
        if line.strip() == END_OF_TEXT:
            found.append([])
        else:
            found[-1].append(line)
    return [text for text in ("\n".join(document).strip("\n") for document in found) if text.strip()]


def articles(lines: Iterable[str]) -> Iterator[str]:
    """The articles of a WikiText file in its published layout: each begins at a line ` = Title = `."""
    article: list[str] = []
    for line in lines:
        if TITLE.match(line) and any(text.strip() for text in article):
            yield "\n".join(article) + "\n"
            article = []
        article.append(line)
    if any(text.strip() for text in article):
        yield "\n".join(article) + "\n"


def detokenised(text: str) -> str:
    """WikiText as it was before its tokens were set apart."""
    for pattern, put in (
        ("s '", "s'"),
        (r"/' [0-9]/", r"/'[0-9]/"),
        (" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", "."),
        (" : ", ": "), (" ; ", "; "), (" . ", ". "), (" ! ", "! "), (" ? ", "? "), (" , ", ", "),
        (r"\(\s*([^\)]*?)\s*\)", r"(\1)"), (r"\[\s*([^\]]*?)\s*\]", r"[\1]"),
        (r"{\s*([^}]*?)\s*}", r"{\1}"), (r"\"\s*([^\"]*?)\s*\"", r'"\1"'), (r"'\s*([^']*?)\s*'", r"'\1'"),
        ("= = = =", "===="), ("= = =", "==="), ("= =", "=="),
        (" " + chr(176) + " ", chr(176)), (" \n", "\n"), ("\n ", "\n"), (" N ", " 1 "), (" 's", "'s"),
    ):  # fmt: skip
        text = re.sub(pattern, put, text) if "\\" in pattern else text.replace(pattern, put)
    return text


def windows(tokens: Sequence[int], prefix: int, length: int) -> Iterator[tuple[list[int], int]]:
    """Sequences of at most `length` + 1 tokens, and of how many of their last ones the prediction counts."""
    whole = [prefix, *tokens]
    for start in range(0, len(tokens), length):
        end = min(start + length, len(tokens))
        first = max(0, end - length)
        yield whole[first : end + 1], end - start


@torch.no_grad()
def rolling_perplexity(
    model: nn.Module,
    tokenizer: Any,
    documents: Sequence[str],
    window: int = 1024,
    progress: Progress = silent,
) -> RollingPerplexity:
    """Rolling perplexity of a causal language model (see the head of this file).

    Args:
        model: of transformers, attached or not.
        tokenizer: its tokenizer, with an end-of-text token.
        documents: in their published form, such as `articles` gives.
        window: T, at least 2.
        progress: called after every forward pass with (tokens done, tokens in all).

    Raises:
        InputError: no documents, no end-of-text token, a token that the model lacks, or a window below 2
            or beyond its context.
        ModelError: a log-likelihood is not finite.
    """
    prefix = getattr(tokenizer, "eos_token_id", None)
    if prefix is None or window < 2 or not documents:
        raise InputError("rolling perplexity needs documents, an end-of-text token and a window of 2 or more")
    check_length(model, window)
    pieces: list[tuple[int, list[int], int]] = []
    for number, document in enumerate(documents):
        ids = tokenizer(detokenised(document), add_special_tokens=False, verbose=False)["input_ids"]
        check_ids(model, torch.tensor([prefix, *ids]))
        pieces += [(number, piece, counted) for piece, counted in windows(ids, prefix, window)]
    pieces.sort(key=lambda piece: len(piece[1]))  # so that those of one length can share a forward pass
    nll, predicted = [0.0] * len(documents), [0] * len(documents)
    for number, _, counted in pieces:
        predicted[number] += counted
    total, done, start = sum(counted for *_, counted in pieces), 0, 0
    device = next(model.parameters()).device
    model.eval()
    while start < len(pieces):
        length = len(pieces[start][1])
        vocabulary = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
        most = max(1, min(LARGEST_BATCH, LOGIT_BYTES // (length * vocabulary * 4)))
        some = [piece for piece in pieces[start : start + most] if len(piece[1]) == length]
        ids_of: Int[Tensor, "B T"] = torch.tensor([piece for _, piece, _ in some], device=device)
        logits = model(input_ids=ids_of[:, :-1], use_cache=False).logits
        losses = next_token_nll(_with_last(logits), ids_of)
        for (number, _, counted), loss in zip(some, losses, strict=True):
            nll[number] += float(loss[-counted:].sum())
            done += counted
        start += len(some)
        progress(done, total, {})
    if not all(map(math.isfinite, nll)):
        raise ModelError(
            "the model's log-likelihood is not a finite number; look for NaN or infinite weights"
        )
    words = [len(re.split(r"\s+", document)) for document in documents]
    sizes = [len(document.encode()) for document in documents]
    return RollingPerplexity(
        nll=sum(nll),
        tokens=total,
        words=sum(words),
        bytes=sum(sizes),
        documents=len(documents),
        window=window,
        per_document=tuple(zip(nll, predicted, words, sizes, strict=True)),
    )


def _with_last(logits: Tensor) -> Tensor:
    """Logits with one position more, whose prediction nobody asks for."""
    return torch.cat([logits, logits[:, -1:]], 1)
