"""Softmax attention of one query over a KV cache, timed on the machine at hand: what gain cells replace.

`measurement.measure` times one configuration, `grid.sweep` many; `attention.IMPLEMENTATIONS` says of what.
"""
