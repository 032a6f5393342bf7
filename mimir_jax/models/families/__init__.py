"""Model families by the `model_type` of their config.json."""

from mimir_jax.models.families import gpt2, gpt_neo, gpt_neox, llama

FAMILIES = {family.model_type: family for family in (gpt2.FAMILY, gpt_neo.FAMILY, gpt_neox.FAMILY, llama.FAMILY)}
