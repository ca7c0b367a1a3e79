"""The first and the last section: what every result is, and how it came about."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from gaincell.reports.costs import three, with_scale
from gaincell.reports.html.markup import element, join
from gaincell.reports.html.result import Result, subject, whole
from gaincell.reports.html.tables import badges, table
from gaincell.reports.tables import MEASURED, SIMULATED, Rows
from gaincell.reports.tables import readable as short
from gaincell.results import evaluation
from gaincell.results.common import Result as Found
from gaincell.results.cost import CostResult, FloorplanResult
from gaincell.results.device import DeviceResult
from gaincell.results.evaluation import ActivityResult
from gaincell.results.rtl import RtlResult
from gaincell.results.run import CellResult, StagedResult
from gaincell.results.simulation import HeadResult, TileResult
from gaincell.results.spice import (
    CharacterisationResult,
    EnergyResult,
    MixedResult,
    SpiceResult,
    VerifyResult,
    WiresResult,
    WriteResult,
)
from gaincell.results.sweep import SweepResult
from gaincell.results.system_cost import BaselineResult

HASH = 12
"""Digits of hashes and commits shown."""


def summary(results: Sequence[Result]) -> Markup:
    """A row a result: what it is about, and the number one looks for first."""
    rows, kinds = [], []
    for result in results:
        with whole([result], "what it is about"):
            found, kind = headline(result.found)
            made = result.found.provenance
            about = subject(result.found) or "–"
            rows.append(
                [result.name, found, about, result.found.command, made.date[:10], made.design_hash or "–"]
            )
            kinds.append(kind)
    headings = ("result", "found", "about", "command", "date", "design")
    return table(Rows("Results", headings, rows, "", range(6), lambda r, c: kinds[r] if c == 1 else None))


def headline(found: Found) -> tuple[str, str]:
    """The number one looks for first, and its kind."""
    match found:
        case CostResult() as cost:
            return (
                f"{', '.join(three(cost.model_cost.bottom_up))} for all attention of a token, bottom-up",
                SIMULATED,
            )
        case evaluation.AblationResult() as ablation:
            rows = [row for row in ablation.ablation if row.kind == "off"]
            best = min(rows, key=lambda row: row.ratio)
            return f"× {best.ratio:.4f} without {best.name}, the most of {len(rows) - 1}", SIMULATED
        case evaluation.FidelityResult() as fidelity:
            errors = [x for row in fidelity.fidelity["error"] for x in row]
            return f"mean error of a head {sum(errors) / len(errors):.3f}", SIMULATED
        case evaluation.ChipsResult(chips=chips):
            count = len(chips.perplexity)
            return f"× {chips.ratio:.4f} the nominal perplexity, mean of {count} chips", SIMULATED
        case evaluation.PausesResult(pauses=pauses):
            last = pauses[-1]
            return f"perplexity {short(last.perplexity)} after {last.idle:g} s", SIMULATED
        case BaselineResult(measurements=timings):
            return f"{len(timings)} timings of softmax attention", MEASURED
        case evaluation.TasksResult(tasks=tasks, numbers=kind):
            return f"scores of {len(tasks)} tasks", kind
        case evaluation.DepthResult(curves=curves):
            return f"{len(curves)} models over the length of context", SIMULATED
        case SweepResult() as sweep:
            aims = " and ".join(one.name for one in sweep.objectives)
            return f"{aims} of {sweep.counts.complete} points", SIMULATED
        case StagedResult() as staged:
            stage = staged.saved_stage
            over = stage.ratio_to_software
            text = "" if over is None else f", × {over:.3g} software"
            return f"perplexity {short(stage.perplexity)}{text} ({stage.title})", stage.numbers
        case CellResult(stages=stages):
            name, last_stage = list(stages.items())[-1]
            return f"perplexity {short(last_stage.perplexity)} ({name})", SIMULATED
        case ActivityResult() as activity:
            share = 100 * activity.activity.mean().score_active
            return f"{share:.1f} % of the columns give a pulse", SIMULATED
    return _of_circuits(found) or ("–", "")


def _of_circuits(found: object) -> tuple[str, str] | None:
    """The headline of simulated circuits and of the digital half; None of other results."""
    match found:
        case FloorplanResult(areas=areas):
            return f"{sum(areas.values()) * 1e6:.3f} mm² a head", SIMULATED
        case EnergyResult(runs=runs):
            heads = " and ".join(with_scale(array.head, "J") for array in runs[-1].arrays.values())
            return f"{heads} a head, {runs[-1].inputs} inputs", SIMULATED
        case CharacterisationResult(curve=curve):
            return f"R² {curve.r_squared_against_it:.3f} against the published cubic", SIMULATED
        case HeadResult(schedule=schedule):
            return f"a step takes {with_scale(schedule.latency, 's')}", SIMULATED
        case TileResult():
            return "waveforms of a step", SIMULATED
        case WiresResult(limits=limits):
            limit = f"{limits['bit line']:.3g} Ω per cell of a bit line"
            return f"{limit} are half a step of the counter", SIMULATED
        case DeviceResult() as device:
            return device.title or device.device, MEASURED
        case RtlResult(checks=checks, sizes=sizes):
            if not checks:
                return f"a step takes {sizes.step_periods} clock periods", SIMULATED
            done = [check for check in checks if check.different]
            return f"{len(done)} checks, {sum(c.failed for c in done)} with differences", SIMULATED
        case WriteResult(dacs=dacs):
            energy = dacs["string"].energy
            mean = with_scale(sum(energy) / len(energy), "J")
            return f"{mean} a write of a line, resistor string", SIMULATED
        case MixedResult() as mixed:
            codes = mixed.tokens * mixed.rows
            return f"{mixed.codes.differ} of {codes} codes unlike those of HeadArray", SIMULATED
        case VerifyResult(arrays=arrays):
            shares = (f"{100 * array.rms_of_full_scale['own']:.2g} %" for array in arrays.values())
            return f"{' and '.join(shares)} of full scale, rms from the model", SIMULATED
    return None


def provenance(results: Sequence[Result]) -> Markup:
    """Design, versions, commit, seed, hardware and protocol of every result, folded where there are many."""
    pieces = []
    for one in results:
        with whole([one], "provenance"):
            words = element("summary", element("span", one.name), " ", badges(one.found))
            few = len(results) <= 2
            pieces.append(element("details", words, _provenance(one.found), class_="more", open=few))
    return join(pieces)


def _count(number_of: int | None, what: str) -> str:
    return f"{number_of} {what}{'s' if number_of != 1 else ''}"


def _provenance(found: Found) -> Markup:
    made, hardware = found.provenance, found.provenance.hardware
    machine = [hardware.cpu, _count(hardware.cores, "core"), _count(hardware.threads, "thread")]
    machine += [f"{hardware.memory_bytes / 2**30:.1f} GiB"] if hardware.memory_bytes else []
    machine += [hardware.accelerator or "no accelerator"]
    rows: list[tuple[str, object]] = [
        ("command", element("code", made.command)),
        ("date", made.date),
        ("protocol", made.protocol),
        ("design", f"{made.design_hash or '–'} (hash)"),
        ("seed", made.seed),
        ("commit", made.commit or "– (an installed package)"),
        ("versions", ", ".join(f"{name} {version}" for name, version in made.versions.items())),
        ("hardware", ", ".join(machine)),
        *((name, element("code", content[:HASH])) for name, content in made.inputs.items()),
    ]
    rows += [("simulator", found.ngspice)] if isinstance(found, SpiceResult) else []
    return element("dl", *(element(tag, x) for row in rows for tag, x in zip(("dt", "dd"), row, strict=True)))
