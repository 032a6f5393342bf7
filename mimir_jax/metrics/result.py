"""What an evaluation returns, and how it shows itself in a notebook."""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

from mimir_jax.metrics.intervals import Estimate


@dataclass(frozen=True)
class TprEstimate(Estimate):
    """A true-positive rate at a false-positive budget, with its interval."""

    resolvable: bool
    """Whether the budget allows even one scored non-member; if not, this is the rate at none."""


@dataclass(frozen=True)
class Metrics:
    """What one attack's scores say; `dataclasses.asdict` gives a form that JSON can hold."""

    auc_roc: Estimate
    """P(member scores higher) + P(equal) / 2."""
    pr_auc: Estimate
    """Average precision, members positive; a score that tells nothing gets the share of members."""
    tpr_at_fpr: dict[float, TprEstimate]
    """By false-positive budget: the largest true-positive rate within it."""
    n_members: int
    """Members that were scored; all metrics are of these."""
    n_nonmembers: int
    """Non-members that were scored."""
    n_unscored_members: int
    """Members without a score, left out."""
    n_unscored_nonmembers: int
    """Non-members without a score, left out."""
    confidence: float
    """Of the intervals."""
    notes: tuple[str, ...] = ()
    """What a reader must know of them, a sentence each."""

    def _repr_html_(self) -> str:
        return metrics_table({"": self})


def metrics_table(rows: Mapping[str, Metrics]) -> str:
    """A table, one row a name: AUCs and TPRs over their intervals, and how many documents they are of.

    HTML without scripts, in the notebook's own colors.
    """
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


def _shown(text: str) -> str:
    return escape("".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text))
