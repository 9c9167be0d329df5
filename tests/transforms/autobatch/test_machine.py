"""The machine: schedule, overflow, statistics, and what XLA makes of it."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from luciole.transforms import ProgramError, program
from luciole.transforms.autobatch.api import autobatch
from luciole.transforms.autobatch.frames import lower_calls
from luciole.transforms.autobatch.ir import Branch, Call, Function, Jump, Program, Return, Slot, trace_block
from luciole.transforms.autobatch.liveness import analyse
from luciole.transforms.autobatch.masked import fed_to_loops, in_place, run_block
from luciole.transforms.autobatch.program_counter import build_machine
from luciole.transforms.autobatch.schedule import plan
from luciole.transforms.autobatch.scratch import scratch
from luciole.transforms.equations import CALLS, body_of
from luciole.transforms.jax_compat import Primitive, assemble_jaxpr

from .by_hand import BOOL, I32, fibonacci, greatest_common_divisor
from .programs_by_hand import F32, cases, loop_inside, updates


def descent(n: int = 100, rows: int = 50) -> Program:
    """A loop with a product of a shared matrix as its heavy block, and a buffer of which it writes one row per round."""
    q, m, buffer, i, count, go = (
        Slot("d.q", (n,), F32),
        Slot("d.m", (n, n), F32),
        Slot("d.buffer", (rows, n), F32),
        Slot("d.i", (), I32),
        Slot("d.count", (), I32),
        Slot("d.go", (), BOOL),
    )
    results = (Slot("d.r0", (rows, n), F32), Slot("d.r1", (n,), F32))
    blocks = [
        trace_block("d", "d", 1, lambda: [jnp.int32(0)], [], [i], Jump("d.test")),
        trace_block("d.test", "d", 1, lambda i, c: [i < c], [i, count], [go], Branch(go, "d.step", "d.end")),
        trace_block("d.step", "d", 2, lambda m, q: [q - 0.1 * (m @ q)], [m, q], [q], Jump("d.keep")),
        trace_block("d.keep", "d", 3, lambda b, i, q: [b.at[i].set(q), i + 1], [buffer, i, q], [buffer, i], Jump("d.test")),
        trace_block("d.end", "d", 4, lambda: [], [], [], Return((buffer, q))),
    ]
    return Program({"d": Function("d", (q, m, buffer, count), results, "d", {b.name: b for b in blocks})}, "d")


def test_the_heavy_block_and_the_order_around_it():
    program = descent()
    schedule = plan(lower_calls(program, analyse(program)))
    text = str(schedule)
    assert "heavy: d.step" in text
    assert "prologue: d\n" in text
    assert "tick: d.keep | d.test | d.step" in text
    assert "epilogue: d.end" in text
    assert schedule.unroll == 1 and schedule.share > 0.55


def test_a_light_block_is_run_twice_per_tick():
    program = greatest_common_divisor()
    frames = lower_calls(program, analyse(program))
    assert plan(frames, unroll=3).unroll == 3
    assert plan(lower_calls(fibonacci(), analyse(fibonacci()))).unroll == 2


def test_recognised_updates():
    body = updates().blocks["u.body"]
    assert {str(body.writes[n]) for n in in_place(body)} == {"u.a", "u.b", "u.c"}
    rounds = loop_inside().blocks["l.body"]
    assert fed_to_loops(rounds.jaxpr) == {0}
    assert fed_to_loops(body.jaxpr) is None


@pytest.mark.parametrize("name", CALLS)
def test_updates_are_recognised_inside_every_kind_of_call(name):
    a, i = Slot("c.a", (3,), F32), Slot("c.i", (), I32)
    write = jax.jit(lambda a, i: a.at[i].set(a[i] + 1.0))
    block = trace_block("c", "c", 1, lambda a, i: [write(a, i)], [a, i], [a], Return((a,)))
    (call,) = block.jaxpr.eqns
    call = call.replace(primitive=Primitive(name), params={CALLS[name]: body_of(call)})
    called, _ = assemble_jaxpr(block.jaxpr, {}, block.jaxpr.invars, block.jaxpr.outvars, [call])
    block = replace(block, jaxpr=called)
    assert in_place(block) == {0}
    on, values = np.array([True, False]), [np.zeros((2, 3), np.float32), np.array([1, 2], np.int32)]
    assert run_block(block, on, values, [True, True], [0])[0].tolist() == [[0, 1, 0], [0, 0, 0]]


def test_the_frames_print():
    text = str(lower_calls(fibonacci(), analyse(fibonacci())))
    assert "pop fib(fib.first, fib.return)" in text
    assert "registers: fib.n, fib.result, fib.return" in text


def test_only_members_that_go_too_deep_are_stopped():
    depth = np.array([1, 5, 60], np.int32)
    machine = build_machine(fibonacci_line(), max_depth=8)
    state = jax.jit(lambda n: machine.advance(machine.start([n])))(depth)
    assert machine.overflow(state).tolist() == [0, 0, 1]
    assert machine.halted(state).all()
    assert machine.results(state)[0][:2].tolist() == [1, 5]


def fibonacci_line() -> Program:
    """count(n) = 0 if n == 0 else 1 + count(n - 1): depth n + 1."""
    n, result, less, total = (Slot(f"count.{name}", (), I32) for name in ("n", "result", "less", "total"))
    test = Slot("count.test", (), BOOL)
    blocks = [
        trace_block("count", "count", 1, lambda n: [n == 0], [n], [test], Branch(test, "count.base", "count.call")),
        trace_block("count.base", "count", 1, lambda: [jnp.int32(0)], [], [total], Return((total,))),
        trace_block("count.call", "count", 2, lambda n: [n - 1], [n], [less], Call("count", (less,), "count.add")),
        trace_block("count.add", "count", 2, lambda r: [r + 1], [result], [total], Return((total,))),
    ]
    return Program({"count": Function("count", (n,), (result,), "count", {b.name: b for b in blocks})}, "count")


@pytest.mark.parametrize("strategy", ["program_counter", "local_static"])
def test_overflow_names_the_function_the_depth_and_the_members(strategy):
    run = autobatch(fibonacci_line(), strategy, max_depth=8)
    assert run(np.array([0, 7], np.int32))[0].tolist() == [0, 7]
    with pytest.raises(ProgramError, match=r"count: more than 8 calls are open at once in members 2, 3 of the batch; raise max_depth=8"):
        run(np.array([1, 5, 60, 8], np.int32))


def test_overflow_under_a_trace_is_nan():
    n, x, y, r = Slot("f.n", (), I32), Slot("f.x", (), F32), Slot("f.y", (), F32), Slot("f.r", (), F32)
    less, test = Slot("f.less", (), I32), Slot("f.test", (), BOOL)
    blocks = [
        trace_block("f", "f", 1, lambda n: [n == 0], [n], [test], Branch(test, "f.base", "f.call")),
        trace_block("f.base", "f", 1, lambda: [], [], [], Return((x,))),
        trace_block("f.call", "f", 2, lambda n, x: [n - 1, x * 2], [n, x], [less, y], Call("f", (less, y), "f.back")),
        trace_block("f.back", "f", 2, lambda r: [r + 1], [r], [y], Return((y,))),
    ]
    program = Program({"f": Function("f", (n, x), (r,), "f", {b.name: b for b in blocks})}, "f")
    out = jax.jit(autobatch(program, max_depth=4))(np.array([0, 3, 4], np.int32), np.ones(3, np.float32))[0]
    np.testing.assert_array_equal(out, [1.0, 11.0, np.nan])


def test_no_stack_at_all():
    run = autobatch(fibonacci_line(), max_depth=1)
    assert run(np.array([0, 0], np.int32))[0].tolist() == [0, 0]
    with pytest.raises(ProgramError, match="member 1 of the batch"):
        run(np.array([0, 1], np.int32))


def test_statistics_known_in_closed_form():
    """Member b goes n_b rounds: the heavy block runs for the sum of n members, max n times and once when all find that they are done."""
    counts = np.array([1, 4, 8, 3], np.int32)
    q, m = np.ones((4, 100), np.float32), np.eye(100, dtype=np.float32)
    arguments = (q, m, np.zeros((4, 50, 100), np.float32), counts)
    stats = autobatch(descent(), in_axes=(0, None, 0, 0)).stats(*arguments, trace=True)
    assert stats.heavy == "d.step"
    heavy = stats.blocks["d.step"]
    assert (heavy.executions, heavy.members) == (9, 16)
    assert stats.utilisation == heavy.utilisation == 16 / (9 * 4)
    assert stats.blocks["d.end"].members == 4
    np.testing.assert_allclose(stats.trace, [1, 0.75, 0.75, 0.5, 0.25, 0.25, 0.25, 0.25, 0])
    plain = autobatch(descent(), "local_static", in_axes=(0, None, 0, 0)).stats(*arguments)
    assert plain.blocks["d.step"].members == 16
    assert "d.step" in str(stats) and "heavy" in str(stats)


def test_counting_costs_nothing_unless_asked_for():
    program, arguments = cases()["fibonacci"]
    assert not {"runs", "members"} & set(build_machine(program).start(arguments))
    machine = build_machine(program)
    state = machine.start(arguments)
    with pytest.raises(ProgramError, match="count=True"):
        machine.counts(state)


@pytest.mark.parametrize("unroll", [1, 2])
def test_a_large_buffer_is_not_copied_in_a_tick(unroll):
    machine = build_machine(descent(), (False, True, False, False), unroll=unroll)
    arguments = [
        np.ones((16, 100), np.float32),
        np.eye(100, dtype=np.float32),
        np.zeros((16, 50, 100), np.float32),
        np.arange(16, dtype=np.int32),
    ]
    state = machine.start(arguments)
    text = jax.jit(machine.advance).lower(state, [arguments[1]]).compile().as_text()
    assert not [line for line in loop_bodies(text) if re.search(r"= f32\[16,50,100\]\S* (copy|select)\(", line)]
    assert [line for line in loop_bodies(text) if "f32[16,50,100]" in line]


def test_stacks_are_not_copied_in_a_tick():
    program, arguments = cases()["tree_sum"]
    machine = build_machine(program, max_depth=33)
    text = jax.jit(machine.advance).lower(machine.start(arguments)).compile().as_text()
    assert not [line for line in loop_bodies(text) if re.search(r"= f32\[4,32,3\]\S* copy\(", line)]


def loop_bodies(text: str) -> list[str]:
    """Lines of the computations that are bodies of loops, in an optimized program."""
    names = set(re.findall(r" while\(.*?body=%?([\w.\-]+)", text))
    found, inside = [], False
    for line in text.split("\n"):
        if line and not line.startswith((" ", "}")):
            inside = re.sub(r"^(ENTRY )?%?([\w.\-]+).*", r"\2", line) in names
        elif inside:
            found.append(line)
    return found


def test_wrong_calls_are_explained():
    program = greatest_common_divisor()
    a, b = np.array([4, 6], np.int32), np.array([2, 3], np.int32)
    with pytest.raises(ProgramError, match=r"strategy='fast' is none of 'program_counter', 'local_static'"):
        autobatch(program, "fast")
    with pytest.raises(ProgramError, match="in_axes has 3 entries for 2 positional arguments"):
        autobatch(program, in_axes=(0, 0, 0))(a, b)
    with pytest.raises(ProgramError, match=r"disagree on the size of the batch: array 0 has 2, array 1 has 1"):
        autobatch(program)(a, b[:1])
    with pytest.raises(ProgramError, match="no argument has a batch axis"):
        autobatch(program, in_axes=None)(a[0], b[0])
    with pytest.raises(ProgramError, match=r"axis 1 is the batch"):
        autobatch(program, in_axes=1)(a, b)
    with pytest.raises(ProgramError, match="every entry is an integer or None"):
        autobatch(program, in_axes=(0, 0.5))(a, b)
    with pytest.raises(ProgramError, match="is no prefix of that argument"):
        autobatch(program, in_axes=(0, (0, 0)))(a, b)
    with pytest.raises(ProgramError, match=r"gcd.a is int32\[\] for one member, float32\[\] was given"):
        autobatch(program)(a.astype(np.float32), b)
    with pytest.raises(ProgramError, match="the batch is empty"):
        autobatch(program)(a[:0], b[:0])
    with pytest.raises(ProgramError, match="is no program"):
        autobatch(lambda x: x)(a)
    with pytest.raises(ProgramError, match="max_depth=0"):
        autobatch(program, max_depth=0)
    with pytest.raises(ProgramError, match="cannot be traced"):
        jax.jit(autobatch(program, "local_static"))(a, b)


def test_a_second_call_compiles_nothing():
    run = autobatch(greatest_common_divisor())
    a, b = np.array([4, 6], np.int32), np.array([2, 3], np.int32)
    run(a, b)
    events = []
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: events.append(name))
    run(b, a)
    assert not [name for name in events if "backend_compile" in name]


@pytest.mark.parametrize(("members", "length", "first"), [(4, 100, "matrix"), (128, 100, "vector"), (4, 25, "vector")])
def test_a_shared_matrix_is_multiplied_in_the_faster_order(members, length, first):
    step = descent(length).blocks["d.step"]
    matrix, vectors = np.random.default_rng(0).normal(size=(length, length)), np.random.default_rng(1).normal(size=(members, length))
    on = jnp.ones(members, bool)

    def run(matrix, vectors):
        return run_block(step, on, [matrix, vectors], [False, True], [0])[0]

    found = jax.jit(run)(jnp.float32(matrix), jnp.float32(vectors))
    np.testing.assert_allclose(found, vectors - 0.1 * vectors @ matrix.T, rtol=1e-4, atol=1e-4)
    (product,) = [e for e in jax.make_jaxpr(run)(jnp.float32(matrix), jnp.float32(vectors)).eqns if e.primitive.name == "dot_general"]
    assert product.invars[0].aval.shape == ((length, length) if first == "matrix" else (members, length))


@pytest.mark.parametrize("strategy", ["program_counter", "local_static"])
def test_room_that_is_not_filled_beside_a_table(strategy):
    """`scratch` is taken out of a block that has constants of its own, and what is read was written."""
    table = jnp.arange(4, dtype=jnp.float32) + 1

    @program
    def powers(x, count):
        room = scratch((4,), jnp.float32)
        value = x * table[count]
        i = 0
        while i < count:
            room = room.at[i].set(value)
            value = value * x
            i += 1
        total = jnp.float32(0)
        while i > 0:
            i -= 1
            total = total + room[i] * table[i]
        return total

    x, count = np.float32([1, 2, 0.5]), np.int32([2, 3, 0])
    found = autobatch(powers, strategy=strategy)(x, count)
    np.testing.assert_allclose(found, [powers(a, b) for a, b in zip(x, count, strict=True)], rtol=1e-6)
