"""The head and its vocabulary statistics: through XLA, and by the TPU kernel.

On a TPU both are compared and timed, elsewhere XLA alone: interpreted, the kernel would measure the interpreter. With
--topology nothing runs at all: both are compiled by libtpu, and what its scheduler made of them is counted.
"""

import os
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from mimir_jax.parallel.chips import parse_topology
from mimir_jax.plan import topology_devices
from mimir_jax.scoring.token_stats import MomentsOf, VocabStats, over_tiles, vocab_stats
from mimir_jax.scoring.token_stats_tpu import over_blocks

LARGE = 20_000  # cycles by XLA's estimate: a tile's product and the passes over its logits, and nothing else
MXU = {"v6e": 256}  # columns of a matrix unit; 128 in other chips


@dataclass(frozen=True)
class Options:
    """Sizes of the head."""

    width: int = 768
    vocab: int = 50304
    positions: int = 4096
    """That are predicted."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    repeats: int = 5
    topology: str | None = None
    """Compile for it and count, such as v5e:2x2; only bfloat16."""


def main(options: Options) -> None:
    """Print figures of both."""
    if options.topology is not None:
        count(options, options.topology)
        return
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.standard_normal((options.positions, options.width), np.float32))
    kernel = jnp.asarray(rng.standard_normal((options.vocab, options.width), np.float32) / 16, options.dtype)
    targets = jnp.asarray(rng.integers(0, options.vocab, options.positions, np.int32))
    device = jax.devices()[0]
    through_xla = jax.jit(partial(vocab_stats, moments_of=partial(over_tiles, platform=device.platform)))
    expected, seconds = timed(lambda: through_xla(hidden, targets, kernel), options.repeats)
    flops = 2 * hidden.size * options.vocab
    print(f"{device.device_kind}: XLA {seconds * 1e3:.1f} ms, {flops / seconds / 1e12:.2f} TFLOP/s")
    if device.platform != "tpu":
        print("the kernel is for TPUs, and there is none here: see --topology")
        return
    by_kernel = jax.jit(partial(vocab_stats, moments_of=over_blocks))
    got, ours = timed(lambda: by_kernel(hidden, targets, kernel), options.repeats)
    print(f"{device.device_kind}: kernel {ours * 1e3:.1f} ms, {seconds / ours:.2f} x as fast")
    for name, one, other in zip(VocabStats._fields, got, expected):
        print(f"  {name}: moves by at most {np.abs(np.asarray(one) - np.asarray(other)).max():.1e}")


def timed(run: Callable[[], VocabStats], repeats: int) -> tuple[VocabStats, float]:
    """A result, and the median of the seconds that it takes when it is compiled."""
    result, taken = jax.block_until_ready(run()), []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        taken.append(time.perf_counter() - start)
    return result, float(np.median(taken))


def count(options: Options, name: str) -> None:
    """Print the instruction bundles that the compiler schedules for a register (8 x 128) of logits."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LIBTPU_INIT_ARGS"] = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"
        topology = parse_topology(name)
        sharding = jax.sharding.SingleDeviceSharding(topology_devices(topology)[0])
        columns = MXU.get(topology.chip.name, 128)
        text = compiled(options, sharding, partial(over_tiles, platform="tpu"))
        body = re.split(r"^ENTRY", text, flags=re.MULTILINE)[0]  # the first tile is there once more
        estimates = re.findall(r'^  %([\w.]+) = .*"estimated_cycles":"(\d+)"', body, re.MULTILINE)
        parts = [per_register(Path(folder), one, options.width, columns) for one, n in estimates if int(n) > LARGE]
        compiled(options, sharding, over_blocks)
        kernel = per_register(Path(folder), r"vocabulary_moments[\w.]*", options.width, columns)
    product = sum(bundles for bundles, multiplies in parts if multiplies)
    statistics = sum(bundles for bundles, multiplies in parts if not multiplies)
    print(
        f"{name}, width {options.width}: bundles a register: product {product:.2f}, statistics {statistics:.2f} "
        f"({statistics / product:.2f} of it), kernel {kernel[0]:.2f} ({(product + statistics) / kernel[0]:.2f} x)"
    )


def compiled(options: Options, sharding: jax.sharding.Sharding, moments_of: MomentsOf) -> str:
    """The text of the compiled program."""
    n, width, vocab = options.positions, options.width, options.vocab
    shapes = (((n, width), "float32"), ((n,), "int32"), ((vocab, width), "bfloat16"))
    arguments = [jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for shape, dtype in shapes]
    return jax.jit(partial(vocab_stats, moments_of=moments_of)).lower(*arguments).compile().as_text() or ""


def per_register(folder: Path, name: str, width: int, columns: int) -> tuple[float, bool]:
    """Bundles of the longest run without a branch, over the registers of logits that it makes; whether it multiplies.

    A product takes 16 x `columns` numbers and gives two rows of columns / 128 registers, of which as many are summed
    as `columns` go into the width; of statistics, a pass takes one exponential a register.
    """
    [path] = [p for p in folder.iterdir() if re.fullmatch(rf"\d+-{name}-\d+-final_bundles\.txt", p.name)]
    runs: list[list[str]] = [[]]
    for line in path.read_text().splitlines():
        bundle = re.match(r"\s*(?:0x[0-9a-f]+|0)\s*([A-Z]{2})?\s*:\s", line)
        if bundle and bundle[1]:  # where a branch may arrive
            runs.append([])
        if bundle:
            runs[-1].append(line)
        if "sbr.rel" in line:
            runs.append([])
    longest = max(runs, key=len)
    products, exponentials = (sum(line.count(word) for line in longest) for word in ("vmatmul", "vpow2"))
    registers = products * 2 * (columns / 128) / -(-width // columns) if products else exponentials
    return len(longest) / registers, products > 0


if __name__ == "__main__":
    main(tyro.cli(Options))
