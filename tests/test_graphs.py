"Steps as graphs, samples in bulk, runs together: the same numbers as one plain step after the other. A stand-in records on the CPU."

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import logging, masking_utils

from l2m import graphs
from l2m.graphs import captured
from l2m.hierarchies import SubvolumeGaussian
from l2m.models import build_model
from l2m.plans import Plan, identity
from l2m.steps import _Samples, place_of
from l2m.stores import Store
from l2m.study import Trial, study
from l2m.tasks import GaussianTask, TextTask
from l2m.training import Diverged, OutOfTime, train, train_together

logging.set_verbosity_error()
TASK = GaussianTask(SubvolumeGaussian.of_length(16, copies=2))
PLAN = Plan(steps=24, batch=8, learning_rate=0.01, warmup=4, microbatches=2)
fresh = lambda name="gpt2", **changes: build_model(name, **dict(length=16, copies=2) | changes)


class Remembered:
    "Records by remembering; counts what it was asked."

    def __init__(self):
        self.recorded = []

    def rehearse(self, bodies, strict):
        for body in bodies:
            body()

    def record(self, bodies):
        self.recorded.append(len(bodies))
        return lambda: [body() for body in bodies] and None


@pytest.fixture
def recorder(monkeypatch):
    "Steps are recorded, on the CPU."
    found = Remembered()
    monkeypatch.setattr("l2m.steps.recorder_of", lambda device: found)
    return found


@pytest.mark.parametrize(
    "name, bulk", [("gpt2", 1), ("gpt2", 5), ("llama", 5), ("sliding", 1), ("mamba2", 5), ("linear", 1), ("hybrid", 1)]
)
def test_a_recorded_run_has_the_bits_of_a_plain_one(recorder, name, bulk):
    models, plan = [fresh(name), fresh(name)], replace(PLAN, steps=8, warmup=3, bulk=bulk)
    plain = train(models[0], TASK, plan, capture=False)
    assert recorder.recorded == []
    assert train(models[1], TASK, plan)["loss"].equals(plain["loss"]) and recorder.recorded == [1]
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters()))
    assert all(p.grad is None for p in models[1].parameters())


def test_recorded_with_bfloat16_and_tf32(recorder):
    plan = replace(PLAN, autocast="bfloat16", tf32=True)
    plain, found = train(fresh(), TASK, plan, capture=False), train(fresh(), TASK, plan, capture=True)
    np.testing.assert_allclose(found["loss"], plain["loss"], rtol=0.02)
    assert train(fresh(), TASK, replace(PLAN, tf32=True), capture=False)["loss"].equals(
        train(fresh(), TASK, PLAN)["loss"]
    )
    assert torch.get_float32_matmul_precision() == "highest"


class Interrupted(GaussianTask):
    "Fails at a step"

    at = None

    def draw(self, first, *rest):
        if first == self.at:
            raise KeyboardInterrupt
        return super().draw(first, *rest)

    def describe(self):
        return GaussianTask(self.process).describe()  # the same work as without the failure


@pytest.mark.parametrize("ways, bulk", [((None, None), 7), ((None, False), 1), ((False, None), 7)])
def test_killed_and_resumed_whether_recorded_or_not(recorder, tmp_path, monkeypatch, ways, bulk):
    plan = replace(PLAN, bulk=bulk)
    whole = train(fresh(), TASK, plan, capture=False)
    monkeypatch.setattr(Interrupted, "at", 8 * (13 if bulk == 1 else 21))  # in bulk it is drawn a block ahead
    with pytest.raises(KeyboardInterrupt):
        train(fresh(), Interrupted(TASK.process), plan, tmp_path, save_every=5, capture=ways[0])
    monkeypatch.setattr(Interrupted, "at", None)
    resumed = train(fresh(), Interrupted(TASK.process), plan, tmp_path, save_every=5, capture=ways[1])
    assert resumed["loss"].equals(whole["loss"])


class Refuses(Remembered):
    "Cannot record, or notices before that a step waits for a number"

    def __init__(self, when):
        super().__init__()
        self.when = when

    def rehearse(self, bodies, strict):
        super().rehearse(bodies, strict)
        if strict and self.when == "rehearsal":
            raise RuntimeError("called a synchronizing CUDA operation\nand more")

    def record(self, bodies):
        raise RuntimeError("operation not permitted when stream is capturing")


@pytest.mark.parametrize(
    "when, why", [("rehearsal", r"\(called a synchronizing CUDA operation\)"), ("record", "not permitted")]
)
def test_what_cannot_be_recorded_is_run_as_it_is_and_said(monkeypatch, when, why):
    plain = train(fresh(), TASK, PLAN)
    monkeypatch.setattr("l2m.steps.recorder_of", lambda device: Refuses(when))
    with pytest.warns(UserWarning, match=f"cannot be captured as a graph and is run as it is, slower .*{why}"):
        assert train(fresh(), TASK, PLAN)["loss"].equals(plain["loss"])
    with pytest.warns(UserWarning, match="cannot be captured"):
        assert train_together([fresh(), fresh()], TASK, [PLAN, PLAN])[1]["loss"].equals(plain["loss"])


def test_a_step_that_fails_half_way_through_the_rehearsal_leaves_no_gradient(recorder, monkeypatch):
    plain = train(fresh(), TASK, PLAN, capture=False)
    step, calls = torch.optim.AdamW.step, []

    def fails_once(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("no")
        return step(*arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", fails_once)
    with pytest.warns(UserWarning, match="cannot be captured"):
        assert train(fresh(), TASK, PLAN)["loss"].equals(plain["loss"])


def test_a_capture_that_is_asked_for_where_there_is_none():
    with pytest.raises(ValueError, match="capture=True needs one process on CUDA, not 1 on 'cpu': leave it out"):
        train(fresh(), TASK, PLAN, capture=True)


def test_samples_of_another_shape_do_not_fit_a_recorded_step(recorder):
    class Grows(GaussianTask):
        def draw(self, first, n, *rest):
            return super().draw(first, n + (first >= 8 * 3), *rest)

    with pytest.raises(ValueError, match=r"draws \(5, 16, 2\) after \(4, 16, 2\).*pass capture=False"):
        train(fresh(), Grows(TASK.process), PLAN)


def test_attention_is_recorded_without_a_mask(recorder, monkeypatch):
    "While a graph is recorded transformers cannot look whether sequences are packed; it is told what it saw before."
    masks, attention = [], torch.nn.functional.scaled_dot_product_attention

    def watched(*arguments, attn_mask=None, **options):
        masks.append(attn_mask)
        return attention(*arguments, attn_mask=attn_mask, **options)

    class Captures(Remembered):
        def record(self, bodies):
            with monkeypatch.context() as patch:
                patch.setattr(masking_utils, "is_tracing", lambda tensor=None: True)
                super().rehearse(bodies, strict=True)  # what a stream that is capturing would see
            return super().record(bodies)

    ask = masking_utils.find_packed_sequence_indices
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    monkeypatch.setattr("l2m.steps.recorder_of", lambda device: Captures())
    train(fresh("llama"), TASK, replace(PLAN, steps=5))
    assert masks and all(mask is None for mask in masks)
    assert masking_utils.find_packed_sequence_indices is ask


def test_packed_sequences_are_asked_for_again():
    answers = []
    positions = torch.tensor([[0, 1, 0, 1]])
    look = lambda: answers.append(masking_utils.find_packed_sequence_indices(positions))
    captured([look], [], Remembered())()
    assert len(answers) == graphs._REHEARSALS + 2 and all(torch.equal(a, answers[0]) for a in answers)


def test_streams_are_not_needed_on_a_cpu():
    done = []
    result = graphs.ahead(lambda: done.append(1) or "found", torch.device("cpu"))
    assert done and result() == "found"
    assert graphs.recorder_of(torch.device("cpu")) is None


# Samples in bulk


def test_samples_in_bulk_are_those_of_their_block_wherever_a_run_begins():
    plan, place = replace(PLAN, steps=11, bulk=4), place_of(2, "cpu", None)
    whole = [_Samples(TASK, plan, place).parts(step) for step in range(11)]  # each by itself
    for start in (0, 3, 4, 6, 10):
        samples = _Samples(TASK, plan, place)
        for step in range(start, 11):
            for part, other in zip(samples.parts(step), whole[step], strict=True):
                assert all(torch.equal(a, b) and len(a) == 4 for a, b in zip(part, other, strict=True))
    values = {tuple(part[0].flatten().tolist()) for parts in whole for part in parts}
    assert len(values) == 22


def test_samples_in_bulk_do_not_depend_on_the_number_of_processes():
    plan, place = replace(PLAN, microbatches=4, bulk=3), place_of(4, "cpu", None)
    world = lambda i: type("World", (), {"num_processes": 2, "process_index": i})()
    halves = [_Samples(TASK, plan, replace(place, world=world(i))).parts(7) for i in range(2)]
    whole = _Samples(TASK, plan, place).parts(7)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(halves[0] + halves[1], whole, strict=True))


def test_every_window_of_a_text_is_used_once_in_bulk():
    used = []

    class Watched(TextTask):
        def scores(self, model, batch):
            used.append(batch[0].clone())
            return super().scores(model, batch)

    train(
        build_model("gpt2", length=2, vocabulary=24),
        Watched(torch.arange(24).view(12, 2), 24),
        Plan(3, 4, 0.01, warmup=1, bulk=2),
    )
    assert torch.cat(used).flatten().tolist() == list(range(24))


def test_bulk_needs_a_row_a_sequence():
    class Shared(GaussianTask):
        def draw(self, first, n, generator, device):
            z, means, stds = super().draw(first, n, generator, device)
            return z, means, stds[0]

    with pytest.raises(
        ValueError, match=r"shape \(16, 1\) for 24 sequences: give each tensor one row per sequence, or choose bulk=1"
    ):
        train(fresh(), Shared(TASK.process), replace(PLAN, bulk=3))
    with pytest.raises(ValueError, match="bulk is 0"):
        replace(PLAN, bulk=0)


def test_settings_that_came_later_do_not_rename_runs_made_before():
    kept = identity(fresh(), TASK, PLAN)
    assert not {"bulk", "tf32"} & set(kept)
    changed = identity(fresh(), TASK, replace(PLAN, bulk=2, tf32=True))
    assert {k: changed.pop(k) for k in ("bulk", "tf32")} == {"bulk": 2, "tf32": True} and changed == kept
    json.dumps(changed)


# Runs together


PLANS = [replace(PLAN, seed=seed, learning_rate=rate) for seed, rate in ((0, 0.01), (1, 0.01), (0, 0.003))]


@pytest.fixture(scope="module")
def alone():
    return [train(fresh(seed=i), TASK, plan) for i, plan in enumerate(PLANS)]


@pytest.mark.parametrize("way", ["plain", "recorded"])
def test_runs_together_have_the_bits_of_runs_alone(way, alone, request, tmp_path):
    recorder = request.getfixturevalue("recorder") if way == "recorded" else None
    folders = [tmp_path / "a", None, tmp_path / "c"]
    curves = train_together([fresh(seed=i) for i in range(3)], TASK, PLANS, folders)
    assert all(found["loss"].equals(one["loss"]) for found, one in zip(curves, alone))
    assert all((folder / "checkpoint.safetensors").exists() for folder in folders if folder)
    assert recorder is None or recorder.recorded == [3]


def test_runs_at_different_steps_are_trained_together(recorder, alone, tmp_path, monkeypatch):
    folders = [tmp_path / "a", tmp_path / "b", tmp_path / "c"]
    monkeypatch.setattr(Interrupted, "at", 8 * 13)
    with pytest.raises(KeyboardInterrupt):
        train(fresh(seed=1), Interrupted(TASK.process), PLANS[1], folders[1], save_every=6)
    recorder.recorded.clear()
    curves = train_together([fresh(seed=i) for i in range(3)], TASK, PLANS, folders, save_every=7)
    assert all(found["loss"].equals(one["loss"]) for found, one in zip(curves, alone))
    assert recorder.recorded == [3, 2]  # anew when the one that was ahead has come to its end


@pytest.mark.parametrize("way", ["plain", "recorded"])
def test_a_run_that_diverges_does_not_stop_the_others(way, alone, request, tmp_path):
    if way == "recorded":
        request.getfixturevalue("recorder")
    plans = [PLANS[0], replace(PLANS[1], learning_rate=1e9), PLANS[2]]
    folders = [tmp_path / name for name in "abc"]
    with pytest.raises(
        Diverged, match=r"run 1 \(counted from 0\): loss .* lower learning_rate; the other 2 of 3 runs are finished"
    ):
        train_together([fresh(seed=i) for i in range(3)], TASK, plans, folders, save_every=5)
    again = train_together([fresh(), fresh()], TASK, [plans[0], plans[2]], [folders[0], folders[2]])
    assert again[0]["loss"].equals(alone[0]["loss"]) and again[1]["loss"].equals(alone[2]["loss"])


@pytest.mark.parametrize(
    "change, message",
    [
        (
            dict(plans=[PLAN, replace(PLAN, batch=4)]),
            "differ in batch, 8 and 4: only seed and learning_rate may differ",
        ),
        (dict(plans=[PLAN]), "2 models, 1 plans, 2 folders: give one of each"),
        (dict(models=[], plans=[]), "0 models, 0 plans, 0 folders: give one of each for every run, at least one"),
        (dict(folders=["a"]), "2 models, 2 plans, 1 folders"),
        (dict(folders=["a", "a"]), "two of the runs share a model or a folder"),
    ],
)
def test_what_is_not_one_configuration_is_refused(change, message):
    given = dict(models=[fresh(), fresh()], plans=[PLAN, PLAN]) | change
    with pytest.raises(ValueError, match=message):
        train_together(given["models"], TASK, given["plans"], given.get("folders"))


def test_a_model_is_trained_once():
    with pytest.raises(ValueError, match="two of the runs share a model or a folder: give each its own"):
        train_together([fresh()] * 2, TASK, [PLAN, PLAN])


# Studies


def made(folder, **options):
    "A study of two models at two lengths"
    trial = lambda length: Trial(
        {"length": length},
        GaussianTask(SubvolumeGaussian.of_length(length, copies=2)),
        Plan(22, 4, 0.5, warmup=1),
        20,
        10,
    )
    build = lambda model, trial, **where: build_model(model, length=trial.labels["length"], copies=2, **where)
    usual = dict(rates=[0.003, 0.006, 0.01], tuning_steps=12, tuned_on=1, seeds=(0, 1, 2))
    return study(build, ["gpt2", "llama"], [trial(4), trial(16)], Store(folder, {}), **usual | options)


def same(one, other):
    assert [o.place for o in one.outcomes] == [o.place for o in other.outcomes] and one.rates == other.rates
    assert one.tuning.equals(other.tuning)
    for a, b in zip(one.outcomes, other.outcomes):
        assert a.table.drop("seconds").equals(b.table.drop("seconds")) and a.losses["loss"].equals(b.losses["loss"])


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    return made(tmp_path_factory.mktemp("usual"))


@pytest.mark.parametrize("together", [2])
def test_a_study_of_runs_together_has_the_same_tables(usual, recorder, tmp_path, together):
    found = made(tmp_path, together=together)
    same(found, usual)
    assert found.missing == [] and max(recorder.recorded) == min(together, 3)


class Clock:
    "Goes on a second each time that somebody looks"

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1
        return self.now


@pytest.mark.parametrize("together", [1, 2])
def test_a_study_stops_when_the_time_is_over_and_goes_on(usual, tmp_path, monkeypatch, together):
    monkeypatch.setattr("l2m.study.perf_counter", (clock := Clock()))
    monkeypatch.setattr("l2m.training.perf_counter", clock)
    with pytest.raises(
        OutOfTime, match="no run was finished within 5 seconds: the same call with the store '.*' goes on"
    ):
        made(tmp_path, together=together, until=5)
    assert together > 1 or list(tmp_path.glob("*.run/checkpoint.safetensors"))  # a run was stopped on its way
    calls, missing = 1, [None]
    while missing:
        try:
            found = made(tmp_path, together=together, until=30)
            assert len(found.missing) <= len(missing) or missing == [None]
            assert len(found.missing) + len(found.outcomes) + (len(found.tuning)) == 12 + 6
            missing = found.missing
        except OutOfTime:
            pass
        calls += 1
        assert calls < 100
    same(found, usual)
    assert calls > 2 and not list(tmp_path.glob("*.run"))


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    made(tmp_path, seeds=[0])
    found = made(tmp_path, seeds=[0, 1], until=0)
    assert [o.plan.seed for o in found.outcomes] == [0] * 4 and len(found.missing) == 4
    assert found.missing[1].startswith("llama, length 4, seed 1, 22 steps, rate 0.0")
