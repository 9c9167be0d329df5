"""What the batching and the host loop ask of a kernel, and the checks that all kernels share."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import jax
import numpy as np

from ...ppl.initial import as_strategy
from ...transforms.errors import SamplerError
from ...transforms.settings import choice, flag, number
from ...transforms.streams import Stream
from .adaptation import start_adaptation
from .inverse_mass import inverse_mass_of
from .layout import Layout
from .metric import metric_of
from .records import ChainState, Plan, Tuning

__all__ = [
    "Fitted",
    "Kernel",
    "SplitTransition",
    "Transition",
    "TunedKernel",
    "adaptive_tuning",
    "check_adaptive",
    "check_compress",
    "check_step_size",
    "check_target",
    "compresses",
    "start_chain",
    "tuning_of",
]

_log = logging.getLogger("luciole")


class Transition(Protocol):
    """The static part of a kernel; frozen and hashable, because it is part of a compiled program's key."""

    @property
    def stats(self) -> dict[str, str]:
        """The statistics of a `Draw` and their dtypes; "float" is the run's float type."""
        ...

    @property
    def uses_gradient(self) -> bool:
        """Whether `density` has to compute the gradient; if not, what it returns as the gradient has shape (0,)."""
        ...

    def noise(self, stream: Stream, position: Any) -> Any:
        """The random numbers of a transition that depend on nothing but its stream, drawn ahead for many at a time.

        Args:
            stream: of the transition.
            position: shape and dtype of a position.
        """
        ...

    def program(self, density: Any, plan: Plan) -> Any:
        """One step of one chain.

        Args:
            density: program, (position (dim,), auxiliary) -> (log density (), gradient, auxiliary), the gradient (dim,) or, without
                `uses_gradient`, (0,): the only way to the model. The chain's `auxiliary` is handed on from each call to the next.
            plan: the run's, in run-time values.

        Returns:
            A program of a `ChainState` and the transition's `noise`; it returns (`ChainState`, `Draw`).
        """
        ...

    def start(self, plan: Plan, position: Any) -> tuple[Any, Any, Any] | None:
        """Log density, gradient and `auxiliary` of a chain that starts at a position; None for kernels whose start is searched for."""
        return None

    def __hash__(self) -> int: ...


class SplitTransition(Transition):
    """Base of the transitions that can run on vectors that lie split over devices.

    They are frozen dataclasses with a field `layout`, and take every sum over coordinates, every random number and every single coordinate
    by way of `coordinates`.
    """

    layout: Layout | None

    def over(self, layout: Layout) -> Any:
        """The same for vectors of this layout."""
        return replace(self, layout=layout)  # pyright: ignore[reportArgumentType, reportUnknownVariableType]

    def split_options(self, options: dict[str, Any], layout: Layout) -> tuple[dict[str, Any], dict[str, Any]]:
        """The options of a `Tuning` for vectors of this layout, and how each of their arrays is split: a `Home`, () for whole ones."""
        return options, jax.tree.map(lambda _: (), options)


@dataclass(frozen=True)
class Fitted:
    """A kernel on data. A kernel with needs of its own returns a subclass.

    Attributes:
        transition, tuning: its static and its run-time part. Chains run in the float type of the tuning.
        starts: (chain, dim), where chains start; None if starts are searched for. A kernel that brings starts brings its own density.
    """

    transition: "Transition"
    tuning: Tuning
    starts: np.ndarray | None = None

    @property
    def observers(self) -> tuple[Any, ...]:
        """What of the kernel has to hear of the run: `run.observers.Observer`s."""
        return ()

    @property
    def found(self) -> dict[str, Any]:
        """Numbers that were found while the run went on, and that it has to be resumed with, by name."""
        return {}

    def resumed(self, found: Mapping[str, Any]) -> "Fitted":
        """The kernel with what `found` had; it was fitted anew for a run that is resumed."""
        return self

    @property
    def setup_queries(self) -> int | None:
        """Likelihoods of rows that were evaluated for the fit; None if the kernel does not count them, and a run looks at all rows."""
        return None

    def useful(self, counts: Any) -> int:
        """How many of the slots that a run computed were of use, from its counts (`run.spec.Counts`)."""
        return counts.total("n_steps") + int(counts.tries.sum())


class Kernel(Protocol):
    """What a user configures, and what `MCMC` asks of it: a model, and how to sample it."""

    @property
    def model(self) -> Any: ...

    @property
    def init_strategy(self) -> Any:
        """Where chains start: an `InitStrategy`, or what `as_strategy` makes one of."""
        ...

    def fit(self, density: Any, words: Any, num_chains: int, /) -> Fitted:
        """The kernel on the data of a log density.

        Args:
            density: the model's.
            words: uint32, (2,). Of the run's key.
            num_chains: number of chains.
        """
        ...


class TunedKernel:
    """Base of the kernels that need not look at the data first: a static part and a run-time part make a whole.

    Attributes:
        compress: "auto", or False: see `NUTS`.
    """

    compress: str | bool = "auto"

    def transition(self) -> Transition:
        """The static part: what needs another program when it changes."""
        raise NotImplementedError

    def tuning(self, dim: int, dtype: np.dtype, density: Any = None) -> Tuning:
        """The run-time part, as NumPy values, on a log density of `dim` unconstrained dimensions."""
        raise NotImplementedError

    def fit(self, density: Any, words: Any, num_chains: int) -> Fitted:
        layout = Layout.of(density.positions)
        return Fitted(self.transition(), self.tuning(layout.dim, np.dtype(layout.dtype), density))


def start_chain(value_and_grad_result, position, stream: Stream, tuning: Tuning, auxiliary: Any = ()) -> ChainState:
    """The state of one chain before its first transition.

    Args:
        value_and_grad_result: log density and gradient at the position.
        position: (dim,).
        stream: the chain's randomness at transition 0.
        tuning: first step size and metric.
        auxiliary: of the density.
    """
    log_density, gradient = value_and_grad_result
    return ChainState(
        position=position,
        log_density=log_density,
        gradient=gradient,
        step_size=tuning.step_size,
        metric=metric_of(tuning.inverse_mass_matrix),
        adaptation=start_adaptation(tuning.step_size, tuning.inverse_mass_matrix),
        stream=stream,
        auxiliary=auxiliary,
    )


def check_adaptive(kernel: Any) -> None:
    """Refuses settings that make no sense for any model, of a kernel that adapts a step size and a metric; plain values replace them.

    Raises:
        SamplerError: names the argument, what was found and what is expected.
    """
    name = type(kernel).__name__
    put = partial(object.__setattr__, kernel)  # a frozen record, while it is made
    put("target_accept_prob", check_target(name, kernel.target_accept_prob))
    put("dense_mass", flag(name, "dense_mass", kernel.dense_mass))
    put("step_size", check_step_size(name, kernel.step_size))
    put("init_strategy", as_strategy(kernel.init_strategy))
    check_compress(name, kernel.compress)
    for argument, value, given in (
        ("adapt_step_size", kernel.step_size, "step_size"),
        ("adapt_mass_matrix", kernel.inverse_mass_matrix, "inverse_mass_matrix"),
    ):
        adapted = getattr(kernel, argument)
        if adapted is None:
            continue
        if not flag(name, argument, adapted) and value is None:
            raise SamplerError(f"{name}: {argument} is False and {given} is None, so there is none to keep; write {given}=... too.")


def check_compress(kernel: str, value: Any) -> None:
    """Whether the density may be evaluated from less of the data."""
    choice(kernel, "compress", value, ("auto", False), write='write compress="auto"')


def compresses(kernel: Any) -> bool:
    """Whether a kernel has its density evaluated from less of the data; one that brings a density of its own has no say."""
    return getattr(kernel, "compress", False) == "auto"


def check_target(kernel: str, value: Any) -> float:
    """A mean acceptance probability."""
    within = "a number strictly between 0 and 1"
    return number(kernel, "target_accept_prob", value, lambda p: 0 < p < 1, within, write="write target_accept_prob=0.8")


def check_step_size(kernel: str, value: Any) -> float | None:
    """A step size, or None."""
    if value is None:
        return None
    expected, write = "a positive number or None", "write step_size=None to have it adapted"
    return number(kernel, "step_size", value, lambda size: 0 < size < np.inf, expected, write=write)


def adaptive_tuning(kernel: Any, options: dict[str, Any], dim: int, dtype: Any, density: Any) -> Tuning:
    """Run-time settings of a kernel that adapts a step size and a metric.

    What the user gives is used as it is and not adapted, unless `adapt_step_size` or `adapt_mass_matrix` makes it the first value.
    """
    name = type(kernel).__name__
    if kernel.step_size is not None and kernel.adapt_step_size is None:
        _log.info("%s: step_size=%g stays fixed; write adapt_step_size=True to begin with it and adapt.", name, kernel.step_size)
    inverse_mass = inverse_mass_of(name, kernel.inverse_mass_matrix, bool(kernel.dense_mass), dim, dtype, density)
    tuning = tuning_of(kernel.step_size, inverse_mass, kernel.inverse_mass_matrix is None, kernel.target_accept_prob, options)
    chosen = {"adapt_step_size": kernel.adapt_step_size, "adapt_metric": kernel.adapt_mass_matrix}
    return tuning._replace(**{field: np.asarray(adapt) for field, adapt in chosen.items() if adapt is not None})


def tuning_of(
    step_size: float | None,
    inverse_mass: np.ndarray,
    adapt_metric: bool,
    target_accept_prob: float = 0.5,
    options: dict[str, Any] | None = None,
) -> Tuning:
    """Run-time settings of a kernel, in the float type of its inverse mass matrix.

    Args:
        step_size: used as it is and not adapted; None: adapted, from 1.
        inverse_mass: (dim,) or (dim, dim), the first.
        adapt_metric: whether it is adapted.
        target_accept_prob: of kernels that adapt a step size.
        options: arrays that only this kernel knows, by name.
    """
    return Tuning(
        step_size=np.asarray(1.0 if step_size is None else step_size, inverse_mass.dtype),
        inverse_mass_matrix=inverse_mass,
        target_accept_prob=np.asarray(target_accept_prob, inverse_mass.dtype),
        adapt_step_size=np.asarray(step_size is None),
        adapt_metric=np.asarray(adapt_metric),
        options=options or {},
    )
