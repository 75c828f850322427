"""What a reader meets has the size of a thought: modules, functions, cells and stretches of code without a sentence.

And the book is read in the order in which its modules are imported, and importing one of them does nothing.
"""

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).parents[1]
MODULES = sorted(path for path in (ROOT / "l2m").glob("*.py") if not path.name.startswith("_"))
NOTEBOOKS = sorted(path for path in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
name = lambda path: str(path.relative_to(ROOT))


def functions(path):
    "Every function of a module, with its lines"
    nodes = ast.walk(ast.parse(path.read_text()))
    return {
        f"{n.name}, line {n.lineno}": n.end_lineno - n.lineno + 1
        for n in nodes
        if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))
    }


def stretches(cells):
    "Lines of code, without directives, between two cells of text: the first cell and how many"
    found = [(0, 0)]
    for i, cell in enumerate(cells):
        if cell.cell_type != "code":
            found.append((i + 1, 0))
            continue
        lines = [line for line in cell.source.splitlines() if line.strip() and not line.startswith("#|")]
        found[-1] = found[-1][0], found[-1][1] + len(lines)
    return found


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_holds_one_idea(path):
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_function_fits_on_a_screen(path):
    assert {what: lines for what, lines in functions(path).items() if lines > 40} == {}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_cells_are_short_and_text_stands_between_them(path):
    cells = nbformat.read(path, 4).cells
    assert {
        i: lines
        for i, cell in enumerate(cells)
        if cell.cell_type == "code" and (lines := len(cell.source.splitlines())) > 60
    } == {}
    assert {first: lines for first, lines in stretches(cells) if lines > 60} == {}, (
        "code lines without a sentence, from this cell on"
    )


def exported(path):
    "The module that a notebook exports, None where it exports none, and the modules of l2m that its exported cells import"
    cells = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    module = next(
        (found[1] for source in cells if (found := re.search(r"^#\| default_exp (\w+)", source, re.MULTILINE))), None
    )
    code = [source for source in cells if re.search(r"^#\| exporti?\b", source, re.MULTILINE)]
    imports = [
        node
        for source in code
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and node.module
    ]
    return module, {node.module.removeprefix("l2m.") for node in imports if node.module.startswith("l2m.")}


def test_a_chapter_imports_only_earlier_ones():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    order = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    groundwork = {
        exported(path)[0] for path in NOTEBOOKS if path.name.startswith("00_")
    }  # read when it is wanted, imported by all
    read, wrong = groundwork | {"published"}, {}
    for page in order:
        path = (ROOT / "nbs" / page).with_suffix(".ipynb")
        module, imports = exported(path) if path.exists() else (None, set())
        if module and (later := imports - read - {module}):
            wrong[page] = sorted(later)
        read |= {module}
    assert wrong == {}
    assert {path.stem for path in MODULES} <= read, "a module of no chapter"


EFFECTS = """
import importlib, os, sys
opened = []
def watch(event, arguments):
    if event == "open":
        path, mode, flags = arguments
        if (isinstance(mode, str) and set(mode) & set("wax+")) or (not mode and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)): opened.append(str(path))
import transformers.models.mamba2.modeling_mamba2 as mamba2, transformers.models.bamba.modeling_bamba as bamba, matplotlib, datasets, torch, polars, accelerate, scipy.stats, scipy.special, scipy.optimize
before = [dict(vars(module)) for module in (mamba2, bamba)]
classes = [dict(vars(kind)) for module in (mamba2, bamba) for kind in vars(module).values() if isinstance(kind, type)]
defaults = torch.get_default_dtype(), torch.get_num_threads(), dict(os.environ), sys.path[:]
sys.addaudithook(watch)
for module in sys.argv[1:]: importlib.import_module("l2m." + module)
assert [dict(vars(module)) for module in (mamba2, bamba)] == before, "functions of transformers were replaced"
assert [dict(vars(kind)) for module in (mamba2, bamba) for kind in vars(module).values() if isinstance(kind, type)] == classes
assert (torch.get_default_dtype(), torch.get_num_threads(), dict(os.environ), sys.path[:]) == defaults
assert [path for path in opened if "__pycache__" not in path and path != os.devnull] == [], opened
"""


def test_importing_has_no_effect(tmp_path):
    "Nothing inside transformers is replaced, nothing is written, and no setting of the process changes"
    done = subprocess.run(
        [sys.executable, "-B", "-c", EFFECTS, *(path.stem for path in MODULES)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "old, name, new",
    [
        ("corpora", "token_windows", "windows"),
        ("scoring", "load_scorer", "loading"),
        ("bipartite", "bipartite_mi", "estimators"),
    ],
)
def test_a_name_that_moved_is_found_and_says_where_it_is(old, name, new):
    with pytest.warns(DeprecationWarning, match=f"from l2m.{new} import {name}"):
        found = getattr(import_module(f"l2m.{old}"), name)
    assert found is getattr(import_module(f"l2m.{new}"), name)
    with pytest.raises(AttributeError, match=f"module 'l2m.{old}' has no attribute 'nothing'"):
        _ = import_module(f"l2m.{old}").nothing
