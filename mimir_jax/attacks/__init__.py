"""Membership inference attacks: pure functions of token statistics. A higher score: more likely a member."""

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
from mimir_jax.attacks.quantile import quantile
from mimir_jax.attacks.rank import log_rank, rank
from mimir_jax.attacks.recall import con_recall, recall
from mimir_jax.attacks.ref import ref, ref_mean, ref_ratio
from mimir_jax.attacks.registry import ATTACKS, DEFAULT, INPUTS, Attack, AttackError, BoundAttack, parse
from mimir_jax.attacks.rmia import rmia
from mimir_jax.attacks.samia import samia
from mimir_jax.attacks.surp import surp
from mimir_jax.attacks.wbc import wbc
from mimir_jax.attacks.zlib import zlib

__all__ = [
    "ATTACKS",
    "DEFAULT",
    "INPUTS",
    "Attack",
    "AttackError",
    "BoundAttack",
    "con_recall",
    "dc_pdd",
    "em_mia",
    "entropy",
    "gradnorm",
    "lira",
    "lira_online",
    "log_rank",
    "loss",
    "lowercase",
    "max_norm",
    "min_k",
    "min_k_plus_plus",
    "ne",
    "ne_z",
    "pac",
    "parse",
    "quantile",
    "rank",
    "recall",
    "ref",
    "ref_mean",
    "ref_ratio",
    "rmia",
    "samia",
    "surp",
    "wbc",
    "zlib",
]
