"""Modules of flax, equinox and other libraries lifted into models: each array of parameters becomes a site.

A module is taken apart into arrays with paths and a function that puts it together again from other arrays (`_Parts`); there is one such
way for each kind of module. The libraries are never imported here: whoever has a module of one of them has imported it.

Sharp edge: to a pytree (equinox) every float array is a parameter, a constant that is kept in a field too. Hold it with a prior of None.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import Distribution

from ...transforms import ModelError
from ..language import sample
from .priors import Prior, fan_in_normal, some_of, weight_priors

__all__ = ["random_module"]

_ARRAYS = (jax.Array, np.ndarray, jax.ShapeDtypeStruct)


class _Parts(NamedTuple):
    """A module taken apart.

    Attributes:
        paths: of every leaf, steps joined by dots: "Dense_0.kernel", "layers.0.weight".
        leaves: arrays, or their shapes and dtypes where the module has no values; whatever else the module holds.
        build: leaves -> what the model calls.
    """

    paths: list[str]
    leaves: list[Any]
    build: Callable[[Sequence[Any]], Callable[..., Any]]


def random_module(
    name: str, module: Any, prior: Prior | None = None, *, input_shape: Sequence[int] | None = None, example: Any = None, **init: Any
) -> Callable[..., Any]:
    """Lift a module into the model: a network whose weights are latent sites.

        net = lc.random_module("net", MLP(), prior={"*.bias": dist.Normal(0, 1), "*": dist.Normal(0, 0.1)}, input_shape=(1, 8))
        lc.sample("y", dist.Normal(net(x)[:, 0], 0.1), obs=y)

    Every float array w of the module becomes a site "net.<path>" of the array's shape, w ~ prior, all axes one event. Everything else
    (integers, booleans, functions, static fields) stays. The module itself is not changed, and its weights have no effect.

    Args:
        name: what the sites' names begin with; the same module may be lifted twice under two names.
        module: a flax linen or nnx module, an equinox module, or any other callable pytree of arrays.
        prior: one of

            - a distribution, for every parameter: of one element, or of a shape that broadcasts to the parameter's;
            - a dict from path ("Dense_0.kernel") or pattern ("*.bias", "layers.[01].*") to distribution. Both are read inside the module
              and with its name in front ("net.Dense_0.kernel"). A path goes before patterns, an earlier pattern before a later one, and
              each parameter needs an entry;
            - a function (path, shape) -> distribution;
            - by default `fan_in_normal()`.

            None in place of a distribution keeps a parameter at the module's value.
        input_shape: of a linen module, which has no parameters before it sees an input: the shape of one, batch axes included.
        example: instead of `input_shape`, an input of the linen module, or a tuple of its inputs. Only shapes and dtypes are used. Without
            both, the sites are made when the module is first called, from the inputs of that call.
        init: further keyword arguments of the linen module's call, such as `train=False`.

    Returns:
        What the module is called with: `net(x, **kwargs)`. Of linen `module.apply({"params": weights}, x, **kwargs)`; of a pytree the
        module itself with other arrays, its methods included. Weights are of JAX's default float; those of 16 bits stay of 16.

    Raises:
        ModelError: no module, a module without parameters, one that keeps state (the statistics of batch normalisation, the keys of
            dropout; some show it only when they are called); a parameter without a prior, a prior without a parameter or of another
            shape; a site inside a plate; a call outside of a model.
    """
    if not isinstance(name, str) or not name:
        raise ModelError(f"random_module: found {name!r} where the name belongs; expected a string that is not empty.")
    _check_callable(name, module)
    linen = sys.modules.get("flax.linen")
    if linen is not None and isinstance(module, linen.Module) and input_shape is None and example is None:
        return _at_first_call(name, module, prior, init)
    parts = _taken_apart(name, module, input_shape, example, init)
    chosen = {path: i for i, (path, leaf) in enumerate(zip(parts.paths, parts.leaves, strict=True)) if _is_parameter(name, path, leaf)}
    if not chosen:
        raise ModelError(
            f"random_module {name!r}: the {_kind(module)} has no float arrays, so there is nothing to put a prior on. Call it as it is."
        )
    leaves = list(parts.leaves)
    shapes = {path: tuple(leaves[i].shape) for path, i in chosen.items()}
    for path, distribution in weight_priors(name, fan_in_normal() if prior is None else prior, shapes).items():
        leaves[chosen[path]] = _weights(name, path, leaves[chosen[path]], distribution)
    _check_values(name, zip(parts.paths, leaves, strict=True))
    return parts.build(leaves)


def _at_first_call(name: str, module: Any, prior: Prior | None, init: dict[str, Any]) -> Callable[..., Any]:
    """A linen module that is lifted when it first sees its inputs: the sites stand where that call stands."""
    lifted: list[Callable[..., Any]] = []

    def call(*args: Any, **kwargs: Any) -> Any:
        if not lifted:
            lifted.append(random_module(name, module, prior, example=args, **(init | kwargs)))
        return lifted[0](*args, **kwargs)

    return call


def _check_callable(name: str, module: Any) -> None:
    if isinstance(module, type):
        raise ModelError(
            f"random_module {name!r}: found the class {module.__name__}; expected a module. Make one: `{module.__name__}(...)`."
        )
    if not callable(module):
        raise ModelError(
            f"random_module {name!r}: found a {_kind(module)}, which cannot be called; expected a module of flax or equinox, or a callable "
            "pytree of arrays. A function of its parameters is one as `jax.tree_util.Partial(function, parameters)`."
        )


def _weights(name: str, path: str, leaf: Any, distribution: Distribution | None) -> Any:
    """The value of one parameter: a site's, or the module's own."""
    site = f"{name}.{path}"
    if distribution is None:
        if isinstance(leaf, jax.ShapeDtypeStruct):
            raise ModelError(
                f"site {site!r}: the prior is None, which keeps a module's value, and this module has only shapes. Give a distribution, "
                "such as `dist.Normal(0, 1)`."
            )
        return leaf
    value = sample(site, distribution)
    if value.shape != tuple(leaf.shape):
        raise ModelError(
            f"site {site!r}: stands inside a plate, which makes a parameter of shape {tuple(leaf.shape)} one of {value.shape}, and the "
            "module cannot know. Lift the module outside of the plate; for a network by element use `jax.vmap`."
        )
    return value.astype(leaf.dtype) if leaf.dtype.itemsize < 4 else value


def _check_values(name: str, kept: Iterable[tuple[str, Any]]) -> None:
    """What has no prior has a value: linen gives none, and neither has a module that was made by `eval_shape`."""
    for path, leaf in kept:
        if isinstance(leaf, jax.ShapeDtypeStruct):
            raise ModelError(
                f"random_module {name!r}: {path!r} ({leaf.dtype}) gets no prior, and the module has a shape but no value for it. Constants "
                "belong into the code of a linen module; another module has to be made with values, and not by `eval_shape`."
            )


def _is_parameter(name: str, path: str, leaf: Any) -> bool:
    if isinstance(leaf, _ARRAYS) and jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        raise ModelError(
            f"random_module {name!r}: the parameter {path!r} is complex ({leaf.dtype}), and priors are on real numbers. Write the module "
            "with its real and its imaginary part as two arrays."
        )
    return isinstance(leaf, _ARRAYS) and jnp.issubdtype(leaf.dtype, jnp.floating)


def _taken_apart(name: str, module: Any, input_shape: Sequence[int] | None, example: Any, init: dict[str, Any]) -> _Parts:
    linen, nnx = sys.modules.get("flax.linen"), sys.modules.get("flax.nnx")
    if linen is not None and isinstance(module, linen.Module):
        return _linen(name, module, _inputs(name, input_shape, example), init)
    extra = [*init, *(["input_shape"] if input_shape is not None else []), *(["example"] if example is not None else [])]
    if extra:
        raise ModelError(
            f"random_module {name!r}: the {_kind(module)} has its arrays already, and takes no {extra[0]!r}; only flax's linen modules do. "
            "Leave it out."
        )
    return _nnx(name, module, nnx) if nnx is not None and isinstance(module, nnx.Module) else _pytree(name, module)


def _inputs(name: str, input_shape: Sequence[int] | None, example: Any) -> tuple[Any, ...]:
    """The positional inputs of a linen module; of arrays the shapes."""
    if input_shape is not None and example is not None:
        raise ModelError(f"random_module {name!r}: found both input_shape and example; one of them expected, or none.")
    if input_shape is None:
        return example if type(example) is tuple else (example,)
    if not isinstance(input_shape, (tuple, list)) or not all(isinstance(n, (int, np.integer)) and n >= 0 for n in input_shape):
        raise ModelError(
            f"random_module {name!r}: input_shape is {input_shape!r}; expected a tuple of sizes, such as `(1, 8)` or `x.shape`. For inputs "
            "that are not one float array use `example=`."
        )
    return (jax.ShapeDtypeStruct(tuple(map(int, input_shape)), jnp.result_type(float)),)


def _linen(name: str, module: Any, inputs: tuple[Any, ...], init: dict[str, Any]) -> _Parts:
    """Shapes from `module.init` on shapes: nothing is computed, and no initial value comes into the model."""
    given, inputs_tree = jax.tree.flatten((inputs, init))
    arrays = [i for i, leaf in enumerate(given) if isinstance(leaf, _ARRAYS)]

    def initial(*values: Any) -> Any:
        filled = list(given)
        for i, value in zip(arrays, values, strict=True):
            filled[i] = value
        args, kwargs = jax.tree.unflatten(inputs_tree, filled)
        return module.init(jax.random.key(0), *args, **kwargs)

    variables = dict(jax.eval_shape(initial, *[jax.ShapeDtypeStruct(given[i].shape, given[i].dtype) for i in arrays]))
    state = sorted(collection for collection, tree in variables.items() if collection != "params" and jax.tree.leaves(tree))
    if state:
        raise _stateful(name, f"keeps {some_of(state)} beside its parameters", "batch_stats" in state)
    paths, tree = jax.tree_util.tree_flatten_with_path(variables.get("params", {}))

    def build(leaves: Sequence[Any]) -> Callable[..., Any]:
        weights = jax.tree.unflatten(tree, leaves)

        def apply(*args: Any, **kwargs: Any) -> Any:
            if "rngs" in kwargs:
                raise _random(name, "was called with `rngs=`", "deterministic=True")
            errors = sys.modules["flax.errors"]
            try:
                return module.apply({"params": weights}, *args, **kwargs)
            except errors.InvalidRngError as e:
                raise _random(name, _first_sentence(e), "deterministic=True") from e
            except errors.ModifyScopeVariableError as e:
                raise _stateful(name, _first_sentence(e), False) from e

        return apply

    return _Parts([_unboxed(p) for p, _ in paths], [leaf for _, leaf in paths], build)


def _nnx(name: str, module: Any, nnx: Any) -> _Parts:
    """Variables that are no `Param` stay; a call that changes one is found out by a look at all of them after it."""
    graph, params, others = nnx.split(module, nnx.Param, ...)
    paths, tree = jax.tree_util.tree_flatten_with_path(params)
    kept, _ = jax.tree_util.tree_flatten_with_path(others, is_leaf=lambda node: isinstance(node, nnx.Variable))
    _check_values(name, [(_unboxed(p), leaf) for p, leaf in jax.tree_util.tree_flatten_with_path(others)[0]])
    random = {_path(p) for p, variable in kept if isinstance(variable, nnx.RngState)}

    def variables(merged: Any) -> dict[str, Any]:
        return {_unboxed(p): leaf for p, leaf in jax.tree_util.tree_flatten_with_path(nnx.state(merged))[0]}

    def build(leaves: Sequence[Any]) -> Callable[..., Any]:
        weights = jax.tree.unflatten(tree, leaves)

        def call(*args: Any, **kwargs: Any) -> Any:
            merged = nnx.merge(graph, weights, others, copy=True)  # merged anew in every call, so that no trace is left in a variable
            before = variables(merged)
            result = merged(*args, **kwargs)
            after = variables(merged)
            changed = [path for path, value in before.items() if after.get(path) is not value]
            drawn = [path for path in changed if path in random]
            if drawn:
                raise _random(name, f"drew random numbers: its variable {drawn[0]!r} changed", "module.eval()")
            if changed:
                raise _stateful(name, f"changed its variable {changed[0]!r} when it was called", True)
            return result

        return call

    return _Parts([_unboxed(p) for p, _ in paths], [leaf for _, leaf in paths], build)


def _pytree(name: str, module: Any) -> _Parts:
    """An equinox module, or any other pytree with `__call__`."""
    layers = sys.modules.get("equinox.nn")
    if layers is not None:
        kinds = (layers.StateIndex, layers.Dropout)
        for path, node in jax.tree_util.tree_flatten_with_path(module, is_leaf=lambda node: isinstance(node, kinds))[0]:
            if isinstance(node, layers.StateIndex):
                raise _stateful(name, f"keeps state in {_path(path)!r}", True)
            if isinstance(node, layers.Dropout) and not node.inference and node.p > 0:
                where = _path(path) or "the module itself"
                raise _random(name, f"drops activations at random ({where!r}: {node})", "eqx.nn.inference_mode(module)")
    paths, tree = jax.tree_util.tree_flatten_with_path(module)
    return _Parts([_path(p) for p, _ in paths], [leaf for _, leaf in paths], lambda leaves: jax.tree.unflatten(tree, leaves))


def _path(steps: Sequence[Any]) -> str:
    return jax.tree_util.keystr(tuple(steps), simple=True, separator=".")


def _unboxed(steps: Sequence[Any]) -> str:
    """A path without the attribute in which flax boxes an array: a variable of nnx, an array with names of axes."""
    return _path(steps[:-1] if getattr(steps[-1], "name", "") in ("value", "raw_value") else steps)


def _stateful(name: str, fault: str, normalises: bool) -> ModelError:
    instead = "A normalisation without running statistics has none: LayerNorm, GroupNorm, RMSNorm. " if normalises else ""
    return ModelError(
        f"random_module {name!r}: the module {fault}, and a model is a pure function, whose every run begins the same. {instead}Pass other "
        "state through the module's inputs and outputs."
    )


def _random(name: str, fault: str, switch: str) -> ModelError:
    return ModelError(
        f"random_module {name!r}: the module {fault}, and a model draws only with `sample`. With a prior on the weights dropout has no "
        f"part to play: leave it out, or switch it off with `{switch}`."
    )


def _first_sentence(error: Exception) -> str:
    return f"cannot run ({str(error).partition(' (http')[0].rstrip('.')})"


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__name__}".removeprefix("builtins.")
