"""The interpreters: a dozen lines each, all of them the walker with a rule.

| interpreter | a latent site | an observed site | records |
|---|---|---|---|
| generate | draws, or takes a given value | observation, or a draw | the value |
| constrain | bijection of its unconstrained value | observation | the value |
| unconstrain | its given value | observation | the unconstrained value |
| score | as constrain | observation | its log density, Jacobian included |
| score pointwise | given value | observation | its log probability, element by element |
| start | bijection of a strategy's unconstrained value | observation | the unconstrained value |

`position` is a dict by latent site in unconstrained space, `values` one in constrained space.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from numpyro.distributions import Distribution

from ..transforms import ModelError
from ..transforms.graph import reachable
from .dependence import edges
from .enumeration import marginal_log_density, marginal_rows
from .masks import counted
from .program import ModelProgram, Site
from .scores import idle, log_prob_of, masked_jacobian, scaled, total_of
from .spec import Spec, distribution_name, drawn
from .walker import Rule, walk

__all__ = ["constrain", "generate", "pointwise", "score_sites", "score_values", "site_value", "start", "unconstrain"]

Data = Sequence[Any]
Values = Mapping[str, Any]
Strategy = Callable[[Any, Distribution, Any, tuple[int, ...], str], Any]
"""strategy(key, distribution, bijection, unconstrained shape, name) -> unconstrained value of one site."""


def generate(
    program: ModelProgram,
    data: Data,
    key: Any,
    values: Values | None = None,
    *,
    resample_observed: bool = False,
    resample_kept: bool = False,
) -> dict[str, Any]:
    """Run the model forwards. Sites in `values` take them, the others are drawn.

    Args:
        key: split over sites and loop steps up front.
        values: constrained values by site, of the sites' whole shapes, or the first steps of a site in a loop: the rest is drawn.
        resample_observed: draw observed sites too (the predictive distributions) where they are not in `values`, except the past of a
            series that its loop continues, and what `handlers.substitute` gives.
        resample_kept: draw that past too.

    Returns:
        The value of every site but factors, by name.
    """
    values = values or {}
    keys = _site_keys(program, key)

    def rule(spec: Spec, operands: Sequence[Any], given: Any) -> tuple[Any, Any]:
        if spec.kind == "deterministic":
            return operands[0], operands[0]
        if spec.kind == "factor":
            return operands[spec.num_leaves], None
        if "value" in given and "known" not in given:
            value = given["value"]
        elif spec.observed and (not resample_observed or spec.substituted or (spec.kept and not resample_kept)):
            value = operands[spec.num_leaves]
        else:
            value = spec.apply(_draw(spec), operands, _split(given["key"], spec))
        value = jnp.asarray(value, spec.dtype)
        if "known" in given:
            value = jnp.where(_over_events(given["known"], value), jnp.asarray(given["value"], spec.dtype), value)
        return value, value

    begun = {n: _continued(program.sites[n], v) for n, v in values.items()}
    whole = program.missing.spread(data, {n: v for n, (v, _) in begun.items()})
    known = program.missing.spread(data, {n: k for n, (_, k) in begun.items() if k is not None})
    inputs = {n: _without_none({"key": k, "value": whole.get(n), "known": known.get(n)}) for n, k in keys.items()}
    return _run(program, data, rule, inputs)


def constrain(program: ModelProgram, data: Data, position: Values) -> dict[str, Any]:
    """Unconstrained position -> values of the latent and deterministic sites, but those that depend on sites that are summed out."""

    hidden = states_read(program)

    def rule(spec: Spec, operands: Sequence[Any], u: Any) -> tuple[Any, Any]:
        if spec.name in program.enumerated:
            return _any_state(program, spec), None
        value = site_value(spec, operands, u)
        return value, value if (spec.latent or spec.kind == "deterministic") and spec.name not in hidden else None

    return _run(program, data, rule, program.missing.spread(data, position))


def unconstrain(program: ModelProgram, data: Data, values: Values) -> dict[str, Any]:
    """Constrained values of the latent sites -> position."""

    def rule(spec: Spec, operands: Sequence[Any], value: Any) -> tuple[Any, Any]:
        if spec.name in program.enumerated:
            return _any_state(program, spec), None
        if not spec.latent:
            return site_value(spec, operands, None), None
        value = jnp.asarray(value, spec.dtype)
        return value, spec.apply(lambda dist, scale, obs, x: spec.bijection(dist).inv(x), operands, value)

    return _run(program, data, rule, program.missing.spread(data, values))


def score_sites(program: ModelProgram, data: Data, position: Values, without: str = "") -> dict[str, Any]:
    """The log density of every sample and factor site (nats), summed over everything but loops; their sum is

        log p(x(u), y) + sum_s log |det d x_s / d u_s|,    x_s = bijection_s(u_s).

    A `scale` handler multiplies log p of its site and leaves the Jacobian alone: the Jacobian belongs to the coordinates, not
    to the model. (NumPyro scales both, so that its density depends on the parametrisation.) Where a site is masked both are left out.
    The observed site `without` is not scored. Where discrete sites are summed out the sum has no parts: it stands under their names.
    """
    if program.enumerated:
        return {", ".join(sorted(program.enumerated)): marginal_log_density(program, data, position)}

    def rule(spec: Spec, operands: Sequence[Any], u: Any) -> tuple[Any, Any]:
        if spec.kind == "deterministic":
            return operands[0], None
        if spec.name == without:
            return operands[spec.num_leaves], None
        if not spec.latent:
            total = spec.apply(lambda dist, scale, obs: scaled(log_prob_of(dist, obs), scale), operands)
            return operands[spec.num_leaves], total_of(total)
        value, total = spec.apply(_score_latent(spec, spec.name in program.missing.counts), operands, u)
        return value, total_of(total)

    return _run(program, data, rule, program.missing.spread(data, position), gather=False)


def pointwise(program: ModelProgram, data: Data, values: Values) -> dict[str, Any]:
    """log p(y_i | values) of every element of every observed site (nats), of the site's shape without its event axes.

    NaN where an element is masked, missing values among them, or its site stands in the branch of a `cond` that was not taken: it is no
    observation. A `scale` handler plays no part: it weighs the density, it is no probability of an observation.

    Where discrete sites are summed out the observed sites that depend on them are scored by rows, see `marginal_rows`, and those that go
    together under all of their names: "y1, y2".
    """
    found = _elements(program, data, values, 0)
    scores = {n: jnp.where(counts, log_prob, jnp.nan) for n, (log_prob, counts) in found.items()}
    if program.enumerated:
        counts = {n: counts for n, (_, counts) in found.items()}

        def in_any(number: Any, so_far: dict[str, Any]) -> dict[str, Any]:
            return {n: so_far[n] | counts for n, (_, counts) in _elements(program, data, values, number).items()}

        counts = jax.lax.fori_loop(1, max(map(len, program.states.values())), in_any, counts)
        for rows in marginal_rows(program, data, values, counts):
            scores = {n: v for n, v in scores.items() if n not in rows.sites} | {", ".join(rows.sites): rows.array}
    return scores


def _elements(program: ModelProgram, data: Data, values: Values, state: Any) -> dict[str, tuple[Any, Any]]:
    """By observed site the log probability of every event, and whether it counts; every discrete site that is summed out in one state."""

    def scored(dist: Distribution, scale: Any, obs: Any) -> tuple[Any, Any]:
        log_prob = log_prob_of(dist, obs)
        return log_prob, jnp.broadcast_to(counted(dist), jnp.shape(log_prob))

    def rule(spec: Spec, operands: Sequence[Any], value: Any) -> tuple[Any, Any]:
        if spec.name in program.enumerated:
            return _any_state(program, spec, state), None
        if spec.latent:
            return jnp.asarray(value, spec.dtype), None
        if spec.kind != "sample":
            return site_value(spec, operands, None), None
        return operands[spec.num_leaves], spec.apply(scored, operands)

    return _run(program, data, rule, program.missing.spread(data, values), gather=False)


def score_values(program: ModelProgram, data: Data, values: Values) -> dict[str, Any]:
    """The log density of every sample and factor site (nats) at constrained values, without Jacobians: their sum is log p(x, y).

    A `scale` handler multiplies, and what is summed out is one number, as in `score_sites`.
    """
    if program.enumerated:
        return {", ".join(sorted(program.enumerated)): marginal_log_density(program, data, values, unconstrained=False)}

    def rule(spec: Spec, operands: Sequence[Any], value: Any) -> tuple[Any, Any]:
        if spec.kind == "deterministic":
            return operands[0], None
        if not spec.latent:
            return operands[spec.num_leaves], total_of(spec.apply(lambda dist, scale, obs: scaled(log_prob_of(dist, obs), scale), operands))
        value = jnp.asarray(value, spec.dtype)
        return value, total_of(spec.apply(lambda dist, scale, obs, x: total_of(scaled(log_prob_of(dist, x), scale)), operands, value))

    return _run(program, data, rule, program.missing.spread(data, values), gather=False)


def start(program: ModelProgram, data: Data, key: Any, strategy: Strategy, fixed: Values | None = None) -> dict[str, Any]:
    """A starting position: each latent site from `strategy`, given the sites before it; sites in `fixed` from there (constrained)."""
    fixed = fixed or {}
    keys = _site_keys(program, key)

    def rule(spec: Spec, operands: Sequence[Any], given: Any) -> tuple[Any, Any]:
        if spec.name in program.enumerated:
            return _any_state(program, spec), None
        if not spec.latent:
            return site_value(spec, operands, None), None
        if "value" in given:
            value = jnp.asarray(given["value"], spec.dtype)
            return value, spec.apply(lambda dist, scale, obs, x: spec.bijection(dist).inv(x), operands, value)

        def one(dist: Distribution, scale: Any, obs: Any, key: Any) -> tuple[Any, Any]:
            bijection = spec.bijection(dist)
            u = jnp.asarray(strategy(key, dist, bijection, spec.unconstrained_shape or (), spec.name), spec.dtype)
            return bijection(u), u

        return spec.apply(one, operands, _split(given["key"], spec))

    whole = program.missing.spread(data, fixed)
    inputs = {n: _without_none({"key": k, "value": whole.get(n)}) for n, k in keys.items()}
    return _run(program, data, rule, inputs)


def _run(program: ModelProgram, data: Data, rule: Rule, inputs: Values, *, gather: bool = True) -> dict[str, Any]:
    """The records by site, in program order; with `gather`, of the sites of missing data those of the missing elements."""
    _, records = walk(program.jaxpr, data, program.missing.rule(rule), inputs)
    records = {n: records[n] for n in program.sites if n in records}
    return program.missing.gather(data, records) if gather else records


def _any_state(program: ModelProgram, spec: Spec, number: Any = 0) -> Any:
    """A value for a site that is summed out, where none matters: the state of that number, or its last one."""
    states = jnp.asarray(program.states[spec.name], spec.dtype)
    return jnp.full(spec.shape, states[jnp.minimum(number, len(states) - 1)])


def states_read(program: ModelProgram) -> set[str]:
    """The deterministic sites that depend on a site that is summed out, directly or through each other."""
    if not program.enumerated:
        return set()
    below: dict[str, set[str]] = {}
    for edge in edges(program):
        below.setdefault(edge.parent, set()).add(edge.child)
    kind = {n: s.kind for n, s in program.sites.items()}
    through = {n: below.get(n, set()) if kind[n] == "deterministic" or n in program.enumerated else () for n in kind}
    return {n for n in reachable(through, program.enumerated) if kind[n] == "deterministic"}


def _continued(site: Site, value: Any) -> tuple[Any, Any]:
    """A value of the site's whole shape, and None; or one with fewer steps, filled up, and which of its leading entries are known."""
    value = jnp.asarray(value)
    if value.shape == site.shape or value.shape[1:] != site.shape[1:]:
        return value, None
    steps = jnp.arange(site.shape[0]) < value.shape[0]
    whole = jnp.concatenate([value, jnp.zeros((site.shape[0] - value.shape[0], *value.shape[1:]), value.dtype)])
    inner = () if site.packed else site.loops[1:]
    return whole, jnp.broadcast_to(steps.reshape(-1, *(1 for _ in inner)), (site.shape[0], *inner))


def _over_events(known: Any, value: Any) -> Any:
    """A mask of elements with axes for their events behind."""
    return known if known.ndim == 0 else known.reshape(*known.shape, *(1 for _ in range(value.ndim - known.ndim)))


def _without_none(entries: dict[str, Any]) -> dict[str, Any]:
    return {n: v for n, v in entries.items() if v is not None}


def site_value(spec: Spec, operands: Sequence[Any], u: Any) -> Any:
    """The value of a site: its operand, its observation, or the bijection of its unconstrained value."""
    if spec.kind == "deterministic":
        return operands[0]
    if spec.observed:
        return operands[spec.num_leaves]
    value = spec.apply(lambda dist, scale, obs, u: spec.bijection(dist)(u), operands, u)
    return jnp.asarray(value, spec.dtype)


def _score_latent(spec: Spec, packed: bool) -> Callable[..., tuple[Any, Any]]:
    def score(dist: Distribution, scale: Any, missing: Any, u: Any) -> tuple[Any, Any]:
        if spec.unit_jacobian:
            value, total = u, total_of(scaled(log_prob_of(dist, u), scale))
        else:
            bijection = spec.bijection(dist)
            value = bijection(u)
            if not jnp.size(value):
                return value, jnp.zeros((), jnp.result_type(float))
            total = total_of(scaled(log_prob_of(dist, value), scale)) + total_of(masked_jacobian(bijection, u, value, dist))
        return value, total if missing is None or packed else total + idle(u, missing)

    return score


def _draw(spec: Spec) -> Callable[..., Any]:
    def draw(dist: Distribution, scale: Any, obs: Any, key: Any) -> Any:
        shape = spec.shape[len(spec.vmaps) :]
        if dist.shape() != shape:  # an observation broader than its distribution
            dist = dist.expand(shape[: len(shape) - spec.event_dim])
        try:
            return drawn(dist, key)
        except NotImplementedError as e:
            raise ModelError(
                f"site {spec.name!r}: {distribution_name(dist)} cannot be sampled (it is improper or has no sampler), so the model cannot "
                "be run forwards. Give the site a proper prior, or condition on a value for it."
            ) from e

    return draw


def _site_keys(program: ModelProgram, key: Any) -> dict[str, Any]:
    """One key for each step of each site: (*loops,) keys by name."""
    sampled = [s for s in program.sites.values() if s.kind == "sample"]
    keys = jax.random.split(key, max(len(sampled), 1))
    return {s.name: _loop_keys(keys[i], s) for i, s in enumerate(sampled)}


def _loop_keys(key: Any, site: Site) -> Any:
    return jax.random.split(key, site.loops) if site.loops else key


def _split(key: Any, spec: Spec) -> Any:
    sizes = tuple(size for size, _ in reversed(spec.vmaps))
    return jax.random.split(key, sizes) if sizes else key
