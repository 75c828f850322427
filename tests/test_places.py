"Stores, corpora and scores on shared storage: by URL as by path, whole or not there, and one line for what cannot be reached."

import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid

import fsspec
import polars as pl
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from l2m.bipartite import load_scores, measure_bipartite
from l2m.corpora import load_corpus
from l2m.experiments import Experiment
from l2m.places import Url, place, writable, write_atomically
from l2m.plans import checkpoint_in
from l2m.processes import PolyaUrn, process_windows
from l2m.stores import Damaged, Store, check_stores
from l2m.study import study

TABLE = pl.DataFrame({"x": [1.0, 2.0]})


class Faraway(MemoryFileSystem):
    "Storage that shows half of what is being written, remembers listings, and can fail: neither a disk nor an object store."

    protocol, store, pseudo_dirs = "faraway", {}, [""]
    fault, seen = None, []

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(path.replace("faraway://", "memory://"))

    def info(self, path, **options):
        if Faraway.fault:
            raise Faraway.fault
        return super().info(path, **options)

    def pipe_file(self, path, value, **options):
        if Faraway.fault:
            raise Faraway.fault
        super().pipe_file(path, value[: len(value) // 2])
        Faraway.seen.append(sorted(self.store))
        super().pipe_file(path, value)


fsspec.register_implementation("faraway", Faraway, clobber=True)


@pytest.fixture(params=["memory", "faraway", "file"])
def bucket(request, tmp_path):
    "A folder of its own on each kind of storage, by URL."
    yield f"file://{tmp_path}/bucket" if request.param == "file" else f"{request.param}://{uuid.uuid4().hex}/run"
    Faraway.fault, Faraway.seen = None, []


def test_a_store_by_url_is_a_store(bucket):
    store = Store(bucket, {"a": 1})
    assert "one" not in store and store.keys() == []
    store.write("one", TABLE)
    again = Store(bucket, {"a": 1})
    assert "one" in again and again.keys() == ["one"] and again.read("one").equals(TABLE)
    assert Store.open(bucket).parameters == {"a": 1}
    with pytest.raises(ValueError, match=r"made with other parameters \(a: 1 there, 2 now\)"):
        Store(bucket, {"a": 2})
    with pytest.raises(FileNotFoundError, match="no store in"):
        Store.open(f"{bucket}/nowhere")
    Store(f"{bucket}/inner", {}).write("two", TABLE)
    check_stores(bucket), check_stores(f"{bucket}/nowhere")
    data = bytearray(again.path("one").read_bytes())
    data[50] ^= 1
    write_atomically(again.path("one"), bytes(data))
    with pytest.raises(Damaged, match="one.parquet': its checksum is wrong"):
        check_stores(bucket)
    again.path("one").unlink()
    assert "one" not in again


def test_nobody_sees_half_of_a_file():
    "Where half of a file can be seen, it has another name, which is no shard's."
    store = Store("faraway://bucket/halves", {})
    store.write("one", TABLE)
    shown = {name for names in Faraway.seen for name in names if name.endswith(".part")}
    assert shown and store.keys() == ["one"] and store.read("one").equals(TABLE)
    assert not any(name.endswith("one.parquet") for name in Faraway.seen[-1])
    assert not [name for name in Faraway.store if name.endswith(".part")]


def test_a_write_to_a_file_url_is_killed():
    "By `kill -9`, at many moments: the shard is absent or whole, and the next writer clears away what was left."
    script = (
        "import sys, polars as pl; from l2m.stores import Store; import numpy as np\n"
        "table = pl.DataFrame({'x': np.random.default_rng(0).random(500_000)})\n"
        "store = Store(sys.argv[1], {}); print('go', flush=True)\nwhile True: store.write('big', table)"
    )
    with tempfile.TemporaryDirectory() as folder:
        url = f"file://{folder}"
        for wait in (0.0, 0.03):
            child = subprocess.Popen([sys.executable, "-c", script, url], stdout=subprocess.PIPE)
            child.stdout.readline()
            time.sleep(wait)
            child.send_signal(signal.SIGKILL)
            child.wait(), child.stdout.close()
            if "big" in (store := Store(url, {})):
                assert store.read("big").height == 500_000
        store.write("small", TABLE)
        assert not list(place(url).glob(".*"))


def test_writers_of_one_name_leave_one_of_them_whole():
    shard, whole = place("memory://bucket/shared/x"), {bytes([i]) * 5000 for i in range(4)}
    writers = [threading.Thread(target=lambda d=d: [write_atomically(shard, d) for _ in range(20)]) for d in whole]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert not shard.exists() or shard.read_bytes() in whole
    assert shard.read_bytes() in whole


def test_scores_by_url_are_those_of_a_folder(bucket, tmp_path):
    urn = PolyaUrn()
    windows = process_windows(urn, 8, 20, torch.Generator().manual_seed(0))
    measure = lambda **more: measure_bipartite(urn, windows, lengths=[4, 8], batch_size=5, **more)
    scores, local = measure(store=bucket), measure(store=tmp_path / "local")
    assert (scores.joint == local.joint).all() and (load_scores(bucket).joint == local.joint).all()
    kept = {path.name: path.read_bytes() for path in (tmp_path / "local").glob("*.parquet")}
    assert {path.name: path.read_bytes() for path in place(bucket).glob("*.parquet")} == kept
    (place(bucket) / "scores-000005.parquet").unlink()
    assert (measure(store=bucket).joint == local.joint).all()


def test_a_corpus_by_url_is_that_of_a_folder(bucket, tmp_path):
    folder = tmp_path / "texts"
    (folder / "deep" / ".git").mkdir(parents=True)
    (folder / "a.txt").write_text("One.\r\nTwo.", encoding="utf-16")
    (folder / "deep" / "b.jsonl").write_text('{"title": "fox", "text": "Three é."}\n{"text": "Four."}\n')
    (folder / "deep" / ".git" / "c.txt").write_text("An older state.")
    pl.DataFrame({"id": [8, 9], "text": ["Five.", "Six."]}).write_parquet(folder / "d.parquet")
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        target = place(f"{bucket}/{path.relative_to(folder)}")
        writable(target.parent)
        write_atomically(target, path.read_bytes())
    local, far = load_corpus(str(folder)), load_corpus(bucket)
    assert list(far) == list(local) and len(list(far)) == 5 and far.fingerprint == local.fingerprint
    assert load_corpus(f"{bucket}/*.parquet").fingerprint == load_corpus(str(folder / "d.parquet")).fingerprint
    assert [document.id for document in load_corpus(f"{bucket}/deep/*.jsonl")] == ["fox", "b:2"]
    assert len(list(load_corpus(f"{bucket}/*/b.jsonl", documents=1))) == 1
    with pytest.raises(FileNotFoundError, match="nothing lies at .*nowhere"):
        load_corpus(f"{bucket}/nowhere")
    with pytest.raises(ValueError, match="nothing readable in .*found nothing"):
        load_corpus(f"{bucket}/*.csv")
    with pytest.raises(ValueError, match=r"line 1 of .*b.jsonl'|no column 'body'"):
        load_corpus(f"{bucket}/deep", column="body")


class NoCredentialsError(Exception):
    pass


@pytest.mark.parametrize(
    "call",
    [
        lambda url: writable(url),
        lambda url: Store(url, {}),
        lambda url: load_corpus(url),
        lambda url: check_stores(url + "/manifest") or Store.open(url),
    ],
)
@pytest.mark.parametrize("fault", [NoCredentialsError("Unable to locate credentials"), PermissionError("Forbidden")])
def test_storage_without_credentials_is_one_line(call, fault):
    Faraway.fault = fault
    try:
        with pytest.raises(OSError, match=r"'faraway://bucket.* cannot be \w+ \((NoC|Perm)\w+: .*\): check") as caught:
            call("faraway://bucket/closed")
        assert "\n" not in str(caught.value)
    finally:
        Faraway.fault = None


@pytest.mark.parametrize(
    "url, message",
    [
        ("s4://bucket/run", "unknown scheme 's4': choose a folder, file://, s3://, gs://"),
        ("simplecache::s3://bucket/run", "unknown scheme 'simplecache::s3'"),
        ("memory://", "names no bucket: write memory://bucket/folder"),
        ("gs://bucket/run", "needs a package that is not installed: pip install gcsfs"),
    ],
)
def test_urls_of_no_known_kind_are_refused_at_once(url, message, monkeypatch):
    if url.startswith("gs"):  # whether it is installed here or not
        monkeypatch.setitem(sys.modules, "gcsfs", None)
        monkeypatch.setattr(sys.modules["fsspec.registry"], "_registry", {})
    for call in (place, load_corpus, check_stores, lambda url: Store(url, {})):
        with pytest.raises(ValueError, match=message):
            call(url)
    windows = process_windows(PolyaUrn(), 8, 20, torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=message):
        measure_bipartite(PolyaUrn(), windows, lengths=[8], store=url)


def test_what_needs_a_folder_says_so():
    with pytest.raises(
        ValueError, match="results, .* cannot lie at 'memory://bucket/out': give a folder of this machine"
    ):
        Experiment("gaussian_families", {"output": "memory://bucket/out"})
    with pytest.raises(ValueError, match="a run's checkpoint cannot lie at 'memory://bucket/run'"):
        checkpoint_in("memory://bucket/run", None, None, None)
    with pytest.raises(ValueError, match="a store of trained models, .* cannot lie at 'memory://bucket/models'"):
        study(print, [], [], Store("memory://bucket/models", {}), rates=[0.1], tuning_steps=1)


def test_a_url_is_a_value():
    url = Url("memory", place("memory://bucket/a/b.txt").path)
    assert (url.name, url.stem, url.suffix, str(url.parent)) == ("b.txt", "b", ".txt", "memory://bucket/a")
    assert url == place(url) and {url: 1}[place(str(url))] == 1 and json.dumps(str(url))
