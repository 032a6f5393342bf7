"""Epochs and data size: language models that read C4 with more and more repetition, or more and more of it.

    python -m experiments.datablations [--small]

The checkpoints (Muennighoff et al. 2023, arXiv:2305.16264) lie in folders of their repositories on the hub, which
must be fetched first, each to checkpoints/<repository>/<folder>/transformers:

    hf download datablations/<repository> --include "<folder>/transformers/*" --local-dir checkpoints/<repository>
"""

from dataclasses import replace
from pathlib import Path

from experiments.paper import Entry, Experiment, Key, main, mimir_data, pythia, small_data, small_run
from experiments.small import WORDS, trained
from mimir_jax.config import DataConfig

REPETITIONS = "lm1-2b8-55b-c4-repetitions"
EPOCHS = {f"{n} unique billion tokens of 55": f"{REPETITIONS}/2b855b{n}bc4" for n in (55, 28, 14, 9, 4)}
SIZES = {
    "1.1B parameters, 21B tokens": "lm1-1b1-21b-c4seeds/1b121b21bc4seed1",
    "2.8B parameters, 55B tokens": f"{REPETITIONS}/2b855b55bc4",
    "4.2B parameters, 84B tokens": "lm1-4b2-84b-c4-repetitions/4b284b84bc4",
    "8.7B parameters, 178B tokens": "lm1-8b7-178b-c4-repetitions/8b7178b178b",
}


def full(folder: Path) -> list[Entry]:
    found = []
    for experiment, models in (("hyp_num_epochs", EPOCHS), ("hyp_train_data_size", SIZES)):
        for name, path in models.items():
            config = pythia("", mimir_data("c4"))
            config = replace(config, model=f"checkpoints/{path}/transformers", revision=None, tokenizer="gpt2")
            key = Key((experiment,), "c4", f"datablations_{path.replace('/', '_')}_transformers")
            found.append(Entry(name, "c4", config, key))
    return found


def small(folder: Path) -> list[Entry]:
    """The embedded example by epochs, and models trained on the spot by the number of documents."""
    found = [Entry(f"epochs {n}", "both", small_run(f"demo/epoch{n}", small_data())) for n in (1, 4, 16)]
    data = DataConfig("demo/members", "demo/nonmembers", max_words=WORDS, max_documents=50)
    runs = [(n, small_run(trained(folder, n), data)) for n in (50, 200)]
    return found + [Entry(f"documents {n}", "beginnings", config) for n, config in runs]


EXPERIMENT = Experiment("datablations", "AUC-ROC by epochs and by the size of data and model", full, small)

if __name__ == "__main__":
    main(EXPERIMENT)
