"""What a run is told: frozen dataclasses with a native JSON form."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

_STRICT = ConfigDict(extra="forbid")

Head = Literal["xla", "pallas"]


class ConfigError(ValueError):
    """A configuration that cannot be run; the message names the field and says what to do."""


@dataclass(frozen=True)
class DataConfig:
    """Labelled documents: `members` and `nonmembers`, or `documents` with a label column."""

    __pydantic_config__ = _STRICT

    members: str | None = None
    """.jsonl[.gz|.zst], .csv, .parquet or .npy file, folder of .txt files, a data set's short name (wikimia/64,
    mimir/arxiv/ngram_13_0.8), hub:owner/name[/config][:split], or demo/members; with #NAME at its end, only
    documents of that source: field `source`, or meta.pile_set_name as in the raw Pile."""
    nonmembers: str | None = None
    """As members, or demo/nonmembers or demo/shifted; both default to the embedded example."""
    documents: str | None = None
    """One source of members and non-members together, told apart by label_field."""
    other_nonmembers: tuple[str, ...] = ()
    """Further non-members, each scored against the thresholds of the main ones."""
    text_field: str = "text"
    """Field that holds the text."""
    label_field: str = "label"
    """Field of `documents`: 1, true or member, and 0, false or nonmember."""
    max_rows: int | None = None
    """Rows of each file or data set that are read at all; none is all."""
    dedupe: bool = False
    """Take each text of a side once, where it comes first."""
    min_words: int = 0
    """Only texts of at least so many words, parted by white space."""
    max_words: int | None = None
    """Cut texts after so many words; without max_words_cutoff, only texts of fewer words."""
    max_words_cutoff: bool = True
    """Whether to cut texts longer than max_words, rather than leave them out."""
    max_data: int | None = None
    """Of the texts with enough words, the first so many of each side are looked at further; none is all."""
    max_tokens: int | None = None
    """Cut texts to whole words of at most so many tokens of `tokenizer`, special ones included."""
    tokenizer: str | None = None
    """Folder or hub id of the tokenizer that max_tokens counts with."""
    max_documents: int | None = None
    """At most so many members and so many non-members: the first ones; none is all."""
    paired: bool = False
    """Cut the longer side, so that there are as many members as non-members."""
    full_doc: bool = False
    """A document is a list of sub-texts, in text_field or cut from the text every max_words words; all are scored."""
    max_substrs: int | None = 20
    """The first so many sub-texts of each document; none is all."""
    aggregate: Literal["mean", "max", "min"] = "mean"
    """A document's score, of those of its sub-texts."""
    tok_by_tok: bool = False
    """Score the beginnings of each text, word by word, each as a document."""


@dataclass(frozen=True)
class ShotsConfig:
    """The prefixes of recall and con_recall."""

    __pydantic_config__ = _STRICT

    count: int = 7
    """Texts in a prefix."""
    choice: Literal["first", "random"] = "first"
    """Which of the evaluated documents, or of the texts below, become shots."""
    nonmembers: str | None = None
    """Texts of non-members to choose from; by default the evaluated ones, of which shots get no score."""
    members: str | None = None
    """Texts of members to choose from, for con_recall; by default the evaluated ones."""


@dataclass(frozen=True)
class SwapsConfig:
    """How a BERT, DistilBERT or RoBERTa makes neighbors: tokens are swapped for likely others."""

    __pydantic_config__ = _STRICT

    strategy: Literal["deterministic", "random"] = "deterministic"
    """The most likely swaps of one token each, or the most likely of random combinations of swaps."""
    share: float = 0.05
    """Of the tokens that a random combination swaps; at least one."""
    in_place: bool = True
    """Whether to swap in the text as it is, rather than write it anew from its tokens, as the tokenizer spells it."""
    candidates: int = 6
    """For each token."""
    dropout: float = 0.7
    """Of the embedding of the token to be swapped: what the model is told of it."""
    trials: int = 1000
    """Random combinations that are drawn."""
    long: Literal["refuse", "beginning"] = "refuse"
    """Documents beyond the model's context: none, or only their beginning is swapped."""


@dataclass(frozen=True)
class SpansConfig:
    """How a T5 makes neighbors: random spans of words are masked and filled anew."""

    __pydantic_config__ = _STRICT

    length: int = 2
    """Words of a span."""
    share: float = 0.3
    """Of the words, masked with the buffers of their spans: so many times length / (length + 2 buffer) are replaced."""
    buffer: int = 1
    """Words that stay between a span and the next one."""
    round_up: bool = False
    """The number of spans, instead of down."""
    top_p: float = 1.0
    """Tokens are drawn from the fewest whose probabilities reach it, a share of 1."""
    top_k: int = 50
    """Tokens are drawn from so many of the likeliest at most."""
    max_tries: int = 100
    """For each neighbor, until every mask has a fill; then it is the document itself."""
    random: Literal["words", "tokens"] | None = None
    """Fill with random words of all documents, or replace random tokens, without any model."""


@dataclass(frozen=True)
class NeighborsConfig:
    """Texts close to each document, for ne and ne_z: from files, or made by a mask-filling model."""

    __pydantic_config__ = _STRICT

    members: str | None = None
    """JSONL of the members' neighbors: a line a document, a list of texts or an object with `id` and `neighbors`."""
    nonmembers: str | None = None
    """As members."""
    documents: str | None = None
    """Neighbors of both sides in one file, by `id`."""
    model: str | None = None
    """Mask-filling model that makes them where no file is given: folder or hub id of a BERT, DistilBERT, RoBERTa, or
    T5; or demo/masked, a small one for the embedded example."""
    count: int = 25
    """To make of each document."""
    folder: str | None = None
    """Where made ones are kept and found again; by default the user's cache."""
    swaps: SwapsConfig = field(default_factory=SwapsConfig)
    spans: SpansConfig = field(default_factory=SpansConfig)


@dataclass(frozen=True)
class TokenCountsConfig:
    """How often each token occurs in a corpus, for dc_pdd and max_norm_weighted."""

    __pydantic_config__ = _STRICT

    source: str = "auto"
    """Text file, folder or hub data set to count in, .npy or .npz of counts, c4, or demo; auto is c4, or demo where
    the hub cannot be reached."""
    text_field: str = "text"
    """Field of the source that holds the text."""
    max_texts: int = 100000
    """At most so many texts are counted."""
    folder: str | None = None
    """Where tables are kept and found again; by default the user's cache."""


@dataclass(frozen=True)
class SamplesConfig:
    """Continuations that the model writes, for samia."""

    __pydantic_config__ = _STRICT

    count: int = 10
    """Continuations of each document."""
    prefix: float = 0.5
    """Share of the document's tokens that is given."""
    top_k: int = 50
    """Tokens to choose from at each step."""
    temperature: float = 1.0
    """Of the choice."""


@dataclass(frozen=True)
class QuantileConfig:
    """The regression of quantile."""

    __pydantic_config__ = _STRICT

    nonmembers: str | None = None
    """Texts of known non-members, none of them evaluated, to fit on."""
    text_field: str = "text"
    """Field that holds the text."""


@dataclass(frozen=True)
class InOutConfig:
    """References whose training sets are known, for lira and rmia."""

    __pydantic_config__ = _STRICT

    folder: str | None = None
    """Folder with membership.csv, which says what each reference was trained on, and their checkpoints, as
    mimir_jax.training.references writes it."""
    count: int | None = None
    """The first so many references; none is all."""
    population: str | None = None
    """Texts of non-members that rmia compares documents with, a file or data set; by default the documents are
    compared with each other."""


@dataclass(frozen=True)
class EndpointConfig:
    """An OpenAI-compatible completions endpoint that echoes the prompt's log-probs, instead of a checkpoint."""

    __pydantic_config__ = _STRICT

    base_url: str | None = None
    """Up to and without /completions; `model` is the model's name there, the key comes from OPENAI_API_KEY."""
    prefix: str = ""
    """Text in front of each document, read and not scored, such as the model's BOS."""
    concurrency: int = 8
    """Requests at a time."""


@dataclass(frozen=True)
class MeshConfig:
    """Devices: data x model must be the number of devices."""

    __pydantic_config__ = _STRICT

    data: int = -1
    """Ways to split the batch; -1 is all devices that `model` leaves."""
    model: int | Literal["auto"] = "auto"
    """Ways to split attention heads, MLP and vocabulary; auto is what memory needs and time is shortest with."""
    weights: Literal["auto", "replicated", "sharded"] = "auto"
    """Over `data`: each way holds all weights, or each its part of them, gathered layer by layer (FSDP)."""


@dataclass(frozen=True)
class HostsConfig:
    """The processes that run one command together, one on each host; all of this is found where a TPU pod, GKE, Slurm
    or Open MPI started them."""

    __pydantic_config__ = _STRICT

    coordinator: str | None = None
    """HOST:PORT of process 0, which each process can reach; else JAX_COORDINATOR_ADDRESS."""
    count: int | None = None
    """Number of processes; else JAX_NUM_PROCESSES. 1 is this one alone, wherever it runs."""
    index: int | None = None
    """Which one this is, from 0; else JAX_PROCESS_ID."""
    timeout: float = 300.0
    """Seconds after which a process that does not come, answers no more or does not move ends the others; must be
    longer than compiling a program takes. Ten times as many where they wait for what one does by itself, such as
    reading files or, between runs, metrics."""


@dataclass(frozen=True)
class MetricsConfig:
    """How scores are summarized."""

    __pydantic_config__ = _STRICT

    fprs: tuple[float, ...] = (0.001, 0.01, 0.05)
    """False-positive rates at which the true-positive rate is reported."""
    n_bootstrap: int = 1000
    """Resamples for the intervals that need some."""
    confidence: float = 0.95
    """Of the intervals."""
    seed: int = 0
    """Of the resampling."""
    auc_interval: Literal["score", "logit", "bootstrap"] = "score"
    """Of AUC-ROC: the default holds near 1 too; logit is Wald's with DeLong's variance."""
    pr_interval: Literal["logit", "bootstrap"] = "logit"
    """Of PR-AUC."""
    tpr_interval: Literal["threshold", "clopper_pearson", "bootstrap"] = "threshold"
    """Of TPRs: the default includes that the threshold is uncertain; clopper_pearson does not."""


@dataclass(frozen=True)
class RunConfig:
    """One experiment: documents, a target model, attacks."""

    __pydantic_config__ = _STRICT

    experiment: str | None = None
    """Results go to <results>/<experiment>; by default named after the model, its revision and the data."""
    model: str = "demo/epoch16"
    """Local Hugging Face folder, hub id (name, name@revision or name:revision), or demo/epoch{1,2,4,8,16}, the embedded
    example."""
    revision: str | None = None
    """Hub branch, tag or commit of the model, such as step99000."""
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    tokenizer: str | None = None
    """Folder or hub id of the tokenizer; by default the model's own."""
    add_bos: bool | None = None
    """Put a BOS before each text, or none; by default as the tokenizer does."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of weights and matrix products; norms, softmax and statistics are always float32. float16 checkpoints are exact
    in float32 and rounded in bfloat16; nothing is computed in float16, in which GPT-NeoX overflows."""
    checkpoints: tuple[str, ...] = ()
    """Further checkpoints of the model's shape and tokenizer, attacked with it in one vmapped pass."""
    references: tuple[str, ...] = ()
    """Reference models, for `ref` and its like; each may have its own tokenizer."""
    data: DataConfig = field(default_factory=DataConfig)
    attacks: tuple[str, ...] | None = None
    """Names, with parameters where not the defaults (min_k@k=0.1,window=3); by default all that need one plain pass,
    and ref where there are references."""
    rules: Literal["paper", "mimir"] = "paper"
    """Scores as the attacks' authors define them, or as MIMIR's published code computes them."""
    shots: ShotsConfig = field(default_factory=ShotsConfig)
    neighbors: NeighborsConfig = field(default_factory=NeighborsConfig)
    token_counts: TokenCountsConfig = field(default_factory=TokenCountsConfig)
    samples: SamplesConfig = field(default_factory=SamplesConfig)
    quantile: QuantileConfig = field(default_factory=QuantileConfig)
    in_out: InOutConfig = field(default_factory=InOutConfig)
    prefixes: int = 20
    """Documents that em_mia takes as prefixes, drawn at random: so many passes over all documents."""
    seed: int = 0
    """Of every random choice but the resampling of metrics."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    audit: bool = True
    """Whether to measure, in seconds, how far members and non-members are told apart without the model, and to compare
    attacks with that."""
    batch_tokens: int = 2048
    """Token positions a device computes at a time."""
    head: Head = "xla"
    """How statistics of the vocabulary are computed: by XLA, or on TPUs by a kernel that was compiled for them and ran
    on none so far."""
    results: str = "results"
    """Folder of all experiments' results."""
    store: str | None = None
    """Folder of token statistics, which other runs may share, or gs://bucket/folder and the like; by default `stats` in
    the results folder."""


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
