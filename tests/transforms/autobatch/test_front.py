"""Every test program, compiled, equals itself as plain Python."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from luciole.transforms.autobatch import ir
from luciole.transforms.autobatch.front import lower
from luciole.transforms.autobatch.ir import interpret

from .programs import EXAMPLES


def compiled(lowered, arguments):
    """One member through the compiled program."""
    leaves, tree = jax.tree.flatten(arguments)
    assert tree == lowered.in_tree
    main = lowered.program.functions[lowered.program.main]
    values = [jnp.asarray(x, s.dtype) for x, s in zip(leaves, main.parameters, strict=True)]
    return jax.tree.unflatten(lowered.out_tree, interpret(lowered.program, values))


def assert_same(found, expected, tolerance=2e-6):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(x, np.float64), np.asarray(y, np.float64), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.name)
def test_compiled_equals_plain_python(example, monkeypatch):
    reached = set()

    def evaluate(block, values):
        reached.add(block.name)
        return run(block, values)

    run = ir.evaluate
    monkeypatch.setattr(ir, "evaluate", evaluate)
    lowered = lower(example.program, *example.members[0])
    for arguments in example.members:
        assert_same(compiled(lowered, arguments), example.program(*arguments))
    assert lowered.program.blocks.keys() == reached  # or the members try less than the program
