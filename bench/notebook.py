"""An experiment's notebook run as a script, up to what it says of published runs: for machines without papermill.

python bench/notebook.py gaussian_kl --profile gpu --output runs/gpu/gaussian_kl --seconds 300 seeds=2
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

BEGAN = time.monotonic()
os.environ.setdefault("MPLBACKEND", "Agg")
sys.path.insert(0, str(Path(__file__).parents[1]))  # where l2m may not be installed

from l2m.experiments import experiment_notebook, profile_parameters
from l2m.parameters import checked_parameters, read_options
from l2m.training import OutOfTime  # loads what takes seconds, before time is counted

PUBLISHED = "## The published run"  # the heading from which on nothing is computed any more


def run(notebook: Path, parameters: dict, names: dict) -> dict:
    "Execute the cells among these names; the parameters take the place of the defaults."
    for cell in json.loads(notebook.read_text("utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown" and PUBLISHED in source:
            break
        if cell["cell_type"] == "code":
            exec(compile(source, str(notebook), "exec"), names)
            if "parameters" in cell["metadata"].get("tags", []):
                names |= parameters
    return names


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # a result is told when it is there
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiment")
    parser.add_argument("--profile", default="gpu")
    parser.add_argument("--output", required=True)
    parser.add_argument("--seconds", type=float, help="from the start on, after which training stops")
    parser.add_argument("parameters", nargs="*", help="key=value")
    wanted = parser.parse_intermixed_args()
    try:
        notebook = experiment_notebook(wanted.experiment)
        given = profile_parameters(wanted.profile, wanted.experiment) | read_options(wanted.parameters)
        if wanted.seconds is not None:
            given["minutes"] = max(0.0, wanted.seconds - (time.monotonic() - BEGAN)) / 60
        parameters = checked_parameters(notebook, given) | {"output": wanted.output}
        run(notebook, parameters, globals() | {"display": print})
    except OutOfTime as error:
        print(error)
        sys.exit(75)  # a temporary failure: the same command goes on
    except (ValueError, OSError, ArithmeticError, ModuleNotFoundError) as error:
        sys.exit(f"error: {error}")
