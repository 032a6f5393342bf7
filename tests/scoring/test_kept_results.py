"""Results beside token statistics: found again, bit for bit, by their keys; never believed where they are damaged."""

import time
from pathlib import Path

import numpy as np
import pytest

from mimir_jax.scoring import store as stores
from mimir_jax.scoring.kept_results import Kept, keeping, result_key
from mimir_jax.scoring.store import Store

ARRAYS = {"a": np.array([0.1, np.nan, 3], np.float32), "b": np.zeros(0, np.float32), "c": np.ones(1, np.float32)}


def filled(folder: Path) -> Path:
    """The shard."""
    with keeping(Store(folder), "norms", np.float32) as kept:
        for key, values in ARRAYS.items():
            kept.put(key, values)
    (path,) = (folder / "norms").iterdir()
    return path


def found(store: Store, kind: str = "norms") -> dict[str, np.ndarray]:
    return Kept(store, kind, np.float32).get([*ARRAYS, "d"])


def test_what_was_put_is_found(tmp_path: Path) -> None:
    filled(tmp_path)
    again = found(Store(tmp_path))
    assert again.keys() == ARRAYS.keys()
    for key, values in ARRAYS.items():
        assert again[key].tobytes() == values.tobytes()
    assert found(Store(tmp_path), "others") == {}
    assert Store(tmp_path).get(ARRAYS) == {}  # these are no token statistics


def test_what_was_put_before_an_error_is_found(tmp_path: Path) -> None:
    def work() -> None:
        with keeping(Store(tmp_path), "norms", np.float32) as kept:
            kept.put("a", ARRAYS["a"])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        work()
    assert found(Store(tmp_path)).keys() == {"a"}


def test_a_shard_is_written_when_it_is_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a kill loses little."""
    kept = Kept(Store(tmp_path), "norms", np.float32)
    kept.put("a", ARRAYS["a"])
    assert found(Store(tmp_path)) == {}
    monkeypatch.setattr(stores, "SECONDS", 0.01)
    time.sleep(0.02)
    kept.put("b", ARRAYS["b"])
    assert found(Store(tmp_path)).keys() == {"a", "b"}


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"", lambda data: bytes(len(data))])
def test_a_damaged_shard_is_set_aside(tmp_path: Path, damage) -> None:
    path = filled(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    store = Store(tmp_path)
    assert found(store) == {}
    assert store.damaged == [str(path)]
    assert not path.exists()


def test_a_shard_of_another_kind_is_set_aside(tmp_path: Path) -> None:
    path = filled(tmp_path)
    (tmp_path / "others").mkdir()
    path.rename(tmp_path / "others" / path.name)
    store = Store(tmp_path)
    assert Kept(store, "others", np.int32).get(ARRAYS) == {}
    assert len(store.damaged) == 1


def test_without_a_store_nothing_is_kept() -> None:
    with keeping(None, "norms", np.float32) as kept:
        kept.put("a", ARRAYS["a"])
        assert kept.get(["a"]) == {}


def test_keys_tell_parts_apart() -> None:
    assert len({result_key("a", "b"), result_key("ab"), result_key("ab", ""), result_key("b", "a")}) == 4
    assert result_key(1, 0.5, b"x") == result_key(1, 0.5, b"x")
