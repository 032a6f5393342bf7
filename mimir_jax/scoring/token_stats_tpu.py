"""The moments of `token_stats` as one TPU kernel: a tile's statistics are computed while the next one is multiplied.

It runs over blocks of positions and, for each, over the vocabulary; logits stay in the chip's vector memory. They lie
[vocab, position]: the 8 sublanes of a register are then 8 streams of each position's columns, whose running moments
are merged only at the end, so that nothing is summed across lanes or sublanes. The formulas are those of
`token_stats`, whose path through XLA is the reference. No TPU was at hand: the kernel was compiled for TPUs and run by
Pallas' interpreter, never on one.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Float32, Int

from mimir_jax.models.layers import capped
from mimir_jax.scoring.token_stats import Moments, merge, merge_all, tile_moments

STREAMS = 8  # sublanes of a register
LANES = 128
NOTHING = -1e15  # the logit of a column that is none: its weight is 0 beside any other's, and its square is finite
MIB = 2**20


class Blocks(NamedTuple):
    """What a step of the grid takes.

    Attributes:
        positions: of a block.
        tile: columns whose logits are there at once.
        tiles: of a step.
    """

    positions: int
    tile: int
    tiles: int


def block_sizes(positions: int, vocab: int, embed: int, itemsize: int) -> Blocks:
    """Sizes for which hidden states and the head's rows, two blocks of each, fit the vector memory.

    With 512 positions a row of the head that is fetched is used often enough for products not to wait for the next.
    Products in float32 are of several bfloat16 parts: they need more room, more instructions and less often a row.
    """
    parted = itemsize > 2
    tiles = 2 if parted or embed > 2048 else 4
    room = 34 * MIB // (2 * embed * itemsize * (2 if parted else 1))
    choices = [(512, 256), (512, 128), (256, 256), (256, 128), (128, 128), (128, 64), (128, 32)][2 * parted :]
    block, most = next((one for one in choices if one[0] + tiles * one[1] <= room), choices[-1])

    def rows(tile: int) -> int:
        """That are multiplied: the padded vocabulary, and what a step costs beside its rows."""
        steps = -(-vocab // (tiles * tile))
        return steps * (tiles * tile + 32)

    return Blocks(min(block, -(-positions // LANES) * LANES), min(range(most, 0, -16), key=rows), tiles)


def over_blocks(
    hidden: Float32[Array, "n embed"],
    kernel: Float[Array, "vocab embed"],
    local: Int[Array, " n"],
    target_logit: Float32[Array, " n"],
    softcap: float | None,
    bias: Float32[Array, " vocab"] | None,
    interpret: bool = False,
) -> Moments:
    """As `token_stats.over_tiles`, on a TPU; `interpret` is for tests elsewhere."""
    (n, embed), vocab = hidden.shape, kernel.shape[0]
    block, tile, tiles = sizes = block_sizes(n, vocab, embed, kernel.dtype.itemsize)
    step = tile * tiles
    row = pl.BlockSpec((1, block), lambda i, j: (0, i))
    moments = pl.BlockSpec((STREAMS, block), lambda i, j: (0, i))
    operands: list[Array] = [hidden.astype(kernel.dtype).T, kernel, local[None], target_logit[None]]
    specs = [
        pl.BlockSpec((embed, block), lambda i, j: (0, i)),
        pl.BlockSpec((step, embed), lambda i, j: (j, 0)),
        row,
        row,
    ]
    if bias is not None:
        operands.append(bias[:, None])
        specs.append(pl.BlockSpec((step, 1), lambda i, j: (j, 0)))
    shapes = [jax.ShapeDtypeStruct((STREAMS, n), jnp.int32 if x == "above" else jnp.float32) for x in Moments._fields]
    fetched = (block + step) * embed * kernel.dtype.itemsize + 4 * LANES * step
    found = pl.pallas_call(
        partial(_step, sizes=sizes, vocab=vocab, softcap=softcap, biased=bias is not None),
        grid=(pl.cdiv(n, block), pl.cdiv(vocab, step)),
        in_specs=specs,
        out_specs=[moments] * len(shapes),
        out_shape=shapes,
        scratch_shapes=[pltpu.VMEM((tile, block), jnp.float32)] * 2,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=2 * fetched + 24 * MIB
        ),
        cost_estimate=pl.CostEstimate(
            flops=2 * n * vocab * embed,
            transcendentals=n * vocab,
            bytes_accessed=(pl.cdiv(n, block) * vocab + n) * embed * kernel.dtype.itemsize,
        ),
        interpret=interpret,
        name="vocabulary_moments",
    )(*operands)
    largest, total = (partial(f, axis=0, keepdims=True) for f in (jnp.max, jnp.sum))
    return Moments(*(x[0] for x in merge_all(Moments(*found), largest, total)))


def _step(*refs: Any, sizes: Blocks, vocab: int, softcap: float | None, biased: bool) -> None:
    """One block of positions, some tiles of the vocabulary; `refs` are operands, running moments and two buffers.

    The statistics of a step's last tile are computed in the next step, beside its first product.
    """
    hidden, kernel, local, target_logit = refs[:4]
    bias = refs[4] if biased else None
    running, buffers = refs[-7:-2], refs[-2:]
    block, tile, tiles = sizes
    last = tiles - 1
    start = pl.program_id(1) * (tile * tiles)

    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        buffers[last % 2][...] = jnp.full((tile, block), NOTHING)
        for ref, value in zip(running, Moments(NOTHING, 0, 0, 0, 0)):  # type: ignore[arg-type]
            ref[...] = jnp.full(ref.shape, value, ref.dtype)

    def multiply(t: int) -> None:
        rows = slice(t * tile, (t + 1) * tile)
        logits = jax.lax.dot_general(
            kernel[rows],
            hidden[...],
            (((1,), (0,)), ((), ())),
            precision=jax.lax.Precision.HIGHEST if kernel.dtype == jnp.float32 else jax.lax.Precision.DEFAULT,
            preferred_element_type=jnp.float32,
        )
        if bias is not None:
            logits = logits + bias[rows]
        logits = capped(logits, softcap)
        if vocab % (tile * tiles):
            inside = jax.lax.broadcasted_iota(jnp.int32, (tile, block), 0) < vocab - start - t * tile
            logits = jnp.where(inside, logits, NOTHING)
        buffers[t % 2][...] = logits

    def summarize(t: int) -> None:
        for lane in range(0, block, LANES):
            some = slice(lane, lane + LANES)
            logits = buffers[t % 2][:, some].reshape(tile // STREAMS, STREAMS, LANES)
            old = Moments(*(ref[:, some] for ref in running))
            index = STREAMS * jax.lax.broadcasted_iota(jnp.int32, logits.shape, 0)
            index = index + jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1)
            other = index != (local[:, some] - start - t * tile)[None]
            new = merge(old, tile_moments(logits, target_logit[:, some], other, 0))
            for ref, value in zip(running, new):
                ref[:, some] = value

    for t in range(tiles):
        summarize(t - 1)
        multiply(t)

    @pl.when(pl.program_id(1) == pl.num_programs(1) - 1)
    def _() -> None:
        summarize(last)
