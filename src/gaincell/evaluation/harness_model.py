"""The harness's own model class around a model of ours, in memory or loaded, and registered with the harness.

Its scoring is the harness's. Added are progress, refusals that say what to do, the time of the forward
passes, answers that are kept, and documents one by one, so that each is kept when it is done.
"""

from __future__ import annotations

import io
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from typing import Any

import torch
from tqdm import tqdm

from gaincell.backend_names import BackendName
from gaincell.errors import InputError, ModelError
from gaincell.evaluation.answers import Answers
from gaincell.hub import local_if_unreachable
from gaincell.integrations.hf.context import check_ids, check_length, default_length
from gaincell.progress import StageProgress, silent_stages
from gaincell.quantity import one_of
from gaincell.renamed import renamed

try:
    from lm_eval import evaluator
    from lm_eval.api.registry import register_model
    from lm_eval.models.huggingface import HFLM
except ImportError as error:
    raise InputError("the tasks need lm-evaluation-harness: pip install 'gaincell[eval]'") from error


OF_HARNESS = {
    "add_bos_token", "backend", "batch_size", "chat_template_args", "device", "enable_thinking",
    "logits_cache", "max_batch_size", "mixed_precision_dtype", "prefix_token_id", "softmax_dtype",
    "think_end_token", "truncation", "trust_remote_code",
}  # fmt: skip
"""Arguments of HFLM that act on a model in memory, and those that its command always gives."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "auto": None}
"""Types of the weights; `auto` is bfloat16 where a model is stored so, else float32, as of a RUN."""


@register_model("gaincell")
class GainCellLM(HFLM):  # type: ignore[misc]
    """The harness's HFLM, of a model that is in memory or that `gaincell` can load.

    The harness finds it by the entry point `gaincell` of the group `lm_eval.models`. Releases up to 0.4.13
    read no entry points; `gaincell lm-eval` is their command with it. Arguments: `path` (a MODEL or RUN of
    `gaincell evaluate`; `pretrained` means the same), `design`, `cell`, `attention_backend` (its --backend:
    `backend` is another thing in HFLM), `dtype` (one of `DTYPES`; by default float32, as `gaincell evaluate`
    has it) and those of HFLM that act on a model in memory. HFLM itself drops all others in silence; here
    they are refused.
    The softmax of 16-bit logits is taken in float32 unless `softmax_dtype` says otherwise; HFLM's own default
    takes it in 16 bits, of which a log-likelihood keeps two digits.
    """

    @renamed("impl", "attention_backend")
    def __init__(
        self,
        path: str | None = None,
        *,
        run: str | None = None,
        pretrained: Any = None,
        design: str | None = None,
        cell: str | None = None,
        attention_backend: BackendName = "auto",
        dtype: str | None = None,
        tokenizer: Any = None,
        max_length: int | None = None,
        progress: StageProgress = silent_stages,
        answers: Answers | None = None,
        generates: bool = True,
        **kwargs: Any,
    ) -> None:
        if sum(given is not None for given in (path, run, pretrained)) != 1:
            raise InputError("model gaincell needs one path=MODEL|RUN, such as path=adapters/smollm2-135m")
        if unknown := sorted(kwargs.keys() - OF_HARNESS):
            own = {"path", "design", "cell", "attention_backend", "dtype", "max_length"}
            allowed = one_of(sorted(own | OF_HARNESS))
            raise InputError(f"model gaincell has no argument {unknown[0]!r}; allowed: {allowed}")
        if max_length is not None and not (isinstance(max_length, int) and max_length > 0):
            raise InputError(f"max_length={max_length}: give a number of tokens of 1 or more")
        if pretrained is None or isinstance(pretrained, str):
            name = str(path or run or pretrained)
            if tokenizer is not None:
                raise InputError(f"tokenizer={tokenizer}: {name} brings its own; leave it out")
            pretrained, tokenizer = _load(name, design, cell, attention_backend, dtype or "float32")
        elif attention_backend != "auto" or any(given is not None for given in (design, cell, dtype)):
            raise InputError(
                "design, cell, attention_backend and dtype are for path=; set them on the model itself"
            )
        device = kwargs.pop("device", None)
        if device is not None and (torch.cuda.is_available() or not str(device).startswith("cuda")):
            pretrained.to(device)  # the harness's command asks for cuda where there is none, too
        length = max_length or default_length(pretrained)
        check_length(pretrained, length)
        dtype = next(pretrained.parameters()).dtype
        if dtype in (torch.bfloat16, torch.float16):
            kwargs.setdefault("softmax_dtype", torch.float32)
        with quiet():
            super().__init__(pretrained=pretrained, tokenizer=tokenizer, max_length=length, **kwargs)
        self.softmax_name = str(self.softmax_dtype or dtype).removeprefix("torch.")
        self._open = progress
        said = getattr(self.tokenizer, "deprecation_warnings", None)
        if isinstance(said, dict):  # whole documents are cut into windows: their length is no mistake
            said["sequence-length-is-longer-than-the-specified-maximum"] = True
        self._answers = answers
        if answers is not None:
            self.set_cache_hook(answers)
        self._generates = generates
        self._wanted: dict[tuple[int, ...], int] = {}  # tokens that are scored, by what is read
        self.asked = 0
        self.seconds = 0.0

    def tok_encode(self, *args: Any, **kwargs: Any) -> list[int]:
        """The harness's, of tokens that the model has.

        Raises:
            InputError: the model lacks one.
        """
        ids: list[int] = super().tok_encode(*args, **kwargs)
        check_ids(self.model, torch.tensor(ids))
        return ids

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """The harness's, of requests that were not answered before."""
        return self._kept(
            "loglikelihood", requests, partial(super().loglikelihood, disable_tqdm=disable_tqdm)
        )

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """The harness's, of documents that were not answered before, one after the other."""
        of_document = super().loglikelihood_rolling

        def ask(new: list[Any]) -> list[float]:
            show = self._open("documents")
            found: list[float] = []
            for request in new:
                self.tok_encode(request.args[0])  # refuses a token that the model lacks, before any work
            for request in new:
                found += of_document([request], disable_tqdm=True)
                show(len(found), len(new), {})
            return found

        return self._kept("loglikelihood_rolling", requests, ask)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """The harness's.

        Raises:
            InputError: nothing is to be generated.
        """
        if not self._generates:
            names = ", ".join(sorted({str(request.task_name) for request in requests}))
            kept = "" if self._answers is None else " (answers to other tasks are kept)"
            raise InputError(
                f"{names}: tasks that generate text are not evaluated by this command; leave them out{kept}, "
                "or use gaincell lm-eval run --model gaincell"
            )
        found: list[str] = super().generate_until(requests, disable_tqdm)
        return found

    def _kept(self, kind: str, requests: list[Any], ask: Callable[[list[Any]], list[Any]]) -> list[Any]:
        def counted(new: list[Any]) -> list[Any]:
            self.asked += len(new)
            return ask(new)

        return counted(requests) if self._answers is None else self._answers.complete(kind, requests, counted)

    def _loglikelihood_tokens(
        self, requests: list[Any], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """The harness's, with a refusal in place of its assertion."""
        for _, _, wanted in requests:
            if len(wanted) > self.max_length:
                raise InputError(
                    f"a continuation has {len(wanted)} tokens, more than the longest context of "
                    f"{self.max_length}; allow longer ones (--max-length)"
                )
        self._wanted = {}
        for _, context, wanted in requests:
            read = tuple((context + wanted)[-self.max_length - 1 : -1])
            self._wanted[read] = max(len(wanted), self._wanted.get(read, 0))
        self._left = 0 if override_bs else len(requests)
        self._shown = None if override_bs else (self._open("continuations"), len(requests))
        found: list[tuple[float, bool]] = super()._loglikelihood_tokens(
            requests, disable_tqdm=True, override_bs=override_bs
        )
        if self._shown is not None:  # requests with one context share a row
            show, total = self._shown
            show(total, total, {})
        return found

    def _last(self, inps: torch.Tensor) -> int:
        """How many last positions hold what is scored of all rows, padded with 0 on the right; 0: all.

        Nobody asks for the probabilities of the others, which take a tenth of the time or more.
        """
        most, width = 0, inps.shape[1]
        for row in inps.tolist():
            found = 0
            for n in range(width, 0, -1):
                if wanted := self._wanted.get(tuple(row[:n])):
                    found = max(found, width - n + wanted)
                if row[n - 1]:  # a token that is no padding
                    break
            if not found:
                return 0
            most = max(most, found)
        return most

    def _model_call(self, inps: Any, *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        logits = super()._model_call(inps, *args, **kwargs)
        logits = logits[:, -self._last(inps) :]  # the harness counts from the last position on
        ends = torch.stack([logits.amin(), logits.amax()])  # both NaN if any logit is
        finite = bool(ends.isfinite().all())  # a GPU is waited for here
        self.seconds += time.perf_counter() - start
        if not finite:
            raise ModelError("the model's logits are not finite; look for NaN or infinite weights")
        if self._shown is not None:
            show, total = self._shown
            self._left = max(0, self._left - len(inps))
            show(total - self._left, total, {})
        return logits


def _load(
    run: str, design: str | None, cell: str | None, backend: BackendName, dtype: str
) -> tuple[Any, Any]:
    """Model and tokenizer of a MODEL or RUN, on another chip if one is given; of other cells it says so."""
    from gaincell.integrations.hf.attach import layers_in_use
    from gaincell.integrations.hf.chip import AS_SAVED, change_chip
    from gaincell.integrations.hf.models import load_model

    if dtype not in DTYPES:
        raise InputError(f"dtype={dtype}; allowed: {one_of(DTYPES)}")
    loaded = load_model(run, DTYPES[dtype], backend=backend)
    exchanged = change_chip(loaded.model, design, cell)
    if not layers_in_use(loaded.model):
        print(f"{run}: in software, without arrays", file=sys.stderr)
    elif exchanged:
        print(f"{run}: {AS_SAVED}{exchanged}", file=sys.stderr)
    return loaded.model, loaded.tokenizer


def run_command(arguments: Sequence[str]) -> None:
    """The harness's own command, which knows the model type `gaincell` by now. Raises as `data_of_hub`."""
    from lm_eval.__main__ import cli_evaluate

    before = sys.argv
    sys.argv = ["lm-eval", *arguments]
    try:
        with data_of_hub():
            cli_evaluate()
    finally:
        sys.argv = before


@contextmanager
def data_of_hub() -> Iterator[None]:
    """Within the context the harness downloads data, or refuses at once if it cannot.

    Raises:
        InputError: data is not in the local cache and the hub does not give it.
    """
    with local_if_unreachable():
        try:
            yield
        except (ConnectionError, FileNotFoundError) as error:
            if str(error).startswith("Config file not found"):  # of --config of the harness
                raise InputError(f"{error}; give a file that exists") from error
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"a task's data is not in the local cache, and the hub does not give it ({reason}): give "
                "local files, gaincell evaluate MODEL --tasks TASK --data DIR"
            ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without the harness's notes on how it was called, without git asking about the working directory, and
    without its bars: ours are shown instead.
    """
    logger = logging.getLogger("lm_eval")
    level, begin, commit = logger.level, tqdm.__init__, evaluator.get_git_commit_hash

    def begin_hidden(self: Any, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs | {"disable": True})

    logger.setLevel(logging.ERROR)
    tqdm.__init__ = begin_hidden
    evaluator.get_git_commit_hash = lambda: None
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        tqdm.__init__ = begin
        evaluator.get_git_commit_hash = commit
        logger.setLevel(level)
