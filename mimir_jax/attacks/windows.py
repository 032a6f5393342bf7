"""Windows that slide over the scored tokens, for min_k and wbc."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mimir_jax.arrays import AnyArray


def sliding_sums(
    x: Float[AnyArray, "*batch time"], mask: Bool[AnyArray, "*batch time"], window: int
) -> Float[Array, "*batch time"]:
    """Sum of the scored ones among the `window` values from each position on."""
    x, mask = jnp.asarray(x), jnp.asarray(mask)
    leading = (1,) * (x.ndim - 1)
    # Sums of slices, not differences of cumulative sums, whose rounding errors grow with the document.
    return jax.lax.reduce_window(
        jnp.where(mask, x, 0.0),
        jnp.zeros((), x.dtype),
        jax.lax.add,
        window_dimensions=(*leading, window),
        window_strides=(*leading, 1),
        padding=[(0, 0)] * (x.ndim - 1) + [(0, window - 1)],
    )
