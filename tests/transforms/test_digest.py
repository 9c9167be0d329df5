"""Digests: the same in every process, different for every change of what they name."""

import functools
import json
import os
import subprocess
import sys
import tracemalloc

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import numpyro
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from numpyro import distributions as dist
from numpyro import handlers

from luciole import ppl as lc
from luciole.transforms import ProgramError, array_digest, digest, structure
from luciole.transforms.jax_compat import open_jaxpr
from luciole.transforms.structure import value_key

X = np.linspace(0.1, 1.0, 4, dtype=np.float32)


# ---- models, for programs that are traced in other processes


@jax.custom_jvp
def softplus(x):
    return jnp.log1p(jnp.exp(x))


softplus.defjvp(lambda p, t: (softplus(p[0]), jax.nn.sigmoid(p[0]) * t[0]))


def regression(x, y):
    b = lc.sample("b", dist.Normal(jnp.zeros(2), jnp.array([1.0, 3.0])).to_event(1))
    lc.sample("y", dist.StudentT(4.0, x @ b, 1.0), obs=y)


def walk(y):
    scale = lc.sample("scale", dist.HalfCauchy(1.0))

    def step(x, y):
        lc.sample("y", dist.Normal(x, 0.5), obs=y)
        return lc.sample("x", dist.Normal(x, scale)), None

    jax.lax.scan(step, 0.0, y)


def branches(y):
    m = lc.sample("m", dist.Normal(0.0, 1.0))
    lc.factor("f", jax.lax.cond(m > 0.0, lambda m: -m * y.sum(), lambda m: m**3, m))


def process(x, y):
    length = lc.sample("length", dist.LogNormal(0.0, 1.0))
    cov = jnp.exp(-(((x[:, None] - x) / length) ** 2)) + 0.1 * jnp.eye(len(x))
    lc.sample("y", dist.MultivariateNormal(jnp.zeros(len(x)), scale_tril=jnp.linalg.cholesky(cov)), obs=y)


def groups(group, y):
    with lc.plate("groups", 3):
        a = lc.sample("a", dist.Normal(0.0, 1.0))
    with lc.plate("rows", len(y)):
        lc.sample("y", dist.Poisson(jnp.exp(a[group])), obs=y)


def own_rule(y):
    s = softplus(lc.sample("s", dist.Normal(0.0, 1.0)))
    lc.sample("y", dist.Gamma(s, jax.nn.softplus(s)), obs=y)


def mapped(x, y):
    b = lc.sample("b", dist.Laplace(0.0, jnp.ones(3)).to_event(1))
    lc.sample("y", dist.Normal(jax.vmap(lambda row: jnp.tanh(row) @ b)(x), 1.0), obs=y)


def ordered(y):
    c = lc.sample("c", dist.TransformedDistribution(dist.Normal(jnp.zeros(3), 1.0), dist.transforms.OrderedTransform()))
    lc.sample("y", dist.OrderedLogistic(jnp.sort(jnp.sin(c)).sum(), c), obs=y)


def layers(x, y):
    for i, shape in enumerate([(2, 3), (3, 1)]):
        weights = {"w": dist.Normal(jnp.zeros(shape), 1.0).to_event(2), "b": dist.Cauchy(0.0, 1.0).expand([shape[1]]).to_event(1)}
        p = {name: lc.sample(f"{i}.{name}", d) for name, d in weights.items()}
        x = jax.nn.relu(x @ p["w"] + p["b"])
    lc.sample("y", dist.Normal(x[:, 0], 1.0), obs=y)


def centred(y):
    with handlers.reparam(config={"t": numpyro.infer.reparam.LocScaleReparam(0.0)}), handlers.scope(prefix="s"), handlers.scale(scale=0.5):
        t = numpyro.sample("t", dist.Normal(1.0, 2.0).expand([2]).to_event(1))
    numpyro.sample("y", dist.MixtureSameFamily(dist.Categorical(jnp.ones(2) / 2), dist.Normal(t, 1.0)), obs=y)


INTEGERS = np.array([0, 2, 2, 1])
DESIGN = np.arange(8.0, dtype=np.float32).reshape(4, 2)
MODELS = {
    regression: (DESIGN, X),
    walk: (X,),
    branches: (X,),
    process: (X, X),
    groups: (INTEGERS, INTEGERS),
    own_rule: (X,),
    mapped: (np.ones((4, 3), np.float32), X),
    ordered: (INTEGERS,),
    layers: (DESIGN, X),
    centred: (X,),
}


def digests_of_models():
    """name -> the digests of the model's program, and of its log density, plain, differentiable and differentiated."""
    found = {}
    for model, args in MODELS.items():
        density = lc.log_density(model, *args)
        inner = jax.make_jaxpr(density)(density.init(jax.random.key(0)))
        gradient = jax.make_jaxpr(jax.grad(density))(density.init(jax.random.key(0)))
        keys = [density.program.structure_key(d) for d in (True, False)] + [structure(inner), structure(gradient, differentiated=False)]
        found[model.__name__] = [digest(key) for key in keys]
    return found | {"parts": [digest(part) for part in functions()]}


@pytest.mark.slow
def test_every_process_finds_the_same_digests():
    """Text has another hash in every process, functions and objects another address, and a trace makes new ones of both."""
    code = "import json; from tests.transforms.test_digest import digests_of_models; print(json.dumps(digests_of_models()))"
    path = os.pathsep.join(p or "." for p in sys.path)
    environments = [{**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path} for seed in ("1", "2")]
    started = [subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True) for env in environments]
    one, other = (json.loads(process.communicate()[0]) for process in started)
    assert one == other
    assert len({ds[0] for ds in one.values()}) == len(one) == len(MODELS) + 1


def test_data_are_no_part_of_a_program():
    def program(model, *args):
        return digest(lc.log_density(model, *args).program.structure_key())

    assert program(regression, DESIGN, X) == program(regression, DESIGN + 1, 2 * X)
    assert program(regression, DESIGN, X) != program(regression, DESIGN[:3], X[:3])
    assert program(groups, INTEGERS, INTEGERS) == program(groups, INTEGERS[::-1], INTEGERS + 1)
    assert program(regression, DESIGN, X) != program(regression, DESIGN.astype(np.float16), X)


def test_fields_of_a_distribution_are_told_apart():
    """NumPyro has the shapes of a distribution without their names, in an order that is another in every process."""

    def program(d):
        return digest(lc.trace(lambda: lc.sample("x", d)).structure_key())

    kinds = [
        dist.Normal(jnp.zeros(3), 1.0),
        dist.Normal(jnp.zeros(3), jnp.ones(3)),
        dist.Normal(0.0, 1.0).expand([3]),
        dist.Normal(jnp.zeros(3), 1.0).to_event(1),
        dist.Normal(0.0, 2.0),
        dist.Normal(0.0, 1.0),
        dist.Cauchy(0.0, 1.0),
        dist.Normal(0.0, 1.0, validate_args=True),
        dist.Binomial(10, 0.5),
        dist.Binomial(11, 0.5),
    ]
    assert len({program(d) for d in kinds}) == len(kinds)
    assert program(kinds[1]) == program(dist.Normal(jnp.ones(3), 2.0 * jnp.ones(3)))


# ---- programs


def nested(value):
    """A program with a constant inside a call."""
    outer = jax.make_jaxpr(jax.jit(lambda x: x * 1.0))(X)
    inner = jax.make_jaxpr(lambda x: x * np.full(4, value, np.float32))(X)
    eqn = open_jaxpr(outer)[0].eqns[0]
    return open_jaxpr(outer)[0].replace(eqns=[eqn.replace(params={**eqn.params, "jaxpr": inner})])


def scan(f, **options):
    return lambda x: jax.lax.scan(lambda c, y: (f(c, y), c), 0.0, x, **options)


ROWS = jnp.ones((4, 4))
CHANGES = {
    "nothing": (lambda x: jnp.cumsum(x * 2.0), X),
    "a literal": (lambda x: jnp.cumsum(x * 3.0), X),
    "the sign of zero": (lambda x: jnp.cumsum(x * 0.0), X),
    "that of another": (lambda x: jnp.cumsum(x * -0.0), X),
    "a shape": (lambda x: jnp.cumsum(x * 2.0), X[:3]),
    "a dtype": (lambda x: jnp.cumsum(x * 2.0), X.astype(np.float16)),
    "a weak type": (lambda x: x * 2.0, 1.0),
    "a strong type": (lambda x: x * 2.0, np.float32(1.0)),
    "an axis": (lambda x: jnp.cumsum(x * 2.0, axis=0), ROWS),
    "another axis": (lambda x: jnp.cumsum(x * 2.0, axis=1), ROWS),
    "an operation": (lambda x: jnp.cumprod(x * 2.0), X),
    "the other direction": (lambda x: jax.lax.cumsum(x * 2.0, reverse=True), X),
    "operands": (lambda x: jnp.sin(x) - jnp.cos(x), X),
    "their order": (lambda x: jnp.cos(x) - jnp.sin(x), X),
    "the order of results": (lambda x: (x, x + 1.0), X),
    "the other order": (lambda x: (x + 1.0, x), X),
    "a result twice": (lambda x: (x, x), X),
    "a comparison": (lambda x: x < 0.5, X),
    "another comparison": (lambda x: x <= 0.5, X),
    "a comparator": (lambda x: jax.lax.sort((x, x), num_keys=1), X),
    "a comparator of two keys": (lambda x: jax.lax.sort((x, x), num_keys=2), X),
    "a gather": (lambda x: x[jnp.array([0, 9])], X),
    "how it treats what is out of range": (lambda x: x.at[jnp.array([0, 9])].get(mode="fill"), X),
    "a precision": (lambda x: jnp.dot(x, x, precision="highest"), ROWS),
    "no precision": (lambda x: jnp.dot(x, x), ROWS),
    "a loop": (scan(lambda c, y: c * 2.0 + y), X),
    "a literal in a loop": (scan(lambda c, y: c * 3.0 + y), X),
    "its direction": (scan(lambda c, y: c * 2.0 + y, reverse=True), X),
    "branches": (lambda x: jax.lax.cond(x[0] > 0, jnp.sin, jnp.cos, x), X),
    "their order, too": (lambda x: jax.lax.cond(x[0] > 0, jnp.cos, jnp.sin, x), X),
}


def test_every_change_of_a_program_shows():
    found = {name: digest(structure(jax.make_jaxpr(f)(x))) for name, (f, x) in CHANGES.items()}
    found |= {f"constant {value}": digest(structure(nested(value))) for value in (1.0, 2.0, -0.0, 0.0)}
    with jax.threefry_partitionable(False):
        found["a generator"] = digest(structure(jax.make_jaxpr(lambda x: jnp.cumsum(x * 2.0))(X)))
    names = {}
    for name, value in found.items():
        names.setdefault(value, []).append(name)
    assert all(len(same) == 1 for same in names.values()), names
    assert all(len(value) == 32 and int(value, 16) >= 0 for value in found.values())
    assert found["nothing"] == digest(structure(jax.make_jaxpr(lambda z: jnp.cumsum(z * 2.0))(X + 1)))


def test_shardings_show():
    def found(mesh, spec, device=None):
        place = jax.sharding.SingleDeviceSharding(device) if device else NamedSharding(mesh, spec)
        return digest((structure(jax.make_jaxpr(lambda x: jax.lax.with_sharding_constraint(x, place))(X)),))

    two, four = (jax.make_mesh((n,), ("rows",), axis_types=(AxisType.Auto,)) for n in (2, 4))
    others = jax.sharding.Mesh(jax.devices()[2:4], ("rows",), axis_types=(AxisType.Auto,))
    digests = [found(two, P("rows")), found(two, P()), found(four, P("rows")), found(others, P("rows"))]
    digests += [found(None, None, device) for device in jax.devices()[:2]]
    assert len(set(digests)) == len(digests)
    assert found(two, P("rows")) == digests[0]


def test_programs_nested_deeply():
    """Two hundred calls, one inside the other, and far deeper tuples."""

    def deep(innermost):
        program = jax.make_jaxpr(jax.jit(lambda x: x * innermost))(X)
        outer = open_jaxpr(jax.make_jaxpr(jax.jit(lambda x: x * 1.0))(X))[0]
        for _ in range(200):
            eqn = outer.eqns[0]
            program = type(program)(outer.replace(eqns=[eqn.replace(params={**eqn.params, "jaxpr": program})]), [])
        return structure(program)

    assert digest(deep(2.0)) == digest(deep(2.0)) != digest(deep(3.0))
    key = functools.reduce(lambda key, i: (key, i), range(20_000), ())
    assert digest(key) != digest((key,))


# ---- parts of keys


def test_parts_do_not_run_together():
    keys = [("ab", "c"), ("a", "bc"), ("abc",), "abc", (("ab",), "c"), ("ab", ("c",)), (), ((),), ((), ()), (("ab", "c"),)]
    keys += [1, 1.0, True, "1", b"1", None, "None", (1,), 1j, "", b"", 10, (1, 0), -1, 0.0, -0.0, float("nan"), float("inf")]
    keys += [np.float32, np.dtype("f4"), np.dtype(">f4"), np.dtype(ml_dtypes.bfloat16), np.float32(1), np.float64(1), np.ones(1), [1]]
    keys += [frozenset(), frozenset({"a", "b"}), frozenset({"ab"}), {"a": 1, "b": 2}, {"a": 2, "b": 1}, (("a", 1), ("b", 2))]
    digests = [digest(key) for key in keys]
    assert len(set(digests)) == len(digests)
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest(float("nan")) == digest(-float("nan"))


class Unhashable:
    __hash__ = None  # pyright: ignore[reportAssignmentType]


def functions():
    return (
        lambda x: x,
        functools.partial(np.add, 1.0),
        functools.partial(np.add, 2.0),
        jax.jit(lambda x: x + 1),
        object(),
        functions,
        jax.tree.structure({"a": (1, None), "b": [2]}),
        jax.tree.structure({"a": (1, 2), "b": [2]}),
        jax.lax.Precision.HIGH,
        jax.lax.Precision.HIGHEST,
        object,
        value_key(Unhashable()),
        value_key({"a", "b", "c"}),
        value_key(functools.partial(np.add, 1.0).__call__),
    )


def test_what_has_an_identity_enters_by_its_name():
    kept = functions()
    one, other = ([digest(part) for part in parts] for parts in (kept, functions()))
    assert one == other
    assert len(set(one)) == len(one)


# ---- arrays


def arrays():
    grid = np.arange(60.0).reshape(3, 4, 5)
    yield from (grid, grid.T, grid[:, ::2], grid[::-1, :, 1:3], grid[:1].transpose(2, 0, 1), grid[None, :, 0], np.asfortranarray(grid))
    yield from (np.broadcast_to(np.arange(3.0), (4, 3)), grid[0, 0, 0:1], np.array(3.0), np.zeros((3, 0)), np.zeros((0, 3))[:, ::2])
    yield from (grid > 3, grid.astype("<U5").T, grid.astype("S3").T, (1000 * grid).astype("M8[s]").T, grid.astype(ml_dtypes.bfloat16).T)
    yield np.zeros((4, 3), [("a", "i4"), ("b", "f8")]).T


@pytest.mark.parametrize("block", [8, 64, 2**20])
def test_strides_do_not_count(block, monkeypatch):
    monkeypatch.setattr(sys.modules[digest.__module__], "_BLOCK", block)
    for array in arrays():
        assert array_digest(array) == array_digest(array.copy(order="C"))
        if array.nbytes:
            content = bytearray(array.tobytes())
            content[-1] ^= 1
            assert array_digest(np.frombuffer(bytes(content), array.dtype).reshape(array.shape)) != array_digest(array)
    assert len({array_digest(array) for array in arrays()}) == len(list(arrays())) - 1  # one is the first in Fortran's order


def test_arrays_of_other_types_and_shapes_differ():
    base = np.zeros(6, np.float32)
    nans = np.array([0x7FC00000, 0x7FC00001, 0xFFC00000], np.uint32).view(np.float32)
    others = [-base, base.reshape(2, 3), base.reshape(3, 2), base[:5], base.astype(">f4"), base.astype(np.int32), base.view(np.int64)]
    others += [base.astype(np.float16), base.astype(ml_dtypes.bfloat16), np.array(0, np.float32), *nans[:, None]]
    others += [jax.random.key(0), jax.random.key(1), jax.random.key(0, impl="rbg"), jax.random.key_data(jax.random.key(0))]
    assert len({array_digest(x) for x in [base, *others]}) == 1 + len(others)


def test_where_an_array_lies_does_not_count(tmp_path):
    values = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
    values.tofile(tmp_path / "values")
    mapped = np.memmap(tmp_path / "values", np.float32, "r", shape=(8, 6))
    spread = jax.device_put(values, NamedSharding(jax.make_mesh((2,), ("rows",), axis_types=(AxisType.Auto,)), P("rows")))
    same = [values, mapped, mapped[:], jnp.asarray(values), spread, jax.device_put(values, jax.devices()[1])]
    assert len({array_digest(x) for x in same}) == 1
    assert array_digest(mapped.T) == array_digest(values.T) != array_digest(values)
    assert array_digest(np.float32(2.0)) == array_digest(np.array(2.0, np.float32)) == array_digest(jnp.float32(2.0))


def test_large_arrays_are_not_copied():
    values = np.zeros((2000, 5000), np.float32)
    for array in (values, values.T, values[:, ::2], values[None, ::-1]):
        tracemalloc.start()
        array_digest(array)
        assert tracemalloc.get_traced_memory()[1] < array.nbytes / 4
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.array([1, "a"], object), r"dtype object .*astype"),
        (np.zeros(2, [("a", object)]), r"Python objects"),
        (np.ma.masked_array([1.0, 2.0], [True, False]), r"found a MaskedArray.*x\.mask"),
        ([1.0, 2.0], r"found a list.*np\.asarray"),
    ],
    ids=["objects", "a field of objects", "masked", "a list"],
)
def test_what_has_no_bytes_of_its_own_is_refused(array, said):
    with pytest.raises(ProgramError, match=said):
        array_digest(array)
