"""Controlled: AUC against epochs, everything else fixed. The paper: one epoch over much text leaves little to attack.

python -m experiments.controlled_epochs
"""

from dataclasses import replace
from pathlib import Path

from experiments.controlled import (
    RECIPE,
    SEEDS,
    Study,
    attack_models,
    auc_grid,
    by_attack,
    command,
    pool,
    settings_of,
    train_pool,
)
from mimir_jax.models.decoder import Decoder
from mimir_jax.training.progress import Curve

EPOCHS = (1, 2, 4, 8)


def main(results: Path = Path("experiments/results"), members: int = 128, seeds: int = SEEDS) -> None:
    """Train on as many members, and attack after 1, 2, 4 and 8 epochs of one run against as many others.

    Args:
        results: folder of all studies' results.
        members: documents of each side.
        seeds: models, each with its own draw.
    """
    recipe, texts = replace(RECIPE, epochs=EPOCHS[-1]), pool()
    study = Study.at(results, "controlled_epochs", settings_of(recipe, members=members, seeds=seeds))
    draws = [texts.draw(2 * members, seed) for seed in range(seeds)]
    inside, outside = [draw[:members] for draw in draws], [draw[members:] for draw in draws]
    copies = texts.copies({1: inside})

    def on_epoch(epoch: int, decoder: Decoder, curve: Curve) -> None:
        print(f"epoch {epoch}: loss {curve.of_epoch(epoch).mean():.3f}", flush=True)
        if epoch in EPOCHS:
            study.record(str(epoch), by_attack(attack_models(decoder, texts, inside, outside), inside, outside))

    train_pool(texts, copies, recipe, study.state("training"), on_epoch=on_epoch)
    grid = auc_grid("auc_by_epochs", f"AUC-ROC by epochs over {members} members", "epochs", study.rows, [])
    study.finish("python -m experiments.controlled_epochs", texts, [grid], "epochs")


if __name__ == "__main__":
    command(main)
