"""Graphs against brute force, and chains that are longer than any recursion."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from luciole.transforms.equations import body_of, has_effects, needed_equations, occurs
from luciole.transforms.graph import components, reachable, reverse_postorder
from luciole.transforms.jax_compat import open_jaxpr


def graphs():
    rng = np.random.default_rng(0)
    for density in (0.05, 0.15, 0.3):
        for _ in range(10):
            edges = rng.random((9, 9)) < density
            yield {n: frozenset(np.flatnonzero(row).tolist()) for n, row in enumerate(edges)}


def closure(graph):
    reach = np.eye(len(graph), dtype=bool) | np.array([[m in graph[n] for m in graph] for n in graph])
    for k in graph:
        reach |= reach[:, [k]] & reach[[k], :]
    return reach


@pytest.mark.parametrize("graph", list(graphs()))
def test_against_brute_force(graph):
    reach = closure(graph)
    for n in graph:
        assert reachable(graph, [n]) == set(np.flatnonzero(reach[n]))
    assert reachable(graph, []) == frozenset()
    found = components(graph, graph)
    assert sorted(itertools.chain(*found)) == list(graph) and all(c == sorted(c) for c in found)
    assert {frozenset(c) for c in found} == {frozenset(np.flatnonzero(reach[n] & reach[:, n]).tolist()) for n in graph}
    place = {n: i for i, c in enumerate(found) for n in c}
    assert all(place[m] <= place[n] for n in graph for m in graph[n])
    order = reverse_postorder(graph, [0, 3])
    assert sorted(order) == sorted(reachable(graph, [0, 3]))
    acyclic = {n: [m for m in graph[n] if m > n] for n in graph}
    at = {n: i for i, n in enumerate(reverse_postorder(acyclic, graph))}
    assert all(at[n] < at[m] for n in acyclic for m in acyclic[n])


def test_long_chains():
    chain = {n: [n + 1] for n in range(10_000)} | {10_000: []}
    assert len(reachable(chain, [0])) == len(components(chain, chain)) == len(reverse_postorder(chain, [0])) == 10_001
    assert len(components(chain | {10_000: [0]}, chain)) == 1


def test_equations_that_are_needed():
    def f(x):
        y = jnp.sin(x)
        z = jnp.cos(y)
        jax.debug.print("{}", z)
        return y + 1.0, jnp.exp(x)

    jaxpr, _ = open_jaxpr(jax.make_jaxpr(f)(1.0))
    names = [e.primitive.name for e in needed_equations(jaxpr.eqns, jaxpr.outvars[:1])]
    assert names == ["sin", "add"]
    with_effects = needed_equations(jaxpr.eqns, jaxpr.outvars[:1], also=has_effects)
    assert [e.primitive.name for e in with_effects][:2] == ["sin", "cos"] and len(with_effects) == 4
    sine = jaxpr.eqns[0].outvars[0]
    assert [e.primitive.name for e in needed_equations(jaxpr.eqns, jaxpr.outvars[:1], {sine})] == ["add"]


def test_calls_and_what_occurs_in_them():
    def f(x):
        return jax.jit(lambda x: jax.lax.while_loop(lambda x: x < 3, lambda x: x + 1, x))(x)

    jaxpr = jax.make_jaxpr(f)(1.0)
    (call,) = jaxpr.eqns
    assert len(open_jaxpr(body_of(call))[0].eqns) == 1 and body_of(open_jaxpr(body_of(call))[0].eqns[0]) is None
    assert occurs(jaxpr, lambda eqn: eqn.primitive.name == "while") and not occurs(jaxpr, lambda eqn: eqn.primitive.name == "sin")
