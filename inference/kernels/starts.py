"""Where chains start: the search for a point that a sampler can leave, and the user's own points."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...ppl import InitStrategy
from ...ppl.gate import as_array
from ...transforms.autobatch import program
from ...transforms.bounded import bounded_jit
from ...transforms.errors import InitError, ModelError, SamplerError
from ...transforms.keys import random_key
from ...transforms.streams import random_bits
from .coordinates import every
from .layout import Layout
from .purposes import Purpose
from .records import ChainState

__all__ = ["MAX_TRIES", "init_error", "proposed_starts", "searching", "start_positions", "staying"]

MAX_TRIES = 100


def searching(density, initial, uses_gradient=True, layout=None):
    """The program that finds where a chain starts: the first of at most 100 points with finite gradient and *resolved* log density.

    A log density is resolved where its own rounding error is below a nat, |log p| * eps < 1. Beyond that the acceptance test is
    noise and the step size adapts to noise: an ARMA(1, 1) that starts where its residuals explode, at -1e98 nats, stays there.
    Without a resolved point the best of the finite ones is taken.

    Args:
        density: program, position (dim,) and () -> (log density (), gradient (dim,), or (0,) if the kernel uses none, ()).
        initial: key words, uint32 (2,), and the chain's fixed values -> position (dim,).
        uses_gradient: of the kernel.
        layout: of the vectors, where they lie split over devices.

    Returns:
        A program of the chain's state, whether to take its position, if finite, instead of drawing one, bool (), and the fixed values. It
        returns the state at the start, whether log density and gradient are finite there, bool (), and the number of points tried,
        int32 ().
    """

    @program
    def search(state, given, fixed):
        start = state.position
        position, log_density, gradient = start, jnp.zeros((), start.dtype), jnp.zeros_like(start[: start.size * uses_gradient])
        tries, ok, resolved = jnp.int32(0), jnp.bool_(False), False
        while tries < (1 if given else MAX_TRIES) and not resolved:
            words = jnp.stack(random_bits(state.stream, Purpose.START, (), tries))
            point = start if given else initial(words, fixed)
            value, slope, _ = density(point, ())
            finite = jnp.isfinite(value) & every(layout if uses_gradient else None, jnp.isfinite(slope))
            if not ok or (finite and value > log_density):
                position, log_density, gradient, ok = point, value, slope, finite
            resolved = ok and jnp.abs(log_density) * jnp.finfo(log_density.dtype).eps < 1
            tries = tries + 1
        return state._replace(position=position, log_density=log_density, gradient=gradient), ok, tries

    return search


@program
def staying(state, given, fixed):
    """The program of a chain that has its start."""
    return state, jnp.isfinite(state.log_density), jnp.int32(0)


def start_positions(init_params: Any, layout: Layout, num_chains: int) -> np.ndarray:
    """The user's unconstrained starting points as vectors, (chain, dim); zeros when there are none.

    Args:
        init_params: by site, the site's unconstrained shape, with or without a leading chain axis; or one array in the layout's order,
            (dim,) or (chain, dim); or the state of chains.
        layout: of the vector.
        num_chains: number of chains.

    Raises:
        SamplerError: a site is unknown, missing, or has the wrong shape.
    """
    vectors = np.zeros((num_chains, layout.dim), layout.dtype)
    if init_params is None:
        return vectors
    if isinstance(init_params, ChainState):
        init_params = init_params.position
    if isinstance(init_params, (np.ndarray, jax.Array)):
        vectors[:] = _fitting("init_params", init_params, (layout.dim,), num_chains)
        return vectors
    if not isinstance(init_params, Mapping):
        raise SamplerError(
            f"init_params: {type(init_params).__name__} found, a dict of unconstrained arrays by site expected, or an earlier MCMC, its "
            f"state, an array (chain, {layout.dim}), or init_to_value(...) for constrained values."
        )
    known = [name for name, _, _ in layout.sites]
    unknown = [name for name in init_params if name not in known]
    missing = [name for name in known if name not in init_params]
    if unknown or missing:
        raise SamplerError(
            f"init_params: unknown sites {unknown}, missing sites {missing}; the model's sites are {known}. Give the unconstrained value "
            "of each; or, for constrained values of some, write init_params=init_to_value({...}), or start=mcmc for the end of a run."
        )
    start = 0
    for name, shape, _ in layout.sites:
        value = _fitting(f"init_params[{name!r}]", init_params[name], shape, num_chains).reshape(num_chains, -1)
        vectors[:, start : start + value.shape[1]] = value
        start += value.shape[1]
    return vectors


def _fitting(what: str, value: Any, shape: tuple[int, ...], num_chains: int) -> np.ndarray:
    """A value of that shape for all chains, or for each, as (chain, *shape)."""
    try:
        value = np.asarray(as_array(value, what))
    except ModelError as e:
        raise SamplerError(str(e)) from None
    except Exception:  # abstract values
        value = np.asarray(None)
    if value.dtype.kind not in "biuf":
        raise SamplerError(f"{what}: values of dtype {value.dtype} found, numbers expected.")
    if value.shape not in (shape, (num_chains, *shape)):
        raise SamplerError(
            f"{what}: shape {value.shape} found, {shape} or, one for each chain, {(num_chains, *shape)} expected (unconstrained "
            "values). For constrained ones, of `get_samples` say, write init_params=init_to_value({...}); for the end of an earlier run "
            "start=mcmc, with as many chains."
        )
    return np.broadcast_to(value, (num_chains, *shape))


def proposed_starts(density: Any, words: Any, strategy: InitStrategy, num_chains: int, fixed: dict[str, Any]) -> dict[str, np.ndarray]:
    """Starting points from a strategy, by site, (chain, ...) each, for kernels that search for none."""
    keys = jax.random.split(random_key(words), num_chains)
    starts = [_proposed(density, key, strategy, {name: value[i] for name, value in fixed.items()}) for i, key in enumerate(keys)]
    return {name: np.stack([np.asarray(start[name]) for start in starts]) for name in starts[0]}


@bounded_jit(static_argnums=2)
def _proposed(density: Any, key: Any, strategy: InitStrategy, fixed: dict[str, Any]) -> Any:
    return density.init(key, strategy, fixed)


def init_error(
    density, layout: Layout, positions: np.ndarray, ok: np.ndarray, given: bool, uses_gradient: bool, fixed: Mapping[str, Any]
) -> InitError:
    """The error to raise when a chain found no start.

    Args:
        density: the log density, whose `report` describes a position site by site.
        layout: of the positions.
        positions: (chain, dim). The last ones tried.
        ok: bool, (chain,). Not all true.
        given: whether the positions were the user's.
        uses_gradient: whether the kernel needs a gradient there.
        fixed: constrained values that the strategy brought, by site, (chain, ...).
    """
    chain = int(np.argmin(ok))
    position = layout.unravel(positions[chain])
    for name, value in fixed.items():
        if not np.isfinite(position[name]).all():
            return InitError(
                f"chain {chain} found no valid starting point. init_to_value: the value {np.asarray(value)[chain]} of site {name!r} has no "
                "unconstrained counterpart: it is outside its support, which depends on other sites. Give a value inside."
            )
    tried = "The given init_params (unconstrained values) have" if given else f"{MAX_TRIES} starting points were drawn, all with"
    what = "log density or gradient" if uses_gradient else "log density"
    advice = (
        "Check the data for values outside a distribution's support and for NaN; start elsewhere with "
        "init_strategy=init_to_median() or init_to_value(...); or reparametrise the model."
    )
    return InitError(
        f"chain {chain} found no valid starting point. {tried} a {what} that is not finite. "
        f"The last one:\n{density.report(position, uses_gradient)}\n{advice}"
    )
