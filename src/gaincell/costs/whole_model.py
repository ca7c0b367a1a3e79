"""A whole model: attention in gain cells, linear layers elsewhere; and everything on a GPU.

Per token of one sequence, at batch B (all sequences take a step together):

    GPU, linear layers      time = max(bytes of weights / bandwidth, 2 W B / arithmetic),  W weights
    GPU, attention          time = B x bytes of the cache of the window / bandwidth
                            energy = board power x time / B: an upper estimate, stated power and not measured
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

from dataclasses import dataclass

from gaincell.costs import retention
from gaincell.costs.cost import Cost
from gaincell.costs.gpus import Stated
from gaincell.costs.roll_up import ModelCost, paced
from gaincell.costs.size import PRODUCTS, ModelSize
from gaincell.costs.surroundings import surroundings
from gaincell.errors import InputError
from gaincell.units import Second

ATTENTION, LINEAR, TRANSFERS = "attention", "linear layers", "inputs and outputs"
BYTES_PER_WEIGHT = 2.0
"""bfloat16."""


@dataclass(frozen=True)
class Arrangement:
    """Who computes what; costs per token of one sequence.

    title: in words.  attention, linear, transfers: energy and latency of each, bottom-up.
    cited: attention as the paper states it; None where no gain cells compute it.
    held: how long a token is needed, s.  note: what that means for its cells, in words; both None without.
    """

    title: str
    attention: Cost
    linear: Cost
    transfers: Cost
    cited: Cost | None = None
    held: Second | None = None
    note: str | None = None

    @property
    def total(self) -> Cost:
        return self.attention + self.linear + self.transfers

    @property
    def total_cited(self) -> Cost:
        """With the cited attention, where there is one."""
        return (self.cited or self.attention) + self.linear + self.transfers

    def share(self, number: str) -> float:
        """Of attention in the whole, of "energy" or "latency"."""
        return float(getattr(self.attention, number) / getattr(self.total, number))


def arrangements(model: ModelCost, gpu: Stated, context: int) -> list[Arrangement]:
    """The GPU alone; gain cells beside it; gain cells beside analog linear layers.

    context: tokens in the GPU's cache; the gain cells hold those of their window.
    """
    size, batch = model.size, model.batch
    if context < 1:
        raise InputError(f"context = {context!r} is out of range; allowed: 1 or more tokens")
    dense = gpu_linear(size, gpu, batch)
    return [
        Arrangement(f"all on {gpu.title}", gpu_attention(size, gpu, context, batch), dense, Cost()),
        _with_cells(f"gain cells, linear layers on {gpu.title}", model, dense),
        _with_cells("gain cells, analog linear layers", model, analog_linear(size, batch)),
    ]


def _with_cells(title: str, model: ModelCost, linear: Cost) -> Arrangement:
    """Attention in gain cells whose tokens follow each other at the pace of the whole."""
    moved = transfers(model)
    slow = paced(model, linear.latency + moved.latency)
    head = slow.head.head
    attention = Cost(energy=slow.energy_bottom_up, latency=slow.latency[1])
    stated = Cost(energy=model.energy_cited, latency=model.latency[0])
    return Arrangement(title, attention, linear, moved, stated, retention.held(head), retention.note(head))


def gpu_linear(size: ModelSize, gpu: Stated, batch: int) -> Cost:
    """Linear layers and output head on a GPU."""
    read = size.weights * BYTES_PER_WEIGHT / gpu.bandwidth
    time = max(read, 2 * size.weights * batch / gpu.arithmetic)
    return Cost(energy=gpu.power * time / batch, latency=time)


def gpu_attention(size: ModelSize, gpu: Stated, context: int, batch: int) -> Cost:
    """Attention on a GPU whose cache passes once at the stated bandwidth."""
    seen = min(context, size.sliding_window) if size.sliding_window else context
    time = batch * seen * size.cache_bytes() / gpu.bandwidth
    return Cost(energy=gpu.power * time / batch, latency=time)


def analog_linear(size: ModelSize, batch: int) -> Cost:
    """Linear layers and output head in analog in-memory computing."""
    analog = surroundings().analog
    products = PRODUCTS * size.layers + batch
    return Cost(energy=2 * size.weights / analog.efficiency, latency=products * analog.product)


def transfers(model: ModelCost) -> Cost:
    """q, k, v to the scaling stages and the scaled results back, all layers."""
    size, head, moved = model.size, model.head.head, surroundings().movement
    results = size.heads * size.head_dim * head.sum_bits(head.active_tiles)
    queries = size.heads * size.head_dim * head.query_word
    stored = 2 * size.kv_heads * size.head_dim * head.storage_word
    bits = size.layers * (queries + stored + results)
    time = 2 * size.layers * moved.link_latency + model.batch * bits / 8 / moved.link_bandwidth
    return Cost(energy=bits * moved.link, latency=time)
