"""Membership inference attacks on language models, in JAX: score once, attack many."""
