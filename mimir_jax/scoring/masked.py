"""Loaded mask-filling models: network, tokenizer, mesh and where they came from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jax.sharding import Mesh

from mimir_jax.config import ConfigError
from mimir_jax.models.checkpoint import (
    load_encoder,
    load_seq2seq,
    read_filling_config,
    read_mask_config,
    read_seq2seq_config,
)
from mimir_jax.models.encoder import Encoder
from mimir_jax.models.seq2seq import Seq2Seq
from mimir_jax.parallel.mesh import sharding_of
from mimir_jax.scoring.model import DTYPES, Source, find_source
from mimir_jax.scoring.tokens import TokenizerError, load_tokenizer

MOST = 99  # masks of a text: T5 has a hundred, of which one ends the last fill


@dataclass(frozen=True)
class MaskModel:
    """What swapping tokens needs.

    Attributes:
        encoder: the network, on its devices.
        tokenizer: its Hugging Face tokenizer.
        mesh: the devices.
        source: where it came from.
        dtype: of weights and products, "float32" or "bfloat16".
    """

    encoder: Encoder
    tokenizer: Any
    mesh: Mesh
    source: Source
    dtype: str


@dataclass(frozen=True)
class SpanModel:
    """What filling spans needs; as MaskModel.

    Attributes:
        sentinels: the ids of <extra_id_0>, <extra_id_1>, ...
    """

    network: Seq2Seq
    tokenizer: Any
    mesh: Mesh
    source: Source
    dtype: str
    sentinels: tuple[int, ...]


def find_mask_model(path_or_id: str) -> Source:
    """Find the files of a mask-filling model as `find_source` does, and hash them."""
    return find_source(path_or_id, read=read_filling_config)


def load_mask_model(
    source: Source,
    mesh: Mesh,
    dtype: str = "float32",
    on_start: Callable[[int], None] = lambda total: None,
    on_bytes: Callable[[int], None] = lambda done: None,
) -> MaskModel:
    """Load what `find_mask_model` found.

    Raises:
        CheckpointError: files that are damaged, do not fit the config or have no masked-model head.
        ConfigError: a dtype that is not modelled.
        TokenizerError: a tokenizer that cannot be read, or of another model.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype {dtype!r} is not supported; supported: {', '.join(DTYPES)}")
    tokenizer = _tokenizer(source, read_mask_config(source.folder)[1].vocab)
    encoder = load_encoder(source.folder, sharding_of(mesh), DTYPES[dtype], on_start, on_bytes)
    return MaskModel(encoder, tokenizer, mesh, source, dtype)


def load_span_model(
    source: Source,
    mesh: Mesh,
    dtype: str = "float32",
    on_start: Callable[[int], None] = lambda total: None,
    on_bytes: Callable[[int], None] = lambda done: None,
) -> SpanModel:
    """Load what `find_mask_model` found, where it is a text-to-text model; see `load_mask_model`."""
    if dtype not in DTYPES:
        raise ConfigError(f"dtype {dtype!r} is not supported; supported: {', '.join(DTYPES)}")
    tokenizer = _tokenizer(source, read_seq2seq_config(source.folder)[1].vocab)
    sentinels = sentinels_of(tokenizer)
    network = load_seq2seq(source.folder, sharding_of(mesh), DTYPES[dtype], on_start, on_bytes)
    return SpanModel(network, tokenizer, mesh, source, dtype, sentinels)


def _tokenizer(source: Source, vocab: int) -> Any:
    tokenizer = load_tokenizer(source.tokenizer_folder)
    if len(tokenizer) > vocab:
        raise TokenizerError(
            f"{source.folder}: its tokenizer has {len(tokenizer)} ids and the model {vocab} embeddings; "
            "the tokenizer belongs to another model"
        )
    return tokenizer


def sentinels_of(tokenizer: Any) -> tuple[int, ...]:
    """The ids of <extra_id_0>, <extra_id_1>, ...

    Raises:
        TokenizerError: the tokenizer has none, or no ids of padding and of the end.
    """
    vocab = tokenizer.get_vocab()
    found = tuple(vocab[name] for i in range(MOST + 1) if (name := f"<extra_id_{i}>") in vocab)
    if len(found) <= 1 or tokenizer.pad_token_id is None or tokenizer.eos_token_id is None:
        raise TokenizerError("the tokenizer has no <extra_id_0> ... to mask with, or no ids of padding and of the end")
    return found
