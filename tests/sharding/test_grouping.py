"""An index into a split dimension: gathered, taken locally and summed, or purely local where the values of the indices allow it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import luciole
from luciole import sharding as ls

GROUPS, ROWS, DEVICES = 16, 64, 8
RNG = np.random.default_rng(0)
ALPHA = RNG.normal(size=GROUPS).astype(np.float32)
Y = RNG.normal(size=ROWS).astype(np.float32)
SORTED = np.repeat(np.arange(GROUPS, dtype=np.int32), ROWS // GROUPS)
SHUFFLED = RNG.permutation(SORTED)


def loss_and_gradient(alpha, group, y):
    return jax.value_and_grad(lambda alpha: jnp.sum((alpha[group] - y) ** 2))(alpha)


def partitioned(args, values, **options):
    part = ls.partition(loss_and_gradient, args, {"d": DEVICES}, [ls.ManualPartition(values, axis="d")], carry={"1": "alpha"}, **options)
    assert not part.check(compiled=True).unexplained
    for a, b in zip(part(*args), loss_and_gradient(*args), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    return {kind: n for kind, n in part.reports[-1].collectives.items() if n}


BOTH = {"y": 0, "alpha": 0}


@pytest.mark.parametrize(
    ("group", "known", "collectives"),
    [
        (SORTED, (), {"all_gather": 1, "all_reduce": 1, "reduce_scatter": 1}),
        (SHUFFLED, ("group",), {"all_gather": 1, "all_reduce": 1, "reduce_scatter": 1}),
        (SORTED, ("group",), {"all_reduce": 1}),
    ],
)
def test_rows_and_groups_over_one_axis(group, known, collectives):
    assert partitioned((ALPHA, group, Y), BOTH, known=known) == collectives


def test_a_large_table_is_read_where_it_lies_and_a_small_one_is_gathered():
    table = RNG.normal(size=512).astype(np.float32)
    few = RNG.integers(0, 512, ROWS).astype(np.int32)
    assert partitioned((table, few, Y), {"alpha": 0}) == {"all_reduce": 1}
    assert partitioned((ALPHA, SHUFFLED, Y), {"alpha": 0}) == {"all_gather": 1}


def test_what_a_function_closes_over_is_known():
    part = ls.partition(
        lambda alpha, y: loss_and_gradient(alpha, SORTED, y), (ALPHA, Y), {"d": DEVICES}, [ls.ManualPartition(BOTH, axis="d")]
    )
    assert part.reports[-1].collectives["all_reduce"] == 1
    assert part.reports[-1].collectives["all_gather"] == 0
    part.check()


def test_known_numbers_are_held_to():
    part = ls.partition(loss_and_gradient, (ALPHA, SORTED, Y), {"d": DEVICES}, [ls.ManualPartition(BOTH, axis="d")], known=["group"])
    part(ALPHA, SORTED.copy(), Y)
    with pytest.raises(luciole.PartitionError, match="group: its numbers are not those"):
        part(ALPHA, SHUFFLED, Y)
    shape = jax.ShapeDtypeStruct(SORTED.shape, SORTED.dtype)
    with pytest.raises(luciole.PartitionError, match="given as a shape"):
        ls.partition(loss_and_gradient, (ALPHA, shape, Y), {"d": DEVICES}, known=["group"])


def test_sorted_rows_need_no_gather_and_leave_the_density_as_it_was():
    def weighted(alpha, group, y, weight):
        return jax.value_and_grad(lambda alpha: jnp.sum(weight * (alpha[group] - y) ** 2))(alpha)

    uneven = RNG.integers(0, GROUPS, ROWS).astype(np.int32)
    rows = ls.sort_by_group(uneven, GROUPS, DEVICES)
    assert rows.weight.sum() == ROWS
    assert sorted(rows.order[rows.weight == 1]) == list(range(ROWS))
    args = ALPHA, uneven[rows.order], Y[rows.order], rows.weight
    part = ls.partition(weighted, args, {"d": DEVICES}, [ls.ManualPartition(BOTH, axis="d")], known=["group"], carry={"1": "alpha"})
    assert {kind: n for kind, n in part.reports[-1].collectives.items() if n} == {"all_reduce": 1}
    for a, b in zip(part(*args), loss_and_gradient(ALPHA, uneven, Y), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("group", "groups", "message"),
    [
        (SORTED, 17, "17 groups cannot be divided"),
        (SORTED + 1, 16, "groups run from 1 to 16"),
        (SORTED.astype(float), 16, "one integer for each row"),
        (SORTED // 2, 16, "the groups of shard 4 have no row"),
    ],
)
def test_groups_that_cannot_be_sorted(group, groups, message):
    with pytest.raises(luciole.PartitionError, match=message):
        ls.sort_by_group(group, groups, DEVICES)
