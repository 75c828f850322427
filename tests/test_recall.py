"Tests of recall as sources: against enumeration, against the construction in use, and what models capture of them."

import math
from itertools import permutations, product
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from l2m.bipartite import measure_bipartite
from l2m.estimators import Direct, bipartite_mi
from l2m.plans import generator_of
from l2m.processes import PolyaUrn, process_windows
from l2m.recall import MQAR, Copying, Passkey
from l2m.santa_fe import SantaFe
from l2m.tasks import RecallTask, recall_of
from l2m.training import evaluate

name = lambda value: getattr(value, "name", None)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# ---- the definitions once more, one text at a time -------------------------------------------------------------------


def mqar_texts(process):
    "All choices of keys, of values and of slots, each as likely."
    n, keys = process.pairs, range(1, process.keys + 1)
    values = range(process.keys + 1, process.keys + process.values + 1)
    for told in product(permutations(keys, n), permutations(values, n), permutations(range(process.room), n)):
        asked = [0] * 2 * process.room
        for key, value, slot in zip(*told):
            asked[2 * slot : 2 * slot + 2] = key, value
        yield (*(token for pair in zip(*told[:2]) for token in pair), *asked)


def passkey_texts(process):
    words = process.length - 2 * process.digits - 2
    for place, *key in product(range(process.places), *[range(10)] * process.digits):
        for filler in product(range(11, 11 + process.filler), repeat=words):
            yield (*filler[:place], 10, *key, *filler[place:], 10, *key)


def table(texts):
    out, texts = {}, list(texts)
    for text in texts:
        out[text] = out.get(text, 0) + 1 / len(texts)
    return out


def part(table, start, stop):
    out = {}
    for text, p in table.items():
        out[text[start:stop]] = out.get(text[start:stop], 0) + p
    return out


def entropy(table):
    return -math.fsum(p * math.log(p) for p in table.values())


@pytest.mark.parametrize(
    "process, texts",
    [
        (MQAR(2, 3, 2), mqar_texts),
        (MQAR(2, 2, 3, slots=3), mqar_texts),
        (MQAR(3, 3, 3, slots=4), mqar_texts),
        (Passkey(8, 1, 2), passkey_texts),
        (Passkey(10, 2, 1), passkey_texts),
    ],
    ids=name,
)
def test_every_formula_and_conditional_agrees_with_enumeration(process, texts):
    whole, length = table(texts(process)), process.length
    for n in range(length + 1):
        assert process.block_entropy(n) == pytest.approx(entropy(part(whole, 0, n)), abs=1e-9)
    starts = range(2, length, 2) if isinstance(process, MQAR) else range(process.split, length)
    for split in starts:
        x, y = part(whole, 0, split), part(whole, split, length)
        exact = entropy(x) + entropy(y) - entropy(whole)
        assert process.bipartite_mi(split, length) == pytest.approx(exact, abs=1e-9)
    for start in (0, *starts):
        some = part(whole, start, length)
        p = process.token_logprobs(torch.tensor(list(some)), start).sum(1).exp()
        assert p.numpy() == pytest.approx(np.array(list(some.values())), rel=1e-9)
    tokens = process.sample(20_000, length, generator()).tolist()
    found = table(map(tuple, tokens))
    assert set(found) <= set(whole)
    common = {text: p for text, p in whole.items() if p > 1e-3}
    assert all(abs(found.get(text, 0) - p) < 5 * math.sqrt(p / 20_000) for text, p in common.items())
    share = torch.bincount(torch.tensor(tokens).flatten(), minlength=process.vocabulary) / (20_000 * length)
    assert torch.allclose(share.double(), process.unigram(), atol=0.01)


def test_the_closed_forms():
    n, pairs = 16, MQAR(16, 4095, 4096, slots=48)
    which = math.log(math.comb(4095, n))
    answers = math.log(math.perm(4096, n))
    assert pairs.bipartite_mi(pairs.split, pairs.length) == pytest.approx(which + answers, rel=1e-9)
    assert (round(answers), round(which)) == (133, 102)
    assert Passkey(512).bipartite_mi(256, 512) == pytest.approx(math.log(10**5))
    assert Copying(7, 30).bipartite_mi(30, 60) == pytest.approx(30 * math.log(7))
    stationary = SantaFe(math.inf, 64, "query", values=64)
    found = [stationary.bipartite_mi(2 * n, 4 * n) for n in (16, 64, 256, 1024)]
    assert found == pytest.approx([13.2, 107, 257, 266], rel=5e-3)


def test_the_estimators_read_them():
    process = MQAR(3, 6, 5, slots=5)
    windows = process_windows(process, process.length, 800, generator(1))
    scores = measure_bipartite(process, windows, lengths=[process.length], ratios=[2], batch_size=800)
    row = bipartite_mi(scores, [Direct()], draws=10).row(0, named=True)
    truth = process.bipartite_mi(row["split"], row["length"])
    assert abs(row["mi"] - truth) < 4.5 * row["stderr"] + 1e-9


# ---- the construction in use (HazyResearch/zoology, multiquery_ar) ---------------------------------------------------


def zoology(texts, vocabulary, length, pairs, power, seed=0):
    "The same law in a few words: tokens, labels (-100: none) and slots of the queries in the order of the pairs."
    rng, half, slots = np.random.default_rng(seed), vocabulary // 2, (length - 2 * pairs) // 2
    weights = np.arange(1.0, slots + 1) ** (power - 1)
    tokens, labels = np.zeros((texts, length), int), np.full((texts, length), -100)
    drawn = np.empty((texts, pairs), int)
    for row, label, slot in zip(tokens, labels, drawn):
        keys, values = rng.permutation(np.arange(1, half))[:pairs], half + rng.permutation(vocabulary - half)[:pairs]
        row[: 2 * pairs : 2], row[1 : 2 * pairs : 2] = keys, values
        slot[:] = rng.choice(slots, pairs, replace=False, p=weights / weights.sum())
        row[2 * pairs + 2 * slot], label[2 * pairs + 2 * slot] = keys, values
    return tokens, labels, drawn


def test_facts_of_the_construction_in_use():
    vocabulary, length, n = 64, 64, 8
    tokens, labels, _ = zoology(300, vocabulary, length, n, 1.0)
    process = MQAR(n, vocabulary // 2 - 1, vocabulary // 2, (length - 2 * n) // 2)
    ours = process.sample(300, length, generator()).numpy()
    assert (process.length, process.vocabulary) == (length, vocabulary)
    for text in (tokens, ours):  # halves of the vocabulary, pairs first, without gaps
        assert text[:, : 2 * n : 2].min() >= 1 and text[:, : 2 * n : 2].max() <= 31
        assert text[:, 1 : 2 * n : 2].min() >= 32 and text[:, 1 : 2 * n : 2].max() <= 63
        assert all(sorted(row[2 * n :: 2][row[2 * n :: 2] > 0]) == sorted(row[: 2 * n : 2]) for row in text)
    asked = tokens[:, 2 * n :: 2] > 0
    assert (labels[:, 2 * n :: 2] >= 32).sum() == asked.sum() == 300 * n, "the label stands at the query itself"
    assert not tokens[:, 2 * n + 1 :: 2].any(), "the answer is no token of theirs, the next place is filler"
    assert ((ours[:, 2 * n + 1 :: 2] > 0) == (ours[:, 2 * n :: 2] > 0)).all(), "of ours it is, behind the query"
    filled = ours.copy()
    filled[:, 2 * n + 1 :: 2] = 0  # without the answers both are of one law
    for place in (2 * n, length - 2):
        a, b = (np.mean(text[:, place] > 0) for text in (tokens, filled))
        assert abs(a - b) < 5 * math.sqrt(2 * (1 / 3) * (2 / 3) / 300)


@pytest.mark.parametrize("power, low, high", [(1.0, -0.06, 0.06), (0.01, 0.2, 0.32)])
def test_the_default_gaps_tell_the_order(power, low, high):
    "Rank correlation of the order of keys in X with that of their queries in Y; 0.02 is its standard error."
    _, _, slots = zoology(400, 64, 64, 8, power, seed=3)
    assert low < np.mean([spearmanr(np.arange(8), row).statistic for row in slots]) < high


# ---- what is captured ------------------------------------------------------------------------------------------------


class Knows(nn.Module):
    "The process itself as a model, which may read Y as if it had seen no X."

    def __init__(self, process, split, blind=False):
        super().__init__()
        self.process, self.split, self.blind = process, split, blind
        self.config = SimpleNamespace(vocab_size=process.vocabulary + 1, bos_token_id=process.vocabulary)

    def _next(self, place):
        if isinstance(self.process, SantaFe):  # questions, then answers
            facts = self.process.facts
            return torch.arange(facts) if place % 2 == 0 else torch.arange(facts, self.process.vocabulary)
        return torch.arange(self.process.vocabulary)

    def forward(self, ids, use_cache=False):
        logits = torch.full((*ids.shape, self.process.vocabulary + 1), -math.inf)
        for place in range(ids.shape[1]):
            skip = self.split if self.blind and place >= self.split else 0
            first, known = ids[:, 1 + skip : place + 1], self._next(place)
            rows = torch.cat([first.repeat_interleave(len(known), 0), known.repeat(len(ids))[:, None]], 1)
            start = (skip,) if skip and isinstance(self.process, (MQAR, Passkey)) else ()
            found = self.process.token_logprobs(rows, *start)[:, -1].view(len(ids), -1)
            logits[:, place, known] = found.float()
        return SimpleNamespace(logits=logits)


TASKS = [
    RecallTask(MQAR(2, 4, 5, slots=3), 10, 4, answers=5),
    RecallTask(Passkey(10, 2, 2), 10, 5),
    RecallTask(Copying(3, 4), 8, 4),
    RecallTask(SantaFe(0.7, 4, "query", values=3), 10, 4),
]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.process.name)
def test_the_process_itself_captures_all_and_who_reads_no_x_nothing(task):
    exact = recall_of(evaluate(Knows(task.process, task.split), task, 50, 50).table)
    assert exact.share == pytest.approx(1, abs=1e-5) and exact.accuracy == 1 and exact.accuracy_stderr < 1e-6
    blind = recall_of(evaluate(Knows(task.process, task.split, blind=True), task, 600, 300).table)
    assert abs(blind.share) < 4.5 * blind.share_stderr + 1e-5
    assert blind.accuracy < 0.6
    samples = task.draw(0, 400, generator(5), torch.device("cpu"))
    found = task.scores(Knows(task.process, task.split), samples)
    cost = found["nll"][:, task.split :].sum(1)  # of Y after X, and H(Y) as what the process alone says of it
    gained = task.shared + task.process.block_entropy(task.length) - task.process.block_entropy(task.split) - cost
    assert abs(gained.mean() - task.shared) < 4.5 * gained.std() / 20 + 1e-4


def test_errors_are_those_of_sequences():
    task = TASKS[-1]
    model = Knows(task.process, task.split, blind=True)
    evaluation = evaluate(model, task, 500, 500, seed=2)
    found = recall_of(evaluation.table)
    scores = task.scores(model, task.draw(0, 500, generator_of(torch.device("cpu"), 2, "evaluate", 0), None))
    right, asked, lost = (scores[key][:, 0].double() for key in ("right", "asked", "lost"))
    accuracy = (right.sum() / asked.sum()).item()
    error = (right - accuracy * asked).std() / asked.mean() / math.sqrt(500)
    assert found.accuracy == pytest.approx(accuracy) and found.accuracy_stderr == pytest.approx(error.item(), rel=1e-6)
    assert found.share == pytest.approx(1 - lost.mean().item())
    assert found.share_stderr == pytest.approx(lost.std().item() / math.sqrt(500))
    assert list(evaluation.averages)[0] == "lost", "what a study chooses rates by"


def test_a_count_of_answers_is_not_asked_where_tokens_are_facts():
    task = RecallTask(SantaFe(0.7, 4), 8, 4)
    scores = task.scores(Knows(Copying(8, 99), 4), task.draw(0, 50, generator(), torch.device("cpu")))
    assert not scores["asked"].any()


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong, message",
    [
        (lambda: MQAR(9, 8, 20), "9 pairs of 8 keys and 20 values: choose at least as many keys and values as pairs"),
        (lambda: MQAR(4, 8, 8, slots=3), "3 slots for 4 queries: choose slots >= 4, or 0 for no gaps"),
        (lambda: MQAR(4, 8, 8).bipartite_mi(5, 16), "split 5 cuts a key from its value: choose an even split"),
        (lambda: MQAR(4, 8, 8).bipartite_mi(4, 12), "12 tokens are not all of 'MQAR 4 of 8 x 8 in 4'"),
        (lambda: MQAR(4, 8, 8).sample(1, 18, generator()), "ends after 16, choose length <= 16"),
        (lambda: Passkey(11), "length 11 for 5 digits: choose an even length >= 12"),
        (lambda: Passkey(20).bipartite_mi(4, 20), "choose split >= 10"),
        (lambda: Copying(1, 4), "alphabet is 1, expected a whole number, at least 2"),
        (lambda: RecallTask(SantaFe(0.7, 4, "query"), 10, 5), "choose an even split"),
        (lambda: RecallTask(Copying(3, 9), 8, 4), "share nothing to recall"),
        (lambda: recall_of(process_table()), "the table has no column 'lost': evaluate on a RecallTask"),
        (
            lambda: recall_of(pl.DataFrame(dict.fromkeys(("lost", "lost_stderr", "right", "wrong", "asked"), []))),
            "the table has no rows: evaluate on a RecallTask",
        ),
        (lambda: Passkey(32).token_logprobs(torch.zeros(1, 2, dtype=torch.long), start=-2), "tokens -2 to 0"),
    ],
)
def test_bad_input_gets_one_clear_error(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


def process_table():
    windows = process_windows(PolyaUrn(), 8, 4, generator())
    return bipartite_mi(measure_bipartite(PolyaUrn(), windows, lengths=[4], batch_size=4), draws=2)
