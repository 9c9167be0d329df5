"""Which link a row's parameter has: its function of the predictor is compared, equation by equation, with the usual ways to write links.

The equations must be the same, so a clipped or otherwise altered link is never taken for a plain one; it goes by the name "traced".
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy import special, stats
from numpyro import distributions as dist

from ...transforms.affine.rules import called_body
from ...transforms.equations import run_jaxpr
from ...transforms.jax_compat import bind, open_jaxpr
from ...transforms.structure import structure
from .cut import Cuts
from .elementwise import Placed, RowFunction
from .equations import ModelEquations

__all__ = ["Link", "link_of"]

_ROWS = 3

# Ways to write each link, as functions of the predictor x and of data e.
_WRITTEN: dict[str, tuple[Callable[[Any, Any], Any], ...]] = {
    "logit": (
        lambda x, e: jax.nn.sigmoid(x),
        lambda x, e: 1 / (1 + jnp.exp(-x)),
        lambda x, e: 1.0 / (jnp.exp(-x) + 1.0),
        lambda x, e: jnp.exp(x) / (1 + jnp.exp(x)),
        lambda x, e: jnp.exp(x) / (jnp.exp(x) + 1),
        lambda x, e: (lambda t: t / (1 + t))(jnp.exp(x)),
    ),
    "probit": (
        lambda x, e: special.ndtr(x),
        lambda x, e: stats.norm.cdf(x),
        lambda x, e: dist.Normal(0, 1).cdf(x),
        lambda x, e: 0.5 * (1 + special.erf(x / jnp.sqrt(2.0))),
        lambda x, e: 0.5 * (1 + special.erf(x / 2**0.5)),
        lambda x, e: 0.5 * special.erfc(-x / jnp.sqrt(2.0)),
        lambda x, e: 0.5 * special.erfc(-x / 2**0.5),
    ),
    "log": (lambda x, e: jnp.exp(x), lambda x, e: e * jnp.exp(x), lambda x, e: jnp.exp(x) * e),
}


class Link(NamedTuple):
    """A link that was recognised: parameter = exposure * g(predictor * scale + shift), g the inverse of the link."""

    name: str
    scale: float
    shift: float
    exposure: Placed | None


def link_of(function: RowFunction) -> Link | None:
    """The link of a function of one predictor with one result, or None."""
    if len(function.predictors) != 1 or len(function.results) != 1 or function.shared or len(function.rows) > 1:
        return None
    key = _key(function)
    for candidate, slope, intercept, name in _references(str(function.predictors[0].atom.aval.dtype)):
        if candidate == key:
            return Link(name, 1 / slope, -intercept / slope, function.rows[0] if function.rows else None)
    return None


def _key(function: RowFunction) -> Any:
    def scalars(atoms: Any) -> list[jax.ShapeDtypeStruct]:
        return [jax.ShapeDtypeStruct((), x.aval.dtype) for x in atoms]

    inputs = [scalars(p.atom for p in function.predictors), scalars(function.shared), scalars(p.atom for p in function.rows)]
    return structure(jax.make_jaxpr(function)(*inputs), differentiated=False)


@functools.lru_cache(maxsize=8)
def _references(dtype: str) -> list[tuple[Any, float, float, str]]:
    """(key of g(w), slope and intercept of w in x, name) of every way to write a link at this precision."""
    found = []
    for name, ways in _WRITTEN.items():
        for way in ways:
            model = _as_model(way, dtype)
            function = RowFunction(Cuts(model, _ROWS))
            if function.add(Placed.at_the_right(model.operands[0], 1)) is not None or len(function.predictors) != 1:
                continue
            read = [function.predictors[0].atom]
            at = [
                float(model.values(read, (jnp.ones(_ROWS, dtype),), given={model.sources[0]: jnp.full(_ROWS, x, dtype)})[0][0])
                for x in (0, 1)
            ]
            found.append((_key(function), at[1] - at[0], at[0], name))
    return found


def _as_model(way: Callable[[Any, Any], Any], dtype: str) -> ModelEquations:
    """A function as a model whose latent variable is x."""
    row = jax.ShapeDtypeStruct((_ROWS,), dtype)
    traced, consts = open_jaxpr(jax.make_jaxpr(way)(row, row))

    def visit(eqn: Any, operands: list[Any]) -> list[Any]:
        called = called_body(eqn, operands)
        return bind(eqn, operands) if called is None else run_jaxpr(*open_jaxpr(called[0]), called[1], visit)

    flat, constants = open_jaxpr(jax.make_jaxpr(lambda x, e: run_jaxpr(traced, consts, [x, e], visit))(row, row))
    x, e = flat.invars
    return ModelEquations(
        tuple(flat.outvars),
        tuple(flat.eqns),
        (e,),
        dict(zip(flat.constvars, constants, strict=True)),
        (x,),
    )
