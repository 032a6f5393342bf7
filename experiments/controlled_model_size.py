"""Controlled: AUC against the size of the model, with everything else fixed. The paper: larger models leak more.

python -m experiments.controlled_model_size
"""

from pathlib import Path

import jax

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

WIDTHS = (16, 32, 64, 128)


def main(
    results: Path = Path("experiments/results"),
    widths: tuple[int, ...] = WIDTHS,
    members: int = 128,
    seeds: int = SEEDS,
) -> None:
    """Train wider and wider models on the same members.

    Args:
        results: folder of all studies' results.
        widths: of the embeddings; multiples of 8.
        members: documents of each side.
        seeds: models, each with its own draw.
    """
    recipe, texts = RECIPE, pool()
    study = Study.at(results, "controlled_model_size", settings_of(recipe, widths=widths, members=members, seeds=seeds))
    draws = [texts.draw(2 * members, seed) for seed in range(seeds)]
    inside, outside = [draw[:members] for draw in draws], [draw[members:] for draw in draws]
    copies = texts.copies({1: inside})
    for width in widths:
        if any(row.startswith(f"{width} (") for row in study.rows):
            continue
        decoder = train_pool(texts, copies, recipe, study.state(str(width)), width=width).decoder
        parameters = sum(x.size for x in jax.tree.leaves(decoder)) // seeds
        study.record(
            f"{width} ({parameters:,})", by_attack(attack_models(decoder, texts, inside, outside), inside, outside)
        )
    title = f"AUC-ROC by the model's width (parameters), {members} members, {recipe.epochs} epochs"
    grid = auc_grid("auc_by_width", title, "width", study.rows, [])
    study.finish("python -m experiments.controlled_model_size", texts, [grid], "width")


if __name__ == "__main__":
    command(main)
