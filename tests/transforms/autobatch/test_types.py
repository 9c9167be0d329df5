"""Types where paths meet, assignment before reading, and what is known before a program runs."""

import linecache
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from luciole.transforms import ProgramError, program
from luciole.transforms.autobatch.front import lower
from luciole.transforms.autobatch.ir import Branch, Call, evaluate, interpret
from luciole.transforms.autobatch.lattice import Array, Known, Mismatch, Value, join

from .programs import build, fib, nuts_like, weak_types
from .test_front import assert_same, compiled

F32, I32, U32, BF16 = (np.dtype(t) for t in (np.float32, np.int32, np.uint32, jnp.bfloat16))
LEAF = jax.tree.structure(0)


def value(leaf):
    return Value(LEAF, ("",), (leaf,))


def array(dtype, weak=False, shape=()):
    return Array(shape, dtype, weak)


@pytest.mark.parametrize(
    ("a", "b", "joined"),
    [
        (array(U32), array(I32, weak=True), array(U32)),
        (array(BF16), array(F32, weak=True), array(BF16)),
        (array(I32), array(F32, weak=True), array(F32, weak=True)),
        (array(I32, weak=True), array(F32, weak=True), array(F32, weak=True)),
        (array(I32), array(I32, weak=True), array(I32)),
        (array(np.dtype(bool)), array(I32, weak=True), array(I32, weak=True)),
        (Known(3), Known(3), Known(3)),
        (Known(3), Known(4), array(I32, weak=True)),
        (Known(1), Known(True), array(I32, weak=True)),
        (Known(1), Known(0.5), array(F32, weak=True)),
        (Known(0.0), Known(-0.0), array(F32, weak=True)),
        (Known(float("nan")), Known(float("nan")), Known(float("nan"))),
        (Known(7), array(U32), array(U32)),
        (Known(True), array(U32), array(U32)),
        (Known("a"), Known("a"), Known("a")),
    ],
)
def test_join(a, b, joined):
    for left, right in ((a, b), (b, a)):
        assert join(value(left), value(right)) == value(joined)
    assert join(value(joined), value(a)) == value(joined)


def test_no_join():
    for a, b, message in (
        (array(F32), array(I32), "dtypes differ"),
        (array(F32), array(F32, shape=(3,)), "shapes differ"),
        (Known(1.0), array(F32, shape=(3,)), "shapes differ"),
        (Known("a"), Known("b"), "no numbers"),
        (Known("a"), array(F32), "no numbers"),
    ):
        with pytest.raises(Mismatch, match=message):
            join(value(a), value(b))
    with pytest.raises(Mismatch, match="structures differ"):
        join(value(Known(1)), Value(jax.tree.structure(()), (), ()))


@program
def two_dtypes(x, n):
    y = jnp.float32(1)
    if n > 0:
        y = n
    return y + x


@program
def two_shapes(x, n):
    y = x
    while n > 0:
        y = jnp.stack([y, y])
        n = n - 1
    return y.sum()


@program
def two_structures(x, n):
    y = (x, n)
    if n > 0:
        y = {"x": x, "n": n}
    return len(y)


@program
def results_differ(x, n):
    if n > 0:
        return x
    return n


@program
def callee(x):
    if x.sum() < 0:
        return x.sum()
    return callee(x - 1)


@program
def parameters_differ(x, n):
    return callee(x) + callee(jnp.stack([x, x]))


def lines(function, *texts):
    """Numbers of the lines of a program's function with these texts."""
    source = linecache.getlines(__file__)
    first = function.function.__code__.co_firstlineno
    return [next(i for i in range(first, len(source) + 1) if source[i - 1].strip() == text) for text in texts]


CLASHES = [
    (two_dtypes, "`y` has two types where paths meet: the dtypes differ", ("float32[]", "int32[]"), ("y = jnp.float32(1)", "y = n")),
    (two_shapes, "`y` has two types .* the shapes differ", ("float32[]", "float32[2]"), ("y = x", "y = jnp.stack([y, y])")),
    (
        two_structures,
        "`y` has two types .* structures differ",
        ("(float32[], int32[])", "{'n': int32[], 'x': float32[]}"),
        ("y = (x, n)", 'y = {"x": x, "n": n}'),
    ),
    (results_differ, "the result of results_differ has two types", ("float32[]", "int32[]"), ("return x", "return n")),
    (
        parameters_differ,
        "parameter `x` of callee has two types .* shapes differ",
        ("float32[]", "float32[2]"),
        ("return callee(x) + callee(jnp.stack([x, x]))",) * 2,
    ),
]


@pytest.mark.parametrize(("function", "what", "types", "texts"), CLASHES, ids=[c[0].name for c in CLASHES])
def test_a_clash_names_the_variable_both_types_and_both_lines(function, what, types, texts):
    with pytest.raises(ProgramError) as caught:
        lower(function, jnp.float32(1), jnp.int32(2))
    text = str(caught.value)
    assert re.search(what, text), text
    for kind, line, source in zip(types, lines(function, *texts), texts, strict=True):
        assert f"{kind}  from {__file__}:{line}: {source}" in text


@program
def unassigned(n):
    if n > 0:
        y = n
    while n < 3:
        n = n + 1
    return n + y


@program
def unassigned_by_loop(n):
    for i in range(n):
        y = i
    return y


@program
def assigned_by_loop(n):
    while True:
        y = n * 2
        if y > 3:
            break
        n = n + 1
    for i in range(2):
        z = y + i
    return y + z + i


@program
def never_assigned(n):
    n = n + later  # noqa: F821
    later = n
    return later


def test_reading_before_assignment():
    (line, test) = lines(unassigned, "return n + y", "if n > 0:")
    path = rf"the path line {test} \(`if n > 0:`\) not taken, then"
    with pytest.raises(ProgramError, match=rf":{line}: in program unassigned: `y` may be read here before it is assigned: .* {path}"):
        lower(unassigned, 1)
    (test,) = lines(unassigned_by_loop, "for i in range(n):")
    with pytest.raises(ProgramError, match=rf"`y` may be read here .* the path line {test} \(`for i in range\(n\):`\) not taken"):
        lower(unassigned_by_loop, 1)
    with pytest.raises(ProgramError, match="`later` may be read here"):
        lower(never_assigned, 1)


def test_a_loop_that_surely_runs_assigns():
    for n in (1, 5):
        assert_same(compiled(lower(assigned_by_loop, n), (n,)), assigned_by_loop(n))


VERBOSE = False


@program
def folded(x, mode="sum", size=3):
    shape = (size,)
    if VERBOSE:
        y = undefined  # noqa: F821
    if mode == "sum":
        y = jnp.ones(shape) * x
    while y.sum() < 20:
        y = y + jnp.ones(shape)
    return y if size == 3 else y.mean()


def test_known_tests_fold():
    lowered = lower(folded, jnp.float32(2))
    assert_same(compiled(lowered, (jnp.float32(2),)), folded(jnp.float32(2)))
    branches = [b for b in lowered.program.blocks.values() if isinstance(b.exit, Branch)]
    assert len(branches) == 1
    assert {s.name for s in lowered.program.functions["folded"].parameters} == {"folded.x"}
    assert not any("size" in str(s) or "mode" in str(s) for b in lowered.program.blocks.values() for s in (*b.reads, *b.writes))


def test_weak_types_stay():
    lowered = lower(weak_types, jnp.bfloat16(1), jnp.uint32(1), jnp.int32(1))
    assert [s.type for s in lowered.program.functions["weak_types"].results] == ["bfloat16[]", "uint32[]"]


@program
def big(n):
    mask = 0xFFFFFFFF
    if n > 3:
        mask = 1
    return n & mask


def test_a_number_takes_the_type_it_is_used_at_or_is_refused():
    with pytest.raises(OverflowError):
        big(jnp.int32(2))
    with pytest.raises(ProgramError, match=r"big.mask has type int32\[\], and 4294967295 does not fit"):
        lower(big, jnp.int32(2))


@program
def doubles(x):
    if x > 0:
        return 1
    return 0.5


def test_two_kinds_of_numbers_are_promoted():
    lowered = lower(doubles, jnp.float32(2))
    assert lowered.program.functions["doubles"].results[0].type == "float32[]"
    assert interpret(lowered.program, [jnp.float32(2)])[0] == 1.0


def test_x64(x64):
    lowered = lower(fib, 3)
    assert lowered.program.functions["fib"].results[0].type == "int64[]"
    assert compiled(lowered, (10,)) == 55


def test_what_only_passes_through_is_not_written():
    program = lower(nuts_like, *(jnp.ones(6), jnp.ones(6), jnp.float32(0.1), jnp.zeros(2, jnp.uint32))).program
    function = program.functions["build"]
    invariant = {s for s in function.parameters if s.name in ("build.step", "build.forward", "build.start_energy")}
    assert len(invariant) == 3
    for block in function.blocks.values():
        assert not invariant & set(block.writes)
        if isinstance(block.exit, Call):
            assert invariant <= set(block.exit.arguments)


def test_each_block_is_traced_once():
    for function, arguments in ((fib, (3,)), (nuts_like, (jnp.ones(6), jnp.ones(6), jnp.float32(0.1), jnp.zeros(2, jnp.uint32)))):
        lowered = lower(function, *arguments)
        assert lowered.typing.traces == len(lowered.program.blocks)


def test_unread_parameters_and_results_are_left_out():
    @program
    def inner(a, b):
        if a > 0:
            return a, b, inner(a - 1, b)[0]
        return a, b, a

    @program
    def outer(a, b):
        return inner(a, b)[2]

    lowered = lower(outer, jnp.int32(3), jnp.float32(1))
    assert len(lowered.program.functions["outer"].parameters) == 2
    assert [s.name for s in lowered.program.functions["inner"].parameters] == ["inner.a"]
    assert [s.name for s in lowered.program.functions["inner"].results] == ["inner().0", "inner().2"]
    assert compiled(lowered, (jnp.int32(3), jnp.float32(1))) == outer(jnp.int32(3), jnp.float32(1))


def test_closed_over_tracers_become_constants():
    @jax.jit
    def outer(x):
        factor = x * 2

        @program
        def scaled(n):
            if n == 0:
                return factor
            return factor * scaled(n - 1)

        last = list(lower(scaled, 3).program.blocks.values())[-1]
        assert any(isinstance(c, jax.core.Tracer) for c in last.consts)
        return evaluate(last, [x])[0]

    assert outer(3.0) == 18.0


def test_two_functions_of_one_name():
    def make(step):
        @program
        def count(n):
            return 0 if n <= 0 else 1 + count(n - step)

        return count

    one, two = make(1), make(2)

    @program
    def both(n):
        return one(n), two(n)

    lowered = lower(both, 6)
    assert len(lowered.program.functions) == 3
    assert_same(compiled(lowered, (6,)), both(6))


def test_each_stage_prints():
    lowered = lower(build, *_build_arguments())
    graph = next(iter(lowered.typing.functions.values())).graph
    assert "call build(start, depth - 1, forward, step, start_energy, words) then build.build@" in str(graph)
    assert "left: Tree(first=Phase(position=float32[6], momentum=float32[6])" in str(lowered.typing)
    assert "branch build.if:" in str(lowered.program)


def _build_arguments():
    x = jax.ShapeDtypeStruct((6,), F32)
    scalar = jax.ShapeDtypeStruct((), F32)
    start = nuts_like.function.__globals__["Phase"](x, x)
    return start, jax.ShapeDtypeStruct((), I32), jax.ShapeDtypeStruct((), bool), scalar, scalar, jax.ShapeDtypeStruct((2,), U32)
