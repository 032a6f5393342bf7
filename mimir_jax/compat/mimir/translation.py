"""From MIMIR's configuration to ours."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
from jaxtyping import Int

from mimir_jax.compat.mimir.config import (
    RETIRED,
    DataSettings,
    EnvironmentConfig,
    MimirConfig,
    NeighborhoodConfig,
    NeighborSettings,
)
from mimir_jax.config import (
    ConfigError,
    DataConfig,
    MetricsConfig,
    NeighborsConfig,
    RunConfig,
    ShotsConfig,
    SpansConfig,
    SwapsConfig,
    TokenCountsConfig,
)
from mimir_jax.scoring.api import DEFAULT_BASE_URL, Endpoint
from mimir_jax.scoring.tokens import substitute

ATTACKS = ("loss", "ref", "zlib", "min_k", "min_k++", "ne", "gradnorm", "recall", "dc_pdd")
"""What blackbox_attacks may name."""

API_ATTACKS = ("loss", "ref", "zlib", "min_k", "ne")
"""Those that need nothing of the target but log-probs of tokens of plain texts."""

MASK_MODELS = {"bert": "bert-base-uncased", "distilbert": "distilbert-base-uncased", "roberta": "roberta-base"}
"""MIMIR's names of mask-filling models, on the hub."""

MIMIR_SPAN = 10
"""Words of its spans, whatever span_length says."""

# In front of each text that MIMIR sends to an API, which so predicts the first token too.
API_PREFIX = "<|endoftext|>"


@dataclass(frozen=True)
class Translation:
    """One of MIMIR's experiments in our terms.

    Attributes:
        mimir: the configuration with what is taken from elsewhere filled in: experiment_name, cache_dir, data_source.
        run: ours. Of its `data` only `aggregate` is set: the documents are what `data` beside it says.
        data: the documents.
        endpoint: where the target is; None for a checkpoint.
        names: spec of each attack of `run`, or `ref-<reference>`, and what MIMIR calls its results, in MIMIR's order.
        folder: where MIMIR would write, under env_config.results.
        notes: what a reader must know of keys that mean nothing here, or something else than in MIMIR.
    """

    mimir: MimirConfig
    run: RunConfig
    data: DataSettings
    endpoint: Endpoint | None
    names: tuple[tuple[str, str], ...]
    folder: Path
    notes: tuple[str, ...]

    def columns(self, canonical: Callable[[str], str]) -> dict[str, str]:
        """`names` by column of scores.

        Args:
            canonical: from the spec of an attack to its column, such as `lambda spec: attacks.parse(spec).name`.
        """
        return {spec if spec.startswith("ref-") else canonical(spec): name for spec, name in self.names}


def translate(
    config: MimirConfig,
    environment: Mapping[str, str] = MappingProxyType({}),
    rules: Literal["paper", "mimir"] = "paper",
) -> Translation:
    """What RunConfig and the settings beside it say for one of MIMIR's configurations.

    Args:
        config: read, and overridden.
        environment: variables of the process; read are MIMIR_CACHE_PATH, MIMIR_DATA_SOURCE, OPENAI_API_KEY and
            OPENAI_BASE_URL, each where the configuration does not say it.
        rules: under which attacks are scored; `mimir` has its defects.

    Raises:
        ConfigError: keys that contradict each other, or ask for what is not possible; all are named.
    """
    if problems := list(_problems(config, environment)):
        raise ConfigError("; ".join(problems))
    attacks = _attacks(config)
    notes = tuple(_notes(config, attacks, rules))
    env = config.env_config or EnvironmentConfig()
    name = config.experiment_name or config.output_name
    env = env.model_copy(
        update={
            "cache_dir": env.cache_dir or environment.get("MIMIR_CACHE_PATH"),
            "data_source": env.data_source or environment.get("MIMIR_DATA_SOURCE"),
        }
    )
    config = config.model_copy(update={"experiment_name": name, "env_config": env})
    near = config.neighborhood_config
    made = made_neighbors(near, rules) if near and not near.load_from_cache and "ne" in attacks else NeighborsConfig()
    references = config.ref_config.models if config.ref_config and "ref" in attacks else ()
    specs = [(spec, label) for attack in attacks for spec, label in _specs(attack, config)]
    run = RunConfig(
        experiment=_experiment(config),
        model=config.scoring_model_name or config.base_model,
        revision=config.revision or None,
        dtype="bfloat16" if env.half else "float32",
        references=tuple(_reference(reference) for reference in references),
        data=DataConfig(aggregate="max" if rules == "mimir" else "mean"),
        attacks=tuple(spec for spec, _ in specs),
        shots=ShotsConfig(count=config.recall_config.num_shots) if config.recall_config else ShotsConfig(),
        neighbors=made,
        token_counts=TokenCountsConfig(source=config.token_frequency_map or "auto"),
        seed=config.random_seed,
        metrics=MetricsConfig(fprs=config.fpr_list, seed=config.random_seed),
        results=env.results,
    )
    labels = [(f"ref-{_tail(_reference(reference))}", f"ref-{_tail(reference)}") for reference in references]
    return Translation(
        mimir=config,
        run=run,
        data=_data(config, env, attacks),
        endpoint=_endpoint(config, environment, rules),
        names=(*((spec, label) for spec, label in specs if spec != "ref"), *labels),
        folder=results_folder(config),
        notes=notes,
    )


def results_folder(config: MimirConfig) -> Path:
    """Where MIMIR writes: results/experiment_name/base_model[/specific_source], whatever revision and output_name."""
    env = config.env_config or EnvironmentConfig()
    folder = Path(env.results) / str(config.experiment_name or config.output_name) / _flat(config.base_model)
    return folder / source_name(config.specific_source) if config.specific_source else folder


def source_name(source: str) -> str:
    """A source of the Pile as MIMIR's folders and files have it."""
    return source.replace(" ", "_").replace("-", "_").lower()


def _flat(name: str) -> str:
    return name.replace("/", "_")


def _tail(name: str) -> str:
    return name.rstrip("/").split("/")[-1]


def _experiment(config: MimirConfig) -> str:
    """Of our results folder: everything that a sweep of MIMIR's scripts changes, so that no two runs collide."""
    if config.openai_config:
        model = f"openai-{config.openai_config.model}"
    else:
        model = (config.scoring_model_name or config.base_model) + (f"@{config.revision}" if config.revision else "")
    source = config.specific_source and source_name(config.specific_source)
    output = config.output_name if config.output_name != config.experiment_name else None
    return "-".join(_flat(part) for part in (config.experiment_name, output, model, source) if part)


def _reference(name: str) -> str:
    """MIMIR's name:revision as name@revision."""
    repository, colon, revision = name.partition(":")
    return f"{repository}@{revision}" if colon and not Path(name).exists() else name


def _attacks(config: MimirConfig) -> tuple[str, ...]:
    """The attacks in the order of MIMIR's results: loss, which it always computes, the others, ref.

    Raises:
        ConfigError: unknown names.
    """
    named = [part for name in config.blackbox_attacks or () for part in _joined(name)]
    if unknown := [name for name in named if name not in ATTACKS]:
        raise ConfigError(
            f"blackbox_attacks: unknown {', '.join(map(repr, unknown))} (known: {', '.join(ATTACKS)}; "
            "for attacks beyond MIMIR's give --attacks)"
        )
    usable = [
        name for name in dict.fromkeys(named) if name != "ref" or (config.ref_config and config.ref_config.models)
    ]
    return tuple(sorted(dict.fromkeys(("loss", *usable)), key=lambda name: name == "ref"))


def _joined(name: str) -> list[str]:
    """Attacks that are joined with +, as scripts of an older MIMIR have them."""
    if name in ATTACKS or "+" not in name:
        return [name]
    parts = name.replace("min_k++", "min_k\0").split("+")
    return [part.replace("\0", "++") for part in parts]


def _specs(attack: str, config: MimirConfig) -> list[tuple[str, str]]:
    if attack == "ne" and config.neighborhood_config:
        counts = dict.fromkeys(config.neighborhood_config.n_perturbation_list)
        return [(f"ne@n={count}", f"ne-{count}") for count in counts]
    return [(attack, attack)]


def made_neighbors(near: NeighborhoodConfig, rules: str) -> NeighborsConfig:
    """How neighbors are made."""
    random: Literal["words", "tokens"] | None = None
    if near.random_fills and "t5" in near.model:
        random = "tokens" if near.random_fills_tokens else "words"
    return NeighborsConfig(
        model=MASK_MODELS.get(near.model, near.model),
        count=max(near.n_perturbation_list, default=1),
        swaps=SwapsConfig(
            strategy="random" if near.neighbor_strategy == "random" else "deterministic",
            share=near.pct_swap_bert,
            in_place=near.original_tokenization_swap,
            long="beginning",
        ),
        spans=SpansConfig(
            length=MIMIR_SPAN if rules == "mimir" else near.span_length,
            share=near.pct_words_masked,
            buffer=near.buffer_size,
            round_up=near.ceil_pct,
            top_p=near.top_p,
            max_tries=near.max_tries,
            random=random,
        ),
    )


def _data(config: MimirConfig, env: EnvironmentConfig, attacks: tuple[str, ...]) -> DataSettings:
    same = [field.name for field in fields(DataSettings) if field.name in MimirConfig.model_fields]
    near = config.neighborhood_config
    return DataSettings(
        **{name: getattr(config, name) for name in same},
        other_nonmember_sources=config.dataset_nonmember_other_sources or (),
        cache_path=env.cache_dir,
        data_source=env.data_source,
        neighbors=NeighborSettings(
            counts=tuple(dict.fromkeys(near.n_perturbation_list)),
            model=near.model,
            in_place_swap=near.original_tokenization_swap,
            load_from_cache=near.load_from_cache,
            dump_cache=near.dump_cache,
        )
        if near and "ne" in attacks and not config.dump_cache
        else None,
        seed=config.random_seed,
    )


def _endpoint(config: MimirConfig, environment: Mapping[str, str], rules: str) -> Endpoint | None:
    if config.openai_config is None:
        return None
    return Endpoint(
        base_url=config.openai_config.base_url or environment.get("OPENAI_BASE_URL") or DEFAULT_BASE_URL,
        model=config.openai_config.model,
        key=config.openai_config.secret or environment.get("OPENAI_API_KEY") or "",
        prefix=API_PREFIX if rules == "mimir" else "",
    )


def _problems(config: MimirConfig, environment: Mapping[str, str]) -> Iterator[str]:
    """Every reason why a configuration cannot be run: MIMIR's own checks, then what would fail later, here or there."""
    near, env = config.neighborhood_config, config.env_config
    if config.dump_cache and (config.load_from_cache or config.load_from_hf):
        yield "dump_cache with load_from_cache or load_from_hf (whose default is true): texts are written or read"
    if near and near.dump_cache and near.load_from_cache:
        yield "neighborhood_config: dump_cache with load_from_cache: neighbors are written or read"
    cached = config.load_from_cache or config.dump_cache or config.load_from_hf
    if near and (near.dump_cache or near.load_from_cache) and not cached:
        yield (
            "neighborhood_config: dump_cache or load_from_cache, but the texts come from no cache: give load_from_hf, "
            "load_from_cache or dump_cache"
        )
    if near and near.dump_cache and config.load_from_hf:
        yield "neighborhood_config: dump_cache with load_from_hf, whose neighbors are made already"
    if not (config.experiment_name or config.output_name):
        yield "experiment_name: is missing"
    if config.blackbox_attacks is None:
        yield f"blackbox_attacks: none are named (known: {', '.join(ATTACKS)})"
    if config.pre_perturb_pct > 0:
        if near is None or "t5" not in near.model:
            yield "pre_perturb_pct: members are filled anew by a T5: name it in neighborhood_config.model, or give 0"
        if config.full_doc or config.pretokenized or config.tok_by_tok:
            yield "pre_perturb_pct: takes whole texts, not full_doc, pretokenized or tok_by_tok"
    if config.pretokenized:
        if not (config.presampled_dataset_member and config.presampled_dataset_nonmember):
            yield "pretokenized: needs presampled_dataset_member and presampled_dataset_nonmember, .npy of token ids"
        if config.full_doc:
            yield "pretokenized with full_doc: sub-texts cannot be given as token ids"
    if config.token_frequency_map and Path(config.token_frequency_map).suffix not in (".npy", ".npz", ".json"):
        yield (
            f"token_frequency_map: {config.token_frequency_map}: must be .npy (a count for each token id) or .json "
            "(counts by token id); a pickle is not read, since reading it runs code: where you trust it, "
            "json.dump({int(k): int(v) for k, v in pickle.load(file).items()}, ...)"
        )
    try:
        attacks = _attacks(config)
    except ConfigError as error:
        yield str(error)
        attacks = ()
    if not config.dump_cache:
        yield from _attack_problems(config, attacks)
    if config.openai_config is not None:
        if not (config.openai_config.secret or environment.get("OPENAI_API_KEY")):
            yield "openai_config.key: is missing; give it, or set OPENAI_API_KEY"
        if beyond := [attack for attack in attacks if attack not in API_ATTACKS]:
            yield (
                f"blackbox_attacks: {', '.join(beyond)}: an API gives log-probs of tokens and no more; "
                f"possible are {', '.join(API_ATTACKS)}"
            )
        if config.pretokenized:
            yield "pretokenized: an API takes texts"
        if config.scoring_model_name:
            yield "scoring_model_name with openai_config: name one target"
    if env is not None and not env.results:
        yield "env_config.results: is empty"


def _attack_problems(config: MimirConfig, attacks: tuple[str, ...]) -> Iterator[str]:
    near = config.neighborhood_config
    if "recall" in attacks and config.recall_config is None:
        yield "blackbox_attacks: recall needs a recall_config, such as --num_shots 7"
    if "ne" in attacks:
        if near is None:
            yield "blackbox_attacks: ne needs a neighborhood_config"
        elif not near.n_perturbation_list:
            yield "neighborhood_config.n_perturbation_list: is empty"
        elif not near.load_from_cache:
            if near.neighbor_strategy not in ("deterministic", "random"):
                yield f"neighborhood_config.neighbor_strategy: {near.neighbor_strategy!r}: deterministic or random"
            elif near.neighbor_strategy == "random" and not near.original_tokenization_swap:
                yield "neighborhood_config: neighbor_strategy random needs original_tokenization_swap, as in MIMIR"
    if "ref" in attacks and config.ref_config:
        tails = [_tail(model) for model in config.ref_config.models]
        if twice := sorted({tail for tail in tails if tails.count(tail) > 1}):
            yield f"ref_config.models: two are called {', '.join(twice)}, and so would be their results"


def read_frequencies(path: str | Path, vocab: int) -> Int[np.ndarray, " vocab"]:
    """A token_frequency_map as .json: an object of counts by token id (MIMIR's map, without pickle), or a list.

    Args:
        path: the file.
        vocab: ids of the tokenizer; those that the map does not have count 0.

    Raises:
        ConfigError: the file cannot be read, or holds something else, or ids of another tokenizer.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        pairs = found.items() if isinstance(found, dict) else enumerate(found)
        counts = {int(token): int(count) for token, count in pairs}
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"token_frequency_map: {path}: not counts by token id: {error}") from error
    if wrong := [token for token, count in counts.items() if not 0 <= token < vocab or count < 0]:
        raise ConfigError(
            f"token_frequency_map: {path}: token {wrong[0]}: a count is below 0, or the map is of another tokenizer "
            f"(this one has {vocab} ids)"
        )
    table = np.zeros(vocab, np.int64)
    table[list(counts)] = list(counts.values())
    return table


READ = "neighbors are read, not generated"

_WITHOUT_MEANING: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("JAX takes all devices that it sees; --mesh.data and --mesh.model split the work", ("device", "device_aux")),
    ("--mesh.model N splits a model over N devices", ("device_map",)),
    ("everything is compiled, by XLA", ("compile",)),
    ("--dtype bfloat16 is the smallest precision", ("int8",)),
    ("results are written beside their place and renamed when they are complete", ("tmp_results",)),
    ("--batch_tokens says how many token positions a device computes at a time", ("batch_size",)),
    ("--batch_tokens says how many token positions a device computes at a time", ("chunk_size",)),
    (
        "nothing is sampled from the target, nor in MIMIR; samia has --samples.top_k",
        ("top_k", "do_top_k", "top_p", "do_top_p"),
    ),
    ("MIMIR reads it nowhere either", ("tokenization_attack",)),
    (
        "MIMIR reads it nowhere either; the attack is --attacks quantile, with --quantile.nonmembers",
        ("quantile_attack",),
    ),
    ("a flag of an older MIMIR; blackbox_attacks alone says what runs", RETIRED),
    (
        READ,
        (
            "pct_swap_bert",
            "neighbor_strategy",
            "span_length",
            "random_fills_tokens",
            "random_fills",
            "pct_words_masked",
            "buffer_size",
            "neighborhood_config.top_p",
            "max_tries",
            "ceil_pct",
        ),
    ),
)
"""Keys without meaning, and what is instead; by their flags."""


def _given(config: MimirConfig) -> set[str]:
    """Flags of the keys that were given."""
    given = set(config.model_fields_set)
    for name in ("neighborhood_config", "env_config"):
        section = getattr(config, name)
        if section is not None:
            given |= {f"{name}.{key}" if key in MimirConfig.model_fields else key for key in section.model_fields_set}
    return given


def _notes(config: MimirConfig, attacks: tuple[str, ...], rules: str) -> Iterator[str]:
    given = _given(config)
    near = config.neighborhood_config
    made = near is not None and not near.load_from_cache
    for reason, keys in _WITHOUT_MEANING:
        if made and reason == READ:
            continue
        if found := [key for key in keys if key in given]:
            yield f"{', '.join(found)}: without meaning here: {reason}"
    env = config.env_config or EnvironmentConfig()
    if env.half:
        yield "half: the target runs in bfloat16, statistics in float32 (MIMIR halves only its mask-filling model)"
    if config.pre_perturb_pct > 0:
        yield "pre_perturb_pct: members are filled anew once (MIMIR's own call of it does not fit its function)"
    if rules == "mimir" and near is not None and made and "t5" in near.model:
        yield f"span_length: {MIMIR_SPAN} words, as in MIMIR whatever the configuration says"
    if config.scoring_model_name:
        yield (
            f"scoring_model_name: {config.scoring_model_name} is the target of all attacks (MIMIR runs ne, recall, "
            f"gradnorm and dc_pdd partly on {config.base_model})"
        )
    if config.token_frequency_map:
        yield "token_frequency_map: used where an attack needs token counts, as dc_pdd does (MIMIR reads it nowhere)"
    if "ref" in (config.blackbox_attacks or ()) and "ref" not in attacks:
        yield "blackbox_attacks: ref is left out, as in MIMIR: ref_config names no model"
    if "experiment_name" not in given:
        yield "experiment_name: taken from output_name (MIMIR does not read such a file)"
    if rules == "mimir" and (config.revision or config.output_name):
        yield "revision, output_name: not in the name of MIMIR's folder, so that runs which differ in them collide"
    if config.openai_config is None:
        for word in ("gpt-j", "neox"):
            if word in config.base_model:
                yield f"base_model: MIMIR runs {word} in float16; here in {'bfloat16' if env.half else 'float32'}"
        if tokenizer := substitute(config.base_model):
            yield f"base_model: it takes the tokenizer of {tokenizer}, as in MIMIR"
