"""What a page of the book has beside its text

A description and a picture for whoever shares its link, the definition of a term where the pointer rests on it, an index for the
search without code, and at the old names of pages the way to the new ones.
"""

import base64
import html
import re
from pathlib import Path
from urllib.parse import urljoin

from docutils import nodes
from sphinx import addnodes
from sphinx.search import IndexBuilder

MOVED = {"reproduction": "claims", "model_size": "whose_exponent", "character_cost": "whose_exponent"}
PAGE = '<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>Moved</title><meta http-equiv="refresh" content="0; url={0}.html"><a href="{0}.html">This page has moved.</a></html>\n'


def describe_page(app, pagename: str, templatename: str, context: dict, doctree) -> None:
    "Its one line and its first figure, for a shared link"
    line = next(doctree.findall(nodes.block_quote), None) if doctree else None
    if line is None:
        return
    described = html.escape(" ".join(line.astext().split()))
    found = {
        "description": described,
        "og:description": described,
        "og:type": "article",
        "og:title": html.escape(app.env.titles[pagename].astext()),
    }
    if image := first_figure(app, pagename, doctree):
        found["og:image"] = urljoin(f"{app.config.html_baseurl}{pagename}", image) if app.config.html_baseurl else image
    context["metatags"] += "".join(
        f'<meta {"property" if ":" in name else "name"}="{name}" content="{text}" />\n' for name, text in found.items()
    )


def first_figure(app, pagename: str, doctree) -> str | None:
    "Where the first figure of a page is, as seen from it; one that is part of its text, for those without scripts, gets a file"
    if image := next(doctree.findall(nodes.image), None):
        return image["uri"]  # relative to the page, once written
    inside = (re.search(r"data:image/png;base64,([^\"]+)", raw.astext()) for raw in doctree.findall(nodes.raw))
    if inline := next(filter(None, inside), None):
        picture = Path(app.outdir) / "_images" / f"{pagename.replace('/', '-')}.png"
        picture.parent.mkdir(exist_ok=True)
        picture.write_bytes(base64.b64decode(inline[1]))
        return f"{'../' * pagename.count('/')}_images/{picture.name}"
    return None


def definitions(app) -> dict[str, str]:
    "The glossary: what stands at each mark"
    found = {}
    for glossary in app.env.get_doctree("symbols").findall(addnodes.glossary):
        for item in glossary.findall(nodes.definition_list_item):
            meaning = " ".join(item[-1].astext().split())
            found |= {mark: re.sub(r"[\\{}]", "", meaning) for term in item[:-1] for mark in term["ids"]}
    return found


def show_definitions(app, doctree, docname: str) -> None:
    "A term says what it means where the pointer rests on it"
    terms = [n.parent for n in doctree.findall(nodes.inline) if "std-term" in n["classes"]]
    known = definitions(app) if terms else {}
    for reference in terms:
        mark = reference.get("refid") or reference.get("refuri", "").partition("#")[2]
        if mark in known:
            reference["reftitle"] = known[mark]


def index_prose_alone(feed=IndexBuilder.feed) -> None:
    "The search finds sentences and terms: code, what it prints, and formulas are left out of its index"

    def feed_prose(self, docname, filename, title, doctree):
        prose = doctree.deepcopy()
        for node in list(
            prose.findall(lambda node: isinstance(node, nodes.literal_block | nodes.math_block | nodes.math))
        ):
            node.parent.remove(node)
        feed(self, docname, filename, title, prose)

    IndexBuilder.feed = feed_prose


def lead_on(app, error) -> None:
    "A page at each old name"
    if error is None and app.builder.format == "html":
        for old, new in MOVED.items():
            (Path(app.outdir) / f"{old}.html").write_text(PAGE.format(new))


QUICK = '<details class="l2m-quick"><summary>{}</summary>'


def fold_quick_run(app, doctree) -> None:
    "On the page of an experiment with a published run, all that its quickest run shows is folded: that one is a test"
    page = next(doctree.findall(nodes.section), None)
    if page is None or not app.env.docname.startswith("experiments/"):
        return
    titles = {part: part[0].astext() for part in page.children if isinstance(part, nodes.section)}
    published = next((part for part, title in titles.items() if title.startswith("The published run")), None)
    if published is None:
        return
    before = list(titles)[: list(titles).index(published)]
    quick = [(before, "The quick run of this notebook: it proves that everything works, and measures nothing")] * bool(
        before
    )
    quick += [([part], "What the quick run saves") for part, title in titles.items() if title == "Results"]
    for parts, summary in quick:
        page.insert(page.index(parts[0]), nodes.raw("", QUICK.format(summary), format="html"))
        page.insert(page.index(parts[-1]) + 1, nodes.raw("", "</details>", format="html"))


def setup(app):
    index_prose_alone()
    app.connect("html-page-context", describe_page)
    app.connect("doctree-read", fold_quick_run)
    app.connect("doctree-resolved", show_definitions)
    app.connect("build-finished", lead_on)
    return dict(parallel_read_safe=True, parallel_write_safe=True)
