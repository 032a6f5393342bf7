"""What a model family's file holds: a translation of its config.json and one table row per tensor."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
    "is_decoder", "label2id", "model_type", "output_attentions", "output_hidden_states", "pad_token_id", "prefix",
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
    """

    path: str
    name: str
    shape: tuple[int, ...]
    view: Callable[[np.ndarray], np.ndarray] = lambda tensor: tensor


@dataclass(frozen=True)
class Family:
    """A family of published checkpoints.

    Attributes:
        model_type: as config.json says it.
        config: from the fields of config.json to ours.
        rows: the table, which may depend on options.
        ignored: regular expressions of tensors that are buffers, not weights.
    """

    model_type: str
    config: Callable[[Mapping[str, Any]], DecoderConfig]
    rows: Callable[[DecoderConfig], list[Row]]
    ignored: tuple[str, ...] = field(default=())


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
    if problems:
        raise ConfigError("config.json: " + "; ".join(problems))
    return {name: hf.get(name, default) for name, default in modelled.items()}


def choose(name: str, value: str, known: Mapping[str, Any]) -> Any:
    """`known[value]`, or an error that names the config.json field and its choices."""
    if value not in known:
        raise ConfigError(f"config.json: {name}={value!r} is not modelled; modelled: {', '.join(known)}")
    return known[value]


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
