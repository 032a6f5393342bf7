"""What a model family's file holds: a translation of its config.json and one table row per tensor."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from mimir_jax.models.decoder_config import DecoderConfig


@dataclass(frozen=True)
class Row:
    """One parameter and where a checkpoint keeps it.

    Attributes:
        path: dotted path in the Decoder; those under `blocks` are stacked over layers.
        name: of the published tensor, with {} for the layer.
        shape: of the published tensor.
        view: from the published array to ours (one layer's): reshapes, transposes and slices, never a copy, so
            that a shard reads only its own bytes of a mapped file, and saving writes through the same view.
        copy: another name of the same tensor; a checkpoint may hold it instead or, if equal, as well.
    """

    path: str
    name: str
    shape: tuple[int, ...]
    view: Callable[[np.ndarray], np.ndarray] = lambda tensor: tensor
    copy: str | None = None


@dataclass(frozen=True)
class Family:
    """A family of published checkpoints.

    Attributes:
        model_type: as config.json says it.
        config: from the fields of config.json to ours.
        rows: the table, which may depend on options.
        ignored: regular expressions of tensors that are buffers, not weights.
        prefix: of the table's names; checkpoints of the model without its head lack it.
        renamed: regular expressions of names that some checkpoints have, and what the table has in their place.
        head: how names of a head start that the model is of no use without.
        note: what every run with such a model must say.
    """

    model_type: str
    config: Callable[[Mapping[str, Any]], Any]
    rows: Callable[[Any], list[Row]]
    ignored: tuple[str, ...] = field(default=())
    prefix: str = ""
    renamed: tuple[tuple[str, str], ...] = ()
    head: str | None = None
    note: str = ""


def embedding_rows(c: DecoderConfig, tokens: str, head: str) -> list[Row]:
    """The embedding of tokens and the head, which are one tensor where they are tied, and the head's bias."""
    shape = (c.vocab, c.token_width)
    bias = [Row("head_bias", head.removesuffix("weight") + "bias", (c.vocab,))] if c.head_bias else []
    if c.tied_head:
        return [Row("embedding", tokens, shape, copy=head), *bias]
    return [Row("embedding", tokens, shape), Row("head", head, shape), *bias]


def norm_rows(c: DecoderConfig, ours: str, theirs: str) -> list[Row]:
    """The weight of a norm and, for LayerNorm, its bias."""
    if not c.norm_affine:
        return []
    rows = [Row(f"{ours}.scale", f"{theirs}.weight", (c.embed,))]
    return rows if c.norm == "rms" else [*rows, Row(f"{ours}.shift", f"{theirs}.bias", (c.embed,))]


def head_norm_rows(c: DecoderConfig, ours: str, theirs: str, heads: int) -> list[Row]:
    """The weight of a norm of queries or keys, one for all heads or of all heads, and, for LayerNorm, its bias."""
    shape = (1 if c.qk_norm == "head" else heads, c.head_dim)
    names = [("scale", "weight")] if c.norm == "rms" else [("scale", "weight"), ("shift", "bias")]
    return [Row(f"{ours}.{a}", f"{theirs}.{b}", (prod(shape),), lambda tensor: tensor.reshape(shape)) for a, b in names]


def linear_rows(
    ours: str,
    theirs: str,
    outputs: tuple[int, ...],
    inputs: tuple[int, ...],
    *,
    bias: bool = True,
    part: Any = ...,
    conv1d: bool = False,
) -> list[Row]:
    """The kernel and bias of a linear layer.

    Args:
        ours: path of the Linear.
        theirs: name of the published layer.
        outputs: axes that its output has; published flat.
        inputs: axes of what it multiplies; published flat.
        bias: whether there is one.
        part: index into `outputs` where several layers of ours are published as one.
        conv1d: published as [in, out], the way of GPT-2's Conv1D, not [out, in].
    """
    shape = (prod(inputs), prod(outputs)) if conv1d else (prod(outputs), prod(inputs))

    def kernel(tensor: np.ndarray) -> np.ndarray:
        return (tensor.T if conv1d else tensor).reshape(*outputs, *inputs)[part]

    rows = [Row(f"{ours}.kernel", f"{theirs}.weight", shape, kernel)]
    if bias:
        rows.append(Row(f"{ours}.bias", f"{theirs}.bias", (prod(outputs),), lambda t: t.reshape(outputs)[part]))
    return rows


def separate_rows(c: DecoderConfig, theirs: str) -> list[Row]:
    """Query, key and value where each is a layer; `theirs` is what stands before q_proj, k_proj and v_proj."""
    inner, groups = (c.heads, c.head_dim), (c.key_heads, c.head_dim)
    table = []
    for name, shape in (("query", inner), ("key", groups), ("value", groups)):
        layer = f"{theirs}{name[0]}_proj"
        table += linear_rows(f"blocks.attention.{name}", layer, shape, (c.embed,), bias=c.qkv_bias)
    return table


def fused_rows(c: DecoderConfig, theirs: str, *, by_head: bool, conv1d: bool = False) -> list[Row]:
    """Query, key and value where they are one layer: (heads, 3, head_dim), or (3, heads, head_dim) if not by_head."""
    fused = (c.heads, 3, c.head_dim) if by_head else (3, c.heads, c.head_dim)
    table = []
    for index, name in enumerate(("query", "key", "value")):
        part = np.s_[:, index] if by_head else index
        ours = f"blocks.attention.{name}"
        table += linear_rows(ours, theirs, fused, (c.embed,), bias=c.qkv_bias, part=part, conv1d=conv1d)
    return table


def out_rows(c: DecoderConfig, theirs: str, *, conv1d: bool = False) -> list[Row]:
    """The layer behind attention."""
    inner = (c.heads, c.head_dim)
    return linear_rows("blocks.attention.out", theirs, (c.embed,), inner, bias=c.attention_out_bias, conv1d=conv1d)


def mlp_rows(c: DecoderConfig, up: str, down: str, gate: str | None = None, *, conv1d: bool = False) -> list[Row]:
    """The layers of the MLP."""
    table = [] if gate is None else linear_rows("blocks.mlp.gate", gate, (c.mlp,), (c.embed,), bias=c.mlp_bias)
    table += linear_rows("blocks.mlp.up", up, (c.mlp,), (c.embed,), bias=c.mlp_bias, conv1d=conv1d)
    table += linear_rows("blocks.mlp.down", down, (c.embed,), (c.mlp,), bias=c.mlp_bias, conv1d=conv1d)
    return table
