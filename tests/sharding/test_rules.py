"""Every factor of every rule: the operation on the parts, put together, is the operation on the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from luciole.sharding.rules import RULES, factors_of, linear_operands, rule_of
from luciole.transforms.jax_compat import bind, subjaxprs

from .shards import check, check_all, check_jobs, each_factor, equation, equations, filled, values_of

pytestmark = pytest.mark.strict

X = filled((4, 6))
Y = filled((4, 6), seed=1)
T = filled((4, 2, 6), seed=2)
NUMBERS = filled((4, 6), np.int32)
B = X > 0


def convolved(image, kernel, **groups):
    return lax.conv_general_dilated(image, kernel, (1,), "SAME", **groups)


# primitive, number of factors, function, operands
CASES = [
    ("sin", 2, jnp.sin, X),
    ("mul", 2, lambda x, y: x * y, X, Y),
    ("mul", 2, lambda x, y: x * y, X, X[:1]),
    ("add", 1, lambda x: x + 1.0, X[0]),
    ("select_n", 2, lambda b, x, y: lax.select(b, x, y), np.True_, X, Y),
    ("clamp", 2, lambda x: lax.clamp(-0.5, x, 0.5), X),
    ("integer_pow", 2, lambda x: lax.integer_pow(x, 3), X),
    ("optimization_barrier", 3, lambda x, y: lax.optimization_barrier((x, y)), X, Y[0]),
    ("convert_element_type", 2, lambda x: x.astype(jnp.int32), jnp.asarray(X)),
    ("dot_general", 3, lambda x, y: x @ y.T, X, Y),
    ("dot_general", 4, lambda x, y: jnp.einsum("bij,bjk->bik", x, y), T, filled((4, 6, 2))),
    ("dot_general", 1, lambda x, y: x @ y, X[0], Y[0]),
    ("conv_general_dilated", 3, lambda x, k: lax.conv(x, k, (1, 1), "SAME"), filled((2, 4, 5, 5)), filled((6, 4, 3, 3))),
    ("conv_general_dilated", 5, lambda x, k: lax.conv(x, k, (1, 1), "VALID"), filled((2, 4, 4, 4)), filled((6, 4, 1, 1))),
    ("conv_general_dilated", 2, lambda x, k: convolved(x, k, feature_group_count=2), filled((2, 4, 5)), filled((6, 2, 3))),
    ("conv_general_dilated", 1, lambda x, k: convolved(x, k, batch_group_count=2), filled((4, 3, 5)), filled((6, 3, 3))),
    ("transpose", 3, lambda x: x.transpose(2, 0, 1), jnp.asarray(T)),
    ("reshape", 1, lambda x: x.reshape(24), jnp.asarray(X)),
    ("reshape", 2, lambda x: x.reshape(8, 1, 6), jnp.asarray(T)),
    ("reshape", 1, lambda x: x.reshape(6, 2, 4), jnp.asarray(T.transpose(0, 2, 1))),
    ("broadcast_in_dim", 3, lambda x: lax.broadcast_in_dim(x, (2, 4, 6), (1, 2)), X[:, :1]),
    ("squeeze", 1, lambda x: lax.squeeze(x, (1,)), X[:, :1]),
    ("iota", 2, lambda: lax.broadcasted_iota(jnp.float32, (4, 6), 1)),
    ("slice", 1, lambda x: x[:, 1:4], jnp.asarray(X)),
    ("pad", 1, lambda x: lax.pad(x, 0.5, ((0, 0, 0), (1, 2, 1))), X),
    ("rev", 1, lambda x: lax.rev(x, (1,)), X),
    ("bitcast_convert_type", 2, lambda x: lax.bitcast_convert_type(x, jnp.uint8), X),
    ("bitcast_convert_type", 1, lambda x: lax.bitcast_convert_type(x, jnp.uint32), filled((4, 4), np.uint8)),
    ("tile", 1, lambda x: lax.tile(x, (1, 2)), X),
    ("stack", 2, lambda x, y: jnp.stack([x, y], 1), X, Y),
    ("unstack", 1, lambda x: jnp.unstack(x, axis=1), X),
    ("concatenate", 1, lambda x, y: jnp.concatenate([x, y], 1), X, Y[:, :3]),
    ("dynamic_slice", 1, lambda x, i: lax.dynamic_slice(x, (0, i), (4, 3)), X, np.int32(2)),
    ("dynamic_slice", 2, lambda x, i, j: lax.dynamic_slice(x, (i, j), (4, 1)), X, np.int32(-2), np.int32(4)),
    ("dynamic_slice", 2, lambda x, i, j: lax.dynamic_slice(x, (i, j), (1, 1)), B, np.uint8(200), np.uint8(1)),
    ("dynamic_update_slice", 2, lambda x, y, i, j: lax.dynamic_update_slice(x, y, (i, j)), X, Y[:1], np.int32(2), np.int32(9)),
    ("dynamic_update_slice", 2, lambda x, y, i, j: lax.dynamic_update_slice(x, y, (i, j)), X, Y[:1, :1], np.int32(90), np.int32(-3)),
    ("dynamic_update_slice", 1, lambda x, y, i: lax.dynamic_update_slice(x, y, (i, i)), X, Y[:, :3], np.int32(2)),
    ("split", 1, lambda x: jnp.split(x, 2, 1), X),
    ("reduce_sum", 2, lambda x: x.sum(1), jnp.asarray(X)),
    ("reduce_max", 2, lambda x: x.max(1), jnp.asarray(X)),
    ("reduce_min", 2, lambda x: x.min(), jnp.asarray(NUMBERS)),
    ("reduce_and", 2, lambda x: x.all(1), jnp.asarray(B)),
    ("reduce_or", 2, lambda x: x.any(0), jnp.asarray(B)),
    ("reduce_max", 2, lambda x: lax.reduce_max(x, (0,)), B),
    ("reduce_prod", 1, lambda x: x.prod(1), jnp.asarray(X)),
    ("argmax", 1, lambda x: jnp.argmax(x, 0), X),
    ("reduce", 1, lambda x, y: lax.reduce((x, y), (0.0, 0.0), lambda a, b: (a[0] + 2 * b[0], a[1] * b[1]), (0,)), X, Y),
    ("cumsum", 1, lambda x: lax.cumsum(x, 1), X),
    ("cumlogsumexp", 1, lambda x: lax.cumlogsumexp(x, 0), X),
    ("sort", 1, lambda x, y: lax.sort((x, y), dimension=0), X, Y),
    ("top_k", 1, lambda x: lax.top_k(x, 3), X),
    ("reduce_precision", 2, lambda x: lax.reduce_precision(x, 8, 7), X),
    ("select_n", 1, lambda i, x, y: lax.select_n(i, x, y, x), NUMBERS[0] % 3, X[0], Y[0]),
    ("complex", 2, lax.complex, X, Y),
    ("imag", 2, lambda x: x.imag, filled((4, 6), np.complex64)),
    ("shift_left", 2, lax.shift_left, NUMBERS, NUMBERS),
    ("copy", 2, jnp.array, X),
    ("argmin", 1, lambda x: jnp.argmin(x, 1), X),
    ("reduce_xor", 1, lambda x: lax.reduce_xor(x, (1,)), NUMBERS),
    ("reduce_sum", 2, lambda x: x.sum(0), filled((4, 6), np.complex64)),
    ("cummax", 1, lambda x: lax.cummax(x, 1, reverse=True), X),
    ("reduce_window", 1, lambda x: lax.reduce_window(x, 0.0, lambda a, b: a + 2.0 * b, (1, 3), (1, 2), "SAME"), X),
    ("ragged_dot_general", 2, lax.ragged_dot, X, T.transpose(1, 2, 0), np.array([1, 3], np.int32)),
    ("reduce_window_sum", 1, lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 3), (1, 2), "SAME"), X),
    ("select_and_scatter_add", 1, jax.grad(lambda x: lax.reduce_window(x, -np.inf, lax.max, (1, 2), (1, 2), "VALID").sum()), X),
]  # fmt: skip


def run_cases(cases):
    jobs = []
    for name, number, function, *operands in cases:
        eqn = equation(name, function, *operands)
        assert len(factors_of(eqn)) == number, (name, factors_of(eqn))
        jobs.append(each_factor(eqn, values_of(eqn, operands)))
    check_jobs(jobs)


QUICK = ("mul", "optimization_barrier", "dynamic_slice", "dot_general", "reshape", "iota", "slice", "reduce_max", "sort", "split")


def test_every_factor_of_a_few_rules():
    run_cases([case for case in CASES if case[0] in QUICK])


@pytest.mark.slow
def test_every_factor_of_every_rule():
    run_cases(CASES)


DIAGONALS = [np.full((2, 4), n, np.float32) * [0, 1, 1, 1] + (n == 4) for n in (1, 4, 1)]
SQUARES = filled((2, 4, 4))
SPD = np.eye(4, dtype=np.float32) * 4 + SQUARES @ SQUARES.transpose(0, 2, 1)
LINALG = [
    ("cholesky", 1, lambda a: lax.linalg.cholesky(a, symmetrize_input=False), SPD),
    ("triangular_solve", 2, lambda a, b: lax.linalg.triangular_solve(a, b, left_side=True, lower=True), SPD, SQUARES),
    ("triangular_solve", 2, lambda a, b: lax.linalg.triangular_solve(a, b, left_side=False, lower=True), SPD, SQUARES[:, :2]),
    ("lu", 1, lax.linalg.lu, SPD),
    ("lu_pivots_to_permutation", 1, lambda p: lax.linalg.lu_pivots_to_permutation(p, 4), np.array([[1, 1, 3, 3], [0, 2, 2, 3]], np.int32)),
    ("eigh", 1, lambda a: lax.linalg.eigh(a, symmetrize_input=False), SPD),
    ("qr", 1, lambda a: lax.linalg.qr(a, full_matrices=False), SQUARES),
    ("svd", 1, lambda a: lax.linalg.svd(a, full_matrices=False), SQUARES),
    ("householder_product", 1, lax.linalg.householder_product, SQUARES, filled((2, 4))),
    ("tridiagonal_solve", 2, lax.linalg.tridiagonal_solve, *DIAGONALS, SQUARES[:, :, :2]),
    ("fft", 2, lambda x: lax.fft(x, "FFT", (6,)), filled((4, 2, 6), np.complex64)),
    ("fft", 1, lambda x: lax.fft(x, lax.FftType.RFFT, (2, 6)), filled((4, 2, 6))),
]  # fmt: skip


@pytest.mark.slow
def test_linear_algebra():
    run_cases(LINALG)


def test_every_rule_gives_its_factors():
    for name, number, function, *operands in (*CASES, *LINALG):
        assert len(factors_of(equation(name, function, *operands))) == number, name


def uneven(name, function, *operands):
    """The factors that may be split unevenly, over two shards."""
    eqn = equation(name, function, *operands)
    check_all(eqn, values_of(eqn, operands))
    return [f.padding for f in factors_of(eqn)]


def test_uneven_dimensions():
    odd = filled((5, 3))
    assert uneven("exp", jnp.exp, odd) == ["free", "free"]
    assert uneven("dot_general", lambda x, y: x @ y, odd.T, odd) == ["free", "free", "neutral"]
    assert uneven("reduce_max", lambda x: lax.reduce_max(x, (0,)), odd) == ["free", "neutral"]
    assert uneven("reduce_min", lambda x: lax.reduce_min(x, (0, 1)), odd.astype(np.int32)) == ["neutral", "neutral"]
    assert uneven("iota", lambda: lax.iota(jnp.int32, 5)) == ["free"]
    assert uneven("reshape", lambda x: x.reshape(5, 1, 3), jnp.asarray(odd)) == ["free", "free"]
    assert uneven("reshape", lambda x: x.reshape(9, 5), jnp.asarray(filled((3, 15)))) == ["never"]
    assert uneven("slice", lambda x: lax.slice(x, (0, 1), (5, 2)), odd) == ["free"]


def local_flops(name, function, *operands):
    eqn = equation(name, function, *operands)
    shapes = [v.aval.shape for v in eqn.invars], [v.aval.shape for v in eqn.outvars]
    rule = rule_of(eqn)
    return float(np.prod(shapes[1][0])) if rule.flops is None else rule.flops(eqn, *shapes)


# What XLA's cost analysis counts; the sort's and the window's by its own formulas.
FLOPS = [
    ("add", lambda x: x + x),
    ("exp", jnp.exp),
    ("integer_pow", lambda x: lax.integer_pow(x, 7)),
    ("transpose", lambda x: x.T),
    ("reduce_sum", lambda x: lax.reduce_sum(x, (1,))),
    ("dot_general", lambda x: lax.dot(x, x, dimension_numbers=(((1,), (1,)), ((), ())))),
    (
        "conv_general_dilated",
        lambda x: lax.conv_general_dilated(x[None, None], x[None, None, :3, :2], (2, 1), [(1, 1), (0, 2)], (1, 2), (2, 1)),
    ),
    ("reduce_window_sum", lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 3), (1, 1), "VALID")),
]


@pytest.mark.parametrize(("name", "function"), FLOPS, ids=[case[0] for case in FLOPS])
def test_flops_are_those_of_the_compiler(name, function):
    analysis = jax.jit(function).lower(X).cost_analysis()
    assert local_flops(name, function, jnp.asarray(X)) == pytest.approx((analysis or {}).get("flops", 0.0), rel=0.02)


def test_flops_of_decompositions():
    a = jnp.asarray(filled((3, 8, 8)))
    assert local_flops("cholesky", lax.linalg.cholesky, a) == pytest.approx(3 * 8**3 / 3)
    assert local_flops("lu", lax.linalg.lu, a) == pytest.approx(3 * 2 * 8**3 / 3)
    assert local_flops("triangular_solve", lambda a: lax.linalg.triangular_solve(a, a[:, :2]), a) == pytest.approx(3 * 8**2 * 2)
    assert local_flops("scatter-add", lambda x: x.at[jnp.array([0, 0, 1])].add(1.0), a) == 3 * 64


def test_what_is_linear():
    def of(name, function, *operands):
        return linear_operands(equation(name, function, *operands))

    assert of("neg", lambda x: -x, X) == (0,)
    assert of("add", lambda x, y: x + y, X, Y) == (0, 1)
    assert of("mul", lambda x: 2.0 * x, X) == (1,)
    assert (
        of("mul", lambda x: x * 2.0, jnp.asarray(X)) == of("div", lambda x: x / 2.0, jnp.asarray(X)) == of("reduce_sum", jnp.sum, X) == (0,)
    )
    assert of("mul", lambda x, y: x * y, X, Y) == of("div", lambda x: 2.0 / x, X) == of("div", lambda i: lax.div(i, 2), NUMBERS) == ()
    assert of("convert_element_type", lambda x: x.astype(jnp.bfloat16), jnp.asarray(X)) == (0,)
    assert of("convert_element_type", lambda x: x.astype(jnp.int32), jnp.asarray(X)) == of("exp", jnp.exp, X) == ()


def test_linear_operations_act_on_parts_of_a_sum():
    """f(a + b) = f(a) + f(b), in all of the linear operands at once."""
    for name, _, function, *operands in CASES:
        eqn = equation(name, function, *operands)
        linear = linear_operands(eqn)
        if not linear:
            continue
        values = [np.asarray(x) for x in values_of(eqn, operands)]
        other = [filled(x.shape, x.dtype, seed=9) if n in linear else x for n, x in enumerate(values)]
        both = [x + y if n in linear else x for n, (x, y) in enumerate(zip(values, other, strict=True))]
        for a, b, c in zip(*(bind(eqn, v) for v in (values, other, both)), strict=True):
            np.testing.assert_allclose(np.asarray(a) + np.asarray(b), c, rtol=2e-6, atol=2e-6)


def test_what_costs_nothing_to_make():
    assert rule_of(equation("broadcast_in_dim", lambda x: lax.broadcast(x, (3,)), np.float32(1))).free
    assert not rule_of(equation("broadcast_in_dim", lambda x: lax.broadcast(x, (3,)), X)).free
    assert rule_of(equation("reshape", lambda x: x.reshape(24), jnp.asarray(X))).free


def test_a_wrong_factor_is_found_out():
    """A summed dimension said to be parallel, and a sorted one."""
    dot = equation("dot_general", lambda x, y: x @ y, X, Y.T)
    contracted = next(f for f in factors_of(dot) if f.combine)
    with pytest.raises(AssertionError):
        check(dot, [X, Y.T], [contracted._replace(combine="max")], [2])
    ordered = equation("sort", lambda x: lax.sort(x, dimension=0), X)
    kept = factors_of(ordered)[0]
    with pytest.raises(AssertionError):
        check(ordered, [X], [kept._replace(operands=(0,), results=(0,))], [2])


def test_what_gradients_are_made_of_is_known():
    def density(x, i):
        y = jnp.tanh(x) + jax.nn.softmax(x) * jax.scipy.special.gammaln(x) + jax.scipy.stats.norm.logcdf(x)
        z = jnp.where(x > 0, jnp.cumsum(y, 0)[i], jax.scipy.special.logsumexp(y)) ** 3 + jnp.clip(x, -1.0, 1.0) + jax.nn.softplus(x)
        return jnp.sum(z @ z.T) + jnp.linalg.slogdet(z.T @ z)[1] + jnp.max(jnp.sort(z)) + jax.ops.segment_sum(z, i, 4).prod()

    program = jax.make_jaxpr(jax.value_and_grad(density))(X, np.arange(4))
    names = {eqn.primitive.name for eqn in equations(program) if not subjaxprs(eqn) and not rule_of(eqn).known}
    assert names == set()
    assert {"dot_general", "scatter-add", "gather", "lu"} < {eqn.primitive.name for eqn in equations(program)} & RULES.keys()
