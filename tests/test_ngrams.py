"n-grams against a dictionary of counts, against their own sum, and against processes whose law is known."

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from l2m.bipartite import measure_bipartite
from l2m.estimators import bipartite_mi
from l2m.interface import Continuation
from l2m.ngrams import _STRENGTHS, Adaptive, _earlier, count_ngrams, fit_strengths
from l2m.processes import MarkovChain, PolyaUrn, process_windows

CHAIN = MarkovChain(((0.9, 0.1, 0.0), (0.2, 0.5, 0.3), (0.4, 0.1, 0.5)))
texts = lambda vocabulary: st.lists(
    st.lists(st.integers(0, vocabulary - 1), max_size=12), min_size=1, max_size=4
).filter(any)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# ---- the definitions once more, one token and one window of the text at a time ---------------------------------------


def occurrences(documents, gram):
    "How often a tuple occurs, and how often it occurs with something behind it."
    n = len(gram)
    places = [
        (d, t)
        for d, words in enumerate(documents)
        for t in range(len(words) - n + 1)
        if tuple(words[t : t + n]) == gram
    ]
    return len(places), sum(t + n < len(documents[d]) for d, t in places)


def witten_bell(documents, history, word, order, vocabulary):
    "q(w | h), recursively from the longest history down."
    if order == 0:
        return 1 / vocabulary
    history = tuple(history[max(0, len(history) - order + 1) :])
    shorter = witten_bell(documents, history[1:], word, len(history), vocabulary)
    followed = occurrences(documents, history)[1]
    if not followed:
        return shorter
    kinds = sum(occurrences(documents, history + (w,))[0] > 0 for w in range(vocabulary))
    return (occurrences(documents, history + (word,))[0] + kinds * shorter) / (followed + kinds)


def counting_on(documents, past, word, order, vocabulary, strengths):
    "The same from the counts of the past alone."
    q = witten_bell(documents, past, word, order, vocabulary)
    for k, strength in enumerate(strengths):
        if k > len(past):
            break
        history = tuple(past[len(past) - k :])
        q = (occurrences([past], history + (word,))[0] + strength * q) / (occurrences([past], history)[1] + strength)
    return q


@settings(max_examples=40, deadline=None)
@given(data=st.data(), order=st.integers(1, 4), vocabulary=st.integers(1, 4))
def test_probabilities_are_those_of_the_definition(data, order, vocabulary):
    documents = data.draw(texts(vocabulary))
    rows = data.draw(st.lists(st.lists(st.integers(0, vocabulary - 1), min_size=9, max_size=9), min_size=1, max_size=3))
    model = count_ngrams(documents, order, vocabulary)
    adaptive = Adaptive(model, (2.0, 0.5, 0.25))
    for scorer, probability, extra in ((model, witten_bell, ()), (adaptive, counting_on, (adaptive.strengths,))):
        truth = [[probability(documents, row[:t], row[t], order, vocabulary, *extra) for t in range(9)] for row in rows]
        found = scorer.logprobs(torch.tensor(rows))[0]
        assert found.dtype == torch.float64
        np.testing.assert_allclose(found.exp(), truth, rtol=1e-10)


@settings(max_examples=30, deadline=None)
@given(data=st.data(), order=st.integers(1, 6), histories=st.integers(0, 4))
def test_probabilities_add_up_to_one(data, order, histories):
    documents, past = data.draw(texts(5)), data.draw(st.lists(st.integers(0, 4), max_size=10))
    model = count_ngrams(documents, order, 5)
    model = Adaptive(model, (0.3,) * histories) if histories else model
    every = torch.tensor([past + [w] for w in range(5)])
    assert abs(float(model.logprobs(every)[0][:, -1].exp().sum()) - 1) < 1e-12


def test_ranks():
    grams = torch.tensor([[7, 7, 3, 7, 3], [3, 3, 3, 9, 7]])
    assert _earlier(grams).tolist() == [[0, 1, 0, 2, 1], [0, 1, 2, 0, 0]]


def test_documents_are_not_read_as_one():
    apart, together = count_ngrams([[0, 1], [2, 1]], 2, 3), count_ngrams([[0, 1, 2, 1]], 2, 3)
    crossing = torch.tensor([[1, 2]])
    assert apart.logprobs(crossing)[0][0, 1] < together.logprobs(crossing)[0][0, 1]
    assert [len(level.keys) for level in apart.levels] == [3, 2]


def test_a_long_order_of_short_documents_is_what_they_hold():
    short = torch.randint(3, (2, 8), generator=generator())
    assert torch.equal(
        count_ngrams([[0, 1], [2]], 9, 3).logprobs(short)[0], count_ngrams([[0, 1], [2]], 2, 3).logprobs(short)[0]
    )


def test_it_is_a_scorer():
    model = Adaptive(count_ngrams(CHAIN.sample(4, 100, generator()), 3, 3), (4.0, 1.0))
    assert model.bos is None and model.context_limit is None
    contexts, tokens = CHAIN.sample(5, 12, generator(1)), CHAIN.sample(5, 7, generator(2))
    whole, (after, alone) = model.logprobs(contexts, [Continuation(4, tokens), Continuation(0, tokens)])
    assert whole.shape == (5, 12) and after.shape == (5, 7)
    assert torch.equal(after, model.logprobs(torch.cat([contexts[:, :4], tokens], 1))[0][:, 4:])
    assert torch.equal(alone, model.logprobs(tokens)[0])


def test_rows_of_a_batch_do_not_see_each_other():
    model = Adaptive(count_ngrams(CHAIN.sample(1, 200, generator()), 2, 3), (1.0, 1.0, 1.0))
    rows = CHAIN.sample(6, 30, generator(3))
    torch.testing.assert_close(
        model.logprobs(rows)[0], torch.cat([model.logprobs(row[None])[0] for row in rows]), rtol=0, atol=0
    )


def test_fingerprints_follow_the_counts():
    text = CHAIN.sample(1, 300, generator())
    same, other = count_ngrams(text, 3, 3), count_ngrams(text[:, :-1], 3, 3)
    prints = [
        m.fingerprint
        for m in (
            count_ngrams(text, 3, 3),
            other,
            count_ngrams(text, 2, 3),
            count_ngrams(text, 3, 4),
            Adaptive(same, (1.0,)),
            Adaptive(same, (2.0,)),
            Adaptive(other, (1.0,)),
        )
    ]
    assert prints[0] == same.fingerprint and len(set(prints)) == 7


def test_bigrams_learn_a_chain():
    "KL a token from the truth is about (free probabilities) / (2 tokens counted) nats: far below 0.005 here."
    model, fresh = count_ngrams(CHAIN.sample(1, 20_000, generator(4)), 2, 3), CHAIN.sample(200, 50, generator(5))
    gap = (CHAIN.logprobs(fresh)[0] - model.logprobs(fresh)[0]).mean(1)
    assert -4 * gap.std() / 200**0.5 < gap.mean() < 0.005


def test_both_estimates_of_a_chain_are_their_limits_at_every_length():
    chain = MarkovChain(((0.8, 0.1, 0.1), (0.2, 0.5, 0.3), (0.4, 0.1, 0.5)))
    model = count_ngrams(chain.sample(1, 20_000, generator(6)), 2, 3)
    windows = process_windows(chain, 64, 600, generator(7))
    table = bipartite_mi(measure_bipartite(model, windows, lengths=[2, 8, 64], batch_size=600), draws=2)
    for row in table.iter_rows(named=True):
        assert (
            abs(row["mi"] - chain.limits(chain, 1, 2)[row["method"]]) < 4 * row["stderr"] + 0.005
        )  # what bigrams of 20,000 tokens miss


@pytest.mark.parametrize("order", [1, 2, 5])
def test_a_fixed_state_sees_only_the_tokens_at_the_cut(order):
    model, n = count_ngrams(CHAIN.sample(1, 400, generator(8)), order, 3), order - 1
    x, y = CHAIN.sample(20, 24, generator(9)), CHAIN.sample(20, 24, generator(10))
    gain = lambda x, y: (model.logprobs(x, [Continuation(x.shape[1], y)])[1][0] - model.logprobs(y)[0]).sum(1)
    torch.testing.assert_close(gain(x, y), gain(x[:, -max(n, 1) :], y[:, : max(n, 1)]), rtol=0, atol=1e-12)
    assert (gain(x, y).abs() > 1e-3).any() == (order > 1)


def test_counting_on_is_an_urn_and_grows_with_it():
    urn = PolyaUrn(2, 0.5)
    model = Adaptive(count_ngrams([[0, 1]], 1, 2), (1.0,))
    table = bipartite_mi(
        measure_bipartite(model, process_windows(urn, 128, 800, generator(11)), lengths=[4, 128], batch_size=800),
        draws=2,
    ).filter(method="direct")
    for row in table.iter_rows(named=True):
        assert abs(row["mi"] - urn.bipartite_mi(row["split"], row["length"])) < 4 * row["stderr"]
    assert table["mi"][1] - table["mi"][0] > 4 * table["stderr"].sum()


def test_strengths_are_the_best_of_the_grid():
    tokens = PolyaUrn(2, 2.0).sample(300, 60, generator(12))  # balls times colours: 4 tokens of evidence
    base = count_ngrams([[0, 1]], 1, 2)
    (strength,) = fit_strengths(base, tokens, 1)
    assert strength == 4.0
    cost = lambda a: -float(Adaptive(base, (a,)).logprobs(tokens)[0].mean())
    assert cost(strength) == min(map(cost, _STRENGTHS))


@pytest.mark.parametrize(
    "documents, order, vocabulary, message",
    [
        ([], 2, 3, "at least one token"),
        ([[], []], 2, 3, "at least one token"),
        ([[0, 1]], 0, 3, "order >= 1"),
        ([[0, 3]], 2, 3, "token ids 0…3.*above the largest id"),
        ([[-1, 2]], 2, 3, "token ids -1…2"),
        ([[0, 1]], 2, 2**62, "below 2\\*\\*63"),
    ],
)
def test_what_cannot_be_counted(documents, order, vocabulary, message):
    with pytest.raises(ValueError, match=message):
        count_ngrams(documents, order, vocabulary)


@pytest.mark.parametrize("strengths", [(), (0.0,), (1.0, -2.0)])
def test_strengths_are_positive(strengths):
    with pytest.raises(ValueError, match="at least one positive number"):
        Adaptive(count_ngrams([[0]], 1, 1), strengths)


def test_tokens_outside_the_vocabulary():
    with pytest.raises(ValueError, match="token id 3 is not in the vocabulary"):
        count_ngrams([[0, 1]], 2, 3).logprobs(torch.tensor([[3]]))
