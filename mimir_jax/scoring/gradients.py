"""Norms of the gradient of each document's nll: which documents are computed together, and in what shape.

A weight's gradient is a sum over all positions that a model reads, so each document is alone in its rows, one for
each of its windows. Documents of about one length are padded to one length, in micro-batches over which
`gradient_moments` is `vmap`ped.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from mimir_jax.models.checkpoint import read_config
from mimir_jax.models.decoder_config import DecoderConfig
from mimir_jax.models.family import Family
from mimir_jax.parallel import hosts
from mimir_jax.scoring.engine import AHEAD, ScoringError
from mimir_jax.scoring.gradient_moments import (
    NORMS,
    TILE,
    DocumentArrays,
    Groups,
    batch_norms,
    batch_norms_of_models,
)
from mimir_jax.scoring.kept_results import keeping, result_key
from mimir_jax.scoring.model import Model
from mimir_jax.scoring.passes import Pass, pass_key
from mimir_jax.scoring.store import Store

VERSION = 1  # of what the norms mean; part of every key
GRAIN = 16  # lengths of rows are multiples of it
MOST_SHAPES = 8  # row lengths that one data set is computed at, at most
COMPILING = 5e11  # float operations, about, that a CPU does in the time that a further shape takes to compile
DEFAULT_MEMORY = 2**30
# Documents one by one keep a CPU's cores busy; what a micro-batch makes should stay in its cache.
CPU_CACHE = 2**25


class Shape(NamedTuple):
    """Of a micro-batch, and whether its products are kept for the backward pass or computed again in it."""

    docs: int
    windows: int
    time: int
    keep: bool


def gradient_norms(
    model: Model,
    documents: Sequence[Sequence[Pass]],
    memory: int = DEFAULT_MEMORY,
    on_start: Callable[[int], None] = lambda total: None,
    on_batch: Callable[[int], None] = lambda tokens: None,
    store: Store | None = None,
) -> Float[np.ndarray, "*model norm doc"]:
    """Mean over parameter tensors of the p-norm of the gradient of each document's nll, for p = 1, 2 and inf.

        norm_p(x) = mean over tensors W of || d nll(x) / d W ||_p,   nll(x) = -mean of log p(x_t | x_<t), t scored

    A tensor is one that the model's family publishes: layers are separate, a fused query, key and value is one,
    biases count, tied weights count once. The nll of a document in several windows is the mean over the scored
    tokens of all, and its gradient the sum of theirs. Documents with the same passes are computed once.

    Args:
        model: from `load_model`; stacked models give a leading model axis.
        documents: of each its passes, as `document_passes` gives them.
        memory: bytes that a device may use for a micro-batch beside the weights, about. As many documents are
            computed at once as fit (on CPUs: as their caches hold), and the products of all layers are kept for the
            backward pass where those of one document fit; else only the layers' inputs are, at a third more work.
            A long document may need more than this by itself: its layers' inputs are always kept.
        on_start: called with the number of tokens that will be computed.
        on_batch: called with the number of tokens of each micro-batch that is done; with 0 when one is compiled and
            sent off.
        store: where norms are found and kept, a key a document; the batches of what is computed do not depend on it.

    Returns:
        float32 [norm, doc], NaN for documents without a scored token; [model, norm, doc] of stacked models.

    Raises:
        ScoringError: norms that are not finite.

    References:
        Wang et al., Pandora's White-Box: Precise Training Data Detection and Extraction in Large Language Models,
        2024 (https://arxiv.org/abs/2402.17012).
    """
    family, config = read_config(model.sources[0].folder)
    groups = tensor_groups(family, config)
    passes = [tuple(_whole(one) for one in document if one.sources) for document in documents]
    number: dict[tuple[tuple[int, bytes], ...], int] = {}
    where = [number.setdefault(tuple((p.start, p.ids.tobytes()) for p in document), len(number)) for document in passes]
    distinct = [passes[i] for i in np.unique(where, return_index=True)[1]]
    ways = model.mesh.shape["data"]
    plan = plan_documents(distinct, config, memory // len(model.sources), ways)
    compute = batch_norms_of_models if model.stacked else batch_norms
    rows = NamedSharding(model.mesh, P("data"))
    leading = (len(model.sources),) if model.stacked else ()
    norms = np.full((*leading, len(NORMS), len(distinct)), np.nan, np.float32)
    flight: deque[tuple[list[int], Array]] = deque()
    keys = [[_key(document, source.checkpoint, model.dtype) for source in model.sources] for document in distinct]

    def collect() -> None:
        members, device_norms = flight.popleft()
        with hosts.others_may_fail():
            found = np.asarray(device_norms)
        norms[..., members] = np.swapaxes(found, -1, -2)[..., : len(members)]
        for i in members:
            for key, one in zip(keys[i], norms[..., i].reshape(-1, len(NORMS))):
                if np.isfinite(one).all():
                    kept.put(key, one)
        on_batch(_tokens(distinct, members))

    with keeping(store, "gradients", np.float32) as kept:
        stored = kept.get(key for of_document in keys for key in of_document)
        known = {i for i, of_document in enumerate(keys) if all(key in stored for key in of_document)}
        for i in known:
            norms[..., i] = np.stack([stored[key] for key in keys[i]]).reshape(*leading, len(NORMS))
        todo = [(shape, members) for shape, members in plan if not known.issuperset(members)]
        on_start(sum(_tokens(distinct, members) for _, members in todo))
        for shape, members in todo:
            host = document_arrays([distinct[i] for i in members], shape)
            with hosts.others_may_fail():
                found = compute(model.decoder, hosts.place(host, rows), model.mesh, groups, shape.keep)
                on_batch(0)
                flight.append((members, hosts.gather(found, model.mesh)))
            if len(flight) == AHEAD:
                collect()
        while flight:
            collect()
    norms = norms[..., where]
    bad = [i for i, document in enumerate(passes) if document and not np.isfinite(norms[..., i]).all()]
    if bad:
        raise ScoringError(
            f"{len(bad)} documents got gradients that are not finite (first: document {bad[0]}): the model overflows"
        )
    return norms


def _key(document: Sequence[Pass], checkpoint: str, dtype: str) -> str:
    """What a document's norms are kept under."""
    return result_key(VERSION, NORMS, *(pass_key(one, checkpoint, dtype) for one in document))


def _whole(one: Pass) -> Pass:
    """The pass, reading its prefix itself: gradients go through that, too."""
    return Pass(np.ascontiguousarray(one.read, np.int32), one.seen + one.start)


def _tokens(documents: Sequence[Sequence[Pass]], members: Sequence[int]) -> int:
    return sum(len(one) for i in members for one in documents[i])


def tensor_groups(family: Family, config: DecoderConfig) -> Groups:
    """Paths of the parameters that make up each published tensor, by the family's table."""
    groups: dict[str, list[str]] = {}
    for row in family.rows(config):
        groups.setdefault(row.name, []).append(row.path)
    return tuple(tuple(paths) for paths in groups.values())


def plan_documents(
    documents: Sequence[Sequence[Pass]], config: DecoderConfig, memory: int, ways: int
) -> list[tuple[Shape, list[int]]]:
    """Micro-batches that hold every document with a pass once, longest first.

    Args:
        documents: their passes, all of which score something.
        config: of the model.
        memory: see `gradient_norms`.
        ways: devices that a micro-batch's documents are split over.
    """
    long = [i for i, document in enumerate(documents) if len(document) > 1]
    window = max((len(one) for i in long for one in documents[i]), default=0)
    plan: list[tuple[Shape, list[int]]] = []
    sizes = {i: len(documents[i]) for i in long}
    for windows, members in _by_size(sizes, _round_up(window), config):
        plan += _cut(members, windows, _round_up(window), config, memory, ways)
    sizes = {i: _round_up(len(one[0])) // GRAIN for i, one in enumerate(documents) if len(one) == 1}
    for size, members in _by_size(sizes, GRAIN, config):
        plan += _cut(members, 1, size * GRAIN, config, memory, ways)
    return plan


def _round_up(length: int) -> int:
    return -(-length // GRAIN) * GRAIN


def _by_size(sizes: dict[int, int], positions: int, config: DecoderConfig) -> list[tuple[int, list[int]]]:
    """Padded sizes in descending order, and the items that are padded to each; a unit of size is so many positions."""
    # A forward and a backward pass multiply each parameter three times for each position.
    padded = choose_sizes(list(sizes.values()), COMPILING / (6 * _parameters(config) * max(positions, 1)), MOST_SHAPES)
    return [
        (size, [i for i, own in sizes.items() if padded[own] == size])
        for size in sorted(set(padded.values()), reverse=True)
    ]


def _cut(
    members: list[int], windows: int, time: int, config: DecoderConfig, memory: int, ways: int
) -> list[tuple[Shape, list[int]]]:
    """Micro-batches of documents that are padded to one size, about equally full."""
    keep = windows == 1 and document_bytes(config, windows, time, True) <= memory
    room = min(memory, CPU_CACHE) if jax.default_backend() == "cpu" else memory
    most = max(room // document_bytes(config, windows, time, keep), 1) * ways
    batches = -(-len(members) // most)
    docs = -(-len(members) // (batches * ways)) * ways
    shape = Shape(docs, windows, time, keep)
    return [(shape, members[start : start + docs]) for start in range(0, len(members), docs)]


def choose_sizes(sizes: Sequence[int], further: float, most: int) -> dict[int, int]:
    """For each size that occurs the size that it is padded to, such that all padded sizes add up to the least.

    Args:
        sizes: of all items.
        further: what a further padded size costs, in the unit of sizes.
        most: how many different padded sizes there may be.
    """
    distinct, counts = np.unique(np.asarray(sizes, np.int64), return_counts=True)
    count, total = len(distinct), np.concatenate([[0], np.cumsum(counts)])
    # [i, j]: distinct sizes j to i are padded to the last of them
    group = (total[1:, None] - total[None, :-1]) * distinct[:, None].astype(float)
    group[~np.tri(count, dtype=bool)] = np.inf
    best = np.where(np.arange(count + 1) == 0, 0.0, np.inf)  # [i]: the first i distinct sizes, in as many groups
    starts: list[np.ndarray] = []  # [i]: where the last of these groups starts
    costs: list[float] = []
    for groups in range(1, min(most, count) + 1):
        options = best[None, :-1] + group
        starts.append(np.argmin(options, axis=1))
        best = np.concatenate([[np.inf], options.min(axis=1)])
        costs.append(float(best[count]) + groups * further)
    padded: dict[int, int] = {}
    stop = count
    for groups in range(int(np.argmin(costs)) if costs else -1, -1, -1):
        start = int(starts[groups][stop - 1])
        padded |= {int(size): int(distinct[stop - 1]) for size in distinct[start:stop]}
        stop = start
    return padded


def _parameters(config: DecoderConfig) -> int:
    """Parameters in products, about."""
    attention = 2 * (config.heads + config.key_heads) * config.head_dim
    mlp = config.mlp * (3 if config.gated_mlp else 2)
    return config.embed * (config.layers * (attention + mlp) + config.vocab)


def document_bytes(config: DecoderConfig, windows: int, time: int, keep: bool) -> int:
    """Bytes of float32 that one document needs beside the weights, about.

    Args:
        config: of the model.
        windows: rows of the document.
        time: positions of a row.
        keep: whether the products of all layers and the logits are kept.
    """
    wide = config.mlp * (2 if config.gated_mlp else 1)
    products = 6 * config.embed + wide + config.heads * time  # of a layer, for each position
    tile = min(TILE, config.vocab)
    layer = time * (2 * products + 4 * wide + 8 * config.embed)  # values and gradients between its products
    gradient = 2 * max(config.mlp, config.heads * config.head_dim) * config.embed
    head = 3 * windows * time * tile + tile * config.embed
    kept = config.layers * windows * time * config.embed
    if keep:
        kept += windows * time * (config.layers * products + config.vocab)
    return 4 * (kept + max(layer + gradient, head))


def document_arrays(documents: Sequence[Sequence[Pass]], shape: Shape) -> DocumentArrays:
    """The micro-batch's arrays (see DocumentArrays), NumPy; rows without a window are all padding."""
    grid = (shape.docs, shape.windows, shape.time)
    tokens, positions, targets = (np.zeros(grid, np.int32) for _ in range(3))
    segments, weights = np.ones(grid, np.int32), np.zeros(grid, np.float32)
    for row, document in enumerate(documents):
        scored = sum(one.sources for one in document)
        for window, one in enumerate(document):
            last = len(one) - 1
            tokens[row, window, : last + 1] = one.ids
            positions[row, window, : last + 1] = np.arange(last + 1)
            segments[row, window, : last + 1] = 0
            targets[row, window, :last] = one.ids[1:]
            weights[row, window, last - one.sources : last] = 1 / scored
    slots = np.stack([np.unique(ids, return_inverse=True)[1].reshape(grid[1:]) for ids in tokens])
    return DocumentArrays(tokens, positions, segments, targets, weights, slots.astype(np.int32))
