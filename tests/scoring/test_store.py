"""The store of token statistics: what goes in comes out bit for bit, and what is damaged is never believed."""

import errno
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimir_jax.arrays import DTYPES, TokenStats
from mimir_jax.scoring import store as store_module
from mimir_jax.scoring.store import Store, StoreError


def random_stats(time: int, seed: int = 0) -> TokenStats:
    """Any bits at all: NaNs with payloads, infinities, subnormals, minus zero."""
    rng = np.random.default_rng(seed)
    return TokenStats(
        *(
            rng.random(time) < 0.5
            if dtype is np.bool_
            else rng.integers(0, 256, (time, np.dtype(dtype).itemsize), np.uint8).view(dtype)[:, 0]
            for dtype in DTYPES
        )
    )


def assert_same(found: TokenStats, expected: TokenStats) -> None:
    for ours, theirs, dtype in zip(found, expected, DTYPES):
        assert ours.dtype == dtype
        assert ours.shape == theirs.shape
        assert np.ascontiguousarray(ours).tobytes() == theirs.tobytes()


def filled(folder: str | Path, *lengths: int) -> dict[str, TokenStats]:
    """A folder with one shard of so many passes."""
    stats = {f"key{i}": random_stats(length, seed=i) for i, length in enumerate(lengths)}
    store = Store(folder)
    for key, one in stats.items():
        store.put(key, one)
    store.close()
    return stats


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet"))


def test_new_folder_is_made_and_empty(tmp_path: Path) -> None:
    store = Store(tmp_path / "results" / "stats")
    assert (tmp_path / "results" / "stats").is_dir()
    assert store.get(["key"]) == {}
    assert store.damaged == []


def test_put_is_found_at_once_and_after_reopening(tmp_path: Path) -> None:
    stats = random_stats(5)
    store = Store(tmp_path)
    store.put("key", stats)
    assert_same(store.get(["other", "key"])["key"], stats)
    assert Store(tmp_path).get(["key"]) == {}  # not on disk yet
    store.close()
    assert list(Store(tmp_path).get(["other", "key"])) == ["key"]


@given(st.lists(st.integers(0, 40), max_size=12), st.integers(0, 2**32 - 1))
def test_ragged_round_trip(lengths: list[int], seed: int) -> None:
    stats = {f"key{i}": random_stats(length, seed=seed + i) for i, length in enumerate(lengths)}
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        for i, (key, one) in enumerate(stats.items()):
            store.put(key, one)
            if i % 5 == 4:  # several shards
                store.close()
        store.close()
        reopened = Store(Path(folder))
        assert reopened.damaged == []
        found = reopened.get(stats)
        assert list(found) == list(stats)
        for key, one in stats.items():
            assert_same(found[key], one)


def test_the_last_put_of_a_key_counts(tmp_path: Path) -> None:
    for seed in (1, 2):
        store = Store(tmp_path)
        store.put("key", random_stats(3, seed=seed))
        store.close()
    assert len(shards(tmp_path)) == 2
    assert_same(Store(tmp_path).get(["key"])["key"], random_stats(3, seed=2))


def test_close_writes_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.close()
    assert shards(tmp_path) == []
    store.put("key", random_stats(3))
    store.close()
    store.close()
    assert len(shards(tmp_path)) == 1
    store.put("another", random_stats(3))
    store.close()
    assert len(shards(tmp_path)) == 2
    assert set(Store(tmp_path).get(["key", "another"])) == {"key", "another"}


def test_a_shard_is_written_when_it_is_old_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(store_module, "time", SimpleNamespace(monotonic=lambda: now, time_ns=time.time_ns))
    store = Store(tmp_path)
    written = []
    for step, key in enumerate("abcd"):
        now = 100 + 0.6 * store_module.SECONDS * step
        store.put(key, random_stats(2, seed=step))
        written.append(len(shards(tmp_path)))
    assert written == [0, 0, 1, 1]  # d belongs to the next one, which is young
    assert set(Store(tmp_path).get("abcd")) == set("abc")
    store.close()
    assert set(Store(tmp_path).get("abcd")) == set("abcd")


def test_stores_on_one_folder_do_not_lose_each_others_shards(tmp_path: Path) -> None:
    stores = [Store(tmp_path) for _ in range(3)]
    for round_ in range(2):
        for i, store in enumerate(stores):
            store.put(f"{round_}{i}", random_stats(4, seed=10 * round_ + i))
            store.put("shared", random_stats(4, seed=99))
        for store in stores:
            store.close()
    assert len(shards(tmp_path)) == 6
    together = Store(tmp_path)
    for round_ in range(2):
        for i in range(3):
            assert_same(together.get([f"{round_}{i}"])[f"{round_}{i}"], random_stats(4, seed=10 * round_ + i))
    assert_same(together.get(["shared"])["shared"], random_stats(4, seed=99))


def test_unfinished_shards_are_ignored(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    whole = shards(tmp_path)[0]
    unfinished = tmp_path / "00000000000000000001-00000000.partial"
    unfinished.write_bytes(whole.read_bytes()[:100])
    store = Store(tmp_path)
    assert store.damaged == []
    assert set(store.get(["key0"])) == {"key0"}
    assert unfinished.exists()


def test_a_full_disk_is_named_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    store.put("key", random_stats(3))

    def full(self: object, path: str, data: bytes) -> None:
        Path(path).write_bytes(data[:4])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(type(store._files), "pipe_file", full)
        with pytest.raises(StoreError, match=f"{tmp_path}.*No space left on device.*what is in it stays"):
            store.close()
    assert list(tmp_path.iterdir()) == []
    store.close()
    assert_same(Store(tmp_path).get(["key"])["key"], random_stats(3))


def test_a_folder_that_cannot_be_written_is_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: object, path: str, data: bytes) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(type(Store(tmp_path)._files), "pipe_file", refused)
    with pytest.raises(StoreError, match=f"{tmp_path}: cannot be written: .*Read-only"):
        Store(tmp_path)


def test_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stats = filled(tmp_path / "stats", 3, 4)
    bad = shards(tmp_path / "stats")[0].with_name("00000000000000000000-00.parquet")
    bad.write_bytes(b"")
    before = sorted((tmp_path / "stats").iterdir())
    store = Store(tmp_path / "stats", read_only=True)
    assert store.damaged == [str(bad)]
    assert set(store.get(stats)) == set(stats)
    assert sorted((tmp_path / "stats").iterdir()) == before
    with pytest.raises(StoreError, match="nowhere: no such store"):
        Store(tmp_path / "nowhere", read_only=True)
    assert not (tmp_path / "nowhere").exists()


def test_any_file_system() -> None:
    folder = "memory://bucket/stats"
    try:
        stats = filled(folder, 3, 0, 7)
        store = Store(folder)
        for key, one in stats.items():
            assert_same(store.get([key])[key], one)
        files = fsspec.filesystem("memory")
        (path,) = files.glob("/bucket/stats/*.parquet")
        files.pipe_file(path, files.cat_file(path)[:-1])
        store = Store(folder)
        assert store.get(stats) == {}
        assert store.damaged == [path]
        assert files.glob("/bucket/stats/*.damaged")
    finally:
        fsspec.filesystem("memory").rm("/bucket", recursive=True)


def test_a_file_system_without_its_package_or_name(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"nosuch://bucket/stats: cannot be written: .*nosuch"):
        Store("nosuch://bucket/stats")


def test_many_writers_at_once(tmp_path: Path) -> None:
    def write(number: int) -> None:
        store = Store(tmp_path)
        for i in range(5):
            store.put(f"{number}-{i}", random_stats(i, seed=10 * number + i))
            store.put("shared", random_stats(4, seed=99))
            store.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    store = Store(tmp_path)
    assert store.damaged == []
    found = store.get(["shared", *(f"{n}-{i}" for n in range(8) for i in range(5))])
    assert len(found) == 41
    assert_same(found["7-3"], random_stats(3, seed=73))


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: b"not a shard at all", id="garbage"),
        pytest.param(lambda data: data[: len(data) // 2], id="truncated"),
        pytest.param(lambda data: data[:-1], id="one byte short"),
        pytest.param(lambda data: data + b"x", id="one byte more"),
        pytest.param(lambda data: bytes(len(data)), id="zeros"),
    ],
)
def test_damaged_shards_are_set_aside_and_named(tmp_path: Path, damage) -> None:
    first = filled(tmp_path, 3, 0, 2)
    path = shards(tmp_path)[0]
    path.write_bytes(damage(path.read_bytes()))
    other = Store(tmp_path)
    assert other.get(first) == {}
    assert other.damaged == [str(path)]
    assert not path.exists()
    assert path.with_suffix(".damaged").exists()
    other.put("kept", random_stats(4, seed=9))
    for key, one in first.items():  # computed again
        other.put(key, one)
    other.close()
    again = Store(tmp_path)
    assert set(again.get([*first, "kept"])) == {*first, "kept"}
    assert again.damaged == []


def test_an_older_shard_stands_in_for_a_damaged_one(tmp_path: Path) -> None:
    for seed in (1, 2):
        store = Store(tmp_path)
        store.put("key", random_stats(30, seed=seed))
        store.close()
    newest = shards(tmp_path)[-1]
    flipped = bytearray(newest.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    newest.write_bytes(flipped)
    store = Store(tmp_path)
    assert store.damaged == []  # the keys can be read
    assert_same(store.get(["key"])["key"], random_stats(30, seed=1))
    assert store.damaged == [str(newest)]


def test_no_flipped_byte_is_believed(tmp_path: Path) -> None:
    """A disk's or a copy's error in the numbers leaves the file well-formed: only a checksum can tell."""
    stats = filled(tmp_path / "made", 40, 0, 25)
    data = shards(tmp_path / "made")[0].read_bytes()
    name = shards(tmp_path / "made")[0].name
    for at in range(0, len(data), 29):
        flipped = bytearray(data)
        flipped[at] ^= 0x10
        folder = tmp_path / str(at)
        folder.mkdir()
        (folder / name).write_bytes(flipped)
        store = Store(folder)
        assert store.get(stats) == {}
        found_again = store.damaged == [str(folder / name)]
        assert found_again or not set(stats) & set(store._shards)  # or its keys were other ones


def test_parquet_of_another_kind_is_set_aside(tmp_path: Path) -> None:
    pq.write_table(pa.table({"key": ["a"], "log_prob": [[1.0]]}), tmp_path / "scores.parquet")
    store = Store(tmp_path)
    assert store.get(["a"]) == {}
    assert store.damaged == [str(tmp_path / "scores.parquet")]


def test_a_shard_that_another_process_set_aside_is_no_error(tmp_path: Path) -> None:
    stats = filled(tmp_path, 3)
    (path,) = shards(tmp_path)
    store = Store(tmp_path)
    path.rename(path.with_suffix(".damaged"))
    assert store.get(stats) == {}
    assert store.damaged == [str(path)]


def test_a_shard_that_cannot_be_read_for_now_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network's fault is not the shard's."""
    stats = filled(tmp_path, 3)
    (path,) = shards(tmp_path)
    store = Store(tmp_path)

    def fails(self: object, path: str) -> bytes:
        raise OSError("connection reset")

    with monkeypatch.context() as patch:
        patch.setattr(type(store._files), "cat_file", fails)
        with pytest.raises(StoreError, match="cannot be read: connection reset"):
            store.get(stats)
    assert path.exists()
    assert set(store.get(stats)) == set(stats)


def test_a_file_in_the_folders_place(tmp_path: Path) -> None:
    (tmp_path / "stats").write_text("")
    with pytest.raises(StoreError, match="stats"):
        Store(tmp_path / "stats")
