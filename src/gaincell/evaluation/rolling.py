"""Perplexity of whole documents by words, bytes and tokens, in the way of the field's evaluation harness.

Protocol `rolling-T`: every document is one sequence of tokens t_1 ... t_n after the token that begins a text
(bos), or ends one (eos) for a tokenizer without. All n are predicted, in windows of T tokens that do not
overlap; the last is filled up with tokens before it, which are context only. A tokenizer that puts tokens
around every text itself does so here, and they are predicted, too.
With the natural logarithm, over all documents,

    word perplexity = exp(- sum log p(t_i | window so far) / words),     by bytes and tokens likewise,

where words are separated by white space in the text as it is published. WikiText is published with its tokens
set apart (" , ", " @-@ "); what a model reads is the text put back together (`detokenised`). A document is
taken for one of WikiText where it has a line ` = Title = `; others are read as they are.

Source: lm-evaluation-harness, task wikitext and its `loglikelihood_rolling` with context length 1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gaincell.errors import InputError
from gaincell.evaluation.perplexity import blocks_at_once, check_finite, next_token_nll
from gaincell.integrations.hf.context import check_ids, check_length
from gaincell.progress import Progress, silent
from gaincell.results.evaluation import RollingPerplexity
from gaincell.standard_error import exp_or_infinity, ratio_error
from gaincell.text import END_OF_TEXT, LARGEST_SPLIT_FILE, read_lines

TITLE = re.compile(r"^ = [^=].* = $")


def describe_rolling(window: int, documents: int) -> str:
    """The protocol in words."""
    return (
        f"rolling-{window}: {documents} documents, all tokens predicted in windows of {window}, after bos "
        "(else eos), as lm-evaluation-harness does; ± is the standard error over documents"
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
    groups = groupby(lines, lambda line: line.strip() == END_OF_TEXT)
    texts = ("\n".join(document).strip("\n") for is_end, document in groups if not is_end)
    return [text for text in texts if text.strip()]


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


def read_as(document: str) -> str:
    """What a model reads of a document."""
    return detokenised(document) if any(map(TITLE.match, document.split("\n"))) else document


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
        model: Of transformers, attached or not.
        tokenizer: With a token that begins or ends a text.
        documents: In their published form, such as `articles` gives.
        window: T, at least 2.
        progress: Called after every forward pass with (tokens done, tokens in all).

    Raises:
        InputError: no documents, no such token, a token that the model lacks, or a window below 2 or beyond
            its context.
        ModelError: a log-likelihood is not finite.
    """
    ends = (getattr(tokenizer, f"{end}_token_id", None) for end in ("bos", "eos"))
    prefix = next((token for token in ends if token is not None), None)
    if prefix is None or window < 2 or not documents:
        raise InputError(
            "rolling perplexity needs documents, a tokenizer with a token that begins or ends a text, and a "
            "window of 2 or more"
        )
    check_length(model, window)
    pieces: list[tuple[int, list[int], int]] = []
    for number, document in enumerate(documents):
        text = read_as(document)
        own = not text.startswith(tokenizer.decode(prefix))  # as the harness has it
        ids = tokenizer(text, add_special_tokens=own, verbose=False)["input_ids"]
        check_ids(model, torch.tensor([prefix, *ids]))
        pieces += [(number, piece, counted) for piece, counted in windows(ids, prefix, window)]
    pieces.sort(key=lambda piece: len(piece[1]))  # so that those of one length can share a forward pass
    nll = [0.0] * len(documents)
    total, done = sum(counted for *_, counted in pieces), 0
    device = next(model.parameters()).device
    model.eval()
    for length, alike in groupby(pieces, key=lambda piece: len(piece[1])):
        same, most = list(alike), blocks_at_once(model, length)
        for some in (same[n : n + most] for n in range(0, len(same), most)):
            batch = torch.tensor([piece for _, piece, _ in some], device=device)
            logits = model(input_ids=batch[:, :-1], use_cache=False).logits
            logits = torch.cat([logits, logits[:, -1:]], 1)  # a position more, which nobody asks for
            for (number, _, counted), loss in zip(some, next_token_nll(logits, batch), strict=True):
                nll[number] += float(loss[-counted:].sum())
                done += counted
            progress(done, total, {})
    check_finite(torch.tensor(nll, dtype=torch.float64))
    words = [len(re.split(r"\s+", document)) for document in documents]
    sizes = [len(document.encode()) for document in documents]
    whole, found = sum(nll), exp_or_infinity(sum(nll) / sum(words))
    error = ratio_error(nll, words)
    return RollingPerplexity(
        word_perplexity=found,
        token_perplexity=exp_or_infinity(whole / total),
        byte_perplexity=exp_or_infinity(whole / sum(sizes)),
        bits_per_byte=whole / (math.log(2) * sum(sizes)),
        nll=whole,
        words=sum(words),
        bytes=sum(sizes),
        predictions=total,
        documents=len(documents),
        word_perplexity_error=None if error is None else found * error,
    )
