"The measured history state against closed formulas, what a state may be without, the audit, and its command."

import collections
import json
import math
import re
import types
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, LlamaConfig
from transformers.models.gemma4.modeling_gemma4 import apply_rotary_pos_emb
from typer.testing import CliRunner

from l2m.audit import CURVE, audit, falls_short, summary
from l2m.condition import needed_state
from l2m.configurations import architectures, load_configuration
from l2m.experiments import repository
from l2m.runs import app
from l2m.state import Growth, HistoryState, StatePart, find_growth, history_state

PUBLISHED = repository() / "results" / "state_audit" / "architectures"
SMALL = dict(
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=100,
    pad_token_id=None,
)
MOE = dict(num_experts=4, num_local_experts=4, n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)
LENGTHS = (1, 2, 3, 4, 5, 7, 8, 9, 10, 17, 33, 300, 10**6)


# The state of each family by hand, from a configuration c after n tokens. Nothing below looks at a cache.
head = lambda c: getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
keys_values = lambda c: 2 * c.num_key_value_heads * head(c)  # of one token in one layer
window = lambda c, n: min(n, c.sliding_window - 1)  # the current token is in the window
convolution = lambda channels, kernel, n: channels * min(n, kernel - 1)
attention = lambda c, n: c.num_hidden_layers * keys_values(c) * n
latent = lambda c, n: c.num_hidden_layers * (c.kv_lora_rank + c.qk_rope_head_dim) * n
count = lambda c, kind: c.layer_types.count(kind)


def sliding(c, n, layers=None):
    layers = (getattr(c, "layer_types", None) or ["sliding_attention"] * c.num_hidden_layers)[:layers]
    return keys_values(c) * sum(window(c, n) if kind == "sliding_attention" else n for kind in layers)


def chunked(c, n):
    return keys_values(c) * sum(
        n % c.attention_chunk_size if kind == "chunked_attention" else n for kind in c.layer_types
    )


def two_latents(c, n):  # wider latents where the window slides
    one = lambda layer, seen: (
        (layer.kv_lora_rank + layer.qk_rope_head_dim) * (window(c, n) if seen == "sliding_attention" else n)
    )
    return (
        sum(one(c.per_layer_config[i], seen) for i, seen in enumerate(c.layer_types))
        + count(c, "indexed_attention") * c.index_head_dim * n
    )


def mamba(c, n):
    channels = c.expand * c.hidden_size if c.model_type == "mamba" else c.intermediate_size
    return c.num_hidden_layers * (channels * c.state_size * (n > 0) + convolution(channels, c.conv_kernel, n))


def mamba2_layer(heads, width, states, groups, kernel, n):
    return heads * width * states * (n > 0) + convolution(heads * width + 2 * groups * states, kernel, n)


def gated_delta(c, n):
    key, value = c.linear_num_key_heads * c.linear_key_head_dim, c.linear_num_value_heads * c.linear_value_head_dim
    state = c.linear_num_value_heads * c.linear_key_head_dim * c.linear_value_head_dim
    linear = state * (n > 0) + convolution(2 * key + value, c.linear_conv_kernel_dim, n)
    return count(c, "linear_attention") * linear + count(c, "full_attention") * keys_values(c) * n


def kimi(c, n):
    linear = c.linear_num_heads * c.linear_head_dim**2 * (n > 0) + convolution(
        3 * c.linear_num_heads * c.linear_head_dim, c.linear_conv_kernel_dim, n
    )
    return (
        count(c, "linear_attention") * linear + count(c, "full_attention") * (c.kv_lora_rank + c.qk_rope_head_dim) * n
    )


def lightning(c, n):
    return (
        count(c, "linear_attention") * c.num_attention_heads * head(c) ** 2 * (n > 0)
        + count(c, "full_attention") * keys_values(c) * n
    )


def jamba(c, n):
    full = sum(i % c.attn_layer_period == c.attn_layer_offset for i in range(c.num_hidden_layers))
    channels = c.mamba_expand * c.hidden_size
    return (c.num_hidden_layers - full) * (
        channels * c.mamba_d_state * (n > 0) + convolution(channels, c.mamba_d_conv, n)
    ) + full * keys_values(c) * n


def bamba(c, n, full=None):
    full = len(c.attn_layer_indices) if full is None else full
    one = mamba2_layer(c.mamba_n_heads, c.mamba_d_head, c.mamba_d_state, c.mamba_n_groups, c.mamba_d_conv, n)
    return (c.num_hidden_layers - full) * one + full * keys_values(c) * n


def falcon_h1(c, n):  # both in every layer
    return attention(c, n) + c.num_hidden_layers * mamba2_layer(
        c.mamba_n_heads, c.mamba_d_head, c.mamba_d_state, c.mamba_n_groups, c.mamba_d_conv, n
    )


def zamba2(c, n):  # Mamba-2 everywhere, attention of twice the width in some
    one = mamba2_layer(
        c.n_mamba_heads,
        c.mamba_expand * c.hidden_size // c.n_mamba_heads,
        c.mamba_d_state,
        c.mamba_ngroups,
        c.mamba_d_conv,
        n,
    )
    return (
        c.num_hidden_layers * one
        + len(c.hybrid_layer_ids) * 2 * c.num_key_value_heads * (2 * c.hidden_size // c.num_attention_heads) * n
    )


def recurrent_gemma(c, n):
    full = c.num_hidden_layers // 3
    recurrent = c.lru_width * (n > 0) + convolution(c.lru_width, c.conv1d_width, n)
    return (c.num_hidden_layers - full) * recurrent + full * keys_values(c) * min(n, c.attention_window_size - 1)


def xlstm(c, n):
    key, value = (int(c.hidden_size * factor) // c.num_heads for factor in (c.qk_dim_factor, c.v_dim_factor))
    return c.num_hidden_layers * c.num_heads * (key * value + key + 1) * (n > 0)


FORMULAS = {
    "gpt2": lambda c, n: c.n_layer * 2 * c.n_embd * n,
    "gpt_neo": lambda c, n: (
        2 * c.hidden_size * sum(min(n, c.window_size - 1) if kind == "local" else n for kind in c.attention_layers)
    ),
    "gpt_neox": lambda c, n: c.num_hidden_layers * 2 * c.hidden_size * n,
    "gpt_bigcode": lambda c, n: c.n_layer * 2 * (c.n_embd // c.n_head) * n,
    "falcon": lambda c, n: c.num_hidden_layers * 2 * (c.hidden_size // c.num_attention_heads) * n,
    "llama": attention,
    "qwen3": attention,
    "mixtral": attention,
    "glm4_moe": attention,
    "minimax_m2": attention,
    "mistral": sliding,
    "gemma2": sliding,
    "gemma3_text": sliding,
    "gpt_oss": sliding,
    "olmo3": sliding,
    "cohere2": sliding,
    "gemma3n_text": lambda c, n: sliding(c, n, c.num_hidden_layers - c.num_kv_shared_layers),
    "llama4_text": chunked,
    "gemma4_text": lambda c, n: (
        5 * keys_values(c.per_layer_config[0]) * window(c, n) + keys_values(c.per_layer_config[5]) // 2 * n
    ),
    "deepseek_v2": latent,
    "deepseek_v3": latent,
    "deepseek_v32": lambda c, n: latent(c, n) + c.num_hidden_layers * c.index_head_dim * n,
    "dots3_note_text": two_latents,
    "mamba": mamba,
    "falcon_mamba": mamba,
    "mamba2": lambda c, n: (
        c.num_hidden_layers * mamba2_layer(c.num_heads, c.head_dim, c.state_size, c.n_groups, c.conv_kernel, n)
    ),
    "rwkv": lambda c, n: 5 * c.num_hidden_layers * c.hidden_size * (n > 0),
    "xlstm": xlstm,
    "recurrent_gemma": recurrent_gemma,
    "qwen3_next": gated_delta,
    "qwen3_5_text": gated_delta,
    "olmo_hybrid": gated_delta,
    "kimi_linear": kimi,
    "minimax": lightning,
    "jamba": jamba,
    "bamba": bamba,
    "falcon_h1": falcon_h1,
    "zamba2": zamba2,
    "granitemoehybrid": lambda c, n: bamba(c, n, count(c, "full_attention")),
    "lfm2": lambda c, n: (
        count(c, "conv") * convolution(c.hidden_size, c.conv_L_cache, n)
        + count(c, "full_attention") * keys_values(c) * n
    ),
}

MAMBA = dict(
    mamba_n_heads=8,
    mamba_d_head=16,
    mamba_d_state=16,
    mamba_n_groups=1,
    mamba_d_conv=4,
    mamba_expand=2,
    mamba_chunk_size=8,
)
DELTA = dict(
    linear_num_key_heads=2,
    linear_num_value_heads=4,
    linear_key_head_dim=8,
    linear_value_head_dim=16,
    head_dim=16,
    shared_expert_intermediate_size=32,
    layer_types=["linear_attention", "full_attention"] * 2,
)
LATENT = dict(
    q_lora_rank=48,
    kv_lora_rank=32,
    qk_nope_head_dim=16,
    qk_rope_head_dim=8,
    v_head_dim=16,
    num_key_value_heads=4,
    n_group=1,
    topk_group=1,
    n_shared_experts=1,
)
ALTERNATE = dict(head_dim=16, sliding_window=9, layer_types=["sliding_attention", "full_attention"] * 2)
CONFIGURATIONS = {
    "gpt2": dict(n_layer=3, n_embd=64, n_head=4),
    "gpt_neo": dict(
        num_layers=4, num_heads=4, attention_types=[[["global", "local"], 2]], window_size=9, max_position_embeddings=64
    ),
    "gpt_neox": {},
    "gpt_bigcode": dict(n_layer=3, n_embd=64, n_head=4),
    "falcon": dict(multi_query=True, new_decoder_architecture=False),
    "llama": {},
    "qwen3": dict(head_dim=32),
    "mixtral": dict(MOE, sliding_window=None),
    "glm4_moe": dict(MOE, head_dim=16, n_group=1, topk_group=1),
    "minimax_m2": dict(MOE, head_dim=16),
    "mistral": dict(sliding_window=9),
    "gemma2": ALTERNATE,
    "gemma3_text": ALTERNATE,
    "gpt_oss": ALTERNATE | MOE,
    "olmo3": ALTERNATE,
    "cohere2": ALTERNATE,
    "gemma3n_text": dict(
        ALTERNATE,
        num_hidden_layers=6,
        num_kv_shared_layers=2,
        hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=100,
        laurel_rank=4,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 2,
        activation_sparsity_pattern=[0.5] + [0.0] * 5,
        intermediate_size=[128] * 6,
    ),
    "gemma4_text": dict(
        num_hidden_layers=6,
        head_dim=16,
        num_global_key_value_heads=1,
        global_head_dim=32,
        sliding_window=9,
        attention_k_eq_v=True,
        hidden_size_per_layer_input=0,
        layer_types=["sliding_attention"] * 5 + ["full_attention"],
    ),
    "llama4_text": dict(MOE, num_experts_per_tok=1, head_dim=16, attention_chunk_size=8, intermediate_size_mlp=128),
    "deepseek_v2": LATENT | MOE,
    "deepseek_v3": LATENT | MOE,
    "deepseek_v32": LATENT | MOE | dict(index_head_dim=16, index_n_heads=2, index_topk=4),
    "dots3_note_text": LATENT
    | MOE
    | dict(
        index_head_dim=16,
        index_n_heads=2,
        index_topk=4,
        sliding_window=9,
        swa_num_attention_heads=4,
        swa_num_key_value_heads=4,
        swa_q_lora_rank=48,
        swa_kv_lora_rank=24,
        swa_head_dim=28,
        swa_qk_nope_head_dim=16,
        swa_v_head_dim=16,
    ),
    "mamba": dict(state_size=16, conv_kernel=4, expand=2),
    "falcon_mamba": dict(state_size=16, conv_kernel=3),
    "mamba2": dict(num_heads=8, head_dim=16, state_size=32, n_groups=2, conv_kernel=4, chunk_size=8),
    "rwkv": dict(attention_hidden_size=64),
    "xlstm": dict(hidden_size=256, num_heads=4, qk_dim_factor=0.5, v_dim_factor=1.0, chunk_size=8),
    "recurrent_gemma": dict(
        num_hidden_layers=6, num_key_value_heads=1, head_dim=16, lru_width=64, conv1d_width=4, attention_window_size=9
    ),
    "qwen3_next": DELTA | MOE,
    "qwen3_5_text": DELTA,
    "olmo_hybrid": DELTA,
    "kimi_linear": LATENT
    | MOE
    | dict(linear_head_dim=16, linear_num_heads=4, layer_types=["linear_attention", "full_attention"] * 2),
    "minimax": MOE | dict(head_dim=16, layer_types=["linear_attention", "full_attention"] * 2, block_size=8),
    "jamba": MOE | dict(attn_layer_period=4, attn_layer_offset=2, mamba_d_state=16, mamba_d_conv=4, mamba_expand=2),
    "bamba": MAMBA | dict(attn_layer_indices=[1]),
    "falcon_h1": MAMBA | dict(mamba_d_ssm=128, head_dim=16),
    "zamba2": dict(
        num_key_value_heads=4,
        mamba_d_state=16,
        mamba_d_conv=4,
        mamba_ngroups=1,
        n_mamba_heads=8,
        mamba_headdim=16,
        chunk_size=8,
        adapter_rank=8,
        layers_block_type=["mamba", "hybrid", "mamba", "mamba"],
        hybrid_layer_ids=[1],
    ),
    "granitemoehybrid": MAMBA
    | MOE
    | dict(layer_types=["mamba", "mamba", "attention", "mamba"], shared_intermediate_size=64),
    "lfm2": dict(conv_L_cache=3, full_attn_idxs=[2]),
}


def configuration(kind):
    return dict(SMALL, model_type=kind) | CONFIGURATIONS[kind]


@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_measurement_is_the_formula(kind):
    state, config = history_state(configuration(kind), 1), load_configuration(configuration(kind))
    assert [state.at(length).scalars for length in LENGTHS] == [
        FORMULAS[kind](config, length - 1) for length in LENGTHS
    ], state.at(17).table()
    assert all(state.at(length).padding >= 0 for length in LENGTHS)


def test_every_formula_is_tried():
    assert set(FORMULAS) == set(CONFIGURATIONS)


@pytest.mark.parametrize(
    "name", pl.read_parquet(PUBLISHED / "table.parquet")["model"] if (PUBLISHED / "table.parquet").exists() else []
)
def test_published_table_is_the_formula(name):
    row = pl.read_parquet(PUBLISHED / "table.parquet").row(by_predicate=pl.col("model") == name, named=True)
    config = load_configuration(name)
    formula = FORMULAS[config.model_type]
    assert row["curve"] == [formula(config, length - 1) for length in CURVE]
    for length in (4096, 131_072, 1_000_000):
        assert row[f"scalars_{length}"] == formula(config, length - 1)
        assert row[f"bfloat16_bytes_{length}"] == 2 * formula(config, length - 1)
    grows = formula(config, 2**50) > formula(config, 2**49)
    assert row["exponent"] == pytest.approx(float(grows), abs=1e-3)
    assert row["single"] == ("satisfied" if grows else "not satisfied") and row["firm"]


def test_published_table_holds_every_shipped_configuration():
    names = set(pl.read_parquet(PUBLISHED / "table.parquet")["model"])
    assert len(names) >= 25 and set(architectures()) <= names
    assert all(
        entry["source"] and all(page.startswith("https://") for page in entry["source"])
        for entry in architectures().values()
    )


# What is called padding may be overwritten, what is called state may not: real models of random weights, in float64.
def continued(kind, tokens, change):
    "Log-probabilities after one more token, with the cache changed in between"
    torch.manual_seed(0)
    config = load_configuration(configuration(kind))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float64).eval()
    for p in model.parameters():
        p.data.normal_(0, 0.3, generator=torch.Generator().manual_seed(p.numel()))
    ids = torch.randint(100, (1, tokens + 1), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        output = model(ids[:, :tokens], use_cache=True)
        name = "past_key_values" if "past_key_values" in output else "cache_params"
        change(output[name].layers)
        return model(ids[:, tokens:], use_cache=True, **{name: output[name]}).logits


def add(tensor, index):
    tensor[index] += 1.0


@pytest.mark.parametrize(
    "kind, tokens, unread, read",
    [
        (
            "mamba",
            9,
            lambda layers: add(layers[0].conv_states[0], (..., 0)),
            lambda layers: add(layers[0].conv_states[0], (..., 1)),
        ),
        (
            "mamba2",
            9,
            lambda layers: add(layers[0].conv_states[0], (..., 0)),
            lambda layers: add(layers[0].conv_states[0], (..., 1)),
        ),
        (
            "lfm2",
            9,
            lambda layers: add(layers[0].conv_states[0], (..., 0)),
            lambda layers: add(layers[0].conv_states[0], (..., 1)),
        ),
        (
            "llama4_text",
            11,
            lambda layers: add(layers[0].keys, (..., slice(-7, -3), slice(None))),
            lambda layers: add(layers[0].keys, (..., slice(-3, -2), slice(None))),
        ),
        (
            "gpt_neo",
            20,
            lambda layers: add(layers[1].keys, (..., slice(0, 12), slice(None))),
            lambda layers: add(layers[1].keys, (..., slice(12, 13), slice(None))),
        ),
        ("mistral", 20, lambda layers: None, lambda layers: add(layers[0].keys, (..., slice(0, 1), slice(None)))),
    ],
)
def test_padding_is_not_read_and_state_is(kind, tokens, unread, read):
    plain = continued(kind, tokens, lambda layers: None)
    assert torch.equal(continued(kind, tokens, unread), plain)
    assert not torch.allclose(continued(kind, tokens, read), plain)


def test_parts_are_told_apart():
    table = history_state(configuration("qwen3_next"), 3).table()
    rows = {row["kind"]: row for row in table.iter_rows(named=True)}
    assert set(rows) == {"keys", "values", "recurrent", "convolution"}
    assert rows["convolution"]["each"] == "96·min(ℓ−1, 3)" and rows["convolution"]["storage"] == "384"
    assert (
        rows["convolution"]["scalars"] == 2 * 96 * 2 and rows["convolution"]["padding"] == 2 * 96 * 2
    )  # two tokens read, buffers of four
    assert {part.layer for part in history_state(configuration("qwen3_next"), 3).parts if part.kind == "keys"} == {1, 3}
    assert {row["kind"] for row in history_state(configuration("rwkv"), 3).table().iter_rows(named=True)} == {
        "shift",
        "recurrent",
    }
    latent = {
        row["kind"]: row["scalars"]
        for row in history_state(configuration("deepseek_v3"), 3).table().iter_rows(named=True)
    }
    assert latent == {"latent": 4 * 32 * 2, "rotary key": 4 * 8 * 2}


def test_a_position_is_known_but_not_counted():
    state = history_state(configuration("mistral"), 100)
    assert [part.state(99) for part in state.parts if part.kind == "position"] == [0] and state.padding == 1


def test_lengths_beyond_the_positions_are_reported():
    state = history_state("openai-community/gpt2", 1025)
    assert state.beyond_positions and not state.at(1024).beyond_positions
    assert state.scalars == 2 * 12 * 768 * 1024
    row = audit([configuration("llama") | dict(max_position_embeddings=5000)], lengths=[4096, 8192]).row(0, named=True)
    assert row["positions"] == 5000 and row["beyond_positions"] == [8192]


@given(size=st.integers(1, 50), law=st.sampled_from(["fixed", "linear", "window"]), limit=st.integers(2, 500))
def test_growth_is_found(size, law, limit):
    growth = Growth(size, law, limit if law == "window" else None)
    assert find_growth({n: growth(n) for n in (1, 3, limit, limit + 1, 10**6)}) == growth


@pytest.mark.parametrize("counts", [{1: 4, 3: 12, 100: 401}, {1: 0, 3: 5}, {1: 3, 3: 9, 50: 20, 60: 20}])
def test_an_unknown_growth_is_not_guessed(counts):
    assert find_growth(counts) is None


# What follows from the rest is not counted
def test_keys_that_are_also_the_values():
    state, both = (
        history_state(configuration("gemma4_text") | dict(attention_k_eq_v=one), 1001) for one in (True, False)
    )
    assert state.scalars == 5 * 2 * 2 * 16 * 8 + 32 * 1000 and state.padding == 32 * 1000 + 1
    rows = {row["kind"]: row for row in state.table().iter_rows(named=True) if row["layers"] == 1}
    assert (
        rows["keys from values"]["each"] == "0"
        and rows["keys from values"]["storage"] == "32·(ℓ−1)"
        and rows["values"]["scalars"] == 32_000
    )
    assert both.scalars == 5 * 2 * 2 * 16 * 8 + 2 * 2 * 32 * 1000 and both.padding == 1, (
        "two projections with more heads"
    )
    [carries] = audit([configuration("gemma4_text")])["carries"]
    assert carries == "keys, values: window; keys from values: not counted; values: linear"


def test_keys_can_be_made_from_values():
    torch.manual_seed(0)
    body = AutoModelForCausalLM.from_config(load_configuration(configuration("gemma4_text"))).eval().get_decoder()
    with torch.no_grad():
        body.layers[5].self_attn.k_norm.weight.uniform_(0.5, 2)
        kept = body(torch.randint(100, (1, 20)), use_cache=True).past_key_values.layers[5]
        turn = body.rotary_emb(kept.values, torch.arange(20)[None], "full_attention")
        again = apply_rotary_pos_emb(
            (kept.values * body.layers[5].self_attn.k_norm.weight).transpose(1, 2), *turn, unsqueeze_dim=2
        ).transpose(1, 2)
    torch.testing.assert_close(again, kept.keys, atol=1e-5, rtol=1e-5)


class Attends(torch.nn.Module):
    "Keeps what `make` makes of the projections of an embedding of 12 scalars"

    def __init__(self, make):
        super().__init__()
        self.embed, self.one, self.two, self.wide = (
            torch.nn.Embedding(10, 12),
            torch.nn.Linear(12, 16),
            torch.nn.Linear(12, 16),
            torch.nn.Linear(12, 48),
        )
        self.make = make

    def forward(self, tokens):
        keys, values = self.make(self, self.embed(tokens))
        return dict(logits=self.embed(tokens), keys=torch.cat([torch.zeros(1, 0, 16), keys], 1), values=values)


def turned(x):
    "Rotated by pairs, as by position"
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * torch.polar(torch.ones(8), torch.arange(8.0))).flatten(-2)


def sliced(model, x, *which):
    slices = model.wide(x).split(16, -1)
    return [turned(slices[i]) * 2 for i in which]


@pytest.mark.parametrize(
    "make, each",
    [
        (lambda m, x: (m.one(x), m.two(x)), 32),
        (lambda m, x: (turned(m.one(x)), m.two(x).tanh()), 32),
        (lambda m, x: sliced(m, x, 1, 2), 32),
        (lambda m, x: (m.two(m.one(x)[..., :12]), m.one(x)), 32),  # a projection of the other: not looked through
        (lambda m, x: (m.one(x), m.one(x)), 32),  # computed twice: two projections, as far as can be seen
        (lambda m, x: 2 * (m.one(x),), 16),  # the very same
        (lambda m, x: (lambda u: (turned(u), torch.nn.functional.rms_norm(u, (16,))))(m.one(x)), 16),
        (lambda m, x: sliced(m, x, 2, 2), 16),
        (
            lambda m, x: (lambda u: (u.to(torch.float64).to(torch.float32), u.repeat(1, 1, 3)))(m.one(x)),
            16,
        ),  # another precision, copies over heads
        (lambda m, x: (lambda u: (u + m.two(x), u))(m.one(x)), 32),
        (lambda m, x: (lambda u: (u + m.two(x), u, m.two(x)))(m.one(x))[:2], 32),
        (lambda m, x: (torch.ones(1, x.shape[1], 16), m.one(x)), 32),  # constants are kept all the same
        (
            lambda m, x: (lambda u: (u[..., ::2].repeat(1, 1, 2), u[..., :8]))(m.one(x)),
            12,
        ),  # places 0, 2, … 14 and 0 to 7: twelve different ones
    ],
)
def test_what_comes_out_of_one_projection_is_counted_once(make, each):
    state = history_state(Attends(make), 101)
    assert state.scalars == each * 100, state.table()
    assert state.padding >= 0 and state.exponent == 1


def test_a_key_in_a_window_follows_from_a_value_that_lasts():
    class Windowed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.one = torch.nn.Embedding(10, 12), torch.nn.Linear(12, 16)

        def forward(self, tokens):
            u = self.one(self.embed(tokens))
            return dict(logits=u, keys=u.tanh()[:, -8:], values=-u)

    assert [history_state(Windowed(), n + 1).scalars for n in (1, 8, 9, 100)] == [16, 128, 144, 1600]


# Models of one's own
class Kept(torch.nn.Module):
    "Keeps its state in an attribute and returns logits alone in a dictionary"

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(10, 8)
        self.memory = None

    def forward(self, tokens):
        self.memory = self.embed(tokens).cumsum(1)[:, -1]
        return {"logits": self.memory}


def test_a_module_that_keeps_its_state_inside():
    model = Kept()
    assert [int(history_state(model, length)) for length in (1, 2, 50)] == [0, 8, 8]
    assert model.memory is None and model.embed.weight.device.type == "cpu", "the model of the user stays as it was"


def test_a_state_that_is_declared():
    class Declared:
        def state_size(self, length):
            return 7 * math.ceil(length**0.5)

    state = history_state(Declared(), 100)
    assert int(state) == 70 and state.exponent == 0.5 and state.model == "Declared"
    row = audit([Declared()], beta=0.5, interval=(0.4, 0.6)).row(0, named=True)
    assert row["single"] == "satisfied" and not row["firm"]


def test_a_declared_state_is_a_number_of_scalars():
    class Roots:
        def state_size(self, length):
            return length**0.5

    assert int(history_state(Roots(), 10)) == 4 and history_state(Roots(), 1).exponent == 0.5


@pytest.mark.parametrize("size", [math.nan, math.inf, -1, None, "many", True])
def test_a_declared_state_must_be_a_number(size):
    class Odd:
        def state_size(self, length):
            return size

    with pytest.raises(ValueError, match=r"state_size\(10\) of 'Odd': .* is no number of scalars"):
        int(history_state(Odd(), 10))
    assert "is no number of scalars" in audit([Odd()])["error"][0]


def test_a_number_is_no_method():
    "Configurations of Mamba have a number called state_size, and so may a module"
    module = Kept()
    module.state_size = 3
    assert int(history_state(module, 50)) == 8

    class Number:
        state_size = 3

    with pytest.raises(ValueError, match="it has no state_size"):
        history_state(Number(), 10)


@pytest.mark.parametrize(
    "wrap",
    [
        collections.UserDict,
        lambda d: types.SimpleNamespace(**d),
        lambda d: (d["logits"], d["memory"]),
        lambda d: [d["logits"], [d["memory"]]],
    ],
)
def test_a_module_that_returns_its_state(wrap):
    class Returns(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Embedding(10, 8)

        def forward(self, tokens):
            return wrap(dict(logits=self.embed(tokens), memory=self.embed(tokens).cumsum(1)[:, -1]))

    assert [int(history_state(Returns(), length)) for length in (1, 2, 50)] == [0, 8, 8]


def test_a_module_with_a_configuration_of_its_own_kind():
    for config in (dict(window=7), "small", LlamaConfig):
        module = Kept()
        module.config = config
        assert int(history_state(module, 50)) == 8


@pytest.mark.parametrize("kind", ["mamba", "falcon_mamba", "mamba2", "bamba", "falcon_h1", "llama", "gemma4_text"])
def test_all_ways_to_give_a_configuration_agree(tmp_path, kind):
    "As an object, as a dictionary, and as a folder, in which transformers writes infinities in its own way"
    config = CONFIG_MAPPING[kind](**{k: v for k, v in configuration(kind).items() if k != "model_type"})
    config.save_pretrained(tmp_path)
    right = FORMULAS[kind](config, 10)
    for given in (
        config,
        config.to_dict(),
        json.loads((tmp_path / "config.json").read_text()),
        tmp_path,
        str(tmp_path / "config.json"),
    ):
        assert int(history_state(given, 11)) == right


def test_a_type_is_its_class_defaults():
    assert (
        int(history_state("mamba", 11))
        == int(history_state(CONFIG_MAPPING["mamba"](), 11))
        == FORMULAS["mamba"](CONFIG_MAPPING["mamba"](), 10)
    )


@pytest.mark.parametrize("number", ["Infinity", "-Infinity", "NaN"])
def test_floats_that_json_has_no_word_for(tmp_path, number):
    values = configuration("llama") | dict(rms_norm_eps={"__float__": number}, nested=[{"deep": {"__float__": number}}])
    (tmp_path / "config.json").write_text(json.dumps(values))
    for given in (values, tmp_path):
        config = load_configuration(given)
        assert (
            str(config.rms_norm_eps) == str(config.nested[0]["deep"]) == str(float(number))
            and int(history_state(given, 11)) == 4 * 64 * 10
        )
    with pytest.raises(
        ValueError, match="does not fit model_type 'llama': ValueError: could not convert string to float: 'wide'"
    ):
        history_state(values | dict(rms_norm_eps={"__float__": "wide"}), 11)


def test_a_decoder_of_an_encoders_type():
    assert int(history_state(dict(SMALL, model_type="bert", is_decoder=True), 11)) == 2 * 4 * 64 * 10


def test_a_composite_that_is_a_language_model_as_a_whole():
    assert load_configuration("emu3").model_type == "emu3" and load_configuration("gemma3").model_type == "gemma3_text"


# The audit
def test_the_papers_verdicts():
    class Logarithmic:
        def state_size(self, length):
            return 1000 * length.bit_length()

    fixed = [configuration(kind) for kind in ("mamba", "mamba2", "rwkv", "mistral")]
    table = audit([configuration("llama"), *fixed, Logarithmic()])
    assert table["single"].to_list() == ["satisfied"] + 5 * ["not satisfied"]
    assert table["series"].to_list() == ["satisfied by one model"] + 5 * [
        "only if larger models are built for longer texts"
    ]
    assert table["firm"].all()
    assert table["short_at"][0] is None and table["short_at"][1:].is_not_null().all()


def test_the_papers_numbers():
    "60,000 nats at a million tokens, and a state of about 10^6 scalars for them"
    assert 3.26 * (10**6) ** 0.71 == pytest.approx(60_000, rel=0.02)
    assert needed_state(10**6, 0.71, 3.26, 0.06) == pytest.approx(1e6, rel=0.02)
    assert needed_state(10**6, 0.76, 2.27, 0.06) > 1e6


@pytest.mark.parametrize("kind", ["mamba", "mistral", "rwkv"])
@pytest.mark.parametrize("price", [0.06, 16 * math.log(2)])
def test_falls_short_where_a_scan_does(kind, price):
    state = history_state(configuration(kind), 1)
    fails = lambda length: 2.27 * length**0.76 > price * state.at(length // 2).scalars + math.log(100)
    found = falls_short(state, 0.76, 2.27, price)
    assert fails(found) and not fails(found - 1)
    if found < 5000:
        assert found == next(length for length in range(4, 5000) if fails(length))


def bare(*growths, vocabulary=None):
    "A state of these parts"
    return HistoryState(
        "bare", tuple(StatePart(layer, "keys", growth, growth) for layer, growth in enumerate(growths)), 1, vocabulary
    )


bounded = st.builds(Growth, st.integers(1, 40), st.sampled_from(["fixed", "window", "chunk"]), st.integers(2, 300))


@settings(deadline=None)
@given(
    st.lists(bounded, min_size=1, max_size=4),
    st.floats(0.4, 0.9),
    st.floats(0.5, 20),
    st.floats(0.01, 3),
    st.sampled_from([None, 50]),
)
def test_a_bounded_state_falls_short_from_where_a_scan_says(growths, beta, amplitude, price, vocabulary):
    most = lambda g, n: (
        max(g(m) for m in range(n + 1))
        if g.law == "chunk" and n <= g.limit
        else g.size * (g.limit - 1)
        if g.law == "chunk"
        else g(n)
    )
    carries = lambda length: (
        amplitude * length**beta <= price * sum(most(g, length // 2 - 1) for g in growths) + math.log(vocabulary or 1)
    )
    enough = (
        price * sum(g.size * max(g.limit, 1) for g in growths) + 4
    ) / amplitude  # no state is larger, so none carries beyond
    end = int(enough ** (1 / beta)) + 2
    assume(end < 20_000)
    last = max((length for length in range(4, end) if carries(length)), default=3)
    assert falls_short(bare(*growths, vocabulary=vocabulary), beta, amplitude, price) == last + 1


def test_a_state_that_grows_in_time_does_not_fall_short():
    "Ten scalars per token are too few for the law at L = 4 and enough at every length from some on"
    state, law = bare(Growth(10, "linear")), (0.76, 2.27, 0.06)
    assert needed_state(4, *law) > state.at(2).scalars and needed_state(2**20, *law) < state.at(2**19).scalars
    assert falls_short(state, *law) is None
    assert falls_short(bare(Growth(1, "fixed")), *law) == 4


def test_chunks_come_and_go_but_do_not_grow():
    state = bare(Growth(5, "chunk", 3000))
    assert state.at(3001).scalars == 0 and state.at(3001).most == 5 * 2999 and state.exponent == 0


def test_never_is_not_said_of_a_state_that_ends():
    class Fixed:
        def state_size(self, length):
            return 10**9

    table = audit([Fixed(), configuration("llama")], beta=0.2, interval=(0.1, 0.3), nats_per_scalar=100)
    assert table["short_at"].to_list() == [None, None]
    assert summary(table)["too small from"].to_list() == ["beyond 2^60", "never"]


@given(st.integers(2, 10**7), st.floats(0.1, 0.95), st.floats(0.1, 50), st.floats(0.001, 20), st.integers(2, 10**6))
def test_needed_state_is_just_enough(length, beta, amplitude, price, vocabulary):
    need = needed_state(length, beta, amplitude, price, vocabulary)
    assert price * need + math.log(vocabulary) >= amplitude * length**beta * (1 - 1e-12)
    assert need == 0 or price * need + math.log(vocabulary) == pytest.approx(amplitude * length**beta)


def test_every_model_is_audited_by_itself(tmp_path):
    (tmp_path / "config.json").write_text("{")

    class Fails:
        def state_size(self, length):
            return 1 / 0

    good = [configuration(kind) for kind in ("llama", "mamba", "mistral")]
    models = [*good, dict(model_type="bert"), tmp_path, 3, Fails(), configuration("rwkv"), "no/such.json"]
    table = audit(models)
    assert table["model"].to_list() == [
        "llama",
        "mamba",
        "mistral",
        "bert",
        str(tmp_path),
        "3",
        "Fails",
        "rwkv",
        "no/such.json",
    ]
    failed = table.filter(pl.col("error").is_not_null())
    assert failed["model"].to_list() == ["bert", str(tmp_path), "3", "Fails", "no/such.json"]
    for reason, words in zip(
        failed["error"],
        ("no history state", "does not parse", "model is 3", "division by zero", "no configuration 'no/such.json'"),
    ):
        assert words in reason and len(reason.splitlines()) == 1 and not reason.endswith(":")
    assert all(failed[name].null_count() == len(failed) for name in table.columns if name not in ("model", "error"))
    alone = audit([*good, configuration("rwkv")])
    assert table.filter(pl.col("error").is_null()).equals(alone) and table.schema == alone.schema
    assert audit([3]).schema == alone.schema
    brief = summary(table)
    assert brief["note"].to_list()[3:7] == failed["error"].to_list()[:4] and brief["exponent"][3] is None


def test_equal_models_have_a_row_each():
    table = audit([configuration("llama"), configuration("llama") | dict(num_hidden_layers=2)])
    assert table["model"].to_list() == ["llama", "llama"] and table["scalars_4096"][0] == 2 * table["scalars_4096"][1]


def test_a_state_larger_than_a_table_holds():
    class Vast:
        def state_size(self, length):
            return 2**63

    [reason] = audit([Vast()])["error"]
    assert reason.startswith("scalars_4096 of 'Vast' is 9.2") and reason.endswith("more than a table holds")


def test_a_table_without_reasons_can_be_summed_up():
    table = audit([configuration("llama")]).drop("error")
    assert summary(table)["exponent"].to_list() == ["1"]
    with pytest.raises(ValueError, match="the table has no column 'exponent': summary takes what audit returns"):
        summary(table.drop("exponent"))


def test_sizes_and_dtypes():
    row = audit([configuration("llama")], lengths=[100], dtypes=["float32", "float8_e4m3fn"]).row(0, named=True)
    assert row["scalars_100"] == 4 * 2 * 2 * 16 * 99
    assert row["float32_bytes_100"] == 4 * row["scalars_100"] and row["float8_e4m3fn_bytes_100"] == row["scalars_100"]
    assert row["middle_100"] == 4 * 2 * 2 * 16 * 49, "what is needed at L is needed at L / 2"
    assert row["least_100"] == pytest.approx((2.27 * 100**0.76 - math.log(100)) / (32 * math.log(2)))


# Bad input
FOREIGN = {
    "model_type": "foreign",
    "auto_map": {"AutoConfig": "foreign.ForeignConfig", "AutoModelForCausalLM": "foreign.ForeignModel"},
}


@pytest.mark.parametrize(
    "model, message",
    [
        (
            dict(SMALL, model_type="bert"),
            "'bert' fills gaps in any order: it has no history state",
        ),
        (
            dict(SMALL, model_type="rembert"),
            "the condition does not speak of it; is_decoder=true makes it a decoder",
        ),
        (dict(SMALL, model_type="hunyuan_v1_dense"), "these values do not make a model: TypeError"),
        (
            dict(SMALL, model_type="bamba"),
            "it does not read 1 tokens without values: ValueError: .* only be called on Attention layers",
        ),
        (dict(model_type="t5"), "transformers has no causal language model of type 't5'"),
        (dict(model_type="vit"), "transformers has no causal language model of type 'vit'"),
        (dict(model_type="hal9000"), "model_type 'hal9000', which transformers .* does not know"),
        (dict(hidden_size=3), "no model_type"),
        (FOREIGN, "needs code that comes with it: read it, then say trust_remote_code"),
        (dict(model_type="llama", hidden_size="wide"), "does not fit model_type 'llama'"),
        ("no/such/config.json", "no configuration 'no/such/config.json'"),
        (dict(model_type="gemma4_assistant"), "ValueError: hidden_size_per_layer_input must be 0, got 256"),
        (dict(model_type=["llama"]), r"model_type \['llama'\], which transformers .* does not know"),
        (dict(model_type="llama", note=object()), "'llama' cannot be measured: TypeError"),
        (dict(FOREIGN, width=1, model_type="stranger"), "needs code that comes with it"),
    ],
)
def test_bad_models_are_one_clear_error(model, message):
    with pytest.raises(ValueError, match=message) as error:
        history_state(model, 10)
    assert len(str(error.value).splitlines()) == 1 and not str(error.value).rstrip().endswith(":")


@pytest.mark.parametrize(
    "model, message",
    [
        (
            dict(SMALL, model_type="llama", num_hidden_layers=10**6),
            "the dictionary has num_hidden_layers 1000000: choose at most 1000",
        ),
        (dict(model_type="gpt2", n_layer=1001), "the dictionary has n_layer 1001"),
        (
            dict(model_type="llava", text_config=dict(SMALL, model_type="llama", num_hidden_layers=10**9)),
            "num_hidden_layers 1000000000",
        ),
        (LlamaConfig(num_hidden_layers=10**6), "'llama' has num_hidden_layers 1000000"),
    ],
)
def test_a_model_of_too_many_layers_is_refused_before_it_is_built(monkeypatch, model, message):
    monkeypatch.setattr("l2m.state.measure_parts", lambda *_: pytest.fail("built"))
    with pytest.raises(ValueError, match=message) as error:
        history_state(model, 10)
    assert "\n" not in str(error.value)
    [row] = audit([model]).iter_rows(named=True)
    assert re.search(message, row["error"]) and row["exponent"] is None


def test_a_dictionary_brings_no_code():
    with pytest.raises(ValueError, match="brings no code of its own: name the folder that has it"):
        history_state(FOREIGN, 10, trust_remote_code=True)


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "does not parse"),
        ("[1]", "is no configuration: it holds a list"),
        ("", "does not parse"),
        ("\x00\xff", "does not parse"),
    ],
)
def test_bad_files_are_one_clear_error(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    for path in (tmp_path, tmp_path / "config.json"):
        with pytest.raises(ValueError, match=message):
            history_state(path, 10)


def test_a_name_without_an_owner_is_not_looked_up_on_the_hub(monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked"))
    with pytest.raises(
        ValueError, match="'smolm2-135m' is no file, .* \\(perhaps 'smollm2-135m' was meant\\); a name on"
    ):
        history_state("smolm2-135m", 10)
    assert history_state("smollm2-135m", 10).at(10).scalars == 30 * 2 * 3 * 64 * 9  # the tenth token is only predicted


def test_a_name_that_nobody_knows_offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        ValueError,
        match="'nobody/nothing' is no file, no type of transformers, not in the shipped table .* the Hub cannot be reached",
    ):
        history_state("nobody/nothing", 10)


def test_the_hub_is_asked_once_where_it_cannot_be_reached(monkeypatch):
    "Its client would try again for half a minute"
    asked = []

    def unreachable(url, **options):
        asked.append(url)
        raise ConnectionError("no network")

    monkeypatch.setattr("l2m.configurations.get_hf_file_metadata", unreachable)
    monkeypatch.setattr("httpx.Client.send", lambda *_, **__: pytest.fail("asked again"))
    with pytest.raises(ValueError, match="the Hub cannot be reached"):
        history_state("nobody/nothing", 10)
    assert len(asked) == 1


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "3",
        "1984",
        "./x",
        "../x",
        "/x",
        "~/x",
        "~nobody-of-that-name/x",
        "x.json",
        "x.JSON",
        "some/x.gguf",
        "x.yaml",
        "a/b/c",
        "no such name",
        "x\\y",
        "https://huggingface.co/gpt2",
        "x" * 400,
        "x\0y",
        Path("nobody/nothing"),
    ],
)
def test_what_is_no_name_never_asks_the_hub(monkeypatch, name):
    monkeypatch.setattr("l2m.configurations.get_hf_file_metadata", lambda *_: pytest.fail("asked"))
    monkeypatch.setattr("transformers.PreTrainedConfig.get_config_dict", lambda *_, **__: pytest.fail("asked"))
    with pytest.raises(
        ValueError, match="no configuration '.*': name a config.json, a folder that has one, or a model"
    ) as error:
        history_state(name, 10)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "model", [3, 2.5, None, True, [], ["llama"], {"llama"}, ("llama",), b"llama", LlamaConfig, object()]
)
def test_what_is_no_model_is_refused_at_the_door(model):
    with pytest.raises(ValueError, match="history_state: model is .*, expected text or a Path or a dict"):
        history_state(model, 10)
    if not isinstance(model, (list, dict)):
        with pytest.raises(ValueError, match="load_configuration: model is"):
            load_configuration(model)


def test_paths_from_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text(
        "\ufeff" + json.dumps(configuration("llama"))
    )  # with the mark that some editors write
    for name in ("~/mine", "~/mine/config.json", Path("~/mine")):
        assert int(history_state(name, 11)) == 4 * 64 * 10


def test_a_folder_of_a_known_name_does_not_stand_in_the_way(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "llama").mkdir()
    assert load_configuration("llama").model_type == "llama"
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no configuration 'empty/config.json'"):
        history_state("empty", 10)
    (tmp_path / "notes").write_text("words")
    with pytest.raises(ValueError, match="'notes' does not parse"):
        history_state("notes", 10)


@pytest.mark.parametrize("length", [0, -1, 2.5, True, "10", None, math.nan, math.inf, [10]])
def test_lengths_are_numbers_of_tokens(length):
    with pytest.raises(ValueError, match="history_state: length is .*, expected a whole number, at least 1"):
        history_state(configuration("llama"), length)
    with pytest.raises(ValueError, match="at: length is"):
        bare(Growth(1, "linear")).at(length)


def test_lengths_of_other_libraries():
    assert history_state(configuration("llama"), np.int32(10**9)).scalars == 4 * 64 * (10**9 - 1)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(beta=1.2), "beta 1.2"),
        (dict(beta=0.5, interval=(0.6, 0.7)), "expected 0 < low <= beta <= high < 1"),
        (dict(amplitude=0), "must be positive"),
        (dict(nats_per_scalar=-1), "must be positive"),
        (dict(amplitude=math.nan), "amplitude is nan"),
        (dict(nats_per_scalar=math.inf), "nats_per_scalar is inf"),
        (dict(amplitude=1e300, nats_per_scalar=1e-300), "must be positive"),
        (dict(beta=math.nan), "beta is nan"),
        (dict(beta=1), "beta 1"),
        (dict(beta="0.76"), "beta is '0.76'"),
        (dict(interval=0.7), "interval is 0.7"),
        (dict(interval=(0.7, math.nan)), "interval is"),
        (dict(interval=(0.7,)), "interval is"),
        (dict(lengths=64), r"lengths is 64, expected a list of whole numbers, .*: write \[64\]"),
        (dict(lengths=[10.5]), "lengths is"),
        (dict(lengths=[10**30]), "lengths is"),
        (dict(dtypes="bfloat16"), r"write \['bfloat16'\]"),
        (dict(dtypes=[]), "at least one length and one dtype"),
        (dict(trust_remote_code="no"), "trust_remote_code is 'no'"),
        (dict(dtypes=["bf17"]), "dtype 'bf17' is unknown"),
        (dict(dtypes=["float32", "uint4"]), "dtype 'uint4'"),
        (dict(dtypes=["bool"]), "dtype 'bool'"),
        (dict(dtypes=["nn"]), "dtype 'nn'"),
        (dict(lengths=[]), "at least one length"),
        (dict(lengths=[0]), r"lengths is \[0\]"),
    ],
)
def test_bad_laws_are_refused_before_the_work(options, message):
    with pytest.raises(ValueError, match=message):
        audit(["never looked at"], **options)


@pytest.mark.parametrize(
    "models, message",
    [
        ([], "models is empty: name at least one model"),
        ((), "models is empty"),
        ("llama", r"audit: models is 'llama', expected a list: write \['llama'\]"),
        (dict(model_type="llama"), "audit: models is .*, expected a list"),
        (LlamaConfig(), r"expected a list: write \[a transformers.LlamaConfig\]"),
        (None, "models is None"),
        ({"llama"}, "models is"),
        (3, r"write \[3\]"),
    ],
)
def test_models_are_a_list(models, message):
    with pytest.raises(ValueError, match=message) as error:
        audit(models)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "law, message",
    [
        ((math.nan, 2.27, 0.06), "beta is nan"),
        ((0.76, math.inf, 0.06), "amplitude is inf"),
        ((0.76, 2.27, math.nan), "nats_per_scalar is nan"),
        ((1, 2.27, 0.06), "beta 1: expected 0 < beta < 1"),
        ((0, 2.27, 0.06), "beta 0"),
        ((-0.5, 2.27, 0.06), "beta -0.5"),
        ((0.76, -1, 0.06), "must be positive"),
        ((0.76, 2.27, 0), "must be positive"),
    ],
)
def test_a_law_that_is_none(law, message):
    with pytest.raises(ValueError, match=message):
        needed_state(1000, *law)
    with pytest.raises(ValueError, match=message):
        falls_short(bare(Growth(1, "linear")), *law)


@pytest.mark.parametrize(
    "length, vocabulary", [(0, None), (2.5, None), (math.nan, None), (10**30, None), (10, 0), (10, -3), (10, 2.5)]
)
def test_a_need_at_no_length(length, vocabulary):
    with pytest.raises(ValueError, match="needed_state: (length|vocabulary) is"):
        needed_state(length, 0.76, 2.27, 0.06, vocabulary)


def test_falls_short_takes_a_state():
    with pytest.raises(ValueError, match="falls_short: state is 'llama', expected a HistoryState"):
        falls_short("llama", 0.76, 2.27, 0.06)


@pytest.mark.parametrize("dtype", ["nonsense", "uint4", "bool", "Tensor"])
def test_bytes_of_a_dtype(dtype):
    with pytest.raises(ValueError, match=f"dtype '{dtype}' is unknown or does not fill whole bytes"):
        bare(Growth(1, "linear")).bytes(dtype)


def test_a_local_folder_with_its_own_code(tmp_path):
    "Refused without permission, measured with it"
    (tmp_path / "config.json").write_text(json.dumps(FOREIGN | dict(vocab_size=11, width=6)))
    (tmp_path / "foreign.py").write_text("""
import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ModelOutput
class ForeignConfig(PretrainedConfig):
    model_type = "foreign"
    def __init__(self, width=6, **rest):
        super().__init__(**rest)
        self.width = width
class ForeignModel(PreTrainedModel):
    config_class = ForeignConfig
    def __init__(self, config):
        super().__init__(config)
        self.embed = torch.nn.Embedding(11, config.width)
        self.post_init()
    def forward(self, input_ids, use_cache=True):
        return ModelOutput(logits=self.embed(input_ids), past=self.embed(input_ids))
""")
    with pytest.raises(ValueError, match="trust_remote_code"):
        history_state(tmp_path, 10)
    assert int(history_state(tmp_path, 10, trust_remote_code=True)) == 6 * 9


def test_code_that_is_not_needed_is_not_run(tmp_path):
    "A known type is built from transformers' own code, whatever its folder brings"
    (tmp_path / "config.json").write_text(
        json.dumps(configuration("llama") | {"auto_map": {"AutoModelForCausalLM": "evil.Model"}})
    )
    (tmp_path / "evil.py").write_text("raise SystemExit('was run')")
    assert int(history_state(tmp_path, 10)) == int(history_state(configuration("llama"), 10))


# The command
def command(*arguments):
    return CliRunner().invoke(app, ["audit", *map(str, arguments)])


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(configuration("mamba")))
    return path


def test_command_prints_and_writes(tmp_path, config_file):
    outputs = [tmp_path / f"audit{ending}" for ending in (".parquet", ".csv", ".md")]
    for output in outputs:
        done = command("openai-community/gpt2", config_file, "--beta", 0.76, "--output", output)
        assert done.exit_code == 0, done.output
    cells = [[cell.strip() for cell in line.split("|")[1:]] for line in done.output.splitlines() if "|" in line]
    assert [row[:2] for row in cells[2:]] == [["openai-community/gpt2", "1"], [str(config_file), "0"]] and [
        row[5] for row in cells[2:]
    ] == ["satisfied", "not satisfied"]
    assert "needs, at 0.06 nats per scalar" in done.output
    parquet, flat, text = pl.read_parquet(outputs[0]), pl.read_csv(outputs[1]), outputs[2].read_text()
    assert parquet["scalars_4096"].to_list() == flat["scalars_4096"].to_list() == [2 * 12 * 768 * 4095, 4 * 128 * 19]
    assert json.loads(outputs[0].with_suffix(".json").read_text())["parameters"]["beta"] == 0.76
    assert len(text.splitlines()) == 2 + 2 and text.startswith("| model")
    assert summary(parquet).height == 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["openai-community/gpt2", "--output", "x.docx"],
            "error: output 'x.docx' has no known ending: choose .parquet, .csv or .md",
        ),
        (["openai-community/gpt2", "--beta", "2"], "error: beta 2.0"),
        (["missing.json"], "error: no configuration 'missing.json'"),
    ],
)
def test_wrong_commands_are_one_clear_error(arguments, message):
    done = command(*arguments)
    assert done.exit_code == 1 and message in done.output and len(done.output.splitlines()) == 1


def test_a_command_reports_each_model_by_itself(tmp_path, config_file):
    (tmp_path / "bad.json").write_text("{")
    output = tmp_path / "new" / "folder" / "audit.csv"
    done = command(config_file, tmp_path / "bad.json", "openai-community/gpt2", "--output", output)
    assert (
        done.exit_code == 1
        and f"error: '{tmp_path / 'bad.json'}' does not parse" in done.stderr
        and "Traceback" not in done.output
    )
    assert (
        f"| {config_file}" in done.stdout
        and "| openai-community/gpt2" in done.stdout
        and "needs, at 0.06 nats per scalar" in done.stdout
    )
    table = pl.read_csv(output)
    assert (
        table["scalars_4096"].to_list() == [4 * 128 * 19, None, 2 * 12 * 768 * 4095]
        and "does not parse" in table["error"][1]
    )


@pytest.mark.parametrize(
    "output, message",
    [
        ("", "is a folder"),
        ("folder.md", "is a folder"),
        ("file/audit.md", "cannot be written"),
        ("/proc/audit.md", "cannot be written"),
        ("audit", "no known ending"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch, output, message):
    monkeypatch.setattr("l2m.audit.history_state", lambda *_: pytest.fail("worked"))
    (tmp_path / "folder.md").mkdir()
    (tmp_path / "file").write_text("")
    done = command("llama", "--output", tmp_path / output if output else f"{tmp_path}/folder.md/")
    assert done.exit_code == 1 and message in done.stderr and len(done.output.splitlines()) == 1


def test_an_output_at_home(tmp_path, config_file, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert (
        command(config_file, "--output", "~/made/audit.md").exit_code == 0 and (tmp_path / "made" / "audit.md").exists()
    )
