"Ceilings of states: exact sums against draws, determinants against formulas, and the law that a best state keeps."

import math

import numpy as np
import pytest
import torch

from l2m.ceilings import block_factor, canonical_information, gaussian_shares, kept_information, santa_fe_shares
from l2m.gaussian import DenseGaussian
from l2m.growth import Lifetimes
from l2m.hierarchies import SubvolumeGaussian
from l2m.santa_fe import SantaFe

BLOCK = SubvolumeGaussian.of_length(64, copies=2)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def share(table, state, exponent):
    return table.filter(state=state, exponent=exponent)["share"][0]


def test_the_share_of_the_best_is_constant_from_the_exponent_of_the_law_on():
    facts = SantaFe(0.5, 10**4)
    short, long = (santa_fe_shares(facts, n, [0.25, 0.5, 0.75], 20, generator()) for n in (256, 4096))
    assert share(long, "best", 0.25) < 0.6 * share(short, "best", 0.25)
    assert (
        share(long, "best", 0.5) == pytest.approx(share(short, "best", 0.5), abs=0.05)
        and share(long, "best", 0.5) > 0.9
    )
    for b in (0.25, 0.5, 0.75):
        assert share(long, "latest", b) <= share(long, "best", b) + 1e-12
    assert share(long, "lifetimes", 0.75) < share(short, "lifetimes", 0.75) - 0.1, "large enough, and the wrong things"


def test_the_share_of_lifetimes_is_that_of_the_tokens_that_are_left():
    "What is left of drawn sequences, token by token; a coin of any number of values weighs the same."
    facts, n, b = SantaFe(0.7, 500), 128, 0.6
    table = santa_fe_shares(facts, n, [b], 2, generator())
    drawn = facts.sample(2000, n, generator(1)).numpy()[:, Lifetimes(b).sees(n, np.arange(n))] // 2
    wanted = 1 - (1 - facts.probabilities) ** n
    carried = np.array([wanted[np.unique(row)].sum() for row in drawn]) / (wanted @ wanted)
    assert abs(carried.mean() - share(table, "lifetimes", b)) < 4.5 * carried.std() / math.sqrt(2000)
    many = santa_fe_shares(SantaFe(0.7, 500, "query", values=9), n, [b], 2, generator())
    assert share(many, "lifetimes", b) == pytest.approx(share(table, "lifetimes", b), rel=1e-12)


def test_all_entries_carry_what_the_sequence_holds():
    table = santa_fe_shares(SantaFe(0.6, 300), 64, [1.0], 400, generator())
    for row in table.iter_rows(named=True):
        assert abs(row["share"] - 1) <= 4.5 * row["stderr"] + 1e-12


def test_a_factor_is_that_of_the_covariance():
    i = torch.arange(64)
    rows, columns = (axis.flatten() for axis in torch.meshgrid(i, i, indexing="ij"))
    sigma, factor = BLOCK.covariance(rows, columns).view(64, 64), block_factor(BLOCK)
    assert torch.allclose(factor @ factor.mT, sigma, atol=1e-10) and torch.equal(factor, factor.tril())


def test_canonical_pairs_sum_to_the_information_and_no_entries_carry_more():
    steps = torch.arange(12)
    for process, split in (
        (BLOCK, 32),
        (BLOCK, 20),
        (DenseGaussian(0.8 ** (steps[:, None] - steps).abs().double()), 5),
    ):
        factor = block_factor(process)
        each = canonical_information(factor, split)
        whole = process.bipartite_mi(split, process.length) / process.copies
        assert each.sum().item() == pytest.approx(whole, rel=1e-9) and len(each) == min(split, process.length - split)
        assert kept_information(factor, split, torch.arange(split)) == pytest.approx(whole, rel=1e-9)
        for k in (1, 4):
            kept = torch.randperm(split, generator=generator(k))[:k]
            assert 0 <= kept_information(factor, split, kept) <= each[:k].sum().item() + 1e-9
    assert canonical_information(block_factor(process), 5)[1].item() == pytest.approx(0, abs=1e-12), "a chain has one"


def test_shares_of_blocks():
    table = gaussian_shares(BLOCK, [0.5, 1.0])
    assert share(table, "best", 1.0) == pytest.approx(1) and share(table, "lifetimes", 1.0) == pytest.approx(1)
    assert table.filter(exponent=0.5)["entries"].to_list() == [5, int(Lifetimes(0.5).alive(32))]
    one = gaussian_shares(SubvolumeGaussian.of_length(64), [0.5])
    assert share(one, "best", 0.5) == pytest.approx(share(table, "best", 0.5)), "copies share alike"


@pytest.mark.parametrize(
    "wrong, message",
    [
        (lambda: santa_fe_shares(SantaFe(0.5, 9), 8, [0.5], 1, generator()), "draws is 1: choose at least 2"),
        (lambda: santa_fe_shares(SantaFe(0.5, 9), 8, [1.5], 2, generator()), "exponents is \\[1.5\\], expected a list"),
        (lambda: gaussian_shares(BLOCK, 0.5), "exponents is 0.5, expected a list .*: write \\[0.5\\]"),
        (lambda: canonical_information(block_factor(BLOCK), 64), "split 64 lies outside the block of 64 tokens"),
        (lambda: kept_information(block_factor(BLOCK), 8, torch.tensor([8])), "choose from 0 to 7"),
        (lambda: kept_information(block_factor(BLOCK), 8, torch.tensor([1, 1])), "choose each once"),
    ],
)
def test_bad_input_gets_one_clear_error(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()
