"""Random-walk Metropolis: no gradient, one log density a draw.

A proposal u' = u + step * L z, z ~ N(0, I), L L' = the inverse mass matrix, is accepted with probability min(1, p(u') / p(u)).

Sources: Metropolis et al. (1953); the default target, an acceptance of 0.234, is that of Roberts, Gelman & Gilks (1997), "Weak convergence
and optimal scaling of random walk Metropolis algorithms".
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ...ppl import InitStrategy, init_to_uniform
from ...transforms.autobatch import program
from ...transforms.calls import answering
from ...transforms.streams import Stream, normal, uniform
from .adaptation import adapting
from .coordinates import drawn
from .kernel import SplitTransition, TunedKernel, adaptive_tuning, check_adaptive
from .layout import Layout
from .metric import momentum, velocity
from .purposes import Purpose
from .records import ChainState, Draw, Plan, Tuning
from .words import KERNEL

__all__ = ["RWM", "RWMTransition"]


@dataclass(frozen=True)
class RWMTransition(SplitTransition):
    """The static part of the kernel; `dense_mass` says whether the metric is dense, `layout` where vectors lie split over devices."""

    dense_mass: bool
    layout: Layout | None = None

    @property
    def stats(self) -> dict[str, str]:
        return {"n_steps": "int32", "acceptance_rate": "float", "lp": "float", "step_size": "float"}

    @property
    def uses_gradient(self) -> bool:
        return False

    def noise(self, stream: Stream, position: Any) -> Any:
        return drawn(self.layout, normal, stream, Purpose.PROPOSAL, position)

    def program(self, density, plan: Plan):
        """Proposes, accepts or not, and adapts if warm-up is on."""
        adapt = adapting(plan.schedule, plan.tuning)

        @program
        def transition(state, noise):
            stream, dtype = state.stream, noise.dtype
            proposal = state.position + state.step_size * velocity(state.metric, momentum(state.metric, noise))
            value, _, auxiliary = density(proposal, state.auxiliary)
            gain = value - state.log_density
            acceptance_rate = jnp.where(jnp.isnan(gain), 0, jnp.exp(jnp.minimum(gain, 0)))
            accepted = uniform(stream, Purpose.ACCEPT, dtype=dtype) < acceptance_rate
            position, log_density = (proposal, value) if accepted else (state.position, state.log_density)
            stats = {"n_steps": jnp.int32(1), "acceptance_rate": acceptance_rate, "lp": log_density, "step_size": state.step_size}
            step_size, metric, adaptation = adapt(
                state.step_size, state.metric, state.adaptation, stream.counter.astype("int32"), acceptance_rate, position
            )
            stream = stream._replace(counter=stream.counter + 1)
            state = ChainState(position, log_density, state.gradient, step_size, metric, adaptation, stream, auxiliary)
            return state, Draw(position, stats)

        return transition


@answering("RWM", KERNEL)
@dataclass(frozen=True, eq=False)
class RWM(TunedKernel):
    """Random-walk Metropolis on a model, a yardstick rather than a recommendation: u' = u + step_size * N(0, inverse mass matrix).

    Args:
        model: a model, or a log density that already holds its data.
        target_accept_prob: mean acceptance probability that the step size is tuned to; in (0, 1).
        dense_mass, step_size, inverse_mass_matrix, init_strategy, adapt_step_size, adapt_mass_matrix, compress: as for `NUTS`.

    Raises:
        SamplerError: a setting makes no sense; names it.
    """

    model: Any
    target_accept_prob: float = 0.234
    dense_mass: bool = False
    step_size: float | None = None
    inverse_mass_matrix: ArrayLike | Mapping[Any, ArrayLike] | None = None
    init_strategy: InitStrategy | Callable[..., Any] = field(default_factory=init_to_uniform)
    adapt_step_size: bool | None = None
    adapt_mass_matrix: bool | None = None
    compress: str | bool = "auto"

    def __post_init__(self):
        check_adaptive(self)

    def transition(self) -> RWMTransition:
        return RWMTransition(self.dense_mass)

    def tuning(self, dim: int, dtype: np.dtype, density: Any = None) -> Tuning:
        return adaptive_tuning(self, {}, dim, dtype, density)
