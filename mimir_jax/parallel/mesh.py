"""Which device holds what: logical axes of arrays to axes of the mesh, as a table."""

from collections.abc import Callable, Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mimir_jax.config import ConfigError

# Logical axis -> mesh axis. An axis that is not here, or that the mesh axis does not divide, is replicated.
RULES: dict[str, str] = {
    "batch": "data",
    "vocab": "model",
    "heads": "model",
    "kv_heads": "model",
    "mlp": "model",
}


def make_mesh(data: int = -1, model: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh [data, model].

    Args:
        data: ways to split the batch; -1 takes what `model` leaves.
        model: ways to split weights and vocabulary.
        devices: all by default.

    Raises:
        ConfigError: data x model is not the number of devices.
    """
    used = jax.devices() if devices is None else list(devices)
    count = len(used)
    if model < 1 or (data < 1 and data != -1) or count % model or (data != -1 and data * model != count):
        wanted = f"{'all' if data == -1 else data} x {model}"
        sizes = [f"{count // m} x {m}" for m in range(1, count + 1) if count % m == 0]
        raise ConfigError(f"mesh: data x model = {wanted} does not fit {count} devices; possible: {', '.join(sizes)}")
    # Auto axes: the compiler places collectives; explicit ones refuse gathers over a sharded vocabulary.
    return jax.make_mesh((count // model, model), ("data", "model"), (AxisType.Auto,) * 2, devices=used)


def partition(mesh: Mesh, axes: tuple[str, ...], shape: tuple[int, ...]) -> P:
    """The rules applied to one array."""
    spec = []
    for axis, size in zip(axes, shape):
        target = RULES.get(axis)
        spec.append(target if target is not None and size % mesh.shape[target] == 0 else None)
    return P(*spec)


def sharding_of(mesh: Mesh) -> Callable[[tuple[str, ...], tuple[int, ...]], NamedSharding]:
    """(logical axes, shape) -> sharding on this mesh."""
    return lambda axes, shape: NamedSharding(mesh, partition(mesh, axes, shape))
