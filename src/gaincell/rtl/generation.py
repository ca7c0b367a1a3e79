"""A head from a design to files: generate, simulate, check, synthesise, describe, write.

Parts whose program is not installed are left out and named; the rest is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from gaincell import files
from gaincell.chips.design_file import chip_of
from gaincell.costs.activity import Activity
from gaincell.costs.area import head_area
from gaincell.costs.cited import paper
from gaincell.costs.digital import digital
from gaincell.costs.head import Head as CostHead
from gaincell.costs.technology import Technology
from gaincell.progress import StageProgress
from gaincell.reports import rtl as tables
from gaincell.reports.style import save
from gaincell.results import provenance
from gaincell.results.codec import to_json
from gaincell.results.rtl import (
    Hypothesis,
    Library,
    Module,
    Phase,
    RtlCheck,
    RtlEnergy,
    RtlResult,
    Sizes,
    Total,
)
from gaincell.rtl import layout, programs, verification
from gaincell.rtl.energy import Energy, areas, energies, hypotheses
from gaincell.rtl.equivalence import WINDOWS, seen_periods
from gaincell.rtl.fixed_point import Scales
from gaincell.rtl.parameters import Parameters
from gaincell.rtl.simulation import Record, Stimulus, Words, simulate
from gaincell.rtl.synthesis import Mapped, Synthesis, check_liberty, map_to_library, synthesise
from gaincell.rtl.verilog import TOP, VECTORS, Design
from gaincell.rtl.verilog import generate as generate_verilog
from gaincell.rtl.words import random_scales, random_words, words_of_codes

SHOWN_TOKENS = 8
"""Tokens of the testbench that is written, and of a head that is not verified."""


@dataclass
class Generated:
    """What there is of a head.  run: of the whole head.  scales: of the run.  inputs: in words.
    tokens: counted in the energies.
    """

    run: Stimulus
    scales: Scales
    inputs: str
    verilog: Design | None = None
    synthesis: Synthesis | None = None
    mapped: Mapped | None = None
    checks: list[RtlCheck] = field(default_factory=list)
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
    found = Generated(Stimulus(p, scales, words), scales, inputs, tokens=len(words))
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


def result_of(
    found: Generated,
    p: Parameters,
    t: Technology,
    command: Sequence[str],
    seed: int,
    inputs: Mapping[str, str] | None = None,
) -> RtlResult:
    """The result. inputs: files of codes and their hashes."""
    synthesis, energies = found.synthesis, found.energies
    return RtlResult(
        command="rtl",
        design=chip_of(p.design),
        sizes=Sizes(
            p.columns,
            p.tiles,
            p.rows,
            p.group,
            p.word_bits,
            p.gain_bits,
            p.code_bits,
            p.count_bits,
            p.sum_bits,
            p.step_cycles,
            found.tokens,
        ),
        inputs=found.inputs,
        technology=t.description,
        checks=tuple(found.checks),
        timeline=_timeline(found, p),
        modules=() if synthesis is None else _modules(synthesis, energies, t),
        total=None if synthesis is None else _total(synthesis, energies, t),
        energy=None if energies is None else _energy(found, energies, p, t),
        library=None if (lib := found.mapped) is None else Library(lib.area, sum(lib.cells.values())),
        provenance=provenance.made(
            command=command,
            seed=seed,
            protocol="Amaranth's simulator; gates of the technology file",
            design_hash=p.design.hash,
            inputs=inputs,
        ),
    )


def _timeline(found: Generated, p: Parameters) -> tuple[Phase, ...]:
    """Of the first token: when each phase was seen, and when the schedule has it."""
    record = found.run.record
    span = record.outputs[record.starts[0] : record.starts[0] + p.step_cycles]
    seen = seen_periods(span)
    return tuple(
        Phase(name, tuple(seen[name]), tuple((w.start, w.end) for w in p.of_phase(name))) for name in WINDOWS
    )


def _modules(
    synthesis: Synthesis, energies: Mapping[str, Energy] | None, t: Technology
) -> tuple[Module, ...]:
    area = areas(synthesis, t)
    return tuple(
        Module(
            m.name,
            m.placed,
            m.gates,
            m.flip_flops,
            m.depth,
            area[m.name],
            None if energies is None else energies[m.name].total,
        )
        for m in synthesis.modules
    )


def _total(synthesis: Synthesis, energies: Mapping[str, Energy] | None, t: Technology) -> Total:
    energy = None if energies is None else sum(one.total for one in energies.values())
    return Total(synthesis.gates, synthesis.flip_flops, sum(areas(synthesis, t).values()), energy)


def _energy(found: Generated, energies: Mapping[str, Energy], p: Parameters, t: Technology) -> RtlEnergy:
    """Of a mean token; the formula is that of gaincell cost with as many columns and without its routing."""
    gates, registers, clock = (
        sum(getattr(one, name) for one in energies.values()) for name in ("gates", "registers", "clock")
    )
    synthesised = sum((gates, registers, clock))
    columns = round(sum(min(n + 1, p.columns) for n in range(found.tokens)) / found.tokens)
    head = CostHead(p.design, t, Activity.assumed(p.design).mean(), p.rows, p.group, columns)
    formula = digital(head, head_area(head).area)
    return RtlEnergy(
        gates=gates,
        registers=registers,
        clock=clock,
        synthesised=synthesised,
        formula=p.group * (formula.energy - formula.parts["routing"].energy),
        columns=columns,
        hypotheses=tuple(found.hypotheses),
        all=synthesised + sum(one.energy for one in found.hypotheses),
        paper=p.group * paper().digital,
    )


def write(found: Generated, p: Parameters, t: Technology, result: RtlResult, folder: Path) -> Sequence[Path]:
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
    written.append(files.write_json(folder / "result.json", to_json(result), indent=2))
    written.append(save(tables.timeline(result), folder / "timeline.svg"))
    return written


def _shown(found: Generated) -> Record:
    return found.run.record.first(SHOWN_TOKENS)


def readme(found: Generated, p: Parameters, result: RtlResult) -> str:
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
        parts.append("## Checks\n\n" + tables.check_rows(result).markdown())
    if result.modules:
        parts.append("## Synthesis\n\n" + tables.module_rows(result).markdown())
    if result.energy:
        parts.append("## Energy\n\n" + tables.energy_rows({result.inputs: result}).markdown())
    parts.append(f"Areas and energies: {result.technology}; most of its numbers are assumptions.")
    return "\n\n".join(parts).rstrip() + "\n"
