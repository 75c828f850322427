"Every causal language model that transformers ships, tiny and of random weights, scored and held against its own plain loop."

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from l2m.configurations import quiet
from l2m.interface import Continuation
from l2m.probe import probe
from l2m.scoring import LanguageModel

VOCABULARY = 61
SIZES = {  # what a tiny model has instead of what its family's default has
    VOCABULARY: "vocab_size vocab_size_per_layer_input unpadded_vocab_size",
    64: "intermediate_size intermediate_size_mlp dense_intermediate_size n_inner ffn_dim encoder_ffn_dim decoder_ffn_dim "
    "ffn_hidden_size feed_forward_size dff dim_ff d_inner moe_intermediate_size expert_ffn_hidden_size shared_intermediate_size "
    "shared_expert_intermediate_size moe_shared_expert_intermediate_size shared_experts_intermediate_size mamba_d_ssm "
    "max_position_embeddings n_positions n_ctx max_seq_len context_length max_target_positions window_size",
    32: "hidden_size n_embd d_model embedding_dim emb_dim embedding_size input_embedding_size output_embedding_size "
    "word_embed_proj_dim lru_width attention_hidden_size q_lora_rank o_lora_rank router_hidden_size ple_embed_dim hc_lowrank",
    16: "kv_lora_rank qk_head_dim attention_head_dim linear_value_head_dim mamba_head_dim mamba_headdim chunk_size mamba_chunk_size "
    "block_size block_multiple_of kv_channels",
    8: "head_dim swa_head_dim dim_head d_head qk_nope_head_dim qk_rope_head_dim v_head_dim linear_head_dim linear_key_head_dim "
    "index_head_dim mamba_d_head mamba_n_heads n_mamba_heads mamba_num_heads mamba_d_state ssm_state_size state_size "
    "sliding_window sliding_window_size attention_window_size attention_chunk_size local_attention index_topk rotary_dim "
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
    "dots1": dict(n_routed_experts=4),
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
    "reformer": dict(is_decoder=True, axial_pos_embds=False, attn_layers=["local", "local"], num_hidden_layers=2),
    "roc_bert": dict(pronunciation_vocab_size=61, shape_vocab_size=61, pronunciation_embed_dim=8, shape_embed_dim=8),
    "xmod": dict(default_language="en_XX"),
    "zamba": dict(num_hidden_layers=4, layers_block_type=["linear_attention", "hybrid"] * 2, attention_head_dim=16),
    "zamba2": dict(
        num_hidden_layers=4, layers_block_type=["mamba", "hybrid"] * 2, hybrid_layer_ids=[1, 3], num_key_value_heads=4,
        n_mamba_heads=8, mamba_headdim=8,
    ),
}  # fmt: skip
MISSING = {  # sizes that some defaults leave out
    "hunyuan_v1_dense": dict(head_dim=8),
    "hunyuan_v1_moe": dict(head_dim=8),
    "ministral": dict(head_dim=8),
    "nemotron": dict(head_dim=8),
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


KINDS = [kind for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES]
CANNOT = {}  # family: why it cannot be scored


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
