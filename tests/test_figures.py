"The experiments of a GPU at a tiny size: what is left to the next call, and the pages that read their tables first."

import importlib.util
import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from l2m.experiments import experiment_notebook, first_published, profile_parameters, published_names
from l2m.figures import by_growth, over_seeds
from l2m.parameters import checked_parameters

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("notebook", ROOT / "bench/notebook.py")
notebook = importlib.util.module_from_spec(spec)
spec.loader.exec_module(notebook)

TINY = dict(steps=6, warmup=2, tuning_steps=3, evaluation=256, bulk=3, device="cpu")
RUNS = {  # the whole, and a part of it that an earlier call has finished
    "gaussian_kl": (
        TINY
        | dict(lengths=[16, 64], models=["gpt2", "mamba2/1", "mamba2/4"], rates=[0.01, 0.03], seeds=2, repeated=16),
        dict(models=["gpt2", "mamba2/1"], seeds=1),
    ),
    "position_nll": (
        TINY | dict(models=["llama", "mamba2/4", "mamba2/16"], rates=[0.01], passes=2, evaluation=16, documents=8),
        dict(models=["llama", "mamba2/4"]),
    ),
    "santa_fe_kl": (
        TINY | dict(exponents=[0.9], renderings=["query"], models=["llama", "mamba2/1"], rates=[0.01], seeds=2),
        dict(models=["llama"], seeds=1),
    ),
}


def execute(experiment, folder, **parameters):
    "An experiment's notebook, up to its published runs"
    path = experiment_notebook(experiment)
    names = {"display": lambda *shown: None, "__name__": experiment}
    with plt.rc_context():
        notebook.run(path, checked_parameters(path, parameters) | {"output": str(folder)}, names)
    plt.close("all")
    return {path.stem: pl.read_parquet(path) for path in sorted(Path(folder).glob("*.parquet"))}


def facts(folder):
    return json.loads((folder / "runs.json").read_text())


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    "For every experiment: the tables after a call that had no time left, after the next one, and of a call without a break"
    found, root = {}, tmp_path_factory.mktemp("runs")
    for experiment, (whole, part) in RUNS.items():
        broken, straight = root / experiment / "gpu", root / experiment / "straight"
        execute(experiment, broken, **whole | part)
        halfway = execute(experiment, broken, **whole, minutes=0.0), facts(broken)
        after = execute(experiment, broken, **whole, together=2), facts(broken)
        found[experiment] = halfway, after, (execute(experiment, straight, **whole), facts(straight))
    return root, found


@pytest.mark.parametrize("experiment", RUNS)
def test_a_call_without_time_draws_what_is_finished_and_names_the_rest(tables, experiment):
    (halfway, history), (after, later), _ = tables[1][experiment]
    assert 0 < len(halfway["runs"]) < len(after["runs"])
    assert len(history["missing"]) == len(set(history["missing"])) >= len(after["runs"]) - len(halfway["runs"])
    assert "missing" not in later and "minutes" not in later["parameters"] and "together" not in later["parameters"]
    assert later["parameters"]["bulk"] == 3 and "cards" not in later or torch.cuda.is_available()


@pytest.mark.parametrize("experiment", RUNS)
def test_broken_off_and_gone_on_with_the_tables_are_the_same(tables, experiment):
    _, (after, _), (straight, _) = tables[1][experiment]
    assert after.keys() == straight.keys()
    for name, table in straight.items():
        assert_frame_equal(after[name].drop("seconds", strict=False), table.drop("seconds", strict=False), rel_tol=1e-3)


def test_long_sequences_are_trained_on_once(tables):
    runs = tables[1]["gaussian_kl"][1][0]["runs"]
    assert dict(over_seeds(runs).group_by("length").agg(pl.col("seeds").max()).iter_rows()) == {16: 2, 64: 1}
    assert by_growth(runs) == (["gpt2"], ["mamba2/1", "mamba2/4"])


def test_nothing_finished_is_said_and_left_to_the_next_call(tmp_path, monkeypatch, capsys):
    words = "santa_fe_kl", "--profile", "ci", "--seconds", "0", "--output", str(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bench/notebook.py", *words])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "bench" / "notebook.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert end.value.code == 75 and "no run was finished" in said and "goes on" in said


@pytest.fixture
def published(tables, tmp_path, monkeypatch):
    "A checkout where the tables of a GPU have been committed"
    for folder in ("nbs", "params", "_toc.yml"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    shutil.copytree(ROOT / "results", tmp_path / "results")
    for experiment in RUNS:
        shutil.rmtree(tmp_path / "results" / experiment / "gpu", ignore_errors=True)
        made = tmp_path / "results" / experiment / "gpu"
        made.mkdir()
        for path in (tables[0] / experiment / "gpu").iterdir():
            if path.suffix == ".parquet":
                shutil.copy(path, made)
                history = facts(path.parent) | {"cards": ["Imaginary 9000"]}
                (made / f"{path.stem}.json").write_text(json.dumps(history))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def page(name):
    "The names after a page's cells"
    names = {"display": lambda *shown: None, "__name__": name}
    with plt.rc_context():
        notebook.run(ROOT / "nbs" / f"{name}.ipynb", {}, names)
    plt.close("all")
    return names


def test_pages_read_the_tables_of_a_gpu_first(published):
    assert {f"{experiment}/gpu" for experiment in RUNS} <= set(published_names())
    claims = page("claims")["claims"]
    on_card = [claim for claim in claims if "Imaginary 9000" in claim.data]
    assert len(on_card) == 6 and {claim.where[:7] for claim in on_card} == {"Figs. 3", "Figs. 4"}
    runs = first_published("gaussian_kl/gpu", "gaussian_kl/tiny")["runs"]
    fixed = over_seeds(runs.filter(model="mamba2/1")).sort("length")["kl"]
    [grows] = [claim for claim in on_card if "small state-space model" in claim.says]
    assert f"{fixed[0]:.4f}, {fixed[-1]:.4f}" in grows.found
    assert grows.verdict.startswith("agrees" if fixed[-1] > 1.5 * fixed[0] else "differs")


def test_figures_and_front_matter_read_the_tables_of_a_gpu_first(published, capsys):
    assert "Imaginary 9000" in page("index")["trained"].made_on
    page("10_figures")
    said = capsys.readouterr().out
    assert "Imaginary 9000" in said and "wait for a card" not in said


@pytest.mark.parametrize("experiment", RUNS)
def test_the_experiments_own_page_shows_the_tables_of_a_gpu(published, experiment, capsys, monkeypatch):
    monkeypatch.setattr(notebook, "PUBLISHED", "no heading")
    whole, part = RUNS[experiment]
    execute(experiment, published / "runs", **whole | part)
    assert "Imaginary 9000" in capsys.readouterr().out


def test_without_such_tables_the_pages_say_that_they_wait(tmp_path, monkeypatch, capsys):
    for folder in ("nbs", "params", "_toc.yml"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    shutil.copytree(ROOT / "results", tmp_path / "results", ignore=shutil.ignore_patterns("gpu"))
    monkeypatch.chdir(tmp_path)
    page("10_figures")
    assert "the tables of a GPU wait for a card" in capsys.readouterr().out


def test_the_profile_of_a_gpu_leaves_the_tuning_to_one_of_its_lengths():
    made = profile_parameters("gpu", "gaussian_kl")
    assert made["tuning_length"] in made["lengths"] and made["repeated"] in made["lengths"]


def call(*words, **environment):
    return subprocess.run([sys.executable, "bench/gpu.py", *words], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_the_remedy_is_named():
    done = call()
    assert done.returncode == 1 and done.stderr.startswith("error: no CUDA device") and "TINY=1" in done.stderr


def test_an_unknown_part_is_named():
    done = call("--tiny", "gausian_kl")
    assert done.returncode == 1 and "part 'gausian_kl' is unknown: choose among ['tests'" in done.stderr
