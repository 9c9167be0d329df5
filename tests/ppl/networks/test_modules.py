"""Networks of flax and equinox as models: the densities of hand-written ones, and an error for each thing that has no place in a model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from numpyro.infer.util import log_density as numpyro_log_density
from scipy import stats

import luciole as lc
from luciole import dist

pytestmark = pytest.mark.usefixtures("x64")

X = np.linspace(-1.0, 1.0, 10).reshape(5, 2)
Y = np.array([0.2, -0.1, 0.4, 0.9, 1.3])
NOISE = functools.partial(stats.norm.logpdf, scale=0.3)
SHAPES = ((2, 3), (3,), (3, 1), (1,))
BY_PATTERN = {"*.bias": dist.Normal(0.0, 0.7), "*": dist.Laplace(0.0, 0.5)}


@pytest.fixture(scope="module")
def linen():
    return pytest.importorskip("flax.linen")


@pytest.fixture(scope="module")
def nnx():
    return pytest.importorskip("flax.nnx")


@pytest.fixture(scope="module")
def eqx():
    return pytest.importorskip("equinox")


@pytest.fixture(scope="module")
def linen_net(linen):
    class Net(linen.Module):
        width: int = 3

        @linen.compact
        def __call__(self, x, shift=0.0):
            dense = functools.partial(linen.Dense, kernel_init=linen.initializers.ones)  # quick to compile
            hidden = jnp.tanh(dense(self.width)(x))
            return dense(1)(hidden)[:, 0] + shift

    return Net()


@pytest.fixture(scope="module")
def nnx_net(nnx):
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first, self.last = nnx.Linear(2, 3, rngs=rngs), nnx.Linear(3, 1, rngs=rngs)

        def __call__(self, x):
            return self.last(jnp.tanh(self.first(x)))[:, 0]

    return Net(nnx.Rngs(0))


@pytest.fixture(scope="module")
def eqx_net(eqx):
    return eqx.nn.MLP(2, "scalar", 3, 1, activation=jnp.tanh, key=jax.random.key(0))


def regression(net, x, y):
    lc.sample("y", dist.Normal(net(x), 0.3), obs=y)


def lifted(module, prior, *, over=lambda net: net, **kwargs):
    """The regression on a lifted module."""

    def model(x=X, y=Y):
        regression(over(lc.random_module("net", module, prior, **kwargs)), x, y)

    return model


def by_hand(names, shapes=SHAPES, outputs_first=False):
    """The same regression with weights W, b, V, c, of the same names; equinox has them transposed."""

    def model(x=X, y=Y):
        weights = []
        for name, shape in zip(names, shapes, strict=True):
            prior = dist.Normal(0.0, 0.7) if len(shape) == 1 else dist.Laplace(0.0, 0.5)
            w = lc.sample(name, prior.expand(shape[::-1] if outputs_first else shape).to_event(len(shape)))
            weights.append(w.T if outputs_first else w)
        first, b, last, c = weights
        regression(lambda x: (jnp.tanh(x @ first + b) @ last + c)[:, 0], x, y)

    return model


LINEN = ["net.Dense_0.kernel", "net.Dense_0.bias", "net.Dense_1.kernel", "net.Dense_1.bias"]
NNX = ["net.first.kernel", "net.first.bias", "net.last.kernel", "net.last.bias"]
EQX = ["net.layers.0.weight", "net.layers.0.bias", "net.layers.1.weight", "net.layers.1.bias"]


@functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def evaluate(density, z):
    return density(z)


@pytest.fixture
def assert_same_density(random_position, assert_close):
    def check(model, expected):
        density, other = lc.log_density(model), lc.log_density(expected)
        assert {n: s.shape for n, s in density.positions.items()} == {n: s.shape for n, s in other.positions.items()}
        z = random_position(other)

        @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
        def both(density, other, z):
            return jax.value_and_grad(density)(z), jax.value_and_grad(other)(z)

        (value, gradient), (expected, by_hand) = both(density, other, z)
        assert np.isfinite(value)
        assert_close(value, expected)
        for name in by_hand:
            assert_close(gradient[name], by_hand[name], what=name)
            assert np.any(by_hand[name] != 0)

    return check


def test_linen(linen_net, assert_same_density):
    assert_same_density(lifted(linen_net, BY_PATTERN, input_shape=(1, 2)), by_hand(LINEN))
    assert_same_density(lifted(linen_net, BY_PATTERN, example=X, shift=1.0), by_hand(LINEN))


def test_nnx(nnx_net, assert_same_density):
    before = jax.tree.leaves(nnx_net)
    assert_same_density(lifted(nnx_net, BY_PATTERN), by_hand(NNX))
    assert all(a is b for a, b in zip(before, jax.tree.leaves(nnx_net), strict=True)), "the user's module keeps its values"


@pytest.mark.slow
def test_equinox(eqx_net, assert_same_density):
    assert_same_density(lifted(eqx_net, BY_PATTERN, over=jax.vmap), by_hand(EQX, outputs_first=True))


def test_a_pytree_with_a_call(assert_close):
    """Integers stay, in whatever container the arrays are."""
    pick = jax.tree_util.Partial(lambda p, x: x[:, p["column"]] * p["slope"], {"slope": np.ones(()), "column": np.array(1)})
    density = lc.log_density(lifted(pick, dist.Normal(0.0, 2.0)))
    assert list(density.positions) == ["net.0.0.slope"]
    expected = stats.norm.logpdf(1.5, scale=2.0) + NOISE(Y - 1.5 * X[:, 1]).sum()
    assert_close(evaluate(density, {"net.0.0.slope": 1.5}), expected)


def test_a_linen_module_without_an_example_is_lifted_at_its_first_call(linen_net):
    def model(x, **example):
        net = lc.random_module("net", linen_net, **example)
        lc.sample("y", dist.Normal(net(x) + net(x), 1.0), obs=np.zeros(len(x)))

    assert lc.trace(model, X) == lc.trace(model, X, example=X)


def test_keyword_arguments_of_a_call(linen_net, random_position, assert_close):
    plain = lc.log_density(lifted(linen_net, BY_PATTERN, input_shape=(1, 2)))
    shifted = lifted(linen_net, BY_PATTERN, over=lambda net: functools.partial(net, shift=2.0), input_shape=(1, 2))
    z = random_position(plain)
    assert_close(evaluate(lc.log_density(shifted, X, Y + 2.0), z), evaluate(plain, z))


@pytest.mark.slow
def test_twice_in_one_model_and_no_leak(linen_net, nnx_net, eqx_net, random_position):
    for module, kwargs, over in [
        (linen_net, {"input_shape": (1, 2)}, lambda net: net),
        (nnx_net, {}, lambda net: net),
        (eqx_net, {}, jax.vmap),
    ]:

        def model(module=module, kwargs=kwargs, over=over):
            a, b = (over(lc.random_module(name, module, **kwargs)) for name in ("a", "b"))
            lc.sample("y", dist.Normal(jax.jit(a)(X) + b(X), 0.3), obs=Y)

        with jax.checking_leaks():
            program = lc.trace(model)
        assert sorted(n[0] for n in program.latents) == ["a"] * 4 + ["b"] * 4
        assert lc.trace(model) == program
        density = lc.log_density(model)
        z = random_position(density)
        swapped = {("b" if n[0] == "a" else "a") + n[1:]: v for n, v in z.items()}
        np.testing.assert_allclose(evaluate(density, z), evaluate(density, swapped), rtol=1e-12)


def test_priors_by_rule_and_kept_values(eqx_net, assert_close):
    asked = []

    def rule(path, shape):
        asked.append((path, shape))
        return dist.Normal(0.0, float(sum(shape))) if path.endswith("weight") else None

    density = lc.log_density(lifted(eqx_net, rule, over=jax.vmap))
    assert asked[:2] == [("layers.0.weight", (3, 2)), ("layers.0.bias", (3,))]
    assert list(density.positions) == ["net.layers.0.weight", "net.layers.1.weight"]
    first, last = np.full((3, 2), 0.3), np.full((1, 3), -0.2)
    b, c = (np.asarray(layer.bias) for layer in eqx_net.layers)
    net = np.tanh(X @ first.T + b) @ last[0] + c[0]
    expected = stats.norm.logpdf(first, scale=5.0).sum() + stats.norm.logpdf(last, scale=4.0).sum()
    z = {"net.layers.0.weight": first, "net.layers.1.weight": last}
    assert_close(evaluate(density, z), expected + NOISE(Y - net).sum(), 1e-6)  # the module's own biases are float32


def test_paths_go_before_patterns_and_shaped_priors(linen_net, assert_close):
    scales = np.array([1.0, 2.0, 3.0])
    prior = {
        "*": dist.Normal(0.0, 1.0),
        "net.Dense_0.bias": dist.Normal(0.0, scales),
        "Dense_1.kernel": dist.Normal(0.0, 2.0).expand([1]).to_event(1),
        "Dense_1.bias": dist.Normal(0.0, 2.0),
    }
    model = lifted(linen_net, prior, over=lambda net: lambda x: 0.0, input_shape=(1, 2))
    density, z = lc.log_density(model), {name: jnp.ones(shape) for name, shape in zip(LINEN, SHAPES, strict=True)}
    weights = (
        6 * dist.Normal(0.0, 1.0).log_prob(1.0) + dist.Normal(0.0, scales).log_prob(1.0).sum() + 4 * dist.Normal(0.0, 2.0).log_prob(1.0)
    )
    assert_close(evaluate(density, z), weights + NOISE(Y).sum())


PRIORS = {
    ("Dense_0.kernel", (16, 3)): (0.0, 0.25),
    ("Conv_0.kernel", (2, 2, 4, 7)): (0.0, 0.25),
    ("layers.0.weight", (3, 16)): (0.0, 0.25),
    ("conv.weight", (7, 4, 2, 2)): (0.0, 0.25),
    ("cell.weight_ih", (9, 16)): (0.0, 0.25),
    ("attention.query.kernel", (16, 2, 4)): (0.0, 0.25),
    ("attention.out.kernel", (2, 8, 5)): (0.0, 0.25),
    ("Embed_0.embedding", (100, 16)): (0.0, 1.0),
    ("kernel", (4, 1)): (0.0, 0.5),
    ("attention.query.bias", (2, 4)): (0.0, 3.0),
    ("LayerNorm_0.scale", (5,)): (1.0, 3.0),
    ("norm.weight", (5,)): (1.0, 3.0),
    ("temperature", ()): (0.0, 3.0),
}


def test_fan_in():
    rule = lc.fan_in_normal(bias_scale=3.0)
    for (path, shape), (loc, scale) in PRIORS.items():
        found = rule(path, shape)
        assert (found.loc, found.scale) == (loc, scale), path
    assert lc.fan_in_normal(2.0)("a.kernel", (16, 3)).scale == 0.5
    for bad in (0.0, -1, np.ones(2)):
        with pytest.raises(lc.ModelError, match=r"fan_in_normal: scale is .*positive number"):
            lc.fan_in_normal(bad)


@pytest.mark.slow
def test_a_latent_scale(linen_net, assert_close):
    def model():
        tau = lc.sample("tau", dist.HalfNormal(1.0))
        regression(lc.random_module("net", linen_net, lc.fan_in_normal(tau), input_shape=(1, 2)), X, Y)

    density = lc.log_density(model)
    z = {n: jnp.full(s.shape, 0.4) for n, s in density.positions.items()}
    z_wider = {**z, "tau": z["tau"] + 1.0}

    def kernels(tau):
        return sum(np.size(z[n]) * stats.norm.logpdf(0.4, scale=tau / np.sqrt(i)) for n, i in ((LINEN[0], 2), (LINEN[2], 3)))

    wide, narrow = kernels(np.exp(1.4)), kernels(np.exp(0.4))
    jacobian = stats.halfnorm.logpdf(np.exp(1.4)) + 1.4 - stats.halfnorm.logpdf(np.exp(0.4)) - 0.4
    assert_close(evaluate(density, z_wider) - evaluate(density, z), wide - narrow + jacobian, 1e-11)


@pytest.mark.slow
def test_half_precision_stays(linen):
    seen = []

    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            w = self.param("w", linen.initializers.zeros, (2,), jnp.bfloat16)
            seen.append(w.dtype)
            return x @ w.astype(float)

    lc.trace(lifted(Net(), dist.Normal(0.0, 1.0), example=X))
    assert seen[-1] == jnp.bfloat16


@pytest.mark.slow
def test_predictions_at_new_inputs(linen_net):
    model = lifted(linen_net, BY_PATTERN, input_shape=(1, 2))
    rng = np.random.default_rng(0)
    drawn = {name: rng.standard_normal((4, *shape)) for name, shape in zip(LINEN, SHAPES, strict=True)}
    new = np.array([[0.3, 0.1], [2.0, -1.0], [0.0, 0.0]])
    found = lc.posterior_predictive(model, jax.random.key(1), drawn, new, None)["y"]
    first, b, last, c = (drawn[n] for n in LINEN)
    expected = (np.tanh(new @ first + b[:, None]) @ last + c[:, None])[..., 0]
    assert found.shape == (4, 3) and np.abs(found - expected).max() < 0.3 * 5
    other = lc.posterior_predictive(model, jax.random.key(1), drawn, new + 1.0, None)["y"]
    moved = (np.tanh((new + 1.0) @ first + b[:, None]) @ last + c[:, None])[..., 0]
    np.testing.assert_allclose(other - moved, found - expected, atol=1e-9)  # the same noise around the net


@pytest.mark.slow
def test_sampling(linen_net, nnx_net, eqx_net):
    for model in (
        lifted(linen_net, None, input_shape=(1, 2)),
        lifted(nnx_net, None),
        lifted(eqx_net, None, over=jax.vmap),
    ):
        mcmc = lc.MCMC(lc.NUTS(model, target_accept_prob=0.95), num_warmup=150, num_samples=20, num_chains=2, progress_bar=False)
        mcmc.run(jax.random.key(0))
        drawn = mcmc.get_samples()
        assert all(v.shape[0] == 40 and np.isfinite(v).all() and np.ptp(v, 0).all() for v in drawn.values())
        mean = lc.posterior_predictive(model, jax.random.key(1), drawn)["y"].mean(0)
        assert np.abs(mean - Y).max() < 0.5 < np.ptp(Y)
        variables = mcmc.to_arviz()["posterior"].data_vars
        assert set(variables) == set(drawn)


# NumPyro's own ------------------------------------------------------------------------------------------------------------------------


def of_numpyro(which, module, prior, over=lambda net: net, **kwargs):
    lift = getattr(pytest.importorskip("numpyro.contrib.module"), which)

    def model(x=X, y=Y):
        regression(over(lift("net", module, prior, **kwargs)), x, y)

    return model


def rule(path, shape):
    return dist.Normal(0.0, 0.7) if len(shape) == 1 else dist.Laplace(0.0, 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["flax", "nnx", "eqx"])
def test_random_modules_of_numpyro(kind, request, random_position, assert_close):
    names, net = {"flax": (LINEN, "linen_net"), "nnx": (NNX, "nnx_net"), "eqx": (EQX, "eqx_net")}[kind]
    kwargs = {"flax": {"input_shape": (1, 2)}, "nnx": {}, "eqx": {"over": jax.vmap}}[kind]
    model = of_numpyro(f"random_{kind}_module", request.getfixturevalue(net), rule, **kwargs)
    renamed = ["net/" + n.removeprefix("net.") for n in names]
    if kind == "eqx":
        renamed = [n.replace("layers.0", "layers[0]").replace("layers.1", "layers[1]") for n in renamed]
    densities = [lc.log_density(m) for m in (model, by_hand(renamed, outputs_first=kind == "eqx"))]
    z = random_position(densities[1])
    theirs = numpyro.handlers.seed(model, 3)

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def all_three(densities, z):
        return *(d(z) for d in densities), numpyro_log_density(theirs, (), {}, z)[0]

    found, expected, of_numpyro_s = all_three(densities, z)
    assert_close(found, expected)
    assert_close(found, of_numpyro_s)


@pytest.mark.slow
def test_initial_values_have_no_effect(linen, random_position):
    def density(start):
        dense = linen.Dense(1, kernel_init=linen.initializers.constant(start))
        return lc.log_density(of_numpyro("random_flax_module", dense, rule, lambda net: lambda x: net(x)[:, 0], input_shape=(1, 2)))

    one, other = density(0.0), density(7.0)
    z = random_position(one)
    assert evaluate(one, z) == evaluate(other, z)


def test_outer_scopes_and_reparametrisations(linen_net):
    config = {"net/Dense_0.bias": numpyro.infer.reparam.LocScaleReparam(0.0)}
    model = numpyro.handlers.reparam(of_numpyro("random_flax_module", linen_net, rule, input_shape=(1, 2)), config=config)
    assert any(n.endswith("Dense_0.bias_decentered") for n in lc.trace(model).latents)
    scoped = numpyro.handlers.scope(of_numpyro("random_flax_module", linen_net, rule, input_shape=(1, 2)), prefix="deep")
    assert "deep/net/Dense_0.bias" in lc.trace(scoped).latents


def message_of(model, *args):
    with pytest.raises(lc.ModelError) as caught:
        lc.trace(model, *args)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["flax", "nnx", "eqx"])
def test_parameters_without_a_prior_in_numpyro(kind, request):
    net = request.getfixturevalue({"flax": "linen_net", "nnx": "nnx_net", "eqx": "eqx_net"}[kind])
    given, left = {
        "flax": (["Dense_0.kernel", "Dense_0.bias", "Dense_1.kernel"], "Dense_1.bias"),
        "nnx": (["first.kernel", "first.bias", "last.kernel"], "last.bias"),
        "eqx": (["layers[0].weight", "layers[0].bias", "layers[1].weight"], "layers[1].bias"),
    }[kind]
    kwargs = {"flax": {"input_shape": (1, 2)}, "nnx": {}, "eqx": {"over": jax.vmap}}[kind]
    message = message_of(of_numpyro(f"random_{kind}_module", net, dict.fromkeys(given, dist.Normal(0.0, 1.0)), **kwargs))
    for words in ["'net'", "1 of 4 parameters without a prior", repr(left), "lc.random_module", f"{__file__}:"]:
        assert words in message, message
    assert given[0] not in message


def test_modules_to_be_trained_are_refused(linen_net):
    modules = pytest.importorskip("numpyro.contrib.module")

    def trained():
        regression(modules.flax_module("net", linen_net, input_shape=(1, 2)), X, Y)

    def named_alike():
        lc.sample("w", dist.Normal(0.0, numpyro.param("net$params", 1.0)))

    def key_beside():
        modules.random_flax_module("net", linen_net, dist.Normal(0.0, 1.0), input_shape=(1, 2))
        numpyro.prng_key()

    def with_state():
        modules.random_flax_module("net", linen_net, dist.Normal(0.0, 1.0), input_shape=(1, 2), mutable=["batch_stats"])

    assert "'net$state': `numpyro.mutable`" in message_of(with_state)
    assert "'net$params': `numpyro.param`" in message_of(trained)
    assert "'net$params': `numpyro.param`" in message_of(named_alike)
    assert "prng_key" in message_of(key_beside)


# Errors -------------------------------------------------------------------------------------------------------------------------------


def lift(module, prior=None, call=lambda net: net(X), **kwargs):
    return lambda: call(lc.random_module("net", module, prior, **kwargs))


NORMAL = dist.Normal(0.0, 1.0)
ON_LINEN = functools.partial(lift, input_shape=(1, 2))


def linen_module(linen, *layers):
    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            return functools.reduce(lambda h, layer: layer()(h), layers, linen.Dense(1)(x))

    return Net()


def counting(linen):
    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.Dense(1)(x) * self.param("steps", lambda key: jnp.ones((), jnp.int32))

    return Net()


ERRORS = {
    "no name": (lambda p: lambda: lc.random_module("", p.net, input_shape=(1, 2)), ["found ''", "expected a string"]),
    "a class": (lambda p: ON_LINEN(type(p.net)), ["'net'", "the class Net", "`Net(...)`"]),
    "no call": (lambda p: lift({"w": np.ones(2)}), ["'net'", "found a dict", "cannot be called", "Partial"]),
    "two inputs": (lambda p: ON_LINEN(p.net, example=X), ["found both input_shape and example"]),
    "a number as shape": (lambda p: lift(p.net, input_shape=2), ["input_shape is 2", "expected a tuple"]),
    "shape for a pytree": (lambda p: ON_LINEN(jax.tree_util.Partial(jnp.dot, np.ones(2))), ["Partial", "'input_shape'", "Leave it out"]),
    "typing error": (lambda p: lift(jax.tree_util.Partial(jnp.dot, np.ones(2)), shape=2), ["'shape'", "Leave it out"]),
    "no parameters": (lambda p: lift(jax.tree_util.Partial(jnp.dot, np.arange(2))), ["'net'", "no float arrays", "Call it as it is"]),
    "no parameters in linen": (lambda p: ON_LINEN(p.linen.Sequential([jnp.tanh])), ["Sequential has no float arrays"]),
    "complex": (lambda p: lift(jax.tree_util.Partial(jnp.dot, np.ones(2, complex))), ["'0.0'", "complex128", "two arrays"]),
    "unmatched": (lambda p: ON_LINEN(p.net, {"*.kernel": NORMAL}), ["'Dense_0.bias'", "(3,)", "'*.kernel'", '"*"', "None keeps"]),
    "matches nothing": (
        lambda p: ON_LINEN(p.net, {"*": NORMAL, "Dense_7.bias": NORMAL}), ["'Dense_7.bias'", "no parameter", "'Dense_0.bias'"],
    ),
    "no prior": (lambda p: ON_LINEN(p.net, 3.0), ["prior is 3.0 (a float)", "dist.Normal(0, 1)", "pattern"]),
    "a class as prior": (lambda p: ON_LINEN(p.net, dist.Normal), ["prior is the class Normal"]),
    "no distribution": (lambda p: ON_LINEN(p.net, {"*": 1.0}), ["'net.Dense_0.bias'", "the prior is 1.0 (a float)"]),
    "wrong batch": (lambda p: ON_LINEN(p.net, dist.Normal(jnp.zeros(4), 1.0)), ["'net.Dense_0.bias'", "(4,)", "(3,)", "broadcasts"]),
    "wrong event": (
        lambda p: ON_LINEN(p.net, dist.Dirichlet(jnp.ones(2))), ["'net.Dense_0.bias'", "event shape (2,)", "(3,)", "one element"],
    ),
    "kept without value": (lambda p: ON_LINEN(p.net, {"*.bias": None, "*": NORMAL}), ["'net.Dense_0.bias'", "only shapes"]),
    "integers of linen": (lambda p: ON_LINEN(counting(p.linen)), ["'net'", "'steps' (int32)", "no value for it", "into the code"]),
    "keys of nnx without value": (
        lambda p: lift(p.nnx.eval_shape(lambda: p.nnx.Dropout(0.5, rngs=p.nnx.Rngs(0)))),
        ["'net'", "'rngs.count'", "no value", "eval_shape"],
    ),
    "batch norm": (
        lambda p: ON_LINEN(linen_module(p.linen, lambda: p.linen.BatchNorm(use_running_average=False))),
        ["'net'", "'batch_stats'", "pure function", "LayerNorm"],
    ),
    "dropout": (
        lambda p: ON_LINEN(linen_module(p.linen, lambda: p.linen.Dropout(0.5, deterministic=False))),
        ["'net'", 'PRNG for "dropout"', "deterministic=True"],
    ),
    "rngs": (lambda p: ON_LINEN(p.net, call=lambda net: net(X, rngs={"dropout": 0})), ["rngs", "deterministic=True"]),
    "batch norm in nnx": (lambda p: lift(p.nnx.BatchNorm(2, dtype=jnp.float32, rngs=p.nnx.Rngs(0))), ["'net'", "'mean'", "LayerNorm"]),
    "dropout in nnx": (
        lambda p: lift(p.nnx.Sequential(p.nnx.Linear(2, 1, rngs=p.nnx.Rngs(0)), p.nnx.Dropout(0.5, rngs=p.nnx.Rngs(0)))),
        ["'net'", "random numbers", "rngs.count'", "module.eval()"],
    ),
    "batch norm in equinox": (lambda p: lift(p.eqx.nn.BatchNorm(2, "batch", mode="ema")), ["'net'", "'ema_first_time_index'", "LayerNorm"]),
    "dropout in equinox": (
        lambda p: lift(p.eqx.nn.Sequential([p.eqx.nn.Linear(2, 1, key=jax.random.key(0)), p.eqx.nn.Dropout(0.5)])),
        ["'layers.1", "Dropout(p=0.5", "inference_mode"],
    ),
}  # fmt: skip


class Libraries:
    def __init__(self, linen, nnx, eqx, net):
        self.linen, self.nnx, self.eqx, self.net = linen, nnx, eqx, net


@pytest.mark.parametrize("fault", ERRORS)
def test_errors(fault, linen, nnx, eqx, linen_net):
    make, expected = ERRORS[fault]
    message = message_of(make(Libraries(linen, nnx, eqx, linen_net)))
    for words in expected:
        assert words in message, message
    assert f"{__file__}:" in message


def test_plates_and_outside_of_a_model(linen_net):
    def in_a_plate():
        with lc.plate("n", 4):
            lc.random_module("net", linen_net, NORMAL, input_shape=(1, 2))

    message = message_of(in_a_plate)
    assert "'net.Dense_0.bias'" in message and "inside a plate" in message and "(4, 3)" in message
    with pytest.raises(lc.ModelError, match=r"'net.Dense_0.bias' was reached outside a model"):
        lc.random_module("net", linen_net, NORMAL, input_shape=(1, 2))


def test_switched_off_dropout_and_frozen_statistics_pass(linen, nnx, eqx):
    """What neither draws nor changes anything is a function, whatever it could do."""
    off = eqx.nn.Sequential([eqx.nn.Linear(2, 1, key=jax.random.key(0)), eqx.nn.Dropout(0.5, inference=True)])
    frozen = nnx.BatchNorm(2, use_running_average=True, rngs=nnx.Rngs(0))
    quiet = linen_module(linen, lambda: linen.Dropout(0.5, deterministic=True))
    assert list(lc.trace(lift(off, NORMAL, jax.vmap)).latents) == ["net.layers.0.weight", "net.layers.0.bias"]
    assert set(lc.trace(lift(frozen, NORMAL)).latents) == {"net.scale", "net.bias"}
    assert set(lc.trace(ON_LINEN(quiet, NORMAL)).latents) == {"net.Dense_0.kernel", "net.Dense_0.bias"}
