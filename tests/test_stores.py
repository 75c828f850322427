"A store survives kills and full disks, finds what was damaged, and refuses to mix."

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import polars as pl
import pytest

from l2m.stores import (
    Damaged,
    Store,
    check_stores,
    fingerprint,
    read_shards,
    seal,
    unseal,
    versions,
    writable,
    write_atomically,
)

TABLE = pl.DataFrame({"x": [1.0, 2.0]})
PART = f".{'0' * 32}.part"


def test_shards_round_trip_and_resume(tmp_path):
    store = Store(tmp_path / "s", {"a": 1})
    assert "one" not in store and store.keys() == []
    store.write("one", TABLE)
    again = Store(tmp_path / "s", {"a": 1})
    assert "one" in again and again.read("one").equals(TABLE) and again.keys() == ["one"]
    assert Store.open(tmp_path / "s").parameters == {"a": 1}


@pytest.mark.parametrize("other", [{"a": 2}, {"a": 1, "b": 1}, {}, {"a": 1, "b": None}])
def test_other_parameters_are_refused_by_name(tmp_path, other):
    Store(tmp_path, {"a": 1})
    with pytest.raises(ValueError, match=r"made with other parameters \([ab]: "):
        Store(tmp_path, other)


def test_a_folder_of_parquet_is_not_a_store(tmp_path):
    TABLE.write_parquet(tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="no manifest.json"):
        Store(tmp_path, {})


@pytest.mark.parametrize("content", [b'{"a": ', b"\xff\xfe{}", b"", b"[1]", b"3"])
def test_a_damaged_manifest_is_named(tmp_path, content):
    Store(tmp_path, {"a": 1})
    (tmp_path / "manifest.json").write_bytes(content)
    for start in (lambda: Store(tmp_path, {"a": 1}), lambda: Store.open(tmp_path)):
        with pytest.raises(
            ValueError,
            match="manifest.json' (is not valid JSON|holds no parameters).*delete the folder or restore the file",
        ):
            start()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda folder: Store("", {}), "a store needs a folder"),
        (lambda folder: Store(3, {}), "Store: folder is 3, expected text or a Path"),
        (lambda folder: Store(folder, [1]), r"Store: parameters is \[1\], expected a dict"),
        (lambda folder: Store(folder, {"a": float("nan")}), "must be JSON values, and finite"),
        (lambda folder: Store(folder, {"a": {1}}), "must be JSON values"),
        (lambda folder: Store(folder, {}).write("a/b", TABLE), "shard 'a/b' is no name of a file"),
        (lambda folder: Store(folder, {}).write("", TABLE), "shard '' is no name"),
        (
            lambda folder: Store(folder, {}).write("one", TABLE["x"]),
            "table is a polars.Series of shape .*, expected a polars.DataFrame",
        ),
        (lambda folder: Store(folder, {}).write(1, TABLE), "key is 1, expected text"),
        (lambda folder: write_atomically(folder / "x", "text"), "data is 'text', expected a bytes"),
        (lambda folder: Store.open(None), "folder is None"),
    ],
)
def test_nonsense_is_refused_and_leaves_nothing(tmp_path, call, message):
    with pytest.raises(ValueError, match=message):
        call(tmp_path / "s")
    assert not list(tmp_path.rglob("*.parquet"))


# Damage


def test_no_change_of_a_byte_goes_unnoticed():
    data = seal(TABLE, {"shard": "one"})
    assert unseal(data, {"shard": "one"}).equals(TABLE) and pl.read_parquet(data).equals(TABLE)
    changed = [data[:i] + bytes([data[i] ^ 1 << i % 8]) + data[i + 1 :] for i in range(len(data))]
    changed += [data[:i] for i in range(0, len(data), 7)] + [data + b"?", data[1:], data + data]
    for other in changed:
        with pytest.raises(ValueError, match="checksum"):
            unseal(other, {"shard": "one"})


def test_a_seal_belongs_to_a_name_and_a_manifest(tmp_path):
    stores = [Store(tmp_path / str(a), {"a": a}) for a in (1, 2)]
    for store in stores:
        store.write("one", TABLE)
    shutil.copy(tmp_path / "1" / "one.parquet", tmp_path / "1" / "two.parquet")
    shutil.copy(tmp_path / "2" / "one.parquet", tmp_path / "1" / "one.parquet")
    with pytest.raises(
        ValueError, match="two.parquet': it belongs to shard 'one', not 'two'.*delete it and start again"
    ):
        stores[0].read("two")
    with pytest.raises(ValueError, match="one.parquet': it belongs to manifest.json"):
        stores[0].read("one")


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-20]),
        lambda path: path.write_bytes(b""),
        lambda path: TABLE.write_parquet(path),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: path.write_bytes(os.urandom(1000)),
    ],
    ids=["cut short", "empty", "rewritten", "a folder", "noise"],
)
def test_a_damaged_shard_is_named(tmp_path, damage):
    store = Store(tmp_path, {})
    store.write("one", TABLE)
    damage(tmp_path / "one.parquet")
    with pytest.raises(Damaged, match="^one damaged shard .*one.parquet.*delete it and start again"):
        store.read("one")


def test_all_damaged_shards_are_named_at_once(tmp_path):
    "In one store, and in all stores of a folder."
    stores = [Store(tmp_path / name, {}) for name in "ab"]
    for store in stores:
        for i in range(9):
            store.write(f"{i}", TABLE)
        for i in range(4):
            store.path(f"{i}").write_bytes(b"?")
    with pytest.raises(Damaged, match="4 damaged shards .*/a/0.parquet': .*/a/3.parquet': .*delete them") as error:
        read_shards(stores[0], stores[0].keys())
    assert list(error.value.faults) == [stores[0].path(f"{i}") for i in range(4)]
    with pytest.raises(Damaged, match="8 damaged shards .*and 3 more") as error:
        check_stores(tmp_path)
    for path in error.value.faults:
        path.unlink()
    check_stores(tmp_path), check_stores(tmp_path / "a"), check_stores(tmp_path / "nowhere")
    assert list(read_shards(stores[0], [f"{i}" for i in range(9)])) == [f"{i}" for i in range(4, 9)]


# Places


@pytest.mark.parametrize(
    "name",
    [
        "out [v2]",
        "run*",
        "run?",
        "[",
        "{a,b}",
        "~",
        "~root",
        "file:x",
        "hf:",
        "s3:",
        "a%20b",
        "#",
        "new\nline",
        "'\"",
        "\\",
        "naïve",
        os.fsdecode(b"\xe9t\xe9"),
        "x.parquet",
        "n" * 255,
    ],
)
def test_any_path_will_do(tmp_path, monkeypatch, name):
    "Absolute and relative; what a pattern would match beside it is never read."
    monkeypatch.chdir(tmp_path)
    for beside in ("run1", "out v"):
        Store(beside, {}).write("one", TABLE.with_columns(x=0.0))
    for folder in (Path(name), tmp_path / name):
        store = Store(folder, {"folder": name})
        store.write("one", TABLE)
        assert Store.open(folder).read("one").equals(TABLE) and store.keys() == ["one"]
    check_stores(tmp_path)
    write_atomically(tmp_path / "run1" / ("t" * 247 + ".parquet"), b"as long as names may be")


@pytest.mark.parametrize("place", ["file", "file/below", "link", "/proc/none/at/all"])
def test_a_place_that_cannot_be_written_is_named(tmp_path, place):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("nowhere/at/all")
    for start in (
        lambda: writable(tmp_path / place),
        lambda: Store(tmp_path / place, {}),
        lambda: write_atomically(tmp_path / place / "x", b""),
    ):
        with pytest.raises(OSError, match=f"{place}.* cannot be written .*choose another place") as error:
            start()
        assert error.value.errno
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "link"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_of_others_is_named_but_can_be_read(tmp_path):
    Store(tmp_path, {}).write("one", TABLE)
    tmp_path.chmod(0o555)
    with pytest.raises(PermissionError, match="cannot be written .Permission denied"):
        writable(tmp_path)
    assert Store(tmp_path, {}).read("one").equals(TABLE)


def test_missing_folders_are_made(tmp_path):
    assert writable(tmp_path / "a" / "b").is_dir() and Store(tmp_path / "c" / "d", {}).folder.is_dir()
    assert not list((tmp_path / "a" / "b").iterdir())


@pytest.mark.parametrize("step", ["os.fsync", "os.replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_names_the_file_and_leaves_what_was_there(tmp_path, monkeypatch, step, number):
    store = Store(tmp_path, {})
    store.write("one", TABLE)

    def fail(*_):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as full:
        full.setattr(step, fail)
        for key in ("one", "two"):
            with pytest.raises(
                OSError, match=f"{key}.parquet' cannot be written .{os.strerror(number)}.*make room"
            ) as error:
                store.write(key, TABLE.head(1))
            assert error.value.errno == number
    assert sorted(p.name for p in tmp_path.iterdir()) == ["manifest.json", "one.parquet"] and store.read("one").equals(
        TABLE
    )


def test_a_file_that_outgrows_its_limit_is_named(tmp_path):
    "The system itself refuses, in the middle of the write."
    script = (
        "import resource, sys, polars as pl; from l2m.stores import Store\nstore = Store(sys.argv[1], {})\nstore.write('small', pl.DataFrame({'x': [1]}))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\nstore.write('large', pl.select(x=pl.int_range(10**5).shuffle(0)))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)
    assert "large.parquet' cannot be written (File too large)" in done.stderr.splitlines()[-1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["manifest.json", "small.parquet"]


# Kills, and many processes


def test_killed_while_writing_never_leaves_half_a_shard(tmp_path):
    "A writer of one large shard is killed at many moments; the shard is absent or whole, and nothing piles up."
    script = (
        "import sys, polars as pl; from l2m.stores import Store; import numpy as np\n"
        "table = pl.DataFrame({'x': np.random.default_rng(0).random(1_000_000)})\n"
        "store = Store(sys.argv[1], {}); print('go', flush=True)\nwhile True: store.write('big', table)"
    )
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
    Store(tmp_path, {}).write("small", TABLE)
    assert not list(tmp_path.glob(".*"))


def test_what_is_left_over_goes_and_what_is_being_written_stays(tmp_path):
    for name in (PART, ".mine.part", "other.part"):
        (tmp_path / name).write_bytes(b"half")
    with open(tmp_path / PART, "rb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        write_atomically(tmp_path / "x", b"whole")
        assert (tmp_path / PART).exists()
    write_atomically(tmp_path / "x", b"whole")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".mine.part", "other.part", "x"]


def test_writers_never_take_each_others_part_for_left_over(tmp_path):
    "Eight writers of one file, and readers between them: every write succeeds, every read is whole."
    whole, faults = {bytes([i]) * 5000 for i in range(8)}, []

    def write(data):
        try:
            for _ in range(40):
                write_atomically(tmp_path / "x", data)
                if (tmp_path / "x").read_bytes() not in whole:
                    faults.append("half")
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=write, args=(data,)) for data in whole]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults and [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_part_that_was_taken_for_left_over_is_written_again(tmp_path, monkeypatch):
    sync, seen = os.fsync, []

    def steal(file):
        sync(file)
        if not seen:
            seen.extend(part.unlink() or part.name for part in tmp_path.glob(".*.part"))

    monkeypatch.setattr("os.fsync", steal)
    write_atomically(tmp_path / "x", b"whole")
    assert (
        len(seen) == 1 and [p.name for p in tmp_path.iterdir()] == ["x"] and (tmp_path / "x").read_bytes() == b"whole"
    )


def test_a_part_that_is_locked_by_who_tidies_is_given_up(tmp_path, monkeypatch):
    "Its lock comes between the opening of a part and our lock, its removal just before our renaming."
    lock, replace, taken = fcntl.flock, os.replace, []

    def overtaken(file, how):
        if not taken:
            taken.append(open(next(tmp_path.glob(".*.part")), "rb+"))
            lock(taken[0], how)
        return lock(file, how)

    def removed(part, path):
        if str(part) == taken[0].name:
            part.unlink()
        return replace(part, path)

    monkeypatch.setattr("fcntl.flock", overtaken)
    monkeypatch.setattr("os.replace", removed)
    write_atomically(tmp_path / "x", b"whole")
    taken[0].close()
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("x", b"whole")]


def test_whoever_makes_a_store_first_decides(tmp_path, monkeypatch):
    "Another process puts its manifest there in the instant between the look and the write."
    from l2m import stores

    def slow(folder):
        monkeypatch.undo()
        Store(folder, {"a": 2})
        shutil.copy(tmp_path / "s" / "manifest.json", tmp_path / "kept")
        return Path(folder)

    monkeypatch.setattr(stores, "writable", slow)
    mine = Store(tmp_path / "s", {"a": 1})  # the last rename wins; the manifest that is read back counts
    mine.write("one", TABLE)
    with pytest.raises(ValueError, match="a: 1 there, 2 now"):
        Store(tmp_path / "s", {"a": 2})
    shutil.copy(tmp_path / "kept", tmp_path / "s" / "manifest.json")
    with pytest.raises(Damaged, match="belongs to manifest.json"):
        Store(tmp_path / "s", {"a": 2}).read("one")


def test_fingerprints_depend_on_the_boundaries_of_parts():
    assert fingerprint("ab", "c") != fingerprint("a", "bc")
    assert fingerprint("ab") == fingerprint(b"ab")
    assert fingerprint("\udce9") != fingerprint("?")


def test_versions_name_this_package_and_those_it_is_asked_for():
    assert list(versions("polars")) == ["l2m", "polars"] and versions("polars")["polars"] == pl.__version__
    assert json.loads(json.dumps(versions("torch")))
