"""`mimir-jax audit`: how far documents are told apart without any model."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from mimir_jax.cli.shared import parse, say
from mimir_jax.config import DataConfig


@dataclass(frozen=True)
class Options:
    """How far members and non-members are told apart without any model; by default the embedded example."""

    data: Annotated[DataConfig, tyro.conf.arg(name="")] = field(default_factory=DataConfig)
    seed: int = 0
    """Of the folds."""
    json: str | None = None
    """File that the result is written to."""


def main(arguments: list[str], console: Console, errors: Console) -> None:
    options = parse(Options, "audit", arguments)
    from mimir_jax.audit.verdict import audit
    from mimir_jax.data.documents import load_documents
    from mimir_jax.report.results import write_audit
    from mimir_jax.report.tables import baselines_table

    documents = load_documents(options.data)
    in_parts = options.data.tok_by_tok or options.data.full_doc
    groups = [(d.is_member, d.parent or d.row, d.source) for d in documents] if in_parts else None
    found = audit(documents, groups=groups, seed=options.seed)
    members = sum(bool(document.is_member) for document in documents)
    if found["best"]:
        console.print(baselines_table(found, title=f"{members} members, {len(documents) - members} non-members"))
    for side, sign in (("members", 1), ("non-members", -1)):
        words = [one["word"] for one in found["telling_words"] if one["z"] * sign > 3]
        if words:
            say(console, f"words that more {side} have: {', '.join(words)}")
    for name, one in found["shift"].items():
        if one["p_adjusted"] is not None and one["p_adjusted"] < 0.05:
            medians = f"median {one['members']:.4g} of members, {one['nonmembers']:.4g} of non-members"
            say(console, f"{name}: {medians}, adjusted p {one['p_adjusted']:.2g}")
    for note in found["notes"]:
        say(console, f"note: {note}")
    if options.json:
        write_audit(Path(options.json), found)
