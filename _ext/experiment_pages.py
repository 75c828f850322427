"""An experiment's page for a reader: what the published run found comes first, the run of the profile `ci` lies behind a fold.

The notebook is in the order in which it computes. Sections whose heading carries the tag `found` move to the front of the page; then
comes what was learned, then how to run it; the rest, which in the book is a test of a few seconds, is folded.
"""

import re

from docutils import nodes
from nbformat.v4 import new_markdown_cell
from sphinx.errors import ExtensionError

AFTER_FINDINGS = "What was learned", "Exercises"
RUN = "Run it"
ANNOUNCED = re.compile(r"^-- published, not of this run: .*\n?", re.MULTILINE)  # on a page the heading says so
MARK = "folded from here"
FOLD = (
    f"## The code, and a test of it\n\n% {MARK}\n\n"
    "The notebook once more in its own order, as the profile `ci` runs it: seconds of work, which show that everything works and measure nothing."
)
SUMMARY = "The notebook: its code, and a test of it that measures nothing"


def heading(cell) -> str | None:
    "The title of a section that begins with this cell"
    lines = cell.source.splitlines() if cell.cell_type == "markdown" else ()
    return next((line[3:].strip() for line in lines if line.startswith("## ")), None)


def sections(cells) -> list[list]:
    "The cells by sections, the first without a heading; a caption above a heading stays with what it describes"
    parts = [[]]
    for cell in cells:
        if (title := heading(cell)) is None:
            parts[-1].append(cell)
            continue
        above, _, below = cell.source.partition(f"## {title}")
        if above.strip():
            parts[-1].append(new_markdown_cell(above))
        cell.source = f"## {title}{below}"
        parts.append([cell])
    return parts


def quiet(cell) -> None:
    "Leave out the line that tells in a terminal where a published run begins"
    for output in cell.outputs:
        if "text" in output:
            output.text = ANNOUNCED.sub("", output.text)
    cell.outputs = [output for output in cell.outputs if output.get("text", "shown")]


def arrange(notebook, name: str) -> None:
    "Put an experiment's cells into the order of its page"
    head, *parts = sections(notebook.cells)
    found = [part for part in parts if "found" in part[0].metadata.get("tags", ())]
    learned = [part for part in parts if heading(part[0]) in AFTER_FINDINGS]
    run = next((part for part in parts if heading(part[0]) == RUN), None)
    if run is None:
        raise ExtensionError(f"{name}: an experiment has a section `## {RUN}` with its command and its parameters")
    last = next(i for i, cell in enumerate(run) if "parameters" in cell.metadata.get("tags", ())) + 1
    rest = [part for part in parts if part not in [*found, *learned, run]]
    for cell in [cell for part in [*found, run] for cell in part if cell.cell_type == "code"]:
        cell.metadata.setdefault("tags", []).append("hide-input")
        quiet(cell)
    order = [head, *found, *learned, run[:last], [new_markdown_cell(FOLD), *run[last:]], *rest]
    notebook.cells = [cell for part in order for cell in part]


def fold(app, doctree) -> None:
    "Fold the sections from the marked one on"
    page = next(doctree.findall(nodes.section), None)
    if page is None or not app.env.docname.startswith("experiments/"):
        return
    marked = lambda node: any(isinstance(n, nodes.comment) and n.astext() == MARK for n in node.children)
    first = next(i for i, node in enumerate(page.children) if isinstance(node, nodes.section) and marked(node))
    opening, closing = f'<details class="l2m-fold"><summary>{SUMMARY}</summary>', "</details>"
    page.insert(first, nodes.raw("", opening, format="html"))
    page.append(nodes.raw("", closing, format="html"))


def setup(app):
    app.connect("doctree-read", fold, priority=400)  # before the tables of contents are collected
    return dict(parallel_read_safe=True, parallel_write_safe=True)
