"""Torch modules around the parallel computation: the scaling stages and the attention of one layer.

``scaler.py`` holds the gains and offsets, ``attention.py`` puts four of them around
``gaincell.ops.gain_cell_attention``. Neither knows of any model or library.
"""
