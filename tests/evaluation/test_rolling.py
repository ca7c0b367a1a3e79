"""Word perplexity: windows, text and sums as the evaluation harness has them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tests.micro import micro_llama, write_micro

from gaincell.errors import InputError
from gaincell.evaluation.rolling import (
    articles,
    detokenised,
    documents_of,
    read_as,
    rolling_perplexity,
    windows,
)
from gaincell.integrations.hf.models import load_model
from gaincell.standard_error import ratio_error

WIKITEXT = """
 = One article = 

 It has a section , and 1 @,@ 000 words ; " quoted " ones ( in brackets ) too . 

 = = Section = = 

 The well @-@ known end 's here . 

 = Another = 

 With a lake 's 3 @.@ 5 m . 
"""  # noqa: W291


def test_articles_and_their_text() -> None:
    found = list(articles(WIKITEXT.split("\n")))
    assert [article.split("\n")[0] for article in found] == ["", " = Another = "]
    assert sum(len(article.split()) for article in found) == len(WIKITEXT.split())
    text = detokenised(found[0])
    assert '1,000 words; "quoted" ones (in brackets) too.' in text
    assert "well-known end's here." in text
    assert "== Section ==" in text


def test_other_text_is_read_as_it_is() -> None:
    plain = 'He said : "why not ?"\n\n"And I stayed," he went on, for N days.'
    assert read_as(plain) == plain != detokenised(plain)
    wikitext = next(articles(WIKITEXT.split("\n")))
    assert read_as(wikitext) == detokenised(wikitext) != wikitext


@pytest.mark.parametrize(("count", "length"), [(1, 4), (4, 4), (5, 4), (11, 4), (12, 4)])
def test_windows_predict_every_token_once(count: int, length: int) -> None:
    tokens = list(range(1, count + 1))
    predicted: list[int] = []
    for piece, counted in windows(tokens, 0, length):
        assert len(piece) == min(count, length) + 1
        predicted += piece[-counted:]
    assert predicted == tokens


def test_windows_are_the_harness_own() -> None:
    utils = pytest.importorskip("lm_eval.utils")
    for count in (1, 4, 5, 11, 12):
        tokens = list(range(1, count + 1))
        rolling = utils.get_rolling_token_windows(tokens, 0, 4, 1)
        for (inputs, targets), (piece, counted) in zip(rolling, windows(tokens, 0, 4), strict=True):
            assert (inputs, targets) == (piece[:-1], piece[-counted:])


def test_the_text_is_the_harness_own() -> None:
    task = pytest.importorskip("lm_eval.tasks.wikitext.preprocess_wikitext")
    for article in articles(WIKITEXT.split("\n")):
        assert detokenised(article) == task.wikitext_detokenizer({"page": article, "paragraph": article})


def test_word_perplexity_is_its_formula(tmp_path: Path) -> None:
    loaded = load_model(str(write_micro(tmp_path)[0]))
    documents = ["cell holds charge leaks slowly while query pulses read", "current lines " * 30]
    found = rolling_perplexity(loaded.model, loaded.tokenizer, documents, window=16)
    total, each, predicted = 0.0, [0.0, 0.0], 0
    for number, document in enumerate(documents):
        ids = loaded.tokenizer(document, add_special_tokens=False)["input_ids"]
        for piece, counted in windows(ids, loaded.tokenizer.eos_token_id, 16):
            logits = loaded.model(input_ids=torch.tensor([piece[:-1]])).logits[0].double()
            losses = torch.nn.functional.cross_entropy(logits, torch.tensor(piece[1:]), reduction="none")
            each[number] += float(losses[-counted:].detach().sum())
            total += float(losses[-counted:].detach().sum())
            predicted += counted
    assert found.nll == pytest.approx(total, rel=1e-5)
    assert found.words == 9 + 61  # the white space at an end counts as the harness counts it
    assert found.word_perplexity == pytest.approx(math.exp(total / 70), rel=1e-4)
    assert (found.documents, found.bytes, found.predictions) == (2, 54 + 420, predicted)
    assert found.word_perplexity_error == pytest.approx(
        found.word_perplexity * (ratio_error(each, [9, 61]) or 0), rel=1e-4
    )


@pytest.mark.filterwarnings("ignore")  # of the harness and what it imports
@pytest.mark.parametrize("bos", [None, "query"])
@pytest.mark.parametrize("eos", [None, "<|endoftext|>"])
@pytest.mark.parametrize("adds", [False, True])
def test_documents_begin_as_with_the_harness(
    tmp_path: Path, bos: str | None, eos: str | None, adds: bool
) -> None:
    """Also where the tokenizer puts tokens around texts itself, and where a text begins with the first."""
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    from lm_eval.api.instance import Instance
    from tokenizers.processors import TemplateProcessing

    loaded = load_model(str(write_micro(tmp_path)[0]))
    tokenizer = loaded.tokenizer
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token = bos, eos, "slowly"
    if adds:
        around = TemplateProcessing(single="pulses $A read", special_tokens=[("pulses", 7), ("read", 9)])
        tokenizer.backend_tokenizer.post_processor = around
    documents = ["cell holds charge leaks slowly while query pulses read", "query lines " * 30]
    if bos is None and eos is None:
        with pytest.raises(InputError, match="a token that begins or ends a text"):
            rolling_perplexity(loaded.model, tokenizer, documents, 16)
        return
    found = rolling_perplexity(loaded.model, tokenizer, documents, 16)
    lm = huggingface.HFLM(pretrained=loaded.model, tokenizer=tokenizer, max_length=16)
    asked = [Instance("loglikelihood_rolling", {}, (document,), 0) for document in documents]
    assert found.nll == pytest.approx(-sum(lm.loglikelihood_rolling(asked)), rel=1e-5)


def test_nothing_to_evaluate_is_refused() -> None:
    with pytest.raises(InputError, match="documents"):
        rolling_perplexity(micro_llama(), object(), [], 16)


def test_documents_of_a_file(tmp_path: Path) -> None:
    plain = tmp_path / "plain.txt"
    plain.write_text("one\ntwo\n<|endoftext|>\n\n<|endoftext|>\nthree\n", encoding="utf-8")
    assert documents_of(plain) == ["one\ntwo", "three"]
    wiki = tmp_path / "wiki.txt"
    wiki.write_text(WIKITEXT, encoding="utf-8")
    assert documents_of(wiki) == list(articles(WIKITEXT.removesuffix("\n").split("\n")))
