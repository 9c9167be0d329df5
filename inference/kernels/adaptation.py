"""Warm-up: when and how the step size and the metric adapt.

The plan is Stan's: a fast interval, slow windows of doubling length at whose ends the metric is replaced, a last fast interval.
Lengths enter as run-time values, so that another number of warm-up steps compiles nothing. After the last warm-up step nothing
moves any more.

Sources: Hoffman & Gelman (2014), "The No-U-Turn Sampler", section 3.2, equation (6), for the step size; Stan Reference Manual,
"HMC algorithm parameters", for the windows and the shrinkage of the metric.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ...transforms.autobatch import program
from .metric import metric_of

__all__ = [
    "Adaptation",
    "DualAveraging",
    "Schedule",
    "Welford",
    "adapting",
    "covariance_of",
    "empty_welford",
    "restart_dual_averaging",
    "start_adaptation",
    "step_size_of",
    "warmup_schedule",
]

_MAX_WINDOWS = 32  # windows double from at least one step, and an int32 counts the transitions


class Schedule(NamedTuple):
    """Which transition adapts what.

    Attributes:
        num_warmup: int32, (). Transitions [0, num_warmup) are warm-up.
        slow_start, slow_end: int32, (). Transitions in [slow_start, slow_end) feed the metric's estimate.
        window_ends: int32, (32,). Last transition of each slow window; -1 fills up.
    """

    num_warmup: np.ndarray | np.integer
    slow_start: np.ndarray | np.integer
    slow_end: np.ndarray | np.integer
    window_ends: np.ndarray


def warmup_schedule(num_warmup: int, max_start: int | None = None, first_window: int | None = None) -> Schedule:
    """Stan's windows for `num_warmup` transitions: 75, 25, 50, 100, ..., 50.

    Below 150 steps the parts keep 15 %, 75 % and 10 %; below 20 the metric is left alone.

    Args:
        num_warmup: transitions of the warm-up.
        max_start: bounds the first fast interval; what it loses is slow.
        first_window: length of the first slow window; None takes Stan's.
    """
    start, size, end = 75, 25, 50
    if num_warmup < start + size + end:
        start, end = int(0.15 * num_warmup), int(0.1 * num_warmup)
        size = num_warmup - start - end
    start = start if max_start is None else min(start, max_start)
    size = first_window or size
    slow_end = num_warmup - end
    window_ends = np.full(_MAX_WINDOWS, -1, np.int32)
    if num_warmup < 20:
        start = slow_end = 0
    position, window = start, 0
    while position < slow_end:
        if 3 * size > slow_end - position:  # the next, twice as long, would not fit: take all that is left
            size = slow_end - position
        position += size
        window_ends[window] = position - 1
        window, size = window + 1, 2 * size
    return Schedule(np.int32(num_warmup), np.int32(start), np.int32(slow_end), window_ends)


class DualAveraging(NamedTuple):
    """The step size's running averages.

    Attributes:
        log_average: (). Weighted average of the log step size; its exponential is used once warm-up is over.
        gap: (). Weighted average of target minus realised acceptance.
        centre: (). mu: the log step size that the iterates shrink to, log(10 * step size at the last restart).
        count: int32, (). Updates since the last restart.
    """

    log_average: jax.Array
    gap: jax.Array
    centre: jax.Array
    count: jax.Array


class Welford(NamedTuple):
    """Running moments of the positions in the current slow window.

    Attributes:
        mean: (dim,).
        scatter: (dim,) or (dim, dim). Sum of squared deviations.
        count: int32, ().
    """

    mean: jax.Array
    scatter: jax.Array
    count: jax.Array


class Adaptation(NamedTuple):
    """All that warm-up remembers between transitions."""

    dual_averaging: DualAveraging
    welford: Welford


def start_adaptation(step_size: jax.Array, inverse_mass: jax.Array) -> Adaptation:
    """Empty averages around a first step size, shape (), and for a metric of `inverse_mass`'s shape."""
    return Adaptation(restart_dual_averaging(step_size), empty_welford(inverse_mass))


def adapting(schedule: Schedule, tuning):
    """The program that adapts a chain after each transition, and leaves everything as it is once warm-up is over.

    Args:
        schedule, tuning: the run's plan.

    Returns:
        A program of the step size (), metric and adaptation that the transition was made with, its number, int32 (), its mean
        acceptance probability () and its result (dim,); it returns (step size, metric, adaptation) for the next transition.
    """

    @program
    def adapt(step_size, metric, adaptation, index, acceptance_rate, position):
        if index < schedule.num_warmup:
            gap = tuning.target_accept_prob - acceptance_rate
            averages, log_step = _update_dual_averaging(adaptation.dual_averaging, gap)
            welford = adaptation.welford
            if tuning.adapt_step_size:
                log_step = averages.log_average if index == schedule.num_warmup - 1 else log_step
                step_size = step_size_of(log_step)
            if tuning.adapt_metric and schedule.slow_start <= index < schedule.slow_end:
                welford = _update_welford(welford, position)
                if (schedule.window_ends == index).any():
                    metric = metric_of(covariance_of(welford))
                    welford = empty_welford(welford.scatter)
                    averages = restart_dual_averaging(step_size)
            adaptation = Adaptation(averages, welford)
        return step_size, metric, adaptation

    return adapt


def step_size_of(log_step):
    """The step size, positive and finite, of a logarithm, ()."""
    return jnp.clip(jnp.exp(log_step), jnp.finfo(log_step.dtype).tiny, jnp.finfo(log_step.dtype).max)


def restart_dual_averaging(step_size):
    """Averages that have seen nothing, around a step size, ()."""
    zero = jnp.zeros_like(step_size)
    # The sum of logarithms stays finite where the product 10 * step_size would not.
    return DualAveraging(zero, zero, jnp.log(step_size) + np.log(10.0).astype(step_size.dtype), jnp.int32(0))


def _update_dual_averaging(state, gap, t0=10.0, kappa=0.75, gamma=0.05):
    """Hoffman & Gelman (2014), algorithm 6; returns the averages and the log step size to try next."""
    count = state.count + 1
    t = count.astype(state.gap.dtype)
    average_gap = (1 - 1 / (t + t0)) * state.gap + gap / (t + t0)
    log_step = state.centre - jnp.sqrt(t) / gamma * average_gap
    weight = t**-kappa
    log_average = weight * log_step + (1 - weight) * state.log_average
    return DualAveraging(log_average, average_gap, state.centre, count), log_step


def empty_welford(scatter):
    """Moments of no positions, for a scatter of this shape."""
    zeros = jnp.zeros_like(scatter)
    return Welford(jnp.zeros_like(scatter, shape=scatter.shape[-1:]), zeros, jnp.int32(0))


def _update_welford(state, position):
    count = state.count + 1
    before = position - state.mean
    mean = state.mean + before / count.astype(position.dtype)
    after = position - mean
    product = before * after if state.scatter.ndim == 1 else after[:, None] * before[None, :]
    return Welford(mean, state.scatter + product, count)


def covariance_of(state):
    """The sample covariance, shrunk to 1e-3 times the identity with the weight of five observations."""
    n = state.count.astype(state.mean.dtype)
    covariance = state.scatter / jnp.maximum(n - 1, 1)
    shrinkage = 1e-3 * (5 / (n + 5))
    if covariance.ndim == 2:
        shrinkage = shrinkage * jnp.eye(covariance.shape[0], dtype=covariance.dtype)
    return (n / (n + 5)) * covariance + shrinkage
