"""Primitives that nobody has written a rule for."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from luciole.sharding.rules import rule_of
from luciole.sharding.rules.probe import answer
from luciole.transforms.jax_compat import Primitive, define_lowering, define_result

from .shards import check_all, equation, filled

X = filled((4, 4))


def primitive(name, function):
    """A new primitive that runs as a function of arrays, with results of the first one's type."""
    new = Primitive(name)
    new.multiple_results = True
    define_result(new, lambda x, *rest: ([x], set()))
    define_lowering(new, lambda *operands: [function(*operands)])
    return new


SOFT = primitive("test_softsign", lambda x, scale: x / (1.0 + jnp.abs(x)) * scale)
TURNED = primitive("test_turned", lambda x: x.T)
TABLE = primitive("test_table", lambda x: x + np.arange(16, dtype=np.float32).reshape(4, 4))
SUMMED = primitive("test_summed", lambda x: x - x.sum())
COUNTED = primitive("test_counted", lambda x: x + lax.broadcasted_iota(jnp.float32, (4, 4), 0))


def test_what_is_lowered_to_elementwise_operations_is_split():
    eqn = equation("test_softsign", lambda x: SOFT.bind(x, np.float32(2.0)), X)
    rule = rule_of(eqn)
    assert len(rule.factors(eqn)) == 2
    assert not rule.known
    check_all(eqn, [X, np.float32(2.0)])


@pytest.mark.parametrize("new", [TURNED, TABLE, SUMMED, COUNTED], ids=lambda new: new.name)
def test_what_moves_or_mixes_elements_is_not(new):
    eqn = equation(new.name, new.bind, X)
    rule = rule_of(eqn)
    assert not rule.known
    assert rule.factors(eqn) == ()


def test_what_cannot_be_lowered_is_not():
    silent = Primitive("test_silent")
    define_result(silent, lambda x: (x, set()))
    eqn = equation("test_silent", silent.bind, X)
    assert rule_of(eqn).factors(eqn) == ()


def test_answers_are_kept_by_what_they_depend_on():
    answer.cache_clear()
    for x in (X, X[:2], X):
        rule_of(equation("test_softsign", lambda x: SOFT.bind(x, np.float32(2.0)), x))
    assert answer.cache_info().misses == 2
    assert answer.cache_info().hits == 1
