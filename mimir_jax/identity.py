"""What a run's names stood for: hashes of the files that they name, and checkpoints with names of their own."""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mimir_jax.attacks.registry import BoundAttack
from mimir_jax.config import ConfigError, RunConfig
from mimir_jax.data.sources import split_source
from mimir_jax.scoring.api import Endpoint
from mimir_jax.scoring.masked import find_mask_model
from mimir_jax.scoring.model import Source
from mimir_jax.training.membership import MEMBERSHIP


def file_digests(config: RunConfig, bound: Sequence[BoundAttack]) -> dict[str, str]:
    """What tells whether a file has changed that the configuration names beside documents and models."""
    shots, counts = config.shots, config.token_counts.source
    near = config.neighbors
    named = [near.members, near.nonmembers, near.documents, shots.members, shots.nonmembers, config.quantile.nonmembers]
    known = config.in_out
    named += [known.population, None if known.folder is None else str(Path(known.folder) / MEMBERSHIP)]
    found = {str(path): _sha256(path) for source in named if source for path in _files(source)}
    if near.model is not None and any("neighbor_stats" in one.attack.inputs for one in bound):
        found["neighbors.model"] = find_mask_model(near.model).checkpoint
    for path in _files(counts) if counts not in ("auto", "c4", "demo") else ():
        if path.suffix in (".npy", ".npz", ".json"):
            found[str(path)] = _sha256(path)
        else:  # a corpus may be too large to be read for every run
            found[str(path)] = f"{path.stat().st_size} bytes of {path.stat().st_mtime_ns}"
    return found


def _files(source: str) -> Iterator[Path]:
    """The files of a source, if it has some here."""
    path = Path(split_source(source)[0])
    if path.is_file():
        yield path
    elif path.is_dir():
        yield from sorted(one for one in path.rglob("*") if one.is_file())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def distinct_names(field: str, sources: Sequence[Source]) -> list[Source]:
    """Sources with distinct names: folders called alike get their whole paths.

    Names hold no slash, which parts the checkpoint from the attack in the columns.

    Raises:
        ConfigError: one checkpoint is given twice.
    """
    names = [source.name for source in sources]
    folders = [str((source.origin or source).folder) for source in sources]
    named = [
        dataclasses.replace(
            source, name=(folder if names.count(source.name) > 1 else source.name).strip("/").replace("/", "_")
        )
        for source, folder in zip(sources, folders)
    ]
    names = [source.name for source in named]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{field}: given twice: {', '.join(twice)}")
    return named


def described(source: Source) -> dict[str, Any]:
    """A checkpoint for run.json: where it was found, even if all that is left of it is what a store keeps."""
    found = source.origin or source
    described = dataclasses.asdict(found) | {"folder": str(found.folder), "name": source.name}
    del described["origin"]
    return described


def described_endpoint(endpoint: Endpoint) -> dict[str, str]:
    return {"endpoint": endpoint.base_url, "name": endpoint.model, "prefix": endpoint.prefix}
