"""Carrying out a recipe, stage by stage.

    OUT/model/                   a model that the recipe makes first
    OUT/tokens/                  the tokens of the text
    OUT/stages/design.toml       the recipe's chip, with its own cell
    OUT/stages/NAME.json         the result of a finished stage; NAME.safetensors its weights, gains, offsets
    OUT/stages/NAME.checkpoint   of an unfinished training
    OUT/log.jsonl, figures/      every step, and every loss by its name as a figure
    OUT/run.json                 all finished stages
    OUT/design.toml, hardware.safetensors   the best stage in arrays, for `gaincell evaluate OUT`

Every file is written completely or not at all: the same command goes on wherever it was interrupted. Several
processes, as `torchrun` or `accelerate launch` start them, work on one directory that all of them see.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from gaincell.adaptation import adapt, collect_statistics, set_neutral
from gaincell.errors import InputError
from gaincell.evaluation.perplexity import perplexity
from gaincell.integrations.hf.attach import attached_layers
from gaincell.integrations.hf.base_model import LoadedModel
from gaincell.integrations.hf.checkpoint import save, write_state
from gaincell.integrations.hf.models import load_model
from gaincell.integrations.hf.paired import kept_components
from gaincell.integrations.hf.run import DESIGN, Run
from gaincell.integrations.hf.support import attention_modules
from gaincell.mapping import summary
from gaincell.mapping.engine import Engine
from gaincell.mapping.folder import RunFolder, run_lock
from gaincell.mapping.pretrain import pretrain, take_model
from gaincell.mapping.recipe import MADE_HERE, ROOTS, ModelRecipe, Recipe, StageRecipe, plain_model
from gaincell.mapping.recipe_models import RecipeModels
from gaincell.mapping.recipe_text import RecipeText
from gaincell.mapping.records import StageRecord, Told
from gaincell.mapping.transfer import only_attention
from gaincell.progress import StageProgress, silent_stages
from gaincell.reports.training import draw_stages, read_log
from gaincell.results import read, write
from gaincell.results.common import Kind, NamedModel
from gaincell.results.provenance import without_paths
from gaincell.results.run import FILE, Adaptation, TrainedResult, TrainingCurve
from gaincell.text import Text, sha256
from gaincell.training import checkpoint as disk
from gaincell.training.log import TrainingLog
from gaincell.training.loop import next_token_loss, train
from gaincell.training.parallel import join_processes
from gaincell.training.tracker import Tracker


class RecipeRun:
    """A recipe being carried out in a directory.

    Args:
        recipe: what to do.
        text: what to train and evaluate on.
        out: the directory OUT.
        progress: opens the progress of every step.
        device: where to compute.
        teacher_outputs: where what teachers give is kept (training/teacher_outputs.py); None: nowhere.
        tracker: where trainings are logged too.

    Raises:
        GaincellError: model, text or directory are not acceptable.
    """

    def __init__(
        self,
        recipe: Recipe,
        text: Text,
        out: Path,
        progress: StageProgress = silent_stages,
        device: str = "cpu",
        teacher_outputs: Path | None = None,
        tracker: Tracker | None = None,
    ) -> None:
        self.tracker = tracker
        self.recipe, self.out, self.progress, self.device = recipe, out, progress, device
        self.processes = join_processes(torch.device(device).type)
        self.main = self.processes.is_main_process
        with self.processes.main_process_first():  # it makes what the others then read
            if isinstance(recipe.model, ModelRecipe) and recipe.model.run is not None:
                take_model(Path(recipe.model.run).expanduser(), out)
            self.text = RecipeText(recipe, text, out, progress)
        model = self._pretrained()
        self.base = LoadedModel(
            model.model.to(device),  # type: ignore[arg-type]
            self.text.tokenizer,
            model.id,
            model.sha256,
        )
        attention_modules(self.base.model)  # refuses what cannot be mapped, before any work
        self.tokens_before = self._tokens_of_adapter()
        made = isinstance(recipe.model, ModelRecipe) and recipe.model.run is None
        identity = _identity(recipe) | {"base_sha256": MADE_HERE if made else model.sha256}
        with self.processes.main_process_first():
            self.folder = RunFolder(out, identity)
            if self.main:
                recipe.design.save(self.folder.stages / DESIGN)
        self.engine = Engine(
            loaded=self.base,
            evaluation=self.text.evaluation_tokens,
            protocol=f"blocks-{recipe.block}",
            progress=progress,
            folder=self.folder,
            processes=self.processes,
        )
        self.models = RecipeModels(
            recipe, self.base, self.text, self.folder, progress, device, teacher_outputs
        )

    def _pretrained(self) -> LoadedModel:
        """The model that the recipe starts from, made first if need be."""
        recipe = self.recipe
        if isinstance(recipe.model, str):
            assert self.text.loaded is not None
            return self.text.loaded
        steps = recipe.model.steps * recipe.model.training.batch
        place = self.out / "model"
        shown = self.progress("pretrain")
        pretrain(recipe.model, self.text.blocks[:steps], recipe.seed, place, self._log("pretrain"), shown)
        return load_model(str(place))

    def _tokens_of_adapter(self) -> int:
        """Tokens that the recipe's adapter was trained on; raises InputError if it is of another model."""
        adapter = self.recipe.adapter
        if adapter is None:
            return 0
        run, own = Run(adapter), self.recipe.adapter_stage
        stage = run.result_of(own)
        if stage is None or run.result is None:
            raise InputError(f"{adapter} has no results of {own or 'its model'}: it is not finished")
        made_from = run.hardware.base_sha256 if own is None else run.result.model.sha256
        if made_from != self.base.sha256:
            raise InputError(f"the adapter {adapter} was made from another model than {self.base.id}")
        return stage.training_tokens

    def _adapter(self) -> dict[str, str]:
        """Name and hash of the adapter that stages start from, where one does."""
        adapter = self.recipe.adapter
        if adapter is None or all(stage.start != "adapter" for stage in self.recipe.stages):
            return {}
        return {f"adapter {summary.base_name(adapter)}": sha256(Run(adapter).file(self.recipe.adapter_stage))}

    # -- stages ----------------------------------------------------------------------------------------------

    def run(self, stage: StageRecipe) -> StageRecord:
        """The record of a stage: read when it is finished, else made and stored."""
        return self.engine.stage(stage.name, lambda: self._made(stage))

    def _made(self, stage: StageRecipe) -> tuple[Told, PreTrainedModel]:
        """Carry out a stage and store its parameters; what there is to tell, and its model as stored."""
        start = None if stage.start in ROOTS else self.recipe.stage(stage.start)
        state = None if start is None else self.folder.state(start.name)
        model = self.models.model(stage, state)
        before = self.tokens_before if self.models.root(stage) == "adapter" else 0
        told = Told(training_tokens=before + self.recipe.tokens_of(stage))
        kept = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        if stage.task == "train":
            told = self._train(stage, model, told)
        elif stage.task == "adapt":
            told = replace(told, adaptation=self._adapt(stage, model))
        elif stage.neutral:
            set_neutral(model)
        parameters = dict(model.named_parameters())
        tensors = {name: disk.whole(parameters[name].detach()) for name in kept}
        if self.main:
            stored = getattr(torch, self.recipe.stored)
            tensors = {n: t if ".gain_cell." in n else t.to(stored) for n, t in tensors.items()}
            scale = self.recipe.lora.scale if self.recipe.lora is not None else 1.0
            tensors |= kept_components(model)
            metadata = {"tokens": str(told.training_tokens), "lora_scale": str(scale)}
            write_state(tensors, self.folder.state(stage.name), metadata)
            model = self.models.model(stage, self.folder.state(stage.name))
        return told, model

    def _train(self, stage: StageRecipe, model: PreTrainedModel, told: Told) -> Told:
        if stage.loss == "transfer":
            only_attention(model)
        checkpoint = self.folder.checkpoint(stage.name, "training")
        every = stage.training.evaluate_every
        tokens = self.text.evaluation_tokens[: self.recipe.watched_tokens] if every else None
        loss, protocol = self.models.loss(stage) or next_token_loss, self.engine.protocol
        shares: dict[str, float] = {}
        train(
            model,
            self.text.share(stage),
            stage.training,
            progress=self.progress(f"{stage.name}: train"),
            checkpoint=checkpoint,
            log=self._log(stage.name),
            loss_of=loss,
            evaluate=None if tokens is None else lambda m: perplexity(m, tokens, protocol).perplexity,
            shares=shares,
        )
        return replace(told, step_time=shares or None, curve=self._curve(stage))

    def _curve(self, stage: StageRecipe) -> TrainingCurve | None:
        """The evaluations of a training, where there are any."""
        lines = [line for line in read_log(self.out / "log.jsonl") if line.get("stage") == stage.name]
        tested = [line for line in lines if "evaluation" in line]
        numbers: Kind = "measured" if stage.attention == "softmax" else "simulated"
        columns = (tuple(line["step"] + 1 for line in tested), tuple(line["evaluation"] for line in tested))
        return TrainingCurve(numbers, *columns) if tested else None

    def _adapt(self, stage: StageRecipe, model: PreTrainedModel) -> Adaptation:
        start = self.recipe.stage(stage.start)
        blocks = max(1, self.recipe.calibration_tokens // self.recipe.block)
        batches = [self.text.some(0, blocks).to(self.device)]
        linear = self.models.model(start, self.folder.state(start.name), cell="linear")
        target = collect_statistics(linear, batches, self.progress(f"{stage.name}: statistics"))
        found = adapt(
            model,
            batches,
            target,
            stage.method,  # type: ignore[arg-type]
            start="neutral" if stage.neutral else "trained",
            progress=self.progress(f"{stage.name}: adapt"),
        )
        return summary.adaptation(found)

    def _log(self, stage: str) -> TrainingLog:
        figure = self.out / "figures" / "loss.png"
        return TrainingLog(self.out / "log.jsonl", {"stage": stage}, figure, self.tracker)

    # -- the result ------------------------------------------------------------------------------------------

    def finish(self, command: Sequence[str]) -> TrainedResult:
        """Write run.json, of all finished stages, and the best in arrays; returns what run.json holds."""
        records = {stage.name: self.folder.record(stage.name) for stage in self.recipe.stages}
        found = {name: record for name, record in records.items() if record is not None}
        stages = [stage for stage in self.recipe.stages if stage.name in found]
        alone = replace(self.engine, processes=None)  # the others are done
        software = alone.stage("software", lambda: (Told(), self.base.model))
        best, chip = self._best(found), self.recipe.design
        if best is not None:
            model = self.models.model(best, self.folder.state(best.name))
            chip = attached_layers(model)[0].design
            save(model, self.out)
        run = TrainedResult(
            command="train",
            recipe=self.recipe.name,
            set=self._changes(),
            model=NamedModel(summary.base_name(self.base.id), self.base.sha256),
            design=summary.chip_of(chip),
            software=software.perplexity,
            stages=tuple(
                summary.stage(
                    stage.name, stage.title, found[stage.name], software, found.get(stage.compare or "")
                )
                for stage in stages
            ),
            saved=None if best is None else best.name,
            provenance=self.engine.provenance(
                command,
                self.recipe.design,
                software,
                self._adapter() | self.text.digests(),
                seed=self.recipe.seed,
            ),
        )
        write(run, self.out / FILE)
        draw_stages(run, self.out / "figures")
        return run

    def _changes(self) -> dict[str, str]:
        """What was set otherwise than in the recipe's file, as text and without places."""
        changes = self.recipe.changes.items()
        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in changes}
        return {key: without_paths([text])[0] for key, text in texts.items()}

    def _best(self, found: Mapping[str, StageRecord]) -> StageRecipe | None:
        """The finished stage in arrays with the lowest perplexity, among those with the chip's own cell where
        there are any. None: there is none, or all began with random weights, which no base model has.
        """
        stages = [
            stage
            for stage in self.recipe.stages
            if stage.name in found and stage.attention == "arrays" and self.models.root(stage) != "random"
        ]
        own = [stage for stage in stages if stage.cell in (None, self.recipe.design.cell.name)]
        return min(own or stages, key=lambda stage: found[stage.name].perplexity, default=None)


def run_recipe(
    recipe: Recipe,
    text: Text,
    out: Path,
    progress: StageProgress = silent_stages,
    *,
    only: str | None = None,
    device: str = "cpu",
    teacher_outputs: Path | None = None,
    command: Sequence[str] = ("gaincell", "train"),
    tracker: Tracker | None = None,
) -> TrainedResult:
    """Carry out a recipe; returns what OUT/run.json then holds.

    Args:
        recipe, text, out, progress, device, teacher_outputs, tracker: see `RecipeRun`.
        only: a stage: it and what it needs are run, nothing else.
        command: the command line, for the record.

    Raises:
        GaincellError: something given is not acceptable, or a training diverges.
    """
    main = join_processes(torch.device(device).type).is_main_process
    stages = list(recipe.stages) if only is None else recipe.needed_by(only)
    with run_lock(out if main else None):
        run = RecipeRun(recipe, text, out, progress, device, teacher_outputs, tracker)
        for stage in stages:
            run.run(stage)
        result = run.finish(command) if main else None
        run.processes.wait_for_everyone()
        return result or read(out, TrainedResult)


def _identity(recipe: Recipe) -> dict[str, Any]:
    """What must be the same for a run to go on."""
    plain = {
        key: entry
        for key, entry in asdict(recipe).items()
        if key not in ("design", "name", "stages", "model", "changes")
    }
    if isinstance(recipe.model, ModelRecipe):
        plain["model"] = plain_model(recipe.model)
    else:
        plain["model"] = recipe.model.rstrip("/").split("/")[-1]
    plain["design"] = recipe.design.hash
    plain["stages"] = {stage.name: asdict(stage) for stage in recipe.stages}
    identity: dict[str, Any] = json.loads(json.dumps(plain))
    return identity
