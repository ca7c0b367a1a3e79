"""Attention transfer: every layer's arrays learn what softmax attention does there.

Teacher and student are the same pretrained model, the teacher with softmax, the student with arrays. The
student's attention of each layer is given the teacher's own hidden states, and its output Y' is compared
with the teacher's Y:

    loss = mean over layers of  mean (Y' - Y)^2 / mean Y^2  +  w KL(softmax weights || phi / sum phi)

w is 0 unless it is given. Layers do not see each other's errors, so all learn
at once, from the first step (the idea is LoLCATs'). For the same reason the gradients of a layer are computed
as soon as its loss is: of activations and graph, those of one layer are held at a time, however many there
are. With blocks of n layers the student's layers are given its own hidden states instead, and can mend what
went wrong before them; gradients stop between blocks.

The output of a head says little about a single token that it should have found. The pulses between the arrays
say it themselves, which is the second term:

    KL( softmax(q k^T / sqrt(D))_i || A_i / sum_j A_ij ),   A_ij = phi(S_ij),      nats, mean over i and heads

For its gradient phi is smooth at zero, s ln(1 + e^(S / (s S_sat))) with s = `SMOOTH`, else a token that ReLU
cuts off could not come back. Of every text `QUERIES` queries in a row are looked at, which see a column at
one age, that at the middle one of them.

Not modelled in it: errors and noise of a chip; columns of first tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from gaincell.adaptation.statistics import backbone
from gaincell.circuits import query_driver, write_dac
from gaincell.integrations.hf.attach import attached_layers
from gaincell.integrations.hf.support import attention_modules
from gaincell.nn.attention import GainCellAttention
from gaincell.ops.autocast import without_autocast
from gaincell.schema import Factor, check_value
from gaincell.training.distillation import relative_error, seen
from gaincell.training.loss import LossName
from gaincell.training.shares import students_part, teachers_part

QUERIES = 64
SMOOTH = 0.05
"""Width of the bend of phi, in full scales."""


class AttentionTransfer:
    """The loss of attention transfer, for `gaincell.training.loop.train(..., loss_of=...)`.

    Args:
        teacher: An attached model with `attention="softmax"` and the pretrained weights.
        weights: w, 0 or more.
        own_inputs: n, layers of a block; 0: all are given the teacher's hidden states.

    Raises:
        InputError: w is below 0 or not finite.
    """

    def __init__(self, teacher: PreTrainedModel, weights: float = 0.0, own_inputs: int = 0) -> None:
        check_value(weights, Factor, "the weight of attention weights")
        teacher.train(False)
        self._teacher, self._weights, self._own_inputs = teacher.requires_grad_(False), weights, own_inputs
        more, nats = (f" + {weights:g} attention weights", " + nats") if weights else ("", "")
        more += f", own inputs in blocks of {own_inputs}" if own_inputs else ""
        self.loss_name = LossName(f"attention transfer{more}", f"relative squared error{nats}")

    def __call__(self, model: nn.Module, tokens: Int[Tensor, "B T_plus_1"]) -> Float[Tensor, ""]:
        """Loss of the attached student `model` on some token ids (the last column is not used)."""
        ids = tokens[:, :-1]
        with ExitStack() as hooks:
            if self._weights:
                wanted = hooks.enter_context(watched_queries(self._teacher))
                found = hooks.enter_context(watched_queries(model))

            def loss_of(student: Any, output: Tensor, teachers: Tensor) -> Tensor:
                loss = relative_error(output, teachers)
                if not self._weights:
                    return loss
                cell = student.gain_cell
                own, other = found.pop(cell.layer), wanted.pop(cell.layer)
                return loss + self._weights * weights_divergence(cell, own, other, ids)

            if self._own_inputs:
                losses = self._from_own_inputs(model, ids, loss_of)
            else:
                losses = self._from_teachers(model, ids, loss_of)
        return torch.stack(losses).mean()

    def _from_teachers(self, model: nn.Module, ids: Tensor, loss_of: LayerLoss) -> list[Tensor]:
        students = attention_modules(model)  # type: ignore[arg-type]
        learning, losses = torch.is_grad_enabled(), []

        def compare(name: str, arguments: Any, keywords: Any, output: Tensor) -> None:
            with torch.set_grad_enabled(learning), students_part():
                student = students[name]
                got = student(*arguments, **keywords)
                got = got[0] if isinstance(got, tuple) else got
                losses.append(_with_gradients(loss_of(student, got, output), student))

        self._ask_teacher(ids, compare)
        return losses

    def _ask_teacher(self, ids: Tensor, see: Callable[[str, Any, Any, Tensor], None]) -> None:
        """Pass token ids through the teacher; `see` gets what its attention modules are given and give."""
        modules = attention_modules(self._teacher)
        with torch.no_grad(), teachers_part(), seen(modules, see):
            backbone(self._teacher)(input_ids=ids, use_cache=False)

    def _from_own_inputs(self, model: nn.Module, ids: Tensor, loss_of: LayerLoss) -> list[Tensor]:
        outputs, own = dict[str, Tensor](), dict[str, Tensor]()
        students = attention_modules(model)  # type: ignore[arg-type]

        self._ask_teacher(ids, lambda name, _, __, output: outputs.update({name: output}))
        with ExitStack() as hooks:
            for name in list(students)[:: self._own_inputs]:
                layer = model.get_submodule(name.rpartition(".")[0])
                hooks.enter_context(layer.register_forward_pre_hook(_cut))
            hooks.enter_context(seen(students, lambda name, _, __, output: own.update({name: output})))
            backbone(model)(input_ids=ids, use_cache=False)
        # not in the pass: layers that are recomputed may not have stored more than they will again
        return [loss_of(students[name], own[name], outputs[name]) for name in own]


LayerLoss = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""Loss of an attention module of the student, of its output and the teacher's."""


def _cut(layer: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A layer's inputs, through which no gradient leaves it."""
    return given[0].detach(), *given[1:]


def _with_gradients(loss: Float[Tensor, ""], module: nn.Module) -> Float[Tensor, ""]:
    """The same loss with the gradients of a module's parameters in place of its graph."""
    parameters = [p for p in module.parameters() if p.requires_grad] if loss.requires_grad else []
    if not parameters:
        return loss.detach()
    with without_autocast(loss):
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
    own = [p for p, gradient in zip(parameters, found, strict=True) if gradient is not None]
    gradients = [gradient for gradient in found if gradient is not None]
    computed: Tensor = _Computed.apply(loss.detach(), gradients, *own)  # type: ignore[no-untyped-call]
    return computed


class _Computed(torch.autograd.Function):
    """A value whose gradients are known."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        return (None, None, *(outer[0] * gradient for gradient in ctx.gradients))


def only_attention(model: PreTrainedModel) -> None:
    """Of what is trained, train only what stands in the attention modules, gains and offsets included."""
    inside = {id(p) for module in attention_modules(model).values() for p in module.parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.requires_grad and id(parameter) in inside)


class Looked(NamedTuple):
    """Queries and keys of a layer; of softmax the factor of their products, of arrays the sliding window."""

    q: Float[Tensor, "B H T D"]
    k: Float[Tensor, "B Hk T D"]
    scaling: float = 1.0
    window: int | None = None


@contextmanager
def watched_queries(model: nn.Module) -> Iterator[dict[int, Looked]]:
    """Queries and keys that an attached model attends with while the context lasts, by layer."""
    found: dict[int, Looked] = {}

    def of_arrays(layer: str, inputs: Any, keywords: Any, output: Tensor) -> None:
        found[int(layer)] = Looked(inputs[0], inputs[1], window=inputs[5])

    def of_softmax(layer: str, inputs: Any, keywords: Any, output: Tensor) -> None:
        q, k = inputs[:2]
        found[int(layer)] = Looked(q, k, scaling=inputs[4] or q.shape[-1] ** -0.5)

    arrays = {str(attention.layer): attention for attention in attached_layers(model)}
    softmax = {layer: attention.softmax for layer, attention in arrays.items()}
    with seen(arrays, of_arrays), seen(softmax, of_softmax):
        yield found


def weights_divergence(
    cell: GainCellAttention, own: Looked, teacher: Looked, ids: Int[Tensor, "B T"]
) -> Float[Tensor, ""]:
    """The divergence of the head of this file, of one layer.

    Args:
        cell: The arrays.
        own: What the arrays were given for texts without padding.
        teacher: What softmax attention was given for the same texts.
        ids: These texts. Which queries are looked at follows from them.
    """
    design, tokens = cell.design, own.k.shape[2]
    first = int(ids.sum()) % math.ceil(tokens / QUERIES) * QUERIES
    rows = slice(first, min(first + QUERIES, tokens))
    i = torch.arange(tokens, device=own.k.device)[rows]
    j = torch.arange(tokens, device=own.k.device)
    age = i[:, None] - j
    visible = (age >= 0) & (age < min(design.window, own.window or tokens))
    wanted = _by_key_head(teacher.q[:, :, rows].float(), teacher.k.float()) * teacher.scaling
    wanted = wanted.masked_fill(~visible, -math.inf).log_softmax(-1)
    q = cell.q(own.q, cell.columns(own.q, own.k, own.k, sliding_window=own.window))[:, :, rows]
    x = query_driver(q, design.driver_levels, signed=design.drivers.signed)
    u = write_dac(cell.k(own.k), design.dac_levels, design.v_min, design.v_max, design.v_offset)
    reads = cell.heads // cell.kv_heads
    rate = design.leak_per_token + reads * design.disturb_per_read
    left = torch.exp(-rate * (i.double().mean() - j).clamp(min=0))[:, None].to(u.dtype)
    u = design.decay_target + (u - design.decay_target) * left
    scores = _by_key_head(x, design.cell.current(u).to(x.dtype))
    full = design.score_saturation(x.shape[-1])
    pulses = SMOOTH * functional.softplus(scores / (SMOOTH * full))
    if design.score_ceiling:
        pulses = pulses.clamp(max=1.0)
    pulses = pulses**design.charge_to_pulse.exponent
    found = pulses.float().clamp(min=torch.finfo(torch.float32).tiny).log()
    found = found.masked_fill(~visible, -math.inf).log_softmax(-1)
    apart = torch.where(visible, wanted.exp() * (wanted - found), 0.0)
    return apart.sum(-1).mean()


def _by_key_head(q: Float[Tensor, "B H R D"], k: Float[Tensor, "B Hk T D"]) -> Float[Tensor, "B H R T"]:
    group = q.shape[1] // k.shape[1]
    products: Tensor = q.unflatten(1, (-1, group)) @ k[:, :, None].mT
    return products.flatten(1, 2)
