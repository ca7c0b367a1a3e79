"""The recipe of the embedded model: the shipped file is acceptable, and a miniature runs, resumes and
repeats.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from gaincell.errors import GaincellError
from gaincell.mapping.recipe import load_recipe, run_recipe

SHIPPED = Path(__file__).parents[2] / "recipes" / "tiny.toml"

MINIATURE = """
seed = 0
files = ["words"]
[tokenizer]
vocabulary = 300
characters_per_document = 1000
[model]
hidden_size = 32
intermediate_size = 48
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
head_dim = 8
max_position_embeddings = 32
tie_word_embeddings = true
[pretrain]
steps = 3
learning_rate = 1e-3
batch = 2
micro_batch = 1
[convert]
design = "leroux2025"
steps = 2
distillation = 0.5
learning_rate = 1e-3
batch = 2
micro_batch = 2
"""


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for part, documents in (("train", 40), ("valid", 8)):
        lines = (f"The {n}th document tells of {n * n} birds.\n<|endoftext|>\n" for n in range(documents))
        with gzip.open(folder / f"words.{part}.txt.gz", "wt") as file:
            file.writelines(lines)
    return folder


def test_the_shipped_recipe_is_acceptable() -> None:
    recipe = load_recipe(SHIPPED)
    assert recipe.model["head_dim"] == 64
    assert recipe.model["num_attention_heads"] == 2 * recipe.model["num_key_value_heads"]


def test_a_miniature_runs_and_repeats(texts: Path, tmp_path: Path) -> None:
    (tmp_path / "mini.toml").write_text(MINIATURE)
    recipe = load_recipe(tmp_path / "mini.toml")
    outs = [tmp_path / "one", tmp_path / "two"]
    results = [run_recipe(recipe, texts, out) for out in outs]
    assert results[0]["models"] == results[1]["models"]
    assert set(results[0]["models"]) == {"software", "software-continued", "linear"}
    for name in ("model", "software-continued", "linear"):
        first, second = (load_file(out / f"{name}.safetensors") for out in outs)
        assert first.keys() == second.keys()
        assert all(first[key].equal(second[key]) for key in first)
    assert not list(outs[0].glob("*.checkpoint"))
    assert json.loads((outs[0] / "result.json").read_text())["models"] == results[0]["models"]
    # a stage whose result is missing is made again from what is there, and nothing else is
    before = (outs[0] / "software-continued.safetensors").stat().st_mtime_ns
    (outs[0] / "linear.safetensors").unlink()
    assert run_recipe(recipe, texts, outs[0])["models"] == results[1]["models"]
    assert (outs[0] / "software-continued.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed = 0", "sed = 0", "did you mean 'seed'"),
        (
            "learning_rate = 1e-3\nbatch = 2\nmicro_batch = 1",
            "learning_rat = 1e-3",
            "did you mean 'learning_rate'",
        ),
        ("steps = 3\n", "", "lacks 'steps'"),
        ("steps = 3\n", "steps = 3000\n", "the text has"),
        ('files = ["words"]', 'files = ["birds"]', "lacks birds.train.txt.gz"),
        ("seed = 0", "seed =", "cannot be read"),
    ],
)
def test_bad_recipes(old: str, new: str, message: str, texts: Path, tmp_path: Path) -> None:
    assert old in MINIATURE
    (tmp_path / "bad.toml").write_text(MINIATURE.replace(old, new, 1))
    with pytest.raises(GaincellError, match=message):
        run_recipe(load_recipe(tmp_path / "bad.toml"), texts, tmp_path / "out")
