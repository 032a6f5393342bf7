"""Classifiers of texts that never see a language model: what membership scores must beat.

A baseline is a row of BASELINES: the features that it reads, which are made once for all texts and know no label,
and a function that fits on some documents and scores others. Duan et al. 2024 (arXiv:2402.07841), Das, Zhang and
Tramèr 2024, "Blind baselines beat membership inference attacks for foundation models" (arXiv:2406.16201) and Meeus
et al. 2024 (arXiv:2406.17975) show how much of published success such classifiers explain.
"""

import re
import string
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

STEPS = 12
"""Indicators that a number becomes at most, see `_steps`."""
RULES = 150
"""Rare n-grams that are chosen for each side at most."""
MOST_CHARACTERS = 1 << 23
"""Of which words and n-grams are counted: several seconds' worth."""
MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
# 2023, 2023-05, 2023-05-07; no part of a longer number, no amount of money.
_YEAR = re.compile(r"(?<![\w.,$€£-])(1[5-9]\d\d|20[0-3]\d)(?:[-/](0[1-9]|1[0-2])\b)?(?![,.]?\d|[^\W\d])")
# May 2023; May 5, 2023; 5 May 2023; Sept. 2023
_MONTH = re.compile(
    rf"\b({'|'.join(f'{name[:3]}(?:{name[3:]})?' for name in MONTHS)}|sept)\b[\s.,]*"
    r"(?:\d{1,2}(?:st|nd|rd|th)?\s*,?\s*)?$",
    re.IGNORECASE,
)
_MONTH_NUMBER = {name[:3]: number for number, name in enumerate(MONTHS)}

Features = Any
"""[doc, feature], a NumPy array or a SciPy sparse matrix."""


@dataclass(frozen=True)
class Baseline:
    """A classifier of texts.

    Attributes:
        features: a key of FEATURES.
        fit: from features and labels of the documents to fit on, and features of others, to scores of the others,
            higher = member.
        of_words: whether documents that are token ids can be read, each id being a word.
    """

    features: str
    fit: Callable[[Features, Bool[np.ndarray, " doc"], Features], Float[np.ndarray, " other"]]
    of_words: bool = False


def word_counts(texts: Sequence[str]) -> Features:
    """How often each word occurs, of those that two texts have; without case, see `_beginnings`."""
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import CountVectorizer

    try:
        return CountVectorizer(min_df=2).fit_transform(_beginnings(texts)).astype(np.float64)
    except ValueError:  # no text shares a word with another: there is nothing to count
        return csr_matrix((len(texts), 1))


def word_ngrams(texts: Sequence[str]) -> Features:
    """Which runs of one to three words occur, of those that three texts have; without case, see `_beginnings`.

    N-grams are told apart by a hash of 22 bits: a table of all that ever occur would not fit in memory.
    """
    from sklearn.feature_extraction.text import HashingVectorizer

    hashed = HashingVectorizer(
        n_features=1 << 22, ngram_range=(1, 3), token_pattern=r"\S+", binary=True, norm=None, alternate_sign=False
    ).transform(_beginnings(texts))
    common = np.flatnonzero(np.bincount(hashed.indices, minlength=hashed.shape[1]) >= 3)
    return hashed.tocsc()[:, common].tocsr()


def _beginnings(texts: Sequence[str]) -> list[str]:
    """The texts, or as much of each as keeps all of them to MOST_CHARACTERS; in Unicode without lone surrogates."""
    whole = sum(map(len, texts)) <= MOST_CHARACTERS
    most = None if whole else max(MOST_CHARACTERS // len(texts), 1000)
    return [text[:most].encode("utf-8", "replace").decode("utf-8") for text in texts]


def mentioned_dates(text: str) -> list[float]:
    """The years from 1500 to 2039 that a text mentions, as fractions where it names the month."""
    found = []
    for match in _YEAR.finditer(text):
        year, number = match.groups()
        month = _MONTH.search(text, max(match.start() - 20, 0), match.start())
        of_year = int(number) - 1 if number else _MONTH_NUMBER[month[1][:3].lower()] if month else 0
        found.append(int(year) + of_year / 12)
    return found


def dates(texts: Sequence[str]) -> Float[np.ndarray, "doc feature"]:
    """Latest and earliest date that is mentioned (-inf and inf where none is), how many, and how many since 2000."""
    mentioned = [mentioned_dates(text) for text in texts]
    return np.array(
        [
            [max(some, default=-np.inf), min(some, default=np.inf), len(some), np.sum(np.array(some) >= 2000)]
            for some in mentioned
        ]
    ).reshape(-1, 4)


def lengths(texts: Sequence[str]) -> Float[np.ndarray, "doc feature"]:
    """Words, characters, lines, characters a word."""
    rows = [(len(text.split()), len(text), text.count("\n")) for text in texts]
    return np.array([(words, size, lines, size / max(words, 1)) for words, size, lines in rows], float).reshape(-1, 4)


def compression(texts: Sequence[str]) -> Float[np.ndarray, "doc feature"]:
    """Bytes after zlib, as a share of those before; and both sizes."""
    sizes = [(len(zlib.compress(data := text.encode("utf-8", "surrogatepass"), 6)), len(data)) for text in texts]
    return np.array([(after / max(before, 1), after, before) for after, before in sizes], float).reshape(-1, 3)


def characters(texts: Sequence[str]) -> Float[np.ndarray, "doc feature"]:
    """Shares of each printable ASCII character, upper-case letters, other scripts and symbols in a text."""
    rows = np.zeros((len(texts), 128 + 2))
    for row, text in zip(rows, texts):
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
        row[:128] = np.bincount(np.minimum(codes, 127), minlength=128)
        row[128] = sum(map(str.isupper, text))
        row[129] = np.count_nonzero(codes > 127)
        row /= max(len(codes), 1)
    printable = [ord(c) for c in string.printable if not c.isupper()]
    return rows[:, [*printable, 128, 129]]


def logistic(train: Features, is_member: Bool[np.ndarray, " doc"], other: Features) -> Float[np.ndarray, " other"]:
    """Logistic regression, log-odds of membership."""
    from sklearn.linear_model import LogisticRegression

    fit = LogisticRegression(solver="liblinear", random_state=0).fit(train, is_member)
    return np.asarray(fit.decision_function(other))


def binary_logistic(
    train: Features, is_member: Bool[np.ndarray, " doc"], other: Features
) -> Float[np.ndarray, " other"]:
    """Logistic regression on whether words occur."""
    return logistic(train.sign(), is_member, other.sign())


def tf_idf_logistic(
    train: Features, is_member: Bool[np.ndarray, " doc"], other: Features
) -> Float[np.ndarray, " other"]:
    """Logistic regression on tf-idf weights with sublinear counts."""
    from sklearn.feature_extraction.text import TfidfTransformer

    weights = TfidfTransformer(sublinear_tf=True).fit(train)
    return logistic(weights.transform(train), is_member, weights.transform(other))


def naive_bayes(train: Features, is_member: Bool[np.ndarray, " doc"], other: Features) -> Float[np.ndarray, " other"]:
    """Multinomial naive Bayes on counts, log-odds of membership."""
    from sklearn.naive_bayes import MultinomialNB

    log_odds = MultinomialNB().fit(train, is_member).predict_joint_log_proba(other)
    return np.asarray(log_odds[:, 1] - log_odds[:, 0])


def numeric(
    train: Float[np.ndarray, "doc feature"],
    is_member: Bool[np.ndarray, " doc"],
    other: Float[np.ndarray, "other feature"],
    steps: int = STEPS,
) -> Float[np.ndarray, " other"]:
    """Logistic regression on indicators of each number's size: any shape of its effect, and any unit."""
    return logistic(_steps(train, train, steps), is_member, _steps(train, other, steps))


def _steps(train: np.ndarray, values: np.ndarray, steps: int) -> Float[np.ndarray, "doc step"]:
    """Of each number, whether it reaches each of the quantiles of the documents to fit on."""
    columns = []
    for known, column in zip(train.T, values.T):
        edges = np.unique(np.quantile(known, np.arange(1, steps + 1) / (steps + 1), method="inverted_cdf"))
        columns.append(column[:, None] >= edges)
    return np.concatenate(columns, axis=1).astype(np.float64)


def rare_ngrams(train: Features, is_member: Bool[np.ndarray, " doc"], other: Features) -> Float[np.ndarray, " other"]:
    """Rules "has this n-gram", chosen greedily for each side; a document's first rules of both sides decide.

    For one side: of all n-grams take the one whose presence speaks most for that side among the documents that no
    rule has covered, by log (c + 1) / (c' + 1) - log n / n' with c of this side's n documents and c' of the other's n';
    repeat. After Das, Zhang and Tramèr 2024, arXiv:2406.16201, who do this for members alone.
    """
    by_ngram = train.tocsc()
    return sum(
        sign * _first_rule(other, *_rules(train, by_ngram, is_member == (sign > 0))) for sign in (1.0, -1.0)
    ) + np.zeros(other.shape[0])


def _rules(by_document: Features, by_ngram: Features, own: Bool[np.ndarray, " doc"]) -> tuple[list[int], list[float]]:
    """The n-grams that speak for one side, best first, and how much each does."""
    uncovered = np.ones(len(own), bool)
    counts = {side: np.asarray(by_document[own == side].sum(axis=0)).ravel() for side in (True, False)}
    rules: list[int] = []
    weights: list[float] = []
    prior = np.count_nonzero(~own) / np.count_nonzero(own)
    for _ in range(RULES):
        odds = np.where(counts[True] >= 3, (counts[True] + 1) / (counts[False] + 1), 0) * prior
        best = int(np.argmax(odds))
        if odds[best] <= 3:  # as two documents of this side and none of the other, where both are as large
            break
        rules.append(best)
        weights.append(float(np.log(odds[best])))
        covered = by_ngram.indices[by_ngram.indptr[best] : by_ngram.indptr[best + 1]]
        covered = covered[uncovered[covered]]
        uncovered[covered] = False
        for side in counts:
            rows = by_document[covered[own[covered] == side]]
            counts[side] -= np.bincount(rows.indices, minlength=len(odds))
    return rules, weights


def _first_rule(documents: Features, rules: Sequence[int], weights: Sequence[float]) -> Float[np.ndarray, " doc"]:
    """The weight of the first rule that holds for each document; 0 where none does."""
    holds = np.asarray(documents[:, rules].todense()) > 0
    padded = np.concatenate([holds, np.ones((len(holds), 1), bool)], axis=1)
    return np.array([*weights, 0.0])[np.argmax(padded, axis=1)]


FEATURES: dict[str, Callable[[Sequence[str]], Features]] = {
    "words": word_counts,
    "ngrams": word_ngrams,
    "dates": dates,
    "lengths": lengths,
    "compression": compression,
    "characters": characters,
}

BASELINES: dict[str, Baseline] = {
    "bag_of_words": Baseline("words", binary_logistic, of_words=True),
    "tf_idf": Baseline("words", tf_idf_logistic, of_words=True),
    "naive_bayes": Baseline("words", naive_bayes, of_words=True),
    "rare_ngrams": Baseline("ngrams", rare_ngrams, of_words=True),
    "dates": Baseline("dates", numeric),
    "length": Baseline("lengths", numeric, of_words=True),
    "zlib": Baseline("compression", numeric),
    "characters": Baseline("characters", partial(numeric, steps=6)),
}
