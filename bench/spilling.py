"Time and resident memory of merging sorted runs: ranges of keys, and the spilling group-by of Polars (Linux only)."

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MEGABYTES, RUNS, ROWS = 64, 24, 1_000_000
folder, engine = Path(sys.argv[1] if len(sys.argv) > 1 else "."), sys.argv[2] if len(sys.argv) > 2 else None


def peak():
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))) / 1024


def write_runs(folder):
    import numpy as np

    from l2m.counting import PairRuns, count_keys

    runs, generator = PairRuns(folder, MEGABYTES * 2**20), np.random.default_rng(0)
    for number in range(RUNS):
        first, second = generator.zipf(1.2, ROWS) % 49_152, generator.integers(49_152, size=ROWS)
        runs.add("d1", number, lambda: count_keys((first * 49_152 + second).astype(np.uint64)))


def by_ranges():
    from l2m.counting import PairRuns

    runs = PairRuns(folder, MEGABYTES * 2**20)
    runs.runs["d1"] = sorted(folder.glob("d1-*.parquet"))
    before, start = peak(), time.perf_counter()
    return sum(int(counts.sum()) for _, counts in runs.parts("d1")), before, start


def by_polars():
    import polars as pl
    import pyarrow.parquet as pq

    before, start = peak(), time.perf_counter()
    merged = (
        pl.scan_parquet(sorted(folder.glob("d1-*.parquet")), glob=False)
        .group_by("key")
        .agg(pl.col("count").sum())
        .sort("key")
    )
    merged.sink_parquet(folder / "merged.parquet", engine="streaming")
    parts = pq.ParquetFile(folder / "merged.parquet").iter_batches(2**16, columns=["count"])
    return sum(int(part["count"].to_numpy().sum()) for part in parts), before, start


if engine == "write":
    write_runs(folder)
elif engine:
    total, before, start = {"ranges": by_ranges, "Polars": by_polars}[engine]()
    print(f"{engine:8s} {total:,} pairs merged in {time.perf_counter() - start:5.1f} s with {peak() - before:4.0f} MB")
else:
    print(f"{RUNS} sorted runs of {ROWS:,} pairs, a budget of {MEGABYTES} MB:")
    with tempfile.TemporaryDirectory() as scratch:
        for engine in ("write", "ranges", "Polars"):
            spilling = {"POLARS_OOC_MEMORY_BUDGET_MB": str(MEGABYTES)} if engine == "Polars" else {}
            subprocess.run([sys.executable, __file__, scratch, engine], env={**os.environ, **spilling}, check=True)
