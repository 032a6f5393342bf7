"""Edited members: where does membership end? The third analysis of Duan et al. 2024 (arXiv:2402.07841).

    python -m experiments.fuzzy_membership                                    # the embedded example
    python -m experiments.fuzzy_membership --model M --members IN --nonmembers OUT --neighbors N.jsonl

Members are edited by n random token substitutions, and by what files hold: neighbors of a masked model (`mimir-jax
neighbors`), paraphrases (a line of texts for each member). For each kind of edit: the distance from the original, how
many edited members are above the thresholds that real non-members set, and the two readings of the same scores, with
edited members counted as members (against real non-members) and as non-members (against the originals).
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from mimir_jax import attacks
from mimir_jax.audit.fuzzy import (
    EDITS,
    EditedMembers,
    edit_distance,
    fuzzy_membership,
    substitute_tokens,
    word_distances,
)
from mimir_jax.config import ConfigError, DataConfig
from mimir_jax.data.documents import load_documents
from mimir_jax.data.neighbors import read_neighbors
from mimir_jax.report.results import write_text
from mimir_jax.scores import Call, Given, scores
from mimir_jax.scoring.documents import score_parts
from mimir_jax.scoring.model import Model, load_model
from mimir_jax.scoring.passes import Part, document_passes
from mimir_jax.scoring.tokens import Tokens, tokenize

FPRS = (0.01, 0.05, 0.1)


def main(
    model: str = "demo/epoch16",
    members: str = "demo/members",
    nonmembers: str = "demo/nonmembers",
    max_documents: int = 200,
    attacks: Sequence[str] = ("loss", "min_k", "min_k++"),
    edits: Sequence[int] = EDITS,
    neighbors: str | None = None,
    paraphrases: str | None = None,
    seed: int = 0,
    out: Path | None = None,
) -> None:
    """Score members, real non-members and edited members with one model.

    Args:
        model: folder, hub id, or demo/epoch{1,2,4,8,16}.
        members: source of members.
        nonmembers: source of real non-members.
        max_documents: of each side.
        attacks: that need one plain pass.
        edits: numbers of token substitutions.
        neighbors: file of the members' neighbors, of which the first of each is taken.
        paraphrases: file of their paraphrases, in the same form.
        seed: of the substitutions.
        out: JSON file of all figures.
    """
    found = edited(model, members, nonmembers, max_documents, attacks, edits, neighbors, paraphrases, seed)
    console = Console()
    for attack, rows in found.items():
        console.print(table(attack, rows))
    if out is not None:
        plain = {name: {kind: dataclasses.asdict(row) for kind, row in rows.items()} for name, rows in found.items()}
        write_text(out, json.dumps(plain, indent=2, allow_nan=False))


def edited(
    model: str,
    members: str,
    nonmembers: str,
    max_documents: int,
    specs: Sequence[str],
    edits: Sequence[int],
    neighbors: str | None,
    paraphrases: str | None,
    seed: int,
) -> dict[str, dict[str, EditedMembers]]:
    """By attack and kind of edit."""
    documents = load_documents(DataConfig(members=members, nonmembers=nonmembers, max_documents=max_documents))
    originals = [document for document in documents if document.is_member]
    texts = [document.text for document in [*originals, *(d for d in documents if not d.is_member)]]
    bound = [attacks.parse(spec) for spec in specs]
    if other := [one.name for one in bound if one.attack.inputs != ("stats",)]:
        raise ConfigError(f"attacks: {', '.join(other)}: more than one plain pass is needed, which edits do not have")
    target = load_model(model)
    tokens = _tokens(target, texts)
    special = {*target.tokenizer.all_special_ids}
    vocabulary = [i for i in range(len(target.tokenizer)) if i not in special]

    kinds: dict[str, list[Tokens]] = {}
    distances: dict[str, np.ndarray] = {}
    for count in edits:
        changed = [substitute_tokens(one.text_ids, count, vocabulary, seed) for one in tokens[: len(originals)]]
        kinds[f"{count} edits"] = [Tokens(one.context_ids, ids) for one, ids in zip(tokens, changed)]
        distances[f"{count} edits"] = np.array([edit_distance(a.text_ids, b) for a, b in zip(tokens, changed)])
    for kind, source in (("neighbors", neighbors), ("paraphrases", paraphrases)):
        if source is not None:
            first = [some[0] for some in read_neighbors(source, originals, 1)]
            kinds[kind] = _tokens(target, first)
            distances[kind] = word_distances([document.text for document in originals], first)

    calls = [Call(one) for one in bound]
    plain = _scores(target, tokens, calls)
    changed_scores = {kind: _scores(target, some, calls) for kind, some in kinds.items()}
    return {
        name: fuzzy_membership(
            values[: len(originals)],
            values[len(originals) :],
            {kind: of_kind[name] for kind, of_kind in changed_scores.items()},
            distances=distances,
            fprs=FPRS,
        )
        for name, values in plain.items()
    }


def _tokens(target: Model, texts: Sequence[str]) -> list[Tokens]:
    names = [f"text {i}" for i in range(len(texts))]
    return tokenize(target.tokenizer, texts, names, target.decoder.config.vocab, target.add_bos)


def _scores(target: Model, tokens: Sequence[Tokens], calls: Sequence[Call]) -> dict[str, np.ndarray]:
    context = target.decoder.config.context
    parts = [[Part(one) for one in document_passes(t.context_ids, t.text_ids, context)] for t in tokens]
    stats = [type(one)(*(field[None] for field in one)) for one in score_parts(target, parts)]
    return {name: values[0] for name, values in scores(calls, {"stats": Given(stats)}, 1, len(tokens)).items()}


def table(attack: str, rows: dict[str, EditedMembers]) -> Table:
    """A row a kind of edit."""
    found = Table("edited members", "distance", title=attack)
    for header in (*(f"above\n{100 * fpr:g}% FPR" for fpr in FPRS), "as members", "as non-\nmembers"):
        found.add_column(header, justify="right")
    for kind, row in rows.items():
        called = [f"{100 * share:.1f}%" for share in row.called.values()]
        distance = "-" if row.distance is None else f"{row.distance:.3f}"
        aucs = [f"{one.value:.3f}\n[{one.low:.2f},{one.high:.2f}]" for one in (row.as_members, row.as_nonmembers)]
        found.add_row(kind, distance, *called, *aucs)
    return found


if __name__ == "__main__":
    tyro.cli(main)
