"""Sweeps as tables and answers, from the JSON of `gaincell sweep` alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gaincell.reports.results import number, numbers
from gaincell.reports.tables import readable

Result = Mapping[str, Any]
Point = Mapping[str, Any]
PREFIXES = ((1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"), (1e-12, "p"), (1e-15, "f"))
UNSEEN = "not exercised"
"""Of points whose losses are those of another setting, to the last digit."""
UNEVEN = 1.2
"""Ratio of the sides of an interval from which on both ends are shown."""
FREE = 0.01
"""Share of the perplexity that a change may cost and still be called free."""


def complete(result: Result) -> list[Point]:
    """The points that were measured; one that a sampler chose again counts once."""
    points: list[Point] = result["points"]
    return [point for point in points if point["state"] == "complete" and "same_as" not in point]


def varied(result: Result) -> list[str]:
    """Parameters that differ between points."""
    names = [parameter["name"] for parameter in result["parameters"]]
    points = complete(result)
    return [n for n in names if len({repr(setting(p, n)) for p in points}) > 1] or names


def setting(point: Point, name: str) -> Any:
    """A parameter of a point: a number or a word."""
    entry = point["parameters"].get(name)
    return entry["value"] if isinstance(entry, Mapping) else entry


def unseen(result: Result, point: Point) -> bool:
    """Whether no loss tells a point from the unchanged design; where that was not measured, from other values
    of one of its parameters.
    """
    if "reference" in result:
        return "not_exercised" in point
    return any(
        point["parameters"].get(parameter["name"]) in values
        for parameter in result["parameters"]
        for values in parameter.get("not_exercised", {}).get("values", ())
    )


def is_number(value: Any) -> bool:
    """Whether a setting is a number, not a word."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def changes(result: Result, point: Point) -> list[str]:
    """Parameters in which a point differs from the unchanged design."""
    own = {p["name"]: p["own"] for p in result["parameters"]}
    values = {name: v["value"] if isinstance(v, Mapping) else v for name, v in own.items()}
    return [name for name, v in values.items() if setting(point, name) != v]


def changed(result: Result, point: Point) -> str:
    """What tells a point from the unchanged design, in words."""
    units = {parameter["name"]: parameter["unit"] for parameter in result["parameters"]}
    found = [f"{name} = {word(setting(point, name), units[name])}" for name in changes(result, point)]
    return ", ".join(found) or "nothing"


def front(result: Result) -> list[Point]:
    """Points that no other is better than in one objective and as good in all others."""
    signs = [1.0 if o["direction"] == "minimise" else -1.0 for o in result["objectives"]]
    names = [o["name"] for o in result["objectives"]]
    points = complete(result)
    scores = [[s * number(p["values"][n]) for s, n in zip(signs, names, strict=True)] for p in points]

    def dominated(ours: list[float]) -> bool:
        return any(
            theirs != ours and all(a <= b for a, b in zip(theirs, ours, strict=True)) for theirs in scores
        )

    return [point for point, score in zip(points, scores, strict=True) if not dominated(score)]


def quantity(x: float, unit: str, digits: int = 3) -> str:
    """A number with its unit, in thousands of it."""
    if unit == "1":
        return f"{x:.{digits + 1}g}"
    if unit == "m^2":
        return f"{x * 1e6:.{digits}g} mm²"
    if not math.isfinite(x) or x == 0:
        return f"{x:g} {unit}"
    scale, prefix = next(((s, p) for s, p in PREFIXES if abs(x) >= 0.9995 * s), PREFIXES[-1])
    return f"{x / scale:.{digits}g} {prefix}{unit}"


def word(value: Any, unit: str = "1") -> str:
    """A parameter's value."""
    if is_number(value):
        return f"{value:.4g}" if unit == "1" or unit == "charge units" else quantity(value, unit)
    return str(value)


def rows(result: Result, shown: Sequence[Point] | None = None) -> list[list[str]]:
    """Headings and a row a point: what varies, objectives with intervals, ratio, whether on the front."""
    each = result["sampler"] == "each"
    names = [] if each else varied(result)
    units = {parameter["name"]: parameter["unit"] for parameter in result["parameters"]}
    several = len(result["objectives"]) > 1
    has_ratio = any("ratio" in point for point in complete(result))
    head = [*(["change"] if each else names), *(objective["name"] for objective in result["objectives"])]
    lines = [head + (["ratio"] if has_ratio else []) + (["front"] if several else [])]
    best = {number(point["point"]) for point in front(result)} if several else set()
    reference = number(result["reference"]) if "reference" in result else None
    for point in result["points"] if shown is None else shown:
        line = [changed(result, point)] if each else [word(setting(point, n), units[n]) for n in names]
        if point["state"] != "complete":
            lines.append(line + ["–"] * (len(lines[0]) - len(line)))
            continue
        line += [_objective(point, o["name"], o["unit"]) for o in result["objectives"]]
        if has_ratio:
            line.append("1" if number(point["point"]) == reference else _ratio(point))
        if several:
            line.append("•" if number(point["point"]) in best else "")
        lines.append(line)
    return lines


def _objective(point: Point, name: str, unit: str) -> str:
    x = number(point["values"][name])
    if name == "perplexity":
        shown = readable(x)
    elif name == "yield":
        shown = f"{100 * x:.0f} %"
    else:
        shown = quantity(x, unit)
    if name not in point["intervals"]:
        return shown
    low, high = numbers(point["intervals"][name])
    if name == "yield":
        return f"{shown} ({100 * low:.0f} to {100 * high:.0f})"
    return _with_interval(x, low, high, readable)


def _ratio(point: Point) -> str:
    if "ratio" not in point:
        return "–"
    if "not_exercised" in point:
        return UNSEEN
    ratio = number(point["ratio"])
    if "ratio_interval" not in point:
        return _factor(ratio)
    low, high = numbers(point["ratio_interval"])
    return _with_interval(ratio, low, high, _factor)


def _with_interval(x: float, low: float, high: float, shown: Callable[[float], str]) -> str:
    """A number with ± where that says what its interval is, else with both ends."""
    if _is_uneven(x, low, high):
        return f"{shown(x)}, {shown(low)} to {shown(high)}"
    return f"{shown(x)} ± {max(x - low, high - x):.2g}"


def _is_uneven(x: float, low: float, high: float) -> bool:
    """Whether one side of an interval, which is even on a logarithmic scale, is longer by over a fifth."""
    return max(x - low, high - x) > UNEVEN * min(x - low, high - x)


def _has_uneven(result: Result) -> bool:
    found = []
    for point in complete(result):
        if "perplexity" in point["intervals"]:
            found.append((number(point["values"]["perplexity"]), *numbers(point["intervals"]["perplexity"])))
        if "ratio_interval" in point:
            found.append((number(point["ratio"]), *numbers(point["ratio_interval"])))
    return any(_is_uneven(*one) for one in found)


def _factor(x: float) -> str:
    return f"{x:.4f}" if x < 10 else readable(x)


def caption(result: Result, *, marked: bool = True) -> str:
    """What the numbers are.  marked: whether points of the front are."""
    counts = {name: number(count) for name, count in result["counts"].items()}
    text = f"{result['model']['name']} on {result['design']['name']}"
    evaluated = {"perplexity", "yield", "energy"} & {objective["name"] for objective in result["objectives"]}
    text += f", text {result['text']['name']}; " if evaluated else "; "
    text += f"{result['provenance']['protocol']}."
    if any(point["intervals"] for point in complete(result)):
        text += " ±, or low to high: 95 %, over blocks" if _has_uneven(result) else " ±: 95 %, over blocks"
        text += " and chips" if number(result["chips"]) else ""
    if any("ratio" in point for point in complete(result)):
        text += "; " if text[-1] != "." else " "
        text += "ratio: to the unchanged design, on the same blocks"
        if any("ratio_interval" in point for point in complete(result)):
            text += ", with its own interval"
    text += not_exercised(result)
    if marked and "front" in rows(result, [])[0]:
        text += "; " if text[-1] != "." else " "
        text += "•: on the Pareto front"
        if any("perplexity" in point["intervals"] for point in complete(result)):
            text += (
                ", by the values alone: its points may lie within each other's intervals, and they were "
                "chosen on the text they are measured on, so that they look better there than they are"
            )
    text += "." if text[-1] != "." else ""
    text += f" {counts['complete']:.0f} of {counts['planned']:.0f} points measured"
    if repeated := sum("same_as" in point for point in result["points"]):
        text += f", {repeated} of them repeats"
    text += f", {counts['failed']:.0f} failed." if counts["failed"] else "."
    return text + priced(result) + repriced(result)


def priced(result: Result) -> str:
    """Which token the costs are of: they depend on its context, and on whether columns are refreshed."""
    if not {"energy", "latency"} & {objective["name"] for objective in result["objectives"]}:
        return ""
    context = result.get(
        "context", "the context that the sweep's file gives, by default the mean of the blocks read"
    )
    if isinstance(context, Mapping):
        context = f"a context of {number(context):,.0f} tokens"
    return (
        f" Costs: of one token with {context}, without refresh; gaincell cost takes a full ring unless "
        "--context says otherwise."
    )


def repriced(result: Result) -> str:
    """How costs came to be another model's than that of the measurement; nothing where they did not."""
    found = result["provenance"].get("repriced")
    return "" if found is None else f" {found['how']}"


def sweep_table(result: Result) -> Any:
    """For a terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    head, *body = rows(result)
    table = Table(
        title=result["sweep"], title_justify="left", box=SIMPLE_HEAD, caption=caption(result),
        caption_justify="left",
    )  # fmt: skip
    for heading in head:
        table.add_column(heading, justify="right", overflow="fold")
    for line in body:
        table.add_row(*line)
    return table


def failures(result: Result) -> list[str]:
    """A line for every failed point: its values and the reason."""
    failed = [point for point in result["points"] if point["state"] == "failed"]
    return [f"failed: {_settings(point)}: {point['reason']}" for point in failed]


def sweep_markdown(result: Result, shown: Sequence[Point] | None = None) -> str:
    """For a document; of the points `shown`, by default all."""
    head, *body = rows(result, shown)
    lines = [head, ["---:"] * len(head), *body]
    if result["sampler"] == "each":
        lines[1][0] = "---"
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    reasons = "".join(f"\n* {line}" for line in (failures(result) if shown is None else ()))
    return f"{table}\n\n{caption(result)}\n{reasons}".rstrip() + "\n"


def _settings(point: Point) -> str:
    return ", ".join(f"{name} = {word(setting(point, name))}" for name in point["parameters"])


def changes_markdown(result: Result) -> str:
    """Changes of one thing at a time, the best first: ratios of every objective to the unchanged design."""
    points = complete(result)
    own = next(point for point in points if number(point["point"]) == number(result["reference"]))
    costs = [o["name"] for o in result["objectives"] if o["name"] != "perplexity"]
    lines = [["change", "perplexity ×", *(f"{name} ×" for name in costs), "perplexity is"]]
    lines.append(["---", "---:", *["---:"] * len(costs), "---"])
    for point in sorted((p for p in points if "ratio" in p), key=lambda p: number(p["ratio"])):
        ratios = [f"{_cost_ratio(point, own, name):.3g}" for name in costs]
        lines.append([changed(result, point), _ratio(point), *ratios, verdict(point)])
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{table}\n\n{caption(result, marked=False)}\n"


def verdict(point: Point) -> str:
    """A ratio with its interval in a word."""
    if "not_exercised" in point:
        return f"not exercised by {point['not_exercised']}"
    low, high = numbers(point["ratio_interval"]) if "ratio_interval" in point else (0.0, math.inf)
    if high < 1:
        return "better"
    if low > 1:
        return f"worse, by {100 * (number(point['ratio']) - 1):.1f} %"
    return f"the same to {100 * FREE:g} %" if low >= 1 - FREE and high <= 1 + FREE else "not told apart"


def not_exercised(result: Result) -> str:
    """Which values of parameters the measurement cannot tell from each other, to follow a sentence."""
    groups = []
    for parameter in result["parameters"]:
        for values in parameter.get("not_exercised", {}).get("values", ()):
            plain = (v["value"] if isinstance(v, Mapping) else v for v in values)
            words = ", ".join(word(v, parameter["unit"]) for v in plain)
            groups.append(f"{parameter['name']} = {words}")
            protocol = parameter["not_exercised"]["protocol"]
    text = ""
    if any("not_exercised" in point for point in result["points"]):
        text += "; not exercised: all losses are those of the unchanged design, to the last digit"
    if groups:
        text += (
            f"; {protocol} does not exercise {'; '.join(groups)}: between these values no loss differs, so "
            "nothing follows for the perplexity, nor for what is chosen by it"
        )
    return text


def _cost_ratio(point: Point, own: Point, name: str) -> float:
    return number(point["values"][name]) / number(own["values"][name])


def without_reference(result: Result) -> str:
    """A hint where perplexities have no ratios, for want of the unchanged design; else nothing."""
    if "reference" in result or not any("blocks" in point for point in complete(result)):
        return ""
    own = {"parameters": {p["name"]: p["own"] for p in result["parameters"]}}
    values = ", ".join(
        f"{p['name']} = {word(setting(own, p['name']), p['unit'])}" for p in result["parameters"]
    )
    return (
        f"No ratios: the unchanged design ({values}) is none of the points. Add its values to [parameters], "
        "or take the sampler each, which always measures it: ratios on the same text have far narrower "
        "intervals."
    )


def has_answers(result: Result) -> bool:
    """Whether one thing was changed at a time, and perplexities have ratios with intervals."""
    return result["sampler"] == "each" and any("ratio_interval" in point for point in complete(result))


def answers(result: Result) -> list[str]:
    """Of changes of one thing at a time: what costs most, and what could be relaxed (nearly) for free."""
    points = [point for point in complete(result) if "ratio_interval" in point]
    own = next(point for point in complete(result) if number(point["point"]) == number(result["reference"]))
    costs = [o["name"] for o in result["objectives"] if o["name"] != "perplexity"]
    better = sorted((p for p in points if verdict(p) == "better"), key=lambda p: number(p["ratio"]))
    lines = []
    if better:
        gains = [f"{changed(result, p)} (× {_ratio(p)})" for p in better]
        lines.append("Costs most, lowering the perplexity when it is changed: " + "; ".join(gains) + ".")
    else:
        lines.append("No single change lowers the perplexity beyond its interval.")
    free = []
    for point in points:
        ratios = {name: _cost_ratio(point, own, name) for name in costs}
        saved = {name: r for name, r in ratios.items() if r < 1 - FREE}
        numeric = all(is_number(setting(point, name)) for name in changes(result, point))
        cheap = saved and max(ratios.values()) <= 1 + FREE
        if numeric and cheap and numbers(point["ratio_interval"])[1] <= 1 + FREE:
            saving = ", ".join(f"{name} × {r:.3g}" for name, r in saved.items())
            text = f"{changed(result, point)} ({saving}; perplexity × {_ratio(point)})"
            free.append((min(saved.values()), text))
    found = "; ".join(text for _, text in sorted(free)) or "nothing"
    if costs:
        lines.append(
            f"Numbers that save something for surely less than {100 * FREE:g} % of perplexity: {found}."
        )
    worst = max(points, key=lambda p: number(p["ratio"]))
    low, _ = numbers(worst["ratio_interval"])
    close = [p for p in points if p is not worst and numbers(p["ratio_interval"])[1] >= low]
    close.sort(key=lambda p: -number(p["ratio"]))
    others = "; ".join(f"{changed(result, p)} (× {_ratio(p)})" for p in close)
    lines.append(
        f"Hurts most: {changed(result, worst)} (× {_ratio(worst)})"
        + (f"; within its interval: {others}." if others else ".")
    )
    unseen = [p for p in complete(result) if "not_exercised" in p]
    if unseen:
        lines.append(
            f"Not exercised by {unseen[0]['not_exercised']}, so that nothing is known of their perplexity: "
            + "; ".join(changed(result, p) for p in unseen)
            + "."
        )
    return lines
