"""What all tests share: eight simulated devices, strict arrays, and the real checkpoints where they are at hand."""

import gc
import os

# Before jax starts its backend.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from hypothesis import settings

from mimir_jax.parallel.mesh import make_mesh
from mimir_jax.report import written

SHARED = Path(__file__).parents[2] / "shared"

settings.register_profile("default", deadline=None, max_examples=50)
settings.load_profile("default")


# LLVM at its lowest effort: compiling is most of the suite's time. What XLA itself does stays as users have it, and
# commands that tests start have all of it, but for those that many processes run.
jax.config.update("jax_disable_most_optimizations", True)
# No silent broadcasting of ranks and no silent promotion of dtypes, in any test.
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture(autouse=True)
def without_report(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs write no report.html, which takes longer than a tiny run, but for tests that are marked `report`."""
    if request.node.get_closest_marker("report") is None:
        monkeypatch.setattr(written, "write_report", lambda folder: None)


@pytest.fixture(autouse=True, scope="module")
def few_mappings() -> Iterator[None]:
    """A process's compiled programs are let go before they use up the memory mappings that Linux grants it, 65,530:
    beyond, compiling ends in a segmentation fault.
    """
    yield
    mappings = Path("/proc/self/maps")
    if mappings.exists() and mappings.read_bytes().count(b"\n") > 15_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of real checkpoints with the scores that the original MIMIR computed."""
    folder = SHARED / "golden"
    if not folder.is_dir():
        pytest.skip(f"the golden checkpoints are not at {folder}")
    return folder


@pytest.fixture(scope="session")
def one_device() -> jax.sharding.Mesh:
    return make_mesh(1, 1, jax.devices()[:1])
