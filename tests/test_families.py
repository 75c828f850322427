"Every causal language model that transformers ships, tiny and of random weights, scored and held against its own plain loop."

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.models.bamba import modeling_bamba
from transformers.models.mamba2 import modeling_mamba2

from l2m.configurations import quiet
from l2m.interface import Continuation
from l2m.models import chunk_scan
from l2m.probe import probe
from l2m.scoring import LanguageModel

VOCABULARY = 61
SIZES = {  # what a tiny model has instead of what its family's default has
    VOCABULARY: "vocab_size vocab_size_per_layer_input unpadded_vocab_size",
    64: "intermediate_size intermediate_size_mlp dense_intermediate_size n_inner ffn_dim encoder_ffn_dim decoder_ffn_dim "
    "ffn_hidden_size feed_forward_size dff dim_ff d_inner moe_intermediate_size expert_ffn_hidden_size shared_intermediate_size "
    "shared_expert_intermediate_size moe_shared_expert_intermediate_size shared_experts_intermediate_size mamba_d_ssm "
    "max_position_embeddings n_positions n_ctx max_seq_len context_length max_target_positions window_size index_topk",
    32: "hidden_size n_embd d_model embedding_dim emb_dim embedding_size input_embedding_size output_embedding_size "
    "word_embed_proj_dim lru_width attention_hidden_size q_lora_rank o_lora_rank router_hidden_size ple_embed_dim hc_lowrank",
    16: "kv_lora_rank qk_head_dim attention_head_dim linear_value_head_dim mamba_head_dim mamba_headdim chunk_size mamba_chunk_size "
    "block_size block_multiple_of kv_channels",
    8: "head_dim swa_head_dim dim_head d_head qk_nope_head_dim qk_rope_head_dim v_head_dim linear_head_dim linear_key_head_dim "
    "index_head_dim mamba_d_head mamba_n_heads n_mamba_heads mamba_num_heads mamba_d_state ssm_state_size state_size "
    "sliding_window sliding_window_size attention_window_size attention_chunk_size local_attention rotary_dim "
    "hidden_size_per_layer_input laurel_rank adapter_rank gated_norm_rank d_rel mamba_dt_rank time_step_rank attention_head_size "
    "prompt_length segment_types",
    4: "num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads num_decoder_attention_heads "
    "num_encoder_attention_heads attention_heads swa_num_attention_heads linear_num_heads linear_num_value_heads "
    "num_experts num_local_experts n_routed_experts moe_num_experts zero_expert_num index_block_size",
    2: "num_hidden_layers n_layer n_layers num_layers num_blocks decoder_layers num_decoder_layers encoder_layers "
    "num_encoder_layers num_layers_per_stack num_experts_per_tok num_experts_per_token moe_topk moe_k num_key_value_heads "
    "num_kv_heads num_query_groups swa_num_key_value_heads linear_num_key_heads index_n_heads layer_group_size",
    1: "n_group topk_group num_expert_group mamba_n_groups mamba_ngroups n_groups first_k_dense_replace num_dense_layers "
    "num_kv_shared_layers n_shared_experts num_shared_experts moe_num_shared_experts o_groups",
}
SIZE_OF = {name: size for size, names in SIZES.items() for name in names.split()}
OWN = {  # what a family needs besides
    "bamba": dict(attn_layer_indices=[1]),
    "cohere_compass_text": dict(layer_types=["full_attention", "sliding_attention"]),
    "deepseek_v2": dict(num_experts_per_tok=2),
    "dots1": dict(n_routed_experts=4, num_experts_per_tok=2, n_shared_experts=1),
    "dots3_note_text": dict(
        num_key_value_heads=4, swa_num_attention_heads=4, swa_num_key_value_heads=4, swa_q_lora_rank=32, swa_kv_lora_rank=16,
        swa_head_dim=16, swa_qk_nope_head_dim=8, swa_v_head_dim=8,
    ),
    "gemma3n_text": dict(
        num_hidden_layers=4, num_kv_shared_layers=2, layer_types=["sliding_attention", "full_attention"] * 2,
        activation_sparsity_pattern=[0.5, 0.0, 0.0, 0.0], intermediate_size=[64] * 4,
    ),
    "gpt_neo": dict(attention_types=[[["global", "local"], 1]], window_size=8),
    "jamba": dict(attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2, expert_layer_offset=1),
    "lfm2_moe": dict(layer_types=["conv", "full_attention"]),
    "mamba2": dict(num_heads=8, head_dim=8, expand=2),
    "qwen4_exp_text": dict(
        indexer_n_heads=2, indexer_kv_heads=1, indexer_head_dim=8, indexer_budget=16, indexer_compress_ratio=4,
    ),
    "reformer": dict(is_decoder=True, axial_pos_embds=False, attn_layers=["local", "local"], num_hidden_layers=2),
    "roc_bert": dict(pronunciation_vocab_size=61, shape_vocab_size=61, pronunciation_embed_dim=8, shape_embed_dim=8),
    "xmod": dict(default_language="en_XX"),
    "zamba": dict(num_hidden_layers=4, layers_block_type=["linear_attention", "hybrid"] * 2,
        attention_head_dim=16, attention_hidden_size=64),
    "zamba2": dict(
        num_hidden_layers=4, layers_block_type=["mamba", "hybrid"] * 2, hybrid_layer_ids=[1, 3], num_key_value_heads=4,
        n_mamba_heads=8, mamba_headdim=8, attention_hidden_size=64, attention_head_dim=16,
    ),
}  # fmt: skip
MISSING = {  # sizes that some defaults leave out
    "hunyuan_v1_dense": dict(head_dim=8),
    "hunyuan_v1_moe": dict(head_dim=8),
    "ministral": dict(head_dim=8),
    "nemotron": dict(head_dim=8, num_key_value_heads=2),
}


def layer_kinds(known):
    "One layer of each kind, at least two."
    for name in ("layer_types", "layers_block_type", "mlp_layer_types", "indexer_types"):
        if kinds := list(dict.fromkeys(known.get(name) or [])):
            yield name, kinds


def tiny(kind):
    "A configuration of some thousand parameters, of a decoder where the family has a choice."
    default = CONFIG_MAPPING[kind]()
    known = default.to_dict()
    sizes = {name: size for name, size in SIZE_OF.items() if isinstance(known.get(name), int) and known[name] > size}
    kinds = dict(layer_kinds(known))
    layers = max([2, *map(len, kinds.values())])
    sizes |= {name: layers for name in sizes if name == "num_hidden_layers"}
    kinds = {name: (value * layers)[:layers] for name, value in kinds.items()}
    heads = dict(num_key_value_heads=4) if "kv_lora_rank" in known else {}
    decoder = dict(is_decoder=True) if known.get("is_decoder") is False else {}
    ids = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2)
    return type(default)(**(sizes | kinds | heads | decoder | ids | MISSING.get(kind, {}) | OWN.get(kind, {})))


def build(kind, dtype=torch.float32):
    torch.manual_seed(0)
    with quiet():
        config = tiny(kind)
        with torch.device("meta"):
            size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
        assert size < 1e6, f"{size:,} parameters are not tiny"
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


KINDS = list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
NOT_TINY = "a composite whose parts do not shrink by their sizes alone"
CANNOT = {  # family: why it cannot be scored, or be built tiny from its sizes
    "blt": NOT_TINY,
    "cohere_compass_text": "its default has no rotary embedding for each kind of layer",
    "cpmant": "not causal: it reads a prompt both ways",
    "dbrx": "its default has no rotary embedding in the part for attention",
    "emu3": NOT_TINY,
    "gemma4_assistant": "its sizes contradict one another: a drafter beside another model",
    "gemma4_unified_assistant": "its sizes contradict one another: a drafter beside another model",
    "git": NOT_TINY,
    "mllama": NOT_TINY,
    "musicgen": "a decoder of sounds beside encoders, with several tokens per step",
    "musicgen_melody": "a decoder of sounds beside encoders, with several tokens per step",
    "phi4_multimodal": NOT_TINY,
    "prophetnet": "its head predicts several tokens at once and needs more than hidden vectors",
    "xlm": "not causal unless each text names its language",
    "xlnet": "not causal: it predicts in any order",
}
HALF_CANNOT = {  # only in half precision
    "inkling2_text": "transformers multiplies single by half precision in it",
    "xlstm": "transformers multiplies single by half precision in it",
}


def text_part(kind):
    "The family of a composite model's text, if it is one of its own."
    if kind in CANNOT:  # some of their defaults contradict themselves
        return None
    part = CONFIG_MAPPING[kind]().get_text_config(decoder=True)
    return part.model_type if part.model_type != kind and part.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES else None


def text(seed, *shape):
    return torch.randint(3, VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def plain(model, tokens):
    "What the model says of every token, from its table of logits."
    start = tokens.new_full((len(tokens), 1), 1)
    logits = model(torch.cat([start, tokens[:, :-1]], 1), use_cache=False).logits.float()
    return logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]


def differences(kind, dtype):
    "Mean differences in nats between the scorer and the plain loop, and between the loop here and in single precision."
    model = build(kind).to(dtype)
    scorer = LanguageModel(model, None, kind, 1)
    probe(scorer)
    contexts, after = text(1, 2, 17), [Continuation(0, text(2, 2, 9)), Continuation(7, text(3, 2, 12))]
    read, branches = scorer.logprobs(contexts, after)
    found = torch.cat([read, *branches], 1).float()
    whole = [contexts, *(torch.cat([contexts[:, : c.split], c.tokens], 1) for c in after)]
    truth = torch.cat([plain(model, w)[:, -n:] for w, n in zip(whole, (17, 9, 12))], 1)
    model.float()
    exact = torch.cat([plain(model, w)[:, -n:] for w, n in zip(whole, (17, 9, 12))], 1)
    return scorer, (found - truth).abs().mean().item(), (truth - exact).abs().mean().item()


def fault(kind, dtype):
    "What is wrong with a family's scores, in a few words; None: nothing."
    try:
        _, off, rounding = differences(kind, dtype)
    except Exception as error:  # whatever a model's own code raises
        return f"{type(error).__name__}: {error}"
    return None if off <= (1e-5 if dtype == torch.float32 else 1e-4 + 2 * rounding) else f"{off:.2g} nats off"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if text_part(kind) is None])
def test_every_family_equals_its_plain_loop(kind):
    "And an entry of the tables that works is an entry too many."
    single = fault(kind, torch.float32)
    assert (single is not None) == (kind in CANNOT), single
    if kind not in CANNOT:
        half = fault(kind, torch.bfloat16)
        assert (half is not None) == (kind in HALF_CANNOT), half


def test_the_text_of_a_composite_is_a_family():
    parts = {kind: part for kind in KINDS if (part := text_part(kind))}
    assert len(parts) >= 10 and set(parts.values()) <= set(KINDS) and not set(parts) & set(CANNOT)
    assert set(CANNOT) | set(HALF_CANNOT) <= set(KINDS)


RECURRENT = "mamba mamba2 bamba falcon_h1 zamba2 granitemoehybrid nemotron_h qwen3_next recurrent_gemma".split()


@pytest.mark.parametrize("kind", RECURRENT)
def test_recurrent_families_score_in_float16(kind):
    assert fault(kind, torch.float16) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["mamba2", "bamba"])
def test_our_scan_scores_in_half_precision(kind, dtype, monkeypatch):
    for module in (modeling_mamba2, modeling_bamba):  # put back afterwards
        monkeypatch.setattr(module, "mamba2_chunk_scan", chunk_scan)
    assert fault(kind, dtype) is None


@pytest.mark.parametrize(
    "kind", ["llama", "gemma2", "mixtral", "mamba2", "falcon_h1", "qwen3_next", "gpt2", "opt", "bloom"]
)
def test_side_by_side_is_one_by_one(kind):
    "What a GPU reads in few passes, padded on the right, costs what it costs on a walk."
    scorer = LanguageModel(build(kind), None, kind, 1)
    probe(scorer)
    contexts = text(1, 2, 17)
    after = [Continuation(s, text(2 + s, 2, m)) for s, m in ((0, 9), (0, 1), (7, 12), (7, 3), (16, 1))]
    for bos in (1, None):
        other = scorer.with_bos(bos)
        read, branches = other.logprobs(contexts, after)
        for other.pass_tokens in (1, 20, 10_000):
            again, found = other.logprobs(contexts, after)
            for a, b in zip([read, *branches], [again, *found]):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
