"""Entropies and mutual information against exact values and independent implementations."""

import mpmath
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats
from scipy.special import exp1

from l2m.information import METHODS, counts_of_counts, entropy, grassberger_g, mutual_information

some_counts = st.lists(st.integers(0, 10_000), min_size=1, max_size=40).filter(any)


def g_by_mpmath(n):
    with mpmath.workdps(50):
        half = mpmath.mpf(1) / 2
        return mpmath.digamma(n) + (-1) ** n * half * (mpmath.digamma((n + 1) * half) - mpmath.digamma(n * half))


@pytest.mark.parametrize("n", [*range(1, 40), 99, 100, 12_345, 10**6, 10**6 + 1, 2**40 + 1, 10**15])
def test_g_equals_the_closed_form_in_fifty_digits(n):
    assert abs(float(grassberger_g(n) - g_by_mpmath(n))) < 1e-12


@pytest.mark.parametrize("n", [1, 2, 3, 10, 57])
def test_g_equals_its_series(n):
    with mpmath.workdps(30):
        series = mpmath.digamma(n) + (-1) ** n * mpmath.nsum(lambda j: (-1) ** int(j) / (n + j), [0, mpmath.inf])
    assert abs(float(grassberger_g(n)) - float(series)) < 1e-12


def test_g_keeps_the_recurrence():
    n = np.arange(1, 5000)
    g = grassberger_g(np.append(n, [5000, 5001]))
    even = 2 * np.arange(1, 2500)
    assert np.allclose(g[even + 1] - g[even - 1], 2 / (even + 1), rtol=0, atol=1e-12)
    assert np.array_equal(g[even], g[even - 1])
    assert g[0] == pytest.approx(-np.euler_gamma - np.log(2), abs=1e-15)


@pytest.mark.parametrize("bad", [0, -1, 2.5, [1, 0], float("nan")])
def test_g_refuses_what_is_no_count(bad):
    with pytest.raises(ValueError, match="integers from 1"):
        grassberger_g(bad)


@given(some_counts)
def test_plugin_agrees_with_scipy(counts):
    assert entropy(counts, "plugin") == pytest.approx(stats.entropy(counts), rel=1e-12, abs=1e-12)


@given(some_counts)
def test_formulas_symbol_by_symbol(counts):
    seen, total = [n for n in counts if n], sum(counts)
    plugin = -sum(n / total * np.log(n / total) for n in seen)
    grassberger = np.log(total) - sum(n * float(g_by_mpmath(n)) for n in seen) / total
    assert entropy(counts, "miller-madow") == pytest.approx(plugin + (len(seen) - 1) / (2 * total), abs=1e-11)
    assert entropy(counts) == entropy(counts, "grassberger") == pytest.approx(grassberger, abs=1e-11)


@given(some_counts, st.randoms(use_true_random=False))
def test_order_zeros_shape_and_type_do_not_matter(counts, random):
    shuffled = counts + [0, 0]
    random.shuffle(shuffled)
    for method in METHODS:
        h = entropy(counts, method)
        for other in (shuffled, np.array([counts]), np.array(counts, float), np.array(counts, np.uint16), pl.Series(counts)):
            assert entropy(other, method) == pytest.approx(h, rel=1e-14, abs=1e-14)


@given(some_counts)
def test_counts_of_counts_give_the_same(counts):
    values, symbols = counts_of_counts(counts)
    assert values @ symbols == sum(counts) and symbols.sum() == sum(n > 0 for n in counts)
    for method in METHODS:
        assert entropy(values, method, multiplicity=symbols) == entropy(counts, method)
        ones = entropy(counts, method, multiplicity=np.ones(len(counts), int))
        assert ones == pytest.approx(entropy(counts, method), abs=1e-12)


@pytest.mark.parametrize("z", [0.05, 0.7, 2.0, 9.0])
def test_grassberger_terms_have_their_known_expectation(z):
    n = np.arange(1, 150)
    expectation = stats.poisson.pmf(n, z) @ (n * grassberger_g(n))
    assert expectation == pytest.approx(z * np.log(z) + z * exp1(2 * z), abs=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_mean_over_samples_is_the_exact_expectation(method):
    p, size, samples = np.array([0.5, 0.2, 0.15, 0.1, 0.05]), 12, 4000
    n = np.arange(1, size + 1)
    terms = n * (grassberger_g(n) if method == "grassberger" else np.log(n))
    exact = np.log(size) - sum(stats.binom.pmf(n, size, q) @ terms for q in p) / size
    if method == "miller-madow":
        exact += ((1 - (1 - p) ** size).sum() - 1) / (2 * size)
    drawn = [entropy(c, method) for c in np.random.default_rng(0).multinomial(size, p, size=samples)]
    assert abs(np.mean(drawn) - exact) < 4 * np.std(drawn) / np.sqrt(samples)


def test_bias_on_zipf_falls_from_plugin_to_grassberger():
    p = 1 / np.arange(1, 20_001)
    p /= p.sum()
    samples = np.random.default_rng(1).multinomial(5000, p, size=20)
    plugin, madow, grassberger = (np.mean([entropy(c, m) for c in samples]) - stats.entropy(p) for m in METHODS)
    assert plugin < madow < grassberger < 0


def test_a_hundred_million_observations_keep_their_precision():
    values, symbols = np.array([1, 2, 50_000_000]), np.array([30_000_000, 10_000_000, 1])
    total = int(values @ symbols)
    expected = mpmath.log(total) - sum(int(m) * int(n) * g_by_mpmath(int(n)) for n, m in zip(values, symbols)) / total
    assert entropy(values, multiplicity=symbols) == pytest.approx(float(expected), abs=1e-12)
    counts = np.repeat(values, symbols // 100)
    smaller = [(int(n), int(m) // 100) for n, m in zip(values, symbols) if m >= 100]
    total = sum(n * m for n, m in smaller)
    expected = mpmath.log(total) - sum(m * n * g_by_mpmath(n) for n, m in smaller) / total
    assert entropy(counts) == pytest.approx(float(expected), abs=1e-12)


@pytest.mark.parametrize("counts, message", [
    ([], "no counts"),
    ([0, 0, 0], "all 3 counts are zero"),
    ([5, -2], "entry 1 is -2"),
    (np.array([2**31 - 1], np.int32) + np.int32(1), "negative"),
    ([1.5, 2], "whole numbers, got 1.5"),
    ([1.0, np.nan], "entry 1 is nan"),
    ([np.inf], "entry 0 is inf"),
    ([2**62, 2**62], "more than a 64-bit integer"),
    ([2**70], "64 bits"),
    (["a", "b"], "not numbers"),
])
def test_bad_counts_are_named(counts, message):
    with np.errstate(over="ignore"), pytest.raises(ValueError, match=message):
        entropy(counts)


def test_unknown_method_names_the_known_ones():
    with pytest.raises(ValueError, match="'shannon': choose one of 'plugin', 'miller-madow', 'grassberger'"):
        entropy([1, 2], "shannon")


@pytest.mark.parametrize("multiplicity, message", [([1], "2 counts but 1"), ([1, -1], "multiplicity"), ([0, 0], "zero")])
def test_bad_multiplicities(multiplicity, message):
    with pytest.raises(ValueError, match=message):
        entropy([1, 2], multiplicity=multiplicity)


tables = st.integers(1, 5).flatmap(lambda n: st.lists(st.lists(st.integers(0, 50), min_size=n, max_size=n), min_size=1, max_size=5)).filter(lambda t: np.sum(t) > 0)


@given(tables)
def test_mutual_information_is_the_difference_of_entropies(table):
    table = np.array(table)
    difference = entropy(table.sum(0), "plugin") + entropy(table.sum(1), "plugin") - entropy(table, "plugin")
    shared = mutual_information(table)
    assert shared == pytest.approx(difference, abs=1e-12) and shared >= 0
    assert mutual_information(table.T) == pytest.approx(shared, abs=1e-12)
    assert mutual_information(table / table.sum()) == pytest.approx(shared, abs=1e-12)


def test_mutual_information_of_known_channels():
    for flip in (0.01, 0.2, 0.5):
        wire = np.array([[1 - flip, flip], [flip, 1 - flip]])
        assert mutual_information(wire) == pytest.approx(np.log(2) - stats.entropy([flip, 1 - flip]), abs=1e-15)
    assert mutual_information(np.outer([0.1, 0.9], [0.3, 0.3, 0.4])) == pytest.approx(0, abs=1e-15)
    tiny = 1e-200
    assert mutual_information([[1 - tiny, 0], [0, tiny]]) == pytest.approx(tiny * 200 * np.log(10), rel=1e-12)


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1))
def test_processing_cannot_create_information(seed):
    rng = np.random.default_rng(seed)
    joint, channel = rng.dirichlet(np.ones(12)).reshape(3, 4), rng.dirichlet(np.ones(5), size=4)
    assert mutual_information(joint @ channel) <= mutual_information(joint) + 1e-12


@pytest.mark.parametrize("joint, message", [
    ([1, 2], "2-d"), ([[]], "2-d"), ([[0, 0]], "not all zero"), ([[1, -1], [1, 1]], "non-negative"), ([[1, np.nan]], "finite"), ([[1e308, 1e308]], "finite"),
])
def test_bad_joint_tables(joint, message):
    with np.errstate(over="ignore"), pytest.raises(ValueError, match=message):
        mutual_information(joint)
