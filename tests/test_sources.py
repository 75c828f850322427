"Every source and every reader keeps its protocol; entropies, information and samples of each say the same."

import inspect
import math

import pytest
import torch

from l2m.arguments import fits
from l2m.gaussian import DenseGaussian, GaussianProcess
from l2m.hierarchies import LogarithmicGaussian, SubvolumeGaussian
from l2m.interface import Reader, Source
from l2m.ising import IsingLattice
from l2m.processes import MarkovChain, PolyaUrn, Purse, sampled_limits
from l2m.readers import Forgetful, Mixed, Opening, Truncated
from l2m.recall import MQAR, Copying
from l2m.renewals import Renewal
from l2m.santa_fe import SantaFe

FACTS, QUERY, URN, CHAIN = (
    SantaFe(0.7, 200),
    SantaFe(0.7, 50, "query"),
    PolyaUrn(3, 0.5),
    MarkovChain(((0.9, 0.1), (0.3, 0.7))),
)
STATIONARY = [FACTS, URN, Purse((0.2, 0.6)), Renewal(1.5), CHAIN, Copying(3, 5)]
STEPS = torch.arange(16)
GAUSSIAN = [
    DenseGaussian(0.7 ** (STEPS[:, None] - STEPS).abs().double(), copies=2),
    SubvolumeGaussian(2, copies=3),
    LogarithmicGaussian(2),
]
SHEET, PAIRS = IsingLattice(4, 4, 2.0), MQAR(3, 5, 6, slots=5)
SOURCES = [*STATIONARY, QUERY, SHEET, PAIRS, *GAUSSIAN]
READERS = [  # reader, and a source whose limits it knows
    *((process, process) for process in (*STATIONARY, QUERY, SHEET, PAIRS)),
    (PolyaUrn(3, 8.0), URN),
    (Mixed(URN, 0.3, (1 / 3,) * 3), URN),
    (Mixed(PolyaUrn(3, 4.0), 0.2, (0.5, 0.3, 0.2)), URN),
    *((Truncated(process, 3), process) for process in (FACTS, URN, Renewal(1.5), CHAIN)),
    (Forgetful(FACTS, 0.3), FACTS),
    (Forgetful(FACTS, 0.1, 0.5), FACTS),
    (Forgetful(QUERY, 0.4), QUERY),
    *((Opening(process, 2), process) for process in (FACTS, QUERY, URN, CHAIN)),
]
name = lambda value: getattr(value, "name", None)
sources, readers = (
    pytest.mark.parametrize("source", SOURCES, ids=name),
    pytest.mark.parametrize("reader, source", READERS, ids=name),
)
SPLIT, LENGTH = 6, 16  # what all of them can answer


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@sources
def test_a_source_keeps_the_protocol(source):
    assert fits(source, Source) and source.name
    for method in ("sample", "block_entropy", "bipartite_mi", "two_point_mi"):
        asked, given = (list(inspect.signature(getattr(kind, method)).parameters) for kind in (Source, type(source)))
        assert given[: len(asked)] == asked, "one signature, and more only behind it"
    sample = source.sample(5, LENGTH, generator())
    assert sample.shape[:2] == (5, LENGTH) and torch.equal(sample, source.sample(5, LENGTH, generator()))
    assert sample.ndim == 2 + isinstance(source, GaussianProcess)
    assert all(isinstance(value, float) for value in (source.block_entropy(SPLIT), source.bipartite_mi(SPLIT, LENGTH)))
    assert source.block_entropy(0) == pytest.approx(0, abs=1e-12)
    pair = source.two_point_mi(2)
    assert pair is None or 0 <= pair <= source.bipartite_mi(1, 3) + 1e-9


@pytest.mark.parametrize("source", [*STATIONARY, QUERY, SHEET, GAUSSIAN[0]], ids=name)
def test_information_is_a_difference_of_entropies(source):
    "Where the last tokens of a block have the law of as many first ones: of a stationary source, and of a whole sheet of spins."
    H = source.block_entropy
    for split in (2, SPLIT, 14):
        assert source.bipartite_mi(split, LENGTH) == pytest.approx(
            H(split) + H(LENGTH - split) - H(LENGTH), rel=1e-9, abs=1e-9
        )


@pytest.mark.parametrize("source", GAUSSIAN, ids=name)
def test_information_and_entropy_of_values_are_those_of_samples(source):
    z = source.sample(4000, LENGTH, generator(1), dtype=torch.float64)
    density = lambda means, deviations: torch.distributions.Normal(means, deviations[:, None]).log_prob(z).sum(2)
    past, future = density(*source.conditionals(z)), density(*source.conditionals(z, reverse=True))
    for found, exact in (
        (-past[:, :SPLIT].sum(1), source.block_entropy(SPLIT)),
        ((past - future)[:, SPLIT:].sum(1), source.bipartite_mi(SPLIT, LENGTH)),
    ):
        assert abs(found.mean() - exact) < 4.5 * found.std() / math.sqrt(len(found))


@readers
def test_a_reader_keeps_the_protocol_and_finds_its_limits(reader, source):
    assert fits(reader, Reader)
    assert list(inspect.signature(type(reader).limits).parameters) == ["self", "source", "split", "length"]
    limits, found = (
        reader.limits(source, SPLIT, LENGTH),
        sampled_limits(source, reader, SPLIT, LENGTH, 6000, generator(2)),
    )
    assert set(limits) <= {"direct", "vclub"} and all(isinstance(limit, float) for limit in limits.values())
    for method, limit in limits.items():
        if math.isfinite(limit):
            assert abs(found[method][0] - limit) < 4.5 * found[method][1] + 1e-9
        else:
            assert found[method][0] == limit


@readers
def test_a_reader_refuses_a_source_that_it_does_not_know(reader, source):
    other = Purse((0.4, 0.5)) if source.name != Purse((0.4, 0.5)).name else Renewal(1.7)
    with pytest.raises(ValueError, match="are not known: let it read"):
        reader.limits(other, SPLIT, LENGTH)
    with pytest.raises(ValueError, match="are not known: let it read"):
        reader.limits(GAUSSIAN[0], SPLIT, LENGTH)
