"""The attack max_norm on four domains, beside loss and min_k.

python -m experiments.max_norm [--small]
"""

from dataclasses import replace
from pathlib import Path

from experiments.paper import DEDUPED, Entry, Experiment, Key, domain_runs, main, small_domains

DOMAINS = ("github", "pile_cc", "pubmed_central", "wikipedia_(en)")
ATTACKS = ("max_norm", "loss", "min_k")


def full(folder: Path) -> list[Entry]:
    found = []
    for entry in domain_runs(DEDUPED, DOMAINS, ["ngram_13_0.8"], ("main",)):
        config = replace(entry.config, attacks=ATTACKS, references=())
        key = Key(("max_norm",), entry.data, f"EleutherAI/{entry.model}")
        found.append(replace(entry, config=config, published=key))
    return found


def small(folder: Path) -> list[Entry]:
    found = small_domains(("demo/epoch4",))
    return [replace(entry, config=replace(entry.config, attacks=ATTACKS, references=())) for entry in found]


EXPERIMENT = Experiment(
    "max_norm",
    "AUC-ROC of max_norm, by domain",
    full,
    small,
    ("The published files do not say which n-gram filter their documents had.",),
)

if __name__ == "__main__":
    main(EXPERIMENT)
