"""How members and non-members differ before any model is asked, and what is left of an attack without it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from mimir_jax.audit.baselines import characters, compression, lengths, mentioned_dates
from mimir_jax.audit.blind import Blind
from mimir_jax.metrics.comparison import benjamini_hochberg
from mimir_jax.metrics.intervals import Estimate, quantile
from mimir_jax.metrics.roc import MetricsError

MEASURES = (
    "words",
    "characters",
    "characters a word",
    "zlib ratio",
    "latest date",
    "upper-case share",
    "non-ASCII share",
)


@dataclass(frozen=True)
class Measured:
    """One number of the texts of both sides.

    Attributes:
        members: median; None where no member has the number.
        nonmembers: likewise.
        distance: Kolmogorov and Smirnov's, the largest distance of the two distribution functions; None likewise.
        p_value: of that distance; None likewise.
        p_adjusted: after Benjamini and Hochberg over all numbers.
        missing: share of the members and of the non-members without the number, such as a date.
    """

    members: float | None
    nonmembers: float | None
    distance: float | None
    p_value: float | None
    p_adjusted: float | None
    missing: tuple[float, float]


def measures(texts: Sequence[str]) -> dict[str, Float[np.ndarray, " doc"]]:
    """Numbers of texts by name; NaN where a text has none."""
    sizes, ratio, shares = lengths(texts), compression(texts), characters(texts)
    latest = [max(mentioned_dates(text), default=np.nan) for text in texts]
    rows = (sizes[:, 0], sizes[:, 1], sizes[:, 3], ratio[:, 0], np.array(latest, float), shares[:, -2], shares[:, -1])
    return dict(zip(MEASURES, rows))


def shift(texts: Sequence[str], is_member: Bool[np.ndarray, " doc"]) -> dict[str, Measured]:
    """Both sides compared number by number: two-sample tests of Kolmogorov and Smirnov."""
    from scipy.stats import ks_2samp

    found = {}
    for name, values in measures(texts).items():
        sides = [values[is_member == side] for side in (True, False)]
        known = [side[~np.isnan(side)] for side in sides]
        missing = tuple(float(np.isnan(side).mean()) if len(side) else 1.0 for side in sides)
        test = ks_2samp(*known) if all(map(len, known)) else None
        medians = [float(np.median(side)) if len(side) else None for side in known]
        found[name] = (medians, test, missing)
    adjusted = benjamini_hochberg([np.nan if test is None else test.pvalue for _, test, _ in found.values()])
    return {
        name: Measured(
            medians[0],
            medians[1],
            None if test is None else float(test.statistic),
            None if test is None else float(test.pvalue),
            None if test is None else float(p),
            (missing[0], missing[1]),
        )
        for (name, (medians, test, missing)), p in zip(found.items(), adjusted)
    }


@dataclass(frozen=True)
class TellingWord:
    """A word that one side has more often.

    Attributes:
        word: without case.
        members: documents of that side that have it.
        nonmembers: likewise.
        z: of the log-odds ratio; positive where members have it more often.
    """

    word: str
    members: int
    nonmembers: int
    z: float


def telling_words(texts: Sequence[str], is_member: Bool[np.ndarray, " doc"], count: int = 10) -> list[TellingWord]:
    """The words that give a side away most, `count` of each, members' first.

    By the log-odds ratio of documents that have the word, smoothed with the word's share in all of them, over its
    standard deviation: Monroe, Colaresi and Quinn, "Fightin' words", Political Analysis 16 (2008).

    Raises:
        MetricsError: a side without documents.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    sizes = [int(np.count_nonzero(is_member == side)) for side in (True, False)]
    if not all(sizes):
        raise MetricsError("telling words need documents of both sides")
    vectorizer = CountVectorizer(min_df=2, binary=True)
    try:
        has = vectorizer.fit_transform(texts)
    except ValueError:  # no two texts share a word
        return []
    words = vectorizer.get_feature_names_out()
    with_word = [np.asarray(has[is_member == side].sum(axis=0), float).ravel() for side in (True, False)]
    prior = sum(with_word) / sum(sizes)
    log_odds = [np.log((k + prior) / (n - k + 1 - prior + 1e-9)) for k, n in zip(with_word, sizes)]
    variance = sum(1 / (k + prior) for k in with_word)
    z = (log_odds[0] - log_odds[1]) / np.sqrt(variance)
    order = np.argsort(-z, kind="stable")
    chosen = [*order[:count], *order[::-1][:count]] if len(order) > 2 * count else order
    return [TellingWord(str(words[i]), int(with_word[0][i]), int(with_word[1][i]), float(z[i])) for i in chosen]


def adjusted_auc(
    scores: Float[np.ndarray, " doc"], blind: Blind, strata: int = 10, confidence: float = 0.95
) -> Estimate | None:
    """The AUC among documents that look alike without the model: what a score adds to the best blind baseline.

    Members are compared with non-members of the same stratum of the blind score only, each of its fold; strata count
    by their pairs. Under no shift it is the AUC; where the blind score separates everything there are no pairs. After
    Janes and Pepe, "Adjusting for covariate effects on classification accuracy using the covariate-adjusted receiver
    operating characteristic curve", Biometrika 96 (2009).

    Args:
        scores: of the attack, NaN for none.
        blind: of the same documents.
        strata: of equal numbers of documents.
        confidence: of the interval, which is Wald's over documents' contributions.

    Returns:
        None where no stratum has documents of both sides.
    """
    ranks = np.empty(len(scores))
    for fold in np.unique(blind.best.fold):
        rows = np.flatnonzero(blind.best.fold == fold)
        ranks[rows] = (np.argsort(np.argsort(blind.best.scores[rows], kind="stable")) + 0.5) / len(rows)
    stratum = np.minimum((ranks * strata).astype(int), strata - 1)
    scored = ~np.isnan(scores)
    pairs, wins = np.zeros(len(scores)), np.zeros(len(scores))
    for one in range(strata):
        members, nonmembers = (
            np.flatnonzero(scored & (stratum == one) & (blind.is_member == side)) for side in (True, False)
        )
        difference = scores[members].astype(float)[:, None] - scores[nonmembers].astype(float)[None, :]
        won = (difference > 0) + (difference == 0) / 2
        pairs[members], wins[members] = len(nonmembers), won.sum(axis=1)
        pairs[nonmembers], wins[nonmembers] = len(members), won.sum(axis=0)
    total = pairs.sum() / 2
    if not total:
        return None
    auc = float(wins.sum() / 2 / total)
    # A ratio of sums over pairs: each document's share in its error, on either side.
    deviation = float(np.sqrt(np.sum((wins - auc * pairs) ** 2)) / total)
    half = quantile(confidence) * deviation
    return Estimate(auc, max(auc - half, 0.0), min(auc + half, 1.0))
