"""Elliptical slice sampling, for models whose prior is Gaussian: no gradient, nothing to tune, the prior's correlations for free.

With x = m + F z for the prior N(m, F F') and L(x) the log likelihood, a transition draws zeta ~ N(0, I), a level y = L(x) - E with
E ~ Exponential(1), and an angle theta, uniform on the circle. The points

    z' = z cos(theta) + zeta sin(theta),    x' = m + F z'

lie on an ellipse through x; the first of them with L(x') >= y is the next state. After a point that is refused the bracket of angles,
which holds 0, shrinks to it and a new angle is drawn. The log likelihood is the model's log density without the log prior -|z'|^2 / 2, so
that `factor` statements belong to it.

Source: Murray, Adams & MacKay (2010), "Elliptical slice sampling", AISTATS, figure 2.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np

from ...ppl import InitStrategy, init_to_sample
from ...ppl.initial import as_strategy
from ...transforms.autobatch import program
from ...transforms.calls import answering
from ...transforms.errors import SamplerError
from ...transforms.streams import Stream, normal, uniform
from .coordinates import Per, dots, drawn
from .kernel import SplitTransition, TunedKernel, check_compress, tuning_of
from .layout import Layout
from .prior import GaussianPrior, colour, gaussian_prior, split_prior, whiten
from .purposes import Purpose
from .records import Draw, Plan, Tuning
from .words import KERNEL

__all__ = ["EllipticalSlice", "EllipticalSliceTransition"]


@dataclass(frozen=True)
class EllipticalSliceTransition(SplitTransition):
    """The static part of the kernel; `layout` where vectors lie split over devices."""

    layout: Layout | None = None

    @property
    def stats(self) -> dict[str, str]:
        return {"n_steps": "int32", "theta": "float", "lp": "float"}

    @property
    def uses_gradient(self) -> bool:
        return False

    def split_options(self, options: dict[str, Any], layout: Layout) -> tuple[dict[str, Any], dict[str, Any]]:
        return split_prior(options, layout)

    def noise(self, stream: Stream, position: Any) -> Any:
        return drawn(self.layout, normal, stream, Purpose.ELLIPSE, position)

    def program(self, density, plan: Plan):
        """Lays an ellipse through the state and shrinks the bracket of angles until a point lies in the slice; adapts nothing."""
        prior = GaussianPrior(**plan.tuning.options)

        @program
        def transition(state, noise):
            stream, dtype = state.stream, noise.dtype
            z = whiten(prior, state.position)
            level = log_likelihood(state.log_density, z, self.layout) + jnp.log1p(-uniform(stream, Purpose.LEVEL, dtype=dtype))
            theta = 2 * math.pi * uniform(stream, Purpose.ANGLE, dtype=dtype)
            low, high = theta - 2 * math.pi, theta
            n_steps, moving = jnp.int32(0), True
            position, log_density, auxiliary = state.position, state.log_density, state.auxiliary
            while moving:
                point = z * jnp.cos(theta) + noise * jnp.sin(theta)
                position = colour(prior, point)
                log_density, _, auxiliary = density(position, auxiliary)
                n_steps = n_steps + 1
                # A bracket that has shrunk to the state itself ends the transition, whatever rounding says of the level.
                moving = not (log_likelihood(log_density, point, self.layout, Per.GRADIENT) >= level or theta == 0)
                if moving:
                    low, high = bracket(low, high, theta)
                    theta = low + (high - low) * uniform(stream, Purpose.ANGLE, (), n_steps, dtype)
            stream = stream._replace(counter=stream.counter + 1)
            state = state._replace(position=position, log_density=log_density, stream=stream, auxiliary=auxiliary)
            return state, Draw(position, {"n_steps": n_steps, "theta": theta, "lp": log_density})

        return transition


def log_likelihood(log_density, whitened, layout=None, per=Per.TRANSITION):
    """The log density without the prior's, but for a constant; where it is NaN no level is reached."""
    (square,) = dots(layout, (whitened, whitened), per=per)
    return log_density + 0.5 * square


def bracket(low, high, theta):
    """The angle becomes the end on its side of 0."""
    return jnp.where(theta < 0, theta, low), jnp.where(theta < 0, high, theta)


@answering("EllipticalSlice", KERNEL)
@dataclass(frozen=True, eq=False)
class EllipticalSlice(TunedKernel):
    """Elliptical slice sampling on a model whose latent sites are all Gaussian a priori.

    The next state is a point x' = m + (x - m) cos(theta) + (nu - m) sin(theta), with nu drawn from the prior N(m, S), that has

        log p(data | x') >= log p(data | x) - E,  E ~ Exponential(1).

    It has nothing to tune and needs no gradient, only the log density, a few times a draw (`n_steps`; `theta` is the angle moved). It is
    at its best where the prior is strong and the likelihood weak: latent Gaussian processes, `MultivariateNormal` sites. Where many
    observations pin the state down the angles become small; take `NUTS` there.

    Latent sites are `Normal` or `MultivariateNormal`; their parameters are constants or computed from the data, never from another
    latent site. A hyperparameter is thus given, or written non-centred: z ~ Normal(0, 1), x = mu + tau * z.

    Args:
        model: a model, or its log density, which already holds its data.
        init_strategy: where chains start; a draw from the prior when left out.
        compress: as for `NUTS`.

    Raises:
        SamplerError: at `MCMC.run`: a latent site has another prior, is masked or scaled, or depends on a latent site; names it.

    Source: Murray, Adams & MacKay (2010), "Elliptical slice sampling", figure 2.
    """

    model: Any
    init_strategy: InitStrategy | Callable[..., Any] = field(default_factory=init_to_sample)
    compress: str | bool = "auto"

    def __post_init__(self):
        object.__setattr__(self, "init_strategy", as_strategy(self.init_strategy))
        check_compress("EllipticalSlice", self.compress)

    def transition(self) -> EllipticalSliceTransition:
        return EllipticalSliceTransition()

    def tuning(self, dim: int, dtype: np.dtype, density: Any = None) -> Tuning:
        if density is None:
            raise SamplerError("EllipticalSlice: no log density found, whose prior it needs; write tuning(dim, dtype, density).")
        options = gaussian_prior(density, Layout.of(density.positions))._asdict()
        return tuning_of(1.0, np.ones(dim, dtype), False, options=options)
