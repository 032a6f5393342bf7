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

from mimir_jax.attacks.dc_pdd import dc_pdd
from mimir_jax.attacks.em_mia import em_mia
from mimir_jax.attacks.entropy import entropy
from mimir_jax.attacks.gradnorm import gradnorm
from mimir_jax.attacks.lira import lira, lira_online
from mimir_jax.attacks.loss import loss
from mimir_jax.attacks.lowercase import lowercase
from mimir_jax.attacks.max_norm import max_norm
from mimir_jax.attacks.min_k import min_k
from mimir_jax.attacks.min_k_plus_plus import min_k_plus_plus
from mimir_jax.attacks.ne import ne, ne_z
from mimir_jax.attacks.pac import pac
from mimir_jax.attacks.parameters import Limit
from mimir_jax.attacks.quantile import quantile
from mimir_jax.attacks.rank import log_rank, rank
from mimir_jax.attacks.recall import con_recall, recall
from mimir_jax.attacks.ref import ref, ref_mean, ref_ratio
from mimir_jax.attacks.rmia import rmia
from mimir_jax.attacks.samia import samia
from mimir_jax.attacks.surp import surp
from mimir_jax.attacks.wbc import wbc
from mimir_jax.attacks.zlib import zlib

ENTRY_POINTS = "mimir_jax.attacks"

INPUTS: Mapping[str, str] = {
    "stats": "TokenStats [..., doc, time] of the documents under the target model.",
    "zlib_bytes": "Int [doc]: size of each document's UTF-8 bytes after zlib.compress at its default level.",
    "token_counts": "Num [vocab]: occurrences of each id of the target's tokenizer in a reference corpus.",
    "lowercase_stats": "TokenStats [..., doc, time] of the lower-cased documents under the target model.",
    "swap_stats": "TokenStats [..., variant, doc, time] of versions of each document with swapped words.",
    "neighbor_stats": "TokenStats [..., neighbor, doc, time] of texts close to each document; no mask: missing.",
    "nonmember_prefix_stats": "TokenStats [..., doc, time] of the same tokens, given texts of non-members.",
    "member_prefix_stats": "TokenStats [..., doc, time] of the same tokens, given texts of members.",
    "reference_stats": "TokenStats [..., doc, time] of the documents under a reference; one score for each.",
    "reference_log_likelihoods": "Float [reference, doc]: LL of each document under every reference.",
    "in_out_log_likelihoods": "Float [reference, doc]: LL under references trained on known halves of the documents.",
    "in_out_membership": "Bool [reference, doc]: whether that reference was trained on the document.",
    "population_log_likelihood": "Float [..., text]: LL of a population's texts under the target model.",
    "population_in_out_log_likelihoods": "Float [reference, text]: LL of the population under these references.",
    "population_membership": "Bool [reference, text]: whether that reference was trained on the text.",
    "grad_norms": "Float [..., norm, doc]: mean over tensors of the gradient's p-norm, p = 1, 2, inf.",
    "sample_recall": "Float [..., sample, doc]: ROUGE-1 recall of each sampled continuation; NaN: none.",
    "sample_zlib_bytes": "Int [..., sample, doc]: compressed size of each sampled continuation.",
    "loss_quantiles": "Float [..., alpha, doc]: (1-alpha) quantile of non-members' LL, alpha = .01, .02, ..., .10.",
    "log_likelihood": "Float [..., doc]: LL of the documents under the target model.",
    "min_k_plus_plus_score": "Float [..., doc]: min_k++ of the documents, at its defaults.",
    "conditional_log_likelihood": "Float [..., prefix, doc]: LL given a document as prefix; NaN: does not fit.",
    "prefix_index": "Int [prefix]: which document each of these prefixes is.",
}
"""What an attack may ask for, by the name of its function's parameter."""

PLAIN_PASS = frozenset({"stats", "zlib_bytes"})
"""Inputs that one plain pass over the documents and their text provide."""


IN_OUT = ("in_out_log_likelihoods", "in_out_membership")
POPULATION = ("population_log_likelihood", "population_in_out_log_likelihoods", "population_membership")
"""What comes from references whose training sets are known."""


class AttackError(ValueError):
    """An attack that cannot be named, parsed or registered; the message says what can."""


@dataclass(frozen=True)
class Attack:
    """A row of the table.

    The function takes its inputs in order, and then what may be left out: further inputs, with default None,
    and parameters that a spec may set, which are numbers with defaults, each within its `Limit` if its
    annotation has one.

    Raises:
        AttackError: the function's signature is another.
    """

    name: str
    function: Callable[..., Array]
    inputs: tuple[str, ...]
    """Names of the arrays that the function takes: those in `INPUTS`, for an attack of another package."""
    citation: str
    null_reason: str | None = None
    """Why a document with scored tokens may have no score; None where that cannot be."""
    joint: bool = False
    """Whether a document's score depends on the others: the function must get all of them in one call."""
    same_tokens: bool = False
    """Whether it compares the target with a reference token by token: both must have one tokenizer."""
    log_prob_only: bool = False
    """Whether it reads no field of TokenStats but token_ids, log_prob and mask, which is all that an API tells."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_+-]*", self.name):
            raise AttackError(f"{self.name!r}: an attack's name is lower-case letters, digits, _, + and -")
        signature = inspect.signature(self.function)
        if tuple(signature.parameters)[: len(self.inputs)] != self.inputs:
            raise AttackError(f"{self.name}: the function takes {signature}, not first {self.inputs}")
        for parameter in list(signature.parameters.values())[len(self.inputs) :]:
            if type(parameter.default) not in (int, float, type(None)):
                raise AttackError(f"{self.name}: parameter {parameter.name} has no default that is a number")

    @property
    def parameters(self) -> dict[str, int | float]:
        """The parameters that a spec may set and their defaults, in the order of the signature."""
        return {
            name: parameter.default
            for name, parameter in inspect.signature(self.function).parameters.items()
            if type(parameter.default) in (int, float)
        }

    def read(self, assignment: str) -> tuple[str, int | float]:
        """The parameter and its value from `name=value`: of the default's type and within the annotated limit.

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
            if isinstance(note, Limit):
                value = note.check(name, value)
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
    Attack("loss", loss, ("stats",), "Yeom et al. 2018, arXiv:1709.01604", log_prob_only=True),
    Attack("zlib", zlib, ("stats", "zlib_bytes"), "Carlini et al. 2021, arXiv:2012.07805", log_prob_only=True),
    Attack(
        "min_k",
        min_k,
        ("stats",),
        "Shi et al. 2024, arXiv:2310.16789",
        null_reason="fewer scored tokens than one window",
        log_prob_only=True,
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
        "dc_pdd",
        dc_pdd,
        ("stats", "token_counts"),
        "Zhang et al. 2024, arXiv:2409.14781",
        null_reason="the token counts end before one of its token ids",
        log_prob_only=True,
    ),
    Attack(
        "lowercase",
        lowercase,
        ("stats", "lowercase_stats"),
        "Carlini et al. 2021, arXiv:2012.07805",
        null_reason="no token of its lower-cased form could be scored, or its own loss is 0",
        log_prob_only=True,
    ),
    Attack(
        "recall",
        recall,
        ("stats", "nonmember_prefix_stats"),
        "Xie et al. 2024, arXiv:2406.15968",
        null_reason="it is a shot itself, not even one shot fits into the context with it, or its own loss is 0",
        log_prob_only=True,
    ),
    Attack(
        "con_recall",
        con_recall,
        ("stats", "nonmember_prefix_stats", "member_prefix_stats"),
        "Wang et al. 2024, arXiv:2409.03363",
        null_reason="it is a shot itself, not even one shot fits into the context with it, or its own loss is 0",
        log_prob_only=True,
    ),
    Attack(
        "ne",
        ne,
        ("stats", "neighbor_stats"),
        "Mattern et al. 2023, arXiv:2305.18462",
        null_reason="it has no neighbor with a scored token",
        log_prob_only=True,
    ),
    Attack(
        "ne_z",
        ne_z,
        ("stats", "neighbor_stats"),
        "Mattern et al. 2023, arXiv:2305.18462",
        null_reason="it has no neighbor with a scored token",
        log_prob_only=True,
    ),
    Attack(
        "pac",
        pac,
        ("stats", "swap_stats"),
        "Ye et al. 2024, arXiv:2405.11930",
        null_reason="it has fewer than two words to swap",
        log_prob_only=True,
    ),
    Attack(
        "em_mia",
        em_mia,
        ("log_likelihood", "min_k_plus_plus_score", "conditional_log_likelihood", "prefix_index"),
        "Kim et al. 2024, arXiv:2410.07582",
        null_reason="it fits into the context together with too few of the other documents",
        joint=True,
    ),
    Attack(
        "samia",
        samia,
        ("sample_recall", "sample_zlib_bytes"),
        "Kaneko et al. 2024, arXiv:2404.11262",
        null_reason="it is too short for a first half to continue and a second half to compare",
    ),
    Attack("gradnorm", gradnorm, ("grad_norms",), "Wang et al. 2024, arXiv:2402.17012"),
    Attack(
        "ref",
        ref,
        ("stats", "reference_stats"),
        "Carlini et al. 2021, arXiv:2012.07805; Mireshghallah et al. 2022, arXiv:2203.03929",
        null_reason="the reference model could score no token",
        log_prob_only=True,
    ),
    Attack(
        "ref-mean",
        ref_mean,
        ("stats", "reference_log_likelihoods"),
        "Mireshghallah et al. 2022, arXiv:2203.03929",
        null_reason="one of the reference models could score no token",
        log_prob_only=True,
    ),
    Attack(
        "ref_ratio",
        ref_ratio,
        ("stats", "reference_stats"),
        "Carlini et al. 2021, arXiv:2012.07805",
        null_reason="the reference model could score no token, or the target's loss is 0",
        log_prob_only=True,
    ),
    Attack(
        "wbc",
        wbc,
        ("stats", "reference_stats"),
        "Chen et al. 2026, arXiv:2601.02751",
        null_reason="the reference model could score no token, or has other tokens: the two need one tokenizer",
        same_tokens=True,
        log_prob_only=True,
    ),
    Attack(
        "lira",
        lira,
        ("log_likelihood", *IN_OUT),
        "Carlini et al. 2022, arXiv:2112.03570; Hayes et al. 2025, arXiv:2505.18773",
        null_reason="too few references were trained without it",
        joint=True,
    ),
    Attack(
        "lira_online",
        lira_online,
        ("log_likelihood", *IN_OUT),
        "Carlini et al. 2022, arXiv:2112.03570; Hayes et al. 2025, arXiv:2505.18773",
        null_reason="too few references were trained with it, or without it",
        joint=True,
    ),
    Attack(
        "rmia",
        rmia,
        ("log_likelihood", *IN_OUT, *POPULATION),
        "Zarifzadeh et al. 2024, arXiv:2312.03262",
        null_reason="no reference was trained without it",
    ),
    Attack(
        "quantile", quantile, ("stats", "loss_quantiles"), "Bertran et al. 2023, arXiv:2307.03694", log_prob_only=True
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
    if unknown := [name for name in attack.inputs if name not in INPUTS]:
        raise AttackError(f"{where}, asks for unknown inputs {unknown}; known are {', '.join(INPUTS)}")
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

    >>> parse("min_k@window=3").name, parse("min_k@k=0.1").parameters
    ('min_k@window=3', {'k': 0.1, 'window': 1, 'stride': 1})
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
