"""Outputs that nobody uses and inputs that nobody differentiates, of every primitive that holds programs."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from luciole.transforms import autodiff as ad

pytestmark = pytest.mark.usefixtures("quick_compile")

POINT = (np.float64(0.3), np.float64(0.7), np.sin(np.arange(4.0)))


@jax.custom_jvp
def by_jvp(a, b):
    return jnp.sin(a) * b, 2 * a, jnp.int32(3)


@by_jvp.defjvp
def _(primals, tangents):
    (a, b), (da, db) = primals, tangents
    return by_jvp(a, b), (jnp.cos(a) * b * da + jnp.sin(a) * db, 2 * da, np.zeros((), jax.dtypes.float0))


@jax.custom_vjp
def by_vjp(a, b):
    return jnp.sin(a) * b, 2 * a, jnp.int32(3)


by_vjp.defvjp(lambda a, b: (by_vjp(a, b), (a, b)), lambda kept, g: (g[0] * jnp.cos(kept[0]) * kept[1] + 2 * g[1], g[0] * jnp.sin(kept[0])))


@ad.defines_linearization(lambda a, b: (jnp.sin(a) * b, 2 * a, jnp.int32(3)))
def by_rule(a, b):
    return (jnp.sin(a) * b, 2 * a, jnp.int32(3)), lambda da, db: (jnp.cos(a) * b * da + jnp.sin(a) * db, 2 * da, None)


def turn(a):
    """A turn with three carries, one of them an integer, and five outputs per turn, one of them constant in the loop."""

    def run(carry, x):
        return (carry[0] * a + x, carry[1] + 1, carry[2] * 1.0), (carry[0] * x, x, carry[1], a * x, jnp.stack([carry[0], a]))

    return run


def several(c, x):
    return jnp.sin(c) + x, (c, 2 * x, 1)


# By name: (program of a scalar, a scalar and a vector; the same written so that JAX can differentiate it, if need be).
PROGRAMS = {
    "scan": (lambda a, b, x: lax.scan(turn(a), (b, 0, b), x), None),
    "reverse": (lambda a, b, x: lax.scan(turn(a), (b, 0, b), x, reverse=True), None),
    "length only": (lambda a, b, x: lax.scan(lambda c, _: ((c[0] * a, c[1] + 1), (c, a * c[0])), (b, 0), None, length=3), None),
    "map": (lambda a, b, x: lax.map(lambda v: (v * a, b, 1), x), None),
    "no turn": (lambda a, b, x: lax.scan(turn(a), (b, 0, b), x[:0]), None),
    "unrolled": (lambda a, b, x: lax.scan(turn(a), (b, 0, b), x, unroll=2), None),
    "additive": (lambda a, b, x: lax.fori_loop(0, 3, lambda i, c: (c[0] + jnp.sin(a * i), c[1] * a, c[2] + 1), (b, b, 0)), None),
    "integers per turn": (lambda a, b, x: lax.scan(lambda c, v: (c * a + v[1], (v[0], v[0] * c)), b, (jnp.arange(4), x)), None),
    "nested": (lambda a, b, x: lax.scan(lambda c, v: lax.scan(lambda d, _: (d * a + v, (d, a * v)), c, None, length=2), b, x), None),
    "scan of cond": (
        lambda a, b, x: lax.scan(lambda c, v: several(*lax.cond(v > 0, lambda: (c * a, v), lambda: (c + v, a))), b, x),
        None,
    ),
    "scan of remat": (lambda a, b, x: lax.scan(jax.checkpoint(lambda c, v: several(c * a, v)), b, x), None),
    "scan of jit": (lambda a, b, x: lax.scan(jax.jit(lambda c, v: several(c * a, v)), b, x), None),
    "scan of custom_jvp": (lambda a, b, x: lax.scan(lambda c, v: (by_jvp(c, a)[0], by_jvp(c, v)), b, x), None),
    "scan of custom_vjp": (
        lambda a, b, x: lax.scan(lambda c, v: (by_vjp(c, a)[0], by_vjp(c, v)), b, x),
        lambda a, b, x: lax.scan(lambda c, v: (by_jvp(c, a)[0], by_jvp(c, v)), b, x),
    ),
    "scan of rule": (
        lambda a, b, x: lax.scan(lambda c, v: (by_rule(c, a)[0], by_rule(c, v)), b, x),
        lambda a, b, x: lax.scan(lambda c, v: (by_jvp(c, a)[0], by_jvp(c, v)), b, x),
    ),
    "vmapped scan": (lambda a, b, x: jax.vmap(lambda v: lax.scan(turn(a), (b * v, 0, b), x))(x), None),
    "cond": (lambda a, b, x: lax.cond(a > 0, lambda: (a * b, x * a, 3, b), lambda: (a + b, x, 4, 2.0)), None),
    "vmapped cond": (lambda a, b, x: jax.vmap(lambda v: lax.cond(v > 0, lambda: (v * a, b, 1), lambda: (a, v, 2)))(x), None),
    "while": (
        lambda a, b, x: lax.fori_loop(0, jnp.int32(x.shape[0] - 1), lambda i, c: (c[0] + jnp.sin(a * i), c[1] + b, c[2] + 1), (b, a, 0)),
        lambda a, b, x: (b + jnp.sin(a) + jnp.sin(2 * a), a + 3 * b, 3),
    ),
    "jit": (lambda a, b, x: jax.jit(lambda a, b, x: (a * b, jax.jit(jnp.sin)(x * a), 3, b))(a, b, x), None),
    "remat": (lambda a, b, x: jax.checkpoint(lambda a, b, x: (a * b, jnp.sin(x * a), 3, b))(a, b, x), None),
    "custom_jvp": (lambda a, b, x: by_jvp(a, b), None),
    "custom_vjp": (lambda a, b, x: by_vjp(a, b), lambda a, b, x: by_jvp(a, b)),
    "rule": (lambda a, b, x: by_rule(a, b), lambda a, b, x: by_jvp(a, b)),
    "dynamic loop": (
        lambda a, b, x: ad.dynamic_loop(3, lambda i, c, t: (c[0] * t + c[1], c[1] * 1.0, c[2] + 1), a, (b, b, 0), max_trips=4),
        lambda a, b, x: lax.fori_loop(0, 3, lambda i, c: (c[0] * a + c[1], c[1] * 1.0, c[2] + 1), (b, b, 0)),
    ),
}
QUICK, SLOW = {"length only"}, {"scan", "nested", "vmapped scan", "rule"}


def programs(every=False):
    """Of `every` program with every subset, or of those that are told apart in less than a minute."""

    def marks(name):
        return [pytest.mark.exhaustive] if every else [pytest.mark.slow] if name in SLOW else []

    return [pytest.param(*p, id=n, marks=marks(n)) for n, p in PROGRAMS.items() if every or n in QUICK | SLOW]


def derivatives(t, f, every):
    """By (outputs used, inputs differentiated): the gradient, and the tangents in a fixed direction; `t` has JAX's names.

    Outputs: none, one, all; with `every` also all but one. Inputs: all; with `every` also each alone.
    """
    leaves = jax.eval_shape(lambda *v: jax.tree.leaves(f(*v)), *POINT)
    floating = [i for i, v in enumerate(leaves) if jnp.issubdtype(v.dtype, jnp.floating)]
    sizes = {0, 1, len(floating)} | ({len(floating) - 1} if every else set())
    subsets = [s for n in sorted(sizes) for s in itertools.combinations(floating, n)]
    made = {}
    for used, places in itertools.product(subsets, [(0,), (1,), (2,), (0, 1, 2)] if every else [(0, 1, 2)]):

        def outputs(*values, used=used, places=places):
            full = list(POINT)
            for i, v in zip(places, values, strict=True):
                full[i] = v
            outs = jax.tree.leaves(f(*full))
            return [outs[i] for i in used]

        at = [POINT[i] for i in places]

        def loss(*values, outputs=outputs):
            return sum((jnp.sum(jnp.sin(v)) for v in outputs(*values)), 0.0 * jnp.sum(values[0]))

        made[f"{used} {places}"] = [t.grad(loss, tuple(range(len(places))))(*at)]
        if every or len(used) == len(floating):
            made[f"{used} {places}"].append(t.jvp(outputs, tuple(at), tuple(np.cos(v) for v in at))[1])
    return made


def compare(f, reference, every):
    ours = jax.jit(lambda: derivatives(ad, f, every))()
    theirs = jax.jit(lambda: derivatives(jax, reference or f, every))()
    for key in theirs:
        for a, b in zip(jax.tree.leaves(ours[key]), jax.tree.leaves(theirs[key]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12, err_msg=key)


@pytest.mark.parametrize(("f", "reference"), programs())
def test_outputs_left_out(f, reference):
    compare(f, reference, every=False)


@pytest.mark.parametrize(("f", "reference"), programs(every=True))
def test_every_subset_of_outputs_and_inputs(f, reference):
    compare(f, reference, every=True)


def test_the_known_case():
    """The value of JAX, 0.10.2."""
    y = np.sin(np.arange(12))

    def f(a):
        return lax.scan(lambda c, x: (c, (-((x - a) ** 2), a * x)), 0.0, y)[1][0].sum()

    assert ad.grad(f)(0.3) == pytest.approx(-6.3776, abs=1e-4)


@pytest.mark.parametrize("name", ["jit", pytest.param("rule", marks=pytest.mark.slow), pytest.param("scan", marks=pytest.mark.slow)])
def test_none_stands_for_zero(name):
    """A cotangent None at any output, a tangent None at any input."""
    f, reference = PROGRAMS[name]
    reference = reference or f

    def ours():
        value, pull = ad.vjp(f, *POINT)
        leaves, tree = jax.tree.flatten(value)
        real = [i for i, v in enumerate(leaves) if jnp.issubdtype(v.dtype, jnp.floating)]
        pulled = [pull(jax.tree.unflatten(tree, [jnp.cos(v) if i == only else None for i, v in enumerate(leaves)])) for only in real]
        moved = ad.linearize(f, *POINT)[1](None, jnp.cos(POINT[1]), None), ad.jvp(f, POINT, (None, jnp.cos(POINT[1]), None))[1]
        return pulled, [[t for t in jax.tree.leaves(m) if t.dtype != jax.dtypes.float0] for m in moved]

    def theirs():
        flat = [lambda *v, i=i: jax.tree.leaves(reference(*v))[i] for i in range(len(jax.tree.leaves(reference(*POINT))))]
        flat = [g for g in flat if jnp.issubdtype(jnp.asarray(g(*POINT)).dtype, jnp.floating)]
        pulled = [jax.vjp(g, *POINT)[1](jnp.cos(g(*POINT))) for g in flat]
        moved = [jax.jvp(lambda b, g=g: g(POINT[0], b, POINT[2]), (POINT[1],), (jnp.cos(POINT[1]),))[1] for g in flat]
        return pulled, [moved, moved]

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), jax.jit(ours)(), jax.jit(theirs)())
