"""How far bfloat16 moves each attack's score and AUC from float32.

From the root of the repository (see benchmarks/README.md; about ten minutes of 2 cores):

    python benchmarks/precision.py
    python benchmarks/precision.py --model FOLDER --references FOLDER --members FILE --nonmembers FILE

The same run twice, with every attack of the package, once in either dtype. A score's move is told relative to the
standard deviation of the float32 scores over the documents, which is what an AUC sees of it. That of an AUC stands
beside half the width of its bootstrap interval: a smaller one is lost in the noise of so many documents.
"""

import argparse
import json
import random
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from mimir_jax import attacks, experiment
from mimir_jax.config import (
    DataConfig,
    NeighborsConfig,
    QuantileConfig,
    RunConfig,
    SamplesConfig,
    TokenCountsConfig,
)
from mimir_jax.data.documents import load_documents
from mimir_jax.training.quantile import NEEDED

DTYPES = ("float32", "bfloat16")
SWAPPED = 5  # neighbors of each document, with a tenth of the words swapped each
KNOWN = 400  # known non-members that quantile is fitted on


def write_lines(path: Path, rows: Iterable[Any]) -> str:
    """Write JSONL; returns its name."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def swap(text: str, seed: int) -> str:
    """The text with a tenth of its words in other places."""
    draw, words = random.Random(seed), text.split(" ")
    for _ in range(max(len(words) // 20, 1)):
        i, j = draw.randrange(len(words)), draw.randrange(len(words))
        words[i], words[j] = words[j], words[i]
    return " ".join(words)


def plan(options: argparse.Namespace, folder: Path) -> RunConfig:
    """The run, but for its dtype; what its attacks need beside the documents is made in the folder."""
    data = DataConfig(members=options.members, nonmembers=options.nonmembers, max_documents=options.documents)
    documents = load_documents(data)
    files = {}
    for side, is_member in (("members", True), ("nonmembers", False)):
        texts = [document.text for document in documents if document.is_member is is_member]
        rows = ([swap(text, SWAPPED * i + n) for n in range(SWAPPED)] for i, text in enumerate(texts))
        files[side] = write_lines(folder / f"{side}_neighbors.jsonl", rows)
    # Non-members of the same source, behind those that are evaluated.
    used = {document.text for document in documents}
    others = load_documents(DataConfig(members=options.members, nonmembers=options.nonmembers))
    known = [{"text": one.text} for one in others if not one.is_member and one.text not in used][:KNOWN]
    names = options.attacks or [name for name in attacks.ATTACKS if name != "quantile" or len(known) >= NEEDED]
    return RunConfig(
        model=options.model,
        references=tuple(options.references),
        data=data,
        attacks=tuple(names),
        neighbors=NeighborsConfig(members=files["members"], nonmembers=files["nonmembers"]),
        quantile=QuantileConfig(nonmembers=write_lines(folder / "known.jsonl", known) if known else None),
        token_counts=TokenCountsConfig(source="demo"),
        samples=SamplesConfig(count=2),
        prefixes=5,
        audit=False,
    )


def compare(exact: experiment.Results, rounded: experiment.Results) -> list[dict[str, Any]]:
    """What bfloat16 changes, a row a column of scores."""
    rows = []
    for name, scores in exact.scores.items():
        before, after = exact.metrics[name], rounded.metrics[name]
        both = np.isfinite(scores) & np.isfinite(rounded.scores[name])
        if before is None or after is None or both.sum() < 2:
            continue
        one, other = scores[both], rounded.scores[name][both]
        move, spread = np.abs(other - one), np.std(one)
        auc = before.auc_roc
        rows.append(
            {
                "attack": name,
                "documents": int(both.sum()),
                "median_move": float(np.median(move)),
                "largest_move": float(np.max(move)),
                "spread": float(spread),
                "rank_correlation": float(spearmanr(one, other).statistic),
                "auc_float32": auc.value,
                "auc_bfloat16": after.auc_roc.value,
                "half_interval": (auc.high - auc.low) / 2,
            }
        )
    return rows


def report(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table."""
    print(
        f"{'':18}{'score moves, of its spread':>28}{'rank':>12}{'AUC':>10}{'AUC':>10}{'AUC':>9}{'half of the':>13}\n"
        f"{'attack':18}{'median':>14}{'largest':>14}{'correlation':>12}{'float32':>10}{'bfloat16':>10}{'moves':>9}"
        f"{'interval':>13}"
    )
    for row in rows:
        median, largest = row["median_move"] / row["spread"], row["largest_move"] / row["spread"]
        print(
            f"{row['attack']:18}{median:14.5f}{largest:14.4f}{row['rank_correlation']:12.5f}{row['auc_float32']:10.4f}"
            f"{row['auc_bfloat16']:10.4f}{row['auc_bfloat16'] - row['auc_float32']:+9.4f}{row['half_interval']:13.4f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="demo/epoch4", help="folder, hub id or demo/epoch{1,2,4,8,16}")
    parser.add_argument("--references", nargs="+", default=["demo/epoch1"])
    parser.add_argument("--members", default="demo/members", help="documents, as --data.members takes them")
    parser.add_argument("--nonmembers", default="demo/nonmembers")
    parser.add_argument("--documents", type=int, default=100, help="of either side")
    parser.add_argument("--attacks", nargs="+", help="default: all")
    parser.add_argument("--json", type=Path, help="write the results here, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        config = plan(options, Path(scratch))
        found = [
            experiment.run(RunConfig(**{**vars(config), "dtype": dtype, "results": scratch, "experiment": dtype}))
            for dtype in DTYPES
        ]
    rows = compare(*found)
    print(f"{options.model}, {options.documents} + {options.documents} documents\n")
    report(rows)
    line = json.dumps(rows)
    if options.json is not None:
        options.json.write_text(line + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
