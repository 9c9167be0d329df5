"""Every entry of the one file that touches JAX's semi-private corners, on the JAX version at hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.core import ShapedArray

from luciole.transforms import jax_compat as compat
from luciole.transforms.equations import prune_jaxpr, run_jaxpr


class Mark(compat.Effect):
    def __str__(self):
        return "Mark"


MARK = Mark()
twice_p = compat.Primitive("twice")
compat.declare_effect(Mark)
compat.define_result(twice_p, lambda x, **params: (ShapedArray(x.shape, x.dtype), {MARK}))
compat.define_batching(twice_p, lambda size, operands, axes, **params: (twice_p.bind(*operands, size=size, axes=tuple(axes)), axes[0]))
compat.define_jvp(twice_p, lambda primals, tangents, **params: (twice_p.bind(*primals), 2.0 * tangents[0]))


def equations(f, *args):
    return compat.open_jaxpr(jax.make_jaxpr(f)(*args))[0].eqns


def test_all_entries_are_here():
    assert all(hasattr(compat, name) for name in compat.__all__)
    for entry in (compat.ClosedJaxpr, compat.Jaxpr, compat.JaxprEqn, compat.Literal, compat.Primitive, compat.Var):
        assert isinstance(entry, type)


def test_classes_are_those_of_a_jaxpr():
    closed = jax.make_jaxpr(lambda x: x * 2.0)(1.0)
    assert isinstance(closed, compat.ClosedJaxpr)
    inner, consts = compat.open_jaxpr(closed)
    assert isinstance(inner, compat.Jaxpr)
    assert consts == []
    assert compat.open_jaxpr(inner)[0] is inner
    (eqn,) = inner.eqns
    assert isinstance(eqn, compat.JaxprEqn)
    assert isinstance(eqn.invars[0], compat.Var)
    assert isinstance(eqn.invars[1], compat.Literal)


def test_constants():
    table = jnp.arange(3.0)
    _, consts = compat.open_jaxpr(jax.make_jaxpr(lambda x: x * table)(1.0))
    assert len(consts) == 1
    assert consts[0].tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x + 1.0,
        lambda x: jax.jit(jnp.sin)(x),
        lambda x: jax.lax.scan(lambda c, y: (c + y, c), 0.0, x)[1],
        lambda x: jax.lax.cond(x[0] > 0, jnp.sin, jnp.cos, x),
        lambda x: jax.lax.while_loop(lambda c: c[0] < 3.0, lambda c: c + 1.0, x),
        lambda x: jax.checkpoint(jnp.sin)(x),
        lambda x: jax.nn.relu(x),
        lambda x: jnp.stack(jnp.split(x, 3)),
    ],
)
def test_bind(f):
    x = jnp.arange(1.0, 4.0)
    inner, consts = compat.open_jaxpr(jax.make_jaxpr(f)(x))
    env = dict(zip([*inner.constvars, *inner.invars], [*consts, x], strict=True))
    for eqn in inner.eqns:
        outs = compat.bind(eqn, [v.val if isinstance(v, compat.Literal) else env[v] for v in eqn.invars])
        assert isinstance(outs, list)
        env.update(zip(eqn.outvars, outs, strict=True))
    assert jnp.allclose(env[inner.outvars[0]], f(x))


def test_subjaxprs():
    def number(f, *args):
        return [len(compat.subjaxprs(e)) for e in equations(f, *args) if compat.subjaxprs(e)]

    x = jnp.ones(3)
    assert number(lambda x: x + 1.0, x) == []
    assert number(lambda x: jax.jit(jnp.sin)(x), x) == [1]
    assert number(lambda x: jax.lax.scan(lambda c, y: (c, y), 0.0, x)[1], x) == [1]
    assert number(lambda x: jax.lax.cond(x[0] > 0, jnp.sin, jnp.cos, x), x) == [2]
    assert number(lambda x: jax.lax.while_loop(lambda c: c[0] < 0, lambda c: c, x), x) == [2]
    assert number(lambda x: jax.checkpoint(jnp.sin)(x), x) == [1]


@pytest.mark.parametrize(("num_consts", "num_carry"), [(0, 1), (1, 1), (2, 2), (1, 3)])
def test_scan_layout(num_consts, num_carry):
    consts = [jnp.asarray(float(i)) for i in range(num_consts)]

    def f(consts, carry, xs):
        return jax.lax.scan(lambda c, x: ([v + x + sum(consts) for v in c], x), carry, xs)

    (eqn,) = [e for e in equations(f, consts, [jnp.asarray(0.0)] * num_carry, jnp.ones(4)) if e.primitive.name == "scan"]
    assert compat.scan_layout(eqn) == (num_consts, num_carry)
    assert len(eqn.invars) == num_consts + num_carry + 1


def test_effect_stands_inside_everything():
    f = lambda x: twice_p.bind(x)  # noqa: E731
    for g in (
        f,
        jax.jit(f),
        jax.checkpoint(f),
        lambda x: jax.lax.scan(lambda c, _: (f(c), None), x, None, length=2)[0],
        lambda x: jax.lax.cond(x > 0, f, f, x),
        lambda x: jax.lax.while_loop(lambda c: c < 0, f, x),
    ):
        jaxpr = jax.make_jaxpr(g)(1.0)
        assert MARK in jaxpr.effects
    custom = jax.custom_jvp(f)
    custom.defjvp(lambda p, t: (f(p[0]), t[0]))
    assert MARK in jax.make_jaxpr(custom)(1.0).effects


def test_effect_is_never_lowered():
    with pytest.raises(Exception, match=r"(?i)effect|lower|implement"):
        jax.jit(lambda x: twice_p.bind(x)).lower(1.0)


def test_batching_is_asked_even_when_nothing_is_batched():
    for x, axis, expected in [(jnp.ones((5, 3)), 0, (0,)), (jnp.ones((5, 3)), 1, (1,))]:
        (eqn,) = [e for e in equations(jax.vmap(lambda x: twice_p.bind(x), in_axes=axis, out_axes=axis), x) if e.primitive is twice_p]
        assert eqn.params["axes"] == expected
        assert eqn.params["size"] == x.shape[axis]
    (eqn,) = [e for e in equations(jax.vmap(lambda x: (twice_p.bind(jnp.float32(1.0)), x)[1]), jnp.ones(7)) if e.primitive is twice_p]
    assert eqn.params == {"size": 7, "axes": (None,)}


def test_jvp():
    """The rule is asked: the tangent is twice the one that came in."""
    inner, _ = compat.open_jaxpr(jax.make_jaxpr(lambda x, t: jax.jvp(twice_p.bind, (x,), (t,))[1])(3.0, 5.0))
    last = inner.eqns[-1]
    assert last.primitive.name == "mul"
    assert inner.outvars == list(last.outvars)
    assert 2.0 in [float(v.val) for v in last.invars if isinstance(v, compat.Literal)]
    assert inner.invars[1] in last.invars


def test_persistent_cache(tmp_path):
    """Compilations inside leave files in the folder; those outside do not, and the settings come back."""
    before = jax.config.jax_compilation_cache_dir
    assert before is None
    with compat.persistent_cache(str(tmp_path)):
        jax.jit(lambda x: jnp.sin(x) * 1.2345)(1.0)
    files = list(tmp_path.iterdir())
    assert files
    jax.jit(lambda x: jnp.sin(x) * 5.4321)(1.0)
    assert list(tmp_path.iterdir()) == files
    assert jax.config.jax_compilation_cache_dir is before


def test_user_frames():
    def here(x):
        return jnp.sin(x)

    (eqn,) = [e for e in equations(here, 1.0) if e.primitive.name == "sin"]
    frames = compat.user_frames(eqn)
    assert frames[0] == (__file__, here.__code__.co_firstlineno + 1, frames[0][2])
    assert "here" in frames[0][2]
    assert all("/jax/_src/" not in f for f, _, _ in frames)


def test_made_by():
    (eqn,) = [e for e in equations(lambda g: jnp.bincount(g, length=2), jnp.zeros(3, int)) if e.primitive.name == "scatter-add"]
    assert "bincount" in compat.made_by(eqn)
    (eqn,) = [e for e in equations(lambda g: jnp.zeros(2).at[g].add(1.0), jnp.zeros(3, int)) if e.primitive.name == "scatter-add"]
    assert "bincount" not in compat.made_by(eqn) and not any("test_made_by" in name for name in compat.made_by(eqn))


halve_p = compat.Primitive("halve")
halve_p.multiple_results = True
compat.define_result(halve_p, lambda x: ([ShapedArray(x.shape, x.dtype)], set()))
compat.define_lowering(halve_p, lambda x: [x / 2])
compat.define_jvp(
    halve_p,
    lambda primals, tangents: (
        halve_p.bind(*primals),
        halve_p.bind(*compat.instantiate_tangents(primals, tangents)),
    ),
)
compat.define_transpose(
    halve_p,
    lambda cotangents, linear, operands: [halve_p.bind(cotangents[0])[0] if linear == [True] and operands == [None] else None],
)


def test_a_primitive_that_runs_compiles_and_transposes():
    f = lambda x: halve_p.bind(x)[0] ** 2  # noqa: E731
    assert f(jnp.float32(6.0)) == jax.jit(f)(jnp.float32(6.0)) == 9.0
    assert jax.grad(f)(6.0) == 3.0


def test_instantiated_tangents_leave_integers_out():
    dense = compat.instantiate_tangents([1.0, 2], [jnp.ones(()), np.zeros((), jax.dtypes.float0)])
    assert dense[0] == 1.0
    assert dense[1] is None


def test_new_equations_carry_the_line_of_the_old_one():
    (old,) = equations(jnp.sin, 1.0)

    def write(x):
        with compat.equation_context(old):
            return jnp.cos(x)

    (new,) = equations(write, 1.0)
    assert compat.user_frames(new) == compat.user_frames(old)


def test_varying_axes():
    mesh = jax.make_mesh((2,), ("i",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    seen = []
    spec = jax.sharding.PartitionSpec("i")
    body = lambda x: seen.append(compat.varying_axes(jax.typeof(x))) or x  # noqa: E731
    jax.make_jaxpr(jax.shard_map(body, mesh=mesh, in_specs=spec, out_specs=spec))(jnp.ones(2))
    assert seen[0] == {"i"}
    assert compat.varying_axes(jax.typeof(jnp.ones(2))) == frozenset()


def test_a_jaxpr_assembled_from_equations_keeps_its_constants_apart_from_its_inputs():
    table = np.arange(3.0)
    closed = jax.make_jaxpr(lambda x: jnp.sin(x) * jnp.asarray(table))(1.0)
    jaxpr, consts = compat.open_jaxpr(closed)
    named = dict(zip(jaxpr.constvars, consts, strict=True))
    rebuilt, values = compat.assemble_jaxpr(jaxpr, named, jaxpr.invars, jaxpr.outvars, jaxpr.eqns)
    assert (list(rebuilt.constvars), list(rebuilt.invars)) == (list(jaxpr.constvars), list(jaxpr.invars))
    assert jnp.array_equal(jax.core.eval_jaxpr(rebuilt, values, 2.0)[0], jax.core.eval_jaxpr(jaxpr, consts, 2.0)[0])


def test_prune_jaxpr():
    table = jnp.arange(3.0)

    def f(x, y, z):
        jax.debug.callback(lambda v: None, z)
        return jnp.sin(x), y * table, x

    jaxpr, consts = compat.open_jaxpr(jax.make_jaxpr(f)(*jnp.ones(3)))
    pruned, kept, inputs = prune_jaxpr(jaxpr, consts, [jaxpr.outvars[1], jaxpr.outvars[1]])
    assert inputs == [1, 2] and [list(pruned.invars), list(pruned.constvars)] == [list(jaxpr.invars)[1:], list(jaxpr.constvars)]
    assert kept[0] is consts[0]
    assert [e.primitive.name for e in pruned.eqns if e.primitive.name != "debug_callback"] == ["mul"]
    assert len(pruned.eqns) == 2
    once, twice = jax.core.eval_jaxpr(pruned, kept, 2.0, 0.0)
    assert once.tolist() == twice.tolist() == [0.0, 2.0, 4.0]
    pruned, kept, inputs = prune_jaxpr(jaxpr, consts, [jaxpr.outvars[2]])
    assert (inputs, kept, list(pruned.constvars)) == ([0, 2], [], [])


def test_what_no_output_needs_is_dropped_from_loops():
    def f(x, unused, y):
        def step(c, v):
            a, b = c
            return (a + v, b * v), (a, b)

        (a, b), (to_a, to_b) = jax.lax.scan(step, (x, unused), y)
        return a, b, to_a, to_b

    closed = jax.make_jaxpr(f)(1.0, 2.0, jnp.arange(3.0))
    live, used = compat.live_jaxpr(closed, [True, False, True, False])
    assert used == [True, False, True]
    inner, consts = compat.open_jaxpr(live)
    assert len(inner.invars) == len(inner.outvars) == 2
    assert run_jaxpr(inner, consts, [1.0, jnp.arange(3.0)])[1].tolist() == [1.0, 1.0, 2.0]


def test_context_values():
    """Everything that `equation_context` restores, whatever this version of JAX calls it."""
    (plain,) = equations(lambda x: x * 2.0, 1.0)
    with jax.threefry_partitionable(False):
        (other,) = equations(lambda x: x * 2.0, 1.0)
    values = dict(compat.context_values(plain.ctx))
    assert {"compute_type", "threefry_partitionable", "xla_metadata", "cur_abstract_mesh"} <= values.keys()
    assert {name for name, value in compat.context_values(other.ctx) if value != values[name]} == {"threefry_partitionable"}
    assert all(f"{name}={value}" in repr(plain.ctx) for name, value in values.items())


def test_collectives_are_traced_where_axes_have_names():
    with compat.named_axes({"rows": 4, "columns": 2}):
        jaxpr = jax.make_jaxpr(lambda x: jax.lax.psum(x, ("rows", "columns")) + jax.lax.axis_index("rows"))(1.0)
    assert [e.primitive.name for e in compat.open_jaxpr(jaxpr)[0].eqns][:2] == ["psum", "axis_index"]
    assert not any(compat.acts(eqn) for eqn in compat.open_jaxpr(jaxpr)[0].eqns)
    with pytest.raises(NameError):
        jax.make_jaxpr(lambda x: jax.lax.psum(x, "rows"))(1.0)


def test_what_acts():
    jaxpr = jax.make_jaxpr(lambda x: jax.debug.print("{}", x))(1.0)
    assert any(compat.acts(eqn) for eqn in compat.open_jaxpr(jaxpr)[0].eqns)


def test_operations_of_a_lowered_program_know_their_scope():
    def function(x):
        with jax.named_scope("a scope of its own"):
            return jnp.cos(x)

    found = compat.lowered_operations(jax.jit(function).lower(1.0))
    assert [("a scope of its own" in place) for name, place in found if name == "stablehlo.cosine"] == [True]
