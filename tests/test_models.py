"Every architecture: causal, of the size it says, and the scan equal to the recurrence."

from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BambaConfig, BambaForCausalLM, GPT2LMHeadModel, Mamba2Config, Mamba2ForCausalLM, logging

from l2m.devices import device_bytes, known_device
from l2m.interface import Continuation
from l2m.models import (
    _PAPER,
    _STATES,
    FAMILIES,
    _clock,
    build_model,
    chunk_scan,
    layers_and_width,
    model_arguments,
    model_config,
    parameter_count,
    transformers_chunk_scan,
)
from l2m.probe import probe
from l2m.scoring import LanguageModel

logging.set_verbosity_error()
ROOT = Path(__file__).parents[1]
PROFILES = {p.stem: yaml.safe_load(p.read_text()) for p in (ROOT / "params").glob("*.yml")}


def recurrence(x, dt, A, B, C, D, state):
    "Mamba-2, one token after the other; state [batch, heads, channels, state]"
    repeat = x.shape[2] // B.shape[2]
    B, C, y = B.repeat_interleave(repeat, 2), C.repeat_interleave(repeat, 2), []
    for t in range(x.shape[1]):
        state = state * (A * dt[:, t]).exp()[..., None, None] + torch.einsum(
            "bh,bhp,bhn->bhpn", dt[:, t], x[:, t], B[:, t]
        )
        y.append(torch.einsum("bhpn,bhn->bhp", state, C[:, t]) + D[:, None] * x[:, t])
    return torch.stack(y, 1), state


@settings(deadline=None, max_examples=30)
@given(length=st.integers(1, 40), chunk=st.integers(1, 48), groups=st.sampled_from([1, 2]), seed=st.integers(0, 99))
def test_chunk_scan_is_the_recurrence(length, chunk, groups, seed):
    g = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)
    x, raw, A, D, bias = normal(2, length, 4, 3), normal(2, length, 4), -normal(4).exp(), normal(4), normal(4)
    B, C, state = normal(2, length, groups, 5), normal(2, length, groups, 5), normal(2, 4, 3, 5)
    dt = torch.nn.functional.softplus(raw + bias).clamp(0.1, 2)
    y, last = recurrence(x, dt, A, B, C, D, state)
    found = chunk_scan(
        x,
        raw,
        A,
        B,
        C,
        chunk,
        D=D,
        dt_bias=bias,
        initial_states=state,
        dt_softplus=True,
        dt_limit=(0.1, 2),
        return_final_states=True,
    )
    torch.testing.assert_close(found[0], y, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(found[1], last, atol=1e-10, rtol=1e-10)


def test_only_models_that_scan_replace_the_scan(monkeypatch):
    import l2m.models as models

    homes = models.modeling_mamba2, models.modeling_bamba
    for home in homes:
        monkeypatch.setattr(home, "mamba2_chunk_scan", transformers_chunk_scan)
    build_model("llama", length=8, vocabulary=4)
    assert [home.mamba2_chunk_scan for home in homes] == 2 * [transformers_chunk_scan]
    build_model("mamba2", length=8, vocabulary=4)
    assert [home.mamba2_chunk_scan for home in homes] == 2 * [chunk_scan]


def test_fused_kernels_come_first(monkeypatch):
    import l2m.models as models

    for module in (models.modeling_mamba2, models.modeling_bamba):
        monkeypatch.setattr(module, "mamba2_chunk_scan", transformers_chunk_scan)
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda name: name == "mamba_ssm" or None)
    models.use_chunk_scan()
    assert models.modeling_mamba2.mamba2_chunk_scan is transformers_chunk_scan


MAMBA2 = dict(vocab_size=97, hidden_size=32, num_hidden_layers=2, pad_token_id=0)
LAYERS = {
    "mamba2": (
        Mamba2ForCausalLM,
        Mamba2Config(**MAMBA2, num_heads=8, head_dim=8, state_size=8, n_groups=2, chunk_size=16),
    ),
    "bamba": (
        BambaForCausalLM,
        BambaConfig(
            **MAMBA2,
            intermediate_size=64,
            num_attention_heads=4,
            num_key_value_heads=2,
            attn_layer_indices=[1],
            mamba_n_heads=8,
            mamba_d_head=8,
            mamba_d_state=8,
            mamba_n_groups=1,
            mamba_chunk_size=16,
        ),
    ),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", LAYERS)
def test_scores_are_the_same_with_either_scan(name, dtype, monkeypatch):
    import l2m.models as models

    build, config = LAYERS[name]
    torch.manual_seed(0)
    model, ids = build(config).to(dtype), torch.randint(97, (2, 40), generator=torch.Generator().manual_seed(1))
    found = []
    for scan in (transformers_chunk_scan, chunk_scan):
        for module in (models.modeling_mamba2, models.modeling_bamba):
            monkeypatch.setattr(module, "mamba2_chunk_scan", scan)
        probe(scorer := LanguageModel(model, None, name, 1))
        found.append(scorer.logprobs(ids, [Continuation(20, ids[:, 20:])]))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=2e-2 if dtype is torch.bfloat16 else 1e-4)


@pytest.mark.parametrize("name", ["mamba2", "hybrid"])
def test_models_with_our_scan_equal_transformers_own(name, monkeypatch):
    import l2m.models as models

    model, z = build_model(name, length=70, copies=3), torch.randn(2, 70, 3, generator=torch.Generator().manual_seed(1))
    ours = model(z)
    grads = torch.autograd.grad(
        ours[0].square().sum() + ours[1].sum(), [p for p in model.parameters() if p.requires_grad]
    )
    for module in (models.modeling_mamba2, models.modeling_bamba):
        monkeypatch.setattr(module, "mamba2_chunk_scan", transformers_chunk_scan)
    theirs = model(z)
    other = torch.autograd.grad(
        theirs[0].square().sum() + theirs[1].sum(), [p for p in model.parameters() if p.requires_grad]
    )
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(grads, other, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("name", FAMILIES)
def test_no_model_sees_the_future(name):
    length, at = 12, 7
    vectors, tokens = (
        build_model(name, length=length, copies=2).eval(),
        build_model(name, length=length, vocabulary=9).eval(),
    )
    z, ids = torch.randn(1, length, 2, generator=torch.Generator().manual_seed(0)), torch.arange(length)[None] % 9
    with torch.no_grad():
        before, after = (vectors(torch.cat([z[:, :at], tail], 1)) for tail in (z[:, at:], z[:, at:] + 1))
        for a, b in zip(before, after):
            torch.testing.assert_close(a[:, : at + 1], b[:, : at + 1], atol=1e-6, rtol=1e-5)
            assert not torch.allclose(a[:, at + 1 :], b[:, at + 1 :])
        changed = torch.cat([ids[:, :at], (ids[:, at:] + 1) % 9], 1)
        a, b = tokens(ids).logits, tokens(changed).logits
        torch.testing.assert_close(a[:, :at], b[:, :at], atol=1e-6, rtol=1e-5)
        assert a.shape == (1, length, 10) and not torch.allclose(a[:, at:], b[:, at:])


def test_a_window_forgets_and_a_transformer_does_not():
    z = torch.randn(1, 40, 2, generator=torch.Generator().manual_seed(0))
    changed = z.clone()
    changed[:, 0] += 1
    for name, arguments, differs in (("llama", {}, True), ("sliding", dict(state=4), False), ("mamba2", {}, True)):
        model = build_model(name, length=40, copies=2, **arguments).double().eval()
        with torch.no_grad():
            a, b = model(z.double())[0][:, -1], model(changed.double())[0][:, -1]
        assert torch.equal(a, b) != differs, name


def test_first_token_is_predicted_from_nothing():
    model = build_model("llama", length=6, copies=2, positions=False)
    z = torch.randn(5, 6, 2, generator=torch.Generator().manual_seed(0))
    first = model(z)[0][:, 0]
    assert torch.equal(first, first[:1].expand_as(first))


def test_same_seed_same_weights_and_the_global_generator_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, two, other = (build_model("mamba2", length=8, copies=2, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    pairs = list(zip(one.parameters(), two.parameters(), other.parameters()))
    assert all(torch.equal(a, b) for a, b, _ in pairs) and not all(torch.equal(a, c) for a, _, c in pairs)


def test_models_are_transformers_own():
    assert type(build_model("gpt2", length=8, vocabulary=5)) is GPT2LMHeadModel
    assert type(build_model("mamba2", length=8, vocabulary=5)) is Mamba2ForCausalLM


def test_clock_tells_every_position_apart():
    hands = _clock(64)
    assert hands.shape == (64, 6) and torch.cdist(hands.double(), hands.double()).fill_diagonal_(1).min() > 0.05


@pytest.mark.parametrize(
    "experiment, least, most", [("gaussian_kl", 6e5, 1.6e6), ("position_nll", 5e6, 3e7), ("santa_fe_kl", 1e4, 1e6)]
)
def test_the_models_of_the_profile_gpu_are_as_large_as_it_says(experiment, least, most):
    values = PROFILES["gpu"][experiment]
    kind = dict(copies=values["copies"]) if "copies" in values else dict(vocabulary=values.get("vocabulary", 258))
    length = values.get("length") or max(values["lengths"])
    models = [build_model(**model_arguments(text), length=length, device="meta", **kind) for text in values["models"]]
    assert all(least < parameter_count(model) < most for model in models)
    assert values["device"] == "cuda" and values["tf32"]


@pytest.mark.parametrize("experiment", [name for name, values in PROFILES["paper"].items() if "models" in values])
def test_the_papers_models_build_without_weights(experiment):
    values = PROFILES["paper"][experiment]
    length = values.get("length") or max(values["lengths"])
    kind = (
        dict(copies=values["copies"], positions=values["positions"])
        if "copies" in values
        else dict(vocabulary=values.get("vocabulary", 2050))
    )
    counts = {}
    for text in values["models"]:
        model = build_model(**model_arguments(text), length=length, device="meta", **kind)
        counts[text] = parameter_count(model)
        assert all(p.is_meta for p in model.parameters())
    if experiment == "gaussian_kl":
        assert {f"{name}:{size}" for name, sizes in _PAPER.items() for size in sizes} == {
            text.split("/")[0] for text in values["models"]
        }
        assert 0.8e8 < counts["gpt2:12x768"] < 1.3e8 and 1e9 < counts["mamba:48x2048"] < 1.5e9


@pytest.mark.parametrize("profile", PROFILES)
def test_every_model_of_every_profile_builds(profile):
    for experiment in {"gaussian_kl", "santa_fe_kl", "position_nll"} & PROFILES[profile].keys():
        values = PROFILES[profile][experiment]
        for text in values.get("models", []):
            assert (
                parameter_count(
                    build_model(
                        **model_arguments(text, values.get("size", "tiny")), length=1024, copies=4, device="meta"
                    )
                )
                > 0
            )


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(name="lstm"), "model 'lstm' is unknown: choose one of"),
        (dict(size="huge"), "size 'huge' is unknown: choose one of"),
        (dict(size="2x33"), "size '2x33' is unknown"),
        (dict(size="0x64"), "size '0x64' is unknown"),
        (dict(state=4), "'gpt2' keeps every token, so state=4 means nothing"),
        (dict(name="mamba2", state=0), "state=0: both must be at least 1"),
        (dict(length=0), "length is 0, expected a whole number, at least 1"),
        (dict(copies=None), "vocabulary=None, copies=None: give one of them"),
        (dict(vocabulary=5), "vocabulary=5, copies=2: give one of them"),
        (dict(copies=0), "copies is 0, expected a whole number, at least 1 or None"),
        (dict(device="tpu9"), "device 'tpu9' is not on this machine"),
        (dict(size="128x65536"), "gpt2 128x65536 needs .* GiB to train and 'cpu' has .*: choose a smaller size"),
    ],
)
def test_bad_input_is_one_clear_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_model(**dict(name="gpt2", length=8, copies=2) | arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there():
    with pytest.raises(ValueError, match="device 'cuda' is not on this machine: choose one of \\['cpu'"):
        known_device("cuda")


@pytest.mark.parametrize("text", ["", "mamba2:", "mamba2/x", "a b", "mamba2/16/3"])
def test_a_model_that_is_not_understood(text):
    with pytest.raises(ValueError, match="is not understood: write family:size/state"):
        model_arguments(text)


def test_states_and_sizes():
    assert model_arguments("gpt2", "small") == dict(name="gpt2", size="small", state=None)
    assert layers_and_width("12x768") == (12, 768)
    assert (
        model_config("mamba2", length=8, state=5).state_size == 5
        and model_config("sliding", length=8, state=5).sliding_window == 5
    )
    assert _STATES.keys() < FAMILIES.keys() and device_bytes(torch.device("cpu")) > 2**28
