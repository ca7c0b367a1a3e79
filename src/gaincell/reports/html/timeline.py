"""What happens when in a step: circuits busy, and power over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from gaincell.reports.html.markup import axes, drawing, element, figure, legend, text
from gaincell.reports.html.scales import linear, short

WIDTH, LEFT, RIGHT, PITCH = 720.0, 150.0, 10.0, 24.0
POWER_WIDTH, POWER_HEIGHT = 440.0, 262.0


@dataclass(frozen=True)
class Busy:
    """A circuit from start for a duration, ns. pale: of a later token.  assumed: its duration is."""

    circuit: str
    phase: str
    start: float
    duration: float
    pale: bool = False
    assumed: bool = False


def circuits(
    title: str, found: Sequence[Busy], colours: Mapping[str, int], ends: Sequence[float], kind: str, note: str
) -> Markup:
    """Which circuit is busy when, a row each."""
    rows = list(dict.fromkeys(busy.circuit for busy in found))
    bottom = 8 + PITCH * len(rows)
    x = linear([0.0, *(b.start + b.duration for b in found)], LEFT, WIDTH - RIGHT)
    parts: list[Markup] = []
    for tick in x.ticks(9):
        at = x(tick)
        parts += [
            element("line", x1=at, x2=at, y1=4.0, y2=bottom, class_="grid-line"),
            text(at, bottom + 16, short(tick), "middle", "tick"),
        ]
    parts.append(text(WIDTH - RIGHT, bottom + 33, "time, ns", "end", "label"))
    for n, name in enumerate(rows):
        parts.append(text(LEFT - 8, 8 + PITCH * (n + 0.5) + 4, name, "end", "name"))
    for busy in found:
        classes = f"bar s{colours.get(busy.phase, 7)}{' pale' * busy.pale}{' assumed' * busy.assumed}"
        token = ", the next token" if busy.pale else ""
        basis = ", duration assumed" if busy.assumed else ""
        tip = (
            f"{busy.circuit}: {busy.phase}{token}, from {short(busy.start)} ns for {short(busy.duration)} ns"
            f"{basis} ({kind})"
        )
        parts.append(
            element(
                "rect",
                x=x(busy.start),
                y=8 + PITCH * rows.index(busy.circuit) + 4,
                width=max(0.8, x(busy.start + busy.duration) - x(busy.start) - 0.6),
                height=PITCH - 8,
                class_=classes,
                data_tip=tip,
            )
        )
    parts += [element("line", x1=x(end), x2=x(end), y1=4.0, y2=bottom, class_="s7 dashed") for end in ends]
    phases = list(dict.fromkeys(busy.phase for busy in found))
    label = f"{title}, {kind}: {len(rows)} circuits in the phases {', '.join(phases)}"
    shown = drawing(WIDTH, bottom + 40, label, *parts, hints=True)
    box = element("div", shown, class_="scroll", role="group", tabindex="0", aria_label=title)
    named = [(phase, f"bar s{colours.get(phase, 7)}") for phase in phases]
    return figure(title, box, legend(named), note=note, class_="full")


def power(
    title: str, phases: Sequence[tuple[str, float, float, float, str, int]], kind: str, note: str
) -> Markup:
    """Power over the time of a step: the area of a bar is its energy.

    phases: name, start and duration (ns), power (mW), energy as written, colour; wide ones first.
    """
    x = linear([end for _, a, b, *_ in phases for end in (a, a + b)], 54.0, POWER_WIDTH - 12, zero=True)
    y = linear([p for _, _, _, p, _, _ in phases], POWER_HEIGHT - 42, 30.0, zero=True)
    parts = [axes(x, y, "time in the step, ns", "power, mW")]
    for name, start, duration, height, energy, colour in phases:
        tip = f"{name}: {energy}, {short(height)} mW from {short(start)} ns for {short(duration)} ns ({kind})"
        parts.append(
            element(
                "rect",
                x=x(start),
                y=y(height),
                width=max(0.8, x(start + duration) - x(start) - 0.6),
                height=max(0.8, y(0.0) - y(height)),
                class_=f"bar s{colour}",
                data_tip=tip,
            )
        )
    named = [(f"{name}: {energy}", f"bar s{colour}") for name, _, _, _, energy, colour in phases]
    spoken = "; ".join(f"{name} {energy}" for name, _, _, _, energy, _ in phases)
    shown = drawing(POWER_WIDTH, POWER_HEIGHT, f"{title}, {kind}: {spoken}", *parts, hints=True)
    return figure(title, shown, legend(named), note=note)
