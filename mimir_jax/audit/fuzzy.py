"""Members that were edited: where does membership end?

An edited member was not trained on, word for word, and yet most of it was. Scores of edited members, by how far they
are from the original, say what an attack takes for membership; and there are two readings of the same scores, with
edited members counted as members or as non-members. Duan et al. 2024, arXiv:2402.07841, section 5.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from mimir_jax.data.readers import DataError, Document
from mimir_jax.metrics.decisions import pick_threshold
from mimir_jax.metrics.delong import placements
from mimir_jax.metrics.intervals import Estimate, auc_interval
from mimir_jax.metrics.roc import MetricsError

EDITS = (1, 10, 25, 100)
"""Tokens that are substituted, as in the paper and its notebooks."""


def substitute_tokens(ids: Sequence[int], edits: int, vocabulary: Sequence[int], seed: int = 0) -> list[int]:
    """The token ids with random others at random places; the same places and ids at first, whatever `edits`.

    The choice depends on nothing but the ids and the seed: a document with 25 edits has those of 10 edits too.

    Args:
        ids: of the document.
        edits: places; at most all of them.
        vocabulary: ids to draw from, at least two.
        seed: at least 0.
    """
    digest = hashlib.sha256(np.asarray(ids, "<i8").tobytes()).digest()
    rng = np.random.default_rng([seed, *np.frombuffer(digest, "<u4").tolist()])
    places = rng.permutation(len(ids))
    drawn = rng.integers(0, len(vocabulary), (len(ids), 2))
    edited = list(ids)
    for place, (first, second) in list(zip(places.tolist(), drawn.tolist()))[:edits]:
        new = vocabulary[first]
        if new == edited[place]:  # any other; the next one where both draws are the same
            new = vocabulary[second] if second != first else vocabulary[(first + 1) % len(vocabulary)]
        edited[place] = new
    return edited


def edited_documents(
    members: Sequence[Document],
    token_ids: Sequence[Sequence[int]],
    edits: int,
    vocabulary: Sequence[int],
    seed: int = 0,
) -> list[Document]:
    """Members after so many token substitutions, as documents of token ids with the original as their parent.

    Args:
        members: the originals.
        token_ids: theirs, in the target's vocabulary.
        edits: substitutions.
        vocabulary: ids to draw from, without special tokens.
        seed: at least 0.

    Raises:
        DataError: as many lists of ids are needed as documents, and two ids to draw from.
    """
    if len(members) != len(token_ids):
        raise DataError(f"{len(members)} members, but token ids of {len(token_ids)}")
    if len(set(vocabulary)) < 2:
        raise DataError("substitutions need a vocabulary of at least two ids")
    return [
        Document(
            f"{member.id}/{edits}-edits",
            "",
            member.is_member,
            member.source,
            parent=member.id,
            token_ids=tuple(substitute_tokens(ids, edits, vocabulary, seed)),
            row=member.row,
        )
        for member, ids in zip(members, token_ids)
    ]


def edit_distance(original: Sequence[object], edited: Sequence[object]) -> float:
    """Levenshtein's distance of two lists of words or token ids, as a share of the longer one; 0 of two empty ones."""
    from rapidfuzz.distance import Levenshtein

    return float(Levenshtein.normalized_distance(original, edited))


def word_distances(originals: Sequence[str], edited: Sequence[str]) -> Float[np.ndarray, " doc"]:
    """`edit_distance` of texts by their words, which white space parts: of neighbors, paraphrases, ..."""
    return np.array([edit_distance(one.split(), other.split()) for one, other in zip(originals, edited)], float)


@dataclass(frozen=True)
class EditedMembers:
    """What an attack says of members after edits.

    Attributes:
        distance: mean distance from the originals; None where none was given.
        score_change: mean of edited minus original scores.
        called: by false-positive rate of the real non-members, the share of edited members above that threshold.
        as_members: AUC of edited members against real non-members: above 1/2, the attack counts them as members.
        as_nonmembers: AUC of the original members against the edited ones: above 1/2, it tells them apart.
        n_documents: with all scores.
    """

    distance: float | None
    score_change: float
    called: dict[float, float]
    as_members: Estimate
    as_nonmembers: Estimate
    n_documents: int


def fuzzy_membership(
    members: Float[np.ndarray, " member"],
    nonmembers: Float[np.ndarray, " nonmember"],
    edited: Mapping[str, Float[np.ndarray, " _"]],
    *,
    distances: Mapping[str, Float[np.ndarray, " _"]] | None = None,
    fprs: Sequence[float] = (0.01, 0.05, 0.1),
    confidence: float = 0.95,
) -> dict[str, EditedMembers]:
    """Both readings of edited members, by kind of edit, with thresholds that are set on real non-members.

    Args:
        members: scores of the originals.
        nonmembers: scores of real non-members.
        edited: by kind of edit (`10 edits`, `neighbors`, `paraphrases`), scores of the edited members in the
            members' order; NaN is left out.
        distances: by kind, from the originals.
        fprs: of the thresholds.
        confidence: of the intervals.

    Raises:
        MetricsError: a kind of edit without any scored pair, or of another length; no scored non-member.
    """
    thresholds = {fpr: pick_threshold(nonmembers, fpr).value for fpr in fprs}
    real = nonmembers[~np.isnan(nonmembers)].astype(float)
    found = {}
    for name, values in edited.items():
        if len(values) != len(members):
            raise MetricsError(f"{name}: {len(values)} scores of edited members, but there are {len(members)} members")
        both = ~(np.isnan(values) | np.isnan(members))
        if not both.any():
            raise MetricsError(f"{name}: no member has a score both before and after the edits")
        before, after = members[both].astype(float), values[both].astype(float)
        apart = (distances or {}).get(name)
        found[name] = EditedMembers(
            distance=None if apart is None else float(np.nanmean(apart[both])),
            score_change=float(np.mean(after - before)),
            called={fpr: float(np.mean(after >= threshold)) for fpr, threshold in thresholds.items()},
            as_members=auc_interval(placements(after, real), confidence),
            as_nonmembers=auc_interval(placements(before, after), confidence),
            n_documents=int(both.sum()),
        )
    return found


def scores_by_distance(
    scores: Float[np.ndarray, " doc"], distances: Float[np.ndarray, " doc"], edges: Sequence[float]
) -> list[tuple[float, float, int, float | None]]:
    """Mean score by distance from the original: lower edge, upper edge, documents, mean; None where there is none.

    Args:
        scores: of edited members of all kinds; NaN is left out.
        distances: theirs.
        edges: rising; each range holds its lower edge, the last one both.
    """
    known = ~(np.isnan(scores) | np.isnan(distances))
    rows = []
    for i, (low, high) in enumerate(pairwise(edges)):
        within = known & (distances >= low) & ((distances < high) | (i == len(edges) - 2) & (distances <= high))
        rows.append(
            (float(low), float(high), int(within.sum()), float(scores[within].mean()) if within.any() else None)
        )
    return rows
