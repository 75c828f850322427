"""How fast models are trained, beside transformers' Trainer, one line a result.

On a card: plain steps, steps recorded as a graph, and eight runs together; our loop and the Trainer; and what share of the
card's matrix speed that is. On a CPU: our loop and the Trainer, the share of data generation, the scan of Mamba-2 against
transformers' own, and runs together: one process, turns taken.
"""

import argparse
import sys
import tempfile
import time
import warnings

warnings.filterwarnings("ignore")
warnings.filterwarnings("default", "a step cannot be captured")  # or what is called a graph would be none
import torch
from torch.utils.data import IterableDataset
from transformers import PrinterCallback, Trainer, TrainingArguments, logging

import l2m.models as models
from l2m.hierarchies import SubvolumeGaussian
from l2m.models import build_model, parameter_count, transformers_chunk_scan
from l2m.plans import Plan, generator_of
from l2m.tasks import GaussianTask
from l2m.training import train, train_together

logging.set_verbosity_error()
CPU, STEPS, VOCABULARY, LENGTH, BATCH = torch.device("cpu"), 60, 256, 256, 4


class RandomTokens:
    "A task that costs nothing to draw, so that loops are compared and not data"

    length = LENGTH

    def describe(self):
        return {"task": "random tokens"}

    def check(self, model, sequences):
        pass

    def draw(self, first, n, generator, device):
        return (torch.randint(VOCABULARY, (n, LENGTH), generator=generator, device=device),)

    def scores(self, model, batch):
        return {"nll": model(batch[0], labels=batch[0], use_cache=False).loss[None, None]}


class Stream(IterableDataset):
    "The same sequences for the Trainer"

    def __init__(self, steps, batch):
        self.steps, self.batch = steps, batch

    def __iter__(self):
        for step in range(self.steps):
            for ids in RandomTokens().draw(0, self.batch, generator_of(CPU, 0, step, 0), CPU)[0]:
                yield {"input_ids": ids, "labels": ids}


def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def turns(repeats, *works):
    "Shortest time of each, taken in turn so that all meet the same machine"
    return [min(times) for times in zip(*[[work() for work in works] for _ in range(repeats)])]


def ours(name, device="cpu", steps=STEPS, batch=BATCH):
    model = build_model(name, "small", length=LENGTH, vocabulary=VOCABULARY)
    return seconds(lambda: train(model, RandomTokens(), Plan(steps, batch, 1e-3, warmup=10), device=device))


def theirs(name, device="cpu", steps=STEPS, batch=BATCH):
    model = build_model(name, "small", length=LENGTH, vocabulary=VOCABULARY)
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder,
            per_device_train_batch_size=batch,
            max_steps=steps,
            learning_rate=1e-3,
            warmup_steps=10,
            lr_scheduler_type="cosine",
            weight_decay=0.01,
            use_cpu=device == "cpu",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            logging_steps=10,
            dataloader_pin_memory=False,
        )
        trainer = Trainer(model, settings, train_dataset=Stream(steps, batch))
        trainer.remove_callback(PrinterCallback)
        return seconds(trainer.train)


# On a card


def matrix_speed(size=8192, repeats=20):
    "Floating-point operations a second of products in TF32"
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    a = torch.randn(size, size, device="cuda")
    for _ in range(3):
        a @ a
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        a @ a
    torch.cuda.synchronize()
    torch.set_float32_matmul_precision(before)
    return 2 * size**3 * repeats / (time.perf_counter() - start)


def pace(curve):
    "Steps a second in the second half of a run: not the recording, nor the first use of a kernel"
    half = len(curve) // 2
    return half / (curve["seconds"][-1] - curve["seconds"][-1 - half])


def paces(name, length, device, scale=1.0, runs=8):
    "Steps a second of plain steps, of recorded ones, and of several runs together: each of these"
    task = GaussianTask(SubvolumeGaussian.of_length(length, 64))
    make = lambda seed=0: build_model(name, "4x128", length=length, copies=64, seed=seed, **STATE[name])
    plan = lambda steps, seed=0: Plan(max(20, int(steps * scale)), 16, 1e-3, warmup=5, seed=seed, bulk=50, tf32=True)
    yield "plain", pace(train(make(), task, plan(60), device=device, capture=False)), 1
    if device != "cpu":
        yield "as a graph", pace(train(make(), task, plan(400), device=device)), 1
    models = [make(seed) for seed in range(runs)]
    curves = train_together(models, task, [plan(200, seed) for seed in range(runs)], device=device)
    yield f"{runs} together", sum(map(pace, curves)) / runs, runs


STATE = {"llama": {}, "mamba2": {"state": 1}}


def on_a_card(say, device="cuda", lengths=(64, 256, 1024), scale=1.0):
    speed = matrix_speed()
    say(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}: {speed / 1e12:.0f} TFLOP/s in matrix products in TF32"
    )
    for length in lengths:
        for name in ("llama", "mamba2"):
            size = parameter_count(build_model(name, "4x128", length=length, copies=64, device="meta", **STATE[name]))
            plain = None
            for how, steps, runs in paces(name, length, device, scale):
                tokens = steps * runs * 16 * length
                plain = plain or steps
                say(
                    f"{name} 4x128, L = {length:4d}, {how:10s}: {steps:6.1f} steps/s of each of {runs}, {tokens:11,.0f} tokens/s, {steps * runs / plain:5.1f} times plain, {6 * size * tokens / speed:.1%} of the card"
                )
    for name in ("gpt2", "mamba2"):
        mine, plain = turns(2, lambda: ours(name, device, 200, 16), lambda: theirs(name, device, 200, 16))
        tokens = 200 * 16 * LENGTH
        say(
            f"{name:7s} small, recording included: l2m {tokens / mine:9,.0f} tokens/s, transformers' Trainer {tokens / plain:9,.0f}: ratio {plain / mine:.2f}"
        )


# On a CPU


def step_seconds(model, z, scan):
    models.modeling_mamba2.mamba2_chunk_scan = scan
    start = time.perf_counter()
    means, stds = model(z)
    (means.square() + stds).mean().backward()
    return time.perf_counter() - start


def share_of_data(say):
    for name, size, copies in (("gpt2", "tiny", 8), ("mamba2", "tiny", 8), ("gpt2", "small", 16)):
        for length in (64, 256, 1024):
            task, batch = GaussianTask(SubvolumeGaussian.of_length(length, copies)), 1024 // length
            model = build_model(name, size, length=length, copies=copies)
            draw = lambda step: task.draw(0, batch, generator_of(CPU, 0, step, 0), CPU)
            draws = lambda: seconds(lambda: [draw(step) for step in range(20)])
            steps = lambda: seconds(lambda: train(model, task, Plan(20, batch, 1e-3, warmup=5)))
            data, whole = turns(5, draws, steps)
            say(
                f"{name} {size}, {copies} copies, L = {length:4d}: drawing 1,024 tokens takes {50 * data:5.2f} ms of a step of {50 * whole:5.1f} ms: {data / whole:.1%}"
            )


def scans(say):
    for length in (64, 256, 1024):
        model, z = build_model("mamba2", length=length, copies=8), torch.randn(1024 // length, length, 8)
        scan = lambda which: lambda: step_seconds(model, z, which)
        mine, plain = turns(12, scan(models.chunk_scan), scan(transformers_chunk_scan))
        models.modeling_mamba2.mamba2_chunk_scan = models.chunk_scan
        say(
            f"Mamba-2, L = {length:4d}: {1024 / mine:8,.0f} tokens/s with our scan, {1024 / plain:8,.0f} with transformers' own: ratio {plain / mine:.2f}"
        )


def runs_together(say):
    task, plan = GaussianTask(SubvolumeGaussian.of_length(16, 4)), Plan(40, 8, 1e-3, warmup=5, bulk=20)
    make = lambda: build_model("gpt2", length=16, copies=4)
    alone = lambda: seconds(lambda: [train(make(), task, plan) for _ in range(4)])
    mine, plain = turns(3, lambda: seconds(lambda: train_together([make() for _ in range(4)], task, [plan] * 4)), alone)
    say(f"gpt2 tiny, L = 16: four runs {4 * 40 / mine:.0f} steps/s together, {4 * 40 / plain:.0f} one after the other")


def on_a_cpu(say):
    say(f"{torch.get_num_threads()} thread; shortest of several turns")
    for name in ("gpt2", "mamba2"):
        mine, plain = turns(4, lambda: ours(name), lambda: theirs(name))
        tokens = STEPS * BATCH * LENGTH
        say(
            f"{name:7s} l2m {tokens / mine:8,.0f} tokens/s, transformers' Trainer {tokens / plain:8,.0f}: ratio {plain / mine:.2f}"
        )
    for part in (share_of_data, scans, runs_together):
        part(say)


def sayer(limit):
    "What prints a line at once, and ends the program when the time is over"
    started = time.perf_counter()

    def say(line):
        print(line, flush=True)
        if limit and time.perf_counter() - started > limit:
            print(f"{limit} seconds are over: the rest is left out", flush=True)
            sys.exit()

    return say


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seconds", type=int, help="end after the first result beyond this time")
    arguments.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    given = arguments.parse_args()
    say = sayer(given.seconds)
    on_a_card(say) if given.device == "cuda" else on_a_cpu(say)
