"""The parallel computation of gain-cell attention, one folder per operation."""
