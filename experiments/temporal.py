"""Non-members of later months: arXiv by month, and Wikipedia. What is found is shift, as the blind baselines say.

python -m experiments.temporal [--small]
"""

from dataclasses import replace
from pathlib import Path

from experiments.paper import DEDUPED, Entry, Experiment, Key, main, mimir_data, pythia, small_data, small_run
from mimir_jax.config import DataConfig
from mimir_jax.data.benchmarks import MIMIR_SPLITS


def full(folder: Path) -> list[Entry]:
    model = "pythia-12b-deduped"
    found = []
    for month in MIMIR_SPLITS["temporal_arxiv"]:
        key = Key(("temporal_arxiv",), f"arxiv_{month}", f"EleutherAI/{model}")
        found.append(Entry(model, f"arxiv {month}", pythia(model, mimir_data("temporal_arxiv", month)), key))
    return found + [Entry(model, "wiki", pythia(model, mimir_data("temporal_wiki"))) for model in DEDUPED]


def small(folder: Path) -> list[Entry]:
    """Passages of the same sources, and of another spelling, which is 300 years older."""
    shifted = DataConfig("demo/members", "demo/shifted", max_documents=100)
    sets = [("random split", small_data()), ("shifted", shifted)]
    return [
        Entry(f"epoch{n}", name, replace(small_run(f"demo/epoch{n}", data), audit=True))
        for n in (1, 4)
        for name, data in sets
    ]


EXPERIMENT = Experiment(
    "temporal",
    "AUC-ROC with non-members of later months",
    full,
    small,
    ("Each run's folder has audit.json: what is reached without the model.",),
)

if __name__ == "__main__":
    main(EXPERIMENT)
