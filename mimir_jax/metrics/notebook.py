"""How metrics and curves show themselves in a notebook: HTML without scripts, in the notebook's own colors."""

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from mimir_jax.metrics.evaluation import Metrics

POINTS = 400
"""Of a curve that are drawn at most."""


def metrics_table(rows: "Mapping[str, Metrics]") -> str:
    """A table, one row a name: AUCs and TPRs over their intervals, and how many documents they are of."""
    fprs = list(dict.fromkeys(fpr for row in rows.values() for fpr in row.tpr_at_fpr))
    titles = ["", "AUC-ROC", "PR-AUC", *(f"TPR at {100 * fpr:g}% FPR" for fpr in fprs), "members + non-members"]
    head = "".join(f'<th scope="col">{title}</th>' for title in titles)
    body = []
    for name, row in rows.items():
        found = [row.auc_roc, row.pr_auc, *(row.tpr_at_fpr.get(fpr) for fpr in fprs)]
        cells = ["-" if one is None else f"{one.value:.3f}<br>[{one.low:.3f}, {one.high:.3f}]" for one in found]
        unscored = row.n_unscored_members + row.n_unscored_nonmembers
        cells.append(f"{row.n_members} + {row.n_nonmembers}" + (f"<br>{unscored} unscored" if unscored else ""))
        body.append(
            f'<tr><th scope="row">{_shown(name)}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
        )
    notes = dict.fromkeys(note for row in rows.values() for note in row.notes)
    below = "".join(f"<br><small>{_shown(note)}</small>" for note in notes)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>{below}"


def curve(fpr: Float[np.ndarray, " threshold"], tpr: Float[np.ndarray, " threshold"]) -> str:
    """An ROC curve as a small figure with its AUC."""
    area = float(np.trapezoid(tpr, fpr))
    some = np.unique(np.linspace(0, len(fpr) - 1, POINTS).round().astype(int))
    points = " ".join(f"{10 + 200 * x:.1f},{210 - 200 * y:.1f}" for x, y in zip(fpr[some], tpr[some]))
    label = f"ROC curve, AUC {area:.3f}"
    return (
        f'<figure style="margin:0"><svg role="img" aria-label="{label}" viewBox="0 0 220 220" width="220" height="220">'
        '<g fill="none" stroke="currentColor"><rect x="10" y="10" width="200" height="200" opacity=".4"/>'
        '<path d="M10 210 210 10" opacity=".4"/>'
        f'<polyline points="{points}" stroke="#0072B2" stroke-width="2"/></g></svg>'
        f"<figcaption>{label}, of {len(fpr) - 1} distinct scores; x: false-positive rate, y: true-positive rate"
        "</figcaption></figure>"
    )


def _shown(text: str) -> str:
    return escape("".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text))
