"""Neighbors that were made, kept for every later run on the same texts: a file that grows by a line a text."""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mimir_jax.data.neighbors import content_digest
from mimir_jax.data.readers import DataError, Document


class NeighborStore:
    """Neighbors by what their document holds, whatever its id is; all of one model, seed and way of making them.

    The file has the form of `write_neighbors`: a header of how they were made, then an object a text. Each is written
    at once and found again by the next run, so that one that was interrupted goes on.
    """

    def __init__(self, path: Path, provenance: Mapping[str, Any], here: bool = True):
        """Open a file, or begin it.

        Args:
            path: .jsonl; its folder is made where there is none.
            provenance: of all neighbors in it; JSON values.
            here: whether this process reads and writes it; else another one does.

        Raises:
            DataError: the file cannot be read or written, or holds neighbors that were made otherwise.
        """
        self.path, self._here = path, here
        header = {"provenance": dict(provenance)}
        self.found: dict[str, list[str]] = {}
        if not here:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            data = path.read_bytes() if path.exists() else b""
            whole = data[: data.rfind(b"\n") + 1]  # a last line without its end was interrupted
            lines = whole.decode("utf-8").splitlines()
            if not lines:
                self._append(json.dumps(header) + "\n", over=True)
            elif len(whole) < len(data):
                os.truncate(path, len(whole))
            values = [json.loads(line) for line in lines]
            if values and values[0] != json.loads(json.dumps(header)):
                raise DataError(
                    f"{path}: holds neighbors that were made otherwise: {lines[0][:300]}; name another file"
                )
            self.found = {value["sha256"]: value["neighbors"] for value in values[1:]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path}: no file of neighbors that can be used: {error}; remove it") from error

    def get(self, document: Document) -> list[str] | None:
        """The neighbors of a document; None where they are not made yet."""
        return self.found.get(content_digest(document))

    def add(self, document: Document, neighbors: Sequence[str]) -> None:
        """Keep what was made."""
        digest = content_digest(document)
        self.found[digest] = list(neighbors)
        self._append(json.dumps({"id": document.id, "sha256": digest, "neighbors": list(neighbors)}) + "\n")

    def _append(self, line: str, over: bool = False) -> None:
        if not self._here:
            return
        try:
            with self.path.open("wb" if over else "ab") as file:
                file.write(line.encode())
        except OSError as error:
            raise DataError(f"{self.path}: cannot be written: {error}") from error


def store_file(folder: str | None, model: str, provenance: Mapping[str, Any]) -> Path:
    """The file of all neighbors that are made in one way: under `folder`, or $XDG_CACHE_HOME/mimir_jax/neighbors."""
    base = os.environ.get("XDG_CACHE_HOME")
    default = (Path(base) if base else Path.home() / ".cache") / "mimir_jax" / "neighbors"
    key = hashlib.sha256(json.dumps(dict(provenance), sort_keys=True).encode()).hexdigest()[:16]
    name = re.sub(r"[^\w.@-]", "_", model.strip("/").split("/")[-1])
    return (Path(folder) if folder else default) / f"{name}-{key}.jsonl"
