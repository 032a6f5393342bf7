"""Speed and memory of scoring against Hugging Face torch, MIMIR's way, and the machine's limit; always as ratios.

From the root of the repository (see benchmarks/README.md; about a quarter of an hour on 2 cores):

    python benchmarks/throughput.py
    python benchmarks/throughput.py --dtype bfloat16
    python benchmarks/throughput.py --checkpoint ../shared/golden/target

The ways (ways.py says what they do) score the same documents with the same checkpoint, each in a process of its own.
All processes stay alive and are asked in turn, one at a time, because a machine's speed drifts: a ratio is taken of
two runs in the same round. What they compute is compared before any number is printed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from material import SHARED, TOKENIZER, copy_tokenizer, real_documents, write_weights
from transformers import AutoConfig, AutoTokenizer

WAYS = Path(__file__).with_name("ways.py")
BATCH_SIZES = (1, 4, 16)
TOLERANCE = {"float32": {"loss": 1e-4, "min_k++": 1e-3}, "bfloat16": {"loss": 0.05, "min_k++": 0.2}}
TITLES = {
    "ours": "(a) ours",
    "torch": "(b) torch, padded batches of",
    "mimir": "(c) MIMIR's way",
    "products": "(d) matrix products alone",
}


class Worker:
    """A way in a process of its own, and the answers to its runs so far."""

    def __init__(self, way: str, dtype: str, folder: Path, texts: Path):
        self.way, self.dtype = way, dtype
        # One device, whatever the caller's environment simulates; nothing is looked up on the network.
        settings = {"JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"}
        quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}
        self.process = subprocess.Popen(
            [sys.executable, str(WAYS), way, str(folder), str(texts), dtype],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | settings | quiet,
        )
        self.runs: list[dict[str, Any]] = []
        self.weights = 0

    def wait(self) -> None:
        """Until the checkpoint is loaded."""
        self.weights = self._answer()["weights"]

    def run(self) -> None:
        """Score all documents once."""
        assert self.process.stdin is not None
        print("run", file=self.process.stdin, flush=True)
        self.runs.append(self._answer())

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.way}: ended early with status {self.process.wait()}; its messages are above")
        return json.loads(line)

    def end(self) -> None:
        """Let the process end, which it does where its input ends."""
        self.process.communicate()

    @property
    def seconds(self) -> list[float]:
        """Of the timed runs: the first one is the warm-up."""
        return [run["seconds"] for run in self.runs[1:]]

    def scores(self, attack: str) -> np.ndarray:
        return np.array(self.runs[-1]["scores"][attack])


def measure(folder: Path, texts: list[str], dtype: str, repeats: int) -> dict[str, Any]:
    """All ways on one checkpoint; the results as they go into the JSON line."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "texts.json"
        path.write_text(json.dumps(texts), encoding="utf-8")
        workers = [
            Worker("ours", dtype, folder, path),
            *(Worker(f"torch@{size}", dtype, folder, path) for size in BATCH_SIZES),
            Worker("mimir", "float32", folder, path),
            Worker("products", dtype, folder, path),
        ]
        for worker in workers:
            worker.wait()
    ours, exact = workers[0], workers[-2]
    for number in range(repeats + 1):
        for worker in workers:
            worker.run()
            say(f"round {number}{' (warm-up)' if number == 0 else ''}: {worker.way} {worker.runs[-1]['seconds']:.2f} s")
        if number == 0:
            check(workers, exact)
        if number == 1:  # the fastest batch size goes on
            resting = sorted((w for w in workers if w.way.startswith("torch@")), key=lambda w: w.seconds[0])[1:]
            workers = [w for w in workers if w not in resting]
    for worker in workers + resting:
        worker.end()
    results = summarize(workers, resting)
    results |= {"dtype": dtype, "documents": len(texts), "repeats": repeats, "processor": processor()}
    if ours.dtype != exact.dtype:
        results["effect"] = {attack: effect(exact, ours, attack) for attack in ("loss", "min_k++")}
    return results


def check(workers: list[Worker], exact: Worker) -> None:
    """Nobody benchmarks a wrong thing: all ways give each document the same scores, but for rounding."""
    for worker in workers:
        for attack, atol in TOLERANCE[worker.dtype].items():
            if worker.way != "products" and worker is not exact:
                apart = float(np.abs(worker.scores(attack) - exact.scores(attack)).max())
                say(f"{worker.way}, {worker.dtype}: {attack} is within {apart:.1e} of {exact.way}, {exact.dtype}")
                if not apart <= atol:
                    sys.exit(f"{worker.way} computes another {attack} than {exact.way}: more than {atol} apart")


def summarize(workers: list[Worker], resting: list[Worker]) -> dict[str, Any]:
    ours, *others = workers
    facts = workers[-1].runs[-1]["facts"] | ours.runs[-1]["facts"]
    ways: dict[str, Any] = {}
    for worker in workers + resting:
        ways[worker.way] = {
            "dtype": worker.dtype,
            "seconds": min(worker.seconds),
            "tokens_per_second": facts["tokens"] / min(worker.seconds),
            "weights": worker.weights,
            "first_run_over_loaded": worker.runs[0]["over_loaded"],
            "later_runs_over_loaded": max(run["over_loaded"] for run in worker.runs[1:]),
            "over_weights": max(run["over_weights"] for run in worker.runs),
        }
    for worker in others:
        ratios = [theirs / own for theirs, own in zip(worker.seconds, ours.seconds)]
        ways[worker.way]["ours_over_this"] = [statistics.median(ratios), min(ratios), max(ratios)]
    return {"ways": ways, **facts}


def effect(exact: Worker, rounded: Worker, attack: str) -> dict[str, float]:
    """What bfloat16 does to an attack's scores."""
    a, b = exact.scores(attack), rounded.scores(attack)
    (_, correlation), _ = np.corrcoef([np.argsort(np.argsort(x)) for x in (a, b)])
    return {
        "max": float(np.abs(a - b).max()),
        "mean": float(np.abs(a - b).mean()),
        "rank_correlation": float(correlation),
    }


def report(name: str, results: dict[str, Any]) -> None:
    """Print the table."""
    print(
        f"\n{name}, {results['dtype']}; {results['documents']} documents, {results['tokens']:,} tokens; "
        f"{results['processor']}\n"
        f"{results['batches']} batches of shapes {results['shapes']} (rows, time, predicted, reach), "
        f"{results['compiled_shapes']} compiled; padding {results['padding_share']:.1%}; "
        f"{results['flops'] / 1e12:.2f} TFLOP of matrix products\n\n"
        f"{'':34}tokens/s  seconds  GFLOP/s   MiB first  MiB later  over weights   ours / it (min-max)"
    )
    for way, row in results["ways"].items():
        kind, _, size = way.partition("@")
        ratio = "{:.2f} ({:.2f}-{:.2f})".format(*row["ours_over_this"]) if "ours_over_this" in row else ""
        speed = f"{results['flops'] / row['seconds'] / 1e9:9.0f}" if kind in ("ours", "products") else f"{'':9}"
        first, later, weights = (
            row[key] / 2**20 for key in ("first_run_over_loaded", "later_runs_over_loaded", "over_weights")
        )
        title = f"{TITLES[kind]} {size}".rstrip() + (f", {row['dtype']}" if row["dtype"] != results["dtype"] else "")
        print(
            f"{title:34}{row['tokens_per_second']:8,.0f}{row['seconds']:9.2f}{speed}"
            f"{first:12.0f}{later:11.0f}{weights:14.0f}   {ratio}"
        )
    for attack, change in results.get("effect", {}).items():
        print(
            "{}: {} differs from float32 by {max:.2g} at most, {mean:.2g} on average; rank correlation "
            "{rank_correlation:.4f}".format(results["dtype"], attack, **change)
        )


def processor() -> str:
    """The machine in a few words."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'unknown processor'}, {len(os.sched_getaffinity(0))} cores"


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def choose_texts(folder: Path, count: int | None) -> list[str]:
    """The documents to score: those that come with the golden checkpoints, or real ones; none beyond the context."""
    golden = folder.parent / "mimir_scores.json"
    if golden.is_file():
        texts = [document["text"] for document in json.loads(golden.read_text(encoding="utf-8"))["documents"]][:count]
    else:
        texts = real_documents(count or 64)
    context = AutoConfig.from_pretrained(folder).max_position_embeddings
    lengths = [len(ids) for ids in AutoTokenizer.from_pretrained(folder)(texts, verbose=False)["input_ids"]]
    kept = [text for text, length in zip(texts, lengths) if 2 <= length <= context]
    if len(kept) < len(texts):
        say(f"{len(texts) - len(kept)} documents are beyond the model's context and are left out")
    return list(dict.fromkeys(kept))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of (a), (b) and (d)")
    parser.add_argument("--checkpoint", type=Path, help="folder of a GPT-NeoX; default: random, of Pythia-160M's shape")
    parser.add_argument("--documents", type=int, help="at most so many; default: 64, all of a golden checkpoint's")
    parser.add_argument("--repeats", type=int, default=4, help="timed rounds")
    parser.add_argument("--json", type=Path, help="write the results here, too")
    options = parser.parse_args()
    if options.repeats < 1:
        parser.error("--repeats must be at least 1")
    if options.checkpoint is None and not TOKENIZER.is_dir():
        print(f"skipped: Pythia's tokenizer is not at {TOKENIZER.relative_to(SHARED.parent)}; give a --checkpoint")
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder, name = options.checkpoint, str(options.checkpoint)
        if folder is None:
            folder, name = write_weights(Path(scratch)), "Pythia-160M's shape, random weights"
            copy_tokenizer(folder)
        results = {
            "checkpoint": name,
            **measure(folder, choose_texts(folder, options.documents), options.dtype, options.repeats),
        }
    report(name, results)
    line = json.dumps(results)
    if options.json is not None:
        options.json.write_text(line + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
