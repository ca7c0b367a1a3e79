"""Colours of the page as tokens, light and dark; a test computes their contrast."""

from __future__ import annotations

COLOURS = {
    "paper": ("#fcfcfb", "#12161b"),
    "panel": ("#ffffff", "#181d23"),
    "ink": ("#1d2329", "#e6e9ec"),
    "quiet": ("#56606b", "#a3adb8"),
    "rule": ("#dfe3e7", "#303840"),
    "grid": ("#e9ecef", "#262d34"),
    "link": ("#0b5cad", "#7db8f5"),
    "focus": ("#0b5cad", "#7db8f5"),
    "measured": ("#0b6e4f", "#6fd0a8"),
    "simulated": ("#0b5cad", "#7db8f5"),
    "cited": ("#8a4b08", "#e6ac6a"),
    "assumed": ("#8b3fa0", "#cf9ae6"),
    "s1": ("#0f62ac", "#64aaf0"),
    "s2": ("#c2410c", "#f58a5c"),
    "s3": ("#0b7a5a", "#4fc79d"),
    "s4": ("#946200", "#dcae3f"),
    "s5": ("#8b3fa0", "#cf9ae6"),
    "s6": ("#0e7490", "#54c3dc"),
    "s7": ("#66717d", "#95a0ac"),
    "plan-cells": ("#cfe3f4", "#1f4566"),
    "plan-analog": ("#f6dfb0", "#5d4615"),
    "plan-drivers": ("#cde7d5", "#235039"),
    "plan-write": ("#ead3e4", "#553349"),
    "plan-digital": ("#dfe2e5", "#3b434b"),
    "wire": ("#a1341f", "#f08a74"),
}
"""Light and dark; s1 to s7 are for lines and marks."""
LIGHT, DARK = ({name: pair[n] for name, pair in COLOURS.items()} for n in (0, 1))


def tokens() -> str:
    """The custom properties of the style sheet: light, dark where the reader's system is, and as chosen."""
    light, dark = (";".join(f"--{name}:{colour}" for name, colour in each.items()) for each in (LIGHT, DARK))
    return (
        f":root{{color-scheme:light;{light}}}\n"
        f"@media (prefers-color-scheme:dark){{:root:not([data-theme=light]){{color-scheme:dark;{dark}}}}}\n"
        f":root[data-theme=dark]{{color-scheme:dark;{dark}}}\n"
    )
