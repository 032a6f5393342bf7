"""Every attack against a float64 restatement of its formula, and what all of them must leave unchanged."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimir_jax import attacks
from mimir_jax.arrays import TokenStats, stack
from mimir_jax.attacks.selection import lowest

VOCAB = 40
COUNTS = np.random.default_rng(7).integers(0, 9, VOCAB)

Document = dict[str, TokenStats | int]
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
}
SPECS = list(EXPECTED)
EACH = [*attacks.ATTACKS, "min_k@k=0.5,window=3,stride=2"]


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


def make_document(rng: np.random.Generator, n: int, n_lowercase: int, n_reference: int) -> Document:
    return {
        "stats": make_stats(rng, n),
        "zlib_bytes": int(rng.integers(8, 1000)),
        "lowercase_stats": make_stats(rng, n_lowercase),
        "reference_stats": make_stats(rng, n_reference),
    }


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


def inputs(spec: str, documents: Sequence[Document], time: int, start: int = 1) -> list:
    """The arrays that the attack takes, those of passes over other tokens with another time axis."""
    values = []
    for name in attacks.parse(spec).attack.inputs:
        if name == "token_counts":
            values.append(COUNTS)
        elif name == "zlib_bytes":
            values.append(np.array([doc[name] for doc in documents]))
        else:
            values.append(pad([doc[name] for doc in documents], time + (name != "stats"), start))
    return values


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


@pytest.mark.parametrize("spec", SPECS)
@settings(max_examples=12, deadline=None)
@given(docs=documents(3), start=st.integers(0, TIME - 12))
def test_scores_follow_the_formula_whatever_the_padding(spec, docs, start):
    scores = jitted(spec)(*inputs(spec, docs, TIME, start))
    np.testing.assert_allclose(scores, [EXPECTED[spec](doc) for doc in docs], rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("spec", EACH)
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
    models = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        docs = [make_document(rng, *lengths) for lengths in ((0, 0, 0), (1, 4, 9), (11, 3, 8))]
        for doc, size in zip(docs, (8, 90, 300)):
            doc["zlib_bytes"] = size  # of the text, whatever the model
        models.append(inputs(spec, docs, TIME))
    axes = [0 if isinstance(value, TokenStats) else None for value in models[0]]
    stacked = [column[0] if axis is None else stack(column) for column, axis in zip(zip(*models), axes)]

    loop = np.stack([jitted(spec)(*model) for model in models])
    ways = {
        "eager": attack(*models[0])[None],
        "jax arrays": jitted(spec)(*jax.tree.map(jnp.asarray, models[0]))[None],
        "leading axis": jitted(spec)(*stacked),
        "vmap": jax.jit(jax.vmap(attack, in_axes=axes))(*stacked),
    }
    assert loop.shape == (4, 3)
    for way, scores in ways.items():
        assert isinstance(scores, jax.Array), way
        assert scores.dtype == jnp.float32, way
        np.testing.assert_allclose(scores, loop[: len(scores)], rtol=1e-6, err_msg=way)


@pytest.mark.parametrize("spec", EACH)
@pytest.mark.parametrize("shape", [(0, 5), (3, 0)])
def test_nothing_scored_is_nan(spec, shape):
    empty = TokenStats(*(np.zeros(shape, dtype) for dtype in (*"iffff", np.int32, np.bool_)))
    available = {"zlib_bytes": np.full(shape[0], 8), "token_counts": COUNTS}
    scores = jitted(spec)(*(available.get(name, empty) for name in attacks.parse(spec).attack.inputs))
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
    "ref",
    "ref_ratio",
]


@pytest.mark.parametrize("spec", [*LIKELIER, "lowercase"])
def test_likelier_tokens_score_higher(spec):
    rng = np.random.default_rng(3)
    values = inputs(spec, [make_document(rng, 12, 12, 12) for _ in range(3)], TIME)
    likelier = values[0]._replace(log_prob=values[0].log_prob / 2)
    assert (jitted(spec)(likelier, *values[1:]) > jitted(spec)(*values)).all()


@pytest.mark.parametrize("spec", [spec for spec in SPECS if "rank" not in spec and "stride" not in spec])
def test_a_broken_value_shows_in_the_score(spec):
    rng = np.random.default_rng(3)
    values = inputs(spec, [make_document(rng, 12, 12, 12) for _ in range(3)], TIME)
    broken = {name: getattr(values[0], name).copy() for name in ("log_prob", "mean")}
    for value in broken.values():
        value[0, 9] = np.nan
    scores = jitted(spec)(values[0]._replace(**broken), *values[1:])
    assert not np.isfinite(scores[0])
    np.testing.assert_array_equal(scores[1:], jitted(spec)(*values)[1:])


def test_a_loss_of_zero_has_no_ratio():
    certain = stats_of([0.0, 0.0])
    assert np.isnan(attacks.ref_ratio(certain, stats_of([-1.0])))
    assert np.isnan(attacks.lowercase(certain, stats_of([-1.0])))


def test_one_reference_serves_many_targets():
    rng = np.random.default_rng(0)
    targets = [pad([make_stats(rng, n) for n in (4, 9, 2)], TIME, start=1) for _ in range(2)]
    reference = pad([make_stats(rng, n) for n in (6, 3, 7)], TIME + 1, start=1)
    for attack in (jitted("ref"), jitted("ref_ratio")):
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
    ],
)
def test_parameters_out_of_range(function, parameter):
    (name, value), *_ = parameter.items()
    with pytest.raises(ValueError, match=rf"^{name} must be above 0.*, got {value}$"):
        function(stats_of([-1.0]), **parameter)


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
