"Gaussian processes: every printed value of the paper's families, fast against dense, samples against law."

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from l2m.gaussian import DenseGaussian
from l2m.hierarchies import LogarithmicGaussian, SubvolumeGaussian

FAMILIES = {"sub-volume": (SubvolumeGaussian, 3), "logarithmic": (LogarithmicGaussian, 1)}
LENGTHS = [4, 16, 64, 256, 1024, 4096]
TRUTH = {
    "sub-volume": ["0.2939", "0.9013", "2.7301", "8.2165", "24.6759", "74.054"],
    "logarithmic": ["0.2939", "0.3180", "0.3422", "0.3669", "0.3918", "0.4167"],
    "ends": ["3.227e-2", "3.061e-3", "2.981e-4", "2.910e-5", "2.842e-6", "2.776e-7"],
}
family = pytest.mark.parametrize("family", FAMILIES)
boundary = pytest.mark.parametrize("boundary", ["neighbours", "constant"])


def dense(layers, carried, boundary="neighbours"):
    "The construction on a full matrix in numpy, independent of the package: rows by rows, seam by seam"
    g, r = math.sqrt(5) / 4, 1 / 4
    M = np.array([[g, g, g, r], [-g, g, -g, r], [-g, -g, g, r], [g, -g, -g, r]])
    S = np.ones((1, 1))
    for _ in range(layers):
        n = len(S)
        columns = np.zeros((n, 4, n, 4))
        for c in range(4):
            columns[:, c, :, c] = S if c < carried else np.eye(n)
        S = np.einsum("ac,icjd,bd->iajb", M, columns, M, optimize=True).reshape(4 * n, 4 * n)
        changes = []
        for u in range(3, 4 * n - 1, 4):
            own = S[u, u + 1]
            wanted = 0.4 * S[u - 1, u] + 0.4 * S[u + 1, u + 2] + 0.2 * (own if boundary == "neighbours" else 1)
            values, vectors = np.linalg.eigh(np.array([[1, own], [own, 1]]))
            undo = vectors @ np.diag(values**-0.5) @ vectors.T
            values, vectors = np.linalg.eigh(np.array([[1, wanted], [wanted, 1]]))
            changes.append((u, vectors @ np.diag(values**0.5) @ vectors.T @ undo))
        for u, change in changes:
            S[u : u + 2] = change @ S[u : u + 2]
        for u, change in changes:
            S[:, u : u + 2] = S[:, u : u + 2] @ change.T
    return S


def logdet_mi(S, split):
    logdet = lambda part: np.linalg.slogdet(part)[1]
    return (logdet(S[:split, :split]) + logdet(S[split:, split:]) - logdet(S)) / 2


def printed(value, like):
    "The value with as many digits as the table prints"
    if "e" in like:
        mantissa, exponent = f"{value:.3e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:.{len(like.split('.')[1])}f}"


@family
@pytest.mark.parametrize("row", range(6))
def test_every_entry_of_the_truth_table(family, row):
    process = FAMILIES[family][0].of_length(LENGTHS[row])
    assert printed(process.bipartite_mi(process.length // 2, process.length), TRUTH[family][row]) == TRUTH[family][row]
    ends = process.pair_mi([0], [process.length - 1]).item()
    assert printed(ends, TRUTH["ends"][row]) == TRUTH["ends"][row]


@family
@boundary
def test_fast_equals_the_dense_determinants_at_every_split_and_pair(family, boundary):
    kind, carried = FAMILIES[family]
    for layers in (1, 2, 3, 4):
        S, process = dense(layers, carried, boundary), kind(layers, boundary=boundary)
        L = len(S)
        for split in range(1, L, max(1, L // 20)):
            assert math.isclose(process.bipartite_mi(split, L), logdet_mi(S, split), rel_tol=1e-10)
        i, j = torch.randint(L, (2, 2000), generator=torch.Generator().manual_seed(0))
        assert np.allclose(process.covariance(i, j), S[i, j], atol=1e-13)
        assert np.allclose(
            process.pair_mi([1, 0], [3, L - 1]), -0.5 * np.log(1 - S[[1, 0], [3, L - 1]] ** 2), rtol=1e-10
        )


@family
def test_fast_equals_the_dense_determinants_at_4096(family):
    kind, carried = FAMILIES[family]
    S, process = dense(6, carried), kind(6)
    assert math.isclose(process.bipartite_mi(1365, 4096), logdet_mi(S, 1365), rel_tol=1e-10)


@family
@boundary
def test_entropies_of_the_first_tokens_are_those_of_the_dense_determinants(family, boundary):
    kind, carried = FAMILIES[family]
    S, process = dense(4, carried, boundary), kind(4, 3, boundary)
    for n in (1, 4, 37, 128, 255, 256):
        exact = 3 * (n * math.log(2 * math.pi * math.e) + np.linalg.slogdet(S[:n, :n])[1]) / 2
        assert process.block_entropy(n) == pytest.approx(exact, rel=1e-11)
        assert DenseGaussian(torch.tensor(S), 3).block_entropy(n) == pytest.approx(exact, rel=1e-11)
    assert process.block_entropy(0) == 0


@family
def test_shorter_blocks_of_a_dense_process_are_its_sub_matrices(family):
    S = dense(3, FAMILIES[family][1])
    process = DenseGaussian(torch.tensor(S), 2)
    for split, length in ((1, 2), (5, 30), (32, 63)):
        assert math.isclose(
            process.bipartite_mi(split, length), 2 * logdet_mi(S[:length, :length], split), rel_tol=1e-10
        )
    z = FAMILIES[family][0](3, 2).sample(5, 64, torch.Generator().manual_seed(3))
    assert torch.equal(FAMILIES[family][0](3, 2).sample(5, 10, torch.Generator().manual_seed(3)), z[:, :10])


@family
@boundary
def test_conditionals_are_those_of_the_cholesky_factor(family, boundary):
    kind, carried = FAMILIES[family]
    S, process = dense(4, carried, boundary), kind(4, copies=2, boundary=boundary)
    z = process.sample(3, process.length, torch.Generator().manual_seed(0), dtype=torch.float64)
    C = np.linalg.cholesky(S)
    for b in range(3):
        expected = z[b].numpy() - np.diag(C)[:, None] * np.linalg.solve(C, z[b].numpy())
        assert np.allclose(process.conditionals(z)[0][b], expected, atol=1e-11)
    assert np.allclose(process.conditionals(z)[1], np.diag(C), rtol=1e-12)
    backwards = np.linalg.cholesky(S[::-1, ::-1])
    assert np.allclose(process.conditionals(z, reverse=True)[1], np.diag(backwards)[::-1], rtol=1e-12)


@family
@pytest.mark.parametrize("reverse", [False, True])
def test_long_blocks_are_filtered_as_short_ones_are_multiplied(family, reverse, monkeypatch):
    process = FAMILIES[family][0](5, copies=2)
    z = process.sample(2, process.length, torch.Generator().manual_seed(0), dtype=torch.float64)
    multiplied = process.conditionals(z, reverse)
    monkeypatch.setattr("l2m.hierarchies._SHORT", 0)
    for short, long in zip(multiplied, process.conditionals(z, reverse)):
        assert torch.allclose(short, long, atol=1e-12)


@family
def test_single_precision_is_close(family):
    process = FAMILIES[family][0](5, copies=3)
    z = process.sample(2, process.length, torch.Generator().manual_seed(0))
    means, stds = process.conditionals(z)
    exact, exact_stds = process.conditionals(z.double())
    assert z.dtype == means.dtype == stds.dtype == torch.float32
    assert (means - exact).abs().max() < 2e-5 and (stds - exact_stds).abs().max() < 1e-6


@family
def test_samples_have_the_covariance_and_copies_are_independent(family):
    kind, carried = FAMILIES[family]
    n = 20_000
    z = kind(2, copies=2).sample(n, 16, torch.Generator().manual_seed(1), dtype=torch.float64)
    found = torch.einsum("nia,njb->iajb", z, z).numpy() / n
    S = dense(2, carried)
    error = np.sqrt((1 + S**2) / n)  # of a product of normals
    for a in range(2):
        assert (np.abs(found[:, a, :, a] - S) < 5 * error).all()
    assert (np.abs(found[:, 0, :, 1]) < 5 / np.sqrt(n)).all()
    assert torch.equal(z, kind(2, copies=2).sample(n, 16, torch.Generator().manual_seed(1), dtype=torch.float64))


@family
@pytest.mark.parametrize("split", [1, 20, 128, 255])
def test_samples_have_the_mutual_information(family, split):
    process = FAMILIES[family][0](4, copies=4)
    z = process.sample(300, process.length, torch.Generator().manual_seed(split), dtype=torch.float64)
    density = lambda means, stds: torch.distributions.Normal(means, stds[:, None]).log_prob(z).sum(2)
    gain = (density(*process.conditionals(z)) - density(*process.conditionals(z, reverse=True)))[:, split:].sum(1)
    assert abs(gain.mean() - process.bipartite_mi(split, process.length)) < 4.5 * gain.std() / math.sqrt(len(gain))


@family
@boundary
def test_information_is_symmetric_and_never_negative(family, boundary):
    process = FAMILIES[family][0](5, boundary=boundary)
    forward, backward = process._forward.variances.log(), process._backward.variances.log().flip(0)
    of_x = (forward - backward).cumsum(0) / 2  # I(Y; X) from the entropy of X
    assert torch.allclose(of_x[:-1], process.bipartite_curve[1:], atol=1e-11)
    assert (process.bipartite_curve[1:] > 0).all() and abs(process.bipartite_curve[0]) < 1e-11


@settings(max_examples=25, deadline=None)
@given(
    family=st.sampled_from(sorted(FAMILIES)),
    split=st.integers(2, 62),
    fewer=st.integers(1, 61),
    seed=st.integers(0, 99),
)
def test_longer_blocks_share_more_and_processing_loses(family, split, fewer, seed):
    S, process = torch.tensor(dense(3, FAMILIES[family][1])), FAMILIES[family][0](3)
    whole = process.bipartite_mi(split, 64)
    x, y = min(fewer, split), min(fewer, 64 - split)
    less_x, less_y = S[split - x :, split - x :], S[: split + y, : split + y]
    assert (
        DenseGaussian(less_x).bipartite_mi(x, len(less_x)) <= whole + 1e-10
        and DenseGaussian(less_y).bipartite_mi(split, len(less_y)) <= whole + 1e-10
    )
    noise = torch.rand(64, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert DenseGaussian(S + torch.diag(noise * (torch.arange(64) >= split))).bipartite_mi(split, 64) <= whole + 1e-10


@settings(max_examples=10, deadline=None)
@given(family=st.sampled_from(sorted(FAMILIES)), copies=st.integers(2, 64), split=st.integers(1, 63))
def test_copies_add(family, copies, split):
    one, many = (FAMILIES[family][0](3, c) for c in (1, copies))
    assert math.isclose(many.bipartite_mi(split, 64), copies * one.bipartite_mi(split, 64), rel_tol=1e-12)
    assert torch.allclose(many.pair_mi([0, 9], [63, 2]), copies * one.pair_mi([0, 9], [63, 2]))


def test_limits_of_both_laws():
    power, logarithm = (
        [kind(k).bipartite_mi(4**k // 2, 4**k) for k in range(4, 8)]
        for kind in (SubvolumeGaussian, LogarithmicGaussian)
    )
    slopes = np.diff(np.log(power)) / math.log(4)
    assert (np.diff(np.abs(slopes - math.log(3) / math.log(4))) < 0).all() and abs(
        slopes[-1] - math.log(3) / math.log(4)
    ) < 2e-4
    steps = np.diff(logarithm)
    assert (np.abs(np.diff(steps)) < 2e-4).all() and steps.min() > 0.02


def test_the_constant_reading_does_not_grow():
    values = [LogarithmicGaussian(k, boundary="constant").bipartite_mi(4**k // 2, 4**k) for k in range(2, 8)]
    assert np.allclose(values, values[0], rtol=1e-9)


def test_dense_process_of_any_covariance():
    A = torch.randn(12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    process = DenseGaussian(A @ A.T + torch.eye(12), copies=3)
    S = process.matrix.numpy()
    assert math.isclose(process.bipartite_mi(5, 12), 3 * logdet_mi(S, 5), rel_tol=1e-12)
    z = process.sample(4, process.length, torch.Generator().manual_seed(0), dtype=torch.float64)
    means, stds = process.conditionals(z)
    weights = np.linalg.solve(S[:7, :7], S[:7, 7])  # regression on the past
    assert np.allclose(means[:, 7], np.einsum("i,nic->nc", weights, z[:, :7]))
    assert math.isclose(stds[7] ** 2, S[7, 7] - S[7, :7] @ weights, rel_tol=1e-9)


@pytest.mark.parametrize(
    "ask, says",
    [
        (lambda: SubvolumeGaussian.of_length(100), "100 is not a power of four"),
        (lambda: SubvolumeGaussian.of_length(8), "8 is not a power of four: choose 4 or 16"),
        (lambda: SubvolumeGaussian.of_length(1), "power of four"),
        (lambda: SubvolumeGaussian(0), "layers=0"),
        (lambda: SubvolumeGaussian(2, copies=0), "copies=0"),
        (lambda: SubvolumeGaussian(2, boundary="periodic"), "'periodic' is unknown"),
        (lambda: SubvolumeGaussian(2).bipartite_mi(0, 16), "split 0"),
        (lambda: LogarithmicGaussian(2).bipartite_mi(16, 16), "split 16"),
        (lambda: LogarithmicGaussian(2).pair_mi([1], [1]), "choose different ones"),
        (lambda: LogarithmicGaussian(2).pair_mi([1], [16]), "from 0 to 15"),
        (lambda: LogarithmicGaussian(2, 2).conditionals(torch.zeros(1, 16, 3)), r"has \[n, 16, 2\]"),
        (lambda: DenseGaussian(torch.tensor([[1.0, 2], [2, 1]])), "eigenvalue -1"),
        (lambda: DenseGaussian(torch.ones(2, 3)), "symmetric"),
    ],
)
def test_bad_questions_get_one_clear_error(ask, says):
    with pytest.raises(ValueError, match=says):
        ask()
