"""Plain data of results that have no dataclass yet; of others see `gaincell.results`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gaincell.results import read, write
from gaincell.results.codec import KINDS, Json, Kind, to_json
from gaincell.results.common import SCHEMA
from gaincell.results.plain import check, number, numbers, value
from gaincell.results.provenance import code, hash_of, made, without_paths
from gaincell.results.run import FILE

__all__ = [
    "FILE", "KINDS", "SCHEMA", "Json", "Kind", "check", "code", "hash_of", "number",
    "numbers", "provenance", "read", "value", "without_paths", "write",
]  # fmt: skip


def provenance(
    *,
    command: Sequence[str],
    seed: int,
    protocol: str,
    design_hash: str | None = None,
    inputs: Mapping[str, str] | None = None,
) -> Json:
    """As `results.provenance.made`, for results that are plain data yet."""
    return to_json(
        made(command=command, seed=seed, protocol=protocol, design_hash=design_hash, inputs=inputs)
    )
