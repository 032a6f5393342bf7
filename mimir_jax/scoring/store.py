"""Token statistics on disk: ragged Parquet shards, written atomically, found again by pass key."""

import contextlib
import itertools
import os
import time
import uuid
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mimir_jax.arrays import DTYPES, TokenStats

SECONDS = 30.0  # of work that an interruption can lose: how long a shard stays open

_SCHEMA = pa.schema(
    [("key", pa.string())]
    + [(name, pa.list_(pa.from_numpy_dtype(dtype))) for name, dtype in zip(TokenStats._fields, DTYPES)]
)


class Store:
    """A folder of shards. Reading happens once, at the start; `put` gathers results and `close` writes the rest.

    A shard that cannot be read is renamed to `*.damaged` and named in `damaged`; its passes are computed again.

    Args:
        folder: made where it does not exist.

    Raises:
        OSError: the folder cannot be made or written.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.damaged: list[Path] = []
        self._stats: dict[str, TokenStats] = {}
        self._open: dict[str, TokenStats] = {}
        self._opened = time.monotonic()
        for path in sorted(folder.glob("*.parquet")):
            try:
                self._stats.update(_read(path))
            except (pa.ArrowInvalid, pa.ArrowException, OSError, KeyError, ValueError):
                self.damaged.append(path)
                with contextlib.suppress(FileNotFoundError):  # another process may have been here first
                    path.rename(path.with_suffix(".damaged"))

    def get(self, keys: Iterable[str]) -> dict[str, TokenStats]:
        """Those of the keys that are there."""
        return {key: self._stats[key] for key in keys if key in self._stats}

    def put(self, key: str, stats: TokenStats) -> None:
        """Add one pass; writes a shard when the open one is old enough."""
        self._stats[key] = self._open[key] = stats
        if time.monotonic() - self._opened > SECONDS:
            self.close()

    def close(self) -> None:
        """Write what no shard holds yet."""
        if self._open:
            columns = {
                name: [np.asarray(getattr(stats, name)) for stats in self._open.values()] for name in TokenStats._fields
            }
            table = pa.table({"key": list(self._open), **columns}, schema=_SCHEMA)
            path = self.folder / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.parquet"
            partial = path.with_suffix(".partial")
            pq.write_table(table, partial, compression="zstd", write_page_checksum=True)
            os.replace(partial, path)
            self._open = {}
        self._opened = time.monotonic()


def _read(path: Path) -> dict[str, TokenStats]:
    table = pq.read_table(path, page_checksum_verification=True)
    if not table.schema.equals(_SCHEMA):
        raise ValueError(f"{path}: not a shard of token statistics")
    fields = []
    for name in TokenStats._fields:
        column = table.column(name).combine_chunks()
        offsets = column.offsets.to_numpy()
        values = column.values.to_numpy(zero_copy_only=False)
        fields.append([values[start:stop] for start, stop in itertools.pairwise(offsets)])
    return {key: TokenStats(*row) for key, row in zip(table.column("key").to_pylist(), zip(*fields))}
