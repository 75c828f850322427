"""What a GPU is for, in one call of nine minutes: tests, speeds, then the paper's figures, the most telling first.

Everything is written at once into runs/gpu (or $OUT, which then begins as a copy of runs/gpu), and the next call goes on there.
`--tiny` runs the same commands on the CPU at the sizes of the profile ci.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SPARE = 45  # seconds before the end at which training stops: the rest is for what is running, tables and figures
LEAST = SPARE + 60  # seconds that are worth starting a profile for
LATER = 75  # the exit status of a notebook that had no time to finish a run


@dataclass(frozen=True)
class Part:
    "A command, and how long it may take."

    name: str
    words: tuple[str, ...]  # after `python`
    seconds: float | None  # None: what is left
    training: bool = False  # told when to stop, and goes on in the next call


def profile(name: str, folder: Path, tiny: bool, novels: str | None) -> Part:
    "An experiment at the size of a GPU, or tiny."
    words = "bench/notebook.py", name, "--profile", "ci" if tiny else "gpu", "--output", str(folder / name)
    if tiny:  # through the same paths
        words += "together=2", "bulk=4", *(["seeds=2"] if name != "position_nll" else [])
    elif name == "position_nll" and novels:
        words += (f"corpus={novels}",)
    return Part(name, words, None, training=True)


def parts(folder: Path, tiny: bool, novels: str | None) -> list[Part]:
    "All there is, the most telling first."
    return [
        Part("tests", ("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_gpu.py"), 90),
        Part("scoring", ("bench/scoring.py",), 100),
        Part("training", ("bench/training.py", "--seconds", "35"), 60),
        *(profile(name, folder, tiny, novels) for name in ("gaussian_kl", "position_nll", "santa_fe_kl")),
    ]


def execute(part: Part, seconds: float, log, tiny: bool) -> int | None:
    "Run a command, pass on what it says line by line; its exit status, None where it was stopped."
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    heard = "ignore,default:a step cannot be captured"  # the only warning that tells about a result
    environment = os.environ | {"PYTHONPATH": paths, "TQDM_DISABLE": "1", "PYTHONWARNINGS": heard}
    if tiny:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    words = [sys.executable, *part.words]
    if part.training:
        words += ["--seconds", str(max(0.0, seconds - SPARE))]
    both = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    running = subprocess.Popen(words, cwd=ROOT, env=environment, start_new_session=True, **both)
    late = threading.Event()
    clock = threading.Timer(seconds, lambda: (late.set(), os.killpg(running.pid, signal.SIGKILL)))
    clock.start()
    for line in running.stdout:
        tell(line.rstrip(), log)
    status = running.wait()
    clock.cancel()
    return None if late.is_set() else status


def code() -> str:
    "A fingerprint of what is tested and timed: results of other code are not taken for this one's."
    paths = sorted([*ROOT.glob("l2m/*.py"), *ROOT.glob("bench/*.py"), ROOT / "tests/test_gpu.py"])
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def tell(line: str, log):
    "One line, to whoever looks and into the log, at once."
    print(line, flush=True)
    print(line, file=log, flush=True)


def ending(part: Part, status: int | None, folder: Path, tiny: bool) -> str:
    "What became of a part."
    if status == LATER:
        return "no run was finished: the next call goes on"
    if status is None:
        return "stopped, its time was over" + (": the next call goes on" if part.training else "")
    if status:
        return f"failed, exit status {status}"
    table = folder / part.name / "runs.json"
    if not part.training or not table.exists():
        return "done"
    left = len(json.loads(table.read_text()).get("missing", []))
    if left:
        return f"{left} runs left to the next call"
    return "complete" if tiny else f"complete: its tables belong into results/{part.name}/gpu"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="on the CPU, at the sizes of the profile ci")
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything together")
    parser.add_argument("--novels", help="the corpus of position_nll, where it is not the file that the profile names")
    parser.add_argument("only", nargs="*", help="parts to run: tests, scoring, training, or an experiment")
    wanted = parser.parse_args()
    end = time.monotonic() + 60 * wanted.minutes
    kept = ROOT / "runs" / ("gpu_tiny" if wanted.tiny else "gpu")
    folder = Path(os.environ.get("OUT") or kept).resolve()
    every = parts(folder, wanted.tiny, wanted.novels)
    if unknown := set(wanted.only) - {part.name for part in every}:
        sys.exit(f"error: part '{min(unknown)}' is unknown: choose among {[part.name for part in every]}")
    if not wanted.tiny:
        import torch

        if not torch.cuda.is_available():
            sys.exit(
                "error: no CUDA device is on this machine: go where there is one, or try all of it: make gpu TINY=1"
            )
    folder.mkdir(parents=True, exist_ok=True)
    if folder != kept and kept.is_dir() and not any(folder.iterdir()):
        shutil.copytree(kept, folder, dirs_exist_ok=True)  # an earlier call's
    failed = 0
    with (folder / "log.txt").open("a") as log:
        for part in every:
            left = end - time.monotonic()
            if wanted.only and part.name not in wanted.only:
                continue
            marker = folder / f"{part.name}.done"
            if not wanted.only and marker.exists() and marker.read_text() == code():
                tell(f"== {part.name}: done in an earlier call", log)
                continue
            if left < (LEAST if part.training else 5):
                tell(f"== {part.name}: waits for the next call", log)
                continue
            began = time.monotonic()
            status = execute(part, min(part.seconds or left, left), log, wanted.tiny)
            failed += part.name == "tests" if status is None else status not in (0, LATER)
            if status == 0 and not part.training:
                marker.write_text(code())
            tell(f"== {part.name}: {time.monotonic() - began:.0f} s, {ending(part, status, folder, wanted.tiny)}", log)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
