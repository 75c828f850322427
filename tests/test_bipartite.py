"Bipartite estimates against exact truth, against an independent computation, and under kills."

import errno
import math
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from threading import Event, active_count

import numpy as np
import polars as pl
import pytest
import torch
from scipy.special import betaln, comb
from transformers import LlamaConfig, LlamaForCausalLM

from l2m.bipartite import (
    BipartiteScores,
    blocks,
    groups_of,
    load_scores,
    measure_bipartite,
    tokens_read,
)
from l2m.code_length import code_length
from l2m.estimators import BlockEntropies, Direct, NgramCorrected, VClub, bipartite_mi, bipartite_terms
from l2m.interface import Needs
from l2m.passes import Progress
from l2m.scoring import LanguageModel
from l2m.stores import Damaged, Store, Unfinished
from l2m.windows import Windows


def windows_of(tokens, documents=None, chars=None):
    n = len(tokens)
    return Windows(
        tokens=tokens,
        documents=documents or [str(i) for i in range(n)],
        starts=[0] * n,
        chars=torch.ones_like(tokens, dtype=torch.int32) if chars is None else chars,
        corpus="test",
        corpus_fingerprint="0",
        tokenizer="ids",
    )


class PolyaUrn:
    "The exact model of Pólya's urn with one white (1) and one black (0) ball."

    name, fingerprint, vocabulary, bos, context_limit = "urn", "exact", 2, None, None

    def provenance(self):
        return {"by": "hand"}

    def logprobs(self, contexts, continuations=()):
        whole = [torch.cat([contexts[:, : c.split], c.tokens], 1) for c in continuations]
        return self.nats(contexts), [self.nats(w)[:, c.split :] for w, c in zip(whole, continuations)]

    def nats(self, tokens):
        columns, white = [], torch.zeros(len(tokens), dtype=torch.float64)
        for t in range(tokens.shape[1]):
            is_white = tokens[:, t] == 1
            columns.append(torch.log((1 + torch.where(is_white, white, t - white)) / (2 + t)))
            white = white + is_white
        return torch.stack(columns, 1)


def urn_windows(n, length, seed):
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(n, 1, generator=generator)
    return windows_of((torch.rand(n, length, generator=generator) < share).long())


def urn_truth(split, length):
    "Exact I(X;Y) and KL(p_X p_Y || p_XY), by summing over the counts of white balls in X and Y."
    mutual, lautum = 0.0, 0.0
    log_p = lambda k, n: betaln(1 + k, 1 + n - k)
    for i, j in product(range(split + 1), range(length - split + 1)):
        ways = comb(split, i) * comb(length - split, j)
        ratio = log_p(i + j, length) - log_p(i, split) - log_p(j, length - split)
        mutual += ways * np.exp(log_p(i + j, length)) * ratio
        lautum -= ways * np.exp(log_p(i, split) + log_p(j, length - split)) * ratio
    return {"direct": mutual, "vclub": mutual + lautum}


@pytest.mark.parametrize("pairing", ["same-y", "paper"])
def test_the_truth_lies_within_the_error(pairing):
    scores = measure_bipartite(
        PolyaUrn(), urn_windows(4000, 48, seed=1), lengths=[4, 12, 48], ratios=[2, 3, 4], batch_size=4000
    )
    for row in bipartite_mi(scores, pairing=pairing).iter_rows(named=True):
        truth = urn_truth(row["split"], row["length"])[row["method"]]
        assert abs(row["mi"] - truth) < 4.5 * row["stderr"], row
        assert row["groups"] == 2000 and row["n"] == (4000 if pairing == "same-y" else 2000)


def test_standard_errors_are_the_deviation_over_repeated_draws():
    "300 draws of 64 windows: z-scores have unit variance, intervals cover."
    zs = {"direct": [], "vclub": []}
    for seed in range(300):
        scores = measure_bipartite(PolyaUrn(), urn_windows(64, 16, seed), lengths=[16], batch_size=64)
        for row in bipartite_mi(scores, draws=10).iter_rows(named=True):
            zs[row["method"]].append((row["mi"] - urn_truth(8, 16)[row["method"]]) / row["stderr"])
    for z in map(np.array, zs.values()):
        assert (
            0.9 < z.std() < 1.2
        )  # t with 31 degrees of freedom has 1.03; the error of a deviation over 300 draws is 4 %
        assert 0.90 < np.mean(np.abs(z) < 2.04) < 0.99


def test_bootstrap_draws_have_the_standard_error_and_move_together():
    scores = measure_bipartite(PolyaUrn(), urn_windows(400, 32, 3), lengths=[16, 32], batch_size=400)
    rows = bipartite_mi(scores, draws=4000).filter(method="direct")
    draws = np.stack(rows["replicates"].to_numpy())
    assert np.allclose(draws.std(1), rows["stderr"], rtol=0.06)
    assert np.corrcoef(draws)[0, 1] > 0.3
    sums = np.array(
        [np.bincount(scores.group[w], t) for w, t in (bipartite_terms(scores, L // 2, L) for L in (16, 32))]
    )
    assert np.corrcoef(draws)[0, 1] == pytest.approx(np.corrcoef(sums)[0, 1], abs=0.06)


def test_windows_of_one_document_count_as_one():
    "Every document twice: the estimate stays, the standard error does not shrink."
    once = urn_windows(200, 16, 5)
    twice = windows_of(once.tokens.repeat(2, 1), once.documents * 2)
    a, b = (bipartite_mi(measure_bipartite(PolyaUrn(), w, lengths=[16], batch_size=400)) for w in (once, twice))
    assert np.allclose(a["mi"], b["mi"]) and np.allclose(a["stderr"], b["stderr"]) and (b["n"] == 400).all()


def test_every_window_counts_once_when_documents_differ_in_length():
    "Long documents with one process, short ones with another: the estimate is the mean over windows, whoever the partners are."

    class Two(PolyaUrn):  # every token of a window that begins with 1 costs more alone than it does in its place
        def logprobs(self, contexts, continuations=()):
            joint = torch.zeros(contexts.shape, dtype=torch.float64)
            return joint, [-(c.tokens[:, :1] * 4.0 + 1).expand(c.tokens.shape).double() for c in continuations]

    documents = [f"long{i}" for i in range(4) for _ in range(5)] + [f"short{i}" for i in range(4)]
    tokens = torch.tensor([[1] * 4 if d.startswith("long") else [0] * 4 for d in documents])
    table = bipartite_mi(measure_bipartite(Two(), windows_of(tokens, documents), lengths=[4]))
    assert table["mi"].to_list() == pytest.approx([2 * (20 * 5 + 4 * 1) / 24] * 2) and (table["n"] == 24).all()


def test_numpy_lengths_in_any_order_are_the_same_work(tmp_path):
    a = measure_bipartite(PolyaUrn(), urn_windows(8, 16, 0), lengths=np.array([16, 4]), store=tmp_path)
    b = measure_bipartite(PolyaUrn(), urn_windows(8, 16, 0), lengths=[4, 16], store=tmp_path)
    assert bipartite_mi(a).equals(bipartite_mi(b))


# Against an independent computation with a language model


@pytest.fixture(scope="module")
def llama():
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=60,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
        )
    ).double()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.mul_(4)
    return LanguageModel(model, None, "llama", 0)


def llama_windows(n=10, length=24):
    generator = torch.Generator().manual_seed(7)
    documents = [f"d{i % (n // 2)}" for i in range(n)]
    return windows_of(
        torch.randint(60, (n, length), generator=generator),
        documents,
        torch.randint(1, 7, (n, length), generator=generator, dtype=torch.int32),
    )


@torch.inference_mode()
def nats(scorer, x, y):
    "log q(y | BOS, x) by one call of the model."
    ids = torch.cat([torch.tensor([scorer.bos]), x, y])[None]
    table = scorer.model(ids, use_cache=False).logits.log_softmax(-1)[0]
    return sum(table[t - 1, ids[0, t]].item() for t in range(1 + len(x), ids.shape[1]))


@pytest.mark.parametrize("shuffles", [1, 2])
def test_estimates_equal_plain_averages(llama, shuffles):
    windows, none = llama_windows(n=12), torch.empty(0, dtype=torch.long)
    scores = measure_bipartite(llama, windows, lengths=[4, 24], ratios=[2, 3], shuffles=shuffles, batch_size=5)
    table = bipartite_mi(scores, [Direct(), VClub(), NgramCorrected(5.0, 0.25)])
    t = windows.tokens
    for ratio, L, s in blocks([4, 24], [2, 3]).iter_rows():
        direct, corrected, vclub = [], [], []
        for i in range(12):
            for j in scores.partners[i]:
                assert windows.documents[i] != windows.documents[j]
                joint, alone = nats(llama, t[j, :s], t[j, s:L]), nats(llama, none, t[j, s:L])
                direct.append(joint - alone)
                corrected.append(joint - alone + 0.25 * (5.0 + nats(llama, none, t[j, s : s + 2])))
                vclub.append(joint - nats(llama, t[i, :s], t[j, s:L]))
        for method, terms in {"direct": direct, "direct-ngram": corrected, "vclub": vclub}.items():
            row = table.row(
                by_predicate=(pl.col("method") == method) & (pl.col("ratio") == ratio) & (pl.col("length") == L),
                named=True,
            )
            assert row["mi"] == pytest.approx(np.mean(terms), abs=1e-5)


def test_the_paper_pairing_takes_the_terms_from_two_documents(llama):
    windows, none = llama_windows(), torch.empty(0, dtype=torch.long)
    scores = measure_bipartite(llama, windows, lengths=[24])
    t, direct, vclub = windows.tokens, [], []
    first = {}
    for i, document in enumerate(windows.documents):
        if first.setdefault(scores.group[i], document) != document:
            continue
        j = scores.partners[i, 0]
        joint = nats(llama, t[i, :12], t[i, 12:])
        direct.append(joint - nats(llama, none, t[j, 12:]))
        vclub.append(joint - nats(llama, t[i, :12], t[j, 12:]))
    table = bipartite_mi(scores, pairing="paper")
    assert table.filter(method="direct")["mi"].item() == pytest.approx(np.mean(direct), abs=1e-5)
    assert table.filter(method="vclub")["mi"].item() == pytest.approx(np.mean(vclub), abs=1e-5)


def test_tokens_are_counted_and_few():
    scores = measure_bipartite(PolyaUrn(), urn_windows(8, 1024, 0), lengths=[2**k for k in range(2, 11)])
    assert scores.tokens_per_pair == 1024 + 2 * sum(2**k for k in range(1, 10)) <= 3.2 * 1024


def test_code_length_counts_every_token_once(llama):
    windows = llama_windows()
    scores = measure_bipartite(llama, windows, lengths=[24])
    curve = code_length(scores)
    assert curve["context_from"].to_list() == [0, 1, 2, 4, 8, 16] and curve["context_to"].to_list() == [
        0,
        1,
        3,
        7,
        15,
        23,
    ]
    assert (curve["nll"] * curve["n"]).sum() == pytest.approx(-scores.joint.sum())
    last = scores.joint[:, 16:24]
    assert curve["nll"][-1] == pytest.approx(-last.mean())
    assert curve["nll_per_char"][-1] == pytest.approx(-last.sum() / scores.chars[:, 16:24].sum())
    assert curve["q50"][-1] == pytest.approx(np.median(-last))
    before = np.array([[row[:t].sum() for t in range(16, 24)] for row in scores.chars])
    assert curve["context_chars"][-1] == pytest.approx(before.mean())


# Groups, faults and bad input


@pytest.mark.parametrize(
    "documents, shuffles",
    [(list("abcdef"), 1), (list("abcdefg"), 2), (list("aabbccdd"), 1), (list("abcdabab"), 1), (list("abcdefghabc"), 3)],
)
def test_groups_share_no_document(documents, shuffles):
    group, partners = groups_of(documents, shuffles)
    for i, d in enumerate(documents):
        assert len({documents[j] for j in partners[i]} | {d}) == shuffles + 1  # partners' documents all differ
        assert {group[j] for j in partners[i]} == {group[i]}  # and stay inside the group
    assert all(len({group[i] for i, d in enumerate(documents) if d == name}) == 1 for name in set(documents))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(lengths=[64]), "length 64 is longer than the windows"),
        (dict(lengths=[]), "give at least one"),
        (dict(lengths=[1]), "shorter than the ratio 2"),
        (dict(lengths=[8.0]), "whole numbers"),
        (dict(lengths=[True, 8]), "whole numbers"),
        (dict(lengths=[8], shuffles=1.0), "shuffles is 1.0, expected a whole number, at least 0: write 1"),
        (dict(lengths=[8], world_size=2), "2 processes need a store"),
        (dict(lengths=[8], ratios=[1]), "ratios >= 2"),
        (dict(lengths=[8], shuffles=-1), "shuffles is -1, expected a whole number, at least 0"),
        (dict(lengths={8: 11}), "11 windows at length 8"),
        (dict(lengths={8: 1}), "1 windows at length 8"),
        (dict(lengths={8: 4.0}), r"lengths is \{8: 4.0\}, expected .* a dict of whole numbers to whole numbers"),
        (dict(lengths={4: 10, 8: 2}), "first 2 windows, scored at length 8, come from one group"),
        (dict(lengths=[8], shuffles=5), "at least 12 documents"),
        (dict(lengths=[8], rank=2, world_size=2), "rank 2 is not one of 2"),
        (dict(lengths=[8], rank=-1, world_size=2), "rank -1 is not one of 2"),
        (dict(lengths=8), r"lengths is 8, expected a list of whole numbers.*: write \[8\]"),
        (dict(lengths="8"), "lengths is '8', expected a list of whole numbers"),
        (dict(lengths=None), "lengths is None"),
        (dict(lengths={8}), "expected a list of whole numbers"),
        (dict(lengths=[8, float("nan")]), "expected a list of whole numbers"),
        (dict(lengths=np.array([[8]])), r"lengths is a numpy.ndarray of shape \(1, 1\)"),
        (dict(lengths={8.0: 4}), "a dict of whole numbers"),
        (dict(lengths=[8], ratios=2), r"ratios is 2, expected a list of whole numbers: write \[2\]"),
        (dict(lengths=[8], ratios=[]), "give at least one of each"),
        (dict(lengths=[-8]), "length -8 is shorter than the ratio 2"),
        (dict(lengths=[10**18]), "is longer than the windows"),
        (dict(lengths=[8], shuffles="1"), "shuffles is '1'"),
        (dict(lengths=[8], shuffles=True), "shuffles is True"),
        (dict(lengths=[8], batch_size=0), "batch_size is 0, expected a whole number, at least 1"),
        (dict(lengths=[8], batch_size=2.5), "batch_size is 2.5"),
        (dict(lengths=[8], rank=0.0), "rank is 0.0"),
        (dict(lengths=[8], world_size=0), "world_size is 0"),
        (dict(lengths=[8], store=3), "store is 3, expected text or a Path or None"),
        (dict(lengths=[8], store=""), "a store needs a folder"),
    ],
)
def test_bad_input_is_one_clear_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        measure_bipartite(PolyaUrn(), urn_windows(10, 16, 0), **arguments)


def test_a_window_longer_than_the_context_is_refused_before_scoring(llama):
    windows = windows_of(torch.zeros(4, 66, dtype=torch.long))
    with pytest.raises(ValueError, match="length 66 exceeds the 64-token context of 'llama': choose lengths <= 64"):
        measure_bipartite(llama, windows, lengths=[66])
    assert measure_bipartite(llama, windows, lengths=[64]).joint.shape == (4, 64)


# Fewer passes, and more windows where they are cheap


def test_without_partners_the_direct_terms_are_the_same():
    windows = urn_windows(60, 32, 2)
    both, direct = (measure_bipartite(PolyaUrn(), windows, lengths=[8, 32], shuffles=k) for k in (1, 0))
    for split, length in ((4, 8), (16, 32)):
        (rows, terms), (again, more) = (bipartite_terms(scores, split, length) for scores in (both, direct))
        assert rows.tolist() == again.tolist() == list(range(60))
        assert np.allclose(terms, more)
    assert set(bipartite_mi(direct)["method"]) == {"direct"}
    table = bipartite_mi(direct, [Direct(), NgramCorrected(1.0)])
    assert (
        set(table["method"]) == {"direct", "direct-ngram"} and (table["groups"] == 60).all()
    )  # every document stands alone
    assert direct.tokens_scored == 60 * (32 + 20) and both.tokens_scored == 60 * (32 + 40)
    for wrong in (dict(pairing="paper"), dict(one_way=True)):
        with pytest.raises(ValueError, match="needs partners"):
            bipartite_mi(direct, **wrong)


@pytest.mark.parametrize("needs", [Needs(False, 0), Needs(False, 1), Needs(False, 2), Needs(True, 2)])
def test_passes_that_nobody_needs_are_not_scored(needs, tmp_path):
    windows, asked = urn_windows(60, 32, 2), []

    class Counting(PolyaUrn):
        def logprobs(self, contexts, continuations=()):
            asked.append(contexts.numel() + sum(c.tokens.numel() for c in continuations))
            return super().logprobs(contexts, continuations)

    options = dict(lengths=[8, 32], store=tmp_path, **needs._asdict())
    some, whole = (
        measure_bipartite(Counting(), windows, **options),
        measure_bipartite(PolyaUrn(), windows, lengths=[8, 32], shuffles=needs.shuffles),
    )
    assert (
        some.passes == load_scores(tmp_path).passes == needs
        and bool(some.alone) == needs.alone
        and bool(some.crossed) == bool(needs.shuffles)
    )
    assert some.tokens_scored == 60 * some.tokens_per_pair == sum(asked) == 60 * (
        32 + 20 * (needs.alone + needs.shuffles)
    ) and some.tokens_per_pair == tokens_read(some.blocks, needs)
    estimators = [BlockEntropies(), VClub(needs.shuffles)] if needs.shuffles else [BlockEntropies()]
    assert bipartite_mi(some, estimators).equals(bipartite_mi(whole, estimators))
    if not needs.alone:
        with pytest.raises(ValueError, match="alone: False there, 'nothing' now"):
            measure_bipartite(PolyaUrn(), windows, **options | dict(alone=True))
        with pytest.raises(
            ValueError, match="'direct' needs Y read alone, which was not scored: measure with alone=True"
        ):
            bipartite_mi(some, [Direct()])


def test_the_manifest_names_passes_only_where_they_are_not_the_usual_ones(tmp_path):
    "So stores from before there was a choice are read, and filled, as they were."
    for alone in (True, False):
        measure_bipartite(PolyaUrn(), urn_windows(8, 8, 0), lengths=[8], alone=alone, store=tmp_path / str(alone))
    there, changed = (Store.open(tmp_path / str(alone)).parameters for alone in (True, False))
    assert "alone" not in there and changed == there | {"alone": False}


def test_scores_carry_the_tokens_they_are_of(tmp_path):
    windows = urn_windows(12, 16, 0)
    for scores in (measure_bipartite(PolyaUrn(), windows, lengths=[4, 8], store=tmp_path), load_scores(tmp_path)):
        assert isinstance(scores, BipartiteScores) and (scores.token_ids == windows.tokens[:, :8].numpy()).all()


@pytest.mark.parametrize("shuffles", [0, 1, 2])
def test_lengths_with_windows_of_their_own(shuffles, tmp_path):
    "A length scored on the first so many windows gives what a measurement of these windows alone gives."
    windows = urn_windows(60, 64, 4)
    scores = measure_bipartite(
        PolyaUrn(), windows, lengths={4: 60, 16: 31, 64: 12}, shuffles=shuffles, batch_size=5, store=tmp_path
    )
    table = bipartite_mi(scores).sort("length", "method")
    for length, count in {4: 60, 16: 30 if shuffles else 31, 64: 12}.items():
        some = windows_of(windows.tokens[:count], windows.documents[:count])
        alone = bipartite_mi(measure_bipartite(PolyaUrn(), some, lengths=[length], shuffles=shuffles)).sort(
            "length", "method"
        )
        here = table.filter(length=length)
        assert here["n"].to_list() == alone["n"].to_list() == [count] * len(here)
        assert here["groups"].to_list() == alone["groups"].to_list() == [count // (shuffles + 1)] * len(here)
        assert here["mi"].to_list() == pytest.approx(alone["mi"].to_list()) and here[
            "stderr"
        ].to_list() == pytest.approx(alone["stderr"].to_list())
    passes = 1 + shuffles
    assert scores.tokens_scored == 60 * (4 + 2 * passes) + 31 * (12 + 8 * passes) + 12 * (48 + 32 * passes)
    assert bipartite_mi(load_scores(tmp_path)).sort("length", "method").equals(table)
    assert np.isclose(code_length(scores)["n"].sum(), 12 * 64)


def test_draws_of_unequal_counts_have_the_standard_errors_and_move_together():
    scores = measure_bipartite(
        PolyaUrn(), urn_windows(400, 32, 3), lengths={16: 400, 32: 100}, shuffles=0, batch_size=400
    )
    rows = bipartite_mi(scores, draws=4000)
    draws = np.stack(rows["replicates"].to_numpy())
    assert np.isfinite(draws).all() and np.allclose(draws.std(1), rows["stderr"], rtol=0.06)
    short, long = (bipartite_terms(scores, L // 2, L)[1] for L in (16, 32))
    expected = (
        np.cov(short[:100], long)[0, 1] / 400 / np.prod(rows["stderr"].to_list())
    )  # only the windows that both lengths share
    assert np.corrcoef(draws)[0, 1] == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize("count", [5, 6, 7])
def test_no_draw_is_without_the_longest_block(count):
    "A window whose partner was not read so far counts for nothing there, and its group is no substitute for one that does"
    windows = urn_windows(60, 16, 4)
    scores = measure_bipartite(PolyaUrn(), windows, lengths={4: 60, 16: count}, batch_size=60)
    table = bipartite_mi(scores, draws=4000)
    assert np.isfinite(np.stack(table["replicates"].to_numpy())).all()
    longest = table.filter(length=16)
    assert longest["groups"].to_list() == [count // 2] * 2 and longest["n"].to_list() == [count // 2 * 2] * 2
    shrunk = np.sqrt((count // 2 - 1) / (count // 2))  # draws of few groups are too narrow by this
    for row in longest.iter_rows(named=True):
        assert np.std(row["replicates"]) == pytest.approx(shrunk * row["stderr"], rel=0.05)


def test_shorter_windows_are_read_in_larger_batches(tmp_path):
    "As many more as their longest block is shorter; with one count for all lengths a batch is what it says"
    windows, size = urn_windows(80, 64, 4), lambda key: len(set(Store.open(tmp_path / key[0]).read(key[1])["window"]))
    measure_bipartite(PolyaUrn(), windows, lengths={8: 80, 32: 20, 64: 6}, batch_size=2, store=tmp_path / "some")
    keys = [key for key in Store.open(tmp_path / "some").keys() if key != "windows"]
    assert [size(("some", key)) for key in keys] == [2, 2, 2, 4, 4, 4, 2, 16, 16, 16, 12]
    measure_bipartite(PolyaUrn(), windows, lengths=[8, 64], batch_size=2, store=tmp_path / "all")
    assert {size(("all", key)) for key in Store.open(tmp_path / "all").keys() if key != "windows"} == {2}


def test_progress_says_what_is_there_and_goes_on_where_it_was(tmp_path, monkeypatch):
    "After every shard: what was scored so far, equal to the end where it is there, and NaN where it is not"
    monkeypatch.setattr("l2m.passes.EVERY", 0.0)
    options = dict(lengths={4: 12, 16: 6}, batch_size=2, store=tmp_path)
    parts, windows = [], urn_windows(12, 16, 4)
    scores = measure_bipartite(PolyaUrn(), windows, **options, watch=lambda part: parts.append(part) or "so far")
    assert [int((~np.isnan(part.joint[:, 0])).sum()) for part in parts] == [2, 4, 6, 12]
    for part in parts:
        for name in ("joint", "alone", "crossed"):
            for some, all_ in zip(
                *([x] if name == "joint" else x.values() for x in (getattr(part, name), getattr(scores, name)))
            ):
                assert some.shape == all_.shape and (np.isnan(some) | (some == all_)).all()
    assert parts[-1].tokens_scored == scores.tokens_scored and (parts[-1].partners == scores.partners).all()
    for key in ("scores-000002", "scores-000006"):
        next(tmp_path.glob(f"{key}*")).unlink()
    again = []
    measure_bipartite(PolyaUrn(), windows, **options, watch=lambda part: again.append(part) or "")
    assert [part.tokens_scored for part in again] == [scores.tokens_scored - 6 * 8, scores.tokens_scored]


def test_progress_moves_while_nothing_is_finished(monkeypatch):
    monkeypatch.setattr("l2m.passes.EVERY", 0.01)
    shown = Event()
    monkeypatch.setattr("l2m.passes.tqdm.refresh", lambda bar, **_: shown.set())
    with Progress(None, {}).bar(10, 0) as bar:
        assert shown.wait(10) and bar.n == 0
    before = active_count()
    with pytest.raises(KeyError), Progress(None, {}).bar(10, 0):
        raise KeyError("the work failed")
    assert active_count() <= before


def test_counts_are_part_of_the_store(tmp_path):
    measure_bipartite(PolyaUrn(), urn_windows(8, 8, 0), lengths={4: 8, 8: 6}, store=tmp_path)
    with pytest.raises(ValueError, match="windows_of_blocks"):
        measure_bipartite(PolyaUrn(), urn_windows(8, 8, 0), lengths=[4, 8], store=tmp_path)


def test_nan_names_the_windows():
    class Broken(PolyaUrn):
        def nats(self, tokens):
            return super().nats(tokens) * float("nan")

    with pytest.raises(FloatingPointError, match="'urn' returned NaN for windows 0…7"):
        measure_bipartite(Broken(), urn_windows(16, 8, 0), lengths=[8])


class Wrong(PolyaUrn):
    "Returns something else than it was asked for."

    def __init__(self, change):
        self.change = change

    def logprobs(self, contexts, continuations=()):
        return self.change(*super().logprobs(contexts, continuations))


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda joint, others: (joint, others[:-1]),
            r"'urn' returned log-probabilities of shapes \[\(8, 8\), \(8, 4\)\], expected",
        ),
        (lambda joint, others: (joint[:, 1:], others), r"of shapes \[\(8, 7\)"),
        (lambda joint, others: (joint[:1], others), r"of shapes \[\(1, 8\)"),
        (
            lambda joint, others: (-joint, others),
            r"returned a log-probability of .* nats for windows 0…7 \(joint, split 0\): a probability is at most 1",
        ),
        (lambda joint, others: (joint.exp(), others), "a probability is at most 1"),
    ],
)
def test_what_is_no_table_of_logprobs_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        measure_bipartite(Wrong(change), urn_windows(16, 8, 0), lengths=[8])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            dict(scorer="gpt2"),
            "scorer is 'gpt2', expected a Scorer or a function, and it has no bos, context_limit, fingerprint, logprobs, name",
        ),
        (dict(scorer=None), "scorer is None, expected a Scorer"),
        (dict(windows=torch.zeros(8, 8)), "windows is a torch.Tensor of shape (8, 8), expected a Windows"),
        (dict(windows=[[0, 1]] * 8), "windows is [[0, 1]"),
    ],
)
def test_scorers_and_windows_are_what_they_seem(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        measure_bipartite(**{"scorer": PolyaUrn(), "windows": urn_windows(8, 8, 0), "lengths": [8]} | arguments)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda scores: bipartite_mi(scores, draws=0), "draws is 0, expected a whole number, from 2 to 1e+06"),
        (lambda scores: bipartite_mi(scores, draws=1), "draws is 1"),
        (
            lambda scores: bipartite_mi(scores, draws=1e3),
            "draws is 1000.0, expected a whole number, from 2 to 1e+06: write 1000",
        ),
        (lambda scores: bipartite_mi(scores, draws=10**12), "draws is 1000000000000"),
        (lambda scores: bipartite_mi(scores, seed=-1), "seed is -1, expected a whole number, at least 0"),
        (
            lambda scores: NgramCorrected(math.nan),
            "NgramCorrected: bigram_entropy is nan, expected a finite number, at least 0",
        ),
        (lambda scores: NgramCorrected(math.inf), "bigram_entropy is inf"),
        (lambda scores: NgramCorrected(-1.0), "bigram_entropy is -1.0"),
        (lambda scores: NgramCorrected("5"), "bigram_entropy is '5'"),
        (lambda scores: NgramCorrected(np.float64("nan")), "bigram_entropy is np.float64(nan)"),
        (lambda scores: NgramCorrected(5.0, math.nan), "weight is nan"),
        (lambda scores: NgramCorrected(5.0, 1.5), "weight is 1.5, expected a finite number, from 0 to 1"),
        (lambda scores: bipartite_mi(scores, one_way=1), "one_way is 1, expected True or False"),
        (lambda scores: bipartite_mi(bipartite_mi(scores)), "scores is a polars.DataFrame"),
        (lambda scores: bipartite_mi(bipartite_mi(scores).drop("replicates").to_dict()), "expected a BipartiteScores"),
        (lambda scores: bipartite_terms(scores, 3, 8), "no block of 8 tokens was scored with a split at 3"),
        (lambda scores: bipartite_terms(scores, 4, 9), "no block of 9 tokens was scored with a split at 4"),
        (lambda scores: bipartite_terms(scores, 4, 4), "no block of 4 tokens"),
        (
            lambda scores: code_length(scores, 0.5),
            "quantiles is 0.5, expected a list of finite numbers, from 0 to 1: write [0.5]",
        ),
        (lambda scores: code_length(scores, [0.5, 50]), "quantiles is [0.5, 50]"),
        (lambda scores: code_length(scores, [math.nan]), "quantiles is [nan]"),
        (lambda scores: code_length(None), "scores is None"),
        (lambda scores: groups_of("abcdef", 1), "documents is 'abcdef', expected a list of texts"),
        (lambda scores: groups_of([1, 2, 3, 4], 1), "documents is [1, 2, 3, 4], expected a list of texts"),
        (lambda scores: groups_of(list("abcdef"), -1), "shuffles is -1"),
        (lambda scores: load_scores(None), "store is None"),
    ],
)
def test_nonsense_is_refused_at_the_door(call, message):
    scores = measure_bipartite(PolyaUrn(), urn_windows(8, 8, 0), lengths=[8])
    with pytest.raises(ValueError, match=re.escape(message)):
        call(scores)


def test_numpy_numbers_are_numbers(tmp_path):
    windows = urn_windows(8, 8, 0)
    a = measure_bipartite(
        PolyaUrn(),
        windows,
        lengths={np.int64(8): np.int64(8)},
        shuffles=np.int64(1),
        batch_size=np.int32(4),
        store=tmp_path,
    )
    assert bipartite_mi(a, draws=np.int64(5)).equals(
        bipartite_mi(measure_bipartite(PolyaUrn(), windows, lengths=[8], batch_size=4, store=tmp_path), draws=5)
    )


def test_a_store_of_other_windows_is_refused(tmp_path):
    measure_bipartite(PolyaUrn(), urn_windows(8, 8, 0), lengths=[8], store=tmp_path)
    with pytest.raises(ValueError, match="windows_fingerprint"):
        measure_bipartite(PolyaUrn(), urn_windows(8, 8, 1), lengths=[8], store=tmp_path)
    with pytest.raises(ValueError, match="lengths: "):
        measure_bipartite(PolyaUrn(), urn_windows(8, 8, 0), lengths=[4, 8], store=tmp_path)


def test_processes_fill_one_store(tmp_path):
    windows = urn_windows(40, 16, 0)
    with pytest.raises(Unfinished, match="lacks 2 of 6 shards"):
        measure_bipartite(PolyaUrn(), windows, lengths=[16], store=tmp_path, rank=0, world_size=2)
    both = measure_bipartite(PolyaUrn(), windows, lengths=[16], store=tmp_path, rank=1, world_size=2)
    alone = measure_bipartite(PolyaUrn(), windows, lengths=[16])
    assert bipartite_mi(both).equals(bipartite_mi(alone))
    assert bipartite_mi(load_scores(tmp_path)).equals(bipartite_mi(alone))


class Unwanted(PolyaUrn):
    "An urn that must not be asked."

    def logprobs(self, *_):
        pytest.fail("scored before the damage was named")


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(data)


def rewrite(change):
    "Changes a shard with a writer of Parquet that knows nothing of seals."
    return lambda path: change(pl.read_parquet(path)).write_parquet(path)


def forge(change):
    "Changes a shard under a seal that is whole."

    def forged(path):
        store = Store.open(path.parent)
        store.write(path.stem, change(store.read(path.stem)))

    return forged


def copy(number):
    return lambda path: shutil.copy(path.with_name(f"scores-{number:06d}.parquet"), path)


none, three = lambda table: table.head(0), lambda table: table.head(3)
others = lambda table: table.with_columns(
    pl.col("^logprobs$").list.eval(pl.element() * math.nan), pl.col("^tokens$").list.reverse()
)
DAMAGE = {
    "a flipped bit": flip,
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "nothing": lambda path: path.write_bytes(b""),
    "no rows": rewrite(none),
    "three rows": rewrite(three),
    "rewritten": rewrite(lambda table: table),
    "another shard": copy(2),
    "sealed, no rows": forge(none),
    "sealed, three rows": forge(three),
    "sealed, twice": forge(lambda table: pl.concat([table, table])),
    "sealed, other numbers": forge(others),
    "sealed, another shard": lambda path: Store.open(path.parent).write(
        path.stem, Store.open(path.parent).read("scores-000002")
    ),
    "sealed, other columns": forge(lambda table: pl.DataFrame({"x": [1]})),
}


@pytest.mark.parametrize("name", ["scores-000004", "windows"])
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_shards_are_named_before_missing_ones_are_scored(tmp_path, damage, name):
    windows, options = urn_windows(8, 8, 0), dict(lengths=[4, 8], batch_size=2, store=tmp_path)
    truth = bipartite_mi(measure_bipartite(PolyaUrn(), windows, **options))
    damage(tmp_path / f"{name}.parquet")
    (tmp_path / "scores-000000.parquet").unlink()
    for start in (lambda: measure_bipartite(Unwanted(), windows, **options), lambda: load_scores(tmp_path)):
        with pytest.raises(
            Damaged, match=rf"^one damaged shard \('[^']*{name}\.parquet': .*\): delete it and start again"
        ):
            start()
    (tmp_path / f"{name}.parquet").unlink()
    with pytest.raises(Unfinished, match="lacks 2 of 5 shards"):
        load_scores(tmp_path)
    assert bipartite_mi(measure_bipartite(PolyaUrn(), windows, **options)).equals(truth)


def test_shards_of_a_store_with_other_parameters_are_refused(tmp_path):
    "Also where both hold the same windows of the same length, and where the manifest was changed."
    for seed in (0, 1):
        measure_bipartite(PolyaUrn(), urn_windows(8, 8, seed), lengths=[8], batch_size=4, store=tmp_path / str(seed))
    shutil.copy(tmp_path / "1" / "scores-000004.parquet", tmp_path / "0")
    with pytest.raises(
        Damaged, match="one damaged shard .*scores-000004.parquet': it belongs to manifest.json '.*', not '"
    ):
        load_scores(tmp_path / "0")
    manifest = tmp_path / "1" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"model": "urn"', '"model": "turn"'))
    with pytest.raises(Damaged, match="3 damaged shards"):
        load_scores(tmp_path / "1")
    with pytest.raises(ValueError, match="model: 'turn' there, 'urn' now"):
        measure_bipartite(PolyaUrn(), urn_windows(8, 8, 1), lengths=[8], batch_size=4, store=tmp_path / "1")


def test_a_store_of_something_else_is_named(tmp_path):
    Store(tmp_path, {"power": 2})
    with pytest.raises(
        ValueError, match="manifest.json' does not say what was scored .*lengths.*: choose a store of measure_bipartite"
    ):
        load_scores(tmp_path)


def test_a_place_that_cannot_be_written_is_named_before_scoring(tmp_path, monkeypatch):
    windows, options = urn_windows(8, 8, 0), dict(lengths=[8], batch_size=4)
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "store"):
        with pytest.raises(OSError, match=rf"'{place}' cannot be written .*choose another place"):
            measure_bipartite(Unwanted(), windows, **options, store=place)
    whole = measure_bipartite(PolyaUrn(), windows, **options, store=tmp_path / "new" / "deep")

    def refuse(**_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    assert bipartite_mi(measure_bipartite(Unwanted(), windows, **options, store=tmp_path / "new" / "deep")).equals(
        bipartite_mi(whole)
    )  # only read
    (tmp_path / "new" / "deep" / "scores-000004.parquet").unlink()
    with pytest.raises(OSError, match="deep' cannot be written .Read-only file system"):
        measure_bipartite(Unwanted(), windows, **options, store=tmp_path / "new" / "deep")


def test_a_full_disk_names_the_shard_and_leaves_what_is_whole(tmp_path, monkeypatch):
    windows, options, sync = urn_windows(16, 8, 0), dict(lengths=[8], batch_size=4, store=tmp_path), os.fsync
    room = iter(range(6))  # two looks at the place, the manifest, the windows and two shards

    def fsync(file):
        sync(file) if next(room, None) is not None else (_ for _ in ()).throw(
            OSError(errno.ENOSPC, "No space left on device")
        )

    with monkeypatch.context() as full:
        full.setattr("os.fsync", fsync)
        with pytest.raises(
            OSError, match="scores-000008.parquet' cannot be written .No space left on device.*: make room"
        ):
            measure_bipartite(PolyaUrn(), windows, **options)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "manifest.json",
        "scores-000000.parquet",
        "scores-000004.parquet",
        "windows.parquet",
    ]
    assert bipartite_mi(measure_bipartite(PolyaUrn(), windows, **options)).equals(
        bipartite_mi(measure_bipartite(PolyaUrn(), windows, lengths=[8], batch_size=4))
    )


SCRIPT = """
import time, torch
from transformers import LlamaConfig, LlamaForCausalLM
from l2m.bipartite import measure_bipartite
from l2m.estimators import bipartite_mi
from l2m.windows import Windows
from l2m.scoring import LanguageModel
torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(vocab_size=60, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2))
class Slow(LanguageModel):
    def logprobs(self, *args):
        time.sleep(0.1)
        return super().logprobs(*args)
tokens = torch.randint(60, (40, 32))
windows = Windows(tokens, [str(i) for i in range(40)], [0] * 40, torch.ones_like(tokens, dtype=torch.int32), "test", "0", "ids")
scores = measure_bipartite(Slow(model, None, "llama", 0), windows, lengths=[4, 32], batch_size=2, store=folder)
bipartite_mi(scores).write_parquet(table)
"""


@pytest.fixture(scope="module")
def start():
    "Start the script in a process of its own: a fork of one that has imported what takes longer than all the rest."
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["l2m.estimators", "l2m.scoring", "l2m.windows", "transformers.models.llama.modeling_llama"]
    )

    def start(folder, table="table"):
        names = {"folder": str(folder), "table": f"{folder}-{table}.parquet", "__name__": "script"}
        process = context.Process(target=exec, args=(SCRIPT, names))
        process.start()
        return process

    return start


def finish(process):
    process.join(timeout=300)
    assert process.exitcode == 0


@pytest.fixture(scope="module")
def peaceful(start, tmp_path_factory):
    "What a start that nothing disturbs leaves behind."
    folder = tmp_path_factory.mktemp("undisturbed") / "peaceful"
    finish(start(folder))
    return folder


def test_killed_twice_the_table_is_the_same(peaceful, start, tmp_path):
    shards = lambda: sorted(p.name for p in (tmp_path / "killed").glob("scores-*.parquet"))
    for goal in (1, 12):
        before, process = shards(), start(tmp_path / "killed")
        while process.is_alive() and len(shards()) < goal:
            time.sleep(0.01)
        process.kill()
        process.join()
        assert (
            set(before) <= set(shards()) and goal <= len(shards()) < 20
        )  # nothing finished is lost, and it was not done yet
    finish(start(tmp_path / "killed"))
    for name in ["windows", *(p.stem for p in peaceful.glob("scores-*.parquet"))]:
        assert (tmp_path / "killed" / f"{name}.parquet").read_bytes() == (peaceful / f"{name}.parquet").read_bytes()
    table = peaceful.with_name("peaceful-table.parquet")
    assert (tmp_path / "killed-table.parquet").read_bytes() == table.read_bytes()
    assert Store.open(tmp_path / "killed").parameters["model"] == "llama"


def test_two_processes_started_at_once_end_with_the_same_table(peaceful, start, tmp_path):
    "The same command twice: neither knows of the other."
    both = [start(tmp_path / "twice", f"table-{name}") for name in "ab"]
    for process in both:
        finish(process)
    table = peaceful.with_name("peaceful-table.parquet").read_bytes()
    assert [(tmp_path / f"twice-table-{name}.parquet").read_bytes() for name in "ab"] == [table, table]
    files = lambda folder: {path.name: path.read_bytes() for path in folder.iterdir()}
    assert files(tmp_path / "twice") == files(peaceful)


KILLED_AT_EVERY_STEP = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_bipartite import PolyaUrn, urn_windows
from l2m.bipartite import measure_bipartite
from l2m.estimators import bipartite_mi
from l2m.estimators import bipartite_mi
from l2m.experiments import provenance, save_table
root, windows, facts = Path(sys.argv[1]), urn_windows(8, 8, 0), provenance(experiment="urn")

def work(folder):
    scores = measure_bipartite(PolyaUrn(), windows, lengths=[4, 8], batch_size=4, store=folder / "store")
    save_table(bipartite_mi(scores, draws=20), folder / "table.parquet", facts)

def dies_before(step, name, left):
    def instead(*args):
        if not left: os.kill(os.getpid(), signal.SIGKILL)
        left.pop()
        return step(*args)
    setattr(os, name, instead)

def is_killed(job):
    if (pid := os.fork()) == 0:  # the threads of Polars do not survive a fork: nothing uses it in the parent
        job()
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    assert status in (0, signal.SIGKILL), status
    return status == signal.SIGKILL

def dying_work(folder, steps):
    left = [None] * steps
    for name in ("fsync", "replace", "unlink"): dies_before(getattr(os, name), name, left)
    work(folder)

assert not is_killed(lambda: work(root / "peaceful"))
tables = lambda folder: {p.name: p.read_bytes() for p in folder.rglob("*.parquet")}
for steps in range(1000):
    folder = root / str(steps)
    if not is_killed(lambda: dying_work(folder, steps)): break
    assert tables(folder).items() <= tables(root / "peaceful").items()
    assert not is_killed(lambda: work(folder)) and tables(folder) == tables(root / "peaceful")
    assert not list(folder.rglob("*.part")), list(folder.rglob("*.part"))
print(steps)
"""


def test_killed_at_any_step_of_writing_nothing_is_half_there(tmp_path):
    "Killed before every single sync, rename and removal, of manifest, shards and tables: what is there is whole, and the next start ends with the same bytes."
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT_EVERY_STEP, str(tmp_path), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 12


class Narrow(PolyaUrn):
    "An urn with room for some windows at a time."

    def __init__(self, room):
        self.room, self.asked = room, []

    def logprobs(self, contexts, continuations=()):
        self.asked.append(len(contexts))
        if len(contexts) > self.room:
            raise torch.OutOfMemoryError(f"no room for {len(contexts)} windows")
        return super().logprobs(contexts, continuations)


def test_a_batch_finds_its_size_and_changes_nothing(tmp_path):
    "Neither numbers nor shards nor parameters; a store may be filled by one and gone on with by another."
    windows, options = urn_windows(70, 16, 0), dict(lengths=[8, 16])
    fixed = measure_bipartite(PolyaUrn(), windows, **options, batch_size=32, store=tmp_path / "fixed")
    for room in (1, 3, 8, 100):
        narrow, store = Narrow(room), tmp_path / str(room)
        found = measure_bipartite(narrow, windows, **options, batch_size="auto", store=store)
        assert bipartite_mi(found).equals(bipartite_mi(fixed)) and found.parameters == fixed.parameters
        assert {p.name: p.read_bytes() for p in store.iterdir()} == {
            p.name: p.read_bytes() for p in (tmp_path / "fixed").iterdir()
        }
        assert max(narrow.asked[-2:]) <= room  # halved for good
    (tmp_path / "8" / "scores-000032.parquet").unlink()
    again = measure_bipartite(PolyaUrn(), windows, **options, batch_size=32, store=tmp_path / "8")
    assert bipartite_mi(again).equals(bipartite_mi(fixed))


def test_no_room_at_all_is_an_error():
    windows = urn_windows(8, 8, 0)
    with pytest.raises(torch.OutOfMemoryError, match="no room for 1 windows"):
        measure_bipartite(Narrow(0), windows, lengths=[8], batch_size="auto")
    with pytest.raises(torch.OutOfMemoryError, match="no room for 4 windows"):
        measure_bipartite(Narrow(2), windows, lengths=[8], batch_size=4)
    with pytest.raises(ValueError, match="batch_size is 'most'"):
        measure_bipartite(PolyaUrn(), windows, lengths=[8], batch_size="most")


def test_a_batch_of_another_size_moves_a_language_model_by_rounding_only():
    torch.manual_seed(0)
    sizes = dict(vocab_size=60, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    scorer = LanguageModel(LlamaForCausalLM(LlamaConfig(**sizes)), None, "llama", 0)
    windows = windows_of(torch.randint(60, (12, 32), generator=torch.Generator().manual_seed(0)))
    whole = measure_bipartite(scorer, windows, lengths=[8, 16, 32], batch_size="auto")
    plain = scorer.logprobs
    scorer.logprobs = lambda contexts, after=(): plain(contexts, after) if len(contexts) < 4 else _no_room()
    halved = measure_bipartite(scorer, windows, lengths=[8, 16, 32], batch_size="auto")
    np.testing.assert_allclose(halved.joint, whole.joint, atol=1e-5)
    for split in whole.crossed:
        np.testing.assert_allclose(halved.crossed[split], whole.crossed[split], atol=1e-5)
        np.testing.assert_allclose(halved.alone[split], whole.alone[split], atol=1e-5)


def _no_room():
    raise torch.OutOfMemoryError("no room")
