"""The head against arrays.HeadArray and the schedule: codes, columns, sums, results, and their periods.

Everything is read off the wires of a record. Expected are, of the same words,

    codes        circuits.query_code and dac_code of what the words ask for
    columns      the column that HeadArray writes, and its valid bits at the value read
    sums         of HeadArray's sub-tiles; results: of the output stage (fixed_point.py)
    periods      of every phase: arrays.Schedule with its scaling stages
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from gaincell.arrays import HeadArray
from gaincell.arrays.trace import StepTrace
from gaincell.chips.design import Design
from gaincell.circuits import dac_code, query_code
from gaincell.rtl.analog import bits, numbers
from gaincell.rtl.fixed_point import query_widths, results, storage_volts
from gaincell.rtl.simulation import Comparison, Stimulus, Wires

SHOWN = 3
WINDOWS = {
    "key write": ("discharge_key", "write_key"),
    "value write": ("discharge_value", "write_value"),
    "key read": ("key_read",),
    "value read": ("value_read",),
    "count": ("count",),
}
"""Wires that are high during a phase."""


def compare(run: Stimulus) -> list[Comparison]:
    """Hold what a finished run recorded against the golden reference, quantity by quantity."""
    p, d = run.parameters, run.parameters.design
    found: dict[str, list[tuple[object, object]]] = {}
    periods = {name: _joined([(w.start, w.end) for w in p.of_phase(name)]) for name in WINDOWS}
    periods["result"] = [(w.end, w.query) for w in p.of_phase("scale output")]
    for start, (q, k, v, trace) in zip(run.record.starts, golden_steps(run), strict=True):
        span = run.record.outputs[start : start + p.step_cycles + 1]  # and the period after
        sums = trace.tile_codes[0].sum(1)
        expected = {
            "key codes": dac_code(k, p.storage_levels, d.v_min, d.v_max, d.v_offset).tolist(),
            "value codes": dac_code(v, p.storage_levels, d.v_min, d.v_max, d.v_offset).tolist(),
            "query codes": query_code(q, p.query_levels, signed=p.signed).tolist(),
            "columns written": [[int(trace.column[0])]] * 2,
            "valid columns": [trace.valid[0].long().tolist()] * p.group,
            "sums": sums.tolist(),
            "results": [results(sums[h], stage, p).tolist() for h, stage in enumerate(run.scales.outputs)],
            "periods": periods,
        }
        for name, seen in _seen(run, span).items():
            found.setdefault(name, []).append((seen, expected[name]))
    return [_comparison(name, pairs) for name, pairs in found.items()]


def golden_steps(
    run: Stimulus, chip: Design | None = None
) -> Iterator[tuple[Tensor, Tensor, Tensor, StepTrace]]:
    """HeadArray, token by token: query widths [g, D], key and value voltages [D] of the words, its trace.

    Args:
        run: Scales and words.
        chip: With errors of its own; None: that of the run.
    """
    p, words, scales = run.parameters, run.words, run.scales
    reference = HeadArray(chip or p.design, p.rows, heads=p.group, kv_heads=1)
    for token in range(len(words)):
        if token in run.clears:
            reference.reset()
        q = torch.stack(
            [query_widths(words.query[token, h], stage, p) for h, stage in enumerate(scales.queries)]
        )
        k = storage_volts(words.key[token], scales.key, p)
        v = storage_volts(words.value[token], scales.value, p)
        reference.step(q[None], k[None, None], v[None, None])
        assert reference.trace is not None
        yield q, k, v, reference.trace


def _seen(run: Stimulus, span: Sequence[Wires]) -> dict[str, object]:
    p = run.parameters
    written = [{w["select"] for w in span if w[f"write_{array}"]} for array in ("key", "value")]
    valid = [w["valid"] for before, w in pairwise(span) if w["value_read"] and not before["value_read"]]
    done = [(n, w) for n, w in enumerate(span) if w["result_valid"] and n > 0]  # 0: the token before
    return {
        **{
            f"{array} codes": next(
                (numbers(w[f"{array}_code"], p.rows, p.storage_bits) for w in span if w[f"write_{array}"]),
                None,
            )
            for array in ("key", "value")
        },
        "query codes": _query_codes(run, span),
        "columns written": [
            [n for select in selects for n, on in enumerate(bits(select, p.columns)) if on]
            for selects in written
        ],
        "valid columns": [bits(word, p.columns) for word in valid],
        "sums": [numbers(w["total"], p.rows, p.sum_bits, signed=True) for _, w in done],
        "results": [numbers(w["result"], p.rows, p.sum_bits, signed=True) for _, w in done],
        "periods": seen_periods(span) | {"result": [(n, w["result_head"]) for n, w in done]},
    }


def seen_periods(span: Sequence[Wires]) -> dict[str, list[tuple[int, int]]]:
    """Of the periods of a token, those of every phase in WINDOWS."""
    return {
        name: _joined([(n, n + 1) for n, w in enumerate(span) if w[wires[0]] | w[wires[-1]]])
        for name, wires in WINDOWS.items()
    }


def _query_codes(run: Stimulus, span: Sequence[Wires]) -> list[list[int]]:
    """Periods for which every word line was driven, read by read; pulses outside of reads are in none."""
    rows = run.parameters.rows
    begins = {0, *(window.start for window in run.parameters.of_phase("key read"))}
    found: list[Tensor] = []
    for n, wires in enumerate(span):
        if wires["key_read"] and n in begins:
            found.append(torch.zeros(rows, dtype=torch.int64))
        if wires["key_read"]:
            pulses = torch.tensor(bits(wires["query_pulse"], rows))
            found[-1] += -pulses if wires.get("key_negative") else pulses
        elif wires["query_pulse"]:
            found.append(torch.full((rows,), -run.parameters.query_levels))  # no code
    return [codes.tolist() for codes in found]


def _joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans, those that touch as one."""
    found: list[tuple[int, int]] = []
    for start, end in spans:
        first = found.pop()[0] if found and found[-1][1] == start else start
        found.append((first, end))
    return found


def _comparison(name: str, pairs: Sequence[tuple[object, object]]) -> Comparison:
    compared = different = 0
    first: list[str] = []
    for token, (seen, expected) in enumerate(pairs):
        items = list(_items(expected))
        found = list(_items(seen))
        found += [None] * (len(items) - len(found))
        wrong = [(a, b) for a, b in zip(found, items, strict=False) if a != b]
        wrong += [(a, None) for a in found[len(items) :]]
        compared, different = compared + len(items), different + len(wrong)
        first += [f"token {token}: {a} instead of {b}" for a, b in wrong[: SHOWN - len(first)]]
    return Comparison(name, compared, different, tuple(first))


def _items(nested: object) -> Iterable[object]:
    """What a nested list or a mapping of spans holds, one by one."""
    if isinstance(nested, dict):
        yield from ((name, span) for name, spans in nested.items() for span in spans)
    elif isinstance(nested, list):
        for entry in nested:
            yield from _items(entry)
    else:
        yield nested
