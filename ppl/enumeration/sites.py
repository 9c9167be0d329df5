"""What a site is in a lifted walk: its value, and the factor that it contributes to the density."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from ...transforms import ModelError
from ...transforms.jax_compat import JaxprEqn, Literal
from ..masks import counted
from ..primitives import is_site
from ..scores import idle, log_prob_of, masked_jacobian, scaled
from ..spec import Spec, peel
from .factor import factor_of, with_label
from .values import Lifted, elementwise, plain

if TYPE_CHECKING:
    from .lifted import Walk

__all__ = ["needed_values", "operands_of_value", "site", "value_of"]


def site(walk: "Walk", eqn: JaxprEqn, operands: list[Lifted]) -> Lifted:
    """The value of a site; adds its factor to the walk's."""
    spec, shared = eqn.params["spec"], walk.shared
    walk = walk.inside(eqn)
    if spec.kind == "deterministic" or spec.name in shared.absent:
        return value_of(walk, spec, operands)
    if spec.name in shared.enumerated:
        return _enumerated(walk, spec, operands)
    if spec.latent:
        return _continuous(walk, spec, operands)
    weighted = shared.weighted or spec.kind == "factor"

    def score(*xs: Any) -> list[Any]:
        return [spec.apply(lambda dist, scale, obs: scaled(log_prob_of(dist, obs), scale if weighted else None), xs)]

    (log_prob,) = walk.traced("observed", spec, score, *operands)
    _add(walk, log_prob, spec.name)
    shared.rows[spec.name] = log_prob.labels
    return operands[spec.num_leaves]


def operands_of_value(eqn: JaxprEqn, enumerated: frozenset[str]) -> list[Any]:
    """The operands from which the value of a site is computed: not those that only its density reads."""
    spec: Spec = eqn.params["spec"]
    if spec.kind == "deterministic":
        return [eqn.invars[0]]
    if spec.observed:
        return [eqn.invars[spec.num_leaves]]
    return [] if spec.name in enumerated or spec.unit_jacobian else list(eqn.invars)


def needed_values(equations: Sequence[JaxprEqn], outs: Sequence[Any], enumerated: frozenset[str]) -> list[JaxprEqn]:
    """The equations that `outs` are computed from, in order, where of a site only its value is asked for."""
    needed, kept = {x for x in outs if not isinstance(x, Literal)}, []
    for eqn in reversed(equations):
        if any(v in needed for v in eqn.outvars):
            kept.append(eqn)
            read = operands_of_value(eqn, enumerated) if is_site(eqn) else eqn.invars
            needed.update(x for x in read if not isinstance(x, Literal))
    return kept[::-1]


def value_of(walk: "Walk", spec: Spec, operands: Sequence[Lifted]) -> Lifted:
    """The value of a site, given the operands that `operands_of_value` names."""
    if spec.kind == "deterministic":
        return operands[0]
    if spec.name in walk.shared.absent:
        return plain(jnp.zeros(spec.shape, spec.dtype))
    if spec.name in walk.shared.enumerated:
        return _states(walk, spec)
    if spec.observed:
        return operands[0]
    given = walk.inputs[spec.name]
    if spec.unit_jacobian or not walk.shared.unconstrained:
        return given
    return walk.traced(
        "value", spec, lambda u, *xs: [spec.apply(lambda dist, scale, obs, u: spec.bijection(dist)(u), xs, u)], given, *operands
    )[0]


def _enumerated(walk: "Walk", spec: Spec, operands: list[Lifted]) -> Lifted:
    """All states of a discrete site. Where it is masked it is absent: every state has the same share, and they sum to one."""
    name, line = spec.name, walk.shared.lines[spec.name]
    if spec.scale is not None:
        raise ModelError(
            f"site {name!r} ({line}) is discrete, to be summed out, and scaled by `handlers.scale`: a power of a probability is none. Put "
            "the scale around the observed sites that do not depend on it, or weigh rows by an `lc.factor`."
        )
    value = _states(walk, spec)

    def score(x: Any, *xs: Any) -> list[Any]:
        def one(dist: Any, scale: Any, missing: Any, x: Any) -> tuple[Any, ...]:
            log_prob = log_prob_of(dist, x)
            return (log_prob, jnp.broadcast_to(counted(dist), jnp.shape(log_prob))) if peel(dist)[1] else (log_prob,)

        return list(spec.apply(one, xs, x))

    log_prob, *there = walk.traced("states", spec, score, value, *operands)
    (variable,) = value.variables
    if variable not in log_prob.variables:  # all states alike, in all rows: it is their number that counts
        log_prob = elementwise(lambda score, _: score, [log_prob, value], log_prob.shape)
    if there:
        share = plain(np.asarray(-np.log(variable.size), jnp.result_type(log_prob.array)))
        log_prob = elementwise(jnp.where, [*there, log_prob, share], log_prob.shape)
    _add(walk, log_prob, spec.name)
    if name in walk.probes:
        probe = walk.probes[name]  # logical shape (states, *shape of the site)
        _add(walk, Lifted(probe.array, (*probe.dims, variable), probe.shape[1:], value.labels), name)
    return value


def _states(walk: "Walk", spec: Spec) -> Lifted:
    support = walk.shared.supports[spec.name]
    labels = tuple(walk.shared.axis(spec.name, a, size) if size > 1 else None for a, size in enumerate(spec.shape))
    variable = walk.variable(spec.name, len(support), tuple(label for label in labels if label is not None))
    stored = [min(size, 1) for size in spec.shape]
    array = np.broadcast_to(support.reshape(-1, *(1 for _ in spec.shape)), (len(support), *stored))
    return Lifted(array, (variable,), spec.shape, labels)


def _continuous(walk: "Walk", spec: Spec, operands: list[Lifted]) -> Lifted:
    given = walk.inputs[spec.name]
    if not walk.shared.unconstrained or spec.unit_jacobian:
        value = given
    else:

        def move(u: Any, *xs: Any) -> list[Any]:
            def one(dist: Any, scale: Any, missing: Any, u: Any) -> tuple[Any, Any]:
                bijection = spec.bijection(dist)
                x = bijection(u)
                return x, masked_jacobian(bijection, u, x, dist)

            value, log_det = spec.apply(one, xs, u)
            return [jnp.asarray(value, spec.dtype), log_det]

        value, log_det = walk.traced("move", spec, move, given, *operands)
        for found in (*value.variables, *log_det.variables):
            raise ModelError(
                f"site {spec.name!r} ({walk.shared.lines[spec.name]}): its support depends on the discrete site {found.site!r} "
                f"({walk.shared.lines[found.site]}), so that there are no coordinates that serve all states. Give it a support that is the "
                "same in every state, and move or scale the value afterwards."
            )
        _add(walk, log_det, spec.name)
    (log_prob,) = walk.traced(
        "latent",
        spec,
        lambda x, *xs: [spec.apply(lambda dist, scale, missing, x: scaled(log_prob_of(dist, x), scale), xs, x)],
        value,
        *operands,
    )
    _add(walk, log_prob, spec.name)
    if walk.shared.unconstrained and spec.imputed and spec.name not in walk.shared.packed:
        (log_normal,) = walk.traced(
            "idle", spec, lambda u, *xs: [spec.apply(lambda dist, scale, missing, u: idle(u, missing), xs, u)], given, *operands
        )
        _add(walk, log_normal, spec.name)
    return value


def _add(walk: "Walk", log_prob: Lifted, site: str) -> None:
    factor = factor_of(log_prob, site)
    walk.factors.append(factor if walk.turn is None else with_label(factor, walk.turn))
