"""What every test runs under: warnings are errors, eight host devices, no persistent compilation cache, fixed precision.

Precision: tests run in JAX's default, float32, unless they ask for the fixture `x64`. Rank and dtype promotion are as the user has them,
because models (NumPyro's own distributions among them) promote freely.
"""

import os

# Before JAX is imported: several devices, so that nothing quietly assumes one; and no cache that outlives the test run.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ["LUCIOLE_CACHE_DIR"] = ""
os.environ.setdefault("MPLBACKEND", "Agg")

from pathlib import Path

import jax
import pytest

ACCEPTANCE = Path(__file__).resolve().parents[2] / "shared" / "acceptance"


@pytest.fixture
def x64():
    """Double precision for one test."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture(autouse=True)
def _same_precision_after():
    before = jax.config.jax_enable_x64
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture
def acceptance():
    """The folder of the open posteriors; without it the test is skipped, and in CI, where it must be there, it fails."""
    if ACCEPTANCE.is_dir():
        return ACCEPTANCE
    reason = "the folder shared/acceptance does not lie beside the checkout"
    if os.environ.get("LUCIOLE_REQUIRE_ACCEPTANCE") == "1":
        pytest.fail(reason)
    pytest.skip(reason)
