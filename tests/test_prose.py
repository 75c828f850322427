"""Every chapter asks, answers and sets exercises; every number of its prose is computed beside it, or quoted from a source that it cites.

A number is traced when a cell of its section, or of a section next to it, prints it at the precision quoted or states it in its code
(a parameter, a constant of an equation, the bound of an assert; not the size of a figure or the width of a line), when the page's parameters do, or when nbs/facts.yml knows it, and
the page cites its source. A section begins at a heading of the first two levels. Not checked are code, links, citations, names such as GPT-2, references such as Fig. 2(b), years, the numbers of lists, and the whole
numbers below a hundred of a formula or of a worked answer, which are coefficients, exponents and indices. Numbers in words are checked
from eleven on, but for figures of speech such as "a thousand"; fractions in words are not.
"""

import ast
import math
import operator
import re
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from itertools import accumulate
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).parents[1]
NBS, RUNS = ROOT / "nbs", ROOT / "_runs"
PAGES = sorted(
    str(p.relative_to(NBS).with_suffix("")) for p in NBS.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts
)
FACTS = yaml.safe_load((NBS / "facts.yml").read_text())

REFERENCE = r"\(?[A-Z]?\.?\d+(?:\.\d+)*(?:\([a-z]\))?\)?"
NOT_PROSE = [  # what is taken out before numbers are looked for
    r"^```.*?^```",
    r"^:{3,}.*?$",
    r"`[^`\n]*`",
    r"</?[a-zA-Z][^>\n]*>",
    r"https?://\S+",
    r"\{[\w:]+\}`[^`]*`",
    r"\]\([^)\s]*\)",  # code, markup, links, citations
    r"^\s*\d+\. ",
    r"^#+ \d+\.?",  # the numbers of lists and headings
    rf"\b(?:Fig|Eq|Sec|Thm|Table|Figure|Equation|Section|Theorem|Step|Exercise|Lemma|Appendix)s?\.?[ \n~]{REFERENCE}(?:(?:,| and|–| to) {REFERENCE})*",
    r"(?<![\d.,])(?:1[5-9]|20)\d\d(?![\d,.]*\d)(?! ?(?:tokens|steps|words|characters|windows|pairs|scalars|nats|documents))",  # years
    *(re.escape(phrase).replace(r"\ ", r"\s") for phrase in FACTS["phrases"]),
]
SMALL = dict(zip("one two three four five six seven eight nine ten".split(), range(1, 11)))
TEENS = dict(zip("eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split(), range(11, 20)))
TENS = dict(zip("twenty thirty forty fifty sixty seventy eighty ninety".split(), range(20, 100, 10)))
BIG = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9}
either = "|".join
SUPERSCRIPTS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
DIGITS = r"\d+(?:,\d{3})*(?:\.\d+)?(?:[eE][-+]?\d+)?"
NUMBER = re.compile(rf"(?<![\w.^])(?<![^\W\d]-)({DIGITS})(?!\w|-[^\W\d]|\.\d)(?: ({either(BIG)})\b)?")
IN_WORDS = re.compile(
    rf"\b(?:({either(TENS)})(?:-({either(SMALL)}))?|({either(TEENS)})|({either(SMALL)})(?= (?:{either(BIG)})\b))"
    rf"(?: ({either(BIG)}))?\b(?!-)",
    re.IGNORECASE,
)
FORMULA = re.compile(r"(\$\$.*?\$\$|\$[^$]+\$)", re.DOTALL)


@dataclass(frozen=True)
class Quoted:
    "A number as the prose has it"

    value: Decimal  # with as many decimals as are quoted
    percent: bool
    context: str  # the words around it

    @property
    def last_digit(self) -> Decimal:
        return Decimal(1).scaleb(self.value.as_tuple().exponent)

    def agrees(self, value: Decimal, decimals: float) -> bool:
        "Whether this quotes a value that is known to so many decimals; 95 % may have been computed as 0.95"
        readings = [(self.value, self.last_digit)] + (
            [(self.value.scaleb(-2), self.last_digit.scaleb(-2))] if self.percent else []
        )
        return any(
            abs(value - read) <= digit / 2 and decimals >= -digit.adjusted() if digit != 1 else value == read
            for read, digit in readings
        )


def number(text: str, unit: str | None = None) -> Decimal:
    "4.4 million is known to two digits, 300 and three hundred to the last one"
    value = Decimal(text.replace(",", ""))
    return value.scaleb(BIG[unit]) if BIG.get(unit, 0) > 3 else value * 10 ** BIG.get(unit, 0)


def plain(markdown: str) -> str:
    "Prose without code, links, citations, references and names"
    for pattern in NOT_PROSE:
        markdown = re.sub(pattern, " ", markdown, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)", lambda m: "1e" + m[1].translate(SUPERSCRIPTS), " ".join(markdown.split()))


def in_words(m: re.Match) -> Decimal:
    tens, unit, teen, small, big = (word and word.lower() for word in m.groups())
    return number(str(TENS.get(tens, 0) + SMALL.get(unit, 0) + TEENS.get(teen, 0) + SMALL.get(small, 0)), big)


def quoted(markdown: str, derivation: bool = False) -> list[Quoted]:
    "The numbers that a reader takes for facts; in a derivation, as in any formula, those that are not its coefficients"
    text, start, found = plain(markdown), 0, []
    for part in FORMULA.split(text):
        formula = part.startswith("$")
        readable = re.sub(r"\{,\}", ",", part) if formula else part
        readable = re.sub(r"\\[a-zA-Z]+|\\.|[{}$~]", lambda m: " " * len(m[0]), readable)
        around = lambda m: f"…{text[max(0, start + m.start() - 60) : start + m.end() + 40]}…"
        for m in NUMBER.finditer(readable):
            value, whole = number(m[1], m[2]), "." not in m[1] and "e" not in m[1].lower()
            if whole and value < (100 if formula or derivation else 2):
                continue
            found.append(Quoted(value, bool(re.match(r" ?%", readable[m.end() :])), around(m)))
        if not formula:
            found += [Quoted(in_words(m), False, around(m)) for m in IN_WORDS.finditer(readable)]
        start += len(part)
    return found


OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}


def constant(node: ast.AST) -> float | int | None:
    "The value of an expression of plain numbers, such as 2**14"
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        left, right = constant(node.left), constant(node.right)
        if (
            None in (left, right)
            or (isinstance(node.op, ast.Pow) and abs(right) > 100)
            or (isinstance(node.op, ast.Div) and not right)
        ):
            return None
        return OPERATORS[type(node.op)](left, right)


LOOKS = set(
    """alpha bbox_to_anchor capsize dpi elinewidth figsize float_precision fmt_str_lengths fontsize height height_ratios hspace labelpad linewidth lw
    markersize mew ms ncols pad size tbl_cols tbl_rows tbl_width_chars width width_ratios wspace zorder""".split()
)


def measures(node: ast.AST):
    "A node and all below it, but for what only says how a picture or a table looks"
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.keyword) and child.arg in LOOKS):
            yield from measures(child)


def stated(code: str) -> list[Decimal]:
    "The numbers of a cell's code, not of its comments and texts, nor of the looks of its figures"
    values = (constant(node) for node in measures(ast.parse(re.sub(r"^[%!].*", "pass", code, flags=re.MULTILINE))))
    return [Decimal(repr(value)) for value in values if value is not None and math.isfinite(value)]


def printed(cell) -> list[tuple[Decimal, int]]:
    "The numbers that a cell prints or shows in a table, and their decimals"
    texts = [output.get("text", "") for output in cell.outputs]
    for output in cell.outputs:
        data = output.get("data", {})
        texts.append(
            re.sub(r"<script.*?</script>|<style.*?</style>|<[^>]*>", " ", data["text/html"], flags=re.DOTALL)
            if "text/html" in data
            else data.get("text/markdown", data.get("text/plain", ""))
        )
    values = [
        number(text)
        for text in re.findall(rf"(?<![\w.]){DIGITS}(?!\w|\.\d)", re.sub(r"shape: \(.*?\)", "", "\n".join(texts)))
    ]
    return [(value, max(0, -value.as_tuple().exponent)) for value in values]


@dataclass(frozen=True)
class Source:
    "A number that prose may quote: a cell's, or the literature's"

    kind: str  # "printed", "stated in code", "quoted from …" or "mathematics"
    value: Decimal
    decimals: float  # how many are known
    section: float  # where it stands; infinite: everywhere


KNOWN = [
    Source(f"quoted from {key}", Decimal(str(fact["value"])), math.inf, math.inf)
    for key, facts in FACTS["quoted"].items()
    for fact in facts
]
CONSTANTS = [Source("mathematics", Decimal(repr(fact["value"])), math.inf, math.inf) for fact in FACTS["mathematics"]]


def sections(notebook) -> list[int]:
    "The section of each cell"
    begins = (
        cell.cell_type == "markdown"
        and bool(
            re.search(r"^##? ", re.sub(r"^```.*?^```", "", cell.source, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
        )
        for cell in notebook.cells
    )
    return list(accumulate(map(int, begins)))


def sources(run) -> list[Source]:
    "Every number that the cells of an executed page print or state"
    found = []
    for section, cell in zip(sections(run), run.cells):
        if cell.cell_type != "code":
            continue
        everywhere = {"parameters", "injected-parameters"} & set(cell.metadata.get("tags", []))
        found += [Source("printed", value, decimals, section) for value, decimals in printed(cell)]
        found += [
            Source("stated in code", value, math.inf, math.inf if everywhere else section)
            for value in stated(cell.source)
        ]
    return found


def prose(notebook) -> list[tuple[int, Quoted]]:
    "The quoted numbers of a page with their sections: those of its text, and of the comments that are its worked answers"
    found = []
    for section, cell in zip(sections(notebook), notebook.cells):
        if cell.cell_type == "markdown":
            found += [(section, q) for q in quoted(cell.source)]
        elif "hide-cell" in cell.metadata.get("tags", []):
            comments = (line.strip() for line in cell.source.splitlines())
            found += [
                (section, q)
                for q in quoted("\n".join(line[2:] for line in comments if line.startswith("# ")), derivation=True)
            ]
    return found


def origin(q: Quoted, section: int, found: list[Source], cited: set[str]) -> str | None:
    "Where a number comes from; None: nobody knows"
    for source in KNOWN:
        if source.value == q.value and source.kind.removeprefix("quoted from ") in cited:
            return source.kind
    near = (source for source in found if abs(source.section - section) <= 1 or math.isinf(source.section))
    return next((source.kind for source in (*near, *CONSTANTS) if q.agrees(source.value, source.decimals)), None)


def untraced(notebook, run) -> list[str]:
    "What is wrong with a page's numbers, for its writer"
    found, complaints = sources(run), []
    cited = {
        key.strip()
        for cell in notebook.cells
        if cell.cell_type == "markdown"
        for keys in re.findall(r"\{cite:\w+\}`([^`]+)`", cell.source)
        for key in keys.split(",")
    }
    for section, q in prose(notebook):
        if origin(q, section, found, cited):
            continue
        known = [source.kind.removeprefix("quoted from ") for source in KNOWN if source.value == q.value]
        remedy = (
            f"is it the number of {' or '.join(known)} in nbs/facts.yml? then cite that here; if not, " if known else ""
        )
        remedy += "print it in a cell of this section or of one next to it"
        remedy += "" if known else "; if it is another work's, add it to nbs/facts.yml and cite that work here"
        complaints.append(f"{q.value:,f} comes from nowhere: {remedy}\n    {q.context}")
    return complaints


def read(path: Path):
    if not path.exists():
        pytest.skip(f"{path.relative_to(ROOT)} is missing: run `make book`")
    return nbformat.read(path, 4)


@cache
def page(name: str) -> tuple:
    "A page's source and its run"
    return nbformat.read(NBS / f"{name}.ipynb", 4), read(RUNS / f"{name}.ipynb")


@pytest.mark.parametrize("name", PAGES)
def test_quoted_numbers_are_computed_or_cited(name):
    if complaints := untraced(*page(name)):
        pytest.fail("\n".join([f"nbs/{name}.ipynb", *complaints]), pytrace=False)


@pytest.mark.parametrize("path", sorted(NBS.glob("*.md")), ids=lambda path: path.name)
def test_pages_without_cells_quote_only_what_is_known(path):
    text = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(path.read_text())])
    assert untraced(text, text) == []


def test_every_fact_has_a_source_and_is_used():
    bibliography = (ROOT / "references.bib").read_text()
    assert [key for key in FACTS["quoted"] if not re.search(rf"^@\w+\{{{key},", bibliography, re.MULTILINE)] == []
    texts = [nbformat.read(NBS / f"{name}.ipynb", 4) for name in PAGES]
    words = "\n".join(
        [*(cell.source for text in texts for cell in text.cells), *(path.read_text() for path in NBS.glob("*.md"))]
    )
    quotes = {q.value for text in texts for _, q in prose(text)} | {
        q.value for path in NBS.glob("*.md") for q in quoted(path.read_text())
    }
    assert [source for source in KNOWN if source.value not in quotes] == []
    assert [phrase for phrase in FACTS["phrases"] if phrase not in " ".join(words.split())] == []


@pytest.mark.parametrize("name", [name for name in PAGES if re.match(r"\d|experiments/", name)])
def test_chapter_opens_with_a_question_and_ends_with_what_was_learned(name):
    cells = nbformat.read(NBS / f"{name}.ipynb", 4).cells
    text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    head = text.split("\n## ")[0]
    assert re.search(r"^\*\*[^*]+\?\*\*", head, re.MULTILINE), "no question in bold above the first section"
    if name.startswith("experiments/"):
        return
    assert re.search(r"^## What was learned\n.+?^## Exercises\n+1\. .+?^2\. ", text, re.MULTILINE | re.DOTALL)
    assert "hide-cell" in cells[-1].metadata.tags, "the answers are to be folded"


def invented(prose: str, code: str = "", output: str = "", answer: str = ""):
    "A page of one paragraph and one cell"
    cell = nbformat.v4.new_code_cell(code, outputs=[nbformat.v4.new_output("stream", text=output)])
    hidden = nbformat.v4.new_code_cell(answer, metadata={"tags": ["hide-cell"]})
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(prose), cell, hidden])
    return notebook, notebook


@pytest.mark.parametrize(
    "text, code, output",
    [
        ("The mean is 0.62 nats.", "", "mean 0.6237"),
        ("It costs 1,024 tokens.", "n = 2**10", ""),
        ("We took sixty of them.", "range(60)", ""),
        ("Three hundred draws.", "draws = 300", ""),
        ("A share of 95 %.", "level = 0.95", ""),
        ("Equal to 10⁻⁵ nats.", "assert x < 1e-5", ""),
        ("Linear up to 0.2 nats.", "ax.set_yscale('symlog', linthresh=0.2)", ""),
        (
            "Half of $2^{10}$, Fig. 2(b), Eqs. (C.23) and (4), GPT-2, `0.77`, [page](0.77), from 0 to 1, in 1951.",
            "",
            "",
        ),
        ("The law $2.27\\,L^{0.76}$ {cite:p}`chen2025l2m`.", "", ""),
        ("Divide by $\\log 2 \\approx 0.693$.", "", ""),
        ("A genome of 4.3 million letters, four million for short.", "", "4,311,532"),
    ],
)
def test_a_number_with_an_origin_is_accepted(text, code, output):
    assert untraced(*invented(text, code, output)) == []


@pytest.mark.parametrize(
    "text, code, output",
    [
        ("The mean is 0.63 nats.", "", "mean 0.6237"),
        ("The mean is 0.620 nats.", "", "mean 0.62"),
        ("The mean is 0.62 nats.", "# 0.62", ""),
        ("The mean is 0.62 nats.", "print('0.62')", ""),
        ("It costs 1,025 tokens.", "n = 2**10", ""),
        ("We took seventy of them.", "range(60)", ""),
        ("Three hundred draws.", "draws = 200", ""),
        ("Ten thousand words.", "words = 1000", ""),
        ("A share of 94 %.", "level = 0.95", ""),
        ("Equal to 10⁻⁶ nats.", "assert x < 1e-5", ""),
        ("It is $0.62$.", "", ""),
        ("At $L = 4{,}096$.", "L = 1024", ""),
        ("12 nats", "", "12.3"),
        ("A share of 0.2.", "ax.plot(x, y, alpha=0.2)", ""),
        ("It was 7.6 nats.", "plt.subplots(figsize=(7.6, 5))", ""),
        ("We show 16 of them.", "looks = dict(ms=16, lw=1.5)", ""),
        ("The law $2.27\\,L^{0.76}$.", "", ""),
        ("$0 < x$ is 0.62, but $y > 2$.", "", ""),
        ("It costs 2048 tokens.", "n = 1024", ""),
        ("A genome of 4.4 million letters.", "", "4,311,532"),
        ("About three million.", "", "4,311,532"),
    ],
)
def test_a_number_without_origin_is_refused(text, code, output):
    assert untraced(*invented(text, code, output)) != []


def test_worked_answers_are_prose():
    assert untraced(*invented("", answer="# 1. By (n - 1) / 2 = 12 it is 0.41.\nprint(f'{value:.2f}')")) != []
    assert (
        untraced(*invented("", answer="# 1. By (n - 1) / 2 = 12 it is 0.41.\nprint(f'{value:.2f}')", output="0.41"))
        == []
    )


def test_a_result_far_away_is_no_origin():
    "A long page prints so many numbers that one of them would agree with almost anything"
    apart = [nbformat.v4.new_markdown_cell(f"## {title}") for title in ("One", "Two", "Three")]
    result = invented("", output="0.6237")[0].cells[1]
    far = nbformat.v4.new_notebook(
        cells=[apart[0], result, apart[1], apart[2], nbformat.v4.new_markdown_cell("It was 0.62.")]
    )
    near = nbformat.v4.new_notebook(cells=[apart[0], result, apart[1], nbformat.v4.new_markdown_cell("It was 0.62.")])
    assert untraced(far, far) != [] and untraced(near, near) == []


def test_a_changed_number_of_the_book_is_noticed():
    "Raise and lower the last digit of every number of two digits or more that the prose quotes: nearly all must lose their origin"
    noticed = []
    for name in PAGES:
        notebook, run = page(name)
        found = sources(run)
        for section, q in prose(notebook):
            if len(q.value.as_tuple().digits) < 2:
                continue
            changed = [Quoted(q.value + sign * q.last_digit, q.percent, q.context) for sign in (1, -1)]
            noticed += [origin(other, section, found, set()) is None for other in changed]
    assert len(noticed) > 100
    assert sum(noticed) >= 0.8 * len(noticed)
