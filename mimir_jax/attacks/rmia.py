"""The robust attack: how many texts of a population a document's gain over the references exceeds."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32

from mimir_jax.arrays import AnyArray
from mimir_jax.attacks.broadcasting import match_documents
from mimir_jax.attacks.parameters import POSITIVE, WEIGHT, Positive, Weight


def rmia(
    log_likelihood: Float[AnyArray, "*batch doc"],
    in_out_log_likelihoods: Float[AnyArray, "reference doc"],
    in_out_membership: Bool[AnyArray, "reference doc"],
    population_log_likelihood: Float[AnyArray, "*batch text"],
    population_in_out_log_likelihoods: Float[AnyArray, "reference text"],
    population_membership: Bool[AnyArray, "reference text"],
    a: Weight = 0.3,
    gamma: Positive = 1.0,
) -> Float32[Array, "*batch doc"]:
    """Score a document by the share of a population that it beats in a pairwise likelihood ratio: offline RMIA.

        share of texts z with (p(x) / pbar(x)) / (p(z) / pbar(z)) > gamma,
        p = exp(LL) under the target,   pbar = ((1 + a) mean_out + (1 - a)) / 2

    mean_out is the mean of exp(LL) over the references whose training set is without the text. `a` guesses what
    references with it would say: 1 that they say the same, 0 that they are half way to certainty. It was found on
    classifiers, whose p is near 1; where p is far below 1 - a, as in language models, pbar hardly depends on the
    text, and scores are nearly those of `loss`. `a=1` compares p with mean_out alone.

    Args:
        log_likelihood: LL of each document under the target.
        in_out_log_likelihoods: LL under each reference; NaN leaves a reference out.
        in_out_membership: whether the document was in that reference's training set.
        population_log_likelihood: LL of the population's texts under the target.
        population_in_out_log_likelihoods: LL under each reference.
        population_membership: whether the text was in that reference's training set.
        a: in [0, 1].
        gamma: ratio to exceed.

    Returns:
        A share in [0, 1]; NaN where no reference is without the document, or no text of the population can be
        compared.

    References:
        Zarifzadeh et al., Low-Cost High-Power Membership Inference Attacks, 2024
        (https://arxiv.org/abs/2312.03262).
    """
    WEIGHT.check("a", a)
    POSITIVE.check("gamma", gamma)
    gain = _gain(log_likelihood, in_out_log_likelihoods, in_out_membership, a)
    others = _gain(population_log_likelihood, population_in_out_log_likelihoods, population_membership, a)
    comparable = jnp.sum(~jnp.isnan(others), axis=-1, keepdims=True).astype(gain.dtype)
    ordered = jnp.sort(jnp.where(jnp.isnan(others), jnp.inf, others * gamma), axis=-1)
    below = jnp.vectorize(jnp.searchsorted, signature="(z),(x)->(x)")(ordered, gain)
    share = below.astype(gain.dtype) / jnp.broadcast_to(jnp.where(comparable > 0, comparable, jnp.nan), gain.shape)
    return jnp.where(jnp.isnan(gain), jnp.nan, share)


def _gain(
    log_likelihood: Float[AnyArray, "*batch text"],
    references: Float[AnyArray, "reference text"],
    membership: Bool[AnyArray, "reference text"],
    a: int | float,
) -> Float32[Array, "*batch text"]:
    """p / pbar of each text; NaN where no reference is without it."""
    references = jnp.asarray(references)
    out = ~jnp.asarray(membership) & ~jnp.isnan(references)
    n = jnp.sum(out, axis=0).astype(references.dtype)
    mean = jnp.sum(jnp.where(out, jnp.exp(references), 0.0), axis=0) / jnp.where(n > 0, n, jnp.nan)
    expected = ((1 + a) * mean + (1 - a)) / 2
    p, expected = match_documents(jnp.exp(jnp.asarray(log_likelihood)), expected, "reference log-likelihoods")
    return p / expected
