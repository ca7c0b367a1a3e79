"""Which constraint of a chip costs how much: one at a time switched off, and one at a time switched on.

    off   the chip of a RUN, with one constraint loosened: what it costs beside all the others
    on    a chip without constraints, with one of them: what it costs alone
    ring  the chip with half the columns: what a shorter memory would cost

Weights, gains and offsets stay as they are, so this says what a trained model loses to each constraint, not
what training without it would win. (Of balanced rows b belongs to its cell: with other cells it is set from
the first block, as an adaptation does.) All rows see the same blocks; errors of the ratios are paired:

    ratio = exp(sum (nll_row - nll_chip) / predictions), its error to first order over blocks.

Tiling has no row "on": sub-tiles without limits and quantisation add up to the same sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from gaincell.chips.design import Design
from gaincell.circuits.converter_errors import Converters
from gaincell.circuits.noise import Noise
from gaincell.devices.leakage import Leakage
from gaincell.devices.variability import Mismatch
from gaincell.devices.wires import Wires
from gaincell.devices.writing import Writing
from gaincell.errors import InputError
from gaincell.evaluation.forward import forward
from gaincell.evaluation.perplexity import Perplexity, default_protocol, perplexity, window_and_stride
from gaincell.integrations.hf.attach import computing_layers, set_design
from gaincell.nn.last_rows import LastRows, balances, own_rows_after, rows_at
from gaincell.progress import Progress, silent
from gaincell.results.evaluation import AblationRow
from gaincell.standard_error import paired_ratio

Changes = Mapping[str, Any]
ALWAYS = "all quantisation"
"""Also of a chip that has none."""
QUANTISATION: Mapping[str, tuple[str, Changes]] = {
    "query levels": ("pulse widths of queries not quantised", {"query_levels": None}),
    "storage levels": ("stored voltages not quantised", {"storage_levels": None}),
    "readout": ("outputs of sub-tiles not quantised", {"readout": "none"}),
}
UNQUANTISED: Changes = {key: to for _, changes in QUANTISATION.values() for key, to in changes.items()}
CONSTRAINTS: Mapping[str, tuple[str, Changes]] = {
    **QUANTISATION,
    "score ceiling": ("pulses between the arrays as long as they need", {"score_ceiling": False}),
    "output ceiling": ("outputs of sub-tiles not limited", {"output_ceiling": False}),
    "decay": ("voltages hold", {"retention_time": None}),
    "nonlinearity": ("linear cells", {"cell": "linear"}),
    "mismatch": ("all cells and converters alike", {"mismatch": Mismatch(), "converters": Converters()}),
    "noise": ("no noise of reads", {"noise": Noise()}),
    "writes and leakage": ("exact writes, equal leakage", {"writing": Writing(), "leakage": Leakage()}),
    "wires": ("no drop along bit lines", {"wires": Wires()}),
    ALWAYS: ("queries, storage, outputs", UNQUANTISED),
}
"""Name -> what a chip without it does, and the changes of a design that take it away."""
KEPT = {"mismatch": ("seed", "chip"), "leakage": ("activation_energy", "reference_temperature")}
"""Numbers of tables that are no constraint: they say which noise is drawn, and how fast voltages decay."""


@dataclass(frozen=True)
class Ablation:
    """What every constraint costs.

    Attributes:
        protocol: In words.
        rows: Those off and the ring are compared to the chip as it is, those on to the free one.
    """

    protocol: str
    rows: tuple[AblationRow, ...]


@torch.no_grad()
def ablate(
    model: PreTrainedModel,
    tokens: Int[Tensor, " n"],
    protocol: str | None = None,
    progress: Progress = silent,
) -> Ablation:
    """Perplexity of an attached model with one constraint after the other off and on.

    The model ends on the design it came with. Besides `CONSTRAINTS`: one sub-tile as long as the
    ring with the O_sat of a short one, and half the ring where blocks are longer.

    Args:
        model: Attached.
        tokens: Of the text.
        protocol: None for `default_protocol`.
        progress: Called after every row with (rows done, rows).

    Raises:
        InputError: a model in software.
    """
    layers = computing_layers(model)
    if not layers:
        raise InputError("a model in software has no constraints to switch off: give a RUN")
    protocol = protocol or default_protocol(model)
    length, _ = window_and_stride(protocol)
    chip = layers[0].design
    plan = _plan(chip, length)
    rows: list[AblationRow] = []
    reference: Perplexity | None = None
    words = ""
    block, rows_of_own = tokens[None, :length], LastRows(layers)
    if any(balances(layers)):
        with rows_of_own.observing():
            forward(model, block)
    shares = rows_of_own.shares
    try:
        for done, (kind, name, meaning, design) in enumerate(plan, 1):
            set_design(model, design)
            with own_rows_after(layers):
                if shares is not None and design.cell != chip.cell:
                    with rows_at(layers, shares):
                        forward(model, block)
                found = perplexity(model, tokens, protocol)
            words = words or found.protocol
            if reference is None or (kind, name) == ("on", "free"):
                reference = found
            exercised = found is reference or found.per_block != reference.per_block
            ours, theirs = ([nll for nll, _ in one.per_block] for one in (found, reference))
            ratio, error = paired_ratio(ours, theirs, [float(count) for _, count in found.per_block])
            compared = (error, None) if exercised else (None, found.protocol.partition(":")[0])
            rows.append(AblationRow(kind, name, meaning, found.perplexity, ratio, *compared))
            progress(done, len(plan), {})
    finally:
        set_design(model, chip)
    return Ablation(words, tuple(rows))


def freed(chip: Design) -> Design:
    """The chip without any of the constraints."""
    for _, changes in CONSTRAINTS.values():
        chip = _without(chip, changes)
    return chip


def _without(chip: Design, changes: Changes) -> Design:
    """The chip with the changes of a constraint, apart from what is `KEPT`."""
    tables = {
        name: replace(changes[name], **{key: getattr(getattr(chip, name), key) for key in keys})
        for name, keys in KEPT.items()
        if name in changes
    }
    return chip.replace(**{**changes, **tables})


def _plan(chip: Design, length: int) -> list[tuple[str, str, str, Design]]:
    """Kind, name, meaning and design of every row, for blocks of so many tokens."""
    plan = [("off", "chip", "as it is", chip)]
    for name, (meaning, changes) in CONSTRAINTS.items():
        loosened = _without(chip, changes)
        if loosened.hash != chip.hash or name == ALWAYS:
            plan.append(("off", name, meaning, loosened))
    if chip.tile < chip.window:
        plan.append(("off", "tiling", "one sub-tile as long as the ring", one_tile(chip)))
    if chip.tiles % 2 == 0 and length > chip.window // 2:  # shorter blocks fill no more
        plan.append(("ring", "half the ring", "half the columns", chip.replace(window=chip.window // 2)))
    free = freed(chip)
    plan.append(("on", "free", "none of these constraints", free))
    for name, (_, changes) in CONSTRAINTS.items():
        bound = free.replace(**{key: getattr(chip, key) for key in changes})
        if bound.hash != free.hash or name == ALWAYS:
            plan.append(("on", name, "", bound))
    return plan


def one_tile(chip: Design) -> Design:
    """The chip with a single sub-tile, whose converters keep their full scale."""
    per_column = chip.output_saturation_per_column * chip.tile / chip.window
    return chip.replace(tile=chip.window, output_saturation_per_column=per_column)
