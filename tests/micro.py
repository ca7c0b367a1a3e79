"""A language model and a text small enough for tests of whole jobs: 2 layers, D = 16, window 64."""

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from gaincell.chips.design import Design
from gaincell.chips.design_file import load_design
from gaincell.mapping.settings import MapSettings
from gaincell.progress import Progress
from gaincell.training.data import train_tokenizer

WORDS = ("cell", "holds", "charge", "leaks", "slowly", "while", "query", "pulses", "read", "current", "lines")


def micro_design(**changes: object) -> Design:
    """The paper's chip with a window of 64 in tiles of 16."""
    return load_design("leroux2025").replace(window=64, tile=16, **changes)


def micro_llama(
    dtype: torch.dtype = torch.float32, vocabulary: int = 97, layers: int = 2, positions: int = 64
) -> LlamaForCausalLM:
    """Random weights, large enough that attention matters; a context of `positions`."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=positions,
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    return LlamaForCausalLM(config).to(dtype).eval()


def micro_text(documents: int = 40) -> str:
    """Documents of random sentences, separated as everywhere."""
    choice = torch.Generator().manual_seed(1)
    texts = []
    for _ in range(documents):
        words = torch.randint(len(WORDS), (120,), generator=choice).tolist()
        texts.append(" ".join(WORDS[n] for n in words))
    return "\n<|endoftext|>\n".join(texts) + "\n"


def write_micro(folder: Path) -> tuple[Path, Path]:
    """A model directory and a text file in `folder`."""
    text = folder / "words.txt"
    text.write_text(micro_text(), encoding="utf-8")
    tokenizer = train_tokenizer(micro_text().split("\n<|endoftext|>\n"), 300)
    model = folder / "micro"
    micro_llama(vocabulary=300).save_pretrained(model)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(model)
    return model, text


def micro_settings(model: Path, text: Path, **changes: object) -> MapSettings:
    """A mapping that takes about a second."""
    settings: dict[str, object] = {
        "model": str(model),
        "design": micro_design(),
        "text": str(text),
        "budget": 16 * 64,
        "evaluation_tokens": 4 * 64,
        "calibration_tokens": 4 * 64,
        "learning_rate": 1e-3,
    }
    return MapSettings(**(settings | changes))  # type: ignore[arg-type]


class Steps:
    """Progress that lists the steps of a job, and interrupts one of them on its way."""

    def __init__(self, interrupted: str | None = None) -> None:
        self.interrupted = interrupted
        self.names: list[str] = []

    def __call__(self, step: str) -> Progress:
        self.names.append(step)

        def progress(done: int, total: int, numbers: dict[str, float]) -> None:
            if step == self.interrupted and done >= min(2, total):
                raise KeyboardInterrupt

        return progress
