"""The matrix products of scoring and nothing else: the limit that the machine sets."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.extend.core import jaxprs_in_params

from mimir_jax.models.attention import query_blocks
from mimir_jax.models.checkpoint import read_config
from mimir_jax.models.decoder import Decoder
from mimir_jax.models.decoder_config import DecoderConfig
from mimir_jax.models.layers import product
from mimir_jax.parallel.mesh import make_mesh
from mimir_jax.scoring.batching import BatchArrays, padding_share, plan_batches
from mimir_jax.scoring.documents import DEFAULT_BATCH_TOKENS
from mimir_jax.scoring.engine import batch_stats
from mimir_jax.scoring.model import DTYPES
from mimir_jax.scoring.passes import document_passes
from mimir_jax.scoring.token_stats import _tile_size
from mimir_jax.scoring.tokens import load_tokenizer, tokenize

Shape = tuple[int, int, int, int]  # rows, time, predicted positions and reach of a batch
Product = tuple[str, int, int, int, int]  # dtype, batch, m >= n, k


class Operands(NamedTuple):
    """What is multiplied with the kernels; of each block of queries, [row * head, ...]."""

    x: jax.Array
    queries: list[jax.Array]
    keys: list[jax.Array]
    values: list[jax.Array]
    hidden: jax.Array


class Products:
    """For every batch of the plan the products that `batch_stats` computes: as many, of the same shapes and dtypes.

    Counted are, in each layer, the projections to query, key, value and output, the products of queries with keys
    and of weights with values (by blocks of queries, over the keys that a packed row gives them) and both products
    of the MLP; and the head over the predicted positions, by tiles of the vocabulary. Left out, because they are no
    matrix products, are the lookup of embeddings and each target's own logit. That nothing else is missing or too
    many is checked on the two programs when this is made.

    Operands lie in memory as their product wants them, so that nothing is transposed, sliced or copied. Where shapes
    allow it, one product's result is the next one's operand, so that no product can be left out; the numbers mean
    nothing. In bfloat16 a float32 result has to be rounded before it can be an operand, as in `batch_stats`.

    Attributes:
        weights: bytes of the kernels.
        facts: the plan in numbers.
    """

    def __init__(self, folder: Path, texts: Sequence[str], dtype: str):
        _, config = read_config(folder)
        tokens = tokenize(load_tokenizer(folder), texts, texts, config.vocab)
        passes = [one for t in tokens for one in document_passes(t.context_ids, t.text_ids, config.context)]
        plan = plan_batches(passes, DEFAULT_BATCH_TOKENS)
        self._plan: list[Shape] = [(b.rows, b.time, b.sources, b.reach or b.time) for b in plan]
        self._dtype = DTYPES[dtype]
        self._rng = np.random.default_rng(0)
        self._layers, self._head = self._kernels(config)
        self._operands = {shape: self._batch(config, *shape) for shape in dict.fromkeys(self._plan)}
        self._logits = {
            (shape, len(kernel)): jnp.zeros((len(operands.hidden), len(kernel)))
            for shape, operands in self._operands.items()
            for kernel in self._head
        }
        self.weights = sum(kernel.nbytes for kernel in jax.tree.leaves((self._layers, self._head)))
        self.facts = {
            "tokens": sum(len(t.context_ids) + len(t.text_ids) for t in tokens),
            "batches": len(plan),
            "shapes": sorted(self._operands),
            "padding_share": padding_share(plan, passes),
            "flops": sum(self._flops(config, shape) * self._plan.count(shape) for shape in self._operands),
        }

    def run(self) -> None:
        """All products of all batches."""
        for shape in self._plan:
            operands = self._operands[shape]
            jax.block_until_ready(multiply_body(self._layers, operands))
            for kernel in self._head:
                slot = shape, len(kernel)
                self._logits[slot] = multiply_head(self._logits[slot], operands.hidden, kernel)
            jax.block_until_ready(self._logits)

    def _normal(self, *shape: int) -> jax.Array:
        """Numbers of a size that long chains of products neither blow up nor let vanish."""
        return jnp.asarray(self._rng.standard_normal(shape, np.float32) / np.float32(shape[-1] ** 0.5), self._dtype)

    def _kernels(self, config: DecoderConfig) -> tuple[list[list[jax.Array]], list[jax.Array]]:
        """[out, in] of each layer, and of each tile of the vocabulary."""
        inner = config.heads * config.head_dim
        shapes = [(inner, config.embed)] * 3 + [(config.embed, inner), (config.mlp, config.embed)]
        shapes.append((config.embed, config.mlp))
        tile = _tile_size(config.vocab)
        tiles = [min(tile, config.vocab - start) for start in range(0, config.vocab, tile)]
        layers = [[self._normal(*shape) for shape in shapes] for _ in range(config.layers)]
        return layers, [self._normal(size, config.embed) for size in tiles]

    def _batch(self, config: DecoderConfig, rows: int, time: int, sources: int, reach: int) -> Operands:
        blocks = query_blocks(time, reach)
        heads, head_dim = rows * config.heads, config.head_dim
        return Operands(
            x=self._normal(rows * time, config.embed).astype(jnp.float32),
            queries=[self._normal(heads, stop - start, head_dim).astype(jnp.float32) for _, start, stop in blocks],
            keys=[self._normal(heads, stop - first, head_dim) for first, _, stop in blocks],
            values=[self._normal(heads, stop - first, head_dim) for first, _, stop in blocks],
            hidden=self._normal(rows * sources, config.embed),
        )

    def _flops(self, config: DecoderConfig, shape: Shape) -> int:
        """Of one batch.

        Raises:
            AssertionError: these are not the products of `batch_stats`.
        """
        rows, time, sources, reach = shape
        operands = self._operands[shape]
        ours = matrix_products(jax.make_jaxpr(multiply_body)(self._layers, operands).jaxpr)
        for kernel in self._head:
            head = jax.make_jaxpr(multiply_head)(self._logits[shape, len(kernel)], operands.hidden, kernel)
            ours.update(matrix_products(head.jaxpr))
        decoder = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, self._dtype),
            nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))),
        )
        grid, predicted = (jax.ShapeDtypeStruct((rows, size), jnp.int32) for size in (time, sources))
        arrays = BatchArrays(grid, grid, grid, predicted, predicted)  # type: ignore[arg-type]
        scoring = matrix_products(
            jax.make_jaxpr(batch_stats, static_argnums=(3, 4))(decoder, arrays, None, make_mesh(), reach).jaxpr
        )
        if ours != scoring:
            raise AssertionError(f"only scoring multiplies {scoring - ours}, only this {ours - scoring}")
        return sum(2 * batch * m * n * k * times for (_, batch, m, n, k), times in ours.items())


@jax.jit
def multiply_body(layers: list[list[jax.Array]], operands: Operands) -> tuple[jax.Array, list[jax.Array]]:
    """The products of all layers."""
    x, queries = operands.x, operands.queries
    for kernels in layers:
        for kernel in kernels:
            x = product("nd,fd->nf", x, kernel)
        scores = [product("zqk,zsk->zqs", query, key) for query, key in zip(queries, operands.keys)]
        queries = [product("zqs,zsk->zqk", score, value) for score, value in zip(scores, operands.values)]
    return x, queries


# A call of its own, because nothing needs the logits, and a program that holds all tiles would leave them out. Those
# of the tile before are overwritten: fresh memory would cost more than writing to it.
@partial(jax.jit, donate_argnums=0, keep_unused=True)
def multiply_head(logits: jax.Array, hidden: jax.Array, kernel: jax.Array) -> jax.Array:
    """The product with one tile of the head."""
    return product("nd,vd->nv", hidden, kernel)


def matrix_products(jaxpr: Any) -> Counter[Product]:
    """How often a program computes products of which shapes; products of two vectors do not count."""
    found: Counter[Product] = Counter()
    for equation in jaxpr.eqns:
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        for inner in jaxprs_in_params(equation.params):
            found.update({key: times * count for key, count in matrix_products(inner).items()})
        if equation.primitive.name == "dot_general":
            left, right = (variable.aval for variable in equation.invars)
            (contracted, _), (batched, _) = equation.params["dimension_numbers"]
            batch, k = (int(np.prod([left.shape[axis] for axis in axes])) for axes in (batched, contracted))
            m, n = (array.size // (batch * k) for array in (left, right))
            if max(m, n) > 1:
                found[str(left.dtype), batch, max(m, n), min(m, n), k] += 1
    return found
