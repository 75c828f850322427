"A store survives kills and refuses to mix."
import signal
import subprocess
import sys
import time

import polars as pl
import pytest

from l2m.stores import Store, fingerprint

TABLE = pl.DataFrame({"x": [1.0, 2.0]})


def test_shards_round_trip_and_resume(tmp_path):
    store = Store(tmp_path / "s", {"a": 1})
    assert "one" not in store
    store.write("one", TABLE)
    again = Store(tmp_path / "s", {"a": 1})
    assert "one" in again and again.read("one").equals(TABLE)
    assert Store.open(tmp_path / "s").parameters == {"a": 1}


@pytest.mark.parametrize("other", [{"a": 2}, {"a": 1, "b": 1}, {}])
def test_other_parameters_are_refused_by_name(tmp_path, other):
    Store(tmp_path, {"a": 1})
    with pytest.raises(ValueError, match=r"made with other parameters \([ab]: "):
        Store(tmp_path, other)


def test_a_folder_of_parquet_is_not_a_store(tmp_path):
    TABLE.write_parquet(tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="no manifest.json"):
        Store(tmp_path, {})


def test_a_shard_cut_short_is_named(tmp_path):
    store = Store(tmp_path, {})
    store.write("one", TABLE)
    path = tmp_path / "one.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="one.parquet.*delete it"):
        store.read("one")


def test_a_damaged_manifest_is_named(tmp_path):
    Store(tmp_path, {"a": 1})
    (tmp_path / "manifest.json").write_text('{"a": ')
    with pytest.raises(ValueError, match="not valid JSON"):
        Store(tmp_path, {"a": 1})


def test_killed_while_writing_never_leaves_half_a_shard(tmp_path):
    "A writer of one large shard is killed at many moments; the shard is absent or whole."
    script = "import sys, polars as pl; from l2m.stores import Store; import numpy as np\n" \
             "table = pl.DataFrame({'x': np.random.default_rng(0).random(1_000_000)})\n" \
             "store = Store(sys.argv[1], {}); print('go', flush=True)\nwhile True: store.write('big', table)"
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
    process.stdout.readline()
    for _ in range(3):
        time.sleep(0.05)
        if (tmp_path / "big.parquet").exists():
            assert Store(tmp_path, {}).read("big").height == 1_000_000
    process.send_signal(signal.SIGKILL)
    process.wait()
    if "big" in Store(tmp_path, {}):
        assert Store(tmp_path, {}).read("big").height == 1_000_000


def test_fingerprints_depend_on_the_boundaries_of_parts():
    assert fingerprint("ab", "c") != fingerprint("a", "bc")
    assert fingerprint("ab") == fingerprint(b"ab")
