"""A loaded model: decoder, tokenizer, mesh and where they came from."""

import hashlib
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mimir_jax.config import ConfigError
from mimir_jax.data.embedded import demo_path
from mimir_jax.models.checkpoint import CheckpointError, load_decoder, read_config, weight_files
from mimir_jax.models.decoder import Decoder
from mimir_jax.parallel.mesh import make_mesh, sharding_of
from mimir_jax.scoring.tokens import load_tokenizer

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "merges.txt")

# What a hub download needs: configuration, tokenizer, safetensors.
HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt"]


@dataclass(frozen=True)
class Source:
    """Where a checkpoint lies and exactly what it is.

    Attributes:
        folder: its files.
        name: what results call it.
        revision: the hub's resolved commit; None for a local folder.
        files: sha256 by name, of config.json, the weights and the tokenizer.
    """

    folder: Path
    name: str
    revision: str | None
    files: dict[str, str]

    @property
    def checkpoint(self) -> str:
        """One hash of all files."""
        joined = "".join(f"{name}:{digest}\n" for name, digest in sorted(self.files.items()))
        return hashlib.sha256(joined.encode()).hexdigest()


@dataclass(frozen=True)
class Model:
    """What `score` needs.

    Attributes:
        decoder: the network, on its devices.
        tokenizer: a Hugging Face tokenizer.
        mesh: the devices.
        sources: where it came from; one for each checkpoint of stacked models.
        dtype: of weights and products, "float32" or "bfloat16".
    """

    decoder: Decoder
    tokenizer: Any
    mesh: Mesh
    sources: tuple[Source, ...]
    dtype: str

    @property
    def stacked(self) -> bool:
        """Whether parameters have a leading model axis (see `stack_models`)."""
        return self.decoder.embedding.ndim == 3


def load_model(
    path_or_id: str | Path,
    revision: str | None = None,
    mesh: Mesh | None = None,
    dtype: str | None = None,
    name: str | None = None,
) -> Model:
    """Load a checkpoint onto a mesh.

    Args:
        path_or_id: local Hugging Face folder, hub id (name or name@revision), or `demo/epoch{1,2,4,8,16}`.
        revision: branch, tag or commit on the hub.
        mesh: from `make_mesh`; all devices on `data` by default.
        dtype: "float32" (default) or "bfloat16", of weights and products; everything else is float32.
        name: what results call it; by default the last part of the path, with the revision.

    Raises:
        CheckpointError: files that are missing, damaged or do not fit the config; all are named.
        ConfigError: a model family, config field or dtype that is not modelled.
        TokenizerError: no tokenizer beside the weights.
    """
    source = find_source(str(path_or_id), revision, name)
    return load_source(source, make_mesh() if mesh is None else mesh, dtype or "float32")


def load_source(
    source: Source,
    mesh: Mesh,
    dtype: str,
    on_start: Callable[[int], None] = lambda total: None,
    on_bytes: Callable[[int], None] = lambda done: None,
) -> Model:
    """Load what `find_source` found; see `load_model` and `load_decoder`."""
    if dtype not in DTYPES:
        raise ConfigError(f"dtype {dtype!r} is not supported; supported: {', '.join(DTYPES)}")
    tokenizer = load_tokenizer(source.folder)
    decoder = load_decoder(source.folder, sharding_of(mesh), DTYPES[dtype], on_start, on_bytes)
    return Model(decoder, tokenizer, mesh, (source,), dtype)


def find_source(path_or_id: str, revision: str | None = None, name: str | None = None) -> Source:
    """Find a checkpoint's files (on the hub they are downloaded) and hash them; see `load_model`."""
    if revision is None and "@" in path_or_id and not Path(path_or_id).exists():
        path_or_id, _, revision = path_or_id.rpartition("@")
    label = name or path_or_id.rstrip("/").split("/")[-1] + (f"@{revision}" if revision else "")
    if path_or_id.startswith("demo/"):
        folder, commit = demo_path(path_or_id.removeprefix("demo/")), None
    elif Path(path_or_id).is_dir():
        folder, commit = Path(path_or_id), None
    elif re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path_or_id):
        folder = _download(path_or_id, revision)
        commit = folder.name
    else:
        raise CheckpointError(f"{path_or_id}: no such folder, and no hub id (owner/name)")
    if commit is None and revision is not None:
        raise CheckpointError(f"{path_or_id}: a local folder has no revision {revision!r}; name the folder of that one")
    read_config(folder)  # an unsupported model is refused before gigabytes of it are hashed
    tokenizer = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    files = [folder / "config.json", *weight_files(folder), *tokenizer]
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(_sha256, files))
    return Source(folder, label, commit, {path.name: digest for path, digest in zip(files, digests)})


def _download(repository: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    at = f"{repository}" + (f" at revision {revision}" if revision else "")
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=HUB_FILES))
    except GatedRepoError as error:
        raise CheckpointError(
            f"{at}: access is gated; request it on the hub and log in with `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{at}: the hub has no such revision") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(f"{at}: neither a local folder nor a repository on the hub") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{at}: no such local folder, not in the local cache, and the hub cannot be reached ({error}). "
            "Download it where there is a network (`hf download`) and give the folder, or run with a network"
        ) from error


def _sha256(path: Path) -> str:
    # The hub's cache names large files by their sha256.
    blob = path.resolve().name
    if path.is_symlink() and re.fullmatch(r"[0-9a-f]{64}", blob):
        return blob
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stack_models(models: list[Model]) -> Model:
    """Several checkpoints of one shape and tokenizer as one model whose parameters have a leading model axis.

    Raises:
        ConfigError: shapes, dtypes or vocabularies differ.
    """
    first = models[0]
    for other in models[1:]:
        same = (
            other.decoder.config == first.decoder.config
            and other.dtype == first.dtype
            and other.tokenizer.get_vocab() == first.tokenizer.get_vocab()
        )
        if not same:
            names = f"{first.sources[0].name} and {other.sources[0].name}"
            raise ConfigError(f"{names} differ in shape, dtype or vocabulary; run them one by one")
    decoder = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(model.decoder for model in models))
    sources = tuple(source for model in models for source in model.sources)
    return Model(decoder, first.tokenizer, first.mesh, sources, first.dtype)
