"""Which rule bounds which likelihood: what is known, what the user has registered, and (the rest) what interval arithmetic can prove."""

from ....transforms.errors import BoundError
from .families import RULES
from .records import Family, Rule

__all__ = ["rule_for"]


def rule_for(family: Family) -> Rule:
    """The rule of a likelihood of one linear predictor.

    Raises:
        BoundError: none is known and none was registered.
    """
    rule = RULES.get((family.distribution, family.link))
    if rule is None:
        raise BoundError(
            f"no bound is known for {family.distribution.__name__} with link {family.link!r}; "
            "register one: lc.bounds.register(distribution_class, bound)."
        )
    return rule
