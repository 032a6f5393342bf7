"""Tables of metrics for the terminal."""

from collections.abc import Mapping

from rich import box
from rich.table import Table
from rich.text import Text

from mimir_jax.metrics import Metrics


def visible(text: str) -> str:
    """Untrusted text on one line: control, bidirectional and other unprintable characters written out.

    `a\\x1b[2J` would clear the terminal; it becomes the characters `a`, backslash, `x1b[2J`.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def metrics_table(metrics: Mapping[str, Metrics], title: str = "") -> Table:
    """One row an attack: AUC-ROC and TPR at each FPR over their intervals, PR-AUC, numbers of documents.

    TPRs and their intervals are percentages. Those at an FPR that the sample cannot resolve are starred, and
    the caption says why. It fits a terminal of 80 columns at three FPRs and attack names of 12 characters;
    longer names are folded, never cut.

    Args:
        metrics: by attack, as `evaluate` returns them; rows keep their order.
        title: above the table, such as the model and the source of the documents.
    """
    fprs = list(dict.fromkeys(fpr for row in metrics.values() for fpr in row.tpr_at_fpr))
    # Text, never str: rich would obey markup in names that come from files.
    table = Table(
        title=Text(visible(title)) if title else None,
        caption=Text("\n".join([*_notes(metrics), *_unresolved(metrics)])),
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
            _stacked(_decimal(auc.value), f"[{_decimal(auc.low)},{_decimal(auc.high)}]"),
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
    return table


def checkpoints_table(metrics: Mapping[str, Metrics], title: str = "") -> Table:
    """AUC-ROC with its interval: one row an attack, one column a checkpoint.

    Args:
        metrics: by `<checkpoint>/<attack>`, as `evaluate` returns them; rows and columns keep their order.
        title: above the table.
    """
    pairs = [name.rsplit("/", 1) for name in metrics]
    checkpoints = list(dict.fromkeys(checkpoint for checkpoint, _ in pairs))
    table = Table(
        title=Text(visible(title)) if title else None,
        caption=Text("\n".join(["AUC-ROC", *_notes(metrics)])),
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
                else _stacked(_decimal(auc.value), f"[{_decimal(auc.low)},{_decimal(auc.high)}]")
            )
        table.add_row(*cells)
    return table


def _notes(metrics: Mapping[str, Metrics]) -> list[str]:
    """What a reader must know of the numbers."""
    notes = [
        f"in brackets: {_percent(confidence)} bootstrap intervals"
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
