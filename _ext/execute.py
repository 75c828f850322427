"""Execute every chapter and experiment that is older than its sources: the book shows what lies in `_runs/`.

To import torch and transformers takes a kernel longer than most chapters take. Here that is done once: a kernel is a fork of
this process, made while it has one thread and has computed nothing. The rest is as `papermill` and `l2m run` do it.
"""

import gc
import os
import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from shutil import copyfile, rmtree

ROOT, RUNS = Path(__file__).resolve().parents[1], Path("_runs")
TOGETHER = 3  # on two cores: a third of its time a notebook waits, for a reader of its files, a server or a cluster
WARM = "papermill", "ipykernel.kernelapp", "ipykernel.ipkernel"  # and what is slow to import, and starts no thread:
WARM += "matplotlib.pyplot", "scipy.stats", "transformers.modeling_utils"


class Fork:
    "A child process that does one piece of work, with what jupyter_client asks of a subprocess."

    stdin = stdout = stderr = returncode = None

    def __init__(self, work, *given):
        sys.stdout.flush()
        self.pid = os.fork()
        if not self.pid:
            sys.exit(work(*given))

    def poll(self, options=os.WNOHANG):
        if self.returncode is None and (done := os.waitpid(self.pid, options))[0]:
            self.returncode = os.waitstatus_to_exitcode(done[1])
        return self.returncode

    def wait(self):
        return self.poll(0)

    def send_signal(self, number):
        os.kill(self.pid, number)


def kernel(orders: int, giver: int):
    "Wait for the folder and the arguments of a kernel, and be that kernel; where none come, no kernel is needed."
    from ipykernel.kernelapp import IPKernelApp

    os.setsid()
    os.close(giver)
    with open(orders) as given:
        folder, *arguments = given.read().split("\0")
    if arguments:
        os.chdir(folder)
        sys.argv = ["ipykernel_launcher", *arguments]
        IPKernelApp.launch_instance(parent_handle=os.getppid(), log_level="ERROR")


def let_papermill_use(waiting: Fork, giver: int):
    "Its kernel is the fork that waits, instead of a new interpreter."
    from jupyter_client import AsyncKernelManager
    from papermill.engines import NBClientEngine, papermill_engines

    class Manager(AsyncKernelManager):
        async def _async_launch_kernel(self, command, cwd=None, **_):
            self.provisioner.process, self.provisioner.pid, self.provisioner.pgid = waiting, waiting.pid, waiting.pid
            with open(giver, "w") as orders:
                orders.write("\0".join([str(cwd or os.getcwd()), *command[command.index("-f") :]]))

        _launch_kernel = _async_launch_kernel

    class Engine(NBClientEngine):
        execute_managed_notebook = partial(NBClientEngine.execute_managed_notebook, kernel_manager_class=Manager)

    papermill_engines.register(None, Engine)


def execute(name: str):
    "Execute a notebook of `nbs`: a chapter, or an experiment at the sizes of the profile `ci`."
    import papermill

    orders, giver = os.pipe()
    waiting = Fork(kernel, orders, giver)
    os.close(orders)
    let_papermill_use(waiting, giver)
    made = RUNS / f"{name}.ipynb"
    begun = made.with_name(f".{made.name}")  # a notebook that is broken off is executed again
    made.parent.mkdir(parents=True, exist_ok=True)
    if made.parent == RUNS:
        papermill.execute_notebook(f"nbs/{name}.ipynb", begun, cwd="nbs", kernel_name="python3", progress_bar=False)
    else:
        from l2m.runs import run_experiment

        rmtree(made.with_suffix(""), ignore_errors=True)
        copyfile(run_experiment(made.stem, "ci", {}, made.with_suffix("")), begun)
    begun.replace(made)


def stale() -> list[str]:
    "The notebooks that have not been executed since they, or what they read, changed."
    time = lambda *paths: max((path.stat().st_mtime for path in paths if path.exists()), default=0)
    found = lambda *patterns: [path for pattern in patterns for path in sorted(Path().glob(pattern))]
    shared, profile = (
        time(*found("l2m/*.py", "l2m/*.yml", "nbs/*.yml", "results/*/*/*.parquet")),
        time(Path("params/ci.yml")),
    )
    names = []
    for path in found("nbs/experiments/*.ipynb", "nbs/*.ipynb"):
        name = path.relative_to("nbs").with_suffix("").as_posix()
        sources = max(shared, time(path), profile if path.parent.name == "experiments" else 0)
        names += [name] * (time(RUNS / f"{name}.ipynb") <= sources)
    return names


def main():
    waiting, running, failed = stale(), {}, []
    os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"  # Arrow's own starts a thread
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # which a kernel sets too late for us
    for module in WARM if waiting else ():
        import_module(module)
    if names := sys.modules.get("transformers.conversion_mapping"):
        names.get_checkpoint_conversion_mapping("llama")  # compiles the patterns of every family, which all keep
    gc.freeze()  # what all share is not looked through, and so copied, by each
    while running or waiting and not failed:
        while waiting and len(running) < TOGETHER and not failed:
            name = waiting.pop(0)
            running[Fork(execute, name).pid] = name
        process, status, used = os.wait4(-1, 0)
        name, seconds = running.pop(process), used.ru_utime + used.ru_stime
        failed += [name] * (status != 0)
        print(f"{seconds:5.1f} s of computing: nbs/{name}.ipynb", flush=True)
    sys.exit(f"error: nbs/{failed[0]}.ipynb failed: see above" if failed else 0)


if __name__ == "__main__":
    del sys.path[0]  # the folder of this file, which a notebook does not see
    os.chdir(ROOT)
    main()
