"""A whole model: attention in gain cells, linear layers elsewhere; and everything on a GPU.

Per token of one sequence, at batch B (all sequences take a step together):

    GPU, linear layers      time = max(bytes of weights / bandwidth, 2 W B / arithmetic),  W weights
    GPU, attention          time = B x bytes of the cache of the window / bandwidth
                            energy = board power x time / B; the stated power is more than is drawn
    analog, linear layers   energy = 2 W / (operations per joule); time = (products + B - 1) x time of one:
                            the sequences follow each other from layer to layer
    inputs and outputs      bits of q, k, v and the result of every layer over a link, energy per bit; a
                            transfer to the arrays and one back for every layer, latency and bandwidth

Besides, everything follows everything else. A token is held for window x the latency of this whole row, much
longer than where attention is alone: leakage, decay and refreshes are those of that time. Weights are held
once, arrays for every sequence.
Not modelled: norms, activations, embedding, sampling; kernel launches and host; batching beyond a step.
"""

from __future__ import annotations

from dataclasses import replace

from gaincell.costs import storage
from gaincell.costs.cost import Cost
from gaincell.costs.gpus import Stated
from gaincell.costs.roll_up import ModelCost, paced
from gaincell.costs.size import PRODUCTS, ModelSize
from gaincell.costs.system_costs import analog, movement
from gaincell.errors import InputError
from gaincell.results.system_cost import CitedTime, EnergyTime, WholeModel

BYTES_PER_WEIGHT = 2.0
"""bfloat16."""


def arrangements(model: ModelCost, gpu: Stated, context: int) -> tuple[WholeModel, ...]:
    """The GPU alone; gain cells beside it; gain cells beside analog linear layers. Gains are over the first.
    None where weights are not counted.

    `context` are tokens in the GPU's cache; the gain cells hold those of their window.
    """
    size, batch = model.size, model.batch
    if context < 1:
        raise InputError(f"context = {context!r} is out of range; allowed: 1 or more tokens")
    if not size.linear_weights:
        return ()
    dense, attention = gpu_linear(size, gpu, batch), gpu_attention(size, gpu, context, batch)
    first = attention + dense
    return (
        _arranged(f"all on {gpu.title}", first, attention, dense, Cost()),
        _with_cells(f"gain cells, linear layers on {gpu.title}", first, model, dense),
        _with_cells("gain cells, analog linear layers", first, model, analog_linear(size, batch)),
    )


def _with_cells(title: str, first: Cost, model: ModelCost, linear: Cost) -> WholeModel:
    """Attention in gain cells whose tokens follow each other at the pace of the whole."""
    moved = transfers(model)
    slow = paced(model, linear.latency + moved.latency)
    attention = Cost(energy=slow.energy_bottom_up, latency=slow.latency[1])
    stated = Cost(energy=model.energy_cited, latency=model.latency[0])
    return replace(
        _arranged(title, first, attention, linear, moved, stated),
        note=storage.note(slow.head.head, model.size.layers * model.size.heads),
        held=storage.held(slow.head.head),
    )


def _arranged(
    title: str, first: Cost, attention: Cost, linear: Cost, moved: Cost, cited: Cost | None = None
) -> WholeModel:
    """Costs per token of one sequence, bottom-up.

    `first` is all of the arrangement that gains are over, `cited` attention as the paper states it,
    if at all.
    """
    total, total_cited = attention + linear + moved, (cited or attention) + linear + moved
    return WholeModel(
        title=title,
        attention=_energy_time(attention),
        linear=_energy_time(linear),
        transfers=_energy_time(moved),
        total=_energy_time(total),
        total_cited=_energy_time(total_cited),
        attention_share_of_energy=attention.energy / total.energy,
        energy_gain=first.energy / total.energy,
        energy_gain_cited=first.energy / total_cited.energy,
        attention_share_of_latency=attention.latency / total.latency,
        latency_gain=first.latency / total.latency,
        latency_gain_cited=first.latency / total_cited.latency,
        note=None,
        attention_cited=None if cited is None else CitedTime(cited.energy, cited.latency),
    )


def _energy_time(cost: Cost) -> EnergyTime:
    return EnergyTime(cost.energy, cost.latency)


def gpu_linear(size: ModelSize, gpu: Stated, batch: int) -> Cost:
    """Linear layers and output head on a GPU."""
    read = size.weights * BYTES_PER_WEIGHT / gpu.bandwidth
    time = max(read, 2 * size.weights * batch / gpu.arithmetic)
    return Cost(energy=gpu.power * time / batch, latency=time)


def gpu_attention(size: ModelSize, gpu: Stated, context: int, batch: int) -> Cost:
    """Attention on a GPU whose cache passes once at the stated bandwidth."""
    time = batch * size.seen(context) * size.cache_bytes() / gpu.bandwidth
    return Cost(energy=gpu.power * time / batch, latency=time)


def analog_linear(size: ModelSize, batch: int) -> Cost:
    """Linear layers and output head in analog in-memory computing."""
    products = PRODUCTS * size.layers + batch
    return Cost(energy=2 * size.weights / analog().efficiency, latency=products * analog().product)


def transfers(model: ModelCost) -> Cost:
    """q, k, v to the scaling stages and the scaled results back, all layers."""
    size, head, moved = model.size, model.head.head, movement()
    results = size.heads * size.head_dim * head.sum_bits(head.active_tiles)
    queries = size.heads * size.head_dim * head.query_word
    stored = 2 * size.kv_heads * size.head_dim * head.storage_word
    bits = size.layers * (queries + stored + results)
    time = 2 * size.layers * moved.link_latency + model.batch * bits / 8 / moved.link_bandwidth
    return Cost(energy=bits * moved.link, latency=time)
