"""Statistics of the predicted distributions, over tiles of the vocabulary with running moments.

Of the logits z_v seen so far a row keeps their maximum, W = sum_v exp(z_v - max), the mean of z - max under the weights
exp(z - max) / W, and the sum of weighted squared deviations from that mean. Tiles are merged as in Chan, Golub and
LeVeque (1983), rescaled where the maximum moves as in Milakov and Gimelshein (2018). Squares of deviations cannot
cancel, so a variance is never negative and keeps float32's precision however peaked or flat the prediction is.
The [batch, time, vocab] array never exists.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from mimir_jax.arrays import AnyArray
from mimir_jax.models.layers import capped, product

TILE = 1600  # columns, about: a tile of logits stays in a CPU's cache


class VocabStats(NamedTuple):
    """Of each predicted token, in nats; the fields are those of TokenStats."""

    log_prob: Float32[AnyArray, "*batch"]
    mean: Float32[AnyArray, "*batch"]
    var: Float32[AnyArray, "*batch"]
    max_log_prob: Float32[AnyArray, "*batch"]
    rank: Int32[AnyArray, "*batch"]


class Moments(NamedTuple):
    """Running moments of each row; `mean` is of z - peak, `spread` the weighted sum of squared deviations."""

    peak: Float32[Array, "*n"]
    weight: Float32[Array, "*n"]
    mean: Float32[Array, "*n"]
    spread: Float32[Array, "*n"]
    above: Int32[Array, "*n"]


MomentsOf = Callable[..., Moments]
"""What finds the moments of hidden states over all rows of a kernel: `over_tiles`, or what takes the same arguments."""


def vocab_stats(
    hidden: Float32[Array, "*batch embed"],
    targets: Int[Array, "*batch"],
    kernel: Float[Array, "vocab embed"],
    axis_name: str | None = None,
    softcap: float | None = None,
    bias: Float32[Array, " vocab"] | None = None,
    moments_of: MomentsOf | None = None,
) -> VocabStats:
    """Log-prob, moments, maximum and rank of each target under softmax(hidden @ kernel.T + bias).

    For scoring only: gradients do not go through the tiles.

    Args:
        hidden: states that predict the targets.
        targets: token ids, of the whole vocabulary.
        kernel: the head, or this device's share of its rows inside a `shard_map` over `axis_name`.
        axis_name: mesh axis that the vocabulary is split over; None where it is whole.
        softcap: bound of the logits; see `capped`.
        bias: of the head, or this device's share.
        moments_of: computes most of it; `over_tiles` by default.
    """
    batch = targets.shape
    hidden, targets = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    local = targets
    if axis_name is not None:
        local = targets - jax.lax.axis_index(axis_name) * kernel.shape[0]
    here = (local >= 0) & (local < kernel.shape[0])
    row = jnp.clip(local, 0, kernel.shape[0] - 1)
    target_logit = product("nd,nd->n", hidden, kernel[row])
    if bias is not None:
        target_logit = target_logit + bias[row]
    target_logit = jnp.where(here, capped(target_logit, softcap), 0.0)
    if axis_name is not None:
        target_logit = jax.lax.psum(target_logit, axis_name)
    moments = (moments_of or over_tiles)(hidden, kernel, local, target_logit, softcap, bias)
    if axis_name is not None:
        largest, total = (partial(f, axis_name=axis_name) for f in (jax.lax.pmax, jax.lax.psum))
        moments = merge_all(moments, largest, total)
    log_weight = jnp.log(moments.weight)
    stats = VocabStats(
        log_prob=target_logit - moments.peak - log_weight,
        mean=moments.mean - log_weight,
        var=moments.spread / moments.weight,
        max_log_prob=-log_weight,
        rank=1 + moments.above,
    )
    return VocabStats(*(x.reshape(batch) for x in stats))


def over_tiles(
    hidden: Float32[Array, "n embed"],
    kernel: Float[Array, "vocab embed"],
    local: Int[Array, " n"],
    target_logit: Float32[Array, " n"],
    softcap: float | None,
    bias: Float32[Array, " vocab"] | None,
    platform: str = "cpu",
) -> Moments:
    """Moments over all rows of the kernel, by XLA; `local` is each target's row, which may lie outside."""
    hidden = hidden.astype(kernel.dtype)
    vocab, tile = kernel.shape[0], _tile_size(kernel.shape[0])

    def columns(start: Int[Array, ""] | int, rows: Float[Array, "tile embed"]) -> Moments:
        logits = product("nd,vd->nv", hidden, rows)
        if bias is not None:
            logits = logits + jax.lax.dynamic_slice_in_dim(bias, start, rows.shape[0])[None]
        logits = capped(logits, softcap)
        index = start + jnp.arange(rows.shape[0], dtype=jnp.int32)
        return tile_moments(logits, target_logit, index[None] != local[:, None], -1)

    whole = vocab // tile
    moments = columns(0, kernel[:tile])
    if whole > 1:
        # XLA:CPU would widen all of a bfloat16 kernel to float32 before it takes a tile at a run-time index. On TPUs
        # the bits are a copy of the kernel, which takes as long as several tiles.
        widened = platform == "cpu" and kernel.dtype == jnp.bfloat16
        bits = jax.lax.bitcast_convert_type(kernel, jnp.uint16) if widened else kernel

        def step(total: Moments, start: Int[Array, ""]) -> tuple[Moments, None]:
            rows = jax.lax.dynamic_slice_in_dim(bits, start, tile)
            rows = jax.lax.bitcast_convert_type(rows, kernel.dtype)
            return merge(total, columns(start, rows)), None

        starts = tile * jnp.arange(1, whole, dtype=jnp.int32)
        moments, _ = jax.lax.scan(step, moments, starts)
    if vocab % tile:
        moments = merge(moments, columns(whole * tile, kernel[whole * tile :]))
    return moments


def _tile_size(vocab: int) -> int:
    """The divisor of the vocabulary's size nearest to TILE within a factor of 2, else TILE."""
    sizes = [s for s in range(TILE // 2, 2 * TILE + 1) if vocab % s == 0]
    return min(sizes, key=lambda s: abs(s - TILE), default=min(TILE, vocab))


def tile_moments(
    logits: Float32[Array, "*n"], target_logit: Float32[Array, "*m"], other: Bool[Array, "*n"], axis: int
) -> Moments:
    """Moments of one tile over an axis. A target is not counted above itself, however its logit was rounded."""
    peak = jnp.max(logits, axis)
    y = logits - jnp.expand_dims(peak, axis)
    e = jnp.exp(y)
    weight = jnp.sum(e, axis)
    mean = jnp.sum(e * y, axis) / weight
    spread = jnp.sum(e * (y - jnp.expand_dims(mean, axis)) ** 2, axis)
    # Counted in float32, which is exact for a tile and spares the CPU an int32 array of its size.
    above = jnp.sum(jnp.where((logits > jnp.expand_dims(target_logit, axis)) & other, 1.0, 0.0), axis)
    return Moments(peak, weight, mean, spread, above.astype(jnp.int32))


def _rescale(moments: Moments, peak: Float32[Array, "*n"]) -> Moments:
    """The same moments around another maximum, which is not below theirs."""
    delta = moments.peak - peak
    factor = jnp.exp(delta)
    return Moments(peak, factor * moments.weight, moments.mean + delta, factor * moments.spread, moments.above)


def merge(a: Moments, b: Moments) -> Moments:
    """The moments of the columns of both."""
    peak = jnp.maximum(a.peak, b.peak)
    a, b = _rescale(a, peak), _rescale(b, peak)
    weight = a.weight + b.weight
    # Not a.mean + (b.mean - a.mean) * share: where a is a tile of negligible weight far below, that would cancel.
    mean = (a.weight * a.mean + b.weight * b.mean) / weight
    spread = a.spread + b.spread + (b.mean - a.mean) ** 2 * (a.weight * (b.weight / weight))
    return Moments(peak, weight, mean, spread, a.above + b.above)


def merge_all(moments: Moments, largest: Callable[[Array], Array], total: Callable[[Array], Array]) -> Moments:
    """The moments of the columns of all, be they on several devices or in an array; `largest` and `total` are over all.

    Their results must be of a shape that the arrays of `moments` broadcast with.
    """
    peak = largest(moments.peak)
    own = _rescale(moments, peak)
    weight = total(own.weight)
    mean = total(own.weight * own.mean) / weight
    spread = total(own.spread + own.weight * (own.mean - mean) ** 2)
    return Moments(peak, weight, mean, spread, total(own.above))
