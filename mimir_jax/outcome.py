"""What a run found: metrics of its table, the files of its results folder, and a finished folder read again."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
from jaxtyping import Float

from mimir_jax.audit.verdict import audit
from mimir_jax.config import ConfigError, RunConfig
from mimir_jax.data.documents import Document
from mimir_jax.data.ngram_index import member_overlaps
from mimir_jax.job import Job
from mimir_jax.metrics import Metrics, Transfer, evaluate, transfer
from mimir_jax.metrics.intervals import METHODS, interval_notes
from mimir_jax.metrics.result import metrics_table
from mimir_jax.report import results
from mimir_jax.report.escape import visible
from mimir_jax.report.findings import verdict
from mimir_jax.report.finished import OVERLAP, audit_of
from mimir_jax.scores import sentence
from mimir_jax.table import Table, table_rows, wholes


@dataclass(frozen=True)
class Results:
    """What a run found.

    Attributes:
        folder: where it is written.
        documents: the rows; of a full document its id, its side and its sub-texts joined.
        scores: [doc] by column, NaN where there is none. A column is an attack, `ref-<name>` where it takes a
            reference, with `<checkpoint>/` in front where several were attacked.
        metrics: by column; None where no member or no non-member has a score.
        notes: what a reader must know, a sentence each.
        computed: False where the folder held the results already.
        texts: what was scored: the documents, or their sub-texts.
        text_scores: [text] by column.
        text_groups: of each text "", or which further non-members it belongs to.
        audit: what is reached without the model, see `audit.verdict.audit`; None where that was not asked for.
    """

    folder: Path
    documents: list[Document]
    scores: dict[str, Float[np.ndarray, " doc"]]
    metrics: dict[str, Metrics | None]
    notes: list[str]
    computed: bool = True
    texts: list[Document] = field(default_factory=list)
    text_scores: dict[str, Float[np.ndarray, " text"]] = field(default_factory=dict)
    text_groups: list[str] = field(default_factory=list)
    audit: dict[str, Any] | None = None

    def _repr_html_(self) -> str:
        """The verdict, the table and where the report is, for a notebook."""
        answer = verdict(self.metrics, audit_of(self.audit)).answer
        table = metrics_table({name: row for name, row in self.metrics.items() if row is not None})
        page = visible(str(self.folder / results.REPORT))
        return f"<p><strong>{escape(visible(answer))}</strong></p>{table}<p>{escape(page)}</p>"


def finish(job: Job, folder: Path, facts: Mapping[str, Any], texts: Table, table: Table) -> Results:
    """Metrics, and the files of the results folder."""
    config = job.config
    is_member = np.array([document.is_member for document in table.documents], bool)
    main = np.array([not group for group in table.groups], bool)
    of_main = {name: values[main] for name, values in table.scores.items()}
    with job.timed("metrics"), job.bars("metrics"):
        metrics = _evaluate(of_main, is_member[main], config)
    settings = dataclasses.asdict(config.metrics)
    for note in interval_notes(**{name: settings[name] for name in METHODS}):
        job.note(note)
    for name in (name for name, row in metrics.items() if row is None):
        job.note(f"{name}: one side has no score at all, so no metrics")
    audited, overlaps = None, list[float]()
    if config.audit:
        with job.timed("audit"), job.bars("audit: what needs no model"):
            rows = [document for document, of in zip(table.documents, main) if of]
            # The beginnings of one text must not be on both sides of a cross-validation.
            groups = [(d.is_member, d.row, d.source) for d in rows] if config.data.tok_by_tok else None
            audited = audit(rows, of_main, groups=groups, confidence=config.metrics.confidence, seed=config.seed)
            overlaps = member_overlaps([d.text for d in table.documents], is_member).tolist()
    unscored = sum(map(bool, table.reasons))
    if unscored:
        job.note(f"{unscored} documents have a null score; the column `reason` of scores.parquet says why")
    with job.timed("write"):
        for name, one in (results.SCORES, table), *([(results.TEXTS, texts)] if texts is not table else []):
            why = [sentence(reasons, len(one.scores)) for reasons in one.reasons]
            columns = table_rows(one)
            if one is table and audited is not None:
                columns[OVERLAP] = overlaps
            results.write_scores(folder / name, columns, one.scores, why)
        if audited is not None:
            results.write_audit(folder / results.AUDIT, audited)
        results.write_roc(folder / results.ROC, _with_metrics(of_main, metrics), is_member[main])
        if not main.all():
            moved = {
                group: _transfer(table, _with_metrics(of_main, metrics), is_member[main], group, config.metrics.fprs)
                for group in dict.fromkeys(table.groups)
                if group
            }
            results.write_transfer(folder / results.TRANSFER, moved)
    provenance = {
        "identity": facts["identity"],
        "versions": results.versions(),
        "device": {"kind": jax.devices()[0].device_kind, "count": jax.device_count()},
        "mesh": dict(job.mesh.shape),
        "layout": job.layout,
        "processes": jax.process_count(),
        "targets": facts["targets"],
        "references": facts["references"],
        "documents": {
            "members": int(is_member[main].sum()),
            "nonmembers": int((~is_member)[main].sum()),
            "unscored": unscored,
            "overlapping": facts["overlapping"],
        },
        "stages": job.stages,
        "notes": job.notes,
    }
    results.write_text(folder / results.RUN, json.dumps(provenance, indent=2))
    results.write_metrics(folder / results.METRICS, metrics)  # last: it says that the folder is complete
    scored = texts.documents, texts.scores, texts.groups
    return Results(folder, table.documents, table.scores, metrics, job.notes, True, *scored, audit=audited)


def _transfer(
    table: Table, main: Mapping[str, np.ndarray], is_member: np.ndarray, group: str, fprs: Sequence[float]
) -> dict[str, Transfer]:
    """By column, what thresholds of the main documents do on further non-members."""
    rows = np.array([one == group for one in table.groups], bool)
    return {
        name: transfer(values[is_member], values[~is_member], table.scores[name][rows], fprs)
        for name, values in main.items()
        if np.isfinite(table.scores[name][rows]).any()
    }


def read_finished(folder: Path, texts: list[Document], groups: list[str]) -> Results:
    """The results of a finished run on these texts."""
    whole = all(text.parent is None for text in texts)
    try:
        metrics = results.read_metrics(folder / results.METRICS)
        scores = results.read_scores(folder / results.SCORES, list(metrics))
        of_texts = scores if whole else results.read_scores(folder / results.TEXTS, list(metrics))
        audited = results.read_audit(folder / results.AUDIT)
        notes = json.loads((folder / results.RUN).read_text(encoding="utf-8"))["notes"]
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"{folder}: results that cannot be read ({reason}); give --overwrite") from error
    documents = texts if whole else wholes(texts, groups)[0]
    return Results(folder, documents, scores, metrics, notes, False, texts, of_texts, groups, audited)


def _evaluate(scores: dict[str, np.ndarray], is_member: np.ndarray, config: RunConfig) -> dict[str, Metrics | None]:
    possible = {
        name: values
        for name, values in scores.items()
        if np.isfinite(values[is_member]).any() and np.isfinite(values[~is_member]).any()
    }
    found = evaluate(possible, is_member, **dataclasses.asdict(config.metrics)) if possible else {}
    return {name: found.get(name) for name in scores}


def _with_metrics(scores: dict[str, np.ndarray], metrics: dict[str, Metrics | None]) -> dict[str, np.ndarray]:
    return {name: values for name, values in scores.items() if metrics[name] is not None}
