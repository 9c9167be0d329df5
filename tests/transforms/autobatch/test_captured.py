"""What a program reads from outside may change between two calls: the next call sees it."""

import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from luciole import transforms as lt
from luciole.transforms.autobatch.captured import captured

X = jnp.ones(3)
scale = jnp.asarray(2.0)
table = np.array([1.0, 2.0])
settings = types.SimpleNamespace(rate=3.0, inner=types.SimpleNamespace(values=[1.0, 2.0]))
weights = {"a": [np.ones(2), 1.0]}
module = types.ModuleType("luciole_test_module")
module.offset = 1.0
here = sys.modules[__name__]


class Config:
    factor = 2.0

    def __init__(self):
        self.shift = 1.0

    @property
    def double(self):
        return 2 * self.shift

    def times(self, x):
        return x * self.shift


config = Config()


def helper(x):
    return x * weights["a"][1] + settings.rate


@lt.program
def called(x):
    return x * scale


@lt.program
def of_global(x):
    return x * scale


@lt.program
def of_array(x):
    return x * table[1]


@lt.program
def of_attribute(x):
    return x * settings.rate + settings.inner.values[0]


@lt.program
def of_module(x):
    return x + module.offset


@lt.program
def of_class(x):
    return x * Config.factor


@lt.program
def of_object(x):
    return config.times(x) + config.double


@lt.program
def of_helper(x):
    return helper(x)


@lt.program
def of_program(x):
    return called(x) + 1.0


@lt.program
def of_default(x, by=table):
    return x * by[0]


def put(owner, name, value):
    return lambda patch: patch.setattr(owner, name, value)


def put_item(owner, key, value):
    def change(patch):
        before = owner[key]
        owner[key] = value
        patch.callbacks.append(lambda: owner.__setitem__(key, before))

    return change


# By name: (program, what is changed, the value at x = 1 afterwards).
CHANGES = {
    "global": (of_global, put(here, "scale", jnp.asarray(5.0)), 5.0),
    "array in place": (of_array, put_item(table, 1, 7.0), 7.0),
    "attribute": (of_attribute, put(settings, "rate", 4.0), 5.0),
    "nested attribute, list in place": (of_attribute, put_item(settings.inner.values, 0, 9.0), 12.0),
    "module": (of_module, put(module, "offset", 6.0), 7.0),
    "class": (of_class, put(Config, "factor", 3.0), 3.0),
    "object behind a method": (of_object, put(config, "shift", 2.0), 6.0),
    "helper's dictionary": (of_helper, put_item(weights["a"], 1, 2.0), 5.0),
    "helper itself": (of_helper, put(here, "helper", lambda x: x + 10.0), 11.0),
    "called program": (of_program, put(here, "scale", jnp.asarray(5.0)), 6.0),
    "default in place": (of_default, put_item(table, 0, 4.0), 4.0),
    "default replaced": (of_default, put(of_default.function, "__defaults__", (np.full(2, 8.0),)), 8.0),
}
RUN = {"global", "array in place"}


@pytest.fixture
def patch(monkeypatch):
    monkeypatch.callbacks = []
    yield monkeypatch
    for undo in monkeypatch.callbacks:
        undo()


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_changes_the_fingerprint(name, patch):
    program, change, _ = CHANGES[name]
    before = captured(program)
    assert before is not None
    assert captured(program) == before
    change(patch)
    assert captured(program) != before


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in RUN else [pytest.mark.slow]) for n in CHANGES])
def test_the_next_call_sees_it(name, patch):
    program, change, expected = CHANGES[name]
    run = lt.autobatch(program)
    before = run(X)
    change(patch)
    np.testing.assert_allclose(run(X), np.full(3, expected))
    assert not np.allclose(before, expected)


def test_the_variable_around_it():
    by = 2.0

    @lt.program
    def scaled(x):
        return x * by

    run = lt.autobatch(scaled)
    np.testing.assert_allclose(run(X), 2.0)
    by = 3.0
    np.testing.assert_allclose(run(X), 3.0)


def test_what_did_not_change_is_not_compiled_again(monkeypatch):
    run = lt.autobatch(of_attribute)
    run(X)
    kept = dict(run._compiled)
    monkeypatch.setattr(settings.inner, "values", [1.0, 2.0])  # another list, the same numbers
    run(X)
    assert run._compiled == kept


def test_changes_do_not_pile_up(monkeypatch):
    run = lt.autobatch(of_global)
    for i in range(3):
        monkeypatch.setattr(here, "scale", jnp.asarray(float(i)))
        np.testing.assert_allclose(run(X), i)
    assert len(run._programs) == 1


def test_a_traced_value_is_read_anew():
    run = []

    def outer(by):
        @lt.program
        def scaled(x):
            return x * by

        run.append(lt.autobatch(scaled))
        assert captured(scaled) is None
        return run[-1](X)

    np.testing.assert_allclose(jax.jit(outer)(3.0), 3.0)
    assert not run[-1]._programs
    assert run[-1]._captured is None
