"""Derivatives that a user writes: a function gains (value, linear map) as its rule.

    @defines_linearization(log_likelihood)
    def log_likelihood(w):
        g = b - G @ w
        return value(w), lambda t: g @ t            # t -> linear; transposed by us

The decorated name is then a function with the value of the original and the derivative of the rule, under our
transformations and JAX's, in any nesting. It is one equation, `ruled_call`, that holds both programs: the original,
which runs where nothing is differentiated, and the rule, cut into (values, residuals) and a linear program, which takes
over where something is.

Sharp edges: arguments are pytrees of arrays; what the function or the rule closes over has no derivative, and to
differentiate it is an error.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import DerivativeError
from ..jax_compat import open_jaxpr
from .core import evaluate_equations, is_differentiable, tangent_aval
from .linear_op import linearize_function
from .loop_bodies import chosen, spread
from .ruled_call import Again, ruled_call_p
from .ruled_tracing import checked_tangents, not_linear, trace_body, trace_rule
from .transpose import instantiate

__all__ = ["check_linearization", "defines_linearization"]


def defines_linearization(f: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that gives `f` a derivative.

    Args:
        f: a function of arrays (pytrees of them), positional arguments only.

    Returns:
        A decorator for a rule: the same arguments -> (value, linear map). The map takes one tangent per argument (shaped like
        it; of integers, None) and returns a tangent shaped like the value. The decorated name becomes the function to call;
        `.body` is `f`, `.rule` the rule.

    Raises:
        DerivativeError: on a call, if there are keyword arguments, if the rule returns anything else, if its value has
            another structure, shape or dtype than f's, or if its map is not linear: names the primitive and the line.
    """

    def decorate(rule: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(f, updated=())
        def ruled(*args: Any, **kwargs: Any) -> Any:
            name = getattr(f, "__name__", "the function")
            if kwargs:
                raise DerivativeError(
                    f"{name} has a linearization rule and takes positional arguments only, as the rule and its linear map do; "
                    f"found the keywords {sorted(kwargs)}."
                )
            leaves, tree = jax.tree.flatten(args)
            body, body_consts, out_tree = trace_body(f, tree, leaves)
            known, rule_consts, linear = trace_rule(rule, tree, leaves, out_tree, [v.aval for v in body.outvars], name)
            outs = ruled_call_p.bind(
                *body_consts,
                *rule_consts,
                *leaves,
                name=name,
                body=body,
                known=known,
                linear=linear,
                num_consts=(len(body_consts), len(rule_consts)),
                again=Again(ruled, tree),
            )
            return jax.tree.unflatten(out_tree, outs)

        ruled.body, ruled.rule = f, rule  # type: ignore[attr-defined]
        return ruled

    return decorate


def check_linearization(
    ruled: Callable[..., Any], *args: Any, tolerance: float | None = None, num_directions: int = 3, seed: int = 0
) -> None:
    """Compare a registered rule with the derivative of the function itself, at one point.

    Args:
        ruled: what `defines_linearization` made.
        args: where to check.
        tolerance: relative; by default 1e-4 in float32 and 1e-8 in float64.
        num_directions: random tangents tried.
        seed: of their generator.

    Raises:
        DerivativeError: the value, the forward or the reverse derivative differ (says which, and by how much), or the map is
            not linear.
    """
    if not hasattr(ruled, "rule"):
        raise DerivativeError("check_linearization takes a function made by `defines_linearization`.")
    rng = np.random.default_rng(seed)
    leaves, tree = jax.tree.flatten(jax.tree.map(jnp.asarray, args))

    def draw(avals: Sequence[Any]) -> list[Any]:
        return [jnp.asarray(rng.normal(size=a.shape), a.dtype) if is_differentiable(a) else None for a in avals]

    def both(f: Callable[..., Any], ts: Sequence[Any]) -> Any:
        active = [t is not None for t in ts]
        outs, linear, out_active = linearize_function(lambda *xs: jax.tree.leaves(f(*jax.tree.unflatten(tree, xs))), leaves, active)
        return outs, linear(ts), out_active

    avals = [jax.typeof(v) for v in leaves]
    for _ in range(num_directions):
        ts = draw(avals)
        (_, moved, on), (expected, expected_moved, _) = both(ruled, ts), both(ruled.body, ts)  # type: ignore[attr-defined]
        values = both(lambda *xs: ruled.rule(*xs)[0], ts)[0]  # type: ignore[attr-defined]
        _compare("the value", values, expected, tolerance)
        _check_map(ruled, jax.tree.unflatten(tree, leaves), ts, [t for t, o in zip(moved, on, strict=True) if o], tolerance)
        dense = [instantiate(t, tangent_aval(jax.typeof(v))) for t, v, o in zip(expected_moved, expected, on, strict=True) if o]
        _compare("the derivative", [t for t, o in zip(moved, on, strict=True) if o], dense, tolerance)


def _check_map(ruled: Any, args: Sequence[Any], ts: Sequence[Any], moved: Sequence[Any], tolerance: float | None) -> None:
    """Whether the rule's map itself gives what the program made of it gives: a constant that it adds, or a step, has no part there."""
    value, linear_map = ruled.rule(*args)
    outs, out_tree = jax.tree.flatten(value)
    on, tree, name = [t is not None for t in ts], jax.tree.structure(args), ruled.__name__

    def flat_map(*moving: Any) -> list[Any]:
        return checked_tangents(linear_map(*jax.tree.unflatten(tree, spread(moving, on))), out_tree, [jax.typeof(v) for v in outs], name)

    moving = chosen(ts, on)
    if all(error <= _limit(t, tolerance) for error, t in zip(_errors(flat_map(*moving), moved), moved, strict=True)):
        return
    jaxpr, consts = open_jaxpr(jax.make_jaxpr(flat_map)(*moving))
    at_zero = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *map(jnp.zeros_like, moving)], strict=True))
    evaluate_equations(jaxpr.eqns, at_zero, [])
    raise not_linear(jaxpr, name, at_zero)


def _compare(what: str, found: Sequence[Any], expected: Sequence[Any], tolerance: float | None) -> None:
    for error, b in zip(_errors(found, expected), expected, strict=True):
        limit = _limit(b, tolerance)
        if not error <= limit:
            raise DerivativeError(f"{what} of the rule differs from that of the function by {error:.3g} (relative; allowed {limit:.3g}).")


def _limit(like: Any, tolerance: float | None) -> float:
    return tolerance if tolerance is not None else (1e-8 if jnp.result_type(like) == np.float64 else 1e-4)


def _errors(found: Sequence[Any], expected: Sequence[Any]) -> list[float]:
    """The largest difference of each pair of arrays, relative to 1 + the largest expected number."""

    def largest(x: Any) -> float:
        return float(jnp.max(jnp.abs(x), initial=0.0))

    return [largest(jnp.asarray(a) - b) / (1.0 + largest(b)) for a, b in zip(found, expected, strict=True)]
