"""The likelihood-ratio attack: the target's log-likelihood against those of models with and without the document."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32

from mimir_jax.arrays import AnyArray
from mimir_jax.attacks.broadcasting import match_documents
from mimir_jax.attacks.parameters import SWITCH, Switch

SMALLEST_VARIANCE = 1e-12


def lira(
    log_likelihood: Float[AnyArray, "*batch doc"],
    in_out_log_likelihoods: Float[AnyArray, "reference doc"],
    in_out_membership: Bool[AnyArray, "reference doc"],
    pooled: Switch = 0,
) -> Float32[Array, "*batch doc"]:
    """Score a document by how far its LL lies above that of models that have not seen it: offline LiRA.

        (LL - mean_out) / std_out,   mean and std over the references whose training set is without the document

    Few references know a spread poorly. `pooled=1` takes one standard deviation for all documents, of what the
    references say of each around its own mean, as Carlini et al. advise below some dozens of references; scores are
    then ranked as LL - mean_out is.

    Args:
        log_likelihood: LL of each document under the target.
        in_out_log_likelihoods: LL under each reference; NaN leaves a reference out.
        in_out_membership: whether the document was in that reference's training set.
        pooled: 1 for one standard deviation for all documents.

    Returns:
        Standard deviations; NaN where fewer than two references (one, if pooled) are without the document.

    References:
        Carlini et al., Membership Inference Attacks From First Principles, 2022
        (https://arxiv.org/abs/2112.03570); on language models, Hayes et al., 2025
        (https://arxiv.org/abs/2505.18773).
    """
    SWITCH.check("pooled", pooled)
    mean, std = _moments(in_out_log_likelihoods, ~jnp.asarray(in_out_membership), pooled)
    target, mean = match_documents(jnp.asarray(log_likelihood), mean, "in_out_log_likelihoods")
    return (target - mean) / jnp.broadcast_to(std, target.shape)


def lira_online(
    log_likelihood: Float[AnyArray, "*batch doc"],
    in_out_log_likelihoods: Float[AnyArray, "reference doc"],
    in_out_membership: Bool[AnyArray, "reference doc"],
    pooled: Switch = 0,
) -> Float32[Array, "*batch doc"]:
    """Score a document by the likelihood ratio of its LL, of models with it to models without: online LiRA.

        log N(LL; mean_in, std_in) - log N(LL; mean_out, std_out)

    `in` and `out` are the references whose training set is with and without the document.

    Args:
        log_likelihood, in_out_log_likelihoods, in_out_membership: as for `lira`.
        pooled: 1 for one standard deviation of each of the two kinds for all documents, as for `lira`.

    Returns:
        Nats; NaN where fewer than two references of a kind (one, if pooled) are there.

    References:
        As `lira`.
    """
    SWITCH.check("pooled", pooled)
    member = jnp.asarray(in_out_membership)
    densities = []
    for keep in (member, ~member):
        mean, std = _moments(in_out_log_likelihoods, keep, pooled)
        target, mean = match_documents(jnp.asarray(log_likelihood), mean, "in_out_log_likelihoods")
        std = jnp.broadcast_to(std, target.shape)
        densities.append(-0.5 * ((target - mean) / std) ** 2 - jnp.log(std) - 0.5 * math.log(2 * math.pi))
    return densities[0] - densities[1]


def _moments(
    log_likelihoods: Float[AnyArray, "reference doc"], keep: Bool[Array, "reference doc"], pooled: int
) -> tuple[Float32[Array, " doc"], Float32[Array, " doc"]]:
    """Mean and standard deviation over the references that are kept; NaN where they are too few."""
    x = jnp.asarray(log_likelihoods)
    keep = keep & ~jnp.isnan(x)
    x = jnp.where(keep, x, 0.0)
    n = jnp.sum(keep, axis=0).astype(x.dtype)
    mean = jnp.sum(x, axis=0) / jnp.maximum(n, 1.0)
    squares = jnp.where(keep, (x - mean[None]) ** 2, 0.0)
    if pooled:
        # Each document's mean takes one of its degrees of freedom.
        freedom = jnp.sum(jnp.maximum(n - 1.0, 0.0))
        var = jnp.broadcast_to(jnp.sum(squares) / jnp.where(freedom > 0, freedom, jnp.nan), n.shape)
    else:
        var = jnp.sum(squares, axis=0) / jnp.where(n >= 2, n, jnp.nan)
    return jnp.where(n >= 1, mean, jnp.nan), jnp.sqrt(jnp.maximum(var, SMALLEST_VARIANCE))
