"""The reference attacks: the target's log-likelihood against another model's."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from mimir_jax.arrays import AnyArray, TokenStats
from mimir_jax.attacks.broadcasting import match_documents
from mimir_jax.attacks.loss import loss


def ref(stats: TokenStats, reference_stats: TokenStats) -> Float32[Array, "*batch doc"]:
    """Score a document by how much more likely the target finds it than a reference model does.

        LL_target - LL_ref,   each a mean over the model's own tokens

    Args:
        stats: statistics of the documents under the target, fields [..., doc, time].
        reference_stats: of the same documents under the reference, which may have another tokenizer and so
            another time axis; leading axes broadcast, so that one reference serves many targets.

    Returns:
        Nats per token; NaN where either model scores no token.

    References:
        Carlini et al., Extracting Training Data from Large Language Models, 2021
        (https://arxiv.org/abs/2012.07805); Mireshghallah et al., Quantifying Privacy Risks of Masked Language
        Models Using Membership Inference Attacks, 2022 (https://arxiv.org/abs/2203.03929).
    """
    target, reference = match_documents(loss(stats), loss(reference_stats), "reference_stats")
    return target - reference


def ref_ratio(stats: TokenStats, reference_stats: TokenStats) -> Float32[Array, "*batch doc"]:
    """Score a document by the ratio of a reference model's loss to the target's.

        nll_ref / nll_target,   nll = -LL, each a mean over the model's own tokens

    Args:
        stats: statistics of the documents under the target, fields [..., doc, time].
        reference_stats: of the same documents under the reference, as for `ref`.

    Returns:
        A ratio; NaN where either model scores no token or the target's loss is 0.

    References:
        Carlini et al., Extracting Training Data from Large Language Models, 2021
        (https://arxiv.org/abs/2012.07805).
    """
    target, reference = match_documents(loss(stats), loss(reference_stats), "reference_stats")
    return reference / jnp.where(target == 0, jnp.nan, target)


def ref_mean(
    stats: TokenStats, reference_log_likelihoods: Float[AnyArray, "reference doc"]
) -> Float32[Array, "*batch doc"]:
    """Score a document by how much more likely the target finds it than several reference models do.

        mean_r (LL_target - LL_r),   each a mean over the model's own tokens

    Args:
        stats: statistics of the documents under the target, fields [..., doc, time].
        reference_log_likelihoods: LL of each document under each reference; NaN where it scores no token.

    Returns:
        Nats per token; NaN where the target or any of the references scores no token.

    References:
        Mireshghallah et al., Quantifying Privacy Risks of Masked Language Models Using Membership Inference
        Attacks, 2022 (https://arxiv.org/abs/2203.03929).
    """
    references = jnp.mean(jnp.asarray(reference_log_likelihoods), axis=0)
    target, references = match_documents(loss(stats), references, "reference_log_likelihoods")
    return target - references
