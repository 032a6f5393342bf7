"""Members against versions of themselves with some words replaced: where does membership end?

python -m experiments.edited_members [--small]
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from experiments.paper import Entry, Experiment, main, pythia, small_run
from experiments.small import write
from mimir_jax.config import DataConfig, RunConfig
from mimir_jax.data.documents import Document
from mimir_jax.data.sources import read_source

EDITS = (1, 5, 25)
DOMAINS = ("wikipedia_(en)", "arxiv", "github")


def edited(documents: list[Document], words: int, seed: int = 0) -> list[tuple[str, str, str]]:
    """Each text with so many of its words, at random places, replaced by words of all texts."""
    rng = np.random.default_rng((seed, words))
    every = [word for document in documents for word in document.text.split()]
    found = []
    for document in documents:
        text = document.text.split(" ")
        for place in rng.choice(len(text), min(words, len(text)), replace=False):
            text[place] = every[rng.integers(len(every))]
        found.append((f"{document.id}, {words} words edited", " ".join(text), document.source))
    return found


def runs(model: str, data: str, source: str, config: RunConfig, folder: Path, documents: int) -> list[Entry]:
    """A run for each number of edits, whose members are unedited and whose non-members are edited members."""
    members = [document for document, _ in zip(read_source(source, side=True), range(documents))]
    found = []
    for words in EDITS:
        path = write(folder / f"{data}-{words}.jsonl", edited(members, words))
        pair = DataConfig(source, path, max_documents=documents)
        found.append(Entry(model, f"{data}, {words} words", replace(config, data=pair)))
    return found


def full(folder: Path) -> list[Entry]:
    found = []
    for domain in DOMAINS:
        config = pythia("pythia-12b-deduped", DataConfig())
        found += runs("pythia-12b-deduped", domain, f"mimir/{domain}/ngram_13_0.8", config, folder, 1000)
    return found


def small(folder: Path) -> list[Entry]:
    return runs("epoch4", "both", "demo/members", small_run("demo/epoch4", DataConfig()), folder, 100)


EXPERIMENT = Experiment(
    "edited_members", "AUC-ROC of members against their own edited versions", full, small, ("By words replaced.",)
)

if __name__ == "__main__":
    main(EXPERIMENT)
