"""What the batching and the host loop ask of a kernel, and the checks that all kernels share."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..ppl import InitStrategy
from ..transforms.errors import SamplerError
from ..transforms.streams import Stream
from .adaptation import start_adaptation
from .layout import Layout
from .metric import metric_of
from .records import ChainState, Plan, Tuning

__all__ = ["Fitted", "Kernel", "Transition", "check_tuning", "fitted", "is_whole", "start_chain", "tuning_of"]


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


class Fitted(NamedTuple):
    """A kernel on data.

    Attributes:
        transition, tuning: its static and its run-time part.
        starts: (chain, dim), where chains start; None if starts are searched for.
        queries: likelihoods of rows that were evaluated for it; None if the kernel does not count them.
        wide: whether chains run in float64 whatever the run's float type.
        in_one: whether a whole transition is one evaluation of the machine, rather than each log density of it.
        inspect: is shown the transition and the chains after every chunk. It raises if their draws are not exact, and returns a transition
            with larger buffers if one overflowed; the run then begins again, with the same random numbers.
    """

    transition: "Transition"
    tuning: Tuning
    starts: np.ndarray | None = None
    queries: int | None = None
    wide: bool = False
    in_one: bool = False
    inspect: Callable[[Any, ChainState], "Transition | None"] = lambda transition, chains: None


def fitted(kernel: Any, density: Any, layout: Layout, words: Any, num_chains: int) -> Fitted:
    """The kernel on the data of a log density; kernels that have to look at the data first have a method `fit`."""
    if hasattr(kernel, "fit"):
        return kernel.fit(density, words, num_chains)
    return Fitted(kernel.transition(), kernel.tuning(layout.dim, np.dtype(layout.dtype), density))


class Kernel(Protocol):
    """What a user configures: a model and how to sample it."""

    @property
    def model(self) -> Any: ...

    @property
    def init_strategy(self) -> InitStrategy: ...

    def transition(self) -> Transition:
        """The static part: what needs another program when it changes."""
        ...

    def tuning(self, dim: int, dtype: np.dtype, density: Any = None) -> Tuning:
        """The run-time part, as NumPy values, on a log density of `dim` unconstrained dimensions."""
        ...


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


def check_tuning(kernel: str, target_accept_prob, step_size, dense_mass) -> None:
    """Refuses settings that make no sense for any model; `kernel` is its name.

    Raises:
        SamplerError: names the argument, what was found and what is expected.
    """
    if not _is_number(target_accept_prob) or not 0 < target_accept_prob < 1:
        raise SamplerError(
            f"{kernel}: target_accept_prob is {target_accept_prob!r}, a number strictly between 0 and 1 expected; "
            "write target_accept_prob=0.8."
        )
    if step_size is not None and (not _is_number(step_size) or not 0 < step_size < np.inf):
        raise SamplerError(
            f"{kernel}: step_size is {step_size!r}, a positive number or None expected; write step_size=None to have it adapted."
        )
    if not isinstance(dense_mass, (bool, np.bool_)):
        raise SamplerError(f"{kernel}: dense_mass is {dense_mass!r}, True or False expected.")


def tuning_of(kernel: str, target_accept_prob, step_size, inverse_mass_matrix, dense_mass, options: dict, dim: int, dtype) -> Tuning:
    """Run-time settings of a kernel on a model of `dim` unconstrained dimensions.

    A step size or an inverse mass matrix that the user gives is used as it is and not adapted; the first step size is 1.

    Raises:
        SamplerError: the inverse mass matrix has the wrong shape or is not positive definite.
    """
    shape = (dim, dim) if dense_mass else (dim,)
    if inverse_mass_matrix is None:
        matrix = np.eye(dim, dtype=dtype) if dense_mass else np.ones(dim, dtype)
    else:
        matrix = np.asarray(inverse_mass_matrix, dtype)
        if dense_mass and matrix.shape == (dim,):
            matrix = np.diag(matrix)
        if matrix.shape != shape:
            raise SamplerError(
                f"{kernel}: inverse_mass_matrix has shape {matrix.shape}, {shape} expected with dense_mass={dense_mass}: "
                f"the model has {dim} unconstrained dimensions."
            )
        positive = _is_positive_definite(matrix) if dense_mass else bool((matrix > 0).all() and np.isfinite(matrix).all())
        if not positive:
            raise SamplerError(
                f"{kernel}: inverse_mass_matrix is not positive definite; give an estimate of the posterior "
                f"{'covariance' if dense_mass else 'variances'}, or None to have it adapted."
            )
    return Tuning(
        step_size=np.asarray(1.0 if step_size is None else step_size, dtype),
        inverse_mass_matrix=matrix,
        target_accept_prob=np.asarray(target_accept_prob, dtype),
        adapt_step_size=np.asarray(step_size is None),
        adapt_metric=np.asarray(inverse_mass_matrix is None),
        options=options,
    )


def is_whole(value) -> bool:
    """Whether a setting is a whole number."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _is_number(value) -> bool:
    return np.ndim(value) == 0 and np.issubdtype(np.asarray(value).dtype, np.number) and not isinstance(value, bool)


def _is_positive_definite(matrix) -> bool:
    if not np.allclose(matrix, matrix.T):
        return False
    try:
        return bool(np.isfinite(np.linalg.cholesky(matrix)).all())
    except np.linalg.LinAlgError:
        return False
