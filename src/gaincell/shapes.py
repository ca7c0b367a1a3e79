"""The legend of dimension names in shape annotations.

Public functions declare shapes with jaxtyping, ``Float[Tensor, "B H T D"]``; the names mean

=====  ==========================================================================
B      batch: independent sequences
H      query heads
Hk     key/value heads; grouped-query attention has H = g * Hk
T      tokens where queries and keys are the same tokens
Tq     query tokens (a suffix of the keys when decoding with a cache)
Tk     key/value tokens
D      head dimension: rows of a key array, columns of a value array
M      window: token columns a head holds; token j lives in column j mod M
N      tile: token columns in one sub-tile; M is a multiple of N
L      layers
=====  ==========================================================================

The annotations are checked at run time under pytest only (tests/conftest.py installs the hook).
"""
