"Discrete processes against enumeration, against their own samples and in their limits; worse scorers against their limits."

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
from l2m.information import mutual_information
from l2m.interface import Continuation
from l2m.processes import DiscreteProcess, MarkovChain, PolyaUrn, Purse, mentions, process_windows
from l2m.readers import Forgetful, Mixed, Opening, Truncated
from l2m.renewals import Renewal
from l2m.santa_fe import SantaFe, latest_mention, pairs_at

CHAIN = MarkovChain(((0.9, 0.1, 0.0), (0.2, 0.5, 0.3), (0.4, 0.1, 0.5)))
SMALL = [
    SantaFe(0.7, 3),
    SantaFe(0.4, 2),
    SantaFe(0.6, 2, "query"),
    PolyaUrn(2),
    PolyaUrn(3, 0.4),
    Purse((0.2, 0.7)),
    Purse((0.1, 0.5, 0.95)),
    Renewal(1.3),
    Renewal(2.5),
    CHAIN,
    SantaFe(0.6, 2, "fact", values=3),
    SantaFe(math.inf, 2, "query", values=3),
]
LARGE = [
    SantaFe(0.5, 1000),
    SantaFe(0.9, 10**5),
    SantaFe(0.7, 300, "query"),
    SantaFe(math.inf, 64, "query", values=64),
    PolyaUrn(2, 0.5),
    PolyaUrn(12, 2.0),
    Purse((0.3, 0.45, 0.8)),
    Renewal(1.2),
    Renewal(2.0),
    CHAIN,
]
name = lambda value: value.name if hasattr(value, "name") else None


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# ---- the definitions once more, one sequence at a time ---------------------------------------------------------------


def zipf(process):
    weights = [1 if process.exponent == math.inf else k ** (-1 / process.exponent) for k in range(1, process.facts + 1)]
    return [w / math.fsum(weights) for w in weights]


def santa_fe_probability(process, tokens):
    "Average over all throws of the coins."
    p, worlds = zipf(process), list(product(range(process.values), repeat=process.facts))
    if process.rendering == "fact":
        told = [(t // process.values, t % process.values) for t in tokens]
    else:
        if any((t >= process.facts) == (i % 2 == 0) for i, t in enumerate(tokens)):
            return 0.0
        told = [(k, z - process.facts) for k, z in zip(tokens[::2], tokens[1::2])] + [
            (k, None) for k in tokens[len(tokens) - len(tokens) % 2 :]
        ]
    return math.fsum(math.prod(p[k] * (z is None or z == world[k]) for k, z in told) for world in worlds) / len(worlds)


def urn_probability(process, tokens):
    balls, p = [process.balls] * process.colours, 1.0
    for t in tokens:
        p *= balls[t] / sum(balls)
        balls[t] += 1
    return p


@cache
def tails(exponent):
    "P(gap > n) summed from each n on: a million terms, and an integral for the rest."
    terms = np.arange(1.0, 10**6 + 1) ** -exponent
    return terms[::-1].cumsum()[::-1] + (10**6 + 0.5) ** (1 - exponent) / (exponent - 1)


def renewal_probability(process, tokens):
    "Sum over the time of the last 1 before the block."
    tail, beyond = lambda g: (g + 1.0) ** -process.tail, tails(process.tail)
    ones, mean = [i for i, t in enumerate(tokens) if t], beyond[0]
    if not ones:
        return beyond[len(tokens)] / mean
    gaps = [tail(b - a - 1) - tail(b - a) for a, b in zip(ones, ones[1:])]
    return tail(ones[0]) / mean * math.prod(gaps) * tail(len(tokens) - 1 - ones[-1])


def probability(process, tokens):
    if isinstance(process, SantaFe):
        return santa_fe_probability(process, tokens)
    if isinstance(process, PolyaUrn):
        return urn_probability(process, tokens)
    if isinstance(process, Renewal):
        return renewal_probability(process, tokens)
    if isinstance(process, Purse):
        return np.mean([math.prod(b if t else 1 - b for t in tokens) for b in process.coins])
    start = np.linalg.matrix_power(np.array(process.transition), 2000)[0]
    return start[tokens[0]] * math.prod(process.transition[a][b] for a, b in zip(tokens, tokens[1:]))


def sequences(process, length):
    return [s for s in product(range(process.vocabulary), repeat=length)]


def table(process, length):
    "Probabilities of all sequences, in the order of `sequences`."
    return np.array([probability(process, s) for s in sequences(process, length)])


@pytest.mark.parametrize("process", SMALL, ids=name)
def test_every_formula_agrees_with_enumeration(process):
    length = 4 if process.vocabulary > 3 else 6
    p = table(process, length)
    assert p.sum() == pytest.approx(1, abs=1e-8)
    possible = p > 0
    q = (
        process.token_logprobs(torch.tensor(sequences(process, length))[torch.from_numpy(possible)])
        .sum(1)
        .exp()
        .numpy()
    )
    assert q == pytest.approx(p[possible], rel=1e-7)
    assert process.block_entropy(length) == pytest.approx(-(p[possible] * np.log(p[possible])).sum(), rel=1e-7)
    assert process.block_entropy(0) == pytest.approx(0, abs=1e-12)
    for split in range(1, length):
        if isinstance(process, SantaFe) and split % process.step:
            continue
        joint = p.reshape(process.vocabulary**split, -1)
        assert process.bipartite_mi(split, length) == pytest.approx(mutual_information(joint), rel=1e-6, abs=1e-9)
        alone = joint.sum(1, keepdims=True) * joint.sum(0)
        with np.errstate(divide="ignore", invalid="ignore"):
            lautum = np.where(alone > 0, alone * np.log(alone / joint), 0).sum()
        assert process.lautum(split, length) == pytest.approx(lautum, rel=1e-6)


@pytest.mark.parametrize("process", [p for p in SMALL if p.two_point_mi(1) is not None], ids=name)
def test_two_point_information_and_unigram_agree_with_enumeration(process):
    p = table(process, 4).reshape((process.vocabulary,) * 4)
    assert process.unigram().numpy() == pytest.approx(p.sum((1, 2, 3)), rel=1e-6)
    assert process.two_point_mi(1) == pytest.approx(mutual_information(p.sum((2, 3))), rel=1e-5)
    assert process.two_point_mi(3) == pytest.approx(mutual_information(p.sum((1, 2))), rel=1e-5)


@pytest.mark.parametrize(
    "process", [SantaFe(0.6, 5), SantaFe(0.6, 5, "query"), SantaFe(0.6, 5, "query", values=4)], ids=name
)
def test_the_unigram_of_santa_fe_is_the_share_of_each_token(process):
    tokens = process.sample(50_000, 4, generator())
    share = torch.bincount(tokens.flatten(), minlength=process.vocabulary) / tokens.numel()
    assert process.unigram().sum() == pytest.approx(1)
    assert (share - process.unigram()).abs().max() < 5 * math.sqrt(
        0.25 / 50_000
    )  # tokens of one sequence are not independent


# ---- samples ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", SMALL, ids=name)
def test_samples_have_the_probabilities_of_the_process(process):
    "Chi-square of all sequences of three or four tokens, rare ones taken together."
    n, length = 40_000, 3 if process.vocabulary > 3 else 4
    tokens = process.sample(n, length, generator(1)).numpy()
    found = np.bincount(tokens @ process.vocabulary ** np.arange(length)[::-1], minlength=process.vocabulary**length)
    expected = n * table(process, length)
    assert found[expected < 1e-9].sum() == 0
    common = expected >= 20
    found, expected = (
        np.append(found[common], found[~common].sum()),
        np.append(expected[common], expected[~common].sum()),
    )
    keep = expected > 5
    chi2 = ((found - expected)[keep] ** 2 / expected[keep]).sum()
    assert stats.chi2.sf(chi2, keep.sum() - 1) > 1e-4


@pytest.mark.parametrize("process", LARGE, ids=name)
def test_the_mean_log_ratio_of_samples_is_the_exact_information(process):
    n, split, length = 3000, 40, 120
    tokens = process.sample(n, length, generator(2))
    assert (
        tokens.shape == (n, length)
        and tokens.dtype == torch.int64
        and 0 <= tokens.min()
        and tokens.max() < process.vocabulary
    )
    joint, (alone,) = process.logprobs(tokens, [Continuation(0, tokens[:, split:])])
    terms = (joint[:, split:] - alone).sum(1)
    assert joint.dtype == torch.float64
    assert abs(terms.mean() - process.bipartite_mi(split, length)) < 4.5 * terms.std() / math.sqrt(n)
    cost = -joint.sum(1)
    assert abs(cost.mean() - process.block_entropy(length)) < 4.5 * cost.std() / math.sqrt(n)


@pytest.mark.parametrize("process", LARGE, ids=name)
def test_later_parts_of_a_sequence_are_distributed_like_its_beginning(process):
    "Stationarity: the exact cost of a block is the same wherever it begins, in the mean."
    tokens = process.sample(4000, 60, generator(3))
    start, end = (process.token_logprobs(part).sum(1) for part in (tokens[:, :20], tokens[:, 40:]))
    assert abs((start - end).mean()) < 4.5 * (start - end).std() / math.sqrt(4000)


@pytest.mark.parametrize("process", LARGE, ids=name)
def test_the_same_seed_gives_the_same_windows_and_documents_differ(process):
    a, b, c = (process_windows(process, 30, 6, generator(seed)) for seed in (4, 4, 5))
    assert a.fingerprint == b.fingerprint != c.fingerprint
    assert (
        len(set(a.documents)) == 6
        and a.corpus_fingerprint == process.fingerprint
        and a.tokens.shape == a.chars.shape == (6, 30)
    )


def test_coins_of_two_values_leave_what_results_are_kept_under():
    assert repr(SantaFe(0.6, 200)) == "SantaFe(exponent=0.6, facts=200, rendering='fact')"
    assert SantaFe(0.6, 200).fingerprint == "89650b13b0a0f27b"
    assert repr(SantaFe(0.6, 200, values=4)) == "SantaFe(exponent=0.6, facts=200, rendering='fact', values=4)"


def test_fingerprints_tell_processes_and_scorers_apart():
    scorers = [
        *SMALL,
        *LARGE[:-1],
        Forgetful(SMALL[0], 0.5),
        Forgetful(SMALL[0], 0.5, 1.0),
        Truncated(SMALL[0], 2),
        Truncated(SMALL[0], 3),
        Opening(SMALL[0], 2),
        Mixed(SMALL[3], 0.1, (0.5, 0.5)),
        Mixed(SMALL[3], 0.1, (0.4, 0.6)),
    ]
    assert len({s.fingerprint for s in scorers}) == len(scorers)


@pytest.mark.parametrize("pairing", ["same-y", "paper"])
@pytest.mark.parametrize("process", [PolyaUrn(3, 0.5), Renewal(1.5), Purse((0.2, 0.6))], ids=name)
def test_the_estimators_find_their_limits(process, pairing):
    windows = process_windows(process, 48, 3000, generator(6))
    scores = measure_bipartite(process, windows, lengths=[4, 12, 48], ratios=[2, 4], batch_size=3000)
    for row in bipartite_mi(scores, pairing=pairing, draws=10).iter_rows(named=True):
        limit = process.limits(process, row["split"], row["length"])[row["method"]]
        assert abs(row["mi"] - limit) < 4.5 * row["stderr"], row


def test_vclub_with_the_exact_model_of_santa_fe_is_infinite():
    "Two strangers that agree by luck are rare in long sequences: the estimate is infinite like its limit."
    process = SantaFe(0.7, 50)
    assert process.limits(process, 32, 64)["vclub"] == math.inf
    tokens = process.sample(2, 64, generator())
    _, (crossed,) = process.logprobs(tokens, [Continuation(32, tokens.flip(0)[:, 32:])])
    assert (crossed.sum(1) == -math.inf).all() and not crossed.isnan().any()


# ---- properties ------------------------------------------------------------------------------------------------------

exponents, sizes = st.floats(0.05, 0.95), st.integers(1, 60)
processes = st.one_of(
    st.builds(SantaFe, exponents, st.integers(2, 500)),
    st.builds(PolyaUrn, st.integers(2, 6), st.floats(0.05, 5)),
    st.builds(Purse, st.lists(st.floats(0.02, 0.98), min_size=2, max_size=4, unique=True).map(tuple)),
    st.builds(Renewal, st.floats(1.05, 4)),
    st.builds(
        lambda rows: MarkovChain(tuple(tuple(np.array(r) / sum(r)) for r in rows)),
        st.lists(st.lists(st.floats(0.01, 1), min_size=3, max_size=3), min_size=3, max_size=3),
    ),
)
rounding = lambda process, length: 1e-11 * (1 + process.block_entropy(length))


@settings(max_examples=150, deadline=None)
@given(processes, sizes, sizes)
def test_information_is_symmetric_not_negative_and_below_both_entropies(process, n, m):
    value = process.bipartite_mi(n, n + m)
    assert value == pytest.approx(process.bipartite_mi(m, n + m), abs=rounding(process, n + m))
    assert (
        -rounding(process, n + m)
        <= value
        <= min(process.block_entropy(n), process.block_entropy(m)) + rounding(process, n + m)
    )
    assert value == pytest.approx(DiscreteProcess.bipartite_mi(process, n, n + m), abs=10 * rounding(process, n + m))


@settings(max_examples=150, deadline=None)
@given(processes, sizes, sizes)
def test_a_longer_part_never_knows_less(process, n, m):
    "Data processing: dropping tokens from X or Y is a function of it."
    value, slack = process.bipartite_mi(n, n + m), rounding(process, n + m + 1)
    assert process.bipartite_mi(n + 1, n + m + 1) >= value - slack
    assert process.bipartite_mi(n, n + m + 1) >= value - slack
    assert process.lautum(n, n + m) >= -slack


@settings(max_examples=60, deadline=None)
@given(processes, st.integers(1, 20))
def test_two_tokens_know_less_of_each_other_than_blocks_that_hold_them(process, distance):
    for split in {1, distance, (distance + 1) // 2}:
        assert process.two_point_mi(distance) <= process.bipartite_mi(split, distance + 1) + rounding(
            process, distance + 1
        )


@settings(max_examples=60, deadline=None)
@given(exponents, st.integers(2, 500), sizes, sizes)
def test_both_renderings_hold_the_same_information(exponent, facts, n, m):
    one, two = SantaFe(exponent, facts), SantaFe(exponent, facts, "query")
    assert (
        two.bipartite_mi(2 * n, 2 * (n + m)) == one.bipartite_mi(n, n + m) == two.bipartite_mi(2 * n, 2 * (n + m) + 1)
    )
    assert two.block_entropy(2 * n) == pytest.approx(one.block_entropy(n), rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(exponents, st.integers(2, 500), sizes, sizes)
def test_santa_fe_is_a_sum_over_distances(exponent, facts, n, m):
    process = SantaFe(exponent, facts)
    total = math.log(2) * pairs_at(n, n + m) @ latest_mention(process, n + m - 1)
    assert total == pytest.approx(process.bipartite_mi(n, n + m), rel=1e-9)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=7, max_size=7), min_size=1, max_size=4))
def test_mentions_agree_with_a_loop(rows):
    count, first, latest = mentions(torch.tensor(rows))
    for r, row in enumerate(rows):
        for i, item in enumerate(row):
            before = [j for j in range(i) if row[j] == item]
            assert (count[r, i], first[r, i], latest[r, i]) == (len(before), (before + [i])[0], ([-1] + before)[-1])


# ---- limits of scale -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exponent, facts, n", [(0.3, 10**4, 10**6), (0.5, 10**6, 10**6), (0.8, 10**6, 3 * 10**4)])
def test_santa_fe_tends_to_its_power_law(exponent, facts, n):
    process = SantaFe(exponent, facts)
    assert math.log2(process.bipartite_mi(2 * n, 4 * n) / process.bipartite_mi(n, 2 * n)) == pytest.approx(
        exponent, abs=0.01
    )
    power = math.log(2) * math.gamma(1 - exponent) * (2 - 2**exponent) * (n * process.probabilities[0]) ** exponent
    assert process.bipartite_mi(n, 2 * n) == pytest.approx(power, rel=0.02)


@pytest.mark.parametrize("colours, balls", [(2, 1.0), (2, 0.5), (5, 1.5)])
def test_the_urn_tends_to_its_logarithm(colours, balls):
    urn = PolyaUrn(colours, balls)
    assert urn.bipartite_mi(2**15, 2**16) - urn.bipartite_mi(2**14, 2**15) == pytest.approx(
        (colours - 1) / 2 * math.log(2), rel=0.02
    )


@pytest.mark.parametrize(
    "process, bound",
    [(Purse((0.2, 0.8)), math.log(2)), (Purse((0.1, 0.5, 0.9)), math.log(3)), (SantaFe(0.9, 8), 8 * math.log(2))],
    ids=name,
)
def test_bounds_are_reached(process, bound):
    assert process.bipartite_mi(2000, 4000) == pytest.approx(bound, rel=1e-6)


def test_renewals_approach_their_bound_slowly():
    "What is missing shrinks like a power of the length: doubling it divides the rest by 2^(tail - 1), but for a logarithm."
    for tail in (1.5, 2.0, 3.0):
        values = np.array([Renewal(tail).bipartite_mi(n, 2 * n) for n in (256, 512, 1024)])
        steps = np.diff(values)
        assert 0 < steps[1] < steps[0] and math.log2(steps[0] / steps[1]) == pytest.approx(tail - 1, abs=0.25)


def test_the_urn_and_the_purse_share_all_pairs_and_no_law():
    bias = math.sqrt(1 / 12)
    urn, purse = PolyaUrn(2), Purse((0.5 - bias, 0.5 + bias))
    assert urn.two_point_mi(7) == pytest.approx(purse.two_point_mi(7), rel=1e-12)
    assert urn.bipartite_mi(2000, 4000) > 4 * purse.bipartite_mi(2000, 4000)


# ---- worse scorers ---------------------------------------------------------------------------------------------------


def fact(forget=0.0, decay=0.0):
    return Forgetful(SantaFe(0.6, 2), forget, decay)


WORSE = [
    (fact(0.3), SantaFe(0.6, 2)),
    (fact(0.2, 0.7), SantaFe(0.6, 2)),
    (fact(0.0, 1.0), SantaFe(0.6, 2)),
    (Forgetful(SantaFe(0.6, 2, "query"), 0.3, 0.5), SantaFe(0.6, 2, "query")),
    (Truncated(PolyaUrn(2), 2), PolyaUrn(2)),
    (Truncated(Renewal(1.4), 1), Renewal(1.4)),
    (Truncated(SantaFe(0.6, 2), 1), SantaFe(0.6, 2)),
    (Forgetful(SantaFe(0.6, 2, values=3), 0.2, 0.7), SantaFe(0.6, 2, values=3)),
    (Truncated(CHAIN, 9), CHAIN),
    (Opening(PolyaUrn(2), 2), PolyaUrn(2)),
    (Mixed(PolyaUrn(2, 0.7), 0.3, (0.5, 0.5)), PolyaUrn(2, 0.7)),
    (Mixed(PolyaUrn(3), 0.2, (0.6, 0.2, 0.2)), PolyaUrn(3, 0.4)),
    (Opening(Purse((0.2, 0.6)), 1), Purse((0.2, 0.6))),
    (Opening(CHAIN, 2), CHAIN),
]


@pytest.mark.parametrize("scorer, process", WORSE, ids=name)
def test_limits_of_worse_scorers_agree_with_enumeration(scorer, process):
    "Every X, Y and X' of a small process, weighted with its exact probability."
    split, length = (2, 4) if process.vocabulary > 3 else (3, 6)
    p = table(process, length).reshape(process.vocabulary**split, -1)
    whole = torch.tensor(sequences(process, length))
    possible = torch.from_numpy(np.outer(p.sum(1), p.sum(0)).flatten() > 0)
    joint, alone = torch.full((len(whole),), -math.inf).double(), torch.zeros(len(whole)).double()
    joint[possible] = scorer.logprobs(whole[possible])[0][:, split:].sum(1)
    alone[possible] = scorer.logprobs(whole[possible][:, split:])[0].sum(1)
    joint, alone = joint.numpy().reshape(p.shape), alone.numpy().reshape(p.shape)
    mean = lambda weights, values: np.where(weights > 0, weights * values, 0).sum()
    with np.errstate(invalid="ignore"):
        found = {"direct": mean(p, joint - alone), "vclub": mean(p, joint) - mean(np.outer(p.sum(1), p.sum(0)), joint)}
    limits = scorer.limits(process, split, length)
    assert limits["direct"] == pytest.approx(found["direct"], rel=1e-6)
    assert "vclub" not in limits or limits["vclub"] == pytest.approx(found["vclub"], rel=1e-6)


@pytest.mark.parametrize(
    "urn, learner",
    [(PolyaUrn(2), PolyaUrn(2, 7.0)), (PolyaUrn(3, 0.3), PolyaUrn(3, 2.0)), (PolyaUrn(3, 2.0), PolyaUrn(3, 0.3))],
)
def test_limits_of_a_learner_agree_with_enumeration(urn, learner):
    p, whole = table(urn, 5).reshape(urn.colours**2, -1), torch.tensor(sequences(urn, 5))
    joint, alone = (
        learner.logprobs(whole)[0][:, 2:].sum(1).numpy().reshape(p.shape),
        learner.logprobs(whole[:, 2:])[0].sum(1).numpy().reshape(p.shape),
    )
    limits = learner.limits(urn, 2, 5)
    assert limits["direct"] == pytest.approx((p * (joint - alone)).sum(), rel=1e-9)
    assert limits["vclub"] == pytest.approx(((p - np.outer(p.sum(1), p.sum(0))) * joint).sum(), rel=1e-9)
    assert urn.limits(urn, 2, 5) == pytest.approx(
        {"direct": urn.bipartite_mi(2, 5), "vclub": urn.bipartite_mi(2, 5) + urn.lautum(2, 5)}, rel=1e-9
    )


def test_a_slow_learner_makes_the_direct_estimate_too_large_and_too_steep():
    urn, lengths = PolyaUrn(4, 0.25), (16, 64, 256)
    exact, slow = (
        [limits["direct"] for limits in many]
        for many in (
            [urn.limits(urn, n // 2, n) for n in lengths],
            [PolyaUrn(4, 16.0).limits(urn, n // 2, n) for n in lengths],
        )
    )
    assert slow[2] > 3 * exact[2] and slow[2] / slow[0] > 4 * exact[2] / exact[0]


SCORERS = [
    *SMALL[:2],
    *SMALL[3:-1],
    *[scorer for scorer, _ in WORSE if "queries" not in scorer.name],
    Mixed(SantaFe(0.6, 2), 0.2, (0.25,) * 4),
    Mixed(Truncated(PolyaUrn(2), 3), 0.5, (0.3, 0.7)),
    Truncated(Mixed(Renewal(1.5), 0.1, (0.6, 0.4)), 2),
]


@pytest.mark.parametrize("scorer", SCORERS, ids=name)
def test_every_scorer_is_a_distribution(scorer):
    "After any possible beginning the probabilities of all next tokens add up to one."
    process = scorer
    while not isinstance(process, DiscreteProcess):
        process = getattr(process, "process", None) or process.scorer
    start = process.sample(20, 5, generator(7))
    following = torch.cat(
        [start.repeat_interleave(scorer.vocabulary, 0), torch.arange(scorer.vocabulary).repeat(20)[:, None]], 1
    )
    chances = scorer.logprobs(following)[0][:, -1].exp().view(20, scorer.vocabulary)
    assert torch.allclose(chances.sum(1), torch.ones(20).double())


def test_mixing_santa_fe_with_its_unigram_is_forgetting():
    process = SantaFe(0.7, 40)
    mixed = Mixed(process, 0.3, tuple(process.unigram().tolist()))
    tokens = process.sample(50, 60, generator(8))
    continuations = [Continuation(0, tokens[:, 30:]), Continuation(30, tokens.roll(1, 0)[:, 30:])]
    for a, b in zip(
        *(flat for flat in ([s.logprobs(tokens, continuations)] for s in (mixed, Forgetful(process, 0.3))))
    ):
        assert torch.allclose(a[0], b[0]) and all(torch.allclose(x, y) for x, y in zip(a[1], b[1]))


@pytest.mark.parametrize("window", [1, 4, 30])
def test_a_truncated_scorer_reads_each_window_anew(window, monkeypatch):
    monkeypatch.setattr("l2m.readers._TOKENS_AT_ONCE", 50)
    urn, tokens = PolyaUrn(4, 0.3), PolyaUrn(4, 0.3).sample(6, 20, generator(9))
    naive = torch.stack([urn.token_logprobs(tokens[:, max(0, t - window) : t + 1])[:, -1] for t in range(20)], 1)
    assert torch.equal(Truncated(urn, window).logprobs(tokens)[0], naive)


def test_even_forgetting_leaves_the_exponent_and_distance_takes_it():
    process = SantaFe(0.8, 10**4)
    slope = lambda values: np.polyfit(np.log([64, 256, 1024]), np.log(values), 1)[0]
    exact = slope([process.bipartite_mi(n // 2, n) for n in (64, 256, 1024)])
    for reader, method, low, high in [
        (Forgetful(process, 0.6), "direct", 0, 1e-9),
        (Forgetful(process, 0.6), "vclub", 0, 1e-9),
        (Forgetful(process, 0.1, 0.3), "direct", 0.15, 0.3),
        (Forgetful(process, 0.1, 0.3), "vclub", 0.15, 0.35),
    ]:
        assert low - 1e-9 <= exact - slope([reader.limits(process, n // 2, n)[method] for n in (64, 256, 1024)]) <= high


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong, message",
    [
        (lambda: SantaFe(0.0, 10), "exponent 0.0 is not between 0 and 1"),
        (lambda: SantaFe(1.0, 10), "exponent 1.0 is not between 0 and 1"),
        (lambda: SantaFe(math.nan, 10), "exponent is nan, expected a finite number"),
        (lambda: SantaFe(0.5, 1), "facts = 1: choose a whole number >= 2"),
        (lambda: SantaFe(0.5, 10, "prose"), "rendering 'prose' is unknown: choose 'fact' or 'query'"),
        (lambda: SantaFe(0.5, 10, values=1), "values = 1: choose a whole number of sides >= 2"),
        (lambda: PolyaUrn(1), "colours 1 and balls 1.0: choose at least 2 colours"),
        (lambda: PolyaUrn(2, 0.0), "a positive number of balls"),
        (lambda: Purse((0.5,)), "at least two different probabilities"),
        (lambda: Purse((0.5, 0.5)), "at least two different probabilities"),
        (lambda: Purse((0.5, 1.0)), "between 0 and 1"),
        (lambda: Renewal(1.0), "choose a finite tail > 1"),
        (lambda: MarkovChain(((0.5, 0.6), (0.5, 0.5))), "rows of probabilities that add up to 1"),
        (lambda: MarkovChain(((1.0, 0.0), (0.0, 1.0))), "parts that never meet"),
        (
            lambda: SantaFe(0.5, 10).bipartite_mi(0, 4),
            "split 0 lies outside the block of 4 tokens: choose 1 <= split <= length - 1",
        ),
        (lambda: Renewal(1.5).bipartite_mi(4, 4), "split 4 lies outside the block of 4 tokens"),
        (lambda: PolyaUrn(2).bipartite_mi(-1, 4), "split -1 lies outside"),
        (lambda: CHAIN.lautum(5, 4), "split 5 lies outside"),
        (
            lambda: SantaFe(0.5, 10, "query").bipartite_mi(3, 8),
            "split 3 cuts a question from its answer: choose an even split",
        ),
        (
            lambda: SantaFe(0.5, 10, "query").logprobs(torch.tensor([[10, 3, 11]])),
            "alternates questions and answers, a question first",
        ),
        (
            lambda: SantaFe(0.5, 10).logprobs(torch.tensor([[20]])),
            "token id 20 is not in the vocabulary of 'Santa Fe 0.5, 10 facts' \\(20 tokens\\)",
        ),
        (lambda: PolyaUrn(2).logprobs(torch.tensor([[0, -1]])), "token id -1 is not in the vocabulary"),
        (lambda: PolyaUrn(2).logprobs(torch.tensor([0, 1])), "expected token ids \\[batch, n\\]"),
        (lambda: PolyaUrn(2).logprobs(torch.zeros(1, 2)), "expected token ids \\[batch, n\\]"),
        (lambda: Forgetful(SantaFe(0.5, 10), 1.0), "choose 0 <= forget < 1"),
        (lambda: Forgetful(SantaFe(0.5, 10), 0.1, -1.0), "decay >= 0"),
        (lambda: Truncated(PolyaUrn(2), 0), "choose window >= 1"),
        (lambda: Opening(PolyaUrn(2), 0), "choose at least one place"),
        (lambda: Opening(PolyaUrn(2), 3).limits(PolyaUrn(2), 2, 6), "split 2 lies inside the opening of 3 tokens"),
        (lambda: PolyaUrn(3).limits(PolyaUrn(2), 2, 4), "give both urns the same colours"),
        (lambda: Mixed(PolyaUrn(2), 1.0, (0.5, 0.5)), "choose 0 < weight < 1"),
        (lambda: Mixed(PolyaUrn(3), 0.5, (0.5, 0.5)), "one positive frequency for each of the 3 tokens"),
    ],
)
def test_bad_input_gets_one_clear_error(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


def test_a_process_must_say_everything():
    class Nameless(DiscreteProcess):
        token_logprobs = sample = block_entropy = lautum = None

    with pytest.raises(TypeError, match="unigram"):
        Nameless()
