"""Slice sampling, one coordinate at a time: no gradient, no step size to get right, no rejections.

A coordinate x moves within its slice S = {x' : log p(x') >= y}, where y = log p(x) - E with E ~ Exponential(1) and the other coordinates
stay as they are. An interval of width w is laid around x at random, grows in steps of w until both its ends are outside of S or a budget
is spent (stepping out), and points are drawn from it, each that lies outside of S becoming its new end, until one lies in S (shrinkage).
A transition does so for every coordinate of the unconstrained vector in turn.

Source: Neal (2003), "Slice sampling", Annals of Statistics 31: section 4 and figures 3 (stepping out) and 5 (shrinkage).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ...ppl import InitStrategy, init_to_uniform
from ...ppl.initial import as_strategy
from ...transforms.autobatch import program
from ...transforms.calls import answering
from ...transforms.errors import SamplerError
from ...transforms.settings import whole
from ...transforms.streams import Stream, uniform
from .adaptation import adapting
from .coordinates import count, drawn, moved, taken
from .inverse_mass import inverse_mass_of
from .kernel import SplitTransition, TunedKernel, check_compress, tuning_of
from .layout import Layout
from .purposes import Purpose
from .records import ChainState, Draw, Plan, Tuning
from .words import KERNEL

__all__ = ["Slice", "SliceTransition"]

# For a normal coordinate with standard deviation s the squared half length of the slice is (z^2 + 2 E) s^2, chi-squared with three
# degrees of freedom: its mean length is 2 s sqrt(8 / pi) = 3.19 s.
_WIDTH = 3.2
_MAX_OUT = 1024


class Phase(IntEnum):
    """Where the log density is evaluated next: at the interval's low end, its high end, or a point drawn from it."""

    LOW = 0
    HIGH = 1
    WITHIN = 2


class Interval(NamedTuple):
    """An interval around a coordinate.

    Attributes:
        low, high: (). Its ends.
        low_budget, high_budget: int32, (). Steps that each end may still take.
    """

    low: jax.Array
    high: jax.Array
    low_budget: jax.Array
    high_budget: jax.Array


class Update(NamedTuple):
    """What the update of a coordinate leaves.

    Attributes:
        position: (dim,).
        log_density: (). Nats.
        n_steps, nstep_out, nstep_in: int32, (). Of the whole transition.
        auxiliary: what the density handed on last.
    """

    position: jax.Array
    log_density: jax.Array
    n_steps: jax.Array
    nstep_out: jax.Array
    nstep_in: jax.Array
    auxiliary: Any


@dataclass(frozen=True)
class SliceTransition(SplitTransition):
    """The static part of the kernel; `layout` where vectors lie split over devices."""

    layout: Layout | None = None

    @property
    def stats(self) -> dict[str, str]:
        return {"n_steps": "int32", "nstep_out": "int32", "nstep_in": "int32", "lp": "float"}

    @property
    def uses_gradient(self) -> bool:
        return False

    def noise(self, stream: Stream, position: Any) -> Any:
        """Three numbers for each coordinate: of the level, of where the interval lies, and of how its ends share the budget."""
        return tuple(drawn(self.layout, uniform, stream, use, position) for use in (Purpose.LEVEL, Purpose.PLACE, Purpose.SHARE))

    def program(self, density, plan: Plan):
        """Updates every coordinate in turn, and adapts if warm-up is on."""
        move, layout = _coordinate(density, plan.tuning.options["max_steps_out"], self.layout), self.layout
        adapt = adapting(plan.schedule, plan.tuning)

        @program
        def transition(state, noise):
            levels, places, shares = noise
            widths = state.step_size * jnp.sqrt(state.metric.inverse_mass)
            none = jnp.int32(0)
            update = Update(state.position, state.log_density, none, none, none, state.auxiliary)
            coordinate, sweeping = jnp.int32(0), True
            while sweeping:
                x, level, width, place, share = taken(layout, coordinate, (update.position, levels, widths, places, shares))
                level = update.log_density + jnp.log1p(-level)
                update = move(update, coordinate, x, level, width, place, share, state.stream)
                coordinate = coordinate + 1
                sweeping = coordinate < count(layout, state.position)
            stats = {"n_steps": update.n_steps, "nstep_out": update.nstep_out, "nstep_in": update.nstep_in, "lp": update.log_density}
            counter = state.stream.counter
            step_size, metric, adaptation = adapt(
                state.step_size, state.metric, state.adaptation, counter.astype("int32"), plan.tuning.target_accept_prob, update.position
            )
            stream = state.stream._replace(counter=counter + 1)
            reached = update.position, update.log_density, state.gradient
            state = ChainState(*reached, step_size, metric, adaptation, stream, update.auxiliary)
            return state, Draw(update.position, stats)

        return transition


def _coordinate(density, max_steps_out, layout):
    """The program that updates one coordinate: stepping out and shrinkage as one loop, with the log density in one place."""

    @program
    def move(update, coordinate, x, level, width, place, share, stream):
        interval = lay(x, width, place, share, max_steps_out)
        phase = next_phase(jnp.int32(Phase.LOW), interval)
        position, log_density, n_steps, nstep_out, nstep_in, auxiliary = update
        moving = True
        while moving:
            number = uniform(stream, Purpose.POINT, (), n_steps, x.dtype)
            point = point_of(phase, interval, number)
            value, _, auxiliary = density(moved(layout, update.position, coordinate, point), auxiliary)
            n_steps = n_steps + 1
            inside = is_inside(value, level)
            if phase == Phase.WITHIN:
                # An interval that has shrunk to x itself ends the update, whatever rounding says of the level.
                moving = not (inside or point == x)
                if moving:
                    interval, nstep_in = shrink(interval, point, x), nstep_in + 1
                else:
                    position, log_density = moved(layout, update.position, coordinate, point), value
            elif inside:
                interval, nstep_out = step_out(interval, phase, width), nstep_out + 1
                phase = next_phase(phase, interval)
            else:
                phase = next_phase(phase + 1, interval)
        return Update(position, log_density, n_steps, nstep_out, nstep_in, auxiliary)

    return move


def is_inside(value, level):
    """Whether a point with this log density is in the slice; where the log density is NaN it is not."""
    return value >= level


def lay(x, width, place, share, max_steps_out) -> Interval:
    """An interval of the given width that holds x at a uniform place, and a budget that its ends share at random."""
    # A share is below 1 and the product may round up to the whole.
    low_budget = jnp.minimum(jnp.floor((max_steps_out + 1).astype(x.dtype) * share).astype(jnp.int32), max_steps_out)
    return Interval(x - width * place, x + width * (1 - place), low_budget, max_steps_out - low_budget)


def next_phase(phase, interval: Interval):
    """The first phase, from this one on, for which there is a budget."""
    phase = jnp.where((phase == Phase.LOW) & (interval.low_budget == 0), Phase.HIGH, phase)
    return jnp.where((phase == Phase.HIGH) & (interval.high_budget == 0), Phase.WITHIN, phase).astype(jnp.int32)


def point_of(phase, interval: Interval, number):
    """Where the log density is evaluated."""
    point = interval.low + number * (interval.high - interval.low)
    return jnp.where(phase == Phase.LOW, interval.low, jnp.where(phase == Phase.HIGH, interval.high, point))


def step_out(interval: Interval, phase, width) -> Interval:
    """One end moves away by a width."""
    low, high, low_budget, high_budget = interval
    lower, higher = phase == Phase.LOW, phase == Phase.HIGH
    low, high = jnp.where(lower, low - width, low), jnp.where(higher, high + width, high)
    return Interval(low, high, low_budget - lower.astype(jnp.int32), high_budget - higher.astype(jnp.int32))


def shrink(interval: Interval, point, x) -> Interval:
    """The point becomes the end on its side of x."""
    return interval._replace(low=jnp.where(point < x, point, interval.low), high=jnp.where(point < x, interval.high, point))


@answering("Slice", KERNEL)
@dataclass(frozen=True, eq=False)
class Slice(TunedKernel):
    """Univariate slice sampling on a model: every coordinate of the unconstrained vector in turn, with stepping out and shrinkage.

    With the other coordinates fixed, x moves to a point of its slice,

        y = log p(x) - E,  E ~ Exponential(1);    x' uniform on the part of {x' : log p(x') >= y} that the interval around x holds.

    It leaves log p invariant for any width. The model needs no gradient: only its log density is evaluated, about six times for each
    coordinate of a draw (`n_steps` says how often; `nstep_out` and `nstep_in` how often intervals grew and shrank). It suits models of
    a few dimensions, or whose gradient is missing or useless; strongly correlated coordinates it moves slowly, take `NUTS` for those.

    Widths are adapted in warm-up, in Stan's windows, to 3.2 posterior standard deviations of each coordinate, the mean length of a
    normal's slice, and frozen after; they start at 3.2. `MCMC.inverse_mass_matrix` holds the variances they are made of.

    Args:
        model: a model, or a log density that already holds its data.
        width: a fixed width of the first interval, unconstrained space, shape () or (dim,); None adapts it.
        max_steps_out: how often an interval may grow by its width, both ends together (Neal's m, less one); 0 to 1024.
        init_strategy: where chains start.
        compress: as for `NUTS`.

    Raises:
        SamplerError: a setting makes no sense; names it.

    Source: Neal (2003), "Slice sampling", section 4. Deviation: the width is adapted.
    """

    model: Any
    width: ArrayLike | None = None
    max_steps_out: int = 32
    init_strategy: InitStrategy | Callable[..., Any] = field(default_factory=init_to_uniform)
    compress: str | bool = "auto"

    def __post_init__(self):
        whole("Slice", "max_steps_out", self.max_steps_out, 0, _MAX_OUT, write="write max_steps_out=32")
        object.__setattr__(self, "init_strategy", as_strategy(self.init_strategy))
        check_compress("Slice", self.compress)
        if self.width is not None and not _is_width(self.width):
            raise SamplerError(
                f"Slice: width is {self.width!r}, a positive number, one for each unconstrained dimension, or None expected; "
                "write width=None to have it adapted."
            )

    def transition(self) -> SliceTransition:
        return SliceTransition()

    def tuning(self, dim: int, dtype: np.dtype, density: Any = None) -> Tuning:
        variances = None
        if self.width is not None:
            width = np.asarray(self.width, np.float64)
            if width.shape not in ((), (dim,)):
                raise SamplerError(
                    f"Slice: width has shape {width.shape}, () or {(dim,)} expected: the model has {dim} unconstrained dimensions."
                )
            variances = np.broadcast_to((width / _WIDTH) ** 2, (dim,))
        options = {"max_steps_out": np.int32(self.max_steps_out)}
        return tuning_of(_WIDTH, inverse_mass_of("Slice", variances, False, dim, dtype), variances is None, options=options)


def _is_width(width) -> bool:
    try:
        array = np.asarray(width)
    except Exception:  # ragged lists, abstract values
        return False
    return array.ndim <= 1 and array.dtype.kind in "iuf" and bool((np.isfinite(array) & (array > 0)).all())
