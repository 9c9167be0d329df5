"""Where the chains of a run start: what a user may give for that, and what becomes of it."""

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ...ppl import InitStrategy
from ...ppl.initial import as_strategy
from ...transforms.calls import known_parameter
from ...transforms.errors import SamplerError
from ..kernels.adaptation import start_adaptation
from ..kernels.kernel import Kernel
from ..kernels.layout import Layout
from ..kernels.metric import metric_of
from ..kernels.records import ChainState, Tuning
from ..kernels.starts import start_positions
from ..results.results import Readable

__all__ = ["Start", "start_of", "tuned", "where_to_start"]

_log = logging.getLogger("luciole")


class Start(NamedTuple):
    """Where the chains of a run start.

    Attributes:
        positions: float64, (chain, dim). The user's, unconstrained; None if a strategy finds them.
        strategy: what finds them, if no positions are given.
        own: whether the strategy was given to the run, rather than the kernel's: then it counts for kernels too that bring starts.
        step_size, inverse_mass: of an earlier run, (chain,) and (chain, dim) or (chain, dim, dim), to begin with; or None.
    """

    positions: np.ndarray | None
    strategy: InitStrategy
    own: bool = False
    step_size: np.ndarray | None = None
    inverse_mass: np.ndarray | None = None


def where_to_start(start: Any, init_params: Any, model: Any) -> Any:
    """An earlier run, the state of chains, positions by site, an array of them, or a strategy; None if neither argument is given.

    Of `init_params` only positions are taken, whatever it is.
    """
    if start is not None:
        if init_params is not None:
            raise SamplerError("MCMC.run: start and init_params are both given; give one of them.")
        if not isinstance(start, (Readable, ChainState)):
            raise SamplerError(
                f"MCMC.run: start is a {type(start).__name__}, an earlier MCMC or its state expected; write init_params=... for positions"
                f"{known_parameter(model, 'start')}."
            )
    if isinstance(init_params, Mapping):
        _log.info("init_params: the values are read as unconstrained ones; init_params=init_to_value({...}) takes constrained ones.")
    if isinstance(init_params, Readable):
        return init_params._record.layout.unravel(np.asarray(init_params.state.position))
    if isinstance(init_params, ChainState):
        return init_params.position
    given = init_params if start is None else start
    if callable(given) and not isinstance(given, (type, Mapping)):
        return as_strategy(given)
    return given


def start_of(given: Any, kernel: Kernel, density: Any, num_chains: int) -> Start:
    """Where the chains start, given what `where_to_start` returned."""
    if isinstance(given, InitStrategy):
        return Start(None, given, own=True)
    strategy = as_strategy(kernel.init_strategy)
    if given is None:
        return Start(None, strategy)
    layout = Layout.of(density.positions)._replace(dtype="float64")
    if not isinstance(given, (Readable, ChainState)):
        return Start(start_positions(given, layout, num_chains), strategy)
    state: Any = given
    sites = layout.sites
    if isinstance(given, Readable):
        state, sites = given.state, given._record.layout.sites
        given = given._record.layout.unravel(np.asarray(state.position))
    positions = start_positions(given, layout, num_chains)
    if sites != layout.sites:
        _log.info("MCMC.run: start is a run of a model with other sites, or in another order: its metric is left out.")
        return Start(positions, strategy)
    return Start(positions, strategy, False, np.asarray(state.step_size), np.asarray(state.metric.inverse_mass))


def tuned(chains: ChainState, tuning: Tuning, step_size: np.ndarray | None, inverse_mass: np.ndarray | None) -> ChainState:
    """Chains that begin with the step sizes and the metrics of an earlier run, in what the kernel adapts; what the user fixed stays.

    Args:
        chains: at their first positions.
        tuning: the run's.
        step_size: (chain,), or None.
        inverse_mass: (chain, dim) or (chain, dim, dim), or None. Of a dense matrix a diagonal metric takes the diagonal.
    """
    mine = chains.metric.inverse_mass
    if step_size is None or inverse_mass is None or inverse_mass.shape[:2] != mine.shape[:2]:
        return chains
    steps, metric = chains.step_size, chains.metric
    if bool(tuning.adapt_step_size):
        steps = jnp.asarray(step_size, steps.dtype)
    if bool(tuning.adapt_metric):
        given = np.asarray(inverse_mass, mine.dtype)
        if given.ndim > mine.ndim:
            given = np.diagonal(given, axis1=1, axis2=2)
        elif given.ndim < mine.ndim:
            given = given[:, :, None] * np.eye(given.shape[1], dtype=given.dtype)
        metric = jax.vmap(metric_of)(jnp.asarray(given))
    adaptation = jax.vmap(start_adaptation)(steps, metric.inverse_mass)
    return chains._replace(step_size=steps, metric=metric, adaptation=adaptation)
