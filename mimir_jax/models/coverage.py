"""Which published checkpoints each family covers, and what was tested how: what `mimir-jax models` prints."""

from typing import NamedTuple

PARITY = "logits of tiny random models over its options, to 1e-5 of Hugging Face torch"


class Coverage(NamedTuple):
    """What is known of a family.

    Attributes:
        paper: checkpoints of MIMIR's paper and configurations.
        others: further checkpoints of this form, to name some.
        tested: what was compared with what.
    """

    paper: str
    others: str
    tested: str = PARITY


COVERAGE = {
    "gpt2": Coverage("GPT-2, distilgpt2, datablations, BioMedLM", "other models in GPT-2's form"),
    "gpt_neo": Coverage("GPT-Neo 125M, 1.3B, 2.7B", "TinyStories"),
    "gpt_neox": Coverage(
        "Pythia and Pythia-deduped with all steps, GPT-NeoX-20B",
        "StableLM-Base-Alpha (v1), Dolly 2, RedPajama-INCITE",
        f"{PARITY}; every score of two trained checkpoints, to MIMIR's own",
    ),
    "gptj": Coverage("GPT-J 6B", "-"),
    "opt": Coverage("OPT", "Galactica"),
    "llama": Coverage(
        "Llama, Llama 2",
        "Llama 3, SmolLM, TinyLlama, Yi",
        f"{PARITY}; SmolLM2-135M, log-probs of real text to Hugging Face torch (experiments/convert_smollm2.py)",
    ),
    "smollm3": Coverage("-", "SmolLM3"),
    "mistral": Coverage("-", "Mistral 7B"),
    "qwen2": Coverage("-", "Qwen1.5, Qwen2, Qwen2.5"),
    "qwen3": Coverage("-", "Qwen3"),
    "gemma": Coverage("-", "Gemma"),
    "gemma2": Coverage("-", "Gemma 2"),
    "gemma3_text": Coverage("-", "Gemma 3, the text-only sizes"),
    "gemma3": Coverage("-", "Gemma 3, the text of the sizes that read images"),
    "phi": Coverage("-", "Phi-1, Phi-1.5, Phi-2"),
    "olmo": Coverage("OLMo", "OLMo 1B, 7B (-hf)"),
    "olmo2": Coverage("-", "OLMo 2"),
    "olmo3": Coverage("-", "OLMo 3"),
    "bert": Coverage("BERT, of neighbors", "BERT in all sizes, cased and uncased"),
    "distilbert": Coverage("DistilBERT, of neighbors", "DistilBERT (DistilRoBERTa is a roberta)"),
    "roberta": Coverage("RoBERTa, of neighbors", "RoBERTa in all sizes"),
    "t5": Coverage("T5, of neighbors", "T5 1.1, Flan-T5"),
    "stablelm": Coverage("-", "StableLM-3B-4E1T, StableLM 2"),
    "stablelm_alpha": Coverage(
        "StableLM-Base-Alpha 3B v2, the reference of its Table 1",
        "StableLM-Base-Alpha 7B v2",
        "logits of a tiny random model, to a restatement in torch; its own implementation is code beside the weights, "
        "with which it was never compared",
    ),
}
"""By model_type; a test holds it to every family that there is."""
