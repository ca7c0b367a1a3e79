"""What `map`, `adapt`, `codesign` and `train` share: stages over one model and one text, done once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from accelerate import PartialState
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from gaincell.chips.design import Design
from gaincell.chips.design_file import load_design
from gaincell.errors import RunError
from gaincell.evaluation.noise import noise_remark
from gaincell.evaluation.perplexity import describe, perplexity, window_and_stride
from gaincell.integrations.hf.attach import attached_layers, computing_layers, set_design
from gaincell.integrations.hf.base_model import LoadedModel
from gaincell.integrations.hf.checkpoint import read_state
from gaincell.integrations.hf.context import check_length, read_tokens
from gaincell.integrations.hf.lora import lora_parameters
from gaincell.integrations.hf.run import Run
from gaincell.mapping.run_folder import RunFolder, StageRecord, Told, run_log
from gaincell.mapping.summary import inputs as model_inputs
from gaincell.progress import StageProgress
from gaincell.results import read, write
from gaincell.results.common import Provenance
from gaincell.results.provenance import made
from gaincell.results.run import FILE, BlockLosses, StagedResult
from gaincell.text import Text
from gaincell.training.log import Tracker
from gaincell.training.loop import Blocks, TrainResult, TrainSettings, train
from gaincell.training.settings import Precision

R = TypeVar("R", bound=StagedResult)


def read_evaluation(
    loaded: LoadedModel, text: Text, tokens: int, protocol: str, progress: StageProgress
) -> Int[Tensor, " n"]:
    """The evaluation part of a text: `tokens` at the most, all of it for 0.

    Raises:
        InputError: the model's context is shorter than a block of the protocol, or the text is.
    """
    block, _ = window_and_stride(protocol)
    check_length(loaded.model, block)
    reading = progress("read the evaluation text")
    return read_tokens(loaded, text, "evaluation", tokens or None, reading, block=block)


def freeze_embeddings(model: PreTrainedModel, *, weights: bool = True) -> None:
    """Train all but the embeddings (with adapters, these), or without `weights` gains and offsets alone."""
    adapters = lora_parameters(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".gain_cell." in name or (weights and (name in adapters or not adapters)))
    for embedding in (model.get_input_embeddings(), model.get_output_embeddings()):
        if embedding is not None:
            embedding.requires_grad_(False)


@dataclass(kw_only=True)
class Engine:
    """Stages over one model and one text.

    Attributes:
        loaded: The model that all of them come from.
        evaluation: Token ids that every stage is evaluated on.
        protocol: How they are evaluated, such as `blocks-1024`.
        progress: Opens the progress of every step.
        folder: Where finished stages and their logs are kept; None: nowhere.
        tracker: Where the logs go too.
        processes: Those that do stages together; None: there is one.
        main: Whether this one writes.
        records: Those of the stages so far, by name.
    """

    loaded: LoadedModel
    evaluation: Int[Tensor, " n"]
    protocol: str
    progress: StageProgress
    folder: RunFolder | None = None
    tracker: Tracker | None = None
    processes: PartialState | None = None
    records: dict[str, StageRecord] = field(default_factory=dict, init=False)
    _earlier: float = field(default=0.0, init=False)
    """Seconds that the trainings of a stage took before they were interrupted."""
    _precision: Precision | None = field(default=None, init=False)
    """Of the last training of a stage."""

    @property
    def main(self) -> bool:
        return self.processes is None or self.processes.is_main_process

    def stage(
        self, name: str, do: Callable[[], tuple[Told, PreTrainedModel]], *, keep: bool = False
    ) -> StageRecord:
        """The record of a stage and its evaluation: read if it is finished, else made and stored.

        Args:
            name: Of the stage.
            do: Does it; returns what there is to tell, and the model that came of it.
            keep: Whether the parameters of the model are stored too.
        """
        record = None if self.folder is None else self.folder.record(name)
        if self.processes is not None:
            self.processes.wait_for_everyone()  # before one of them finishes it
        if record is None:
            begun, self._earlier, self._precision = time.perf_counter(), 0.0, None
            told, model = do()
            if self.main:
                shown, tokenizer = self.progress(f"{name}: evaluate"), self.loaded.tokenizer
                found = perplexity(model, self.evaluation, self.protocol, tokenizer=tokenizer, progress=shown)
                losses, counts = zip(*found.per_block, strict=True)
                record = StageRecord(
                    **vars(told),
                    numbers="simulated" if computing_layers(model) else "measured",
                    perplexity=found.perplexity,
                    nll=found.nll,
                    predictions=found.tokens,
                    seconds=self._earlier + time.perf_counter() - begun,
                    blocks=BlockLosses(tuple(round(nll, 6) for nll in losses), counts),
                    precision=self._precision,
                    perplexity_error=found.perplexity_error,
                    bits_per_byte=found.bits_per_byte,
                )
                if self.folder is not None:
                    self.folder.finish(name, record, model if keep else None)
            if self.processes is not None:
                self.processes.wait_for_everyone()
            if record is None and self.folder is not None:  # another process stored it
                record = self.folder.record(name)
            assert record is not None
        self.records[name] = record
        return record

    def change(self, name: str, do: Callable[[], Told]) -> StageRecord:
        """`stage` of what changes the model in place. The chip and all that requires a gradient are kept; the
        model is put back as the stage left it where that is finished already.
        """
        model, folder = self.loaded.model, self.folder
        finished = folder is not None and folder.record(name) is not None

        def done() -> tuple[Told, PreTrainedModel]:
            told = do()
            if folder is not None:
                attached_layers(model)[0].design.save(folder.chip(name))
            return told, model

        record = self.stage(name, done, keep=True)
        if folder is not None and finished:
            set_design(model, load_design(folder.chip(name)))
            read_state(model, folder.state(name))
        return record

    def train(
        self,
        model: PreTrainedModel,
        blocks: Blocks,
        settings: TrainSettings,
        stage: str,
        part: str | None = None,
        *,
        by: Callable[..., TrainResult] = train,
    ) -> TrainResult:
        """Train a model as a stage, or as the part "1 of 2", say, of one, with `train` or its like."""
        labels = {"stage": stage} if part is None else {"stage": stage, "part": part}
        folder, shown = self.folder, self.progress(f"{stage}: train" + (f" {part}" if part else ""))
        checkpoint = None if folder is None else folder.checkpoint(stage, part or "training")
        log = None if folder is None else run_log(folder.path, labels, self.tracker)
        done = by(model, blocks, settings, progress=shown, checkpoint=checkpoint, log=log)
        self._earlier, self._precision = self._earlier + done.seconds_before, done.precision
        return done

    def finished(self, kind: type[R]) -> R | None:
        """The result of a run that is finished; None of one that is not.

        Raises:
            RunError: its result or its model is lost or damaged.
        """
        if self.folder is None or not (self.folder.path / FILE).exists():
            return None
        path = self.folder.path
        again = f"another --out, or remove {path.name} and give the command once more"
        found = read(path, kind, again)
        try:
            _ = Run(path).design
        except RunError as error:
            raise RunError(f"{path.name} has a {FILE}, but lost its model ({error}); give {again}") from error
        self.folder.forget()  # a killed process may not have come to it
        return found

    def finish(
        self, result: R, save: Callable[[Path], object] | None, draw: Callable[[R, Path], object]
    ) -> R:
        """Write the result, with its figures and, with `save`, its model; nowhere without a folder."""
        if self.folder is not None:
            out = self.folder.path
            if save is not None:
                save(out)
            draw(result, out / "figures")
            write(result, out / FILE)
            self.folder.forget()
        return result

    def provenance(
        self,
        command: Sequence[str],
        design: Design,
        inputs: Mapping[str, str],
        *,
        seed: int = 0,
        remark: str = "",
    ) -> Provenance:
        """How the result of the stages came about, on a chip.

        Args:
            command: The command line.
            design: The chip.
            inputs: Hashes of texts and the like, by name.
            seed: That the command was given.
            remark: Follows the protocol.
        """
        blocks = len(next(iter(self.records.values())).blocks.nll)
        return made(
            command=command,
            seed=seed,
            protocol=describe(self.protocol, blocks) + remark + noise_remark(design),
            design_hash=design.hash,
            inputs=model_inputs(self.loaded) | dict(inputs),
        )
