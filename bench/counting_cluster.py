"Pair counting by one process, one worker of a Ray cluster and two: seconds, CPU seconds, memory a worker, and whether the tables agree."

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"):
    os.environ.setdefault(name, "1")  # a worker has one thread; inherited by Ray's workers

import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pyarrow

from l2m.engines import LocalEngine, RayEngine
from l2m.pair_tables import PairPlan, _by_task, count_tables

TOKENS, WORDS, MEMORY = int(float(sys.argv[1]) if len(sys.argv) > 1 else 12e6), 49_152, 2**27
PLAN = PairPlan((1, 2, 4, 8, 16, 32), WORDS, 8, 0, MEMORY)
pyarrow.set_cpu_count(1)


def documents():
    "Made-up documents with the word frequencies of a text."
    for i in range(TOKENS // 100_000):
        yield np.random.default_rng(i).zipf(1.25, 100_000).astype(np.uint32) % WORDS, i % 8


def family():
    "This process and the workers of a cluster, not its servers."
    me = psutil.Process()
    return [me, *(p for p in me.children(recursive=True) if any("ray::" in part for part in p.cmdline()[:1]))]


class Watched:
    "Workers that are there before the clock starts, and are looked at whenever a result comes."

    def __init__(self, run):
        self.run, self.cpu, self.peak, self.family = run, {}, 0, family()
        self.look()
        self.before = dict(self.cpu)

    def look(self):
        for process in self.family:
            times, memory = process.cpu_times(), process.memory_info()
            self.cpu[process.pid] = times.user + times.system
            self.peak = max(self.peak, memory.rss - memory.shared)

    @contextmanager
    def hire(self, worker):
        def watched(tasks):
            for done in self.run(tasks):
                self.look()
                yield done

        yield watched

    @property
    def used(self):
        return sum(now - self.before.get(pid, 0) for pid, now in self.cpu.items())


def measured(engine, workers):
    "Seconds of counting, the tables, and what the workers used."
    texts = list(documents())  # made before the clock starts
    with engine.hire(_by_task) as run, tempfile.TemporaryDirectory() as folder:
        there = set()
        while len(there) < workers:
            there |= {pid for _, pid in run((str(i), os.getpid) for i in range(4 * workers))}
        watched, start = Watched(run), time.perf_counter()
        tables = dict(count_tables(iter(texts), PLAN.tables, PLAN, Path(folder), watched))
        seconds = time.perf_counter() - start
        written = sum(path.stat().st_size for path in Path(folder).rglob("*.parquet"))
        return seconds, watched.used, watched.peak, written, tables


def main():
    engines = {"this process": (LocalEngine(), 1)}
    engines |= {f"{n} worker{'s'[: n - 1]}": (RayEngine(workers=n), n) for n in (1, 2)}
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    pairs, found = 2 * len(PLAN.distances) * TOKENS, {}
    print(f"{TOKENS:,} tokens at {len(PLAN.distances)} distances, {MEMORY / 2**20:.0f} MiB a worker")
    took = {}
    for name, how in engines.items():
        seconds, cpu, peak, written, found[name] = measured(*how)
        took[name] = seconds
        rates = f"{pairs / seconds / 1e6:5.1f} million pairs a second, {pairs / cpu / 1e6:5.1f} a CPU second"
        print(
            f"{name:13s} {seconds:6.1f} s, {cpu:6.1f} CPU s: {rates}; at most {peak / 2**20:.0f} MiB a process, {written / pairs:.2f} bytes on disk a pair"
        )
    print(f"two workers against one: {took['1 worker'] / took['2 workers']:.2f} times as fast")
    first, *others = found.values()
    same = all(np.array_equal(a, b) for other in others for t in first for a, b in zip(first[t], other[t]))
    print("the same tables, bit for bit" if same else "THE TABLES DIFFER")


if __name__ == "__main__":
    main()
