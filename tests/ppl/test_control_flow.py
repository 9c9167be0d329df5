"""Sites inside JAX's own loops, maps and branches, against densities by hand; and what tracing must not forget."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from jax.scipy import stats
from numpyro import distributions as dist
from numpyro import handlers
from numpyro.contrib.control_flow import scan as contrib_scan
from numpyro.distributions import biject_to

from luciole import ppl as lc
from luciole.ppl import interpreters
from luciole.transforms import structure

pytestmark = pytest.mark.usefixtures("x64")

Y = np.random.default_rng(1).standard_normal((5, 3))
N = stats.norm.logpdf


def raw_scan():
    def step(x, y):
        x = lc.sample("x", dist.Normal(0.9 * x, 0.5))
        lc.sample("y", dist.Normal(x, 1.0), obs=y)
        return x, 2 * x

    lc.deterministic("twice", jax.lax.scan(step, 0.0, Y[:, 0])[1])


def raw_scan_density(z):
    before = jnp.concatenate([jnp.zeros(1), z["x"][:-1]])
    return N(z["x"], 0.9 * before, 0.5).sum() + N(Y[:, 0], z["x"]).sum()


def reversed_scan():
    def step(x, y):
        x = lc.sample("x", dist.Normal(0.9 * x, 0.5))
        lc.sample("y", dist.Normal(x, 1.0), obs=y)
        return x, None

    jax.lax.scan(step, 0.0, Y[:, 0], reverse=True)


def reversed_density(z):
    before = jnp.concatenate([z["x"][1:], jnp.zeros(1)])
    return N(z["x"], 0.9 * before, 0.5).sum() + N(Y[:, 0], z["x"]).sum()


def nested_scan():
    def inner(c, y):
        x = lc.sample("x", dist.Normal(c, 1.0))
        lc.factor("f", -0.1 * x * y)
        return x, None

    jax.lax.scan(lambda c, row: jax.lax.scan(inner, c, row), 0.0, Y)


def nested_density(z):
    flat = z["x"].reshape(-1)
    before = jnp.concatenate([jnp.zeros(1), flat[:-1]])
    return N(flat, before).sum() - 0.1 * (z["x"] * Y).sum()


def vmap_other_axis():
    scales = jnp.exp(lc.sample("s", dist.Normal(jnp.zeros(3), 1.0)))

    def one(y, s):
        x = lc.sample("x", dist.Normal(jnp.zeros(5), s))
        lc.sample("y", dist.Normal(x, 1.0), obs=y)

    jax.vmap(one, in_axes=(1, 0))(jnp.asarray(Y), scales)


def vmap_density(z):
    return N(z["s"]).sum() + N(z["x"], 0.0, jnp.exp(z["s"])[:, None]).sum() + N(Y.T, z["x"]).sum()


def vmap_nothing_batched():
    jax.vmap(lambda y: lc.sample("x", dist.Normal(0.0, 2.0)))(jnp.zeros(4))


def vmap_squared_in_scan():
    def step(total, row):
        def cell(a):
            return lc.sample("p", dist.Dirichlet(a * jnp.ones(3)))[0]

        return total + jax.vmap(jax.vmap(cell, in_axes=0), in_axes=1)(row).sum(), None

    jax.lax.scan(step, 0.0, 1.0 + jnp.abs(jnp.asarray(Y)).reshape(5, 3, 1))


def vmap_squared_density(z):
    bijection = biject_to(dist.constraints.simplex)
    p = bijection(z["p"])  # (step, outer, inner, 3)
    a = (1.0 + jnp.abs(jnp.asarray(Y))).reshape(5, 3, 1).transpose(0, 2, 1)
    return (dist.Dirichlet(a[..., None] * jnp.ones(3)).log_prob(p) + bijection.log_abs_det_jacobian(z["p"], p)).sum()


def vmap_of_scan():
    def one(y):
        jax.lax.scan(lambda c, v: (lc.sample("x", dist.Normal(c, v**2 + 1)), None), 0.0, y)

    jax.vmap(one, in_axes=1)(jnp.asarray(Y))


def vmap_of_scan_density(z):  # (step, example): loops stand left of vmap axes
    before = jnp.concatenate([jnp.zeros((1, 3)), z["x"][:-1]])
    return N(z["x"], before, Y**2 + 1).sum()


def jitted():
    @jax.jit
    def helper(m):
        lc.sample("unused", dist.Normal(m, 3.0))
        return lc.sample("x", dist.HalfNormal(jnp.exp(m)))

    lc.sample("y", dist.Normal(helper(lc.sample("m", dist.Normal(0.0, 1.0))), 1.0), obs=0.5)


def jitted_density(z):
    m, x = z["m"], jnp.exp(z["x"])
    return N(m) + N(z["unused"], m, 3.0) + N(x, 0.0, jnp.exp(m)) + np.log(2) + z["x"] + N(0.5, x)


def rematerialised():
    @jax.checkpoint
    def body(m):
        lc.sample("unused", dist.Normal(m, 3.0))
        return jnp.sin(lc.sample("x", dist.Normal(m, 1.0)))

    lc.sample("y", dist.Normal(body(lc.sample("m", dist.Normal(0.0, 1.0))), 1.0), obs=0.5)


def rematerialised_density(z):
    return N(z["m"]) + N(z["unused"], z["m"], 3.0) + N(z["x"], z["m"]) + N(0.5, jnp.sin(z["x"]))


def unused_everywhere():
    def step(c, y):
        lc.sample("x", dist.Normal(y, 1.0))
        jax.checkpoint(lambda: lc.sample("r", dist.Normal(0.0, 2.0)))()
        return c, None

    jax.lax.scan(step, 0.0, Y[:, 0])
    jax.lax.scan(lambda c, y: (lc.sample("w", dist.Normal(c, 1.0)), None), 0.0, None, length=2)


def unused_density(z):
    return N(z["x"], Y[:, 0]).sum() + N(z["r"], 0.0, 2.0).sum() + N(z["w"][0]) + N(z["w"][1], z["w"][0])


def branches():
    x = lc.sample("x", dist.Normal(0.0, 1.0))

    def yes(y):
        lc.sample("only here", dist.Normal(x, 1.0), obs=y)
        return lc.sample("z", dist.Normal(x, 1.0))

    jax.lax.cond(x > 0, yes, lambda y: lc.sample("z", dist.Normal(-x, 2.0)), 0.7)


def branches_density(z):
    yes = N(0.7, z["x"]) + N(z["z"], z["x"])
    return N(z["x"]) + jnp.where(z["x"] > 0, yes, N(z["z"], -z["x"], 2.0))


def broad_observation_in_contrib_scan():
    """The observation of a statement is one step's, though it looks like a series beside a scalar distribution."""

    def step(c, _):
        x = lc.sample("x", dist.Normal(c, 1.0))
        lc.sample("y", dist.Normal(x, 1.0), obs=Y[:, 0])
        return x, None

    contrib_scan(step, 0.0, None, length=5)


def broad_density(z):
    before = jnp.concatenate([jnp.zeros(1), z["x"][:-1]])
    return N(z["x"], before).sum() + N(Y[:, 0], z["x"][:, None]).sum()


CASES = {
    raw_scan: raw_scan_density,
    reversed_scan: reversed_density,
    nested_scan: nested_density,
    vmap_other_axis: vmap_density,
    vmap_nothing_batched: lambda z: N(z["x"], 0.0, 2.0).sum(),
    vmap_squared_in_scan: vmap_squared_density,
    vmap_of_scan: vmap_of_scan_density,
    jitted: jitted_density,
    rematerialised: rematerialised_density,
    unused_everywhere: unused_density,
    branches: branches_density,
    broad_observation_in_contrib_scan: broad_density,
}


@pytest.mark.parametrize("model", CASES, ids=lambda m: m.__name__)
def test_density_by_hand(model, random_position, assert_close):
    density = lc.log_density(model)
    both = jax.jit(lambda d, z: (jax.value_and_grad(d)(z), jax.value_and_grad(CASES[model])(z)))
    for seed in range(2):
        z = random_position(density, seed)
        (value, gradient), (expected, expected_gradient) = both(density, z)
        assert_close(value, expected)
        for name in z:
            assert_close(gradient[name], expected_gradient[name], what=name)


@pytest.mark.parametrize(
    ("model", "site", "shape", "dims"),
    [
        (nested_scan, "x", (5, 3), ("x_time_0", "x_time_1")),
        (vmap_other_axis, "x", (3, 5), ("x_batch", "x_dim_0")),
        (vmap_squared_in_scan, "p", (5, 1, 3, 3), ("p_time", "p_batch_0", "p_batch_1", "p_dim_0")),
    ],
)
def test_shapes_and_dims(model, site, shape, dims):
    row = lc.trace(model).sites[site]
    assert (row.shape, row.dims) == (shape, dims)
    program = lc.trace(model)
    drawn = jax.eval_shape(lambda data, key: interpreters.generate(program, data, key), program.data, jax.random.key(0))
    assert drawn[site].shape == shape


def test_reversed_contrib_scan_keeps_the_order_of_lax_scan(random_position, assert_close):
    """A deliberate difference: NumPyro stores latent values of a reversed scan in the order of execution."""

    def step(x, y):
        x = numpyro.sample("x", dist.Normal(0.9 * x, 0.5))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y)
        return x, None

    def model():
        contrib_scan(step, 0.0, jnp.asarray(Y[:, 0]), reverse=True)

    density = lc.log_density(model)
    z = random_position(density)
    theirs = numpyro.infer.util.potential_energy(model, (), {}, {"x": z["x"][::-1]})
    assert_close(density(z), reversed_density(z))
    assert_close(density(z), -theirs)
    assert abs(float(density(z) + numpyro.infer.util.potential_energy(model, (), {}, z))) > 1e-3


def test_scaled_latent_keeps_its_jacobian(assert_close):
    """A deliberate difference: s * log p + log|J|, with a warning; NumPyro scales both."""

    def model():
        with handlers.scale(scale=0.3):
            lc.sample("x", dist.Gamma(2.0, 1.0))

    with pytest.warns(lc.ScaledLatentWarning, match=r"'x' .*test_control_flow.py:\d+.*Jacobian"):
        density = lc.log_density(model)
    z = 0.4
    assert_close(density({"x": z}), 0.3 * dist.Gamma(2.0, 1.0).log_prob(jnp.exp(z)) + z)
    theirs = -numpyro.infer.util.potential_energy(model, (), {}, {"x": z})
    assert_close(theirs, 0.3 * (dist.Gamma(2.0, 1.0).log_prob(jnp.exp(z)) + z))


def test_jitted_helper_is_traced_anew():
    """A helper that JAX has cached must not bring the names and the mask of an earlier trace."""
    helper = jax.jit(lambda m: lc.sample("x", dist.Normal(m, 1.0)))
    body = lambda c, y: (c, lc.sample("s", dist.Normal(y, 1.0)))  # noqa: E731

    def model():
        helper(0.0)
        jax.lax.scan(body, 0.0, jnp.arange(3.0))

    plain = lc.log_density(model)
    other = lc.log_density(handlers.scope(handlers.mask(model, mask=False), prefix="a"))
    assert set(plain.positions) == {"x", "s"}
    assert set(other.positions) == {"a/x", "a/s"}
    z = np.ones(3)
    assert float(plain({"x": 1.0, "s": z})) == pytest.approx(float(N(1.0) + N(z, np.arange(3)).sum()))
    assert float(other({"a/x": 1.0, "a/s": z})) == 0.0
    assert set(lc.log_density(model).positions) == {"x", "s"}


def test_custom_derivative_around_a_site_warns():
    @jax.custom_jvp
    def outer(m):
        return lc.sample("x", dist.Normal(m, 1.0))

    outer.defjvp(lambda p, t: (p[0], t[0]))

    def model():
        outer(lc.sample("m", dist.Normal(0.0, 1.0)))

    density = lc.log_density(model)
    with pytest.warns(UserWarning, match="custom derivative has the site 'x' inside"):
        value = density({"m": 0.2, "x": 0.5})
    assert float(value) == pytest.approx(float(N(0.2) + N(0.5, 0.2)))


PROGRAM = """
import jax, jax.numpy as jnp, numpy as np, hashlib
from luciole import ppl as lc
from numpyro import distributions as dist
def model(y):
    m = lc.sample("m", dist.StudentT(jnp.arange(3.0) + 2, jnp.ones(3), jnp.arange(3.0) + 1))
    base = dist.Normal(np.ones(3), np.ones(3) * 2)
    s = lc.sample("s", dist.TransformedDistribution(base, dist.transforms.ExpTransform()))
    lc.sample("y", dist.MixtureSameFamily(dist.Categorical(probs=np.ones(3) / 3), dist.Normal(m, s)), obs=y)
density = lc.log_density(model, np.arange(4.0))
z = {n: jnp.zeros(p.shape, p.dtype) for n, p in density.positions.items()}
text = jax.jit(jax.value_and_grad(lambda z, d: d(z))).lower(z, density).as_text()
print(hashlib.sha256(text.encode()).hexdigest(), [c.tolist() for c in density.data])
"""


@pytest.mark.slow
def test_program_does_not_depend_on_the_hash_seed():
    source = Path(lc.__file__).absolute().parents[2]

    def text(seed):
        env = {
            **os.environ,
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": os.pathsep.join([str(source), *sys.path]),
            "JAX_PLATFORMS": "cpu",
        }
        return subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=True).stdout

    found = {text(seed) for seed in ("0", "1", "2")}
    assert len(found) == 1, found
    assert len(found.pop()) > 64


def test_equal_programs(random_position):
    """New data of the same shapes give the same program; another constant, name or shape makes another."""

    def make(scale=1.0, name="x", repeat=1):
        def model(y):
            x = lc.sample(name, dist.Normal(0.0, scale))
            lc.sample("y", dist.Normal(x * repeat, 1.0), obs=y)

        return model

    base = lc.trace(make(), np.zeros(3))
    same = lc.trace(make(), np.ones(3))
    assert base == same
    assert hash(base) == hash(same)
    assert structure(base.jaxpr) == structure(same.jaxpr)
    others = [
        lc.trace(make(2.0), np.zeros(3)),
        lc.trace(make(name="z"), np.zeros(3)),
        lc.trace(make(), np.zeros(4)),
        lc.trace(make(repeat=2), np.zeros(3)),
    ]
    assert all(base != o for o in others)
    assert len({base, same, *others}) == 5
