"""The promises of tests/conftest.py, kept."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_the_cpu_is_eight_devices():
    assert len(jax.devices("cpu")) == 8


@pytest.mark.parametrize("again", [1, 2])
def test_seeds_are_fixed(again):
    assert random.random() == random.Random(20240229).random()
    assert np.random.uniform() == np.random.RandomState(20240229).uniform()  # noqa: NPY002


def test_double_precision_on_request(x64):
    assert jnp.ones(2).dtype == jnp.float64


def test_float32_is_the_default():
    assert jnp.ones(2).dtype == jnp.float32


@pytest.mark.strict
def test_strict_refuses_silent_promotion():
    with pytest.raises(ValueError, match="numpy_rank_promotion"):
        jnp.ones(2) + jnp.ones((2, 2))
    with pytest.raises(jax.dtypes.TypePromotionError):
        jnp.ones(2) + jnp.arange(2)


def test_models_may_promote():
    assert (jnp.ones(2) + jnp.ones((2, 2), dtype=int)).shape == (2, 2)


def outcome_of(tmp_path, text, **variables):
    """Run one test file under a copy of this configuration, in a checkout with no acceptance folder beside it."""
    checkout = tmp_path / "checkout"
    (checkout / "tests").mkdir(parents=True)
    shutil.copy(ROOT / "tests/conftest.py", checkout / "tests")
    shutil.copy(ROOT / "pyproject.toml", checkout)
    (checkout / "tests/test_planted.py").write_text(text)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=checkout,
        env={**os.environ, "LUCIOLE_REQUIRE_ACCEPTANCE": "", **variables},
        capture_output=True,
        text=True,
    ).stdout


READS_ACCEPTANCE = "def test_one(acceptance): pass\ndef test_each(posterior_name): pass\n"


@pytest.mark.slow
def test_a_missing_acceptance_folder_skips(tmp_path):
    assert "2 skipped" in outcome_of(tmp_path, READS_ACCEPTANCE)


@pytest.mark.slow
def test_a_missing_acceptance_folder_fails_where_it_is_required(tmp_path):
    printed = outcome_of(tmp_path, READS_ACCEPTANCE, LUCIOLE_REQUIRE_ACCEPTANCE="1")
    assert "2 errors" in printed
    assert "LUCIOLE_REQUIRE_ACCEPTANCE=1 forbids it" in printed


@pytest.mark.slow
def test_a_test_that_skips_for_a_reason_of_its_own_fails_too(tmp_path):
    text = "import pytest\n@pytest.mark.acceptance\ndef test_it(): pytest.skip('no time')\n"
    assert "1 skipped" in outcome_of(tmp_path / "lax", text)
    assert "1 failed" in outcome_of(tmp_path / "required", text, LUCIOLE_REQUIRE_ACCEPTANCE="1")


@pytest.mark.slow
def test_a_warning_fails_and_precision_does_not_leak(tmp_path):
    text = (
        "import warnings, jax\n"
        "def test_warns(): warnings.warn('a warning')\n"
        "def test_leaves_x64_on(): jax.config.update('jax_enable_x64', True)\n"
        "def test_next(): assert jax.numpy.ones(1).dtype == 'float32'\n"
    )
    assert "1 failed, 2 passed" in outcome_of(tmp_path, text)
