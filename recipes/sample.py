"""Cut the embedded text `sample` from validation text that no shipped model was trained on.

    python recipes/sample.py TEXTS src/gaincell/assets/sample

TEXTS holds books.valid.txt.gz, gov_web.valid.txt.gz and speeches.valid.txt.gz (documents separated by a line
holding only <|endoftext|>). Every other document goes to the evaluation part (`*.valid.txt.gz`), the rest to
the part for fine-tuning and calibration (`*.train.txt.gz`); a document is cut at a paragraph once a source
has given its share. The shares follow the mixture that `tiny` was trained on, which is mostly books.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

from gaincell.files import write_atomic
from gaincell.text import END_OF_TEXT, open_text

SHARES = {  # characters of each source in (train, valid)
    "books": (640_000, 180_000),
    "gov_web": (200_000, 70_000),
    "speeches": (60_000, 30_000),
}
LONGEST_DOCUMENT = 320_000, 90_000  # characters, so that no book fills its source alone


def main(texts: Path, out: Path) -> None:
    sources = {source.name.split(".")[0]: source for source in open_text(texts).evaluation}
    for name, shares in SHARES.items():
        documents = list(sources[name].documents())
        for part, kind in enumerate(("train", "valid")):
            taken, left = [], shares[part]
            for document in documents[part::2]:
                piece = _beginning(document, min(left, LONGEST_DOCUMENT[part]))
                if piece:
                    taken.append(piece)
                    left -= len(piece)
            _write(out / f"{name}.{kind}.txt.gz", taken)


def _beginning(document: str, length: int) -> str:
    """At most `length` characters, whole paragraphs."""
    if len(document) <= length:
        return document
    return document[: max(0, document.rfind("\n\n", 0, length))]


def _write(path: Path, documents: list[str]) -> None:
    text = "".join(f"{document}\n{END_OF_TEXT}\n" for document in documents)

    def write(place: Path) -> None:
        with place.open("wb") as raw, gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as file:
            file.write(text.encode())

    write_atomic(path, write)
    print(f"{path.name}: {len(documents)} documents, {len(text)} characters")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
