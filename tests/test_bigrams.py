"The entropy of neighbouring tokens, counted like pairs at any other distance."

from collections import Counter

import numpy as np
import pytest

from l2m.corpora import load_corpus
from l2m.counting import bigram_entropy
from l2m.information import entropy


class Letters:
    "A tokenizer of single characters."

    name_or_path = "letters"

    def __call__(self, texts, **_):
        return {"input_ids": [[ord(c) for c in t] for t in texts]}


@pytest.mark.parametrize(
    "memory", [2**31, 2**20, 400]
)  # all at once, and with so little that every document or two is a batch of its own
def test_bigrams_never_cross_documents(tmp_path, monkeypatch, memory):
    "Whether counted in one batch or merged from many."
    from l2m import counting

    batches, add = [], counting.PairRuns.add
    monkeypatch.setattr(
        counting.PairRuns,
        "add",
        lambda self, name, number, count: (batches.append(number), add(self, name, number, count))[1],
    )
    bodies = ["abab", "bba", "ab", "a", "cabcab"]
    for i, body in enumerate(bodies):
        (tmp_path / f"{i}.txt").write_text(body)
    counts = Counter(pair for body in bodies for pair in zip(body, body[1:]))
    assert bigram_entropy(load_corpus(str(tmp_path)), Letters(), memory=memory) == pytest.approx(
        entropy(np.array(list(counts.values())))
    )
    assert len(batches) == (4 if memory == 400 else 1)


def test_a_corpus_without_bigrams_is_named(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(name)
    with pytest.raises(ValueError, match="has two tokens"):
        bigram_entropy(load_corpus(str(tmp_path)), Letters())
    with pytest.raises(ValueError, match="tokenizer is None"):
        bigram_entropy(load_corpus(str(tmp_path)), None)
    with pytest.raises(ValueError, match="corpus is 'sotu', expected a Corpus"):
        bigram_entropy("sotu", Letters())
