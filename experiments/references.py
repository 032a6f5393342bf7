"""Which reference model to choose for `ref`, and the mean of all of them.

python -m experiments.references [--small]
"""

from dataclasses import replace
from pathlib import Path

from experiments.paper import Entry, Experiment, domain_runs, main, small_data, small_run

DOMAINS = ("arxiv", "hackernews", "pile_cc", "pubmed_central", "dm_mathematics")
MODELS = (
    "stabilityai/stablelm-base-alpha-3b-v2",
    "EleutherAI/pythia-1.4b",
    "distilgpt2",
    "EleutherAI/gpt-neo-1.3B",
    "facebook/opt-1.3b",
)
ATTACKS = ("loss", "ref", "ref-mean")


def full(folder: Path) -> list[Entry]:
    found = domain_runs(("pythia-2.8b-deduped",), DOMAINS, ["ngram_13_0.8"], ("main",))
    return [replace(entry, config=replace(entry.config, attacks=ATTACKS, references=MODELS)) for entry in found]


def small(folder: Path) -> list[Entry]:
    """The embedded example after 16 epochs, with itself after 1, 2 and 4 as references."""
    config = small_run("demo/epoch16", small_data(), references=("demo/epoch1", "demo/epoch2", "demo/epoch4"))
    return [Entry("epoch16", "both", replace(config, attacks=ATTACKS))]


EXPERIMENT = Experiment("references", "AUC-ROC of ref by the reference model, pythia-2.8b-deduped", full, small)

if __name__ == "__main__":
    main(EXPERIMENT)
