"""What the benchmarks of the evidence share: networks, images, tempered SMC, the steps of a path, an estimate that is silent."""

import itertools
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from _common import mnist
from jax import lax

import luciole as lc
from luciole import dist
from luciole.inference.evidence.descent import CAPACITY, Data, Path, advance, begin
from luciole.inference.evidence.objective import Objective
from luciole.inference.evidence.plan import INFLATE, Asked, plan
from luciole.inference.kernels.layout import Layout


def network(x, y, widths, scale=1.0):
    """A tanh network; weights N(0, scale^2 / inputs), biases N(0, scale^2), a categorical likelihood."""
    logits = outputs(x, widths, scale, scale)
    with lc.plate("rows", x.shape[0]):
        lc.sample("y", dist.Categorical(logits=logits), obs=y)


def outputs(x, widths, scale, bias):
    """What a tanh network makes of x (row, input): (row, output). `bias` is the scale of the biases, one number or one for each layer."""
    biases = np.broadcast_to(bias, len(widths) - 1)
    for i, (inputs, units) in enumerate(itertools.pairwise(widths)):
        w = lc.sample(f"w{i}", dist.Normal(0, scale / np.sqrt(inputs)).expand([inputs, units]).to_event(2))
        b = lc.sample(f"b{i}", dist.Normal(0, biases[i]).expand([units]).to_event(1))
        x = (jnp.tanh(x) if i else x) @ w + b
    return x


def images():
    """(images (n, pixels), labels (n,)), pixels between 0 and 1, and their name."""
    found = mnist()
    if found is not None:
        return *found, "MNIST's 10,000 test images"
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.data.astype(np.float32) / 16, digits.target.astype(np.int32), "scikit-learn's digits"


def quietly(model, seed, *args, **options):
    """An estimate without a bar, and the names of its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = lc.sgd_evidence(model, jax.random.key(seed), *args, progress_bar=False, **options)
    return found, [w.category.__name__ for w in caught]


def largest_curvature(model, args, seed=0):
    """Largest eigenvalue of the negative log likelihood's Hessian at a draw from the prior, per unit of u^2, as the guard finds it."""
    tiny = 1e-8
    return quietly(model, seed, *args, **PLAIN, step_size=tiny, num_steps=20, num_restarts=1)[0].largest_curvature / tiny


PLAIN = {"start": "prior", "preconditioner": None, "order": 2}
"""The form of 2016."""

_MOVES, _LEAPS = 5, 4


class TemperedSMC:
    """BlackJAX's adaptive tempered SMC with HMC moves, whitened by the particles, as one compiled program; a call is one run.

    Args:
        model, args: in unconstrained coordinates. particles: their number; the next temperature is where 0.9 of them are effective.
    """

    def __init__(self, model, args, particles):
        density = lc.log_density(model, *args)
        self.objective = Objective(density.program, Layout.of(density.positions))
        self.data, self.particles = tuple(jax.device_put(density.data)), particles
        self.run = jax.jit(self._run)

    def __call__(self, seed):
        """Log evidence, nats, and how many gradients it took: of all particles, the one that begins each set of moves included."""
        found, temperatures = self.run(self.data, jax.random.key(seed))
        return float(found), int(temperatures) * self.particles * (_MOVES * _LEAPS + 1)

    def _run(self, data, key):
        import blackjax
        from blackjax.smc import adaptive_tempered, resampling, tempered

        objective, dim = self.objective, self.objective.layout.dim
        kernel = adaptive_tempered.build_kernel(
            partial(objective.log_prior, data),
            partial(objective.log_likelihood, objective.prepare(data)),
            blackjax.hmc.build_kernel(),
            blackjax.hmc.init,
            resampling.systematic,
            0.9,
        )
        start_key, key = jax.random.split(key)
        start = tempered.init(jax.vmap(partial(objective.draw, data))(jax.random.split(start_key, self.particles)))

        def body(carry):
            state, total, count, key = carry
            now, key = jax.random.split(key)
            covariance = jnp.atleast_2d(jnp.cov(state.particles, rowvar=False, aweights=state.weights))
            settings = {
                "step_size": jnp.full((1,), 0.5 * dim**-0.25),
                "inverse_mass_matrix": covariance[None] + 1e-6 * jnp.eye(dim),
                "num_integration_steps": jnp.full((1,), _LEAPS),
            }
            state, info = kernel(now, state, _MOVES, settings)
            return state, total + info.log_likelihood_increment, count + 1, key

        first = start, jnp.zeros(()), jnp.int32(0), key
        _, total, count, _ = lax.while_loop(lambda c: c[0].tempering_param < 1, body, first)
        return total, count


class Steps:
    """The compiled program of a path, without the guard's first look, which takes 21 products; a call goes on from where the last ended.

    Args:
        fits: of the model. preconditioner, order, start, check_every: of the path; steps without preconditioner are far too short to move.
        restarts: side by side. batches: None if every step sees all rows.
    """

    def __init__(self, fits, preconditioner, order, start, check_every, restarts, batches=None):
        sizes = np.full(CAPACITY, 1.0 if preconditioner else 1e-7, fits.objective.layout.dtype)
        planned = plan(Asked(preconditioner, INFLATE, order, None if preconditioner else sizes, None), start, 32, fits)
        every = batches.count if batches else 1
        path = Path(fits.objective, batches, None, planned.joint, not planned.joint, order, 1, False, every, check_every)
        self.data = Data(tuple(jax.device_put(fits.data)), (), planned.normal, planned.rule, np.int32(10**9))
        state = begin(fits.objective, path.num_rows, path.fresh, None, self.data, jax.random.key(0), np.arange(restarts, dtype=np.uint32))
        self.state, self.sizes = state._replace(step=jnp.int32(batches.count if batches else 1)), sizes
        program = jax.jit(advance.__wrapped__, static_argnums=0, donate_argnums=1)
        self.compiled = program.lower(path, self.state, self.data, sizes, np.int32(1)).compile()

    def __call__(self, number):
        while number:
            now = min(number, CAPACITY)
            self.state, _ = self.compiled(self.state, self.data, self.sizes, np.int32(now))
            number -= now
        jax.block_until_ready(self.state)
