"""Every attack against a float64 restatement of its formula, and what all of them must leave unchanged."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mimir_jax import attacks
from mimir_jax.arrays import TokenStats, stack
from mimir_jax.attacks.selection import lowest

pytestmark = pytest.mark.slow  # as a whole

VOCAB = 40
COUNTS = np.random.default_rng(7).integers(0, 9, VOCAB)

REFERENCES, PREFIXES, SAMPLES, ALPHAS, IN_OUT = 3, 3, 5, 10, 8
POPULATION = np.random.default_rng(8)
POPULATION_LL = -POPULATION.exponential(3, 9).astype(np.float32)
POPULATION_REFERENCES = -POPULATION.exponential(3, (IN_OUT, 9)).astype(np.float32)
POPULATION_MEMBERSHIP = POPULATION.random((IN_OUT, 9)) < 0.4

Document = dict[str, Any]
"""The inputs of one document; its TokenStats [n] hold the scored tokens only."""


@pytest.fixture(autouse=True)
def _strict() -> Iterator[None]:
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield


# --- The formulas, in the words of attacks.md, one document at a time


def log_prob(stats: TokenStats) -> list[float]:
    return [float(x) for x in stats.log_prob]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def mean_lowest(values: Sequence[float], k: float) -> float:
    return mean(sorted(values)[: max(1, int(k * len(values)))])


def expect_min_k(doc: Document, k: float = 0.2, window: int = 1, stride: int = 1) -> float:
    values = log_prob(doc["stats"])
    starts = range(0, len(values) - window + 1, stride)
    return mean_lowest([mean(values[start : start + window]) for start in starts], k)


def expect_min_k_plus_plus(doc: Document, k: float = 0.2) -> float:
    s = doc["stats"]
    z = [(float(x) - float(mu)) / max(float(var), 1e-12) ** 0.5 for x, mu, var in zip(s.log_prob, s.mean, s.var)]
    return mean_lowest(z, k)


def expect_surp(doc: Document, k: float = 0.4, max_entropy: float = 2.0) -> float:
    values, entropies = log_prob(doc["stats"]), [-float(mu) for mu in doc["stats"].mean]
    unlikely = sorted(range(len(values)), key=lambda t: (values[t], t))[: max(1, int(k * len(values)))]
    return mean([values[t] for t in unlikely if entropies[t] < max_entropy])


def expect_max_norm(doc: Document, counts: np.ndarray | None = None) -> float:
    s = doc["stats"]
    weight = [1.0] * VOCAB if counts is None else [max(int(c), 1) / int(counts.sum()) for c in counts]
    return mean([(1 - (float(m) - float(x))) / weight[t] for m, x, t in zip(s.max_log_prob, s.log_prob, s.token_ids)])


def expect_dc_pdd(doc: Document, a: float = 0.01) -> float:
    values, seen = [], set()
    for token, x in zip(doc["stats"].token_ids, log_prob(doc["stats"])):
        if int(token) not in seen:
            seen.add(int(token))
            f = (int(COUNTS[token]) + 1) / (int(COUNTS.sum()) + VOCAB)
            values.append(min(math.exp(x) * math.log(1 / f), a))
    return mean(values)


def expect_recall(doc: Document) -> float:
    return mean(log_prob(doc["nonmember_prefix_stats"])) / mean(log_prob(doc["stats"]))


def expect_con_recall(doc: Document, gamma: float = 0.5) -> float:
    nonmember, member = (mean(log_prob(doc[f"{side}_prefix_stats"])) for side in ("nonmember", "member"))
    return (nonmember - gamma * member) / mean(log_prob(doc["stats"]))


def neighbor_lls(doc: Document, n: int) -> list[float]:
    return [mean(log_prob(neighbor)) for neighbor in doc["neighbor_stats"][:n] if len(neighbor.mask)]


def expect_ne(doc: Document, n: int = 25) -> float:
    return mean(log_prob(doc["stats"])) - mean(neighbor_lls(doc, n))


def expect_ne_z(doc: Document, n: int = 25) -> float:
    lls = neighbor_lls(doc, n)
    std = mean([(x - mean(lls)) ** 2 for x in lls]) ** 0.5
    return expect_ne(doc, n) / (std if len(set(lls)) > 1 else 1.0)


def polarized(values: Sequence[float], lowest: float, highest: float) -> float:
    top = mean([-x for x in sorted(-x for x in values)[: max(1, int(highest * len(values)))]])
    return top - mean_lowest(values, lowest)


def expect_pac(doc: Document, lowest: float = 0.3, highest: float = 0.05) -> float:
    swapped = [polarized(log_prob(s), lowest, highest) for s in doc["swap_stats"] if len(s.mask)]
    return -(polarized(log_prob(doc["stats"]), lowest, highest) - mean(swapped))


def expect_wbc(doc: Document) -> float:
    target, reference = log_prob(doc["stats"]), log_prob(doc["same_tokens"])
    shares = []
    for size in (2, 3, 4, 6, 9, 13, 18, 25, 32, 40):
        w = min(size, len(target))
        starts = range(len(target) - w + 1)
        shares.append(mean([float(sum(target[i : i + w]) > sum(reference[i : i + w])) for i in starts]))
    return mean(shares) if target else float("nan")


def expect_samia(doc: Document, zlib: bool = False) -> float:
    pairs = zip(doc["sample_recall"].tolist(), doc["sample_zlib_bytes"].tolist())
    return mean([recall * (size if zlib else 1) for recall, size in pairs if not math.isnan(recall)])


def expect_quantile(doc: Document, alpha: float = 0.05) -> float:
    grid = [round(0.01 * i, 2) for i in range(1, 11)]
    return mean(log_prob(doc["stats"])) - np.interp(alpha, grid, doc["loss_quantiles"])


def kinds(doc: Document) -> tuple[list[float], list[float]]:
    """LL under the references with the document and those without."""
    pairs = list(zip(doc["in_out_log_likelihoods"].tolist(), doc["in_out_membership"].tolist()))
    return [x for x, member in pairs if member], [x for x, member in pairs if not member]


def spread(values: Sequence[float]) -> float:
    return math.nan if len(values) < 2 else max(mean([(x - mean(values)) ** 2 for x in values]), 1e-12) ** 0.5


def expect_lira(doc: Document) -> float:
    _, without = kinds(doc)
    return (float(doc["log_likelihood"]) - mean(without)) / spread(without)


def expect_lira_online(doc: Document) -> float:
    x = float(doc["log_likelihood"])
    densities = [-((x - mean(v)) ** 2) / (2 * spread(v) ** 2) - math.log(spread(v)) for v in kinds(doc)]
    return densities[0] - densities[1]


def gain(ll: float, references: Sequence[float], a: float) -> float:
    return math.exp(ll) / (((1 + a) * mean([math.exp(x) for x in references]) + (1 - a)) / 2)


def expect_rmia(doc: Document, a: float = 0.3, gamma: float = 1.0) -> float:
    own = gain(float(doc["log_likelihood"]), kinds(doc)[1], a)
    population = [
        gain(float(ll), [float(x) for x, member in zip(*rows) if not member], a)
        for ll, *rows in zip(POPULATION_LL, POPULATION_REFERENCES.T, POPULATION_MEMBERSHIP.T)
    ]
    beaten = [float(own / z > gamma) for z in population if not math.isnan(z)]
    return math.nan if math.isnan(own) else mean(beaten)


EXPECTED: dict[str, Callable[[Document], float]] = {
    "loss": lambda d: mean(log_prob(d["stats"])),
    "zlib": lambda d: mean(log_prob(d["stats"])) / d["zlib_bytes"],
    "min_k": expect_min_k,
    "min_k@k=0.05": lambda d: expect_min_k(d, k=0.05),
    "min_k@k=1": lambda d: expect_min_k(d, k=1),
    "min_k@stride=2": lambda d: expect_min_k(d, stride=2),
    "min_k@window=3": lambda d: expect_min_k(d, window=3),
    "min_k@k=0.5,window=3,stride=2": lambda d: expect_min_k(d, k=0.5, window=3, stride=2),
    "min_k@k=0.5,window=2,stride=5": lambda d: expect_min_k(d, k=0.5, window=2, stride=5),
    "min_k++": expect_min_k_plus_plus,
    "min_k++@k=0.7": lambda d: expect_min_k_plus_plus(d, k=0.7),
    "max_norm": expect_max_norm,
    "max_norm_weighted": lambda d: expect_max_norm(d, COUNTS),
    "rank": lambda d: -mean([float(r) for r in d["stats"].rank]),
    "log_rank": lambda d: -mean([float(np.log(float(r))) for r in d["stats"].rank]),
    "entropy": lambda d: -mean([-float(mu) for mu in d["stats"].mean]),
    "surp": expect_surp,
    "surp@k=0.7,max_entropy=3": lambda d: expect_surp(d, k=0.7, max_entropy=3),
    "lowercase": lambda d: mean(log_prob(d["lowercase_stats"])) / mean(log_prob(d["stats"])),
    "ref": lambda d: mean(log_prob(d["stats"])) - mean(log_prob(d["reference_stats"])),
    "ref_ratio": lambda d: -mean(log_prob(d["reference_stats"])) / -mean(log_prob(d["stats"])),
    "dc_pdd": expect_dc_pdd,
    "dc_pdd@a=inf": lambda d: expect_dc_pdd(d, a=math.inf),
    "recall": expect_recall,
    "con_recall": expect_con_recall,
    "con_recall@gamma=0.1": lambda d: expect_con_recall(d, gamma=0.1),
    "ne": expect_ne,
    "ne@n=2": lambda d: expect_ne(d, n=2),
    "ne_z": expect_ne_z,
    "ne_z@n=2": lambda d: expect_ne_z(d, n=2),
    "pac": expect_pac,
    "pac@lowest=0.5,highest=0.2": lambda d: expect_pac(d, lowest=0.5, highest=0.2),
    "wbc": expect_wbc,
    "ref-mean": lambda d: mean([mean(log_prob(d["stats"])) - x for x in d["reference_log_likelihoods"].tolist()]),
    "samia": expect_samia,
    "samia@zlib=1": lambda d: expect_samia(d, zlib=True),
    "gradnorm": lambda d: -float(d["grad_norms"][2]),
    "gradnorm@p=1": lambda d: -float(d["grad_norms"][0]),
    "gradnorm@p=2": lambda d: -float(d["grad_norms"][1]),
    "lira": expect_lira,
    "lira_online": expect_lira_online,
    "rmia": expect_rmia,
    "rmia@a=1": lambda d: expect_rmia(d, a=1),
    "rmia@a=0,gamma=0.7": lambda d: expect_rmia(d, a=0, gamma=0.7),
    "quantile": expect_quantile,
    "quantile@alpha=0.1": lambda d: expect_quantile(d, alpha=0.1),
    "quantile@alpha=0.017": lambda d: expect_quantile(d, alpha=0.017),
}
SPECS = list(EXPECTED)
EACH = [*attacks.ATTACKS, "min_k@k=0.5,window=3,stride=2"]
ALONE = [spec for spec in EACH if not attacks.parse(spec).attack.joint]
READ_STATS = [spec for spec in SPECS if "stats" in attacks.parse(spec).attack.inputs]


# --- Inputs


def make_stats(rng: np.random.Generator, n: int) -> TokenStats:
    """Statistics of n tokens under random predictions, from nearly certain to nearly uniform."""
    logits = rng.normal(size=(n, VOCAB)) * rng.uniform(0.2, 6, size=(n, 1))
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    ids = rng.integers(0, VOCAB, n)
    x = log_p[np.arange(n), ids]
    mu = (np.exp(log_p) * log_p).sum(-1)
    var = (np.exp(log_p) * (log_p - mu[:, None]) ** 2).sum(-1)
    return TokenStats(
        token_ids=ids.astype(np.int32),
        log_prob=x.astype(np.float32),
        mean=mu.astype(np.float32),
        var=var.astype(np.float32),
        max_log_prob=log_p.max(-1).astype(np.float32),
        rank=(1 + (log_p > x[:, None]).sum(-1)).astype(np.int32),
        mask=np.ones(n, bool),
    )


def other_log_probs(rng: np.random.Generator, stats: TokenStats) -> TokenStats:
    """The same tokens, predicted otherwise."""
    return make_stats(rng, len(stats.mask))._replace(token_ids=stats.token_ids)


def make_document(rng: np.random.Generator, n: int, n_lowercase: int, n_reference: int) -> Document:
    stats, lengths = make_stats(rng, n), (n_lowercase, n_reference, n)
    return {
        "stats": stats,
        "zlib_bytes": np.int32(rng.integers(8, 1000)),
        "lowercase_stats": make_stats(rng, n_lowercase),
        "reference_stats": make_stats(rng, n_reference),
        "same_tokens": other_log_probs(rng, stats),
        "nonmember_prefix_stats": other_log_probs(rng, stats),
        "member_prefix_stats": other_log_probs(rng, stats),
        "neighbor_stats": [make_stats(rng, length) for length in lengths],
        "swap_stats": [make_stats(rng, length) for length in lengths[1:]],
        "reference_log_likelihoods": -rng.exponential(3, REFERENCES).astype(np.float32),
        "grad_norms": rng.exponential(3, 3).astype(np.float32),
        "sample_recall": np.where(rng.random(SAMPLES) < 0.3, np.nan, rng.random(SAMPLES)).astype(np.float32),
        "sample_zlib_bytes": rng.integers(8, 1000, SAMPLES, dtype=np.int32),
        "loss_quantiles": -np.sort(rng.exponential(3, ALPHAS)).astype(np.float32),
        "log_likelihood": np.float32(-rng.exponential(3)) if n else np.float32(np.nan),
        "in_out_log_likelihoods": -rng.exponential(3, IN_OUT).astype(np.float32),
        "in_out_membership": rng.random(IN_OUT) < 0.5,
        "min_k_plus_plus_score": np.float32(rng.normal()),
        "conditional_log_likelihood": -rng.exponential(3, PREFIXES).astype(np.float32),
    }


SHARED: dict[str, np.ndarray] = {
    "token_counts": COUNTS,
    "prefix_index": np.array([2, 0, 1], np.int32),
    "population_log_likelihood": POPULATION_LL,
    "population_in_out_log_likelihoods": POPULATION_REFERENCES,
    "population_membership": POPULATION_MEMBERSHIP,
}
"""Inputs that are one for all documents."""

OF_REFERENCES = {"reference_log_likelihoods", "in_out_log_likelihoods", "in_out_membership"}
FOR_ALL_MODELS = {*SHARED, *OF_REFERENCES, "zlib_bytes"} - {"population_log_likelihood"}


JUNK = TokenStats(10**6, np.nan, np.nan, np.nan, np.nan, -3, False)  # type: ignore[arg-type]


def pad(rows: Sequence[TokenStats], time: int, start: int) -> TokenStats:
    """[doc, time] with the scored tokens of each row from position `start` on, and junk around them."""
    fields = []
    for name, junk in zip(TokenStats._fields, JUNK):
        padded = np.full((len(rows), time), junk, getattr(rows[0], name).dtype)
        for row, stats in zip(padded, rows):
            row[start : start + len(stats.mask)] = getattr(stats, name)
        fields.append(padded)
    return TokenStats(*fields)


def collate(name: str, documents: Sequence[Document], time: int, start: int) -> Any:
    """One input of all documents; passes over other tokens have another time axis."""
    if name in SHARED:
        return SHARED[name]
    values = [doc[name] for doc in documents]
    if isinstance(values[0], list):  # of TokenStats: an axis in front of the documents
        return stack([pad(column, time + 1, start) for column in zip(*values)])
    if isinstance(values[0], TokenStats):
        return pad(values, time + (name in ("lowercase_stats", "reference_stats")), start)
    return np.stack(values, axis=-1)


def inputs(spec: str, documents: Sequence[Document], time: int, start: int = 1) -> list:
    """The arrays that the attack takes. One that compares token by token gets a reference of the same tokens."""
    attack = attacks.parse(spec).attack
    same = {"reference_stats": "same_tokens"} if attack.name == "wbc" else {}
    return [collate(same.get(name, name), documents, time, start) for name in attack.inputs]


@cache
def jitted(spec: str) -> Callable:
    return jax.jit(attacks.parse(spec))


LENGTHS = st.integers(0, 12)
TIME = 18  # one for all, as compiling for further shapes would take most of the tests' time


@st.composite
def documents(draw: st.DrawFn, size: int) -> list[Document]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return [make_document(rng, draw(LENGTHS), draw(LENGTHS), draw(LENGTHS)) for _ in range(size)]


# --- Tests


def test_every_attack_is_restated_here():
    restated = {attacks.parse(spec).attack.name for spec in SPECS}
    assert restated | {"em_mia"} == set(attacks.ATTACKS)  # which has a file of its own


@pytest.mark.parametrize("spec", SPECS)
@settings(max_examples=12, deadline=None)
@given(docs=documents(3), start=st.integers(0, TIME - 12))
def test_scores_follow_the_formula_whatever_the_padding(spec, docs, start):
    if spec.startswith("ne_z"):  # rounding errors are divided by the neighbors' spread
        assume(all(len(lls) < 2 or np.ptp(lls) > 0.05 for lls in (neighbor_lls(doc, 2) for doc in docs)))
    if spec.startswith("lira"):  # likewise
        assume(all(len(lls) < 2 or spread(lls) > 0.5 for doc in docs for lls in kinds(doc)))
    scores = jitted(spec)(*inputs(spec, docs, TIME, start))
    # Differences of losses, of tens of nats here, keep the losses' rounding.
    atol = 1e-5 if attacks.parse(spec).attack.name in ("ref", "ref-mean", "ne", "pac") else 1e-6
    np.testing.assert_allclose(scores, [EXPECTED[spec](doc) for doc in docs], rtol=2e-5, atol=atol)


@pytest.mark.parametrize("spec", ALONE)
@pytest.mark.parametrize("n", [0, 1, 7])
def test_masked_equals_sliced(spec, n):
    rng = np.random.default_rng(n)
    doc, *mates = (make_document(rng, length, length, length) for length in (n, 12, 5))
    sliced = jitted(spec)(*inputs(spec, [doc], n, start=0))
    batched = jitted(spec)(*inputs(spec, [*mates, doc], TIME, start=1))
    np.testing.assert_allclose(batched[-1], sliced[0], rtol=1e-6)


@pytest.mark.parametrize("spec", EACH)
def test_eager_jit_vmap_leading_axes_and_loop_agree(spec):
    attack = attacks.parse(spec)
    lengths = ((0, 0, 0), (1, 4, 9), (11, 3, 8), (4, 4, 4))
    models = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        models.append([make_document(rng, *length) for length in lengths])
    for mate, first in zip(zip(*models), models[0]):
        for doc in mate:
            doc.update({name: first[name] for name in first if name in FOR_ALL_MODELS})
    models = [inputs(spec, docs, TIME) for docs in models]
    axes = [None if name in FOR_ALL_MODELS else 0 for name in attack.attack.inputs]
    stacked = [
        column[0] if axis is None else jax.tree.map(lambda *x: np.stack(x), *column)
        for column, axis in zip(zip(*models), axes)
    ]

    loop = np.stack([jitted(spec)(*model) for model in models])
    ways = {
        "eager": attack(*models[0])[None],
        "jax arrays": jitted(spec)(*jax.tree.map(jnp.asarray, models[0]))[None],
        "leading axis": jitted(spec)(*stacked),
        "vmap": jax.jit(jax.vmap(attack, in_axes=axes))(*stacked),
    }
    assert loop.shape == (4, len(lengths))
    assert np.isfinite(loop[:, 2]).any()
    for way, scores in ways.items():
        assert isinstance(scores, jax.Array), way
        assert scores.dtype == jnp.float32, way
        np.testing.assert_allclose(scores, loop[: len(scores)], rtol=1e-6, atol=1e-6, err_msg=way)


@pytest.mark.parametrize("spec", EACH)
@pytest.mark.parametrize("shape", [(0, 5), (3, 0)])
def test_nothing_scored_is_nan(spec, shape):
    values = inputs(spec, [make_document(np.random.default_rng(0), 0, 0, 0)], shape[1], start=0)
    doc_axis = {name: -2 if name.endswith("stats") else -1 for name in attacks.INPUTS}
    for i, name in enumerate(attacks.parse(spec).attack.inputs):
        if name not in SHARED:
            empty = jax.tree.map(lambda x, axis=doc_axis[name]: np.repeat(x, shape[0], axis), values[i])
            # What is no TokenStats says in another way that there is nothing.
            numbers = empty.dtype == np.float32 if isinstance(empty, np.ndarray) else False
            values[i] = np.full_like(empty, np.nan) if numbers else empty
    scores = jitted(spec)(*values)
    assert scores.shape == shape[:1]
    assert np.isnan(scores).all()


def stats_of(log_prob: Sequence[float], **fields: Sequence[float]) -> TokenStats:
    """One document [1, time], all of it scored; fields that are not given are as of a certain prediction."""
    n = len(log_prob)
    values = {
        "token_ids": np.zeros(n, np.int32),
        "log_prob": np.array(log_prob, np.float32),
        "mean": np.zeros(n, np.float32),
        "var": np.zeros(n, np.float32),
        "max_log_prob": np.zeros(n, np.float32),
        "rank": np.ones(n, np.int32),
        "mask": np.ones(n, bool),
    }
    values |= {name: np.asarray(value, values[name].dtype) for name, value in fields.items()}
    return TokenStats(**{name: value[None] for name, value in values.items()})


def test_scores_worked_by_hand():
    stats = stats_of([-1, -4, -2, -3], mean=[-1, -1, -3, -1], var=[4, 4, 4, 1], max_log_prob=[-1, -1, -2, -1])
    assert attacks.loss(stats) == -2.5
    assert attacks.zlib(stats, np.array([10])) == -0.25
    assert attacks.min_k(stats, k=0.5) == -3.5
    assert attacks.min_k(stats, k=0.4, window=2) == -3.0  # of -2.5, -3, -2.5
    assert attacks.min_k(stats, k=1.0, window=2, stride=2) == -2.5
    assert attacks.min_k_plus_plus(stats, k=0.5) == -1.75  # of 0, -1.5, .5, -2
    assert attacks.max_norm(stats) == -0.25  # of 1, -2, 1, -1
    assert attacks.entropy(stats) == -1.5
    assert attacks.surp(stats, k=0.75) == -3.5  # -4, -3; the entropy of the third token is 3
    assert attacks.ref(stats, stats_of([-4.0])) == 1.5
    assert attacks.ref_ratio(stats, stats_of([-5.0])) == 2.0
    assert attacks.lowercase(stats, stats_of([-5.0])) == 2.0


def test_scores_from_further_passes_worked_by_hand():
    stats = stats_of([-1, -4, -2, -3])
    assert attacks.recall(stats, stats_of([-2, -4, -3, -3])) == 1.2  # 3 / 2.5
    assert attacks.con_recall(stats, stats_of([-2, -4, -3, -3]), stats_of([-1, -1, -1, -1])) == 1.0
    assert attacks.con_recall(stats, stats_of([-2, -4, -3, -3]), stats_of([-1, -1, -1, -1]), gamma=0) == 1.2
    # Gains of 1, -1, 0, 1: of the pairs one in three, of the triples none, and the whole for eight sizes.
    np.testing.assert_allclose(attacks.wbc(stats, stats_of([-2, -3, -2, -4])), [(1 / 3 + 0 + 8) / 10], rtol=1e-6)
    assert attacks.ref_mean(stats, np.array([[-4], [-5.0]], np.float32)) == 2.0
    assert attacks.quantile(stats, np.arange(-10, 0, dtype=np.float32)[:, None]) == 3.5  # the fifth is -6
    assert attacks.quantile(stats, np.arange(-10, 0, dtype=np.float32)[:, None], alpha=0.055) == 3.0
    # Highest -1, lowest -4; after swaps -2 and -7, -3 and -3: 3 against a mean of 2.5.
    swaps = stack([stats_of([-2, -7]), stats_of([-3, -3])])
    assert attacks.pac(stats, swaps) == -0.5
    # The lower half is -3.5, the upper one -1.5; the same of the swaps as before.
    assert attacks.pac(stats, swaps, lowest=0.5, highest=0.5) == 0.5


def test_neighbors_worked_by_hand():
    stats = stats_of([-1, -4, -2, -3])
    neighbors = stack([stats_of([-3.0, -3.0]), stats_of([-4.0, -6.0]), stats_of([-9.0, -9.0])])
    assert attacks.ne(stats, neighbors, n=2) == 1.5  # -2.5 against -3 and -5
    assert attacks.ne_z(stats, neighbors, n=2) == 1.5
    neighbors.mask[1] = False
    assert attacks.ne(stats, neighbors, n=2) == 0.5  # the second one is missing, and the third one is not its stand-in
    assert attacks.ne_z(stats, neighbors, n=2) == 0.5
    assert attacks.ne(stats, neighbors) == 3.5  # -3 and -9
    np.testing.assert_allclose(attacks.ne_z(stats, neighbors), [3.5 / 3], rtol=1e-6)
    neighbors.mask[:] = False
    assert np.isnan(attacks.ne(stats, neighbors))
    assert np.isnan(attacks.ne_z(stats, neighbors))
    assert np.isnan(attacks.pac(stats, neighbors))
    none = TokenStats(*(field[:0] for field in neighbors))
    assert np.isnan(attacks.ne(stats, none))
    assert np.isnan(attacks.pac(stats, none))


@pytest.mark.parametrize("log_likelihood", [-1.1, -2.3, -3.7, -4.9])
@pytest.mark.parametrize("n", [3, 7, 25])
def test_neighbors_that_are_all_alike_have_no_spread(log_likelihood, n):
    """Their mean may be off by a rounding error, which must not become the standard deviation."""
    neighbors = stack([stats_of([log_likelihood])] * n)
    np.testing.assert_allclose(attacks.ne_z(stats_of([-1.0]), neighbors), [-1 - log_likelihood], rtol=1e-5)


def test_recall_takes_the_tokens_that_are_scored_everywhere():
    stats, prefixed = stats_of([-1, -4, -2, -3]), stats_of([-9, -4, -3, -5])
    prefixed.mask[0, 0] = False
    assert attacks.recall(stats, prefixed) == 4 / 3
    assert attacks.con_recall(stats, stats, prefixed, gamma=1) == -1 / 3
    prefixed.mask[:] = False  # it did not fit
    assert np.isnan(attacks.recall(stats, prefixed))
    assert np.isnan(attacks.con_recall(stats, stats, prefixed, gamma=0))


def test_samia_leaves_out_samples_that_there_are_not():
    overlap, size = np.array([[0.5], [np.nan], [0.25]], np.float32), np.array([[10], [8], [40]])
    assert attacks.samia(overlap, size) == 0.375
    assert attacks.samia(overlap, size, zlib=1) == 7.5
    assert np.isnan(attacks.samia(overlap[1:2], size[1:2]))


def test_gradnorm_takes_one_norm():
    norms = np.array([[5, 8], [2, 3], [1, np.nan]], np.float32)
    np.testing.assert_array_equal(attacks.gradnorm(norms), [-1, np.nan])
    np.testing.assert_array_equal(attacks.gradnorm(norms, p=2), [-2, -3])
    np.testing.assert_array_equal(attacks.gradnorm(norms, p=1.0), [-5, -8])


def test_dc_pdd_takes_tokens_once():
    stats = stats_of(np.log([0.5, 0.25, 0.125, 1.0]), token_ids=[7, 3, 7, 0])
    counts = np.array([5, 0, 0, 1, 0, 0, 0, 0])  # f = 6/14, 2/14 and 1/14
    expected = [0.5 * np.log(14), 0.25 * np.log(7), np.log(14 / 6)]
    np.testing.assert_allclose(attacks.dc_pdd(stats, counts, a=math.inf), [np.mean(expected)], rtol=1e-6)
    np.testing.assert_allclose(attacks.dc_pdd(stats, counts, a=0.5), [np.mean(np.minimum(expected, 0.5))], rtol=1e-6)
    # An unscored token takes no part: the third one is now the first of its kind.
    stats.mask[0, 0] = False
    expected[0] = 0.125 * np.log(14)
    np.testing.assert_allclose(attacks.dc_pdd(stats, counts, a=math.inf), [np.mean(expected)], rtol=1e-6)
    # All tokens are as rare as each other where nothing was counted.
    expected = np.array([0.25, 0.125, 1.0]) * np.log(8)
    np.testing.assert_allclose(attacks.dc_pdd(stats, 0 * counts, a=math.inf), [np.mean(expected)], rtol=1e-6)
    # Counts of another tokenizer end too early.
    assert np.isnan(attacks.dc_pdd(stats, counts[:7]))
    assert np.isnan(attacks.dc_pdd(stats, counts[:7], a=math.inf))


def test_dc_pdd_with_the_counts_of_a_large_corpus():
    """Counts over many magnitudes, and more of them than an int32 holds."""
    rng = np.random.default_rng(0)
    vocab, n = 50_277, 2_000
    counts = (3e10 / np.arange(1, vocab + 1)).astype(np.int64)
    counts[rng.integers(0, vocab, 5_000)] = 0
    stats = stats_of(-rng.exponential(2, n), token_ids=rng.choice(vocab, n, p=counts / counts.sum()))
    ids, places = np.unique(stats.token_ids[0], return_index=True)
    f = (counts[ids] + 1) / (counts.sum() + vocab)
    expected = np.mean(np.exp(stats.log_prob[0, places].astype(np.float64)) * np.log(1 / f))
    np.testing.assert_allclose(attacks.dc_pdd(stats, counts, a=math.inf), [expected], rtol=2e-6)
    # jit would make int32 of int64.
    np.testing.assert_allclose(jitted("dc_pdd@a=inf")(stats, counts.astype(np.float32)), [expected], rtol=2e-6)


def test_wbc_wants_the_same_tokens():
    stats, reference = stats_of([-1, -1, -1], token_ids=[1, 2, 3]), stats_of([-2, -2, -2], token_ids=[1, 2, 3])
    assert attacks.wbc(stats, reference) == 1.0
    assert attacks.wbc(stats, stats) == 0.0  # not above
    assert np.isnan(attacks.wbc(stats, reference._replace(token_ids=np.array([[1, 9, 3]], np.int32))))
    # An unscored one may be another, as where each model puts its own token in front.
    first = np.array([[False, True, True]])
    other = reference._replace(token_ids=np.array([[9, 2, 3]], np.int32), mask=first)
    assert attacks.wbc(stats._replace(mask=first), other) == 1.0


def test_a_document_longer_than_every_window():
    rng = np.random.default_rng(0)
    stats = stats_of(-rng.exponential(3, 60))
    reference = stats_of(-rng.exponential(3, 60))
    doc = {"stats": stats_of(stats.log_prob[0]), "same_tokens": reference}
    doc = {name: TokenStats(*(field[0] for field in value)) for name, value in doc.items()}
    np.testing.assert_allclose(attacks.wbc(stats, reference), [expect_wbc(doc)], rtol=1e-6)


def test_max_norm_weighs_by_relative_frequency():
    stats = stats_of([-1, -1], max_log_prob=[-1, -1], token_ids=[0, 2])
    # Relative frequencies: 3/4, and 1/4 for the token that never occurs and so counts once.
    np.testing.assert_allclose(attacks.max_norm(stats, np.array([3, 1, 0])), [(4 / 3 + 4) / 2], rtol=1e-6)
    assert np.isnan(attacks.max_norm(stats, np.array([3, 1])))
    assert np.isnan(attacks.max_norm(stats, np.zeros(3, np.int64)))
    # More occurrences than an int32 holds.
    counts = np.array([3, 1, 0]) * 10**10
    np.testing.assert_allclose(attacks.max_norm(stats, counts), [(4 / 3 + 4e10) / 2], rtol=1e-6)


@pytest.mark.parametrize("k", [0.05, 0.2, 0.7, 1.0])
def test_the_number_selected_is_rounded_down_in_float64(k):
    n = np.arange(201)
    mask = np.arange(200) < n[:, None]
    _, selected = lowest(np.zeros(mask.shape, np.float32), mask, k)
    expected = [0] + [max(1, int(k * int(m))) for m in n[1:]]
    np.testing.assert_array_equal(selected.sum(-1), expected)


def test_surp_takes_the_earlier_of_equal_tokens():
    assert attacks.surp(stats_of([-1, -5, -5], mean=[0, -1, -3]), k=0.4) == -5
    assert np.isnan(attacks.surp(stats_of([-1, -5, -5], mean=[0, -3, -1]), k=0.4))


def test_min_k_plus_plus_is_finite_without_variance():
    assert attacks.min_k_plus_plus(stats_of([0.0, 0.0])) == 0
    np.testing.assert_allclose(attacks.min_k_plus_plus(stats_of([-1.0])), [-1e6], rtol=1e-6)


def test_min_k_of_all_tokens_is_loss_and_grows_with_k():
    stats = pad([make_stats(np.random.default_rng(n), n) for n in (1, 5, 12)], TIME, start=1)
    np.testing.assert_allclose(attacks.min_k(stats, k=1.0), attacks.loss(stats), rtol=1e-6)
    by_k = np.stack([attacks.min_k(stats, k=k) for k in (0.05, 0.2, 1.0)])
    assert (np.diff(by_k, axis=0) >= 0).all()


def test_min_k_with_windows_and_strides_longer_than_every_document():
    stats = stats_of([-1, -2, -3])
    assert attacks.min_k(stats, window=3) == -2
    assert np.isnan(attacks.min_k(stats, window=4))
    assert np.isnan(attacks.min_k(stats, window=10**10))
    assert attacks.min_k(stats, window=2, stride=10**10) == -1.5


LIKELIER = [
    "loss",
    "zlib",
    "min_k",
    "min_k@k=0.5,window=3,stride=2",
    "min_k++",
    "max_norm",
    "dc_pdd@a=inf",
    "ref",
    "ref-mean",
    "ref_ratio",
    "wbc",
    "ne",
    "ne_z",
    "quantile",
    "recall",  # likelier in itself, as likely after non-members
    "con_recall",
    "lowercase",
]


@pytest.mark.parametrize("spec", LIKELIER)
def test_likelier_tokens_score_higher(spec):
    rng = np.random.default_rng(3)
    values = inputs(spec, [make_document(rng, 12, 12, 12) for _ in range(3)], TIME)
    likelier = values[0]._replace(log_prob=values[0].log_prob / 2)
    assert (jitted(spec)(likelier, *values[1:]) > jitted(spec)(*values)).all()


@pytest.mark.parametrize("spec", [s for s in READ_STATS if "rank" not in s and "stride" not in s])
def test_a_broken_value_shows_in_the_score(spec):
    rng = np.random.default_rng(3)
    values = inputs(spec, [make_document(rng, 12, 12, 12) for _ in range(3)], TIME)
    broken = {name: getattr(values[0], name).copy() for name in ("log_prob", "mean")}
    for value in broken.values():
        value[0, 9] = np.nan
    scores = jitted(spec)(values[0]._replace(**broken), *values[1:])
    assert not np.isfinite(scores[0])
    np.testing.assert_array_equal(scores[1:], jitted(spec)(*values)[1:])


@pytest.mark.parametrize("spec", READ_STATS)
def test_what_an_api_does_not_tell_is_not_read_by_attacks_that_say_so(spec):
    rng = np.random.default_rng(3)
    values = inputs(spec, [make_document(rng, 12, 12, 12) for _ in range(3)], TIME)
    told = [
        x._replace(mean=x.mean * 3 - 1, var=x.var * 2, max_log_prob=x.max_log_prob / 3, rank=x.rank + 5)
        if isinstance(x, TokenStats)
        else x
        for x in values
    ]
    same = np.array_equal(jitted(spec)(*told), jitted(spec)(*values), equal_nan=True)
    assert same == attacks.parse(spec).attack.log_prob_only


def test_a_loss_of_zero_has_no_ratio():
    certain = stats_of([0.0, 0.0])
    assert np.isnan(attacks.ref_ratio(certain, stats_of([-1.0])))
    assert np.isnan(attacks.lowercase(certain, stats_of([-1.0])))
    assert np.isnan(attacks.recall(certain, stats_of([-1.0, -1.0])))
    assert np.isnan(attacks.con_recall(certain, stats_of([-1.0, -1.0]), stats_of([-1.0, -1.0])))


def test_one_reference_serves_many_targets():
    rng = np.random.default_rng(0)
    targets = [pad([make_stats(rng, n) for n in (4, 9, 2)], TIME, start=1) for _ in range(2)]
    reference = pad([make_stats(rng, n) for n in (6, 3, 7)], TIME, start=1)
    for attack in (jitted("ref"), jitted("ref_ratio"), jitted("wbc")):
        loop = np.stack([attack(target, reference) for target in targets])
        np.testing.assert_allclose(attack(stack(targets), reference), loop, rtol=1e-6)


def test_long_documents_lose_no_precision():
    n = 200_000
    stats = stats_of(-np.random.default_rng(0).exponential(3, n))
    exact = {"loss": stats.log_prob.mean(dtype=np.float64)}
    lowest_fifth = np.sort(stats.log_prob[0])[: n // 5]
    exact["min_k"] = lowest_fifth.mean(dtype=np.float64)
    for spec, expected in exact.items():
        np.testing.assert_allclose(jitted(spec)(stats), [expected], rtol=1e-6)


@pytest.mark.parametrize(
    ("function", "parameter"),
    [
        (attacks.min_k, {"k": 0.0}),
        (attacks.min_k, {"k": 1.1}),
        (attacks.min_k, {"k": float("nan")}),
        (attacks.min_k, {"window": 0}),
        (attacks.min_k, {"stride": -1}),
        (attacks.min_k_plus_plus, {"k": -0.2}),
        (attacks.surp, {"k": 2.0}),
        (attacks.surp, {"max_entropy": 0.0}),
        (attacks.dc_pdd, {"a": 0.0}),
        (attacks.ne, {"n": 0}),
        (attacks.ne_z, {"n": -1}),
        (attacks.pac, {"lowest": 1.5}),
        (attacks.pac, {"highest": 0.0}),
        (attacks.con_recall, {"gamma": -0.5}),
        (attacks.quantile, {"alpha": 0.0}),
        (attacks.quantile, {"alpha": 0.2}),
        (attacks.quantile, {"alpha": float("nan")}),
        (attacks.gradnorm, {"p": 3}),
        (attacks.gradnorm, {"p": float("nan")}),
        (attacks.samia, {"zlib": 2}),
        (attacks.em_mia, {"iterations": 0}),
    ],
)
def test_parameters_out_of_range(function, parameter):
    (name, value), *_ = parameter.items()
    row = next(row for row in attacks.ATTACKS.values() if row.function is function)
    values = inputs(row.name, [make_document(np.random.default_rng(0), 3, 3, 3)], TIME)
    with pytest.raises(ValueError, match=rf"^{name} must be (above 0|at least 0|one of [01], ).*, got {value}$"):
        function(*values, **parameter)


def test_inputs_of_other_documents():
    stats = stats_of([-1.0])
    two = TokenStats(*(np.repeat(field, 2, axis=0) for field in stats))
    with pytest.raises(ValueError, match="zlib_bytes has 2 documents, stats has 1"):
        attacks.zlib(stats, np.array([8, 9]))
    with pytest.raises(ValueError, match="reference_stats has 1 documents, stats has 2"):
        attacks.ref(two, stats)
    with pytest.raises(ValueError, match="reference_stats has 2 documents"):
        attacks.ref_ratio(stats, two)
    with pytest.raises(ValueError, match="lowercase_stats has 2 documents"):
        attacks.lowercase(stats, two)
    with pytest.raises(ValueError, match="reference_log_likelihoods has 2 documents"):
        attacks.ref_mean(stats, np.zeros((1, 2), np.float32))
    with pytest.raises(ValueError, match="loss_quantiles has 2 documents"):
        attacks.quantile(stats, np.zeros((10, 2), np.float32))
    with pytest.raises(ValueError, match="loss_quantiles has 5 alphas, expected 10"):
        attacks.quantile(stats, np.zeros((5, 1), np.float32))
    for attack in (attacks.ne, attacks.ne_z, attacks.pac):
        with pytest.raises(ValueError, match=r"(neighbor|swap)_stats has 2 documents"):
            attack(stats, stack([two]))
    for attack, name in ((attacks.wbc, "reference_stats"), (attacks.recall, "nonmember_prefix_stats")):
        for other, shape in ((two, "2 documents of 1"), (stats_of([-1.0, -1.0]), "1 documents of 2")):
            message = f"{name} has {shape} positions, stats has 1 documents of 1 positions: they must hold the same"
            with pytest.raises(ValueError, match=message):
                attack(stats, other)
    with pytest.raises(ValueError, match=r"^member_prefix_stats has"):
        attacks.con_recall(stats, stats, two)


def test_lira_worked_by_hand():
    target = np.array([-2.0, -2.0], np.float32)
    references = np.array([[-3, -1], [-5, -2], [-1, -3], [-2, -4]], np.float32)
    member = np.array([[False, True], [False, True], [True, False], [True, False]])
    # Without the first: -3 and -5, so -4 and 1; without the second: -3 and -4, so -3.5 and .5.
    np.testing.assert_allclose(attacks.lira(target, references, member), [2.0, 3.0], rtol=1e-6)
    # Squares 1 + 1 + .25 + .25 over two degrees of freedom.
    np.testing.assert_allclose(attacks.lira(target, references, member, pooled=1), np.array([2, 1.5]) / 1.25**0.5)
    # With the first: -1 and -2, so -1.5 and .5; -z^2/2 - log std of both kinds.
    first = (-0.5 - math.log(0.5)) - (-2.0 - math.log(1.0))
    second = (-0.5 - math.log(0.5)) - (-4.5 - math.log(0.5))
    np.testing.assert_allclose(attacks.lira_online(target, references, member), [first, second], rtol=1e-6)
    # With: squares .25 x 4 over two.
    pooled = [-0.25 / (2 * 0.5) - math.log(0.5**0.5) + z**2 / (2 * 1.25) + math.log(1.25**0.5) for z in (2, 1.5)]
    np.testing.assert_allclose(attacks.lira_online(target, references, member, pooled=1), pooled, rtol=1e-6)


def test_lira_without_enough_references_is_null():
    target = np.array([-2.0, -2.0, -2.0], np.float32)
    references = np.array([[-3, -3, np.nan], [-5, -5, -5], [-1, -1, -1]], np.float32)
    member = np.array([[False, False, False], [False, True, False], [True, True, True]])
    np.testing.assert_array_equal(np.isnan(attacks.lira(target, references, member)), [False, True, True])
    np.testing.assert_array_equal(np.isnan(attacks.lira(target, references, member, pooled=1)), [False] * 3)
    assert np.isnan(attacks.lira_online(target, references, member)).all()  # one with, two without
    assert np.isnan(attacks.lira(target, references, np.ones((3, 3), bool))).all()
    assert np.isnan(attacks.lira(target[:1], references[:1, :1], member[:1, :1], pooled=1)).all()


def test_lira_ranks_as_the_mean_difference_when_pooled():
    rng = np.random.default_rng(0)
    target, references = (rng.normal(-4, 1, shape).astype(np.float32) for shape in ((50,), (8, 50)))
    member = np.arange(8)[:, None] < rng.integers(1, 7, 50)
    difference = target - np.mean(references, axis=0, where=~member)
    scores = np.asarray(attacks.lira(target, references, member, pooled=1))
    np.testing.assert_array_equal(np.argsort(scores), np.argsort(difference))


def test_rmia_worked_by_hand():
    target, references = (
        np.log(np.array([0.5, 0.2], np.float32)),
        np.log(np.array([[0.25, 0.4], [0.9, 0.1]], np.float32)),
    )
    member = np.array([[False, False], [True, False]])
    population, theirs = np.log(np.array([0.3, 0.2, 0.1], np.float32)), np.log(np.full((2, 3), 0.2, np.float32))
    nobody = np.zeros((2, 3), bool)
    # With a=1: gains of 2 and .8, against 1.5, 1 and .5.
    arrays = target, references, member, population, theirs, nobody
    np.testing.assert_allclose(attacks.rmia(*arrays, a=1), [1, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(attacks.rmia(*arrays, a=1, gamma=1.5), [2 / 3, 1 / 3], rtol=1e-6)
    # With a=0: .5 / .625 and .2 / .625, against .3, .2 and .1 over .6.
    np.testing.assert_allclose(attacks.rmia(*arrays, a=0), [1, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(attacks.rmia(*arrays, a=0, gamma=1.7), [2 / 3, 1 / 3], rtol=1e-6)
    assert np.isnan(attacks.rmia(target, references, ~nobody[:, :2], population, theirs, nobody)).all()
    assert np.isnan(attacks.rmia(target, references, member, population, theirs, ~nobody)).all()
    for wrong in ({"a": 1.1}, {"a": -0.1}, {"gamma": 0.0}):
        with pytest.raises(ValueError, match="must be"):
            attacks.rmia(*arrays, **wrong)


def test_rmia_does_not_count_equals():
    """A text that is in the population itself does not beat itself."""
    x = np.array([-1, -2, -3], np.float32)
    references, nobody = np.full((2, 3), -2, np.float32), np.zeros((2, 3), bool)
    np.testing.assert_allclose(
        attacks.rmia(x, references, nobody, x, references, nobody), np.array([2, 1, 0]) / 3, rtol=1e-6
    )
