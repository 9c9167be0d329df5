"""The key of a program: equal for the same program traced again, different for every change of what it computes."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compute_on import compute_on
from jax.experimental.layout import Format, Layout
from jax.experimental.xla_metadata import set_xla_metadata
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from luciole.transforms import placed, structure
from luciole.transforms.jax_compat import open_jaxpr
from luciole.transforms.structure import value_key

X = jnp.linspace(0.1, 1.0, 4)


def softplus_by_hand():
    @jax.custom_jvp
    def f(x):
        return jnp.log1p(jnp.exp(x))

    f.defjvp(lambda p, t: (f(p[0]), jax.nn.sigmoid(p[0]) * t[0]))
    return lambda x: f(x).sum()


def square_by_hand():
    @jax.custom_vjp
    def f(x):
        return x**2

    f.defvjp(lambda x: (x**2, x), lambda x, g: (2 * x * g,))
    return lambda x: f(x).sum()


# name -> a function that makes the same program anew each time it is called
PROGRAMS = {
    "arithmetic": lambda: lambda x: (2.0 * x + 1.0).sum(),
    "scan": lambda: lambda x: jax.lax.scan(lambda c, y: (c * 0.5 + y, c), 0.0, x)[0],
    "cond": lambda: lambda x: jax.lax.cond(x[0] > 0, lambda y: y.sum(), lambda y: y.prod(), x),
    "while": lambda: lambda x: jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] * 2.0), (0, x))[1].sum(),
    "remat": lambda: lambda x: jax.checkpoint(lambda y: jnp.sin(y).sum())(x),
    "cholesky": lambda: lambda x: jnp.log(jnp.linalg.cholesky(jnp.eye(4) + jnp.outer(x, x))[-1, -1]),
    "jit": lambda: lambda x: jax.jit(lambda y: jnp.cos(y).sum())(x),
    "gather": lambda: lambda x: x[jnp.array([0, 2, 2])].sum(),
    "special": lambda: lambda x: (jax.nn.softplus(x) + jax.scipy.special.gammaln(x)).sum(),
    "custom_jvp": softplus_by_hand,
    "custom_vjp": square_by_hand,
}
RULES = {"special", "custom_jvp", "custom_vjp"}  # with custom derivatives, whose rules are made anew by every trace


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_fresh_trace_has_the_same_key(name):
    a, b = (structure(jax.make_jaxpr(PROGRAMS[name]())(X), differentiated=False) for _ in range(2))
    assert a == b
    assert hash(a) == hash(b)


@pytest.mark.parametrize("name", [n for n in PROGRAMS if n != "while"])  # which reverse mode does not go through
def test_gradients_too(name):
    a, b = (structure(jax.make_jaxpr(jax.value_and_grad(PROGRAMS[name]()))(X), differentiated=False) for _ in range(2))
    assert a == b
    assert hash(a) == hash(b)
    assert a != structure(jax.make_jaxpr(PROGRAMS[name]())(X), differentiated=False)


@pytest.mark.parametrize("name", PROGRAMS)
def test_differentiated(name):
    """What may still be differentiated is told apart by its custom rules; without any it has the same key again."""
    f = PROGRAMS[name]
    a, b = (structure(jax.make_jaxpr(f())(X)) for _ in range(2))
    jaxpr = jax.make_jaxpr(f())(X)
    assert structure(jaxpr) == structure(jaxpr)
    if name not in RULES:
        assert a == b


def test_rules_that_differ_are_told_apart():
    def make(slope):
        @jax.custom_jvp
        def f(x):
            return x * 2.0

        f.defjvp(lambda p, t: (f(p[0]), slope * t[0]))
        return f

    a, b = (jax.make_jaxpr(make(slope))(1.0) for slope in (2.0, 3.0))
    assert structure(a) != structure(b)
    assert structure(a, differentiated=False) == structure(b, differentiated=False)


def test_all_keys_are_different():
    keys = {structure(jax.make_jaxpr(make())(X), differentiated=False) for make in PROGRAMS.values()}
    assert len(keys) == len(PROGRAMS)


def scan_with(table):
    return lambda x: jax.lax.scan(lambda c, y: (c + y, None), 0.0, x * table)[0]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(lambda x: x * 2.0, lambda x: x * 3.0, id="literal"),
        pytest.param(lambda x: x * 0.0, lambda x: x * -0.0, id="signed zero"),
        pytest.param(lambda x: x**2, lambda x: x**3, id="parameter"),
        pytest.param(lambda x: x.sum(0), lambda x: x.max(0), id="primitive"),
        pytest.param(lambda x: x - x[::-1], lambda x: x[::-1] - x, id="order of operands"),
        pytest.param(lambda x: (x, x + 1.0), lambda x: (x + 1.0, x), id="order of results"),
        pytest.param(lambda x: x.astype(jnp.int32), lambda x: x.astype(jnp.int16), id="dtype"),
        pytest.param(
            lambda x: jax.lax.scan(lambda c, y: (c * 2.0 + y, None), 0.0, x)[0],
            lambda x: jax.lax.scan(lambda c, y: (c * 3.0 + y, None), 0.0, x)[0],
            id="literal in a scan",
        ),
        pytest.param(
            lambda x: jax.lax.scan(lambda c, y: (c + y, None), 0.0, x)[0],
            lambda x: jax.lax.scan(lambda c, y: (c + y, None), 0.0, x, reverse=True)[0],
            id="reverse",
        ),
    ],
)
def test_a_changed_program_has_another_key(one, other):
    assert structure(jax.make_jaxpr(one)(X)) != structure(jax.make_jaxpr(other)(X))


def test_outermost_constants_are_data():
    a, b = (jax.make_jaxpr(scan_with(np.arange(4.0, dtype=np.float32) + k))(X) for k in (0, 1))
    assert structure(a) == structure(b)
    assert [np.asarray(c).tolist() for c in a.consts] != [np.asarray(c).tolist() for c in b.consts]
    other = jax.make_jaxpr(scan_with(np.float32(3.0) * np.ones(1, np.float32)))(X)
    assert structure(a) != structure(other)


def test_nested_constants_are_program():
    """Where a closed jaxpr inside the program carries constants, they enter by value."""

    def nested(value):
        inner = jax.make_jaxpr(lambda x: x * jnp.full(4, value))(X)
        consts = [np.full(4, value, np.float32)]
        inner = jax.make_jaxpr(lambda x: x * consts[0])(X)
        outer = jax.make_jaxpr(jax.jit(lambda x: x * 1.0))(X)
        eqn = open_jaxpr(outer)[0].eqns[0]
        eqn = eqn.replace(params={**eqn.params, "jaxpr": inner})
        return open_jaxpr(outer)[0].replace(eqns=[eqn])

    a, again, b = nested(1.0), nested(1.0), nested(2.0)
    assert structure(a) == structure(again) != structure(b)


def test_input_types():
    f = lambda x: x * 2.0  # noqa: E731
    keys = {structure(jax.make_jaxpr(f)(x)) for x in (X, X[:2], jnp.arange(4), 1.0, jnp.float32(1.0))}
    assert len(keys) == 5


# ---- the settings that equations are traced under


def on_the_host(f):
    """`f` computed by the host: a context in jax 0.10, an equation in 0.12."""
    if "out_memory_spaces" in inspect.signature(compute_on).parameters:
        return compute_on(f, compute_type="device_host", out_memory_spaces=jax.memory.Space.Device)

    def wrapped(x):
        with compute_on("device_host"):
            return f(x)

    return wrapped


def mesh_of(size, kind=AxisType.Auto):
    return jax.make_mesh((size,), ("rows",), axis_types=(kind,))


def draws(x):
    return x * jax.random.uniform(jax.random.key(3), x.shape)


def nested(x):
    return jax.lax.scan(lambda c, y: (c + draws(jnp.stack([y, c])).sum(), c), 0.0, x)[0]


CONTEXTS = {
    "threefry": lambda: jax.threefry_partitionable(False),
    "metadata": lambda: set_xla_metadata(note="1"),
    "other metadata": lambda: set_xla_metadata(note="2"),
    "mesh": lambda: jax.set_mesh(mesh_of(2)),
    "larger mesh": lambda: jax.set_mesh(mesh_of(4)),
    "explicit mesh": lambda: jax.set_mesh(mesh_of(2, AxisType.Explicit)),
    "other devices": lambda: jax.set_mesh(jax.sharding.Mesh(jax.devices()[2:4], ("rows",), axis_types=(AxisType.Auto,))),
}


@pytest.mark.parametrize("f", [draws, nested, jax.jit(draws)], ids=["flat", "in a scan", "in a jit"])
def test_what_a_program_was_traced_under_is_part_of_it(f):
    seen = [structure(jax.make_jaxpr(f)(X))]
    for context in CONTEXTS.values():
        with context():
            one, again = (structure(jax.make_jaxpr(lambda x: f(x))(X)) for _ in range(2))
        assert one == again and hash(one) == hash(again)
        seen.append(one)
    assert len(set(seen)) == 1 + len(CONTEXTS)


def test_the_same_program_under_another_generator_gives_other_values():
    """Why the context is part of the key: these two jaxprs have equal equations."""
    one = jax.make_jaxpr(lambda x: draws(x))(X)
    with jax.threefry_partitionable(False):
        other = jax.make_jaxpr(lambda x: draws(x))(X)
    assert str(one) == str(other)
    assert structure(one) != structure(other)
    assert not np.allclose(*(jax.core.eval_jaxpr(jaxpr.jaxpr, jaxpr.consts, X)[0] for jaxpr in (one, other)))


def test_compute_type_is_part_of_it():
    f = lambda x: x * 2.0  # noqa: E731
    assert structure(jax.make_jaxpr(on_the_host(f))(X)) == structure(jax.make_jaxpr(on_the_host(f))(X)) != structure(jax.make_jaxpr(f)(X))


def test_a_context_counts_where_it_begins():
    def program(first, second):
        def f(x):
            with set_xla_metadata(note=first):
                x = jnp.sin(x)
            with set_xla_metadata(note=second):
                return jnp.cos(x)

        return structure(jax.make_jaxpr(f)(X))

    assert len({program("1", "2"), program("2", "1"), program("1", "1"), program("2", "2")}) == 4
    assert program("1", "2") == program("1", "2")


def test_shardings_of_types_are_part_of_it():
    """Arguments placed over a mesh whose axes are part of types: the axis, its mesh, and the kind of memory."""

    def key(mesh, *spec, kind="device"):
        return structure(jax.make_jaxpr(lambda x: x * 2.0)(jax.device_put(X, NamedSharding(mesh, P(*spec), memory_kind=kind))))

    explicit, larger = mesh_of(2, AxisType.Explicit), mesh_of(4, AxisType.Explicit)
    keys = {
        key(explicit, "rows"),
        key(explicit),
        key(larger, "rows"),
        key(mesh_of(2), "rows"),
        structure(jax.make_jaxpr(lambda x: x * 2.0)(X)),
    }
    assert len(keys) == 5
    assert key(explicit, "rows") == key(mesh_of(2, AxisType.Explicit), "rows")


# ---- arguments of a compiled program


def test_placed():
    first, second, *_ = jax.devices()
    by_rows = NamedSharding(mesh_of(2), P("rows"))
    everywhere = NamedSharding(mesh_of(2), P())
    arrays = [X, X[:2], X.astype(jnp.bfloat16), jnp.asarray(1.0), jnp.float32(1.0)]
    arrays += [jax.device_put(X, place) for place in (first, second, by_rows, everywhere)]
    keys = [placed(x) for x in arrays]
    assert len(set(keys)) == len(keys)
    assert placed(np.asarray(X)) == placed(X) == placed(X + 1.0)
    assert placed(jax.device_put(X, second)) == placed(jax.device_put(np.zeros(4, np.float32), second))
    assert placed(jax.random.key(0)) == placed(jax.random.key(1)) != placed(jax.device_put(jax.random.key(0), second))


def test_placed_tells_layouts_apart():
    """A compiled program refuses an array of another layout."""
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    rows, columns = (jax.device_put(jnp.ones((2, 3)), Format(Layout(order), place)) for order in ((0, 1), (1, 0)))
    with pytest.raises(ValueError, match="layouts"):
        jax.jit(jnp.sin).lower(rows).compile()(columns)
    assert placed(rows) != placed(columns)


# ---- types and values of every kind


def with_a_reference(step):
    def f(x):
        total = jax.new_ref(jnp.zeros(()))
        total[...] += x.sum() * step
        return total[...]

    return f


def test_references_and_mapped_axes():
    """Types beside those of arrays: mutable references, and what varies over a mesh inside `shard_map`."""

    def mapped(check):
        return jax.shard_map(lambda x: jax.lax.psum(x, "rows"), mesh=mesh_of(2), in_specs=P("rows"), out_specs=P(), check_vma=check)

    programs = [lambda: with_a_reference(1.0), lambda: with_a_reference(2.0), lambda: mapped(True), lambda: mapped(False)]
    one, again = ([structure(jax.make_jaxpr(make())(X), differentiated=False) for make in programs] for _ in range(2))
    assert one == again
    assert len(set(one)) == len(one)


def test_values_that_are_part_of_a_program():
    def values():
        return [
            jax.random.key(0),
            jax.random.key(1),
            jax.random.key(0, impl="rbg"),
            np.zeros(2),
            jnp.zeros(2),
            {"a": np.zeros(2)},
            [0.0, {1}],
        ]

    assert [value_key(v) for v in values()] == [value_key(v) for v in values()]
    assert len({value_key(v) for v in values()}) == len(values())
