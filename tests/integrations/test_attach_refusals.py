"""What is not modelled is refused by name: one line, model and feature, nothing changed."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
import transformers
from transformers import DynamicCache, PreTrainedModel, StaticCache, masking_utils
from transformers.masking_utils import and_masks, causal_mask_function, packed_sequence_mask_function

from gaincell.chips.design import Design
from gaincell.chips.design_file import load_design
from gaincell.circuits.sinks import Sinks
from gaincell.devices.writing import Writing
from gaincell.errors import InputError, ModelError
from gaincell.integrations.hf.attach import attach, attached_layers
from gaincell.integrations.hf.masks import key_index_mask
from gaincell.integrations.hf.ring_cache import RingCache

from .families import FALCON_HAS_INTERFACE, MISTRAL_WINDOW, build, is_since, padding_mask, tokens

SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "pad_token_id": 0,
}
GROUPED = {**SMALL, "num_key_value_heads": 2, "intermediate_size": 48, "head_dim": 8}
T5 = {"vocab_size": 97, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
BART = {
    "vocab_size": 97,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
}
MLA = {
    **SMALL,
    "intermediate_size": 48,
    "kv_lora_rank": 8,
    "q_lora_rank": None,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "first_k_dense_replace": 2,
}
CHUNKED = {
    **GROUPED,
    "intermediate_size_mlp": 48,
    "num_local_experts": 1,
    "attention_chunk_size": 8,
    "layer_types": ["chunked_attention", "full_attention"],
}


def make(name: str, **settings: object) -> PreTrainedModel:
    """A tiny random model of one of transformers' classes, e.g. "GptOssForCausalLM"."""
    for head in ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "ForMaskedLM"):
        if name.endswith(head):
            stem = name.removesuffix(head)
    config_name = f"{stem}TextConfig" if stem == "Llama4" else f"{stem}Config"
    config = getattr(transformers, config_name)(**settings)
    model: PreTrainedModel = getattr(transformers, name)(config).eval()
    return model


@pytest.fixture(scope="module")
def design() -> Design:
    return load_design("leroux2025").replace(tile=8, window=16)


UNMODELLED = {
    "sinks": ("GptOssForCausalLM", {**GROUPED, "num_local_experts": 2}, "attention sinks"),
    "softcap": ("Gemma2ForCausalLM", GROUPED, "soft-capping"),
    "alibi-bloom": (
        "BloomForCausalLM",
        {"vocab_size": 97, "hidden_size": 32, "n_layer": 2, "n_head": 4},
        "ALiBi",
    ),
    "alibi-mpt": ("MptForCausalLM", {"vocab_size": 97, "d_model": 32, "n_layers": 2, "n_heads": 4}, "ALiBi"),
    "alibi-falcon": ("FalconForCausalLM", {**SMALL, "alibi": True}, "ALiBi"),
    "gpt-neo": (
        "GPTNeoForCausalLM",
        {
            "vocab_size": 97,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global"], 2]],
        },
        "AttentionInterface",
    ),
    "cross": ("GPT2LMHeadModel", {**SMALL, "add_cross_attention": True}, "cross-attention"),
    "bart-decoder": ("BartForCausalLM", BART, "cross-attention"),
    "bart": ("BartForConditionalGeneration", BART, "encoder and cross-attention"),
    "t5": ("T5ForConditionalGeneration", T5, "encoder and cross-attention"),
    "bidirectional": (
        "ModernBertForMaskedLM",
        {**SMALL, "intermediate_size": 48},
        "bidirectional|AttentionInterface",
    ),
    "bert": ("BertForMaskedLM", {**SMALL, "intermediate_size": 48}, "bidirectional|AttentionInterface"),
    "chunked": ("Llama4ForCausalLM", CHUNKED, "chunked attention"),
    "mla": ("DeepseekV3ForCausalLM", MLA, "multi-head latent attention"),
    "differential": ("DiffLlamaForCausalLM", GROUPED, "differential attention|AttentionInterface"),
    "keys repeated": (
        "JetMoeForCausalLM",
        {
            "vocab_size": 97,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_key_value_heads": 2,
            "kv_channels": 8,
            "intermediate_size": 48,
            "num_local_experts": 4,
        },
        "keys and values repeated outside the attention function",
    ),
    "mamba": (
        "MambaForCausalLM",
        {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2},
        "AttentionInterface",
    ),
}
if not is_since(FALCON_HAS_INTERFACE):
    UNMODELLED["falcon"] = (
        "FalconForCausalLM",
        {**SMALL, "alibi": False},
        "outside transformers' AttentionInterface",
    )
if hasattr(transformers, "DoryForCausalLM"):  # newer versions
    UNMODELLED["recurrent"] = ("DoryForCausalLM", GROUPED, r"repeated layers \(config.n_recurrent_loops")


@pytest.mark.parametrize("case", UNMODELLED)
def test_models_with_unmodelled_features_are_refused(case: str, design: Design) -> None:
    name, settings, feature = UNMODELLED[case]
    model = make(name, **settings)
    state, implementation = set(model.state_dict()), model.config._attn_implementation
    with pytest.raises(ModelError, match=feature) as caught:
        attach(model, design)
    assert type(model).__name__ in str(caught.value)
    assert "\n" not in str(caught.value)
    assert set(model.state_dict()) == state
    assert model.config._attn_implementation == implementation
    assert attached_layers(model) == []


@pytest.mark.skipif(is_since(FALCON_HAS_INTERFACE), reason="transformers lets it be attached since then")
def test_an_attached_falcon_without_alibi_is_not_blamed_for_it(design: Design) -> None:
    with pytest.raises(ModelError) as caught:
        attach(make("FalconForCausalLM", **SMALL, alibi=False), design)
    assert "ALiBi" not in str(caught.value)


def test_a_layer_that_is_computed_several_times_a_token_is_refused(design: Design) -> None:
    model = build("llama")
    model.model.layers.append(model.model.layers[1])
    model.config.num_hidden_layers = 3
    attach(model, design)
    with pytest.raises(ModelError, match="LlamaAttention of layer 1 is computed several times a token"):
        model(tokens(1, 8), use_cache=False)
    again = torch.zeros(1, 8, 32), model.model.rotary_emb(torch.zeros(1), torch.arange(8)[None])
    for _ in range(2):  # outside of a pass, as gradient checkpointing does
        model.model.layers[0].self_attn(*again, attention_mask=torch.arange(8)[None, None, None])


def test_a_sliding_window_that_a_family_does_not_pass(design: Design) -> None:
    """Refused with what to do, except where it is no shorter than the positions: then it changes nothing."""
    model = build("llama")
    model.config.sliding_window = model.config.max_position_embeddings
    attach(model, design)(tokens(1, 8))
    model.config.sliding_window = 12
    with pytest.raises(ModelError, match=r"sliding window \(12\) .* model.config.sliding_window = None"):
        model(tokens(1, 8))
    model.config.sliding_window = None
    model(tokens(1, 8))


def test_causality_switched_off_in_the_configuration(design: Design) -> None:
    model = build("llama")
    model.config.is_causal = False
    with pytest.raises(ModelError, match=r"bidirectional attention \(config.is_causal\)"):
        attach(model, design)


def test_causality_switched_off_after_attaching(design: Design) -> None:
    model = attach(build("llama"), design)
    model.config.is_causal = False
    with pytest.raises(ModelError, match="bidirectional_mask_function"):
        model(tokens(1, 8))


CALLS: dict[str, tuple[Callable[[PreTrainedModel], object], str]] = {
    "weights": (lambda model: model(tokens(1, 8), output_attentions=True), "output_attentions=True"),
    "bidirectional": (lambda model: model(tokens(1, 8), is_causal=False), r"is_causal=False"),
    "additive mask": (
        lambda model: model(tokens(1, 8), attention_mask=torch.zeros(1, 1, 8, 8)),
        "prepared attention mask",
    ),
    "boolean mask": (
        lambda model: model(tokens(1, 8), attention_mask=torch.ones(1, 1, 8, 8).tril().bool()),
        "prepared attention mask",
    ),
    "integer mask": (
        lambda model: model(tokens(1, 8), attention_mask=torch.ones(1, 1, 1, 8, dtype=torch.long)),
        "prepared attention mask",
    ),
    "packing": (
        lambda model: model(
            tokens(1, 8), position_ids=torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3]]), use_cache=False
        ),
        "packed",
    ),
    "packing beside a cache": (
        lambda model: model(
            tokens(1, 8), position_ids=torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3]]), use_cache=True
        ),
        r"position_ids restart within a row \(packed sequences\)",
    ),
    "short mask": (
        lambda model: model(
            tokens(1, 1),
            attention_mask=torch.ones(1, 1),
            past_key_values=model(tokens(1, 8), use_cache=True).past_key_values,
        ),
        "give the mask of the whole sequence",
    ),
    "static cache": (
        lambda model: model.generate(
            tokens(1, 8),
            attention_mask=torch.ones(1, 8),
            max_new_tokens=3,
            cache_implementation="static",
            do_sample=False,
        ),
        r"static \(compileable\) caches are not modelled",
    ),
}


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral", "gpt_neox"])
@pytest.mark.parametrize("call", CALLS)
def test_calls_that_are_not_modelled_are_refused(family: str, call: str, design: Design) -> None:
    model = attach(build(family), design)
    run, message = CALLS[call]
    with torch.no_grad(), pytest.raises(ModelError, match=message) as caught:
        run(model)
    assert "\n" not in str(caught.value)


def test_packing_beside_a_cache_is_refused_in_arguments_without_names(design: Design) -> None:
    model = attach(build("llama"), design)
    positions = torch.arange(8)[None]
    model.model(tokens(1, 8), None, positions)
    with torch.no_grad(), pytest.raises(ModelError, match="position_ids restart within a row"):
        model.model(tokens(1, 8), None, positions % 4)


@pytest.mark.skipif(
    not hasattr(masking_utils, "remap_positions_for_packed_sequence"),
    reason="this version of transformers has no mask in terms of positions",
)
def test_the_mask_of_packed_sequences_is_accepted_where_nothing_is_packed() -> None:
    """So transformers makes it while torch.compile traces."""

    from transformers.masking_utils import (
        bidirectional_mask_function,
        remap_positions_for_packed_sequence,
    )

    def mask_of(positions: torch.Tensor) -> torch.Tensor:
        sequence = (positions.diff(prepend=positions[:, :1] - 1) != 1).cumsum(-1)
        causal = remap_positions_for_packed_sequence(causal_mask_function, positions)
        return key_index_mask(
            1, 8, mask_function=and_masks(causal, packed_sequence_mask_function(sequence)), q_length=8
        )

    positions = torch.arange(8)[None]
    assert mask_of(positions + 3).flatten().tolist() == list(range(8))
    for packed in (positions % 4, positions + (positions > 3)):
        with pytest.raises(ModelError, match="packed_sequence_mask_function, remap_positions"):
            mask_of(packed)
    bidirectional = remap_positions_for_packed_sequence(bidirectional_mask_function, positions)
    with pytest.raises(ModelError, match="bidirectional_mask_function"):
        key_index_mask(1, 8, mask_function=bidirectional, q_length=8)


def test_weights_asked_for_in_the_configuration(design: Design) -> None:
    model = build("llama")
    model.set_attn_implementation("eager")
    model.config.output_attentions = True
    attach(model, design)
    with pytest.raises(ModelError, match="output_attentions=True"):
        model(tokens(1, 8))


@pytest.mark.parametrize("option", ["backend", "gradient"])
def test_an_unknown_option_is_refused_before_anything_changes(option: str, design: Design) -> None:
    model = build("llama")
    with pytest.raises(InputError, match=f"{option} is 'fast'; choose one of "):
        attach(model, design, **{option: "fast"})
    assert not attached_layers(model)


@pytest.mark.parametrize("argument", ["softcap", "s_aux", "position_bias", "cu_seq_lens_q", "invented"])
def test_an_unknown_argument_of_the_attention_function_is_refused(argument: str, design: Design) -> None:
    model = attach(build("llama"), design)
    with pytest.raises(ModelError, match=f"LlamaAttention passes '{argument}' to its attention function"):
        model(tokens(1, 8), **{argument: torch.ones(1)})
    model(tokens(1, 8), **{argument: None})


@pytest.mark.parametrize("family", ["mistral", "qwen2"])
def test_holes_in_the_padding_with_a_sliding_window(family: str, design: Design) -> None:
    """Exact as long as the sliding cache holds what the window reaches, refused from then on."""
    model, ids, mask = attach(build(family), design), tokens(1, 40), torch.ones(1, 40, dtype=torch.int64)
    mask[0, 8:11] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        whole = model(ids, attention_mask=mask, position_ids=positions, use_cache=False).logits[
            0, mask[0] == 1
        ]
        alone = model(ids[:, mask[0] == 1], use_cache=False).logits[0]
        torch.testing.assert_close(whole, alone, atol=1e-5, rtol=0)
        cache, got = DynamicCache(config=model.config), []
        (argument,) = RingCache(model).argument

        def give(start: int, end: int) -> None:
            inputs = {"attention_mask": mask[:, :end], "position_ids": positions[:, start:end]}
            got.append(model(ids[:, start:end], **inputs, **{argument: cache}).logits)

        give(0, 11)
        with pytest.raises(ModelError, match="padding between real tokens"):
            any(give(t, t + 1) for t in range(11, 40))
    given = torch.cat(got, 1)[0, mask[0, : 10 + len(got)] == 1]
    assert (len(given) > 8) == (family == "mistral")  # the other's window is that of the prompt
    torch.testing.assert_close(given, alone[: len(given)], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "feature", [{"sinks": Sinks(tokens=2)}, {"writing": Writing(discharge_residual=0.3)}]
)
def test_a_sliding_cache_keeps_what_the_chip_still_reads(
    feature: dict[str, Sinks | Writing], design: Design
) -> None:
    """The first tokens beside the ring, and what a write leaves of the token before it in its column."""
    (argument,) = RingCache(attach(build("mistral"), design)).argument
    model, ids = attach(build("mistral"), design.replace(**feature)), tokens(1, 40)
    with torch.no_grad():
        whole = model(ids, use_cache=False).logits
        for cache in (DynamicCache(), DynamicCache(config=model.config)):
            kept = cache.layers == []  # of one kind, made as they are needed: nothing is dropped
            got = [model(ids[:, :20], **{argument: cache}).logits]
            with nullcontext() if kept else pytest.raises(ModelError, match="cache dropped tokens that this"):
                got += [model(ids[:, t : t + 1], **{argument: cache}).logits for t in range(20, 40)]
                torch.testing.assert_close(torch.cat(got, 1), whole, atol=1e-5, rtol=0)


def test_static_sliding_caches(design: Design) -> None:
    """Exact where they hold the whole window, refused where they do not."""
    model, ids = attach(build("mistral"), design), tokens(1, 30)
    (argument,) = RingCache(model).argument

    def cached(slots: int) -> torch.Tensor:
        cache, starts = StaticCache(config=model.config, max_cache_len=slots), (0, 20, 21, 25, 26)
        parts = zip(starts, (*starts[1:], 30), strict=True)
        return torch.cat([model(ids[:, start:end], **{argument: cache}).logits for start, end in parts], 1)

    with torch.no_grad():
        whole = model(ids, use_cache=False).logits
        for slots in (MISTRAL_WINDOW, 30):
            torch.testing.assert_close(cached(slots), whole, atol=1e-5, rtol=0)
        with pytest.raises(ModelError, match="fewer tokens than the model's sliding window of 12 reaches"):
            cached(MISTRAL_WINDOW - 1)


def test_a_module_without_arrays(design: Design) -> None:
    """A configuration shared with an attached model must not make another model compute something else."""
    model = attach(build("llama"), design)
    other = type(model)(model.config).eval()
    with pytest.raises(ModelError, match="has no gain-cell arrays"):
        other(tokens(1, 8))


def test_a_sequence_of_padding_alone_is_harmless(design: Design) -> None:
    model = attach(build("llama"), design)
    output = model(tokens(2, 8), attention_mask=padding_mask([8, 0], 8, "left"))
    assert output.logits.isfinite().all()
