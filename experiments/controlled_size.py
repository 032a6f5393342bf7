"""Controlled: AUC against the size of the training set, with as many epochs. The paper: more data, less to attack.

python -m experiments.controlled_size
"""

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

SIZES = (64, 128, 256, 512)


def main(
    results: Path = Path("experiments/results"), sizes: tuple[int, ...] = SIZES, judged: int = 0, seeds: int = SEEDS
) -> None:
    """Train on more and more documents; the same members, part of every training set, against the same others.

    Args:
        results: folder of all studies' results.
        sizes: of the training sets, ascending.
        judged: members that are attacked, and as many others; by default as many as the smallest size.
        seeds: models, each with its own draw.
    """
    recipe, texts, judged = RECIPE, pool(), judged or sizes[0]
    study = Study.at(results, "controlled_size", settings_of(recipe, sizes=sizes, judged=judged, seeds=seeds))
    # The judged non-members come first in every draw, so that they are the same whatever the size.
    draws = [texts.draw(judged + sizes[-1], seed) for seed in range(seeds)]
    outside, inside = [draw[:judged] for draw in draws], [draw[judged : 2 * judged] for draw in draws]
    for size in sizes:
        if str(size) in study.rows:
            continue
        copies = texts.copies({1: [draw[judged : judged + size] for draw in draws]})
        trained = train_pool(texts, copies, recipe, study.state(str(size)))
        study.record(str(size), by_attack(attack_models(trained.decoder, texts, inside, outside), inside, outside))
    title = f"AUC-ROC of the same {judged} members after {recipe.epochs} epochs, by documents trained on"
    grid = auc_grid("auc_by_training_set", title, "documents", study.rows, [])
    study.finish("python -m experiments.controlled_size", texts, [grid], "documents trained on")


if __name__ == "__main__":
    command(main)
