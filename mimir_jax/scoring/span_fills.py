"""Neighbors of texts by filling: spans of words are masked, and a text-to-text model writes others in their place.

Raffel et al., Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer, 2020, for the form of
masks and fills; Mitchell et al., DetectGPT, 2023 (2301.11305), for spans with a buffer of words around them, which
MIMIR took over. What its code does otherwise are other functions in a `SpanRules` (compat/mimir/neighbors.py).
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float32, Int, UInt32

from mimir_jax.arrays import AnyArray
from mimir_jax.config import ConfigError, SpansConfig
from mimir_jax.models.seq2seq import KeyValue, Seq2Seq
from mimir_jax.parallel import hosts
from mimir_jax.scoring.documents import DEFAULT_BATCH_TOKENS
from mimir_jax.scoring.engine import ScoringError
from mimir_jax.scoring.masked import MOST, SpanModel
from mimir_jax.scoring.sampling import draw_tokens

GRAIN = 64  # sources are filled up to multiples of it
STEPS = 32  # what is written, likewise

Piece = str | int
"""A word of a masked text, or the number of a mask."""

Mask = Callable[[str, SpansConfig, np.random.Generator], list[Piece]]


class Masked(NamedTuple):
    """A text whose fills are to be written.

    Attributes:
        text: its number.
        neighbor: which of its neighbors this becomes.
        attempt: how often it was tried before.
        pieces: words and masks.
        ids: what the model reads.
    """

    text: int
    neighbor: int
    attempt: int
    pieces: list[Piece]
    ids: list[int]

    @property
    def masks(self) -> int:
        return sum(isinstance(piece, int) for piece in self.pieces)


class FillRows(NamedTuple):
    """What a batch's device computation reads.

    Attributes:
        tokens: ids, 0 on padding.
        size: tokens of each row.
        stop: the id that ends the last fill; -1 in empty rows.
        limit: the most tokens to write.
        seed: the two words of each row's random key.
    """

    tokens: Int[AnyArray, "row time"]
    size: Int[AnyArray, " row"]
    stop: Int[AnyArray, " row"]
    limit: Int[AnyArray, " row"]
    seed: UInt32[AnyArray, "row 2"]


def check_spans(spans: SpansConfig) -> None:
    """Refuse what cannot be made.

    Raises:
        ConfigError: a number is out of range; the message names it.
    """
    for name, value, least in (
        ("length", spans.length, 1),
        ("buffer", spans.buffer, 0),
        ("top_k", spans.top_k, 1),
        ("max_tries", spans.max_tries, 1),
    ):
        if value < least:
            raise ConfigError(f"neighbors.spans.{name}: {value}, must be at least {least}")
    for name, share in (("share", spans.share), ("top_p", spans.top_p)):
        if not 0 < share <= 1:
            raise ConfigError(f"neighbors.spans.{name}: {share}, must be above 0 and at most 1")


def mask_spans(text: str, spans: SpansConfig, rng: np.random.Generator) -> list[Piece]:
    """Words of a text, which single spaces part, with masks in the place of random spans.

    share * words / (length + 2 * buffer) spans are masked, at least one; see `place_masks`.
    """
    return place_masks(text, *wanted_spans(text, spans), spans.buffer, rng)


def place_masks(
    text: str, length: int, count: int, buffer: int, rng: np.random.Generator, *, last: bool = True
) -> list[Piece]:
    """Words of a text with masks in the place of random spans, numbered from the left.

    Args:
        text: words that single spaces part.
        length: words of a span.
        count: spans; fewer where they leave no room.
        buffer: words between a span and the next mask.
        rng: of the spans.
        last: whether the last word may be masked.
    """
    words: list[Piece] = [*text.split(" ")]
    for _ in range(count):
        blocked = np.array([isinstance(word, int) for word in words])
        # How many masks there are before each word; a span may start where none is within the buffer.
        before = np.concatenate([[0], np.cumsum(blocked)])
        starts = np.arange(max(len(words) - length + last, 1))
        low, high = np.maximum(starts - buffer, 0), np.minimum(starts + length + buffer, len(words))
        free = starts[before[high] == before[low]]
        if not len(free):
            break
        start = int(rng.choice(free))
        words[start : start + length] = [0]
    numbers = iter(range(len(words)))
    return [next(numbers) if isinstance(word, int) else word for word in words]


def wanted_spans(text: str, spans: SpansConfig) -> tuple[int, int]:
    """How many words each span of a text has, and how many spans there are."""
    words = len(text.split(" "))
    length = max(1, min(int(spans.share * words), spans.length))
    wanted = spans.share * words / (length + 2 * spans.buffer)
    return length, min(max(1, int(np.ceil(wanted) if spans.round_up else wanted)), MOST)


def most_written(text: str, spans: SpansConfig) -> int:
    """The most tokens that fills of a text may take: four a word and a sentinel each, and more for single words."""
    length, count = wanted_spans(text, spans)
    return 2 + count * (1 + 4 * max(length, 2))


def random_words(
    text: str, words: Sequence[str], spans: SpansConfig, rng: np.random.Generator, mask: Mask = mask_spans
) -> str:
    """A text with random words of a list in the place of random spans, `length` in each."""
    pieces, again = mask(text, spans, rng), len(words) < spans.length
    filled = [
        [words[i] for i in rng.choice(len(words), spans.length, replace=again)] if isinstance(piece, int) else [piece]
        for piece in pieces
    ]
    return " ".join(word for some in filled for word in some)


def random_tokens(text: str, tokenizer: Any, spans: SpansConfig, rng: np.random.Generator) -> str:
    """A text with other random tokens in the place of share * length / (length + 2 * buffer) of its own."""
    ids = np.array(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], np.int64)
    possible = np.setdiff1d(np.arange(len(tokenizer)), tokenizer.all_special_ids)
    share = spans.share * spans.length / (spans.length + 2 * spans.buffer)
    replaced = rng.random(len(ids)) < share
    ids[replaced] = rng.choice(possible, int(replaced.sum()))
    made: str = tokenizer.decode(ids.tolist(), skip_special_tokens=True)
    return made


def nucleus(
    logits: Float32[Array, "row vocab"], top_k: int, top_p: Float32[AnyArray, ""]
) -> Float32[Array, "row vocab"]:
    """Logits of the `top_k` largest, and of those the fewest whose probabilities reach `top_p`; -inf elsewhere.

    Holtzman et al., The Curious Case of Neural Text Degeneration, 2020 (1904.09751).
    """
    top, ids = jax.lax.top_k(logits, top_k)
    probs = jax.nn.softmax(top, axis=-1)
    kept = jnp.cumsum(probs, axis=-1) - probs < top_p  # the first always is
    rows = jnp.arange(logits.shape[0])[:, None]
    return jnp.full_like(logits, -jnp.inf).at[rows, ids].set(jnp.where(kept, top, -jnp.inf))


class _State(NamedTuple):
    """Of a batch, after `step` tokens of each row are drawn."""

    step: Int[Array, ""]
    last: Int[Array, " row"]
    written: Int[Array, "row step"]
    done: Bool[Array, " row"]
    finite: Bool[Array, ""]
    room: KeyValue


@partial(jax.jit, static_argnames=("mesh", "steps", "top_k"))
def write_fills(
    model: Seq2Seq,
    rows: FillRows,
    top_p: Float32[AnyArray, ""],
    vocab: Int[AnyArray, ""],
    ends: Int[AnyArray, "2"],
    *,
    mesh: Mesh,
    steps: int,
    top_k: int,
) -> tuple[Int[Array, "row step"], Bool[Array, ""]]:
    """Ids that the model writes for each row, and whether all logits were finite.

    Args:
        model: the network.
        rows: see FillRows.
        top_p: see `nucleus`.
        vocab: ids from here on are never drawn.
        ends: the ids of padding, which is what writing begins with and is never drawn, and of the end of a text; -1
            where that ends nothing.
        mesh: of the devices.
        steps: the most tokens.
        top_k: see `nucleus`.
    """
    tokens, size, stop, limit = (jnp.asarray(x) for x in (rows.tokens, rows.size, rows.stop, rows.limit))
    ends = jnp.asarray(ends)
    real = jnp.arange(tokens.shape[1])[None] < size[:, None]
    source = model.read(tokens, real)
    place = NamedSharding(mesh, P(None, "data"))
    room = KeyValue(*(jax.lax.with_sharding_constraint(x, place) for x in model.empty(tokens.shape[0], steps)))

    def step(state: _State) -> _State:
        hidden, room = model.write(state.last[:, None], state.step, state.room, source, real)
        logits = model.to_logits(hidden)[:, 0]
        finite = state.finite & jnp.isfinite(logits).all()
        ids = jnp.arange(logits.shape[-1])[None]
        logits = nucleus(jnp.where((ids < vocab) & (ids != ends[0]), logits, -jnp.inf), top_k, top_p)
        drawn = draw_tokens(logits[:, None], jnp.asarray(rows.seed)[:, None], state.step, top_k, jnp.float32(1))[:, 0]
        drawn = jnp.where(state.done, ends[0], drawn)
        written = jax.lax.dynamic_update_slice_in_dim(state.written, drawn[:, None], state.step, axis=1)
        done = state.done | (drawn == stop) | (drawn == ends[1]) | (state.step + 1 >= limit)
        return _State(state.step + 1, drawn, written, done, finite, room)

    empty = jnp.full((tokens.shape[0], steps), ends[0], jnp.int32)
    start = _State(jnp.int32(0), empty[:, 0], empty, stop < 0, jnp.bool_(True), room)
    state = jax.lax.while_loop(lambda state: (state.step < steps) & ~state.done.all(), step, start)
    return state.written, state.finite


def read_fills(written: Sequence[int], sentinels: Sequence[int], masks: int, end: int) -> list[list[int]] | None:
    """The ids of each fill, which stand between the sentinels of their masks; None where one is missing."""
    fills: list[list[int]] = []
    for token in written:
        if token == end or (len(fills) == masks and token in sentinels):
            return fills if len(fills) == masks and all(fills) else None
        if token in sentinels:
            if len(fills) == masks or token != sentinels[len(fills)]:
                return None
            fills.append([])
        elif not fills:
            return None
        else:
            fills[-1].append(token)
    return None


@dataclass(frozen=True)
class SpanRules:
    """How neighbors are made, where MIMIR does otherwise than T5's authors.

    Attributes:
        name: of the rules.
        mask: which spans are masked.
        most: the most tokens that may be written for a text.
        read: the ids of each fill, of what was written, the sentinels' ids, the number of masks and the id of the end.
        empty: whether a mask may be filled with nothing.
        ends: whether the end of a text ends writing.
    """

    name: str = "paper"
    mask: Mask = mask_spans
    most: Callable[[str, SpansConfig], int] = most_written
    read: Callable[[Sequence[int], Sequence[int], int, int], list[list[int]] | None] = read_fills
    empty: bool = False
    ends: bool = True


PAPER = SpanRules()


def fill_neighbors(
    model: SpanModel,
    texts: Sequence[str],
    count: int,
    spans: SpansConfig,
    seed: int = 0,
    rules: SpanRules = PAPER,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    on_start: Callable[[int], None] = lambda total: None,
    on_batch: Callable[[int], None] = lambda done: None,
) -> Iterator[tuple[int, list[str]]]:
    """Neighbors of each text, as they are made: its number and the neighbors.

    Where a mask got no fill the text is masked anew and tried again, up to `max_tries` times; then the neighbor is the
    text itself. What is made of a text depends on nothing but the text, the model, the settings and the seed, but for
    the rounding of a tie.

    Args:
        model: the text-to-text model.
        texts: any; an empty one has no neighbors.
        count: neighbors of each.
        spans: how.
        seed: of masks and fills.
        rules: the authors', or MIMIR's.
        batch_tokens: token positions that one slice of the batch axis reads or writes at a time.
        on_start: called with the number of neighbors.
        on_batch: called with the number of those that each batch finishes.

    Raises:
        ScoringError: logits that are not finite.
    """
    made: list[list[str | None]] = [[None] * count if text.strip() else [] for text in texts]
    on_start(sum(map(len, made)))
    yield from ((number, []) for number, neighbors in enumerate(made) if not neighbors)
    sizes = [len(model.tokenizer(text, verbose=False)["input_ids"]) if text.strip() else 0 for text in texts]
    widths: dict[int, list[int]] = {}
    for number in (i for i, neighbors in enumerate(made) if neighbors):
        size = sizes[number] + 2 * wanted_spans(texts[number], spans)[1]  # a sentinel may be two tokens
        widths.setdefault(-(-size // GRAIN) * GRAIN, []).append(number)
    for width, numbers in sorted(widths.items()):
        todo = deque((number, neighbor, 0) for number in numbers for neighbor in range(count))
        rows = max(batch_tokens // width, 1) * model.mesh.shape["data"]
        steps = -(-max(rules.most(texts[number], spans) for number in numbers) // STEPS) * STEPS
        while todo:
            taken = [todo.popleft() for _ in range(min(rows, len(todo)))]
            batch = [_masked(model, texts, *which, spans, seed, rules) for which in taken]
            again, finished = [], 0
            for one, ids in zip(batch, _write(model, batch, (rows, width, steps), texts, spans, seed, rules)):
                filled = _filled(model, one, ids, rules)
                if filled is None and one.attempt + 1 < spans.max_tries:
                    again.append((one.text, one.neighbor, one.attempt + 1))
                    continue
                made[one.text][one.neighbor] = texts[one.text] if filled is None else filled
                finished += 1
                whole = [text for text in made[one.text] if text is not None]
                if len(whole) == count:
                    yield one.text, whole
            todo.extendleft(reversed(again))
            on_batch(finished)


def _masked(
    model: SpanModel,
    texts: Sequence[str],
    number: int,
    neighbor: int,
    attempt: int,
    spans: SpansConfig,
    seed: int,
    rules: SpanRules,
) -> Masked:
    text = texts[number]
    rng = np.random.default_rng(np.frombuffer(_digest(seed, text, f"{neighbor}|{attempt}|masks", 16), "<u4").tolist())
    pieces = rules.mask(text, spans, rng)
    masked = " ".join(f"<extra_id_{piece}>" if isinstance(piece, int) else piece for piece in pieces)
    return Masked(number, neighbor, attempt, pieces, list(model.tokenizer(masked, verbose=False)["input_ids"]))


def _write(
    model: SpanModel,
    batch: Sequence[Masked],
    shape: tuple[int, int, int],
    texts: Sequence[str],
    spans: SpansConfig,
    seed: int,
    rules: SpanRules,
) -> list[list[int]]:
    """What the model writes for each masked text; of rows, tokens read and tokens written as `shape` says."""
    rows, width, steps = shape
    width = max(width, -(-max(len(one.ids) for one in batch) // GRAIN) * GRAIN)
    arrays = FillRows(
        np.zeros((rows, width), np.int32),
        np.ones(rows, np.int32),
        np.full(rows, -1, np.int32),
        np.zeros(rows, np.int32),
        np.zeros((rows, 2), np.uint32),
    )
    for row, one in enumerate(batch):
        arrays.tokens[row, : len(one.ids)] = one.ids
        arrays.size[row], arrays.stop[row] = len(one.ids), model.sentinels[one.masks]
        arrays.limit[row] = rules.most(texts[one.text], spans)
        key = _digest(seed, texts[one.text], f"{one.neighbor}|{one.attempt}|fills", 8)
        arrays.seed[row] = np.frombuffer(key, "<u4")
    vocab = min(len(model.tokenizer), model.network.config.vocab)
    ids, finite = hosts.gather(
        write_fills(
            model.network,
            hosts.place(arrays, NamedSharding(model.mesh, P("data"))),
            np.float32(spans.top_p),
            np.int32(vocab),
            np.array([model.tokenizer.pad_token_id, model.tokenizer.eos_token_id if rules.ends else -1], np.int32),
            mesh=model.mesh,
            steps=steps,
            top_k=min(spans.top_k, vocab),
        ),
        model.mesh,
    )
    if not finite:
        raise ScoringError("a text-to-text model got logits that are not finite: it overflows; try another dtype")
    return [row.tolist() for row in np.asarray(ids)[: len(batch)]]


def _filled(model: SpanModel, one: Masked, written: Sequence[int], rules: SpanRules) -> str | None:
    """The text with its fills; None where one is missing."""
    fills = rules.read(written, model.sentinels, one.masks, model.tokenizer.eos_token_id)
    if fills is None:
        return None
    texts = [model.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in fills]
    if not (rules.empty or all(texts)):
        return None
    return " ".join(texts[piece] if isinstance(piece, int) else piece for piece in one.pieces)


def _digest(seed: int, text: str, what: str, size: int) -> bytes:
    key = f"{seed}|{what}|".encode()
    return hashlib.blake2b(key + text.encode("utf-8", "surrogatepass"), digest_size=size).digest()
