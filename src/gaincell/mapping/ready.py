"""A model on its hardware, ready to run, from whatever a user names."""

from __future__ import annotations

from typing import NamedTuple

from gaincell.design import Design
from gaincell.integrations.hf.attach import attach, attached_layers, set_design
from gaincell.integrations.hf.models import load_model
from gaincell.integrations.hf.sources import LoadedModel
from gaincell.mapping.folder import read_state
from gaincell.mapping.initial import candidates_for, initial_scaling
from gaincell.mapping.job import find_shipped
from gaincell.progress import StageProgress, silent_stages
from gaincell.text import open_text, token_stream

CALIBRATION_TOKENS = 1024


class Ready(NamedTuple):
    """A model with its arrays.  how: where gains and offsets come from, in words."""

    loaded: LoadedModel
    how: str


def hardware_model(
    name: str,
    default_design: Design,
    design: Design | None = None,
    *,
    impl: str = "auto",
    progress: StageProgress = silent_stages,
) -> Ready:
    """Load a model and see to it that it runs in arrays.

    A RUN is what it is. An embedded model takes its shipped linear hardware version, so its cell is the
    linear one. Any other model gets first gains and offsets from statistics of the text `sample`, also for
    the linear cell: without training it writes noise, but it runs.

    Args:
        name: a model or a RUN.
        default_design: for models that bring no design.
        design: instead of the model's own or the default one; its cell is used as it is.

    Raises:
        GaincellError: the model cannot be found or mapped.
    """
    loaded = load_model(name)
    shipped = find_shipped(name)
    if attached_layers(loaded.model):
        if design is not None:
            set_design(loaded.model, design)
        return Ready(loaded, "gains and offsets of the RUN")
    chip = design or default_design.replace(cell="linear")
    attach(loaded.model, chip, impl=impl)  # type: ignore[arg-type]
    if shipped is not None:
        read_state(loaded.model, shipped.linear)
        how = "the shipped linear hardware version"
        if chip.cell.name != "linear":
            how += f", its cells exchanged for {chip.cell.name} ones without adaptation"
        return Ready(loaded, how)
    ids = token_stream(open_text("sample").training, loaded.tokenizer, CALIBRATION_TOKENS).long()[None]
    context = getattr(loaded.model.config, "max_position_embeddings", None) or CALIBRATION_TOKENS
    fitting = progress("first gains and offsets")
    initial_scaling(loaded.model, ids[:, :context], candidates_for(chip), fitting)
    return Ready(
        loaded, "first gains and offsets from statistics, untrained: expect noise (see gaincell map)"
    )
