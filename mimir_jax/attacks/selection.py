"""The lowest share of a document's values, which min_k, min_k++ and surp select their tokens by."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mimir_jax.arrays import AnyArray, masked_count, masked_mean


def lowest(
    x: Float[AnyArray, "*batch time"], mask: Bool[AnyArray, "*batch time"], k: int | float
) -> tuple[Int[Array, "*batch some"], Bool[Array, "*batch some"]]:
    """Find the max(1, int(k n)) lowest of the n values where `mask` is True.

    Of equal values the earlier one comes first. NaN is the lowest, so that a broken value shows in the score.

    Returns:
        Positions on the time axis, lowest value first, and which of them count: none where n = 0. `some` is
        the size of the selection from a row without padding.
    """
    x, mask = jnp.asarray(x), jnp.asarray(mask)
    time = x.shape[-1]
    # A table, because k n is rounded down in float64, which devices do not have: int(.7 * 90) is 62, not 63.
    count_of_n = np.maximum(1, (k * np.arange(time + 1)).astype(np.int32))
    n = masked_count(mask)
    count = jnp.where(n > 0, jnp.asarray(count_of_n)[n], 0)
    keys = jnp.where(mask, jnp.where(jnp.isnan(x), -jnp.inf, x), jnp.inf)
    _, positions = jax.lax.top_k(-keys, min(int(count_of_n[-1]), time))
    order = jax.lax.broadcasted_iota(jnp.int32, positions.shape, positions.ndim - 1)
    return positions, order < count[..., None]


def mean_of_lowest(
    x: Float[AnyArray, "*batch time"], mask: Bool[AnyArray, "*batch time"], k: int | float
) -> Float[Array, "*batch"]:
    """Mean of the max(1, int(k n)) lowest of the n values where `mask` is True; NaN where n = 0."""
    positions, selected = lowest(x, mask, k)
    return masked_mean(jnp.take_along_axis(jnp.asarray(x), positions, axis=-1), selected)
