"""The states of a discrete site: the finite support of its distribution, known before anything runs."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ...transforms import ModelError
from ...transforms.jax_compat import JaxprEqn, open_jaxpr
from ...transforms.known import Known, Value, Where, visit
from ..primitives import is_site
from ..spec import Spec, distribution_name, peel

__all__ = ["states_of"]


def states_of(program: Any, names: Iterable[str]) -> dict[str, np.ndarray]:
    """By site, its states in the order of its distribution. They may depend on the data that the model was traced with.

    Raises:
        ModelError: there is no end of them, or they are not the same for every draw and row, or an event has several elements; names
            the site, its line, and what to write instead.
    """
    wanted, found = set(names), {}

    def look(eqn: JaxprEqn, operands: list[Value], at: Where) -> str:
        if is_site(eqn) and eqn.params["spec"].name in wanted:
            spec: Spec = eqn.params["spec"]
            avals: list[Any] = [v.aval for v in eqn.invars]
            known = [_constant(x, aval.shape) for x, aval in zip(operands, avals, strict=True)]
            found[spec.name] = _support(spec, program.sites[spec.name].line, known, avals)
        return ""

    inner, consts = open_jaxpr(program.jaxpr)
    visit(inner, consts, look)
    return {n: found[n] if n in found else _unseen(program.sites[n]) for n in program.sites if n in wanted}


def _unseen(site: Any) -> Any:
    raise ModelError(
        f"site {site.name!r} ({site.line}) is latent and discrete, and stands in a `cond`, where it cannot be summed out. Sample outside "
        "of the `cond`, and choose by `jnp.where`."
    )


def _constant(operand: Value, shape: tuple[int, ...]) -> Any:
    """An operand as far as it is known and the same in every turn of the loops around."""
    value = operand.compute(compile=True) if isinstance(operand, Known) else None
    if value is None or isinstance(value, Tracer):
        return None
    lead = value.ndim - len(shape)
    return np.broadcast_to(value[(0,) * lead], shape) if all(n == 1 for n in value.shape[:lead]) else None


def _support(spec: Spec, line: str, known: list[Any], avals: list[Any]) -> np.ndarray:
    found: list[np.ndarray] = []

    def look(*unknown: Any) -> Any:
        rest = iter(unknown)
        operands = [next(rest) if k is None else k for k in known]
        return spec.apply(lambda dist, *_: found.append(_points(spec, line, dist)) or jnp.zeros(()), operands)

    jax.eval_shape(look, *(jax.ShapeDtypeStruct(a.shape, a.dtype) for k, a in zip(known, avals, strict=True) if k is None))
    return found[0].astype(spec.dtype)


def _points(spec: Spec, line: str, dist: Any) -> np.ndarray:
    where = f"site {spec.name!r} ({line}) is latent and discrete"
    base, name = peel(dist)[0], distribution_name(dist)
    if dist.event_dim:
        raise ModelError(
            f"{where}, and one event of {name} has the shape {tuple(dist.event_shape)}: every combination of its elements is a state. "
            "Leave `to_event` out and put the elements into a plate, `with lc.plate(name, size)`: they are then summed out one by one. Or "
            "observe it."
        )
    if not base.has_enumerate_support:
        raise ModelError(_endless(spec, where, name))
    points = None
    try:
        with jax.ensure_compile_time_eval():
            points = base.enumerate_support(expand=False)
    except (NotImplementedError, TypeError, ValueError, jax.errors.JAXTypeError):
        pass
    if points is None or isinstance(points, Tracer):
        raise ModelError(
            f"{where}, and the states of {name} are not known before the model runs, or differ from row to row (support {spec.support}): "
            "they depend on another site or on the row. Give it the same numbers everywhere, and a probability of zero to what cannot be; "
            "or observe it."
        )
    return np.asarray(points).reshape(-1)


def _endless(spec: Spec, where: str, name: str) -> str:
    if spec.imputed:
        return (
            f"{where}: the missing values are discrete (support {spec.support}), there is no end of the states of {name} to sum over, and "
            "gradients cannot move them. Leave these rows out, or out of the density: `with numpyro.handlers.mask(mask=given)`; "
            "`lc.predict` draws them afterwards."
        )
    return (
        f"{where}, and there is no end of the states of {name} (support {spec.support}), nor can gradients move it. Cut them off: a "
        "`dist.Categorical` over those that matter, with their log probabilities as logits; or sum it out by hand, for example with "
        "`dist.MixtureSameFamily` or `jax.scipy.special.logsumexp` in an `lc.factor`; or observe it."
    )
