"""Colours of the page as tokens, light and dark; a test computes their contrast."""

from __future__ import annotations

from collections.abc import Mapping

LIGHT: Mapping[str, str] = {
    "paper": "#fcfcfb",
    "panel": "#ffffff",
    "ink": "#1d2329",
    "quiet": "#56606b",
    "rule": "#dfe3e7",
    "grid": "#e9ecef",
    "link": "#0b5cad",
    "focus": "#0b5cad",
    "measured": "#0b6e4f",
    "simulated": "#0b5cad",
    "cited": "#8a4b08",
    "s1": "#0f62ac",
    "s2": "#c2410c",
    "s3": "#0b7a5a",
    "s4": "#946200",
    "s5": "#8b3fa0",
    "s6": "#0e7490",
    "s7": "#66717d",
    "plan-cells": "#cfe3f4",
    "plan-analog": "#f6dfb0",
    "plan-drivers": "#cde7d5",
    "plan-write": "#ead3e4",
    "plan-digital": "#dfe2e5",
    "wire": "#a1341f",
}
DARK: Mapping[str, str] = {
    "paper": "#12161b",
    "panel": "#181d23",
    "ink": "#e6e9ec",
    "quiet": "#a3adb8",
    "rule": "#303840",
    "grid": "#262d34",
    "link": "#7db8f5",
    "focus": "#7db8f5",
    "measured": "#6fd0a8",
    "simulated": "#7db8f5",
    "cited": "#e6ac6a",
    "s1": "#64aaf0",
    "s2": "#f58a5c",
    "s3": "#4fc79d",
    "s4": "#dcae3f",
    "s5": "#cf9ae6",
    "s6": "#54c3dc",
    "s7": "#95a0ac",
    "plan-cells": "#1f4566",
    "plan-analog": "#5d4615",
    "plan-drivers": "#235039",
    "plan-write": "#553349",
    "plan-digital": "#3b434b",
    "wire": "#f08a74",
}
SERIES = 7
"""Tokens s1 to s7 are for lines and marks."""
TEXT = ("ink", "quiet", "link", "measured", "simulated", "cited")
"""Tokens that text is set in."""


def channels(colour: str) -> tuple[int, int, int]:
    """Red, green and blue of #rrggbb."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours as WCAG 2 defines it, from 1 to 21."""
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (channel / 255 for channel in channels(colour))
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def tokens() -> str:
    """The custom properties of the style sheet: light, dark where the reader's system is, and as chosen."""
    light, dark = (";".join(f"--{name}:{colour}" for name, colour in each.items()) for each in (LIGHT, DARK))
    return (
        f":root{{color-scheme:light;{light}}}\n"
        f"@media (prefers-color-scheme:dark){{:root:not([data-theme=light]){{color-scheme:dark;{dark}}}}}\n"
        f":root[data-theme=dark]{{color-scheme:dark;{dark}}}\n"
    )
