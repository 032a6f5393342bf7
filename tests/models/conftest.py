"""Tests of models compile much and compute little."""

from collections.abc import Iterator

import jax
import pytest
import torch

torch.set_num_threads(1)  # its threads wait for one another where other tests use the cores


@pytest.fixture(scope="package", autouse=True)
def quick_compilation() -> Iterator[None]:
    """XLA compiles in less than half the time without its optimizations; results differ in rounding only."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
