"""Table 1: Pythia-deduped on seven domains (13-gram overlap below 0.8) and on the whole Pile.

python -m experiments.table1 [--small]
"""

from dataclasses import replace

from experiments.paper import (
    DEDUPED,
    DOMAINS,
    Entry,
    Experiment,
    Key,
    domain_runs,
    main,
    mimir_data,
    pythia,
    small_domains,
)
from mimir_jax.config import NeighborsConfig


def runs(models: tuple[str, ...]) -> list[Entry]:
    """The paper's five attacks on each model and domain, with the neighbors that MIMIR published."""
    found = []
    for entry in domain_runs(models, DOMAINS, ["ngram_13_0.8"], ("main",)):
        sample = f"mimir/{entry.data}/ngram_13_0.8"
        neighbors = NeighborsConfig(members=sample, nonmembers=sample)
        attacks = (*(entry.config.attacks or ()), "ne")
        found.append(replace(entry, config=replace(entry.config, attacks=attacks, neighbors=neighbors)))
    for model in models:
        key = Key(("full_pile",), "full_pile", f"EleutherAI/{model}")
        found.append(Entry(model, "full_pile", pythia(model, mimir_data("full_pile")), key))
    return found


EXPERIMENT = Experiment(
    "table1",
    "Table 1: AUC-ROC on Pythia-deduped, by domain",
    lambda folder: runs(DEDUPED),
    lambda folder: small_domains(),
    ("The paper's Ref is ref-stablelm-base-alpha-3b-v2; published values are of ref-gpt2.",),
)

if __name__ == "__main__":
    main(EXPERIMENT)
