"""The simulator on programs written by hand: counts, volumes, fusion, liveness; reports and pictures of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from luciole.sharding.factors import Rule
from luciole.sharding.fusion import plan_fusion
from luciole.sharding.hardware import HARDWARE, Hardware, calibrate
from luciole.sharding.local import Collective, Compute, Keep, LocalProgram, Nested, Slot
from luciole.sharding.picture import groups, plot
from luciole.sharding.report import Report, table
from luciole.sharding.simulate import simulate
from luciole.transforms.jax_compat import Literal

UNIT = Hardware("unit", flops=1.0, memory_bandwidth=1.0, link_bandwidth=1.0, latency=1000.0)
F32 = np.dtype(np.float32)


def local(function, *args):
    """A flat function as it is on one device, and its slots."""
    jaxpr, slots, numbers = jax.make_jaxpr(function)(*args).jaxpr, [], {}

    def slot(v):
        if v not in numbers:
            numbers[v] = len(slots)
            slots.append(Slot(tuple(v.aval.shape), v.aval.dtype))
        return numbers[v]

    def operand(x):
        return x if isinstance(x, Literal) else slot(x)

    inputs = tuple(slot(v) for v in jaxpr.invars)
    steps = tuple(
        Compute(e, Rule(lambda e: ()), (), tuple(operand(x) for x in e.invars), tuple(slot(v) for v in e.outvars)) for e in jaxpr.eqns
    )
    return LocalProgram(inputs, steps, tuple(operand(x) for x in jaxpr.outvars)), slots


def equation(function, *args):
    return jax.make_jaxpr(function)(*args).eqns[-1]


def only(step, shapes, inputs, outputs):
    return LocalProgram(inputs, (step,), outputs), [Slot(shape, F32) for shape in shapes]


@pytest.mark.parametrize(
    ("kind", "operand", "result", "volume"),
    [
        ("all_reduce", (16,), (16,), 2 * 64 * 3 / 4),
        ("all_gather", (4,), (16,), 64 * 3 / 4),
        ("reduce_scatter", (16,), (4,), 64 * 3 / 4),
        ("all_to_all", (16, 1), (4, 4), 64 * 3 / 4),
    ],
)
def test_what_a_ring_of_four_sends(kind, operand, result, volume):
    program, slots = only(Collective(kind, ("a",), 0, 1), [operand, result], (0,), (1,))
    cost = simulate(program, slots, {"a": 4, "b": 2}, UNIT)
    assert cost.collective_bytes == volume
    assert cost.seconds == volume + 1000
    assert cost.counts.executed == cost.counts.static
    assert cost.counts.executed[kind] == sum(cost.counts.executed.values()) == 1


def body(*kinds):
    """One all_reduce or all_gather after another, of slot 1."""
    return LocalProgram((1,), tuple(Collective(kind, ("a",), 1, 1) for kind in kinds), (1,))


def nested(kind, bodies, trips):
    def loop(x):
        if kind == "cond":
            return jax.lax.cond(x[0] > 0, lambda x: x, lambda x: x, x)
        if kind == "while":
            return jax.lax.while_loop(lambda x: x[0] > 0, lambda x: x, x)
        return jax.lax.scan(lambda x, _: (x, None), x, length=trips)[0]

    step = Nested(kind, equation(loop, jnp.ones(4)), bodies, (0,), (2,), trips)
    return LocalProgram((0,), (step,), (2,)), [Slot((4,), F32)] * 3


def test_a_scan_multiplies_and_the_text_does_not():
    counts = simulate(*nested("scan", (body("all_reduce", "all_reduce"),), 7), {"a": 4}, UNIT).counts
    assert (counts.executed["all_reduce"], counts.static["all_reduce"], counts.per_iteration["all_reduce"]) == (14, 2, 0)


def test_a_while_loop_counts_one_turn_and_says_so():
    counts = simulate(*nested("while", (body("all_reduce"), body("all_reduce", "all_gather")), None), {"a": 4}, UNIT).counts
    assert counts.executed == counts.static == counts.per_iteration
    assert (counts.executed["all_reduce"], counts.executed["all_gather"]) == (2, 1)


def test_what_stands_before_a_while_loop_is_not_of_an_iteration():
    """Where members of a batch leave a loop apart, the condition stands before the loop and at the end of each turn."""
    bodies = body("all_reduce"), body("all_reduce"), body("all_gather")
    counts = simulate(*nested("while", bodies, None), {"a": 4}, UNIT).counts
    assert (counts.executed["all_reduce"], counts.per_iteration["all_reduce"], counts.static["all_reduce"]) == (2, 1, 2)
    assert counts.per_iteration["all_gather"] == 1


def test_a_choice_costs_its_slowest_branch_and_shows_all():
    cost = simulate(*nested("cond", (body("all_gather"), body("all_reduce", "all_reduce"), body()), 1), {"a": 4}, UNIT)
    assert (cost.counts.executed["all_reduce"], cost.counts.executed["all_gather"]) == (2, 0)
    assert (cost.counts.static["all_reduce"], cost.counts.static["all_gather"]) == (2, 1)
    assert cost.seconds == 2 * (2 * 16 * 3 / 4 + 1000)


def peak(function, *args):
    program, slots = local(function, *args)
    return simulate(program, slots, {}, UNIT).peak_bytes


BIG = jax.ShapeDtypeStruct((32, 32), jnp.float32)
B = 4 * 32 * 32


@pytest.mark.parametrize(
    ("function", "blocks"),
    [
        (lambda x: (x * 2 + 1) * 3, 2),  # one loop from argument to result
        (lambda x: x @ x @ x, 3),  # the product between is made
        (lambda x: jnp.sum(x * x) * jnp.ones(()), 1),  # squares are not made
        (lambda x: jnp.exp(x) @ x, 3),  # what a product reads is made
        (lambda x: (x @ x).reshape(1024), 2),  # a view is the product itself
        (lambda x: jnp.exp(x @ x), 2),  # the loop writes where the product lay
    ],
)
def test_peak_memory_by_hand(function, blocks):
    assert peak(function, BIG) == pytest.approx(blocks * B, abs=64)


def test_what_costs_much_is_computed_once():
    shared, _ = local(lambda x: (lambda e: (jnp.sum(e, axis=0), e + 1))(jnp.exp(x)), BIG)
    plan = plan_fusion(shared)
    assert shared.steps[0].equation.primitive.name == "exp"
    assert plan.root[0] == 0
    cheap, slots = local(lambda x: (lambda e: (e * 3, e + 1))(x * 2), BIG)
    assert plan_fusion(cheap).root[0] != 0
    cost = simulate(cheap, slots, {}, UNIT)
    assert cost.flops == 3 * 1024


def test_bytes_of_a_loop_are_what_enters_and_leaves_it():
    program, slots = local(lambda x, y: (x * y + x) * 2, BIG, BIG)
    assert simulate(program, slots, {}, UNIT).bytes == 3 * B


def test_a_dropped_result_costs_nothing():
    program, slots = local(lambda x: x * 2, BIG)
    dead = Compute(equation(jnp.exp, BIG), Rule(lambda e: ()), (), (0,), (2,))
    with_dead = program._replace(steps=(*program.steps, dead))
    costs = simulate(program, slots, {}, UNIT), simulate(with_dead, [*slots, Slot((32, 32), F32)], {}, UNIT)
    assert len({(cost.flops, cost.bytes, cost.seconds, cost.peak_bytes) for cost in costs}) == 1


def test_a_loop_s_own_memory_is_on_top_of_what_lives_around_it():
    def scan(x):
        return jax.lax.scan(lambda c, _: (c @ c @ c, None), x, length=3)[0]

    inner, slots = local(lambda c: c @ c @ c, BIG)
    n = len(slots)
    step = Nested("scan", equation(scan, BIG), (inner,), (n,), (n + 1,), 3)
    program = LocalProgram((n,), (step,), (n + 1,))
    cost = simulate(program, [*slots, slots[0], slots[0]], {}, UNIT)
    assert cost.peak_bytes == 4 * B  # argument, carry, and two products in the body
    assert cost.bytes == 3 * simulate(inner, slots, {}, UNIT).bytes


def test_a_slice_of_a_device_is_fused():
    program, slots = local(lambda x: x + 1, jax.ShapeDtypeStruct((8, 32), jnp.float32))
    n = len(slots)
    keep = Keep(("a",), n, 0, 0)
    cost = simulate(LocalProgram((n,), (keep, *program.steps), program.outputs), [*slots, Slot((32, 32), F32)], {"a": 4}, UNIT)
    assert cost.peak_bytes == B + B // 4


def test_the_curve_is_bounded_and_reaches_the_peak():
    def deep(x):
        for _ in range(1000):
            x = jnp.tanh(x @ x)
        return x

    program, slots = local(deep, BIG)
    cost = simulate(program, slots, {}, UNIT)
    assert len(cost.curve) <= 400
    assert max(live for _, live in cost.curve) == cost.peak_bytes


def example():
    program, slots = only(Collective("all_reduce", ("a",), 0, 1), [(2**20,), (2**20,)], (0,), (1,))
    return simulate(program, slots, {"a": 4}, HARDWARE["a100"])


def test_a_report_reads_with_units():
    report = Report.of("BP", example(), hardware="a100", memory_limit=2**22, notes=[f"note {i}" for i in range(10)])
    text = str(report)
    assert "after BP" in text
    assert "8 MiB of 4 MiB, too much" in text
    assert "6 MiB" in text
    assert "and 2 more: report.notes" in text
    assert not report.fits
    rows = table([report, Report.of("MP", example())]).splitlines()
    assert len({len(row) for row in rows}) == 1
    assert [row.split()[:3] for row in rows[1:]] == [["BP", "0", "1"], ["MP", "0", "1"]]


def test_a_picture_has_a_row_for_each_group_and_the_limit():
    layouts = {"p.layers.0.up": ((), ("m",)), "p.layers.1.up": ((), ("m",)), "o.0": (("b",),), "o.1": ((),), "x": (("b", "m"), ())}
    assert groups(layouts, ("b", "m")) == {"p.layers.*.up": (None, 1), "o.0": (0, None), "o.1": (None, None), "x": (0, 0)}
    figure = plot(layouts, {"b": 4, "m": 2}, Report.of("BP", example(), memory_limit=2**30))
    left, right = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["p.layers.*.up", "o.0", "o.1", "x"]
    assert [text.get_text() for text in left.texts] == ["dim 1", "dim 0", "dim 0", "dim 0"]
    assert "limit" in right.get_legend_handles_labels()[1][-1]


@pytest.mark.slow
def test_calibration_measures_the_devices_at_hand():
    measured = calibrate()
    assert 1e8 < measured.flops < 1e15
    assert 1e7 < measured.memory_bandwidth < 1e13
    assert 1e6 < measured.link_bandwidth < 1e13
    assert 0 < measured.latency < 1
    assert calibrate(jax.devices()[:1]).latency == 0
