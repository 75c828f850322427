"Work on a Ray cluster: the same bytes as here, whoever dies meanwhile, and one clear error for what cannot work."

import copy
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import count, cycle
from pathlib import Path

import psutil
import pytest
import torch

import l2m.engines
from l2m.bipartite import groups_of, measure_bipartite
from l2m.engines import RayEngine, known_engine
from l2m.interface import Needs
from l2m.passes import Scoring
from l2m.scoring import SequenceScorer
from l2m.stores import Unfinished
from l2m.windows import Windows

ray = pytest.importorskip("ray", reason="a cluster needs pip install 'l2m-scaling[cluster]'")
from ray.cluster_utils import Cluster

SHARDS = 8


@dataclass(frozen=True)
class Witness(SequenceScorer):
    "A loaded die that writes down what it computes, takes its time, waits for others, dies or errs as its orders say."

    folder: Path
    name, vocabulary, fingerprint = "witness", 1000, "a loaded die"

    def logprobs(self, contexts, continuations=()):
        orders, first = self.orders, int(contexts[0, 0])
        with open(self.folder / "diary", "a") as file:
            file.write(f"{os.getpid()} {first}\n")
        time.sleep(orders.get("pause", 0))
        while len({pid for pid, _ in self.diary}) < orders.get("together", 0):
            time.sleep(0.05)
        if first == orders.get("fatal") and (orders["always"] or self.computed[first] == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().logprobs(contexts, continuations)

    def token_logprobs(self, tokens):
        nats = ((1 + tokens) / 500_500).log().double()
        return nats * torch.nan if self.orders.get("wrong") else nats

    @property
    def orders(self):
        return json.loads((self.folder / "orders").read_text())

    def order(self, afresh=True, **orders):
        "Orders for every process, and an empty diary"
        (self.folder / "orders").write_text(json.dumps(orders))
        if afresh:
            (self.folder / "diary").write_text("")
        return self

    @property
    def diary(self):
        return [tuple(map(int, line.split())) for line in (self.folder / "diary").read_text().splitlines()]

    @property
    def computed(self):
        return Counter(first for _, first in self.diary)


def windows():
    tokens = torch.randint(1000, (2 * SHARDS, 8), generator=torch.Generator().manual_seed(0))
    tokens[::2, 0] = torch.arange(SHARDS)  # tells shards apart
    ones = torch.ones_like(tokens, dtype=torch.int32)
    return Windows(tokens, [str(i) for i in range(len(tokens))], [0] * len(tokens), ones, "test", "0", "ids")


def measure(scorer, store, **options):
    return measure_bipartite(scorer, windows(), lengths=[4, 8], store=store, batch_size=2, **options)


def contents(store):
    return {path.name: path.read_bytes() for path in sorted(Path(store).iterdir())}


@pytest.fixture(scope="module")
def witness(tmp_path_factory):
    return Witness(tmp_path_factory.mktemp("witness")).order()


@pytest.fixture(scope="module")
def peaceful(witness, tmp_path_factory):
    "The store that this process fills alone"
    folder = tmp_path_factory.mktemp("peaceful")
    measure(witness.order(), folder)
    return contents(folder)


@pytest.fixture(scope="module")
def nodes():
    "A cluster of two nodes with a core each, on this machine, whose workers find this file"
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", paths)
        cluster = Cluster(True, head_node_args=dict(num_cpus=1, include_dashboard=False))
        yield cluster, cluster.add_node(num_cpus=1)
        ray.shutdown()
        cluster.shutdown()


class Kept:
    "An engine that sends nobody away: many tests with the same two workers."

    def __init__(self, run):
        self.run = run

    def hire(self, worker):
        return nullcontext(self.run)


@pytest.fixture(scope="module")
def kept(nodes, witness):
    ray.init(nodes[0].address, log_to_driver=False, logging_level="ERROR")
    everything = Scoring(witness, windows(), groups_of(windows().documents, 1)[1], Needs(True, 1), False)
    with RayEngine(workers=2, cpus=1).hire(everything) as run:
        yield Kept(run)


@pytest.mark.parametrize(
    "engine, message",
    [
        ("spark", "engine 'spark' is unknown: choose 'local', 'ray', 'auto', or an address"),
        ("http://host:6379", "engine 'http://host:6379' is unknown"),
        ("", "engine '' is unknown"),
        (3, "engine is 3, expected text or an Engine"),
    ],
)
def test_unknown_engines_are_refused(engine, message):
    with pytest.raises(ValueError, match=message):
        known_engine(engine)


def test_local_has_no_workers():
    with pytest.raises(ValueError, match="engine 'local' has no workers, and 2 were asked for"):
        known_engine("local", 2)


def test_without_ray_one_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(l2m.engines, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'l2m-scaling\[cluster\]'"):
        known_engine("ray")


def test_nobody_answers():
    with (
        pytest.raises(ConnectionError, match="no cluster answers at '127.0.0.1:1'"),
        known_engine("127.0.0.1:1").hire(lambda: None) as run,
    ):
        list(run([("a", 1)]))


@pytest.mark.parametrize("said", ["Failed to connect to Ray cluster at 10.0.0.1:6379", "ray client connection timeout"])
def test_a_cluster_that_wants_a_token(said):
    assert "RAY_AUTH_MODE=token" in l2m.engines._reason(ConnectionError(said), ray)


def test_filled_by_two_processes_and_finished_by_three(witness, peaceful, tmp_path):
    witness.order()
    for rank, world_size in ((1, 2), (2, 3), (0, 3)):
        with pytest.raises(Unfinished):
            measure(witness, tmp_path, rank=rank, world_size=world_size)
    measure(witness, tmp_path, rank=1, world_size=3)
    assert contents(tmp_path) == peaceful and set(witness.computed.values()) == {1}


def test_what_makes_the_scorer_is_used_where_the_work_is(witness, peaceful, tmp_path):
    "In this process as well; what returns no scorer is refused"
    measure(partial(Witness, witness.folder), tmp_path)
    assert contents(tmp_path) == peaceful
    with pytest.raises(ValueError, match="made by a function that returned None"):
        measure(lambda: None, None)


def test_workers_with_different_models_never_write_into_one_store(witness, tmp_path):
    class Two:
        "Two workers who take turns."

        @contextmanager
        def hire(self, worker):
            turns = cycle([worker(), worker()])
            yield lambda tasks: ((key, next(turns)(task)) for key, task in tasks)

    made = count(1)

    def scorer():
        object.__setattr__(found := Witness(witness.folder), "name", f"witness {next(made)}")
        return found

    with pytest.raises(ValueError, match=r"has another scorer \(name 'witness 2', not 'witness 1'\)"):
        measure(scorer, tmp_path, engine=Two())
    assert not list(tmp_path.glob("scores-*"))


def test_a_loaded_model_is_sent_as_the_call_that_loaded_it():
    from transformers import LlamaConfig, LlamaForCausalLM

    from l2m.scoring import LanguageModel

    config = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    scorer = LanguageModel(LlamaForCausalLM(config), None, "tiny", 0)
    sent = lambda scorer: copy.copy(Scoring(scorer, windows(), None, None, False)).scorer
    assert sent(scorer) is scorer
    scorer.recipe = partial(dict, bos=0)
    assert sent(scorer) is scorer.recipe and sent(scorer.with_bos(3)).keywords == {"bos": 3}


def test_a_cluster_of_another_version(nodes, monkeypatch):
    monkeypatch.setattr(ray, "__version__", "2.0.1")
    message = r"it has Ray \S+ and Python \S+, here are Ray 2.0.1 and Python \S+; install the same"
    with pytest.raises(ConnectionError, match=message), RayEngine(nodes[0].address).hire(lambda: None) as run:
        list(run([("a", 1)]))


DRIVER = """
import sys, l2m.bipartite, l2m.engines
assert "ray" not in sys.modules
from test_engines import Path, RayEngine, Witness, measure
measure(Witness(Path({folder!r})), {store!r}, engine=RayEngine({address!r}, workers=1))
"""


def test_the_driver_is_killed_and_started_with_other_workers(nodes, witness, peaceful, tmp_path, request):
    "One worker, which dies with its driver, and then two"
    witness.order(pause=0.5)
    script = DRIVER.format(folder=str(witness.folder), store=str(tmp_path), address=nodes[0].address)
    driver = subprocess.Popen([sys.executable, "-c", script])
    while len(list(tmp_path.glob("scores-*"))) < 2:
        assert driver.poll() is None
        time.sleep(0.05)
    driver.kill()
    driver.wait()
    [worker] = {pid for pid, _ in witness.diary}
    while psutil.pid_exists(worker) and psutil.Process(worker).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.05)
    assert 2 <= len(list(tmp_path.glob("scores-*"))) < SHARDS
    measure(witness, tmp_path, engine=request.getfixturevalue("kept"))
    assert contents(tmp_path) == peaceful and set(witness.computed) == set(range(SHARDS))
    assert witness.computed.total() <= SHARDS + 1


def test_two_workers_finish_what_this_process_began(kept, witness, peaceful, tmp_path):
    "The same bytes; each shard is computed once, and both take part"
    with pytest.raises(Unfinished):
        measure(witness.order(), tmp_path, rank=0, world_size=3)
    measure(witness.order(afresh=False, together=3), tmp_path, engine=kept)
    assert contents(tmp_path) == peaceful and witness.computed == Counter(range(SHARDS))
    pids = {pid for pid, _ in witness.diary}
    assert len(pids) == 3 and os.getpid() in pids


def test_nothing_is_started_for_nothing(kept, witness, peaceful, tmp_path):
    for name, data in peaceful.items():
        (tmp_path / name).write_bytes(data)
    measure(witness, tmp_path, engine=RayEngine(workers=50))  # there is no room for one of them
    assert contents(tmp_path) == peaceful and ray.is_initialized()


def test_an_error_of_the_work_is_that_error(kept, witness, tmp_path):
    with pytest.raises(FloatingPointError, match="^'witness' returned NaN for windows") as caught:
        measure(witness.order(wrong=True), tmp_path, engine=kept)
    assert len(str(caught.value).splitlines()) == 1 and caught.value.__cause__ is None


def test_a_worker_killed_in_a_shard(kept, witness, peaceful, tmp_path):
    measure(witness.order(pause=0.3, fatal=2, always=False), tmp_path, engine=kept)
    assert contents(tmp_path) == peaceful and witness.computed == Counter([*range(SHARDS), 2])


def test_a_shard_that_kills_every_worker(kept, witness, tmp_path, monkeypatch):
    monkeypatch.setattr(l2m.engines, "_CHANCES", 2)
    with pytest.raises(RuntimeError, match="2 workers died while they computed 'scores-000010'"):
        measure(witness.order(fatal=5, always=True), tmp_path, engine=kept)
    assert witness.computed[5] == 2


def test_a_node_is_removed(nodes, kept, witness, peaceful, tmp_path):
    "While its worker computes: the other one does the rest, and waits for nobody"
    cluster, node = nodes
    witness.order(pause=0.3)
    done = []

    def watched(tasks):
        for key, shard in kept.run(tasks):
            done.append(key)
            if len(done) == 3:
                cluster.remove_node(node, allow_graceful=False)
            yield key, shard

    measure(witness, tmp_path, engine=Kept(watched))
    assert contents(tmp_path) == peaceful and set(witness.computed) == set(range(SHARDS))
    assert witness.computed.total() <= SHARDS + 1
