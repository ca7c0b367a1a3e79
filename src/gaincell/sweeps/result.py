"""The result of a sweep: one JSON file, from the trials of its study."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gaincell.costs.notes import unquantised
from gaincell.costs.technology import load_technology
from gaincell.evaluation.perplexity import window_and_stride
from gaincell.mapping.summary import chip_of
from gaincell.results import sweep as of
from gaincell.results.codec import from_json
from gaincell.results.common import Value
from gaincell.results.provenance import made
from gaincell.standard_error import half_width
from gaincell.sweeps.point import settings_of
from gaincell.sweeps.settings import ACTIVITY_BLOCKS, OBJECTIVES, Sweep
from gaincell.sweeps.space import applied
from gaincell.sweeps.study import ENTRY, REASON, Survey


def assemble(sweep: Sweep, found: Survey, command: Sequence[str]) -> of.SweepResult:
    """What the trials of a study gave.

    Points are in order; those that are not finished are counted only. Where the unchanged design is among
    them, every perplexity has its ratio to that one's, paired block by block (and chip by chip).

    A change that leaves the loss of every block as it was, to the last stored digit, was not exercised by
    the protocol (a ring of 512 columns in blocks of 256, say), and nothing follows for the perplexity. Such
    points have `not_exercised`, the protocol's name, in place of an interval; parameters have it with the
    values between which no loss changed.
    """
    plan = sweep.plan()
    points = [
        from_json(of.Point, found.complete[number].user_attrs[ENTRY], f"point {number}")
        if number in found.complete
        else _failed(sweep, number, plan[number], found.failed[number])
        for number in sorted({*found.complete, *found.failed})
    ]
    own = settings_of(sweep, sweep.own)
    measured = (p for p in points if p.state == "complete" and p.same_as is None)
    reference = next((p for p in measured if p.parameters == own), None)
    if reference is not None and reference.blocks is not None:
        points = [
            _with_ratio(point, reference, sweep.protocol) if point.state == "complete" else point
            for point in points
        ]
    return of.SweepResult(
        sweep=sweep.name,
        study=sweep.study,
        model=of.SweptModel(Path(sweep.model).name, sweep.identity["model"]),
        design=replace(chip_of(sweep.design), nonideality=None),
        text=of.SweptText(sweep.identity["text"], sweep.limit),
        sampler=sweep.sampler,
        adapt=sweep.adapt,
        chips=sweep.chips,
        yield_within=sweep.within,
        objectives=tuple(of.Objective(name, *OBJECTIVES[name]) for name in sweep.objectives),
        parameters=tuple(
            of.SweptParameter(
                p.name, p.unit, p.describe(), own[p.name], _not_exercised(points, p.name, sweep.protocol)
            )
            for p in sweep.parameters
        ),
        counts=of.Counts(sweep.points, len(found.complete), len(found.failed), len(found.elsewhere)),
        points=tuple(points),
        reference=None if reference is None else reference.point,
        context=_context(sweep) if {"energy", "latency"} & set(sweep.objectives) else None,
        provenance=made(
            command=command,
            seed=sweep.seed,
            protocol=_protocol(sweep) + _priced(sweep, found),
            design_hash=sweep.design.hash,
            inputs={name: one for name, one in sweep.identity["content"].items() if isinstance(one, str)},
        ),
    )


def _context(sweep: Sweep) -> Value | str:
    """Tokens that the token whose costs are stated attends to: as given, as measured, or all columns."""
    if sweep.context is not None:
        return Value(sweep.context, "tokens", "simulated")
    return f"the mean context of {_blocks_of(sweep)}" if "energy" in sweep.objectives else "a full ring"


def _blocks_of(sweep: Sweep) -> str:
    """The blocks on which the activity is measured."""
    length, _ = window_and_stride(sweep.protocol)
    count = min(ACTIVITY_BLOCKS, sweep.limit // length)
    return f"at most {count} blocks of {sweep.protocol}" if count > 1 else f"1 block of {sweep.protocol}"


def _failed(sweep: Sweep, number: int, planned: dict[str, Any], trial: Any) -> of.Point:
    """A trial that records deaths has no values of its own; those planned are what is known then."""
    parameters = settings_of(sweep, planned | trial.params)
    return of.Point(point=number, state="failed", reason=trial.user_attrs[REASON], parameters=parameters)


def _not_exercised(points: Sequence[of.Point], name: str, protocol: str) -> of.NotExercised | None:
    """The protocol, and groups of values of a parameter between which no loss changed, wherever points differ
    in it alone; None where there are none.
    """
    losses: dict[str, dict[of.Setting | None, Any]] = {}
    for point in points:
        if point.blocks is not None:
            others = {key: entry for key, entry in point.parameters.items() if key != name}
            losses.setdefault(repr(others), {})[point.parameters.get(name)] = _losses(point)
    groups: list[list[Any]] = []
    for one in dict.fromkeys(setting for row in losses.values() for setting in row):
        for group in groups:
            pairs = [row for row in losses.values() if {one, group[0]} <= row.keys()]
            if pairs and all(row[one] == row[group[0]] for row in pairs):
                group.append(one)
                break
        else:
            groups.append([one])
    same = tuple(tuple(group) for group in groups if len(group) > 1)
    return of.NotExercised(protocol, same) if same else None


def _losses(point: of.Point) -> tuple[Any, ...]:
    """All that a point's measurement gave."""
    return point.blocks and point.blocks.nll, point.chips


def _with_ratio(point: of.Point, reference: of.Point, protocol: str) -> of.Point:
    """With the ratio of perplexities and its interval of 95 % (Student, of the logarithm); no interval where
    no loss differs, nor of a single block.
    """
    assert reference.blocks is not None
    weights = reference.blocks.predictions
    change, of_chips = point.changes(reference)
    middle = math.fsum(change) / math.fsum(weights)
    if point.parameters == reference.parameters or not math.isfinite(middle) or middle > 700:
        return point
    found = replace(point, ratio=math.exp(middle))
    if _losses(point) == _losses(reference):
        return replace(found, not_exercised=protocol)
    half = half_width(change, weights, of_chips)
    if half is None or middle + half >= 700:
        return found
    return replace(found, ratio_interval=(math.exp(middle - half), math.exp(middle + half)))


def _protocol(sweep: Sweep) -> str:
    if not sweep.measures:
        return "bottom-up costs from sizes alone, nothing evaluated"
    words = {
        True: "gains and offsets adapted to every point's nominal chip",
        "chip": "gains and offsets adapted to every chip",
        False: "nothing adapted",
    }
    adapted = " or ".join(words[way] for way in words if way in sweep.values_of("adapt"))
    if any(parameter.name == "adapt" for parameter in sweep.parameters):
        adapted += ", as a parameter"
    steps = ""
    if any(parameter.name == "fine_tune" for parameter in sweep.parameters):
        steps = "steps, as a parameter, of"
    elif sweep.fine_tune:
        steps = f"{sweep.fine_tune} steps of"
    trained = f", {steps} noise-aware fine-tuning ({sweep.loss})" if steps else ""
    return f"{_evaluated(sweep)}; {adapted}{trained}"


def _priced(sweep: Sweep, found: Survey) -> str:
    """The process of the costs, and what they count in place of converters that do not quantise."""
    if not {"energy", "latency", "area"} & set(sweep.objectives):
        return ""
    note = unquantised(*(applied(sweep.design, trial.params) for trial in found.complete.values()))
    return f"; costs in the process {load_technology(sweep.technology).name}{note and f'; {note}'}"


def _evaluated(sweep: Sweep) -> str:
    if not {"perplexity", "yield"} & set(sweep.objectives):
        return f"activity on {_blocks_of(sweep)}"
    chips = f", mean over {sweep.chips} chips" if sweep.chips else ""
    if chips and sweep.noisy:
        chips += ", each with noise of its own" if sweep.spread else " that differ by their noise"
    elif not chips and (sweep.spread or sweep.noisy):
        drawn = ["one chip"] * sweep.spread + ["one draw of noise"] * sweep.noisy
        chips = f", {' with '.join(drawn)}, whose spread is in no ±"
    return f"{sweep.protocol} of at most {sweep.limit} tokens{chips}"
