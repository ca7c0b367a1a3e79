"""Cut the embedded text `sample` from text that no shipped model was trained on.

    python recipes/sample.py recipes/tiny.toml TEXTS RUN src/gaincell/assets/sample

TEXTS holds books.valid.txt.gz, gov_web.valid.txt.gz and speeches.valid.txt.gz (documents separated by a line
holding only <|endoftext|>); RUN is the recipe's output directory.

Evaluation part (`*.valid.txt.gz`): every second document of the validation texts, cut at a paragraph once a
source has given its share. The shares follow the mixture that `tiny` was trained on, which is mostly books.

Part for calibration and fine-tuning (`mixture.train.txt.gz`): the blocks of the training mixture that follow,
in the recipe's order, on those it trains on; an excerpt is what lies between the first and the last line end
of a block. Many documents: a few whole books would pull every model that is fine-tuned on them aside.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from gaincell.files import write_atomic
from gaincell.mapping.recipe_file import load_recipe
from gaincell.text import END_OF_TEXT, open_text
from gaincell.training.data import pack_blocks

SHARES = {"books": 180_000, "gov_web": 70_000, "speeches": 30_000}  # characters for evaluation
LONGEST_DOCUMENT = 90_000  # characters, so that no book fills its source alone
TRAINING_BLOCKS = 256


def main(recipe: Path, texts: Path, run: Path, out: Path) -> None:
    sources = {source.name.split(".")[0]: source for source in open_text(texts).evaluation}
    for name, share in SHARES.items():
        taken: list[str] = []
        for document in list(sources[name].documents())[1::2]:
            taken.append(_beginning(document, min(share - sum(map(len, taken)), LONGEST_DOCUMENT)))
        _write(out / f"{name}.valid.txt.gz", list(filter(None, taken)))
    _write(out / "mixture.train.txt.gz", _unused(recipe, run))


def _beginning(document: str, length: int) -> str:
    """At most `length` characters, whole paragraphs."""
    if len(document) <= length:
        return document
    return document[: max(0, document.rfind("\n\n", 0, length))]


def _unused(recipe_file: Path, run: Path) -> list[str]:
    """Excerpts from the blocks after those that the recipe trains on; a block may hold several documents."""
    recipe = load_recipe(recipe_file)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(run / "model")
    tokens = torch.from_numpy(np.memmap(run / "tokens" / "training", dtype=np.int32, mode="c"))
    blocks = pack_blocks(tokens, recipe.block, recipe.seed)
    used = recipe.blocks
    excerpts: list[str] = []
    for block in blocks[used : used + TRAINING_BLOCKS].tolist():
        text = tokenizer.decode(block, clean_up_tokenization_spaces=False)
        for piece in text.split(END_OF_TEXT):
            excerpts.append("\n".join(piece.split("\n")[1:-1]).strip("\n"))
    return list(filter(None, excerpts))


def _write(path: Path, documents: list[str]) -> None:
    text = "".join(f"{document}\n{END_OF_TEXT}\n" for document in documents)

    def write(place: Path) -> None:
        with place.open("wb") as raw, gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as file:
            file.write(text.encode())

    write_atomic(path, write)
    print(f"{path.name}: {len(documents)} documents, {len(text)} characters")


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*map(Path, sys.argv[1:]))
