"""Figure 2: members of the 100 steps before a checkpoint, against the checkpoint's step.

    python -m experiments.figure2 [--small]

At full scale the members are token ids that the training batches held, which MIMIR's hub data set has not: write
them with EleutherAI's batch viewer as data/pile_steps/<first>_<last>.npy (1,000 rows of ids for each step of STEPS).
"""

from dataclasses import replace
from pathlib import Path

from experiments.paper import Entry, Experiment, Key, Trend, main, pythia, small_data, small_run
from mimir_jax.config import DataConfig

MODELS = ("pythia-1.4b-deduped", "pythia-2.8b-deduped", "pythia-6.9b-deduped", "pythia-12b-deduped")
STEPS = (1000, *range(5000, 95001, 5000), 99000)
MEMBERS = Path("data/pile_steps")


def full(folder: Path) -> list[Entry]:
    found = []
    for model in MODELS:
        for step in STEPS:
            name = f"{step - 100}_{step}"
            data = DataConfig(str(MEMBERS / f"{name}.npy"), "mimir/full_pile", max_documents=1000)
            config = replace(pythia(model, data), revision=f"step{step}")
            key = Key(("linear_tds_hyp",), f"{name}_pile", f"EleutherAI/{model}")
            found.append(Entry(model, f"step{step}", config, key))
    return found


def small(folder: Path) -> list[Entry]:
    """The embedded example after more and more epochs."""
    epochs = (1, 2, 4, 8, 16)
    return [Entry("demo", f"epoch{n}", small_run(f"demo/epoch{n}", small_data(), references=())) for n in epochs]


EXPERIMENT = Experiment(
    "figure2",
    "Figure 2: AUC-ROC of recent members by training step",
    full,
    lambda folder: [replace(e, config=replace(e.config, attacks=("loss", "min_k", "zlib"))) for e in small(folder)],
    ("In the published files pythia-2.8b-deduped is an outlier at all steps.",),
    Trend(
        "min_k",
        "step or epoch",
        lambda entry: float(entry.data.removeprefix("step").removeprefix("epoch")),
        lambda entry: entry.model,
    ),
)

if __name__ == "__main__":
    main(EXPERIMENT)
