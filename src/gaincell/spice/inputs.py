"""Inputs of the two dot products: random, or what a model computed on text.

    centred   q uniform over the driver's codes, k and v normal about V_offset with a standard deviation of a
              sixth of the storage range, then quantised
    random    the same, with every key token shifted by -0.3 to 1.3 codes and every value dimension by -0.8 to
              0.8, so that the charges cover the range of the converters
    real      q_code, k_code and v_code of a file of `gaincell evaluate ... --dump`: one query and its tile of
              tokens, the query's own token the last

Not modelled: the age of the tokens; every store is fresh.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gaincell.chips.design import Design
from gaincell.chips.design_file import design_from
from gaincell.errors import DesignError, InputError
from gaincell.files import check_file, parse_toml
from gaincell.spice.rawfile import Wave


@dataclass(frozen=True)
class Inputs:
    """One query on one tile.

    Attributes:
        name: "random", "centred" or "real", which names its file where there are several.
        x: Pulse widths of the query over the longest [D].
        keys: DAC codes of keys [D, tokens].
        values: DAC codes of values [tokens, D].
        origin: SHA-256 of the files they are from, by name.
    """

    name: str
    x: Wave
    keys: Any
    values: Any
    origin: Mapping[str, str] = field(default_factory=dict)

    @property
    def statistics(self) -> dict[str, float]:
        """Mean pulse, share of rows that are driven, and standard deviations of the codes."""
        return {
            "mean_query_pulse": float(self.x.mean()),
            "driven_rows": float((self.x > 0).mean()),
            "key_code_std": float(np.std(self.keys)),
            "value_code_std": float(np.std(self.values)),
        }


def random_inputs(design: Design, seed: int, head_dim: int = 64, *, centred: bool = False) -> Inputs:
    """Random inputs, the same for the same seed; see the head of this file."""
    rng = np.random.default_rng(seed)
    levels, steps = design.storage_levels or 8, (design.query_levels or 16) - 1
    x = rng.integers(0, steps + 1, head_dim) / steps
    keys, values = rng.normal(levels / 2, levels / 6, (2, design.tile, head_dim))
    if not centred:
        keys = keys + rng.uniform(-0.3, 1.3, (design.tile, 1)) * levels / 8
        values = values + rng.uniform(-0.8, 0.8, (1, head_dim)) * levels / 8
    codes = [np.clip(np.floor(draw), 0, levels - 1).astype(np.int64) for draw in (keys, values)]
    return Inputs("centred" if centred else "random", x, codes[0].T.copy(), codes[1])


def check_codes(q: Any, k: Any, v: Any, design: Design) -> None:
    """Raise ValueError for tensors or arrays that are no codes [texts, heads, tokens, D] of a chip."""
    query, storage = _levels(design)
    for name, codes, most in zip("qkv", (q, k, v), (query, storage, storage), strict=True):
        if len(codes.shape) != 4 or 0 in codes.shape or codes.shape[2:] != q.shape[2:]:
            raise ValueError(f"{name}_code has the shape {tuple(codes.shape)}")
        if (codes % 1 != 0).any():
            raise ValueError(f"{name}_code has codes that are no whole numbers")
        if not -most < codes.min() <= codes.max() < most or (codes.min() < 0 and name != "q"):
            raise ValueError(f"{name}_code has codes from {codes.min()} to {codes.max()}, of {most} levels")
    if k.shape != v.shape or q.shape[1] % k.shape[1]:
        raise ValueError(f"{q.shape[1]} heads of queries do not share {k.shape[1]} and {v.shape[1]}")


class Dump(NamedTuple):
    """Of a file of gaincell evaluate --dump: codes [texts, heads, tokens, D], its chip and layers."""

    q: Any
    k: Any
    v: Any
    design: Design
    layers: int


def read_dump(path: Path, design: Design | None = None, *, framework: str = "pt") -> Dump:
    """Read such a file.

    Args:
        path: The file.
        design: The chip whose levels it shall have; None: its own.
        framework: Of the codes, "pt" or "np".

    Raises:
        InputError: it is none, its codes are not those of its chip, or the design has other levels.
    """
    from safetensors import SafetensorError, safe_open

    try:
        check_file(path)
        with safe_open(path, framework) as file:
            q, k, v = (file.get_tensor(f"{name}_code") for name in "qkv")
            metadata = file.metadata() or {}
        if design is not None:
            metadata = {"design": design.to_toml(), "layers": "1", **metadata}
        own = design_from(parse_toml(metadata["design"]), "its design")
        check_codes(q, k, v, own)
        dump = Dump(q, k, v, own, int(metadata["layers"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, DesignError) as error:
        raise InputError(
            f"{path.name} is no file of gaincell evaluate --dump for this chip "
            f"({type(error).__name__}: {error}); give another, or its design"
        ) from error
    if design is not None and _levels(design) != _levels(own):
        held, wanted = ("{} query and {} storage levels".format(*_levels(chip)) for chip in (own, design))
        raise InputError(
            f"{path.name} holds codes of a chip with {held}, design {design.name!r} has {wanted}; give a "
            "dump of a model on this design, or the design that the dump is of"
        )
    return dump


def _levels(design: Design) -> tuple[int, int]:
    """Of query drivers and write DACs; what is not quantised is dumped in 16 bins."""
    return design.query_levels or 16, design.storage_levels or 16


def real_inputs(
    path: str | os.PathLike[str], design: Design, *, head: int = 0, token: int | None = None
) -> Inputs:
    """One query of a dumped layer, text 0.

    Args:
        path: The dump.
        design: The chip.
        head: Index of the head.
        token: Index of the query; None: the last.

    Raises:
        InputError: there is no such file, head or token.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: there is no such file; write one with: gaincell evaluate RUN --dump FILE")
    q, k, v, own, _ = read_dump(path, design, framework="np")
    if own.levels.present:
        raise InputError(f"{path}: levels are not evenly spaced; circuits for them are not simulated")
    heads, tokens = q.shape[1], q.shape[2]
    if tokens < design.tile:
        raise InputError(
            f"{path}: the dump has {tokens} tokens, a sub-tile {design.tile} columns; dump a longer block, "
            f"with --protocol blocks-{design.tile}"
        )
    token = tokens - 1 if token is None else token
    if not 0 <= head < heads or not design.tile - 1 <= token < tokens:
        raise InputError(
            f"{path}: head {head}, token {token} are not there; allowed: heads 0 to {heads - 1}, tokens "
            f"{design.tile - 1} to {tokens - 1}"
        )
    group = heads // k.shape[1]
    chosen = slice(token - design.tile + 1, token + 1)
    x = q[0, head, token].astype(np.float64) / ((design.query_levels or 16) - 1)
    if x.min() < 0:
        raise InputError(f"{path}: queries have signs; circuits for signed queries are not simulated")
    keys, values = k[0, head // group, chosen], v[0, head // group, chosen]
    origin = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    return Inputs("real", x, keys.T.astype(np.int64), values.astype(np.int64), origin)
