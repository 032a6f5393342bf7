"""Controlled: AUC against exact duplicates, within one training set. Deduplication is what the paper's Pile has had.

python -m experiments.controlled_repetition
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

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

COPIES = (1, 2, 4, 8)


def main(
    results: Path = Path("experiments/results"), documents: int = 48, background: int = 256, seeds: int = SEEDS
) -> None:
    """Train one epoch on documents of which some are there once, some twice, four and eight times.

    Args:
        results: folder of all studies' results.
        documents: of each number of copies.
        background: further documents that are there once and are not judged, so that words are known.
        seeds: models, each with its own draw.
    """
    recipe, texts = replace(RECIPE, epochs=1), pool()
    settings = settings_of(recipe, documents=documents, background=background, seeds=seeds)
    study = Study.at(results, "controlled_repetition", settings)
    others = 4 * documents
    judged = others + len(COPIES) * documents
    draws = [texts.draw(judged + background, seed) for seed in range(seeds)]
    outside = [draw[:others] for draw in draws]
    groups = {
        n: [draw[others + i * documents : others + (i + 1) * documents] for draw in draws] for i, n in enumerate(COPIES)
    }
    trained = {**groups, 1: [np.append(once, draw[judged:]) for once, draw in zip(groups[1], draws)]}
    decoder = train_pool(texts, texts.copies(trained), recipe, study.state("training")).decoder
    scores = attack_models(decoder, texts, *groups.values(), outside)
    for n, inside in groups.items():
        study.record(str(n), by_attack(scores, inside, outside))
    title = f"AUC-ROC of documents that are in the training set so many times ({documents} each), one epoch"
    grid = auc_grid("auc_by_copies", title, "copies", study.rows, [])
    study.finish("python -m experiments.controlled_repetition", texts, [grid], "copies")


if __name__ == "__main__":
    command(main)
