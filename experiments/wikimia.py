"""WikiMIA: members and non-members that differ by date, which a bag of words tells apart without any model.

python -m experiments.wikimia [--small]
"""

from dataclasses import replace
from pathlib import Path

from experiments.paper import DEDUPED, Entry, Experiment, Key, main, pythia, small_run
from mimir_jax.config import DataConfig

LENGTHS = (32, 64, 128, 256)


def full(folder: Path) -> list[Entry]:
    found = []
    for model in DEDUPED:
        for length in LENGTHS:
            config = pythia(model, DataConfig(documents=f"wikimia/{length}"))
            found.append(Entry(model, f"{length} words", config, Key(("wikiMIA",), "wikimia", f"EleutherAI/{model}")))
    return found


def small(folder: Path) -> list[Entry]:
    """The embedded example's shifted non-members, for the same effect."""
    found = []
    for words in (32, 64):
        data = DataConfig("demo/members", "demo/shifted", max_words=words, max_documents=100)
        found.append(Entry("epoch1", f"{words} words", replace(small_run("demo/epoch1", data), audit=True)))
    return found


EXPERIMENT = Experiment(
    "wikimia",
    "AUC-ROC on WikiMIA, by length",
    full,
    small,
    (
        "What is measured is shift: see audit.json in each run's folder.",
        "The published files do not say which length they are of.",
    ),
)

if __name__ == "__main__":
    main(EXPERIMENT)
