"""From what attacks take to a table of scores: calls, columns, the reasons of nulls, and documents from sub-texts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from mimir_jax.arrays import TokenStats, pad_documents
from mimir_jax.attacks.registry import BoundAttack

ATTACK_POSITIONS = 1 << 25  # token positions that attacks get at a time: about a gigabyte of statistics

POOLS: dict[str, Callable[[np.ndarray], np.floating]] = {"mean": np.nanmean, "max": np.nanmax, "min": np.nanmin}


@dataclass(frozen=True)
class Call:
    """An attack, with the name of the reference that it is called with; "" for none."""

    attack: BoundAttack
    reference: str = ""

    @property
    def column(self) -> str:
        return f"{self.attack.name}-{self.reference}" if self.reference else self.attack.name

    def takes(self, name: str) -> str:
        """The key of an input among all that are given: references have theirs."""
        return f"{name}-{self.reference}" if name == "reference_stats" else name


@dataclass(frozen=True)
class Given:
    """An input.

    Attributes:
        value: statistics [model, time] (or [model, variant, time]) of each document, or an array.
        per_model: whether it has a leading axis of models.
        by_document: whether its last axis is that of documents.
        reasons: why documents lack it.
    """

    value: Sequence[TokenStats] | np.ndarray | None
    per_model: bool = True
    by_document: bool = True
    reasons: Mapping[int, str] | None = None

    def of(self, documents: np.ndarray, time: int | None = None) -> Any:
        """The input for some of the documents: statistics padded to `time`, or the array's share."""
        if isinstance(self.value, np.ndarray):
            return self.value[..., documents] if self.by_document else self.value
        if self.value is None:
            return None
        return pad_documents([self.value[i] for i in documents.tolist()], time)


def scores(
    calls: Sequence[Call], given: Mapping[str, Given], models: int, documents: int, main: int | None = None
) -> dict[str, np.ndarray]:
    """By column, scores [model, doc].

    Documents go in groups of like length, so that padding stays bounded. Attacks that compare documents with each
    other get the first `main` of them (by default all) at once, whose scores do not depend on the others', and then
    all for the others' scores.
    """
    found = {call.column: np.empty((models, documents), np.float32) for call in calls}
    first = documents if main is None else main
    together = [np.arange(n) for n in dict.fromkeys((documents, first)) if n]  # the main ones last: theirs stay
    for joint in (False, True):
        some = tuple(call for call in calls if call.attack.attack.joint is joint)
        if not some:
            continue
        needed = {call.takes(name) for call in some for name in call.attack.attack.inputs}
        ragged = [value for key in needed if isinstance(value := given[key].value, Sequence)]
        sizes = [max((one[i].mask.size for one in ragged), default=1) for i in range(documents)]
        for group in together if joint else _groups(sizes):
            # One length for all inputs: after a prefix that does not fit, the longest document has no tokens.
            time = max((one[i].mask.shape[-1] for one in ragged for i in group.tolist()), default=0)
            inputs = {key: given[key].of(group, time) for key in needed}
            axes = tuple(sorted((key, given[key].per_model) for key in needed))
            for column, values in _call(some, axes, models, inputs).items():
                found[column][:, group] = values
    return found


@partial(jax.jit, static_argnums=(0, 1, 2))
def _call(
    calls: tuple[Call, ...], axes: tuple[tuple[str, bool], ...], models: int, inputs: dict[str, Any]
) -> dict[str, Float[Array, "model doc"]]:
    per_model = dict(axes)
    found = {}
    for call in calls:
        keys = [call.takes(name) for name in call.attack.attack.inputs]
        in_axes = tuple(0 if per_model[key] else None for key in keys)
        # An attack may take nothing that has the axis.
        attack = jax.vmap(call.attack, in_axes=in_axes, axis_size=models)
        found[call.column] = attack(*(inputs[key] for key in keys))
    return found


def _groups(sizes: Sequence[int]) -> Iterator[np.ndarray]:
    """Documents in order of size, cut where the padded group would exceed ATTACK_POSITIONS."""
    order = np.argsort(sizes, kind="stable")[::-1]
    start = 0
    while start < len(order):
        count = max(ATTACK_POSITIONS // max(sizes[order[start]], 1), 1)
        yield order[start : start + count]
        start += count


def reasons(
    tokens: Sequence[int],
    scored: Sequence[bool],
    calls: Sequence[Call],
    given: Mapping[str, Given],
    columns: Mapping[str, np.ndarray],
    prefixes: Sequence[str],
) -> list[dict[str, str]]:
    """Why documents have null scores: of each document, by column, a reason for each null.

    Args:
        tokens: of each document, how many it has.
        scored: of each document, whether any was.
        calls: what was computed.
        given: the inputs.
        columns: scores [doc].
        prefixes: of the columns' names, one a model.
    """
    return [
        {
            before + call.column: _reason(row, n_tokens, any_scored, call, given)
            for before in prefixes
            for call in calls
            if np.isnan(columns[before + call.column][row])
        }
        for row, (n_tokens, any_scored) in enumerate(zip(tokens, scored))
    ]


def sentence(why: Mapping[str, str], columns: int) -> str | None:
    """A document's reasons in words, without names where one reason holds for all columns; None where none is null."""
    named: dict[str, list[str]] = {}
    for column, reason in why.items():
        named.setdefault(reason, []).append(column)
    everywhere = len(named) == 1 and len(why) == columns
    parts = list(named) if everywhere else [f"{', '.join(names)}: {reason}" for reason, names in named.items()]
    return "; ".join(parts) or None


def _reason(row: int, n_tokens: int, scored: bool, call: Call, given: Mapping[str, Given]) -> str:
    if n_tokens == 0:
        return "empty document"
    if not scored:
        return "one token, and nothing before it to predict it from"
    for name in call.attack.attack.inputs:
        if reason := (given[call.takes(name)].reasons or {}).get(row):
            return reason
    return call.attack.attack.null_reason or "an input of the attack has no scored token"


def pool(values: np.ndarray, groups: Sequence[Sequence[int]], how: str) -> np.ndarray:
    """Scores of documents from those of their sub-texts, NaN where none has one.

    Args:
        values: [text].
        groups: of each document, its texts' indices.
        how: a key of POOLS.
    """
    pooled = np.full(len(groups), np.nan, np.float32)
    for i, group in enumerate(groups):
        if not np.isnan(values[list(group)]).all():
            pooled[i] = POOLS[how](values[list(group)])
    return pooled
