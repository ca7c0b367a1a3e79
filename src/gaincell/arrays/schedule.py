"""When a step does what: phases, durations, and the circuits that each occupies.

One query of one token goes through these phases ("Step" in docs/concepts/circuits.md):

    key write    discharge and write of the key column, settling         unstated_latency, assumed
    key read     query pulses into the key array                         T_max, twice for signed queries
    value write  discharge and write of the value column                  hidden behind the key read
    value read   pulses of phi * T_max into the value array               T_max
    count        output pulses into the counters                         (L - 1) / f_clock
    add          the adder tree over the sub-tiles                       ceil(log2(M / N)) / f_clock

With `scales`, also those of equation (3), which the published 65 ns may or may not contain:

    scale inputs keys; queries and values while the key is written       1 / f_clock
    scale output the sum of the sub-tiles                                1 / f_clock

T_max, the clock and the number of sub-tiles are the design's. What these phases leave of the 65 ns that the
paper states [M] is the one assumed number, `unstated_latency`; `sensitivity` shows what depends on it.

Conversion takes no time of its own: a charge-to-pulse circuit integrates while the key array is read and
gives out its pulse while the value array is read; a signed one integrates then, and its pulse is counted.

A circuit does one thing at a time, and a phase waits for what it needs: so the query heads of a group, which
share arrays that are written once, follow each other as closely as the circuits allow, while a token's
successor waits for its result. No values flow here.

Not modelled: when within a phase a circuit is busy; moving q, k, v and the result to and from the arrays;
that counters hold their counts until they are added, which trees deeper than two pulses need for more than
four query heads (`gaincell.rtl` refuses such groups).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from gaincell.chips.design import Design
from gaincell.errors import InputError
from gaincell.results.simulation import LatencySensitivity
from gaincell.units import Second

Basis = Literal["computed", "assumed"]


@dataclass(frozen=True)
class Phase:
    """One phase of a query: see the head of this file.

    Attributes:
        circuits: Circuits that it occupies.
        after: Phases of the same query that must have ended, of the token for those done once.
        once: Done once per token, not for every query head of a group.
    """

    name: str
    duration: Second
    basis: Basis
    circuits: tuple[str, ...]
    after: tuple[str, ...] = ()
    once: bool = False


@dataclass(frozen=True)
class Event:
    """A phase at its time.

    Attributes:
        token: Token it belongs to.
        query: Query head of a group it belongs to.
    """

    phase: Phase
    token: int
    query: int
    start: Second

    @property
    def end(self) -> Second:
        return self.start + self.phase.duration


@dataclass(frozen=True)
class Schedule:
    """The schedule of the heads of one layer, which all work in parallel.

    Attributes:
        group: Query heads per key/value head, which share its arrays.
        scales: Whether there are scaling stages.
    """

    design: Design
    group: int = 1
    scales: bool = False

    def __post_init__(self) -> None:
        if self.group < 1:
            raise InputError(f"group = {self.group} query heads per key/value head; give 1 or more")

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """The phases of one query in their order."""
        d, clock, t_max = self.design, 1 / self.design.counter_clock, self.design.t_pulse_max
        count = 0.0 if d.readout == "none" else (d.counter_levels - 1) * clock
        add = math.ceil(math.log2(d.tiles)) * clock
        scores, outputs = "charge-to-pulse", "signed charge-to-pulse"
        first: tuple[Phase, ...] = ()
        last: tuple[Phase, ...] = ()
        if self.scales:
            first = (Phase("scale inputs", clock, "computed", ("input scaling",), once=True),)
            last = (Phase("scale output", clock, "computed", ("output scaling",), ("add",)),)
        key_write = ("write DAC", "key array"), tuple(phase.name for phase in first)
        key_read = ("query driver", "key array", scores), ("key write",)
        value_read = ("value array", scores, outputs), ("value write", "key read")
        return (
            *first,
            Phase("key write", d.unstated_latency, "assumed", *key_write, once=True),
            Phase("value write", t_max, "assumed", ("write DAC", "value array"), ("key write",), once=True),
            Phase("key read", d.drivers.phases * t_max, "computed", *key_read),
            Phase("value read", t_max, "computed", *value_read),
            Phase("count", count, "computed", (outputs, "counter"), ("value read",)),
            Phase("add", add, "computed", ("adder tree",), ("count",)),
            *last,
        )

    @cached_property
    def step(self) -> tuple[Event, ...]:
        """The events of one token, starting at 0."""
        return self.events(1)

    def events(self, tokens: int, streams: int = 1) -> tuple[Event, ...]:
        """The events of some tokens, 1 or more.

        Args:
            tokens: Their number.
            streams: Independent sequences that take turns on the same arrays, token by token; the tokens of
                one stream wait for each other.
        """
        if tokens < 1 or streams < 1:
            raise InputError(f"tokens = {tokens}, streams = {streams}; give 1 or more of both")
        free: dict[str, Second] = {}
        placed: list[Event] = []
        done = [0.0] * streams
        for token in range(tokens):
            began = done[token % streams]
            shared: dict[str, Second] = {}
            for query in range(self.group):
                ends = dict(shared)
                for phase in self.phases:
                    if phase.name in shared:
                        continue
                    waits = [ends[name] for name in phase.after] + [free.get(c, 0.0) for c in phase.circuits]
                    event = Event(phase, token, query, max([began, *waits]))
                    placed.append(event)
                    ends[phase.name] = event.end
                    free |= dict.fromkeys(phase.circuits, event.end)
                    if phase.once:
                        shared[phase.name] = event.end
                done[token % streams] = max(done[token % streams], *ends.values())
        return tuple(placed)

    @property
    def latency(self) -> Second:
        """Duration of one step: from the write to the last sum."""
        return max(event.end for event in self.step)

    def token_period(self, layers: int, others: Second = 0.0) -> Second:
        """Time between two tokens of one stream: all layers one after the other.

        Args:
            layers: Layers of the model.
            others: Latency of everything else in a layer (linear layers, norms, moving data), s.
        """
        if layers < 1 or not (math.isfinite(others) and others >= 0):
            raise InputError(f"layers = {layers}, others = {others} s; give 1 or more layers and 0 s or more")
        return layers * (self.latency + others)

    def utilisation(self) -> dict[str, float]:
        """Share of a step during which each circuit is busy."""
        busy: dict[str, Second] = {}
        for event in self.step:
            for circuit in event.phase.circuits:
                busy[circuit] = busy.get(circuit, 0.0) + event.phase.duration
        return {circuit: time / self.latency for circuit, time in busy.items()}

    def throughput(self, streams: int = 1, tokens: int = 64) -> float:
        """Tokens per second of one layer when `streams` sequences take turns, over `tokens` of each."""
        events = self.events(tokens * streams, streams)
        return tokens * streams / max(event.end for event in events)

    def sensitivity(
        self, layers: int, others: Second = 0.0, factors: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    ) -> tuple[LatencySensitivity, ...]:
        """What depends on the assumed latency: the same schedule with multiples of it, `factors`.

        Args:
            layers: As in `token_period`.
            others: As in `token_period`.
            factors: Multiples of the assumed latency.
        """
        rows = []
        for factor in factors:
            design = self.design.replace(unstated_latency=factor * self.design.unstated_latency)
            schedule = replace(self, design=design)
            period = schedule.token_period(layers, others)
            decay = design.replace(token_period=period).decay_per_token
            rows.append(LatencySensitivity(design.unstated_latency, schedule.latency, 1 / period, decay))
        return tuple(rows)
