"""Priors on the weights of a network that was written without them: one distribution for each array, by path or by rule."""

import math
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from jax.core import Tracer
from numpyro.distributions import Distribution, Normal

from ...transforms import ModelError

__all__ = ["Prior", "fan_in_normal", "some_of", "weight_priors"]

Prior = Distribution | Callable[[str, tuple[int, ...]], "Distribution | None"] | Mapping[str, "Distribution | None"]


def fan_in_normal(scale: Any = 1.0, bias_scale: Any = 1.0) -> Callable[[str, tuple[int, ...]], Distribution]:
    """A prior for the weights of a network whose outputs keep their size however wide its layers are.

        kernels  Normal(0, scale / sqrt(fan_in))      biases  Normal(0, bias_scale)      gains  Normal(1, bias_scale)

    fan_in is the number of inputs that one output sums over. It is read off the name of the array and its shape: of `weight...` (equinox:
    outputs first) the product of all axes but the first; of `query.kernel`, `key.kernel` and `value.kernel` with three axes (flax's
    attention: heads after the inputs) the first axis; of an `embedding` 1, because one row is read; of everything else with two axes or
    more (flax's kernels, `x @ w`) the product of all axes but the last. What is named `...bias...` is a bias. Of the arrays with at most
    one axis, `scale` and `weight` are the gains of a normalising layer, and the others count as biases.

    Args:
        scale: a positive number, or a latent one: `lc.fan_in_normal(lc.sample("tau", dist.HalfNormal(1)))`.
        bias_scale: the same, of biases and of gains.

    Returns:
        (path, shape) -> the distribution of one element; a `prior` for `lc.random_module`.

    Raises:
        ModelError: a scale that is not positive, or is no single number.

    Source: R. M. Neal, Bayesian Learning for Neural Networks (1996), section 2.1.1: priors that converge as a layer grows.
    """
    for what, value in (("scale", scale), ("bias_scale", bias_scale)):
        if np.ndim(value) or not (isinstance(value, Tracer) or (np.isreal(value) and float(value) > 0)):
            raise ModelError(f"fan_in_normal: {what} is {value!r}; expected a positive number, or a latent one such as a HalfNormal's.")

    def prior(path: str, shape: tuple[int, ...]) -> Distribution:
        *_, around, last = ("", *path.split("."))
        if "bias" in last:
            return Normal(0.0, bias_scale)
        if len(shape) < 2:
            return Normal(1.0 if last in ("scale", "weight") else 0.0, bias_scale)
        return Normal(0.0, scale / math.sqrt(max(_fan_in(around, last, shape), 1)))

    return prior


def _fan_in(around: str, last: str, shape: tuple[int, ...]) -> int:
    if last == "embedding":
        return 1
    if last.startswith("weight"):
        return math.prod(shape[1:])
    if around in ("query", "key", "value") and len(shape) == 3:
        return shape[0]
    return math.prod(shape[:-1])


def weight_priors(name: str, prior: Prior, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Distribution | None]:
    """The distribution of each array of the module `name`, over all its axes as one event; None for one that keeps its value.

    Args:
        prior: one distribution for all; a rule (path, shape) -> distribution; or distributions by path or pattern, see `random_module`.
        shapes: the arrays by path inside the module.

    Raises:
        ModelError: no such prior; an array that no entry matches, an entry that matches no array, a distribution that does not fit.
    """
    if isinstance(prior, Distribution):
        found: Mapping[str, Any] = dict.fromkeys(shapes, prior)
    elif isinstance(prior, Mapping):
        found = _matched(name, prior, shapes)
    elif callable(prior) and not isinstance(prior, type):
        found = {path: prior(path, shape) for path, shape in shapes.items()}
    else:
        raise ModelError(
            f"random_module {name!r}: prior is {_what(prior)}; expected a distribution for all parameters (`dist.Normal(0, 1)`), a dict "
            'by path or pattern (`{"*.bias": dist.Normal(0, 1), "*": dist.Normal(0, 0.1)}`), or a function of (path, shape).'
        )
    return {path: None if d is None else _fitted(f"{name}.{path}", shapes[path], d) for path, d in found.items()}


def _matched(name: str, prior: Mapping[str, Any], shapes: Mapping[str, Any]) -> dict[str, Any]:
    """By array the entry with its path, or else the first whose pattern it matches."""
    spelled = {path: (path, f"{name}.{path}") for path in shapes}
    keys: dict[str, str] = {}
    for path, names in spelled.items():
        exact = [key for key in prior if key in names]
        key = next(iter([*exact, *(k for k in prior if any(fnmatchcase(n, str(k)) for n in names))]), None)
        if key is None:
            raise ModelError(
                f"random_module {name!r}: no entry of prior is for the parameter {path!r} of shape {shapes[path]}; found "
                f'{some_of(prior)}. Add `"{path}": dist.Normal(0, 1)`, or `"*": ...` for all that is left; None keeps a parameter at its '
                "value."
            )
        keys[path] = key
    unused = [k for k in prior if k not in keys.values() and not any(fnmatchcase(n, str(k)) for names in spelled.values() for n in names)]
    if unused:
        raise ModelError(
            f"random_module {name!r}: the entry {unused[0]!r} of prior matches no parameter; the parameters are {some_of(shapes)}."
        )
    return {path: prior[key] for path, key in keys.items()}


def _fitted(site: str, shape: tuple[int, ...], prior: Any) -> Distribution:
    if not isinstance(prior, Distribution):
        raise ModelError(f"site {site!r}: the prior is {_what(prior)}; expected a distribution, such as `dist.Normal(0, 1)`, or None.")
    events = prior.event_dim
    batch = shape[: max(len(shape) - events, 0)]
    try:
        fits = (*batch, *prior.event_shape) == shape and np.broadcast_shapes(batch, prior.batch_shape) == batch
    except ValueError:
        fits = False
    if not fits:
        event = f" and event shape {tuple(prior.event_shape)}" if events else ""
        raise ModelError(
            f"site {site!r}: the prior has batch shape {tuple(prior.batch_shape)}{event}, and the parameter has shape {shape}. Give the "
            "distribution of one element, which is expanded, or one whose shape broadcasts to the parameter's."
        )
    return prior.expand(batch).to_event(len(batch)) if batch else prior


def some_of(names: Any, most: int = 8) -> str:
    """The first names of a collection, in words."""
    shown = [repr(n) for n in names]
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "") if shown else "none"


def _what(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"{value!r} (a {type(value).__name__})"
