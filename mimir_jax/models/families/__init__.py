"""Model families by the `model_type` of their config.json."""

from mimir_jax.models.families import (
    bert,
    distilbert,
    gemma,
    gemma2,
    gemma3,
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
    stablelm_alpha,
    t5,
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
        gemma3,
        opt,
        phi,
        stablelm,
        stablelm_alpha,
        olmo,
        olmo2,
        olmo3,
    )
}
"""Causal models, which can be attacked."""

MASKED = {module.FAMILY.model_type: module.FAMILY for module in (bert, distilbert, roberta)}
"""Masked models, which make neighbors."""

SEQ2SEQ = {module.FAMILY.model_type: module.FAMILY for module in (t5,)}
"""Text-to-text models, which fill masked spans."""

REFUSED = {
    "openlm": "SILO's form: its implementation is a package whose versions differ (the first rotates by head, not by "
    "position), and the files do not say which is theirs",
    "hf_olmo": "the first form of OLMo: use the repository whose name ends in -hf, which is `olmo`",
    "stablelm_epoch": "the first form of StableLM 3B-4E1T: use its main revision, which is `stablelm`",
    "phi-msft": "the first form of Phi: use its main revision, which is `phi`",
    "mixformer-sequential": "the first form of Phi-1.5: use its main revision, which is `phi`",
}
"""Of published checkpoints whose implementation is code beside the weights, which is never run: what to do instead."""
