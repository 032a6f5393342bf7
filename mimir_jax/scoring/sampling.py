"""Continuations that a model writes itself: prompts are read once, then all samples grow by a token at a time.

The samples of a document stand side by side on the time axis of one row and go on from one past: the prompt's keys
and values, which all of them see, then those of the tokens written so far, of which each sees its own. So a
document's prompt is read and kept once, however many samples there are of it, and each step writes the same slots
of every row, whatever the lengths of the prompts.
"""

import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float32, Int, UInt32

from mimir_jax.arrays import AnyArray
from mimir_jax.config import ConfigError, SamplesConfig
from mimir_jax.models.attention import UNSEEN, Past
from mimir_jax.models.decoder import Decoder
from mimir_jax.parallel import hosts
from mimir_jax.parallel.mesh import partition
from mimir_jax.scoring.documents import DEFAULT_BATCH_TOKENS
from mimir_jax.scoring.engine import ScoringError
from mimir_jax.scoring.kept_results import keeping, result_key
from mimir_jax.scoring.model import Model
from mimir_jax.scoring.store import Store
from mimir_jax.scoring.tokens import Tokens

VERSION = 1  # of how tokens are drawn; part of every key
GRAIN = 32  # prompts are filled up to powers of two times it, continuations to multiples
CACHED = 8  # positions whose keys and values are kept, for each that is computed at a time


def check_samples(config: SamplesConfig) -> None:
    """Refuse what cannot be sampled.

    Raises:
        ConfigError: a number is out of range; the message names it.
    """
    for name, value, least in (("count", config.count, 1), ("top_k", config.top_k, 1)):
        if value < least:
            raise ConfigError(f"samples.{name}: {value}, must be at least {least}")
    if not 0 < config.prefix < 1:
        raise ConfigError(f"samples.prefix: {config.prefix}, must be a share between 0 and 1")
    if not (isfinite(config.temperature) and config.temperature > 0):
        raise ConfigError(f"samples.temperature: {config.temperature}, must be above 0; top_k=1 is greedy")


def cut(tokens: Tokens, share: float, context: int) -> tuple[list[int], list[int]]:
    """The tokens that the model is given of a document and those that it really goes on with.

    Args:
        tokens: the document's; what precedes its text is given, too.
        share: of the text's tokens that are given.
        context: the most tokens that the model reads at once; of a longer document the beginning is taken.
    """
    text = tokens.text_ids[: max(context - len(tokens.context_ids), 0)]
    given = int(share * len(text))
    return [*tokens.context_ids, *text[:given]], text[given:]


def sample_continuations(
    model: Model,
    prompts: Sequence[Sequence[int]],
    lengths: Sequence[int],
    count: int = 10,
    top_k: int = 50,
    temperature: float = 1.0,
    seed: int = 0,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    on_start: Callable[[int], None] = lambda total: None,
    on_batch: Callable[[int], None] = lambda tokens: None,
    store: Store | None = None,
) -> list[list[list[int]]] | list[list[list[list[int]]]]:
    """Continuations of each prompt, sampled token by token from the most probable ones.

    A continuation ends before the tokenizer's EOS or at its length. Its randomness is a function of the seed, the
    prompt and its number alone, so that it does not depend on what else is sampled, but for the rounding of a tie;
    and stacked models draw with the same randomness.

    Args:
        model: from `load_model`.
        prompts: ids of each; an empty one has no continuation.
        lengths: of each, the most tokens to write; 0 is no continuation.
        count: continuations of each.
        top_k: how many tokens are chosen from; 1 is greedy.
        temperature: what logits are divided by, above 0.
        seed: of all choices.
        batch_tokens: token positions that one slice of the batch axis computes at a time, in prompts or in a step;
            keys and values are kept of CACHED times as many.
        on_start: called with the number of tokens that will be read or written, if no continuation ends early.
        on_batch: called with the number of tokens of each batch that is done; with 0 when one is compiled and sent off.
        store: where continuations are found and kept, a key a prompt; the batches of what is computed do not depend on
            it.

    Returns:
        [prompt][sample] of lists of ids; [model][prompt][sample] of stacked models.

    Raises:
        ScoringError: logits that are not finite.
        ValueError: a prompt and its continuation exceed the model's context.
    """
    config = model.decoder.config
    for number, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
        if len(prompt) + length > config.context:
            raise ValueError(f"prompt {number}: {len(prompt)} + {length} tokens exceed the context of {config.context}")
    ways = model.mesh.shape["data"]
    plan = plan_prompts([len(prompt) for prompt in prompts], lengths, count, config.context, batch_tokens, ways)
    tokens = [sum(len(prompts[i]) + count * lengths[i] for i in batch.documents) for batch in plan]
    vocab = min(len(model.tokenizer), config.vocab)  # a padded vocabulary's last ids are no tokens
    eos = -1 if model.tokenizer.eos_token_id is None else model.tokenizer.eos_token_id
    choice = Choice(np.array(temperature, np.float32), np.array(vocab, np.int32), np.array(eos, np.int32))
    write = partial(write_batch, mesh=model.mesh, count=count, top_k=min(top_k, vocab))
    results: list[list[list[list[int]]]] = [[[] for _ in prompts] for _ in model.sources]
    how = (VERSION, model.dtype, count, top_k, temperature, seed, vocab, eos)
    keys = [
        [
            result_key(*how, source.checkpoint, length, np.array(prompt, "<i4").tobytes())
            for prompt, length in zip(prompts, lengths)
        ]
        for source in model.sources
    ]
    with keeping(store, "samples", np.int32) as kept:
        stored = kept.get(keys[axis][i] for axis in range(len(keys)) for batch in plan for i in batch.documents)
        for of_model, continuations in zip(keys, results):
            for i, key in enumerate(of_model):
                if key in stored:
                    continuations[i] = _from_flat(stored[key], count)
        todo = [[not all(of_model[i] in stored for i in batch.documents) for batch in plan] for of_model in keys]
        on_start(sum(done for of_model in todo for done, needed in zip(tokens, of_model) if needed))
        for axis, continuations in enumerate(results):
            decoder = model.decoder
            if model.stacked:
                # One by one: a vmapped loop would copy all caches at each step to hold still those that have ended.
                decoder = jax.tree.map(lambda x, i=axis: x[i], decoder)
            for batch, done in itertools.compress(zip(plan, tokens), todo[axis]):
                arrays = prompt_arrays(batch, prompts, lengths, count, seed)
                with hosts.others_may_fail():
                    arrays = hosts.place(arrays, NamedSharding(model.mesh, P("data")))
                    written = write(decoder, arrays, choice, steps=batch.steps)
                    on_batch(0)
                    ids, sizes, finite = jax.device_get(hosts.gather(written, model.mesh))
                if not finite:
                    raise ScoringError(
                        "sampling got logits that are not finite: the model overflows; try another dtype"
                    )
                for row, i in enumerate(batch.documents):
                    samples = [ids[row, sample, : sizes[row, sample]] for sample in range(count)]
                    continuations[i] = [one.tolist() for one in samples]
                    kept.put(keys[axis][i], np.concatenate([sizes[row], *samples]).astype(np.int32))
                on_batch(done)
    return results if model.stacked else results[0]


def _from_flat(kept: Int[np.ndarray, " number"], count: int) -> list[list[int]]:
    """Continuations from how long each is and, behind that, the ids of all."""
    return [one.tolist() for one in np.split(kept[count:], np.cumsum(kept[:count])[:-1])]


@dataclass(frozen=True)
class PromptBatch:
    """Prompts that are continued together: `rows` of `width` tokens, of which `steps` more are written."""

    rows: int
    width: int
    steps: int
    documents: tuple[int, ...]


class Prompts(NamedTuple):
    """What a batch's device computation reads.

    Attributes:
        tokens: ids, 0 on padding.
        size: tokens of each prompt.
        length: tokens to write; 0 in empty rows.
        seed: the two words of each sample's random key.
    """

    tokens: Int[AnyArray, "row width"]
    size: Int[AnyArray, " row"]
    length: Int[AnyArray, " row"]
    seed: UInt32[AnyArray, "row sample 2"]


class Choice(NamedTuple):
    """How tokens are chosen.

    Attributes:
        temperature: what logits are divided by.
        vocab: ids from here on are never drawn.
        eos: the id that ends a continuation; -1 is none.
    """

    temperature: Float32[AnyArray, ""]
    vocab: Int[AnyArray, ""]
    eos: Int[AnyArray, ""]


def plan_prompts(
    sizes: Sequence[int], lengths: Sequence[int], count: int, context: int, batch_tokens: int, row_multiple: int = 1
) -> list[PromptBatch]:
    """Batches of prompts of like size, of as few shapes as there are powers of two among the sizes.

    Args:
        sizes: tokens of each prompt; those without any, or with nothing to write, are left out.
        lengths: tokens to write of each.
        count: continuations of each.
        context: the most tokens that the model reads at once.
        batch_tokens: see `sample_continuations`.
        row_multiple: a batch's rows are a multiple of it.
    """
    widths: dict[int, list[int]] = {}
    for i, size in enumerate(sizes):
        if size and lengths[i] > 0:
            width = GRAIN << (-(-size // GRAIN) - 1).bit_length()
            widths.setdefault(min(width, context), []).append(i)
    batches = []
    for width, group in sorted(widths.items()):
        group.sort(key=lambda i: (-lengths[i], i))  # those of a batch end together
        steps = -(-lengths[group[0]] // GRAIN) * GRAIN
        most = min(batch_tokens // width, batch_tokens // count, CACHED * batch_tokens // (width + steps * count))
        most = max(most, 1) * row_multiple
        rows = -(-len(group) // -(-len(group) // most))  # split evenly
        rows = -(-rows // row_multiple) * row_multiple
        batches += [
            PromptBatch(rows, width, steps, tuple(group[start : start + rows])) for start in range(0, len(group), rows)
        ]
    return batches


def prompt_arrays(
    batch: PromptBatch, prompts: Sequence[Sequence[int]], lengths: Sequence[int], count: int, seed: int
) -> Prompts:
    """The batch's arrays (see Prompts)."""
    arrays = Prompts(
        np.zeros((batch.rows, batch.width), np.int32),
        np.ones(batch.rows, np.int32),
        np.zeros(batch.rows, np.int32),
        np.zeros((batch.rows, count, 2), np.uint32),
    )
    for row, number in enumerate(batch.documents):
        ids = np.array(prompts[number], "<i4")
        arrays.tokens[row, : len(ids)] = ids
        arrays.size[row] = len(ids)
        arrays.length[row] = lengths[number]
        for sample in range(count):
            digest = hashlib.blake2b(f"{seed}|{sample}|".encode() + ids.tobytes(), digest_size=8)
            arrays.seed[row, sample] = np.frombuffer(digest.digest(), "<u4")
    return arrays


class _State(NamedTuple):
    """Of a batch, after `step` tokens of each sample are drawn.

    Attributes:
        step: how many.
        hidden: states that predict the next.
        written: ids drawn so far.
        size: how many of them are the continuation.
        done: it has ended.
        finite: all logits were.
        cache: keys and values of the prompt, then of the tokens drawn, by step and sample.
    """

    step: Int[Array, ""]
    hidden: Float32[Array, "row sample embed"]
    written: Int[Array, "row sample step"]
    size: Int[Array, "row sample"]
    done: Bool[Array, "row sample"]
    finite: Bool[Array, ""]
    cache: Past


@partial(jax.jit, static_argnames=("mesh", "count", "steps", "top_k"))
def write_batch(
    decoder: Decoder,
    prompts: Prompts,
    choice: Choice,
    *,
    mesh: Mesh,
    count: int,
    steps: int,
    top_k: int,
) -> tuple[Int[Array, "row sample step"], Int[Array, "row sample"], Bool[Array, ""]]:
    """Ids of the continuations, how many of them each has, and whether all logits were finite."""
    rows, width = prompts.tokens.shape

    def step(state: _State) -> _State:
        logits = decoder.to_logits(state.hidden)
        finite = state.finite & jnp.isfinite(logits).all()
        logits = jnp.where(jnp.arange(logits.shape[-1])[None, None] < choice.vocab, logits, -jnp.inf)
        token = draw_tokens(logits, prompts.seed, state.step, top_k, choice.temperature)
        written = jax.lax.dynamic_update_slice_in_dim(state.written, token[..., None], state.step, axis=2)
        going = ~state.done & (token != choice.eos)
        size = state.size + going.astype(jnp.int32)
        done = ~going | (size >= prompts.length[:, None])
        # The last token is read in vain: two draws in a program would compile for longer than that takes.
        positions = jnp.broadcast_to((prompts.size + state.step)[:, None], (rows, count))
        distance = sample_distance(prompts.size, state.step, width, steps, count)
        segments = jnp.broadcast_to(jnp.arange(count)[None], token.shape)  # a sample sees none of the others
        hidden, own = decoder.read(token, positions, segments, state.cache, distance)
        slot = width + state.step * count
        cache = Past(*(jax.lax.dynamic_update_slice_in_dim(x, y, slot, axis=3) for x, y in zip(state.cache, own)))
        return _State(state.step + 1, hidden, written, size, done, finite, cache)

    positions = jnp.broadcast_to(jnp.arange(width)[None], (rows, width))
    hidden, past = decoder.read(prompts.tokens, positions, jnp.zeros_like(positions))
    last = jnp.take_along_axis(hidden, prompts.size[:, None, None] - 1, axis=1)
    place = partition(mesh, ("layers", "batch", "kv_heads", "time", "head_dim"), past.key.shape)
    room = [(0, 0)] * 3 + [(0, steps * count), (0, 0)]
    cache = Past(*(jax.lax.with_sharding_constraint(jnp.pad(x, room), NamedSharding(mesh, place)) for x in past))
    start = _State(
        step=jnp.int32(0),
        hidden=jnp.broadcast_to(last, (rows, count, last.shape[-1])),
        written=jnp.zeros((rows, count, steps), jnp.int32),
        size=jnp.zeros((rows, count), jnp.int32),
        done=jnp.broadcast_to(prompts.length[:, None] == 0, (rows, count)),
        finite=jnp.bool_(True),
        cache=cache,
    )
    state = jax.lax.while_loop(lambda state: ~state.done.all(), step, start)
    return state.written, state.size, state.finite


def draw_tokens(
    logits: Float32[Array, "row sample vocab"],
    seed: UInt32[AnyArray, "row sample 2"],
    step: Int[Array, ""],
    top_k: int,
    temperature: Float32[AnyArray, ""],
) -> Int[Array, "row sample"]:
    """A token for each sample, drawn from softmax(logits / temperature) over the `top_k` largest logits.

    The maximum of logits with Gumbel noise (Gumbel 1954). The noise is of the step and the id, not of the rank, so
    that two logits that rounding swaps keep theirs.

    Args:
        logits: of each sample.
        seed: the words of each sample's random key.
        step: how many tokens were drawn before.
        top_k: how many are chosen from.
        temperature: above 0.
    """
    vocab = logits.shape[-1]
    logits, ids = jax.lax.top_k(logits, top_k)
    keys = jax.random.wrap_key_data(jnp.asarray(seed), impl="threefry2x32")
    number = step.astype(jnp.uint32) * vocab + ids.astype(jnp.uint32)
    fold = jax.vmap(jax.vmap(jax.vmap(jax.random.fold_in, in_axes=(None, 0))))
    bits = jax.random.key_data(fold(keys, number))[..., 0]
    uniform = ((bits >> 9).astype(jnp.float32) + 0.5) * 2.0**-23  # neither 0 nor 1
    best = jnp.argmax(logits / temperature - jnp.log(-jnp.log(uniform)), axis=-1)
    return jnp.take_along_axis(ids, best[..., None], axis=-1)[..., 0]


def sample_distance(
    size: Int[AnyArray, " row"], number: Int[Array, ""], width: int, steps: int, count: int
) -> Int[Array, "row sample slot"]:
    """How far the samples' tokens of a number are from each slot of the cache; UNSEEN where they do not see it.

    Args:
        size: tokens of each row's prompt.
        number: how many tokens of each sample precede the one that is read.
        width: slots of the prompt.
        steps: tokens that there are slots for, `count` a step.
        count: samples of a row.
    """
    slot, size = jnp.arange(width)[None], jnp.asarray(size)[:, None]
    prompt = jnp.where(slot < size, size + number - slot, UNSEEN)
    step, sample = jnp.divmod(jnp.arange(steps * count)[None], count)
    own = (sample == jnp.arange(count)[:, None]) & (step < number)
    written = jnp.where(own, number - step, UNSEEN)
    rows = (size.shape[0], count)
    return jnp.concatenate(
        [jnp.broadcast_to(prompt[:, None], (*rows, width)), jnp.broadcast_to(written[None], (*rows, steps * count))],
        axis=-1,
    )
