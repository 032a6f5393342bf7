"""From documents to collections, and from attacks to ensembles: whatever is fitted is fitted on held-out documents.

The membership of one document is often beyond what its scores can tell; that of a collection may not be. (From
sub-texts to documents: `mimir_jax.scores.pool`.)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from mimir_jax.metrics.comparison import benjamini_hochberg
from mimir_jax.metrics.roc import MetricsError

FEWEST = 8
"""Documents of each side without which nothing is split and fitted."""
OUTLIERS = 0.025
"""Share of each feature's values at either end that is clipped, as in LLM Dataset Inference."""


@dataclass(frozen=True)
class DatasetInference:
    """Whether a collection was trained on, by comparison with documents of its kind that were not.

    Attributes:
        p_value: of the hypothesis that suspects and held-out documents are exchangeable: twice the median over splits.
        t_test: p-value of each split, Welch's one-sided test.
        permutation: p-value of each split, of the difference of means under permutations.
        effect: mean over splits of the standardized difference of means, positive if the suspects look like members.
        n_documents: tested in each split: suspects, held-out documents.
    """

    p_value: float
    t_test: tuple[float, ...]
    permutation: tuple[float, ...]
    effect: float
    n_documents: tuple[int, int]


def dataset_inference(
    suspects: Float[np.ndarray, "suspect feature"],
    heldout: Float[np.ndarray, "heldout _"],
    *,
    splits: int = 10,
    permutations: int = 1000,
    seed: int = 0,
) -> DatasetInference:
    """Test whether a collection was trained on, from the scores of many attacks.

    Each of several times, half of both sides is drawn to learn which scores tell (a logistic regression on
    standardized scores, their outliers clipped), and the other half is tested: is the mean of what was learned
    larger for the suspects? Maini, Jia, Papernot and Dziedzic, "LLM Dataset Inference: did you train on my
    dataset?", 2024, arXiv:2406.06443. P-values of dependent splits are joined as twice their median, which keeps
    the rate of false positives: Meinshausen, Meier and Bühlmann, "p-values for high-dimensional regression",
    Journal of the American Statistical Association 104 (2009).

    The held-out documents must be of the suspects' distribution, or what is found is the difference (`blind`).

    Args:
        suspects: scores by attack; documents with NaN are left out.
        heldout: likewise, of documents that were not trained on.
        splits: halvings.
        permutations: of the permutation test.
        seed: of all random choices.

    Raises:
        MetricsError: fewer than FEWEST documents on a side, or different numbers of features.
    """
    if suspects.shape[1] != heldout.shape[1] or not suspects.shape[1]:
        raise MetricsError(f"{suspects.shape[1]} features of suspects, {heldout.shape[1]} of held-out documents")
    sides = [values[~np.isnan(values).any(axis=1)] for values in (suspects, heldout)]
    if min(map(len, sides)) < FEWEST:
        raise MetricsError(f"{len(sides[0])} suspects and {len(sides[1])} held-out documents; {FEWEST} each are needed")
    t_tests, permuted, effects = [], [], []
    for rng in np.random.default_rng(seed).spawn(splits):
        orders = [rng.permutation(len(side)) for side in sides]
        learn = [side[order[: len(side) // 2]] for side, order in zip(sides, orders)]
        tested = [side[order[len(side) // 2 :]] for side, order in zip(sides, orders)]
        learned = _fit(np.concatenate(learn), np.repeat([True, False], [len(one) for one in learn]))
        first, second = (learned(side) for side in tested)
        t_tests.append(_welch(first, second))
        permuted.append(_permutation(first, second, permutations, rng))
        spread = np.sqrt((np.var(first, ddof=1) + np.var(second, ddof=1)) / 2)
        effects.append(float((first.mean() - second.mean()) / spread) if spread > 0 else 0.0)
    return DatasetInference(
        p_value=float(min(2 * np.median(t_tests), 1.0)) if splits > 1 else t_tests[0],
        t_test=tuple(t_tests),
        permutation=tuple(permuted),
        effect=float(np.mean(effects)),
        n_documents=(len(sides[0]) - len(sides[0]) // 2, len(sides[1]) - len(sides[1]) // 2),
    )


def infer_datasets(
    collections: Mapping[str, Float[np.ndarray, "_ feature"]],
    heldout: Float[np.ndarray, "heldout feature"],
    *,
    level: float = 0.05,
    splits: int = 10,
    permutations: int = 1000,
    seed: int = 0,
) -> dict[str, tuple[DatasetInference, bool]]:
    """`dataset_inference` of several collections, and which were trained on at a false discovery rate of `level`."""
    found = {
        name: dataset_inference(values, heldout, splits=splits, permutations=permutations, seed=seed)
        for name, values in collections.items()
    }
    adjusted = benjamini_hochberg([one.p_value for one in found.values()])
    return {name: (one, bool(p <= level)) for (name, one), p in zip(found.items(), adjusted)}


def ensemble(
    scores: Float[np.ndarray, "doc attack"],
    is_member: Bool[np.ndarray, " doc"],
    fitted_on: Bool[np.ndarray, " doc"],
) -> Float[np.ndarray, " doc"]:
    """One score of many attacks', by a logistic regression that is fitted on some documents and scores the others.

    Args:
        scores: by attack, NaN for none.
        is_member: labels; only those of `fitted_on` are read.
        fitted_on: documents to fit on, with some of both sides.

    Returns:
        Log-odds of membership of the other documents; NaN for those that were fitted on, whose score would be
        too good, and for those that lack one of the scores.

    Raises:
        MetricsError: fewer than FEWEST documents of a side to fit on.
    """
    whole = ~np.isnan(scores).any(axis=1)
    rows = whole & fitted_on
    fewest = min(np.count_nonzero(rows & is_member), np.count_nonzero(rows & ~is_member))
    if fewest < FEWEST:
        raise MetricsError(f"{fewest} documents of a side to fit an ensemble on; {FEWEST} are needed")
    found = np.full(len(scores), np.nan)
    others = whole & ~fitted_on
    if others.any():
        found[others] = _fit(scores[rows], is_member[rows])(scores[others])
    return found


def _fit(
    features: Float[np.ndarray, "doc feature"], labels: Bool[np.ndarray, " doc"]
) -> Callable[[np.ndarray], np.ndarray]:
    """Logistic regression on standardized features without outliers; the fitted function gives log-odds."""
    from sklearn.linear_model import LogisticRegression

    low, high = np.quantile(features, [OUTLIERS, 1 - OUTLIERS], axis=0)
    clipped = np.clip(features, low, high)
    mean, scale = clipped.mean(axis=0), clipped.std(axis=0)
    scale = np.where(scale == 0, 1.0, scale)

    def standardized(values: np.ndarray) -> np.ndarray:
        return np.asarray((np.clip(values, low, high) - mean) / scale)

    model = LogisticRegression(solver="liblinear", class_weight="balanced").fit(standardized(features), labels)
    return lambda values: np.asarray(model.decision_function(standardized(values)))


def _welch(first: np.ndarray, second: np.ndarray) -> float:
    from scipy.stats import ttest_ind

    if np.ptp(first) == 0 and np.ptp(second) == 0:
        return 1.0
    return float(ttest_ind(first, second, equal_var=False, alternative="greater").pvalue)


def _permutation(first: np.ndarray, second: np.ndarray, permutations: int, rng: np.random.Generator) -> float:
    """P-value of the difference of means, itself counted among the permutations."""
    together = np.concatenate([first, second])
    drawn = rng.permuted(np.tile(together, (permutations, 1)), axis=1)
    # The sum of one side decides the difference of means.
    return float((np.count_nonzero(drawn[:, : len(first)].sum(axis=1) >= first.sum() - 1e-12) + 1) / (permutations + 1))
