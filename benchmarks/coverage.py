"""How often 95% intervals cover the truth: every interval that `evaluate` offers, on scores whose metrics are known.

    python benchmarks/coverage.py                     # the table of benchmarks/README.md, about half an hour
    python benchmarks/coverage.py --trials 200        # minutes, with errors of 1.5 points

A trial draws n members and n non-members and asks whether each interval holds the population's metric. Scores are
normal, members shifted (`normal`); or a share of the members is far above all others and the rest is like the
non-members (`memorized`), as where a model has memorized some documents.
"""

import argparse
import json
from collections.abc import Sequence
from functools import cache

import numpy as np
from scipy.stats import norm

from mimir_jax.metrics import evaluate
from mimir_jax.metrics.intervals import METHODS

SIZES = (50, 100, 200, 500, 2000)
AUCS = (0.5, 0.7, 0.9, 0.99)
FPRS = (0.001, 0.01, 0.05)
LARGE = 1 << 20
"""Scores from which the population's PR-AUC is computed."""


Found = dict[str, dict[float, dict[int, dict[str, dict[str, float]]]]]
"""Coverage by kind of scores, AUC, documents of a side, metric and method."""


def draw(kind: str, auc: float, n: int, rng: np.random.Generator) -> np.ndarray:
    """Scores of n members, then of n non-members."""
    scores = rng.normal(size=2 * n)
    if kind == "normal":
        scores[:n] += np.sqrt(2) * norm.ppf(auc)
    else:
        scores[:n] += 100 * (rng.random(n) < 2 * auc - 1)
    return scores


def true_tpr(kind: str, auc: float, fpr: float) -> float:
    if kind == "normal":
        return float(norm.sf(norm.isf(fpr) - np.sqrt(2) * norm.ppf(auc)))
    return 2 * auc - 1 + (2 - 2 * auc) * fpr


@cache
def true_pr_auc(kind: str, auc: float) -> float:
    """Average precision with as many members as non-members: the mean precision at the members' scores."""
    at = np.sort(draw(kind, auc, LARGE, np.random.default_rng(0))[:LARGE])
    called = 1 - np.arange(LARGE) / LARGE
    falsely = norm.sf(at)
    return float(np.mean(called / (called + falsely)))


def coverage(
    kind: str, auc: float, n: int, trials: int, resamples: int, fprs: Sequence[float] = FPRS, seed: int = 0
) -> dict[str, dict[str, float]]:
    """By metric and method, the share of trials in which the interval holds the truth.

    Of FPRs only those that n non-members resolve.
    """
    rng = np.random.default_rng([seed, n, round(1000 * auc)])
    is_member = np.arange(2 * n) < n
    fprs = tuple(fpr for fpr in fprs if fpr * n >= 1)
    truth = {"AUC-ROC": auc, "PR-AUC": true_pr_auc(kind, auc)}
    truth |= {f"TPR at {100 * fpr:g}%": true_tpr(kind, auc, fpr) for fpr in fprs}
    rows = max(map(len, METHODS.values()))
    hits: dict[str, dict[str, list[bool]]] = {name: {} for name in truth}
    for trial in range(trials):
        scores = draw(kind, auc, n, rng)
        for row in range(rows):
            chosen = {name: values[min(row, len(values) - 1)] for name, values in METHODS.items()}
            found = evaluate(scores, is_member, fprs=fprs, n_bootstrap=resamples, seed=trial, **chosen)
            estimates = {
                "AUC-ROC": (found.auc_roc, chosen["auc_interval"]),
                "PR-AUC": (found.pr_auc, chosen["pr_interval"]),
            }
            for fpr, tpr in found.tpr_at_fpr.items():
                estimates[f"TPR at {100 * fpr:g}%"] = (tpr, chosen["tpr_interval"])
            for name, (estimate, method) in estimates.items():
                hits[name].setdefault(method, []).append(estimate.low <= truth[name] <= estimate.high)
    return {name: {method: float(np.mean(one)) for method, one in methods.items()} for name, methods in hits.items()}


def table(found: Found) -> list[str]:
    """A row a metric, a method and a kind of scores, a column a number of documents: least to most over the AUCs."""
    lines = ["| metric | interval | scores | " + " | ".join(f"n = {n}" for n in SIZES) + " |"]
    lines.append("|---|---|---|" + "---|" * len(SIZES))
    cells: dict[tuple[str, str, str], dict[int, list[float]]] = {}
    for kind, by_auc in found.items():
        for by_size in by_auc.values():
            for n, metrics in by_size.items():
                for metric, methods in metrics.items():
                    for method, share in methods.items():
                        cells.setdefault((metric, method, kind), {}).setdefault(n, []).append(100 * share)
    for (metric, method, kind), by_n in sorted(cells.items(), key=lambda item: item[0][0]):
        shares = [f"{min(by_n[n]):.0f}-{max(by_n[n]):.0f}" if n in by_n else "" for n in SIZES]
        lines.append(f"| {metric} | {method} | {kind} | {' | '.join(shares)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=200)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--json", help="file for all figures")
    options = parser.parse_args()
    found: Found = {
        kind: {
            auc: {n: coverage(kind, auc, n, options.trials, options.resamples) for n in options.sizes} for auc in AUCS
        }
        for kind in ("normal", "memorized")
    }
    print("\n".join(table(found)))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(found, file)


if __name__ == "__main__":
    main()
