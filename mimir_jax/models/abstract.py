"""A decoder of shapes: what a compiler is given, and what stands for a model whose weights are not needed."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mimir_jax.models.checkpoint import ShardingOf
from mimir_jax.models.decoder import Decoder, parameter_axes
from mimir_jax.models.decoder_config import DecoderConfig


def abstract_decoder(
    config: DecoderConfig, sharding_of: ShardingOf, dtype: Any = jnp.float32, models: int | None = None
) -> Decoder:
    """A Decoder whose parameters are `jax.ShapeDtypeStruct`s, laid out as `load_decoder` lays out weights.

    Args:
        config: its shape.
        sharding_of: (logical axes, shape) -> sharding.
        dtype: of the parameters.
        models: length of a leading axis, as `stack_models` makes it; None is no such axis.
    """
    graph, state = nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))
    flat = []
    for path, leaf in nnx.to_flat_state(state):
        shape = tuple(leaf.shape)
        sharding = sharding_of(parameter_axes(".".join(map(str, path))), shape)
        if models is not None:
            shape = (models, *shape)
            if isinstance(sharding, NamedSharding):
                sharding = NamedSharding(sharding.mesh, P(None, *sharding.spec))
        flat.append((path, leaf.replace(jax.ShapeDtypeStruct(shape, dtype, sharding=sharding))))
    return nnx.merge(graph, nnx.from_flat_state(flat))
