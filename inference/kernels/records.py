"""What a chain carries and what it emits: the seam between kernels, batching and the host loop.

Every record here describes *one* chain; batching adds a leading chain axis to each field.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from ...transforms.streams import Stream
from .adaptation import Adaptation, Schedule
from .metric import Metric

__all__ = ["ChainState", "Draw", "Plan", "Tuning", "with_vectors"]

Number = Any  # a NumPy value outside of compiled programs, a JAX array inside


class ChainState(NamedTuple):
    """All that a resumed run needs of a chain, and nothing else.

    Attributes:
        position: (dim,). Unconstrained.
        log_density: (). Nats, of the unconstrained position, Jacobian included.
        gradient: (dim,). Of the log density; (0,) for kernels that do not use it.
        step_size: (). Used by the next transition.
        metric: the Euclidean metric used by the next transition.
        adaptation: running averages of the warm-up.
        stream: the chain's randomness; its counter is the index of the next transition, warm-up first.
        auxiliary: what the density is conditional on besides the data, and what it counts; () for a model's own density.
    """

    position: jax.Array
    log_density: jax.Array
    gradient: jax.Array
    step_size: jax.Array
    metric: Metric
    adaptation: Adaptation
    stream: Stream
    auxiliary: Any = ()


def with_vectors(state: ChainState, function: Callable[[Any], Any], uses_gradient: bool = True) -> ChainState:
    """A state whose vectors over the coordinates are what a function makes of them; the others of its arrays stay as they are.

    Args:
        state: of one chain, or of many.
        function: (..., dim) -> anything. Of a dense metric (..., dim, dim).
        uses_gradient: of the kernel; the gradient of one that uses none is empty, and stays so.
    """
    adaptation = state.adaptation
    welford = adaptation.welford
    return state._replace(
        position=function(state.position),
        gradient=function(state.gradient) if uses_gradient else state.gradient,
        metric=state.metric._replace(inverse_mass=function(state.metric.inverse_mass), factor=function(state.metric.factor)),
        adaptation=adaptation._replace(welford=welford._replace(mean=function(welford.mean), scatter=function(welford.scatter))),
    )


class Draw(NamedTuple):
    """What one transition emits.

    Attributes:
        position: (dim,). Unconstrained.
        stats: by name, each of shape (). All kernels: `n_steps` (int, evaluations of the log density, with gradient where the kernel
            uses it) and `lp` (nats). NUTS and HMC: `diverging` (bool), `acceptance_rate` (mean over the trajectory), `energy` (nats,
            minus log density plus kinetic energy), `step_size` (used by this transition); NUTS adds `tree_depth` (doublings begun).
            Slice: `nstep_out`, `nstep_in` (int, times that an interval grew and shrank). EllipticalSlice: `theta` (radians moved).
            FlyMC: `n_bright`, `n_queries` (int, likelihoods of rows evaluated); `lp` is that of the parameters and the bright rows.
    """

    position: jax.Array
    stats: dict[str, jax.Array]


class Tuning(NamedTuple):
    """The settings that enter a compiled program at run time, so that changing them compiles nothing.

    Attributes:
        step_size: (). First step size.
        inverse_mass_matrix: (dim,) or (dim, dim). First inverse mass matrix; its rank is static.
        target_accept_prob: ().
        adapt_step_size: bool, ().
        adapt_metric: bool, ().
        options: arrays, or tuples of them, by name that only one kernel knows.
    """

    step_size: Number
    inverse_mass_matrix: Number
    target_accept_prob: Number
    adapt_step_size: Number
    adapt_metric: Number
    options: dict[str, Any]


class Plan(NamedTuple):
    """What a run intends, in run-time values.

    Attributes:
        schedule: the warm-up.
        tuning: the kernel's settings.
        thinning: int32, (). Every `thinning`-th transition is kept.
        keep_warmup: bool, (). Whether warm-up transitions are kept too.
    """

    schedule: Schedule
    tuning: Tuning
    thinning: Number
    keep_warmup: Number
