"""Discrete latents by brute force: every assignment of them is scored, and nothing is said about how they hang together.

    log p(u, y) = logsumexp_z log p(x(u), z, y) + sum_s log |det d x_s / d u_s|

No line of `ppl/enumeration` is used, only the program of the trace and the walker that all interpreters share. An element of a
discrete site that is masked counts as absent: its K values are averaged and not added, so that its log K goes off every score.
"""

import functools
import itertools
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp, softmax

import luciole as lc
from luciole.ppl.masks import counted
from luciole.ppl.walker import walk

LIMIT = 4096  # assignments; more would be no test but a wait


@dataclass(frozen=True, eq=False)
class Oracle:
    """A model whose discrete latents have been listed.

    Attributes:
        program: of the trace, discrete latents in it.
        supports: by discrete latent site, its values.
        assignments: by discrete latent site, (assignment, *shape of the site).
    """

    program: Any
    supports: dict[str, np.ndarray]
    assignments: dict[str, np.ndarray]

    @property
    def positions(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The continuous latents: shape and dtype of each unconstrained value."""
        latents = {n: s for n, s in self.program.latents.items() if not s.spec.discrete}
        return {n: jax.ShapeDtypeStruct(s.unconstrained_shape, s.dtype) for n, s in latents.items()}

    def one(self, data, position, values):
        """log p(x(u), z, y) in nats, Jacobians included, of one assignment of the discrete sites: values by name, of the sites' shapes."""

        def rule(spec, operands, given):
            if spec.kind == "deterministic":
                return operands[0], None
            if not spec.latent:
                return operands[spec.num_leaves], jnp.sum(spec.apply(_observed, operands))
            given = jnp.asarray(given, spec.dtype)
            if spec.discrete:
                states = len(self.supports[spec.name])
                return given, jnp.sum(spec.apply(_discrete(states), operands, given))
            value, scores = spec.apply(_continuous(spec), operands, given)
            return jnp.asarray(value, spec.dtype), jnp.sum(scores)

        _, records = walk(self.program.jaxpr, data, rule, {**position, **values})
        return sum(jnp.sum(score) for score in records.values())

    def scores(self, position):
        """(assignment,): `one` of each of them."""
        return np.asarray(_scores(self, self.program.data, position, self.assignments))

    def value(self, position):
        """The log density with the discrete sites summed out, nats."""
        return logsumexp(self.scores(position))

    def value_and_gradient(self, position):
        """The log density, and its gradient by site: that of each assignment, weighed by the posterior. An impossible one has none."""
        scores, gradients = _scores_and_gradients(self, self.program.data, position, self.assignments)
        weights = softmax(scores)
        possible = weights > 0
        slopes = {n: np.tensordot(weights[possible], np.asarray(g)[possible], 1) for n, g in gradients.items()}
        return logsumexp(scores), slopes

    def posterior(self, position):
        """(assignment,): p(z | x(u), y)."""
        return softmax(self.scores(position))

    def marginals(self, position):
        """By site, (*shape, K): p(z_i = k | x(u), y)."""
        weights = self.posterior(position)
        return {n: np.tensordot(weights, self.assignments[n][..., None] == self.supports[n], 1) for n in self.assignments}

    def best(self, position):
        """By site, its values in the assignment of the highest score, and how far that score is above the next one, nats."""
        scores = self.scores(position)
        second, first = np.argsort(scores)[-2:]
        return {n: a[first] for n, a in self.assignments.items()}, scores[first] - scores[second]


_quickly = {"xla_backend_optimization_level": 0}  # these programs run once


@functools.partial(jax.jit, compiler_options=_quickly)
def value_of(density, position):
    """Of a `LogDensity`, compiled: the value in nats."""
    return density(position)


@functools.partial(jax.jit, compiler_options=_quickly)
def value_and_gradient(density, position):
    """Of a `LogDensity`, compiled: the value in nats and the gradient by site."""
    return jax.value_and_grad(density)(position)


@functools.partial(jax.jit, static_argnums=0, compiler_options=_quickly)
def _scores(oracle, data, position, assignments):
    return jax.vmap(lambda values: oracle.one(data, position, values))(assignments)


@functools.partial(jax.jit, static_argnums=0, compiler_options=_quickly)
def _scores_and_gradients(oracle, data, position, assignments):
    """(assignment,) scores and, by continuous site, (assignment, *shape) gradients."""
    return jax.vmap(lambda values: jax.value_and_grad(oracle.one, 1)(data, position, values))(assignments)


def brute_force(model, supports, *args, **kwargs):
    """The oracle of `model(*args, **kwargs)`.

    Args:
        supports: for each discrete latent site, its values.
    """
    program = lc.trace(model, *args, **kwargs)
    sites = {n: s for n, s in program.latents.items() if s.spec.discrete}
    assert sites.keys() == supports.keys(), f"the model has the discrete latents {list(sites)}, and supports are given for {list(supports)}"
    assert len(sites) < len(program.latents), "give the model a continuous latent: without one it has no position"
    assert not program.missing.counts, "partly observed sites are not known here"
    supports = {n: np.asarray(values) for n, values in supports.items()}
    number = count({n: s.shape for n, s in sites.items()}, supports)
    assert number <= LIMIT, f"{number} assignments, and at most {LIMIT} are listed"
    elements = [supports[n] for n, site in sites.items() for _ in range(math.prod(site.shape))]
    table = np.array(list(itertools.product(*elements)))
    ends = np.cumsum([math.prod(s.shape) for s in sites.values()])[:-1]
    columns = np.split(table, ends, axis=1)
    return Oracle(program, supports, {n: c.reshape(-1, *s.shape) for (n, s), c in zip(sites.items(), columns, strict=True)})


def count(shapes, supports):
    """How many assignments there are of sites of these shapes."""
    return math.prod(len(supports[n]) ** math.prod(shape) for n, shape in shapes.items())


def _observed(dist, scale, value):
    return _scaled(dist.log_prob(value), scale)


def _discrete(states):
    def score(dist, scale, missing, value):
        assert scale is None and dist.event_dim == 0
        log_prob = dist.log_prob(value)
        return jnp.where(jnp.broadcast_to(counted(dist), jnp.shape(log_prob)), log_prob, -math.log(states))

    return score


def _continuous(spec):
    def score(dist, scale, missing, u):
        bijection = spec.bijection(dist)
        value = bijection(u)
        log_det = jnp.sum(jnp.where(counted(dist), _over_batch(bijection.log_abs_det_jacobian(u, value), dist), 0.0))
        return value, jnp.sum(_scaled(dist.log_prob(value), scale)) + log_det

    return score


def _over_batch(log_det, dist):
    """Summed over what is left of its event axes."""
    return jnp.sum(log_det, axis=tuple(range(len(dist.batch_shape), jnp.ndim(log_det))))


def _scaled(log_prob, scale):
    return log_prob if scale is None else scale * log_prob
