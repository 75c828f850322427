"States that are closed by a schedule: counted exactly, the ordinary model at b = 0, one result however a text is cut, and a state of the size it says."

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from test_graphs import Interrupted
from transformers import DynamicCache, logging

from l2m.audit import audit, falls_short
from l2m.growing import grow, mark_growth, schedule_of
from l2m.growth import FOREVER, Lifetimes, Segments, exponent_of
from l2m.hierarchies import SubvolumeGaussian
from l2m.interface import Continuation
from l2m.models import build_model, model_arguments, state_scalars
from l2m.plans import Plan
from l2m.probe import probe
from l2m.scoring import LanguageModel
from l2m.state import history_state
from l2m.tasks import GaussianTask
from l2m.training import train

logging.set_verbosity_error()
IDS = torch.randint(9, (2, 48), generator=torch.Generator().manual_seed(0))
SCHEDULES = [Segments(0.0), Segments(0.3), Segments(0.79), Segments(0.79, 0.28), Segments(1.0), Segments(1.0, 0.1)]
fresh = lambda growth=None, **more: build_model(
    "mamba2", length=48, growth=growth, **dict(size="1x32", vocabulary=9) | more
)
mixer_of = lambda model: model.backbone.layers[0].mixer


# The schedule


@given(st.integers(0, 20), st.integers(1, 20), st.fractions("1/50", 1, max_denominator=50), st.integers(1, 10**6))
def test_states_are_counted_as_whole_numbers_are(p, q, scale, tokens):
    p = min(p, q)
    passed = Segments(p / q, float(scale)).states(tokens) - 1 + (scale == 1)  # whole numbers up to a t^(p/q)
    reached = lambda i: Fraction(i) ** q <= scale**q * Fraction(tokens) ** p
    assert reached(passed) and not reached(passed + 1)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_a_state_begins_when_it_is_first_counted_at_every_token_to_a_million(schedule):
    states = schedule.states(np.arange(10**6 + 1))
    assert states[:2].tolist() == [0, 1] and set(np.diff(states).tolist()) <= {0, 1}
    begins = schedule.begins_at(np.arange(1, states[-1] + 1))
    assert (np.searchsorted(begins, np.arange(10**6 + 1), side="right") == states).all()
    assert (schedule.begins_at(2) == FOREVER) == (schedule.exponent == 0)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: Segments(1.3), "exponent is 1.3, expected a finite number, from 0 to 1"),
        (lambda: Segments(-0.1), "exponent is -0.1, expected a finite number, from 0 to 1"),
        (lambda: Segments(math.nan), "exponent is nan, expected a finite number, from 0 to 1"),
        (lambda: Segments(0.5, 1.5), "scale is 1.5: choose a number above 0, at most 1"),
        (lambda: Segments(0.5, 0.0), "scale is 0.0: choose a number above 0"),
        (lambda: Segments(0.5).states(-1), "tokens is -1, expected whole numbers from 0"),
        (lambda: Segments(0.5).begins_at(0), "state is 0, expected whole numbers from 1"),
        (
            lambda: build_model("llama", length=48, vocabulary=9, growth=Segments(0.5)),
            "'llama' has no use for Segments",
        ),
        (lambda: build_model("linear", length=48, vocabulary=9, growth=Segments(0.5)), "has no use for Segments"),
        (lambda: build_model("hybrid", length=48, vocabulary=9, growth=Segments(0.5)), "'bamba' cannot grow"),
        (lambda: grow(fresh(0.5), Segments(0.5)), "grows already"),
        (lambda: grow(fresh(Segments(0.5)), 0.5, 48), "grows already"),
        (lambda: model_arguments("mamba2/16^0.5~0.5"), "model 'mamba2/16.0.5~0.5' is not understood"),
        (lambda: model_arguments("mamba2/16~1.5"), "exponent is 1.5, expected a finite number, from 0 to 1"),
        (lambda: fresh(Segments(0.5))(IDS, attention_mask=IDS > 1), "pass texts of one length, without padding"),
    ],
)
def test_bad_input_is_one_clear_error(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_one_word_names_segments():
    assert model_arguments("mamba2/16~0.8") == dict(name="mamba2", size="tiny", state=16, growth=Segments(0.8))
    assert model_arguments("mamba2~.5*.4")["growth"] == Segments(0.5, 0.4)
    assert model_arguments("mamba2/16^0.8")["growth"] == 0.8 and model_arguments("llama^1*4")["growth"] == Lifetimes(
        1, 4
    )
    assert schedule_of(fresh(Segments(0.5, 0.4)).config) == Segments(0.5, 0.4)


# The layer


def loop(mixer, x, dt, B, C, hidden):
    "What the layer should compute, one token after the other"
    dt, A = F.softplus(dt + mixer.dt_bias), -mixer.A_log.float().exp()
    S, closed, y = x.new_zeros(*x.shape[1:], B.shape[-1]), [], []
    for t in range(len(x)):
        if mixer.schedule.states(t + 1) - 1 > len(closed):
            closed, S = [*closed, S], torch.zeros_like(S)
        S = (A * dt[t]).exp()[:, None, None] * S + (dt[t, :, None] * x[t])[:, :, None] * B[t]
        known = [F.rms_norm((state * mixer.about[..., None]).sum(1), B.shape[-1:]) for state in closed]
        asked = mixer.gate_proj(hidden[t]) / B.shape[-1] ** 0.5
        gate = torch.stack([torch.zeros_like(dt[t]), *(d @ asked for d in known)]).softmax(0)
        y.append(sum(g[:, None] * (s @ C[t]) for g, s in zip(gate, [S, *closed])) + mixer.D[:, None] * x[t])
    return torch.stack(y)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_a_text_at_once_or_in_parts_is_what_the_equations_say(schedule):
    mixer, generator = mixer_of(fresh(schedule)).double(), torch.Generator().manual_seed(1)
    draw = lambda *size: torch.randn(1, 48, *size, generator=generator, dtype=torch.float64)
    parts = draw(4, 16), draw(4), draw(1, 16), draw(1, 16), draw(32)
    with torch.no_grad():
        squeezed = [part[0, :, 0] if i in (2, 3) else part[0] for i, part in enumerate(parts)]
        expected = loop(mixer, *squeezed)
        for cuts in ((), (1,), (19, 20), tuple(range(1, 48))):
            found, before = [], None
            for start, end in zip((0, *cuts), (*cuts, 48)):
                x, dt, B, C, hidden = (part[:, start:end] for part in parts)
                y, before = mixer.scanned(x, dt, B, C, before, start, hidden)
                assert before.shape[1] == schedule.states(end)
                found.append(y)
            torch.testing.assert_close(torch.cat(found, 1)[0], expected, rtol=0, atol=1e-11)


def test_a_token_reads_no_state_that_is_closed_after_it():
    mixer, x = mixer_of(fresh(Segments(0.79))), torch.randn(1, 30, 32, generator=torch.Generator().manual_seed(2))
    for at in (7, 19, 29):
        given = x.clone().requires_grad_()
        mixer(given)[0, at].sum().backward()
        reached = given.grad[0].abs().sum(-1)
        assert (reached[: at + 1] > 0).all() and (reached[at + 1 :] == 0).all()


# Models


def stepwise(model, *at, ids=IDS):
    "Logits of texts that are read part by part, and the cache at the end"
    cache = DynamicCache()
    with torch.no_grad():
        ends = zip((0, *at), (*at, ids.shape[1]))
        return torch.cat([model(ids[:, i:j], use_cache=True, cache_params=cache).logits for i, j in ends], 1), cache


def test_with_exponent_zero_it_is_the_ordinary_model():
    ordinary, other = fresh().eval(), fresh(Segments(0.0)).eval()
    weights, found = ordinary.state_dict(), other.state_dict()
    gate = {name.split(".mixer.")[1] for name in found.keys() - weights.keys()}
    assert gate == {"gate_proj.weight", "about"} and all(torch.equal(found[name], weights[name]) for name in weights)
    with torch.no_grad():
        torch.testing.assert_close(other(IDS).logits, ordinary(IDS).logits, rtol=0, atol=1e-6)
        assert (fresh(Segments(0.4)).eval()(IDS).logits - ordinary(IDS).logits).abs().max() > 1e-3
    assert stepwise(other, 20)[1].layers[0].recurrent_states[0].shape[1] == 1
    assert history_state(other, 600).scalars == history_state(ordinary, 600).scalars


@pytest.mark.parametrize("dtype, close", [(torch.float64, 1e-6), (torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_a_text_may_be_cut_anywhere(dtype, close):
    model = fresh(Segments(0.6)).to(dtype).eval()
    with torch.no_grad():
        whole = model(IDS).logits
    for at in ((1,), (31, 32), tuple(range(20, 40))):
        torch.testing.assert_close(stepwise(model, *at)[0], whole, rtol=0, atol=close)


@pytest.mark.parametrize(
    "schedule", [Segments(0.25), Segments(0.79), Segments(0.79, 0.28), Segments(1.0, 0.5)], ids=str
)
def test_the_state_is_as_large_as_the_audit_says(schedule):
    model, ids = fresh(schedule).eval(), torch.arange(600)[None] % 9
    state = history_state(model, 600)
    law, convolution = (next(p.state for p in state.parts if p.kind == kind) for kind in ("recurrent", "convolution"))
    ordinary = next(p.state for p in history_state(fresh(), 600).parts if p.kind == "recurrent")
    for end in (1, 2, 3, 17, 100, 600):
        cache = stepwise(model, *range(end // 2 or 1, end, 50), ids=ids[:, :end])[1]
        held = cache.layers[0].recurrent_states[0]
        assert law(end) == held[0].numel() == schedule.states(end) * ordinary(end) and held.flatten(2).any(-1).all()
        assert state.at(end + 1).scalars == law(end) + convolution(end)
    assert [law(t) for t in (10**4, 10**6)] == [ordinary(9) * schedule.states(t) for t in (10**4, 10**6)]
    assert law.most(10**6) == law(10**6) and exponent_of([law]) == state.exponent == schedule.exponent
    assert history_state(model.config, 600) == replace(state, model="mamba2")
    about = dict(length=600, read=300, growth=schedule)
    assert state_scalars("mamba2", "1x32", **about) == state.at(301).scalars
    assert state.padding == history_state(fresh(), 600).padding + 1  # a counter


def test_verdicts_below_at_and_above_the_law():
    models = [fresh(Segments(b)) for b in (0.05, 0.5, 0.79, 0.9)]
    table = audit(models, beta=0.79, interval=(0.7, 0.85), lengths=[64, 10**6])
    assert table["exponent"].to_list() == [0.05, 0.5, 0.79, 0.9]
    assert table["firm"].to_list() == [True, True, False, True]
    assert table["single"].to_list() == ["not satisfied"] * 2 + ["satisfied"] * 2
    assert table["beyond_positions"].to_list() == [[]] * 4 and table["error"].null_count() == 4
    short = [falls_short(history_state(model, 64), 0.79, 1.0, 0.06) for model in models]
    assert short[0] < short[1] < 2**60 and short[2:] == [None, None]
    held = [history_state(models[1], 64).at(length // 2).scalars * 0.06 for length in (short[1] // 4, 4 * short[1])]
    assert held[0] > (short[1] // 4) ** 0.79 and held[1] < (4 * short[1]) ** 0.79


def test_a_model_is_a_scorer_and_is_told_from_others():
    probe(scorer := LanguageModel(fresh(Segments(0.5)), None, "segments", 9))
    joint, (after,) = scorer.logprobs(IDS[:, :40], [Continuation(17, IDS[:, 17:40])])
    torch.testing.assert_close(after, joint[:, 17:], rtol=0, atol=1e-5)
    prints = {LanguageModel(fresh(growth), None, "one", 9).fingerprint for growth in (None, 0.5, Segments(0.5))}
    assert scorer.reuses_state and len(prints) == 3


def test_a_cache_forgets_and_one_of_another_kind_is_refused():
    model = fresh(Segments(0.5)).eval()
    whole, cache = stepwise(model)
    cache.reset()
    again = model(IDS, use_cache=True, cache_params=cache).logits
    torch.testing.assert_close(again, whole)
    other = stepwise(fresh(0.5).eval(), 5)[1]
    with pytest.raises(ValueError, match="begin with an empty DynamicCache"):
        model(IDS, use_cache=True, cache_params=other)


def test_weights_with_gates_come_back_into_a_model_that_was_built_first():
    model, again = fresh(Segments(0.5)).eval(), fresh(Segments(0.5), seed=1).eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(IDS).logits, model(IDS).logits)
    loaded = type(model)(mark_growth(fresh().config, Segments(0.5)))
    with pytest.raises(ValueError, match="give growth, then load_state_dict"):
        grow(loaded)
    assert schedule_of(grow(fresh(), Segments(0.5)).config) == Segments(0.5)


# Training


def test_training_is_resumed_and_reaches_the_gates(tmp_path, monkeypatch):
    task = GaussianTask(SubvolumeGaussian.of_length(16, copies=2))
    plan = Plan(steps=8, batch=8, learning_rate=0.01, warmup=2, microbatches=2)
    vectors = lambda: build_model("mamba2", "1x32", length=16, copies=2, growth=Segments(0.6))
    model, before = vectors(), dict(vectors().named_parameters())
    plain = train(model, task, plan)["loss"]
    gates = {n: value for n, value in model.named_parameters() if n.endswith(("gate_proj.weight", "about"))}
    assert len(gates) == 2 and not any(torch.equal(before[name], value) for name, value in gates.items())
    monkeypatch.setattr(Interrupted, "at", 8 * 5)
    with pytest.raises(KeyboardInterrupt):
        train(vectors(), Interrupted(task.process), plan, tmp_path, save_every=3)
    monkeypatch.setattr(Interrupted, "at", None)
    assert train(vectors(), Interrupted(task.process), plan, tmp_path)["loss"].equals(plain)
    assert train(vectors(), task, replace(plan, autocast="bfloat16"))["loss"][-1] == pytest.approx(plain[-1], rel=0.05)
