"""The sampling attack: how many words of a document's second half the model writes by itself."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int

from mimir_jax.arrays import AnyArray, masked_mean
from mimir_jax.attacks.parameters import SWITCH, Switch


def samia(
    sample_recall: Float[AnyArray, "*batch sample doc"],
    sample_zlib_bytes: Int[AnyArray, "*batch sample doc"],
    zlib: Switch = 0,
) -> Float32[Array, "*batch doc"]:
    """Score a document by the overlap of its second half with continuations sampled from its first.

        mean_j ROUGE-1(y_j),   or mean_j ROUGE-1(y_j) bytes(y_j),   y_j = continuations

    ROUGE-1 is the share of the second half's words that the continuation has too.

    Args:
        sample_recall: ROUGE-1 of each continuation; NaN where there is none.
        sample_zlib_bytes: its compressed size in bytes.
        zlib: 1 to weigh with the size, which repetitive continuations have little of.

    Returns:
        A share in [0, 1], or bytes; NaN where a document has no continuation.

    References:
        Kaneko et al., Sampling-based Pseudo-Likelihood for Membership Inference Attacks, 2024
        (https://arxiv.org/abs/2404.11262).
    """
    SWITCH.check("zlib", zlib)
    overlap = jnp.asarray(sample_recall)
    weight = jnp.asarray(sample_zlib_bytes, overlap.dtype) if zlib else jnp.ones_like(overlap)
    return masked_mean(jnp.swapaxes(overlap * weight, -1, -2), jnp.swapaxes(~jnp.isnan(overlap), -1, -2))
