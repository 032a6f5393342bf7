"""All that can be wrong with a run, found in seconds: nothing is hashed, downloaded beyond small files, or computed."""

import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mimir_jax.config import RunConfig
from mimir_jax.data.documents import Document, overlapping_texts
from mimir_jax.experiment import PAPER, Rules, all_providers, bound_attacks, load_all, resolve
from mimir_jax.identity import distinct_names
from mimir_jax.job import (
    OF_KNOWN_SETS,
    REFERENCES,
    Job,
    check_checkpoints,
    check_endpoint,
    check_tokenizers,
    endpoint_of,
)
from mimir_jax.models.checkpoint import check_weights
from mimir_jax.parallel.mesh import configured_mesh, make_mesh
from mimir_jax.report.terminal import silent
from mimir_jax.scoring.engine import check_head
from mimir_jax.scoring.model import Source, find_source
from mimir_jax.target import TEXTS, Target

ENDLESS = ("auto", "c4")
"""Sources of token counts that a check does not read: they come from the network."""


@dataclass
class Checked:
    """What a run would do, and what keeps it from it; a sentence each."""

    facts: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Keep an error of ours as a problem, so that the next step is checked too."""
        try:
            yield
        except (ValueError, RuntimeError) as error:
            if not type(error).__module__.startswith("mimir_jax."):
                raise
            self.problems.append(str(error))


def check(config: RunConfig, rules: Rules = PAPER) -> Checked:
    """Try everything that a run does before it reads weights, and name all that is wrong at once.

    The configuration, devices and mesh, every file of documents, shots, neighbors and counts, each model's config,
    tokenizer and, where it lies on this machine, the names and shapes of its tensors; whether tokenizers and
    checkpoints fit each other; where results go. Of a model on the hub only small files are downloaded.
    """
    checked = Checked()
    with checked.collect():
        config = resolve(config, rules)
        checked.facts.append(f"attacks: {', '.join(config.attacks or ())}")
    resolved = not checked.problems
    mesh = make_mesh()
    with checked.collect():
        mesh = configured_mesh(config.mesh)
        check_head(config.head, mesh)
        checked.facts.append(f"mesh: data {mesh.shape['data']} x model {mesh.shape['model']}")
    job = Job(config, mesh, silent, {**TEXTS, **rules.texts})
    documents, groups = _documents(checked, job)
    _results(checked, config)
    if not resolved:
        return checked
    bound = bound_attacks(config.attacks or (), rules)
    with checked.collect():
        if endpoint_of(config, key="") is not None:
            check_endpoint(config, bound)
            checked.facts.append(f"endpoint: {config.endpoint.base_url} (not asked)")
            return checked
    named = [(config.model, config.revision, config.tokenizer)]
    named += [(path, None, config.tokenizer) for path in config.checkpoints]
    targets = _sources(checked, "checkpoints", named)
    references = _sources(checked, "references", [(path, None, None) for path in config.references])
    if not documents or targets is None or references is None:
        return checked
    with checked.collect():
        target = job.target(documents, targets[0], groups.count(""))
        check_checkpoints(target, targets)
        compared = [job.target(documents, source) for source in references]
        check_tokenizers(bound, target, compared, references)
        tokens = sum(len(one.text_ids) for one in target.tokens)
        longest = max(len(one.text_ids) for one in target.tokens)
        checked.facts.append(f"tokens: {tokens:,} in all, {longest:,} in the longest document")
        needed = {name for one in bound for name in one.attack.inputs} - {"stats", *REFERENCES, *OF_KNOWN_SETS}
        for name in sorted(needed):
            with checked.collect():
                _prepare(checked, name, all_providers(rules)[name].prepare, target)
    checked.facts += [f"note: {note}" for note in job.notes]
    return checked


def _documents(checked: Checked, job: Job) -> tuple[list[Document], list[str]]:
    with checked.collect():
        documents, groups = load_all(job)
        members = sum(document.is_member is True for document in documents)
        checked.facts.append(f"documents: {members} members, {len(documents) - members} non-members")
        if overlap := len(overlapping_texts(documents)):
            checked.facts.append(f"note: {overlap} texts are on both sides, member and non-member")
        return documents, groups
    return [], []


def _results(checked: Checked, config: RunConfig) -> None:
    folder = Path(config.results)
    if config.experiment:
        folder /= config.experiment
    above = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if above.is_dir() and os.access(above, os.W_OK):
        checked.facts.append(f"results: {folder}")
    else:
        checked.problems.append(f"{folder}: cannot be written, for {above} is no folder that is open to you")


def _sources(checked: Checked, kind: str, named: list[tuple[str, str | None, str | None]]) -> list[Source] | None:
    """The sources, without hashes; None where one cannot be used."""
    found = []
    for path, revision, tokenizer in named:
        with checked.collect():
            source = find_source(path, revision, tokenizer=tokenizer, hashes=False)
            on_hub = source.revision is not None
            if not on_hub:
                check_weights(source.folder)
            checked.facts.append(f"model {source.name}: {source.folder}" + (" (weights on the hub)" if on_hub else ""))
            found.append(source)
    if len(found) < len(named):
        return None
    with checked.collect():
        return distinct_names(kind, found)
    return None


def _prepare(checked: Checked, name: str, prepare: Callable[[Target], Any], target: Target) -> None:
    """What an input needs of files; what would take long is left to the run."""
    run = target.run
    if name == "token_counts" and run.token_counts.source in ENDLESS:
        checked.facts.append(f"token counts: {run.token_counts.source} (not read)")
    elif name == "token_counts":  # one text shows whether the source can be read; its table is not kept
        with tempfile.TemporaryDirectory() as folder:
            few = dataclasses.replace(run.token_counts, max_texts=1, folder=folder)
            run = dataclasses.replace(run, token_counts=few)
            prepare(dataclasses.replace(target, run=run, note=lambda sentence: None))
    elif name == "neighbor_stats" and run.neighbors.model is not None:
        checked.facts.append(f"neighbors: made by {run.neighbors.model} (not loaded)")
    else:
        prepare(target)
