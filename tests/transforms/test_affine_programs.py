"""The affine test on random programs: a yes is never wrong, a program of affine pieces is never refused, broken proofs are caught."""

import contextlib
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from jax import lax

from luciole import transforms as lt
from luciole.transforms.affine import proof

SIZE = 4
RNG = np.random.default_rng(3)
W = RNG.normal(size=(SIZE, SIZE))
V = RNG.normal(size=SIZE)
MASK = np.array([True, False, False, True])
INDEX = np.array([3, 1, 1, 0])

# Pieces: (a, b, z) -> a vector of SIZE, where a and b may depend on x, and z is another argument.
AFFINE = {
    "add": lambda a, b, z: a + b,
    "subtract": lambda a, b, z: a - 2.0 * b,
    "scale": lambda a, b, z: V * a,
    "shift": lambda a, b, z: a + V,
    "divide": lambda a, b, z: a / (1.0 + V**2),
    "scaled by z": lambda a, b, z: z * a,
    "shifted by z": lambda a, b, z: a - z,
    "matrix": lambda a, b, z: W @ a,
    "matrix, elementwise": lambda a, b, z: (W * a[None]).sum(1),
    "gather": lambda a, b, z: a[INDEX],
    "scatter-add": lambda a, b, z: a.at[INDEX].add(b),
    "reverse": lambda a, b, z: a[::-1],
    "join": lambda a, b, z: jnp.concatenate([a[:2], b[2:]]),
    "where": lambda a, b, z: jnp.where(MASK, a, b),
    "where z": lambda a, b, z: jnp.where(z > 0, a, V),
    "cumsum": lambda a, b, z: jnp.cumsum(a),
    "centre": lambda a, b, z: a - b.mean(),
    "transform": lambda a, b, z: jnp.fft.ifft(jnp.fft.fft(a) * (1.0 + V)).real,
    "solve": lambda a, b, z: jnp.linalg.solve(W, a),
    "recursion": lambda a, b, z: lax.scan(lambda s, v: (0.5 * s + v, s), z.sum(), a)[1],
    "recursion in both": lambda a, b, z: lax.scan(lambda s, v: ((s[1], s[0] + v), s[0]), (0.0, b[0]), a)[1],
    "repeat": lambda a, b, z: lax.fori_loop(0, 3, lambda i, s: 0.5 * s + a[i], b),
    "choose by z": lambda a, b, z: lax.cond(z[0] > 0, lambda u, v: u - v, lambda u, v: V, a, b),
    "while z": lambda a, b, z: lax.while_loop(lambda s: s[0] < z[1], lambda s: (s[0] + 1.0, s[1] + a), (-3.0, b))[1],
    "rematerialised": lambda a, b, z: jax.checkpoint(lambda u: 2.0 * u)(a),
    "mapped": lambda a, b, z: jax.vmap(lambda u, v: u * v)(a, z),
    "overwritten": lambda a, b, z: a.at[np.array([0, 2])].set(b[:2]),
}
OTHER = {
    "exp": lambda a, b, z: jnp.exp(0.1 * a),
    "product": lambda a, b, z: a * b,
    "quotient": lambda a, b, z: a / (2.0 + b * b),
    "inner product": lambda a, b, z: (a @ b) * V,
    "floor": lambda a, b, z: jnp.floor(a),
    "round": lambda a, b, z: a + jnp.round(b),
    "sign": lambda a, b, z: jnp.sign(a),
    "stop gradient": lambda a, b, z: lax.stop_gradient(a) + b,
    "relu": lambda a, b, z: jax.nn.relu(a),
    "larger": lambda a, b, z: jnp.maximum(a, b),
    "where it is positive": lambda a, b, z: jnp.where(a > 0, b, V),
    "sort": lambda a, b, z: jnp.sort(a),
    "index from it": lambda a, b, z: b[jnp.argmax(a)] * V,
    "integers": lambda a, b, z: a.astype(int).astype(float),
    "growth": lambda a, b, z: lax.scan(lambda s, v: (s * v, s), 1.0, a)[1],
    "growth, late": lambda a, b, z: (
        lax.scan(lambda s, v: ((v, s[0], s[1] * s[1]), s[2]), (0.0, 0.0, 1.0), a)[1] * lax.fori_loop(0, 2, lambda i, s: s * b, V)
    ),
    "branch on it": lambda a, b, z: lax.cond(a[0] > 0, lambda u: u, lambda u: -u, b),
    "turns from it": lambda a, b, z: lax.while_loop(lambda s: s[0] < 3.0, lambda s: (s[0] + 1.0, s[1] + V), (a[0], b))[1],
}


def programs(pieces):
    """Up to five pieces, each fed by two of the values before it; the last two make the result."""
    piece = st.tuples(st.sampled_from(sorted(pieces)), st.integers(0, 9), st.integers(0, 9))
    return st.lists(piece, min_size=1, max_size=5)


def function(program):
    def f(x, z):
        values = [x["u"], jnp.asarray(V), x["v"] * V]
        for name, i, j in program:
            piece = AFFINE.get(name) or OTHER[name]
            values.append(piece(values[i % len(values)], values[j % len(values)], z))
        return values[-1] + 0.5 * values[-2]

    return f


def draw(seed):
    rng = np.random.default_rng(seed)
    return {"u": jnp.asarray(2 * rng.normal(size=SIZE)), "v": jnp.asarray(rng.normal())}, jnp.asarray(rng.normal(size=SIZE))


def close(a, b):
    scale = 1 + max(float(np.abs(a).max()), float(np.abs(b).max()))
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-10 * scale)


def check(program):
    """If the answer is yes, it is right: f is affine on lines, and equals M x + o at other x and other z. Returns the answer."""
    f = function(program)
    (x, z), (y, other) = draw(1), draw(2)
    answer = lt.affine_in(f, x, z)
    if answer is None:
        return None
    with jax.disable_jit():  # one operation at a time: many programs share a few compiled operations
        _check(f, answer, x, y, z, other)
    return answer


def _check(f, answer, x, y, z, other):
    for a in (0.3, -1.7):
        middle = jax.tree.map(lambda p, q, a=a: a * p + (1 - a) * q, x, y)
        close(f(middle, z), a * f(x, z) + (1 - a) * f(y, z))
    close(answer.apply(y), f(y, z))
    matrix = answer.matrix_at(other)
    products = sum(block.apply(leaf) for block, leaf in zip((matrix["u"], matrix["v"]), (y["u"], y["v"]), strict=True))
    close(products + answer.offset_at(other), f(y, other))
    if not answer.depends_on.matrix:
        close(answer.design(), answer.at(other).design())
    if not answer.depends_on.offset:
        close(answer.offset, answer.offset_at(other))


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


EXAMPLES = int(os.environ.get("LUCIOLE_EXAMPLES", "15"))
MANY = settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
FEW = settings(MANY, max_examples=3)
HUNT = settings(MANY, max_examples=200, report_multiple_bugs=False, phases=[Phase.generate])


@FEW
@given(programs(AFFINE | OTHER))
def test_a_yes_is_right(program):
    check(program)


@pytest.mark.slow
@MANY
@given(programs(AFFINE | OTHER))
def test_a_yes_is_right_on_many_programs(program):
    check(program)


@pytest.mark.slow
@MANY
@given(programs(AFFINE))
def test_programs_of_affine_pieces_are_never_refused(program):
    assert check(program) is not None


# The others that are refused cost nothing; of the accepted the quick run tries some that `test_affine` has not.
COSTLY = set(AFFINE) - {"matrix", "divide", "choose by z"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in COSTLY else []) for n in sorted(AFFINE | OTHER)])
def test_every_piece(name):
    """Alone, so that no piece goes untested: affine pieces are accepted, the others refused."""
    assert (check([("add", 0, 2), (name, 3, 0)]) is not None) == (name in AFFINE)


@contextlib.contextmanager
def replaced(**rules):
    kept = {name: getattr(proof, name) for name in rules}
    for name, rule in rules.items():
        setattr(proof, name, rule)
    try:
        yield
    finally:
        for name, rule in kept.items():
            setattr(proof, name, rule)


def no_dependence(primitive):
    """The lattice of derivatives: what has derivative zero is taken for a constant."""

    def first_order(eqn, operands, around, rule=proof._first_order):
        return proof.Form() if eqn.primitive.name == primitive else rule(eqn, operands, around)

    return {"_first_order": first_order}


def products_are_affine(eqn, varies, rule=proof.linear_slots):
    return frozenset({0, 1}) if eqn.primitive.name == "mul" else rule(eqn, varies)


def one_turn(body, consts, carry, xs, around=()):
    """A loop's carry as it was before the first turn."""
    return list(carry)


# How the proof is broken, and the pieces among which the damage shows.
TWINS = {
    "floor": (no_dependence("floor"), ["floor"]),
    "round": (no_dependence("round"), ["round"]),
    "sign": (no_dependence("sign"), ["sign"]),
    "stop gradient": (no_dependence("stop_gradient"), ["stop gradient"]),
    "products": ({"linear_slots": products_are_affine}, ["product", "quotient", "growth"]),
    "one turn": ({"carried": one_turn}, ["growth", "growth, late", "turns from it"]),
}


@pytest.mark.parametrize("twin", [pytest.param(t, marks=[] if t == "products" else [pytest.mark.slow]) for t in sorted(TWINS)])
def test_a_broken_proof_is_caught(twin):
    rules, pieces = TWINS[twin]

    def hunt(extent):
        @extent
        @given(programs(["add", "reverse", "scale", "where", *pieces]))
        def run(program):
            check(program)

        run()

    hunt(FEW)  # the proof as it is stands up to the same programs
    with replaced(**rules), pytest.raises(AssertionError):
        hunt(HUNT)
