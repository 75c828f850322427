"""What a Ray cluster gains and costs on this machine: one worker against two, each with one thread, for scoring.

Wall time says it all on quiet cores. On busy ones look at processor time: how much a shard takes of it with one worker and with
two, what Ray itself takes, and how long a worker stands idle between two shards."""

import os
import sys
import time
from contextlib import contextmanager
from functools import partial

os.environ |= {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}  # before torch and Ray are loaded

import numpy as np
import psutil
import ray
import torch

from l2m.engines import RayEngine
from l2m.interface import Needs
from l2m.passes import Identity, Scoring
from l2m.windows import Windows

LENGTH, BATCH, SHARDS = 256, 4, int(sys.argv[1]) if len(sys.argv) > 1 else 12


def random_model():
    "A language model of some million weights"
    from transformers import AutoModelForCausalLM, LlamaConfig, logging

    from l2m.scoring import LanguageModel

    logging.set_verbosity_error()
    sizes = dict(vocab_size=8192, hidden_size=384, intermediate_size=1024, num_hidden_layers=8, num_attention_heads=6)
    torch.manual_seed(0)
    return LanguageModel(AutoModelForCausalLM.from_config(LlamaConfig(**sizes)), None, "random", 0)


def windows():
    ids = torch.randint(8192, (BATCH * SHARDS, LENGTH), generator=torch.Generator().manual_seed(0))
    ones = torch.ones_like(ids, dtype=torch.int32)
    return Windows(ids, [str(i) for i in range(len(ids))], [0] * len(ids), ones, "random", "0", "ids")


def timed(scoring):
    "A worker that says who did a task, when, and with how much processor time"
    work = scoring()

    def watched(task):
        if task == "who":
            time.sleep(0.1)  # the other one's turn
            return os.getpid(), None
        begun, cpu = time.time(), time.process_time()
        result = work(task)
        return os.getpid(), (begun, time.time(), time.process_time() - cpu, result)

    return watched


@contextmanager
def hired(scoring, n):
    "So many workers, all of them ready"
    with RayEngine(workers=n, cpus=1).hire(partial(timed, scoring)) as run:
        while len({pid for _, (pid, _) in run((str(i), "who") for i in range(2 * n))}) < n:
            pass
        yield run


def of_ray():
    "Processor time of all of Ray but the workers' actors"
    times = [child.cpu_times() for child in psutil.Process().children(recursive=True) if "ray::" not in child.name()]
    return sum(t.user + t.system for t in times)


def measured(scoring, tasks, n):
    "Seconds of wall time, of processor time a shard, of Ray's own, and idle between shards"
    with hired(scoring, n) as run:
        before, own, begun = of_ray(), time.process_time(), time.time()
        done = [(pid, *told) for _, (pid, told) in run(tasks)]
        wall = time.time() - begun
        beside = of_ray() - before + time.process_time() - own
    turns = [sorted(told[1:3] for told in done if told[0] == pid) for pid in {told[0] for told in done}]
    idle = np.mean([b[0] - a[1] for rows in turns for a, b in zip(rows, rows[1:])])
    return wall, np.mean([told[3] for told in done]), beside / len(done), idle


def main():
    scorer, drawn = random_model(), windows()
    scoring = Scoring(random_model, drawn, np.roll(np.arange(len(drawn)), 1)[:, None], Needs(), False)
    reach, identity = {LENGTH // 2: LENGTH // 2}, Identity.of(scorer)
    tasks = [(str(i), (range(i, i + BATCH), reach, identity)) for i in range(0, len(drawn), BATCH)]
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    found = {}
    for n in (1, 2):
        wall, cpu, beside, idle = found[n] = measured(scoring, tasks, n)
        print(
            f"{n} worker{'s' * (n > 1)}: {SHARDS} shards in {wall:.1f} s; processor time a shard {cpu:.2f} s, and {1000 * beside:.0f} ms "
            f"of Ray and the driver; a worker is idle for {1000 * idle:.0f} ms between two",
            flush=True,
        )
    wall, cpu, beside, idle = zip(found[1], found[2])
    print(f"two workers against one: {wall[0] / wall[1]:.2f} times as fast here")
    quiet = 2 * (cpu[0] + idle[0]) / (cpu[1] + idle[1] + beside[1])
    print(f"by processor time, on two cores of one's own: {quiet:.2f} times")
    print(f"overhead for shards of ten seconds: {(beside[1] + idle[1]) / 10:.2%}")


if __name__ == "__main__":
    main()
