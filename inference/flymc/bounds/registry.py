"""Which rule bounds which likelihood: what a user has registered, what is known, and (the rest) what interval arithmetic can prove.

What is registered is kept for the process, as distributions and their densities are; it is asked for first, so that a user can replace a
bound of ours by a tighter one.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from numpyro.distributions.discrete import CategoricalLogits

from ....transforms.errors import BoundError
from .families import RULES
from .records import Family, Row, Rule, nothing_to_prove
from .traced import evaluated, traced_rule

__all__ = ["has_reference", "is_softmax", "register", "rule_for"]

UserBound = Callable[[Any, Any, dict[str, Any]], tuple[Any, Any]]
_REGISTERED: dict[type, tuple[UserBound, bool]] = {}


def register(distribution_class: type, bound: UserBound | None, *, everywhere: bool = False) -> None:
    """Give the likelihood of a distribution a bound of your own, used by `lc.FlyMC` in place of any other.

        l(a + t) >= l(a) + slope t - curvature t^2 / 2    for |t| <= radius

    Args:
        distribution_class: the class, exactly; classes derived from it are not meant.
        bound: (eta_anchor, radius, params) -> (slope, curvature), for one row: scalars in, scalars out, pure JAX, called in float64.
            `eta_anchor` is a, the row's linear predictor; `params` holds the likelihood's other parameters by name, "value" being the
            observation. `slope` is l'(a); `curvature` at least the supremum of 2 (l(a) + l'(a) t - l(a + t)) / t^2 over the ball,
            for which that of -l'' will do. None takes back what was registered.
        everywhere: whether `bound` may be asked with an infinite radius, for a bound on the whole line.

    Raises:
        BoundError: the class is no class, or the bound is not callable.

    The bound is checked on every row that is evaluated; one that exceeds the likelihood stops the run: a `BoundError` names the row.
    """
    if not isinstance(distribution_class, type):
        raise BoundError(
            f"bounds.register: {distribution_class!r} is no class; give the class of the distribution, as type(distribution) shows it."
        )
    if bound is None:
        _REGISTERED.pop(distribution_class, None)
        return
    if not callable(bound):
        raise BoundError(f"bounds.register: the bound of {distribution_class.__name__} is {bound!r}, a function expected.")
    _REGISTERED[distribution_class] = (bound, everywhere)


@functools.lru_cache(maxsize=256)
def _registered_rule(name: str, bound: UserBound, everywhere: bool, evaluation: Rule) -> Rule:
    """The user's bound as a rule; the likelihood itself is the model's."""

    def per_row(anchor, radius, row):
        def one(anchor, radius, row):
            made = bound(anchor, radius, {k: _wide(x) for k, x in row.items()})
            if not isinstance(made, (tuple, list)) or len(made) != 2 or any(jnp.shape(x) != () for x in made):
                raise BoundError(
                    f"the bound registered for {name} must return (slope, curvature), two scalars for one row; it returned {made!r}."
                )
            return tuple(jnp.asarray(x, jnp.float64) for x in made)

        return jax.vmap(one)(anchor, radius, row)

    return evaluation._replace(
        name=f"{name}, registered",
        prove=nothing_to_prove,
        kinks=(),
        slope=lambda eta, row: per_row(eta, jnp.zeros_like(eta), row)[0],
        chord=lambda anchor, radius, row: per_row(anchor, radius, row)[1],
        everywhere=(lambda anchor, row: per_row(anchor, jnp.full_like(anchor, jnp.inf), row)[1]) if everywhere else None,
    )


def _wide(x):
    return x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x


def is_softmax(family: Family) -> bool:
    """Whether the likelihood is categorical with logits that are linear predictors."""
    return family.distribution is CategoricalLogits and family.link in ("identity", "softmax", "reference softmax")


def has_reference(family: Family) -> bool:
    """Whether the logits of classes 1, 2, ... are free and that of class 0 is 0, rather than all being free."""
    return family.link == "reference softmax"


def rule_for(family: Family, params: Row, shared: Row | None = None) -> Rule:
    """The rule of a likelihood of one linear predictor.

    Args:
        family: which likelihood.
        params, shared: only names, shapes and types are read.

    Raises:
        BoundError: none is known, none is registered, and interval arithmetic finds none; names the primitive.
    """
    name = family.distribution.__name__
    if family.predictors != 1:
        raise BoundError(
            f"{name} with {family.predictors} linear predictors has no bound; of those with several only the categorical one has."
        )
    if family.distribution in _REGISTERED:
        bound, everywhere = _REGISTERED[family.distribution]
        return _registered_rule(name, bound, everywhere, evaluated(name, family.log_likelihood, params, shared))
    return RULES.get((family.distribution, family.link)) or traced_rule(name, family.log_likelihood, params, shared)
