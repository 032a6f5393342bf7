"""Token statistics on disk: ragged Parquet shards, found again by pass key.

A shard is never changed. It appears whole or not at all, and its name ends with a digest of its bytes. So runs may
share a folder at the same time, and what a disk or a copy has damaged is told from what was written.
"""

import contextlib
import glob
import hashlib
import itertools
import os
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from mimir_jax.arrays import DTYPES, TokenStats

SECONDS = 30.0  # of work that an interruption can lose: how long a shard stays open
BYTES = 1 << 28  # of statistics in a shard, at most

_SCHEMA = pa.schema(
    [("key", pa.string())]
    + [(name, pa.list_(pa.from_numpy_dtype(dtype))) for name, dtype in zip(TokenStats._fields, DTYPES)]
)

_KEYS = pa.schema([_SCHEMA.field("key")])


class StoreError(RuntimeError):
    """A store that cannot be used; the message names it and says what to do."""


class Store:
    """A folder of shards, here or on any file system that fsspec knows (gs://, s3://, ...).

    A shard that cannot be read, or whose bytes are not those that were written, is renamed to `*.damaged` and named in
    `damaged`; its passes are as if they had never been computed.

    Args:
        folder: made where it does not exist.
        read_only: nothing is put; the folder must be there.

    Raises:
        StoreError: the folder is not there, or cannot be made or written.
    """

    def __init__(self, folder: str | Path, read_only: bool = False):
        self.folder = str(folder)
        self.damaged: list[str] = []
        self._read_only = read_only
        self._open: dict[str, TokenStats] = {}
        self._bytes = 0
        self._opened = time.monotonic()
        try:
            self._files, self._root = fsspec.url_to_fs(self.folder)
            if not read_only:
                self._files.makedirs(self._root, exist_ok=True)
                self._probe()
            elif not self._files.isdir(self._root):
                raise StoreError(f"{self.folder}: no such store of token statistics; `mimir-jax score` makes one")
            names = self.files("*.parquet")
        except (OSError, ValueError, ImportError) as error:  # ImportError: a file system whose package is missing
            use = "read" if read_only else "written"
            raise StoreError(f"{self.folder}: cannot be {use}: {error}") from error
        self._shards: dict[str, list[str]] = {}  # of each key, the shards that have it, the newest last
        with ThreadPoolExecutor(16) as pool:
            for path, keys in zip(names, pool.map(self._keys, names)):
                if keys is None:
                    self.set_aside(path)
                for key in keys or ():
                    self._shards.setdefault(key, []).append(path)

    def get(self, keys: Iterable[str]) -> dict[str, TokenStats]:
        """Those of the keys that are there."""
        found: dict[str, TokenStats] = {}
        missing = dict.fromkeys(keys)
        while missing:
            wanted: dict[str, list[str]] = {}
            for key in missing:
                if key in self._open:
                    found[key] = self._open[key]
                elif self._shards.get(key):
                    wanted.setdefault(self._shards[key][-1], []).append(key)
            for path, some in wanted.items():
                stats = self._read(path)
                if stats is None:
                    self.set_aside(path)  # an older shard may have them, too
                else:
                    found |= {key: stats[key] for key in some if key in stats}
            missing = {key: None for some in wanted.values() for key in some if key not in found}
        return found

    def put(self, key: str, stats: TokenStats) -> None:
        """Add one pass; writes a shard when the open one is old or large enough.

        Raises:
            StoreError: the shard cannot be written.
        """
        self._open[key] = stats
        self._bytes += sum(np.asarray(field).nbytes for field in stats)
        if time.monotonic() - self._opened > SECONDS or self._bytes > BYTES:
            self.close()

    def close(self) -> None:
        """Write what no shard holds yet.

        Raises:
            StoreError: it cannot be written. It is kept, so that closing again tries again.
        """
        if self._open:
            path = self.write_file("", "parquet", pack(self._open))
            for key in self._open:
                self._shards.setdefault(key, []).append(path)
            self._open, self._bytes = {}, 0
        self._opened = time.monotonic()

    def write_file(self, start: str, end: str, data: bytes) -> str:
        """Write `<start><time>-<digest of the bytes>.<end>`, whole or not at all; its path.

        Raises:
            StoreError: it cannot be written.
        """
        path = f"{self._root}/{start}{time.time_ns():020d}-{_digest(data)}.{end}"
        try:
            if not isinstance(self._files, LocalFileSystem):
                self._files.pipe_file(path, data)  # an object appears when all of it is there
                return path
            partial = f"{path}.partial"
            try:
                self._files.makedirs(os.path.dirname(path), exist_ok=True)
                self._files.pipe_file(partial, data)
                os.replace(partial, path)
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(partial)
                raise
        except OSError as error:
            raise StoreError(
                f"{self.folder}: cannot be written: {error}; what is in it stays, and the same command "
                "goes on from there"
            ) from error
        return path

    def files(self, pattern: str) -> list[str]:
        """Paths of the store's files that match, in the order in which they were written if they start alike."""
        return sorted(self._files.glob(f"{glob.escape(self._root)}/{pattern}"))

    def read_file(self, path: str) -> bytes | None:
        """What `write_file` wrote; None where it is gone or its bytes are other ones.

        Raises:
            StoreError: it cannot be read.
        """
        try:
            data: bytes = self._files.cat_file(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"{path}: cannot be read: {error}") from error
        return data if PurePosixPath(path).stem.rpartition("-")[2] == _digest(data) else None

    def _probe(self) -> None:
        """Find out now, not after the first shard's work, that nothing can be written."""
        path = f"{self._root}/{time.time_ns()}-{os.getpid()}.probe"
        self._files.pipe_file(path, b"1")
        self._files.rm_file(path)

    def _keys(self, path: str) -> list[str] | None:
        """The keys in a shard; None where it is not as it was written."""
        try:
            with self._files.open(path) as file:
                keys: list[str] = pq.read_table(file, columns=["key"]).cast(_KEYS).column("key").to_pylist()
                return keys
        except (pa.ArrowException, OSError, KeyError, ValueError):
            stats = self._read(path)  # whether the bytes or the reading of them is at fault
            return None if stats is None else list(stats)

    def _read(self, path: str) -> dict[str, TokenStats] | None:
        """The statistics in a shard; None where it is not as it was written."""
        data = self.read_file(path)  # None also where another process has set it aside
        try:
            return None if data is None else unpack(data)
        except (pa.ArrowException, OSError, KeyError, ValueError):
            return None

    def set_aside(self, path: str) -> None:
        """Rename a damaged file, so that no run reads it again, and name it in `damaged`."""
        self.damaged.append(path)
        for shards in self._shards.values():
            if path in shards:
                shards.remove(path)
        if not self._read_only:
            with contextlib.suppress(OSError):  # another process may have been here first
                self._files.mv(path, str(PurePosixPath(path).with_suffix(".damaged")))


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def pack(stats: Mapping[str, TokenStats]) -> bytes:
    """Statistics by key as the bytes of a shard."""
    columns = {name: [np.asarray(getattr(one, name)) for one in stats.values()] for name in TokenStats._fields}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"key": list(stats), **columns}, schema=_SCHEMA), sink, compression="zstd")
    return bytes(sink.getvalue())


def unpack(data: bytes) -> dict[str, TokenStats]:
    """What `pack` packed, bit for bit.

    Raises:
        ValueError, OSError, pa.ArrowException: it is something else.
    """
    table = pq.read_table(pa.BufferReader(data))
    if not table.schema.equals(_SCHEMA):
        raise ValueError("not a shard of token statistics")
    fields = []
    for name in TokenStats._fields:
        column = table.column(name).combine_chunks()
        offsets = column.offsets.to_numpy()
        values = column.values.to_numpy(zero_copy_only=False)
        fields.append([values[start:stop] for start, stop in itertools.pairwise(offsets)])
    return {key: TokenStats(*row) for key, row in zip(table.column("key").to_pylist(), zip(*fields))}
