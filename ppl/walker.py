"""The walker: runs a model's jaxpr with a rule that says what a site does. Every interpreter is this walker with another rule.

    outs, records = walk(jaxpr, data, rule, inputs)

A rule is called once per site with what goes into it and returns the site's value and a record. Inside a scan the inputs of a site
are scanned over (they have a leading loop axis) and its records come out stacked, so a rule only ever sees one step. The program is
re-emitted through public JAX (`lax.scan`, `lax.switch`, `jax.checkpoint`), so the result can be jitted, mapped and differentiated.

Sharp edges: a custom derivative rule around a site is lost (its body is inlined, with a warning); equations that no site and no
result needs, such as NumPyro's argument checks, are not run at all.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..transforms import LucioleWarning, ModelError
from ..transforms.equations import BODY_PARAMETER, CHECKPOINTS, body_of, needed_equations
from ..transforms.jax_compat import JaxprEqn, Literal, bind, open_jaxpr, scan_layout
from .primitives import has_sites, is_site, site_names
from .spec import Spec

__all__ = ["Rule", "run_equation", "walk"]

Rule = Callable[[Spec, Sequence[Any], Any], tuple[Any, Any]]
"""rule(spec, operands, input) -> (value of the site, record); the input and the record are pytrees of arrays, or None."""

Records = dict[str, Any]


class LostDerivativeWarning(LucioleWarning):
    """A custom derivative rule around a site was replaced by the derivative of its body."""


def walk(jaxpr: Any, args: Sequence[Any], rule: Rule, inputs: Mapping[str, Any]) -> tuple[list[Any], Records]:
    """Run a jaxpr.

    Args:
        jaxpr: a jaxpr or closed jaxpr.
        args: values of its constants (if it is open), then of its inputs.
        rule: what a site does.
        inputs: by site name, what goes to the rule; leading axes are the loops around the site. A site may be absent.

    Returns:
        The results, and the records by site name, with the loops' axes leading. Records that are None are left out.
    """
    inner, _ = open_jaxpr(jaxpr)
    env: dict[Any, Any] = dict(zip([*inner.constvars, *inner.invars], args, strict=True))
    records: Records = {}
    for eqn in needed_equations(inner.eqns, inner.outvars, also=has_sites):  # JAX's own elimination does not keep every site
        operands = [x.val if isinstance(x, Literal) else env[x] for x in eqn.invars]
        outs, found = run_equation(eqn, operands, rule, inputs)
        records.update(found)
        env.update(zip(eqn.outvars, outs, strict=True))
    return [x.val if isinstance(x, Literal) else env[x] for x in inner.outvars], records


def run_equation(eqn: JaxprEqn, operands: list[Any], rule: Rule, inputs: Mapping[str, Any]) -> tuple[list[Any], Records]:
    """One equation: its results, and the records of the sites in it. Arguments as for `walk`."""
    if is_site(eqn):
        spec = eqn.params["spec"]
        value, record = rule(spec, operands, inputs.get(spec.name))
        return [value], ({} if record is None else {spec.name: record})
    if not has_sites(eqn):
        return bind(eqn, operands), {}
    name = eqn.primitive.name
    if name in _HANDLERS:
        return _HANDLERS[name](eqn, operands, rule, inputs)
    raise ModelError(
        f"site {site_names(eqn)[0]!r} stands inside `{name}`, which models cannot contain. Sample outside of it; `jax.jit`, `jax.vmap`, "
        "`jax.lax.scan`, `jax.lax.cond` and `jax.checkpoint` may have sites inside."
    )


def _inline(eqn: JaxprEqn, operands: list[Any], rule: Rule, inputs: Mapping[str, Any]) -> tuple[list[Any], Records]:
    if eqn.primitive.name.startswith("custom_"):
        warnings.warn(
            f"a function with a custom derivative has the site {site_names(eqn)[0]!r} inside; its body is differentiated instead.",
            LostDerivativeWarning,
            stacklevel=2,
        )
    body = body_of(eqn)
    return walk(body, [*open_jaxpr(body)[1], *operands], rule, inputs)


def _scan(eqn: JaxprEqn, operands: list[Any], rule: Rule, inputs: Mapping[str, Any]) -> tuple[list[Any], Records]:
    num_consts, num_carry = scan_layout(eqn)
    body = eqn.params["jaxpr"]
    consts = [*open_jaxpr(body)[1], *operands[:num_consts]]
    init, xs = operands[num_consts : num_consts + num_carry], operands[num_consts + num_carry :]
    scanned = {n: inputs[n] for n in site_names(eqn) if n in inputs}

    def step(carry: list[Any], x: tuple[list[Any], Records]) -> tuple[list[Any], tuple[list[Any], Records]]:
        outs, records = walk(body, [*consts, *carry, *x[0]], rule, x[1])
        # a rule may return another dtype or weak type than the trace had; the carry must keep its own
        carried = [jnp.asarray(o, c.dtype) if hasattr(c, "dtype") else o for o, c in zip(outs[:num_carry], carry, strict=True)]
        return carried, (outs[num_carry:], records)

    init = [jnp.asarray(c) for c in init]
    carry, (ys, records) = lax.scan(
        step, init, (xs, scanned), length=eqn.params["length"], reverse=eqn.params["reverse"], unroll=eqn.params["unroll"]
    )
    return [*carry, *ys], records


def _cond(eqn: JaxprEqn, operands: list[Any], rule: Rule, inputs: Mapping[str, Any]) -> tuple[list[Any], Records]:
    """Records of all branches; a site that the taken branch does not have leaves zeros."""

    def branch(jaxpr: Any) -> Callable[..., tuple[list[Any], Records]]:
        return lambda *args: walk(jaxpr, [*open_jaxpr(jaxpr)[1], *args], rule, inputs)

    index, *args = operands
    branches = [branch(b) for b in eqn.params["branches"]]
    shapes = [jax.eval_shape(b, *args)[1] for b in branches]
    everything: Records = {}
    for shape in shapes:
        everything.update({n: s for n, s in shape.items() if n not in everything})

    def complete(run: Callable[..., tuple[list[Any], Records]]) -> Callable[..., tuple[list[Any], Records]]:
        def completed(*args: Any) -> tuple[list[Any], Records]:
            outs, records = run(*args)
            return outs, {n: records[n] if n in records else _absent(s) for n, s in everything.items()}

        return completed

    return lax.switch(index, [complete(b) for b in branches], *args)


def _absent(shapes: Any) -> Any:
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)


def _remat(eqn: JaxprEqn, operands: list[Any], rule: Rule, inputs: Mapping[str, Any]) -> tuple[list[Any], Records]:
    body = body_of(eqn)
    consts = open_jaxpr(body)[1]

    policy, prevent_cse = eqn.params.get("policy"), eqn.params.get("prevent_cse", True)
    run = jax.checkpoint(lambda *args: walk(body, [*consts, *args], rule, inputs), policy=policy, prevent_cse=prevent_cse)
    return run(*operands)


_HANDLERS: dict[str, Callable[..., tuple[list[Any], Records]]] = {
    **dict.fromkeys(BODY_PARAMETER, _inline),
    **dict.fromkeys(CHECKPOINTS, _remat),
    "scan": _scan,
    "cond": _cond,
}
