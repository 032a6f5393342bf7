"""Attacks beside what needs no model: who beats the best blind baseline on the same documents, in numbers and words."""

import dataclasses
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from mimir_jax.audit.blind import AuditError, Blind, blind_of_documents
from mimir_jax.audit.shift import adjusted_auc, shift, telling_words
from mimir_jax.data.readers import Document
from mimir_jax.metrics.comparison import Difference, auc_difference, benjamini_hochberg
from mimir_jax.metrics.delong import Placements, placements, placements_in_folds
from mimir_jax.metrics.intervals import Estimate, auc_interval

LEVEL = 0.05
"""Of the tests, after the correction for their number."""


@dataclasses.dataclass(frozen=True)
class Comparison(Difference):
    """An attack's AUC minus that of the best blind baseline, on the documents that the attack scores.

    Attributes:
        p_adjusted: after Benjamini and Hochberg, over all attacks of the table.
        beats: the attack is above the baseline and above chance, both beyond doubt at LEVEL.
        sentence: the same in words.
        among_alike: the AUC among documents that the baseline does not tell apart, see `adjusted_auc`; None where
            it tells all of them apart.
    """

    p_adjusted: float
    beats: bool
    sentence: str
    among_alike: Estimate | None = None


def audit(
    documents: Sequence[Document],
    scores: Mapping[str, Float[np.ndarray, " doc"]] | None = None,
    *,
    groups: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """What is reached without the model, and which attacks reach more; a form that JSON can hold.

    Args:
        documents: with labels.
        scores: by attack, NaN for none.
        groups: see `blind`.
        confidence: of the intervals.
        seed: of the folds.

    Returns:
        `baselines`, each alone, and `best`, chosen in nested folds, with intervals; `comparisons`, by attack;
        `scores`, which is None; `shift` and `telling_words`, see the functions of these names; and `notes`, a
        sentence each. Where the documents are too few, no baselines, best None and a note.
    """
    found: dict[str, Any] = {"baselines": {}, "best": None, "scores": None, "comparisons": {}, "notes": []}
    found |= {"shift": {}, "telling_words": []}
    try:
        blind = blind_of_documents(documents, groups=groups, seed=seed)
    except AuditError as error:
        return found | {"notes": [f"no blind baselines: {error}"]}
    texts = [document.text for document in documents]
    alone = {name: blind.estimate(one, confidence) for name, one in blind.baselines.items()}
    best = blind.estimate(blind.best, confidence)
    compared = compare_with_blind(blind, scores or {}, confidence)
    return found | {
        "baselines": {name: _numbers(estimate) for name, estimate in alone.items()},
        "best": {
            "name": "chosen in nested folds",
            **_numbers(best),
            "chosen": dict(Counter(blind.best.chosen).most_common()),
        },
        "comparisons": {name: dataclasses.asdict(one) for name, one in compared.items()},
        "shift": {name: dataclasses.asdict(one) for name, one in shift(texts, blind.is_member).items()},
        "telling_words": [dataclasses.asdict(one) for one in telling_words(texts, blind.is_member)],
        "notes": _notes(best, compared),
    }


def _numbers(estimate: Estimate) -> dict[str, float]:
    return {"auc_roc": estimate.value, "low": estimate.low, "high": estimate.high}


def _notes(best: Estimate, compared: Mapping[str, Comparison]) -> list[str]:
    notes = []
    if best.low > 0.5:
        notes.append(
            f"members and non-members are told apart without the model, AUC {_written(best)}: they differ in what they "
            "are, and an AUC of that size says nothing of memorization"
        )
    losers = [name for name, one in compared.items() if not one.beats]
    if losers:
        notes.append(f"not above what needs no model: {', '.join(losers)}")
    return notes


def compare_with_blind(
    blind: Blind, scores: Mapping[str, Float[np.ndarray, " doc"]], confidence: float = 0.95
) -> dict[str, Comparison]:
    """Each attack against the best blind baseline, paired, on the documents that the attack scores.

    Attacks without a score on one side are left out.
    """
    tests, alike = {}, {}
    factor = blind.best.variance_factor
    for name, values in scores.items():
        scored = ~np.isnan(values) & _comparable(blind, ~np.isnan(values))
        members, nonmembers = scored & blind.is_member, scored & ~blind.is_member
        if not members.any() or not nonmembers.any():
            continue
        attack = placements(values[members].astype(float), values[nonmembers].astype(float))
        baseline = placements_in_folds(blind.best.scores[scored], blind.is_member[scored], blind.best.fold[scored])
        chance = Placements(np.full(members.sum(), 0.5), np.full(nonmembers.sum(), 0.5))
        alike[name] = adjusted_auc(values, blind, confidence=confidence)
        tests[name] = (
            auc_interval(attack, confidence),
            auc_interval(baseline, confidence, factor),
            auc_difference(attack, baseline, confidence, more_variance=(factor - 1) * baseline.variance),
            auc_difference(attack, chance, confidence),
        )
    adjusted = benjamini_hochberg([difference.p_value for *_, difference, _ in tests.values()])
    return {
        name: dataclasses.replace(_verdict(name, *test, p_adjusted), among_alike=alike[name])
        for (name, test), p_adjusted in zip(tests.items(), adjusted.tolist())
    }


def _comparable(blind: Blind, scored: Bool[np.ndarray, " doc"]) -> Bool[np.ndarray, " doc"]:
    """Documents in folds of which both sides are scored."""
    kept = [
        np.any(scored & (blind.best.fold == k) & blind.is_member)
        and np.any(scored & (blind.best.fold == k) & ~blind.is_member)
        for k in range(blind.best.fold.max() + 1)
    ]
    return np.array(kept)[blind.best.fold]


def _verdict(
    name: str, attack: Estimate, baseline: Estimate, over: Difference, over_chance: Difference, p_adjusted: float
) -> Comparison:
    above = over.difference > 0 and p_adjusted <= LEVEL
    above_chance = over_chance.difference > 0 and over_chance.p_value <= LEVEL
    verb = "beats" if above and above_chance else "does not beat"
    sentence = (
        f"{name}, AUC {_written(attack)}, {verb} what is reached without the model, {_written(baseline)}: difference "
        f"{over.difference:+.3f} [{over.low:+.3f}, {over.high:+.3f}], adjusted p {_p(p_adjusted)}"
    )
    if above and not above_chance:
        sentence += "; its AUC is not above chance"
    numbers = dataclasses.asdict(over)
    return Comparison(**numbers, p_adjusted=p_adjusted, beats=above and above_chance, sentence=sentence)


def _written(one: Estimate) -> str:
    return f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]"


def _p(value: float) -> str:
    return "< .001" if value < 0.001 else f"{value:.3f}"
