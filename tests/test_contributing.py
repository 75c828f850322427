"Every recipe of CONTRIBUTING runs as it stands, and every file that it names is there."

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
RECIPES = dict(re.findall(r"^## (An? \w+)\n(?:(?!^## ).)*?^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE))


def test_there_is_a_recipe_for_each_of_the_four():
    assert list(RECIPES) == ["An estimator", "A scorer", "A model", "A corpus"]


EACH = """import json, sys, traceback
def error_of(recipe):
    try:
        exec(recipe, {"__name__": "__main__"})
    except BaseException:
        return traceback.format_exc()
print(json.dumps({name: error_of(recipe) for name, recipe in json.load(sys.stdin).items()}))
"""


@pytest.fixture(scope="module")
def errors(tmp_path_factory):
    "What ended each recipe, None where nothing did: one interpreter for all, names of their own for each"
    done = subprocess.run(
        [sys.executable, "-c", EACH],
        input=json.dumps(RECIPES),
        cwd=tmp_path_factory.mktemp("recipes"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_runs(recipe, errors):
    assert errors[recipe] is None, errors[recipe]
    body = re.search(
        r"^(?:@dataclass[^\n]*\n)?(?:class|def) .*?(?=\n\n\n|\Z)", RECIPES[recipe], re.DOTALL | re.MULTILINE
    )[0]
    lines = [line for line in body.splitlines() if line.strip() and not line.strip().startswith('"')]
    assert len(lines) <= 10, "a recipe is ten lines"


def test_what_it_names_is_there():
    named = re.findall(r"`((?:nbs|tests)/[\w/.]+)`", TEXT) + re.findall(r"\]\((nbs/[^)]+)\)", TEXT)
    assert len(named) > 8 and [path for path in named if not (ROOT / path).exists()] == []
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in re.findall(r"`?make (\w+)", TEXT))
