"""Backends of the attention in arrays, by the names that functions and commands take."""

from typing import Literal, get_args

AnyQueries = Literal[
    "auto", "naive", "blocked", "native", "native-portable", "native-avx2", "native-avx512", "native-amx",
    "triton",
]  # fmt: skip
"""Those of any number of queries, which commands take. Each name up to its "-" is a file in
ops/gain_cell_attention/backends/. "auto": see `backends.AUTO`.
"""
BackendName = Literal[AnyQueries, "decode"]
"""And the one of a single query."""
BACKENDS = get_args(BackendName)
