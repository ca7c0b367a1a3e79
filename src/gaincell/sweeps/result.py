"""The result of a sweep: one JSON file, from the trials of its study."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from gaincell.evaluation.chips import CONFIDENCE
from gaincell.reports import results
from gaincell.reports.results import Json, numbers, value
from gaincell.standard_error import ratio_error
from gaincell.sweeps.point import ACTIVITY_BLOCKS, parameter_entry
from gaincell.sweeps.settings import OBJECTIVES, Sweep
from gaincell.sweeps.study import ENTRY, REASON, Survey


def assemble(sweep: Sweep, found: Survey, command: Sequence[str]) -> Json:
    """The result file, checked.

    Points are in order; those that are not finished are counted only. Where the unchanged design is among
    them, every perplexity has its ratio to that one's, paired block by block (and chip by chip).

    A change that leaves the loss of every block as it was, to the last stored digit, was not exercised by
    the protocol (a ring of 512 columns in blocks of 256, say), and nothing follows for the perplexity. Such
    points have "not_exercised", the protocol's name, in place of an interval; parameters have it with the
    values between which no loss changed.
    """
    points: list[Json] = []
    for number in sorted({*found.complete, *found.failed}):
        if number in found.complete:
            points.append(dict(found.complete[number].user_attrs[ENTRY]))
        else:
            points.append(_failed(sweep, number, found.failed[number]))
    own = {p.name: parameter_entry(sweep.own[p.name], p.unit) for p in sweep.parameters}
    reference = next((p for p in points if p["state"] == "complete" and p["parameters"] == own), None)
    if reference is not None and "blocks" in reference:
        for point in points:
            if point["state"] == "complete":
                point.update(_ratio(point, reference, sweep.protocol))
    result: Json = {
        "schema": results.SCHEMA,
        "command": "sweep",
        "sweep": sweep.name,
        "study": sweep.study,
        "model": {"name": Path(sweep.model).name, "identity": sweep.identity["model"]},
        "design": {"name": sweep.design.name, "hash": sweep.design.hash, "cell": sweep.design.cell.name},
        "text": {"name": sweep.identity["text"], "limit": value(sweep.limit, "tokens", "simulated")},
        "sampler": sweep.sampler,
        "adapt": sweep.adapt,
        "chips": value(sweep.chips, "1", "simulated"),
        "yield_within": value(sweep.within, "1", "simulated"),
        "objectives": [
            {"name": name, "direction": OBJECTIVES[name][0], "unit": OBJECTIVES[name][1]}
            for name in sweep.objectives
        ],
        "parameters": [
            {"name": p.name, "unit": p.unit, "values": p.describe(), "own": own[p.name]}
            | _not_exercised(points, p.name, sweep.protocol)
            for p in sweep.parameters
        ],
        "counts": {
            name: value(count, "points", "simulated")
            for name, count in (
                ("planned", sweep.points),
                ("complete", len(found.complete)),
                ("failed", len(found.failed)),
                ("elsewhere", len(found.elsewhere)),
            )
        },
        "points": points,
        "provenance": results.provenance(
            command=command, seed=sweep.seed, protocol=_protocol(sweep), design_hash=sweep.design.hash
        ),
    }
    if reference is not None:
        result["reference"] = reference["point"]
    if {"energy", "latency"} & set(sweep.objectives):
        result["context"] = _context(sweep)
    results.check(result)
    return result


def _context(sweep: Sweep) -> Json | str:
    """Tokens that the token whose costs are stated attends to: as given, as measured, or all columns."""
    if sweep.context is not None:
        return value(sweep.context, "tokens", "simulated")
    measured = "energy" in sweep.objectives
    return f"the mean context of {ACTIVITY_BLOCKS} blocks of {sweep.protocol}" if measured else "a full ring"


def _failed(sweep: Sweep, number: int, trial: Any) -> Json:
    units = {parameter.name: parameter.unit for parameter in sweep.parameters}
    return {
        "point": value(number, "1", "simulated"),
        "state": "failed",
        "reason": trial.user_attrs[REASON],
        "parameters": {name: parameter_entry(v, units[name]) for name, v in trial.params.items()},
    }


def _not_exercised(points: Sequence[Json], name: str, protocol: str) -> Json:
    """The protocol, and groups of values of a parameter between which no loss changed, wherever points differ
    in it alone; empty where there are none.
    """
    losses: dict[str, dict[str, str]] = {}
    entries: dict[str, Any] = {}
    for point in points:
        if "blocks" in point:
            others = {key: entry for key, entry in point["parameters"].items() if key != name}
            entry = point["parameters"].get(name)
            entries[repr(entry)] = entry
            losses.setdefault(repr(others), {})[repr(entry)] = repr(_losses(point))
    groups: list[list[str]] = []
    for one in entries:
        for group in groups:
            pairs = [row for row in losses.values() if {one, group[0]} <= row.keys()]
            if pairs and all(row[one] == row[group[0]] for row in pairs):
                group.append(one)
                break
        else:
            groups.append([one])
    same = [[entries[one] for one in group] for group in groups if len(group) > 1]
    return {"not_exercised": {"protocol": protocol, "values": same}} if same else {}


def _losses(point: Mapping[str, Any]) -> tuple[Any, ...]:
    """All that a point's measurement gave."""
    return point["blocks"]["nll"], point.get("chips")


def _ratio(point: Mapping[str, Any], reference: Mapping[str, Any], protocol: str) -> Json:
    """Ratio of perplexities and its interval of 95 % (Student, of the logarithm); no interval where no loss
    differs.
    """
    ours, theirs = (numbers(p["blocks"]["nll"]) for p in (point, reference))
    weights = numbers(reference["blocks"]["predictions"])
    change = [a - b for a, b in zip(ours, theirs, strict=True)]
    middle = math.fsum(change) / math.fsum(weights)
    if point is reference or not math.isfinite(middle) or middle > 700:
        return {}
    found: Json = {"ratio": value(math.exp(middle), "1", "simulated")}
    if _losses(point) == _losses(reference):
        return found | {"not_exercised": protocol}
    error = ratio_error(change, weights)
    variances = [] if error is None else [(error**2, len(weights) - 1)]
    if "chips" in point and len(point["chips"]["perplexity"]["value"]) > 1:
        a, b = (np.log(numbers(p["chips"]["perplexity"])) for p in (point, reference))
        variances.append((float(np.var(a - b, ddof=1)) / len(a), len(a) - 1))
    if variances:
        squares = (v * float(stats.t.ppf(0.5 + CONFIDENCE / 2, n)) ** 2 for v, n in variances)
        half = math.sqrt(math.fsum(squares))
        if middle + half < 700:
            limits = [math.exp(middle - half), math.exp(middle + half)]
            found["ratio_interval"] = value(limits, "1", "simulated")
    return found


def _protocol(sweep: Sweep) -> str:
    if not sweep.measures:
        return "bottom-up costs from sizes alone, nothing evaluated"
    adapted = {
        True: "gains and offsets adapted to every point's nominal chip",
        "chip": "gains and offsets adapted to every chip",
        False: "nothing adapted",
    }[sweep.adapt]
    if any(parameter.name == "adapt" for parameter in sweep.parameters):
        adapted = "adapted or not, as a parameter"
    steps = ""
    if any(parameter.name == "fine_tune" for parameter in sweep.parameters):
        steps = "steps, as a parameter, of"
    elif sweep.fine_tune:
        steps = f"{sweep.fine_tune} steps of"
    trained = f", {steps} noise-aware fine-tuning ({sweep.loss})" if steps else ""
    return f"{_evaluated(sweep)}; {adapted}{trained}"


def _evaluated(sweep: Sweep) -> str:
    if not {"perplexity", "yield"} & set(sweep.objectives):
        return f"activity on {ACTIVITY_BLOCKS} blocks of {sweep.protocol}"
    chips = f", mean over {sweep.chips} chips" if sweep.chips else ""
    if chips and sweep.noisy:
        chips += ", each with noise of its own" if sweep.spread else " that differ by their noise"
    elif sweep.noisy:
        chips = ", all with one draw of noise, whose variance is in no ±"
    return f"{sweep.protocol} of at most {sweep.limit} tokens{chips}"
