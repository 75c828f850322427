"The built book as a reader meets it: every page in a headless browser, with no network."

import math
import re
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urldefrag, urljoin, urlsplit

import nbformat
import polars as pl
import pytest
import yaml
from playwright.sync_api import sync_playwright

from l2m import __version__
from l2m.audit import audit

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "_ext"))
from book_pages import MOVED
from browsers import FLAGS, chromium
from print_book import chapters, one_page

SITE = ROOT / "_build" / "html"
PAGES = sorted(str(page) for p in SITE.rglob("*.html") if "_static" not in (page := p.relative_to(SITE)).parts)
PAGES = [page for page in PAGES if page.removesuffix(".html") not in MOVED]
CHAPTERS = [page for page in PAGES if (ROOT / "nbs" / page).with_suffix(".ipynb").exists()]
BOOK = yaml.safe_load((ROOT / "_toc.yml").read_text())["parts"][0]["chapters"]
READERS = [page for page in ("index.html", *(f"{chapter['file']}.html" for chapter in BOOK)) if page in PAGES]
EXPERIMENTS = [page for page in CHAPTERS if page.startswith("experiments/")]
pytestmark = pytest.mark.skipif(not PAGES, reason=f"no book in {SITE}: run `make book`")


class Quiet(SimpleHTTPRequestHandler):
    "A file server that does not log"

    def log_message(self, *args):
        pass


class Visit:
    "A page that is open in the browser, and everything it complained about or asked for"

    def __init__(self, context, site: str, path: str):
        self.errors, self.abroad, self.missing = [], [], []
        self.page, self.url = context.new_page(), f"{site}/{path}"
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("response", lambda r: self.missing.append(r.url) if r.status >= 400 else None)
        self.page.route(lambda url: not url.startswith((site, "data:", "blob:")), self.refuse)
        self.page.goto(self.url, wait_until="load", timeout=120_000)  # two busy cores are slow
        self.page.wait_for_function("() => !window.MathJax || window.MathJax.startup?.promise")
        self.page.evaluate("async () => { await window.MathJax?.startup?.promise }")

    def refuse(self, route):
        self.abroad.append(route.request.url)
        route.abort()

    @property
    def text(self) -> str:
        return self.page.locator("article").first.inner_text()


@pytest.fixture(scope="session")
def site():
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=SITE))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        if not (found := chromium(playwright)):
            pytest.skip("no Chromium here: install the system's chromium, or run `playwright install chromium`")
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def open_page(browser, site):
    "Open a page once for all tests that look at it"
    context, visits = browser.new_context(viewport={"width": 1280, "height": 900}), {}

    def visit(path: str) -> Visit:
        if path not in visits:
            visits[path] = Visit(context, site, path)
        return visits[path]

    yield visit
    context.close()


def test_book_holds_every_notebook():
    notebooks = {
        p.relative_to(ROOT / "nbs") for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts
    }
    assert {Path(page).with_suffix(".ipynb") for page in CHAPTERS} == notebooks
    assert EXPERIMENTS


@pytest.mark.parametrize("path", PAGES)
def test_page_is_sound_and_self_contained(open_page, path):
    visit = open_page(path)
    assert visit.errors == []
    assert visit.missing == []
    assert visit.abroad == [], "a page may load nothing from another host"


@pytest.mark.parametrize("path", CHAPTERS)
def test_page_is_light_and_signed(open_page, path):
    page = open_page(path).page
    pictures = {
        urlsplit(src).path
        for src in page.eval_on_selector_all("article img", "images => images.map(i => i.src)")
        if "/_images/" in src
    }
    weight = (SITE / path).stat().st_size + sum((SITE / picture.lstrip("/")).stat().st_size for picture in pictures)
    assert weight < 2 * 2**20, "a page is to open fast on a phone"
    footer = page.locator("footer.bd-footer-content").inner_text()
    assert f"l2m {__version__}" in footer and re.search(r"Last updated on \d{4}-\d\d-\d\d", footer)


@pytest.mark.parametrize("path", PAGES)
def test_links_lead_somewhere(open_page, path):
    visit = open_page(path)
    hrefs = visit.page.eval_on_selector_all("a[href]", "links => links.map(a => a.getAttribute('href'))")
    dead = []
    for href in set(hrefs):
        target, fragment = urldefrag(urljoin(visit.url, href))
        if urlsplit(target).netloc != urlsplit(visit.url).netloc:
            continue
        page = urlsplit(target).path.strip("/") or "index.html"
        alive = (SITE / page).is_file()
        if alive and fragment:
            alive = open_page(page).page.evaluate("id => document.getElementById(id) !== null", fragment)
        if not alive:
            dead.append(href)
    assert dead == []


@pytest.mark.parametrize("path", CHAPTERS)
def test_figures_are_shown_and_described(open_page, path):
    opened = "open => document.querySelectorAll('details.l2m-fold').forEach(e => { e.open = open })"
    open_page(path).page.evaluate(opened, True)
    images = open_page(path).page.eval_on_selector_all(
        "article img",
        "images => images.map(i => ({src: i.src, alt: i.alt, width: i.naturalWidth, shown: i.getBoundingClientRect().width}))",
    )
    assert [i["src"] for i in images if not (i["width"] > 0 and i["shown"] > 0)] == []
    assert [i["src"] for i in images if not i["alt"] or "_images/" in i["alt"]] == [], (
        "a figure needs a *Figure: ...* paragraph below it"
    )
    open_page(path).page.evaluate(opened, False)
    drawn = (ROOT / "_runs" / path).with_suffix(".ipynb").read_text().count('"image/png"')
    assert len(images) >= drawn, "a figure of the run is missing"


@pytest.mark.parametrize("path", CHAPTERS)
def test_mathematics_is_rendered(open_page, path):
    page = open_page(path).page
    formulas = page.locator("article .math").count()
    assert page.locator("article mjx-container").count() >= formulas
    assert page.locator("article mjx-merror, article .MathJax_Error").count() == 0
    prose = page.eval_on_selector_all(
        "article p, article li, article td, article h1, article h2, article h3", "all => all.map(e => e.innerText)"
    )
    assert [text for text in prose if "$$" in text or r"\(" in text or r"\[" in text] == []


@pytest.mark.parametrize("path", CHAPTERS)
def test_no_directive_and_no_noise(open_page, path):
    visit = open_page(path)
    assert "#|" not in visit.text
    assert visit.page.locator("article .output.stderr, article .output.traceback").count() == 0
    assert "it/s]" not in visit.text and "Warning:" not in visit.text, (
        "progress bars and warnings are no part of a page"
    )


@pytest.mark.parametrize("path", CHAPTERS)
def test_tables_can_be_read_at_a_glance(open_page, path):
    page = open_page(path).page
    assert "shape: (" not in page.locator("article").first.inner_text()
    decimals = [
        text
        for text in page.eval_on_selector_all("table.dataframe td", "all => all.map(e => e.textContent)")
        if re.fullmatch(r"-?\d+\.\d+", text)
    ]
    assert [text for text in decimals if len(re.sub(r"\D", "", text).lstrip("0")) > 4] == []


@pytest.mark.parametrize("path", EXPERIMENTS)
def test_experiment_shows_its_parameters(open_page, path):
    "Those of the run; all of them, with what they mean, behind a fold"
    page = open_page(path).page
    folded = "open => document.querySelectorAll('details').forEach(fold => { fold.open = open })"
    page.evaluate(folded, True)
    assert page.locator(".tag_parameters pre").first.is_visible()
    assert page.locator(".tag_injected-parameters pre").first.is_visible()
    page.evaluate(folded, False)


@pytest.mark.parametrize("path", EXPERIMENTS)
def test_experiment_shows_what_was_found_and_folds_its_test(open_page, path):
    page = open_page(path).page
    where = "s => [...document.querySelectorAll('article ' + s)].map(e => e.getBoundingClientRect().top + scrollY)"
    (fold,), (run,) = page.evaluate(where, "details.l2m-fold"), page.evaluate(where, "#run-it")
    assert min(page.evaluate(where, "img, article table.dataframe")) < run < fold
    assert not page.eval_on_selector("details.l2m-fold", "fold => fold.open")
    titles = page.eval_on_selector_all("article h2", "all => all.map(h => h.firstChild.textContent)")
    assert titles.index("Run it") + 1 == titles.index("The code, and a test of it")


FOUND = """() => {
    const run = document.querySelector('#run-it')
    const shown = [...document.querySelectorAll('article :is(img, table.dataframe, .output.stream)')]
        .filter(e => run.compareDocumentPosition(e) & Node.DOCUMENT_POSITION_PRECEDING)
    const tables = shown.filter(e => e.matches('table:not(.sortable)'))
    return [shown[0].tagName, tables.map(t => [t.rows.length - 1, t.rows[0].cells.length])]
}"""


@pytest.mark.parametrize("path", EXPERIMENTS)
def test_experiment_shows_a_figure_first_and_short_tables(open_page, path):
    "A table that its headings sort is for looking up, and may be long"
    first, tables = open_page(path).page.evaluate(FOUND)
    assert first == "IMG", "what was found begins with its figure"
    assert [size for size in tables if size[0] > 10 or size[1] > 6] == [], "ten rows and six columns at most"


def test_api_page_shows_docments(open_page):
    page = open_page("api/law.html").page
    assert page.locator("dl.py.function dl.field-list").count() > 5
    assert "nats" in open_page("api/law.html").text


@pytest.mark.parametrize("path", PAGES)
def test_page_shows_no_python_object(open_page, path):
    assert " at 0x" not in open_page(path).page.locator("body").inner_text(), "end the cell with a semicolon"


WIDE = """all => all.filter(e => e.checkVisibility() && e.getBoundingClientRect().right > innerWidth + 1)
    .map(e => `${e.tagName} of ${Math.round(e.getBoundingClientRect().width)}: ${(e.alt || e.textContent).trim().slice(0, 60)}`)"""


@pytest.mark.parametrize("path", PAGES)
def test_page_fits_a_phone(open_page, path):
    "A figure or a table of a reader's page needs no scrolling sideways"
    page = open_page(path).page
    desk = page.viewport_size
    page.set_viewport_size({"width": 390, "height": 844})
    try:
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        wide = "article img, article svg, article table" if path in READERS else "article img"
        assert page.eval_on_selector_all(wide, WIDE) == []
    finally:
        page.set_viewport_size(desk)


@pytest.mark.parametrize("path", READERS)
def test_a_readers_page_shows_a_figure_soon_and_little_code(open_page, path):
    page = open_page(path).page
    tops = page.eval_on_selector_all(
        "article :is(img, svg[viewBox])",
        "all => all.filter(e => e.checkVisibility()).map(e => e.getBoundingClientRect().top + scrollY)",
    )
    assert tops and min(tops) < 2 * page.viewport_size["height"], "the first figure stands within two screens"
    code = page.eval_on_selector_all(
        "article div.cell_input",
        "all => all.filter(e => e.checkVisibility()).reduce((sum, e) => sum + e.getBoundingClientRect().height, 0)",
    )
    assert code <= 0.2 * page.locator("article").first.bounding_box()["height"], "fold code that is not the equation"


@pytest.mark.parametrize("path", READERS)
def test_figures_and_pages_are_numbered(open_page, path):
    visit = open_page(path)
    page = (
        ""
        if path == "index.html"
        else re.match(r"(\d+)\. ", visit.page.locator("article h1").first.inner_text())[1] + "."
    )
    found = re.findall(r"^Figure (\S+):", visit.text, re.MULTILINE)
    assert found == [f"{page}{i}" for i in range(1, len(found) + 1)] and "Figure:" not in visit.text


@pytest.mark.parametrize("path", READERS)
def test_a_shared_link_has_a_description(open_page, path):
    page = open_page(path).page
    tags = dict(
        page.eval_on_selector_all(
            "meta[property^='og:']", "all => all.map(e => [e.getAttribute('property'), e.content])"
        )
    )
    assert len(tags["og:description"]) > 20 and tags["og:title"] == re.sub(
        r"^\d+\. ", "", page.locator("article h1").first.inner_text().removesuffix("#")
    )
    if picture := tags.get("og:image"):
        assert (SITE / "_images" / Path(urlsplit(picture).path).name).is_file()


@pytest.mark.parametrize("old, new", MOVED.items())
def test_an_old_name_leads_to_the_new_page(site, browser, old, new):
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{site}/{old}.html")
    page.wait_for_url(f"{site}/{new}.html")
    context.close()


def test_a_term_shows_its_definition(open_page):
    term = open_page("index.html").page.locator("a:has(.std-term)", has_text="nats").first
    assert "natural logarithms" in term.get_attribute("title")


def test_the_book_is_dark_where_the_system_is(browser, site):
    context = browser.new_context(color_scheme="dark")
    page = context.new_page()
    page.goto(f"{site}/the_condition.html")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    look = page.eval_on_selector("article .cell_output img", "e => getComputedStyle(e).filter")
    assert "invert(1)" in look, "a figure has no white paper in the dark"
    context.close()


def test_table_of_architectures_is_sorted_by_its_headings(open_page):
    page = open_page("experiments/state_audit.html").page
    heading = page.locator("#architectures th", has_text="scalars at 1,000,000")
    column = heading.evaluate("th => th.cellIndex")
    values = lambda: page.eval_on_selector_all(
        "#architectures tbody tr", f"rows => rows.map(row => Number(row.cells[{column}].dataset.value))"
    )
    before = values()
    assert len(before) >= 25 and before != sorted(before)
    heading.locator("button").click()
    assert values() == sorted(before) and heading.get_attribute("aria-sort") == "ascending"
    heading.locator("button").click()
    assert values() == sorted(before, reverse=True)


@pytest.fixture
def calculator(open_page):
    "The calculator: set controls by name, get the numbers it shows"
    page = open_page("calculator.html").page

    def calculate(model: str, **values) -> dict[str, str]:
        page.select_option("#l2m-model", model)
        for name, value in values.items():
            page.eval_on_selector(
                f"#l2m-{name}",
                "(e, v) => { e.value = v; e.dispatchEvent(new Event('input', {bubbles: true})) }",
                str(value),
            )
        return {
            row.locator("th").inner_text(): row.locator("td").inner_text()
            for row in page.locator("#l2m-numbers tr").all()
        }

    return calculate


@pytest.mark.parametrize("model", ["state-spaces/mamba-130m-hf", "mistralai/Mistral-7B-v0.1", "openai-community/gpt2"])
@pytest.mark.parametrize("beta", [0.5, 0.76])
def test_calculator_says_what_the_audit_says(calculator, model, beta):
    shown = calculator(model, length=20, beta=beta, amplitude=1, price=-2)
    law = dict(beta=beta, amplitude=2.0, nats_per_scalar=math.exp(-2))
    [row] = audit([model], **law, interval=(beta, beta), lengths=[2**19, 2**20]).iter_rows(named=True)
    whole = lambda text: int(re.findall(r"\d[\d,]*", text.partition("(")[2] or text)[0].replace(",", ""))
    number = lambda name: None if shown[name] in ("never", "beyond 2⁵³") else whole(shown[name])
    assert number("state at L/2") == row["scalars_524288"]
    assert number("state needed") == round(row["needed_1048576"])
    assert number("least state, 16 bits per scalar") == round(row["least_1048576"])
    assert number("too small from") == row["short_at"] and number("provably from") == row["short_at_bound"]
    assert shown["one model at every length"] == row["single"]


def test_calculator_takes_an_architecture_of_ones_own(calculator, open_page):
    page = open_page("calculator.html").page
    assert not page.locator("#l2m-each").is_visible() or page.locator("#l2m-model").input_value() == "one of your own"
    shown = calculator("one of your own", each=3, fixed=1000, length=10)
    assert page.locator("#l2m-each").is_visible()
    assert shown["state at L/2"].startswith("2,533 scalars") and shown["one model at every length"] == "satisfied"
    assert calculator("one of your own", each=0, fixed=1000)["one model at every length"] == "not satisfied"


def test_calculator_says_when_no_state_is_needed(calculator, open_page):
    shown = calculator("state-spaces/mamba-130m-hf", beta=0.08, length=20)
    page = open_page("calculator.html").page
    assert shown["state needed"].startswith("0") and "Infinity" not in page.locator("#l2m-calculator").inner_text()
    assert "the current token alone carries" in page.locator("#l2m-verdict").inner_text()


def test_calculator_opens_on_a_race_that_is_lost(browser, site):
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{site}/calculator.html")
    assert page.locator("#l2m-model").input_value() == "state-spaces/mamba-130m-hf"
    assert page.locator("#l2m-chart circle.l2m-crossing").count() == 2
    page.locator("[data-price]").last.click()
    assert page.locator("output[for=l2m-price]").inner_text() == "11"
    context.close()


def test_calculator_draws_in_light_and_dark(calculator, open_page):
    page = open_page("calculator.html").page
    calculator("Qwen/Qwen3-8B", length=14)
    assert (
        page.locator("#l2m-chart path.l2m-state").count() == 1
        and page.locator("#l2m-chart path.l2m-needed").count() == 2
    )
    colour = lambda: page.eval_on_selector("#l2m-chart text", "e => getComputedStyle(e).fill")
    light = colour()
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    assert colour() != light
    page.evaluate("document.documentElement.dataset.theme = 'light'")


def move(page, name: str, value: int) -> None:
    "Move a slider of the passage"
    page.eval_on_selector(
        f"#l2m-passage-{name}",
        "(e, v) => { e.value = v; e.dispatchEvent(new Event('input', {bubbles: true})) }",
        str(value),
    )


def told(page) -> float:
    "How many nats the passage says that X tells about Y"
    return float(re.search(r"X tells (\S+) nats", page.locator("#l2m-passage-sum").inner_text())[1].replace("−", "-"))


@pytest.mark.parametrize("length, cut", [(256, 128), (64, 32), (256, 8), (200, 196), (8, 4)])
def test_passage_sums_what_was_measured(open_page, length, cut):
    page = open_page("index.html").page
    move(page, "length", length)
    move(page, "split", cut)
    [gain] = pl.read_parquet(ROOT / "results/passage/sotu-smollm2-135m/table.parquet").filter(start=cut)["gain"]
    assert told(page) == pytest.approx(
        sum(gain[: length - cut]), abs=0.05 + 0.0005 * (length - cut)
    )  # a decimal is shown, of sums of rounded terms
    spans = page.eval_on_selector_all("#l2m-passage-text span", "all => all.map(e => e.className)")
    assert [
        spans.index("l2m-x"),
        sum(name == "l2m-x" for name in spans),
        sum(name == "l2m-rest" for name in spans),
    ] == [0, cut, len(spans) - length]
    signs = ["l2m-hurt" if round(1000 * x) < 0 else "l2m-helped" for x in gain[: length - cut]]
    assert [name.split()[0] for name in spans[cut:length]] == signs and "l2m-cut" in spans[cut].split()


def test_another_passage_and_the_mean_of_all(browser, site):
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{site}/index.html")
    first, dots = page.locator("#l2m-passage-text").inner_text(), page.locator("#l2m-passage-law circle").count()
    page.locator("#l2m-passage-next").click()
    assert page.locator("#l2m-passage-text").inner_text() != first
    [gain] = pl.read_parquet(ROOT / "results/passage/sotu-smollm2-135m-1/table.parquet").filter(start=128)["gain"]
    assert told(page) == pytest.approx(sum(gain), abs=0.05 + 0.0005 * 128)
    page.locator("#l2m-passage-mean").click()
    assert "Twice the length" in page.locator("#l2m-passage-sum").inner_text()
    assert page.locator("#l2m-passage-law circle").count() > 2 * dots
    box = lambda name: page.locator(f"#l2m-passage-{name}").bounding_box()
    assert box("law")["y"] < box("length")["y"] + 300 and box("law")["x"] > box("length")["x"] + box("length")["width"]
    context.close()


def test_passage_follows_its_sliders(open_page):
    page = open_page("index.html").page
    seen = lambda: (
        page.locator("#l2m-passage-sum").inner_text(),
        page.locator("#l2m-passage-law").inner_html(),
        page.locator("#l2m-passage-cuts").inner_html(),
        page.eval_on_selector_all("#l2m-passage-text span", "all => all.map(e => getComputedStyle(e).backgroundColor)"),
    )
    page.locator("#l2m-passage-middle").check()
    move(page, "length", 256)
    before = seen()
    page.locator("#l2m-passage-length").press("ArrowLeft")  # and by keyboard
    assert (
        page.locator("#l2m-passage-length").input_value() == "248"
        and page.locator("#l2m-passage-split").input_value() == "124"
    )
    after = seen()
    assert all(a != b for a, b in zip(before, after))
    page.locator("#l2m-passage-split").press("ArrowRight")
    assert not page.locator("#l2m-passage-middle").is_checked() and all(a != b for a, b in zip(after, seen()))
    assert page.locator("#l2m-passage-split").get_attribute("aria-valuetext") == "after 128 of 248 tokens"
    assert page.locator("#l2m-passage-sum").get_attribute("role") == "status"
    move(page, "length", 64)  # the cut stays inside the block
    assert page.locator("#l2m-passage-split").input_value() == "60"


@pytest.mark.parametrize("path, widget", [("index.html", "#l2m-passage"), ("calculator.html", "#l2m-calculator")])
def test_widget_has_a_picture_without_scripts_and_a_label_for_every_control(browser, site, open_page, path, widget):
    controls = open_page(path).page.locator(f"{widget} :is(input, select)")
    assert controls.count() >= 3 and controls.evaluate_all("all => all.every(e => e.labels.length)")
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{site}/{path}")
    assert not page.locator(widget).is_visible()
    picture = page.locator("noscript img")
    assert picture.is_visible() and picture.bounding_box()["width"] > 300 and len(picture.get_attribute("alt")) > 50
    context.close()


def test_widgets_work_from_a_file(browser):
    context = browser.new_context()
    page = context.new_page()
    page.goto((SITE / "index.html").as_uri())
    assert math.isfinite(told(page))
    page.goto((SITE / "calculator.html").as_uri())
    assert "tokens the state is" in page.locator("#l2m-verdict").inner_text()
    context.close()


@pytest.mark.parametrize("path", CHAPTERS)
def test_notebook_can_be_taken_along(open_page, path):
    page = open_page(path).page
    notebook = page.locator(".dropdown-download-buttons a[href$='.ipynb']")
    source = urlsplit(urljoin(open_page(path).url, notebook.get_attribute("href"))).path.lstrip("/")
    here = (ROOT / "nbs" / path).with_suffix(".ipynb")
    assert nbformat.reads((SITE / source).read_text(), 4) == nbformat.read(here, 4)
    colab = page.locator("a[href*='colab.research.google.com']").get_attribute("href")
    assert colab == f"https://colab.research.google.com/github/l2m-project/l2m/blob/main/{here.relative_to(ROOT)}"


@pytest.mark.parametrize("path", EXPERIMENTS)
def test_experiment_says_how_to_run_it(open_page, path):
    assert f"papermill nbs/{path.removesuffix('.html')}.ipynb report.ipynb -p " in open_page(path).text


@pytest.mark.parametrize("word", ["vCLUB", "L²M condition", "nat", "mutual information", "exponent"])
def test_search_finds_a_definition_first(browser, site, word):
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{site}/search.html?q={word}")
    page.wait_for_function(
        "() => /finished|found/i.test(document.querySelector('#search-results p.search-summary')?.textContent ?? '')"
    )
    first = page.locator("#search-results li a").first
    assert first.get_attribute("href").endswith(f"symbols.html#term-{word.replace(' ', '-').replace('²', '2')}")
    context.close()


@pytest.mark.parametrize("word", ["Grassberger", "papermill", "exponent"])
def test_search_finds_a_word_in_several_pages(browser, site, word):
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{site}/search.html")
    box = page.locator("input[name=q]").locator("visible=true").first
    box.fill(word)
    box.press("Enter")
    links = "[...document.querySelectorAll('#search-results li a')]"
    page.wait_for_function(f"() => new Set({links}.map(a => a.pathname)).size > 2")  # they come one by one
    hits = page.eval_on_selector_all("#search-results li a", "links => links.map(a => a.href)")
    found = {urlsplit(hit).path.lstrip("/") for hit in hits}
    assert len(found) > 2 and all(word.lower() in (SITE / hit).read_text().lower() for hit in found)
    context.close()


def test_book_on_paper_holds_every_chapter(browser):
    book = one_page(SITE)
    titles = [
        re.search(
            r'<h1>(?:<span class="section-number">[^<]*</span>)?([^<]+)<a class="headerlink"', (SITE / page).read_text()
        )[1]
        for page in chapters(SITE)
    ]
    assert set(chapters(SITE)) == set(PAGES) - {"search.html", "genindex.html", "py-modindex.html"}
    assert [heading.find(string=True, recursive=False) for heading in book.select("article h1")] == titles
    marks = {element["id"] for element in book.find_all(id=True)}
    assert [
        a["href"]
        for a in book.select("article a[href^='#'], .contents a")
        if a["href"] != "#" and a["href"][1:] not in marks
    ] == []
    pdf = (SITE / "l2m.pdf").read_bytes()
    assert pdf.startswith(b"%PDF") and len(pdf) < 64 * 2**20
    assert [
        page for page in chapters(SITE) if "/{}".format(page.replace("/", "#2F")).encode() not in pdf
    ] == []  # what its contents point to
    assert pdf.count(b"/Type /Page\n") > len(titles) and b"/Outlines" in pdf


@pytest.mark.parametrize("experiment", sorted(path.stem for path in (ROOT / "nbs/experiments").glob("*.ipynb")))
def test_published_tables_have_the_columns_that_their_notebook_writes(experiment):
    "Whatever was added to a notebook since: a table that lacks it could not be computed again"
    made = {path.name: path for path in (ROOT / "_runs/experiments" / experiment).glob("*.parquet")}
    published = [path for path in (ROOT / "results" / experiment).glob("*/*.parquet") if path.name in made]
    assert published
    columns = lambda path: sorted(pl.read_parquet_schema(path))
    assert [path for path in published if columns(path) != columns(made[path.name])] == []
