"""Sizes of a model, as plain numbers: nothing here knows transformers.

models.toml has those of some well-known models from their published configurations.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import get_type_hints

from gaincell.costs.data import FOLDER, pick, read_toml
from gaincell.errors import DesignError, InputError
from gaincell.quantity import check_keys

PRODUCTS = 4
"""Matrix-vector products of a layer that follow each other: q k v, output, up (and gate), down."""
SCALING = ("column_gains", "array_normaliser")
"""What a converted model's digital scaling has beside gains and offsets, or not."""


@dataclass(frozen=True)
class ModelSize:
    """A decoder.

    title, source: its name, and where the numbers come from.
    layers: with attention.  heads, kv_heads, head_dim: H, Hk, D.  hidden: width of the residual stream.
    linear_weights: of all linear layers, without embedding and output head.  vocabulary: of the output head.
    tokens: longest context it was made for.  sliding_window: of its own attention; 0 = none.
    column_gains: whether its gains of q and of the output follow the columns read (nn/scaler.py).
    array_normaliser: whether outputs are divided by one of them (nn/array_normaliser.py).

    Raises InputError for numbers that no decoder has.
    """

    title: str
    source: str
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    linear_weights: int
    vocabulary: int
    tokens: int
    sliding_window: int = 0
    column_gains: bool = False
    array_normaliser: bool = False

    def __post_init__(self) -> None:
        for f in fields(self):
            number = getattr(self, f.name)
            if isinstance(number, str) or f.name in SCALING:
                continue
            if type(number) is not int or number < (0 if f.name == "sliding_window" else 1):
                raise InputError(f"{self.title}: {f.name} = {number!r} is out of range; allowed: 1 or more")
        if self.heads % self.kv_heads:
            raise InputError(
                f"{self.title}: heads = {self.heads} is no multiple of kv_heads = {self.kv_heads}; "
                "query heads share key/value heads in equal groups"
            )

    @property
    def group(self) -> int:
        """g: query heads of a key/value head."""
        return self.heads // self.kv_heads

    @property
    def weights(self) -> int:
        """Read once a token: linear layers and the output head."""
        return self.linear_weights + self.hidden * self.vocabulary

    def cache_bytes(self, bytes_per_number: float = 2.0) -> float:
        """Bytes of keys and values of one token, all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * bytes_per_number


def shipped_sizes() -> dict[str, ModelSize]:
    """Sizes of models.toml, by name. Raises DesignError: the file is wrong."""
    hints = get_type_hints(ModelSize)
    found = {}
    for name, raw in read_toml(FOLDER / "models.toml").items():
        check_keys(raw, hints, f"models.toml: {name}")
        missing = [key for key in hints if key not in raw and key not in ("sliding_window", *SCALING)]
        if missing:
            raise DesignError(f"models.toml: {name} lacks {missing[0]!r}")
        found[name] = ModelSize(**raw)
    return found


def shipped_size(name: str) -> ModelSize:
    """One of them by name. Raises DesignError."""
    return pick(shipped_sizes(), name, "model size")
