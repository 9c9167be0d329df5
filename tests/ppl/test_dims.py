"""Names of axes: a plate's name stands on the axis that is proved to be the plate, and on no other."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest

import luciole as lc
from luciole import dist
from luciole.ppl.dims import data_dims

G = np.array([0, 2, 1, 0, 2])
X = np.linspace(-1, 1, 5).astype(np.float32)


def dims(model, *args):
    """The dims of the deterministic sites."""
    return {n: s.dims for n, s in lc.trace(model, *args).sites.items() if s.kind == "deterministic"}


def vectors():
    return lc.sample("x", dist.Normal(0, 1).expand([3]).to_event(1))


def the_event_is_as_long_as_the_plate():
    with lc.plate("team", 3):
        x = vectors()
        lc.deterministic("x2", 2 * x)
        lc.deterministic("turned", x.T)
        lc.deterministic("total", x.sum(-1))
        lc.deterministic("over_teams", x.sum(0))
        lc.deterministic("shares", jax.nn.softmax(x, -1))
        lc.deterministic("centred", x - x.mean(0))
        lc.deterministic("gram", x @ x.T)
        lc.deterministic("first", x[:, 0])
        lc.deterministic("stretched", x[:, :, None] * jnp.ones(2))


def outside_of_the_plate():
    with lc.plate("team", 3):
        a = lc.sample("a", dist.Normal(0, 1))
    lc.deterministic("effect", jnp.exp(a))
    lc.deterministic("pairs", a[:, None] - a[None, :])
    lc.deterministic("with_first", jnp.stack([a, a**2], -1))
    lc.deterministic("ordered", jnp.sort(a))
    lc.deterministic("flipped", a[::-1])
    lc.deterministic("shifted", jnp.roll(a, 1))
    lc.deterministic("running", jnp.cumsum(a))
    lc.deterministic("mean", a.mean())
    lc.deterministic("ranks", jnp.argsort(a))
    lc.deterministic("six", jnp.concatenate([a, a]))
    lc.deterministic("by_row", a[jnp.asarray(G)])


def two_plates_of_one_size():
    with lc.plate("row", 3):
        r = lc.sample("r", dist.Normal(0, 1))
    with lc.plate("column", 3):
        c = lc.sample("c", dist.Normal(0, 1))
        lc.deterministic("sum", r + c)
        lc.deterministic("r2", 2 * r)
    lc.deterministic("table", r[:, None] * c)
    lc.deterministic("turned", (r[:, None] * c).T)
    lc.deterministic("either", r * c)


def nested():
    with lc.plate("row", 3, dim=-2):
        r = lc.sample("r", dist.Normal(0, 1))
        with lc.plate("column", 3, dim=-1):
            t = lc.sample("t", dist.Dirichlet(jnp.ones(3)))
            lc.deterministic("t2", 2 * t)
            lc.deterministic("most", t.max(-1))
            lc.deterministic("flat", t.reshape(9, 3))
            lc.deterministic("apart", t.reshape(3, 1, 3, 3))
            lc.deterministic("r3", r * 3)
    lc.deterministic("over_rows", t.sum(0))
    lc.deterministic("moved", jnp.moveaxis(t, 1, 0))


def what_comes_from_constants():
    with lc.plate("team", 3):
        lc.sample("a", dist.Normal(0, 1))
        lc.deterministic("ones", jnp.ones(3))
        lc.deterministic("with_event", jnp.ones((3, 5)))
        lc.deterministic("square", jnp.ones((3, 3)))
        lc.deterministic("other", jnp.ones(5))
    lc.deterministic("outside", jnp.ones(3))


def mapped():
    with lc.plate("team", 3):
        a = lc.sample("a", dist.Normal(0, 1))
    jax.vmap(lambda a: lc.deterministic("each", 2 * a))(a)
    b = jax.vmap(lambda a: lc.sample("b", dist.Normal(a, 1)))(a)
    lc.deterministic("b2", 2 * b)
    jax.vmap(lambda a: lc.deterministic("inside", a * jnp.ones(3)), out_axes=1)(a)
    lc.deterministic("along", jax.lax.scan(lambda c, x: (c, c * x), 1.0, a)[1])

    def step(carry, _):
        lc.deterministic("now", carry + a)
        return carry * a.sum(), None

    jax.lax.scan(step, 1.0, None, length=3)
    lc.deterministic("carried", jax.lax.fori_loop(0, 3, lambda i, c: c + a, jnp.zeros(3)))
    lc.deterministic("either", jax.lax.cond(a.sum() > 0, lambda: a, lambda: jnp.zeros(3)))


def gaussian_process():
    f = lc.sample("f", dist.MultivariateNormal(jnp.zeros(5), jnp.eye(5)))
    g = lc.sample("g", dist.MultivariateNormal(jnp.zeros(5), jnp.eye(5)))
    with lc.plate("row", 5):
        lc.deterministic("rate", jnp.exp(f))
        lc.deterministic("unused", jnp.exp(g))
        lc.sample("y", dist.Normal(f, 1), obs=X)


def T(name, *axes):
    return tuple(f"{name}_dim_{a}" if isinstance(a, int) else a for a in axes)


EXPECTED = {
    the_event_is_as_long_as_the_plate: {
        "x2": ("team", 1),
        "turned": (0, "team"),
        "total": ("team",),
        "over_teams": (0,),
        "shares": ("team", 1),
        "centred": ("team", 1),
        "gram": (0, 1),
        "first": ("team",),
        "stretched": ("team", 1, 2),
    },
    outside_of_the_plate: {
        "effect": ("team",),
        "pairs": (0, 1),
        "with_first": ("team", 1),
        "ordered": (0,),
        "flipped": (0,),
        "shifted": (0,),
        "running": ("team",),
        "mean": (),
        "ranks": (0,),
        "six": (0,),
        "by_row": (0,),
    },
    two_plates_of_one_size: {
        "sum": ("column",),
        "r2": ("row",),
        "table": ("row", "column"),
        "turned": ("column", "row"),
        "either": (0,),
    },
    nested: {
        "t2": ("row", "column", 2),
        "most": ("row", "column"),
        "flat": (0, 1),
        "apart": ("row", 1, "column", 3),
        "r3": ("row", 1),
        "over_rows": ("column", 1),
        "moved": ("column", "row", 2),
    },
    what_comes_from_constants: {"ones": ("team",), "with_event": ("team", 1), "square": (0, 1), "other": (0,), "outside": (0,)},
    mapped: {
        "each": ("team",),
        "b2": ("team",),
        "inside": ("team", 0),
        "along": ("team",),
        "now": ("now_time", "team"),
        "carried": ("team",),
        "either": ("team",),
    },
    gaussian_process: {"rate": ("row",), "unused": (0,)},
}


@pytest.mark.parametrize("model", EXPECTED, ids=lambda m: m.__name__)
def test_deterministic_sites(model):
    found = dims(model)
    assert found == {name: T(name, *axes) for name, axes in EXPECTED[model].items()}


def arguments(model, *args):
    """The plates of the axes of the arguments, by their number."""
    program = lc.trace(model, *args)
    named = data_dims(program.jaxpr, program.sites)
    return [[p for c, p in zip(program.data, named, strict=True) if np.shape(c) == a.shape and np.array_equal(c, a)] for a in args]


def test_arguments_have_the_plates_that_they_are_used_in():
    def model(x, g, sigma, design, y):
        with lc.plate("school", 3):
            theta = lc.sample("theta", dist.Normal(0, 1))
        b = lc.sample("b", dist.Normal(0, 1).expand([5]).to_event(1))
        with lc.plate("row", 5):
            lc.sample("y", dist.Normal(theta[jnp.asarray(g)] + x + design @ b, sigma), obs=y)

    design = np.arange(25.0, dtype=np.float32).reshape(5, 5)
    found = arguments(model, X, jnp.asarray(G), jnp.asarray(X + 2), design, X + 1)
    assert found == [[{0: "row"}]] * 3 + [[{0: "row"}], [{0: "row"}]]


def test_an_argument_that_meets_two_plates_or_none_has_no_name():
    def model(both, alone, square):
        for name in ("left", "right"):
            with lc.plate(name, 5):
                lc.sample(f"{name}_y", dist.Normal(both, 1), obs=np.zeros(5))
                lc.sample(f"{name}_z", dist.MultivariateNormal(square, jnp.eye(5)).mask(np.ones(5, bool)))
        lc.sample("free", dist.Normal(alone, 1))

    square = jnp.arange(25.0).reshape(5, 5)
    assert arguments(model, jnp.asarray(X), jnp.asarray(X + 1), square) == [[{}], [{}], [{}]]

    def rows_only(square):
        with lc.plate("row", 5):
            lc.sample("y", dist.MultivariateNormal(square, jnp.eye(5)))

    assert arguments(rows_only, square) == [[{0: "row"}]]


def test_handlers_and_event_axes_of_parameters():
    def model(rates, x):
        with numpyro.handlers.scope(prefix="a"), lc.plate("row", 5, dim=-1):
            lc.sample("y", dist.Categorical(logits=jnp.asarray(rates) * lc.sample("s", dist.Normal(0, 1))[:, None]), obs=np.zeros(5, int))
            lc.factor("f", x * 2.0)

    assert arguments(model, jnp.arange(25.0).reshape(5, 5), jnp.asarray(X)) == [[{0: "a/row"}], [{0: "a/row"}]]
