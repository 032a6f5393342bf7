"""Tables of metrics for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from rich import box
from rich.table import Table
from rich.text import Text

from mimir_jax.metrics import Metrics
from mimir_jax.report.escape import visible


def spread_table(rows: Mapping[str, np.ndarray], title: str = "") -> Table:
    """Of each quantity its mean and its 5%, 50% and 95% quantiles."""
    table = Table(title=Text(visible(title)) if title else None, box=box.SIMPLE_HEAD)
    table.add_column("", overflow="fold")
    for header in ("mean", "5%", "50%", "95%"):
        table.add_column(header, justify="right")
    for name, values in rows.items():
        known = np.asarray(values, np.float64)
        known = known[np.isfinite(known)]
        cells = [known.mean(), *np.quantile(known, (0.05, 0.5, 0.95))] if known.size else [np.nan] * 4
        table.add_row(Text(visible(name)), *(f"{cell:.4g}" for cell in cells))
    return table


def metrics_table(metrics: Mapping[str, Metrics], title: str = "", audit: Mapping[str, Any] | None = None) -> Table:
    """One row an attack: AUC-ROC and TPR at each FPR over their intervals, PR-AUC, numbers of documents.

    TPRs and their intervals are percentages. Those at an FPR that the sample cannot resolve are starred, and
    the caption says why. It fits a terminal of 80 columns at three FPRs and attack names of 12 characters;
    longer names are folded, never cut.

    Args:
        metrics: by attack, as `evaluate` returns them; rows keep their order.
        title: above the table, such as the model and the source of the documents.
        audit: as in audit.json: the last row is then what is reached without a model, and a dagger is at the AUC of
            attacks that do not beat it.
    """
    fprs = list(dict.fromkeys(fpr for row in metrics.values() for fpr in row.tpr_at_fpr))
    # Text, never str: rich would obey markup in names that come from files.
    table = Table(
        title=Text(visible(title)) if title else None,
        caption=Text("\n".join([*_notes(metrics), *_unresolved(metrics), *_not_above(audit)])),
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
    )
    table.add_column("attack", overflow="fold")
    for header in (
        "AUC-ROC",
        "PR-AUC",
        *(f"TPR at\n{_percent(fpr)} FPR" for fpr in fprs),
        "members +\nnon-members",
    ):
        table.add_column(Text(header), justify="right", overflow="fold")

    for name, row in metrics.items():
        auc = row.auc_roc
        cells = [
            Text(visible(name)),
            _stacked(_decimal(auc.value) + _dagger(audit, name), f"[{_decimal(auc.low)},{_decimal(auc.high)}]"),
            Text(_decimal(row.pr_auc.value)),
        ]
        for fpr in fprs:
            tpr = row.tpr_at_fpr.get(fpr)
            if tpr is None:
                cells.append(Text("-"))
                continue
            star = "" if tpr.resolvable else "*"
            cells.append(
                _stacked(f"{_hundredths(tpr.value)}%{star}", f"[{_hundredths(tpr.low)},{_hundredths(tpr.high)}]")
            )
        unscored = row.n_unscored_members + row.n_unscored_nonmembers
        cells.append(_stacked(f"{row.n_members} + {row.n_nonmembers}", f"{unscored} unscored" if unscored else ""))
        table.add_row(*cells)
    best = (audit or {}).get("best")
    if best:
        table.add_section()
        table.add_row(Text("no model"), _auc(best), *[Text("-")] * (len(fprs) + 1), Text(""))
    return table


def baselines_table(audit: Mapping[str, Any], title: str = "") -> Table:
    """AUC-ROC, with its interval, of each baseline alone, best first, and of the best in nested folds.

    Args:
        audit: as in audit.json.
        title: above the table.
    """
    table = Table(title=Text(visible(title)) if title else None, box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("without a model", overflow="fold")
    table.add_column("AUC-ROC", justify="right")
    table.add_column("folds that chose it", justify="right")
    best = audit["best"]
    for name, row in sorted(audit["baselines"].items(), key=lambda item: -item[1]["auc_roc"]):
        table.add_row(Text(visible(name)), _auc(row), Text(str(best["chosen"].get(name, "-"))))
    if best:
        table.add_section()
        table.add_row(Text("best, " + best["name"]), _auc(best), Text(str(sum(best["chosen"].values()))))
    return table


def checkpoints_table(metrics: Mapping[str, Metrics], title: str = "", audit: Mapping[str, Any] | None = None) -> Table:
    """AUC-ROC with its interval: one row an attack, one column a checkpoint.

    Args:
        metrics: by `<checkpoint>/<attack>`, as `evaluate` returns them; rows and columns keep their order.
        title: above the table.
        audit: see `metrics_table`.
    """
    pairs = [name.rsplit("/", 1) for name in metrics]
    checkpoints = list(dict.fromkeys(checkpoint for checkpoint, _ in pairs))
    table = Table(
        title=Text(visible(title)) if title else None,
        caption=Text("\n".join(["AUC-ROC", *_notes(metrics), *_not_above(audit)])),
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
    )
    table.add_column("attack", overflow="fold")
    for checkpoint in checkpoints:
        table.add_column(Text(visible(checkpoint)), justify="right", overflow="fold")
    for attack in dict.fromkeys(attack for _, attack in pairs):
        cells = [Text(visible(attack))]
        for checkpoint in checkpoints:
            row = metrics.get(f"{checkpoint}/{attack}")
            auc = row.auc_roc if row is not None else None
            cells.append(
                Text("-")
                if auc is None
                else _stacked(
                    _decimal(auc.value) + _dagger(audit, f"{checkpoint}/{attack}"),
                    f"[{_decimal(auc.low)},{_decimal(auc.high)}]",
                )
            )
        table.add_row(*cells)
    best = (audit or {}).get("best")
    if best:
        table.add_section()
        table.add_row(Text("no model"), *[_auc(best)] * len(checkpoints))
    return table


def _auc(row: Mapping[str, Any]) -> Text:
    return _stacked(_decimal(row["auc_roc"]), f"[{_decimal(row['low'])},{_decimal(row['high'])}]")


def _dagger(audit: Mapping[str, Any] | None, name: str) -> str:
    compared = (audit or {}).get("comparisons", {}).get(name)
    return "" if compared is None or compared["beats"] else "†"


def _not_above(audit: Mapping[str, Any] | None) -> list[str]:
    compared = (audit or {}).get("comparisons", {})
    if all(one["beats"] for one in compared.values()):
        return []
    return ["† does not beat what is reached without the model (last row)"]


def _notes(metrics: Mapping[str, Metrics]) -> list[str]:
    """What a reader must know of the numbers."""
    notes = [
        f"in brackets: {_percent(confidence)} intervals"
        for confidence in sorted({row.confidence for row in metrics.values()})
    ]
    return notes


def _unresolved(metrics: Mapping[str, Metrics]) -> list[str]:
    if all(tpr.resolvable for row in metrics.values() for tpr in row.tpr_at_fpr.values()):
        return []
    return ["* too few non-members to resolve this FPR: TPR at no false positive"]


def _stacked(value: str, below: str) -> Text:
    return Text.assemble(value, "\n", (below, "dim")) if below else Text(value)


def _decimal(share: float) -> str:
    return "1.00" if share > 0.9995 else f"{share:.3f}".removeprefix("0")


def _hundredths(share: float) -> str:
    return "100" if share > 0.9995 else f"{100 * share:.1f}"


def _percent(share: float) -> str:
    return f"{100 * share:g}%"


def risk_table(
    names: Sequence[str],
    score: Float[np.ndarray, " doc"],
    p_value: Float[np.ndarray, " doc"],
    exposed: Bool[np.ndarray, " doc"],
    fpr: float,
    most: int = 10,
) -> Table:
    """The documents that a checkpoint gives away most.

    Args:
        names: ids of the documents that were trained on.
        score: what the checkpoint gained over its base, in nats per token; NaN for none.
        p_value: share of documents that were not trained on with such a score.
        exposed: whether that is at most `fpr`.
        fpr: share of such documents that would be called exposed.
        most: rows.
    """
    known = int(np.count_nonzero(~np.isnan(score)))
    said = f"{int(exposed.sum())} of {known} documents are exposed; {fpr * known:.1f} would be by chance"
    table = Table(
        title=Text(f"what leaked, at a false-positive rate of {_percent(fpr)}"),
        caption=Text(said),
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
    )
    table.add_column("most exposed", overflow="fold")
    table.add_column("gain, nats/token ", justify="right")
    table.add_column("p", justify="right")
    order = np.argsort(np.where(np.isnan(score), -np.inf, score), kind="stable")[::-1]
    for i in [i for i in order.tolist() if not np.isnan(score[i])][:most]:
        table.add_row(Text(visible(names[i])), f"{score[i]:+.3f} ", f"{p_value[i]:.3f}".removeprefix("0"))
    return table
