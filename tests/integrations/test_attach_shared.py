"""An attached model computes in its arrays whatever happens to other models, or says that it does not.

Models that share a configuration, copies, wrappers of peft; attach and detach leave nothing half done.
"""

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from types import MethodType
from typing import Any

import peft
import pytest
import torch
from tests.tiers import slow
from torch import Tensor, nn
from transformers import PreTrainedModel

from gaincell.adaptation.statistics import collect_statistics
from gaincell.chips.design import Design
from gaincell.chips.design_file import load_design
from gaincell.devices.variability import Mismatch
from gaincell.errors import DesignError, ModelError
from gaincell.evaluation.ablation import ablate
from gaincell.evaluation.activity import measure_activity
from gaincell.evaluation.chips import over_chips
from gaincell.evaluation.codes import code_use, signal_use
from gaincell.evaluation.context import perplexity_by_context
from gaincell.evaluation.dump import dump_layer
from gaincell.evaluation.fidelity import fidelity
from gaincell.evaluation.pause import perplexity_after_pause
from gaincell.evaluation.perplexity import perplexity
from gaincell.integrations.hf import attach as attach_module
from gaincell.integrations.hf.attach import attach, attached_layers, detach, set_attention, set_design
from gaincell.integrations.hf.base_model import load_base
from gaincell.integrations.hf.checkpoint import load_run, save
from gaincell.integrations.hf.ring_cache import RingCache, feed

from .families import build, tokens

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"  # peft asks for it
)
TWO = pytest.mark.parametrize("family", ["llama", "gpt2"])
TARGETS = {"llama": ["q_proj", "down_proj"], "gpt2": ["c_attn", "c_proj"]}
NOT_BY_ARRAYS = r"of layer 0 is attached, but its attention function is 'sdpa': call gaincell.set_attention"


@pytest.fixture(scope="module")
def design() -> Design:
    return load_design("leroux2025").replace(tile=8, window=16)


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(input_ids=tokens(2, 20), use_cache=False).logits
    return result


def twins(family: str) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Two models of other weights that share one configuration object."""
    first, second = build(family), build(family, seed=1)
    for module in second.modules():
        if "config" in vars(module):
            module.config = first.config
    return first, second


def with_lora(family: str, seed: int = 0) -> Any:
    """A model in peft's wrapper, its adapters not zero."""
    wrapped = peft.get_peft_model(
        build(family, seed),
        peft.LoraConfig(r=2, lora_alpha=4, target_modules=TARGETS[family], fan_in_fan_out=family == "gpt2"),
    )
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if ".lora_" in name:
                parameter.copy_(parameter.normal_(0.0, 0.1).half())  # as they are saved
    return wrapped.eval()


def state_of(model: nn.Module) -> tuple[object, ...]:
    """What attach could leave behind: attributes, hooks and configuration of every module."""
    modules = [
        (
            name,
            sorted(vars(m)),
            [len(h) for h in (m._forward_hooks, m._forward_pre_hooks, m._state_dict_pre_hooks)],
            id(vars(m).get("config")),
        )
        for name, m in model.named_modules()
    ]
    return (*modules, model.config._attn_implementation)


@TWO
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_models_that_share_a_configuration(family: str, order: tuple[int, int], design: Design) -> None:
    """Each is attached and detached on its own, in any order, and is then what it was, bit for bit."""
    models = twins(family)
    software = [logits(model) for model in models]
    attach(models[0], design)
    hardware = [logits(models[0])]
    assert torch.equal(logits(models[1]), software[1])
    hardware.append(logits(attach(models[1], design)))
    assert torch.equal(logits(models[0]), hardware[0])
    first, second = order
    assert torch.equal(logits(detach(models[first])), software[first])
    assert torch.equal(logits(models[second]), hardware[second])
    models[first].set_attn_implementation("eager")
    assert torch.equal(logits(models[second]), hardware[second])
    assert torch.equal(logits(detach(models[second])), software[second])
    assert models[second].config._attn_implementation == "sdpa"


@TWO
def test_what_is_changed_in_the_configuration_stays(family: str, design: Design) -> None:
    model = attach(build(family), design)
    model.resize_token_embeddings(101)
    assert detach(model).config.vocab_size == 101


@TWO
def test_a_model_made_from_the_configuration_of_an_attached_one(family: str, design: Design) -> None:
    model = attach(build(family), design)
    other = type(model)(copy.deepcopy(model.config)).eval()
    other.load_state_dict(build(family).state_dict())
    with pytest.raises(ModelError, match="has no gain-cell arrays"):
        logits(other)
    assert torch.equal(logits(attach(other, design)), logits(model))
    assert torch.equal(logits(detach(other)), logits(build(family)))


HARDWARE_NUMBERS: dict[str, Callable[[Any, Path], object]] = {
    "activity": lambda model, _: measure_activity(model, [tokens(1, 12)], "text"),
    "ablation": lambda model, _: ablate(model, tokens(1, 40)[0], "blocks-12"),
    "chips": lambda model, _: over_chips(model, lambda: perplexity(model, tokens(1, 40)[0], "blocks-12"), 2),
    "fidelity": lambda model, _: fidelity(model, build(model.config.model_type), tokens(1, 12)),
    "codes": lambda model, _: code_use(model, [tokens(1, 12)]),
    "signals": lambda model, _: signal_use(model, [tokens(1, 12)]),
    "dump": lambda model, folder: dump_layer(model, tokens(1, 12), 0, folder / "layer.safetensors"),
    "pause": lambda model, _: perplexity_after_pause(model, tokens(1, 40)[0], 1e-3, 12),
    "statistics": lambda model, _: collect_statistics(model, [tokens(1, 12)]),
    "ring": lambda model, _: feed(model, RingCache(model), tokens(1, 12)),
}
ANY_NUMBERS: dict[str, Callable[[Any, Path], object]] = {
    "perplexity": lambda model, _: perplexity(model, tokens(1, 40)[0], "blocks-12"),
    "context": lambda model, _: perplexity_by_context(model, tokens(1, 80)[0], 40),
    "generation": lambda model, _: model.generate(tokens(1, 4), max_new_tokens=2, do_sample=False),
}


def _numbers_of_two(*expensive: tuple[str, str]) -> list[Any]:
    """Every number of both families, of which the expensive ones run in the slow tier."""
    pairs = product(HARDWARE_NUMBERS | ANY_NUMBERS, ("llama", "gpt2"))
    return [slow(*pair) if pair in expensive else pair for pair in pairs]


@pytest.mark.parametrize(("number", "family"), _numbers_of_two(("pause", "llama"), ("ablation", "gpt2")))
def test_no_hardware_number_without_arrays(family: str, number: str, design: Design, tmp_path: Path) -> None:
    """The attention implementation of an attached model is changed behind our back."""
    chip = design.replace(mismatch=Mismatch(gain_std=0.1)) if number == "chips" else design
    model = attach(build(family), chip)
    measure = (HARDWARE_NUMBERS | ANY_NUMBERS)[number]
    measure(model, tmp_path)
    model.set_attn_implementation("sdpa")
    with torch.no_grad(), pytest.raises(ModelError, match=NOT_BY_ARRAYS):
        measure(model, tmp_path)
    set_attention(model, "gain-cell")
    measure(model, tmp_path)


@pytest.mark.parametrize("number", HARDWARE_NUMBERS)
def test_no_hardware_number_of_the_softmax_passthrough(number: str, design: Design, tmp_path: Path) -> None:
    model = attach(build("llama"), design, attention="softmax")
    with torch.no_grad(), pytest.raises(ModelError, match="softmax"):
        HARDWARE_NUMBERS[number](model, tmp_path)


def test_a_replaced_forward_is_noticed(design: Design) -> None:
    """Not the string in the configuration counts, but what computed."""
    model = attach(build("llama"), design)
    attention = model.model.layers[1].self_attn
    software = build("llama").model.layers[1].self_attn

    def forward(self: Any, *arguments: Any, **keywords: Any) -> Any:
        return software(*arguments, **keywords | {"attention_mask": None})

    attention.forward = MethodType(forward, attention)
    with pytest.raises(
        ModelError, match="LlamaAttention of layer 1 is attached, but its attention function is another"
    ):
        logits(model)


def test_a_failed_layer_does_not_vouch_for_the_next_pass(design: Design) -> None:
    """The arrays of the only layer computed, then its output projection failed."""
    model = build("llama")
    model.model.layers = model.model.layers[:1]
    attach(model, design)

    def fail(*_: Any) -> None:
        raise MemoryError

    hook = model.model.layers[0].self_attn.o_proj.register_forward_pre_hook(fail)
    with pytest.raises(MemoryError):
        logits(model)
    hook.remove()
    model.set_attn_implementation("sdpa")
    with pytest.raises(ModelError, match=NOT_BY_ARRAYS):
        logits(model)


def test_threads_do_not_vouch_for_each_other(design: Design) -> None:
    """One model computes in its arrays, another does not, at the same time: only that one is refused."""
    arrays, softmax = attach(build("llama"), design), attach(build("llama"), design)
    softmax.model.layers[0].self_attn.forward = build("llama").model.layers[0].self_attn.forward
    expected = logits(arrays)

    def compute(n: int) -> bool:
        if n % 2:
            return torch.equal(logits(arrays), expected)
        with pytest.raises(ModelError, match="of layer 0 is attached, but its attention function is another"):
            softmax.model.layers[0].self_attn(*inputs[0], **inputs[1] | {"attention_mask": None})
        return True

    inputs: list[Any] = []
    hook = arrays.model.layers[0].self_attn.register_forward_pre_hook(
        lambda _, args, kwargs: inputs.extend((args, kwargs)), with_kwargs=True
    )
    logits(arrays)
    hook.remove()
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(compute, range(40)))


@TWO
def test_copies_are_independent(family: str, design: Design) -> None:
    model = attach(build(family), design)
    hardware, other = logits(model), copy.deepcopy(model)
    other.set_attn_implementation("sdpa")
    assert torch.equal(logits(model), hardware)
    with pytest.raises(ModelError, match=NOT_BY_ARRAYS):
        logits(other)
    set_attention(other, "softmax")
    torch.testing.assert_close(logits(other), logits(build(family)), atol=1e-5, rtol=0)
    assert torch.equal(logits(model), hardware)
    assert torch.equal(logits(detach(other)), logits(build(family)))


@TWO
def test_attach_to_a_model_in_peft(family: str, design: Design, tmp_path: Path) -> None:
    """Adapters take part, in arrays and out of them, and are saved with the gains."""
    build(family).save_pretrained(tmp_path / "base")
    smooth = design.replace(storage_levels=None, query_levels=None, readout="none")
    wrapped = with_lora(family).double()
    software, before = logits(wrapped), state_of(wrapped)
    attach(wrapped, smooth)
    assert len(attached_layers(wrapped)) == 2
    hardware = logits(wrapped)
    merged = logits(copy.deepcopy(wrapped).merge_and_unload())
    torch.testing.assert_close(merged, hardware, atol=1e-9, rtol=0)
    with wrapped.disable_adapter():
        assert (logits(wrapped) - hardware).abs().max() > 0.05
    run = save(wrapped, tmp_path / "run", base=tmp_path / "base")
    torch.testing.assert_close(logits(load_run(run, dtype=torch.float64).model), hardware, atol=1e-5, rtol=0)
    for one in (wrapped, wrapped.get_base_model()):
        with pytest.raises(ModelError, match=r"use gaincell\.save"):
            one.save_pretrained(tmp_path / "never")
    assert not (tmp_path / "never").exists()
    assert torch.equal(logits(detach(wrapped)), software)
    after = state_of(wrapped)
    assert [entry[:3] for entry in after[:-1]] == [entry[:3] for entry in before[:-1]]
    wrapped.save_pretrained(tmp_path / "adapters")
    assert (tmp_path / "adapters" / "adapter_model.safetensors").is_file()


@pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning")  # behind peft's forward
@pytest.mark.parametrize(("number", "family"), _numbers_of_two(("ablation", "llama")))
def test_numbers_of_a_model_in_peft(family: str, number: str, design: Design, tmp_path: Path) -> None:
    chip = design.replace(mismatch=Mismatch(gain_std=0.1)) if number == "chips" else design
    (HARDWARE_NUMBERS | ANY_NUMBERS)[number](attach(with_lora(family), chip), tmp_path)


def _two_adapters(wrapped: Any) -> None:
    wrapped.add_adapter("other", peft.LoraConfig(r=2, target_modules=["q_proj"]))


@pytest.mark.parametrize(
    "change", [lambda m: m.merge_adapter(), lambda m: m.base_model.disable_adapter_layers(), _two_adapters]
)
def test_adapters_that_a_file_would_not_hold(
    change: Callable[[Any], None], design: Design, tmp_path: Path
) -> None:
    build("llama").save_pretrained(tmp_path / "base")
    wrapped = attach(with_lora("llama"), design)
    change(wrapped)
    with pytest.raises(ModelError, match="merge them into the weights first"):
        save(wrapped, tmp_path / "run", base=tmp_path / "base")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("wrap", [build, with_lora])
@pytest.mark.parametrize(
    "step",
    ["register", "_copy_configurations", "set_attention", "GainCellAttention", "register_forward_hook"],
)
def test_attach_does_all_or_nothing(
    step: str, wrap: Callable[[str], Any], design: Design, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = wrap("gpt2")
    before, software = state_of(model), logits(model)

    def fail(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    places: dict[str, Any] = {"register": attach_module.interface, "register_forward_hook": nn.Module}
    place = places.get(step, attach_module)
    monkeypatch.setattr(place, step, fail)
    with pytest.raises(KeyboardInterrupt):
        attach(model, design)
    monkeypatch.undo()
    assert state_of(model) == before
    assert torch.equal(logits(model), software)
    assert len(attached_layers(attach(model, design))) == 2


def test_detach_needs_nothing_of_transformers(design: Design, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused switch of the implementation would leave a model without arrays, set to use them."""
    model = attach(build("llama"), design)

    def refuse(*_: Any, **__: Any) -> None:
        raise ImportError("flash_attn is not installed")

    monkeypatch.setattr(type(model), "set_attn_implementation", refuse)
    assert torch.equal(logits(detach(model)), logits(build("llama")))


def test_save_pretrained_of_an_own_kind_comes_back(design: Design, tmp_path: Path) -> None:
    model, saved = build("llama"), []
    model.save_pretrained = saved.append  # type: ignore[method-assign,assignment]
    attach(model, design)
    with pytest.raises(ModelError, match="a part of an attached model"):
        model.base_model.save_pretrained(tmp_path)
    model.save_pretrained("attached")
    detach(model).save_pretrained("here")
    assert saved == ["attached", "here"]


def test_a_design_by_its_name_or_file(tmp_path: Path) -> None:
    load_design("ideal").save(tmp_path / "own.toml")
    model = attach(build("llama"), "leroux2025")
    assert attached_layers(model)[0].design.name == "leroux2025"
    assert attached_layers(set_design(model, tmp_path / "own.toml"))[0].design.name == "ideal"
    with pytest.raises(DesignError, match="leroux2052"):
        attach(build("llama"), "leroux2052")


def test_a_base_model_by_its_directory(design: Design, tmp_path: Path) -> None:
    build("llama").save_pretrained(tmp_path / "base")
    model = attach(build("llama"), design)
    for base in (tmp_path / "base", str(tmp_path / "base"), load_base(tmp_path / "base")):
        run = save(model, tmp_path / "run", base=base)
        assert torch.equal(logits(load_run(run, design=design).model), logits(model))


def test_what_is_not_one_model_of_transformers(design: Design) -> None:
    with pytest.raises(ModelError, match="Linear holds no model of transformers"):
        attach(nn.Linear(2, 2), design)
    with pytest.raises(ModelError, match="ModuleList holds several models of transformers"):
        attach(nn.ModuleList([build("llama"), build("gpt2")]), design)
