"Profiles, parameters, provenance and the command."

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import numpy as np
import papermill
import polars as pl
import pytest
import typer
import yaml
from hypothesis import given
from hypothesis import strategies as st
from papermill.exceptions import PapermillExecutionError
from polars.testing.parametric import dataframes
from typer.testing import CliRunner

import l2m
from l2m import experiments, parameters, runs
from l2m.compare import compare_tables
from l2m.experiments import (
    Experiment,
    command_of,
    experiment_notebook,
    profile_parameters,
    provenance,
    published_run,
    repository,
    results_folder,
    save_table,
)
from l2m.parameters import checked_parameters, notebook_parameters, parameter_comments, read_options
from l2m.runs import _flags, _option_words, output_folder, run_experiment
from l2m.stores import Damaged, Store

ROOT = Path(__file__).parents[1]
COMMAND = Path(sys.executable).parent / "l2m"
EXPERIMENTS = sorted(p.stem for p in (ROOT / "nbs" / "experiments").glob("*.ipynb"))
PROFILES = sorted((ROOT / "params").glob("*.yml"))


@pytest.mark.parametrize(
    "profile, experiment", [(path.stem, name) for path in PROFILES for name in yaml.safe_load(path.read_text())]
)
def test_every_profile_fits_its_notebook(experiment, profile):
    parameters = checked_parameters(experiment_notebook(experiment), profile_parameters(profile, experiment))
    assert {"output", "seed"} <= set(parameters)


@pytest.mark.parametrize("profile", ["ci", "demo", "published"])
def test_a_profile_of_every_day_speaks_of_every_experiment(profile):
    assert sorted(yaml.safe_load((ROOT / f"params/{profile}.yml").read_text())) == EXPERIMENTS


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nothing"], "experiment 'nothing' is unknown: choose one of"),
        (["bipartite_scaling", "--profile", "huge"], "profile 'huge' is unknown: choose one of"),
        (
            ["bipartite_scaling", "-p", "pears=64"],
            "has no parameter 'pears' \\(perhaps 'pairs' was meant\\): choose among",
        ),
        (
            ["bipartite_scaling", "-p", "pairs=many"],
            "parameter 'pairs' of bipartite_scaling is 'many', expected int or list\\[int\\], by default 8: write -p 'pairs=8'",
        ),
        (
            ["bipartite_scaling", "-p", "lengths=[4, long]"],
            "expected list\\[int\\], by default .*: write -p 'lengths=\\[4, 16, 64\\]'",
        ),
        (
            ["bipartite_scaling", "--pears", "64"],
            "has no parameter 'pears' \\(perhaps 'pairs' was meant\\): choose among",
        ),
        (["bipartite_scaling", "--pairs", "many"], "parameter 'pairs' of bipartite_scaling is 'many', expected int"),
        (["bipartite_scaling", "--pairs"], "option '--pairs' has no value: write --pairs value"),
        (["bipartite_scaling", "--pairs", "--seed", "1"], "option '--pairs' has no value"),
        (["bipartite_scaling", "pairs=8"], "'pairs' is no option: write --name value"),
        (["bipartite_scaling", "--pairs", "8", "-p", "pairs=16"], "parameter 'pairs' is given twice"),
        (["nothing", "--help"], "experiment 'nothing' is unknown: choose one of"),
        (["bipartite_scaling", "-p", "pairs"], "parameter 'pairs' has no value: write key=value"),
        (["bipartite_scaling", "-p", "pairs=[1"], "list '\\[1' is not valid YAML"),
        (
            ["bipartite_scaling", "-p", "pairs=4,some"],
            "parameter 'pairs' of bipartite_scaling is '4,some', expected int or",
        ),
        (["bipartite_scaling", "-p", "lengths=[1"], "list '\\[1' is not valid YAML"),
        (
            ["bipartite_scaling", "-p", "corpus=null"],
            "parameter 'corpus' of bipartite_scaling is None, expected str, .*: write -p 'corpus=\"sotu\"'",
        ),
        (["bipartite_scaling", "-p", "pairs=8", "-p", "pairs=16"], "parameter 'pairs' is given twice, as '8' and '16'"),
        (["../11_runs"], "experiment '../11_runs' is unknown: choose one of"),
        (
            ["bipartite_scalling"],
            "experiment 'bipartite_scalling' is unknown \\(perhaps 'bipartite_scaling' .*was meant\\): choose",
        ),
        (["bipartite_scaling", "--length", "4,16"], "no parameter 'length' \\(perhaps 'lengths' was meant\\): choose"),
        (
            ["gaussian_families", "--profile", "ci", "--output", "README.md"],
            "'README.md' cannot be written \\(it is no folder\\): make room or choose another place",
        ),
        (
            ["gaussian_families", "--profile", "ci", "--output", "README.md/x"],
            "'README.md/x' cannot be written \\(Not a directory\\)",
        ),
        (
            ["gaussian_families", "--profile", "ci", "--output", b"/nowhere/k\xe9"],
            "parameter 'output' is .*, which is not UTF-8",
        ),
        (
            ["two_point_scaling", "--profile", "ci", "-p", b"corpus=k\xe9"],
            "parameter 'corpus' is .*, which is not UTF-8",
        ),
    ],
)
def test_wrong_commands_are_one_clear_error(arguments, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    done = CliRunner().invoke(runs.app, ["run", *map(os.fsdecode, arguments)])
    assert done.exit_code == 1 and done.stdout == ""
    assert re.search(message, done.stderr) and len(done.stderr.splitlines()) == 1


def test_every_parameter_is_an_option_with_its_comment(checkout):
    done = command(
        checkout,
        "run",
        "tiny",
        "--profile",
        "ci",
        "--lengths",
        "4,16",
        "--pairs=1e3",
        "--model",
        "-m",
        "--output",
        "options",
    )
    assert done.returncode == 0, done.stderr
    said = json.loads((checkout / "options/said.json").read_text())
    assert said["lengths"] == [4, 16] and said["pairs"] == 1000 and said["language"] == "no" and said["model"] == "-m"
    shown = command(checkout, "run", "tiny", "--help")
    names = set(notebook_parameters(checkout / "nbs/experiments/tiny.ipynb")) - {"output"}
    assert shown.returncode == 0 and all(f"  --{name.replace('_', '-')}  " in shown.stdout for name in names)
    assert "Parameters of tiny, each with its value in the notebook:" in shown.stdout  # `demo` says nothing about it
    assert shown.stdout.count("--output") == 1  # an option of the command, and not told twice
    assert "--pairs  int, by default 8\n      windows drawn" in shown.stdout and "Usage" in shown.stdout
    assert "EXPERIMENT" in command(checkout, "run").stdout


@pytest.mark.parametrize(
    "words, whose, values",
    [
        (["--profile", "ci"], "profile 'ci'", {"pairs": 8, "lengths": [4, 16, 64], "documents": 24}),
        (["--profile", "demo"], "profile 'demo'", {"pairs": [480, 240, 64, 24, 16], "batch-size": 1}),
        ([], "profile 'demo'", {"pairs": [480, 240, 64, 24, 16], "batch-size": 1, "seed": 0}),
    ],
)
def test_help_shows_the_values_of_the_profile(words, whose, values, monkeypatch):
    "Those that a run would have"
    monkeypatch.chdir(ROOT)
    shown = CliRunner().invoke(runs.app, ["run", "bipartite_scaling", *words, "--help"]).stdout
    assert f"Parameters of bipartite_scaling, each with its value in {whose}:" in shown
    for name, value in values.items():
        assert re.search(rf"^  --{name}  .*, by default {re.escape(repr(value))}$", shown, re.MULTILINE)


def test_help_with_a_profile_that_is_none_is_an_error(monkeypatch):
    monkeypatch.chdir(ROOT)
    done = CliRunner().invoke(runs.app, ["run", "bipartite_scaling", "--profile", "demoo", "--help"])
    assert done.exit_code == 1 and "profile 'demoo' is unknown (perhaps 'demo' was meant)" in done.stderr


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_parameter_is_explained(experiment):
    "Only the seed needs no comment"
    notebook = experiment_notebook(experiment)
    assert set(notebook_parameters(notebook)) - set(parameter_comments(notebook)) <= {"seed"}


def test_what_there_is_to_choose_from_is_listed():
    said = command(ROOT, "list").stdout
    assert all(f"  {name} " in said for name in EXPERIMENTS) and "sotu" in said and "smollm2-135m" in said
    assert all(re.search(rf"^  {path.stem} +\S", said, re.M) for path in PROFILES)  # with what each is for


def test_the_version_is_told():
    assert command(ROOT, "--version").stdout == f"l2m {l2m.__version__}\n"


CHECKED = [
    ("bipartite_scaling", ["--pairs", "4,4"], "pairs \\[4, 4\\] for lengths \\[4, 16, 64\\]: choose .* or 3 numbers"),
    ("bipartite_scaling", ["--lengths", "4"], "lengths \\[4\\]: a law needs at least two lengths"),
    ("bipartite_scaling", ["--documents", "1"], "1 of its documents has 64 bytes or more, and two are the least"),
    (
        "bipartite_scaling",
        ["--model", "smolm2-135m"],
        "no model at 'smolm2-135m' \\(perhaps 'smollm2-135m' was meant\\)",
    ),
    ("bipartite_scaling", ["--corpus", "sotoo"], "no corpus 'sotoo' \\(perhaps 'sotu' was meant\\): expected one of"),
    (
        "bipartite_scaling",
        ["--model", "{model}", "--lengths", "4,65"],
        "length 65 exceeds the 32-token context of '{model}'",
    ),
    ("bipartite_scaling", ["--corpus", "{corpus}"], "8 windows of 64 tokens .* have room for at most 4, since"),
    ("context", ["--longest", "1000"], "longest is 1000, no power of two: choose 512 or 1024"),
    ("context", ["--share", "2"], "share 2.0 is no share of the loss"),
    ("context", ["--model", "{model}", "--longest", "32"], "length 40 exceeds the 32-token context"),
    ("passage", ["--step", "3"], "length 32 and step 3"),
    ("token_gains", ["--lengths", "4,16"], "choose three different lengths"),
    ("thinned_cache", ["--exponents", "1.5"], "give each once, from 0 to below 1"),
    ("memorisation", ["--doses", "1,2"], "give 0 first and rising doses"),
    ("reader_quality", ["--perfect", "1"], "give the lowest and the highest cost"),
    ("code_length", ["--longest", "4"], "choose longest >= 16"),
    ("estimator_search", ["--length", "100"], "choose a power of four"),
    ("estimators_against_truth", ["--pairs", "3"], "choose even numbers from 4 on"),
    ("gaussian_families", ["--layers", "11"], "choose 1 <= layers <= 10"),
    ("ising_lattice", ["--sides", "3,5"], "choose even ones"),
    ("position_nll", ["--tokens", "7"], "does not divide the 7 tokens"),
    ("santa_fe_kl", ["--tokens", "7"], "does not divide the 7 tokens"),
    ("data_scaling", ["--sizes", "1,2"], "need four sizes"),
    ("beyond_text", ["--units", "sentences"], "units 'sentences' is unknown"),
    ("diffusion", ["--samples", "7"], "choose a multiple of samples"),
    ("two_point_scaling", ["--corpus", "sotoo"], "no corpus 'sotoo'"),
]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    "The configuration of a model, and a corpus of two short texts"
    model, corpus = tmp_path_factory.mktemp("model"), tmp_path_factory.mktemp("corpus")
    (model / "config.json").write_text('{"model_type": "llama", "max_position_embeddings": 32}')
    for name in ("first", "second"):
        (corpus / f"{name}.txt").write_text("No man is an island. " * 7)  # 147 bytes
    return dict(model=str(model), corpus=str(corpus))


@pytest.mark.parametrize("experiment, words, said", CHECKED)
def test_what_cannot_be_is_refused_before_a_notebook_is_started(experiment, words, said, small, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("papermill.execute_notebook", lambda *_, **__: pytest.fail("a kernel was started"))
    words = [word.format(**small) for word in words]
    done = CliRunner().invoke(runs.app, ["run", experiment, "--profile", "ci", *words, "--output", str(tmp_path / "x")])
    assert done.exit_code == 1 and len(done.stderr.splitlines()) == 1, done.output
    assert re.search(said.format(**small) if "{" in said else said, done.stderr)
    assert not (tmp_path / "x").exists()


LIGHT = """
import sys
from pathlib import Path
from l2m import runs
from l2m.experiments import experiment_notebook, experiment_names, profile_parameters
from l2m.parameters import checked_parameters, run_checks, tagged_cells
done = []
for name in experiment_names():
    notebook = experiment_notebook(name)
    if tagged_cells(notebook, "checks"):
        for profile in ("ci", "demo"):
            run_checks(notebook, checked_parameters(notebook, profile_parameters(profile, name)))
        done.append(name)
heavy = {"torch", "transformers", "scipy", "datasets", "matplotlib", "papermill"} & set(sys.modules)
assert not heavy, heavy
print(*done)
"""


def test_what_is_checked_first_needs_nothing_heavy_and_lets_the_profiles_pass():
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert {name for name, _, _ in CHECKED} <= set(done.stdout.split())


def test_an_error_in_the_notebook_is_one_clear_error(tmp_path):
    "And a yes-or-no parameter may stand alone."
    words = "--trust-remote-code", "-p", "corpus=nowhere", "--profile", "ci", "--output", str(tmp_path)
    done = subprocess.run(
        [COMMAND, "run", "bipartite_scaling", *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: no corpus 'nowhere'")


PARAMETERS = """from typing import Optional

model: str = "m"
language: Optional[str] = "en"
documents: Optional[int] = None
column: str = None
pairs: int = 8  # windows drawn
rate: float = 0.01
shipped: bool = False
lengths: list[int] = [4, 16]
rates: list[float] = [0.01]
models: list[str] = ["llama"]
output: Optional[str] = None
"""
WORK = """import json, warnings
from pathlib import Path
from l2m.experiments import Experiment
run = Experiment("tiny", globals())
warnings.warn("two documents are equal")
Path(run.folder, "said.json").write_text(json.dumps(run.parameters | {"folder": str(run.folder), "here": [lengths, language]}))
if model == "wrong": raise ValueError("model 'wrong' is wrong: choose another")
if model == "killed": import os; os.kill(os.getpid(), 9)"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    "A checkout with one experiment, which only says what it was given"
    root = tmp_path_factory.mktemp("my [v2] clone {x}")
    (root / "nbs/experiments").mkdir(parents=True)
    (root / "params").mkdir()
    (root / "params/ci.yml").write_text("tiny:\n  language: no\n  rates: [1e-3]\n  documents:\n")
    cells = [nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell(WORK)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), root / "nbs/experiments/tiny.ipynb")
    return root


def command(folder, *words, tool="l2m", **environment):
    return subprocess.run(
        [COMMAND.with_name(tool), *map(str, words)],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | environment,
    )


@pytest.mark.parametrize(
    "text, value",
    [
        ("language=no", "no"),
        ("language=on", "on"),
        ("language=None", None),
        ("language=null", None),
        ("language=~", None),
        ("language=", None),
        ("language='null'", "null"),
        ("model=1984", "1984"),
        ("model=0123456", "0123456"),
        ("model=1e5", "1e5"),
        ("model=2020-01-01", "2020-01-01"),
        ("model=12:30", "12:30"),
        ("model=true", "true"),
        ("model=[x]", "[x]"),
        ('model="[x]"', "[x]"),
        ("model={x}", "{x}"),
        ("model=a=b", "a=b"),
        ("model=a #b: c", "a #b: c"),
        ("model=~/x", "~/x"),
        ("model=%x", "%x"),
        ("model=@x", "@x"),
        ("model='a", "'a"),
        ("model=' a'", " a"),
        ("documents=None", None),
        ("documents=~", None),
        ("documents=30", 30),
        ("column=None", None),
        ("column=text", "text"),
        ("pairs=1e3", 1000),
        ("pairs=1_000", 1000),
        ("pairs=012", 12),
        ("pairs=+5", 5),
        ("pairs=8.0", 8),
        ("pairs='8'", 8),
        ("pairs=9007199254740993", 9007199254740993),
        ("rate=1e-3", 1e-3),
        ("rate=.5", 0.5),
        ("rate=1", 1.0),
        ("rate=5.", 5.0),
        *(
            (f"shipped={word}", word in ("yes", "on", "true", "True"))
            for word in ("yes", "no", "on", "off", "true", "false", "True", "False")
        ),
        ("lengths=[4, 16]", [4, 16]),
        ("lengths=4,16", [4, 16]),
        ("lengths=4 16", [4, 16]),
        ("lengths=4, 16", [4, 16]),
        ("lengths=4", [4]),
        ("lengths=[1e3]", [1000]),
        ("lengths=[]", []),
        ("rates=[1e-3]", [1e-3]),
        ("rates=1e-3,.5", [1e-3, 0.5]),
        ("models=[no, 1e3]", ["no", "1e3"]),
        ("models=llama", ["llama"]),
        ("models=['a, b']", ["a, b"]),
    ],
)
def test_values_are_read_as_their_annotation_understands_them(checkout, text, value):
    [(name, word)] = read_options([text]).items()
    read = checked_parameters(checkout / "nbs/experiments/tiny.ipynb", {name: word})[name]
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize(
    "given, said",
    [
        ({"pairs": "3.5"}, "is '3.5', expected int"),
        ({"pairs": "nan"}, "expected int"),
        ({"pairs": "1e400"}, "expected int"),
        ({"pairs": "12:30"}, "expected int"),
        ({"pairs": None}, "is None, expected int"),
        ({"pairs": True}, "is True, expected int"),
        ({"pairs": [8]}, "expected int"),
        ({"rate": "nan"}, "expected float"),
        ({"rate": float("inf")}, "is inf, expected float"),
        ({"shipped": "1"}, "expected bool"),
        ({"lengths": "4;16"}, "expected list\\[int\\]"),
        ({"lengths": [4, None]}, "expected list"),
        ({"lengths": ""}, "expected list"),
        ({"lengths": "[[4], 16]"}, "expected list"),
        ({"models": "a, b"}, "expected list\\[str\\]"),
        ({"documents": "many"}, "expected int or None"),
        ({"model": None}, "expected str"),
        ({"language": False}, "is False, expected str or None"),
        ({"model": 1984}, "is 1984, expected str, by default 'm': write -p 'model=\"1984\"'"),
    ],
)
def test_what_an_annotation_cannot_mean_is_refused(checkout, given, said):
    with pytest.raises(ValueError, match=said):
        checked_parameters(checkout / "nbs/experiments/tiny.ipynb", given)


@given(
    st.lists(st.integers(-(2**63), 2**63)),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs", "Cc"])),
)
def test_what_is_written_is_what_is_read(checkout, whole, number, text):
    plain = text.strip()
    if plain[:1] in ("'", '"') or parameters._NOTHING.match(plain):
        plain = "m"
    given = read_options([f"lengths={whole}", f"rate={number!r}", f"model={plain}"])
    read = checked_parameters(checkout / "nbs/experiments/tiny.ipynb", given)
    assert (read["lengths"], read["rate"], read["model"]) == (whole, number, plain)


@pytest.mark.parametrize(
    "text, value",
    [("64", 64), ("1e3", 1000), ("[64]", [64]), ("480,240,16", [480, 240, 16]), (64, 64), ([8, 4], [8, 4])],
)
def test_windows_are_one_number_or_one_for_each_length(text, value):
    assert checked_parameters(experiment_notebook("bipartite_scaling"), {"pairs": text})["pairs"] == value


def test_a_command_does_the_work_of_its_run_again(tmp_path):
    "What the command leaves out is the profile's, so reading it as `l2m run` does gives the same parameters"
    given = dict(
        corpus="my novels",
        lengths=[4, 16],
        pairs=[9, 5],
        language=None,
        seed=3,
        output=str(tmp_path),
        store="elsewhere",
    )
    run = Experiment("bipartite_scaling", dict(given))
    l2m_run, name, *words = shlex.split(command_of(run).replace("l2m run", "l2m-run"))
    read = read_options(_option_words(words, _flags(name)))
    again = checked_parameters(experiment_notebook(name), profile_parameters("demo", name) | read)
    assert {key: again[key] for key in run.parameters} == run.parameters and "elsewhere" not in command_of(run)


def test_published_numbers_stand_under_their_name(tmp_path, capsys):
    run = Experiment("gaussian_families", dict(output=str(tmp_path)))
    found = run.published("exact")
    run.save(table=pl.DataFrame({"x": [1.0]}))
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"-- published, not of this run: gaussian_families/exact ({found.made_on}) --"
    assert said[1] == "-- this run --" and said[2].startswith("tables:")


def test_an_unknown_annotation_is_named(tmp_path):
    cell = nbformat.v4.new_code_cell("when: date = 1", metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "x.ipynb")
    with pytest.raises(ValueError, match="annotation 'date' of parameter 'when' is unknown: use int, float"):
        checked_parameters(tmp_path / "x.ipynb", {"when": "2"})


@pytest.mark.parametrize(
    "content, said",
    [
        (b"tiny:\n\tpairs: 8\n", "'.*ci.yml' is not valid YAML in line 2 .*not tabs"),
        (b"tiny: [8]\n", "no mapping for 'tiny'"),
        (b"- tiny\n", "no mapping"),
        (b"tiny: 8\n", "no mapping"),
        (b"other:\n", "says nothing about 'tiny'"),
        (b"", "says nothing"),
        (b"tiny:\n  model: k\xe9\n", "is not UTF-8"),
        (b"tiny:\n  pairs: 8\n  pairs: 16\n", "'pairs' stands there twice"),
        (b"tiny:\n  model: 'x\n", "not valid YAML"),
        (b"tiny: !!python/name:os.system\n", "not valid YAML"),
    ],
)
def test_a_profile_that_cannot_be_read_is_named(tmp_path, monkeypatch, content, said):
    for folder in ("nbs/experiments", "params"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "params/ci.yml").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=said):
        profile_parameters("ci", "tiny")


def test_profiles_may_share_what_they_say(tmp_path, monkeypatch):
    for folder in ("nbs/experiments", "params"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "params/ci.yml").write_bytes(
        b'\xef\xbb\xbfall: &all\n  language: no\ntiny:\n  <<: *all\n  model: "null"\n  column: null\n'
    )
    monkeypatch.chdir(tmp_path)
    assert profile_parameters("ci", "tiny") == {"language": "no", "model": "null", "column": None}


def test_a_notebook_is_told_where_and_with_what_it_runs(checkout):
    "Any path the system allows; warnings are heard; and values arrive as the profile and the command line meant them"
    done = command(
        checkout, "run", "tiny", "--profile", "ci", "-p", "lengths=4,16", "--output", "out [v2] {x} * ? 'é\""
    )
    assert done.returncode == 0, done.stderr
    said = json.loads((checkout / "out [v2] {x} * ? 'é\"/said.json").read_text())
    assert (
        said["here"] == [[4, 16], "no"]
        and said["rates"] == [1e-3]
        and said["documents"] is None
        and "output" not in said
    )
    assert "two documents are equal" in done.stderr and "Passed unknown parameter" not in done.stderr


@pytest.mark.parametrize(
    "model, said",
    [
        ("wrong", "error: model 'wrong' is wrong: choose another"),
        ("killed", "error: the process of the notebook was killed"),
    ],
)
def test_an_error_in_a_cell_is_one_clear_error_at_the_end(checkout, model, said):
    done = command(checkout, "run", "tiny", "--profile", "ci", "-p", f"model={model}")
    assert done.returncode == 1 and "Traceback" not in done.stderr and done.stderr.splitlines()[-1].startswith(said)


def test_papermills_text_is_read_in_the_notebook(checkout, tmp_path):
    shutil.copy(
        checkout / "nbs/experiments/tiny.ipynb", tmp_path / "tiny.ipynb"
    )  # papermill takes braces in a path for a parameter
    done = command(
        checkout,
        tmp_path / "tiny.ipynb",
        tmp_path / "x.ipynb",
        "-p",
        "lengths",
        "[4, 16]",
        "-p",
        "pairs",
        "1e3",
        "-p",
        "output",
        "~/out",
        tool="papermill",
        HOME=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    said = json.loads((tmp_path / "out/said.json").read_text())
    assert said["lengths"] == said["here"][0] == [4, 16] and said["pairs"] == 1000
    assert "Passed unknown parameter" not in done.stderr


@pytest.mark.parametrize(
    "given, said",
    [
        (
            {"lengths": "[4, long]"},
            "is '\\[4, long\\]', expected list\\[int\\], .*: write papermill's -y 'lengths: \\[4, 16\\]'",
        ),
        ({"model": 123456}, "is 123456, expected str, .*: write papermill's -y 'model: \"123456\"'"),
        ({"language": False}, "expected str or None, .*: write papermill's -y 'language: \"en\"'"),
        ({"output": "nbs/experiments/tiny.ipynb"}, "it is no folder"),
    ],
)
def test_a_notebook_refuses_wrong_values_in_its_first_cell(checkout, monkeypatch, given, said):
    monkeypatch.chdir(checkout)
    with pytest.raises((ValueError, OSError), match=said):
        Experiment("tiny", given)


def test_damaged_shards_are_named_in_the_first_cell(checkout, tmp_path, monkeypatch):
    "In the store beside the results or where else it is; in one store or in several"
    monkeypatch.chdir(checkout)
    for module in (parameters, experiments):
        monkeypatch.setattr(
            module, "notebook_parameters", lambda path: notebook_parameters(path) | {"store": ("Optional[str]", None)}
        )
    for folder, given in [("out/store", {}), ("out/store/scores-a", {}), ("apart", {"store": str(tmp_path / "apart")})]:
        store = Store(tmp_path / folder, {})
        for key in ("one", "two"):
            store.write(key, pl.DataFrame({"x": [1.0]}))
        start = lambda: Experiment("tiny", dict(given, output=str(tmp_path / "out")))
        start()
        store.path("two").write_bytes(store.path("one").read_bytes())
        with pytest.raises(
            Damaged,
            match=f"^one damaged shard .*{folder}/two.parquet': it belongs to shard 'one', not 'two'.: delete it",
        ):
            start()
        store.path("two").unlink()
        start()


@pytest.mark.parametrize(
    "kind",
    [
        "Damaged",
        "Unfinished",
        "Diverged",
        "OSError",
        "PermissionError",
        "FileNotFoundError",
        "ValueError",
        "KeyError",
        "OutOfMemoryError",
    ],
)
def test_an_error_that_explains_itself_is_told_without_its_class(kind, capsys):
    with pytest.raises(typer.Exit), runs._one_error():
        raise PapermillExecutionError(3, 3, "", kind, "'x' is wrong: delete it", [])
    name = f"{kind}: " * (kind in ("KeyError", "OutOfMemoryError"))
    assert capsys.readouterr().err == f"error: {name}'x' is wrong: delete it\n"


def test_nothing_is_executed_where_nothing_can_be_saved(checkout, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    monkeypatch.chdir(checkout)
    monkeypatch.setattr(papermill, "execute_notebook", lambda *_, **__: pytest.fail("executed"))
    for output in ("file", "file/below", "broken", "x" * 300):
        with pytest.raises(OSError, match="choose another place"):
            run_experiment("tiny", "ci", {}, tmp_path / output)
        with pytest.raises(OSError, match="choose another place"):
            run_experiment("tiny", "ci", {"output": str(tmp_path / output)})

    def full(**_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(
        OSError, match="'out' cannot be written \\(No space left on device\\): make room or choose another place"
    ):
        run_experiment("tiny", "ci", {}, "out")


def test_a_disk_that_fills_up_later_is_told_with_the_file(checkout, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.chdir(checkout)
    monkeypatch.setattr(papermill, "execute_notebook", full)
    with pytest.raises(
        OSError,
        match="out/tiny.ipynb' cannot be written \\(No space left on device\\): make room, and the same command goes on",
    ):
        run_experiment("tiny", "ci", {}, tmp_path / "out")


def test_a_place_for_results_may_have_any_name_and_nothing_is_left_in_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert results_folder("~/out [v2]*?") == tmp_path / "out [v2]*?" and not list((tmp_path / "out [v2]*?").iterdir())
    monkeypatch.chdir(tmp_path)
    assert results_folder("~nobody-of-this-name").resolve() == tmp_path / "~nobody-of-this-name"
    assert results_folder(os.fsdecode(b"k\xe9")).is_dir()


def test_none_is_welcome_where_it_is_the_default():
    notebook = experiment_notebook("bipartite_scaling")
    assert checked_parameters(notebook, {"column": None})["column"] is None
    with pytest.raises(ValueError, match="'pairs'"):
        checked_parameters(notebook, {"pairs": None})


def test_a_notebook_without_parameters_is_refused():
    with pytest.raises(ValueError, match="no cell tagged 'parameters'"):
        notebook_parameters(ROOT / "nbs" / "11_runs.ipynb")


@given(st.dictionaries(st.sampled_from(["pairs", "seed", "lengths"]), st.integers(0, 9), min_size=1))
def test_output_depends_on_the_work_alone(parameters):
    here = output_folder("e", "ci", parameters)
    assert here == output_folder(
        "e", "ci", dict(reversed(parameters.items())) | {"rank": 3, "world_size": 8, "output": "x"}
    )
    assert here != output_folder("e", "ci", parameters | {"seed": 10})


def test_a_table_has_its_provenance_beside_it(tmp_path):
    table = pl.DataFrame({"x": [1.0]})
    save_table(table, tmp_path / "deep" / "t.parquet", provenance(model="m"))
    history = json.loads((tmp_path / "deep" / "t.json").read_text())
    assert pl.read_parquet(tmp_path / "deep" / "t.parquet").equals(table)
    assert history["model"] == "m" and {"versions", "commit", "machine", "created"} <= set(history)


def test_a_kill_between_table_and_provenance_leaves_no_others_provenance(tmp_path, monkeypatch):
    save_table(pl.DataFrame({"x": [1.0]}), tmp_path / "t.parquet", {"seed": 0})
    write = experiments.write_atomically

    def killed(path, data):
        write(path, data)
        raise KeyboardInterrupt

    monkeypatch.setattr(experiments, "write_atomically", killed)
    with pytest.raises(KeyboardInterrupt):
        save_table(pl.DataFrame({"x": [2.0]}), tmp_path / "t.parquet", {"seed": 1})
    assert pl.read_parquet(tmp_path / "t.parquet")["x"].item() == 2 and not (tmp_path / "t.json").exists()


def test_what_cannot_be_saved_touches_nothing(tmp_path):
    save_table(pl.DataFrame({"x": [1.0]}), tmp_path / "t.parquet", {"seed": 0})
    with pytest.raises(TypeError):
        save_table(pl.DataFrame({"x": [2.0]}), tmp_path / "t.parquet", {"seed": object()})
    with pytest.raises(ValueError, match="choose a name that ends in .parquet"):
        save_table(pl.DataFrame({"x": [2.0]}), tmp_path / "t.json", {})
    with pytest.raises(ValueError, match="polars.DataFrame"):
        save_table({"x": [2.0]}, tmp_path / "t.parquet", {})
    assert pl.read_parquet(tmp_path / "t.parquet")["x"].item() == 1 and json.loads(
        (tmp_path / "t.json").read_text()
    ) == {"seed": 0}


@pytest.fixture
def clone(tmp_path, monkeypatch):
    "A checkout of l2m under git, from which it seems to be imported; and a way to call git in it"
    for file in (
        "l2m/__init__.py",
        "l2m/runs.py",
        "nbs/11_runs.ipynb",
        "nbs/experiments/passage.ipynb",
        "params/ci.yml",
    ):
        (tmp_path / "its" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / "its" / file)
    monkeypatch.setattr(l2m, "__file__", str(tmp_path / "its/l2m/__init__.py"))
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    if not shutil.which("git"):
        pytest.skip("no git")
    options = ["-c", "user.name=a", "-c", "user.email=b", "-c", "init.defaultBranch=main"]
    return lambda *words, at="its": subprocess.run(
        ["git", *options, *words], cwd=tmp_path / at, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_commit_is_that_of_l2ms_own_checkout(clone, tmp_path, monkeypatch):
    clone("init")
    assert provenance()["commit"] is None  # nothing committed
    clone("add", ".")
    clone("commit", "-m", "first")
    commit = clone("rev-parse", "HEAD")
    assert provenance()["commit"] == commit
    (tmp_path / "its/notes.txt").write_text("of the user")
    assert provenance()["commit"] == commit
    (tmp_path / "another").mkdir()
    clone("init", at="another")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "another/.git"))
    assert provenance()["commit"] == commit
    (tmp_path / "its/l2m/runs.py").write_text("changed")
    assert provenance()["commit"] == commit + "+changes"


@pytest.mark.parametrize("broken", [False, True])
def test_the_commit_of_another_repository_is_not_l2ms(clone, tmp_path, broken):
    "Installed below a repository of the user's, tracked there or not"
    clone("init", at=".")
    clone("add", ".", at=".")
    clone("commit", "-m", "all", at=".")
    if broken:
        (tmp_path / "its/.git").mkdir()
    assert provenance()["commit"] is None


def test_an_untracked_package_at_the_top_of_a_repository_has_no_commit(clone):
    clone("init")
    clone("add", "params")
    clone("commit", "-m", "mine")
    assert provenance()["commit"] is None


@pytest.mark.parametrize(
    "error",
    [FileNotFoundError(2, "No such file", "git"), PermissionError(13, "no"), subprocess.TimeoutExpired("git", 20)],
)
def test_git_is_optional(clone, monkeypatch, error):
    clone("init")

    def fails(*_, **__):
        raise error

    monkeypatch.setattr(subprocess, "run", fails)
    assert provenance()["commit"] is None


def test_a_package_that_was_never_installed_has_its_own_version(monkeypatch):
    def missing(name):
        raise experiments.PackageNotFoundError(name)

    monkeypatch.setattr(experiments, "version", missing)
    assert provenance()["versions"]["l2m"] == l2m.__version__


def test_every_committed_table_has_provenance():
    for path in (ROOT / "results").rglob("*.parquet"):
        history = json.loads(path.with_suffix(".json").read_text())
        assert {"experiment", "parameters", "versions", "created", "seconds"} <= set(history), path


def test_the_repository_is_found_from_inside_and_outside(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT / "nbs" / "experiments")
    assert repository() == ROOT
    monkeypatch.chdir(tmp_path)
    assert repository() == ROOT


def test_tables_are_compared_by_their_own_errors():
    old = pl.DataFrame(
        {
            "model": ["m", "n"],
            "mi": [1.0, 2.0],
            "stderr": [0.1, 0.1],
            "beta": [0.5, 0.6],
            "beta_low": [0.4, 0.5],
            "beta_high": [0.6, 0.7],
            "n": [8, 8],
            "missing": [None, 1.0],
            "draws": [[1.0], [2.0]],
            "seconds": [3, 4],
        }
    )
    verdict = lambda **changed: {
        c: a for c, a in compare_tables(old, old.with_columns(**changed)).select("column", "agrees").iter_rows()
    }
    assert verdict() == dict.fromkeys(["model", "mi", "beta", "n", "missing"], True)
    assert all(
        verdict(mi=pl.col("mi") + 0.29, beta=pl.col("beta") - 0.29, seconds=pl.lit(0), draws=pl.lit([0.0])).values()
    )
    for column, change in {
        "mi": pl.col("mi") + 0.31,
        "beta": pl.col("beta") + 0.31,
        "n": pl.lit(9),
        "model": pl.lit("m"),
        "missing": pl.lit(1.0),
    }.items():
        assert verdict(**{column: change}) == {**verdict(), column: False}
    with pytest.raises(ValueError, match="different shapes"):
        compare_tables(old, old.head(1))


agreement = lambda old, new: {c: a for c, a in compare_tables(old, new).select("column", "agrees").iter_rows()}


@given(dataframes(min_cols=1, max_cols=6, max_size=8, excluded_dtypes=[pl.Object, pl.Struct, pl.Array]))
def test_a_table_agrees_with_itself(table):
    "Whatever is in it: missing values, no numbers, infinities, negative zeros, lists, words"
    assert compare_tables(table, table.clone())["agrees"].all()


@pytest.mark.parametrize(
    "old, new, agrees",
    [
        ([1.0, -5e-14], [1.0, 2e-14], True),
        ([-5e-14, 3e-14], [2e-14, 0.0], True),
        ([0.0, 1.0], [-0.0, 1.0], True),
        ([444.0, 2e-12], [444.0, -8e-13], True),
        ([1e-9, 2e-9], [1.1e-9, 2e-9], False),
        ([0.0, 1.0], [1e-3, 1.0], False),
        ([1.0, 2.0], [1.0009, 2.0], True),
        ([1.0, 2.0], [1.002, 2.0], False),
        ([float("nan"), 1.0], [float("nan"), 1.0], True),
        ([float("nan"), 1.0], [1.0, 1.0], False),
        ([1.0, 1.0], [float("nan"), 1.0], False),
        ([float("inf"), 1.0], [float("inf"), 1.0], True),
        ([float("inf"), 1.0], [-float("inf"), 1.0], False),
        ([float("inf"), 1.0], [9e300, 1.0], False),
        ([1.0, 1.0], [float("inf"), 1.0], False),
        ([None, 1.0], [None, 1.0], True),
        ([None, 1.0], [0.0, 1.0], False),
        ([None, 1.0], [1.0, None], False),
        ([None, None], [None, None], True),
        ([], [], True),
        ([1000, 2000], [1000, 2000], True),
        ([1000, 2000], [1000, 2001], False),
        ([1, 2], [1.0, 2.0], True),
        ([2**62, 1], [2**62 + 1, 1], False),
        ([1, 2], ["1", "2"], False),
        ([True, False], [True, True], False),
        (["a", None], ["a", None], True),
        (["a", None], ["a", "b"], False),
        ([[1, 2], []], [[1, 2], []], True),
        ([[1, 2], []], [[1], [2]], False),
        ([[1, 2], []], [[1, 3], []], False),
        ([[1.0, -5e-14], [2.0]], [[1.0, 1e-14], [2.0]], True),
        ([[1.0], [2.0]], [[1.0], [2.1]], False),
        ([[8.0, 0.01], [0.01]], [[8.0, 0.015], [0.01]], True),  # a list is one vector
        ([[8.0, 0.01], [0.01]], [[8.0, 0.02], [0.01]], False),
        ([[8.0, 0.01], [0.01]], [[8.0, 0.01], [0.015]], False),
        ([[8.0, float("nan")], None], [[8.0, float("nan")], None], True),
        ([[8.0, float("nan")], None], [[8.0, 1.0], None], False),
        ([[8.0, float("inf")]], [[8.0, float("inf")]], True),
        ([[8.0, 1.0]], [[8.0, float("inf")]], False),
        ([[8.0, None], [1.0]], [[8.0, 1.0], [1.0]], False),
        ([["a"], None], [["a"], None], True),
        ([["a"], None], [["a"], []], False),
    ],
)
def test_a_column_agrees_where_its_values_do(old, new, agrees):
    table = lambda values: pl.DataFrame({"row": ["a", "b"][: len(values)], "value": pl.Series(values, strict=False)})
    assert agreement(table(old), table(new)) == {"row": True, "value": agrees}


def test_unsigned_numbers_do_not_wrap():
    table = pl.DataFrame({"n": pl.Series([3, 4], dtype=pl.UInt32), "x": pl.Series([0.0, 1.0], dtype=pl.Float32)})
    assert agreement(table, table.with_columns(n=pl.Series([4, 3], dtype=pl.UInt32)).with_columns(x=pl.lit(0.5))) == {
        "n": True,
        "x": False,
    }
    assert agreement(table, table.with_columns(n=pl.lit(5))) == {"n": False, "x": True}


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=9), st.data())
def test_rounding_is_measured_in_the_columns_own_unit(values, data):
    old, most = np.array(values), max(map(abs, values))
    table = lambda v: pl.DataFrame({"v": v})
    noise = np.array([data.draw(st.floats(-1, 1)) for _ in values])
    assert agreement(table(old), table(old * (1 + 9e-4 * noise) + 1e-11 * max(most, 0.1) * noise))["v"]
    if most > 1e-6:
        assert not agreement(table(old), table(old + 0.01 * most * (np.abs(old) == most)))["v"]


@given(st.permutations(range(6)), st.permutations(["family", "length", "mi", "stderr", "kl"]))
def test_rows_and_columns_are_found_by_what_they_are_called(rows, columns):
    old = pl.DataFrame(
        {"family": list("aabbcc"), "length": [4, 16] * 3, "mi": np.arange(6.0), "stderr": [0.1] * 6, "kl": [1.0] * 6}
    )
    new = old.with_columns(mi=pl.col("mi") + 0.2, kl=pl.when(pl.col("length") == 4).then(1.1).otherwise("kl"))[
        list(rows)
    ].select(columns)
    assert agreement(old, new) == {"family": True, "length": True, "mi": True, "kl": False}


def test_a_column_finds_its_error_by_name():
    old = pl.DataFrame(
        {
            "truth": [1.0],
            "stderr": [0.5],
            "mi": [1.0],
            "stderr_per_char": [0.5],
            "nll_per_char": [1.0],
            "mi_low": [0.9],
            "stderr_found": [0.5],
        }
    )
    moved = lambda **more: agreement(old, old.with_columns(**{name: pl.col(name) + gap for name, gap in more.items()}))
    assert moved(mi=1.4, nll_per_char=1.4) == dict.fromkeys(
        ["truth", "mi", "nll_per_char", "mi_low", "stderr_found"], True
    )
    assert moved(truth=0.1, mi=1.6, stderr_found=0.1) == {
        "truth": False,
        "mi": False,
        "nll_per_char": True,
        "mi_low": True,
        "stderr_found": False,
    }


@pytest.mark.parametrize("error", [0.0, None, float("nan"), float("inf")])
def test_an_error_that_is_none_excuses_nothing(error):
    old = pl.DataFrame({"mi": [1.0, 1.0], "stderr": [error, 0.1]})
    assert agreement(old, old.with_columns(mi=pl.Series([1.0 + 1e-14, 1.2])))["mi"]
    assert not agreement(old, old.with_columns(mi=pl.Series([1.01, 1.0])))["mi"]


def test_tables_of_different_shapes_are_told_apart_by_name():
    old = pl.DataFrame({"a": [1], "b": [2]})
    with pytest.raises(ValueError, match="different shapes.*; only one of them has b, c"):
        compare_tables(old, old.rename({"b": "c"}))
    with pytest.raises(ValueError, match="again is 'x', expected a polars.DataFrame"):
        compare_tables(old, "x")


def test_a_published_run_is_found_by_its_name(tmp_path, monkeypatch):
    run = published_run("gaussian_families/exact")
    assert (
        set(run.tables) == {"table", "laws"}
        and run.facts["experiment"] == "gaussian_families"
        and run["table"].equals(run.tables["table"])
    )
    with pytest.raises(KeyError, match="no table 'draws': choose one of"):
        run["draws"]
    with pytest.raises(ValueError, match="no published run: choose one of"):
        published_run("gaussian_families/another")
    for folder in ("nbs/experiments", "params"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)  # a checkout without results
    with pytest.raises(FileNotFoundError, match="results' is missing: install l2m-scaling again, or clone"):
        published_run("gaussian_families/exact")


def test_an_experiment_saves_its_tables_with_all_that_is_known(checkout, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(checkout)
    run = Experiment("tiny", dict(pairs="1e3", output=str(tmp_path / "out"), model="m"))
    run.note(corpus_fingerprint="f", seconds=7)
    table = pl.DataFrame({"x": [1.0]})
    run.save(table=table, laws=table)
    assert capsys.readouterr().out == f"tables: {tmp_path}/out/table.parquet, laws.parquet\n"
    made = [json.loads((tmp_path / f"out/{name}.json").read_text()) for name in ("table", "laws")]
    assert (
        made[0] == made[1]
        and {"corpus_fingerprint": "f", "seconds": 7, "experiment": "tiny"}.items() <= made[0].items()
    )
    assert (
        made[0]["parameters"] == run.parameters and run.parameters["pairs"] == 1000 and "output" not in run.parameters
    )
    assert (
        pl.read_parquet(tmp_path / "out/laws.parquet", glob=False).equals(table) and run.store == tmp_path / "out/store"
    )


def test_every_published_run_can_be_run_again():
    for path in (ROOT / "results").glob("*/*/*.json"):
        history = json.loads(path.read_text())
        assert checked_parameters(experiment_notebook(history["experiment"]), history["parameters"]), path


def test_reproduce_says_whether_a_run_agrees(tmp_path):
    wrong = [
        COMMAND,
        "reproduce",
        "gaussian_families/exact",
        "-p",
        "layers=2",
        "-p",
        "blocks=50",
        "--output",
        str(tmp_path),
    ]
    done = subprocess.run(wrong, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and "different shapes" in done.stderr.splitlines()[-1]
