"""The zlib attack: log-likelihood relative to how well the text compresses."""

import jax.numpy as jnp
from jaxtyping import Array, Float32, Int

from mimir_jax.arrays import AnyArray, TokenStats
from mimir_jax.attacks.broadcasting import match_documents
from mimir_jax.attacks.loss import loss


def zlib(stats: TokenStats, zlib_bytes: Int[AnyArray, " doc"]) -> Float32[Array, "*batch doc"]:
    """Score a document by its mean log-likelihood over its compressed size.

        LL / bytes,   bytes = len(zlib.compress(text as UTF-8))

    Args:
        stats: statistics of the documents, fields [..., doc, time].
        zlib_bytes: compressed size of each document in bytes, at least 1 (an empty text compresses to 8).

    Returns:
        Nats per token and byte; NaN where no token is scored.

    References:
        Carlini et al., Extracting Training Data from Large Language Models, 2021
        (https://arxiv.org/abs/2012.07805).
    """
    sizes = jnp.asarray(zlib_bytes, jnp.float32)
    log_likelihood, sizes = match_documents(loss(stats), sizes, "zlib_bytes")
    return log_likelihood / sizes
