"""What the numbers of a finished run say: the verdict in words, documents in groups, models in a row, the command."""

import dataclasses
import itertools
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from mimir_jax.config import RunConfig
from mimir_jax.metrics import Estimate, Metrics
from mimir_jax.metrics.delong import placements
from mimir_jax.metrics.intervals import auc_interval
from mimir_jax.report.finished import Audit, Finished

FEWEST = 20
"""Documents of each side, without which a group has no AUC of its own: its interval would say nothing."""
MOST_GROUPS = 12


@dataclass(frozen=True)
class Verdict:
    """In plain words: the first sentence is the answer, the others what one must know to read it.

    Attributes:
        answer: one sentence.
        details: further sentences.
        kind: `leak`, `blind` (no attack beats what is told without the model), `nothing` (no attack tells members
            from non-members) or `unknown` (no metrics).
    """

    answer: str
    details: list[str]
    kind: str


def decimal(share: float) -> str:
    """A share to three digits without its zero; 1.00 from .9995 on.

    >>> decimal(0.7142), decimal(0.9996), decimal(0.0)
    ('.714', '1.00', '.000')
    """
    return "1.00" if share >= 0.9995 else f"{share:.3f}".removeprefix("0")


def interval(low: float, high: float) -> str:
    """[.68, .74] to three digits."""
    return f"[{decimal(low)}, {decimal(high)}]"


def percent(share: float) -> str:
    """A share as a percentage with one digit."""
    return "100%" if share >= 0.9995 else f"{100 * share:.1f}%"


def verdict(metrics: Mapping[str, Metrics | None], audit: Audit | None) -> Verdict:
    """The answer to "can members be told from non-members, and is it the model that tells?"."""
    known = {name: row for name, row in metrics.items() if row is not None}
    if not known:
        return Verdict("No attack could be judged: one side has no score at all.", [], "unknown")
    best = max(known, key=lambda name: known[name].auc_roc.value)
    auc = known[best].auc_roc
    named = f"{best}, the best of {len(known)}," if len(known) > 1 else best
    reached = f"AUC {decimal(auc.value)} {interval(auc.low, auc.high)}"
    separates = [name for name, row in known.items() if row.auc_roc.low > 0.5]
    details = []
    if audit is None or audit.best is None:
        details.append(
            "No blind baseline was computed, so it is not known how much of this can be told without the model."
        )
        if not separates:
            return Verdict(f"No attack tells members from non-members: {named} has {reached}.", details, "nothing")
        return Verdict(f"{best} separates members with {reached}.", details, "leak")
    blind = audit.best
    without = f"the best blind baseline reaches {decimal(blind.auc_roc)} {interval(blind.low, blind.high)}"
    beats = [name for name in known if name in audit.comparisons and audit.comparisons[name].beats]
    if beats:
        leader = max(beats, key=lambda name: known[name].auc_roc.value)
        auc = known[leader].auc_roc
        answer = f"{leader} separates members with AUC {decimal(auc.value)} {interval(auc.low, auc.high)}; {without}."
        return Verdict(answer, details, "leak")
    if not separates and blind.low <= 0.5:
        answer = f"No attack tells members from non-members: {named} has {reached}; {without}."
        return Verdict(answer, details, "nothing")
    against = audit.comparisons.get(best)
    # Above the baseline, but not beyond doubt: more documents might show it.
    verb = "is shown to beat" if against is not None and against.difference > 0 else "beats"
    answer = f"No attack {verb} what can be told without the model: {named} has {reached}; {without}."
    return Verdict(answer, details, "blind")


def cautions(run: Finished) -> Iterator[str]:
    """What a reader must know of the numbers, a sentence each."""
    rows = [row for row in run.metrics.values() if row is not None]
    yield from dict.fromkeys(note for row in rows for note in row.notes)
    if rows and min(min(row.n_members, row.n_nonmembers) for row in rows) < 100:
        yield "Some figures are of fewer than 100 documents a side: their intervals are wide."
    yield from run.notes
    if run.audit is not None:
        yield from run.audit.notes


@dataclass(frozen=True)
class Groups:
    """AUC by column in groups of documents.

    Attributes:
        what: such as "domain".
        names: of the groups.
        counts: of each group, members and non-members.
        aucs: by column, of each group; None where too few of a side have a score.
        left_out: how many documents are in groups that are too small.
    """

    what: str
    names: list[str]
    counts: list[tuple[int, int]]
    aucs: dict[str, list[Estimate | None]]
    left_out: int

    @property
    def name(self) -> str:
        """Of its files."""
        return "auc_by_" + self.what.replace(" ", "_").replace("-", "_")


def groupings(run: Finished) -> Iterator[Groups]:
    """By domain, by length and by n-gram overlap, as far as they are known and differ."""
    labels = {
        "domain": run.source if len(set(run.source)) > 1 else None,
        "length": _bins(run.n_tokens.astype(np.float64), "tokens"),
        "n-gram overlap": None if run.overlap is None else _bins(run.overlap, "overlap"),
    }
    for what, label in labels.items():
        if label is not None and (found := _grouped(run, what, label)) is not None:
            yield found


def _bins(values: Float[np.ndarray, " doc"], unit: str) -> list[str] | None:
    """Of each document its quarter by a value; None where there is nothing to part."""
    known = values[np.isfinite(values)]
    if len(known) < 8 * FEWEST:
        return None
    edges = np.unique(np.quantile(known, [0, 0.25, 0.5, 0.75, 1]))
    if len(edges) < 3:
        return None
    at = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    number = "{:.0f}" if unit == "tokens" else "{:.2f}"
    names = [f"{number.format(low)} to {number.format(high)} {unit}" for low, high in itertools.pairwise(edges)]
    return [names[i] if np.isfinite(v) else "unknown" for i, v in zip(at, values)]


def _grouped(run: Finished, what: str, label: Sequence[str]) -> Groups | None:
    labels = np.array(label, object)
    sides = {name: (run.is_member & (labels == name), ~run.is_member & (labels == name)) for name in set(label)}
    large = [name for name, (members, others) in sides.items() if min(members.sum(), others.sum()) >= FEWEST]
    # By the first document, but numbers in their order.
    order = {name: i for i, name in reversed(list(enumerate(label)))}
    large.sort(key=(lambda name: order[name]) if what == "domain" else _leading_number)
    large = large[:MOST_GROUPS]
    if len(large) < 2:
        return None
    aucs = {
        column: [_auc(values[labels == name], run.is_member[labels == name]) for name in large]
        for column, values in run.scores.items()
    }
    counts = [(int(sides[name][0].sum()), int(sides[name][1].sum())) for name in large]
    return Groups(what, large, counts, aucs, len(label) - sum(map(sum, counts)))


def _leading_number(name: str) -> float:
    found = re.match(r"[\d.]+", name)
    return float(found.group()) if found else float("inf")


def _auc(scores: Float[np.ndarray, " doc"], is_member: Bool[np.ndarray, " doc"]) -> Estimate | None:
    members, others = (scores[side & np.isfinite(scores)] for side in (is_member, ~is_member))
    return auc_interval(placements(members, others)) if min(len(members), len(others)) >= FEWEST else None


@dataclass(frozen=True)
class Trend:
    """AUC over models.

    Attributes:
        what: what the axis is: "epoch", "step", "parameters" or "model".
        positions: of the models on the axis; on a logarithmic one where `logarithmic`.
        names: of the models, in the axis's order.
        aucs: by attack, of each model.
    """

    what: str
    positions: list[float]
    names: list[str]
    logarithmic: bool
    aucs: dict[str, list[Estimate | None]]


AXES = {
    "step": re.compile(r"step[-_]?(\d+)()"),
    "epoch": re.compile(r"epochs?[-_]?(\d+)()"),
    "parameters": re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)([kmb])(?![a-z0-9])", re.IGNORECASE),
}
_FACTOR = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9}


def trend(rows: Mapping[tuple[str, str], Estimate | None]) -> Trend | None:
    """AUC of attacks over several models, by (model, attack); None of a single model.

    Models are put in order of what their names differ in: the training step, the epoch or the size; else they
    stay as they are.
    """
    models = list(dict.fromkeys(model for model, _ in rows))
    if len(models) < 2:
        return None
    what, positions = "model", [float(i) for i in range(len(models))]
    for axis, pattern in AXES.items():
        found = [pattern.search(model) for model in models]
        values = [float(one.group(1)) * _FACTOR[one.group(2).lower()] for one in found if one]
        if len(values) == len(models) == len(set(values)):
            what, positions = axis, values
            break
    order = sorted(range(len(models)), key=lambda i: positions[i])
    models, positions = [models[i] for i in order], [positions[i] for i in order]
    attacks = list(dict.fromkeys(attack for _, attack in rows))
    aucs = {attack: [rows.get((model, attack)) for model in models] for attack in attacks}
    logarithmic = positions[0] > 0 and what != "model" and (what == "parameters" or positions[-1] >= 8 * positions[0])
    return Trend(what, positions, models, logarithmic, aucs)


def command(config: RunConfig) -> str:
    """The command that runs a configuration again: what differs from the defaults, as flags.

    >>> command(RunConfig(model="gpt2", attacks=("loss", "min_k@k=0.1"), audit=False))
    'mimir-jax run --model gpt2 --attacks loss min_k@k=0.1 --no-audit'
    """
    return " ".join(["mimir-jax run", *_flags(config, RunConfig())])


def _flags(config: Any, default: Any, prefix: str = "") -> Iterator[str]:
    for field in dataclasses.fields(config):
        value, usual = getattr(config, field.name), getattr(default, field.name)
        name = prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            yield from _flags(value, usual, f"{name}.")
        elif value != usual and isinstance(value, bool) and isinstance(usual, bool):
            yield f"--{name}" if value else f"--{prefix}no-{field.name.replace('_', '-')}"
        elif value != usual:
            words = [str(one) for one in (value if isinstance(value, tuple) else (value,))]
            yield " ".join([f"--{name}", *map(shlex.quote, words)])
