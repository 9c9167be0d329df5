"""Every transformation against JAX's, alone and nested in both orders."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from luciole.transforms import autodiff as ad


def scalar(case):
    """The case as a function to a scalar, with a non-linear outer part so that second derivatives mix."""

    def total(*args):
        return sum(jnp.sum(jnp.sin(leaf) + 0.3 * leaf**2) for leaf in jax.tree.leaves(case.f(*args)))

    return total


def close(ours, theirs, tolerance=1e-10):
    """Equal to a relative tolerance, leaf by leaf, and of the same structure and dtype."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        scale = 1 + float(np.max(np.abs(b), initial=0))
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale)


def all_args(case):
    return tuple(range(len(case.args)))


def directional(g, directions):
    """The gradient in a fixed direction: a scalar function to differentiate again."""

    def along(*args):
        gradients = g(*args)
        return sum(jnp.vdot(d, v) for d, v in zip(jax.tree.leaves(directions(args, "d")), jax.tree.leaves(gradients), strict=True))

    return along


def nested(case, outer, inner, directions):
    """outer grad of inner grad in a fixed direction."""
    places = all_args(case)
    return outer(directional(inner(scalar(case), places), directions), places)


def test_linear_program_and_its_transpose_agree_by_the_dot_product(case, directions):
    value, program = ad.linearize(case.f, *case.args)
    tangents, cotangents = directions(case.args, "t"), directions(value, "c")
    moved, pulled = program(*tangents), program.T(cotangents)
    left = sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(cotangents), strict=True))
    right = sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(tangents), jax.tree.leaves(pulled), strict=True))
    size = sum(float(np.abs(a * b).sum()) for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(cotangents), strict=True))
    np.testing.assert_allclose(left, right, rtol=0, atol=1e-10 * (1 + size))
    close(program.T.T(*tangents), moved)


def test_jvp(case, directions):
    tangents = directions(case.args)
    close(ad.jvp(case.f, case.args, tangents), jax.jvp(case.f, case.args, tangents))


def test_vjp(case, directions):
    value, pull = ad.vjp(case.f, *case.args)
    expected, jax_pull = jax.vjp(case.f, *case.args)
    close(value, expected)
    close(pull(directions(value)), jax_pull(directions(value)))


def test_linearize_equals_jvp(case, directions):
    value, program = ad.linearize(case.f, *case.args)
    tangents = directions(case.args)
    close((value, program(*tangents)), jax.jvp(case.f, case.args, tangents))


@pytest.mark.parametrize("inner", [ad.grad, jax.grad], ids=["ours", "jax"])
@pytest.mark.parametrize("outer", [ad.grad, jax.grad], ids=["ours", "jax"])
def test_gradient_of_gradient(case, outer, inner, directions):
    close(nested(case, outer, inner, directions)(*case.args), nested(case, jax.grad, jax.grad, directions)(*case.args))


@pytest.mark.parametrize("inner", [ad.grad, jax.grad], ids=["ours", "jax"])
@pytest.mark.parametrize("outer", [ad.jvp, jax.jvp], ids=["ours", "jax"])
def test_forward_over_reverse(case, outer, inner, directions):
    tangents = directions(case.args)
    places = all_args(case)
    close(outer(inner(scalar(case), places), case.args, tangents), jax.jvp(jax.grad(scalar(case), places), case.args, tangents))


def test_reverse_over_forward(case, directions):
    def along(jvp):
        return lambda *args: jvp(scalar(case), args, directions(args))[1]

    close(ad.grad(along(ad.jvp), all_args(case))(*case.args), jax.grad(along(jax.jvp), all_args(case))(*case.args))


def test_hessian_vector_product_from_one_linearization(case, directions):
    places, tangents = all_args(case), directions(case.args)
    _, hessian = ad.linearize(ad.grad(scalar(case), places), *case.args)
    close(hessian(*tangents), jax.jvp(jax.grad(scalar(case), places), case.args, tangents)[1])


def test_jit_outside_and_inside(case):
    places = all_args(case)
    expected = jax.grad(scalar(case), places)(*case.args)
    close(jax.jit(ad.grad(scalar(case), places))(*case.args), expected)
    close(ad.grad(jax.jit(scalar(case)), places)(*case.args), expected)


def test_vmap_of_gradient_and_gradient_of_vmap(case):
    places = all_args(case)
    batch = tuple(np.stack([a, 0.9 * a + 0.01]) for a in case.args)
    expected = jax.vmap(jax.grad(scalar(case), places))(*batch)
    close(jax.vmap(ad.grad(scalar(case), places))(*batch), expected)
    close(ad.grad(lambda *args: jax.vmap(scalar(case))(*args).sum(), places)(*batch), expected)
    _, program = ad.linearize(scalar(case), *case.args)
    close(jax.vmap(program)(*batch), jnp.stack([program(*[b[i] for b in batch]) for i in range(2)]))


def test_no_fallback_on_named_primitives(case, directions):
    if not case.own:
        pytest.skip("this program has a primitive of the long tail")
    with ad.without_fallback():
        nested(case, ad.grad, ad.grad, directions)(*case.args)
        ad.jvp(ad.grad(scalar(case), all_args(case)), case.args, directions(case.args))
