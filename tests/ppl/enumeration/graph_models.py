"""From the choices of `random_graphs` to a model, the values of its discrete sites, and data for it."""

import contextlib
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import distributions as dist
from numpyro import handlers
from numpyro.contrib.control_flow import scan as contrib_scan
from numpyro.ops.indexing import Vindex

import luciole as lc


def supports(graph):
    """By discrete latent site, its values."""
    found = {}
    for node in graph.nodes:
        for name in site_names(graph, node) if node.discrete else ():
            found[name] = range(node.low, node.low + node.states)
    return found


def site_names(graph, node):
    unrolled = graph.loop and graph.loop.kind == "python" and node in graph.loop.body
    return [f"{node.name}_{t}" for t in range(graph.loop.steps)] if unrolled else [node.name]


def data(graph):
    """By observed or masked site, what is given of it: arrays of its shape, the steps of a loop leading."""
    rng = np.random.default_rng([graph.seed, 1])
    given = {"items": rng.integers(0, dict(graph.sizes).get("a", 1), dict(graph.sizes).get("rows", 1))}
    for node in graph.nodes:
        shape = shape_of(graph, node)
        if node.masked:
            given[f"mask_{node.name}"] = rng.random(shape) < 0.6
        if not node.latent:
            given[node.name] = OBSERVATIONS[node.family](rng, shape, node)
    return given


OBSERVATIONS = {
    "normal": lambda rng, shape, node: rng.normal(size=shape),
    "categorical": lambda rng, shape, node: rng.integers(0, node.states, shape),
    "bernoulli": lambda rng, shape, node: rng.integers(0, 2, shape),
    "poisson": lambda rng, shape, node: rng.poisson(2.0, shape),
    "factor": lambda rng, shape, node: rng.normal(size=shape),
}


def shape_of(graph, node):
    """The shape of all elements of a site: plate a stands at -1, and at -2 where there is a plate b."""
    sizes = dict(graph.sizes)
    own = [sizes[p] if p in node.plates else 1 for p in ("a", "b")] if "b" in sizes else [sizes[p] for p in node.plates]
    while own and own[0] == 1 and node.plates in ((), ("b",)):
        own.pop(0)
    steps = [graph.loop.steps] if graph.loop and (node in graph.loop.body or node in graph.after) else []
    return (*steps, *own)


def model_of(graph):
    """The model: a function of `data(graph)`."""

    def model(given):
        values = Values(graph, given)
        outer = [n for n in graph.before if graph.style != "vmap" or not n.plates]
        for node in outer:
            values.site(node)
        if graph.style == "vmap":
            values.mapped([n for n in graph.before if n not in outer])
        if graph.loop:
            values.loop(graph.loop)
        for node in graph.after:
            values.site(node, time=True)

    return model


class Values:
    """The values of the sites so far, by name, while a model runs. `rows` holds what is given; in a loop, of one step."""

    def __init__(self, graph, given):
        self.graph, self.given, self.rows, self.values, self.weights = graph, given, given, {}, {}
        self.lows = {n.name: n.low for n in graph.nodes}
        self.states = {n.name: n.states for n in graph.nodes}

    def site(self, node, suffix="", time=False):
        """One statement, with the weights of its link, which are sampled once."""
        name = node.name + suffix
        if node.name not in self.weights:
            self.weights[node.name] = self.sample_weights(node)
        with contextlib.ExitStack() as stack:
            for plate in [] if self.graph.style != "plate" else self.plates(node, suffix, time):
                stack.enter_context(plate)
            if node.masked:
                stack.enter_context(handlers.mask(mask=self.rows[f"mask_{node.name}"]))
            parameter = self.parameter(node)
            if node.family == "factor":
                self.values[node.name] = lc.factor(name, parameter * self.rows[node.name])
                return
            distribution = distribution_of(node, parameter)
            if self.graph.style == "bare" and node.plates:
                distribution = distribution.expand(shape_of(self.graph, node))
            obs = None if node.latent else self.rows[node.name]
            self.values[node.name] = lc.sample(name, distribution, obs=obs)

    def plates(self, node, suffix, time):
        dims = {"a": -2 if "b" in dict(self.graph.sizes) else -1, "b": -1, "rows": -1}
        found = [lc.plate(f"{p}{suffix}", size, dim=dims[p]) for p, size in self.graph.sizes if p in node.plates]
        return [*([lc.plate("time", self.graph.loop.steps, dim=-1 - len(found))] if time else []), *found]

    def sample_weights(self, node):
        """The weights of a link, under a prior: None where there are none."""
        if node.family == "uniform":
            return None
        event = (node.states,) if node.family == "categorical" else ()
        shape = (*weight_shape(node, [self.states[base(p)] for p in node.parents if self.states[base(p)]]), *event)
        if node.prior == "normal":
            prior = dist.Normal(0, 1).expand(shape)
        elif event:
            prior = dist.Dirichlet(jnp.ones(node.states)).expand(shape[:-1])
        else:
            prior = dist.Beta(2.0, 2.0).expand(shape)
        return lc.sample(f"weights_{node.name}", prior.to_event(len(prior.batch_shape)))

    def parameter(self, node):
        """The real parameter of a site, or probabilities: of its batch shape, or one that broadcasts to it, and its categories."""
        if node.family == "uniform":
            return None
        lift = (lambda z: z[..., None]) if node.family == "categorical" else (lambda z: z)
        known = [(p, jnp.asarray(self.values[p])) for p in node.parents]
        if node.indexed:
            known = [(p, z[self.given["items"]] if z.ndim else z) for p, z in known]
        codes = [z - self.lows[base(p)] for p, z in known if self.states[base(p)]]
        parameter = link(node, self.weights[node.name], codes, [self.states[base(p)] for p in node.parents if self.states[base(p)]], lift)
        return functools.reduce(jnp.add, [lift(x) for p, x in known if not self.states[base(p)]], parameter)

    def mapped(self, nodes):
        """The sites of a plate, one row at a time under `jax.vmap`."""
        for node in nodes:
            self.weights[node.name] = self.sample_weights(node)
        given = {n: v for n, v in self.given.items() if any(n.removeprefix("mask_") == node.name for node in nodes)}

        def row(given):
            inner = Values(self.graph, self.given)
            inner.rows, inner.weights, inner.values = given, self.weights, dict(self.values)
            for node in nodes:
                inner.site(node)

        jax.vmap(row, axis_size=dict(self.graph.sizes)["a"])({n: jnp.asarray(v) for n, v in given.items()})

    def loop(self, loop):
        z, lagged = loop.body[0], {p for node in loop.body for p in node.parents if "-" in p}
        for node in loop.body:
            self.weights[node.name] = self.sample_weights(node)
        shape = shape_of(self.graph, z)[1:]
        carry = {p: jnp.full(shape, self.lows[base(p)], jnp.int32) for p in sorted(lagged)}
        if loop.start:
            carry = {p: jnp.asarray(self.values[loop.start], jnp.int32) if base(p) == "z" else v for p, v in carry.items()}
        names = [n for node in loop.body for n in (node.name, f"mask_{node.name}") if n in self.given]
        rows = {n: jnp.asarray(self.given[n]) for n in names}

        def step(carry, rows, suffix=""):
            inner = Values(self.graph, self.given)
            inner.rows, inner.weights, inner.values = rows, self.weights, {**self.values, **carry}
            for node in loop.body:
                inner.site(node, suffix)
            new = {p: inner.values[base(p)] if p.endswith("-1") else carry[f"{base(p)}-1"] for p in carry}
            return {p: jnp.asarray(v, jnp.int32) for p, v in new.items()}, inner.values[z.name]

        if loop.kind == "python":
            states = []
            for t in range(loop.steps):
                carry, state = step(carry, {n: v[t] for n, v in rows.items()}, f"_{t}")
                states.append(state)
            if self.graph.after:
                self.values["z*"] = jnp.stack(states)
        else:
            scan = jax.lax.scan if loop.kind == "lax" else contrib_scan
            _, self.values["z*"] = scan(step, carry, rows, length=loop.steps)


def base(parent):
    """The site that a parent's name speaks of."""
    return parent.split("-")[0].removesuffix("*")


def weight_shape(node, states):
    """The shape of a link's weights, without the categories of the site."""
    known = {
        "constant": (),
        "take": states[:1],
        "onehot": (len(states), max(states, default=0)),
        "where": (len(states), 2),
        "arithmetic": (len(states) + 1,),
        "product": (2,),
        "equal": (2,),
        "select": (3,),
    }
    return tuple(known.get(node.link, states))


def link(node, weights, codes, states, lift):
    """The parameter, from the weights and the discrete parents, whose lowest value is 0 here; `lift` gives one room for categories."""
    if node.link == "index":
        return weights[tuple(codes)]
    if node.link == "vindex":
        return Vindex(weights)[(*codes, slice(None))] if node.family == "categorical" else Vindex(weights)[tuple(codes)]
    if node.link == "take":
        return jnp.take(weights, codes[0], axis=0)
    if node.link == "onehot":
        return sum(jax.nn.one_hot(z, k) @ w[:k] for z, k, w in zip(codes, states, weights, strict=True))
    if node.link == "where":
        return sum(jnp.where(lift(z) == 0, w[0], w[1]) for z, w in zip(codes, weights, strict=True))
    if node.link == "arithmetic":
        return weights[0] + sum(w * lift(z) for z, w in zip(codes, weights[1:], strict=True))
    if node.link == "product":
        return weights[0] + weights[1] * lift(math.prod(codes)) + jnp.exp(-0.5 * lift(codes[0]))
    if node.link == "equal":
        return jnp.where(lift(codes[0] == (codes[1] if len(codes) > 1 else 1)), weights[0], weights[1])
    if node.link == "select":
        total = lift(sum(codes))
        return jnp.select([total == 0, total == 1], [weights[0], weights[1]], weights[2])
    return weights


def distribution_of(node, parameter):
    if node.family == "uniform":
        return dist.DiscreteUniform(node.low, node.low + node.states - 1)
    if node.prior == "simplex":
        return {"bernoulli": dist.Bernoulli, "categorical": dist.Categorical}[node.family](probs=parameter)
    families = {
        "bernoulli": lambda: dist.Bernoulli(logits=parameter),
        "categorical": lambda: dist.Categorical(logits=parameter),
        "binomial": lambda: dist.Binomial(total_count=node.states - 1, logits=parameter),
        "normal": lambda: dist.Normal(parameter, 1.0),
        "poisson": lambda: dist.Poisson(jnp.exp(0.3 * parameter)),
    }
    return families[node.family]()
