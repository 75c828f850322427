"Spins on a lattice against enumeration, against transfer matrices of whole rows, and in their limits."

import math
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from l2m.bipartite import measure_bipartite
from l2m.estimators import bipartite_mi
from l2m.interface import Continuation
from l2m.ising import (
    CRITICAL,
    IsingLattice,
    Lattice,
    coin_entropy,
    correlations,
    cut_energy,
    spin_information,
    window_entropies,
)
from l2m.processes import process_windows

SMALL = [
    (3, 4, 2.0),
    (4, 3, 1.0),
    (2, 5, 0.5),
    (5, 2, CRITICAL),
    (1, 9, 1.5),
    (9, 1, 1.5),
    (3, 3, math.inf),
    (2, 6, 0.01),
]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def halves(lattice):
    return lattice.bipartite_mi(lattice.length // 2, lattice.length)


@cache
def listed(width, height, temperature):
    "Every state, its log-probability and log Z, one bond at a time."
    states = np.array(list(product([0, 1], repeat=width * height)))
    spins, energy = 2 * states - 1, np.zeros(len(states))
    for i in range(width * height):
        if (i + 1) % width:
            energy += spins[:, i] * spins[:, i + 1]
        if i + width < width * height:
            energy += spins[:, i] * spins[:, i + width]
    log_z = np.logaddexp.reduce(energy / temperature)
    return states, energy / temperature - log_z, log_z


def marginal(states, logp, columns):
    "The distinct values of some columns, and their log-probabilities."
    seen, which = np.unique(states[:, columns], axis=0, return_inverse=True)
    total = np.full(len(seen), -np.inf)
    np.logaddexp.at(total, which.ravel(), logp)
    return seen, total


def entropy(states, logp, columns):
    p = marginal(states, logp, columns)[1]
    return float(-(np.exp(p) * p).sum())


@pytest.mark.parametrize("shape", SMALL)
def test_information_at_every_split(shape):
    lattice, (states, logp, log_z), n = IsingLattice(*shape), listed(*shape), shape[0] * shape[1]
    sites, whole = np.arange(n), entropy(*listed(*shape)[:2], np.arange(n))
    assert lattice.lattice.log_partition == pytest.approx(log_z, rel=1e-13)
    for split in range(1, n):
        x, y = entropy(states, logp, sites[:split]), entropy(states, logp, sites[split:])
        assert lattice.block_entropy(split) == pytest.approx(x, abs=1e-12)
        assert lattice.bipartite_mi(split, n) == pytest.approx(x + y - whole, abs=1e-12)


@pytest.mark.parametrize("shape", SMALL)
def test_log_probabilities_of_blocks_from_any_site(shape):
    lattice, (states, logp, _), n = IsingLattice(*shape), listed(*shape), shape[0] * shape[1]
    for start in range(n):
        for stop in {start + 1, (start + n) // 2 + 1, n} - set(range(start + 1)):
            blocks, exact = marginal(states, logp, np.arange(start, min(stop, n)))
            found = lattice.token_logprobs(torch.from_numpy(blocks), start)
            assert found.shape == blocks.shape and found.dtype == torch.float64
            assert np.allclose(found.sum(1), exact, rtol=1e-12, atol=1e-11)
            if len(blocks[0]) > 1:
                assert torch.equal(found[:, :-1], lattice.token_logprobs(torch.from_numpy(blocks[:, :-1]), start))


@pytest.mark.parametrize("shape", SMALL)
def test_correlations_and_energy_of_cuts(shape):
    (width, _, temperature), lattice, (states, logp, _) = shape, IsingLattice(*shape), listed(*shape)
    spins, p, n = 2 * states - 1, np.exp(logp), len(states[0])
    exact = (spins * p[:, None]).T @ spins
    for i in range(n):
        assert np.allclose(correlations(lattice.lattice, i), exact[i, i + 1 :], atol=1e-12)
    bonds = [(i, i + 1) for i in range(n) if (i + 1) % width] + [(i, i + width) for i in range(n - width)]
    for split in range(1, n):
        cut = sum(exact[i, j] for i, j in bonds if i < split <= j)
        assert cut_energy(lattice.lattice, split) == pytest.approx(cut / temperature, rel=1e-11, abs=1e-12)


@pytest.mark.parametrize("shape", SMALL)
def test_entropies_in_windows(shape):
    lattice, (states, logp, _), n = IsingLattice(*shape), listed(*shape), shape[0] * shape[1]
    for window in range(shape[0] + 2):
        exact = [
            entropy(states, logp, np.arange(max(0, i - window), i + 1))
            - entropy(states, logp, np.arange(max(0, i - window), i))
            for i in range(n)
        ]
        assert np.allclose(window_entropies(lattice.lattice, window), exact, atol=1e-12)
    assert torch.allclose(window_entropies(lattice.lattice, shape[0]), lattice.entropies, rtol=0, atol=1e-13)


@pytest.mark.parametrize("shape", [s for s in SMALL if s[2] > 0.1])
def test_vclub_of_the_exact_scorer_is_the_energy_of_the_cut(shape):
    "Over all pairs of states, weighted by their probabilities: the definition of vCLUB."
    lattice, (states, logp, _), n = IsingLattice(*shape), listed(*shape), shape[0] * shape[1]
    for split in (1, n // 2, n - 1):
        (xs, log_x), (ys, log_y) = (marginal(states, logp, np.arange(*part)) for part in ((0, split), (split, n)))
        joint = logp.reshape(len(xs), len(ys))  # states are in order
        given = joint - log_x[:, None]
        exact = (np.exp(joint) * given).sum() - np.exp(log_x) @ given @ np.exp(log_y)
        assert lattice.limits(lattice, split, n)["vclub"] == pytest.approx(exact, rel=1e-10, abs=1e-12)


def row_transfer(width, height, temperature):
    "I of the halves and log Z from matrices between whole rows: p(a, b) of the rows at the cut."
    rows = 2 * np.array(list(product([0, 1], repeat=width))) - 1
    inside, between = np.exp((rows[:, 1:] * rows[:, :-1]).sum(1) / temperature), np.exp(rows @ rows.T / temperature)
    part = inside.copy()
    for _ in range(height // 2 - 1):
        part = inside * (between @ part)
    joint = part[:, None] * between * part
    log_z, joint = np.log(joint.sum()), joint / joint.sum()
    return float((joint * np.log(joint / np.outer(joint.sum(1), joint.sum(0)))).sum()), log_z


@pytest.mark.parametrize(
    "width, height, temperature", [(6, 6, CRITICAL), (8, 8, 1.8), (8, 4, 3.5), (7, 20, 2.5), (1, 40, 0.7)]
)
def test_row_cuts_against_matrices_of_rows(width, height, temperature):
    mi, log_z = row_transfer(width, height, temperature)
    lattice = IsingLattice(width, height, temperature)
    assert halves(lattice) == pytest.approx(mi, abs=1e-11)
    assert lattice.lattice.log_partition == pytest.approx(log_z, rel=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_single_column_and_a_single_row_are_the_chain(temperature):
    known = math.tanh(1 / temperature) ** np.arange(1, 30)
    for chain in (IsingLattice(1, 30, temperature), IsingLattice(8, 1, temperature)):
        later = correlations(chain.lattice, 0)
        assert np.allclose(later, known[: len(later)], rtol=1e-10, atol=0)
        for split in (1, 4, 7):
            assert chain.bipartite_mi(split, chain.length) == pytest.approx(
                spin_information(known[0]).item(), abs=1e-12
            )


def test_limits_of_temperature():
    coins, frozen = IsingLattice(4, 4, math.inf), IsingLattice(4, 4, 0.05)
    assert halves(coins) == pytest.approx(0, abs=1e-12) and torch.allclose(
        coins.entropies, torch.full((16,), math.log(2), dtype=torch.float64)
    )
    assert coins.limits(coins, 8, 16)["vclub"] == pytest.approx(0, abs=1e-12)
    assert halves(frozen) == pytest.approx(math.log(2), abs=1e-12)
    assert frozen.limits(frozen, 8, 16)["vclub"] == pytest.approx(4 / 0.05, rel=1e-9)
    hot = IsingLattice(4, 4, 200.0)
    assert halves(hot) == pytest.approx(4 / 200**2 / 2, rel=1e-3)
    assert (
        IsingLattice(8, 8, 1e-3).token_logprobs(torch.randint(2, (5, 20), generator=generator()), 20).isfinite().all()
    )


def test_energy_is_the_slope_of_log_z():
    step, (above, left) = 1e-5, Lattice(5, 6, 2.0).measured[1:]
    up, down = (Lattice(5, 6, 1 / (0.5 + sign * step)).log_partition for sign in (1, -1))
    assert (up - down) / (2 * step) == pytest.approx((above.sum() + left.sum()).item(), rel=1e-8)


shapes = st.tuples(st.integers(1, 6), st.integers(1, 7), st.floats(0.3, 20)).filter(lambda s: s[0] * s[1] > 1)


@settings(max_examples=40, deadline=None)
@given(shapes, st.data())
def test_bounds_and_symmetries(shape, data):
    (width, height, temperature), lattice = shape, IsingLattice(*shape)
    split = data.draw(st.integers(1, lattice.length - 1))
    mi, energy = lattice.bipartite_mi(split, lattice.length), cut_energy(lattice.lattice, split)
    severed = min(width, split, lattice.length - split)
    assert -1e-12 <= mi <= severed * math.log(2) + 1e-12
    assert mi <= energy + 1e-12
    assert mi == pytest.approx(lattice.bipartite_mi(lattice.length - split, lattice.length), abs=1e-12)
    turned = Lattice(height, width, temperature)  # by a quarter, it is another text of the same lattice
    assert turned.log_partition == pytest.approx(lattice.lattice.log_partition, rel=1e-12)
    windows = [window_entropies(lattice.lattice, v).sum() for v in range(width + 1)]
    assert all(a >= b - 1e-12 for a, b in zip(windows, windows[1:]))


@settings(max_examples=25, deadline=None)
@given(shapes, st.integers(0, 2**32 - 1))
def test_half_a_turn_changes_nothing(shape, seed):
    lattice = IsingLattice(*shape)
    tokens = torch.randint(2, (6, lattice.length), generator=generator(seed))
    for m in {1, lattice.length // 2, lattice.length}:
        end = lattice.token_logprobs(tokens[:, :m], lattice.length - m).sum(1)
        assert torch.allclose(end, lattice.token_logprobs(tokens[:, :m].flip(1)).sum(1), rtol=1e-10, atol=1e-10)
    assert torch.allclose(lattice.token_logprobs(tokens), lattice.token_logprobs(1 - tokens), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", [(3, 3, 2.0), (2, 4, 1.0)])
def test_samples_have_the_listed_probabilities(shape):
    states, logp, _ = listed(*shape)
    n, sites = 40_000, shape[0] * shape[1]
    drawn = IsingLattice(*shape).sample(n, sites, generator(5))
    counts = np.bincount(drawn.numpy() @ 2 ** np.arange(sites)[::-1], minlength=2**sites)
    expected = n * np.exp(logp)
    rare = expected < 8
    pooled = lambda v: np.append(v[~rare], v[rare].sum()) if rare.any() else v
    assert stats.chisquare(pooled(counts), pooled(expected)).pvalue > 1e-4
    assert torch.equal(IsingLattice(*shape).sample(7, 5, generator(2)), IsingLattice(*shape).sample(7, 5, generator(2)))


def test_estimators_find_the_limits():
    lattice = IsingLattice(6, 6, CRITICAL)
    windows = process_windows(lattice, 36, 4000, generator(3))
    table = bipartite_mi(measure_bipartite(lattice, windows, lengths=[36], ratios=[2, 3], batch_size=4000), draws=10)
    for row in table.iter_rows(named=True):
        assert abs(row["mi"] - lattice.limits(lattice, row["split"], 36)[row["method"]]) < 4 * row["stderr"]


def test_what_is_read_alone_is_the_end():
    lattice = IsingLattice(4, 4, 2.0)
    tokens = lattice.sample(5, 16, generator())
    joint, (crossed, alone) = lattice.logprobs(tokens, [Continuation(6, tokens[:, 6:]), Continuation(0, tokens[:, 6:])])
    assert torch.equal(crossed, joint[:, 6:])
    assert torch.equal(alone, lattice.token_logprobs(tokens[:, 6:], 6))
    assert not torch.allclose(alone.sum(1), lattice.token_logprobs(tokens[:, 6:]).sum(1))


def test_entropy_of_coins():
    p = torch.tensor([0.5, 0.9, 1e-9], dtype=torch.float64)
    assert torch.allclose(coin_entropy(p.logit()), torch.distributions.Bernoulli(p).entropy(), rtol=1e-9)
    assert spin_information(torch.tensor([0.0, 1.0, -1.0])).tolist() == [0.0, math.log(2), math.log(2)]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: IsingLattice(0, 3), "0 x 3 spins: choose whole numbers"),
        (lambda: IsingLattice(1, 1), "1 x 1 spins: choose whole numbers, at least two"),
        (lambda: IsingLattice(2.0, 3), "width is 2.0, expected a whole number: write 2"),
        (lambda: IsingLattice(4, 4, 0.0), "temperature 0.0: choose a positive one"),
        (lambda: IsingLattice(4, 4, math.nan), "temperature is nan, expected a finite number"),
        (lambda: IsingLattice(24, 24), "24 x 24 spins need a table of .* choose a smaller width"),
        (lambda: IsingLattice(3, 3).bipartite_mi(9, 9), "split 9 lies outside the block of 9"),
        (lambda: window_entropies(Lattice(3, 3), -1), "window -1: choose at least 0"),
        (
            lambda: IsingLattice(3, 3).bipartite_mi(3, 6),
            "6 tokens are not all of 'Ising 3 x 3, T = 2.26919': measure it at length 9 alone",
        ),
        (
            lambda: IsingLattice(3, 3).limits(IsingLattice(3, 3, 1.0), 3, 9),
            "are not known: let it read the process itself",
        ),
        (
            lambda: IsingLattice(3, 3).sample(2, 10, generator()),
            "10 spins from site 0 on: the lattice has the sites 0 to 8",
        ),
        (lambda: correlations(Lattice(3, 3), 9), "1 spins from site 9 on"),
        (lambda: IsingLattice(3, 3).token_logprobs(torch.zeros(1, 4, dtype=torch.long), 6), "4 spins from site 6 on"),
        (
            lambda: IsingLattice(3, 3).logprobs(torch.full((1, 9), 2)),
            "token id 2 is not in the vocabulary of 'Ising 3 x 3",
        ),
        (
            lambda: IsingLattice(3, 3).logprobs(
                torch.zeros(1, 6, dtype=torch.long), [Continuation(0, torch.zeros(1, 3, dtype=torch.long))]
            ),
            "6 tokens are not all of 'Ising 3 x 3",
        ),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()
