"""How well members and non-members are told apart without the model: cross-validated baselines, and the best of them.

The best baseline is chosen inside nested folds (Varma and Simon, "Bias in error estimation when using
cross-validation for model selection", BMC Bioinformatics 7, 2006): the one that scores a fold is chosen on the other
folds alone, so that its AUC is not the largest of several tries.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float, Int

from mimir_jax.audit.baselines import BASELINES, FEATURES, Baseline, Features
from mimir_jax.data.readers import Document
from mimir_jax.metrics.delong import Placements, placements_in_folds
from mimir_jax.metrics.intervals import Estimate, auc_interval

FOLDS = 5
FEWEST = 10
"""Documents of each side, or different texts, without which nothing is cross-validated."""


class AuditError(ValueError):
    """Documents that cannot be audited; the message says why."""


@dataclass(frozen=True)
class BlindScores:
    """Cross-validated scores that no model was asked for.

    Attributes:
        scores: of each document, higher = member; to be compared within a fold only.
        fold: of each document.
        chosen: of each fold, the baseline that scored it.
    """

    scores: Float[np.ndarray, " doc"]
    fold: Int[np.ndarray, " doc"]
    chosen: tuple[str, ...]

    def placements(self, is_member: Bool[np.ndarray, " doc"]) -> Placements:
        """Placement values within folds."""
        return placements_in_folds(self.scores, is_member, self.fold)

    @property
    def variance_factor(self) -> float:
        """By how much the variance of a cross-validated AUC exceeds that of its placements.

            1 + K (test size / train size) = 1 + K / (K - 1),    K folds

        Classifiers of different folds share most of what they are fitted on, so that folds are not independent. Nadeau
        and Bengio, "Inference for the generalization error", Machine Learning 52 (2003). Without it, 95% intervals
        covered 84 to 94% of 80 random labelings of 150 + 150 passages; there the variance was 1.3 to 2.1 times
        that of the placements.
        """
        folds = int(self.fold.max()) + 1
        return 1 + folds / (folds - 1)


@dataclass(frozen=True)
class Blind:
    """What is reached without the model.

    Attributes:
        baselines: by name, scores of each baseline alone; the largest AUC of them is too optimistic.
        best: of the baseline that was chosen in nested folds.
        is_member: labels.
    """

    baselines: Mapping[str, BlindScores]
    best: BlindScores
    is_member: Bool[np.ndarray, " doc"] = field(repr=False)

    def estimate(self, scores: BlindScores, confidence: float = 0.95) -> Estimate:
        """The AUC of baseline scores, averaged over folds, with its interval."""
        return auc_interval(scores.placements(self.is_member), confidence, scores.variance_factor)


def blind(
    texts: Sequence[str],
    is_member: Bool[np.ndarray, " doc"],
    *,
    baselines: Mapping[str, Baseline] = BASELINES,
    groups: Sequence[Hashable] | None = None,
    folds: int = FOLDS,
    seed: int = 0,
) -> Blind:
    """Tell members from non-members by their texts alone, cross-validated.

    Each baseline is fitted without every fold, and without every pair of folds: the first gives its scores, the
    second, for each fold, its AUCs on the other folds, by the mean of which the best is chosen. Equal texts are in
    one fold.

    Args:
        texts: documents.
        is_member: labels.
        baselines: what is tried, by name.
        groups: of each document, what it shares with others that must be in the same fold, such as the document
            that they are parts of.
        folds: from 3 to FEWEST.
        seed: of the folds.

    Raises:
        AuditError: fewer than FEWEST documents (or groups, or different texts) on a side, no baselines, or a number
            of folds out of its range.
    """
    if not baselines:
        raise AuditError("no baselines are named")
    if not 3 <= folds <= FEWEST:
        raise AuditError(f"{folds} folds; expected 3 to {FEWEST}")
    group = _groups(texts, groups)
    fewest = min(len(np.unique(group[is_member == side])) for side in (True, False))
    if fewest < FEWEST:
        raise AuditError(f"{fewest} different documents on a side; cross-validation needs at least {FEWEST}")
    fold = _folds(group, is_member, folds, seed)
    features = {name: FEATURES[name](texts) for name in {row.features for row in baselines.values()}}
    fitted = {name: _cross_validated(row, features[row.features], is_member, fold) for name, row in baselines.items()}
    count = len(np.unique(fold))
    alone = {name: BlindScores(scores, fold, (name,) * count) for name, (scores, _) in fitted.items()}
    # Of the first among equals, so that the order of the table decides, not rounding.
    chosen = tuple(max(fitted, key=lambda name: round(fitted[name][1][k], 9)) for k in range(count))
    best = np.array([fitted[name][0] for name in chosen])[fold, np.arange(len(fold))]
    return Blind(alone, BlindScores(best, fold, chosen), is_member)


def blind_of_documents(documents: Sequence[Document], **settings: object) -> Blind:
    """`blind` of documents; those that are token ids are read as texts whose words are the ids.

    Raises:
        AuditError: as `blind`.
    """
    if any(document.token_ids is not None for document in documents):
        settings.setdefault("baselines", {name: row for name, row in BASELINES.items() if row.of_words})
    texts = [d.text if d.token_ids is None else " ".join(f"id{i}" for i in d.token_ids) for d in documents]
    return blind(texts, np.array([document.is_member for document in documents], bool), **settings)  # type: ignore[arg-type]


def _groups(texts: Sequence[str], groups: Sequence[Hashable] | None) -> Int[np.ndarray, " doc"]:
    """Documents that must stay together get one number: those of a group, and those of equal texts."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    # Documents are joined with what they have in common, each of which is a node too.
    shared = [("text", text) for text in texts] + [("group", group) for group in groups or ()]
    number = {one: len(texts) + i for i, one in enumerate(dict.fromkeys(shared))}
    rows = np.tile(np.arange(len(texts)), 1 if groups is None else 2)
    size = len(texts) + len(number)
    edges = coo_matrix((np.ones(len(shared)), (rows, [number[one] for one in shared])), shape=(size, size))
    return np.asarray(connected_components(edges, directed=False)[1][: len(texts)], int)


def _folds(
    group: Int[np.ndarray, " doc"], is_member: Bool[np.ndarray, " doc"], folds: int, seed: int
) -> Int[np.ndarray, " doc"]:
    """The fold of each document: groups whole, sides balanced."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    fold = np.empty(len(group), int)
    if len(np.unique(group)) == len(group):  # much faster, and as balanced as can be
        splits = StratifiedKFold(folds, shuffle=True, random_state=seed).split(group, is_member)
    else:
        splits = StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(group, is_member, group)
    for number, (_, rows) in enumerate(splits):
        fold[rows] = number
    if any(not np.any((fold == k) & (is_member == side)) for k in range(folds) for side in (True, False)):
        raise AuditError("groups are so unequal that a fold has no member or no non-member")
    return fold


def _cross_validated(
    baseline: Baseline, features: Features, is_member: Bool[np.ndarray, " doc"], fold: Int[np.ndarray, " doc"]
) -> tuple[Float[np.ndarray, " doc"], Float[np.ndarray, " fold"]]:
    """Scores of each document, fitted without its fold; and for each fold the mean AUC of the others, without it."""
    count = len(np.unique(fold))

    def scored(*left_out: int) -> np.ndarray:
        out = np.isin(fold, left_out)
        found = np.full(len(fold), np.nan)
        found[out] = baseline.fit(features[~out], is_member[~out], features[out])
        return found

    scores = np.empty(len(fold))
    for k in range(count):
        scores[fold == k] = scored(k)[fold == k]
    inner = np.zeros((count, count))
    for j, k in combinations(range(count), 2):
        both = scored(j, k)
        for held, outer in ((j, k), (k, j)):
            rows = fold == held
            inner[outer, held] = placements_in_folds(both[rows], is_member[rows], fold[rows]).auc_roc
    return scores, inner.sum(axis=1) / (count - 1)
