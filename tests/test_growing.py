"States that grow by a schedule: exact counts, one result however a text is cut, and a state of the size it says."

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_graphs import Interrupted, Remembered
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BertConfig,
    BloomConfig,
    DynamicCache,
    FalconConfig,
    GPTNeoConfig,
    LlamaConfig,
    MptConfig,
    OPTConfig,
    logging,
)

from l2m.audit import audit, falls_short, summary
from l2m.growing import grow, mark_growth, schedule_of
from l2m.growth import FOREVER, Lifetimes, Scheduled, Unlocking
from l2m.hierarchies import SubvolumeGaussian
from l2m.interface import Continuation
from l2m.models import build_model, model_arguments, state_scalars
from l2m.plans import Plan, identity
from l2m.probe import probe
from l2m.scoring import LanguageModel
from l2m.state import HistoryState, StatePart, history_state
from l2m.tasks import GaussianTask, TextTask
from l2m.training import train, train_together

logging.set_verbosity_error()
NAMES = ["llama", "gpt2", "mamba2", "linear"]
IDS = torch.randint(9, (2, 48), generator=torch.Generator().manual_seed(0))
fresh = lambda name, growth=None, length=48, **more: build_model(
    name, length=length, growth=growth, **dict(size="1x32", vocabulary=9) | more
)

# Schedules


@given(st.integers(1, 20), st.integers(1, 20), st.fractions("1/50", 30, max_denominator=50), st.integers(1, 10**6))
def test_channels_are_counted_as_whole_numbers_are(p, q, scale, tokens):
    p = min(p, q)
    count = Unlocking(p / q, float(scale)).count(tokens)
    reached = lambda i: Fraction(i) ** q <= scale**q * Fraction(tokens) ** p  # i <= a t^(p/q), without rounding
    assert reached(count) and not reached(count + 1)


@pytest.mark.parametrize("exponent", [0, 0.1, 0.5, 0.79, 1])
def test_a_channel_opens_when_it_is_first_counted_at_every_token_to_a_million(exponent):
    scales = ([0.9] if exponent else []) + [3]
    for schedule in (Unlocking.reaching(exponent, 64, 10**6), *(Unlocking(exponent, scale) for scale in scales)):
        opens, tokens = schedule.unlocks_at(np.arange(1, 65)), np.arange(10**6 + 1)
        assert (schedule.count(tokens, 64) == np.searchsorted(opens[opens < FOREVER], tokens, side="right")).all()
    assert schedule.count(0) == 0 and Unlocking.reaching(exponent, 64, 10**6).count(10**6) == 64


def test_no_more_channels_open_than_there_are_tokens():
    tokens = np.array([10**12, 10**15 + 1, 2**53 + 3, 2**62 - 1])
    assert (Unlocking(1.0).count(tokens) <= tokens).all() and Unlocking(1.0).count(10**12) == 10**12


@pytest.mark.parametrize("exponent", [0, 0.25, 0.5, 0.79, 1])
def test_tokens_alive_are_those_that_are_seen(exponent):
    lifetimes, n = Lifetimes(exponent, 3), 300
    seen = lifetimes.sees(torch.arange(n + 1)[:, None], torch.arange(n + 1))
    assert [lifetimes.alive(t) for t in range(n + 1)] == (seen.sum(1) - 1).tolist()
    assert not (seen[1:] & ~seen[:-1]).tril().any()  # nobody comes back


@given(st.integers(1, 2**40), st.floats(0, 0.95))
def test_a_life_is_the_fraction_of_a_multiple_of_the_golden_ratio(place, exponent):
    share = Fraction(place * 0x9E3779B97F4A7C15 % 2**64 >> 11, 2**53)
    expected = 4 * math.exp(-math.log(share) / (1 - exponent))
    assert Lifetimes(exponent).life(place) == pytest.approx(expected, rel=1e-9)
    if expected < 1e9:
        assert Lifetimes(exponent).lives(place) == pytest.approx(math.ceil(expected), abs=1)


def test_a_million_tokens_are_near_the_closed_form_which_goes_on_from_them():
    for exponent in (0.25, 0.79):
        lifetimes, end, tokens = Lifetimes(exponent), 2**21, np.arange(300_000)
        counted, formula = lifetimes.alive(tokens), lifetimes.closed_form(tokens)
        assert (abs(counted - formula) <= np.maximum(12, 0.01 * formula)).all()
        near, far = lifetimes.alive(np.array([end, end + 1, end + 10**6])), lifetimes.closed_form(end + 10**6)
        assert near[0] <= near[1] <= near[0] + 1 and abs(near[2] - far) <= max(12, 0.01 * far)
        law, places = Scheduled(3, lifetimes), [*range(300), 20_000, end, 2**40]
        assert (np.diff(counted) < 0).any() and [law.most(t) for t in places] == [
            3 * max(counted[: t + 1].max(), lifetimes.alive(t)) for t in places[:-2]
        ] + [law.most(end), max(law.most(end), law(2**40))]
    assert Lifetimes(1e-17).closed_form(10**6) == pytest.approx(Lifetimes(0.0).closed_form(10**6), rel=1e-12)
    assert Lifetimes(1).alive(10**12) == 10**12 and Lifetimes(0.5).alive(torch.tensor([2, 9])).tolist() == [2, 8]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: Unlocking(1.3), "exponent is 1.3, expected a finite number, from 0 to 1"),
        (lambda: Lifetimes(-0.1), "exponent is -0.1, expected a finite number, from 0 to 1"),
        (lambda: Unlocking(0.5, 0.0), "scale is 0.0: choose channels after one token, above 0"),
        (lambda: Lifetimes(0.5, 0.5), "scale is 0.5: choose a shortest life of at least 1 token"),
        (lambda: Unlocking(0.0, 0.5), "scale is 0.5 with exponent 0: no channel ever opens"),
        (lambda: Unlocking(0.5).count(5, -3), "channels is -3, expected whole numbers from 1"),
        (lambda: Unlocking(0.5).count(5, 2.5), "channels is 2.5, expected whole numbers from 1"),
        (lambda: Unlocking(0.5).count(5, math.nan), "channels is nan, expected whole numbers from 1"),
        (lambda: Lifetimes(0.5).alive(-1), "tokens is -1, expected whole numbers from 0"),
        (lambda: Unlocking(0.5).unlocks_at(0), "channel is 0, expected whole numbers from 1"),
        (lambda: Lifetimes(0.5).lives(1.5), "token is 1.5, expected whole numbers"),
        (lambda: fresh("llama", 1.3), "growth is 1.3, expected a finite number, from 0 to 1 or an Unlocking"),
        (lambda: fresh("sliding", 0.5), "'mistral' cannot grow by a schedule: choose Mamba-2 or gated delta"),
        (lambda: fresh("hybrid", 0.5), "'bamba' cannot grow"),
        (lambda: fresh("llama", Unlocking(0.5)), "'llama' has no use for Unlocking.*give a number, or Lifetimes"),
        (lambda: fresh("mamba2", Lifetimes(0.5)), "'mamba2' has no use for Lifetimes.*give a number, or Unlocking"),
        (lambda: fresh("mamba2", Unlocking(0.5, 0.01)), "opens no channel within 48 tokens: choose a larger scale"),
        (lambda: grow(fresh("llama")), "has no growth: give an exponent or a schedule"),
        (lambda: grow(fresh("llama", 0.5), 0.6), "grows already"),
        (lambda: grow(fresh("mamba2"), 0.5), "needs the length at which all channels are open"),
        (lambda: fresh("llama", 0.5)(IDS, attention_mask=IDS > 1), "pass texts of one length, without padding"),
    ],
)
def test_bad_input_is_one_clear_error(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


# Models

SMALL = dict(vocab_size=9, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
REFUSED = [
    (OPTConfig(**SMALL, ffn_dim=48, word_embed_proj_dim=32), "OPTForCausalLM cannot grow: no mask and cache reach"),
    (BartConfig(vocab_size=9, d_model=32, decoder_layers=1, is_decoder=True), "BartForCausalLM cannot grow"),
    (MptConfig(vocab_size=9, d_model=32, n_layers=1, n_heads=2), "'mpt' cannot grow by a schedule: it reads distances"),
    (BloomConfig(vocab_size=9, hidden_size=32, n_layer=1, n_head=2), "'bloom' cannot grow .*it reads distances off"),
    (FalconConfig(**SMALL, alibi=True), "'falcon' cannot grow by a schedule: it reads distances off places"),
    (
        GPTNeoConfig(
            vocab_size=9, hidden_size=32, num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]]
        ),
        "'gpt_neo' cannot grow by a schedule: it reads distances off places",
    ),
    (BertConfig(**SMALL), "'bert' cannot grow by a schedule: it is an encoder, and is_decoder=True"),
]


@pytest.mark.parametrize("config, message", REFUSED, ids=lambda value: getattr(value, "model_type", None))
def test_models_that_lifetimes_would_not_change_or_change_otherwise_are_refused(config, message):
    for device in ("cpu", "meta"):
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(config)
        with pytest.raises(ValueError, match=message) as error:
            grow(model, 0.5)
        assert "\n" not in str(error.value) and schedule_of(model.config) is None
    grow(AutoModelForCausalLM.from_config(FalconConfig(**SMALL)), 0.5)


def cut(model, *at, ids=IDS):
    "Logits of texts that are read part by part, and the cache at the end"
    cache = DynamicCache(config=model.config)
    name = "cache_params" if model.config.model_type == "mamba2" else "past_key_values"
    with torch.no_grad():
        parts = [
            model(ids[:, start:end], use_cache=True, **{name: cache}).logits
            for start, end in zip((0, *at), (*at, ids.shape[1]))
        ]
    return torch.cat(parts, 1), cache


@pytest.mark.parametrize("dtype, close", [(torch.float64, 1e-6), (torch.float32, 1e-5), (torch.bfloat16, 0.02)])
@pytest.mark.parametrize("name", NAMES)
def test_a_text_may_be_cut_anywhere(name, dtype, close):
    model = fresh(name, 0.6).to(dtype).eval()
    with torch.no_grad():
        whole = model(IDS).logits
    for at in ((1,), (31, 32), tuple(range(20, 40))):
        torch.testing.assert_close(cut(model, *at)[0], whole, rtol=0, atol=close)


@pytest.mark.parametrize("name", NAMES)
def test_the_ordinary_model_is_at_the_end_of_the_scale(name):
    "Attention with b = 1, channels with b = 0: the same weights, and the same numbers"
    ordinary, other = fresh(name).eval(), fresh(name, float(name in ("llama", "gpt2"))).eval()
    assert all(torch.equal(a, b) for a, b in zip(ordinary.parameters(), other.parameters(), strict=True))
    with torch.no_grad():
        torch.testing.assert_close(other(IDS).logits, ordinary(IDS).logits, atol=1e-6, rtol=1e-5)
        less = fresh(name, 0.4).eval()
        assert (less(IDS).logits - ordinary(IDS).logits).abs().max() > 1e-3


@pytest.mark.parametrize("name, growth", [("llama", 0.5), ("gpt2", 0.79), ("mamba2", 0.79), ("linear", 0.5)])
def test_the_state_is_as_large_as_the_audit_says(name, growth):
    model, ids = fresh(name, growth, 600), torch.arange(600)[None] % 9
    state = history_state(model, 600)
    law = next(part.state for part in state.parts if part.kind in ("values", "recurrent"))
    for end in (1, 2, 17, 100, 600):
        cache = cut(model.eval(), *range(end // 2 or 1, end, 50), ids=ids[:, :end])[1]
        if name in ("llama", "gpt2"):
            found = cache.layers[0].values[0].numel()
        else:
            tensor = cache.layers[0].recurrent_states[0][0]  # [heads, channels of values and of keys, in either order]
            keys = tensor.mT if name == "mamba2" else tensor
            found = (keys != 0).any(-1).sum().item() * keys.shape[-1]
        assert law(end) == found
    assert history_state(model.config, 600) == replace(state, model=model.config.model_type)
    assert state_scalars(name, "1x32", length=600, read=300, growth=growth) == state.at(301).scalars
    assert law(10**6) == law.size * (Lifetimes(growth).alive(10**6) if law.channels is None else 16)


def test_verdicts_below_at_and_above_the_law():
    for name in ("gpt2", "mamba2"):
        models = [fresh(name, growth, 64) for growth in (0.5, 0.79, 0.9)]
        table = audit(models, beta=0.79, interval=(0.7, 0.85), lengths=[64, 10**6])
        assert table["exponent"].to_list() == [0.5, 0.79, 0.9] and table["firm"].to_list() == [True, False, True]
        up, series = ("", "by one model") if name == "gpt2" else (" up to 64 tokens", "with N(L) = ⌊{}·L^{}⌋ channels")
        assert table["single"].to_list() == ["not satisfied", f"satisfied{up}", f"satisfied{up}"]
        words = [f"satisfied {series.format(f'{16 / 64**b:.3g}', b)}" for b in (0.79, 0.9)]
        assert table["series"].to_list() == ["only if larger models are built for longer texts", *words]
        assert table["beyond_positions"].to_list() == [[10**6]] * 3
        assert summary(table)["too small from"].null_count() == 0


@settings(deadline=None, max_examples=40)
@given(
    st.floats(0, 1), st.floats(0.05, 3), st.integers(1, 12), st.floats(0.4, 0.9), st.floats(0.5, 5), st.floats(0.3, 3)
)
def test_channels_fall_short_from_where_a_scan_says(exponent, scale, channels, beta, amplitude, price):
    law = Scheduled(3, Unlocking(exponent, scale if exponent else max(scale, 1.0)), channels)
    end = int((3 * channels * price / amplitude + 4) ** (1 / beta)) + 4
    lengths = np.arange(4, min(end, 30_000))
    carries = amplitude * lengths**beta <= price * 3 * law.schedule.count(lengths // 2 - 1, channels)
    if end >= 30_000:
        return
    last = lengths[carries].max(initial=3)
    state = HistoryState("bare", (StatePart(0, "recurrent", law, law),), 1)
    assert falls_short(state, beta, amplitude, price) == last + 1


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_a_scorer_and_is_told_from_others(name):
    model = fresh(name, 0.5)
    probe(scorer := LanguageModel(model, None, name, 9))
    joint, (after,) = scorer.logprobs(IDS[:, :40], [Continuation(17, IDS[:, 17:40])])
    torch.testing.assert_close(after, joint[:, 17:], rtol=0, atol=1e-5)
    prints = {LanguageModel(fresh(name, growth), None, name, 9).fingerprint for growth in (None, 0.5, 0.6)}
    assert scorer.reuses_state and scorer.fingerprint in prints and len(prints) == 3


def test_a_model_generates_and_forgets():
    model = fresh("llama", 0.3).eval()
    steps = dict(max_new_tokens=30, do_sample=False, return_dict_in_generate=True)
    found = model.generate(IDS[:, :5], use_cache=True, **steps)
    assert torch.equal(found.sequences, model.generate(IDS[:, :5], use_cache=False, **steps).sequences)
    assert found.past_key_values.layers[0].keys.shape[-2] == Lifetimes(0.3).alive(34) < 30
    with pytest.raises(ValueError, match="cannot be cropped"):
        found.past_key_values.crop(-1)
    found.past_key_values.reset()
    assert found.past_key_values.get_seq_length() == 0


def test_a_cache_of_another_model_is_refused():
    cache = cut(fresh("llama").eval(), 5)[1]
    with pytest.raises(ValueError, match="begin with an empty DynamicCache"):
        fresh("llama", 0.5).eval()(IDS, past_key_values=cache, use_cache=True)


@pytest.mark.parametrize("name", ["mamba2", "linear"])
def test_no_channel_is_used_beyond_the_length_of_training(name):
    model = fresh(name, 0.5, 32)
    for read in (
        lambda: model(IDS),
        lambda: cut(model.eval(), 20),
        lambda: LanguageModel(model, None, name, 9).logprobs(IDS),
        lambda: TextTask(IDS, 9).check(model, 1),
    ):
        with pytest.raises(ValueError, match="32") as error:
            read()
        assert "\n" not in str(error.value)


def test_weights_that_are_loaded_grow_again(tmp_path):
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=9, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48)
    model = grow(AutoModelForCausalLM.from_config(config), Lifetimes(0.5, 2)).eval()
    model.save_pretrained(tmp_path)
    again = grow(AutoModelForCausalLM.from_pretrained(tmp_path)).eval()
    assert torch.equal(again(IDS).logits, model(IDS).logits)
    model.set_attn_implementation("eager")
    torch.testing.assert_close(model(IDS).logits, again(IDS).logits, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["llama", "mamba2"])
def test_weights_that_are_only_loaded_are_an_ordinary_model(name):
    ordinary = AutoModelForCausalLM.from_config(fresh(name, 0.5).config)
    state, grown = history_state(ordinary, 48), history_state(grow(ordinary), 48)
    assert {type(part.state) for part in state.parts} & {Scheduled} == set()
    assert {type(part.state) for part in grown.parts} & {Scheduled} == {Scheduled}


@pytest.mark.parametrize("name", NAMES)
def test_a_model_in_training_makes_no_cache_of_its_own(name):
    model = fresh(name, 0.5)
    model.config.use_cache = True
    found = model.train()(IDS)
    torch.testing.assert_close(found.logits, model(IDS, use_cache=False).logits)
    assert list(found) == ["logits"]


def test_one_word_names_a_schedule_and_a_scale_decides_the_channels():
    assert model_arguments("mamba2/16^0.8") == dict(name="mamba2", size="tiny", state=16, growth=0.8)
    assert model_arguments("llama^.5*2")["growth"] == Lifetimes(0.5, 2)
    assert model_arguments("linear:2x64^0")["growth"] == 0
    model = build_model(**model_arguments("mamba2^0.5*2"), length=100, copies=2, device="meta")
    assert model.config.state_size == 20 and schedule_of(model.config) == Unlocking(0.5, 2)
    assert schedule_of(mark_growth(LlamaConfig(), 0.5)) == Lifetimes(0.5) and schedule_of(LlamaConfig()) is None


# Training

TASK = GaussianTask(SubvolumeGaussian.of_length(16, copies=2))
PLAN = Plan(steps=8, batch=8, learning_rate=0.01, warmup=2, microbatches=2)
vectors = lambda name, seed=0: fresh(name, 0.6, 16, vocabulary=None, copies=2, seed=seed)


@pytest.mark.parametrize("name", ["llama", "mamba2"])
def test_training_is_resumed_recorded_and_shared_as_for_other_models(name, tmp_path, monkeypatch):
    plain = train(vectors(name), TASK, PLAN)["loss"]
    monkeypatch.setattr(Interrupted, "at", 8 * 5)
    with pytest.raises(KeyboardInterrupt):
        train(vectors(name), Interrupted(TASK.process), PLAN, tmp_path, save_every=3)
    monkeypatch.setattr(Interrupted, "at", None)
    assert train(vectors(name), Interrupted(TASK.process), PLAN, tmp_path)["loss"].equals(plain)
    recorder = Remembered()
    monkeypatch.setattr("l2m.steps.recorder_of", lambda device: recorder)
    beside = train_together([vectors(name), vectors(name, 1)], TASK, [PLAN, replace(PLAN, learning_rate=0.003)])
    assert beside[0]["loss"].equals(plain) and recorder.recorded == [2]
    assert train(vectors(name), TASK, replace(PLAN, autocast="bfloat16"))["loss"][-1] == pytest.approx(
        plain[-1], rel=0.05
    )


def test_a_schedule_makes_another_run():
    prints = {identity(fresh("llama", growth), TASK, PLAN)["config"] for growth in (None, 0.5, Lifetimes(0.5, 8))}
    assert len(prints) == 3
