"""What networks are built of: products, norms, activations and the MLP; nothing here knows of attention.

Letters of axes: b row, t time, d embed, f mlp. Every product is asked for a float32 result and cast after, and norms
are float32 whatever the weights' dtype: on CPUs with bfloat16 products that is twice as fast as a bfloat16 result,
and everywhere it is closer to the float32 model.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Float32

ACTIVATIONS = {
    # 1 + erf, not erfc: what torch computes, and one branch less
    "gelu": lambda x: 0.5 * x * (1.0 + jax.lax.erf(x * 0.5**0.5)),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


def product(subscripts: str, x: Float[Array, "..."], kernel: Float[Array, "..."]) -> Float32[Array, "..."]:
    """einsum in the kernel's dtype with a float32 result; float32 is never rounded to tf32 or bfloat16."""
    return jnp.einsum(
        subscripts,
        x.astype(kernel.dtype),
        kernel,
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )


def capped(x: Float32[Array, "..."], cap: float | None) -> Float32[Array, "..."]:
    """Values kept within +-cap, cap * tanh(x / cap) (Bello et al. 2017); None leaves them as they are."""
    return x if cap is None else cap * jnp.tanh(x / cap)


class Linear(nnx.Module):
    """A product over the last axes of x; kernels keep the [out, in] order of published checkpoints."""

    def __init__(
        self,
        subscripts: str,
        kernel: tuple[int, ...],
        bias: tuple[int, ...] | None,
        scale: float,
        rngs: nnx.Rngs,
    ):
        self.subscripts = subscripts
        self.kernel = nnx.Param(scale * jax.random.normal(rngs.params(), kernel))
        self.bias = nnx.Param(jnp.zeros(bias)) if bias is not None else None

    def __call__(self, x: Float[Array, "b t ..."]) -> Float32[Array, "b t ..."]:
        y = product(self.subscripts, x, self.kernel[...])
        return y if self.bias is None else y + self.bias[None, None].astype(jnp.float32)


class Norm(nnx.Module):
    """LayerNorm (Ba et al. 2016) or RMSNorm (Zhang and Sennrich 2019), in float32, over the last axis or all axes of
    the scale's shape.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        eps: float,
        *,
        centered: bool = True,
        affine: bool = True,
        shift: bool = True,
        offset: float = 0.0,
        over: tuple[int, ...] = (-1,),
    ):
        self.eps, self.centered, self.offset, self.over = eps, centered, offset, over
        self.scale = nnx.Param(jnp.ones(shape) - offset) if affine else None
        self.shift = nnx.Param(jnp.zeros(shape)) if affine and centered and shift else None

    def __call__(self, x: Float32[Array, "b t ..."]) -> Float32[Array, "b t ..."]:
        x = self.normalize(x)
        if self.scale is not None:
            scale = self.scale[None, None].astype(jnp.float32)
            x = x * (self.offset + scale if self.offset else scale)
        return x if self.shift is None else x + self.shift[None, None].astype(jnp.float32)

    def normalize(self, x: Float32[Array, "b t ..."]) -> Float32[Array, "b t ..."]:
        if self.centered:
            x = x - jnp.mean(x, axis=self.over, keepdims=True)
        return x * jax.lax.rsqrt(jnp.mean(x * x, axis=self.over, keepdims=True) + self.eps)


class MLP(nnx.Module):
    """Two products around an activation; gated families multiply it with a third (Shazeer 2020)."""

    def __init__(
        self,
        embed: int,
        width: int,
        activation: str,
        rngs: nnx.Rngs,
        *,
        gated: bool = False,
        bias: bool = True,
        down_std: float = 0.02,
    ):
        up_bias, down_bias = ((width,), (embed,)) if bias else (None, None)
        self.activation = activation
        self.up = Linear("btd,fd->btf", (width, embed), up_bias, 0.02, rngs)
        self.gate = Linear("btd,fd->btf", (width, embed), up_bias, 0.02, rngs) if gated else None
        self.down = Linear("btf,df->btd", (embed, width), down_bias, down_std, rngs)

    def __call__(self, x: Float32[Array, "b t d"]) -> Float32[Array, "b t d"]:
        activation = ACTIVATIONS[self.activation]
        up = self.up(x)
        return self.down(activation(up) if self.gate is None else activation(self.gate(x)) * up)
