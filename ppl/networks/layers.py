"""Layers as functions with priors: a layer is called inside a model, and each of its weights is a site named by path.

    hidden = jax.nn.relu(lc.dense("hidden", x, 100, scale=2.0))     # sites hidden.w (inputs, 100) and hidden.b (100,)
    mean = lc.dense("out", hidden)                                  # out.w (100,), out.b (): one number per row

Priors are Normal(0, scale / sqrt(inputs)): at any width the sum over inputs of variance one has variance scale^2 (Neal 1996, section
2.1). A `scale` may itself be drawn, and then the data choose it.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from numpyro import distributions as dist

from ...transforms import ModelError
from ..language import sample

__all__ = ["dense", "embedding", "weights"]


def weights(name: str, shape: tuple[int, ...], scale: Any, fan_in: int = 1) -> Any:
    """One array of weights as a site: every element is Normal(0, scale / sqrt(fan_in)).

    Args:
        name: the site's name. shape: of the array.
        scale: a positive number, or a scalar drawn by the model. fan_in: number of terms of the sum that the weights stand in.

    Raises:
        ModelError: the scale is no positive number, or the layer stands in a plate, which would give each row weights of its own.
    """
    if isinstance(scale, (int, float, np.number)) and not (scale > 0 and np.isfinite(scale)):
        raise ModelError(f"{name}: the prior's scale is {scale!r}; a positive number expected.")
    prior = dist.Normal(0.0, scale / np.sqrt(fan_in).item())
    value = sample(name, prior.expand(shape).to_event(len(shape)) if shape else prior)
    if jnp.shape(value) != shape:
        raise ModelError(
            f"site {name!r}: its shape is {jnp.shape(value)} and not {shape}: the layer stands inside of a plate, where every row would "
            "have weights of its own. Call it before the plate."
        )
    return value


def dense(name: str, x: Any, units: int | None = None, *, scale: Any = 1.0, bias_scale: Any = 1.0) -> Any:
    """x w + b, with w ~ Normal(0, scale^2 / inputs) and b ~ Normal(0, bias_scale^2): sites `name.w` and `name.b`.

    Args:
        name: path of the layer; its sites stand below it.
        x: (..., inputs).
        units: number of outputs; None for one number per row, without an axis.
        scale, bias_scale: of the priors; numbers, or scalars that the model draws. bias_scale=None: no bias.

    Returns:
        (..., units), or (...) where units is None.

    Raises:
        ModelError: x has no axis of inputs, units is no positive whole number, a scale is not positive.

    Source:
        Neal (1996), Bayesian Learning for Neural Networks, section 2.1, for priors that scale with the width.
    """
    x = jnp.asarray(x)
    if not x.ndim or not x.shape[-1]:
        raise ModelError(f"dense {name!r}: x has shape {x.shape}; (..., inputs) expected, with at least one input.")
    columns = _size(units, f"dense {name!r}: units") if units is not None else ()
    x = x.astype(jnp.result_type(float))
    out = x @ weights(f"{name}.w", (x.shape[-1], *columns), scale, x.shape[-1])
    return out if bias_scale is None else out + weights(f"{name}.b", columns, bias_scale)


def embedding(name: str, index: Any, count: int, units: int, *, scale: Any = 1.0) -> Any:
    """A vector for each of `count` things, Normal(0, scale^2) each: site `name.w`, (count, units); rows taken by `index`.

    Args:
        name: path of the layer.
        index: integers from 0 to count - 1, of any shape. Known ones are checked.
        count, units: number of things, and of numbers for each.
        scale: of the prior.

    Returns:
        (*index.shape, units).

    Raises:
        ModelError: an index is no integer or outside of 0 .. count - 1, or count or units is no positive whole number.
    """
    size = (*_size(count, f"embedding {name!r}: count"), *_size(units, f"embedding {name!r}: units"))
    if not jnp.issubdtype(jnp.result_type(index), jnp.integer):
        raise ModelError(f"embedding {name!r}: index has dtype {jnp.result_type(index)}; integers expected.")
    if isinstance(index, (int, list, np.ndarray)) and np.size(index) and not (0 <= np.min(index) and np.max(index) < count):
        raise ModelError(
            f"embedding {name!r}: index goes from {np.min(index)} to {np.max(index)}; 0 to {count - 1} expected (count={count})."
        )
    return jnp.take(weights(f"{name}.w", size, scale), jnp.asarray(index), axis=0)


def _size(value: Any, what: str) -> tuple[int]:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
        raise ModelError(f"{what} is {value!r}; a positive whole number expected.")
    return (int(value),)
