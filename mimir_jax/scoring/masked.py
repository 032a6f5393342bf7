"""A loaded masked model: encoder, tokenizer, mesh and where it came from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jax.sharding import Mesh

from mimir_jax.config import ConfigError
from mimir_jax.models.checkpoint import load_encoder, read_mask_config
from mimir_jax.models.encoder import Encoder
from mimir_jax.parallel.mesh import sharding_of
from mimir_jax.scoring.model import DTYPES, Source, find_source
from mimir_jax.scoring.tokens import TokenizerError, load_tokenizer


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


def find_mask_model(path_or_id: str) -> Source:
    """Find the files of a masked model as `find_source` does, and hash them."""
    return find_source(path_or_id, read=read_mask_config)


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
    tokenizer = load_tokenizer(source.tokenizer_folder)
    _, config = read_mask_config(source.folder)
    if len(tokenizer) > config.vocab:
        raise TokenizerError(
            f"{source.folder}: its tokenizer has {len(tokenizer)} ids and the model {config.vocab} embeddings; "
            "the tokenizer belongs to another model"
        )
    encoder = load_encoder(source.folder, sharding_of(mesh), DTYPES[dtype], on_start, on_bytes)
    return MaskModel(encoder, tokenizer, mesh, source, dtype)
