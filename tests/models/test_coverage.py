"""What `mimir-jax models` claims of parity is what the tests of parity test."""

import importlib
from typing import Any

import pytest
import test_encoder_parity as encoder
import test_families_parity as families
import test_gemma3_images as gemma3
import test_gpt_neox_parity as neox
import test_seq2seq_parity as seq2seq
import test_stablelm_alpha as stablelm_alpha

from mimir_jax.models.coverage import COVERAGE, PARITY
from mimir_jax.models.families import FAMILIES, MASKED, SEQ2SEQ, llama

OPTIONS: dict[str, list[dict[str, Any]]] = {
    "gpt_neox": [{**neox.TINY, **overrides} for _, overrides in neox.OPTIONS.values()],
    "gemma3": [{"text_config": gemma3.TEXT, "tie_word_embeddings": True}],
}
for kind, _, overrides in families.OPTIONS.values():
    OPTIONS.setdefault(kind, []).append({**families.TINY[kind], **overrides})
OTHERS = {kind for kind, _ in encoder.OPTIONS.values()} | ({"t5"} if seq2seq.OPTIONS else set())

# Other spellings, which tests of config.json compare with those of transformers 5; and what is refused.
SPELLINGS = {
    "attention_layers", "partial_rotary_factor", "rope_local_base_freq", "rope_scaling", "rope_theta",
    "rotary_emb_base", "rotary_pct", "sliding_window_size", "use_bidirectional_attention",
}  # fmt: skip


def test_every_family_is_described() -> None:
    assert FAMILIES.keys() | MASKED.keys() | SEQ2SEQ.keys() == COVERAGE.keys()
    assert all(all(row) for row in COVERAGE.values())


def test_parity_is_claimed_where_it_is_tested() -> None:
    claimed = {kind for kind, row in COVERAGE.items() if row.tested.startswith(PARITY)}
    assert claimed == OPTIONS.keys() | OTHERS
    # and the one that cannot be compared does not claim it
    assert FAMILIES.keys() - claimed == {stablelm_alpha.FIELDS["model_type"]}
    assert {kind for kind, family in FAMILIES.items() if family.note} == FAMILIES.keys() - claimed
    compared = {module.TOLERANCE for module in (families, neox, encoder, seq2seq)}
    assert compared == {float(PARITY.split(" to ")[1].split()[0])}


@pytest.mark.parametrize("kind", OPTIONS)
def test_every_modelled_field_is_an_option_of_the_tests(kind: str) -> None:
    """Those of Llama's table may be tested on Llama alone: what reads them is the same function."""
    module = importlib.import_module(f"mimir_jax.models.families.{kind}")
    modelled = set(getattr(module, "MODELLED", llama.SHARED))
    tested = {name for fields in OPTIONS[kind] for name in fields}
    if kind in families.LIKE_LLAMA | {"gemma3_text", "stablelm"}:
        tested |= {name for fields in OPTIONS["llama"] for name in fields} & set(llama.SHARED)
    assert modelled - tested - SPELLINGS == set()
