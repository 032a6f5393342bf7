"""Model families by the `model_type` of their config.json."""

from mimir_jax.models.families import (
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
