"""Candidates for every token of a document by a masked model: ours against MIMIR's loop, a forward pass a token.

From the root of the repository (see benchmarks/README.md; some minutes on 2 cores):

    python benchmarks/neighbors.py
    python benchmarks/neighbors.py --dtype bfloat16

A random checkpoint of bert-base's shape and one document of 256 tokens. MIMIR's loop is restated: for each token the
embeddings of all are computed again, one is dropped out, a forward pass of one row follows, with gradients recorded
as in MIMIR (nothing turns them off there) or without, the softmax of all logits, and six candidates. It is timed over
some tokens of the document, ours over all of them (or --ours). Each way is a process of its own, and they take turns.
First, with no dropout, the scores of both are compared by MIMIR's rules.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

SHAPE = {
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "tiny": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48},
}
VOCAB = {"base": 30522, "tiny": 320}
WAYS = ("ours", "mimir", "no_grad")
CHOSEN = 6
DROPOUT = 0.7


def document(tokens: int, vocab: int) -> np.ndarray:
    """Ids of a document that begins and ends with a special token."""
    ids = np.random.default_rng(0).integers(5, vocab, tokens).astype(np.int32)
    ids[0], ids[-1] = 2, 3
    return ids


def ours(folder: Path, ids: np.ndarray, options: argparse.Namespace) -> dict[str, Any]:
    """By the authors' rules; or, for comparison, by MIMIR's without dropout."""
    from mimir_jax.compat.mimir.neighbors import SWAPS
    from mimir_jax.config import SwapsConfig
    from mimir_jax.parallel.mesh import make_mesh
    from mimir_jax.scoring.masked import find_mask_model, load_mask_model
    from mimir_jax.scoring.neighbors import PAPER, propose_swaps
    from mimir_jax.scoring.swaps import Encoded, places_of_text

    checked = replace(SWAPS, places=places_of_text)

    model = load_mask_model(find_mask_model(str(folder)), make_mesh(), options.dtype)

    def run(places: int, settings: SwapsConfig, rules: Any) -> Any:
        inside = np.arange(len(ids))
        special = (inside == 0) | (inside > min(places, len(ids) - 2))
        encoded = Encoded("document", "text", ids, None, special)
        return dict(propose_swaps(model, [encoded], settings, 0, rules, options.batch_tokens))[0]

    if options.check:
        scores = run(options.positions, SwapsConfig(candidates=CHOSEN, dropout=0.0), checked).scores
        return {"scores": np.sort(np.where(np.isfinite(scores), scores, 0)).tolist()}
    settings = SwapsConfig(candidates=CHOSEN, dropout=DROPOUT)
    run(1, settings, PAPER)  # compiles
    started, used = time.perf_counter(), processor()
    found = run(options.ours, settings, PAPER)
    seconds, used = time.perf_counter() - started, processor() - used
    return {"seconds": seconds / len(found.places), "processor": used / len(found.places)}


def loop(folder: Path, ids: np.ndarray, options: argparse.Namespace, gradients: bool) -> dict[str, Any]:
    """MIMIR's way, over the first tokens."""
    import torch
    import transformers

    model = transformers.BertForMaskedLM.from_pretrained(folder).eval()
    tokens = torch.tensor(ids[None].astype(np.int64))
    drop = torch.nn.Dropout(p=0.0 if options.check else DROPOUT)

    def candidates(place: int) -> dict[tuple[int, int], float]:
        embedded = model.bert.embeddings(tokens)
        dropped = drop(embedded[:, place, :])[None]
        embedded = torch.cat((embedded[:, :place], dropped, embedded[:, place + 1 :]), dim=1)
        probs = torch.softmax(model(inputs_embeds=embedded).logits, dim=2)
        own = tokens[0, place]
        likely, found = torch.topk(probs[:, place, :], CHOSEN, dim=1)
        rest = 1 - probs[0, place, own].item()
        return {(place, int(one)): p.item() / (rest or 0.1) for one, p in zip(found[0], likely[0]) if one != own}

    with torch.set_grad_enabled(gradients):
        for place in (1, 2):
            candidates(place)
        started, used = time.perf_counter(), processor()
        found = [list(candidates(place).values()) for place in range(1, 1 + options.positions)]
    seconds, used = time.perf_counter() - started, processor() - used
    padded = [sorted([*scores, *[0.0] * (CHOSEN - len(scores))]) for scores in found]
    return {"seconds": seconds / len(found), "processor": used / len(found), "scores": padded}


def processor() -> float:
    """Seconds that all threads of this process have used."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def work(folder: Path, options: argparse.Namespace) -> None:
    """One way, in a process of its own."""
    ids = document(options.tokens, VOCAB[options.shape])
    found = ours(folder, ids, options) if options.way == "ours" else loop(folder, ids, options, options.way == "mimir")
    print(json.dumps(found))


def run_way(folder: Path, way: str, arguments: list[str], check: bool = False) -> dict[str, Any]:
    command = [sys.executable, __file__, *arguments, "--folder", str(folder), "--way", way, *["--check"] * check]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=256, help="of the document")
    parser.add_argument("--positions", type=int, default=16, help="tokens that MIMIR's loop is timed over")
    parser.add_argument("--ours", type=int, default=256, help="tokens that ours is timed over, at most all")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of ours")
    parser.add_argument("--shape", choices=tuple(SHAPE), default="base")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--check", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        return work(options.folder, options)
    arguments = sys.argv[1:]
    with tempfile.TemporaryDirectory() as made:
        from mimir_jax.testing import write_mask_model

        shape: dict[str, Any] = {
            **SHAPE[options.shape],
            "vocab_size": VOCAB[options.shape],
            "max_position_embeddings": 512,
        }
        folder = write_mask_model(Path(made), **shape)
        one, other = (run_way(folder, way, arguments, check=True)["scores"] for way in ("ours", "no_grad"))
        tolerance = {"float32": 2e-3, "bfloat16": 0.2}[options.dtype]
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=1e-6)
        rounds = [{way: run_way(folder, way, arguments) for way in WAYS} for _ in range(options.repeats)]
    report(rounds, options)


def report(rounds: list[dict[str, dict[str, Any]]], options: argparse.Namespace) -> None:
    """A table, and everything in JSON."""
    found: dict[str, Any] = {"tokens": options.tokens, "dtype": options.dtype, "ways": {}}
    print(f"{'way':10} {'tokens/s':>9} {'ours is faster by':>24} {'in processor time':>24}")
    for way in WAYS:
        entry = {"tokens_per_second": 1 / min(one[way]["seconds"] for one in rounds)}
        for measure in ("seconds", "processor"):
            ratios = [one[way][measure] / one["ours"][measure] for one in rounds]
            entry[measure] = [statistics.median(ratios), min(ratios), max(ratios)]
        found["ways"][way] = entry
        spread = [f"{r[0]:.2f} ({r[1]:.2f}-{r[2]:.2f})" for r in (entry["seconds"], entry["processor"])]
        print(f"{way:10} {entry['tokens_per_second']:9.1f} {spread[0]:>24} {spread[1]:>24}")
    if options.json:
        options.json.write_text(json.dumps(found), encoding="utf-8")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
