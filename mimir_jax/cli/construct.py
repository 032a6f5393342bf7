"""`mimir-jax construct`: members and non-members out of a corpus, with a manifest."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from mimir_jax.cli.shared import parse, say
from mimir_jax.data.construct import MANIFEST, Recipe, construct, write
from mimir_jax.data.documents import token_ends, token_ids
from mimir_jax.data.readers import DataError


@dataclass(frozen=True)
class Options:
    """Make members and non-members out of a corpus whose training and held-out parts are known."""

    out: Path
    """Folder for members.jsonl, nonmembers.jsonl and manifest.json."""
    recipe: Annotated[Recipe, tyro.conf.arg(name="")] = field(default_factory=Recipe)


def main(arguments: list[str], console: Console, errors: Console) -> None:
    options = parse(Options, "construct", arguments)
    out, recipe = options.out, options.recipe
    if (out / MANIFEST).exists():  # before hours of reading
        raise DataError(f"{out}: holds a data set already; choose another folder")
    counts = recipe.max_tokens is not None and recipe.tokenizer is not None
    made = construct(
        recipe,
        token_ends(recipe.tokenizer) if counts and recipe.tokenizer else None,
        token_ids(recipe.ids_tokenizer) if recipe.ids_tokenizer else None,
    )
    manifest = write(made, out)
    for side, steps in manifest["steps"].items():
        say(console, f"{side}: " + ", ".join(f"{n} {step}" for step, n in steps.items()))
    taken = ", ".join(f"{n} {name}" for name, n in manifest["documents"].items())
    say(console, f"{taken}; written to {out}")
