"Training: exact losses, exact resumption, the same result from two processes, and one clear error for what cannot work."

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import logging

from l2m.gaussian import DenseGaussian
from l2m.hierarchies import SubvolumeGaussian
from l2m.models import build_model
from l2m.ngrams import count_ngrams
from l2m.plans import Checkpoint, Plan, generator_of
from l2m.scoring import SequenceScorer
from l2m.stores import Store
from l2m.study import Trial, collapse, measured, smooth, study
from l2m.tasks import DiscreteTask, GaussianTask, TextTask, gaussian_kl, token_nll
from l2m.training import Diverged, evaluate, train

logging.set_verbosity_error()
TASK = GaussianTask(SubvolumeGaussian.of_length(16, copies=2))
PLAN = Plan(steps=24, batch=8, learning_rate=0.01, warmup=4, microbatches=2)
gpt2 = lambda **changes: build_model("gpt2", **dict(length=16, copies=2) | changes)

# The run that other processes make: slow where a file says so, so that it can be killed.
SCRIPT = """
import sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from l2m.models import build_model
from l2m.hierarchies import SubvolumeGaussian
from l2m.tasks import GaussianTask
from l2m.training import Plan, train
from l2m.hierarchies import SubvolumeGaussian
from l2m.tasks import GaussianTask
from transformers import logging
logging.set_verbosity_error()
class Slow(GaussianTask):
    def draw(self, first, *rest):
        if first >= 8 * 12 and Path(sys.argv[1], "slow").exists(): time.sleep(0.5)
        return super().draw(first, *rest)
    def describe(self): return GaussianTask(self.process).describe()
plan = Plan(steps=24, batch=8, learning_rate=0.01, warmup=4, microbatches=2)
train(build_model("gpt2", length=16, copies=2), Slow(SubvolumeGaussian.of_length(16, copies=2)), plan, sys.argv[1], save_every=4)
"""


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    "The loss curve and the checkpoint of an uninterrupted run in one process"
    folder = tmp_path_factory.mktemp("plain")
    return train(gpt2(), TASK, PLAN, folder, save_every=4), folder / "checkpoint.safetensors"


def environment():
    return os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}


def test_killed_and_resumed_the_curve_has_the_same_bits(plain, tmp_path):
    folder, script = tmp_path / "run", tmp_path / "script.py"
    folder.mkdir()
    (folder / "slow").touch()
    script.write_text(SCRIPT)
    running = subprocess.Popen([sys.executable, script, folder], env=environment())
    deadline = time.time() + 120
    table = folder / "table.parquet"  # read in one go: Polars opens a path twice, and it may be replaced between
    while not table.exists() or len(pl.read_parquet(table.read_bytes())) < 12:
        assert time.time() < deadline and running.poll() is None
        time.sleep(0.1)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    half = pl.read_parquet(folder / "table.parquet")
    assert 12 <= len(half) < 24
    resumed = train(gpt2(), TASK, PLAN, folder, save_every=4)
    assert resumed["loss"].equals(plain[0]["loss"]) and resumed["seconds"].is_sorted()
    assert resumed.head(len(half)).equals(half) and pl.read_parquet(folder / "table.parquet").equals(resumed)


def test_two_processes_give_the_result_of_one(plain, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
        "--main_process_port",
        "0",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        script,
        tmp_path / "run",
    ]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    table = pl.read_parquet(tmp_path / "run" / "table.parquet")
    np.testing.assert_allclose(table["loss"], plain[0]["loss"], rtol=1e-5)
    assert table["tokens"].equals(plain[0]["tokens"])
    one, two = gpt2(), gpt2()
    identity = json.loads(_metadata(plain[1])["identity"])
    for model, path in ((one, plain[1]), (two, tmp_path / "run" / "checkpoint.safetensors")):
        Checkpoint(path, identity).read(model, torch.optim.AdamW(model.parameters()))
    for a, b in zip(one.parameters(), two.parameters()):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def _metadata(path):
    size = int.from_bytes(path.read_bytes()[:8], "little")
    return json.loads(path.read_bytes()[8 : 8 + size])["__metadata__"]


def test_microbatches_of_one_batch_average_its_gradient():
    "The same sequences, whole or in parts, are the same step."

    class Fixed(GaussianTask):
        z = SubvolumeGaussian.of_length(16, copies=2).sample(8, 16, torch.Generator().manual_seed(0))

        def draw(self, first, n, generator, device):
            z = self.z[first % 8 : first % 8 + n]
            means, stds = self.process.conditionals(z)
            return z, means, stds[:, None]

    whole, parts = (train(gpt2(), Fixed(TASK.process), Plan(6, 8, 0.01, warmup=2, microbatches=m)) for m in (1, 4))
    np.testing.assert_allclose(whole["loss"], parts["loss"], rtol=1e-4)


@given(st.floats(-3, 3), st.floats(0.1, 3), st.floats(-3, 3), st.floats(0.1, 3))
def test_gaussian_kl_is_torchs(mean, std, q_mean, q_std):
    values = [torch.tensor(v, dtype=torch.float64) for v in (mean, std, q_mean, q_std)]
    normal = torch.distributions.Normal
    torch.testing.assert_close(
        gaussian_kl(*values),
        torch.distributions.kl_divergence(normal(*values[:2]), normal(*values[2:])),
        atol=1e-10,
        rtol=1e-9,
    )
    assert gaussian_kl(values[0], values[1], values[0], values[1]) == 0


class Oracle(torch.nn.Module):
    "Knows the truth; wrong by a known amount from a position on"

    def __init__(self, process, off=0.0, since=0):
        super().__init__()
        self.process, self.off, self.since, self.copies, self.config = (
            process,
            off,
            since,
            process.copies,
            type("Config", (), {})(),
        )

    def forward(self, z):
        means, stds = self.process.conditionals(z)
        late = (torch.arange(z.shape[1]) >= self.since)[:, None]
        return means + self.off * late, stds[:, None].expand_as(means)


def test_evaluation_finds_the_truth_and_a_known_error():
    process = SubvolumeGaussian.of_length(16, copies=4)
    task, stds = GaussianTask(process), process.conditionals(torch.zeros(1, 16, 4))[1].double()
    perfect = evaluate(Oracle(process), task, 400, 100)
    assert np.abs(perfect.table["kl"]).max() < 1e-5 and perfect.averages["kl"] < 1e-5
    entropy = 0.5 * np.log(2 * np.pi * np.e) + stds.log().numpy()
    assert (np.abs(perfect.table["nll"] - entropy) < 5 * perfect.table["nll_stderr"].to_numpy()).all()
    wrong = evaluate(Oracle(process, 0.3, since=10), task, 400, 100)
    expected = np.where(np.arange(16) >= 10, 0.3**2 / 2 / stds.numpy() ** 2, 0)
    np.testing.assert_allclose(wrong.table["kl"], expected, atol=1e-4)


def test_standard_errors_are_those_of_repeated_evaluations():
    process = SubvolumeGaussian.of_length(16, copies=1)
    again = [evaluate(Oracle(process), GaussianTask(process), 50, 50, seed=seed).averages for seed in range(200)]
    spread, claimed = np.std([a["nll"] for a in again], ddof=1), np.mean([a["nll_stderr"] for a in again])
    assert abs(spread / claimed - 1) < 5 / np.sqrt(2 * 200)


def test_models_learn_a_known_process():
    "Two correlated values: what can be known of the second is learnt, KL near zero."
    task = GaussianTask(DenseGaussian(torch.tensor([[1.0, 0.9], [0.9, 1.0]]), copies=1))
    for name in ("gpt2", "mamba2"):
        model = build_model(name, length=2, copies=1)
        curve = train(model, task, Plan(150, 64, 0.01, warmup=10))
        assert curve["loss"][0] > 0.1 and evaluate(model, task, 1000, 500).averages["kl"] < 0.03


def test_training_draws_what_evaluation_never_does():
    draws = {
        tuple(torch.rand(4, generator=generator_of(torch.device("cpu"), *place)).tolist())
        for place in [(0, s, i) for s in range(50) for i in range(2)] + [(0, "evaluate", s) for s in range(50)]
    }
    assert len(draws) == 150


def test_token_nll_is_the_probability_of_every_token():
    model = build_model("llama", length=5, vocabulary=4).double().eval()
    tokens = torch.tensor([[2, 0, 3, 1, 1]])
    with torch.no_grad():
        found, past = token_nll(model, tokens), torch.tensor([[4]])
        for i in range(5):
            logits = model(past).logits[0, -1]
            torch.testing.assert_close(
                found[0, i].double(), -logits.log_softmax(-1)[tokens[0, i]], atol=1e-5, rtol=1e-5
            )
            past = torch.cat([past, tokens[:, i : i + 1]], 1)


class Coins(SequenceScorer):
    "Every even token is a fair coin, every odd one repeats it"

    name, vocabulary = "coins", 2

    def sample(self, n, length, generator):
        return torch.randint(2, (n, length // 2), generator=generator).repeat_interleave(2, 1)

    def token_logprobs(self, tokens):
        return torch.tensor([np.log(0.5), 0.0]).repeat(tokens.shape[1] // 2).expand(tokens.shape).double()

    def __repr__(self):
        return "Coins()"


def test_discrete_task_learns_what_is_decided():
    model, task = build_model("llama", length=8, vocabulary=2), DiscreteTask(Coins(), 8)
    before = evaluate(model, DiscreteTask(Coins(), 8, exact=True), 200, 100).averages
    train(model, task, Plan(150, 32, 0.01, warmup=10))
    after = evaluate(model, DiscreteTask(Coins(), 8, exact=True), 200, 100).averages
    assert (
        before["kl"] > 0.2
        and after["kl"] < 0.02
        and after["decided"] == 0.5
        and abs(after["nll"] - np.log(2) / 2) < 0.03
    )


def test_every_window_of_a_text_is_used_once():
    used = []

    class Watched(TextTask):
        def draw(self, *arguments):
            used.append(super().draw(*arguments)[0])
            return (used[-1],)

    windows = torch.arange(24).view(12, 2)
    train(
        build_model("gpt2", length=2, vocabulary=24), Watched(windows, 24), Plan(3, 4, 0.01, warmup=1, microbatches=2)
    )
    assert torch.equal(torch.cat(used), windows)


def test_rate_warms_up_and_falls_to_nothing():
    rates = [PLAN.rate(step) for step in range(24)]
    assert rates[:4] == pytest.approx([0.0025, 0.005, 0.0075, 0.01]) and rates[4] == 0.01 and 0 < rates[-1] < 1e-4
    assert rates[4:] == sorted(rates[4:], reverse=True)


class Broken(GaussianTask):
    "Not a number from the fourteenth step on"

    def draw(self, first, *rest):
        z, means, stds = super().draw(first, *rest)
        return (z * float("nan"), means, stds) if first >= 8 * 13 else (z, means, stds)


def test_nan_stops_with_step_rate_and_checkpoint(tmp_path):
    with pytest.raises(
        Diverged,
        match=f"loss nan at step 13, learning rate {PLAN.rate(13):.3g}; the last good checkpoint is '.*checkpoint.safetensors'",
    ):
        train(gpt2(), Broken(TASK.process), PLAN, tmp_path, save_every=4)
    model = gpt2()
    rows = Checkpoint(
        tmp_path / "checkpoint.safetensors", json.loads(_metadata(tmp_path / "checkpoint.safetensors")["identity"])
    ).read(model, torch.optim.AdamW(model.parameters()))
    assert len(rows) == 12 and all(p.isfinite().all() for p in model.parameters())


def test_divergence_without_nan_is_noticed():
    with pytest.raises(Diverged, match="no checkpoint was written: start again with a lower learning_rate"):
        train(gpt2(), TASK, Plan(60, 8, 1e6, warmup=0))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda b: b[: len(b) // 2], "is damaged or cut short"),
        (lambda b: b[:4], "is damaged or cut short"),
        (lambda b: b"", "is damaged or cut short"),
        (lambda b: b[:-1000] + bytes([b[-1000] ^ 1]) + b[-999:], r"is damaged or cut short \(its checksum is wrong"),
        (lambda b: b.replace(b"learning_rate", b"Learning_rate"), r"is damaged or cut short \(its checksum is wrong"),
    ],
)
def test_damaged_checkpoints_are_refused(plain, tmp_path, change, message):
    (tmp_path / "checkpoint.safetensors").write_bytes(change(plain[1].read_bytes()))
    with pytest.raises(ValueError, match=message):
        train(gpt2(), TASK, PLAN, tmp_path)


@pytest.mark.parametrize(
    "model, task, plan, message",
    [
        (
            gpt2,
            TASK,
            Plan(24, 8, 0.02, warmup=4, microbatches=2),
            "belongs to another run \\(learning_rate: 0.01 there, 0.02 now\\)",
        ),
        (lambda: gpt2(size="small"), TASK, PLAN, "belongs to another run \\(config"),
        (
            gpt2,
            GaussianTask(DenseGaussian(torch.eye(16), copies=2)),
            PLAN,
            "belongs to another run \\(.*task: 'SubvolumeGaussian' there",
        ),
    ],
)
def test_checkpoints_of_another_run_are_refused(plain, tmp_path, model, task, plan, message):
    (tmp_path / "checkpoint.safetensors").write_bytes(plain[1].read_bytes())
    with pytest.raises(ValueError, match=message):
        train(model(), task, plan, tmp_path)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: train(gpt2(length=8), TASK, PLAN), "sequences of 16 tokens exceed the 8 that the model was built for"),
        (lambda: train(gpt2(copies=3), TASK, PLAN), "the model has copies=3, the process 2"),
        (lambda: train(gpt2(copies=None, vocabulary=4), TASK, PLAN), "the model has copies=None, the process 2"),
        (lambda: train(gpt2(), DiscreteTask(Coins(), 16), PLAN), "does not fit 2: build it with vocabulary=2"),
        (lambda: train(gpt2(), TASK, PLAN, device="tpu9"), "device 'tpu9' is not on this machine"),
        (
            lambda: train(gpt2(copies=None, vocabulary=4), TextTask(torch.zeros(9, 16, dtype=torch.int64), 4), PLAN),
            "192 windows of 16 tokens are asked for and the text has 9",
        ),
        (
            lambda: train(gpt2(copies=None, vocabulary=4), TextTask(torch.zeros(999, 16, dtype=torch.int64), 5), PLAN),
            "a model of 4 tokens does not fit 5",
        ),
        (lambda: Plan(10, 8, 0.01, warmup=10), "warmup=10, learning_rate=0.01: choose 0 <= warmup < steps=10"),
        (lambda: Plan(10, 8, -1.0, warmup=0), "a positive rate"),
        (lambda: Plan(10, 8, float("nan"), warmup=0), "learning_rate is nan, expected a finite number"),
        (lambda: Plan(10, 8, 0.1, warmup=0, weight_decay=-1.0), "choose a decay >= 0"),
        (lambda: Plan(10, 8, 0.1, warmup=0, clip=0.0), "a clip > 0"),
        (lambda: Plan(10, 9, 0.1, warmup=0, microbatches=2), "micro-batches must divide the batch"),
        (lambda: Plan(10, 8, 0.1, warmup=0, autocast="int8"), "autocast='int8' is unknown"),
        (
            lambda: DiscreteTask(count_ngrams([np.arange(4)], 2, 4), 8),
            "knows what tokens cost and draws none: pass a source",
        ),
        (lambda: evaluate(gpt2(), TASK, 1, 1), "n=1, batch=1: choose n >= 2"),
        (lambda: collapse([1, 2, 3], [1, 2, 3]), "a curve of degree 2 needs at least 4"),
        (lambda: collapse([1, 2, 3, 4], [1, 2, 3, 0]), "entry 3 of y is 0, expected a finite number, above 0"),
        (lambda: SubvolumeGaussian.of_length(100, copies=2), "length 100 is not a power of four"),
    ],
)
def test_bad_input_is_one_clear_error(call, message):
    with pytest.raises(ValueError, match=message), np.errstate(divide="ignore"):
        call()


def test_autocast_changes_little_and_compilation_less(plain, monkeypatch):
    rough = train(gpt2(), TASK, Plan(24, 8, 0.01, warmup=4, microbatches=2, autocast="bfloat16"))
    np.testing.assert_allclose(rough["loss"], plain[0]["loss"], rtol=0.2)
    assert not rough["loss"].equals(plain[0]["loss"])
    compiled, original = [], torch.compile

    def without_code(model):  # what is captured, run by PyTorch itself: no compiler of C++ is needed
        compiled.append(original(model, backend="eager"))
        return compiled[-1]

    monkeypatch.setattr(torch, "compile", without_code)
    same = train(gpt2(), TASK, PLAN, compile=True)
    np.testing.assert_allclose(same["loss"], plain[0]["loss"], rtol=1e-4)
    assert len(compiled) == 1


@pytest.mark.parametrize("rho", [0.0, 0.2, 1.0])
def test_smoothing_finds_the_error_of_equally_correlated_positions(rho):
    "Positions that share a part of their noise: the error of every bin is that of its mean"
    sigma, positions = np.linspace(0.1, 0.3, 64), np.arange(1, 65)
    covariance = np.outer(sigma, sigma) * (rho + (1 - rho) * np.eye(64))
    table = pl.DataFrame({"position": positions, "kl": [2.0] * 64, "kl_stderr": sigma})
    bins = smooth(table, "kl", covariance.mean() ** 0.5, 1)
    members = [np.flatnonzero(np.floor(np.log2(positions)) == octave) for octave in range(7)]
    np.testing.assert_allclose(bins["kl_stderr"], [covariance[np.ix_(m, m)].mean() ** 0.5 for m in members], rtol=1e-9)
    assert (bins["kl"] - 2).abs().max() < 1e-12 and bins["position"].is_sorted() and len(bins) == 7


def test_collapse_by_hand():
    x, rng = np.geomspace(0.1, 10, 40), np.random.default_rng(0)
    assert collapse(x, 3 * x**0.5, degree=1).explained == pytest.approx(1) and collapse(
        x, 3 * x**0.5, degree=1
    ).coefficients == pytest.approx((0.5, np.log(3)))
    noise = np.exp(rng.normal(size=40))
    assert collapse(x, noise).predicted < collapse(x, noise).explained < 0.4
    groups = np.repeat([0, 1, 2, 3], 10)
    left_out = collapse(x, x, groups, degree=1)
    assert left_out.predicted == pytest.approx(1)
    with pytest.raises(ValueError, match="3 groups"):
        collapse(x[:30], x[:30], groups[:30])


def test_a_measured_run_is_made_once(tmp_path):
    calls = []

    def build():
        calls.append(1)
        return gpt2()

    store = Store(tmp_path, {"work": 1})
    tables = [measured(store, "run", build, TASK, Plan(5, 4, 0.01, warmup=1), 20, 10) for _ in range(2)]
    assert tables[0].equals(tables[1]) and len(calls) == 1 and len(store.read("run-curve")) == 5
    assert {"position", "kl", "kl_stderr", "nll", "average", "average_stderr", "seconds"} <= set(tables[0].columns)
    assert not list(tmp_path.glob("*.run"))
    for number, key in enumerate(("run", "run-curve"), 2):  # either of the two was found damaged, and deleted
        store.path(key).unlink()
        again = measured(store, "run", build, TASK, Plan(5, 4, 0.01, warmup=1), 20, 10)
        assert (
            again.drop("seconds").equals(tables[0].drop("seconds"))
            and len(store.read("run-curve")) == 5
            and len(calls) == number
        )


def test_a_process_that_does_the_same_run_may_finish_first(tmp_path):
    "The folder of the run is gone when the other has kept the result; this one ends with the same numbers."
    store, plan = Store(tmp_path, {"work": 1}), Plan(5, 4, 0.01, warmup=1)
    make = lambda: measured(store, "run", gpt2, TASK, plan, 20, 10)

    def late():
        def build():
            first.append(make())
            return gpt2()

        return measured(store, "run", build, TASK, plan, 20, 10)

    first = []
    assert late().drop("seconds").equals(first[0].drop("seconds")) and not list(tmp_path.glob("*.run"))
    checkpoint = Checkpoint(tmp_path / "gone" / "checkpoint.safetensors", {})
    model = gpt2()
    checkpoint.write(model, torch.optim.AdamW(model.parameters()), [(0, 1.0, 8, 0.1)])
    assert checkpoint.path.exists()


def made(tmp_path, told, seeds=(0,), rates=(0.003, 0.006), **changes):
    "A study of two models at two lengths"
    trials = [
        Trial(
            {"length": length},
            GaussianTask(SubvolumeGaussian.of_length(length, copies=2)),
            Plan(6, 4, 0.5, warmup=1, **changes),
            20,
            10,
        )
        for length in (4, 16)
    ]

    def build(model, trial, seed=0, device="cpu"):
        if device != "meta":
            told.append((model, trial.labels["length"], seed))
        return build_model(model, length=trial.labels["length"], copies=2, seed=seed, device=device)

    return study(
        build, ["gpt2", "llama"], trials, Store(tmp_path, {}), rates=rates, tuning_steps=4, tuned_on=1, seeds=seeds
    )


def test_a_study_chooses_rates_and_makes_every_run_once(tmp_path):
    told = []
    found = made(tmp_path, told)
    assert told == [("gpt2", 16, 0)] * 2 + [("llama", 16, 0)] * 2 + [
        ("gpt2", 4, 0),
        ("llama", 4, 0),
        ("gpt2", 16, 0),
        ("llama", 16, 0),
    ]
    assert (
        found.tuning.columns == ["model", "learning_rate", "kl", "steps"] and found.tuning["steps"].to_list() == [4] * 4
    )
    best = {
        model: min(rows.iter_rows(), key=lambda row: row[2])[1] for (model,), rows in found.tuning.group_by("model")
    }
    assert found.rates == best and [o.plan.learning_rate for o in found.outcomes] == [best["gpt2"], best["llama"]] * 2
    again, more = made(tmp_path, told), made(tmp_path, told, seeds=(0, 1))
    assert len(told) == 8 + 4 and all(
        a.table.equals(b.table) and a.losses.equals(b.losses) for a, b in zip(found.outcomes, again.outcomes)
    )
    assert [o.place for o in more.outcomes[4:]] == [
        {"model": m, "length": n, "seed": 1} for n in (4, 16) for m in ("gpt2", "llama")
    ]
    assert more.outcomes[0].table.equals(found.outcomes[0].table) and not more.outcomes[4].table.equals(
        found.outcomes[0].table
    )


def test_a_rate_at_which_a_model_diverges_is_not_chosen(tmp_path, capsys):
    "And the next call chooses as this one did"
    for _ in range(2):
        found = made(tmp_path, [], rates=(0.003, 1e6))
        assert set(found.rates.values()) == {0.003} and len(found.outcomes) == 4 and not found.missing
        lost = found.tuning.filter(learning_rate=1e6)
        assert lost["kl"].is_infinite().all() and len(lost) == 2 and "diverged" in capsys.readouterr().out
    with pytest.raises(Diverged, match="start again with a lower learning_rate"):
        made(tmp_path / "all", [], rates=(1e6, 1e7))
    with pytest.raises(Diverged, match="start again with a lower learning_rate"):
        made(tmp_path / "one", [], rates=(1e6,))


def test_a_long_run_that_diverges_ends_no_other(tmp_path):
    "What came to its end is there, and the lost ones are named."

    class Broken(GaussianTask):
        def draw(self, first, *how):
            z, *rest = super().draw(first, *how)
            return (z * (float("nan") if first >= 20 else 1.0), *rest)  # beyond the steps that choose

    trials = [
        Trial({"length": n}, kind(SubvolumeGaussian.of_length(n, copies=2)), Plan(6, 4, 0.5, warmup=1), 20, 10)
        for n, kind in ((4, Broken), (16, GaussianTask))
    ]
    build = lambda model, trial, **how: build_model(model, length=trial.labels["length"], copies=2, **how)
    how = dict(rates=(0.003, 0.006), tuning_steps=4)
    found = study(build, ["gpt2"], trials, Store(tmp_path, {}), **how)
    assert [o.place["length"] for o in found.outcomes] == [16]
    [lost] = found.missing
    assert lost.startswith("gpt2, length 4, seed 0") and lost.endswith("it diverged, choose lower rates")


def test_a_study_is_what_its_runs_would_be_by_themselves(tmp_path):
    outcome = made(tmp_path / "study", [], rates=[0.01]).outcomes[2]
    build = lambda: build_model("gpt2", length=16, copies=2, seed=0)
    alone = measured(Store(tmp_path / "alone", {}), "run", build, TASK, Plan(6, 4, 0.01, warmup=1), 20, 10)
    assert outcome.table.drop("seconds").equals(alone.drop("seconds")) and (outcome.model, outcome.tokens) == (
        "gpt2",
        6 * 4 * 16,
    )
    assert outcome.placed(outcome.curve(3)).columns == [
        "model",
        "length",
        "seed",
        "part",
        "loss",
        "step",
        "tokens",
        "seconds",
    ]
    assert outcome.curve(3)["loss"].to_list() == pytest.approx(
        [outcome.losses["loss"][i : i + 2].mean() for i in (0, 2, 4)]
    )


def test_other_work_is_another_run_in_the_same_store(tmp_path):
    told = []
    for change in ({}, {"clip": 0.5}, {"weight_decay": 0.1}):
        made(tmp_path, told, rates=[0.01], **change)
    assert len(told) == 3 * 4 and len(Store.open(tmp_path).keys()) == 2 * len(told)


def test_one_rate_needs_no_choice(tmp_path):
    found = made(tmp_path, [], rates=[0.01])
    assert found.tuning.is_empty() and found.tuning.schema == {
        "model": pl.String,
        "learning_rate": pl.Float64,
        "kl": pl.Float64,
        "steps": pl.Int64,
    }
    assert found.rates == {"gpt2": 0.01, "llama": 0.01}
