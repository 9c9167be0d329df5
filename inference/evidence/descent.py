"""The path of all restarts, as programs on the device.

    u_0 ~ prior,    u_{t+1} = u_t - a_t g'(u_t),    g' the gradient of the negative log likelihood, thresholded if asked for

Each step leaves behind, for every restart, what the bound is made of: log likelihood and log prior at u_t and one estimate of
log|det J_t|. A call of `advance` goes through as many steps as it is told, in one loop, and writes into buffers of a fixed size; so one
compiled program serves runs of any length. All random numbers are functions of (key, restart, step) and of nothing else.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ...transforms import jvp, linearize, value_and_grad
from ...transforms.bounded import bounded_jit
from .batches import Batches
from .curvature import climb, start_direction
from .estimators import LIMITS, Order, log_det_estimate, threshold
from .objective import Objective

__all__ = ["CAPACITY", "Data", "Path", "State", "Track", "advance", "begin"]

CAPACITY = 256
"""Steps that one call of `advance` has room for."""


@dataclass(frozen=True)
class Path:
    """What the programs are compiled for.

    Attributes:
        objective: the model on all rows. batches: on a batch; None if every step sees all rows. held_out: on the test data, or None.
        order, num_probes: of the estimator. thresholded: whether the gradient is.
        fresh: whether every restart has minibatches of its own.
        evaluate_every, check_every: steps between two log likelihoods of all rows, and between two looks at the curvature.
    """

    objective: Objective
    batches: Batches | None
    held_out: Objective | None
    order: Order
    num_probes: int
    thresholded: bool
    fresh: bool
    evaluate_every: int
    check_every: int

    def rows_shape(self, num_restarts: int) -> tuple[int, ...]:
        """Shape of `State.rows`."""
        num_rows = self.batches.num_rows if self.batches else 0
        return (num_restarts, num_rows) if self.fresh else (num_rows,)


class Data(NamedTuple):
    """Arrays that the programs are given. train, test: of the models. threshold: width, nats per unit of u. last: number of steps."""

    train: Sequence[Any]
    test: Sequence[Any]
    threshold: Any
    last: Any


class State(NamedTuple):
    """All restarts between two steps.

    Attributes:
        position: (restart, dim). step: (), of the position.
        log_prior: (restart,), at step 0. log_det: (restart,), sum so far; lost: (restart,), what rounding took from it.
        best, best_mean, best_step: positions (restart, dim) where the mean over restarts has been largest, that mean, and the step.
        alive: (restart,), whether everything has been finite. in_range: (), whether the guard has seen no step that is too long.
        guard: (restart, dim), directions of the largest curvature seen. keys: (restart,). batch_key: for shared batches.
        rows: (num_rows,) or (restart, num_rows), the order in which this epoch takes them.
    """

    position: jax.Array
    step: jax.Array
    log_prior: jax.Array
    log_det: jax.Array
    lost: jax.Array
    best: jax.Array
    best_mean: jax.Array
    best_step: jax.Array
    alive: jax.Array
    in_range: jax.Array
    guard: jax.Array
    keys: jax.Array
    batch_key: jax.Array
    rows: jax.Array


class Track(NamedTuple):
    """What a step leaves, (restart,) each, in nats; NaN where it was not computed. In a chunk (CAPACITY, restart).

    Attributes:
        loss: negative log likelihood, of all rows or estimated from the batch. log_likelihood: of all rows.
        log_prior: at the position. log_det: estimate for the step away from it. test: log likelihood of the test data.
        curvature: step size times largest eigenvalue of the Hessian.
    """

    loss: Any
    log_likelihood: Any
    log_prior: Any
    log_det: Any
    test: Any
    curvature: Any


@bounded_jit(static_argnums=(0, 1, 2))
def begin(objective: Objective, num_restarts: int, rows_shape: tuple[int, ...], train: Sequence[Any], key: jax.Array) -> State:
    """Restarts drawn from the prior; restart i is the same however many there are."""
    dtype = objective.layout.dtype
    keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(num_restarts, dtype=jnp.uint32))
    draw_keys, guard_keys, probe_keys = jnp.moveaxis(jax.vmap(lambda k: jax.random.split(k, 3))(keys), 1, 0)
    position = jax.vmap(partial(objective.draw, train))(draw_keys)
    zeros = jnp.zeros((num_restarts,), dtype)
    return State(
        position=position,
        step=jnp.int32(0),
        log_prior=jax.vmap(partial(objective.log_prior, train))(position),
        log_det=zeros,
        lost=zeros,
        best=position,
        best_mean=jnp.asarray(-jnp.inf, dtype),
        best_step=jnp.int32(0),
        alive=jnp.ones((num_restarts,), bool),
        in_range=jnp.asarray(True),
        guard=jax.vmap(lambda k: start_direction(k, objective.layout.dim, dtype))(guard_keys),
        keys=probe_keys,
        batch_key=jax.random.fold_in(key, 2**32 - 1),
        rows=jnp.zeros(rows_shape, jnp.int32),
    )


@bounded_jit(static_argnums=0, donate_argnums=1)
def advance(path: Path, state: State, data: Data, step_sizes: jax.Array, number: jax.Array) -> tuple[State, Track]:
    """The next `number` steps, at most CAPACITY of them.

    Args:
        path: static. state: at the first of them. data: of the models.
        step_sizes: (CAPACITY,), of these steps, per nat.
    """
    prepared = path.objective.prepare(data.train) if path.batches is None else None
    prepared_test = path.held_out.prepare(data.test) if path.held_out else None
    empty = jnp.zeros((CAPACITY, *state.alive.shape), state.position.dtype)

    def body(i, carry):
        state, tracks = carry
        state, track = _step(path, state, data, prepared, prepared_test, step_sizes[i])
        return state, Track(*(rows.at[i].set(row) for rows, row in zip(tracks, track, strict=True)))

    return lax.fori_loop(0, number, body, (state, Track(*[empty] * len(Track._fields))))


def _step(path: Path, state: State, data: Data, prepared, prepared_test, step_size) -> tuple[State, Track]:
    loss, state = _loss(path, state, data, prepared)
    evaluated = (state.step % path.evaluate_every == 0) | (state.step == data.last)
    moved, value, log_det = _move(path, state, loss, data.threshold, step_size)
    log_prior = jax.vmap(partial(path.objective.log_prior, data.train))(state.position)
    log_likelihood = -value if path.batches is None else _now_and_then(evaluated, partial(_of_all_rows, path, data), state, value)
    test = jnp.full_like(value, jnp.nan)
    if path.held_out is not None:
        test = _now_and_then(evaluated, partial(_of_test, path.held_out, prepared_test), state, value)
    guard, curvature = _watch(path, state, loss, data.threshold, step_size)
    state = _keep_best(state, log_likelihood + (log_prior - state.log_prior) + state.log_det, evaluated)
    alive = state.alive & jnp.isfinite(value) & jnp.isfinite(log_prior) & jnp.isfinite(log_det)
    total, lost = _compensated(state.log_det, log_det, state.lost)
    too_long = jnp.any(jnp.where(alive, curvature, 0) > LIMITS[path.order])  # False where it is NaN: not looked at
    state = state._replace(
        position=moved, step=state.step + 1, log_det=total, lost=lost, alive=alive, guard=guard, in_range=state.in_range & ~too_long
    )
    return state, Track(value, log_likelihood, log_prior, log_det, test, curvature)


def _loss(path: Path, state: State, data: Data, prepared) -> tuple[Callable[..., Any], State]:
    """The loss of this step: how to map a function of (loss, arrays of one restart) over restarts; and the state with the epoch's rows."""
    batches = path.batches
    if batches is None:
        objective = path.objective

        def over_restarts(function, *arrays):
            return jax.vmap(partial(function, lambda u: -objective.log_likelihood(prepared, u)))(*arrays)

        return over_restarts, state
    epoch, place = state.step // batches.count, state.step % batches.count
    rows = lax.cond(place == 0, partial(_shuffled, path, batches.num_rows, state, epoch), lambda: state.rows)
    now = lax.dynamic_slice_in_dim(rows, place * batches.size, batches.size, axis=-1)

    def with_batch(function, some, *arrays):
        prepared = batches.objective.prepare(batches.gather(data.train, some))
        return function(lambda u: -batches.count * batches.objective.log_likelihood(prepared, u), *arrays)

    def over_restarts(function, *arrays):
        if path.fresh:
            return jax.vmap(partial(with_batch, function))(now, *arrays)
        return with_batch(lambda loss, *arrays: jax.vmap(partial(function, loss))(*arrays), now, *arrays)

    return over_restarts, state._replace(rows=rows)


def _shuffled(path: Path, num_rows: int, state: State, epoch) -> jax.Array:
    """The order of an epoch's rows: one for all restarts, or one for each."""

    def order(key):
        return jax.random.permutation(jax.random.fold_in(key, epoch), jnp.arange(num_rows, dtype=jnp.int32))

    if path.fresh:
        return jax.vmap(lambda key: order(jax.random.fold_in(key, 2**32 - 1)))(state.keys)
    return order(state.batch_key)


def _move(path: Path, state: State, over_restarts, width, step_size):
    """Positions after the step, losses before it, and the estimates of log|det J|."""

    def one(loss, u, key):
        probes = jax.random.rademacher(jax.random.fold_in(key, state.step), (path.num_probes, u.size), u.dtype)
        if path.order == 2 and path.num_probes == 1 and not path.thresholded:  # one tangent, known beforehand: nothing need be kept
            (value, gradient), (_, curved) = jvp(value_and_grad(loss), (u,), (probes[0],))
            return u - step_size * gradient, value, log_det_estimate(lambda _: step_size * curved, probes, 2)
        value, gradient, product = _expand(loss, u, path.thresholded, width, step_size)
        return u - step_size * gradient, value, log_det_estimate(product, probes, path.order)

    return over_restarts(one, state.position, state.keys)


def _expand(loss, u, thresholded: bool, width, step_size):
    """Loss, gradient (thresholded), and products with A = a s^1/2 H s^1/2, at u."""
    (value, gradient), hessian = linearize(value_and_grad(loss), u)
    if not thresholded:
        return value, gradient, lambda v: step_size * hessian(v)[1]
    gradient, root = threshold(gradient, width)
    return value, gradient, lambda v: step_size * root * hessian(root * v)[1]


def _watch(path: Path, state: State, over_restarts, width, step_size) -> tuple[jax.Array, jax.Array]:
    """The guards after a look at this step, and what they saw; NaN if it is not the time to look."""

    def one(loss, u, guard):
        return climb(guard, _expand(loss, u, path.thresholded, width, step_size)[2], state.step == 0)

    def unseen():
        return state.guard, jnp.full_like(state.log_det, jnp.nan)

    return lax.cond(state.step % path.check_every == 0, lambda: over_restarts(one, state.position, state.guard), unseen)


def _now_and_then(evaluated, function, state: State, like) -> jax.Array:
    return lax.cond(evaluated, function, lambda _: jnp.full_like(like, jnp.nan), state.position)


def _of_all_rows(path: Path, data: Data, positions) -> jax.Array:
    assert path.batches is not None
    return path.batches.log_likelihood(data.train, positions, jnp.arange(path.batches.num_rows))


def _of_test(held_out: Objective, prepared, positions) -> jax.Array:
    return jax.vmap(partial(held_out.log_likelihood, prepared))(positions)


def _keep_best(state: State, evidence, evaluated) -> State:
    """Keeps the positions if the mean over the restarts that are still finite is the largest so far, and a bound."""
    alive = state.alive & jnp.isfinite(evidence)
    mean = jnp.sum(jnp.where(alive, evidence, 0)) / jnp.maximum(jnp.sum(alive), 1)
    better = evaluated & state.in_range & jnp.any(alive) & (mean > state.best_mean)
    return state._replace(
        best=jnp.where(better, state.position, state.best),
        best_mean=jnp.where(better, mean, state.best_mean),
        best_step=jnp.where(better, state.step, state.best_step),
    )


def _compensated(total, term, lost):
    """Kahan's sum: a long path in float32 keeps its last digits."""
    term = term - lost
    new = total + term
    return new, (new - total) - term
