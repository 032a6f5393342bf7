"""What a run computes of documents beside token statistics, such as norms of gradients, kept in the same store by key.

A kind of result has a folder of its own in the store, and shards of two columns: a key, and numbers.
"""

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mimir_jax.parallel import hosts
from mimir_jax.scoring import store as stores
from mimir_jax.scoring.store import Store


class Kept:
    """Arrays of one kind by key; see `keeping`."""

    def __init__(self, store: Store | None, kind: str, dtype: type[np.generic]):
        self._store, self._kind = store, kind
        self._schema = pa.schema([("key", pa.string()), ("values", pa.list_(pa.from_numpy_dtype(dtype)))])
        self._open: dict[str, np.ndarray] = {}
        self._opened = time.monotonic()

    def get(self, keys: Iterable[str]) -> dict[str, np.ndarray]:
        """Those that are there, in every process what process 0's store has; a damaged shard is set aside."""
        with hosts.together("read the store"):
            found = self._read(set(keys))
        return self._unpack(hosts.broadcast(self._pack(found))) if jax.process_count() > 1 else found

    def put(self, key: str, values: np.ndarray) -> None:
        """Add one; writes a shard when the open one is old.

        Raises:
            StoreError: the shard cannot be written.
        """
        if self._store is None:
            return
        self._open[key] = values
        if time.monotonic() - self._opened > stores.SECONDS:
            self.write()

    def write(self) -> None:
        """Write what no shard holds yet.

        Raises:
            StoreError: it cannot be written.
        """
        if self._store is not None and self._open:
            self._store.write_file(f"{self._kind}/", "parquet", self._pack(self._open))
            self._open = {}
        self._opened = time.monotonic()

    def _read(self, keys: set[str]) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        for path in [] if self._store is None else self._store.files(f"{self._kind}/*.parquet"):
            assert self._store is not None
            data = self._store.read_file(path)
            try:
                shard = None if data is None else self._unpack(data)
            except (pa.ArrowException, OSError, KeyError, ValueError):
                shard = None
            if shard is None:
                self._store.set_aside(path)
            else:
                found |= {key: shard[key] for key in keys & shard.keys()}
        return found

    def _pack(self, arrays: Mapping[str, np.ndarray]) -> bytes:
        sink = pa.BufferOutputStream()
        table = pa.table({"key": list(arrays), "values": list(arrays.values())}, schema=self._schema)
        pq.write_table(table, sink, compression="zstd")
        return bytes(sink.getvalue())

    def _unpack(self, data: bytes) -> dict[str, np.ndarray]:
        table = pq.read_table(pa.BufferReader(data))
        if not table.schema.equals(self._schema):
            raise ValueError(f"not a shard of {self._kind}")
        column = table.column("values").combine_chunks()
        values = column.values.to_numpy(zero_copy_only=False)
        rows = np.split(values, column.offsets.to_numpy()[1:-1])
        return dict(zip(table.column("key").to_pylist(), rows))


@contextmanager
def keeping(store: Store | None, kind: str, dtype: type[np.generic]) -> Iterator[Kept]:
    """Results of one kind in a store; what was put is on disk when the block ends, however it ends.

    Args:
        store: process 0's; None where nothing is kept, and in the other processes.
        kind: of results; its folder.
        dtype: of their numbers.
    """
    kept = Kept(store, kind, dtype)
    try:
        yield kept
    finally:
        kept.write()


def result_key(*parts: object) -> str:
    """Of all that determines a result; each part's text must tell it from others, arrays as bytes."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()
