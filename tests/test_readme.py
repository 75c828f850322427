"Every command of the README runs, and its example prints what the README says it prints."

import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from l2m.experiments import experiment_notebook, profile_parameters, published_run
from l2m.parameters import checked_parameters, notebook_parameters

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
COMMANDS = [
    " ".join(line.split())
    for language, block in BLOCKS
    if language == "bash"
    for line in re.sub(r"\\\n|\s+#.*", " ", block).splitlines()
    if line.strip()
]
EXAMPLES = [
    (code, output)
    for (language, code), (after, output) in zip(BLOCKS, BLOCKS[1:])
    if (language, after) == ("python", "text")
]
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "Run a command, once, in a folder that looks like the checkout and where it may leave its files; what it printed"
    checkout = tmp_path_factory.mktemp("checkout")
    for file in (
        "nbs",
        "params",
        "results",
        "l2m",
        "CONTRIBUTING.md",
        "Makefile",
        ".venv",
        "pyproject.toml",
        "constraints.txt",
        "settings.ini",
    ):
        if (ROOT / file).exists():
            (checkout / file).symlink_to(ROOT / file)
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}

    @cache
    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def quick(command: list[str]) -> list[str]:
    "The same run with the `ci` profile, options that say what holds without them left out: equal runs are one run"
    if command[:2] == ["l2m", "run"]:
        known = notebook_parameters(ROOT / f"nbs/experiments/{command[2]}.ipynb")
        default = {f"--{name}": value for name, (_, value) in known.items()}
        said = [pair for pair in zip(command[3::2], command[4::2]) if default.get(pair[0]) != pair[1]]
        return [*command[:3], *(word for pair in said for word in pair), "--profile", "ci"]  # the last one counts
    if command[:2] == ["l2m", "context"]:
        return [*command, "--profile", "ci"]
    if command[0] != "papermill":
        return command
    profile = yaml.safe_load((ROOT / "params/ci.yml").read_text())[Path(command[1]).stem]
    stated = {command[i + 1] for i, word in enumerate(command) if word == "-p"}
    return [*command, "-y", yaml.safe_dump({k: v for k, v in profile.items() if k not in stated})]


def test_readme_has_commands_and_an_example():
    assert {"make demo", "make test"} <= set(COMMANDS)
    assert any(command.startswith("papermill") for command in COMMANDS)
    assert EXAMPLES


def test_links_and_figures_are_in_the_checkout():
    targets = re.findall(r"\]\(([^)\s]+)\)", README)
    assert [target for target in targets if "://" not in target and not (ROOT / target).exists()] == []


def test_the_figure_is_that_of_the_demo_and_the_demo_is_small():
    "The profile of `make demo` made it, from as many tokens as the README says, with intervals narrow enough"
    run = published_run("bipartite_scaling/sotu-smollm2-135m-demo")
    assert f"results/{run.name}/figure.svg" in README
    profile = checked_parameters(
        experiment_notebook("bipartite_scaling"), profile_parameters("demo", "bipartite_scaling")
    )
    made = run.facts["parameters"]
    assert made == {name: profile[name] for name in made}
    assert f"`make demo`, {run.facts['tokens']:,} tokens" in README and run.facts["tokens"] <= 60_000
    width = {law["method"]: law["exponent_high"] - law["exponent_low"] for law in run["laws"].iter_rows(named=True)}
    assert width["direct"] <= 0.05 and width["vclub"] <= 0.10


@pytest.mark.parametrize("command", COMMANDS)
def test_command_runs(run, command):
    words = shlex.split(command)
    if words[0] == "make":  # not inside itself: the experiments that it would run
        recipe = [line.removeprefix(".venv/bin/") for line in run("make", "--dry-run", *words[1:]).splitlines()]
        if words[1] == "demo":
            run(*quick(shlex.split(next(line for line in recipe if line.startswith("l2m run")))))
    elif words[0] in ("l2m", "papermill"):
        run(*quick(words))
    else:
        assert words[0] in ("git", "cd", "pip"), f"no test runs {command!r}"


@pytest.mark.parametrize("code, output", EXAMPLES)
def test_example_prints_what_it_says(run, code, output):
    printed = run(sys.executable, "-c", code)
    assert NUMBER.sub("#", printed).split() == NUMBER.sub("#", output).split()
    numbers = lambda text: [float(n) for n in NUMBER.findall(text)]
    assert numbers(printed) == pytest.approx(numbers(output), rel=1e-3)
