"""Which reference was trained on what: halves drawn at random, and the table that tells a run of them."""

import csv
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from mimir_jax.config import ConfigError

MEMBERSHIP = "membership.csv"


def random_halves(models: int, documents: int, seed: int) -> Bool[np.ndarray, "model doc"]:
    """Which model reads which document: for every two models a random half and the other half.

    So each document is in exactly half of the models, as Carlini et al. 2022 (arXiv:2112.03570) have it, of the first
    2, 4, 6, ... of them as well.

    Args:
        models: an even number.
        documents: where odd, the halves differ by one.
        seed: of the choice; the first models are the same whatever their number.
    """
    if models < 2 or models % 2:
        raise ValueError(f"models must be even, not {models}: every two share the documents")
    pairs = []
    for number in range(models // 2):
        order = np.random.default_rng((seed, number)).permutation(documents)
        half = np.zeros(documents, bool)
        half[order[: documents // 2]] = True
        pairs += [half, ~half]
    return np.stack(pairs)


class References(NamedTuple):
    """Trained references, and what each was trained on.

    Attributes:
        folders: of the checkpoints.
        membership: by `text_key`, of each reference whether it was trained on that text.
    """

    folders: list[Path]
    membership: Mapping[str, tuple[bool, ...]]

    def of(self, texts: Sequence[str]) -> Bool[np.ndarray, "reference doc"]:
        """Which reference was trained on which text; a text that is not listed is out of all."""
        none = (False,) * len(self.folders)
        rows = [self.membership.get(text_key(text), none) for text in texts]
        return np.array(rows, bool).reshape(len(texts), len(self.folders)).T

    def listed(self, texts: Sequence[str]) -> Bool[np.ndarray, " doc"]:
        """Whether each text is listed at all."""
        return np.array([text_key(text) in self.membership for text in texts], bool)


def text_key(text: str) -> str:
    """What a text is found by, whatever its id and place."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def read_references(folder: Path, count: int | None = None) -> References:
    """What `write_references` wrote.

    Args:
        folder: with `membership.csv` and a folder of a checkpoint for each of its columns.
        count: take the first so many references.

    Raises:
        ConfigError: a file or folder that is missing or not as it should be, or fewer references than `count`.
    """
    path = folder / MEMBERSHIP
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read: {error}; it says what each reference was trained on") from error
    if not rows or rows[0][:2] != ["text_sha256", "id"] or len(rows[0]) < 3:
        raise ConfigError(f"{path}: its first line must be text_sha256,id and a column for each reference")
    names = rows[0][2:]
    if count is not None and not 1 <= count <= len(names):
        raise ConfigError(f"{path}: {count} references are asked for, and there are {len(names)}")
    for line, row in enumerate(rows[1:], start=2):
        if len(row) != len(rows[0]) or not {*row[2:]} <= {"0", "1"}:
            raise ConfigError(f"{path}, line {line}: expected a 0 or 1 for each of {len(names)} references")
    names = names[:count]
    folders = [folder / name for name in names]
    if missing := [str(one) for one in folders if not one.is_dir()]:
        raise ConfigError(f"{path}: no such checkpoint: {', '.join(missing)}")
    membership = {row[0]: tuple(value == "1" for value in row[2 : 2 + len(names)]) for row in rows[1:]}
    return References(folders, membership)
