"""Results folders made by hand: what a run writes, without a run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mimir_jax.arrays import TokenStats
from mimir_jax.config import RunConfig, to_json
from mimir_jax.metrics import evaluate
from mimir_jax.report import results
from mimir_jax.report.exposure import best_column, choose, write_exposure
from mimir_jax.report.finished import Comparison, Measured, TellingWord

WORDS = ["The", " quick", " brown", " fox", "\n", " jumps", " über", " the", " lazy", " dog"]
HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)>{{7*7}}&\"'`|\\input{x}$\\frac_%#~^ "
    "\x1b[2J\x07\u202e\u2066\x00 *md* [l](javascript:x) https://evil.example"
)


class Row(NamedTuple):
    """A document as far as exposure needs it."""

    id: str
    is_member: bool
    source: str


def write_finished(
    folder: Path,
    attacks: Mapping[str, float],
    *,
    n: int = 100,
    seed: int = 0,
    config: RunConfig | None = None,
    models: Sequence[str] = ("target",),
    sources: Sequence[str] = ("verse", "prose"),
    documents: str = "fingerprint",
    blind: float | None = 0.52,
    unscored: int = 0,
    notes: Sequence[str] = (),
    pieces: Sequence[str] = WORDS,
    name: str = "doc {}",
) -> Path:
    """A finished run of `n` members and `n` non-members; `attacks` says how far each column sets them apart."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    is_member = np.arange(2 * n) < n
    shared = rng.normal(size=2 * n)  # what all attacks see of a document
    scores = {
        column: np.asarray(shared + rng.normal(size=2 * n) + gap * is_member, np.float32)
        for column, gap in attacks.items()
    }
    for values in scores.values():
        values[:unscored] = np.nan
    rows = [Row(name.format(i), bool(is_member[i]), sources[i % len(sources)]) for i in range(2 * n)]
    tokens = rng.integers(100, 400, size=2 * n)
    columns = {
        "id": [row.id for row in rows],
        "is_member": [row.is_member for row in rows],
        "source": [row.source for row in rows],
        "n_tokens": tokens.tolist(),
    }
    why = ["empty document" if i < unscored else None for i in range(2 * n)]
    metrics = evaluate(scores, is_member, n_bootstrap=50)
    results.write_scores(folder / results.SCORES, columns, scores, why)
    config = config or RunConfig(experiment=folder.name, attacks=tuple(attacks))
    results.write_text(folder / results.CONFIG, to_json(config))
    run = {
        "identity": {"documents": documents},
        "versions": {"mimir_jax": "0", "jax": "0"},
        "device": {"kind": "cpu", "count": 1},
        "mesh": {"data": 1, "model": 1},
        "targets": [{"name": one, "folder": f"/models/{one}", "revision": None, "files": {}} for one in models],
        "references": [],
        "stages": {"score": {"seconds": 1.5, "tokens_per_second": 1234.5}},
        "notes": list(notes),
    }
    results.write_text(folder / results.RUN, json.dumps(run))
    if blind is not None:
        results.write_text(folder / results.AUDIT, json.dumps(audit(metrics, blind)))
    best = best_column(metrics)
    assert best is not None
    values = scores[best]

    def stats(i: int) -> TokenStats:
        ids = np.arange(len(pieces) * 3, dtype=np.int32)
        log_prob = -np.asarray(np.random.default_rng(i).exponential(2, len(ids)), np.float32)
        mask = ids > 0
        return TokenStats(ids, log_prob * mask, log_prob - 1, np.ones_like(log_prob), log_prob, ids % 7 + 1, mask)

    write_exposure(
        folder / results.EXPOSED,
        best,
        list(choose(values, is_member)),
        rows,
        values,
        stats,
        lambda ids: [pieces[i % len(pieces)] for i in ids],
        lambda i: [12],
    )
    results.write_metrics(folder / results.METRICS, metrics)
    return folder


def audit(metrics: Mapping[str, Any], blind: float) -> dict[str, Any]:
    """audit.json: a best baseline at an AUC, and each attack against it."""
    compared = {}
    for column, row in metrics.items():
        apart = row.auc_roc.value - blind
        beats = apart > 0.1
        said = f"{column} {'beats' if beats else 'does not beat'} the best blind baseline"
        compared[column] = asdict(
            Comparison(apart, apart - 0.1, apart + 0.1, 0.01 if beats else 0.4, beats, said, row.auc_roc)
        )
    of = {"auc_roc": blind, "low": blind - 0.03, "high": blind + 0.03}
    return {
        "baselines": {"bag of words": of, "length": {"auc_roc": 0.5, "low": 0.47, "high": 0.53}},
        "best": {"name": "chosen in nested folds", **of, "chosen": {"bag of words": 5}},
        "scores": None,
        "comparisons": compared,
        "shift": {"words": asdict(Measured(120.0, None, 0.25, 0.0004))},
        "telling_words": [asdict(TellingWord("the", 50, 40, 1.0)), asdict(TellingWord(f"2024{HOSTILE}", 1, 40, -6.5))],
        "notes": [f"not above what needs no model: {name}" for name, one in compared.items() if not one["beats"]],
    }
