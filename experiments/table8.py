"""Table 8: Pythia trained on the Pile with its duplicates, on seven domains and on the whole Pile.

python -m experiments.table8 [--small]
"""

from experiments.paper import PYTHIA, Experiment, main, small_domains
from experiments.table1 import runs

EXPERIMENT = Experiment(
    "table8",
    "Table 8: AUC-ROC on Pythia, not deduplicated",
    lambda folder: runs(PYTHIA),
    lambda folder: small_domains(("demo/epoch2", "demo/epoch8")),
)

if __name__ == "__main__":
    main(EXPERIMENT)
