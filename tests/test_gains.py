"The long table of tokens and its parts: against exact processes, an independent count, and by the parts' own sum."

import re

import numpy as np
import polars as pl
import pytest
import torch

from l2m.bipartite import measure_bipartite
from l2m.corpora import Corpus
from l2m.estimators import Direct, bipartite_mi, bipartite_terms
from l2m.gains import (
    FUNCTION_WORDS,
    decay,
    gain_by_distance,
    information_parts,
    laws_of_parts,
    leave_out,
    token_classes,
    word_counts,
)
from l2m.loading import load_tokenizer
from l2m.processes import MarkovChain, PolyaUrn, process_windows
from l2m.reading import Document
from l2m.santa_fe import SantaFe, latest_mention, pairs_at
from l2m.windows import Windows

SPLITS = ("kind", "seen", "repetition", "place", "frequency")


def windows_of(process, n, length=32, seed=0):
    return process_windows(process, length, n, torch.Generator().manual_seed(seed))


def scored(process, n=60, **options):
    drawn = windows_of(process, n)
    return measure_bipartite(process, drawn, batch_size=n, **dict(lengths=[4, 16, 32], shuffles=0) | options)


@pytest.mark.parametrize("shuffles", [0, 1])
def test_gains_of_a_window_are_its_term_of_the_direct_estimate(shuffles):
    "For every block and ratio, also where some windows were read less far."
    scores = scored(PolyaUrn(3), lengths={4: 60, 16: 40, 32: 20}, ratios=(2, 4), shuffles=shuffles)
    table = scores.tokens()
    for ratio, length, split in scores.blocks.iter_rows():
        windows, terms = bipartite_terms(scores, split, length, Direct())
        rows = table.filter(ratio=ratio, length=length)
        sums = rows.group_by("window").agg(pl.col("gain").sum(), pl.len()).sort("window")
        assert sums["window"].to_list() == windows.tolist() and set(sums["len"]) == {length - split}
        np.testing.assert_allclose(sums["gain"], terms, atol=1e-12)
    first = table.filter(ratio=2, length=16, window=5)
    assert first["position"].to_list() == list(range(8))
    assert first["token"].to_list() == scores.token_ids[5, 8:16].tolist()
    np.testing.assert_array_equal(first["logprob_after"], scores.joint[5, 8:16])
    np.testing.assert_array_equal(first["logprob_alone"], scores.alone[8][5, :8])
    assert (table["document"] == pl.Series(scores.documents).gather(table["window"])).all()
    assert (table["group"] == pl.Series(scores.group).gather(table["window"])).all()


def test_a_table_needs_y_alone():
    scores = scored(PolyaUrn(3), shuffles=1, alone=False)
    with pytest.raises(ValueError, match="measure with alone=True"):
        scores.tokens()
    with pytest.raises(ValueError, match="measure with alone=True"):
        token_classes(scores)


@pytest.mark.parametrize("by", SPLITS)
@pytest.mark.parametrize("shuffles", [0, 1])
def test_parts_add_up_to_the_direct_estimate_draw_by_draw(by, shuffles):
    scores = scored(PolyaUrn(5), lengths={4: 60, 16: 60, 32: 30}, ratios=(2, 4), shuffles=shuffles)
    parts = information_parts(scores, token_classes(scores, common=2), by, draws=50, seed=3)
    direct = bipartite_mi(scores, [Direct()], draws=50, seed=3)
    for ratio, length, mi, stderr, n, draws in direct.select(
        "ratio", "length", "mi", "stderr", "n", "replicates"
    ).iter_rows():
        here = parts.filter(ratio=ratio, length=length)
        whole, rest = here.filter(part="all").row(0, named=True), here.filter(pl.col("part") != "all")
        np.testing.assert_allclose([whole["mi"], whole["stderr"], whole["n"]], [mi, stderr, n], rtol=1e-9)
        np.testing.assert_allclose(np.sum(rest["replicates"].to_list(), 0), draws, atol=1e-9)
        assert np.isclose(rest["mi"].sum(), mi) and rest["tokens"].sum() == whole["tokens"]


def seen_by_hand(ids, split, length):
    "For each token of Y: where its last appearances lie."
    out = []
    for at in range(split, length):
        before = [i for i in range(at) if ids[i] == ids[at]]
        x, y = [i for i in before if i < split], [i for i in before if i >= split]
        label = {(0, 0): "new", (1, 0): "X", (0, 1): "Y", (1, 1): "X and Y"}[bool(x), bool(y)]
        out.append((label, at - before[-1] if before else None))
    return out


def test_appearances_are_those_of_a_plain_search():
    scores = scored(PolyaUrn(8, 3.0), n=20, ratios=(2, 4))
    classes = token_classes(scores)
    for (_, length, split, window), rows in classes.partition_by(
        "ratio", "length", "split", "window", as_dict=True
    ).items():
        assert rows.select("seen", "distance").rows() == seen_by_hand(scores.token_ids[window], split, length)


def test_santa_fe_has_all_its_information_in_facts_that_come_again():
    """Exact values, in octaves of the distance too; 4 errors hold all of them but for one run in some hundreds."""
    process = SantaFe(0.6, facts=300)
    scores = scored(process, 2000)
    classes = token_classes(scores)
    parts = information_parts(scores, classes, "seen", draws=50)
    for length in (4, 16, 32):
        mi, error = parts.filter(part="X", length=length).select("mi", "stderr").row(0)
        assert abs(mi - process.bipartite_mi(length // 2, length)) < 4 * error
    assert np.abs(parts.filter(~pl.col("part").is_in(["all", "X"]))["mi"]).max() < 1e-5
    back = gain_by_distance(scores, classes, 32, draws=50)
    exact = np.log(2) * pairs_at(16, 32) * latest_mention(process, 31)
    ends = back.select("distance_from", "distance_to").rows()
    octaves = np.array([exact[a - 1 : b].sum() for a, b in ends])
    assert ends[0][0] == 1 and ends[-1][1] == 31
    assert (np.abs(back["nats"].to_numpy() - octaves) < 4 * back["nats_stderr"].to_numpy()).all()
    pairs = [pairs_at(16, 32)[a - 1 : b].sum() for a, b in ends]
    np.testing.assert_allclose(back["per_pair"].to_numpy() * pairs, back["nats"])
    np.testing.assert_allclose(back["per_token"], np.log(2), rtol=1e-5)
    law = decay(gain_by_distance(scores, classes, 32))
    per_pair = np.log(octaves / np.array(pairs))
    slope = np.polyfit(np.log(back["distance"]), per_pair, 1)[0]  # about β - 2
    assert law.interval[0] - 0.1 < slope < law.interval[1] + 0.1 and slope < -1


def test_a_chain_tells_its_first_token_and_an_urn_all_of_them():
    chain = MarkovChain(((0.9, 0.1), (0.2, 0.8)))
    scores = scored(chain, 400)
    parts = information_parts(scores, token_classes(scores), "place", draws=40)
    mi, error = parts.filter(part="0", length=32).select("mi", "stderr").row(0)
    assert abs(mi - chain.bipartite_mi(16, 32)) < 4 * error
    assert np.abs(parts.filter(~pl.col("part").is_in(["all", "0"]))["mi"]).max() < 1e-5


def test_what_is_left_out_is_missing_and_the_difference_is_paired():
    process = SantaFe(0.6, facts=300)
    scores = scored(process, 500)
    classes = token_classes(scores)
    arms = leave_out(scores, classes, {"nothing": pl.lit(False), "the first": pl.col("token") < 2}, draws=60)
    _, same, first = arms.iter_rows(named=True)
    assert same["delta_mi"] == same["delta_low"] == same["delta_exponent_high"] == 0
    parts = information_parts(scores, classes, "seen", draws=60)
    whole = bipartite_mi(scores, [Direct()], draws=60)["mi"][-1]
    lost = classes.filter(pl.col("token") < 2, length=32)["gain"].sum() / 500
    assert np.isclose(first["mi"], whole - lost) and np.isclose(first["delta_mi"], -lost)
    assert first["delta_low"] < -lost < first["delta_high"] < 0 < first["delta_exponent_low"]
    laws = laws_of_parts(parts)
    assert laws["part"].to_list() == ["all", "X"]  # the others are nothing but rounding
    np.testing.assert_allclose(laws["exponent"][0], laws["exponent"][1], rtol=1e-4)
    assert np.isclose(laws["exponent"][0], arms["exponent"][0])


TEXT = "Mr. Copperfield met Agnes. “Where?” said Copperfield’s aunt, who met 12 of them; then Agnes met Copperfield again and again. "


@pytest.fixture(scope="module")
def read():
    "A text in two documents, cut into tokens of words, and scores that are anything."
    tokenizer = load_tokenizer("smollm2-135m")
    ids = tokenizer(TEXT, return_offsets_mapping=True)
    n, ends = len(ids["input_ids"]) // 4 * 4, [b for _, b in ids["offset_mapping"]]
    chars = torch.from_numpy(np.diff([0, *ends])[:n]).int().expand(2, n)
    tokens = torch.tensor([ids["input_ids"][:n]] * 2)
    drawn = Windows(tokens, ["a", "b"], [0, 0], chars, "c", "f", "t")

    class Any(PolyaUrn):
        vocabulary, name = len(tokenizer), "any"

        def token_logprobs(self, tokens):
            return -(1.0 + torch.arange(tokens.shape[1])).expand(tokens.shape).double()

    scores = measure_bipartite(Any(), drawn, lengths=[4, n // 2, n], shuffles=0)
    counts = word_counts(Corpus.of([Document("a", TEXT + "met Agnes met " * 20)], name="c"))
    return scores, tokenizer, counts


def test_words_are_told_apart_by_their_kind_and_their_appearances(read):
    scores, tokenizer, counts = read
    rows = token_classes(scores, tokenizer, counts=counts, common=3).filter(length=scores.joint.shape[1], window=0)
    whole = "".join(tokenizer.decode([token]) for token in scores.token_ids[0])
    assert whole.endswith("".join(rows["text"])) and TEXT.startswith(whole)
    kinds = dict(rows.filter(pl.col("begins")).select("word", "kind").iter_rows())
    assert kinds["agnes"] == kinds["copperfield"] == "name" and kinds["12"] == "number"
    assert kinds["of"] == kinds["them"] == "function word" and kinds["met"] == "word"
    assert kinds[";"] == "punctuation" and rows.filter(kind="punctuation")["rank"].null_count() == len(
        rows.filter(kind="punctuation")
    )
    by_word = rows.filter(pl.col("begins")).group_by("word", maintain_order=True).agg("seen", "repetition", "distance")
    seen = {word: (seen, told) for word, seen, told, _ in by_word.iter_rows()}
    assert seen["agnes"] == (["X"], ["common word of X"])
    assert seen["met"] == (["X", "X and Y"], ["common word of X"] * 2) and seen["again"] == (
        ["new"],
        ["rare word, not in X"],
    )
    pieces = rows.filter(word="copperfield")
    assert len(pieces) > pieces["begins"].sum() >= 1 and pieces.filter(pl.col("seen") == "new").is_empty()


def test_a_word_that_the_cut_parts_has_a_class_of_its_own(read):
    scores, tokenizer, counts = read
    texts = [tokenizer.decode([token]) for token in scores.token_ids[0]]
    cut = token_classes(scores, tokenizer, counts=counts).filter(length=4, window=0)
    begun = re.match(r"\w+", "".join(texts[2:4]))  # what follows the cut, if it goes on with the word
    assert (cut["kind"] == "cut word").any() == bool(begun) == (cut["seen"] == "cut word").any()


def test_counts_are_those_of_words():
    counts = word_counts(Corpus.of([Document("a", "Don't! The the THE café, 12-inch 3.")], name="c"))
    assert counts == {"Don't": 1, "The": 1, "the": 1, "THE": 1, "café": 1, "12": 1, "inch": 1, "3": 1}
    assert {"the", "don't", "of"} <= FUNCTION_WORDS and all(word == word.casefold() for word in FUNCTION_WORDS)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (lambda s, c: information_parts(s, c, "colour"), "'colour' is no column of labels"),
        (lambda s, c: information_parts(s, c, "distance"), "'distance' is no column of labels"),
        (lambda s, c: information_parts(s, c.filter(seen="X"), "seen"), "give all classes"),
        (lambda s, c: gain_by_distance(s, c, 5), "no block of 5 tokens was scored"),
        (lambda s, c: decay(gain_by_distance(s, c.head(0), 32)), "0 octaves of distance"),
        (lambda s, c: laws_of_parts(information_parts(s, c, "seen").filter(length=4)), "measure three lengths"),
    ],
)
def test_bad_input_is_one_line(wrong, message):
    scores = scored(PolyaUrn(3))
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        wrong(scores, token_classes(scores))
    assert "\n" not in str(error.value)
