"""The table of attacks: what each is called, computed by, and needs.

An attack names the arrays that it takes. The runner has one provider for each name in `INPUTS`, collects what
all requested attacks need and computes it once. No attack has a scoring loop of its own.

Other packages register attacks as entry points: name the attack, and let it resolve to an `Attack`.

    [project.entry-points."mimir_jax.attacks"]
    my_attack = "my_package:MY_ATTACK"
"""

import difflib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata

from jaxtyping import Array

from mimir_jax.attacks.entropy import entropy
from mimir_jax.attacks.loss import loss
from mimir_jax.attacks.lowercase import lowercase
from mimir_jax.attacks.max_norm import max_norm
from mimir_jax.attacks.min_k import min_k
from mimir_jax.attacks.min_k_plus_plus import min_k_plus_plus
from mimir_jax.attacks.parameters import Range
from mimir_jax.attacks.rank import log_rank, rank
from mimir_jax.attacks.ref import ref, ref_ratio
from mimir_jax.attacks.surp import surp
from mimir_jax.attacks.zlib import zlib

ENTRY_POINTS = "mimir_jax.attacks"

INPUTS: Mapping[str, str] = {
    "stats": "TokenStats [..., doc, time] of the documents under the target model.",
    "zlib_bytes": "Int [doc]: size of each document's UTF-8 bytes after zlib.compress at its default level.",
    "token_counts": "Int [vocab]: occurrences of each id of the target's tokenizer in a reference corpus.",
    "lowercase_stats": "TokenStats [..., doc, time] of the lower-cased documents under the target model.",
    "reference_stats": "TokenStats [..., doc, time] of the documents under a reference; one score for each.",
}
"""What an attack may ask for, by the name of its function's parameter."""

PLAIN_PASS = frozenset({"stats", "zlib_bytes"})
"""Inputs that one plain pass over the documents and their text provide."""


class AttackError(ValueError):
    """An attack that cannot be named, parsed or registered; the message says what can."""


@dataclass(frozen=True)
class Attack:
    """A row of the table.

    The function takes its inputs in order, then parameters that a spec may set: numbers with defaults, each
    in its `Range` if its annotation has one.

    Raises:
        AttackError: the function's signature is another.
    """

    name: str
    function: Callable[..., Array]
    inputs: tuple[str, ...]
    """Names of the arrays that the function takes, each explained in `INPUTS`."""
    citation: str
    null_reason: str | None = None
    """Why a document with scored tokens may have no score; None where that cannot be."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_+]*", self.name):
            raise AttackError(f"{self.name!r}: an attack's name is lower-case letters, digits, _ and +")
        if unknown := [name for name in self.inputs if name not in INPUTS]:
            raise AttackError(f"{self.name}: unknown inputs {unknown}; known are {', '.join(INPUTS)}")
        signature = inspect.signature(self.function)
        if tuple(signature.parameters)[: len(self.inputs)] != self.inputs:
            raise AttackError(f"{self.name}: the function takes {signature}, not first {self.inputs}")
        for parameter in list(signature.parameters.values())[len(self.inputs) :]:
            # An input may be left out where the function can do without, as max_norm without token_counts.
            types = (type(None),) if parameter.name in INPUTS else (int, float)
            if type(parameter.default) not in types:
                raise AttackError(f"{self.name}: parameter {parameter.name} has no default that is a number")

    @property
    def parameters(self) -> dict[str, int | float]:
        """The parameters that a spec may set and their defaults, in the order of the signature."""
        return {
            name: parameter.default
            for name, parameter in inspect.signature(self.function).parameters.items()
            if name not in INPUTS
        }

    def read(self, assignment: str) -> tuple[str, int | float]:
        """The parameter and its value from `name=value`: of the default's type and in the annotated range.

        Raises:
            ValueError: anything else; the message says what.
        """
        name, equals, text = (part.strip() for part in assignment.partition("="))
        if not equals:
            raise ValueError(f"{assignment.strip()!r} is not of the form name=value")
        if name not in self.parameters:
            raise ValueError(f"unknown parameter {name!r}")
        whole = isinstance(self.parameters[name], int)
        try:
            value = int(text) if whole else float(text)
        except ValueError:
            raise ValueError(f"{name} must be a {'whole ' * whole}number, got {text!r}") from None
        annotation = inspect.signature(self.function).parameters[name].annotation
        for note in getattr(annotation, "__metadata__", ()):
            if isinstance(note, Range):
                note.check(name, value)
        return name, value


@dataclass(frozen=True)
class BoundAttack:
    """An attack with its parameters: a function of its inputs only, ready for jit and vmap."""

    attack: Attack
    parameters: Mapping[str, int | float] = field(hash=False)
    """All of them, defaults included, in the order of the signature."""

    @property
    def name(self) -> str:
        """The spec in canonical form, which names the column of scores.

        Parameters stand in the order of the signature and those at their defaults are left out, so that specs
        of the same computation have the same name.
        """
        defaults = self.attack.parameters
        changed = [f"{name}={value}" for name, value in self.parameters.items() if value != defaults[name]]
        return self.attack.name + ("@" + ",".join(changed) if changed else "")

    def __call__(self, *inputs: object) -> Array:
        """The scores [..., doc] from the arrays that `attack.inputs` names, in that order."""
        return self.attack.function(*inputs, **self.parameters)


_ROWS = (
    Attack("loss", loss, ("stats",), "Yeom et al. 2018, arXiv:1709.01604"),
    Attack("zlib", zlib, ("stats", "zlib_bytes"), "Carlini et al. 2021, arXiv:2012.07805"),
    Attack(
        "min_k",
        min_k,
        ("stats",),
        "Shi et al. 2024, arXiv:2310.16789",
        null_reason="fewer scored tokens than one window",
    ),
    Attack("min_k++", min_k_plus_plus, ("stats",), "Zhang et al. 2024, arXiv:2404.02936"),
    Attack("max_norm", max_norm, ("stats",), "Duan et al. 2024, arXiv:2402.07841"),
    Attack(
        "max_norm_weighted",
        max_norm,
        ("stats", "token_counts"),
        "Duan et al. 2024, arXiv:2402.07841",
        null_reason="the token counts are all 0 or end before one of its token ids",
    ),
    Attack("rank", rank, ("stats",), "Gehrmann et al. 2019, arXiv:1906.04043"),
    Attack("log_rank", log_rank, ("stats",), "Mitchell et al. 2023, arXiv:2301.11305"),
    Attack("entropy", entropy, ("stats",), "Gehrmann et al. 2019, arXiv:1906.04043"),
    Attack(
        "surp",
        surp,
        ("stats",),
        "Zhang and Wu 2024, arXiv:2407.21248",
        null_reason="no token is both among the least likely and predicted with an entropy below max_entropy",
    ),
    Attack(
        "lowercase",
        lowercase,
        ("stats", "lowercase_stats"),
        "Carlini et al. 2021, arXiv:2012.07805",
        null_reason="no token of its lower-cased form could be scored, or its own loss is 0",
    ),
    Attack(
        "ref",
        ref,
        ("stats", "reference_stats"),
        "Carlini et al. 2021, arXiv:2012.07805; Mireshghallah et al. 2022, arXiv:2203.03929",
        null_reason="the reference model could score no token",
    ),
    Attack(
        "ref_ratio",
        ref_ratio,
        ("stats", "reference_stats"),
        "Carlini et al. 2021, arXiv:2012.07805",
        null_reason="the reference model could score no token, or the target's loss is 0",
    ),
)

ATTACKS: Mapping[str, Attack] = {row.name: row for row in _ROWS}
"""The attacks of this package by name, in the order of reports."""

DEFAULT: tuple[str, ...] = tuple(name for name, row in ATTACKS.items() if PLAIN_PASS.issuperset(row.inputs))
"""Names of the attacks that one plain pass over the documents suffices for."""


def _registered() -> dict[str, metadata.EntryPoint]:
    """The entry points of other packages by name; none is loaded."""
    found: dict[str, metadata.EntryPoint] = {}
    for entry_point in metadata.entry_points(group=ENTRY_POINTS):
        name = entry_point.name
        if name in ATTACKS or name in found:
            owner = found[name].value if name in found else "mimir_jax"
            raise AttackError(f"attack {name} is registered twice: by {owner} and by {entry_point.value}")
        found[name] = entry_point
    return found


def _load(entry_point: metadata.EntryPoint) -> Attack:
    where = f"attack {entry_point.name}, registered as {entry_point.value}"
    try:
        attack = entry_point.load()
    except Exception as error:
        # Whatever another package's import raises, the user has to know which package it was.
        raise AttackError(f"{where}, cannot be loaded: {error}") from error
    if not isinstance(attack, Attack):
        raise AttackError(f"{where}, is a {type(attack).__name__}, not an Attack")
    if attack.name != entry_point.name:
        raise AttackError(f"{where}, calls itself {attack.name}")
    return attack


def find(name: str) -> Attack:
    """The attack of this name, from this package or another one, which is then imported.

    Raises:
        AttackError: no such attack (all known ones and the nearest are named), two packages claim one name,
            or the one that registered it is broken.
    """
    registered = _registered()
    if name in ATTACKS:
        return ATTACKS[name]
    if name in registered:
        return _load(registered[name])
    known = [*ATTACKS, *registered]
    # Python cannot call a function min_k++, so that whoever knows the function may write its name.
    spellings = {row.function.__name__: row.name for row in ATTACKS.values()} | {word: word for word in known}
    nearest = difflib.get_close_matches(name.lower(), spellings, n=1)
    hint = f"; did you mean {spellings[nearest[0]]}?" if nearest else ""
    raise AttackError(f"unknown attack {name!r}{hint} (known: {', '.join(known)})")


def parse(spec: str) -> BoundAttack:
    """The attack that a spec names, with its parameters: `min_k` or `min_k@k=0.1,window=3,stride=2`.

    Raises:
        AttackError: no such attack or parameter, a parameter given twice, not a number or out of range.
    """
    name, at, assignments = spec.partition("@")
    attack = find(name.strip())
    given: dict[str, int | float] = {}
    try:
        for assignment in assignments.split(",") if at else ():
            parameter, value = attack.read(assignment)
            if parameter in given:
                raise ValueError(f"{parameter} is given twice")
            given[parameter] = value
    except ValueError as error:
        known = ", ".join(f"{key}={value}" for key, value in attack.parameters.items()) or "none"
        raise AttackError(f"{spec}: {error} (parameters of {attack.name}: {known})") from error
    return BoundAttack(attack, attack.parameters | given)
