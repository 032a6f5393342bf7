"""What devices can do, by their makers' figures: for estimates, and never for a result.

TPUs: https://cloud.google.com/tpu/docs/system-architecture-tpu-vm, link speeds as in Austin et al., How to Scale Your
Model, 2025 (https://jax-ml.github.io/scaling-book). GPUs: their data sheets, dense.
"""

import re
from typing import NamedTuple

from mimir_jax.config import ConfigError


class Chip(NamedTuple):
    """One device.

    Attributes:
        name: as topologies name it.
        kind: what `jax.Device.device_kind` says.
        flops: bfloat16 products, operations a second.
        memory: bytes.
        link: bytes a second, one way, over one link (TPUs) or to all others together (GPUs).
        torus: links' axes that a whole pod has; 0 where all devices are at one distance.
        wraps: length from which on an axis of a slice is closed to a ring.
        float32: float32 products that keep float32's precision, as a share of `flops`.
    """

    name: str
    kind: str
    flops: float
    memory: float
    link: float
    torus: int
    wraps: int
    float32: float


CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        Chip("v4", "TPU v4", 275e12, 32.0 * 2**30, 4.5e10, 3, 4, 1 / 6),
        Chip("v5e", "TPU v5 lite", 197e12, 16.0 * 2**30, 4.5e10, 2, 16, 1 / 6),
        Chip("v5p", "TPU v5", 459e12, 95.0 * 2**30, 9e10, 3, 4, 1 / 6),
        Chip("v6e", "TPU v6 lite", 918e12, 32.0 * 2**30, 9e10, 2, 16, 1 / 6),
        Chip("a100", "NVIDIA A100", 312e12, 80e9, 3e11, 0, 0, 1 / 16),
        Chip("h100", "NVIDIA H100", 989e12, 80e9, 4.5e11, 0, 0, 1 / 15),
        Chip("h200", "NVIDIA H200", 989e12, 141e9, 4.5e11, 0, 0, 1 / 15),
        Chip("b200", "NVIDIA B200", 2250e12, 180e9, 9e11, 0, 0, 1 / 28),
        # A core of a server, about; memory is that of its share of the machine.
        Chip("cpu", "cpu", 1e11, 4.0 * 2**30, 1e10, 0, 0, 1.0),
    )
}


class Topology(NamedTuple):
    """Devices and how they are wired; `lengths` of the torus's axes, or the one number of devices."""

    chip: Chip
    lengths: tuple[int, ...]

    @property
    def size(self) -> int:
        product = 1
        for length in self.lengths:
            product *= length
        return product

    @property
    def name(self) -> str:
        return f"{self.chip.name}:{'x'.join(map(str, self.lengths))}"

    @property
    def bandwidth(self) -> float:
        """Bytes a second that a device can take from the others, over all axes: two ways where an axis is a ring."""
        if not self.chip.torus:
            return self.chip.link
        ways = sum(2 if n >= self.chip.wraps else 1 for n in self.lengths if n > 1)
        return max(ways, 1) * self.chip.link


def parse_topology(text: str) -> Topology:
    """`v5e:4x4`, `v4:2x2x4`, `h100:8`, `cpu:2`.

    Raises:
        ConfigError: no such device or form.
    """
    name, _, lengths = text.partition(":")
    known = ", ".join(CHIPS)
    if name not in CHIPS:
        raise ConfigError(f"topology: {text!r}: no device {name!r} is known; known: {known}")
    chip = CHIPS[name]
    axes = 1 if not chip.torus else chip.torus
    if not re.fullmatch(r"[1-9][0-9]*(x[1-9][0-9]*)*", lengths) or lengths.count("x") + 1 != axes:
        form = "x".join("4" * axes) if chip.torus else "8"
        raise ConfigError(f"topology: {text!r}: write the number of devices on each axis, as in {name}:{form}")
    return Topology(chip, tuple(map(int, lengths.split("x"))))


def chip_of_kind(kind: str) -> Chip | None:
    """The chip that a device says that it is; the longest name that fits."""
    fitting = [chip for chip in CHIPS.values() if kind.startswith(chip.kind)]
    return max(fitting, key=lambda chip: len(chip.kind), default=None)
