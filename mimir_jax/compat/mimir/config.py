"""MIMIR's configuration: its keys and defaults, read from its files and overridden as on its command line.

`translation.translate` makes a RunConfig of it.
"""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from mimir_jax.config import ConfigError


@dataclass(frozen=True)
class NeighborSettings:
    """Which of MIMIR's neighbor files are read (or written).

    Attributes:
        counts: neighbors a document, one file a number (n_perturbation_list).
        model: mask-filling model in the file's name, such as bert.
        in_place_swap: the file's name says so (original_tokenization_swap).
        load_from_cache: read them; otherwise they are generated.
        dump_cache: write generated ones and stop.
    """

    counts: tuple[int, ...] = (1, 10)
    model: str = "bert"
    in_place_swap: bool = True
    load_from_cache: bool = False
    dump_cache: bool = False


@dataclass(frozen=True)
class DataSettings:
    """MIMIR's documents: its data keys, with its names, defaults and meaning.

    Attributes:
        dataset_member: the_pile, another of MIMIR's names, or a data set of the hub.
        dataset_nonmember: as dataset_member.
        dataset_key: field of the text.
        specific_source: one source of the Pile.
        presampled_dataset_member: JSONL that replaces the data set.
        presampled_dataset_nonmember: as presampled_dataset_member.
        pretokenized: documents are rows of token ids (.npy).
        full_doc: a document is a list of sub-texts.
        max_substrs: of which so many are scored.
        tok_by_tok: every prefix of a document is a document.
        load_from_hf: MIMIR's published files.
        load_from_cache: MIMIR's local files, under cache_path.
        dump_cache: write those and stop.
        n_samples: members, and non-members.
        max_tokens: longer documents are left out.
        max_data: documents looked at.
        min_words: shorter documents are left out.
        max_words: longer documents are cut, or left out.
        max_words_cutoff: cut (True) or left out (False).
        other_nonmember_sources: sources of further non-members.
        cache_path: MIMIR_CACHE_PATH or env_config.cache_dir; None where neither is given.
        data_source: MIMIR_DATA_SOURCE or env_config.data_source; None where neither is given.
        neighbors: None where no neighbors are wanted.
        seed: random_seed.
    """

    dataset_member: str = "the_pile"
    dataset_nonmember: str = "the_pile"
    dataset_key: str | None = None
    specific_source: str | None = None
    presampled_dataset_member: str | None = None
    presampled_dataset_nonmember: str | None = None
    pretokenized: bool = False
    full_doc: bool = False
    max_substrs: int = 20
    tok_by_tok: bool = False
    load_from_hf: bool = True
    load_from_cache: bool = False
    dump_cache: bool = False
    n_samples: int = 200
    max_tokens: int = 512
    max_data: int = 5000
    min_words: int = 100
    max_words: int = 200
    max_words_cutoff: bool = True
    other_nonmember_sources: tuple[str, ...] = ()
    cache_path: str | None = None
    data_source: str | None = None
    neighbors: NeighborSettings | None = None
    seed: int = 0


HIDDEN = "<hidden>"
"""What stands in written files where a key was given."""

# MIMIR's switches are three-valued, and it takes null as off.
Switch = Annotated[bool, BeforeValidator(lambda value: False if value is None else value)]
Whole = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Strings = tuple[str, ...]


class _Section(BaseModel):
    """Keys of one object of the file. Values are converted as MIMIR does ("200" is 200) where nothing is lost."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


class ReferenceConfig(_Section):
    """Of ref."""

    models: Strings
    """Names or paths of references; name:revision is a revision."""


class NeighborhoodConfig(_Section):
    """Of ne. MIMIR generates neighbors with a mask-filling model, or reads those that it generated before."""

    model: str
    n_perturbation_list: tuple[Count, ...] = (1, 10)
    dump_cache: Switch = False
    load_from_cache: Switch = False
    original_tokenization_swap: Switch = True
    pct_swap_bert: float = 0.05
    neighbor_strategy: str = "deterministic"
    span_length: int = 2
    random_fills_tokens: Switch = False
    random_fills: Switch = False
    pct_words_masked: float = 0.3
    buffer_size: int = 1
    top_p: float = 1.0
    max_tries: int = 100
    ceil_pct: Switch = False


class ReCaLLConfig(_Section):
    """Of recall."""

    num_shots: Count = 1


class EnvironmentConfig(_Section):
    """Where files lie; which devices and precision torch uses."""

    cache_dir: str | None = None
    data_source: str | None = None
    device: str | None = "cuda:0"
    device_map: str | None = None
    device_aux: str | None = "cuda:1"
    compile: Switch = True
    int8: Switch = False
    half: Switch = False
    results: str = "results"
    tmp_results: str = "tmp_results"


class OpenAIConfig(_Section):
    """A target behind an OpenAI-compatible completions endpoint."""

    key: str | None = Field(default=None, repr=False)
    model: str
    base_url: str | None = None
    """Not a key of MIMIR's, which knows one endpoint."""

    @property
    def secret(self) -> str | None:
        """The key, if one was given and not left out of a file that we wrote."""
        return self.key if self.key != HIDDEN else None


class MimirConfig(_Section):
    """MIMIR's ExperimentConfig: its keys, in its order, with its defaults.

    `model_fields_set` tells which of them were given.
    """

    experiment_name: str | None = None
    """MIMIR requires it; some of its own files have only output_name, from before it was a key."""
    base_model: str
    dataset_member: str
    dataset_nonmember: str
    output_name: str | None = None
    dataset_nonmember_other_sources: Strings | None = None
    pretokenized: Switch = False
    revision: str | None = None
    presampled_dataset_member: str | None = None
    presampled_dataset_nonmember: str | None = None
    token_frequency_map: str | None = None
    dataset_key: str | None = None
    specific_source: str | None = None
    full_doc: Switch = False
    max_substrs: Count = 20
    dump_cache: Switch = False
    load_from_cache: Switch = False
    load_from_hf: Switch = True
    blackbox_attacks: Strings | None = None
    tokenization_attack: Switch = False
    quantile_attack: Switch = False
    n_samples: Count = 200
    max_tokens: Count = 512
    max_data: Count = 5_000
    min_words: Whole = 100
    max_words: Count = 200
    max_words_cutoff: Switch = True
    batch_size: Count = 50
    chunk_size: Count = 20
    scoring_model_name: str | None = None
    top_k: int = 40
    do_top_k: Switch = False
    top_p: float = 0.96
    do_top_p: Switch = False
    pre_perturb_pct: Annotated[float, Field(ge=0, le=1)] = 0.0
    pre_perturb_span_length: Whole = 5
    tok_by_tok: Switch = False
    fpr_list: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (0.001, 0.01)
    random_seed: Whole = 0
    ref_config: ReferenceConfig | None = None
    recall_config: ReCaLLConfig | None = None
    neighborhood_config: NeighborhoodConfig | None = None
    env_config: EnvironmentConfig | None = None
    openai_config: OpenAIConfig | None = None
    # Flags that scripts in MIMIR's repository still pass, and its ExperimentConfig no longer has.
    baselines_only: Switch = False
    skip_baselines: Switch = False
    special_mia: Switch = False


RETIRED = ("baselines_only", "skip_baselines", "special_mia")
"""Keys of MimirConfig that MIMIR's ExperimentConfig no longer has."""

REQUIRED = ("experiment_name", "base_model", "dataset_member", "dataset_nonmember")
"""Keys that MIMIR's ExperimentConfig requires; no RunConfig has any of them."""


def is_mimir(json_object: object) -> bool:
    """Whether a parsed JSON file is meant for MIMIR: it has a key that MIMIR requires and RunConfig lacks."""
    return isinstance(json_object, dict) and any(key in json_object for key in REQUIRED)


def read(path: str | Path) -> MimirConfig:
    """Read one of MIMIR's configuration files. What keys contradict each other is told by `translate`, so that a
    command line may still change them.

    Raises:
        ConfigError: no such file, no JSON object, unknown keys, values of the wrong type; all are named.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: a configuration of MIMIR is a JSON object, not {type(found).__name__}")
    return _validate(found, str(path))


def override(config: MimirConfig, arguments: Sequence[str]) -> tuple[MimirConfig, list[str]]:
    """Apply MIMIR's command-line overrides, and return the arguments that are not MIMIR's.

    A key of any section is a flag by its bare name (`--n_samples 200`, `--models gpt2 distilgpt2`, `--half true`),
    as long as no other section has it: then the bare name is the experiment's (`--top_p`), or nobody's (`--model`),
    and a section's is `--neighborhood_config.top_p`. The dotted name is always good. Switches take true or false.

    Args:
        config: what the flags change.
        arguments: of the command line; `--flag value` and `--flag=value`, lists as `--flag a b`.

    Returns:
        The configuration with the flags, and the other arguments in their order.

    Raises:
        ConfigError: a flag without its value, or a value of the wrong type.
    """
    changed = config.model_dump(exclude_unset=True)
    flags = _flags()
    rest: list[str] = []
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        flag, equals, value = argument.partition("=")
        path = flags.get(flag[2:].replace("-", "_")) if flag.startswith("--") else None
        if path is None:
            rest.append(argument)
            continue
        section, key = path
        is_list, is_switch = _kind(_section(section), key)
        values = [value] if equals else []
        while not equals and waiting and not waiting[0].startswith("--") and (is_list or not values):
            values.append(waiting.pop(0))
        if not values and not is_list:
            # MIMIR takes a bare switch for null, and so for off.
            raise ConfigError(f"{flag} needs {'true or false' if is_switch else 'a value'}")
        if section:
            changed[section] = dict(changed.get(section) or {})
        (changed[section] if section else changed)[key] = values if is_list else values[0]
    return _validate(changed, "the command line"), rest


def _section(name: str) -> type[_Section]:
    """The class of a section by its key in MimirConfig; "" is MimirConfig."""
    if not name:
        return MimirConfig
    return next(part for part in get_args(MimirConfig.model_fields[name].annotation) if part is not type(None))


_SECTIONS = tuple(name for name in MimirConfig.model_fields if name.endswith("_config"))


def _flags() -> dict[str, tuple[str, str]]:
    """Section ("" is the experiment) and key of every flag."""
    keys = [(section, key) for section in _SECTIONS for key in _section(section).model_fields]
    names = [key for _, key in keys]
    flags = {key: (section, key) for section, key in keys if names.count(key) == 1}
    flags |= {f"{section}.{key}": (section, key) for section, key in keys}
    return flags | {key: ("", key) for key in MimirConfig.model_fields if key not in _SECTIONS}


def _kind(section: type[_Section], key: str) -> tuple[bool, bool]:
    """Whether a key holds a list, and whether it is a switch."""
    field = section.model_fields[key]
    kinds = [field.annotation, *get_args(field.annotation)]
    return any(get_origin(kind) is tuple for kind in kinds), field.annotation is bool


def _validate(values: Mapping[str, Any], where: str) -> MimirConfig:
    try:
        return MimirConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{where}: " + "; ".join(_problems(error))) from None  # its message would show a key


def _problems(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False):
        path = [str(part) for part in problem["loc"]]
        where, message = ".".join(path), problem["msg"].replace("a valid tuple", "a list")
        if problem["type"] == "extra_forbidden":
            yield _unknown(path)
        elif problem["type"] == "missing":
            yield f"{where}: is missing"
        elif path[0] == "openai_config":  # whose values are secret
            yield f"{where}: {message}"
        else:
            yield f"{where}: {message}, not {problem['input']!r}"


def _unknown(path: Sequence[str]) -> str:
    """That a key is unknown, and which one was meant: of the same section, or the same name in another one."""
    section, key = (path[0], path[-1]) if len(path) > 1 else ("", path[-1])
    nearest = difflib.get_close_matches(key, _section(section).model_fields, n=1, cutoff=0.75)
    elsewhere = [f"{other}.{key}".strip(".") for other in ("", *_SECTIONS) if key in _section(other).model_fields]
    meant = nearest or elsewhere[:1]
    return f"{'.'.join(path)}: unknown key" + (f" (did you mean {meant[0]}?)" if meant else "")
