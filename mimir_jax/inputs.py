"""What attacks may ask for, and how a run comes by it: one provider a name of `attacks.INPUTS`.

A provider first *prepares*, with documents, tokenizer and the model's config at hand but no weights: it reads its
files, makes its passes, and raises whatever is wrong. What it prepares is `Passes`, which the engine runs together
with those of all other inputs; or the input itself; or what its `compute` turns into the input once the model is
there.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int

from mimir_jax import attacks
from mimir_jax.arrays import TokenStats
from mimir_jax.config import ConfigError, RunConfig
from mimir_jax.data.documents import DataError, read_texts
from mimir_jax.data.text_features import rouge1_recall, zlib_bytes
from mimir_jax.data.token_counts import table
from mimir_jax.neighbors import makes
from mimir_jax.report.terminal import Bars
from mimir_jax.scores import Call, Given, scores
from mimir_jax.scoring.gradients import gradient_norms
from mimir_jax.scoring.model import Model
from mimir_jax.scoring.passes import Part, conditional_parts
from mimir_jax.scoring.sampling import check_samples, cut, sample_continuations
from mimir_jax.scoring.store import Store
from mimir_jax.shots import shots
from mimir_jax.target import MOST_TEXTS, Passes, Target


@dataclass(frozen=True)
class Loaded:
    """A model that is there, and how to run it."""

    target: Target
    model: Model
    stats: list[TokenStats]
    """Of the plain documents, [model, time]."""
    score: Callable[[Sequence[Sequence[Part]]], list[TokenStats]]
    """Statistics [model, time] of parts."""
    bars: Bars
    store: Store | None = None
    """Where results are found and kept; process 0's."""

    @cached_property
    def samples(self) -> list[list[list[tuple[float, int]]]]:
        """[model][document][sample] of ROUGE-1 recall and compressed size."""
        return _samples(self)


@dataclass(frozen=True)
class Provider:
    """How the runner comes by an input.

    Attributes:
        prepare: before the weights are read.
        compute: from what was prepared, with the model.
        missing: the setting that the run lacks for it, or None.
        per_model: whether the input has a leading axis of models.
        by_document: whether its last axis is that of documents.
        needs_weights: whether `compute` runs the model by itself, not through `Loaded.score`: what it finds is kept
            and found again, but only while the weights are at hand.
    """

    prepare: Callable[[Target], Any]
    compute: Callable[[Loaded, Any], np.ndarray] | None = None
    missing: Callable[[RunConfig], str | None] = lambda run: None
    per_model: bool = True
    by_document: bool = True
    needs_weights: bool = False


VARIANTS = ("swap_stats", "neighbor_stats")  # those with an axis of versions


def plain(target: Target) -> Passes:
    """The documents themselves."""
    return Passes([[target.plain(tokens)] for tokens in target.tokens])


def versions(target: Target, name: str) -> Passes:
    """Versions of the documents; each shares its document's passes up to the first token that differs."""
    texts = target.texts[name](target.run, target.documents, target.bars, target.note)
    most = max(map(len, texts), default=0)
    flat = target.tokenize([text for of_one in texts for text in of_one], name.removesuffix("_stats"))
    tokens = iter(flat)
    none: list[Part] = []
    parts = [
        [target.variant(i, next(tokens)) for _ in of_one] + [none] * (most - len(of_one))
        for i, of_one in enumerate(texts)
    ]
    if name in VARIANTS:
        own = [part for variants in parts for variant in variants for part in _unshared(variant)]
        read = sum(len(part.one) for part in own)
        whole = sum(len(one.context_ids) + len(one.text_ids) for one in flat)
        saved = 1 - read / max(whole, 1)
        target.note(f"{name}: {saved:.0%} of the tokens are read once, with the document that they share them with")
    return Passes(parts, name in VARIANTS, without_versions(name, texts))


def _unshared(variant: list[Part]) -> list[Part]:
    """What a version is read for by itself: not its document, where it goes on from there."""
    return variant[1:] if variant and variant[-1].one.prefix is not None else variant


def without_versions(name: str, texts: Sequence[Sequence[str]]) -> dict[int, str]:
    """Why documents have no score of the attacks that take an input of versions, where those have no better reason."""
    return {i: "it has no neighbor" for i, of_one in enumerate(texts) if not of_one and name == "neighbor_stats"}


def candidates(target: Target) -> Int[np.ndarray, " prefix"]:
    """Documents that em_mia takes as prefixes: drawn at random, of those that leave room for others."""
    if target.run.prefixes < 2:
        raise ConfigError(f"prefixes: {target.run.prefixes}, must be at least 2")
    main = target.tokens[: target.main]
    possible = [i for i, one in enumerate(main) if 0 < len(one.text_ids) <= target.config.context // 2]
    if len(possible) < 2:
        raise ConfigError("em_mia: fewer than two documents are short enough to be prefixes of others")
    chosen = random.Random(target.run.seed).sample(possible, min(target.run.prefixes, len(possible)))
    if len(chosen) < len(main):
        target.note(
            f"em_mia takes {len(chosen)} of {len(main)} documents as prefixes (--prefixes): its scores are "
            "shares of pairs, not minus AUC"
        )
    return np.array(sorted(chosen), np.int32)


def conditional_log_likelihoods(
    loaded: Loaded, prefixes: Int[np.ndarray, " prefix"]
) -> Float[np.ndarray, "model prefix doc"]:
    """LL of each document after each of the prefixes; NaN after itself and where both do not fit."""
    tokens, context = loaded.target.tokens, loaded.target.config.context
    found = np.full((len(loaded.model.sources), len(prefixes), len(tokens)), np.nan, np.float32)
    for row, p in enumerate(prefixes):
        prefix = np.array([*tokens[p].context_ids, *tokens[p].text_ids], np.int32)
        fitting = [i for i, one in enumerate(tokens) if i != p and 0 < len(one.text_ids) <= context - len(prefix)]
        if fitting:
            parts = [conditional_parts(prefix, len(prefix), *tokens[i]) for i in fitting]
            found[:, row, fitting] = log_likelihoods(loaded.score(parts))
    return found


def log_likelihoods(stats: Sequence[TokenStats]) -> Float[np.ndarray, "*model doc"]:
    """LL of each document from its statistics [*model, time]; NaN where it has no scored token."""
    sums = [np.sum(one.log_prob * one.mask, axis=-1, dtype=np.float64) for one in stats]
    counts = [one.mask.sum(axis=-1) for one in stats]
    with np.errstate(invalid="ignore"):
        return np.stack([total / n for total, n in zip(sums, counts)], axis=-1).astype(np.float32)


def min_k_plus_plus_scores(loaded: Loaded) -> Float[np.ndarray, "model doc"]:
    """What em_mia begins with."""
    call = Call(attacks.parse("min_k++"))
    return scores([call], {"stats": Given(loaded.stats)}, len(loaded.model.sources), len(loaded.stats))[call.column]


def gradients(loaded: Loaded) -> Float[np.ndarray, "model norm doc"]:
    """Norms of each document's gradient."""
    passes = [[part.one for part in loaded.target.plain(tokens)] for tokens in loaded.target.tokens]
    with loaded.bars("gradients", "tokens") as bar:
        norms = gradient_norms(loaded.model, passes, on_start=bar.start, on_batch=bar.advance, store=loaded.store)
    return norms if loaded.model.stacked else norms[None]


def _samples(loaded: Loaded) -> list[list[list[tuple[float, int]]]]:
    target, settings = loaded.target, loaded.target.run.samples
    halves = [cut(tokens, settings.prefix, target.config.context) for tokens in target.tokens]
    with loaded.bars("sample", "tokens") as bar:
        sampled: Any = sample_continuations(
            loaded.model,
            [given for given, _ in halves],
            [len(rest) for _, rest in halves],
            settings.count,
            settings.top_k,
            settings.temperature,
            target.run.seed,
            target.run.batch_tokens,
            bar.start,
            bar.advance,
            loaded.store,
        )
    decode = partial(target.tokenizer.decode, skip_special_tokens=True)
    truths = [decode(rest) for _, rest in halves]

    def measured(ids: list[int], truth: str) -> tuple[float, int]:
        text = decode(ids)
        return rouge1_recall(text, truth), int(zlib_bytes([text])[0])

    models = sampled if loaded.model.stacked else [sampled]
    return [[[measured(ids, truth) for ids in one] for one, truth in zip(of_model, truths)] for of_model in models]


def samples(loaded: Loaded, which: int) -> np.ndarray:
    """[model, sample, doc] of one of what is measured of samples; NaN (or 0, of sizes) where there is none."""
    count = loaded.target.run.samples.count
    empty = (np.nan, 0)
    rows = [
        [[one[which] for one in [*of_document, *[empty] * (count - len(of_document))]] for of_document in of_model]
        for of_model in loaded.samples
    ]
    return np.array(rows, (np.float32, np.int32)[which]).swapaxes(-1, -2)


def known_nonmembers(target: Target) -> list[str]:
    """What quantile is fitted on.

    Raises:
        DataError: one of them is evaluated, or they are too few.
    """
    from mimir_jax.training.quantile import NEEDED

    settings = target.run.quantile
    assert settings.nonmembers is not None
    texts = list(read_texts(settings.nonmembers, settings.text_field, MOST_TEXTS))
    if len(texts) < NEEDED:
        raise DataError(f"{settings.nonmembers}: {len(texts)} texts; quantile needs at least {NEEDED} to be fitted on")
    evaluated = {document.text for document in target.documents}
    if both := sum(text in evaluated for text in texts):
        raise DataError(
            f"{settings.nonmembers}: {both} of its texts are evaluated, too; quantile must be fitted on others"
        )
    return texts


def loss_quantiles(loaded: Loaded, texts: list[str]) -> Float[np.ndarray, "model alpha doc"]:
    """Conditional quantiles of LL, fitted on known non-members, of the documents."""
    from mimir_jax.training.quantile import fit_quantiles  # optax and scikit-learn, which only this attack needs

    target = loaded.target
    stats = loaded.score([target.plain(tokens) for tokens in target.tokenize(texts, "known non-member")])
    fit = fit_quantiles(texts, log_likelihoods(stats), target.run.seed)
    for note in fit.notes():
        target.note(note)
    return np.asarray(fit.predict([document.text for document in target.documents]))


def token_counts(
    target: Target, *, per_document: bool = False, vocab: int | None = None, special: bool = False
) -> Float32[np.ndarray, " vocab"]:
    """Occurrences of each id in a corpus, or the number of its texts that have it.

    Args:
        target: with the tokenizer.
        per_document: count texts.
        vocab: number of ids, if not the tokenizer's own.
        special: whether special tokens count that the tokenizer adds to a text.
    """

    def encode(texts: list[str]) -> list[list[int]]:
        ids: list[list[int]] = target.tokenizer(texts, add_special_tokens=special, verbose=False)["input_ids"]
        return ids

    size = len(target.tokenizer) if vocab is None else vocab
    # Tables that are kept tell tokenizers apart: with special tokens it is another one, if it adds any.
    digest = target.tokenizer_digest + ("+special" if special and encode([""])[0] else "")
    counted = table(target.run.token_counts, digest, encode, size, read_texts)
    for note in counted.notes:
        target.note(note)
    return (counted.documents if per_document else counted.counts).astype(np.float32)


def _unlike_ours(run: RunConfig) -> str | None:
    given = run.neighbors
    if given.documents or (given.members and given.nonmembers) or makes(given):
        return None
    return (
        "give --neighbors.members and --neighbors.nonmembers, or --neighbors.documents, or the mask-filling model that "
        "makes them: --neighbors.model"
    )


def _nothing(target: Target) -> None:
    """Nothing to prepare."""


def _sampling(target: Target) -> None:
    check_samples(target.run.samples)


PROVIDERS: dict[str, Provider] = {
    "stats": Provider(plain),
    "zlib_bytes": Provider(lambda target: zlib_bytes([d.text for d in target.documents]), per_model=False),
    "lowercase_stats": Provider(partial(versions, name="lowercase_stats")),
    "swap_stats": Provider(partial(versions, name="swap_stats")),
    "neighbor_stats": Provider(partial(versions, name="neighbor_stats"), missing=_unlike_ours),
    "nonmember_prefix_stats": Provider(partial(shots, is_member=False)),
    "member_prefix_stats": Provider(partial(shots, is_member=True)),
    "token_counts": Provider(token_counts, per_model=False, by_document=False),
    "grad_norms": Provider(_nothing, lambda loaded, _: gradients(loaded), needs_weights=True),
    "sample_recall": Provider(_sampling, lambda loaded, _: samples(loaded, 0), needs_weights=True),
    "sample_zlib_bytes": Provider(_sampling, lambda loaded, _: samples(loaded, 1), needs_weights=True),
    "loss_quantiles": Provider(
        known_nonmembers,
        loss_quantiles,
        missing=lambda run: None if run.quantile.nonmembers else "give known non-members: --quantile.nonmembers",
    ),
    "log_likelihood": Provider(_nothing, lambda loaded, _: log_likelihoods(loaded.stats)),
    "min_k_plus_plus_score": Provider(_nothing, lambda loaded, _: min_k_plus_plus_scores(loaded)),
    "conditional_log_likelihood": Provider(candidates, conditional_log_likelihoods),
    "prefix_index": Provider(candidates, per_model=False, by_document=False),
}
"""By name; the inputs that come from references are not here: they have models of their own."""
