"""Entropies and mutual information against exact values and independent implementations."""

import mpmath
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import quad
from scipy.special import digamma, exp1, gammaln

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
        h = entropy(counts, method, alphabet=50)
        for other in (
            shuffled,
            np.array([counts]),
            np.array(counts, float),
            np.array(counts, np.uint16),
            pl.Series(counts),
        ):
            assert entropy(other, method, alphabet=50) == pytest.approx(h, rel=1e-14, abs=1e-14)


@given(some_counts)
def test_counts_of_counts_give_the_same(counts):
    values, symbols = counts_of_counts(counts)
    assert values @ symbols == sum(counts) and symbols.sum() == sum(n > 0 for n in counts)
    for method in METHODS:
        h = entropy(counts, method, alphabet=50)
        assert entropy(values, method, multiplicity=symbols, alphabet=50) == h
        ones = entropy(counts, method, multiplicity=np.ones(len(counts), int), alphabet=50)
        assert ones == pytest.approx(h, abs=1e-12)


@pytest.mark.parametrize("z", [0.05, 0.7, 2.0, 9.0])
def test_grassberger_terms_have_their_known_expectation(z):
    n = np.arange(1, 150)
    expectation = stats.poisson.pmf(n, z) @ (n * grassberger_g(n))
    assert expectation == pytest.approx(z * np.log(z) + z * exp1(2 * z), abs=1e-12)


def chao_shen_by_mpmath(counts):
    "The formula symbol by symbol in forty digits."
    counts, total = [n for n in counts if n], sum(counts)
    with mpmath.workdps(40):
        coverage = 1 - mpmath.mpf(min(counts.count(1), total - 1)) / total
        p = [coverage * n / total for n in counts]
        return -mpmath.fsum(q * mpmath.log(q) / (1 - (1 - q) ** total) for q in p)


@given(some_counts)
def test_chao_shen_symbol_by_symbol(counts):
    assert entropy(counts, "chao-shen") == pytest.approx(float(chao_shen_by_mpmath(counts)), abs=1e-11)


@pytest.mark.parametrize(
    "counts, known",
    [  # from infomeasure 0.6.3: entropy(data, approach="chao_shen"), "miller_madow"
        ([4, 2, 3, 1], (1.4542598538950486, 1.4298542258336673)),
        ([10, 7, 5, 1, 1, 1, 2], (1.7832454022306645, 1.700255166129587)),
        ([1, 1, 2, 5, 30, 1], (1.1022764579772084, 0.96464431978506)),
        ([120, 60, 40, 30, 24, 20, 5, 2, 1, 1], (1.7255984937571511, 1.7174549051650967)),
    ],
)
def test_another_library_agrees(counts, known):
    assert [entropy(counts, m) for m in ("chao-shen", "miller-madow")] == pytest.approx(known, abs=1e-13)


def nsb_over_prior_entropy(counts, alphabet):
    "The integral over xi itself, symbol by symbol, each xi turned into its concentration by bisection."
    n, total = np.append(counts, np.zeros(alphabet - len(counts))), sum(counts)

    def at(xi):
        low, high = -60.0, 60.0
        for _ in range(80):
            u = (low + high) / 2
            above = digamma(alphabet * np.exp(u) + 1) - digamma(np.exp(u) + 1) > xi
            low, high = (low, u) if above else (u, high)
        b = np.exp(u)
        rho = np.exp(
            gammaln(alphabet * b) - gammaln(total + alphabet * b) + (gammaln(n + b) - gammaln(b)).sum() + total
        )
        return rho, digamma(total + alphabet * b + 1) - (n + b) / (total + alphabet * b) @ digamma(n + b + 1)

    ends = dict(a=1e-6, b=np.log(alphabet) - 1e-6, limit=200, epsrel=1e-9, epsabs=0)
    return quad(lambda xi: np.prod(at(xi)), **ends)[0] / quad(lambda xi: at(xi)[0], **ends)[0]


@pytest.mark.parametrize(
    "counts, alphabet",
    [([4, 2, 3, 1], 4), ([10, 7, 5, 1, 1, 1, 2], 20), ([1, 1, 1], 5), ([3], 3), ([60, 40, 30, 5, 2, 1, 1], 40)],
)
def test_nsb_is_its_integral_over_the_prior_entropy(counts, alphabet):
    assert entropy(counts, "nsb", alphabet=alphabet) == pytest.approx(
        nsb_over_prior_entropy(counts, alphabet), abs=1e-4
    )


@pytest.mark.parametrize(
    "counts, alphabet, exact",
    [  # 30 digits with mpmath: the integral over log kappa from -30 to 40
        ([4, 2, 3, 1], 10, "1.58516189824338"),
        ([1, 1, 2, 5, 30, 1], 30, "1.03660565919908"),
        ([120, 60, 40, 30, 24, 20, 5, 2, 1, 1], 12, "1.71845604711599"),
        ([10, 7, 5, 1, 1, 1, 2], 49_152**2, "1.83211143399761"),
    ],
)
def test_nsb_to_fourteen_digits(counts, alphabet, exact):
    assert entropy(counts, "nsb", alphabet=alphabet) == pytest.approx(float(exact), abs=1e-13)


def test_nsb_of_one_observation_is_its_prior():
    "One coin of two, seen once: the posterior mean is exactly log(2) / 2 by symmetry of the prior in xi."
    assert entropy([1], "nsb", alphabet=2) == pytest.approx(np.log(2) / 2, abs=1e-12)
    assert entropy([7], "nsb", alphabet=1) == 0


@pytest.mark.parametrize("size", [10**4, 10**7, 10**11])
def test_nsb_of_large_samples_is_their_entropy(size):
    "The hill in log kappa is narrow, and gamma functions of 1e11 cancel: the answer must still be the entropy of the frequencies."
    p = np.array([0.5, 0.25, 0.125, 0.125])
    assert entropy((p * size).astype(int), "nsb", alphabet=4) == pytest.approx(stats.entropy(p), abs=5 / size + 1e-11)


def test_nsb_takes_the_alphabet_of_all_pairs():
    p = 1 / np.arange(1, 301)
    p /= p.sum()
    counts = np.random.default_rng(0).multinomial(10**5, p)
    h = [entropy(counts, "nsb", alphabet=k) for k in (300, 10**5, 49_152**2)]
    sampling_error = np.sqrt((p @ np.log(p) ** 2 - stats.entropy(p) ** 2) / 10**5)
    assert h == pytest.approx([stats.entropy(p)] * 3, abs=4 * sampling_error)
    few = [entropy([1] * 20 + [2], "nsb", alphabet=k) for k in (30, 10**5, 49_152**2)]
    assert few[0] < np.log(30) and few[0] < few[1] < few[2] < np.log(49_152**2)


@pytest.mark.parametrize("alphabet", [None, 1, np.inf, np.nan, -3])
def test_nsb_wants_an_alphabet(alphabet):
    with pytest.raises(
        ValueError,
        match="at least the 2 seen, got alphabet=.*: pass alphabet=|alphabet is (inf|nan), expected a finite number",
    ):
        entropy([1, 2], "nsb", alphabet=alphabet)


@pytest.mark.parametrize("method", ["plugin", "miller-madow", "grassberger"])
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
    plugin, madow, grassberger, chao_shen, nsb = (
        np.mean([entropy(c, m, alphabet=20_000) for c in samples]) - stats.entropy(p) for m in METHODS
    )
    assert plugin < madow < grassberger < chao_shen < nsb < 0


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


@pytest.mark.parametrize(
    "counts, message",
    [
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
    ],
)
@pytest.mark.parametrize("method", [m for m in METHODS if m != "plugin"])
def test_bad_counts_are_named(counts, message, method):
    with np.errstate(over="ignore"), pytest.raises(ValueError, match=message):
        entropy(counts, method, alphabet=100)


def test_unknown_method_names_the_known_ones():
    with pytest.raises(
        ValueError, match="'shannon': choose one of 'plugin', 'miller-madow', 'grassberger', 'chao-shen', 'nsb'"
    ):
        entropy([1, 2], "shannon")


@pytest.mark.parametrize(
    "multiplicity, message", [([1], "2 counts but 1"), ([1, -1], "multiplicity"), ([0, 0], "zero")]
)
def test_bad_multiplicities(multiplicity, message):
    with pytest.raises(ValueError, match=message):
        entropy([1, 2], multiplicity=multiplicity)


tables = (
    st.integers(1, 5)
    .flatmap(lambda n: st.lists(st.lists(st.integers(0, 50), min_size=n, max_size=n), min_size=1, max_size=5))
    .filter(lambda t: np.sum(t) > 0)
)


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


@pytest.mark.parametrize(
    "joint, message",
    [
        ([1, 2], "2-d"),
        ([[]], "2-d"),
        ([[0, 0]], "not all zero"),
        ([[1, -1], [1, 1]], "non-negative"),
        ([[1, np.nan]], "finite"),
        ([[1e308, 1e308]], "finite"),
    ],
)
def test_bad_joint_tables(joint, message):
    with np.errstate(over="ignore"), pytest.raises(ValueError, match=message):
        mutual_information(joint)
