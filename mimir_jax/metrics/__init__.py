"""How well scores tell members from non-members: pure functions of arrays, with intervals."""

from mimir_jax.metrics.comparison import Difference, benjamini_hochberg, compare
from mimir_jax.metrics.decisions import Calibration, calibrate, pick_threshold
from mimir_jax.metrics.evaluation import evaluate
from mimir_jax.metrics.intervals import Estimate
from mimir_jax.metrics.result import Metrics, TprEstimate
from mimir_jax.metrics.roc import MetricsError, RocCurve, auc_roc, pr_auc, roc_curve, tpr_at_fpr
from mimir_jax.metrics.transfer import Transfer, transfer

__all__ = [
    "Calibration",
    "Difference",
    "Estimate",
    "Metrics",
    "MetricsError",
    "RocCurve",
    "TprEstimate",
    "Transfer",
    "auc_roc",
    "benjamini_hochberg",
    "calibrate",
    "compare",
    "evaluate",
    "pick_threshold",
    "pr_auc",
    "roc_curve",
    "tpr_at_fpr",
    "transfer",
]
