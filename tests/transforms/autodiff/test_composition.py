"""Every transformation against JAX's, alone and nested in both orders: one compiled program per case, order and side."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from luciole.transforms import autodiff as ad

pytestmark = pytest.mark.usefixtures("quick_compile")


def scalar(f):
    """A function as one to a scalar, with a non-linear outer part so that second derivatives mix."""

    def total(*args):
        leaves = [v for v in jax.tree.leaves(f(*args)) if jnp.issubdtype(v.dtype, jnp.floating)]
        return sum(jnp.sum(jnp.sin(v) + 0.3 * v**2) for v in leaves)

    return total


def close(ours, theirs, tolerance=1e-10):
    """Equal to a relative tolerance, leaf by leaf, and of the same structure and dtype."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype), path
        if a.dtype != jax.dtypes.float0:
            scale = 1 + float(np.max(np.abs(b), initial=0))
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale, err_msg=str(path))


def dot(a, b):
    """The inner product of two pytrees, integers left out."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return sum(jnp.vdot(x, y) for x, y in pairs if x.dtype != jax.dtypes.float0)


def reference(case):
    return case.reference or case.f


def places(case):
    return tuple(range(len(case.args)))


def test_dot_product(case, directions):
    """<J v, w> = <v, J^T w>: needs no other implementation."""
    cotangents = directions(jax.eval_shape(case.f, *case.args), "c")

    def both(*args):
        _, program = ad.linearize(case.f, *args)
        tangents = directions(args, "t")
        moved, pulled = program(*tangents), program.T(cotangents)
        return (
            dot(moved, cotangents),
            dot(tangents, pulled),
            dot(jax.tree.map(abs_, moved), jax.tree.map(abs_, cotangents)),
        )

    left, right, size = jax.jit(both)(*case.args)
    np.testing.assert_allclose(left, right, rtol=0, atol=1e-10 * (1 + size))


def abs_(x):
    return x if x.dtype == jax.dtypes.float0 else jnp.abs(x)


def first_order(f, t, args, directions):
    """Value, forward, reverse, gradient: of the library `t`, which has JAX's names."""
    tangents, cotangents = directions(args, "t"), directions(jax.eval_shape(f, *args), "c")
    value, moved = t.jvp(f, args, tangents)
    value2, pull = t.vjp(f, *args)
    value3, linear = t.linearize(f, *args)
    batch = tuple(jnp.stack([a, 0.9 * a + 0.01]) for a in args)
    everything = tuple(range(len(args)))
    return drop_float0(
        {
            "jvp": (value, moved),
            "vjp": (value2, pull(cotangents)),
            "linearize": (value3, linear(*tangents)),
            "grad": t.grad(scalar(f), everything)(*args),
            "grad of jit": t.grad(jax.jit(scalar(f)), everything)(*args),
            "vmap of grad": jax.vmap(t.grad(scalar(f), everything))(*batch),
            "grad of vmap": t.grad(lambda *b: jax.vmap(scalar(f))(*b).sum(), everything)(*batch),
            "vmap of linear": jax.vmap(t.linearize(scalar(f), *args)[1])(*batch),
        }
    )


def drop_float0(tree):
    return jax.tree.map(lambda x: jnp.zeros(x.shape) if x.dtype == jax.dtypes.float0 else x, tree)


def test_first_order(case, directions):
    ours = jax.jit(lambda *args: first_order(case.f, ad, args, directions))(*case.args)
    theirs = jax.jit(lambda *args: first_order(reference(case), jax, args, directions))(*case.args)
    close(ours, theirs)


def along(g, args, directions):
    """A gradient in a fixed direction: a scalar function, to be differentiated again."""
    direction = directions(args, "d")
    return lambda *xs: dot(direction, g(*xs))


def test_second_order(case, directions):
    """Gradients of gradients, forward over reverse and reverse over forward, each side ours or JAX's; a linearized gradient."""
    if not case.second:
        pytest.skip("no reverse mode over the reverse mode of this loop, or none in JAX")
    everything, ours_reverses = places(case), case.reference is None

    def ours(*args):
        tangents = directions(args, "t")
        g = ad.grad(scalar(case.f), everything)
        out = {
            "ours of ours": ad.grad(along(g, args, directions), everything)(*args),
            "jvp of ours": ad.jvp(g, args, tangents)[1],
            "jax.jvp of ours": jax.jvp(g, args, tangents)[1],
            "linearized": ad.linearize(g, *args)[1](*tangents),
            "hvp": ad.hvp(scalar(case.f), args, tangents),
            "reverse over forward": ad.grad(lambda *xs: ad.jvp(scalar(case.f), xs, tangents)[1], everything)(*args),
        }
        if ours_reverses:
            jax_g = jax.grad(scalar(case.f), everything)
            out["jax of ours"] = jax.grad(along(g, args, directions), everything)(*args)
            out["ours of jax"] = ad.grad(along(jax_g, args, directions), everything)(*args)
            out["ours.jvp of jax"] = ad.jvp(jax_g, args, tangents)[1]
        return out

    def theirs(*args):
        tangents = directions(args, "t")
        g = jax.grad(scalar(reference(case)), everything)
        return jax.grad(along(g, args, directions), everything)(*args), jax.jvp(g, args, tangents)[1]

    got, (twice, product) = jax.jit(ours)(*case.args), jax.jit(theirs)(*case.args)
    product_of = {"jvp of ours", "jax.jvp of ours", "linearized", "hvp", "reverse over forward", "ours.jvp of jax"}
    for name, value in got.items():
        expected = product if name in product_of else twice
        expected = expected[0] if name == "hvp" and len(everything) == 1 else expected
        close({name: value}, {name: expected})


def test_concrete_values_run_compiled(case):
    """Outside any trace, the derivative of a jitted function agrees with JAX's too."""
    if case.reference is not None:
        pytest.skip("JAX cannot reverse this one")
    close(
        ad.grad(jax.jit(scalar(case.f)), places(case))(*case.args),
        jax.grad(jax.jit(scalar(case.f)), places(case))(*case.args),
    )


def test_no_fallback(case, directions):
    """The named primitives never fall back, in first or second order."""
    if not case.own:
        pytest.skip("this program has a primitive of the long tail")
    everything = places(case)
    with ad.without_fallback():
        g = ad.grad(scalar(case.f), everything)
        jax.make_jaxpr(g)(*case.args)
        if case.second:
            jax.make_jaxpr(ad.grad(along(g, case.args, directions), everything))(*case.args)
            jax.make_jaxpr(lambda *args: ad.jvp(g, args, directions(args)))(*case.args)
