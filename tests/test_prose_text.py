"""Running text: which line ends are the author's, in any script, and where sentences begin, whatever the rules do."""

import importlib
import pkgutil
import re
import textwrap
import time

import pysbd.lang
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pysbd.lang.common.common import Common
from pysbd.languages import LANGUAGE_CODES

import l2m.prose
from l2m.corpora import Corpus, load_corpus
from l2m.prose import running_text, sentence_starts, unwrap
from l2m.reading import Document

PROSE = (
    "The carrier had come the same way for thirty years. He knew where the road was soft, and where the stones were loose. "
    "Nobody else had wanted to know so much about it. He hummed a tune and trusted to the horse, which had heard it before and "
    "walked on. The dog at the mill let no stranger pass; of all he knew, its name was the most important. So he called it twice."
)
CHINESE = "那年夏天河水涨得很高，渡口的老人每天傍晚都要站在石头上看水。他说水的颜色比声音更要紧，颜色变了，就该把船拉上岸来。村里的孩子不相信他，还是到水边去放纸船。"
JAPANESE = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。何でも薄暗いじめじめした所で泣いていた事だけは記憶している。吾輩はここで始めて人間というものを見た。"
THAI = "ในวันหนึ่งชายชรานั่งอยู่ริมแม่น้ำและมองดูเรือที่ผ่านไปมา เขาคิดถึงลูกชายที่จากไปนานแล้ว ไม่มีใครรู้ว่าเขาอยู่ที่ไหน แต่ชายชรายังคงรอคอยอยู่ทุกวันโดยไม่เคยท้อถอย"
HINDI = "नदी धीरे धीरे बह रही थी। बूढ़ा आदमी हर शाम पत्थर पर बैठकर पानी देखता था। वह कहता था कि पानी का रंग उसकी आवाज़ से अधिक महत्वपूर्ण है। जब रंग बदल जाए तो नाव को किनारे पर खींच लेना चाहिए।"
ARABIC = "كان الرجل العجوز يجلس كل مساء على الصخرة وينظر إلى الماء. وكان يقول إن لون الماء أهم من صوته. فإذا تغير اللون وجب سحب القارب إلى الشاطئ. ولم يصدقه الأطفال وظلوا يلعبون قرب النهر."
KOREAN = "강물은 천천히 흘렀다. 노인은 매일 저녁 돌 위에 서서 물을 바라보았다. 그는 물의 빛깔이 소리보다 더 중요하다고 말했다. 빛깔이 변하면 배를 뭍으로 끌어올려야 한다고 했다. 아이들은 믿지 않았다."


def cut(text, width):
    "Lines of so many characters."
    return "\n".join(text[i : i + width] for i in range(0, len(text), width))


# --- lines that a page broke


@pytest.mark.parametrize(
    "end", ["\n", "\r\n", "\r\r\n", "\r\r\r\n", "\r", "\x85", "\u2028", "\v", " \n", "\t \r\n", "\n\f"]
)
def test_line_ends_of_any_kind_are_one_page(end):
    page = f"{textwrap.fill(PROSE, 70)}\n\n{textwrap.fill(PROSE[52:], 70)}"
    assert unwrap(page.replace("\n", end)) == f"{PROSE}\n\n{PROSE[52:]}"


def test_paragraph_separators():
    assert unwrap(textwrap.fill(PROSE, 70).replace("\n", "\u2028") + "\u2029" + PROSE) == f"{PROSE}\n\n{PROSE}"
    assert unwrap(f"{PROSE}\u2029{PROSE}") == f"{PROSE}\n{PROSE}"


def test_pages_end_inside_paragraphs():
    lines = textwrap.wrap(PROSE, 60)
    assert unwrap("\n".join([*lines[:3], "\f", *lines[3:]])) == PROSE
    assert unwrap("\n".join(lines[:3]) + "\n\f" + "\n".join(lines[3:])) == PROSE


@pytest.mark.parametrize("width", [30, 40, 60, 75, 100, 120])
@pytest.mark.parametrize(
    "text", [PROSE, HINDI * 2, ARABIC * 2, f"{KOREAN} {KOREAN} {KOREAN}"], ids=["English", "Hindi", "Arabic", "Korean"]
)
def test_widths_and_scripts(text, width):
    assert unwrap(textwrap.fill(text, width, break_on_hyphens=False)) == text


@pytest.mark.parametrize(
    "text, width",
    [
        *[(CHINESE, w) for w in (16, 20, 30, 34, 40)],
        *[(JAPANESE, w) for w in (16, 25, 34, 40)],
        *[(THAI, w) for w in (35, 50, 60)],
    ],
    ids=str,
)
def test_scripts_without_blanks_are_joined_without_blanks(text, width):
    two = f"{text}\n\n{text}"
    assert unwrap(f"{cut(text, width)}\n\n{cut(text, width)}") == two
    assert unwrap(f"{cut(text, width)}\n\n{cut(text, width)}".replace("\n", "\r\r\n")) == two


def test_chinese_paragraphs_that_are_indented():
    pages = "\n".join(cut("　　" + text, 30) for text in (CHINESE, CHINESE[30:], CHINESE[8:]))
    assert unwrap(pages) == "\n".join("　　" + text for text in (CHINESE, CHINESE[30:], CHINESE[8:]))


def test_latin_between_chinese():
    assert unwrap(cut("一九九八年他到London去了，" + CHINESE, 24)) == "一九九八年他到London去了，" + CHINESE


def test_soft_hyphens_go_and_join():
    page = textwrap.fill(PROSE.replace("Nobody", "No- body"), 62)
    assert "No-\nbody" in page
    soft = page.replace("No-", "No\u00ad").replace("trusted", "trus\u00adted")
    assert unwrap(soft) == unwrap(soft.replace("\u00ad\n", "\u00ad  \n")) == PROSE
    assert unwrap("Some know\u00adledge.") == "Some knowledge."
    assert unwrap("One para\u00ad\ngraph of a narrow page.") == "One paragraph of a narrow page."
    assert unwrap("It ends in one.\u00ad\n\nThe next.") == "It ends in one.\n\nThe next."
    assert running_text("In code it is know\u00adledge.", None) == "In code it is know\u00adledge."


# --- lines that an author broke

WILD = """the river keeps a ledger of every boat that never came back
and reads it softly to the stones when nobody is listening
my mother kept a drawer of keys that fitted nothing we owned
she said a house remembers all the hands that closed it well
tonight the lamp is lower than the sound of rain on the roof
and someone in the yard has put the ladder away for winter
"""
ENJAMBED = """the kitchen light was on. my father stood beside the stove
and said the soup was ready. nobody came. outside the rain
had turned to something softer, almost snow, and the dog slept
under the table. i remember this. i remember the spoon
and the blue bowl with the crack in it, and the silence after
which was not silence but the clock, the pipes, the wind
"""
POINTED = """shall i compare thee to a summer's day?
thou art more lovely and more temperate:
rough winds do shake the darling buds of may,
and summer's lease hath all too short a date;
"""
FRENCH = """les sanglots longs des violons de l'automne au fond du jardin
blessent mon coeur d'une langueur monotone et sans fin
tout suffocant et blême quand sonne l'heure du matin
je me souviens des jours anciens et je pleure en chemin
"""
PERSIAN = """بشنو از نی چون حکایت می‌کند از جدایی‌ها شکایت می‌کند
کز نیستان تا مرا ببریده‌اند در نفیرم مرد و زن نالیده‌اند
سینه خواهم شرحه شرحه از فراق تا بگویم شرح درد اشتیاق
هر کسی کو دور ماند از اصل خویش بازجوید روزگار وصل خویش
"""
TANG = "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。\n白日依山尽，黄河入海流。\n欲穷千里目，更上一层楼。\n"
SEVEN = "朝辞白帝彩云间，千里江陵一日还。\n两岸猿声啼不住，轻舟已过万重山。\n故人西辞黄鹤楼，烟花三月下扬州。\n"
VERSES = {
    "wild": WILD,
    "enjambed": ENJAMBED,
    "pointed": POINTED * 5,
    "french": FRENCH,
    "persian": PERSIAN,
    "tang": TANG,
    "seven": SEVEN,
}


@pytest.mark.parametrize("verse", VERSES.values(), ids=VERSES)
def test_verse_stays_verse(verse):
    assert unwrap(verse) == verse
    indented = textwrap.indent(verse, "    ")
    assert unwrap(indented) == indented


def test_verse_in_small_letters_inside_a_page():
    verse = "o early, early in the spring\ni went on board to serve\nmy king\nand left her there"
    page = f"{textwrap.fill(PROSE, 70)}\n\n{{}}\n\n{textwrap.fill(PROSE, 70)}"
    for lines in (verse, textwrap.indent(verse, "    ")):
        assert unwrap(page.format(lines)) == f"{PROSE}\n\n{lines}\n\n{PROSE}"


def test_logs_stay():
    log = "".join(
        f"2024-01-{day:02d} 12:00:01 worker {day % 3} started and took {'a' * (day % 5)} while\n"
        for day in range(1, 29)
    )
    assert unwrap(log) == log


# --- letters that a file broke


@pytest.mark.parametrize("language", ["en", None])
@pytest.mark.parametrize("width", [60, 61, 70, 80])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r\r\n"])
def test_wrapped_letters_are_joined_in_any_language(language, width, end):
    letters = ("ACGTTGCANNacgt" * 40)[:505]
    assert running_text(cut(letters, width).replace("\n", end), language) == letters
    fasta = f">one made up{end}{cut(letters, width)}{end}>two{end}{cut(letters[7:], width)}{end}".replace("\n", end)
    assert running_text(fasta.replace("\r\r\r\n", "\r\r\n"), language).split("\n") == [letters, letters[7:]]


@pytest.mark.parametrize(
    "text",
    [
        "> Quoted, as in a letter.\n> And so on.\n",
        "Hello.\n",
        ">\n",
        "a" * 40,
        "word\n" * 40,
        "-" * 70 + "\nTitle.\n" + "-" * 70,
    ],
)
def test_other_lines_are_no_letters(text):
    assert running_text(text, None) == text and running_text(text, "en") == text


def test_without_a_language_only_carriage_returns_change():
    text = "one\x0b\u2028two\f three \n\n\n\nfour\u00ad\n"
    assert running_text(text.replace("\n", "\r\r\n"), None) == text
    corpus = Corpus("made up", None, lambda: iter([Document("a", WILD.replace("\n", "\r\n"))]))
    assert next(iter(corpus)).text == WILD


def test_cr_cr_lf_is_read_from_files(tmp_path):
    (tmp_path / "a.txt").write_bytes(textwrap.fill(PROSE, 70).replace("\n", "\r\r\n").encode())
    assert next(iter(load_corpus(tmp_path))).text == PROSE


# --- sentences, whatever the rules do


LISTS = ", ".join(map(str, range(12, 90, 3)))


@pytest.mark.parametrize(
    "text, starts",
    [
        (f"They agree.[{LISTS}] and with theory. The rest says how.", ["They", "The "]),
        ("It names the lot no.[123456789012345678901234567890] of those lost. It was found.", ["It n", "It w"]),
        (f"They agree.[{LISTS}] The rest says how.", ["They", "The "]),
        ("According.[1 - 2 - 3 - 4 - 5 - 6 - 7 - 8 - 9 - 10 - 11 - 12 - 13 - 14 - 15 - 16] So.", ["Acco", "So."]),
    ],
)
def test_numbers_in_brackets_take_no_time(text, starts):
    begun = time.monotonic()
    assert [text[s : s + 4] for s in sentence_starts(text)][-1] == starts[-1] and sentence_starts(text)[0] == 0
    assert time.monotonic() - begun < 20  # it took for ever


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(["[", "]", "1", "12", "123", "1234", ",", "-", " ", ".", "a", "A"]), max_size=14))
@example(list(".[12, 15-3") + ["] A"])
def test_references_are_found_as_before(parts):
    text = "x.[" + "".join(parts) + "] And. A"
    assert re.sub(l2m.prose._REFERENCE, r"∯\2\r\7", text) == re.sub(Common.NUMBERED_REFERENCE_REGEX, r"∯\2\r\7", text)


def test_no_language_has_a_pattern_of_its_own_for_references():
    modules = [importlib.import_module(f"pysbd.lang.{m.name}") for m in pkgutil.iter_modules(pysbd.lang.__path__)]
    own = [
        v for m in modules for v in vars(m).values() if isinstance(v, type) and "NUMBERED_REFERENCE_REGEX" in vars(v)
    ]
    assert {cls.__name__ for cls in own} <= {"Common"}


@pytest.mark.parametrize(
    "language, text, starts",
    [
        (
            "de",
            "Es fehlt m.E. ein Wort. Darin steht: Grüße m[ein]e Schwester. Am Abend kam die Antwort.",
            ["Es ", "Dar", "Am "],
        ),
        (
            "de",
            "Den B.A. erwarb er in Halle. Die Prüfung B(asic) bestand er im Herbst. Der Winter war lang.",
            ["Den", "Die", "Der"],
        ),
        (
            "ru",
            "Том стоит сто у.е. в лавке. В рукописи читаем: она у[е]хала рано. Никто её не видел.",
            ["Том", "В р", "Ник"],
        ),
        ("bg", "Том струва сто у.е. в лавката. Четем: тя у[е]хала рано. Никой не я видя.", ["Том", "Чет", "Ник"]),
    ],
)
def test_brackets_are_ordinary_text(language, text, starts):
    found = [text[s : s + 3] for s in sentence_starts(text, language)]
    assert found[0] == starts[0] and found[-1] == starts[-1]


ODD = [
    "[",
    "]",
    "(",
    ")",
    "{",
    "*",
    "+",
    "\\",
    "?",
    "!",
    ".",
    "...",
    "m.E.",
    "m[ein]e",
    "B(asic)",
    "B.A.",
    "у.е.",
    "у[е]",
    "1.",
    "1)",
    "a)",
    "(iv)",
    " ",
    " ",
    "Co. KG",
    "'",
    '"',
    "“",
    "”",
    "«",
    "--",
    "12",
    "∯",
    "♨",
    "ȸ",
    "&ᓴ&",
    "☝",
    "A",
    "word",
    "。",
    "؟",
    "No. 5",
    "p.m. The",
    "xx",
    "•",
]


@settings(deadline=None, max_examples=250)
@given(st.lists(st.sampled_from(ODD) | st.text(max_size=3), max_size=60), st.sampled_from(sorted(LANGUAGE_CODES)))
def test_whatever_the_rules_do_a_paragraph_keeps_its_beginning(parts, language):
    text = "Once " + "".join(parts).replace("\n", " ")
    starts = sentence_starts(text, language)
    assert starts[0] == 0 and starts == sorted(set(starts)) and all(0 <= s < len(text) for s in starts)


@pytest.mark.parametrize("language", sorted(LANGUAGE_CODES))
@pytest.mark.parametrize(
    "unit",
    [
        "[1, 2] ",
        "1. ",
        "a. ",
        "a) ",
        "(",
        "' ",
        "!",
        "?! ",
        "♨ ",
        "x.[1 ",
        "1.1.1",
        "I. ",
        "- ",
        '" (',
        "m[ein]e m.E. ",
        "Co. ",
        "\u00a0 ",
    ],
)
def test_nothing_repeated_takes_long(language, unit):
    begun = time.monotonic()
    assert sentence_starts("So " + unit * (l2m.prose._PIECE // len(unit)), language)[:1] == [0]
    assert time.monotonic() - begun < 30


def test_rules_that_fail_cost_the_paragraph_only(monkeypatch):
    class Broken:
        def processor(self, text):
            raise RuntimeError(text)

    monkeypatch.setattr(l2m.prose, "_segmenter", lambda language: Broken())
    assert sentence_starts("One. Two.\nThree. Four.") == [0, 10]


# --- texts without sentences


def test_text_without_sentence_ends_is_searched_in_no_time(monkeypatch):
    asked = []
    rules = l2m.prose._segmenter
    monkeypatch.setattr(l2m.prose, "_segmenter", lambda language: asked.append(language) or rules(language))
    assert sentence_starts("and so, on they went " * 100_000) == [0] and not asked
    text = "and so (on) they went; " * 20_000 + "\nThe next. And."
    assert [text[s : s + 4] for s in sentence_starts(text)] == ["and ", "The ", "And."]
    assert len(asked) <= 2 * l2m.prose._PATIENCE


@given(st.text(st.sampled_from("ab ,'’\"“”«–— \t"), max_size=300))
@settings(deadline=None)
def test_where_nothing_ends_a_sentence_the_rules_find_none(text):
    processed = l2m.prose._segmenter("en").processor(text).process() or []
    assert len(["".join(s.split()) for s in processed if s.strip()]) <= 1


def test_lines_too_long_to_be_lines_begin_at_words():
    words = "word another " * 200
    starts = list(l2m.prose.sentences_from(words, 0, None))
    assert {words[s - 1 : s] for s in starts} == {"", " "} and len(starts) == 400
    assert list(l2m.prose.sentences_from(words, 7, None)) == [s for s in starts if s >= 7]
    assert list(l2m.prose.sentences_from("ACGT" * 300, 5, None)) == list(range(5, 1200))
    mixed = "short line\n" + words + "\nlast"
    found = list(l2m.prose.sentences_from(mixed, 0, None))
    assert found[:3] == [0, 11, 16] and mixed[found[-1] :] == "last"
