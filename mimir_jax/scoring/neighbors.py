"""Neighbors of texts by swapping: a masked model is asked for every token what else might stand there.

The word embedding of one token at a time is dropped out in part, and the model's distribution at its place gives
candidates, scored by p(candidate) / (1 - p(original)): Zhou et al., BERT-based Lexical Substitution, 2019, as Mattern
et al. (2305.18462) use it. A row of a batch is a text with one such token; the rows of all texts of like length are
one list, and the head is computed at the token's place alone.

What MIMIR does otherwise are other functions in a `SwapRules` (compat/mimir/neighbors.py).
"""

import hashlib
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float32, Int, UInt32

from mimir_jax.arrays import AnyArray
from mimir_jax.config import SwapsConfig
from mimir_jax.models.encoder import Encoder
from mimir_jax.parallel import hosts
from mimir_jax.scoring.documents import DEFAULT_BATCH_TOKENS
from mimir_jax.scoring.engine import AHEAD, ScoringError
from mimir_jax.scoring.masked import MaskModel
from mimir_jax.scoring.swaps import (
    Candidates,
    Encoded,
    Swap,
    choose_swaps,
    piece_in_place,
    places_of_text,
    text_of_ids,
)

GRAIN = 64  # rows are filled up to multiples of it


class Rows(NamedTuple):
    """What a batch's device computation reads; a row is a text and the place whose token is dropped out.

    Attributes:
        tokens: ids, 0 on padding.
        size: tokens of each row.
        place: of the token.
        seed: the two words of each row's random key.
    """

    tokens: Int[AnyArray, "row time"]
    size: Int[AnyArray, " row"]
    place: Int[AnyArray, " row"]
    seed: UInt32[AnyArray, "row 2"]


# What rules consist of, on the device.
Embed = Callable[[Encoder, Float32[Array, "row time embed"], Float32[Array, "row time embed"]], Any]
Propose = Callable[[Float32[Array, "row vocab"], Int[Array, " row"], Bool[Array, " vocab"], int], tuple[Any, Any]]


def embed_dropped(
    encoder: Encoder, words: Float32[Array, "row time embed"], keep: Float32[Array, "row time embed"]
) -> Float32[Array, "row time embed"]:
    """What the encoder's first layer reads where word embeddings are multiplied with `keep`."""
    return encoder.embed(words * keep)


def propose_others(
    logits: Float32[Array, "row vocab"], original: Int[Array, " row"], banned: Bool[Array, " vocab"], count: int
) -> tuple[Int[Array, "row candidate"], Float32[Array, "row candidate"]]:
    """The most likely tokens that are neither the original nor banned, and p / (1 - p_original).

    That quotient is the softmax over all tokens but the original, which loses nothing where p_original is close to 1.
    """
    ids = jnp.arange(logits.shape[-1])
    own = ids[None] == original[:, None]
    rest = jax.nn.logsumexp(jnp.where(own, -jnp.inf, logits), axis=-1)
    top, found = jax.lax.top_k(jnp.where(own | banned[None], -jnp.inf, logits), count)
    return found, jnp.exp(top - rest[:, None])


@partial(jax.jit, static_argnames=("count", "embed", "propose"))
def propose_rows(
    encoder: Encoder,
    rows: Rows,
    dropout: Float32[AnyArray, ""],
    banned: Bool[AnyArray, " vocab"],
    *,
    count: int,
    embed: Embed,
    propose: Propose,
) -> tuple[Int[Array, "row candidate"], Float32[Array, "row candidate"], Bool[Array, ""]]:
    """Candidates for each row's place and their scores, and whether all logits are finite."""
    tokens = jnp.asarray(rows.tokens)
    words = encoder.words(tokens)
    keys = jax.random.wrap_key_data(jnp.asarray(rows.seed), impl="threefry2x32")
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - dropout, words.shape[-1:]))(keys)
    scale = jnp.where(kept, 1 / (1 - dropout), 0.0)
    here = jnp.arange(tokens.shape[1])[None] == jnp.asarray(rows.place)[:, None]
    x = embed(encoder, words, jnp.where(here[..., None], scale[:, None], 1.0))
    hidden = encoder.encode(x, jnp.asarray(rows.size), jnp.asarray(rows.place))
    logits = encoder.to_logits(hidden)[:, 0]
    original = jnp.take_along_axis(tokens, jnp.asarray(rows.place)[:, None], axis=1)[:, 0]
    ids, scores = propose(logits, original, jnp.asarray(banned), count)
    return ids, scores, jnp.isfinite(logits).all()


@dataclass(frozen=True)
class SwapRules:
    """How neighbors are made, where MIMIR does otherwise than the authors.

    Attributes:
        name: of the rules.
        embed: what the first layer reads, of word embeddings and the factors of dropout.
        propose: candidates and their scores, of the logits at a place.
        places: which tokens may be swapped.
        piece: how a token is written at a place of a text.
        rewrite: a text, written anew from ids.
        choose: the swaps of each neighbor.
        distinct: leave out candidates that change nothing, that cannot be written, or that are written alike.
    """

    name: str = "paper"
    embed: Embed = embed_dropped
    propose: Propose = propose_others
    places: Callable[[Encoded, frozenset[int]], Bool[np.ndarray, " token"]] = places_of_text
    piece: Callable[[Any, int, str, int], str] = piece_in_place
    rewrite: Callable[[Any, Sequence[int]], str] = text_of_ids
    choose: Callable[[Encoded, Candidates, int, SwapsConfig, np.random.Generator], list[list[Swap]]] = choose_swaps
    distinct: bool = True


PAPER = SwapRules()


def swap_neighbors(
    model: MaskModel,
    texts: Sequence[Encoded],
    count: int,
    settings: SwapsConfig,
    seed: int = 0,
    rules: SwapRules = PAPER,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    on_start: Callable[[int], None] = lambda total: None,
    on_batch: Callable[[int], None] = lambda tokens: None,
) -> Iterator[tuple[int, list[str]]]:
    """Neighbors of each text, as they are made: its number and the neighbors, the most likely first.

    What is made of a text depends on nothing but the text, the model, the settings and the seed.

    Args:
        model: the masked model.
        texts: from `encode_texts`.
        count: neighbors of each; short texts have fewer.
        settings: how.
        seed: of dropout and of random combinations.
        rules: the authors', or MIMIR's.
        batch_tokens: token positions that one slice of the batch axis computes at a time.
        on_start: called with the number of tokens whose candidates will be computed.
        on_batch: called with the number of those of each batch that is done.

    Raises:
        ScoringError: logits that are not finite.
    """
    for number, candidates in propose_swaps(
        model, texts, settings, seed, rules, batch_tokens, on_start=on_start, on_batch=on_batch
    ):
        yield number, swapped_texts(model.tokenizer, texts[number], candidates, count, settings, seed, rules)


def swapped_texts(
    tokenizer: Any,
    encoded: Encoded,
    candidates: Candidates,
    count: int,
    settings: SwapsConfig,
    seed: int,
    rules: SwapRules = PAPER,
) -> list[str]:
    """The neighbors of a text, of the candidates at its places; see `swap_neighbors`."""
    if rules.distinct and settings.in_place:
        candidates = _distinct(tokenizer, encoded, candidates, rules)
    rng = np.random.default_rng([seed, *np.frombuffer(_digest(seed, encoded, "combinations", 16), "<u4").tolist()])
    chosen = rules.choose(encoded, candidates, count, settings, rng)
    if settings.in_place:
        return [_swapped(tokenizer, encoded, swaps, rules) for swaps in chosen]
    neighbors = []
    for swaps in chosen:
        ids = encoded.ids.copy()
        for place, token in swaps:
            ids[place] = token
        neighbors.append(rules.rewrite(tokenizer, ids.tolist()))
    return neighbors


def _swapped(tokenizer: Any, encoded: Encoded, swaps: Sequence[Swap], rules: SwapRules) -> str:
    assert encoded.spans is not None
    text, end = [], 0
    for place, token in sorted(swaps):
        start, stop = encoded.spans[place].tolist()
        text += [encoded.text[end:start], rules.piece(tokenizer, token, encoded.text, start)]
        end = stop
    return "".join([*text, encoded.text[end:]])


def _distinct(tokenizer: Any, encoded: Encoded, candidates: Candidates, rules: SwapRules) -> Candidates:
    """Without candidates that would be written as the original, as a better one of the place, or not at all."""
    assert encoded.spans is not None
    scores = candidates.scores.copy()
    for row, place in enumerate(candidates.places.tolist()):
        start, stop = encoded.spans[place].tolist()
        seen = {encoded.text[start:stop], ""}
        for column, token in enumerate(candidates.ids[row].tolist()):
            piece = rules.piece(tokenizer, token, encoded.text, start)
            if piece in seen or "\ufffd" in piece:
                scores[row, column] = -np.inf
            seen.add(piece)
    return candidates._replace(scores=scores)


def propose_swaps(
    model: MaskModel,
    texts: Sequence[Encoded],
    settings: SwapsConfig,
    seed: int = 0,
    rules: SwapRules = PAPER,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    on_start: Callable[[int], None] = lambda total: None,
    on_batch: Callable[[int], None] = lambda tokens: None,
) -> Iterator[tuple[int, Candidates]]:
    """Candidates of each text, as they are computed; see `swap_neighbors`."""
    inner = model.encoder.config
    special = frozenset(model.tokenizer.all_special_ids) - {model.tokenizer.unk_token_id}
    places = [np.flatnonzero(rules.places(one, special)) for one in texts]
    on_start(sum(map(len, places)))
    count = min(settings.candidates, inner.vocab)
    compute = partial(
        propose_rows,
        model.encoder,
        dropout=np.float32(settings.dropout),
        banned=_banned(model),
        count=count,
        embed=rules.embed,
        propose=rules.propose,
    )
    ids = [np.zeros((len(some), count), np.int32) for some in places]
    scores = [np.zeros((len(some), count), np.float32) for some in places]
    left = [len(some) for some in places]
    for number, some in enumerate(left):
        if not some:
            yield number, Candidates(places[number], ids[number], scores[number])
    flight: deque[tuple[list[tuple[int, int]], Any]] = deque()

    def collect() -> Iterator[tuple[int, Candidates]]:
        batch, results = flight.popleft()
        found, values, finite = (np.asarray(x) for x in results)
        if not finite:
            raise ScoringError("a masked model got logits that are not finite: it overflows; try another dtype")
        for row, (number, place) in enumerate(batch):
            ids[number][place], scores[number][place] = found[row], values[row]
            left[number] -= 1
            if not left[number]:
                yield number, Candidates(places[number], ids[number], scores[number])
        on_batch(len(batch))

    over_data = NamedSharding(model.mesh, P("data"))
    for width, rows, batch in _plan(texts, places, inner.context, batch_tokens, model.mesh.shape["data"]):
        arrays = _rows(texts, places, batch, rows, width, seed)
        flight.append((batch, hosts.gather(compute(rows=hosts.place(arrays, over_data)), model.mesh)))
        if len(flight) == AHEAD:
            yield from collect()
    while flight:
        yield from collect()


def _plan(
    texts: Sequence[Encoded],
    places: Sequence[Int[np.ndarray, " _"]],
    context: int,
    batch_tokens: int,
    ways: int,
) -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
    """Width and number of rows of each batch, and which text and place of it each row is; one shape a width."""
    widths: dict[int, list[int]] = {}
    for number, one in enumerate(texts):
        widths.setdefault(min(-(-len(one.ids) // GRAIN) * GRAIN, max(context, len(one.ids))), []).append(number)
    for width, numbers in sorted(widths.items()):
        todo = [(number, place) for number in numbers for place in range(len(places[number]))]
        rows = max(batch_tokens // width, 1) * ways
        yield from ((width, rows, todo[start : start + rows]) for start in range(0, len(todo), rows))


def _rows(
    texts: Sequence[Encoded],
    places: Sequence[Int[np.ndarray, " _"]],
    batch: Sequence[tuple[int, int]],
    rows: int,
    width: int,
    seed: int,
) -> Rows:
    arrays = Rows(
        np.zeros((rows, width), np.int32),
        np.ones(rows, np.int32),
        np.zeros(rows, np.int32),
        np.zeros((rows, 2), np.uint32),
    )
    for row, (number, index) in enumerate(batch):
        one, place = texts[number], int(places[number][index])
        arrays.tokens[row, : len(one.ids)] = one.ids
        arrays.size[row], arrays.place[row] = len(one.ids), place
        arrays.seed[row] = np.frombuffer(_digest(seed, one, str(place), 8), "<u4")
    return arrays


def _digest(seed: int, encoded: Encoded, what: str, size: int) -> bytes:
    key = f"{seed}|{what}|".encode()
    return hashlib.blake2b(key + encoded.text.encode("utf-8", "surrogatepass"), digest_size=size).digest()


def _banned(model: MaskModel) -> Bool[np.ndarray, " vocab"]:
    """Ids that are never candidates: special tokens, unused ones, and those of a padded vocabulary."""
    tokenizer = model.tokenizer
    banned = np.ones(model.encoder.config.vocab, bool)
    for token, number in tokenizer.get_vocab().items():
        if number < len(banned):
            banned[number] = bool(re.fullmatch(r"\[unused\d+\]", token))
    banned[[number for number in tokenizer.all_special_ids if number < len(banned)]] = True
    return banned
