"The recipe of an estimator: ten lines, and it stands in every table, against the truth and in the search."

from dataclasses import dataclass
from pathlib import Path

import nbformat
import numpy as np
import polars as pl
import pytest
import torch

from l2m.bipartite import measure_bipartite
from l2m.estimators import Direct, bipartite_mi, needs_of
from l2m.interface import Needs
from l2m.processes import PolyaUrn, process_windows
from l2m.santa_fe import SantaFe

NBS = Path(__file__).parents[1] / "nbs"


@dataclass(frozen=True)
class Twice:  # the recipe: a name, what it needs, and a number for every window
    "The mean of the direct estimate of all of Y and of that of its two halves, one after the other: a chain rule, by hand."

    name, needs = "twice", Needs(alone=True, shuffles=2)

    def terms(self, block):
        half = block.joint.shape[1] // 2
        gain = block.joint - block.alone
        return (gain.sum(1) + gain[:, :half].sum(1) + gain[:, half:].sum(1)) / 2


@pytest.mark.parametrize("process", [PolyaUrn(), SantaFe(0.6, 200)], ids=lambda process: process.name)
def test_it_stands_in_the_table_and_against_the_truth(process):
    windows = process_windows(process, 16, 3000, torch.Generator().manual_seed(0))
    scores = measure_bipartite(
        process, windows, lengths=[4, 16], batch_size=3000, **needs_of([Twice(), Direct()])._asdict()
    )
    table = bipartite_mi(scores, [Twice(), Direct()], draws=100)
    assert table["method"].to_list() == ["direct", "direct", "twice", "twice"] and scores.passes == Needs(True, 2)
    for row in table.filter(method="twice").iter_rows(named=True):
        assert abs(row["mi"] - process.bipartite_mi(row["split"], row["length"])) < 4.5 * row["stderr"]
        assert row["stderr"] == pytest.approx(np.std(row["replicates"]), rel=0.5) and row["n"] == 3000


def test_what_it_needs_is_asked_before_it_is_estimated():
    process = PolyaUrn()
    scores = measure_bipartite(process, process_windows(process, 8, 20, torch.Generator().manual_seed(0)), lengths=[8])
    with pytest.raises(
        ValueError,
        match="'twice' needs Y after the X of 2 other documents, and 1 were scored: measure with shuffles >= 2",
    ):
        bipartite_mi(scores, [Twice()])


def test_one_line_brings_it_into_the_search(tmp_path, monkeypatch):
    "The cells of the search up to its table, with one rival more."
    monkeypatch.chdir(NBS / "experiments")
    cells = [
        cell for cell in nbformat.read(NBS / "experiments/estimator_search.ipynb", 4).cells if cell.cell_type == "code"
    ]
    assert "parameters" in cells[0].metadata.tags
    page = {"__name__": "page", "display": lambda *_: None}
    exec(cells[0].source, page)
    page |= dict(length=64, windows=400, repetitions=2, output=str(tmp_path / "search"))
    for cell in cells[1:]:
        exec(cell.source, page)
        if "def rivals(" in cell.source:
            paper = page["rivals"]
            page["rivals"] = lambda process, fresh: paper(process, fresh) | {"twice": Twice()}
        if "search = pl.DataFrame(" in cell.source:
            break
    found = page["search"].filter(pl.col("estimator").is_in(["direct", "twice"]))
    assert found.group_by("source").len()["len"].to_list() == [6] * 4  # three lengths of each
    for exact in ("Pólya's urn, 2 colours", "Santa Fe 0.6, 20000 facts"):
        for row in found.filter(source=exact, estimator="twice").iter_rows(named=True):
            assert abs(row["bias"]) < 4.5 * row["bias_stderr"] and row["tokens"] == 64 + 3 * (2 + 8 + 32)
