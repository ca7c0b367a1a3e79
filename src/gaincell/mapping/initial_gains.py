"""First gains and offsets for a pretrained model, from the statistics of its own activations.

    q: a = s_q / std, b = c_q               in pulse widths
    k: a = s_k / std, b = V_offset + c_k    in volts; v likewise
    output: least squares of the arrays' output O_h to that of softmax attention Y_h, per head,
            a = r std(Y) / std(O), b = mean(Y) - a mean(O), with the correlation r kept at or above 0.1,
            or a itself kept within a range. Where the head has a bias vector (reparametrisation.py), means
            and deviations are those of every component, and the vector is b. Where it has a normaliser
            (nn/array_normaliser.py), O is what was divided, and the floor is the one of FLOORS that fits best

s and c are a `Candidate`. Of several, every key/value head takes the one with which the output of its group
of query heads fits best, by the sum of what is left of std(Y)^2: std(Y)^2 (1 - r^2) where r is not kept from
what it is.

All layers are fitted in one forward pass. Each layer passes on the output of softmax attention, so that
every layer sees what it sees in the pretrained model. Not modelled: the mean of q, k and v, which stays in
the signal.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from gaincell.adaptation import statistics as measured
from gaincell.adaptation.adapt import concatenate
from gaincell.chips.design import Design
from gaincell.errors import InputError
from gaincell.integrations.hf.reparametrisation import has_part
from gaincell.integrations.hf.softmax_passthrough import softmax_passthrough
from gaincell.nn.attention import GainCellAttention
from gaincell.progress import Progress
from gaincell.progress import silent as no_progress


class Candidate(NamedTuple):
    """Standard deviation and centre of the scaled inputs: of q in pulse widths, of k and v in volts, their
    centres from V_offset.
    """

    q: tuple[float, float]
    k: tuple[float, float]
    v: tuple[float, float]


FIRST = Candidate(q=(0.4, 0.15), k=(0.15, -0.05), v=(0.4, 0.0))
"""What served the embedded model best, by trial (docs/experiments.md).

The centre of the keys matters most: queries are never negative, so keys that lie below V_offset on average
push the scores below zero, and ReLU leaves the few largest, as softmax does.
"""
CANDIDATES = (
    FIRST,
    Candidate(q=(0.4, 0.15), k=(0.2, -0.05), v=(0.4, 0.0)),
    Candidate(q=(0.4, 0.15), k=(0.3, -0.05), v=(0.4, 0.0)),
    Candidate(q=(0.4, 0.15), k=(0.15, -0.1), v=(0.4, 0.0)),
    Candidate(q=(0.4, 0.15), k=(0.2, -0.02), v=(0.4, 0.0)),
    Candidate(q=(0.4, 0.15), k=(0.15, 0.0), v=(0.4, 0.0)),
    Candidate(q=(0.25, 0.1), k=(0.2, -0.05), v=(0.3, 0.0)),
    Candidate(q=(0.25, 0.5), k=(0.2, -0.05), v=(0.2, 0.0)),
    Candidate(q=(0.25, 0.5), k=(0.2, 0.0), v=(0.2, 0.0)),
)
"""What is tried where there is no time for trials: models differ in how sharp their heads are."""


def _grid(
    queries: Sequence[tuple[float, float]], key_std: Sequence[float], key_centre: Sequence[float]
) -> tuple[Candidate, ...]:
    keys = list(itertools.product(key_std, key_centre))
    return tuple(Candidate(q=q, k=k, v=(0.4, 0.0)) for q, k in itertools.product(queries, keys))


SIGNED = _grid([(0.4, 0.05), (0.4, 0.1)], (0.2, 0.3), (-0.05, -0.1))
"""The same for queries with a sign. The product of both centres is the threshold that scores have to pass."""
SHARP = _grid([(0.4, 0.0), (0.4, 0.05), (0.4, 0.1)], (0.2, 0.3), (0.0, -0.05))
"""The same where the converter between the arrays has an exponent, which does what a threshold does."""
PAIRED = _grid([(0.4, 0.0), (0.4, 0.1), (0.3, 0.3), (0.2, 0.5)], (0.15, 0.25), (-0.05, -0.1))
"""The same for paired rows, where queries have a sign and a centre keeps both rows driven."""
WIDE = _grid(
    [(0.4, 0.0), (0.4, 0.1), (0.7, 0.0), (1.0, 0.0), (1.5, 0.0), (0.7, -0.3), (0.3, 0.4)],
    (0.15, 0.25, 0.35, 0.5),
    (0.0, -0.06),
)
"""More for paired rows, many of which drive circuits beyond their range: keys of 0.5 V are nearly binary,
queries of 1.5 pulse widths too, and the scores of both are sharp.
"""
BALANCED = _grid([(0.2, 0.5), (0.3, 0.5), (0.45, 0.5)], (0.2, 0.4), (0.0, -0.03, -0.06))
"""The same for balanced rows: queries on both sides of half a pulse."""
SMALLEST_CORRELATION = 0.1
FLOORS = (1 / 15, 1 / 4, 1.0, 4.0)
"""Of a normaliser, in full scales of a sub-tile: from one count to so many that the sum hardly matters."""


def candidates_for(
    design: Design, paired: bool = False, wide: bool = False, balanced: bool = False
) -> tuple[Candidate, ...]:
    """What to choose from on a chip, for paired (integrations/hf/paired.py), of which `wide` gives more, or
    balanced rows (nn/balanced_rows.py), for which `wide` changes nothing here.

    Raises:
        InputError: `wide` without either kind of rows.
    """
    if balanced:
        return BALANCED
    if wide and not paired:
        raise InputError(
            'initial = "wide" is for paired or balanced rows; give paired or balanced = true, or leave it out'
        )
    if paired:
        return WIDE if wide else PAIRED
    if not design.drivers.signed:
        return CANDIDATES
    return SHARP if design.charge_to_pulse.exponent > 1 else SIGNED


class Fit(NamedTuple):
    """Least squares of the arrays' output to softmax attention, per head: gain, offset (of every component
    where the head has a bias vector), what is left of the variance, whether the output had any, and the floor
    of the normaliser (0: there is none).
    """

    gain: Float[Tensor, " H"]
    offset: Tensor
    residual: Float[Tensor, " H"]
    usable: Tensor
    floor: Float[Tensor, " H"]


def _best_of(fits: Sequence[Fit], best: Int[Tensor, " H"]) -> Fit:
    """Of every head the fit of this number."""
    heads = torch.arange(len(best))
    return Fit(*(torch.stack(part)[best, heads] for part in zip(*fits, strict=True)))


@torch.no_grad()
def initial_scaling(
    model: PreTrainedModel,
    ids: Int[Tensor, "B T"],
    candidates: Sequence[Candidate] = (FIRST,),
    progress: Progress = no_progress,
    gains: tuple[float, float] | None = None,
) -> tuple[measured.Place, ...]:
    """Set, in place, gains and offsets of an attached model, whose weights are still those of the softmax
    model; returns the stages without variance: inputs keep their gain there and get the centre of the best
    candidate, outputs get gain 1 and the mean of softmax attention.

    Args:
        model: attached.
        ids: Some text without padding.
        candidates: To choose from; each costs a forward pass of the arrays.
        progress: Called after every layer with (layers done, layers).
        gains: Range in which gains of the output are kept; None: what the correlation's smallest value gives.

    Biases of the values and exponents are set to 0; the output's bias, a normaliser's floor and b of balanced
    rows are fitted.
    """
    layers = measured.attached(model)
    silent: list[measured.Place] = []

    def fit(
        layer: int, attention: GainCellAttention, inputs: tuple[Any, ...], softmax: Float[Tensor, "B H T D"]
    ) -> None:
        unusable = _fit_layer(layer, attention, inputs, softmax, candidates, gains)
        for stage, heads in unusable.items():
            silent.extend(measured.Place(layer, head, stage) for head in heads.nonzero().flatten().tolist())
        progress(layer + 1, len(layers), {})

    tokens = ids.to(next(model.parameters()).device, torch.long)
    with softmax_passthrough(model, fit), measured.evaluation_mode(model):
        measured.backbone(model)(input_ids=tokens, use_cache=False)
    return tuple(silent)


def calibrate(
    model: PreTrainedModel, batches: Iterable[measured.Tokens], *, progress: Progress = no_progress
) -> tuple[measured.Place, ...]:
    """Set first gains and offsets of an attached model, in place: what `gaincell map` trains from.

    They come from statistics of the model's own activations; every key/value head takes the candidate with
    which its arrays come closest to softmax attention (see the head of this file). What training has learned
    of biases and exponents is lost: see `initial_scaling`.

    Example:

        >>> import gaincell, torch
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> sizes = {"n_layer": 2, "n_head": 2, "n_embd": 128, "vocab_size": 100}
        >>> model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))
        >>> _ = gaincell.attach(model, "leroux2025")
        >>> gaincell.calibrate(model, [torch.randint(100, (2, 32))])
        ()

    Args:
        model: attached, with the weights of the softmax model.
        batches: Some text: token ids [B, T] each, all of one length, without padding. All of it goes through
            the model at once; two sequences are enough.
        progress: Called after every layer with (layers done, layers).

    Returns:
        The stages without variance: q, k and v keep their gain there and get the first centre, outputs get
        gain 1 and the mean of softmax attention.

    Raises:
        ModelError: the model is not attached, or set to softmax attention, or a stage is not finite.
        InputError: there is no text, padding in it, or sequences of several lengths.

    Not modelled: training. A model that was only calibrated writes noise; fine-tune it, or call
    `gaincell.map_model`.
    """
    design = measured.attached(model)[0].design
    parts = [measured.as_batch(tokens, model) for tokens in batches]
    lengths = sorted({part.ids.shape[1] for part in parts})
    if len(lengths) > 1:
        raise InputError(
            f"calibrate was given sequences of {', '.join(map(str, lengths))} tokens; it reads sequences of "
            f"one length: cut all of them to {lengths[0]}"
        )
    batch = concatenate(parts)
    if batch.real is not None:
        raise InputError("calibrate reads text without padding; the attention_mask marks some: cut it off")
    candidates = candidates_for(
        design, has_part(model, "paired rows"), balanced=has_part(model, "balanced rows")
    )
    return initial_scaling(model, batch.ids, candidates, progress)


def _fit_layer(
    layer: int,
    attention: GainCellAttention,
    inputs: tuple[Any, ...],
    wanted: Float[Tensor, "B H T D"],
    candidates: Sequence[Candidate],
    gains: tuple[float, float] | None,
) -> dict[str, Bool[Tensor, " heads"]]:
    """Choose every head's candidate and fit the output stage to softmax attention; heads of every stage that
    have no variance.
    """
    for number in attention.extras():
        number.zero_()
    stages = zip("qkv", inputs[:3], strict=True)
    columns = attention.columns(*inputs)
    spread = {
        stage: measured.moments(
            attention.values(x) if stage == "v" else getattr(attention, stage).rows(x, columns), None
        ).std
        for stage, x in stages
    }
    for stage, std in spread.items():
        measured.check_finite_stage(std, stage, layer)
    attention.out.gain.fill_(1.0)
    attention.out.offset.zero_()
    fits = []
    for candidate in candidates:
        choice = [candidate] * attention.kv_heads
        _set_inputs(attention, spread, choice, inputs[1])
        sums = attention.sums(inputs[0], inputs[1], inputs[2], inputs[3:])
        fits.append(_fit_output(attention, sums, columns, wanted, gains))
    residual = torch.stack([fit.residual.unflatten(0, (attention.kv_heads, -1)).sum(1) for fit in fits])
    best = residual.argmin(0)  # [Hk]
    _set_inputs(attention, spread, [candidates[int(n)] for n in best], inputs[1])
    chosen = _best_of(fits, best.repeat_interleave(attention.heads // attention.kv_heads))
    attention.out.gain.copy_(chosen.gain)
    offset = attention.out.offset if attention.output_bias is None else attention.output_bias
    offset.copy_(chosen.offset)
    if attention.normaliser is not None:
        attention.normaliser.set_floor(chosen.floor)
    return {stage: std == 0 for stage, std in spread.items()} | {"out": ~chosen.usable}


def _fit_output(
    attention: GainCellAttention,
    sums: Float[Tensor, "B H T D"],
    columns: Int[Tensor, "#B T"] | None,
    wanted: Float[Tensor, "B H T D"],
    gains: tuple[float, float] | None,
) -> Fit:
    """The output stage of a layer whose arrays give `sums`: gain 1 and offset 0 now."""
    vectors, fits = attention.output_bias is not None, []
    for floor in (0.0,) if attention.normaliser is None else FLOORS:
        if attention.normaliser is not None:
            attention.normaliser.set_floor(floor)
        raw = attention.output(sums, columns)
        fits.append(_least_squares(raw, wanted, vectors=vectors, gains=gains, floor=floor))
    return _best_of(fits, torch.stack([fit.residual for fit in fits]).argmin(0))


def _set_inputs(
    attention: GainCellAttention,
    spread: dict[str, Float[Tensor, " heads"]],
    chosen: Sequence[Candidate],
    k: Float[Tensor, "B Hk T D"],
) -> None:
    """Gains and offsets of q, k and v by each key/value head's candidate; `k`: keys to balance."""
    group = attention.heads // attention.kv_heads
    for stage, found in spread.items():
        scaler = getattr(attention, stage)
        wanted = torch.tensor([getattr(candidate, stage) for candidate in chosen], dtype=found.dtype)
        if stage == "q":
            wanted = wanted.repeat_interleave(group, 0)
        std, centre = wanted.T
        scaler.gain.copy_(torch.where(found > 0, std / found, scaler.gain.double().cpu()))
        scaler.offset.copy_(centre if stage == "q" else attention.design.v_offset + centre)
    if attention.k.balance is not None:
        attention.k.balance.centre(attention.k(k)[..., :-1], attention.k.offset)


def _least_squares(
    raw: Float[Tensor, "B H T D"],
    wanted: Float[Tensor, "B H T D"],
    *,
    vectors: bool,
    gains: tuple[float, float] | None,
    floor: float,
) -> Fit:
    """See the head of this file; a head whose output has no variance keeps gain 1 and gets the mean."""
    over = (0, 1) if vectors else (0, 1, 2)
    columns = []
    for got, want in zip(raw.unbind(1), wanted.unbind(1), strict=True):  # [B, T, D]
        o, y = got.double(), want.double()
        mean_o, mean_y = o.mean(over), y.mean(over)
        size, o, y = o.square().mean(), o - mean_o, y - mean_y
        found = torch.stack([o.square().mean(), y.square().mean(), (o * y).mean(), size])
        columns.append((found, mean_o, mean_y))
    moments_of, mean_o, mean_y = (torch.stack(part).cpu() for part in zip(*columns, strict=True))
    var_o, var_y, product, size = moments_of.T
    usable = var_o > measured.NO_SPREAD**2 * size
    var_o = torch.where(usable, var_o, 1.0)
    if gains is None:
        gain = (product / var_o).maximum(SMALLEST_CORRELATION * (var_y / var_o).sqrt())
        left = var_y - product.clamp(min=0.0).square() / var_o
    else:
        gain = (product / var_o).clamp(*gains)
        left = var_y - 2 * gain * product + gain.square() * var_o
    gain, left = torch.where(usable, gain, 1.0), torch.where(usable, left, var_y)
    offset = mean_y - (gain[:, None] if vectors else gain) * mean_o
    return Fit(gain, offset, left, usable, torch.full(gain.shape, floor))
