"""The trend with the model's size, in every domain: Table 1's runs without its slow attacks, and a figure.

python -m experiments.model_size [--small]
"""

from dataclasses import replace
from pathlib import Path

from experiments.paper import DEDUPED, DOMAINS, Entry, Experiment, Trend, domain_runs, main, small_run
from experiments.small import WORDS, trained
from mimir_jax.config import DataConfig

WIDTHS = (16, 32, 64)
ATTACKS = ("loss", "min_k", "zlib")


def parameters(entry: Entry) -> float:
    """Millions, of the model's name; at small scale its width."""
    name = entry.model.removesuffix("-deduped").removeprefix("pythia-").removeprefix("width-")
    return float(name[:-1]) * (1000 if name.endswith("b") else 1) if name[-1] in "mb" else float(name)


def full(folder: Path) -> list[Entry]:
    found = domain_runs(DEDUPED, DOMAINS, ["ngram_13_0.8"], ("main",))
    return [replace(entry, config=replace(entry.config, attacks=ATTACKS, references=())) for entry in found]


def small(folder: Path) -> list[Entry]:
    """Models of three widths, trained on the spot on the same documents."""
    data = DataConfig("demo/members", "demo/nonmembers", max_words=WORDS, max_documents=100)
    runs = [(width, small_run(trained(folder, 100, width=width), data, references=())) for width in WIDTHS]
    return [Entry(f"width-{width}", "both", replace(config, attacks=ATTACKS)) for width, config in runs]


EXPERIMENT = Experiment(
    "model_size",
    "AUC-ROC by the size of the model",
    full,
    small,
    trend=Trend("min_k", "millions of parameters (or width)", parameters, lambda entry: entry.data),
)

if __name__ == "__main__":
    main(EXPERIMENT)
