"""Runs passes through a model: plan, dispatch ahead, fetch late, and check that nothing is missing."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Float32, Int

from mimir_jax.arrays import AnyArray, TokenStats
from mimir_jax.config import ConfigError, Head
from mimir_jax.models.attention import Past
from mimir_jax.models.decoder import Block, Decoder, Layers, parameter_axes
from mimir_jax.parallel import hosts
from mimir_jax.parallel.mesh import partition
from mimir_jax.parallel.preemption import Preempted, Preemption
from mimir_jax.scoring.batching import (
    Batch,
    BatchArrays,
    batch_arrays,
    plan_batches,
    prefix_tokens,
    spans,
)
from mimir_jax.scoring.passes import Pass
from mimir_jax.scoring.token_stats import VocabStats, over_tiles, vocab_stats
from mimir_jax.scoring.token_stats_tpu import over_blocks

AHEAD = 2  # batches in flight: one computes while the next is laid out


class ScoringError(RuntimeError):
    """Scoring did not give what it must give."""


def check_head(head: Head, mesh: Mesh) -> None:
    """Refuse what these devices cannot do.

    Raises:
        ConfigError: `head` is not for these devices.
    """
    platform = mesh.devices.flat[0].platform
    if head == "pallas" and platform != "tpu":
        raise ConfigError(f"head: pallas is a kernel for TPUs, and the devices are {platform}: use xla")


def batch_stats(
    decoder: Decoder,
    arrays: BatchArrays,
    past: Past | None,
    mesh: Mesh,
    reach: int | None = None,
    head: Head = "xla",
) -> VocabStats:
    """VocabStats [row, source] of a batch; the rows are split over `data`, the vocabulary over `model`.

    `past` holds the prefix that all rows go on from; `reach` is the batch's.

    Raises:
        ConfigError: `head` is not for these devices.
    """
    platform = mesh.devices.flat[0].platform
    check_head(head, mesh)
    moments_of = over_blocks if head == "pallas" else partial(over_tiles, platform=platform)
    stay = partial(jax.lax.with_sharding_constraint, shardings=NamedSharding(mesh, P("data")))
    layers = Layers(platform, partial(whole_layer, mesh=mesh), stay, reach)
    hidden = decoder(arrays.tokens, arrays.positions, arrays.segments, past, arrays.seen, arrays.trunks, layers)
    hidden = jnp.take_along_axis(hidden, arrays.source_index[..., None], axis=1)
    kernel, shift = decoder.head_kernel, decoder.head_shift
    kernel_spec = partition(mesh, ("vocab", "embed"), kernel.shape)
    shift_spec = None if shift is None else P(kernel_spec[0])

    # Tiles of a split vocabulary are cut within each device's share, which only a shard_map can say.
    @partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(P("data"), P("data"), kernel_spec, shift_spec),
        out_specs=P("data"),
        check_vma=False,
    )
    def predicted(
        hidden: Float32[Array, "row source embed"],
        targets: Int[Array, "row source"],
        kernel: Float[Array, "vocab embed"],
        shift: Float32[Array, " vocab"] | None,
    ) -> VocabStats:
        softcap = decoder.config.logit_softcap
        return vocab_stats(hidden, targets, kernel, kernel_spec[0], softcap, shift, moments_of)

    return predicted(hidden, arrays.targets, kernel, shift)


def whole_layer(block: Block, mesh: Mesh) -> Block:
    """A layer's weights as its products use them: what lies on other slices of `data` is fetched, once a layer.

    Left to itself XLA may rather split and exchange activations, which are far larger.
    """
    if mesh.shape["data"] == 1:
        return block

    def fetched(path: tuple[Any, ...], leaf: nnx.Variable) -> nnx.Variable:
        axes = parameter_axes(".".join(map(str, ("blocks", *path))))[1:]
        place = NamedSharding(mesh, partition(mesh, axes, leaf.shape))
        return leaf.replace(jax.lax.with_sharding_constraint(leaf[...], place))

    graph, state = nnx.split(block)
    flat = [(path, fetched(path, leaf)) for path, leaf in nnx.to_flat_state(state)]
    return nnx.merge(graph, nnx.from_flat_state(flat))


def read_prefixes(decoder: Decoder, tokens: Int[AnyArray, "prefix past"]) -> Past:
    """Keys and values of a prefix; what fills it up is seen by nothing that goes on from it."""
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    return decoder.read(tokens, positions, jnp.zeros_like(positions))[1]


score_batch = jax.jit(batch_stats, static_argnums=(3, 4, 5))
score_batch_models = jax.jit(jax.vmap(batch_stats, in_axes=(0, None, 0, None, None, None)), static_argnums=(3, 4, 5))
read_batch = jax.jit(read_prefixes)
read_batch_models = jax.jit(jax.vmap(read_prefixes, in_axes=(0, None)))


def run_passes(
    decoder: Decoder,
    passes: Sequence[Pass],
    mesh: Mesh,
    batch_tokens: int,
    known: Mapping[int, TokenStats] | None = None,
    preemption: Preemption | None = None,
    on_result: Callable[[int, TokenStats], None] = lambda number, stats: None,
    on_start: Callable[[int], None] = lambda total: None,
    on_batch: Callable[[int], None] = lambda tokens: None,
    head: Head = "xla",
) -> list[TokenStats]:
    """Statistics of each pass's span, [time] on the host, in the order of `passes`.

    Args:
        decoder: the model; stacked models (a leading axis on every parameter) give [model, time].
        passes: what to run.
        mesh: the devices that the decoder lies on.
        batch_tokens: token positions that one slice of the batch axis computes at a time.
        known: results that are there already, by number of the pass. The plan does not depend on them, so that a
            resumed run computes the same batches; those whose passes are all known are left out. The same in every
            process.
        preemption: where it is asked of any process, all finish the batches in flight and end.
        on_result: called with each pass's number and statistics as they are computed.
        on_start: called with the number of tokens that will be computed.
        on_batch: called with the number of tokens of each batch that is done; with 0 when one is compiled and sent off.
        head: how statistics of the vocabulary are computed; see `RunConfig.head`.

    Raises:
        ConfigError: `head` is not for these devices.
        ScoringError: a pass got no statistics, or ones that are not finite.
        Preempted: the run was asked to end, and `on_result` has had all that was computed.
        HostLostError: another process is gone.
    """
    preemption = Preemption() if preemption is None else preemption
    ways = mesh.shape["data"]
    plan = plan_batches(passes, batch_tokens * ways, ways)
    stacked = decoder.embedding.ndim == 3
    compute, read = (score_batch_models, read_batch_models) if stacked else (score_batch, read_batch)
    rows = NamedSharding(mesh, P("data"))
    known = known or {}
    results = [known.get(number) for number in range(len(passes))]
    leading = (decoder.embedding.shape[0],) if stacked else ()
    for number, one in enumerate(passes):
        if not one.sources:
            results[number] = unscored(one, leading)
    flight: deque[tuple[Batch, VocabStats, bool | Array]] = deque()

    def collect() -> bool:
        """Take the oldest batch's results; whether any process is asked to end."""
        batch, device_stats, vote = flight.popleft()
        with hosts.others_may_fail():
            stats = VocabStats(*(np.asarray(x) for x in device_stats))
            asked = bool(vote)
        for number, row, place in spans(batch, passes):
            if number not in known:
                span = VocabStats(*(x[..., row, place] for x in stats))
                results[number] = computed = _checked(number, span_stats(passes[number], span))
                on_result(number, computed)
        on_batch(_tokens(batch, passes))
        return asked

    todo = [batch for batch in plan if any(piece.number not in known for piece in batch.wanted)]
    on_start(sum(_tokens(batch, passes) for batch in todo))
    past, held = None, b""  # keys and values of the last batch's prefix, which the next one often shares
    asked = False
    with preemption.in_order():
        for batch in todo:
            own = hosts.own_rows(mesh, batch.rows)
            arrays = hosts.place(batch_arrays(batch, passes, own), rows)
            with hosts.others_may_fail():
                if batch.past:
                    prefix = prefix_tokens(batch, passes)
                    if prefix.tobytes() != held:
                        past, held = read(decoder, prefix), prefix.tobytes()
                stats = compute(decoder, arrays, past if batch.past else None, mesh, batch.reach, head)
                on_batch(0)  # from here on it waits for the other processes
                flight.append((batch, hosts.gather(stats, mesh), hosts.vote(mesh, preemption.asked)))
            if len(flight) == AHEAD:
                asked = collect()
            if asked:
                break
        while flight:
            asked = collect() or asked
        if asked:
            raise Preempted
    missing = [number for number, stats in enumerate(results) if stats is None]
    if missing:
        raise ScoringError(f"{len(missing)} passes got no statistics (first: pass {missing[0]})")
    return [stats for stats in results if stats is not None]


def _tokens(batch: Batch, passes: Sequence[Pass]) -> int:
    return sum(len(passes[piece.number]) for piece in batch.wanted)


def span_stats(one: Pass, predicted: VocabStats) -> TokenStats:
    """TokenStats [..., time] of a pass's span, with an unpredicted first token where it starts at 0."""
    first = len(one) - one.sources - one.start  # 1 where the span's first token has no prediction
    leading = predicted.log_prob.shape[:-1]
    ids = np.broadcast_to(one.ids[one.start :], (*leading, len(one) - one.start))

    def padded(x: AnyArray) -> np.ndarray:
        return np.pad(x, [(0, 0)] * len(leading) + [(first, 0)])

    mask = np.broadcast_to(np.arange(ids.shape[-1]) >= first, ids.shape)
    log_prob, mean, var, max_log_prob, rank = (padded(x) for x in predicted)
    return TokenStats(ids, log_prob, mean, var, max_log_prob, rank, mask)


def unscored(one: Pass, leading: tuple[int, ...]) -> TokenStats:
    """TokenStats of a pass without any prediction."""
    floats, ints = np.zeros((*leading, 0), np.float32), np.zeros((*leading, 0), np.int32)
    return span_stats(one, VocabStats(floats, floats, floats, floats, ints))


def _checked(number: int, stats: TokenStats) -> TokenStats:
    if not all(np.isfinite(x).all() for x in (stats.log_prob, stats.mean, stats.var, stats.max_log_prob)):
        raise ScoringError(f"pass {number} got statistics that are not finite: the model overflows; try another dtype")
    return stats
