"State and tasks: one curve over points that are known, what a small made table says, lessons, and bad input."

from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import polars as pl
import pytest
import torch

from l2m.experiments import experiment_notebook, profile_parameters
from l2m.figures import one_curve
from l2m.models import build_model, model_arguments, parameter_count
from l2m.parameters import checked_parameters

ROOT = Path(__file__).parents[1]
PATH = experiment_notebook("state_and_tasks")
CELLS = ["".join(cell.source) for cell in nbformat.read(PATH, 4).cells if cell.cell_type == "code"]


def names_after(folder, until, **parameters):
    "The notebook's names after the cells before the one that begins so"
    names = {"display": lambda *shown: None, "__name__": "state_and_tasks"}
    stop = next(i for i, cell in enumerate(CELLS) if until in cell)
    with plt.rc_context():
        for i, cell in enumerate(CELLS[:stop]):
            exec(compile(cell, str(PATH), "exec"), names)
            if i == 0:
                names |= checked_parameters(PATH, parameters) | {"output": str(folder)}
    return names


def defined(*heads, names):
    "The functions of the cells that begin so, without what the cells do"
    for head in heads:
        cell = next(cell for cell in CELLS if cell.startswith(head))
        exec(cell.partition("\nmade = ")[0], names)
    return names


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    "The notebook before it trains anything"
    parameters = dict(tasks=["santa_fe/0.79", "mqar/4", "copying/8", "passkey/24"], stages=[4, 1], steps=20)
    found = names_after(tmp_path_factory.mktemp("run"), "backwards = -1", **parameters)
    return defined("def kind_of", "def slopes", "MARKS", "def told", names=found)


def test_points_on_one_curve_are_explained_and_predicted_and_others_are_not():
    x, groups = np.tile(np.geomspace(1, 1000, 7), 3), np.repeat(["a", "b", "c"], 7)
    share = 1 / (1 + 30 / x)
    curve = one_curve(x, share, groups)
    assert curve.explained == pytest.approx(1) and curve.predicted == pytest.approx(1)
    np.testing.assert_allclose(curve(x), share)
    assert curve([0.1, 1e6]).tolist() == [share[0], share[-1]]
    shifted = one_curve(x, share + np.repeat([0.0, 0.3, -0.3], 7), groups)  # the curve takes the mean of three
    variance = share.var()
    assert shifted.explained == pytest.approx(variance / (variance + 0.06)) and shifted.predicted < shifted.explained
    assert one_curve(x, -share, groups).explained == pytest.approx(0)  # what falls has the level as its curve


@pytest.mark.parametrize(
    "x, y, groups, said",
    [
        ([1, 2, 3], [1, 2], ["a", "b", "b"], "3 x, 2 y, 3 groups"),
        ([1, 2], [1, 2], ["a", "a"], "1 different: give .* at least two groups"),
        ([1, 2], [1, 1], ["a", "b"], "y that differ"),
        ([0, 2], [1, 2], ["a", "b"], "x"),
    ],
)
def test_points_without_a_curve_are_refused(x, y, groups, said):
    with pytest.raises(ValueError, match=said):
        one_curve(x, y, groups)


def made_up():
    "Three models on three tasks, two seeds: share is one function of the scalars a nat, and lifetimes cost a tenth"
    rows = []
    for task, mi in (("santa_fe/0.79", 20.0), ("mqar/16", 70.0), ("passkey/64", 11.5)):
        for model, state in (("mamba2/2", 500), ("mamba2/16", 2600), ("mamba2/16^0.79", 2600), ("llama", 9000)):
            for seed in (0, 1):
                share = state / mi / (state / mi + 40) - 0.1 * ("^" in model) + 0.001 * seed
                one = dict(model=model, task=task, seed=seed, state=state, parameters=10**4, learning_rate=0.01, mi=mi)
                rows.append(one | dict(share=share, share_stderr=0.0, accuracy=share, accuracy_stderr=0.01))
    return pl.DataFrame(rows)


def test_the_report_says_what_a_made_table_holds(names, capsys):
    lengths = np.array([16, 64, 256])
    flat = [("mamba2/4", 0.79, [0.0, 0.01]), ("mamba2^1*0.25", 0.0, [-0.02, 0.04])]
    rows = [(m, n, i, 0.01 * n ** (s + d[i])) for m, s, d in flat for i in (0, 1) for n in lengths.tolist()]
    gaussian = pl.DataFrame(rows, ["model", "length", "seed", "kl"], orient="row")
    names["report"]({"runs": made_up(), "gaussian": gaussian})
    said = capsys.readouterr().out
    assert (
        "mamba2/16^0.79 beside mamba2/16, same parameters: captured share -0.100 ± 0.000; ahead on 0 of 3 tasks" in said
    )
    assert "mamba2/4           KL ~ L^0.80 (± 0.01, 2 seeds): it grows" in said
    assert "mamba2^1*0.25      KL ~ L^0.01 (± 0.03, 2 seeds): flat within two errors" in said
    table = names["curves_over"](names["per_cell"](made_up().filter(~pl.col("model").str.contains("^", literal=True))))
    assert table.sort("predicted")["abscissa"][-1] == "dim(z) / I_BP" and table["explained"][0] == pytest.approx(1)
    plt.close(names["figure"](made_up(), gaussian))
    assert [names["kind_of"](m) for m in ("mamba2/2", "linear^0.5", "llama^0.5", "llama:2x64", "mamba2/4~0.5*0.2")] == [
        "fixed", "unlocking", "lifetimes", "all tokens", "segments",
    ]  # fmt: skip
    closed = made_up().with_columns(pl.col("model").str.replace("^", "~", literal=True))
    twins = names["against_unscheduled"](closed)
    assert twins.select("model", "beside").rows() == [("mamba2/16~0.79", "mamba2/16")]
    assert twins["gain"].item() == pytest.approx(-0.1) and twins["tasks"].item() == 3


def test_a_share_below_zero_counts_as_nothing_captured(names):
    below = made_up().with_columns(pl.when(pl.col("task") == "mqar/16").then(-5.0).otherwise("share").alias("share"))
    cells = names["per_cell"](below)
    assert cells.filter(task="mqar/16")["captured"].max() == 0 and cells["share"].min() == -5


def test_lessons_grow_to_whole_sequences_with_as_many_tokens(names):
    asked = names["settings"]["mqar/4"]
    exec(next(cell for cell in CELLS if cell.startswith("@dataclass(frozen=True, eq=False)")), names)
    lessons = names["Lessons"](tuple(asked), 100, 0.3, 0.1)
    lengths = [lessons.stage(first).length for first in (0, 69, 70, 99)]
    assert lengths == [asked[0].length] * 2 + [16] * 2 and asked[0].length == 4
    for first in (0, 99):
        drawn, weights = lessons.draw(first, 6, torch.Generator().manual_seed(0), torch.device("cpu"))
        assert drawn.numel() == 6 * 16 and set(weights.unique().tolist()) == {np.float32(0.1), 1.0}
    assert names["Lessons"]((asked[-1],), 100, 0.3, 0.1).stage(0) is asked[-1]
    assert [len(names["settings"][task]) for task in ("santa_fe/0.79", "copying/8")] == [2, 1]


@pytest.mark.parametrize(
    "parameters, said",
    [
        (dict(tasks=["recall/4"]), "task 'recall/4' is not understood: write one of"),
        (dict(tasks=["mqar/many"]), "task 'mqar/many' is not understood"),
        (dict(tasks=[]), "tasks \\[\\]: name at least one"),
        (dict(tasks=["mqar/16"], tokens=32), "tokens=32 are less than the 64 of a sequence of 'mqar/16'"),
        (dict(stages=[1, 2]), "stages \\[1, 2\\]: begin with the shortest"),
        (dict(bulk=4), "bulk=4 draws sequences of one length"),
        (dict(tuned_on="passkey/64"), "tuned_on 'passkey/64' is none of the tasks"),
        (dict(undecided=0.0), "undecided=0.0: choose"),
        (dict(shortened=["facts"]), "shortened 'facts' is no kind of task"),
        (dict(tasks=["santa_fe/1.5"]), "exponent 1.5 is not between 0 and 1"),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(tmp_path, parameters, said):
    with pytest.raises(ValueError, match=said) as error:
        names_after(tmp_path, "backwards = -1", **parameters)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("profile", ["ci", "demo", "published", "gpu"])
def test_every_model_of_a_profile_builds(profile):
    values = checked_parameters(PATH, profile_parameters(profile, "state_and_tasks"))
    for text in [*values["models"], *values["gaussian_models"]]:
        model = build_model(**model_arguments(text, values["size"]), length=64, vocabulary=9, device="meta")
        assert parameter_count(model) > 1e4
    shortest, longest = min(values["gaussian_lengths"]), max(values["gaussian_lengths"])
    of = [model_arguments(text) for text in values["gaussian_models"] if text.startswith("mamba2")]
    channels = lambda about, read: about["growth"].count(read) if "growth" in about else about["state"]
    assert len({channels(about, shortest) for about in of}) == 1, "one state at the shortest length"
    assert len({channels(about, longest) for about in of}) == len(of), "and others at the longest"
