"""Cells compared: the designs of the literature, and the adaptation to every cell.

    python recipes/cells.py [--out docs/results/cells]

1. Every design of docs/data/cells.toml: linearity of its curve, how long it holds, how often it would have to
   be refreshed, and the perplexity of `tiny` on it: linear, unadapted, adapted in closed form.
   OUT/designs/NAME.json.
2. The published iteration, perplexity at every iteration, and the closed form on the same text, for every
   cell of CELLS on two chips: leroux2025, and that of the released study of the four cells of the paper's
   supplement, which had no decay and quantised neither queries nor outputs. OUT/adaptation/CHIP/CELL.json.
3. The published iteration with its released stopping rule from both starts, the gains that training left and
   all gains 1 with all offsets 0, for every cell of CELLS on leroux2025 (the linear cell from the second
   only: from the first there is nothing to adapt). OUT/starts/START/CELL.json.

Results that exist with the same settings are kept, so the same command goes on after an interruption.
`python docs/readme.py` writes docs/cells.md and its figure from them. More than an hour on one core.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from gaincell.adaptation import adapt, collect_statistics
from gaincell.adaptation.adapt import Method
from gaincell.adaptation.result import Rule
from gaincell.chips.design import Design
from gaincell.chips.design_file import load_design
from gaincell.chips.device import with_cell
from gaincell.cli._progress import progress_bars
from gaincell.errors import RunError
from gaincell.evaluation.perplexity import cut_blocks, describe, perplexity
from gaincell.files import read_toml
from gaincell.integrations.hf.attach import attached_layers, set_design
from gaincell.mapping import summary
from gaincell.mapping.load_hardware import LoadedHardware, hardware_model
from gaincell.mapping.readapt import AdaptSettings, adapt_model
from gaincell.progress import Progress, StageProgress, silent
from gaincell.results import read, write
from gaincell.results.common import Provenance, Value
from gaincell.results.provenance import hash_of, made
from gaincell.results.run import (
    Adaptation,
    AdaptedResult,
    CellAdaptationResult,
    CellDesignResult,
    CellResult,
    CellStage,
    DescribedChip,
    TimedModel,
    TitledCurve,
    UsedText,
)
from gaincell.text import open_text, token_stream

ROOT = Path(__file__).parents[1]
LITERATURE = ROOT / "docs" / "data" / "cells.toml"
MODEL, TEXT, BLOCK = "tiny", "sample", 1024
EVALUATED, CALIBRATION, FIXED_BATCH, STARTED = 32, 8, 4, 16
"""Blocks: evaluation, calibration of 1, fixed batch of 2, calibration of 3."""
RULE: Rule = "released"
"""By which the published iteration of 3 stops."""
CURVE_POINTS = 1001

CELLS: Mapping[str, tuple[str, Callable[[Design], Design]]] = {
    "linear": ("linear", lambda chip: chip.replace(cell="linear")),
    "polynomial": ("cubic", lambda chip: chip.replace(cell="polynomial")),
    "x3": ("x³", lambda chip: chip.replace(cell="x3")),
    "x5": ("x⁵", lambda chip: chip.replace(cell="x5")),
    "sigmoid": ("sigmoid", lambda chip: chip.replace(cell="sigmoid")),
    "exponential": ("exponential", lambda chip: chip.replace(cell="exponential")),
    "compressive": ("table, compressive", lambda chip: with_cell(chip, ROOT / "docs/data/compressive.toml")),
    "oxide-2t": ("all oxide, 2T", lambda chip: chip.replace(cell=load_design("oxide-2t").cell)),
    "oxide-2t-saturated": (
        "all oxide, 2T, saturated",
        lambda chip: chip.replace(cell=load_design("oxide-2t-saturated").cell),
    ),
}
"""File name -> title and the chip with that cell."""


def chips() -> dict[str, tuple[str, str, Design]]:
    """The chips of part 2: folder -> title, what it is, the design."""
    paper = load_design("leroux2025")
    released = paper.replace(retention_time=None, query_levels=None, readout="none")
    return {
        "leroux2025": (
            "chip of the paper",
            "`leroux2025`: decay, 4-bit queries, 3-bit storage, 5-bit readout.",
            paper,
        ),
        "released-study": (
            "no decay, q and output not quantised",
            "As in the authors' released study of the supplement's four cells; the rest as `leroux2025`.",
            released,
        ),
    }


def main(
    out: Annotated[Path, typer.Option(metavar="DIRECTORY", help="Where results are kept.")] = ROOT
    / "docs/results/cells",
) -> None:
    """Compare the cells of the literature, and adapt `tiny` to every kind of cell."""
    with progress_bars() as progress:
        job = Job(progress)
        for cell in read_toml(LITERATURE)["cells"]:
            design = load_design(cell["design"])
            job.keep(out / "designs" / f"{design.name}.json", design, job.design_result, design)
        for folder, (name, about, chip) in chips().items():
            for cell, (title, place) in CELLS.items():
                path = out / "adaptation" / folder / f"{cell}.json"
                words = {"title": title, "chip": name, "about": about}
                job.keep(path, place(chip), job.adaptation_result, chip, words)
        paper = load_design("leroux2025")
        wanted = job.provenance(paper, STARTED)
        for cell, (title, place) in CELLS.items():
            for start in ("trained", "neutral") if cell != "linear" else ("neutral",):
                path = out / "starts" / start / f"{cell}.json"
                if not _is_same_start(path, place(paper), start, wanted):
                    write(start_result(place(paper), start, title, progress), path)


def start_result(chip: Design, start: str, title: str, progress: StageProgress) -> AdaptedResult:
    """Part 3 of one cell, as `gaincell adapt tiny --method published --start START --rule released`.

    chip: leroux2025 with that cell. The linear model, which is the target, keeps the cell it was trained for.
    """
    paper = load_design("leroux2025")
    settings = AdaptSettings(
        MODEL, paper, None, method="published", start=start, rule=RULE, text=TEXT,
        evaluation_tokens=EVALUATED * BLOCK, calibration_tokens=STARTED * BLOCK,
    )  # fmt: skip
    found = adapt_model(settings, paper, to=chip, command=["python", *sys.argv], progress=progress)
    return replace(found, title=title, mismatch=None, codes=None, cell=None)


class Job:
    """What all parts share: texts, and how results are made and kept."""

    def __init__(self, progress: StageProgress) -> None:
        self.progress = progress
        loaded = hardware_model(MODEL, load_design("leroux2025")).loaded
        self.sha256 = loaded.sha256
        text = open_text(TEXT)
        reading = progress("read and tokenise the text")
        self.evaluation = token_stream(text.evaluation, loaded.tokenizer, EVALUATED * BLOCK, reading)
        training = token_stream(text.training, loaded.tokenizer, STARTED * BLOCK, reading)
        self.calibration = cut_blocks(training, BLOCK).long()

    def keep(
        self, path: Path, chip: Design, make: Callable[..., CellResult], start: Design, about: Any = None
    ) -> None:
        """Make a result and write it, unless there is one of the same chip, model, texts and settings.

        chip: with the cell in question.  start: the chip whose linear cell the model comes from.
        """
        provenance = self.provenance(chip, CALIBRATION if about is None else FIXED_BATCH)
        if not _is_same(path, provenance):
            ready = hardware_model(MODEL, start.replace(cell="linear"))
            write(make(ready, chip, path.stem, about, provenance), path)

    def provenance(self, chip: Design, blocks: int) -> Provenance:
        """Of a result of a chip, whose calibration reads so many blocks."""
        return made(
            command=["python", *sys.argv],
            seed=0,
            protocol=describe(f"blocks-{BLOCK}", len(self.evaluation) // BLOCK),
            design_hash=chip.hash,
            inputs={
                f"model {MODEL}": self.sha256,
                "calibration text": hash_of(self.calibration[:blocks]),
                "evaluation text": hash_of(self.evaluation),
            },
        )

    def design_result(
        self, ready: LoadedHardware, chip: Design, name: str, about: None, provenance: Provenance
    ) -> CellDesignResult:
        """Part 1 of one design."""
        stages = {"linear": self.evaluate(ready, f"{name}: linear")}
        batch = self.calibration[:CALIBRATION]
        target = collect_statistics(ready.loaded.model, [batch])
        set_design(ready.loaded.model, chip)
        stages["unadapted"] = self.evaluate(ready, f"{name}: unadapted")
        found = adapt(ready.loaded.model, [batch], target, progress=self.progress(f"{name}: adapt"))
        stages["adapted"] = self.evaluate(ready, f"{name}: adapted")
        return CellDesignResult(
            model=_timed(ready),
            design=summary.chip_of(chip),
            text=self.text(batch),
            stages=stages,
            adaptation={"closed-form": summary.adaptation(found)},
            provenance=provenance,
            **cell_numbers(chip),
        )

    def adaptation_result(
        self, ready: LoadedHardware, chip: Design, name: str, about: Mapping[str, str], provenance: Provenance
    ) -> CellAdaptationResult:
        """Part 2 of one cell: both methods from the same start, on the same text."""
        batch = self.calibration[:FIXED_BATCH]
        model = ready.loaded.model
        stages = {"linear": self.evaluate(ready, f"{name}: linear")}
        target = collect_statistics(model, [batch])
        start = {key: tensor.clone() for key, tensor in model.state_dict().items() if ".gain_cell." in key}
        set_design(model, chip)
        stages["unadapted"] = self.evaluate(ready, f"{name}: unadapted")
        adapted: dict[str, Adaptation] = {}
        methods: tuple[Method, ...] = ("published", "closed-form")
        for method in methods:
            model.load_state_dict(start, strict=False)
            found = adapt(model, [batch], target, method, progress=self.progress(f"{name}: {method}"))
            reached = perplexity(model, batch.flatten(), f"blocks-{BLOCK}")
            adapted[method] = summary.adaptation(found, calibration_perplexity=reached.perplexity)
            stages[method] = self.evaluate(ready, f"{name}: {method}, evaluate")
        curve = summary.cell(chip)
        return CellAdaptationResult(
            model=_timed(ready),
            design=summary.chip_of(chip),
            text=self.text(batch),
            chip=DescribedChip(about["chip"], about["about"]),
            cell=TitledCurve(about["title"], curve.name, curve.u, curve.nonlinear),
            stages=stages,
            adaptation=adapted,
            provenance=provenance,
        )

    def text(self, calibration: torch.Tensor) -> UsedText:
        """What is read."""
        return UsedText(TEXT, len(self.evaluation), calibration.numel())

    def evaluate(self, ready: LoadedHardware, step: str) -> CellStage:
        """Perplexity of the evaluation text."""
        shown: Progress = self.progress(step) if step else silent
        found = perplexity(ready.loaded.model, self.evaluation, f"blocks-{BLOCK}", progress=shown)
        return CellStage(found.perplexity, found.perplexity_error)


def _timed(ready: LoadedHardware) -> TimedModel:
    """A model and its token period on the chip."""
    on_chip = attached_layers(ready.loaded.model)[0].design
    return TimedModel(**vars(summary.model(ready.loaded)), token_period=on_chip.token_period)


def cell_numbers(chip: Design) -> dict[str, Any]:
    """What follows from the design alone, by the names of CellDesignResult.

    deviation: largest distance of F(u) from its least-squares straight line over the storage range, as a
        fraction of the span F(v_max) - F(v_min).  current_at_offset: F(0), same fraction.
    tokens_to_1_e: tau / token period.
    refresh_interval: t with u_max (1 - exp(-t / tau)) = half a storage level, u_max the largest |u|.

    Not modelled: noise and offset of the circuit that reads a voltage back, spread of tau.
    """
    u = torch.linspace(
        chip.v_min - chip.v_offset, chip.v_max - chip.v_offset, CURVE_POINTS, dtype=torch.float64
    )
    current = chip.cell.current(u)
    span = current[-1] - current[0]
    line = torch.stack([torch.ones_like(u), u], dim=1)
    best = line @ torch.linalg.lstsq(line, current[:, None]).solution
    deviation = (current - best[:, 0]).abs().max() / span
    at_offset = chip.cell.current(torch.zeros(1, dtype=torch.float64))[0] / span
    tau, levels = chip.retention_time, chip.storage_levels
    assert tau is not None
    assert levels is not None
    half_level = (chip.v_max - chip.v_min) / (levels - 1) / 2
    largest = float(u.abs().max())
    interval = -tau * math.log1p(-half_level / largest)
    retention = chip.provenance["retention_time"]
    return {
        "retention_time": Value(tau, "s", "cited", f"[{retention.source}] {retention.note}"),
        "layers": Value(chip.layers, "1", "cited", "design"),
        "token_period": chip.token_period,
        "window": Value(chip.window, "tokens", "cited", "design"),
        "tokens_to_1_e": tau / chip.token_period,
        "deviation": float(deviation),
        "current_at_offset": float(at_offset),
        "half_level": half_level,
        "refresh_interval": interval,
        "refresh_tokens": interval / chip.token_period,
    }


def _is_same(path: Path, provenance: Provenance) -> bool:
    """Whether there is a result of the same design, inputs and protocol."""
    try:
        found = read(path, CellResult).provenance
    except RunError:
        return False
    keys = ("design_hash", "inputs", "protocol")
    return all(getattr(found, key) == getattr(provenance, key) for key in keys)


def _is_same_start(path: Path, chip: Design, start: str, wanted: Provenance) -> bool:
    """Whether there is a result of part 3 for this chip, with the layers of the model, from this start, of
    the same inputs (newer ones name the file of gains, too) and protocol.
    """
    try:
        found = read(path, AdaptedResult)
    except RunError:
        return False
    adapted, held = found.adaptation.get("published"), found.provenance
    return (
        found.design.hash == chip.replace(layers=found.model.layers).hash
        and adapted is not None
        and (adapted.start, adapted.rule, held.protocol) == (start, RULE, wanted.protocol)
        and wanted.inputs.items() <= held.inputs.items()
    )


if __name__ == "__main__":
    typer.run(main)
