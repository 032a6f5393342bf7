"""Neighbors as MIMIR's published code makes them, defect for defect, but for its random numbers.

Where it differs from the authors' definition:
- what the model reads has its positions, types and norm twice: `inputs_embeds` that were embedded already;
- every token but the first may be swapped, the final [SEP] too, whose piece then stands before the text;
- of the six most likely tokens the original is left out, so that five or six are left; nothing else is: special tokens
  are candidates;
- 1 - p is taken of a rounded p, and as .1 where that is 1;
- every "##" is taken out of a piece, and its spaces stay; a candidate that writes what stands there counts;
- at most 100 single swaps; random combinations count special tokens for their share and may come twice;
- text that is written anew keeps its spaces around the special tokens, of which only BERT's are taken out.

And where a T5 fills spans:
- the last word is masked in texts of no more words than a span alone, and short texts have no mask at all;
- at most 150 tokens are written, the first of which only begins them, whatever the masks need;
- the sentinel after the most masks of a batch ends the fills of all of it, and the end of a text ends none. A batch has
  neighbors of one text there, which has as many masks every time, so that only the latter shows;
- sentinels count in the order in which they come, whatever their numbers, and a fill may be empty.
That spans have 10 words whatever the configuration says is in `translation`.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int

from mimir_jax.config import SpansConfig, SwapsConfig
from mimir_jax.models.encoder import Encoder
from mimir_jax.neighbors import NeighborRules
from mimir_jax.scoring.neighbors import SwapRules
from mimir_jax.scoring.span_fills import Piece, SpanRules, place_masks, wanted_spans
from mimir_jax.scoring.swaps import Candidates, Encoded, Swap, single_swaps

CERTAIN = 0.1
"""What stands for 1 - p where p is 1."""

MOST = 100
"""Single swaps of a text."""

WRITTEN = 150 - 1
"""Tokens that a T5 writes at most: its limit counts the one that it begins with."""


def embed_twice(
    encoder: Encoder, words: Float32[Array, "row time embed"], keep: Float32[Array, "row time embed"]
) -> Float32[Array, "row time embed"]:
    """Dropout comes after the first embedding."""
    return encoder.embed(encoder.embed(words) * keep)


def propose_top(
    logits: Float32[Array, "row vocab"], original: Int[Array, " row"], banned: Bool[Array, " vocab"], count: int
) -> tuple[Int[Array, "row candidate"], Float32[Array, "row candidate"]]:
    """The most likely tokens, and p / (1 - p_original); the original among them has -inf."""
    probs = jax.nn.softmax(logits, axis=-1)
    own = jnp.take_along_axis(probs, original[:, None], axis=1)
    top, ids = jax.lax.top_k(probs, count)
    scores = top / jnp.where(own == 1, CERTAIN, 1 - own)
    return ids, jnp.where(ids == original[:, None], -jnp.inf, scores)


def all_but_the_first(encoded: Encoded, special_ids: frozenset[int]) -> Bool[np.ndarray, " token"]:
    """Which tokens are swapped."""
    return np.arange(len(encoded.ids)) > 0


def piece(tokenizer: Any, token: int, text: str, start: int) -> str:
    """How a token is written."""
    written: str = tokenizer.decode([token])
    return written.replace("##", "")


def rewritten(tokenizer: Any, ids: Sequence[int]) -> str:
    """A text written anew."""
    text: str = tokenizer.decode(list(ids))
    return text.replace("[CLS]", "").replace("[SEP]", "")


def choose(
    encoded: Encoded, candidates: Candidates, count: int, settings: SwapsConfig, rng: np.random.Generator
) -> list[list[Swap]]:
    """The swaps of each neighbor. Where a combination has none MIMIR fails; here there is no neighbor then."""
    if settings.strategy == "deterministic":
        return single_swaps(candidates, min(count, MOST))
    swaps = min(int(settings.share * len(encoded.ids)), len(candidates.places))
    if not swaps:
        return []
    best, first = candidates.scores.max(axis=1), candidates.scores.argmax(axis=1)
    drawn = np.argpartition(rng.random((settings.trials, len(best))), swaps - 1, axis=1)[:, :swaps]
    order = np.argsort(-best[drawn].sum(axis=1, dtype=np.float64), kind="stable")[:count]
    return [[(int(candidates.places[i]), int(candidates.ids[i, first[i]])) for i in drawn[row]] for row in order]


SWAPS = SwapRules(
    name="mimir",
    embed=embed_twice,
    propose=propose_top,
    places=all_but_the_first,
    piece=piece,
    rewrite=rewritten,
    choose=choose,
    distinct=False,
)


def masked(text: str, spans: SpansConfig, rng: np.random.Generator) -> list[Piece]:
    """Words and masks. Where the masks leave no room MIMIR tries forever; here there are fewer then."""
    length, count = wanted_spans(text, spans)
    wanted = spans.share * len(text.split(" ")) / (length + 2 * spans.buffer)
    if wanted < 1 and not spans.round_up:
        count = 0
    return place_masks(text, length, count, spans.buffer, rng, last=False)


def fills(written: Sequence[int], sentinels: Sequence[int], masks: int, end: int) -> list[list[int]] | None:
    """What stands between a sentinel and the next one; what no sentinel follows is no fill."""
    places = [place for place, token in enumerate(written) if token in sentinels]
    between = [list(written[start + 1 : stop]) for start, stop in pairwise(places)]
    return between[:masks] if len(between) >= masks else None


SPANS = SpanRules(name="mimir", mask=masked, most=lambda text, spans: WRITTEN, read=fills, empty=True, ends=False)

NEIGHBORS = NeighborRules(SWAPS, SPANS)
