"Encodings: a mark is believed, UTF-8 is checked, and advice about all others fits."

import codecs
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2m.encodings import _encoding_of, decoded, likely_encoding, lines_of, mended

SAID = {
    "English": "He said “it isn’t far – ten miles” and left.\n",
    "French": "Où est passé l’été ? Ça va, garçon ; déjà vu.\n",
    "German": "Über die Größe der Straße müßte man hören.\n",
    "Spanish": "El niño comió después, ¿dónde está el jamón?\n",
    "Portuguese": "São Paulo não é pequena, mas as opções são poucas.\n",
    "Icelandic": "Þetta er íslenskur texti, ætíð með mörgum stöfum á.\n",
    "Polish": "Książkę położył na półce, śpiąc.\n",
    "Czech": "Příliš žluťoučký kůň úpěl ďábelské ódy.\n",
    "Hungarian": "Az ősz eljött, és a tükörfúrógép zúgott a műhelyben.\n",
    "Turkish": "Uzak olmadığını söyledi, şaşırdım.\n",
    "Lithuanian": "Lietuvių kalba yra graži, ąžuolas ėjo į šią pusę.\n",
    "Russian": "Он сказал, что это недалеко.\n",
    "Ukrainian": "Він сказав, що це недалеко, її ґанок там.\n",
    "Greek": "Είπε ότι δεν είναι μακριά.\n",
    "Hebrew": "הוא אמר שזה לא רחוק\n",
    "Arabic": "قال إن المكان ليس بعيدا\n",
    "Thai": "เขาบอกว่าไม่ไกล\n",
    "Chinese": "他说路不远，只有十里。磨坊里的女孩修好了屋顶。\n",
    "traditional Chinese": "他說路不遠，只有十里。\n",
    "Japanese": "それほど遠くないと彼は言った。\n",
    "Korean": "그는 멀지 않다고 말했다.\n",
}
WRITTEN = [
    (language, encoding)
    for encoding, languages in {
        "windows-1252": "English French German Spanish Portuguese Icelandic",
        "windows-1250": "Polish Czech Hungarian",
        "iso-8859-2": "Polish Czech",
        "windows-1254": "Turkish",
        "windows-1257": "Lithuanian",
        "windows-1251": "Russian Ukrainian",
        "koi8-r": "Russian",
        "koi8-u": "Ukrainian",
        "cp866": "Russian",
        "macintosh": "French",
        "windows-1253": "Greek",
        "windows-1255": "Hebrew",
        "windows-1256": "Arabic",
        "cp874": "Thai",
        "gb18030": "Chinese",
        "cp932": "Japanese",
        "euc-jp": "Japanese",
        "iso-2022-jp": "Japanese",
        "euc-kr": "Korean",
    }.items()
    for language in languages.split()
] + [("traditional Chinese", "big5")]


@pytest.mark.parametrize(
    "encoding, mark",
    [
        ("utf-8", codecs.BOM_UTF8),
        ("utf-16-le", codecs.BOM_UTF16_LE),
        ("utf-16-be", codecs.BOM_UTF16_BE),
        ("utf-32-le", codecs.BOM_UTF32_LE),
        ("utf-32-be", codecs.BOM_UTF32_BE),
    ],
)
@pytest.mark.parametrize("language", ["English", "Chinese"])
def test_marked_text_is_read(encoding, mark, language, tmp_path):
    data = mark + (SAID[language] * 2).encode(encoding)
    assert _encoding_of(data) == encoding and mended(decoded(data, "a"))[0] == SAID[language] * 2
    (tmp_path / "a").write_bytes(data)
    assert [(number, mended(line)[0]) for number, line in lines_of(tmp_path / "a")] == [
        (1, SAID[language]),
        (2, SAID[language]),
    ]


@pytest.mark.parametrize("language, encoding", WRITTEN)
@pytest.mark.parametrize("before", ["", "Nothing but plain letters here.\n" * 400])
def test_advice_gives_back_what_was_typed(language, encoding, before):
    data = (before + SAID[language]).encode(encoding)
    with pytest.raises(ValueError) as error:
        decoded(data, "'letter.txt'")
    advised = re.search(r"iconv -f (\S+)", str(error.value))[1]
    assert data.decode(advised) == before + SAID[language]
    assert str(error.value).startswith(
        "'letter.txt' is not UTF-8 (byte 0x"
    ) and f"in line {before.count(chr(10)) + 1})" in str(error.value)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("language", ["English", "Russian", "Chinese"])
def test_wide_text_without_a_mark_gets_its_name(encoding, language):
    with pytest.raises(ValueError, match=f"iconv -f {encoding} -t utf-8"):
        decoded(SAID[language].encode(encoding), "a")


def test_a_stray_byte_does_not_condemn_the_rest():
    data = (SAID["French"] * 9).encode() + b"na\xefve\n" + SAID["French"].encode()
    with pytest.raises(ValueError, match=r"in one place \(byte 0xef in line 10\), though it is elsewhere") as error:
        decoded(data, "a")
    assert "iconv -f" not in str(error.value)
    with pytest.raises(ValueError, match="in line 1"):  # cut in the middle of a character
        decoded("Où ça, là-bas".encode() + b"\xc3", "a")


@pytest.mark.parametrize(
    "data",
    [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\x1f\x8b\x08\0\0\0\0\0" + bytes(range(256)) * 9, bytes(range(254, 0, -1)) * 9],
)
def test_what_is_no_text_gets_no_advice(data):
    with pytest.raises(ValueError, match="binary file") as error:
        decoded(data, "a")
    assert "iconv -f" not in str(error.value)


def test_lines_name_the_line_at_fault(tmp_path):
    (tmp_path / "a").write_bytes(b"one\ntwo\nna\xefve\n")
    with pytest.raises(ValueError, match=r"a' is not UTF-8 \(byte 0xef in line 3\).*iconv -f windows-1252"):
        list(lines_of(tmp_path / "a"))


@given(
    st.text(
        st.characters(exclude_characters="\0\r\ufeff\x1b", exclude_categories=["Cs"]).filter(
            lambda c: not "\x80" <= c <= "\x9f"
        ),
        max_size=50,
    )
)
def test_sound_text_is_not_touched(text):
    assert decoded(text.encode(), "a") == text and mended(text) == (text, "")


@given(st.binary(max_size=60))
def test_any_bytes_are_text_or_one_clear_error(data):
    try:
        assert isinstance(decoded(data, "a"), str)
    except ValueError as error:
        assert str(error).startswith("a is ")


@given(st.text(st.sampled_from("a\r\n\0\x80\x85\x93\x9f\ud83d\ude00\ufeff")))
def test_mended_text_is_sound(text):
    whole, found = mended(text)
    whole.encode()
    controls = set(text) & set("\0\x80\x85\x93\x9f")
    assert not set(whole) & set("\r\0\x80\x85\x93\x9f\ufeff") and set(found) == (
        controls if controls != {"\x85"} else set()
    )
    assert mended(whole) == (whole, "")


def test_halves_and_pairs_and_line_ends():
    assert mended("cut \ud83d here") == ("cut \ufffd here", "") and mended("\ud83d\ude00") == ("😀", "")
    assert mended("one\x85two") == ("one\ntwo", "") and mended("\x93one\x85\x94") == ("“one…”", "\x85\x93\x94")
    assert mended("a\r\r\nb\r\nc\rd\n\r\r\n\r\r\ne") == ("a\nb\nc\nd\n\n\ne", "")


def test_random_bytes_look_like_no_language():
    assert [likely_encoding(random.Random(seed).randbytes(2000)) for seed in range(5)] == [None] * 5
