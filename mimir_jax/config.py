"""What a run is told: frozen dataclasses with a native JSON form."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

_STRICT = ConfigDict(extra="forbid")


class ConfigError(ValueError):
    """A configuration that cannot be run; the message names the field and says what to do."""


@dataclass(frozen=True)
class DataConfig:
    """Labelled documents: `members` and `nonmembers`, or `documents` with a label column."""

    __pydantic_config__ = _STRICT

    members: str | None = None
    """.jsonl[.gz], .csv or .parquet file, folder of .txt files, or demo/members."""
    nonmembers: str | None = None
    """As members, or demo/nonmembers or demo/shifted; both default to the embedded example."""
    documents: str | None = None
    """One source of members and non-members together, told apart by label_field."""
    text_field: str = "text"
    """Field that holds the text."""
    label_field: str = "label"
    """Field of `documents`: 1, true or member, and 0, false or nonmember."""
    max_documents: int | None = None
    """At most so many members and so many non-members: the first ones; none is all."""


@dataclass(frozen=True)
class MeshConfig:
    """Devices: data x model must be the number of devices."""

    __pydantic_config__ = _STRICT

    data: int = -1
    """Ways to split the batch; -1 is all devices that `model` leaves."""
    model: int = 1
    """Ways to split the weights and the vocabulary."""


@dataclass(frozen=True)
class MetricsConfig:
    """How scores are summarized."""

    __pydantic_config__ = _STRICT

    fprs: tuple[float, ...] = (0.001, 0.01, 0.05)
    """False-positive rates at which the true-positive rate is reported."""
    n_bootstrap: int = 1000
    """Resamples for the intervals."""
    confidence: float = 0.95
    """Of the intervals."""
    seed: int = 0
    """Of the resampling."""


@dataclass(frozen=True)
class RunConfig:
    """One experiment: documents, a target model, attacks."""

    __pydantic_config__ = _STRICT

    experiment: str | None = None
    """Results go to <results>/<experiment>; by default named after the model, its revision and the data."""
    model: str = "demo/epoch16"
    """Local Hugging Face folder, hub id (name or name@revision), or demo/epoch{1,2,4,8,16}, the embedded example."""
    revision: str | None = None
    """Hub branch, tag or commit of the model, such as step99000."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of weights and matrix products; norms, softmax and statistics are always float32."""
    checkpoints: tuple[str, ...] = ()
    """Further checkpoints of the model's shape and tokenizer, attacked with it in one vmapped pass."""
    references: tuple[str, ...] = ()
    """Reference models, for `ref` and its like; each may have its own tokenizer."""
    data: DataConfig = field(default_factory=DataConfig)
    attacks: tuple[str, ...] | None = None
    """Names, with parameters where not the defaults (min_k@k=0.1,window=3); by default all that need one plain pass,
    and ref where there are references."""
    token_counts: str | None = None
    """.npy of token counts [vocab], for max_norm_weighted."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    batch_tokens: int = 2048
    """Token positions a device computes at a time."""
    results: str = "results"
    """Folder of all experiments' results."""


def to_json(config: RunConfig) -> str:
    """The JSON form, which `from_json` reads back.

    Raises:
        ConfigError: a path that is not Unicode.
    """
    try:
        return TypeAdapter(RunConfig).dump_json(config, indent=2).decode()
    except PydanticSerializationError as error:
        raise ConfigError(f"a path or name cannot be written as UTF-8: {error}") from error


def from_json(path: str | Path) -> RunConfig:
    """Read a RunConfig; fields that are left out keep their defaults.

    Raises:
        ConfigError: no such file, not JSON, unknown fields or values of the wrong type; all are named.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    try:
        return TypeAdapter(RunConfig).validate_json(text, strict=True)
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors(include_url=False)
        ]
        raise ConfigError(f"{path}: " + "; ".join(problems)) from error
