"""The ways of scoring that throughput.py compares; each runs in a process of its own, so that its memory is its own.

`python ways.py WAY FOLDER TEXTS DTYPE` loads a checkpoint and says so in a line of JSON; then every line on stdin
makes it score the texts (a JSON list) once, and it answers with seconds, memory and scores. Ways:

    ours        (a) `score_documents`, at its default batch size.
    torch@B     (b) Hugging Face torch as one would write it well: documents sorted by length, right-padded batches
                of B with an attention mask, statistics vectorised over the float32 logits [batch, time, vocab].
    mimir       (c) as the published MIMIR goes about it, in our words: one text at a time in windows of which each
                adds half a context, with labels, so that the model computes a loss too; log-probs over the whole
                vocabulary to the CPU; a Python loop over the tokens that gathers each one's log-prob and row of the
                vocabulary; the rows stacked, and min_k++'s moments of them.
    products    (d) the matrix products of (a) alone, as the limit that the machine sets (see products.py).

(a) to (c) start from texts and end with every token's statistics on the host. Every way may use all processors.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from memory import Peak, allowed_processors, resident

SAMPLING = 0.01  # seconds between two looks at the memory


class Predicted(NamedTuple):
    """Of each predicted token of a document: what loss and min_k++ are made of."""

    log_prob: np.ndarray
    mean: np.ndarray
    var: np.ndarray


class Way(NamedTuple):
    """A way that is ready to run.

    Attributes:
        run: scores all texts; None where a way has no scores.
        weights: bytes of the model's parameters.
        facts: what else there is to say, asked for after the runs.
    """

    run: Callable[[], list[Predicted] | None]
    weights: int
    facts: Callable[[], dict[str, Any]] = dict


def ours(folder: Path, texts: list[str], dtype: str) -> Way:
    """(a)"""
    import jax

    from mimir_jax.scoring.documents import score_documents
    from mimir_jax.scoring.engine import score_batch
    from mimir_jax.scoring.model import load_model

    model = load_model(folder, dtype=dtype)

    def run() -> list[Predicted]:
        documents = score_documents(model, texts)
        return [Predicted(*(np.asarray(x)[one.mask] for x in (one.log_prob, one.mean, one.var))) for one in documents]

    def facts() -> dict[str, Any]:
        return {"compiled_shapes": score_batch._cache_size()}  # type: ignore[attr-defined]

    return Way(run, sum(leaf.nbytes for leaf in jax.tree.leaves(model.decoder)), facts)


def products(folder: Path, texts: list[str], dtype: str) -> Way:
    """(d)"""
    from products import Products

    made = Products(folder, texts, dtype)
    return Way(made.run, made.weights, lambda: made.facts)


def torch_model(folder: Path, dtype: str) -> tuple[Any, Any, int]:
    """Hugging Face's model and tokenizer, and the bytes of the parameters."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(allowed_processors())
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), attn_implementation="sdpa").eval()
    # Weights in a mapped file are resident only once they have been read.
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    return model, AutoTokenizer.from_pretrained(folder), weights


def torch_batches(folder: Path, texts: list[str], dtype: str, batch: int) -> Way:
    """(b)"""
    import torch

    model, tokenizer, weights = torch_model(folder, dtype)

    @torch.inference_mode()
    def run() -> list[Predicted]:
        ids = tokenizer(texts)["input_ids"]
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        results: list[Predicted | None] = [None] * len(ids)
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            lengths = torch.tensor([len(ids[i]) for i in chosen])
            tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids[i]) for i in chosen], batch_first=True)
            mask = (torch.arange(tokens.shape[1]) < lengths[:, None]).long()
            logits = model(tokens, attention_mask=mask, use_cache=False).logits[:, :-1].float()
            targets = tokens[:, 1:, None]
            log_probs = logits.log_softmax(-1)
            probs = log_probs.exp()
            log_prob = log_probs.gather(-1, targets)
            mean = (probs * log_probs).sum(-1)
            var = (probs * log_probs.square()).sum(-1) - mean.square()
            highest = log_probs.amax(-1)
            rank = (log_probs > log_prob).sum(-1) + 1
            stats = [x.numpy() for x in (log_prob[..., 0], mean, var, highest, rank)]
            for row, i in enumerate(chosen):
                results[i] = Predicted(*(x[row, : len(ids[i]) - 1] for x in stats[:3]))
        return [result for result in results if result is not None]

    return Way(run, weights)


def mimir(folder: Path, texts: list[str], dtype: str) -> Way:
    """(c)"""
    import torch

    model, tokenizer, weights = torch_model(folder, dtype)

    context = model.config.max_position_embeddings
    stride = context // 2

    def score(text: str) -> Predicted:
        ids = tokenizer(text, return_tensors="pt").input_ids
        token_log_probs, rows = [], []
        for start in range(0, ids.shape[1], stride):
            stop = min(start + stride, ids.shape[1])
            window = ids[:, max(start + stride - context, 0) : stop]
            labels = window.clone()
            labels[:, : window.shape[1] - (stop - start)] = -100
            logits = model(window, labels=labels).logits.cpu()  # the labels make it compute a loss, which is not used
            log_probs = torch.log_softmax(logits[..., :-1, :].contiguous(), dim=-1)
            for position, token in enumerate(labels[0, 1:].cpu()):
                if token != -100:
                    token_log_probs.append(log_probs[0, position, token].item())
                    rows.append(log_probs[0, position])
        distributions = torch.stack(rows)
        weights = distributions.exp()
        mean = (weights * distributions).sum(-1)
        var = (weights * distributions.square()).sum(-1) - mean.square()
        return Predicted(np.array(token_log_probs), mean.numpy(), var.numpy())

    @torch.no_grad()
    def run() -> list[Predicted]:
        return [score(text) for text in texts]

    return Way(run, weights)


def make(name: str, folder: Path, texts: list[str], dtype: str) -> Way:
    """The way of that name (see the module)."""
    if name.startswith("torch@"):
        return torch_batches(folder, texts, dtype, int(name.removeprefix("torch@")))
    return {"ours": ours, "products": products, "mimir": mimir}[name](folder, texts, dtype)


def scores(documents: list[Predicted]) -> dict[str, list[float]]:
    """Two attacks in NumPy, since torch's processes have no JAX; formulas as in `mimir_jax.attacks`."""
    loss, min_k_plus_plus = [], []
    for log_prob, mean, var in documents:
        z = np.sort((log_prob - mean) / np.sqrt(np.maximum(var, 1e-12)))
        loss.append(float(np.mean(log_prob, dtype=np.float64)))
        min_k_plus_plus.append(float(np.mean(z[: max(1, int(0.2 * len(z)))], dtype=np.float64)))
    return {"loss": loss, "min_k++": min_k_plus_plus}


def import_libraries(name: str) -> None:
    """So that the memory of imports is not taken for that of loading."""
    if name in ("ours", "products"):
        import jax

        import mimir_jax  # noqa: F401

        jax.devices()
    else:
        import torch  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401


def main(name: str, folder: str, texts: str, dtype: str) -> None:
    # Whatever libraries print goes to stderr; the protocol has stdout for itself.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def reply(**message: Any) -> None:
        print(json.dumps(message), file=replies, flush=True)

    import_libraries(name)
    imported = resident()
    way = make(name, Path(folder), json.loads(Path(texts).read_text(encoding="utf-8")), dtype)
    loaded = resident()
    reply(weights=way.weights)
    for _ in sys.stdin:
        with Peak(resident, SAMPLING) as peak:
            start = time.perf_counter()
            documents = way.run()
            seconds = time.perf_counter() - start
        reply(
            seconds=seconds,
            over_loaded=peak.bytes - loaded,
            over_weights=peak.bytes - imported - way.weights,
            scores=None if documents is None else scores(documents),
            facts=way.facts(),
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
