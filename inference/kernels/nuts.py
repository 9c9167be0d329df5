"""The No-U-Turn sampler: a trajectory that stops where it would turn back, a state chosen from it, and warm-up.

Source: Hoffman & Gelman (2014), "The No-U-Turn Sampler", JMLR 15; `trajectory` says which variant.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from ...ppl import InitStrategy, init_to_uniform
from ...transforms.autobatch import program
from ...transforms.calls import answering
from ...transforms.settings import whole
from ...transforms.streams import Stream, normal
from .adaptation import adapting
from .coordinates import drawn
from .integrator import Phase, energy
from .kernel import SplitTransition, TunedKernel, adaptive_tuning, check_adaptive
from .layout import Layout
from .metric import momentum
from .purposes import Purpose
from .records import ChainState, Draw, Plan, Tuning
from .trajectory import MAX_DEPTH, Start, iterative
from .words import KERNEL

__all__ = ["NUTS", "NUTSTransition"]


@dataclass(frozen=True)
class NUTSTransition(SplitTransition):
    """The static part of the kernel.

    Attributes:
        max_tree_depth: largest number of doublings.
        dense_mass: whether the metric is dense.
        walk: how a trajectory is written, `iterative` or `recursive`.
        layout: of the vectors, where they lie split over devices.
    """

    max_tree_depth: int
    dense_mass: bool
    walk: Callable[..., Any] = iterative
    layout: Layout | None = None

    @property
    def stats(self) -> dict[str, str]:
        return {
            "diverging": "bool",
            "tree_depth": "int32",
            "n_steps": "int32",
            "acceptance_rate": "float",
            "energy": "float",
            "lp": "float",
            "step_size": "float",
        }

    @property
    def uses_gradient(self) -> bool:
        return True

    def noise(self, stream: Stream, position: Any) -> Any:
        return drawn(self.layout, normal, stream, Purpose.MOMENTUM, position)

    def program(self, density, plan: Plan):
        """Draws a momentum, grows a trajectory, moves to the state chosen from it, and adapts if warm-up is on."""
        grow = self.walk(density, self.max_tree_depth, self.layout)
        adapt = adapting(plan.schedule, plan.tuning)

        @program
        def transition(state, noise):
            p = momentum(state.metric, noise)
            phase = Phase(state.position, p, state.gradient)
            start_energy = energy(state.metric, state.log_density, p, self.layout)
            trajectory = grow(Start(state.metric, state.step_size, state.stream, phase, state.log_density, start_energy, state.auxiliary))
            choice = trajectory.choice
            acceptance_rate = trajectory.sum_acceptance / trajectory.n_steps.astype(p.dtype)
            stats = {
                "diverging": trajectory.diverging,
                "tree_depth": trajectory.depth,
                "n_steps": trajectory.n_steps,
                "acceptance_rate": acceptance_rate,
                "energy": choice.energy,
                "lp": choice.log_density,
                "step_size": state.step_size,
            }
            step_size, metric, adaptation = adapt(
                state.step_size, state.metric, state.adaptation, state.stream.counter.astype("int32"), acceptance_rate, choice.position
            )
            stream = state.stream._replace(counter=state.stream.counter + 1)
            reached = choice.position, choice.log_density, choice.gradient
            state = ChainState(*reached, step_size, metric, adaptation, stream, trajectory.auxiliary)
            return state, Draw(choice.position, stats)

        return transition


@answering("NUTS", KERNEL)
@dataclass(frozen=True, eq=False)
class NUTS(TunedKernel):
    """The No-U-Turn sampler on a model.

    Args:
        model: a model, or a log density that already holds its data.
        target_accept_prob: mean acceptance probability that the step size is tuned to; in (0, 1).
        max_tree_depth: largest number of doublings: at most 2**max_tree_depth - 1 gradients a draw.
        dense_mass: adapt a full inverse mass matrix instead of its diagonal.
        step_size: a fixed step size; None adapts it, from 1. (NumPyro's `step_size` is where adaptation starts: `adapt_step_size=True`.)
        inverse_mass_matrix: a fixed one, of the unconstrained coordinates: an array (dim,), or (dim, dim) with `dense_mass`, in program
            order, that of `lc.trace(model, ...)`, not NumPyro's order by name; or a dict by site, or by tuple of sites, of arrays
            (variances, or with `dense_mass` matrices too). None adapts it, from the identity.
        init_strategy: where chains start: `init_to_uniform()`, `init_to_median()`, `init_to_value(...)` and so on.
        adapt_step_size, adapt_mass_matrix: whether warm-up adapts it; None: where it is not given. True with a given one starts from that.
        compress: "auto": where sums over rows of the data can be had from less, Gaussian rows from a few combined ones and repeated rows
            from one with a weight, the chains run on that; the log density is the same to rounding, and a line in the log says which site.
            False: the density as the model has it.

    Raises:
        SamplerError: a setting makes no sense; names it.
    """

    model: Any
    target_accept_prob: float = 0.8
    max_tree_depth: int = 10
    dense_mass: bool = False
    step_size: float | None = None
    inverse_mass_matrix: ArrayLike | Mapping[Any, ArrayLike] | None = None
    init_strategy: InitStrategy | Callable[..., Any] = field(default_factory=init_to_uniform)
    adapt_step_size: bool | None = None
    adapt_mass_matrix: bool | None = None
    compress: str | bool = "auto"

    def __post_init__(self):
        check_adaptive(self)
        whole("NUTS", "max_tree_depth", self.max_tree_depth, 1, MAX_DEPTH, write="write max_tree_depth=10")

    def transition(self) -> NUTSTransition:
        return NUTSTransition(int(self.max_tree_depth), self.dense_mass)

    def tuning(self, dim: int, dtype: np.dtype, density: Any = None) -> Tuning:
        return adaptive_tuning(self, {}, dim, dtype, density)
