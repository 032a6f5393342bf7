"""The lowercase attack: what a change of case does to the log-likelihood."""

import jax.numpy as jnp
from jaxtyping import Array, Float32

from mimir_jax.arrays import TokenStats
from mimir_jax.attacks.broadcasting import match_documents
from mimir_jax.attacks.loss import loss


def lowercase(stats: TokenStats, lowercase_stats: TokenStats) -> Float32[Array, "*batch doc"]:
    """Score a document by how much lower-casing it raises the model's loss.

        LL(lower(x)) / LL(x)

    Args:
        stats: statistics of the documents, fields [..., doc, time].
        lowercase_stats: of the same documents in lower case under the same model; their tokens differ, and so
            may their time axis.

    Returns:
        A ratio; NaN where either form has no scored token or LL(x) is 0.

    References:
        Carlini et al., Extracting Training Data from Large Language Models, 2021
        (https://arxiv.org/abs/2012.07805).
    """
    original, lowered = match_documents(loss(stats), loss(lowercase_stats), "lowercase_stats")
    return lowered / jnp.where(original == 0, jnp.nan, original)
