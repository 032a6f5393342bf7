"""The results folder: what a run writes, and how it is read again."""

import dataclasses
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float
from pydantic import TypeAdapter

from mimir_jax.config import ConfigError, RunConfig, from_json, to_json
from mimir_jax.metrics import Metrics, Transfer, roc_curve

CONFIG, RUN, SCORES, METRICS, ROC = "config.json", "run.json", "scores.parquet", "metrics.json", "roc.png"
TEXTS = "text_scores.parquet"  # of sub-texts, where documents have some
TRANSFER = "transfer.json"  # of further non-members, where there are some
AUDIT = "audit.json"  # what is reached without the model, where that was asked for
EXPOSED = "exposed.json"  # tokens of the documents that the report shows
PUBLISHED = "published.json"  # where an experiment knows it: by column, `auc_roc` in the literature and its `source`
REPORT, TABLES, FIGURES = "report.html", "tables", "figures"  # of all of these, for people

PACKAGES = ("mimir_jax", "jax", "jaxlib", "flax", "numpy", "transformers", "tokenizers", "safetensors", "pyarrow")

_MetricsByColumn = TypeAdapter(dict[str, Metrics | None])


def claim(folder: Path, config: RunConfig, identity: Mapping[str, Any], overwrite: bool) -> bool:
    """Take a results folder for a configuration; True where it holds this very run's results, complete.

    Args:
        folder: made where it does not exist.
        config: of this run, with every default resolved.
        identity: what the configuration's names stood for: data fingerprint and checkpoint hashes.
        overwrite: discard another run's results.

    Raises:
        ConfigError: the folder cannot be written, or holds results of another configuration, other documents or
            other checkpoints, and not `overwrite`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A folder without metrics is of a run that did not finish: nothing but its stored statistics is of use.
        if (folder / METRICS).exists() and not overwrite:
            differences = _differences(folder, config, identity)
            if not differences:
                return True
            raise ConfigError(
                f"{folder} holds the results of another run ({'; '.join(differences)} differ); "
                "choose another --experiment or give --overwrite"
            )
        for name in (METRICS, SCORES, ROC, TEXTS, TRANSFER, AUDIT, EXPOSED, PUBLISHED, REPORT):
            (folder / name).unlink(missing_ok=True)
        for name in (TABLES, FIGURES):
            shutil.rmtree(folder / name, ignore_errors=True)
        write_text(folder / RUN, json.dumps({"identity": identity}, indent=2))
        write_text(folder / CONFIG, to_json(config))
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written: {error}") from error
    return False


def _differences(folder: Path, config: RunConfig, identity: Mapping[str, Any]) -> list[str]:
    before = dataclasses.asdict(from_json(folder / CONFIG))
    now = dataclasses.asdict(config)
    names = [name for name in now if now[name] != before[name] and name not in ("experiment", "results", "store")]
    try:
        old = json.loads((folder / RUN).read_text(encoding="utf-8"))["identity"]
    except (OSError, ValueError, KeyError):
        old = {}
    return names + [name for name in identity if identity[name] != old.get(name)]


def write_scores(
    path: Path,
    rows: Mapping[str, Sequence[Any]],
    scores: Mapping[str, Float[np.ndarray, " doc"]],
    reasons: Sequence[str | None],
) -> None:
    """scores.parquet: the columns of `rows`, one column a score, null where it is NaN, and the `reason` of nulls."""
    columns = {name: pa.array(values) for name, values in rows.items()}
    columns |= {name: pa.array(values, pa.float32(), mask=np.isnan(values)) for name, values in scores.items()}
    columns["reason"] = pa.array(reasons, pa.string())
    partial = path.with_suffix(".partial")
    pq.write_table(pa.table(columns), partial)
    os.replace(partial, path)


def read_scores(path: Path, names: Sequence[str]) -> dict[str, Float[np.ndarray, " doc"]]:
    """The score columns of scores.parquet; NaN for null."""
    table = pq.read_table(path, columns=list(names))
    return {name: np.asarray(table.column(name).to_numpy(zero_copy_only=False), np.float32) for name in names}


def write_metrics(path: Path, metrics: Mapping[str, Metrics | None]) -> None:
    """metrics.json: by column of scores.parquet; null where one side has no score at all."""
    plain = {name: None if row is None else dataclasses.asdict(row) for name, row in metrics.items()}
    write_text(path, json.dumps(plain, indent=2, allow_nan=False))


def read_metrics(path: Path) -> dict[str, Metrics | None]:
    """What `write_metrics` wrote."""
    return _MetricsByColumn.validate_json(path.read_text(encoding="utf-8"))


def write_transfer(path: Path, found: Mapping[str, Mapping[str, Transfer]]) -> None:
    """transfer.json: by name of the further non-members and column of scores.parquet."""
    plain = {group: {name: dataclasses.asdict(one) for name, one in rows.items()} for group, rows in found.items()}
    write_text(path, json.dumps(plain, indent=2, allow_nan=False))


def write_audit(path: Path, audit: Mapping[str, Any]) -> None:
    """audit.json: what `audit.verdict.audit` returned."""
    write_text(path, json.dumps(audit, indent=2, allow_nan=False))


def read_audit(path: Path) -> dict[str, Any] | None:
    """What `write_audit` wrote; None where there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def write_roc(path: Path, scores: Mapping[str, Float[np.ndarray, " doc"]], is_member: Bool[np.ndarray, " doc"]) -> None:
    """A figure of every ROC curve, linear and log-log."""
    from mimir_jax.report.figures import roc_figure  # matplotlib takes half a second to import

    roc_figure({name: roc_curve(values, is_member) for name, values in scores.items()}, path)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text + "\n", encoding="utf-8")
    os.replace(partial, path)


def versions() -> dict[str, str]:
    """Of Python, this package (with its commit where it runs from a checkout) and what numbers depend on."""
    found = {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}
    commit = _commit()
    return found | ({"commit": commit} if commit else {})


def _commit() -> str | None:
    """Of the checkout that this file is part of; None where it is installed, or git cannot tell."""
    here = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # an environment may lie in another project's checkout
        return git("describe", "--always", "--dirty", "--abbrev=40")
    except (OSError, subprocess.CalledProcessError):
        return None
