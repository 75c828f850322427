"One model made worse in known steps, and a series of readers followed to a perfect one."

import numpy as np
import polars as pl
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from l2m.beforehand import steps_of
from l2m.perfect import Series, by_form, ends_of, to_perfect
from l2m.readers import Forgetful
from l2m.santa_fe import SantaFe, latest_mention
from l2m.scoring import LanguageModel
from l2m.testing import check_scorer
from l2m.worse import add_noise, check_step, exit_early, round_weights, worsen

IDS = torch.randint(20, (2, 12), generator=torch.Generator().manual_seed(0))


def llama(**options):
    shape = dict(vocab_size=20, hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2)
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**shape | options, initializer_range=0.3)).eval()


def gpt2():
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=20, n_embd=16, n_layer=3, n_head=2, n_positions=32)).eval()


@pytest.mark.parametrize("model", [llama(tie_word_embeddings=True), llama(), gpt2()], ids=["tied", "untied", "gpt2"])
@pytest.mark.parametrize("step", ["3bits", "noise0.2", "noise0.2/1", "2layers"])
def test_a_worse_reader_is_another_scorer_and_the_model_stays(model, step):
    reader = LanguageModel(model, None, "small", 0)
    own, weights = reader.logprobs(IDS)[0], [weight.clone() for weight in model.parameters()]
    worse = worsen(reader, step)
    check_scorer(worse)
    assert (worse.logprobs(IDS)[0] - own).abs().max() > 1e-3
    assert (
        worse.name == f"small@{step}"
        and worse.fingerprint != reader.fingerprint == LanguageModel(model, None, "", 0).fingerprint
    )
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters()))
    assert torch.equal(reader.logprobs(IDS)[0], own) and worsen(reader, step).fingerprint == worse.fingerprint


def test_tables_of_tokens_norms_and_biases_stay_and_ties_hold():
    for model in (llama(tie_word_embeddings=True), llama(), gpt2()):
        worse = round_weights(LanguageModel(model, None, "small", 0), 2).model
        same = {name for (name, a), b in zip(model.named_parameters(), worse.parameters()) if torch.equal(a, b)}
        matrices = {name for name, weight in model.named_parameters() if weight.ndim > 1}
        tables = {name for name in matrices if any(part in name for part in ("embed_tokens", "lm_head", "wte", "wpe"))}
        assert same & matrices == tables
        tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
        assert tied == (worse.get_input_embeddings().weight is worse.get_output_embeddings().weight)


def test_an_early_exit_reads_out_the_hidden_vectors_of_the_model_itself():
    model = llama()
    hidden = model(IDS, output_hidden_states=True).hidden_states[2]
    logits = model.lm_head(model.model.norm(hidden)).log_softmax(-1)
    expected = logits[:, :-1].gather(2, IDS[:, 1:, None])[..., 0]
    found = exit_early(LanguageModel(model, None, "small", None), 2).logprobs(IDS)[0][:, 1:]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_what_cannot_be_done_is_refused_in_one_line():
    reader = LanguageModel(llama(), None, "small", 0)
    with pytest.raises(ValueError, match="'small' has 3, choose 1 <= layers < 3"):
        exit_early(reader, 3)
    with pytest.raises(ValueError, match="bits is 1"):
        round_weights(reader, 1)
    with pytest.raises(ValueError, match="share is 0"):
        add_noise(reader, 0.0)
    for step in ("4 bits", "bits", "noise", "0layer"):
        with pytest.raises(ValueError, match="no way to make a reader worse"):
            check_step(step)
    assert steps_of("a/b@3layers@noise0.1") == ("a/b", ["3layers", "noise0.1"])


FACTS, LENGTHS = SantaFe(exponent=0.7, facts=5000), [4, 16, 64]


def forgetting(decay, forget):
    "Excess cost and exponent of a reader of Santa Fe, exactly."
    one, d = Forgetful(FACTS, forget=forget, decay=decay), np.arange(1, 64)
    paid = (64 - d) @ (latest_mention(FACTS, 63) * (np.log(2) - np.log1p(one.recall(63)))) / 64
    found = [one.limits(FACTS, n // 2, n)["direct"] for n in LENGTHS]
    return paid, np.polyfit(np.log(LENGTHS), np.log(found), 1)[0]


TRUTH = np.polyfit(np.log(LENGTHS), np.log([FACTS.bipartite_mi(n // 2, n) for n in LENGTHS]), 1)[0]
DIAL = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)


def followed(points):
    cost, value = np.array(points).T
    return ends_of(to_perfect(Series([str(c) for c in cost], cost, value), (0.0, 0.0)))


def test_one_defect_that_fades_is_followed_to_the_truth_and_one_that_stays_is_not():
    for points in (
        [forgetting(g, 0) for g in DIAL],
        [forgetting(0, f) for f in DIAL],
        [forgetting(f, f) for f in DIAL],
    ):
        ends = followed(points)
        assert ends.low <= TRUTH <= ends.high
    stays = followed([forgetting(0.4, f) for f in (*DIAL, 0.0)])
    assert stays.low <= forgetting(0.4, 0)[1] <= stays.high < TRUTH


def test_a_line_is_found_whatever_the_order_and_its_errors_are_those_of_the_draws():
    rng, cost = np.random.default_rng(0), np.array([1.0, 2.0, 1.5, 3.0, 2.5, 4.0])
    value = 0.7 - 0.1 * cost
    draws = value + 0.02 * rng.normal(size=(4000, 1))
    table = to_perfect(Series(list("abcdef"), cost, value, draws), (0.5, 0.5)).filter(form="line")
    assert table["survives"].item() and abs(table["value"].item() - 0.65) < 1e-9
    assert (
        abs(table["high"].item() - 0.65 - 1.96 * 0.02) < 0.004 and abs(table["low"].item() - 0.65 + 1.96 * 0.02) < 0.004
    )


def test_nothing_is_claimed_where_no_curve_predicts():
    cost = np.arange(8.0, 0, -1)
    table = to_perfect(Series(list("abcdefgh"), cost, np.array([0.0, 1, 0, 1, 0, 1, 5, -5])), (0.0, 0.5))
    assert ends_of(table)[:3] == (None, None, 0) and by_form(table)["low"].null_count() == 4


@pytest.mark.parametrize(
    "change, told",
    [
        (dict(perfect=(0.0, 1.5)), "pays less than the best"),
        (dict(held_out=4), "three at least"),
        (dict(perfect=(2.0, 1.0)), "pays less"),
    ],
)
def test_a_place_or_a_split_that_cannot_be_is_refused(change, told):
    series = Series(list("abcdef"), np.arange(1.0, 7), np.ones(6))
    with pytest.raises(ValueError, match=told):
        to_perfect(series, **dict(perfect=(0.0, 0.0)) | change)
    with pytest.raises(ValueError, match="four readers at least"):
        Series(list("abc"), np.ones(3), np.ones(3))
    assert isinstance(by_form(to_perfect(series, (0.0, 0.0))), pl.DataFrame)
