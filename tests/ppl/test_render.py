"""Which site depends on which, and the pictures drawn from it."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro import distributions as dist

from luciole import ppl as lc
from luciole.ppl.dependence import Edge, edges


def schools():
    mu = lc.sample("mu", dist.Normal(0.0, 5.0))
    tau = lc.sample("tau", dist.HalfCauchy(5.0))
    with lc.plate("school", 8):
        theta = lc.sample("theta", dist.Normal(mu, tau))
        lc.sample("y", dist.Normal(theta, 1.0), obs=np.zeros(8))
    lc.sample("alone", dist.Normal(jnp.zeros(2), 1.0))


def walk():
    tau = lc.sample("tau", dist.HalfNormal(1.0))
    start = lc.sample("start", dist.Normal(0.0, 1.0))

    def step(x, y):
        x = lc.sample("x", dist.Normal(x, tau))
        lc.sample("y", dist.Normal(x, 1.0), obs=y)
        return x, None

    end, _ = jax.lax.scan(step, start, np.zeros(4))
    lc.deterministic("end", end)


def second_order():
    def step(c, _):
        x = lc.sample("x", dist.Normal(c[1], 1.0))
        return (x, c[0]), None

    jax.lax.scan(step, (0.0, 0.0), None, length=4)


def switch():
    chosen = lc.sample("chosen", dist.Normal(0.0, 1.0))
    a, b = lc.sample("a", dist.Normal(0.0, 1.0)), lc.sample("b", dist.Normal(0.0, 1.0))
    out = jax.lax.cond(chosen > 0, lambda: lc.sample("z", dist.Normal(a, 1.0)), lambda: lc.sample("z", dist.Normal(0.0, 1.0)))
    lc.factor("f", out * b)


def wrapped():
    a = lc.sample("a", dist.Normal(0.0, 1.0))
    b = jax.jit(lambda a: lc.sample("b", dist.Normal(a, 1.0)))(a)
    c = jax.checkpoint(lambda b: lc.sample("c", dist.Normal(b, 1.0)))(b)
    jax.vmap(lambda s: lc.sample("d", dist.Normal(c, s)))(jnp.ones(3))
    size = jax.lax.while_loop(lambda x: x < 1, lambda x: x + 1, b)
    lc.sample("e", dist.Normal(size, 1.0))


def pairs(program):
    return {(e.parent, e.child, *(["lag"] if e.lagged else [])) for e in edges(program)}


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (schools, {("mu", "theta"), ("tau", "theta"), ("theta", "y")}),
        (walk, {("tau", "x"), ("start", "x"), ("x", "x", "lag"), ("x", "y"), ("x", "end"), ("start", "end")}),
        (second_order, {("x", "x", "lag")}),
        (switch, {("chosen", "z"), ("a", "z"), ("z", "f"), ("chosen", "f"), ("b", "f")}),
        (wrapped, {("a", "b"), ("b", "c"), ("c", "d"), ("b", "e")}),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_edges(model, expected):
    assert pairs(lc.trace(model)) == expected
    assert edges(lc.trace(model)) == sorted(edges(lc.trace(model)), key=lambda e: (e.lagged, e))


def test_edge_is_a_record():
    assert Edge("a", "b") != Edge("a", "b", True)


def crossed():
    with lc.plate("rows", 3, dim=-2):
        a = lc.sample("a", dist.Normal(0.0, 1.0))
        with lc.plate("columns", 2, dim=-1):
            lc.sample('b "quoted"', dist.Normal(a, 1.0))
    lc.factor("f", a.sum())
    lc.deterministic("d", a.sum())


@pytest.mark.parametrize("model", [schools, walk, switch, wrapped, crossed], ids=lambda m: m.__name__)
def test_graphviz_is_well_formed(model):
    text = lc.render_model(model)
    program = lc.trace(model)
    unquoted = re.sub(r'"(\\.|[^"\\])*"', '""', text)
    depth = np.cumsum([{"{": 1, "}": -1}.get(c, 0) for c in unquoted])
    assert depth[-1] == 0
    assert (depth[:-1][unquoted.index("{") : -2] >= 1).all()
    assert text.startswith("digraph")
    assert unquoted.count('"') % 2 == 0
    nodes = re.findall(r'^\s*("(?:\\.|[^"\\])*") \[label', text, re.MULTILINE)
    assert len(nodes) == len(set(nodes)) == len(program.sites)
    arrows = re.findall(r'^\s*("(?:\\.|[^"\\])*") -> ("(?:\\.|[^"\\])*")(.*);$', text, re.MULTILINE)
    assert {x for a in arrows for x in a[:2]} <= set(nodes)
    assert len(arrows) == len(edges(program))
    assert sum("dashed" in a[2] for a in arrows) == sum(e.lagged for e in edges(program))


@pytest.mark.parametrize("model", [schools, walk, switch, wrapped, crossed], ids=lambda m: m.__name__)
def test_mermaid_is_well_formed(model):
    text = lc.render_model(model, format="mermaid")
    program = lc.trace(model)
    lines = [line.strip() for line in text.splitlines()]
    assert lines[0].startswith("flowchart")
    assert sum(line.startswith("subgraph") for line in lines) == lines.count("end")
    nodes = [m[1] for line in lines if (m := re.match(r'(s\d+)(?:\(\[|\[)"[^"]*"(?:\]\)|\]):::(\w+)$', line))]
    assert len(nodes) == len(set(nodes)) == len(program.sites)
    arrows = [m.groups() for line in lines if (m := re.match(r"(s\d+) -(\.-)?->? ?(?:->)? ?(s\d+)$", line))]
    assert len([line for line in lines if re.match(r"s\d+ -", line)]) == len(edges(program))
    assert {x for a in arrows for x in (a[0], a[2])} <= set(nodes)


def test_plates_are_frames():
    text = lc.render_model(crossed)
    assert text.count("subgraph cluster_") == 2
    assert 'label="rows (3)"' in text
    assert 'label="columns (2)"' in text
    inside = text[text.index("rows (3)") :]
    assert inside.index('"a" [label') < inside.index("columns (2)") < inside.index('\\"quoted\\"" [label')
    assert "quoted#quot;" in lc.render_model(crossed, format="mermaid")
    observed = next(line for line in lc.render_model(schools).splitlines() if '"y" [label' in line)
    assert "gray80" in observed
    assert "Normal" in observed


def test_unknown_format():
    with pytest.raises(ValueError, match=r"format is 'png'; expected one of \['graphviz', 'mermaid'\]"):
        lc.render_model(schools, format="png")


def test_table():
    table = str(lc.trace(walk)).splitlines()
    assert table[0].split() == ["site", "kind", "shape", "dims", "dtype", "support", "line"]
    row = next(line for line in table if line.startswith("x "))
    assert "latent" in row
    assert "(4,)" in row
    assert "x_time" in row
    assert f"{__file__}:" in row
    assert "observed" in next(line for line in table if line.startswith("y "))


def test_coords():
    def model():
        with lc.plate("school", 2, coords=["A", "B"]), lc.plate("year", 3):
            lc.sample("x", dist.Normal(0.0, 1.0))

    program = lc.trace(model)
    assert program.coords == {"school": ["A", "B"]}
    assert program.sites["x"].dims == ("year", "school")
    assert program.sites["x"].shape == (3, 2)
