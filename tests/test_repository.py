"The checkout keeps its promises: exported, clean, described, installable, and without pickle."

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from configparser import ConfigParser
from pathlib import Path

import nbformat
import polars as pl
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from papermill import inspect_notebook

import l2m
from l2m.experiments import profile_parameters
from l2m.parameters import checked_parameters, notebook_parameters
from l2m.published import DIRECT, NATS_PER_SCALAR, TWO_POINT, VCLUB
from l2m.ranking import ranking_of

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
EXPERIMENTS = {p.stem: p for p in NOTEBOOKS if p.parent.name == "experiments"}
PROFILES = sorted((ROOT / "params").glob("*.yml"))
MODULES = sorted(p for p in (ROOT / "l2m").glob("*.py") if not p.name.startswith("_"))
name = lambda path: str(path.relative_to(ROOT))


def run(*command, **options):
    "Run a command; what it printed, or a failure that shows it"
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def code_of(path: Path) -> str:
    "The Python of a module or of a notebook"
    if path.suffix == ".py":
        return path.read_text()
    lines = [
        line
        for cell in nbformat.read(path, 4).cells
        if cell.cell_type == "code"
        for line in [*cell.source.splitlines(), ""]
    ]
    return "\n".join("pass" if line.startswith(("%", "!")) else line for line in lines)


def test_words_are_spelt_right():
    run(
        BIN / "codespell",
        *(
            ROOT / part
            for part in (
                "README.md",
                "CONTRIBUTING.md",
                "nbs",
                "l2m",
                "params",
                "tests",
                "bench",
                "_ext",
                "references.bib",
            )
        ),
        cwd=ROOT,
    )


@pytest.mark.parametrize("command", [("check",), ("format", "--check")], ids=" ".join)
def test_code_is_formatted_and_free_of_slips(command):
    run(BIN / "ruff", *command, "--quiet", "--no-cache", ".", cwd=ROOT)


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory):
    "The notebooks cleaned and exported once more, in another folder"
    copy = tmp_path_factory.mktemp("checkout")
    for folder in ("nbs", "l2m"):
        shutil.copytree(
            ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        )
    for file in ("settings.ini", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / file, copy)
    for module in MODULES:
        (copy / name(module)).unlink()
    run(BIN / "nbdev_clean", cwd=copy)
    run(BIN / "nbdev_export", cwd=copy)
    return copy


@pytest.mark.parametrize("path", [*MODULES, ROOT / "l2m/_modidx.py"], ids=name)
def test_module_is_the_export_of_its_notebook(rebuilt, path):
    again = rebuilt / name(path)
    assert again.exists(), f"no notebook exports {path.name}"
    assert path.read_text() == again.read_text(), "run nbdev_export"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebook_is_clean(rebuilt, path):
    assert path.read_text() == (rebuilt / name(path)).read_text(), "run nbdev_clean"
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells), (
        "notebooks are committed without outputs"
    )
    assert max(len(cell.source.splitlines()) for cell in cells) <= 60


@pytest.mark.parametrize("path", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_experiment_has_parameters_and_a_quick_profile(path):
    assert notebook_parameters(path), "no parameter is annotated"
    assert path.stem in yaml.safe_load((ROOT / "params/ci.yml").read_text())


@pytest.mark.parametrize("path", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_experiment_begins_with_its_own_parameters_in_its_first_cell(path):
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    assert (
        "parameters" in cells[0].metadata.get("tags", [])
        and f'run = Experiment("{path.stem}", globals())' in cells[1].source
    )
    known = notebook_parameters(path)
    assert set(inspect_notebook(path)) == set(known), "papermill would call a parameter unknown"
    assert checked_parameters(path, {name: default for name, (_, default) in known.items()})
    assert [
        name
        for name, (annotation, default) in known.items()
        if default is None and not annotation.startswith("Optional")
    ] == []


@pytest.mark.parametrize("path", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_no_parameter_becomes_something_else(path):
    "A function above would see it change; only the place of a store or a cache may become the store or the cache"
    kept, bound = set(notebook_parameters(path)) - {"store", "cache"}, set()
    for cell in [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"][1:]:
        statements = [
            node for node in ast.parse(cell.source).body if not isinstance(node, (ast.FunctionDef, ast.ClassDef))
        ]
        bound |= {
            n.id for s in statements for n in ast.walk(s) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
        }
    assert kept & bound == set()


@pytest.mark.parametrize("path", [path for path in [*MODULES, *NOTEBOOKS] if "stores" not in path.stem], ids=name)
def test_tables_are_read_by_their_name(path):
    "Polars takes brackets and stars in a path for a pattern, unless it is told not to; a store reads bytes"
    calls = [
        node
        for node in ast.walk(ast.parse(code_of(path)))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("pl.read_parquet", "pl.scan_parquet")
    ]
    assert [node.lineno for node in calls if "glob" not in {keyword.arg for keyword in node.keywords}] == []


SENTENCE = r"""\b(verdict|finding)\b["']?[\])]*"""  # in words, for readers
READ = re.compile(
    rf"""{SENTENCE}\s*\.(str|split|partition|startswith|endswith|find|index)\b|\bin\s+(\w+\.)*(\w+\[["'])?{SENTENCE}|\bre\.\w+\([^\n]*{SENTENCE}"""
)


@pytest.mark.parametrize("path", [*MODULES, *NOTEBOOKS], ids=name)
def test_no_conclusion_is_read_from_a_sentence(path):
    assert READ.findall(code_of(path)) == []


@pytest.mark.parametrize(
    "read",
    [
        'pl.col("verdict")\n    .str.extract("^The (.+)")',
        'row["verdict"].split(". ")',
        'x = "cannot tell" in fit.verdict',
        're.match("The", law.verdict)',
        '"Ruled out" in row["verdict"]',
        "ranking.finding.startswith('The')",
    ],
)
def test_reading_a_sentence_would_be_seen(read):
    assert READ.search(read)


def test_published_laws_keep_their_rankings():
    for path in sorted((ROOT / "results").glob("b*/*/laws.parquet")):
        laws = pl.read_parquet(path, glob=False)
        assert "verdict" not in laws.columns and all(str(ranking_of(row)) for row in laws.iter_rows(named=True)), path


@pytest.mark.parametrize("path", [path for path in [*MODULES, *NOTEBOOKS] if path.stem != "published"], ids=name)
def test_published_numbers_stand_once(path):
    "The audit's parameters are literals, which papermill needs: they are held against the module below"
    found = [
        node.value
        for node in ast.walk(ast.parse(code_of(path)))
        if isinstance(node, ast.Constant) and node.value in (DIRECT.amplitude, VCLUB.amplitude)
    ]
    assert found == ([DIRECT.amplitude] if path.stem == "state_audit" else [])


def test_the_audits_parameters_are_the_published_numbers():
    default = {name: value for name, (_, value) in notebook_parameters(EXPERIMENTS["state_audit"]).items()}
    assert (default["amplitude"], default["beta"], default["nats_per_scalar"]) == (
        *DIRECT[:2],
        NATS_PER_SCALAR,
    ) and default["interval"] == [VCLUB.exponent, DIRECT.exponent]
    facts = {fact["value"] for fact in yaml.safe_load((ROOT / "nbs/facts.yml").read_text())["quoted"]["chen2025l2m"]}
    assert {*DIRECT[:2], VCLUB.exponent, -TWO_POINT.exponent, NATS_PER_SCALAR} <= facts
    assert (f"{VCLUB}", TWO_POINT.tex) == ("3.26·L^0.71", "1.10\\,d^{-0.91}") and DIRECT(
        [1, 100]
    ).tolist() == pytest.approx([2.27, 2.27 * 100**0.76])


@pytest.fixture(params=["my clone", "it's [v2]", "$HOME", 'a "b" `c`'])
def elsewhere(tmp_path, request):
    "A folder of any name with the Makefile in it; the commands that make would run there"
    folder = tmp_path / request.param
    (folder / ".venv").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", folder)
    for file in ("pyproject.toml", "constraints.txt", ".venv/installed"):
        (folder / file).touch()
    return lambda *words: [
        shlex.split(line) for line in run("make", "--no-print-directory", "-n", *words, cwd=folder).splitlines()
    ], folder


def test_make_works_in_a_folder_of_any_name(elsewhere):
    commands, folder = elsewhere
    assert [words[words.index("--toc") + 1] for words in commands("book") if "--toc" in words] == [f"{folder}/_toc.yml"]
    assert commands("reproduce", "RUN=a b/c")[-1] == [".venv/bin/l2m", "reproduce", "a b/c"]


def test_make_takes_a_python_of_any_name(elsewhere):
    commands, folder = elsewhere
    (folder / ".venv/installed").unlink()
    python = f"{folder.parent}/a folder/python3"
    checked, made = [words for words in commands("demo", f"PYTHON={python}") if python in words]
    assert made == [python, "-m", "venv", ".venv"] and checked[-1] == python
    done = subprocess.run([sys.executable, *checked[1:]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", PROFILES, ids=name)
def test_profile_sets_parameters_that_exist(path):
    for experiment in yaml.safe_load(path.read_text()):
        assert checked_parameters(EXPERIMENTS[experiment], profile_parameters(path.stem, experiment))


@pytest.mark.parametrize("path", [*MODULES, *NOTEBOOKS, *sorted((ROOT / "tests").glob("*.py"))], ids=name)
def test_nothing_is_pickled(path):
    pickles, loaders = (
        {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"},
        {"torch.load", "torch.save", "numpy.save"},
    )
    for node in ast.walk(ast.parse(code_of(path))):
        if isinstance(node, ast.Import):
            found = {alias.name.split(".")[0] for alias in node.names} & pickles
        elif isinstance(node, ast.ImportFrom):
            found = {str(node.module).split(".")[0]} & pickles
        elif isinstance(node, ast.Attribute):
            found = {ast.unparse(node)} & loaders or {node.attr} & {"read_pickle", "to_pickle"}
        elif isinstance(node, ast.keyword):
            found = {node.arg} & {"allow_pickle"}
        else:
            continue
        assert not found, f"line {node.lineno}"


def test_imports_run_downwards():
    "Every module imports only from those below it; the top is `runs`, the ground knows nothing of the package"
    below = {}
    for path in MODULES:
        imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        below[path.stem] = {
            node.module.removeprefix("l2m").strip(".")
            for node in imports
            if node.module and (node.level or node.module.startswith("l2m"))  # a name of the package itself: no module
        }
    assert below["interface"] == below["arguments"] == set() and below["information"] | below["errors"] | below[
        "ranking"
    ] <= {"arguments"}
    assert not any("runs" in modules for modules in below.values())
    while ground := [module for module, modules in below.items() if not modules & below.keys()]:
        for module in ground:
            del below[module]
    assert below == {}, "a circle of imports"


LAZY = """
import sys, l2m
loaded = {name.partition(".")[0] for name in sys.modules} & {"torch", "transformers", "polars", "numpy", "scipy", "datasets", "matplotlib"}
assert not loaded and [name for name in sys.modules if name.startswith("l2m.")] == [], loaded
assert set(l2m.__all__) <= set(dir(l2m)) and l2m.__version__
for name in l2m.__all__: assert getattr(l2m, name) is getattr(l2m, name) and getattr(l2m, name).__name__ == name
try: l2m.nothing
except AttributeError as error: assert "has no attribute 'nothing'" in str(error)
else: raise AssertionError
"""


def test_importing_the_package_loads_nothing_and_offers_the_names_of_the_readme():
    run(sys.executable, "-c", LAZY)
    assert len(l2m.__all__) == 10 and not set(l2m.__all__) & {path.stem for path in MODULES}, (
        "a module of that name would hide it"
    )
    for name, module in l2m._HOMES.items():
        assert name in __import__(f"l2m.{module}", fromlist=["__all__"]).__all__
    shown = re.findall(r"^from l2m import (.*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert shown and {name.strip() for line in shown for name in line.split(",")} <= set(l2m.__all__)


def test_book_lists_every_module_and_notebook():
    api, toc = "".join(path.read_text() for path in (ROOT / "nbs/api").glob("*.md")), (ROOT / "_toc.yml").read_text()
    assert [m.stem for m in MODULES if f"automodule:: l2m.{m.stem}\n" not in api] == []
    assert [path.stem for path in (ROOT / "nbs/api").glob("*.md") if f" api/{path.stem}\n" not in toc] == []
    assert [n for n in NOTEBOOKS if f" {n.relative_to(ROOT / 'nbs').with_suffix('')}\n" not in toc] == []


def test_workflows_are_valid():
    workflows = sorted((ROOT / ".github/workflows").glob("*.yml"))
    assert len(workflows) == 2
    run(BIN / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", *workflows)


def test_every_dependency_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {
        canonicalize_name(Requirement(r).name)
        for r in [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    }
    pinned = [
        Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")
    ]
    assert all(str(p.specifier).startswith("==") for p in pinned)
    assert wanted - {canonicalize_name(p.name) for p in pinned} == {"l2m-scaling"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    "A folder with the package as `pip wheel .` makes it, and nothing else of the checkout"
    folder = tmp_path_factory.mktemp("wheel")
    for part in ("l2m", "nbs/experiments", "params", "results"):
        shutil.copytree(
            ROOT / part, folder / "source" / part, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        )
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, folder / "source")
    quietly = ("--quiet", "--no-deps", "--disable-pip-version-check")
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        *quietly,
        "--no-build-isolation",
        "--wheel-dir",
        folder / "dist",
        folder / "source",
    )
    run(
        sys.executable,
        "-m",
        "pip",
        "install",
        *quietly,
        "--target",
        folder / "target",
        *(folder / "dist").glob("*.whl"),
    )
    shutil.rmtree(folder / "source")
    return folder / "target"


STRANGER = re.compile(
    r"""\bpip3? install\b[^\n`]*?[ '"\\]l2m(?![\w-])|\binstall l2m(?![\w-])|\bl2m\\?\[|\b(?:version|distribution)\(["']l2m["']"""
)


def test_nothing_in_the_checkout_is_a_link():
    "A link leads elsewhere on another machine, and one named .venv in place of the environment"
    listed = subprocess.run(["git", "ls-files", "-s"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no git repository")
    assert [line for line in listed.stdout.splitlines() if line.startswith("120000")] == []


def test_nothing_installs_or_asks_a_stranger():
    "The distribution is l2m-scaling; the `l2m` of the package index is another project, in pip lines and in metadata"
    assert (
        STRANGER.search("pip install 'l2m[book]'")
        and STRANGER.search('pip install -U l2m"')
        and STRANGER.search("version('l2m')")
    )
    assert not any(
        map(
            STRANGER.search,
            ("pip install 'l2m-scaling[book]'", "pip install git+https://github.com/l2m-project/l2m", "install l2m_x"),
        )
    )
    listed = run("git", "ls-files", cwd=ROOT).split()
    files = [
        ROOT / file
        for file in listed
        if Path(file).suffix in (".py", ".ipynb", ".md", ".yml", ".toml", ".ini", ".txt", "")
    ]
    told = [f"{name(f)}: {m[0]}" for f in files if f != Path(__file__) for m in [STRANGER.search(f.read_text())] if m]
    assert told == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    settings = ConfigParser()
    settings.read(ROOT / "settings.ini")
    assert project["name"] == settings["DEFAULT"]["lib_name"] == "l2m-scaling"


@pytest.mark.slow
def test_experiments_and_profiles_travel_with_the_package(installed, tmp_path):
    "After `pip install 'l2m-scaling[book]'` from a wheel, in an empty folder"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = lambda *words: run(sys.executable, installed / "bin" / "l2m", *words, cwd=tmp_path, env=environment)
    listed = command("list")
    assert all(f"  {experiment} " in listed for experiment in EXPERIMENTS) and not list(tmp_path.iterdir())
    said = command("run", "gaussian_families", "--profile", "ci")
    [made] = (tmp_path / "runs/gaussian_families").glob("ci-*")
    assert {"table.parquet", "laws.parquet", "figure.svg", "gaussian_families.ipynb"} <= {
        path.name for path in made.iterdir()
    }
    assert [path.name for path in tmp_path.iterdir()] == ["runs"] and str(made.relative_to(tmp_path)) in said
    script = f"import l2m, l2m.experiments as e; assert l2m.__file__.startswith({str(installed)!r}); print(*e.published_names())"
    assert run(sys.executable, "-c", script, cwd=tmp_path, env=environment).split() == sorted(
        str(p.relative_to(ROOT / "results")) for p in {q.parent for q in (ROOT / "results").glob("*/*/*.parquet")}
    )


@pytest.mark.slow
def test_plain_installation_works_without_the_tools_of_the_book(installed, tmp_path):
    "`pip install .` alone gives every module and the command: neither may need what only the extras install"
    target = installed
    script = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {{"nbdev", "execnb", "fastcore", "papermill", "jupyter_book", "ipykernel", "IPython", "nbformat", "pytest"}}:
            raise ModuleNotFoundError("not in a plain installation: " + name)
sys.meta_path.insert(0, Blocked())
import importlib, matplotlib.pyplot, l2m
assert l2m.__file__.startswith({str(target)!r}), l2m.__file__
for module in {[m.stem for m in MODULES]!r}: importlib.import_module("l2m." + module)
matplotlib.pyplot.style.use("l2m.l2m")
from l2m.runs import app
app(["--help"], prog_name="l2m")
"""
    printed = run(sys.executable, "-c", script, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(target)})
    assert "run" in printed
    assert (target / "bin" / "l2m").exists()
