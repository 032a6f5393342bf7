"""The prefixes of recall and con_recall: documents that others are read after."""

import random

import numpy as np

from mimir_jax.config import ConfigError
from mimir_jax.data.documents import read_texts
from mimir_jax.scoring.passes import Part, conditional_parts
from mimir_jax.scoring.tokens import Tokens
from mimir_jax.target import MOST_TEXTS, Passes, Target


def shots(target: Target, is_member: bool) -> Passes:
    """The documents after a prefix of shots; fewer where all do not fit, and none for a shot itself."""
    side = "member" if is_member else "non-member"
    tokens, used = _choose_shots(target, is_member)
    context_ids = tokens[0].context_ids
    prefix = np.array([*context_ids, *(i for one in tokens for i in one.text_ids)], np.int32)
    ends = len(context_ids) + np.cumsum([len(one.text_ids) for one in tokens])
    parts: list[list[list[Part]]] = []
    reasons, fewer = {}, 0
    for i, one in enumerate(target.tokens):
        fitting = ends[ends + len(one.text_ids) <= target.config.context]
        if not one.text_ids:
            reasons[i] = "empty document"
        elif i in used:
            reasons[i] = f"it is one of the {side} shots"
        elif not len(fitting):
            reasons[i] = f"not even one {side} shot fits the context with it"
        else:
            fewer += len(fitting) < len(ends)
            parts.append([conditional_parts(prefix, int(fitting[-1]), one.context_ids, one.text_ids)])
            continue
        parts.append([[]])
    if len(reasons) == len(parts):
        raise ConfigError(f"shots: no document fits a context of {target.config.context} with even one {side} shot")
    if used:
        target.note(f"{len(used)} {side} documents are shots, and have no score of what goes on from them")
    if fewer:
        target.note(f"{fewer} documents are scored after fewer than {len(ends)} {side} shots: more do not fit")
    return Passes(parts, reasons=reasons)


def _choose_shots(target: Target, is_member: bool) -> tuple[list[Tokens], set[int]]:
    """The shots, and which documents they are."""
    run, side = target.run.shots, "members" if is_member else "nonmembers"
    if run.count < 1:
        raise ConfigError(f"shots.count: {run.count}, must be at least 1")
    given = run.members if is_member else run.nonmembers
    if given is None:
        main = enumerate(zip(target.documents[: target.main], target.tokens))
        own = [(i, document) for i, (document, tokens) in main if document.is_member is is_member and tokens.text_ids]
        pool: list[tuple[int | None, str]] = [(i, document.text) for i, document in own]
    else:
        pool = [(None, text) for text in read_texts(given, target.run.data.text_field, MOST_TEXTS)]
    if len(pool) < run.count + (given is None):
        left = ", one of which at least must be left to evaluate" if given is None else f" in {given}"
        raise ConfigError(
            f"shots.count: {run.count} shots of {side} are asked for, and there are {len(pool)} to choose from{left}"
        )
    if run.choice == "random":
        random.Random(target.run.seed).shuffle(pool)
    texts = [text for _, text in pool[: run.count]]
    if given is None:
        tokens = [target.tokens[i] for i, _ in pool[: run.count] if i is not None]
    else:
        tokens = target.tokenize(texts, "shot")
    used = {i for i, document in enumerate(target.documents) if document.text in set(texts)}
    wholes = {target.documents[i].parent for i in used} - {None}  # other sub-texts of a shot's document go with it
    return tokens, used | {i for i, document in enumerate(target.documents) if document.parent in wholes}
