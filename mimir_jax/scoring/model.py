"""A loaded model: decoder, tokenizer, mesh and where they came from."""

import glob
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mimir_jax.config import ConfigError
from mimir_jax.data.embedded import demo_path
from mimir_jax.models.abstract import abstract_decoder
from mimir_jax.models.checkpoint import LAYOUTS, CheckpointError, load_decoder, map_tensors, read_config, weight_files
from mimir_jax.models.decoder import Decoder
from mimir_jax.models.decoder_config import DecoderConfig
from mimir_jax.models.family import Family
from mimir_jax.parallel.mesh import make_mesh, sharding_of
from mimir_jax.scoring.tokens import load_tokenizer, substitute

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "spiece.model",
    "vocab.txt",
)

WEIGHTS = (".safetensors", ".bin")
SMALL = (".json", ".model", ".txt")
"""Of a hub repository, beside its weights, the files with these endings: configuration and tokenizer."""


@dataclass(frozen=True)
class Source:
    """Where a checkpoint lies and exactly what it is.

    Attributes:
        folder: its files.
        name: what results call it.
        revision: the hub's resolved commit; None for a local folder.
        files: sha256 by name, of config.json, the weights and the tokenizer.
        tokenizer: folder of a tokenizer that is not its own.
        stored: dtypes of its weights in the files.
        origin: what a store has kept of it, where `folder` holds but its config and tokenizer.
    """

    folder: Path
    name: str
    revision: str | None
    files: dict[str, str]
    tokenizer: str | None = None
    stored: tuple[str, ...] = ()
    origin: "Source | None" = None

    @property
    def checkpoint(self) -> str:
        """One hash of all files."""
        joined = "".join(f"{name}:{digest}\n" for name, digest in sorted(self.files.items()))
        return hashlib.sha256(joined.encode()).hexdigest()

    @property
    def tokenizer_folder(self) -> Path:
        """Where its tokenizer is read from."""
        return self.folder if self.tokenizer is None else Path(self.tokenizer)


@dataclass(frozen=True)
class Model:
    """What `score` needs.

    Attributes:
        decoder: the network, on its devices.
        tokenizer: a Hugging Face tokenizer.
        mesh: the devices.
        sources: where it came from; one for each checkpoint of stacked models.
        dtype: of weights and products, "float32" or "bfloat16".
        add_bos: whether a BOS stands before each text; None is as the tokenizer does.
    """

    decoder: Decoder
    tokenizer: Any
    mesh: Mesh
    sources: tuple[Source, ...]
    dtype: str
    add_bos: bool | None = None

    @property
    def stacked(self) -> bool:
        """Whether parameters have a leading model axis (see `stack_models`)."""
        return self.decoder.embedding.ndim == 3

    @property
    def weightless(self) -> bool:
        """Whether it is but a shape (see `without_weights`), whose statistics must be in a store."""
        return isinstance(jax.tree.leaves(self.decoder)[0], jax.ShapeDtypeStruct)


def load_model(
    path_or_id: str | Path,
    revision: str | None = None,
    mesh: Mesh | None = None,
    dtype: str | None = None,
    name: str | None = None,
    tokenizer: str | Path | None = None,
    add_bos: bool | None = None,
) -> Model:
    """Load a checkpoint onto a mesh.

    Args:
        path_or_id: local Hugging Face folder, hub id (name, name@revision or name:revision), or
            `demo/epoch{1,2,4,8,16}`.
        revision: branch, tag or commit on the hub.
        mesh: from `make_mesh`; all devices on `data` by default.
        dtype: "float32" (default) or "bfloat16", of weights and products; everything else is float32.
        name: what results call it; by default the last part of the path, with the revision.
        tokenizer: folder or hub id of the tokenizer; by default the model's own (see `find_source`).
        add_bos: put a BOS before each text, or none; by default as the tokenizer does.

    Raises:
        CheckpointError: files that are missing, damaged or do not fit the config; all are named.
        ConfigError: a model family, config field or dtype that is not modelled.
        TokenizerError: no tokenizer beside the weights.
    """
    source = find_source(str(path_or_id), revision, name, None if tokenizer is None else str(tokenizer))
    return load_source(source, make_mesh() if mesh is None else mesh, dtype or "float32", add_bos=add_bos)


def load_source(
    source: Source,
    mesh: Mesh,
    dtype: str,
    on_start: Callable[[int], None] = lambda total: None,
    on_bytes: Callable[[int], None] = lambda done: None,
    add_bos: bool | None = None,
    sharded: bool = False,
) -> Model:
    """Load what `find_source` found; see `load_model`, `load_decoder` and, for `sharded`, `sharding_of`."""
    if dtype not in DTYPES:
        raise ConfigError(f"dtype {dtype!r} is not supported; supported: {', '.join(DTYPES)}")
    tokenizer = load_tokenizer(source.tokenizer_folder)
    decoder = load_decoder(source.folder, sharding_of(mesh, sharded), DTYPES[dtype], on_start, on_bytes)
    return Model(decoder, tokenizer, mesh, (source,), dtype, add_bos)


def without_weights(sources: Sequence[Source], mesh: Mesh, dtype: str, add_bos: bool | None = None) -> Model:
    """The model, or several as one, without its weights: for what is known of it already."""
    _, config = read_config(sources[0].folder)
    models = len(sources) if len(sources) > 1 else None
    decoder = abstract_decoder(config, sharding_of(mesh), DTYPES[dtype], models)
    return Model(decoder, load_tokenizer(sources[0].tokenizer_folder), mesh, tuple(sources), dtype, add_bos)


def find_source(
    path_or_id: str,
    revision: str | None = None,
    name: str | None = None,
    tokenizer: str | None = None,
    read: Callable[[Path], tuple[Family, Any]] = read_config,
    hashes: bool = True,
) -> Source:
    """Find a checkpoint's files (on the hub they are downloaded) and hash them; see `load_model`.

    Args:
        path_or_id, revision, name: as for `load_model`.
        tokenizer: folder or hub id; by default what lies beside the weights and, where nothing does, the one that
            MIMIR takes for models of that name (`SUBSTITUTES`).
        read: what reads config.json, or raises what is wrong with it.
        hashes: without them weights are neither read nor downloaded, and `files` is empty.
    """
    path_or_id, revision = split_revision(path_or_id, revision)
    label = name or path_or_id.rstrip("/").split("/")[-1] + (f"@{revision}" if revision else "")
    folder, commit = _folder(path_or_id, revision, weights=hashes)
    family, _ = read(folder)  # an unsupported model is refused before gigabytes of it are hashed
    weights = weight_files(folder) if hashes else []
    stored = {tensor.dtype.name for tensor in map_tensors(weights, family.ignored)[0].values()}
    if tokenizer is None and not _tokenizer_files(folder):
        tokenizer = substitute(path_or_id)
    place = folder if tokenizer is None else _folder(*split_revision(tokenizer), weights=False)[0]
    files = [folder / "config.json", *weights, *_tokenizer_files(place)]
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(_sha256, files if hashes else []))
    hashed = {path.name: digest for path, digest in zip(files, digests)}
    return Source(folder, label, commit, hashed, None if place == folder else str(place), tuple(sorted(stored)))


def find_shape(path_or_id: str, revision: str | None = None) -> DecoderConfig:
    """The shape of a model, of whose files only config.json is looked at.

    Args:
        path_or_id: as for `load_model`, or a config.json.
        revision: as for `load_model`.
    """
    path = Path(path_or_id)
    if path.is_file():
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(path, Path(folder) / "config.json")
            return read_config(Path(folder))[1]
    return read_config(_folder(*split_revision(path_or_id, revision), weights=False)[0])[1]


def split_revision(name: str, revision: str | None = None) -> tuple[str, str | None]:
    """The model and the revision of `name@revision` or MIMIR's `name:revision`; a path that exists is one whole."""
    parted = re.fullmatch(r"(.+)[@:]([^@:]+)", name)
    if revision is None and parted and not os.path.exists(name):
        return parted[1], parted[2]
    return name, revision


def remarks(sources: Sequence[Source], dtype: str) -> list[str]:
    """What whoever reads results of these checkpoints, computed in `dtype`, must know of them."""
    found = [
        f"{', '.join(names)}: equal weights: if these are revisions, one may be published wrongly"
        for names in equal_weights(sources)
    ]
    for source in sources:
        note = read_config(source.folder)[0].note
        found += [f"{source.name}: {note}"] if note else []
        if dtype == "bfloat16" and "float16" in source.stored:
            found.append(
                f"{source.name}: float16 weights, computed in bfloat16, which keeps 8 of their 11 significant bits; "
                "--dtype float32 keeps all"
            )
    return found


def equal_weights(sources: Sequence[Source]) -> list[tuple[str, ...]]:
    """Names of sources whose weight files have the same hashes: of each such group, in order.

    Several revisions of published models are known to hold the weights of others.
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    for source in sources:
        digests = sorted(digest for name, digest in source.files.items() if name.endswith(WEIGHTS))
        groups.setdefault(tuple(digests), []).append(source.name)
    return [tuple(names) for names in groups.values() if len(names) > 1]


def _tokenizer_files(folder: Path) -> list[Path]:
    return [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]


def _folder(path_or_id: str, revision: str | None, weights: bool = True) -> tuple[Path, str | None]:
    """Where a model, or only its tokenizer, lies on this machine, and the hub's commit."""
    if path_or_id.startswith("demo/"):
        folder, commit = demo_path(path_or_id.removeprefix("demo/")), None
    elif os.path.isdir(path_or_id):
        folder, commit = Path(path_or_id), None
    elif re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path_or_id):
        folder = _download(path_or_id, revision, weights)
        commit = folder.name
    else:
        raise CheckpointError(f"{path_or_id}: no such folder, and no hub id (owner/name)")
    if commit is None and revision is not None:
        raise CheckpointError(f"{path_or_id}: a local folder has no revision {revision!r}; name the folder of that one")
    return folder, commit


def hub_files(names: Sequence[str], weights: bool = True) -> list[str]:
    """Of a repository's files those that a run needs: torch's weights only where there are no safetensors."""
    here = [name for name in names if "/" not in name]
    wanted = [name for name in here if name.endswith(SMALL) and not name.endswith(".index.json")]
    layout = next((name for name in LAYOUTS if name in here), None)
    if weights and layout is not None:
        wanted.append(layout)
        start, ending = layout.partition(".")[0] + "-", "." + layout.split(".")[1]
        wanted += [name for name in here if LAYOUTS[layout] and name.startswith(start) and name.endswith(ending)]
    return wanted


def _download(repository: str, revision: str | None, weights: bool) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    at = f"{repository}" + (f" at revision {revision}" if revision else "")
    try:
        names = hub_files(HfApi().list_repo_files(repository, revision=revision), weights)
    except Exception as error:  # its network library's own, too
        refused = error
    else:
        try:
            patterns = [glob.escape(name) for name in names]
            return Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
        except Exception as error:
            raise CheckpointError(f"{at}: the download failed: {error}") from error
    try:  # What the cache has will do; what it lacks shows when it is read.
        one = "config.json" if weights else "tokenizer_config.json"
        return Path(snapshot_download(repository, revision=revision, allow_patterns=[one], local_files_only=True))
    except (OSError, ValueError):
        if isinstance(refused, GatedRepoError):
            reason = "access is gated; request it on the hub and log in with `hf auth login`"
        elif isinstance(refused, RevisionNotFoundError):
            reason = "the hub has no such revision"
        elif isinstance(refused, RepositoryNotFoundError):
            reason = "neither a local folder nor a repository on the hub"
        else:
            reason = (
                f"no such local folder, not in the local cache, and the hub cannot be reached ({refused}). "
                "Download it where there is a network (`hf download`) and give the folder, or run with a network"
            )
        raise CheckpointError(f"{at}: {reason}") from refused


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
    return Model(decoder, first.tokenizer, first.mesh, sources, first.dtype, first.add_bos)
