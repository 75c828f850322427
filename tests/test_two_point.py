"Pair counts against a dictionary, in memory and on disk; estimates, floors and laws against truth."

import copy
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import l2m.pair_tables as pair_tables
import l2m.token_cache as tokens
import l2m.two_point as two_point
from l2m.corpora import load_corpus
from l2m.counting import BYTES_PER_PAIR, PairRuns, pack, pair_counts, spilled_pair_counts
from l2m.information import entropy
from l2m.places import place
from l2m.runs import run_experiment
from l2m.stores import Damaged, Store
from l2m.token_cache import cached_tokens, tokenizer_fingerprint
from l2m.two_point import compare_floors, fit_floor, fit_two_point, two_point_mi

some_documents = st.lists(st.lists(st.integers(0, 5), max_size=30), min_size=1, max_size=6)


def by_dictionary(documents, distance, reach):
    return Counter(
        pair for ids in documents if len(ids) > reach for pair in zip(ids[: len(ids) - reach], ids[distance:])
    )


def as_counter(table):
    return {(a, b): n for a, b, n in table.rows()}


@given(some_documents, st.integers(1, 4), st.integers(0, 4), st.sampled_from([6, 300, 70_000]))
def test_pair_counts_are_those_of_a_dictionary(documents, distance, more, vocabulary):
    reach, arrays = distance + more, [np.array(ids, dtype=np.uint16) for ids in documents]
    expected = by_dictionary(documents, distance, reach)
    if not expected:
        with pytest.raises(ValueError, match="longer than every document"):
            pair_counts(arrays, distance, reach=reach)
        return
    table = pair_counts(arrays, distance, reach=reach, vocabulary=vocabulary)
    assert as_counter(table) == expected
    assert table.select("first", "second").rows() == sorted(expected)


@settings(max_examples=20, deadline=None)
@given(
    some_documents.filter(lambda documents: any(len(ids) > 3 for ids in documents)),
    st.integers(100, 3000),
    st.sampled_from([None, 3]),
)
def test_counts_on_disk_are_those_in_memory(tmp_path_factory, documents, memory, reach):
    arrays = [np.array(ids, dtype=np.int64) for ids in documents]
    parts = list(
        spilled_pair_counts(
            iter(arrays), [3, 1], tmp_path_factory.mktemp("runs"), vocabulary=6, memory=memory, reach=reach
        )
    )
    for distance in (1, 3):
        together = pl.concat([part for d, part in parts if d == distance])
        assert together.rows() == pair_counts(arrays, distance, reach=reach).rows()


def test_large_counts_on_disk_come_in_many_parts(tmp_path):
    generator = np.random.default_rng(0)
    documents = [generator.zipf(1.3, 5000).clip(0, 100_000) for _ in range(40)]
    parts = list(spilled_pair_counts(documents, [2], tmp_path, vocabulary=100_001, memory=2**20))
    assert len(parts) > 5 and max(part.height for _, part in parts) <= 2**20 / BYTES_PER_PAIR
    assert pl.concat([part for _, part in parts]).rows() == pair_counts(documents, 2, vocabulary=100_001).rows()


PEAK = """
import sys, tempfile
import numpy as np
from l2m.counting import pair_counts, spilled_pair_counts

def documents(n):
    for i in range(n): yield np.random.default_rng(i).integers(0, 50_000, 250_000, dtype=np.uint32)

def on_disk(n, memory):
    with tempfile.TemporaryDirectory() as folder:
        return sum(part["count"].sum() for _, part in spilled_pair_counts(documents(n), [7], folder, vocabulary=50_000, memory=memory))

def resident():
    return 1024 * int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))

on_disk(1, 2**22)
open("/proc/self/clear_refs", "w").write("5")  # the peak so far is forgotten
start = resident()
pairs = on_disk(12, int(sys.argv[1])) if int(sys.argv[1]) else pair_counts(list(documents(12)), 7, vocabulary=50_000)["count"].sum()
print(pairs, resident() - start)
"""


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK),
    reason="resident memory is read from Linux's /proc; getrusage of a child starts at its parent's peak",
)
def test_resident_memory_stays_within_the_budget():
    "The budget holds up to a half, for what Polars keeps for its next query; counting in memory takes over three times as much."
    budget, peaks, environment = 2**25, {}, {**os.environ, "POLARS_MAX_THREADS": "2"}
    for memory in (budget, 0):
        done = subprocess.run(
            [sys.executable, "-c", PEAK, str(memory)], capture_output=True, text=True, check=True, env=environment
        )
        pairs, peaks[memory] = map(int, done.stdout.split())
        assert pairs == 12 * (250_000 - 7)
    assert peaks[budget] < 1.5 * budget and peaks[0] > 3 * budget


def test_no_pair_crosses_documents():
    assert as_counter(pair_counts([np.array([1, 2, 3]), np.array([4, 5, 6])], 2)) == {(1, 3): 1, (4, 6): 1}
    assert as_counter(pair_counts(np.array([1, 2, 3, 4]), 1)) == {(1, 2): 1, (2, 3): 1, (3, 4): 1}


def test_keys_fill_64_bits_and_no_more():
    top = np.array([2**32 - 1])
    assert pack(top, top, 2**32) == np.array([2**64 - 1], np.uint64)
    assert pack(np.array([65_535]), np.array([65_535]), 65_536).dtype == np.uint32
    with pytest.raises(ValueError, match="overflow 64 bits"):
        pack(top, top, 2**32 + 1)
    with pytest.raises(ValueError, match="overflow 64 bits: choose groups <= 1"):
        pack(top, top, 2**32, top, 2)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: pair_counts(np.arange(5), 0), "distance 0 is not"),
        (lambda: pair_counts(np.arange(5), 1.5), "distance is 1.5, expected a whole number"),
        (lambda: pair_counts(np.arange(5), 5), "distance 5 is longer than every document .*choose distances <= 4"),
        (lambda: pair_counts(np.arange(5), 2, reach=1), "reach 1 is shorter"),
        (lambda: pair_counts(-np.arange(5), 1), "token id -4 is negative"),
        (lambda: pair_counts(np.arange(5.0), 1), "float64"),
        (lambda: pair_counts(np.arange(5), 1, vocabulary=3), "outside the vocabulary of 3"),
        (lambda: spilled_pair_counts([], [], "nowhere", vocabulary=3), "no distances"),
        (
            lambda: pair_counts([np.arange(5), np.arange(3)], 7),
            "distance 7 is longer than every document .the longest of 2 has 5 tokens.: choose distances <= 4",
        ),
        (
            lambda: spilled_pair_counts([], [4, 0], "nowhere", vocabulary=3),
            "distance 0 is not a whole number of tokens >= 1",
        ),
        (lambda: spilled_pair_counts([], [4, -1], "nowhere", vocabulary=3), "distance -1 is not"),
        (lambda: two_point_mi(None, None, [1]), "corpus is None, expected a Corpus"),
        (lambda: pair_counts(np.array([2**32, 1]), 1), "4294967297 tokens in 1 groups overflow 64 bits"),
        (lambda: entropy(pair_counts(np.arange(5), 1)["count"] - 2), "entry 0 is -1"),
        (lambda: entropy(np.full(3, 2**62)), "more than a 64-bit integer holds: they have overflowed"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        list(call())


@pytest.fixture(scope="module")
def letters():
    model = Tokenizer(models.WordLevel({"[UNK]": 0} | {c: i for i, c in enumerate("abcdefgh", 1)}, unk_token="[UNK]"))
    model.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=model, unk_token="[UNK]")


def written(path, documents):
    path.write_text("".join(json.dumps({"text": "".join("abcdefgh"[i] for i in ids)}) + "\n" for ids in documents))
    return load_corpus(str(path))


def sticky(generator, length, stick=0.6, words=8):
    fresh = np.append(True, generator.random(length - 1) >= stick)
    return generator.integers(words, size=length)[np.maximum.accumulate(np.where(fresh, np.arange(length), 0))]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    generator = np.random.default_rng(1)
    return written(tmp_path_factory.mktemp("corpus") / "sticky.jsonl", [sticky(generator, 3000) for _ in range(48)])


def test_estimates_find_the_truth_within_their_errors(corpus, letters):
    table = two_point_mi(corpus, letters, [1, 2, 4, 8])
    for d, mi, stderr, floor in table.select("distance", "mi", "stderr", "floor").rows():
        keep = 0.6**d
        joint = keep * np.eye(8) / 8 + (1 - keep) / 64
        assert abs(mi - (joint * np.log(joint * 64)).sum()) < 4 * stderr + 5e-4 and abs(floor) < 2e-3
    assert np.allclose([np.std(r.to_numpy()) for r in table["replicates"]], table["stderr"], rtol=0.2)


@pytest.mark.parametrize("kind", [list, np.array, tuple], ids=lambda kind: kind.__name__)
def test_tokens_of_ones_own_are_counted_as_those_of_a_corpus(corpus, letters, kind, tmp_path):
    own = [kind(ids.tolist()) for ids in cached_tokens(corpus, letters, None)]
    expected = two_point_mi(corpus, letters, [1, 4], groups=8)
    assert two_point_mi(own, len(letters), [1, 4], groups=8).equals(expected)
    kept = two_point_mi(own, letters, [1, 4], groups=8, cache=tmp_path)
    assert kept.equals(expected) and two_point_mi(own, letters, [1, 4], groups=8, cache=tmp_path).equals(expected)
    other = [own[0][::-1], *own[1:]]
    assert not two_point_mi(other, letters, [1, 4], groups=8, cache=tmp_path).equals(expected)


def test_estimates_are_entropies_of_the_counts(corpus, letters):
    documents = list(cached_tokens(corpus, letters, None))
    row = two_point_mi(corpus, letters, [2, 5], groups=6).row(0, named=True)
    table = pair_counts(documents, 2, reach=5)
    single = [entropy(table.group_by(side).agg(pl.col("count").sum())["count"]) for side in ("first", "second")]
    assert (
        row["mi"] == pytest.approx(sum(single) - entropy(table["count"]), abs=1e-12)
        and row["n"] == table["count"].sum()
    )


def test_on_disk_and_resumed_estimates_are_the_same(corpus, letters, tmp_path):
    whole = two_point_mi(corpus, letters, [1, 4], groups=8)
    spilled = two_point_mi(corpus, letters, [1, 4], groups=8, memory=2**20)
    assert np.allclose(whole["mi"], spilled["mi"], rtol=0, atol=1e-12) and np.allclose(
        whole["stderr"], spilled["stderr"], rtol=1e-9
    )
    first = two_point_mi(corpus, letters, [1, 4], groups=8, cache=tmp_path)
    next(tmp_path.glob("pairs-*/floor-00000001.parquet")).unlink()
    next(tmp_path.glob("tokens-*/complete.parquet")).unlink()
    again = two_point_mi(corpus, letters, [1, 4], groups=8, cache=tmp_path)
    assert first.equals(again) and first.equals(whole)


STOP = """
import os, sys, time
from pathlib import Path
from transformers import PreTrainedTokenizerFast
import l2m.token_cache as tokens
import l2m.two_point as two_point
import l2m.two_point as two_point
from l2m.corpora import load_corpus

folder, pattern, number, memory = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
replace, seen = os.replace, []

def waiting(part, path):
    seen.extend([path] if Path(path).match(pattern) else [])
    if len(seen) == number:  # the file is written, but not yet in its place
        (folder / "here").touch()
        time.sleep(600)
    replace(part, path)

os.replace, tokens._TOKENS_PER_SHARD = waiting, 30_000
tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
two_point.two_point_mi(load_corpus(str(folder / "sticky.jsonl")), tokenizer, [1, 4], groups=8, memory=memory, cache=folder / "cache")
"""
BATCHES, MEMORY = 6, 2**22


@pytest.mark.parametrize(
    "pattern, number, left",
    [
        (
            "runs-*/floor-4-*.parquet",
            5,
            4 * (BATCHES - 4) - 3,
        ),  # counting the fifth batch, at the last of its four tables
        ("pairs-*/floor-0*1.parquet", 1, 0),  # all batches counted, one of four tables merged
    ],
)
def test_a_killed_count_goes_on_where_it_was(corpus, letters, tmp_path, monkeypatch, pattern, number, left):
    "`kill -9` from outside, in the middle of a write; the second start counts what is missing and no more."
    (tmp_path / "sticky.jsonl").write_bytes(Path(corpus.name).read_bytes())
    letters.save_pretrained(tmp_path / "tokenizer")
    child = subprocess.Popen([sys.executable, "-c", STOP, str(tmp_path), pattern, str(number), str(MEMORY)])
    while not (tmp_path / "here").exists():
        assert child.poll() is None, "the child ended before it could be killed"
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cache/*/*.parquet")}
    calls, counted = [], pair_tables.count_keys
    monkeypatch.setattr(pair_tables, "count_keys", lambda keys: calls.append(len(keys)) or counted(keys))
    monkeypatch.setattr(tokens, "_TOKENS_PER_SHARD", 30_000)
    source = load_corpus(str(tmp_path / "sticky.jsonl"))
    again = two_point_mi(source, letters, [1, 4], groups=8, memory=MEMORY, cache=tmp_path / "cache")
    assert len(calls) == left
    assert again.equals(two_point_mi(source, letters, [1, 4], groups=8, memory=MEMORY))
    assert len([path for path in kept if path.parent.name.startswith("tokens")]) >= 3  # of 30,000 tokens each
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())
    assert not list(tmp_path.glob("cache/pairs-*/runs-*"))


def test_runs_that_vanish_are_an_error_and_never_fewer_counts(corpus, letters, tmp_path, monkeypatch):
    "Another process tidies up while this one merges: an error, unless it has left all the tables."
    merge, source = PairRuns.parts, tmp_path / "cache"

    def tidy(runs, name, *edges):
        for path in list(runs.folder.glob(f"{name}-*3.parquet")):
            path.unlink()
        return merge(runs, name, *edges)

    with monkeypatch.context() as patch:
        patch.setattr(PairRuns, "parts", tidy)
        with pytest.raises(FileNotFoundError):
            two_point_mi(corpus, letters, [1, 4], groups=8, memory=MEMORY, cache=source)

    def elsewhere(runs, *what):
        patch.setattr(PairRuns, "parts", merge)
        two_point_mi(corpus, letters, [1, 4], groups=8, memory=MEMORY, cache=source)
        return merge(runs, *what)

    with monkeypatch.context() as patch:
        patch.setattr(PairRuns, "parts", elsewhere)
        table = two_point_mi(corpus, letters, [1, 4], groups=8, memory=MEMORY, cache=source)
    assert table.equals(two_point_mi(corpus, letters, [1, 4], groups=8, memory=MEMORY))


def test_a_count_tidies_up_after_itself_alone(corpus, letters, tmp_path, monkeypatch):
    "Two processes share a store and want different distances: the one that is done first leaves the runs of the other."
    merge, count = (
        PairRuns.parts,
        lambda distances: two_point_mi(corpus, letters, distances, groups=8, memory=MEMORY, cache=tmp_path),
    )

    def meanwhile(runs, *what):
        patch.setattr(PairRuns, "parts", merge)
        count([1, 4])
        assert len(list(tmp_path.glob("pairs-*"))) == 1 and list(tmp_path.glob("pairs-*/runs-*")) == [runs.folder]
        return merge(runs, *what)

    with monkeypatch.context() as patch:
        patch.setattr(PairRuns, "parts", meanwhile)
        table = count([1, 2, 4])
    assert table.equals(two_point_mi(corpus, letters, [1, 2, 4], groups=8, memory=MEMORY)) and not list(
        tmp_path.glob("pairs-*/runs-*")
    )


class Disorder:
    "An engine whose three workers get copies of everything, and answer in an order of their own, some things twice."

    @contextmanager
    def hire(self, worker):
        def run(tasks):
            workers = [copy.deepcopy(worker)() for _ in range(3)]
            tasks = [copy.deepcopy(task) for task in tasks]
            random.Random(len(tasks)).shuffle(tasks)
            for i, (key, task) in enumerate(tasks):
                if i % 4 == 0:
                    workers[(i + 1) % 3](task)  # a worker that died before it could answer
                yield key, workers[i % 3](task)

        yield run


@pytest.mark.parametrize("memory", [2**31, MEMORY, 2**20], ids=["in memory", "in runs", "in many ranges"])
def test_tables_are_the_same_bits_for_any_engine(corpus, letters, tmp_path, memory):
    alone, cache = two_point_mi(corpus, letters, [1, 4], groups=8, memory=memory), f"memory://{tmp_path.name}/cache"
    assert two_point_mi(corpus, letters, [1, 4], groups=8, memory=memory, engine=Disorder()).equals(alone)
    assert two_point_mi(corpus, letters, [1, 4], groups=8, memory=memory, cache=cache).equals(alone)
    assert two_point_mi(corpus, letters, [1, 4], groups=8, memory=memory, cache=cache, engine=Disorder()).equals(alone)
    [pairs] = [url for url, _ in place(cache).entries().items() if url.name.startswith("pairs-")]
    assert not [url for url, folder in pairs.entries().items() if folder]  # no runs are left


def test_a_cluster_finishes_what_one_process_began(corpus, letters, tmp_path):
    "Two workers of Ray take up the batches of a killed process, and count none of them again."
    pytest.importorskip("ray")
    options = dict(groups=8, memory=MEMORY, cache=tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pair_tables, "_edges", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            two_point_mi(corpus, letters, [1, 4], **options)
    runs = sorted(tmp_path.glob("pairs-*/runs-*/*.parquet"))
    assert len(runs) == 4 * BATCHES
    for path in runs[::5]:
        path.unlink()
    folder, kept = runs[0].parent, {path: path.read_bytes() for path in runs[1::5]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(two_point, "remove_folder", lambda folder: None)
        table = two_point_mi(corpus, letters, [1, 4], engine="ray", workers=2, **options)
    assert table.equals(two_point_mi(corpus, letters, [1, 4], groups=8, memory=MEMORY))
    assert len(list(folder.glob("*.parquet"))) == 4 * BATCHES
    assert all(path.read_bytes() == data for path, data in kept.items())


def test_a_cluster_needs_a_cache_that_it_reaches(corpus, letters):
    with pytest.raises(ValueError, match="engine 'node:6379' may be other machines: give cache="):
        two_point_mi(corpus, letters, [1], engine="node:6379")
    with pytest.raises(ValueError, match="unknown scheme 's4'"):
        two_point_mi(corpus, letters, [1], cache="s4://bucket/cache")
    with pytest.raises(ValueError, match="engine 'spark' may be|engine 'spark' is unknown"):
        two_point_mi(corpus, letters, [1], engine="spark")


def cache_of(corpus, letters, folder, monkeypatch):
    "A token cache of five shards: its documents, and the folder of its store."
    monkeypatch.setattr(tokens, "_TOKENS_PER_SHARD", 30_000)
    documents = list(cached_tokens(corpus, letters, folder))
    (store,) = folder.glob("tokens-*")
    assert len(list(store.glob("0*.parquet"))) == 5
    return documents, store


def equal(documents, others):
    return len(documents) == len(others) and all(np.array_equal(a, b) for a, b in zip(documents, others))


@pytest.mark.parametrize("gone", [["000002"], ["000004"], ["000000", "000003"], ["complete"], ["000001", "complete"]])
def test_a_part_of_a_token_cache_is_never_taken_for_the_whole(corpus, letters, tmp_path, monkeypatch, gone):
    documents, store = cache_of(corpus, letters, tmp_path, monkeypatch)
    for name in gone:
        (store / f"{name}.parquet").unlink()
    if "complete" in gone:
        again = list(cached_tokens(corpus, letters, tmp_path))
    else:
        with pytest.warns(UserWarning, match=f"{gone[0]}.parquet' is gone, of 5 shards"):
            again = list(cached_tokens(corpus, letters, tmp_path))
    assert equal(again, documents) and equal(list(cached_tokens(corpus, letters, tmp_path)), documents)


def test_copies_are_left_out_of_a_cache_that_goes_on(letters, tmp_path, monkeypatch):
    "The numbers of documents are those of the documents that are kept, at the first pass and at the next."
    monkeypatch.setattr(tokens, "_TOKENS_PER_SHARD", 5_000)
    texts = [sticky(np.random.default_rng(i), 3000) for i in range(8)]
    source = written(tmp_path / "copies.jsonl", [texts[i] for i in (0, 1, 1, 2, 3, 1, 4, 5, 0, 6, 7)])
    with pytest.warns(UserWarning):
        documents = list(cached_tokens(source, letters, tmp_path / "cache"))
    assert len(documents) == 8
    for path in sorted(tmp_path.glob("cache/tokens-*/*.parquet"))[1:]:
        path.unlink()
    with pytest.warns(UserWarning):
        again = list(cached_tokens(source, letters, tmp_path / "cache"))
    assert equal(again, documents)


def flipped(path, *_):
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(data)


DAMAGES = {
    "a flipped bit": flipped,
    "cut short": lambda path, *_: path.write_bytes(path.read_bytes()[:-100]),
    "empty": lambda path, *_: path.write_bytes(b""),
    "no rows": lambda path, *_: pl.read_parquet(path)[:0].write_parquet(path),
    "rows lost": lambda path, *_: pl.read_parquet(path)[:3].write_parquet(path),
    "another shard": lambda path, *_: path.write_bytes(path.with_name("000003.parquet").read_bytes()),
    "a shard of another cache": lambda path, other: path.write_bytes((other / path.name).read_bytes()),
}


@pytest.mark.parametrize("name", ["000001", "complete"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_tokens_are_named_before_any_is_used(corpus, letters, tmp_path, monkeypatch, damage, name):
    _, store = cache_of(corpus, letters, tmp_path / "one", monkeypatch)
    source = written(tmp_path / "other.jsonl", [sticky(np.random.default_rng(i), 9000) for i in range(9, 17)])
    list(cached_tokens(source, letters, tmp_path / "two"))
    damage(store / f"{name}.parquet", next((tmp_path / "two").glob("tokens-*")))
    with pytest.raises(Damaged, match=f"{name}.parquet.*: delete it and start again"):
        next(cached_tokens(corpus, letters, tmp_path / "one"))


@pytest.mark.parametrize("end", [dict(shards=[3], documents=[30]), dict(shards=[5], documents=[47])])
def test_a_stale_end_mark_is_refused(corpus, letters, tmp_path, monkeypatch, end):
    _, folder = cache_of(corpus, letters, tmp_path, monkeypatch)
    Store.open(folder).write("complete", pl.DataFrame(end))
    with pytest.raises(Damaged, match="complete.parquet.*and there are 5 shards with 48 documents"):
        list(cached_tokens(corpus, letters, tmp_path))


def test_shards_of_another_size_are_refused(corpus, letters, tmp_path, monkeypatch):
    "Whoever puts shards together by hand: the first of one size, the second of another."
    documents, folder = cache_of(corpus, letters, tmp_path, monkeypatch)
    store = Store.open(folder)
    store.write("000001", store.read("000001")[1:])
    with pytest.raises(Damaged, match="000001.parquet.*and do not begin at 10"):
        list(cached_tokens(corpus, letters, tmp_path))


def test_caches_carry_what_they_depend_on(corpus, letters, tmp_path):
    two_point_mi(corpus, letters, [1], groups=4, cache=tmp_path)
    for folder in tmp_path.iterdir():
        assert {"l2m", "tokenizers", "transformers", "corpus", "tokenizer"} <= Store.open(folder).parameters.keys()


def test_a_tokenizer_is_known_by_what_it_cuts_by(letters):
    "Not by how its last call filled up a batch; two vocabularies of the same words in another order are two."
    before = tokenizer_fingerprint(letters)
    padded = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(letters.backend_tokenizer.to_str()), unk_token="[UNK]", pad_token="[UNK]"
    )
    padded(["ab", "abc"], padding=True, truncation=True, max_length=2)
    assert tokenizer_fingerprint(padded) == before
    other = Tokenizer(models.WordLevel({"[UNK]": 0} | {c: i for i, c in enumerate("bacdefgh", 1)}, unk_token="[UNK]"))
    other.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    assert tokenizer_fingerprint(PreTrainedTokenizerFast(tokenizer_object=other, unk_token="[UNK]")) != before


RUN_DAMAGES = {name: damage for name, damage in DAMAGES.items() if "shard" not in name} | {
    "another run": lambda path, *_: path.write_bytes(path.with_name("pairs-1-000003.parquet").read_bytes()),
    "a run of another count": lambda path, other: path.write_bytes(
        next(other.glob(f"pairs-*/runs-*/{path.name}")).read_bytes()
    ),
}


def killed_while_merging(corpus, letters, cache, seed, monkeypatch):
    "All runs are counted and nothing is merged: what a kill leaves."
    with monkeypatch.context() as patch:
        patch.setattr(PairRuns, "parts", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            two_point_mi(corpus, letters, [1, 4], groups=8, seed=seed, memory=MEMORY, cache=cache)


@pytest.mark.parametrize("damage", RUN_DAMAGES.values(), ids=RUN_DAMAGES)
def test_damaged_runs_are_counted_again(corpus, letters, tmp_path, monkeypatch, damage):
    killed_while_merging(corpus, letters, tmp_path / "one", 0, monkeypatch)
    killed_while_merging(corpus, letters, tmp_path / "two", 1, monkeypatch)
    run = next((tmp_path / "one").glob("pairs-*/runs-*/pairs-4-000002.parquet"))
    damage(run, tmp_path / "two")
    with pytest.warns(UserWarning, match="pairs-4-000002.parquet' is counted again: "):
        again = two_point_mi(corpus, letters, [1, 4], groups=8, memory=MEMORY, cache=tmp_path / "one")
    assert again.equals(two_point_mi(corpus, letters, [1, 4], groups=8, memory=MEMORY))


def test_a_damaged_table_of_counts_is_named(corpus, letters, tmp_path):
    two_point_mi(corpus, letters, [1, 4], groups=8, cache=tmp_path)
    flipped(next(tmp_path.glob("pairs-*/floor-00000004.parquet")))
    with pytest.raises(Damaged, match="floor-00000004.parquet"):
        two_point_mi(corpus, letters, [1, 4], groups=8, cache=tmp_path)


def test_a_damaged_table_of_counts_is_named_before_others_are_counted(corpus, letters, tmp_path, monkeypatch):
    two_point_mi(corpus, letters, [2, 4], groups=8, cache=tmp_path)
    damaged = next(tmp_path.glob("pairs-*/floor-00000004.parquet"))
    flipped(damaged)
    with monkeypatch.context() as patch:
        patch.setattr("l2m.two_point.cached_tokens", lambda *_: pytest.fail("counted"))
        with pytest.raises(Damaged, match="floor-00000004.parquet"):
            two_point_mi(corpus, letters, [1, 2, 4], groups=8, cache=tmp_path)
    damaged.unlink()
    assert two_point_mi(corpus, letters, [1, 2, 4], groups=8, cache=tmp_path).equals(
        two_point_mi(corpus, letters, [1, 2, 4], groups=8)
    )


@pytest.mark.parametrize(
    "wrong, message",
    [
        (
            dict(groups=10**9),
            "groups 1,000,000,000 of a vocabulary of 9 tokens need 134.1 GiB, and memory allows 2.0: choose groups <= 14,913,080",
        ),
        (dict(memory=0), "memory 0 bytes is too little to count in: give at least 1,048,576"),
        (dict(draws=0), "draws is 0, expected a whole number, at least 1"),
        (dict(seed=-1), "seed is -1, expected a whole number, at least 0"),
        (dict(distances=64), "distances is 64, expected a list of whole numbers: write"),
        (dict(distances=[0, 1]), "distance 0 is not a whole number of tokens >= 1"),
        (dict(distances=[]), "no distances: give at least one"),
        (dict(corpus="text.txt"), "corpus is 'text.txt', expected a Corpus"),
        (dict(tokenizer=9), "tokenizer is 9, and corpus '.*' is text: give the tokenizer"),
        (
            dict(corpus=[[0, 1], [2, 9]], tokenizer=9),
            "document 1 has tokens from 2 to 9, .* 9: .*give tokenizer=10 or more",
        ),
        (dict(corpus=[[0, 1], [-2]], tokenizer=9), "document 1 has tokens from -2 to -2"),
        (
            dict(corpus=["ACGT", "AC"], tokenizer=4),
            "document 0 holds no list of whole numbers: give the tokens of each",
        ),
        (dict(corpus=[0, 1, 2], tokenizer=4), "document 0 holds no list of whole numbers"),
        (dict(corpus=[[0, 1]] * 3, tokenizer=0), "tokenizer is 0, expected .* or a whole number, at least 1"),
        (dict(corpus=[[0, 1, 1]], tokenizer=2), "corpus 'your own' has one document"),
        (dict(tokenizer=None), "tokenizer is None, expected a transformers.PreTrainedTokenizerBase"),
    ],
)
def test_a_wrong_call_is_refused_at_once(corpus, letters, wrong, message):
    with pytest.raises(ValueError, match=message):
        two_point_mi(**dict(corpus=corpus, tokenizer=letters, distances=[1]) | wrong)


def test_corpora_that_cannot_do_are_named(letters, tmp_path):
    one, two = written(tmp_path / "one.jsonl", [[1] * 9]), written(tmp_path / "two.jsonl", [[1, 2] * 9, [1] * 4])
    with pytest.raises(ValueError, match="distance 99 is reached by 0 of the 2 documents .*choose distances <= 3"):
        two_point_mi(two, letters, [1, 99])
    with pytest.raises(ValueError, match="has one document"):
        two_point_mi(one, letters, [1])
    with pytest.raises(ValueError, match="distance 4 is reached by 1 of the 2 documents .*choose distances <= 3"):
        two_point_mi(two, letters, [1, 4])
    with pytest.raises(ValueError, match="no distances"):
        two_point_mi(two, letters, [])
    with pytest.raises(ValueError, match="groups 1"):
        two_point_mi(two, letters, [1], groups=1)


def law_table(alpha, amplitude, floor, distances, noise=1e-6):
    draws = np.random.default_rng(0).normal(size=(2, len(distances), 200)) * noise
    truth = amplitude * np.array(distances, float) ** -alpha + floor
    return pl.DataFrame(
        dict(
            distance=distances,
            mi=truth,
            floor=[floor] * len(truth),
            groups=[32] * len(truth),
            replicates=(truth[:, None] + draws[0]).tolist(),
            floor_replicates=(floor + draws[1]).tolist(),
        )
    )


@settings(max_examples=25, deadline=None)
@given(st.floats(0.3, 1.5), st.floats(0.3, 3), st.floats(0.01, 2), st.sampled_from(["fitted", "measured"]))
def test_fit_recovers_the_law(alpha, amplitude, floor, kind):
    law = fit_two_point(law_table(alpha, amplitude, floor, [1, 2, 4, 8, 16, 32, 64, 128]), kind)
    assert (
        law.exponent == pytest.approx(alpha, abs=0.01)
        and law.amplitude == pytest.approx(amplitude, rel=0.02)
        and law.floor == pytest.approx(floor, abs=1e-3)
    )
    assert law.interval[0] <= law.exponent <= law.interval[1]


def test_floor_of_an_exact_law_is_exact():
    d = 2.0 ** np.arange(10)
    assert fit_floor(d, 1.5 * d[None] ** -0.9 + 0.4) == pytest.approx(0.4, abs=1e-5)


def test_floors_that_differ_are_told_apart():
    table = law_table(0.8, 1, 0.3, [1, 2, 4, 8, 16, 32])
    assert "the two agree" in compare_floors(table) or "+0.0000" in compare_floors(table)
    lower = table.with_columns(
        floor=pl.col("floor") - 0.1, floor_replicates=pl.col("floor_replicates").list.eval(pl.element() - 0.1)
    )
    assert "supports the measured floor" in compare_floors(lower)


def test_excess_below_the_noise_is_not_fitted_in_silence():
    table = law_table(1.2, 1, 0.3, [2**k for k in range(10)], noise=0.004)
    law = fit_two_point(table, "measured")
    assert law.distances[-1] < 512 and "fitted up to d" in law.notes[0]
    with pytest.raises(ValueError, match="floor is 'guessed', expected one of 'fitted', 'measured'"):
        fit_two_point(table, "guessed")
    with pytest.raises(ValueError, match="2 distances are too few"):
        fit_two_point(table[:2], "measured")


def test_a_fitted_floor_that_ends_at_zero_is_said():
    "A slow power without a floor; the measured floor is no matter of the fit."
    distances = [1, 2, 4, 8, 16, 32, 64, 128]
    flat = law_table(0.02, 2.5, 0, distances)
    law = fit_two_point(flat, "fitted")
    assert law.floor < 0.01 * flat["mi"].min() and any("the fitted floor ends at zero" in note for note in law.notes)
    for kind, table in (("fitted", law_table(0.8, 1, 0.3, distances)), ("measured", flat)):
        assert not any("ends at zero" in note for note in fit_two_point(table, kind).notes)


def spoilt(column, row, value):
    return lambda t: t.with_columns(
        pl.when(pl.int_range(len(t)) == row).then(pl.lit(value, t[column].dtype)).otherwise(column).alias(column)
    )


@pytest.mark.parametrize(
    "spoil, message",
    [
        (spoilt("mi", 3, float("nan")), r"distance 8 has mi nan \(row 3, column 'mi'\)"),
        (spoilt("mi", 3, 1e300), r"distance 8 has mi 1e\+300 \(row 3, column 'mi'\)"),
        (spoilt("mi", 3, -0.1), "distance 8 has mi -0.1.*: a logarithm needs positive estimates"),
        (spoilt("floor", 1, float("inf")), r"distance 2 has floor inf \(row 1, column 'floor'\)"),
        (spoilt("distance", 2, None), "column 'distance'"),
        (lambda t: t.with_columns(distance=pl.col("distance") - 1), "distances must be positive and occur once each"),
        (lambda t: pl.concat([t, t]), "occur once each"),
        (lambda t: t.with_columns(groups=1), "1 groups of documents give no interval"),
        (lambda t: t.with_columns(mi=pl.col("mi").cast(str)), "column 'mi' holds String, expected numbers"),
        (lambda t: t.drop("floor"), "needs the column 'floor'"),
        (lambda t: t.drop("floor_replicates"), "needs the column 'floor_replicates'"),
        (spoilt("replicates", 4, None), "same number of bootstrap draws"),
        (
            spoilt("replicates", 4, [1.0] * 199 + [float("nan")]),
            r"distance 16 has the draw nan \(row 4, column 'replicates', entry 199\)",
        ),
        (lambda t: t.with_columns(replicates=pl.col("replicates").list.head(9)), "at least 40 for level 0.95"),
        (spoilt("replicates", 0, [1.3] * 200), r"distance 1 has mi 1.3.*\(row 0\): need .*draws that differ"),
        (lambda t: t.head(0), "distances must be positive"),
    ],
)
@pytest.mark.parametrize("fit", [fit_two_point, compare_floors])
def test_tables_with_a_wrong_number_are_refused(fit, spoil, message):
    with pytest.raises(ValueError, match=message):
        fit(spoil(law_table(0.8, 1, 0.3, [1, 2, 4, 8, 16, 32])))


def test_rows_are_counted_as_the_table_was_given():
    table = law_table(0.8, 1, 0.3, [1, 2, 4, 8, 16, 32]).reverse()
    with pytest.raises(ValueError, match=r"distance 16 has mi nan \(row 1, column 'mi'\)"):
        fit_two_point(spoilt("mi", 1, float("nan"))(table))
    assert fit_two_point(table) == fit_two_point(table.reverse())


def test_a_floor_at_the_edge_of_its_search_is_in_the_data():
    flat = law_table(0.02, 2.5, 0, [1, 2, 4, 8, 16, 32])
    assert fit_two_point(flat).at_edge and "hardly a law" in str(fit_two_point(flat))
    assert (
        not fit_two_point(flat, "measured").at_edge
        and not fit_two_point(law_table(0.8, 1, 0.3, [1, 2, 4, 8, 16, 32])).at_edge
    )


def test_draws_without_a_logarithm_are_left_out():
    table = law_table(0.8, 1, 0.3, [1, 2, 4, 8, 16, 32])
    some = spoilt("replicates", 5, [-0.1] * 5 + table["replicates"][5].to_list()[5:])(table)
    assert "5 of 200 draws left out" in fit_two_point(some).notes[-1]
    most = spoilt("replicates", 5, [-0.1] * 190 + table["replicates"][5].to_list()[190:])(table)
    with pytest.raises(ValueError, match="10 draws lie above their floor, and an interval needs 40"):
        fit_two_point(most)


@pytest.mark.parametrize("distances", [0, [-1], [4, float("nan")], "far", [[1], [2, 3]]])
def test_a_law_is_for_positive_distances(distances):
    law = fit_two_point(law_table(0.8, 1, 0.3, [1, 2, 4, 8, 16, 32]))
    with pytest.raises(ValueError, match="distances"):
        law.predict(distances)
    assert law.predict(4) == pytest.approx(law.predict([4])[0])


def run(tmp_path, letters, **given):
    "The experiment with its ci profile; its tables."
    letters.save_pretrained(tmp_path / "tokenizer")
    own = dict(tokenizer=str(tmp_path / "tokenizer"), cache=str(tmp_path / "cache"))
    run_experiment("two_point_scaling", "ci", own | given, str(tmp_path / "out"))
    return (pl.read_parquet(tmp_path / "out" / f"{name}.parquet") for name in ("table", "laws"))


def in_files(folder):
    folder.mkdir()
    generator = np.random.default_rng(3)
    for i in range(8):
        (folder / f"{i}.txt").write_text("".join("abcdefgh"[w] for w in sticky(generator, 2000)))
    return folder


@pytest.mark.parametrize("kind", ["folder", "hub"])
def test_the_experiment_runs_on_a_folder_and_on_a_dataset(letters, tmp_path, kind):
    "The Hub is stood in for by a folder in its layout; both are read to the same documents, and a killed run's counts are taken up."
    folder = in_files(tmp_path / "texts")
    expected = two_point_mi(load_corpus(str(folder)), letters, [1, 2, 4, 8, 16, 32], groups=8)
    source = str(folder)
    if kind == "hub":
        (tmp_path / "dataset").mkdir()
        texts = [path.read_text() for path in sorted(folder.glob("*.txt"))]
        pl.DataFrame({"text": texts}).write_parquet(tmp_path / "dataset" / "train.parquet")
        source = f"hf:{tmp_path / 'dataset'}"
    table, laws = run(tmp_path, letters, corpus=source, groups=8)
    assert np.allclose(table["mi"], expected["mi"], rtol=0, atol=1e-12) and table["documents"].to_list() == [8] * 6
    assert np.allclose(table["stderr"], expected["stderr"], rtol=1e-9) and laws["corpus"].unique().to_list() == [source]
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cache/*/*.parquet")}
    assert len(kept) == 12 + 2  # two tables a distance, one shard of tokens and the mark of its end


def novels(path, documents=5):
    "A table like those of ELTeC, one row a novel: made-up Hungarian, in which some chapters are about the river and others about the mill."
    rng, places = (
        random.Random(0),
        ("a folyó lassan hordta az ágakat".split(), "egy malomnál senki se beszélt hangosan".split()),
    )
    chapter = lambda: ". ".join(" ".join(rng.choices(rng.choice(places), k=9)).capitalize() for _ in range(4)) + "."
    pl.DataFrame(
        [dict(id=f"HU{i}", text="\n".join(chapter() for _ in range(60))) for i in range(documents)]
    ).write_parquet(path)


def test_the_experiment_runs_on_a_table_of_novels(letters, tmp_path):
    novels(tmp_path / "eltec-hun.parquet")
    table, laws = run(
        tmp_path,
        letters,
        corpus=str(tmp_path / "eltec-hun.parquet"),
        documents=3,
        groups=3,
        language="hu",
        distances=[1, 2, 4, 8],
    )
    assert (
        table["documents"].to_list() == [3] * 4 and table["mi"].is_sorted(descending=True) and "fitted" in laws["floor"]
    )
