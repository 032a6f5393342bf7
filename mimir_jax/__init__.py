"""Membership inference attacks on language models, in JAX: score once, attack many.

import mimir_jax as mj

model = mj.load_model("EleutherAI/pythia-160m-deduped", mesh=mj.make_mesh(data=4, model=2))
stats = mj.score(model, texts)
scores = mj.attacks.min_k(stats, k=0.2)
mj.metrics.evaluate(scores, is_member)
"""

from mimir_jax import attacks, metrics
from mimir_jax.arrays import TokenStats
from mimir_jax.config import DataConfig, RunConfig
from mimir_jax.data.documents import load_documents
from mimir_jax.data.text_features import zlib_bytes
from mimir_jax.parallel.mesh import make_mesh
from mimir_jax.scoring import score
from mimir_jax.scoring.model import load_model, stack_models

__all__ = [
    "DataConfig",
    "RunConfig",
    "TokenStats",
    "attacks",
    "load_documents",
    "load_model",
    "make_mesh",
    "metrics",
    "score",
    "stack_models",
    "zlib_bytes",
]
