"""The inputs that come from references whose training sets are known: of lira and rmia.

A run names a folder that `training.references` wrote, or another one of that form: `membership.csv` and a checkpoint
for each of its columns. Texts are found in the table by what they say, not by their ids; a text that is not listed
was in no reference's training set. All references are scored as one stacked model, in one pass over the documents.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from mimir_jax.config import ConfigError, RunConfig
from mimir_jax.data.documents import read_texts
from mimir_jax.inputs import Loaded, Provider, log_likelihoods
from mimir_jax.job import OF_KNOWN_SETS, Job, check_checkpoints
from mimir_jax.scores import Given
from mimir_jax.scoring.model import Source
from mimir_jax.target import MOST_TEXTS, Target
from mimir_jax.training.membership import MEMBERSHIP, References, read_references


def missing(run: RunConfig) -> str | None:
    """The setting that a run lacks for these inputs."""
    if run.in_out.folder is None:
        return "give references whose training sets are known: --in-out.folder, with membership.csv"
    return None


def references_of(run: RunConfig) -> References:
    """The table that the run names.

    Raises:
        ConfigError: it cannot be read.
    """
    assert run.in_out.folder is not None
    return read_references(Path(run.in_out.folder), run.in_out.count)


def folders(run: RunConfig) -> list[str]:
    """Of the checkpoints that the table names."""
    return [str(folder) for folder in references_of(run).folders]


def membership(target: Target) -> Bool[np.ndarray, "reference doc"]:
    """Which reference was trained on which document."""
    texts = [document.text for document in target.documents]
    known = references_of(target.run)
    listed = int(known.listed(texts).sum())
    if not listed:
        raise ConfigError(
            f"{target.run.in_out.folder}: {MEMBERSHIP} lists none of the documents; are the texts the very same?"
        )
    if listed < len(texts):
        target.note(f"{len(texts) - listed} documents are not in {MEMBERSHIP}: taken as in no reference's training set")
    return known.of(texts)


def population(run: RunConfig) -> list[str] | None:
    """Texts that rmia compares with; None for the evaluated documents themselves."""
    if run.in_out.population is None:
        return None
    texts = list(dict.fromkeys(read_texts(run.in_out.population, run.data.text_field, MOST_TEXTS)))
    if not texts:
        raise ConfigError(f"in_out.population: {run.in_out.population} holds no texts")
    return texts


def population_membership(target: Target) -> Bool[np.ndarray, "reference text"]:
    """Which reference was trained on which text of the population."""
    texts = population(target.run)
    if texts is None:
        target.note("rmia compares documents with each other: no --in-out.population is given")
        texts = [document.text for document in target.documents[: target.main]]
    else:
        evaluated = {document.text for document in target.documents}
        if both := sum(text in evaluated for text in texts):
            target.note(f"{both} texts of the population are evaluated themselves")
    return references_of(target.run).of(texts)


def population_log_likelihood(loaded: Loaded, texts: list[str] | None) -> np.ndarray:
    """LL [model, text] of the population under the target."""
    if texts is None:
        return log_likelihoods(loaded.stats[: loaded.target.main])
    tokens = loaded.target.tokenize(texts, "text of the population")
    return log_likelihoods(loaded.score([loaded.target.plain(one) for one in tokens]))


PROVIDERS = {
    "in_out_membership": Provider(membership, missing=missing, per_model=False),
    "population_membership": Provider(population_membership, missing=missing, per_model=False, by_document=False),
    "population_log_likelihood": Provider(
        lambda target: population(target.run), population_log_likelihood, missing=missing, by_document=False
    ),
}


@dataclass(frozen=True)
class Prepared:
    """The references and what they are to read, before any weights are."""

    sources: Sequence[Source]
    target: Target
    """The first reference's: all have one shape and tokenizer."""
    texts: list[str] | None
    """Of the population, where it is not the evaluated documents."""


def prepare(job: Job, target: Target, sources: Sequence[Source], needed: set[str]) -> Prepared | None:
    """What `refer` needs; None where no attack asks for it.

    Raises:
        ConfigError: the references differ in shape or tokenizer.
        DataError: a population that cannot be read.
    """
    if not needed & set(OF_KNOWN_SETS):
        return None
    own = job.target(target.documents, sources[0], target.main)
    check_checkpoints(own, sources)
    return Prepared(sources, own, population(job.config) if OF_KNOWN_SETS[1] in needed else None)


def refer(job: Job, prepared: Prepared | None) -> dict[str, Given]:
    """LL of documents and population under all references."""
    if prepared is None:
        return {}
    target, texts = prepared.target, prepared.texts
    name = f"{len(prepared.sources)} references"
    model = job.load(prepared.sources, name)
    others = target.tokenize(texts, "text of the population") if texts is not None else []
    stats = job.score(model, name, [target.plain(tokens) for tokens in [*target.tokens, *others]])
    found = log_likelihoods(stats)
    documents = len(target.documents)
    of_population = found[:, : target.main] if texts is None else found[:, documents:]
    return {
        OF_KNOWN_SETS[0]: Given(found[:, :documents], per_model=False),
        OF_KNOWN_SETS[1]: Given(of_population, per_model=False, by_document=False),
    }
