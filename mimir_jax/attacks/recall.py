"""The recall attacks: what other texts in front of a document do to its log-likelihood."""

import jax.numpy as jnp
from jaxtyping import Array, Float32

from mimir_jax.arrays import TokenStats, masked_mean
from mimir_jax.attacks.broadcasting import match_tokens
from mimir_jax.attacks.parameters import NONNEGATIVE, NonNegative


def recall(stats: TokenStats, nonmember_prefix_stats: TokenStats) -> Float32[Array, "*batch doc"]:
    """Score a document by how much non-members in front of it raise the model's loss.

        LL(x given P) / LL(x),   P = texts of non-members, both means over the same tokens of x

    Args:
        stats: statistics of the documents, fields [..., doc, time].
        nonmember_prefix_stats: of the same tokens with P in front of them; nothing is scored where P does not fit.

    Returns:
        A ratio; NaN where no token is scored in both, or LL(x) is 0.

    References:
        Xie et al., ReCaLL: Membership Inference via Relative Conditional Log-Likelihoods, 2024
        (https://arxiv.org/abs/2406.15968).
    """
    log_probs, mask = match_tokens(stats, nonmember_prefix_stats=nonmember_prefix_stats)
    plain, nonmember = (masked_mean(log_prob, mask) for log_prob in log_probs)
    return nonmember / jnp.where(plain == 0, jnp.nan, plain)


def con_recall(
    stats: TokenStats, nonmember_prefix_stats: TokenStats, member_prefix_stats: TokenStats, gamma: NonNegative = 0.5
) -> Float32[Array, "*batch doc"]:
    """Score a document by what non-members in front of it do to the loss, set against what members do.

        (LL(x given P_non) - gamma LL(x given P_mem)) / LL(x),   all means over the same tokens of x

    Args:
        stats: statistics of the documents, fields [..., doc, time].
        nonmember_prefix_stats: of the same tokens with texts of non-members in front of them.
        member_prefix_stats: of the same tokens with texts of members in front of them.
        gamma: weight of the members, at least 0; with 0 it is `recall`.

    Returns:
        A ratio; NaN where no token is scored in all three, or LL(x) is 0.

    References:
        Wang et al., Con-ReCall: Detecting Pre-training Data in LLMs via Contrastive Decoding, 2024
        (https://arxiv.org/abs/2409.03363).
    """
    NONNEGATIVE.check("gamma", gamma)
    log_probs, mask = match_tokens(
        stats, nonmember_prefix_stats=nonmember_prefix_stats, member_prefix_stats=member_prefix_stats
    )
    plain, nonmember, member = (masked_mean(log_prob, mask) for log_prob in log_probs)
    return (nonmember - gamma * member) / jnp.where(plain == 0, jnp.nan, plain)
