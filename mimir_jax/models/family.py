"""What a model family's file holds: a translation of its config.json and one table row per tensor."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from mimir_jax.config import ConfigError
from mimir_jax.models.decoder import DecoderConfig

REQUIRED = object()

# Fields that every Hugging Face config may carry and that no score depends on.
# fmt: off
IRRELEVANT = frozenset([
    "_name_or_path", "architectures", "attn_implementation", "bos_token_id", "chunk_size_feed_forward",
    "decoder_start_token_id", "dtype", "eos_token_id", "finetuning_task", "gradient_checkpointing", "id2label",
    "is_decoder", "is_encoder_decoder", "label2id",
    "model_type", "output_attentions", "output_hidden_states", "pad_token_id", "prefix",
    "problem_type", "return_dict", "sep_token_id", "task_specific_params", "tokenizer_class", "torch_dtype",
    "transformers_version", "unk_token_id", "use_cache",
])
# fmt: on


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
    """

    model_type: str
    config: Callable[[Mapping[str, Any]], DecoderConfig]
    rows: Callable[[DecoderConfig], list[Row]]
    ignored: tuple[str, ...] = field(default=())
    prefix: str = ""


def read_fields(
    hf: Mapping[str, Any],
    modelled: Mapping[str, Any],
    irrelevant: frozenset[str],
    defaults: Mapping[str, Any],
) -> dict[str, Any]:
    """The modelled fields of a config.json, with defaults filled in.

    Args:
        hf: the parsed config.json.
        modelled: default by field; `REQUIRED` where there is none.
        irrelevant: fields of this family that scoring does not depend on, beside `IRRELEVANT`.
        defaults: Hugging Face's values of further fields, which these must have; None for all that are not named.

    Raises:
        ConfigError: names every field that is missing or not modelled.
    """
    problems = [f"{name} is missing" for name, default in modelled.items() if default is REQUIRED and name not in hf]
    for name, value in hf.items():
        if name in modelled or name in irrelevant or name in IRRELEVANT:
            continue
        if value != defaults.get(name):
            problems.append(f"{name}={value!r} is not modelled (only {defaults.get(name)!r} is)")
    fields = {name: hf.get(name, default) for name, default in modelled.items()}
    for name, value in fields.items():
        kind = int if modelled[name] is REQUIRED else type(modelled[name])
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if name in hf and (
            (kind is int and not (number and value > 0))
            or (kind is float and not (number and value >= 0))
            or (kind in (bool, str) and not isinstance(value, kind))
        ):
            expected = {int: "a number above 0", float: "a number", bool: "true or false", str: "a string"}[kind]
            problems.append(f"{name}={value!r} must be {expected}")
    if problems:
        raise ConfigError("config.json: " + "; ".join(problems))
    return fields


def choose(name: str, value: str, known: Mapping[str, Any]) -> Any:
    """`known[value]`, or an error that names the config.json field and its choices."""
    if value not in known:
        raise ConfigError(f"config.json: {name}={value!r} is not modelled; modelled: {', '.join(known)}")
    return known[value]


def quotient(f: Mapping[str, Any], whole: str, part: str) -> int:
    """`f[whole] / f[part]`, or an error that names both fields."""
    if not f[part] or f[whole] % f[part]:
        raise ConfigError(f"config.json: {whole}={f[whole]} is no multiple of {part}={f[part]}")
    return f[whole] // f[part]


def read_rope(f: Mapping[str, Any], share: float | int, theta: float | int) -> tuple[float, float]:
    """The rotated share of each head and the base of its angles.

    Args:
        f: the modelled fields, with `rope_parameters`, which transformers 5 writes, and its copies beside it.
        share: what holds where `rope_parameters` does not say.
        theta: likewise.
    """
    rope = f["rope_parameters"] or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise ConfigError(f"config.json: rope_parameters.rope_type={kind!r} is not modelled (only 'default')")
    share, theta = rope.get("partial_rotary_factor", share), rope.get("rope_theta", theta)
    for name, used in (("partial_rotary_factor", share), ("rope_theta", theta)):
        if f.get(name) not in (None, used):
            raise ConfigError(f"config.json: {name}={f[name]!r} contradicts the {used!r} that it says elsewhere")
    return float(share), float(theta)


def embedding_rows(c: DecoderConfig, tokens: str, head: str) -> list[Row]:
    """The embedding of tokens and the head, which are one tensor where they are tied."""
    shape = (c.vocab, c.embed)
    if c.tied_head:
        return [Row("embedding", tokens, shape, copy=head)]
    return [Row("embedding", tokens, shape), Row("head", head, shape)]


def norm_rows(c: DecoderConfig, ours: str, theirs: str) -> list[Row]:
    """The weight of a norm and, for LayerNorm, its bias."""
    rows = [Row(f"{ours}.scale", f"{theirs}.weight", (c.embed,))]
    return rows if c.norm == "rms" else [*rows, Row(f"{ours}.shift", f"{theirs}.bias", (c.embed,))]


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


# Hugging Face's names of activations.
ACTIVATION_NAMES = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
