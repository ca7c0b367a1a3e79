"""A head from a design to files: generate, simulate, check, synthesise, describe, write.

Parts whose program is not installed are left out and named; the rest is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from gaincell import files
from gaincell.chips.design_file import chip_of
from gaincell.costs.activity import Activity
from gaincell.costs.area import head_area
from gaincell.costs.cited import DIGITAL, cited
from gaincell.costs.digital import digital
from gaincell.costs.head import Head as CostHead
from gaincell.costs.technology import Technology
from gaincell.errors import InputError, SimulationError
from gaincell.progress import StageProgress
from gaincell.reports import rtl as tables
from gaincell.reports.style import save
from gaincell.results import RESULT, provenance, read
from gaincell.results.codec import to_json
from gaincell.results.rtl import Library, Module, Phase, RtlCheck, RtlEnergy, RtlResult, Sizes, Total
from gaincell.rtl import layout, programs
from gaincell.rtl.energy import Energy, areas, energies, hypotheses
from gaincell.rtl.equivalence import WINDOWS, seen_periods
from gaincell.rtl.gates import Switching, replay
from gaincell.rtl.parameters import Parameters
from gaincell.rtl.simulation import Record, Stimulus, random_scales, random_words, simulate, words_of_codes
from gaincell.rtl.synthesis import Synthesis, check_liberty, map_to_library, synthesise
from gaincell.rtl.verification import check_head, check_properties, check_ring, check_verilog, done, not_done
from gaincell.rtl.verilog import TOP, VECTORS, Verilog
from gaincell.rtl.verilog import generate as generate_verilog
from gaincell.text import sha256

INPUTS = "random words", "codes of a model, words in their middle"
SHOWN_TOKENS = 8
"""Tokens of the testbench that is written, and of a head that is not verified."""


class Generated(NamedTuple):
    """A head.

    Attributes:
        shown: The first tokens of its simulation.
        verilog: None without yosys.
    """

    result: RtlResult
    shown: Record
    verilog: Verilog | None


def generate(
    parameters: Parameters,
    technology: Technology,
    command: Sequence[str],
    *,
    tokens: int,
    codes: tuple[Tensor, Tensor, Tensor] | None,
    inputs: Mapping[str, str] | None,
    seed: int,
    liberty: Path | None,
    progress: StageProgress,
) -> Generated:
    """All that can be done here.

    `tokens` are those to verify with (0: nothing is verified), `codes` of a real model, q [T, g, D], k and v
    [T, D] (None: random words), `inputs` their files and hashes; `liberty` is a library to map to as well.
    """
    p, t = parameters, technology
    scales = random_scales(p, seed)
    if codes is None:
        words = random_words(p, scales, tokens or SHOWN_TOKENS, seed)
    else:
        q, k, v = (code[: tokens or SHOWN_TOKENS] for code in codes)
        words = words_of_codes(q, k, v, scales, p)
    if liberty is not None:
        check_liberty(liberty)
        inputs = {**(inputs or {}), liberty.name: sha256(liberty)[:12]}
    run = Stimulus(p, scales, words)
    verilog = synthesis = library = used = None
    why: str | SimulationError = programs.missing("yosys")
    if not why:
        verilog = generate_verilog(p)
        try:
            synthesis = synthesise(verilog)
            if liberty is not None:
                mapped = map_to_library(verilog, liberty)
                library = Library(liberty.name, mapped.area, sum(mapped.cells.values()))
        except SimulationError as error:  # the Verilog is written, and can be simulated
            why = error
    checks = []
    if tokens:
        checks += check_head(run, progress("head"))
        checks += check_ring(p, len(words), seed, progress("short ring"))
    else:
        simulate(run, progress("head"))
    if verilog is None:
        checks += [not_done(name, "", why) for name in ("Verilog", "properties")[: 1 + (tokens > 0)]]
    elif tokens:
        checks += [check_verilog(verilog, run.record), check_properties(verilog, p)]
    if synthesis is None:
        checks.append(not_done("gates", "", why))
    elif tokens and verilog is not None:
        switching, found = _check_gates(synthesis, verilog, run.record)
        checks.append(found)
        used = None if switching is None else energies(switching, len(words), t)
    if library is None and liberty is not None:
        checks.append(not_done("library", "", why))
    result = RtlResult(
        design=chip_of(p.design),
        sizes=_sizes(p, len(words)),
        inputs=INPUTS[codes is not None],
        technology=t.description,
        checks=tuple(checks),
        timeline=_timeline(run.record, p),
        modules=() if synthesis is None else _modules(synthesis, used, t),
        total=None if synthesis is None else _total(synthesis, used, t),
        energy=None if used is None or synthesis is None else _energy(len(words), used, synthesis, p, t),
        liberty=library,
        provenance=provenance.made(
            command=command,
            seed=seed,
            protocol="Amaranth's simulator; gates of the technology file",
            design_hash=p.design.hash,
            inputs=inputs,
        ),
    )
    return Generated(result, run.record.first(SHOWN_TOKENS), verilog)


def _check_gates(
    synthesis: Synthesis, verilog: Verilog, record: Record
) -> tuple[Mapping[str, Switching] | None, RtlCheck]:
    """Replay the record with the gates; how they switched, if they could be."""
    how = "gates and flip-flops of the synthesis, every output in every period"
    try:
        replayed = replay(synthesis, verilog.top, record)
    except SimulationError as error:
        return None, not_done("gates", how, error)
    return replayed.switching, done(replayed.comparison, how)


def _sizes(p: Parameters, tokens: int) -> Sizes:
    same = [f.name for f in fields(Sizes) if f.name not in ("step_periods", "tokens")]
    return Sizes(**{name: getattr(p, name) for name in same}, step_periods=p.step_cycles, tokens=tokens)


def _timeline(record: Record, p: Parameters) -> tuple[Phase, ...]:
    """Of the first token: when each phase was seen, and when the schedule has it."""
    seen = seen_periods(record.outputs[record.starts[0] : record.starts[0] + p.step_cycles])
    return tuple(
        Phase(name, tuple(seen[name]), tuple((w.start, w.end) for w in p.of_phase(name))) for name in WINDOWS
    )


def _modules(
    synthesis: Synthesis, energies: Mapping[str, Energy] | None, t: Technology
) -> tuple[Module, ...]:
    area = areas(synthesis, t)
    return tuple(
        Module(**asdict(m), area=area[m.name], energy=None if energies is None else energies[m.name].total)
        for m in synthesis.modules
    )


def _total(synthesis: Synthesis, energies: Mapping[str, Energy] | None, t: Technology) -> Total:
    energy = None if energies is None else sum(one.total for one in energies.values())
    return Total(synthesis.gates, synthesis.flip_flops, sum(areas(synthesis, t).values()), energy)


def _energy(
    tokens: int, used: Mapping[str, Energy], synthesis: Synthesis, p: Parameters, t: Technology
) -> RtlEnergy:
    """Of a mean token. The formula is that of gaincell cost with as many columns and guard bits, without its
    routing; the paper's number is scaled to the output lines, all sub-tiles read.
    """
    gates, registers, clock = (
        sum(getattr(one, name) for one in used.values()) for name in ("gates", "registers", "clock")
    )
    synthesised = sum((gates, registers, clock))
    columns = round(sum(min(n + 1, p.columns) for n in range(tokens)) / tokens)
    process = replace(t, guard_bits=p.guard_bits)
    head = CostHead(p.design, process, Activity.assumed(p.design).mean(), p.rows, p.group, columns)
    formula = digital(head, head_area(head).area)
    more = hypotheses(p, synthesis, used, head)
    return RtlEnergy(
        gates=gates,
        registers=registers,
        clock=clock,
        synthesised=synthesised,
        formula=p.group * (formula.energy - formula.parts["routing"].energy),
        columns=columns,
        hypotheses=tuple(more),
        all=synthesised + sum(one.energy for one in more),
        paper=p.group * cited(replace(head, context=p.columns)).parts[DIGITAL].energy,
    )


def check_folder(folder: Path, p: Parameters, codes: str | None, seed: int, verified: bool) -> None:
    """Raise InputError where a directory holds what `write` would lose: another head, or a verification with
    other codes or another seed.

    Args:
        folder: The directory.
        p: What the head is generated from.
        codes: Hash of the file of codes, if any.
        seed: Of the random numbers.
        verified: Whether the result that is to be made is verified.
    """
    if not (folder / RESULT).is_file():
        return
    there = read(folder / RESULT, RtlResult)
    sizes = _sizes(p, there.sizes.tokens)
    if (there.design.hash, there.sizes) != (p.design.hash, sizes):
        held = f"another head, of {there.design.name} with {there.sizes.rows} rows, {there.sizes.columns} "
        held += f"columns, {there.sizes.group} query heads and words of {there.sizes.word_bits} bits"
    elif any(check.different is not None for check in there.checks) and not (
        verified and _same_inputs(there, codes, seed)
    ):
        held = f"a verification with {there.inputs}, seed {there.provenance.seed}"
    else:
        return
    raise InputError(f"directory {str(folder)!r} holds {held}; give another --out, or remove it")


def _same_inputs(there: RtlResult, codes: str | None, seed: int) -> bool:
    """Whether a result is of this file of codes, or of random words, and of this seed."""
    same = there.inputs == INPUTS[codes is not None] and there.provenance.seed == seed
    return same and (codes is None or codes in there.provenance.inputs.values())


def write(found: Generated, p: Parameters, t: Technology, folder: Path) -> Sequence[Path]:
    """Every file of a head, each completely or not at all."""
    texts = {
        "constraints.sdc": layout.constraints(p),
        "floorplan.def": layout.floorplan(p, t),
        "README.md": _readme(found, p),
    }
    if found.verilog is not None:
        texts |= {f"verilog/{name}": text for name, text in found.verilog.files.items()}
        texts[f"testbench/{TOP}.v"] = found.verilog.testbench
        texts[f"testbench/{VECTORS}"] = found.verilog.vectors(found.shown)
    written = [files.write_text(folder / name, text) for name, text in texts.items()]
    written.append(files.write_json(folder / RESULT, to_json(found.result), indent=2))
    written.append(save(tables.timeline(found.result), folder / "timeline.svg"))
    return written


def _readme(found: Generated, p: Parameters) -> str:
    """What lies in the directory, how to run it, and what was found."""
    result, periods = found.result, len(found.shown.outputs)
    parts = [
        f"# The digital half of a head of {p.design.name}",
        f"{p.rows} rows, {p.columns} columns in {p.tiles} sub-tiles. Query heads that share the arrays: "
        f"{p.group}. A step takes {p.step_cycles} periods of {1e9 / p.design.counter_clock:g} ns. "
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
    if any(check.different is not None for check in result.checks):
        parts.append("## Checks\n\n" + tables.check_rows(result).markdown())
    if result.modules:
        parts.append("## Synthesis\n\n" + tables.module_rows(result).markdown())
    if result.liberty:
        parts.append("## Library\n\n" + tables.liberty_rows(result.liberty).markdown())
    if result.energy:
        parts.append("## Energy\n\n" + tables.energy_rows({result.inputs: result}).markdown())
    parts.append(f"Areas and energies: {result.technology}; most of its numbers are assumptions.")
    return "\n\n".join(parts).rstrip() + "\n"
