"""The gradient norm attack: how far a step of training on the document would move the model."""

import math
from typing import Annotated

import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from mimir_jax.arrays import AnyArray
from mimir_jax.attacks.parameters import Choice

NORMS = Choice((1, 2, math.inf))
"""The orders p of `grad_norms`, in the order of its axis."""


def gradnorm(
    grad_norms: Float[AnyArray, "*batch norm doc"], p: Annotated[int | float, NORMS] = math.inf
) -> Float32[Array, "*batch doc"]:
    """Score a document by how small the gradient of its loss is.

        -(mean over parameter tensors of ||d nll / d tensor||_p)

    Args:
        grad_norms: the mean norms for p = 1, 2 and infinity; NaN where a document has no score.
        p: order of the norm: 1, 2 or inf.

    Returns:
        Nats per unit of the parameters, at most 0; NaN as `grad_norms`.

    References:
        Wang et al., Pandora's White-Box: Precise Training Data Detection and Extraction in Large Language
        Models, 2024 (https://arxiv.org/abs/2402.17012).
    """
    NORMS.check("p", p)
    return -jnp.asarray(grad_norms)[..., NORMS.values.index(p), :]
