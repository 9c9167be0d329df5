"""The question "is it affine?", asked of a traced function: the proof run on its jaxpr, its result put into an answer."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..errors import DerivativeError
from ..source_lines import equation_frames
from .answer import Affine, Dependence, Input, NotAffine, TracedFunction
from .proof import Blocked, Form, walk
from .rules import aval

__all__ = ["affine_in", "why_not_affine"]


def affine_in(f: Callable[..., Any], *args: Any, argnum: int = 0) -> Affine | None:
    """Is f affine in one argument: f(.., x, ..) = M x + o with M and o free of x?

    Args:
        f: a function of pytrees of arrays that JAX can trace. Options that are not arrays belong in a closure.
        *args: example arguments, arrays or `jax.ShapeDtypeStruct`. The value at `argnum` is not read, only its shapes and dtypes.
        argnum: which argument is x.

    Returns:
        An `Affine`, with matrix and offset at the example values of the other arguments; or None if there is no proof.
        `why_not_affine` then says which equation stands in the way.

    Raises:
        DerivativeError: if there is no argument of that number, or it has no arrays in it.

    The proof walks the jaxpr once (loops: to a fixpoint) and compiles nothing: milliseconds, beside the trace of f.
    """
    answer = _decide(f, args, argnum)
    return answer if isinstance(answer, Affine) else None


def why_not_affine(f: Callable[..., Any], *args: Any, argnum: int = 0) -> NotAffine | None:
    """The equation that keeps `affine_in` from a proof, with the user's line; None if f is affine. Arguments and errors as there."""
    answer = _decide(f, args, argnum)
    return answer if isinstance(answer, NotAffine) else None


def _decide(f: Callable[..., Any], args: tuple[Any, ...], argnum: int) -> Affine | NotAffine:
    if not 0 <= argnum < len(args):
        raise DerivativeError(f"affine_in: argnum={argnum}, but {len(args)} arguments were given.")
    if not jax.tree.leaves(args[argnum]):
        raise DerivativeError(f"affine_in: argument {argnum} has no arrays in it.")
    jaxpr, out_shape = jax.make_jaxpr(f, return_shape=True)(*args)
    leaves = tuple(
        Input(i, jax.tree_util.keystr(path, simple=True, separator="."))
        for i, arg in enumerate(args)
        for path, _ in jax.tree_util.tree_flatten_with_path(arg)[0]
    )
    program = TracedFunction(jaxpr, argnum, tuple(jax.tree.structure(a) for a in args), jax.tree.structure(out_shape), leaves)
    for leaf, var, mine in zip(leaves, program.invars, program.mine, strict=True):
        if mine and not jnp.issubdtype(aval(var).dtype, jnp.floating):
            return NotAffine(None, f"has dtype {aval(var).dtype} at {leaf.path or 'its only array'}; expected a float dtype", "")
    inputs = [Form({i: frozenset()}) if v else Form({}, frozenset({i}) - _indices(program.mine)) for i, v in enumerate(program.varying)]
    forms = []
    for value in walk(jaxpr, inputs):
        if isinstance(value, Blocked):
            return NotAffine(value.eqn.primitive.name, value.reason, _line(value))
        forms.append(value)

    def named(reads: frozenset[int]) -> frozenset[Input]:
        return frozenset(leaves[i] for i in reads)

    nothing: frozenset[int] = frozenset()
    per_leaf = {i: nothing.union(*(form.coefs.get(i, nothing) for form in forms)) for i in sorted(_indices(program.mine))}
    depends_on = Dependence(
        matrix=named(nothing.union(*per_leaf.values())),
        offset=named(nothing.union(*(form.reads for form in forms))),
        blocks={leaves[i].path: named(reads) for i, reads in per_leaf.items()},
    )
    return Affine(program, depends_on, tuple(a for i, a in enumerate(args) if i != argnum))


def _indices(flags: list[bool]) -> frozenset[int]:
    return frozenset(i for i, flag in enumerate(flags) if flag)


def _line(blocked: Blocked) -> str:
    """The user's line of the blocking equation.

    A function that JAX traced once and called twice (`jax.nn.relu`) carries the frames of its first call. They are believed if they pass
    through the line of the equation around; if not, that line is the one to show.
    """
    shown: list[str] = []
    for eqn in (*blocked.around, blocked.eqn):
        frames = [f"{file}:{line}" for file, line, _ in equation_frames(eqn)]
        if frames and (not shown or shown[0] in frames):
            shown = frames
    return shown[0] if shown else ""
