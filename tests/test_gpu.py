"What only a CUDA card can show: the same numbers as without one, and faster. Skipped as a whole where there is none."

import copy
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import DynamicCache, logging

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")
logging.set_verbosity_error()

# Training

from test_graphs import Interrupted

from l2m.growth import Lifetimes
from l2m.hierarchies import SubvolumeGaussian
from l2m.models import build_model
from l2m.plans import Plan
from l2m.tasks import GaussianTask, TextTask
from l2m.training import Diverged, evaluate, train, train_together

FAMILIES = ["llama", "gpt2", "sliding", "mamba2", "linear", "hybrid"]
TASK = GaussianTask(SubvolumeGaussian.of_length(64, copies=8))
PLAN = Plan(steps=30, batch=8, learning_rate=1e-3, warmup=5, microbatches=2, bulk=7)
fresh = lambda name="llama", seed=0: build_model(name, "2x64", length=64, copies=8, seed=seed)
close = lambda found, wanted: np.testing.assert_allclose(found["loss"], wanted["loss"], rtol=1e-4, atol=1e-5)


def recorded(call):
    "The result of a call in which every step was recorded"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = call()
    assert not [str(w.message) for w in said if "cannot be captured" in str(w.message)]
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_recorded_steps_give_the_losses_of_plain_ones(name):
    models = [fresh(name), fresh(name)]
    plain = train(models[0], TASK, PLAN, device="cuda", capture=False)
    close(recorded(lambda: train(models[1], TASK, PLAN, device="cuda")), plain)
    scores = [evaluate(model, TASK, 64, 32, device="cuda").averages["kl"] for model in models]
    assert scores[0] == pytest.approx(scores[1], rel=1e-3)
    assert all(p.grad is None for p in models[1].parameters())


@pytest.mark.parametrize("name", ["llama", "mamba2", "linear"])
def test_models_that_grow_are_recorded_and_trained_in_half_precision(name):
    make = lambda: build_model(name, "2x64", length=64, copies=8, growth=0.7)
    plain = train(make(), TASK, PLAN, device="cuda", capture=False)
    close(recorded(lambda: train(make(), TASK, PLAN, device="cuda")), plain)
    half = train(make(), TASK, replace(PLAN, autocast="bfloat16"), device="cuda")
    assert half["loss"][-1] == pytest.approx(plain["loss"][-1], rel=0.1)


@pytest.mark.parametrize("name", ["llama", "gpt2", "mamba2", "linear"])
def test_a_state_that_grows_goes_on_where_it_was_cut(name):
    ids = torch.randint(9, (2, 64), generator=torch.Generator().manual_seed(0))
    host = build_model(name, "2x64", length=64, vocabulary=9, growth=0.5).eval()
    card, read = copy.deepcopy(host).cuda(), []
    cache = DynamicCache(config=card.config)
    kept = "cache_params" if name == "mamba2" else "past_key_values"
    with torch.no_grad():
        for part in ids.cuda().split([1, 30, 1, 32], 1):
            read.append(card(part, use_cache=True, **{kept: cache}).logits.cpu())
        torch.testing.assert_close(torch.cat(read, 1), host(ids).logits, rtol=0, atol=1e-4)
    if name in ("llama", "gpt2"):
        assert cache.layers[0].keys.shape[-2] == Lifetimes(0.5).alive(64)


@pytest.mark.parametrize(
    "length", [32, 1024]
)  # of thousands of tokens the gradient of the table is summed in another way
def test_recorded_steps_of_tokens(length):
    windows = torch.randint(50, (240, length), generator=torch.Generator().manual_seed(0))
    task, make = TextTask(windows, 50), lambda: build_model("llama", "2x64", length=length, vocabulary=50)
    for autocast in (None, "bfloat16"):
        plan = replace(PLAN, autocast=autocast)
        plain = train(make(), task, plan, device="cuda", capture=False)
        found = recorded(lambda: train(make(), task, plan, device="cuda"))
        np.testing.assert_allclose(found["loss"], plain["loss"], rtol=1e-4 if autocast is None else 0.02)


def test_tf32_is_on_for_steps_only():
    exact, rough = (train(fresh(), TASK, replace(PLAN, tf32=tf32), device="cuda") for tf32 in (False, True))
    np.testing.assert_allclose(rough["loss"], exact["loss"], rtol=0.02)
    assert not rough["loss"].equals(exact["loss"]) and torch.get_float32_matmul_precision() == "highest"


def test_killed_and_resumed(tmp_path, monkeypatch):
    whole = train(fresh(), TASK, PLAN, device="cuda")
    monkeypatch.setattr(Interrupted, "at", 8 * 21)
    with pytest.raises(KeyboardInterrupt):
        train(fresh(), Interrupted(TASK.process), PLAN, tmp_path, device="cuda", save_every=5)
    monkeypatch.setattr(Interrupted, "at", None)
    resumed = recorded(lambda: train(fresh(), Interrupted(TASK.process), PLAN, tmp_path, device="cuda", save_every=5))
    close(resumed, whole)


@pytest.mark.parametrize("name", ["llama", "mamba2"])
def test_runs_together_have_the_losses_of_runs_alone(name):
    plans = [
        replace(PLAN, seed=seed, learning_rate=rate) for seed, rate in ((0, 1e-3), (1, 1e-3), (0, 3e-3), (2, 1e-4))
    ]
    alone = [train(fresh(name, seed=i), TASK, plan, device="cuda") for i, plan in enumerate(plans)]
    models = [fresh(name, seed=i) for i in range(4)]
    for found, one in zip(recorded(lambda: train_together(models, TASK, plans, device="cuda")), alone):
        close(found, one)


def test_a_run_that_diverges_does_not_stop_the_others(tmp_path):
    plans, folders = [PLAN, replace(PLAN, learning_rate=1e9, seed=1)], [tmp_path / "a", tmp_path / "b"]
    with pytest.raises(Diverged, match="run 1"):
        train_together([fresh(), fresh()], TASK, plans, folders, device="cuda")
    close(train(fresh(), TASK, PLAN, folders[0], device="cuda"), train(fresh(), TASK, PLAN, device="cuda"))


def test_a_step_that_looks_at_a_number_is_run_as_it_is():
    class Looks(GaussianTask):
        def scores(self, model, batch):
            assert batch[0].sum().item() < 1e9
            return super().scores(model, batch)

    plain = train(fresh(), TASK, PLAN, device="cuda", capture=False)
    with pytest.warns(UserWarning, match="cannot be captured as a graph and is run as it is"):
        close(train(fresh(), Looks(TASK.process), PLAN, device="cuda"), plain)
    close(recorded(lambda: train(fresh(), TASK, PLAN, device="cuda")), plain)  # nothing is left in disorder


def test_tiny_models_are_trained_several_times_as_fast(capsys):
    task = GaussianTask(SubvolumeGaussian.of_length(64, copies=64))
    make = lambda seed=0: build_model("llama", "4x128", length=64, copies=64, seed=seed)
    plan = lambda steps, seed=0: Plan(steps, 16, 1e-3, warmup=5, seed=seed, bulk=50, tf32=True)
    pace = lambda curve: len(curve) // 2 / (curve["seconds"][-1] - curve["seconds"][-1 - len(curve) // 2])
    plain = pace(train(make(), task, plan(60), device="cuda", capture=False))
    graph = pace(train(make(), task, plan(400), device="cuda"))
    eight = train_together([make(i) for i in range(8)], task, [plan(200, i) for i in range(8)], device="cuda")
    together = sum(map(pace, eight))
    with capsys.disabled():
        print(
            f"\nllama 4x128, L = 64: {plain:.0f} steps/s plain, {graph:.0f} as a graph, {together:.0f} of eight together"
        )
    assert graph > 2 * plain and together > graph


# Scoring

from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
)

from l2m.bipartite import measure_bipartite
from l2m.interface import Continuation
from l2m.probe import probe
from l2m.scoring import LanguageModel
from l2m.windows import Windows

SIZES = dict(vocab_size=97, hidden_size=64, num_hidden_layers=2, pad_token_id=0)
ATTENTION = dict(intermediate_size=128, num_attention_heads=4, num_key_value_heads=2)
SCORED = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, **ATTENTION)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=97, n_embd=64, n_layer=2, n_head=4)),
    "mamba2": lambda: Mamba2ForCausalLM(
        Mamba2Config(**SIZES, num_heads=8, head_dim=16, state_size=8, n_groups=1, chunk_size=16)
    ),
    "gemma2": lambda: Gemma2ForCausalLM(
        Gemma2Config(**SIZES, **ATTENTION, head_dim=16, sliding_window=8, final_logit_softcapping=1.0)
    ),
}


def both_places(name):
    "The same model on the CPU and on the card, probed."
    torch.manual_seed(0)
    model = SCORED[name]()
    scorers = [LanguageModel(copy.deepcopy(model).to(place), None, name, 1) for place in ("cpu", "cuda")]
    for scorer in scorers:
        probe(scorer)
    return scorers


def token_ids(seed, *shape):
    return torch.randint(97, shape, generator=torch.Generator().manual_seed(seed))


def random_windows(n, length):
    tokens = token_ids(0, n, length)
    ones = torch.ones_like(tokens, dtype=torch.int32)
    return Windows(tokens, [str(i) for i in range(n)], [0] * n, ones, "random", "0", "ids")


@pytest.mark.parametrize("name", SCORED)
def test_a_card_gives_the_scores_of_the_processor(name):
    "Walked, side by side, and in between."
    host, card = both_places(name)
    assert card.pass_tokens and card.reuses_state == host.reuses_state and card.direct
    after = [Continuation(s, token_ids(2 + s, 3, m)) for s, m in ((0, 20), (0, 1), (8, 12), (20, 20), (40, 9))]
    read, branches = host.logprobs(token_ids(1, 3, 40), after)
    for card.pass_tokens in (0, 30, 8192):
        again, found = card.logprobs(token_ids(1, 3, 40), after)
        for a, b in zip([read, *branches], [again, *found]):
            torch.testing.assert_close(a, b.cpu(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SCORED)
def test_a_causal_model_is_causal_on_a_card(name):
    for dtype in (torch.bfloat16, torch.float16):
        torch.manual_seed(0)
        probe(LanguageModel(SCORED[name]().to("cuda", dtype), None, name, 1))


def test_a_batch_is_halved_where_the_card_is_full():
    _, card = both_places("llama")
    windows, plain, tried = random_windows(32, 64), card.logprobs, []
    whole = measure_bipartite(card, windows, lengths=[8, 64], batch_size="auto")

    def greedy(contexts, after=()):
        tried.append(len(contexts))
        torch.empty(torch.cuda.mem_get_info()[1] * len(contexts) // 10, dtype=torch.uint8, device="cuda")
        return plain(contexts, after)

    card.logprobs = greedy
    halved = measure_bipartite(card, windows, lengths=[8, 64], batch_size="auto")
    assert tried[0] == 32 and tried[-1] < 10
    np.testing.assert_allclose(halved.joint, whole.joint, atol=1e-5)


def test_the_largest_slice_leaves_room():
    from l2m.heads import logits_at_once

    assert 2**20 <= logits_at_once(torch.device("cuda")) <= 2**28


# What tables say of the card

from l2m.devices import card
from l2m.experiments import Experiment


def test_a_run_on_a_card_names_it(tmp_path):
    run = Experiment("gaussian_kl", dict(output=str(tmp_path)))
    run.note_training(1.0, "cuda", [])
    assert run.provenance()["cards"] == [torch.cuda.get_device_name()] == [card("cuda")]
