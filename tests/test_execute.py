"The notebooks of the book are executed once, three at a time, in kernels that are forks; one that fails or dies is named."

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
QUICKLY = "import sys, execute; sys.path[0] = ''; execute.WARM = execute.WARM[:3]; execute.ROOT = '.'; execute.main()"


@pytest.fixture
def made(tmp_path):
    "Write chapters, execute those that are stale, and say how that ended and what it printed"

    def made(**chapters):
        (tmp_path / "nbs").mkdir(exist_ok=True)
        for name, code in chapters.items():
            cells = [nbformat.v4.new_code_cell(text) for text in code.split("\n\n")]
            nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / f"nbs/{name}.ipynb")
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "_ext")}
        return subprocess.run(
            [sys.executable, "-c", QUICKLY], capture_output=True, text=True, cwd=tmp_path, env=environment
        )

    return made


def test_only_what_is_stale_is_executed_and_what_fails_is_named(made, tmp_path):
    draws = "import os, random\n[os.getcwd(), os.getppid(), random.random()]"
    first = made(a=draws, b=draws, c="1 / 0")
    assert first.returncode == 1 and first.stderr.count("ZeroDivisionError: division by zero")
    assert first.stderr.endswith("error: nbs/c.ipynb failed: see above\n")
    printed = [
        eval(nbformat.read(tmp_path / f"_runs/{name}.ipynb", 4).cells[0].outputs[0]["data"]["text/plain"])
        for name in "ab"
    ]
    assert {folder for folder, *_ in printed} == {str(tmp_path / "nbs")}, "a chapter runs where it lies"
    assert len({parent for _, parent, _ in printed}) == len({number for *_, number in printed}) == 2
    assert not (tmp_path / "_runs/c.ipynb").exists()
    second = made(c="import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    assert second.returncode == 1 and "DeadKernelError" in second.stderr and "nbs/c.ipynb failed" in second.stderr
    third = made(c="2 * 21", b=draws + "\n")
    assert third.returncode == 0, third.stderr
    assert sorted(line.split()[-1] for line in third.stdout.splitlines()) == ["nbs/b.ipynb", "nbs/c.ipynb"]
