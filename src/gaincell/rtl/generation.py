"""A head from a design to files: generate, simulate, check, synthesise, describe, write.

Parts whose program is not installed are left out and named; the rest is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from gaincell import files
from gaincell.costs.activity import Activity
from gaincell.costs.area import head_area
from gaincell.costs.cited import paper
from gaincell.costs.digital import digital
from gaincell.costs.head import Head as CostHead
from gaincell.costs.technology import Technology
from gaincell.progress import StageProgress
from gaincell.reports import rtl as tables
from gaincell.reports.results import value
from gaincell.reports.style import save
from gaincell.rtl import layout, programs, verification
from gaincell.rtl.energy import Energy, Hypothesis, areas, energies, hypotheses
from gaincell.rtl.equivalence import WINDOWS, seen_periods
from gaincell.rtl.fixed_point import Scales
from gaincell.rtl.parameters import Parameters
from gaincell.rtl.simulation import Record, Run, Words, simulate
from gaincell.rtl.synthesis import Mapped, Synthesis, check_liberty, map_to_library, synthesise
from gaincell.rtl.verification import Check
from gaincell.rtl.verilog import TOP, VECTORS, Design
from gaincell.rtl.verilog import generate as generate_verilog
from gaincell.rtl.words import random_scales, random_words, words_of_codes

Json = dict[str, Any]
SHOWN_TOKENS = 8
"""Tokens of the testbench that is written, and of a head that is not verified."""


@dataclass
class Generated:
    """What there is of a head.  run: of the whole head.  scales: of the run.  inputs: in words.
    tokens: counted in the energies.
    """

    run: Run
    scales: Scales
    inputs: str
    verilog: Design | None = None
    synthesis: Synthesis | None = None
    mapped: Mapped | None = None
    checks: list[Check] = field(default_factory=list)
    energies: dict[str, Energy] | None = None
    hypotheses: list[Hypothesis] = field(default_factory=list)
    tokens: int = 0


def generate(
    parameters: Parameters,
    technology: Technology,
    *,
    tokens: int,
    codes: tuple[Tensor, Tensor, Tensor] | None,
    seed: int,
    liberty: Path | None,
    progress: StageProgress,
) -> Generated:
    """All that can be done here.

    tokens: to verify with; 0: nothing is verified.  codes: of a real model, q [T, g, D], k and v [T, D];
    None: random words.  liberty: a library to map to as well.
    """
    p = parameters
    scales = random_scales(p, seed)
    words, inputs = _words(p, scales, tokens or SHOWN_TOKENS, codes, seed)
    found = Generated(Run(p, scales, words), scales, inputs, tokens=len(words))
    if liberty is not None:
        check_liberty(liberty)
    if not programs.missing("yosys"):
        found.verilog = generate_verilog(p)
        found.synthesis = synthesise(found.verilog)
        if liberty is not None:
            found.mapped = map_to_library(found.verilog, liberty)
    if tokens:
        found.checks += verification.check_head(found.run, scales, progress("head"))
        found.checks += verification.check_ring(p, len(words), seed, progress("short ring"))
    else:
        simulate(found.run, progress("head"))
    record = found.run.record
    if found.verilog is None or found.synthesis is None:
        left_out = [
            "Verilog",
            *(["properties"] if tokens else []),
            "gates",
            *(["library"] if liberty else []),
        ]
        found.checks += [verification.not_done(name, "yosys") for name in left_out]
        return found
    if tokens:
        found.checks.append(verification.check_verilog(found.verilog, record))
        found.checks.append(verification.check_properties(found.verilog, p))
        check, replayed = verification.check_gates(found.verilog, found.synthesis, record)
        found.checks.append(check)
        found.energies = energies(replayed.switching, len(words), technology)
        found.hypotheses = hypotheses(p, found.synthesis, found.energies, technology)
    return found


def _words(
    p: Parameters, scales: Scales, tokens: int, codes: tuple[Tensor, Tensor, Tensor] | None, seed: int
) -> tuple[Words, str]:
    if codes is None:
        return random_words(p, scales, tokens, seed), "random words"
    q, k, v = (code[:tokens] for code in codes)
    return words_of_codes(q, k, v, scales, p), "codes of a model, words in their middle"


def describe(found: Generated, p: Parameters, t: Technology) -> Json:
    """The result as plain data, without its provenance."""
    sizes = {
        "columns": p.columns,
        "tiles": p.tiles,
        "rows": p.rows,
        "group": p.group,
        "word_bits": p.word_bits,
        "gain_bits": p.gain_bits,
        "code_bits": p.code_bits,
        "count_bits": p.count_bits,
        "sum_bits": p.sum_bits,
        "step_periods": p.step_cycles,
        "tokens": found.tokens,
    }
    entry: Json = {
        "sizes": {key: value(number, "1", "simulated") for key, number in sizes.items()},
        "inputs": found.inputs,
        "technology": t.description,
        "checks": [_check(check) for check in found.checks],
        "timeline": _timeline(found, p),
    }
    if found.synthesis is not None:
        entry |= _synthesis(found, found.synthesis, t)
    if found.energies is not None:
        entry["energy"] = _energy(found, found.energies, p, t)
    if found.mapped is not None:
        entry["library"] = {
            "area": value(found.mapped.area, "library's unit", "simulated"),
            "cells": value(sum(found.mapped.cells.values()), "1", "simulated"),
        }
    return entry


def _check(check: Check) -> Json:
    entry: Json = {"name": check.name, "how": check.how, "note": check.note}
    entry["compared"] = value(check.compared, check.unit, "simulated")
    if check.different is not None:
        entry["different"] = value(check.different, check.unit, "simulated")
    return entry


def _timeline(found: Generated, p: Parameters) -> list[Json]:
    """Of the first token: when each phase was seen, and when the schedule has it."""
    record = found.run.record
    span = record.outputs[record.starts[0] : record.starts[0] + p.step_cycles]
    seen = seen_periods(span)
    return [
        {
            "name": name,
            "seen": value([list(one) for one in seen[name]], "clock periods", "simulated"),
            "scheduled": value([[w.start, w.end] for w in p.of_phase(name)], "clock periods", "simulated"),
        }
        for name in WINDOWS
    ]


def _synthesis(found: Generated, synthesis: Synthesis, t: Technology) -> Json:
    area = areas(synthesis, t)
    modules = []
    for module in synthesis.modules:
        entry: Json = {
            "name": module.name,
            **{
                key: value(getattr(module, key), "1", "simulated")
                for key in ("placed", "gates", "flip_flops", "depth")
            },
            "area": value(area[module.name], "m^2", "simulated"),
        }
        if found.energies is not None:
            entry["energy"] = value(found.energies[module.name].total, "J", "simulated")
        modules.append(entry)
    total = {
        "gates": value(synthesis.gates, "1", "simulated"),
        "flip_flops": value(synthesis.flip_flops, "1", "simulated"),
        "area": value(sum(area.values()), "m^2", "simulated"),
    }
    if found.energies is not None:
        total["energy"] = value(sum(one.total for one in found.energies.values()), "J", "simulated")
    return {"modules": modules, "total": total}


def _energy(found: Generated, energies: dict[str, Energy], p: Parameters, t: Technology) -> Json:
    """Of a mean token; the formula is that of gaincell cost with as many columns and without its routing."""
    parts = {
        name: sum(getattr(one, name) for one in energies.values()) for name in ("gates", "registers", "clock")
    }
    synthesised = sum(parts.values())
    columns = round(sum(min(n + 1, p.columns) for n in range(found.tokens)) / found.tokens)
    head = CostHead(p.design, t, Activity.assumed(p.design).mean(), p.rows, p.group, columns)
    formula = digital(head, head_area(head).area)
    counted = p.group * (formula.energy - formula.parts["routing"].energy)
    joules = {**parts, "synthesised": synthesised, "formula": counted}
    more = sum(one.energy for one in found.hypotheses)
    return {
        **{name: value(number, "J", "simulated") for name, number in joules.items()},
        "columns": value(columns, "columns", "simulated"),
        "hypotheses": [
            {"name": one.name, "energy": value(one.energy, "J", "simulated")} for one in found.hypotheses
        ],
        "all": value(synthesised + more, "J", "simulated"),
        "paper": value(p.group * paper().digital, "J", "cited", "Leroux et al. 2025 [R]"),
    }


def write(found: Generated, p: Parameters, t: Technology, result: Json, folder: Path) -> Sequence[Path]:
    """Every file of a head, each completely or not at all."""
    texts = {
        "constraints.sdc": layout.constraints(p),
        "floorplan.def": layout.floorplan(p, t),
        "README.md": readme(found, p, result),
    }
    if found.verilog is not None:
        texts |= {f"verilog/{module}.v": text for module, text in found.verilog.modules.items()}
        texts[f"testbench/{TOP}.v"] = found.verilog.testbench
        texts[f"testbench/{VECTORS}"] = found.verilog.vectors(_shown(found))
    written = [files.write_text(folder / name, text) for name, text in texts.items()]
    written.append(files.write_json(folder / "result.json", result, indent=2))
    written.append(save(tables.timeline(result), folder / "timeline.svg"))
    return written


def _shown(found: Generated) -> Record:
    return found.run.record.first(SHOWN_TOKENS)


def readme(found: Generated, p: Parameters, result: Json) -> str:
    """What lies in the directory, how to run it, and what was found."""
    periods = len(_shown(found).outputs)
    parts = [
        f"# The digital half of a head of {p.design.name}",
        f"{p.rows} rows, {p.columns} columns in {p.tiles} sub-tiles, {p.group} query heads "
        f"a key/value head; a step takes {p.step_cycles} periods of {1e9 / p.design.counter_clock:g} ns. "
        "Generated by `gaincell rtl`; docs/rtl.md of gaincell explains modules, ports and timing.",
        "* `constraints.sdc`, `floorplan.def`: clock; outline and regions as in `gaincell floorplan`.\n"
        "* `timeline.svg`: phases as seen on the wires, beside the schedule.\n"
        "* `result.json`: everything below.",
    ]
    if found.verilog is not None:
        parts[-1] += (
            "\n* `verilog/`: a module a file, `gaincell_head.v` on top.\n"
            f"* `testbench/`: plays {periods} recorded periods and compares every output."
        )
        parts.append(
            "Run the testbench:\n\n"
            "    cd testbench\n"
            f"    iverilog -g2005 -s {TOP} -P{TOP}.PERIODS={periods} -o head {TOP}.v ../verilog/*.v\n"
            "    vvp -n head        # +dump also writes testbench.vcd, for a waveform viewer"
        )
    if any(check.different is not None for check in found.checks):
        parts.append("## Checks\n\n" + tables.markdown(tables.CHECKS, tables.check_rows(result)))
    if "modules" in result:
        parts.append("## Synthesis\n\n" + tables.markdown(tables.MODULES, tables.module_rows(result)))
    if "energy" in result:
        parts.append("## Energy\n\n" + tables.markdown(tables.ENERGY, tables.energy_rows(result)))
    parts.append(f"Areas and energies: {result['technology']}; most of its numbers are assumptions.")
    return "\n\n".join(parts).rstrip() + "\n"
