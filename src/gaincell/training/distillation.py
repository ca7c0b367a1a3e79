"""Distillation: the trained model learns the distribution of a teacher, not only the token that came next.

    loss = (1 - w) CE(student, next token) + w KL(teacher || student),      both in nats per token

Every token of the text then carries a whole distribution, which is what makes converting a model with few
tokens possible. A teacher of the same shape can also say what every layer should hand on,

    loss += s  mean over layers and tokens of  |h'/rms(h') - h/rms(h)|^2 / width,

h and h' the hidden states behind a layer of teacher and student, each computed from its own. A layer then
learns directly to mend what those before it did; the gradient of the end has to pass all rounded layers
behind it first. Likewise, of what every layer's attention gives, Y' and Y, each from its own inputs:

    loss += t  mean over layers of  mean (Y' - Y)^2 / mean Y^2
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from gaincell.adaptation.statistics import evaluation_mode
from gaincell.errors import InputError, RunError
from gaincell.files import write_atomic
from gaincell.integrations.hf.attach import computes_softmax
from gaincell.integrations.hf.support import attention_modules
from gaincell.nn.attention import GainCellAttention
from gaincell.schema import Factor, check_value
from gaincell.training.compiled import is_compiled
from gaincell.training.loss import LossName
from gaincell.training.shares import teachers_part

STATES = "states"
ROWS_AT_ONCE = 512
"""Tokens whose logits exist at the same time where the output layer is a plain matrix."""
ROWS_IN_CACHE = 4
"""Those of them whose distributions do, on a processor: measured, the fastest for 49,152 tokens."""


class Distillation:
    """A loss for `gaincell.training.loop.train`.

    Where the output layer of both models is a plain matrix that is not trained, the distributions of a few
    tokens are made at a time and nothing of the size [tokens, vocabulary] is kept for the backward pass.

    Args:
        teacher: A causal language model with the student's vocabulary; it is not trained.
        weight: w in [0, 1].
        states: s, 0 or more.
        outputs: t, 0 or more.
        kept: A directory for what the teacher gives (`TeacherOutputs`); not used where s or t need its whole
            pass, nor, with a warning, without plain matrices.

    Raises:
        InputError: the weight lies outside [0, 1], or that of states or outputs below 0; called: the
            vocabularies differ, or the shapes where states or outputs are learnt.
    """

    def __init__(
        self,
        teacher: nn.Module,
        weight: float,
        states: float = 0.0,
        outputs: float = 0.0,
        kept: Path | None = None,
    ) -> None:
        if not 0.0 <= weight <= 1.0:
            raise InputError(
                f"the weight of a distillation is {weight}; give 0 (text only) to 1 (teacher only)"
            )
        check_value(states, Factor, "states")
        check_value(outputs, Factor, "outputs")
        self._teacher = teacher.eval().requires_grad_(False)
        self._weight, self._states, self._outputs = weight, states, outputs
        self._distance, self._rows = _distance, _of_rows
        if is_compiled(teacher):
            self._distance, self._rows = torch.compile(_distance), torch.compile(_of_rows)
        self._kept = None if kept is None or states or outputs else TeacherOutputs(kept, teacher)
        self._plain: dict[int, bool] = {}
        self._cast: dict[tuple[int, int, torch.dtype], Tensor] = {}
        self.loss_name = _name(weight, states, outputs)

    def __call__(self, model: nn.Module, tokens: Int[Tensor, "B T_plus_1"]) -> Float[Tensor, ""]:
        if not self._states and not self._outputs:
            return self._of_the_end(model, tokens)
        with _handed_on(self._teacher) as expected, _handed_on(model) as found:
            loss = self._of_the_end(model, tokens)
        shapes = [{name: state.shape for name, state in states.items()} for states in (found, expected)]
        if shapes[0] != shapes[1]:
            raise InputError(
                "states and outputs of layers are learnt from a teacher of the model's own shape; leave them "
                "out"
            )
        attention = attention_modules(model).keys()  # type: ignore[arg-type]
        terms = (
            (self._states, self._distance, found.keys() - attention),
            (self._outputs, relative_error, attention),
        )
        for weight, error, names in terms:
            if weight:
                errors = [error(found[name], expected[name]) for name in sorted(names)]
                loss = loss + weight * torch.stack(errors).mean()
        return loss

    def _of_the_end(self, model: nn.Module, tokens: Tensor) -> Float[Tensor, ""]:
        """The loss of the distributions alone."""
        ids, targets = tokens[:, :-1], tokens[:, 1:].flatten()
        if self._has_plain_head(model, ids) and self._has_plain_head(self._teacher, ids):
            own, other = (self._as_multiplied(_head(one).weight) for one in (model, self._teacher))
            compute = partial(_hidden, self._teacher, ids)
            with torch.no_grad(), teachers_part():
                expected = compute() if self._kept is None else self._kept.hidden(ids, other.dtype, compute)
            loss: Tensor = _HeadLoss.apply(  # type: ignore[no-untyped-call]
                _hidden(model, ids), own, expected, other, targets, self._weight, self._rows
            )
            return loss
        if self._kept is not None:
            self._kept, why = None, "an output layer is trained, or is more than one matrix"
            warnings.warn(f"the teacher's outputs are not kept: {why}", UserWarning, stacklevel=2)
        with torch.no_grad(), teachers_part():
            expected = self._teacher(input_ids=ids, use_cache=False).logits.float().flatten(0, 1)
        found = model(input_ids=ids, use_cache=False).logits.float().flatten(0, 1)
        _same_vocabulary(found.shape[-1], expected.shape[-1])
        found, expected = functional.log_softmax(found, dim=-1), functional.log_softmax(expected, dim=-1)
        divergence = functional.kl_div(found, expected, log_target=True, reduction="batchmean")
        if self._weight == 1.0:
            return divergence
        entropy = functional.nll_loss(found, targets)
        return (1.0 - self._weight) * entropy + self._weight * divergence

    def _as_multiplied(self, matrix: Tensor) -> Tensor:
        """A matrix that is not trained in the type that autocast would cast it to, anew in every product."""
        kind = matrix.device.type
        if not torch.is_autocast_enabled(kind):
            return matrix
        known = matrix.data_ptr(), matrix._version, torch.get_autocast_dtype(kind)
        if known not in self._cast:
            self._cast[known] = matrix.detach().to(known[-1])
        return self._cast[known]

    def _has_plain_head(self, model: nn.Module, ids: Tensor) -> bool:
        """Whether the logits are hidden states times a fixed matrix, as tried once on a few tokens."""
        if id(model) not in self._plain:
            self._plain[id(model)] = _is_plain(model, ids[:1, :4])
        return self._plain[id(model)]


def _name(weight: float, states: float, outputs: float) -> LossName:
    terms = (
        (1.0 - weight, "cross-entropy"),
        (weight, "KL to the teacher"),
        (states, "hidden states"),
        (outputs, "attention outputs"),
    )
    named = " + ".join(f"{share:g} {term}" if share != 1.0 else term for share, term in terms if share)
    errors = " + relative squared error" if states or outputs else ""
    return LossName(named, f"nats per token{errors}")


@torch.no_grad()
def _is_plain(model: nn.Module, ids: Tensor) -> bool:
    head = _head(model)
    if not isinstance(head, nn.Linear) or head.bias is not None or head.weight.requires_grad:
        return False
    with evaluation_mode(model), torch.compiler.set_stance("force_eager"):  # for a few tokens once
        logits = model(input_ids=ids, use_cache=False).logits.float()
        again = functional.linear(_hidden(model, ids), head.weight).float()
    return bool(logits.shape == again.shape and torch.allclose(logits, again, rtol=0.02, atol=0.05))


def _head(model: nn.Module) -> Any:
    return getattr(model, "get_output_embeddings", lambda: None)()


def _hidden(model: nn.Module, ids: Tensor) -> Float[Tensor, "B T width"]:
    hidden: Tensor = model.base_model(input_ids=ids, use_cache=False).last_hidden_state  # type: ignore[operator]
    return hidden


@contextmanager
def seen(modules: Mapping[str, nn.Module], see: Callable[[str, Any, Any, Tensor], None]) -> Iterator[None]:
    """Within the context `see` is called with name, arguments and (first) output of every module."""

    def pass_on(name: str, module: nn.Module, arguments: Any, keywords: Any, output: Any) -> None:
        see(name, arguments, keywords, output[0] if isinstance(output, tuple) else output)

    with ExitStack() as hooks:
        for name, module in modules.items():
            hooks.enter_context(module.register_forward_hook(partial(pass_on, name), with_kwargs=True))
        yield


@contextmanager
def _handed_on(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """What every attention module and the layer around it hand on while the context lasts, by their names."""
    states: dict[str, Tensor] = {}
    attention = attention_modules(model)  # type: ignore[arg-type]
    names = [name for inner in attention for name in (inner, inner.rpartition(".")[0])]
    modules = {name: model.get_submodule(name) for name in names}
    with seen(modules, lambda name, arguments, keywords, output: states.update({name: output})):
        yield states


def _distance(found: Tensor, expected: Tensor) -> Float[Tensor, ""]:
    """Mean squared distance of hidden states of the length sqrt(width)."""
    found, expected = (functional.rms_norm(h.float(), h.shape[-1:]) for h in (found, expected))
    return (found - expected).square().mean()


def relative_error(found: Tensor, wanted: Tensor) -> Float[Tensor, ""]:
    """mean (Y' - Y)^2 / mean Y^2."""
    wanted = wanted.float()
    return (found.float() - wanted).square().mean() / wanted.square().mean().clamp(min=1e-12)


def _same_vocabulary(own: int, teacher: int) -> None:
    if own != teacher:
        raise InputError(
            f"the teacher knows {teacher} tokens, the model {own}: a teacher must have the model's tokenizer"
        )


def _of_rows(
    logits: Float[Tensor, "n V"], expected: Float[Tensor, "n V"], targets: Int[Tensor, "n 1"], weight: float
) -> tuple[Float[Tensor, ""], Float[Tensor, "n V"]]:
    """The sum of the loss of some rows, and p - w P."""
    own = functional.log_softmax(logits.float(), dim=-1)
    entropy, difference = own.gather(1, targets).sum(), own.exp()
    if weight == 0.0:
        return -entropy, difference
    teacher = functional.log_softmax(expected.float(), dim=-1)
    share = teacher.exp()
    divergence = ((teacher - own) * share).sum()
    return weight * divergence - (1.0 - weight) * entropy, difference - weight * share


class _HeadLoss(torch.autograd.Function):
    """The loss of the head of this file, from the hidden states of both models.

    With p and P the distributions of student and teacher and y the token that came, the gradient of the loss
    with respect to the student's logits is p - w P - (1 - w) [y], divided by the number of tokens.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Float[Tensor, "B T width"],
        matrix: Float[Tensor, "V width"],
        teacher_hidden: Float[Tensor, "B T teacher_width"],
        teacher_matrix: Float[Tensor, "V teacher_width"],
        targets: Int[Tensor, " tokens"],
        weight: float,
        of_rows: Callable[..., tuple[Tensor, Tensor]],
    ) -> Float[Tensor, ""]:
        _same_vocabulary(len(matrix), len(teacher_matrix))
        rows, expected = hidden.flatten(0, 1), teacher_hidden.flatten(0, 1)
        gradient = torch.empty_like(rows)
        total = torch.zeros((), dtype=torch.float64, device=rows.device)
        in_cache = ROWS_IN_CACHE if rows.device.type == "cpu" else ROWS_AT_ONCE
        parts = (tensor.split(ROWS_AT_ONCE) for tensor in (rows, expected, targets[:, None], gradient))
        for own_rows, other_rows, places, found in zip(*parts, strict=True):
            logits = own_rows.to(matrix.dtype) @ matrix.T
            others = other_rows.to(teacher_matrix.dtype) @ teacher_matrix.T if weight else logits
            few = (tensor.split(in_cache) for tensor in (logits, others, places))
            for made, other, place in zip(*few, strict=True):
                part, difference = of_rows(made, other, place, weight)
                total += part
                made.copy_(difference.scatter_add_(1, place, difference.new_full(place.shape, weight - 1.0)))
            found.copy_(logits @ matrix)
        ctx.save_for_backward(gradient)
        ctx.rows = len(rows)
        ctx.shape = hidden.shape
        return (total / len(rows)).float()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        scaled = gradient * (upstream[0] / ctx.rows).to(gradient.dtype)
        return scaled.view(ctx.shape), None, None, None, None, None, None


class TeacherOutputs:
    """The last hidden states of a teacher, whose weights must not change any more, in files of a directory:
    for seeds, ablations and other recipes, which read the same blocks in another order or by another student.

    From them its distribution is one product of matrices. A file a forward pass, T x width numbers a block in
    the type in which that product is computed, named by a digest of the teacher's weights, configuration,
    attention and chip, the token ids, that type and the version of torch: another of them is another file.
    """

    def __init__(self, folder: Path, teacher: nn.Module) -> None:
        self._folder = folder
        config: Any = getattr(teacher, "config", None)
        stated = {} if config is None else {**config.to_dict(), "_name_or_path": None}  # wherever it was read
        chips = [m.design.hash for m in teacher.modules() if isinstance(m, GainCellAttention)]
        made_as = [stated, chips, *["softmax"] * computes_softmax(teacher), *[True] * is_compiled(teacher)]
        text = json.dumps(made_as, sort_keys=True, default=str)
        digest = hashlib.sha256(f"{torch.__version__} {text}".encode())
        for name, tensor in teacher.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().flatten().cpu().view(torch.uint8).numpy().data)
        self._teacher = digest.hexdigest()
        self._full = False

    def hidden(
        self, ids: Int[Tensor, "B T"], dtype: torch.dtype, compute: Callable[[], Float[Tensor, "B T width"]]
    ) -> Float[Tensor, "B T width"]:
        """The teacher's last hidden states, read where they are kept, else computed and kept.

        A file that cannot be read is computed anew. Where nothing can be written, a warning says so once.
        """
        named = f"{self._teacher} {dtype} {tuple(ids.shape)}".encode() + ids.cpu().numpy().tobytes()
        path = self._folder / f"{hashlib.sha256(named).hexdigest()[:32]}.safetensors"
        try:
            return load_file(path, device=str(ids.device))[STATES]
        except (OSError, SafetensorError):
            states = compute().to(dtype)
        if not self._full:
            try:
                write_atomic(path, partial(save_file, {STATES: states.cpu().contiguous()}))
            except (RunError, SafetensorError) as error:
                self._full = True
                warnings.warn(f"the teacher's outputs are no longer kept: {error}", UserWarning, stacklevel=2)
        return states
