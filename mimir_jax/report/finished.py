"""A finished results folder, read again: all that the report needs, without a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float, Int
from pydantic import TypeAdapter, ValidationError

from mimir_jax.config import ConfigError, RunConfig, from_json
from mimir_jax.metrics import Estimate, Metrics, Transfer
from mimir_jax.report import results
from mimir_jax.report.exposure import Exposure, read_exposure

OVERLAP = "ngram_overlap"
"""Optional column of scores.parquet: the share of a document's n-grams that the members hold."""


@dataclass(frozen=True)
class Baseline:
    """AUC of a blind baseline, with its interval."""

    auc_roc: float
    low: float
    high: float


@dataclass(frozen=True)
class Best(Baseline):
    """Of the baselines that folds chose, each without seeing what it is judged by.

    Attributes:
        chosen: by baseline, how many folds chose it.
    """

    chosen: dict[str, int]


@dataclass(frozen=True)
class Comparison:
    """An attack against the best blind baseline on the same documents; p_adjusted is over all attacks of the table."""

    difference: float
    low: float
    high: float
    p_adjusted: float
    beats: bool
    sentence: str
    among_alike: Estimate | None = None


@dataclass(frozen=True)
class Measured:
    """A number of the texts on both sides: medians and the distance of the distributions; None where there are none."""

    members: float | None
    nonmembers: float | None
    distance: float | None
    p_adjusted: float | None


@dataclass(frozen=True)
class TellingWord:
    """A word, how many documents of each side have it, and the z of their log-odds ratio."""

    word: str
    members: int
    nonmembers: int
    z: float


@dataclass(frozen=True)
class Audit:
    """What can be told without the model: audit.json. Of too few documents there is no best, and a note says so."""

    baselines: dict[str, Baseline]
    best: Best | None
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    shift: dict[str, Measured] = field(default_factory=dict)
    telling_words: list[TellingWord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Published:
    """A value from the literature for the same model, data and attack."""

    auc_roc: float
    source: str = ""


@dataclass(frozen=True)
class Finished:
    """What a run found, of its main documents.

    Attributes:
        folder: where it is.
        config: of the run.
        run: run.json: identity, versions, device, checkpoints, seconds by stage, notes.
        metrics: by column; None where one side has no score.
        scores: [doc] by column, NaN where there is none.
        ids: of the documents.
        is_member: [doc].
        source: of each document its domain or file.
        n_tokens: [doc].
        overlap: [doc], share of n-grams that the members hold, where the run knows it.
        audit: what can be told without the model, where it was computed.
        exposure: the heat maps' documents, where there are tokens to show.
        published: values of the literature by column.
        transfer: by name of further non-members and column, what thresholds of the main ones do on them.
    """

    folder: Path
    config: RunConfig
    run: Mapping[str, Any]
    metrics: dict[str, Metrics | None]
    scores: dict[str, Float[np.ndarray, " doc"]]
    ids: list[str]
    is_member: Bool[np.ndarray, " doc"]
    source: list[str]
    n_tokens: Int[np.ndarray, " doc"]
    overlap: Float[np.ndarray, " doc"] | None = None
    audit: Audit | None = None
    exposure: Exposure | None = None
    published: dict[str, Published] = field(default_factory=dict)
    transfer: dict[str, dict[str, Transfer]] = field(default_factory=dict)

    @property
    def blind(self) -> Best | None:
        """What the best blind baseline reaches, where it was computed."""
        return None if self.audit is None else self.audit.best

    @property
    def name(self) -> str:
        """Of the experiment."""
        return str(self.config.experiment or self.folder.name)

    @property
    def notes(self) -> list[str]:
        """What the run said that a reader must know."""
        return [str(note) for note in self.run.get("notes", [])]

    @property
    def models(self) -> list[str]:
        """Names of the targets; columns begin with them where there are several."""
        return [str(target.get("name", "")) for target in self.run.get("targets", [])] or [self.config.model]

    @property
    def data(self) -> str:
        """The documents in a few words."""
        data = self.config.data
        if data.documents:
            return data.documents
        return f"{data.members} against {data.nonmembers}" if data.members else "the embedded example"

    @property
    def fingerprint(self) -> str:
        """Equal for equal documents."""
        return str(self.run.get("identity", {}).get("documents", ""))

    def split(self, column: str) -> tuple[str, str]:
        """A column's model and attack."""
        model, slash, attack = column.partition("/")
        return (model, attack) if slash and model in self.models else (self.models[0], column)


def read_finished(folder: Path) -> Finished:
    """Everything of a results folder.

    Raises:
        ConfigError: the folder holds no finished run, or a file that cannot be read; it is named.
    """
    folder = Path(folder)
    if not (folder / results.METRICS).is_file():
        raise ConfigError(
            f"{folder}: no results of a finished run ({results.METRICS} is missing); "
            "give folders that mimir-jax run wrote"
        )
    config = from_json(folder / results.CONFIG)
    run = _json(folder / results.RUN, dict[str, Any])
    metrics = _json(folder / results.METRICS, dict[str, Metrics | None])
    audit = _optional(folder / results.AUDIT, Audit)
    published = _optional(folder / results.PUBLISHED, dict[str, Published]) or {}
    moved = _optional(folder / results.TRANSFER, dict[str, dict[str, Transfer]]) or {}
    try:
        exposure = read_exposure(folder / results.EXPOSED)
    except (OSError, ValueError) as error:
        raise _unreadable(folder / results.EXPOSED, error) from error
    path = folder / results.SCORES
    try:
        table = pq.read_table(path)
        groups: Sequence[str] = table.column("group").to_pylist() if "group" in table.column_names else ()
        if groups:
            table = table.filter(pa.array([not group for group in groups]))
        known = [name for name in metrics if name in table.column_names]
        found = {name: _numbers(table, name) for name in known}
        return Finished(
            folder=folder,
            config=config,
            run=run,
            metrics={name: metrics[name] for name in known},
            scores=found,
            ids=table.column("id").to_pylist(),
            is_member=np.array(table.column("is_member").to_pylist(), bool),
            source=table.column("source").to_pylist(),
            n_tokens=np.array(table.column("n_tokens").to_pylist(), np.int64),
            overlap=_numbers(table, OVERLAP) if OVERLAP in table.column_names else None,
            audit=audit,
            exposure=exposure,
            published=published,
            transfer=moved,
        )
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error


def audit_of(found: Mapping[str, Any] | None) -> Audit | None:
    """audit.json, parsed; None of None."""
    return None if found is None else TypeAdapter(Audit).validate_python(found)


def _numbers(table: pa.Table, column: str) -> Float[np.ndarray, " doc"]:
    return np.asarray(table.column(column).to_numpy(zero_copy_only=False), np.float64)


def _optional(path: Path, kind: Any) -> Any:
    """What a file holds; None where there is none."""
    return _json(path, kind) if path.exists() else None


def _json(path: Path, kind: Any) -> Any:
    try:
        return TypeAdapter(kind).validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise ConfigError(f"{path}: {where}: {first['msg']}; run the experiment again with --overwrite") from error
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ConfigError:
    reason = str(error).partition("\n")[0]
    return ConfigError(f"{path}: cannot be read ({reason}); run the experiment again with --overwrite")
