"""What a user hands to `hypergradient`, judged before anything is compiled."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...transforms import DerivativeError
from ...transforms.autodiff.trees import leaf_names
from ...transforms.jax_compat import transforming
from ...transforms.reversible.update import by_leaf
from .functions import Bound, Function
from .training import NAMES, Training

__all__ = ["check_training", "trace_functions"]


def _taken_of_two(valid_loss: Callable[..., Any]) -> int:
    """How many of (params, hypers) valid_loss takes."""
    if not callable(valid_loss):
        raise DerivativeError(
            f"hypergradient: valid_loss is a {type(valid_loss).__name__}; a function of (params) or (params, hypers) expected."
        )
    try:
        parameters = inspect.signature(valid_loss).parameters.values()
    except ValueError:  # a function without a signature
        return 2
    asked = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty]
    return 2 if len(asked) > 1 or any(p.kind is p.VAR_POSITIONAL for p in parameters) else 1


def check_training(training: Training, params: Any, hypers: Any, num_steps: int) -> tuple[Any, Any]:
    """Params (an empty tuple if they are a function of hypers) and hypers as arrays.

    Raises:
        DerivativeError: something makes no sense; names it.
    """
    if transforming():
        raise DerivativeError(
            "hypergradient: called inside jit, grad or vmap; it compiles programs of its own and takes concrete arrays. There use "
            "transforms.reversible_loop, which is differentiated like any function."
        )
    if not callable(training.loss):
        raise DerivativeError(
            f"hypergradient: train_loss is a {type(training.loss).__name__}; a function of (params, hypers, step) expected."
        )
    optimiser = training.optimiser
    if not (optimiser in NAMES if isinstance(optimiser, str) else callable(optimiser) or hasattr(optimiser, "update")):
        raise DerivativeError(
            f"hypergradient: optimiser is {optimiser!r}; one of {', '.join(map(repr, NAMES))}, an optax gradient transformation, or a "
            "function (hypers) -> one expected."
        )
    if not isinstance(hypers, dict):
        raise DerivativeError(f"hypergradient: hypers is a {type(hypers).__name__}; a dict with {_listed(training.reads)} expected.")
    if missing := [name for name in training.reads if name not in hypers]:
        raise DerivativeError(
            f"hypergradient: hypers has the entries {sorted(hypers)} and lacks {_listed(missing)}, which optimiser={optimiser!r} reads."
        )
    hypers = _arrays("hypers", hypers)
    shaped = jax.eval_shape(params, hypers) if callable(params) else (params := _arrays("params", params))
    for leaf, name in zip(jax.tree.leaves(shaped), leaf_names(jax.tree.structure(shaped)), strict=True):
        if not jnp.issubdtype(leaf.dtype, np.floating):
            raise DerivativeError(
                f"hypergradient: params{_of(name)} has the type {leaf.dtype}; real floating point numbers expected. Let train_loss close "
                "over what is not trained."
            )
    if not jax.tree.leaves(shaped):
        raise DerivativeError("hypergradient: params has no leaves, so there is nothing to train.")
    for name in training.reads:
        hypers[name] = _schedule(name, hypers[name], shaped, num_steps)
    return (() if callable(params) else params), hypers


def trace_functions(train_loss: Any, valid_loss: Any, params: Any, initial: Any, hypers: Any) -> tuple[Bound, Bound, Bound | None]:
    """train_loss, valid_loss and the function of the initial params, if it is one, as programs. Both losses are real scalars."""
    begin = None if initial is None else Function.trace(initial, hypers)
    start = params if begin is None else begin.function.result
    losses = (
        Function.trace(train_loss, start, hypers, jnp.int32(0)),
        Function.trace(valid_loss, start, hypers, taken=_taken_of_two(valid_loss)),
    )
    for name, loss in zip(("train_loss", "valid_loss"), losses, strict=True):
        made = jax.tree.leaves(loss.function.result)
        if len(made) != 1 or made[0].shape != () or not jnp.issubdtype(made[0].dtype, np.floating):
            found = ", ".join(f"{m.dtype}{list(m.shape)}" for m in made) or "nothing"
            raise DerivativeError(f"hypergradient: {name} returns {found}; one real scalar expected. Take the mean over examples, say.")
    return *losses, begin


def _arrays(what: str, values: Any) -> Any:
    """A pytree of arrays, all finite."""
    leaves, tree = jax.tree.flatten(values)
    made = []
    for value, name in zip(leaves, leaf_names(tree), strict=True):
        if not (hasattr(value, "dtype") or isinstance(value, (bool, int, float))):
            raise DerivativeError(f"hypergradient: {what}{_of(name)} is a {type(value).__name__}; an array or a number expected.")
        made.append(jnp.asarray(value, jnp.result_type(value)))
        if jnp.issubdtype(made[-1].dtype, np.inexact) and not np.isfinite(np.asarray(made[-1])).all():
            raise DerivativeError(f"hypergradient: {what}{_of(name)} has entries that are infinite or NaN; finite numbers expected.")
    return jax.tree.unflatten(tree, made)


def _schedule(name: str, given: Any, params: Any, num_steps: int) -> Any:
    """A schedule with floating point leaves of the shapes () or (num_steps,), by leaf or branch of params."""
    given = jax.tree.map(lambda x: x if jnp.issubdtype(x.dtype, np.inexact) else x.astype(float), given)
    for leaf, where in zip(jax.tree.leaves(given), leaf_names(jax.tree.structure(given)), strict=True):
        if leaf.shape not in ((), (num_steps,)):
            raise DerivativeError(
                f"hypergradient: hypers[{name!r}]{_of(where)} has the shape {leaf.shape}; () or (num_steps,) = ({num_steps},) expected: "
                "one number, or one for each step."
            )
        if name == "decay" and not (np.all(np.asarray(leaf) > 0) and np.all(np.asarray(leaf) <= 1)):
            bad = np.atleast_1d(np.asarray(leaf))
            step = int(np.argmax(~((bad > 0) & (bad <= 1))))
            raise DerivativeError(
                f"hypergradient: hypers['decay']{_of(where)} is {bad[step]:g}{f' at step {step}' if leaf.ndim else ''}; a number in (0, 1] "
                'expected. Without momentum write optimiser="sgd".'
            )
    try:
        by_leaf(given, params)
    except (ValueError, TypeError) as error:
        raise DerivativeError(
            f"hypergradient: hypers[{name!r}] has the structure {jax.tree.structure(given)}; one number or array, or one for each leaf or "
            f"branch of params expected, {jax.tree.structure(params)}."
        ) from error
    return given


def _listed(names: Any) -> str:
    return " and ".join(map(repr, names)) or "what train_loss reads"


def _of(name: str) -> str:
    return "" if name == "the value" else name
