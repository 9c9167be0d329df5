"""Affine in an argument or not: the verdicts on models' predictors, matrices and offsets, what they depend on, refusals and their lines."""

import doctest
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from luciole import transforms as lt
from luciole.transforms import affine

RNG = np.random.default_rng(7)
COUNTY = RNG.integers(0, 85, 900)
LOGPPM, FLOOR = RNG.normal(size=900), RNG.integers(0, 2, 900).astype(float)


@pytest.fixture(autouse=True)
def strict():
    with jax.enable_x64(True), jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield


def normal(*shape):
    return np.random.default_rng(len(shape) + sum(shape)).normal(size=shape)


def random_like(tree, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(size=np.shape(a)), jnp.result_type(a)), tree)


def close(a, b, tolerance=1e-10):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), a, b)


def check(f, *args, argnum=0, derivative=True):
    """The proof exists, and f, M x + o, the operator and (unless it lies) JAX's derivative agree at a random point."""
    answer = lt.affine_in(f, *args, argnum=argnum)
    assert answer is not None, lt.why_not_affine(f, *args, argnum=argnum)
    others = args[:argnum] + args[argnum + 1 :]

    @jax.jit
    def everything(x, others):
        def of_x(x):
            return f(*others[:argnum], x, *others[argnum:])

        there = answer.at(*others)
        outs, per_out = jax.tree.flatten(there.matrix, is_leaf=is_argument(x))
        products = [sum(b.apply(v) for b, v in zip(blocks(o), jax.tree.leaves(x), strict=True)) for o in outs]
        total = jax.tree.map(jnp.add, jax.tree.unflatten(per_out, products), there.offset)
        return of_x(x), there.apply(x), total, there.dense(), jax.jacfwd(of_x)(x)

    value, applied, total, dense, jacobian = everything(random_like(args[argnum], 0), others)
    close(applied, value)
    close(total, value)
    if derivative:
        close(dense, jacobian)
    return answer


def is_block(b):
    return hasattr(b, "dense")


def blocks(tree):
    return jax.tree.leaves(tree, is_leaf=is_block)


def is_argument(arg):
    structure = jax.tree.structure(arg)
    return lambda tree: jax.tree.structure(tree, is_leaf=is_block) == structure


def names(inputs):
    return {(i.argnum, i.path) for i in inputs}


# ------------------------------------------------------------------------------------------------ the predictors of models


def test_logistic_regression_has_its_design():
    X = normal(3020, 5)
    answer = check(lambda p, X: p["alpha"] + X @ p["beta"], {"alpha": jnp.zeros(()), "beta": jnp.zeros(5)}, X)
    assert isinstance(answer.matrix["beta"], lt.DenseBlock) and isinstance(answer.matrix["alpha"], lt.DenseBlock)
    np.testing.assert_array_equal(answer.matrix["beta"].array, X)
    np.testing.assert_array_equal(answer.design(), np.column_stack([np.ones(3020), X]))
    np.testing.assert_array_equal(answer.offset, np.zeros(3020))
    assert names(answer.depends_on.blocks["beta"]) == {(1, "")} and not answer.depends_on.blocks["alpha"]


@pytest.mark.parametrize("shape", [(100, 5), pytest.param((1179, 2), marks=pytest.mark.slow)])
def test_linear_regression(shape):
    X = normal(*shape)
    answer = check(lambda beta: 3.0 + X @ beta, jnp.zeros(shape[1]))
    np.testing.assert_array_equal(answer.matrix.array, X)
    np.testing.assert_array_equal(answer.offset, np.full(shape[0], 3.0))
    assert not answer.depends_on.matrix and not answer.depends_on.offset


@pytest.mark.slow
def test_written_as_a_sum_of_products():
    X = normal(40, 6)
    np.testing.assert_allclose(check(lambda b: (X * b[None]).sum(-1), jnp.zeros(6)).matrix.array, X)
    assert isinstance(check(lambda b: jnp.einsum("np,p->n", X, b), jnp.zeros(6)).matrix, lt.DenseBlock)
    scaled = check(lambda z, s: X @ (s * z), jnp.zeros(6), normal(6))
    np.testing.assert_allclose(scaled.matrix.array, X * normal(6))
    assert names(scaled.depends_on.matrix) == {(1, "")}


@pytest.mark.slow
def test_avoidances_and_shocks():
    av, sh = normal(30, 25), normal(30, 25) + 1
    answer = check(lambda b: b[0] + b[1] * av + b[2] * sh, jnp.zeros(3))
    assert isinstance(answer.matrix, lt.DenseBlock)
    np.testing.assert_array_equal(answer.matrix.array, np.stack([np.ones((30, 25)), av, sh], -1))


def centred(p):
    return p["alpha"][COUNTY] + LOGPPM * p["beta"][0] + FLOOR * p["beta"][1]


def test_varying_intercept_is_a_gather():
    answer = check(centred, {"alpha": jnp.zeros(85), "beta": jnp.zeros(2)})
    alpha = answer.matrix["alpha"]
    assert isinstance(alpha, lt.GatherBlock) and alpha.index.shape == (900, 1)
    np.testing.assert_array_equal(alpha.index[:, 0], COUNTY)
    np.testing.assert_array_equal(alpha.weight, 1.0)
    np.testing.assert_array_equal(answer.matrix["beta"].array, np.column_stack([LOGPPM, FLOOR]))


@pytest.mark.slow
def test_varying_slope_is_a_gather_with_weights():
    answer = check(lambda p: p["a"][COUNTY] + p["b"][COUNTY] * LOGPPM, {"a": jnp.zeros(85), "b": jnp.zeros(85)})
    np.testing.assert_array_equal(answer.matrix["b"].index[:, 0], COUNTY)
    np.testing.assert_array_equal(answer.matrix["b"].weight[:, 0], LOGPPM)
    crossed = check(lambda a: a[COUNTY] + a[COUNTY[::-1].copy()] * LOGPPM, jnp.zeros(85))  # two terms a row
    assert isinstance(crossed.matrix, lt.GatherBlock) and crossed.matrix.index.shape == (900, 2)


def noncentred(p, hyper, data):
    alpha = hyper["mu"] + hyper["sigma"] * p["raw"]
    return alpha[data["county"]] + LOGPPM * p["beta"][0] + FLOOR * p["beta"][1]


def test_noncentred_is_affine_given_its_scale():
    p = {"raw": jnp.zeros(85), "beta": jnp.zeros(2)}
    hyper, data = {"mu": 0.3, "sigma": 1.7}, {"county": COUNTY}
    answer = check(noncentred, p, hyper, data)
    assert names(answer.depends_on.matrix) == {(1, "sigma"), (2, "county")}
    assert names(answer.depends_on.blocks["raw"]) == {(1, "sigma"), (2, "county")} and not answer.depends_on.blocks["beta"]
    assert names(answer.depends_on.offset) == {(1, "mu"), (1, "sigma"), (2, "county")}  # sigma: too many, as 0 * sigma is not seen
    np.testing.assert_array_equal(answer.matrix["raw"].index[:, 0], COUNTY)
    np.testing.assert_allclose(answer.matrix["raw"].weight, 1.7)
    np.testing.assert_allclose(answer.offset, 0.3)

    moved = {"mu": -1.0, "sigma": 0.2}
    matrix, offset = jax.jit(lambda h: (answer.matrix_at(h, data), answer.offset_at(h, data)))(moved)
    x = random_like(p, 5)
    close(matrix["raw"].apply(x["raw"]) + matrix["beta"].apply(x["beta"]) + offset, noncentred(x, moved, data))
    close(answer.at(moved, data).apply(x), noncentred(x, moved, data))


def test_both_factors_of_a_product_are_refused():
    why = lt.why_not_affine(lambda p: p["sigma"] * p["raw"], {"sigma": 1.0, "raw": jnp.zeros(8)})
    assert why is not None and not why and why.primitive == "mul" and "both depend" in why.reason
    hyper = {"mu": 0.3, "sigma": 1.7}
    assert lt.affine_in(noncentred, {"raw": jnp.zeros(85), "beta": jnp.zeros(2)}, hyper, {"county": COUNTY}, argnum=1) is not None


def test_a_location_that_is_the_latent_itself_is_diagonal():
    answer = check(lambda theta, mu, tau: mu + tau * theta, jnp.zeros(8), 1.0, 2.0)
    assert isinstance(answer.matrix, lt.GatherBlock)
    np.testing.assert_array_equal(answer.matrix.index[:, 0], np.arange(8))
    assert names(answer.depends_on.matrix) == {(2, "")} and names(answer.depends_on.offset) >= {(1, "")}


@pytest.mark.slow
def test_softmax_keeps_its_product():
    X = normal(50, 4)
    p = {"B": jnp.zeros((4, 3)), "a": jnp.zeros(3)}
    answer = check(lambda p: X @ p["B"] + p["a"][None], p)
    assert isinstance(answer.matrix["B"], lt.ContractBlock) and answer.matrix["B"].array.size == X.size
    assert answer.dense()["B"].shape == (50, 3, 4, 3)
    pivot = check(lambda p: jnp.concatenate([X @ p["B"] + p["a"][None], jnp.zeros((50, 1))], 1), p)
    assert pivot.dense()["B"].shape == (50, 4, 4, 3)
    groups = normal(5, 7, 3)
    batched = check(jax.vmap(lambda b, x: x @ b), jnp.zeros((5, 3)), groups)
    assert isinstance(batched.matrix, lt.ContractBlock)


def gaussian_process(latent, lscale, sdgp):
    t = jnp.linspace(0.0, 1.0, 20)
    kernel = sdgp**2 * jnp.exp(-0.5 * ((t[:, None] - t[None]) / lscale) ** 2) + 1e-6 * jnp.eye(20)
    return latent["Intercept"] + jnp.linalg.cholesky(kernel) @ latent["z"]


def test_gaussian_process_is_affine_given_its_kernel():
    answer = check(gaussian_process, {"Intercept": 0.0, "z": jnp.zeros(20)}, 0.3, 1.2)
    assert names(answer.depends_on.matrix) == {(1, ""), (2, "")}
    assert not answer.depends_on.blocks["Intercept"]
    assert lt.affine_in(gaussian_process, {"Intercept": 0.0, "z": jnp.zeros(20)}, 0.3, 1.2, argnum=1) is None


# ------------------------------------------------------------------------------------------------ refused


def lotka_volterra(theta):
    def field(z):
        return jnp.stack([theta[0] * z[0] - theta[1] * z[0] * z[1], -theta[2] * z[1] + theta[3] * z[0] * z[1]])

    def turn(z, _):
        half = z + 0.05 * field(z)
        z = z + 0.1 * field(half)
        return z, z

    return lax.scan(turn, jnp.array([10.0, 5.0]), None, length=20)[1]


@jax.custom_jvp
def straight_through(x):
    return jnp.round(x)


straight_through.defjvp(lambda primals, tangents: (straight_through(*primals), tangents[0]))

A = normal(4, 4) @ normal(4, 4).T + 4 * np.eye(4)
REFUSED = {
    "exp": (lambda x: jnp.exp(normal(4) * x), "exp"),
    "sigmoid": (jax.nn.sigmoid, "logistic"),
    "relu": (lambda x: 1.0 + jax.nn.relu(x), "max"),
    "clip": (lambda x: jnp.clip(x, -1.0, 1.0), "max"),
    "abs": (jnp.abs, "abs"),
    "sort": (jnp.sort, "sort"),
    "max": (lambda x: x.max(), "reduce_max"),
    "argmax": (lambda x: x[jnp.argmax(x)], None),
    "square": (lambda x: x**2, None),
    "quadratic form": (lambda x: x @ (A @ x), "dot_general"),
    "cancels": (lambda x: x * x / x, "mul"),  # affine in truth: the proof is conservative
    "reciprocal": (lambda x: 1.0 / x, "div"),
    "ODE": (lotka_volterra, "mul"),
    "floor": (jnp.floor, "floor"),
    "round": (jnp.round, "round"),
    "sign": (jnp.sign, "sign"),
    "stop_gradient": (lambda x: lax.stop_gradient(x) + x, "stop_gradient"),
    "straight through": (straight_through, "round"),
    "to integers": (lambda x: x.astype(int).astype(float), "convert_element_type"),
    "to bfloat16": (lambda x: x.astype(jnp.bfloat16).astype(float), "convert_element_type"),
    "reduced precision": (lambda x: lax.reduce_precision(x, 8, 7), "reduce_precision"),
    "where it is positive": (lambda x: jnp.where(x > 0, x, 0.1 * x), "gt"),
    "index from it": (lambda x: x[x.astype(int)], "convert_element_type"),
    "solve for it": (lambda x: jnp.linalg.solve(x[:, None] * A, normal(4)), None),
    "iterated solve": (lambda x: jax.scipy.sparse.linalg.cg(A, x)[0], None),
    "branch on it": (lambda x: lax.cond(x[0] > 0, lambda v: v, lambda v: 2.0 * v, x), "gt"),
    "turns from it": (lambda x: lax.while_loop(lambda v: v.sum() < 100.0, lambda v: v + 1.0, x), "lt"),
    "power by a loop": (lambda x: lax.fori_loop(0, 3, lambda i, v: v * x, x), "mul"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    f, primitive = REFUSED[name]
    x = jnp.array([1.0, 2.0, 3.0, 0.5])
    assert lt.affine_in(f, x) is None
    why = lt.why_not_affine(f, x)
    assert isinstance(why, lt.NotAffine) and not why and "not affine: " in str(why)
    assert primitive is None or why.primitive == primitive


def test_a_refusal_names_the_users_line():
    def predictor(x):
        y = 2.0 * x
        return jnp.exp(y) + x  # here

    lines, start = inspect.getsourcelines(predictor)
    number = start + next(i for i, line in enumerate(lines) if "# here" in line)
    why = lt.why_not_affine(predictor, jnp.zeros(3))
    assert why.line == f"{__file__}:{number}" and why.line in str(why) and "exp" in str(why)


def test_the_line_of_a_helper_that_jax_has_traced_before():
    jax.make_jaxpr(jax.nn.relu)(jnp.zeros(3))

    def predictor(x):
        return jax.nn.relu(x)

    start = inspect.getsourcelines(predictor)[1]
    assert lt.why_not_affine(predictor, jnp.zeros(3)).line == f"{__file__}:{start + 1}"


def test_integers_are_refused_by_name():
    why = lt.why_not_affine(lambda p: p["n"] * 2, {"n": jnp.arange(3)})
    assert why.primitive is None and "int64" in why.reason and "n" in why.reason


# ------------------------------------------------------------------------------------------------ accepted, by rule


def decay(x):
    return lax.scan(lambda s, v: (0.5 * s + v, s), 0.0, x)[1]


def beside_a_square(x):
    """The carry's second part is not affine, and the result does not read it."""
    return lax.scan(lambda s, v: ((s[0] + v, s[1] * v), s[0]), (0.0, 1.0), x)[1]


def counted(x):
    return lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, 0.5 * s[1] + x), (0, jnp.ones(4)))[1]


@jax.custom_jvp
def triple(x):
    return 3.0 * x


triple.defjvp(lambda primals, tangents: (triple(*primals), 100.0 * tangents[0]))

WHICH = np.array([True, False, True, True])
TARGET = np.array([2, 0, 2, 1])
ACCEPTED = {
    "solve": lambda x: jnp.linalg.solve(A, x),
    "solve, batched": lambda x: jax.vmap(lambda b: jnp.linalg.solve(A, b))(jnp.stack([x, 2.0 * x])),
    "cho_solve": lambda x: jax.scipy.linalg.cho_solve((np.linalg.cholesky(A), True), x),
    "triangular": lambda x: jax.scipy.linalg.solve_triangular(A, x, lower=True),
    "tridiagonal": lambda x: lax.linalg.tridiagonal_solve(normal(4), 9 + normal(4), normal(4), x[:, None]),
    "fft": lambda x: jnp.fft.fft(x),
    "fft, real part": lambda x: jnp.fft.irfft(jnp.fft.rfft(x) * jnp.array([1.0, 0.5, 0.1]).astype(complex)),
    "convolve": lambda x: jnp.convolve(x, normal(3)),
    "where": lambda x: jnp.where(WHICH, x, 0.0) + jnp.where(WHICH, 1.0, x),
    "cumsum": lambda x: jnp.cumsum(x)[TARGET],
    "mean": lambda x: x - x.mean(),
    "scatter-add": lambda x: jnp.ones(5).at[TARGET].add(x),
    "scatter": lambda x: x.at[np.array([0, 2])].set(7.0),
    "segment sum": lambda x: jax.ops.segment_sum(x, TARGET, 3),
    "outside the array": lambda x: x.at[np.array([1, 9])].get(mode="fill", fill_value=5.0),
    "windows": lambda x: lax.dynamic_slice(x, (np.int64(1),), (2,)) + lax.dynamic_update_slice(jnp.ones(4), x[:2], (np.int64(1),))[1:3],
    "pad": lambda x: jnp.pad(x, 2, constant_values=3.0),
    "stack, tile, roll, flip": lambda x: jnp.stack([jnp.roll(x, 1), x[::-1], jnp.tile(x[:2], 2)]).T.reshape(-1),
    "split": lambda x: jnp.split(x, 2)[0] - jnp.split(x, 2)[1],
    "diff": lambda x: jnp.diff(x),
    "interpolation": lambda x: jnp.interp(np.linspace(0.1, 2.9, 9), np.arange(4.0), x),
    "outer": lambda x: jnp.outer(x, normal(3)),
    "scan": decay,
    "scan, backwards": lambda x: lax.scan(lambda s, v: (s - v, 2.0 * s), x[0], x, reverse=True),
    "scan beside a square": beside_a_square,
    "for": lambda x: lax.fori_loop(0, 4, lambda i, s: 0.9 * s + x[i], 1.0),
    "while": counted,
    "cond": lambda x: lax.cond(jnp.asarray(TARGET)[0] > 1, lambda v: 2.0 * v, lambda v: jnp.ones(4), x),
    "switch": lambda x: lax.switch(jnp.asarray(TARGET)[3], [lambda v: v, lambda v: v[::-1] + 1.0, jnp.exp][:2], x),
    "remat": jax.checkpoint(lambda x: 2.0 * x + 1.0),
    "jit": jax.jit(lambda x: 2.0 * x + 1.0),
    "vmap": lambda x: jax.vmap(lambda v: v * normal(3))(x),
    "barrier": lambda x: lax.optimization_barrier((x, A))[0] * 2.0,
    "a tuple of results": lambda x: (x.sum(), {"twice": 2.0 * x}),
    "dead code": lambda x: (jnp.exp(x), 3.0 * x)[1],
    "does not read it": lambda x: jnp.ones(3),
    "all of it twice": lambda x: x + x,
}


# One of each kind of rule: sums, a contraction, a choice, elements that move, a solve, every loop, a call, a derivative rule.
QUICK = {"mean", "where", "scatter-add", "outside the array", "convolve", "triangular", "scan beside a square", "while", "cond", "remat"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in ACCEPTED])
def test_accepted(name):
    check(ACCEPTED[name], jnp.array([1.0, 2.0, 3.0, 0.5]))


def test_gathers_survive_what_only_moves():
    def predictor(x):
        y = jnp.where(WHICH[:, None], jnp.stack([x[TARGET], x[TARGET + 9]], 1), 0.0)
        return jnp.concatenate([y, -2.0 * y[::-1]])[None, 1:7].astype(float)

    answer = check(predictor, jnp.zeros(30))
    assert isinstance(answer.matrix, lt.GatherBlock) and answer.matrix.index.shape == (1, 6, 2, 1)


def test_a_custom_derivative_rule_is_not_consulted():
    answer = check(triple, jnp.zeros(4), derivative=False)
    np.testing.assert_array_equal(answer.matrix.weight, 3.0)


def test_a_leaf_that_is_not_read_has_no_terms():
    answer = check(lambda p: 2.0 * p["a"], {"a": jnp.zeros(9), "b": jnp.zeros(2), "none": jnp.zeros(0)})
    assert answer.matrix["b"].index.shape == (9, 0)
    assert answer.dense()["b"].shape == (9, 2) and answer.dense()["none"].shape == (9, 0)
    assert answer.design().shape == (9, 11)


def test_other_arguments_that_choose_are_seen():
    def predictor(x, flag, n, start):
        y = lax.cond(flag > 0, lambda v: v, lambda v: 2.0 * v, x)
        return lax.fori_loop(0, n, lambda i, s: s + y, start)

    answer = lt.affine_in(predictor, jnp.zeros(3), 1.0, 4, jnp.ones(3))
    assert names(answer.depends_on.matrix) == {(1, ""), (2, "")}
    assert names(answer.depends_on.offset) == {(1, ""), (2, ""), (3, "")}
    close(answer.apply(jnp.ones(3)), 5.0 * jnp.ones(3))


# ------------------------------------------------------------------------------------------------ the interface


def test_conversions_between_floats():
    answer = lt.affine_in(lambda x: (x.astype(jnp.float32) * 2).astype(float), jnp.zeros(4))
    close(answer.apply(normal(4)), 2 * normal(4), 1e-6)


def test_under_a_trace_nothing_is_kept():
    answer = lt.affine_in(lambda x: 2.0 * x, jnp.zeros(3))
    jax.jit(lambda: answer.matrix.weight)()
    np.testing.assert_array_equal(answer.matrix.weight, 2.0)


def test_random_keys_are_data():
    answer = check(lambda x, key: x + jax.random.normal(key, (3,)), jnp.zeros(3), jax.random.key(1))
    assert names(answer.depends_on.offset) == {(1, "")} and not answer.depends_on.matrix


@pytest.mark.slow
def test_float32():
    with jax.enable_x64(False):
        X, county = jnp.asarray(normal(50, 3), jnp.float32), jnp.asarray(COUNTY[:50], jnp.int32)

        def predictor(p):
            return p["alpha"][county] + X @ p["beta"]

        p = {"alpha": jnp.zeros(85), "beta": jnp.zeros(3)}
        answer, x = lt.affine_in(predictor, p), random_like(p, 1)
        assert answer.matrix["alpha"].weight.dtype == jnp.float32 == answer.dense()["beta"].dtype
        close(answer.apply(x), predictor(x), 1e-5)


def test_shapes_suffice_for_the_proof():
    def shape(*s):
        return jax.ShapeDtypeStruct(s, jnp.float64)

    answer = lt.affine_in(lambda X, b: X @ b, shape(5, 2), shape(2), argnum=1)
    X = normal(5, 2)
    np.testing.assert_array_equal(answer.matrix_at(X).array, X)
    with pytest.raises(lt.DerivativeError, match="matrix_at"):
        _ = answer.matrix


def test_nothing_is_compiled():
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if "backend_compile" in name else None
    )
    p, hyper = {"raw": np.zeros(85), "beta": np.zeros(2)}, {"mu": 0.3, "sigma": 1.7}
    jax.jit(lambda x: x * 1.2345)(np.zeros(3))
    assert compiled  # the listener hears
    compiled.clear()
    assert lt.affine_in(noncentred, p, hyper, {"county": COUNTY}) is not None
    assert lt.affine_in(lotka_volterra, np.zeros(4)) is None
    assert not compiled


def test_the_example_in_the_documentation():
    failed, attempted = doctest.testmod(affine)
    assert attempted and not failed


def test_bad_input():
    with pytest.raises(lt.DerivativeError, match="argnum=2"):
        lt.affine_in(lambda x: x, 1.0, argnum=2)
    with pytest.raises(lt.DerivativeError, match="no arrays"):
        lt.affine_in(lambda x: 1.0, {})
    answer = lt.affine_in(lambda p, s: s * p["a"], {"a": jnp.zeros(3)}, 2.0)
    with pytest.raises(lt.DerivativeError, match="structure"):
        answer.apply({"b": jnp.zeros(3)})
    with pytest.raises(lt.DerivativeError, match="shapes"):
        answer.apply({"a": jnp.zeros(4)})
    with pytest.raises(lt.DerivativeError, match="structure"):
        answer.at()
    with pytest.raises(lt.DerivativeError, match="argument 1"):
        answer.at(jnp.zeros(7))
    with pytest.raises(lt.DerivativeError, match="more than one"):
        lt.affine_in(lambda x: (x, x), 1.0).design()
