"""The derivatives that users ask for, all made of two transformations: linearize, then transpose.

    (y, L)    = linearize(f, x)          L(t) = f'(x) t
    vjp       = L transposed             grad = L transposed, applied to 1
    hvp(x, t) = d/ds grad f(x + s t)     a forward derivative of a gradient

Functions are traced to a jaxpr first: Python sees abstract values, as under `jax.jit`. Only the differentiated arguments
are traced; the others may be any Python object.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from ..errors import DerivativeError
from ..jax_compat import open_jaxpr
from ..source_lines import calling_line
from .core import is_differentiable, linearize_jaxpr, push_forward
from .program import LinearProgram, Signature
from .trees import leaf_names, match_leaves

__all__ = ["grad", "hvp", "jvp", "linearize", "transpose", "value_and_grad", "vjp"]


class _Traced:
    """A function as a jaxpr of the leaves of its arguments; with `has_aux` the second result has no derivative."""

    out_tree: Any
    aux_tree: Any
    num_out: int

    def __init__(self, f: Callable[..., Any], primals: tuple[Any, ...], has_aux: bool):
        leaves, self.in_tree = jax.tree.flatten(primals)
        for leaf, name in zip(leaves, leaf_names(self.in_tree), strict=True):
            if not hasattr(leaf, "dtype") and not isinstance(leaf, (bool, int, float, complex)):
                raise DerivativeError(
                    f"{_name(f)}: the differentiated argument {name} is a {type(leaf).__name__}, expected an array or a number."
                )
        self.leaves = leaves = [v if hasattr(v, "dtype") else jax.numpy.asarray(v) for v in leaves]

        def flat(*values: Any) -> list[Any]:
            out = f(*jax.tree.unflatten(self.in_tree, values))
            if has_aux and not (isinstance(out, tuple) and len(out) == 2):
                raise DerivativeError(f"{_name(f)}: with has_aux=True the function returns (value, aux); found a {type(out).__name__}.")
            out, aux = out if has_aux else (out, ())
            results, self.out_tree = jax.tree.flatten(out)
            extra, self.aux_tree = jax.tree.flatten(aux)
            self.num_out = len(results)
            return [*results, *extra]

        self.jaxpr, self.consts = open_jaxpr(jax.make_jaxpr(flat)(*leaves))
        self.avals = tuple(v.aval for v in self.jaxpr.invars)
        self.out_avals = tuple(v.aval for v in self.jaxpr.outvars[: self.num_out])

    def split(self, outs: Sequence[Any]) -> tuple[Any, Any]:
        return jax.tree.unflatten(self.out_tree, outs[: self.num_out]), jax.tree.unflatten(self.aux_tree, outs[self.num_out :])

    def linearize(self) -> tuple[list[Any], LinearProgram]:
        active = tuple(is_differentiable(a) for a in self.avals)
        want = [is_differentiable(a) for a in self.out_avals] + [False] * (len(self.jaxpr.outvars) - self.num_out)
        outs, linear = linearize_jaxpr(self.jaxpr, self.consts, self.leaves, active, want)
        source = Signature(self.in_tree, self.avals, active, unpack=True)
        target = Signature(self.out_tree, self.out_avals, tuple(want[: self.num_out]))
        return outs, LinearProgram(linear.jaxpr, tuple(linear.residuals), source, target)


def _name(f: Callable[..., Any]) -> str:
    return getattr(f, "__name__", type(f).__name__)


def jvp(f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any], *, has_aux: bool = False) -> Any:
    """The forward derivative f'(primals) tangents, computed beside the value.

    Args:
        f: a function of arrays (pytrees of them).
        primals: its arguments, a tuple.
        tangents: one per argument, of its structure, shapes and dtypes; None stands for zero at any place, and for integers.
        has_aux: whether f returns (value, aux); aux is not differentiated.

    Returns:
        (f(*primals), tangent), and aux as a third element if asked for. The tangent of an integer is JAX's `float0`.

    Raises:
        DerivativeError: a tangent does not fit its argument, or a primitive has no rule.
    """
    traced = _Traced(f, tuple(primals), has_aux)
    moved = match_leaves(tuple(tangents), traced.in_tree, traced.avals, "tangent")
    outs, out_tangents = push_forward(traced.jaxpr, traced.consts, traced.leaves, moved)
    active = tuple(is_differentiable(a) for a in traced.out_avals)
    target = Signature(traced.out_tree, traced.out_avals, active)
    chosen = [t for t, on in zip(out_tangents[: traced.num_out], active, strict=True) if on]
    value, aux = traced.split(outs)
    return (value, target.unflatten(chosen), aux) if has_aux else (value, target.unflatten(chosen))


def linearize(f: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """The value of f and its derivative at `primals` as a program to be applied many times.

    Returns:
        (f(*primals), LinearProgram), and aux as a third element if asked for.

    Raises:
        DerivativeError: a primitive has no rule.
    """
    traced = _Traced(f, primals, has_aux)
    outs, program = traced.linearize()
    value, aux = traced.split(outs)
    return (value, program, aux) if has_aux else (value, program)


def transpose(linear: LinearProgram) -> Callable[[Any], Any]:
    """The transposed map: cotangents of the result -> a tuple with one cotangent per argument.

    Raises:
        DerivativeError: `linear` is no LinearProgram; on the call, a cotangent has another structure, shape or dtype than
            the result.
    """
    if not isinstance(linear, LinearProgram):
        raise DerivativeError(f"transpose takes the LinearProgram that `linearize` returns; found {linear!r}.")
    return linear.apply_transposed


def vjp(f: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """The value of f and the function cotangent -> tuple of cotangents, one per argument.

    Returns:
        (f(*primals), pull), and aux as a third element if asked for.
    """
    value, program, *aux = linearize(f, *primals, has_aux=has_aux)
    return (value, transpose(program), *aux)


def value_and_grad(f: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False) -> Callable[..., Any]:
    """A function that returns the value of f and its gradient.

    Args:
        f: returns a real scalar, or (scalar, aux) with `has_aux`.
        argnums: which positional argument, or which ones, to differentiate. Keyword arguments are passed on.
        has_aux: whether f returns (scalar, aux); aux is not differentiated.

    Returns:
        A function of f's arguments: (value, gradient), or ((value, aux), gradient) with `has_aux`. The gradient is shaped
        like the argument, or is a tuple of such if `argnums` is a sequence.

    Raises:
        DerivativeError: on the call, if a differentiated argument has integer or complex leaves, or the value is no real
            scalar.
    """
    chosen = (argnums,) if isinstance(argnums, int) else tuple(argnums)

    def with_gradient(*args: Any, **kwargs: Any) -> Any:
        places = [n + len(args) if n < 0 else n for n in chosen]
        if any(not 0 <= n < len(args) for n in places):
            raise DerivativeError(
                f"{_name(f)} was called with {len(args)} positional arguments; argnums={argnums} names one that is not there."
            )

        def of_chosen(*values: Any) -> Any:
            full = list(args)
            for n, v in zip(places, values, strict=True):
                full[n] = v
            return f(*full, **kwargs)

        of_chosen.__name__ = _name(f)
        traced = _Traced(of_chosen, tuple(args[n] for n in places), has_aux)
        _check_inputs(traced, _name(f), places)
        _check_scalar(traced, _name(f))
        outs, program = traced.linearize()
        value, aux = traced.split(outs)
        gradient = program.apply_transposed(jax.tree.unflatten(traced.out_tree, [np.ones((), traced.out_avals[0].dtype)]))
        return ((value, aux) if has_aux else value), (gradient[0] if isinstance(argnums, int) else gradient)

    return with_gradient


def grad(f: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False) -> Callable[..., Any]:
    """A function that returns the gradient of f: `value_and_grad` without the value, (gradient, aux) with `has_aux`."""
    both = value_and_grad(f, argnums, has_aux)

    def gradient(*args: Any, **kwargs: Any) -> Any:
        value, g = both(*args, **kwargs)
        return (g, value[1]) if has_aux else g

    return gradient


def hvp(f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """The Hessian of f at `primals` times `tangents`: a forward derivative of the gradient.

    For many products at one point, linearize once: `_, hessian = linearize(grad(f), x)`, then `hessian(t)` for each t.

    Args:
        f: a function to a real scalar. primals, tangents: tuples, as for `jvp`.

    Returns:
        Shaped like the argument if there is one, a tuple with one entry per argument if there are more.
    """
    primals, tangents = tuple(primals), tuple(tangents)
    if len(primals) == 1:
        return jvp(grad(f), primals, tangents)[1]
    return jvp(grad(f, argnums=tuple(range(len(primals)))), primals, tangents)[1]


def _check_inputs(traced: _Traced, name: str, places: Sequence[int]) -> None:
    for aval, leaf in zip(traced.avals, leaf_names(traced.in_tree), strict=True):
        if not jax.dtypes.issubdtype(aval.dtype, np.floating):
            entry, _, rest = leaf[1:].partition("]")
            raise DerivativeError(
                f"{name}: argument {places[int(entry)]}{rest} has type {aval.str_short()} ({calling_line()}); a gradient exists "
                "for real floating point numbers only. Convert it with `.astype(float)`, or leave it out of `argnums`."
            )


def _check_scalar(traced: _Traced, name: str) -> None:
    if traced.num_out != 1 or traced.out_avals[0].shape != () or not jax.dtypes.issubdtype(traced.out_avals[0].dtype, np.floating):
        found = ", ".join(a.str_short() for a in traced.out_avals) or "nothing"
        raise DerivativeError(
            f"{name}: a gradient needs a function that returns one real scalar; found {found} ({calling_line()}). For other results "
            "use `vjp` or `linearize`."
        )
