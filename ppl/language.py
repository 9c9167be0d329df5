"""The five statements of the model language. They are NumPyro's, with earlier and clearer errors, so either spelling works anywhere.

@lc.model
def eight_schools(J, sigma, y=None):
    mu = lc.sample("mu", dist.Normal(0, 5))
    tau = lc.sample("tau", dist.HalfCauchy(5))
    with lc.plate("school", J):
        theta = lc.sample("theta", dist.Normal(mu, tau))
        lc.sample("y", dist.Normal(theta, sigma), obs=y)
"""

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpyro
from numpyro import handlers
from numpyro.distributions import Distribution
from numpyro.primitives import _PYRO_STACK

from ..transforms import ModelError
from .bridge import current_bridge
from .gate import as_array
from .labels import labels_of

__all__ = ["condition", "deterministic", "factor", "model", "plate", "sample"]


def model(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a function as a model. Optional: every function with these statements is one, NumPyro's models included.

    A marked function refuses to be called on its own, where its statements would have no meaning.
    """

    @functools.wraps(function)
    def marked(*args: Any, **kwargs: Any) -> Any:
        if not _PYRO_STACK:
            raise _outside(f"model {function.__name__!r}")
        return function(*args, **kwargs)

    return marked


def sample(
    name: str,
    fn: Distribution,
    obs: Any = None,
    *,
    sample_shape: tuple[int, ...] = (),
    infer: dict[str, Any] | None = None,
    obs_mask: Any = None,
) -> Any:
    """A random choice: `name ~ fn`, or the observation `obs ~ fn`.

    Args:
        name: unique in the model.
        fn: a distribution from `luciole.dist` (numpyro.distributions).
        obs: the observed value, of shape batch + event of `fn`; None makes the site latent.
        sample_shape: further independent dimensions, to the left of the distribution's batch shape.
        infer: hints for inference algorithms, passed on.
        obs_mask: boolean, of the batch shape or broadcastable to it: False where the value is missing, whatever stands in `obs` there.
            What is missing is a latent site `name_unobserved` of shape (number missing, *event), in the order of the array, loops first;
            what is there the observed site `name_observed`. Without `obs` it plays no part.

    Returns:
        The value, of shape sample_shape + batch + event. With `obs_mask` it is put together from both, and recorded under `name`.

    Raises:
        ModelError: outside a model; `fn` is no distribution; `obs` is not numeric, has NaN, does not fit, or lies outside the support.
    """
    _check_name(name, "sample")
    if not isinstance(fn, Distribution):
        raise ModelError(
            f"site {name!r}: found a {type(fn).__module__}.{type(fn).__name__}, expected a distribution. Write for example "
            f'`lc.sample("{name}", dist.Normal(0, 1))` with `from luciole import dist`.'
        )
    if not _PYRO_STACK:
        raise _outside(f"site {name!r}")
    if obs is not None:
        obs = as_array(obs, f"site {name!r}: obs")
    if obs is None:
        obs_mask = None
    elif obs_mask is not None:
        obs_mask = as_array(obs_mask, f"site {name!r}: obs_mask")
        fn, sample_shape = _masked(name, fn, sample_shape, obs, obs_mask), ()
    return numpyro.sample(name, fn, obs=obs, sample_shape=sample_shape, infer=infer, obs_mask=obs_mask)


def _masked(name: str, fn: Distribution, sample_shape: tuple[int, ...], obs: Any, obs_mask: Any) -> Distribution:
    """The distribution of an observation that is given in part, with all axes of the two; NumPyro forgets `sample_shape` there."""
    if obs_mask.dtype != bool:
        raise ModelError(
            f"site {name!r}: obs_mask has dtype {obs_mask.dtype}; expected booleans, True where the value is observed, such as "
            "`obs_mask=~jnp.isnan(y)`."
        )
    batch = (*sample_shape, *fn.batch_shape)
    events = np.ndim(obs) - len(fn.event_shape)
    try:
        shape = np.broadcast_shapes(batch, np.shape(obs)[: max(events, 0)], obs_mask.shape)
        if fn.event_shape and obs_mask.ndim > max(len(batch), events):
            raise ValueError
    except ValueError:
        raise ModelError(
            f"site {name!r}: obs_mask has shape {obs_mask.shape} and obs {np.shape(obs)}, and the distribution has batch shape {batch} and "
            f"event shape {tuple(fn.event_shape)}. Give one truth value for each event of `obs`; an event is there or missing as a whole."
        ) from None
    return fn if shape == fn.batch_shape else fn.expand(shape)


def deterministic(name: str, value: Any) -> Any:
    """Record `value` under `name` in every draw. Returns it."""
    _check_name(name, "deterministic")
    if not _PYRO_STACK:
        raise _outside(f"site {name!r}")
    return numpyro.deterministic(name, as_array(value, f"site {name!r}: value"))


def factor(name: str, log_factor: Any) -> None:
    """Add `log_factor` (nats, summed over all its elements) to the log joint density."""
    _check_name(name, "factor")
    if not _PYRO_STACK:
        raise _outside(f"site {name!r}")
    numpyro.factor(name, as_array(log_factor, f"site {name!r}: log_factor"))


def condition(model: Callable[..., Any], values: Mapping[str, Any]) -> Callable[..., Any]:
    """The model with the named sites observed at `values` (constrained)."""
    return handlers.condition(model, data=dict(values))


class plate(numpyro.plate):
    """Conditionally independent sites: `with lc.plate("school", 8):` broadcasts every site inside to size 8 along one batch dimension.

    Args:
        name: the plate's name; it becomes a dimension of the ArviZ result.
        size: a positive Python integer.
        dim: negative, the batch dimension counted from the right; by default the rightmost one that is free.
        coords: labels of the `size` elements, for the ArviZ result: strings, numbers, or dates (which become `datetime64`).

    Raises:
        ModelError: the size is not positive or not known, `dim` is not negative or is taken, `coords` has another length.
    """

    def __init__(self, name: str, size: int, dim: int | None = None, coords: Sequence[Any] | None = None) -> None:
        _check_name(name, "plate")
        try:
            size = operator.index(size)
        except TypeError:
            raise ModelError(
                f"plate {name!r}: the size is {size!r}; expected an integer that is known before the model runs, such as `len(y)` "
                "or `y.shape[0]`."
            ) from None
        if size <= 0:
            raise ModelError(f"plate {name!r}: the size is {size}; expected a positive integer. Is the data empty?")
        if dim is not None and dim >= 0:
            raise ModelError(f"plate {name!r}: dim is {dim}; expected a negative integer, counted from the right (-1 is the last).")
        taken = {h.dim: h.name for h in _PYRO_STACK if isinstance(h, numpyro.plate)}
        if dim in taken:
            raise ModelError(
                f"plate {name!r}: dim {dim} is taken by the plate {taken[dim]!r} around it; leave `dim` out or choose another."
            )
        if coords is not None:
            labels = labels_of(coords)
            if len(labels) != size:
                raise ModelError(f"plate {name!r}: {len(labels)} coords were given for size {size}; expected one label for each element.")
            bridge = current_bridge()
            if bridge is not None:
                bridge.announced = labels
        super().__init__(name, size, dim=dim)

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample":
            shape = (*msg["kwargs"].get("sample_shape", ()), *msg["fn"].batch_shape)
            if len(shape) >= -self.dim and shape[self.dim] not in (1, self.size):
                raise ModelError(
                    f"site {msg['name']!r}: batch shape {shape} has {shape[self.dim]} at dimension {self.dim}, where the plate "
                    f"{self.name!r} has size {self.size}. Make the plate's size and the distribution's arguments agree, or put the "
                    "plate on another dimension with `dim=`."
                )
        super().process_message(msg)


def _check_name(name: Any, statement: str) -> None:
    if not isinstance(name, str) or not name:
        raise ModelError(f"{statement}: found {name!r} where the name belongs; expected a string that is not empty.")


def _outside(what: str) -> ModelError:
    return ModelError(
        f"{what} was reached outside a model. A model is run by `lc.MCMC(lc.NUTS(model)).run(key, ...)`, "
        "`lc.prior_predictive(model, key, n, ...)` or `lc.log_density(model, ...)`, not by calling it."
    )
