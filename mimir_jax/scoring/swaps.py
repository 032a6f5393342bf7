"""Which tokens of a text may be swapped for which others, what is chosen, and how it is written; no model is run here.

Candidates come from `neighbors.propose_swaps`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int

from mimir_jax.config import ConfigError, SwapsConfig
from mimir_jax.scoring.tokens import TokenizerError

Swap = tuple[int, int]
"""The place of a token among those of its text, and the id that takes it."""


class Encoded(NamedTuple):
    """A text in tokens of the masked model.

    Attributes:
        name: of the document, for messages.
        text: itself.
        ids: of all tokens, special ones included.
        spans: of each token the characters [start, end) of the text; None where the tokenizer does not know them.
        special: which tokens are no part of the text.
    """

    name: str
    text: str
    ids: Int[np.ndarray, " token"]
    spans: Int[np.ndarray, "token 2"] | None
    special: Bool[np.ndarray, " token"]


class Candidates(NamedTuple):
    """What might stand at the places of a text.

    Attributes:
        places: of the tokens that may be swapped.
        ids: of the candidates, the most likely first.
        scores: p(candidate) / (1 - p(original)); -inf where there is none.
    """

    places: Int[np.ndarray, " place"]
    ids: Int[np.ndarray, "place candidate"]
    scores: Float32[np.ndarray, "place candidate"]


def places_of_text(encoded: Encoded, special_ids: frozenset[int]) -> Bool[np.ndarray, " token"]:
    """Which tokens may be swapped: those of the text, but for those that share characters with another one.

    Tokens of bytes do, where a character has several: swapping one would take the whole character.
    """
    good = ~encoded.special & ~np.isin(encoded.ids, list(special_ids))
    if encoded.spans is not None:
        start, end = encoded.spans[good].T
        alone = end > start
        alone[1:] &= start[1:] >= np.maximum.accumulate(end)[:-1]
        alone[:-1] &= end[:-1] <= start[1:]
        good[np.flatnonzero(good)] = alone
    return good


def piece_in_place(tokenizer: Any, token: int, text: str, start: int) -> str:
    """How a token is written at a place in a text: without the marks of its tokenizer, or a second space."""
    piece: str = tokenizer.decode([token], clean_up_tokenization_spaces=False).removeprefix("##")
    at_word = start == 0 or text[start - 1].isspace()
    return piece.lstrip(" ") if at_word and not text[start : start + 1].isspace() else piece


def text_of_ids(tokenizer: Any, ids: Sequence[int]) -> str:
    """A text written anew from its tokens."""
    text: str = tokenizer.decode(list(ids), skip_special_tokens=True)
    return text


def single_swaps(candidates: Candidates, count: int) -> list[list[Swap]]:
    """The most likely swaps of one token: `deterministic`."""
    scores = candidates.scores.ravel()
    best = np.argsort(-scores, kind="stable")[:count]
    width = candidates.ids.shape[1] if len(scores) else 1
    return [
        [(int(candidates.places[i // width]), int(candidates.ids[i // width, i % width]))]
        for i in best.tolist()
        if np.isfinite(scores[i])
    ]


def combined_swaps(
    candidates: Candidates, count: int, swaps: int, trials: int, rng: np.random.Generator
) -> list[list[Swap]]:
    """Of random sets of places, each with the most likely swaps, the ones of the largest total score: `random`.

    Args:
        candidates: of all places.
        count: sets that are kept; no two are alike.
        swaps: places in a set.
        trials: sets that are drawn.
        rng: of the draws.
    """
    scores = candidates.scores.max(axis=1, initial=-np.inf)
    usable = np.flatnonzero(np.isfinite(scores))
    swaps = min(swaps, len(usable))
    if not swaps:
        return []
    drawn = np.argpartition(rng.random((trials, len(usable))), swaps - 1, axis=1)[:, :swaps]
    drawn = np.unique(usable[np.sort(drawn, axis=1)], axis=0)
    best = np.argsort(-scores[drawn].sum(axis=1, dtype=np.float64), kind="stable")[:count]
    first = candidates.scores.argmax(axis=1)
    return [[(int(candidates.places[i]), int(candidates.ids[i, first[i]])) for i in drawn[row]] for row in best]


def choose_swaps(
    encoded: Encoded, candidates: Candidates, count: int, settings: SwapsConfig, rng: np.random.Generator
) -> list[list[Swap]]:
    """The swaps of each neighbor, the most likely first."""
    if settings.strategy == "deterministic":
        return single_swaps(candidates, count)
    swaps = max(1, int(settings.share * int((~encoded.special).sum())))
    return combined_swaps(candidates, count, swaps, settings.trials, rng)


def check_swaps(settings: SwapsConfig, count: int) -> None:
    """Refuse what cannot be made.

    Raises:
        ConfigError: a number is out of range; the message names it.
    """
    for name, value in (("count", count), ("swaps.candidates", settings.candidates), ("swaps.trials", settings.trials)):
        if value < 1:
            raise ConfigError(f"neighbors.{name}: {value}, must be at least 1")
    for name, share in (("swaps.share", settings.share), ("swaps.dropout", settings.dropout)):
        if not 0 <= share < 1:
            raise ConfigError(f"neighbors.{name}: {share}, must be at least 0 and below 1")


def encode_texts(
    tokenizer: Any, names: Sequence[str], texts: Sequence[str], context: int, settings: SwapsConfig
) -> list[Encoded]:
    """The texts in tokens of the masked model.

    Raises:
        TokenizerError: swaps are in place, and the tokenizer does not know which characters a token is.
        ConfigError: texts beyond the context, where they are refused; some are named.
    """
    if settings.in_place and not tokenizer.is_fast:
        raise TokenizerError(
            f"the tokenizer {type(tokenizer).__name__} gives no offsets, so that nothing can be swapped in place; give "
            "the masked model a tokenizer.json, or --neighbors.swaps.no-in-place"
        )
    if not texts:
        return []
    cut = {"truncation": True, "max_length": context} if settings.long == "beginning" else {}
    found = tokenizer(
        list(texts),
        return_offsets_mapping=bool(tokenizer.is_fast),
        return_special_tokens_mask=True,
        verbose=False,
        **cut,
    )
    sizes = [len(ids) for ids in found["input_ids"]]
    if long := [i for i, size in enumerate(sizes) if size > context]:
        some = ", ".join(f"{names[i]} ({sizes[i]} tokens)" for i in long[:3])
        raise ConfigError(
            f"neighbors.model: {len(long)} documents exceed its context of {context} tokens, such as {some}: cut them "
            f"with --data.max-tokens {context} --data.tokenizer, or give --neighbors.swaps.long beginning, which swaps "
            "in their first tokens only"
        )
    return [
        Encoded(
            names[i],
            text,
            np.array(found["input_ids"][i], np.int32),
            np.array(found["offset_mapping"][i], np.int32).reshape(-1, 2) if tokenizer.is_fast else None,
            np.array(found["special_tokens_mask"][i], bool),
        )
        for i, text in enumerate(texts)
    ]
