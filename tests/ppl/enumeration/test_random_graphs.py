"""Random small models against brute force: whatever is accepted is right, value and gradient; and most of them are accepted.

A failure names the seeds and prints the graphs: `model_of(draw(seed))` is the model, `data(draw(seed))` its data.
"""

import collections
import re
from types import SimpleNamespace

import numpy as np
import pytest

import luciole as lc

from . import random_graphs
from .graph_models import data, model_of, supports
from .oracle import brute_force, value_and_gradient
from .random_graphs import draw

pytestmark = pytest.mark.usefixtures("x64")

VALUE, GRADIENT = 1e-12, 1e-10  # relative, float64
QUICK, ALL = 20, 200
GROUP = 5


def difference(found, expected):
    """The largest, relative to the largest number expected and at least to 1."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    return np.max(np.abs(found - expected), initial=0.0) / np.max(np.abs(expected), initial=1.0)


def random_position(oracle, seed):
    rng = np.random.default_rng([seed, 2])
    return {n: 0.7 * rng.standard_normal(s.shape) for n, s in oracle.positions.items()}


def judge(seed):
    """What is wrong with the density of a graph, in words: "" if nothing is, None if the model is refused."""
    graph = draw(seed)
    model, given = model_of(graph), data(graph)
    try:
        density = lc.log_density(model, given)
    except lc.ModelError:
        return None
    oracle = brute_force(model, supports(graph), given)
    if density.positions != oracle.positions:
        return f"positions {density.positions}, expected {oracle.positions}"
    u = random_position(oracle, seed)
    value, gradient = value_and_gradient(density, u)
    expected, slopes = oracle.value_and_gradient(u)
    assert np.isfinite(expected), "the comparison would show nothing"
    wrong = {"value": difference(value, expected)} if not difference(value, expected) <= VALUE else {}
    off = {n: difference(gradient[n], slope) for n, slope in slopes.items()}
    wrong |= {f"gradient of {n}": d for n, d in off.items() if not d <= GRADIENT}
    return ", ".join(f"{what} off by {d:.1e} (relative)" for what, d in wrong.items())


def all_right(seeds):
    verdicts = {seed: judge(seed) for seed in seeds}
    wrong = "\n".join(f"{draw(seed)}\n    {words}" for seed, words in verdicts.items() if words)
    assert not wrong, f"\n{wrong}"
    accepted = [seed for seed, words in verdicts.items() if words == ""]
    assert len(accepted) >= 0.6 * len(verdicts), f"refused: {sorted(verdicts.keys() - set(accepted))}"


@pytest.mark.parametrize(
    "first", [first if first < QUICK // 2 else pytest.param(first, marks=pytest.mark.slow) for first in range(0, QUICK, GROUP)]
)
def test_against_brute_force(first):
    all_right(range(first, first + GROUP))


def test_what_is_wrong_is_found(monkeypatch):
    """The judge on densities that are planted: a right one, values and gradients that are slightly off, other positions, a refusal."""
    seed = next(seed for seed in range(100) if draw(seed).assignments < 10)
    oracle = brute_force(model_of(draw(seed)), supports(draw(seed)), data(draw(seed)))
    position = random_position(oracle, seed)

    def verdict(value=1.0, slope=1.0, positions=oracle.positions):
        planted = {"lc.log_density": lambda *_: SimpleNamespace(positions=positions)}
        found, slopes = oracle.value_and_gradient(position)
        planted["value_and_gradient"] = lambda *_: (found * value, {n: g * slope for n, g in slopes.items()})
        for name, function in planted.items():
            monkeypatch.setattr(f"{__name__}.{name}", function)
        return judge(seed)

    assert verdict() == ""
    assert re.match(r"value off by", verdict(value=1 + 2e-12))
    assert re.match(r"gradient of \w+ off by", verdict(slope=1 + 1e-8))
    assert "positions" in verdict(positions={})


@pytest.mark.exhaustive
@pytest.mark.parametrize("first", range(0, ALL, 4 * GROUP))
def test_many_against_brute_force(first):
    all_right(range(first, first + 4 * GROUP))


def test_a_seed_and_a_print_make_the_same_graph():
    for seed in range(30):
        graph = draw(seed)
        assert draw(seed) == graph == eval(repr(graph), vars(random_graphs))


def test_the_graphs_differ():
    """Each kind of site, link and loop is among the first ones, and none is too large to be listed."""
    graphs = [draw(seed) for seed in range(ALL)]
    assert all(2 <= graph.assignments <= random_graphs.LIMIT for graph in graphs)
    nodes = [node for graph in graphs for node in graph.nodes]
    met = collections.Counter()
    met.update(node.link for node in nodes)
    met.update(node.family for node in nodes)
    met.update(graph.style for graph in graphs)
    met.update(graph.loop.kind for graph in graphs if graph.loop)
    met.update("two steps back" for graph in graphs if graph.loop and graph.loop.lag == 2)
    met.update("behind the loop" for graph in graphs if graph.after)
    met.update("two chains" for graph in graphs if graph.loop and sum(n.discrete for n in graph.loop.body) == 2)
    met.update("a chain in a plate" for graph in graphs if graph.loop and graph.loop.body[0].plates)
    met.update("two plates" for node in nodes if node.plates == ("a", "b"))
    met.update("masked" for node in nodes if node.masked and node.discrete)
    expected = {*random_graphs.LINKS, "constant", "bernoulli", "categorical", "binomial", "uniform", "normal", "poisson", "factor"}
    expected |= {"plate", "bare", "vmap", "lax", "contrib", "python", "two steps back", "behind the loop", "two chains"}
    expected |= {"a chain in a plate", "two plates", "masked"}
    assert {what: n for what, n in met.items() if what in expected and n >= 5}.keys() == expected, met
