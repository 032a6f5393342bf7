"""`mimir-jax average`: the mean of MIMIR's result files, with our metrics and what its script of averages prints."""

from rich.console import Console

from mimir_jax.cli.shared import say
from mimir_jax.compat.mimir.results import average_references
from mimir_jax.report.tables import metrics_table


def main(arguments: list[str], console: Console, errors: Console) -> None:
    found = average_references(arguments)
    console.print(metrics_table({"mean": found.metrics}, title=f"mean of {len(arguments)} result files"))
    tprs = ", ".join(f"TPR {tpr:.4f} below FPR {fpr}" for fpr, tpr in found.mimir["tpr_at_low_fpr"].items())
    say(console, f"MIMIR's script, with non-members positive: AUC {found.mimir['roc_auc']:.4f}, {tprs}")
