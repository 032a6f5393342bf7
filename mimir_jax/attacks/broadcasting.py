"""Two scores of the same documents, with or without further leading axes."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mimir_jax.arrays import AnyArray


def match_documents(
    scores: Float[AnyArray, "..."], others: Float[AnyArray, "..."], name: str
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Broadcast two arrays [..., doc] over their leading axes, such as many targets against one reference.

    The document axis never broadcasts: one number for all documents would be a mistake, not a score.

    Raises:
        ValueError: `others`, which the message calls `name`, has another number of documents.
    """
    if scores.shape[-1] != others.shape[-1]:
        raise ValueError(f"{name} has {others.shape[-1]} documents, stats has {scores.shape[-1]}")
    left, right = jnp.broadcast_arrays(scores, others)
    return left, right
