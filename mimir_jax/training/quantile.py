"""The regression behind attack `quantile`: which log-likelihood few non-members of a text's kind exceed.

A small network reads features of the text that need no language model and says where its LL lies and how far it
spreads upwards. It learns from texts that are known to be no members, by the pinball loss of Koenker and Bassett
(1978) for all quantiles at once. Many networks are trained, each without some parts of the texts, and their mean is
used. How many spreads above its place a text's LL is, by the networks that have not seen it, gives the quantiles
their shape: of some hundred texts a few lie above the highest, too few for a network to learn them by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Float32, Int, Key

from mimir_jax.arrays import AnyArray
from mimir_jax.data.readers import DataError
from mimir_jax.data.text_features import zlib_bytes

ALPHAS = tuple(percent / 100 for percent in range(1, 11))
"""Shares of non-members above their quantile, in the order of the axis."""

TRAINED = (*ALPHAS, 0.2, 0.3, 0.4, 0.5)  # the further ones say more of where a text's LL lies
NEEDED = 100  # texts: one of them is expected above the quantile of the smallest alpha
FOLDS = 5  # parts; each network has one held out and another to say when to stop
NETWORKS = [(held, stop) for held in range(FOLDS) for stop in range(FOLDS) if held != stop]
HASHED = 1 << 14  # n-grams are hashed to so many columns ...
COMPONENTS = 32  # ... of which so many directions are kept
HIDDEN = 32
LEARNING_RATE = 1e-2
WEIGHT_DECAY = 0.1
STEPS, PATIENCE = 2000, 100  # at most so many; stop after so many without a better loss
CONFIDENCE = 0.95  # of the calibration's intervals


class Calibration(NamedTuple):
    """Of each model and alpha, the share of texts above quantiles that were fitted without them.

    Attributes:
        share: expected to be alpha.
        low: of its interval (Wilson 1927).
        high: likewise.
    """

    share: Float[np.ndarray, "model alpha"]
    low: Float[np.ndarray, "model alpha"]
    high: Float[np.ndarray, "model alpha"]


@dataclass(frozen=True)
class Fit:
    """A fitted regression; its arrays have a model axis, of 1 where there is one model.

    Attributes:
        n_texts: with a log-likelihood: what was fitted on.
        left_out: without one.
        calibration: on held-out texts.
        features: what the networks read.
        networks: [model, network].
        shape: the quantiles of how many spreads LL is above its place, ascending as alpha descends.
        stacked: whether predictions have a model axis.
    """

    n_texts: Int[np.ndarray, " model"]
    left_out: Int[np.ndarray, " model"]
    calibration: Calibration
    features: "TextFeatures"
    networks: "Networks"
    shape: Float32[np.ndarray, "model alpha"]
    stacked: bool

    def predict(self, texts: Sequence[str]) -> Float32[np.ndarray, "*model alpha doc"]:
        """The (1 - alpha) quantiles of LL given each text, not ascending with alpha."""
        each = apply_networks(self.networks, self.features(texts))
        place, spread = (np.asarray(field).mean(axis=1) for field in each)
        quantiles = place[:, None] + self.shape[..., None] * spread[:, None]
        return quantiles if self.stacked else quantiles[0]

    def notes(self) -> list[str]:
        """What a reader of results must know, a sentence for each model."""
        lines = []
        for model, (n, missing) in enumerate(zip(self.n_texts, self.left_out)):
            shares = ", ".join(
                f"{100 * alpha:.0f}%: {100 * share:.1f}% ({100 * low:.1f}-{100 * high:.1f}%)"
                for alpha, share, low, high in zip(ALPHAS, *(field[model] for field in self.calibration))
            )
            which = f" of model {model}" if self.stacked else ""
            without = f", {missing} without a log-likelihood left out" if missing else ""
            lines.append(
                f"quantile: thresholds{which} are fitted on {n} known non-members{without}; by alpha, the share of "
                f"held-out ones above theirs: {shares}"
            )
        return lines


@dataclass(frozen=True)
class TextFeatures:
    """Numbers that say what kind of text it is: principal directions of its n-grams, its length, how it compresses.

    Directions keep the ratios of their sizes: standardized each by its own, the last ones are noise as loud as the
    first, and a network learns it.

    Attributes:
        directions: of hashed n-grams of characters, then of words.
        mean: of each feature.
        scale: what it is divided by: its standard deviation, or for directions that of the largest; infinite where
            nothing varies.
    """

    directions: Float32[np.ndarray, "components hashed"]
    mean: Float32[np.ndarray, " feature"]
    scale: Float32[np.ndarray, " feature"]

    def __call__(self, texts: Sequence[str]) -> Float32[np.ndarray, "doc feature"]:
        """The features of each text, standardized as those of the texts that were fitted on."""
        raw = np.concatenate([_hashed(texts) @ self.directions.T, _sizes(texts)], axis=-1)
        # Texts unlike all known ones: the networks know nothing of what lies far out.
        return np.clip((raw - self.mean) / self.scale, -4, 4).astype(np.float32)


def fit_features(texts: Sequence[str], seed: int) -> TextFeatures:
    """Directions in which the texts differ most, and the features' means and deviations."""
    from sklearn.utils.extmath import randomized_svd  # a second of imports

    hashed = _hashed(texts)
    directions = randomized_svd(hashed, COMPONENTS, random_state=seed)[2].astype(np.float32)
    raw = np.concatenate([hashed @ directions.T, _sizes(texts)], axis=-1).astype(np.float64)
    scale = raw.std(axis=0)
    scale[:COMPONENTS] = scale[:COMPONENTS].max()
    # What differs by rounding alone is constant.
    scale = np.where(scale > 1e-5, scale, np.inf)
    return TextFeatures(directions, raw.mean(axis=0).astype(np.float32), scale.astype(np.float32))


def _hashed(texts: Sequence[str]) -> Any:
    """Sparse [doc, hashed]: n-grams of 1 to 3 characters and of 1 and 2 words, each kind of length 1."""
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.pipeline import make_union

    grams = partial(HashingVectorizer, n_features=HASHED // 2, lowercase=False, dtype=np.float32)
    characters = grams(analyzer="char", ngram_range=(1, 3))
    words = grams(token_pattern=r"\w+|[^\w\s]", ngram_range=(1, 2))
    return make_union(characters, words).fit_transform(texts)


def _sizes(texts: Sequence[str]) -> Float32[np.ndarray, "doc 3"]:
    """Logarithm of the UTF-8 bytes, of their compressed size, and the bytes of a word."""
    size = np.array([len(text.encode("utf-8")) for text in texts])
    words = np.array([len(text.split()) for text in texts])
    columns = [np.log1p(size), np.log(zlib_bytes(texts)), size / (1 + words)]
    return np.stack(columns, axis=-1).astype(np.float32)


class Network(nnx.Module):
    """Quantiles of LL: location(x) + spread(x) shape; spread and the steps of the shape are above 0.

    It begins as the quantiles of all texts, whatever the features.
    """

    def __init__(self, features: int, start: Float32[Array, " alpha"], rngs: nnx.Rngs):
        lowest, steps = start[-1:], jnp.maximum(-jnp.diff(start), 1e-3)
        zeros = nnx.initializers.zeros_init()
        self.hidden = nnx.Linear(features, HIDDEN, rngs=rngs)
        self.location = nnx.Linear(HIDDEN, 1, kernel_init=zeros, rngs=rngs)
        self.spread = nnx.Linear(
            HIDDEN, 1, kernel_init=zeros, bias_init=nnx.initializers.constant(_before_softplus(1.0)), rngs=rngs
        )
        self.lowest = nnx.Param(lowest)
        self.steps = nnx.Param(_before_softplus(steps))

    def __call__(self, x: Float32[Array, "doc feature"]) -> Float32[Array, "doc alpha"]:
        """The quantiles of TRAINED."""
        steps = jax.nn.softplus(self.steps[...])
        shape = jnp.concatenate([self.lowest[...], self.lowest[...] + jnp.cumsum(steps[::-1])])[::-1]
        y = jax.nn.gelu(self.hidden(x))
        return self.location(y) + jax.nn.softplus(self.spread(y)) * shape[None]


def _before_softplus(y: Float32[Array, "*batch"] | float) -> Float32[Array, "*batch"]:
    return jnp.log(jnp.expm1(y))


class Networks(NamedTuple):
    """Trained networks [model, network], and the mean and deviation of the LL that each was trained on."""

    network: Network
    mean: Float32[Array, "model network"]
    scale: Float32[Array, "model network"]


def pinball(
    quantiles: Float32[Array, "doc alpha"], y: Float32[Array, " doc"], where: Bool[Array, " doc"]
) -> Float32[Array, ""]:
    """Mean over documents and TRAINED of max((1 - alpha) (y - q), -alpha (y - q)), least at the quantiles of y.

    Koenker and Bassett, Regression Quantiles, 1978.
    """
    alpha = jnp.array(TRAINED, jnp.float32)[None]
    above = y[:, None] - quantiles
    loss = jnp.maximum((1 - alpha) * above, -alpha * above)
    return jnp.mean(loss, where=where[:, None])


@jax.jit
def train_networks(
    keys: Key[Array, " network"],
    x: Float32[Array, "doc feature"],
    y: Float32[Array, "model doc"],
    fit: Bool[Array, "model network doc"],
    stop: Bool[Array, "model network doc"],
) -> Networks:
    """Networks of each model, which differ in their weights and parts.

    Args:
        keys: of the initial weights, which are the same for all models.
        x: standardized features.
        y: LL; anything where neither mask is True.
        fit: what the gradient is of.
        stop: what says which step was the best.
    """
    of_model = jax.vmap(_train, in_axes=(0, None, None, 0, 0))
    return jax.vmap(of_model, in_axes=(None, None, 0, 0, 0))(keys, x, y, fit, stop)


def _train(
    key: Key[Array, ""],
    x: Float32[Array, "doc feature"],
    y: Float32[Array, " doc"],
    fit: Bool[Array, " doc"],
    stop: Bool[Array, " doc"],
) -> Networks:
    mean = jnp.mean(y, where=fit)
    scale = jnp.std(y, where=fit)
    scale = jnp.where(scale > 0, scale, 1.0)
    z = (y - mean) / scale
    levels = 1 - jnp.array(TRAINED, jnp.float32)
    network = Network(x.shape[1], jnp.nanquantile(jnp.where(fit, z, jnp.nan), levels), nnx.Rngs(key))
    # No decay of biases and the shape: they hold the quantiles of all texts.
    optimizer = optax.adamw(
        LEARNING_RATE, weight_decay=WEIGHT_DECAY, mask=lambda tree: jax.tree.map(lambda leaf: leaf.ndim > 1, tree)
    )

    def going(state: _State) -> Bool[Array, ""]:
        return (state.step < STEPS) & (state.step - state.best_step < PATIENCE)

    def step(state: _State) -> _State:
        gradient = jax.grad(lambda network: pinball(network(x), z, fit))(state.network)
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to the number of the step, an integer
            updates, moments = optimizer.update(gradient, state.moments, state.network)
        network = optax.apply_updates(state.network, updates)
        loss, number = pinball(network(x), z, stop), state.step + 1
        better = loss < state.best_loss
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), network, state.best)
        return _State(
            number,
            network,
            moments,
            best,
            jnp.minimum(loss, state.best_loss),
            jnp.where(better, number, state.best_step),
        )

    zero = jnp.int32(0)
    start = _State(zero, network, optimizer.init(network), network, pinball(network(x), z, stop), zero)
    return Networks(jax.lax.while_loop(going, step, start).best, mean, scale)


class _State(NamedTuple):
    step: Int[Array, ""]
    network: Network
    moments: optax.OptState
    best: Network
    best_loss: Float32[Array, ""]
    best_step: Int[Array, ""]


@jax.jit
def apply_networks(
    networks: Networks, x: Float32[Array, "doc feature"]
) -> tuple[Float32[Array, "model network doc"], Float32[Array, "model network doc"]]:
    """By each network the place of each text's LL, its median, and its spread, from there to the lowest of ALPHAS."""
    z = jax.vmap(jax.vmap(lambda network: network(x)))(networks.network)
    median, scale = z[..., TRAINED.index(0.5)], networks.scale[..., None]
    return networks.mean[..., None] + scale * median, scale * (z[..., TRAINED.index(ALPHAS[-1])] - median)


def fit_quantiles(texts: Sequence[str], log_likelihood: Float[AnyArray, "*model doc"], seed: int = 0) -> Fit:
    """Fit the quantiles of LL given the text on known non-members.

    Args:
        texts: none of them a member, and none of those that are attacked.
        log_likelihood: LL of each in nats per token; NaN where there is none, which leaves the text out. Of several
            models [model, doc]: each gets networks of its own.
        seed: of the parts and the initial weights.

    Raises:
        DataError: fewer than NEEDED texts have an LL.

    References:
        Bertran et al., Scalable Membership Inference Attacks via Quantile Regression, 2023
        (https://arxiv.org/abs/2307.03694).
    """
    y = np.asarray(log_likelihood, np.float32)
    stacked, y = y.ndim == 2, np.atleast_2d(y)
    known = np.isfinite(y)
    fewest = int(known.sum(axis=-1).min())
    if fewest < NEEDED:
        raise DataError(
            f"quantile: {fewest} of {len(texts)} known non-members have a log-likelihood, but at least {NEEDED} are "
            "needed: give more texts (quantile.nonmembers)"
        )
    features = fit_features(texts, seed)
    x = features(texts)
    part = np.random.default_rng(seed).permutation(len(texts)) % FOLDS
    held_out, stop = (part == np.array(NETWORKS)[:, i, None] for i in range(2))  # [network, doc]
    keys = jax.random.split(jax.random.key(seed), len(NETWORKS))
    fit_on = known[:, None] & ~(held_out | stop)
    networks = train_networks(keys, x, np.where(known, y, 0), fit_on, known[:, None] & stop)
    unseen = held_out.astype(np.float32) / np.float32(FOLDS - 1)
    place, spread = (np.einsum("mnd,nd->md", field, unseen) for field in apply_networks(networks, x))
    excess = np.where(known, (y - place) / spread, np.nan)
    above = np.zeros((len(y), len(ALPHAS)), np.int64)
    for number in range(FOLDS):
        here = part == number
        above += (excess[:, None, here] > _shape(excess[:, ~here])[..., None]).sum(axis=-1)
    n_texts = known.sum(axis=-1)
    calibration = Calibration(above / n_texts[:, None], *wilson(above, np.broadcast_to(n_texts[:, None], above.shape)))
    return Fit(n_texts, len(texts) - n_texts, calibration, features, networks, _shape(excess), stacked)


def _shape(excess: Float32[np.ndarray, "model doc"]) -> Float32[np.ndarray, "model alpha"]:
    """The (1 - alpha) quantiles that a further text exceeds with probability alpha, on average; without NaNs."""
    return np.nanquantile(excess, 1 - np.array(ALPHAS), axis=-1, method="weibull").T.astype(np.float32)


def wilson(
    successes: Int[np.ndarray, "*batch"], trials: Int[np.ndarray, "*batch"]
) -> tuple[Float[np.ndarray, "*batch"], Float[np.ndarray, "*batch"]]:
    """The interval of a binomial share at CONFIDENCE (Wilson 1927)."""
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    share = successes / trials
    middle = share + z**2 / (2 * trials)
    half = z * np.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    below = 1 + z**2 / trials
    return (middle - half) / below, (middle + half) / below
