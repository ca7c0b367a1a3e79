"""All sections that a page can have, in its order; what stands above and below them."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from gaincell.reports import (
    baseline,
    codesign,
    comparison_figure,
    costs_figures,
    device,
    evaluation,
    figures,
    floorplan,
    heads,
    rtl,
    simulation,
    spice,
    sweep_figures,
    training,
)
from gaincell.reports.html.markup import element, join
from gaincell.reports.html.parts import Result, Section, subject, whole
from gaincell.reports.html.tables import badges, table
from gaincell.reports.tables import Rows
from gaincell.results.common import Result as Found
from gaincell.results.evaluation import EvaluationResult
from gaincell.results.spice import SpiceResult

SECTIONS = (
    figures.PERPLEXITY,
    training.TRAINING,
    evaluation.PERPLEXITY,
    comparison_figure.TASKS,
    evaluation.CHIPS,
    evaluation.ABLATION,
    sweep_figures.SWEEP,
    codesign.CODESIGN,
    evaluation.PAUSES,
    evaluation.CONTEXT,
    evaluation.REPETITION,
    figures.CELLS,
    figures.ADAPTATION,
    heads.FIDELITY,
    figures.CODES,
    figures.CELL,
    heads.ACTIVITY,
    costs_figures.COSTS,
    floorplan.FLOORPLAN,
    baseline.BASELINE,
    simulation.TIMELINE,
    simulation.WAVEFORMS,
    simulation.TRACE,
    spice.CELLS,
    spice.VERIFICATION,
    spice.ENERGY,
    spice.WIRES,
    spice.WRITE,
    spice.MIXED,
    rtl.RTL,
    device.DEVICE,
)
HASH = 12
"""Digits of hashes and commits shown."""


def summary(results: Sequence[Result]) -> Markup:
    """A row a result: what it is about, and the number one looks for first."""
    rows, kinds = [], []
    for result in results:
        with whole([result], "what it is about"):
            wanted = (section.headline for section in SECTIONS if section.wanted(result))
            headline = next(filter(None, wanted), None)
            found, kind = headline(result.found) if headline else ("–", "")
            made, about = result.found.provenance, subject(result.found) or "–"
            date, design = made.date[:10], made.design_hash or "–"
            rows.append([result.name, found, about, result.found.command, date, design])
            kinds.append(kind)
    headings = ("result", "found", "about", "command", "date", "design")
    return table(Rows("Results", headings, rows, "", range(6), lambda r, c: kinds[r] if c == 1 else None))


def provenance(results: Sequence[Result]) -> Markup:
    """Design, versions, commit, seed, hardware and protocol of every result, folded where there are many."""
    pieces = []
    for one in results:
        words = element("summary", element("span", one.name), " ", badges(one.found))
        few = len(results) <= 2
        pieces.append(element("details", words, _provenance(one.found), class_="more", open=few))
    return join(pieces)


def _count(number_of: int | None, what: str) -> str:
    return f"{number_of} {what}{'' if number_of == 1 else 'es' if what.endswith('s') else 's'}"


def _provenance(found: Found) -> Markup:
    made, hardware = found.provenance, found.provenance.hardware
    gains = found.gains if isinstance(found, EvaluationResult) else None
    machine = [hardware.cpu, _count(hardware.cores, "core"), _count(hardware.threads, "thread")]
    machine += [_count(hardware.processes, "process")] if hardware.processes else []
    machine += [f"{hardware.memory_bytes / 2**30:.1f} GiB"] if hardware.memory_bytes else []
    machine += [hardware.accelerator or "no accelerator"]
    rows: list[tuple[str, object]] = [
        ("command", element("code", made.command)),
        ("date", made.date),
        ("protocol", made.protocol),
        ("design", f"{made.design_hash or '–'} (hash)"),
        *((("gains and offsets", gains),) if gains else ()),
        ("seed", made.seed),
        ("commit", made.commit or "– (an installed package)"),
        ("versions", ", ".join(f"{name} {version}" for name, version in made.versions.items())),
        ("hardware", ", ".join(machine)),
        *((name, element("code", content[:HASH])) for name, content in made.inputs.items()),
    ]
    rows += [("simulator", found.ngspice)] if isinstance(found, SpiceResult) else []
    return element("dl", *(element(tag, x) for row in rows for tag, x in zip(("dt", "dd"), row, strict=True)))


SUMMARY = Section("summary", "Summary", "", lambda _: True, summary)
PROVENANCE = Section(
    "provenance", "Provenance", "Design, versions, commit, seed, hardware and protocol of every result.",
    lambda _: True, provenance,
)  # fmt: skip
