"Recall told from reading: recited spans, other names, which book, and twins, against processes whose truth is known."

import re
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from l2m.bipartite import groups_of, measure_bipartite
from l2m.corpora import Corpus
from l2m.estimators import bipartite_mi
from l2m.interface import Continuation
from l2m.memorisation import (
    Reciter,
    best_spans,
    compare,
    direct_terms,
    dosed,
    estimates,
    is_recited,
    recited_arm,
    summary,
    tries_needed,
    twin_terms,
    without,
)
from l2m.models import build_model
from l2m.names import aligned, invented_name, names_in, new_names, rename_windows, renamed
from l2m.processes import MarkovChain, PolyaUrn, process_windows
from l2m.reading import Document
from l2m.rereading import (
    Reading,
    book_arm,
    book_terms,
    check_titles,
    far_passages,
    names_arm,
    read_all,
    renamed_terms,
    three_arms,
    title_lines,
)
from l2m.runs import _flags, _option_words
from l2m.scaling import fit_power_law
from l2m.scoring import LanguageModel
from l2m.testing import check_scorer
from l2m.tokens import chars_added, encode
from l2m.windows import Windows, token_windows

URN = PolyaUrn(8, 1.0)
BOOK = tuple(URN.sample(1, 500, torch.Generator().manual_seed(5))[0].tolist())


def windows_of(process, n=60, length=32, seed=0):
    return process_windows(process, length, n, torch.Generator().manual_seed(seed))


def one_by_one(reciter, text, length):
    "The log-probability of a beginning of a text of this length, from the sum over all places of the book."
    places = len(reciter.book) - length + 1
    hits = sum(reciter.book[i : i + len(text)] == tuple(text) for i in range(places))
    other = float(reciter.process.token_logprobs(torch.tensor([text])).sum())
    return np.log((1 - reciter.suspicion) * np.exp(other) + reciter.suspicion * hits / places)


def test_the_reciter_is_a_mixture_over_places():
    "Against the sum itself; and it keeps a scorer's promises."
    reciter = Reciter(URN, BOOK, 1e-3)
    check_scorer(reciter)
    for text in (BOOK[100:112], BOOK[3:7] + BOOK[50:58]):
        nats = reciter.token_logprobs(torch.tensor([text])).sum().item()
        assert nats == pytest.approx(one_by_one(reciter, list(text), 12), abs=1e-9)


def test_a_recited_span_is_found_with_its_probability():
    "A window half recited: the best span is the recited one, and its probability is that of the mixture."
    fresh = windows_of(URN, 8, 48)
    fresh.tokens[3, 8:40] = torch.tensor(BOOK[60:92])
    fresh.tokens[5] = torch.tensor(BOOK[200:248])
    reciter = Reciter(URN, BOOK, 1e-3)
    scores = measure_bipartite(reciter, fresh, lengths=[8, 48], shuffles=0)
    spans = best_spans(scores, 20)
    text = list(BOOK[200:248])
    price = [0.0, *(one_by_one(reciter, text[:i], 48) for i in range(1, 49))]
    exact = max(price[i + 20] - price[i] for i in range(29))
    assert spans[5] == pytest.approx(exact, abs=1e-4)
    assert is_recited(spans, 0.5).tolist() == [
        i == 5 for i in range(8)
    ]  # what begins inside is no excerpt for this reader
    assert tries_needed(0.001, 0.5) == pytest.approx(692.8, abs=0.1)


def test_dropping_is_paired():
    "The difference of a subset's mean and all, draw by draw; and the whole is bipartite_mi's own."
    scores = measure_bipartite(URN, windows_of(URN), lengths=[4, 8, 32], shuffles=0)
    own, dropped = direct_terms(scores), np.arange(60) % 3 == 0
    whole, mine = bipartite_mi(scores), estimates(own, scores.group)
    np.testing.assert_allclose(mine["replicates"].to_list(), whole["replicates"].to_list())
    table = compare("a", "b", without(own, dropped), own, scores.group)
    rows = table.filter(quantity="mi")
    for row in rows.iter_rows(named=True):
        values = own[row["length"]]
        assert row["difference"] == pytest.approx(values[~dropped].mean() - values.mean())
        assert row["difference_low"] < row["difference"] < row["difference_high"]
        assert row["share"] == pytest.approx(row["difference"] / values.mean()) or row["share"] is None
        assert row["windows"] == 40
    law = table.filter(quantity="exponent").row(0, named=True)
    expected = fit_power_law(estimates(without(own, dropped), scores.group)).exponent - fit_power_law(mine).exponent
    assert law["difference"] == pytest.approx(expected)
    same = compare("a", "b", own, own, scores.group)
    assert same["difference"].to_list() == same["difference_high"].to_list() == [0] * 4


def test_intervals_of_differences_cover():
    "Of a constant shift with noise of its own, in 60 repetitions: 95 % intervals miss rarely."
    rng, hits = np.random.default_rng(0), 0
    group = np.repeat(np.arange(20), 2)
    for _ in range(60):
        base = rng.normal(5, 1, 20)[group] + rng.normal(0, 0.3, 40)
        arm = base + 0.5 + rng.normal(0, 0.4, 20)[group]
        row = compare("a", "b", {4: arm}, {4: base}, group).row(0, named=True)
        hits += row["difference_low"] < 0.5 < row["difference_high"]
    assert hits >= 51  # of 57 expected; fewer in one run of some hundreds


STORY = (
    "Mary walked to Barton. The aunt of Mary saw Mr. Ferrars, and Ferrars saw Mary. In the end, Mary left Barton; "
    "so did Ferrars. Mary’s aunt stayed. It was May, and English weather, as Mary said to Ferrars in Barton. "
)


def test_names_are_told_by_capitals():
    assert names_in(STORY) == {"Mary", "Barton", "Ferrars"}
    assert "Rose" not in names_in(STORY + "He saw Rose, and Rose. A rose is a rose. ")
    with pytest.raises(ValueError, match="no capital letters: names cannot be told, leave this arm out"):
        names_in("彼は駅へ行った。" * 20)
    with pytest.raises(ValueError, match="German writes every noun"):
        names_in("und er sah den Hund und die Katze, der Hund sah das Haus und die Tür " * 80)


@pytest.mark.parametrize("kind", ["period", "invented"])
def test_names_are_replaced_consistently(kind):
    names = ["Mary", "Barton", "Ferrars"]
    new = new_names(names, kind, ["Agnes"])
    assert new == new_names(names[::-1], kind, ["Agnes"])  # whatever the order
    assert len({*new.values()} | {*names}) == 6 and "Agnes" not in new.values()
    other = renamed(STORY, new)
    assert not any(re.search(rf"\b{name}\b", other.text) for name in names)
    for name in names:
        assert len(re.findall(rf"\b{name}\b", STORY)) == other.text.count(new[name])
    for begin, end, new_begin, new_end in other.spans:
        assert new[STORY[begin:end]] == other.text[new_begin:new_end]
    places = np.arange(len(STORY) + 1)
    moved = other.moved(places)
    kept = [(STORY[i], other.text[j]) for i, j in zip(places[:-1], moved) if j >= 0 and moved[i + 1] == j + 1]
    outside = len(STORY) - sum(end - begin for begin, end, *_ in other.spans)
    assert len(kept) >= outside and all(a == b for a, b in kept[:outside])


def test_invented_names_are_in_no_list():
    made = {invented_name(str(i)) for i in range(200)}
    assert len(made) > 150 and not made & {*new_names(["Mary"], "period").values()}


def tokenizer_of(*texts):
    "Words and single other characters; a word of more than five letters is cut after the third."
    pattern = r"\w{3}(?=\w{3})|\w+|\W"
    pieces = dict.fromkeys(re.findall(pattern, " ".join(texts)))
    backend = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token=" "))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=" ", name_or_path="pieces")


def test_unchanged_tokens_are_aligned_by_characters():
    new = renamed(STORY, {"Mary": "Theodora", "Barton": "Ely", "Ferrars": "Poe"})
    tokenizer = tokenizer_of(STORY, new.text)
    cut = encode(STORY, tokenizer, return_offsets_mapping=True)
    ids, chars = np.array(cut["input_ids"]), chars_added(cut["offset_mapping"])
    found = aligned(ids, chars, new, tokenizer)
    ends, old_offsets = np.cumsum(chars), cut["offset_mapping"]
    new_offsets = encode(new.text, tokenizer, return_offsets_mapping=True)["offset_mapping"]
    named = [any(a < e and b > s for s, e, *_ in new.spans) for a, b in old_offsets]
    expected = [i for i in range(len(ids)) if not named[i] and not (i and named[i - 1])]
    assert found.same[:, 0].tolist() == expected
    for i, j in found.same:
        assert ids[i] == found.tokens[j]
        (a, b), (c, d) = old_offsets[i], new_offsets[j]
        assert STORY[a:b] == new.text[c:d] and new.moved(np.array([a, b])).tolist() == [c, d]
    for i, at in enumerate(found.place):  # a token begins at the same place, or none does
        begin = new.moved(ends[i : i + 1] - chars[i])[0]
        assert (at >= 0) == (begin in [a for a, _ in new_offsets]) and (at < 0 or new_offsets[at][0] == begin)


def model_of(tokenizer, length=80):
    "A random network that reads these tokens."
    network = build_model("llama", "1x32", length=length, vocabulary=len(tokenizer), seed=1).double()
    return LanguageModel(network, tokenizer, "random", network.config.bos_token_id)


def novels(n=4):
    "Documents whose windows have names, and what a tokenizer needs to know."
    text = STORY.replace("May", "spring")
    documents = [Document(f"book {i}", " ".join([text.replace("aunt", f"aunt{i}")] * 6)) for i in range(n)]
    spare = " ".join(name for kind in ("women", "men", "surnames") for name in new_names_of(kind))
    return Corpus.of(documents), tokenizer_of(*(d.text for d in documents), spare)


def new_names_of(kind):
    from l2m.names import _lists

    return _lists()[kind]


def test_renamed_terms_are_sums_over_unchanged_tokens():
    "Every reading done again by hand: one text, one Y, one token at a time."
    corpus, tokenizer = novels()
    scorer, texts = model_of(tokenizer, 200), {d.id: d.text for d in corpus}
    drawn = token_windows(corpus, tokenizer, length=40, n=6, seed=0)
    scores = measure_bipartite(scorer, drawn, lengths=[8, 40], shuffles=0)
    old, new = renamed_terms(scorer, scores, drawn, texts, "period")
    others = rename_windows(drawn, texts, tokenizer, "period")
    assert any(other is not None for other in others)
    for length, split in ((8, 4), (40, 20)):
        for i, other in enumerate(others):
            if other.place[split] < 0:
                assert np.isnan(old[length][i]) and np.isnan(new[length][i])
                continue
            at, tokens = other.place[split], torch.from_numpy(other.tokens)
            joint, alone = scorer.logprobs(tokens[None])[0][0], scorer.logprobs(tokens[None, at:])[0][0]
            pairs = [(a, b) for a, b in other.same if split <= a < length]
            assert new[length][i] == pytest.approx(float(sum(joint[b] - alone[b - at] for _, b in pairs)), abs=1e-4)
            mine = sum(scores.joint[i, a] - scores.alone[split][i, a - split] for a, _ in pairs)
            assert old[length][i] == pytest.approx(float(mine), abs=1e-5)


class Library:
    "A scorer of books of two kinds, as likely: Markov chains. What is put after a context begins anew in the same kind of book."

    bos, context_limit, vocabulary, name = None, None, 2, "library"

    def __init__(self, *rows):
        self.kinds, self.fingerprint = [MarkovChain(row) for row in rows], repr(rows)

    def provenance(self):
        return {}

    def sums(self, tokens):  # [kinds, batch, n]
        return torch.stack([kind.token_logprobs(tokens).cumsum(1) for kind in self.kinds])

    def after(self, before, tokens):
        "Log-probabilities of tokens, given what is known of the kind: [kinds, batch]."
        whole = (before[..., None] + self.sums(tokens)).logsumexp(0) - before.logsumexp(0)[:, None]
        return whole.diff(dim=1, prepend=torch.zeros_like(whole[:, :1]))

    def logprobs(self, contexts, continuations=()):
        nothing = torch.zeros(2, len(contexts), dtype=torch.float64)
        told = lambda c: self.sums(contexts)[:, :, c.split - 1] if c.split else nothing
        return self.after(nothing, contexts), [self.after(told(c), c.tokens) for c in continuations]


def information(joint):  # [texts, texts] probabilities
    return float((joint * np.log(joint / np.outer(joint.sum(1), joint.sum(0)))).sum())


@pytest.mark.parametrize(
    "rows",
    [(((0.9, 0.1), (0.3, 0.7)), ((0.4, 0.6), (0.8, 0.2))), (((0.2, 0.8), (0.2, 0.8)), ((0.7, 0.3), (0.7, 0.3)))],
    ids=["chains", "coins"],
)
def test_which_book_is_what_the_hidden_kind_tells(rows):
    "Own book's passage, another's, and X itself: against exact sums over all texts of four and eight tokens, within 4 errors."
    library, n, generator = Library(*rows), 480, torch.Generator().manual_seed(3)
    texts, both = (torch.cartesian_prod(*[torch.arange(2)] * m) for m in (4, 8))
    given = library.sums(texts)[..., -1].exp().numpy()  # [kinds, texts]
    apart = np.einsum("ka,kb->ab", given, given) / 2  # a far passage and Y
    chance = np.outer(given.mean(0), given.mean(0))
    near = library.after(torch.zeros(2, 256, dtype=torch.float64), both).sum(1).exp().numpy().reshape(16, 16)
    far, misled = information(apart), float((chance * np.log(apart / chance)).sum())
    assert misled < 0 < far < np.log(2)

    kinds = torch.randint(2, (n,), generator=generator).tolist()
    draw = lambda m: torch.stack([library.kinds[k].sample(1, m, generator)[0] for k in kinds])
    windows = replace(windows_of(URN, n, 8), tokens=draw(8))
    scores = measure_bipartite(library, windows, lengths=[8], shuffles=0, batch_size=500)
    own, other, group = book_terms(library, scores, list(draw(4)), cut=True)
    for gained, truth in ((own, far), (other, misled), (direct_terms(scores), information(near))):
        row = estimates(gained, group).row(0, named=True)
        assert abs(row["mi"] - truth) < 4 * row["stderr"]
    left = {8: direct_terms(scores)[8] - own[8]}
    row = compare("which book", "less", left, direct_terms(scores), group).row(0, named=True)
    assert row["share_low"] - 0.02 < -far / information(near) < row["share_high"] + 0.02
    if rows[0][0] == rows[0][1]:  # coins: what X tells is which of them, and nothing else
        assert far == pytest.approx(information(near), abs=1e-9)


def test_readings_of_any_shape_are_kept(tmp_path):
    "Together or alone, fresh or resumed: the same numbers, and no other readings are taken for them."
    tokens = URN.sample(5, 12, torch.Generator().manual_seed(2))
    readings = [
        Reading(row[: 6 + i % 2], [Continuation(3, row[3:9]), Continuation(0, row[6:])]) for i, row in enumerate(tokens)
    ]
    plain = [read_all(URN, [reading])[0] for reading in readings]
    for store in (None, str(tmp_path), str(tmp_path)):
        for batch in (2,):
            found = read_all(URN, readings, store, batch)
            for a, b in zip(found, plain):
                assert all(np.allclose(x, y) for x, y in zip(a, b)) and len(a) == 3
    with pytest.raises(ValueError, match="made with other parameters"):
        read_all(URN, readings[:4], str(tmp_path), 2)


def test_doses_are_kept_to_the_token():
    "Every excerpt is seen as often as the dose says; all other windows are those of the twin without."
    filler = torch.randint(100, 200, (400, 8), generator=torch.Generator().manual_seed(0))
    excerpts = torch.arange(48).view(3, 16)
    for dose in (0, 1, 4, 16):
        mixed, which = dosed(filler, excerpts, dose, seed=7)
        seen = torch.bincount(mixed[mixed < 100], minlength=48)
        assert (seen == dose).all() and int(which.sum()) == dose * 6 and mixed.shape == filler.shape
        assert torch.equal(mixed[~which], filler[~which]) and (mixed[which] < 100).all()
    follows = mixed[which].diff(dim=1)
    assert ((follows == 1) | (follows == -15)).all()  # text in order, around the end of its excerpt
    with pytest.raises(ValueError, match="more than half of the 3200 tokens trained on: choose at most 33 repetitions"):
        dosed(filler, excerpts, 64)
    with pytest.raises(ValueError, match="choose multiples of 8 tokens"):
        dosed(filler, excerpts[:, :12], 1)


def test_both_signs_of_a_recited_text():
    "The two terms of a reciter, apart: both rise; their difference rises for a middling Y and is the place's cost in the end."
    known = windows_of(URN, 40, 64)
    reciter = Reciter(URN, tuple(known.tokens.flatten().tolist()), 1e-4)
    mine, honest = (twin_terms(measure_bipartite(s, known, lengths=[4, 16, 64], shuffles=0)) for s in (reciter, URN))
    for length in (4, 16, 64):
        assert (mine.joint[length] + 1e-3 >= honest.joint[length] - 0.01).all()
        np.testing.assert_allclose(mine.mi[length], mine.joint[length] - mine.alone[length], atol=1e-3)
    rise = [np.mean(mine.mi[length] - honest.mi[length]) for length in (4, 16, 64)]
    assert rise[1] > rise[0] + 5 and mine.alone[64].mean() > honest.alone[64].mean() + 20
    cost = np.log((40 * 64 - 31) / 1e-4)
    assert mine.mi[64].mean() == pytest.approx(cost, abs=0.5)


def test_three_arms_on_a_small_library(tmp_path):
    "All arms in one table, and a summary row for each."
    corpus, tokenizer = novels(6)
    scorer = model_of(tokenizer, 200)
    drawn = token_windows(corpus, tokenizer, length=32, n=6, seed=0)
    scores = measure_bipartite(scorer, drawn, lengths=[8, 32], shuffles=0)
    lines = {d.id: f"{d.id}, by Jane Roe.\n\n" for d in corpus}
    table = three_arms(scorer, scores, drawn, corpus, lines, span=16, store=str(tmp_path))
    assert table["arm"].unique(maintain_order=True).to_list() == [
        "all windows",
        "recited spans dropped",
        "names replaced",
        "which book",
    ]
    names = table.filter(arm="names replaced", quantity="mi")
    assert names.filter(method="period names")["difference"].is_not_null().all()
    far = far_passages(corpus, drawn, tokenizer, 16)
    texts = {d.id: d.text for d in corpus}
    for document, start, chars, passage in zip(drawn.documents, drawn.starts, drawn.chars.sum(1).tolist(), far):
        said = tokenizer.decode(passage).replace(" ", "")
        assert said in texts[document].replace(" ", "") and len(passage) == 16
    short = summary(table)
    assert len(short) == table.select("arm", "method").n_unique() and set(short["length"]) == {32}
    assert {"exponent", "exponent_low", "delta_mi", "delta_low", "windows", "model", "corpus"} <= {*short.columns}


def test_titles_come_from_a_table(tmp_path):
    table = pl.DataFrame(dict(id=["a"], title=["Emma: A Novel"], author=["Austen, Jane (1775-1817)"], text=["x"]))
    table.write_parquet(tmp_path / "books.parquet")
    assert title_lines(str(tmp_path / "books.parquet")) == {"a": "Emma: A Novel, by Jane Austen.\n\n"}
    table.drop("author").write_parquet(tmp_path / "books.parquet")
    with pytest.raises(ValueError, match="has no column 'author': arm 3 needs title and author; leave the titles out"):
        title_lines(str(tmp_path / "books.parquet"))
    with pytest.raises(ValueError, match="corpus 'sotu' has no titles and authors"):
        title_lines("sotu")


def test_bad_input_is_one_line():
    scores = measure_bipartite(URN, windows_of(URN, 8, 16), lengths=[4, 16], shuffles=0)
    with pytest.raises(
        ValueError, match=r"a span of 50 tokens is longer than a window \(16 tokens\): choose span <= 16"
    ):
        best_spans(scores, 50)
    for threshold in (0.0, 1.0, -2.0):
        with pytest.raises(ValueError, match="is no probability of a span"):
            is_recited(np.zeros(3), threshold)
    with pytest.raises(ValueError, match="choose both between 0 and 1"):
        tries_needed(1.0)
    corpus, tokenizer = novels(2)
    drawn = token_windows(corpus, tokenizer, length=16, n=2, seed=0)
    for arm in (names_arm, book_arm):
        with pytest.raises(
            ValueError, match="has no tokenizer, so it reads no new text: memorisation asks a text model"
        ):
            arm(URN, scores, drawn, corpus)
    with pytest.raises(ValueError, match="document 'book [01]' has no title and author"):
        check_titles(drawn, {})
    with pytest.raises(ValueError, match="2 documents make 1 group of 2; standard errors need 2 groups"):
        groups_of(drawn.documents, 1)
    short = Corpus.of([Document(d.id, d.text[:120]) for d in corpus])
    with pytest.raises(ValueError, match="has no passage of 200 tokens besides its window: choose longer documents"):
        far_passages(short, Windows(drawn.tokens, drawn.documents, [0, 0], drawn.chars, "x", "x", "x"), tokenizer, 200)
    with pytest.raises(ValueError, match="suspicion 1.5 is no probability"):
        Reciter(URN, BOOK, 1.5).token_logprobs(torch.zeros(1, 4, dtype=torch.long))
    assert recited_arm(scores, 8, [0.5])["windows"].min() > 0


def test_the_flag_asks_for_the_arms():
    "`l2m run bipartite_scaling --memorisation` needs no value."
    flags = _flags("bipartite_scaling")
    assert _option_words(["--memorisation", "--seed", "3"], flags) == ["memorisation=true", "seed=3"]
