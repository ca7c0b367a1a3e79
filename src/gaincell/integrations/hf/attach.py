"""Put gain-cell attention into a decoder of transformers, and take it out again.

``attach`` adds one module, ``gain_cell``, to every attention module and points the model at the attention
and mask functions of ``interface.py``; the model's own weights are not touched. ``detach`` undoes both.

transformers reads from a configuration which attention function to call, and models can share one. So an
attached model has a configuration of its own, and hooks around every attention module make sure that the
function that was called is the one that was asked for.
"""

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PretrainedConfig, PreTrainedModel

from gaincell.chips.design import Design
from gaincell.chips.design_file import load_design
from gaincell.errors import InputError, ModelError
from gaincell.integrations.hf import interface
from gaincell.integrations.hf.placement import device_of
from gaincell.integrations.hf.support import attention_modules, geometry
from gaincell.nn.attention import GainCellAttention
from gaincell.ops.gain_cell_attention import BackendName, Gradient
from gaincell.renamed import renamed

AnyModel = TypeVar("AnyModel", bound=nn.Module)
Attention = Literal["gain-cell", "softmax"]
_FUNCTIONS = {"gain-cell": interface.GAIN_CELL, "softmax": interface.SOFTMAX}
"""What an attached model computes with -> the function that transformers calls."""
_RECORD = "gaincell_attachment"
"""Attribute of an attached model that remembers how to detach it."""
_SAVE = "save_pretrained"


@dataclass
class _Attachment:
    """What ``attach`` changed besides adding modules.

    Attributes:
        owner: The model that is attached.
        first: Its first attention module.
        function: That every layer must call, a name in ``interface``.
        configurations: The model's own, and the attention implementation that each had before.
        savers: Modules with another ``save_pretrained`` meanwhile, and the attribute that each had before.
        checked: The arrays of `first` in the last forward pass that used arrays: peft exchanges them.
    """

    owner: PreTrainedModel
    first: nn.Module
    function: str = interface.GAIN_CELL
    configurations: list[tuple[PretrainedConfig, str]] = field(default_factory=list)
    savers: list[tuple[nn.Module, Any]] = field(default_factory=list)
    hooks: list[RemovableHandle] = field(default_factory=list)
    checked: GainCellAttention | None = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Unpickled, perhaps in a process where nothing was attached yet."""
        interface.register()
        vars(self).update(state)

    def install(self, layers: list[Any], model: nn.Module) -> None:
        """Hook into the attention modules, and replace ``save_pretrained`` in the model and around it."""
        base = self.owner.base_model
        for layer in layers:
            self.hooks.append(layer.register_forward_pre_hook(self.begin_layer))
            self.hooks.append(layer.register_forward_hook(self.end_layer))
        self.hooks.append(base.register_forward_pre_hook(interface.refuse_call, with_kwargs=True))
        self.hooks.append(base.register_forward_pre_hook(interface.begin_pass))
        self.hooks.append(base.register_forward_hook(interface.end_pass, always_call=True))
        for module in model.modules():
            if hasattr(module, _SAVE):
                self.savers.append((module, vars(module).get(_SAVE)))
                setattr(module, _SAVE, self.save if module is self.owner else interface.refuse_saving)
        self.hooks.append(base.register_forward_hook(self.end_pass))

    def begin_layer(self, module: Any, *_: Any) -> None:
        """Forward pre-hook: the layer is about to call ``function``."""
        interface.begin_layer(module)
        self._require(module, module.config._attn_implementation)

    def end_layer(self, module: Any, *_: Any) -> None:
        """Forward hook: the layer did call ``function``."""
        self._require(module, interface.THREAD.function)

    def end_pass(self, *_: Any) -> None:
        """Forward hook of the whole model: warn, once for the arrays in use, if nobody set their gains."""
        arrays = interface.arrays_of(self.first)
        if self.function == interface.GAIN_CELL and arrays is not self.checked:
            self.checked = arrays
            interface.warn_of_initial(type(self.owner).__name__, attached_layers(self.owner))

    def save(self, *arguments: Any, **keywords: Any) -> Any:
        """``save_pretrained`` of the model: its own, with the hardware in ``config.json``."""
        from gaincell.integrations.hf.hardware_record import recorded

        owner = self.owner
        own = next(before for module, before in self.savers if module is owner)
        with recorded(owner):
            return (own or partial(type(owner).save_pretrained, owner))(*arguments, **keywords)

    def _require(self, module: Any, found: str | None) -> None:
        if found != self.function:
            raise ModelError(
                f"{type(module).__name__} of layer {module.layer_idx} is attached, but its attention "
                f"function is {repr(found) if found else 'another'}: call "
                "gaincell.set_attention(model, 'gain-cell') to use the arrays, or "
                "gaincell.detach(model) to do without"
            )


@renamed("impl", "backend")
def attach(
    model: AnyModel,
    design: Design | str | os.PathLike[str],
    *,
    backend: BackendName = "auto",
    gradient: Gradient = "exact",
    attention: Attention = "gain-cell",
) -> AnyModel:
    """Run the attention of ``model`` in gain-cell arrays, in place, and return it.

    Every attention module gets a ``GainCellAttention`` named ``gain_cell``: per-layer, per-head gains and
    offsets for q, k, v and the output, as parameters in float64 (float32 on mps). The token period becomes
    that of the model's layers unless the design states one. The cache keeps the float projections; arrays are
    filled from it. The model gets its own copy of its configuration. Every forward pass checks that arrays
    computed every layer. If it fails, ``model`` stays as it was; ``attached_layers`` lists what was changed.

    Example:

        >>> import gaincell, torch
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> sizes = {"n_layer": 2, "n_head": 2, "n_embd": 128, "vocab_size": 100}
        >>> model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).eval()
        >>> ids = torch.arange(10)[None]
        >>> software = model(ids).logits
        >>> hardware = gaincell.attach(model, "leroux2025")(ids).logits
        >>> torch.equal(hardware, software), torch.equal(gaincell.detach(model)(ids).logits, software)
        (False, True)

    Args:
        model: A decoder of transformers with plain causal self-attention, or a wrapper around one (peft's).
        design: The chip, the name of a shipped one, or a ``.toml`` file.
        backend: Implementation of the arrays: "auto", "native", "blocked", "triton" or "naive".
        gradient: Of the cells in the backward pass: "exact", "surrogate" (as if they were linear), or a
            cheaper approximation of either on a CPU, "bf16" or "surrogate-bf16".
        attention: "gain-cell", or "softmax": the model's own, through the same masks, checks and functions.

    Raises:
        ModelError: the model has features that are not modelled (named), or is attached already.
        DesignError: there is no such design, or its file is not acceptable.
        InputError: ``attention`` is none of the two, or there is no such ``backend`` or ``gradient``.

    transformers' ``save_pretrained`` keeps gains, offsets and design; ``from_pretrained`` brings them back
    (pretrained.py). A wrapper that peft makes after ``attach`` trains and saves gains and offsets beside its
    adapters; one made before cannot save them, so its ``save_pretrained`` raises.

    Not modelled: dropout of attention weights. `gaincell.training.loop.train` trains without any dropout.
    """
    if _owner(model) is not None or attached_layers(model):
        raise ModelError(
            f"{type(model).__name__} is attached already: use set_design(model, design) to exchange the "
            "design, or detach(model) first"
        )
    owner = _pretrained(model)
    modules: list[Any] = list(attention_modules(owner).values())
    cells = _make_cells(modules, load_design(design).replace(layers=len(modules)), backend, gradient)
    interface.register()
    attachment = _Attachment(owner, modules[0])
    shared = [(module, module.config) for module in owner.modules() if _has_configuration(module)]
    setattr(owner, _RECORD, attachment)
    try:
        _copy_configurations(owner, attachment)
        for module, cell in zip(modules, cells, strict=True):
            module.gain_cell = cell
        attachment.install(modules, model)
        set_attention(owner, attention)
    except BaseException:
        detach(owner)
        for module, configuration in shared:
            module.config = configuration
        raise
    return model


def detach(model: AnyModel) -> AnyModel:
    """Remove gains, offsets and arrays: ``model`` computes again what it did before ``attach``, bit for bit.

    It keeps its own copy of the configuration it had, with whatever was changed there meanwhile.

    Example:

        >>> import gaincell
        >>> software = gaincell.detach(gaincell.load("tiny")[0])

    Raises:
        ModelError: the model is not attached.
    """
    owner = attached_model(model)
    attachment: _Attachment = getattr(owner, _RECORD)
    for hook in attachment.hooks:
        hook.remove()
    for module in _carriers(owner):
        del module.gain_cell
    for module, before in attachment.savers:
        vars(module).pop(_SAVE, None)
        if before is not None:
            setattr(module, _SAVE, before)
    for configuration, implementation in attachment.configurations:
        configuration._attn_implementation = implementation
    delattr(owner, _RECORD)
    return model


def attached_layers(model: nn.Module) -> list[GainCellAttention]:
    """The gain-cell modules of ``model``, wrapped or not, in the order of its layers; [] if not attached."""
    found = (interface.arrays_of(module) for module in model.modules())
    return sorted((cell for cell in found if cell is not None), key=lambda cell: cell.layer)


def required_layers(model: nn.Module) -> list[GainCellAttention]:
    """`attached_layers` of a model that must be attached.

    Raises:
        ModelError: it is not.
    """
    return attached_layers(model) or attached_layers(attached_model(model))


@contextmanager
def not_yet_calibrated(model: nn.Module) -> Iterator[None]:
    """Within the context, which uses nothing that arrays give, no forward pass asks for calibrated gains."""
    attachment: _Attachment = getattr(attached_model(model), _RECORD)
    before, attachment.checked = attachment.checked, interface.arrays_of(attachment.first)
    try:
        yield
    finally:
        attachment.checked = before


def computes_softmax(model: nn.Module) -> bool:
    """Whether ``model`` is attached, but set to softmax attention, which uses no arrays."""
    owner = _owner(model)
    return owner is not None and getattr(owner, _RECORD).function == interface.SOFTMAX


def computed_attention(model: nn.Module) -> Attention:
    """What an attached model is set to."""
    return "softmax" if computes_softmax(model) else "gain-cell"


def layers_in_use(model: nn.Module) -> list[GainCellAttention]:
    """``attached_layers`` that compute; [] where the model is set to softmax attention."""
    return [] if computes_softmax(model) else attached_layers(model)


def computing_layers(model: nn.Module) -> list[GainCellAttention]:
    """``layers_in_use`` for whoever wants a number of the hardware: the arrays must be in use.

    Raises:
        ModelError: the model is attached, but set to compute softmax attention.
    """
    if computes_softmax(model):
        raise ModelError(
            f"{type(attached_model(model)).__name__} is attached, but set to softmax attention, which uses "
            "no arrays: call gaincell.set_attention(model, 'gain-cell') first"
        )
    return attached_layers(model)


def set_design(model: AnyModel, design: Design | str | os.PathLike[str]) -> AnyModel:
    """Exchange the design (the cell, say) of an attached model; gains, offsets and weights stay.

    Example:

        >>> import gaincell
        >>> model, _ = gaincell.load("tiny")  # with linear cells
        >>> model = gaincell.set_design(model, "leroux2025")

    Raises:
        ModelError: the model is not attached; or has paired or balanced rows, and queries would have a sign;
            or balanced rows, and there would be no full pulses.
        DesignError: there is no such design, or its file is not acceptable.
    """
    attached_model(model)
    design = load_design(design).replace(layers=len(attached_layers(model)))
    for module in model.modules():
        if isinstance(module, GainCellAttention):  # in a wrapper of peft, every adapter's
            module.design = design
    return model


def set_attention(model: AnyModel, attention: Attention) -> AnyModel:
    """Switch an attached model between its arrays and its own softmax attention; see ``attach``.

    Example:

        >>> import gaincell
        >>> model, _ = gaincell.load("tiny")
        >>> model = gaincell.set_attention(model, "softmax")  # and back: "gain-cell"

    Raises:
        ModelError: the model is not attached, or an adapter that brought the gains is disabled.
        InputError: ``attention`` is none of the two.
    """
    if attention not in _FUNCTIONS:
        raise InputError(f"attention is {attention!r}; allowed: {', '.join(map(repr, _FUNCTIONS))}")
    owner, wanted = attached_model(model), _FUNCTIONS[attention]
    if attention == "gain-cell":
        interface.refuse_bare({*interface.bare_arrays(owner)} & {*attached_layers(owner)})
    for part in owner.modules():  # with configurations of their own
        if isinstance(part, PreTrainedModel):
            part.set_attn_implementation(wanted)
    wrong = {module.config._attn_implementation for module in _carriers(owner)} - {wanted}
    if wrong:
        raise ModelError(
            f"{type(owner).__name__} did not accept another attention implementation (still {wrong.pop()!r})"
        )
    getattr(owner, _RECORD).function = wanted
    return model


def _make_cells(
    modules: list[Any], design: Design, backend: BackendName, gradient: Gradient
) -> list[GainCellAttention]:
    """The arrays of every attention module, which is not changed."""
    cells = []
    for module in modules:
        device = device_of(module)
        cell = GainCellAttention(
            design,
            *geometry(module),
            layer=module.layer_idx,
            backend=backend,
            gradient=gradient,
            dtype=torch.float32 if device.type == "mps" else torch.float64,
            device=device,
        )
        cells.append(cell.train(module.training))
    return cells


def _has_configuration(module: nn.Module) -> bool:
    return isinstance(vars(module).get("config"), PretrainedConfig)


def _copy_configurations(owner: PreTrainedModel, attachment: _Attachment) -> None:
    """Give the model configurations of its own; modules that shared one share its copy."""
    copies: dict[int, Any] = {}
    for module in filter(_has_configuration, owner.modules()):
        before: Any = module.config
        known = id(before) in copies
        own = module.config = copy.deepcopy(before, copies)
        if known:
            continue
        implementation = before._attn_implementation
        if implementation in interface.NAMES:  # made from an attached model's
            implementation = owner.get_correct_attn_implementation(None)
        attachment.configurations.append((own, implementation))


def _carriers(model: nn.Module) -> list[Any]:
    """Attention modules that have gain-cell arrays."""
    return [module for module in model.modules() if interface.arrays_of(module) is not None]


def _owner(model: nn.Module) -> PreTrainedModel | None:
    """The transformers model that was attached: ``model`` itself or one inside it."""
    if not isinstance(model, nn.Module):
        raise ModelError(f"{model!r} is no model: load it first, by gaincell.load or transformers, say")
    return next((m for m in model.modules() if isinstance(m, PreTrainedModel) and _RECORD in vars(m)), None)


def _pretrained(model: nn.Module) -> PreTrainedModel:
    """``model``, or the model of transformers that it wraps."""
    found = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
    if not found or not set(found) <= set(found[0].modules()):
        number = "several models" if found else "no model"
        raise ModelError(f"{type(model).__name__} holds {number} of transformers; give one")
    return found[0]


def attached_model(model: nn.Module) -> PreTrainedModel:
    """The model of transformers that was attached: ``model``, or the one it wraps.

    Raises:
        ModelError: the model is not attached.
    """
    if (owner := _owner(model)) is None:
        inside = "is part of an attached model: give the whole model"
        not_yet = "is not attached: call gaincell.attach(model, design) first"
        raise ModelError(f"{type(model).__name__} {inside if attached_layers(model) else not_yet}")
    return owner
