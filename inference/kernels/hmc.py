"""Hamiltonian Monte Carlo with trajectories of a given length, accepted or rejected as a whole.

Source: Neal (2011), "MCMC using Hamiltonian dynamics", figure 2; jittered trajectories: section 5.4.2.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ...ppl import InitStrategy, init_to_uniform
from ...transforms.autobatch import program
from ...transforms.calls import answering
from ...transforms.errors import SamplerError
from ...transforms.settings import number, whole
from ...transforms.streams import Stream, normal, uniform
from .adaptation import adapting
from .coordinates import drawn
from .integrator import MAX_ENERGY_ERROR, Phase, energy, energy_error, half_kick_and_drift, kick
from .kernel import SplitTransition, TunedKernel, adaptive_tuning, check_adaptive
from .layout import Layout
from .metric import momentum
from .purposes import Purpose
from .records import ChainState, Draw, Plan, Tuning
from .words import KERNEL

__all__ = ["HMC", "HMCTransition"]

_MAX_STEPS = 1024  # bounds a trajectory of given length when the step size is still tiny


@dataclass(frozen=True)
class HMCTransition(SplitTransition):
    """The static part of the kernel; `dense_mass` says whether the metric is dense, `layout` where vectors lie split over devices."""

    dense_mass: bool
    layout: Layout | None = None

    @property
    def stats(self) -> dict[str, str]:
        return {"diverging": "bool", "n_steps": "int32", "acceptance_rate": "float", "energy": "float", "lp": "float", "step_size": "float"}

    @property
    def uses_gradient(self) -> bool:
        return True

    def noise(self, stream: Stream, position: Any) -> Any:
        return drawn(self.layout, normal, stream, Purpose.MOMENTUM, position)

    def program(self, density, plan: Plan):
        """Draws a momentum, follows the dynamics, accepts the end with probability min(1, exp(-energy error)), and adapts."""
        options = plan.tuning.options
        adapt = adapting(plan.schedule, plan.tuning)

        @program
        def transition(state, noise):
            stream, metric, dtype = state.stream, state.metric, state.position.dtype
            p = momentum(metric, noise)
            start_energy = energy(metric, state.log_density, p, self.layout)
            counted = options["num_steps"] > 0
            shortening = 1 - options["jitter"] * uniform(stream, Purpose.LENGTH, dtype=dtype)
            length = options["trajectory_length"] * shortening
            wanted = options["num_steps"].astype(dtype) * shortening if counted else length / state.step_size
            n_steps = jnp.clip(jnp.ceil(wanted), 1, _MAX_STEPS).astype(jnp.int32)
            # a trajectory of given length has that length, and not the next multiple of the step size
            step = state.step_size if counted else jnp.minimum(state.step_size, length / n_steps)
            phase, log_density, auxiliary = Phase(state.position, p, state.gradient), state.log_density, state.auxiliary
            for _ in range(n_steps):
                phase = half_kick_and_drift(metric, step, phase)
                log_density, gradient, auxiliary = density(phase.position, auxiliary)
                phase = kick(step, phase, gradient)
            end_energy = energy(metric, log_density, phase.momentum, self.layout)
            error = energy_error(end_energy, start_energy)
            acceptance_rate = jnp.minimum(jnp.exp(-error), 1)
            old = (state.position, state.log_density, state.gradient, start_energy)
            new = (phase.position, log_density, phase.gradient, end_energy)
            accepted = uniform(stream, Purpose.ACCEPT, dtype=dtype) < acceptance_rate
            position, log_density, gradient, chosen_energy = new if accepted else old
            stats = {
                "diverging": error > MAX_ENERGY_ERROR,
                "n_steps": n_steps,
                "acceptance_rate": acceptance_rate,
                "energy": chosen_energy,
                "lp": log_density,
                "step_size": state.step_size,
            }
            step_size, metric, adaptation = adapt(
                state.step_size, metric, state.adaptation, stream.counter.astype("int32"), acceptance_rate, position
            )
            stream = stream._replace(counter=stream.counter + 1)
            state = ChainState(position, log_density, gradient, step_size, metric, adaptation, stream, auxiliary)
            return state, Draw(position, stats)

        return transition


@answering("HMC", KERNEL)
@dataclass(frozen=True, eq=False)
class HMC(TunedKernel):
    """Hamiltonian Monte Carlo on a model.

    Args:
        model: a model, or a log density that already holds its data.
        num_steps: leapfrog steps of a trajectory, at most 1024; or give
        trajectory_length: length of a trajectory; 2 pi when neither is given. It is divided into as few equal steps as are no longer
            than the step size; at most 1024 are taken, of the step size then.
        jitter: in [0, 1): each trajectory is shortened by a uniform fraction up to this; breaks resonances.
        target_accept_prob, dense_mass, step_size, inverse_mass_matrix, init_strategy, adapt_step_size, adapt_mass_matrix, compress: as
            for `NUTS`.

    Raises:
        SamplerError: a setting makes no sense; names it.
    """

    model: Any
    num_steps: int | None = None
    trajectory_length: float | None = None
    jitter: float = 0.0
    target_accept_prob: float = 0.8
    dense_mass: bool = False
    step_size: float | None = None
    inverse_mass_matrix: ArrayLike | Mapping[Any, ArrayLike] | None = None
    init_strategy: InitStrategy | Callable[..., Any] = field(default_factory=init_to_uniform)
    adapt_step_size: bool | None = None
    adapt_mass_matrix: bool | None = None
    compress: str | bool = "auto"

    def __post_init__(self):
        check_adaptive(self)
        steps, length = self.num_steps, self.trajectory_length
        if steps is not None and length is not None:
            raise SamplerError("HMC: num_steps and trajectory_length are both given; give one of them.")
        if steps is not None:
            whole("HMC", "num_steps", steps, 1, _MAX_STEPS, write="write num_steps=10")
        if length is not None:
            number("HMC", "trajectory_length", length, lambda x: 0 < x < math.inf, "a positive number")
        number("HMC", "jitter", self.jitter, lambda x: 0 <= x < 1, "a number in [0, 1)", write="write jitter=0.0")

    def transition(self) -> HMCTransition:
        return HMCTransition(self.dense_mass)

    def tuning(self, dim: int, dtype: np.dtype, density: Any = None) -> Tuning:
        options = {
            "num_steps": np.int32(self.num_steps or 0),
            "trajectory_length": np.asarray(self.trajectory_length or 2 * math.pi, dtype),
            "jitter": np.asarray(self.jitter, dtype),
        }
        return adaptive_tuning(self, options, dim, dtype, density)
