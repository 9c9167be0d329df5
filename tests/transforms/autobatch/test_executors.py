"""Both executors against the meaning of the programs, member by member."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from luciole.transforms.autobatch.api import autobatch
from luciole.transforms.autobatch.ir import interpret
from luciole.transforms.autobatch.program_counter import build_machine

from .programs import EXAMPLES
from .programs_by_hand import cases

CASES = cases()


def few(names, *quick):
    """All names, those that are not `quick` in slow runs only."""
    assert set(quick) <= set(names)
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


def reference(program, arguments):
    """What `interpret` says, with the batch axis leading."""
    size = arguments[0].shape[0]
    members = [interpret(program, [jnp.asarray(a[i]) for a in arguments]) for i in range(size)]
    return [np.stack([np.asarray(m[k]) for m in members]) for k in range(len(members[0]))]


def agree(results, expected):
    for result, one in zip(results, expected, strict=True):
        assert result.dtype == one.dtype
        np.testing.assert_allclose(result, one, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_local_static(name):
    program, arguments = CASES[name]
    agree(autobatch(program, "local_static")(*arguments), reference(program, arguments))


@pytest.mark.parametrize("unroll", [None, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 3))])
@pytest.mark.parametrize("name", CASES)
def test_program_counter(name, unroll):
    program, arguments = CASES[name]
    agree(autobatch(program, unroll=unroll)(*arguments), reference(program, arguments))


@pytest.mark.parametrize("name", few(CASES))
def test_any_block_may_be_the_heavy_one(name):
    program, arguments = CASES[name]
    expected = reference(program, arguments)
    for block in program.blocks:
        machine = build_machine(program, heavy=block, unroll=2)
        results = jax.jit(lambda *a, machine=machine: machine.results(machine.advance(machine.start(a))))(*arguments)
        agree(results, expected)


@pytest.mark.parametrize("name", few(CASES, "fibonacci", "updates"))
def test_ticks_may_be_cut_anywhere(name):
    program, arguments = CASES[name]
    machine = build_machine(program, unroll=2)
    advance = jax.jit(machine.advance)
    state, calls = machine.start(arguments), 0
    while not bool(machine.halted(state).all()):
        state, calls = advance(state, (), np.int32(3)), calls + 1
        assert calls < 10_000
    agree(machine.results(state), reference(program, arguments))


@pytest.mark.parametrize("name", few(CASES))
def test_compaction_changes_nothing(name):
    program, arguments = CASES[name]
    wide = tuple(np.concatenate([a, a, a]) for a in arguments)
    agree(autobatch(program, compact=True)(*wide), [np.concatenate([r, r, r]) for r in reference(program, arguments)])


def test_under_jit():
    program, arguments = CASES["tree_sum"]
    agree(jax.jit(autobatch(program))(*arguments), reference(program, arguments))


def test_shared_arguments_need_no_register():
    program, arguments = CASES["tree_sum"]
    arguments = list(arguments)
    arguments[2] = arguments[2][0]
    whole = [*arguments[:2], np.broadcast_to(arguments[2], (4, 3)), *arguments[3:]]
    for strategy in ("program_counter", "local_static"):
        agree(autobatch(program, strategy, in_axes=(0, 0, None, 0, 0))(*arguments), reference(program, whole))
    lowered = autobatch(program, in_axes=(0, 0, None, 0, 0)).lower(*arguments)
    assert "w.w" not in {str(slot) for slot in lowered.frames.registers}


def test_a_shared_argument_that_the_program_changes():
    program, (n, x) = CASES["helper_twice"]
    whole = [n, np.full(4, 2.5, np.float32)]
    agree(autobatch(program, in_axes=(0, None))(n, np.float32(2.5)), reference(program, whole))
    del x


def test_other_axes():
    program, arguments = CASES["straight"]
    expected = reference(program, arguments)
    agree(autobatch(program, in_axes=1)(arguments[0].T), expected)
    agree(autobatch(program, in_axes=(-1,))(arguments[0].T), expected)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", few(CASES, "fibonacci", "updates"))
def test_with_x64_on(name):
    program, arguments = cases()[name]
    agree(autobatch(program)(*arguments), reference(program, arguments))


def test_forward_derivative():
    program, (n, x, w, log, count) = CASES["tree_sum"]
    run = autobatch(program)

    def batched(x, w, log):
        return run(n, x, w, log, count)[:2]

    def single(x, w, log):
        members = [interpret(program, [jnp.asarray(v) for v in (n[i], x[i], w[i], log[i], count[i])])[:2] for i in range(4)]
        return [jnp.stack(leaf) for leaf in zip(*members, strict=True)]

    out, tangent = jax.jvp(batched, (x, w, log), (w, x, log))
    expected, slope = jax.jvp(single, (x, w, log), (w, x, log))
    agree(out, expected)
    for a, b in zip(tangent, slope, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["tree_sum", "loop_inside", "updates", "gcd"])
def test_inside_shard_map(name):
    program, arguments = CASES[name]
    arguments = [a[:4] for a in arguments]
    mesh = jax.make_mesh((2,), ("members",), devices=jax.devices()[:2], axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("members")
    run = jax.shard_map(autobatch(program), mesh=mesh, in_specs=spec, out_specs=spec)
    agree(jax.jit(run)(*arguments), reference(program, arguments))


def test_members_restart_while_others_go_on():
    program, _ = CASES["fibonacci"]
    machine = build_machine(program)
    advance, restart = jax.jit(machine.advance), jax.jit(machine.restart)
    todo = [[3, 5, 1], [9], [2, 2, 6, 4]]
    inputs = np.array([t[0] for t in todo], np.int32)
    state, place, found = machine.start([inputs]), [0, 0, 0], [[], [], []]
    while any(len(f) < len(t) for f, t in zip(found, todo, strict=True)):
        state = advance(state, (), np.int32(4))
        again = np.zeros(3, bool)
        for member in np.flatnonzero(np.asarray(machine.halted(state))):
            if len(found[member]) < len(todo[member]):
                found[member].append(int(machine.results(state)[0][member]))
                place[member] += 1
                if place[member] < len(todo[member]):
                    again[member], inputs[member] = True, todo[member][place[member]]
        state = restart(state, again, [inputs])
    assert found == [[2, 5, 1], [34], [1, 1, 8, 3]]


@pytest.mark.parametrize("name", few([e.name for e in EXAMPLES], "fib", "search"))
def test_programs_from_source(name):
    (example,) = (e for e in EXAMPLES if e.name == name)
    members = [example.program(*arguments) for arguments in example.members]
    expected = jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *members)
    batched = jax.tree.map(lambda *leaves: jnp.stack(leaves), *example.members)
    for strategy in ("program_counter", "local_static"):
        results = autobatch(example.program, strategy)(*batched)
        assert jax.tree.structure(results) == jax.tree.structure(expected)
        for result, one in zip(jax.tree.leaves(results), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(np.asarray(result, np.float64), np.asarray(one, np.float64), rtol=2e-5, atol=1e-5)
