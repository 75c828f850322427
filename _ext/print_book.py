"""Print the built book as one PDF

The pages of `_build/html`, in the order of the table of contents, become one page whose links stay inside it, and a
headless Chromium prints it: `python _ext/print_book.py`. Without a Chromium the book is left without its PDF.
"""

import sys
from datetime import date
from pathlib import Path
from posixpath import dirname, normpath
from urllib.parse import urldefrag, urljoin, urlsplit

from browsers import FLAGS, chromium
from bs4 import BeautifulSoup, SoupStrainer
from playwright.sync_api import sync_playwright

import l2m

STYLE = """
@page { size: A4; margin: 17mm 16mm 18mm; }
html { font-size: 11.5px; } body { margin: 0; }
article { max-width: none !important; padding: 0 !important; }
.bd-article :is(p, li, dd, blockquote) { max-width: none; }
article, .title-page { break-after: page; }
.title-page { padding-top: 30vh; text-align: center; } .title-page h1 { font-size: 3.2em; } .title-page p { font-size: 1.3em; }
.contents ol { list-style: none; columns: 2; padding: 0; } .contents a { text-decoration: none; }
* { box-shadow: none !important; text-shadow: none !important; }     /* a shadow is printed as a picture */
div.cell_output .text_html:has(table.dataframe), div.highlight pre, div.output pre { background-image: none !important; }
.bd-article h1 { display: block !important; }
pre, div.cell_input, div.highlight, blockquote { break-inside: auto !important; orphans: 4; widows: 4; }
h1, h2, h3, h4 { break-after: avoid; } img, svg, tr, mjx-container, .admonition { break-inside: avoid; }
a.headerlink, button, input, select, details:not([open]), summary, .prev-next-footer, .l2m-controls, .toggle-button { display: none !important; }
details { border: none !important; }
#l2m-passage-text { height: auto !important; }
div.highlight pre, div.output pre { white-space: pre-wrap; overflow: visible; font-size: .82em !important; }
div.cell_output, mjx-container { overflow: visible !important; } div.cell_output img { max-width: 100%; min-width: 0; height: auto; }
div.cell_output table.dataframe { width: auto !important; max-width: 100% !important; min-width: 0 !important; font-size: .74em !important; }
div.cell_output table.dataframe :is(th, td) { padding: .25em .7em .25em 0 !important; white-space: normal; overflow-wrap: anywhere; }
"""
LINK = '<p id="l2m-pdf">The whole book is also <a href="l2m.pdf">one PDF</a>, for paper.</p>'  # only where there is one
FOOTER = '<div style="width: 100%; font: 8px sans-serif; color: #666; text-align: center"><span class="pageNumber"></span></div>'


def chapters(root: Path) -> list[str]:
    "Every page in the order of the table of contents"
    links = BeautifulSoup((root / "index.html").read_text(), "html.parser").select("nav.bd-links a.reference.internal")
    pages = [urldefrag(a["href"])[0] or "index.html" for a in links]
    return list(dict.fromkeys(["index.html", *(page for page in pages if (root / page).is_file())]))


def inlined(root: Path, page: str, pages: list[str]):
    "The article of a page; its marks bear the page's name, and its links to other pages lead to theirs"
    article = BeautifulSoup((root / page).read_text(), "html.parser", parse_only=SoupStrainer("article")).article
    mark = lambda page, name: f"{page}--{name}"
    for element in article.find_all(id=True):
        if not element["id"].startswith("l2m-"):
            element["id"] = mark(page, element["id"])
    for element in article.find_all(src=True):
        if not urlsplit(element["src"]).scheme:
            element["src"] = normpath(f"{dirname(page)}/{element['src']}").lstrip("/")
    for link in article.find_all("a", href=True):
        target, name = urldefrag(urljoin(f"/{page}", link["href"]))
        if target.lstrip("/") in pages:
            link["href"] = "#" + (mark(target.lstrip("/"), name) if name else target.lstrip("/"))
    for answers in article.select("details.above-output, details:has(.tag_hide-cell), .tag_hide-cell details"):
        answers["open"] = ""
    article["id"] = page
    for script in article.find_all("noscript"):
        script.decompose()
    return article


def one_page(root: Path) -> BeautifulSoup:
    "The whole book as one document with a title page and a table of contents"
    pages = chapters(root)
    articles = [inlined(root, page, pages) for page in pages]
    book = BeautifulSoup((root / "index.html").read_text(), "html.parser")
    book.title.string = "l2m"
    book.head.append(BeautifulSoup(f"<style>{STYLE}</style>", "html.parser").style)
    title = lambda article: article.find("h1").get_text().removesuffix("#")
    contents = "".join(f'<li><a href="#{article["id"]}">{title(article)}</a></li>' for article in articles)
    front = (
        f'<div class="title-page"><h1>l2m</h1><p>{title(articles[0])}<br>Mutual-information scaling and the L²M condition</p>'
        f"<p>The l2m authors<br>version {l2m.__version__}, {date.today()}</p></div>"
        f'<div class="contents"><p><b>Contents</b></p><ol>{contents}</ol></div>'
    )
    scripts = [script for script in book.body.select("script") if not script.find_parent("article")]
    book.body.clear()
    book.body.append(
        BeautifulSoup(
            f'<main class="bd-main"><div class="bd-content"><div class="bd-article-container">{front}</div></div></main>',
            "html.parser",
        ).main
    )
    book.select_one(".bd-article-container").extend(articles)
    book.body.extend(scripts)
    return book


def print_book(root: Path) -> Path | None:
    "Write `l2m.pdf` beside the pages and show its link on the first one; nothing without a browser"
    with sync_playwright() as playwright:
        if not (found := chromium(playwright)):
            return None
        (page := root / "one-page.html").write_text(str(one_page(root)))
        try:
            browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
            tab = browser.new_page(viewport={"width": 700, "height": 1000}, color_scheme="light")
            tab.goto(page.as_uri(), timeout=300_000)  # a long page, on a machine that may be busy
            tab.evaluate("async () => { await window.MathJax.startup.promise }")
            tab.pdf(
                path=root / "l2m.pdf",
                prefer_css_page_size=True,
                print_background=True,
                outline=True,
                tagged=True,  # the outline is made of its headings
                display_header_footer=True,
                header_template="<span></span>",
                footer_template=FOOTER,
            )
            browser.close()
        finally:
            page.unlink()
    front = root / "index.html"
    front.write_text(front.read_text().replace('<p id="l2m-pdf"></p>', LINK))
    return root / "l2m.pdf"


if __name__ == "__main__":
    printed = print_book(Path(__file__).parents[1] / "_build" / "html")
    print(
        f"The book on paper is in {printed}" if printed else "No Chromium here: the book has no PDF",
        file=sys.stdout if printed else sys.stderr,
    )
