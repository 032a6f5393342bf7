"""Table 11: GPT-Neo on seven domains and on the whole Pile. Nothing of it is among the published files.

python -m experiments.table11 [--small]
"""

from dataclasses import replace
from pathlib import Path

from experiments.paper import DOMAINS, Entry, Experiment, main, mimir_data, pythia, small_run
from experiments.small import WORDS, trained
from mimir_jax.config import DataConfig

MODELS = ("gpt-neo-125m", "gpt-neo-1.3B", "gpt-neo-2.7B")


def full(folder: Path) -> list[Entry]:
    sets = [(domain, mimir_data(domain, "ngram_13_0.8")) for domain in DOMAINS]
    sets.append(("full_pile", mimir_data("full_pile")))
    return [Entry(model, name, replace(pythia(model, data), revision=None)) for model in MODELS for name, data in sets]


def small(folder: Path) -> list[Entry]:
    """A GPT-Neo that is trained on the spot."""
    data = DataConfig("demo/members", "demo/nonmembers", max_words=WORDS, max_documents=100)
    return [Entry("gpt-neo-tiny", "both", small_run(trained(folder, 100, family="gpt_neo"), data))]


EXPERIMENT = Experiment("table11", "Table 11: AUC-ROC on GPT-Neo, by domain", full, small)

if __name__ == "__main__":
    main(EXPERIMENT)
