"""Sizes of a model, as plain numbers: nothing here knows transformers.

models.toml has those of some well-known models from their published configurations.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from gaincell.costs.data import FOLDER
from gaincell.errors import DesignError, InputError, ModelError
from gaincell.quantity import did_you_mean, one_of, read_numbers

PRODUCTS = 4
"""Matrix-vector products of a layer that follow each other: q k v, output, up (and gate), down."""
MAY_BE_0 = ("linear_weights", "sliding_window", "balanced_rows")
"""Numbers of a decoder that may be 0."""


@dataclass(frozen=True)
class ModelSize:
    """A decoder.

    Attributes:
        layers: Layers with attention.
        heads: H.
        kv_heads: Hk.
        head_dim: D.
        hidden: Width of the residual stream.
        linear_weights: Of all linear layers, without embedding and output head; 0: they are not counted, and
            the whole model has no cost.
        vocabulary: Of the output head.
        tokens: Longest context it was made for.
        sliding_window: Of its own attention; 0 = none.
        column_gains: Whether its gains of q and of the output follow the columns read (nn/scaler.py).
        array_normaliser: Whether outputs are divided by one of them (nn/array_normaliser.py).
        balanced_rows: Directions that are stretched where a row of the keys balances the others
            (nn/balanced_rows.py); 0: none does.
        unequal: Why it has no cost, where its layers are not alike.

    Raises:
        InputError: numbers that no decoder has.
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
    balanced_rows: int = 0
    unequal: str = ""

    def __post_init__(self) -> None:
        for name in (f.name for f in fields(self) if f.type == "int"):
            number, least = getattr(self, name), 0 if name in MAY_BE_0 else 1
            if type(number) is not int or number < least:
                raise InputError(
                    f"{self.title}: {name} = {number!r} is out of range; allowed: {least} or more"
                )
        if self.heads % self.kv_heads:
            raise InputError(
                f"{self.title}: heads = {self.heads} is no multiple of kv_heads = {self.kv_heads}; "
                "query heads share key/value heads in equal groups"
            )

    @property
    def group(self) -> int:
        """Query heads of a key/value head, g."""
        return self.heads // self.kv_heads

    @property
    def weights(self) -> int:
        """Read once a token: linear layers and the output head."""
        return self.linear_weights + self.hidden * self.vocabulary

    def check_equal(self) -> None:
        """Raise ModelError where it has no cost."""
        if self.unequal:
            raise ModelError(f"{self.title}: {self.unequal}")

    def seen(self, context: int) -> int:
        """Tokens that the model keeps of a context: those of its own sliding window, where it has one."""
        return min(context, self.sliding_window) if self.sliding_window else context

    def cache_bytes(self, bytes_per_number: float = 2.0) -> float:
        """Bytes of keys and values of one token, all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * bytes_per_number


def shipped_sizes() -> dict[str, ModelSize]:
    """Sizes of models.toml, by name."""
    return {name: ModelSize(**raw) for name, raw in read_numbers(FOLDER / "models.toml").items()}


def shipped_size(name: str) -> ModelSize:
    """One of them by name.

    Raises:
        DesignError: there is none of that name; with the nearest one.
    """
    found = shipped_sizes()
    if name not in found:
        raise DesignError(f"no model size {name!r}{did_you_mean(name, found)}; allowed: {one_of(found)}")
    return found[name]
