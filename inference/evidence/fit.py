"""Normal distributions fitted to a posterior: where a path starts, and what preconditions it.

`variational` maximises E log p(y, u) + log|det S| over u ~ N(m, S S') with fixed antithetic draws, whose second moments are exactly
those of the standard normal distribution, so that on a Gaussian posterior the fit is the posterior. The draws being fixed, the function
is smooth and deterministic and SciPy's L-BFGS does the work. `laplace` follows from there.

Source: fixed draws are the sample average approximation of Giordano, Ingram & Broderick (2024), "Black box variational inference with a
deterministic objective", JMLR 25.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy.optimize import minimize

from ...transforms import grad, jvp, value_and_grad
from ...transforms.bounded import bounded_jit
from ...transforms.keys import random_key
from .objective import Objective

__all__ = [
    "Curvature",
    "Laplace",
    "Prior",
    "Variational",
    "climb_from_prior",
    "curvature",
    "laplace",
    "prior_moments",
    "variational",
]

_PRIOR_DRAWS = 256
_FIRST_SPREADS = (0.3, 0.03, 0.003)  # of the first S, in standard deviations of the prior, until the density is finite at all draws
_ITERATIONS = 500
_ROUNDS = 12  # of L-BFGS, each in the coordinates of the fit before; in float32 a line search ends early where scales differ
_CORRECTIONS = 20  # pairs that L-BFGS keeps
_PROBES = 128  # of the diagonal of a Hessian
_NEWTON = 4  # steps, after L-BFGS
_DECREASE = 1e-3  # nats that a further step of Newton would gain, at most, at a mode


class Prior(NamedTuple):
    """Draws from the prior, (draw, dim), unconstrained; their medians and half their central 68 %, (dim,). float64."""

    draws: np.ndarray
    centre: np.ndarray
    scale: np.ndarray


class Variational(NamedTuple):
    """The fit. mean: m, (dim,). root: S, (dim, dim), lower, or its diagonal, (dim,). evaluations: of all draws. converged: says L-BFGS."""

    mean: np.ndarray
    root: np.ndarray
    evaluations: int
    converged: bool


class Laplace(NamedTuple):
    """A mode and the curvature there. mode: (dim,). root: S with S S' the inverse of the Hessian. log_evidence: Laplace's, nats."""

    mode: np.ndarray
    root: np.ndarray
    log_evidence: float


class Curvature(NamedTuple):
    """At a mode, (dim,). likelihood: (dim,), the diagonal of the negative log likelihood's Hessian, at least zero."""

    mode: np.ndarray
    likelihood: np.ndarray


def prior_moments(objective: Objective, data: Sequence[Any]) -> Prior:
    """How the prior spreads, robustly: half-Cauchy tails have no moments. A function of the model and its data alone."""
    draws = np.asarray(_prior_draws(objective, data, jax.random.split(random_key(), _PRIOR_DRAWS)), np.float64)
    low, centre, high = np.quantile(draws, (0.16, 0.5, 0.84), axis=0)
    return Prior(draws, centre, np.maximum((high - low) / 2, np.finfo(np.float32).tiny))


def variational(
    objective: Objective, data: Sequence[Any], prior: Prior, num_draws: int, full: bool, near: Variational | None = None
) -> Variational | None:
    """The normal distribution of the largest evidence lower bound; None if the density is finite nowhere near the prior's centre.

    It is looked for around the prior's centre first and then, better conditioned, around what was found, until that changes nothing.

    Args:
        num_draws: at least. On which the bound is computed; more for a full S, whose dim columns they must span.
        full: whether S is a triangular matrix, or a diagonal.
        near: a fit to a posterior that is not far, of the same kind: where the search begins, if the density is finite there.
    """
    dim, dtype = objective.layout.dim, objective.layout.dtype
    draws = jnp.asarray(_antithetic(dim, max(num_draws, 4 * dim if full else 2)), dtype)
    program, evaluations = partial(_negative_bound, objective, full, data, draws), 0
    spreads = [factor * prior.scale for factor in _FIRST_SPREADS]
    first = [(prior.centre, np.diag(spread) if full else spread) for spread in spreads]
    start = np.zeros(2 * dim + (dim * (dim - 1) // 2 if full else 0))
    for mean, root in first if near is None else [(near.mean, near.root), *first]:
        value, _ = program(jnp.asarray(mean, dtype), jnp.asarray(root, dtype), jnp.asarray(start, dtype))
        if np.isfinite(value):
            break
    else:
        return None
    best, converged = np.inf, False
    for _ in range(_ROUNDS):
        base = jnp.asarray(mean, dtype), jnp.asarray(root, dtype)
        found, value, count = _minimise(partial(program, *base), start, dtype)
        evaluations += count
        value -= _log_det(root)
        mean, root = _moved(mean, root, found, full)
        converged, best = value > best - 0.1, min(value, best)
        if converged:
            break
    return Variational(mean, root, evaluations, converged)


def laplace(objective: Objective, data: Sequence[Any], near: np.ndarray, root: np.ndarray) -> Laplace | None:
    """The mode next to a point, and the curvature there; None if there is no mode, or a flat direction in it.

    Args:
        near: (dim,). root: the S in whose coordinates, u = near + S v, the search goes on: (dim, dim), lower triangular.
    """
    dim, dtype = objective.layout.dim, objective.layout.dtype
    base = jnp.asarray(near, dtype), jnp.asarray(root, dtype)
    found, _, _ = _minimise(partial(_whitened, objective, data, *base), np.zeros(dim), dtype)
    for _ in range(_NEWTON):
        value, gradient, hessian = (np.asarray(x, np.float64) for x in _curved(objective, data, *base, jnp.asarray(found, dtype)))
        if not (np.isfinite(value) and np.isfinite(hessian).all()):
            return None
        eigenvalues, vectors = np.linalg.eigh((hessian + hessian.T) / 2)
        if eigenvalues[0] < np.finfo(dtype).eps * max(eigenvalues[-1], 1):
            return None
        move = vectors @ ((vectors.T @ gradient) / eigenvalues)
        if move @ gradient < _DECREASE:
            break
        found = found - move
    else:
        return None
    log_evidence = -value + 0.5 * dim * math.log(2 * math.pi) + _log_det(root) - 0.5 * np.log(eigenvalues).sum()
    return Laplace(near + root @ found, root @ vectors / np.sqrt(eigenvalues), float(log_evidence))


def climb_from_prior(objective: Objective, data: Sequence[Any], prior: Prior, number: int, full: bool) -> list[np.ndarray]:
    """Where L-BFGS ends, (dim,) each, from so many draws of the prior; between symmetric modes the prior's centre would be a saddle.

    Args:
        full: whether scales are passed as a matrix, as those of a full fit are: then one program serves both.
    """
    dtype = objective.layout.dtype
    scale = np.diag(prior.scale) if full else prior.scale
    program = partial(_whitened, objective, data, jnp.asarray(prior.centre, dtype), jnp.asarray(scale, dtype))
    ends = [_minimise(program, (draw - prior.centre) / prior.scale, dtype) for draw in prior.draws[:number]]
    return [prior.centre + prior.scale * place for place, value, _ in ends if np.isfinite(value)]


def curvature(objective: Objective, data: Sequence[Any], prior: Prior) -> Curvature | None:
    """A mode of a large model and the diagonal of the Hessian there; None if no mode was found.

    The diagonal is Hutchinson's estimate, the mean of r * H r over random signs r, without the entries below zero.
    """
    dtype = objective.layout.dtype
    for mode in climb_from_prior(objective, data, prior, 1, full=False):
        keys = jax.random.split(random_key(), _PROBES)
        diagonal = np.asarray(_diagonal(objective, data, jnp.asarray(mode, dtype), keys), np.float64)
        if np.isfinite(diagonal).all():
            return Curvature(mode, np.maximum(diagonal, 0))
    return None


def _antithetic(dim: int, number: int) -> np.ndarray:
    """(2 half, dim): pairs z, -z; second moments are those of the standard normal distribution if half >= dim, else per coordinate."""
    half = -(-number // 2)
    z = np.random.default_rng(0).normal(size=(half, dim))
    z = math.sqrt(half) * np.linalg.qr(z)[0] if half >= dim else z / np.sqrt(np.mean(z**2, axis=0))
    return np.concatenate([z, -z])


def _moved(mean: np.ndarray, root: np.ndarray, packed: np.ndarray, full: bool) -> tuple[np.ndarray, np.ndarray]:
    """m and S, from those around which it was looked for and what was found, in float64."""
    dim = mean.size
    shift, log_scale = packed[:dim], packed[dim : 2 * dim]
    if not full:
        return mean + root * shift, root * np.exp(log_scale)
    inner = np.diag(np.exp(log_scale))
    inner[np.tril_indices(dim, -1)] = packed[2 * dim :]
    return mean + root @ shift, root @ inner


def _log_det(root: np.ndarray) -> float:
    return float(np.log(np.abs(np.diagonal(root) if root.ndim == 2 else root)).sum())


def _minimise(function: Callable[[jax.Array], Any], start: np.ndarray, dtype: Any) -> tuple[np.ndarray, float, int]:
    """Where L-BFGS ends, the value there, and how often it looked; `function` returns value and gradient on the device."""

    def on_host(x):
        value, gradient = (np.asarray(part, np.float64) for part in function(jnp.asarray(x, dtype)))
        inside = np.isfinite(value) and np.isfinite(gradient).all()
        return (float(value), gradient) if inside else (np.inf, np.zeros_like(gradient))

    options = {"maxiter": _ITERATIONS, "maxcor": _CORRECTIONS, "ftol": 10 * np.finfo(dtype).eps, "gtol": 1e-6}
    found = minimize(on_host, start, jac=True, method="L-BFGS-B", options=options)
    return found.x, float(found.fun), int(found.nfev)


@bounded_jit(static_argnums=0)
def _prior_draws(objective: Objective, data: Sequence[Any], keys: jax.Array) -> jax.Array:
    return jax.vmap(partial(objective.draw, data))(keys)


@bounded_jit(static_argnums=(0, 1))
def _negative_bound(objective: Objective, full: bool, data: Sequence[Any], draws: jax.Array, mean, root, packed):
    """-(E log p(y, u) + log|det M|) over u = m + S (shift + M z), and its gradient, by hand outside of the density's.

    Args:
        draws: z, (draw, dim). mean, root: m, S. packed: shift, log of M's diagonal, and for a full S what M has below it.
    """
    dim = mean.size
    shift, log_scale = packed[:dim], packed[dim : 2 * dim]
    inner = jnp.diag(jnp.exp(log_scale)).at[jnp.tril_indices(dim, -1)].set(packed[2 * dim :]) if full else jnp.exp(log_scale)
    placed = shift + (draws @ inner.T if full else draws * inner)
    points = mean + (placed @ root.T if full else placed * root)
    prepared = objective.prepare(data)
    values, gradients = jax.vmap(value_and_grad(lambda u: objective.loss(prepared, data, u, joint=True)))(points)
    pulled = gradients @ root if full else gradients * root
    on_scale = jnp.mean(pulled * draws, axis=0) * jnp.exp(log_scale) - 1
    parts = [jnp.mean(pulled, axis=0), on_scale]
    if full:
        parts.append((pulled.T @ draws / len(draws))[jnp.tril_indices(dim, -1)])
    return jnp.mean(values) - jnp.sum(log_scale), jnp.concatenate(parts)


@bounded_jit(static_argnums=0)
def _whitened(objective: Objective, data, mean, root, v):
    """The negative log joint density and its gradient in v, at u = m + S v."""
    return value_and_grad(_around(objective, data, mean, root))(v)


@bounded_jit(static_argnums=0)
def _curved(objective: Objective, data, mean, root, v):
    """The same, and the Hessian."""
    function = value_and_grad(_around(objective, data, mean, root))
    value, gradient = function(v)
    return value, gradient, jax.vmap(lambda w: jvp(function, (v,), (w,))[1][1])(jnp.eye(v.size, dtype=v.dtype))


def _around(objective: Objective, data, mean, root) -> Callable[[jax.Array], jax.Array]:
    prepared = objective.prepare(data)
    return lambda v: objective.loss(prepared, data, mean + (root @ v if root.ndim == 2 else root * v), joint=True)


@bounded_jit(static_argnums=0)
def _diagonal(objective: Objective, data, u, keys):
    """Hutchinson's estimate of the diagonal of the negative log likelihood's Hessian, (dim,)."""
    prepared = objective.prepare(data)
    gradient = grad(lambda u: objective.loss(prepared, data, u, joint=False))

    def add(total, key):
        signs = jax.random.rademacher(key, u.shape, u.dtype)
        return total + signs * jvp(gradient, (u,), (signs,))[1], None

    return lax.scan(add, jnp.zeros_like(u), keys)[0] / len(keys)
