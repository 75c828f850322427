"""Windows: copies and boilerplate, corpora that are no prose, too much asked of too little, and damaged tables."""

import random
import time
import warnings

import numpy as np
import polars as pl
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import l2m.copies
import l2m.windows
from l2m.copies import Echoes, body, copies, distinct, sketch
from l2m.corpora import Corpus
from l2m.prose import sentence_starts, unwrap
from l2m.reading import Document
from l2m.tokens import document_tokens, first_tokens
from l2m.windows import Windows, longest_length, place_windows, token_windows

plain = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))  # one token a word
plain.pre_tokenizer = pre_tokenizers.Whitespace()
WORDS = PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="?")
VOCABULARY = "".join(random.Random(0).choices("abcdefghijklmnopqrst   ", k=3000)).split()


def prose(seed, sentences=60):
    rng = random.Random(seed)
    return " ".join(
        " ".join(rng.choices(VOCABULARY, k=rng.randint(4, 14))).capitalize() + "." for _ in range(sentences)
    )


def corpus_of(documents, language="en", name="made up"):
    return Corpus(name, language, lambda: iter(documents), len(documents))


def drawn(documents, length=32, n=8, seed=0, language="en"):
    "Windows, and what was said meanwhile."
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", ResourceWarning)  # what an earlier test left may be collected now
        windows = token_windows(corpus_of(documents, language), WORDS, length, n, seed)
    return windows, [str(w.message) for w in said]


BOOKS = [Document(f"book {seed}", prose(seed)) for seed in range(6)]


# --- what is not the work

LICENCE = prose("licence", 40)
MARKS = {
    "new": ("*** START OF THE PROJECT GUTENBERG EBOOK A TALE ***", "*** END OF THE PROJECT GUTENBERG EBOOK A TALE ***"),
    "this": ("***START OF THIS PROJECT GUTENBERG EBOOK A TALE***", "***END OF THIS PROJECT GUTENBERG EBOOK A TALE***"),
    "two lines": (
        "*** START OF THIS PROJECT GUTENBERG EBOOK A VERY LONG\nTALE ***",
        "End of the Project Gutenberg EBook of A Tale, by X",
    ),
    "small print": (
        "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*",
        "End of Project Gutenberg's A Tale, by X",
    ),
    "etext": (
        "*END THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.10.04.01*END*",
        "End of The Project Gutenberg Etext of A Tale",
    ),
    "both": (
        "*** START OF THIS PROJECT GUTENBERG EBOOK A TALE ***\n\nWords.\n\n*END*THE SMALL PRINT!*END*",
        "*** END OF THIS PROJECT GUTENBERG EBOOK A TALE ***",
    ),
    "no end": ("*** START OF THE PROJECT GUTENBERG EBOOK A TALE ***", None),
    "no start": (None, "*** END OF THE PROJECT GUTENBERG EBOOK A TALE ***"),
}


def dressed(text, start, end, number=0):
    before = f"The Project Gutenberg eBook number {number}\n\n{LICENCE}\n\n{start}\n\n" if start else ""
    return before + text + (f"\n\n{end}\n\n{LICENCE}" if end else "")


@pytest.mark.parametrize("marks", MARKS.values(), ids=MARKS)
def test_the_body_of_a_book(marks):
    text = dressed(BOOKS[0].text, *marks)
    assert text[slice(*body(text))].strip() == BOOKS[0].text
    wrapped = unwrap(text.replace("\n", "\r\n"))
    assert wrapped[slice(*body(wrapped))].strip() == BOOKS[0].text


@pytest.mark.parametrize(
    "text", ["", "Once.", "She wrote to Project Gutenberg. It was the end of the project.", prose(1) + " GUTENBERG"]
)
def test_other_texts_are_bodies(text):
    assert body(text) == (0, len(text))


@pytest.mark.parametrize("marks", [MARKS["new"], MARKS["small print"]])
def test_no_window_outside_the_marks(marks):
    documents = [Document(d.id, dressed(d.text, *marks, i)) for i, d in enumerate(BOOKS)]
    windows, said = drawn(documents, 32, 40)
    texts = {d.id: d.text for d in documents}
    for name, start, chars in zip(windows.documents, windows.starts, windows.chars.sum(1)):
        low, high = body(texts[name])
        assert low <= start and start + int(chars) <= high
    assert not said
    tokens = dict(document_tokens(corpus_of(documents), WORDS))
    assert all(len(tokens[d.id]) == len(WORDS(d.text)["input_ids"]) for d in BOOKS)


def test_shared_passages_without_marks_are_named():
    documents = [Document(d.id, f"{LICENCE}\n\n{d.text}") for d in BOOKS]
    windows, said = drawn(documents, 48, 24)
    assert (
        len(said) == 1 and "windows of corpus 'made up' stand in another document too, such as one of 'book" in said[0]
    )


def test_quotations_are_nothing_special():
    documents = [Document(d.id, f"{d.text}\n\n{LICENCE[:150]}\n\n{d.text[::-1]}") for d in BOOKS]
    assert drawn(documents, 48, 24)[1] == [] == drawn(BOOKS, 48, 24)[1]


# --- copies

TWINS = {
    "equal": lambda text: text,
    "header": lambda text: "Number 90005\n\n" + text,
    "wrapped": lambda text: text.replace(" the ", "\nthe ").replace(". ", ".\r\n"),
    "quotes": lambda text: text.replace("e", "e", 1).replace(". ", ".” "),
    "misprints": lambda text: text[:400] + "x" + text[401:1200] + "yy" + text[1300:],
    "capitals": str.upper,
}


@pytest.mark.parametrize("twin", TWINS.values(), ids=TWINS)
def test_copies_are_left_out_and_named(twin):
    documents = [*BOOKS, Document("again", twin(BOOKS[2].text))]
    windows, said = drawn(documents, 32, 30)
    assert len(said) == 1 and "'again'" in said[0] and "'book 2'" in said[0] and "left out" in said[0]
    assert len({"again", "book 2"} & set(windows.documents)) == 1
    apart = "again" if "again" not in windows.documents else "book 2"
    assert windows.fingerprint == drawn([d for d in documents if d.id != apart], 32, 30)[0].fingerprint
    for seed in range(3):
        shuffled = random.Random(seed).sample(documents, len(documents))
        again, told = drawn(shuffled, 32, 30)
        assert again.fingerprint == windows.fingerprint and told == said


def test_only_one_of_many_copies_stays():
    documents = [*BOOKS, *(Document(f"copy {i}", BOOKS[0].text) for i in range(5))]
    windows, said = drawn(documents, 32, 40)
    assert "5 of the documents" in said[0] and not any(name.startswith("copy") for name in windows.documents)
    assert [d.id for d in distinct_quietly(documents)] == [d.id for d in BOOKS]


def distinct_quietly(documents):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(distinct(corpus_of(documents)))


def test_whole_documents_are_distinct_too():
    with pytest.warns(UserWarning, match="'twin' repeats 'book 0'"):
        found = [name for name, _ in document_tokens(corpus_of([*BOOKS, Document("twin", BOOKS[0].text)]), WORDS)]
    assert found == [d.id for d in BOOKS]


def test_texts_that_share_little_are_no_copies():
    half = [Document(str(i), d.text[: len(d.text) // 2] + prose(i + 50)) for i, d in enumerate([BOOKS[0], BOOKS[0]])]
    assert len(distinct_quietly(half)) == 2
    short = [Document(str(i), "Thanks.") for i in range(5)]
    assert len(distinct_quietly(short)) == 5  # of a few words nobody can tell


def test_two_copies_are_one_document():
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(ValueError, match="two documents are the least, and copies do not count: .* repeats "),
    ):
        token_windows(corpus_of([BOOKS[0], Document("twin", BOOKS[0].text)]), WORDS, 32, 4)


def test_sketches_do_not_grow_without_end(monkeypatch):
    documents = [*BOOKS, Document("twin", BOOKS[3].text + " More.")]
    full = Echoes()
    assert list(full.watch(documents)) == documents
    monkeypatch.setattr(l2m.copies, "_SKETCHES", full.total // 2)
    found = []
    for order in (documents, documents[::-1]):
        echoes = Echoes()
        list(echoes.watch(order))
        assert echoes.total <= full.total // 2 and echoes.ceiling < 2**64
        found.append((copies(echoes), {name: hashes.tolist() for name, hashes in echoes.sketches.items()}))
    assert found[0] == found[1] and found[0][0] == {"twin": "book 3"} == copies(full)


def test_sketches_against_their_definition():
    text = BOOKS[0].text
    letters = "".join(c for c in text.lower() if c.isalnum()).encode()
    anchors = [
        i
        for i in range(len(letters) - l2m.copies._STRETCH + 1)
        if int.from_bytes(letters[i : i + 8], "little") * 0x9E3779B97F4A7C15 % 2**64 < 2**59
    ]
    assert len(sketch(text)) == len({letters[i : i + l2m.copies._STRETCH] for i in anchors}) > 10
    assert not len(sketch("")) and not len(sketch("short"))


def test_equal_texts_have_equal_sketches_in_any_script():
    text = "Größe und Güte, ließ er sagen; 那年夏天河水涨得很高，渡口的老人。" * 3 + "".join(
        chr(0x4E00 + i * 37 % 5000) for i in range(400)
    )
    assert len(sketch(text)) > 3 and np.array_equal(sketch(text), sketch(text.replace("; ", ";\n").replace(",", "—")))


# --- corpora that are no prose


def bare(seed, words=3000):
    return " ".join(random.Random(seed).choices(VOCABULARY, k=words))


def test_texts_without_sentence_ends_say_so_quickly():
    documents = [Document(str(seed), bare(seed)) for seed in range(4)]
    with pytest.raises(ValueError, match=r"hardly any sentence ends in 4 of its documents, such as '0'.*language=None"):
        token_windows(corpus_of(documents), WORDS, 64, 16)


def test_transcripts_with_signs_but_no_ends():
    text = " ".join(f"{w} (yes) and; {w}" for w in bare(0, 20_000).split())
    begun = time.monotonic()
    with pytest.raises(ValueError, match="hardly any sentence ends"):
        token_windows(corpus_of([Document("a", text), Document("b", text[5:][::-1])]), WORDS, 64, 16)
    assert time.monotonic() - begun < 120


def test_without_a_language_such_texts_give_windows_that_begin_at_words():
    documents = [Document(str(seed), bare(seed)) for seed in range(4)]
    windows, said = drawn(documents, 64, 16, language=None)
    texts = {d.id: d.text for d in documents}
    assert len(windows) == 16 and not said and len(set(windows.starts)) > 8
    assert all(start == 0 or texts[name][start - 1] == " " for name, start in zip(windows.documents, windows.starts))


def test_prose_with_sentences_is_not_called_endless():
    with pytest.raises(ValueError, match="6 of its documents reach 100 tokens .*: choose .*n <= "):
        token_windows(corpus_of(BOOKS), WORDS, 100, 400)


# --- too much asked of too little


def test_a_million_windows_are_refused_at_once(monkeypatch):
    documents = [Document(str(seed), prose(seed, 400)) for seed in range(30)]
    drawn_at = []
    place = l2m.windows._window_at
    monkeypatch.setattr(l2m.windows, "_window_at", lambda *given: drawn_at.append(1) or place(*given))
    with pytest.raises(
        ValueError, match=r"30 of its documents reach 32 tokens, with room for about \d+ windows: choose n <= \d+"
    ) as said:
        token_windows(corpus_of(documents), WORDS, 32, 10**6)
    assert len(drawn_at) == len(documents)
    n = int(str(said.value).split()[-1])
    assert n > 30 and len(token_windows(corpus_of(documents), WORDS, 32, n)) == n


def test_many_short_documents_are_tokenised_together_and_once(monkeypatch):
    documents = [Document(str(i), f"{VOCABULARY[i % 40]} {i} and {VOCABULARY[i % 37]} stay.") for i in range(3000)]
    calls = []
    ids = l2m.windows.token_ids
    monkeypatch.setattr(l2m.windows, "token_ids", lambda texts, tokenizer: calls.append(1) or ids(texts, tokenizer))
    monkeypatch.setattr(l2m.windows, "_window_at", None)  # no document is tried by itself
    with pytest.raises(ValueError, match="0 of its documents reach 64 .*choose length <= 6"):
        token_windows(corpus_of(documents), WORDS, 64, 100)
    assert len(calls) == -(-len(documents) // l2m.windows._BATCH)


def test_long_documents_are_judged_by_a_part(monkeypatch):
    documents = [Document(str(seed), prose(seed, 100)) for seed in range(3)]
    exact = longest_length(corpus_of(documents), WORDS, 2)
    monkeypatch.setattr(l2m.windows, "_PART", 1000)
    judged = longest_length(corpus_of(documents), WORDS, 2)
    assert 0.75 * exact < judged < exact
    assert len(token_windows(corpus_of(documents), WORDS, judged, 2)) == 2


# --- wrong things at the door


@pytest.mark.parametrize(
    "given, message",
    [
        ({"corpus": "sotu"}, "token_windows: corpus is 'sotu', expected a Corpus"),
        ({"corpus": BOOKS}, "token_windows: corpus is"),
        ({"length": 64.0}, "length is 64.0, expected a whole number: write 64"),
        ({"length": True}, "length is True"),
        ({"n": True}, "n is True, expected a whole number"),
        ({"n": "8"}, "n is '8'"),
        ({"length": float("nan")}, "length is nan"),
        ({"seed": 0.5}, "seed is 0.5"),
        ({"seed": None}, "seed is None"),
        ({"tokenizer": None}, "NoneType reports no character offsets"),
        ({"tokenizer": "gpt2"}, "str reports no character offsets"),
        ({"tokenizer": plain}, "Tokenizer reports no character offsets"),
        ({"length": 0}, "length 0 and n 8"),
    ],
)
def test_token_windows_at_the_door(given, message):
    with pytest.raises(ValueError) as said:
        token_windows(**{"corpus": corpus_of(BOOKS), "tokenizer": WORDS, "length": 32, "n": 8, **given})
    assert message in str(said.value)


def test_negative_seeds_are_seeds():
    assert len({drawn(BOOKS, seed=seed)[0].fingerprint for seed in (-1, 0, 1)}) == 3


@pytest.mark.parametrize(
    "call",
    [
        lambda: unwrap(None),
        lambda: unwrap(b"bytes"),
        lambda: sentence_starts(7),
        lambda: sentence_starts(["One."]),
        lambda: first_tokens("text", 0, 2.0, WORDS),
        lambda: first_tokens("text", 0, 0, WORDS),
        lambda: first_tokens("text", "0", 2, WORDS),
        lambda: longest_length("sotu", WORDS, 4),
        lambda: longest_length(corpus_of(BOOKS), WORDS, 4.0),
        lambda: document_tokens(BOOKS, WORDS),
        lambda: place_windows("text", 4, WORDS, "en", 0),
        lambda: place_windows(None, 4, WORDS, "en", np.random.default_rng()),
        lambda: distinct("sotu"),
        lambda: Windows.from_table(None),
        lambda: Windows.from_table({"tokens": []}),
    ],
)
def test_wrong_types_are_one_clear_error(call):
    with pytest.raises(ValueError, match="expected"):
        call()


TABLE = drawn(BOOKS)[0].table()
DAMAGE = {
    "column": (TABLE.drop("chars"), "has no column 'chars'"),
    "other": (pl.DataFrame({"text": ["One."]}), "has no column 'document'"),
    "rows": (TABLE.head(0), "has no rows"),
    "null": (
        TABLE.with_columns(document=pl.when(pl.int_range(8) > 0).then("document")),
        "1 nulls in column 'document'",
    ),
    "kind": (TABLE.with_columns(pl.col("start").cast(pl.String)), "holds String with 0 nulls in column 'start'"),
    "scalar": (TABLE.with_columns(tokens=pl.lit(3)), "in column 'tokens'"),
    "ragged": (TABLE.with_columns(tokens=pl.col("tokens").list.head(pl.int_range(8) + 1)), "unequal or no length"),
    "short": (TABLE.with_columns(chars=pl.col("chars").list.head(3)), "unequal or no length"),
    "empty": (
        TABLE.with_columns(chars=pl.col("chars").list.head(0), tokens=pl.col("tokens").list.head(0)),
        "unequal or no length",
    ),
    "negative": (TABLE.with_columns(start=pl.lit(-1, pl.Int64)), "negative or missing"),
    "hole": (
        TABLE.with_columns(tokens=pl.col("tokens").list.eval(pl.when(pl.element() > 99).then(pl.element()))),
        "negative or missing",
    ),
    "mixed": (pl.concat([TABLE, TABLE.with_columns(corpus=pl.lit("x"))]), "windows of more than one corpus"),
}


@pytest.mark.parametrize("table, message", DAMAGE.values(), ids=DAMAGE)
def test_damaged_tables_are_one_clear_error(table, message):
    with pytest.raises(ValueError, match="the table of windows .*: expected one as `Windows.table` makes it") as said:
        Windows.from_table(table)
    assert message in str(said.value)


def test_windows_that_are_none():
    windows = drawn(BOOKS)[0]
    with pytest.raises(ValueError, match="Windows: tokens is .*, expected a torch.Tensor"):
        Windows(windows.tokens.tolist(), windows.documents, windows.starts, windows.chars, "a", "b", "c")
