"""Random small models with discrete latents: the choices, drawn from a seed and printable. `graph_models` makes models of them.

A graph is a list of sites, each in some of the plates, with parents that stand in no others, and perhaps a loop of a few steps whose
sites look one or two steps back. What is drawn may be intractable (crossing plates, loops in two plates): then it is to be refused.
"""

import math
from dataclasses import dataclass

import numpy as np

LIMIT = 1024  # assignments of all discrete latents together
LINKS = ("index", "vindex", "take", "onehot", "where", "arithmetic", "product", "equal", "select")
TABLES = ("constant", "index", "vindex", "take")  # links that pick a row of a table, which may be one of probabilities


@dataclass(frozen=True)
class Node:
    """One site.

    Attributes:
        family: of its distribution; "factor" for an `lc.factor`.
        states, low: of a discrete site, how many values it has and the lowest of them.
        plates: names, outermost first.
        parents: names of earlier sites; "z-1" is the site z of the step before, "z*" all its steps, behind the loop.
        link: how the parameter hangs on the discrete parents, see `graph_models`.
        prior: of the weights in the link: "normal", or "simplex" for a table of probabilities.
        latent, masked: whether it has no observation; whether some of its elements are masked.
        indexed: whether it has rows of its own, whose parents are picked from the plate by a given index.
    """

    name: str
    family: str
    states: int = 0
    low: int = 0
    plates: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    link: str = "constant"
    prior: str = "normal"
    latent: bool = True
    masked: bool = False
    indexed: bool = False

    @property
    def discrete(self):
        return self.latent and self.states > 0


@dataclass(frozen=True)
class Loop:
    """A loop over the sites of `body`. kind: "lax" for `jax.lax.scan`, "contrib" for NumPyro's, "python" for one that is unrolled.

    `start` is the site whose value z has before the first step, or "" for the lowest value of z; `lag` how far the sites look back.
    """

    kind: str
    steps: int
    lag: int
    start: str
    body: tuple[Node, ...]


@dataclass(frozen=True)
class Graph:
    """A model: the sites before the loop, the loop, the sites behind it. style: how the innermost plate is written, "plate", "bare"
    (a batch shape and no plate) or "vmap"."""

    seed: int
    style: str
    sizes: tuple[tuple[str, int], ...]
    before: tuple[Node, ...]
    loop: Loop | None = None
    after: tuple[Node, ...] = ()

    @property
    def nodes(self):
        return (*self.before, *(self.loop.body if self.loop else ()), *self.after)

    def elements(self, node):
        """How many elements a site has."""
        steps = self.loop.steps if self.loop and node in self.loop.body else 1
        return steps * math.prod(size for plate, size in self.sizes if plate in node.plates)

    @property
    def assignments(self):
        return math.prod(node.states ** self.elements(node) for node in self.nodes if node.discrete)


def draw(seed):
    """The graph of a seed."""
    rng = np.random.default_rng(seed)
    while True:
        kind = rng.choice(["flat", "plated", "nested", "chain"], p=[0.1, 0.3, 0.2, 0.4])
        graph = {"flat": flat, "plated": plated, "nested": nested, "chain": chain}[kind](seed, rng)
        if 2 <= graph.assignments <= LIMIT:
            return graph


def flat(seed, rng):
    """Sites without plates, and rows of data that hang on them."""
    latents = []
    for i in range(rng.integers(1, 4)):
        latents.append(discrete(rng, f"g{i}", (), latents))
    rows = observed(rng, "y", ("a",), latents)
    return Graph(seed, "plate", (("a", 3),), (*latents, rows))


def plated(seed, rng):
    """One or two discrete sites in a plate, perhaps with a global one and with a continuous one."""
    nodes = [discrete(rng, "g", (), [])] if rng.random() < 0.4 else []
    for name in ("z", "w")[: rng.integers(1, 3)]:
        nodes.append(discrete(rng, name, ("a",), nodes, masked=rng.random() < 0.15))
    if rng.random() < 0.25:
        nodes.append(Node("x", "normal", plates=("a",), **linked(rng, "normal", nodes)))
    indexed = rng.random() < 0.15
    nodes.append(observed(rng, "y", ("rows",) if indexed else ("a",), nodes, indexed=indexed, masked=rng.random() < 0.15))
    if rng.random() < 0.3:
        nodes.append(observed(rng, "v", ("a",), nodes))
    style = "plate" if indexed else str(rng.choice(["plate", "bare", "vmap"], p=[0.6, 0.2, 0.2]))
    return Graph(seed, style, (("a", int(rng.integers(2, 5))), ("rows", 5)), tuple(nodes))


def nested(seed, rng):
    """A discrete site in the outer plate and perhaps one in both; rarely one in the inner plate alone, which crosses the outer one."""
    nodes = [discrete(rng, "g", (), [])] if rng.random() < 0.3 else []
    nodes.append(discrete(rng, "z", ("a",), nodes))
    if rng.random() < 0.5:
        crossing = rng.random() < 0.15
        nodes.append(discrete(rng, "w", ("b",) if crossing else ("a", "b"), nodes if not crossing else nodes[:-1], most=2))
    nodes.append(observed(rng, "y", ("a", "b"), nodes))
    if rng.random() < 0.3:
        nodes.append(observed(rng, "v", ("a",), [n for n in nodes if n.plates in ((), ("a",))]))
    style = str(rng.choice(["plate", "bare"], p=[0.8, 0.2]))
    return Graph(seed, style, (("a", int(rng.integers(2, 4))), ("b", 2)), tuple(nodes))


def chain(seed, rng):
    """A chain, or two that are coupled, perhaps in a plate, perhaps with a switch of the steps, of the whole, and with sites behind it."""
    plates = ("a",) if rng.random() < 0.35 else ()
    lag = 2 if rng.random() < 0.2 else 1
    before = [discrete(rng, "g", (), [])] if rng.random() < 0.25 else []
    z = discrete(rng, "z", plates, before, lagged=["z-1", "z-2"][:lag])
    start = discrete(rng, "z0", plates, before, like=z) if rng.random() < 0.3 else None
    body = [z]
    if rng.random() < 0.3:
        body.append(discrete(rng, "w", plates, [z, *before], lagged=["w-1"], most=2))
    elif rng.random() < 0.15:
        body.append(discrete(rng, "w", plates if rng.random() < 0.7 else (), before, most=2))
    body.append(observed(rng, "y", plates, [*before, *body], masked=rng.random() < 0.15))
    after = [observed(rng, "v", plates, [z], parents=("z*",))] if rng.random() < 0.2 else []
    kind = str(rng.choice(["lax", "contrib", "python"], p=[0.5, 0.25, 0.25]))
    loop = Loop(kind, int(rng.integers(2, 6)), lag, start.name if start else "", tuple(body))
    return Graph(seed, "plate", (("a", 2),), (*before, *([start] if start else [])), loop, tuple(after))


def discrete(rng, name, plates, candidates, *, lagged=(), most=4, like=None, masked=False):
    """A discrete latent; `lagged` are parents that it has in any case, `like` a site whose states it has."""
    family = like.family if like else str(rng.choice(["bernoulli", "categorical", "binomial", "uniform"], p=[0.3, 0.5, 0.1, 0.1]))
    if family == "uniform" and lagged:
        family = "categorical"
    states, low = (like.states, like.low) if like else states_of(rng, family, most)
    if family == "uniform":
        return Node(name, family, states, low, plates, masked=masked)
    node = Node(name, family, states, low, plates)
    back = [Node(parent, family, states, low, plates) for parent in lagged]
    return Node(name, family, states, low, plates, masked=masked, **linked(rng, family, visible(node, candidates), back))


def states_of(rng, family, most):
    if family == "uniform":
        return int(rng.integers(2, 4)), int(rng.integers(0, 2))
    return {"bernoulli": 2, "binomial": 3, "categorical": int(rng.integers(2, most + 1))}[family], 0


def observed(rng, name, plates, candidates, *, parents=None, masked=False, indexed=False):
    """An observed site, which hangs on a latent one."""
    family = str(rng.choice(["normal", "categorical", "bernoulli", "poisson", "factor"], p=[0.45, 0.2, 0.15, 0.1, 0.1]))
    states = int(rng.integers(2, 4)) if family == "categorical" else 0
    candidates = [n for n in candidates if n.latent]
    choice = linked(rng, family, candidates, required=candidates[-1:])
    if parents is not None:
        choice = linked(rng, family, [], [Node(parents[0], "", candidates[0].states)])
    return Node(name, family, states, 0, plates, latent=False, masked=masked, indexed=indexed, **choice)


def visible(node, candidates):
    """Those whose plates are among the node's."""
    return [n for n in candidates if set(n.plates) <= set(node.plates)]


def linked(rng, family, candidates, lagged=(), required=()):
    """Parents, link and prior of a site."""
    others = [n for n in candidates if n not in required]
    chosen = [n for n in others if rng.random() < 0.5][: 2 - len(lagged)]
    parents = [*lagged, *chosen, *required]
    categories = [n for n in parents if n.states]
    links = [link for link in LINKS if link != "take" or len(categories) == 1]
    link = str(rng.choice(links)) if categories else "constant"
    tables = family in ("bernoulli", "categorical") and link in TABLES and len(categories) == len(parents)
    prior = "simplex" if tables and rng.random() < 0.4 else "normal"
    return {"parents": tuple(n.name for n in parents), "link": link, "prior": prior}
