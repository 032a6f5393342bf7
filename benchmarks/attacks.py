"""The cost of the whole MIMIR suite, attack by attack: ours against MIMIR's way of computing each.

From the root of the repository (see benchmarks/README.md; about a quarter of an hour on 2 cores):

    python benchmarks/attacks.py
    python benchmarks/attacks.py --checkpoint ../shared/golden/target --reference ../shared/golden/reference

Sixteen real documents, eight a side, are attacked by loss, zlib, min_k and min_k++ (one plain pass), ref, ne with 5 and
with 25 neighbors, recall, dc_pdd and gradnorm, in float32. Neighbors have one word swapped each, as MIMIR's default
strategy makes them, and are given. Either side is a process of its own, and they take turns, attack by attack; ours
runs everything once before, to compile, and that time is told apart. Each attack computes what it needs beyond the
plain pass, so that the total is that of a run of them all. What both compute is compared before any number is
printed. The ratio is also told for the time of the processors, which other load on the machine does not change.
"""

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from material import SHARED, TOKENIZER, copy_tokenizer, real_documents, write_weights

ATTACKS = ("plain", "ref", "ne@5", "ne@25", "recall", "dc_pdd", "gradnorm")
TITLES = {"plain": "loss, zlib, min_k, min_k++", "ne@5": "ne, 5 neighbors", "ne@25": "ne, 25 neighbors"}
RELATIVE = 2e-3
ABSOLUTE = {"ref": 1e-4, "ne": 1e-4}  # of differences of losses, which cancel
Scores = dict[str, list[float]]


def swapped(text: str, count: int, seed: int) -> list[str]:
    """Versions of a text with one word replaced by another of its words."""
    draw, words = random.Random(seed), text.split(" ")
    versions = []
    for _ in range(count):
        place, other = draw.randrange(1, len(words)), draw.randrange(len(words))
        versions.append(" ".join([*words[:place], words[other] + "s", *words[place + 1 :]]))
    return versions


def work(folder: Path, reference: Path, texts: list[str], shots: list[str], vocab: int) -> dict[str, Any]:
    """What either side gets."""
    return {
        "folder": str(folder),
        "reference": str(reference),
        "texts": texts,
        "ne@5": [swapped(text, 5, i) for i, text in enumerate(texts)],
        "ne@25": [swapped(text, 25, 1000 + i) for i, text in enumerate(texts)],
        "shots": shots,
        "counts": np.random.default_rng(0).integers(0, 1000, vocab).tolist(),
    }


def ours(given: dict[str, Any]) -> dict[str, Callable[[], Scores]]:
    """Each attack as a run computes it: passes through the engine, then the registry's functions."""
    from mimir_jax import attacks
    from mimir_jax.arrays import pad_documents
    from mimir_jax.scoring.documents import score_documents, score_parts
    from mimir_jax.scoring.gradients import gradient_norms
    from mimir_jax.scoring.model import load_model
    from mimir_jax.scoring.passes import Part, conditional_parts, document_passes, variant_parts
    from mimir_jax.scoring.tokens import Tokens, tokenize

    model, other = load_model(given["folder"]), load_model(given["reference"])
    texts, context = given["texts"], model.decoder.config.context
    sizes = np.array([len(zlib.compress(text.encode())) for text in texts])
    state: dict[str, Any] = {}

    def tokens(some: list[str]) -> list[Tokens]:
        return tokenize(model.tokenizer, some, some, model.decoder.config.vocab)

    def plain() -> Scores:
        state["stats"] = stats = pad_documents(score_documents(model, texts))
        return {
            "loss": np.asarray(attacks.loss(stats)).tolist(),
            "zlib": np.asarray(attacks.zlib(stats, sizes)).tolist(),
            "min_k": np.asarray(attacks.min_k(stats)).tolist(),
            "min_k++": np.asarray(attacks.min_k_plus_plus(stats)).tolist(),
        }

    def ref() -> Scores:
        stats = pad_documents(score_documents(other, texts))
        return {"ref": np.asarray(attacks.ref(state["stats"], stats)).tolist()}

    def ne(count: int) -> Scores:
        flat = [text for near in given[f"ne@{count}"] for text in near]
        own, near = tokens(texts), tokens(flat)
        parts = [
            variant_parts(one.context_ids, one.text_ids, near[i * count + j].text_ids, context)
            for i, one in enumerate(own)
            for j in range(count)
        ]
        stats = score_parts(model, parts)
        by_document = [pad_documents(stats[i * count : (i + 1) * count]) for i in range(len(texts))]
        scores = attacks.ne(state["stats"], pad_documents(by_document))
        return {"ne": np.asarray(scores).tolist()}

    def recall() -> Scores:
        shots = [i for one in tokens(given["shots"]) for i in one.text_ids]
        prefix = np.array(shots, np.int32)
        parts = [conditional_parts(prefix, len(prefix), *one) for one in tokens(texts)]
        stats = pad_documents(score_parts(model, parts))
        return {"recall": np.asarray(attacks.recall(state["stats"], stats)).tolist()}

    def dc_pdd() -> Scores:
        eos = model.tokenizer.eos_token_id
        parts = [[Part(one) for one in document_passes([eos], t.text_ids, context)] for t in tokens(texts)]
        stats = pad_documents(score_parts(model, parts))
        return {"dc_pdd": np.asarray(attacks.dc_pdd(stats, np.array(given["counts"], np.float32))).tolist()}

    def gradnorm() -> Scores:
        passes = [document_passes(one.context_ids, one.text_ids, context) for one in tokens(texts)]
        return {"gradnorm": np.asarray(attacks.gradnorm(gradient_norms(model, passes))).tolist()}

    return {
        "plain": plain,
        "ref": ref,
        "ne@5": lambda: ne(5),
        "ne@25": lambda: ne(25),
        "recall": recall,
        "dc_pdd": dc_pdd,
        "gradnorm": gradnorm,
    }


def mimir(given: dict[str, Any]) -> dict[str, Callable[[], Scores]]:
    """Each attack as the published MIMIR goes about it, in our words, with the authors' signs and our neighbors' mean.

    One text at a time; all log-probs over the vocabulary to the CPU; a Python loop over tokens. Neighbors are padded
    batches of four, with a Python loop over their tokens; gradients go through a list of one slice a token.
    """
    import torch
    from ways import torch_model

    model, tokenizer, _ = torch_model(Path(given["folder"]), "float32")
    other, _, _ = torch_model(Path(given["reference"]), "float32")
    texts, context = given["texts"], model.config.max_position_embeddings
    stride = context // 2
    state: dict[str, list[float]] = {}

    def log_probs(net: Any, ids: Any) -> tuple[list[Any], list[Any]]:
        """Log-prob of each token, and the vocabulary's at its place."""
        of_tokens, rows = [], []
        for start in range(0, ids.shape[1], stride):
            stop = min(start + stride, ids.shape[1])
            window = ids[:, max(start + stride - context, 0) : stop]
            labels = window.clone()
            labels[:, : window.shape[1] - (stop - start)] = -100
            logits = net(window, labels=labels).logits.cpu()
            found = torch.log_softmax(logits[..., :-1, :].contiguous(), dim=-1)
            for position, token in enumerate(labels[0, 1:].cpu()):
                if token != -100:
                    of_tokens.append(found[0, position, token])
                    rows.append(found[0, position])
        return of_tokens, rows

    def encode(text: str) -> Any:
        return tokenizer(text, return_tensors="pt").input_ids

    @torch.no_grad()
    def plain() -> Scores:
        scores: Scores = {"loss": [], "zlib": [], "min_k": [], "min_k++": []}
        for text in texts:
            found, rows = log_probs(model, encode(text))
            values = [one.item() for one in found]
            loss = float(np.mean(values))
            count = max(1, int(0.2 * len(values)))
            distributions = torch.stack(rows)
            mean = (torch.exp(distributions) * distributions).sum(-1)
            var = (torch.exp(distributions) * torch.square(distributions)).sum(-1) - torch.square(mean)
            z = (np.array(values) - mean.numpy()) / var.sqrt().numpy()
            scores["loss"].append(loss)
            scores["zlib"].append(loss / len(zlib.compress(text.encode())))
            scores["min_k"].append(float(np.mean(sorted(values)[:count])))
            scores["min_k++"].append(float(np.mean(sorted(z)[:count])))
        state["loss"] = scores["loss"]
        return scores

    @torch.no_grad()
    def ref() -> Scores:
        losses = [float(np.mean([one.item() for one in log_probs(other, encode(text))[0]])) for text in texts]
        return {"ref": [own - theirs for own, theirs in zip(state["loss"], losses)]}

    @torch.no_grad()
    def ne(count: int) -> Scores:
        scores = []
        pad = len(tokenizer)
        for own, near in zip(state["loss"], given[f"ne@{count}"]):
            losses = []
            for start in range(0, count, 4):
                batch = [tokenizer(text).input_ids for text in near[start : start + 4]]
                longest = max(map(len, batch))
                ids = torch.tensor([[*one, *[0] * (longest - len(one))] for one in batch])
                mask = torch.tensor([[1] * len(one) + [0] * (longest - len(one)) for one in batch])
                labels = torch.where(mask == 1, ids, pad)
                values: list[list[float]] = [[] for _ in batch]
                for begin in range(0, longest, stride):
                    stop = min(begin + stride, longest)
                    window = slice(max(begin + stride - context, 0), stop)
                    targets = labels[:, window].clone()
                    targets[:, : targets.shape[1] - (stop - begin)] = -100
                    loss_labels = torch.where(targets == pad, -100, targets)
                    logits = model(ids[:, window], attention_mask=mask[:, window], labels=loss_labels).logits.cpu()
                    found = torch.log_softmax(logits[..., :-1, :].contiguous(), dim=-1)
                    for i, sample in enumerate(targets[:, 1:]):
                        for j, token in enumerate(sample):
                            if token not in (-100, pad):
                                values[i].append(found[i, j, token].item())
                losses += [float(np.mean(one)) for one in values]
            scores.append(own - float(np.mean(losses)))
        return {"ne": scores}

    @torch.no_grad()
    def recall() -> Scores:
        prefix = torch.cat([encode(text) for text in given["shots"]], dim=1)
        scores = []
        for text, own in zip(texts, state["loss"]):
            ids = encode(text)
            whole = torch.cat([prefix, ids], dim=1)
            labels = whole.clone()
            labels[:, : prefix.shape[1] + 1] = -100  # the first token too, which the plain pass does not score
            scores.append(-model(whole, labels=labels).loss.item() / own)
        return {"recall": scores}

    @torch.no_grad()
    def dc_pdd() -> Scores:
        counts = np.array(given["counts"], np.float64)
        frequency = (counts + 1) / (counts.sum() + len(counts))
        scores = []
        for text in texts:
            ids = encode(text)
            found, _ = log_probs(model, torch.cat([torch.tensor([[tokenizer.eos_token_id]]), ids], dim=1))
            p = np.exp([one.item() for one in found])
            seen: list[int] = []
            first = []
            for i, token in enumerate(ids[0].tolist()):
                if token not in seen:
                    seen.append(token)
                    first.append(i)
            calibrated = p[first] * np.log(1 / frequency[ids[0, first]])
            scores.append(float(np.mean(np.minimum(calibrated, 0.01))))
        return {"dc_pdd": scores}

    def gradnorm() -> Scores:
        scores = []
        for text in texts:
            model.zero_grad()
            found, _ = log_probs(model, encode(text))
            (-torch.mean(torch.stack(found))).backward()
            norms = [one.grad.detach().norm(math.inf) for one in model.parameters() if one.grad is not None]
            scores.append(-torch.stack(norms).mean().item())
            model.zero_grad()
        return {"gradnorm": scores}

    return {
        "plain": plain,
        "ref": ref,
        "ne@5": lambda: ne(5),
        "ne@25": lambda: ne(25),
        "recall": recall,
        "dc_pdd": dc_pdd,
        "gradnorm": gradnorm,
    }


def serve(side: str, path: str) -> None:
    """Answer the name of an attack on stdin with its scores and seconds."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    ways = {"ours": ours, "mimir": mimir}[side](json.loads(Path(path).read_text(encoding="utf-8")))
    for line in sys.stdin:
        start, busy = time.perf_counter(), time.process_time()
        scores = ways[line.strip()]()
        seconds, cpu = time.perf_counter() - start, time.process_time() - busy
        print(json.dumps({"seconds": seconds, "cpu": cpu, "scores": scores}), file=replies, flush=True)


class Side:
    """A side in a process of its own."""

    def __init__(self, name: str, path: Path):
        settings = {"JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"}
        quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}
        command = [sys.executable, __file__, "--serve", name, str(path)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | settings | quiet
        )

    def ask(self, attack: str) -> dict[str, Any]:
        """Seconds and scores of an attack."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(attack, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of {attack} ended: {self.process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure(given: dict[str, Any], repeats: int) -> dict[str, Any]:
    """Seconds of each attack on either side; the fastest of `repeats` for ours, which also has a first run."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "work.json"
        path.write_text(json.dumps(given), encoding="utf-8")
        sides = {name: Side(name, path) for name in ("ours", "mimir")}
        try:
            results = {}
            for attack in ATTACKS:
                first = sides["ours"].ask(attack)
                theirs = sides["mimir"].ask(attack)
                later = [sides["ours"].ask(attack) for _ in range(repeats)]
                compare(later[-1]["scores"], theirs["scores"])
                results[attack] = {
                    "ours": min(one["seconds"] for one in later),
                    "ours_first": first["seconds"],
                    "mimir": theirs["seconds"],
                    "ours_cpu": min(one["cpu"] for one in later),
                    "mimir_cpu": theirs["cpu"],
                }
                print(f"{attack}: {results[attack]}", file=sys.stderr, flush=True)
        finally:
            for side in sides.values():
                side.close()
    total = {key: sum(row[key] for row in results.values()) for key in results["plain"]}
    return {"attacks": results, "total": total}


def compare(own: Scores, theirs: Scores) -> None:
    """Both sides must have computed the same.

    Raises:
        AssertionError: they did not.
    """
    for name, values in own.items():
        np.testing.assert_allclose(values, theirs[name], rtol=RELATIVE, atol=ABSOLUTE.get(name, 0), err_msg=name)


def report(name: str, results: dict[str, Any]) -> None:
    """Print the table."""
    print(f"\n{name}, {results['documents']} documents, {results['tokens']:,} tokens, float32; seconds")
    print(f"{'':30}{'ours':>8}{'first':>8}{'MIMIR':>9}   MIMIR / ours, and of the processors' time")
    for attack, row in [*results["attacks"].items(), ("total", results["total"])]:
        title = TITLES.get(attack, attack)
        ratio, busy = row["mimir"] / row["ours"], row["mimir_cpu"] / row["ours_cpu"]
        print(f"{title:30}{row['ours']:8.2f}{row['ours_first']:8.2f}{row['mimir']:9.2f}   {ratio:.1f}  {busy:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--checkpoint", type=Path, help="folder of a GPT-NeoX; default: random, of Pythia-160M's shape")
    parser.add_argument("--reference", type=Path, help="folder of the reference; default: the checkpoint again")
    parser.add_argument("--documents", type=int, default=16, help="how many")
    parser.add_argument("--shots", type=int, default=1, help="of recall; they must fit the context with any document")
    parser.add_argument("--repeats", type=int, default=1, help="timed runs of ours")
    parser.add_argument("--json", type=Path, help="write the results here, too")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(*options.serve)
        return
    if options.checkpoint is None and not TOKENIZER.is_dir():
        print(f"skipped: Pythia's tokenizer is not at {TOKENIZER.relative_to(SHARED.parent)}; give a --checkpoint")
        return
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as scratch:
        folder, name = options.checkpoint, str(options.checkpoint)
        if folder is None:
            folder, name = write_weights(Path(scratch)), "Pythia-160M's shape, random weights"
            copy_tokenizer(folder)
        texts = real_documents(options.documents + options.shots)
        texts, shots = texts[: options.documents], texts[options.documents :]
        tokenizer = AutoTokenizer.from_pretrained(folder)
        given = work(folder, options.reference or folder, texts, shots, len(tokenizer))
        results = measure(given, options.repeats)
    results |= {"documents": len(texts), "tokens": sum(map(len, tokenizer(texts).input_ids))}
    report(name, results)
    line = json.dumps(results)
    if options.json is not None:
        options.json.write_text(line + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
