"Pair counting by one process, one worker of a Ray cluster and two: seconds, CPU seconds, memory a worker, and whether the tables agree."

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"):
    os.environ.setdefault(name, "1")  # a worker has one thread; inherited by Ray's workers

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow

from l2m.engines import LocalEngine, RayEngine
from l2m.pair_tables import PairPlan, count_tables

TOKENS, WORDS, MEMORY = int(float(sys.argv[1]) if len(sys.argv) > 1 else 12e6), 49_152, 2**28
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
    "An engine whose workers are looked at whenever a result comes."

    def __init__(self, engine):
        self.engine, self.cpu, self.peak = engine, {}, 0

    def hire(self, worker):
        from contextlib import contextmanager

        @contextmanager
        def watched():
            with self.engine.hire(worker) as run:

                def look(tasks):
                    for done in run(tasks):
                        for process in family():
                            times, memory = process.cpu_times(), process.memory_full_info()
                            self.cpu[process.pid] = times.user + times.system
                            self.peak = max(self.peak, memory.uss)
                        yield done

                yield look

        return watched()


def measured(engine):
    "Seconds from the first result to the last, the tables, and what the workers used."
    watched = Watched(engine)
    with tempfile.TemporaryDirectory() as folder:
        before, start = sum(psutil.Process().cpu_times()[:2]), time.perf_counter()
        tables = dict(count_tables(documents(), PLAN.tables, PLAN, Path(folder), watched))
        seconds = time.perf_counter() - start
    return seconds, sum(watched.cpu.values()) - before, watched.peak, tables


def main():
    engines = {"this process": LocalEngine(), "one worker": RayEngine(workers=1), "two workers": RayEngine(workers=2)}
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    pairs, found = 2 * len(PLAN.distances) * TOKENS, {}
    print(f"{TOKENS:,} tokens at {len(PLAN.distances)} distances, {MEMORY / 2**20:.0f} MiB a worker")
    for name, engine in engines.items():
        seconds, cpu, peak, found[name] = measured(engine)
        rates = f"{pairs / seconds / 1e6:5.1f} million pairs a second, {pairs / cpu / 1e6:5.1f} a CPU second"
        print(f"{name:13s} {seconds:6.1f} s, {cpu:6.1f} CPU s: {rates}; at most {peak / 2**20:.0f} MiB a process")
    first, *others = found.values()
    same = all(np.array_equal(a, b) for other in others for t in first for a, b in zip(first[t], other[t]))
    print("the same tables, bit for bit" if same else "THE TABLES DIFFER")


if __name__ == "__main__":
    main()
