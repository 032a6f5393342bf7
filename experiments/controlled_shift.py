"""Controlled: the same models against non-members of the same sources and of another one, beside a blind baseline.

    python -m experiments.controlled_shift

The other one is Shakespeare in the spelling of 1623. A blind baseline, which sees the texts and no model, tells these
from the members; an attack that does as well has shown nothing about the model.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from experiments.controlled import (
    RECIPE,
    SEEDS,
    Pool,
    Study,
    attack_models,
    auc_grid,
    by_attack,
    command,
    pool,
    settings_of,
    train_pool,
)
from mimir_jax.audit.blind import blind
from mimir_jax.metrics import Estimate


def main(results: Path = Path("experiments/results"), members: int = 128, seeds: int = SEEDS) -> None:
    """Train one epoch, and attack with both kinds of non-members.

    Args:
        results: folder of all studies' results.
        members: documents of each side, all of Shakespeare.
        seeds: models, each with its own draw.
    """
    recipe, texts, folio = replace(RECIPE, epochs=1), pool(), pool(shifted=True)
    study = Study.at(results, "controlled_shift", settings_of(recipe, members=members, seeds=seeds))
    everything = Pool([*texts.documents, *folio.documents], [*texts.ids, *folio.ids], texts.tokenizer)
    verse = [i for i, document in enumerate(texts.documents) if document.source == "shakespeare"]
    draws = [np.random.default_rng((seed, 9)).permutation(verse)[: 2 * members] for seed in range(seeds)]
    inside = [draw[:members] for draw in draws]
    sides = {
        "random split": [draw[members:] for draw in draws],
        "shifted": [len(texts.ids) + folio.draw(members, seed) for seed in range(seeds)],
    }
    copies = everything.copies({1: inside})
    scores = attack_models(
        train_pool(everything, copies, recipe, study.state("training")).decoder, everything, inside, *sides.values()
    )
    for name, outside in sides.items():
        blindly = [blind_auc(everything, m, n, seed) for seed, (m, n) in enumerate(zip(inside, outside))]
        study.record(name, {"blind": blindly, **by_attack(scores, inside, outside)})
    title = f"AUC-ROC after one epoch over {members} passages of Shakespeare, by the non-members"
    note = "blind: the best baseline without the model, chosen and scored in nested folds."
    grid = auc_grid("auc_by_shift", title, "non-members", study.rows, [note])
    study.finish("python -m experiments.controlled_shift", everything, [grid])


def blind_auc(texts: Pool, members: np.ndarray, nonmembers: np.ndarray, seed: int) -> Estimate:
    """What the best blind baseline reaches on these documents."""
    chosen = [texts.documents[i].text for i in [*members, *nonmembers]]
    found = blind(chosen, np.arange(len(chosen)) < len(members), seed=seed)
    return found.estimate(found.best)


if __name__ == "__main__":
    command(main)
