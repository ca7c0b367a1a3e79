"""Put the tables and figures of README.md and of the pages in place, from result files alone.

    python docs/readme.py

Reads docs/results/NAME.json (the run.json of a mapping), docs/results/pauses/NAME.json (of evaluate --at),
docs/results/context/context.json (of recipes/depth.py), docs/results/cells (of recipes/cells.py),
docs/results/evaluation (of evaluate --tasks and --chips, ablate, fidelity), docs/results/spice,
docs/results/costs (of cost, activity, baseline, floorplan), docs/results/rtl (of rtl and
recipes/word_lengths.py), docs/results/sweeps (of recipes/sweeps) and
benchmarks/results/*.json;
rewrites what stands between `<!-- NAME:table -->` and `<!-- end -->` in README.md and in pages of docs; draws
docs/figures. The figures of one step are simulated on the way. Model cards (cards.py) and
docs/reproduction.md (reproduction.py) follow; tokens_page.py has what both say of tokens against quality.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import cards
import cells_page
import context
import costs_page
import reproduction
import rtl_page
import speed
import sweep_page
import tokens_page
import training_page
import why_page
from reproduction_circuits import uncommitted

from gaincell.adaptation.result import TOLERANCE
from gaincell.costs.size import shipped_sizes
from gaincell.files import write_text
from gaincell.reports import (
    baseline,
    comparison,
    comparison_figure,
    costs,
    costs_figures,
    evaluation,
    figures,
    floorplan,
    heads,
    rtl,
    spice,
    spice_tables,
    system_costs,
    tables,
)
from gaincell.reports.html import page as report
from gaincell.reports.style import save, save_all
from gaincell.reports.tables import Rows
from gaincell.results import read, write
from gaincell.results.activity import ActivityResult
from gaincell.results.common import Result
from gaincell.results.comparison import compare
from gaincell.results.comparison import weights as weights_of
from gaincell.results.cost import CostResult
from gaincell.results.evaluation import (
    AblationResult,
    ChipsResult,
    DepthResult,
    FidelityResult,
    PausesResult,
    TasksResult,
)
from gaincell.results.floorplan import FloorplanResult
from gaincell.results.rtl import RtlResult, WordLengthsResult
from gaincell.results.run import (
    AdaptedResult,
    CellAdaptationResult,
    CellDesignResult,
    MappedResult,
    TrainedResult,
)
from gaincell.results.spice import EnergyResult, MixedResult, VerifyResult, WiresResult, WriteResult
from gaincell.results.spice_cell import CharacterisationResult
from gaincell.results.system_cost import BaselineResult

T = TypeVar("T", bound=Result)
ROOT = Path(__file__).parents[1]
AIM = 4.0
"""Times as fast as before a step of a conversion was to become."""
COST_FIGURES = {
    *(f"gpt2-costs-{name}" for name in ("energy", "phases", "sweeps", "machines")),
    "smollm2-135m-costs-heads",
    "mistral-7b-costs-why",
}
"""Those that docs/costs.md shows."""
PACKAGED = ("smollm2-135m",)
"""Models whose measured activity comes with the package."""
PAGES = ("README.md", "docs/mapping.md", "docs/hardware.md", "docs/kernels.md", "docs/large_models.md")
"""Pages with parts that `main` writes."""


def main() -> None:
    parts: dict[str, str] = {}
    for path in sorted((ROOT / "docs" / "results").glob("*.json")):
        run = read(path, MappedResult)
        lines = "\n".join(f"* {line}" for line in tables.adaptation_lines(run))
        about = (
            "Both adaptations begin from the trained start: the gains and offsets of the linear hardware. "
            f"Whether they converged is judged by {TOLERANCE['relative']:g} of a stage's standard deviation, "
            f"not by the authors' looser rule ({TOLERANCE['released']:g}, absolute; "
            "[reproduction.md](reproduction.md#fig-4c-adaptation))."
        )
        parts[path.stem] = f"{cards.perplexity_markdown(run)}\n{about}\n\n{lines}"
        with tempfile.TemporaryDirectory() as folder:
            for drawn in save_all(figures.FIGURES, run, Path(folder)):
                drawn.rename(ROOT / "docs" / "figures" / f"{path.stem}-{drawn.name}")
    found = ROOT / "docs" / "figures"
    paused = sorted((ROOT / "docs" / "results" / "pauses").glob("*.json"))
    save(evaluation.pauses([read(path, PausesResult) for path in paused]), found / "pauses.png")
    by_context = read(ROOT / "docs/results/context/context.json", DepthResult)
    save(evaluation.context(by_context), found / "context.png")
    bench, models, memory = (
        json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
        for name in ("attention", "models", "memory")
    )
    save(speed.speed(bench), found / "speed.png")
    parts |= {
        "context": context.context_sentences(by_context),
        "adapters": adapters_table(ROOT / "docs" / "results" / "evaluation" / "tasks").rstrip(),
        "tokens": tokens_page.front_table(),
        "fine-tuned": reproduction.short_fine_tuning(),
        "bench": benchmark_table(bench).rstrip(),
        "models": models_table(models).rstrip(),
        "memory": memory_table(memory).rstrip(),
    }
    for page in PAGES:
        rewrite(ROOT / page, {name: content + "\n" for name, content in parts.items()})
    write_text(ROOT / "docs" / "benchmarks.md", benchmark_page(bench, models))
    write_cells(ROOT / "docs")
    rewrite(ROOT / "docs" / "training.md", training_page.parts(ROOT / "docs"))
    write_evaluation(ROOT / "docs")
    why_page.write_why(ROOT / "docs")
    write_spice(ROOT / "docs")
    write_costs(ROOT / "docs")
    write_baselines(ROOT / "docs")
    write_rtl(ROOT / "docs")
    rewrite(ROOT / "docs" / "sweeps.md", sweep_page.parts(ROOT / "docs"))
    write_report(ROOT / "docs")
    simulate(found)
    cards.main()
    reproduction.main()


def adapters_table(folder: Path) -> str:
    """The shipped adapters on WikiText-2, from `gaincell evaluate ADAPTER --tasks ... --json`."""
    entries = {path.stem.partition("-")[2]: read(path, TasksResult) for path in folder.glob("smollm2-*.json")}
    wiki = {
        name: next(task for task in run.tasks if task.task.startswith("wikitext"))
        for name, run in entries.items()
    }
    score = {name: task.metrics["word_perplexity"].score.value for name, task in wiki.items()}
    head = ("model", "mapping", "tokens", "word perplexity", "× software", "megabytes")
    rows = [["software", "–", "–", f"{score['software']:.2f}", "1.00", "–"]]
    harness, shown, controls = entries["software"].harness, ["software"], ""
    for place in sorted((ROOT / "adapters").iterdir()):
        run = read(place, TrainedResult)
        chip = run.design.name
        if chip not in score:
            continue
        tokens = run.saved_stage.training_tokens
        size = sum(file.stat().st_size for file in place.iterdir()) / 1e6
        shown.append(chip)
        controls += training_page.control_sentence(run)
        numbers = (f"{x:.2f}" for x in (score[chip], score[chip] / score["software"]))
        of = f"{tokens_page.mapping(run)}, `{chip}`"
        rows.append([f"`adapters/{place.name}`", of, f"{tokens:,.0f}", *numbers, f"{size:.1f}"])
    weights = weights_of({name: entries[name] for name in shown})
    scored = f"{harness.name} {harness.version}, {weights}"
    of_wiki = wiki["software"]
    caption = f"WikiText-2, validation split, {of_wiki.items} of {of_wiki.of} articles, {scored}.{controls}"
    return Rows("", head, rows, caption, text=(0, 1)).markdown()


def write_cells(docs: Path) -> None:
    """docs/cells.md and its figure, from the results of recipes/cells.py and docs/data/cells.toml."""
    literature = cells_page.read_literature(docs / "data" / "cells.toml")
    folder = docs / "results" / "cells"
    designs = {path.stem: read(path, CellDesignResult) for path in folder.glob("designs/*.json")}
    adapted: dict[str, list[CellAdaptationResult]] = {}
    for path in sorted(folder.glob("adaptation/*/*.json"), key=cells_page.order):
        found = read(path, CellAdaptationResult)
        adapted.setdefault(found.chip.name, []).append(found)
    write_text(docs / "cells.md", cells_page.page(literature, designs, adapted))
    if adapted:
        save(cells_page.adaptation(adapted), docs / "figures" / "adaptation-cells.png")


def evaluation_speed(bench: Mapping[str, Any]) -> str:
    """What evaluating on hardware costs, from benchmarks/evaluation.py."""
    head, rows = ("model", "task", "items", "time × software", "lowest and highest"), []
    for name, tasks in bench["models"].items():
        for task, row in tasks.items():
            low, high = row["range"]
            ratio = f"{row['times_software']:.2f}"
            rows.append([name, task, str(row["items"]), ratio, f"{low:.2f} to {high:.2f}"])
    return Rows(
        "", head, rows, measured(bench, bench["provenance"]["hardware"]["threads"]), (0, 1)
    ).markdown()


def measured(bench: Mapping[str, Any], threads: Any) -> str:
    """How, and on how many threads."""
    unit = f"{threads} thread{'s' if int(threads) != 1 else ''}"
    return f"Measured, {unit}; {bench['provenance']['protocol']}; another machine gives other numbers."


def write_spice(docs: Path) -> None:
    """docs/spice.md and its figures, from docs/results/spice."""
    folder = docs / "results" / "spice"

    def every(name: str, kind: type[T]) -> dict[str, T]:
        paths = sorted(folder.glob(f"{name}-*.json"))
        return {path.stem.partition("-")[2]: read(path, kind) for path in paths}

    found, verified = every("cell", CharacterisationResult), every("verify", VerifyResult)
    adapted = perplexities(every("adapt", AdaptedResult))
    wires = read(folder / "wires-freepdk45.json", WiresResult)
    drops = "\n".join(f"{rows.title}:\n\n{rows.markdown()}" for rows in spice_tables.wires(wires))
    written = read(folder / "write-freepdk45.json", WriteResult)
    times = f"{written.discharge * 1e9:g} ns and {written.write * 1e9:g} ns"
    of_writes = f"{written.technology}; discharge and write of {times}.\n"
    mixed = read(folder / "mixed-freepdk45.json", MixedResult)
    of_mixed = f"{mixed.technology}; {mixed.ngspice}; simulated.\n"
    parts = {
        "cells": f"{spice_tables.cells(found).markdown()}\n{adapted}",
        "verify": spice_tables.verification(verified).markdown(),
        "energy": spice_tables.energy(every("energy", EnergyResult)).markdown(),
        "wires": drops.replace("key_drop, value_drop", "`key_drop`, `value_drop`"),
        "write": f"{spice_tables.write(written).markdown()}\n\n{of_writes}",
        "mixed": f"{spice_tables.mixed(mixed).markdown()}\n\n{of_mixed}",
    }
    rewrite(docs / "spice.md", parts)
    save(spice.wires_figure(wires), docs / "figures" / "spice-wires.png")
    save(spice.mixed_figure(mixed), docs / "figures" / "spice-mixed-freepdk45.png")
    for name, result in found.items():
        save(spice.cell_figure(result), docs / "figures" / f"spice-cell-{name}.png")
    for name, one in verified.items():
        save(spice.verification_figure(one), docs / "figures" / f"spice-verify-{name}.png")


def perplexities(adapted: Mapping[str, AdaptedResult]) -> str:
    """Of `tiny` on simulated cells."""
    rows = []
    for name, result in adapted.items():
        stages = {s.name: f"{s.perplexity:.2f} ± {s.perplexity_error:.2f}" for s in result.stages}
        rows.append([name, *(stages.get(s, "–") for s in ("linear", "unadapted", "adapted"))])
    return Rows("", ["perplexity of `tiny` on", "linear cell", "unadapted", "adapted"], rows).markdown()


def write_costs(docs: Path) -> None:
    """docs/costs.md and its figures, from docs/results/costs/cost-*.json; the activity that is packaged."""
    for name in PACKAGED:
        measured = read(docs / "results" / "costs" / f"activity-{name}.json", ActivityResult)
        activity = replace(measured.activity, source=f"{measured.activity.source}, adapters/{name}")
        write(replace(measured, activity=activity), ROOT / "src/gaincell/costs/activities" / f"{name}.json")
    folder = docs / "results" / "costs"
    found = {p.stem.partition("-")[2]: read(p, CostResult) for p in sorted(folder.glob("cost-*.json"))}
    paper, large = found["gpt2"], found["mistral-7b"]
    parts = {
        "energy": costs.energy(paper),
        "sparsity": costs_page.sparsity({name: one for name, one in found.items() if "mistral" not in name}),
        "bands": costs_page.bands({name: one for name, one in found.items() if "mistral" not in name}),
        "energy-smollm2": costs.energy(found["smollm2-135m"]),
        "models": costs.models({name: one for name, one in found.items() if "batch" not in name}),
        "left-out": costs.left_out(paper),
        "area": costs.area(paper),
        "variants": costs.variants(paper),
        "machines": system_costs.machines(paper),
        "machines-smollm2": system_costs.machines(found["smollm2-135m"]),
        "whole-gpt2": system_costs.whole_model(paper),
        "whole-mistral": system_costs.whole_model(large),
        "whole-batch": system_costs.whole_model(found["mistral-7b-batch-64"]),
        "cache": system_costs.cache(large),
        "stated": costs_page.stated_cache(large),
        "memories": system_costs.memories(large),
        "sensitivity": costs.sensitivity(paper),
        "technology": costs.technology(paper),
    }
    outside = "".join(f"* {note[0].upper()}{note[1:]}.\n" for note in paper.notes)
    real = {name: one for name, one in found.items() if one.activity.source != "assumed"}
    said = {"outside": outside, "real-text": costs_page.real_text(real)}
    rewrite(docs / "costs.md", {name: rows.markdown() for name, rows in parts.items()} | said)
    for name in ("gpt2", "smollm2-135m", "mistral-7b"):
        with tempfile.TemporaryDirectory() as out:
            for drawn in save_all(costs_figures.FIGURES, found[name], Path(out), f"{name}-costs-"):
                if drawn.stem in COST_FIGURES:
                    shutil.copy(drawn, docs / "figures" / drawn.name)


def write_baselines(docs: Path) -> None:
    """docs/baselines.md and its figures: softmax attention measured, the floorplan, activity."""
    folder, drawn = docs / "results" / "costs", docs / "figures"
    measured = read(folder / "baseline-cpu.json", BaselineResult)
    plan = read(folder / "floorplan.json", FloorplanResult)
    measured_tables = [f"{rows.title}.\n\n{rows.markdown()}" for rows in baseline.baseline_rows(measured)]
    protocols = "\n".join([f"{baseline.title(measured)}.\n", *measured_tables])
    rewrite(docs / "baselines.md", {"baseline": protocols, "floorplan": floorplan.area_rows(plan).markdown()})
    save(baseline.baseline_figure(measured), drawn / "baseline-cpu.png")
    save(floorplan.floorplan_figure(plan), drawn / "floorplan.png")
    for path in sorted(folder.glob("activity-smollm2-*.json")):
        save(heads.activity_figure(read(path, ActivityResult)), drawn / f"{path.stem}.png")


def write_rtl(docs: Path) -> None:
    """docs/rtl.md: checks, gates, energies and word lengths of the digital half; its timeline."""
    folder = docs / "results" / "rtl"
    found, real = (read(folder / f"leroux2025{name}.json", RtlResult) for name in ("", "-tiny"))
    lengths = read(folder / "word-lengths.json", WordLengthsResult)
    rewrite(docs / "rtl.md", rtl_page.page_tables(found, real, lengths))
    save(rtl.timeline(found), docs / "figures" / "rtl-timeline.png")


def write_report(docs: Path) -> None:
    """docs/report.html: the page of `gaincell report` of some results of the embedded model."""
    folder = docs / "results"
    shown = ["tiny", *(f"evaluation/{name}" for name in ("chips-5", "chips-10", "ablation", "fidelity"))]
    shown += ["costs/cost-tiny", "costs/activity-tiny", "costs/floorplan", "spice/verify-freepdk45-random"]
    found = [report.load(folder / f"{name}.json", name.rpartition("/")[2]) for name in shown]
    write_text(docs / "report.html", report.page(found, "tiny on the chip of the paper"))


def write_evaluation(docs: Path) -> None:
    """docs/evaluation.md: tasks, fidelity, ablation and chips, from docs/results/evaluation."""
    folder = docs / "results" / "evaluation"
    parts: dict[str, str] = {}
    for model in ("smollm2", "tiny"):
        runs = tokens_page.by_mapping(sorted(folder.glob(f"tasks/{model}-*.json")))
        if runs:
            found = compare(runs, "software")
            parts[f"tasks-{model}"] = (
                f"{comparison.as_markdown(found).rstrip()}{uncommitted(*runs.values())}\n"
            )
            save(comparison_figure.differences(found), docs / "figures" / f"tasks-{model}.png")
    bench = json.loads((ROOT / "benchmarks" / "results" / "evaluation.json").read_text())
    parts["evaluation-speed"] = evaluation_speed(bench)
    ablated = read(folder / "ablation.json", AblationResult)
    every = read(folder / "fidelity.json", FidelityResult)
    parts["ablation"] = evaluation.ablation_rows(ablated).markdown()
    save(evaluation.ablation_figure(ablated), docs / "figures" / "ablation.png")
    save(heads.fidelity_figure(every), docs / "figures" / "fidelity.png")
    spread = {
        f"{100 * float(found.chips.spread['current_offset_std'].value):g} %": found
        for found in (read(path, ChipsResult) for path in sorted(folder.glob("chips-*.json")))
    }
    spread = dict(sorted(spread.items(), key=lambda entry: float(entry[0].split()[0])))
    rewrite(docs / "evaluation.md", parts | {"chips": evaluation.chips_rows(spread).markdown()})
    save(evaluation.draw_chips(spread), docs / "figures" / "chips.png")


def simulate(folder: Path) -> None:
    """Timeline and waveforms of one step, by the command that users have."""
    command = str(Path(sys.executable).with_name("gaincell"))
    for options in (["head", "--group", "2", "--layers", "6", "--tokens", "64"], ["tile"]):
        with tempfile.TemporaryDirectory() as out:
            subprocess.run([command, "simulate", *options, "--figures", out], check=True, capture_output=True)
            for drawn in Path(out).glob("*.png"):
                if drawn.stem != "trace":
                    shutil.copy(drawn, folder / drawn.name)


def rewrite(page: Path, parts: Mapping[str, str]) -> None:
    """Put the parts of a page between the marks of their names, where it has them."""
    text = page.read_text()
    for name, content in parts.items():
        pattern = re.compile(rf"(<!-- {name}:table -->\n).*?(<!-- end -->)", re.DOTALL)
        text = pattern.sub(lambda found, content=content: f"{found[1]}{content}{found[2]}", text)
    write_text(page, text)


def benchmark_table(bench: Mapping[str, Any]) -> str:
    """Time of every contender as a multiple of SDPA's in the same run, one thread."""
    columns = ["forward, T = 1024", "forward, T = 4096", "forward and backward, T = 1024", "decode, T = 1024"]
    cpu = bench["provenance"]["hardware"]["cpu"]
    return ratios(bench, {column: f"{column}, 1 thread" for column in columns}) + (
        f"\nMeasured, 1 thread, {cpu}: B = 1, H = 12, D = 64, window 1024; cubic cell unless another is "
        "named; paired and interleaved in one process, medians, by "
        f"`{bench['provenance']['command']}`; another machine gives "
        f"other numbers. {REFERENCE} Other lengths, two threads and memory: [benchmarks](benchmarks.md).\n"
    )


REFERENCE = (
    "Softmax reads all tokens before a query, the arrays the last 1024: beyond, most of the difference is "
    "the window. *Published eager* is our restatement of the paper's equations as whole matrices, with this "
    "package's converters."
)


def benchmark_page(bench: Mapping[str, Any], models: Mapping[str, Any]) -> str:
    """docs/benchmarks.md."""
    cpu, made = bench["provenance"]["hardware"]["cpu"], bench["provenance"]["protocol"]
    parts = [
        "# Benchmarks\n\nWritten by `docs/readme.py` from `benchmarks/results/*.json` (`make bench`).\n\n"
        f"Measured, {cpu}; B = 1 (unless a column has another batch), H = 12, D = 64, window 1024; "
        f"cubic cell unless another is named; {made}, by `{bench['provenance']['command']}`. "
        f"Numbers are times as multiples of torch's float32 softmax attention in the same run. {REFERENCE}"
    ]
    for threads in ("1 thread", "2 threads"):
        for part in ("forward", "forward and backward", "decode"):
            labels = [label for label in bench["results"] if label.startswith(f"{part}, T")]
            shown = {label.split(", ")[1]: label for label in labels if label.endswith(threads)}
            if shown:
                parts.append(f"## {part.capitalize()}, {threads}\n\n" + ratios(bench, shown))
    for part, rows in bench["extra_memory_MiB"].items():
        lengths = list(next(iter(rows.values())))
        head = ["MiB", *(f"T = {tokens}" for tokens in lengths)]
        lines = [
            [name, *(f"{x:.1f}" if speed.is_measured(n, x) else "–" for n, x in row.items())]
            for name, row in rows.items()
        ]
        table = Rows("", head, lines).markdown()
        hidden = "A dash: less than the outputs alone; they lay in memory that the process held before.\n"
        said = f"\n{hidden}" if any("–" in line for line in lines) else ""
        parts.append(f"## Extra peak memory, {part}, outputs included\n\n{table}{said}")
    exponents = [[name, f"{value:.2f}"] for name, value in bench["exponent_in_T"].items()]
    parts.append(
        "## Exponent of T in the forward time, from 4096 to 16384 tokens\n\n"
        + Rows("", ("", "exponent"), exponents).markdown()
    )
    for threads in models["threads"]:
        unit = f"{threads} thread{'s' if threads != '1' else ''}"
        parts.append(f"## Whole models, {unit}\n\n" + models_table(models, threads))
    for name, section in (
        ("threads", threads_section),
        ("conversion", conversion_section),
        ("gpu", gpu_tables),
    ):
        measured = ROOT / "benchmarks" / "results" / f"{name}.json"
        if measured.exists():
            parts.append(section(json.loads(measured.read_text())))
    if missed := [limit for limit, met in bench["limits"].items() if not met]:
        parts.append(
            f"Limits stated beforehand that this run missed: {'; '.join(missed)}. Those of AMX are tested "
            "where the processor has it."
        )
    parts.append("![time and memory against tokens](figures/speed.png)")
    return "\n\n".join(part.strip() for part in parts) + "\n"


def threads_section(bench: Mapping[str, Any]) -> str:
    """What `python -m benchmarks.threads` found."""
    rows = [(part, f"{gain:.2f}") for part, gain in bench["gain_of_two_threads"].items()]
    caption = (
        f"Decoding: of eight sequences. With a process on each of {bench['cores']} cores, the forward pass "
        f"took {bench['process_on_every_core']:.2f} times as long as in one that ran alone before, and "
        f"{bench['threads_beyond_the_cores']:.2f} times where each had as many threads as there are cores. "
        "These are three runs, one after the other, each once: one round cannot tell such differences from "
        f"what else the machine did. Measured, {bench['provenance']['hardware']['cpu']}; "
        f"{bench['provenance']['protocol']}."
    )
    shown = Rows("", ("two threads, T = 1024", "× as fast as one"), rows, caption)
    return f"## Threads and processes\n\n{shown.markdown()}"


def conversion_section(bench: Mapping[str, Any]) -> str:
    """What `python -m benchmarks.conversion` found."""
    rates, times, made = bench["tokens_per_second"], bench["times_before"], bench["provenance"]
    losses = list(next(iter(rates.values())))
    head = [column for loss in losses for column in (f"{loss}, tokens/s", "× before")]
    rows = [
        (
            way,
            *(
                f"{number[loss]:{digits}}" if loss in number else "–"
                for loss in losses
                for number, digits in ((rates[way], ".0f"), (times[way], ".2f"))
            ),
        )
        for way in rates
    ]
    protocol = made["protocol"]
    if protocol.endswith(" medians of 1"):
        protocol = protocol.removesuffix("medians of 1") + "one round, which does not show how much they vary"
    caption = (
        f"Measured, {made['hardware']['cpu']}; SmolLM2-135M with paired rows, mixing and rank 14; "
        f"{protocol}. Other work on the machine lengthens processor time, too. Compiled: with `--compile`. "
        "Kept teacher: its outputs are read from disk (`--teacher-outputs`), as in every training of a text "
        "but the first, unless its loss has `states` or `outputs`. Fixed weights in bfloat16: a recipe's "
        "`weights`, so that no step converts them again. What later recipes add (bias vectors, "
        "a normaliser, balanced rows, higher ranks) takes longer and is not timed here. "
        f"Aimed at: {AIM:g} times; reached at most: {_listed_best(times, losses)}."
    )
    shown = Rows("", ("checkout, products of matrices, gradient of the cells", *head), rows, caption)
    ours = bench["provenance"]["commit"][:8]
    heading = f"## A conversion at commits {ours} (now) and {bench['before']} (before)"
    return f"{heading}\n\n{shown.markdown()}"


def _listed_best(times: Mapping[str, Mapping[str, float]], losses: Sequence[str]) -> str:
    """How many times as fast as before every loss is at best."""
    best = {loss: max(number[loss] for number in times.values() if loss in number) for loss in losses}
    return ", ".join(f"{number:.2f} ({loss})" for loss, number in best.items())


def gpu_tables(bench: Mapping[str, Any]) -> str:
    """What `python -m benchmarks.gpu` found: times, and how codes and gradients differ from the CPU's."""
    times = [[label, *(f"{ms:.3f}" for ms in row.values())] for label, row in bench["times"].items()]
    chips = [
        [name, *(f"{x:.3f}" if what in ("triton", "blocked") else f"{x:.1e}" for what, x in row.items())]
        for name, row in bench["chips"].items()
    ]
    tables = (
        Rows("", ["ms", *next(iter(bench["times"].values()))], times),
        Rows("", ["ms, T = 1024", *next(iter(bench["chips"].values()))], chips),
    )
    return f"## On a GPU, {bench['gpu']}\n\n" + "\n".join(rows.markdown() for rows in tables)


def ratios(bench: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    """Table of times as multiples of SDPA's; title of a column -> label of a result."""
    tables = [bench["results"][label] for label in columns.values()]
    names = dict.fromkeys(name for rows in tables for name in rows if name != "softmax, float32")
    lines = []
    for name in names:
        cells = (rows.get(name) for rows in tables)
        lines.append([name, *(f"{cell['times_sdpa']:.2f}" if cell else "–" for cell in cells)])
    return Rows("", ("× torch's float32 softmax attention", *columns), lines).markdown()


def models_table(bench: Mapping[str, Any], threads: str = "1") -> str:
    """Tokens per second of whole models."""
    head, lines = ("model", "work", "hardware, tokens/s", "softmax, tokens/s", "time × softmax"), []
    for name, work in bench["threads"][threads].items():
        for what, row in work.items():
            rates = [f"{row['tokens_per_second'][kind]:,.0f}" for kind in ("hardware", "softmax")]
            lines.append([name, what, *rates, f"{row['times_softmax']:.2f}"])
    note = (
        " Plain `leroux2025`, without what the included adapters add. A training step here is the forward "
        "and the backward pass in bfloat16, without an optimiser."
    )
    return Rows("", head, lines, measured(bench, threads) + note, (0, 1)).markdown()


MEMORY_STEPS = {
    "nothing": "Python, torch, transformers",
    "load": "read the model",
    "fit": "first gains, statistics, closed form",
    "map": "`map --lora 4`, blocks of a quarter of the text",
    "evaluate": "perplexity",
    "generate": "write on the ring",
}
"""Steps of benchmarks/memory.py, in words."""
ARITHMETIC = ("llama-2-7b", "mistral-7b")
"""Models whose memory is computed: by their sizes in costs/models.toml."""


def memory_table(bench: Mapping[str, Any]) -> str:
    """Peak resident size of every step of benchmarks/memory.py, and by arithmetic of larger models: their
    weights in bfloat16 with input and output embedding, the libraries, and the rest in proportion to the
    hidden size, all else of a layer being so. (Not of `map`, which holds more than one layer's.)
    """
    sizes, gib = shipped_sizes(), 2**30
    weights, libraries = bench["weights_bytes"], bench["steps"]["nothing"]["peak_bytes"]
    head = [
        "",
        "measured, GiB",
        "limit, GiB",
        *(f"{sizes[name].title}, computed, GiB" for name in ARITHMETIC),
    ]
    larger = {name: 2 * (s.linear_weights + 2 * s.vocabulary * s.hidden) for name, s in sizes.items()}
    of_larger = (f"{larger[name] / gib:.1f}" for name in ARITHMETIC)
    lines = [["weights, bfloat16", f"{weights / gib:.2f}", "–", *of_larger]]
    for step, title in MEMORY_STEPS.items():
        if step not in bench["steps"]:
            continue
        peak, computed = bench["steps"][step]["peak_bytes"], []
        for name in ARITHMETIC:
            rest = (peak - weights - libraries) * sizes[name].hidden / bench["hidden"]
            bytes_ = libraries if step == "nothing" else larger[name] + libraries + rest
            computed.append("–" if step == "map" else f"{bytes_ / gib:.1f}")
        limit = "–" if step == "nothing" else f"{bench['limit_bytes'] / gib:.2f}"
        lines.append([title, f"{peak / gib:.2f}", limit, *computed])
    made = f"{bench['tokens']} tokens of text; {bench['provenance']['protocol']}"
    stated = "The limit is 1.25 times the weights plus 1.5 GiB."
    return Rows("", head, lines, f"Peak resident size; {made}. {stated}").markdown()


if __name__ == "__main__":
    main()
