"""What `map`, `adapt`, `codesign` and `train` have in common: a model and the text that all of its stages are
evaluated on, stages that are done once, and what run.json says of both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from accelerate import PartialState
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from gaincell.chips.design import Design
from gaincell.evaluation.noise import noise_remark
from gaincell.evaluation.perplexity import describe, perplexity, window_and_stride
from gaincell.integrations.hf.base_model import LoadedModel
from gaincell.integrations.hf.context import check_length, read_tokens
from gaincell.mapping.folder import RunFolder
from gaincell.mapping.records import StageRecord, Told, evaluated
from gaincell.mapping.summary import base_name
from gaincell.progress import StageProgress
from gaincell.results.common import Provenance
from gaincell.results.provenance import made
from gaincell.text import Text


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


@dataclass(kw_only=True)
class Engine:
    """Stages over one model and one text.

    loaded: the model that all of them come from.
    evaluation: token ids that every stage is evaluated on.  protocol: how.
    progress: opens the progress of every step.
    folder: where finished stages are kept; None: nowhere.  processes: that do stages together; None: one.
    """

    loaded: LoadedModel
    evaluation: Int[Tensor, " n"]
    protocol: str
    progress: StageProgress
    folder: RunFolder | None = None
    processes: PartialState | None = None

    def stage(
        self, name: str, do: Callable[[], tuple[Told, PreTrainedModel]], *, keep: bool = False
    ) -> StageRecord:
        """The record of a stage and its evaluation: read if it is finished, else made and stored.

        do: does it; returns what there is to tell, and the model that came of it.
        keep: whether the parameters of the model are stored too.
        """
        record = None if self.folder is None else self.folder.record(name)
        if record is not None:
            return record
        begun = time.perf_counter()
        told, model = do()
        if self.processes is None or self.processes.is_main_process:
            shown, tokenizer = self.progress(f"{name}: evaluate"), self.loaded.tokenizer
            found = perplexity(model, self.evaluation, self.protocol, tokenizer=tokenizer, progress=shown)
            record = evaluated(name, told, found, time.perf_counter() - begun)
            if self.folder is not None:
                self.folder.finish(name, record, model if keep else None)
        if self.processes is not None:
            self.processes.wait_for_everyone()
        if record is None:  # another process stored it
            record = self.folder.record(name) if self.folder is not None else None
            assert record is not None
        return record

    def provenance(
        self,
        command: Sequence[str],
        design: Design,
        record: StageRecord,
        inputs: Mapping[str, str],
        *,
        seed: int = 0,
        remark: str = "",
    ) -> Provenance:
        """How a result came about.

        design: of the chip.  record: of any stage.  inputs: hashes of texts and the like, by name.
        remark: follows the protocol.
        """
        return made(
            command=command,
            seed=seed,
            protocol=describe(self.protocol, len(record.blocks.nll)) + remark + noise_remark(design),
            design_hash=design.hash,
            inputs={f"model {base_name(self.loaded.id)}": self.loaded.sha256} | dict(inputs),
        )
