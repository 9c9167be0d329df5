"""Every pass, alone, in pairs, in order and all together, against the meaning of the program it was given."""

import importlib
import itertools
import time
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luciole.transforms.autobatch.cost import equations, has_loop
from luciole.transforms.autobatch.ir import Branch, Call, Function, Jump, Program, Return, Slot, interpret, trace_block
from luciole.transforms.autobatch.liveness import analyse, exit_reads
from luciole.transforms.autobatch.passes import ORDER, PASSES, optimise

from . import more_by_hand as more
from .by_hand import fibonacci, greatest_common_divisor, parity
from .random_programs import programs
from .register_machine import run


def ints(*rows):
    return [[jnp.int32(x) for x in row] for row in rows]


VECTOR = [jnp.int32(2), jnp.arange(3, dtype=jnp.float32), jnp.ones(3, jnp.float32)]
CASES = {
    "fibonacci": (fibonacci, ints([0], [6])),
    "parity": (parity, ints([0], [5])),
    "gcd": (greatest_common_divisor, ints([84, 36], [7, 0])),
    "ackermann": (more.ackermann, ints([2, 2], [0, 3])),
    "swaps": (more.swaps, ints([0, 5], [3, 5])),
    "chain": (more.chain, ints([4])),
    "countdown": (more.countdown, ints([5, 2, 9], [0, 1, 2])),
    "dead": (more.dead, ints([3])),
    "diamonds": (more.diamonds, ints([3], [8], [7], [-1])),
    "clobber": (more.clobber, ints([4, 2])),
    "vectors": (more.vectors, [VECTOR]),
    "guarded": (more.guarded, ints([5], [4])),
    "kept": (more.kept, ints([4])),
    "bounded": (more.bounded, ints([0], [3], [9])),
}
PIPELINES = [(), *((name,) for name in PASSES), *itertools.permutations(PASSES, 2)]


def check(original, passes, inputs):
    """The rewritten program means the same, to `interpret` and on registers."""
    rewritten = optimise(original, passes)
    for arguments in inputs:
        expected = interpret(original, arguments)
        for found in (interpret(rewritten, arguments), run(rewritten, arguments)):
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-6, err_msg=f"{passes}\n{rewritten}")
    return rewritten


@pytest.mark.parametrize("name", CASES)
def test_all_passes_together(name):
    make, inputs = CASES[name]
    once = check(make(), ORDER, inputs)
    check(once, ORDER, inputs)
    check(make(), tuple(reversed(ORDER)), inputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_passes_alone_and_in_pairs(name):
    make, inputs = CASES[name]
    original = make()
    for passes in PIPELINES:
        check(original, passes, inputs[-1:])


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(programs, st.lists(st.sampled_from(list(PASSES)), max_size=5))
def test_random_programs(original, passes):
    check(original, passes, ints([2, 3, 1]))
    check(original, (*ORDER, *passes), ints([2, 3, 1]))


@pytest.mark.parametrize("passes", [(), ORDER])
def test_no_saved_slot_can_be_spared(passes):
    """The broken twin of `saved`: with any one slot less, some result is wrong."""
    original = optimise(more.clobber(), passes)
    found, (arguments,) = analyse(original), ints([4, 2])
    right = int(interpret(original, arguments)[0])
    saved = [(block, slot) for block, slots in found.saved.items() for slot in slots]
    assert len(saved) >= 3
    for block, slot in saved:
        fewer = {**found.saved, block: tuple(s for s in found.saved[block] if s != slot)}
        assert int(run(original, arguments, replace(found, saved=fewer))[0]) != right, (block, slot)


def without_interference(program, function, codes):
    exits = {slot for block in function.blocks.values() for slot in exit_reads(block.exit)}
    return {slot: set() for slot in exits.union(function.parameters, function.results, *((*c.inputs, *c.outputs) for c in codes.values()))}


BROKEN = {
    "coalesce without interference": ("coalesce", "_interference", without_interference, more.swaps),
    "propagate_copies of one path": ("copies", "_meet", lambda one, other: {**one, **other}, more.swaps),
    "inline over an earlier result": ("inline", "_overwrites_results", lambda *_: False, more.kept),
    "merge_tests that selects one way": ("merge_tests", "_select", lambda predicate, *values: values[: len(values) // 2], more.diamonds),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_pass_is_noticed(name, monkeypatch):
    file, function, broken, make = BROKEN[name]
    inputs = CASES[make.__name__][1]
    check(make(), name.split()[:1], inputs)
    monkeypatch.setattr(importlib.import_module(f"luciole.transforms.autobatch.passes.{file}"), function, broken)
    with pytest.raises((AssertionError, KeyError)):
        check(make(), name.split()[:1], inputs)


def test_a_way_that_may_not_end_is_not_taken_by_those_who_took_the_other():
    rewritten = optimise(more.diamonds())
    assert any(has_loop(block.jaxpr) for block in rewritten.blocks.values())
    assert len(rewritten.blocks) == 3  # all the branches but that one are selects


def test_the_heavy_leaf_stays_at_one_site():
    """A function that holds the heaviest block is copied nowhere, though it is called from two places."""
    rewritten = optimise(more.vectors())
    assert "leaf" in rewritten.functions
    assert sum("dot_general" in str(block.jaxpr) for block in rewritten.blocks.values()) == 1


def test_an_argument_that_never_changes_is_never_saved():
    found = analyse(optimise(more.vectors()))
    assert not any(slot.name == "build.e" for slots in found.saved.values() for slot in slots)


def test_a_self_tail_call_is_a_loop():
    rewritten = optimise(more.countdown())
    assert not any(isinstance(block.exit, Call) for block in rewritten.blocks.values())


def test_what_nobody_wants_is_gone():
    rewritten = optimise(more.dead())
    assert list(rewritten.functions) == ["dead"]
    assert not any("waste" in str(slot) for block in rewritten.blocks.values() for slot in (*block.reads, *block.writes))


def test_a_loop_that_begins_with_a_known_test_does_not_make_it():
    rewritten = optimise(more.bounded())
    assert len(rewritten.blocks) < len(more.bounded().blocks)
    assert rewritten.blocks["nest:begin"].exit == Jump("nest:body")  # 0 < 3
    assert isinstance(rewritten.blocks["nest:next"].exit, Branch)  # the loop ends with its test


def test_passes_over_a_thousand_equations_take_little_time():
    def blocks():
        for i in range(20):
            yield trace_block(f"b{i}", "f", i, long, [x], [x], Jump(f"b{i + 1}"))
        yield trace_block("b20", "f", 20, lambda: [], [], [], Return((x,)))

    def long(value):
        for _ in range(25):
            value = jnp.sin(value) * 2
        return [value]

    x, result = (Slot(name, (), np.dtype(np.float32)) for name in ("x", "result"))
    original = Program({"f": Function("f", (x,), (result,), "b0", {b.name: b for b in blocks()})}, "f")
    begin = time.process_time()
    rewritten = optimise(original)
    assert time.process_time() - begin < 0.5
    (block,) = rewritten.blocks.values()
    assert equations(block.jaxpr) == 1000


def test_slots_written_together_with_one_value_become_one():
    i, one, other, go = (
        Slot(f"t.{name}", (), jnp.dtype(dtype)) for name, dtype in [("i", "i4"), ("one", "i4"), ("other", "i4"), ("go", "bool")]
    )

    def twice(value):
        return [value, value]

    blocks = [
        trace_block("t", "t", 1, lambda i: twice(i * 2), [i], [one, other], Jump("t.test")),
        trace_block("t.test", "t", 1, lambda i: [i > 0], [i], [go], Branch(go, "t.step", "t.end")),
        trace_block("t.step", "t", 2, lambda i, x: [i - 1, *twice(x + i)], [i, one], [i, one, other], Jump("t.test")),
        trace_block("t.end", "t", 3, lambda: [], [], [], Return((other,))),
    ]
    function = Function("t", (i,), (Slot("t.result", (), jnp.dtype("i4")),), "t", {b.name: b for b in blocks})
    rewritten = check(Program({"t": function}, "t"), ("coalesce", "eliminate_dead_code"), ints([0], [4]))
    assert len(rewritten.blocks["t.step"].writes) == 2
