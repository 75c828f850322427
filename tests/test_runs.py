"Profiles, parameters, provenance and the command."
import json
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, strategies as st

from l2m.runs import checked_parameters, compare_tables, experiment_notebook, fits, notebook_parameters, output_folder, profile_parameters, provenance, published_run, repository, save_table

ROOT = Path(__file__).parents[1]
COMMAND = Path(sys.executable).parent / "l2m"
EXPERIMENTS = sorted(p.stem for p in (ROOT / "nbs" / "experiments").glob("*.ipynb"))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("profile", sorted(p.stem for p in (ROOT / "params").glob("*.yml")))
def test_every_profile_fits_its_notebook(experiment, profile):
    if profile == "paper" and experiment not in ("gaussian_kl", "santa_fe_kl", "position_nll"):
        pytest.skip("only experiments that train have the paper's sizes")
    parameters = checked_parameters(experiment_notebook(experiment), profile_parameters(profile, experiment))
    assert {"output", "seed"} <= set(parameters)


@pytest.mark.parametrize("arguments, message", [
    (["nothing"], "experiment 'nothing' is unknown: choose one of"),
    (["bipartite_scaling", "--profile", "huge"], "profile 'huge' is unknown: choose one of"),
    (["bipartite_scaling", "-p", "pears=64"], "has no parameter 'pears': choose among"),
    (["bipartite_scaling", "-p", "pairs=many"], "parameter 'pairs' of bipartite_scaling is 'many', expected int"),
    (["bipartite_scaling", "-p", "lengths=[4, long]"], "expected list\\[int\\]"),
    (["bipartite_scaling", "-p", "pairs"], "parameter 'pairs' has no value: write key=value"),
    (["bipartite_scaling", "-p", "pairs=[1"], "parameter 'pairs=\\[1' is not valid YAML"),
])
def test_wrong_commands_are_one_clear_error(arguments, message):
    done = subprocess.run([COMMAND, "run", *arguments], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and done.stdout == ""
    assert re.search(message, done.stderr) and len(done.stderr.splitlines()) == 1


def test_an_error_in_the_notebook_is_one_clear_error(tmp_path):
    done = subprocess.run([COMMAND, "run", "bipartite_scaling", "--profile", "ci", "-p", "corpus=nowhere", "--output", str(tmp_path)],
                          capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: no corpus 'nowhere'")


@pytest.mark.parametrize("value, annotation, fine", [
    (3, "int", True), (3, "float", True), (0.5, "float", True), ("x", "str", True), (True, "bool", True), ([1, 2], "list[int]", True), ([], "list[int]", True),
    (3.5, "int", False), (True, "int", False), (True, "float", False), (3, "str", False), (1, "bool", False), (4, "list[int]", False), ([1, 2.5], "list[int]", False), (None, "int", False),
])
def test_types(value, annotation, fine): assert fits(value, annotation) is fine


def test_none_is_welcome_where_it_is_the_default():
    notebook = experiment_notebook("bipartite_scaling")
    assert checked_parameters(notebook, {"column": None})["column"] is None
    with pytest.raises(ValueError, match="'pairs'"): checked_parameters(notebook, {"pairs": None})


def test_a_notebook_without_parameters_is_refused():
    with pytest.raises(ValueError, match="no cell tagged 'parameters'"): notebook_parameters(ROOT / "nbs" / "11_runs.ipynb")


@given(st.dictionaries(st.sampled_from(["pairs", "seed", "lengths"]), st.integers(0, 9), min_size=1))
def test_output_depends_on_the_work_alone(parameters):
    here = output_folder("e", "ci", parameters)
    assert here == output_folder("e", "ci", dict(reversed(parameters.items())) | {"rank": 3, "world_size": 8, "output": "x"})
    assert here != output_folder("e", "ci", parameters | {"seed": 10})


def test_a_table_has_its_provenance_beside_it(tmp_path):
    table = pl.DataFrame({"x": [1.0]})
    save_table(table, tmp_path / "deep" / "t.parquet", provenance(model="m"))
    history = json.loads((tmp_path / "deep" / "t.json").read_text())
    assert pl.read_parquet(tmp_path / "deep" / "t.parquet").equals(table)
    assert history["model"] == "m" and {"versions", "commit", "machine", "created"} <= set(history)


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
    old = pl.DataFrame({"model": ["m", "n"], "mi": [1.0, 2.0], "stderr": [0.1, 0.1], "beta": [0.5, 0.6], "beta_low": [0.4, 0.5], "beta_high": [0.6, 0.7],
                        "n": [8, 8], "missing": [None, 1.0], "draws": [[1.0], [2.0]], "seconds": [3, 4]})
    verdict = lambda **changed: {c: a for c, a in compare_tables(old, old.with_columns(**changed)).select("column", "agrees").iter_rows()}
    assert verdict() == dict.fromkeys(["model", "mi", "beta", "n", "missing"], True)
    assert all(verdict(mi=pl.col("mi") + 0.29, beta=pl.col("beta") - 0.29, seconds=pl.lit(0), draws=pl.lit([0.0])).values())
    for column, change in {"mi": pl.col("mi") + 0.31, "beta": pl.col("beta") + 0.31, "n": pl.lit(9), "model": pl.lit("m"), "missing": pl.lit(1.0)}.items():
        assert verdict(**{column: change}) == {**verdict(), column: False}
    with pytest.raises(ValueError, match="different shapes"): compare_tables(old, old.head(1))


def test_a_published_run_is_found_by_its_name():
    tables = published_run("gaussian_families/exact")
    assert set(tables) == {"table", "laws"} and all(history["experiment"] == "gaussian_families" for _, history in tables.values())
    with pytest.raises(ValueError, match="no published run: choose one of"): published_run("gaussian_families/another")


def test_every_published_run_can_be_run_again():
    for path in (ROOT / "results").glob("*/*/*.json"):
        history = json.loads(path.read_text())
        assert checked_parameters(experiment_notebook(history["experiment"]), history["parameters"]), path


def test_reproduce_says_whether_a_run_agrees(tmp_path):
    wrong = [COMMAND, "reproduce", "gaussian_families/exact", "-p", "layers=2", "-p", "blocks=50", "--output", str(tmp_path)]
    done = subprocess.run(wrong, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and "different shapes" in done.stderr.splitlines()[-1]
