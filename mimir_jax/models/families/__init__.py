"""Model families by the `model_type` of their config.json."""

from mimir_jax.models.families import (
    bert,
    distilbert,
    gemma,
    gemma2,
    gemma3_text,
    gpt2,
    gpt_neo,
    gpt_neox,
    gptj,
    llama,
    mistral,
    olmo,
    olmo2,
    olmo3,
    opt,
    phi,
    qwen2,
    qwen3,
    roberta,
    smollm3,
    stablelm,
)

FAMILIES = {
    module.FAMILY.model_type: module.FAMILY
    for module in (
        gpt2,
        gpt_neo,
        gpt_neox,
        gptj,
        llama,
        smollm3,
        mistral,
        qwen2,
        qwen3,
        gemma,
        gemma2,
        gemma3_text,
        opt,
        phi,
        stablelm,
        olmo,
        olmo2,
        olmo3,
    )
}
"""Causal models, which can be attacked."""

MASKED = {module.FAMILY.model_type: module.FAMILY for module in (bert, distilbert, roberta)}
"""Masked models, which make neighbors."""
