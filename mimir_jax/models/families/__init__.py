"""Model families by the `model_type` of their config.json."""

from mimir_jax.models.families import gpt_neox

FAMILIES = {family.model_type: family for family in (gpt_neox.FAMILY,)}
