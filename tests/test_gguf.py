"GGUF files: all that a file holds is used or refused by name, and its expansion is kept by content."

import multiprocessing
import os
import shutil
import signal
import sys
import time
from functools import partial
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from filelock import FileLock
from tqdm import tqdm
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

from l2m.expansion import _clear_parts, _one_bar, dequantized
from l2m.gguf import gguf_head
from l2m.loading import load_scorer
from l2m.scoring import LanguageModel

T = gguf.GGUFValueType
TOKENS = [*bytes_to_unicode().values(), "th", "the", "<|endoftext|>", "<|start|>"]
WIDTH, HEADS, KEYS, INNER, LAYERS = 32, 4, 2, 64, 2
TEXT = {
    "tokenizer.ggml.model": ("gpt2", T.STRING),
    "tokenizer.ggml.pre": ("gpt-2", T.STRING),
    "tokenizer.ggml.tokens": (TOKENS, T.STRING),
    "tokenizer.ggml.token_type": ([1] * 258 + [3, 3], T.INT32),
    "tokenizer.ggml.merges": (["t h", "th e"], T.STRING),
    "tokenizer.ggml.bos_token_id": (259, T.UINT32),
    "tokenizer.ggml.eos_token_id": (258, T.UINT32),
    "tokenizer.ggml.unknown_token_id": (258, T.UINT32),
    "tokenizer.ggml.add_bos_token": (True, T.BOOL),
}
SHAPE = {
    "context_length": (512, T.UINT32),
    "embedding_length": (WIDTH, T.UINT32),
    "block_count": (LAYERS, T.UINT32),
    "feed_forward_length": (INNER, T.UINT32),
    "vocab_size": (len(TOKENS), T.UINT32),
    "attention.head_count": (HEADS, T.UINT32),
    "attention.head_count_kv": (KEYS, T.UINT32),
    "attention.layer_norm_rms_epsilon": (1e-5, T.FLOAT32),
    "rope.freq_base": (10000.0, T.FLOAT32),
    "rope.dimension_count": (WIDTH // HEADS, T.UINT32),
}
DESCRIPTION = {
    "general.type": ("model", T.STRING),
    "general.name": ("Tiny", T.STRING),
    "general.license": ("mit", T.STRING),
    "general.tags": (["a", "b"], T.STRING),
    "general.quantization_version": (2, T.UINT32),
    "general.file_type": (0, T.UINT32),
    "quantize.imatrix.file": ("x.dat", T.STRING),
    "tokenizer.chat_template": ("{{ messages }}", T.STRING),
    "tokenizer.ggml.add_space_prefix": (False, T.BOOL),
    "tokenizer.ggml.eot_token_id": (258, T.UINT32),
    "split.count": (1, T.UINT16),
    "split.no": (0, T.UINT16),
    "split.tensors.count": (20, T.INT32),
}


def weights(seed=0):
    "A Llama of random weights, by the names of GGUF."
    rng, kv = np.random.default_rng(seed), WIDTH // HEADS * KEYS
    shapes = {"attn_q": (WIDTH, WIDTH), "attn_k": (kv, WIDTH), "attn_v": (kv, WIDTH), "attn_output": (WIDTH, WIDTH)}
    shapes |= {"ffn_gate": (INNER, WIDTH), "ffn_up": (INNER, WIDTH), "ffn_down": (WIDTH, INNER)}
    tensors = {"token_embd.weight": rng.normal(0, 0.3, (len(TOKENS), WIDTH)), "output_norm.weight": np.ones(WIDTH)}
    for i in range(LAYERS):
        tensors |= {f"blk.{i}.{name}.weight": rng.normal(0, 0.3, shape) for name, shape in shapes.items()}
        tensors |= {f"blk.{i}.attn_norm.weight": np.ones(WIDTH), f"blk.{i}.ffn_norm.weight": np.ones(WIDTH)}
    return tensors


def write(path, keys=None, tensors=None, arch="llama", shape=SHAPE):
    "A GGUF file; a key or tensor of value None is left out."
    path.parent.mkdir(parents=True, exist_ok=True)
    keys = {f"{arch}.{k}": v for k, v in shape.items()} | TEXT | (keys or {})
    tensors = weights() | (tensors or {})
    new = gguf.GGUFWriter(path, arch=arch)
    for key, given in keys.items():
        if given is None:
            continue
        value, kind = given
        new.add_key_value(
            key, value, T.ARRAY if isinstance(value, list) else kind, sub_type=kind if isinstance(value, list) else None
        )
    for name, values in tensors.items():
        if values is not None:
            new.add_tensor(name, np.ascontiguousarray(values, dtype=np.float32))
    new.write_header_to_file()
    new.write_kv_data_to_file()
    new.write_tensors_to_file()
    new.close()
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "l2m"


def load(path):
    return load_scorer(str(path), device="cpu", dtype="float32", bos=258)


IDS = torch.randint(256, (2, 40), generator=torch.Generator().manual_seed(0))


def truth(scorer, **changes):
    "Log-probabilities of the same weights in a model of the given configuration."
    config = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEYS,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        max_position_embeddings=512,
        **changes,
    )
    model = LlamaForCausalLM(config).eval()
    model.load_state_dict(scorer.model.state_dict())
    return LanguageModel(model, None, "truth", 258).logprobs(IDS)[0]


def test_a_file_is_the_model_that_it_describes(tmp_path):
    scorer = load(write(tmp_path / "tiny.gguf", DESCRIPTION))
    torch.testing.assert_close(scorer.logprobs(IDS)[0], truth(scorer), rtol=0, atol=1e-5)
    assert scorer.context_limit == 512 and scorer.vocabulary == len(TOKENS)
    assert scorer.tokenizer("the th", add_special_tokens=False)["input_ids"] == [
        257,
        *scorer.tokenizer.convert_tokens_to_ids(["Ġ", "th"]),
    ]
    embedding = torch.tensor(weights()["token_embd.weight"], dtype=torch.float32)
    assert torch.equal(scorer.model.get_input_embeddings().weight, embedding)


@pytest.mark.parametrize(
    "keys",
    [
        {
            "llama.rope.scaling.type": ("linear", T.STRING),
            "llama.rope.scaling.factor": (4.0, T.FLOAT32),
            "llama.rope.scaling.original_context_length": (128, T.UINT32),
        },
        {"llama.rope.scaling.factor": (4.0, T.FLOAT32)},  # linear is what llama.cpp takes where no type is said
    ],
)
def test_linear_stretching_is_honoured(tmp_path, keys):
    scorer = load(write(tmp_path / "long.gguf", keys))
    stretched = truth(scorer, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0})
    torch.testing.assert_close(scorer.logprobs(IDS)[0], stretched, rtol=0, atol=1e-5)
    assert (stretched - truth(scorer)).abs().mean() > 0.01


REFUSED = {
    "llama.rope.scaling.type": ("yarn", T.STRING),
    "llama.rope.scaling.attn_factor": (1.2, T.FLOAT32),
    "llama.rope.scaling.yarn_ext_factor": (1.0, T.FLOAT32),
    "llama.rope.scale_linear": (4.0, T.FLOAT32),
    "llama.rope.dimension_sections": ([2, 2, 2, 2], T.INT32),
    "llama.rope.freq_base_swa": (1e4, T.FLOAT32),
    "llama.attention.sliding_window": (64, T.UINT32),
    "llama.attention.scale": (0.5, T.FLOAT32),
    "llama.attention.clamp_kqv": (8.0, T.FLOAT32),
    "llama.attention.max_alibi_bias": (8.0, T.FLOAT32),
    "llama.attention.causal": (False, T.BOOL),
    "llama.attention.key_length": (16, T.UINT32),
    "llama.attention.shared_kv_layers": (1, T.UINT32),
    "llama.attention.temperature_length": (8, T.UINT32),
    "llama.attention.layer_norm_epsilon": (1e-3, T.FLOAT32),
    "llama.attn_logit_softcapping": (50.0, T.FLOAT32),
    "llama.final_logit_softcapping": (30.0, T.FLOAT32),
    "llama.logit_scale": (0.25, T.FLOAT32),
    "llama.embedding_scale": (12.0, T.FLOAT32),
    "llama.residual_scale": (0.2, T.FLOAT32),
    "llama.use_parallel_residual": (True, T.BOOL),
    "llama.expert_count": (8, T.UINT32),
    "llama.expert_used_count": (2, T.UINT32),
    "llama.pooling_type": (1, T.UINT32),
    "llama.tensor_data_layout": ("Meta AI original pth", T.STRING),
    "llama.something_new": (1, T.UINT32),
    "adapter.type": ("lora", T.STRING),
    "tokenizer.ggml.pre": ("deepseek-llm", T.STRING),
    "tokenizer.ggml.model": ("bert", T.STRING),
    "tokenizer.ggml.add_space_prefix": (True, T.BOOL),
    "tokenizer.ggml.remove_extra_whitespaces": (True, T.BOOL),
    "tokenizer.ggml.precompiled_charsmap": ([1, 2], T.UINT8),
    "tokenizer.huggingface.json": ("{}", T.STRING),
    "general.type": ("adapter", T.STRING),
    "general.quantization_version": (1, T.UINT32),
    "llama.context_length": None,
    "llama.block_count": None,
}


@pytest.mark.parametrize("key", REFUSED)
def test_a_key_that_is_not_read_is_refused_by_name(tmp_path, cache, key):
    with pytest.raises(ValueError, match=f"x.gguf'.*{key.replace('.', '[.]')}"):
        load(write(tmp_path / "x.gguf", {key: REFUSED[key]}))
    assert not list(cache.glob("gguf-*"))


def test_what_a_file_leaves_unsaid_means_what_it_means_to_llama_cpp(tmp_path):
    load(write(tmp_path / "base.gguf", {"llama.rope.freq_base": None, "llama.rope.dimension_count": None}))
    with pytest.raises(ValueError, match="cannot be read by transformers"):
        load(write(tmp_path / "kv.gguf", {"llama.attention.head_count_kv": None}))
    with pytest.raises(
        ValueError, match="sliding_window' is not said, which stands for None, and transformers takes 4096"
    ):
        load(
            write(tmp_path / "name.gguf", {"general.name": ("mistral", T.STRING)})
        )  # transformers takes this name for an architecture


def test_one_file_of_several_says_which_and_what_to_do(tmp_path):
    first = {name: None for name in weights() if name.startswith("blk.1.")}
    split = {"split.no": (0, T.UINT16), "split.count": (2, T.UINT16), "split.tensors.count": (20, T.INT32)}
    with pytest.raises(ValueError, match="file 1 of 2 of a split model.*split.count.*llama-gguf-split --merge"):
        load(write(tmp_path / "model-00001-of-00002.gguf", split, first))
    with pytest.raises(ValueError, match="holds 11 tensors, 'split.tensors.count' is 20"):
        load(write(tmp_path / "x.gguf", split | {"split.count": (1, T.UINT16)}, first))


@pytest.mark.parametrize(
    "name, values, said",
    [
        *[
            (f"blk.1.{name}.weight", None, f"it lacks tensor 'blk.1.{name}'")
            for name in ("attn_q", "ffn_down", "ffn_norm")
        ],
        ("output_norm.weight", None, "it lacks tensor 'output_norm'"),
        ("token_embd.weight", None, "it lacks tensor 'token_embd'"),
        ("rope_freqs.weight", np.ones(4), "tensor 'rope_freqs.weight' is not read"),
        ("blk.0.attn_q.bias", np.ones(WIDTH), "tensor 'blk.0.attn_q.bias' is not read"),
        ("blk.0.attn_q_norm.weight", np.ones(8), "tensor 'blk.0.attn_q_norm.weight' is not read"),
        ("blk.2.attn_norm.weight", np.ones(WIDTH), "tensor 'blk.2.attn_norm.weight' is not read"),
        ("rope_factors_long.weight", np.ones(4), "tensor 'rope_factors_long.weight' is not read"),
        ("blk.0.attn_sinks.weight", np.ones(HEADS), "tensor 'blk.0.attn_sinks.weight' is not read"),
        ("v.patch_embd.weight", np.ones((2, 2)), "tensor 'v.patch_embd.weight' is not read"),
        ("blk.0.ffn_up.weight", np.ones((INNER + 32, WIDTH)), "cannot be read by transformers"),
        ("token_embd.weight", np.ones((len(TOKENS) - 1, WIDTH)), "cannot be read by transformers"),
    ],
)
def test_every_tensor_has_its_place(tmp_path, cache, name, values, said):
    with pytest.raises(ValueError, match=said.replace(".", "[.]")):
        load(write(tmp_path / "x.gguf", tensors={name: values}))
    assert not list(cache.glob("gguf-*"))


def test_an_output_layer_of_its_own_is_used(tmp_path):
    head = np.random.default_rng(9).normal(0, 0.3, (len(TOKENS), WIDTH))
    scorer = load(write(tmp_path / "head.gguf", tensors={"output.weight": head}))
    assert (
        torch.equal(scorer.model.lm_head.weight, torch.tensor(head, dtype=torch.float32))
        and not scorer.model.config.tie_word_embeddings
    )


SIZES = dict(
    vocab_size=len(TOKENS),
    hidden_size=WIDTH,
    intermediate_size=INNER,
    num_hidden_layers=LAYERS,
    num_attention_heads=HEADS,
    num_key_value_heads=KEYS,
    tie_word_embeddings=True,
)
FAMILIES = {
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SIZES, rms_norm_eps=1e-5, max_position_embeddings=512), {}),
    "gemma3": (
        Gemma3ForCausalLM,
        Gemma3TextConfig(**SIZES, head_dim=16, sliding_window=16),
        {
            "attention.key_length": (16, T.UINT32),
            "attention.value_length": (16, T.UINT32),
            "attention.sliding_window": (16, T.UINT32),
            "attention.layer_norm_rms_epsilon": (1e-6, T.FLOAT32),
            "rope.dimension_count": None,
            "rope.freq_base": (1e6, T.FLOAT32),
        },
    ),
    "gpt2": (
        GPT2LMHeadModel,
        GPT2Config(vocab_size=len(TOKENS), n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_inner=None),
        {
            "context_length": (1024, T.UINT32),
            "feed_forward_length": (4 * WIDTH, T.UINT32),
            "attention.layer_norm_epsilon": (1e-5, T.FLOAT32),
            "attention.layer_norm_rms_epsilon": None,
            "rope.freq_base": None,
            "rope.dimension_count": None,
            "attention.head_count_kv": None,
        },
    ),
    "mamba": (
        MambaForCausalLM,
        MambaConfig(vocab_size=len(TOKENS), hidden_size=WIDTH, num_hidden_layers=LAYERS, state_size=4),
        {
            "ssm.conv_kernel": (4, T.UINT32),
            "ssm.inner_size": (2 * WIDTH, T.UINT32),
            "ssm.state_size": (4, T.UINT32),
            "ssm.time_step_rank": (2, T.UINT32),
            "ssm.dt_b_c_rms": (False, T.BOOL),
            "attention.head_count": (0, T.UINT32),
            "attention.head_count_kv": None,
            "feed_forward_length": (0, T.UINT32),
            "rope.freq_base": None,
            "rope.dimension_count": None,
        },
    ),
}
THERE = {  # what transformers undoes when it reads a file
    "gemma3": lambda name, t: t + 1 if name.endswith("norm.weight") else t,
    "gpt2": lambda name, t: (
        t.T if any(part in name for part in ("attn_qkv.w", "ffn_down.w", "ffn_up.w", "attn_output.w")) else t
    ),
    "mamba": lambda name, t: -t.exp() if "ssm_a" in name else t.squeeze(1) if "conv1d.weight" in name else t,
}


@pytest.mark.parametrize("arch", FAMILIES)
def test_other_architectures_still_load(tmp_path, arch):
    build, config, keys = FAMILIES[arch]
    torch.manual_seed(0)
    model = build(config).eval()
    kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)
    names, there, tensors = (
        gguf.get_tensor_name_map(kind, LAYERS),
        THERE.get(arch, lambda name, t: t),
        {name: None for name in weights()},
    )
    for name, weight in model.state_dict().items():
        stem, ending = name.rsplit(".", 1) if name.endswith((".weight", ".bias")) else (name, "")
        found = f"{names.get_name(stem)}.{ending}".rstrip(".")
        if name != "lm_head.weight":
            tensors[found] = there(found, weight.detach()).numpy()
    scorer = load(
        write(
            tmp_path / f"{arch}.gguf",
            tensors=tensors,
            arch=arch,
            shape={k: v for k, v in (SHAPE | keys).items() if v is not None},
        )
    )
    torch.testing.assert_close(
        scorer.logprobs(IDS)[0], LanguageModel(model, None, arch, 258).logprobs(IDS)[0], rtol=0, atol=1e-3
    )


# The cache


def test_content_alone_names_an_expansion(tmp_path, cache):
    "The same bytes under another name are the same model; other bytes under the same name and size are another."
    one, other = (
        write(tmp_path / "step1" / "model.gguf"),
        write(tmp_path / "step2" / "model.gguf", tensors=weights(seed=1)),
    )
    assert one.stat().st_size == other.stat().st_size
    first, second = load(one), load(other)
    assert first.fingerprint != second.fingerprint and not torch.equal(first.logprobs(IDS)[0], second.logprobs(IDS)[0])
    shutil.copy(one, tmp_path / "copy of it.gguf")
    shutil.copy(other, one)
    assert (
        load(tmp_path / "copy of it.gguf").fingerprint == first.fingerprint
        and load(one).fingerprint == second.fingerprint
    )
    assert len(list(cache.glob("gguf-*"))) == 2


@pytest.mark.parametrize("harm", ["flip", "cut", "another's", "weights gone", "config gone", "all another's"])
def test_a_damaged_expansion_is_made_again(tmp_path, cache, harm):
    path, other = write(tmp_path / "x.gguf"), dequantized(write(tmp_path / "y.gguf", tensors=weights(seed=1)))
    right, folder = load(path), dequantized(path)
    file = folder / "model.safetensors"
    whole, file_of_other = file.read_bytes(), (other / "model.safetensors").read_bytes()
    flipped = whole[:-2] + bytes([whole[-2] ^ 64]) + whole[-1:]
    if harm == "all another's":
        shutil.rmtree(folder)
        shutil.copytree(other, folder)
    elif harm in ("weights gone", "config gone"):
        (file if harm == "weights gone" else folder / "config.json").unlink()
    else:
        file.write_bytes({"flip": flipped, "cut": whole[:500], "another's": file_of_other}[harm])
    assert load(path).fingerprint == right.fingerprint
    assert file.read_bytes() == whole and len(list(cache.glob("gguf-*"))) == 2


def test_a_name_inside_the_file_decides_nothing(tmp_path):
    named = load(
        write(tmp_path / "named.gguf", {"general.name": ("Another", T.STRING), "general.license": ("mit", T.STRING)})
    )
    assert named.fingerprint == load(write(tmp_path / "plain.gguf")).fingerprint


def test_other_versions_expand_anew(tmp_path, monkeypatch):
    path = write(tmp_path / "x.gguf")
    before = dequantized(path)
    monkeypatch.setattr("l2m.expansion.versions", lambda *packages: {"l2m": "9.9"})
    assert dequantized(path) != before


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "contents.json"])
def test_an_expansion_that_lost_a_file_is_made_anew(tmp_path, name):
    folder = dequantized(path := write(tmp_path / "x.gguf"))
    before, size = load(path), (folder / name).stat().st_size
    (folder / name).unlink()
    assert load(path).fingerprint == before.fingerprint
    (folder / name).write_bytes((folder / name).read_bytes()[: size // 2])
    assert load(path).fingerprint == before.fingerprint and (folder / name).stat().st_size == size


def test_what_lies_beside_a_file_is_not_read(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    (tmp_path / "generation_config.json").write_text("{")
    assert load(write(tmp_path / "x.gguf")).logprobs(IDS)[0].isfinite().all()


def convert_slowly(path, started):
    "Stops for ever in the middle of saving."
    from transformers import PreTrainedModel

    def save(self, folder, **options):
        Path(folder).mkdir()
        (Path(folder) / "model.safetensors").write_bytes(b"half")
        started.set()
        time.sleep(600)

    PreTrainedModel.save_pretrained = save
    dequantized(path)


def test_a_killed_conversion_is_cleared_and_a_living_one_is_not(tmp_path, cache):
    path, other = write(tmp_path / "x.gguf"), write(tmp_path / "y.gguf", tensors=weights(seed=1))
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    process = context.Process(target=convert_slowly, args=(str(path), started))
    process.start()
    try:
        assert started.wait(300)
        load(other)
        assert len(list(cache.glob(".*.part"))) == 1  # another process is at work
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    load(other)
    assert not list(cache.glob(".*.part"))
    assert load(path).logprobs(IDS)[0].isfinite().all()


def test_a_conversion_has_one_bar_that_says_what_happens(capsys, monkeypatch):
    "Bars of what it calls are not shown; whatever else is told is."
    monkeypatch.setattr("l2m.expansion.tqdm", partial(tqdm, disable=False))
    with _one_bar("converting a model, once", 3) as bar:
        for _ in tqdm(range(3), desc="inner", disable=False):
            bar.update()
        print("a warning", file=sys.stderr)
        within = sys.stderr
    shown = capsys.readouterr().err
    assert "converting a model, once: 100%" in shown and "a warning\n" in shown and "inner" not in shown
    assert sys.stderr is not within  # and the stream is the old one again


def test_leftovers_of_any_name_are_cleared(cache):
    for name in (".SmolLM2-135M-Instruct.Q4_1-2eeb06db5be48460.4711.part", ".x.part"):
        (cache / name).mkdir(parents=True)
        (cache / name / "model.safetensors").write_bytes(b"half")
    (cache / ".gemma-3-270m-q4_k_m.part").write_bytes(b"half")
    (cache / "gguf-0123").mkdir()
    with FileLock(cache / ".x.lock"):
        _clear_parts()
        assert {p.name for p in cache.iterdir() if p.suffix != ".lock"} == {".x.part", "gguf-0123"}
    _clear_parts()
    assert not list(cache.glob(".*.part"))


# Files that are none


def test_a_file_that_is_no_whole_gguf_is_one_clear_error(tmp_path, cache):
    whole = write(tmp_path / "x.gguf").read_bytes()
    for size in (3, 20, 200, 5000, len(whole) - 5000, len(whole) - 1):
        (tmp_path / "cut.gguf").write_bytes(whole[:size])
        with pytest.raises(ValueError, match="cut.gguf' (cannot be read as GGUF.*cut short|is not a GGUF file)"):
            load(tmp_path / "cut.gguf")
    for content, said in (
        (b"", "is not a GGUF file, it is empty"),
        (b"PK zip", "is not a GGUF file, it begins with b'PK z'"),
        (b"GGUF" + bytes(99), "GGUF version 0"),
        (b"GGUF\3\0\0\0" + b"\xff" * 99, "cut short"),
    ):
        (tmp_path / "none.gguf").write_bytes(content)
        with pytest.raises(ValueError, match=f"none.gguf'.*{said}"):
            load(tmp_path / "none.gguf")
    assert not list(cache.glob("gguf-*"))


def test_missing_files_and_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no GGUF file '.*absent.gguf'"):
        load(tmp_path / "absent.gguf")
    write(tmp_path / "folder.gguf" / "inside.gguf")
    with pytest.raises(
        ValueError, match="folder.gguf' is a folder without config.json: name a file in it, one of .'inside.gguf'."
    ):
        load(tmp_path / "folder.gguf")
    assert load("~/folder.gguf/inside.gguf").name == "~/folder.gguf/inside.gguf"
    shutil.copy(tmp_path / "folder.gguf" / "inside.gguf", tmp_path / "no ending")
    assert load("~/no ending").vocabulary == len(TOKENS)


def test_a_key_or_tensor_that_stands_twice(tmp_path):
    content = write(
        tmp_path / "x.gguf",
        {"llama.rope.scaling.fact0r": (4.0, T.FLOAT32), "llama.rope.scaling.factor": (1.0, T.FLOAT32)},
    ).read_bytes()
    (tmp_path / "x.gguf").write_bytes(content.replace(b"fact0r", b"factor"))
    with pytest.raises(ValueError, match="x.gguf': key 'llama.rope.scaling.factor' stands twice"):
        gguf_head(tmp_path / "x.gguf")
    content = write(tmp_path / "y.gguf").read_bytes()
    (tmp_path / "y.gguf").write_bytes(content.replace(b"blk.1.ffn_down", b"blk.0.ffn_down"))
    with pytest.raises(ValueError, match="y.gguf': tensor 'blk.0.ffn_down.weight' stands twice"):
        gguf_head(tmp_path / "y.gguf")
