"""Carrying out a recipe, stage by stage.

    OUT/model/                   a model that the recipe makes first
    OUT/tokens/                  the tokens of the text
    OUT/stages/design.toml       the recipe's chip, with its own cell
    OUT/stages/NAME.json         the result of a finished stage; NAME.safetensors its weights, gains, offsets
    OUT/stages/NAME.training.checkpoint   of an unfinished training
    OUT/log.jsonl, figures/      every step, and every loss by its name as a figure
    OUT/run.json                 all finished stages
    OUT/design.toml, hardware.safetensors   the best stage in arrays, for `gaincell evaluate OUT`

The same command goes on wherever it was interrupted (run_folder.py). Several processes, as `torchrun` or
`accelerate launch` start them, work on one directory that all of them see.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from gaincell.adaptation import adapt, collect_statistics, set_neutral
from gaincell.errors import InputError
from gaincell.integrations.hf.attach import attached_layers
from gaincell.integrations.hf.base_model import LoadedModel
from gaincell.integrations.hf.checkpoint import save_beside_results, write_state
from gaincell.integrations.hf.lora import check_peft
from gaincell.integrations.hf.reparametrisation import indices
from gaincell.integrations.hf.run import DESIGN, Run
from gaincell.integrations.hf.size import content_sha256
from gaincell.integrations.hf.sources import names_hub_model
from gaincell.mapping import summary
from gaincell.mapping.recipe import MADE_HERE, ROOTS, ModelRecipe, Recipe, StageRecipe
from gaincell.mapping.recipe_checks import check_recipe, refusing
from gaincell.mapping.recipe_models import RecipeModels, pretrained_model, take_model
from gaincell.mapping.recipe_text import RecipeText
from gaincell.mapping.run_folder import RunFolder, StageRecord, Told, check_settings, run_lock
from gaincell.progress import StageProgress, silent_stages
from gaincell.reports.training import draw_stages, read_log
from gaincell.results import read
from gaincell.results.common import Kind, NamedModel
from gaincell.results.provenance import without_paths
from gaincell.results.run import Adaptation, TrainedResult, TrainingCurve
from gaincell.text import Text
from gaincell.training.checkpoint import whole
from gaincell.training.compiled import compile_layers
from gaincell.training.log import Tracker
from gaincell.training.loop import train
from gaincell.training.parallel import check_share, join_processes
from gaincell.training.transfer import only_attention


def run_recipe(
    recipe: Recipe,
    text: Text,
    out: Path,
    progress: StageProgress = silent_stages,
    *,
    only: str | None = None,
    device: str = "cpu",
    teacher_outputs: Path | None = None,
    compiled: bool = False,
    command: Sequence[str] = ("gaincell", "train"),
    tracker: Tracker | None = None,
) -> TrainedResult:
    """Carry out a recipe; returns what OUT/run.json then holds.

    Args:
        recipe: The stages.
        text: What to train and evaluate on.
        out: The directory OUT.
        progress: Opens the progress of every step.
        only: A stage: it and what it needs are run, nothing else.
        device: Where to compute.
        teacher_outputs: Where what teachers give is kept (training/distillation.py); None: nowhere.
        compiled: Whether norms and feed-forward networks are compiled (training/compiled.py).
        command: The command line, for the record.
        tracker: Where trainings are logged too.

    Raises:
        GaincellError: recipe, model, text or directory are not acceptable, or a training diverges.
    """
    check_recipe(recipe)
    if recipe.lora is not None:
        check_peft()
    processes = join_processes(torch.device(device).type)
    main = processes.is_main_process
    stages, contents = recipe.needed_by(only), _contents(recipe)
    with run_lock(out if main else None, "train"):
        with processes.main_process_first():  # it makes what the others then read
            check_settings(out, _identity(recipe, contents))
            _check_shares(stages, out, processes.num_processes)
            if isinstance(recipe.model, ModelRecipe) and recipe.model.run is not None:
                take_model(Path(recipe.model.run).expanduser(), out)
            tokens = RecipeText(recipe, text, out, progress)
        processes.wait_for_everyone()  # the first one writes again only when the others have read
        loaded = pretrained_model(recipe, tokens, out, device, progress, tracker, compiled)
        loaded.model.to(device)  # type: ignore[arg-type]
        tokens_before = _tokens_of_adapter(recipe, loaded)
        with processes.main_process_first():
            digests = tokens.digests() if main else None
            folder = RunFolder(out, _identity(recipe, contents, loaded.sha256), digests, keeps=None)
            if main:
                recipe.design.save(folder.stages / DESIGN)
        run = RecipeRun(
            loaded=loaded,
            evaluation=tokens.evaluation_tokens,
            protocol=f"blocks-{recipe.block}",
            progress=progress,
            folder=folder,
            tracker=tracker,
            processes=processes,
            recipe=recipe,
            text=tokens,
            device=device,
            teacher_outputs=teacher_outputs,
            compiled=compiled,
            tokens_before=tokens_before,
            contents=contents,
        )
        for stage in stages:
            run.stage(stage.name, partial(run.carry_out, stage))
        result = run.assemble(command) if main else None
        processes.wait_for_everyone()
        return result or read(out, TrainedResult)


def _check_shares(stages: Sequence[StageRecipe], out: Path, processes: int) -> None:
    """Refuse a stage that has yet to be trained and that processes cannot share, before any work."""
    for stage in stages:
        if stage.task == "train" and not (out / "stages" / f"{stage.name}.json").exists():
            with refusing(f"stage {stage.name}"):
                check_share(processes, stage.training.batch, stage.training.micro_batch)


def check_resumes(recipe: Recipe, out: Path) -> None:
    """Refuse a directory that holds another run than of this recipe.

    Raises:
        RunError: it does.
    """
    check_settings(out, _identity(recipe, _contents(recipe)))


def _tokens_of_adapter(recipe: Recipe, loaded: LoadedModel) -> int:
    """Tokens that the recipe's adapter was trained on.

    Raises:
        InputError: it is of another model, or not finished.
    """
    if recipe.adapter is None:
        return 0
    run, own = Run(recipe.adapter), recipe.adapter_stage
    stage = run.result_of(own)
    if stage is None or run.result is None:
        raise InputError(f"{recipe.adapter} has no results of {own or 'its model'}: it is not finished")
    made_from = run.hardware.base_sha256 if own is None else run.result.model.sha256
    if made_from != loaded.sha256:
        raise InputError(f"the adapter {recipe.adapter} was made from another model than {loaded.id}")
    return stage.training_tokens


def _contents(recipe: Recipe) -> dict[str, Any]:
    """SHA-256 of the models that stages take beside the recipe's own: of the adapter, and of every teacher by
    its name, without those on the hub, whose names say which they are.
    """
    found: dict[str, Any] = {}
    if recipe.adapter is not None and any(stage.start == "adapter" for stage in recipe.stages):
        found["adapter_sha256"] = content_sha256(recipe.adapter, recipe.adapter_stage)
    named = {stage.teacher for stage in recipe.stages} - {"software", *(s.name for s in recipe.stages)}
    on_hub = {
        name for name in named if names_hub_model(name) and not (Run(name).saved or Path(name).exists())
    }
    if here := sorted(named - on_hub):
        found["teachers_sha256"] = {name: content_sha256(name) for name in here}
    return found


def _identity(recipe: Recipe, contents: Mapping[str, Any], model_sha256: str | None = None) -> dict[str, Any]:
    """What must be the same for a run to go on; without a checksum, what is known before the model is."""
    otherwise = ("design", "name", "stages", "model", "changes")
    plain = {key: entry for key, entry in asdict(recipe).items() if key not in otherwise}
    made = recipe.model if isinstance(recipe.model, ModelRecipe) else None
    plain |= {
        "model": str(recipe.model).rstrip("/").split("/")[-1] if made is None else made.made_by(),
        "design": recipe.design.hash,
        "stages": {stage.name: asdict(stage) for stage in recipe.stages},
    }
    base = model_sha256 if made is None or made.run is not None else MADE_HERE
    plain |= {**contents, **({} if base is None else {"base_sha256": base})}
    identity: dict[str, Any] = json.loads(json.dumps(plain))
    return identity


def _as_texts(values: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """Values by key, those of a table behind its name and a point, as text without places."""
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _as_texts(value, f"{before}{key}.")
        else:
            found[before + key] = _as_text(value)
    return found


def _as_text(value: Any) -> str:
    return without_paths([value if isinstance(value, str) else json.dumps(value)])[0]


@dataclass(kw_only=True)
class RecipeRun(RecipeModels):
    """A recipe being carried out.

    Attributes:
        tokens_before: That its adapter was trained on.
        contents: SHA-256 of the adapter and of teachers: `_contents`.
    """

    tokens_before: int
    contents: Mapping[str, Any]

    def carry_out(self, stage: StageRecipe) -> tuple[Told, PreTrainedModel]:
        """Carry out a stage and store its parameters; what there is to tell, and its model as stored."""
        state, before = None, self.tokens_before if stage.start == "adapter" else 0
        if stage.start not in ROOTS:
            state, before = self.folder.state(stage.start), self.records[stage.start].training_tokens
        model, told = self.model(stage, state), Told(training_tokens=before)
        trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        if stage.task == "train":
            told = self._train(stage, model, told)
        elif stage.task == "adapt":
            told = replace(told, adaptation=self._adapt(stage, model))
        elif stage.neutral:
            set_neutral(model)
        parameters = dict(model.named_parameters())
        tensors = {name: whole(parameters[name].detach()) for name in trained}
        if self.main:
            stored = getattr(torch, self.recipe.stored)
            tensors = {n: t if ".gain_cell." in n else t.to(stored) for n, t in tensors.items()}
            scale = self.recipe.lora.scale if self.recipe.lora is not None else 1.0
            metadata = {"tokens": str(told.training_tokens), "lora_scale": str(scale)}
            write_state(tensors | indices(model), self.folder.state(stage.name), metadata)
            model = self.model(stage, self.folder.state(stage.name))
        return told, model

    def _train(self, stage: StageRecipe, model: PreTrainedModel, told: Told) -> Told:
        if stage.loss == "transfer":
            only_attention(model)
        if self.compiled:
            compile_layers(model)
        shares = dict[str, float]()
        by = partial(train, loss_of=self.loss(stage), evaluate=self.text.watched, shares=shares)
        done = self.train(model, self.text.share(stage), stage.training, stage.name, by=by)
        tokens = told.training_tokens + done.tokens
        return replace(told, training_tokens=tokens, step_time=shares or None, curve=self._curve(stage))

    def _curve(self, stage: StageRecipe) -> TrainingCurve | None:
        """The evaluations of a training, where there are any."""
        lines = [line for line in read_log(self.folder.path / "log.jsonl") if line.get("stage") == stage.name]
        tested = [line for line in lines if "evaluation" in line]
        numbers: Kind = "measured" if stage.attention == "softmax" else "simulated"
        columns = (tuple(line["step"] + 1 for line in tested), tuple(line["evaluation"] for line in tested))
        return TrainingCurve(numbers, *columns) if tested else None

    def _adapt(self, stage: StageRecipe, model: PreTrainedModel) -> Adaptation:
        start = self.recipe.stage(stage.start)
        batches = [self.text.calibration().to(self.device)]
        linear = self.model(start, self.folder.state(start.name), cell="linear")
        target = collect_statistics(linear, batches, self.progress(f"{stage.name}: statistics"))
        found = adapt(
            model,
            batches,
            target,
            stage.method,  # type: ignore[arg-type]
            start="neutral" if stage.neutral else "trained",
            rule=stage.rule,  # type: ignore[arg-type]
            progress=self.progress(f"{stage.name}: adapt"),
        )
        return summary.adaptation(found)

    def assemble(self, command: Sequence[str]) -> TrainedResult:
        """Write run.json, of all finished stages, and the best in arrays; returns what run.json holds."""
        recipe = self.recipe
        records = {stage.name: self.folder.record(stage.name) for stage in recipe.stages}
        found = {name: record for name, record in records.items() if record is not None}
        self.processes = None  # the others are done
        software = self.stage("software", lambda: (Told(), self.loaded.model))
        best, chip, save = self._best(found), recipe.design, None
        if best is not None:
            model = self.model(best, self.folder.state(best.name))
            chip, save = attached_layers(model)[0].design, partial(save_beside_results, model)
        titles = {stage.name: (stage.title, stage.compare) for stage in recipe.stages}
        inputs, teachers = self.text.digests(), self.contents.get("teachers_sha256", {})
        taught = {f"teacher of {stage.name}": stage.teacher for stage in recipe.stages}
        inputs = {title: teachers[name] for title, name in taught.items() if name in teachers} | inputs
        if "adapter_sha256" in self.contents:
            name = summary.base_name(str(recipe.adapter))
            inputs = {f"adapter {name}": self.contents["adapter_sha256"], **inputs}
        run = TrainedResult(
            recipe=recipe.name,
            set={key: _as_text(value) for key, value in recipe.changes.items()},
            values=self._values(found),
            texts=self.text.taken(),
            model=NamedModel(summary.base_name(self.loaded.id), self.loaded.sha256),
            design=summary.chip_of(chip),
            software=software.perplexity,
            stages=tuple(
                summary.stage(name, titles[name][0], record, software, found.get(titles[name][1] or ""))
                for name, record in found.items()
            ),
            saved=None if best is None else best.name,
            provenance=self.provenance(command, chip, inputs, seed=recipe.seed, remark=self._selected(found)),
        )
        return self.finish(run, save, draw_stages)

    def _selected(self, found: Mapping[str, StageRecord]) -> str:
        """Which of the stages were chosen on text that they are evaluated on, too."""
        patient = (s for s in self.recipe.stages if s.task == "train" and s.training.patience)
        chosen = [stage.name for stage in patient if stage.name in found]
        if isinstance(self.recipe.model, ModelRecipe) and self.recipe.model.training.patience:
            chosen.insert(0, "the pretrained model")
        first = f"the first {self.recipe.watched_tokens:,} tokens of this text"
        return f"; the best weights of {', '.join(chosen)} were chosen on {first}" if chosen else ""

    def _values(self, found: Collection[str]) -> dict[str, str]:
        """What the recipe says of its finished stages."""
        said = _identity(self.recipe, {})
        said["stage"] = {name: said["stages"][name] for name in found}
        return _as_texts({key: said[key] for key in said if key != "stages"})

    def _best(self, found: Mapping[str, StageRecord]) -> StageRecipe | None:
        """The finished stage in arrays with the lowest perplexity, among those with the chip's own cell where
        there are any. None: there is none, or all began with random weights, which no base model has.
        """
        stages = [
            stage
            for stage in self.recipe.stages
            if stage.name in found and stage.attention == "arrays" and self.root(stage) != "random"
        ]
        own = [stage for stage in stages if stage.cell in (None, self.recipe.design.cell.name)]
        return min(own or stages, key=lambda stage: found[stage.name].perplexity, default=None)
