"""Derivatives that a user writes: a function gains (value, linear map) as its rule.

    @defines_linearization(log_likelihood)
    def log_likelihood(w):
        g = b - G @ w
        return value(w), lambda t: g @ t            # t -> linear; transposed by us

The decorated name is then a function with the value of the original and the derivative of the rule, under our
transformations and JAX's, in any
nesting. It is one equation, `ruled_call`, that holds both programs: the original, which runs where nothing is
differentiated, and
the rule, cut into (values, residuals) and a linear program, which takes over where something is.

Sharp edges: arguments are pytrees of arrays; what the function or the rule closes over has no derivative, and to
    differentiate it is an error.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import eval_jaxpr

from ..errors import DerivativeError
from ..jax_compat import (
    Literal,
    Primitive,
    bind,
    define_batching,
    define_jvp,
    define_lowering,
    define_result,
    instantiate_tangents,
    open_jaxpr,
)
from .activity import needed_inputs
from .core import is_differentiable, linearize_jaxpr, tangent_aval
from .linear_op import linearize_function
from .loop_bodies import needed_equations, run_equations, spread
from .registry import linearizes, source_line
from .transpose import instantiate

__all__ = ["check_linearization", "defines_linearization"]

ruled_call_p = Primitive("ruled_call")
ruled_call_p.multiple_results = True


def defines_linearization(f: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that gives `f` a derivative.

    Args:
        f: a function of arrays (pytrees of them), positional arguments only.

    Returns:
        A decorator for a rule: the same arguments -> (value, linear map). The map takes one tangent per argument
            (shaped like it; of integers, None) and
        returns a tangent shaped like the value. The decorated name becomes the function to call; `.body` is `f`,
        `.rule` the rule.

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
            body, body_consts, out_tree = _trace_body(f, tree, leaves)
            known, rule_consts, linear = _trace_rule(rule, tree, leaves, out_tree, [v.aval for v in body.outvars], name)
            outs = ruled_call_p.bind(
                *body_consts,
                *rule_consts,
                *leaves,
                name=name,
                body=body,
                known=known,
                linear=linear,
                num_consts=(len(body_consts), len(rule_consts)),
            )
            return jax.tree.unflatten(out_tree, outs)

        ruled.body, ruled.rule = f, rule  # type: ignore[attr-defined]
        return ruled

    return decorate


def _close(closed: Any) -> tuple[Any, list[Any]]:
    """A jaxpr whose constants have become leading inputs, and their values."""
    jaxpr, consts = open_jaxpr(closed)
    if not jaxpr.constvars:
        return jaxpr, []
    avals = [v.aval for v in (*jaxpr.constvars, *jaxpr.invars)]
    n = len(consts)
    lifted, none = open_jaxpr(jax.make_jaxpr(lambda *xs: eval_jaxpr(jaxpr, xs[:n], *xs[n:]))(*avals))
    assert not none
    return lifted, consts


def _trace_body(f: Callable[..., Any], tree: Any, leaves: Sequence[Any]) -> tuple[Any, list[Any], Any]:
    box: list[Any] = []

    def flat(*values: Any) -> list[Any]:
        outs, out_tree = jax.tree.flatten(f(*jax.tree.unflatten(tree, values)))
        box.append(out_tree)
        return outs

    body, consts = _close(jax.make_jaxpr(flat)(*leaves))
    return body, consts, box[-1]


def _trace_rule(
    rule: Callable[..., Any], tree: Any, leaves: Sequence[Any], out_tree: Any, out_avals: Sequence[Any], name: str
) -> tuple[Any, list[Any], Any]:
    """The rule as (leaves -> values and residuals) and the linear program (residuals; tangents -> tangents)."""
    box: list[Any] = []
    moving = [is_differentiable(jax.typeof(v)) for v in leaves]
    wanted = [is_differentiable(a) for a in out_avals]

    def flat(*values: Any) -> list[Any]:
        made = rule(*jax.tree.unflatten(tree, values))
        if not (isinstance(made, tuple) and len(made) == 2 and callable(made[1])):
            raise DerivativeError(f"the rule of {name} returns (value, linear map); found {type(made).__name__}.")
        value, linear_map = made
        outs, found = jax.tree.flatten(value)
        if found != out_tree or any(
            jnp.shape(o) != a.shape or jnp.result_type(o) != a.dtype for o, a in zip(outs, out_avals, strict=False)
        ):
            raise DerivativeError(
                f"the rule of {name} has a value of structure {found} and types "
                f"{[jax.typeof(o).str_short() for o in outs]}; expected "
                f"{out_tree} and {[a.str_short() for a in out_avals]}, as the function itself."
            )

        def flat_map(*tangents: Any) -> list[Any]:
            ts, found = jax.tree.flatten(linear_map(*jax.tree.unflatten(tree, spread(tangents, moving))))
            ts_wanted = [t for t, w in zip(ts, wanted, strict=True) if w] if len(ts) == len(wanted) else ts
            if len(ts_wanted) != sum(wanted) or any(
                jnp.shape(t) != a.shape for t, a in zip(ts_wanted, _only(out_avals, wanted), strict=True)
            ):
                raise DerivativeError(
                    f"the linear map of {name} returns structure {found}; expected a tangent shaped like the value, {out_tree}."
                )
            return [jnp.asarray(t, a.dtype) for t, a in zip(ts_wanted, _only(out_avals, wanted), strict=True)]

        residuals, program = _as_linear_program(flat_map, [tangent_aval(jax.typeof(v)) for v in _only(values, moving)], name)
        box.append(program)
        return [*outs, *residuals]

    known, consts = _close(jax.make_jaxpr(flat)(*leaves))
    linear = box[-1]
    avals = [[v.aval for v in linear.constvars], [v.aval for v in linear.invars]]
    lifted, _ = open_jaxpr(jax.make_jaxpr(lambda residuals, ts: eval_jaxpr(linear, residuals, *ts))(*avals))
    return known, consts, lifted


def _only(values: Sequence[Any], flags: Sequence[bool]) -> list[Any]:
    return [v for v, f in zip(values, flags, strict=True) if f]


def _as_linear_program(flat_map: Callable[..., Any], avals: Sequence[Any], name: str) -> tuple[list[Any], Any]:
    """Linearize the map once, so that whatever it computes beside the tangents is a residual.

    Residuals must not depend on tangents.
    """
    jaxpr, consts = open_jaxpr(jax.make_jaxpr(flat_map)(*avals))
    box: list[Any] = []

    def split(consts: Sequence[Any], tangents: Sequence[Any]) -> list[Any]:
        _, program = linearize_jaxpr(jaxpr, consts, tangents, [True] * len(tangents), [True] * len(jaxpr.outvars))
        box.append(program.jaxpr)
        return program.residuals

    known, inner = open_jaxpr(jax.make_jaxpr(split)([v.aval for v in jaxpr.constvars], list(avals)))
    if any(needed_inputs(known, [True] * len(known.outvars))[len(consts) :]):
        raise _not_linear(jaxpr, name)
    env = dict(zip([*known.constvars, *known.invars], [*inner, *consts, *[None] * len(avals)], strict=True))
    return run_equations(needed_equations(known, known.outvars), env, known.outvars), box[-1]


def _not_linear(jaxpr: Any, name: str) -> DerivativeError:
    """The error that names the first equation of a map that is not linear in the tangents."""
    depends = set(jaxpr.invars)
    for eqn in jaxpr.eqns:
        flags = [not isinstance(x, Literal) and x in depends for x in eqn.invars]
        if not any(flags):
            continue
        depends.update(eqn.outvars)
        if _is_bent(eqn, flags):
            return DerivativeError(
                f"the linear map of {name} is not linear: the primitive {eqn.primitive.name!r} ({source_line(eqn)}) "
                f"depends on the tangents in a "
                "way that is not linear. Compute what does not depend on the tangents before the map is returned."
            )
    return DerivativeError(f"the linear map of {name} is not linear in the tangents.")


def _is_bent(eqn: Any, flags: Sequence[bool]) -> bool:
    """Whether the derivative of one equation depends on the operands that are tangents."""

    def residuals(*operands: Any) -> list[Any]:
        outs, linear, out_active = linearize_function(lambda *xs: bind(eqn, xs), operands, flags)
        if not any(out_active):
            return list(outs)
        zero = [jnp.zeros(v.aval.shape, v.aval.dtype) if f else None for v, f in zip(eqn.invars, flags, strict=True)]
        return open_jaxpr(jax.make_jaxpr(lambda: [t for t in linear(zero) if t is not None])())[1]

    traced, _ = open_jaxpr(jax.make_jaxpr(residuals)(*[x.aval for x in eqn.invars]))
    return any(n and f for n, f in zip(needed_inputs(traced, [True] * len(traced.outvars)), flags, strict=True))


def _parts(operands: Sequence[Any], num_consts: tuple[int, int]) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
    a, b = num_consts
    return operands[:a], operands[a : a + b], operands[a + b :]


def _run(*operands: Any, body: Any, num_consts: tuple[int, int], **_: Any) -> list[Any]:
    consts, _rule_consts, leaves = _parts(operands, num_consts)
    return eval_jaxpr(body, (), *consts, *leaves)


def _linearized(operands: Sequence[Any], params: dict[str, Any]) -> tuple[list[Any], Callable[[Sequence[Any]], list[Any]]]:
    """Values by the rule, and the map from the tangents of differentiable leaves to those of differentiable results."""
    _, consts, leaves = _parts(operands, params["num_consts"])
    made = eval_jaxpr(params["known"], (), *consts, *leaves)
    n = len(params["body"].outvars)
    return made[:n], lambda ts: eval_jaxpr(params["linear"], (), *made[n:], *ts)


def _refuse_constants(active: Sequence[bool], params: dict[str, Any]) -> None:
    if any(active[: sum(params["num_consts"])]):
        raise DerivativeError(
            f"{params['name']} closes over a value that is being differentiated, and its rule does not say how. Pass "
            f"the value as an argument."
        )


@linearizes("ruled_call")
def linearize_ruled_call(eqn: Any, active: Sequence[bool], *operands: Any) -> Any:
    """The rule."""
    p = eqn.params
    _refuse_constants(active, p)
    outs, apply = _linearized(operands, p)
    skip = sum(p["num_consts"])
    out_active = tuple(is_differentiable(v.aval) for v in eqn.outvars)
    moving = [(i, tangent_aval(v.aval)) for i, v in enumerate(eqn.invars) if i >= skip and is_differentiable(v.aval)]
    return outs, lambda ts: spread(apply([instantiate(ts[i], a) for i, a in moving]), out_active), out_active


def _jax_jvp(primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> Any:
    symbolic = [type(t).__name__ in ("Zero", "SymbolicZero") or getattr(t, "dtype", None) == jax.dtypes.float0 for t in tangents]
    _refuse_constants([not s for s in symbolic], params)
    skip = sum(params["num_consts"])
    outs, apply = _linearized(primals, params)
    moving = [t for t in instantiate_tangents(primals, tangents)[skip:] if t is not None]
    made = iter(apply(moving))
    return outs, [next(made) if is_differentiable(v.aval) else np.zeros(v.aval.shape, jax.dtypes.float0) for v in params["body"].outvars]


def _depends(jaxpr: Any, flags: Sequence[bool]) -> list[bool]:
    """Which outputs read an input marked in `flags`."""
    seen = {v for v, f in zip(jaxpr.invars, flags, strict=True) if f}
    for eqn in jaxpr.eqns:
        if any(not isinstance(x, Literal) and x in seen for x in eqn.invars):
            seen.update(eqn.outvars)
    return [not isinstance(v, Literal) and v in seen for v in jaxpr.outvars]


def _vmapped(jaxpr: Any, size: int, axes: Sequence[int | None], out_axes: Sequence[int | None]) -> Any:
    """A jaxpr without constants under `vmap`."""
    avals = [
        jax.ShapeDtypeStruct(v.aval.shape if a is None else (size, *v.aval.shape), v.aval.dtype)
        for v, a in zip(jaxpr.invars, axes, strict=True)
    ]
    run = jax.vmap(lambda *xs: eval_jaxpr(jaxpr, (), *xs), tuple(axes), list(out_axes), axis_size=size)
    return open_jaxpr(jax.make_jaxpr(run)(*avals))[0]


def _batch(size: int, operands: Sequence[Any], axes: Sequence[int | None], **params: Any) -> Any:
    body, known, linear = params["body"], params["known"], params["linear"]
    if all(a is None for a in axes):
        outs = ruled_call_p.bind(*operands, **params)
        return outs, [None] * len(outs)
    front = [x if a is None else jnp.moveaxis(x, a, 0) for x, a in zip(operands, axes, strict=True)]
    axes = [None if a is None else 0 for a in axes]
    of_body, of_rule, of_leaves = _parts(axes, params["num_consts"])
    n = len(body.outvars)
    kept = [0 if d else None for d in _depends(known, [a == 0 for a in (*of_rule, *of_leaves)])[n:]]
    moving = [a for a, v in zip(of_leaves, body.invars[len(of_body) :], strict=True) if is_differentiable(v.aval)]
    batched = dict(
        params,
        body=_vmapped(body, size, [*of_body, *of_leaves], [0] * n),
        known=_vmapped(known, size, [*of_rule, *of_leaves], [*[0] * n, *kept]),
        linear=_vmapped(linear, size, [*kept, *moving], [0] * len(linear.outvars)),
    )
    outs = ruled_call_p.bind(*front, **batched)
    return outs, [0] * len(outs)


def check_linearization(
    ruled: Callable[..., Any], *args: Any, tolerance: float | None = None, num_directions: int = 3, seed: int = 0
) -> None:
    """Compare a registered rule with the derivative of the function itself, at one point.

    Args:
        ruled: what `defines_linearization` made. args: where to check.
        tolerance: relative; by default 1e-4 in float32 and 1e-8 in float64. num_directions: random tangents tried.
            seed: of their generator.

    Raises:
        DerivativeError: the value, the forward or the reverse derivative differ: says which, and by how much; or the
            map is not linear.
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
        dense = [instantiate(t, tangent_aval(jax.typeof(v))) for t, v, o in zip(expected_moved, expected, on, strict=True) if o]
        _compare("the derivative", [t for t, o in zip(moved, on, strict=True) if o], dense, tolerance)


def _compare(what: str, found: Sequence[Any], expected: Sequence[Any], tolerance: float | None) -> None:
    for a, b in zip(found, expected, strict=True):
        limit = tolerance if tolerance is not None else (1e-8 if jnp.result_type(b) == np.float64 else 1e-4)
        scale = 1.0 + float(jnp.max(jnp.abs(b), initial=0.0)) if jnp.size(b) else 1.0
        error = float(jnp.max(jnp.abs(jnp.asarray(a) - b), initial=0.0)) / scale
        if not error <= limit:
            raise DerivativeError(f"{what} of the rule differs from that of the function by {error:.3g} (relative; allowed {limit:.3g}).")


define_result(ruled_call_p, lambda *avals, body, **_: ([tangent_aval(v.aval) for v in body.outvars], set()))
define_lowering(ruled_call_p, _run)
define_jvp(ruled_call_p, _jax_jvp)
define_batching(ruled_call_p, _batch)
