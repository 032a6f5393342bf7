"""SILO: models that have never read high-risk text (Min et al. 2023, arXiv:2308.04430).

    python -m experiments.silo [--small]

The checkpoints that the published numbers are of were the authors' own; put yours as Hugging Face folders at
checkpoints/silo/<name>, and the GitHub sample as data/sw_github/members.jsonl and nonmembers.jsonl.
"""

from dataclasses import replace
from pathlib import Path

from experiments.paper import Entry, Experiment, Key, main, mimir_data, pythia, small_domains
from mimir_jax.config import DataConfig

MODELS = (
    *(f"ours-v1_1.3B_{n}_semibalanced" for n in ("90B", "200B", "250B", "400B")),
    *(f"ours-v1_1.3B_{n}_unbalanced" for n in ("100B", "200B", "400B")),
    *(f"ours-v2_1.3B_{n}_semibalanced" for n in ("200B", "250B", "300B", "350B", "400B")),
    *(f"ours-v2_1.3B_{n}_unbalanced" for n in ("200B", "400B")),
)


def full(folder: Path) -> list[Entry]:
    sets = {f"{d}_ngram_13_<0.8_truncated": mimir_data(d, "ngram_13_0.8") for d in ("dm_mathematics", "hackernews")}
    sets["sw_github"] = DataConfig("data/sw_github/members.jsonl", "data/sw_github/nonmembers.jsonl")
    found = []
    for model in MODELS:
        for name, data in sets.items():
            config = replace(pythia("", data), model=f"checkpoints/silo/{model}", revision=None)
            found.append(Entry(model, name.partition("_ngram")[0], config, Key(("silo_exps",), name, f"silo_{model}")))
    return found


EXPERIMENT = Experiment(
    "silo", "AUC-ROC on SILO's models, by domain", full, lambda folder: small_domains(("demo/epoch8",))
)

if __name__ == "__main__":
    main(EXPERIMENT)
