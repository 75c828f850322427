"Errors of means and of entropies whose terms depend on each other, against independent computations; what both laws ask of a table."

import numpy as np
import polars as pl
import pytest
from scipy import stats

from l2m.errors import check_noise, clustered, draws_of, jackknife, numbers_of, resamples, small_sample_stretch
from l2m.information import entropy

RNG = np.random.default_rng(0)
GROUP = np.repeat(np.arange(40), RNG.integers(1, 9, size=40))
TERMS = RNG.normal(size=40)[GROUP] + RNG.normal(size=len(GROUP))
WEIGHTS = resamples(GROUP, np.ones_like(GROUP), draws=4000, seed=0)


def test_the_cluster_error_is_the_textbook_sandwich():
    "With a design matrix of ones and the small-sample factor, as regression programs print it."
    found, n = clustered(TERMS, GROUP, WEIGHTS), len(TERMS)
    residuals = TERMS - TERMS.mean()
    meat = sum(residuals[GROUP == g].sum() ** 2 for g in range(40))
    assert found.mean == pytest.approx(TERMS.mean()) and found.groups == 40
    assert found.stderr == pytest.approx(np.sqrt(40 / 39 * meat) / n)
    assert found.replicates.std() == pytest.approx(found.stderr, rel=0.06) and len(found.replicates) == 4000


def test_a_group_without_terms_does_not_count():
    some = GROUP < 30
    found = clustered(TERMS[some], GROUP[some], WEIGHTS)
    assert found.groups == 30 and found.stderr == pytest.approx(
        clustered(TERMS[some], GROUP[some], WEIGHTS[:, :30]).stderr
    )


def test_of_single_terms_it_is_the_usual_standard_error():
    found = clustered(TERMS, np.arange(len(TERMS)), np.ones((1, len(TERMS))))
    assert found.stderr == pytest.approx(stats.sem(TERMS)) and found.replicates == pytest.approx([found.mean])


def test_groups_that_reach_farthest_are_drawn_among_themselves():
    reach = np.where(GROUP < 10, 64, 16)
    weights = resamples(GROUP, reach, draws=300, seed=1)
    assert weights.shape == (300, 40) and (weights[:, :10].sum(1) == 10).all() and (weights.sum(1) == 40).all()
    assert (weights == resamples(GROUP, reach, draws=300, seed=1)).all() and not (
        weights == resamples(GROUP, reach, draws=300, seed=2)
    ).all()
    assert weights.mean(0) == pytest.approx(np.ones(40), abs=5 / np.sqrt(300))


@pytest.mark.parametrize("counts", [[12, 12, 12], [12, 11, 10, 9, 8], [24, 12, 8, 5, 3]])
def test_intervals_hold_the_truth_when_few_groups_reach_far(counts):
    "Also where a single group reaches some length and no farther"
    rng, repetitions = np.random.default_rng(5), 600
    group, reach = np.arange(counts[0]), np.array([sum(i < n for n in counts) for i in range(counts[0])])
    stretch, held = small_sample_stretch(counts[0], 0.95), 0
    for repetition in range(repetitions):
        terms = rng.normal(size=len(group))
        shift = clustered(terms, group, resamples(group, reach, draws=300, seed=repetition)).replicates - terms.mean()
        low, high = terms.mean() + stretch * np.quantile(shift, [0.025, 0.975])
        held += low < 0 < high
    assert held / repetitions == pytest.approx(0.94, abs=0.035)  # 300 draws cost about one per cent


def test_the_jackknife_of_a_mean_is_its_cluster_error():
    alike = np.repeat(np.arange(20), 5)
    terms, weights = (
        RNG.normal(size=20)[alike] + RNG.normal(size=100),
        resamples(alike, np.ones(100, int), draws=500, seed=0),
    )
    found, mean = (
        jackknife(terms.mean(), [terms[alike != g].mean() for g in range(20)], weights),
        clustered(terms, alike, weights),
    )
    assert found.stderr == pytest.approx(mean.stderr) and found.replicates == pytest.approx(mean.replicates)


def test_the_jackknife_of_an_entropy_is_its_deviation_over_repetitions():
    claimed, estimates, weights, zipf = [], [], np.ones((1, 16)), 1 / np.arange(1, 31)
    for seed in range(300):
        counts = np.random.default_rng(seed).multinomial(200, zipf / zipf.sum(), size=16)
        of = lambda counts: entropy(counts[counts > 0], "grassberger")
        estimates.append(of(counts.sum(0)))
        claimed.append(jackknife(estimates[-1], [of(counts.sum(0) - one) for one in counts], weights).stderr)
    assert np.mean(claimed) / np.std(estimates) == pytest.approx(1, abs=0.15)  # the deviation of 300 is known to 4 %


@pytest.mark.parametrize(
    "without, weights, message",
    [
        ([1.0], np.ones((3, 1)), "1 estimates without a group"),
        ([1.0, 2.0], np.ones((3, 4)), "a column of weights for each"),
        ([1.0, float("nan")], np.ones((3, 2)), r"without is \[1.0, nan\], expected a list of finite numbers"),
    ],
)
def test_a_jackknife_of_nothing_is_refused(without, weights, message):
    with pytest.raises(ValueError, match=message):
        jackknife(1.0, without, weights)


def test_the_stretch_is_the_documented_one():
    assert small_sample_stretch(16) == pytest.approx(np.sqrt(16 / 15) * 2.131449545559323 / 1.959963984540054, rel=1e-9)
    assert small_sample_stretch(10**6) == pytest.approx(1, abs=1e-5)


TABLE = pl.DataFrame(
    {"distance": [1, 2], "mi": [0.5, None], "replicates": [[0.1] * 40, [0.2] * 39], "word": ["a", "b"]}
)
ROWS = np.arange(2)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: small_sample_stretch(1), "groups is 1, expected a whole number, at least 2"),
        (lambda: small_sample_stretch(8, 95), "level 95 is no confidence level"),
        (lambda: numbers_of(TABLE, "floor", ROWS, "distance"), "needs the column 'floor'"),
        (lambda: numbers_of(TABLE, "word", ROWS, "distance"), "column 'word' holds String, expected numbers"),
        (lambda: numbers_of(TABLE, "mi", ROWS, "distance"), r"distance 2 has mi nan \(row 1, column 'mi'\)"),
        (lambda: draws_of(TABLE, "mi", ROWS, "distance", 0.95), "expected lists of numbers"),
        (lambda: draws_of(TABLE, "replicates", ROWS, "distance", 0.95), "every distance needs the same number"),
        (lambda: draws_of(TABLE, "replicates", ROWS[:1], "distance", 0.99), "at least 200 for level 0.99"),
        (
            lambda: check_noise("distance", np.array([1, 2]), ROWS, np.ones(2), np.array([0.1, 0.0]), "stderr"),
            r"distance 2 has mi 1.0, stderr 0.0 \(row 1\)",
        ),
    ],
)
def test_what_no_law_can_use_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
