"The law of the code length, the strongest correlation at a distance, and the exponent that follows from both."

import re

import numpy as np
import polars as pl
import pytest
import torch

from l2m.bipartite import measure_bipartite
from l2m.code_length import code_length, fit_code_length
from l2m.estimators import BlockEntropies, bipartite_mi
from l2m.lag_covariance import data_exponent, fit_decay, lag_singular_values, strongest_pair
from l2m.processes import MarkovChain, PolyaUrn, process_windows


def octaves(cost, last=2**12, stderr=1e-3, draws=400):
    "A table of exact costs, with draws of independent noise."
    rng, rows, edges = np.random.default_rng(0), [], [0, *(2**k for k in range(last.bit_length()))]
    for a, b in zip(edges, edges[1:]):
        mean = np.mean(cost(np.maximum(np.arange(a, b), 1e-9)))
        row = dict(context_from=a, context_to=b - 1, nll=mean, stderr=stderr, groups=500)
        rows.append(row | dict(replicates=mean + stderr * rng.normal(size=draws)))
    return pl.DataFrame(rows)


@pytest.fixture(scope="module")
def urn():
    windows = process_windows(PolyaUrn(), 32, 60, torch.Generator().manual_seed(0))
    return measure_bipartite(PolyaUrn(), windows, lengths=[4, 8, 16, 32], batch_size=60)


def test_draws_are_those_of_the_bipartite_estimates(urn):
    "With halves of 2^k tokens, both are sums over the same octaves: equal in every draw"
    curve = code_length(urn, draws=50, seed=3)
    table = bipartite_mi(urn, [BlockEntropies()], draws=50, seed=3)
    nll, width = np.stack(curve["replicates"].to_list()), curve["context_to"] - curve["context_from"] + 1
    for length, draws in table.select("length", "replicates").iter_rows():
        k = int(np.log2(length // 2)) + 1  # octaves of the first half
        halves = (nll[:k] * width.to_numpy()[:k, None]).sum(0) - nll[k] * width[k]
        assert np.allclose(halves, draws)
    assert np.ptp(nll[-1]) > 0 and curve["groups"].to_list() == [30] * len(curve)


def test_the_old_import_still_works():
    with pytest.warns(DeprecationWarning, match="from l2m.code_length import code_length"):
        from l2m.bipartite import code_length as old
    assert old is code_length


@pytest.mark.parametrize("gamma, floor", [(0.2, 0.5), (0.5, 3.0), (0.9, -1.0), (1.4, 2.0)])
def test_a_pure_law_is_found(gamma, floor):
    table = octaves(lambda n: floor + 2.5 * n**-gamma)
    law = fit_code_length(table)
    assert np.allclose([law.gamma, law.amplitude, law.floor], [gamma, 2.5, floor], atol=2e-3)
    known = fit_code_length(table, floor=floor)
    assert known.gamma == pytest.approx(gamma, abs=1e-3) and np.ptp(known.interval) < np.ptp(law.interval)
    assert known.floor_interval == (floor, floor) and law.exponent == 1 - law.gamma
    n = np.arange(1.0, 2**16)
    sums = np.concatenate([[0.0], np.cumsum(2.5 * n**-gamma)])  # the constant is gone from a difference of two lengths
    info = lambda length: 2 * sums[length // 2] - sums[length]
    law_of = lambda length: known.mi_amplitude * length**known.exponent
    assert info(2**15) - info(2**14) == pytest.approx(law_of(2**15) - law_of(2**14), rel=0.03)


def test_what_is_not_identified_is_said():
    "A logarithm has no rate; the interval reaches the edge, and the notes say both"
    law = fit_code_length(octaves(lambda n: 8 - 0.5 * np.log(n), last=2**8, stderr=0.05))
    assert law.interval[0] < 0.02 and law.floor_interval[0] < 0
    assert "edge of the search" in str(law.notes) and "below zero" in str(law.notes)


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda t: fit_code_length(t, min_context=1024),
            "2 octaves are left with min_context=1024: a law of 3 numbers needs 4",
        ),
        (
            lambda t: fit_code_length(t.drop("context_to")),
            "columns ['context_to'] are missing: pass the table of `code_length`",
        ),
        (lambda t: fit_code_length(t.drop("replicates")), "needs the column 'replicates'"),
        (lambda t: fit_code_length(t.with_columns(groups=1)), "1 independent document groups give no interval"),
        (lambda t: fit_code_length(t, level=95.0), "level 95.0 is no confidence level"),
        (lambda t: lag_singular_values([np.arange(3)] * 4, [5], 3), "0 documents are longer than 5 tokens"),
        (lambda t: lag_singular_values([np.arange(9)] * 4, [2], 3), "token 8 is none of the 3"),
        (lambda t: strongest_pair(np.arange(3), np.arange(2), 9), "give as many, at least one"),
    ],
)
def test_nonsense_is_refused(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call(octaves(lambda n: 2 + n**-0.5))


def test_sparse_is_dense_and_documents_stay_apart():
    rng = np.random.default_rng(0)
    documents = [rng.zipf(1.4, 400) % 200 for _ in range(20)]
    table = lag_singular_values(documents, [3], 200, draws=20)
    dense = np.zeros((200, 200))
    for ids in documents:
        np.add.at(dense, (ids[:-3], ids[3:]), 1)
    dense /= dense.sum()
    values = np.linalg.svd(dense - np.outer(dense.sum(1), dense.sum(0)))[1]
    assert table["singular_value"].item() == pytest.approx(values[0], rel=1e-7) and table["n"].item() == 20 * 397


def test_draws_are_what_redrawn_documents_give():
    "To first order: doubling one document moves the value as the weights say"
    chain = MarkovChain(((0.9, 0.1), (0.3, 0.7)))
    documents = list(chain.sample(40, 300, torch.Generator().manual_seed(0)).numpy())
    table = lag_singular_values(documents, [1, 2, 4], 2, draws=300)
    weights = np.random.default_rng(0).multinomial(40, np.full(40, 1 / 40), size=300)  # as `resamples` draws them
    again = [
        lag_singular_values([documents[i] for i in np.repeat(np.arange(40), w)], [1, 2, 4], 2, draws=2)
        for w in weights[:15]
    ]
    found, exact = (
        np.stack(t) for t in (table["replicates"].to_list(), [a["singular_value"].to_list() for a in again])
    )
    assert np.abs(found[:, :15].T - exact).max() < 0.1 * found.std(1).min()
    decay = fit_decay(table, distances=(1, 4))
    code = fit_code_length(octaves(lambda n: 2 + n**-0.4, stderr=0.01))
    alpha, (low, high) = data_exponent(code, decay)
    assert alpha == pytest.approx(code.gamma / (-2 * decay.exponent))
    ends = np.array([code.draws[:, 0].std() / code.gamma, decay.draws[:, 1].std() / decay.exponent])
    assert high - low == pytest.approx(2 * 1.96 * alpha * np.hypot(*ends), rel=0.25)
