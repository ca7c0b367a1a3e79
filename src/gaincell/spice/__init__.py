"""Circuits in ngspice: the bottom rung of the ladder, with open transistor models only.

    technology.py   transistor cards, corners, a user's own kit
    netlists/       circuits as deterministic text: cell, array slice, readouts, write path, sub-tile
    runner.py       ngspice as a program: temporary directory, timeout, warnings told from failures
    rawfile.py      what it wrote
    characterise.py a cell's current, write, retention, disturb, mismatch -> a device file
    verify.py       two chained dot products against the behavioural model, and their energy
    write_path.py   from a code to a stored voltage
    wires.py        error against the size of an array

ngspice is called as a program and not linked.
"""
