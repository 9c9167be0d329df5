"""`partition` from the front: what is told, what is refused before anything runs, and that earlier tactics win."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import luciole
from luciole import sharding as ls


def loss(w1, w2, x):
    return jnp.sum(ls.tag(jnp.tanh(x @ w1), "hidden") @ w2)


def step(p, x):
    value, gradient = jax.value_and_grad(lambda p: loss(p["w1"], p["w2"], x))(p)
    return jax.tree.map(lambda a, b: a - 0.1 * b, p, gradient), value


@pytest.fixture
def args():
    rng = np.random.default_rng(0)
    weights = {"w1": rng.normal(size=(8, 16)).astype(np.float32), "w2": rng.normal(size=(16, 8)).astype(np.float32)}
    return weights, rng.normal(size=(32, 8)).astype(np.float32)


DATA = ls.ManualPartition({"x": 0}, axis="data")
MODEL = ls.ManualPartition({"p.w1": 1}, axis="model")
ZERO = ls.ManualPartition({"p": ls.FIRST_DIVISIBLE}, axis="data")
MESH = {"data": 4, "model": 2}


def counts(part):
    return {kind: n for kind, n in part.reports[-1].collectives.items() if n}


def test_each_tactic_adds_its_collectives_and_the_result_is_the_function_s(args):
    part = ls.partition(step, args, MESH, [DATA, MODEL, ZERO], carry={"0": "p"})
    reports = [{kind: n for kind, n in report.collectives.items() if n} for report in part.reports]
    # data: two gradients and the loss; model: the loss is summed over both axes; ZeRO: a parameter is gathered at three uses
    assert reports == [{}, {"all_reduce": 3}, {"all_reduce": 3}, {"all_gather": 3, "all_reduce": 1, "reduce_scatter": 2}]
    assert not part.check(compiled=True).unexplained
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6), part(*args), step(*args))
    assert part.reports[1].flops == pytest.approx(part.reports[0].flops / 4, rel=0.1)
    assert part.reports[1].peak_bytes < part.reports[0].peak_bytes


def test_results_and_arguments_lie_where_it_is_said(args):
    part = ls.partition(step, args, MESH, [DATA, MODEL], carry={"0": "p"})
    placed = jax.device_put(args, part.in_shardings)
    outs = part(*placed)
    for out, sharding in zip(jax.tree.leaves(outs), jax.tree.leaves(part.out_shardings), strict=True):
        assert out.sharding.is_equivalent_to(sharding, out.ndim)
    assert part.in_specs[0]["w1"] == jax.sharding.PartitionSpec(None, "model")
    part(outs[0], placed[1])  # what it returns can be given to it


def test_the_earlier_tactic_wins(args):
    columns = ls.ManualPartition({"x": 1}, axis="data")
    part = ls.partition(step, args, {"data": 4}, [DATA, columns])
    (conflict,) = part.reports[-1].conflicts
    assert "dimension 0, as decided before" in str(conflict)
    assert counts(part) == counts(ls.partition(step, args, {"data": 4}, [DATA]))
    with pytest.raises(luciole.PartitionError, match=r"x over 'data' could be split along dimension 0, as decided before"):
        ls.partition(step, args, {"data": 4}, [DATA, columns], strict=True)


def product(x, w):
    return x @ w


@pytest.mark.parametrize(
    ("tactics", "collectives"),
    [
        ([ls.ManualPartition({"x": 0, "w": 1}, axis="data")], {"all_gather": 2}),
        ([ls.ManualPartition({"x": 0}, axis="data"), ls.ManualPartition({"w": 1}, axis="data")], {"all_gather": 1}),
        ([ls.ManualPartition({"x": 1}, axis="data")], {"all_reduce": 1}),
        ([ls.ManualPartition({"w": 1}, axis="data", atomic=["x"])], {}),
    ],
)
def test_a_conflict_is_told_and_never_resolved(tactics, collectives):
    args = np.ones((8, 8), np.float32), np.ones((8, 8), np.float32)
    part = ls.partition(product, args, {"data": 4}, tactics)
    assert counts(part) == collectives
    both = len(tactics) == 1 and len(tactics[0].values) == 2
    assert len(part.reports[-1].conflicts) == both
    if both:
        (conflict,) = part.reports[-1].conflicts
        assert conflict.operation == "dot_general"
        assert conflict.axis == "data"
        assert len(conflict.factors) == 2
        assert "test_partition.py" in conflict.place
        with pytest.raises(luciole.PartitionError, match=r"dot_general over 'data'.*earlier tactic wins"):
            ls.partition(product, args, {"data": 4}, tactics, strict=True)


def test_a_replicated_value_stops_what_spreads(args):
    kept = ls.ManualPartition({"x": 0, "hidden": ls.REPLICATED}, axis="data")
    part = ls.partition(step, args, MESH, [kept])
    assert "whole, as said by" in part.explain("hidden")
    assert counts(part) != counts(ls.partition(step, args, MESH, [DATA]))
    part.check()


def test_explain_follows_the_operations_back_to_the_tactic(args):
    part = ls.partition(step, args, MESH, [DATA, MODEL])
    text = part.explain("p.w2")
    assert "dimension 0 over 'model'" in text
    assert "p.w1 is split along dimension 1 by ManualPartition({'p.w1': 1}, axis='model')" in text
    assert "tanh at" in text
    assert "test_partition.py" in text
    assert "not split" in text


def test_a_function_of_name_and_shape_says_where(args):
    part = ls.partition(step, args, MESH, [ls.ManualPartition({"p": lambda name, shape: shape.index(16)}, axis="model")])
    assert part.in_specs[0] == {"w1": jax.sharding.PartitionSpec(None, "model"), "w2": jax.sharding.PartitionSpec("model", None)}


def test_no_device_is_needed_to_know_the_cost(args):
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), args)
    sizes = {"data": 16, "model": 16}
    part = ls.partition(step, shapes, sizes, [DATA, MODEL])
    abstract = ls.partition(step, shapes, jax.sharding.AbstractMesh((16, 16), ("data", "model")), [DATA, MODEL])
    assert abstract.reports[-1] == part.reports[-1]
    assert part.reports[-1].seconds > 0
    with pytest.raises(luciole.PartitionError, match="needs 256 devices; 8 are present"):
        part(*args)


def test_a_mesh_of_devices_of_any_type_of_axes(args):
    mesh = jax.make_mesh((4, 2), ("data", "model"))
    np.testing.assert_allclose(ls.partition(step, args, mesh, [DATA])(*args)[1], step(*args)[1], rtol=1e-5)


def test_the_picture_and_the_words(args):
    part = ls.partition(step, args, MESH, [DATA, MODEL])
    assert "reduce_scatter" in repr(part)
    assert "ls.ManualPartition({'x': 0}, axis='data')" in repr(part)
    figure = part.plot()
    assert figure.axes
    assert "peak memory" in str(part.reports[-1])


MISTAKES = {
    "an unknown name": (lambda a: ls.partition(step, a, MESH, [ls.ManualPartition({"p.w3": 0}, axis="data")]), r"called 'p.w3'.*'p.w[12]'"),
    "an unknown axis": (lambda a: ls.partition(step, a, MESH, [ls.ManualPartition({"x": 0}, axis="dta")]), "no axis 'dta'.*mean 'data'"),
    "two axes": (lambda a: ls.partition(step, a, MESH, [ls.ManualPartition({"x": 0}, axis=("data", "model"))]), "one tactic for each axis"),
    "a size": (
        lambda a: ls.partition(step, a, {"data": 5}, [DATA]),
        r"dimension 0 of x, \[32, 8\], cannot be divided among the 5.*pad=True",
    ),
    "a dimension": (lambda a: ls.partition(step, a, MESH, [ls.ManualPartition({"x": 2}, axis="data")]), "hence no dimension 2"),
    "a place": (lambda a: ls.partition(step, a, MESH, [ls.ManualPartition({"x": "0"}, axis="data")]), "split along '0'"),
    "not a tactic": (lambda a: ls.partition(step, a, MESH, [("x", 0)]), "found tuple"),
    "the memory": (lambda a: ls.partition(step, a, MESH, [DATA], memory_bytes=1e3), "the limit is 1000"),
    "arguments": (lambda a: ls.partition(step, a[:1], MESH, [DATA]), "does not take these 1 arguments"),
    "no tuple": (lambda a: ls.partition(step, a[0], MESH, [DATA]), "args is a dict"),
    "carry": (lambda a: ls.partition(step, a, MESH, [DATA], carry={"0": "q"}), "no argument 'q.w1'"),
    "a mesh": (lambda a: ls.partition(step, a, 8, [DATA]), "expected a jax.sharding.Mesh or a dict"),
    "known numbers": (lambda a: ls.partition(step, a, MESH, [DATA], known=["y"]), "called 'y'"),
    "other shapes": (lambda a: ls.partition(step, a, MESH, [DATA])(a[0], a[1][:16]), r"x: .*float32\[32, 8\], found float32\[16, 8\]"),
    "other trees": (lambda a: ls.partition(step, a, MESH, [DATA])(a[0]["w1"], a[1]), "was partitioned for arguments"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_before_anything_runs(args, mistake):
    call, message = MISTAKES[mistake]
    with pytest.raises(luciole.PartitionError, match=message):
        call(args)


def test_an_axis_that_changes_its_dimension_is_an_exchange():
    def transposed_twice(x):
        return ls.tag(jnp.cumsum(x, 0), "down") + 1.0

    x = np.arange(64, dtype=np.float32).reshape(8, 8)
    rows = ls.ManualPartition({"x": 0}, axis="data")
    part = ls.partition(transposed_twice, (x,), {"data": 4}, [ls.ManualPartition({"down": 1}, axis="data"), rows])
    assert counts(part) == {}  # x follows from what is behind it, so that the later tactic comes too late
    part = ls.partition(transposed_twice, (x,), {"data": 4}, [rows, ls.ManualPartition({"down": 1}, axis="data")])
    assert counts(part) == {"all_to_all": 1}
    assert not part.check(compiled=True).unexplained
    np.testing.assert_array_equal(part(x), transposed_twice(x))


def test_it_runs_inside_of_compiled_functions_and_refuses_to_be_differentiated(args):
    part = ls.partition(step, args, MESH, [DATA, MODEL], carry={"0": "p"})
    twice = jax.jit(lambda p, x: part(part(p, x)[0], x))
    np.testing.assert_allclose(twice(*args)[1], step(step(*args)[0], args[1])[1], rtol=1e-5)
    with pytest.raises(luciole.PartitionError, match="Differentiate first"):
        jax.grad(lambda p: part(p, args[1])[1])(args[0])


def test_a_report_names_its_device_and_says_what_does_not_fit_there(args):
    tiny = ls.HARDWARE["a100"]._replace(name="tiny", memory_bytes=1000)
    report = ls.partition(step, args, MESH, [DATA], hardware=tiny).reports[-1]
    assert not report.fits
    assert "too much" in str(report)
    assert "on tiny" in str(report)
    assert ls.partition(step, args, MESH, [DATA]).reports[-1].fits
