"""Data sets of the Hugging Face hub: their rows by the datasets library, their raw files, and what goes wrong there."""

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from mimir_jax.data.readers import DataError, Row

PREFIX = "hub:"
LARGE = 1 << 30  # bytes: larger data sets are streamed rather than downloaded

# By name: the libraries change the package that they speak HTTP with, and each has exceptions of its own.
UNREACHABLE = {
    "ConnectionError", "TimeoutError", "TransportError", "ClientConnectionError", "LocalEntryNotFoundError",
}  # fmt: skip

PATIENCE = 5.0  # seconds that the hub has to answer at all

T = TypeVar("T")


class HubError(DataError):
    """Data that the hub does not give: no connection, no such data set, no permission."""


@dataclass(frozen=True)
class HubData:
    """One split of a data set.

    Attributes:
        repository: owner/name.
        config: of the data set's configurations; None is its only or default one.
        split: a split's name, or a slice of it such as train[:100].
        revision: branch, tag or commit.
    """

    repository: str
    config: str | None = None
    split: str = "train"
    revision: str | None = None


def parse(source: str) -> HubData:
    """What hub:owner/name[@revision][/config][:split] names; the split is `train` where none is given.

    Old data sets have no owner: hub:name[:split].

    Raises:
        DataError: it has another form.
    """
    found = re.fullmatch(r"hub:([^/:@]+(?:/[^/:@]+)?)(?:@([^/:]+))?(?:/([^:@]+))?(?::(.+))?", source)
    if found is None:
        raise DataError(f"{source}: expected hub:owner/name[@revision][/config][:split]")
    repository, revision, config, split = found.groups()
    return HubData(repository, config, split or "train", revision)


def hub_rows(source: str, data: HubData, wanted: Collection[str], stream: bool | None = None) -> Iterator[Row]:
    """Rows of a data set, as they arrive.

    Args:
        source: its name, for messages and ids.
        data: which it is.
        wanted: columns that are enough; others are not read.
        stream: read from the hub as far as it is iterated, rather than download and cache the whole split; None
            streams what is larger than a gigabyte or says no size.

    Raises:
        HubError: the hub does not give it.
    """
    dataset = _ask(source, data.repository, lambda: _load(data, stream))
    columns = list(dataset.column_names or ())
    if chosen := [name for name in columns if name in wanted]:
        dataset = dataset.select_columns(chosen)
    rows = iter(dataset)
    number = 0
    while (values := _ask(source, data.repository, lambda: next(rows, None))) is not None:
        number += 1
        yield Row(f"row {number}", f"{source}:{number}", values, columns or list(values))


def hub_file(source: str, repository: str, filename: str) -> Path:
    """A file of a data set's repository, downloaded or out of the cache.

    Raises:
        HubError: the hub does not give it.
    """
    from huggingface_hub import hf_hub_download

    return Path(_ask(source, repository, lambda: hf_hub_download(repository, filename, repo_type="dataset")))


@cache
def _probe() -> None:
    """Ask the hub once; where there is no way to it, have its libraries look in their caches only.

    They would try again for half a minute, and print each failure, before they do so themselves.
    """
    import datasets
    from huggingface_hub import constants, get_session

    if constants.is_offline_mode():
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=PATIENCE)
    except Exception:  # of whichever package they speak HTTP with
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True


def _load(data: HubData, stream: bool | None) -> Any:
    import datasets  # two seconds of imports

    _probe()
    if stream is None:
        stream = "[" not in data.split and _is_large(data)  # slices cannot be streamed
    return datasets.load_dataset(
        data.repository, data.config, split=data.split, revision=data.revision, streaming=stream
    )


def _is_large(data: HubData) -> bool:
    import datasets

    info = datasets.load_dataset_builder(data.repository, data.config, revision=data.revision).info
    size = info.download_size or info.dataset_size
    return not datasets.config.HF_HUB_OFFLINE and (size is None or size > LARGE)


def _ask(source: str, repository: str, call: Callable[[], T]) -> T:
    try:
        return call()
    except Exception as error:  # of the hub's libraries, their parsers and their network
        raise HubError(f"{source}: {_reason(repository, error)}") from error


def _reason(repository: str, error: Exception) -> str:
    import datasets
    from huggingface_hub import errors

    said = str(error).strip().partition("\n")[0]
    if isinstance(error, errors.GatedRepoError) or re.search(r"\bgated\b", said):
        return (
            f"the data set {repository} is gated: accept its terms on its page of the hub, then log in with "
            "`hf auth login` or set HF_TOKEN"
        )
    if isinstance(error, errors.RepositoryNotFoundError | datasets.exceptions.DatasetNotFoundError):
        return f"there is no data set {repository} on the hub, or it is private: check the name, or log in"
    if UNREACHABLE & {cls.__name__ for cls in type(error).__mro__}:
        return f"the hub cannot be reached, and {repository} is not in the local cache ({said})"
    return f"{repository} cannot be read from the hub: {type(error).__name__}: {said}"
