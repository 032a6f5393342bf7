"""Rotary embeddings: their frequencies, how models that were stretched to longer texts scale them, and the turning.

Letters of axes: b row, t time, h heads, k head_dim, r pairs of dimensions that are rotated.
"""

from dataclasses import dataclass
from math import ceil, floor, log, pi
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float32

Rotary = tuple[Float32[Array, "b t 1 r"], Float32[Array, "b t 1 r"]]
"""Cosines and sines of each position's angles."""


@dataclass(frozen=True)
class RopeScaling:
    """Scaled frequencies: divided where they turn slowly, kept where they turn fast, a mixture between.

        f' = (1 - keep) * f / factor + keep * f

    Attributes:
        kind: what `keep` is. linear: 0. llama3: (turns - slow) / (fast - slow), turns being those of a frequency over
            the original context. yarn: likewise, but linear in the index of a frequency, between the indices at which
            it turns `fast` and `slow` times. Both are clipped to 0..1.
        factor: how much longer texts became.
        context: tokens of the original context.
        slow: turns up to which a frequency is divided.
        fast: turns from which a frequency is kept.
        table_scale: what cosines and sines are multiplied with (yarn).
        whole: yarn's two indices are rounded outwards to whole ones.

    References:
        Chen et al., Extending Context Window of Large Language Models via Positional Interpolation, 2023
        (https://arxiv.org/abs/2306.15595): linear. Peng et al., YaRN: Efficient Context Window Extension of Large
        Language Models, 2023 (https://arxiv.org/abs/2309.00071). Grattafiori et al., The Llama 3 Herd of Models, 2024
        (https://arxiv.org/abs/2407.21783).
    """

    kind: Literal["linear", "llama3", "yarn"]
    factor: float
    context: int = 0
    slow: float = 0.0
    fast: float = 0.0
    table_scale: float = 1.0
    whole: bool = True


def rotary_frequencies(theta: float, dim: int, scaling: RopeScaling | None) -> Float32[Array, " r"]:
    """Radians that each pair of `dim` rotated dimensions turns a position (Su et al. 2021), r = dim / 2."""
    exponent = jnp.arange(0, dim, 2, dtype=jnp.float32) / dim
    frequencies = theta**-exponent
    if scaling is None:
        return frequencies
    slow = frequencies / scaling.factor
    if scaling.kind == "linear":
        return slow
    keep = jnp.clip(_kept(frequencies, theta, dim, scaling), 0.0, 1.0)
    return (1.0 - keep) * slow + keep * frequencies


def _kept(frequencies: Float32[Array, " r"], theta: float, dim: int, scaling: RopeScaling) -> Float32[Array, " r"]:
    """The share of each frequency that is not divided, not yet clipped."""
    s = scaling
    if s.kind == "llama3":
        return (frequencies * (s.context / (2 * pi)) - s.slow) / (s.fast - s.slow)
    # The index of what turns so often over the context: theta ** (-2 * index / dim) * context = 2 * pi * turns.
    first, last = (dim * log(s.context / (2 * pi * turns)) / (2 * log(theta)) for turns in (s.fast, s.slow))
    if s.whole:
        first, last = floor(first), ceil(last)
    first, last = max(first, 0), min(last, dim - 1)
    width = last - first if last != first else 0.001  # a step
    return 1.0 - (jnp.arange(frequencies.shape[0], dtype=jnp.float32) - first) / width


def rotate(
    x: Float32[Array, "b t h k"],
    cos: Float32[Array, "b t 1 r"],
    sin: Float32[Array, "b t 1 r"],
    interleaved: bool = False,
) -> Float32[Array, "b t h k"]:
    """Rotate the leading 2r dimensions of each head, pairing dimension i with i + r.

    Where dimensions 2i and 2i + 1 are a pair (`interleaved`), the result has them at i and i + r: queries and keys are
    permuted alike, so that their products are the same.
    """
    r = cos.shape[-1]
    first, second, rest = x[..., :r], x[..., r : 2 * r], x[..., 2 * r :]
    if interleaved:
        first, second = x[..., 0 : 2 * r : 2], x[..., 1 : 2 * r : 2]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)
