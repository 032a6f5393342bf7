"""Table 3: non-members whose n-grams are rarer in the training set, by two filters.

    python -m experiments.table3 [--small]

At small scale the filters are of 2 and 3 words, as few passages of the embedded example share more.
"""

from pathlib import Path

import numpy as np

from experiments.paper import Entry, Experiment, domain_runs, main, small_run
from experiments.small import passages, write
from mimir_jax.config import DataConfig
from mimir_jax.data.ngram_index import ExactIndex, fill, overlaps, within

DOMAINS = ("wikipedia_(en)", "github", "pubmed_central", "pile_cc", "arxiv")
SMALL_FILTERS = ((2, 0.5), (3, 0.15))


def small(folder: Path) -> list[Entry]:
    """A checkpoint against all non-members, and against those with less overlap with the members."""
    members, nonmembers = passages(True), passages(False)
    kept = {"no filter": np.ones(len(nonmembers), bool)}
    for n, below in SMALL_FILTERS:
        index = ExactIndex(n)
        fill(index, (document.text for document in members))
        kept[f"ngram_{n}_{below}"] = within(overlaps(index, (d.text for d in nonmembers)), 0.0, below)
    found = []
    for name, keep in kept.items():
        chosen = [(d.id, d.text, d.source) for d, wanted in zip(nonmembers, keep) if wanted]
        data = DataConfig("demo/members", write(folder / f"{name.replace(' ', '-')}.jsonl", chosen), max_documents=100)
        found.append(Entry("epoch4", name, small_run("demo/epoch4", data)))
    return found


EXPERIMENT = Experiment(
    "table3",
    "Table 3: AUC-ROC by the filter of the non-members' n-grams, pythia-12b-deduped",
    lambda folder: domain_runs(
        ("pythia-12b-deduped",),
        DOMAINS,
        ["ngram_7_0.2", "ngram_13_0.2"],
        ("hyp_ngram_overlap", "hyp_ngram_overlap_mink"),
    ),
    small,
)

if __name__ == "__main__":
    main(EXPERIMENT)
