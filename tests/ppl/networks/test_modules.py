"""Modules of flax and equinox against models written by hand with the same weights."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from numpyro.infer.util import log_density as numpyro_log_density

import luciole as lc
from luciole import dist
from luciole import transforms as lt

X = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
Y = np.sin(X[:, 0])
SHAPES = {"0.w": (3, 5), "0.b": (5,), "1.w": (5, 1), "1.b": (1,)}
WEIGHTS = {n: np.random.default_rng(i).normal(size=s).astype(np.float32) for i, (n, s) in enumerate(SHAPES.items())}


def regress(net, x, y):
    mean = net(x)[:, 0]
    with lc.plate("row", len(x)):
        lc.sample("y", dist.Normal(mean, 0.5), obs=y)


def by_hand(x, y=None):
    w = {n: lc.sample(n, dist.Normal(0, s[0] ** -0.5 if len(s) > 1 else 1.0).expand(s).to_event(len(s))) for n, s in SHAPES.items()}
    regress(lambda x: jnp.tanh(x @ w["0.w"] + w["0.b"]) @ w["1.w"] + w["1.b"], x, y)


def linen(x, y=None):
    nn = pytest.importorskip("flax.linen")
    regress(lc.random_module("net", nn.Sequential([nn.Dense(5), nn.tanh, nn.Dense(1)])), x, y)


def nnx(x, y=None):
    nnx = pytest.importorskip("flax.nnx")

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first, self.last = nnx.Linear(3, 5, rngs=rngs), nnx.Linear(5, 1, rngs=rngs)

        def __call__(self, x):
            return self.last(jnp.tanh(self.first(x)))

    regress(lc.random_module("net", Net(nnx.Rngs(0))), x, y)


def equinox(x, y=None):
    eqx = pytest.importorskip("equinox")
    net = lc.random_module("net", eqx.nn.MLP(3, 1, 5, 1, activation=jnp.tanh, key=jax.random.key(0)))
    regress(jax.vmap(net), x, y)


@jax.tree_util.register_dataclass
@dataclass
class Own:
    first: dict
    last: dict

    def __call__(self, x):
        return jnp.tanh(self.first["w"].T @ x + self.first["b"]) @ self.last["w"].T + self.last["b"]


def own(x, y=None):
    net = Own({"w": jnp.zeros((3, 5)), "b": jnp.zeros(5)}, {"w": jnp.zeros((1, 5)), "b": jnp.zeros(1)})
    prior = {"first.w": 3**-0.5 * 5**0.5, "last.w": 1.0, "*.b": dist.Normal(0, 1)}
    prior["first.w"] = dist.Normal(0, 3**-0.5)
    regress(jax.vmap(lc.random_module("net", net, prior)), x, y)


NAMES = {
    linen: ("net.layers_0.kernel", "net.layers_0.bias", "net.layers_2.kernel", "net.layers_2.bias"),
    nnx: ("net.first.kernel", "net.first.bias", "net.last.kernel", "net.last.bias"),
    equinox: ("net.layers.0.weight", "net.layers.0.bias", "net.layers.1.weight", "net.layers.1.bias"),
    own: ("net.first.w", "net.first.b", "net.last.w", "net.last.b"),
}


COMPILED = [pytest.param(f, id=f.__name__, marks=[pytest.mark.slow] if f in (linen, equinox) else []) for f in NAMES]


@pytest.mark.parametrize("model", COMPILED)
def test_a_lifted_module_is_the_model_written_by_hand(model):
    position = dict(zip(NAMES[model], WEIGHTS.values(), strict=True))
    density, expected = lc.log_density(model, X, Y), lc.log_density(by_hand, X, Y)
    position = {n: v.T if v.ndim == 2 and density.positions[n].shape != v.shape else v for n, v in position.items()}
    assert set(density.positions) == set(position)
    value, gradient = lt.value_and_grad(density)(position)
    value_by_hand, by_name = jax.value_and_grad(expected)(WEIGHTS)
    np.testing.assert_allclose(value, value_by_hand, rtol=1e-5)
    for name, own_name in zip(NAMES[model], WEIGHTS, strict=True):
        found = gradient[name] if gradient[name].shape == by_name[own_name].shape else gradient[name].T
        np.testing.assert_allclose(found, by_name[own_name], rtol=1e-3, atol=1e-4)


def test_initial_values_are_forgotten_and_a_module_may_be_lifted_twice():
    nn = pytest.importorskip("flax.linen")
    layer = nn.Dense(1)

    def twice(x, y):
        a, b = lc.random_module("a", layer), lc.random_module("b", layer, prior=2.0)
        regress(lambda x: a(x) + b(x) + a(x), x, y)

    program = lc.trace(twice, X, Y)
    assert list(program.latents) == ["a.bias", "a.kernel", "b.bias", "b.kernel"]
    drawn = lc.prior_predictive(twice, jax.random.key(0), 3000, X, Y)
    assert abs(drawn["b.kernel"].std() / drawn["a.kernel"].std() - 2) < 0.1


def numpyros(x, y=None):
    from numpyro.contrib.module import random_flax_module

    nn = pytest.importorskip("flax.linen")
    module = nn.Sequential([nn.Dense(5), nn.tanh, nn.Dense(1)])
    net = random_flax_module("net", module, dist.Normal(0, 0.7), input_shape=(3,))
    with numpyro.plate("row", len(x)):
        numpyro.sample("y", dist.Normal(net(x)[:, 0], 0.5), obs=y)


def numpyros_nnx(x, y=None):
    from numpyro.contrib.module import random_nnx_module

    nnx = pytest.importorskip("flax.nnx")
    net = random_nnx_module("net", nnx.Linear(3, 1, rngs=nnx.Rngs(0)), {"kernel": dist.Normal(), "bias": dist.Cauchy()})
    with numpyro.plate("row", len(x)):
        numpyro.sample("y", dist.Normal(net(x)[:, 0], 0.5), obs=y)


@pytest.mark.slow
@pytest.mark.parametrize("model", [numpyros, numpyros_nnx])
def test_numpyros_random_modules_run_unchanged(model):
    density = lc.log_density(model, X, Y)
    draw = np.random.default_rng(0)
    position = {n: draw.normal(size=s.shape).astype(np.float32) for n, s in density.positions.items()}
    expected, _ = numpyro_log_density(model, (X, Y), {}, position)
    np.testing.assert_allclose(density(position), expected, rtol=1e-5)
    samples = {n: v[None] for n, v in position.items()}
    assert lc.posterior_predictive(model, jax.random.key(0), samples, X[:4])["y"].shape == (1, 4)
    again = lc.trace(model, X, Y)
    assert again == lc.trace(model, X, Y)


def test_parameters_of_numpyros_modules_without_a_prior_are_named():
    from numpyro.contrib.module import flax_module, random_flax_module

    nn = pytest.importorskip("flax.linen")
    with pytest.raises(lc.ModelError, match=r"module 'net': the parameters \['bias'\] have no prior"):
        lc.trace(lambda x: random_flax_module("net", nn.Dense(1), {"kernel": dist.Normal()}, input_shape=(3,))(x), X)
    with pytest.raises(lc.ModelError, match=r"\['bias', 'kernel'\] have no prior"):
        lc.trace(lambda x: flax_module("net", nn.Dense(1), input_shape=(3,))(x), X)
    with pytest.raises(lc.ModelError, match=r"numpyro.param"):
        lc.trace(lambda: numpyro.param("w", jnp.ones(3)))
    with pytest.raises(lc.ModelError, match="a model draws only with `sample`"):
        lc.trace(lambda: numpyro.prng_key())


@pytest.mark.parametrize(
    ("module", "prior", "message"),
    [
        (lambda nn: nn.Dense(1), {"kernel": 1.0}, r"no prior for 'bias', shape \(1,\); the dict has \['kernel'\]"),
        (lambda nn: nn.Dense(1), dist.Normal(np.zeros(7), 1.0), r"has shape .*, and its prior \(7,\)"),
        (lambda nn: nn.Dense(1), -1.0, "the prior's scale for 'bias' is -1.0"),
        (lambda nn: nn.Dense(1), lambda path, shape: "normal", "the prior of 'bias' is a str"),
        (lambda nn: nn.BatchNorm(use_running_average=False), 1.0, "carries batch_stats"),
        (lambda nn: nn.tanh, 1.0, "no floating point array"),
        (lambda nn: {"w": 1.0}, 1.0, "found a dict, which cannot be called"),
    ],
)
def test_modules_and_priors_that_do_not_fit_are_named(module, prior, message):
    nn = pytest.importorskip("flax.linen")
    with pytest.raises(lc.ModelError, match=message):
        lc.trace(lambda x: lc.random_module("net", module(nn), prior)(x), X)


def test_state_of_nnx_and_equinox_is_refused():
    nnx, eqx = pytest.importorskip("flax.nnx"), pytest.importorskip("equinox")
    with pytest.raises(lc.ModelError, match="carries BatchStat"):
        lc.trace(lambda: lc.random_module("net", nnx.BatchNorm(3, rngs=nnx.Rngs(0))))
    with pytest.raises(lc.ModelError, match="carries StateIndex"):
        lc.trace(lambda: lc.random_module("net", eqx.nn.BatchNorm(3, "batch", mode="batch")))


@pytest.mark.slow
def test_nuts_samples_a_lifted_module():
    mcmc = lc.MCMC(lc.NUTS(linen), num_warmup=200, num_samples=200, num_chains=2, progress_bar=False).run(jax.random.key(0), X, Y)
    drawn = lc.posterior_predictive(linen, jax.random.key(1), mcmc.get_samples(), X)["y"]
    assert np.sqrt(np.mean((drawn.mean(axis=0) - Y) ** 2)) < 0.4
