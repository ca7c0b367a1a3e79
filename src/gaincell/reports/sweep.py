"""Sweeps as tables and answers, from the JSON of `gaincell sweep` alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from gaincell.files import is_number
from gaincell.reports.tables import Rows, ratio_or_score, readable
from gaincell.results.common import Value
from gaincell.results.run import CodesignComparison
from gaincell.results.sweep import Point, SweepResult, plain
from gaincell.units import prefixes

PREFIXED = ("s", "J", "V", "F", "C", "Hz", "A", "W", "m^2")
"""Units that are shown with a prefix."""
FROM_ONE = prefixes(1e-15)
"""Of numbers in tables: thousands are written out."""
UNSEEN = "not exercised"
"""Of points whose losses are those of another setting, to the last digit."""
UNEVEN = 1.2
"""Ratio of the sides of an interval from which on both ends are shown."""
FREE = 0.01
"""Share of the perplexity that a change may cost and still be called free."""


def varied(result: SweepResult) -> list[str]:
    """Parameters that differ between points."""
    names, points = list(result.units), result.complete
    return [n for n in names if len({p.setting(n) for p in points}) > 1] or names


def unseen(result: SweepResult, point: Point) -> bool:
    """Whether no loss tells a point from the unchanged design; where that was not measured, from other values
    of one of its parameters.
    """
    if result.reference is not None:
        return point.not_exercised is not None
    return any(
        point.parameters.get(parameter.name) in values
        for parameter in result.parameters
        if parameter.not_exercised is not None
        for values in parameter.not_exercised.values
    )


def changes(result: SweepResult, point: Point) -> list[str]:
    """Parameters in which a point differs from the unchanged design."""
    return [p.name for p in result.parameters if point.setting(p.name) != plain(p.own)]


def changed(result: SweepResult, point: Point) -> str:
    """What tells a point from the unchanged design, in words."""
    return _settings(result, point, changes(result, point)) or "nothing"


def _settings(result: SweepResult, point: Point, names: Iterable[str]) -> str:
    """Parameters of a point with their values, in words."""
    units = result.units
    return ", ".join(f"{name} = {word(point.setting(name), units[name])}" for name in names)


def quantity(x: float, unit: str, digits: int = 3) -> str:
    """A number with its unit, in thousands of it."""
    if unit == "1":
        return f"{x:.{digits + 1}g}"
    if unit == "m^2":
        return f"{x * 1e6:.{digits}g} mm²"
    if not math.isfinite(x) or x == 0:
        return f"{x:g} {unit}"
    scale, prefix = next((pair for pair in FROM_ONE if abs(x) >= 0.9995 * pair[0]), FROM_ONE[-1])
    return f"{x / scale:.{digits}g} {prefix}{unit}"


def word(value: object, unit: str = "1") -> str:
    """A parameter's value, whole numbers with all digits; a dash where it is not known."""
    if not is_number(value):
        return "–" if value is None else str(value)
    if unit in PREFIXED:
        return quantity(value, unit, 4)
    number = f"{value:.0f}" if float(value).is_integer() else f"{value:.4g}"
    return number if unit in ("1", "charge units") else f"{number} {unit}"


def rows(result: SweepResult, shown: Sequence[Point] | None = None) -> Rows:
    """A row a point: what varies, objectives with intervals, ratio, whether on the front."""
    each = result.sampler == "each"
    names = [] if each else varied(result)
    units = result.units
    several = len(result.objectives) > 1
    head = [*(["change"] if each else names), *(objective.name for objective in result.objectives)]
    head += (["ratio"] if result.has_ratios else []) + (["front"] if several else [])
    lines = []
    best = {point.point for point in result.front} if several else set()
    for point in result.points if shown is None else shown:
        line = [changed(result, point)] if each else [word(point.setting(n), units[n]) for n in names]
        if point.state != "complete":
            lines.append(line + ["–"] * (len(head) - len(line)))
            continue
        line += [objective_word(point, o.name, o.unit) for o in result.objectives]
        if result.has_ratios:
            line.append(ratio_word(point) if changes(result, point) else "1")
        if several:
            line.append("•" if point.point in best else "")
        lines.append(line)
    return Rows(result.sweep, head, lines, caption(result), text=(0,) if each else ())


def objective_word(point: Point, name: str, unit: str) -> str:
    """The value of an objective, with its interval."""
    x, ends = point.values[name].value, point.interval(name)
    if name == "yield":
        within = "" if ends is None else f" ({100 * ends[0]:.0f} to {100 * ends[1]:.0f})"
        return f"{100 * x:.0f} %{within}"
    return _with_interval(x, ends, readable) if name == "perplexity" or ends else quantity(x, unit)


def ratio_word(point: Point) -> str:
    """The ratio of its perplexity to that of the unchanged design, with its interval."""
    if point.ratio is None or point.not_exercised is not None:
        return "–" if point.ratio is None else UNSEEN
    return _with_interval(point.ratio, point.ratio_interval, ratio_or_score)


def _with_interval(x: float, ends: tuple[float, ...] | None, shown: Callable[[float], str]) -> str:
    """A number with ± where that says what its interval is, else with both ends."""
    if ends is None:
        return shown(x)
    low, high = ends
    if _is_uneven(x, low, high):
        return f"{shown(x)}, {shown(low)} to {shown(high)}"
    return f"{shown(x)} ± {max(x - low, high - x):.2g}"


def _is_uneven(x: float, low: float, high: float) -> bool:
    """Whether one side of an interval, which is even on a logarithmic scale, is longer by over a fifth."""
    return max(x - low, high - x) > UNEVEN * min(x - low, high - x)


def _has_uneven(result: SweepResult) -> bool:
    points = result.complete
    found = [(p.ratio, p.ratio_interval) for p in points]
    found += [(p.values["perplexity"].value, ends) for p in points if (ends := p.interval("perplexity"))]
    return any(_is_uneven(x, *ends) for x, ends in found if x is not None and ends is not None)


def caption(result: SweepResult, *, marked: bool = True) -> str:
    """What the numbers are, and the mark of points of the front where they are marked."""
    counts = result.counts
    text = f"{result.model.name} on {result.design.name}"
    evaluated = {"perplexity", "yield", "energy"} & {objective.name for objective in result.objectives}
    text += f", text {result.text.name}; " if evaluated else "; "
    text += f"{result.provenance.protocol}."
    if len(codes := {point.code for point in result.complete if point.code is not None}) > 1:
        text += f" Measured by several versions of gaincell: {', '.join(sorted(codes))}."
    clauses, over_blocks = list[str](), any("perplexity" in point.intervals for point in result.complete)
    if over_blocks:
        ends = "±, or low to high" if _has_uneven(result) else "±"
        clauses.append(f"{ends}: 95 %, over blocks{' and chips' if result.chips > 1 else ''}")
    elif any(point.intervals for point in result.complete):
        clauses.append("Yield: 95 %, over chips")
    if result.has_ratios:
        own = any(point.ratio_interval is not None for point in result.complete)
        of = "ratio: to the unchanged design, on the same blocks"
        clauses.append(of + (", with its own interval" if own else ""))
    clauses += not_exercised(result)
    if marked and len(result.objectives) > 1:
        by_values = (
            ", by the values alone: its points may lie within each other's intervals, and they were "
            "chosen on the text they are measured on, so they look better on it than on another text"
        )
        clauses.append("•: on the Pareto front" + (by_values if over_blocks else ""))
    text += f" {'; '.join(clauses)}." if clauses else ""
    text += f" {counts.complete} of {counts.planned} points measured"
    if repeated := sum(point.same_as is not None for point in result.points):
        text += f", {repeated} of them repeats"
    text += f", {counts.failed} failed." if counts.failed else "."
    return text + priced(result) + repriced(result)


def priced(result: SweepResult) -> str:
    """Which token the costs are of: they depend on its context, and on whether columns are refreshed."""
    if not {"energy", "latency"} & set(result.costs):
        return ""
    context = result.context
    if isinstance(context, Value):
        context = f"a context of {context.value:,.0f} tokens"
    stated = context or "the context that the sweep's file gives, by default the mean of the blocks read"
    return (
        f" Costs: of one token with {stated}, without refresh; gaincell cost takes a full ring unless "
        "--context says otherwise."
    )


def repriced(result: SweepResult | CodesignComparison) -> str:
    """How costs came to be another model's than that of the measurement; nothing where they did not."""
    found = result.provenance.repriced
    return "" if found is None else f" {found.how}"


def failures(result: SweepResult) -> list[str]:
    """A line for every failed point: its values and the reason."""
    failed = (point for point in result.points if point.state == "failed")
    return [f"failed: {_settings(result, p, p.parameters)}: {p.reason}" for p in failed]


def by_ratio(points: Sequence[Point]) -> list[Point]:
    """Points that have a ratio, the best first."""
    return [p for _, _, p in sorted((p.ratio, n, p) for n, p in enumerate(points) if p.ratio is not None)]


def verdict(point: Point) -> str:
    """A ratio with its interval in a word."""
    if point.not_exercised is not None:
        return f"not exercised by {point.not_exercised}"
    low, high = point.ratio_interval or (0.0, math.inf)
    if high < 1:
        return "better"
    if low > 1 and point.ratio is not None:
        return f"worse, by {100 * (point.ratio - 1):.1f} %"
    return f"the same to {100 * FREE:g} %" if low >= 1 - FREE and high <= 1 + FREE else "not told apart"


def not_exercised(result: SweepResult) -> list[str]:
    """Which values of parameters the measurement cannot tell from each other, in clauses."""
    found = [(p.name, p.unit, p.not_exercised) for p in result.parameters if p.not_exercised is not None]
    groups = [
        f"{name} = {', '.join(word(plain(v), unit) for v in values)}"
        for name, unit, alike in found
        for values in alike.values
    ]
    clauses = []
    if any(point.not_exercised is not None for point in result.points):
        clauses.append("not exercised: all losses are those of the unchanged design, to the last digit")
    if groups:
        clauses.append(
            f"{found[-1][2].protocol} does not exercise {'; '.join(groups)}: between these values no loss "
            "differs, so nothing follows for the perplexity, nor for what is chosen by it"
        )
    return clauses


def cost_ratios(result: SweepResult, point: Point) -> dict[str, float]:
    """Every cost over that of the unchanged design."""
    own = result.own
    assert own is not None
    return {name: point.values[name].value / own.values[name].value for name in result.costs}


def without_reference(result: SweepResult) -> str:
    """A hint where perplexities have no ratios, for want of the unchanged design; else nothing."""
    if result.reference is not None or not any(point.blocks for point in result.complete):
        return ""
    values = ", ".join(f"{p.name} = {word(plain(p.own), p.unit)}" for p in result.parameters)
    return (
        f"No ratios: the unchanged design ({values}) is none of the points. Add its values to [parameters], "
        "or take the sampler each, which always measures it: ratios on the same text have far narrower "
        "intervals."
    )


def answers(result: SweepResult) -> list[str]:
    """Of changes of one thing at a time: what costs most, and what could be relaxed (nearly) for free.

    Nothing of other sweeps, or where no ratio of perplexities has an interval.
    """

    def named(some: Sequence[Point]) -> str:
        return "; ".join(f"{changed(result, p)} (× {ratio_word(p)})" for p in some)

    points = by_ratio([point for point in result.complete if point.ratio_interval])
    own = result.own
    if result.sampler != "each" or not points or own is None:
        return []
    lines = ["No single change lowers the perplexity beyond its interval."]
    if better := [p for p in points if verdict(p) == "better"]:
        lines = [f"Costs most, lowering the perplexity when it is changed: {named(better)}."]
    free = []
    for point in points:
        ratios = cost_ratios(result, point)
        saved = {name: r for name, r in ratios.items() if r < 1 - FREE}
        numeric = all(is_number(point.setting(name)) for name in changes(result, point))
        loses_yield = "yield" in point.values and point.values["yield"].value < own.values["yield"].value
        cheap = saved and max(ratios.values()) <= 1 + FREE and not loses_yield
        if numeric and cheap and _interval(point)[1] <= 1 + FREE:
            saving = ", ".join(f"{name} × {r:.3g}" for name, r in saved.items())
            text = f"{changed(result, point)} ({saving}; perplexity × {ratio_word(point)})"
            free.append((min(saved.values()), text))
    found = "; ".join(text for _, text in sorted(free)) or "nothing"
    if result.costs:
        lines.append(
            f"Numbers that save something for surely less than {100 * FREE:g} % of perplexity: {found}."
        )
    if worse := [p for p in points if _interval(p)[0] > 1]:
        worst = worse[-1]
        others = named([p for p in points[::-1] if p is not worst and _interval(p)[1] >= _interval(worst)[0]])
        lines.append(
            f"Hurts most: {named([worst])}" + (f"; within its interval: {others}." if others else ".")
        )
    else:
        lines.append("No single change raises the perplexity beyond its interval.")
    if unseen := [p for p in result.complete if p.not_exercised is not None]:
        of_these = "; ".join(changed(result, p) for p in unseen)
        lines.append(
            f"Not exercised by {unseen[0].not_exercised}, so that nothing is known of their perplexity: "
            f"{of_these}."
        )
    return lines


def _interval(point: Point) -> tuple[float, ...]:
    return point.ratio_interval or (-math.inf, math.inf)
