"""What a store keeps of a model beside statistics: hashes, config.json and tokenizer, so that attacks need no more."""

import dataclasses
import hashlib
import io
import json
import zipfile
from pathlib import Path

from mimir_jax.scoring.model import TOKENIZER_FILES, Source
from mimir_jax.scoring.store import Store, StoreError

Named = tuple[str, str | None, str | None]
"""Model, revision and tokenizer as a configuration names them."""

SOURCE = "source.json"
FOLDER = "models"


def keep_model(store: Store, given: Named, source: Source) -> None:
    """Keep a model under the name that it was given by; once.

    Args:
        store: where.
        given: its names.
        source: what was found.

    Raises:
        StoreError: it cannot be written.
    """
    mark = source.checkpoint[:16]
    if store.files(f"{FOLDER}/{_mark(given)}-{mark}-*.zip"):
        return
    fields = dataclasses.asdict(source) | {"folder": str(source.folder)}
    files = {SOURCE: json.dumps(fields).encode(), "config.json": (source.folder / "config.json").read_bytes()}
    for name in TOKENIZER_FILES:
        if (path := source.tokenizer_folder / name).is_file():
            files[name] = path.read_bytes()
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    store.write_file(f"{FOLDER}/{_mark(given)}-{mark}-", "zip", whole.getvalue())


def kept_model(store: Store, given: Named, into: Path) -> Source:
    """A model that `keep_model` kept: the last one that was given by these names.

    Args:
        store: where.
        given: as for `keep_model`.
        into: folder that config.json and tokenizer are unpacked to.

    Returns:
        The source; its folder has no weights, and its `origin` is what was kept.

    Raises:
        StoreError: there is none.
    """
    by_time = sorted(store.files(f"{FOLDER}/{_mark(given)}-*.zip"), key=lambda path: path.rsplit("-", 2)[1])
    for path in reversed(by_time):
        data = store.read_file(path)
        if data is None:
            continue
        folder = into / hashlib.blake2b(data, digest_size=8).hexdigest()
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            archive.extractall(folder)
        fields = json.loads((folder / SOURCE).read_text(encoding="utf-8"))
        origin = Source(**fields | {"folder": Path(fields["folder"]), "stored": tuple(fields["stored"])})
        return dataclasses.replace(origin, folder=folder, tokenizer=None, origin=origin)
    name = given[0] + (f" at revision {given[1]}" if given[1] else "")
    raise StoreError(f"{store.folder}: holds nothing of {name}; `mimir-jax score` with these options fills it")


def _mark(given: Named) -> str:
    return hashlib.blake2b(json.dumps(given).encode(), digest_size=8).hexdigest()
