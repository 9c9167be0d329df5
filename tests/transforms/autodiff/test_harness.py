"""JAX's own catalogue of primitives: wherever JAX differentiates, we agree.

Skipped where the wheel does not bring it.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from luciole.transforms import autodiff as ad

pytestmark = [pytest.mark.usefixtures("quick_compile"), pytest.mark.filterwarnings("ignore")]

try:
    from jax._src.internal_test_util import test_harnesses as catalogue
except ImportError:
    catalogue = None


def _float32():
    harnesses = [h for h in catalogue.all_harnesses if h.dtype in (np.float32, np.complex64)]
    return sorted(harnesses, key=lambda h: h.group_name)


def pytest_generate_tests(metafunc):
    if "harness" not in metafunc.fixturenames:
        return
    if catalogue is None:
        metafunc.parametrize("harness", [pytest.param(None, marks=pytest.mark.skip("this wheel of JAX has no harnesses"))])
        return
    groups = {name: list(cases) for name, cases in itertools.groupby(_float32(), key=lambda h: h.group_name)}
    if "every" in metafunc.function.__name__:
        chosen = list(itertools.chain(*groups.values()))
    else:
        chosen = [next((c for c in cases if c.dtype == np.float32), cases[0]) for cases in groups.values()]
    metafunc.parametrize("harness", [pytest.param(h, id=h.fullname) for h in chosen])


COMPARED: set[str] = set()


def compare(harness):
    with jax.enable_x64(False):
        args = harness.dyn_args_maker(np.random.RandomState(0))
        args = [jnp.asarray(a) if isinstance(a, np.ndarray) else a for a in args]
        moving = [i for i, a in enumerate(args) if jnp.issubdtype(getattr(a, "dtype", None) or jnp.result_type(a), jnp.inexact)]
        if not moving:
            pytest.skip("no operand of floating point type")
        rng = np.random.default_rng(0)

        def f(*xs):
            full = list(args)
            for i, x in zip(moving, xs, strict=True):
                full[i] = x
            outs = jax.tree.leaves(harness.dyn_fun(*full))
            return [o for o in outs if jnp.issubdtype(o.dtype, jnp.inexact)]

        def like(x):
            t = rng.normal(size=np.shape(x))
            return jnp.asarray(t + 1j * rng.normal(size=np.shape(x)) if jnp.iscomplexobj(x) else t, jnp.result_type(x))

        at = [jnp.asarray(args[i]) for i in moving]
        tangents = tuple(like(x) for x in at)
        try:
            expected = jax.jit(lambda *xs: jax.jvp(f, xs, tangents))(*at)
            cotangents = [like(v) for v in expected[0]]
            pulled = jax.jit(lambda *xs: jax.vjp(f, *xs)[1](cotangents))(*at)
        except Exception as error:
            pytest.skip(f"JAX does not differentiate this: {type(error).__name__}")
        if not cotangents:
            pytest.skip("no result of floating point type")
        close(jax.jit(lambda *xs: ad.jvp(f, xs, tangents))(*at), expected)
        close(jax.jit(lambda *xs: ad.vjp(f, *xs)[1](cotangents))(*at), pulled)
        COMPARED.add(harness.group_name)


def close(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        if a.dtype == jax.dtypes.float0:
            continue
        finite = np.isfinite(b)
        scale = 1 + np.max(np.abs(np.where(finite, b, 0)), initial=0)
        np.testing.assert_allclose(np.where(finite, a, 0), np.where(finite, b, 0), rtol=2e-4, atol=2e-4 * scale)


def test_one_case_of_each_group(harness):
    compare(harness)


def test_that_something_was_compared(request):
    """A test whose cases are all skipped proves nothing: of some 120 groups JAX differentiates about 80."""
    if catalogue is None or not any("one_case" in item.name for item in request.session.items):
        pytest.skip("runs after the cases of this file")
    assert len(COMPARED) > 60


@pytest.mark.slow
def test_every_case(harness):
    compare(harness)
