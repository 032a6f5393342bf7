"""How well scores tell members from non-members: pure functions of arrays, with intervals."""

from mimir_jax.metrics.evaluation import Metrics, TprEstimate, evaluate
from mimir_jax.metrics.intervals import Estimate
from mimir_jax.metrics.roc import MetricsError, RocCurve, auc_roc, pr_auc, roc_curve, tpr_at_fpr
from mimir_jax.metrics.transfer import Transfer, transfer

__all__ = [
    "Estimate",
    "Metrics",
    "MetricsError",
    "RocCurve",
    "TprEstimate",
    "Transfer",
    "auc_roc",
    "evaluate",
    "pr_auc",
    "roc_curve",
    "tpr_at_fpr",
    "transfer",
]
