"""The quantile attack: the log-likelihood against what a non-member of this kind would hardly reach."""

from typing import Annotated

import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from mimir_jax.arrays import AnyArray, TokenStats
from mimir_jax.attacks.broadcasting import match_documents
from mimir_jax.attacks.loss import loss
from mimir_jax.attacks.parameters import Range

ALPHAS = tuple(percent / 100 for percent in range(1, 11))
"""The false-positive rates of `loss_quantiles`, in the order of its axis."""

ALPHA = Range(at_least=ALPHAS[0], up_to=ALPHAS[-1])


def quantile(
    stats: TokenStats, loss_quantiles: Float[AnyArray, "*batch alpha doc"], alpha: Annotated[int | float, ALPHA] = 0.05
) -> Float32[Array, "*batch doc"]:
    """Score a document by how far it exceeds the log-likelihood that few non-members like it exceed.

        LL(x) - q(x),   P(LL > q(x) given features of x, x a non-member) = alpha

    q is interpolated linearly between the two nearest alphas of the table.

    Args:
        stats: statistics of the documents, fields [..., doc, time].
        loss_quantiles: q of each document for alpha = .01, .02, ..., .10, from a regression on known
            non-members.
        alpha: rate of false positives at a threshold of 0, in [.01, .10].

    Returns:
        Nats per token; NaN where no token is scored.

    References:
        Bertran et al., Scalable Membership Inference Attacks via Quantile Regression, 2023
        (https://arxiv.org/abs/2307.03694).
    """
    ALPHA.check("alpha", alpha)
    quantiles = jnp.asarray(loss_quantiles)
    if quantiles.shape[-2] != len(ALPHAS):
        raise ValueError(f"loss_quantiles has {quantiles.shape[-2]} alphas, expected {len(ALPHAS)}")
    place = alpha * 100 - 1
    below = min(int(place), len(ALPHAS) - 2)
    share = place - below
    threshold = (1 - share) * quantiles[..., below, :] + share * quantiles[..., below + 1, :]
    log_likelihood, threshold = match_documents(loss(stats), threshold, "loss_quantiles")
    return log_likelihood - threshold
