"""Strong attacks: LiRA and RMIA with 4, 8 and 16 IN/OUT references, beside loss, ref and min_k++ on the same target.

    python -m experiments.strong_attacks

The target, the references and one model of other documents, which is `ref`'s, are trained together by vmap. The
attacks then run as any run does: `mimir-jax run --attacks lira --in-out.folder FOLDER --in-out.count 8` reads what is
written here.
"""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from experiments.controlled import RECIPE, Pool, Study, command, hugging_face_config, pool, settings_of, train_pool
from mimir_jax import experiment
from mimir_jax.config import DataConfig, InOutConfig, RunConfig
from mimir_jax.data.embedded import demo_path
from mimir_jax.report.exports import Cell, Column, Grid
from mimir_jax.report.summary import auc_cell
from mimir_jax.shelf import Shelf
from mimir_jax.training.checkpoints import write_checkpoint
from mimir_jax.training.membership import random_halves
from mimir_jax.training.references import one_model, write_references

COUNTS = (4, 8, 16)
ALONE = ("loss", "min_k++", "ref")
WITH_REFERENCES = ("lira", "lira@pooled=1", "lira_online", "lira_online@pooled=1", "rmia", "rmia@a=1.0")


def main(
    results: Path = Path("experiments/results"),
    documents: int = 600,
    counts: tuple[int, ...] = COUNTS,
    seed: int = 0,
) -> None:
    """Train target and references, run the attacks, and write a table: a column a number of references.

    Args:
        results: folder of all studies' results.
        documents: half of them are the target's members.
        counts: of references, ascending and even.
        seed: of the halves and of training.
    """
    recipe, texts = replace(RECIPE, epochs=2, seed=seed), pool()
    study = Study.at(results, "strong_attacks", settings_of(recipe, documents=documents, counts=counts))
    draw = texts.draw(len(texts.documents), seed)
    chosen, others = draw[:documents], draw[documents : documents + documents // 2]
    # The target's half is drawn as the references' are, from a seed of its own.
    target = random_halves(2, documents, seed + 1)[:1]
    halves = np.concatenate([target, random_halves(counts[-1], documents, seed)])
    copies = np.zeros((len(halves) + 1, len(texts.documents)), int)
    copies[:-1, chosen] = halves
    copies[-1, others] = 1
    folder = study.folder / "state" / "models"
    if not (folder / "other").is_dir():
        decoder = train_pool(texts, copies, recipe, study.state("training")).decoder
        hf, tokenizer = hugging_face_config(), demo_path("tokenizer")
        of_references = jax.tree.map(lambda x: x[1:-1], decoder)
        by_id = {texts.documents[i].id: texts.documents[i].text for i in chosen}
        write_references(folder / "references", of_references, hf, tokenizer, by_id, halves[1:])
        write_checkpoint(one_model(decoder, 0), hf, tokenizer, folder / "target")
        write_checkpoint(one_model(decoder, len(halves)), hf, tokenizer, folder / "other")
    write_documents(folder / "members.jsonl", texts, chosen[halves[0]])
    write_documents(folder / "nonmembers.jsonl", texts, chosen[~halves[0]])
    shelf = Shelf(models=2)
    found = {}
    for count in reversed(counts):  # so that the store has for the later ones what they need
        config = RunConfig(
            experiment=f"{count}-references",
            model=str(folder / "target"),
            references=(str(folder / "other"),),
            data=DataConfig(members=str(folder / "members.jsonl"), nonmembers=str(folder / "nonmembers.jsonl")),
            attacks=(*ALONE, *WITH_REFERENCES),
            in_out=InOutConfig(str(folder / "references"), count),
            audit=False,
            store=str(study.folder / "state" / "stats"),
            results=str(study.folder / "state"),
        )
        found[count] = experiment.run(config, shelf=shelf, overwrite=True).metrics
    for count in counts:
        aucs = {name: [row.auc_roc] for name, row in found[count].items() if row is not None}
        study.record(f"{count} references", aucs)
    columns = [Column("attack")]
    columns += [Column(f"{n} references", (f"{n}", f"{n}_low", f"{n}_high")) for n in counts]
    rows = [
        [Cell(name), *(auc_cell(row.auc_roc if (row := found[count][name]) else None) for count in counts)]
        for name in found[counts[0]]
    ]
    members = int(halves[0].sum())
    title = f"AUC-ROC on one target, {members} members and {documents - members} non-members, by references"
    notes = [
        "In brackets: 95% intervals. ref-other: a model trained on other documents of the same sources.",
        "Half of the references were trained on each document; offline attacks use the other half.",
    ]
    grid = Grid("auc_by_references", title, columns, rows, notes)
    study.finish("python -m experiments.strong_attacks", texts, [grid], "references")


def write_documents(path: Path, texts: Pool, which: np.ndarray) -> None:
    """A JSONL file of some texts."""
    chosen = [texts.documents[i] for i in which]
    lines = [json.dumps({"id": d.id, "text": d.text, "source": d.source}) for d in chosen]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    command(main)
