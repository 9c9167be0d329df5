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


def pytest_generate_tests(metafunc):
    if "harness" not in metafunc.fixturenames:
        return
    if catalogue is None:
        metafunc.parametrize("harness", [pytest.param(None, marks=pytest.mark.skip("this wheel of JAX has no harnesses"))])
        return
    # By full name too: JAX builds some groups from sets, whose order is another in every process.
    floating = (h for h in catalogue.all_harnesses if h.dtype in (np.float32, np.complex64))
    chosen = sorted(floating, key=lambda h: (h.group_name, h.fullname))
    if "group" in metafunc.function.__name__:
        groups = [list(cases) for _, cases in itertools.groupby(chosen, key=lambda h: h.group_name)]
        chosen = [next((c for c in cases if c.dtype == np.float32), cases[0]) for cases in groups]
    metafunc.parametrize("harness", [pytest.param(h, id=h.fullname) for h in chosen])


class Nothing(Exception):
    """There is nothing to compare: why."""


def compare(harness, wide=False):
    """The derivatives of one case, in its own float32, or with its operands widened to float64."""
    with jax.enable_x64(wide):
        args = [_array(a, wide) for a in harness.dyn_args_maker(np.random.RandomState(0))]
        moving = [i for i, a in enumerate(args) if jnp.issubdtype(getattr(a, "dtype", None) or jnp.result_type(a), jnp.inexact)]
        if not moving:
            raise Nothing("no operand of floating point type")
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
        symmetric = harness.group_name == "cholesky"  # JAX 0.10 is off along other tangents, see `test_cholesky`
        if symmetric:
            tangents = tuple(_symmetric(t) for t in tangents)
        try:
            jax.eval_shape(f, *at)
            expected = jax.jit(lambda *xs: jax.jvp(f, xs, tangents))(*at)
            cotangents = [like(v) for v in expected[0]]
            pulled = jax.jit(lambda *xs: jax.vjp(f, *xs)[1](cotangents))(*at)
        except Exception as error:
            raise Nothing(f"JAX does not differentiate this: {type(error).__name__}") from error
        if not cotangents:
            raise Nothing("no result of floating point type")
        narrow = any(v.dtype in (np.float32, np.complex64) for v in [*at, *expected[0]])
        tolerance = 2e-4 if narrow else 1e-10
        close(jax.jit(lambda *xs: ad.jvp(f, xs, tangents))(*at), expected, tolerance)
        ours = jax.jit(lambda *xs: ad.vjp(f, *xs)[1](cotangents))(*at)
        close(*(jax.tree.map(_symmetric, tree) if symmetric else tree for tree in (ours, pulled)), tolerance)


def _array(value, wide):
    if not isinstance(value, np.ndarray):
        return value
    wider = {np.dtype(np.float32): np.float64, np.dtype(np.complex64): np.complex128}
    return jnp.asarray(value, wider.get(value.dtype) if wide else None)


def _symmetric(matrix):
    return (matrix + jnp.swapaxes(matrix, -1, -2)) / 2


def close(ours, theirs, tolerance):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        if a.dtype == jax.dtypes.float0:
            continue
        finite = np.isfinite(b)
        scale = 1 + np.max(np.abs(np.where(finite, b, 0)), initial=0)
        np.testing.assert_allclose(np.where(finite, a, 0), np.where(finite, b, 0), rtol=tolerance, atol=tolerance * scale)


def compare_or_skip(harness, wide=False):
    try:
        compare(harness, wide)
    except Nothing as why:
        pytest.skip(str(why))


# Groups whose chosen case JAX (0.10 or 0.12) does not differentiate: no real result, or the bare primitive lacks a
# parameter that JAX's own rule wants (clamp, conj, mul), or JAX has no rule (select_and_gather_add: none where dilated).
WITHOUT_DERIVATIVE = set(
    "argmax argmin clamp conj eq ge gt iota is_finite le lt mul ne nextafter random_categorical random_uniform reduce_max reduce_min "
    "reduce_window_mul regularized_incomplete_beta scatter_mul select_and_gather_add".split()
)


@pytest.mark.slow
def test_one_case_of_each_group(harness):
    try:
        compare(harness)
    except Nothing as why:
        if harness.group_name not in WITHOUT_DERIVATIVE:
            raise
        pytest.skip(str(why))


@pytest.mark.exhaustive
def test_every_case_in_float32(harness):
    compare_or_skip(harness)


@pytest.mark.exhaustive
def test_every_case_in_float64(harness):
    compare_or_skip(harness, wide=True)
