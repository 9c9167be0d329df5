"""Modules of flax and equinox lifted into sites: every array of numbers that a module learns becomes a site, named by its path.

    net = lc.random_module("net", nn.Sequential([nn.Dense(20), nn.tanh, nn.Dense(1)]))      # inside a model
    mean = net(x)[:, 0]                                     # sites net.layers_0.kernel, net.layers_0.bias, net.layers_2.kernel, ...

A flax.linen module has no arrays of its own: its sites are drawn when it is called first, in the shapes that it has there. Any other
module is a tree, whose floating point arrays are its parameters: equinox's, or a dataclass of one's own.
"""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import jax
import numpy as np
from numpyro import distributions as dist

from ...transforms import ModelError
from ..language import sample

__all__ = ["random_module"]

Prior = Any  # a number, a distribution, (path, shape) -> one of them, or a dict of them by pattern


def random_module(name: str, module: Any, prior: Prior = 1.0) -> Callable[..., Any]:
    """A module of flax or equinox whose parameters are sites, to be called as the module is.

    Args:
        name: path of the sites: `name.` and the parameter's own path, "net.Dense_0.kernel".
        module: of flax.linen or flax.nnx, of equinox, or any other callable pytree. What it holds besides its floating point arrays stays
            as it is; initial values are forgotten.
        prior: of each parameter. A number s: Normal(0, s / sqrt(inputs)) for arrays of two or more axes, Normal(0, s) for vectors; all axes
            but the last are inputs with flax, all but the first otherwise. A distribution: each element has it. A function of (path,
            shape) that returns a number or a distribution. A dict of numbers and distributions by path, or by pattern with `*`; the first
            that fits counts, and one has to.

    Returns:
        A function of the module's inputs.

    Raises:
        ModelError: the module is no callable with parameters; a parameter has no prior, or one of another shape; the module carries state
            that changes as it is called (batch statistics, random numbers), which a density cannot.

    Source:
        NumPyro's `random_flax_module`, whose models run too; here parameters without a prior do not exist.
    """
    if not isinstance(name, str) or not name:
        raise ModelError(f"random_module: name is {name!r}; a text expected.")
    if not callable(module):
        raise ModelError(
            f"random_module {name!r}: found a {type(module).__name__}, which cannot be called; a module expected, not its parameters."
        )
    lifted = _Lifted(name, prior)
    if _is_of(module, "flax.linen"):
        return _linen(lifted, module)
    return _nnx(lifted, module) if _is_of(module, "flax.nnx") else _tree(lifted, module)


class _Lifted:
    """Draws the parameters of one module.

    Args:
        name: of the module. prior: as for `random_module`.
    """

    def __init__(self, name: str, prior: Prior) -> None:
        self.name, self.prior = name, prior

    def draw(self, path: str, shape: tuple[int, ...], inputs: slice) -> Any:
        """The value of one parameter. inputs: which axes are."""
        found = self._prior(path, shape)
        if isinstance(found, (int, float, np.number)) and not isinstance(found, bool):
            count = int(np.prod(shape[inputs])) if len(shape) > 1 else 1
            if not found > 0:
                raise ModelError(f"random_module {self.name!r}: the prior's scale for {path!r} is {found!r}; a positive number expected.")
            found = dist.Normal(0.0, found / count**0.5)
        if not isinstance(found, dist.Distribution):
            kind = type(found).__name__
            raise ModelError(f"random_module {self.name!r}: the prior of {path!r} is a {kind}; a number or a distribution expected.")
        batch = shape[: len(shape) - found.event_dim]
        try:
            expanded = found.expand(batch)
        except ValueError as e:
            raise self._misfit(path, shape, found) from e
        if expanded.shape() != shape:
            raise self._misfit(path, shape, found)
        return sample(f"{self.name}.{path}", expanded.to_event(len(batch)) if batch else expanded)

    def _prior(self, path: str, shape: tuple[int, ...]) -> Any:
        if isinstance(self.prior, Mapping):
            fits = [p for pattern, p in self.prior.items() if fnmatchcase(path, pattern)]
            if not fits:
                raise ModelError(
                    f"random_module {self.name!r}: no prior for {path!r}, shape {shape}; the dict has {list(self.prior)}. Add it, or "
                    'a pattern that it fits, "*".'
                )
            return fits[0]
        if callable(self.prior) and not isinstance(self.prior, dist.Distribution):
            return self.prior(path, shape)
        return self.prior

    def _misfit(self, path: str, shape: tuple[int, ...], found: Any) -> ModelError:
        return ModelError(
            f"random_module {self.name!r}: {path!r} has shape {shape}, and its prior {found.shape()}; give a distribution of one number, "
            "or of that shape."
        )

    def nothing(self, module: Any) -> ModelError:
        return ModelError(f"random_module {self.name!r}: {type(module).__name__} has no floating point array to give a prior to.")

    def state(self, kinds: list[str]) -> ModelError:
        return ModelError(
            f"random_module {self.name!r}: the module carries {', '.join(kinds)}, state that changes as it is called, and a density is a "
            "function of the parameters alone. Write it without (LayerNorm or GroupNorm for BatchNorm, no Dropout), or for inference only."
        )


def _linen(lifted: _Lifted, module: Any) -> Callable[..., Any]:
    drawn: list[Any] = []

    def call(*args: Any, **kwargs: Any) -> Any:
        if not drawn:
            variables = jax.eval_shape(lambda key: module.init(key, *args, **kwargs), jax.random.key(0))
            state = [kind for kind in variables if kind != "params"]
            if state:
                raise lifted.state(state)
            if "params" not in variables:
                raise lifted.nothing(module)
            drawn.append(jax.tree.map_with_path(lambda path, leaf: lifted.draw(_path(path), leaf.shape, slice(-1)), variables["params"]))
        return module.apply({"params": drawn[0]}, *args, **kwargs)

    return call


def _nnx(lifted: _Lifted, module: Any) -> Callable[..., Any]:
    from flax import nnx

    graph, params, rest = nnx.split(module, nnx.Param, ...)
    others = sorted({type(v).__name__ for v in jax.tree.leaves(rest, is_leaf=lambda x: isinstance(x, nnx.Variable))})
    if others:
        raise lifted.state(others)
    values = nnx.to_pure_dict(params)
    if not jax.tree.leaves(values):
        raise lifted.nothing(module)
    values = jax.tree.map_with_path(lambda path, leaf: lifted.draw(_path(path), leaf.shape, slice(-1)), values)
    nnx.replace_by_pure_dict(params, values)
    return nnx.merge(graph, params, rest)


def _tree(lifted: _Lifted, module: Any) -> Callable[..., Any]:
    leaves, tree = jax.tree_util.tree_flatten_with_path(module)
    if not any(_is_parameter(leaf) for _, leaf in leaves):
        raise lifted.nothing(module)
    if _has_state_index(module):
        raise lifted.state(["StateIndex"])
    drawn = [lifted.draw(_path(path), np.shape(leaf), slice(1, None)) if _is_parameter(leaf) else leaf for path, leaf in leaves]
    return jax.tree.unflatten(tree, drawn)


def _has_state_index(module: Any) -> bool:
    """Whether equinox keeps state of the module elsewhere, under a number."""
    return any(_is_index(x) for x in jax.tree.leaves(module, is_leaf=_is_index))


def _is_index(value: Any) -> bool:
    return type(value).__name__ == "StateIndex"


def _is_parameter(leaf: Any) -> bool:
    return isinstance(leaf, (np.ndarray, jax.Array)) and jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating)


def _is_of(value: Any, library: str) -> bool:
    """Whether a class of that library is among a value's classes; nothing is imported for the answer."""
    return any(f"{c.__module__}.".startswith(f"{library}.") for c in type(value).__mro__)


def _path(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
