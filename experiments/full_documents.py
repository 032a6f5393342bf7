"""Whole documents by the number of their sub-texts, whose scores are averaged.

    python -m experiments.full_documents [--small]

At full scale the documents are not in MIMIR's hub data set: data/full_documents/<domain>/members.jsonl and
nonmembers.jsonl, each line with a list of sub-texts in `text`.
"""

from dataclasses import replace
from pathlib import Path

from experiments.paper import DOMAINS, Entry, Experiment, Key, main, pythia, small_run
from mimir_jax.config import DataConfig

FOLDER = Path("data/full_documents")
COUNTS = (1, 10, 20)
ATTACKS = ("loss", "ref", "zlib", "min_k", "max_norm")


def full(folder: Path) -> list[Entry]:
    found = []
    for domain in (*DOMAINS, "books3"):
        for count in COUNTS:
            members, nonmembers = (str(FOLDER / domain / f"{side}.jsonl") for side in ("members", "nonmembers"))
            data = DataConfig(members, nonmembers, full_doc=True, max_substrs=count, max_documents=100)
            config = replace(pythia("pythia-12b-deduped", data), attacks=ATTACKS)
            names = (f"doc_substrs_{count}", f"doc_substrs_special_mia_{count}")
            key = Key(names, f"{domain}_sampled_substr", "EleutherAI/pythia-12b-deduped")
            found.append(Entry("pythia-12b-deduped", f"{domain}, {count} sub-texts", config, key))
    return found


def small(folder: Path) -> list[Entry]:
    """Passages of the embedded example in pieces of 30 words."""
    found = []
    for count in (1, 2, 4):
        data = DataConfig(
            "demo/members", "demo/nonmembers", max_words=30, full_doc=True, max_substrs=count, max_documents=100
        )
        config = replace(small_run("demo/epoch4", data), attacks=ATTACKS)
        found.append(Entry("epoch4", f"{count} sub-texts", config))
    return found


EXPERIMENT = Experiment("full_documents", "AUC-ROC of whole documents, by the number of sub-texts", full, small)

if __name__ == "__main__":
    main(EXPERIMENT)
