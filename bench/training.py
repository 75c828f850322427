"Our training loop against transformers' Trainer, the share of data generation, and the scan of Mamba-2 against transformers' own: one process, turns taken."

import tempfile
import time
import warnings

warnings.filterwarnings("ignore")
import torch
from torch.utils.data import IterableDataset
from transformers import PrinterCallback, Trainer, TrainingArguments, logging

import l2m.models as models
from l2m.hierarchies import SubvolumeGaussian
from l2m.models import build_model, transformers_chunk_scan
from l2m.tasks import GaussianTask
from l2m.training import Plan, generator_of, train

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
        return (torch.randint(VOCABULARY, (n, LENGTH), generator=generator),)

    def scores(self, model, batch):
        return {"nll": model(batch[0], labels=batch[0], use_cache=False).loss[None, None]}


class Stream(IterableDataset):
    "The same sequences for the Trainer"

    def __iter__(self):
        for step in range(STEPS):
            for ids in RandomTokens().draw(0, BATCH, generator_of(CPU, 0, step, 0), CPU)[0]:
                yield {"input_ids": ids, "labels": ids}


def ours(name):
    model, start = build_model(name, "small", length=LENGTH, vocabulary=VOCABULARY), time.perf_counter()
    train(model, RandomTokens(), Plan(STEPS, BATCH, 1e-3, warmup=10))
    return time.perf_counter() - start


def theirs(name):
    model = build_model(name, "small", length=LENGTH, vocabulary=VOCABULARY)
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder,
            per_device_train_batch_size=BATCH,
            max_steps=STEPS,
            learning_rate=1e-3,
            warmup_steps=10,
            lr_scheduler_type="cosine",
            weight_decay=0.01,
            use_cpu=True,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            logging_steps=10,
            dataloader_pin_memory=False,
        )
        trainer = Trainer(model, settings, train_dataset=Stream())
        trainer.remove_callback(PrinterCallback)
        start = time.perf_counter()
        trainer.train()
        return time.perf_counter() - start


def step_seconds(model, z, scan):
    models.modeling_mamba2.mamba2_chunk_scan = scan
    start = time.perf_counter()
    means, stds = model(z)
    (means.square() + stds).mean().backward()
    return time.perf_counter() - start


def turns(repeats, *works):
    "Shortest time of each, taken in turn so that all meet the same machine"
    return [min(times) for times in zip(*[[work() for work in works] for _ in range(repeats)])]


print(f"{torch.get_num_threads()} thread; shortest of several turns")
for name in ("gpt2", "mamba2"):
    mine, plain = turns(4, lambda: ours(name), lambda: theirs(name))
    tokens = STEPS * BATCH * LENGTH
    print(
        f"{name:7s} l2m {tokens / mine:8,.0f} tokens/s, transformers' Trainer {tokens / plain:8,.0f}: ratio {plain / mine:.2f}"
    )


def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


for name, size, copies in (("gpt2", "tiny", 8), ("mamba2", "tiny", 8), ("gpt2", "small", 16)):
    for length in (64, 256, 1024):
        task, batch = GaussianTask(SubvolumeGaussian.of_length(length, copies)), 1024 // length
        model = build_model(name, size, length=length, copies=copies)
        draws = lambda: seconds(lambda: [task.draw(0, batch, generator_of(CPU, 0, step, 0), CPU) for step in range(20)])
        steps = lambda: seconds(lambda: train(model, task, Plan(20, batch, 1e-3, warmup=5)))
        data, whole = turns(5, draws, steps)
        print(
            f"{name} {size}, {copies} copies, L = {length:4d}: drawing 1,024 tokens takes {50 * data:5.2f} ms of a step of {50 * whole:5.1f} ms: {data / whole:.1%}"
        )

for length in (64, 256, 1024):
    model, z = build_model("mamba2", length=length, copies=8), torch.randn(1024 // length, length, 8)
    mine, plain = turns(
        12, lambda: step_seconds(model, z, models.chunk_scan), lambda: step_seconds(model, z, transformers_chunk_scan)
    )
    print(
        f"Mamba-2, L = {length:4d}: {1024 / mine:8,.0f} tokens/s with our scan, {1024 / plain:8,.0f} with transformers' own: ratio {plain / mine:.2f}"
    )
