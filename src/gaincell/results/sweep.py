"""What `gaincell sweep` finds out about a model on many designs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Literal, TypeAlias

from gaincell.results.activity import ActivityOfHeads
from gaincell.results.common import Chip, Many, Named, Number, Part, Result, Value, Values, Whole, nothing
from gaincell.results.evaluation import Nats
from gaincell.results.run import MeasuredSeconds

Setting: TypeAlias = Value | str
"""Of a parameter: a number with its unit, or a word."""
Points: TypeAlias = Annotated[int, "points"]


def plain(setting: Setting | None) -> float | str | None:
    """A setting without its unit."""
    return setting.value if isinstance(setting, Value) else setting


class SweptModel(Named):
    """The model of a sweep.

    Attributes:
        identity: Of its files.
    """

    identity: str


class SweptText(Named):
    """The text of a sweep.

    Attributes:
        limit: Most tokens that are evaluated.
    """

    limit: Annotated[int, "tokens"]


class Objective(Part):
    """What points are compared by.

    Attributes:
        direction: "minimise" or "maximise".
    """

    name: str
    direction: str
    unit: str

    @property
    def sign(self) -> float:
        """Times a value: lower is better."""
        return 1.0 if self.direction == "minimise" else -1.0


class NotExercised(Part):
    """Groups of values of a parameter between which no loss changed."""

    protocol: str
    values: tuple[tuple[Setting, ...], ...]


class SweptParameter(Part):
    """What points differ in.

    Attributes:
        values: In words.
        own: Of the unchanged design.
    """

    name: str
    unit: str
    values: str
    own: Setting
    not_exercised: NotExercised | None = None


class Counts(Part):
    """Of points.

    Attributes:
        elsewhere: In progress on other machines.
    """

    planned: Points
    complete: Points
    failed: Points
    elsewhere: Points


class SweptBlocks(Part):
    """Losses (means over chips) and predictions of every block."""

    nll: Nats
    predictions: Annotated[tuple[int, ...], "tokens"]


class PointChips(Part):
    """Perplexities of the nominal chip and of all others."""

    nominal: Number
    perplexity: Many


class Point(Part, kw_only=True):
    """One design, measured by the objectives; parameters by name, values and intervals (95 %) by objective.

    Attributes:
        reason: Why it failed.
        same_as: An earlier point with the same parameters.
        code: Version that measured it.
        ratio: Of its perplexity to that of the unchanged design, paired block by block (and chip by chip).
        not_exercised: The protocol, where all losses are those of the unchanged design.
    """

    same_as: Whole | None = None
    point: Whole
    state: Literal["complete", "failed"]
    reason: str | None = None
    design: Chip | None = None
    parameters: Mapping[str, Setting]
    values: Mapping[str, Value] = field(default_factory=nothing)
    intervals: Mapping[str, Values] = field(default_factory=nothing)
    seconds: MeasuredSeconds | None = None
    code: str | None = None
    blocks: SweptBlocks | None = None
    chips: PointChips | None = None
    ratio: Number | None = None
    ratio_interval: Many | None = None
    not_exercised: str | None = None

    def setting(self, name: str) -> float | str | None:
        """A parameter: a number or a word."""
        return plain(self.parameters.get(name))

    def interval(self, objective: str) -> tuple[float, ...] | None:
        """Both ends of the interval of an objective that has one."""
        found = self.intervals.get(objective)
        return None if found is None else found.value

    def changes(self, reference: Point) -> tuple[list[float], list[float]]:
        """Nats by which losses are above those of another point: of every block; a token of every chip."""
        assert self.blocks is not None
        assert reference.blocks is not None
        blocks = zip(self.blocks.nll, reference.blocks.nll, strict=True)
        ours, theirs = (p.chips.perplexity if p.chips else () for p in (self, reference))
        chips = zip(ours, theirs, strict=True) if ours and theirs else ()
        return [a - b for a, b in blocks], [math.log(a) - math.log(b) for a, b in chips]


class PointResult(Result, Point, kw_only=True, command="sweep", part="point"):
    """run.json of one point."""

    sweep: str
    activity: ActivityOfHeads | None = None


class SweepResult(Result, kw_only=True, command="sweep", part="objectives"):
    """All points of a sweep.

    Attributes:
        sampler: How they were chosen.
        adapt: Whether gains and offsets are adapted to the nominal chip (True), to every chip ("chip") or
            not.
        chips: Of which a perplexity is the mean.
        reference: The unchanged design.
        context: Tokens that the token whose costs are stated attends to.
    """

    sweep: str
    study: str
    model: SweptModel
    design: Chip
    text: SweptText
    sampler: str
    adapt: bool | str
    chips: Whole
    yield_within: Number
    objectives: tuple[Objective, ...]
    parameters: tuple[SweptParameter, ...]
    counts: Counts
    points: tuple[Point, ...]
    reference: Whole | None = None
    context: Value | str | None = None

    @property
    def complete(self) -> list[Point]:
        """The points that were measured; one that a sampler chose again counts once."""
        return [point for point in self.points if point.state == "complete" and point.same_as is None]

    @property
    def own(self) -> Point | None:
        """The unchanged design, where it was measured."""
        return next((point for point in self.complete if point.point == self.reference), None)

    @property
    def front(self) -> list[Point]:
        """The Pareto front: no other point is better in one objective and as good in all others."""
        points = self.complete
        scores = [[o.sign * p.values[o.name].value for o in self.objectives] for p in points]

        def dominates(theirs: list[float], ours: list[float]) -> bool:
            return theirs != ours and all(a <= b for a, b in zip(theirs, ours, strict=True))

        pairs = zip(points, scores, strict=True)
        return [p for p, ours in pairs if not any(dominates(s, ours) for s in scores)]

    @property
    def units(self) -> Mapping[str, str]:
        """Of parameters, by name."""
        return {parameter.name: parameter.unit for parameter in self.parameters}

    @property
    def costs(self) -> list[str]:
        """Objectives besides the perplexity that are minimised; a lost yield saves nothing."""
        return [o.name for o in self.objectives if o.name != "perplexity" and o.direction == "minimise"]

    @property
    def has_ratios(self) -> bool:
        """Whether perplexities have ratios to that of the unchanged design."""
        return any(point.ratio is not None for point in self.complete)
