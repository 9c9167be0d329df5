"""What every test runs under: warnings are errors, eight host devices, fixed seeds, no compilation cache on disk.

Precision: tests run in JAX's default, float32, unless they ask for the fixture `x64`. Rank and dtype promotion are as
the user has them, because models (NumPyro's own distributions among them) promote freely; `@pytest.mark.strict` makes
both errors, and is meant for tests of library code that runs no model.

Acceptance: a test that takes the fixture `acceptance` (or `posterior_name`, once per posterior) is skipped where
../shared/acceptance does not lie beside the checkout. With LUCIOLE_REQUIRE_ACCEPTANCE=1, as in CI, any skip of such a
test is a failure, whatever its reason.
"""

import os
import random

# Before JAX is imported: several devices, so that nothing quietly assumes one; and no cache that outlives the test run.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ["LUCIOLE_CACHE_DIR"] = ""
os.environ.setdefault("MPLBACKEND", "Agg")

from pathlib import Path

import hypothesis
import jax
import numpy as np
import pytest

ACCEPTANCE = Path(__file__).resolve().parents[2] / "shared" / "acceptance"
REQUIRE_ACCEPTANCE = os.environ.get("LUCIOLE_REQUIRE_ACCEPTANCE") == "1"
SEED = 20240229

hypothesis.settings.register_profile("luciole", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("luciole")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Strictness is set around the whole test, so that fixtures of any scope made for it are made under it."""
    if not item.get_closest_marker("strict"):
        return (yield)
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        return (yield)


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu"):
        try:
            jax.devices("gpu")
        except RuntimeError:
            pytest.skip("JAX sees no GPU")


@pytest.fixture(autouse=True)
def _same_seeds():
    """Global generators, which code under test may draw from, start every test alike."""
    random.seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002


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


@pytest.fixture(scope="session")
def acceptance():
    """The folder of the open posteriors; without it the test is skipped, and in CI, where it must be there, fails."""
    if not ACCEPTANCE.is_dir():
        pytest.skip("the folder shared/acceptance does not lie beside the checkout")
    return ACCEPTANCE


def pytest_generate_tests(metafunc):
    if "posterior_name" in metafunc.fixturenames:
        names = sorted(path.name for path in (ACCEPTANCE / "posteriors").glob("*") if path.is_dir())
        metafunc.parametrize("posterior_name", names)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if {"acceptance", "posterior_name"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("acceptance")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    skipped = report.skipped and not hasattr(report, "wasxfail")
    if REQUIRE_ACCEPTANCE and skipped and item.get_closest_marker("acceptance"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: skipped, and LUCIOLE_REQUIRE_ACCEPTANCE=1 forbids it: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    report = yield
    if REQUIRE_ACCEPTANCE and report.skipped and "acceptance" in collector.nodeid:
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid}: skipped as a whole, and LUCIOLE_REQUIRE_ACCEPTANCE=1 forbids it"
    return report
