"""Utilisation over time: what the picture shows is what can be counted by hand."""

from dataclasses import replace

import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest

from luciole.transforms import ProgramError, autobatch, program

matplotlib.use("agg")


@program(heavy=True)
def leaf(x):
    return jnp.sin(x)


@program
def tree(inner, node, x):
    if not inner[node]:
        return leaf(x + node)
    return tree(inner, 2 * node, x) + tree(inner, 2 * node + 1, x)


@program
def rounds(n):
    x = 1
    while n > 0:
        x = 2 * x
        n = n - 1
    return x


def lopsided():
    """Two members: node 1 has children 2 and 3; 2 is a leaf of the second member, 3 one of the first. Three leaves each."""
    inner = np.zeros((2, 8), bool)
    inner[:, 1] = inner[0, 2] = inner[1, 3] = True
    return inner, np.ones(2, np.int32), np.zeros(2, np.float32)


@pytest.fixture
def axes():
    import matplotlib.pyplot as plt

    yield lambda: plt.subplots()[1]
    plt.close("all")


def shown(ax):
    """The picture's numbers by block, blanks left out."""
    (mesh,) = ax.collections
    names = [label.get_text() for label in ax.get_yticklabels()]
    numbers = np.ma.filled(mesh.get_array(), np.nan).reshape(len(names), -1)
    return {name: row[~np.isnan(row)].tolist() for name, row in zip(names, numbers, strict=True)}


def assert_leaves(stats, ax, expected):
    assert shown(stats.plot(ax))["leaf"] == expected


# Where the recursion stays in the host, a member waits while the other walks a sub-tree that it does not have: all six places of a
# leaf are walked one after the other. With a program counter each is at its own leaf, three times, and once all find that they are done.
LEAVES = {"local_static": [0.5] * 6, "program_counter": [1, 1, 1, 0]}


@pytest.mark.parametrize("strategy", LEAVES)
def test_members_wait_in_one_executor_and_not_in_the_other(strategy, axes):
    stats = autobatch(tree, strategy, unroll=1).stats(*lopsided(), trace=True)
    assert_leaves(stats, axes(), LEAVES[strategy])
    assert stats.trace.tolist() == LEAVES[strategy] and stats.utilisation == np.mean(LEAVES[strategy])
    # The twin: counts that are noted one tick late.
    late = replace(stats, history=replace(stats.history, members=np.roll(stats.history.members, 1, axis=0)))
    with pytest.raises(AssertionError):
        assert_leaves(late, axes(), LEAVES[strategy])


@pytest.mark.slow
@pytest.mark.parametrize("strategy", LEAVES)
def test_the_picture_adds_up(strategy, axes):
    run = autobatch(tree, strategy)
    stats, totals = run.stats(*lopsided(), trace=True), run.stats(*lopsided())
    for number, (name, block) in enumerate(stats.blocks.items()):
        assert block == totals.blocks[name]
        assert (stats.history.executions[:, number].sum(), stats.history.members[:, number].sum()) == (block.executions, block.members)
    whole = shown(stats.plot(axes(), bins=1))
    assert whole == {name: [block.utilisation] for name, block in stats.blocks.items()}


def test_every_block_of_a_loop(axes):
    """One round, three, none: a block before the loop, its body, and what comes after it, once, when all are there."""
    stats = autobatch(rounds, unroll=1).stats(np.array([1, 3, 0], np.int32), trace=True)
    rows = shown(stats.plot(axes()))
    body = rows[str(stats.heavy)]
    assert sum(body) * 3 == pytest.approx(1 + 3)
    assert body == sorted(body, reverse=True)
    assert stats.history.members[0].tolist()[0] == 3
    last = stats.history.members[-1]
    assert last.max() == 3 and stats.history.executions[:, last.argmax()].sum() == 1


def test_many_ticks_are_put_together(axes):
    stats = autobatch(rounds, unroll=1).stats(np.array([1000, 500], np.int32), trace=True)
    ax = stats.plot(axes(), bins=10)
    body = np.array(shown(ax)[str(stats.heavy)])
    assert len(body) == 10 and (body[:4] == 1).all() and (body[6:9] == 0.5).all()
    edges, _ = stats.history.binned(10)
    assert edges[0] == 0 and edges[-1] == len(stats.history.executions)


def test_the_axes_are_labelled(axes):
    stats = autobatch(tree).stats(*lopsided(), trace=True)
    ax = stats.plot(axes())
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("tick", "block")
    assert [label.get_text() for label in ax.get_yticklabels()] == list(stats.blocks)
    assert [label.get_text() for label in ax.get_yticklabels() if label.get_fontweight() == "bold"] == ["leaf"]
    assert ax.figure.axes[-1].get_ylabel() == "active part of the batch"
    assert stats.plot() is not None
    assert autobatch(tree, "local_static").stats(*lopsided(), trace=True).plot(axes()).get_xlabel() == "run of a block"


def test_what_was_not_followed_cannot_be_drawn():
    stats = autobatch(tree).stats(*lopsided())
    assert stats.history is None and stats.trace.size == 0
    with pytest.raises(ProgramError, match="trace=True"):
        stats.plot()
    with pytest.raises(ProgramError, match="bins=0"):
        autobatch(tree).stats(*lopsided(), trace=True).plot(bins=0)


@program
def straight(x):
    return leaf(x) + 1


@pytest.mark.parametrize("strategy", LEAVES)
def test_a_program_without_loops(strategy, axes):
    stats = autobatch(straight, strategy).stats(np.zeros(3, np.float32), trace=True)
    assert stats.heavy is None and stats.utilisation == 1
    assert {value for row in shown(stats.plot(axes())).values() for value in row} == {1}
