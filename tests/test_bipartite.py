"Bipartite estimates against exact truth, against an independent computation, and under kills."
import signal
import subprocess
import sys
import time
from itertools import product

import numpy as np
import polars as pl
import pytest
import torch
from scipy.special import betaln, comb
from transformers import LlamaConfig, LlamaForCausalLM

from l2m.bipartite import bigram_entropy, bipartite_mi, bipartite_terms, blocks, code_length, groups_of, load_scores, measure_bipartite
from l2m.corpora import Windows
from l2m.information import entropy
from l2m.scoring import LanguageModel
from l2m.stores import Store, Unfinished


def windows_of(tokens, documents=None, chars=None):
    n = len(tokens)
    return Windows(tokens=tokens, documents=documents or [str(i) for i in range(n)], starts=[0] * n,
                   chars=torch.ones_like(tokens, dtype=torch.int32) if chars is None else chars, corpus="test", corpus_fingerprint="0", tokenizer="ids")


class PolyaUrn:
    "The exact model of Pólya's urn with one white (1) and one black (0) ball."
    name, fingerprint, bos, context_limit = "urn", "exact", None, None

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
    scores = measure_bipartite(PolyaUrn(), urn_windows(4000, 48, seed=1), lengths=[4, 12, 48], ratios=[2, 3, 4], batch_size=4000)
    for row in bipartite_mi(scores, pairing).iter_rows(named=True):
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
        assert 0.9 < z.std() < 1.2              # t with 31 degrees of freedom has 1.03; the error of a deviation over 300 draws is 4 %
        assert 0.90 < np.mean(np.abs(z) < 2.04) < 0.99


def test_bootstrap_draws_have_the_standard_error_and_move_together():
    scores = measure_bipartite(PolyaUrn(), urn_windows(400, 32, 3), lengths=[16, 32], batch_size=400)
    rows = bipartite_mi(scores, draws=4000).filter(method="direct")
    draws = np.stack(rows["replicates"].to_numpy())
    assert np.allclose(draws.std(1), rows["stderr"], rtol=0.06)
    assert np.corrcoef(draws)[0, 1] > 0.3
    sums = np.array([np.bincount(scores.group[w], t["direct"]) for w, t in (bipartite_terms(scores, L // 2, L) for L in (16, 32))])
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
    model = LlamaForCausalLM(LlamaConfig(vocab_size=60, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                                         max_position_embeddings=64)).double()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1: p.mul_(4)
    return LanguageModel(model, None, "llama", 0)


def llama_windows(n=10, length=24):
    generator = torch.Generator().manual_seed(7)
    documents = [f"d{i % (n // 2)}" for i in range(n)]
    return windows_of(torch.randint(60, (n, length), generator=generator), documents, torch.randint(1, 7, (n, length), generator=generator, dtype=torch.int32))


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
    table = bipartite_mi(scores, bigram_entropy=5.0, ngram_weight=0.25)
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
            row = table.row(by_predicate=(pl.col("method") == method) & (pl.col("ratio") == ratio) & (pl.col("length") == L), named=True)
            assert row["mi"] == pytest.approx(np.mean(terms), abs=1e-5)


def test_the_paper_pairing_takes_the_terms_from_two_documents(llama):
    windows, none = llama_windows(), torch.empty(0, dtype=torch.long)
    scores = measure_bipartite(llama, windows, lengths=[24])
    t, direct, vclub = windows.tokens, [], []
    first = {}
    for i, document in enumerate(windows.documents):
        if first.setdefault(scores.group[i], document) != document: continue
        j = scores.partners[i, 0]
        joint = nats(llama, t[i, :12], t[i, 12:])
        direct.append(joint - nats(llama, none, t[j, 12:]))
        vclub.append(joint - nats(llama, t[i, :12], t[j, 12:]))
    table = bipartite_mi(scores, "paper")
    assert table.filter(method="direct")["mi"].item() == pytest.approx(np.mean(direct), abs=1e-5)
    assert table.filter(method="vclub")["mi"].item() == pytest.approx(np.mean(vclub), abs=1e-5)


def test_tokens_are_counted_and_few():
    scores = measure_bipartite(PolyaUrn(), urn_windows(8, 1024, 0), lengths=[2**k for k in range(2, 11)])
    assert scores.tokens_per_pair == 1024 + 2 * sum(2**k for k in range(1, 10)) <= 3.2 * 1024


def test_code_length_counts_every_token_once(llama):
    windows = llama_windows()
    scores = measure_bipartite(llama, windows, lengths=[24])
    curve = code_length(scores)
    assert curve["context_from"].to_list() == [0, 1, 2, 4, 8, 16] and curve["context_to"].to_list() == [0, 1, 3, 7, 15, 23]
    assert (curve["nll"] * curve["n"]).sum() == pytest.approx(-scores.joint.sum())
    last = scores.joint[:, 16:24]
    assert curve["nll"][-1] == pytest.approx(-last.mean())
    assert curve["nll_per_char"][-1] == pytest.approx(-last.sum() / scores.chars[:, 16:24].sum())
    assert curve["q50"][-1] == pytest.approx(np.median(-last))
    before = np.array([[row[:t].sum() for t in range(16, 24)] for row in scores.chars])
    assert curve["context_chars"][-1] == pytest.approx(before.mean())


class Letters:
    "A tokenizer of single characters."
    name_or_path = "letters"
    def __call__(self, texts, **_): return {"input_ids": [[ord(c) for c in t] for t in texts]}


def test_bigrams_never_cross_documents(tmp_path, monkeypatch):
    from l2m import bipartite
    from l2m.corpora import load_corpus
    for i, body in enumerate(["abab", "bba", "ab"]): (tmp_path / f"{i}.txt").write_text(body)
    counts = {"ab": 3, "ba": 2, "bb": 1}
    assert bigram_entropy(load_corpus(str(tmp_path)), Letters()) == pytest.approx(entropy(np.array(list(counts.values()))))


# Groups, faults and bad input


@pytest.mark.parametrize("documents, shuffles", [(list("abcdef"), 1), (list("abcdefg"), 2), (list("aabbccdd"), 1), (list("abcdabab"), 1), (list("abcdefghabc"), 3)])
def test_groups_share_no_document(documents, shuffles):
    group, partners = groups_of(documents, shuffles)
    for i, d in enumerate(documents):
        assert len({documents[j] for j in partners[i]} | {d}) == shuffles + 1          # partners' documents all differ
        assert {group[j] for j in partners[i]} == {group[i]}                           # and stay inside the group
    assert all(len({group[i] for i, d in enumerate(documents) if d == name}) == 1 for name in set(documents))


@pytest.mark.parametrize("arguments, message", [
    (dict(lengths=[64]), "length 64 is longer than the windows"),
    (dict(lengths=[]), "give at least one"),
    (dict(lengths=[1]), "shorter than the ratio 2"),
    (dict(lengths=[8.0]), "whole numbers"),
    (dict(lengths=[True, 8]), "whole numbers"),
    (dict(lengths=[8], shuffles=1.0), "shuffles=1.0"),
    (dict(lengths=[8], world_size=2), "2 processes need a store"),
    (dict(lengths=[8], ratios=[1]), "ratios >= 2"),
    (dict(lengths=[8], shuffles=-1), "shuffles=-1"),
    (dict(lengths={8: 11}), "11 windows at length 8"),
    (dict(lengths={8: 1}), "1 windows at length 8"),
    (dict(lengths={8: 4.0}), "4.0 windows at length 8"),
    (dict(lengths={4: 10, 8: 2}), "first 2 windows, scored at length 8, come from one group"),
    (dict(lengths=[8], shuffles=5), "at least 12 documents"),
    (dict(lengths=[8], rank=2, world_size=2), "rank 2 is not one of 2"),
])
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
        assert list(more) == ["direct"] and rows.tolist() == again.tolist() == list(range(60))
        assert np.allclose(terms["direct"], more["direct"])
    table = bipartite_mi(direct, bigram_entropy=1.0)
    assert set(table["method"]) == {"direct", "direct-ngram"} and (table["groups"] == 60).all()      # every document stands alone
    assert direct.tokens == 60 * (32 + 20) and both.tokens == 60 * (32 + 40)
    for wrong in (dict(pairing="paper"), dict(one_way=True)):
        with pytest.raises(ValueError, match="needs partners"): bipartite_mi(direct, **wrong)


@pytest.mark.parametrize("shuffles", [0, 1, 2])
def test_lengths_with_windows_of_their_own(shuffles, tmp_path):
    "A length scored on the first so many windows gives what a measurement of these windows alone gives."
    windows = urn_windows(60, 64, 4)
    scores = measure_bipartite(PolyaUrn(), windows, lengths={4: 60, 16: 31, 64: 12}, shuffles=shuffles, batch_size=5, store=tmp_path)
    table = bipartite_mi(scores).sort("length", "method")
    for length, count in {4: 60, 16: 30 if shuffles else 31, 64: 12}.items():
        some = windows_of(windows.tokens[:count], windows.documents[:count])
        alone = bipartite_mi(measure_bipartite(PolyaUrn(), some, lengths=[length], shuffles=shuffles)).sort("length", "method")
        here = table.filter(length=length)
        assert here["n"].to_list() == alone["n"].to_list() == [count] * len(here)
        assert here["groups"].to_list() == alone["groups"].to_list() == [count // (shuffles + 1)] * len(here)
        assert here["mi"].to_list() == pytest.approx(alone["mi"].to_list()) and here["stderr"].to_list() == pytest.approx(alone["stderr"].to_list())
    passes = 1 + shuffles
    assert scores.tokens == 60 * (4 + 2 * passes) + 31 * (12 + 8 * passes) + 12 * (48 + 32 * passes)
    assert bipartite_mi(load_scores(tmp_path)).sort("length", "method").equals(table)
    assert np.isclose(code_length(scores)["n"].sum(), 12 * 64)


def test_draws_of_unequal_counts_have_the_standard_errors_and_move_together():
    scores = measure_bipartite(PolyaUrn(), urn_windows(400, 32, 3), lengths={16: 400, 32: 100}, shuffles=0, batch_size=400)
    rows = bipartite_mi(scores, draws=4000)
    draws = np.stack(rows["replicates"].to_numpy())
    assert np.isfinite(draws).all() and np.allclose(draws.std(1), rows["stderr"], rtol=0.06)
    short, long = (bipartite_terms(scores, L // 2, L)[1]["direct"] for L in (16, 32))
    expected = np.cov(short[:100], long)[0, 1] / 400 / np.prod(rows["stderr"].to_list())      # only the windows that both lengths share
    assert np.corrcoef(draws)[0, 1] == pytest.approx(expected, abs=0.06)


def test_counts_are_part_of_the_store(tmp_path):
    measure_bipartite(PolyaUrn(), urn_windows(8, 8, 0), lengths={4: 8, 8: 6}, store=tmp_path)
    with pytest.raises(ValueError, match="windows_of_blocks"):
        measure_bipartite(PolyaUrn(), urn_windows(8, 8, 0), lengths=[4, 8], store=tmp_path)


def test_nan_names_the_windows():
    class Broken(PolyaUrn):
        def nats(self, tokens): return super().nats(tokens) * float("nan")
    with pytest.raises(FloatingPointError, match="'urn' returned NaN for windows 0…7"):
        measure_bipartite(Broken(), urn_windows(16, 8, 0), lengths=[8])


def test_unknown_pairings_and_weights():
    scores = measure_bipartite(PolyaUrn(), urn_windows(8, 8, 0), lengths=[8])
    with pytest.raises(ValueError, match="pairing 'random' is unknown"): bipartite_mi(scores, "random")
    with pytest.raises(ValueError, match="ngram_weight 1.5"): bipartite_mi(scores, ngram_weight=1.5)


def test_a_store_of_other_windows_is_refused(tmp_path):
    measure_bipartite(PolyaUrn(), urn_windows(8, 8, 0), lengths=[8], store=tmp_path)
    with pytest.raises(ValueError, match="windows_fingerprint"):
        measure_bipartite(PolyaUrn(), urn_windows(8, 8, 1), lengths=[8], store=tmp_path)
    with pytest.raises(ValueError, match="lengths: "):
        measure_bipartite(PolyaUrn(), urn_windows(8, 8, 0), lengths=[4, 8], store=tmp_path)


def test_processes_fill_one_store(tmp_path):
    windows = urn_windows(40, 16, 0)
    with pytest.raises(Unfinished, match="lacks 2 of 5 shards"):
        measure_bipartite(PolyaUrn(), windows, lengths=[16], store=tmp_path, rank=0, world_size=2)
    both = measure_bipartite(PolyaUrn(), windows, lengths=[16], store=tmp_path, rank=1, world_size=2)
    alone = measure_bipartite(PolyaUrn(), windows, lengths=[16])
    assert bipartite_mi(both).equals(bipartite_mi(alone))
    assert bipartite_mi(load_scores(tmp_path)).equals(bipartite_mi(alone))


SCRIPT = """
import sys, time, torch
from transformers import LlamaConfig, LlamaForCausalLM
from l2m.bipartite import bipartite_mi, measure_bipartite
from l2m.corpora import Windows
from l2m.scoring import LanguageModel
torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(vocab_size=60, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2))
class Slow(LanguageModel):
    def logprobs(self, *args):
        time.sleep(0.1)
        return super().logprobs(*args)
tokens = torch.randint(60, (40, 32))
windows = Windows(tokens, [str(i) for i in range(40)], [0] * 40, torch.ones_like(tokens, dtype=torch.int32), "test", "0", "ids")
scores = measure_bipartite(Slow(model, None, "llama", 0), windows, lengths=[4, 32], batch_size=2, store=sys.argv[1])
bipartite_mi(scores).write_parquet(sys.argv[1] + "-table.parquet")
"""


def test_killed_many_times_the_table_is_the_same(tmp_path):
    shards = lambda: sorted(p.name for p in (tmp_path / "killed").glob("scores-*.parquet"))
    subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path / "peaceful")], check=True)
    for goal in (1, 6, 12, 17):
        before, process = shards(), subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path / "killed")])
        while process.poll() is None and len(shards()) < goal: time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert set(before) <= set(shards()) and goal <= len(shards()) < 20   # nothing finished is lost, and it was not done yet
    subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path / "killed")], check=True)
    for name in ["windows", *(p.stem for p in (tmp_path / "peaceful").glob("scores-*.parquet"))]:
        assert (tmp_path / "killed" / f"{name}.parquet").read_bytes() == (tmp_path / "peaceful" / f"{name}.parquet").read_bytes()
    assert (tmp_path / "killed-table.parquet").read_bytes() == (tmp_path / "peaceful-table.parquet").read_bytes()
    assert Store.open(tmp_path / "killed").parameters["model"] == "llama"
