"""The path of all restarts, as programs on the device.

    u_0 ~ q_0,    u_{t+1} = u_t - a_t S g',    g' = S' grad f(u_t), thresholded if asked for

q_0 is the prior, and f the negative log likelihood; or q_0 is a normal distribution at a fit, and f the negative log joint density. Each
step leaves behind, for every restart, what the bound is made of: log likelihood and log prior at u_t and log|det J_t|, or one estimate of
it. A call of `advance` goes through as many steps as it is told, in one loop, and writes into buffers of a fixed size; so one
compiled program serves runs of any length. All random numbers are functions of (key, restart, step) and of nothing else. Restarts that
are split over devices (`Path.place`) are those of one device below.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec

from ...transforms.bounded import bounded_jit
from ..run.placement import Placement
from .batches import Batches
from .curvature import climb, start_direction
from .estimators import LIMITS, Order
from .objective import Objective
from .spread import over_devices
from .starts import Normal, restart_keys, start_at
from .steps import Rule, move, step

__all__ = ["CAPACITY", "CHOOSE", "Data", "Path", "State", "Track", "advance", "begin", "chooses", "compensated"]

CAPACITY = 256
"""Steps that one call of `advance` has buffers for."""

CHOOSE = 4
"""Where a path ends at the peak of its bound, every fourth restart chooses the peak and the others report the bound there."""


@dataclass(frozen=True)
class Path:
    """What the programs are compiled for.

    Attributes:
        objective: the model on all rows. batches: on a batch; None if every step sees all rows. held_out: on the test data, or None.
        joint: whether f has the prior in it.
        peak: whether the device looks for the step where the bound is largest, and keeps positions there; else after the last step.
        order, num_probes: of the estimator.
        fresh: whether every restart has minibatches of its own.
        evaluate_every, check_every: steps between two log likelihoods of all rows, and between two looks at the curvature.
        place: the devices over which restarts are split; None if they are together.
    """

    objective: Objective
    batches: Batches | None
    held_out: Objective | None
    joint: bool
    peak: bool
    order: Order
    num_probes: int
    fresh: bool
    evaluate_every: int
    check_every: int
    place: Placement | None = None

    @property
    def num_rows(self) -> int:
        """Length of the last axis of `State.rows`."""
        return self.batches.num_rows if self.batches else 0


def chooses(num_restarts: int) -> Any:
    """Bool, (restart,): which restarts choose the peak. The others report the bound there; if there are too few, all do both."""
    return np.arange(num_restarts) % CHOOSE == 0 if num_restarts > CHOOSE else np.ones(num_restarts, bool)


class Data(NamedTuple):
    """Arrays for the programs. train, test: of the models. start: None is the prior. rule: of the steps. last: number of steps."""

    train: Sequence[Any]
    test: Sequence[Any]
    start: Normal | None
    rule: Rule
    last: Any


class State(NamedTuple):
    """All restarts between two steps.

    Attributes:
        position: (restart, dim). step: (), of the position.
        log_start: (restart,), log q_0. log_det: (restart,), sum so far; lost: (restart,), what rounding took from it.
        best, best_mean, best_step: positions (restart, dim) where the path ends as far as is known, the mean of the bound, and the step.
        alive: (restart,), whether everything has been finite, and the guard has seen no step that is too long.
        guard: (restart, dim), directions of the largest curvature seen. keys: (restart,). batch_key: for shared batches.
        rows: (num_rows,) or (restart, num_rows), the order in which this epoch takes them.
    """

    position: jax.Array
    step: jax.Array
    log_start: jax.Array
    log_det: jax.Array
    lost: jax.Array
    best: jax.Array
    best_mean: jax.Array
    best_step: jax.Array
    alive: jax.Array
    guard: jax.Array
    keys: jax.Array
    batch_key: jax.Array
    rows: jax.Array

    @classmethod
    def specs(cls, restarts: PartitionSpec, fresh: bool) -> "State":
        """How each is split where restarts are."""
        same = ("step", "best_mean", "best_step", "batch_key", *([] if fresh else ["rows"]))
        specs: dict[str, Any] = dict.fromkeys(cls._fields, restarts) | dict.fromkeys(same, PartitionSpec())
        return cls(**specs)


class Track(NamedTuple):
    """What a step leaves, (restart,) each, in nats; NaN where it was not computed. In a chunk (CAPACITY, restart).

    Attributes:
        loss: negative log likelihood, of all rows or estimated from the batch. log_likelihood: of all rows.
        log_prior: at the position. log_det: for the step away from it. test: log likelihood of the test data.
        curvature: largest eigenvalue of A, of B for "reference"; as far as it was seen, all of it for "exact".
    """

    loss: Any
    log_likelihood: Any
    log_prior: Any
    log_det: Any
    test: Any
    curvature: Any


@bounded_jit(static_argnums=(0, 1, 2, 3))
def begin(objective: Objective, num_rows: int, fresh: bool, place: Placement | None, data: Data, key: jax.Array, numbers: Any) -> State:
    """Restarts drawn from q_0; restart i is the same however many there are.

    Args:
        objective, num_rows, fresh, place: static, of the path. numbers: of the restarts, (restart,), uint32.
    """
    function, whole = partial(_begin, objective, num_rows, fresh), PartitionSpec()
    return over_devices(place, function, lambda r: (whole, whole, r), partial(State.specs, fresh=fresh))(data, key, numbers)


def _begin(objective: Objective, num_rows: int, fresh: bool, data: Data, key: jax.Array, numbers: jax.Array) -> State:
    dtype, num_restarts = objective.layout.dtype, len(numbers)
    draw_keys, guard_keys, probe_keys = jnp.moveaxis(jax.vmap(partial(restart_keys, key))(numbers), 1, 0)
    position, log_start, _ = jax.vmap(partial(start_at, objective, data.train, data.start))(draw_keys)
    zeros = jnp.zeros((num_restarts,), dtype)
    return State(
        position=position,
        step=jnp.int32(0),
        log_start=log_start,
        log_det=zeros,
        lost=zeros,
        best=position,
        best_mean=jnp.asarray(-jnp.inf, dtype),
        best_step=jnp.int32(0),
        alive=jnp.ones((num_restarts,), bool),
        guard=jax.vmap(lambda k: start_direction(k, objective.layout.dim, dtype))(guard_keys),
        keys=probe_keys,
        batch_key=jax.random.fold_in(key, 2**32 - 1),
        rows=jnp.zeros((num_restarts, num_rows) if fresh else (num_rows,), jnp.int32),
    )


@bounded_jit(static_argnums=0, donate_argnums=1)
def advance(path: Path, state: State, data: Data, step_sizes: jax.Array, number: jax.Array) -> tuple[State, Track]:
    """The next `number` steps, at most CAPACITY of them.

    Args:
        path: static. state: at the first of them. data: of the models.
        step_sizes: (CAPACITY,), of these steps, a.
    """
    whole = PartitionSpec()

    def in_specs(restarts: PartitionSpec) -> Any:
        return State.specs(restarts, path.fresh), whole, whole, whole

    def out_specs(restarts: PartitionSpec) -> Any:
        return State.specs(restarts, path.fresh), PartitionSpec(None, *restarts)

    return over_devices(path.place, partial(_advance, path), in_specs, out_specs)(state, data, step_sizes, number)


def _advance(path: Path, state: State, data: Data, step_sizes: jax.Array, number: jax.Array) -> tuple[State, Track]:
    prepared = path.objective.prepare(data.train) if path.batches is None else None
    prepared_test = path.held_out.prepare(data.test) if path.held_out else None
    empty = jnp.zeros((CAPACITY, *state.alive.shape), state.position.dtype)

    def body(i, carry):
        state, tracks = carry
        state, track = _step(path, state, data, prepared, prepared_test, step_sizes[i])
        return state, Track(*(rows.at[i].set(row) for rows, row in zip(tracks, track, strict=True)))

    return lax.fori_loop(0, number, body, (state, Track(*[empty] * len(Track._fields))))


def _step(path: Path, state: State, data: Data, prepared, prepared_test, step_size) -> tuple[State, Track]:
    over_restarts, state = _loss(path, state, data, prepared)
    evaluated = (state.step % path.evaluate_every == 0) | (state.step == data.last)
    moved, value, log_det, curvature = _move(path, state, over_restarts, data.rule, step_size)
    log_prior = jax.vmap(partial(path.objective.log_prior, data.train))(state.position)
    loss = value + log_prior if path.joint else value
    log_likelihood = -loss if path.batches is None else _now_and_then(evaluated, partial(_of_all_rows, path, data), state, loss)
    test = jnp.full_like(value, jnp.nan)
    if path.held_out is not None:
        test = _now_and_then(evaluated, partial(_of_test, path.held_out, prepared_test), state, value)
    guard = state.guard
    if path.order != "exact":
        guard, curvature = _watch(path, state, over_restarts, data.rule, step_size)
    finite = jnp.isfinite(value) & jnp.isfinite(log_prior) & (jnp.isfinite(log_likelihood) | ~evaluated)
    state = state._replace(alive=state.alive & finite)
    state = _keep_best(path, state, log_likelihood + (log_prior - state.log_start) + state.log_det, evaluated, data.last)
    total, lost = compensated(state.log_det, log_det, state.lost)
    too_long = curvature > LIMITS[path.order]  # False where it is NaN: not looked at
    alive = state.alive & jnp.isfinite(log_det) & ~too_long
    state = state._replace(position=moved, step=state.step + 1, log_det=total, lost=lost, alive=alive, guard=guard)
    return state, Track(loss, log_likelihood, log_prior, log_det, test, curvature)


def _loss(path: Path, state: State, data: Data, prepared) -> tuple[Callable[..., Any], State]:
    """The loss f of this step: how to map a function of (f, arrays of one restart) over restarts; and the state with the epoch's rows."""
    batches, objective = path.batches, path.objective

    if batches is None:

        def over_restarts(function, *arrays):
            return jax.vmap(partial(function, lambda u: objective.loss(prepared, data.train, u, path.joint)))(*arrays)

        return over_restarts, state
    epoch, place = state.step // batches.count, state.step % batches.count
    rows = lax.cond(place == 0, partial(_shuffled, path, batches.num_rows, state, epoch), lambda: state.rows)
    now = lax.dynamic_slice_in_dim(rows, place * batches.size, batches.size, axis=-1)

    def with_batch(function, some, *arrays):
        prepared = batches.objective.prepare(batches.gather(data.train, some))

        def loss(u):
            scaled = -batches.count * batches.objective.log_likelihood(prepared, u)
            return objective.with_prior(scaled, data.train, u, path.joint)

        return function(loss, *arrays)

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


def _move(path: Path, state: State, over_restarts, rule: Rule, step_size):
    """Positions after the step, losses before it, log|det J| or its estimates, and largest eigenvalues if all are computed."""

    def one(loss, u, key):
        return move(rule, loss, u, step_size, path.order, path.num_probes, jax.random.fold_in(key, state.step))

    return over_restarts(one, state.position, state.keys)


def _watch(path: Path, state: State, over_restarts, rule: Rule, step_size) -> tuple[jax.Array, jax.Array]:
    """The guards after a look at this step, and what they saw; NaN if it is not the time to look."""

    def one(loss, u, guard):
        return climb(guard, step(rule, loss, u, step_size).product, state.step == 0)

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


def _keep_best(path: Path, state: State, evidence, evaluated, last) -> State:
    """Keeps the positions after the last step; or, for a path that ends at its peak, where the bound of those who choose was largest."""
    if not path.peak:
        ended = state.step == last
        best = jnp.where(ended, state.position, state.best)
        return state._replace(best=best, best_step=jnp.where(ended, state.step, state.best_step))
    choosing = jnp.asarray(chooses(state.alive.shape[0]))
    counted = choosing & state.alive & jnp.isfinite(evidence)
    number = jnp.sum(counted)
    mean = jnp.sum(jnp.where(counted, evidence, 0)) / number + jnp.log(number / jnp.sum(choosing))
    better = evaluated & (mean > state.best_mean)  # False where nobody counts: NaN
    return state._replace(
        best=jnp.where(better, state.position, state.best),
        best_mean=jnp.where(better, mean, state.best_mean),
        best_step=jnp.where(better, state.step, state.best_step),
    )


def compensated(total, term, lost):
    """The sum and what rounding took from it, Kahan's: a long path in float32 keeps its last digits."""
    term = term - lost
    new = total + term
    return new, (new - total) - term
