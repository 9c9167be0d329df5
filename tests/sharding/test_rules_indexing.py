"""Gathers and scatters on shards: every mode, indices outside of the array, several split dimensions at once."""

from typing import Any

import jax
import numpy as np
import pytest
from jax import lax

from luciole.sharding.rules import factors_of

from .shards import check, check_all, equation, filled, on_shard, parts_of

pytestmark = pytest.mark.strict

MODES = ["promise_in_bounds", "clip", "fill"]
A = filled((4, 6))
INSIDE = np.array([[3], [0], [2], [2], [1], [3]], np.int32)
OUTSIDE = np.array([[3], [-1], [4], [2], [-7], [90]], np.int32)
ROWS = lax.GatherDimensionNumbers((1,), (0,), (0,))
PUT_ROWS = lax.ScatterDimensionNumbers((1,), (0,), (0,))
SCATTERS = {"scatter-add": lax.scatter_add, "scatter-mul": lax.scatter_mul, "scatter-max": lax.scatter_max, "scatter": lax.scatter}


def hows(eqn):
    return sorted(f.how or f.combine or "free" for f in factors_of(eqn))


def taken(mode, operand: Any = A, indices: Any = INSIDE, **more):
    return equation("gather", lambda x, i: lax.gather(x, i, ROWS, (1, x.shape[1]), mode=mode, **more), operand, indices)


@pytest.mark.parametrize("mode", MODES)
def test_rows_taken(mode):
    indices = INSIDE if mode == "promise_in_bounds" else OUTSIDE
    eqn = taken(mode)
    assert hows(eqn) == ["aligned", "free", "free", "masked"]
    check_all(eqn, [A, indices], (2, 3))


@pytest.mark.slow
def test_rows_of_whole_numbers_and_truths():
    for operand in (A.astype(np.int32), A > 0):
        check_all(taken("fill", operand), [operand, OUTSIDE])
    check_all(taken("fill", indices=INSIDE.astype(np.uint8)), [A, np.array([[200], [0], [3], [4], [1], [1]], np.uint8)])
    check_all(taken("fill", fill_value=-1.0), [A, OUTSIDE])


@pytest.mark.slow
def test_two_indexed_dimensions_and_all_factors_at_once():
    numbers = lax.GatherDimensionNumbers((1,), (0, 1), (0, 1))
    operand = filled((4, 6, 2))
    eqn = equation("gather", lambda x, i: lax.gather(x, i, numbers, (1, 1, 2), mode="fill"), operand, np.zeros((8, 2), np.int32))
    indices = np.array([[0, 0], [3, 5], [4, 5], [3, 6], [-1, 2], [2, 3], [1, 4], [1, -1]], np.int32)
    check_all(eqn, [operand, indices])
    together = [f for f in factors_of(eqn) if f.how != "aligned"]
    assert len(together) == 4
    check(eqn, [operand, indices], together, [2, 2, 2, 2])


def test_batched_rows():
    eqn = equation("gather", jax.vmap(lambda x, i: x[i]), filled((2, 4, 6)), np.zeros((2, 4), np.int32))
    assert hows(eqn) == ["aligned", "free", "free", "free", "masked"]
    check_all(eqn, [filled((2, 4, 6)), np.array([[0, 3, 1, 1], [2, 2, 0, 3]], np.int32)[..., None]])


ALIGNED = np.array([[1], [0], [1], [3], [2], [3]], np.int32)


@pytest.mark.parametrize("mode", MODES)
def test_aligned_rows(mode):
    eqn = taken(mode)
    check(eqn, [A, ALIGNED], [f for f in factors_of(eqn) if f.how == "aligned"], [2])
    if mode == "fill":
        outside = np.array([[1], [0], [-3], [3], [70], [4]], np.int32)
        check(eqn, [A, outside], [f for f in factors_of(eqn) if f.how == "aligned"], [2])


def put(name, mode, operand: Any = A, indices: Any = INSIDE):
    return equation(name, lambda x, i, u: SCATTERS[name](x, i, u, PUT_ROWS, mode=mode), operand, indices, filled((6, operand.shape[1])))


@pytest.mark.parametrize("name", ["scatter-add", *(pytest.param(name, marks=pytest.mark.slow) for name in list(SCATTERS)[1:])])
def test_rows_put(name):
    for mode in MODES:
        indices = INSIDE if mode == "promise_in_bounds" else OUTSIDE
        eqn = put(name, mode)
        combined = {"scatter-add": ["sum"], "scatter-max": ["max"]}.get(name, [])
        assert hows(eqn) == sorted(["aligned", "free", *combined, "shifted"])
        updates = filled((6, 6), seed=3)
        if name == "scatter":  # which of several updates of one row is the last is not defined
            indices = np.array([[3], [0], [2], [9], [1], [-1]], np.int32) if mode != "promise_in_bounds" else INSIDE[[0, 1, 2]]
            indices = np.resize(indices, (6, 1)) if mode == "promise_in_bounds" else indices
            updates = np.resize(updates[:3], (6, 6)) if mode == "promise_in_bounds" else updates
            updates = np.broadcast_to(updates[:, :1] * 0 + 2.5, (6, 6)) if mode == "clip" else updates
        check_all(eqn, [A, indices, updates], (2, 3))
        check(eqn, [A, ALIGNED, updates * 0 + 1.5], [f for f in factors_of(eqn) if f.how == "aligned"], [2])


def test_all_factors_of_a_scatter_at_once():
    eqn = put("scatter-add", "fill")
    together = [f for f in factors_of(eqn) if f.how != "aligned"]
    check(eqn, [A, OUTSIDE, filled((6, 6), seed=3)], together, [2, 2, 2])


def test_batched_rows_put():
    operand, updates = filled((2, 4, 6)), filled((2, 6, 6))
    eqn = equation("scatter-add", jax.vmap(lambda x, i, u: x.at[i].add(u)), operand, np.zeros((2, 6), np.int32), updates)
    assert hows(eqn) == ["aligned", "free", "free", "shifted", "sum"]
    check_all(eqn, [operand, np.stack([INSIDE, OUTSIDE]), updates])


def test_padded_indices_are_not_promised_to_be_sorted_or_unique():
    order = np.arange(3, dtype=np.int32)[:, None]
    put_each = equation("scatter-add", lambda x, i, u: x.at[i[:, 0]].add(u, unique_indices=True, indices_are_sorted=True), A, order, A[:3])
    summed = [f for f in factors_of(put_each) if f.combine == "sum"]
    seen = []
    for (_, parts, shapes), where in zip(parts_of(put_each, [A, order, A[:3]], summed, [2]), [(0,), (1,)], strict=True):
        run = jax.make_jaxpr(lambda *parts, where=where, shapes=shapes: on_shard(put_each, parts, shapes, summed, where, [2]))(*parts)
        seen += [eqn.params for eqn in run.eqns if eqn.primitive.name == "scatter-add"]
    assert [(p["unique_indices"], p["indices_are_sorted"]) for p in seen] == [(False, False)] * 2
    check_all(put_each, [A, order, A[:3]], (2, 3))


def test_the_padding_of_an_indexed_dimension_is_never_read_nor_written():
    operand, indices = A[:3], np.array([[3], [2], [-1], [4], [0], [1]], np.int32)
    for mode in ("clip", "fill"):
        check_all(taken(mode, operand), [operand, indices])
        check_all(put("scatter-add", mode, operand), [operand, indices, filled((6, 6))])


def test_indices_that_are_not_aligned_are_found_out():
    eqn = taken("clip")
    with pytest.raises(AssertionError):
        check(eqn, [A, INSIDE], [f for f in factors_of(eqn) if f.how == "aligned"], [2])
