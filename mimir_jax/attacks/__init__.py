"""Membership inference attacks: pure functions of token statistics. A higher score: more likely a member."""

from mimir_jax.attacks.entropy import entropy
from mimir_jax.attacks.loss import loss
from mimir_jax.attacks.lowercase import lowercase
from mimir_jax.attacks.max_norm import max_norm
from mimir_jax.attacks.min_k import min_k
from mimir_jax.attacks.min_k_plus_plus import min_k_plus_plus
from mimir_jax.attacks.rank import log_rank, rank
from mimir_jax.attacks.ref import ref, ref_ratio
from mimir_jax.attacks.registry import ATTACKS, DEFAULT, INPUTS, Attack, AttackError, BoundAttack, parse
from mimir_jax.attacks.surp import surp
from mimir_jax.attacks.zlib import zlib

__all__ = [
    "ATTACKS",
    "DEFAULT",
    "INPUTS",
    "Attack",
    "AttackError",
    "BoundAttack",
    "entropy",
    "log_rank",
    "loss",
    "lowercase",
    "max_norm",
    "min_k",
    "min_k_plus_plus",
    "parse",
    "rank",
    "ref",
    "ref_ratio",
    "surp",
    "zlib",
]
