"""The page of `gaincell report`: results are read and checked, sections put together, the template filled."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from gaincell import __version__
from gaincell.errors import RunError
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
from gaincell.reports.html import theme
from gaincell.reports.html.markup import badges, element, join, table
from gaincell.reports.html.parts import Result, Section, subject, whole
from gaincell.reports.html.picture import ID
from gaincell.reports.tables import Rows
from gaincell.results import content, parse
from gaincell.results.common import Result as Found
from gaincell.results.evaluation import EvaluationResult
from gaincell.results.run import CodesignComparison
from gaincell.results.spice import SpiceResult
from gaincell.results.sweep import PointResult

LOG = "log.jsonl"
KNOWN = (
    "map, adapt, train, evaluate, ablate, fidelity, activity, cost, baseline, floorplan, simulate, "
    "spice characterise|verify|energy|wires|write|mixed, rtl, device fit, codesign, sweep"
)
"""Commands whose results have a section."""
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
"""All that a page can have between summary and provenance, in its order."""
HASH = 12
"""Digits of hashes and commits shown."""


def load(path: str | Path, name: str) -> Result:
    """Read a result, or that of a RUN directory with its log of the training.

    Raises:
        RunError: it cannot be read, lacks units or kinds, or is of a kind that has no section.
    """
    path = Path(path)
    run = content(path)
    if not isinstance(run.get("provenance"), dict):
        raise RunError(f"{path.name} is a broken result: it has no provenance; make it again")
    found = parse(run, path.name)
    log = training.read_log(path / LOG) if (path / LOG).exists() else ()
    result = None if found is None else Result(name, found, log)
    if isinstance(found, PointResult):
        raise RunError(f"{path.name} is one point of a sweep; give the sweep's result.json")
    if isinstance(found, CodesignComparison):
        raise RunError(
            f"{path.name} compares several runs of `gaincell codesign`; give the run.json of one of them, "
            "which recipes/codesign.py leaves in runs/codesign, such as runs/codesign/paper-all"
        )
    if result is None or not any(section.wanted(result) for section in SECTIONS):
        made = str(run.get("command", "an unknown command"))
        raise RunError(
            f"{path.name} is a result of {made!r} and holds nothing that the report shows; give results of "
            f"{KNOWN}"
        )
    return result


def page(results: Sequence[Result], title: str | None = None) -> str:
    """The whole page of results of different names, with style and script inside.

    Its title is by default what they are about.

    Raises:
        RunError: there is no result, or a part of one is not whole.
    """
    if not results:
        raise RunError("no results were given; give RUN directories or files of --json")
    shown = []
    for section in (SUMMARY, *SECTIONS, PROVENANCE):
        if wanted := [result for result in results if section.wanted(result)]:
            with whole(wanted, section.title):
                shown.append((section, section.build(wanted)))
    folder = resources.files("gaincell") / "reports" / "html" / "templates"
    style = theme.tokens() + (folder / "style.css").read_text(encoding="utf-8")
    script = (folder / "script.js").read_text(encoding="utf-8")
    more = f" and {len(results) - 8} more" if len(results) > 8 else ""
    environment = Environment(
        loader=PackageLoader("gaincell.reports.html"), autoescape=True, undefined=StrictUndefined
    )
    whole_page = environment.get_template("page.html").render(
        title=title or _title(results),
        lead=f"Shown: {', '.join(result.name for result in results[:8])}{more}.",
        sections=shown,
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
        version=__version__,
    )
    first, *figures = whole_page.split("<figure>")
    return "<figure>".join([first, *(part.replace(ID, f"d{n}-") for n, part in enumerate(figures))])


def names(given: Sequence[str]) -> Mapping[str, str]:
    """Name -> path of arguments NAME=PATH or PATH; of a path as much of its end as tells it from the others.
    A PATH that exists may hold "=".

    Raises:
        RunError: two are called the same, or one has an empty name.
    """
    found: dict[str, str] = {}
    parts = [(a, "", "") if Path(a).exists() else a.partition("=") for a in given]
    paths = [Path(path or argument) for argument, (_, _, path) in zip(given, parts, strict=True)]
    for argument, (name, equals, _), path in zip(given, parts, paths, strict=True):
        if equals and not name:
            raise RunError(f"{argument}: the NAME before = is empty; give NAME=FILE, or FILE")
        if not equals:
            name = _name(path, [other for other in paths if other is not path])
        if name in found:
            other = "another name before =" if equals else f"NAME={path.name}"
            raise RunError(f"two results are called {name!r}; give {other}")
        found[name] = str(path)
    return found


def _name(path: Path, others: Sequence[Path]) -> str:
    def end(of: Path, count: int) -> str:
        parts = list(of.absolute().parts)
        if parts[-1] == "run.json" and len(parts) > 1:
            parts.pop()
        last = Path(parts[-1]).stem if of.suffix == ".json" else parts[-1]
        return Path(*parts[-count:-1], last).as_posix()

    count = 1
    while count < len(path.absolute().parts) and end(path, count) in [end(other, count) for other in others]:
        count += 1
    return end(path, count)


def _title(results: Sequence[Result]) -> str:
    about = list(dict.fromkeys(found for result in results if (found := subject(result.found))))
    if len(results) == 1 and not about:
        return results[0].name
    return "; ".join(about) if 0 < len(about) <= 2 else f"{len(results)} results of gaincell"


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _summary(results: Sequence[Result]) -> Markup:
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


def _provenance(results: Sequence[Result]) -> Markup:
    """Design, versions, commit, seed, hardware and protocol of every result, folded where there are many."""
    pieces = []
    for one in results:
        words = element("summary", element("span", one.name), " ", badges(one.found))
        few = len(results) <= 2
        pieces.append(element("details", words, _details(one.found), class_="more", open=few))
    return join(pieces)


def _count(number_of: int | None, what: str) -> str:
    return f"{number_of} {what}{'' if number_of == 1 else 'es' if what.endswith('s') else 's'}"


def _details(found: Found) -> Markup:
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
        *((name, element("code", digest[:HASH])) for name, digest in made.inputs.items()),
    ]
    rows += [("simulator", found.ngspice)] if isinstance(found, SpiceResult) else []
    return element("dl", *(element(tag, x) for row in rows for tag, x in zip(("dt", "dd"), row, strict=True)))


SUMMARY = Section("summary", "Summary", "", lambda _: True, _summary)
PROVENANCE = Section(
    "provenance", "Provenance", "Design, versions, commit, seed, hardware and protocol of every result.",
    lambda _: True, _provenance,
)  # fmt: skip
