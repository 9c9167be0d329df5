"""The one JAX primitive of the model language: a site.

`site_p` stands in a model's jaxpr wherever the model says `sample`, `factor` or `deterministic`. Its operands are the arrays of the
statement (leaves of the distribution, then the observation, then the scale), its one parameter is the `Spec`. It carries an
effect, so that nothing drops an equation whose result is unused, and it cannot be lowered: a model is meant to be interpreted.
"""

from collections.abc import Sequence
from typing import Any, NoReturn

from jax.core import ShapedArray

from ..transforms import ModelError
from ..transforms.jax_compat import (
    Effect,
    JaxprEqn,
    Primitive,
    declare_effect,
    define_batching,
    define_jvp,
    define_result,
    open_jaxpr,
    subjaxprs,
)
from .spec import Spec

__all__ = ["bind_site", "has_sites", "is_site", "site_names"]


class SampleEffect(Effect):
    """The mark of a random choice."""

    def __str__(self) -> str:
        return "Sample"


sample_effect = SampleEffect()
declare_effect(SampleEffect)

site_p = Primitive("site")


def bind_site(spec: Spec, operands: Sequence[Any]) -> Any:
    """Record one site in the program being traced and return its value there."""
    return site_p.bind(*operands, spec=spec)


def is_site(eqn: JaxprEqn) -> bool:
    return eqn.primitive is site_p


def has_sites(eqn: JaxprEqn) -> bool:
    """Whether an equation is a site or has one inside."""
    return is_site(eqn) or any(has_sites(e) for sub in subjaxprs(eqn) for e in open_jaxpr(sub)[0].eqns)


def site_names(eqn: JaxprEqn) -> list[str]:
    """The names of the sites inside an equation, in program order."""
    if is_site(eqn):
        return [eqn.params["spec"].name]
    return [n for sub in subjaxprs(eqn) for e in open_jaxpr(sub)[0].eqns for n in site_names(e)]


def _result(*avals: Any, spec: Spec) -> tuple[ShapedArray, set[SampleEffect]]:
    return ShapedArray(spec.shape, spec.dtype), {sample_effect}


def _batch(size: int, operands: Sequence[Any], axes: Sequence[int | None], *, spec: Spec) -> tuple[Any, int]:
    """Under `vmap` a site becomes a site with one more batch axis: independent draws, whatever is batched."""
    return bind_site(spec.batched(size, axes), operands), 0


def _outside(*operands: Any, spec: Spec) -> NoReturn:
    raise ModelError(
        f"site {spec.name!r} was reached outside a model. A model is run by `lc.MCMC`, `lc.prior_predictive(model, key, n)`, "
        "`lc.log_density(model, ...)` and the like, not by calling it."
    )


def _differentiate(primals: Sequence[Any], tangents: Sequence[Any], *, spec: Spec) -> tuple[Any, Any]:
    if spec.kind == "deterministic":
        return bind_site(spec, primals), tangents[0]
    raise ModelError(
        f"site {spec.name!r} stands inside a function that the model differentiates (`jax.grad`, `jax.jvp`, ...). Sample outside "
        "of that function and pass the value in."
    )


define_result(site_p, _result)
define_batching(site_p, _batch)
define_jvp(site_p, _differentiate)
site_p.def_impl(_outside)
