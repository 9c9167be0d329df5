"""The posterior near its mode, by Newton's method on a subsample and then on all rows.

A likelihood of rows is a function of the natural vector n(u): the coefficients, ravelled, and the shared parameters. Products of tiles of
rows are computed in the float type of the data and summed in float64.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ...ppl.factors import Factor, Family, Rows, block_of, on_host
from ...transforms import SamplerError, grad, hvp, jvp, value_and_grad
from ...transforms.bounded import bounded_jit
from .bounds import log_likelihood
from .rest import Rest

__all__ = ["SMALLEST", "Laplace", "columns", "directions", "find_mode", "product", "scaled_eigh", "wide"]

BLOCK = 2048  # rows that are taken together, at random places
_SUBSAMPLE = 20  # blocks
_MAX_NEWTON = 100
SMALLEST = 1e-12  # eigenvalue of a scaled Hessian: a hundred times their error
_CLOSE, _NEAR = 1e-2, 1.0  # nats that a step promises: a mode; so near to one that bounds around the point serve as well


class Laplace(NamedTuple):
    """The posterior near its mode.

    Attributes:
        mode: (dim,). hessian: (dim, dim), of minus the log density there, positive definite.
        natural: n there. jacobian: of n, (size of n, dim).
        bend_of: gradient and Hessian of another function f of n -> minus the Hessian at the mode of log prior + f(n), (dim, dim).
        queries: likelihoods evaluated to find it.
    """

    mode: np.ndarray
    hessian: np.ndarray
    natural: np.ndarray
    jacobian: np.ndarray
    bend_of: Callable[[Any, Any], np.ndarray]
    queries: int


class _Model(NamedTuple):
    """At a position: log density (), gradient (dim,), minus the Hessian (dim, dim), and n with its Jacobian."""

    value: Any
    gradient: Any
    hessian: Any
    natural: Any
    jacobian: Any


def wide(x: Any) -> Any:
    return x.astype(jnp.float64)


def product(x: Any, y: Any) -> Any:
    """x @ y to the last digits of their type; left to themselves, matrix units round to ten bits."""
    return jnp.matmul(x, y, precision=lax.Precision.HIGHEST)


class _Inputs(NamedTuple):
    """What the rest of the model reads: data, constants, and the affine map (matrix, offset) to the coefficients, if there is one."""

    data: Any
    constants: Any
    affine: Any


def _latents(rest: Rest, inputs: _Inputs, position):
    """Log prior (), natural vector. Float64."""
    log_prior, coefficients, shared = rest(inputs.data, inputs.constants, position)
    if coefficients is None:
        matrix, offset = inputs.affine
        coefficients = wide(matrix) @ position + wide(offset)
    return log_prior, jnp.concatenate([coefficients.reshape(-1), *(x[None] for x in shared.values())])


@bounded_jit(static_argnums=0)
def _natural_at(rest: Rest, inputs: _Inputs, u):
    return _latents(rest, inputs, u)[1]


@bounded_jit(static_argnums=0)
def _rest_at(rest: Rest, inputs: _Inputs, u, pull):
    """Of log prior + pull' n: the first term, the gradient, the Jacobian of n and the Hessian."""

    def pulled(u):
        log_prior, natural = _latents(rest, inputs, u)
        return log_prior + jnp.vdot(pull, natural)

    def along(tangent):
        return jvp(lambda u: _latents(rest, inputs, u)[1], (u,), (tangent,))[1], hvp(pulled, (u,), (tangent,))

    jacobian, hessian = jax.vmap(along)(jnp.eye(len(u)))
    return _latents(rest, inputs, u)[0], grad(pulled)(u), jacobian.T, hessian


@bounded_jit(static_argnums=(0, 1))
def _rows_at(family: Family, names: Sequence[str], rows: Rows, blocks, num, coefficients, shared):
    """The log likelihood of some blocks of rows, its gradient in the natural vector, and its Hessian by parts.

    Args:
        blocks: numbers of blocks, int32; the first `num` of them are summed. So the same program does for a subsample and for all rows.
    """
    length, size = len(rows.design), min(BLOCK, len(rows.design))

    def block(k):
        first = jnp.minimum(blocks[k] * BLOCK, length - size)
        design, offset, params = jax.tree.map(lambda x: block_of(x, first, size), rows, is_leaf=on_host)
        fresh = first + jnp.arange(size) >= blocks[k] * BLOCK  # the last block is moved back to fit
        x = wide(design)
        eta = x @ coefficients + wide(offset)
        by_row = tuple(jnp.broadcast_to(s, (size,)) for s in shared)

        def total(at):
            eta, *shared = at
            return jnp.where(fresh, log_likelihood(family, eta, {**params, **dict(zip(names, shared, strict=True))}), 0).sum()

        at = (eta, *by_row)
        value, slopes = value_and_grad(total)(at)
        bent = jnp.stack([columns(hvp(total, (at,), (along,))) for along in directions(at)])  # (size, size, n)
        k = bent.shape[0] - len(names)  # predictors
        grams = [product(x.T, bent[i, j][:, None] * x) for i in range(k) for j in range(k)]
        first = jnp.stack(grams).reshape(k, k, *grams[0].shape)
        mixed = bent[k:, :k] @ x
        gradient = jnp.concatenate([(x.T @ slopes[0]).reshape(-1), *(s.sum()[None] for s in slopes[1:])])
        return value, gradient, (first, mixed, bent[k:, k:].sum(-1))

    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(block, 0))
    return lax.fori_loop(0, num, lambda k, sum: jax.tree.map(jnp.add, sum, block(k)), nothing)


def directions(at):
    """For each predictor and each shared parameter, the direction of it in all rows at once."""
    zeros = jax.tree.map(jnp.zeros_like, at)
    eta, *shared = zeros
    predictors = [jnp.ones_like(eta)] if eta.ndim == 1 else [eta.at[:, k].set(1) for k in range(eta.shape[1])]
    yield from ((p, *shared) for p in predictors)
    for k in range(len(shared)):
        yield tuple(jnp.ones_like(x) if i == k + 1 else x for i, x in enumerate(zeros))


def columns(at):
    """By predictor and shared parameter, (size, n)."""
    eta, *shared = at
    return jnp.stack([eta, *shared]) if eta.ndim == 1 else jnp.concatenate([eta.T, *(s[None] for s in shared)])


def _assembled(first, mixed, last) -> np.ndarray:
    """One matrix over the natural vector, in which a coefficient's predictors stand side by side."""
    num, d = first.shape[0], first.shape[-1]
    top = np.transpose(first, (2, 0, 3, 1)).reshape(d * num, d * num)
    side = np.transpose(mixed, (0, 2, 1)).reshape(len(last), d * num)
    return np.block([[top, side.T], [side, np.asarray(last).reshape(len(side), len(side))]])


def find_mode(factor: Factor, rest: Rest, constants: Any, dim: int) -> Laplace:
    """The mode of the posterior.

    Raises:
        SamplerError: there is no mode at a finite point.
    """
    affine = (factor.coefficient_matrix, factor.coefficient_offset) if rest.affine else ()
    inputs = _Inputs(factor.data, constants, affine)
    size = int(np.prod(rest.shape))
    queries = 0

    num = -(-len(factor.rows.design) // BLOCK)
    order = np.random.default_rng(0).permutation(num).astype(np.int32)

    def at(u, some: int) -> _Model:
        nonlocal queries
        queries += min(some * BLOCK, len(factor.rows.design))
        natural = np.asarray(_natural_at(rest, inputs, u))
        shared = tuple(natural[size:])
        found = _rows_at(factor.family, rest.names, factor.rows, order, some, natural[:size].reshape(rest.shape), shared)
        value, pull, parts = jax.tree.map(lambda x: num / some * np.asarray(x), found)
        prior, gradient, jacobian, hessian = (np.asarray(x) for x in _rest_at(rest, inputs, u, pull))
        with np.errstate(over="ignore", invalid="ignore"):  # a step that went too far, and is halved
            hessian = -hessian - jacobian.T @ _assembled(*parts) @ jacobian
        return _Model(value + prior, gradient, (hessian + hessian.T) / 2, natural, jacobian)

    u = np.zeros(dim)
    if num > 2 * _SUBSAMPLE:
        u, _ = _newton(lambda u: at(u, _SUBSAMPLE), u, factor)
    u, found = _newton(lambda u: at(u, num), u, factor)

    def bend_of(slope: Any, hessian: Any) -> np.ndarray:
        bend = -np.asarray(_rest_at(rest, inputs, u, jnp.asarray(slope))[3]) - found.jacobian.T @ np.asarray(hessian) @ found.jacobian
        return (bend + bend.T) / 2

    return Laplace(u, found.hessian, found.natural, found.jacobian, bend_of, queries)


def scaled_eigh(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(values, vectors V) with V^-T diag(values) V^-1 = matrix, (dim, dim) symmetric, and inverse V diag(1 / values) V^T.

    They are those of D matrix D, with D the diagonal matrix that makes its diagonal 1 if the matrix is positive definite, and V = D times
    eigenvectors. So neither depends on the units of the coordinates, and a value is small only where coordinates nearly determine one
    another: with columns of 1e-6 and 1e6 the eigenvalues of the matrix itself would differ by 1e24.
    """
    diagonal = np.abs(np.diag(matrix))
    with np.errstate(divide="ignore", invalid="ignore"):  # an off-diagonal element in place of a diagonal one that nearly vanishes
        size = np.nan_to_num(matrix**2 / diagonal, nan=0.0, posinf=0.0).max(1, initial=0.0)
    scale = 1 / np.sqrt(np.where(size > 0, size, 1.0))
    values, vectors = np.linalg.eigh(scale[:, None] * matrix * scale)
    return values, scale[:, None] * vectors


def _newton(at: Callable[[np.ndarray], _Model], u: np.ndarray, factor: Factor) -> tuple[np.ndarray, _Model]:
    """Maximises, by steps along |Hessian|^-1 gradient with halving."""
    here = at(u)
    for _ in range(_MAX_NEWTON):
        if not np.isfinite(here.value) or not np.isfinite(here.gradient).all() or not np.isfinite(here.hessian).all():
            break
        values, vectors = scaled_eigh(here.hessian)
        step = vectors @ ((here.gradient @ vectors) / np.maximum(np.abs(values), SMALLEST))
        decrement = here.gradient @ step
        if decrement < _CLOSE and values[0] > SMALLEST:
            return u, here
        length, trial = 1.0, at(u + step)
        while not (np.isfinite(trial.value) and trial.value >= here.value + 1e-4 * length * decrement - 1e-10 * abs(here.value)):
            length /= 2
            if length < 1e-10:
                break
            trial = at(u + length * step)
        if length < 1e-10 and decrement < _NEAR and values[0] > SMALLEST:  # a kink, as a Laplace prior has at 0; or rounding
            return u, here
        u, here = u + length * step, trial
    steepest = np.abs(here.gradient).max()
    raise SamplerError(
        f"FlyMC: no mode of the posterior was found: after {_MAX_NEWTON} Newton steps the gradient still is {steepest:.3g}. Either site "
        f"{factor.site!r} ({factor.site_line}) and the priors have no mode at a finite point (perfectly separated classes without a "
        "prior), or the posterior is not log-concave near its centre, even with latent scales factored out; give proper priors, or use "
        "lc.NUTS."
    )
